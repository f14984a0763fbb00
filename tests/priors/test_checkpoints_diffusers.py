"""Folders of diffusers against the package itself: its networks, its schedulers, its files, and what is refused."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import huggingface_hub.errors
import pytest
import safetensors.torch
import torch
from helpers import filled, randn
from torch import Tensor
from torch.testing import assert_close

import invdiff
from invdiff.priors import NetworkPrior
from invdiff.priors.checkpoints.diffusers_folder import OPTIONS, read_folder
from invdiff.priors.checkpoints.diffusers_scheduler import WITH_BETAS, read_scheduler
from invdiff.priors.hub import download
from invdiff.priors.networks.unet2d import DiffusersUNet
from invdiff.priors.spec import SCHEDULES, Checkpoint, NetworkSpec, build_network, build_prior

pytestmark = pytest.mark.slow

diffusers: Any = importlib.import_module("diffusers")  # its names are made as they are asked for
# The package has it by its own name only beside transformers.
KarrasVeScheduler: Any = importlib.import_module("diffusers.schedulers.deprecated.scheduling_karras_ve").KarrasVeScheduler

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CELEBAHQ: dict[str, Any] = {  # google/ddpm-celebahq-256, narrower
    "sample_size": 32,
    "block_out_channels": (8, 8, 16, 16, 32, 32),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
}
NCSNPP: dict[str, Any] = {  # google/ncsnpp-celebahq-256, narrower
    "sample_size": 16,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "norm_num_groups": None,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "time_embedding_type": "fourier",
    "mid_block_scale_factor": 2**0.5,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "cifar10": SMALL | {"norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
    "celebahq": CELEBAHQ,
    "adm": SMALL
    | {
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "gray": SMALL | {"in_channels": 1, "out_channels": 1, "sample_size": (16, 8), "mid_block_type": None},
    "centered": SMALL | {"center_input_sample": True, "add_attention": False},
    "learned times": SMALL | {"time_embedding_type": "learned", "num_train_timesteps": 1000},
    "old names": SMALL
    | {
        "down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
        "up_block_types": ("UNetResAttnUpBlock2D", "UNetResUpBlock2D"),
    },
}


def written(folder: Path, config: Mapping[str, Any] = SMALL, scheduler: Any = None, **how: Any) -> Any:
    """Write a network of random weights, and a scheduler beside it, as the package writes them; return the network."""
    net = diffusers.UNet2DModel(**config)
    net.load_state_dict(filled({name: tuple(t.shape) for name, t in net.state_dict().items()}))
    net.save_pretrained(folder, **how)
    if scheduler is not None:
        scheduler.save_pretrained(folder)
    return net.eval()


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with its scheduler, and as a pipeline."""
    folder = tmp_path_factory.mktemp("original")
    net = written(folder / "network", SMALL, diffusers.DDPMScheduler())
    diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler()).save_pretrained(folder / "pipeline")
    return folder


