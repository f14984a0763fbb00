"""Inpainting of missing pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.damage import find_damage
from invdiff.io.images import Picture, mask_from_alpha
from invdiff.io.source import Source
from invdiff.operators import Mask, Noise, Operator
from invdiff.priors import ScoreModel

from .options import Option
from .problem import Given, Problem, photographs, pixels_of

__all__ = ["Inpaint"]


class Inpaint(Problem):
    """Fill in the pixels that a mask marks as missing.

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
            help="Image of the same size as INPUT, white where pixels are to be filled. auto: scratches, dust, date stamps and "
            "thin overlays are looked for, see `invdiff mask`.",
            help_simulated="Image of SIZE x SIZE pixels, white where pixels are to be filled.",
        ),
        Option(
            name="mask_keep",
            kind=("black", "white"),
            default="black",
            changes_spread=False,
            help="Color of the pixels to keep.",
        ),
    )
    needs = "--mask, or an INPUT with transparent pixels"
    exact_is_usual = True
    reads_alpha = True
    measures = "Mask"
    recommended = photographs(max_iterations=4)

    def __init__(self, mask: Any) -> None:
        self.mask = torch.as_tensor(mask).bool()
        if self.mask.all() or not self.mask.any():
            what = "nothing to fill" if self.mask.all() else "everything to fill"
            raise ValueError(f"Inpaint: the mask leaves {what}. White marks what to fill, black what to keep.")

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if tuple(self.mask.shape[-2:]) != shape[-2:]:
            (mh, mw), (h, w) = self.mask.shape[-2:], shape[-2:]
            raise ValueError(f"Inpaint: the mask is {mw} x {mh} pixels and the image {w} x {h}. They must be the same size.")
        return Mask(self.mask, shape, noise=noise)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls(known_pixels(options, size)[0])

    @classmethod
    def propose(
        cls, options: Mapping[str, Any], picture: Picture, score: ScoreModel | None, *, source: str, progress: bool = False
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        fill, notes = proposed_mask(picture, score, source=source, progress=progress)
        return {**options, "mask": fill if options["mask_keep"] == "black" else ~fill}, notes

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        alpha, notes = picture.alpha, list[str]()
        if options["mask"] is None:  # INPUT tells by its transparency; all that is transparent is filled: results are opaque.
            known, written = known_of_alpha(picture, source), replace(picture, alpha=None)
        else:
            (known, said), written = known_pixels(options, picture.pixels.shape[1:]), picture
            notes += said
        if options["mask"] is not None and alpha is not None and known.shape == alpha.shape:
            hidden = known & (alpha == 0)
            known &= ~hidden
            # What is filled is opaque.
            written = replace(picture, alpha=np.where(known, alpha, 1.0))
            if hidden.any():
                notes.append(
                    f"{hidden.mean():.1%} of the pixels are transparent (alpha 0) outside of the mask: they are filled too"
                )
        return Given(cls(known), pixels_of(picture), written, (f"filling {1 - known.mean():.1%} of the pixels", *notes))

    @classmethod
    def bundled_size(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        height, width = known_pixels(options, None)[0].shape
        return height, width

    def noise_pixels(self, y: Tensor) -> Tensor:
        return torch.where(self.mask, y, torch.nan)

    def facts(self) -> dict[str, Any]:
        return {"missing": round(1 - float(self.mask.double().mean()), 4)}

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        # Samples meet exact data only approximately: put in the known pixels.
        return torch.where(self.mask.to(x.device), y, x) if op.sigma_y == 0 else x


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


def known_pixels(options: Mapping[str, Any], size: tuple[int, ...] | None) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return a boolean array ``(H, W)``, true at known pixels, from the options ``mask`` and ``mask_keep``, and notes.

    Args:
        options: Values of the options.
        size: Size ``(H, W)`` of the image, which the mask must have; ``None``: any.
    """
    return Source(options["mask"]).mask(keep=options["mask_keep"], size=size)


def known_of_alpha(picture: Picture, source: str) -> NDArray[np.bool_]:
    """Return a boolean array ``(H, W)``, true at opaque pixels; ``source`` is the name of the picture in errors."""
    advice = "give --mask, an image of the same size, white where pixels are to be filled."
    known = None if picture.alpha is None else mask_from_alpha(picture)
    if known is None or known.all() or not known.any():
        share = "every" if known is not None and not known.any() else "no"
        raise ValueError(f"{source}: {share} pixel is transparent, and inpaint fills those: {advice}")
    return known
