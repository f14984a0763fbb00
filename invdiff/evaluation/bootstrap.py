"""Means over images, with confidence intervals by the percentile bootstrap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "Summary", "difference", "resampled_means", "summarize"]

LEVEL = 0.95
RESAMPLES = 2000
PART = 2**20  # counts that are held at a time
Array = NDArray[np.float64]
Rows = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True)
class Summary:
    """A figure of a set of images.

    Attributes:
        value: The figure, such as a mean. NaN for the difference of two infinite figures.
        interval: Ends of its confidence interval. ``None`` if there are fewer than two images, or infinite values.
        images: Number of images that it is of.
    """

    value: float
    interval: tuple[float, float] | None
    images: int


def summarize(rows: Rows, columns: Sequence[str], *, seed: int = 0) -> dict[str, Summary]:
    r"""Return the mean of every column over the images that have a value there, with a 95 % confidence interval.

    The interval is from the 2.5 % to the 97.5 % quantile of the figure over 2,000 sets of as many images, drawn from the images
    with replacement. It says how far another set of images of the same kind may give another figure; for fewer than about 20
    images it is too narrow. Equal numbers of images and equal seeds give equal draws.

    Lengths are averaged as root mean squares over the images, and ``spread_error`` is the ratio of two such:

    ================ ==========================================================================================
    ``spread``       :math:`\langle \text{spread}^2 \rangle^{1/2}`, and ``error`` likewise
    ``spread_error`` :math:`\langle \tfrac{n+1}{n} \text{spread}^2 \rangle^{1/2} / \langle \text{error}^2 \rangle^{1/2}`;
                     a mean of ratios would be biased where the error of single images varies by chance
    ================ ==========================================================================================

    Args:
        rows: A mapping for each image; missing values are ``None``.
        columns: Names of the columns.
        seed: Random seed of the draws.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, https://doi.org/10.1201/9780429246593
    """
    found = _figures({(0, name): _parts(rows, name) for name in columns}, seed)
    return {name: Summary(value, _interval(draws), images) for (_, name), (value, draws, images) in found.items()}


def difference(first: Rows, second: Rows, columns: Sequence[str], *, seed: int = 0) -> dict[str, Summary]:
    """Return the figures of :func:`summarize` of the second rows minus those of the first, of the same images in equal order.

    Only images that have a value in both count, and every draw takes the same images from both: what makes an image hard for
    both cancels.
    """
    sides: dict[tuple[int, str], Array] = {}
    for name in columns:
        one, two = _parts(first, name), _parts(second, name)
        missing = np.isnan(one).any(1) | np.isnan(two).any(1)
        one[missing] = two[missing] = math.nan
        sides |= {(1, name): one, (2, name): two}
    found, summaries = _figures(sides, seed), {}
    for name in [name for side, name in found if side == 1]:
        (value_1, draws_1, images), (value_2, draws_2, _) = found[1, name], found[2, name]
        value = math.nan if math.isinf(value_1) and math.isinf(value_2) else value_2 - value_1
        summaries[name] = Summary(value, _interval(draws_2 - draws_1), images)
    return summaries


def resampled_means(values: Array, *, seed: int, resamples: int = RESAMPLES) -> Array:
    """Return means over draws of rows with replacement, ``(resamples, k)``, of values ``(n, k)``.

    NaN stands for a missing value; the mean is that of the others, NaN if there are none. The draws depend on ``n`` and the
    seed alone.
    """
    n, there = len(values), ~np.isnan(values)
    filled, rng = np.where(there, values, 0.0), np.random.default_rng(seed)
    means, rows = [], max(1, PART // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0 where no drawn row has a value
            means.append((counts @ filled) / (counts @ there))
    return np.concatenate(means)


def _parts(rows: Rows, name: str) -> Array:
    """Return the values ``(n, p)`` of whose means a figure is made; NaN where an image has none."""

    def column(name: str) -> Array:
        return np.array([math.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)

    if name == "spread_error":
        n, spread, error = column("samples"), column("spread"), column("error")
        return np.stack([(n + 1) / n * spread**2, error**2], axis=1)
    return column(name)[:, None] ** (2 if name in ("spread", "error") else 1)


def _figure(name: str, means: Array) -> Array:
    """Return the figure of means ``(..., p)``."""
    if name == "spread_error":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(means[..., 0] / means[..., 1])
    return np.sqrt(means[..., 0]) if name in ("spread", "error") else means[..., 0]


def _figures(parts: Mapping[tuple[int, str], Array], seed: int) -> dict[tuple[int, str], tuple[float, Array, int]]:
    """Return each figure, its values over the draws, and its number of images, of parts by side and column.

    A figure without images is left out. Draws are NaN where there is one image, or an infinite value.
    """
    parts = {name: part for name, part in parts.items() if not np.isnan(part).any(1).all()}
    if not parts:
        return {}
    usable = {name: np.where(np.isinf(part).any(), math.nan, part) for name, part in parts.items()}
    draws = np.split(
        resampled_means(np.concatenate(list(usable.values()), axis=1), seed=seed),
        np.cumsum([part.shape[1] for part in parts.values()])[:-1],
        axis=1,
    )
    found = {}
    for ((side, name), part), drawn in zip(parts.items(), draws, strict=True):
        there = part[~np.isnan(part).any(1)]
        means = np.array([math.fsum(values) / len(there) for values in there.T])  # rounded once, in any order of the images
        spread = _figure(name, drawn) if len(there) > 1 else np.full(len(drawn), math.nan)
        found[side, name] = (float(_figure(name, means)), spread, len(there))
    return found


def _interval(draws: Array) -> tuple[float, float] | None:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
