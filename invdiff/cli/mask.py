"""``invdiff mask``: propose the mask of scratches, cracks, dust, date stamps and thin overlays."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from invdiff.cli.messages import is_quiet, log_settings, message_options, note, shows_bars
from invdiff.cli.prior_options import load, prior_options
from invdiff.io.printable import printable

__all__ = ["FIND", "mask"]

FIND = ("all", "scratches", "dust", "stamp")  # a test compares them with invdiff.damage.KINDS
EPILOG = """\b
Examples:
  invdiff mask photo.jpg                          writes photo-mask.png and photo-mask-overlay.png
  invdiff mask photo.jpg -o mask.png --sensitivity 0.8
  invdiff mask photo.jpg --find stamp             the date, and no scratches
  invdiff mask scan.tif --thickness 20            a large scan, on which scratches are up to 20 pixels wide
  invdiff solve photo.jpg --problem inpaint --mask photo-mask.png
"""
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True})
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=FILE, help="The mask to write. Default: NAME-mask.png in the current folder.")
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.3,
    help="Mark what is damage with a probability above 1 minus this: more finds fainter damage, and marks more of the scene.",
)
@click.option("--find", type=click.Choice(FIND), default="all", help="Kind of damage; scratches: and cracks; stamp: and text.")
@click.option(
    "--thickness", type=click.FloatRange(min=1), default=6, help="Width of the widest damage in pixels; more takes longer."
)
@prior_options
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto selects a GPU if there is one.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier mask and its overlay.")
@message_options
def mask(source: Path, output: Path | None, overwrite: bool, **settings: Any) -> None:
    """Propose which pixels of the picture INPUT are scratches, cracks, dust, a date stamp or a thin overlay.

    Writes the mask, white where pixels are to be filled, and an overlay, the picture with these pixels in red, to check it.
    Correct the mask in any paint program: it is a proposal. Wires, railings and other thin parts of a scene may be marked, and
    faint damage in fine texture is missed. Then fill the pixels with `invdiff solve`.

    The exit code is 1, and nothing is written, if nothing is found.
    """
    # Imported here, so that `invdiff mask --help` answers without torch.
    from invdiff.damage import KINDS
    from invdiff.io.paths import attempt
    from invdiff.restoration.device import pick_device
    from invdiff.restoration.files import prior_files
    from invdiff.restoration.proposal import propose_mask

    log_settings("mask", {"input": source, "output": output, **settings})
    output = Path(f"{source.stem.lstrip('.') or 'image'}-mask.png") if output is None else output
    overlay = output.with_name(f"{output.stem}-overlay.png")
    _check(output, overlay, [source, *prior_files(settings["prior"])], overwrite=overwrite)
    found = propose_mask(
        source,
        prior=load(settings, pick_device(settings["device"])),
        sensitivity=settings["sensitivity"],
        find=KINDS if settings["find"] == "all" else settings["find"],
        thickness=settings["thickness"],
        progress=shows_bars(),
    )
    for text in found.notes:
        note(text)
    if not found.mask.any():
        raise click.ClickException(
            f"{source}: no damage is found, and nothing is written. Try a higher --sensitivity (now "
            f"{settings['sensitivity']:g}), a larger --thickness, or draw the mask by hand, white on black."
        )
    failed = attempt(lambda path: found.save(path), output) or attempt(lambda path: found.save_overlay(path), overlay)
    if failed:
        raise OSError(failed)
    parts = ", ".join(f"{kind} {share:.2%}" for kind, share in found.damage.shares.items() if share)
    command = shlex.join(["invdiff", "solve", str(source), "--problem", "inpaint", "--mask", str(output)])
    lines = {
        "marked": f"{found.damage.share:.2%} of the pixels ({parts})",
        "mask": str(output),
        "check": f"{overlay}: correct the mask by hand where it is wrong, white is filled",
        "then": command,
    }
    if not is_quiet():
        click.echo("\n".join(f"{name:<8}{printable(line)}" for name, line in lines.items()))


def _check(output: Path, overlay: Path, read: list[Path], *, overwrite: bool) -> None:
    """Raise an error, before the work, if a file is in the way or cannot be written."""
    from invdiff.io.figures import is_figure
    from invdiff.io.images import read_mask
    from invdiff.io.paths import check_output

    def is_mask(path: Path) -> bool:
        try:
            read_mask(path)
        except (ValueError, OSError):
            return False
        return True

    if output.suffix.lower() != ".png":
        raise click.BadParameter(f"{output}: the name must end in .png.", param_hint="--output")
    for path, ours, what in ((output, is_mask, "a mask"), (overlay, is_figure, "an overlay of invdiff mask")):
        check_output(path, option="-o", inputs=read, others=[overlay] if path is output else [], ours=ours, what=what)
        if path.exists() and not overwrite:
            raise click.UsageError(f"{path} exists. Choose another name with -o, or give --overwrite.")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}. Make it, or choose another name with -o.")
