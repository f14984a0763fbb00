"""Compare samplers with exactly known posteriors: ``python benchmarks/posterior.py``.

Problems (``posterior_cases.py``): Gaussian mixtures measured by random matrices, or distinguished late; stationary Gaussian
images under four operators; absolute values of a mixture; squares under a funnel (``posterior_funnel.py``); sums of
heavy-tailed or sparse increments (``posterior_walks.py``). Rows: exact samples (the floor), the exact conditional denoiser with
two step rules, every method of ``invdiff.methods.METHODS``, and the methods of azula and deepinv if installed
(``posterior_peers.py``), all with the exact denoiser, the same measurements and the requested number of steps. Metrics:
``posterior_judge.py``.

Weighted samples are resampled to equal weights. The tables are printed; finished cells are kept in the JSON file and not
computed again with the same settings. ``--redo`` recomputes the chosen rows, ``--tables`` computes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from posterior_cases import CASES
from posterior_judge import Judge
from posterior_peers import PEERS, VERSIONS
from posterior_problem import Problem, Sampled
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from invdiff import DivergenceError, PosteriorSampler
from invdiff.io.images import atomic_write
from invdiff.linalg import largest_singular_value
from invdiff.methods import METHODS
from invdiff.methods.steps import DDIM, Heun, sample_prior
from invdiff.operators import LinearOperator

DEVICE = ["cpu"]  # of the samplers of invdiff; the problems and the figures stay on the CPU
TITLES = {
    "SW": "Sliced Wasserstein distance",
    "spread": "Standard deviation of the samples over the exact one",
    "90 %": "Share of the exact draws inside the central 90 % intervals",
    "misfit": "Mean squared misfit over that of exact draws",
    "modes": "L1 error of the mode weights",
    "NFE": "Network evaluations per sample",
    "VJP": "Vector-Jacobian products of the network per sample",
    "seconds": "Seconds for all samples",
}
DIGITS = {
    "SW": 3,
    "spread": 3,
    "spread of A(x)": 3,
    "mean error": 3,
    "50 %": 3,
    "90 %": 3,
    "misfit": 2,
    "NFE": 0,
    "VJP": 0,
    "seconds": 1,
}
FLOOR = "exact samples"
Row = Callable[[Problem, int, int, int], Sampled]  # problem, samples, steps, seed


def floor(problem: Problem, samples: int, steps: int, seed: int) -> Sampled:
    return Sampled(problem.exact(samples, 2 * seed + 1))


def ignoring(problem: Problem, samples: int, steps: int, seed: int) -> Sampled:
    prior: Any = problem.score
    if not hasattr(prior, "sample"):
        raise ValueError("The prior cannot be sampled.")
    return Sampled(prior.sample(samples, seed=seed + 1))


def oracle(problem: Problem, samples: int, steps: int, seed: int, *, rule: Any) -> Sampled:
    """Follow the exact conditional denoiser: what no guidance can beat but by a better step."""
    if problem.conditional is None or not isinstance(problem.op, LinearOperator):
        raise ValueError("The conditional denoiser is not known.")
    op, event = problem.op, problem.op.in_shape
    gain = largest_singular_value(op.forward, op.adjoint, event, device="cpu", dtype=torch.float64)
    ratio_min = 0.1 * op.sigma_y / gain
    x = sample_prior(problem.conditional, event, samples, seed=seed, steps=steps, rule=rule, ratio_min=ratio_min)
    return Sampled(x if problem.basis is None else x @ problem.basis.mT.to(x), nfe=2 * steps - 1 if rule == HEUN else steps)


def library(
    problem: Problem, samples: int, steps: int, seed: int, *, method: str, group: int | None = None, **settings: Any
) -> Sampled:
    """Sample with a method of invdiff, ``group`` samples a run of the measurement (default: all)."""
    group = min(group or samples, samples)
    items = -(-samples // group)
    sampler = PosteriorSampler(problem.score, problem.op, method=method, steps=steps, **settings)
    y = problem.y.float().to(DEVICE[0])
    post = sampler.run(y.expand(items, *y.shape[1:]), num_samples=group, seed=seed)
    x = equal_weights(post.samples.cpu(), post.weights.cpu(), seed).transpose(0, 1).flatten(0, 1)
    return Sampled(x[:samples], post.nfe, post.nvjp)


def equal_weights(samples: Tensor, weights: Tensor, seed: int) -> Tensor:
    """Resample every item of ``(N, B, *event)`` systematically; equal weights stay as they are."""
    if bool((weights == weights[:1]).all()):
        return samples
    count, items = weights.shape
    start = np.random.default_rng(seed).random(items)
    positions = torch.from_numpy((np.arange(count) + start[:, None]) / count)  # (B, N)
    cumulative = weights.double().cumsum(0).mT.contiguous()
    chosen = torch.searchsorted(cumulative / cumulative[:, -1:], positions).clamp(max=count - 1)
    return torch.stack([samples[chosen[b], b] for b in range(items)], 1)


DDPM, HEUN = DDIM(eta=1.0), Heun()
ROWS: Mapping[str, Row] = {
    FLOOR: floor,
    "exact conditional denoiser, ddpm": partial(oracle, rule=DDPM),
    "exact conditional denoiser, heun": partial(oracle, rule=HEUN),
    "auto, 1 sample a y": partial(library, method="auto", group=1),
    "auto, 16 samples a y": partial(library, method="auto", group=16),
    "auto": partial(library, method="auto"),
    **{name: partial(library, method=name) for name in METHODS},
    "mm-tsmc, groups of 64": partial(library, method="mm-tsmc", particles=64),
    "mmps, ddpm": partial(library, method="mmps", rule="ddpm"),
    "mmps, heun": partial(library, method="mmps", rule="heun"),
    **PEERS,
    "ignoring y": ignoring,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=f"words to search for in: {', '.join(CASES)} (default: all)")
    parser.add_argument("--methods", nargs="+", metavar="ROW", help=f"rows among: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--draws", type=int, default=10, help="problems per case, fewer for large cases (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="samples, a fifth of them for images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of the samplers of invdiff (default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="compute nothing, print the tables of the saved results")
    parser.add_argument("--redo", action="store_true", help="compute the chosen cells again")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/posterior.json"), help="(default: %(default)s)")
    parser.add_argument("--also", nargs="+", type=Path, default=[], help="result files of parallel runs, to take cells from")
    options = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if any(word in name for word in options.cases or [""])}
    rows = list(options.methods or ROWS)
    if not cases or set(rows) - set(ROWS):
        parser.error(f"no such case or row: {', '.join(sorted(set(rows) - set(ROWS)) or options.cases)}")
    if options.samples < 16 or options.steps < 1 or options.draws < 1:
        parser.error("--samples must be at least 16, --steps and --draws at least 1")

    DEVICE[0], store = options.device, options.out
    store.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    for path in [*options.also, *([store] if store.exists() else [])]:
        done |= json.loads(path.read_text())

    def key(case: str, draw: int, row: str) -> str:
        return f"{case}/{row}/{options.steps} steps/{options.samples} samples/draw {draw}"

    # All cases of the first draw come first, so that the estimate knows every cell's time before long.
    cells = [
        (draw, name, row) for draw in range(options.draws) for name, case in cases.items() for row in rows if draw < case.draws
    ]
    missing = [cell for cell in cells if options.redo or key(cell[1], cell[0], cell[2]) not in done]
    missing = [] if options.tables else missing
    print(f"{len(missing)} of {len(cells)} cells to compute: {remaining(done, missing, key)}", file=sys.stderr)
    with tqdm(total=len(missing), unit=" cells", disable=None) as bar:
        for (draw, name), group in itertools.groupby(enumerate(missing), key=lambda item: item[1][:2]):
            judge = Judge(cases[name].build(draw), draw)
            samples = max(16, round(options.samples * cases[name].share))
            for number, (_, _, row) in group:
                bar.set_postfix_str(f"{name}, {row}; {remaining(done, missing[number:], key)}")
                done[key(name, draw, row)] = cell(ROWS[row], judge, samples, options.steps, draw)
                with atomic_write(store) as part:
                    part.write_text(json.dumps(done, indent=0) + "\n")
                bar.update()

    found = {
        (row, name): [
            done[key(name, draw, row)] for draw in range(min(options.draws, case.draws)) if key(name, draw, row) in done
        ]
        for name, case in cases.items()
        for row in rows
    }
    arguments = f"--draws {options.draws} --samples {options.samples} --steps {options.steps}"
    for option, words in [("cases", options.cases), ("methods", options.methods)]:
        arguments += f" --{option} {' '.join(map(repr, words))}" if words else ""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    hours = sum(cell["seconds"] for cells in found.values() for cell in cells) / 3600
    print(f"`python benchmarks/posterior.py {arguments}`; {VERSIONS}; {machine}; {hours:.1f} hours.\n")
    print(tables(found, rows, list(cases)))


def cell(row: Row, judge: Judge, samples: int, steps: int, seed: int) -> dict[str, Any]:
    """Return the figures of one cell, or why there are none."""
    started = time.monotonic()
    try:
        sampled = row(judge.problem, samples, steps, seed)
    except DivergenceError as error:
        return {"why": "diverged", "message": str(error), "seconds": round(time.monotonic() - started, 2)}
    except ValueError as error:
        return {"why": "-", "message": str(error), "seconds": round(time.monotonic() - started, 2)}
    except Exception as error:  # A cell that fails must not cost the others; the table says that it did.
        return {"why": "failed", "message": f"{type(error).__name__}: {error}", "seconds": round(time.monotonic() - started, 2)}
    seconds = round(time.monotonic() - started, 2)
    if not sampled.samples.isfinite().all():
        return {"why": "diverged", "message": "not finite", "seconds": seconds}
    return {**judge(sampled.samples), "NFE": sampled.nfe, "VJP": sampled.nvjp, "seconds": seconds}


def remaining(done: Mapping[str, Any], missing: Sequence[tuple[int, str, str]], key: Callable[[str, int, str], str]) -> str:
    """Return how long the missing cells will take, by the times of the first draw."""
    known = [done[first]["seconds"] for _, name, row in missing if (first := key(name, 0, row)) in done]
    unknown = len(missing) - len(known)
    return f"{sum(known) / 60:.0f} min left" + (f" and {unknown} cells not yet timed" if unknown else "")


def tables(found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], rows: Sequence[str], cases: Sequence[str]) -> str:
    """Return the Markdown tables, means over the draws: one per figure, and one per image problem."""

    def figure(row: str, case: str, name: str) -> str:
        cells = found[row, case]
        if not cells:
            return ""
        reasons = [cell["why"] for cell in cells if "why" in cell]
        if reasons:
            return reasons[0] if len(reasons) == len(cells) else f"{reasons[0]} {len(reasons)} of {len(cells)}"
        values = [cell[name] for cell in cells if cell.get(name) is not None]
        if not values:
            return "-"
        return f"{np.mean(values):.{DIGITS.get(name, 2)}f}" if np.mean(values) < 1e4 else f"{np.mean(values):.0e}"

    def table(title: str, columns: Mapping[str, tuple[str, str]]) -> str:
        """``columns`` maps a header to a case and a figure of it."""
        lines = [[row, *(figure(row, *column) for column in columns.values())] for row in rows]
        return f"### {title}\n\n" + tabulate(lines, ["", *columns], tablefmt="github", disable_numparse=True)

    small = [case for case in cases if not case.startswith("image")]
    mixtures = [case for case in cases if case.startswith("mixture")]
    parts = [
        table(TITLES[name], {case: (case, name) for case in small}) for name in ("SW", "spread", "90 %", "misfit") if small
    ]
    parts += [table(TITLES["modes"], {case: (case, "modes") for case in mixtures})] if mixtures else []
    parts += [table(TITLES[name], {case: (case, name) for case in cases}) for name in ("NFE", "VJP", "seconds")]
    parts += [table(case.capitalize(), {name: (case, name) for name in DIGITS}) for case in cases if case.startswith("image")]
    counts = {case: max((len(found[row, case]) for row in rows), default=0) for case in cases}
    parts += ["Draws: " + ", ".join(f"{case} {count}" for case, count in counts.items()) + "."]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
