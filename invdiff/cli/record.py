"""What is said about a run: ``run.json``, from which it can be repeated, and the summary."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff import __version__
from invdiff.cli.noise import NoiseChoice
from invdiff.cli.task import Task
from invdiff.metrics import psnr
from invdiff.posterior import Posterior, PosteriorSampler

__all__ = ["file_of_kernel", "make_record", "plain", "summary", "to_json"]


def make_record(
    source: Path | None,
    settings: Mapping[str, Any],
    task: Task,
    sampler: PosteriorSampler,
    post: Posterior,
    results: Tensor,
) -> dict[str, Any]:
    """Return what ``run.json`` holds.

    Args:
        source: The file that came in, or nothing.
        settings: The arguments of ``invdiff solve`` that decide the result.
        task: What was solved.
        sampler: What solved it.
        post: The posterior.
        results: The pictures made of its samples, ``(N, C, H, W)``.
    """
    device, noisy = post.samples.device, task.observed.sigma_y > 0
    files = {"input": source, "mask": settings["mask"], "kernel": file_of_kernel(settings["kernel"])}
    return {
        "arguments": {"input": source and str(source)} | {name: plain(value) for name, value in settings.items()},
        "files": {name: _digest(path) for name, path in files.items() if path is not None},
        "method": post.method,
        "options": dict(post.options),
        "prior": sampler.score.describe(),
        "device": str(device),
        "versions": {
            "invdiff": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "nfe": post.nfe,
        "nvjp": post.nvjp,
        "seconds": round(post.seconds, 2),
        "peak_memory_mib": _peak_memory(device),
        "residual": task.residual(results),
        "residual_expected": task.observed.dof if noisy else 0,
        "notes": [*sampler.notes, *task.notes],
        "metrics": None if task.clean is None else _metrics(task.clean, results),
    }


def summary(record: Mapping[str, Any]) -> str:
    """Return a few aligned lines that say what came out."""
    residual, metrics, options = record["residual"], record["metrics"], record["options"]
    work = f"{record['nfe']:g} network evaluations and {record['nvjp']:g} gradients each"
    lines = {
        "method": f"{record['method']}, {options['steps']} steps ({options['rule']})",
        "samples": f"{len(residual)} in {record['seconds']:.1f} s, {work}",
    }
    if record["residual_expected"]:
        ratio = sum(residual) / len(residual) / record["residual_expected"]
        lines["misfit"] = f"{ratio:.2f} of what the noise explains (1 is right)"
    if metrics:
        lines["PSNR"] = f"{metrics['psnr_mean']:.2f} dB of the mean, {metrics['psnr_samples']:.2f} dB of single samples"
    if len(residual) == 1:
        lines["spread"] = "no std.png: it takes two samples or more"
    elif "spread" in record:
        lines["spread"] = _spread(record["spread"])
    lines["results"] = record["output"]
    return "\n".join(f"{name:<9}{line}" for name, line in lines.items())


def _spread(spread: Mapping[str, Any]) -> str:
    maps = f"low and high are the ends of {spread['level']:.0%} intervals"
    if "file" not in spread:
        return f"{maps}, not calibrated"
    promise = "the guarantee does not hold for this run" if spread["differences"] else "guaranteed on average over images"
    return f"calibrated on {spread['images']} images, std times {spread['std_factor']:.2f}; {maps}; {promise}"


def to_json(value: Any) -> str:
    """Return JSON. Infinities, which it does not know, become the strings ``inf`` and ``-inf``: ``float`` reads them back."""
    return json.dumps(plain(value), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, NoiseChoice):
        return value.plain()
    if isinstance(value, Path) or (isinstance(value, float) and math.isinf(value)):
        return str(value)
    return value


def file_of_kernel(kernel: str | None) -> Path | None:
    """Return the file that ``--kernel`` names, or nothing."""
    if kernel is None or kernel.startswith(("gaussian:", "motion:")):
        return None
    archive, _, _ = kernel.rpartition(":")
    return Path(archive) if archive.lower().endswith(".npz") else Path(kernel)


def _digest(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


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
