"""Inpainting of missing pixels."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from invdiff.damage import find_damage
from invdiff.io.growth import grown, spoiled_reach
from invdiff.io.images import Picture
from invdiff.io.masks import FoundMask, MaskRules, mask_of_alpha, used_mask
from invdiff.io.painted import painted_in
from invdiff.io.source import Source
from invdiff.operators import Mask, Noise, Operator
from invdiff.priors import ScoreModel

from .holes import hole_doubts
from .options import Option, OptionError
from .problem import Given, Problem, pixels_of

__all__ = ["Inpaint"]


class Inpaint(Problem):
    """Fill in the pixels that a mask marks as missing.

    At the command line and in :func:`invdiff.restore`, the mask is black and white, paint on a transparent ground, or a copy of
    INPUT that is painted over; or it is the transparency of INPUT, or paint of one color on INPUT. docs/problems.md has the
    rules. The mask that was used, ``mask.png``, is written beside the results.

    Args:
        mask: Boolean ``(H, W)``, or any shape that broadcasts to ``(C, H, W)``: true where the pixel is known.

    Raises:
        ValueError: If no pixel is missing, or none is known.
    """

    name = "inpaint"
    options = (
        Option(
            name="mask",
            kind="FILE",
            needed="yes",
            input_tells=True,
            changes_spread=False,
            proposed="auto",
            help="Image of the same size as INPUT, white where pixels are to be filled; or a copy of INPUT painted over there. "
            "auto: scratches, dust, date stamps and thin overlays are looked for, see `invdiff mask`.",
            help_simulated="Image of SIZE x SIZE pixels, white where pixels are to be filled.",
        ),
        Option(
            name="mask_keep",
            kind=("black", "white"),
            default="black",
            changes_spread=False,
            help="Color of the pixels to keep.",
        ),
        Option(
            name="mask_color",
            kind="TEXT",
            metavar="COLOR",
            changes_spread=False,
            help="Color of the paint, such as red or #ff0000, in --mask, or in INPUT if there is no --mask: fills what has it.",
            help_simulated="Color of the paint in --mask, such as red or #ff0000: fills what has it.",
        ),
        Option(
            name="mask_threshold",
            kind="NUMBER",
            minimum=0,
            above=True,
            maximum=1,
            below=True,
            changes_spread=False,
            help="Share of white, opacity or paint above which a pixel at a soft edge is filled. Default: 0.05; 0.15 in a mask "
            "that is a JPEG file; 0.1 of the paint of --mask-color; 0.5 of the transparency of INPUT.",
        ),
        Option(
            name="grow_mask",
            kind="INTEGER",
            metavar="PX",
            minimum=0,
            changes_spread=False,
            help="Pixels by which what is filled is grown. Default: 0, or 1 if INPUT is a JPEG file with chroma subsampling.",
            help_simulated="Pixels by which what is filled is grown. Default: 0.",
        ),
    )
    needs = "--mask, or an INPUT with transparent pixels, or painted over in the color --mask-color"
    exact_is_usual = True
    reads_alpha = True
    measures = "Mask"
    misfit_causes = "damaged pixels that the mask leaves out"

    def __init__(self, mask: Any) -> None:
        self.mask = torch.as_tensor(mask).bool()
        if self.mask.all() or not self.mask.any():
            what = "nothing to fill" if self.mask.all() else "everything to fill"
            raise ValueError(f"Inpaint: the mask leaves {what}. It is true at known pixels, and false where pixels are filled.")

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if tuple(self.mask.shape[-2:]) != shape[-2:]:
            (mh, mw), (h, w) = self.mask.shape[-2:], shape[-2:]
            raise ValueError(f"Inpaint: the mask is {mw} x {mh} pixels and the image {w} x {h}. They must be the same size.")
        return Mask(self.mask, shape, noise=noise)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls(find_mask(options, None, "", size=size).known)

    @classmethod
    def propose(
        cls, options: Mapping[str, Any], picture: Picture, score: ScoreModel | None, *, source: str, progress: bool = False
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        if options["mask_color"] is not None:
            raise OptionError("--mask auto and --mask-color exclude each other: give only one of them.")
        fill, notes = proposed_mask(picture, score, source=source, progress=progress)
        return {**options, "mask": fill if options["mask_keep"] == "black" else ~fill}, notes

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        found = find_mask(options, picture, source, size=picture.pixels.shape[1:])
        alpha, known, notes, written = picture.alpha, found.known, list(found.notes), picture
        if options["mask"] is None and options["mask_color"] is None:
            written = replace(picture, alpha=None)  # all that is transparent is filled: results are opaque
        elif alpha is not None and known.shape == alpha.shape:
            hidden = known & (alpha == 0)
            known = known & ~hidden
            # What is filled is opaque.
            written = replace(picture, alpha=np.where(known, alpha, 1.0))
            if hidden.any():
                notes.append(
                    f"{hidden.mean():.1%} of the pixels are transparent (alpha 0) outside of the mask: they are filled too"
                )
        return Given(cls(known), pixels_of(picture), written, (f"filling {1 - known.mean():.1%} of the pixels", *notes))

    @classmethod
    def bundled_size(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        height, width = find_mask(options, None, "", size=None).known.shape
        return height, width

    @classmethod
    def options_of_results(cls, options: Mapping[str, Any], pictures: Mapping[str, Path]) -> dict[str, Any]:
        if "mask" not in pictures:
            raise ValueError("there is no mask.png")
        used = {"mask": pictures["mask"], "mask_keep": "black", "mask_color": None, "mask_threshold": None, "grow_mask": 0}
        return {**options, **used}

    def noise_pixels(self, y: Tensor) -> Tensor:
        return torch.where(self.mask, y, torch.nan)

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        return hole_doubts(~self.mask, score)

    def extras(self) -> dict[str, Picture]:
        return {"mask": used_mask(self.mask.numpy())}

    def facts(self) -> dict[str, Any]:
        return {"missing": round(1 - float(self.mask.double().mean()), 4)}

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        # Samples meet exact data only approximately: put in the known pixels. Those of windows have them, and are not copied.
        if op.sigma_y > 0 or all(_meets(sample, data, self.mask.to(x.device)) for sample, data in zip(x, y, strict=True)):
            return x
        return torch.where(self.mask.to(x.device), y, x)


def _meets(sample: Tensor, data: Tensor, known: Tensor) -> bool:
    return torch.equal(torch.where(known, data, sample), sample)


def proposed_mask(
    picture: Picture, score: ScoreModel | None, *, source: str, progress: bool
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return a boolean array ``(H, W)``, true where a picture is probably damaged, and notes; ``source`` names it in errors."""
    if len(picture.pixels) not in (1, 3):
        raise ValueError(f"{source}: --mask auto is for grayscale and color pictures, got {len(picture.pixels)} channels.")
    found = find_damage(torch.from_numpy(picture.pixels), score, progress=progress)
    if not found.mask.any():
        raise ValueError(
            f"{source}: --mask auto finds no damage. Try `invdiff mask` with a higher --sensitivity, or draw the mask: an "
            "image of the same size, white where pixels are to be filled."
        )
    parts = ", ".join(f"{kind} {share:.2%}" for kind, share in found.shares.items() if share)
    note = (
        f"--mask auto marks {found.share:.2%} of the pixels ({parts}): a proposal, which `invdiff mask` writes to be corrected"
    )
    return found.mask, (note, *found.notes)


