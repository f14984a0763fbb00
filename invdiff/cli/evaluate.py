"""``invdiff evaluate``: compute metrics of restored images against their references."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.io.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["evaluate"]

METRICS = ("psnr", "ssim", "lpips")
HEADERS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "lpips": "LPIPS"}


@dataclass
class Pairing:
    """Reference and restored files, paired by name.

    Attributes:
        pairs: ``(name, reference, restored)``, sorted by name.
        unpaired: Files in either folder without a counterpart.
        ambiguous: Files of each name that several files of one folder share.
    """

    pairs: list[tuple[str, Path, Path]] = field(default_factory=list)
    unpaired: list[Path] = field(default_factory=list)
    ambiguous: dict[str, list[Path]] = field(default_factory=dict)


def parse_metrics(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = list(dict.fromkeys(name.strip().lower() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise click.BadParameter(f"got {value!r}; expected a comma-separated choice of {', '.join(METRICS)}.")
    return names


@click.command()
@click.option(
    "--reference", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of clean images, or one image."
)
@click.option(
    "--restored", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of restored images, or one image."
)
@click.option(
    "--metrics", default=",".join(METRICS), callback=parse_metrics, show_default=True, help="Metrics, separated by commas."
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
    ctx: click.Context, reference: Path, restored: Path, metrics: list[str], json_file: Path | None, csv_file: Path | None
) -> None:
    """Compare restored images with their references: PSNR, SSIM and LPIPS of each pair, and their means.

    Files in two folders are paired by name; the extensions may differ (a.png and a.jpg). Alpha channels are ignored, and a gray
    image is repeated in all channels to compare it with a color image. Higher PSNR and SSIM and lower LPIPS are better. LPIPS
    needs the weights of AlexNet, which are never downloaded: if they are missing, LPIPS is omitted and a message says where to
    put them.

    The exit code is 1 if any pair could not be compared.

    \b
    Examples:
      invdiff evaluate --reference clean/ --restored out/
      invdiff evaluate --reference photo.png --restored out/mean.png --metrics psnr,ssim
      invdiff evaluate --reference clean/ --restored out/ --csv figures.csv
      invdiff evaluate --reference clean/ --restored out/ --json - | jq .mean
    """
    from tqdm import tqdm

    from invdiff.io.paths import attempt

    pairing = pair(reference, restored)
    failed = {name: f"several files share this name: {_names(files)}" for name, files in pairing.ambiguous.items()}
    if not pairing.pairs and not failed and not pairing.unpaired:
        raise click.ClickException(f"{reference} and {restored} hold no images, expected two folders of images or two images.")
    if not pairing.pairs and not failed:
        raise click.ClickException(
            f"no image of {restored} has the same name as an image of {reference}: none of the {len(pairing.unpaired)} images "
            f"found has a counterpart ({_names(pairing.unpaired)})."
        )
    if pairing.unpaired:
        click.echo(f"{len(pairing.unpaired)} without a counterpart, skipped: {printable(_names(pairing.unpaired))}", err=True)
    check_outputs(json_file, csv_file, [reference, restored, *(path for pair in pairing.pairs for path in pair[1:])])
    metrics = available(metrics)
    rows: list[dict[str, Any]] = []
    for name, clean, image in tqdm(pairing.pairs, unit="image", disable=None, leave=False):
        try:
            rows.append({"name": name} | compare(clean, image, metrics))
        except (ValueError, OSError) as error:
            failed[name] = " ".join(str(error).split())
    for name, message in failed.items():
        click.echo(printable(f"{name}: {message}"), err=True)
    means = {metric: math.fsum(row[metric] for row in rows) / len(rows) for metric in metrics} if rows else {}
    if json_file != Path("-") and rows:
        click.echo(printable(table(rows, means, metrics), lines=True))  # first: it is there even if a file cannot be written
    report = {
        "reference": str(reference),
        "restored": str(restored),
        "images": rows,
        "mean": means,
        "unpaired": [str(path) for path in pairing.unpaired],
        "failed": failed,
    }
    unwritten = [None if csv_file is None else attempt(lambda path: write_csv(path, rows, metrics), csv_file)]
    if json_file is not None and json_file == Path("-"):
        write_json(json_file, report)
    elif json_file is not None:
        unwritten.append(attempt(lambda path: write_json(path, report), json_file))
    if any(unwritten):
        raise OSError(" ".join(filter(None, unwritten)))
    if failed:
        click.echo(f"{len(failed)} of {len(failed) + len(rows)} pairs could not be compared.", err=True)
        ctx.exit(1)


def pair(reference: Path, restored: Path) -> Pairing:
    """Pair two files, or the images in two folders by their names without extensions."""
    from invdiff.io.images import list_images

    if reference.is_dir() != restored.is_dir():
        raise click.UsageError("--reference and --restored must be two folders or two files, not one of each.")
    if not reference.is_dir():
        return Pairing(pairs=[(restored.name, reference, restored)])
    sides: list[dict[str, list[Path]]] = [{}, {}]
    for side, folder in zip(sides, (reference, restored), strict=True):
        for path in list_images(folder):
            side.setdefault(path.stem, []).append(path)
    pairing = Pairing()
    for name in sorted(sides[0] | sides[1]):
        left, right = (side.get(name, []) for side in sides)
        if not left or not right:
            pairing.unpaired += left + right
        elif len(left) == len(right) == 1:
            pairing.pairs.append((name, left[0], right[0]))
        else:
            pairing.ambiguous[name] = left + right
    return pairing


def check_outputs(json_file: Path | None, csv_file: Path | None, inputs: list[Path]) -> None:
    """Raise an error, before the work, if --json or --csv would replace a file that `invdiff evaluate` did not write."""
    from invdiff.io.paths import check_output

    written = {"--json": json_file if json_file != Path("-") else None, "--csv": csv_file}
    for option, path in written.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
        others = [other for name, other in written.items() if name != option and other is not None]
        ours, what = (is_report, "a report") if option == "--json" else (is_table, "a table")
        check_output(path, option=option, inputs=inputs, others=others, ours=ours, what=f"{what} of `invdiff evaluate`")


def is_report(path: Path) -> bool:
    """Return whether a file was written by :func:`write_json`."""
    try:
        report = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"reference", "restored", "images", "mean"} <= report.keys()


def is_table(path: Path) -> bool:
    """Return whether a file was written by :func:`write_csv`."""
    with path.open("rb") as file:
        first, *rest = file.readline(1000).decode(errors="replace").strip().split(",")
    return first == "name" and set(rest) <= set(METRICS)


def available(metrics: list[str]) -> list[str]:
    """Return the metrics that can be computed, and report on stderr what is missing for LPIPS."""
    if "lpips" not in metrics:
        return metrics
    from invdiff.metrics import WeightsMissingError, find_lpips_weights

    try:
        find_lpips_weights()
    except WeightsMissingError as error:
        if metrics == ["lpips"]:
            raise
        click.echo(f"{error} (LPIPS is omitted)", err=True)
        return [name for name in metrics if name != "lpips"]
    return metrics


def compare(reference: Path, restored: Path, metrics: list[str]) -> dict[str, float]:
    """Return the metrics of one pair of files."""
    from invdiff import metrics as functions

    x, clean = load(restored), load(reference)
    if x.shape[2:] != clean.shape[2:]:
        sizes = " and ".join(f"{image.shape[3]} x {image.shape[2]}" for image in (clean, x))
        raise ValueError(f"expected two images of the same size, got {sizes} pixels ({reference}, {restored}).")
    channels = max(x.shape[1], clean.shape[1])
    if {x.shape[1], clean.shape[1]} - {1, channels}:
        raise ValueError(f"cannot compare {clean.shape[1]} with {x.shape[1]} channels ({reference}, {restored}).")
    x, clean = (image.expand(-1, channels, -1, -1) for image in (x, clean))
    return {name: float(getattr(functions, name)(x, clean)) for name in metrics}


def load(path: Path) -> Tensor:
    import torch

    from invdiff.io.images import read_image

    return torch.from_numpy(read_image(path).pixels)[None]


def table(rows: list[dict[str, Any]], means: dict[str, float], metrics: list[str]) -> str:
    """Return an aligned table with the means in its last line."""
    from tabulate import SEPARATING_LINE, tabulate

    lines: list[Any] = [[row["name"], *(row[metric] for metric in metrics)] for row in rows]
    if len(rows) > 1:
        lines += [SEPARATING_LINE, [f"mean of {len(rows)}", *means.values()]]
    digits = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f"}
    return tabulate(
        lines,
        headers=["image", *(HEADERS[metric] for metric in metrics)],
        floatfmt=("", *(digits[metric] for metric in metrics)),
        disable_numparse=[0],
    )


def write_json(path: Path, report: dict[str, Any]) -> None:
    from invdiff.io.images import atomic_write

    text = json.dumps(_without_infinities(report), indent=2, allow_nan=False)
    if path == Path("-"):
        click.echo(text)
        return
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]], metrics: list[str]) -> None:
    from invdiff.io.images import atomic_write

    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", *metrics])
        writer.writeheader()
        writer.writerows({**row, "name": as_text(row["name"])} for row in rows)


def as_text(name: str) -> str:
    """Return the name of a file as text; bytes that are not UTF-8 become ``\\xff``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _without_infinities(value: Any) -> Any:
    # JSON has no infinity. Unlike null, the string "inf" preserves the value, and float("inf") reads it back.
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return "inf" if value == math.inf else value


def _names(paths: list[Path], shown: int = 10) -> str:
    rest = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(str(path) for path in paths[:shown]) + rest
