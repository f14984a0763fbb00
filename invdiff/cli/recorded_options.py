"""``--config``: the settings of an earlier run as the defaults of the options."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from invdiff.cli.problem_options import ProblemCommand, asks_for_help, value_of

if TYPE_CHECKING:
    from invdiff.restoration import Job
    from invdiff.restoration.recorded import Recorded

__all__ = ["RecordedCommand", "RecordedSettings", "recorded_settings"]

KEY = "invdiff.recorded"  # key in the metadata of a click context
APART = ("sources", "output", "overwrite", "as_json", "config")  # parameters of a command that no record decides


@dataclass(frozen=True)
class RecordedSettings:
    """What an earlier run contributes to this one; nothing without ``--config``.

    Attributes:
        recorded: The record of the earlier run.
        given: Names of its settings that the command line gives.
        source: INPUT of the earlier run, if none is given.
    """

    recorded: Recorded | None = None
    given: tuple[str, ...] = ()
    source: Path | None = None

    def compare(self, job: Job) -> Sequence[str]:
        """Return in which respects a run differs from the record."""
        return () if self.recorded is None else self.recorded.compare(job, self.given)

    @contextlib.contextmanager
    def names(self) -> Iterator[None]:
        """Let files have the names of the record."""
        from invdiff.io.portable import shown_as

        with shown_as({} if self.recorded is None else self.recorded.shown):
            yield


class RecordedCommand(ProblemCommand):
    """A command whose options have the settings of an earlier run as defaults."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        path = None if ctx.resilient_parsing or asks_for_help(args) else value_of("--config", args)
        if path is None:
            return super().parse_args(ctx, args)
        from invdiff.restoration.recorded import read_recorded

        recorded = read_recorded(Path(path), command="solve", option="--config", folders=[Path()])
        # Called only for options that are not given, so that the files of others need not be there.
        values = {name: partial(recorded.value, name) for name, value in recorded.arguments.items() if value is not None}
        ctx.default_map = {name: value for name, value in values.items() if name not in APART}
        own = value_of("--problem", args) in (None, recorded.arguments.get("problem"))
        left = super().parse_args(ctx, args)  # which takes the arguments off the list
        names = [name for param in self.get_params(ctx) if (name := str(param.name)) not in APART]
        for name in recorded.arguments if own else ():
            if name not in (*names, "input"):
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" Is it {near[0]!r} now?" if near else ""
                raise click.UsageError(f"{recorded.flag}: this version has no setting {name!r:.80}.{hint}", ctx)
        chosen = [str(param.name) for param in self.get_params(ctx) if _is_given(ctx, param)]
        source = None
        if ctx.params["sources"]:
            chosen.append("input")
        elif recorded.arguments.get("input") is not None:
            source = Path(recorded.value("input"))
        given = tuple(name for name in chosen if name in recorded.arguments)
        ctx.meta[KEY] = RecordedSettings(recorded, given, source)
        return left


def recorded_settings(ctx: click.Context) -> RecordedSettings:
    """Return what an earlier run contributes to the command."""
    found: Any = ctx.meta.get(KEY, RecordedSettings())
    assert isinstance(found, RecordedSettings)
    return found


def _is_given(ctx: click.Context, param: click.Parameter) -> bool:
    return ctx.get_parameter_source(str(param.name)) == ParameterSource.COMMANDLINE
