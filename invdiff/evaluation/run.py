"""Evaluation of restored images, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invdiff import metrics as functions
from invdiff.evaluation.columns import OF_PAIRS, OF_SETS, POSTERIOR, listing
from invdiff.evaluation.distribution import FEW, features, find_inception_weights, frechet_distance, kernel_distance
from invdiff.evaluation.pairs import Pair, Pairing
from invdiff.io.images import read_image

if TYPE_CHECKING:
    from invdiff.evaluation.misfit import Measurements

__all__ = ["Evaluation", "available", "evaluate_pairs", "set_metrics"]

NEEDS: dict[str, Callable[[], object]] = {
    "lpips": functions.find_lpips_weights,
    "dists": functions.find_dists_weights,
    "fid": find_inception_weights,
    "kid": find_inception_weights,
}


@dataclass
class Evaluation:
    """The figures of a folder of restored images.

    Attributes:
        restored: The folder.
        pairing: Its images with their references.
        rows: Figures by name for every reference; ``None`` where one could not be computed.
        failed: Pairs that could not be compared at all, with the reason.
        incomplete: Figures that could not be computed of the other pairs, by the name of the pair, with the reason.
        features: Features of the restored image for every reference, if they are needed.
    """

    restored: Path
    pairing: Pairing
    rows: dict[Path, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, dict[str, str]] = field(default_factory=dict)
    features: dict[Path, Tensor] = field(default_factory=dict)


def available(metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the metrics that can be computed, and a message for every other one that says which weights are missing.

    Raises:
        WeightsMissingError: If none can be computed.
    """
    there, messages, missing = [], [], None
    for name in metrics:
        try:
            NEEDS.get(name, bool)()
        except functions.WeightsMissingError as error:
            missing = error
            messages.append(f"{error} ({name.upper()} is omitted)")
        else:
            there.append(name)
    if missing is not None and not there:
        raise missing
    return there, messages


def evaluate_pairs(
    restored: Path,
    pairing: Pairing,
    metrics: Sequence[str],
    *,
    estimate: str,
    references: dict[Path, Tensor],
    track: Callable[[list[Pair]], Iterable[Pair]],
    measurements: Measurements | None = None,
) -> Evaluation:
    """Compute the figures of all pairs. One image is in memory at a time, with its reference and its samples.

    Args:
        restored: The folder, for the result.
        pairing: The pairs.
        metrics: Names of the metrics.
        estimate: Which picture of a result folder is the point estimate.
        references: Features of references that are known already; new ones are added.
        track: Called with the pairs, returns them again, such as a progress bar.
        measurements: Measurements from which the misfit is computed; ``None``: it is that of the records.
    """
    result = Evaluation(restored, pairing)
    for name, files in pairing.ambiguous.items():
        result.failed[name] = f"several files share this name: {listing(files)}"
    for pair in track(pairing.pairs):
        try:
            row, problems = _figures(pair, metrics, estimate)
            if measurements is not None and POSTERIOR in metrics:
                _add_misfit(pair, estimate, measurements, row, problems)
            if set(metrics) & set(OF_SETS):
                _add_features(pair, estimate, problems, result.features, references)
        except (ValueError, OSError) as error:
            result.failed[pair.name] = _one_line(error)
            continue
        if all(value is None for value in row.values()) and pair.reference not in result.features:
            result.failed[pair.name] = (
                " ".join(dict.fromkeys(problems.values())) or "posterior scores need a result folder with samples."
            )
            continue
        result.rows[pair.reference] = {"name": pair.name, **row}
        if problems:
            result.incomplete[pair.name] = problems
    return result


def set_metrics(
    metrics: Sequence[str], found: Mapping[Path, Tensor], references: Mapping[Path, Tensor], over: Iterable[Path]
) -> tuple[dict[str, float], list[str]]:
    """Return the metrics of whole sets of images, and messages on what they are worth.

    Args:
        metrics: Names of metrics, of which those of sets are computed.
        found: Features of the restored images by reference.
        references: Features of the references.
        over: References to count.
    """
    wanted, paths = [name for name in metrics if name in OF_SETS], [path for path in over if path in found]
    if not wanted:
        return {}, []
    names = " and ".join(name.upper() for name in wanted)
    if len(paths) < 2:
        return {}, [f"{names}: expected two images or more, got {len(paths)}; omitted."]
    x, y = (torch.cat([side[path] for path in paths]) for side in (found, references))
    functions_of = {"fid": frechet_distance, "kid": kernel_distance}
    messages = []
    if len(paths) < FEW:
        messages.append(
            f"{names} of {len(paths):,} images: with fewer than {FEW:,} FID is far too high and KID varies by chance; compare "
            "only with values of the same images."
        )
    return {name: functions_of[name](x, y) for name in wanted}, messages


