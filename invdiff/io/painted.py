"""Paint on a photograph: where a picture has the color of a brush, and where a copy differs from the original."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from invdiff.io.picture import Array, Picture

__all__ = ["is_copy_of", "painted_in", "unlike"]

Hole = NDArray[np.bool_]

LIKE = 0.1  # largest difference of a channel, on the 0..1 scale, of pixels of a copy that was saved as a JPEG file
SMALLEST = 0.03  # smallest difference that counts as paint: eight levels of 8 bits
SURE = 0.15  # difference that paint has somewhere
CLEAR = 0.5  # share of paint that a stroke on a copy has somewhere
CORE = 0.12  # largest difference of a channel from the color of the paint inside a stroke
PAINT = 0.1  # share of paint at the edge of a stroke from which it is filled
REACH, SURROUNDINGS = 3, 13  # pixels: between a stroke and what is taken as its surroundings; and their width, averaged twice
ROUNDS = 4  # soft brushes are followed outward, REACH pixels a round
DOUBTS = 3  # standard deviations of its share from which a pixel is painted
MARGIN = 128  # pixels around all strokes that can matter
COLORED = 64  # difference of the channels of a color, of 255, that chroma samples carry
CLOSE, HALF = 24, 0.4  # pixels around strokes where thinner ones count; and their share of the paint
LUMA = (0.299, 0.587, 0.114)  # of the channels, in JPEG files
FAINTEST = 1e-3


def is_copy_of(picture: Picture, photograph: Picture, *, where: Hole) -> bool:
    """Return whether most pixels of ``where`` ``(H, W)`` are those of a photograph of the same size, up to JPEG artifacts."""
    if not {len(picture.pixels), len(photograph.pixels)} <= {1, 3} or not where.any():
        return False
    return float((_difference(picture, photograph)[where] < LIKE).mean()) > 0.5


def unlike(copy: Picture, photograph: Picture, source: str, *, threshold: float | None = None) -> tuple[Hole, tuple[str, ...]]:
    """Return booleans ``(H, W)``, true where a painted copy differs from the photograph, and a note.

    A difference counts if it is larger than the threshold and connected to one that is clear, so that single pixels changed by
    a JPEG file do not.

    Args:
        copy: Picture of the size of the photograph, painted over in places.
        photograph: The photograph.
        source: Name of the copy in the note.
        threshold: Difference of a channel, on the 0..1 scale. Default: four times the median difference, at least 0.03.

    Raises:
        ValueError: If nothing differs.
    """
    difference = _difference(copy, photograph)
    lowest = _noise(difference) if threshold is None else threshold
    hole = _connected(difference > max(lowest, SURE), difference > lowest)
    if not hole.any():
        raise ValueError(f"{source}: a copy of INPUT in which nothing is painted over: no pixel differs clearly.")
    return hole, (f"{source}: a copy of INPUT that differs from it in {hole.mean():.2%} of the pixels: these are filled",)


def painted_in(
    picture: Picture,
    color: tuple[int, int, int],
    source: str,
    *,
    threshold: float | None = None,
    clean: Picture | None = None,
) -> tuple[Hole, tuple[str, ...]]:
    r"""Return booleans ``(H, W)``, true where a picture is painted in a color, and a note.

    A pixel :math:`p` at the edge of a stroke is a mixture :math:`p = (1 - a) x + a c` of the scene :math:`x` and the color
    :math:`c`. Its share of paint :math:`a` is estimated by weighted least squares,

    .. math:: \hat a = \frac{(c - x)^\top \Sigma^{-1} (p - x)}{(c - x)^\top \Sigma^{-1} (c - x)}

    If the clean photograph is known, it is :math:`x`, and :math:`\Sigma = I`. Otherwise :math:`x` is the mean color around the
    stroke and :math:`\Sigma` the covariance of the colors about it, and shares below three of their standard deviations do not
    count. Filled is what is connected to pixels of the color itself.

    Args:
        picture: The painted picture, grayscale or RGB.
        color: Color of the paint, RGB of 8 bits.
        source: Name of the picture in notes and errors.
        threshold: Share of paint above which a pixel is filled. Default: 0.1.
        clean: The photograph without the paint, of the same size, if the picture may be a copy of it.

    Raises:
        ValueError: If no pixel has the color, or the picture cannot have it.
    """
    channels, name = len(picture.pixels), "#{:02x}{:02x}{:02x}".format(*color)
    if channels not in (1, 3):
        raise ValueError(f"{source}: has {channels} channels, and --mask-color is for grayscale and RGB pictures.")
    if channels == 1 and len({*color}) > 1:
        raise ValueError(
            f"{source}: is a grayscale picture, so that nothing in it can have the color {name}: see --mask-color."
        )
    pixels, paint = (picture.pixels + 1) / 2, np.array(color[:channels], dtype=np.float64)[:, None, None] / 255
    distance = _distance(pixels, paint)
    shown = np.ones(distance.shape, dtype=bool) if picture.alpha is None else picture.alpha > 0
    lowest = PAINT if threshold is None else threshold
    if clean is not None and is_copy_of(picture, clean, where=shown):
        changed = _difference(picture, clean)
        scene = np.broadcast_to((clean.pixels + 1) / 2 if len(clean.pixels) == channels else _mean(clean), pixels.shape)
        share = ((paint - scene) * (pixels - scene)).sum(0) / ((paint - scene) ** 2).sum(0).clip(1e-6)
        differs = changed > _noise(changed)
        hole = _connected(differs & shown & (share > max(lowest, CLEAR)), differs & shown & (share > lowest))
    else:
        core = (distance < CORE) & shown
        hole = _followed(
            pixels,
            paint,
            core,
            shown,
            lowest,
            shared=picture.chroma not in (None, (1, 1)) and max(color) - min(color) > COLORED,
        )
    if not hole.any():
        row, column = np.unravel_index(np.argmin(np.where(shown, distance, np.inf)), distance.shape)
        nearest = "#{:02x}{:02x}{:02x}".format(
            *np.rint(255 * np.broadcast_to(pixels[:, row, column], 3)).astype(int).clip(0, 255)
        )
        raise ValueError(
            f"{source}: no pixel has the color {name} of --mask-color. The nearest is {nearest}, in column {column} and row "
            f"{row}, counted from 0."
        )
    return hole, (f"{source}: {hole.mean():.2%} of the pixels are painted in {name}: these are filled",)


def _followed(pixels: Array, paint: Array, core: Hole, shown: Hole, lowest: float, *, shared: bool) -> Hole:
    """Return strokes with their edges, given the pixels ``core`` that have the color of the paint.

    Args:
        pixels: The painted picture, ``(C, H, W)``, on the 0..1 scale.
        paint: Color of the paint, ``(C, 1, 1)``.
        core: Where the picture has it, ``(H, W)``.
        shown: Where the picture is visible.
        lowest: Share of paint from which a pixel is filled.
        shared: Whether pixels share samples of color, as in most JPEG files: a thin stroke has half of its color, and counts if
            it is near a thicker one.
    """
    if not core.any():
        return core
    box = tuple(
        slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in scipy.ndimage.find_objects(core.view(np.uint8))[0]
    )
    found = np.zeros_like(core)
    found[box] = _followed_in(pixels[:, *box], paint, core[box], shown[box], lowest, shared=shared)
    return found


def _followed_in(pixels: Array, paint: Array, core: Hole, shown: Hole, lowest: float, *, shared: bool) -> Hole:
    # Brightness is stored for every pixel.
    as_bright = (np.abs(np.tensordot(LUMA[: len(pixels)], pixels - paint, 1)) < CORE) & shown & shared
    hole = core
    for _ in range(ROUNDS):
        near = scipy.ndimage.distance_transform_cdt(~hole, metric="chessboard")
        close = (near <= CLOSE) & as_bright
        share, doubt = _shares(pixels, paint, (near > REACH) & shown & ~(close & (_distance(pixels, paint) < HALF)))
        clear = (share > np.maximum(lowest, DOUBTS * doubt)) & shown
        seeds = hole | (clear & close & (share > HALF))
        larger = _connected(seeds, seeds | (clear & (near <= REACH)))
        if (larger == hole).all():
            break
        hole = larger
    return hole if shared else scipy.ndimage.binary_dilation(hole) & shown


def _shares(pixels: Array, paint: Array, around: Hole) -> tuple[Array, Array]:
    """Return the share of paint of every pixel, and its standard deviation, given pixels ``around`` that have none."""
    weight = _smooth(around.astype(np.float64))
    sums = np.stack([_smooth(np.where(around, channel, 0.0)) for channel in pixels])
    known = weight > FAINTEST
    scene = sums / np.where(known, weight, 1.0)
    rest = (pixels - scene)[:, around & known]
    if not rest.size:
        return np.zeros(known.shape), np.ones(known.shape)
    covariance = rest @ rest.T / rest.shape[1] + SMALLEST**2 / 9 * np.eye(len(pixels))
    inverse = np.linalg.inv(covariance)
    weights = np.tensordot(inverse, paint - scene, 1)
    power = (weights * (paint - scene)).sum(0).clip(FAINTEST)
    share = np.where(known, (weights * (pixels - scene)).sum(0) / power, 0.0)
    return share, 1 / np.sqrt(power)


def _smooth(values: Array) -> Array:
    """Return the mean of ``(H, W)`` around every pixel."""
    for _ in range(2):  # nearly a Gaussian, and much faster
        values = scipy.ndimage.uniform_filter(values, SURROUNDINGS)
    return values


def _connected(seeds: Hole, mask: Hole) -> Hole:
    """Return the parts of a mask that touch a seed."""
    labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    touched = np.zeros(count + 1, dtype=bool)
    touched[labels[seeds & mask]] = True
    return np.asarray(touched[labels])


def _distance(pixels: Array, paint: Array) -> Array:
    """Return the largest difference of a channel from the color of the paint, ``(H, W)``."""
    return np.asarray(np.abs(pixels - paint).max(0), dtype=np.float64)


def _difference(picture: Picture, photograph: Picture) -> Array:
    ours, theirs = picture.pixels, photograph.pixels
    if len(ours) != len(theirs):  # one of them is grayscale
        ours, theirs = np.broadcast_to(ours, (3, *ours.shape[1:])), np.broadcast_to(theirs, (3, *theirs.shape[1:]))
    return np.asarray(np.abs(ours - theirs).max(0) / 2, dtype=np.float64)


def _mean(picture: Picture) -> Array:
    return np.asarray((picture.pixels.mean(0, keepdims=True) + 1) / 2, dtype=np.float64)


def _noise(difference: Array) -> float:
    """Return the difference from which a pixel of a copy is changed by more than a JPEG file does."""
    return max(4 * float(np.median(difference)), SMALLEST)
