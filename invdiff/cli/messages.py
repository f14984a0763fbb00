"""What commands say on stderr while they work: notes, debug notes and bars, also to a log file; and how much of it."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from invdiff.io.printable import printable

__all__ = ["MESSAGE_OPTIONS", "debug", "is_quiet", "log", "log_error", "log_settings", "message_options", "note", "shows_bars"]

MESSAGE_OPTIONS = ("log_file", "quiet", "verbose")
KEY = "invdiff.messages"  # key in the metadata of a click context
LOGGER = logging.getLogger("invdiff.cli")
LOGGER.propagate = False  # messages reach the terminal by themselves
LOGGER.addHandler(logging.NullHandler())
LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")  # how a log begins
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Loudness:
    """How much is said.

    Attributes:
        quiet: Whether only errors are printed.
        verbose: Whether debug notes are printed.
    """

    quiet: bool = False
    verbose: bool = False


def message_options(command: Command) -> Command:
    """Add ``--log-file``, ``--quiet`` and ``--verbose`` to a command."""
    options = (
        click.option(
            "--log-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            callback=_open_log,
            expose_value=False,
            is_eager=True,
            help="Append notes, settings, times and errors with their tracebacks to this file.",
        ),
        click.option("-q", "--quiet", is_flag=True, callback=_set, expose_value=False, help="Print errors only."),
        click.option(
            "-v", "--verbose", is_flag=True, callback=_set, expose_value=False, help="Also print device, windows and times."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def note(text: str, *, level: int = logging.INFO) -> None:
    """Print a note on stderr, above the progress bars, and log it."""
    LOGGER.log(level, "%s", printable(text))
    if not is_quiet():
        _echo(text)


def log(text: str) -> None:
    """Log a text that is printed elsewhere."""
    LOGGER.info("%s", printable(text))


def debug(text: str) -> None:
    """Print a note with ``--verbose``, and log it."""
    LOGGER.debug("%s", printable(text))
    loudness = _loudness()
    if loudness.verbose and not loudness.quiet:
        _echo(text)


def log_settings(command: str, settings: dict[str, Any]) -> None:
    """Log the settings of a command."""
    given = {name: value for name, value in settings.items() if value not in (None, False, ())}
    LOGGER.info("%s", printable(f"{command}: {', '.join(f'{name}={value}' for name, value in given.items())}"))


def log_error(error: BaseException) -> None:
    """Log an error, with its traceback unless it is one of usage."""
    traced = "" if isinstance(error, click.UsageError) else "".join(traceback.format_exception(error))
    LOGGER.error("%s", printable("\n".join(filter(None, (_message(error), traced.rstrip()))), lines=True))


def is_quiet() -> bool:
    """Return whether only errors are printed."""
    return _loudness().quiet


def shows_bars() -> bool:
    """Return whether progress bars are shown: on a terminal, unless only errors are printed."""
    return sys.stderr.isatty() and not is_quiet()


def _echo(text: str) -> None:
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)
    else:
        click.echo(printable(text), err=True)


def _message(error: BaseException) -> str:
    return error.format_message() if isinstance(error, click.ClickException) else f"{type(error).__name__}: {error}"


def _loudness() -> Loudness:
    context = click.get_current_context(silent=True)
    found = Loudness() if context is None else context.meta.setdefault(KEY, Loudness())
    assert isinstance(found, Loudness)
    return found


def _set(context: click.Context, param: click.Parameter, value: bool) -> None:
    setattr(context.meta.setdefault(KEY, Loudness()), str(param.name), value)


class _File(logging.FileHandler):
    """A log file; if it can no longer be written, this is said once, and the command goes on."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in logging
        if not self.failed:
            click.echo(printable(f"{self.baseFilename}: the log cannot be written"), err=True)
        self.failed = True


def _open_log(context: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    from invdiff.io.paths import check_output

    if not path.parent.is_dir():
        raise FileNotFoundError(f"--log-file {path}: there is no folder {path.parent}.")
    check_output(path, option="--log-file", ours=_is_log, what="a log of invdiff")
    handler = _File(path, mode="a", encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.addHandler(handler)

    def close() -> None:
        LOGGER.removeHandler(handler)
        handler.close()

    context.find_root().call_on_close(close)  # after errors have been logged


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(64)
    return not begin or LINE.match(begin) is not None
