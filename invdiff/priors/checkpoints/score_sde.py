"""Checkpoints of score-SDE: NCSN++, DDPM++ and DDPM of https://github.com/yang-song/score_sde_pytorch.

A file holds ``{"optimizer", "model": state dict, "ema": {"decay", "num_updates", "shadow_params"}, "step"}``. The averaged
weights are a list in the order of the trained parameters, which are all but the Fourier frequencies. Neither an entry nor a
shape determines the process a network was trained for; unless the user gives it, it is taken from the published settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.checkpoints.assumptions import Choices, one_of, positive, whole, yes_no
from invdiff.priors.checkpoints.container import Contents, state_dicts
from invdiff.priors.checkpoints.score_sde_layout import layout
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["OPTIONS", "read"]

OPTIONS: Mapping[str, str] = {
    "model": "ncsnpp or ddpm: the authors' name of a network with residual blocks of DDPM and no pyramids",
    "sde": "ve, vp or subvp: the process it was trained for",
    "continuous": "yes or no: trained at continuous times, or at the times of a table of betas (vp only)",
    "beta_min": "beta(0) of vp and subvp",
    "beta_max": "beta(1) of vp and subvp",
    "centered": "yes or no: trained on images that span [-1, 1], or [0, 1] (ve only)",
    "scale_by_sigma": "yes or no: the network divides its output by the noise level",
    "fir": "yes or no: images and features are resized by the filter [1, 3, 3, 1]",
    "skip_rescale": "yes or no: sums with a shortcut are divided by the square root of two",
    "image_size": "side of the training images in pixels",
}
MODELS, SDES = ("ncsnpp", "ddpm"), ("ve", "vp", "subvp")
UNTRAINED = ("sigmas", "all_modules.0.W")  # tensors that the authors do not average
SLOW_EMA = 0.9995  # separates the two decays of the authors, 0.999 and 0.9999


def read(contents: Contents, given: Mapping[str, Any]) -> Checkpoint | None:
    """Return the weights in ``contents`` and their spec, or ``None`` for a file of another family.

    Raises:
        ValueError: If the network is of this family but damaged or unsupported, or needs an option.
    """
    for _, tensors in state_dicts(contents.data):
        if any(name.startswith("all_modules.") for name in tensors):
            try:
                return _read(tensors, contents.data.get("ema"), Choices(given))
            except ValueError as error:
                raise ValueError(f"{contents.path}: {error}") from error
        if any(name.startswith("begin_conv.") for name in tensors) and any(name.startswith("refine1.") for name in tensors):
            raise ValueError(
                f"{contents.path}: is an NCSN or NCSNv2, made for annealed Langevin dynamics, which are not supported. "
                "Expected a later network of the authors: NCSN++, DDPM++ or DDPM."
            )
    return None


def _read(tensors: Mapping[str, Tensor], ema: object, choices: Choices) -> Checkpoint:
    config = layout(tensors)
    weights, averaged = _averaged(tensors, ema)
    decay = ema.get("decay") if isinstance(ema, Mapping) else None
    model = _choose_network(config, choices)
    pyramids = _has_pyramids(config)
    sde = _choose_process(config, model, decay if isinstance(decay, float) else None, choices)
    name = "DDPM" if model == "ddpm" else "NCSN++" if pyramids or config["embedding"] == "fourier" else "DDPM++"
    average = f"averaged with decay {decay}" if averaged else "those of the state dict: there is no list of averages"
    side = _image_size(config, choices)
    return Checkpoint(
        NetworkSpec(
            architecture="NCSNpp",
            config=config,
            event_shape=(config["channels"], side, side),
            facts={"family": "score-SDE", "network": name, "process": sde, "weights": average},
            assumed=choices.assumed,
            **_told(config, model, sde, tensors["sigmas"], choices),
        ),
        weights,
    )


def _choose_network(config: dict[str, Any], choices: Choices) -> str:
    """Complete ``config`` by the settings that shapes do not determine, and return the authors' name of the model."""
    rich = config["embedding"] == "fourier" or _has_pyramids(config)
    filtered = config["fir"]  # None if the names do not determine it
    if config["resblock_type"] == "biggan" or rich or filtered:
        model = choices.certain("model", one_of(MODELS), "ncsnpp", "the network has parts that are not in DDPM")
    else:
        model = choices.choose("model", one_of(MODELS), "ddpm", "the network has no parts that are not in DDPM")
    config["smallest_group"] = 1 if model == "ddpm" else 4
    if model == "ddpm":
        config["fir"] = choices.certain("fir", yes_no, False, "DDPM has no filters")
        config["skip_rescale"] = choices.certain("skip_rescale", yes_no, False, "DDPM does not rescale")
        return model
    config["skip_rescale"] = choices.choose("skip_rescale", yes_no, True, "as every published NCSN++ and DDPM++")
    if filtered is None:
        config["fir"] = choices.choose("fir", yes_no, rich, "NCSN++ has filters and DDPM++ does not")
    else:
        choices.certain("fir", yes_no, filtered, "the names of its convolutions show")
    return model


