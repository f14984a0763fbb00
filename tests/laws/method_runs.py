"""Small runs of every method, for laws: a measurement that the method takes, a prior in closed form, few steps."""

from __future__ import annotations

from typing import Any

import torch
from latent_problem import decoded_for
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.methods import METHODS, Method
from invdiff.operators import LinearFunction, Mask, Operator
from invdiff.priors import Gaussian

SHAPE = (1, 4, 6)
PRIOR = Gaussian(torch.zeros(SHAPE), torch.ones(SHAPE))
HALF = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6


def problem(name: str) -> Operator:
    """Return a measurement that the method takes."""
    needs = METHODS[name].algorithm.needs
    sigma_y = 0.0 if "exact" in needs else 0.1
    if {"mask", "inpainting"} & set(needs) or name in ("mcg-diff", "ilvr"):
        return Mask(HALF, sigma_y=sigma_y)
    return decoded_for(name, LinearFunction(lambda x: x.cumsum(-1)[..., 1::2], SHAPE, sigma_y=sigma_y))


def measured(op: Operator, *, seed: int = 1) -> Tensor:
    """Return a measurement of two draws of the prior, on the CPU."""
    return op.to("cpu").measure(PRIOR.sample(2, seed=seed), seed=seed + 1)


def run(name: str | Method, op: Operator, where: torch.device | str, steps: int, *, seed: int = 1, **options: Any) -> Tensor:
    """Return three samples for each of two measurements."""
    sampler = PosteriorSampler(PRIOR, op, method=name, steps=steps, **options)
    return sampler.run(measured(op, seed=seed).to(where), num_samples=3).samples
