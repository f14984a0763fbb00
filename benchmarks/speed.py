"""Measure what invdiff costs beside the network it calls: ``python benchmarks/speed.py``.

Sections:

\b
  network    the bundled network beside matrix products, the bound of the processor
  overhead   the time of a step over the calls and gradients of the network in it, for every method
  own        milliseconds of a step beside azula and deepinv, if installed, on the same network
  linearity  time and memory against the size of the image and the number of samples
  startup    imports and --help, over importing torch
  samples    16 samples of one measurement over 16 times one
  busy       invdiff solve with the default number of threads over one, beside busy processes
  quality    seconds and PSNR of the default beside DPS; slow, only if named

Freed memory is kept, as the command ``invdiff`` does (:mod:`invdiff.processor`), for all that is measured.

Networks: the bundled prior (``natural``), one with the shapes of the FFHQ model of DPS (``large``: 94 million random weights),
and a single convolution, which leaves the time of the sampler. Repetitions are interleaved and the fastest counts. With one
thread times are those of the processor, so that other load has less influence, except for programs (startup, busy).

Rows are kept in a JSON file, and rows measured again replace the old ones; another machine or number of threads starts it anew.
``--check`` measures again and compares the *ratios* with those in the file: it names those that are worse by more than 15 %,
after two more attempts, and exits with 1. Ratios of two times on one machine, never times.

\b
Examples:
  python benchmarks/speed.py
  python benchmarks/speed.py --section overhead --only dps --size 256 --batch 16 --megapixels 2
  python benchmarks/speed.py --section linearity --largest 4096
  python benchmarks/speed.py --section quality --share 0.05
  python benchmarks/speed.py --check
  python benchmarks/speed.py --table
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from speed_bound import network
from speed_networks import NETWORKS
from speed_peers import VERSIONS
from speed_runs import busy, linearity, quality, samples, startup
from speed_steps import grid, overhead, own
from tabulate import tabulate

from invdiff.io.images import atomic_write
from invdiff.methods import METHODS
from invdiff.priors import load_prior
from invdiff.processor import prepare_processor

SECTIONS = ("network", "overhead", "own", "linearity", "startup", "samples", "busy", "quality")
SLOW = ("quality",)  # run only if named
TOLERANCE = 1.15
ATTEMPTS = 3
COUNTS = (1, 2, 4, 8, 16, 32, 64)
Row = dict[str, Any]
Wanted = Callable[[str], bool]


@click.command(help=__doc__)
@click.option("--section", "sections", type=click.Choice(SECTIONS), multiple=True, help="Repeatable.  [default: the fast ones]")
@click.option("--only", multiple=True, metavar="WORD", help="Measure only rows whose name begins with WORD; repeatable.")
@click.option("--size", type=click.IntRange(min=64), multiple=True, default=(64, 256, 512), show_default=True, help="Sides.")
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 4, 16), show_default=True, help="Samples.")
@click.option("--megapixels", default=0.27, show_default=True, help="Largest size times samples of a row of overhead.")
@click.option("--largest", type=int, default=1024, show_default=True, help="Largest side of linearity.")
@click.option("--precision", default="auto", show_default=True, help="Precision of natural and large in overhead.")
@click.option("--quality-side", type=int, default=256, show_default=True, help="Side of the photograph of quality.")
@click.option("--share", default=1.0, show_default=True, help="Share of the steps of DPS that quality runs.")
@click.option("--seconds", default=2.0, show_default=True, help="Time for repetitions of a row, at least two or three.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch.")
@click.option("--check", is_flag=True, help="Measure again and compare the ratios with those in the file; write nothing.")
@click.option("--table", is_flag=True, help="Measure nothing, print the tables of the saved results.")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/speed.json", show_default=True)
def main(
    sections: tuple[str, ...], only: tuple[str, ...], threads: int, check: bool, table: bool, out: Path, **how: Any
) -> None:
    prepare_processor()
    torch.set_num_threads(threads)
    chosen = [name for name in SECTIONS if (name in sections if sections else name not in SLOW)]
    done: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if table:
        print(summary(done))
        return

    def named(row: str) -> bool:
        return not only or row.startswith(only)

    if check:
        found = worse(done, chosen, named, how)
        sys.exit(f"{len(found)} worse by more than {TOLERANCE - 1:.0%}:\n" + "\n".join(found) if found else 0)
    machine = {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} processors",
        "threads": threads,
    }
    if any(done.get(name) != value for name, value in machine.items()):  # Figures of two machines are not to be compared.
        done = {}
    digest = load_prior("natural").describe()["sha256"]
    done |= {**machine, "torch": torch.__version__, "python": platform.python_version(), "peers": VERSIONS, "prior": digest}
    done.setdefault("rows", {})
    for section in chosen:
        for name, row in measured(section, named, how):
            if not named(name):
                continue
            done["rows"].setdefault(section, {})[name] = rounded(row)
            print(f"{section}: {name}: {rounded(row)}", file=sys.stderr)
            with atomic_write(out) as part:
                part.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print(summary(done))


def measured(section: str, wanted: Wanted, how: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a section by name. Those not wanted may be left out."""
    seconds, sizes = how["seconds"], sorted(set(how["size"]))
    match section:
        case "network":
            yield from network(sizes, seconds=seconds, wanted=wanted)
        case "overhead":
            where = grid(sizes, sorted(set(how["batch"])), how["megapixels"])
            yield from overhead(where, precision=how["precision"], seconds=seconds, wanted=wanted)
        case "own":
            sides = [side for side in sizes if side <= 256]
            yield from own(sides, [name for name in NETWORKS if name != "large"], seconds=seconds, wanted=wanted)
        case "linearity":
            sides = [side for side in (64, 128, 256, 512, 1024, 2048, 4096) if side <= how["largest"]]
            yield from linearity(sides, COUNTS)
        case "startup":
            yield from startup(rounds=7)
        case "samples":
            yield from samples((64, 128, 256), seconds=seconds, wanted=wanted)
        case "busy":
            yield from busy(rounds=2)
        case _:
            yield from quality(how["quality_side"], how["share"], wanted=wanted)


