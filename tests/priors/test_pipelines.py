"""Pipelines of diffusers: the same noise predictions as their own code, restorations end to end, and refusals."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from helpers import randn
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="pipelines need diffusers")
pytest.importorskip("transformers", reason="pipelines need transformers")

import pipelines

from invdiff import PosteriorSampler, load_prior, operators
from invdiff.cli import main
from invdiff.cli.priors import priors
from invdiff.priors import ScoreModel

pytestmark = [
    pytest.mark.filterwarnings("ignore:misfit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages' own use of each other
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SMALL = torch.linspace(-1, 1, 3 * 8 * 8).reshape(3, 8, 8)  # the image that a second stage enlarges
SCALE = 3.0
EXTRA: dict[str, dict[str, Any]] = {
    "if-2": {"image": SMALL, "noise_level": 100, "seed": 5},
    "unclip": {"seed": 7, "embedding_guidance": 4},
}
METHODS: list[tuple[str, dict[str, Any]]] = [("mmps", {"max_iterations": 2}), ("unconditional", {})]
UNCONDITIONAL, OF_CLASSES = ("ldm",), ("dit",)


Pipeline = tuple[str, Any, Path]  # its name, the pipeline, and its folder


@pytest.fixture(scope="module", params=[name for name in pipelines.MAKERS if name not in pipelines.VARIANTS])
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return made(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=pipelines.VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return made(request.param, tmp_path_factory)


def made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipelines") / name
    return name, pipelines.make(name, folder), folder


def options(name: str) -> dict[str, Any]:
    """What the prior is given."""
    if name in UNCONDITIONAL:
        return {}
    given: dict[str, Any] = {"label": 3} if name in OF_CLASSES else {"prompt": "a cat"}
    return {**given, "guidance_scale": SCALE, **EXTRA.get(name, {})}


def arguments(name: str) -> dict[str, Any]:
    """The same for the pipeline."""
    if name in UNCONDITIONAL:
        return {}
    if name in OF_CLASSES:
        return {"class_labels": [3], "guidance_scale": SCALE}
    if name.startswith("flux"):
        return {"prompt": "a cat", "true_cfg_scale": SCALE, "negative_prompt": "", "height": 32, "width": 32}
    if name == "unclip":
        return {"prompt": "a cat", "decoder_guidance_scale": SCALE, "generator": torch.Generator().manual_seed(7)}
    if name == "if-2":
        return {"prompt": "a cat", "guidance_scale": SCALE, "image": SMALL[None], "noise_level": 100}
    return {"prompt": "a cat", "guidance_scale": SCALE}


def predictions(name: str, pipe: Any, **given: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the output, time and state of each step of a pipeline."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    scheduler = pipe.decoder_scheduler if name == "unclip" else pipe.scheduler
    step = scheduler.step

    def spy(output: Tensor, time: Any, state: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((output, torch.as_tensor(time).float(), state))
        return step(output, time, state, *rest, **more)

    scheduler.step = spy
    try:
        counts = "decoder_num_inference_steps" if name == "unclip" else "num_inference_steps"
        kind = {} if name == "unclip" else {"output_type": "latent" if hasattr(pipe, "vae") and name != "dit" else "np"}
        pipe(**{counts: 3}, **kind, **arguments(name), **given)
    finally:
        scheduler.step = step
    return seen


def of_prior(prior: ScoreModel, output: Tensor, time: Tensor, state: Tensor, *, predicts: str) -> tuple[Tensor, Tensor]:
    """Return what the pipeline's network predicts, and the same from the prior's denoised item."""
    t = time / 1000 if predicts == "velocity" else time
    alpha, sigma = prior.levels(float(t), state)
    x0 = prior.denoise(state, t)
    found = {
        "eps": lambda: (state - alpha * x0) / sigma,
        "v": lambda: (alpha * state - x0) / sigma,
        "velocity": lambda: (state - x0) / sigma,
    }[predicts]()
    return output[:, : state.shape[1]], found


def loaded(name: str, folder: Path, **given: Any) -> Any:
    """Return the prior with everything it is given, for images of 32 pixels or, of networks of pixels, their size."""
    size = {"image_size": 32} if name.startswith("flux") else {}
    return load_prior(folder, **{**options(name), **size, **given})


def test_the_same_predictions_as_the_pipeline(pipeline: Pipeline) -> None:
    check_predictions(*pipeline)


def test_the_same_predictions_as_a_variant(variant: Pipeline) -> None:
    check_predictions(*variant)


def check_predictions(name: str, pipe: Any, folder: Path) -> None:
    more: dict[str, Any] = {}
    if name == "if-2":  # Its first state comes from elsewhere, so that the noise of the small image is that of the seed.
        pipe.prepare_intermediate_images = lambda *shape, **_: randn(1, 3, 32, 32).float()
        more = {"generator": torch.Generator().manual_seed(5)}
    prior = loaded(name, folder)
    inner = prior.score_model if prior.latent else prior
    predicts = "v" if name == "sd-2" else "velocity" if name.startswith(("sd-3", "flux")) else "eps"
    # The noise that is left after denoising is a difference of nearly equal numbers at low levels.
    steps = [each for each in predictions(name, pipe, **more) if each[1] > 100]
    assert len(steps) >= 2
    for output, time, state in steps:
        if name.startswith("flux"):
            output, state = (unpacked(part) for part in (output, state))
        expected, found = of_prior(inner, output, time, state, predicts=predicts)
        assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def unpacked(patches: Tensor) -> Tensor:
    """Return the codes ``(1, 4, 16, 16)`` of the rows of patches of Flux."""
    return patches.reshape(1, 8, 8, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 16, 16)


def test_the_same_images_as_the_autoencoder(pipeline: Pipeline) -> None:
    name, pipe, folder = pipeline
    prior = loaded(name, folder)
    if not prior.latent:
        assert prior.image_shape == prior.event_shape
        return
    vae = pipe.vqvae if name == "ldm" else pipe.vae
    code, image = randn(1, *prior.event_shape).float(), randn(1, 3, 32, 32, seed=1).float().clamp(-1, 1)
    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
    extra = {"force_not_quantize": True} if name == "ldm" else {}
    assert_close(prior.decode(code), vae.decode(code / scale + shift, **extra).sample, rtol=0, atol=1e-5)
    assert prior.encode is not None
    expected = vae.encode(image).latents if name == "ldm" else vae.encode(image).latent_dist.mode()
    assert_close(prior.encode(image), (expected - shift) * scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("problem", ["inpaint", "enlarge"])
def test_solves(pipeline: Pipeline, problem: str) -> None:
    """The measurement counts: samples fit it better than those of the prior with the same noise."""
    name, _, folder = pipeline
    prior = loaded(name, folder)
    side = 32 if prior.latent else prior.event_shape[-1]
    shape = (3, side, side)
    mask = randn(side, side) > 0.5
    op = operators.Mask(mask, shape, sigma_y=0.1) if problem == "inpaint" else operators.Downsample(shape, 4, sigma_y=0.1)
    y = op.measure(torch.tanh(randn(1, *shape, seed=2)), seed=0).float()
    op = op.to(dtype=torch.float32)
    post, control = (PosteriorSampler(prior, op, method=method, steps=3, **given).run(y, seed=0) for method, given in METHODS)
    assert post.samples.shape == (1, 1, *shape)
    assert post.samples.isfinite().all()
    assert (post.latents is None) == (not prior.latent)
    assert float(post.residual) < 0.9 * float(control.residual)


def test_other_sizes_through_windows(pipeline: Pipeline) -> None:
    name, _, folder = pipeline
    prior, shape = loaded(name, folder), (3, 37, 50)
    op = operators.Mask(torch.ones(37, 50), shape, sigma_y=0.5)
    if name == "if-2":
        with pytest.raises(ValueError, match="given something about the whole image of 32 x 32 pixels"):
            PosteriorSampler(prior, op)
        return
    sampler = PosteriorSampler(prior, op, method="dps", steps=1)
    post = sampler.run(torch.zeros(1, *shape))
    assert post.samples.shape == (1, 1, *shape)
    assert any("through" in note for note in sampler.notes)
    if post.latents is not None:
        assert post.latents.shape[-2:] == (19, 25)


def test_moves_as_a_whole(pipeline: Pipeline) -> None:
    """Also conditions, decoder and encoder; the network of a guided prior once."""
    name, _, folder = pipeline
    moved = loaded(name, folder).to("meta")
    parts = [part for part in (getattr(moved, "decoder", None), getattr(moved, "encoder", None)) if part is not None]
    inner = moved.score_model if moved.latent else moved
    networks = [inner.conditional.net, inner.unconditional.net] if hasattr(inner, "conditional") else [inner.net]
    for module in (*parts, *networks):
        assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"meta"}
    assert len({id(network.net) for network in networks}) == 1


def test_two_conditions_in_one_call(pipeline: Pipeline) -> None:
    name, _, folder = pipeline
    if name in UNCONDITIONAL:
        with pytest.raises(ValueError, match="LDMPipeline has no option 'guidance_scale'"):
            load_prior(folder, guidance_scale=2)
        return
    prior = loaded(name, folder)
    guided = prior.score_model if prior.latent else prior
    x_t = randn(2, *guided.event_shape).float()
    t, calls = guided.schedule.t_max * torch.tensor(0.5), []
    handle = guided.pair.net.net.register_forward_hook(lambda *_: calls.append(1))
    together = guided.denoise(x_t, t)
    handle.remove()
    assert len(calls) == 1
    one, other = guided.conditional.denoise(x_t, t), guided.unconditional.denoise(x_t, t)
    assert_close(together, other + SCALE * (one - other), rtol=1e-4, atol=1e-4)
    assert (one - other).abs().max() > 1e-4  # The condition counts.


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # said by torch of the layers of the package
def test_in_half_precision(pipeline: Pipeline) -> None:
    name, _, folder = pipeline
    half, whole = (loaded(name, folder, precision=precision) for precision in ("bfloat16", "float32"))
    half, whole = (prior.score_model if prior.latent else prior for prior in (half, whole))
    x_t = randn(1, *whole.event_shape).float()
    t = whole.schedule.t_max * torch.tensor(0.5)
    expected = whole.denoise(x_t, t)
    assert (half.denoise(x_t, t) - expected).norm() < 0.1 * expected.norm()


def test_described(pipeline: Pipeline) -> None:
    name, pipe, folder = pipeline
    found = json.loads(CliRunner().invoke(priors, ["inspect", str(folder), "--json"], catch_exceptions=False).stdout)
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.decoder if name == "unclip" else pipe.unet
    part = next(found["parts"][key] for key in ("transformer", "unet", "decoder") if key in found["parts"])
    assert part == f"{type(network).__name__}, {sum(p.numel() for p in network.state_dict().values()):,} parameters, F32"
    assert found["family"] == type(pipe).__name__
    assert ("prompt" in found["options"]) == (name not in (*UNCONDITIONAL, *OF_CLASSES))
    assert (found["pixels per code"] is None) == name.startswith(("if", "unclip"))


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A folder of Stable Diffusion that may be changed."""
    folder = tmp_path_factory.getbasetemp() / "unchanged"
    if not folder.exists():
        pipelines.make("sd-1", folder)
    return Path(shutil.copytree(folder, tmp_path / "sd"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Poison:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"_class_name": "StableDiffusionInpaintPipeline"}, "not supported: its network is conditioned on a masked image"),
            ({"_class_name": "StableDiffusionControlNetPipeline"}, "not supported: its network is conditioned on an image"),
            ({"_class_name": "LatentConsistencyModelPipeline"}, "not supported: .* distilled to a few steps"),
            ({"_class_name": "KandinskyPipeline"}, "not supported. Expected StableDiffusionPipeline, .* LDMPipeline"),
            ({"_class_name": ["pipeline", "Mine"]}, "custom pipeline .*Mine.*, whose code is never run"),
            ({"unet": ["mine", "UNet2DConditionModel"]}, "its unet is mine.UNet2DConditionModel, outside of diffusers"),
            ({"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is a UNet3DConditionModel, expected UNet2DConditionModel"),
            ({"text_encoder": ["transformers", "BertModel"]}, "text_encoder is a BertModel, expected CLIPTextModel or"),
            ({"tokenizer": ["mine", "CLIPTokenizer"]}, "tokenizer is mine.CLIPTokenizer, outside of diffusers"),
        ],
    )
    def test_pipelines(self, copy: Path, changes: dict[str, Any], message: str) -> None:
        edit(copy / "model_index.json", **changes)
        with pytest.raises(ValueError, match=message):
            load_prior(copy, prompt="a cat")

    @pytest.mark.parametrize(
        ("part", "changes", "message"),
        [
            ("unet", {"in_channels": 9}, "unet: the files and the UNet2DConditionModel of its configuration do not fit"),
            ("unet", {"auto_map": {"AutoModel": "mine.Unet"}}, "refers to custom code .*, which is never run"),
            ("text_encoder", {"auto_map": {"AutoModel": "mine.Clip"}}, "refers to custom code .*, which is never run"),
            ("unet", {"quantization_config": {"load_in_4bit": True}}, "its weights are quantized"),
            ("unet", {"layers_per_block": 10**6}, "do not fit: its description asks for many more layers"),
            ("unet", {"sample_size": 10**6}, "its sample_size is 1000000, expected 1 to 1024"),
            ("unet", {"sample_size": None}, "does not say for which size its network was trained. Give it as image_size"),
            ("text_encoder", {"num_hidden_layers": 10**6}, "text_encoder: .* asks for many more layers"),
            ("vae", {"norm_type": "spatial"}, "norm_type 'spatial'.* not supported"),
        ],
    )
    def test_parts(self, copy: Path, part: str, changes: dict[str, Any], message: str) -> None:
        edit(copy / part / "config.json", **changes)
        with pytest.raises(ValueError, match=message):
            load_prior(copy, prompt="a cat")

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_pickles_with_code_are_not_run(self, copy: Path, part: str, tmp_path: Path) -> None:
        (weights,) = (copy / part).glob("*.safetensors")
        weights.unlink()
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save({"conv_in.weight": Poison(tmp_path / "run")}, copy / part / name)
        with pytest.raises(ValueError):
            load_prior(copy, prompt="a cat")
        assert not (tmp_path / "run").exists()

    def test_code_in_the_folder_is_not_run(self, copy: Path, tmp_path: Path) -> None:
        for place in (copy, copy / "unet", copy / "tokenizer", copy / "text_encoder"):
            for name in ("pipeline", "modeling", "tokenization", "__init__"):
                (place / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()")
        load_prior(copy, prompt="a cat")
        assert not (tmp_path / "run").exists()

    def test_shards_outside_of_the_folder(self, copy: Path, tmp_path: Path) -> None:
        weights = copy / "text_encoder" / "model.safetensors"
        names = list(safetensors.torch.load_file(weights))
        shutil.move(weights, tmp_path / "outside.safetensors")
        listed = {"weight_map": dict.fromkeys(names, "../../outside.safetensors")}
        (copy / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(listed))
        with pytest.raises(ValueError, match="outside of the folder and is not read"):
            load_prior(copy, prompt="a cat")

    def test_incomplete_text_encoders(self, copy: Path) -> None:
        path = copy / "text_encoder" / "model.safetensors"
        weights = safetensors.torch.load_file(path)
        kept = {name: value for name, value in weights.items() if "fc1" not in name}
        safetensors.torch.save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"6 tensors are missing or of other shapes, such as .*fc1"):
            load_prior(copy, prompt="a cat")
        broken = {name: value * math.nan for name, value in weights.items()}
        safetensors.torch.save_file(broken, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="not finite"):
            load_prior(copy, prompt="a cat")

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_weights_cut_off(self, copy: Path, part: str) -> None:
        (weights,) = (copy / part).glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=part):
            load_prior(copy, prompt="a cat")

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer"])
    def test_missing_parts(self, copy: Path, part: str) -> None:
        shutil.rmtree(copy / part)
        with pytest.raises(ValueError, match=part):
            load_prior(copy, prompt="a cat")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "conditioned on a text. Give a prompt"),
            ({"prompt": "a", "negative_prompt": "b"}, "negative_prompt acts through guidance: give a guidance_scale too"),
            ({"prompt": "a", "label": 3}, "StableDiffusionPipeline has no option 'label', expected some of prompt"),
            ({"prompt": "a", "threshold": "static"}, "has no option 'threshold'"),  # Codes have no range.
            ({"prompt": "a", "image_size": 33}, "image_size=33: expected a multiple of 2"),
            (
                {"prompt": "a", "guidance_interval": (0.2, 3)},
                "guidance_interval is an option of guidance",
            ),
            ({"prompt": "a", "guidance_scale": "much"}, "guidance_scale='much': expected a number"),
        ],
    )
    def test_options(self, copy: Path, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_prior(copy, **given)

    def test_prompts_for_other_priors(self) -> None:
        with pytest.raises(ValueError, match="not conditioned on a text"):
            load_prior("natural", prompt="a cat")


def test_variants_of_the_files(copy: Path) -> None:
    """Weights of half precision, under their own names, as ``save_pretrained(variant="fp16")`` writes them."""
    expected = load_prior(copy, prompt="a cat")
    for file in copy.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    found = load_prior(copy, prompt="a cat")
    x_t, t = randn(1, 4, 16, 16).float(), torch.tensor(500.0)
    assert_close(found.denoise(x_t, t), expected.denoise(x_t, t))


def test_a_prior_that_was_moved_first(copy: Path) -> None:
    prior = load_prior(copy, prompt="a cat").to("meta")
    sampler = PosteriorSampler(prior, operators.Mask(torch.ones(20, 20), (3, 20, 20), sigma_y=0.1).to("meta"), method="dps")
    assert sampler.op.in_shape == (4, 10, 10)


def test_long_prompts_are_cut_off_and_said(copy: Path) -> None:
    assert load_prior(copy, prompt="a cat").notes == ()
    (note,) = load_prior(copy, prompt="abc " * 20).notes
    assert note == "the prompt 'abc abc abc abc abc '... has 62 tokens, of which the first 16 are read"
    assert len(load_prior(copy, prompt="a", negative_prompt="abc " * 20, guidance_scale=2).notes) == 1


def test_prompts_and_sizes_in_reports(copy: Path) -> None:
    prior: Any = load_prior(copy, prompt="a cat", negative_prompt="dogs", guidance_scale="2", image_size="16x48")
    told = prior.describe()
    assert (told["prompt"], told["guidance_scale"], told["latent"]) == ("a cat", 2, [4, 8, 24])
    assert told["unconditional"]["prompt"] == "dogs"
    assert len(told["sha256"]) == 64


def test_at_the_command_line(copy: Path, tmp_path: Path) -> None:
    """A gray photograph of another size, with a prompt that is recorded and repeated."""
    picture, out = tmp_path / "picture.png", tmp_path / "out"
    Image.fromarray(np.arange(40 * 30, dtype=np.uint8).reshape(30, 40) % 200).save(picture)
    given = ["--prior", str(copy), "--prompt", "a cat = b", "--guidance-scale", "2", "--negative-prompt", ""]
    settings = ["--method", "dps", "--steps", "2", "--samples", "2", "-o", str(out)]
    result = CliRunner().invoke(
        main, ["solve", str(picture), "--simulate", "--problem", "denoise", "--noise", "0.1", *given, *settings]
    )
    assert result.exit_code == 0, result.output
    with Image.open(out / "mean.png") as mean:
        assert mean.size == (40, 30)
    record = json.loads((out / "run.json").read_text())
    assert "prompt=a cat = b" in record["arguments"]["prior_option"]
    assert record["prior"]["prompt"] == "a cat = b"
    result = CliRunner().invoke(main, ["solve", "--config", str(out / "run.json"), "-o", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "mean.png").read_bytes() == (out / "mean.png").read_bytes()
