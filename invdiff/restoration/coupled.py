r"""Slices of a volume sampled together, with a coupling of neighbors.

.. math:: p(x) \propto \prod_k p_\text{slice}(x_k)\, \exp\Big(-\frac{1}{2 \tau^2} \sum_k \|x_{k+1} - x_k\|^2\Big)

The coupling is a second measurement: the differences of neighbors are 0, up to :math:`\tau`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from invdiff.operators import FiniteDifferences, GaussianNoise, Mask, Operator, per_slice, stack
from invdiff.posterior import PosteriorSampler
from invdiff.posterior.misfit import unwarned
from invdiff.problems import OptionError
from invdiff.restoration.job import Job
from invdiff.restoration.result import Restoration
from invdiff.restoration.sampling import sampler_arguments

__all__ = ["coupled_results"]


def coupled_results(
    jobs: Sequence[Job], coupling: float, settings: Mapping[str, Any], option: Mapping[str, Any], *, progress: bool = False
) -> Iterator[Restoration]:
    r"""Yield the restoration of each slice, sampled together with all others.

    Args:
        jobs: The slices, in their order, prepared one by one.
        coupling: :math:`\tau`, typical difference of the same pixel in neighboring slices, pixels spanning 0..1.
        settings: Settings that they share.
        option: Options of the method.
        progress: Whether to show a progress bar.

    Raises:
        OptionError: If the slices are not measured alike, or by an operator that is not known.
    """
    if not coupling > 0:
        raise OptionError(f"--coupling: expected a number above 0, pixels spanning 0..1, got {coupling:g}.")
    if len(jobs) < 2:
        raise OptionError("--coupling needs two slices or more.")
    if not all(isinstance(job.sampler, PosteriorSampler) for job in jobs):
        raise OptionError("--coupling needs a known kernel, and that of INPUT is estimated. Leave it out.")
    measured = [job.measured for job in jobs]
    whole = _of_all([each.observed for each in measured])
    differences = FiniteDifferences(whole.in_shape, axes=(1,), boundary="replicate", sigma_y=2 * coupling)
    y = torch.stack([each.measurement for each in measured], 2).flatten(1)
    both = torch.cat([y, y.new_zeros(1, torch.Size(differences.out_shape).numel())], 1)
    arguments = sampler_arguments(measured[0].problem, settings, option)
    sampler = PosteriorSampler(jobs[0].sampler.score, stack([whole, differences]), **arguments)
    with unwarned():
        post = sampler.run(
            both.to(jobs[0].device),
            num_samples=settings["samples"],
            first_sample=settings["first_sample"],
            seed=settings["seed"],
            chunk=settings["chunk"],
            progress=progress,
        )
    for k, job in enumerate(jobs):
        yield job.restored(replace(post, samples=post.samples[:, :, :, k].contiguous()))


def _of_all(ops: Sequence[Operator]) -> Operator:
    """Return the operator of a volume ``(C, D, H, W)`` whose slices are measured by the operators of images."""
    first, count = ops[0], len(ops)
    channels, *sides = first.in_shape
    if all(isinstance(op, Mask) for op in ops):
        masks = torch.stack([op.mask for op in ops if isinstance(op, Mask)], 1)
        return Mask(masks, (channels, count, *sides), noise=first.noise)
    generator = torch.Generator().manual_seed(0)
    probe: Tensor = torch.rand(1, *first.in_shape, generator=generator) - 0.5
    expected = first(probe)
    for number, op in enumerate(ops[1:], 2):
        alike = op.in_shape == first.in_shape and repr(op.noise) == repr(first.noise)
        if not alike or not torch.allclose(op(probe), expected, atol=1e-5):
            raise OptionError(
                f"--coupling: slice {number} of those chosen is not measured as the first one (mask, angles or noise). "
                "Give --noise as a number, or leave --coupling out."
            )
    exact = copy.copy(first)
    exact.noise = GaussianNoise(0.0)
    return per_slice(exact, count, noise=first.noise)