@pytest.fixture(scope="session")
def net(original: Path) -> Any:
    """That network, as the package reads it."""
    return diffusers.UNet2DModel.from_pretrained(original / "network").eval()


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A network with its scheduler, to be damaged."""
    return shutil.copytree(original / "network", tmp_path / "network")


@pytest.fixture
def pipeline(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original / "pipeline", tmp_path / "pipeline")


def read(folder: Path, **given: Any) -> Checkpoint:
    """Return the checkpoint of a folder, its spec having been to JSON and back."""
    checkpoint = read_folder(folder, given)
    assert checkpoint is not None
    spec = NetworkSpec.from_json(json.loads(json.dumps(checkpoint.spec.to_json())))
    assert spec == checkpoint.spec
    return Checkpoint(spec, checkpoint.weights)


def prior_of(folder: Path, *, autocast: torch.dtype | None = None, **given: Any) -> NetworkPrior:
    return build_prior(read(folder, **given), autocast=autocast, facts={})


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; ``...`` takes one away."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def images(config: Mapping[str, Any], *, seed: int = 0) -> Tensor:
    size = config["sample_size"]
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    return randn(2, config.get("in_channels", 3), *sides, seed=seed, dtype=torch.float32)


def check_steps(
    folder: Path, net: Any, scheduler: Any, steps: tuple[int, ...] = (3, 400, 900), label: int | None = None, **given: Any
) -> None:
    """Compare the denoiser with the estimate of the image that the scheduler makes at these steps."""
    if label is not None:
        given["label"] = label
    prior = prior_of(folder, **given)
    for step in steps:
        x_t = images(net.config, seed=step)
        with torch.no_grad():
            output = net(x_t, step, None if label is None else torch.full((2,), label)).sample
        expected = scheduler.step(output, step, x_t).pred_original_sample
        close(prior.denoise(x_t, torch.tensor(step)), expected)
    mixed = torch.tensor(steps[:2])
    x_t = images(net.config)
    each = torch.cat([prior.denoise(x[None], t) for x, t in zip(x_t, mixed, strict=True)])
    close(prior.denoise(x_t, mixed), each)


class TestParity:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_networks(self, tmp_path: Path, name: str) -> None:
        scheduler = diffusers.DDPMScheduler(clip_sample=False)
        written(tmp_path, NETWORKS[name], scheduler)
        net = diffusers.UNet2DModel.from_pretrained(tmp_path).eval()
        check_steps(tmp_path, net, scheduler)
        checkpoint = read(tmp_path)
        assert not checkpoint.spec.assumed
        size = NETWORKS[name]["sample_size"]
        assert checkpoint.spec.event_shape[1:] == (size if isinstance(size, tuple) else (size, size))
        built = build_network(checkpoint).state_dict()
        assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in net.state_dict().items()}

    @pytest.mark.parametrize(
        ("prediction", "betas"),
        [
            ("epsilon", "linear"),
            ("sample", "linear"),
            ("v_prediction", "linear"),
            ("epsilon", "scaled_linear"),
            ("epsilon", "squaredcos_cap_v2"),
            ("v_prediction", "squaredcos_cap_v2"),
            ("epsilon", "sigmoid"),
            ("epsilon", "trained"),
            ("epsilon", "zero snr"),
            ("v_prediction", "zero snr"),
        ],
    )
    def test_predictions_and_betas(self, folder: Path, net: Any, prediction: str, betas: str) -> None:
        arguments: dict[str, Any] = {"prediction_type": prediction, "clip_sample": False}
        if betas == "trained":
            arguments["trained_betas"] = torch.linspace(1e-3, 0.01, 950).tolist()
            arguments["num_train_timesteps"] = 950
        elif betas == "zero snr":
            arguments["rescale_betas_zero_snr"] = True
        else:
            arguments |= {"beta_schedule": betas, "beta_start": 2e-4, "beta_end": 0.015}
        scheduler = diffusers.DDPMScheduler(**arguments)
        scheduler.save_pretrained(folder)
        check_steps(folder, net, scheduler)

    def test_ddim(self, folder: Path, net: Any) -> None:
        scheduler = diffusers.DDIMScheduler(clip_sample=False, num_train_timesteps=500, beta_schedule="squaredcos_cap_v2")
        scheduler.save_pretrained(folder)
        scheduler.set_timesteps(50)
        check_steps(folder, net, scheduler, (0, 10, 400))

    def test_euler(self, folder: Path, net: Any) -> None:
        """Its samples are divided by alpha, and what the network sees is multiplied again."""
        scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
        scheduler.save_pretrained(folder)
        scheduler.set_timesteps(timesteps=[700, 300])
        prior, x_t = prior_of(folder), images(SMALL)
        step = torch.tensor(700.0)
        alpha, _ = prior.levels(step, x_t)
        with torch.no_grad():
            output = net(scheduler.scale_model_input(x_t / alpha, scheduler.timesteps[0]), step).sample
        expected = scheduler.step(output, scheduler.timesteps[0], x_t / alpha).pred_original_sample
        close(prior.denoise(x_t, step), expected)

    def test_learned_variance(self, tmp_path: Path) -> None:
        scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
        net = written(tmp_path, SMALL | {"out_channels": 6}, scheduler)
        check_steps(tmp_path, net, scheduler)
        assert read(tmp_path).spec.facts["learned_variance"]

    @pytest.mark.parametrize("how", [{"num_class_embeds": 5}, {"class_embed_type": "timestep"}])
    def test_classes(self, tmp_path: Path, how: dict[str, Any]) -> None:
        scheduler = diffusers.DDPMScheduler(clip_sample=False)
        net = written(tmp_path, SMALL | how, scheduler)
        for label in (0, 4):
            check_steps(tmp_path, net, scheduler, (3, 400), label=label)
        x_t, t = images(SMALL), torch.tensor(400)
        assert (prior_of(tmp_path, label="4").denoise(x_t, t) - prior_of(tmp_path, label=0).denoise(x_t, t)).abs().max() > 1e-3
        refused(
            tmp_path,
            "the network is conditioned on 5 classes .* give label=4" if "num_class_embeds" in how else "give label=207",
        )
        refused(tmp_path, "label=-1: expected a whole number", label=-1)
        if "num_class_embeds" in how:
            refused(tmp_path, "label=5: expected a whole number from 0 to 4", label=5)

    def test_score_sde_ve(self, tmp_path: Path) -> None:
        """Against the package's last step, to the image, and Tweedie's formula in data of [0, 1]."""
        scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=50.0)
        net = written(tmp_path, NCSNPP, scheduler)
        prior = prior_of(tmp_path)
        assert (prior.schedule.t_min, prior.schedule.t_max) == pytest.approx((0.04, 100))
        for sigma in (0.02, 0.3, 40.0):
            x_0_1 = 0.5 + sigma * images(NCSNPP)
            with torch.no_grad():
                score = net(x_0_1, torch.tensor(sigma)).sample
            expected = 2 * (x_0_1 + sigma**2 * score) - 1
            close(prior.denoise(2 * x_0_1 - 1, torch.tensor(2 * sigma)), expected)
        x_0_1 = 0.5 + 0.02 * images(NCSNPP)
        with torch.no_grad():
            score = net(x_0_1, torch.tensor(0.02)).sample
        last = scheduler.step_pred(score, 0, x_0_1).prev_sample_mean
        close(prior.denoise(2 * x_0_1 - 1, torch.tensor(0.04)), 2 * last - 1)

    def test_karras_ve(self, tmp_path: Path) -> None:
        """Against the step of its pipeline to no noise at all."""
        scheduler = KarrasVeScheduler(sigma_max=90.0)
        net = written(tmp_path, NCSNPP, scheduler)
        prior = prior_of(tmp_path)
        assert (prior.schedule.t_min, prior.schedule.t_max) == (0.02, 90)
        sigma = 0.7
        x_t = images(NCSNPP)
        with torch.no_grad():
            output = sigma / 2 * net((x_t + 1) / 2, torch.tensor(sigma / 2)).sample
        close(prior.denoise(x_t, torch.tensor(sigma)), scheduler.step(output, sigma, 0.0, x_t).prev_sample)

    @pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
    @pytest.mark.parametrize("cls", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
    def test_edm(self, folder: Path, net: Any, cls: str, prediction: str) -> None:
        scheduler = getattr(diffusers, cls)(prediction_type=prediction, sigma_data=0.4, sigma_max=60.0)
        scheduler.save_pretrained(folder)
        prior = prior_of(folder)
        assert (prior.schedule.t_min, prior.schedule.t_max) == (0.002, 60)
        for level in (0.01, 1.0, 50.0):
            sigma = torch.tensor(level)
            x_t = level * images(SMALL)
            with torch.no_grad():
                output = net(scheduler.precondition_inputs(x_t, sigma), scheduler.precondition_noise(sigma)).sample
            close(prior.denoise(x_t, sigma), scheduler.precondition_outputs(x_t, output, sigma))

    @pytest.mark.parametrize("steps", [1000, 100])
    def test_flow_matching(self, folder: Path, net: Any, steps: int) -> None:
        """Against the package's single step from a level to the image."""
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps)
        scheduler.save_pretrained(folder)
        prior = prior_of(folder)
        for level in (0.05, 0.4, 0.95):
            scheduler.set_timesteps(sigmas=[level])
            x_t = images(SMALL)
            with torch.no_grad():
                output = net(x_t, scheduler.timesteps[0]).sample
            expected = scheduler.step(output, scheduler.timesteps[0], x_t).prev_sample
            close(prior.denoise(x_t, torch.tensor(level)), expected)


