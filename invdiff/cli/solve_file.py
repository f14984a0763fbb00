"""Solve one INPUT at the command line: notes and estimates on stderr, results in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.method_options import method_options
from invdiff.cli.prior_options import given_options

if TYPE_CHECKING:
    from invdiff.priors import ScoreModel
    from invdiff.restoration import Job

__all__ = ["solve_file"]

SHORT = 5.0  # seconds that are left, below which no estimate is printed


def solve_file(
    source: Path | None,
    settings: Mapping[str, Any],
    output: Path | None,
    *,
    overwrite: bool,
    npz: bool,
    format: str,  # noqa: A002 - the name of the option
    format_quality: int | None,
    keep: str | None = None,
    strip: bool = False,
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
        keep: What is written, separated by commas, or ``None`` for the default.
        score: The prior, if it is loaded already.
        protected: Files that the results must not replace, besides those that this run reads.
        compare: Called before sampling; returns notes that are printed, and are not in the record.
        facts: Further entries of the record.
    """
    from tqdm.auto import tqdm

    from invdiff.cli.duration import duration
    from invdiff.io.printable import printable
    from invdiff.posterior.misfit import unwarned
    from invdiff.restoration import prepare
    from invdiff.restoration.folder import output_folder
    from invdiff.restoration.keep import kept_parts
    from invdiff.restoration.memory import gigabytes

    option = method_options(settings["option"], settings["method"])
    prior_option, progress = given_options(settings["prior_option"]), sys.stderr.isatty()
    job = prepare(source, settings, option=option, prior_option=prior_option, score=score, progress=progress)
    passing = (*job.memory_notes, *(() if compare is None else compare(job)))
    files = job.file_format(format, quality=format_quality, strip=strip)
    parts = kept_parts(keep)
    results = job.results(npz=npz, files=files, keep=parts)
    results = replace(results, inputs=(*results.inputs, *protected))
    with output_folder(output, job.measured.name, results, overwrite=overwrite) as place:
        for note in (*job.notes, *passing, *files.notes):
            click.echo(printable(note), err=True)

        def report(seconds: float, left: float) -> None:
            if left > SHORT:
                samples = "1 sample" if settings["samples"] == 1 else f"{settings['samples']} samples"
                memory = "" if job.memory is None else f", {gigabytes(job.memory)} of memory"
                tqdm.write(f"estimate: about {duration(seconds)} for {samples}{memory}", file=sys.stderr)

        with unwarned():  # printed as notes instead
            restored = job.run(progress=progress, report=report)
        for note in restored.notes:
            if note not in job.notes:
                click.echo(printable(note), err=True)
        return place.fill(lambda part, target: restored.write(part, target, npz=npz, files=files, keep=parts, **(facts or {})))
