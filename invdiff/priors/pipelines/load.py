"""Read a pipeline of diffusers from a folder: which family it is of, and the prior it makes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from invdiff.priors.checkpoints.diffusers_scheduler import Training
from invdiff.priors.checkpoints.diffusers_weights import read_json
from invdiff.priors.guided import combined, thresholded
from invdiff.priors.latent import LatentPrior
from invdiff.priors.network import NetworkPrior
from invdiff.priors.networks.checkpointing import recompute_blocks
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import UNIVERSAL, Options
from invdiff.priors.pipelines.parts import INDEX, Parts
from invdiff.priors.pipelines.prompted import Prompted
from invdiff.priors.score_model import ScoreModel
from invdiff.priors.spec import SCHEDULES

__all__ = ["check_options", "family_of", "load_pipeline", "options_of", "pipeline_index"]

FAMILIES = (
    *("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"),
    *("deepfloyd", "unclip", "dit", "latent_diffusion"),
)
PLAIN = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "ScoreSdeVePipeline", "KarrasVePipeline", "RePaintPipeline")
# Why others are not read; the first part of a name that fits decides.
REFUSED = {
    "Inpaint": "its network is conditioned on a masked image. Use the pipeline of the same model for text to image",
    "ControlNet": "its network is conditioned on an image. Use the pipeline of the same model for text to image",
    "Adapter": "its network is conditioned on an image. Use the pipeline of the same model for text to image",
    "Img2Img": "it edits an image. Use the pipeline of the same model for text to image",
    "Upscale": "its network is conditioned on a small image. Posterior sampling enlarges with the pipeline for text to image",
    "InstructPix2Pix": "its network is conditioned on an image",
    "LatentConsistency": "its network was distilled to a few steps, and is no denoiser at every noise level",
    "Video": "it makes videos, and priors are of images",
    "Audio": "it makes sounds, and priors are of images",
    "unCLIP": "its network is conditioned on the embedding of an image besides the text",
}


def pipeline_index(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``model_index.json`` if it is of a pipeline beyond a plain U-Net and its scheduler."""
    index = read_json(folder / INDEX)
    if index is None or index.get("_class_name") in PLAIN or not isinstance(index.get("_class_name"), str):
        return None
    parts = {name: entry for name, entry in index.items() if name[:1] != "_" and isinstance(entry, list) and any(entry)}
    unconditional = parts.keys() <= {"unet", "scheduler"} and parts.get("unet", [None])[-1] in (None, "UNet2DModel")
    return None if unconditional or not parts else index


def family_of(index: Mapping[str, Any], path: Path) -> ModuleType:
    """Return the module of the family of a pipeline.

    Raises:
        ValueError: If it is not supported, with the reason.
    """
    name, known = index["_class_name"], []
    for each in FAMILIES:
        module = importlib.import_module(f"invdiff.priors.pipelines.{each}")
        if name in module.PIPELINES:
            return module
        known += module.PIPELINES
    reason = next((f": {why}" for part, why in REFUSED.items() if part in name), "")
    raise ValueError(f"{path}: the pipeline {name:.80} is not supported{reason}. Expected {', '.join(known)}.")


def options_of(family: ModuleType) -> dict[str, str]:
    """Return the options of a family with their descriptions."""
    one_size = getattr(family, "ONE_SIZE", False)
    return {**family.OPTIONS, **{name: what for name, what in UNIVERSAL.items() if not (one_size and name == "image_size")}}


def check_options(family: ModuleType, given: Mapping[str, Any], name: str) -> Options:
    """Return the options of a pipeline, with its prompt if it needs one.

    Raises:
        ValueError: If one is unknown, or the prompt is missing.
    """
    options = Options(given, options_of(family), name)
    if "prompt" in family.OPTIONS:
        options.prompt  # noqa: B018 - it raises the error
    return options


def load_pipeline(
    folder: Path,
    index: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    autocast: torch.dtype | None,
    device: torch.device,
    checkpointing: bool,
    compiled: bool,
    facts: Mapping[str, Any],
) -> tuple[ScoreModel, NetworkPrior]:
    """Read a pipeline.

    Args:
        folder: The folder.
        index: Its :func:`pipeline_index`.
        given: Options by name.
        autocast: Dtype in which the network computes; ``None``: float32. Autoencoders compute in float32.
        device: Where texts are encoded.
        checkpointing: As in :func:`~invdiff.priors.load_prior`.
        compiled: Likewise.
        facts: Entries for reports.

    Returns:
        The prior, and the prior of the network in it.

    Raises:
        ValueError: If the pipeline is not supported or damaged, or an option is wrong.
        ImportError: If diffusers or transformers is not installed.
    """
    family = family_of(index, folder / INDEX)
    options = check_options(family, given, str(index["_class_name"]))
    parts = Parts(folder, index, kernels=autocast, device=device)
    found: Found = family.read(parts, options)
    about = {"family": index["_class_name"], **{name: given[name] for name in RECORDED if given.get(name) is not None}}
    how: dict[str, Any] = {"autocast": autocast, "checkpointing": checkpointing, "compiled": compiled}
    prior = _prior(found, folder, {**facts, **about, **found.facts}, how)
    score: ScoreModel = prior
    if "guidance_scale" in options.given:
        assert found.without is not None  # Families without a condition have no such option.
        other = prior.with_network(Prompted(found.net, found.call, found.without).eval())
        other.facts = {**prior.facts, "prompt": given.get("negative_prompt") or "", "label": None}
        score = combined(prior, other, options.given)
    if "threshold" in options.given:
        score = thresholded(score, options.given["threshold"])
    if found.autoencoder is None:
        return score, prior
    vae = found.autoencoder
    if checkpointing:
        recompute_blocks(vae.decode)
        recompute_blocks(vae.encode)
    latent = LatentPrior(score, vae.decode, encode=vae.encode, rows=1, factor=vae.factor, channels=vae.channels, checked=True)
    return latent, prior


RECORDED = ("prompt", "negative_prompt")


def _prior(found: Found, folder: Path, facts: Mapping[str, Any], how: Mapping[str, Any]) -> NetworkPrior:
    training: Training = found.training
    schedule = dict(training.schedule)
    prior = NetworkPrior(
        Prompted(found.net, found.call, found.condition).eval(),
        SCHEDULES[schedule.pop("name")](**schedule),
        predicts=training.predicts,
        time=lambda t: training.time_scale * t,
        event_shape=found.event_shape,
        sigma_data=training.sigma_data,
        stride=1,
        file=folder,
        facts=facts,
        **how,
    )
    prior.windowed = found.windows
    prior.notes = found.notes
    return prior
