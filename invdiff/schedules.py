r"""Noise schedules: signal and noise levels as functions of time.

Every schedule is a path :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`, described by two functions: the pair
:math:`(\alpha_t, \sigma_t)` at a time, and the time at which the noise-to-signal ratio :math:`\varsigma = \sigma_t / \alpha_t`
reaches a given value. Dividing :math:`x_t` by :math:`\alpha_t` turns any schedule into the variance-exploding form with noise
level :math:`\varsigma_t`, so grids are laid out over :math:`\varsigma` and then converted to times.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EDM",
    "SPACINGS",
    "VE",
    "VP",
    "Cosine",
    "DiscreteBetas",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "time_grid",
]

REMEMBERED = 4096  # times whose levels a schedule keeps: samplers ask for each time of their grid several times
SPACINGS = ("log-snr", "karras", "uniform", "vp", "flow")


class Schedule(ABC):
    r"""A path from data (:math:`\varsigma = 0`) to noise, increasing in :math:`t`.

    Attributes:
        t_max: Latest time. Grids start there unless ``ratio_max`` is given.
        t_min: Earliest time at which a network with this schedule should be evaluated. A grid ends at its ratio by default,
            before the last step to exactly zero noise.
    """

    t_min: float
    t_max: float

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`(\alpha_t, \sigma_t)` for float64 ``t`` of any shape."""

    @abstractmethod
    def inverse(self, ratio: Tensor) -> Tensor:
        r"""Return the time at which :math:`\sigma_t / \alpha_t` is ``ratio``; ratio 0 gives the noise-free time."""

    def __repr__(self) -> str:
        ratios = (float(self.ratio(t)) for t in (self.t_min, self.t_max))
        return f"{type(self).__name__}(noise to signal {' to '.join(f'{ratio:.3g}' for ratio in ratios)})"

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""Return :math:`(\alpha_t, \sigma_t)` in float64, shaped like ``t``."""
        return self.forward(torch.as_tensor(t, dtype=torch.float64))

    def levels(self, t: Tensor | float) -> tuple[float, float]:
        r"""Return :math:`(\alpha_t, \sigma_t)` of a single time as numbers, which are remembered."""
        t, known = float(t), self._known
        if t not in known:
            if len(known) >= REMEMBERED:
                known.clear()
            alpha_t, sigma_t = self(t)
            known[t] = float(alpha_t), float(sigma_t)
        return known[t]

    @functools.cached_property
    def _known(self) -> dict[float, tuple[float, float]]:
        return {}

    def ratio(self, t: Tensor | float) -> Tensor:
        r"""Return the noise-to-signal ratio :math:`\varsigma_t = \sigma_t / \alpha_t`, float64."""
        alpha_t, sigma_t = self(t)
        return sigma_t / alpha_t

    def time(self, ratio: Tensor | float) -> Tensor:
        r"""Return the time at which the noise-to-signal ratio is ``ratio`` (:math:`\ge 0`), float64."""
        return self.inverse(torch.as_tensor(ratio, dtype=torch.float64))


class VP(Schedule):
    r"""Variance preserving with linear :math:`\beta`.

    .. math:: \alpha_t = e^{-\frac12 \int_0^t \beta}, \qquad \alpha_t^2 + \sigma_t^2 = 1

    Args:
        beta_min: :math:`\beta(0)`.
        beta_max: :math:`\beta(1)`, not below ``beta_min``.

    References:
        Song et al., Score-Based Generative Modeling through SDEs, 2021, https://arxiv.org/abs/2011.13456, eq. 32-33
    """

    t_min, t_max = 1e-5, 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(
                f"{type(self).__name__}: expected 0 < beta_min <= beta_max, got beta_min={beta_min}, beta_max={beta_max}."
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # The positive root of the quadratic in log_alpha, in the form without cancellation near t = 0.
        slope = self.beta_max - self.beta_min
        return -4 * log_alpha / (self.beta_min + (self.beta_min**2 - 4 * slope * log_alpha).sqrt())

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha(t)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def inverse(self, ratio: Tensor) -> Tensor:
        return self.time_of_log_alpha(-0.5 * torch.log1p(ratio**2))


class SubVP(Schedule):
    r"""Sub-variance preserving: :math:`\alpha_t` of :class:`VP` and :math:`\sigma_t = 1 - \alpha_t^2`.

    References:
        Song et al., Score-Based Generative Modeling through SDEs, 2021, https://arxiv.org/abs/2011.13456, eq. 13
    """

    # sigma_t falls like t here, not like sqrt(t): the same smallest ratio needs a larger t.
    t_min, t_max = 1e-3, 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.vp = VP(beta_min, beta_max)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.vp.log_alpha(t)
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)

    def inverse(self, ratio: Tensor) -> Tensor:
        # alpha solves alpha^2 + ratio alpha - 1 = 0, that is alpha = exp(-asinh(ratio / 2)).
        return self.vp.time_of_log_alpha(-torch.asinh(ratio / 2))


class Cosine(Schedule):
    r"""Variance preserving cosine: :math:`\alpha_t = \cos(u_t) / \cos(u_0)`, :math:`u_t = \frac{\pi}{2}\frac{t + s}{1 + s}`.

    Args:
        offset: :math:`s \ge 0`, which keeps the noise from vanishing too fast near :math:`t = 0`.

    References:
        Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, https://arxiv.org/abs/2102.09672, eq. 17
    """

    # alpha vanishes at t = 1: the ratio there is infinite, so grids start just below.
    t_min, t_max = 1e-4, 0.995

    def __init__(self, offset: float = 0.008) -> None:
        if offset < 0:
            raise ValueError(f"Cosine: offset must not be negative, got {offset}.")
        self.offset = offset
        self.u_0 = math.pi / 2 * offset / (1 + offset)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        u = math.pi / 2 * (t + self.offset) / (1 + self.offset)
        # 1 - cos^2(u) / cos^2(u_0) = sin(u - u_0) sin(u + u_0) / cos^2(u_0): no cancellation at small t.
        variance = torch.sin(u - self.u_0) * torch.sin(u + self.u_0) / math.cos(self.u_0) ** 2
        return torch.cos(u) / math.cos(self.u_0), variance.clamp(min=0).sqrt()

    def inverse(self, ratio: Tensor) -> Tensor:
        # sin^2(u) = 1 - cos^2(u_0) / (1 + ratio^2), written so that small ratios keep their precision.
        sin_u = ((ratio**2 + math.sin(self.u_0) ** 2) / (1 + ratio**2)).sqrt()
        t = torch.asin(sin_u) * 2 / math.pi * (1 + self.offset) - self.offset
        return torch.where(ratio > 0, t, 0)  # exactly 0, without the rounding of the sine and its inverse


class VE(Schedule):
    r"""Variance exploding: :math:`\alpha_t = 1`, :math:`\sigma_t = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^t`.

    The noise-free time is :math:`t = -\infty`.

    Args:
        sigma_min: Noise standard deviation at :math:`t = 0`, in data units.
        sigma_max: Noise standard deviation at :math:`t = 1`, in data units.

    References:
        Song et al., Score-Based Generative Modeling through SDEs, 2021, https://arxiv.org/abs/2011.13456, eq. 30-31
    """

    t_min, t_max = 0.0, 1.0

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        _check_sigmas("VE", sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def inverse(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


class EDM(Schedule):
    r"""Time is the noise level itself: :math:`\alpha_t = 1`, :math:`\sigma_t = t`.

    Args:
        sigma_min: Smallest noise level the network was trained for, in data units.
        sigma_max: Largest noise level, likewise.

    References:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
        https://arxiv.org/abs/2206.00364
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        _check_sigmas("EDM", sigma_min, sigma_max)
        self.t_min, self.t_max = sigma_min, sigma_max

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def inverse(self, ratio: Tensor) -> Tensor:
        return ratio


