"""Gray images from a color prior, and images of any number of channels from a gray prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.priors.score_model import ScoreModel

__all__ = ["Gray", "PerChannel"]


class Gray(ScoreModel):
    r"""A color prior restricted to gray images.

    A gray image :math:`g_t` with noise-to-signal ratio :math:`\varsigma_t`, repeated in C channels, has noise only along
    :math:`(1, \dots, 1)`, with ratio :math:`\sqrt C \varsigma_t`, and no color noise. The prior is evaluated at that level,
    which is correct for the brightness and at which it infers that there is no color. The mean over its channels is returned.
    Levels above the largest of the schedule are clamped to it. At :math:`\varsigma_t` instead, a network mistakes noise that
    is equal in all channels for texture.

    Args:
        score: A prior of images ``(C, H, W)``, C > 1.

    Raises:
        ValueError: If the prior is not for such images.
    """

    def __init__(self, score: ScoreModel) -> None:
        event = score.event_shape
        if event is None or len(event) != 3 or event[0] in (None, 1):
            raise ValueError(f"Gray: needs a prior of images (C, H, W) of two channels or more, got one of shape {event}.")
        self.score_model, self.schedule, self.event_shape, self.reach = score, score.schedule, (1, *event[1:]), score.reach
        self.channels, self.learned, self.windowed = int(event[0] or 0), score.learned, score.windowed
        self.widest_hole = score.widest_hole

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model),)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, _ = self.levels(t, x_t)
        largest = self.schedule.ratio(self.schedule.t_max)
        ratio = (math.sqrt(self.channels) * self.schedule.ratio(t)).minimum(largest.to(torch.as_tensor(t).device))
        asked = self.schedule.time(ratio)
        alpha, _ = self.levels(asked, x_t)
        colored = (alpha / alpha_t * x_t).expand(-1, self.channels, -1, -1)
        return self.score_model.denoise(colored, asked).mean(1, keepdim=True)

    def to(self, device: torch.device | str | None = None) -> Gray:
        return Gray(self.score_model.to(device))

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"gray": True}


class PerChannel(ScoreModel):
    """A prior of images with independent channels, each distributed as under a gray prior.

    Args:
        score: A prior of images ``(1, H, W)``.

    Raises:
        ValueError: If the prior is not for such images.
    """

    def __init__(self, score: ScoreModel) -> None:
        event = score.event_shape
        if event is None or len(event) != 3 or event[0] != 1:
            raise ValueError(f"PerChannel: needs a prior of images (1, H, W), got one of shape {event}.")
        self.score_model, self.schedule, self.event_shape, self.reach = score, score.schedule, (None, *event[1:]), score.reach
        self.learned, self.widest_hole, self.windowed = score.learned, score.widest_hole, score.windowed

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model),)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        times = torch.as_tensor(t)
        if times.ndim:
            times = over_items(times, x_t).expand(*x_t.shape[:2], 1, 1).flatten()
        return self.score_model.denoise(x_t.flatten(0, 1).unsqueeze(1), times).reshape(x_t.shape)

    def to(self, device: torch.device | str | None = None) -> PerChannel:
        return PerChannel(self.score_model.to(device))

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"per_channel": True}
