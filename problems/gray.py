"""Grayscale and toned pictures that were saved in color."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from invdiff.io.images import Picture
from invdiff.operators.sampling.channel_mix import GRAY_WEIGHTS

__all__ = ["in_gray", "in_luma"]

Array = NDArray[np.float64]

EQUAL = 1.01 / 127.5  # one level of 8 bits: channels of a gray picture may differ by it after JPEG or color management
TONES = 32  # intervals of luma in which the mean color is taken
WINDOW = 4  # pixels, over whose squares colors are averaged: JPEG leaves noise in single ones
PIXELS = 64  # at least, for each of these intervals on average
STRONGEST = 0.3  # chroma of a tone
SHARE, MOST, FARTHEST = 0.999, 0.04, 0.08  # of the pixels, within this distance of the tone, and none farther; colors span 0..1


def in_gray(picture: Picture) -> Picture:
    """Return a grayscale picture that was saved as RGB with one channel and a note; other pictures as they are."""
    pixels = picture.pixels
    if len(pixels) != 3 or np.ptp(pixels, axis=0).max() > EQUAL:
        return picture
    return _with_luma(picture, pixels.mean(0), "the channels of INPUT are equal: it is taken as a grayscale picture")


def in_luma(picture: Picture) -> Picture:
    r"""Return the luma of a picture that is gray or of one tone, such as sepia, with a note; other pictures as they are.

    The colors of a toned picture lie on one curve: the chroma :math:`(C_b, C_r)` is a function of luma. The curve is the mean
    chroma in 32 intervals of luma (fewer in pictures of less than 2048 pixels), interpolated. A picture is of one tone if

    - the chroma, averaged over 4 x 4 pixels, is nearer to the curve than 0.04 (10 of 255) for 99.9 % of the pixels, and nowhere
      farther than 0.08: that leaves room for the chroma of a JPEG file of quality 30, and for noise;
    - the curve is nearer than 0.04 to a line through gray, so that there is one hue and its opposite, and nowhere farther than
      0.3 from gray: the few colors of a graphic are on a curve, too.

    Invisible pixels do not count.
    """
    gray = in_gray(picture)
    if gray is not picture or len(picture.pixels) != 3:
        return gray
    from scipy import ndimage

    red, green, blue = (picture.pixels + 1) / 2
    luma: Array = GRAY_WEIGHTS[0] * red + GRAY_WEIGHTS[1] * green + GRAY_WEIGHTS[2] * blue
    chroma = np.stack([(blue - luma) / (2 * (1 - GRAY_WEIGHTS[2])), (red - luma) / (2 * (1 - GRAY_WEIGHTS[0]))])
    visible = np.ones(luma.shape, bool) if picture.alpha is None else picture.alpha > 0
    if not visible.any():
        return picture
    curve = _curve(luma[visible], chroma[:, visible])
    off = np.zeros_like(chroma)
    off[:, visible] = chroma[:, visible] - curve
    distance = np.hypot(*(ndimage.uniform_filter(plane, WINDOW) for plane in off))
    _, axes = np.linalg.eigh(curve @ curve.T)
    one_hue = np.abs(axes[:, 0] @ curve).max() <= MOST and np.hypot(*curve).max() <= STRONGEST
    if not one_hue or np.quantile(distance, SHARE) > MOST or distance.max() > FARTHEST:
        return picture
    return _with_luma(
        picture,
        2 * luma - 1,
        "the colors of INPUT are of one tone, as of a sepia picture: its luma is taken as a grayscale picture",
    )


def _curve(luma: Array, chroma: Array) -> Array:
    """Return the mean chroma ``(2, N)`` at the luma of each pixel ``(N,)``."""
    tones = min(max(len(luma) // PIXELS, 1), TONES)
    place = np.clip((luma * tones).astype(int), 0, tones - 1)
    count, light = np.bincount(place, minlength=tones), np.bincount(place, luma, tones)
    there = count > 0
    means = [np.bincount(place, plane, tones)[there] / count[there] for plane in chroma]
    return np.stack([np.interp(luma, light[there] / count[there], mean) for mean in means])


def _with_luma(picture: Picture, luma: Array, note: str) -> Picture:
    return replace(picture, pixels=luma[None], notes=(*picture.notes, note))
