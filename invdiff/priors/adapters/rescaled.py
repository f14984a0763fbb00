"""A prior of images in another range than [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.score_model import ScoreModel
from invdiff.schedules import Schedule

__all__ = ["Rescaled"]


class Rescaled(ScoreModel):
    r"""A prior of images in the range :math:`[l, h]`, as a prior of images in [-1, 1].

    With :math:`u = a x + b`, :math:`a = (h - l) / 2` and :math:`b = (h + l) / 2`, noise on :math:`x` is smaller than noise on
    :math:`u` by the factor :math:`a`, so that both have the same times:

    .. math:: x_t = \alpha_t x_0 + \frac{\sigma_t}{a} \varepsilon \quad\Leftrightarrow\quad
        u_t = a x_t + \alpha_t b = \alpha_t u_0 + \sigma_t \varepsilon, \qquad
        E[x_0 | x_t] = \frac{E[u_0 | u_t] - b}{a}

    Args:
        score: The prior of :math:`u`, such as a network trained on images in [0, 1].
        data_range: :math:`(l, h)`, the values of black and white for ``score``.

    Raises:
        ValueError: If :math:`l < h` does not hold, or one of them is not finite.
    """

    def __init__(self, score: ScoreModel, data_range: Sequence[float]) -> None:
        try:
            low, high = (math.fsum([end]) for end in data_range)  # Unlike float(), refuses text.
        except (TypeError, ValueError):
            raise ValueError(f"Rescaled: data_range must be two numbers such as (0, 1), got {data_range!r}.") from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Rescaled: data_range must be two finite numbers, the smaller one first, got {data_range!r}.")
        self.score_model, self.data_range = score, (low, high)
        self.factor, self.offset = (high - low) / 2, (high + low) / 2
        self.schedule, self.event_shape, self.notes = (
            ScaledNoise(score.schedule, 1 / self.factor),
            score.event_shape,
            score.notes,
        )
        self.batched, self.learned, self.widest_hole, self.reach = score.batched, score.learned, score.widest_hole, score.reach
        self.windowed = score.windowed

    def _summary(self) -> Sequence[str]:
        return (f"{self.data_range[0]:g} to {self.data_range[1]:g}", repr(self.score_model))

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, _ = self.levels(t, x_t)
        return (self.score_model.denoise(self.factor * x_t + alpha_t * self.offset, t) - self.offset) / self.factor

    def to(self, device: torch.device | str | None = None) -> Rescaled:
        return Rescaled(self.score_model.to(device), self.data_range)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"data_range": list(self.data_range)}


class ScaledNoise(Schedule):
    r"""The path :math:`(\alpha_t, f \sigma_t)`.

    Args:
        schedule: :math:`t \mapsto (\alpha_t, \sigma_t)`.
        factor: :math:`f > 0`.
    """

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self.inner, self.factor = schedule, factor
        self.t_min, self.t_max = schedule.t_min, schedule.t_max

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = self.inner.forward(t)
        return alpha_t, self.factor * sigma_t

    def inverse(self, ratio: Tensor) -> Tensor:
        return self.inner.inverse(ratio / self.factor)
