"""Networks of guided-diffusion and improved-diffusion: outputs as of the authors' code, and what a state dict tells."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from helpers import filled, fingerprint, randn
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from invdiff.priors.checkpoints.container import Contents, open_contents
from invdiff.priors.checkpoints.guided_diffusion import OPTIONS, PUBLISHED, read
from invdiff.priors.networks.adm import ADM
from invdiff.priors.spec import Checkpoint, NetworkSpec, build_network, build_prior
from invdiff.schedules import DiscreteBetas

REFERENCES = Path(__file__).parents[1] / "data" / "guided_diffusion.safetensors"
with safe_open(REFERENCES, framework="pt") as file:
    CASES = json.loads(file.metadata()["cases"])
SMALL, LARGE = CASES["small"], CASES["large"]
EXPECTED: dict[str, tuple[int, str, int, float, str]] = {  # side, schedule, steps, time scale, published as
    "ffhq-256": (256, "linear", 1000, 1.0, "ffhq_10m.pt"),
    "imagenet-256": (256, "linear", 1000, 1.0, "256x256_diffusion.pt"),
    "imagenet-256-classes": (256, "linear", 1000, 1.0, "256x256_diffusion.pt"),
    "imagenet-512": (512, "linear", 1000, 1.0, "512x512_diffusion.pt"),
    "imagenet-128": (128, "linear", 1000, 1.0, "128x128_diffusion.pt"),
    "imagenet-64": (64, "cosine", 1000, 1.0, "64x64_diffusion.pt"),
    "improved-imagenet-64": (64, "cosine", 4000, 0.25, "imagenet64_uncond_100M_1500K.pt"),
    "improved-imagenet-64-classes": (64, "cosine", 4000, 1.0, "imagenet64_cond_270M_250K.pt"),
    "improved-cifar-10": (32, "cosine", 4000, 0.25, "cifar10_uncond_50M_500K.pt"),
    "improved-lsun-256": (256, "linear", 1000, 1.0, "lsun_uncond_100M_1200K_bs128.pt"),
}
EVERY_SMALL = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(scope="module")
def references() -> dict[str, Tensor]:
    return safetensors.torch.load_file(REFERENCES)


def shapes(config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ADM(**config).state_dict()


def sizes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


@functools.cache
def weights_of(name: str) -> dict[str, Tensor]:
    return filled(sizes(shapes(SMALL[name]["config"])))


def contents(data: Any) -> Contents:
    return Contents(Path("some.pt"), "torch", data)


def spec_of(data: Any, **given: Any) -> NetworkSpec:
    checkpoint = read(contents(data), given)
    assert checkpoint is not None
    assert NetworkSpec.from_json(json.loads(json.dumps(checkpoint.spec.to_json()))) == checkpoint.spec
    return checkpoint.spec


def said(config: dict[str, Any]) -> dict[str, str]:
    """Return what shapes do not tell, as a command line gives it."""
    names = ("heads", "head_channels", "heads_up", "attention_order")
    return {name: str(config[name]) for name in names if config[name]} | ({"label": "1"} if config["classes"] else {})


def refused(data: Any, message: str, **given: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_network(cast(Checkpoint, read(contents(data), given)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


class TestNetwork:
    @EVERY_SMALL
    def test_computes_what_the_authors_network_computes(self, name: str, references: dict[str, Tensor]) -> None:
        net = ADM(**SMALL[name]["config"]).eval()
        assert net.config == SMALL[name]["config"]
        assert fingerprint(sizes(net.state_dict())) == SMALL[name]["fingerprint"]
        net.load_state_dict(weights_of(name))
        labels = [references[f"{name}.label"]] if f"{name}.label" in references else []
        with torch.no_grad():
            output = net(references[f"{name}.x"], references[f"{name}.time"], *labels)
        expected = references[f"{name}.output"]
        assert_close(output, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    @pytest.mark.parametrize("name", ["like-ffhq", "new-order", "added-time"])
    def test_every_precision(self, name: str, references: dict[str, Tensor]) -> None:
        net = ADM(**SMALL[name]["config"]).eval()
        net.load_state_dict(weights_of(name))
        x, time, expected = (references[f"{name}.{part}"] for part in ("x", "time", "output"))
        largest = float(expected.abs().max())
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                rough = net(x, time)
            assert_close(rough.float(), expected, rtol=0, atol=0.05 * largest)
            assert_close(net.double()(x.double(), time.double()).float(), expected, rtol=0, atol=1e-4 * largest)
            low = net.bfloat16()(x.bfloat16(), time)
        assert low.dtype == torch.bfloat16
        assert_close(low.float(), expected, rtol=0, atol=0.1 * largest)

    def test_gradient(self) -> None:
        net = ADM(**SMALL["like-ffhq"]["config"]).eval().double()
        net.load_state_dict(weights_of("like-ffhq"))
        x, v = randn(2, 3, 8, 8, seed=1).requires_grad_(), randn(2, 3, 8, 8, seed=2)
        time = torch.tensor([10.0, 500.0], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(net(x, time)[0].sum(), x)
        assert (gradient[1] == 0).all()
        with torch.no_grad():
            change = (net(x + 1e-6 * v, time) - net(x - 1e-6 * v, time))[0].sum() / 2e-6
        assert_close((gradient * v).sum(), change, rtol=1e-6, atol=0)

    def test_refuses_sides_and_labels_that_do_not_fit(self) -> None:
        net, x, time = ADM(**SMALL["like-imagenet"]["config"]), torch.zeros(1, 3, 10, 8), torch.zeros(1)
        with pytest.raises(ValueError, match="multiples of 4, got height 10, width 8"):
            net(x, time, torch.zeros(1).long())
        with pytest.raises(ValueError, match=r"a label is needed if and only if .* classes, got none for classes=5"):
            net(x[..., :8, :], time)
        with pytest.raises(ValueError, match="got one for classes=None"):
            ADM(**SMALL["grey"]["config"])(torch.zeros(1, 1, 8, 8), time, torch.zeros(1).long())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"heads": 4}, "expected heads .* or head_channels, got heads=4, head_channels=16"),
            ({"head_channels": None}, "or head_channels, got heads=None, head_channels=None"),
            ({"heads_up": 4}, "heads_up=4"),
            ({"head_channels": 24}, "64 features of an attention layer cannot be split into heads=None or head_channels=24"),
            ({"head_channels": 128}, "cannot be split"),
            ({"attention_order": "newest"}, "one of legacy, new, got 'newest'"),
            ({"width": 48}, "divisible"),
        ],
    )
    def test_refuses_what_is_no_network(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ADM(**SMALL["like-ffhq"]["config"] | change)


class TestInference:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", LARGE)
    def test_shapes_and_defaults_tell_the_network(self, name: str) -> None:
        config = LARGE[name]["config"]
        data = shapes(config)
        assert fingerprint(sizes(data)) == LARGE[name]["fingerprint"]
        spec = spec_of(data, **({"label": 1} if config["classes"] else {}))
        assert spec.config == config
        assert spec.label == (1 if config["classes"] else None)
        assert {"attention_order", "schedule", "steps", "predicts"} <= spec.assumed.keys() <= OPTIONS.keys()
        size, schedule, steps, time_scale, like = EXPECTED.get(name, (None, "linear", 1000, 1.0, None))
        assert (spec.schedule["name"], spec.schedule["steps"], spec.time_scale) == (
            f"{schedule}-betas",
            steps,
            time_scale,
        )
        entry = next((entry for entry in PUBLISHED if entry.name == like), None)
        if entry is not None:
            assert spec.event_shape == (3, size, size)
            assert "image_size" not in spec.assumed
            for option, value in entry.flags.items():
                assert spec.assumed[option] == f"{value} (as {entry.name}, see {entry.source})"
        else:
            assert spec.assumed["steps"] == "1000 (common default; no published network has these shapes)"

    def test_every_published_network_is_among_them(self) -> None:
        assert {expected[-1] for expected in EXPECTED.values()} == {entry.name for entry in PUBLISHED}

    @EVERY_SMALL
    def test_shapes_and_options_tell_the_network(self, name: str) -> None:
        config = SMALL[name]["config"]
        spec = spec_of(shapes(config), **said(config))
        assert spec.config == config
        assert spec.assumed.keys().isdisjoint(said(config))
        assert spec.event_shape[0] == config["channels"]

    def test_sizes_that_are_not_published_are_assumed(self) -> None:
        data = shapes(LARGE["grey"]["config"])
        spec = spec_of(data)
        assert spec.event_shape == (1, 32, 32)
        assert spec.assumed["image_size"] == "32 (common default; no published network has these shapes)"
        spec = spec_of(data, image_size="48")
        assert spec.event_shape == (1, 48, 48)
        assert "image_size" not in spec.assumed

    def test_what_is_given_wins(self) -> None:
        data = shapes(LARGE["improved-cifar-10"]["config"])
        given = {"heads": "2", "attention_order": "new", "schedule": "linear", "steps": "2000", "rescale": "no"}
        spec = spec_of(data, **given, predicts="x0", image_size=40)
        assert spec.assumed == {}
        assert (spec.config["heads"], spec.config["attention_order"]) == (2, "new")
        assert spec.schedule == {"name": "linear-betas", "steps": 2000, "beta_start": 5e-5, "beta_end": 0.01}
        assert (spec.time_scale, spec.predicts, spec.event_shape) == (1.0, "x0", (3, 40, 40))
        spec = spec_of(data, head_channels=32, steps=1000)
        assert (spec.config["heads"], spec.config["head_channels"]) == (None, 32)
        assert spec.assumed.keys() == {"attention_order", "schedule", "predicts"}

    def test_steps_are_rescaled_by_default_where_the_repository_does(self) -> None:
        assert spec_of(shapes(LARGE["defaults-64"]["config"]), steps=500).time_scale == 2.0
        spec = spec_of(shapes(LARGE["no-attention"]["config"]), steps=500)
        assert spec.time_scale == 1.0
        assert spec.assumed["rescale"].startswith("no (")


class TestPrior:
    @pytest.mark.parametrize("wrap", ["plain", "ema", "prefixed", "both"])
    def test_from_a_file(self, wrap: str, tmp_path: Path, references: dict[str, Tensor]) -> None:
        weights = weights_of("like-imagenet")
        wrapped: Any = {
            "plain": weights,
            "ema": {"model": {name: 0 * tensor for name, tensor in weights.items()}, "ema": weights, "step": 3},
            "prefixed": {f"module.net.{name}": tensor for name, tensor in weights.items()},
            "both": {
                f"{which}.{name}": tensor * (which != "net") for which in ("net", "net_ema") for name, tensor in weights.items()
            },
        }[wrap]
        torch.save(wrapped, tmp_path / "some.pt")
        checkpoint = read(open_contents(tmp_path / "some.pt"), {"label": 4, "head_channels": "16"})
        assert checkpoint is not None
        assert checkpoint.spec.facts.get("weights", "") == {"ema": "ema", "prefixed": "net", "both": "net_ema"}.get(wrap, "")
        prior = build_prior(checkpoint, facts={})
        x, time = references["like-imagenet.x"][1:], references["like-imagenet.time"][1:]
        alpha_t, sigma_t = DiscreteBetas.linear(1000)(time.double())
        expected = (x - sigma_t * references["like-imagenet.output"][1:, :3]) / alpha_t
        assert_close(prior.denoise(x, time.double()), expected.float(), rtol=1e-4, atol=1e-3)

    def test_the_network_is_told_rescaled_times(self, references: dict[str, Tensor]) -> None:
        weights = weights_of("improved")
        checkpoint = read(contents(weights), {"label": 0, "schedule": "cosine", "steps": 4000, "predicts": "x0"})
        assert checkpoint is not None
        x, time = references["improved.x"][:1], references["improved.time"][:1]
        x0_hat = build_prior(checkpoint, facts={}).denoise(x, 4 * time.double())
        assert_close(x0_hat, references["improved.output"][:1, :3], rtol=1e-4, atol=1e-4)

    def test_nothing_is_copied(self) -> None:
        weights = weights_of("grey")
        checkpoint = read(contents({"state_dict": {f"unet.{name}": tensor for name, tensor in weights.items()}, "step": 1}), {})
        assert checkpoint is not None
        assert checkpoint.weights.keys() == weights.keys()
        assert all(checkpoint.weights[name] is tensor for name, tensor in weights.items())
        net = build_network(checkpoint)
        assert all(tensor.data_ptr() == weights[name].data_ptr() for name, tensor in net.state_dict().items())


def without(weights: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(beginning)}


class TestRefusals:
    @pytest.fixture(scope="class")
    def whole(self) -> dict[str, Tensor]:
        return shapes(SMALL["like-ffhq"]["config"])

    @pytest.mark.parametrize(
        "data", [{}, None, [1], {"conv.weight": torch.zeros(3)}, {"state": {0: {"step": torch.zeros(())}}}]
    )
    def test_other_files_are_left_to_others(self, data: Any) -> None:
        assert read(contents(data), {}) is None

    def test_classes_need_a_label(self) -> None:
        data = shapes(SMALL["like-imagenet"]["config"])
        refused(
            data,
            "the network is conditioned on 5 classes and needs a label from 0 to 4: give label=4 in Python, --prior-option",
        )
        refused(shapes(SMALL["like-imagenet"]["config"] | {"classes": 1000}), "from 0 to 999: give label=207")
        refused(data, "label='5': expected a whole number from 0 to 4", label="5")
        refused(data, "label=-1: expected a whole number from 0 to 4", label=-1)
        refused(data, "label='cat': expected a whole number from 0 to 4", label="cat")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"label": 3}, "label=3: expected none, as the network is not class-conditional. Leave it out"),
            ({"heads": "many"}, "heads='many': expected a whole number from 1 to 4096"),
            ({"heads": 0}, "heads=0: expected a whole number from 1 to 4096"),
            ({"heads": 5}, "64 features of an attention layer cannot be split"),
            ({"heads": 2, "head_channels": 16}, "got heads=2, head_channels=16"),
            ({"attention_order": "old"}, "attention_order='old': expected one of legacy, new"),
            ({"schedule": "sigmoid"}, "schedule='sigmoid': expected one of linear, cosine"),
            ({"steps": "1e3"}, "steps='1e3': expected a whole number from 21 to 100000"),
            ({"steps": 20}, "steps=20: expected a whole number from 21"),
            ({"steps": 50, "rescale": "maybe"}, "rescale='maybe': expected yes or no"),
            ({"predicts": "noise"}, "predicts='noise': expected one of eps, x0, v"),
            ({"image_size": 30}, "image_size=30: expected a multiple of 4 from 1 to 65536"),
        ],
    )
    def test_options(self, whole: dict[str, Tensor], given: dict[str, Any], message: str) -> None:
        refused(whole, message, **given)

    @pytest.mark.parametrize(
        ("lost", "message"),
        [
            ("output_blocks.5.", "5 output_blocks, 2 for each level"),
            ("output_blocks.", "0 output_blocks"),
            ("time_embed.", "it lacks time_embed.0.weight"),
            ("input_blocks.0.0.weight", "it lacks input_blocks.0.0.weight"),
            ("input_blocks.3.", "it lacks input_blocks.3.0.out_layers.3.weight"),
            ("input_blocks.2.0.in_layers.2.bias", "1 of 198 tensors are missing"),
            ("middle_block.1.", "6 of 198 tensors are missing .the file may be cut off., such as middle_block.1.norm.bias"),
            ("out.", "it lacks out.2.weight"),
        ],
    )
    def test_sets_that_are_not_whole(self, whole: dict[str, Tensor], lost: str, message: str) -> None:
        refused(without(whole, lost), message)

    def test_sets_with_foreign_weights(self, whole: dict[str, Tensor]) -> None:
        refused(whole | {"betas": torch.zeros(9)}, "1 tensors are unexpected beside its 198, such as betas")
        other = {"middle_block.0.in_layers.2.bias": torch.zeros(7)}
        refused(whole | other, "1 of 198 have other shapes, such as middle_block.0.in_layers.2.bias")
        refused(whole | {"time_embed.0.weight": torch.zeros(0, 0)}, "do not form a U-Net")
        refused(
            whole | {"input_blocks.99999999.0.bias": torch.zeros(1)},
            "1 tensors are unexpected beside its 198, such as input_blocks.9999",
        )
        refused(whole | {"output_blocks.99999999.0.bias": torch.zeros(1)}, "7 output_blocks")

    @pytest.mark.parametrize("outputs", [3, 6])
    def test_super_resolution(self, whole: dict[str, Tensor], outputs: int) -> None:
        other = {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3), "out.2.weight": torch.zeros(outputs, 32, 3, 3)}
        refused(whole | other, "takes 6 channels for 3 of an image: it is a super-resolution model")

    def test_conditional_on_something_else(self, whole: dict[str, Tensor]) -> None:
        other = {"input_blocks.0.0.weight": torch.zeros(32, 7, 3, 3)}
        refused(whole | other, "takes 7 channels and returns 6, so it is conditioned on 4 further channels.* Expected as many")
        depth = {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}
        refused(whole | depth, "takes 4 channels and returns 6, so it is conditioned on 1 further channel, such as a mask")
        refused(whole | {"out.2.weight": torch.zeros(5, 32, 3, 3)}, "takes 3 channels and returns 5. Expected as many")

    @pytest.mark.parametrize("end", ["out.2.positional_embedding", "out.3.weight"])
    def test_classifiers(self, whole: dict[str, Tensor], end: str) -> None:
        refused(without(without(whole, "output_blocks."), "out.2.") | {end: torch.zeros(3)}, "is a classifier of noisy images")

    def test_latent_models(self, whole: dict[str, Tensor]) -> None:
        message = "U-Net of a latent diffusion model .such as Stable Diffusion"
        inside = {f"model.diffusion_model.{name}": tensor for name, tensor in whole.items()}
        refused({"state_dict": inside}, message)
        refused({"state_dict": inside | {"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}}, message)
        refused(whole | {"input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight": torch.zeros(1)}, message)

    @pytest.mark.parametrize("outputs", [4, 8])
    def test_four_channels_are_images(self, whole: dict[str, Tensor], outputs: int) -> None:
        """Nothing in the file says whether they are RGB with alpha or depth, or latent codes: they are read, with a note."""
        four = {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), "out.2.weight": torch.zeros(outputs, 32, 3, 3)}
        found = read(Contents(Path("some.pt"), "torch", whole | four), {})
        assert found is not None
        assert found.spec.event_shape[0] == found.spec.config["channels"] == 4
        assert found.spec.config["learned_variance"] is (outputs == 8)
        assert "4 channels" in found.notes[0]
        assert "Latent codes" in found.notes[0]
        three = read(Contents(Path("some.pt"), "torch", whole), {})
        assert three is not None
        assert not three.notes

    def test_consistency_models(self, whole: dict[str, Tensor]) -> None:
        refused(whole | {"middle_block.1.qkv.weight": torch.zeros(192, 64, 1, 1)}, "is of OpenAI's consistency_models")
