r"""Sinograms as files hold them: their axes, counts, the unit of the angles and the rotation axis are put in one convention.

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

from .arrays import LARGEST, Arrays, image_size, real_numbers
from .moments import FEWEST, STEADY, Moments, spread_of

__all__ = ["Sinogram", "half_turn", "sinogram_of"]

Array = NDArray[np.float64]

BYTES = 20  # of memory for each pixel and angle, see RayTransform
TRANSPOSED = 4.0  # ratio of the spreads of the sums along both axes
UNCERTAIN = 0.1  # standard error of a center of rotation that is used, in detectors
OFF_CENTER = 0.25  # detectors
CLEAR = 20.0  # offset over its standard error above which a center is used in any case
SAME = 0.05  # detectors by which a center may differ from that of scikit-image
CUT_OFF = 0.25  # values at the ends of the detectors relative to those in the middle
NO_COUNT = 0.01  # share of counts that may be 0 or less


@dataclass(frozen=True)
class Sinogram:
    """Line integrals in the convention of :class:`~invdiff.operators.ParallelBeamCT`.

    Attributes:
        values: Float64 ``(angles, detectors)``.
        angles: In degrees.
        size: Image size ``(H, W)``.
        center: Detector on which the rotation axis projects.
        axis: Pixel ``(row, column)`` of the rotation axis.
        notes: What was converted, and doubts, for the user.
    """

    values: Tensor
    angles: list[float]
    size: tuple[int, int]
    center: float
    axis: tuple[float, float]
    notes: tuple[str, ...]


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
    measured = _line_integrals(given.numpy(), arrays, notes)
    values = _angles_first(measured, said, notes)
    turned = values is not measured
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
            f"machine has {memory / 2**30:.1f}. Average neighboring detectors, or give a smaller `size` (H, W)."
        )
    doubts = _doubts(values)
    notes += doubts
    moments = None if doubts else Moments.of(values)
    if said is not None:
        angles = _degrees(said, moments, notes)
    else:
        angles = half_turn(count) if moments is None else _likely_angles(moments, count, notes)
    if moments is not None and not moments.fit(angles, values):
        moments = None
        notes.append(
            "the centers of mass of the projections do not follow those of parallel beams at these angles: check the order of "
            "the angles and of the rows, and that no fan beam was used"
        )
    center, axis = _rotation(arrays, moments, angles, size, detectors, turned, notes)
    return Sinogram(torch.from_numpy(np.ascontiguousarray(values)), angles, size, center, axis, tuple(notes))


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


def _line_integrals(values: Array, arrays: Arrays, notes: list[str]) -> Array:
    r"""Return :math:`-\log((I - \text{dark}) / (\text{flat} - \text{dark}))` of counts :math:`I`, if the file has ``flat``."""
    if "flat" not in arrays:
        if "dark" in arrays:
            raise ValueError("ct: `dark` belongs to counts: give the counts without an object too, as `flat` or by --flat.")
        return values
    flat, dark = (_reference(arrays, name, values.shape, notes) for name in ("flat", "dark"))
    try:
        counts, open_beam = np.broadcast_arrays(values - dark, flat - dark)
    except ValueError:
        raise ValueError(
            f"ct: flat and dark have shapes {flat.shape} and {dark.shape}, expected one number, or one for each detector, the "
            f"last axis of the sinogram {values.shape}."
        ) from None
    if counts.shape != values.shape or not (open_beam > 0).all():
        raise ValueError(
            f"ct: flat must exceed dark and have no more values than the sinogram, got {flat.shape} and {dark.shape}."
        )
    dead = counts <= 0
    if dead.mean() > NO_COUNT:
        raise ValueError(f"ct: {dead.mean():.1%} of the counts have no logarithm: they do not exceed `dark` or 0.")
    if dead.any():
        least = counts[~dead].min()
        counts = np.where(dead, least, counts)
        notes.append(f"{int(dead.sum())} counts without light are taken as {least:.4g}, the least other one")
    return np.asarray(-np.log(counts / open_beam), dtype=np.float64)


def _reference(arrays: Arrays, name: str, shape: tuple[int, ...], notes: list[str]) -> Array:
    """Return counts without an object, or without light, that broadcast to those of a sinogram; 0 if the file has none."""
    given: Array = real_numbers(arrays, name).numpy() if name in arrays else np.zeros(())
    if given.shape == shape[:1] != shape[1:]:  # detectors first, or one number for each projection
        return given[:, None]
    if given.ndim == 2 and given.shape[1] == shape[1] and len(given) not in (1, shape[0]):
        notes.append(f"`{name}` is the mean of {len(given)} measurements")
        return np.asarray(given.mean(0))
    return given


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
    moments: Moments | None,
    angles: Sequence[float],
    size: tuple[int, int],
    detectors: int,
    turned: bool,
    notes: list[str],
) -> tuple[float, tuple[float, float]]:
    """Return the center of rotation on the detectors and the pixel of the axis: those of the file, or the middles.

    Without them a center that the centers of mass put elsewhere is taken. One that lies half a detector behind the middle is
    that of scikit-image, with the axis in pixel ``N // 2``; so is that of sinograms with the detectors first (``turned``).
    """
    middle = (detectors - 1) / 2
    axis = (size[0] - 1) / 2, (size[1] - 1) / 2
    if "axis" in arrays:
        row, column = _numbers(arrays, "axis", 2)
        axis = row, column
    if "center" in arrays:
        (center,) = _numbers(arrays, "center", 1)
        if not 0 <= center <= detectors - 1:
            raise ValueError(f"ct: center must be a detector from 0 to {detectors - 1}, got {center:g}.")
        return center, axis
    whole = detectors == math.ceil(2**0.5 * size[0]) and size[0] == size[1] and "size" in arrays
    usual = float(detectors // 2) if turned else middle
    offset, error, misfit = (0.0, math.inf, math.inf) if moments is None else moments.center(angles)
    told = error <= max(UNCERTAIN, abs(offset) / CLEAR) and misfit <= max(0.5, detectors / 100)
    center, found = usual, ""
    if told and abs(middle + offset - usual) >= max(OFF_CENTER, 5 * error):
        likely = detectors % 2 == 0 and abs(offset - 0.5) < max(SAME, 5 * error)
        center = detectors / 2 if likely else middle + offset
        found = "as the centers of mass of the projections say"
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
