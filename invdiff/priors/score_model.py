"""The one interface of a prior: a denoiser at every time of a schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance
from invdiff.schedules import Schedule

if TYPE_CHECKING:
    from invdiff.priors.errors.covariance import ErrorModel

__all__ = ["ScoreModel"]

DROWNING = 10.0  # times the scale of the prior, the noise hides it: in KL 2.5e-5 nats a direction


class ScoreModel(ABC):
    r"""A prior :math:`p(x_0)`, known through its denoiser along :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`.

    Attributes:
        schedule: :math:`t \mapsto (\alpha_t, \sigma_t)`.
        event_shape: Shape of one item without the batch axis; an axis of any size is ``None``, and so is the whole
            where even the number of axes is free.
        noise_kinds: The kinds of noise, of :data:`invdiff.noise_covariance.NOISE_KINDS`, that :meth:`denoise_pivot` knows
            besides white noise.
        error_model: The covariance of the denoiser's error, where it was measured (:func:`invdiff.priors.measure_error`).
        notes: Lines for its user, such as of something that was found beside its file and left aside.
        batched: Whether every item of a batch has a distribution of its own, as exact posteriors have.
        scale: Largest root mean square of :math:`u^\top x_0` over unit vectors :math:`u`, or a little more, where it is known.
    """

    schedule: Schedule
    event_shape: tuple[int | None, ...] | None = None
    noise_kinds: frozenset[str] = frozenset()
    error_model: ErrorModel | None = None
    notes: tuple[str, ...] = ()
    batched: bool = False
    scale: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._summary())})"

    def _summary(self) -> Sequence[str]:
        """Return what ``repr`` says of the prior."""
        if self.event_shape is None:
            return ("any shape",)
        sides = ", ".join("any" if side is None else str(side) for side in self.event_shape)
        return (f"({sides},)" if len(self.event_shape) == 1 else f"({sides})",)

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return :math:`E[x_0 | x_t]`, differentiable in ``x_t``.

        Args:
            x_t: Noisy items, ``(B, *event)``.
            t: Time, a scalar or one per item ``(B,)``.
        """

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        r"""Return :math:`E[x_0 | \mu]` for :math:`\mu = x_0 + n`, :math:`n \sim \mathcal{N}(0, \Sigma)`.

        Args:
            mu: Noisy items, ``(B, *event)``, without a scale: :math:`\alpha = 1`.
            cov: :math:`\Sigma`, of a kind in ``noise_kinds``.

        Raises:
            ValueError: If the prior does not know noise of this kind.
        """
        known = ", ".join(sorted(self.noise_kinds)) or "none but white noise"
        raise ValueError(f"{type(self).__name__}: does not know {cov.kind} noise, only {known}.")

    @final
    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Return :math:`\nabla \log p_t(x_t) = (\alpha_t E[x_0 | x_t] - x_t) / \sigma_t^2`."""
        alpha_t, sigma_t = self.levels(t, x_t)
        return (alpha_t * self.denoise(x_t, t) - x_t) / sigma_t**2

    @final
    def levels(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`(\alpha_t, \sigma_t)` in the dtype of ``like``, shaped to multiply it."""
        alpha_t, sigma_t = (level.to(like) for level in self.schedule(t))
        if alpha_t.ndim == 0:
            return alpha_t, sigma_t
        return over_items(alpha_t, like), over_items(sigma_t, like)

    @final
    def largest_ratio(self) -> float:
        """Return the noise-to-signal ratio to start from: the schedule's largest, or ten times ``scale`` if that is more.

        What a first state of pure noise lacks is the data seen through it. A schedule that ends before that starts at its end.
        """
        largest = float(self.schedule.ratio(self.schedule.t_max))
        wanted = DROWNING * (self.scale or 0.0)
        if wanted <= largest:
            return largest
        reached = float(self.schedule.ratio(self.schedule.time(wanted)))
        return wanted if math.isclose(reached, wanted, rel_tol=1e-3) else largest

    def to(self, device: torch.device | str | None = None) -> ScoreModel:
        """Return the prior on ``device``; its numbers keep their precision."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what a report should say about this prior."""
        return {"prior": type(self).__name__, "schedule": type(self.schedule).__name__}
