"""``invdiff solve`` for several INPUTs: one after another, with the prior loaded once."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from invdiff.cli.messages import is_quiet, note
from invdiff.cli.prior_options import load
from invdiff.cli.solve_file import solve_file
from invdiff.cli.summary import summary
from invdiff.io.errors import one_line
from invdiff.io.printable import printable
from invdiff.io.source import Source
from invdiff.problems import OptionError
from invdiff.restoration.device import pick_device
from invdiff.restoration.record import to_json

__all__ = ["solve_all"]


def solve_all(
    sources: Sequence[Path], settings: Mapping[str, Any], output: Path | None, writing: Mapping[str, Any], *, as_json: bool
) -> None:
    """Solve several INPUTs and print a summary of each; an INPUT that fails is named, and does not stop the rest.

    Args:
        sources: The INPUTs.
        settings: Options that they share.
        output: Folder that gets a folder of results for each, named as INPUT; ``None``: the default folder of each.
        writing: Other arguments of :func:`invdiff.cli.solve_file.solve_file`.
        as_json: Whether to print a list of their records at the end instead, without those that failed.

    Raises:
        OptionError: If the first INPUT shows that the options are wrong, or two INPUTs have the same folder.
        click.ClickException: At the end, if an INPUT failed.
    """
    _check_names(sources, output, overwrite=writing["overwrite"])
    score, records, failures = load(settings, pick_device(settings["device"])), list[dict[str, Any]](), dict[Path, str]()
    for number, source in enumerate(sources, 1):
        note(f"{source} ({number} of {len(sources)})")
        folder = None if output is None else output / Source(source).name
        try:
            record = solve_file(source, settings, folder, **writing, score=score, protected=sources)
        except Exception as error:
            if (number == 1 and isinstance(error, OptionError | click.UsageError)) or getattr(
                error, "errno", None
            ) == errno.EPIPE:
                raise
            failures[source] = one_line(error)
            note(f"failed: {failures[source]}", level=logging.ERROR)
            continue
        records.append(record)
        if not as_json and not is_quiet():
            click.echo(f"{printable(str(source))}\n{summary(record)}\n")
    if as_json:
        click.echo(to_json(records))
    if failures:
        reasons = " ".join(
            reason if reason.startswith(str(source)) else f"{source}: {reason}" for source, reason in failures.items()
        )
        raise click.ClickException(f"{len(failures)} of {len(sources)} INPUTs failed. {reasons}")


def _check_names(sources: Sequence[Path], output: Path | None, *, overwrite: bool) -> None:
    """Raise an error if the results of one INPUT would be in the way of another's."""
    if output is None and not overwrite:
        return  # folders get numbers
    named: dict[str, Path] = {}
    for source in sources:
        other = named.setdefault(Source(source).name.casefold(), source)
        if other is not source:
            raise OptionError(
                f"{other} and {source} would have the same folder for their results, {Source(source).name}. Rename one of "
                "them, or run the command once for each."
            )
