"""The formats, and the one that a file has by its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from invdiff.formats.animation import Animation
from invdiff.formats.camera_raw import CameraRAW
from invdiff.formats.data_exchange import DataExchange
from invdiff.formats.dicom import DICOM, DICOMSeries
from invdiff.formats.exr import EXR, RadianceHDR
from invdiff.formats.fastmri import FastMRI
from invdiff.formats.fits import FITS
from invdiff.formats.format import Format, Scan, Stack
from invdiff.formats.ismrmrd import ISMRMRD
from invdiff.formats.matlab import Matlab, Matlab73
from invdiff.formats.nifti import NIfTI
from invdiff.formats.tiff_stack import TIFFStack
from invdiff.formats.video import Video
from invdiff.io.errors import one_line
from invdiff.io.kinds import HEAD

__all__ = ["FORMATS", "format_of", "opened"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

FORMATS: tuple[Format, ...] = (
    DICOM(),
    DICOMSeries(),
    NIfTI(),
    FITS(),
    CameraRAW(),
    DataExchange(),
    ISMRMRD(),
    FastMRI(),
    Matlab(),
    Matlab73(),
    TIFFStack(),
    Animation(),
    Video(),
    EXR(),
    RadianceHDR(),
)


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """Return the format of a file by its content; ``None`` if it is none of :data:`FORMATS`, such as a PNG file.

    A folder is that of a DICOM series if there is a DICOM file in it.

    Raises:
        OSError: If the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return next((each for each in FORMATS if isinstance(each, DICOMSeries) and each.is_series(path)), None)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(HEAD)
    return next((each for each in FORMATS if each.recognizes(head, path)), None)


def opened(path: str | os.PathLike[str], kind: Format | None = None) -> tuple[Format, Stack | Scan]:
    """Return the format of a file and what it holds.

    Args:
        path: The file.
        kind: Its format, if it is known already.

    Raises:
        ValueError: If it has none of the formats, if what its format needs is not installed, or if it is damaged.
        OSError: If it cannot be opened.
    """
    path = Path(path)
    kind = format_of(path) if kind is None else kind
    if kind is None:
        raise ValueError(f"{path}: is of none of the formats of `invdiff formats`.")
    if kind.missing:
        raise ValueError(f'{path}: is {kind.name}, which needs {", ".join(kind.missing)}: pip install "invdiff[{kind.extra}]"')
    found = _told(path, kind, kind.open)(path)
    if isinstance(found, Stack):
        return kind, replace(found, picture=_told(path, kind, found.picture))
    return kind, replace(found, arrays=_told(path, kind, found.arrays))


def _told(path: Path, kind: Format, read: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
    """Return a function that reads, with errors in one line that name the file, whatever a library raises for damaged files."""

    def reading(argument: Argument) -> Result:
        try:
            return read(argument)
        except MemoryError as error:
            raise ValueError(f"{path}: {kind.name}: there is not enough memory to read it.") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = one_line(error).rstrip(".") if isinstance(error, ValueError) else f"it is damaged ({one_line(error):.120})"
            raise ValueError(
                reason + "." if reason.startswith(str(path)) else f"{path}: {kind.name}: {reason:.300}."
            ) from error

    return reading
