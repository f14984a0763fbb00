"""``invdiff report``: one HTML page that shows results, for a browser without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invdiff.io.printable import printable

if TYPE_CHECKING:
    from invdiff.report.contents import Item

__all__ = ["report"]

NAME = "report.html"
EPILOG = """\b
Examples:
  invdiff report out/                                 writes out/report.html
  invdiff report album/ -o album.html                 a folder of results: one page for all pictures
  invdiff report album/ --evaluation figures.json     with the figures of invdiff evaluate --json
  invdiff report out/ --inputs photos/                where the INPUTs are now, if they were moved
  invdiff report album/ --max-size 5                  small enough for any mail
  invdiff report out/ --side 1600 --max-size 40       large pictures
"""
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True})
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=FILE, help=f"The page to write. Default: {NAME} in OUT.")
@click.option(
    "--max-size",
    type=click.FloatRange(min=0.1, max=2000),
    default=10.0,
    metavar="MB",
    help="Size of the page in megabytes: pictures are reduced until it fits, but not below 96 pixels.",
)
@click.option(
    "--side",
    type=click.IntRange(min=32, max=8192),
    default=800,
    metavar="PX",
    help="Longest side of the pictures in the page, in pixels.",
)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path, exists=True),
    help="Folder of the INPUTs, or INPUT, if they were moved: results do not hold them. They are told by their digests.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of `invdiff evaluate --json`, whose figures are shown as a table. Repeatable.",
)
@click.pass_context
def report(
    ctx: click.Context,
    folder: Path,
    output: Path | None,
    max_size: float,
    side: int,
    inputs: Path | None,
    evaluations: tuple[Path, ...],
) -> None:
    """Write one HTML page that shows the results in OUT, the folder of an `invdiff solve`, or a folder of such folders.

    The page compares measurement and result side by side, flips through the samples, and shows their mean, the map of their
    standard deviation, the width of intervals, residuals, and the directions in which samples differ most; a click on the
    picture shows how much the mean of a region varies. Settings and figures are in it too. It is a single file without links
    to a network, to be opened in any browser or sent by mail. File names are part of it; folders are not.

    The same results give the same bytes. An earlier report is replaced, any other file is not.

    The exit code is 1 if some results could not be read; they are named, and the page shows the others.
    """
    # Imported here, so that `invdiff report --help` answers without NumPy.
    from tqdm import tqdm

    from invdiff.io.images import atomic_write
    from invdiff.io.paths import attempt, check_output
    from invdiff.report.contents import find
    from invdiff.report.evaluations import read_evaluation
    from invdiff.report.page import is_report, make_report

    contents = find(folder)
    output = folder / NAME if output is None else output
    if output.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"{output}: the name must end in .html.", param_hint="--output")
    check_output(output, option="-o", inputs=evaluations, ours=is_report, what="a page of `invdiff report`")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}. Make it, or choose another name with -o.")
    figures = [evaluation for path in evaluations for evaluation in read_evaluation(path)]

    def progress(items: Sequence[Item]) -> Iterable[Item]:
        return tqdm(items, unit="picture", disable=None, leave=False) if len(items) > 1 else items

    page = make_report(
        contents,
        folder.resolve().name,
        side=side,
        largest=max_size,
        inputs=inputs,
        evaluations=figures,
        progress=progress,
    )

    def write(path: Path) -> None:
        with atomic_write(path) as part:
            part.write_bytes(page.text.encode())

    failed = attempt(write, output)
    if failed:
        raise OSError(failed)
    shown = len(contents.items) + len(contents.damaged) - len(page.damaged)
    size = page.size / 1e6
    click.echo(
        f"{printable(str(output))}: {shown} picture{'s' if shown != 1 else ''} of up to {page.side} pixels, {size:.1f} MB"
    )
    if size > max_size:
        click.echo(
            f"The page is larger than {max_size:g} MB even with pictures of {page.side} pixels: report a folder in "
            f"{printable(str(folder))} by itself, or give a larger --max-size.",
            err=True,
        )
    if contents.failed:
        click.echo(f"{len(contents.failed)} without a result, named in the page.", err=True)
    for name, message in page.damaged.items():
        click.echo(printable(f"{name}: {message}"), err=True)
    if page.damaged:
        click.echo(f"{len(page.damaged)} of {len(page.damaged) + shown} results could not be read and are left out.", err=True)
        ctx.exit(1)
