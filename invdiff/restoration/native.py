"""Results in the format, the units and with the header of INPUT."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import invdiff
from invdiff.formats import Grid, Written
from invdiff.formats.origin import Origin, write
from invdiff.restoration.formats import FileFormat
from invdiff.restoration.inputs import Measured

__all__ = ["grid_of", "in_units", "write_native", "written_as"]

WORDS = {"std": "standard deviation", "best": "best sample", "low": "lower bound", "high": "upper bound"}  # of files


def write_native(
    folder: Path,
    measured: Measured,
    pictures: Mapping[str, Tensor],
    std: NDArray[Any] | None,
    record: Mapping[str, Any],
    files: FileFormat,
) -> None:
    """Write pictures ``(C, H, W)`` that span [-1, 1], and their standard deviation, in the units of INPUT.

    Args:
        folder: The folder.
        measured: The measurement, whose picture has an origin.
        pictures: Pictures by the names of their files.
        std: Standard deviation in the units of the pictures.
        record: Contents of ``run.json``, on which identifiers in the files depend.
        files: Their format.
    """
    origin = files.origin
    assert origin is not None
    grid = grid_of(measured)
    for name, image in pictures.items():
        values = origin.window.values(image.double().numpy()).clip(*_limits(origin))
        written = written_as(name, record, files, numbers=(origin.number,), grid=grid)
        write(folder / f"{name}{files.suffix}", [values], origin, written)
    if std is not None:
        written = written_as("std", record, files, numbers=(origin.number,), grid=grid)
        write(folder / f"std{files.suffix}", [origin.window.half * np.asarray(std, dtype=np.float64)], origin, written)


def _limits(origin: Origin) -> tuple[float, float]:
    return getattr(origin.contents, "limits", (-np.inf, np.inf))


def written_as(name: str, record: Mapping[str, Any], files: FileFormat, *, numbers: tuple[int, ...], grid: Grid) -> Written:
    """Return what the file of a picture holds, by its name."""
    settings = {key: record[key] for key in ("arguments", "files", "options")}
    group = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    what = WORDS.get(name, name.replace("-", " "))
    command = f"invdiff {invdiff.__version__}, {record['method']}"
    return Written(what, numbers, grid, files.anonymize, command, group)


def grid_of(measured: Measured) -> Grid:
    """Return where the pixels of results lie in those of INPUT."""
    if measured.clean is not None:
        return Grid()
    margin = float(getattr(measured.problem, "margin", 0))
    return Grid(float(measured.problem.enlarges), margin, margin)


def in_units(std: NDArray[Any], origin: Origin) -> tuple[NDArray[Any], str]:
    """Return the standard deviation of pixels that span [-1, 1] as figures show it in the units of INPUT, and their name."""
    return 2 * origin.window.half * std, origin.contents.unit or "units of INPUT"
