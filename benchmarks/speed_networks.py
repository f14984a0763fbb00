"""The networks of ``speed.py``, which record when they are called, and the fair comparison of ways to do the same work."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.operators import Blur, LinearOperator, Mask, gaussian_kernel
from invdiff.priors import from_network, load_prior
from invdiff.priors.network import NetworkPrior
from invdiff.priors.networks.adm import ADM
from invdiff.schedules import DiscreteBetas

__all__ = [
    "NETWORKS",
    "Call",
    "Watched",
    "bare_prior",
    "blurred",
    "clock",
    "fastest",
    "inpainting",
    "photograph",
    "prior_of",
    "replay",
]

NETWORKS = ("natural", "large", "one convolution")
SIGMA_Y = 0.05


def clock() -> float:
    """Return seconds: of the processor with one thread, so that other load has less influence, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass(eq=False)
class Call:
    """A call of a network: its arguments, whether a graph was kept, and how many vector-Jacobian products followed."""

    x: Tensor
    others: tuple[Any, ...]
    graph: bool
    products: int = 0

    def count(self, gradient: Tensor) -> None:
        self.products += 1


class Watched(nn.Module):
    """A network that keeps the time of every call and, while it records, what it was called with.

    Attributes:
        net: The network.
        times: When it was called, since the last :meth:`start`.
        calls: What it was called with, if it records.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.times, self.calls, self.recording = net, [], [], False

    def start(self, *, recording: bool = False) -> None:
        self.times, self.calls, self.recording = [], [], recording

    def forward(self, x: Tensor, *others: Any) -> Any:
        self.times.append(clock())
        output = self.net(x, *others)
        if self.recording:
            call = Call(x.detach(), others, graph=output.requires_grad)
            self.calls.append(call)
            if output.requires_grad:
                output.register_hook(call.count)
        return output

    @property
    def seconds(self) -> float:
        """Seconds from the first call to the last one: all that a run repeats, without its beginning and its end."""
        return self.times[-1] - self.times[0]


def replay(net: nn.Module, calls: Iterable[Call]) -> None:
    """Call a network as it was called, with the same gradients with respect to its input, and do nothing else."""
    for call in calls:
        with torch.set_grad_enabled(call.graph):
            x = call.x.requires_grad_(call.graph)
            output = net(x, *call.others)
            for left in reversed(range(call.products)):
                torch.autograd.grad(output, x, call.x.detach(), retain_graph=left > 0)


def bare_prior(network: str, precision: str = "auto", device: torch.device | str = "cpu") -> NetworkPrior:
    """Return a prior with one of the networks, to run on ``device``."""
    torch.manual_seed(0)
    if network == "natural":
        return load_prior("natural", precision=precision, device=device)
    if network == "one convolution":
        return from_network(OneConvolution(), DiscreteBetas.linear(), event_shape=(3, None, None))
    # The shapes of the FFHQ model of DPS, with random weights.
    shape: dict[str, Any] = {"multipliers": [1, 1, 2, 2, 4, 4], "blocks": 1, "attention": [16], "head_channels": 64}
    net = ADM(channels=3, width=128, updown=True, learned_variance=False, **shape)
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    return from_network(net, DiscreteBetas.linear(), event_shape=(3, None, None), stride=32, autocast=dtype)


@cache
def prior_of(network: str, precision: str = "auto") -> NetworkPrior:
    """Return a prior whose ``net`` is :class:`Watched`."""
    prior = bare_prior(network, precision)
    assert isinstance(prior.net, nn.Module)
    prior.net = Watched(prior.net)
    return prior


class OneConvolution(nn.Module):
    """The least that is a network of images: what is left of the time is that of the sampler."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.normal_(self.layer.weight, std=0.01)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


@cache
def photograph(side: int) -> Tensor:
    """Return a smooth random image in [-1, 1], ``(1, 3, side, side)``: times do not depend on what it shows."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return 2 * nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) - 1


def inpainting(side: int, sigma_y: float = SIGMA_Y) -> Mask:
    """Return the operator that keeps half of the pixels, at random."""
    mask = torch.rand(side, side, generator=torch.Generator().manual_seed(1)) < 0.5
    return Mask(mask, (3, side, side), sigma_y=sigma_y)


def blurred(side: int, sigma_y: float = SIGMA_Y) -> LinearOperator:
    return Blur((3, side, side), gaussian_kernel(1.5), sigma_y=sigma_y, boundary="circular")


def fastest(ways: Mapping[str, Callable[[], float]], *, seconds: float, least: int = 3, most: int = 50) -> dict[str, float]:
    """Return the least of the seconds of every way over interleaved repetitions.

    Args:
        ways: Functions that do the work once and return its seconds.
        seconds: Time for all repetitions.
        least: Least number of repetitions, however long they take.
        most: Largest number of repetitions.
    """
    best, started, done = dict.fromkeys(ways, float("inf")), time.perf_counter(), 0
    gc.collect()
    while done < least or (done < most and (time.perf_counter() - started) * (done + 1) / done < seconds):
        # In both orders in turn: what ran before leaves caches and memory as it pleases.
        for name in list(ways) if done % 2 == 0 else reversed(list(ways)):
            best[name] = min(best[name], ways[name]())
        done += 1
    return best
