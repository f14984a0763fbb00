"""``invdiff formats``: the formats of files that are read and written."""

from __future__ import annotations

import json
from importlib.util import find_spec

import click

__all__ = ["formats"]

IMAGES = (  # beside those of invdiff.formats
    ("PNG, JPEG, WebP, BMP", "8 and 16 bits, gray and color", "PNG, JPEG, WebP", ""),
    ("TIFF", "8 to 16 bits and floats, any number of channels", "8 and 16 bits", ""),
    ("HEIC, AVIF", "photographs, 8 bits", "", "heif"),
    ("NumPy .npy, .npz", "pictures; arrays of a measurement", "posterior.npz", ""),
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def formats(as_json: bool) -> None:
    """List the formats of files that are read and written, and what has to be installed for them.

    Files are told by their content. Formats with units and a header (all below the line) are read in their units, mapped to the
    range of the prior by a window (--window), and results are written in the same format, with the header of INPUT.

    \b
    Examples:
      invdiff formats
      invdiff formats --json
    """
    from tabulate import tabulate

    from invdiff.formats import FORMATS

    rows = [
        (name, reads, writes, "" if not extra or find_spec("pillow_heif") else how(extra))
        for name, reads, writes, extra in IMAGES
    ]
    units = [(each.name, each.reads, each.writes, how(each.extra) if each.missing else "") for each in FORMATS]
    if as_json:
        names = ("format", "reads", "writes", "missing")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in (*rows, *units)], indent=2))
        return
    headers = ("format", "reads", "writes", "to install")
    click.echo(tabulate([*rows, ("with units:", "", "", ""), *units], headers, maxcolwidths=[None, 44, 34, None]))


def how(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "invdiff[{extra}]"'
