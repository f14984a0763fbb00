"""Measure the network and the samplers on a GPU, by precision: ``python benchmarks/gpu_speed.py --device cuda``.

A row per network, way to run it, and number of samples:

- milliseconds of a call, and of a call with a vector-Jacobian product, and the peak of the memory above that of the weights;
- their relative errors: the distance to float32 without compiling, over its norm;
- milliseconds of a step of DPS (a call and a product) and DiffPIR (a call), and their ratio to the network alone;
- milliseconds of a step of azula and deepinv, if installed, in float32: the network is called without autocast there.

A step is the difference between runs of many and of few steps, so that beginnings and ends do not count. The fastest
repetition counts, and the device has finished before the clock is read. Ways with ``graphs`` replay CUDA graphs
(``torch.compile(mode="reduce-overhead")``), which samplers do not use: only the network is measured. Rows are written as they
are measured, and those in the file are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from speed_networks import bare_prior, inpainting, photograph
from speed_peers import PEERS, VERSIONS
from tabulate import tabulate
from torch import Tensor, nn

from invdiff import PosteriorSampler
from invdiff.io.images import atomic_write
from invdiff.priors.compiled import CompiledNetwork
from invdiff.priors.network import NetworkPrior

Row = dict[str, Any]
METHODS = ("dps", "diffpir")


@dataclass(frozen=True)
class Way:
    """How a network runs; ``mode`` is that of ``torch.compile``, ``None`` without it."""

    precision: str
    channels_last: bool = False
    mode: str | None = None


WAYS = {
    "float32": Way("float32"),
    "float32, channels-last": Way("float32", channels_last=True),
    "bfloat16": Way("bfloat16"),
    "bfloat16, channels-last": Way("bfloat16", channels_last=True),
    "bfloat16, channels-last, compiled": Way("bfloat16", channels_last=True, mode="default"),
    "bfloat16, channels-last, graphs": Way("bfloat16", channels_last=True, mode="reduce-overhead"),
    "float32, compiled": Way("float32", mode="default"),
}


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    done: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    done |= {"machine": machine(device), "torch": torch.__version__, "peers": VERSIONS, "side": options.side}
    rows: dict[str, Row] = done.setdefault("rows", {})
    # Compiling takes minutes, and comes last. The order of the ways is that of their value.
    places = [(network, way, count) for way in options.ways for network in options.networks for count in options.batch]
    for network, way, count in places:
        name = f"{network}, {way}, B = {count}"
        if name in rows:
            continue
        try:
            rows[name] = measure(network, WAYS[way], count, device, options)
        except torch.OutOfMemoryError:
            rows[name] = {"failed": "out of memory"}
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
        with atomic_write(options.out) as part:
            part.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print(f"{done['machine']}, torch {done['torch']}; {done['peers']}; {done['side']} px.\n")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    print(tabulate(lines, ["network", *columns], tablefmt="github", floatfmt=".4g"))


def measure(network: str, way: Way, count: int, device: torch.device, options: argparse.Namespace) -> Row:
    """Return a row of the table."""
    prior = bare_prior(network, way.precision, device).to(device)
    assert isinstance(prior.net, nn.Module)
    if way.channels_last:
        prior.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if way.mode is not None:
        prior.compiled = CompiledNetwork(prior.net, mode=way.mode)
    x_t, t = state(prior, count, options.side, device)
    wanted = exact(network, count, options.side, device)
    bare = {"call": partial(call, prior, x_t, t), "call and product": partial(product, prior, x_t, t)}
    row, compiling = Row(), 0.0
    for (name, work), like in zip(bare.items(), wanted, strict=True):
        started = time.perf_counter()
        found = work()
        compiling += time.perf_counter() - started
        with peak_memory(device) as peak:
            work()
        row[f"error of a {name.split()[-1]}"] = float((found - like).norm() / like.norm())
        if name == "call and product" and peak:
            row["peak, MiB"] = peak[0]
        row[f"{name}, ms"] = 1e3 * fastest(work, device, options.seconds)
    if prior.compiled is not None:
        row |= {"failed": prior.compiled.failures[0]} if prior.compiled.failures else {"compiling, s": compiling}
    if way.mode == "reduce-overhead":
        return rounded(row)
    op = inpainting(options.side).to(device)
    y = op.measure(photograph(options.side).to(device), seed=0)
    for method in METHODS:
        ours = step(lambda steps, m=method: sampler(prior, op, y, m, steps, count), device, options)
        alone = row["call and product, ms" if method == "dps" else "call, ms"]
        row |= {f"{method}, ms a step": ours, f"{method}, over the network": ours / alone}
        if way.precision != "float32" or way.mode is not None or way.channels_last:
            continue
        for peer, build in PEERS.get(method, {}).items():
            column, many = f"{method} of {peer}, ms a step", y.expand(count, *y.shape[1:]).contiguous()
            try:
                with torch.device(device):  # Their tensors are made on the default device.
                    row[column] = step(partial(build, prior, op, many), device, options)
            except Exception as error:  # Others may not support the device, or as many samples.
                row[column] = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    return rounded(row)


def call(prior: NetworkPrior, x_t: Tensor, t: Tensor) -> Tensor:
    with torch.no_grad():
        return prior.denoise(x_t, t)


def product(prior: NetworkPrior, x_t: Tensor, t: Tensor) -> Tensor:
    x_t = x_t.detach().requires_grad_()
    x0_hat = prior.denoise(x_t, t)
    return torch.autograd.grad(x0_hat, x_t, x_t.detach(), retain_graph=True)[0]


@cache
def exact(network: str, count: int, side: int, device: torch.device) -> list[Tensor]:
    """Return the denoised images and the product in float32, uncompiled."""
    prior = bare_prior(network, "float32", device).to(device)
    x_t, t = state(prior, count, side, device)
    return [call(prior, x_t, t), product(prior, x_t, t)]


def state(prior: NetworkPrior, count: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    x_t = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    return x_t, prior.schedule.time(torch.tensor(0.5))


def sampler(prior: NetworkPrior, op: Any, y: Tensor, method: str, steps: int, count: int) -> Callable[[], Any]:
    built = PosteriorSampler(prior, op, method=method, steps=steps, windows="off")
    return lambda: built.run(y, num_samples=count, chunk=count)


def step(build: Callable[[int], Callable[[], Any]], device: torch.device, options: argparse.Namespace) -> float:
    """Return the milliseconds of a step, from a run of few steps and one of twice as many more."""
    few, many = options.steps, 3 * options.steps
    seconds = {steps: fastest(build(steps), device, options.seconds) for steps in (few, many)}
    return 1e3 * (seconds[many] - seconds[few]) / (many - few)


def fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the least of the seconds of a repetition, three at least, after one that does not count."""
    best, until = float("inf"), None
    repetitions = 0
    while until is None or repetitions < 4 or time.perf_counter() < until:
        synchronize(device)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        synchronize(device)
        if until is not None:
            best = min(best, time.perf_counter() - started)
        until = until or time.perf_counter() + seconds
        repetitions += 1
    return best


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that has, afterwards, the peak of the device's memory above the present one in MiB; none on a CPU."""
    peak = list[float]()
    if device.type != "cuda":
        yield peak
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield peak
    peak.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"


def rounded(row: Row) -> Row:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16], help="samples (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", choices=("large", "natural"), default=["large", "natural"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", default=list(WAYS), help=f"among: {'; '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=5, help="of the shorter runs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for the repetitions of a figure (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu_speed.json"), help="(default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
