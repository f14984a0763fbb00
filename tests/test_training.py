"""Training a prior: a file that loads, stops that leave no trace, and data that are not what they seem."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import randn
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from invdiff import training
from invdiff.priors import UNet, load_prior
from invdiff.training import VALIDATION_SIGMAS, learning_rate, load_photographs, random_crops, train, validate

Small = functools.partial(UNet, widths=(8, 16), blocks=(1, 1), embedding=16)


def pictures(count: int, *, side: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, side, side + i), generator=generator, dtype=torch.uint8) for i in range(count)]


def write(path: Path, pixels: Tensor) -> None:
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "UNet", Small)


def tiny(out: Path, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"steps": 4, "batch": 2, "crop": 16, "validation": 2, "report_every": 1000} | options
    return train(pictures(5), out, **settings)


def weights(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


@pytest.mark.usefixtures("_small")
class TestTrain:
    def test_writes_a_file_that_loads(self, tmp_path: Path) -> None:
        facts = tiny(tmp_path / "new" / "mine.safetensors")
        assert facts["steps"] == 4
        assert facts["images_seen"] == 8
        assert facts["photographs"] == 3
        assert set(facts["psnr"]) == set(VALIDATION_SIGMAS)
        prior = load_prior(tmp_path / "new" / "mine.safetensors")
        assert prior.denoise(randn(1, 3, 9, 7), torch.tensor(0.3)).isfinite().all()
        assert json.loads(json.dumps(prior.describe()))["steps"] == 4

    @pytest.mark.parametrize("stops", [(1,), (3,), (1, 2, 3)])
    def test_a_stop_leaves_no_trace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: Sequence[int]) -> None:
        tiny(tmp_path / "whole.safetensors")
        for stop in stops:
            with monkeypatch.context() as patch:
                patch.setattr(training, "learning_rate", functools.partial(interrupted, stop=stop))
                with pytest.raises(KeyboardInterrupt):
                    tiny(tmp_path / "parts.safetensors", save_seconds=-1.0)
            assert torch.load(tmp_path / "parts.ckpt", weights_only=True)["step"] == stop
            assert not (tmp_path / "parts.safetensors").exists()
        facts = tiny(tmp_path / "parts.safetensors")
        assert facts["images_seen"] == 8
        whole, parts = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "parts.safetensors")
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        ends = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["net"] for name in ("whole", "parts")]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])

    def test_seeds(self, tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            tiny(tmp_path / f"{name}.safetensors", seed=seed)
        a, b, c = (weights(tmp_path / f"{name}.safetensors")["first.weight"] for name in "abc")
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_a_finished_run_is_not_trained_again(self, tmp_path: Path) -> None:
        tiny(tmp_path / "mine.safetensors")
        before = weights(tmp_path / "mine.safetensors")
        tiny(tmp_path / "mine.safetensors")
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "mine.safetensors").items())

    @pytest.mark.parametrize(("change", "message"), [({"batch": 3}, "of a run with"), ({"steps": 3}, "at step 4 already")])
    def test_refuses_the_checkpoint_of_another_run(self, tmp_path: Path, change: dict[str, int], message: str) -> None:
        tiny(tmp_path / "mine.safetensors")
        with pytest.raises(ValueError, match=message):
            tiny(tmp_path / "mine.safetensors", **change)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "at least 1"),
            ({"batch": 0}, "at least 1"),
            ({"crop": 0}, "at least 1"),
            ({"validation": 0}, "at least 1"),
            ({"validation": 5}, "leave none to train on"),
            ({"crop": 25}, "a side of 24 pixels, less than crop=25"),
        ],
    )
    def test_refuses(self, tmp_path: Path, options: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny(tmp_path / "mine.safetensors", **options)
        assert not list(tmp_path.iterdir())

    def test_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "photographs"
        folder.mkdir()
        for i, picture in enumerate(pictures(18)):
            write(folder / f"{i}.png", picture)
        out = tmp_path / "mine.safetensors"
        arguments = [str(folder), "--out", str(out), "--batch", "1", "--crop", "16", "--device", "cpu"]
        training.main([*arguments, "--steps", "1"])
        assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["photographs"] == 2
        for bad in (["--steps", "0"], ["--crop", "500"]):
            with pytest.raises(SystemExit) as error:
                training.main([*arguments, *bad])
            assert error.value.code == 2
            assert "Traceback" not in capsys.readouterr().err


def interrupted(step: int, steps: int, peak: float, *, stop: int) -> float:
    if step == stop:
        raise KeyboardInterrupt
    return learning_rate(step, steps, peak)


def test_a_step_of_the_real_network(tmp_path: Path) -> None:
    facts = tiny(tmp_path / "mine.safetensors", steps=1)
    assert facts["parameters"] > 1e6


class TestLoadPhotographs:
    def test_reads_folders_and_tars_and_names_what_it_skips(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second, third, tiny_one = pictures(4)
        (tmp_path / "below").mkdir()
        (tmp_path / "folder.png").mkdir()
        write(tmp_path / "a.png", first)
        write(tmp_path / "below" / "b.PNG", second)
        write(tmp_path / "tiny.png", tiny_one[:, :9])
        (tmp_path / "noise.jpg").write_bytes(b"not a picture")
        (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
        (tmp_path / "notes.txt").write_text("not a picture either")
        buffer = io.BytesIO()
        Image.fromarray(third.permute(1, 2, 0).numpy()).save(buffer, "png")
        with tarfile.open(tmp_path / "more.tar", "w") as archive:
            for name, content in (("c.png", buffer.getvalue()), ("bad.png", b"bad"), ("readme.md", b"text")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (tmp_path / "broken.tar").write_bytes(b"no archive" * 100)

        found = load_photographs([tmp_path], smallest=16)
        assert [p.shape for p in found] == [first.shape, second.shape, third.shape]
        for photograph, picture in zip(found, (first, second, third), strict=True):
            assert torch.equal(photograph, picture)
        messages = capsys.readouterr().err
        for name in ("tiny.png", "noise.jpg", "cut.png", "more.tar:bad.png", "broken.tar"):
            assert name in messages
        assert "(9, 27) is smaller than the crop, 16" in messages
        assert [p.shape for p in load_photographs([tmp_path / "more.tar"], smallest=16)] == [third.shape]

    def test_every_mode_becomes_rgb(self, tmp_path: Path) -> None:
        levels = np.arange(400, dtype=np.uint8).reshape(20, 20)
        Image.fromarray(levels).save(tmp_path / "grey.png")
        Image.fromarray(np.stack([levels] * 4, -1)).save(tmp_path / "rgba.png")
        found = load_photographs([tmp_path], smallest=16)
        assert [p.shape for p in found] == [(3, 20, 20)] * 2
        assert torch.equal(found[0][0], torch.from_numpy(levels))

    def test_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="No image of at least 16 x 16 pixels"):
            load_photographs([tmp_path], smallest=16)
        for source in (tmp_path / "missing", tmp_path / "missing.tar"):
            with pytest.raises(ValueError, match=r"expected a folder of images or a \.tar"):
                load_photographs([source], smallest=16)


def test_random_crops() -> None:
    photographs = pictures(3)
    crops = random_crops(photographs, 64, 16, torch.Generator().manual_seed(0))
    assert crops.shape == (64, 3, 16, 16)
    assert float(crops.min()) >= -1
    assert float(crops.max()) <= 1
    assert torch.equal(crops, random_crops(photographs, 64, 16, torch.Generator().manual_seed(0)))
    whole = random_crops([photographs[0]], 8, 24, torch.Generator().manual_seed(0))
    image = photographs[0].float() / 127.5 - 1
    assert all(torch.equal(crop, image) or torch.equal(crop, image.flip(-1)) for crop in whole)
    assert len(whole.unique(dim=0)) == 2


def test_validate_is_the_psnr_of_the_denoiser() -> None:
    net = Small()
    psnr = validate(net, pictures(3), 16, sigma_data=0.5)
    assert list(psnr) == list(VALIDATION_SIGMAS)
    assert psnr == validate(net, pictures(3), 16, sigma_data=0.5)
    # An untrained network adds nothing to c_skip x: for white pictures of variance v the error is known.
    pixels = torch.stack([p[:, 4:20, (p.shape[2] - 16) // 2 :][:, :, :16] for p in pictures(3)]).double() / 127.5 - 1
    power = float((pixels**2).mean())
    for level in VALIDATION_SIGMAS[:3]:
        variance = (level / 127.5) ** 2
        skip = 0.25 / (0.25 + variance)
        expected = 10 * np.log10(4 / ((1 - skip) ** 2 * power + skip**2 * variance))
        assert psnr[level] == pytest.approx(expected, abs=0.3)


def test_learning_rate() -> None:
    steps = 3000
    rates = torch.tensor([learning_rate(step, steps, 2e-3) for step in range(steps)])
    assert_close(rates[:500], 2e-3 * torch.arange(1, 501) / 500)
    assert_close(rates[500:2000], torch.full((1500,), 2e-3))
    assert_close(rates[2000:], 2e-3 * torch.arange(1000, 0, -1) / 1000)
    assert all(0 < learning_rate(step, 3, 1.0) <= 3 / 500 for step in range(3))
