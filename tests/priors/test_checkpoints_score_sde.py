"""Checkpoints of score-SDE: the network and the prior against the authors' code, and what a reader infers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import filled, fingerprint, randn
from safetensors import safe_open
from torch import Tensor

from invdiff.priors.checkpoints.container import Contents, open_contents
from invdiff.priors.checkpoints.score_sde import OPTIONS, read
from invdiff.priors.networks.ncsnpp import NCSNpp
from invdiff.priors.spec import Checkpoint, NetworkSpec, build_prior

REFERENCES = Path(__file__).parents[1] / "data" / "score_sde.safetensors"
with safe_open(REFERENCES, framework="pt") as _file:
    CASES, PUBLISHED = (json.loads(_file.metadata()[key]) for key in ("cases", "published"))
    TENSORS: dict[str, Tensor] = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118
EXACT = 1e-5  # of the largest value
WITHOUT_SHAPE = {"scale_by_sigma", "centered", "told", "skip_rescale"}
TINY: dict[str, Any] = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attention": [1]}
NCSN: dict[str, Any] = {"embedding": "fourier", "progressive_input": "input_skip", "fir": True}


def sigmas(first: float = 50.0, last: float = 0.01, steps: int = 1000) -> Tensor:
    return torch.logspace(0, 1, steps, base=last / first, dtype=torch.float64) * first


def shapes(net: NCSNpp) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def network(config: dict[str, Any]) -> NCSNpp:
    return _network(json.dumps(config))


@functools.cache
def _network(config: str) -> NCSNpp:
    with torch.device("meta"):
        return NCSNpp(**json.loads(config))


@functools.cache
def weights(case: str) -> dict[str, Tensor]:
    return filled(shapes(network(CASES[case]["config"]))) | {"sigmas": sigmas()}


def state_dict(**config: Any) -> dict[str, Tensor]:
    return filled(shapes(network({**TINY, **config}))) | {"sigmas": sigmas()}


def contents(model: dict[str, Tensor], ema: object = None) -> Contents:
    data = {"optimizer": {}, "model": {f"module.{name}": value for name, value in model.items()}, "step": 7}
    return Contents(Path("checkpoint.pth"), "torch", data if ema is None else data | {"ema": ema})


def checkpoint(model: dict[str, Tensor], ema: object = None, /, **given: Any) -> Checkpoint:
    found = read(contents(model, ema), given)
    assert found is not None
    spec = found.spec
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.assumed.keys() <= OPTIONS.keys() - given.keys()
    return found


def average(model: dict[str, Tensor], decay: float = 0.999) -> dict[str, Any]:
    trained = [name for name in model if name not in {"sigmas", "all_modules.0.W"}]
    return {"decay": decay, "num_updates": 5, "shadow_params": [model[name] for name in trained]}


def gap(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).abs().max() / expected.abs().max())


def inputs(case: str) -> tuple[Tensor, ...]:
    x_t = TENSORS["x_t"][:, : CASES[case]["config"]["channels"]]
    return x_t, *(TENSORS[f"{case}.{key}"] for key in ("t", "label", "output", "x_0"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
class TestAgainstTheAuthors:
    def test_network(self, case: str) -> None:
        config = CASES[case]["config"]
        net = NCSNpp(**{**config, "told": "label"})
        assert fingerprint(shapes(net)) == CASES[case]["fingerprint"]
        net.load_state_dict(weights(case))
        x_t, _, label, expected, _ = inputs(case)
        x = x_t if config["centered"] else (x_t + 1) / 2
        with torch.no_grad():
            assert gap(net(x, label), expected) < EXACT
            double = net.double()(x.double(), label.double())
        assert double.dtype == torch.float64
        assert gap(double, expected) < EXACT

    def test_prior(self, case: str) -> None:
        config, given = CASES[case]["config"], CASES[case]["given"]
        model = weights(case)
        found = checkpoint(model, **given)
        assert found.spec.config == config
        assert all(found.weights[name] is value for name, value in model.items())
        x_t, t, _, _, expected = inputs(case)
        prior = build_prior(found, facts={})
        assert gap(prior.denoise(x_t, t), expected) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    facts = PUBLISHED[name]
    net = network({key: value for key, value in facts["config"].items() if key not in WITHOUT_SHAPE})
    assert fingerprint(shapes(net)) == facts["fingerprint"]
    high, low = facts["sigmas"]
    model = net.state_dict() | {"sigmas": sigmas(high, low, facts["config"]["num_scales"])}
    ddpm = facts["config"]["smallest_group"] == 1
    given: dict[str, Any] = {"sde": "subvp"} if facts["sde"] == "subvp" else {}
    if facts["sde"] == "vp" and facts["continuous"] == ddpm:  # the other of the two is assumed
        given["continuous"] = facts["continuous"]
    found = checkpoint(model, average(model, facts["decay"]), **given)
    spec = found.spec
    assert spec.config == facts["config"]
    assert spec.event_shape == (3, facts["image_size"], facts["image_size"])
    assert spec.facts["process"] == facts["sde"]
    assert all(value.device.type == "meta" for key, value in found.weights.items() if key != "sigmas")
    if facts["sde"] == "ve":
        schedule: dict[str, Any] = {"name": "edm", "sigma_min": 2 * low, "sigma_max": 2 * high}
        asked = ("score", 0.5, True)
    elif facts["continuous"]:
        schedule = {"name": "vp" if facts["sde"] == "vp" else "sub-vp", "beta_min": 0.1, "beta_max": 20.0}
        asked = ("eps", 999.0, False)
    else:
        schedule = {"name": "linear-betas", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
        asked = ("eps", 1.0, False)
    assert spec.schedule == pytest.approx(schedule)
    assert (spec.predicts, spec.time_scale, spec.unit_range) == asked


class TestNetwork:
    def test_sides_need_not_be_equal_but_divisible(self) -> None:
        net = NCSNpp(**TINY)
        net.load_state_dict(state_dict())
        assert net(randn(2, 3, 6, 10, dtype=torch.float32), torch.tensor([3.0, 9.5])).shape == (2, 3, 6, 10)
        with pytest.raises(ValueError, match=r"multiples of 2, got 7 x 8. Crop or pad"):
            net(torch.zeros(1, 3, 7, 8), torch.ones(1))

    def test_items_do_not_mix_and_gradients_pass(self) -> None:
        prior = build_prior(checkpoint(state_dict(**NCSN)), facts={})
        x_t = randn(2, 3, 32, 32, dtype=torch.float32).requires_grad_()
        x_0 = prior.denoise(x_t, torch.tensor([0.5, 3.0]))
        (gradient,) = torch.autograd.grad(x_0[0].sum(), x_t)
        assert gradient[0].abs().sum() > 0
        assert (gradient[1] == 0).all()
        with torch.no_grad():
            assert gap(prior.denoise(x_t[1:], torch.tensor(3.0)), x_0[1:]) < EXACT

    def test_autocast_stays_close(self) -> None:
        found = checkpoint(state_dict(**NCSN))
        x_t, t = randn(2, 3, 32, 32, dtype=torch.float32), torch.tensor([0.5, 3.0])
        fast, slow = (build_prior(found, autocast=dtype, facts={}).denoise(x_t, t) for dtype in (torch.bfloat16, None))
        assert fast.dtype == torch.float32
        assert gap(fast, slow) < 0.05

    def test_a_level_is_told_as_its_place_in_the_table(self) -> None:
        by_label, by_sigma = (NCSNpp(**TINY, scale_by_sigma=True, told=told) for told in ("label", "sigma"))
        for net in (by_label, by_sigma):
            net.load_state_dict(state_dict())
        x, labels = randn(3, 3, 8, 8, dtype=torch.float32), torch.tensor([0.0, 300.5, 999.0])
        levels = 50 * (0.01 / 50) ** (labels / 999)
        with torch.no_grad():
            assert (
                gap(by_sigma(x, levels) * levels[:, None, None, None], by_label(x, labels) * levels[:, None, None, None])
                < EXACT
            )
            assert gap(by_sigma(x, levels[[1, 1, 1]]), by_label(x, labels)) > 0.1

    def test_filters_with_a_convolution_on_the_way_up_do_not_exist(self) -> None:
        with pytest.raises(ValueError, match=r"exist in no published network. Expected fir=False"):
            network({**TINY, "fir": True, "progressive": "residual"})


class TestWeights:
    def test_the_average_is_used_and_frequencies_are_kept(self, tmp_path: Path) -> None:
        model = state_dict(**NCSN)
        ema = average({name: value + 1 for name, value in model.items()})
        data = {"model": {f"module.{name}": value for name, value in model.items()}, "ema": ema, "step": 7}
        torch.save(data, tmp_path / "checkpoint.pth")
        found = read(open_contents(tmp_path / "checkpoint.pth"), {})
        assert found is not None
        assert list(found.weights) == list(model)
        for name, value in model.items():
            kept = name in {"sigmas", "all_modules.0.W"}
            assert torch.equal(found.weights[name], value if kept else value + 1)
        assert found.spec.facts["weights"] == "averaged with decay 0.999"
        assert found.spec.facts["family"] == "score-SDE"

    def test_a_state_dict_will_do(self) -> None:
        model = state_dict()
        for data in (model, {"model": model}, {"state_dict": {f"module.{name}": value for name, value in model.items()}}):
            found = read(Contents(Path("checkpoint.pth"), "torch", data), {})
            assert found is not None
            assert all(found.weights[name] is value for name, value in model.items())
            assert "no list of averages" in found.spec.facts["weights"]

    def test_an_average_of_another_network_is_refused(self) -> None:
        model = state_dict(**NCSN)
        ema = average(model)
        refused(model, {**ema, "shadow_params": ema["shadow_params"][1:]}, message=r"the average has \d+ tensors, expected \d+")
        swapped = ema["shadow_params"][1::-1] + ema["shadow_params"][2:]
        refused(model, {**ema, "shadow_params": swapped}, message=r"all_modules.1.weight is \(32,\), expected \(32, 16\)")
        strange = ["nothing", *ema["shadow_params"][1:]]
        refused(model, {**ema, "shadow_params": strange}, message="average of all_modules.1.weight is str")


class TestOptions:
    def test_what_is_given_wins_and_is_not_assumed(self) -> None:
        model = state_dict()
        plain = checkpoint(model).spec
        assert plain.assumed.keys() == OPTIONS.keys() - {"model", "centered"}
        assert plain.assumed["sde"].startswith("vp (")
        assert plain.assumed["fir"].startswith("no (")
        given = {
            "sde": "subvp",
            "fir": "yes",
            "skip_rescale": "no",
            "image_size": "64",
            "beta_max": "10",
            "scale_by_sigma": "1",
        }
        asked = checkpoint(model, **given).spec
        assert asked.assumed.keys() == {"beta_min"}
        assert asked.schedule == {"name": "sub-vp", "beta_min": 0.1, "beta_max": 10.0}
        assert asked.config == {**plain.config, "fir": True, "skip_rescale": False, "scale_by_sigma": True}
        assert asked.event_shape == (3, 64, 64)

    @pytest.mark.parametrize(("decay", "sde"), [(0.999, "ve"), (0.9999, "vp"), (None, "ve")])
    @pytest.mark.parametrize("kind", ["ncsnpp", "ddpm"])
    def test_the_decay_of_the_average_tells_the_process(self, decay: float | None, sde: str, kind: str) -> None:
        ddpm = kind == "ddpm"
        model = state_dict(**({"resblock_type": "ddpm", "nf": 32} if ddpm else {"progressive_input": "residual", "fir": True}))
        spec = checkpoint(model, None if decay is None else average(model, decay)).spec
        assert spec.facts["process"] == ("vp" if ddpm and decay is None else sde)
        assert "sde" in spec.assumed

    def test_ddpm_and_its_blocks_in_ncsnpp(self) -> None:
        model = state_dict(resblock_type="ddpm")
        ddpm, other = checkpoint(model).spec, checkpoint(model, model="ncsnpp").spec
        assert (ddpm.config["skip_rescale"], ddpm.config["smallest_group"], ddpm.facts["network"]) == (False, 1, "DDPM")
        assert (other.config["skip_rescale"], other.config["smallest_group"], other.facts["network"]) == (True, 4, "DDPM++")
        assert ddpm.schedule["name"] == "linear-betas"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"sde": "edm"}, "sde='edm': expected one of ve, vp, subvp"),
            ({"sde": 3}, "sde=3: expected one of"),
            ({"fir": "maybe"}, "fir='maybe': expected yes or no"),
            ({"image_size": "large"}, "image_size='large': expected a multiple of 2 from 1"),
            ({"image_size": 0.5}, "image_size=0.5: expected a multiple of 2"),
            ({"image_size": 33}, "image_size=33: expected a multiple of 2"),
            ({"beta_max": -1}, "beta_max=-1: expected a positive number"),
            ({"beta_max": "nan"}, "expected a positive number"),
            ({"model": "ddpm"}, "model='ddpm': expected ncsnpp, as the network has parts that are not in DDPM"),
            ({"centered": False}, "centered=False: expected yes, as images that span"),
            ({"sde": "subvp", "continuous": "no"}, "continuous='no': expected yes, as subvp is continuous"),
            (
                {"sde": "ve", "continuous": True},
                "continuous=True: expected no, as ve is continuous with Fourier features and discrete",
            ),
        ],
    )
    def test_nonsense_is_refused(self, given: dict[str, Any], message: str) -> None:
        refused(state_dict(), message=message, **given)

    def test_what_names_tell_cannot_be_given_otherwise(self) -> None:
        model = state_dict(fir=True, progressive_input="residual")
        refused(model, message="fir='no': expected yes, as the names of its convolutions show. Leave it out", fir="no")
        refused(state_dict(resblock_type="ddpm"), message="skip_rescale=True: expected no, as DDPM does not", skip_rescale=True)

    def test_without_attention_the_size_is_asked_for(self) -> None:
        model = state_dict(attention=[])
        refused(model, message="does not determine the size .* Give image_size, a multiple of 2")
        assert checkpoint(model, image_size=320).spec.event_shape == (3, 320, 320)


class TestOthers:
    def test_files_of_other_families(self) -> None:
        for data in ({}, [], {"model": {"conv.weight": torch.zeros(3)}}, {"weight": torch.zeros(3)}, torch.zeros(3)):
            assert read(Contents(Path("other.pth"), "torch", data), {}) is None

    def test_ncsn_is_refused(self) -> None:
        model = {"begin_conv.weight": torch.zeros(3), "refine1.crp.convs.0.weight": torch.zeros(3)}
        refused(model, message="is an NCSN or NCSNv2")

    @pytest.mark.parametrize("lost", ["all_modules.4.Conv_0.weight", "all_modules.5.", "sigmas", "all_modules.0."])
    def test_damaged_files(self, lost: str) -> None:
        model = state_dict(**NCSN)
        kept = {name: value for name, value in model.items() if not name.startswith(lost)}
        refused(kept, message="is not an NCSN")

    def test_other_layers_are_refused(self) -> None:
        model = state_dict()
        refused(model | {"all_modules.2.extra": torch.zeros(3)}, message="2.extra is .3,., where nothing is expected")
        refused(model | {"all_modules.1000000000000.weight": torch.zeros(3)}, message="is not an NCSN")
        refused(model | {"sigmas": torch.zeros(0)}, message="it has no table of noise levels")
        refused({"all_modules.one.weight": torch.zeros(3)}, message="0 of its layers")
        refused(model | {"all_modules.2.weight": torch.zeros(3, 3, 3, 3)}, message="is not an NCSN")

    @pytest.mark.parametrize("table", [sigmas().flip(0), sigmas() * 0, torch.linspace(50, 0.01, 1000), sigmas() * torch.nan])
    def test_noise_levels_that_are_none(self, table: Tensor) -> None:
        refused(state_dict(**NCSN) | {"sigmas": table}, message="sigmas are not a decreasing geometric sequence")


def refused(model: dict[str, Tensor], ema: object = None, /, *, message: str, **given: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(contents(model, ema), given)
    assert str(error.value).startswith("checkpoint.pth: ")
    assert "\n" not in str(error.value)
