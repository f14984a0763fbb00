"""Calibration files: interval widths from ``invdiff calibrate --save`` for ``invdiff solve``, one entry per problem."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from invdiff import priors
from invdiff.diagnostics import exact_width, images_needed, marginal_width, width_per_image
from invdiff.diagnostics.conformal import ONE_STD
from invdiff.io.codecs import first_line
from invdiff.io.images import atomic_write
from invdiff.io.portable import portable
from invdiff.posterior import PosteriorSampler
from invdiff.priors.checkpoints.kinds import PULL, is_pointer
from invdiff.problems import Problem
from invdiff.restoration.record import plain

__all__ = [
    "BUNDLED",
    "INTERVAL",
    "LEVELS",
    "Spread",
    "by_image",
    "check_images",
    "check_target",
    "keep_entry",
    "make_entry",
    "read_spread",
    "save_entry",
    "settings_of",
    "width_table",
]

FORMAT = "invdiff calibration, version 1"
BUNDLED = Path(priors.__file__).with_name("natural.calibration.json")
LEVELS = (0.5, ONE_STD, 0.8, 0.9, 0.95)
LARGEST = 1e9  # of any number in a file
INTERVAL = 0.9  # default level of interval maps; there must be enough images for it
CLOSE = 0.05  # differences in the fraction of missing pixels up to this are ignored
# Entries of a prior's description that depend on file path, machine or image size, and do not affect the distribution.
APART = ("name", "file", "autocast", "checkpointing", "compiled", "tile", "overlap", "gray", "per_channel")


@dataclass(frozen=True)
class Spread:
    """Scaling of the standard deviation and the intervals in the results.

    Attributes:
        std_factor: Factor applied to ``std.png``.
        width: Half width of the intervals, in standard deviations of the samples before multiplication by ``std_factor``.
        level: Nominal coverage of the intervals, a fraction of the values.
        record: Entry in ``run.json``.
        notes: Messages for the user.
    """

    std_factor: float
    width: float
    level: float
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def plain(cls, level: float, num_samples: int) -> Spread:
        """Return the uncalibrated scaling, which treats samples as exact draws from a Gaussian posterior."""
        width = exact_width(level, num_samples)
        record = {"level": level, "width": round(width, 4), "from": "Student's t: samples taken as exact, not calibrated"}
        return cls(1.0, width, level, record)


def settings_of(
    problem: Problem, sampler: PosteriorSampler, settings: Mapping[str, Any], files: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return the settings that widths depend on besides problem and prior, by the option names of ``invdiff solve``.

    Args:
        problem: The problem.
        sampler: The sampler.
        settings: All settings.
        files: Digests of the files that were read, see :class:`~invdiff.restoration.files.FilesRead`.
    """
    given = {option.name: settings[option.name] for option in problem.options if option.changes_spread}
    given |= {name: f"sha256 {files[name]['sha256']}" for name in problem.files(settings) if name in given}
    options = {name.replace("_", "-"): value for name, value in given.items() if value is not None} | problem.facts()
    plan = sampler.plan(settings["samples"])
    run = {"method": plan.method.name, "steps": plan.steps, "rule": plan.rule_name, **plan.options}
    return plain({**options, "noise": settings["noise"], **run, "samples": settings["samples"]})  # type: ignore[no-any-return]


def check_images(sources: Sequence[Mapping[str, Any]]) -> None:
    """Raise an error, before sampling, if there are too few images for a calibration or unequal numbers of crops per image.

    Raises:
        ValueError: In either case.
    """
    images, needed = len({source["image"] for source in sources}), images_needed(INTERVAL)
    if images < needed:
        raise ValueError(
            f"--save: {images} images are too few for a guarantee of {INTERVAL:.0%} intervals on a new image, at least "
            f"{needed} are needed. Several crops of an image count as one."
        )
    if len(sources) % images:
        raise ValueError(f"--save: every image must have the same number of crops: give --cases as a multiple of {images}.")


