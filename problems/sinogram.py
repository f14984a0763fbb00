r"""Sinograms as files hold them: their axes, counts, the unit of the angles and the rotation axis are put in one convention.

Rays are parallel, or a fan from a point source (:class:`FanBeam`). Lengths are in the unit ``length_unit`` of the file; if it
gives none, they are in pixels, of which one is as wide as a detector.

The projections themselves tell much of it, by their sums and centers of mass: see :mod:`invdiff.problems.moments`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import LARGEST, Arrays, image_size, named, one_number, real_numbers, whole_numbers
from .counts import Counts, line_integrals
from .moments import FEWEST, STEADY, Moments, spread_of
from .opposites import center_of_opposites

__all__ = ["FanBeam", "Sinogram", "half_turn", "sinogram_of"]

Array = NDArray[np.float64]

BYTES = 20  # of memory for each pixel and angle, see RayTransform
TRANSPOSED = 4.0  # ratio of the spreads of the sums along both axes
UNCERTAIN = 0.1  # standard error of a center of rotation that is used, in detectors
OFF_CENTER = 0.25  # detectors
CLEAR = 20.0  # offset over its standard error above which a center is used in any case
SAME = 0.05  # detectors by which a center may differ from that of scikit-image
CUT_OFF = 0.25  # values at the ends of the detectors relative to those in the middle


@dataclass(frozen=True)
class FanBeam:
    """Rays from a point source, see :class:`~invdiff.operators.FanBeamCT`.

    Attributes:
        source_distance: From the rotation axis to the source.
        detector_distance: From the rotation axis to the detector.
        curved: Whether the detector is an arc around the source.
    """

    source_distance: float
    detector_distance: float
    curved: bool = False

    @property
    def magnification(self) -> float:
        """Distance between detectors over that between their rays at the rotation axis."""
        return (self.source_distance + self.detector_distance) / self.source_distance


@dataclass(frozen=True)
class Sinogram:
    """Line integrals in the convention of :class:`~invdiff.operators.ParallelBeamCT` or ``FanBeamCT``.

    Attributes:
        values: Float64 ``(angles, detectors)``.
        angles: In degrees.
        size: Image size ``(H, W)``.
        center: Detector on which the rotation axis projects.
        axis: Pixel ``(row, column)`` of the rotation axis.
        notes: What was converted, and doubts, for the user.
        detector_spacing: Distance between detectors.
        pixel_size: Side of a pixel of the image.
        unit: Unit of lengths; ``"pixel"`` if the file gives none.
        fan: The fan of the rays; ``None``: they are parallel.
        counts: The counts of which these are the logarithms, if their gain is known.
    """

    values: Tensor
    angles: list[float]
    size: tuple[int, int]
    center: float
    axis: tuple[float, float]
    notes: tuple[str, ...]
    detector_spacing: float = 1.0
    pixel_size: float = 1.0
    unit: str = "pixel"
    fan: FanBeam | None = None
    counts: Counts | None = None


def sinogram_of(arrays: Arrays) -> Sinogram:
    """Return the sinogram and the geometry of a file.

    Raises:
        ValueError: If an array has an invalid shape or invalid values, or they do not fit each other.
    """
    notes: list[str] = []
    given = real_numbers(arrays, "sinogram")
    if given.ndim != 2:
        hint = " Give one slice, such as sinogram[0]." if given.ndim == 3 else ""
        raise ValueError(f"ct: expected a sinogram (angles, detectors), got shape {tuple(given.shape)}.{hint}")
    said = real_numbers(arrays, "angles").numpy() if "angles" in arrays else None
    if said is not None and said.size == max(said.shape, default=1):
        said = said.reshape(-1)  # MATLAB has (N, 1)
    measured, counts = line_integrals(given.numpy(), arrays, notes)
    values = _angles_first(measured, said, notes)
    turned = values is not measured
    counts = counts.T if turned and counts is not None else counts
    wide = values.shape[1]
    values, counts = _binned(values, counts, bins := int(whole_numbers(arrays, "bin").item()) if "bin" in arrays else 1)
    count, detectors = values.shape
    if said is not None and said.shape != (count,):
        raise ValueError(f"ct: a sinogram of {count} rows needs {count} angles, got an array of shape {said.shape}.")
    size = image_size(arrays) if "size" in arrays else (detectors, detectors)
    if size[0] * size[1] > LARGEST:
        raise ValueError(
            f"ct: {detectors} detectors need an image of {detectors} x {detectors} pixels. Give its `size` (H, W)."
        )
    needed, memory = BYTES * count * size[0] * size[1], _memory()
    if needed > memory:
        raise ValueError(
            f"ct: the rays of {count} angles through {size[1]} x {size[0]} pixels take {needed / 2**30:.1f} GiB, and this "
            f"machine has {memory / 2**30:.1f}. Average neighboring detectors by --bin 2, or give a smaller `size` (H, W)."
        )
    fan = _fan(arrays)
    lengths = _lengths(arrays, fan, bins)
    doubts = [] if fan is not None else _doubts(values)
    notes += doubts
    moments = None if doubts or fan is not None else Moments.of(values)
    if fan is not None:
        if said is None:
            notes.append(
                f"the {count} source angles are taken as evenly spaced over a whole turn: give `angles` if they are not"
            )
        angles = [360 * k / count for k in range(count)] if said is None else _degrees(said, None, notes)
    elif said is not None:
        angles = _degrees(said, moments, notes)
    else:
        angles = half_turn(count) if moments is None else _likely_angles(moments, count, notes)
    if moments is not None and not moments.fit(angles, values):
        moments = None
        notes.append(
            "the centers of mass of the projections do not follow those of parallel beams at these angles: check the order of "
            "the angles and of the rows, and that no fan beam was used"
        )
    if "center" in arrays and bins > 1:  # the middle of the group of detectors
        arrays = {**arrays, "center": np.asarray((_center(arrays, wide) - (bins - 1) / 2) / bins)}
    center, axis = _rotation(arrays, values, moments, angles, size, turned, notes, parallel=fan is None)
    return Sinogram(
        torch.from_numpy(np.ascontiguousarray(values)), angles, size, center, axis, tuple(notes), *lengths, fan, counts
    )


def _binned(values: Array, counts: Counts | None, bins: int) -> tuple[Array, Counts | None]:
    """Join groups of neighboring detectors: the photons of counts are added up, line integrals are averaged."""
    if bins == 1:
        return values, counts
    detectors = values.shape[1] // max(bins, 1)
    if bins < 1 or not detectors:
        raise ValueError(f"ct: bin must be from 1 to the number of detectors, {values.shape[1]}, got {bins}.")
    if counts is not None:
        counts = counts.binned(bins)
        return counts.integrals().numpy(), counts
    return values[:, : detectors * bins].reshape(len(values), detectors, bins).mean(2), None


def _fan(arrays: Arrays) -> FanBeam | None:
    """Return the fan that a file describes, or ``None`` if its rays are parallel."""
    distances = ("source_distance", "detector_distance")
    if "geometry" in arrays and named(arrays, "geometry", ("parallel", "fan")) == "parallel":
        return None
    if "geometry" not in arrays and not any(name in arrays for name in distances):
        return None
    missing = [name for name in (*distances, "detector_spacing") if name not in arrays]
    if missing:
        raise ValueError(
            f"ct: a fan beam needs {' and '.join(f'`{name}`' for name in missing)}, in the unit of the pixel size: "
            "source_distance and detector_distance from the rotation axis, detector_spacing between detectors."
        )
    source, detector = (one_number(arrays, name) for name in distances)
    if source <= 0 or detector < 0:
        raise ValueError(
            "ct: source_distance must be positive and detector_distance at least 0, both from the rotation axis, got "
            f"{source:g} and {detector:g}."
        )
    shape = named(arrays, "detector_shape", ("flat", "curved")) if "detector_shape" in arrays else "flat"
    return FanBeam(source, detector, shape == "curved")


def _lengths(arrays: Arrays, fan: FanBeam | None, bins: int) -> tuple[float, float, str]:
    """Return the detector spacing, the pixel size and their unit; one of the two follows from the other."""
    given = {name: one_number(arrays, name) for name in ("detector_spacing", "pixel_size") if name in arrays}
    for name, value in given.items():
        if value <= 0:
            raise ValueError(f"ct: {name} must be positive, got {value:g}.")
    magnification = 1.0 if fan is None else fan.magnification
    unit = named(arrays, "length_unit", ("mm", "cm", "pixel")) if "length_unit" in arrays else "mm"
    if "detector_spacing" in given:
        spacing = bins * given["detector_spacing"]
        return spacing, given.get("pixel_size", spacing / magnification), unit
    pixel = given.get("pixel_size", 1.0)
    return pixel, pixel, unit if given else "pixel"


def _memory() -> float:
    """Return the bytes of memory of this machine; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        return math.inf


