"""The tables of ``images.py``, and the criteria for the new default of ``invdiff solve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from images_cases import CLASSICAL, NEW, OLD
from images_judge import right_values
from tabulate import tabulate

__all__ = ["Cells", "check_table", "details", "overview"]

Cells = dict[str, Mapping[str, Any]]  # photograph to figures, or to {"why": ...}
Table = Mapping[tuple[str, str], Cells]  # of (row, method)

FIGURES = {  # column: its heading and digits
    "mean": ("PSNR of the mean", 2),
    "limit": ("of infinitely many", 2),
    "sample": ("of samples", 2),
    "SSIM": ("SSIM", 3),
    "spread / error": ("spread / error", 2),
    "coverage": ("coverage", 3),
    "misfit": ("misfit", 2),
}
COSTS = {"forwards": "forwards", "VJPs": "VJPs", "seconds": "seconds", "processor": "of the processor"}

EVALUATIONS = 40  # forwards and VJPs of the new default, at most
COVERAGE = 0.04  # from what is right, at most
SPREAD, WIDEST = 0.85, 1.05  # over error, at least and at most
SPREAD_HARD = 0.72  # at least, of blur and enlargement by 4
HARD = ("levin", "levin-cut", "gaussian", "gaussian-cut", "x4")


def overview(cells: Table, rows: Sequence[str], methods: Sequence[str], names: Sequence[str], held_out: Sequence[str]) -> str:
    """Return the PSNR of the mean of every method in every row."""
    lines = [[row, *(pair(chosen(cells, row, method), "mean", names, held_out, 2) for method in methods)] for row in rows]
    return tabulate(lines, ["PSNR of the mean, dB", *methods], tablefmt="github", disable_numparse=True)


def details(row: str, cells: Table, methods: Sequence[str], names: Sequence[str], held_out: Sequence[str], samples: int) -> str:
    """Return every figure of every method in one row, means over ``names`` / over ``held_out``."""
    lines = []
    for method in methods:
        found = chosen(cells, row, method)
        ran = sorted({cell["ran"] for cell in found.values() if "ran" in cell})
        titles = {f"{method} ({'; '.join(ran)})" if ran else method: found}
        if method == CLASSICAL and found:
            titles = {name: of_classical(cells[row, method], name) for name in best(cells[row, method])}
        for title, these in titles.items():
            line = [title, *(pair(these, name, names, held_out, digits) for name, (_, digits) in FIGURES.items())]
            lines.append([*line, *(cost(these, name, names) for name in COSTS)])
    right = right_values(samples)
    lines.append(["right", *(f"{right[name]:.{digits}f}" if name in right else "" for name, (_, digits) in FIGURES.items())])
    headers = [row, *(heading for heading, _ in FIGURES.values()), *COSTS.values()]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def check_table(
    cells: Table, rows: Sequence[str], methods: Sequence[str], names: Sequence[str], held_out: Sequence[str], samples: int
) -> tuple[str, bool]:
    """Return the criteria row by row, and whether all hold, on the means over all photographs.

    What is not there, or not for all photographs, does not hold.
    """
    lines, verdicts = [], []
    for row in rows:
        new, old = (chosen(cells, row, method) for method in (NEW, OLD))
        evaluations = spent(new, names)
        bar = SPREAD_HARD if row in HARD else SPREAD
        spread, covered = mean(new, "spread / error", names), mean(new, "coverage", names)
        rivals = {
            method: mean(chosen(cells, row, method), "limit", names)
            for method in methods
            if method not in (CLASSICAL, NEW) and spent(chosen(cells, row, method), names) <= evaluations
        }
        ours = mean(new, "limit", names)
        ahead = {method: value - ours for method, value in rivals.items() if value > ours}
        found = {
            f"at most {EVALUATIONS} evaluations": (f"{evaluations:.0f}", evaluations <= EVALUATIONS),
            **{
                f"{FIGURES[name][0]}, new - old": (
                    f"{gap(new, old, name, names):+.2f} / {gap(new, old, name, held_out):+.2f}",
                    round(gap(new, old, name, names), 2) >= 0,
                )
                for name in ("mean", "limit")
            },
            "coverage - right": (
                f"{covered - right_values(samples)['coverage']:+.3f}",
                abs(covered - right_values(samples)["coverage"]) <= COVERAGE,
            ),
            "spread / error": (f"{spread:.2f}", bar <= spread <= WIDEST),
            "ahead at no more evaluations": (
                ", ".join(f"{method} {lead:+.2f}" for method, lead in ahead.items()) or "none",
                not ahead and not np.isnan(ours),
            ),
        }
        verdicts += [holds for _, holds in found.values()]
        lines.append([row, *(f"{figure}: {'holds' if holds else 'FAILS'}" for figure, holds in found.values())])
    table = tabulate(lines, ["row", *found], tablefmt="github", disable_numparse=True)
    return f"{table}\n\n{sum(verdicts)} of {len(verdicts)} hold.", all(verdicts)


def chosen(cells: Table, row: str, method: str) -> Cells:
    """Return the figures of a method; of the classical ones those of the best."""
    found = cells[row, method]
    return of_classical(found, best(found)[0]) if method == CLASSICAL and found else found


def best(found: Cells) -> list[str]:
    """Return each classical restorer with its best parameter by the mean PSNR, the best restorer first."""
    names = next(iter(found.values()))
    reached = {name: float(np.mean([figures[name]["mean"] for figures in found.values()])) for name in names}
    families: dict[str, str] = {}
    for name in sorted(names, key=lambda name: -reached[name]):
        families.setdefault(name.partition(",")[0], name)
    return list(families.values())


def of_classical(found: Cells, name: str) -> Cells:
    return {photograph: figures[name] for photograph, figures in found.items()}


def mean(found: Cells, name: str, names: Sequence[str]) -> float:
    """Return the mean over photographs, NaN unless all of them have the figure."""
    values = [found.get(photograph, {}).get(name) for photograph in names]
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there and len(there) == len(names) else float("nan")


def gap(new: Cells, old: Cells, name: str, names: Sequence[str]) -> float:
    return mean(new, name, names) - mean(old, name, names)


def spent(found: Cells, names: Sequence[str]) -> float:
    """Return forwards and vector-Jacobian products of a sample, together."""
    return mean(found, "forwards", names) + mean(found, "VJPs", names)


def pair(found: Cells, name: str, names: Sequence[str], held_out: Sequence[str], digits: int) -> str:
    """Return the means over all photographs / over those held out, or why there are none."""
    reasons = [cell["why"] for cell in found.values() if "why" in cell]
    if reasons:
        return reasons[0] if name == "mean" else "-"
    if len(found) < len(names):
        return f"{len(found)} of {len(names)} done" if name == "mean" else ""
    values = [mean(found, name, some) for some in (names, held_out)]
    return " / ".join("-" if np.isnan(value) else f"{value:.{digits}f}" for value in values) if values[0] == values[0] else "-"


def cost(found: Cells, name: str, names: Sequence[str]) -> str:
    value = mean(found, name, names)
    return "-" if np.isnan(value) else f"{value:.0f}"
