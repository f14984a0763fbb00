"""Training settings: everything besides the images that determines the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from invdiff.training.data import FLIPS

__all__ = ["Settings", "Stage"]


class Stage(NamedTuple):
    """The batch of crops of a step.

    Attributes:
        batch: Number of crops, over all devices together.
        crop: Side of the crops in pixels.
        late: Whether they are the larger crops of the last third, which get high noise levels more often.
    """

    batch: int
    crop: int
    late: bool


@dataclass(frozen=True)
class Settings:
    """Training settings: everything besides the images that determines the weights.

    Attributes:
        steps: Total number of optimizer steps.
        batch: Crops per step, over all devices together.
        crop: Side of the crops in pixels.
        rate: Peak learning rate.
        widths: Features of the network per resolution, see :class:`~invdiff.priors.UNet`.
        blocks: Blocks of the network per resolution.
        maps: Noise-map features of the network, 0 for none. If above 0, most of the crops get noise with the covariances of
            masks, blurs and decimations; see :mod:`invdiff.training.noise_law`.
        flips: One of ``none``, ``horizontal``, ``all``, see :meth:`invdiff.training.Images.crops`.
        validation: Number of images held out. Default: a tenth of the images, at least 1 and at most 16.
        seed: Random seed of weights, crops and noise.
        bf16: Whether to compute the network in bfloat16; weights, loss and optimizer stay float32.
        sigma_data: Standard deviation of the data on the [-1, 1] scale, for the preconditioning.
        log_sigma_mean: Mean of the logarithm of the noise level in training, which is normally distributed.
        log_sigma_std: Standard deviation of the logarithm of the noise level.
        uniform: Share of the crops whose noise level is drawn log-uniformly from 0.002 to 80 instead. Without them the network
            output is arbitrary at the ends of this range, which samplers visit.
        late_crop: Side in pixels of the crops in the last third of the steps; their number keeps the pixels per batch about the
            same. The content of large holes is determined at high noise, by distant pixels: therefore a fifth of the noise
            levels of these crops is drawn from 1 to 80. Default: ``crop`` for all steps.
        init: Name of the prior to start from; only recorded.
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
            raise ValueError(f"train: maps must be a non-negative integer (0 for none), got {self.maps!r}.")
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
        """The crops of the first two thirds of the steps, and of the last third."""
        first = Stage(self.batch, self.crop, False)
        if self.late_crop is None:
            return first, first
        return first, Stage(max(1, round(self.batch * (self.crop / self.late_crop) ** 2)), self.late_crop, True)

    def stage(self, step: int) -> Stage:
        """Return the batch of crops of a step."""
        return self.stages[3 * step >= 2 * self.steps]

    @property
    def largest_crop(self) -> int:
        """Smallest side that an image may have, in pixels."""
        return max(stage.crop for stage in self.stages)

    def plain(self) -> dict[str, Any]:
        """Return the settings as a dictionary of plain Python data."""
        return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in asdict(self).items()}

    def differences(self, theirs: Mapping[str, Any]) -> list[str]:
        """Describe the settings that differ from the plain settings of another run, except ``steps``.

        Settings missing from a run of an earlier version are taken to have their defaults.
        """
        known = {field.name: field.default for field in fields(self)} | dict(theirs)
        return [f"{n} was {known[n]}, is {value}" for n, value in self.plain().items() if n != "steps" and known[n] != value]
