"""``invdiff priors inspect`` and ``convert``, and ``invdiff solve`` with checkpoints of others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled
from PIL import Image
from safetensors import safe_open
from torch.testing import assert_close

from invdiff.cli.prior_options import PRIOR_OPTIONS
from invdiff.priors import load_prior
from invdiff.priors.networks.adm import ADM

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    "channels": 3,
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [2],
    "heads": 4,
    "classes": 10,
}


def save(path, **other):
    """Write a state dict of guided-diffusion for images of 16 x 16 pixels."""
    config: dict[str, Any] = CONFIG | other
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ADM(**config).state_dict().items()}
    torch.save(filled(shapes), path)
    return path


@pytest.fixture(scope="module")
def adm(tmp_path_factory):
    """One that knows ten classes."""
    return save(tmp_path_factory.mktemp("adm") / "adm.pt")


class TestInspect:
    def test_a_prior_of_our_own(self, invdiff, tiny_prior):
        found = json.loads(invdiff("priors", "inspect", tiny_prior, "--json").stdout)
        assert (found["channels"], found["steps"], found["images_seen"], found["license"]) == (3, 7, 1234, "CC0")
        text = invdiff("priors", "inspect", tiny_prior).stdout
        assert "1,234" in text
        assert "images seen" in text

    def test_what_is_found_and_what_is_assumed(self, invdiff, adm):
        found = json.loads(invdiff("priors", "inspect", adm, "--prior-option", "label=3", "--json").stdout)
        assert (found["family"], found["architecture"], found["label"]) == ("guided-diffusion", "ADM", 3)
        assert (found["channels"], found["size"], found["predicts"]) == (3, [16, 16], "eps")
        assert found["config"] == ADM(**CONFIG).config
        assert found["parameters"] == sum(p.numel() for p in ADM(**CONFIG).parameters())
        assert set(found["assumed"]) >= {"heads", "attention_order", "schedule", "image_size"}
        text = invdiff("priors", "inspect", adm, "--prior-option", "label=3", "--prior-option", "schedule=cosine").stdout
        assert "schedule: linear" not in text
        assert "heads: 4 (" in text

    def test_a_class_is_asked_for_and_the_rest_is_said(self, invdiff, adm):
        found = json.loads(invdiff("priors", "inspect", adm, "--json").stdout)
        assert found["label"].startswith("the network is conditioned on 10 classes and needs a label")
        assert found["config"]["classes"] == 10

    @pytest.mark.parametrize("content", [None, b"", b"\x80\x04K\x01.", b"12345678" * 9])
    def test_what_is_no_checkpoint(self, invdiff, tmp_path, content):
        path = tmp_path / "prior.pt"
        if content is not None:
            path.write_bytes(content)
        result = invdiff("priors", "inspect", path, code=1)
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1

    def test_the_old_way_says_the_new_one(self, invdiff, adm):
        assert f"invdiff priors inspect {adm}" in " ".join(invdiff("priors", adm, code=2).stderr.split())


class TestConvert:
    @pytest.mark.parametrize("dtype", [None, "float16"])
    def test_the_same_prior_from_a_safe_file(self, invdiff, adm, tmp_path, dtype):
        out = tmp_path / "new" / "adm.safetensors"
        chosen = ("--dtype", dtype) if dtype else ()
        result = invdiff(
            "priors", "convert", adm, "--out", out, "--prior-option", "label=3", "--prior-option", "heads=2", *chosen
        )
        assert "assumed schedule: linear" in result.stderr
        assert "assumed heads" not in result.stderr
        with safe_open(out, framework="pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {getattr(torch, dtype or "float32")}  # noqa: SIM118
        x_t, t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(400.0)
        converted = load_prior(out, precision="float32").denoise(x_t, t)
        expected = load_prior(adm, precision="float32", label=3, heads=2).denoise(x_t, t)
        scale = float(expected.abs().max())
        assert_close(converted, expected, rtol=0, atol=scale * (1e-2 if dtype else 1e-5))
        found = json.loads(invdiff("priors", "inspect", out, "--json").stdout)
        assert (found["label"], found["config"]["heads"], found["converted_from"]) == (3, 2, "adm.pt")
        assert (found["family"], found["size"]) == ("guided-diffusion", [16, 16])

    def test_refuses(self, invdiff, adm, tmp_path):
        out = tmp_path / "adm.safetensors"
        assert "ends in .safetensors" in invdiff("priors", "convert", adm, "--out", "adm.pt", code=2).stderr
        assert "conditioned on 10 classes" in invdiff("priors", "convert", adm, "--out", out, code=1).stderr
        wild = torch.load(adm)
        wild["out.2.weight"][0] = 1e6
        torch.save(wild, tmp_path / "wild.pt")
        half = ("--out", out, "--prior-option", "label=3", "--dtype", "float16")
        refused = invdiff("priors", "convert", "wild.pt", *half, code=1).stderr
        assert "not finite in torch.float16: nothing was written" in refused
        (tmp_path / "wild.pt").unlink()
        invdiff("priors", "convert", adm, "--out", out, "--prior-option", "label=3")
        assert "exists" in invdiff("priors", "convert", adm, "--out", out, "--prior-option", "label=3", code=2).stderr
        invdiff("priors", "convert", adm, "--out", out, "--prior-option", "label=4", "--overwrite")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["adm.safetensors"]


class TestSolve:
    @pytest.fixture
    def small(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "small.png")
        return tmp_path / "small.png"

    def test_any_size_with_a_prior_of_one(self, invdiff, adm, small, tmp_path):
        few = ("--precision", "float32", "--steps", 2, "--samples", 1, "--checkpointing", "-o", tmp_path / "out")
        prior = ("--prior", adm, "--prior-option", "label=3")
        result = invdiff("solve", small, "--simulate", "--problem", "sr", "--factor", 8, "--noise", 0.1, *prior, *few)
        assert "the prior is for images of 16 x 16 pixels: 48 x 32 is denoised through 12 windows" in result.stderr
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["prior"]["tile"] == [16, 16]
        assert record["prior"]["sha256"]
        assert record["prior"]["checkpointing"]
        assert set(PRIOR_OPTIONS) <= record["arguments"].keys()

    def test_labels_and_guidance(self, invdiff, adm, small, tmp_path):
        """Short for options of the prior, recorded as these, and replaced in a run that is repeated."""
        few = ("--precision", "float32", "--steps", 2, "--samples", 1)
        problem = ("--simulate", "--problem", "sr", "--factor", 8, "--noise", 0.1)

        def pixels(name, *arguments):
            invdiff("solve", *arguments, "-o", tmp_path / name)
            record = json.loads((tmp_path / name / "run.json").read_text())
            return (
                np.asarray(Image.open(tmp_path / name / "sample-1.png")),
                record["arguments"]["prior_option"],
                record["prior"],
            )

        start = (small, *problem, *few, "--prior", adm)
        long, options, _ = pixels("long", *start, "--prior-option", "label=3")
        short, same, _ = pixels("short", *start, "--label", 3)
        assert options == same == ["label=3"]
        assert (long == short).all()
        guidance = ("--guidance-scale", 2, "--null-label", 9)
        guided, _, about = pixels("before", *start, "--label", 3, *guidance)
        assert (about["guidance_scale"], about["unconditional"]["label"]) == (2.0, 9)
        assert (guided != long).any()
        after, _, same_about = pixels("after", *start, *guidance, "--prior-option", "label=3")
        assert (after == guided).all()
        assert same_about == about
        earlier = tmp_path / "before" / "run.json"
        again, options, _ = pixels("again", small, "--prior", adm, "--config", earlier)
        assert (again == guided).all()
        assert sorted(options) == ["guidance_scale=2", "label=3", "null_label=9"]
        other, options, _ = pixels("other", small, "--prior", adm, "--config", earlier, "--label", 4)
        assert sorted(options) == ["guidance_scale=2", "label=4", "null_label=9"]
        assert (other != guided).any()
        result = invdiff("solve", *start, "--label", 3, "--prior-option", "label=4", code=2)
        assert "label is given twice" in result.stderr
        result = invdiff("solve", *start, "--label", 3, "--guidance-scale", 2, code=1)
        assert "null_label=1000 or null_label=none" in result.stderr

    @pytest.mark.filterwarnings("always:torch.compile failed")
    @pytest.mark.parametrize("works", [True, False])
    def test_compiled_is_recorded(self, solve, tmp_path, monkeypatch, works):
        def compile_network(net, **_):
            if not works:
                raise RuntimeError("no C compiler")
            return net

        monkeypatch.setattr("torch.compile", compile_network)
        result = solve("--problem", "sr", "--factor", 8, "--noise", 0.1, "--compiled", "-o", tmp_path / "out")
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["prior"]["compiled"] is works
        assert record["arguments"]["compiled"] is True
        assert ("torch.compile failed (no C compiler)" in result.stderr) is not works

    def test_windows_on_request(self, solve, tmp_path):
        solve("--problem", "sr", "--factor", 8, "--noise", 0.1, "--tile", 128, "--overlap", 40, "-o", tmp_path / "out")
        prior = json.loads((tmp_path / "out" / "run.json").read_text())["prior"]
        assert (prior["tile"], prior["overlap"]) == ([128, 128], 40)
        needs = solve("--problem", "sr", "--factor", 8, "--noise", 0.1, "--overlap", 40, code=2)
        assert "windows need --tile" in needs.stderr

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("heads", "expected NAME=VALUE"),
            ("colour=3", "no option 'colour'"),
            ("label=4", "label is given twice: NAME"),
            ("device=cuda", "device is not an option of a checkpoint, use --device: NAME"),
        ],
    )
    def test_options_that_make_no_sense(self, invdiff, adm, option, message):
        settings = ("--prior", adm, "--prior-option", "label=3", "--prior-option", option)
        result = invdiff(
            "solve", "--problem", "sr", "--factor", 2, "--noise", 0.1, *settings, code=2 if "NAME" in message else 1
        )
        assert message.removesuffix(": NAME") in result.stderr

    def test_colours_through_a_grey_prior(self, invdiff, small, tmp_path):
        save(tmp_path / "grey.pt", channels=1, classes=None)
        few = ("--prior", "grey.pt", "--precision", "float32", "--steps", 2, "--samples", 1, "-o", tmp_path / "out")
        result = invdiff(
            "solve", small, "--simulate", "--problem", "sr", "--factor", 8, "--noise", 0.1, *few, "-o", tmp_path / "out"
        )
        assert "the 3 channels are taken as independent" in result.stderr


def test_training_starts_from_its_own_kind_alone(invdiff, tmp_path):
    save(tmp_path / "adm.pt", classes=None)
    result = invdiff("train", tmp_path, "--out", "new.safetensors", "--init", "adm.pt", code=1)
    assert "its network is ADM, expected a prior trained by `invdiff train`" in result.stderr
