"""``invdiff evaluate``: compare restored images and posterior samples with references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invdiff.evaluation.columns import METRICS, listing
from invdiff.io.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

    from invdiff.evaluation.pairs import Pair, Pairing
    from invdiff.evaluation.run import Evaluation

__all__ = ["evaluate"]

STDOUT = Path("-")
DEFAULT = ("psnr", "ssim", "lpips", "posterior")


def parse_metrics(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = list(dict.fromkeys(name.strip().lower() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise click.BadParameter(f"got {value!r}; expected a comma-separated choice of {', '.join(METRICS)}.")
    return names


@click.command(context_settings={"max_content_width": 110})
@click.option(
    "--reference",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder of clean images, searched with the folders in it, or one image.",
)
@click.option(
    "--restored",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder of restored images or of results of `invdiff solve`, one result folder, or one image.",
)
@click.option(
    "--compare",
    "others",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Another restoration of the same images, to set beside --restored; repeat for more.",
)
@click.option(
    "--measurements",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of `invdiff simulate` with the measurements: chi-square is computed from them. Default: as recorded.",
)
@click.option(
    "--metrics", default=",".join(DEFAULT), callback=parse_metrics, show_default=True, help="Metrics, separated by commas."
)
@click.option(
    "--estimate",
    type=click.Choice(["mean", "best", "sample-1"]),
    default="mean",
    show_default=True,
    help="Picture of a result folder that is compared with the reference.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help='Write the results as JSON; - prints only JSON, to stdout. Infinite values become the string "inf".',
)
@click.option(
    "--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as CSV, one line per image."
)
@click.pass_context
def evaluate(
    ctx: click.Context,
    reference: Path,
    restored: Path,
    others: tuple[Path, ...],
    measurements: Path | None,
    metrics: list[str],
    estimate: str,
    json_file: Path | None,
    csv_file: Path | None,
) -> None:
    """Compare restored images with their references, and posterior samples with the truth.

    Files in two folders are paired by their path without extension (a.png and a.jpg), else by a name that only one file on
    each side has. A result folder of `invdiff solve` counts as one restored image. Alpha channels are ignored, and a gray image
    is repeated in all channels to compare it with a color image.

    \b
    psnr, ssim, ms-ssim    of each pair; higher is better
    lpips, dists           of each pair; lower is better
    fid, kid               of all images as a set; lower is better
    posterior              of results with two or more samples, on the 0..1 scale: CRPS and energy score (lower is
                           better), coverage of 50 % and 90 % intervals (0.5 and 0.9 if the samples are right),
                           spread over error (1), diversity, PSNR of single samples and of their mean, and
                           chi-square: the squared misfit over its expected value (1), as recorded, or computed from
                           --measurements, then of plain images too

    LPIPS, DISTS, FID and KID need weights, which are never downloaded: if they are missing, the metric is omitted and a message
    says where to put them. Means have 95 % bootstrap intervals over the images. The metrics are those of --estimate, never of
    the sample that is closest to the truth.

    With --compare, the figures are those of the images that all restorations have, with the differences to --restored.

    The exit code is 1 if any pair could not be compared, or not in everything.

    \b
    Examples:
      invdiff evaluate --reference clean/ --restored out/
      invdiff evaluate --reference photo.png --restored out/mean.png --metrics psnr,ssim
      invdiff evaluate --reference clean/ --restored out/ --csv figures.csv
      invdiff evaluate --reference clean/ --restored out/ --compare other/ --metrics psnr,lpips
      invdiff evaluate --reference clean/ --restored out/ --json - | jq .mean
      invdiff evaluate --reference clean/ --restored out/ --measurements simulated/
    """
    from tqdm import tqdm

    from invdiff.evaluation.bootstrap import summarize
    from invdiff.evaluation.comparison import columns_of, compare
    from invdiff.evaluation.files import as_json, comparison_record, record, write_csv, write_json
    from invdiff.evaluation.run import available, evaluate_pairs, set_metrics
    from invdiff.evaluation.tables import comparison_table, of_set_line, tables
    from invdiff.io.paths import attempt

    sources = [restored, *others]
    pairings = find_pairs(reference, sources)
    check_outputs(json_file, csv_file, [reference, *sources, *inputs_of(pairings)])
    metrics, messages = available(metrics)
    say(messages)

    def track(pairs: list[Pair]) -> Iterable[Pair]:
        return tqdm(pairs, unit="image", disable=None, leave=False)

    measured = None
    if measurements is not None:
        from invdiff.evaluation.misfit import Measurements  # with the engine

        measured = Measurements(measurements)
    known: dict[Path, Tensor] = {}  # features of the references, computed once
    evaluations = [
        evaluate_pairs(source, pairing, metrics, estimate=estimate, references=known, track=track, measurements=measured)
        for source, pairing in zip(sources, pairings, strict=True)
    ]
    for evaluation in evaluations:
        say(problems_of(evaluation, alone=not others))
    records, csv_rows, columns = [], [], columns_of([row for one in evaluations for row in one.rows.values()], metrics)
    for evaluation in evaluations:
        rows = list(evaluation.rows.values())
        of_set, notes = set_metrics(metrics, evaluation.features, known, evaluation.rows)
        summary = summarize(rows, columns)
        records.append(record(evaluation, summary, of_set))
        csv_rows += [{**row, "restored": str(evaluation.restored)} for row in rows]
        if evaluation is evaluations[0]:
            say(notes)
        if json_file != STDOUT and rows and not others:  # first: it is there even if a file cannot be written
            click.echo(printable(tables(rows, columns, summary), lines=True))
            if of_set:
                click.echo(of_set_line(of_set, len(rows)))
    report = {"reference": str(reference), "estimate": estimate, **records[0]}
    if others:
        comparison = compare(evaluations, metrics, known)
        report |= {"compared": records[1:], "comparison": comparison_record(comparison)}
        if comparison.left_out:
            say([f"{len(comparison.left_out):,} not in all restorations, left out: {listing(comparison.left_out)}"])
        if json_file != STDOUT and comparison.images:
            click.echo(printable(comparison_table(comparison, columns), lines=True))
    fields = ["name", *(["restored"] if others else []), *columns]
    unwritten = [None if csv_file is None else attempt(lambda path: write_csv(path, csv_rows, fields), csv_file)]
    if json_file == STDOUT:
        click.echo(as_json(report))
    elif json_file is not None:
        unwritten.append(attempt(lambda path: write_json(path, report), json_file))
    if any(unwritten):
        raise OSError(" ".join(filter(None, unwritten)))
    if not all(complete(evaluation) for evaluation in evaluations):
        ctx.exit(1)


def find_pairs(reference: Path, sources: list[Path]) -> list[Pairing]:
    """Pair every restoration with the references; raise an error if one has no pair, and say what has none."""
    from invdiff.evaluation.pairs import pair

    pairings = []
    for source in sources:
        try:
            pairing = pair(reference, source, without=tuple(other for other in sources if other != source))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        unpaired = pairing.unpaired
        if not pairing.pairs and not pairing.ambiguous and not unpaired:
            raise click.ClickException(
                f"{reference} and {source} hold no images, expected two folders of images or two images."
            )
        if not pairing.pairs and not pairing.ambiguous:
            raise click.ClickException(
                f"no image of {source} has the same name as an image of {reference}: none of the {len(unpaired)} images found "
                f"has a counterpart ({listing(unpaired)})."
            )
        if unpaired:
            where = f"{source}: " if len(sources) > 1 else ""
            say([f"{where}{len(unpaired)} without a counterpart, skipped: {listing(unpaired)}"])
        pairings.append(pairing)
    return pairings


def inputs_of(pairings: list[Pairing]) -> Iterator[Path]:
    """Yield every file that is read."""
    for pairing in pairings:
        for pair in pairing.pairs:
            yield pair.reference
            if not pair.restored.is_result:
                yield pair.restored.path
            elif pair.restored.path.is_dir():
                yield from pair.restored.path.iterdir()


def check_outputs(json_file: Path | None, csv_file: Path | None, inputs: Iterable[Path]) -> None:
    """Raise an error, before the work, if --json or --csv would replace a file that `invdiff evaluate` did not write."""
    from invdiff.evaluation.files import is_report, is_table
    from invdiff.io.paths import check_output

    written, inputs = {"--json": json_file if json_file != STDOUT else None, "--csv": csv_file}, list(inputs)
    for option, path in written.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
        others = [other for name, other in written.items() if name != option and other is not None]
        ours, what = (is_report, "a report") if option == "--json" else (is_table, "a table")
        check_output(path, option=option, inputs=inputs, others=others, ours=ours, what=f"{what} of `invdiff evaluate`")


def problems_of(evaluation: Evaluation, *, alone: bool) -> list[str]:
    """Return what could not be computed, and why, with the names that share a reason in one line."""
    reasons: dict[str, list[str]] = {}
    for name, message in evaluation.failed.items():
        reasons.setdefault(message, []).append(name)
    for name, messages in evaluation.incomplete.items():
        for message in dict.fromkeys(messages.values()):
            reasons.setdefault(message, []).append(name)
    where = "" if alone else f"{evaluation.restored}: "
    lines = [f"{where}{listing(names)}: {message}" for message, names in reasons.items()]
    failed, partly = len(evaluation.failed), len(evaluation.incomplete)
    if failed:
        lines.append(f"{where}{failed} of {failed + len(evaluation.rows)} pairs could not be compared.")
    if partly:
        lines.append(f"{where}{partly} of {failed + len(evaluation.rows)} pairs could be compared in part only.")
    return lines


def complete(evaluation: Evaluation) -> bool:
    """Return whether everything could be computed of all pairs."""
    return not evaluation.failed and not evaluation.incomplete


def say(lines: Iterable[str]) -> None:
    """Print messages on standard error."""
    for line in lines:
        click.echo(printable(line), err=True)
