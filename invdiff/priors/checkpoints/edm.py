"""Networks of EDM (https://github.com/NVlabs/edm): the authors' pickles, and state dicts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.priors.checkpoints.assumptions import Choices, one_of, positive
from invdiff.priors.checkpoints.container import Contents, state_dicts
from invdiff.priors.checkpoints.records import Record, state_dict
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["OPTIONS", "read"]

OPTIONS: Mapping[str, str] = {
    "label": "class to sample, a number from 0; none: sample without a label, if the network was also trained without labels",
    "preconditioning": "preconditioning of the network: edm, vp, ve or iddpm",
    "sigma_data": "standard deviation of the training data, for edm preconditioning",
}
PRECONDITIONINGS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
NETWORKS = ("SongUNet", "DhariwalUNet")
SILENT = "not determined by the weights; published default"
# Arguments of the constructors of the networks. With any other argument it is another network.
KNOWN = (
    "img_resolution in_channels out_channels label_dim augment_dim model_channels channel_mult channel_mult_emb num_blocks "
    "attn_resolutions dropout label_dropout embedding_type channel_mult_noise encoder_type decoder_type resample_filter"
)


def read(contents: Contents, given: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint of an EDM network, or ``None`` if the file holds none.

    A pickle determines the preconditioning of its network; for a state dict the preconditioning is assumed. In both cases
    the configuration of the network follows from the names and shapes of its weights.

    Raises:
        ValueError: If the network is not supported, or needs an option that is not given.
    """
    try:
        return _read(contents.data, Choices(given))
    except ValueError as error:
        raise ValueError(f"{contents.path}: {error}") from error


def _read(data: Any, choices: Choices) -> Checkpoint | None:
    record = _network_record(data)
    if record is not None:
        if record.name not in PRECONDITIONINGS:
            raise ValueError(_foreign(record.name))
        dropout = _inner(record).state.get("label_dropout")
        settings, label_free = record.state, isinstance(dropout, int | float) and dropout > 0
        weights = state_dict(record)
    else:
        found = next((tensors for _, tensors in state_dicts(data) if _is_network(tensors)), None)
        if found is None:
            return None
        weights, settings, label_free = found, {}, False
    table = "u" in weights  # stored by the discrete preconditioning only
    weights = {name.removeprefix("model."): value for name, value in weights.items() if name != "u"}
    if any(name.endswith("emb_fourier.freqs") for name in weights):
        raise ValueError(_foreign("Precond"))
    try:
        architecture, config = _infer(weights)
    except (KeyError, StopIteration, IndexError) as error:
        raise ValueError(f"the EDM network lacks some of its weights ({error}). Save it again.") from error

    reason: str | None = None
    if record is not None:
        usual = PRECONDITIONINGS[record.name]
    elif table:
        usual = "iddpm"
    elif config["outputs"] == 2 * config["channels"]:
        usual, reason = "iddpm", "twice as many outputs as channels"
    else:
        usual, reason = "edm", SILENT
    kind = choices.choose("preconditioning", one_of(PRECONDITIONINGS.values()), usual, reason)
    settings = settings if kind == usual else {}  # The stored settings belong to another preconditioning.
    without_label = label_free and choices.given.get("label") is None
    spec = NetworkSpec(
        architecture=architecture,
        config=config,
        event_shape=(config["channels"], config["size"], config["size"]),
        label=None if without_label else choices.label(config["classes"], or_none=True),
        facts={"family": "EDM", "network": architecture, "preconditioning": kind},
        assumed=choices.assumed,
        **_asking(kind, settings, choices),
    )
    return Checkpoint(spec, weights)


def _network_record(data: Any) -> Record | None:
    """Return the network of a pickle, preferring averaged weights, or ``None`` if it holds no network."""
    if isinstance(data, Record):
        return data
    if not isinstance(data, dict):
        return None
    named = {name: value for name, value in data.items() if isinstance(value, Record)}
    return next((named[name] for name in ("ema", "G_ema", "net", "G") if name in named), next(iter(named.values()), None))


def _foreign(name: str) -> str:
    if name in ("Precond", "UNet"):
        what = "a network of EDM2 (Precond), with magnitude-preserving layers"
    elif name in ("Generator", "Discriminator"):
        what = "a StyleGAN (not a diffusion model)"
    else:
        what = f"an object of class {ascii(name[:100])[1:-1]}"
    return (
        f"holds {what}, which is not supported. Expected {', '.join(PRECONDITIONINGS)} of EDM; "
        "wrap other networks in Python with invdiff.priors.from_network."
    )


