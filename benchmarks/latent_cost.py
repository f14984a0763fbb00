"""The second table of ``latent.py``: a step of sampling under the latent prior beside the work of its parts.

The parts of a step are a call of the network, with a gradient or without, and the products with the Jacobian of the decoder and
its transpose that the method asks for, each with the call of the decoder that it needs: nothing else is needed, since these
calls give the decoded images too. What the sampler calls beyond them is counted, and the time is compared with both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from latent_training import Autoencoder, latent_prior
from speed_networks import clock, fastest, inpainting, photograph
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from invdiff import PosteriorSampler
from invdiff.priors import LatentPrior, ScoreModel

__all__ = ["cost"]

# What a step needs: whether a gradient of the network, products with the transposed Jacobian of the decoder, and with itself.
NEEDED: dict[str, tuple[bool, int, int]] = {"dps": (True, 1, 0), "red-diff": (False, 1, 0), "flow-dps": (False, 3, 3)}
PLACES = ((64, 4), (256, 1))  # side in pixels, samples
FEW, MANY = 4, 12  # steps
SECONDS = 8.0


def cost(codes: ScoreModel, net: Autoencoder) -> dict[str, dict[str, float]]:
    """Return a row of the table for every method and size, in milliseconds and MiB."""
    rows: dict[str, dict[str, float]] = {}
    for size, count in PLACES:
        counted = Counted(latent_prior(codes, net, size))
        op = inpainting(size)
        y = op.measure(photograph(size), seed=0)
        for method, needed in NEEDED.items():
            runs = {
                steps: quiet(partial(PosteriorSampler, counted.prior, op, method=method, steps=steps)) for steps in (FEW, MANY)
            }

            def run(steps: int, runs: dict[int, Any] = runs, y: Tensor = y, count: int = count) -> None:
                quiet(lambda: runs[steps].run(y, num_samples=count))

            calls = {steps: counted.during(partial(run, steps)) for steps in runs}
            made = (calls[MANY] - calls[FEW]) / (MANY - FEW)
            beyond = round(made) - sum(needed[1:])
            work = partial(parts, counted.latent, count, op, *needed)
            ways = {"few": partial(run, FEW), "many": partial(run, MANY), "needed": work, "made": partial(work, beyond=beyond)}
            best = fastest({name: partial(timed, way) for name, way in ways.items()}, seconds=SECONDS)
            step, ms = (best["many"] - best["few"]) / (MANY - FEW), 1e3
            memory = {name: peak_memory(ways[name]) for name in ("few", "needed")}
            rows[f"{method}, {size} px, B = {count}"] = {
                "ms of a step": ms * step,
                "over the calls made": step / best["made"],
                "over those needed": step / best["needed"],
                "calls of the decoder": made,
                "needed": sum(needed[1:]),
                "peak, MiB": memory["few"],
                "over that of the parts": memory["few"] / memory["needed"],
            }
    return rows


class Counted:
    """A latent prior whose calls of the decoder are counted."""

    def __init__(self, latent: LatentPrior) -> None:
        self.latent, self.calls = latent, 0
        shape = latent.event_shape
        assert shape is not None
        self.prior = LatentPrior(
            latent.score_model, self.decode, encode=latent.encode, latent_shape=[int(n or 0) for n in shape]
        )

    def decode(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.latent.decode(z)

    def during(self, work: Callable[[], object]) -> int:
        before = self.calls
        work()
        return self.calls - before


def parts(prior: LatentPrior, count: int, op: Any, gradient: bool, transposed: int, products: int, *, beyond: int = 0) -> None:
    """Do the work of the parts of a step, and call the decoder ``beyond`` times more."""
    z = torch.randn(count, *prior._shape, generator=torch.Generator().manual_seed(0))
    z_t = z.clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        z_0 = prior.denoise(z_t, prior.schedule.time(torch.tensor(0.5)))
    code, of_z = z_0.detach(), z
    with torch.no_grad():
        for _ in range(beyond):
            op(prior.decode(code))
        for _ in range(transposed):
            of_z = pulled(lambda z: op(prior.decode(z)), code)
        for _ in range(products):
            torch.func.jvp(lambda z: op(prior.decode(z)), (code,), (of_z,))
    if gradient:
        torch.autograd.grad(z_0, z_t, of_z)


def pulled(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the product of the transposed Jacobian of a function with its value."""
    value, pull = torch.func.vjp(function, x)
    product: Tensor = pull(value)[0]
    return product


def quiet(work: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def timed(work: Callable[[], object]) -> float:
    started = clock()
    quiet(work)
    return clock() - started


def peak_memory(work: Callable[[], object]) -> float:
    """Return the most MiB of tensors allocated at a time during ``work``, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        quiet(work)
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    now = most = 0
    for _, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        now += change
        most = max(most, now)
    return most / 2**20
