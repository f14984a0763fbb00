"""Record of a run: ``run.json``, from which the run can be repeated."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.blind import BlindPosterior, BlindSampler
from invdiff.blind.measurement import blur_operator
from invdiff.formats.origin import described
from invdiff.io.portable import portable
from invdiff.metrics import psnr
from invdiff.posterior import Posterior, PosteriorSampler, chi_square
from invdiff.posterior.misfit import misfit_notes
from invdiff.posterior.settings import versions
from invdiff.restoration.inputs import Measured
from invdiff.restoration.noise import NoiseChoice

__all__ = ["KERNEL", "blind_residual", "circumstances", "make_record", "misfits_of", "plain", "to_json"]

KERNEL = "kernel.npy"  # the estimated kernel, as --kernel reads it
PROBABILITY = 0.9  # of the intervals of its parameters
UNITS = {"sigma": "px", "radius": "px", "length": "px", "angle": "degrees"}


def make_record(
    source: Any,
    settings: Mapping[str, Any],
    files: Mapping[str, Mapping[str, str]],
    task: Measured,
    sampler: PosteriorSampler | BlindSampler,
    post: Posterior,
    results: Tensor,
    residual: Sequence[float],
    *,
    notes: Sequence[str],
    seconds: Mapping[str, float],
    estimate: Mapping[str, float | None],
    found: BlindPosterior | None = None,
) -> dict[str, Any]:
    """Return the contents of ``run.json``, and as ``timing`` what differs between two equal runs and is not written to it.

    Args:
        source: INPUT, or ``None``.
        settings: Arguments that determine the result, including the options of the problem.
        files: Paths and digests of the files that were read, by name.
        task: Measurement and operator.
        sampler: Posterior sampler.
        post: Posterior samples.
        results: Pictures made from the samples, ``(N, C, H, W)``.
        residual: Squared misfit of each picture.
        notes: Messages for the user.
        seconds: Wall time of each part: ``load`` and ``sample``.
        estimate: What was expected of time and memory: ``seconds`` and ``memory_mib``.
        found: Kernels and their parameters, if they were unknown.
    """
    device, noisy = post.samples.device, task.observed.sigma_y > 0
    return {
        "arguments": {"input": plain(source)} | {name: plain(_named(value)) for name, value in settings.items()},
        "files": {name: dict(file) for name, file in files.items()},
        "method": post.method,
        "options": dict(post.options),
        **({} if task.picture.origin is None else {"origin": described(task.picture.origin)}),
        "noise_level": noise_level(task),
        "rounded": task.rounded,
        "prior": sampler.score.describe(),
        **circumstances(device),
        "nfe": post.nfe,
        "nvjp": post.nvjp,
        "residual": list(residual),
        "residual_expected": task.observed.dof if noisy else 0,
        **({} if found is None else {"instrument": _instrument(found)}),
        "notes": list(notes),
        "metrics": None if task.clean is None else _metrics(task.problem.pictured(task.clean), task.problem.pictured(results)),
        "timing": {
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "estimate": dict(estimate),
            "peak_memory_mib": _peak_memory(device),
        },
    }


def misfits_of(task: Measured, post: Posterior, residual: Sequence[float]) -> tuple[str, ...]:
    """Return notes on a misfit of the results, in which exact data are put in, that is far from its expected value."""
    values, weights = torch.tensor(residual).unsqueeze(1), post.weights[:, :1].cpu()
    return misfit_notes(
        values,
        task.observed.dof,
        weights,
        op=task.observed,
        y=task.measurement,
        ratio_min=post.options["ratio_min"],
        causes=task.problem.misfit_causes,
        rounded=task.rounded,
    )


def noise_level(task: Measured) -> float:
    """Return the standard deviation of the noise, given or found, images spanning 0..1; a typical one if it is not white."""
    return float(f"{task.observed.sigma_y / 2:.4g}")


def blind_residual(task: Measured, found: BlindPosterior) -> list[float]:
    """Return the squared misfit of each sample under its own kernel, divided by the noise variance."""
    samples, factor = task.in_own_channels(found.posterior.samples[:, 0].cpu()), found.posterior.options["factor"]
    values = []
    for x, kernel in zip(samples, found.kernels[:, 0].cpu(), strict=True):
        settings = {"boundary": task.problem.boundary, "factor": factor, "sigma_y": task.observed.sigma_y}
        op = blur_operator(tuple(x.shape), kernel, **settings)
        values.append(float(f"{float(chi_square(op, x[None], task.measurement)):.6g}"))
    return values


def _instrument(found: BlindPosterior) -> dict[str, Any]:
    """Return the estimated parameters of the instrument with their intervals, and where its kernel is."""
    intervals = found.interval(PROBABILITY)
    return {
        "kernel": KERNEL,
        "size": [*found.kernel.shape[1:]],
        "probability": PROBABILITY,
        "parameters": {
            name: {
                "estimate": float(f"{float(value[0]):.4g}"),
                "interval": [float(f"{float(end[0]):.4g}") for end in intervals[name]],
                "unit": UNITS[name],
            }
            for name, value in found.estimate.items()
        },
    }


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return what may change the last bits of results: device, versions, and how the processor adds."""
    if device.type == "cuda":
        processor: dict[str, Any] = {"name": torch.cuda.get_device_name(device)}
    else:
        processor = {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return {"device": str(device), "processor": processor, "versions": versions()}


def _named(value: Any) -> Any:
    """Return a setting with the path in it, of text such as ``mine.py:MyProblem``, as records have it."""
    return portable(value) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """Return JSON. Infinities, which JSON cannot represent, become the strings ``inf`` and ``-inf``, which ``float`` parses."""
    return json.dumps(plain(value), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Convert a value to types that JSON can represent; other objects become their type and shape."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, NoiseChoice):
        return value.plain()
    if value is None or isinstance(value, str | int | float):
        return str(value) if isinstance(value, float) and math.isinf(value) else value
    if isinstance(value, Path):
        return portable(value)
    shape = getattr(value, "shape", None)  # of arrays and tensors
    name = getattr(value, "__qualname__", type(value).__name__)
    return name if shape is None else f"{name} of shape {tuple(shape)}"


def _metrics(clean: Tensor, results: Tensor) -> dict[str, float]:
    figures = {"psnr_mean": psnr(results.mean(0, keepdim=True), clean), "psnr_samples": psnr(results, clean.expand_as(results))}
    return {name: round(float(value.mean()), 3) for name, value in figures.items()}


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory of the process and of the device, in MiB."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if device.type == "cuda":
        peaks["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peaks
