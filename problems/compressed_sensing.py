"""Compressed sensing: an image from few random measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Hadamard, LinearOperator, Noise, RandomConvolution, walsh_order

from .arrays import BRIGHT, ArrayProblem, Arrays, image_size, named, one_number, real_numbers, whole_numbers
from .options import PATTERN_SEED, SCALE, Option

__all__ = ["CompressedSensing"]

FEWEST = 32  # rows that tell their order
DECAYS = 0.3  # rank correlation, and difference of two, that means something

Sensing = Literal["hadamard", "convolution"]


class CompressedSensing(ArrayProblem):
    r"""Reconstruct an image from fewer measurements than pixels, each a weighted sum of all pixels.

    The rows of the measurement matrix are orthonormal in both kinds of sensing, and the same for every channel.

    Args:
        size: Image size, ``(H, W)``.
        count: Number of measurements per channel.
        sensing: ``"hadamard"``: rows of a Walsh-Hadamard transform applied after random sign flips, as in a single-pixel
            camera; ``H * W`` must be a power of two. ``"convolution"``: a random subset of the pixels of a convolution with
            random phases, for any size.
        seed: Random seed of the rows and signs, or of the phases and pixels.
        rows: Indices of the rows of the transform, instead of ``count`` random ones, without random signs: a single-pixel
            camera with given patterns. Numbered as in :class:`~invdiff.operators.Hadamard`.
        scale: Pixel value of white in the units of a file.

    Raises:
        ValueError: If ``count`` exceeds the number of pixels, or the size does not suit the transform.
    """

    name = "compressed-sensing"
    options = (
        Option(
            name="ratio",
            kind="NUMBER",
            minimum=0,
            above=True,
            maximum=1,
            needed="yes",
            simulation=True,
            help="Number of measurements divided by the number of pixels (simulation).",
        ),
        Option(
            name="sensing",
            kind=("hadamard", "convolution"),
            simulation=True,
            help="Rows of a Walsh-Hadamard transform, for sides that are powers of two, or pixels of a random convolution "
            "(simulation). Default: hadamard.",
        ),
        PATTERN_SEED,
        SCALE,
    )
    needs = "an .npz file as INPUT or, to simulate, --ratio, the number of measurements per pixel"
    measures = "Hadamard, RandomConvolution"
    misfit_causes = "a wrong pattern, a wrong --scale"
    measured = "y"
    others = ("size", "rows", "order", "sensing", "seed")
    looks = "least squares"

    def __init__(
        self,
        size: tuple[int, int],
        count: int,
        *,
        sensing: Sensing,
        seed: int = 0,
        rows: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        self.size, self.count, self.sensing, self.seed, self.rows, self.scale = size, count, sensing, seed, rows, scale
        self.operator((1, *size))  # Invalid arguments fail here rather than at the first image.

    @classmethod
    def share(cls, ratio: float, size: tuple[int, int], *, sensing: Sensing, seed: int) -> Self:
        """Return the problem with ``ratio`` measurements per pixel, 0 < ``ratio`` <= 1."""
        if not 0 < ratio <= 1:
            raise ValueError(f"compressed-sensing: the ratio must lie in (0, 1], got {ratio:g}.")
        size = whole_size(size) if sensing == "hadamard" else size
        return cls(size, max(1, round(ratio * size[0] * size[1])), sensing=sensing, seed=seed)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        sensing: Sensing = options["sensing"] or "hadamard"
        return cls.share(options["ratio"], size, sensing=sensing, seed=options["pattern_seed"])

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        y = real_numbers(arrays, "y")
        if y.ndim not in (1, 2):
            raise ValueError(f"compressed-sensing: y must have shape (m,) or (C, m), got {tuple(y.shape)}.")
        if "size" not in arrays or not ("rows" in arrays or {"sensing", "seed"} <= set(arrays)):
            raise ValueError(
                "compressed-sensing: the file does not describe the measurement. Expected .npz with `y`, `size` (H, W), and "
                f"either `rows` of the Walsh-Hadamard transform or `sensing` and `seed`; got {', '.join(sorted(arrays))}."
            )
        if "rows" in arrays:
            rows = whole_numbers(arrays, "rows")
            if rows.shape != y.shape[-1:]:
                raise ValueError(f"compressed-sensing: y has {y.shape[-1]} values, but rows has shape {tuple(rows.shape)}.")
            rows, notes = _natural(rows, image_size(arrays), y, arrays)
            problem = cls(image_size(arrays), y.shape[-1], sensing="hadamard", rows=rows)
            problem.notes = notes
        else:
            sensing, seed = named(arrays, "sensing", ("hadamard", "convolution")), int(one_number(arrays, "seed"))
            problem = cls(image_size(arrays), y.shape[-1], sensing=cast(Sensing, sensing), seed=seed)
        problem.scale = 1.0 if scale is None else scale
        values = problem.in_range(y.reshape(1, -1, y.shape[-1]).float())
        white = float(np.quantile(problem.preview(values).numpy(), BRIGHT) + 1) / 2
        problem.doubt_scale(problem.scale * max(white, 1.0))  # The least-squares image of few values is darker than the image.
        return problem, values

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        how = {"rows": self.rows.numpy()} if self.rows is not None else {}
        how |= {"sensing": np.array(self.sensing), "seed": np.array(self.seed), "size": np.array(self.size)}
        return {"y": self.in_units(y)[0].numpy(), **how}

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> LinearOperator:
        if self.rows is not None:
            return Hadamard(shape, self.rows, noise=noise)
        kind = Hadamard.random if self.sensing == "hadamard" else RandomConvolution
        return kind(shape, self.count, seed=self.seed, noise=noise)

    def fit(self, x: Tensor) -> Tensor:
        height, width = self.size
        return x[..., :height, :width]

    def preview(self, y: Tensor) -> Tensor:
        return self.measurement(self.image_shape(y.shape[1:]), None).pinv(y)


def whole_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest powers of two that do not exceed the sides of ``size``."""
    height, width = (1 << (side.bit_length() - 1) for side in size)
    return height, width


