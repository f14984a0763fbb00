"""Training a prior: a file that loads, stops that leave no trace, and data that are not what they seem."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from helpers import randn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.io.images import read_image
from invdiff.priors import UNet, load_prior, save_prior
from invdiff.training import VALIDATION_SIGMAS, Images, Report, Settings, denoising_psnr, load_images, loop, noise_law, train
from invdiff.training.distributed import local_device
from invdiff.training.expand import grow
from invdiff.training.levels import noise_levels
from invdiff.training.optimiser import Float32Muon, MuonAdamW, orthogonalise

pytestmark = pytest.mark.slow

NET: dict[str, Any] = {"widths": (8, 16), "blocks": (1, 1)}
SMALL = ["--widths", "8,16", "--blocks", "1,1", "--crop", "16", "--batch", "2", "--precision", "float32", "--device", "cpu"]


def pictures(count: int, *, side: int = 24, channels: int = 3) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side + i, channels), dtype=np.uint8) for i in range(count)]


def write(folder: Path, count: int = 6, **shape: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures(count, **shape)):
        Image.fromarray(picture.squeeze()).save(folder / f"{i:02}.png")
    return folder


def tiny(out: Path, *, images: Images | None = None, report_every: int = 1000, **options: Any) -> dict[str, Any]:
    arguments = {
        name: options.pop(name)
        for name in ("init", "on_report", "save_seconds", "samples", "resume", "compile_network")
        if name in options
    }
    settings = Settings(**{"steps": 4, "batch": 2, "crop": 16, "validation": 2, **NET, **options})
    return train(Images.of(pictures(5)) if images is None else images, out, settings, report_every=report_every, **arguments)


def weights(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestTrain:
    def test_writes_a_file_that_loads(self, tmp_path: Path) -> None:
        reports: list[Report] = []
        facts = tiny(tmp_path / "new" / "mine.safetensors", report_every=2, on_report=reports.append)
        assert facts["steps"] == 4
        assert facts["images_seen"] == 8
        assert facts["photographs"] == 3
        assert [report.step for report in reports] == [entry["step"] for entry in facts["history"]] == [2, 4]
        assert set(reports[-1].psnr) == set(VALIDATION_SIGMAS)
        prior = load_prior(tmp_path / "new" / "mine.safetensors")
        assert prior.denoise(randn(1, 3, 9, 7), torch.tensor(0.3)).isfinite().all()
        assert json.loads(json.dumps(prior.describe()))["steps"] == 4
        grids = sorted((tmp_path / "new" / "mine-samples").iterdir())
        assert [grid.name for grid in grids] == ["step-0000002.png", "step-0000004.png"]
        assert read_image(grids[0]).pixels.shape == (3, 2 * 18 - 2, 4 * 18 - 2)

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_any_number_of_channels(self, tmp_path: Path, channels: int) -> None:
        tiny(tmp_path / "mine.safetensors", images=Images.of(pictures(5, channels=channels)), steps=1)
        assert load_prior(tmp_path / "mine.safetensors").event_shape == (channels, None, None)

    @pytest.mark.parametrize(
        ("stops", "options"),
        [((1,), {}), ((3,), {}), ((1, 2, 3), {}), ((1, 3), {"maps": 4, "late_crop": 20, "batch": 5})],
        ids=str,
    )
    def test_a_kill_leaves_no_trace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: Sequence[int], options: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(noise_law, "MASKS", 40)
        monkeypatch.setattr(noise_law, "KERNELS", 20)
        whole = tiny(tmp_path / "whole.safetensors", **options)
        for stop in stops:
            with monkeypatch.context() as patch:
                patch.setattr(loop, "learning_rate", functools.partial(killed, stop=stop))
                with pytest.raises(RuntimeError, match="killed"):
                    tiny(tmp_path / "parts.safetensors", save_seconds=-1.0, **options)
            assert torch.load(tmp_path / "parts.ckpt", weights_only=True)["step"] == stop
        facts = tiny(tmp_path / "parts.safetensors", **options)
        assert facts["images_seen"] == whole["images_seen"] == (18 if options else 8)
        assert same(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")
        ends = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["net"] for name in ("whole", "parts")]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])

    def test_ctrl_c_saves_the_step_under_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny(tmp_path / "whole.safetensors")
        before = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "learning_rate", functools.partial(interrupted, stop=2))
            with pytest.raises(KeyboardInterrupt):
                tiny(tmp_path / "parts.safetensors")
        assert signal.getsignal(signal.SIGINT) is before
        assert torch.load(tmp_path / "parts.ckpt", weights_only=True)["step"] == 3
        tiny(tmp_path / "parts.safetensors")
        assert same(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")

    def test_seeds(self, tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            tiny(tmp_path / f"{name}.safetensors", seed=seed)
        assert same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        assert not same(tmp_path / "a.safetensors", tmp_path / "c.safetensors")
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_a_finished_run_is_not_trained_again(self, tmp_path: Path) -> None:
        out = tmp_path / "mine.safetensors"
        tiny(out)
        before = weights(out)
        out.unlink()
        assert tiny(out)["steps"] == 4
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(out).items())

    def test_more_steps_continue(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors")
        assert tiny(tmp_path / "mine.safetensors", steps=6)["images_seen"] == 12

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch": 3}, "batch was 2, is 3"),
            ({"widths": (8, 24)}, r"widths was \[8, 16\], is \[8, 24\]"),
            ({"maps": 4}, "maps was 0, is 4"),
            ({"late_crop": 20}, "late_crop was None, is 20"),
            ({"steps": 3}, "already at step 4"),
            ({"images": Images.of(pictures(6)[1:])}, "the images differ"),
        ],
    )
    def test_refuses_the_checkpoint_of_another_run(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        tiny(tmp_path / "mine.safetensors")
        before = (tmp_path / "mine.ckpt").read_bytes()
        with pytest.raises(ValueError, match=message):
            tiny(tmp_path / "mine.safetensors", **change)
        assert (tmp_path / "mine.ckpt").read_bytes() == before

    def test_goes_on_from_a_checkpoint_of_before_there_were_maps(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors", steps=6)
        tiny(tmp_path / "old.safetensors")
        state = torch.load(tmp_path / "old.ckpt", weights_only=True)
        for name in ("maps", "late_crop"):
            del state["settings"][name]
        torch.save(state, tmp_path / "old.ckpt")
        assert tiny(tmp_path / "old.safetensors", steps=6)["images_seen"] == 12

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut", b"cposix\nsystem\n(S'exit 1'\ntR."])
    def test_refuses_a_damaged_checkpoint(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "mine.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or not a checkpoint") as error:
            tiny(tmp_path / "mine.safetensors")
        assert "weights_only" not in str(error.value)

    @pytest.mark.parametrize(
        "change",
        [
            {"net": {}},
            {"net": None},
            {"average": {"first.weight": torch.zeros(1)}},
            {"optimiser": []},
            {"optimiser": [{"state": {}, "param_groups": []}] * 2},
            {"step": "4"},
            {"step": -1},
            {"seen": None},
            {"seconds": "x"},
            {"history": [{}]},
            {"history": [{"psnr": 3}]},
            {"history": None},
            {"settings": []},
            {"settings": None},
            {"hardware": 3},
        ],
        ids=str,
    )
    def test_refuses_a_checkpoint_of_another_form(self, tmp_path: Path, change: dict[str, Any]) -> None:
        tiny(tmp_path / "mine.safetensors")
        state = torch.load(tmp_path / "mine.ckpt", weights_only=True)
        torch.save(state | change, tmp_path / "mine.ckpt")
        with pytest.raises(ValueError, match=r"mine.ckpt: is damaged or not a checkpoint") as error:
            tiny(tmp_path / "mine.safetensors", steps=6)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [torch.zeros(3), torch.tensor(float("nan")), 5])
    def test_refuses_the_optimizer_of_another_network(self, tmp_path: Path, value: Any) -> None:
        tiny(tmp_path / "mine.safetensors")
        state = torch.load(tmp_path / "mine.ckpt", weights_only=True)
        for part in state["optimiser"]:
            first = next(iter(part["state"].values()))
            first[max(first)] = value
        torch.save(state, tmp_path / "mine.ckpt")
        with pytest.raises(ValueError, match=r"mine.ckpt: is damaged or not a checkpoint .*optimizer"):
            tiny(tmp_path / "mine.safetensors", steps=6)

    def test_refuses_what_claims_more_than_it_holds(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors")
        state = torch.load(tmp_path / "mine.ckpt", weights_only=True)
        state["net"]["first.weight"] = torch.zeros(1).expand(10**9)
        torch.save(state, tmp_path / "mine.ckpt")
        with pytest.raises(ValueError, match=r"mine.ckpt: is damaged or not a checkpoint .*in a storage of 1 values"):
            tiny(tmp_path / "mine.safetensors", steps=6)

    def test_refuses_weights_that_are_not_finite(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors")
        state = torch.load(tmp_path / "mine.ckpt", weights_only=True)
        state["net"]["first.bias"][0] = float("nan")
        torch.save(state, tmp_path / "mine.ckpt")
        with pytest.raises(ValueError, match="not finite"):
            tiny(tmp_path / "mine.safetensors", steps=6)

    @pytest.mark.slow
    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.99, 0.999])
    def test_refuses_a_checkpoint_that_is_cut_off(self, tmp_path: Path, kept: float) -> None:
        tiny(tmp_path / "mine.safetensors")
        content = (tmp_path / "mine.ckpt").read_bytes()
        (tmp_path / "mine.ckpt").write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=r"mine.ckpt: is damaged or not a checkpoint"):
            tiny(tmp_path / "mine.safetensors", steps=6)

    def test_starts_from_another_prior(self, tmp_path: Path) -> None:
        tiny(tmp_path / "first.safetensors", widths=(8, 24))
        net = UNet(channels=3, widths=(8, 24), blocks=(1, 1))
        net.load_state_dict({name: tensor.float() for name, tensor in weights(tmp_path / "first.safetensors").items()})
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        facts = tiny(tmp_path / "second.safetensors", init=net, steps=1, rate=1e-9, widths=(8, 24))
        assert facts["parameters"] == sum(p.numel() for p in net.parameters())
        after = weights(tmp_path / "second.safetensors")
        assert all(torch.equal(after[name], tensor.half()) for name, tensor in before.items())
        assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
        with pytest.raises(ValueError, match="has 3 channels, the images have 1"):
            tiny(tmp_path / "grey.safetensors", init=net, images=Images.of(pictures(5, channels=1)))

    @pytest.mark.parametrize("options", [{}, {"save_seconds": -1.0}, {"report_every": 1}], ids=str)
    def test_divergence_keeps_the_last_good_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        out = tmp_path / "mine.safetensors"
        tiny(out)
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        monkeypatch.setattr(loop, "learning_rate", lambda *_: float("nan"))
        with pytest.raises(ValueError, match="training diverged"):
            tiny(out, steps=6, **options)
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    def test_blank_images(self, tmp_path: Path) -> None:
        facts = tiny(tmp_path / "mine.safetensors", images=Images.of([np.zeros((24, 24, 1), np.uint8)] * 5), steps=2)
        assert facts["images_seen"] == 4
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "mine.safetensors").values())

    def test_stopped_at_the_step_that_then_is_the_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "learning_rate", functools.partial(interrupted, stop=1))
            with pytest.raises(KeyboardInterrupt):
                tiny(tmp_path / "mine.safetensors", steps=10)
        facts = tiny(tmp_path / "mine.safetensors", steps=2)
        assert [entry["step"] for entry in facts["history"]] == [2]
        assert load_prior(tmp_path / "mine.safetensors").facts["steps"] == 2

    def test_starts_anew_on_request(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors", seed=1)
        tiny(tmp_path / "mine.safetensors", resume=False)
        tiny(tmp_path / "other.safetensors")
        assert same(tmp_path / "mine.safetensors", tmp_path / "other.safetensors")

    def test_a_network_that_cannot_be_compiled_is_trained_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(net: nn.Module) -> nn.Module:
            def forward(*_: Tensor) -> Tensor:
                raise RuntimeError("no C compiler")

            wrapped = nn.Module()
            wrapped.forward = forward
            return wrapped

        tiny(tmp_path / "plain.safetensors")
        monkeypatch.setattr(torch, "compile", failing)
        with pytest.warns(UserWarning, match="no C compiler"):
            tiny(tmp_path / "mine.safetensors", compile_network=True)
        assert same(tmp_path / "mine.safetensors", tmp_path / "plain.safetensors")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "steps must be a whole number of at least 1"),
            ({"batch": 0}, "batch must be"),
            ({"crop": 2.5}, "crop must be"),
            ({"rate": float("nan")}, "rate must be positive"),
            ({"sigma_data": 0.0}, "sigma_data must be positive"),
            ({"flips": "vertical"}, "unknown flips 'vertical'"),
            ({"validation": 0}, "validation >= 1"),
            ({"seed": -1}, "seed >= 0"),
            ({"maps": -1}, "maps must be a non-negative integer"),
            ({"late_crop": 15}, "late_crop must be at least the crop of 16 pixels, got 15"),
            ({"late_crop": 25}, "a side of 24 pixels, less than the crop of 25"),
            ({"validation": 5}, "leave none to train on"),
            ({"crop": 25}, "a side of 24 pixels, less than the crop of 25"),
            ({"widths": (8,)}, "one entry per resolution"),
        ],
    )
    def test_refuses(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny(tmp_path / "mine.safetensors", **options)
        assert not list(tmp_path.iterdir())


def killed(step: int, steps: int, peak: float, *, stop: int) -> float:
    if step == stop:
        raise RuntimeError("killed")
    return learning_rate(step, steps, peak)


def interrupted(step: int, steps: int, peak: float, *, stop: int) -> float:
    if step == stop:
        signal.raise_signal(signal.SIGINT)
    return learning_rate(step, steps, peak)


learning_rate = loop.learning_rate


class TestCommand:
    def test_a_folder_becomes_a_prior_that_solves(self, tmp_path: Path, invdiff: Any) -> None:
        folder, out = write(tmp_path / "grey", 30, side=24, channels=1), tmp_path / "mine.safetensors"
        (folder / "broken.png").write_bytes(b"not a picture")
        result = invdiff("train", folder, "--out", out, *SMALL, "--steps", "2", "--license", "CC0-1.0")
        assert "30 images with 1 channels" in result.stdout
        assert "broken.png" in result.stderr
        assert "skipped 1 files" in result.stderr
        card = (tmp_path / "mine.md").read_text()
        for text in ("| CC0-1.0", "27, and 3 held out; 1 files skipped", "24 to 53 x 24 to 24 pixels", "| 2 | "):
            assert text in " ".join(card.split()), text
        described = invdiff("priors", "inspect", out).stdout
        assert "history" not in described
        assert "channels" in described
        solved = tmp_path / "solved"
        arguments = ("--problem", "sr", "--factor", "2", "--samples", "1", "--steps", "2", "--prior", out, "-o", solved)
        invdiff("solve", folder / "00.png", *arguments)
        assert read_image(solved / "mean.png").pixels.shape == (1, 48, 48)

    def test_killed_and_resumed_ends_with_the_same_weights(self, tmp_path: Path, invdiff: Any) -> None:
        arguments = ["train", str(write(tmp_path / "photographs")), *SMALL, "--steps", "60", "--report-every", "7"]
        invdiff(*arguments, "--out", tmp_path / "whole.safetensors")
        arguments += ["--out", str(tmp_path / "parts.safetensors")]
        command = [sys.executable, "-m", "invdiff", *arguments]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not (tmp_path / "parts.ckpt").exists() and process.poll() is None:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        invdiff(*arguments)
        assert same(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")

    @pytest.mark.parametrize("more", [[], ["--noise-maps"]], ids=str)
    def test_two_processes_train_what_one_trains(self, tmp_path: Path, invdiff: Any, more: list[str]) -> None:
        arguments = ["train", str(write(tmp_path / "photographs")), *SMALL, "--steps", "3", *more]
        invdiff(*arguments, "--out", tmp_path / "one.safetensors")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "invdiff"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*torchrun, *arguments, "--out", str(tmp_path / "two.safetensors")]
        done = subprocess.run(command, capture_output=True, env=environment, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("6 images with 3 channels") == 1
        assert f"invdiff train {tmp_path / 'photographs'} --widths 8,16" in (tmp_path / "two.md").read_text()
        torch.manual_seed(0)
        start = UNet(channels=3, **NET, maps=32 if more else 0).state_dict()
        one, two = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["net"] for name in ("one", "two"))
        moved = sum(float((one[name] - start[name]).square().sum()) for name in one) ** 0.5
        apart = sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5
        assert 0 < apart + 1e-9 < 0.02 * moved  # without each other's gradients: about 1

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("empty", "--out", "a.safetensors"), 1, "No image of at least 16 x 16 pixels in empty."),
            (("missing", "--out", "a.safetensors"), 1, "missing: expected a folder or a tar archive of images"),
            (("broken", "--out", "a.safetensors"), 1, "None of 2 files could be used, for example broken/a.png:"),
            (("small", "--out", "a.safetensors"), 1, "10 x 9 pixels, smaller than the crop of 16"),
            (("mixed", "--out", "a.safetensors"), 1, "differ in their number of channels: 2 with 1 (such as mixed/grey"),
            (("one", "--out", "a.safetensors"), 1, "1 images leave none to train on"),
            (("good", "--out", "a.pt"), 2, "the name must end in .safetensors"),
            (("good", "--out", "there.safetensors"), 2, "there.safetensors exists and no checkpoint"),
            (("good", "--out", "a.safetensors", "--rate", "-1"), 2, "not a positive number"),
            (("good", "--out", "a.safetensors", "--widths", "8,x"), 2, "not a list of positive whole numbers"),
            (("good", "--out", "a.safetensors", "--init", "nothing"), 1, "Unknown prior 'nothing'"),
            (
                ("good", "--out", "a.safetensors", "--channels", "1", "--init", "three.safetensors"),
                1,
                "has 3 channels, the images have 1",
            ),
            (("good", "--out", "a.safetensors", "--init", "natural"), 1, "are too small for a network of widths"),
            (("good",), 2, "Missing option '--out'"),
            ((), 2, "Missing argument"),
        ],
        ids=str,
    )
    def test_bad_input(
        self, tmp_path: Path, invdiff: Any, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], code: int, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("empty").mkdir()
        write(Path("good"))
        write(Path("one"), 1)
        write(Path("small"), 2, side=9)
        write(Path("broken"), 1)
        Path("broken/a.png").write_bytes(Path("broken/00.png").read_bytes()[:200])
        Path("broken/00.png").write_bytes(b"")
        for name, channels in (("grey1", 1), ("grey2", 1), ("rgb", 3)):
            Path("mixed").mkdir(exist_ok=True)
            Image.fromarray(pictures(1, channels=channels)[0].squeeze()).save(f"mixed/{name}.png")
        for name in ("there", "three"):
            save_prior(UNet(**NET), Path(f"{name}.safetensors"), sigma_data=0.5, facts={})
        before = Path("there.safetensors").read_bytes()
        result = invdiff("train", *SMALL, "--steps", "1", *arguments, code=code)
        assert message in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
        assert not Path("a.safetensors").exists()
        assert Path("there.safetensors").read_bytes() == before

    def test_a_full_disk_keeps_the_last_good_checkpoint(self, tmp_path: Path, invdiff: Any) -> None:
        out = tmp_path / "mine.safetensors"
        arguments = ["train", str(write(tmp_path / "photographs")), "--out", str(out), *SMALL, "--report-every", "100"]
        invdiff(*arguments, "--steps", "2")
        before = out.read_bytes(), (tmp_path / "mine.ckpt").read_bytes()
        limit = len(before[1]) // 2
        assert len(before[0]) < limit, "the weights fit, the checkpoint does not"
        done = run_limited([*arguments, "--steps", "4"], limit)
        assert done.returncode == 1
        assert "could not be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert (out.read_bytes(), (tmp_path / "mine.ckpt").read_bytes()) == before
        left = {"photographs", "mine.safetensors", "mine.ckpt", "mine.md", "mine-samples"}
        assert {path.name for path in tmp_path.iterdir()} == left
        invdiff(*arguments, "--steps", "4")


def run_limited(arguments: Sequence[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run the command with files of at most ``limit`` bytes, which fails as a full disk does."""
    script = (
        "import resource, sys; from invdiff.cli import main; limit = int(sys.argv.pop(1)); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", script, str(limit), *arguments], capture_output=True, text=True)


