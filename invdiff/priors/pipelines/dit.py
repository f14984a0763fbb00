"""DiT: a transformer of codes, conditioned on a class.

References:
    Peebles & Xie, Scalable Diffusion Models with Transformers, 2023, https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.checkpoints.assumptions import LabelNeededError
from invdiff.priors.pipelines.autoencoder import read_autoencoder
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import GUIDED, Options
from invdiff.priors.pipelines.parts import Parts

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("DiTPipeline",)
NETWORKS = ("transformer", "vae", "scheduler")
OPTIONS: Mapping[str, str] = {"label": "class to sample: a number from 0; the last one stands for no class", **GUIDED}


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    return net(x, timestep=time, class_labels=condition["label"], return_dict=False)[0]  # type: ignore[no-any-return]


def read(parts: Parts, options: Options) -> Found:
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vae", "AutoencoderKL")
    net: Any = parts.network("transformer", "DiTTransformer2DModel", "Transformer2DModel")
    if int(net.config.in_channels) != vae.code_channels:
        raise ValueError(f"its transformer takes {net.config.in_channels} channels, and codes have {vae.code_channels}.")
    classes = int(net.config.num_embeds_ada_norm or 0)
    if "label" not in options.given:
        raise LabelNeededError(f"the network is class-conditional: give a label, 0 to {classes - 1}, or {classes} for none.")
    label = options.whole("label", 0, 0, classes)
    unit = vae.factor * int(net.config.patch_size)
    height, width = options.sides(parts.side("transformer"), vae.factor, unit)
    return Found(
        net,
        call,
        {"label": torch.tensor([label])},
        {"label": torch.tensor([classes])},
        training,
        (vae.code_channels, height // vae.factor, width // vae.factor),
        vae,
        facts={"label": label},
    )