class TestNetwork:
    def test_times_are_not_rounded(self, folder: Path, net: Any) -> None:
        scheduler = diffusers.DDPMScheduler(clip_sample=False)
        scheduler.save_pretrained(folder)
        prior, x_t = prior_of(folder), images(SMALL)
        t = torch.tensor(3.25)
        alpha, sigma = prior.levels(t, x_t)
        with torch.no_grad():
            expected = (x_t - sigma * net(x_t, t).sample) / alpha
            rounded = (x_t - sigma * net(x_t, 3).sample) / alpha
        close(prior.denoise(x_t, t), expected)
        assert (expected - rounded).abs().max() > 1e-4 * expected.abs().max()

    def test_learned_times_are_linear_between_the_steps(self, tmp_path: Path) -> None:
        written(tmp_path, NETWORKS["learned times"])
        net = cast(Any, build_network(read(tmp_path)))
        table = net.time_proj.weight
        found = net.time_proj(torch.tensor([7.25, 7.0, -2.0, 2000.0]))
        assert_close(found, torch.stack([0.75 * table[7] + 0.25 * table[8], table[7], table[0], table[-1]]))

    @pytest.mark.parametrize("config", [SMALL, NCSNPP], ids=["ddpm", "ncsnpp"])
    def test_autocast_and_gradients(self, tmp_path: Path, config: dict[str, Any]) -> None:
        scheduler = diffusers.ScoreSdeVeScheduler() if config is NCSNPP else diffusers.DDPMScheduler()
        written(tmp_path, config, scheduler)
        t = torch.tensor(0.5 if config is NCSNPP else 100.0)
        results = []
        for autocast in (None, torch.bfloat16):
            x_t = images(config).requires_grad_()
            x0_hat = prior_of(tmp_path, autocast=autocast).denoise(x_t, t)
            assert x0_hat.dtype == torch.float32
            (gradient,) = torch.autograd.grad(x0_hat[0].square().sum(), x_t)
            assert gradient[0].abs().max() > 0
            assert (gradient[1] == 0).all()
            results.append((x0_hat.detach(), gradient))
        for full, fast in zip(*results, strict=True):
            close(fast, full, 0.05)
            assert not torch.equal(fast, full)

    def test_gradients_are_those_of_the_denoiser(self, tmp_path: Path) -> None:
        written(tmp_path, NCSNPP, diffusers.ScoreSdeVeScheduler())
        checkpoint = read(tmp_path)
        net = build_network(checkpoint).double()
        x, v = randn(1, 3, 16, 16, seed=1), randn(1, 3, 16, 16, seed=2)
        time = torch.tensor([0.5], dtype=torch.float64)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(net(x, time).square().sum(), x)
        step = 1e-5
        with torch.no_grad():
            rise = net(x + step * v, time).square().sum() - net(x - step * v, time).square().sum()
        assert_close((gradient * v).sum(), rise / (2 * step), rtol=1e-5, atol=1e-5)

    def test_sides_that_do_not_fit(self, folder: Path) -> None:
        prior = prior_of(folder)
        assert prior.denoise(torch.zeros(1, 3, 8, 12), torch.tensor(5)).shape == (1, 3, 8, 12)
        with pytest.raises(ValueError, match="multiples of 2, got height 15, width 16"):
            prior.denoise(torch.zeros(1, 3, 15, 16), torch.tensor(5))

    def test_the_package_is_imported_late(self) -> None:
        for path in Path(invdiff.__file__).parent.rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & {"diffusers", "huggingface_hub"}, path

    def test_the_package_is_missed_in_one_line(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "diffusers", None)
        for act in (lambda: read_folder(folder, {}), lambda: download("owner/name"), lambda: DiffusersUNet(**SMALL)):
            with pytest.raises(ImportError, match=r"^Networks of diffusers need diffusers: pip install \"invdiff") as error:
                act()
            assert "\n" not in str(error.value)


