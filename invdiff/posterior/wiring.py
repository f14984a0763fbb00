r"""Whether a network was wrapped with the right schedule, time and output: judged by its own samples.

A denoiser that returns :math:`\hat x_0 = E[x_0 | x_t]` leaves an error that is uncorrelated with what it returns. So with the
noise that it finds, :math:`\hat\varepsilon = (x_t / \alpha_t - \hat x_0) / \varsigma_t`, at every noise level

.. math:: E \lVert \hat x_0 - x_0 \rVert^2 + \varsigma_t^2\, E \lVert \hat\varepsilon \rVert^2 = \varsigma_t^2 \dim x

for any prior. Here :math:`x_0` is drawn from the prior itself, in a few steps. A network that is told a wrong noise level, or
whose output is taken for something else, has a larger sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from invdiff.methods.steps import DDIM, sample_prior
from invdiff.priors import NetworkPrior, ScoreModel
from invdiff.priors.trial import inner_prior, network_of, small_shape
from invdiff.trial import in_own_modes

__all__ = ["doubts_about"]

STEPS = 10
HIGHEST, LOWEST = 80.0, 0.02  # Noise-to-signal ratios between which the samples are drawn.
LEVELS = (0.02, 0.1, 0.5, 2.0)  # Noise-to-signal ratios of the test.
EXCESS = 1.2  # Largest sum relative to the right one. The bundled prior reaches 1.05, exact denoisers 1.09: the steps are few.
FLATTEST = 0.04  # Smallest standard deviation of a picture.
NUMBERS, ITEMS = 1024, 256  # Entries to average over, at the least, and items at the most.
SMALLEST = 16  # Shortest side of what is taken for an image, in pixels.

_judged: WeakKeyDictionary[ScoreModel, str] = WeakKeyDictionary()


def doubts_about(score: ScoreModel, shape: Sequence[int]) -> str:
    """Return why a wrapped network seems to be wired wrongly, in words; an empty string if it does not, or is no network.

    An untrained network fails as a wrongly wired one does, so this is a doubt and no error. It costs 15 evaluations of one item
    (more of items with fewer than 1,024 entries), once for each prior.

    Args:
        score: The prior.
        shape: Shape of the items at hand, for axes along which the prior takes any size.
    """
    score = inner_prior(score)
    network = network_of(score)
    if not (isinstance(network, NetworkPrior) and network.of_user):
        return ""
    if score not in _judged:
        device = next((weight.device for weight in network.weights), torch.device("cpu"))
        with in_own_modes(quiet=True), torch.no_grad():
            _judged[score] = _judge(score, small_shape(score, tuple(shape)), device)
    return _judged[score]


def _judge(score: ScoreModel, shape: tuple[int, ...], device: torch.device) -> str:
    low, high = (float(score.schedule.ratio(t)) for t in (score.schedule.t_min, score.schedule.t_max))
    low, high = max(low, LOWEST), min(high, HIGHEST)
    if not low < high / 4:
        return ""
    items = min(ITEMS, -(-NUMBERS // torch.Size(shape).numel()))
    x_0 = sample_prior(score, shape, items, seed=0, steps=STEPS, rule=DDIM(0.0), ratio_min=low, ratio_max=high, device=device)
    sums = [_relative_sum(score, x_0, level) for level in LEVELS if low <= level <= high]
    worst = max(sums, default=1.0)
    finding = ""
    if not all(map(math.isfinite, sums)):
        finding = "samples of its own are not finite"
    elif worst > EXCESS:
        finding = (
            "on samples of its own, its error and the noise it finds have together "
            f"{worst:.3g} times the power of the noise, where a right denoiser has 1"
        )
    elif _is_picture(x_0) and float(x_0.std()) < FLATTEST:
        finding = f"a sample of its own is nearly constant, with a standard deviation of {float(x_0.std()):.2g}"
    if finding:
        return (
            f"from_network: the network seems to be wired wrongly: {finding}. Check predicts, the schedule and time: that of "
            "VP ends at 1, that of DiscreteBetas is the index already. An untrained network does the same."
        )
    return _range(score, x_0, high)


def _relative_sum(score: ScoreModel, x_0: Tensor, ratio: float) -> float:
    t = score.schedule.time(ratio)
    alpha_t, sigma_t = score.levels(t, x_0)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=x_0.dtype, device="cpu").to(x_0)
    x_t = alpha_t * x_0 + sigma_t * noise
    x0_hat = score.denoise(x_t, t)
    error, found = (x0_hat - x_0) / ratio, (x_t / alpha_t - x0_hat) / ratio
    return float(error.square().mean() + found.square().mean())


def _is_picture(x_0: Tensor) -> bool:
    return x_0.ndim == 4 and x_0.shape[1] in (1, 3) and min(x_0.shape[2:]) >= SMALLEST


def _range(score: ScoreModel, x_0: Tensor, high: float) -> str:
    """Return the doubt that a network was trained on images in [0, 1]."""
    if not _is_picture(x_0):
        return ""
    mean, least, most = (float(v) for v in (score.denoise(0 * x_0, score.schedule.time(high)).mean(), *x_0.aminmax()))
    if not (0.05 < mean < 0.8 and least > -0.1 and most < 1.2 and most - least > 0.1):
        return ""
    return (
        f"from_network: the network seems to be trained on images in [0, 1]: a sample of it spans {least:.2f} to {most:.2f}, "
        f"around a mean of {mean:.2f}. Images span [-1, 1] here: wrap the prior by priors.Rescaled(prior, (0, 1))."
    )
