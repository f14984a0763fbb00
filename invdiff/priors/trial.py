"""Trials of networks and priors that users wrote: independent items, no randomness, gradients, finite results."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.adapters.rescaled import Rescaled
from invdiff.priors.adapters.slices import Slices
from invdiff.priors.adapters.tiled import Tiled
from invdiff.priors.network import NetworkPrior
from invdiff.priors.score_model import ScoreModel
from invdiff.trial import NotFiniteError, in_own_modes, try_map

__all__ = ["inner_prior", "is_of_user", "network_of", "small_shape", "try_prior"]

LEVEL = 0.5  # Noise-to-signal ratio of the trial, about the scale of images: there the network matters most.
STEP = 0.1  # of the difference that stands for the derivative, in units of the noise
TOLERANCE = 0.05  # Networks of the library are within 0.01, also in half precision; those of ReLU bend, which adds to it.
SIDE = 64  # Longest side of the trial of a network that takes any size, in pixels.

_tried: WeakKeyDictionary[ScoreModel, dict[tuple[tuple[int, ...], bool], str]] = WeakKeyDictionary()


def inner_prior(score: ScoreModel) -> ScoreModel:
    """Return the prior inside the adapters for size, channels and slices."""
    while isinstance(score, Gray | PerChannel | Slices | Tiled):
        score = score.score_model
    return score


def network_of(score: ScoreModel) -> ScoreModel:
    """Return the prior inside all adapters."""
    while isinstance(score := inner_prior(score), Rescaled):
        score = score.score_model
    return score


def is_of_user(score: ScoreModel) -> bool:
    """Return whether a prior runs code other than the library's own."""
    score = network_of(score)
    return score.of_user if isinstance(score, NetworkPrior) else not type(score).__module__.startswith("invdiff.")


def try_prior(score: ScoreModel, shape: Sequence[int], *, gradient: bool = True) -> str:
    """Try a prior on two random items. Return what is wrong with its gradient, in words; an empty string if nothing is.

    It costs six evaluations of one item without a gradient, and a third of them with one: see :func:`invdiff.trial.try_map`. A
    prior is tried once for each shape.

    Args:
        score: The prior; inside adapters for size and channels, the prior they adapt is tried.
        shape: Shape of the items at hand, for axes along which the prior takes any size.
        gradient: Whether to try the gradient.

    Raises:
        TypeError: If the result is not a real tensor.
        ValueError: If the prior mixes the items of a batch, is random, changes its argument, or returns values that are not
            finite or of another shape.
    """
    score = network_of(score)
    sizes = list(_sizes(score, tuple(shape)))
    known = _tried.setdefault(score, {})
    if (sizes[-1], gradient) in known:
        return known[sizes[-1], gradient]
    *small, full = sizes
    for size in small:
        with contextlib.suppress(RuntimeError):  # A network that takes any size may take none as small as this.
            known[full, gradient] = _try(score, size, gradient=gradient)
            return known[full, gradient]
    known[full, gradient] = _try(score, full, gradient=gradient)
    return known[full, gradient]


def _try(score: ScoreModel, shape: tuple[int, ...], *, gradient: bool) -> str:
    what = "from_network: the network" if isinstance(score, NetworkPrior) else f"{type(score).__name__}: denoise"
    weight = next((w for w in score.weights if w.is_floating_point()), None) if isinstance(score, NetworkPrior) else None
    t, points = _points(score, shape, weight)
    _, sigma_t = score.levels(t, points)
    denoise = _network_alone(score) if isinstance(score, NetworkPrior) else score.denoise

    def checked(x_t: Tensor) -> Tensor:
        output = denoise(x_t, t)
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape != x_t.shape:
            of = isinstance(output, Tensor)
            got = f"{tuple(output.shape)} in {output.dtype}" if of else type(output).__name__
            raise TypeError(f"{what} must return a real tensor of shape {tuple(x_t.shape)}, got {got}.")
        return output

    try:
        with in_own_modes(quiet=True):
            return try_map(what, checked, points, step=STEP * float(sigma_t), tolerance=TOLERANCE, gradient=gradient)
    except NotFiniteError as error:
        ratio = float(score.schedule.ratio(t))
        raise ValueError(
            f"{error} It was given noise of {ratio:.2g} times the scale of the image, in {points.dtype}. Half precision may "
            "need bfloat16 in place of float16; otherwise see its weights and its time."
        ) from None


def _network_alone(score: NetworkPrior) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the output of the network in ``denoise``, which has terms with a gradient of their own."""
    alone, outputs = copy.copy(score), list[Tensor]()

    def call(*arguments: Any) -> Tensor:
        outputs[:] = [score._call(*arguments)]
        return outputs[0]

    alone._call = call  # type: ignore[method-assign,assignment]

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        alone.denoise(x_t, t)
        return outputs.pop()

    return network


def _points(score: ScoreModel, shape: tuple[int, ...], weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a time, and noisy items at that time with a direction."""
    schedule, g = score.schedule, torch.Generator().manual_seed(0)
    low, high = (float(schedule.ratio(t)) for t in (schedule.t_min, schedule.t_max))
    t = schedule.time(LEVEL if 2 * low < LEVEL < high / 2 else math.sqrt(low * high))
    clean, noise = torch.randn(2, 4, *shape, generator=g, dtype=torch.float64, device="cpu")
    alpha_t, sigma_t = score.schedule(t)
    x_t = alpha_t * LEVEL * clean + sigma_t * noise
    x_t[3] = noise[3]
    dtype = torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32
    return t, x_t.to("cpu" if weight is None else weight.device, dtype)


def small_shape(score: ScoreModel, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a small item of the prior: its own shape, or sides of 64 pixels at most where it takes any size."""
    return next(_sizes(score, shape))


def _sizes(score: ScoreModel, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes to try: the prior's own; where it takes any size, first a small one."""
    event = score.event_shape
    if event is None or len(event) != len(shape):
        yield shape if event is None else tuple(SIDE if side is None else side for side in event)
        return
    network = network_of(score)
    stride = network.stride if isinstance(network, NetworkPrior) else 1
    side = -(-SIDE // stride) * stride
    small = tuple(
        own if own is not None else min(n, side) if axis or len(event) == 1 else n
        for axis, (own, n) in enumerate(zip(event, shape, strict=True))
    )
    full = tuple(n if own is None else own for own, n in zip(event, shape, strict=True))
    yield from dict.fromkeys((small, full))
