"""The values of DICOM files in their units."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Array

__all__ = ["frame_count", "groups_of", "is_color", "padding", "padding_value", "quiet", "rescale", "unit", "values", "window"]

# pydicom logs what is unusual in a file; without a handler Python would print that to the terminal.
logging.getLogger("pydicom").addHandler(logging.NullHandler())

UNITS = {"BQML": "Bq/ml", "CNTS": "counts", "GML": "g/ml", "GY": "Gy"}  # by their code


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of pydicom on values that are not as the standard has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def frame_count(dataset: Any) -> int:
    """Return the number of frames of a data set; 1 if it states none."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except ValueError as error:
        raise ValueError(f"it is damaged: its number of frames is {dataset.get('NumberOfFrames')!r}") from error


def is_color(dataset: Any) -> bool:
    """Return whether pixels are red, green and blue once they are read."""
    return int(dataset.get("SamplesPerPixel") or 1) > 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR"


def groups_of(dataset: Any, frame: int) -> Iterator[Any]:
    """Yield the functional groups of a frame, its own before those that frames share, and then the data set itself."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if frame < len(own):
        yield own[frame]
    yield from dataset.get("SharedFunctionalGroupsSequence") or ()
    yield dataset


def values(path: Path, frame: int, dataset: Any) -> tuple[NDArray[Any], Array]:
    """Return the stored values of a frame, and those in its units, ``(C, H, W)``.

    Raises:
        ValueError: If they cannot be decoded: the reason alone.
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    try:
        with quiet():
            raw = pixel_array(path, index=frame)
            if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
                return raw, np.moveaxis(apply_color_lut(raw, dataset), -1, 0).astype(np.float64)
            if is_color(dataset):
                return raw, np.moveaxis(raw, -1, 0).astype(np.float64)
            if "ModalityLUTSequence" in dataset:
                return raw, np.asarray(apply_modality_lut(raw, dataset), dtype=np.float64)[None]
    except Exception as error:  # each decoder has exceptions of its own
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"its pixels cannot be decoded: {reason:.160}") from error
    slope, intercept = rescale(dataset, frame)
    return raw, (slope * raw.astype(np.float64) + intercept)[None]


def rescale(dataset: Any, frame: int) -> tuple[float, float]:
    """Return slope and intercept of the modality transform of a frame."""
    if dataset.get("DoseGridScaling") is not None:
        return float(dataset.DoseGridScaling), 0.0
    for item in _items(dataset, frame, "PixelValueTransformationSequence"):
        if item.get("RescaleSlope") is not None:
            slope, intercept = float(item.RescaleSlope), float(item.get("RescaleIntercept") or 0)
            return (slope, intercept) if slope else (1.0, 0.0)
    return 1.0, 0.0


def window(dataset: Any) -> tuple[float, float] | None:
    """Return the ends of the first window that a data set states."""
    for item in _items(dataset, 0, "FrameVOILUTSequence"):
        center, width = (_first(item.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if center is not None and width is not None and width > 1:
            return center - width / 2, center + width / 2
    return None


def unit(dataset: Any) -> str:
    """Return the unit of the values; empty if it is not stated."""
    for item in _items(dataset, 0, "PixelValueTransformationSequence"):
        if item.get("RescaleType") not in (None, "", "US"):  # unspecified
            return str(item.RescaleType)
    for name in ("DoseUnits", "Units"):
        if dataset.get(name):
            return UNITS.get(str(dataset[name].value), str(dataset[name].value))
    return "HU" if dataset.get("Modality") == "CT" and dataset.get("RescaleSlope") is not None else ""


def padding_value(dataset: Any, name: str = "PixelPaddingValue") -> int | None:
    """Return the stored value of padding; scanners write negative ones as unsigned integers, such as 63536 for -2000."""
    value, bits = dataset.get(name), int(dataset.get("BitsAllocated") or 16)
    if not isinstance(value, int):
        return None
    return value - 2**bits if dataset.get("PixelRepresentation") and value >= 2 ** (bits - 1) else value


def padding(raw: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Return where stored values are padding rather than measured, in their shape."""
    value, limit = padding_value(dataset), padding_value(dataset, "PixelPaddingRangeLimit")
    if value is None or is_color(dataset):
        return np.zeros(raw.shape, dtype=bool)
    low, high = sorted((value, value if limit is None else limit))
    wide = raw.astype(np.int64)
    found: NDArray[np.bool_] = (wide >= low) & (wide <= high)
    return found


def _items(dataset: Any, frame: int, sequence: str) -> Iterator[Any]:
    for group in groups_of(dataset, frame):
        yield from group.get(sequence) or ()
        yield group


def _first(value: Any) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)
