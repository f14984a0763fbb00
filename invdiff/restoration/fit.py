"""Fit a run into the memory that is available: smaller chunks, then the network part by part, then advice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from invdiff.posterior import PosteriorSampler
from invdiff.priors import NetworkPrior, ScoreModel, Tiled
from invdiff.processor import return_memory, spare_memory
from invdiff.restoration.memory import available_memory, gigabytes, needed_memory, rows_at_a_time

__all__ = ["Fit", "fit"]

SIDES = (1536, 1024, 768)  # of the squares in pixels; the larger, the less is computed twice


@dataclass(frozen=True, eq=False)
class Fit:
    """How a run uses the memory.

    Attributes:
        sampler: The sampler, with a prior that is evaluated in parts if need be.
        chunk: Samples per chunk; ``None``: the default.
        needed: Memory that the run needs in bytes; ``None``: not known, or little.
        chosen: Messages on what was chosen and why. The samples are the same, up to rounding.
        advice: Messages on what the user can do, if the run does not fit all the same.
    """

    sampler: PosteriorSampler
    chunk: int | None
    needed: int | None
    chosen: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def fit(
    sampler: PosteriorSampler,
    score: ScoreModel,
    *,
    num_samples: int,
    chunk: int | None,
    device: torch.device,
) -> Fit:
    """Return the settings with which a run fits in the memory that is available, as far as they leave its samples the same.

    First fewer samples are computed at a time, unless the user gave a chunk; then, if the network looks no further than a
    number of pixels, it is evaluated in squares (:meth:`invdiff.priors.NetworkPrior.in_parts`), as large ones as fit. Whatever
    changes the samples is advised and not chosen.

    Args:
        sampler: The sampler with the prior as it was loaded.
        score: The prior as it was loaded.
        num_samples: Samples of one measurement.
        chunk: Samples per chunk that the user gave, or ``None``.
        device: Device of the run.
    """

    def needs(chunk: int | None, side: int | None = None) -> int | None:
        return needed_memory(sampler, num_samples=num_samples, chunk=chunk, device=device, side=side)

    needed = needs(chunk)
    return_memory()
    there = available_memory()
    if needed is None or there is None or needed <= there:
        return Fit(sampler, chunk, needed)
    spare_memory()
    before, notes = needed, list[str]()
    reason = f"the run would need about {gigabytes(before)} and {gigabytes(there)} are available"
    rows = first = rows_at_a_time(sampler, num_samples=num_samples, chunk=chunk, device=device)
    while chunk is None and rows > 1 and needed > there:
        rows //= 2
        needed = needs(rows) or needed
    if rows < first:
        chunk = rows
        notes.append(f"memory: {rows} of {first} samples at a time, since {reason}; they are the same samples")
    if needed > there and isinstance(score, NetworkPrior) and score.smallest_part is not None:
        height, width = max(sampler.parts(num_samples), key=max)
        sides = [side for side in SIDES if score.smallest_part <= side < max(height, width)]
        found = {side: need for side in sides if (need := needs(chunk, side)) is not None and need < needed}
        side = next((side for side in sides if found.get(side, there + 1) <= there), min(found, default=None))
        if side is not None:
            needed, sampler = found[side], sampler.with_prior(score.in_parts(side))
            notes.append(
                f"memory: the network is evaluated in squares of {side} pixels that overlap, since {reason}: slower, "
                "with the same samples up to rounding"
            )
    if needed <= there:
        return Fit(sampler, chunk, needed, tuple(notes))
    more = [*(["--chunk 1"] if (chunk or first) > 1 else []), *([] if isinstance(score, Tiled) else ["--tile 256"])]
    more += [*(["--samples 1"] if num_samples > 1 else []), "--precision bfloat16"]
    advice = (
        f"memory: the run needs about {gigabytes(needed)} and {gigabytes(there)} are available: use {', '.join(more)}, or a "
        "smaller picture",
    )
    return Fit(sampler, chunk, needed, tuple(notes), advice)