class RectifiedFlow(Schedule):
    r"""Straight path: :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`.

    References:
        Liu et al., Flow Straight and Fast, 2023, https://arxiv.org/abs/2209.03003
    """

    # alpha vanishes at t = 1, as in Cosine.
    t_min, t_max = 1e-3, 0.999

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def inverse(self, ratio: Tensor) -> Tensor:
        return ratio / (1 + ratio)


class DiscreteBetas(Schedule):
    r"""The table of a discrete-time DDPM, extended to continuous time: time is the index of the step.

    At index :math:`i` the ratio is :math:`\varsigma_i = \sqrt{(1 - \bar\alpha_i) / \bar\alpha_i}` with
    :math:`\bar\alpha_i = \prod_{j \le i} (1 - \beta_j)`, and :math:`\alpha^2 + \sigma^2 = 1`. Between indices, and beyond
    both ends, :math:`\log \varsigma` is linear in the time: levels are interpolated, never rounded.
    The noise-free time is :math:`t = -\infty`.

    Args:
        betas: The table :math:`\beta_0, \dots, \beta_{N-1}`, each in (0, 1), at least two.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239
    """

    t_min = 0.0

    def __init__(self, betas: Sequence[float] | np.ndarray | Tensor) -> None:
        table = np.asarray(betas, dtype=np.float64)
        if table.ndim != 1 or table.size < 2 or not ((table > 0) & (table < 1)).all():
            raise ValueError(
                "DiscreteBetas: betas must be a one-dimensional table of at least two values in (0, 1), "
                f"got shape {table.shape} with values from {table.min(initial=1):g} to {table.max(initial=0):g}."
            )
        log_alpha_bar = np.cumsum(np.log1p(-table))
        self.log_ratios = torch.from_numpy(0.5 * (np.log(-np.expm1(log_alpha_bar)) - log_alpha_bar))
        self.t_max = float(table.size - 1)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """Return the table of the DDPM paper."""
        return cls(np.linspace(beta_start, beta_end, steps))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Self:
        r"""Return the table of latent diffusion, with linear :math:`\sqrt{\beta_i}`."""
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Self:
        r"""Return the table of Nichol & Dhariwal, :class:`Cosine` in discrete time with :math:`\beta_i` at most ``largest``.

        References:
            Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, https://arxiv.org/abs/2102.09672
        """
        alpha_bar = np.cos(np.pi / 2 * (np.linspace(0, 1, steps + 1) + offset) / (1 + offset)) ** 2
        return cls(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], largest))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self.log_ratios.to(t.device)
        below = t.floor().clamp(0, len(table) - 2).long()
        log_ratio = torch.lerp(table[below], table[below + 1], t - below)
        # At t = -inf the interpolation weight is -inf and so is the logarithm: alpha = 1, sigma = 0.
        return torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()

    def inverse(self, ratio: Tensor) -> Tensor:
        log_ratio, table = ratio.log(), self.log_ratios.to(ratio.device)
        below = (torch.searchsorted(table, log_ratio.contiguous()) - 1).clamp(0, len(table) - 2)
        return below + (log_ratio - table[below]) / (table[below + 1] - table[below])


