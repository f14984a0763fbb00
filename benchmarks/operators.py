"""Measure the cost of operators: ``python benchmarks/operators.py``.

Every common operator, forward and gradient (of ``0.5 * |op(x) - y|^2`` by automatic differentiation), is compared with other
implementations of the same function: direct convolution, matrix products, Fourier transforms, indexing, kornia, torchvision,
SciPy. Every implementation is checked against the result and the gradient of the operator; repetitions are interleaved in
random order, and the fastest counts. All times include the residual, the sum of squares and its derivative: the row of Identity
shows their cost.

Each time is also given relative to one forward pass of a prior at the same size and batch, in float32. All times are processor
times, summed over threads, so that other load has less influence. Rows are kept in a JSON file; rows measured again replace the
old ones, and another machine or number of threads starts the file anew. The prior is measured once per file.

\b
Examples:
  python benchmarks/operators.py
  python benchmarks/operators.py --only blur --only mri --px 512 --batch 4
  python benchmarks/operators.py --threads 1 --seconds 0.3 --out operators.json
  python benchmarks/operators.py --table
"""

from __future__ import annotations

import gc
import json
import platform
import random
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from operators_cases import CASES, Case, Way
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from invdiff.io.images import atomic_write
from invdiff.priors import load_prior

OURS = "ours"
PATIENCE = 20.0  # seconds: a way that would take longer is not run
HOPELESS = 4.0  # times the fastest: a way so slow is not repeated, nor run on more pixels
BRIEF = 0.5  # seconds: a way so quick is run twice before it is judged
SLOW, COSTLY = 1.2, 0.05  # of the fastest other way, of the prior's forward: from here on the table says why
LARGE_PRIOR = 1024  # pixels from which on the prior is run on one image, and its time multiplied by the batch


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="WORD", help="Measure only operators whose name contains WORD; repeatable.")
@click.option("--px", type=click.IntRange(min=64), multiple=True, default=(256, 1024), show_default=True, help="Image sides.")
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 8), show_default=True, help="Batch sizes.")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Time for repetitions of a row, at least one.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.  [default: torch's]")
@click.option("--prior", default="natural", show_default=True, help="Prior whose forward pass is measured for comparison.")
@click.option("--table", is_flag=True, help="Measure nothing, print the table of the saved results.")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/operators.json", show_default=True)
def main(
    only: tuple[str, ...],
    px: tuple[int, ...],
    batch: tuple[int, ...],
    seconds: float,
    threads: int | None,
    prior: str,
    table: bool,
    out: Path,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    names = [name for name in CASES if not only or any(word.lower() in name.lower() for word in only)]
    if not names:
        raise click.BadParameter(f"none of {', '.join(CASES)} has that in its name", param_hint="--only")
    done: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"prior": {}, "rows": {}}
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    if not table:
        sides, batches = sorted(set(px)), sorted(set(batch))
        machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
        if done.get("machine") != machine:  # Figures of two machines are not to be compared.
            done = {"machine": machine, "prior": {}, "rows": {}}
        if not {f"{side} px, batch {count}" for side in sides for count in batches} <= set(done["prior"]):
            done["prior"] |= prior_seconds(prior, sides, batches)
        with tqdm(total=len(names) * len(sides) * len(batches), unit=" rows", disable=None) as bar:
            for name in names:
                previous: dict[str, Any] | None = None
                for side in sides:
                    bar.set_postfix_str(f"{name}, {side} px")
                    started = time.process_time()
                    case = CASES[name](side)
                    prepared = time.process_time() - started
                    for count in batches:
                        row = measure(case, count, seconds, previous)
                        previous = {"name": name, "px": side, "batch": count, "prepared, s": round(prepared, 3), **row}
                        done["rows"][f"{name}, {side} px, batch {count}"] = previous
                        bar.update()
                    del case
                    gc.collect()
                with atomic_write(out) as part:
                    part.write_text(json.dumps(done, indent=1) + "\n")
    arguments = "".join(f" {word}" for word in sys.argv[1:] if word != "--table")
    print(f"`python benchmarks/operators.py{arguments}`; {done['machine']}.\n\n{summary(done)}")


def prior_seconds(source: str, sides: list[int], batches: list[int]) -> dict[str, float]:
    """Return the seconds of one forward of a prior in float32, the least of three, or of one for a large image."""
    score, seconds = load_prior(source, precision="float32"), {}
    for side in sides:
        for count in batches:
            images = 1 if side >= LARGE_PRIOR else count
            if (known := seconds.get(f"{side} px, batch 1")) and images < count:
                seconds[f"{side} px, batch {count}"] = count * known
                continue
            x, t, times = torch.randn(images, 3, side, side), score.schedule.time(1.0), []
            for _ in range(1 if side >= LARGE_PRIOR else 3):
                started = time.process_time()
                with torch.no_grad():
                    score.denoise(x, t)
                times.append(time.process_time() - started)
            seconds[f"{side} px, batch {count}"] = count / images * min(times)
    return seconds


def measure(case: Case, batch: int, seconds: float, previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the milliseconds of every way, the least of interleaved repetitions, and why some were not run."""
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(batch, *(case.shape or case.op.in_shape), generator=generator) - 1
    ours = case.ours or case.op
    with torch.no_grad():
        y = 0.5 * ours(x)
    ways, omitted = chosen(case, x.numel(), previous)
    ways = {OURS: ours, **ways}
    best: dict[str, float] = {}
    expected: list[Tensor] = []
    for name, way in ways.items():
        best[name], *found = timed(way, x, y)
        if best[name] < BRIEF:  # A first run makes plans: they count where nothing else would.
            best[name] = min(best[name], timed(way, x, y)[0])
        expected = expected or found
        for what, part, reference in zip(("result", "gradient"), found, expected, strict=True):
            gap = float((part - reference).norm() / reference.norm())
            assert gap <= case.tolerance, f"{name}: its {what} differs from that of {type(case.op).__name__} by {gap:.2g}"
    limit = HOPELESS * min(best.values())
    running = {name: way for name, way in ways.items() if name == OURS or best[name] <= limit}
    rounds = max(1, min(50, int(seconds / sum(best[name] for name in running))))
    order, shuffle = list(running), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)  # What ran before leaves caches and memory as it pleases.
        for name in order:
            best[name] = min(best[name], timed(running[name], x, y)[0])
    return {
        "numbers": x.numel(),
        "rounds": rounds,
        "ms": {name: round(1e3 * value, 3) for name, value in best.items()},
        "not run": omitted,
        "note": case.note,
    }


def chosen(case: Case, numbers: int, previous: Mapping[str, Any] | None) -> tuple[dict[str, Way], dict[str, str]]:
    """Return the other ways that are worth a run, and why the rest is not, from what they took on fewer pixels."""
    ways: dict[str, Way] = {}
    omitted: dict[str, str] = {}
    fastest = "" if previous is None else fastest_other(previous)
    for name, way in case.others.items():
        if isinstance(way, str):
            omitted[name] = way
        elif previous is None or name == fastest:
            ways[name] = way
        elif name not in previous["ms"]:
            omitted[name] = previous["not run"].get(name, "")
        else:
            expected = 1e-3 * previous["ms"][name] * numbers / previous["numbers"]
            slower = previous["ms"][name] / min(previous["ms"].values())
            if expected > PATIENCE:
                omitted[name] = f"about {expected:.0f} s"
            elif slower > HOPELESS:
                omitted[name] = f"{slower:.0f} times the fastest before"
            else:
                ways[name] = way
    return ways, omitted


def fastest_other(row: Mapping[str, Any]) -> str:
    return min((value, name) for name, value in row["ms"].items() if name != OURS)[1]


def timed(way: Way, x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return the seconds of forward and gradient, the result and the gradient."""
    x = x.detach().requires_grad_()
    started = time.process_time()
    result = way(x)
    (gradient,) = torch.autograd.grad(0.5 * (result - y).square().sum(), x)
    return time.process_time() - started, result.detach(), gradient


def summary(done: Mapping[str, Any]) -> str:
    """Return the Markdown table."""
    lines = []
    names = list(CASES)
    for row in sorted(done["rows"].values(), key=lambda row: (names.index(row["name"]), row["px"], row["batch"])):
        which = fastest_other(row)
        mine, other = row["ms"][OURS], row["ms"][which]
        ratio = mine / other
        share = 1e-3 * mine / done["prior"][f"{row['px']} px, batch {row['batch']}"]
        omitted = "; ".join(f"{name}: {why}" for name, why in row["not run"].items())
        notes = [row["note"] if ratio > SLOW or share > COSTLY else "", f"not run: {omitted}" if omitted else ""]
        lines.append(
            [
                row["name"],
                row["px"],
                row["batch"],
                mine,
                f"{which} {other:.3g}",
                ratio,
                100 * share,
                "; ".join(filter(None, notes)),
            ]
        )
    headers = ["operator", "px", "B", "ms", "fastest other, ms", "ratio", "% of the prior's forward", "notes"]
    return tabulate(lines, headers, tablefmt="github", floatfmt=("", "", "", ".3g", "", ".2f", ".2g", ""))


if __name__ == "__main__":
    main()
