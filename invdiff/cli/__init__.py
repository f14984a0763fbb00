"""The command ``invdiff``: its subcommands, and the conversion of errors to exit codes.

Subcommands are imported when they run, and import torch only to compute, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import warnings
from typing import Any

import click

from invdiff.io.printable import printable

__all__ = ["COMMANDS", "main"]

# name: (module, one line of help). The module has a click command of that name.
COMMANDS = {
    "solve": ("invdiff.cli.solve", "Sample the posterior of a measured image."),
    "train": ("invdiff.cli.train", "Train a prior on your own images."),
    "calibrate": ("invdiff.cli.calibrate", "Test the calibration of samples on your own clean images."),
    "evaluate": ("invdiff.cli.evaluate", "Compare restored images with their references."),
    "problems": ("invdiff.cli.problems", "List the measurement models."),
    "methods": ("invdiff.cli.methods", "List the sampling methods."),
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

    def invoke(self, ctx: click.Context) -> Any:
        # Exit codes: 0, 1 failure, 2 usage (click's own), 130 interrupted.
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="from_network: ")  # Said in a note, too.
                warnings.showwarning = lambda message, *_: click.echo(f"Warning: {printable(str(message))}", err=True)
                return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except Exception as error:
            from invdiff.problems import OptionError

            if os.environ.get("INVDIFF_DEBUG") == "1" or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise  # click exits quietly if the reader of a pipe has closed it
            kind = click.UsageError if isinstance(error, OptionError) else click.ClickException
            raise kind(printable(_one_line(error))) from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="invdiff")
def main() -> None:
    """Sample the posterior of inverse problems with diffusion priors: inpainting, deblurring, super-resolution and more.

    \b
    Examples:
      invdiff solve --problem sr --factor 4 --noise 0.01      degrade and restore a bundled photograph
      invdiff solve photo.png --problem inpaint --mask m.png  fill the white pixels of the mask
      invdiff train photos/ --out mine.safetensors            train a prior on your own images
      invdiff evaluate --reference clean/ --restored out/     PSNR, SSIM and LPIPS of two folders
      invdiff COMMAND --help                                  options and examples of a command

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted. INVDIFF_DEBUG=1 shows the traceback of an error.
    """


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    # Messages of invdiff and the file system are written for users; for other errors, name the type.
    if text and (isinstance(error, (ValueError, TypeError, OSError)) or type(error).__module__.startswith("invdiff")):
        return text
    return f"{type(error).__name__}: {text} (INVDIFF_DEBUG=1 shows the traceback)"
