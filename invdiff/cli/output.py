"""What a run leaves behind: a folder of pictures, all of one run or none."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from invdiff.cli.calibration_file import Spread
from invdiff.cli.record import to_json
from invdiff.cli.task import Task
from invdiff.io.figures import comparison_panel, std_map
from invdiff.io.images import write_image
from invdiff.posterior import Posterior
from invdiff.problems import ArrayProblem, Dejpeg

__all__ = ["output_folder", "write_results"]

RECORD = "run.json"
IMAGES = [f"{name}.{ending}" for name in ("sample-*", "mean", "low", "high", "measurement") for ending in ("png", "tif")]
RESULTS = (*IMAGES, "std.png", "comparison.png", "measurement.npz", "posterior.npz", RECORD)
TILES = 3  # samples shown in the comparison


@contextlib.contextmanager
def output_folder(wanted: Path | None, name: str, *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary folder to write into, and the folder its files move to once all of them are written.

    A new folder gets its files all at once. In one that was there already ``run.json`` goes first and comes back last: where it
    stands, the results beside it are complete and of one run. A run that fails leaves nothing behind.

    Args:
        wanted: Where to write. Default: ``invdiff-out/NAME``, numbered if it is taken.
        name: Name for the default.
        overwrite: Whether earlier results may be replaced in a folder that is not empty. Other files there stay.
    """
    made: list[Path] = []
    try:
        target = _claim(wanted, name, made, overwrite=overwrite)
        new = target in made
        # Beside a new folder, to become it in one move; inside one that was there, whose parent may be closed to writing.
        part = (target.parent if new else target) / f".invdiff-{secrets.token_hex(4)}"
        with _explained(target):
            part.mkdir()
        try:
            yield part, target
            if not (new and _become(part, target)):
                _replace_results(part, target, overwrite=overwrite)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refused where something is in it


def _claim(wanted: Path | None, name: str, made: list[Path], *, overwrite: bool) -> Path:
    """Return the folder for the results, made now: one that cannot be written fails before the work, not after it."""
    if wanted is None:
        default = Path("invdiff-out") / name
        numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
        return next(target for target in itertools.chain([default], numbered) if _make(target, made))
    if not _make(wanted, made):
        _check_free(wanted, overwrite=overwrite)
    return wanted


def _make(target: Path, made: list[Path]) -> bool:
    """Make a folder and those above it, add them to ``made``, and return whether it is new."""
    with _explained(target):
        missing = [folder for folder in (target, *target.parents) if not folder.exists()]
        try:
            target.mkdir(parents=True)
        except FileExistsError:
            return False
    made += missing
    return True


def _check_free(target: Path, *, overwrite: bool) -> None:
    if not target.is_dir():
        raise ValueError(f"{target} is a file, expected a folder for the results: choose another with -o.")
    if not overwrite and any(not path.name.startswith(".") for path in target.iterdir()):
        raise ValueError(f"{target} holds files already: choose another folder with -o, or add --overwrite to replace results.")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{target}: the results cannot be written there ({reason}): choose another folder with -o.") from error


def _become(part: Path, target: Path) -> bool:
    try:
        target.rmdir()
        part.rename(target)
    except OSError:  # such as a file that a viewer of the new folder has put there
        target.mkdir(exist_ok=True)
        return False
    return True


def _replace_results(part: Path, target: Path, *, overwrite: bool) -> None:
    _check_free(target, overwrite=overwrite)
    files = sorted(part.iterdir(), key=lambda file: file.name == RECORD)
    (target / RECORD).unlink(missing_ok=True)
    for old in target.iterdir():  # A shorter run must not end among the samples of a longer one.
        if any(fnmatch.fnmatchcase(old.name, pattern) for pattern in RESULTS) and not (part / old.name).exists():
            old.unlink()
    for file in files:
        os.replace(file, target / file.name)


def write_results(
    folder: Path,
    task: Task,
    post: Posterior,
    samples: Tensor,
    record: Mapping[str, Any],
    *,
    arrays: bool,
    spread: Spread | None = None,
) -> None:
    """Write every sample, ``mean.png``, ``std.png``, ``comparison.png``, ``run.json``, and on request ``posterior.npz``.

    Where ``spread`` is given, the standard deviation is multiplied by its factor, and ``low.png`` and ``high.png`` are the ends
    of its intervals; samples and mean stay as they are.

    Pictures of other than 1 or 3 channels, which no PNG file holds, are written as ``.tif``. Of such the comparison shows the
    first channel of two, and the first three of more.

    Args:
        folder: Where to.
        task: What was solved.
        post: The posterior.
        samples: What is written, ``(N, C, H, W)`` in the channels of the picture.
        record: What ``run.json`` holds.
        arrays: Whether to write the samples as floats, on the 0..1 scale of the command line and not clipped to it.
        spread: How the spread is calibrated, and which intervals are wanted.
    """
    picture, samples = task.picture, task.problem.upright(samples)
    images = {f"sample-{k:0{len(str(len(samples)))}d}": sample for k, sample in enumerate(samples, 1)}
    mean, std = samples.mean(0), samples.std(0) if len(samples) > 1 else None
    suffix = ".png" if len(mean) in (1, 3) else ".tif"
    ends = {} if spread is None or std is None else {"low": mean - spread.width * std, "high": mean + spread.width * std}
    for name, image in {**images, "mean": mean, **ends}.items():
        write_image(folder / f"{name}{suffix}", image.numpy(), bits=picture.bits, alpha=task.alpha, icc=picture.icc)
    arrays_of = task.problem if isinstance(task.problem, ArrayProblem) else None
    measured = task.problem.upright(task.problem.preview(task.measurement))[0]
    # Of the coefficients of a JPEG file the picture they are of is kept.
    picture_of = (measured if isinstance(task.problem, Dejpeg) else task.measurement[0]).numpy()
    tiles = {arrays_of.looks if arrays_of else "measured": measured, "mean": mean}
    tiles |= {f"sample {k}": sample for k, sample in enumerate(samples[:TILES], 1)}
    if task.clean is not None:
        tiles = {"truth": task.clean[0], **tiles}
        if arrays_of:
            _write_arrays(folder / "measurement.npz", arrays_of.to_arrays(task.measurement))
        else:
            write_image(folder / f"measurement{suffix}", picture_of, bits=picture.bits, icc=picture.icc)
    heat = None if std is None else ((1.0 if spread is None else spread.std_factor) * std).numpy()
    if heat is not None:
        std_map(folder / "std.png", heat)
    title = f"{'' if spread is None or spread.std_factor == 1 else 'calibrated '}standard deviation (0..1 scale)"
    comparison_panel(
        folder / "comparison.png", {title: tile.numpy() for title, tile in tiles.items()}, std=heat, std_title=title
    )
    if arrays:
        contents: dict[str, Any] = {
            "samples": (samples.numpy() + 1) / 2,
            "measurement": arrays_of.to_arrays(task.measurement)[arrays_of.measured] if arrays_of else picture_of / 2 + 0.5,
            "weights": post.weights[:, 0].cpu().numpy(),
        }
        if heat is not None and ends:
            contents |= {"std": heat / 2} | {name: (end.numpy() + 1) / 2 for name, end in ends.items()}
        _write_arrays(folder / "posterior.npz", contents)
    (folder / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez_compressed(path, **arrays)