def half_turn(count: int) -> list[float]:
    """Return ``count`` angles evenly spaced over [0, 180) degrees."""
    if count < 1:
        raise ValueError(f"ct: expected at least one angle, got {count}.")
    return [180 * k / count for k in range(count)]


def _angles_first(values: Array, angles: Array | None, notes: list[str]) -> Array:
    """Transpose a sinogram with the detectors first, as ``skimage.transform.radon`` returns it."""
    rows, columns = values.shape
    spread, across = spread_of(values.sum(1)), spread_of(values.sum(0))
    if angles is not None and rows != columns:
        transposed = angles.shape == (columns,) and across < spread
    else:
        transposed = min(rows, columns) > 2 and across < STEADY and TRANSPOSED * across < spread
    if transposed:
        notes.append(f"the sinogram {values.shape} has its detectors along the first axis: transposed")
    return values.T if transposed else values


def _degrees(angles: Array, moments: Moments | None, notes: list[str]) -> list[float]:
    """Return angles in degrees; those in radians are converted: if they cover half a turn or a whole one, or by the moments."""
    count, reach = len(angles), float(np.abs(angles).max())
    if count > 1 and 0 < reach <= 2 * np.pi + 1e-3:
        span = float(np.ptp(angles))
        turns = [part * np.pi for full in (1, 2) for part in (full, full * (count - 1) / count)]
        radians = count > 2 and any(abs(span / turn - 1) < 0.03 for turn in turns)
        if radians or (moments is not None and moments.prefer(np.degrees(angles).tolist(), angles.tolist())):
            notes.append(f"the angles reach {reach:.4g}, as in radians: converted to degrees")
            return [float(angle) for angle in np.degrees(angles)]
        notes.append(f"the angles reach only {reach:.4g} degrees; if they are in radians, give np.degrees(angles)")
    return [float(angle) for angle in angles]