def find_mask(options: Mapping[str, Any], picture: Picture | None, source: str, *, size: tuple[int, ...] | None) -> FoundMask:
    """Return the mask that the options and INPUT describe, grown, and notes.

    Args:
        options: Values of the options.
        picture: INPUT; ``None`` if it is not known yet.
        source: Name of INPUT in errors.
        size: Size ``(H, W)`` of the image, which a file must have; ``None``: any.

    Raises:
        OptionError: If there is no such color.
        ValueError: If there is no such mask, or it leaves nothing to fill, or nothing known.
    """
    color, threshold = color_of(options["mask_color"]), options["mask_threshold"]
    if color is not None and options["mask_keep"] == "white":
        raise OptionError("--mask-color and --mask-keep white exclude each other: what has the color is filled.")
    spoiled = 0 if picture is None else spoiled_reach(picture)
    if options["mask"] is not None:
        where = _mask_of_slice(options["mask"], picture)
        rules = MaskRules(keep=options["mask_keep"], threshold=threshold, color=color, photograph=picture)
        found, name = where.mask(rules, size=size), str(where)
        if found.known.mean() < 0.5 and options["mask_keep"] == "black":
            hint = f"{name}: most of the picture is filled; if the black pixels were meant, --mask-keep white"
            found = replace(found, notes=(*found.notes, hint))
    elif picture is None:
        raise OptionError("--mask is missing: an image of the same size as INPUT, white where pixels are to be filled.")
    elif color is not None:
        hole, said = painted_in(picture, color, source, threshold=threshold)
        found, name = FoundMask(~hole, said), source
    else:
        found, name = _known_of_alpha(picture, source, threshold), source
    check_mask(found.known, name, threshold)
    reach, why = options["grow_mask"], ""
    if reach is None and spoiled and found.used:
        return replace(found, notes=(*found.notes, f"{name}: from an earlier run, which has grown it already"))
    if reach is None:
        reach, why = spoiled, ": INPUT is a JPEG file, which spoils colors beside it (--grow-mask 0: not grown)"
    if not reach:
        return found
    known = ~grown(~found.known, reach)
    if not known.any():
        raise ValueError(f"{name}: grown by {reach} pixels (--grow-mask), the mask leaves everything to fill.")
    return FoundMask(known, (*found.notes, f"what is filled is grown by {reach} pixel{'s' if reach > 1 else ''}{why}"))


