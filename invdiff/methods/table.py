"""The table of methods: for each name, which algorithm runs with which step rule over which grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from invdiff.methods.guidance import (
    DDNM,
    DDRM,
    DMPS,
    DPS,
    ILVR,
    LGDMC,
    MCG,
    MMPS,
    SDA,
    TMPD,
    DDNMPlus,
    DiffPIR,
    DPSGaussian,
    ExactScore,
    Guidance,
    Handover,
    PiGDM,
    ScoreALD,
    Unconditional,
)
from invdiff.methods.guidance.base import StepRule
from invdiff.methods.particles import FPS, MMTSMC, TDS, MCGdiff, ParticleMethod
from invdiff.methods.samplers import DAPS, SNIPS, Langevin, PnPDM, REDdiff, RePaint, Sampler
from invdiff.methods.steps import DDIM, Heun, Matched

__all__ = ["METHODS", "RULES", "Method"]

RULES: Mapping[str, StepRule] = {"ddpm": DDIM(eta=1.0), "ddim": DDIM(eta=0.0), "heun": Heun(), "matched": Matched()}


@dataclass(frozen=True)
class Method:
    """A posterior sampler, fully specified but for the problem.

    Attributes:
        name: What ``post.method`` reports.
        algorithm: Called as ``algorithm(score, op, y, **options)``: a guidance, which a step rule follows, or a sampler or
            particle method, which has a loop of its own.
        rule: A name of ``RULES`` or a step rule. Nothing: the algorithm's own step or loop.
        steps: Steps unless told otherwise.
        spacing: Grid, see :func:`invdiff.schedules.time_grid`.
        ratio_max: Noise-to-signal ratio to start from. Default: the schedule's largest.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: chosen from the noise of the measurement.
        options: Options of the algorithm.
        summary: One line for the list of methods.
        paper: Where it comes from.
    """

    name: str
    algorithm: type[Guidance] | type[Sampler] | type[ParticleMethod]
    rule: str | StepRule | None = None
    steps: int = 100
    spacing: str = "log-snr"
    ratio_max: float | None = None
    ratio_min: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    paper: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """What the algorithm requires of a measurement, keys of :data:`invdiff.methods.requirements.NEEDS`."""
        return self.algorithm.needs

    @property
    def one_operator(self) -> bool:
        """Whether items that have operators of their own are run one after the other."""
        return self.algorithm.one_operator

    @property
    def starts_high(self) -> bool:
        """Whether it starts from the largest noise level of a network rather than from one that suits photographs."""
        return issubclass(self.algorithm, Guidance) and self.algorithm.starts_high

    @property
    def follows_rules(self) -> bool:
        """Whether it can be run with a step rule."""
        return issubclass(self.algorithm, Guidance) and self.algorithm.follows_rules


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "mmps",
            MMPS,
            rule="matched",
            steps=50,
            summary="Gaussian guidance with the denoiser's own covariance; exact for every Gaussian prior",
            paper="Rozet et al., 2024, arXiv 2405.13712",
        ),
        Method(
            "exact-score",
            ExactScore,
            rule="ddpm",
            steps=32,
            summary="one call a step of a prior that denoises state and measurement together; exact, no gradient, no solve",
            paper="Mammadov et al., 2026, arXiv 2606.17048",
        ),
        Method(
            "handover",
            Handover,
            rule="ddpm",
            steps=32,
            summary="exact-score while there is much noise, mmps below: what photographs are solved by",
            paper="own; docs/methods.md",
        ),
        Method(
            "mm-tsmc",
            MMTSMC,
            summary="particles with matched moments: finds the right modes with the right weights, for few measured numbers",
            paper="own; docs/methods.md",
        ),
        Method(
            "pigdm",
            PiGDM,
            rule="ddpm",
            summary="Gaussian guidance with an isotropic covariance; one solve and one gradient a step",
            paper="Song et al., 2023, ICLR",
        ),
        Method(
            "dps",
            DPS,
            rule="ddpm",
            steps=1000,
            spacing="vp",
            summary="gradient of the misfit after every step, as published; step size zeta to be tuned, not calibrated",
            paper="Chung et al., 2023, arXiv 2209.14687",
        ),
        Method(
            "ddnm",
            DDNM,
            spacing="vp",
            summary="what is measured is put in after every denoising; exact data, no gradients, cannot choose the mode",
            paper="Wang et al., 2023, arXiv 2212.00490",
        ),
        Method(
            "ddnm+",
            DDNMPlus,
            spacing="vp",
            summary="ddnm for noisy data, by singular values; no gradients, under-dispersed",
            paper="Wang et al., 2023, arXiv 2212.00490",
        ),
        Method(
            "ddrm",
            DDRM,
            steps=20,
            spacing="vp",
            summary="restoration by singular values in few steps; no gradients, under-dispersed",
            paper="Kawar et al., 2022, arXiv 2201.11793",
        ),
        Method(
            "diffpir",
            DiffPIR,
            summary="a proximal step towards the data after every denoising; no gradients, cannot choose the mode",
            paper="Zhu et al., 2023, arXiv 2305.08995",
        ),
        Method(
            "repaint",
            RePaint,
            steps=250,
            spacing="vp",
            summary="inpainting by replacement, with jumps back to more noise; exact data, thousands of evaluations",
            paper="Lugmayr et al., 2022, arXiv 2201.09865",
        ),
        Method(
            "ilvr",
            ILVR,
            rule="ddpm",
            spacing="vp",
            summary="what is measured is replaced after every step; exact data, no gradients",
            paper="Choi et al., 2021, arXiv 2108.02938",
        ),
        Method(
            "snips",
            SNIPS,
            steps=500,
            summary="annealed Langevin dynamics by singular values; thousands of evaluations, no gradients",
            paper="Kawar et al., 2021, arXiv 2105.14951",
        ),
        Method(
            "dps-gaussian",
            DPSGaussian,
            rule="ddpm",
            steps=1000,
            summary="DPS with the Gaussian likelihood it derives: no step size to tune, trusts the measurement too much",
            paper="Chung et al., 2023, arXiv 2209.14687",
        ),
        Method(
            "sda",
            SDA,
            rule="ddim",
            summary="Gaussian guidance with an isotropic covariance of the measurement; one gradient a step, any operator",
            paper="Rozet & Louppe, 2023, arXiv 2306.10574",
        ),
        Method(
            "tmpd",
            TMPD,
            rule="ddpm",
            summary="Gaussian guidance with the row sums of the denoiser's own covariance; two gradients a step",
            paper="Boys et al., 2023, arXiv 2310.06721",
        ),
        Method(
            "lgd-mc",
            LGDMC,
            rule="ddpm",
            summary="likelihood averaged over draws around the denoised state; for few measured numbers",
            paper="Song et al., 2023, ICML",
        ),
        Method(
            "dmps",
            DMPS,
            rule="ddpm",
            summary="Gaussian guidance as if the prior were flat; no gradient of the network",
            paper="Meng & Kabashima, 2022, arXiv 2211.12343",
        ),
        Method(
            "score-ald",
            ScoreALD,
            rule="ddpm",
            summary="likelihood at the noisy state with annealed noise; no gradient of the network",
            paper="Jalal et al., 2021, arXiv 2108.01368",
        ),
        Method(
            "mcg",
            MCG,
            rule="ddpm",
            steps=1000,
            spacing="vp",
            summary="gradient of the misfit, then projection onto the noised measurement; for exact data",
            paper="Chung et al., 2022, arXiv 2206.00941",
        ),
        Method(
            "langevin",
            Langevin,
            steps=200,
            summary="annealed Langevin dynamics with a predictor; likelihood of score-ALD or SDA",
            paper="Jalal et al., 2021, arXiv 2108.01368; Rozet & Louppe, 2023, arXiv 2306.10574",
        ),
        Method(
            "unconditional",
            Unconditional,
            rule="heun",
            steps=50,
            summary="the prior alone, which ignores the measurement: the control of every comparison",
            paper="Song et al., 2021, arXiv 2010.02502",
        ),
        Method(
            "daps",
            DAPS,
            steps=200,
            spacing="karras",
            summary="denoise all the way, draw given the measurement, noise again; no gradients, cannot choose the mode",
            paper="Zhang et al., 2025, arXiv 2407.01521",
        ),
        Method(
            "pnp-dm",
            PnPDM,
            summary="split Gibbs: draws given the measurement and draws of the prior in turn; no gradients, many evaluations",
            paper="Wu et al., 2024, arXiv 2405.18782",
        ),
        Method(
            "red-diff",
            REDdiff,
            spacing="vp",
            summary="one point estimate by gradient descent, no spread; no gradients of the network",
            paper="Mardani et al., 2024, arXiv 2305.04391",
        ),
        Method(
            "tds",
            TDS,
            summary="particles steered by the gradient of a twist; exact as particles grow, one gradient a step",
            paper="Wu et al., 2023, arXiv 2306.17775",
        ),
        Method(
            "mcg-diff",
            MCGdiff,
            summary="particles steered by singular values; exact as particles grow, no gradients, for few measured numbers",
            paper="Cardoso et al., 2024, arXiv 2308.07983",
        ),
        Method(
            "fps-smc",
            FPS,
            summary="particles filter a diffused measurement, by singular values; no gradients, exact for exact data only",
            paper="Dou & Song, 2024, ICLR",
        ),
    )
}
