"""Checkpoints of others at the command line: what was assumed of them, what they are, and no control of the terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import filled
from PIL import Image

from invdiff.priors import UNet, save_prior
from invdiff.priors.networks.adm import ADM

pytestmark = pytest.mark.slow

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp\rhidden"
CONTROLS = ("\x1b", "\x07", "\x9b", "\u202e", "\r")
FEW = ("--steps", 2, "--samples", 2, "--size", 16)


def save(path: Path, **other: Any) -> Path:
    config = {"channels": 3, "width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2], "heads": 4} | other
    torch.save(filled({name: tuple(value.shape) for name, value in ADM(**config).state_dict().items()}), path)
    return path


def picture(path: Path, side: int = 16) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)).save(path)
    return path


def clean(result: Any) -> str:
    """Return all that was printed, which has nothing that controls a terminal."""
    text = result.stdout + result.stderr
    assert not [c for c in CONTROLS if c in text]
    assert all(c.isprintable() or c == "\n" for c in text)
    return text


class TestAssumptions:
    def test_solve_says_them_and_records_them(self, invdiff, tmp_path):
        save(tmp_path / "adm.pt")
        picture(tmp_path / "a.png")
        arguments = (
            "solve",
            "a.png",
            "--problem",
            "denoise",
            "--noise",
            0.1,
            "--steps",
            2,
            "--samples",
            2,
            "--prior",
            "adm.pt",
        )
        said = invdiff(*arguments, "-o", "o").stderr
        (line,) = [line for line in said.splitlines() if line.startswith("assumed of adm.pt: ")]
        for word in ("heads=4", "schedule=linear", "steps=1000", "predicts=eps", "image_size=16", "--prior-option"):
            assert word in line
        assert line in json.loads(Path("o/run.json").read_text())["notes"]
        given = ("--prior-option", "heads=4", "--prior-option", "schedule=linear")
        again = invdiff(*arguments, *given, "-o", "p").stderr
        assert "assumed of adm.pt: attention_order=legacy" in again
        assert "heads=" not in again.split("(")[0]

    def test_calibrate_says_them(self, invdiff, tmp_path):
        save(tmp_path / "adm.pt")
        (tmp_path / "images").mkdir()
        for number in range(2):
            picture(tmp_path / "images" / f"{number}.png", 24)
        arguments = ("calibrate", "images", "--problem", "denoise", "--noise", 0.2, "--prior", "adm.pt", *FEW)
        assert "assumed of adm.pt: heads=4" in invdiff(*arguments).stderr

    def test_nothing_of_the_bundled_prior(self, solve, tmp_path):
        assert "assumed" not in solve(picture(tmp_path / "a.png"), "--problem", "denoise", "--noise", 0.1).stderr

    def test_four_channels(self, invdiff, tmp_path):
        save(tmp_path / "rgba.pt", channels=4)
        assert "4 channels: taken as images" in " ".join(invdiff("priors", "inspect", "rgba.pt").stdout.split())

    def test_other_numbers_of_channels(self, invdiff, tmp_path):
        save_prior(UNet(channels=5, widths=(8, 8), blocks=(1, 1)), tmp_path / "five.safetensors", sigma_data=0.5, facts={})
        picture(tmp_path / "a.png")
        arguments = ("--problem", "denoise", "--noise", 0.1, "--prior", "five.safetensors")
        assert "5 channels" in invdiff("solve", "a.png", *arguments, code=1).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("[" * 10**6, "recursion"),
        ("9" * 10**5, "digits"),
        (
            '{"format": "invdiff calibration, version 1", "problems": {"denoise": {"widths": [], "prior": {"sha256": 3}}}}',
            "is damaged",
        ),
    ],
)
def test_calibrations_of_another_form(solve, tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    arguments = (picture(tmp_path / "a.png"), "--problem", "denoise", "--noise", 0.1, "--calibration", "c.json")
    said = solve(*arguments, code=1).stderr
    assert "c.json is damaged or not a calibration file" in said
    assert message in said


class TestNothingControlsTheTerminal:
    def test_metadata(self, invdiff, tmp_path):
        facts = {"summary": EVIL, EVIL: EVIL, "license": EVIL, "steps": [EVIL, {EVIL: EVIL}]}
        save_prior(UNet(widths=(8, 8), blocks=(1, 1)), tmp_path / "evil.safetensors", sigma_data=0.5, facts=facts)
        (tmp_path / "evil.md").write_text(f"# {EVIL}\n\nLicense: {EVIL}\n")
        found = clean(invdiff("priors", "inspect", "evil.safetensors"))
        assert r"\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp\rhidden" in found
        clean(invdiff("priors", "inspect", "evil.safetensors", "--json"))
        picture(tmp_path / "a.png")
        clean(
            invdiff(
                "solve", "a.png", "--problem", "denoise", "--noise", 0.1, "--prior", "evil.safetensors", *FEW[:4], "-o", "o"
            )
        )
        clean(invdiff("priors", "convert", "evil.safetensors", "--out", "other.safetensors"))

    def test_assumptions_of_a_recipe(self, invdiff, tmp_path):
        net = UNet(widths=(8, 8), blocks=(1, 1))
        save_prior(net, tmp_path / "own.safetensors", sigma_data=0.5, facts={})
        with safetensors.safe_open(tmp_path / "own.safetensors", "pt") as file:
            spec = json.loads(file.metadata()["invdiff"])
        spec["assumed"] = {EVIL: f"{EVIL} ({EVIL})"}
        metadata = {"invdiff": json.dumps(spec)}
        safetensors.torch.save_file(net.state_dict(), tmp_path / "evil.safetensors", metadata=metadata)
        picture(tmp_path / "a.png")
        arguments = ("--problem", "denoise", "--noise", 0.1, "--prior", "evil.safetensors", *FEW[:4])
        assert r"assumed of evil.safetensors: \x1b" in clean(invdiff("solve", "a.png", *arguments, "-o", "o"))
        assert r"\x1b[31mred" in clean(invdiff("priors", "convert", "evil.safetensors", "--out", "other.safetensors"))

    def test_names_of_weights(self, invdiff, tmp_path):
        safetensors.torch.save_file({f"{EVIL}.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
        assert r"\x1b[31mred" in clean(invdiff("priors", "inspect", "a.safetensors", code=1))
        torch.save({EVIL: {EVIL: torch.zeros(1)}}, tmp_path / "a.pt")
        assert r"\x1b[31mred" in clean(invdiff("priors", "inspect", "a.pt", code=1))

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file has such a name")
    @pytest.mark.parametrize("name", [EVIL, os.fsdecode(b"m\xfcll")], ids=["controls", "not UTF-8"])
    def test_names_of_files(self, invdiff, tmp_path, name):
        save(tmp_path / f"{name}.pt")
        clean(invdiff("priors", "inspect", f"{name}.pt"))
        clean(invdiff("priors", "inspect", f"{name}.pth", code=1))
        (tmp_path / f"{name}.bin").write_bytes(b"x")
        clean(invdiff("priors", "inspect", f"{name}.bin", code=1))
        clean(invdiff("priors", "convert", f"{name}.pt", "--out", f"{name}.txt", code=2))
        picture(tmp_path / "a.png")
        arguments = ("--problem", "denoise", "--noise", 0.1, "--steps", 2, "--samples", 2)
        clean(invdiff("solve", "a.png", *arguments, "--prior", f"{name}.pt", "-o", f"out-{name}"))

    def test_names_of_pictures(self, invdiff, tmp_path):
        for folder in ("clean", "restored"):
            (tmp_path / folder).mkdir()
            picture(tmp_path / folder / f"{EVIL}.png")
        picture(tmp_path / "clean" / f"{EVIL}-2.png")
        (tmp_path / "clean" / f"{EVIL}-3.png").write_bytes(b"x")
        (tmp_path / "restored" / f"{EVIL}-3.png").write_bytes(b"x")
        result = invdiff("evaluate", "--reference", "clean", "--restored", "restored", "--metrics", "psnr", code=1)
        assert clean(result).count(r"\x1b[31m") >= 3