def _mask_of_slice(mask: Any, picture: Picture | None) -> Source:
    """Return the source of a mask; of one with as many slices as INPUT, the slice of the picture."""
    where = Source(mask)
    if picture is None or picture.origin is None or where.contents is None:
        return where
    origin, count = picture.origin, where.contents[1].count
    return Source(mask, page=origin.number + 1) if count == origin.contents.count > 1 else where


def color_of(text: Any) -> tuple[int, int, int] | None:
    """Return a color of Pillow, such as ``red`` or ``#ff0000``, as RGB of 8 bits.

    Raises:
        OptionError: If there is no such color.
    """
    if text is None:
        return None
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
        if not all(0 <= level <= 255 for level in (red, green, blue)):
            raise ValueError
    except (ValueError, AttributeError, TypeError):
        near = difflib.get_close_matches(str(text).lower(), ImageColor.colormap, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"--mask-color {text!r:.80}: expected a name such as red, or #rrggbb.{hint}") from None
    return red, green, blue


def check_mask(known: NDArray[np.bool_], name: str, threshold: float | None) -> None:
    """Raise an error if a mask leaves nothing to fill, or nothing known; ``name`` is that of its picture."""
    if known.any() and not known.all():
        return
    what = "nothing to fill" if known.all() else "everything to fill"
    level = "" if threshold is None else f" at the threshold {threshold:g} (--mask-threshold)"
    raise ValueError(f"{name}: the mask leaves {what}{level}. White marks what to fill, black what to keep.")


def _known_of_alpha(picture: Picture, source: str, threshold: float | None) -> FoundMask:
    advice = (
        "give --mask, an image of the same size, white where pixels are to be filled, or --mask-color if they are painted over "
        "in one color."
    )
    found = None if picture.alpha is None else mask_of_alpha(picture, source, threshold=threshold)
    if found is None or found.known.all() or not found.known.any():
        share = "every" if found is not None and not found.known.any() else "no"
        raise ValueError(f"{source}: {share} pixel is transparent, and inpaint fills those: {advice}")
    return found
