"""Kills of ``invdiff solve FOLDER`` at random moments: ``python benchmarks/folder_kills.py``.

A folder of small pictures, some of them broken, is restored while the command is killed with SIGKILL again and again, as one
process, and under ``torchrun`` with two ranks, where all processes are killed or one worker. After every kill each folder of
results must be complete, by the digests in its record. When all pictures are done, the files must equal those of an
undisturbed run byte for byte, with nothing else in the folder; then the results are removed, and the killing goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from invdiff.io.images import write_image
from invdiff.io.paths import sha256_of

SETTINGS = ("--problem", "inpaint", "--mask", "masks", "--steps", "2", "--samples", "2", "--noise", "0.02", "-o", "out")
COMMANDS = {
    "one process": (sys.executable, "-P", "-m", "invdiff"),
    "2 ranks": (
        sys.executable,
        "-P",
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "3",
        "-m",
        "invdiff",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=[*COMMANDS], choices=[*COMMANDS], help="(default: both)")
    parser.add_argument("--pictures", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--broken", type=int, default=2, help="of the pictures (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fill(options.pictures, options.broken)
        assert run("one process").returncode == (1 if options.broken else 0)
        expected = contents(Path("out"))
        done = sum(name.endswith("/run.json") for name in expected)
        what = f"{options.pictures} pictures of 24 x 16 pixels, {options.broken} of them broken"
        print(f"{what}: {done} restored, {len(expected)} files", flush=True)
        assert done == options.pictures - options.broken
        for kind in options.kinds:
            shutil.rmtree("out")
            kills(kind, options.kills, expected, options.broken)


def fill(pictures: int, broken: int) -> None:
    """Write pictures and their masks."""
    draw = np.random.default_rng(0)
    for number in range(pictures):
        name = f"{'sub/' if number % 3 == 0 else ''}{number}.png"
        for kind in ("album", "masks"):
            Path(kind, name).parent.mkdir(parents=True, exist_ok=True)
        write_image(Path("album", name), draw.uniform(-1, 1, (3, 16, 24)))
        write_image(Path("masks", name), np.where(draw.uniform(size=(1, 16, 24)) < 0.2, 1.0, -1.0))
    for number in range(1, broken + 1):
        Path("album", f"{3 * number + 1}.png").write_bytes(b"\x89PNG nothing")


def start(kind: str) -> subprocess.Popen[bytes]:
    command = [*COMMANDS[kind], "solve", "album", *SETTINGS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def run(kind: str) -> subprocess.Popen[bytes]:
    process = start(kind)
    process.wait()
    return process


def kills(kind: str, count: int, expected: dict[str, str], broken: int) -> None:
    """Kill a command so often, and check what it leaves."""
    draw, killed, rounds, kept = random.Random(0), 0, 0, 0
    started = time.monotonic()
    run(kind)
    duration = time.monotonic() - started
    check_end(expected, broken)
    shutil.rmtree("out")
    while killed < count:
        process, whole = start(kind), draw.random() < 0.5
        try:
            process.wait(draw.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            workers = children(process.pid)
            if kind == "one process" or whole or not workers:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(draw.choice(workers), signal.SIGKILL)  # torchrun starts the ranks again
            killed += 1
            if killed % 10 == 0:
                print(f"{kind}: {killed} kills", flush=True)
            process.wait()
            wait_for_end(process.pid)
        kept = max(kept, check(Path("out")))
        if process.returncode >= 0 and Path("out").exists() and set(contents(Path("out"))) == set(expected):
            check_end(expected, broken)
            rounds += 1
            shutil.rmtree("out")
    run(kind)
    check_end(expected, broken)
    print(f"{kind}: {killed} kills, {rounds + 1} times all pictures done, identical, nothing left over", flush=True)


def children(process: int) -> list[int]:
    """Return the worker processes of a command."""
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def wait_for_end(group: int) -> None:
    """Wait until every process of a group has ended."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def contents(out: Path) -> dict[str, str]:
    """Return the digests of all files but the manifest, by name."""
    paths = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("manifest")]
    return {str(path.relative_to(out)): sha256_of(path) for path in paths}


def check(out: Path) -> int:
    """Check that every folder of results is complete; return their number."""
    shown = [path for path in out.rglob("*") if not any(part.startswith(".") for part in path.relative_to(out).parts)]
    records = [path for path in shown if path.name == "run.json"]
    files = {path for path in shown if path.is_file() and not path.name.startswith("manifest")}
    for record in records:
        outputs = json.loads(record.read_text())["outputs"]
        assert all(sha256_of(record.parent / name) == digest for name, digest in outputs.items()), record
        files -= {record, *(record.parent / name for name in outputs)}
    assert not files, files  # a file without a record
    return len(records)


def check_end(expected: dict[str, str], broken: int) -> None:
    """Check that the results are those of the undisturbed run, with a manifest, and nothing else."""
    out = Path("out")
    assert contents(out) == expected
    assert [path.name for path in out.iterdir() if path.name.startswith((".", "manifest"))] == ["manifest.jsonl"]
    assert not list(out.rglob(".*"))
    assert not [path for path in out.rglob("*") if path.is_dir() and not any(path.iterdir())]
    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()][1:]
    done = sum(name.endswith("/run.json") for name in expected)
    assert sorted(entry["state"] for entry in entries) == ["done"] * done + ["failed"] * broken


if __name__ == "__main__":
    main()
