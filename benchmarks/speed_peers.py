"""The samplers of azula and deepinv for ``speed.py``, if installed, on the networks of the priors.

They call the network with as little around it as their interfaces allow, and take as many steps as invdiff, one call each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.operators import LinearOperator, Mask
from invdiff.priors.network import NetworkPrior, edm_denoise

__all__ = ["INSTALLED", "PEERS", "VERSIONS", "deepinv_dps"]

INSTALLED = [name for name in ("azula", "deepinv") if importlib.util.find_spec(name)]
VERSIONS = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in INSTALLED) or "azula and deepinv not installed"
Build = Callable[[NetworkPrior, LinearOperator, Tensor, int], Callable[[], Any]]


def bare_denoiser(prior: NetworkPrior) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Return :math:`E[x_0 | x_0 + \varsigma \varepsilon]` for a scalar level, without the checks of a prior."""
    net: Any = prior.net

    def edm(z: Tensor, ratio: Tensor) -> Tensor:
        return edm_denoise(net, z, ratio, sigma_data=prior.sigma_data)

    def eps(z: Tensor, ratio: Tensor) -> Tensor:
        return z - ratio * net(z / (1 + ratio**2).sqrt(), ratio.expand(len(z)))

    return edm if prior.predicts == "edm" else eps


def azula(prior: NetworkPrior, op: LinearOperator, y: Tensor, steps: int, *, method: str) -> Callable[[], Any]:
    from azula import denoise, guidance, linalg, noise, sample

    assert isinstance(op, Mask)
    exact, mask, variance = bare_denoiser(prior), op.mask.to(y), op.sigma_y**2

    class Wrapped(denoise.Denoiser):  # type: ignore[misc, name-defined]
        schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            alpha_t, sigma_t = self.schedule(t)
            return denoise.DiracPosterior(mean=exact(x_t / alpha_t, sigma_t / alpha_t))

    def masked(x: Tensor) -> Tensor:
        return mask * x

    denoiser, grid = Wrapped(), {"steps": steps, "silent": True}
    match method:
        case "DPS":
            sampler = guidance.DPSSampler(denoiser, y, masked, **grid)
        case "PGDM":
            sampler = guidance.PGDMSampler(denoiser, y, masked, masked, **grid)
        case "DiffPIR":
            sampler = sample.DDPMSampler(guidance.DiffPIRDenoiser(denoiser, y, masked, var_y=variance, lmbda=1.0), **grid)
        case _:
            covariance = linalg.covariance.IsotropicCovariance(torch.tensor(variance))
            guided = guidance.MMPSDenoiser(denoiser, y, masked, cov_y=covariance, iterations=3)
            sampler = sample.DDPMSampler(guided, **grid)
    return lambda: sampler(sampler.init(y.shape))


class Images(nn.Module):
    """The denoiser on images in [0, 1], as deepinv calls it."""

    def __init__(self, exact: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
        ratio = 2 * torch.as_tensor(sigma, dtype=x.dtype).flatten()[0]
        return self.exact(2 * x - 1, ratio) / 2 + 0.5


def physics_of(op: LinearOperator, y: Tensor) -> tuple[Any, Tensor]:
    """Return the operator as one of deepinv, on images in [0, 1], and the measurement on the same scale."""
    import deepinv as dinv

    noise = dinv.physics.GaussianNoise(op.sigma_y / 2)
    seen = (y + op(torch.ones(1, *op.in_shape))) / 2
    if isinstance(op, Mask):
        return dinv.physics.Inpainting(img_size=op.in_shape, mask=op.mask.to(y)[None], noise_model=noise), seen
    return dinv.physics.LinearPhysics(A=lambda x, **_: op(x), A_adjoint=lambda v, **_: op.adjoint(v), noise_model=noise), seen


def deepinv_dps(prior: NetworkPrior, op: LinearOperator, y: Tensor, steps: int) -> Callable[[], Any]:
    import deepinv as dinv

    physics, seen = physics_of(op, y)
    # Of the time steps, the last one is not evaluated. Float32, as everywhere here.
    sampler = dinv.sampling.DPS(Images(bare_denoiser(prior)), num_steps=steps + 1, dtype=torch.float32)
    return lambda: sampler(seen, physics, x_init=tuple(y.shape), seed=1)


def deepinv_ddrm(prior: NetworkPrior, op: LinearOperator, y: Tensor, steps: int) -> Callable[[], Any]:
    import deepinv as dinv

    physics, seen = physics_of(op, y)
    sampler = dinv.sampling.DDRM(Images(bare_denoiser(prior)), sigmas=np.linspace(1, 0.01, steps).astype(np.float32))
    return lambda: sampler(seen, physics, seed=1)


def deepinv_diffpir(prior: NetworkPrior, op: LinearOperator, y: Tensor, steps: int) -> Callable[[], Any]:
    import deepinv as dinv

    physics, seen = physics_of(op, y)
    sampler = dinv.sampling.DiffPIR(Images(bare_denoiser(prior)), dinv.optim.data_fidelity.L2(), max_iter=steps)
    return lambda: sampler(seen, physics, seed=1)


AZULA = {"dps": "DPS", "pigdm": "PGDM", "diffpir": "DiffPIR", "mmps": "MMPS"}
DEEPINV: Mapping[str, Build] = {"dps": deepinv_dps, "ddrm": deepinv_ddrm, "diffpir": deepinv_diffpir}
PEERS: Mapping[str, Mapping[str, Build]] = {
    method: {
        **({"azula": partial(azula, method=AZULA[method])} if method in AZULA and "azula" in INSTALLED else {}),
        **({"deepinv": DEEPINV[method]} if method in DEEPINV and "deepinv" in INSTALLED else {}),
    }
    for method in sorted({*AZULA, *DEEPINV})
}
