"""The command stopped and killed at any moment: no file is half written, left behind, or somebody else's and touched."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import SIGNALS, Server

from invdiff.io.images import read_image, write_image
from invdiff.io.paths import sha256_of
from invdiff.priors import load_prior

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")

SMALL = ("--widths", "8,16", "--blocks", "1,1", "--batch", 2, "--crop", 16, "--report-every", 3, "--steps", 6)
NAMES = {signal.SIGTERM: "Stopped by SIGTERM.", signal.SIGHUP: "Stopped by SIGHUP.", signal.SIGINT: "Interrupted."}


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_prior):
    first = filled(tmp_path_factory.mktemp("first"))
    with Server(tmp_path_factory.mktemp("printed")) as server:
        server.warm(*solve(tiny_prior), folder=first)
        server.warm("train", "photos", "--out", "mine.safetensors", *SMALL, folder=first)
        yield server


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path)


def filled(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    write_image(folder / "in.png", draw.uniform(-1, 1, (3, 12, 16)))
    (folder / "photos").mkdir()
    for number in range(5):
        write_image(folder / "photos" / f"{number}.png", draw.uniform(-1, 1, (3, 24, 24)))
    return folder


def solve(tiny_prior, *more):
    few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 2, "--samples", 2)
    return ("solve", "in.png", "--problem", "sr", "--factor", 2, *few, *more)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def complete(folder: Path) -> None:
    """Check that the results of a run are all there, and nothing else."""
    record = json.loads((folder / "run.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"run.json", *record["outputs"]}
    assert all(sha256_of(folder / name) == digest for name, digest in record["outputs"].items())


@pytest.mark.slow
class TestFortyKills:
    def test_solve(self, server, folder, tiny_prior):
        """A new folder, and one to be replaced; after a kill the next run takes the same name."""
        before, draw = files(folder), random.Random(0)
        started = time.monotonic()
        assert server.run(*solve(tiny_prior, "-o", "kept"), folder=folder).code == 0
        duration = time.monotonic() - started
        (folder / "kept" / "notes.txt").write_text("mine")
        old = files(folder / "kept")
        seen = set()
        for kill in range(28):
            number = SIGNALS[kill % 4]
            over = kill % 8 >= 4
            process = server.start(*solve(tiny_prior, *(("-o", "kept", "--overwrite") if over else ())), folder=folder)
            time.sleep(draw.uniform(0, 1.1) * duration)
            server.send(process, number)
            ended = server.wait(process)
            seen.add(ended.code)
            duration *= 1.05 if ended.code else 0.8  # as fast as the machine is now
            assert ended.code in (0, -number if number == signal.SIGKILL else 128 + number, -number), ended
            if ended.code > 0:
                assert ended.err.splitlines()[-1] == NAMES[number]
            if number != signal.SIGKILL:
                assert leftovers(folder) == []
            now = files(folder)
            assert all(now[name] == digest for name, digest in before.items())
            assert now["kept/notes.txt"] == old["notes.txt"]
            if over:
                if number == signal.SIGKILL:  # what was under way is finished or dropped by the next run
                    server.run(*solve(tiny_prior, "-o", "kept"), folder=folder)
                    assert leftovers(folder) == []
                (folder / "kept" / "notes.txt").unlink()
                complete(folder / "kept")
                (folder / "kept" / "notes.txt").write_text("mine")
                continue
            made = sorted((folder / "invdiff-out").iterdir()) if (folder / "invdiff-out").exists() else []
            made = [path for path in made if not path.name.startswith(".")]
            done = len(made)
            # A negative code: the signal came before the command listened, or when it was done.
            assert done <= 1 if ended.code < 0 else done == (ended.code == 0)
            if number == signal.SIGKILL:
                assert server.run(*solve(tiny_prior), folder=folder).code == 0
                made = sorted((folder / "invdiff-out").iterdir())
                assert [path.name for path in made] == ["in-sr", "in-sr-2"][: len(made)]
                assert len(made) == 1 + done
                assert leftovers(folder) == []
            for path in made:
                complete(path)
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
        assert {128 + signal.SIGTERM, 128 + signal.SIGHUP, 130, -signal.SIGKILL} <= seen

    def test_train(self, server, folder):
        """Stopped and killed again and again, a training ends with the weights of one that was not."""
        draw = random.Random(1)
        images = files(folder / "photos")
        started = time.monotonic()
        assert server.run("train", "photos", "--out", "whole.safetensors", *SMALL, folder=folder).code == 0
        duration = time.monotonic() - started
        command = ("train", "photos", "--out", "photos/mine.safetensors", *SMALL)  # among the images
        ends, runs = 0, 0
        while ends < 12:
            number, runs = SIGNALS[ends % 4], runs + 1
            assert runs < 60
            process = server.start(*command, folder=folder)
            time.sleep(draw.uniform(0.1, 1) * duration)
            server.send(process, number)
            ended = server.wait(process)
            assert ended.code in (0, 128 + number, -number), ended
            ends += ended.code != 0
            duration *= 1.05 if ended.code else 0.8  # as fast as the machine is now
            if ended.code > 0:
                assert ended.err.splitlines()[-1].startswith(NAMES[number])
            if number != signal.SIGKILL:
                assert leftovers(folder) == []
            assert images.items() <= files(folder / "photos").items()
            if (folder / "photos" / "mine.ckpt").exists():
                torch.load(folder / "photos" / "mine.ckpt", weights_only=True)
            if (folder / "photos" / "mine.safetensors").exists():
                load_prior(folder / "photos" / "mine.safetensors")
            for grid in (folder / "photos").rglob("step-*.png"):
                read_image(grid)
            if ended.code == 0:  # the next one starts anew
                for path in (folder / "photos").glob("mine*"):
                    [file.unlink() for file in path.iterdir()] if path.is_dir() else path.unlink()
        assert server.run(*command, folder=folder).code == 0
        assert leftovers(folder) == []
        one, two = (load_prior(folder / name, precision="float32") for name in ("whole.safetensors", "photos/mine.safetensors"))
        x_t = torch.ones(1, 3, 16, 16)
        assert torch.equal(one.denoise(x_t, torch.tensor(0.5)), two.denoise(x_t, torch.tensor(0.5)))


@pytest.mark.slow
def test_killed_while_files_are_moved(server, folder, tiny_prior):
    """Killed at any of the moves into an existing folder, the next run finishes them: the results are of one run."""
    assert server.run(*solve(tiny_prior, "-o", "out", "--samples", 3), folder=folder).code == 0
    (folder / "out" / "notes.txt").write_text("mine")
    seen, move, code = set(), 0, None
    while code != 0:
        move += 1
        code = server.run(*solve(tiny_prior, "-o", "out", "--overwrite", "--seed", move), folder=folder, kill=move).code
        assert code in (0, -signal.SIGKILL)
        if code:
            assert "is not empty" in server.run(*solve(tiny_prior, "-o", "out"), folder=folder).err
        assert leftovers(folder) == []
        assert (folder / "out" / "notes.txt").read_text() == "mine"
        (folder / "out" / "notes.txt").unlink()
        complete(folder / "out")
        (folder / "out" / "notes.txt").write_text("mine")
        seen.add(json.loads((folder / "out" / "run.json").read_text())["arguments"]["seed"])
    assert move > 10
    assert {0, move - 1} <= seen  # the earlier results stayed, or the new ones are all there
    assert not (folder / "out" / "sample-3.png").exists()


@pytest.mark.parametrize("number", SIGNALS[:3], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["solve", "calibrate", "evaluate", "train", "measure"])
def test_signals_end_a_command_in_a_line(server, folder, tiny_prior, command, number):
    photos = folder / "photos"
    (folder / "tiny.safetensors").write_bytes(tiny_prior.read_bytes())
    few = ("--prior", tiny_prior, "--steps", 10**4)
    arguments = {
        "solve": ("solve", "in.png", "--problem", "sr", "--factor", 2, *few),
        "calibrate": ("calibrate", photos, "--problem", "denoise", "--noise", 0.1, "--size", 24, *few),
        "evaluate": ("evaluate", "--reference", photos, "--restored", photos, "--csv", "f.csv", "--metrics", "ssim"),
        "train": ("train", photos, "--out", "new/mine.safetensors", *SMALL[:-1], 10**6),
        "measure": ("priors", "measure", "tiny.safetensors", photos, "--crops", 10**4, "--size", 24),
    }[command]
    before = files(folder)
    process = server.start(*arguments, folder=folder)
    server.wait_for_handlers(process)
    time.sleep(0.02 if command == "evaluate" else 0.3)
    server.send(process, number)
    ended = server.wait(process)
    assert ended.code == 128 + number or command == "evaluate"
    assert leftovers(folder) == []
    if ended.code:
        assert ended.err.splitlines()[-1].startswith(NAMES[number])
        assert "Traceback" not in ended.err
    made = {name for name in files(folder) if name not in before}
    assert made <= ({"new/mine.ckpt", "new/mine.safetensors"} if command == "train" else {"f.csv"}) | {
        name for name in made if name.startswith("new/mine-samples/step-")
    }
    assert not (folder / "invdiff-out").exists()


def test_a_dead_run_gives_its_name_back(server, folder, tiny_prior):
    process = server.start(*solve(tiny_prior, "--steps", 10**4), folder=folder)
    deadline = time.monotonic() + 60
    while not leftovers(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.run(*solve(tiny_prior), folder=folder).code == 0  # beside one that is alive
    assert [path.name for path in leftovers(folder)] == [".in-sr.invdiff-part"]
    server.send(process, signal.SIGKILL)
    server.wait(process)
    assert server.run(*solve(tiny_prior), folder=folder).code == 0
    assert sorted(path.name for path in (folder / "invdiff-out").iterdir()) == ["in-sr", "in-sr-2"]
