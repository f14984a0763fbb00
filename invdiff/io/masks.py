"""Masks: which pixels of a picture are to be filled, told by the levels, the opacity or the paint of a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from invdiff.io.metadata import description, with_description
from invdiff.io.painted import is_copy_of, painted_in, unlike
from invdiff.io.picture import Array, Picture, check_picture, picture_of_array

__all__ = ["FoundMask", "Hole", "MaskRules", "gray", "mask_of_alpha", "mask_of_array", "mask_of_picture", "used_mask"]

Hole = NDArray[np.bool_]

# Share of paint from which a pixel is filled. Less than a twentieth of a stroke is hardly seen, and any more, left at the edge
# of a hole, is continued into it: at 0.1 the filled picture loses 2 dB, at 0.5 it loses 13.
THRESHOLD = 0.05
JPEG_THRESHOLD = 0.15  # in a mask that is a JPEG file: its ringing around strokes reaches 0.13 at quality 75
SOFT, SOLID = 0.02, 0.1  # from black or white: what is called soft; and what is neither black nor white
MOST_GRAY = 0.5  # share of gray pixels of a mask with soft edges; photographs have more
MOST_COLORED = 0.001
LEAST_SHOWN = 0.01  # share of pixels of a copy of a photograph that are neither black nor white
ZERO_AND_ONE = "the mask holds 0 and 1 alone: 1 is taken as white"
LEVELS_OF_BYTES = "the mask is taken as levels from 0 to 255"
USED = "mask of invdiff: white was filled"  # description in the file of a mask that was used
PAINT = "--mask-color, such as --mask-color red"


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """How a mask is read.

    Attributes:
        keep: ``"black"`` or ``"white"``: level of the pixels to keep.
        threshold: Share of paint, between 0 and 1, above which a pixel is filled. Default: 0.05; 0.15 in a JPEG file.
        color: Color of the paint, RGB of 8 bits.
        photograph: The picture to be filled, if it is known.

    Raises:
        ValueError: If ``keep`` is neither of the two, or the threshold is not between 0 and 1.
    """

    keep: str = "black"
    threshold: float | None = None
    color: tuple[int, int, int] | None = None
    photograph: Picture | None = None

    def __post_init__(self) -> None:
        if self.keep not in ("black", "white"):
            raise ValueError(f"mask: keep must be 'black' or 'white', got {self.keep!r}.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"mask: the threshold must be between 0 and 1, got {self.threshold}.")


@dataclass(frozen=True, eq=False)
class FoundMask:
    """A mask that was found.

    Attributes:
        known: Booleans ``(H, W)``, true where the pixel is known, false where it is to be filled.
        notes: What was taken for granted, for the user.
        used: Whether an earlier run wrote it: it needs no growth.
    """

    known: Hole
    notes: tuple[str, ...] = ()
    used: bool = False


def used_mask(known: Hole) -> Picture:
    """Return the picture of a mask ``(H, W)`` or ``(C, H, W)`` that was used, white where pixels were filled, to be written."""
    hole = ~known.reshape(-1, *known.shape[-2:])
    shown = hole if len(hole) in (1, 3) else hole.max(0, keepdims=True)
    return Picture(2 * shown.astype(np.float64) - 1, exif=with_description(USED))


def mask_of_array(values: NDArray[Any], source: str, rules: MaskRules) -> FoundMask:
    """Return the mask in an array, as :func:`mask_of_picture` does."""
    check_picture(values.shape, source)
    said: tuple[str, ...] = ()
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() == 1:
        values, said = values == 1, (f"{source}: {ZERO_AND_ONE}",)
    elif values.dtype.kind in "iuf" and values.dtype not in (np.uint8, np.uint16) and values.min() >= 0 and values.max() == 255:
        values, said = values / 255.0, (f"{source}: {LEVELS_OF_BYTES}",)
    found = mask_of_picture(picture_of_array(values, source), source, rules)
    return replace(found, notes=(*said, *found.notes))


def mask_of_picture(mask: Picture, source: str, rules: MaskRules) -> FoundMask:
    """Return the mask in a picture; ``source`` is its name in notes and errors.

    The first of these that applies:

    1. A color of paint is given: what is painted in it.
    2. The opacity varies: paint of one color, or of black and white, on a transparent ground; or a copy of the photograph with
       erased pixels, which are filled.
    3. A copy of the photograph: where it differs.
    4. Levels: white is filled, or black if white is kept.

    Raises:
        ValueError: If the meaning of the mask would be a guess, or nothing has the color.
    """
    photograph, notes, soft = rules.photograph, mask.notes, "gray"
    if photograph is not None and photograph.pixels.shape[1:] != mask.pixels.shape[1:]:
        photograph = None  # refused later, by size
    if rules.color is not None:
        hole, said = painted_in(mask, rules.color, source, threshold=rules.threshold, clean=photograph)
        return FoundMask(~hole, (*notes, *said))
    if mask.alpha is not None and (mask.alpha < 1).any():
        share, said = _share_of_alpha(mask, mask.alpha, source, keep=rules.keep, photograph=photograph)
        soft = "partly transparent"
    elif photograph is not None and _is_copy(mask, photograph):
        hole, said = unlike(mask, photograph, source, threshold=rules.threshold)
        return FoundMask(~hole, (*notes, *said))
    else:
        share, said = _share_of_levels(mask, source, keep=rules.keep, certain=rules.threshold is not None)
    default = JPEG_THRESHOLD if mask.chroma is not None else THRESHOLD
    hole, between = _over(share, default if rules.threshold is None else rules.threshold, f"{source}: ", soft)
    used = mask.exif is not None and description(mask.exif) == USED
    return FoundMask(~hole, (*notes, *said, *between), used)


def mask_of_alpha(picture: Picture, source: str, *, threshold: float | None) -> FoundMask:
    """Return the mask in the opacity of the photograph itself: what is erased is filled.

    Args:
        picture: The photograph.
        source: Its name in errors.
        threshold: Share of transparency, between 0 and 1, above which a pixel is filled. Default: 0.5, as partly transparent
            pixels have the color of the photograph.

    Raises:
        ValueError: If it has no alpha channel.
    """
    if picture.alpha is None:
        raise ValueError(f"{source}: has no alpha channel; give a mask image instead.")
    hole, notes = _over(1 - picture.alpha, 0.5 if threshold is None else threshold, "", "partly transparent")
    return FoundMask(~hole, notes)


def _over(share: Array, threshold: float, where: str, soft: str) -> tuple[Hole, tuple[str, ...]]:
    """Return where a share of paint exceeds a threshold, and a note if any pixel is between nothing and all."""
    between = float(((share > SOFT) & (share < 1 - SOFT)).mean())
    if not between:
        return share > threshold, ()
    note = f"{where}{between:.2%} of the pixels are {soft}: filled above {threshold:g} of 1 (--mask-threshold)"
    return share > threshold, (note,)


def gray(picture: Picture, source: str, what: str) -> Array:
    if picture.alpha is not None and (picture.alpha < 1).any():
        raise ValueError(f"{source}: {what} must not be transparent, because its meaning would be a guess. Flatten the image.")
    return _gray(picture)


def _gray(picture: Picture) -> Array:
    return np.asarray((picture.pixels.mean(0) + 1) / 2, dtype=np.float64)


def _share_of_levels(mask: Picture, source: str, *, keep: str, certain: bool) -> tuple[Array, tuple[str, ...]]:
    levels = (mask.pixels + 1) / 2 * (2**mask.bits - 1)
    if 0.999 < levels.max() < 1.001 and (np.abs(levels - levels.round()) < 0.001).all() and levels.min() > -0.001:
        grey, notes = levels.mean(0), [f"{source}: {ZERO_AND_ONE}"]
    else:
        grey, notes = _gray(mask), list[str]()
    colored = float(_colored(mask).mean())
    if colored > MOST_COLORED:
        raise ValueError(
            f"{source}: expected a mask of black and white pixels, but {colored:.1%} are colored: make every pixel black "
            f"(keep) or white (fill), or give the color of the paint, {PAINT}."
        )
    middle = float(((grey > SOLID) & (grey < 1 - SOLID)).mean())
    if middle > MOST_GRAY and not certain:
        raise ValueError(
            f"{source}: expected a mask of black and white pixels, but {middle:.1%} are gray, which is more than soft edges: "
            "make every pixel black (keep) or white (fill), or give the level that divides them, --mask-threshold."
        )
    return (1 - grey if keep == "white" else grey), tuple(notes)


def _share_of_alpha(
    mask: Picture, alpha: Array, source: str, *, keep: str, photograph: Picture | None
) -> tuple[Array, tuple[str, ...]]:
    opaque = alpha >= 0.5
    if not opaque.any():
        raise ValueError(f"{source}: every pixel of the mask is transparent, so that nothing is painted on it.")
    if photograph is not None and is_copy_of(mask, photograph, where=opaque) and np.ptp(mask.pixels[:, opaque]) > 2 * SOLID:
        return 1 - alpha, (f"{source}: a copy of INPUT with transparent pixels: these are filled",)
    paint = (mask.pixels[:, opaque] + 1) / 2
    if np.ptp(paint, axis=1).max() <= SOLID:
        level, kept = float(paint.mean()), {"black": 0.0, "white": 1.0}[keep]
        if keep == "white" and level > 1 - SOLID:
            return 1 - alpha, (f"{source}: white paint on a transparent ground: the paint is kept, the rest is filled",)
        if opaque.mean() > 0.5 and (len(paint) not in (1, 3) or abs(level - (1 - kept)) > SOLID):
            raise ValueError(
                f"{source}: {opaque.mean():.1%} of the mask is opaque, in one color, so that it is a guess whether that or the "
                "transparent rest is to be filled: make every pixel black (keep) or white (fill)."
            )
        return alpha, (f"{source}: paint of one color on a transparent ground: what is painted is filled",)
    grey = paint.mean(0)
    soft = float(((grey > SOLID) & (grey < 1 - SOLID)).mean())
    if np.ptp(paint, axis=0).max() > SOLID or soft > MOST_GRAY:
        raise ValueError(
            f"{source}: the mask is transparent in part and has several colors, so that its meaning would be a guess: flatten "
            f"it to black (keep) and white (fill), or give the color of the paint, {PAINT}."
        )
    white = _gray(mask)
    filled = "black" if keep == "white" else "white"
    note = f"{source}: black and white paint on a transparent ground: {filled} is filled, and the transparent rest kept"
    return alpha * (1 - white if keep == "white" else white), (note,)


def _is_copy(mask: Picture, photograph: Picture) -> bool:
    unit = (mask.pixels + 1) / 2
    shown = np.asarray(~((unit < SOLID).all(0) | (unit > 1 - SOLID).all(0)))
    return bool(shown.mean() > LEAST_SHOWN) and is_copy_of(mask, photograph, where=shown)


def _colored(mask: Picture) -> Hole:
    """Return where a mask has a color, apart from the fringes of letters drawn for the stripes of a screen."""
    if len(mask.pixels) != 3:
        return np.zeros(mask.pixels.shape[1:], dtype=bool)
    colored = np.ptp(mask.pixels, axis=0) / 2 > SOLID
    white = np.asarray((mask.pixels > 1 - 2 * SOLID).all(0))
    return np.asarray(colored & ~scipy.ndimage.binary_dilation(white)) if white.mean() < 0.5 else colored
