"""The command ``invdiff``: its subcommands, and the conversion of errors to exit codes.

Subcommands are imported when they run, and import torch only to compute, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from invdiff.cli.messages import log_error, note
from invdiff.io.errors import one_line
from invdiff.io.printable import printable
from invdiff.io.signals import Stopped, raise_when_stopped

__all__ = ["COMMANDS", "main"]

# name: (module, one line of help). The module has a click command of that name.
COMMANDS = {
    "solve": ("invdiff.cli.solve", "Sample the posterior of a measured image."),
    "submit": ("invdiff.cli.submit", "Restore a folder by an array of Slurm jobs."),
    "simulate": ("invdiff.cli.simulate", "Measure clean images, to solve and to compare."),
    "mask": ("invdiff.cli.mask", "Propose the mask of scratches, dust and date stamps."),
    "train": ("invdiff.cli.train", "Train a prior on your own images."),
    "calibrate": ("invdiff.cli.calibrate", "Test the calibration of samples on your own clean images."),
    "evaluate": ("invdiff.cli.evaluate", "Compare restored images with their references."),
    "report": ("invdiff.cli.report", "Show results in one HTML page."),
    "problems": ("invdiff.cli.problems", "List the measurement models."),
    "methods": ("invdiff.cli.methods", "List the sampling methods."),
    "formats": ("invdiff.cli.formats", "List the formats of files that are read and written."),
    "priors": ("invdiff.cli.priors", "List the diffusion priors; inspect and convert checkpoints."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, *args: Any, **options: Any) -> Any:
        open_standard_streams()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        # Exit codes: 0, 1 failure, 2 usage (click's own), 128 and the number of the signal: 130 interrupted, 143 terminated.
        try:
            with raise_when_stopped(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="from_network: ")  # Said in a note, too.
                warnings.showwarning = lambda message, *_: note(f"Warning: {message}", level=logging.WARNING)
                return super().invoke(ctx)
        except click.ClickException as error:
            log_error(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            error.message = printable(error.message, lines=isinstance(error, click.UsageError))  # type: ignore[misc]
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            stopped = error if isinstance(error, Stopped) else Stopped()
            log_error(stopped)
            with contextlib.suppress(OSError):  # SIGHUP means that the terminal is gone
                click.echo(stopped, err=True)
            ctx.exit(128 + stopped.number)
        except Exception as error:
            from invdiff.problems import OptionError

            log_error(error)
            if os.environ.get("INVDIFF_DEBUG") == "1" or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise  # click exits quietly if the reader of a pipe has closed it
            kind = click.UsageError if isinstance(error, OptionError) else click.ClickException
            raise kind(printable(one_line(error))) from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="invdiff")
def main() -> None:
    """Sample the posterior of inverse problems with diffusion priors: inpainting, deblurring, super-resolution and more.

    \b
    Examples:
      invdiff solve --problem sr --factor 4 --noise 0.01      degrade and restore a bundled photograph
      invdiff solve photo.png --problem inpaint --mask m.png  fill the white pixels of the mask
      invdiff mask photo.png                                  propose the mask of scratches, dust and date stamps
      invdiff train photos/ --out mine.safetensors            train a prior on your own images
      invdiff evaluate --reference clean/ --restored out/     PSNR, SSIM and LPIPS of two folders
      invdiff report out/                                     look at results in a browser
      invdiff COMMAND --help                                  options and examples of a command

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted, 143 terminated. INVDIFF_DEBUG=1 shows the traceback of an
    error.
    """


def open_standard_streams() -> None:
    """Open what the caller has closed (``2>&-``), and let names that are not text be printed.

    Otherwise the next file to be opened would take the place of a closed stream, and receive what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # As this fills the lowest free descriptor, it becomes the stream of the process as well.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
