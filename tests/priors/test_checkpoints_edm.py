"""EDM networks: against outputs of their authors' code, and what is read from names and shapes alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import filled, fingerprint, randn
from safetensors import safe_open
from torch import Tensor

from invdiff.priors.checkpoints.container import Contents, open_contents
from invdiff.priors.checkpoints.edm import OPTIONS, read
from invdiff.priors.checkpoints.records import Record
from invdiff.priors.networks.dhariwal import DhariwalUNet
from invdiff.priors.networks.song import SongUNet
from invdiff.priors.spec import Checkpoint, NetworkSpec, build_network, build_prior

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "edm_tiny.pkl"
with safe_open(DATA / "edm.safetensors", framework="pt") as stored:
    CASES: dict[str, dict[str, Any]] = json.loads(stored.metadata()["cases"])
    TENSORS: dict[str, Tensor] = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
KINDS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
PUBLISHED = {
    "cifar10-ddpmpp": {"img_resolution": 32, "channel_mult": [2, 2, 2], "augment_dim": 9},
    "cifar10-ncsnpp-labels": {
        "img_resolution": 32,
        "channel_mult": [2, 2, 2],
        "augment_dim": 9,
        "label_dim": 10,
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
    },
    "ffhq-ddpmpp": {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "augment_dim": 9},
    "imagenet-adm": {"img_resolution": 64, "model_type": "DhariwalUNet", "label_dim": 1000},
}


def translated(arguments: dict[str, Any], outputs: int = 3) -> tuple[str, dict[str, Any]]:
    """Return the architecture and its configuration, from the arguments of the authors' constructors."""
    adm = arguments.get("model_type") == "DhariwalUNet"
    given = {
        "model_channels": 192 if adm else 128,
        "channel_mult": [1, 2, 3, 4] if adm else [1, 2, 2, 2],
        "num_blocks": 3 if adm else 4,
        "attn_resolutions": [32, 16, 8] if adm else [16],
    } | arguments
    width, size = given["model_channels"], given["img_resolution"]
    config = {
        "size": size,
        "channels": 3,
        "outputs": outputs,
        "classes": given.get("label_dim", 0),
        "augmentations": given.get("augment_dim", 0),
        "widths": [width * factor for factor in given["channel_mult"]],
        "blocks": given["num_blocks"],
        "attention": [at for at in given["attn_resolutions"] if at in [size >> i for i in range(len(given["channel_mult"]))]],
        "frequencies": width * given.get("channel_mult_noise", 1) // 2,
        "embedding": width * given.get("channel_mult_emb", 4),
    }
    if adm:
        return "DhariwalUNet", config
    return "SongUNet", config | {
        "first": width,
        "fourier": given.get("embedding_type") == "fourier",
        "encoder": given.get("encoder_type", "standard"),
        "decoder": given.get("decoder_type", "standard"),
        "taps": len(given.get("resample_filter", [1, 1])),
    }


