"""Recommended settings of a sampler for a prior and a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from invdiff.methods import METHODS
from invdiff.methods.guidance.exact_score import fits
from invdiff.methods.method import Method
from invdiff.operators import Blur, FanBeamCT, JPEGCoefficients, LinearOperator, Operator, ParallelBeamCT, VaryingBlur, whiten
from invdiff.operators.noise.joined import JoinedNoise
from invdiff.priors import ScoreModel

__all__ = ["QUALITIES", "is_photographic", "method_of", "recommended", "recommended_chain", "starting_ratio"]

QUALITIES = ("fast", "balanced", "best")
SETTINGS = ("rule", "steps", "ratio_max", "ratio_min")  # of a method; all others are options of its algorithm

START = 10.0  # Noise-to-signal ratio from which gradients are followed: at higher ones that of a network is mostly error.
# The first noise level is so high that the state has no information yet, not even about the mean color of a large hole.
HANDOVER: Mapping[str, Any] = {"method": "handover", "rule": "matched", "steps": 20, "ratio_max": 80.0, "products": 1}
# The measurement leaves white noise, which is what every prior was trained to remove.
EXACT: Mapping[str, Any] = {"method": "exact-score", "rule": "matched", "steps": 16, "ratio_max": START, "ratio_min": 0.01}
# No gradients, and no measured error needed.
FAST: Mapping[str, Any] = {"method": "exact-score", "rule": "ddpm", "steps": 20, "ratio_max": 80.0, "ratio_min": 0.01}


def photographs(*, max_iterations: int, products: int = 1, steps: int = 16) -> Mapping[str, Any]:
    """Return settings of ``mmps`` that work well for photographs; docs/methods.md has the figures.

    Args:
        max_iterations: GMRES iterations per step, for a prior without a measured error.
        products: Vector-Jacobian products of the network per step, for a prior with a measured error.
        steps: Steps of the reverse diffusion.
    """
    options = {"max_iterations": max_iterations, "root_iterations": 2, "products": products}
    return {"method": "mmps", "rule": "matched", "steps": steps, "ratio_max": START, **options}


# The more the singular values of a measurement differ, the more iterations its solve takes.
KINDS: tuple[tuple[tuple[type[Operator], ...], Mapping[str, Any]], ...] = (
    ((ParallelBeamCT, FanBeamCT), photographs(max_iterations=16, products=2)),
    ((JPEGCoefficients,), photographs(max_iterations=6, products=2, steps=13)),
    ((Blur, VaryingBlur), photographs(max_iterations=6)),
)
OTHERS = photographs(max_iterations=4)
# Total variation beside data: weights that differ by orders of magnitude, without a preconditioner.
MIXED = photographs(max_iterations=20)


def recommended(score: ScoreModel, op: Operator, quality: str = "balanced") -> Mapping[str, Any]:
    """Return the arguments of :class:`~invdiff.PosteriorSampler` that are recommended for a prior and a measurement.

    For images under a prior that was :attr:`learned <invdiff.priors.ScoreModel.learned>`:

    ======== ===================================================================================================================
    quality  method and settings
    ======== ===================================================================================================================
    fast     ``exact-score`` with 20 DDPM steps, if the prior can denoise the noise that the measurement leaves and no value is
             missing: no gradients, but samples with too little spread; otherwise half the steps of ``balanced``
    balanced ``handover``, if the prior can denoise the noise that the measurement leaves, has a measured error and no value is
             missing (``exact-score`` with matched draws if that noise is white); otherwise ``mmps`` with the number of
             iterations that the kind of measurement takes
    best     as ``balanced`` with three times the steps, and twice the products or iterations
    ======== ===================================================================================================================

    For all other priors, whose denoiser is taken to be exact, ``balanced`` is ``mmps`` (``handover``, if an error was measured)
    with 50 ``matched`` steps from the largest noise level, and the others are the same with half and three times the steps.

    Args:
        score: The prior.
        op: The measurement.
        quality: One of :data:`QUALITIES`.

    Raises:
        ValueError: If ``quality`` is not one of them.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}.")
    photographic, suits = is_photographic(score, op), fits(score, op)
    ours = recommended_chain(score, op)
    if quality == "fast" and photographic and suits:
        return _within(score, FAST)
    if score.error_model is not None and suits:
        exact = {"method": "handover", "rule": "matched", "steps": METHODS["mmps"].steps}
        ours = exact if not photographic else _within(score, EXACT if _leaves_white(op) else HANDOVER)
    if quality == "balanced":
        return ours
    if quality == "fast":
        return {**ours, "steps": ours["steps"] // 2}
    more = {name: 2 * ours[name] for name in ("products", "max_iterations", "root_iterations") if name in ours}
    return {**ours, **more, "steps": 3 * ours["steps"]}


def recommended_chain(score: ScoreModel, op: Operator) -> Mapping[str, Any]:
    """Return the recommended arguments for ``mmps``, which takes every measurement, and whose options a user may give."""
    if not is_photographic(score, op):
        own = METHODS["mmps"]
        return {"method": "mmps", "rule": own.rule, "steps": own.steps}
    if isinstance(op.noise, JoinedNoise):
        return _within(score, MIXED)
    inside = tuple(_inside(op))
    kinds = (settings for classes, settings in KINDS if any(isinstance(one, classes) for one in inside))
    return _within(score, next(kinds, OTHERS))


def starting_ratio(score: ScoreModel, op: Operator, method: Method) -> float | None:
    """Return the noise-to-signal ratio from which a method, chosen by name, starts for images; ``None``: as for all items."""
    if not is_photographic(score, op) or method.ratio_max is not None or method.starts_high:
        return None
    return min(START, score.largest_ratio())


def is_photographic(score: ScoreModel, op: Operator) -> bool:
    """Return whether images ``(C, H, W)``, or volumes or clips of them, are measured, and their prior was learned."""
    return score.learned and len(op.in_shape) in (3, 4)


def method_of(settings: Mapping[str, Any]) -> Method:
    """Return the method that has the given arguments of :class:`~invdiff.PosteriorSampler` as its defaults."""
    given = {name: settings[name] for name in SETTINGS if name in settings}
    options = {name: value for name, value in settings.items() if name not in ("method", *SETTINGS)}
    return replace(METHODS[settings["method"]], **given, options=options)


def _within(score: ScoreModel, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings that start from a noise level for which the prior was made."""
    return {**settings, "ratio_max": min(settings["ratio_max"], score.largest_ratio())}


def _leaves_white(op: Operator) -> bool:
    """Return whether the measurement leaves the same uncertainty in all directions, so that the noise of pivots is white."""
    white = whiten(op)
    if not isinstance(white, LinearOperator) or white.svd is None:
        return False
    least, largest = white.svd.singular.aminmax()
    return bool(0 < least == largest)


def _inside(op: Operator) -> Iterator[Operator]:
    """Yield an operator and all those it is made of."""
    yield op
    parts = getattr(op, "parts", None) or [getattr(op, "op", None)]
    for part in parts:
        if isinstance(part, Operator):
            yield from _inside(part)