def worse(done: Mapping[str, Any], sections: list[str], named: Wanted, how: Mapping[str, Any]) -> list[str]:
    """Return a line for every ratio that is worse than in the file, by the best of several attempts."""
    lines = []
    for section in sections:
        before = {
            name: row["ratio"] for name, row in done.get("rows", {}).get(section, {}).items() if "ratio" in row and named(name)
        }
        best: dict[str, float] = {}
        left = set(before)
        for _ in range(ATTEMPTS):
            for name, row in measured(section, left.__contains__, how) if left else ():
                if name in left and "ratio" in row:
                    best[name] = min(best.get(name, float("inf")), row["ratio"])
                    print(f"{section}: {name}: {row['ratio']:.3f}, was {before[name]:.3f}", file=sys.stderr)
            # A row that was not measured, as a size that was not asked for, is not compared.
            left = {name for name in left if best.get(name, 0.0) > TOLERANCE * before[name]}
        lines += [f"  {section}: {name}: {best[name]:.3f}, was {before[name]:.3f}" for name in before if name in left]
    return lines


def rounded(value: Any) -> Any:
    """Return a row with four digits of every number."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def summary(done: Mapping[str, Any]) -> str:
    """Return the Markdown tables."""
    if not done:
        return "Nothing is saved."
    about = f"{done['machine']}, {done['threads']} thread(s), torch {done['torch']}; {done['peers']}."
    parts = [about]
    for section in SECTIONS:
        rows = done["rows"].get(section, {})
        if not rows:
            continue
        if section == "overhead":
            parts.append(overhead_table(rows))
            skipped = {name.split(",")[0]: row["skipped"] for name, row in rows.items() if "skipped" in row}
            parts.append("\n".join(f"- not measured: {name}: {why}" for name, why in skipped.items()))
            continue
        columns = list(dict.fromkeys(column for row in rows.values() for column in flat(row)))
        lines = [[name, *(flat(row).get(column, "") for column in columns)] for name, row in rows.items()]
        parts.append(tabulate(lines, [section, *columns], tablefmt="github", floatfmt=".3g"))
    return "\n\n".join(filter(None, parts))


def overhead_table(rows: Mapping[str, Row]) -> str:
    """Return a line per method and a column per place: the factor, and own milliseconds of a step for the convolution."""
    split = {name: name.split(", ", 1) for name, row in rows.items() if "ratio" in row}
    places = sorted({place for _, place in split.values()}, key=lambda place: [NETWORKS.index(place.split(",")[0]), place])
    methods = [name for name in METHODS if any(method == name for method, _ in split.values())]
    lines = []
    for method in methods:
        line: list[Any] = [method]
        for place in places:
            row = rows.get(f"{method}, {place}", {})
            own_time = place.startswith("one convolution")
            line.append(row.get("own ms of a step" if own_time else "ratio", ""))
        lines.append(line)
    headers = ["overhead", *(f"{place}, own ms" if place.startswith("one") else place for place in places)]
    return tabulate(lines, headers, tablefmt="github", floatfmt=".3f")


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the entries of inner tables as columns of their own."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= {f"{name}: {inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


if __name__ == "__main__":
    main()
