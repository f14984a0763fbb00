"""Sampling methods: one line for each, which needs no torch, and the rooms they are in."""

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

# name: (where its METHOD is, what it is)
LINES = {
    "mmps": (
        "invdiff.methods.guidance.mmps:METHOD",
        "Gaussian guidance with the denoiser's own covariance; exact for every Gaussian prior",
    ),
    "exact-score": (
        "invdiff.methods.guidance.exact_score:METHOD",
        "one call a step of a prior that denoises state and measurement together; exact, no gradient, no solve",
    ),
    "handover": (
        "invdiff.methods.guidance.handover:METHOD",
        "exact-score while there is much noise, mmps below: what photographs are solved by",
    ),
    "mm-tsmc": (
        "invdiff.methods.particles.mm_tsmc:METHOD",
        "particles with matched moments: finds the right modes with the right weights, for few measured numbers",
    ),
    "pigdm": (
        "invdiff.methods.guidance.pigdm:METHOD",
        "Gaussian guidance with an isotropic covariance; one solve and one gradient a step",
    ),
    "dps": (
        "invdiff.methods.guidance.dps:METHOD",
        "gradient of the misfit after every step, as published; step size zeta to be tuned, not calibrated",
    ),
    "ddnm": (
        "invdiff.methods.guidance.ddnm:METHOD",
        "what is measured is put in after every denoising; exact data, no gradients, cannot choose the mode",
    ),
    "ddnm+": (
        "invdiff.methods.guidance.ddnm_plus:METHOD",
        "ddnm for noisy data, by singular values; no gradients, under-dispersed",
    ),
    "ddrm": (
        "invdiff.methods.guidance.ddrm:METHOD",
        "restoration by singular values in few steps; no gradients, under-dispersed",
    ),
    "diffpir": (
        "invdiff.methods.guidance.diffpir:METHOD",
        "a proximal step towards the data after every denoising; no gradients, cannot choose the mode",
    ),
    "repaint": (
        "invdiff.methods.samplers.repaint:METHOD",
        "inpainting by replacement, with jumps back to more noise; exact data, thousands of evaluations",
    ),
    "ilvr": (
        "invdiff.methods.guidance.ilvr:METHOD",
        "what is measured is replaced after every step; exact data, no gradients",
    ),
    "snips": (
        "invdiff.methods.samplers.snips:METHOD",
        "annealed Langevin dynamics by singular values; thousands of evaluations, no gradients",
    ),
    "dps-gaussian": (
        "invdiff.methods.guidance.dps_gaussian:METHOD",
        "DPS with the Gaussian likelihood it derives: no step size to tune, trusts the measurement too much",
    ),
    "sda": (
        "invdiff.methods.guidance.sda:METHOD",
        "Gaussian guidance with an isotropic covariance of the measurement; one gradient a step, any operator",
    ),
    "tmpd": (
        "invdiff.methods.guidance.tmpd:METHOD",
        "Gaussian guidance with the row sums of the denoiser's own covariance; two gradients a step",
    ),
    "lgd-mc": (
        "invdiff.methods.guidance.lgd_mc:METHOD",
        "likelihood averaged over draws around the denoised state; for few measured numbers",
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
    "unconditional": (
        "invdiff.methods.guidance.unconditional:METHOD",
        "the prior alone, which ignores the measurement: the control of every comparison",
    ),
    "daps": (
        "invdiff.methods.samplers.daps:METHOD",
        "denoise all the way, draw given the measurement, noise again; no gradients, cannot choose the mode",
    ),
    "pnp-dm": (
        "invdiff.methods.samplers.pnp_dm:METHOD",
        "split Gibbs: draws given the measurement and draws of the prior in turn; no gradients, many evaluations",
    ),
    "red-diff": (
        "invdiff.methods.samplers.red_diff:METHOD",
        "one point estimate by gradient descent, no spread; no gradients of the network",
    ),
    "tds": (
        "invdiff.methods.particles.tds:METHOD",
        "particles steered by the gradient of a twist; exact as particles grow, one gradient a step",
    ),
    "mcg-diff": (
        "invdiff.methods.particles.mcg_diff:METHOD",
        "particles steered by singular values; exact as particles grow, no gradients, for few measured numbers",
    ),
    "fps-smc": (
        "invdiff.methods.particles.fps:METHOD",
        "particles filter a diffused measurement, by singular values; no gradients, exact for exact data only",
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
