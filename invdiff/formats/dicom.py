"""DICOM: single images, multi-frame images, and series of files in a folder, by pydicom.

Values are those after the modality transform (rescale slope and intercept, or the dose grid scaling), such as Hounsfield units.
Pixels of the padding value were not measured. Results are derived images (:mod:`invdiff.formats.dicom_derived`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.dicom_derived import Header, save
from invdiff.formats.dicom_values import frame_count, is_color, padding, quiet, rescale, unit, values, window
from invdiff.formats.format import Array, Format, Scan, Stack, Written
from invdiff.io.limits import check_image

__all__ = ["DICOM", "DICOMSeries"]

DEFLATED = "1.2.840.10008.1.2.1.99"
MARK = b"DICM"  # behind 128 bytes that are free


class DICOM(Format):
    """One file: an image, or the frames of a multi-frame image."""

    name = "DICOM"
    extra = "medical"
    modules = ("pydicom",)
    suffixes = (".dcm", ".dicom", ".ima")
    suffix = ".dcm"
    reads = "images and multi-frame images, in the units of their rescale (HU)"
    writes = "derived images: new UIDs, references to INPUT"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return head[128:132] == MARK

    def open(self, path: Path) -> Stack | Scan:
        with quiet():
            dataset = _header(path)
            count = frame_count(dataset)
            return _stack([dataset], [(path, k) for k in range(count)], "frame" if count > 1 else "slice")

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        with quiet():
            save(path, np.stack(list(pictures)), of.header, of.header.datasets[0], written)


class DICOMSeries(Format):
    """The files of one series in a folder, in the order of their positions along the normal of the slices."""

    name = "DICOM series"
    extra = "medical"
    modules = ("pydicom",)
    reads = "a folder with the files of one series, as a volume (--slice)"
    writes = "derived images, a file each slice"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return False  # a folder: see is_series

    def is_series(self, folder: Path) -> bool:
        """Return whether there is a DICOM file in a folder."""
        return any(each.is_file() and _is_dicom(each) for each in folder.iterdir())

    def open(self, path: Path) -> Stack | Scan:
        files = sorted(each for each in path.iterdir() if each.is_file() and _is_dicom(each))
        if not files:
            raise ValueError("the folder holds no DICOM files")
        with quiet():
            found = [(file, _header(file)) for file in files]
            series = {str(header.get("SeriesInstanceUID")) for _, header in found}
            if len(series) > 1:
                raise ValueError(f"the folder holds {len(series)} series, expected one: give each a folder of its own")
            several = next((file for file, header in found if frame_count(header) > 1), None)
            if several is not None:
                raise ValueError(f"{several.name} is a multi-frame image, a volume by itself: give the file")
            sizes = {(header.Rows, header.Columns, is_color(header)) for _, header in found}
            if len(sizes) > 1:
                raise ValueError(f"its images differ in size: {', '.join(f'{w} x {h}' for h, w, _ in sorted(sizes))}")
            found.sort(key=lambda pair: _place(pair[1]))
            return _stack([header for _, header in found], [(file, 0) for file, _ in found], "slice")

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        names = self.files(path.name, len(written.numbers))
        with quiet():
            for name, number, picture in zip(names, written.numbers, pictures, strict=True):
                one = replace(written, numbers=(number,))
                save(path.with_name(name), picture[None], of.header, of.header.datasets[number], one)

    def files(self, stem: str, count: int) -> tuple[str, ...]:
        return tuple(f"{stem}-{k + 1:04d}.dcm" for k in range(count))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == MARK


def _header(path: Path) -> Any:
    import pydicom

    _check_deflated(path)
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    rows, columns = (dataset.get(name) for name in ("Rows", "Columns"))
    if not rows or not columns:
        raise ValueError(f"it holds no image, but {dataset.get('Modality') or 'data'} of another kind")
    check_image(int(rows), int(columns), int(dataset.get("SamplesPerPixel") or 1))
    if frame_count(dataset) > path.stat().st_size:
        raise ValueError(f"it declares {frame_count(dataset)} frames, more than it has bytes")
    return dataset


def _check_deflated(path: Path) -> None:
    """Raise an error if the data set is deflated: pydicom unpacks it whole, whatever its size, and finds no pixels."""
    from pydicom.filereader import read_dataset

    with path.open("rb") as file:
        file.seek(132)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if str(meta.get("TransferSyntaxUID")) == DEFLATED:
        raise ValueError("its data set is deflated as a whole, which is not read: convert it to another transfer syntax")


def _own_groups(dataset: Any) -> int:
    """Return how many frames have functional groups of their own."""
    return min(frame_count(dataset), len(dataset.get("PerFrameFunctionalGroupsSequence") or ()))


def _place(dataset: Any) -> tuple[float, float]:
    """Return what slices are sorted by: the position along their normal, or else their number."""
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    number = float(dataset.get("InstanceNumber") or 0)
    if not position or not orientation:
        return 0.0, number
    row, column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    return float(np.cross(row, column) @ np.array(position, dtype=float)), number


def _stack(datasets: Sequence[Any], places: Sequence[tuple[Path, int]], axis: str) -> Stack:
    """Return the stack of frames, given the data set of each file, or one for all frames of one."""
    first = datasets[0]
    color, bits = is_color(first), int(first.get("BitsStored") or 16)
    transforms = [rescale(dataset, k) for dataset in datasets for k in range(_own_groups(dataset) or 1)]
    stored: tuple[float, float] = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if first.get("PixelRepresentation") else (0, 2**bits - 1)
    )
    if "ModalityLUTSequence" in first:
        stored = 0, 65535
    floats = not color and first.get("BitsStored") is None  # (7FE0,0008) and (7FE0,0009)
    slope, intercept = (1.0, 0.0) if floats else transforms[0]
    if len(set(transforms)) > 1 and not floats:  # results have one transform for all
        ends = [a * end + b for a, b in transforms for end in stored]
        slope, intercept = (max(ends) - min(ends)) / (stored[1] - stored[0]), 0.0
        intercept = min(ends) - slope * stored[0]

    def picture(k: int) -> Array:
        dataset = datasets[k] if len(datasets) > 1 else first
        raw, found = values(*places[k], dataset)
        if not color:
            found[:, padding(raw, dataset)] = np.nan
        return found

    if color:
        table = first.get("RedPaletteColorLookupTableDescriptor")
        bits = bits if table is None else int(table[2])
        stored = 0, 255 if bits <= 8 else 65535 if bits <= 16 else 2**32 - 1
        low, high = (float(end) for end in stored)
    elif floats:
        low, high = stored = -np.inf, np.inf
    else:
        low, high = sorted((slope * stored[0] + intercept, slope * stored[1] + intercept))
    inverted = first.get("PhotometricInterpretation") == "MONOCHROME1"
    return Stack(
        (len(places), 3 if color else 1, int(first.Rows), int(first.Columns)),
        picture,
        axis=axis,
        unit="" if color else unit(first),
        window=(low, high) if color else window(first),
        limits=(low, high),
        header=Header(tuple(datasets), (slope, intercept), stored, places),
        notes=("its small values are shown bright (MONOCHROME1)",) if inverted else (),
    )
