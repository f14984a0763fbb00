"""Complex images from a gray prior: the real part is a picture, the imaginary part is what is left of the phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.score_model import ScoreModel

__all__ = ["Complex"]


class Complex(ScoreModel):
    r"""A prior of complex images :math:`z = \frac{1}{2} (x + 1 + i v)`, as two channels :math:`(x, v)`.

    The real part is a picture :math:`x` with black, -1, at :math:`z = 0` and white, 1, at :math:`z = 1`; the imaginary part
    :math:`v` is independent of it:

    .. math:: p(x, v) = p_\text{gray}(x)\, \mathcal{N}(v \mid 0, \tau^2 I), \qquad
        E[v_0 | v_t] = \frac{\alpha_t \tau^2}{\alpha_t^2 \tau^2 + \sigma_t^2}\, v_t

    so the denoiser is exactly that of the product. It is meant for images whose phase is nearly known: with a phase
    :math:`\hat\varphi` of the sensitivity maps, :math:`z = |z| e^{i (\varphi - \hat\varphi)}` has a real part near :math:`|z|`,
    which is a picture, and :math:`v \approx 2 |z| (\varphi - \hat\varphi)`. A width for every pixel says that :math:`v` is
    small where the image is dark: twice the magnitude of the image at low resolution, times the error of the phase in radians.
    For :math:`\tau \to 0` it is a prior of real images. That the imaginary part is smooth where the phase is, is not part of
    it.

    Without any knowledge of the phase, ``width=None`` takes :math:`p_\text{gray}(v)` for the imaginary part, whose 0 is then a
    medium gray: twice the cost, and much less is known.

    Args:
        score: A prior of gray images ``(1, H, W)``, or of images of more channels, which :class:`Gray` restricts to gray ones.
        width: :math:`\tau \ge 0`, standard deviation of :math:`v`, one number or one for every pixel, ``(H, W)``; ``None``: as
            another gray image.

    Raises:
        ValueError: If the prior is not for images, or for images of another size than the widths, if its items have
            distributions of their own, or a width is negative.
    """

    def __init__(self, score: ScoreModel, *, width: float | Tensor | None = 0.05) -> None:
        event = score.event_shape
        if event is None or len(event) != 3 or score.batched or score.latent:
            kind = "codes" if score.latent else "items of a batch" if score.batched else f"items of shape {event}"
            raise ValueError(f"Complex: needs a prior of images (C, H, W), got a prior of {kind}.")
        self.width = None if width is None else torch.as_tensor(width, dtype=torch.float64)
        sides: tuple[int | None, ...] = event[1:]
        if self.width is not None:
            if self.width.ndim not in (0, 2) or not bool((self.width.isfinite() & (self.width >= 0)).all()):
                raise ValueError(
                    "Complex: width must be a number of at least 0 or one for every pixel, (H, W), or None for another gray "
                    f"image, got {_shown(self.width)}."
                )
            if self.width.ndim and any(e not in (None, n) for e, n in zip(sides, self.width.shape, strict=True)):
                raise ValueError(f"Complex: got widths for {tuple(self.width.shape)} pixels and a prior of images {sides}.")
            sides = tuple(self.width.shape) or sides
        self.score_model = score if event[0] in (None, 1) else Gray(score)
        self.schedule, self.event_shape, self.notes = score.schedule, (2, *sides), score.notes
        self.learned, self.widest_hole = score.learned, score.widest_hole
        if self.width is None or self.width.ndim == 0:
            self.windowed, self.reach = score.windowed, score.reach
        else:
            self.windowed = False  # a window does not know where it lies
        largest = 0.0 if self.width is None else float(self.width.max())
        self.scale = None if score.scale is None else max(score.scale, largest)

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model), f"width={_shown(self.width)}")

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.width is None:
            return PerChannel(self.score_model).denoise(x_t, t)
        alpha_t, sigma_t = self.levels(t, x_t)
        variance = (self.width**2).to(x_t)
        gain = alpha_t * variance / (alpha_t**2 * variance + sigma_t**2)
        return torch.cat([self.score_model.denoise(x_t[:, :1], t), gain * x_t[:, 1:]], 1)

    def to(self, device: torch.device | str | None = None) -> Complex:
        return Complex(self.score_model.to(device), width=self.width)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"complex": _shown(self.width)}


def _shown(width: Tensor | None) -> float | str | None:
    """Return a width in a few characters."""
    if width is None or width.ndim == 0:
        return None if width is None else float(width)
    return f"0 to {float(width.max()):.3g}, pixel by pixel" if width.numel() else "no pixels"
