"""Sections ``overhead`` and ``own`` of ``speed.py``: a step of a method beside the work of its network, and beside others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from speed_networks import Watched, blurred, clock, fastest, inpainting, photograph, prior_of, replay
from speed_peers import PEERS
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import LinearOperator

__all__ = ["Grid", "overhead", "own"]

Row = dict[str, Any]
Grid = Sequence[tuple[str, int, int]]  # network, side, number of samples

MMPS = {"covariance": "jacobian", "max_iterations": 3, "rtol": 1e-9, "rule": "ddpm"}  # three products in every step
REPRESENTATIVE = ("dps", "pigdm", "diffpir", "ddnm", "mmps", "exact-score", "handover", "ddrm")
WITH_MAPS = ("exact-score", "handover")  # need a network that denoises anisotropic noise
STEPS = {"one convolution": {64: 30, 256: 15}, "natural": {64: 12, 128: 6}, "large": {64: 4}}
FEWEST = 3
METHODS_OF_OWN: dict[str, dict[str, Any]] = {"dps": {}, "pigdm": {}, "diffpir": {}, "ddrm": {}, "mmps": MMPS}
STEPS_OF_OWN = {"one convolution": {64: 100, 256: 30}, "natural": {64: 10, 256: 4}}


def steps_at(table: dict[int, int], side: int) -> int:
    """Return the steps for the next smaller side in a table, or the fewest."""
    sides = [known for known in table if known >= side]
    return table[min(sides)] if sides else FEWEST


def grid(sizes: Sequence[int], batches: Sequence[int], megapixels: float) -> dict[str, Grid]:
    """Return where each method is measured: all of it within a number of pixels for some, two sizes for the others."""
    sides = [(side, count) for side in sizes for count in batches if side * side * count <= 1e6 * megapixels]
    single = [(side, 1) for side in sizes if side <= 256 and side * side <= 1e6 * megapixels]
    found: dict[str, Grid] = {}
    for name in METHODS:
        natural = [("natural", *place) for place in (sides if name in REPRESENTATIVE else single)]
        least = [("one convolution", *place) for place in single if name not in WITH_MAPS]
        large = [("large", 128, 1)] if name in REPRESENTATIVE and name not in WITH_MAPS else []
        found[name] = [*natural, *least, *large]
    return found


def overhead(
    where: dict[str, Grid], *, precision: str, seconds: float, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Row]]:
    """Yield a row for every method and place: the time of a run over that of the calls of the network in it.

    Both are taken from the first call of the network to the last one, so that all but the first and the last step's share
    counts, and the checks of a run do not. The second is that of the same calls with the same vector-Jacobian products, made
    one after another.
    """
    for method, places in where.items():
        for network, side, count in places:
            name = f"{method}, {network}, {side} px, B = {count}"
            if not wanted(name):
                continue
            prior, net = watched(network, precision)
            steps = steps_at(STEPS[network], side)
            options = MMPS if method == "mmps" and network != "natural" else {}
            built = sampler_of(prior, method, side, steps, options)
            if isinstance(built, str):
                yield name, {"skipped": built}
                continue
            sampler, y, problem = built
            run = partial(sampler.run, y, num_samples=count)
            net.start(recording=True)
            posterior = quiet(run)
            calls, made = net.calls[:-1], len(net.times)
            net.start()
            if not calls:
                yield name, {"skipped": "a single call of the network"}
                continue

            def ours(run: Callable[[], Any] = run, net: Watched = net) -> float:
                net.start()
                quiet(run)
                return net.seconds

            def bare(net: Watched = net, calls: Sequence[Any] = calls) -> float:
                started = clock()
                replay(net.net, calls)
                return clock() - started

            best = fastest({"run": ours, "network": bare}, seconds=seconds, least=2)
            share = len(calls) / made  # of the run, which makes as many calls in every step
            yield (
                name,
                {
                    "ratio": best["run"] / best["network"],
                    "problem": problem,
                    "steps": steps,
                    "nfe": posterior.nfe,
                    "nvjp": posterior.nvjp,
                    "ms of a step": 1e3 * best["run"] / share / steps,
                    "own ms of a step": 1e3 * (best["run"] - best["network"]) / share / steps,
                },
            )


def watched(network: str, precision: str = "auto") -> tuple[Any, Watched]:
    prior = prior_of(network, precision)
    assert isinstance(prior.net, Watched)
    return prior, prior.net


def quiet(run: Callable[[], Any]) -> Any:
    """Run without warnings: few steps and random networks explain no measurement."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


PROBLEMS: dict[str, Callable[[int], LinearOperator]] = {
    "inpainting": inpainting,
    "inpainting, exact data": partial(inpainting, sigma_y=0.0),
    "deblurring": blurred,
}


def sampler_of(
    prior: Any, method: str, side: int, steps: int, options: dict[str, Any]
) -> tuple[PosteriorSampler, Tensor, str] | str:
    """Return a sampler for the first problem that the method takes, a measurement and the problem, or why there is none."""
    why = ""
    for problem, build in PROBLEMS.items():
        op = build(side)
        try:
            sampler = quiet(lambda op=op: PosteriorSampler(prior, op, method=method, steps=steps, windows="off", **options))
        except ValueError as error:
            why = why or str(error)
        else:
            return sampler, op.measure(photograph(side), seed=0), problem
    return why


def own(
    sizes: Sequence[int], networks: Sequence[str], *, seconds: float, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Row]]:
    """Yield a row for every method that others have too: milliseconds of a step on the same network and measurement."""
    for network in networks:
        for side in sizes:
            steps = steps_at(STEPS_OF_OWN[network], side)
            prior, net = watched(network)
            op = inpainting(side)
            y = op.measure(photograph(side), seed=0)
            for method, options in METHODS_OF_OWN.items():
                name = f"{method}, {network}, {side} px"
                if not wanted(name):
                    continue
                build = partial(PosteriorSampler, prior, op, method=method, steps=steps, windows="off", **options)
                sampler = quiet(build)
                runs = {"invdiff": partial(sampler.run, y)}
                runs |= {peer: make(prior, op, y, steps) for peer, make in PEERS.get(method, {}).items()}
                ways, calls = {}, {}
                for who, run in runs.items():
                    net.start()
                    quiet(run)  # Makes plans and caches, and shows how often the network is called.
                    calls[who] = len(net.times)
                    ways[who] = partial(per_call, run, net)
                best = fastest(ways, seconds=seconds, most=200)
                row: Row = {"steps": steps, "calls": calls, "ms": {who: 1e3 * value for who, value in best.items()}}
                others = [who for who in best if who != "invdiff"]
                if others:
                    row["over"] = others[0]
                    row["ratio"] = best["invdiff"] / best[others[0]]
                yield name, row


def per_call(run: Callable[[], Any], net: Watched) -> float:
    """Return the seconds of a step, from the first call of the network to the last; every step makes one call."""
    net.start()
    quiet(run)
    gaps = [later - earlier for earlier, later in pairwise(net.times)]
    return sum(gaps) / len(gaps)
