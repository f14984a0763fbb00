"""What waits for a GPU, in one run: ``python benchmarks/gpu.py --photographs PHOTOS --kernel KERNEL --training PHOTOS.tar``.

Parts, in this order: ``train`` goes on with the training of the bundled prior; ``speed`` is the table of speeds; ``laws``
holds every operator, prior and method on the device; ``posterior`` compares the methods at the largest dimension; ``images``
is the table of methods and problems on photographs, under the prior just trained if there is one. Every part is a process of
its own with a time limit, in its own folder of ``--out``: its log, as it is written, and its results. A part that fails or
runs out of time does not stop the others; ``summary.json`` is written after each. ``--tiny --device cpu`` tries everything in
small.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARES = {"train": 5.0, "speed": 2.5, "laws": 1.5, "posterior": 1.0, "images": 1.5}  # minutes out of 11.5
LAWS = ("tests/laws/test_operators.py", "tests/laws/test_on_device.py")
CROP, LATE_CROP = 96, 160  # pixels, in training
TRIAL, FEW_STEPS = 40, 1000  # steps of a training that measures how long one takes, and of one if that fails
STARTING = 30  # seconds until a training that was compiled before takes its first step, and until it has other crops
SAVING = 115  # seconds between copies of the weights in training


def main() -> None:
    options = arguments()
    left, started, summary = sum(SHARES[part] for part in options.only), time.monotonic(), dict[str, Any]()
    for part in options.only:
        # A part has its share of the time that is left, so that what others have saved is not lost.
        limit = (60 * options.minutes - (time.monotonic() - started)) * SHARES[part] / left
        left -= SHARES[part]
        folder = options.out / part
        folder.mkdir(parents=True, exist_ok=True)
        if part == "train" and options.training and not options.tiny and options.steps is None:
            options.steps, spent = fitting_steps(options, folder / "trial", limit)
            limit -= spent
        command = COMMANDS[part](options, folder)
        summary[part] = {"skipped": "no input was given"} if command is None else run(command, folder, limit)
        print(f"{part}: {summary[part]}", flush=True)
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    failed = [part for part, result in summary.items() if result.get("code") not in (None, 0)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def run(command: list[str], folder: Path, limit: float) -> dict[str, Any]:
    """Run a command until it ends or its time is over. What it has saved by then remains."""
    started, saved = time.monotonic(), time.monotonic()
    with (folder / "log.txt").open("w") as log:
        log.write(" ".join(command) + "\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=HERE.parent, start_new_session=True)
        while process.poll() is None and time.monotonic() - started < limit:
            time.sleep(0.5)
            if time.monotonic() - saved > SAVING:
                keep(folder)
                saved = time.monotonic()
        over = process.poll() is None
        for stop in (signal.SIGINT, signal.SIGKILL):  # At the first, training saves what it has.
            if process.poll() is None:
                os.killpg(process.pid, stop)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    continue
    keep(folder)
    result = {"seconds": round(time.monotonic() - started, 1), "command": command}
    return result | ({"stopped": "its time was over"} if over else {"code": process.returncode})


def keep(folder: Path) -> None:
    """Copy the weights of a training that goes on, so that a copy is whole at any time."""
    for path in folder.glob("*.safetensors"):
        if not path.stem.endswith("-kept"):
            part = path.with_suffix(".part")
            shutil.copyfile(path, part)
            part.replace(path.with_stem(f"{path.stem}-kept"))


def python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def training(options: argparse.Namespace, folder: Path, batch: int, crop: int, steps: int, reports: int) -> list[str]:
    """Return the command that trains from the bundled prior for some steps, with as many reports."""
    command = python("-m", "invdiff", "train", *options.training, "--out", folder / "natural.safetensors")
    command += ["--init", "natural", "--noise-maps", "--device", options.device]
    size = {"--steps": steps, "--batch": batch, "--crop": crop, "--report-every": max(1, steps // reports)}
    return command + [str(each) for option in size.items() for each in option]


def train(options: argparse.Namespace, folder: Path) -> list[str] | None:
    if not options.training:
        return None
    if options.tiny:
        return training(options, folder, batch=2, crop=32, steps=20, reports=2)
    return [*training(options, folder, options.batch, CROP, options.steps, reports=10), "--late-crop", str(LATE_CROP)]


def fitting_steps(options: argparse.Namespace, folder: Path, limit: float) -> tuple[int, float]:
    """Return the steps of a training that ends within the limit, by a short one, and the seconds that one took.

    The learning rate falls to zero at the last step: weights of a training that was stopped earlier are worse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spent = run(training(options, folder, options.batch, CROP, TRIAL, reports=2), folder, limit / 3)["seconds"]
    # The step, the loss, crops per second, and more. The time of the first report is also that of compiling.
    reports = re.findall(r"^ *\d+ +[\d.]+ +([\d.,]+)", (folder / "log.txt").read_text(), re.MULTILINE)
    rate = float(reports[-1].replace(",", "")) / options.batch if reports else 0.0  # steps per second
    return max(TRIAL, int((0.9 * (limit - spent) - STARTING) * rate)) if rate else FEW_STEPS, spent


def speed(options: argparse.Namespace, folder: Path) -> list[str]:
    command = python(HERE / "gpu_speed.py", "--device", options.device, "--out", folder / "speed.json")
    few = ["--side", "32", "--batch", "1", "2", "--networks", "natural", "--ways", "float32", "bfloat16"]
    return [*command, *few, "--steps", "2", "--seconds", "0"] if options.tiny else command


def laws(options: argparse.Namespace, folder: Path) -> list[str]:
    command = python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={folder / 'laws.xml'}", *LAWS)
    command += ["-m", "not slow", "-n", "2" if options.tiny else "4", "--device", options.device]
    return [*command, "--only", "Mask"] if options.tiny else command


def posterior(options: argparse.Namespace, folder: Path) -> list[str]:
    command = python(HERE / "posterior.py", "--out", folder / "posterior.json", "--device", options.device)
    command += ["--draws", "1", "--cases", "mixture 800 2"]
    return [*command, "--samples", "16", "--steps", "2", "--methods", "dps", "pigdm"] if options.tiny else command


def images(options: argparse.Namespace, folder: Path) -> list[str] | None:
    if not options.photographs or not options.kernel:
        return None
    trained = options.out / "train" / "natural.safetensors"
    command = python(HERE / "images.py", options.photographs, "--kernel", options.kernel, "--out", folder / "images.json")
    command += ["--prior", str(trained) if trained.exists() else "natural", "--device", options.device]
    if not options.tiny:
        return [*command, "--samples", "8"]
    few = ["--samples", "2", "--size", "32", "--photographs", "1"]
    return [*command, *few, "--only", "text", "--methods", "new-default"]


COMMANDS = {"train": train, "speed": speed, "laws": laws, "posterior": posterior, "images": images}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of all logs and results (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=11.5, help="for all parts together (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SHARES, default=list(SHARES), help="parts (default: all)")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the script on a CPU")
    parser.add_argument("--training", nargs="+", type=Path, default=[], help="photographs to train on: folders or tar archives")
    parser.add_argument("--steps", type=int, help="steps of the training (default: those that fit in its time)")
    parser.add_argument("--batch", type=int, default=256, help="crops per step of the training (default: %(default)s)")
    parser.add_argument("--photographs", type=Path, help="folder of the photographs of benchmarks/images.py")
    parser.add_argument("--kernel", help="camera-shake kernel of benchmarks/images.py")
    options = parser.parse_args()
    options.out = options.out.absolute()
    return options


if __name__ == "__main__":
    main()
