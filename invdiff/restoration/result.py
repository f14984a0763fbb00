"""What a restoration leaves: pictures, their spread, and how they were made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.posterior import Posterior
from invdiff.restoration.calibration_file import Spread
from invdiff.restoration.folder import output_folder
from invdiff.restoration.inputs import Measured
from invdiff.restoration.pictures import write

__all__ = ["Restoration"]


@dataclass(frozen=True, eq=False)
class Restoration:
    """Pictures of what a measured image may have looked like, in the channels and the orientation of INPUT.

    Attributes:
        samples: The pictures spanning [-1, 1], ``(N, C, H, W)``, on the CPU.
        posterior: The samples in the channels of the prior, and what they cost.
        measured: What was solved: operator, measurement, and the true image where it is known.
        record: What ``run.json`` holds: settings, digests of files, versions, cost, misfit.
        spread: How the spread is calibrated, and which intervals are wanted, if any.
    """

    samples: Tensor
    posterior: Posterior
    measured: Measured
    record: Mapping[str, Any]
    spread: Spread | None = None

    @cached_property
    def pictures(self) -> Tensor:
        """The posterior samples on the 0..1 scale, not clipped to it, ``(N, C, H, W)``."""
        return (self.samples + 1) / 2

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the pictures, ``(C, H, W)``, on the 0..1 scale."""
        return (self.samples.mean(0) + 1) / 2

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the pictures, ``(C, H, W)``, on the 0..1 scale, calibrated if asked for. NaN for one sample."""
        if len(self.samples) == 1:
            return torch.full_like(self.samples[0], torch.nan)
        return (1.0 if self.spread is None else self.spread.std_factor) * self.samples.std(0) / 2

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the person who runs this."""
        return tuple(self.record["notes"])

    def save(self, folder: str | os.PathLike[str] | None = None, *, overwrite: bool = False, npz: bool = False) -> Path:
        """Write every picture, their mean and spread, a comparison, and ``run.json``: all of them, or nothing.

        Args:
            folder: Where to. Default: ``invdiff-out/NAME-PROBLEM``, numbered if it is taken.
            overwrite: Whether to replace earlier results there.
            npz: Whether to write the samples as floats too, ``posterior.npz``.

        Returns:
            The folder.

        Raises:
            ValueError: If the folder holds files already.
            OSError: If it cannot be written.
        """
        wanted = None if folder is None else Path(folder)
        with output_folder(wanted, self.measured.name, overwrite=overwrite) as (part, target):
            self.write(part, target, npz=npz)
        return target

    def write(self, part: Path, target: Path, *, npz: bool) -> Mapping[str, Any]:
        """Write the files into the folder ``part``, to be moved to ``target``; return what ``run.json`` holds."""
        record = {**self.record, "arguments": {**self.record["arguments"], "npz": npz}, "output": str(target)}
        write(part, self, record, npz=npz)
        return record
