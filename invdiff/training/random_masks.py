"""Random masks for training, of the kinds used in inpainting and demosaicing; True where a value is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from invdiff.operators.sampling.mosaic import BAYER_PATTERNS, Mosaic

__all__ = ["SHARES", "letters", "random_masks"]

Plane = NDArray[np.bool_]  # (H, W), or (C, H, W) where channels differ
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?&%")
INVERTED = 0.06  # share of the masks that are inverted; Bayer masks never are


def random_masks(count: int, channels: int, side: int, generator: np.random.Generator) -> Tensor:
    """Return boolean masks ``(count, channels, side, side)``, none of them all True or all False.

    Each mask is of one of the kinds in :data:`SHARES`. Bayer masks need three channels, and masks that differ between channels
    at least two; without them the shares of the other kinds are renormalized.
    """
    impossible = [draw for draw, there in ((bayer, channels == 3), (by_channel, channels > 1)) if not there]
    possible = {draw: share for draw, share in SHARES.items() if draw not in impossible}
    draws, shares = list(possible), np.array(list(possible.values()))
    masks = torch.zeros(count, channels, side, side, dtype=torch.bool)
    for mask, kind in zip(masks, generator.choice(len(draws), count, p=shares / shares.sum()), strict=True):
        while mask.all() or not mask.any():
            drawn = draws[kind](generator, channels, side)
            inverted = draws[kind] is not bayer and generator.random() < INVERTED
            mask[:] = torch.from_numpy(drawn ^ inverted)
    return masks


def scattered(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with pixels or small blocks missing at random."""
    missing, block = generator.uniform(0.1, 0.95), 1
    if generator.random() < 0.15:
        missing, block = generator.uniform(0.1, 0.8), int(generator.integers(2, 6))
    blocks = generator.random((-(-side // block),) * 2) >= missing
    return np.kron(blocks, np.ones((block, block), bool))[:side, :side]


def letters(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with lines of text missing, slightly rotated."""
    canvas = Image.new("L", (2 * side, 2 * side), 255)
    pen = ImageDraw.Draw(canvas)
    size = int(generator.integers(9, max(10, min(40, side // 2))))
    font = ImageFont.load_default(size=size)
    top = float(generator.uniform(-size, 0))
    while top < 2 * side:
        words = ("".join(generator.choice(LETTERS, generator.integers(2, 9))) for _ in range(2 + side // 10))
        line = " ".join(words) if generator.random() < 0.5 else "".join(words)
        pen.text((generator.uniform(-20, 0), top), line, fill=0, font=font, stroke_width=int(generator.integers(0, 3)))
        top += size * generator.uniform(0.9, 2.2)
    turned = np.asarray(canvas.rotate(generator.normal(0, 12), fillcolor=255))
    first = side // 2
    return turned[first : first + side, first : first + side] > 127


def strokes(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with scratches and scribbles missing."""
    canvas = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(canvas)
    for _ in range(generator.integers(1, 3 + side // 10)):
        steps = generator.normal(0, generator.uniform(4, 25), (generator.integers(1, 7), 2))
        points = np.cumsum(np.concatenate([generator.uniform(0, side, (1, 2)), steps]), 0)
        pen.line([(x, y) for x, y in points.tolist()], fill=0, width=int(generator.integers(1, 8)), joint="curve")
        if generator.random() < 0.3:
            (x, y), radius = generator.uniform(0, side, 2).tolist(), generator.uniform(3, 20)
            box = (x - radius, y - radius, x + radius, y + radius)
            start, end = generator.uniform(0, 180), generator.uniform(180, 360)
            pen.arc(box, start, end, fill=0, width=int(generator.integers(1, 6)))
    return np.asarray(canvas) > 127


def boxes(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with one to three rectangles missing, with sides of up to half of the image."""
    mask = np.ones((side, side), bool)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        height, width = generator.integers(1 + side // 16, 1 + side // 2, 2)
        top, left = generator.integers(-side // 32, side - side // 16, 2)
        mask[max(top, 0) : top + height, max(left, 0) : left + width] = False
    return mask


def half_plane(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with one side of a line measured; the line is vertical or horizontal in 60 % of the masks."""
    angle = generator.uniform(0, 2 * np.pi) if generator.random() < 0.4 else generator.integers(4) * np.pi / 2
    mask: Plane = _along(angle, side) < generator.uniform(-0.3, 0.4) * side
    return mask


def window(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with a central rectangle measured and its surroundings missing (outpainting)."""
    rows, columns = np.abs(np.mgrid[:side, :side] - (side - 1) / 2)
    height, width = generator.uniform(0.15, 0.45, 2) * side
    mask: Plane = (rows < height) & (columns < width)
    return mask


def stripes(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with parallel stripes measured: rows, columns, or at a random angle."""
    period, angle = generator.integers(2, 20), generator.choice([0, np.pi / 2, generator.uniform(0, np.pi)])
    return np.round(_along(angle, side), 6) % period < max(1, generator.uniform(0.1, 0.9) * period)


def lattice(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with the points of a regular grid measured, or missing; spacing 2 to 4 pixels."""
    down, across = generator.integers(2, 5, 2)
    mask = np.zeros((side, side), bool)
    mask[::down, ::across] = True
    return mask if generator.random() < 0.6 else ~mask


def bayer(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with one of three colors measured at every pixel, as by the color filter array of a camera."""
    mosaic = Mosaic((channels, side, side), BAYER_PATTERNS[generator.integers(len(BAYER_PATTERNS))])
    mask: Plane = mosaic.mask.bool().numpy()
    return mask


def by_channel(generator: np.random.Generator, channels: int, side: int) -> Plane:
    """Return a mask with whole channels missing, or with pixels missing at random, independently in every channel."""
    if generator.random() < 0.5:
        return np.broadcast_to(generator.random((channels, 1, 1)) < 0.5, (channels, side, side))
    return generator.random((channels, side, side)) >= generator.uniform(0.1, 0.9)


def _along(angle: float, side: int) -> NDArray[np.float64]:
    """Return the coordinate of every pixel along a direction, relative to the center of the image."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    distance: NDArray[np.float64] = np.cos(angle) * columns + np.sin(angle) * rows
    return distance


# Bayer patterns and scattered pixels are hardest to learn and get the largest shares.
SHARES: Mapping[Callable[[np.random.Generator, int, int], Plane], float] = {
    bayer: 0.24,
    scattered: 0.22,
    boxes: 0.14,
    letters: 0.12,
    strokes: 0.10,
    half_plane: 0.05,
    window: 0.02,
    stripes: 0.04,
    lattice: 0.03,
    by_channel: 0.04,
}
