"""Table of the sampling methods, with a one-line summary of each. Importing it does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from invdiff.registry import Registry

if TYPE_CHECKING:
    from invdiff.methods.guidance.guidance import ConditionalDenoiser, Correction, Guidance, Transition
    from invdiff.methods.method import Method, Preset
    from invdiff.methods.particles.loop import ParticleMethod
    from invdiff.methods.samplers.sampler import Sampler
    from invdiff.methods.steps.rule import StepRule
    from invdiff.methods.steps.rules import RULES

__all__ = [
    "METHODS",
    "RULES",
    "ConditionalDenoiser",
    "Correction",
    "Guidance",
    "Method",
    "ParticleMethod",
    "Preset",
    "Sampler",
    "StepRule",
    "Transition",
]

# name: (location of its METHOD, one-line summary)
LINES = {
    "mmps": (
        "invdiff.methods.guidance.mmps:METHOD",
        "Gaussian guidance with the denoiser's own covariance; exact for every Gaussian prior",
    ),
    "exact-score": (
        "invdiff.methods.guidance.exact_score:METHOD",
        "exact posterior mean in one call of a prior that denoises anisotropic noise; no gradient, no solve",
    ),
    "handover": (
        "invdiff.methods.guidance.handover:METHOD",
        "exact-score at high noise levels, mmps at low ones; the default for photographs",
    ),
    "ot-ode": (
        "invdiff.methods.guidance.ot_ode:METHOD",
        "pseudoinverse guidance of a flow, started near the measurement; one solve and one gradient per step",
    ),
    "flow-dps": (
        "invdiff.methods.guidance.flow_dps:METHOD",
        "for flows: the denoised image moves toward the data, noise is partly fresh; no gradients, not calibrated",
    ),
    "flower": (
        "invdiff.methods.guidance.flower:METHOD",
        "for flows: a proximal step toward the data after every denoising, then fresh noise; no gradients",
    ),
    "pnp-flow": (
        "invdiff.methods.samplers.pnp_flow:METHOD",
        "for flows: point estimate by steps toward the data, noising and denoising; no gradients of the network",
    ),
    "mm-tsmc": (
        "invdiff.methods.particles.mm_tsmc:METHOD",
        "moment-matched particles: correct modes with correct weights, for low-dimensional measurements",
    ),
    "pigdm": (
        "invdiff.methods.guidance.pigdm:METHOD",
        "Gaussian guidance with an isotropic covariance; one solve and one gradient per step",
    ),
    "dps": (
        "invdiff.methods.guidance.dps:METHOD",
        "gradient of the misfit after every step, as published; step size zeta must be tuned, not calibrated",
    ),
    "ddnm": (
        "invdiff.methods.guidance.ddnm:METHOD",
        "range-space component replaced after every denoising; exact data, no gradients, cannot choose the mode",
    ),
    "ddnm+": (
        "invdiff.methods.guidance.ddnm_plus:METHOD",
        "ddnm for noisy data, in the SVD basis; no gradients, under-dispersed",
    ),
    "ddrm": (
        "invdiff.methods.guidance.ddrm:METHOD",
        "restoration in the SVD basis in few steps; no gradients, under-dispersed",
    ),
    "diffpir": (
        "invdiff.methods.guidance.diffpir:METHOD",
        "proximal step toward the data after every denoising; no gradients, cannot choose the mode",
    ),
    "repaint": (
        "invdiff.methods.samplers.repaint:METHOD",
        "inpainting by replacement, with jumps back to more noise; exact data, thousands of evaluations",
    ),
    "ilvr": (
        "invdiff.methods.guidance.ilvr:METHOD",
        "measured components replaced by noised data after every step; exact data, no gradients",
    ),
    "snips": (
        "invdiff.methods.samplers.snips:METHOD",
        "annealed Langevin dynamics in the SVD basis; thousands of evaluations, no gradients",
    ),
    "dps-gaussian": (
        "invdiff.methods.guidance.dps_gaussian:METHOD",
        "DPS with the Gaussian likelihood it derives; no step size to tune, overweights the measurement",
    ),
    "sda": (
        "invdiff.methods.guidance.sda:METHOD",
        "Gaussian guidance with an isotropic covariance in measurement space; one gradient per step, any operator",
    ),
    "tmpd": (
        "invdiff.methods.guidance.tmpd:METHOD",
        "Gaussian guidance with the row sums of the denoiser's own covariance; two gradients per step",
    ),
    "lgd-mc": (
        "invdiff.methods.guidance.lgd_mc:METHOD",
        "likelihood averaged over draws around the denoised state; for low-dimensional measurements",
    ),
    "dmps": (
        "invdiff.methods.guidance.dmps:METHOD",
        "Gaussian guidance as if the prior were flat; no gradient of the network",
    ),
    "score-ald": (
        "invdiff.methods.guidance.score_ald:METHOD",
        "likelihood at the noisy state with annealed noise; no gradient of the network",
    ),
    "mcg": (
        "invdiff.methods.guidance.mcg:METHOD",
        "gradient of the misfit, then projection onto the noised measurement; for exact data",
    ),
    "langevin": (
        "invdiff.methods.samplers.langevin:METHOD",
        "annealed Langevin dynamics with a predictor; likelihood of score-ALD or SDA",
    ),
    "psld": (
        "invdiff.methods.guidance.psld:METHOD",
        "for latent priors: dps, and a pull toward codes that encode their own image; step size must be tuned",
    ),
    "resample": (
        "invdiff.methods.samplers.resample:METHOD",
        "for latent priors: every few steps the code is fitted to the data and noised again; no gradient of the network",
    ),
    "latino": (
        "invdiff.methods.samplers.latino:METHOD",
        "for latent priors: noise, denoise, decode, proximal step, encode, in few steps; no gradients, not calibrated",
    ),
    "ding": (
        "invdiff.methods.guidance.ding:METHOD",
        "inpainting of images or of latent codes by Gaussian transitions; two evaluations per step, no gradients",
    ),
    "unconditional": (
        "invdiff.methods.guidance.unconditional:METHOD",
        "samples of the prior, ignoring the measurement: the control for comparisons",
    ),
    "daps": (
        "invdiff.methods.samplers.daps:METHOD",
        "denoise by ODE, draw given the measurement, add noise again; no gradients, cannot choose the mode",
    ),
    "pnp-dm": (
        "invdiff.methods.samplers.pnp_dm:METHOD",
        "split Gibbs: alternates likelihood and prior draws; no gradients, many evaluations",
    ),
    "red-diff": (
        "invdiff.methods.samplers.red_diff:METHOD",
        "point estimate by gradient descent, no posterior spread; no gradients of the network",
    ),
    "tds": (
        "invdiff.methods.particles.tds:METHOD",
        "particles guided by the gradient of a twist; exact for many particles, one gradient per step",
    ),
    "mcg-diff": (
        "invdiff.methods.particles.mcg_diff:METHOD",
        "particles guided in the SVD basis; exact for many particles, no gradients, low-dimensional measurements",
    ),
    "fps-smc": (
        "invdiff.methods.particles.fps:METHOD",
        "particles filter a diffused measurement in the SVD basis; no gradients, exact for noiseless data only",
    ),
}


def _adopt(name: str, thing: Any) -> Method:
    from invdiff.methods.method import adopt_method

    return adopt_method(name, thing, summary=LINES[name][1] if name in LINES else "")


METHODS: Registry[Method] = Registry("method", LINES, _adopt, group="invdiff.methods")

# Names that need torch are loaded on first use.
_PLACES = {
    "RULES": "invdiff.methods.steps.rules",
    "ConditionalDenoiser": "invdiff.methods.guidance.guidance",
    "Correction": "invdiff.methods.guidance.guidance",
    "Guidance": "invdiff.methods.guidance.guidance",
    "Method": "invdiff.methods.method",
    "ParticleMethod": "invdiff.methods.particles.loop",
    "Preset": "invdiff.methods.method",
    "Sampler": "invdiff.methods.samplers.sampler",
    "StepRule": "invdiff.methods.steps.rule",
    "Transition": "invdiff.methods.guidance.guidance",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'invdiff.methods' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
