"""Settings as published, per method and kind of measurement, with their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invdiff.operators import Blur, Downsample, LinearOperator, Mask, Operator

__all__ = ["PRESETS", "Preset", "kind_of", "preset_for"]


@dataclass(frozen=True)
class Preset:
    """Published settings of a method for one kind of measurement.

    Attributes:
        settings: Arguments of :class:`~invdiff.PosteriorSampler`.
        source: Where they are published, and what was changed.
    """

    settings: Mapping[str, Any]
    source: str


# Its lambda is that of the released code over 4: there sigma_y on [0, 1] is held against noise levels on [-1, 1].
_DIFFPIR = "of the released code of Zhu et al., 2023; its lambda over 4 (sigma_y on [0, 1], levels on [-1, 1]); log-SNR steps"

# method: {kind of measurement, or "any": preset}
PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "ddnm": {
        "any": Preset(
            {"steps": 100, "spacing": "vp", "eta": 0.85, "travel_repeats": 1},
            "Wang et al., 2023: steps as recalled, eta of the released scripts (evaluation.sh)",
        ),
    },
    "ddnm+": {
        "any": Preset(
            {"steps": 100, "spacing": "vp", "eta": 0.85},
            "Wang et al., 2023: steps as recalled, eta of the released scripts (evaluation.sh)",
        ),
    },
    "ddrm": {
        "any": Preset(
            {"steps": 20, "spacing": "vp", "eta": 0.85, "eta_b": 1.0},
            "Kawar et al., 2022: defaults of the released code (README.md)",
        ),
    },
    "diffpir": {
        "blur": Preset({"steps": 100, "lam": 0.25, "zeta": 0.1}, f"configs/deblur.yaml {_DIFFPIR}"),
        "downsample": Preset({"steps": 100, "lam": 0.25, "zeta": 0.1}, f"configs/sisr.yaml {_DIFFPIR}"),
        "mask": Preset({"steps": 20, "lam": 0.25, "zeta": 1.0}, f"configs/inpaint.yaml {_DIFFPIR}"),
    },
    "repaint": {
        "mask": Preset(
            {"steps": 250, "spacing": "vp", "jump_length": 10, "passes": 10},
            "Lugmayr et al., 2022: the released configurations (confs/face_example.yml)",
        ),
    },
    "ilvr": {
        "downsample": Preset(
            {"steps": 100, "spacing": "vp", "rule": "ddpm"},
            "Choi et al., 2021: the command of the released code (README.md); conditioned at every step, not at the first 80",
        ),
    },
    "snips": {
        "any": Preset(
            {"steps": 500, "spacing": "log-snr", "ratio_min": 0.02, "corrections": 5, "step": 0.033},
            "Kawar et al., 2021: configs/celeba.yml of the released code, with step_lr / sigma_end^2 = 0.033; sigma_end = 0.01 "
            "is doubled for images in [-1, 1]; sigma_begin is left to the schedule",
        ),
    },
    "dps": {
        "mask": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.5},
            "authors' code, inpainting (30 to 70 % missing); 256 x 256, sigma_y 0.05",
        ),
        "blur": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, Gaussian and motion deblurring (61 px); 256 x 256, sigma_y 0.05",
        ),
        "downsample": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, super-resolution x4; 256 x 256, sigma_y 0.05",
        ),
        "nonlinear": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, nonlinear deblurring; 256 x 256, sigma_y 0.05. Its phase retrieval has zeta 1",
        ),
    },
    "sda": {
        "any": Preset(
            {"steps": 256, "rule": "ddim", "gamma": 1e-2},
            "authors' code, Lorenz 1963, without its Langevin corrections; for data of unit variance and an operator that "
            "picks entries. The levels are those of this library",
        ),
    },
    "tmpd": {
        "any": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp"},
            "one ancestral step for each level of the network, as in the authors' code; 1000 levels as recalled",
        ),
    },
    "dmps": {
        "blur": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "weight": 1.75},
            "authors' code, scale 1.75 for Gaussian deblurring; 256 x 256, sigma_y 0.05; 1000 steps as recalled",
        ),
        "downsample": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "weight": 1.75},
            "authors' code, scale 1.75 for super-resolution x4; 256 x 256, sigma_y 0.05; 1000 steps as recalled",
        ),
    },
    "mcg": {
        "mask": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 1.0},
            "authors' code, inpainting: the gradient of the norm with weight 1; 256 x 256, exact data; 1000 steps as recalled",
        ),
    },
    "langevin": {
        "any": Preset(
            {"steps": 2311, "predictor": False, "corrections": 3, "tau": 0.0207, "gamma": 1.0},
            "authors' code of Jalal et al., brain MRI: 2311 geometric levels, step 9e-7 (sigma / 0.0066)^2. Its levels, from "
            "232 to 0.0066 in units of the 99 % quantile, are replaced by those of the prior",
        ),
    },
    "daps": {
        "any": Preset(
            {
                "steps": 200,
                "spacing": "karras",
                "ratio_max": 100.0,
                "ratio_min": 0.1,
                "ode_steps": 5,
                "langevin_steps": 100,
                "tau": 0.01,
            },
            "Zhang et al., 2025: the released configurations (configs/sampler/edm_daps.yaml, configs/task); step sizes are "
            "adapted, and linear operators need none",
        ),
    },
    "pnp-dm": {
        # rho = 10 * 0.9**k, of which the grid is the whole sequence and rho_min the floor.
        kind: Preset(
            {"steps": 100, "ratio_max": 10.0, "ratio_min": 10 * 0.9**99, "prior_steps": 100, "rho_min": rho_min},
            "Wu et al., 2024: the annealing of the paper, as recalled, and the prior's steps of the released "
            "configs/sampler/pnp_edm.yaml; of every chain the last of 100 sweeps, where the paper takes 20 after 40",
        )
        for kind, rho_min in (("blur", 0.3), ("downsample", 0.3), ("nonlinear", 0.1))
    },
    "red-diff": {
        "any": Preset(
            {"steps": 100, "spacing": "vp", "weight": 0.25, "power": 1.0, "lr": 0.1},
            "Mardani et al., 2024: the released _configs/algo/reddiff.yaml; steps as recalled (1000 in the paper)",
        ),
    },
    "tds": {
        "any": Preset({"steps": 100, "particles": 64, "widening": 1.0}, "Wu et al., 2023: steps and particles as recalled"),
    },
    "mcg-diff": {
        "any": Preset(
            {"steps": 100, "particles": 64, "kappa": 1e-4},
            "Cardoso et al., 2024: kappa of the released particle_filter.py; steps and particles as recalled",
        ),
    },
    "fps-smc": {
        "any": Preset(
            {"steps": 1000, "spacing": "vp", "particles": 5},
            "Dou & Song, 2024: README.md and configs/diffusion_config.yaml of the released code",
        ),
    },
}


def kind_of(op: Operator) -> str:
    """Return the kind of measurement that papers tabulate: mask, blur, downsample, nonlinear, or other."""
    if op.items is not None:
        found = sorted({kind_of(one) for one in op.distinct})
        return found[0] if len(found) == 1 else "other"
    kinds = {"mask": Mask, "blur": Blur, "downsample": Downsample}
    found = [name for name, cls in kinds.items() if isinstance(op, cls)]
    return found[0] if found else "other" if isinstance(op, LinearOperator) else "nonlinear"


def preset_for(preset: str, method: str, op: Operator) -> Preset:
    """Return the published settings of ``method`` for a measurement like ``op``.

    Raises:
        ValueError: If there are none; the error says for which kinds there are.
    """
    if preset != "paper":
        raise ValueError(f"Unknown preset {preset!r}, expected 'paper'.")
    known, kind = PRESETS.get(method, {}), kind_of(op)
    if kind not in known and "any" not in known:
        there_is = f"for {', '.join(known)} only, not for {kind} ({type(op).__name__})" if known else "for nothing"
        raise ValueError(f"preset='paper': there are published settings of {method!r} {there_is}. Leave the preset out.")
    return known.get(kind, known.get("any", Preset({}, "")))
