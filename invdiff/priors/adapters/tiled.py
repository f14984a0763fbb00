"""Images of any size from a prior of one size: overlapping windows, blended inside every denoising call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invdiff.priors.score_model import Reach, ScoreModel

__all__ = ["WINDOW_NUMBERS", "Tiled"]

WINDOW_NUMBERS = {"cpu": 2**19, "cuda": 2**23}  # entries of x denoised at a time by default


class Tiled(ScoreModel):
    r"""A prior of images of any size that denoises overlapping windows of one size.

    .. math:: \hat x_0(x_t) = \sum_i W_i^\top \big( w_i \odot \hat x_0^\text{window}(W_i x_t) \big),
        \qquad \sum_i W_i^\top w_i = 1

    :math:`W_i` cuts out window i and the weights :math:`w_i` blend neighboring windows: they rise over the middle third of an
    overlap and vanish over its outer third, next to the border of the window. The result is one denoiser of the whole image:
    operators, measurements and the solver's state keep the full size, and gradients pass through. Windows are spaced evenly
    and cover the image exactly; an image smaller than a window is extended by its mirror image.

    With more windows than ``batch``, gradients store only the inputs of the windows and denoise them again: the memory is that
    of one batch of windows, and the time a third more.

    Args:
        score: The prior of the windows, for images ``(C, H, W)``.
        tile: Size of a window, ``(height, width)`` or one number for both, in pixels. Default: the size the prior is for.
        overlap: Smallest overlap of neighboring windows in pixels, less than their sides. Default: a quarter of the smaller
            side.
        batch: Windows denoised at a time. Default: windows of half a million entries in all on a CPU, eight million on a GPU.

    Raises:
        ValueError: If the prior is not for images, is for another size than ``tile``, or an argument is out of range.
    """

    def __init__(
        self,
        score: ScoreModel,
        *,
        tile: int | Sequence[int] | None = None,
        overlap: int | None = None,
        batch: int | None = None,
    ) -> None:
        event = score.event_shape
        if event is None or len(event) != 3:
            raise ValueError(f"Tiled: needs a prior of images (C, H, W), got a prior of items of shape {event}.")
        if not score.windowed:
            raise ValueError(
                f"Tiled: the prior is given something about the whole image of {_size(event[1:])} pixels, and cannot be "
                "evaluated on windows of a larger one. Load it for another size, with image_size=..."
            )
        own = event[1:]
        sides = own if tile is None else tuple(tile) if isinstance(tile, Sequence) else (tile, tile)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 2 for side in sides):
            raise ValueError(f"Tiled: tile must be one or two whole numbers of at least 2, got {tile} for a prior of {own}.")
        if any(side not in (None, n) for side, n in zip(own, sides, strict=True)):
            raise ValueError(f"Tiled: the prior is for images of {_size(own)}, got tile={tile}. Omit tile.")
        self.tile: tuple[int, int] = (int(sides[0] or 0), int(sides[1] or 0))
        self.overlap = min(self.tile) // 4 if overlap is None else overlap
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < min(self.tile):
            raise ValueError(
                f"Tiled: overlap must be a whole number of pixels from 0 to less than {min(self.tile)}, the smaller side of a "
                f"window, got {overlap}."
            )
        if batch is not None and batch < 1:
            raise ValueError(f"Tiled: batch must be at least 1, got {batch}.")
        self.score_model, self.batch = score, batch
        self.schedule, self.event_shape, self.learned = score.schedule, (event[0], None, None), score.learned
        self.widest_hole = score.widest_hole
        self.error_model, self.notes = score.error_model, score.notes  # The error model is by frequency and serves any size.
        # Tiles of a window lie otherwise than those of the whole image: the samples differ as they do between two tilings.
        self.reach = Reach(context=max(self.tile) // 2, least=max(self.tile))

    def _summary(self) -> Sequence[str]:
        return (f"{self.tile[1]} x {self.tile[0]} pixels", repr(self.score_model))

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        (height, width), (rows, columns) = x_t.shape[-2:], self.tile
        padded = _mirrored(_mirrored(x_t, rows, -2), columns, -1)
        (down, row), (across, column) = (
            _windows(*sides, self.overlap, x_t) for sides in zip(padded.shape[-2:], self.tile, strict=True)
        )
        # Every window of every item: (windows down, windows across, B, C, *tile), flattened below to the network's batch axis.
        shape = (*x_t.shape[:2], len(down), rows, len(across), columns)
        grid = padded.index_select(-2, row).index_select(-1, column).reshape(shape).permute(2, 4, 0, 1, 3, 5)
        times = torch.as_tensor(t).expand(len(x_t)).expand(grid.shape[:3]).flatten()
        batch = self.windows_at_a_time(grid.shape[3:], x_t.device)
        again = len(times) > batch and torch.is_grad_enabled() and x_t.requires_grad
        denoised = torch.cat(
            [
                checkpoint(self.score_model.denoise, windows, when, use_reentrant=False, preserve_rng_state=False)
                if again
                else self.score_model.denoise(windows, when)
                for windows, when in zip(torch.split(grid.flatten(0, 2), batch), torch.split(times, batch), strict=True)
            ]
        )
        weighted = denoised.reshape(grid.shape) * down[:, None, None, None, :, None] * across[:, None, None, None, :]
        wide = weighted.permute(2, 3, 0, 4, 1, 5).flatten(-2).flatten(2, 3)  # windows side by side
        wide = wide.new_zeros(*wide.shape[:-1], padded.shape[-1]).index_add(-1, column, wide)
        return torch.zeros_like(padded).index_add(-2, row, wide)[..., :height, :width]

    def windows(self, height: int, width: int) -> int:
        """Return the number of windows of an image of this size."""
        return math.prod(
            len(_starts(max(n, side), side, self.overlap)) for n, side in zip((height, width), self.tile, strict=True)
        )

    def windows_at_a_time(self, shape: Sequence[int], device: torch.device) -> int:
        """Return the number of windows of ``shape``, ``(C, *tile)``, that are denoised together."""
        return self.batch or max(1, WINDOW_NUMBERS.get(device.type, WINDOW_NUMBERS["cpu"]) // math.prod(shape))

    def to(self, device: torch.device | str | None = None) -> Tiled:
        return Tiled(self.score_model.to(device), tile=self.tile, overlap=self.overlap, batch=self.batch)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"tile": list(self.tile), "overlap": self.overlap}


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return the starts of the fewest evenly spaced windows that cover a side with at least this overlap."""
    count = 1 + math.ceil((side - tile) / (tile - overlap))
    return [round(k * (side - tile) / max(count - 1, 1)) for k in range(count)]


