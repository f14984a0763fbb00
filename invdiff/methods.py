"""The table of methods: for each name, which guidance follows which step rule over which grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from invdiff.guidance import DPS, MMPS, Guidance, PiGDM
from invdiff.guidance.base import StepRule
from invdiff.operators import LinearOperator, Operator
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

    def check(self, op: Operator) -> None:
        """Raise ``ValueError`` if this method cannot take this measurement."""
        if self.needs_linear and not isinstance(op, LinearOperator):
            raise ValueError(
                f"method {self.name!r} needs a linear operator, got {type(op).__name__}. "
                "Use 'mmps' or 'dps' for nonlinear ones, or LinearFunction if the function is in fact linear."
            )


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
            spacing="uniform",
            summary="gradient of the misfit after every step, as published; step size zeta to be tuned, not calibrated",
            paper="Chung et al., 2023, arXiv 2209.14687",
        ),
    )
}


def choose_method(method: str | Method, op: Operator) -> Method:
    """Return the method of a name, with ``"auto"`` decided by the operator, checked against it.

    ``auto`` is MMPS for linear and nonlinear operators alike.
    """
    if isinstance(method, str) and method == "auto":
        chosen = METHODS["mmps"]
    elif isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"Unknown method {method!r}, expected one of auto, {', '.join(METHODS)}, or a Method.")
        chosen = METHODS[method]
    elif isinstance(method, Method):
        chosen = method
    else:
        raise TypeError(f"method must be a name or a Method, got {type(method).__name__}.")
    chosen.check(op)
    return chosen
