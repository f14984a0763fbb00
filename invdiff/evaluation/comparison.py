"""Several restorations of the same images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from invdiff.evaluation.bootstrap import Summary, difference, summarize
from invdiff.evaluation.columns import OF_PAIRS, SCORES
from invdiff.evaluation.run import Evaluation, set_metrics

__all__ = ["Comparison", "Side", "columns_of", "compare"]


@dataclass(frozen=True)
class Side:
    """One restoration of a comparison.

    Attributes:
        restored: Its folder.
        summary: Figures of the common images, by name.
        of_set: Metrics of the common images as a set.
        difference: The figures minus those of the first restoration; empty for the first.
    """

    restored: Path
    summary: dict[str, Summary]
    of_set: dict[str, float]
    difference: dict[str, Summary]


@dataclass(frozen=True)
class Comparison:
    """Restorations on the images that all of them have.

    Attributes:
        images: Names of these images.
        left_out: Names of those that one or more lack.
        sides: The restorations.
    """

    images: list[str]
    left_out: list[str]
    sides: list[Side]


def compare(evaluations: Sequence[Evaluation], metrics: Sequence[str], references: Mapping[Path, Tensor]) -> Comparison:
    """Return figures of all evaluations on the images that all have.

    A figure that one restoration lacks of an image does not count for the others there either, so that columns compare.
    """
    first, *others = evaluations
    everything = {path: row["name"] for evaluation in evaluations for path, row in evaluation.rows.items()}
    common = [path for path in first.rows if all(path in other.rows for other in others)]
    columns = columns_of([row for evaluation in evaluations for row in evaluation.rows.values()], metrics)
    rows = [[dict(evaluation.rows[path]) for path in common] for evaluation in evaluations]
    for several in zip(*rows, strict=True):
        for name in columns:
            if any(row.get(name) is None for row in several):
                for row in several:
                    row[name] = None
    sides = []
    for evaluation, ours in zip(evaluations, rows, strict=True):
        of_set, _ = set_metrics(metrics, evaluation.features, references, common)
        against = difference(rows[0], ours, columns) if evaluation is not first else {}
        sides.append(Side(evaluation.restored, summarize(ours, columns), of_set, against))
    names = {first.rows[path]["name"] for path in common}
    return Comparison(sorted(names), sorted(set(everything.values()) - names), sides)


def columns_of(rows: Sequence[Mapping[str, object]], metrics: Sequence[str]) -> list[str]:
    """Return the figures of rows by name: the metrics of pairs, and the scores of samples if any row has them."""
    scores = [name for name in SCORES if any(row.get(name) is not None for row in rows)]
    return [*(name for name in metrics if name in OF_PAIRS), *scores]
