"""``load_prior``: load a prior from a name, a file, a folder or a hub id. The format is detected from the content."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import torch
from torch import nn

from invdiff.io.portable import portable
from invdiff.priors.checkpoints.container import Contents, open_contents, state_dicts
from invdiff.priors.checkpoints.kinds import folder_kind, is_optimizer, network_kind
from invdiff.priors.digest import CHANGED, Stamp, begin_digest, digest, stamp
from invdiff.priors.errors.files import errors_beside, read_error_model
from invdiff.priors.guided import guided, split_options
from invdiff.priors.network import NetworkPrior
from invdiff.priors.place import locate
from invdiff.priors.save import WIDEST_HOLES
from invdiff.priors.score_model import ScoreModel
from invdiff.priors.spec import Checkpoint, NetworkSpec, build_network, build_prior

__all__ = [
    "PRECISIONS",
    "assumptions",
    "built",
    "has_bfloat16_units",
    "load_network",
    "load_prior",
    "locate",
    "pick_autocast",
    "pipeline_in",
    "read_checkpoint",
]

UNSAID = ("prompt", "negative_prompt", "guidance_scale")  # recorded elsewhere
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
BFLOAT16_UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
FAMILIES = {  # in the order in which their readers are tried
    "invdiff": "invdiff.priors.save",
    "guided-diffusion": "invdiff.priors.checkpoints.guided_diffusion",
    "EDM": "invdiff.priors.checkpoints.edm",
    "score-SDE": "invdiff.priors.checkpoints.score_sde",
}


@overload
def load_prior(
    source: str | Path,
    *,
    prompt: None = None,
    guidance_scale: None = None,
    threshold: None = None,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    checkpointing: bool = False,
    compiled: bool = False,
    errors: bool = True,
    **given: Any,
) -> NetworkPrior: ...
@overload
def load_prior(
    source: str | Path,
    *,
    prompt: str | None = None,
    guidance_scale: float | str | None = None,
    threshold: float | str | None = None,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    checkpointing: bool = False,
    compiled: bool = False,
    errors: bool = True,
    **given: Any,
) -> ScoreModel: ...
@torch.inference_mode(False)  # Weights created in inference mode could not take part in gradients.
def load_prior(
    source: str | Path,
    *,
    prompt: str | None = None,
    guidance_scale: float | str | None = None,
    threshold: float | str | None = None,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    checkpointing: bool = False,
    compiled: bool = False,
    errors: bool = True,
    **given: Any,
) -> ScoreModel:
    """Load the prior of a checkpoint of any supported family, without executing code from the file.

    ================= ======================================================================================================
    source            accepted
    ================= ======================================================================================================
    a name            ``"natural"``, the bundled prior
    a file            written by ``invdiff train`` or ``invdiff priors convert``; a state dict of OpenAI's guided-diffusion or
                      improved-diffusion (``.pt``); a pickle of EDM (``.pkl``); a checkpoint of score-SDE (``.pth``)
    a folder          of diffusers: a ``UNet2DModel`` or a pipeline around one; or a pipeline of Stable Diffusion (1, 2, XL, 3),
                      Flux, DeepFloyd IF, unCLIP, DiT or latent diffusion
    a hub id          of such a folder, ``"google/ddpm-celebahq-256"``; needs ``pip install "invdiff[diffusers]"``, or
                      ``"invdiff[text]"`` for pipelines conditioned on a text
    ================= ======================================================================================================

    Args:
        source: See above. A bundled name takes precedence over a file of that name: write ``./natural`` for the file.
        prompt: The text on which a pipeline is conditioned; may be empty. Further options, such as ``negative_prompt=``, are
            listed by ``invdiff priors inspect FOLDER``. Pipelines of codes give a :class:`~invdiff.priors.LatentPrior`.
        guidance_scale: Scale of classifier-free guidance (:class:`~invdiff.priors.ClassifierFree`), for a class-conditional
            network with a ``label`` or a ``prompt``. With a label it needs ``null_label=``, the label that stood for no class
            in the training (a number, or ``"none"`` for networks of EDM), or ``unconditional=``, the checkpoint of an
            unconditional prior. Further options: ``guidance_interval=(0.2, 3)`` and ``guidance_rescale=0.7``. Default: no
            guidance.
        threshold: ``"static"``, or the quantile of dynamic thresholding (:class:`~invdiff.priors.Thresholded`). Default: none.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the network's convolutions and matrix products (the solver's
            state stays float32); ``auto`` uses bfloat16 if ``device`` has units for it, and float32 otherwise.
        device: Device on which the prior will run, used only to resolve ``auto``. The prior follows the measurement's device.
        checkpointing: Whether gradients recompute activations instead of storing them: less memory, a third more time.
        compiled: Whether to compile the network, which takes a minute or more per shape of its input: fewer, larger kernels for
            GPUs, where launching small ones takes longer than their work. Where it fails, the network runs as it is, with a
            warning.
        errors: Whether to load the measured error covariance ``NAME.errors.safetensors`` beside the prior's file, if it exists
            (``invdiff priors measure``). A covariance measured on another prior is ignored, with a line in ``notes``.
        given: Values of options that the file does not determine and whose defaults are wrong, such as ``heads=8``,
            ``schedule="cosine"``, or a ``label`` for class-conditional networks. ``invdiff priors inspect FILE`` lists the
            assumed values and the option names.

    Raises:
        ValueError: If the source does not exist, is damaged, is of no supported family, or could run code.
    """
    autocast = pick_autocast(precision, torch.device(device))
    path = locate(source, {**given, "prompt": prompt, "guidance_scale": guidance_scale, "threshold": threshold})
    before = stamp(path)
    guidance = {"guidance_scale": guidance_scale, "threshold": threshold}
    index = pipeline_in(path)
    if index is not None:
        given = {**given, **guidance, "prompt": prompt}
        network: dict[str, Any] = {"autocast": autocast, "checkpointing": checkpointing, "compiled": compiled}
        return _load_pipeline(source, path, index, given, before, device=torch.device(device), **network)
    options, given = split_options({**given, **guidance})
    meanwhile = begin_digest(path, before) if path.is_file() else None  # A folder is first known to be one of a checkpoint.
    checkpoint = read_checkpoint(path, given)
    if prompt is not None:
        raise ValueError(f"{path}: prompt={prompt!r:.80}: the checkpoint is not conditioned on a text. Leave it out.")
    spec = checkpoint.spec
    said = {"label": spec.label, "given": dict(given) or None, "assumed": dict(spec.assumed) or None}
    facts = {"name": portable(str(source)), **{name: value for name, value in said.items() if value is not None}, **spec.facts}
    how: dict[str, Any] = {"checkpointing": checkpointing, "compiled": compiled}
    with _naming(path):
        prior = build_prior(checkpoint, file=path, facts=facts, autocast=autocast, **how)
    prior.notes = (*checkpoint.notes, *assumptions(path, spec))
    prior.widest_hole = WIDEST_HOLES.get(str(source))
    # Now: the file may be replaced while the prior is in use.
    text = digest(path, before) if meanwhile is None else meanwhile.result()
    prior.sha256 = text if path.exists() and stamp(path) == before else CHANGED
    measured = errors_beside(path)
    if errors and measured.is_file():
        found = read_error_model(measured, prior=path, given=given)
        if isinstance(found, str):
            prior.notes += (found,)
        else:
            prior.error_model = found
    if not options:
        return prior
    file = options.get("unconditional")  # Read here, where errors bear its name alone.
    other = None if file is None else load_prior(file, precision=precision, device=device, errors=False, **how)
    with _naming(path):
        return guided(prior, spec, options, other)


def pipeline_in(path: Path) -> dict[str, Any] | None:
    """Return the index of a pipeline beyond a U-Net of pixels, or ``None``."""
    if not path.is_dir():
        return None
    with _naming(path):
        found: dict[str, Any] | None = _pipelines().pipeline_index(path)
        return found


def _load_pipeline(
    source: str | Path, path: Path, index: Mapping[str, Any], given: Mapping[str, Any], before: Stamp, **how: Any
) -> ScoreModel:
    said = {name: value for name, value in given.items() if name not in UNSAID and isinstance(value, str | int | float)}
    facts: dict[str, Any] = {"name": portable(str(source)), **({"given": said} if said else {})}
    with _naming(path):
        score: ScoreModel
        score, network = _pipelines().load_pipeline(path, index, given, facts=facts, **how)
    network.sha256 = digest(path, before)
    return score


def load_network(source: str | Path) -> tuple[nn.Module, NetworkSpec]:
    """Return the network of a checkpoint in float32, and its spec."""
    path = locate(source)
    checkpoint = read_checkpoint(path, {})
    return built(checkpoint, path), checkpoint.spec


def built(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Return the network of the checkpoint at ``path``, which errors name.

    Raises:
        ValueError: As :func:`~invdiff.priors.spec.build_network`.
    """
    with _naming(path):
        return build_network(checkpoint)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn every failure to read a file into one line with its name."""
    try:
        yield
    except (ImportError, OSError):
        raise
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from (error.__cause__ or error)
    except Exception as error:  # A damaged file may fail in any way.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: is damaged, or not what it seems ({type(error).__name__}: {reason}).") from error


def read_checkpoint(path: Path, given: Mapping[str, Any]) -> Checkpoint:
    """Read the weights of a network from a file or folder, and the spec of how it is built and evaluated.

    Raises:
        ValueError: If the file is damaged, not supported, or changes meanwhile. The message begins with its name.
        OSError: If it cannot be opened.
    """
    with _naming(path):
        return _read(path, given)


def _read(path: Path, given: Mapping[str, Any]) -> Checkpoint:
    if path.is_dir():
        diffusers = _diffusers()
        checkpoint: Checkpoint | None = diffusers.read_folder(path, given)
        if checkpoint is None:
            raise ValueError(
                f"{path}: the folder has neither model_index.json nor config.json; {folder_kind(path)}. Expected a diffusers "
                "folder or a checkpoint file."
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
    raise ValueError(f"{path}: {_describe(contents)}. Expected {', '.join(FAMILIES)} or a diffusers folder. {BY_HAND}")


BY_HAND = (
    "Any network can be wrapped in Python: build it, load these weights into it, and call "
    'invdiff.priors.from_network(net, schedule, predicts="eps").'
)


def assumptions(path: Path, spec: NetworkSpec) -> tuple[str, ...]:
    """Return a line of what was assumed of a checkpoint, by reason; empty if its file determines everything."""
    reasons: dict[str, list[str]] = {}
    for name, text in spec.assumed.items():
        value, _, reason = text.removesuffix(")").partition(" (")
        reasons.setdefault(reason[:200], []).append(f"{name:.80}={value:.80}")
    if not reasons:
        return ()
    told = "; ".join(f"{', '.join(values)}{f' ({reason})' if reason else ''}" for reason, values in reasons.items())
    return (f"assumed of {path.name}: {told:.1000}. Other values: --prior-option NAME=VALUE",)


def pick_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype in which a network computes; ``None``: the dtype of its weights."""
    if precision not in PRECISIONS:
        raise ValueError(f"load_prior: unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_units(device) else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` computes convolutions and matrix products faster in bfloat16 than in float32.

    On a CPU these are the tile units AMX and the vector instructions AVX512-BF16, with which ``natural`` takes half the time.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Private functions that may be absent; the fallback is float32.
    return any(getattr(torch.cpu, name, lambda: False)() for name in BFLOAT16_UNITS)


def _pipelines() -> Any:
    return importlib.import_module("invdiff.priors.pipelines.load")


def _diffusers() -> ModuleType:
    return importlib.import_module("invdiff.priors.checkpoints.diffusers_folder")


def _check_given(path: Path, family: str, options: Mapping[str, str], given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in options]
    if unknown:
        expected = f"expected one of {', '.join(options)}" if options else "the file is self-describing"
        raise ValueError(f"{path}: {family} checkpoints have no option {unknown[0]!r}, {expected}.")


def _describe(contents: Contents) -> str:
    data = contents.data
    found = list(state_dicts(data))
    if isinstance(data, Mapping) and is_optimizer(data) and len(data) <= 3:
        return "holds the state of an optimizer, without network weights"
    if not found:
        return f"holds a {type(data).__name__} without network weights"
    where, weights = max(found, key=lambda item: len(item[1]))
    names = ", ".join(list(weights)[:3])
    known = network_kind(weights)
    listed = f"holds {len(weights)} tensors{f' in {where!r}' if where else ''} ({names:.200}, ...) of no supported network"
    return f"{listed}: it looks like {known}" if known else listed
