"""The samplers of azula and deepinv, if installed, with the exact denoiser behind their own interfaces.

They run as documented, on their own time grids: azula's DDPM on its VP schedule, deepinv's DDPM on the schedule of the prior,
both with equal time steps. States are flattened, as required by azula's solvers. Where a default assumes other data than ours,
such as images in [0, 1], the function documents the change.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from posterior_problem import Problem, Sampled
from torch import Tensor

from invdiff.linalg import dense_matrix
from invdiff.operators import LinearOperator

__all__ = ["PEERS", "VERSIONS"]

INSTALLED = [name for name in ("azula", "deepinv") if importlib.util.find_spec(name)]
VERSIONS = ", ".join([f"{name} {importlib.metadata.version(name)}" for name in INSTALLED]) or "azula and deepinv not installed"


class Denoiser:
    r"""The exact denoiser on flat rows at any noise-to-signal ratio, which counts what is asked of it.

    Args:
        problem: Whose prior it is.
        products: Whether vector-Jacobian products can be counted: not those of ``torch.func``.
    """

    def __init__(self, problem: Problem, *, products: bool = True) -> None:
        self.score, self.event = problem.score, problem.op.in_shape
        self.evaluations, self.products = 0, 0 if products else None

    def __call__(self, z: Tensor, ratio: Tensor) -> Tensor:
        r"""Return :math:`E[x_0 | z]` for :math:`z = x_0 + \varsigma \varepsilon`, ``(B, n)``."""
        self.evaluations += len(z)
        time = self.score.schedule.time(ratio.detach().double())
        alpha_t = self.score.levels(time, z)[0]
        x0_hat = self.score.denoise((alpha_t * z).reshape(-1, *self.event), time).flatten(1)
        if self.products is not None and x0_hat.requires_grad:
            x0_hat.register_hook(self._count)
        return x0_hat

    def _count(self, gradient: Tensor) -> None:
        self.products = (self.products or 0) + len(gradient)

    def sampled(self, x: Tensor) -> Sampled:
        products = None if self.products is None else self.products / len(x)
        return Sampled(x.reshape(-1, *self.event).detach(), self.evaluations / len(x), products)


def flat_operator(problem: Problem) -> Callable[[Tensor], Tensor]:
    return lambda x: problem.op(x.reshape(-1, *problem.op.in_shape)).flatten(1)


def matrix_of(problem: Problem) -> Tensor:
    op = problem.op
    if not isinstance(op, LinearOperator):
        raise ValueError("Needs a linear operator.")
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def azula(problem: Problem, samples: int, steps: int, seed: int, *, method: str) -> Sampled:
    """Run azula 0.11: the guided denoisers under its DDPM, the guided samplers as they are.

    DPS divides by the norm over the batch; handed the sum of the samples' norms in its place, it runs every sample by
    itself, as published.
    """
    from azula import denoise, guidance, linalg, noise, sample

    torch.manual_seed(seed)  # azula draws from the global generator.
    exact, A, y, sigma_y = Denoiser(problem), flat_operator(problem), problem.y.float().flatten(1), problem.op.sigma_y

    class Wrapped(denoise.Denoiser):  # type: ignore[misc, name-defined]
        schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            alpha_t, sigma_t = self.schedule(t)
            return denoise.DiracPosterior(mean=exact(x_t / alpha_t, sigma_t / alpha_t))

    denoiser, grid = Wrapped(), {"steps": steps, "silent": True}
    y = y.expand(samples, -1)

    def guided(name: str, **options: Any) -> Any:
        return sample.DDPMSampler(getattr(guidance, name)(denoiser, y, A, **options), **grid)

    match method:
        case "MMPS" | "MMPS, 16 iterations":
            iterations = 1 if method == "MMPS" else min(y.shape[1], 16)  # more than numbers measured break down
            covariance = linalg.covariance.IsotropicCovariance(torch.tensor(sigma_y**2))
            sampler = guided("MMPSDenoiser", cov_y=covariance, iterations=iterations)
        case "TMPD":
            sampler = guided("TMPDenoiser", var_y=sigma_y**2)
        case "DiffPIR":
            matrix_of(problem)
            sampler = guided("DiffPIRDenoiser", var_y=sigma_y**2, lmbda=1.0)
        case "DPS":
            sampler = guidance.DPSSampler(denoiser, torch.zeros(()), lambda x: (y - A(x)).norm(dim=1).sum(), **grid)
        case "PiGDM":
            inverse = torch.linalg.pinv(matrix_of(problem)).float()
            sampler = guidance.PGDMSampler(denoiser, y, A, lambda v: v @ inverse.mT, **grid)
        case _:
            # Squared norms of the rows; those of the absolute values' Jacobian are 1.
            linear = isinstance(problem.op, LinearOperator)
            widths = matrix_of(problem).float().square().sum(1) if linear else torch.ones(())

            def twist(x_hat: Tensor, ratio: Tensor) -> Tensor:  # widened as in azula's own tutorial
                return torch.distributions.Normal(A(x_hat), (sigma_y**2 + ratio**2 * widths).sqrt()).log_prob(y)

            sampler = guidance.TDSSampler(denoiser, twist, **grid)
    return exact.sampled(sampler(sampler.init((samples, torch.Size(problem.op.in_shape).numel()))))


def deepinv(problem: Problem, samples: int, steps: int, seed: int, *, method: str, weight: float = 1.0) -> Sampled:
    """Run the guidance terms of deepinv 0.5 under its DDPM, without clipping: the data are not images."""
    import deepinv as dinv

    schedule: Any = problem.score.schedule
    exact = Denoiser(problem, products=method == "DPS")
    physics, y = nonlinear(problem, dinv) if method == "DPS" else decomposed(problem, dinv)
    term = {"DPS": "DPSDataFidelity", "PiGDM": "PiGDMDataFidelity", "MMPS": "MomentMatchingDataFidelity"}[method]
    sampler = dinv.sampling.PosteriorDiffusion(
        getattr(dinv.sampling, term)(weight=weight),
        denoiser=Images(exact),
        sde=dinv.sampling.VariancePreservingDiffusion(beta_min=schedule.beta_min, beta_max=schedule.beta_max, alpha=1.0),
        solver=dinv.sampling.DDPMSolver(timesteps=torch.linspace(1, 0, steps + 1, dtype=torch.float64)),
        minus_one_one=False,
    )
    start = (samples, 1, 1, torch.Size(problem.op.in_shape).numel())
    x = sampler(y.expand(samples, -1, -1, -1), physics, x_init=start, seed=seed)
    return exact.sampled(x.flatten(1))


def deepinv_ddrm(problem: Problem, samples: int, steps: int, seed: int) -> Sampled:
    """Run deepinv's DDRM over the levels of the prior's own schedule, equal steps of their logarithm."""
    import deepinv as dinv

    exact, schedule = Denoiser(problem), problem.score.schedule
    physics, y = decomposed(problem, dinv)
    largest, smallest = (float(schedule.ratio(t)) for t in (schedule.t_max, schedule.t_min))
    sigmas = np.append(np.geomspace(largest, smallest, steps), 0.0)
    # No seed of 0: there it means none.
    x = dinv.sampling.DDRM(Images(exact), sigmas=sigmas)(y.expand(samples, -1, -1, -1), physics, seed=seed + 1)
    return exact.sampled(x.flatten(1))


def deepinv_diffpir(problem: Problem, samples: int, steps: int, seed: int) -> Sampled:
    r"""Run deepinv's DiffPIR on :math:`(x / R + 1) / 2`: it clips to [0, 1], so ``R`` is as far as the posterior goes."""
    import deepinv as dinv

    exact = Denoiser(problem)
    scale = 1.1 * float(problem.exact(1000, 2 * seed).abs().max())
    physics, y = decomposed(problem, dinv)
    shifted = (y / scale + physics.A(torch.ones(1, 1, 1, physics.mask.shape[-1], dtype=torch.float64))) / 2
    physics.noise_model = dinv.physics.GaussianNoise(problem.op.sigma_y / (2 * scale))

    def model(z: Tensor, sigma: Any) -> Tensor:
        return (Images(exact)((2 * z - 1) * scale, 2 * scale * torch.as_tensor(sigma)) / scale + 1) / 2

    solver = dinv.sampling.DiffPIR(model, dinv.optim.data_fidelity.L2(), max_iter=steps)
    x = solver(shifted.float().expand(samples, -1, -1, -1), physics, seed=seed + 1)
    return exact.sampled((2 * x.flatten(1) - 1) * scale)


