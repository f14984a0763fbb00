"""Standard streams that are closed, and names of files that are not UTF-8."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invdiff.io.images import read_image, write_image
from invdiff.io.paths import sha256_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes, and streams are descriptors")

ODD = os.fsdecode(b"a\xff")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nu").mkdir()
    for name in (ODD, "b"):
        write_image(tmp_path / "nu" / f"{name}.png", np.zeros((3, 16, 16)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(folder, closed):
    """The descriptor of a closed stream must not go to a file, which would receive what is printed."""
    script = (
        "import os, sys, warnings\n"
        "from invdiff.cli import main\n"
        "sys.argv = ['invdiff', 'evaluate', '--reference', 'nu', '--restored', 'nu', '--metrics', 'psnr', '--csv', 'f.csv']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    first = os.open('first', os.O_WRONLY | os.O_CREAT)\n"
        "    os.write(2, b'of a library')\n"
        "    print('more'), print('more', file=sys.stderr)\n"
        "    assert first > 2\n"
    )
    (folder / "script.py").write_text(script)
    done = subprocess.run(["sh", "-c", f"{sys.executable} script.py {closed}"], capture_output=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (folder / "f.csv").read_text().startswith("name,psnr")
    assert (folder / "first").read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")  # noqa: PTH110
def test_a_summary_that_cannot_be_printed(folder, tiny_prior):
    few = f"--prior {tiny_prior} --precision float32 --steps 1 --samples 1 -o out"
    command = f"{sys.executable} -m invdiff solve nu/b.png --problem denoise --noise 0.1 {few} > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 1
    assert "Error: the summary could not be printed (No space left on device). The results are in out.\n" in done.stderr
    assert (folder / "out" / "run.json").exists()


class TestNames:
    def test_evaluate(self, invdiff, folder):
        arguments = ("evaluate", "--reference", "nu", "--restored", "nu", "--metrics", "psnr")
        result = invdiff(*arguments, "--csv", "f.csv", "--json", "f.json")
        assert "b" in result.stdout
        rows = list(csv.DictReader((folder / "f.csv").read_text(encoding="utf-8").splitlines()))
        assert [row["name"] for row in rows] == ["a\\xff", "b"]
        images = json.loads((folder / "f.json").read_text(encoding="utf-8"))["images"]
        assert [image["name"] for image in images] == [ODD, "b"]
        assert json.loads(invdiff(*arguments, "--json", "-").stdout)["images"] == images
        invdiff(*arguments, "--csv", "f.csv", "--json", "f.json")  # over its own

    def test_messages(self, invdiff, folder):
        (folder / "nu" / f"{ODD}.png").write_bytes(b"no picture")
        (folder / "nu" / f"{ODD}{ODD}.png").write_bytes(b"no picture")
        result = invdiff("evaluate", "--reference", "nu", "--restored", "nu", "--metrics", "psnr", code=1)
        assert "2 of 3 pairs could not be compared" in result.stderr

    def test_solve(self, solve, folder):
        for more in (("--json",), ("-o", os.fsdecode(b"out\xfe")), ("-o", os.fsdecode(b"out\xfe"), "--overwrite")):
            result = solve(f"nu/{ODD}.png", "--problem", "sr", "--factor", 2, *more)
        folders = [folder / "invdiff-out" / f"{ODD}-sr", folder / os.fsdecode(b"out\xfe")]
        for made in folders:
            record = json.loads((made / "run.json").read_text(encoding="utf-8"))
            assert record["files"]["input"] == {"path": f"nu/{ODD}.png", "sha256": sha256_of(folder / "nu" / f"{ODD}.png")}
        assert "results" in result.stdout

    def test_train(self, invdiff, folder):
        small = ("--widths", "8,16", "--blocks", "1,1", "--steps", 1, "--batch", 2, "--crop", 16)
        for name in (b"\xfe", b"\xfd"):
            (folder / "nu" / os.fsdecode(name + b".png")).write_bytes(b"no picture")
        (folder / "nu").rename(folder / os.fsdecode(b"nu\xff"))
        for _ in range(2):
            invdiff("train", os.fsdecode(b"nu\xff"), "--out", "mine.safetensors", *small, "--overwrite")
        invdiff("train", os.fsdecode(b"nu\xff"), "--out", "mine.safetensors", *small, "--steps", 2)
        assert "nu\\udcff" in (folder / "mine.md").read_text(encoding="utf-8")

    def test_deep_results(self, solve, folder):
        """PNG files of 16 bits are written by a library that takes names in UTF-8 alone."""
        values = np.random.default_rng(0).random((16, 24))
        np.save(f"{ODD}.npy", values)
        solve(f"{ODD}.npy", "--problem", "denoise", "--noise", 0.1)
        made = folder / "invdiff-out" / f"{ODD}-denoise"
        with Image.open(made / "mean.png") as mean:
            assert mean.mode == "I;16"
        write_image(folder / f"{ODD}.png", 2 * values[None] - 1, bits=16)
        assert abs((read_image(folder / f"{ODD}.png").pixels[0] + 1) / 2 - values).max() < 1e-5

    def test_weights_need_text(self, invdiff, folder, tiny_prior):
        """The library of safetensors cannot read other names: they are refused before the work."""
        out = ("--out", os.fsdecode(b"mine\xff.safetensors"))
        for arguments in (("train", "nu"), ("priors", "convert", tiny_prior), ("priors", "measure", tiny_prior, "nu")):
            assert "expected a name in UTF-8" in invdiff(*arguments, *out, code=2).stderr
        inside = os.fsdecode(b"in\xff/mine.safetensors")
        Path(inside).parent.mkdir()
        for weights in (out[1], inside):
            Path(weights).write_bytes(tiny_prior.read_bytes())
            assert "is not in UTF-8, which safetensors files need" in invdiff("priors", "inspect", weights, code=1).stderr
