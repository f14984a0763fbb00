"""Magnetic resonance imaging: undersampled Fourier transforms of a complex image, for one or several coils."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from invdiff.linalg import over_items

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.seeds import seeded
from ..core.svd import SVD
from ..core.validation import image_shape
from ..sampling.mask import Mask
from .fourier import CenteredFourier, as_complex

__all__ = ["MRI", "CoilSVD", "FourierSVD", "birdcage_maps", "cartesian_mask"]


class MRI(LinearOperator):
    r"""Undersampled k-space of a complex image, for one coil or several coils with sensitivity maps.

    .. math:: y_c = M\, F (s_c \odot x) + n_c, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    with :math:`F` the centered unitary Fourier transform, ``fftshift(fft2(ifftshift(x), norm="ortho"))``, as in fastMRI.
    Frequency 0 is at ``(H // 2, W // 2)``, in ``y`` and in the mask.

    ``x`` is ``(B, 2, H, W)``, with the real and the imaginary part as channels. ``y`` is ``(B, coils, H, W, 2)``, with the real
    and the imaginary part along the last axis, and one coil if there are no maps. The adjoint refers to these real numbers, and
    each of them has noise of standard deviation :math:`\sigma_y`. Frequencies that are not measured are exactly 0 in ``y`` and
    have no noise. Input values in their place are ignored. ``dof`` is twice the number of measured frequencies, times the
    coils.

    ============================= ========================================================== =================
    coils and mask                ``solve``                                                  ``svd``
    ============================= ========================================================== =================
    one coil, no map              closed form: :math:`A A^\top = M`, :math:`A^+ = A^\top`    at any size
    any maps, all frequencies     closed form: :math:`s s^*` pixel by pixel                  at any size
    any maps, some frequencies    iterative                                                  small images only
    ============================= ========================================================== =================

    Args:
        in_shape: ``(2, H, W)``.
        mask: 1 (or True) for measured frequencies, 0 for the others, shape ``(H, W)`` or broadcastable to it: a mask ``(W,)``
            selects whole columns. See ``cartesian_mask``.
        coil_maps: Sensitivities :math:`s_c`, complex, shape ``(coils, H, W)``. See ``birdcage_maps``. ``None``: one coil with
            :math:`s = 1` everywhere.
        sigma_y: Noise standard deviation of the real and of the imaginary part, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        mask: Boolean, ``(H, W)``.
        coil_maps: Complex128, ``(coils, H, W)``, or ``None``.

    Raises:
        ValueError: If ``in_shape`` does not have two channels, the mask holds anything but 0 and 1, measures nothing or does
            not broadcast, or the maps have another shape, are not finite or are 0 everywhere.

    References:
        Pruessmann et al., SENSE, 1999, https://doi.org/10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S
        Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        mask: Tensor | np.ndarray,
        *,
        coil_maps: Tensor | np.ndarray | None = None,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = image_shape("MRI", in_shape)
        if channels != 2:
            raise ValueError(f"MRI: in_shape must be (2, H, W), real and imaginary part, got {(channels, height, width)}.")
        self.mask = Mask(mask, (height, width)).mask
        self.coil_maps = None if coil_maps is None else _checked_maps(coil_maps, height, width)
        self.fourier = CenteredFourier(height, width, image_weights=self.coil_maps, frequency_weights=self.mask.double())
        self.coils = None if self.coil_maps is None else CoilSVD(self.coil_maps)
        self.closed_form = self.coils is None or bool(self.mask.all())
        self.gram_scale = 1.0 if self.coil_maps is None else None
        self.in_shape = channels, height, width
        self.out_shape = 1 if self.coil_maps is None else len(self.coil_maps), height, width, 2
        self.noise = noise_of(sigma_y, noise)

    @property
    def dof(self) -> int:
        return 2 * self.out_shape[0] * int(self.mask.sum())

    def forward(self, x: Tensor) -> Tensor:
        image = torch.complex(x[:, 0], x[:, 1]).unsqueeze(1)
        return torch.view_as_real(self.fourier.forward(image))

    def keep_measured(self, y: Tensor) -> Tensor:
        return torch.view_as_real(self._measured(y))

    def adjoint(self, y: Tensor) -> Tensor:
        return _as_channels(self.fourier.adjoint(self._measured(y)).sum(1))

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self.coils is None:
            lam = over_items(lam, v[..., 0]) if isinstance(lam, Tensor) else lam
            return torch.view_as_real(pseudo_divide(as_complex(v), self.mask.to(v), lam))
        if self.closed_form:
            return self.coils.solve(v, lam)
        measured, lam = self.keep_measured(v), over_items(lam, v) if isinstance(lam, Tensor) else lam
        return super().solve(measured, lam) + pseudo_divide(v - measured, v.new_zeros(()), lam)

    def pinv(self, y: Tensor) -> Tensor:
        if self.coils is None:
            return self.adjoint(y)
        return pseudo_divide(self.adjoint(y), self.coils.gram.to(y), 0.0) if self.closed_form else super().pinv(y)

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        if self.coils is None or not self.closed_form:
            return super().prox(z, y, rho)
        # Avoids the component of solve outside the range of A, which is large for a small rho.
        rho = over_items(rho, z) if isinstance(rho, Tensor) else rho
        return z + pseudo_divide(self.adjoint(y - self.forward(z)), self.coils.gram.to(z), rho)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self.coils is None or self.closed_form or self._small:
            return self.solve(v, lam)
        # As if all frequencies were measured, which halves the number of iterations. Unmeasured entries are divided by lam.
        measured, lam = self.keep_measured(v), over_items(lam, v) if isinstance(lam, Tensor) else lam
        return self.keep_measured(self.coils.solve(measured, lam)) + pseudo_divide(v - measured, v.new_zeros(()), lam)

    def _measured(self, y: Tensor) -> Tensor:
        return torch.where(self.mask.to(y.device), as_complex(y), 0)  # A product would keep a NaN in a missing entry.

    def _decompose(self) -> SVD | None:
        if self.coil_maps is None:
            return FourierSVD(self.mask).to(self.mask.device, self.fourier.before.dtype.to_real())
        return self.coils if self.closed_form else super()._decompose()


class FourierSVD(SVD):
    r"""SVD for selected frequencies of a complex image: :math:`V^\top = F`, with :math:`s = 1` if measured, else 0.

    Coordinates have the layout of the image: frequency 0 in the middle, the real and the imaginary part as channels.

    Args:
        mask: Mask of the measured frequencies, boolean, ``(H, W)``.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape, self._values, self.fourier = (2, *mask.shape), mask.double(), CenteredFourier(*mask.shape)

    def analyze(self, x: Tensor) -> Tensor:
        return _as_channels(self.fourier.forward(torch.complex(x[:, 0], x[:, 1])))

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return _as_channels(self.fourier.adjoint(torch.complex(x_bar[:, 0], x_bar[:, 1])))

    def _rotate(self, y: Tensor) -> Tensor:
        return _as_channels(as_complex(y)[:, 0])


class CoilSVD(SVD):
    r"""SVD for fully sampled multi-coil data: :math:`V = I`, with :math:`s = (\sum_c |s_c|^2)^{1/2}` at each pixel.

    Args:
        maps: Sensitivities :math:`s_c`, complex, ``(coils, H, W)``.

    Attributes:
        gram: :math:`\sum_c |s_c|^2`, ``(H, W)``.
    """

    def __init__(self, maps: Tensor) -> None:
        self.maps, self._values = maps, torch.linalg.vector_norm(maps, dim=0)
        self.gram = self._values**2
        self.inverse = torch.where(self._values > 0, 1 / self._values, 0)
        self.shape, self.fourier = (2, *self._values.shape), CenteredFourier(*self._values.shape)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return :math:`(A A^\top + \lambda I)^{-1} v` for ``v`` of shape ``(B, coils, H, W, 2)``."""
        lam = over_items(lam, v[..., 0]) if isinstance(lam, Tensor) else lam
        # At every pixel one direction in the space of coils contains the signal; the others contain only noise.
        images = self.fourier.adjoint(as_complex(v))
        seen = self.combine(images)
        inside = self.scatter(pseudo_divide(seen, self.gram.to(v), lam))
        outside = images - self.scatter(seen)
        outside = outside - self.scatter(self.combine(outside))  # A small lam would amplify rounding errors.
        return torch.view_as_real(self.fourier.forward(inside + pseudo_divide(outside, v.new_zeros(()), lam)))

    def combine(self, images: Tensor) -> Tensor:
        """Project complex coil images ``(B, coils, H, W)`` on the normalized sensitivities: ``(B, 1, H, W)``."""
        return self.inverse.to(images) * (self.maps.to(images).conj() * images).sum(1, keepdim=True)

    def scatter(self, image: Tensor) -> Tensor:
        """Apply the adjoint of ``combine``: multiply an image by the normalized sensitivities."""
        return self.maps.to(image) * (self.inverse.to(image) * image)

    def analyze(self, x: Tensor) -> Tensor:
        return x.clone()

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return x_bar.clone()

    def _rotate(self, y: Tensor) -> Tensor:
        return _as_channels(self.combine(self.fourier.adjoint(as_complex(y)))[:, 0])


def cartesian_mask(height: int, width: int, *, acceleration: float, center_fraction: float, seed: int) -> Tensor:
    """Return a mask of whole k-space columns: the low frequencies in the middle, and others chosen at random.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels. Columns are the lines of k-space that are measured or skipped.
        acceleration: Acceleration factor R, at least 1: one in R columns is measured. It is exact up to rounding to whole
            columns. fastMRI instead decides on each column independently, so that R holds only on average.
        center_fraction: Fraction of all columns that are measured in the middle, from 0 to ``1 / acceleration``. fastMRI uses
            0.08 for an acceleration of 4 and 0.04 for 8.
        seed: Any non-negative integer below 2^63; the same seed gives the same mask.

    Returns:
        Boolean tensor ``(height, width)``, with frequency 0 in the column ``width // 2``.

    Raises:
        TypeError: If ``height``, ``width`` or ``seed`` is not an integer.
        ValueError: If an argument is out of range, or no column is left to measure.

    References:
        Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839
    """
    if operator.index(height) < 1 or operator.index(width) < 1:
        raise ValueError(f"cartesian_mask: height and width must be positive, got {height} and {width}.")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ValueError(f"cartesian_mask: acceleration must be at least 1, got {acceleration}.")
    measured, center = round(width / acceleration), round(width * center_fraction)
    if not 0 <= center <= measured or not measured:
        raise ValueError(
            f"cartesian_mask: an acceleration of {acceleration:g} leaves {measured} of {width} columns, and center_fraction="
            f"{center_fraction:g} asks for {center} of them in the middle. Lower one of the two values."
        )
    first = (width - center + 1) // 2
    columns = torch.zeros(width, dtype=torch.bool)
    columns[first : first + center] = True
    others = torch.cat([torch.arange(first), torch.arange(first + center, width)])
    order = torch.randperm(len(others), generator=seeded("cartesian_mask", seed))
    columns[others[order[: measured - center]]] = True
    return columns.expand(height, width).contiguous()


def birdcage_maps(coils: int, height: int, width: int, *, radius: float = 1.5) -> Tensor:
    r"""Return complex sensitivity maps of coils evenly spaced on a circle around the image.

    .. math:: s_c(z) \propto \frac{z_c}{z_c - z}, \qquad z_c = r\, e^{2 \pi i c / C}, \qquad \sum_c |s_c(z)|^2 = 1

    where :math:`z` is the position of a pixel in the complex plane, with 0 at the center of the image, in units of half the
    longer side. This is the field of straight wires perpendicular to the image: its magnitude decreases with the distance from
    the wire, its phase rotates around the wire, and all wires are in phase at the center. It is a simple, smooth model, not a
    measured coil.

    Args:
        coils: Number of coils :math:`C`, at least 1.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        radius: Radius :math:`r` of the circle, in units of half the longer side. The wires must lie outside the image, which
            :math:`r \ge \sqrt 2` guarantees.

    Returns:
        Complex128 tensor ``(coils, height, width)``.

    Raises:
        ValueError: If a size is not positive, or the circle reaches into the image.

    References:
        Hayes et al., An efficient, highly homogeneous radiofrequency coil, 1985, https://doi.org/10.1016/0022-2364(85)90257-4
    """
    if min(coils, height, width) < 1:
        raise ValueError(f"birdcage_maps: coils, height and width must be positive, got {coils}, {height} and {width}.")
    rows, columns = ((torch.arange(side) - (side - 1) / 2).double() / (max(height, width) / 2) for side in (height, width))
    z = torch.complex(*torch.meshgrid(columns, rows, indexing="xy"))
    if not radius > float(z.abs().max()):
        raise ValueError(
            f"birdcage_maps: the circle must lie outside the image, whose corners are at {float(z.abs().max()):.3g} half sides "
            f"from the center, got radius {radius:g}."
        )
    angles = 2 * torch.pi / coils * torch.arange(coils, dtype=torch.float64)
    wires = torch.polar(torch.full_like(angles, radius), angles).reshape(-1, 1, 1)
    maps = wires / (wires - z)
    normalized: Tensor = maps / torch.linalg.vector_norm(maps, dim=0)
    return normalized


def _checked_maps(coil_maps: Tensor | np.ndarray, height: int, width: int) -> Tensor:
    maps = torch.as_tensor(coil_maps)
    if maps.ndim != 3 or not len(maps) or maps.shape[1:] != (height, width):
        raise ValueError(
            f"MRI: coil_maps must have shape (coils, {height}, {width}) for this image, got {tuple(maps.shape)}. "
            "For one coil without a map omit coil_maps."
        )
    maps = maps.to(torch.complex128, copy=True)
    if not torch.view_as_real(maps).isfinite().all() or not maps.any():
        raise ValueError("MRI: coil_maps must be finite and not 0 everywhere.")
    return maps


def _as_channels(image: Tensor) -> Tensor:
    """Return complex ``(B, H, W)`` as real ``(B, 2, H, W)``."""
    return torch.stack([image.real, image.imag], 1)
