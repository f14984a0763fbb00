"""The command line itself (help, versions, exit codes), and ``invdiff evaluate`` on folders of small images."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from skimage import data

import invdiff.cli
from invdiff.cli import COMMANDS, main
from invdiff.io.images import write_image
from invdiff.metrics import psnr, ssim

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.delenv("INVDIFF_DEBUG", raising=False)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def photograph(shift=0, size=32):
    return data.chelsea()[shift : shift + size, 40 : 40 + size].transpose(2, 0, 1) / 127.5 - 1


@pytest.fixture
def folders(tmp_path):
    """Three pairs: one noisy, one identical, one grey against colour; and a partnerless file on either side."""
    clean, out = tmp_path / "clean", tmp_path / "out"
    clean.mkdir()
    out.mkdir()
    rng = np.random.default_rng(0)
    for k, name in enumerate(["a", "b"]):
        image = photograph(20 * k)
        write_image(clean / f"{name}.png", image)
        write_image(out / f"{name}.tif", image + (0.1 * rng.normal(size=image.shape) if name == "a" else 0))
    write_image(clean / "c.png", photograph(60)[:1])
    write_image(out / "c.png", photograph(60)[:1].repeat(3, 0) * 0.9)
    write_image(clean / "lonely.png", photograph())
    write_image(out / "other.webp", photograph())
    (out / "run.json").write_text("{}")
    return clean, out


class TestGroup:
    @pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"]])
    def test_help_is_light(self, arguments):
        # Imports are counted rather than seconds: torch alone would take longer than half a second.
        script = (
            f"import sys; sys.argv = ['invdiff', *{arguments}]\n"
            "from invdiff.cli import main\n"
            "main(standalone_mode=False)\n"
            "print(*sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'scipy'} & set(sys.modules)), file=sys.stderr)"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "Usage: invdiff" in run.stdout
        assert "Examples:" in run.stdout
        assert run.stderr.strip() == ""

    def test_help_lists_every_command(self):
        result = invoke("--help")
        assert result.exit_code == 0
        for name, (_, text) in COMMANDS.items():
            assert name in result.stdout
            assert text in result.stdout

    def test_module_and_version(self):
        run = subprocess.run([sys.executable, "-m", "invdiff", "--version"], capture_output=True, text=True, check=True)
        assert run.stdout == f"invdiff, version {invdiff.__version__}\n"

    @pytest.mark.parametrize("arguments", [["slove"], ["--nonsense"], ["evaluate"], ["evaluate", "--nonsense"]])
    def test_wrong_usage_exits_with_2(self, arguments):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Usage:" in result.stderr

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (ValueError("one\nline"), 1, "Error: one line\n"),
            (TypeError("wrong kind"), 1, "Error: wrong kind\n"),
            (FileNotFoundError(2, "No such file", "x.png"), 1, "Error: x.png: No such file\n"),
            (invdiff.cli.click.ClickException("said"), 1, "Error: said\n"),
            (RuntimeError("deep inside"), 1, "Error: RuntimeError: deep inside (INVDIFF_DEBUG=1 shows the traceback)\n"),
            (KeyError("x"), 1, "Error: KeyError: 'x' (INVDIFF_DEBUG=1 shows the traceback)\n"),
            (KeyboardInterrupt(), 130, "Interrupted.\n"),
        ],
    )
    def test_errors_become_exit_codes(self, monkeypatch, error, code, text):
        def fail():
            raise error

        monkeypatch.setattr(invdiff.cli._LazyGroup, "get_command", lambda *_: click.Command("fail", callback=fail))
        result = invoke("fail")
        assert result.exit_code == code
        assert result.stderr == text
        assert result.stdout == ""

    def test_debugging_shows_the_traceback(self, monkeypatch):
        def fail():
            raise ValueError("here")

        monkeypatch.setattr(invdiff.cli._LazyGroup, "get_command", lambda *_: click.Command("fail", callback=fail))
        monkeypatch.setenv("INVDIFF_DEBUG", "1")
        assert isinstance(invoke("fail").exception, ValueError)


class TestEvaluate:
    def test_table(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--metrics", "psnr,ssim")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["image", "PSNR", "[dB]", "SSIM"]
        assert [line.split()[0] for line in lines[2:5]] == ["a", "b", "c"]
        assert lines[3].split() == ["b", "inf", "1.0000"]
        assert lines[-3].startswith("mean of 3")
        assert [line.split()[:2] for line in lines[-2:]] == [["95", "%"]] * 2
        assert "2 without a counterpart" in result.stderr
        assert "lonely.png" in result.stderr
        assert "other.webp" in result.stderr
        assert "run.json" not in result.stderr

    def test_json_on_stdout_is_all_there_is(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--json", "-", "--metrics", "psnr,ssim")
        report = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert result.exit_code == 0
        assert [row["name"] for row in report["images"]] == ["a", "b", "c"]
        assert report["images"][1]["psnr"] == "inf"
        assert report["mean"]["psnr"] == "inf"
        assert report["mean"]["ssim"] == pytest.approx(sum(row["ssim"] for row in report["images"]) / 3)
        assert len(report["unpaired"]) == 2
        assert report["failed"] == {}

    def test_figures_are_those_of_the_functions(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--json", "-", "--metrics", "ssim,psnr")
        row = json.loads(result.stdout)["images"][2]
        written = np.rint((photograph(60)[:1] * 0.9 + 1) * 127.5) / 127.5 - 1
        x, reference = (torch.from_numpy(image)[None].repeat(1, 3, 1, 1) for image in (written, photograph(60)[:1]))
        assert list(row) == ["name", "ssim", "psnr"]
        assert row["psnr"] == pytest.approx(float(psnr(x, reference)))
        assert row["ssim"] == pytest.approx(float(ssim(x, reference)))

    def test_json_and_csv_files(self, folders, tmp_path):
        clean, out = folders
        files = ["--json", tmp_path / "figures.json", "--csv", tmp_path / "figures.csv"]
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--metrics", "psnr", *files)
        assert result.stdout.startswith("image")
        report = json.loads((tmp_path / "figures.json").read_text())
        with (tmp_path / "figures.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == ["a", "b", "c"]
        assert [float(row["psnr"]) for row in rows] == [float(row["psnr"]) for row in report["images"]]
        assert math.isinf(float(rows[1]["psnr"]))

    def test_missing_weights_leave_the_column_out(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out)
        assert result.exit_code == 0
        assert "LPIPS" not in result.stdout
        assert "PSNR" in result.stdout
        (line,) = [line for line in result.stderr.splitlines() if "alexnet" in line]
        assert os.environ["TORCH_HOME"] in line

    def test_missing_weights_for_the_only_metric(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--metrics", "lpips")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "alexnet" in result.stderr

    def test_two_files(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean / "a.png", "--restored", out / "other.webp", "--metrics", "psnr")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[2].split() == ["other.webp", "inf"]
        assert "mean" not in result.stdout

    def test_a_file_and_a_folder(self, folders):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out / "a.tif")
        assert result.exit_code == 2
        assert "two folders or two files" in result.stderr

    def test_bad_pairs_are_named_and_the_rest_computed(self, folders):
        clean, out = folders
        write_image(clean / "size.png", photograph(size=32))
        write_image(out / "size.png", photograph(size=24))
        write_image(clean / "broken.png", photograph())
        (out / "broken.png").write_bytes(b"no image")
        write_image(clean / "twice.png", photograph())
        write_image(out / "twice.png", photograph())
        write_image(out / "twice.jpg", photograph())
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--metrics", "psnr")
        assert result.exit_code == 1
        assert any(line.startswith("mean of 3") for line in result.stdout.splitlines())
        lines = dict(line.split(": ", 1) for line in result.stderr.splitlines() if ": " in line)
        assert "32 x 32 and 24 x 24" in lines["size"]
        assert "broken.png" in lines["broken"]
        assert "twice.jpg" in lines["twice"]
        assert "3 of 6 pairs could not be compared." in result.stderr

    def test_images_too_small_for_a_metric(self, tmp_path):
        write_image(tmp_path / "x.png", np.zeros((1, 8, 8)))
        result = invoke("evaluate", "--reference", tmp_path / "x.png", "--restored", tmp_path / "x.png", "--metrics", "ssim")
        assert result.exit_code == 1
        assert "at least 11 x 11 pixels" in result.stderr

    def test_no_pairs(self, folders, tmp_path):
        (tmp_path / "empty").mkdir()
        for other in ("empty", "clean"):
            result = invoke("evaluate", "--reference", tmp_path / other, "--restored", tmp_path / "empty")
            assert result.exit_code == 1
            assert result.stdout == ""
            assert ("hold no images" if other == "empty" else "no image of") in result.stderr

    @pytest.mark.parametrize("metrics", ["psnr,fud", "", ","])
    def test_unknown_metrics(self, folders, metrics):
        clean, out = folders
        result = invoke("evaluate", "--reference", clean, "--restored", out, "--metrics", metrics)
        assert result.exit_code == 2
        assert "psnr, ssim, lpips" in result.stderr

    def test_missing_folder(self, tmp_path):
        result = invoke("evaluate", "--reference", tmp_path / "nowhere", "--restored", tmp_path)
        assert result.exit_code == 2
        assert "nowhere" in result.stderr
