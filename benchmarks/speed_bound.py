"""Section ``network`` of ``speed.py``: how near the bundled network is to the bound of the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from speed_networks import clock, fastest
from torch.utils.flop_counter import FlopCounterMode

from invdiff.priors import load_prior
from invdiff.priors.load import has_bfloat16_units
from invdiff.priors.network import NetworkPrior

__all__ = ["network"]

Row = dict[str, Any]
SIDE = 2048  # of the matrices whose product is the bound


def network(sides: list[int], *, seconds: float, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Row]]:
    """Yield a row per size and precision: operations per second beside those of a matrix product in the same dtype.

    Precisions are those that the processor has units for. Operations are those of convolutions and matrix products; the time
    is that of the whole network. ``ratio`` is the time of the network over that of as many operations of the matrix product,
    so that 1 is the bound.
    """
    for precision in ("float32", "bfloat16") if has_bfloat16_units(torch.device("cpu")) else ("float32",):
        prior = load_prior("natural", precision=precision)
        assert isinstance(prior, NetworkPrior)
        a, b = (torch.randn(SIDE, SIDE).to(prior.autocast or torch.float32) for _ in range(2))
        for side in sides:
            name = f"natural, {precision}, {side} px"
            if not wanted(name):
                continue
            x_t, t = torch.randn(1, 3, side, side), prior.schedule.time(1.0)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                prior.denoise(x_t, t)
            work, bound = counter.get_total_flops(), 2 * SIDE**3
            ways = {
                "matrices": partial(timed, partial(torch.matmul, a, b)),
                "forward": partial(timed, partial(call, prior, x_t, t, gradient=False)),
                "both": partial(timed, partial(call, prior, x_t, t, gradient=True)),
            }
            best = fastest(ways, seconds=4 * seconds, least=4)
            yield (
                name,
                {
                    "ratio": best["forward"] / work / (best["matrices"] / bound),
                    "GFLOP": 1e-9 * work,
                    "GFLOP/s": 1e-9 * work / best["forward"],
                    "GFLOP/s of matrices": 1e-9 * bound / best["matrices"],
                    "forward, ms": 1e3 * best["forward"],
                    "forward and VJP over forward": best["both"] / best["forward"],
                },
            )


def timed(work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


def call(prior: NetworkPrior, x_t: torch.Tensor, t: torch.Tensor, *, gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        x_t = x_t.clone().requires_grad_(gradient)
        x0_hat = prior.denoise(x_t, t)
        if gradient:
            torch.autograd.grad(x0_hat, x_t, x_t.detach())