def _figures(pair: Pair, metrics: Sequence[str], estimate: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the figures of a pair, and the reasons why some are missing."""
    clean, row, problems = _load(pair.reference), dict[str, float | None](), dict[str, str]()
    of_pairs = [name for name in metrics if name in OF_PAIRS]
    if of_pairs:
        row = dict.fromkeys(of_pairs)
        try:
            path = pair.restored.estimate(estimate)
            images = _matched(_load(path), clean, path, pair.reference)
        except (ValueError, OSError) as error:
            problems["estimate"] = _one_line(error)
        else:
            for name in of_pairs:
                try:
                    row[name] = float(getattr(functions, name.replace("-", "_"))(*images))
                except ValueError as error:
                    problems[name] = _one_line(error)
    if POSTERIOR in metrics and pair.restored.is_result:
        try:
            row |= _scores(pair, clean)
        except (ValueError, OSError) as error:
            problems[POSTERIOR] = _one_line(error)
    return row, problems


def _scores(pair: Pair, clean: Tensor) -> dict[str, float | None]:
    """Return the scores of the samples of a result, on the 0..1 scale; of a single sample only its misfit."""
    from invdiff.evaluation.scores import posterior_scores  # with the engine, which pictures alone do not need

    files, scores = pair.restored.samples(), dict[str, float | None]()
    if len(files) > 1:
        samples, truth = None, clean
        for k, path in enumerate(files):
            x, truth = _matched(_load(path), clean, path, pair.reference)
            if samples is None:
                samples = torch.empty(len(files), *x.shape[1:])
            if samples.shape[1:] != x.shape[1:]:
                raise ValueError(f"{path}: expected {samples.shape[1]} channels as in {files[0].name}, got {x.shape[1]}.")
            samples[k] = (x[0] + 1) / 2
        assert samples is not None
        found = posterior_scores(samples, ((truth[0] + 1) / 2).to(samples)).as_dict()
        scores = {name: None if math.isnan(value) else value for name, value in found.items()}
    return {**scores, "chi_square": pair.restored.chi_square}


def _add_misfit(
    pair: Pair, estimate: str, measurements: Measurements, row: dict[str, float | None], problems: dict[str, str]
) -> None:
    """Add the misfit of the samples of a result, or of an image."""
    try:
        paths = pair.restored.samples() or [pair.restored.estimate(estimate)]
        row["chi_square"] = measurements.chi_square(pair.name, [_load(path) for path in paths])
    except (ValueError, OSError) as error:
        problems["chi_square"] = _one_line(error)


def _add_features(
    pair: Pair, estimate: str, problems: dict[str, str], found: dict[Path, Tensor], references: dict[Path, Tensor]
) -> None:
    try:
        x = features(_load(pair.restored.estimate(estimate)))
        if pair.reference not in references:
            references[pair.reference] = features(_load(pair.reference))
        found[pair.reference] = x
    except (ValueError, OSError) as error:
        problems["fid, kid"] = _one_line(error)


def _matched(x: Tensor, clean: Tensor, path: Path, reference: Path) -> tuple[Tensor, Tensor]:
    """Return an image and its reference with as many channels: gray is repeated."""
    if x.shape[2:] != clean.shape[2:]:
        sizes = " and ".join(f"{image.shape[3]} x {image.shape[2]}" for image in (clean, x))
        raise ValueError(f"expected two images of the same size, got {sizes} pixels ({reference}, {path}).")
    channels = max(x.shape[1], clean.shape[1])
    if {x.shape[1], clean.shape[1]} - {1, channels}:
        raise ValueError(f"cannot compare {clean.shape[1]} with {x.shape[1]} channels ({reference}, {path}).")
    return x.expand(-1, channels, -1, -1), clean.expand(-1, channels, -1, -1)


def _load(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path).pixels)[None]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
