"""What decides the weights of a training, besides the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from invdiff.training.data import FLIPS

__all__ = ["Settings", "Stage"]


class Stage(NamedTuple):
    """What the crops of a step are.

    Attributes:
        batch: How many, over all devices together.
        crop: Their side in pixels.
        late: Whether they are the larger ones of the last third, which see more high noise.
    """

    batch: int
    crop: int
    late: bool


@dataclass(frozen=True)
class Settings:
    """What decides the weights, besides the images.

    Attributes:
        steps: Optimiser steps in all.
        batch: Crops per step, over all devices together.
        crop: Side of the crops in pixels.
        rate: Largest learning rate.
        widths: Features of the network per resolution, see :class:`~invdiff.priors.UNet`.
        blocks: Its blocks per resolution.
        maps: Its features of maps of noise. Above 0, most of the crops are seen through masks, blurs and decimations; see
            :mod:`invdiff.training.noise_law`.
        flips: One of ``none``, ``horizontal``, ``all``, see :meth:`Images.crops`.
        validation: Images held out. Default: a tenth, from 1 to 16.
        seed: Of weights, crops and noise.
        bf16: Compute the network in bfloat16; weights, loss and optimiser stay float32.
        sigma_data: Standard deviation of the data on [-1, 1], for the preconditioning.
        log_sigma_mean: Mean of the normal law of the logarithm of the noise level in training.
        log_sigma_std: Its standard deviation.
        uniform: Share of the crops whose level is drawn evenly over the logarithms from 0.002 to 80 instead: without them the
            network answers the ends of the range, which samplers visit, with anything.
        late_crop: Side of the crops in the last third of the steps, as many as have about the pixels of ``batch`` of the
            others. What a large hole holds is decided at high noise, by what lies far away: so a fifth of their levels is drawn
            from 1 to 80. Default: ``crop`` to the end.
        init: Name of the prior to start from; for the record.
    """

    steps: int
    batch: int = 16
    crop: int = 64
    rate: float = 3e-3
    widths: Sequence[int] = (32, 64, 128, 192, 256)
    blocks: Sequence[int] = (1, 1, 1, 2, 2)
    maps: int = 0
    flips: str = "horizontal"
    validation: int | None = None
    seed: int = 0
    bf16: bool = False
    sigma_data: float = 0.5
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    uniform: float = 0.15
    late_crop: int | None = None
    init: str | None = None

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in ("steps", "batch", "crop")}
        whole |= {name: getattr(self, name) or 1 for name in ("validation", "late_crop")}
        for name, number in whole.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"train: {name} must be a whole number of at least 1, got {number!r}.")
        if isinstance(self.maps, bool) or not isinstance(self.maps, int) or self.maps < 0:
            raise ValueError(f"train: maps must be a number of features, 0 for none, got {self.maps!r}.")
        positive = {name: getattr(self, name) for name in ("rate", "sigma_data", "log_sigma_std")}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"train: {name} must be positive, got {value!r}.")
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"train: uniform must lie in [0, 1], got {self.uniform}.")
        if self.flips not in FLIPS:
            raise ValueError(f"train: unknown flips {self.flips!r}, expected one of {', '.join(FLIPS)}.")
        if self.validation == 0 or self.seed < 0:
            raise ValueError(f"train: expected validation >= 1 and seed >= 0, got {self.validation} and {self.seed}.")
        if self.late_crop is not None and self.late_crop < self.crop:
            raise ValueError(f"train: late_crop must be at least the crop of {self.crop} pixels, got {self.late_crop}.")

    @property
    def stages(self) -> tuple[Stage, Stage]:
        """The crops of the first two thirds of the steps, and those of the last."""
        first = Stage(self.batch, self.crop, False)
        if self.late_crop is None:
            return first, first
        return first, Stage(max(1, round(self.batch * (self.crop / self.late_crop) ** 2)), self.late_crop, True)

    def stage(self, step: int) -> Stage:
        """Return what the crops of a step are."""
        return self.stages[3 * step >= 2 * self.steps]

    @property
    def largest_crop(self) -> int:
        """Side that every image must have at least, in pixels."""
        return max(stage.crop for stage in self.stages)

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in asdict(self).items()}

    def differences(self, theirs: Mapping[str, Any]) -> list[str]:
        """Return in words what is not as in the plain settings of another run; the number of steps may differ.

        What a run of an earlier version did not know of, it did not do.
        """
        known = {field.name: field.default for field in fields(self)} | dict(theirs)
        return [f"{n} was {known[n]}, is {value}" for n, value in self.plain().items() if n != "steps" and known[n] != value]
