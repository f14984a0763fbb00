"""A step of sampling under a pipeline of diffusers, beside a step of the pipeline itself:

    python benchmarks/pipelines.py

The pipeline is a Stable Diffusion of random weights (a U-Net of 34 million, an autoencoder of factor 8) for 256 x 256 pixels,
with classifier-free guidance. The time of a step is the difference of a run of many steps and a run of few, over the difference
of their numbers, the fastest of several, all in one run; texts, encoding and the last decoding are thus left out. The memory is
the peak of the tensors. ``unconditional`` does the same work as the pipeline; the others guide it by a measurement, through the
decoder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import string
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from latent_cost import peak_memory, quiet, timed
from speed_networks import fastest, inpainting, photograph
from tabulate import tabulate

from invdiff import PosteriorSampler, load_prior
from invdiff.io.images import atomic_write

HERE = Path(__file__).parent
PROMPT, SCALE, SIDE = "a red fox", 5.0, 256
FEW, MANY = 2, 6  # steps
METHODS: dict[str, dict[str, Any]] = {
    "unconditional": {"method": "unconditional", "rule": "ddim"},
    "latino": {"method": "latino", "ode_steps": 1},
    "flow-dps": {"method": "flow-dps"},
    "dps": {"method": "dps"},
    "mmps": {"method": "mmps"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the timing of a method (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "pipelines.json", help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS], help="(default: all)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pipe = stable_diffusion()
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        prior = load_prior(folder, prompt=PROMPT, guidance_scale=SCALE)
    op = inpainting(SIDE)
    y = op.measure(photograph(SIDE), seed=0)

    def pipeline(steps: int) -> Callable[[], object]:
        given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": SCALE, "output_type": "pt"}
        return lambda: pipe(PROMPT, **given)

    def method(steps: int, settings: dict[str, Any]) -> Callable[[], object]:
        sampler = quiet(partial(PosteriorSampler, prior, op, steps=steps, **settings))
        return lambda: sampler.run(y, seed=0)

    rows: dict[str, dict[str, float]] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, settings in ((name, METHODS[name]) for name in arguments.methods):
        ways = {
            "few": method(FEW, settings),
            "many": method(MANY, settings),
            "own few": pipeline(FEW),
            "own many": pipeline(MANY),
        }
        best = fastest({way: partial(timed, work) for way, work in ways.items()}, seconds=arguments.seconds)
        step, own = ((best[f"{of}many"] - best[f"{of}few"]) / (MANY - FEW) for of in ("", "own "))
        memory, of_own = (peak_memory(ways[way]) for way in ("few", "own few"))
        rows[name] = {
            "s of a step": step,
            "of the pipeline": own,
            "ratio": step / own,
            "peak, MiB": memory,
            "over that of the pipeline": memory / of_own,
        }
        with atomic_write(arguments.out) as part:
            part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = [[name, *row.values()] for name, row in rows.items()]
    print(tabulate(table, ["method", *next(iter(rows.values()))], tablefmt="github", floatfmt=".3g"))


def stable_diffusion() -> Any:
    """Return a pipeline of Stable Diffusion with random weights."""
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = {word: number for number, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 54}
    four = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "latent_channels": 4}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            **four, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4
        ).eval(),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**text, bos_token_id=52, eos_token_id=53)).eval(),
        tokenizer=transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
        unet=diffusers.UNet2DConditionModel(
            sample_size=SIDE // 8, block_out_channels=(64, 128, 256, 256), cross_attention_dim=64, attention_head_dim=8
        ).eval(),
        scheduler=diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    main()
