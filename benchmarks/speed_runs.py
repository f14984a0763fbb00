"""Sections of ``speed.py`` about whole runs: ``linearity``, ``startup``, ``samples``, ``busy`` and ``quality``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_networks import blurred, clock, fastest, inpainting, photograph
from speed_peers import INSTALLED, deepinv_dps
from speed_steps import quiet, watched

from invdiff import PosteriorSampler
from invdiff.operators import LinearOperator

__all__ = ["busy", "linearity", "quality", "samples", "startup"]

Row = dict[str, Any]
JOB_STEPS = 3  # of the jobs whose cost per pixel and sample is compared
LINEAR_METHODS = {"size": "diffpir", "samples": "auto"}  # without gradients, whole images of 4,096 px fit in 16 GB
SAMPLES = 16

JOB = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import torch
side, count, steps, threads = map(int, sys.argv[1:5])
torch.set_num_threads(threads)
from speed_networks import clock, inpainting, photograph, prior_of
from invdiff import PosteriorSampler
prior, op = prior_of("natural"), inpainting(side)
y = op.measure(photograph(side), seed=0)
with torch.no_grad():
    prior.denoise(torch.zeros(1, 3, 64, 64), prior.schedule.time(1.0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = clock()
PosteriorSampler(prior, op, steps=steps, method=sys.argv[5]).run(y, num_samples=count)
seconds = clock() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak, MiB": peak / 1024, "peak above start, MiB": (peak - before) / 1024}))
"""


def linearity(sides: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[str, Row]]:
    """Yield a row per image size and per number of samples, each in a process of its own, and the fit of both.

    The ratio is that of the cost per pixel, or per sample, to the lowest one of a smaller job: how far the cost grows faster
    than the work.
    """
    for what, jobs in {"size": [(side, 1) for side in sides], "samples": [(64, count) for count in counts]}.items():
        work, seconds, lowest = [], [], float("inf")
        method = LINEAR_METHODS[what]
        for side, count in jobs:
            row = job(side, count, method)
            work.append(1e-6 * side * side if what == "size" else float(count))
            seconds.append(row["seconds"])
            each = seconds[-1] / work[-1]
            if lowest < float("inf"):
                row["ratio"] = each / lowest
            lowest = min(lowest, each)
            yield f"{what}: {side} px, {count} sample{'s' * (count > 1)}, {method}", row
        if len(jobs) > 1:
            # By relative errors, so that the largest job does not decide alone.
            weights = 1 / np.array(seconds)
            slope, offset = np.polyfit(work, seconds, 1, w=weights)
            unit = "megapixel" if what == "size" else "sample"
            off = float(np.abs((slope * np.array(work) + offset) * weights - 1).max())
            fit = {f"seconds per {unit}": float(slope), "offset, s": float(offset), "largest relative error of the fit": off}
            yield f"{what}: fit", fit


def job(side: int, count: int, method: str) -> Row:
    command = [sys.executable, "-c", JOB, *map(str, (side, count, JOB_STEPS, torch.get_num_threads(), method))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    row: Row = json.loads(done.stdout)
    return row | {"steps": JOB_STEPS}


def startup(rounds: int) -> Iterator[tuple[str, Row]]:
    """Yield a row per start of a program: its least wall time, over that of importing torch alone."""
    programs = {
        "import torch": ["-c", "import torch"],
        "python -c pass": ["-c", "pass"],
        "import invdiff": ["-c", "import invdiff"],
        "import invdiff and its sampler": ["-c", "from invdiff import PosteriorSampler"],
        "invdiff --help": ["-m", "invdiff", "--help"],
        "invdiff solve --help": ["-m", "invdiff", "solve", "--help"],
    }
    ways = {name: partial(program, [sys.executable, *words]) for name, words in programs.items()}
    best = fastest(ways, seconds=0, least=rounds)
    for name, seconds in best.items():
        ratio = {} if name == "import torch" else {"ratio": seconds / best["import torch"]}
        yield name, {"seconds": seconds, "seconds above torch": seconds - best["import torch"], **ratio}


def program(words: Sequence[str], environment: Mapping[str, str] | None = None, cwd: str | None = None) -> float:
    """Return the wall seconds of a program."""
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, env=environment, cwd=cwd)
    return time.perf_counter() - started


