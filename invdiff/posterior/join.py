"""Join runs of one sampler that drew different samples of the same streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["join_runs", "normalized"]

FREE = ("chunk", "auto", "budget", "preset", "quality")  # options that do not change the samples, given the others


def normalized(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights ``(N, B)`` that sum to 1 over the samples."""
    return (weights / weights.sum(0)).to(dtype)


def join_runs(runs: Sequence[Posterior]) -> Posterior:
    """Return :meth:`Posterior.join <invdiff.posterior.Posterior.join>` of the runs, which documents it."""
    runs = sorted(runs, key=lambda run: run.first_sample)
    if not runs:
        raise ValueError("join: expected at least one run.")
    first, *later = runs
    for run in later:
        _check_same(first, run)
    for run, after in zip(runs, later, strict=False):
        end = run.first_sample + len(run.samples)
        if run.particles is not None and len(run.samples) % run.particles.group:
            raise ValueError(
                f"join: {_extent(run)} end within a group of {run.particles.group} particles, whose other samples were left "
                f"out. Draw a multiple of {run.particles.group} samples."
            )
        if after.first_sample < end:
            raise ValueError(
                f"join: the runs overlap: {_extent(run)} and {_extent(after)}. Draw other samples: run(y, first_sample={end})."
            )
        if after.first_sample > end:
            raise ValueError(
                f"join: samples are missing between {_extent(run)} and {_extent(after)}: draw them with "
                f"run(y, first_sample={end}, num_samples={after.first_sample - end})."
            )
    if not later:
        return first
    particles = first.particles
    if particles is None:
        weights = torch.ones(sum(len(run.samples) for run in runs), *first.weights.shape[1:], dtype=torch.float64)
    else:
        particles = particles.joined(*(run.particles for run in later if run.particles is not None))
        weights = particles.weights()
    counts = [len(run.samples) for run in runs]
    return replace(
        first,
        samples=torch.cat([run.samples for run in runs]),
        latents=None if first.latents is None else torch.cat([run.latents for run in runs if run.latents is not None]),
        weights=normalized(weights, first.weights.dtype).to(first.weights.device),
        residual=torch.cat([run.residual for run in runs]),
        nfe=_mean([run.nfe for run in runs], counts),
        nvjp=_mean([run.nvjp for run in runs], counts),
        seconds=sum(run.seconds for run in runs),
        particles=particles,
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
    )


def _check_same(one: Posterior, other: Posterior) -> None:
    """Raise an error that names what differs between two runs, if they are not parts of one."""
    found = [f"{name}: {a!r:.100} and {b!r:.100}" for name, a, b in _differences(_facts(one), _facts(other))]
    if not torch.equal(torch.as_tensor(one.dof).cpu(), torch.as_tensor(other.dof).cpu()):
        found.append(f"dof: {one.dof} and {other.dof}")
    if found:
        raise ValueError(
            f"join: the runs are not parts of one run, they differ in {'; '.join(found)}. Repeat a run with the settings of "
            "the other and first_sample=... (the choice of method='auto' may depend on num_samples: give method=post.method)."
        )


def _facts(post: Posterior) -> dict[str, Any]:
    groups = None if post.particles is None else {"group": post.particles.group, "weighted": post.particles.weighted}
    return {
        "seed": post.seed,
        "method": post.method,
        "shape": list(post.samples.shape[1:]),
        "dtype": str(post.samples.dtype),
        "device of the samples": str(post.samples.device),
        "options": {name: value for name, value in post.options.items() if name not in FREE},
        "origin": dict(post.origin),
        "particles": groups,
    }


def _differences(one: Any, other: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return the names and values of the entries that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(key for key in other if key not in one)]
        return [
            difference for key in names for difference in _differences(one.get(key), other.get(key), f"{name} {key}".lstrip())
        ]
    return [] if one == other else [(name, one, other)]


def _extent(run: Posterior) -> str:
    return f"samples {run.first_sample} to {run.first_sample + len(run.samples) - 1}"


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    """Return the cost per sample of all runs together."""
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
