"""The training parameters in the scheduler of a diffusers folder: noise levels, times and the network's parametrization.

The schedulers themselves are samplers and are not run; only the entries that concern the network are read from their
configuration. Missing entries get the defaults of the scheduler's constructor, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from invdiff.priors.checkpoints.assumptions import Choices, one_of, positive, whole
from invdiff.priors.spec import SCHEDULES
from invdiff.schedules import Schedule

__all__ = ["OPTIONS", "Training", "read_scheduler"]

OPTIONS: Mapping[str, str] = {
    "schedule": "linear, scaled-linear or cosine: the table of betas",
    "steps": "number of training steps of the diffusion (1000)",
    "beta_start": "first beta of a linear or scaled-linear table",
    "beta_end": "last beta of a linear or scaled-linear table",
    "predicts": "eps, x0, v or velocity: output of the network; velocity implies a straight path if no schedule is given",
}

TABLES = {"linear": "linear-betas", "scaled-linear": "scaled-linear-betas", "cosine": "cosine-betas"}
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
PREDICTIONS = {
    "epsilon": "eps",
    "sample": "x0",
    "original_sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
PREDICTS = ("eps", "x0", "v", "velocity")
SILENT = "there is no scheduler_config.json"

DDPM_BETAS, LATENT_BETAS = (1e-4, 0.02), (0.00085, 0.012)
# Every scheduler over a table of betas, with the default ends of that table.
WITH_BETAS = {
    "DDIMInverseScheduler": DDPM_BETAS,
    "DDIMParallelScheduler": DDPM_BETAS,
    "DDIMScheduler": DDPM_BETAS,
    "DDPMParallelScheduler": DDPM_BETAS,
    "DDPMScheduler": DDPM_BETAS,
    "DEISMultistepScheduler": DDPM_BETAS,
    "DPMSolverMultistepInverseScheduler": DDPM_BETAS,
    "DPMSolverMultistepScheduler": DDPM_BETAS,
    "DPMSolverSDEScheduler": LATENT_BETAS,
    "DPMSolverSinglestepScheduler": DDPM_BETAS,
    "EulerAncestralDiscreteScheduler": DDPM_BETAS,
    "EulerDiscreteScheduler": DDPM_BETAS,
    "HeunDiscreteScheduler": LATENT_BETAS,
    "KDPM2AncestralDiscreteScheduler": LATENT_BETAS,
    "KDPM2DiscreteScheduler": LATENT_BETAS,
    "LMSDiscreteScheduler": DDPM_BETAS,
    "PNDMScheduler": DDPM_BETAS,
    "RePaintScheduler": DDPM_BETAS,
    "SASolverScheduler": DDPM_BETAS,
    "UniPCMultistepScheduler": DDPM_BETAS,
}
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
# Scale from the configured levels to data in [-1, 1], default smallest and largest level. ScoreSdeVe has data in [0, 1].
EXPLODING = {"KarrasVeScheduler": (1.0, 0.02, 100.0), "ScoreSdeVeScheduler": (2.0, 0.01, 1348.0)}


@dataclass(frozen=True)
class Training:
    """Training parameters of a network, as in :class:`~invdiff.priors.spec.NetworkSpec`.

    ``negated`` is the argument of :class:`~invdiff.priors.networks.unet2d.DiffusersUNet`.
    """

    predicts: str
    schedule: Mapping[str, Any]
    time_scale: float = 1.0
    sigma_data: float = 0.5
    unit_range: bool = False
    negated: bool = False
    assumed: Mapping[str, str] = field(default_factory=dict)


def read_scheduler(config: Mapping[str, Any] | None, given: Mapping[str, Any], *, where: str) -> Training:
    r"""Read the training parameters from ``scheduler_config.json``.

    ======================= ========================== ============================= =======================================
    scheduler               :math:`x_t`                time input of the network     network returns
    ======================= ========================== ============================= =======================================
    DDPM and all over betas variance preserving        the step                      by ``prediction_type``
    FlowMatch               :math:`(1-t) x_0 + t n`     ``num_train_timesteps * t``   :math:`n - x_0`
    EDM                     :math:`x_0 + \sigma n`      :math:`\tfrac14 \log \sigma`  :math:`F`, or :math:`-F` for v
    ScoreSdeVe, KarrasVe    :math:`x_0 + \sigma n`,     :math:`\sigma`, for data in   the score, for data in [0, 1]
                            for data in [0, 1]          [0, 1]
    ======================= ========================== ============================= =======================================

    With ``rescale_betas_zero_snr`` the last step is pure noise: its noise-to-signal ratio is infinite, which no time of a
    schedule here represents. The table therefore ends one step earlier; all other steps keep their levels.

    Args:
        config: The configuration. ``None``: there is none, so the linear DDPM table and noise prediction are assumed.
        given: Options by the names of :data:`OPTIONS`. They take precedence over ``config``.
        where: Name of the configuration in error messages.

    Raises:
        ValueError: If the scheduler is none of these, or its values or the options are invalid.
    """
    choices = Choices(given)
    try:
        training = _read(config or {}, choices, SILENT if config is None else None)
        _built(training.schedule)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return replace(training, assumed=choices.assumed)


def _read(config: Mapping[str, Any], choices: Choices, silent: str | None) -> Training:
    """Return the training parameters. If there is no configuration, ``silent`` is the reason recorded for assumptions."""
    name, given = str(config.get("_class_name")), choices.given
    if "schedule" not in given:
        if name in (*EDM, *EXPLODING):
            choices.refuse("steps", "beta_start", "beta_end", "predicts", reason=f"{name} determines it")
            return _edm(config) if name in EDM else _exploding(config)
        if name not in (*WITH_BETAS, *FLOW) and not silent:
            raise ValueError(
                f"its scheduler {name!r} is not supported. Expected a scheduler over betas (such as DDPMScheduler), or a "
                "FlowMatch, EDM, ScoreSdeVe or KarrasVe scheduler. Give the options schedule and predicts if you know them."
            )
    said = None if "predicts" in given else "velocity" if name in FLOW else _prediction(config)
    predicts = choices.choose("predicts", one_of(PREDICTS), said, silent)
    if "schedule" not in given and (predicts == "velocity" or name in FLOW):
        choices.refuse("beta_start", "beta_end", reason="a straight path has no betas")
        if config.get("invert_sigmas"):
            raise ValueError("invert_sigmas, where time runs from noise to data, is not supported.")
        return Training(predicts, {"name": "rectified-flow"}, time_scale=float(_steps(config, choices, silent)))
    if config.get("use_flow_sigmas"):
        raise ValueError("use_flow_sigmas requires prediction_type flow_prediction.")
    if config.get("timestep_type") == "continuous" and predicts == "v":
        raise ValueError("timestep_type 'continuous' is not supported, expected 'discrete'.")
    return Training(predicts, _betas(config, choices, silent))


def _betas(config: Mapping[str, Any], choices: Choices, silent: str | None) -> dict[str, Any]:
    """Return the schedule of a table of betas."""
    trained = config.get("trained_betas")
    if trained is not None and choices.given.keys().isdisjoint(("schedule", "steps", "beta_start", "beta_end")):
        if not isinstance(trained, list) or not trained:
            raise ValueError(f"trained_betas must be a list of numbers, got {str(trained)[:80]}.")
        schedule: dict[str, Any] = {"name": "betas", "betas": [positive("trained_betas", beta) for beta in trained]}
    else:
        if silent or "schedule" in choices.given:
            kind = choices.choose("schedule", one_of(TABLES), "linear", silent)
        else:
            kind = BETA_SCHEDULES[one_of(BETA_SCHEDULES)("beta_schedule", config.get("beta_schedule", "linear"))]
        steps = _steps(config, choices, silent)
        if kind == "cosine":
            choices.refuse("beta_start", "beta_end", reason="the cosine table does not use it")
            schedule = {"name": TABLES[kind], "steps": steps}
        else:
            ends = WITH_BETAS.get(str(config.get("_class_name")), LATENT_BETAS if kind == "scaled-linear" else DDPM_BETAS)
            start, end = (
                choices.choose(name, positive, config.get(name, default), silent)
                for name, default in zip(("beta_start", "beta_end"), ends, strict=True)
            )
            schedule = {"name": TABLES.get(kind, "betas"), "steps": steps, "beta_start": start, "beta_end": end}
            if kind == "sigmoid":
                shape = 1 / (1 + np.exp(-np.linspace(-6, 6, steps)))
                schedule = {"name": "betas", "betas": (start + (end - start) * shape).tolist()}
    if config.get("rescale_betas_zero_snr") and "schedule" not in choices.given:
        schedule = {"name": "betas", "betas": _rescaled(schedule)}
    return schedule


def _steps(config: Mapping[str, Any], choices: Choices, silent: str | None) -> int:
    return choices.choose("steps", whole(2, 100_000), config.get("num_train_timesteps", 1000), silent)


def _rescaled(schedule: Mapping[str, Any]) -> list[float]:
    r"""Return the betas after shifting :math:`\alpha` to reach 0 at the last step, without that step.

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023, https://arxiv.org/abs/2305.08891,
        algorithm 1
    """
    table = _built(schedule)
    alpha, _ = table(torch.arange(int(table.t_max) + 1))
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    kept = alpha[:-1] ** 2
    betas: list[float] = (1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])).tolist()
    return betas


def _built(schedule: Mapping[str, Any]) -> Schedule:
    arguments = dict(schedule)
    try:
        return SCHEDULES[arguments.pop("name")](**arguments)
    except ValueError as error:
        raise ValueError(f"its noise levels form no valid schedule ({error})") from error


def _edm(config: Mapping[str, Any]) -> Training:
    kind = str(config.get("prediction_type", "epsilon"))
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type {kind!r} of EDM is not supported, expected epsilon or v_prediction.")
    low, high, sigma_data = (
        positive(key, config.get(key, default))
        for key, default in {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}.items()
    )
    schedule = {"name": "edm", "sigma_min": low, "sigma_max": high}
    return Training("edm", schedule, sigma_data=sigma_data, negated=kind == "v_prediction")


def _exploding(config: Mapping[str, Any]) -> Training:
    scale, low, high = EXPLODING[config["_class_name"]]
    ends = {
        key: scale * positive(key, config.get(key, default)) for key, default in {"sigma_min": low, "sigma_max": high}.items()
    }
    return Training("score", {"name": "edm", **ends}, time_scale=0.5, unit_range=True)


def _prediction(config: Mapping[str, Any]) -> str:
    # Before prediction_type there was predict_epsilon; if false, the network returns the image.
    kind = str(config.get("prediction_type") or ("epsilon" if config.get("predict_epsilon", True) else "sample"))
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type {kind!r} is not supported, expected one of {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[kind]
