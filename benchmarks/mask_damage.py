"""Synthetic damage of photographs with known masks: scratches, cracks, dust, date stamps and overlays."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = ["KINDS", "damaged"]

Array = NDArray[np.float64]
FINE = 4  # subpixels along a side while drawing
VISIBLE = 10 / 255  # smallest change of a channel, pixels spanning 0..1, that counts as damage


def damaged(picture: Array, kind: str, rng: np.random.Generator, *, jpeg: int | None = None) -> tuple[Array, NDArray[np.bool_]]:
    """Return a damaged copy of a picture, and the mask of what has changed visibly.

    Args:
        picture: ``(H, W, 3)``, pixels spanning 0..1.
        kind: One of :data:`KINDS`.
        rng: Random generator.
        jpeg: Quality of a JPEG compression after the damage. Default: none.
    """
    opacity, color = KINDS[kind](picture, rng)
    opacity = ndimage.gaussian_filter(opacity, rng.uniform(0.3, 0.7))[..., None]
    result = picture * (1 - opacity) + opacity * color
    mask = np.abs(result - picture).max(-1) >= VISIBLE
    result = np.rint(result.clip(0, 1) * 255).astype(np.uint8)
    if jpeg is not None:
        file = io.BytesIO()
        Image.fromarray(result).save(file, "JPEG", quality=jpeg)
        result = np.asarray(Image.open(file))
    return result / 255, mask


def scratches(picture: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Curves across the picture, 1 to 8 pixels wide, most of them thin, bright or dark, of uneven opacity."""
    height, width = picture.shape[:2]
    opacity = np.zeros((height, width))
    for _ in range(rng.integers(1, 3 + height * width // 6000)):
        length = rng.uniform(0.2, 1.0) * max(height, width)
        path = curve(rng.uniform((0, 0), (width, height)), rng.uniform(0, 2 * np.pi), length, rng.uniform(0, 0.04), rng)
        line = stroke((height, width), [path], 8 ** rng.uniform(0, 1) * rng.uniform(0.7, 1.3, len(path) - 1))
        opacity = np.maximum(opacity, line * rng.uniform(0.5, 1) * uneven(line.shape, rng, rng.uniform(0, 0.5)))
    return opacity, shade(rng, bright=rng.random() < 0.7)


def cracks(picture: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Branching jagged lines, 1 to 3 pixels wide, dark or, more rarely, bright."""
    size = picture.shape[:2]
    paths, widths = list[Array](), list[float]()

    def grow(start: Any, angle: float, length: float, wide: float, depth: int) -> None:
        path = curve(start, angle, length, 0.25, rng, step=5)
        paths.append(path)
        widths.extend([wide] * (len(path) - 1))
        for _ in range(rng.integers(1, 4) if depth else 0):
            place = rng.integers(len(path))
            turn = angle + rng.choice((-1, 1)) * rng.uniform(0.4, 1.3)
            grow(path[place], turn, length * rng.uniform(0.3, 0.7), max(1, wide * 0.8), depth - 1)

    for _ in range(rng.integers(1, 3)):
        start = rng.uniform((0, 0), size[::-1])
        grow(start, rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7) * max(size), rng.uniform(1, 3), 2)
    line = stroke(size, paths, np.array(widths))
    return line * rng.uniform(0.6, 1) * uneven(size, rng, 0.3), shade(rng, bright=rng.random() < 0.25)


def dust(picture: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Specks and flakes of 2 to 14 pixels, most of them small, and short bent fibers."""
    height, width = picture.shape[:2]
    opacity = np.zeros((height, width))
    for _ in range(rng.integers(3, 10 + height * width // 3000)):
        center = rng.uniform((0, 0), (width, height))
        if rng.random() < 0.8:
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            radius = 7 ** rng.uniform(0, 1) * rng.uniform(0.5, 1.2, (7, 1))
            corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            mark = drawn(
                (height, width), lambda draw, c=corners: draw.polygon([tuple(p) for p in (c * FINE).tolist()], fill=255)
            )
        else:
            path = curve(center, rng.uniform(0, 2 * np.pi), rng.uniform(10, 40), 0.2, rng, step=3)
            mark = stroke((height, width), [path], np.full(len(path) - 1, rng.uniform(1, 2)))
        opacity = np.maximum(opacity, mark * rng.uniform(0.5, 1))
    return opacity, shade(rng, bright=rng.random() < 0.7)


def stamp(picture: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A date in a corner, in the orange, red or yellow of cameras, or white."""
    height, width = picture.shape[:2]
    day, month, year = rng.integers(1, 32), rng.integers(1, 13), rng.integers(0, 100)
    text = str(rng.choice([f"{day} {month} '{year:02}", f"'{year:02} {month} {day}", f"{day:02}.{month:02}.20{year:02}"]))
    size = int(rng.uniform(0.05, 0.08) * max(height, width)) + 5
    box = ImageFont.load_default(size).getbbox(text)
    left = rng.uniform(0.02, 0.1) * width if rng.random() < 0.3 else width * rng.uniform(0.9, 0.97) - box[2]
    top = rng.uniform(0.02, 0.1) * height if rng.random() < 0.2 else height * rng.uniform(0.9, 0.97) - box[3]
    colors = ((1, 0.55, 0.1), (1, 0.4, 0.1), (0.95, 0.2, 0.1), (1, 0.85, 0.2), (1, 1, 1))
    color = np.clip(np.array(colors[rng.choice(5, p=(0.35, 0.25, 0.15, 0.15, 0.1))]) + rng.normal(0, 0.04, 3), 0, 1)
    return written((height, width), text, (max(left, 1), top), size) * rng.uniform(0.75, 1), color


def overlay(picture: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Thin text, or a grid of thin lines, in one color."""
    height, width = picture.shape[:2]
    size = int(rng.uniform(0.06, 0.1) * max(height, width)) + 6
    opacity = np.zeros((height, width))
    if rng.random() < 0.6:
        text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz ABCDEFG"), rng.integers(8, 20)))
        for _ in range(rng.integers(1, 4)):
            place = (rng.uniform(0, 0.4) * width, rng.uniform(0, 0.9) * height)
            opacity = np.maximum(opacity, written((height, width), text, place, size))
    else:
        angle = rng.choice((0, np.pi / 4, rng.uniform(0, np.pi)))
        count, along = rng.integers(1, 4), np.array([np.cos(angle), np.sin(angle)])
        paths = [
            np.array([c - 2 * max(height, width) * along, c + 2 * max(height, width) * along])
            for c in rng.uniform((0, 0), (width, height), (count, 2))
        ]
        opacity = stroke((height, width), paths, np.full(count, rng.uniform(1, 3.5)))
    color = shade(rng, bright=rng.random() < 0.6) if rng.random() < 0.6 else rng.uniform(0, 1, 3)
    return opacity * rng.uniform(0.5, 1), color


def written(size: Sequence[int], text: str, place: tuple[float, float], font: int) -> Array:
    font_fine = ImageFont.load_default(font * FINE)
    return drawn(size, lambda draw: draw.text((place[0] * FINE, place[1] * FINE), text, fill=255, font=font_fine))


def curve(start: Any, angle: float, length: float, bend: float, rng: np.random.Generator, *, step: float = 6) -> Array:
    """Return the points of a curve ``(N, 2)`` whose direction drifts and turns at random."""
    count = max(2, int(length / step))
    turns = rng.normal(0, bend, count).cumsum() * 0.5 + rng.normal(0, bend, count)
    angles = angle + turns
    moves = step * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([[start], start + moves.cumsum(0)])


def stroke(size: Sequence[int], paths: Sequence[Array], widths: Array) -> Array:
    """Return the coverage of polylines; ``widths`` in pixels, one per segment of all paths."""

    def draw_all(draw: ImageDraw.ImageDraw) -> None:
        segments = [pair for path in paths for pair in itertools.pairwise(path)]
        for (a, b), wide in zip(segments, widths, strict=True):
            draw.line([tuple(a * FINE), tuple(b * FINE)], fill=255, width=max(1, round(wide * FINE)))
            radius = wide * FINE / 2
            draw.ellipse([*(b * FINE - radius), *(b * FINE + radius)], fill=255)

    return drawn(size, draw_all)


def drawn(size: Sequence[int], draw: Callable[[ImageDraw.ImageDraw], None]) -> Array:
    canvas = Image.new("L", (size[1] * FINE, size[0] * FINE))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas.reduce(FINE), dtype=np.float64) / 255


def uneven(size: Sequence[int], rng: np.random.Generator, strength: float) -> Array:
    """Return factors between ``1 - strength`` and 1 that vary over about ten pixels."""
    field = ndimage.gaussian_filter(rng.normal(size=tuple(size)), 5)
    return 1 - strength * (field / np.abs(field).max() * 0.5 + 0.5)


def shade(rng: np.random.Generator, *, bright: bool) -> Array:
    level = rng.uniform(0.8, 1) if bright else rng.uniform(0, 0.15)
    return np.clip(level + rng.normal(0, 0.03, 3), 0, 1)


KINDS = {"scratches": scratches, "cracks": cracks, "dust": dust, "stamp": stamp, "overlay": overlay}