def _natural(rows: Tensor, size: tuple[int, int], y: Tensor, arrays: Arrays) -> tuple[Tensor, tuple[str, ...]]:
    """Return the rows of a file in the natural numbering of :class:`~invdiff.operators.Hadamard`, and notes.

    Row ``i * W + j`` belongs to row ``i`` of one matrix and row ``j`` of another. In the natural order these are numbered as in
    ``scipy.linalg.hadamard``, in the order of sequency, or Walsh order, by their number of sign changes. A picture has more
    energy in the rows with fewer changes, which tells the two apart.
    """
    height, width = size
    if (rows < 0).any() or (rows >= height * width).any() or height & (height - 1) or width & (width - 1):
        return rows, ()  # The operator has the words for it.
    order = named(arrays, "order", ("natural", "sequency")) if "order" in arrays else None
    tall, wide = walsh_order(height), walsh_order(width)
    if order == "sequency":
        return tall[rows // width] * width + wide[rows % width], ()
    notes = []
    if order is None and len(rows) >= FEWEST:
        changes = torch.argsort(tall)[rows // width] + torch.argsort(wide)[rows % width]
        named_so = rows // width + rows % width
        natural, sequency = (_decay(changes, y), _decay(named_so, y))
        if sequency < -DECAYS and sequency < natural - DECAYS:
            notes.append(
                "the values fall with the number of the row, as if rows were in the order of sequency (Walsh order), and are "
                'read in the natural one: add order="sequency" to the file if so'
            )
    if (rows == 0).any() and len(rows) >= FEWEST:
        first = y[..., rows == 0].reshape(-1)[:1]
        others = y[..., rows != 0]
        if others.numel() and float((others * first.sign()).min()) > 0.2 * float(first.abs()):
            notes.append(
                "all values are near half the first, as patterns of 0 and 1 give them: subtract it, 2 * y - y[row 0], if so"
            )
    return rows, tuple(notes)


def _decay(places: Tensor, y: Tensor) -> float:
    """Return the rank correlation of the measured energy and the fineness of its rows."""
    energy = y.reshape(-1, y.shape[-1]).square().sum(0)
    ranks = torch.stack([torch.argsort(torch.argsort(each)).double() for each in (places, energy)])
    return float(torch.corrcoef(ranks)[0, 1])
