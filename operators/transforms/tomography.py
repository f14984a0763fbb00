r"""Line integrals of an image: computed tomography with parallel-beam and fan-beam geometry.

The image is modeled as constant on every pixel, so a line integral is a sum of pixel values, each times the length of the ray
within that pixel. These lengths form the matrix of the operator. It is sparse, and is stored together with its transpose.
"""

from __future__ import annotations

import math
import operator
from abc import ABC
from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.validation import image_shape
from .sparse import SparseRows, sparse_product

__all__ = ["FanBeamCT", "ParallelBeamCT", "RayTransform"]


class RayTransform(LinearOperator, ABC):
    r"""Line integrals of every channel.

    .. math:: y_{c, i} = \sum_{p} \ell_{ip}\, x_{c, p} + n_{c, i}, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    where :math:`\ell_{ip}` is the length of ray :math:`i` within pixel :math:`p`, exact up to rounding to float32. A ray along
    the border of two pixels counts half for each. The adjoint is the exact transpose.

    For more than 512 measurements ``solve`` is iterative. The smaller :math:`\lambda` is compared to the square of the largest
    singular value, which is about the number of angles times the side in pixels, the more products with the matrix it takes:
    for 128 x 128 pixels and 60 angles, 80 products for :math:`\lambda = 10` and 480 for 0.25. ``pinv`` is then computed by
    conjugate gradients on :math:`A^\top A x = A^\top y`: a least-squares solution, not a filtered backprojection.

    Cost: about 20 bytes of memory per pixel and angle if the detector spacing equals the pixel size: 240 MB for 256 x 256
    pixels and 180 angles, built in three seconds. For float64 data the lengths are converted at every product; avoid this by
    moving the operator once (``op.to(dtype=torch.float64)``).
    """

    def _trace(
        self,
        in_shape: tuple[int, int, int],
        points: np.ndarray,
        directions: np.ndarray,
        pixel_size: float,
        axis: tuple[float, float],
    ) -> None:
        """Set the matrix and the shapes for rays ``(angles, detectors, 2)``, as ``(x, y)`` from the axis with y upward."""
        channels, height, width = self.in_shape = in_shape
        self.out_shape = channels, *points.shape[:2]
        # As (row, column) in pixels from the upper left corner.
        points, directions = (np.stack([-rays[..., 1], rays[..., 0]], -1) for rays in (points / pixel_size, directions))
        points += np.array(axis) + 0.5
        rows = [_lengths((height, width), p, d, pixel_size) for p, d in zip(points, directions, strict=True)]
        matrix = scipy.sparse.csr_array(scipy.sparse.vstack(rows, format="csr"))
        rows.clear()
        self.rays, self.pixels = SparseRows(matrix), SparseRows(matrix.T.tocsr())

    def forward(self, x: Tensor) -> Tensor:
        return sparse_product(x.reshape(-1, self.rays.shape[1]), self.rays, self.pixels).reshape(-1, *self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return sparse_product(y.reshape(-1, self.rays.shape[0]), self.pixels, self.rays).reshape(-1, *self.in_shape)


class ParallelBeamCT(RayTransform):
    r"""Parallel-beam tomography: the Radon transform (sinogram) of every channel.

    .. math:: y_{c, \theta, s} = \int x_c(s \cos\theta + t \sin\theta,\; s \sin\theta - t \cos\theta)\, dt + n

    with the origin on the rotation axis, :math:`x` to the right and :math:`y` upward. At 0 degrees the detectors are in
    the order of the columns and the rays run downward; larger angles rotate both counter-clockwise, as in
    ``skimage.transform.radon``. The detectors are points, at :math:`s = (d - \text{center}) \cdot` ``detector_spacing`` for
    :math:`d = 0, \dots, D - 1`. See also :class:`RayTransform`.

    scikit-image has the detectors along the first axis of the sinogram, and rotates about pixel ``N // 2``, which for even
    sides is half a pixel off the center of the image: ``center=N // 2, axis=(N // 2, N // 2)``.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis. Measurements are ``(B, C, angles, detectors)``.
        angles: :math:`\theta` in degrees, in any order. Angles 180 degrees apart measure the same lines.
        detectors: Number :math:`D` of detectors. Default: the smallest number that covers the diagonal of the image.
        detector_spacing: Distance between detectors, in the unit of ``pixel_size``. Default: ``pixel_size``.
        center: Center of rotation: the detector on which the rotation axis projects, counted from 0, which may be a fraction.
            Default: the middle of the detectors, ``(D - 1) / 2``.
        axis: Pixel ``(row, column)`` through whose center the rotation axis passes, counted from 0, which may be fractions.
            Default: the center of the image, ``((H - 1) / 2, (W - 1) / 2)``.
        pixel_size: Side of a pixel, which sets the unit of length. With 1, integrals are in image units times pixels.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``detectors`` is not an integer.
        ValueError: If there is no angle or one is not finite, or if a count or a length is not positive.

    References:
        Siddon, Fast calculation of the exact radiological path for a three-dimensional CT array, 1985,
        https://doi.org/10.1118/1.595715
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        angles: Sequence[float] | Tensor | np.ndarray,
        *,
        detectors: int | None = None,
        detector_spacing: float | None = None,
        center: float | None = None,
        axis: tuple[float, float] | None = None,
        pixel_size: float = 1.0,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        shape, self.noise = image_shape("ParallelBeamCT", in_shape), noise_of(sigma_y, noise)
        pixel_size = _length("ParallelBeamCT", "pixel_size", pixel_size)
        spacing = pixel_size if detector_spacing is None else detector_spacing
        spacing = _length("ParallelBeamCT", "detector_spacing", spacing)
        if detectors is None:
            detectors = math.ceil(math.hypot(*shape[1:]) * pixel_size / spacing)
        along, across = _frame(_degrees("ParallelBeamCT", angles))
        points = along[:, None] * _offsets("ParallelBeamCT", detectors, spacing, center)
        place = _axis("ParallelBeamCT", shape, axis)
        self._trace(shape, points, np.broadcast_to(across[:, None], points.shape), pixel_size, place)


class FanBeamCT(RayTransform):
    r"""Fan-beam tomography: rays from a point source to a flat or curved detector, which rotate around the image together.

    At 0 degrees the source is ``source_distance`` above the rotation axis, and the horizontal detector is
    ``detector_distance`` below it; larger angles rotate both counter-clockwise. Detector :math:`d` is a point at
    :math:`(d - \text{center}) \cdot` ``detector_spacing`` along the detector, which at 0 degrees runs to the right: along a
    line, or along an arc around the source if it is ``curved``, as in medical scanners, with equal angles between the rays.
    For a distant source this approaches :class:`ParallelBeamCT`. See also :class:`RayTransform`.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis. Measurements are ``(B, C, angles, detectors)``.
        angles: Source angles in degrees, in any order. Only a full rotation measures every line through the image.
        source_distance: Distance from the rotation axis to the source, in the unit of ``pixel_size``. More than that from the
            axis to any corner of the image.
        detector_distance: Distance from the axis to the detector, in the unit of ``pixel_size``. A detector closer than half
            the diagonal is virtual: rays are followed through the whole image. At 0, ``detector_spacing`` is the distance
            between rays at the axis.
        detectors: Number :math:`D` of detectors.
        detector_spacing: Distance between detectors, in the unit of ``pixel_size``; along the arc, if the detector is curved.
        curved: Whether the detector is an arc around the source rather than flat.
        center: The detector on which the rotation axis projects, counted from 0, which may be a fraction. Default: the middle
            of the detectors, ``(D - 1) / 2``.
        axis: Pixel ``(row, column)`` through whose center the rotation axis passes, counted from 0, which may be fractions.
            Default: the center of the image, ``((H - 1) / 2, (W - 1) / 2)``.
        pixel_size: Side of a pixel, which sets the unit of length. With 1, integrals are in image units times pixels.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``detectors`` is not an integer.
        ValueError: If there is no angle or one is not finite, if a count or a length is not positive, or if the source lies
            within the circle around the image.

    References:
        Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4.2,
        https://doi.org/10.1137/1.9780898719277
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        angles: Sequence[float] | Tensor | np.ndarray,
        *,
        source_distance: float,
        detector_distance: float,
        detectors: int,
        detector_spacing: float,
        curved: bool = False,
        center: float | None = None,
        axis: tuple[float, float] | None = None,
        pixel_size: float = 1.0,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        shape, self.noise = image_shape("FanBeamCT", in_shape), noise_of(sigma_y, noise)
        pixel_size = _length("FanBeamCT", "pixel_size", pixel_size)
        source_distance = _length("FanBeamCT", "source_distance", source_distance)
        place = _axis("FanBeamCT", shape, axis)
        radius = math.hypot(*(max(at + 0.5, side - at - 0.5) for at, side in zip(place, shape[1:], strict=True))) * pixel_size
        if source_distance <= radius:
            raise ValueError(
                f"FanBeamCT: source_distance must be more than half the diagonal of the image, which is {radius:g}, "
                f"got {source_distance:g}. Lengths are in the unit of pixel_size, here {pixel_size:g}."
                if axis is None
                else f"FanBeamCT: the corners of the image are up to {radius:g} from the axis, and source_distance must be "
                f"more, got {source_distance:g}."
            )
        if detector_distance != 0:
            detector_distance = _length("FanBeamCT", "detector_distance", detector_distance)
        along, across = _frame(_degrees("FanBeamCT", angles))
        spacing = _length("FanBeamCT", "detector_spacing", detector_spacing)
        offsets = _offsets("FanBeamCT", detectors, spacing, center)
        reach = source_distance + detector_distance
        if curved and np.abs(offsets).max() >= np.pi / 2 * reach:
            raise ValueError(
                f"FanBeamCT: {detectors} detectors {spacing:g} apart reach a quarter turn from the central ray on an arc of "
                f"radius {reach:g}, expected rays toward the axis. Check detector_spacing, and center."
            )
        sideways, ahead = (np.sin(offsets / reach), np.cos(offsets / reach)) if curved else (offsets, reach)
        directions = along[:, None] * sideways + across[:, None] * ahead
        sources = np.broadcast_to(-source_distance * across[:, None], directions.shape)
        self._trace(shape, sources, directions, pixel_size, place)


def _length(owner: str, name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{owner}: {name} must be positive and finite, got {value:g}.")
    return float(value)


def _degrees(owner: str, angles: Sequence[float] | Tensor | np.ndarray) -> np.ndarray:
    degrees = np.asarray(torch.as_tensor(angles).cpu(), dtype=np.float64)
    if degrees.ndim != 1 or not degrees.size or not np.isfinite(degrees).all():
        raise ValueError(
            f"{owner}: angles must be a non-empty list of finite numbers, in degrees, got shape {degrees.shape} with "
            f"{np.count_nonzero(~np.isfinite(degrees))} NaN or infinite values."
        )
    return np.fmod(degrees, 360)  # exact, and cosdg has no digits left for huge angles


def _offsets(owner: str, detectors: int, spacing: float, center: float | None) -> np.ndarray:
    """Return the positions of the detectors relative to the rotation axis, shape ``(detectors, 1)``."""
    try:
        detectors = operator.index(detectors)
    except TypeError:
        raise TypeError(f"{owner}: detectors must be an integer, got {detectors!r}.") from None
    if detectors < 1:
        raise ValueError(f"{owner}: detectors must be positive, got {detectors}.")
    middle = (detectors - 1) / 2 if center is None else float(center)
    if not math.isfinite(middle):
        raise ValueError(f"{owner}: center must be a finite number, counted in detectors from 0, got {middle}.")
    return ((np.arange(detectors) - middle) * spacing)[:, None]


def _axis(owner: str, shape: tuple[int, int, int], axis: tuple[float, float] | None) -> tuple[float, float]:
    """Return the pixel ``(row, column)`` of the rotation axis."""
    row, column = ((side - 1) / 2 for side in shape[1:]) if axis is None else (float(place) for place in axis)
    if not (math.isfinite(row) and math.isfinite(column)):
        raise ValueError(f"{owner}: axis must be a pixel (row, column), two finite numbers, got {axis}.")
    return row, column


def _frame(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors along the detector and along the central ray, both ``(angles, 2)`` as ``(x, y)``."""
    # cosdg and sindg are exact at multiples of 90 degrees, where rays can run along the borders of pixels.
    cosine, sine = scipy.special.cosdg(degrees), scipy.special.sindg(degrees)
    return np.stack([cosine, sine], -1), np.stack([sine, -cosine], -1)


def _lengths(
    sides: tuple[int, int], points: np.ndarray, directions: np.ndarray, pixel_size: float
) -> scipy.sparse.csr_array[np.float32]:
    """Return the lengths of rays within pixels, ``(rays, pixels)``.

    Every ray is followed along the axis on which it advances faster. Between two grid lines of that axis it crosses one or two
    pixels, and its crossing with a grid line of the other axis divides its length between them.

    Args:
        sides: Height and width of the image.
        points: One point of each ray as ``(row, column)`` from the upper left corner, in pixels, shape ``(rays, 2)``.
        directions: Direction of each ray as ``(row, column)``, of any length but 0, shape ``(rays, 2)``.
        pixel_size: Side of a pixel in the unit of the lengths.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    faster = np.abs(directions).argmax(1)
    for axis in (0, 1):
        chosen = np.flatnonzero(faster == axis)
        point, direction = points[chosen], directions[chosen]
        slope = (direction[:, 1 - axis] / direction[:, axis])[:, None]
        grid = np.arange(sides[axis] + 1) - point[:, [axis]]
        crossings = point[:, [1 - axis]] + slope * grid
        low, high = np.minimum(crossings[:, :-1], crossings[:, 1:]), np.maximum(crossings[:, :-1], crossings[:, 1:])
        level = low == high
        first = np.where(level, np.ceil(low) - 1, np.floor(low))  # An axis-parallel ray on a grid line: half on either side.
        beyond = np.where(level, (low == first + 1) / 2, (high - first - 1).clip(0) / np.where(level, 1, high - low))
        length = pixel_size * np.sqrt(1 + slope**2)
        for cell, share in ((first, 1 - beyond), (first + 1, beyond)):
            inside = (cell >= 0) & (cell < sides[1 - axis]) & (share > 0)
            ray, step = np.nonzero(inside)
            other = cell[inside].astype(np.int32)
            pixel = step * sides[1] + other if axis == 0 else other * sides[1] + step
            parts.append((chosen[ray], pixel, (length * share)[inside]))
    rays, pixels, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    places = rays.astype(np.int32), pixels.astype(np.int32)
    return scipy.sparse.csr_array((values.astype(np.float32), places), shape=(len(points), math.prod(sides)))
