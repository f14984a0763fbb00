"""Several restorations of pictures of one size in one run of the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from invdiff.operators import per_item
from invdiff.posterior import PosteriorSampler
from invdiff.posterior.misfit import unwarned
from invdiff.restoration.estimate import Stopwatch
from invdiff.restoration.job import Job
from invdiff.restoration.result import Restoration
from invdiff.restoration.sampling import sampler_arguments

__all__ = ["batches", "run_together"]


def batches(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Divide jobs of one study into batches of at most ``size`` whose measurements have one shape, in their order."""
    found: dict[object, list[list[Job]]] = {}
    for number, job in enumerate(jobs):
        op, alone = job.measured.op, not isinstance(job.sampler, PosteriorSampler)
        shape = number if alone else (type(op), type(op.noise), op.in_shape, op.out_shape, op.sigma_y > 0)
        of_shape = found.setdefault(shape, [])
        if not of_shape or len(of_shape[-1]) == size:
            of_shape.append([])
        of_shape[-1].append(job)
    return [batch for of_shape in found.values() for batch in of_shape]


def run_together(
    jobs: Sequence[Job],
    *,
    option: dict[str, object],
    progress: bool = False,
    report: Callable[[float, float], object] | None = None,
) -> list[Restoration]:
    """Return the restorations of jobs that differ in the picture, its files and the seed only.

    Each has the samples of a run of its own, up to rounding, since matrix products of other numbers of rows round differently.

    Args:
        jobs: The jobs, one of :func:`batches`.
        option: Options of the method, as in :func:`~invdiff.restoration.job.prepare`.
        progress: Whether to show a progress bar.
        report: As in :meth:`Job.run <invdiff.restoration.job.Job.run>`.

    Raises:
        ValueError: If their operators cannot be applied together.
    """
    first = jobs[0]
    if len(jobs) == 1 or not isinstance(first.sampler, PosteriorSampler):
        return [job.run(progress=progress, report=report) for job in jobs]
    settings, score = first.settings, first.sampler.score
    op = per_item([job.measured.op for job in jobs])
    arguments = sampler_arguments(first.measured.problem, settings, option)
    sampler = PosteriorSampler(score, op, windows=settings["windows"], **arguments)
    costs, count = sampler.plan(settings["samples"]).costs(score), settings["samples"]
    watch = Stopwatch(costs, count * len(jobs), first.device, report, sum(h * w for h, w in sampler.parts(count)))
    with unwarned():
        post = sampler.run(
            torch.cat([job.y for job in jobs]),
            num_samples=count,
            first_sample=settings["first_sample"],
            seed=[job.settings["seed"] for job in jobs],
            chunk=min((job.chunk for job in jobs if job.chunk is not None), default=None),
            progress=progress,
            callback=watch,
        )
    each = None if watch.seconds is None else watch.seconds / len(jobs)
    return [job.restored(post.item(number), estimate=each) for number, job in enumerate(jobs)]