class TestLoadImages:
    def test_reads_folders_and_tars_and_names_what_it_skips(self, tmp_path: Path) -> None:
        first, second, third, small = pictures(4)
        (tmp_path / "below").mkdir()
        (tmp_path / "folder.png").mkdir()
        Image.fromarray(first).save(tmp_path / "a.png")
        Image.fromarray(second).save(tmp_path / "below" / "b.PNG")
        Image.fromarray(small[:9]).save(tmp_path / "tiny.png")
        Image.fromarray(first).save(tmp_path / ".hidden.png")
        (tmp_path / "noise.jpg").write_bytes(b"not a picture")
        (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
        (tmp_path / "notes.txt").write_text("not a picture either")
        buffer = io.BytesIO()
        Image.fromarray(third).save(buffer, "png")
        with tarfile.open(tmp_path / "more.tar", "w") as archive:
            for name, content in (("../c.png", buffer.getvalue()), ("bad.png", b"bad"), ("readme.md", b"text")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (tmp_path / "broken.tar").write_bytes(b"no archive" * 100)

        found, skipped = load_images([tmp_path], smallest=16)
        assert len(found) == 3
        for index, picture in enumerate((first, second, third)):
            assert torch.equal(unpacked(found, index), torch.from_numpy(picture))
        assert len(skipped) == 5
        for name in ("tiny.png", "noise.jpg", "cut.png", "more.tar:bad.png", "broken.tar"):
            assert any(f"{name}: " in line for line in skipped), name
        assert any("27 x 9 pixels, smaller than the crop of 16" in line for line in skipped)
        assert len(load_images([tmp_path / "more.tar"], smallest=16)[0]) == 1

    @pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
    def test_damaged_tars(self, tmp_path: Path, suffix: str) -> None:
        tar, mode = tmp_path / f"a{suffix}", "w:gz" if suffix.endswith("gz") else "w"
        with tarfile.open(tar, mode) as archive:
            for i, picture in enumerate(pictures(8)):
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "png")
                member = tarfile.TarInfo(f"{i}.png")
                member.size = buffer.tell()
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "gone.png"
            archive.addfile(link)
        whole = tar.read_bytes()
        assert [len(part) for part in load_images([tar], smallest=16)] == [8, 0]
        if suffix == ".tar":
            with tarfile.open(tar) as archive:
                header = archive.getmembers()[3].offset
            for garbage in (b"\0" * 512, b"x" * 512):
                tar.write_bytes(whole[:header] + garbage + whole[header + 512 :])
                found, skipped = load_images([tar], smallest=16)
                assert len(found) == 7
                assert "damaged bytes before 4.png" in skipped[0]
            tar.write_bytes(whole[:header])
            found, skipped = load_images([tar], smallest=16)
            assert (len(found), len(skipped)) == (3, 1)
            assert "cut short" in skipped[0]
        for damaged in (whole[: len(whole) // 2], whole[:2000] + bytes(reversed(range(200))) + whole[2200:]):
            tar.write_bytes(damaged)
            found, skipped = load_images([tar], smallest=16)
            assert len(found) + len(skipped) >= 2
            assert skipped

    def test_channels(self, tmp_path: Path) -> None:
        levels = np.arange(400, dtype=np.uint8).reshape(20, 20)
        Image.fromarray(levels).save(tmp_path / "grey.png")
        colours = pictures(1, side=20)[0]
        Image.fromarray(np.dstack([colours, levels])).save(tmp_path / "rgba.png")
        with pytest.raises(ValueError, match="--channels 3"):
            load_images([tmp_path], smallest=16)
        as_rgb, _ = load_images([tmp_path], smallest=16, channels=3)
        assert torch.equal(unpacked(as_rgb, 0), torch.from_numpy(levels)[..., None].expand(-1, -1, 3))
        assert torch.equal(unpacked(as_rgb, 1), torch.from_numpy(colours))
        as_grey, _ = load_images([tmp_path], smallest=16, channels=1)
        assert torch.equal(unpacked(as_grey, 0)[..., 0], torch.from_numpy(levels))
        pillow = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
        assert (unpacked(as_grey, 1)[..., 0].numpy() - pillow).__abs__().max() <= 1

    def test_deep_images_stay_deep(self, tmp_path: Path) -> None:
        deep = np.random.default_rng(0).integers(0, 2**16, (5, 20, 22), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "five.tif", deep, planarconfig="separate", photometric="minisblack")
        np.save(tmp_path / "floats.npy", (deep / 65535).astype(np.float32))
        found, skipped = load_images([tmp_path], smallest=16)
        assert not skipped
        assert found.channels == 5
        for index in (0, 1):
            assert_close(
                unpacked(found, index), torch.from_numpy(deep / 32767.5 - 1).permute(1, 2, 0).float(), rtol=0, atol=1e-6
            )

    def test_side_scales_down_and_never_up(self, tmp_path: Path) -> None:
        write(tmp_path, 1, side=64)
        Image.fromarray(pictures(1, side=20)[0]).save(tmp_path / "small.png")
        found, _ = load_images([tmp_path], smallest=16, side=32)
        assert found.heights.tolist() == [32, 20]
        expected = Image.fromarray(pictures(1, side=64)[0]).resize((32, 32), Image.Resampling.BICUBIC)
        assert (unpacked(found, 0).int() - torch.from_numpy(np.array(expected)).int()).abs().max() <= 2


def unpacked(images: Images, index: int) -> Tensor:
    height, width = int(images.heights[index]), int(images.widths[index])
    start = int(images.offsets[index])
    return images.pixels[start : start + height * width * images.channels].reshape(height, width, images.channels)


class TestImages:
    def test_crops_are_parts_of_the_images(self) -> None:
        found = Images.of(pictures(3))
        crops = found.crops(64, 16, torch.Generator().manual_seed(0))
        assert crops.shape == (64, 3, 16, 16)
        assert torch.equal(crops, found.crops(64, 16, torch.Generator().manual_seed(0)))
        parts = [found.crops(64, 16, torch.Generator().manual_seed(0), part=part) for part in (slice(0, 40), slice(40, 64))]
        assert torch.equal(crops, torch.cat(parts))
        windows = [torch.from_numpy(p).float().permute(2, 0, 1).unfold(1, 16, 1).unfold(2, 16, 1) for p in pictures(3)]
        every = torch.cat([w.flatten(1, 2).transpose(0, 1) for w in windows]) / 127.5 - 1
        unflipped = torch.cat([crops, crops.flip(-1)])
        assert all((every == crop).flatten(1).all(1).any() for crop in found.crops(32, 16, torch.Generator(), flips="none"))
        assert sum(bool((every == crop).flatten(1).all(1).any()) for crop in unflipped) == 64

    @pytest.mark.parametrize(("flips", "symmetries"), [("none", 1), ("horizontal", 2), ("all", 8)])
    def test_flips(self, flips: str, symmetries: int) -> None:
        (picture,) = pictures(1)
        found = Images.of([picture])
        whole = found.crops(200, 24, torch.Generator().manual_seed(0), flips=flips)
        image = torch.from_numpy(picture).float().permute(2, 0, 1) / 127.5 - 1
        turned = [torch.rot90(side, k, (-2, -1)) for side in (image, image.flip(-1)) for k in range(4)]
        expected = {"none": turned[:1], "horizontal": [turned[0], turned[4]], "all": turned}[flips]
        assert all(any(torch.equal(crop, other) for other in expected) for crop in whole)
        assert len(whole.unique(dim=0)) == symmetries

    def test_every_place_is_reached(self) -> None:
        found = Images.of([pictures(1, side=18)[0]])
        crops = found.crops(300, 16, torch.Generator().manual_seed(0), flips="none")
        assert len(crops.unique(dim=0)) == 9

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_split(self, count: int) -> None:
        found = Images.of(pictures(5))
        rest, held_out = found.split(count)
        assert len(rest) == 5 - count
        together = sorted([*rest.widths.tolist(), *held_out.widths.tolist()])
        assert together == found.widths.tolist()
        for part in (rest, held_out):
            for index, width in enumerate(part.widths.tolist()):
                assert torch.equal(unpacked(part, index), torch.from_numpy(pictures(5)[width - 24]))

    def test_centres_and_moments(self) -> None:
        found = Images.of(pictures(3))
        pixels = [torch.from_numpy(p).double() / 127.5 - 1 for p in pictures(3)]
        for index, centre in enumerate(found.centres(16)):
            left = (24 + index - 16) // 2
            assert_close(centre.double(), pixels[index].permute(2, 0, 1)[:, 4:20, left : left + 16], rtol=0, atol=1e-6)
        values = torch.cat([p.flatten() for p in pixels])
        assert found.moments() == pytest.approx((float(values.mean()), float(values.std(correction=0))))
        deep = Images.of([(p.numpy()).astype(np.float32) for p in pixels])
        assert deep.moments() == pytest.approx(found.moments(), abs=1e-6)
        assert deep.digest() != found.digest()


def test_psnr_is_that_of_the_denoiser() -> None:
    net = UNet(**NET)
    clean = Images.of(pictures(3)).centres(16)
    psnr = denoising_psnr(net, clean, sigma_data=0.5)
    assert list(psnr) == list(VALIDATION_SIGMAS)
    assert psnr == denoising_psnr(net, clean, sigma_data=0.5)
    # An untrained network adds nothing to c_skip x: for white pictures of variance v the error is known.
    power = float((clean.double() ** 2).mean())
    for level in VALIDATION_SIGMAS[:3]:
        variance = (level / 127.5) ** 2
        skip = 0.25 / (0.25 + variance)
        expected = 10 * np.log10(4 / ((1 - skip) ** 2 * power + skip**2 * variance))
        assert psnr[level] == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(
    ("device", "cuda", "expected"),
    [("auto", True, "cuda:3"), ("cuda", True, "cuda:3"), ("auto", False, "auto"), ("cpu", True, "cpu")],
)
def test_every_process_of_torchrun_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, cuda: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device(device) == device
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(device) == expected


def test_learning_rate() -> None:
    rates = torch.tensor([learning_rate(step, 3000, 2e-3) for step in range(3000)])
    assert_close(rates[:200], 2e-3 * torch.arange(1, 201) / 200)
    assert_close(rates[200:900], torch.full((700,), 2e-3))
    assert_close(rates[900:], 2e-3 * torch.arange(2100, 0, -1) / 2100)
    for steps in (1, 3, 50):
        assert all(0 < learning_rate(step, steps, 1.0) <= 1 for step in range(steps))


class TestGrow:
    @pytest.mark.parametrize(
        ("widths", "blocks"),
        [((8, 16), (1, 3)), ((8, 16), (2, 4)), ((8, 16, 24), (1, 2, 1)), ((8, 16, 24, 8), (3, 3, 1, 2))],
        ids=str,
    )
    def test_computes_the_same_and_learns_more(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        torch.manual_seed(0)
        small = UNet(channels=2, widths=(8, 16), blocks=(1, 3))
        for p in small.parameters():
            nn.init.normal_(p, std=0.1)
        large = grow(small, widths=widths, blocks=blocks, seed=0)
        x, c_noise = randn(2, 2, 16, 16, dtype=torch.float32), torch.tensor([-1.0, 0.5])
        assert large.config["widths"] == list(widths)
        assert torch.equal(small(x, c_noise), large(x, c_noise))
        large(x, c_noise).square().sum().backward()
        reached = [name for name, p in large.named_parameters() if p.grad is not None and bool(p.grad.any())]
        assert (len(reached) > len(list(small.parameters()))) == (large.config != small.config)

    @pytest.mark.parametrize(
        ("widths", "blocks"),
        [((8,), (1,)), ((8, 24), (1, 3)), ((8, 16), (1, 2)), ((8, 16, 24), (1, 1, 1)), ((8, 16, 24), (1, 3))],
        ids=str,
    )
    def test_refuses_less_room(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        with pytest.raises(ValueError, match="are too small for a network of widths"):
            grow(UNet(channels=2, widths=(8, 16), blocks=(1, 3)), widths=widths, blocks=blocks, seed=0)


def test_noise_levels() -> None:
    settings = Settings(steps=1)
    levels = noise_levels(settings, 20000, torch.Generator().manual_seed(0)).log()
    low, high = np.log(0.002), np.log(80)
    assert float(levels.min()) >= low - 1e-5
    assert float(levels.max()) <= high + 1e-5
    # Above 3 standard deviations of the normal part lie 15 % of an even spread over the logarithms, and next to nothing else.
    expected = 0.15 * (high - 3.0) / (high - low) + 0.85 * 0.00135
    assert float((levels > 3.0).double().mean()) == pytest.approx(expected, abs=4 * (expected / 20000) ** 0.5)
    only_normal = noise_levels(Settings(steps=1, uniform=0.0), 20000, torch.Generator().manual_seed(0)).log()
    assert float(only_normal.mean()) == pytest.approx(-1.2, abs=4 * 1.4 / 20000**0.5)
    assert float(only_normal.std()) == pytest.approx(1.4, rel=0.03)


def test_muon_makes_the_updates_of_kernels_orthogonal() -> None:
    torch.manual_seed(0)
    net = UNet(**NET).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = MuonAdamW(net, rate=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimiser.step(0.1)
    change = {name: p.detach() - before[name] for name, p in net.named_parameters()}
    assert all(float(step.abs().max()) > 0 for step in change.values())
    kernel = change["down.0.blocks.0.conv1.weight"].flatten(1)
    values = torch.linalg.svdvals(kernel)
    assert float(values.max() / values.min()) < 2  # of a random matrix 8 x 72: about 2, of the gradient's momentum
    assert float(values.mean()) == pytest.approx(0.1 * 0.2 * max(kernel.shape) ** 0.5, rel=0.3)
    # AdamW moves every number by about the rate, whatever its gradient.
    assert change["last.weight"].abs().median() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("shape", [(8, 72), (30, 12), (16, 16)])
@pytest.mark.parametrize("weakest", [1.0, 1e-3])
def test_orthogonalisation_keeps_the_singular_vectors(shape: tuple[int, int], weakest: float) -> None:
    coefficients = (3.4445, -4.7750, 2.0315)
    u, _, vt = torch.linalg.svd(randn(*shape), full_matrices=False)
    values = torch.logspace(0, np.log10(weakest), len(vt), dtype=torch.float64)
    found = orthogonalise((u * values @ vt).float(), coefficients, 5).double()
    expected = values / values.norm()
    for _ in range(5):
        expected = sum(c * expected**power for c, power in zip(coefficients, (1, 3, 5), strict=True))
    assert_close(found, u * expected @ vt, rtol=0, atol=1e-3)
    if weakest == 1:
        smallest, largest = torch.linalg.svdvals(found).aminmax()
        assert 0.6 < float(smallest) <= float(largest) < 1.3  # as far as five iterations come


# Iterations in bfloat16 double a rounding of 0.4 % every time; without any it is all there is.
@pytest.mark.parametrize(("iterations", "tolerance"), [(0, 0.005), (5, 0.3)])
def test_muon_in_float32_is_that_of_torch_without_its_rounding(iterations: int, tolerance: float) -> None:
    matrices = [nn.Parameter(randn(*shape, dtype=torch.float32)) for shape in ((8, 72), (30, 12))]
    twins = [nn.Parameter(matrix.detach().clone()) for matrix in matrices]
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    options["ns_steps"] = iterations
    ours, theirs = Float32Muon(matrices, **options), torch.optim.Muon(twins, **options)
    for step in range(4):
        for matrix, twin in zip(matrices, twins, strict=True):
            matrix.grad = randn(*matrix.shape, seed=step, dtype=torch.float32)
            twin.grad = matrix.grad.clone()
        before = [matrix.detach().clone() for matrix in matrices]
        ours.step()
        theirs.step()
        for start, matrix, twin in zip(before, matrices, twins, strict=True):
            change, expected = matrix.detach() - start, twin.detach() - start
            assert float((change - expected).norm() / expected.norm()) < tolerance
        theirs.load_state_dict(copy.deepcopy(ours.state_dict()))  # They read each other's checkpoints.
        for matrix, twin in zip(matrices, twins, strict=True):
            twin.data.copy_(matrix.data)


def test_maps_of_noise_are_not_for_muon() -> None:
    plain, told = (UNet(**NET, maps=maps) for maps in (0, 4))
    shapes = [[kernel.shape for kernel in MuonAdamW(net, rate=0.1).kernels] for net in (plain, told)]
    assert shapes[0] == shapes[1]
