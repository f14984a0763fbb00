"""What a run leaves behind: pictures, samples and the record it can be repeated from."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff import __version__
from invdiff.cli.task import Task
from invdiff.images import write_image
from invdiff.posterior import Posterior
from invdiff.report import comparison_panel, std_map

__all__ = ["output_folder", "peak_memory", "versions", "write_record", "write_results"]


@contextlib.contextmanager
def output_folder(wanted: Path | None, name: str, *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary folder to write into, and the folder its files move to once all of them are written.

    Args:
        wanted: Where to write. Default: ``invdiff-out/NAME``, numbered if it is taken.
        name: Name for the default.
        overwrite: Whether files of the same name may be replaced in a folder that is not empty.
    """
    target = wanted or next(p for p in _numbered(Path("invdiff-out") / name) if not p.exists())
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, expected a folder for the results.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise FileExistsError(f"{target} holds files already. Choose another folder, or add --overwrite to replace those of the same name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made before the work begins, so that a folder that cannot be written fails now.
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part, target
        target.mkdir(exist_ok=True)
        for file in sorted(part.iterdir()):
            os.replace(file, target / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def write_results(folder: Path, task: Task, post: Posterior, samples: Tensor, *, arrays: bool) -> None:
    """Write every sample, ``mean.png``, ``std.png``, ``comparison.png``, and on request ``posterior.npz``.

    Args:
        folder: Where to.
        task: What was solved.
        post: The posterior.
        samples: What is written, ``(N, C, H, W)`` in the channels of the picture.
        arrays: Whether to write the samples as floats, on the 0..1 scale of the command line.
    """

    def write(name: str, pixels: Tensor) -> None:
        write_image(folder / name, pixels.numpy(), bits=task.picture.bits, alpha=task.alpha, icc=task.picture.icc)

    mean = samples.mean(0)
    for k, sample in enumerate(samples):
        write(f"sample-{k + 1:0{len(str(len(samples)))}d}.png", sample)
    write("mean.png", mean)
    measured = _channels(task.problem.preview(task.y), task.grey)[0]
    measurement = _channels(task.y, task.grey)[0]
    if task.clean is not None:
        write_image(folder / "measurement.png", measurement.numpy(), bits=task.picture.bits)
    tiles = {"measured": measured, "mean": mean} | {f"sample {k + 1}": sample for k, sample in enumerate(samples[:3])}
    if task.clean is not None:
        tiles = {"truth": task.clean[0], **tiles}
    std = samples.std(0) if len(samples) > 1 else None
    if std is not None:
        std_map(folder / "std.png", std.numpy())
    comparison_panel(folder / "comparison.png", {title: tile.numpy() for title, tile in tiles.items()}, std=None if std is None else std.numpy())
    if arrays:
        unit = {"samples": (samples.numpy() + 1) / 2, "measurement": (measurement.numpy() + 1) / 2}
        np.savez_compressed(folder / "posterior.npz", weights=post.weights[:, 0].cpu().numpy(), residual=post.residual[:, 0].cpu().numpy(), **unit)


def _channels(x: Tensor, grey: bool) -> Tensor:
    return x.mean(1, keepdim=True) if grey else x


def versions() -> Mapping[str, str]:
    """Return the versions a result depends on."""
    return {"invdiff": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}


def peak_memory(device: torch.device) -> Mapping[str, float]:
    """Return the peak memory of the process and of the device, in MiB."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if device.type == "cuda":
        peaks["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peaks


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