class TestSchedulers:
    @pytest.mark.parametrize("cls", [name for name in WITH_BETAS if name != "DPMSolverSDEScheduler"])  # needs torchsde
    def test_defaults_are_those_of_the_package(self, cls: str) -> None:
        defaults = {name: p.default for name, p in inspect.signature(getattr(diffusers, cls).__init__).parameters.items()}
        training = read_scheduler({"_class_name": cls}, {}, where="here")
        ends = {key: defaults[key] for key in ("beta_start", "beta_end")}
        assert training.schedule == {"name": "linear-betas", "steps": defaults["num_train_timesteps"], **ends}
        assert (training.predicts, training.assumed) == ("eps", {})
        assert (defaults["beta_schedule"], defaults.get("prediction_type", "epsilon")) == ("linear", "epsilon")

    @pytest.mark.parametrize("cls", [diffusers.ScoreSdeVeScheduler, KarrasVeScheduler, diffusers.EDMEulerScheduler])
    def test_levels_by_default_are_those_of_the_package(self, cls: Any) -> None:
        scheduler = cls()
        schedule = read_scheduler({"_class_name": cls.__name__}, {}, where="here").schedule
        scale = 2 if cls is diffusers.ScoreSdeVeScheduler else 1
        for key in ("sigma_min", "sigma_max"):
            assert schedule[key] == scale * scheduler.config[key]

    def test_zero_snr_ends_one_step_early(self) -> None:
        config = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}
        schedule = SCHEDULES["betas"](read_scheduler(config, {}, where="here").schedule["betas"])
        expected = diffusers.DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod
        assert schedule.t_max == 998
        assert expected[-1] == 0
        alpha, _ = schedule(torch.arange(999))
        assert_close(alpha.float(), expected[:-1].sqrt(), rtol=1e-5, atol=1e-6)

    def test_flow_predictions(self) -> None:
        config = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
        training = read_scheduler(config | {"num_train_timesteps": 500}, {}, where="here")
        assert (training.predicts, training.schedule, training.time_scale) == ("velocity", {"name": "rectified-flow"}, 500)

    def test_before_prediction_type(self) -> None:
        assert read_scheduler({"_class_name": "DDPMScheduler", "predict_epsilon": False}, {}, where="").predicts == "x0"

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"_class_name": "LCMScheduler"}, "scheduler 'LCMScheduler' is not supported"),
            ({}, "scheduler 'None' is not supported"),
            ({"_class_name": ["mine", "Scheduler"]}, "Scheduler.* is not supported"),
            ({"prediction_type": "noise"}, "prediction_type 'noise' is not supported, expected one of epsilon"),
            ({"prediction_type": ["noise"]}, "prediction_type .* is not supported"),
            ({"beta_schedule": "laplace"}, "beta_schedule='laplace': expected one of linear"),
            ({"beta_start": 0.3, "beta_end": 1.5}, "its noise levels form no valid schedule"),
            ({"beta_end": "much"}, "beta_end='much': expected a positive number"),
            ({"beta_end": float("nan")}, "beta_end=nan: expected a positive number"),
            ({"num_train_timesteps": 1e12}, "steps=1000000000000.0: expected a whole number from 2 to 100000"),
            ({"num_train_timesteps": None}, "steps=None: expected a whole number"),
            ({"trained_betas": "many"}, "trained_betas must be a list"),
            ({"trained_betas": [0.1, "many"]}, "trained_betas='many': expected a positive number"),
            ({"trained_betas": [0.1]}, "its noise levels form no valid schedule"),
            ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "timestep_type 'continuous'"),
            ({"use_flow_sigmas": True}, "use_flow_sigmas requires"),
            ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "its noise levels form no valid schedule"),
            ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data=0: expected a positive number"),
            ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "of EDM is not supported"),
            ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": None}, "sigma_max=None: expected a positive number"),
            ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas"),
        ],
    )
    def test_refuses(self, config: dict[str, Any], message: str) -> None:
        config = config if "_class_name" in config or not config else {"_class_name": "EulerDiscreteScheduler"} | config
        with pytest.raises(ValueError, match=message) as error:
            read_scheduler(config, {}, where="folder/scheduler_config.json")
        assert "\n" not in str(error.value)
        assert str(error.value).startswith("folder/scheduler_config.json: ")


