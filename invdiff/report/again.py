"""The measurement of a run and its operator, made again from the record: for residuals, and for INPUTs that are no pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invdiff.io.images import read_image, read_kernel
from invdiff.problems import PROBLEMS
from invdiff.report.contents import Item
from invdiff.report.inputs import find_read
from invdiff.restoration import read
from invdiff.restoration.inputs import Measured

__all__ = ["Residual", "measured_again", "picture_measured", "residual_of", "truth_of"]

CODE = ("operator",)  # problems that run code of the user's


@dataclass(frozen=True, eq=False)
class Residual:
    """What the mean leaves unexplained of a measured picture.

    Attributes:
        values: Measurement minus operator of the mean, averaged over channels, ``(H, W)``, pixels spanning 0..1.
        root_mean_square: Of all entries.
        noise: Standard deviation of the noise, likewise.
    """

    values: NDArray[np.float64]
    root_mean_square: float
    noise: float


def measured_again(item: Item, source: Path | None, inputs: Path | None = None) -> Measured:
    """Return operator and measurement of a run, from its record and the files that it read. No code of the user's is run.

    Args:
        item: The results.
        source: INPUT; ``None``: it was not found, or the run had none.
        inputs: Where to look for other files that the run read.

    Raises:
        ValueError: If this is impossible; the message says why.
        OSError: If a file cannot be read.
    """
    arguments, files = item.arguments, item.record["files"]
    name = arguments.get("problem")
    if not isinstance(name, str) or name not in PROBLEMS.lines or name in CODE:
        raise ValueError(f"the problem {name!r} is code of its own, which a report does not run")
    if source is None and arguments.get("input") is not None:
        raise ValueError("INPUT was not found as the run read it (--inputs gives its folder)")
    kind = PROBLEMS.find(name)
    recorded = {option.name: arguments.get(option.name) for option in kind.options}
    options = kind.options_of_results(recorded, item.pictures)
    for option in [option for option in options if option in files and options[option] == recorded[option]]:
        path = find_read(item, option, inputs)
        if path is None:
            raise ValueError(
                f"the file of --{option.replace('_', '-')} was not found as the run read it (--inputs gives its folder)"
            )
        options[option] = str(arguments[option]).replace(files[option]["path"], str(path), 1)  # file.npz:name has more
    given = {name: arguments.get(name) for name in ("noise", "black", "white")}
    seed = int(arguments.get("seed") or 0)
    settings: dict[str, Any] = {**given, **options}
    return read(source, name, simulate=item.simulated, seed=seed, channels=1, **settings)  # 1: of any number


def picture_measured(measured: Measured) -> NDArray[np.float64]:
    """Return the measurement as a picture ``(C, H, W)`` spanning [-1, 1], as comparison.png shows it."""
    return measured.problem.upright(measured.problem.preview(measured.measurement))[0].double().numpy()


def truth_of(measured: Measured) -> NDArray[np.float64] | None:
    """Return the true image ``(C, H, W)`` spanning [-1, 1], if the measurement was simulated."""
    return None if measured.clean is None else measured.problem.pictured(measured.clean)[0].double().numpy()


def residual_of(item: Item, measured: Measured) -> Residual:
    """Return the residual of the mean, as it stands in its file.

    Raises:
        ValueError: If it cannot be computed, or is no picture; the message says why.
        OSError: If a file cannot be read.
    """
    if "mean" not in item.pictures:
        raise ValueError("the mean was not kept")
    mean = torch.from_numpy(read_image(item.pictures["mean"]).pixels).float()[None]
    levels, op = measured.levels, measured.observed
    if levels is not None and levels.full != 1:
        mean = 2 * ((mean + 1) / 2 * levels.full - levels.black) / (levels.white - levels.black) - 1
    if "instrument" in item.record:
        kernel = torch.from_numpy(read_kernel(item.folder / "kernel.npy"))
        channels, height, width = op.in_shape
        op = measured.problem.with_kernel(kernel.float()).operator((channels, height, width), noise=op.noise)
    if measured.problem.own_channels:
        raise ValueError("the mean in its file is a picture of the image of the model, such as its magnitude")
    if mean.shape[1:] != op.in_shape:
        raise ValueError("the image of the model is larger than the mean in its file, which shows what INPUT shows")
    difference = measured.measurement - op(mean)
    if difference.is_complex() or difference.ndim != 4 or difference.shape[1] not in (1, 3):
        raise ValueError("the measurement is no picture; its misfit is in the tables")
    if op.sigma_y == 0 and not difference.any():
        raise ValueError("the data are taken as exact, and the mean reproduces them")
    values = difference[0].double().numpy() / 2
    return Residual(values.mean(0), math.sqrt(float((values**2).mean())), op.sigma_y / 2)