def samples(sides: Sequence[int], *, seconds: float, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Row]]:
    """Yield a row per size: the time of 16 samples of one measurement over 16 times that of one."""
    prior, _ = watched("natural")
    for side in sides:
        name = f"{SAMPLES} samples, {side} px"
        if not wanted(name):
            continue
        op = inpainting(side)
        y = op.measure(photograph(side), seed=0)
        sampler = PosteriorSampler(prior, op, steps=JOB_STEPS)

        def run(count: int, sampler: PosteriorSampler = sampler, y: torch.Tensor = y) -> float:
            started = clock()
            quiet(partial(sampler.run, y, num_samples=count))
            return clock() - started

        run(1)
        best = fastest({"one": partial(run, 1), "all": partial(run, SAMPLES)}, seconds=seconds, least=2)
        ratio = best["all"] / (SAMPLES * best["one"])
        yield name, {"ratio": ratio, "seconds of one": best["one"], f"seconds of {SAMPLES}": best["all"], "steps": JOB_STEPS}


def busy(rounds: int) -> Iterator[tuple[str, Row]]:
    """Yield rows of ``invdiff solve`` with the default number of threads over one thread, alone and beside busy processes.

    The processes are started with the processors that this one may use, and run at the same priority.
    """
    with tempfile.TemporaryDirectory() as folder:
        mask = str(Path(__file__).parents[1] / "examples" / "mask.png")
        words = [sys.executable, "-m", "invdiff", "solve", "--problem", "inpaint", "--mask", mask, "--steps", "3"]
        words += ["--windows", "off", "--samples", "1", "-o", "out", "--overwrite"]
        chosen = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environments = {"default": chosen, "one thread": chosen | {"OMP_NUM_THREADS": "1"}}
        ways = {name: partial(program, words, environment, folder) for name, environment in environments.items()}
        for beside in (0, 2):
            with burning(beside):
                best = fastest(ways, seconds=0, least=rounds)
            row = {"ratio": best["default"] / best["one thread"], "seconds": best, "processors": len(os.sched_getaffinity(0))}
            yield f"solve beside {beside or 'no'} busy processes", row


@contextlib.contextmanager
def burning(count: int) -> Iterator[None]:
    """Keep a number of processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def quality(side: int, share: float, *, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Row]]:
    """Yield rows of a photograph restored by the default, by deepinv's DPS, and by 1,000 steps of DPS as published.

    Args:
        side: Side of the photograph in pixels.
        share: Share of the steps of the two DPS that is run. Below 1 their seconds are extrapolated and they have no PSNR.
        wanted: Tells by its name whether a row is wanted.
    """
    truth, (prior, _) = astronaut(side), watched("natural")
    problems: dict[str, LinearOperator] = {"inpainting": inpainting(side), "deblurring": blurred(side)}
    for problem, op in problems.items():
        y = op.measure(truth, seed=0)
        steps = max(2, round(1000 * share))
        ours = PosteriorSampler(prior, op)
        paper = PosteriorSampler(prior, op, method="dps", preset="paper", **({} if share == 1 else {"steps": steps}))
        ways: dict[str, tuple[Callable[[], torch.Tensor], float]] = {
            "invdiff's default": (lambda run=ours.run, y=y: run(y).samples[0], 1.0),
            "invdiff's default, mean of 4": (lambda run=ours.run, y=y: run(y, num_samples=4).mean, 1.0),
            "DPS as published, 1,000 steps": (lambda run=paper.run, y=y: run(y).samples[0], steps / 1000),
        }
        if "deepinv" in INSTALLED:
            peer = deepinv_dps(prior, op, y, steps)
            ways["deepinv's DPS, 1,000 steps"] = (lambda run=peer: 2 * run() - 1, steps / 1000)
        names = {who: f"{problem}, {side} px, {who}" for who in ways}
        if not any(map(wanted, names.values())):
            continue
        default = float("nan")  # seconds of the first, which the others are compared with
        for who, (run, part) in ways.items():
            if who != "invdiff's default" and not wanted(names[who]):
                continue
            started = clock()
            restored = quiet(run)
            seconds = (clock() - started) / part
            default = seconds if who == "invdiff's default" else default
            row: Row = {"seconds": seconds, "steps run": steps if part < 1 else None, "extrapolated": part < 1}
            if part == 1:
                row["PSNR, dB"] = float(-10 * ((restored.clamp(-1, 1) - truth) / 2).square().mean().log10())
            if who != "invdiff's default":
                row["ratio"] = default / seconds  # smaller is better, as for all ratios
            yield names[who], row


def astronaut(side: int) -> torch.Tensor:
    """Return a photograph that comes with scikit-image, ``(1, 3, side, side)`` in [-1, 1]."""
    from skimage import data, transform

    pixels = transform.resize(data.astronaut()[:400, 50:450], (side, side), anti_aliasing=True)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() * 2 - 1
