"""``--config`` and ``--operator``: the settings of an earlier run, or of a simulation, as the defaults of the options."""

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

from invdiff.cli.messages import MESSAGE_OPTIONS
from invdiff.cli.problem_options import KEY as PROBLEM
from invdiff.cli.problem_options import ProblemCommand, asks_for_help, value_of

if TYPE_CHECKING:
    from invdiff.restoration import Job
    from invdiff.restoration.recorded import Recorded

__all__ = ["RecordedCommand", "RecordedSettings", "recorded_settings"]

OPERATOR = "operator"  # the option
KEY = "invdiff.recorded"  # key in the metadata of a click context
# Parameters of a command that no record decides.
APART = ("sources", "output", "overwrite", "as_json", "config", *MESSAGE_OPTIONS)
REPEATED = ("option", "prior_option")  # options that may be given several times; other lists are separated by commas


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

    @property
    def facts(self) -> dict[str, Any]:
        """Entries of the record that a repeated run has too: the key of a picture of a folder."""
        key = None if self.recorded is None or self.given else self.recorded.contents.get("key")
        return {"key": key} if isinstance(key, str) else {}

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
    """A command whose options have the settings of an earlier run, or the operator of a simulation, as defaults."""

    replaced = ("--operator",)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse with ``--config`` and ``--operator`` in view.

        ``--operator`` names the file of a simulation if it ends in ``.json``; otherwise it belongs to ``--problem operator``.
        """
        if ctx.resilient_parsing or asks_for_help(args):
            return super().parse_args(ctx, args)
        from invdiff.restoration.recorded import read_recorded

        config, operator = value_of("--config", args), value_of("--operator", args)
        said = list(args)
        recorded = simulated = None
        if config is not None:
            recorded = read_recorded(Path(config), command="solve", option="--config", folders=[Path()])
            ctx.default_map = _defaults(recorded)
        if operator is not None and operator.lower().endswith(".json"):
            simulated = read_recorded(Path(operator), command="simulate", option="--operator", folders=[Path(operator).parent])
            args = _without("--operator", args)
            _check_problem(simulated, args, ctx)
            ctx.default_map = {**(ctx.default_map or {}), **_defaults(simulated)}
        left = super().parse_args(ctx, args)
        given = [str(param.name) for param in self.get_params(ctx) if _is_given(ctx, param)]
        if simulated is not None:
            self._check_operator(simulated, given, ctx)
        if recorded is not None:
            ctx.meta[KEY] = self._settings(recorded, said, given, simulated, ctx)
        return left

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters; an option ``--operator`` of the problem replaces the one that names a file."""
        params, own = super().get_params(ctx), ctx.meta.get(PROBLEM, ())
        if any(param.name == OPERATOR for param in own):
            return [param for param in params if param.name != OPERATOR or param in own]
        return params

    def _settings(
        self, recorded: Recorded, args: list[str], given: list[str], simulated: Recorded | None, ctx: click.Context
    ) -> RecordedSettings:
        names = [name for param in self.get_params(ctx) if (name := str(param.name)) not in APART]
        own = simulated is None and value_of("--problem", args) in (None, recorded.arguments.get("problem"))
        for name in recorded.arguments if own else ():
            if name not in (*names, "input"):
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" Is it {near[0]!r} now?" if near else ""
                raise click.UsageError(f"{recorded.flag}: this version has no setting {name!r:.80}.{hint}", ctx)
        source = None
        if ctx.params["sources"]:
            given = [*given, "input"]
        elif recorded.arguments.get("input") is not None:
            source = Path(recorded.value("input"))
        given += [] if simulated is None else simulated.arguments
        return RecordedSettings(recorded, tuple(name for name in given if name in recorded.arguments), source)

    def _check_operator(self, simulated: Recorded, given: list[str], ctx: click.Context) -> None:
        """Raise an error if the command line changes the operator of a simulation."""
        names = [str(param.name) for param in self.get_params(ctx)]
        unknown = next((name for name in simulated.arguments if name not in names), None)
        if unknown is not None:
            raise click.UsageError(f"{simulated.flag}: this version has no setting {unknown!r:.80}.", ctx)
        own = [str(param.name) for param in ctx.meta.get(PROBLEM, ())]
        other = next((name for name in given if name in (*own, "simulate")), None)
        if other is not None:
            flag = f"--{other.replace('_', '-')}"
            raise click.UsageError(
                f"{flag}: the operator is that of {simulated.path}, measured already. Leave {flag} out.", ctx
            )
        if not ctx.params["sources"]:
            raise click.UsageError(f"{simulated.flag}: INPUT is missing. Give a measurement of `invdiff simulate`.", ctx)


def _defaults(recorded: Recorded) -> dict[str, Any]:
    """Return the values of settings as functions, called only for options that are not given: their files need not be there."""
    values = {name: value for name, value in recorded.arguments.items() if value is not None and name not in APART}
    return {name: partial(_default, recorded, name) for name in values}


def _default(recorded: Recorded, name: str) -> Any:
    value = recorded.value(name)
    return ",".join(map(str, value)) if isinstance(value, list) and name not in REPEATED else value


def _check_problem(simulated: Recorded, args: list[str], ctx: click.Context) -> None:
    said, there = value_of("--problem", args), simulated.arguments.get("problem")
    if said is not None and said != there:
        raise click.UsageError(f"--problem {said}: {simulated.path} is for --problem {there}. Leave --problem out.", ctx)


def _without(flag: str, args: list[str]) -> list[str]:
    """Return the arguments without an option and its value."""
    left, skip = list[str](), False
    for number, argument in enumerate(args):
        if argument == "--":
            return [*left, *args[number:]]
        if not skip and argument != flag and not argument.startswith(f"{flag}="):
            left.append(argument)
        skip = not skip and argument == flag
    return left


def recorded_settings(ctx: click.Context) -> RecordedSettings:
    """Return what an earlier run contributes to the command."""
    found: Any = ctx.meta.get(KEY, RecordedSettings())
    assert isinstance(found, RecordedSettings)
    return found


def _is_given(ctx: click.Context, param: click.Parameter) -> bool:
    return ctx.get_parameter_source(str(param.name)) == ParameterSource.COMMANDLINE
