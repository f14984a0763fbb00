"""The figure of a posterior: mean, standard deviation and samples, of images as pictures and of vectors as lines."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from invdiff.io.figures import COLOURS, largest_shown, rgb_pixels

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["NotebookFigure", "posterior_figure"]

LEVEL = 0.9  # of the intervals around vectors
SIDE = 2.6  # inches of an image
LINES = (7.0, 2.6)  # inches of a row of lines


class NotebookFigure(Figure):
    """A figure that notebooks show, although it is not one of ``matplotlib.pyplot``, which keeps figures and opens windows."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def posterior_figure(post: Posterior, *, samples: int, items: int) -> Figure:
    """Return the figure of :meth:`Posterior.plot <invdiff.posterior.Posterior.plot>`, which documents it."""
    if samples < 0 or items < 1:
        raise ValueError(f"plot: expected samples of at least 0 and items of at least 1, got {samples} and {items}.")
    count, there, *event = post.samples.shape
    rows, shown = min(items, there), min(samples, count)
    if len(event) not in (1, 3):
        raise ValueError(f"plot: shows images (C, H, W) and vectors (n,), got samples of shape {tuple(event)}.")
    if len(event) == 1:
        figure = NotebookFigure(figsize=(LINES[0], LINES[1] * rows), layout="constrained")
        for b, (axes,) in enumerate(figure.subplots(rows, 1, squeeze=False)):
            _draw_lines(axes, post, b, shown)
    else:
        columns, height = 1 + (count > 1) + shown, SIDE * event[1] / event[2]
        figure = NotebookFigure(figsize=(SIDE * columns + 0.6, (height + 0.4) * rows), layout="constrained")
        for b, row in enumerate(figure.subplots(rows, columns, squeeze=False)):
            _draw_images(figure, row, post, b, shown)
    if rows < there:
        figure.suptitle(f"the first {rows} of {there} items", fontsize=9)
    return figure


def _draw_lines(axes: Any, post: Posterior, b: int, shown: int) -> None:
    place = np.arange(post.samples.shape[2])
    if len(post.samples) > 1:
        low, high = (end[b].detach().cpu().numpy() for end in post.interval(LEVEL))
        axes.fill_between(place, low, high, color="tab:blue", alpha=0.2, linewidth=0, label=f"{LEVEL:.0%} intervals")
    for k in range(shown):
        label = "samples" if k == 0 else None
        axes.plot(place, post.samples[k, b].detach().cpu().numpy(), color="0.6", linewidth=0.8, label=label)
    axes.plot(place, post.mean[b].detach().cpu().numpy(), color="tab:blue", label="mean")
    axes.set_title(_title(post, b, "posterior"), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)


def _draw_images(figure: Figure, row: Any, post: Posterior, b: int, shown: int) -> None:
    places = iter(row)
    pictures = {"mean": post.mean[b]}
    pictures |= {f"sample {post.first_sample + k}": post.samples[k, b] for k in range(shown)}
    for name, picture in pictures.items():
        axes = next(places)
        axes.imshow(rgb_pixels(name, picture.detach().cpu().numpy()), interpolation="nearest")
        axes.set_title(_title(post, b, name) if name == "mean" else name, fontsize=9)
        axes.set_axis_off()
        if name == "mean" and len(post.samples) > 1:
            _draw_std(figure, next(places), post, b)


def _draw_std(figure: Figure, axes: Any, post: Posterior, b: int) -> None:
    heat = post.std[b].detach().double().mean(0).cpu().numpy()
    image = axes.imshow(heat, interpolation="nearest", cmap=COLOURS, vmin=0, vmax=largest_shown(heat))
    axes.set_title("standard deviation", fontsize=9)
    axes.set_axis_off()
    bar = figure.colorbar(image, ax=axes, shrink=0.8, extend="max" if heat.max() > largest_shown(heat) else "neither")
    bar.ax.tick_params(labelsize=7)


def _title(post: Posterior, b: int, name: str) -> str:
    return name if post.samples.shape[1] == 1 else f"item {b}: {name}"
