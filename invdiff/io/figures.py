"""Figures of results: image tiles side by side, heat maps of the standard deviation, and calibration plots."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from invdiff.io.images import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration_plot",
    "comparison_panel",
    "is_figure",
    "largest_shown",
    "marked_picture",
    "rgb_pixels",
    "std_map",
    "tile_grid",
]

MARK = {"Software": "invdiff figure"}  # in the PNG files, for is_figure
COLOURS = "magma"
DPI = 100
MIN_TILE = 192  # Small images are enlarged until their longer side has about this many pixels.
LARGEST_TILE = 1200  # Larger images are shown at a half, a third, ... of their size.
MAX_WIDTH = 1800  # Tiles that would make the panel wider go to the next row.
MARGIN, GAP, LINE = 16, 14, 17  # pixels; LINE is the line height of a title
BIN_CASES = 5  # expected number of ranks per bar of a histogram
BAR, BAR_LABELS = 12, 44  # width in pixels of the color bar and of its labels
LEGEND_WIDTH, LEGEND_HEIGHT = 420, 6 * LINE + BAR  # smallest size of the legend in pixels
LEGEND_GROWS = 1000  # width in pixels of the maps whose legend is larger than that
LEGEND_WORDS = ("bright: the samples differ, the program is guessing", "dark: they agree")


def comparison_panel(
    path: str | os.PathLike[str],
    tiles: Mapping[str, ArrayLike],
    *,
    std: ArrayLike | None = None,
    std_title: str = "standard deviation (0..1 scale)",
) -> None:
    """Write one PNG with titled tiles side by side, in several rows if necessary.

    Every image is shown pixel by pixel: at its own resolution, or enlarged by an integer factor if it is small or smaller than
    its neighbors, like the measurement in super-resolution. If a side is longer than 1200 pixels, all images are reduced by
    the same integer factor, by means over squares of pixels.

    Args:
        path: The PNG file; its folder must exist.
        tiles: Pixels ``(C, H, W)`` in [-1, 1] by title. With one or two channels the first is shown in gray; with more channels
            the first three are shown as red, green and blue.
        std: Standard deviation of the samples, ``(C, H, W)`` or ``(H, W)``, in the units of the pixels. It is shown last, as a
            heat map of its mean over channels with a color bar, on the 0..1 scale of image files.
        std_title: Title of the heat map.
    """
    if not tiles and std is None:
        raise ValueError("comparison_panel: nothing to show; give at least one tile or std.")
    from matplotlib.figure import Figure

    heat = None if std is None else _unit_std("comparison_panel", std)
    sides = [side for shown in (*tiles.values(), *([] if std is None else [std])) for side in np.shape(shown)[-2:]]
    reduction = math.ceil(max(sides, default=1) / LARGEST_TILE)
    pictures = [(title, _shown(title, pixels, reduction)) for title, pixels in tiles.items()]
    heat = None if heat is None else _reduced(heat, reduction)
    shapes = [image.shape[:2] for _, image in pictures] + ([] if heat is None else [heat.shape])
    # The cell fits the largest image, enlarged if even that one is small; every image fills it as far as possible.
    height, width = max(h for h, _ in shapes), max(w for _, w in shapes)
    enlarged = max(1, round(MIN_TILE / max(height, width)))
    height, width = height * enlarged, width * enlarged
    factors = [min(height // h, width // w) for h, w in shapes]

    count, pitch = len(shapes), width + GAP
    bar_room = 0 if heat is None else GAP // 2 + BAR + BAR_LABELS
    columns = min(count, max(1, (MAX_WIDTH - 2 * MARGIN - bar_room + GAP) // pitch))
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)  # rows of equal length rather than a last one with a single tile
    titles = [*tiles] + ([] if heat is None else [std_title])
    wrapped = [textwrap.wrap(title, max(8, width // 8)) or [""] for title in titles]
    title_height = LINE * max(map(len, wrapped)) + 6
    total = (2 * MARGIN + columns * pitch - GAP + bar_room, 2 * MARGIN + rows * (title_height + height + GAP) - GAP)

    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor="white")
    for place, ((h, w), factor, lines) in enumerate(zip(shapes, factors, wrapped, strict=True)):
        row, column = divmod(place, columns)
        left, top = MARGIN + column * pitch, MARGIN + row * (title_height + height + GAP) + title_height
        _text(figure, total, (left + width / 2, top - 6), "\n".join(lines), va="baseline", ha="center")
        box = (left + (width - w * factor) // 2, top + (height - h * factor) // 2, w * factor, h * factor)
        if place < len(pictures):
            _show(figure, total, box, pictures[place][1].repeat(factor, 0).repeat(factor, 1))
        elif heat is not None:
            limit = largest_shown(heat)
            shown = heat.repeat(factor, 0).repeat(factor, 1)
            image = _show(figure, total, box, shown, cmap=COLOURS, vmin=0, vmax=limit)
            bar_box = (box[0] + box[2] + GAP // 2, box[1], BAR, box[3])
            bar = figure.colorbar(
                image, cax=figure.add_axes(_rectangle(total, bar_box)), extend="max" if heat.max() > limit else "neither"
            )
            bar.ax.tick_params(labelsize=8, length=3)
            bar.outline.set_linewidth(0.5)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata=MARK)


def std_map(
    path: str | os.PathLike[str],
    std: ArrayLike,
    *,
    limit: float | None = None,
    calibrated: bool = False,
    scale: str = "pixels spanning 0..1",
) -> float:
    """Write the standard deviation per pixel, averaged over channels, as a color-mapped PNG with a legend below it.

    The map begins in the top left corner, pixel by pixel: at the resolution of the image, or enlarged by an integer factor if
    that is small. The legend has a color bar with numbers on the 0..1 scale of image files, and says what bright and dark mean.

    Args:
        path: The PNG file; its folder must exist.
        std: ``(C, H, W)`` or ``(H, W)``, in the units of the pixels (images span [-1, 1]).
        limit: Standard deviation on the 0..1 scale that gets the brightest color; maps with the same limit are comparable.
            Default: the 99.8th percentile of the map.
        calibrated: Whether to name it a calibrated one.
        scale: What the numbers are, if ``std`` is twice as large as those of another scale.

    Returns:
        The limit used, which is needed to convert colors to values.
    """
    if limit is not None and not limit > 0:
        raise ValueError(f"std_map: limit must be positive, got {limit}.")
    from matplotlib import colormaps

    heat = _unit_std("std_map", std)
    limit = largest_shown(heat) if limit is None else limit
    enlarged = max(1, round(MIN_TILE / max(heat.shape)))
    heat_map = colormaps[COLOURS]((heat / limit).clip(0, 1), bytes=True)[..., :3].repeat(enlarged, 0).repeat(enlarged, 1)
    above = bool(heat.max() > limit)
    name = f"{'calibrated ' if calibrated else ''}standard deviation of the samples, {scale}"
    legend = _legend(heat_map.shape[1], limit, name, above=above)
    width = max(heat_map.shape[1], legend.shape[1])
    parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in (heat_map, legend)]
    with atomic_write(path) as temporary:
        _save(temporary, np.concatenate(parts))
    return limit


def _legend(width: int, limit: float, name: str, *, above: bool) -> NDArray[np.uint8]:
    """Return the legend of a map of the standard deviation that is ``width`` pixels wide, ``(H, W, 3)``: a color bar and words.

    It grows with the map, so that it can be read where a large one is shown at the size of a screen; ``above``: some values are
    above the limit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    scale = max(1.0, width / LEGEND_GROWS)
    total = max(round(width / scale), LEGEND_WIDTH), LEGEND_HEIGHT
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=scale * DPI, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    middle = total[0] / 2
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, limit), COLOURS),
        cax=figure.add_axes(_rectangle(total, (2 * MARGIN, 2 * LINE, total[0] - 4 * MARGIN, BAR))),
        orientation="horizontal",
        extend="max" if above else "neither",
    )
    bar.ax.tick_params(labelsize=8)
    _text(figure, total, (middle, LINE + 4), name, va="baseline", ha="center")
    for line, words in enumerate(LEGEND_WORDS):
        _text(figure, total, (middle, (4 + line) * LINE + BAR), words, va="baseline", ha="center")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def marked_picture(path: str | os.PathLike[str], pixels: ArrayLike, marked: ArrayLike) -> None:
    """Write a faded picture with marked pixels in red as a PNG, to check a mask by eye.

    Args:
        path: The PNG file; its folder must exist.
        pixels: ``(C, H, W)``, 1 or 3 channels, spanning [-1, 1].
        marked: Boolean ``(H, W)``.
    """
    faded = (rgb_pixels("marked_picture", pixels) // 2 + 96).astype(np.uint8)
    faded[np.asarray(marked)] = (230, 0, 30)
    with atomic_write(path) as temporary:
        _save(temporary, faded)


def tile_grid(path: str | os.PathLike[str], images: ArrayLike, *, columns: int) -> None:
    """Write images of one size as one PNG, pixel by pixel, in rows of ``columns`` with narrow gaps.

    Args:
        path: The PNG file; its folder must exist.
        images: ``(N, C, H, W)`` in [-1, 1], shown as in :func:`comparison_panel`.
        columns: Images in a row.
    """
    tiles = [rgb_pixels(str(number), image) for number, image in enumerate(np.asarray(images))]
    if not tiles or columns < 1:
        raise ValueError(f"tile_grid: expected at least one image and one column, got {len(tiles)} and {columns}.")
    height, width = tiles[0].shape[0] + 2, tiles[0].shape[1] + 2
    rows = math.ceil(len(tiles) / columns)
    grid = np.full((rows * height - 2, min(columns, len(tiles)) * width - 2, 3), 255, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        grid[row * height :, column * width :][: height - 2, : width - 2] = tile
    with atomic_write(path) as temporary:
        _save(temporary, grid)


def calibration_plot(
    path: str | os.PathLike[str],
    ranks: Mapping[str, ArrayLike],
    coverage: ArrayLike,
    *,
    titles: Mapping[str, str],
    expected: ArrayLike | None = None,
) -> None:
    """Write one PNG with a histogram of the ranks of every quantity, and the observed against the nominal coverage.

    If the samples are exact, each bar stays in its gray band with probability 99 %, and the curve follows the diagonal.

    Args:
        path: The PNG file; its folder must exist.
        ranks: Ranks of the truths, ``(n,)`` in [0, 1], by test quantity.
        coverage: Rows of nominal level, observed coverage and its standard error, ``(L, 3)``.
        titles: Second line of the title, by test quantity.
        expected: The same for regions around random points (TARP), ``(L, 3)``, drawn beside the coverage of intervals.
    """
    from matplotlib.figure import Figure
    from scipy import stats

    columns = math.ceil(len(ranks) / 2)
    figure = Figure(figsize=(2.6 * columns + 4.2, 5.2), dpi=DPI, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(2, columns + 1, width_ratios=[1] * columns + [1.5])
    for place, (name, values) in enumerate(ranks.items()):
        axes = figure.add_subplot(grid[divmod(place, columns)])
        count = len(np.asarray(values))
        bins = min(max(count // BIN_CASES, 4), 20)
        low, high = stats.binom(count, 1 / bins).interval(0.99)
        axes.axhspan(low, high, color="0.88")
        axes.axhline(count / bins, color="0.6", linewidth=0.8)
        axes.hist(np.asarray(values), bins=bins, range=(0, 1), color="tab:blue", alpha=0.8, rwidth=0.9)
        axes.set_title(f"{name}\n{titles[name]}", fontsize=9)
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(0, None))
        axes.tick_params(labelsize=8)
    figure.supxlabel("rank of the truth among the samples", fontsize=9, x=columns / (columns + 1.5) / 2)

    axes = figure.add_subplot(grid[:, columns])
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=0.8)
    curves = {"intervals": (coverage, "tab:blue")} | ({} if expected is None else {"random points": (expected, "tab:orange")})
    for name, (curve, colour) in curves.items():
        level, observed, error = np.asarray(curve, dtype=np.float64).T
        axes.errorbar(level, observed, 2 * error, fmt="o-", markersize=3, linewidth=1, capsize=2, color=colour, label=name)
    if expected is not None:
        axes.legend(fontsize=8, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal", ylabel="observed")
    axes.set_title(f"coverage{'' if expected is not None else ' of intervals'}\n(bars: two standard errors)", fontsize=9)
    axes.tick_params(labelsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata=MARK)


def is_figure(path: Path) -> bool:
    """Return whether a file is a figure of this module, by the mark at its beginning; it is no photograph to train on."""
    if path.suffix.lower() != ".png":
        return False
    with path.open("rb") as file:
        return b"\0".join(text.encode() for text in ("tEXtSoftware", MARK["Software"])) in file.read(256)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in MARK.items():
        info.add_text(name, text)
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info)


def rgb_pixels(title: str, pixels: ArrayLike) -> NDArray[np.uint8]:
    """Return pixels ``(C, H, W)`` in [-1, 1] as ``(H, W, 3)``: gray of the first of two channels, the first three of more.

    Raises:
        ValueError: If they are not finite or have another shape; the message names the ``title``.
    """
    image = np.asarray(pixels)
    if image.ndim != 3 or not image.size or not all(np.isfinite(channel).all() for channel in image):
        raise ValueError(f"comparison_panel: tile {title!r} must be finite pixels of shape (C, H, W), got shape {image.shape}.")
    shown = [_levels(channel) for channel in (image[:3] if len(image) >= 3 else image[:1])]
    return np.stack(shown if len(shown) == 3 else 3 * shown, axis=-1)


def _levels(channel: NDArray[Any]) -> NDArray[np.uint8]:
    # One channel at a time, for the memory of large pictures.
    values = channel.astype(np.float64).clip(-1, 1)
    values += 1
    values *= 127.5
    return np.asarray(np.rint(values, out=values), dtype=np.uint8)


def _shown(title: str, pixels: ArrayLike, reduction: int) -> NDArray[np.uint8]:
    image = rgb_pixels(title, pixels)
    return image if reduction == 1 else np.rint(_reduced(image, reduction)).astype(np.uint8)


def _reduced(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Return the means over squares of ``factor`` pixels; a remainder at the right and lower border is left out."""
    height, width = image.shape[:2]
    down, across = min(factor, height), min(factor, width)
    rows, columns = height // down, width // across
    squares = image[: rows * down, : columns * across].reshape(rows, down, columns, across, *image.shape[2:])
    means: NDArray[np.float64] = squares.mean((1, 3), dtype=np.float64)
    return means


def _unit_std(name: str, std: ArrayLike) -> NDArray[np.float64]:
    heat = np.asarray(std)
    heat = heat.mean(0, dtype=np.float64) if heat.ndim == 3 and len(heat) else heat.astype(np.float64)
    if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all() or (heat < 0).any():
        raise ValueError(f"{name}: std must be finite, not negative and of shape (C, H, W) or (H, W), got {np.shape(std)}.")
    return heat / 2


def largest_shown(heat: NDArray[np.float64]) -> float:
    """Return the value of a map that gets the brightest color: its 99.8th percentile, or 1 for a map of zeros."""
    # A few outliers must not make all other pixels dark; a map of zeros still needs a scale.
    return float(np.quantile(heat, 0.998)) or float(heat.max()) or 1.0


def _rectangle(total: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Convert a box ``(left, top, width, height)``, in pixels from the top left, to matplotlib's fractions of the figure."""
    (total_width, total_height), (left, top, width, height) = total, box
    return left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height


def _show(figure: Figure, total: tuple[int, int], box: tuple[int, int, int, int], image: NDArray[Any], **options: Any) -> Any:
    axes = figure.add_axes(_rectangle(total, box))
    axes.set_axis_off()
    return axes.imshow(image, interpolation="nearest", aspect="auto", **options)


def _text(figure: Figure, total: tuple[int, int], place: tuple[float, float], text: str, **options: Any) -> None:
    figure.text(place[0] / total[0], 1 - place[1] / total[1], text, fontsize=10, linespacing=1.2, **options)
