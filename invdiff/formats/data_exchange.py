"""Projections in the Data Exchange layout of HDF5 files, as synchrotrons write and tomopy reads them, by h5py.

Every row of the detector is a slice of parallel beams. The layout is that of De Carlo et al., Scientific data exchange: a
schema for HDF5-based storage of raw and analyzed data, 2014, https://doi.org/10.1107/S160057751401604X
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Format, Scan, Stack, Written
from invdiff.formats.hdf5 import dataset, is_hdf5, names, opened, values

__all__ = ["DataExchange"]

ROOT = b"exchange"
DATA, FLATS, DARKS, ANGLES = "exchange/data", "exchange/data_white", "exchange/data_dark", "exchange/theta"
# Where files state the size of what a detector element sees of the object, and of the element itself.
SEEN = (
    "measurement/instrument/detection_system/objective/resolution",
    "measurement/instrument/objective/resolution",
    "measurement/instrument/detector/x_actual_pixel_size",
    "measurement/instrument/detector/actual_pixel_size",
)
ELEMENT = ("measurement/instrument/detector/x_pixel_size", "measurement/instrument/detector/pixel_size")
MAGNIFICATION = (
    "measurement/instrument/detection_system/objective/magnification",
    "measurement/instrument/objective/magnification",
    "measurement/instrument/detector/objective/magnification",
)
CENTIMETERS = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 100.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 0.1),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-4),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-7),
}
RADIANS = ("rad", "radian", "radians")
KEPT = 2**16  # values of a dataset that is carried through
MOST = 1000  # datasets and groups that are carried through
DEEPEST = 10  # levels of groups


@dataclass(frozen=True)
class Header:
    """What results carry through: groups, with no values, and datasets beside the measured ones, with their attributes."""

    members: Mapping[str, tuple[Any, Mapping[str, Any]]]


class DataExchange(Format):
    """``exchange/data`` with its flats, darks and angles; results are volumes in the same layout."""

    name = "Data Exchange"
    extra = "ct"
    modules = ("h5py",)
    suffixes = (".h5", ".hdf5", ".hdf", ".nxs")
    suffix = ".h5"
    reads = "projections of parallel beams (tomopy, APS): counts, flats, darks, angles; a slice for each detector row"
    writes = "float32 slices in exchange/data, with the other groups"

    def recognizes(self, head: bytes, path: Path) -> bool:
        if not is_hdf5(head):
            return False
        if importlib.util.find_spec("h5py") is None:  # the names at the top mostly lie near the beginning
            return ROOT in head
        try:
            with opened(path) as file:
                return _has(file, DATA)
        except (ValueError, TypeError, RuntimeError):
            return ROOT in head

    def open(self, path: Path) -> Scan:
        with opened(path) as file:
            data = dataset(file, DATA, largest=None)
            order = _order(data)
            count, rows, detectors = (data.shape[axis] for axis in order)
            if not (count and rows and detectors) or data.dtype.kind not in "uif":
                raise ValueError(
                    f"{DATA} has shape {data.shape} of {data.dtype}, expected real numbers (angles, rows, detectors)"
                )
            angles = _angles(file, count)
            spacing, notes = _spacing(file)
            for name in (FLATS, DARKS):
                _check_reference(file, name, rows, detectors)
            header = Header(_members(file))
        return Scan(
            rows,
            partial(_arrays, path, order, angles, spacing),
            unit="1/pixel" if spacing is None else "1/cm",
            header=header,
            notes=notes,
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        import h5py

        several = iter(pictures)
        first = next(several)
        if first.ndim != 3 or len(first) != 1:
            raise ValueError(f"expected slices of one channel, (1, H, W), got shape {first.shape}")
        members = of.header.members if isinstance(of.header, Header) else {}
        with h5py.File(path, "w") as file:
            for name, (value, attributes) in members.items():
                if written.anonymize and (name.split("/")[:1] == ["measurement"] and name.split("/")[1:2] != ["instrument"]):
                    continue
                place = file.require_group(name) if value is None else file.create_dataset(name, data=value)
                for key, attribute in attributes.items():
                    if not (written.anonymize and name == "/"):
                        place.attrs[key] = attribute
            if "implements" not in file:
                file["implements"] = "exchange"
            shape = len(written.numbers), *first.shape[1:]
            volume = file.create_dataset(DATA, shape=shape, dtype=np.float32, chunks=(1, *shape[1:]))
            volume.attrs.update(axes="z:y:x", description=f"{written.what}, attenuation", units=of.unit)
            for k, picture in enumerate(itertools.chain([first], several)):
                volume[k] = picture[0]
            process = file.require_group("process/invdiff")
            process["command"] = written.command
            process["rows"] = np.asarray(written.numbers)


def _arrays(
    path: Path, order: tuple[int, int, int], angles: NDArray[np.float64] | None, spacing: float | None, row: int
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a row of the detector, of which no more is read."""
    found: dict[str, NDArray[Any]] = {}
    with opened(path) as file:
        data = dataset(file, DATA, largest=None)
        where = [slice(None)] * 3
        where[order[1]] = slice(row, row + 1)
        found["sinogram"] = values(data, tuple(where)).transpose(order)[:, 0]
        for name, place in (("flat", FLATS), ("dark", DARKS)):
            if _has(file, place):
                reference = values(dataset(file, place, largest=None), (..., slice(row, row + 1), slice(None)))
                reference = reference.reshape(-1, reference.shape[-1]).astype(np.float64)
                # As many as there are projections would be taken as one for each.
                alike = len(reference) in (1, len(found["sinogram"]))
                found[name] = reference.mean(0) if alike else reference
    if "dark" in found and "flat" not in found:
        del found["dark"]
    if angles is not None:
        found["angles"] = angles
    if spacing is not None:
        found |= {"detector_spacing": np.asarray(spacing), "length_unit": np.asarray("cm")}
    return found


