"""The interface of a prior: a denoiser at every time of a noise schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance
from invdiff.schedules import Schedule

if TYPE_CHECKING:
    from invdiff.priors.errors.covariance import ErrorModel

__all__ = ["Reach", "ScoreModel"]

DROWNING = 10.0  # Noise of this many times the prior's scale hides the prior: KL divergence 2.5e-5 nats per direction.


@dataclass(frozen=True)
class Reach:
    """How far a denoiser of images of any size looks, so that a window of an image can be denoised without the rest.

    Attributes:
        context: Pixels around a place beyond which the rest of the image hardly matters: the samples of a window with so many
            pixels around what is missing are those of the whole image, to about a hundredth of their spread.
        stride: The denoiser commutes with shifts by this many pixels: windows begin at multiples of it.
        least: Shortest side of an image that the denoiser takes as it is.
    """

    context: int
    stride: int = 1
    least: int = 1

    def __post_init__(self) -> None:
        if min(self.context, self.stride - 1, self.least - 1) < 0:
            raise ValueError(
                f"Reach: expected a context of 0 or more pixels, and a stride and a least side of 1 or more, got {self}."
            )


class ScoreModel(ABC):
    r"""A prior :math:`p(x_0)`, given by its denoiser along :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`.

    Attributes:
        schedule: :math:`t \mapsto (\alpha_t, \sigma_t)`.
        event_shape: Shape of one item without the batch axis. An axis of any size is ``None``; the whole shape is ``None`` if
            the number of axes is free too.
        noise_kinds: The kinds of noise in :data:`invdiff.noise_covariance.NOISE_KINDS` that :meth:`denoise_pivot` supports
            besides white noise.
        error_model: The covariance of the denoiser's error, if it was measured (:func:`invdiff.priors.measure_error`).
        notes: Messages for the user, such as a file of measured errors that was ignored.
        batched: Whether every item of a batch has its own distribution, as in exact posteriors.
        learned: Whether the denoiser was learned from examples, as a network is, so that it is an approximation. For images the
            recommended settings (:func:`invdiff.posterior.recommended`) are then those that suit networks. Otherwise the
            denoiser is taken to be exact, and they are those whose samples are as exact as possible.
        latent: Whether its items are codes, of which a decoder makes images (:class:`invdiff.priors.LatentPrior`).
        windowed: Whether it may be evaluated on windows of an image (:class:`invdiff.priors.Tiled`). A prior given a small
            version of the whole image may not.
        widest_hole: Width in pixels up to which the prior fills holes in images plausibly, if it is known and limited.
        reach: How far the denoiser looks. ``None``: it is not known, or the whole item may matter, as with attention or
            normalization over all pixels. Only a prior with a reach is evaluated on windows of an image.
        scale: Largest root mean square of :math:`u^\top x_0` over unit vectors :math:`u`, or a slightly larger bound, if known.
    """

    schedule: Schedule
    event_shape: tuple[int | None, ...] | None = None
    noise_kinds: frozenset[str] = frozenset()
    error_model: ErrorModel | None = None
    notes: tuple[str, ...] = ()
    batched: bool = False
    learned: bool = False
    latent: bool = False
    windowed: bool = True
    widest_hole: int | None = None
    reach: Reach | None = None
    scale: float | None = None

    @property
    def image_shape(self) -> tuple[int | None, ...] | None:
        """Shape of one image ``(C, H, W)``, as in ``event_shape``; of a latent prior, that of what is decoded."""
        return self.event_shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._summary())})"

    def _summary(self) -> Sequence[str]:
        """Return the parts of ``repr``."""
        if self.event_shape is None:
            return ("any shape",)
        sides = ", ".join("any" if side is None else str(side) for side in self.event_shape)
        return (f"({sides},)" if len(self.event_shape) == 1 else f"({sides})",)

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Return :math:`E[x_0 | x_t]`, differentiable in ``x_t``.

        Args:
            x_t: Noisy items, ``(B, *event)``.
            t: Time, a scalar or one per item ``(B,)``.
        """

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        r"""Return :math:`E[x_0 | \mu]` for :math:`\mu = x_0 + n`, :math:`n \sim \mathcal{N}(0, \Sigma)`.

        Args:
            mu: Noisy items, ``(B, *event)``, unscaled: :math:`\alpha = 1`.
            cov: :math:`\Sigma`, of a kind in ``noise_kinds``.

        Raises:
            ValueError: If the prior does not support noise of this kind.
        """
        known = ", ".join(sorted(self.noise_kinds)) or "white noise"
        raise ValueError(f"{type(self).__name__}: {cov.kind} noise is not supported, only {known}.")

    @final
    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Return :math:`\nabla \log p_t(x_t) = (\alpha_t E[x_0 | x_t] - x_t) / \sigma_t^2`."""
        alpha_t, sigma_t = self.levels(t, x_t)
        return (alpha_t * self.denoise(x_t, t) - x_t) / sigma_t**2

    @final
    def levels(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`(\alpha_t, \sigma_t)` in the dtype of ``like``, shaped to multiply it."""
        if not isinstance(t, Tensor) or (t.ndim == 0 and t.device.type == "cpu"):
            alpha, sigma = self.schedule.levels(t)
            return like.new_full((), alpha), like.new_full((), sigma)
        alpha_t, sigma_t = (level.to(like) for level in self.schedule(t))
        if alpha_t.ndim == 0:
            return alpha_t, sigma_t
        return over_items(alpha_t, like), over_items(sigma_t, like)

    @final
    def largest_ratio(self) -> float:
        """Return the noise-to-signal ratio at which sampling starts: the schedule's largest, or ten times ``scale`` if larger.

        The first state is pure noise, without a contribution of the data; at this ratio the contribution is negligible. If the
        schedule does not reach ten times ``scale``, its largest ratio is used.
        """
        largest = float(self.schedule.ratio(self.schedule.t_max))
        wanted = DROWNING * (self.scale or 0.0)
        if wanted <= largest:
            return largest
        reached = float(self.schedule.ratio(self.schedule.time(wanted)))
        return wanted if math.isclose(reached, wanted, rel_tol=1e-3) else largest

    def to(self, device: torch.device | str | None = None) -> ScoreModel:
        """Return the prior on ``device``, with unchanged precision."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return the entries of a report about this prior."""
        return {"prior": type(self).__name__, "schedule": type(self.schedule).__name__}