def _check_sigmas(name: str, sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"{name}: expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}.")


CLOCKS: Mapping[str, Callable[[], Schedule]] = {"vp": VP, "flow": RectifiedFlow}  # spacings by the time of one schedule


def time_grid(
    schedule: Schedule,
    steps: int,
    *,
    spacing: str = "log-snr",
    ratio_min: float | None = None,
    ratio_max: float | None = None,
    rho: float = 7.0,
) -> Tensor:
    r"""Return ``steps + 1`` decreasing times: ``steps`` network evaluations, and the noise-free time at the end.

    ======== ==================================================================================
    spacing  where the levels lie between the two ends
    ======== ==================================================================================
    log-snr  equal steps of :math:`\log \varsigma` (hence of log-SNR)
    karras   equal steps of :math:`\varsigma^{1/\rho}` (Karras et al., 2022, eq. 5)
    uniform  equal steps of :math:`t`
    vp       equal steps of the time of :class:`VP`, whatever the schedule: the levels of DDPM
    flow     equal steps of the time of :class:`RectifiedFlow`, whatever the schedule
    ======== ==================================================================================

    Args:
        schedule: Schedule of the returned times.
        steps: Number of network evaluations of a first-order sampler, at least 1.
        spacing: One of ``SPACINGS``.
        ratio_min: Noise-to-signal ratio of the last evaluation. A grid that stops far above the noise of the measurement leaves
            the samples too wide along measured directions: choose it according to :math:`\sigma_y`. Default: the ratio at
            ``schedule.t_min``.
        ratio_max: Noise-to-signal ratio of the first evaluation. Default: the ratio at ``schedule.t_max``.
        rho: Exponent of ``karras``.

    Returns:
        Float64 times of shape ``(steps + 1,)``.
    """
    if steps < 1:
        raise ValueError(f"time_grid: steps must be at least 1, got {steps}.")
    if spacing not in SPACINGS:
        raise ValueError(f"time_grid: unknown spacing {spacing!r}, expected one of {', '.join(SPACINGS)}.")
    low = float(schedule.ratio(schedule.t_min)) if ratio_min is None else ratio_min
    high = float(schedule.ratio(schedule.t_max)) if ratio_max is None else ratio_max
    if not 0 < low < high < math.inf:
        raise ValueError(f"time_grid: expected 0 < ratio_min < ratio_max < inf, got ratio_min={low:g}, ratio_max={high:g}.")
    if not rho > 0:
        raise ValueError(f"time_grid: rho must be positive, got {rho}.")
    ends = torch.tensor([high, low], dtype=torch.float64)
    fraction = torch.linspace(0, 1, steps, dtype=torch.float64)
    if spacing == "log-snr":
        times = schedule.time((ends[0].log() + fraction * (ends[1].log() - ends[0].log())).exp())
    elif spacing == "karras":
        roots = ends ** (1 / rho)
        times = schedule.time((roots[0] + fraction * (roots[1] - roots[0])) ** rho)
    else:
        clock = CLOCKS[spacing]() if spacing in CLOCKS else schedule
        first, last = clock.time(ends)
        times = first + fraction * (last - first)
        times = schedule.time(clock.ratio(times)) if spacing in CLOCKS else times
    return torch.cat([times, schedule.time(torch.zeros(1, dtype=torch.float64))])