def _likely_angles(moments: Moments, count: int, notes: list[str]) -> list[float]:
    """Return the angles of a sinogram without any: evenly spaced over half a turn, unless the moments say a whole one."""
    usual = half_turn(count)
    others = {
        "a whole turn": [360 * k / count for k in range(count)],
        "half a turn, both ends included": [180 * k / (count - 1) for k in range(count)],
        "a whole turn, both ends included": [360 * k / (count - 1) for k in range(count)],
    }
    best = min(others, key=lambda name: moments.misfit(others[name]))
    if moments.prefer(others[best], usual):
        notes.append(f"the file has no `angles`, and the projections fit {count} evenly over {best}: so they are taken")
        return others[best]
    return usual


def _rotation(
    arrays: Arrays,
    values: Array,
    moments: Moments | None,
    angles: Sequence[float],
    size: tuple[int, int],
    turned: bool,
    notes: list[str],
    *,
    parallel: bool,
) -> tuple[float, tuple[float, float]]:
    """Return the center of rotation on the detectors and the pixel of the axis: those of the file, or the middles.

    Without them a center that the centers of mass put elsewhere is taken. One that lies half a detector behind the middle is
    that of scikit-image, with the axis in pixel ``N // 2``; so is that of sinograms with the detectors first (``turned``). If
    the centers of mass tell nothing, as of an object that reaches beyond the detectors, opposite projections are compared.
    """
    detectors = values.shape[1]
    middle = (detectors - 1) / 2
    axis = (size[0] - 1) / 2, (size[1] - 1) / 2
    if "axis" in arrays:
        row, column = _numbers(arrays, "axis", 2)
        axis = row, column
    if "center" in arrays:
        return _center(arrays, detectors), axis
    if not parallel:
        notes.append(
            f"the central ray is taken to hit detector {middle:g}, the middle; if edges are doubled, choose it by --center"
        )
        return middle, axis
    whole = detectors == math.ceil(2**0.5 * size[0]) and size[0] == size[1] and "size" in arrays
    usual = float(detectors // 2) if turned else middle
    offset, error, misfit = (0.0, math.inf, math.inf) if moments is None else moments.center(angles)
    told = error <= max(UNCERTAIN, abs(offset) / CLEAR) and misfit <= max(0.5, detectors / 100)
    center, found = usual, ""
    if told and abs(middle + offset - usual) >= max(OFF_CENTER, 5 * error):
        likely = detectors % 2 == 0 and abs(offset - 0.5) < max(SAME, 5 * error)
        center = detectors / 2 if likely else middle + offset
        found = "as the centers of mass of the projections say"
    elif not told and (opposite := center_of_opposites(values, angles)) is not None:
        if abs(opposite - usual) >= OFF_CENTER:
            center, found = opposite, "as opposite projections say"
    elif not told:
        notes.append(
            f"the rotation axis is taken to project on detector {usual:g}, because the data do not tell; if edges are doubled, "
            "choose it by --center"
        )
    if center == detectors / 2 or (whole and moments is not None):  # whole: as radon(circle=False) measures
        pixel = float(size[0] // 2), float(size[1] // 2)
        if "axis" not in arrays and pixel != axis:
            axis = pixel
            notes.append(
                f"the rotation axis passes through pixel {size[0] // 2}, {size[1] // 2} of the image, as in scikit-image, half "
                "a pixel beside its center: give `axis` (row, column) to choose it"
            )
    if found:
        shown = f"{center:g}, as in scikit-image" if center == detectors / 2 else f"{center:.2f}"
        notes.append(
            f"the rotation axis projects on detector {shown}, {found}, not on the middle, {middle:g} (choose it by --center)"
        )
    return center, axis


def _center(arrays: Arrays, detectors: int) -> float:
    (center,) = _numbers(arrays, "center", 1)
    if not 0 <= center <= detectors - 1:
        raise ValueError(f"ct: center must be a detector from 0 to {detectors - 1}, got {center:g}.")
    return center


def _numbers(arrays: Arrays, name: str, count: int) -> list[float]:
    given = real_numbers(arrays, name).reshape(-1).tolist()
    if len(given) != count:
        raise ValueError(f"ct: {name} must be {count} number{'s' * (count > 1)}, got {len(given)}.")
    return [float(value) for value in given]


def _doubts(values: Array) -> list[str]:
    """Return notes on values that are no line integrals of an object within the beam."""
    count, detectors = values.shape
    if (values.sum(1) < 0).all():
        return [
            "the sums of all projections are negative: expected line integrals, -log of the transmission, of a bright object"
        ]
    if detectors < FEWEST or not (values.sum(1) > 0).all():
        return []
    edge = max(1, detectors // 32)
    beside = float(np.median(np.concatenate([values[:, :edge], values[:, -edge:]], 1)))
    inside = float(np.median(values[:, detectors // 2 - edge : detectors // 2 + edge]))
    if beside > inside and float(np.quantile(values, 0.9)) < 1.1 * beside:
        return [
            f"the values look like counts, or transmission: {beside:.4g} at the ends of the detectors and {inside:.4g} in the "
            f"middle. If so, their logarithm is taken by --flat {beside:.4g}"
        ]
    if beside > CUT_OFF * inside:
        return [
            f"the object seems to reach beyond the detectors: {beside:.4g} at their ends and {inside:.4g} in the middle. "
            "Expected line integrals of a whole object, 0 beside it"
        ]
    spread = spread_of(values.sum(1))
    if count >= FEWEST and spread > 2 * STEADY:
        return [
            f"the sums of the projections vary by {spread:.0%}, and those of parallel beams through a whole object do not: "
            "expected the object within the detectors, line integrals rather than counts, and no fan beam"
        ]
    return []