def _has(file: Any, name: str) -> bool:
    """Return whether a file has a member of this name; a link to another file is one, and is refused when it is read."""
    import h5py

    place = file
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or part not in names(place):
            return False
        if not isinstance(place.get(part, getlink=True), h5py.HardLink):
            return True
        try:
            place = place[part]
        except (KeyError, OSError, RuntimeError):
            return True
    return True


def _order(data: Any) -> tuple[int, int, int]:
    """Return the axes of angles, rows and detectors, which ``axes`` may put in another order."""
    if data.shape is None or len(data.shape) != 3:
        raise ValueError(f"{DATA} has shape {data.shape}, expected (angles, rows, detectors)")
    said = _text(data.attrs.get("axes", "")).split(":")
    if len(said) == 3 and "theta" not in said and "z" in said:
        raise ValueError(f"{DATA} holds slices, with the axes {':'.join(said)}, expected projections, theta:y:x")
    if len(said) == 3 and said.count("theta") == 1 and {"x", "y"} <= set(said):
        return said.index("theta"), said.index("y"), said.index("x")
    return 0, 1, 2


def _angles(file: Any, count: int) -> NDArray[np.float64] | None:
    """Return the angles in degrees, or ``None`` if the file has none."""
    if not _has(file, ANGLES):
        return None
    found = dataset(file, ANGLES)
    angles = values(found)
    if angles.size != count or angles.dtype.kind not in "uif":
        raise ValueError(
            f"{ANGLES} has shape {angles.shape} of {angles.dtype}, expected an angle for each of {count} projections"
        )
    angles = angles.reshape(-1).astype(np.float64)
    return np.degrees(angles) if _text(found.attrs.get("units", "")).lower() in RADIANS else angles


def _check_reference(file: Any, name: str, rows: int, detectors: int) -> None:
    if _has(file, name):
        shape = dataset(file, name, largest=None).shape
        if shape is None or len(shape) not in (2, 3) or tuple(shape[-2:]) != (rows, detectors):
            raise ValueError(f"{name} has shape {shape}, expected (frames, {rows}, {detectors})")


def _spacing(file: Any) -> tuple[float | None, tuple[str, ...]]:
    """Return what a detector element sees of the object in cm, or ``None`` if the file does not say, and notes."""
    for names_, magnified in ((SEEN, False), (ELEMENT, True)):
        for name in names_:
            length = _length(file, name)
            if length is None:
                continue
            magnification = next((each for each in (_number(file, place) for place in MAGNIFICATION) if each), None)
            if not magnified or magnification is None:
                return length, (f"detectors are {1e4 * length:.4g} µm apart as {name} says",)
            seen = length / magnification
            return seen, (f"detectors see {1e4 * seen:.4g} µm as {name} and a magnification of {magnification:g} say",)
    return None, ()


def _length(file: Any, name: str) -> float | None:
    """Return a positive length in cm, if the file has it with a unit."""
    number = _number(file, name)
    if number is None:
        return None
    unit = CENTIMETERS.get(_text(dataset(file, name).attrs.get("units", "")).strip().lower())
    return None if unit is None else number * unit


def _number(file: Any, name: str) -> float | None:
    """Return a single positive number, if the file has it."""
    if not _has(file, name):
        return None
    try:
        found = values(dataset(file, name))
        number = float(found.reshape(-1)[0]) if found.size == 1 and found.dtype.kind in "uif" else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: Any) -> str:
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _members(file: Any) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return groups and small datasets outside ``exchange/data*`` and ``exchange/theta``, by name, with their attributes."""
    found: dict[str, tuple[Any, Mapping[str, Any]]] = {"/": (None, _attributes(file))}
    for name, place in itertools.islice(_walk(file, "", 0), MOST):
        try:
            found[name] = (values(dataset(file, name)) if hasattr(place, "dtype") else None, _attributes(place))
        except ValueError:  # damaged, or compressed by what HDF5 does not hold
            continue
    return found


def _walk(group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield groups and datasets in a group, those that are links or measured data left out."""
    import h5py

    for key in sorted(names(group)):
        name = prefix + key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            continue
        try:
            place = group[key]
        except (KeyError, OSError, RuntimeError):
            continue
        if isinstance(place, h5py.Group):
            yield name, place
            if depth < DEEPEST:
                yield from _walk(place, f"{name}/", depth + 1)
        elif not name.startswith("exchange/") or name == "exchange/title":
            plain = isinstance(place, h5py.Dataset) and place.shape is not None and math.prod(place.shape) <= KEPT
            if plain and (place.dtype.kind in "uifbS" or h5py.check_string_dtype(place.dtype) is not None):
                yield name, place


def _attributes(place: Any) -> dict[str, Any]:
    """Return the attributes that are numbers or text."""
    found = {}
    for key in place.attrs:
        try:
            value = place.attrs[key]
        except (OSError, RuntimeError, TypeError, ValueError):
            continue
        if isinstance(value, str | bytes | int | float) or (
            isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "uifbS"
        ):
            found[str(key)] = value
    return found