def by_image(scores: Sequence[Tensor], sources: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Concatenate the deviations of all crops of each image, since images are independent and crops of one image are not.

    Images in which all values are known exactly are left out.
    """
    found: dict[str, list[Tensor]] = {}
    for part, source in zip(scores, sources, strict=True):
        found.setdefault(source["image"], []).append(part)
    return [joined for parts in found.values() if len(joined := torch.cat(parts))]


def make_entry(
    scores: Sequence[Tensor], *, settings: Mapping[str, Any], prior: Mapping[str, Any], size: Sequence[int]
) -> dict[str, Any]:
    """Return the entry of a problem in a calibration file.

    Args:
        scores: Deviations of the truth from the sample mean in standard deviations, one vector per independent image.
        settings: Settings of the runs, see :func:`settings_of`.
        prior: Description of the prior.
        size: Size of the crops, ``(H, W)``.

    Raises:
        ValueError: If there are too few images, or too many values have samples without any spread.
    """
    widths, count = [], len(scores)
    for level in LEVELS:
        if count < images_needed(level) and level != INTERVAL:
            continue
        width = marginal_width(scores, level=level)
        if math.isfinite(width):
            strict = width_per_image(scores, level=level, confidence=INTERVAL)
            exact = round(exact_width(level, settings["samples"]), 4)
            widths.append({"level": level, "width": round(width, 4), "exact": exact, "per_image": round(strict, 4)})
    if not any(row["level"] == ONE_STD for row in widths):
        raise ValueError(
            "calibration: for 30 % of the values or more, all samples are equal and differ from the truth, so no multiple of "
            "their standard deviation can be right. Draw more samples, or use another method or prior."
        )
    return {
        "settings": dict(settings),
        "prior": plain(prior),
        "size": list(size),
        "images": count,
        "values": sum(map(len, scores)),
        "widths": widths,
        "guarantee": guarantee(count),
    }


def guarantee(images: int) -> str:
    """Return a statement of the guarantee of widths learned from ``images`` images."""
    return (
        f"In expectation over these {images} images and a new one exchangeable with them (of the same kind, with the same "
        "degradation, sampler settings and number of samples), at least the stated fraction of the values of the new image "
        "lies within the mean plus and minus width times the standard deviation of the samples (conformal risk control; values "
        "known exactly do not count). "
        "This is not a guarantee for a single image or a single pixel; per_image is the width that covers the fraction in nine "
        "of ten new images."
    )


def width_table(entry: Mapping[str, Any]) -> str:
    """Return the widths and the guarantee of an entry as text."""
    lines = [
        [f"{row['level']:.0%} of the values", f"{row['width']:.2f}", f"{row['exact']:.2f}", f"{row['per_image']:.2f}"]
        for row in entry["widths"]
    ]
    headers = ["intervals for", "standard deviations", "for exact samples", "in 9 of 10 images"]
    table = tabulate(lines, headers, disable_numparse=True, colalign=("left", "right", "right", "right"))
    given = [row["level"] for row in entry["widths"]]
    missing = [f"{level:.0%} ({images_needed(level)} images)" for level in LEVELS if level not in given]
    more = f"\nNot available, because images or spread are insufficient: {', '.join(missing)}." if missing else ""
    return f"{table}\n\n{entry['guarantee']}{more}"


def check_target(path: Path, problem: str, *, overwrite: bool) -> None:
    """Raise an error, before sampling, if an entry for ``problem`` cannot be added to a file.

    Raises:
        ValueError: If the file is not a calibration file, or has an entry for the problem and ``overwrite`` is false.
        FileNotFoundError: If its folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
    if path.exists() and problem in _read(path)[0]["problems"] and not overwrite:
        raise ValueError(f"{path} already has a calibration for {problem}: choose another file, or add --overwrite.")


def save_entry(path: Path, problem: str, entry: Mapping[str, Any], *, overwrite: bool) -> None:
    """Add an entry to a file atomically; entries of other problems are kept."""
    check_target(path, problem, overwrite=overwrite)
    entries = _read(path)[0]["problems"] if path.exists() else {}
    contents = {"format": FORMAT, "problems": dict(sorted((entries | {problem: plain(entry)}).items()))}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def keep_entry(path: Path, problem: str, entry: Mapping[str, Any], *, overwrite: bool, instead: Path) -> None:
    """Add an entry to a file as :func:`save_entry` does, or if that fails to a file of its own in the folder ``instead``.

    Raises:
        OSError: If it was written to ``instead``, with its place in the message.
    """
    try:
        save_entry(path, problem, entry, overwrite=overwrite)
    except (OSError, ValueError) as error:
        place = instead / "unsaved-calibration.json"
        save_entry(place, problem, entry, overwrite=True)
        raise OSError(f"{path}: the calibration could not be saved there ({first_line(error)}). It is in {place}.") from error


def read_spread(
    file: str | Path, problem: type[Problem], *, level: float, settings: Mapping[str, Any], prior: Mapping[str, Any]
) -> Spread:
    """Read the calibration of a problem from a file and adapt it to the settings of a run.

    Widths learned with another number of samples are scaled by the ratio of :func:`~invdiff.diagnostics.exact_width`, which is
    accurate if the posterior is nearly Gaussian. The guarantee is then lost, and a note says so.

    Args:
        file: Path of the file; ``natural`` is the file of the bundled prior.
        problem: The problem.
        level: Level of the intervals, one of ``LEVELS``.
        settings: Settings of the run, see :func:`settings_of`.
        prior: Description of the prior.

    Raises:
        ValueError: If the file is damaged, or has no entry for this problem, prior or level.
    """
    path, name = Path(file), problem.name
    if str(path) == "natural" and not path.exists():
        path = BUNDLED
    contents, sha256 = _read(path)
    if name not in contents["problems"]:
        raise ValueError(
            f"{path} has a calibration for {', '.join(contents['problems'])}, but none for {name}: add it with "
            f"`invdiff calibrate FOLDER --problem {name} ... --save {path}`."
        )
    entry = contents["problems"][name]
    if _law(entry["prior"]) != _law(plain(prior)):
        raise ValueError(
            f"{path} was made with another prior ({entry['prior'].get('sha256', 'unknown')[:12]}, here "
            f"{prior.get('sha256', 'unknown')[:12]}): calibrate this one with `invdiff calibrate ... --save`."
        )
    widths = {row["level"]: row["width"] for row in entry["widths"]}
    if level not in widths:
        raise ValueError(
            f"{path} has no {level:.0%} intervals for {name}: it was made from {entry['images']} images, and at least "
            f"{images_needed(level)} with differing samples are needed. Levels available: "
            f"{', '.join(f'{known:.0%}' for known in widths)}."
        )
    there, samples = entry["settings"], settings["samples"]
    differences = _differences(there, settings, told=problem.reads != "picture")
    carried = {known: exact_width(known, samples) / exact_width(known, there["samples"]) for known in (ONE_STD, level)}
    std_factor, width = carried[ONE_STD] * widths[ONE_STD], carried[level] * widths[level]
    notes = []
    if differences:
        notes.append(f"calibration: made with {'; '.join(differences)}: the guarantee does not hold for this run")
    record = {
        "file": portable(path),
        "sha256": sha256,
        "problem": name,
        "std_factor": round(std_factor, 4),
        "level": level,
        "width": round(width, 4),
        "images": entry["images"],
        "differences": differences,
        "guarantee": entry["guarantee"],
    }
    return Spread(std_factor, width, level, record, tuple(notes))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], *, told: bool) -> list[str]:
    """Describe how settings differ; ``told``: INPUT contains the values of simulation options, which are not compared."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        a: Any = there.get(name)
        b: Any = here.get(name)
        if a == b or (told and name not in here) or (name == "missing" and abs(a - b) <= CLOSE):
            continue
        found.append(f"{name} {'not given' if a is None else a} (here {'not given' if b is None else b})")
    return found


def _law(prior: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prior.items() if name not in APART}


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Return the contents of a calibration file, and the digest of the bytes that were read."""
    content = path.read_bytes()
    try:
        if is_pointer(content):
            raise ValueError(f"it is {PULL}")
        contents = json.loads(content)
        if contents["format"] != FORMAT:
            raise ValueError(f"its format is {contents['format']!r:.80}")
        for entry in contents["problems"].values():
            _check_entry(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or not a calibration file ({error}); expected a file from `invdiff calibrate --save`."
        ) from None
    return contents, hashlib.sha256(content).hexdigest()


def _check_entry(entry: Mapping[str, Any]) -> None:
    numbers = [value for row in entry["widths"] for value in (row["level"], row["width"])]
    numbers += [entry["images"], entry["settings"]["samples"]]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < LARGEST for n in numbers):
        raise ValueError("a width is not a number")
    if entry["settings"]["samples"] < 2 or not any(row["level"] == ONE_STD for row in entry["widths"]):
        raise ValueError("a width is missing")
    digest = entry["prior"].get("sha256", "") if isinstance(entry["prior"], Mapping) else None
    if not isinstance(digest, str) or not isinstance(entry["guarantee"], str):
        raise TypeError("prior or guarantee is missing")