def _inner(record: Record) -> Record:
    modules = record.state.get("_modules")
    inner = modules.get("model") if isinstance(modules, dict) else None
    if not isinstance(inner, Record) or inner.name not in NETWORKS:
        name = inner.name if isinstance(inner, Record) else "none"
        raise ValueError(f"{record.name} around the network {name[:100]!r}, expected {' or '.join(NETWORKS)}.")
    options = inner.state.get("_init_kwargs")
    unknown = sorted(str(name)[:100] for name in set(options) - set(KNOWN.split())) if isinstance(options, dict) else []
    if unknown:
        raise ValueError(
            f"a {inner.name} with unsupported options ({', '.join(unknown)}), so it computes another "
            "function. Wrap it in Python with invdiff.priors.from_network."
        )
    return inner


def _is_network(tensors: Mapping[str, Tensor]) -> bool:
    names = {name.removeprefix("model.").removeprefix("unet.") for name in tensors}
    first = any(re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name) for name in names)
    return first and ("map_layer0.weight" in names or "emb_fourier.freqs" in names)


def _infer(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Infer the architecture and its configuration from the names and shapes of the weights."""
    sizes = sorted({int(found[1]) for name in weights if (found := re.match(r"enc\.(\d+)x\1_block0\.", name))}, reverse=True)
    top = f"enc.{sizes[0]}x{sizes[0]}"
    blocks = len({found[1] for name in weights if (found := re.match(re.escape(top) + r"_block(\d+)\.", name))})
    dhariwal = "out_conv.weight" in weights
    last = weights["out_conv.weight" if dhariwal else f"dec.{sizes[0]}x{sizes[0]}_aux_conv.weight"]
    config = {
        "size": sizes[0],
        "channels": weights[f"{top}_conv.weight"].shape[1],
        "outputs": last.shape[0],
        "classes": weights["map_label.weight"].shape[1] if "map_label.weight" in weights else 0,
        "augmentations": weights["map_augment.weight"].shape[1] if "map_augment.weight" in weights else 0,
        "widths": [weights[f"enc.{at}x{at}_block0.conv1.weight"].shape[0] for at in sizes],
        "blocks": blocks,
        "attention": [at for at in sizes if f"enc.{at}x{at}_block0.qkv.weight" in weights],
        "frequencies": weights["map_layer0.weight"].shape[1] // 2,
        "embedding": weights["map_layer0.weight"].shape[0],
    }
    if dhariwal:
        return "DhariwalUNet", config
    aux = {found[1] for name in weights if (found := re.match(r"enc\.\d+x\d+_aux_(\w+)\.", name))}
    filters = (value.shape[-1] for name, value in weights.items() if name.endswith(".resample_filter"))
    return "SongUNet", config | {
        "first": weights[f"{top}_conv.weight"].shape[0],
        "fourier": "map_noise.freqs" in weights,
        "encoder": "residual" if "residual" in aux else "skip" if "skip" in aux else "standard",
        "decoder": "skip" if any(re.match(r"dec\.\d+x\d+_aux_up\.", name) for name in weights) else "standard",
        "taps": next(filters, 2),
    }


def _asking(kind: str, settings: Mapping[Any, Any], choices: Choices) -> dict[str, Any]:
    r"""Return the part of the spec that expresses a preconditioning of Karras et al., 2022, table 1.

    In :math:`D(x; \sigma) = c_\text{skip} x + c_\text{out} F(c_\text{in} x; c_\text{noise})`, all but ``edm`` have
    :math:`c_\text{skip} = 1` and :math:`|c_\text{out}| = \sigma`: the network returns the noise, up to its sign.
    """

    def setting(name: str, default: float) -> float:
        value = settings.get(name, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"it is damaged: {name} is not a positive number.")
        return float(value)

    if kind == "edm":
        reason = None if "sigma_data" in settings else SILENT
        sigma_data = choices.choose("sigma_data", positive, setting("sigma_data", 0.5), reason)
        # The networks accept any level; these are the ends of the paper's sampler.
        schedule = {"name": "edm", "sigma_min": 0.002, "sigma_max": 80.0}
        return {"predicts": "edm", "schedule": schedule, "sigma_data": sigma_data}
    if kind == "vp":
        beta_min, beta_d, steps = setting("beta_min", 0.1), setting("beta_d", 19.9), setting("M", 1000)
        schedule = {"name": "vp", "beta_min": beta_min, "beta_max": beta_min + beta_d}
        return {"predicts": "eps", "schedule": schedule, "time_scale": steps - 1}
    if kind == "ve":
        schedule = {"name": "edm", "sigma_min": setting("sigma_min", 0.02), "sigma_max": setting("sigma_max", 100.0)}
        return {"predicts": "-eps", "schedule": schedule, "time_scale": 0.5, "time_log": True}
    # The table is recomputed, because the one in the file was rounded to float32 (24 bits) in between.
    schedule = {
        "name": "cosine-betas",
        "steps": int(setting("M", 1000)),
        "offset": setting("C_2", 0.008),
        "largest": 1 - setting("C_1", 0.001),
    }
    return {"predicts": "eps", "schedule": schedule}
