"""The table of methods: for each name, which guidance follows which step rule over which grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from invdiff.guidance import DPS, MMPS, Guidance, PiGDM
from invdiff.guidance.base import StepRule
from invdiff.samplers import DDIM, Heun

__all__ = ["METHODS", "RULES", "Method", "choose_method"]

RULES: Mapping[str, StepRule] = {"ddpm": DDIM(eta=1.0), "ddim": DDIM(eta=0.0), "heun": Heun()}


@dataclass(frozen=True)
class Method:
    """A posterior sampler, fully specified but for the problem.

    Attributes:
        name: What ``post.method`` reports.
        guidance: Called as ``guidance(score, op, y, **options)``.
        rule: A name of ``RULES`` or a step rule.
        steps: Steps unless told otherwise.
        spacing: Grid, see :func:`invdiff.schedules.time_grid`.
        options: Options of the guidance.
        needs_linear: Whether the operator must be linear.
        summary: One line for the list of methods.
        paper: Where it comes from.
    """

    name: str
    guidance: Callable[..., Guidance]
    rule: str | StepRule = "ddpm"
    steps: int = 100
    spacing: str = "log-snr"
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_linear: bool = False
    summary: str = ""
    paper: str = ""


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "mmps",
            MMPS,
            rule="heun",
            steps=50,
            summary="Gaussian guidance with the denoiser's own covariance; exact for every Gaussian prior",
            paper="Rozet et al., 2024, arXiv 2405.13712",
        ),
        Method(
            "pigdm",
            PiGDM,
            needs_linear=True,
            summary="Gaussian guidance with an isotropic covariance; one solve and one gradient a step",
            paper="Song et al., 2023, ICLR",
        ),
        Method(
            "dps",
            DPS,
            steps=1000,
            spacing="vp",
            summary="gradient of the misfit after every step, as published; step size zeta to be tuned, not calibrated",
            paper="Chung et al., 2023, arXiv 2209.14687",
        ),
    )
}


def choose_method(method: str | Method) -> Method:
    """Return the method of a name. ``"auto"`` is MMPS, for linear and nonlinear operators alike."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be a name or a Method, got {type(method).__name__}.")
    if method != "auto" and method not in METHODS:
        raise ValueError(f"Unknown method {method!r}, expected one of auto, {', '.join(METHODS)}, or a Method.")
    return METHODS["mmps" if method == "auto" else method]
