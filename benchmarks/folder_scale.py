"""Cost of a folder around its pictures: ``python benchmarks/folder_scale.py``.

*Many pictures*: thousands of pictures of 16 x 16 pixels, two steps of a tiny random network, one sample: time until the first
picture is done, time of each, memory after a tenth and at the end, and the time of a second run that finds everything done.
*Ranks*: photographs with the prior ``natural``, by one process and by two ranks of ``torchrun``, one thread each: the ratio of
the times, and whether the files are the same. *Batches*: pictures of 32 x 32 pixels sampled one by one and together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from invdiff.io.images import list_images
from invdiff.io.paths import sha256_of
from invdiff.priors import UNet, save_prior

PLAIN = (sys.executable, "-P", "-m", "invdiff")
RANKS = (sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "invdiff")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--count", type=int, default=10000, help="small pictures (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["many", "ranks", "batches"], choices=["many", "ranks", "batches"])
    options = parser.parse_args()
    photographs = [path.resolve() for path in list_images(options.folder)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if "many" in options.parts:
            many(options.count)
        if "ranks" in options.parts:
            ranks(photographs)
        if "batches" in options.parts:
            batches(photographs)


def many(count: int) -> None:
    """Restore very many small pictures, and look again."""
    draw, net = np.random.default_rng(0), UNet(widths=(4, 8), blocks=(1, 1), embedding=8)
    save_prior(net, Path("tiny.safetensors"), sigma_data=0.5, facts={})
    for number in range(count):
        path = Path("many", str(number // 1000), f"{number:06d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    settings = ("--problem", "denoise", "--noise", "0.2", "--prior", "tiny.safetensors", "--steps", "2", "--samples", "1")
    arguments = ("many", *settings, "--keep", "mean", "-o", "out-many")
    seen, first = measured(PLAIN, arguments, Path("out-many"), count)
    again, scanned = measured(PLAIN, arguments, Path("out-many"), count)
    show(
        {
            "small pictures": count,
            "first done after, s": first,
            "each, ms": round(1000 * (seen["seconds"] - first) / count, 1),
            "memory after a tenth, MiB": seen["early"],
            "memory at the end, MiB": seen["late"],
            "second run, s": again["seconds"],
            "of which start of the program, s": start_up(),
        }
    )
    assert scanned == 0


def measured(command: tuple[str, ...], arguments: tuple[str, ...], out: Path, count: int) -> tuple[dict[str, Any], float]:
    """Run a command; return its time and memory, and the seconds until the first result, 0 if it was there before."""
    started, first = time.monotonic(), 0.0
    before = lines(out)
    process = subprocess.Popen([*command, "solve", *arguments], stdout=subprocess.DEVNULL, env=environment())
    memory = list[tuple[int, float]]()

    def watch() -> None:
        while process.poll() is None:
            found = resident(process.pid)
            if found is not None:
                memory.append((lines(out), found))
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    while process.poll() is None:
        if not first and lines(out) > max(before, 1):
            first = round(time.monotonic() - started, 2)
        time.sleep(0.01)
    thread.join()
    assert process.returncode == 0, process.returncode
    early, late = (
        [used for done, used in memory if low * count < done < high * count] for low, high in ((0.05, 0.1), (0.9, 1))
    )
    return {
        "seconds": round(time.monotonic() - started, 2),
        "early": round(early[-1]) if early else None,
        "late": round(late[-1]) if late else None,
    }, first


def ranks(photographs: list[Path]) -> None:
    """Restore photographs of several sizes by one process and by two ranks."""
    Path("photographs").mkdir()
    for number, path in enumerate(photographs):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((56 + 8 * (number % 5), 96))
        picture.save(Path("photographs", f"{number}.png"))
    arguments = ("photographs", "--problem", "denoise", "--noise", "0.1", "--samples", "2")
    seconds = {}
    for name, command in {"one": PLAIN, "two": RANKS}.items():
        started = time.monotonic()
        subprocess.run([*command, "solve", *arguments, "-o", name], check=True, stdout=subprocess.DEVNULL, env=environment())
        seconds[name] = time.monotonic() - started
    start = start_up()
    show(
        {
            "photographs": len(photographs),
            "one process, s": round(seconds["one"], 1),
            "two ranks, s": round(seconds["two"], 1),
            "ratio": round(seconds["one"] / seconds["two"], 2),
            "ratio without the start of the program": round((seconds["one"] - start) / (seconds["two"] - start), 2),
            "same files": contents(Path("one")) == contents(Path("two")),
        }
    )


def batches(photographs: list[Path]) -> None:
    """Restore pictures of one size one by one and sixteen together; processor time."""
    Path("icons").mkdir()
    for number in range(48):
        picture = Image.open(photographs[number % len(photographs)]).convert("RGB").resize((32 + number, 32 + number))
        picture.crop((0, 0, 32, 32)).save(Path("icons", f"{number}.png"))
    seconds = []
    for batch in ("1", "16"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        arguments = (
            "icons",
            "--problem",
            "denoise",
            "--noise",
            "0.1",
            "--samples",
            "4",
            "--batch",
            batch,
            "-o",
            f"batch-{batch}",
        )
        subprocess.run([*PLAIN, "solve", *arguments], check=True, stdout=subprocess.DEVNULL, env=environment())
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    show({"pictures of 32 x 32": 48, "one by one, s": round(seconds[0], 1), "sixteen together, s": round(seconds[1], 1)})


def start_up() -> float:
    """Return the time of a command that finds a single picture done."""
    Path("single").mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(Path("single", "a.png"))
    command = [*PLAIN, "solve", "single", "--problem", "denoise", "--noise", "0.1", "--steps", "1", "--samples", "1", "-o", "s"]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return round(time.monotonic() - started, 2)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def lines(out: Path) -> int:
    """Return the number of lines of the manifest."""
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def resident(process: int) -> float | None:
    """Return the memory of a process in MiB."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def contents(out: Path) -> dict[str, str]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.name != "manifest.jsonl"]
    return {str(path.relative_to(out)): sha256_of(path) for path in paths}


def show(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