class TestOptions:
    def test_what_is_assumed_without_a_scheduler(self, folder: Path) -> None:
        (folder / "scheduler_config.json").unlink()
        edit(folder / "config.json", sample_size=None)
        spec = read(folder).spec
        assert spec.event_shape == (3, None, None)
        assert spec.schedule == {"name": "linear-betas", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
        assert spec.predicts == "eps"
        assert spec.assumed.keys() == {"schedule", "steps", "beta_start", "beta_end", "predicts", "image_size"}
        assert spec.assumed.keys() <= OPTIONS.keys()
        assert spec.assumed["steps"] == "1000 (there is no scheduler_config.json)"

    def test_given_wins(self, folder: Path, tmp_path: Path) -> None:
        scheduler = diffusers.DDPMScheduler(beta_end=0.01, trained_betas=[0.1, 0.2], rescale_betas_zero_snr=True)
        scheduler.save_pretrained(folder)
        without = shutil.copytree(folder, tmp_path / "without")
        (without / "scheduler_config.json").unlink()
        for place in (folder, without):
            spec = read(place, schedule="cosine", steps="250", predicts="v", image_size="32").spec
            assert spec.schedule == {"name": "cosine-betas", "steps": 250}
            assert (spec.predicts, spec.event_shape, spec.assumed) == ("v", (3, 32, 32), {})
            spec = read(place, schedule="scaled-linear", beta_start="0.001", beta_end=0.1, steps=10, predicts="x0").spec
            assert spec.schedule == {"name": "scaled-linear-betas", "steps": 10, "beta_start": 0.001, "beta_end": 0.1}
            spec = read(place, predicts="velocity", steps=100).spec
            assert (spec.schedule, spec.time_scale, spec.assumed) == ({"name": "rectified-flow"}, 100, {})
        assert read(folder, schedule="linear").spec.schedule["beta_end"] == 0.01

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"schedule": "quadratic"}, "schedule='quadratic': expected one of linear, scaled-linear, cosine"),
            ({"predicts": "noise"}, "predicts='noise': expected one of eps, x0, v, velocity"),
            ({"steps": "many"}, "steps='many': expected a whole number from 2 to 100000"),
            ({"steps": 0.5}, "steps=0.5: expected a whole number"),
            ({"beta_start": "small"}, "beta_start='small': expected a positive number"),
            ({"beta_start": 2}, "its noise levels form no valid schedule"),
            ({"schedule": "cosine", "beta_end": 0.1}, "beta_end=0.1: expected none, as the cosine table does not use it"),
            ({"predicts": "velocity", "beta_end": 0.1}, "beta_end=0.1: expected none, as a straight path has no betas"),
            ({"label": 3}, "label=3: expected none, as the network is not class-conditional"),
            ({"image_size": "large"}, "image_size='large': expected a whole number"),
        ],
    )
    def test_refuses(self, folder: Path, given: dict[str, Any], message: str) -> None:
        refused(folder, message, **given)

    def test_refuses_betas_where_there_are_none(self, tmp_path: Path) -> None:
        written(tmp_path, NCSNPP, diffusers.ScoreSdeVeScheduler())
        refused(tmp_path, "steps=10: expected none, as ScoreSdeVeScheduler determines it", steps=10)
        refused(tmp_path, "'fourier' takes the logarithm of a noise level", schedule="linear")
        (tmp_path / "scheduler_config.json").unlink()
        refused(tmp_path, "Expected the scheduler_config.json of a ScoreSdeVeScheduler")


def same_output(folder: Path, net: Any) -> None:
    x_t, step = images(SMALL), 400
    with torch.no_grad():
        expected = net(x_t, step).sample
    close(build_network(read(folder))(x_t, torch.tensor([400.0, 400.0])), expected)


