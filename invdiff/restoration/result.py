"""Result of a restoration: samples, statistics and the record of the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.blind import BlindPosterior
from invdiff.posterior import Posterior
from invdiff.restoration.calibration_file import Spread
from invdiff.restoration.earlier import Results
from invdiff.restoration.folder import output_folder
from invdiff.restoration.formats import FileFormat, file_format
from invdiff.restoration.inputs import Measured
from invdiff.restoration.keep import KEPT, kept_parts
from invdiff.restoration.medoid import medoid
from invdiff.restoration.pictures import COMMAND, RECORD, file_names, write

__all__ = ["Restoration"]


@dataclass(frozen=True, eq=False)
class Restoration:
    """Posterior samples of a measured image as pictures, in the channels and the orientation of INPUT.

    Attributes:
        samples: Pictures spanning [-1, 1], ``(N, C, H, W)``, on the CPU.
        posterior: Samples in the channels of the prior, and their cost.
        measured: Operator, measurement, and the true image if it is known.
        record: Contents of ``run.json``: settings, digests of files, versions, cost, misfit; and ``timing``, the time and
            memory of this run, which are not in the file, since equal runs write equal files.
        spread: Calibration of the standard deviation and level of the intervals, if requested.
        inputs: Files that were read. They are never replaced by results.
        found: Samples of the kernel and its parameters, if they were unknown; otherwise ``None``.
    """

    samples: Tensor
    posterior: Posterior
    measured: Measured
    record: Mapping[str, Any]
    spread: Spread | None = None
    inputs: tuple[Path, ...] = ()
    found: BlindPosterior | None = None

    @property
    def kernel(self) -> Tensor | None:
        """The estimated kernel, ``(h, w)``, with sum 1; ``None`` if it was known."""
        return None if self.found is None else self.found.kernel[0].cpu()

    @property
    def numbers(self) -> range:
        """Numbers of the samples, counted from 0: a run that continues an earlier one starts after its samples."""
        first = self.posterior.first_sample
        return range(first, first + len(self.samples))

    @cached_property
    def pictures(self) -> Tensor:
        """Posterior samples on the 0..1 scale, not clipped, ``(N, C, H, W)``."""
        return (self.samples + 1) / 2

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the pictures, ``(C, H, W)``, on the 0..1 scale."""
        return (self.samples.mean(0) + 1) / 2

    @cached_property
    def best(self) -> Tensor:
        """The sample closest to all others (:func:`~invdiff.restoration.medoid.medoid`), ``(C, H, W)``, on the 0..1 scale."""
        return self.pictures[medoid(self.samples)]

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the pictures, ``(C, H, W)``, on the 0..1 scale, calibrated if requested. NaN for one sample."""
        if len(self.samples) == 1:
            return torch.full_like(self.samples[0], torch.nan)
        return (1.0 if self.spread is None else self.spread.std_factor) * self.samples.std(0) / 2

    def __repr__(self) -> str:
        count, channels, height, width = self.samples.shape
        return f"Restoration({count} pictures of {channels} x {height} x {width}, {self.measured.name}, {self.posterior!r})"

    def _repr_html_(self) -> str:
        return self.posterior._repr_html_()

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user."""
        return tuple(self.record["notes"])

    def save(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        npz: bool = False,
        format: str | None = None,  # noqa: A002 - the name of the option
        format_quality: int | None = None,
        strip: bool = False,
        anonymize: bool = False,
        keep: str | Iterable[str] | None = None,
    ) -> Path:
        """Write all samples, their mean and standard deviation, a comparison, and ``run.json``: all files or none.

        Args:
            folder: Folder to write to. Default: ``invdiff-out/NAME-PROBLEM``; unless ``overwrite``, with a number appended if
                it exists.
            overwrite: Whether to replace the files that an earlier run recorded in the folder. No other file is replaced.
            npz: Whether to also write the pictures as floats, ``posterior.npz``, for any program that reads NumPy files.
                ``result.posterior.save(path)`` keeps the samples of the prior and all settings for later work in Python.
            format: Format of samples, mean and intervals: ``"png"``, ``"jpg"``, ``"tiff"``, ``"webp"``, or ``"input"`` for that
                of INPUT. Default: that of INPUT if it has units and a header (:mod:`invdiff.formats`), and else PNG. Only PNG,
                TIFF and WebP files hold every pixel as it was sampled, and only PNG and TIFF 16 bits.
            format_quality: Quality of JPEG files, 1 to 100. Default: 95.
            strip: Whether to leave out EXIF data, such as the place, except for the resolution.
            anonymize: Whether to leave out what tells who was measured from the headers of files; implies ``strip``.
            keep: What is written, some of ``"samples"``, ``"best"``, ``"mean"``, ``"std"``, ``"comparison"`` and
                ``"quantiles"`` (5, 50 and 95 % of the samples, pixel by pixel), or one text with commas. Default: all but
                quantiles.

        Returns:
            Path of the folder.

        Raises:
            OptionError: If the results do not fit in files of this format.
            ValueError: If the folder is not empty and ``overwrite`` is false, or a file in it is in the way.
            OSError: If the folder cannot be written.
        """
        wanted = None if folder is None else Path(folder)
        files = file_format(
            self.measured.picture,
            self.samples.shape[1],
            format,
            quality=format_quality,
            strip=strip,
            anonymize=anonymize,
        )
        parts = kept_parts(keep)
        names = file_names(self.measured, numbers=self.numbers, spread=self.spread, npz=npz, files=files, keep=parts)
        results = Results(COMMAND, RECORD, names, self.inputs)
        with output_folder(wanted, self.measured.name, results, overwrite=overwrite) as output:
            output.fill(lambda part, target: self.write(part, target, npz=npz, files=files, keep=parts))
        return output.folder

    def write(
        self, part: Path, target: Path, *, npz: bool, files: FileFormat, keep: tuple[str, ...] = KEPT, **facts: Any
    ) -> dict[str, Any]:
        """Write the files into the folder ``part``, to be moved to ``target``; return the record.

        ``facts`` are further entries of the record.
        """
        written = {
            "npz": npz,
            "format": files.wanted,
            "format_quality": files.quality,
            "keep": ",".join(keep),
            "strip": files.strip,
            **({"anonymize": True} if files.anonymize else {}),
        }
        record = {
            **self.record,
            "arguments": {**self.record["arguments"], **written},
            "notes": [*self.notes, *files.notes],
            **facts,
        }
        return write(part, self, record, npz=npz, files=files, keep=keep)
