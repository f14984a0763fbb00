"""Statistics of the samples that the page shows: their spread, and the directions in which they differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Direction", "directions", "numbers", "standard_deviation"]

DIRECTIONS = 3


@dataclass(frozen=True)
class Direction:
    r"""A principal direction of the samples.

    Attributes:
        step: :math:`\sqrt{\lambda}\, v`, one standard deviation along the direction, in the shape and units of the samples.
        share: Share of the variance of the samples along the direction.
    """

    step: NDArray[np.float64]
    share: float


def standard_deviation(samples: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the standard deviation of samples ``(C, H, W)``, averaged over channels, ``(H, W)``.

    One sample is in memory at a time (Welford's recurrence). With ``N - 1`` in the denominator, as in ``std.png``.

    Raises:
        ValueError: If there are fewer than two, or they differ in shape.
    """
    count, mean, squares = 0, None, None
    x: NDArray[np.float32]
    for sample in samples:
        x = sample.astype(np.float32)
        count += 1
        if mean is None or squares is None:
            mean, squares = x, np.zeros_like(x)
            continue
        if x.shape != mean.shape:
            raise ValueError(f"expected samples of one shape, got {mean.shape} and {x.shape}")
        difference = x - mean
        mean += difference / count
        squares += difference * (x - mean)
    if squares is None or count < 2:
        raise ValueError(f"the standard deviation needs two samples or more, got {count}")
    deviation: NDArray[np.float32] = np.sqrt(squares / (count - 1)).mean(0, dtype=np.float32)
    return deviation


def directions(samples: NDArray[Any], count: int = DIRECTIONS) -> list[Direction]:
    r"""Return the principal directions of samples, those of largest variance first.

    With :math:`N` samples :math:`x_k` around their mean, the eigenvectors :math:`u` of the Gram matrix
    :math:`G_{kl} = \langle x_k, x_l \rangle / (N - 1)` give those of the covariance,
    :math:`\sqrt{\lambda}\, v = X^\top u / \sqrt{N - 1}`.
    The sign is such that the sample farthest from the mean along a direction is on its positive side.

    Args:
        samples: ``(N, ...)``.
        count: Number of directions; at most ``N - 1`` differ from zero.
    """
    number = len(samples)
    if number < 2:
        return []
    x = samples.reshape(number, -1).astype(np.float64)
    x -= x.mean(0)
    variances, vectors = np.linalg.eigh(x @ x.T / (number - 1))
    total = float(variances.clip(min=0).sum())
    found = []
    for variance, u in zip(variances[::-1][: min(count, number - 1)], vectors.T[::-1], strict=False):
        if total == 0 or variance <= 1e-9 * total:
            break
        signed = u * (1 if u[np.abs(u).argmax()] > 0 else -1)
        step = (signed @ x / np.sqrt(number - 1)).reshape(samples.shape[1:])
        found.append(Direction(step, float(variance) / total))
    return found


def numbers(values: NDArray[Any], *, signed: bool = False) -> dict[str, float]:
    """Return the mean, the 95th percentile and the largest value of a map, rounded; if it is signed those of its magnitude."""
    values, what = (np.abs(values), "mean magnitude") if signed else (values, "mean")
    figures = {
        what: values.mean(dtype=np.float64),
        "95 % of the pixels below": np.quantile(values, 0.95),
        "largest": values.max(),
    }
    return {name: float(f"{float(value):.3g}") for name, value in figures.items()}
