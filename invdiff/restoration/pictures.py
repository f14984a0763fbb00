"""Writing of the results of a restoration to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invdiff.io.figures import comparison_panel, std_map
from invdiff.io.images import write_image
from invdiff.restoration.folder import RECORD
from invdiff.restoration.record import to_json

if TYPE_CHECKING:
    from invdiff.restoration.result import Restoration

__all__ = ["write"]

TILES = 3  # samples in the comparison panel


def write(folder: Path, result: Restoration, record: Mapping[str, Any], *, npz: bool) -> None:
    """Write every sample, ``mean.png``, ``std.png``, ``comparison.png``, ``run.json``, and on request ``posterior.npz``.

    If the result has a ``spread``, the standard deviation is multiplied by its factor, and ``low.png`` and ``high.png`` are the
    ends of its intervals; samples and mean are unchanged.

    Pictures are in the levels of INPUT if black and white were given; comparison, standard deviation and ``posterior.npz`` are
    on the scale from black, 0, to white, 1.

    Pictures whose number of channels is neither 1 nor 3 do not fit in PNG files and are written as ``.tif``. For these, the
    comparison shows the first of two channels, or the first three of more.

    Args:
        folder: Folder to write to.
        result: The restoration.
        record: Contents of ``run.json``.
        npz: Whether to write the samples as floats, on the 0..1 scale of the command line and not clipped to it.
    """
    measured, samples, spread = result.measured, result.samples, result.spread
    problem, picture, y = measured.problem, measured.picture, measured.measurement
    images = {f"sample-{k:0{len(str(len(samples)))}d}": sample for k, sample in enumerate(samples, 1)}
    mean, std = samples.mean(0), samples.std(0) if len(samples) > 1 else None
    suffix = ".png" if len(mean) in (1, 3) else ".tif"
    ends = {} if spread is None or std is None else {"low": mean - spread.width * std, "high": mean + spread.width * std}
    for name, image in {**images, "mean": mean, **ends}.items():
        write_image(
            folder / f"{name}{suffix}",
            measured.stored(image).numpy(),
            bits=picture.bits,
            alpha=picture.alpha,
            icc=picture.icc,
            exif=picture.exif,
        )
    tiles = {problem.looks: problem.upright(problem.preview(y))[0], "mean": mean}
    tiles |= {f"sample {k}": sample for k, sample in enumerate(samples[:TILES], 1)}
    if measured.clean is not None:
        tiles = {"truth": problem.framed(measured.clean)[0], **tiles}
        stored_y = measured.stored(y) if problem.reads == "picture" else y
        problem.write_measurement(folder, stored_y, suffix=suffix, bits=picture.bits, icc=picture.icc)
    heat = None if std is None else ((1.0 if spread is None else spread.std_factor) * std).numpy()
    if heat is not None:
        std_map(folder / "std.png", heat)
    title = f"{'' if spread is None or spread.std_factor == 1 else 'calibrated '}standard deviation (0..1 scale)"
    comparison_panel(
        folder / "comparison.png", {title: tile.numpy() for title, tile in tiles.items()}, std=heat, std_title=title
    )
    if npz:
        contents: dict[str, Any] = {
            "samples": (samples.numpy() + 1) / 2,
            "measurement": problem.numbers(y),
            "weights": result.posterior.weights[:, 0].cpu().numpy(),
        }
        if heat is not None and ends:
            contents |= {"std": heat / 2} | {name: (end.numpy() + 1) / 2 for name, end in ends.items()}
        np.savez_compressed(folder / "posterior.npz", **contents)
    (folder / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")
