"""Crops of the images of a folder: what ``invdiff calibrate`` degrades and restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.io.figures import is_figure
from invdiff.io.images import list_images, read_image
from invdiff.random import generator

__all__ = ["SMALLEST", "cut_crops"]

SMALLEST = 8  # side of a crop, in pixels


def cut_crops(
    folder: Path, *, channels: int, size: int, cases: int | None, seed: int
) -> tuple[Tensor, list[dict[str, Any]], list[str]]:
    """Return crops at random places of the images of a folder, where each comes from, and what there is to say about them.

    The images take turns. A grey one counts as one of equal channels; what is too small or has other channels is left out.

    Args:
        folder: Of images.
        channels: Of the prior.
        size: Side of the crops.
        cases: How many. Default: one of each image.
        seed: Of the places: case ``k`` depends on ``(seed, k)`` alone, and on the images.

    Returns:
        ``(n, C, size, size)`` in [-1, 1], a description of each, and notes.
    """
    pixels: dict[str, Tensor] = {}
    left_out, sides = [], list[int]()
    for path in list_images(folder):
        try:
            if is_figure(path):
                left_out.append(f"{path}: is a figure of invdiff")
                continue
            image = torch.from_numpy(read_image(path).pixels).float()
        except (ValueError, OSError) as error:
            left_out.append(" ".join(str(error).split()))
            continue
        if min(image.shape[1:]) < size:
            left_out.append(f"{path}: {image.shape[2]} x {image.shape[1]} pixels, smaller than the crops of {size} (--size)")
            sides.append(min(image.shape[1:]))
        elif len(image) not in (1, channels):
            left_out.append(f"{path}: has {len(image)} channels, and this prior knows images of {channels}, or grey ones")
        else:
            pixels[path.name] = image.expand(channels, -1, -1)
    notes = [f"left out: {reason}" for reason in left_out]
    count = cases or len(pixels)
    if not pixels or count < 2:
        least = min((side for side in sides if side >= SMALLEST), default=None)
        advice = "" if least is None else f" {len(sides)} smaller than the crops: give a smaller --size, such as {least}."
        reasons = "; ".join(note.rstrip(".") for note in notes)
        raise ValueError(
            f"{folder}: {len(pixels)} usable images, expected two or more, or one and --cases.{advice} {reasons}".strip()
        )
    if count > len(pixels):
        notes.append(
            f"{count} crops of {len(pixels)} images: crops of one image resemble each other, so the errors and p-values below "
            "are smaller than they should be"
        )
    crops, sources, names = [], [], list(pixels)
    for k in range(count):
        image, g = pixels[names[k % len(names)]], generator(seed, "diagnose", k, 5)
        top, left = (int(torch.randint(side - size + 1, (), generator=g)) for side in image.shape[1:])
        crops.append(image[:, top : top + size, left : left + size])
        sources.append({"image": names[k % len(names)], "top": top, "left": left})
    return torch.stack(crops), sources, notes
