"""Command-line options of problems, created from their declarations once ``--problem`` is known."""

from __future__ import annotations

import copy
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from invdiff.problems import PROBLEMS, Option, OptionError
from invdiff.restoration.noise import NoiseChoice, noise_choice

if TYPE_CHECKING:
    from invdiff.problems import Problem

__all__ = ["NOISE_OPTION", "PROBLEM_OPTION", "ProblemCommand", "asks_for_help", "click_option", "problem_names", "value_of"]

KEY = "invdiff.problem"  # key of the problem's options in the metadata of a click context
CHOSEN = "invdiff.chosen"  # of its name
NOISE_KEY = "invdiff.noise"  # and of the option --noise with the default of the problem


class NoiseType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic only in new versions of click
    """The type of ``--noise``."""

    name = "noise"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NoiseChoice:
        try:
            return noise_choice(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class NameType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A name in a table, or a place such as ``mine.py:Name``. The table is loaded on conversion, so help does not need it.

    Args:
        table: Place of the table, ``"module:attribute"``.
        extra: Valid names that are not in the table.
    """

    name = "name"

    def __init__(self, table: str, *, extra: Sequence[str] = ()) -> None:
        self.table, self.extra = table, extra

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of the table, with their summaries; the name of a file of code is completed as a file."""
        from invdiff.registry import load_object

        table: Any = load_object(self.table)
        lines = getattr(table, "lines", {})
        names = [name for name in (*self.extra, *table) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=lines[name][1] if name in lines else None) for name in names]
        return found or [CompletionItem(incomplete, type="file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from invdiff.registry import load_object

        text = str(value)
        if text in self.extra or (ctx is not None and ctx.resilient_parsing):  # for completion no code is run
            return text
        table: Any = load_object(self.table)
        if ":" in text and hasattr(table, "find"):
            try:
                table.find(text)
            except (ValueError, TypeError) as error:
                self.fail(str(error), param, ctx)
        elif text not in table:
            names = [*self.extra, *table]
            near = difflib.get_close_matches(text, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            self.fail(f"{text!r} is not one of {', '.join(map(repr, names))}.{hint}", param, ctx)
        return text


def _required(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None and not context.resilient_parsing:
        known = "".join(f"\n  {name:<18} {summary}" for name, summary in problem_names())
        raise click.UsageError(f"--problem is missing: give the measurement model of the image.{known}")
    return value


PROBLEM_OPTION = click.option(
    "--problem",
    type=NameType("invdiff.problems:PROBLEMS"),
    metavar="NAME|FILE.py:NAME",
    callback=_required,
    help="Measurement model of the image (required).",
)
NOISE_OPTION = click.option(
    "--noise",
    type=NoiseType(),
    metavar="SIGMA|auto|file|poisson:PEAK[,SIGMA]|laplace:SCALE|student:SCALE,DOF",
    help="Noise in INPUT, pixels spanning 0..1: standard deviation (0: exact data); auto estimates it; file takes it from the "
    "tables of a JPEG, else estimates it. PEAK: photons at white.",
    show_default="set by the problem",
)


def problem_names() -> list[tuple[str, str]]:
    """Return the name and the summary of every problem, without loading any."""
    own = {name: summary for name, (_, summary) in PROBLEMS.lines.items()}
    return [(name, own.get(name, f"from {PROBLEMS.places[name]}")) for name in PROBLEMS]


class FileOrWord(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A path, or one word that is no path."""

    name = "file"

    def __init__(self, word: str) -> None:
        self.word = word

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"FILE|{self.word}"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(self.word)] if incomplete == self.word else [CompletionItem(incomplete, type="file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == self.word else Path(value)


def click_option(option: Option, *, simulated: bool) -> click.Option:
    """Convert a declared option to a click option; ``simulated``: every INPUT is clean and degraded first."""
    kinds: dict[Any, Any] = {"FILE": click.Path(path_type=Path), "TEXT": click.STRING}
    low: Any = option.minimum
    high: Any = option.maximum
    bounded = low is not None or high is not None
    if option.proposed is not None:
        kind: Any = FileOrWord(option.proposed)
    elif isinstance(option.kind, tuple):
        kind = click.Choice(option.kind, case_sensitive=False)
    elif option.kind in kinds:
        kind = kinds[option.kind]
    elif option.kind == "INTEGER":
        kind = click.IntRange(low, high, min_open=option.above, max_open=option.below) if bounded else click.INT
    else:
        kind = click.FloatRange(low, high, min_open=option.above, max_open=option.below) if bounded else click.FLOAT
    varies = option.default_simulated is not None and not simulated
    default = None if varies else option.default_of(simulated=simulated)  # Whether INPUT is simulated is not known yet.
    return click.Option(
        [option.flag, option.name],
        type=kind,
        default=default,
        show_default=f"{option.default}; {option.default_simulated} with --simulate" if varies else default is not None,
        metavar=option.metavar,
        callback=_finite if option.kind == "NUMBER" else None,
        help=option.help_simulated if simulated and option.help_simulated else option.help,
    )


class ProblemCommand(click.Command):
    """A command whose options depend on ``--problem``, and whose help has sections.

    Args:
        sections: Names of the parameters in each section, by title. The options of the problem are added to the first section,
            and parameters that are in no section to the last.
        simulated: Whether every INPUT is clean and degraded first.

    Attributes:
        replaced: Options that those of a problem may replace.
    """

    replaced: Sequence[str] = ()

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Sequence[str]], simulated: bool = False, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections, self.simulated = sections, simulated

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        chosen = value_of("--problem", args) or ctx.lookup_default("problem")
        if chosen is not None and not ctx.resilient_parsing:
            self._add_options(ctx, chosen)
        elif chosen in PROBLEMS.lines:  # the shell asks for completions: code of others is not run for that
            self._add_options(ctx, str(chosen))
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if chosen is None and not asks_for_help(args):
                _required(ctx, click.Option(["--problem"]), None)
            owners = _owners(error.option_name)
            if owners:
                name = PROBLEMS.find(str(chosen)).name
                raise click.UsageError(
                    f"{error.option_name} belongs to --problem {', '.join(owners)}, not to {name}.", ctx
                ) from None
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        noise = ctx.meta.get(NOISE_KEY)
        return [*(noise if param.name == "noise" and noise else param for param in params), *ctx.meta.get(KEY, ())]

    def _add_options(self, ctx: click.Context, chosen: str) -> None:
        (parameter,) = (param for param in self.params if param.name == "problem")
        kind = PROBLEMS.find(parameter.type.convert(chosen, parameter, ctx))
        taken = {flag for param in self.params for flag in param.opts if flag not in self.replaced}
        for option in kind.options:
            if option.flag in taken:
                raise click.UsageError(f"--problem {chosen}: {option.flag} is the name of another option. Rename it.", ctx)
        ctx.meta[CHOSEN] = kind.name
        ctx.meta[KEY] = [click_option(option, simulated=self.simulated) for option in kind.options]
        if not self.simulated:
            ctx.meta[NOISE_KEY] = _with_default(next(param for param in self.params if param.name == "noise"), kind)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; if no problem is chosen, a table of the problems instead of their options."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: record for param in options if (record := param.get_help_record(ctx)) is not None}
        own = [option.name for option in ctx.meta.get(KEY, ())]
        listed = {name for names in self.sections.values() for name in (*names, *own)}
        rest = [name for name in records if name not in listed]  # such as --help
        for number, (title, names) in enumerate(self.sections.items()):
            names = [*names, *(own if number == 0 else rest if number == len(self.sections) - 1 else ())]
            with formatter.section(title):
                formatter.write_dl([records[name] for name in names if name in records])
            if number == 0 and KEY not in ctx.meta:
                with formatter.section("Problems (--problem NAME --help shows the options of one)"):
                    formatter.write_dl(problem_names())


def _with_default(noise: click.Parameter, kind: type[Problem]) -> click.Parameter:
    """Return the option ``--noise`` with the default of a problem in its help."""
    shown = copy.copy(noise)
    assert isinstance(shown, click.Option)
    rounding, file = kind.accepts_noise == "rounding", kind.default_noise == "file"
    shown.show_default = "only rounding" if rounding else "file; 0 with --simulate" if file else "0"
    return shown


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """Return the value of an option in the arguments, before they are parsed; the last one counts."""
    found = None
    for argument, following in itertools.zip_longest(args, args[1:]):
        if argument == "--":
            break
        if argument == flag:
            found = following
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def asks_for_help(args: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in args)


def _owners(flag: str) -> list[str]:
    """Return the names of the library's problems that have an option. This loads all of them."""
    return [name for name in PROBLEMS.lines if any(option.flag == flag for option in PROBLEMS[name].options)]


def _finite(context: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, got {value}.")
    return value
