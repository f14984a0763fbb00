"""``load_prior``: a name, a file, a folder or a hub id becomes a prior; what it is, is told by its content."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from invdiff.priors.checkpoints.container import Contents, open_contents, state_dicts
from invdiff.priors.errors.files import errors_beside, read_error_model
from invdiff.priors.network import NetworkPrior
from invdiff.priors.save import BUNDLED
from invdiff.priors.spec import Checkpoint, NetworkSpec, build_network, build_prior

__all__ = ["PRECISIONS", "has_bfloat16_units", "load_network", "load_prior", "locate", "pick_autocast", "read_checkpoint"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
FAMILIES = {  # in the order in which they are asked whether a file is theirs
    "invdiff": "invdiff.priors.save",
    "guided-diffusion": "invdiff.priors.checkpoints.guided_diffusion",
    "EDM": "invdiff.priors.checkpoints.edm",
    "score-SDE": "invdiff.priors.checkpoints.score_sde",
}
SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".safetensors")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@torch.inference_mode(False)  # or its weights could not be part of any gradient
def load_prior(
    source: str | Path,
    *,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    checkpointing: bool = False,
    errors: bool = True,
    **given: Any,
) -> NetworkPrior:
    """Return the prior of a checkpoint, whatever its family; reading it runs no code of the file.

    ================= ======================================================================================================
    source            what it may be
    ================= ======================================================================================================
    a name            ``"natural"``, the bundled prior
    a file            what ``invdiff train`` or ``invdiff priors convert`` wrote; a state dict of OpenAI's guided-diffusion or
                      improved-diffusion (``.pt``); a pickle of EDM (``.pkl``); a checkpoint of score-SDE (``.pth``)
    a folder          of diffusers: a ``UNet2DModel`` or a pipeline around one
    a hub id          such as ``"google/ddpm-celebahq-256"``, likewise; needs ``pip install "invdiff[diffusers]"``
    ================= ======================================================================================================

    Args:
        source: See above. A bundled name wins over a file of that name: write ``./natural`` for the file.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the network's convolutions and matrices (the solver's state
            stays float32); ``auto`` takes bfloat16 where ``device`` has matrix units for it, float32 elsewhere.
        device: Where the prior will run. It follows the measurement; this only decides ``auto``.
        checkpointing: Whether gradients compute activations again instead of keeping them: less memory, a third more time.
        errors: Whether to take what was measured of the prior's error, ``NAME.errors.safetensors`` beside its file, where it is
            there (``invdiff priors measure``). One that was measured on another prior is left aside, with a line in ``notes``.
        given: What the file does not say and is wrongly assumed, such as ``heads=8``, ``schedule="cosine"``, or a ``label`` for
            networks that know classes: ``invdiff priors inspect FILE`` tells what is assumed and how it is called.

    Raises:
        ValueError: If nothing is there, or it is damaged, of no known family, or could run code.
    """
    autocast = pick_autocast(precision, torch.device(device))
    path = locate(source)
    checkpoint = read_checkpoint(path, given)
    spec = checkpoint.spec
    said = {"label": spec.label, "given": dict(given) or None, "assumed": dict(spec.assumed) or None}
    facts = {"name": str(source), **{name: value for name, value in said.items() if value is not None}, **spec.facts}
    try:
        prior = build_prior(checkpoint, autocast=autocast, checkpointing=checkpointing, file=path, facts=facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    measured = errors_beside(path)
    if errors and measured.is_file():
        found = read_error_model(measured, prior=path, given=given)
        if isinstance(found, str):
            prior.notes = (found,)
        else:
            prior.error_model = found
    return prior


def locate(source: str | Path) -> Path:
    """Return the file or folder of a prior; what a hub has is downloaded."""
    path = BUNDLED.get(str(source), Path(source))
    if str(source) and path.exists():
        return path
    if HUB_ID.fullmatch(str(source)) and path.suffix not in SUFFIXES and not path.parent.exists():
        downloaded: Path = _diffusers().download(str(source))
        return downloaded
    raise ValueError(
        f"Unknown prior {str(source)!r}: expected one of {', '.join(BUNDLED)}, the path of a checkpoint, or a hub id such as "
        "google/ddpm-celebahq-256."
    )


def load_network(source: str | Path) -> tuple[nn.Module, NetworkSpec]:
    """Return the network of a checkpoint in float32, and its spec."""
    checkpoint = read_checkpoint(locate(source), {})
    return build_network(checkpoint), checkpoint.spec


def read_checkpoint(path: Path, given: Mapping[str, Any]) -> Checkpoint:
    """Return what a file or folder holds: the weights of a network, and how it is built and asked."""
    if path.is_dir():
        diffusers = _diffusers()
        checkpoint: Checkpoint | None = diffusers.read_folder(path, given)
        if checkpoint is None:
            raise ValueError(
                f"{path}: a folder without model_index.json and config.json. Expected one of diffusers, or a checkpoint file."
            )
        _check_given(path, "diffusers", diffusers.OPTIONS, given)
        return checkpoint
    contents = open_contents(path)
    for family, module in FAMILIES.items():
        reader = importlib.import_module(module)
        checkpoint = reader.read(contents, given)
        if checkpoint is not None:
            _check_given(path, family, reader.OPTIONS, given)
            return checkpoint
    raise ValueError(f"{path}: {_describe(contents)}. Known are {', '.join(FAMILIES)} and folders of diffusers. {BY_HAND}")


BY_HAND = (
    "Any network can be wrapped in Python: build it, load these weights into it, and give "
    'invdiff.priors.from_network(net, schedule, predicts="eps").'
)


def pick_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype in which a network computes, ``None`` for that of its weights."""
    if precision not in PRECISIONS:
        raise ValueError(f"load_prior: unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_units(device) else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` computes convolutions faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # A private name, so asked for with care: without it the answer is the safe one.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def _diffusers() -> ModuleType:
    return importlib.import_module("invdiff.priors.checkpoints.diffusers_folder")


def _check_given(path: Path, family: str, options: Mapping[str, str], given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in options]
    if unknown:
        expected = f"expected one of {', '.join(options)}" if options else "the file says everything itself"
        raise ValueError(f"{path}: {family} checkpoints have no option {unknown[0]!r}, {expected}.")


def _describe(contents: Contents) -> str:
    found = list(state_dicts(contents.data))
    if not found:
        return f"holds a {type(contents.data).__name__} without weights of a network"
    where, weights = max(found, key=lambda item: len(item[1]))
    names = ", ".join(list(weights)[:3])
    return f"holds {len(weights)} tensors{f' in {where!r}' if where else ''} ({names}, ...) of no network known here"
