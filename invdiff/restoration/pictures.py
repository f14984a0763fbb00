"""Writing of the results of a restoration to a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.figures import comparison_panel, std_map
from invdiff.io.images import atomic_write, write_image
from invdiff.restoration.calibration_file import Spread
from invdiff.restoration.earlier import Results, write_record
from invdiff.restoration.formats import FileFormat
from invdiff.restoration.inputs import Measured
from invdiff.restoration.keep import KEPT, QUANTILES
from invdiff.restoration.medoid import medoid
from invdiff.restoration.native import in_units, write_native
from invdiff.restoration.record import KERNEL

if TYPE_CHECKING:
    from invdiff.restoration.result import Restoration

__all__ = ["COMMAND", "RECORD", "file_names", "pictures_of", "write", "write_figures"]

COMMAND, RECORD = "solve", "run.json"
TILES = 3  # samples in the comparison panel


def file_names(
    measured: Measured,
    *,
    numbers: range,
    spread: Spread | None,
    npz: bool,
    files: FileFormat,
    keep: Collection[str] = KEPT,
) -> tuple[str, ...]:
    """Return the names of the files that :func:`write` writes, without the record, before there are samples.

    ``numbers`` are those of the samples, from 0. A simulated measurement counts under all names that it may have.
    """
    ends = ("low", "high") if spread is not None and len(numbers) > 1 else ()
    pictures = [*(sample_names(numbers) if "samples" in keep else ()), *(name for name in ("best", "mean") if name in keep)]
    pictures += [*ends, *(QUANTILES if "quantiles" in keep else ())]
    pictures += ["std"] if files.origin is not None and len(numbers) > 1 and "std" in keep else []
    names = [file for name in pictures for file in files.names(name)]
    names += ["comparison.png"] if "comparison" in keep else []
    names += ["std.png"] if len(numbers) > 1 and "std" in keep else []
    names += ["posterior.npz"] if npz else []
    names += [KERNEL, "kernel.png"] if is_blind(measured) else []
    names += [f"measurement{ending}" for ending in (".png", ".tif", ".npz")] if measured.clean is not None else []
    derived = measured.problem.derived(torch.zeros(1, *measured.observed.in_shape))
    extras = [f"{name}.png" for name in measured.problem.extras() | derived]
    taken = next((name for name in extras if name in names), None)
    if taken is not None:
        raise ValueError(f"problem {measured.problem.name}: extras() must not name the file {taken}, which holds a result.")
    return (*names, *extras)


def is_blind(measured: Measured) -> bool:
    """Return whether the kernel of the measurement is estimated."""
    *_, height, width = measured.measurement.shape
    return measured.problem.kernels((height, width)) is not None


def kernel_picture(kernel: Tensor, *, side: int = 128) -> NDArray[np.float64]:
    """Return a kernel ``(h, w)`` as a gray picture ``(1, H, W)`` in [-1, 1], its largest value white, enlarged to see it."""
    times = max(1, side // max(kernel.shape))
    shown = (kernel / kernel.max().clamp(min=1e-30)).double().numpy() * 2 - 1
    return np.asarray(shown.repeat(times, 0).repeat(times, 1)[None])


def sample_names(numbers: range) -> list[str]:
    """Return names counted from 1, as people count: ``sample-05`` to ``sample-12`` for the numbers 4 to 11."""
    return [f"sample-{k + 1:0{len(str(numbers.stop))}d}" for k in numbers]


def suffix_of(channels: int) -> str:
    return ".png" if channels in (1, 3) else ".tif"


def quantile(samples: Tensor, q: float) -> Tensor:
    """Return the ``q``-quantile of samples ``(N, C, H, W)`` pixel by pixel, linear between samples, ``(C, H, W)``."""
    position = q * (len(samples) - 1)
    below = int(position)
    channels = []
    for channel in range(samples.shape[1]):  # one by one, for the memory of large pictures
        ordered = samples[:, channel].sort(0).values
        channels.append(torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], position - below))
    return torch.stack(channels)


def write(
    folder: Path,
    result: Restoration,
    record: Mapping[str, Any],
    *,
    npz: bool,
    files: FileFormat,
    keep: Collection[str] = KEPT,
) -> dict[str, Any]:
    """Write every sample, ``best.png``, ``mean.png``, ``std.png``, ``comparison.png``, ``run.json``, and if requested
    ``posterior.npz``.

    ``best.png`` is a copy of the sample closest to all others (:func:`~invdiff.restoration.medoid.medoid`): sharp, and one
    plausible picture. ``mean.png``, the average of the samples, is closest to the truth on average, and a little smooth. Of a
    single sample both are copies, and there is no ``std.png``.

    Pictures of the problem itself (:meth:`Problem.extras`), such as ``mask.png``, are written as they are.

    If the result has a ``spread``, the standard deviation is multiplied by its factor, and ``low.png`` and ``high.png`` are the
    ends of its intervals; samples and mean are unchanged.

    ``quantile-05``, ``quantile-50`` and ``quantile-95``, if requested, are quantiles of the samples, pixel by pixel.

    Pictures are in the levels of INPUT if black and white were given; comparison, standard deviation and ``posterior.npz`` are
    on the scale from black, 0, to white, 1. If INPUT has units and a header (:mod:`invdiff.formats`), pictures and standard
    deviation are written in its format, in its units, and the maps show its units.

    Of pictures whose number of channels is neither 1 nor 3, the comparison shows the first of two channels, or the first three
    of more.

    Args:
        folder: Folder to write to.
        result: The restoration.
        record: Contents of ``run.json``.
        npz: Whether to write the samples as floats, on the 0..1 scale of the command line and not clipped to it.
        files: Format of samples, mean and intervals, for which ``.png`` stands here.
        keep: What is written, some of :data:`~invdiff.restoration.keep.PARTS`. Intervals, pictures of the problem, a simulated
            measurement, an estimated kernel and the record are always written.

    Returns:
        The record with the other files and their SHA-256 digests as ``outputs``, and ``timing``, which is not in ``run.json``.
    """
    results = Results(COMMAND, RECORD, inputs=result.inputs)
    measured, samples = result.measured, result.samples
    problem, picture, y = measured.problem, measured.picture, measured.measurement
    best = sample_names(result.numbers)[medoid(samples)]
    record = {**record, "best": files.names(best)[0]}
    pictures, heat = pictures_of(result, keep)
    if files.origin is not None:
        write_native(folder, measured, pictures, heat if "std" in keep else None, record, files)
    for name, image in pictures.items() if files.origin is None else ():
        write_image(
            folder / f"{name}{files.suffix}",
            measured.stored(image).numpy(),
            bits=files.bits,
            alpha=picture.alpha if files.alpha else None,
            icc=picture.icc,
            exif=files.exif(picture),
            **({} if files.quality is None else {"quality": files.quality}),
        )
    write_record(folder, results, record)  # once more at the end: if the disk fills, the samples have their record
    if measured.clean is not None:
        stored_y = measured.stored(y) if problem.reads == "picture" else y
        problem.write_measurement(
            folder, stored_y, suffix=suffix_of(samples.shape[1]), bits=picture.bits, icc=picture.icc, exif=files.exif(picture)
        )
    derived = problem.derived(measured.in_own_channels(result.posterior.samples[:, 0].cpu()))
    for name, extra in (problem.extras() | derived).items():
        exif = files.exif(extra)
        write_image(folder / f"{name}.png", extra.pixels, bits=extra.bits, alpha=extra.alpha, icc=extra.icc, exif=exif)
    if npz:
        _write_arrays(folder / "posterior.npz", result, pictures, heat, keep)
    if result.kernel is not None:
        with atomic_write(folder / KERNEL) as part, part.open("wb") as file:
            np.save(file, result.kernel.double().numpy())
        write_image(folder / "kernel.png", kernel_picture(result.kernel), bits=8)
    write_figures(folder, result, heat, files, keep)  # last: if the disk fills, what they show has been written
    return write_record(folder, results, record)


def pictures_of(result: Restoration, keep: Collection[str]) -> tuple[dict[str, Tensor], NDArray[Any] | None]:
    """Return the pictures ``(C, H, W)`` of a result by the names of their files, spanning [-1, 1], and the standard deviation.

    The standard deviation is multiplied by the factor of the calibration; there is none of a single sample.
    """
    samples, spread = result.samples, result.spread
    mean, std = samples.mean(0), samples.std(0) if len(samples) > 1 else None
    pictures = dict(zip(sample_names(result.numbers), samples, strict=True)) if "samples" in keep else {}
    if spread is not None and std is not None:
        pictures |= {"low": mean - spread.width * std, "high": mean + spread.width * std}
    pictures |= {name: image for name, image in {"best": samples[medoid(samples)], "mean": mean}.items() if name in keep}
    if "quantiles" in keep:
        pictures |= {name: quantile(samples, q) for name, q in QUANTILES.items()}
    return pictures, None if std is None else ((1.0 if spread is None else spread.std_factor) * std).numpy()


def _write_arrays(
    path: Path, result: Restoration, pictures: Mapping[str, Tensor], heat: NDArray[Any] | None, keep: Collection[str]
) -> None:
    """Write the samples, or what is kept, as floats on the 0..1 scale."""
    problem, y = result.measured.problem, result.measured.measurement
    contents: dict[str, Any] = {"measurement": problem.numbers(y), "weights": result.posterior.weights[:, 0].cpu().numpy()}
    if "samples" in keep:
        contents |= {"samples": (result.samples.numpy() + 1) / 2}
    if set(keep) != set(KEPT):
        shown = [name for name in ("mean", *QUANTILES) if name in pictures]
        contents |= {name: (pictures[name].numpy() + 1) / 2 for name in shown}
        contents |= {"std": heat / 2} if heat is not None and "std" in keep else {}
    if heat is not None and "low" in pictures:
        contents |= {"std": heat / 2} | {name: (pictures[name].numpy() + 1) / 2 for name in ("low", "high")}
    with atomic_write(path) as part:
        np.savez_compressed(part, **contents)


def write_figures(
    folder: Path, result: Restoration, heat: NDArray[Any] | None, files: FileFormat, keep: Collection[str]
) -> None:
    """Write the map of the standard deviation, ``std.png``, and the comparison."""
    measured, samples = result.measured, result.samples
    problem, y, mean = measured.problem, measured.measurement, samples.mean(0)
    calibrated = result.spread is not None and result.spread.std_factor != 1
    shown, scale = heat, "0..1 scale"
    if heat is not None and files.origin is not None:
        shown, scale = in_units(heat, files.origin)
    if shown is not None and "std" in keep:
        words = "pixels spanning 0..1" if files.origin is None else scale
        std_map(folder / "std.png", shown, calibrated=calibrated, scale=words)
    if "comparison" not in keep:
        return
    tiles = {problem.looks: problem.upright(problem.preview(y))[0], "mean": mean}
    tiles |= {f"sample {k + 1}": sample for k, sample in zip(result.numbers, samples[:TILES], strict=False)}
    if result.kernel is not None:
        tiles = {**tiles, "kernel": torch.from_numpy(kernel_picture(result.kernel, side=min(mean.shape[-2:])))}
    if measured.clean is not None:
        tiles = {"truth": problem.pictured(measured.clean)[0], **tiles}
    title = f"{'calibrated ' if calibrated else ''}standard deviation ({scale})"
    comparison_panel(
        folder / "comparison.png",
        {title: problem.shown(tile).numpy() for title, tile in tiles.items()},
        std=shown,
        std_title=title,
    )
