"""Estimation of the noise level of pictures from their finest wavelet coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoiseLevel", "noise_level"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

NORMAL_MAD = 0.6744897501960817  # median of |n| of a standard normal variable
SMOOTH, SMOOTHEST = 0.25, 0.1  # shares of the coefficients, by their activity
FEWEST = 48  # coefficients that determine a level to a sixth
SPREAD = 1.17  # standard deviation of the level from n coefficients, in units of sigma / sqrt(n)
UNDECIDED = 0.5  # largest error of a level that is reported, relative to it
ROUNDING = 1 / 255  # a difference that small does not matter: half a step of 8-bit pictures
GRAPHIC = 0.05  # share of constant areas of other values than one background
FLAT = 1e-6  # range of pixel values that counts as constant; pictures span [-1, 1]
WINDOW = 5  # side of the window of the activity, in coefficients
BLOCK = 8  # side of the blocks of JPEG
FINE = ((3, 4), (4, 3), (4, 4), (2, 5), (5, 2), (5, 5))  # fine frequencies of a block, which JPEG rounds to 0 first
ACTIVE = 0.01  # coefficients above this are more than rounding to 8 bits
EXCESS, SURE = 1.5, 6.0  # how much more often coefficients of one block grid are near 0: as a ratio, and in standard deviations


@dataclass(frozen=True)
class NoiseLevel:
    """Estimated standard deviation of white noise.

    Attributes:
        sigma: The standard deviation, in the units of the pictures.
        error: Its uncertainty: the sampling error, and how much the estimate depends on the choice of smooth places.
    """

    sigma: float
    error: float


def noise_level(pictures: Array, known: Mask | None = None, *, compressed: bool = False) -> NoiseLevel:
    r"""Estimate the noise level of pictures ``(N, H, W)`` that span [-1, 1]: one level for all of them.

    In an orthonormal wavelet basis white noise has the same level in all coefficients, independent of each other. The level is
    the median of :math:`|w| / 0.6745` over the diagonal coefficients :math:`w` of the finest scale (Daubechies, order 2), taken
    over the quarter of the places whose horizontal and vertical coefficients are smallest: there the picture is smooth, and
    since these are independent of :math:`w`, the choice of places does not bias the estimate. It is averaged over the pictures.

    Left out are coefficients that show no noise, or not all of it: of windows of 4 x 4 pixels that are constant (masked
    backgrounds, graphics), contain saturated pixels (the smallest or the largest value of a picture, if it is more frequent
    than the value next to it) or unknown ones; and coefficients beside such places, where a drawing has its edges.

    Args:
        pictures: The pictures, finite.
        known: True at measured pixels, broadcastable to ``pictures``. Default: all.
        compressed: Whether the pictures are known to come from JPEG files. The level is then that of what compression left,
            which is all of it only where it is large against the quantization steps.

    Raises:
        ValueError: If too few coefficients remain; unless ``compressed``, if the pictures show the block grid of JPEG, whose
            rounding removes noise;
            if they are graphics; or if they are textures without a smooth place (an error of more than half the level).

    References:
        Donoho & Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, https://doi.org/10.1093/biomet/81.3.425
    """
    given = np.ones(pictures.shape, bool) if known is None else np.broadcast_to(known, pictures.shape)
    height, width = pictures.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(f"a picture of {width} x {height} is too small to show its noise")
    shares, found = np.zeros(4), list[tuple[Array, int]]()
    for picture, there in zip(pictures, given, strict=True):
        usable, lost = _usable(picture, there)
        shares += np.array(lost) / len(pictures)
        if usable.sum() >= FEWEST // 3:
            found.append(_levels(picture, usable))
    counted = sum(count for _, count in found)
    constant, tinted, saturated, missing = shares
    if counted < FEWEST:
        raise ValueError(
            f"too few pixels show the noise: {constant:.0%} are in constant areas, {saturated:.0%} saturated (at the darkest "
            f"or brightest value) and {missing:.0%} missing, of a picture of {pictures.shape[-1]} x {pictures.shape[-2]}"
        )
    if not compressed and _has_block_grid(pictures, given):
        raise ValueError("the picture shows the 8 x 8 blocks of JPEG compression, which removes an unknown part of the noise")
    sigma, smoothest, across = np.mean([levels for levels, _ in found], axis=0)
    sampling = SPREAD * sigma / math.sqrt(counted)
    error = math.hypot(sampling, sigma - smoothest, max(0.0, across - smoothest))
    if error > max(UNDECIDED * sigma, ROUNDING):
        raise ValueError(
            "the noise cannot be told from the details of the picture: "
            f"{sigma / 2:.3f} +- {error / 2:.3f}, pixels spanning 0..1"
        )
    if tinted > GRAPHIC and sigma > ROUNDING:
        raise ValueError(
            f"{tinted:.0%} of the picture are areas of several constant values, as in a graphic, which show no noise"
        )
    return NoiseLevel(float(sigma), error)


def _usable(picture: Array, known: Mask) -> tuple[Mask, tuple[float, float, float, float]]:
    """Return where coefficients show the noise; and the shares of constant pixels, of those that have neither the most frequent
    constant value nor the smallest or largest value of the picture, of saturated pixels, and of missing ones."""
    from scipy import ndimage

    saturated = _saturated(picture, known)

    def over_support(function: str, values: NDArray[np.generic], outside: float) -> NDArray[np.generic]:
        rows, columns = (side // 2 * 2 for side in values.shape)
        reduce = getattr(ndimage, f"{function}_filter")
        # Coefficient (i, j) depends on the pixels 2i - 1 to 2i + 2; at the border, on the opposite one too.
        result: NDArray[np.generic] = reduce(values, size=4, origin=-1, mode="constant", cval=outside)[:rows:2, :columns:2]
        return result

    flat = over_support("maximum", picture, -np.inf) - over_support("minimum", picture, np.inf) <= FLAT  # type: ignore[operator]
    hidden = over_support("maximum", (saturated | ~known).astype(np.uint8), 1).astype(bool)
    usable = ~ndimage.binary_dilation(flat, iterations=2) & ~hidden
    plain = picture[: flat.shape[0] * 2 : 2, : flat.shape[1] * 2 : 2][flat]
    _, counts = np.unique(plain[(plain > picture.min()) & (plain < picture.max())], return_counts=True)
    tinted = (counts.sum() - counts.max(initial=0)) / flat.size
    return usable, (float(flat.mean()), float(tinted), float(saturated.mean()), 1 - float(known.mean()))


def _saturated(picture: Array, known: Mask) -> Mask:
    values, counts = np.unique(picture[known], return_counts=True)
    result = np.zeros(picture.shape, bool)
    for end, inner in ((0, 1), (-1, -2)):
        if len(values) > 1 and counts[end] > counts[inner]:
            result |= picture == values[end]
    return result & known


def _levels(picture: Array, usable: Mask) -> tuple[Array, int]:
    """Return levels from diagonal coefficients in smooth and the smoothest places, and others there; how many the first has."""
    import pywt
    from scipy import ndimage

    rows, columns = (side // 2 * 2 for side in picture.shape)
    _, bands = pywt.dwt2(picture[:rows, :columns], "db2", mode="periodization")
    across, down, diagonal = (np.asarray(band, dtype=np.float64) for band in bands)
    energy = ndimage.uniform_filter(np.where(usable, across**2 + down**2, 0), WINDOW, mode="nearest")
    share = ndimage.uniform_filter(usable.astype(float), WINDOW, mode="nearest")
    activity = (energy / np.maximum(share, 1e-9))[usable]
    order = np.argsort(activity)
    few, fewer = (max(min(len(order), FEWEST), int(part * len(order))) for part in (SMOOTH, SMOOTHEST))

    def level(w: Array, count: int) -> float:
        return float(np.median(np.abs(w[usable][order[:count]])) / NORMAL_MAD)

    others = max(level(across, fewer), level(down, fewer))
    return np.array([level(diagonal, few), level(diagonal, fewer), others]), few


def _has_block_grid(pictures: Array, known: Mask) -> bool:
    """Return whether fine cosine coefficients of 8 x 8 blocks are near 0 far more often for one position of the grid."""
    from scipy import fft, ndimage

    if min(pictures.shape[1:]) < 4 * BLOCK:
        return False
    basis = fft.idct(np.eye(BLOCK), axis=0, norm="ortho")
    near, total = np.zeros((BLOCK, BLOCK)), np.zeros((BLOCK, BLOCK))
    for picture, there in zip(pictures, known, strict=True):
        inside = ndimage.minimum_filter(there.astype(np.uint8), BLOCK, origin=-1, mode="constant")[4:-4, 4:-4] > 0
        for u, v in FINE:
            rows = ndimage.correlate1d(picture, basis[:, u], axis=0)
            size = np.abs(ndimage.correlate1d(rows, basis[:, v], axis=1))[4:-4, 4:-4]
            active = inside & (ndimage.maximum_filter(size, BLOCK) > ACTIVE)  # all grids agree where nothing happens
            if active.sum() < BLOCK**2:
                continue
            small = 0.3 * np.median(size[active])
            for i in range(BLOCK):
                for j in range(BLOCK):
                    cell = size[i::BLOCK, j::BLOCK][active[i::BLOCK, j::BLOCK]]
                    near[i, j] += (cell < small).sum()
                    total[i, j] += cell.size
    if not total.min():
        return False
    share = near.sum() / total.sum()
    deviation = np.sqrt(share * (1 - share) / total)
    return bool((((near / total - share) / np.maximum(deviation, 1e-9) > SURE) & (near / total > EXCESS * share)).any())
