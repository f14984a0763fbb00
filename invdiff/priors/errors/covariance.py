r"""The measured covariance of a denoiser's error: products, solves and draws without the network's gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff.cosine_transform import cosine_inverse, cosine_transform
from invdiff.linalg import over_items
from invdiff.priors.errors.frequencies import OCTAVES, hats_like, octaves, smooth
from invdiff.random import Draw

__all__ = ["ErrorCovariance", "ErrorModel", "local_energies", "rotate"]

WIDTHS = (1.0, 1.5, 3.0)  # Pixels over which the energy of each octave but the last is averaged.
EXPONENTS = (-7.0, 5.0)  # Range of the log ratio of local to mean variance; the regression has no data beyond.
UNEVENNESS = 0.5  # Exponent of the local variance in draws.


class ErrorCovariance:
    r"""A covariance per item, diagonal in the cosine basis: :math:`V = C^\top D^\top \operatorname{diag}(v)\, D\, C`.

    Draws may have a variance that depends on the place, octave by octave, with the same spectrum. Products and solves use
    :math:`V`, because they would be too expensive with the covariance of the draws:

    .. math:: V_u = C^\top \Big( \sum_k U_k^{1/2} D^\top \operatorname{diag}(b_k^2\, v)\, D\, U_k^{1/2} \Big) C

    Args:
        colors: :math:`C`, orthonormal rows, ``(C, C)``.
        variances: :math:`v \ge 0`, the variance of every cosine coefficient of every color, ``(B, C, H, W)``.
        places: Gives the root :math:`u_k^{1/2} \ge 0` of the diagonal of :math:`U_k`, where :math:`u_k` is near 1 on average,
            ``(B, C, H, W)``, for octave :math:`k`. Default: 1, so that :math:`V_u = V`.
    """

    def __init__(self, colors: Tensor, variances: Tensor, places: Callable[[int], Tensor] | None = None) -> None:
        self.colors, self.variances, self.places = colors, variances, places

    def product(self, v: Tensor) -> Tensor:
        r"""Return :math:`V v`, ``(B, C, H, W)``."""
        return self._image(self.variances * cosine_transform(rotate(self.colors, v)))

    def solve(self, v: Tensor, noise: Tensor) -> Tensor:
        r"""Return :math:`(V + s I)^{-1} v`, ``(B, C, H, W)``, for ``noise`` :math:`s > 0`."""
        return self._image(cosine_transform(rotate(self.colors, v)) / (self.variances + noise))

    def draw(self, draw: Draw) -> Tensor:
        r"""Return a draw of :math:`\mathcal{N}(0, V_u)` for every item, from the standard normal variates of ``draw``."""
        # White noise of pixels, not of coefficients: where images overlap, equal noise gives draws that are nearly equal.
        scale, event = self.variances.sqrt(), self.variances.shape[1:]
        if self.places is None:
            return self._image(scale * cosine_transform(draw(event)))
        drawn = torch.zeros_like(scale)
        for octave, window in enumerate(octaves(event[-2], event[-1], scale)):  # One at a time, for the memory of large images.
            part = cosine_inverse(cosine_transform(draw(event)).mul_(scale).mul_(window))
            drawn.addcmul_(self.places(octave), part)
        return rotate(self.colors.mT, drawn)

    @property
    def stationary(self) -> ErrorCovariance:
        """The covariance :math:`V` of products and solves, without the places of draws, which take the memory of two images."""
        return ErrorCovariance(self.colors, self.variances)

    @property
    def level(self) -> Tensor:
        """Mean variance of an image entry, ``(B,)``."""
        return self.variances.flatten(1).mean(1)

    def _image(self, coefficients: Tensor) -> Tensor:
        return rotate(self.colors.mT, cosine_inverse(coefficients))


@dataclass(frozen=True, eq=False)
class ErrorModel:
    r"""Model of the error :math:`x_0 - E[x_0 | x_t]` of a denoiser, fitted to clean images.

    At noise-to-signal ratio :math:`\varsigma` the error of an image has the covariance

    .. math:: V = C^\top D^\top \operatorname{diag}\Big( v_c(f) \sum_k b_k(f)^2\, m_{kc} \Big) D\, C, \qquad
        v_c(f) = \frac{S_c(f)\, \varsigma^2}{S_c(f) + \varsigma^2}

    :math:`D` is the cosine transform, which extends an image by its mirror image, :math:`C` the principal colors of the error,
    and :math:`v` the mean square of its coefficients. It is stored as the spectrum :math:`S` of the Gaussian prior whose
    denoiser has the same error, level by level. For a stationary Gaussian prior, :math:`S` is the same at all levels. Beyond
    the measured levels the nearest is used, so that :math:`v` falls like :math:`\varsigma^2` below them and stays below
    :math:`S` above them. Between levels and frequencies :math:`\log S` is interpolated. Frequencies are in cycles per pixel,
    so that one table serves images of every size.

    :math:`b_k` are four octaves whose squares sum to 1, and :math:`m_{kc}` is the error variance of this image in octave
    :math:`k` and color :math:`c` relative to the average image: the mean over its places of
    :math:`h_{kc} = \exp(w_0 + \sum_j w_j \log(E_j + \epsilon))`, with :math:`E_j` the local energies of the octaves of
    :math:`\hat x_0`. In draws, the local variance of an octave is scaled by :math:`u = h^{1/2}` divided by its mean: errors
    concentrate on edges and texture, and a uniform draw would have too much variance in the sky and too little in the trees.
    (The exponent is one half, because solves assume that :math:`V` is the same everywhere: with exponent one, scattered pixels
    lose 0.1 dB more. ``docs/methods.md`` has the figures.)

    Attributes:
        levels: Measured ratios :math:`\varsigma`, increasing, ``(L,)`` float64.
        frequencies: Frequencies of the table, in cycles per pixel, increasing, ``(G,)`` float64.
        colors: :math:`C`, ``(C, C)``, the direction of the largest error first.
        log_signal: :math:`\log S`, ``(L, C, G, G)``, vertical frequencies first.
        weights: :math:`w`, ``(L, features, OCTAVES * C)``.
        floors: :math:`\epsilon`, ``(L,)``.
        facts: Entries for reports, such as the images.
    """

    levels: Tensor
    frequencies: Tensor
    colors: Tensor
    log_signal: Tensor
    weights: Tensor
    floors: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, channels, size = len(self.levels), len(self.colors), len(self.frequencies)
        features = 1 + len(WIDTHS) * min(channels, 2)
        expected = {
            "levels": (count,),
            "frequencies": (size,),
            "colors": (channels, channels),
            "log_signal": (count, channels, size, size),
            "weights": (count, features, OCTAVES * channels),
            "floors": (count,),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or not tensor.numel():
                raise ValueError(f"ErrorModel: {name} must have shape {shape}, got {tuple(tensor.shape)}.")
            if not tensor.isfinite().all():
                raise ValueError(f"ErrorModel: {name} must be finite.")
        for name in ("levels", "frequencies"):
            values = getattr(self, name)
            if not (values[0] > 0 and (values.diff() > 0).all()):
                raise ValueError(f"ErrorModel: {name} must be positive and increasing.")
        if not (self.floors > 0).all():
            raise ValueError("ErrorModel: floors must be positive.")
        if not torch.allclose(self.colors @ self.colors.mT, torch.eye(channels).to(self.colors), atol=1e-4):
            raise ValueError("ErrorModel: colors must be orthonormal.")

    @torch.no_grad()
    def at(self, x0_hat: Tensor, ratio: float, weight: Tensor | None = None) -> ErrorCovariance:
        r"""Return the covariance of the error of each estimate, in the dtype and on the device of ``x0_hat``.

        Args:
            x0_hat: Estimates, ``(B, C, H, W)``, of any size.
            ratio: Noise-to-signal ratio :math:`\varsigma` of the noisy states of these estimates.
            weight: Weight of each place in :math:`m`, nonnegative, ``(B, 1 or C, H, W)``. By default, and for items whose
                weights are all 0, all places have the same weight.
        """
        if x0_hat.ndim != 4 or x0_hat.shape[1] != len(self.colors):
            raise ValueError(
                f"ErrorModel: measured on images of {len(self.colors)} channels, expected (B, {len(self.colors)}, H, W), got "
                f"{tuple(x0_hat.shape)}."
            )
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ErrorModel: ratio must be positive and finite, got {ratio}.")
        height, width = x0_hat.shape[-2:]
        rows, columns = (hats_like(side, self.frequencies, x0_hat) for side in (height, width))
        signal = (rows @ self._between(self.log_signal, ratio, x0_hat) @ columns.mT).exp()
        local, variances, norms = self._local(x0_hat, ratio), torch.zeros_like(x0_hat), list[Tensor]()
        counts = self._counts(x0_hat, weight)
        for octave, window in enumerate(octaves(height, width, x0_hat)):
            places = local(octave).exp_()
            variances.addcmul_(window.square(), _mean(places, counts))
            norms.append(_mean(places.pow_(UNEVENNESS), counts).sqrt())
        variances.mul_(signal * ratio**2 / (signal + ratio**2))

        def roots(octave: int) -> Tensor:
            return local(octave).mul_(UNEVENNESS / 2).exp_().div_(norms[octave])

        return ErrorCovariance(self.colors.to(x0_hat), variances, roots)

    def hardness(self, x0_hat: Tensor, ratio: float, weight: Tensor | None = None) -> Tensor:
        r"""Return :math:`m`, ``(B, OCTAVES, C)``; see :meth:`at` for the arguments."""
        local, counts = self._local(x0_hat, ratio), self._counts(x0_hat, weight)
        return torch.stack([_mean(local(octave).exp(), counts)[..., 0, 0] for octave in range(OCTAVES)], 1)

    def _local(self, x0_hat: Tensor, ratio: float) -> Callable[[int], Tensor]:
        r"""Return the function that gives :math:`\log h` in an octave, ``(B, C, H, W)``."""
        colors, weights = self.colors.to(x0_hat), self._between(self.weights, ratio, x0_hat)
        floor = self._between(self.floors.log(), ratio, x0_hat).exp()
        logs = local_energies(x0_hat, colors).add_(floor).log_()

        def local(octave: int) -> Tensor:
            own = weights[:, octave * len(colors) : (octave + 1) * len(colors)]
            exponents = (own[1:].mT.contiguous() @ logs.flatten(2)).add_(own[0, :, None])
            return exponents.clamp_(*EXPONENTS).reshape(x0_hat.shape)

        return local

    def _counts(self, x0_hat: Tensor, weight: Tensor | None) -> Tensor | None:
        """Return the weight of each place, ``(B, 1, H, W)``; ``None``: equal weights."""
        if weight is None:
            return None
        counts = weight.to(x0_hat).expand(len(x0_hat), -1, *x0_hat.shape[-2:]).mean(1, keepdim=True)
        return torch.where(over_items((counts > 0).flatten(1).any(1), counts), counts, 1)

    def to(self, device: torch.device | str | None = None) -> ErrorModel:
        """Return the model on ``device``. What only the CPU reads, the levels and frequencies of the tables, stays there."""
        tables = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {
            name: value.to("cpu" if name in ("levels", "frequencies") else device) for name, value in tables.items()
        }
        return dataclasses.replace(self, **moved)

    def _between(self, table: Tensor, ratio: float, like: Tensor) -> Tensor:
        """Interpolate a table ``(L, ...)`` linearly in the logarithm of the ratio, constant beyond the ends."""
        place = float(np.interp(np.log(ratio), self.levels.log().cpu().numpy(), np.arange(len(self.levels))))
        below = int(place)
        above = min(below + 1, len(self.levels) - 1)
        return torch.lerp(table[below].to(like), table[above].to(like), place - below)


def _mean(local: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean of ``(B, C, H, W)`` over the places, weighted by ``counts``, ``(B, C, 1, 1)``."""
    if counts is None:
        return local.mean((-2, -1), keepdim=True)
    return (counts * local).sum((-2, -1), keepdim=True) / counts.sum((-2, -1), keepdim=True)


def rotate(colors: Tensor, x: Tensor) -> Tensor:
    """Return the components of images ``(B, C, H, W)`` along the rows of ``colors``."""
    return (colors @ x.flatten(2)).reshape(len(x), -1, *x.shape[-2:])


def local_energies(x: Tensor, colors: Tensor) -> Tensor:
    """Return the local energies of images ``(B, C, H, W)`` in every octave but the last, ``(B, features, H, W)``.

    Each octave has the energy of the first color, followed by that of all other colors together.
    """
    coefficients, bands = cosine_transform(rotate(colors, x)), octaves(x.shape[-2], x.shape[-1], x)
    found = []
    for band, width in zip(bands, WIDTHS, strict=False):
        energy = cosine_inverse(band * coefficients).square_()
        parts = [energy[:, :1], *([energy[:, 1:].sum(1, keepdim=True)] if len(colors) > 1 else [])]
        found.append(smooth(torch.cat(parts, 1), width))
    return torch.cat(found, 1)
