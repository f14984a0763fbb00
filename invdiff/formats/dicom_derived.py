"""Derived DICOM images: what samples of a posterior distribution, their mean and their standard deviation are.

They have new identifiers of instance and series, which depend on the run alone, so that equal runs write equal files; the chain
of references to what they were made from (PS3.3, C.7.6.1.1.3 and C.7.6.1.1.4); the equipment that contributed; and else the
header of INPUT, with no more about the patient than it says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.anonymous import anonymous, new_uid
from invdiff.formats.dicom_values import frame_count, groups_of, padding, padding_value, unit, values
from invdiff.formats.format import Array, Grid, Written

__all__ = ["Header", "save"]

EXPLICIT_LITTLE_ENDIAN, SECONDARY_CAPTURE = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.7"
LONGEST = 64  # characters of a short text
SPREAD = "standard deviation"
LARGEST = 65535  # integer that a map of the standard deviation stores
LUTS = [f"{color}PaletteColorLookupTable{what}" for color in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")]
DROPPED = (  # what describes the stored pixels of INPUT
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "PlanarConfiguration",
    ),
    *("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "ModalityLUTSequence"),
    *("PaletteColorLookupTableUID", *LUTS),
)
OVERLAYS = 0x6000  # groups, drawn on the pixels of INPUT


@dataclass(frozen=True)
class Header:
    """What results carry through.

    Attributes:
        datasets: Data sets without pixels: one, or one for each file of a series.
        rescale: Slope and intercept between the integers of results and values.
        stored: Smallest and largest integer; infinite for floats, which are stored as such.
        places: File and frame of each picture.
    """

    datasets: tuple[Any, ...]
    rescale: tuple[float, float]
    stored: tuple[float, float]
    places: Sequence[tuple[Path, int]]


def save(path: Path, given: NDArray[np.float32], header: Header, source: Any, written: Written) -> None:
    """Write pictures ``(N, C, H, W)`` as one file.

    Args:
        path: The file.
        given: The pictures, in the units of INPUT.
        header: That of INPUT.
        source: Its data set.
        written: What they are.
    """
    from pydicom.dataset import Dataset

    spread = written.what == SPREAD
    pictures: Array = given.astype(np.float64)
    if spread and pictures.shape[1] == 3:
        pictures = np.sqrt((pictures**2).mean(1, keepdims=True))
    dataset = copy.deepcopy(source)
    for element in list(dataset):
        if element.keyword in DROPPED or element.tag.group & 0xFF00 == OVERLAYS:
            del dataset[element.tag]
    _identify(dataset, source, written)
    if source.get("NumberOfFrames") is not None:
        dataset.NumberOfFrames = len(pictures)
        own = dataset.get("PerFrameFunctionalGroupsSequence")
        if own is not None:
            dataset.PerFrameFunctionalGroupsSequence = [own[k] for k in written.numbers if k < len(own)]
        _cut(dataset, written.numbers)
    if written.grid != Grid():
        _place(dataset, written.grid)
    dataset.Rows, dataset.Columns = pictures.shape[-2:]
    if pictures.shape[1] == 3:
        _store_colors(dataset, pictures, int(header.stored[1]))
    elif spread:
        _store_spread(dataset, pictures[:, 0])
    else:
        _store_values(dataset, pictures[:, 0], header, source, written)
    if written.anonymize:
        dataset = anonymous(dataset)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    plain: Any = Dataset(dataset)  # without the memory of the byte order of INPUT, which may be big-endian
    plain.file_meta = dataset.file_meta
    plain.save_as(path, enforce_file_format=True)


def _identify(dataset: Any, source: Any, written: Written) -> None:
    """Set identifiers, the description, and the references to what an image was made from."""
    from pydicom.dataset import Dataset, FileMetaDataset

    old, made = str(source.get("SOPInstanceUID", "")), (written.group, written.what, written.command)
    dataset.SOPInstanceUID = new_uid(old, *made, *map(str, written.numbers))
    dataset.SeriesInstanceUID = new_uid(str(source.get("SeriesInstanceUID", "")), *made)
    dataset.SeriesNumber = None
    dataset.SeriesDescription = f"{source.get('SeriesDescription') or ''} {written.what} (invdiff)".strip()[-LONGEST:]
    dataset.DerivationDescription = f"{written.command}: {written.what} of samples of the posterior distribution"
    dataset.ImageType = ["DERIVED", *(list(source.get("ImageType") or ())[1:] or ["PRIMARY"])]
    if old:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.get("SOPClassUID"), old
        if source.get("NumberOfFrames") is not None and len(written.numbers) < frame_count(source):
            reference.ReferencedFrameNumber = [k + 1 for k in written.numbers]
        reference.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
        dataset.SourceImageSequence = [reference]
    equipment = Dataset()
    equipment.Manufacturer, equipment.SoftwareVersions = "invdiff", written.command[:LONGEST]
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    dataset.ContributingEquipmentSequence = [*(dataset.get("ContributingEquipmentSequence") or ()), equipment]
    dataset.SOPClassUID = source.get("SOPClassUID") or SECONDARY_CAPTURE
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = EXPLICIT_LITTLE_ENDIAN, dataset.SOPClassUID
    dataset.file_meta = meta


def _code(value: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _place(dataset: Any, grid: Grid) -> None:
    """Set spacing and position of pixels that lie on another grid."""
    down, right = 0.5 / grid.scale - 0.5 - grid.top, 0.5 / grid.scale - 0.5 - grid.left
    orientation = next((item.ImageOrientationPatient for item in _with(dataset, "ImageOrientationPatient")), None)
    spacing = next((item.PixelSpacing for item in _with(dataset, "PixelSpacing")), None)
    if orientation is not None and spacing is not None:
        row, column = (np.array(orientation[k : k + 3], dtype=float) for k in (0, 3))
        step = right * float(spacing[1]) * row + down * float(spacing[0]) * column
        for item in _with(dataset, "ImagePositionPatient"):
            item.ImagePositionPatient = [decimal(value) for value in np.array(item.ImagePositionPatient, dtype=float) + step]
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        for item in _with(dataset, name):
            setattr(item, name, [decimal(float(side) / grid.scale) for side in item[name].value])


def _cut(dataset: Any, numbers: Sequence[int]) -> None:
    """Set the position of some planes of a dose, whose offsets along the normal are counted from the first one."""
    offsets = dataset.get("GridFrameOffsetVector")
    if not offsets or max(numbers) >= len(offsets):
        return
    kept = [float(offsets[k]) for k in numbers]
    if float(offsets[0]) == 0:  # relative to the position, and else coordinates
        position, sides = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
        if position and sides:
            normal = np.cross(np.array(sides[:3], dtype=float), np.array(sides[3:], dtype=float))
            moved = np.array(position, dtype=float) + kept[0] * normal
            dataset.ImagePositionPatient = [decimal(value) for value in moved]
        kept = [value - kept[0] for value in kept]
    dataset.GridFrameOffsetVector = [decimal(value) for value in kept]


def _with(dataset: Any, name: str) -> Iterator[Any]:
    """Yield the data set and the items of its functional groups that have an element with a value."""
    if dataset.get(name):
        yield dataset
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or ():
            for element in group:
                if element.VR == "SQ":
                    yield from (item for item in element.value if item.get(name))


def decimal(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters."""
    return next(text for digits in range(16, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _store_colors(dataset: Any, pictures: Array, top: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    kind = np.min_scalar_type(top).newbyteorder("<")
    _store(dataset, np.rint(np.moveaxis(pictures, 1, -1)).clip(0, top).astype(kind))


def _store_spread(dataset: Any, pictures: Array) -> None:
    """Store a map of the standard deviation, with a slope of its own."""
    top = float(pictures.max()) or 1.0
    slope = float(decimal(top / LARGEST))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    _set_rescale(dataset, slope, 0.0)
    for group in groups_of(dataset, 0):
        for item in (*(group.get("FrameVOILUTSequence") or ()), group):
            if "WindowCenter" in item or item is dataset:
                item.WindowCenter, item.WindowWidth = decimal(top / 2), decimal(top)
    _store(dataset, np.rint(pictures / slope).clip(0, LARGEST).astype("<u2"))


def _store_values(dataset: Any, pictures: Array, header: Header, source: Any, written: Written) -> None:
    """Store values with the slope and the range of INPUT; what is padding there is padding here."""
    (slope, intercept), (low, high) = header.rescale, header.stored
    integers = np.rint((pictures - intercept) / slope).clip(low, high)
    padded = padding_value(source) if written.grid == Grid() else None
    if padded is not None:
        for place, number in enumerate(written.numbers):
            raw, _ = values(*header.places[number], source)
            integers[place][padding(raw, source)] = padded
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    _set_rescale(dataset, slope, intercept)
    if not math.isfinite(low):
        dataset.FloatPixelData, dataset.BitsAllocated = pictures.astype("<f4").tobytes(), 32
        for name in ("BitsStored", "HighBit", "PixelRepresentation"):
            if name in dataset:
                delattr(dataset, name)
        return
    bits = 8 if low >= 0 and high <= 255 else 16 if high <= 65535 else 32
    stored = int(source.get("BitsStored") or bits)
    _store(dataset, integers.astype(f"<{'i' if low < 0 else 'u'}{bits // 8}"), stored=stored)
    if padded is not None:
        dataset.add_new("PixelPaddingValue", "SS" if low < 0 else "US", padded)


def _store(dataset: Any, integers: NDArray[Any], *, stored: int | None = None) -> None:
    bits = 8 * integers.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored = bits, min(bits, stored or bits)
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(integers.dtype.kind == "i")
    content = integers.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def _set_rescale(dataset: Any, slope: float, intercept: float) -> None:
    """Set slope and intercept where the data set has them: those of a dose, of frames, or its own."""
    if dataset.get("DoseGridScaling") is not None:
        dataset.DoseGridScaling = decimal(slope)
        return
    frames = list(_of_frames(dataset))
    for item in frames:
        item.RescaleSlope, item.RescaleIntercept = decimal(slope), decimal(intercept)
    if not frames and (dataset.get("RescaleSlope") is not None or (slope, intercept) != (1.0, 0.0)):
        dataset.RescaleType = dataset.get("RescaleType") or unit(dataset) or "US"
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(slope), decimal(intercept)


def _of_frames(dataset: Any) -> Iterator[Any]:
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or ():
            yield from group.get("PixelValueTransformationSequence") or ()
