"""Solve one INPUT at the command line: notes and estimates on stderr, results in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invdiff.cli.messages import debug, note, shows_bars
from invdiff.cli.method_options import method_options
from invdiff.cli.prior_options import given_options

if TYPE_CHECKING:
    from invdiff.priors import ScoreModel
    from invdiff.restoration import Job

__all__ = ["solve_file"]

SHORT = 5.0  # seconds that are left, below which no estimate is printed
PARTS = ("start", "load", "sample", "write")  # whose time is told: imports; files and prior; sampling; results


def solve_file(
    source: Path | None,
    settings: Mapping[str, Any],
    output: Path | None,
    *,
    overwrite: bool,
    npz: bool,
    format: str | None,  # noqa: A002 - the name of the option
    format_quality: int | None,
    keep: str | None = None,
    strip: bool = False,
    anonymize: bool = False,
    score: ScoreModel | None = None,
    protected: Sequence[Path] = (),
    compare: Callable[[Job], Sequence[str]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Solve one INPUT, write the results, and return the record, with ``timing`` and ``output``, which are not in ``run.json``.

    Args:
        source: INPUT; ``None``: a bundled picture is degraded.
        settings: Values of the other options by name.
        output: Folder for the results, or ``None`` for the default.
        overwrite: Whether to replace earlier results there.
        npz: Whether to write the samples as floats.
        format: Format of the pictures.
        format_quality: Quality of JPEG files, or ``None`` for the default.
        strip: Whether to leave out EXIF data, except for the resolution.
        anonymize: Whether to leave out what tells who was measured.
        keep: What is written, separated by commas, or ``None`` for the default.
        score: The prior, if it is loaded already.
        protected: Files that the results must not replace, besides those that this run reads.
        compare: Called before sampling; returns notes that are printed, and are not in the record.
        facts: Further entries of the record.
    """
    started = time.monotonic()
    import torch

    from invdiff.cli.duration import duration
    from invdiff.posterior.misfit import unwarned
    from invdiff.restoration import prepare
    from invdiff.restoration.folder import output_folder
    from invdiff.restoration.keep import kept_parts
    from invdiff.restoration.memory import gigabytes

    start = time.monotonic() - started
    option = method_options(settings["option"], settings["method"])
    prior_option, progress = given_options(settings["prior_option"]), shows_bars()
    job = prepare(source, settings, option=option, prior_option=prior_option, score=score, progress=progress)
    passing = (*job.memory_notes, *(() if compare is None else compare(job)))
    files = job.file_format(format, quality=format_quality, strip=strip, anonymize=anonymize)
    parts = kept_parts(keep)
    results = job.results(npz=npz, files=files, keep=parts)
    results = replace(results, inputs=(*results.inputs, *protected))
    with output_folder(output, job.measured.name, results, overwrite=overwrite) as place:
        for text in (*job.notes, *passing, *files.notes):
            note(text)
        prior = job.sampler.score.describe().items()
        short = {name: value for name, value in prior if not isinstance(value, dict | list)}
        debug(f"device {job.device}, {torch.get_num_threads()} threads; prior {short}")

        def report(seconds: float, left: float) -> None:
            if left > SHORT:
                samples = "1 sample" if settings["samples"] == 1 else f"{settings['samples']} samples"
                memory = "" if job.memory is None else f", {gigabytes(job.memory)} of memory"
                note(f"estimate: about {duration(seconds)} for {samples}{memory}")

        with unwarned():  # printed as notes instead
            restored = job.run(progress=progress, report=report)
        for text in restored.notes:
            if text not in job.notes:
                note(text)
        started = time.monotonic()
        record = place.fill(
            lambda part, target: restored.write(part, target, npz=npz, files=files, keep=parts, **(facts or {}))
        )
        record["timing"]["seconds"] |= {"start": round(start, 2), "write": round(time.monotonic() - started, 2)}
        for text in facts_of(record):
            debug(text)
        debug(f"{len(record['outputs'])} files written to {record['output']}")
    return record


def facts_of(record: Mapping[str, Any]) -> list[str]:
    """Return what a run has done, in a few lines for ``--verbose``."""
    options, timing = record["options"], record["timing"]
    windows, share = options.get("windows"), "the whole picture"
    if isinstance(windows, Mapping):
        share = f"{windows['count']} windows, {windows['share']:.1%} of the picture"
    seconds = ", ".join(f"{name} {timing['seconds'][name]:.2f} s" for name in PARTS)
    memory = ", ".join(f"{name} {peak:,.0f} MiB" for name, peak in timing["peak_memory_mib"].items())
    return [
        f"method {record['method']}: {options}",
        f"{options.get('chunk') or 'all'} samples at a time; {share}",
        f"{record['nfe']:g} evaluations and {record['nvjp']:g} gradients each; {seconds}; peak: {memory}",
    ]
