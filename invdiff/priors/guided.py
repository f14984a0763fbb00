"""The options of guidance, as ``load_prior`` and the command line take them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from invdiff.priors.adapters.thresholded import Thresholded
from invdiff.priors.classifier_free import ClassifierFree
from invdiff.priors.labels import ConditionedNetwork
from invdiff.priors.network import NetworkPrior
from invdiff.priors.score_model import ScoreModel
from invdiff.priors.spec import NetworkSpec

__all__ = ["GUIDANCE", "combined", "guided", "split_options", "thresholded"]

WITHOUT_LABEL = ("SongUNet", "DhariwalUNet")  # architectures that can be evaluated without a label

GUIDANCE: Mapping[str, str] = {
    "guidance_scale": "scale of classifier-free guidance: 1 is the conditional prior, more follows the condition more closely",
    "null_label": "label that stands for no class in the training of the network, or none",
    "unconditional": "checkpoint of the unconditional prior, for networks without such a label",
    "guidance_interval": "noise-to-signal ratios between which guidance acts, such as 0.2,3",
    "guidance_rescale": "share, from 0 to 1, of an estimate rescaled to the contrast of the conditional one",
    "threshold": "static, which clips denoised images to [-1, 1], or the quantile of dynamic thresholding, such as 0.995",
}


def split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of guidance, and the others.

    Raises:
        ValueError: If an option of guidance is given without a scale, or without an unconditional prior to start from.
    """
    ours = {name: value for name, value in given.items() if name in GUIDANCE and value is not None}
    others = {name: value for name, value in given.items() if name not in GUIDANCE}
    needed = [name for name in ours if name not in ("guidance_scale", "threshold")]
    if needed and "guidance_scale" not in ours:
        raise ValueError(f"load_prior: {needed[0]} is an option of guidance: give a guidance_scale too, such as 2.")
    if "guidance_scale" in ours and ("null_label" in ours) == ("unconditional" in ours):
        raise ValueError(
            "load_prior: guidance needs an unconditional prior: either the label that stood for no class in the training, "
            "null_label=1000 or null_label=none, or another checkpoint, unconditional=FILE."
        )
    return ours, others


def guided(prior: NetworkPrior, spec: NetworkSpec, options: Mapping[str, Any], unconditional: ScoreModel | None) -> ScoreModel:
    """Return the prior with guidance and thresholding.

    Args:
        prior: The conditional prior.
        spec: What its network is.
        options: Options of :data:`GUIDANCE`, as numbers or as text.
        unconditional: The unconditional prior. ``None``: that of the network with its ``null_label``.

    Raises:
        ValueError: If an option is out of its range, or does not suit the network.
    """
    score: ScoreModel = prior
    if "guidance_scale" in options:
        other = _without(prior, spec, options["null_label"]) if unconditional is None else unconditional
        score = combined(prior, other, options)
    return score if options.get("threshold") is None else thresholded(score, options["threshold"])


def combined(prior: ScoreModel, other: ScoreModel, options: Mapping[str, Any]) -> ClassifierFree:
    """Return the prior guided away from another one, by the options ``guidance_...`` of :data:`GUIDANCE`.

    Raises:
        ValueError: If an option is out of its range.
    """
    interval = options.get("guidance_interval")
    return ClassifierFree(
        prior,
        other,
        scale=_number("guidance_scale", options["guidance_scale"]),
        interval=None if interval is None else _pair("guidance_interval", interval),
        rescale=_number("guidance_rescale", options.get("guidance_rescale", 0.0)),
    )


def thresholded(score: ScoreModel, threshold: Any) -> Thresholded:
    """Return the prior with the option ``threshold`` of :data:`GUIDANCE`.

    Raises:
        ValueError: If it is out of its range.
    """
    return Thresholded(score, None if threshold == "static" else _number("threshold", threshold, "or 'static'"))


def _without(prior: NetworkPrior, spec: NetworkSpec, given: Any) -> NetworkPrior:
    """Return the prior with the label that stands for no class."""
    net = prior.net
    if spec.label is None or not isinstance(net, ConditionedNetwork):
        raise ValueError("null_label: the network has no classes, or its label is none: there is nothing to guide it to.")
    none = str(given).strip().lower() == "none"
    if none and spec.architecture not in WITHOUT_LABEL:
        raise ValueError(
            f"null_label=none: networks of the kind {spec.architecture} need a label. Give the number that stood for no class."
        )
    label = None if none else int(_number("null_label", given, "or 'none'", whole=True))
    dataclasses.replace(spec, label=label)  # It must be a class of the network.
    other = prior.with_network(ConditionedNetwork(net.net, labels=(label,), unit_range=net.unit_range).eval())
    other.facts = {**prior.facts, "label": label}
    return other


def _number(name: str, value: Any, further: str = "", *, whole: bool = False) -> float:
    kind = " ".join(["a whole number" if whole else "a number", further]).strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool) or (whole and number != int(number)):
        raise ValueError(f"{name}={value!r:.80}: expected {kind}.")
    return number


def _pair(name: str, value: Any) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ValueError(f"{name}={value!r:.80}: expected two numbers, such as 0.2,3.")
    low, high = (_number(name, part) for part in parts)
    return low, high