def _choose_process(config: dict[str, Any], model: str, decay: float | None, choices: Choices) -> str:
    """Complete ``config`` by the settings that depend on the process of the training, and return the process."""
    usual, reason = "vp", f"as every published {'DDPM' if model == 'ddpm' else 'DDPM++'} except those of subvp"
    if config["embedding"] == "fourier":
        usual, reason = "ve", "as every published network with Fourier features"
    elif decay is not None and (model == "ddpm" or _has_pyramids(config)):
        usual = "ve" if decay < SLOW_EMA else "vp"
        reason = f"its weights are averaged with decay {decay:g}; the authors use 0.999 for ve and 0.9999 for vp"
    elif _has_pyramids(config):
        usual, reason = "ve", "as the published checkpoint of this kind, ve/cifar10_ncsnpp"
    sde = choices.choose("sde", one_of(SDES), usual, reason)
    if sde == "ve":
        config["centered"] = choices.choose("centered", yes_no, False, "as every published network of ve")
    else:
        config["centered"] = choices.certain("centered", yes_no, True, "images that span [0, 1] are supported with ve only")
    by_sigma = sde == "ve"
    config["scale_by_sigma"] = choices.choose("scale_by_sigma", yes_no, by_sigma, f"as every published network of {sde}")
    config["told"] = "sigma" if sde == "ve" and config["embedding"] == "positional" else "label"
    return sde


def _told(config: Mapping[str, Any], model: str, sde: str, sigmas: Tensor, choices: Choices) -> dict[str, Any]:
    """Return the entries of the spec for time, schedule and output."""
    fourier = config["embedding"] == "fourier"
    if sde == "ve":
        reason = "ve is continuous with Fourier features and discrete with positional features"
        choices.certain("continuous", yes_no, fourier, reason)
        unit = 1 if config["centered"] else 2  # the scale of our images, which span [-1, 1], relative to theirs
        largest, smallest = _ends(sigmas)
        schedule: dict[str, Any] = {"name": "edm", "sigma_min": unit * smallest, "sigma_max": unit * largest}
        return {"predicts": "score", "schedule": schedule, "time_scale": 1 / unit, "unit_range": not config["centered"]}
    first, last = (
        choices.choose(name, positive, value, "as published") for name, value in (("beta_min", 0.1), ("beta_max", 20.0))
    )
    if sde == "subvp" or fourier:
        reason = "subvp is continuous" if sde == "subvp" else "Fourier features are for continuous times"
        continuous = choices.certain("continuous", yes_no, True, reason)
    else:
        continuous = choices.choose("continuous", yes_no, model == "ncsnpp", f"as most published networks of {model}")
    if continuous:
        schedule = {"name": "sub-vp" if sde == "subvp" else "vp", "beta_min": first, "beta_max": last}
        return {"predicts": "eps", "schedule": schedule, "time_scale": 999.0}
    steps = len(sigmas)  # the length of the table of sigmas and of the table of betas
    schedule = {"name": "linear-betas", "steps": steps, "beta_start": first / steps, "beta_end": last / steps}
    return {"predicts": "eps", "schedule": schedule}


def _ends(sigmas: Tensor) -> tuple[float, float]:
    """Return the first and the last entry of a table of noise levels, without the rounding of float32."""
    logarithms = sigmas.double().log()
    even = torch.linspace(float(logarithms[0]), float(logarithms[-1]), len(sigmas), dtype=torch.float64)
    if not logarithms[0] > logarithms[-1] or not torch.allclose(logarithms, even, rtol=0, atol=1e-2):
        raise ValueError("its sigmas are not a decreasing geometric sequence, as for ve. Give sde if it is another process.")
    return float(f"{float(sigmas[0]):.6g}"), float(f"{float(sigmas[-1]):.6g}")


def _image_size(config: Mapping[str, Any], choices: Choices) -> int:
    stride = 2 ** (len(config["ch_mult"]) - 1)
    if "image_size" not in choices.given and not config["attention"]:
        raise ValueError(
            f"the file does not determine the size of its training images. Give image_size, a multiple of {stride}."
        )
    usual = 16 << min(config["attention"], default=0)
    reason = "its finest attention is at 16 pixels, as in every published network"
    return choices.choose("image_size", whole(1, 2**16, multiple=stride), usual, reason)


def _averaged(tensors: Mapping[str, Tensor], ema: object) -> tuple[dict[str, Tensor], bool]:
    """Return the averaged weights, or the weights of the state dict if there are none, and whether they are averaged."""
    if not isinstance(ema, Mapping) or not isinstance(ema.get("shadow_params"), list):
        return dict(tensors), False
    average, trained = ema["shadow_params"], [name for name in tensors if name not in UNTRAINED]
    if len(average) != len(trained):
        raise ValueError(f"the average has {len(average)} tensors, expected {len(trained)}, one per parameter of the model.")
    for name, value in zip(trained, average, strict=True):
        if not isinstance(value, Tensor) or value.shape != tensors[name].shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the average of {name} is {came}, expected {tuple(tensors[name].shape)}.")
    return {**tensors, **dict(zip(trained, average, strict=True))}, True


def _has_pyramids(config: Mapping[str, Any]) -> bool:
    return (config["progressive"], config["progressive_input"]) != ("none", "none")