class TestFolders:
    @pytest.mark.parametrize(
        "pipeline", ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "ScoreSdeVePipeline", "KarrasVePipeline"]
    )
    def test_pipelines(self, tmp_path: Path, pipeline: str) -> None:
        schedulers: dict[str, Any] = {
            "DDPMPipeline": diffusers.DDPMScheduler,
            "DDIMPipeline": diffusers.DDIMScheduler,
            "PNDMPipeline": diffusers.PNDMScheduler,
            "ScoreSdeVePipeline": diffusers.ScoreSdeVeScheduler,
            "KarrasVePipeline": KarrasVeScheduler,
        }
        net = written(tmp_path / "net", NCSNPP if "Ve" in pipeline else SMALL)
        getattr(diffusers, pipeline)(unet=net, scheduler=schedulers[pipeline]()).save_pretrained(tmp_path / "all")
        for folder in (tmp_path / "all", tmp_path / "all" / "unet"):
            checkpoint = read(folder)
            assert checkpoint.spec.facts["scheduler"] == schedulers[pipeline].__name__
            assert not checkpoint.spec.assumed
            build_network(checkpoint)

    def test_pipeline_in_one_folder(self, tmp_path: Path) -> None:
        """Of google/ddpm-cifar10-32: everything at the root."""
        net = written(tmp_path, SMALL, diffusers.DDPMScheduler(clip_sample=True))
        parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", **parts}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        same_output(tmp_path, net)
        spec = read(tmp_path).spec
        assert not spec.assumed
        assert spec.facts["family"] == "diffusers"
        assert spec.facts["clip_sample"] is True
        x_t = 10 * images(SMALL)  # recorded, not applied
        assert prior_of(tmp_path).denoise(x_t, torch.tensor(900)).abs().max() > 1

    @pytest.mark.parametrize(
        ("how", "file"),
        [
            ({"safe_serialization": False}, "diffusion_pytorch_model.bin"),
            ({"max_shard_size": "20KB"}, "diffusion_pytorch_model.safetensors.index.json"),
            ({"max_shard_size": "20KB", "safe_serialization": False}, "diffusion_pytorch_model.bin.index.json"),
        ],
    )
    def test_weights(self, tmp_path: Path, how: dict[str, Any], file: str) -> None:
        net = written(tmp_path, SMALL, diffusers.DDPMScheduler(), **how)
        assert (tmp_path / file).is_file()
        assert read(tmp_path).spec.facts["weights"] == file
        same_output(tmp_path, net)

    def test_headers_that_begin_like_a_pickle(self, folder: Path) -> None:
        """Safetensors begin with the length of their header, a multiple of 8 that may end in 0x80."""
        path = folder / "diffusion_pytorch_model.safetensors"
        weights = safetensors.torch.load_file(path)
        written_by = {"format": "pt", "padding": ""}
        safetensors.torch.save_file(weights, path, metadata=written_by)
        size = int.from_bytes(path.read_bytes()[:8], "little")
        safetensors.torch.save_file(weights, path, metadata=written_by | {"padding": "-" * ((0x80 - size) % 256)})
        assert path.read_bytes()[:1] == b"\x80"
        assert read(folder).weights.keys() == weights.keys()

    def test_half_precision(self, tmp_path: Path) -> None:
        net = diffusers.UNet2DModel(**SMALL).half()
        net.save_pretrained(tmp_path, variant="fp16")
        checkpoint = read(tmp_path)
        assert {w.dtype for w in checkpoint.weights.values()} == {torch.float16}
        same_output(tmp_path, net.float())

    def test_old_names_of_weights(self, tmp_path: Path) -> None:
        net = written(tmp_path, SMALL, diffusers.DDPMScheduler(), safe_serialization=False)
        path = tmp_path / "diffusion_pytorch_model.bin"
        names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        old = {}
        for key, value in torch.load(path, weights_only=True).items():
            new = key
            for now, then in names.items():
                new = new.replace(now, then)
            old[new] = value
        assert sum(".query." in key for key in old) == 8  # weight and bias of four blocks of attention
        torch.save(old, path)
        same_output(tmp_path, net)

    def test_old_configurations(self, tmp_path: Path) -> None:
        """What an old file leaves out has the package's default, and what is unknown today is ignored, as by the package."""
        complete = {key: value for key, value in SMALL.items() if key != "attention_head_dim"}
        written(tmp_path, complete, diffusers.DDPMScheduler())
        expected = read(tmp_path).spec
        saved = json.loads((tmp_path / "config.json").read_text())
        old = {key: saved[key] for key in (*complete, "_class_name")} | {"_diffusers_version": "0.0.4", "num_head_channels": 3}
        (tmp_path / "config.json").write_text(json.dumps(old))
        spec = read(tmp_path).spec
        assert spec.config == expected.config
        assert spec.facts["ignored"] == ["num_head_channels"]
        same_output(tmp_path, diffusers.UNet2DModel.from_pretrained(tmp_path).eval())

    @pytest.mark.parametrize("content", [None, {}, {"architectures": ["BertModel"]}])
    def test_other_folders_are_left_to_others(self, tmp_path: Path, content: dict[str, Any] | None) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(json.dumps(content))
        (tmp_path / "notes.txt").write_text("nothing")
        assert read_folder(tmp_path, {}) is None


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def refused(folder: Path, message: str, **given: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_folder(folder, given)
    assert "\n" not in str(error.value)


class TestRefused:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("nested", [False, True])
    def test_poisoned_weights(self, folder: Path, legacy: bool, nested: bool) -> None:
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        witness = folder / "executed"
        content = {"conv_in.weight": Malicious(witness)} if nested else Malicious(witness)
        path = folder / "diffusion_pytorch_model.bin"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        refused(folder, "could run code when read: it was refused, and nothing was executed")
        assert not witness.exists()
        torch.load(path, weights_only=False)
        assert witness.exists()  # the poison was real

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", None, "config.json: is missing. Expected the configuration of a UNet2DModel"),
            ("config.json", "", "config.json: is damaged"),
            ("config.json", "{", "config.json: is damaged"),
            ("config.json", "[" * 100_000, "config.json: is damaged"),
            ("config.json", "\xff", "config.json: is damaged"),
            ("config.json", "[]", "expected a JSON object, got a list"),
            ("config.json", "{}", "config.json: has no _class_name"),
            ("scheduler_config.json", "{", "scheduler_config.json: is damaged"),
            ("scheduler_config.json", "{}", "scheduler 'None' is not supported"),
            ("model_index.json", "{", "model_index.json: is damaged"),
            ("model_index.json", "{}", "belongs to the custom pipeline None"),
            ("diffusion_pytorch_model.safetensors", None, "has no weights: expected diffusion_pytorch_model.safetensors"),
            ("diffusion_pytorch_model.safetensors", "", "is empty"),
            ("diffusion_pytorch_model.safetensors", "<html>", "is a web page|not a safetensors file"),
        ],
    )
    def test_damaged_files(self, folder: Path, file: str, content: str | None, message: str) -> None:
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content.encode("latin-1"))
        refused(folder, message)

    def test_a_pipeline_without_its_network(self, pipeline: Path) -> None:
        (pipeline / "unet" / "config.json").unlink()
        refused(pipeline, "unet/config.json: is missing")
        shutil.rmtree(pipeline / "unet")
        refused(pipeline, "config.json: is missing")

    @pytest.mark.parametrize(
        ("listing", "message"),
        [
            ({"weight_map": {"conv_in.weight": "../other.safetensors"}}, "is outside of the folder"),
            ({"weight_map": {"conv_in.weight": "/etc/passwd"}}, "is outside of the folder"),
            ({"weight_map": {"conv_in.weight": "other.safetensors"}}, "names other.safetensors, which is missing"),
            ({"weight_map": ["conv_in.weight"]}, "lists no weights"),
            ({}, "lists no weights"),
        ],
    )
    def test_shards(self, folder: Path, listing: dict[str, Any], message: str) -> None:
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(listing))
        refused(folder, message)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"block_out_channels": [8, 24]}, "the weights do not fit config.json: .* differ, first"),
            ({"block_out_channels": [8, 16, 16]}, "diffusers cannot build the network"),
            ({"block_out_channels": "wide"}, "diffusers cannot build the network"),
            ({"attention_head_dim": 0}, "diffusers cannot build the network"),
            ({"norm_num_groups": 3}, "diffusers cannot build the network"),
            ({"time_embedding_type": "none"}, "diffusers cannot build the network"),
            ({"layers_per_block": 2}, "the weights do not fit config.json"),
            ({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "down_block_types 'KDownBlock2D' is not supported"),
            ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}, "up_block_types 'CrossAttnUpBlock2D'"),
            ({"up_block_types": None}, "up_block_types 'None' is not supported"),
            ({"in_channels": 6}, "maps 6 channels to 3, so it is not a plain denoiser"),
            ({"out_channels": 4}, "maps 3 channels to 4"),
            ({"in_channels": "all"}, "in_channels='all': expected a whole number"),
            ({"sample_size": "large"}, "sample_size='large': expected a whole number"),
            ({"sample_size": [1, 2, 3]}, "sample_size=.1, 2, 3.: expected a whole number"),
            ({"class_embed_type": "identity"}, "class_embed_type 'identity' takes vectors"),
            ({"auto_map": {"AutoModel": "mine.Net"}}, "refers to custom code"),
            ({"_class_name": "MyUNet"}, "belongs to the class MyUNet. Other classes are not supported, and no custom code"),
            ({"_class_name": ["mine", "MyUNet"]}, "MyUNet.* Other classes are not supported"),
            (
                {"_class_name": "UNet2DConditionModel"},
                "belongs to the class UNet2DConditionModel. It is a part of a pipeline",
            ),
            (
                {"_class_name": "AutoencoderKL"},
                "belongs to the class AutoencoderKL. It is a part of a pipeline",
            ),
            (
                {"_class_name": "DiTTransformer2DModel"},
                "belongs to the class DiTTransformer2DModel. It is a part of a pipeline",
            ),
        ],
    )
    def test_networks(self, folder: Path, changes: dict[str, Any], message: str) -> None:
        edit(folder / "config.json", **changes)
        refused(folder, message)

    def test_foreign_weights(self, folder: Path) -> None:
        path = folder / "diffusion_pytorch_model.safetensors"
        weights = safetensors.torch.load_file(path)
        safetensors.torch.save_file({"other": torch.zeros(2), **weights}, path)
        refused(folder, r"1 of \d+ differ, first other: \(2,\), expected none")
        weights.pop("conv_in.bias")
        safetensors.torch.save_file(weights, path)
        refused(folder, r"first conv_in.bias: missing, expected \(8,\)")

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            (
                {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]},
                "text_encoder, unet, vae. Expected a UNet2DModel",
            ),
            ({"vqvae": ["diffusers", "VQModel"]}, "made of scheduler, unet, vqvae. Expected a UNet2DModel"),
            ({"unet": ["diffusers", "UNet2DConditionModel"]}, "Expected a UNet2DModel"),
            ({"unet": None, "transformer": ["diffusers", "DiTTransformer2DModel"]}, "transformer. Expected a UNet2DModel"),
            ({"unet": ["mine", "MyUNet"]}, "its unet is mine.MyUNet, which is outside of diffusers and not run"),
            ({"unet": ["unet.my_unet.py", "UNet2DModel"]}, "my_unet.py.UNet2DModel, which is outside of diffusers and not run"),
            ({"unet": ["diffusers", "UNet1DModel"]}, "its unet is a UNet1DModel, expected a UNet2DModel"),
            ({"scheduler": ["mine", "MyScheduler"]}, "its scheduler is mine.MyScheduler, which is outside of diffusers"),
            (
                {"_class_name": ["pipeline", "MyPipeline"]},
                "belongs to the custom pipeline .*MyPipeline.*, whose code is never run",
            ),
        ],
    )
    def test_pipelines(self, pipeline: Path, parts: dict[str, Any], message: str) -> None:
        edit(pipeline / "model_index.json", **parts)
        refused(pipeline, message)
        refused(pipeline / "unet", message)


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        """A hub of one repository, ``owner/name``: where it lies, and where what is asked of it arrives."""
        remote, cache = tmp_path / "remote", tmp_path / "cache"
        cache.mkdir()

        def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
            assert repo_id == "owner/name"
            for path in (p for p in remote.rglob("*") if p.is_file()):
                name = path.relative_to(remote).as_posix()
                if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                    (cache / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, cache / name)
            return str(cache)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return remote, cache

    def fetched(self, cache: Path) -> set[str]:
        return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}

    @pytest.mark.parametrize("pipeline", [True, False])
    def test_configurations_and_weights(self, hub: tuple[Path, Path], pipeline: bool) -> None:
        remote, cache = hub
        net = written(remote, SMALL, None if pipeline else diffusers.DDPMScheduler())
        prefix = ""
        if pipeline:
            shutil.rmtree(remote)
            diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler()).save_pretrained(remote)
            prefix = "unet/"
        place = remote / prefix
        for other in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "model.py", "a.ckpt"):
            (place / other).write_text("never read")
        (remote / "checkpoint-1").mkdir()
        (remote / "checkpoint-1" / "diffusion_pytorch_model.safetensors").write_text("never read")
        folder = download("owner/name")
        same_output(folder, net)
        expected = {f"{prefix}config.json", f"{prefix}diffusion_pytorch_model.safetensors"}
        other = {"model_index.json", "scheduler/scheduler_config.json"} if pipeline else {"scheduler_config.json"}
        assert self.fetched(cache) == expected | other

    def test_of_two_sets_of_weights_the_averaged_are_fetched(self, hub: tuple[Path, Path]) -> None:
        remote, cache = hub
        written(remote / "unet", SMALL)
        net = written(remote / "unet_ema", SMALL)
        same_output(download("owner/name"), net)
        weights = {name for name in self.fetched(cache) if name.endswith("safetensors")}
        assert weights == {"unet_ema/diffusion_pytorch_model.safetensors"}

    @pytest.mark.parametrize("how", [{"safe_serialization": False}, {"max_shard_size": "20KB"}])
    def test_other_forms_of_weights(self, hub: tuple[Path, Path], how: dict[str, Any]) -> None:
        remote, cache = hub
        net = written(remote, SMALL, **how)
        same_output(download("owner/name"), net)
        assert self.fetched(cache) == {path.name for path in remote.iterdir()}

    def test_nothing_is_fetched_of_what_is_not_supported(self, hub: tuple[Path, Path]) -> None:
        remote, cache = hub
        written(remote / "unet", SMALL)
        parts = {"unet": ["diffusers", "UNet2DConditionModel"], "controlnet": ["diffusers", "ControlNetModel"]}
        (remote / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionControlNetPipeline", **parts}))
        with pytest.raises(ValueError, match="ControlNetPipeline is not supported: its network is conditioned on an image"):
            download("owner/name")
        assert self.fetched(cache) == {"model_index.json", "unet/config.json"}

    def test_of_a_pipeline_the_parts_that_are_read(self, hub: tuple[Path, Path]) -> None:
        """One file of weights for each network, vocabularies, and nothing that could be run."""
        remote, cache = hub
        stem = "diffusion_pytorch_model"
        listed = {
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        }
        wanted = [
            *("unet/config.json", f"unet/{stem}.safetensors", "vae/config.json", f"vae/{stem}.fp16.safetensors"),
            *("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt"),
            "scheduler/scheduler_config.json",
        ]
        unwanted = [
            *(f"unet/{stem}.bin", f"unet/{stem}.fp16.safetensors", "text_encoder/pytorch_model.bin", "pipeline.py"),
            *("safety_checker/model.safetensors", "unet/my_unet.py", "v1-5-pruned.ckpt"),
        ]
        for name in wanted + unwanted:
            (remote / name).parent.mkdir(parents=True, exist_ok=True)
            (remote / name).write_text("{}")
        (remote / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **listed}))
        for given, message in (({}, "conditioned on a text. Give a prompt"), ({"label": 3}, "no option 'label'")):
            with pytest.raises(ValueError, match=message):
                download("owner/name", given)
        assert not any(name.endswith((".safetensors", ".bin")) for name in self.fetched(cache))
        download("owner/name", {"prompt": "a cat"})
        assert self.fetched(cache) == {"model_index.json", *wanted}
        (remote / "vae" / f"{stem}.fp16.safetensors").unlink()
        shutil.rmtree(cache)
        with pytest.raises(ValueError, match="owner/name: its vae has no weights"):
            download("owner/name")

    def test_repositories_of_something_else(self, hub: tuple[Path, Path]) -> None:
        remote, _ = hub
        remote.mkdir()
        (remote / "config.json").write_text('{"architectures": ["BertModel"]}')
        with pytest.raises(ValueError, match="owner/name: holds no diffusers network"):
            download("owner/name")
        written(remote, SMALL)
        (remote / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(ValueError, match="owner/name: has no weights"):
            download("owner/name")

    @pytest.mark.parametrize(
        "kind",
        [
            huggingface_hub.errors.LocalEntryNotFoundError,
            huggingface_hub.errors.OfflineModeIsEnabled,
            huggingface_hub.errors.HFValidationError,
            huggingface_hub.errors.XetDownloadError if hasattr(huggingface_hub.errors, "XetDownloadError") else TimeoutError,
        ],
    )
    def test_failures_are_one_line(self, monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], Exception]) -> None:
        def snapshot_download(repo_id: str, **_: Any) -> str:
            raise kind("Cannot reach it.\n\nCheck your connection.")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        with pytest.raises(
            OSError, match=r"^owner/name: could not be downloaded .*Cannot reach it. Check your connection."
        ) as error:
            download("owner/name")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["RepositoryNotFoundError", "GatedRepoError"])
    def test_refusals_of_the_hub_are_one_line(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        cls = getattr(huggingface_hub.errors, name)
        failure = cls.__new__(cls)  # its constructor wants the response of the hub
        Exception.__init__(failure, "404 Client Error.\n\nRepository Not Found")

        def snapshot_download(repo_id: str, **_: Any) -> str:
            raise failure

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        with pytest.raises(OSError, match=f"^owner/name: could not be downloaded from the hub .{name}: ") as error:
            download("owner/name")
        assert "\n" not in str(error.value)