def empty_weights(architecture: str, config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        net = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[architecture](**config)
    assert net.config == config
    return net.state_dict()


def case(name: str) -> tuple[dict[str, Any], dict[str, Tensor], str, dict[str, Any]]:
    """Return a reference case with its weights, architecture and configuration."""
    told = CASES[name]
    architecture, config = translated(told["arguments"], outputs=6 if told["preconditioning"] == "iDDPMPrecond" else 3)
    shapes = {key: tuple(value.shape) for key, value in empty_weights(architecture, config).items()}
    assert fingerprint(shapes) == told["fingerprint"]
    return told, filled(shapes), architecture, config


def weights_file(weights: dict[str, Tensor], prefix: str = "model.") -> Contents:
    return Contents(Path("edm.pt"), "torch", {"ema": {prefix + name: value for name, value in weights.items()}})


def pickled(kind: str, weights: dict[str, Tensor], architecture: str, settings: dict[str, Any], **inner: Any) -> Contents:
    """Return what the reader of pickles gives for a network."""
    parameters: dict[str, Any] = {"_parameters": dict(weights), "_modules": {}}
    network = Record(architecture, parameters | {"_init_kwargs": {}} | inner)
    return Contents(Path("edm.pkl"), "pickle", {"ema": Record(kind, {"_modules": {"model": network}} | settings)})


def close(ours: Tensor, theirs: Tensor) -> bool:
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def denoised(checkpoint: Checkpoint, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return what the prior makes of clean images plus noise, each at its level."""
    assert NetworkSpec.from_json(json.loads(json.dumps(checkpoint.spec.to_json()))) == checkpoint.spec
    prior = build_prior(checkpoint, facts={})
    t = prior.schedule.time(sigma)
    return prior.denoise(prior.levels(t, noisy)[0] * noisy, t)


@pytest.mark.slow
class TestParity:
    @pytest.mark.parametrize("name", CASES)
    def test_network(self, name: str) -> None:
        told, weights, architecture, config = case(name)
        checkpoint = Checkpoint(NetworkSpec(architecture, config, (3, 16, 16), "eps", {"name": "vp"}), weights)
        net = build_network(checkpoint)
        label = () if told["label"] is None else (torch.full((2,), told["label"]),)
        x, time = TENSORS[f"{name}.noisy"], TENSORS[f"{name}.time"]
        assert close(net(x, time, *label), TENSORS[f"{name}.output"])
        if f"{name}.unlabelled" in TENSORS:
            assert close(net(x, time)[0], TENSORS[f"{name}.unlabelled"])

    @pytest.mark.parametrize("name", CASES)
    def test_prior_of_a_pickle(self, name: str) -> None:
        told, weights, architecture, config = case(name)
        known = {"sigma_data": 0.5} | told["arguments"]
        settings = {key: known[key] for key in ("beta_d", "beta_min", "M", "sigma_data") if key in known}
        given = {} if told["label"] is None else {"label": str(told["label"])}
        checkpoint = read(pickled(told["preconditioning"], weights, architecture, settings), given)
        assert checkpoint is not None
        spec = checkpoint.spec
        assert (spec.architecture, spec.config, spec.event_shape) == (architecture, config, (3, 16, 16))
        assert spec.assumed == {}
        assert close(denoised(checkpoint, TENSORS[f"{name}.noisy"], TENSORS[f"{name}.sigma"]), TENSORS[f"{name}.denoised"])

    @pytest.mark.parametrize("name", ["ddpmpp", "ddpmpp-vp", "ncsnpp-ve", "adm-iddpm"])
    @pytest.mark.parametrize("prefix", ["model.", ""])
    def test_prior_of_weights_alone(self, name: str, prefix: str) -> None:
        told, weights, _, _ = case(name)
        kind = KINDS[told["preconditioning"]]
        label = {} if told["label"] is None else {"label": told["label"]}
        checkpoint = read(weights_file(weights, prefix), {"preconditioning": kind} | label)
        assert checkpoint is not None
        assert "preconditioning" not in checkpoint.spec.assumed
        assert close(denoised(checkpoint, TENSORS[f"{name}.noisy"], TENSORS[f"{name}.sigma"]), TENSORS[f"{name}.denoised"])

    def test_prior_of_a_genuine_pickle(self) -> None:
        contents = open_contents(TINY)
        checkpoint = read(contents, {})
        assert checkpoint is not None
        assert contents.kind == "pickle"
        assert checkpoint.spec.assumed == {}
        assert checkpoint.spec.facts == {"family": "EDM", "network": "SongUNet", "preconditioning": "edm"}
        assert close(denoised(checkpoint, TENSORS["tiny.noisy"], TENSORS["tiny.sigma"]), TENSORS["tiny.denoised"])
        # The configuration read from shapes is the one that the pickle says.
        model = contents.data["ema"].state["_modules"]["model"]
        assert (checkpoint.spec.architecture, checkpoint.spec.config) == translated(
            {"img_resolution": 8} | model.state["_init_kwargs"]
        )
        record = read(Contents(TINY, "pickle", contents.data["ema"]), {})
        assert record is not None
        assert record.spec == checkpoint.spec

    def test_the_discrete_levels_are_theirs(self) -> None:
        _, weights, architecture, _ = case("adm-iddpm")
        checkpoint = read(pickled("iDDPMPrecond", weights, architecture, {}), {"label": 0})
        assert checkpoint is not None
        ours = build_prior(checkpoint, facts={}).schedule.ratio(torch.arange(1000))
        theirs = TENSORS["adm-iddpm.table"][:-1].flip(0).double()
        # Theirs are worked out in 24 bits, one from the next: to a thousandth at the smallest.
        assert torch.allclose(ours, theirs, rtol=2e-3)
        assert torch.allclose(ours[50:], theirs[50:], rtol=1e-5)


class TestNetworks:
    @pytest.mark.parametrize("name", ["ncsnpp-ve-labels", "adm"])
    def test_precisions_gradients_and_sizes(self, name: str) -> None:
        _, weights, architecture, config = case(name)
        net = build_network(Checkpoint(NetworkSpec(architecture, config, (3, None, None), "eps", {"name": "vp"}), weights))
        x, time = randn(2, 3, 24, 8, dtype=torch.float32), torch.tensor([0.3, 1.7])
        with torch.autocast("cpu", torch.bfloat16):
            coarse = net(x, time)
        x.requires_grad_()
        plain = net(x, time)
        assert (coarse.float() - plain).abs().max() < 0.1 * plain.abs().max()
        (grad,) = torch.autograd.grad(plain.square().sum(), x)
        assert grad.isfinite().all()
        assert grad.abs().min() > 0
        fine = net.double()(x.double(), time.double())
        assert fine.dtype == torch.float64
        assert close(plain.double(), fine)

    def test_images_do_not_mix(self) -> None:
        _, weights, architecture, config = case("adm")
        net = build_network(Checkpoint(NetworkSpec(architecture, config, (3, 16, 16), "eps", {"name": "vp"}), weights))
        x, time, label = randn(2, 3, 16, 16, dtype=torch.float32), torch.tensor([0.3, 1.7]), torch.tensor([1, 4])
        alone = torch.cat([net(x[i : i + 1], time[i : i + 1], label[i : i + 1]) for i in range(2)])
        assert close(net(x, time, label), alone)
        assert not close(net(x, time), alone)  # without classes it computes something else

    @pytest.mark.parametrize("name", ["ddpmpp", "adm"])
    def test_sides_that_do_not_fit(self, name: str) -> None:
        _, _, architecture, config = case(name)
        net = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[architecture](**config)
        with pytest.raises(ValueError, match=r"multiples of 2, got height 15, width 16"):
            net(torch.zeros(1, 3, 15, 16), torch.zeros(1))

    def test_encoders_by_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="encoder standard, skip or residual"):
            SongUNet(size=16, encoder="dense")


class TestRead:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_configurations_from_shapes(self, name: str) -> None:
        architecture, config = translated(PUBLISHED[name])
        weights = empty_weights(architecture, config)
        checkpoint = read(weights_file(weights), {"label": "7"} if config["classes"] else {})
        assert checkpoint is not None
        spec = checkpoint.spec
        assert (spec.architecture, spec.config) == (architecture, config)
        assert (spec.predicts, spec.sigma_data) == ("edm", 0.5)
        assert spec.schedule == {"name": "edm", "sigma_min": 0.002, "sigma_max": 80.0}
        assert set(spec.assumed) == {"preconditioning", "sigma_data"} <= set(OPTIONS)
        assert spec.label == (7 if config["classes"] else None)
        assert all(checkpoint.weights[key] is value for key, value in weights.items())  # never copied

    def test_given_options_win(self) -> None:
        _, weights, _, _ = case("ddpmpp")
        checkpoint = read(weights_file(weights), {"preconditioning": "EDM", "sigma_data": "0.7", "other": 1})
        assert checkpoint is not None
        assert (checkpoint.spec.sigma_data, checkpoint.spec.assumed) == (0.7, {})
        checkpoint = read(open_contents(TINY), {"preconditioning": "vp"})
        assert checkpoint is not None
        assert checkpoint.spec.schedule == {"name": "vp", "beta_min": 0.1, "beta_max": 20.0}

    def test_discrete_preconditioning_shows(self) -> None:
        _, weights, _, _ = case("adm-iddpm")
        checkpoint = read(weights_file(weights), {"label": 0})
        assert checkpoint is not None
        assert "twice as many outputs" in checkpoint.spec.assumed["preconditioning"]
        whole = {f"model.{key}": value for key, value in weights.items()} | {"u": torch.zeros(1001)}
        known = read(Contents(Path("a.pt"), "torch", whole), {"label": 0})
        assert known is not None
        assert known.spec.assumed == {}
        assert known.spec.schedule["name"] == "cosine-betas"

    def test_labels(self) -> None:
        _, weights, architecture, _ = case("ddpmpp-labels")
        contents = weights_file(weights)
        with pytest.raises(
            ValueError, match=r"edm.pt: .* conditioned on 5 classes .* from 0 to 4 \(or none, .*\): give label=4 in Python"
        ):
            read(contents, {})
        for wrong in ("5", -1, "1.5", "cat", True, 10**30):
            with pytest.raises(ValueError, match="expected a whole number from 0 to 4"):
                read(contents, {"label": wrong})
        chosen = [read(contents, {"label": label}) for label in ("3", 3, "none")]
        assert [each.spec.label for each in chosen if each] == [3, 3, None]
        dropped = read(pickled("EDMPrecond", weights, architecture, {}, label_dropout=0.1), {})
        assert dropped is not None
        assert dropped.spec.label is None
        with pytest.raises(ValueError, match="is not class-conditional"):
            read(open_contents(TINY), {"label": 0})

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"preconditioning": "ddim"}, "expected one of edm, vp, ve, iddpm"),
            ({"sigma_data": "x"}, "sigma_data='x': expected a pos"),
        ]
        + [({"sigma_data": value}, "expected a positive number") for value in (0, -1, "inf", "nan", None)],
    )
    def test_nonsense(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(open_contents(TINY), given)

    def test_other_files(self) -> None:
        assert read(Contents(Path("a.pt"), "torch", {"enc.weight": torch.zeros(1)}), {}) is None
        assert read(Contents(Path("a.pkl"), "pickle", [1, 2]), {}) is None
        assert read(Contents(Path("a.pkl"), "pickle", {"a": 1}), {}) is None

    @pytest.mark.parametrize(
        ("name", "message"),
        [("Precond", "a network of EDM2"), ("Generator", "a StyleGAN"), ("Odd\n" * 99, r"of class Odd\\nOdd")],
    )
    def test_other_networks(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            read(Contents(Path("a.pkl"), "pickle", {"G_ema": Record(name)}), {})
        assert "\n" not in str(caught.value)

    def test_edm2_weights(self) -> None:
        names = ("unet.enc.64x64_conv.weight", "unet.emb_fourier.freqs", "unet.emb_noise.weight")
        for cut in ("", "unet."):
            weights = {name.removeprefix(cut): torch.zeros(1) for name in names}
            with pytest.raises(ValueError, match="EDM2"):
                read(Contents(Path("a.safetensors"), "safetensors", weights), {})

    def test_changed_networks(self) -> None:
        _, weights, _, _ = case("ddpmpp")
        with pytest.raises(ValueError, match=r"unsupported options \(implicit_mlp\)"):
            read(pickled("EDMPrecond", weights, "SongUNet", {}, _init_kwargs={"dropout": 0, "implicit_mlp": True}), {})
        with pytest.raises(ValueError, match="around the network 'MyUNet', expected SongUNet or DhariwalUNet"):
            read(pickled("EDMPrecond", weights, "MyUNet", {}), {})
        with pytest.raises(ValueError, match="around the network 'none'"):
            read(Contents(Path("a.pkl"), "pickle", Record("EDMPrecond", {"_modules": 3})), {})
        ring = pickled("EDMPrecond", weights, "SongUNet", {}, label_dropout=torch.ones(2))
        ring.data["ema"].state["_modules"]["again"] = ring.data["ema"]
        with pytest.raises(ValueError, match=r"edm.pkl: EDMPrecond contains itself"):
            read(ring, {})

    @pytest.mark.parametrize("value", [math.inf, "1", None, 0, True])
    def test_damaged_settings(self, value: Any) -> None:
        _, weights, architecture, _ = case("ddpmpp")
        with pytest.raises(ValueError, match="beta_min is not a positive number"):
            read(pickled("VPPrecond", weights, architecture, {"beta_min": value}), {})

    @pytest.mark.parametrize(
        "lost", ["enc.16x16_conv.weight", "map_layer0.weight", "dec.16x16_aux_conv.weight", "enc.8x8_block0.conv1.weight"]
    )
    def test_lost_weights(self, lost: str) -> None:
        _, weights, architecture, _ = case("ddpmpp")
        del weights[lost]
        with pytest.raises(ValueError, match="lacks some of its weights"):
            read(pickled("EDMPrecond", weights, architecture, {}), {})

    def test_weights_that_do_not_fit(self) -> None:
        _, weights, _, _ = case("ddpmpp")
        weights["enc.16x16_block0.norm0.weight"] = torch.zeros(3)
        checkpoint = read(weights_file(weights), {})
        assert checkpoint is not None
        with pytest.raises(ValueError, match="do not fit the architecture SongUNet"):
            build_network(checkpoint)