def _windows(side: int, tile: int, overlap: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of windows along a side, ``(count, tile)``, and the flat list of their positions.

    The weights sum to 1 at every position.
    """
    starts = _starts(side, tile, overlap)
    weights = torch.ones(len(starts), tile, dtype=torch.float64)
    for k, (first, second) in enumerate(itertools.pairwise(starts)):
        shared = tile - (second - first)
        # Rises as a squared sine over the middle third of the overlap.
        phase = ((torch.arange(shared, dtype=torch.float64) + 0.5 - shared / 3) / max(shared / 3, 1)).clamp(0, 1)
        rise = (math.pi / 2 * phase).sin() ** 2
        weights[k + 1, :shared] *= rise
        weights[k, tile - shared :] *= 1 - rise
    places = (torch.tensor(starts)[:, None] + torch.arange(tile)).flatten()
    total = torch.zeros(side, dtype=torch.float64).index_add(0, places, weights.flatten())
    return (weights / total[places].reshape(weights.shape)).to(like), places.to(like.device)


def _mirrored(x: Tensor, side: int, axis: int) -> Tensor:
    """Extend ``x`` to ``side`` along an axis by its mirror image, in which the border is repeated."""
    n = x.shape[axis]
    if n >= side:
        return x
    places = torch.arange(side, device=x.device) % (2 * n)
    return x.index_select(axis, torch.minimum(places, 2 * n - 1 - places))


def _size(sides: Sequence[int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in reversed(sides))