class Images(torch.nn.Module):
    """The denoiser on images of one row, as deepinv calls it."""

    def __init__(self, exact: Denoiser) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
        return self.exact(x.flatten(1), torch.as_tensor(sigma).flatten()[0]).reshape(x.shape)


def nonlinear(problem: Problem, dinv: Any) -> tuple[Any, Tensor]:
    """Return an operator by its function alone, on images of one row, and the measurement."""
    A = flat_operator(problem)
    noise = dinv.physics.GaussianNoise(problem.op.sigma_y)
    physics = dinv.physics.Physics(A=lambda x, **_: A(x)[:, None, None], noise_model=noise)
    return physics, problem.y.double().reshape(1, 1, 1, -1)


def decomposed(problem: Problem, dinv: Any) -> tuple[Any, Tensor]:
    """Return a linear operator by its singular values, on images of one row, and the measurement."""
    matrix = matrix_of(problem)
    left, singular, right = torch.linalg.svd(matrix)
    outputs, inputs = matrix.shape
    if outputs > inputs:
        raise ValueError("deepinv's decomposed operators have as many singular values as unknowns.")
    mask = torch.zeros(1, 1, 1, inputs, dtype=torch.float64)
    mask[..., :outputs] = singular
    pad = partial(torch.nn.functional.pad, pad=(0, inputs - outputs))
    physics = dinv.physics.DecomposablePhysics(
        U=lambda u: u[..., :outputs] @ left.mT.to(u),
        U_adjoint=lambda v: pad(v @ left.to(v)),
        V=lambda v: v @ right.to(v),
        V_adjoint=lambda x: x @ right.mT.to(x),
        mask=mask,
        noise_model=dinv.physics.GaussianNoise(problem.op.sigma_y),
    )
    return physics, problem.y.double().reshape(1, 1, 1, -1)


AZULA = ("MMPS", "MMPS, 16 iterations", "TMPD", "DPS", "PiGDM", "DiffPIR", "TDS")
PEERS: Mapping[str, Callable[[Problem, int, int, int], Sampled]] = {
    **{f"azula {name}": partial(azula, method=name) for name in AZULA if "azula" in INSTALLED},
    **(
        {
            **{f"deepinv DPS, weight {w}": partial(deepinv, method="DPS", weight=float(w)) for w in (1, 10, 100)},
            **{f"deepinv {name}": partial(deepinv, method=name) for name in ("PiGDM", "MMPS")},
            "deepinv DDRM": deepinv_ddrm,
            "deepinv DiffPIR": deepinv_diffpir,
        }
        if "deepinv" in INSTALLED
        else {}
    ),
}
