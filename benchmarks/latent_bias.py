"""The bias of the methods under a latent prior with a linear decoder, where the posterior is known: a table of docs/priors.md.

`matrix`: codes of three numbers, images of six, four measured numbers with noise, of a draw of the prior; `far`: of twice
another draw. `hole`: codes 1 x 4 x 4, images 1 x 8 x 8, a rectangle of two by three codes missing, of twice a draw; without
noise, and with noise of a tenth of the spread of the codes.

For each method, over 1,024 samples: the root mean square distance of the mean of the images (of the missing codes, in the hole)
from the exact mean in exact standard deviations, and the ratio of the standard deviations.

    python benchmarks/latent_bias.py                       # all methods with their defaults: an hour on one core
    python benchmarks/latent_bias.py --methods psld latino --samples 256
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import Mask, Matrix, Operator
from invdiff.posterior import MisfitWarning
from invdiff.priors import Gaussian, LatentPrior

# Beside the defaults: what the papers tune, as a default that suits no problem.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "psld": [{"omega": 0.1}, {"omega": 0.01}],
    "resample": [{"every": 2}],
    "latino": [{"ode_steps": 1}, {"steps": 32, "ode_steps": 20}],
    "ding": [{"steps": 100}],
}


class Known(NamedTuple):
    """A problem with one measurement, and the exact mean and standard deviations of ``view(codes)``."""

    prior: LatentPrior
    op: Operator
    y: Tensor
    mean: Tensor
    deviation: Tensor
    view: Callable[[Tensor], Tensor]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bayes(codes: Gaussian, cov: Tensor, a: Tensor, sigma_y: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the covariance of the codes given ``y = a z + n``."""
    gain = cov @ a.mT @ torch.linalg.pinv(a @ cov @ a.mT + sigma_y**2 * torch.eye(len(a), dtype=torch.float64))
    return codes.mean.flatten() + gain @ (y - a @ codes.mean.flatten()), cov - gain @ a @ cov


def matrix(scale: float, seed: int) -> Known:
    basis, a = randn(6, 3, seed=0) / 3, randn(4, 6, seed=2) / 3
    cov = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.8]], dtype=torch.float64)
    codes, op = Gaussian(randn(3, seed=1), cov), Matrix(a, sigma_y=0.2)
    inverse = torch.linalg.pinv(basis)
    prior = LatentPrior(codes, lambda z: z @ basis.to(z).mT, encode=lambda x: x @ inverse.to(x).mT)
    y = op.measure(scale * codes.sample(1, seed=seed) @ basis.mT, seed=seed + 1)
    mean, cov = bayes(codes, cov, a @ basis, 0.2, y[0])
    return Known(prior, op, y, basis @ mean, (basis @ cov @ basis.mT).diagonal().sqrt(), lambda z: z @ basis.mT)


def hole(sigma_y: float) -> Known:
    pattern = torch.tensor([[0.7, 0.5], [0.4, 0.33]], dtype=torch.float64)
    pattern = pattern / pattern.norm()
    places = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).reshape(16, 2).double()
    cov = torch.exp(-torch.cdist(places, places) / 2)
    codes = Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), cov)

    def decode(z: Tensor) -> Tensor:
        return torch.kron(z, pattern.to(z))

    def encode(x: Tensor) -> Tensor:
        return (x.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)) * pattern.to(x)[:, None]).sum((-3, -1))

    mask = torch.ones(1, 8, 8)
    mask[:, 2:6, 2:8] = 0
    op, missing = Mask(mask, sigma_y=sigma_y), torch.tensor([5, 6, 7, 9, 10, 11])
    y = op.measure(decode(2 * codes.sample(1, seed=1)), seed=2)
    a = op(decode(torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4))).flatten(1).mT
    mean, cov = bayes(codes, cov, a, sigma_y, y.flatten())
    prior = LatentPrior(codes, decode, encode=encode)
    return Known(prior, op, y, mean[missing], cov.diagonal()[missing].sqrt(), lambda z: z.flatten(1)[:, missing])


def judge(known: Known, method: str, samples: int, options: dict[str, Any]) -> str:
    """Return the distance of the mean, the ratio of the spread, evaluations and products, or why there is none."""
    try:
        post = PosteriorSampler(known.prior, known.op, method=method, **options).run(known.y, num_samples=samples)
    except ValueError as error:
        return str(error).split(", got")[0]
    assert post.latents is not None
    found, weights = known.view(post.latents[:, 0]), post.weights[:, :1]
    center = (weights * found).sum(0)
    spread = ((weights * (found - center) ** 2).sum(0) * samples / (samples - 1)).sqrt()
    distance, ratio = ((center - known.mean) / known.deviation).square().mean().sqrt(), (spread / known.deviation).mean()
    return f"{float(distance):.2f} | {float(ratio):.2f} | {post.nfe:.0f} + {post.nvjp:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--samples", type=int, default=1024)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MisfitWarning)
    problems = {"matrix": matrix(1, 3), "far": matrix(2, 5), "hole": hole(0.0), "hole, noise": hole(0.1)}
    print("| problem | method | options | distance of the mean | standard deviation / exact | evaluations + gradients |")
    print("|---|---|---|---|---|---|")
    for method in arguments.methods:
        for options in ({}, *OTHERS.get(method, [])):
            for name, known in problems.items():
                print(
                    f"| {name} | {method} | {options or ''} | {judge(known, method, arguments.samples, options)} |", flush=True
                )


if __name__ == "__main__":
    main()
