"""Classifier-free guidance: a conditional and an unconditional prior, extrapolated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.priors.conditional import pair_of, parts_of
from invdiff.priors.score_model import ScoreModel

__all__ = ["ClassifierFree"]


class ClassifierFree(ScoreModel):
    r"""Classifier-free guidance: a prior of :math:`x` given a condition :math:`c`, sharpened.

    .. math:: D(x_t) = D_\emptyset(x_t) + w\, \big(D_c(x_t) - D_\emptyset(x_t)\big), \qquad
        \nabla \log p_t(x_t) = (1 - w)\, \nabla \log p_t(x_t | \emptyset) + w\, \nabla \log p_t(x_t | c)

    At scale :math:`w = 1` this is the conditional prior, at 0 the unconditional one. Above 1 it follows the condition more
    closely, with less variety. It is then, in general, the denoiser of no density: the densities
    :math:`p_t(x_t | c)^w p_t(x_t | \emptyset)^{1 - w}` at different :math:`t` are not diffused versions of each other (they are
    for Gaussians of equal covariance). Samples are those of common use, not draws of a known posterior.

    Two networks of equal weights, as :func:`~invdiff.priors.load_prior` makes them of one checkpoint, are evaluated in one
    batch. ``unconditional`` may also be given another condition, which is to be avoided (a negative prompt), or be a worse
    version of ``conditional`` (autoguidance).

    Args:
        conditional: :math:`D_c`.
        unconditional: :math:`D_\emptyset`, with the same schedule.
        scale: :math:`w`, finite.
        interval: The noise-to-signal ratios :math:`\varsigma_t` from which to which guidance acts; elsewhere the scale is 1.
            Default: everywhere.
        rescale: :math:`\varphi` from 0 to 1: the share of a guided estimate that is multiplied so that its standard deviation
            over an item is that of the conditional one.

    Raises:
        ValueError: If the priors do not fit together, or an option is out of its range.

    Cost: an evaluation of both priors.

    References:
        Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, https://arxiv.org/abs/2207.12598: its
        weight is :math:`w - 1`.
        Kynkäänniemi et al., Applying Guidance in a Limited Interval, 2024, https://arxiv.org/abs/2404.07724.
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023, https://arxiv.org/abs/2305.08891,
        section 3.4; here of the denoised image instead of the network's output.
        Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, 2024, https://arxiv.org/abs/2406.02507.
    """

    def __init__(
        self,
        conditional: ScoreModel,
        unconditional: ScoreModel,
        *,
        scale: float,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"ClassifierFree: scale must be a finite number, got {scale}.")
        if not 0 <= rescale <= 1:
            raise ValueError(f"ClassifierFree: rescale must be from 0 to 1, got {rescale}.")
        low, high = (0.0, math.inf) if interval is None else interval
        if not 0 <= low < high:
            raise ValueError(f"ClassifierFree: interval must be two increasing noise-to-signal ratios, got {interval}.")
        _check_pair(conditional, unconditional)
        self.conditional, self.unconditional = conditional, unconditional
        self.pair = pair_of(conditional, unconditional)
        self.guidance_scale, self.interval, self.rescale = float(scale), interval, float(rescale)
        self.schedule, self.event_shape, self.notes = conditional.schedule, conditional.event_shape, conditional.notes
        self.batched, self.learned = conditional.batched, conditional.learned or unconditional.learned
        self.windowed = conditional.windowed and unconditional.windowed
        self.scale, self.reach = conditional.scale, conditional.reach if conditional.reach == unconditional.reach else None

    def _summary(self) -> Sequence[str]:
        return (repr(self.conditional), f"scale {self.guidance_scale:g}")

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = self._both(x_t, t)
        guided = unconditional + self.guidance_scale * (conditional - unconditional)
        if self.rescale:
            of_condition, of_guided = (over_items(part.flatten(1).std(1), x_t) for part in (conditional, guided))
            guided = torch.lerp(guided, guided * (of_condition / of_guided), self.rescale)
        if self.interval is None:
            return guided
        low, high = self.interval
        ratio = torch.as_tensor(self.schedule.ratio(t), device=x_t.device)
        acts = (ratio >= low) & (ratio <= high)
        return torch.where(over_items(acts, x_t) if acts.ndim else acts, guided, conditional)

    def _both(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimates of both priors, from one call of the network where it is the same."""
        if self.pair is None:
            return self.conditional.denoise(x_t, t), self.unconditional.denoise(x_t, t)
        time = torch.as_tensor(t)
        first, second = self.pair.denoise(torch.cat([x_t, x_t]), torch.cat([time, time]) if time.ndim else time).chunk(2)
        return first, second

    def to(self, device: torch.device | str | None = None) -> ClassifierFree:
        if self.pair is None:
            one, other = self.conditional.to(device), self.unconditional.to(device)
        else:  # The network is moved once.
            one, other = parts_of(self.pair.to(device), [self.conditional, self.unconditional])
        return ClassifierFree(one, other, scale=self.guidance_scale, interval=self.interval, rescale=self.rescale)

    def describe(self) -> dict[str, Any]:
        options: dict[str, Any] = {"guidance_scale": self.guidance_scale}
        options |= {} if self.interval is None else {"guidance_interval": list(self.interval)}
        options |= {"guidance_rescale": self.rescale} if self.rescale else {}
        return self.conditional.describe() | options | {"unconditional": self.unconditional.describe()}


def _check_pair(one: ScoreModel, other: ScoreModel) -> None:
    times = torch.linspace(one.schedule.t_min, one.schedule.t_max, 5, dtype=torch.float64)
    same = (one.schedule.t_min, one.schedule.t_max) == (other.schedule.t_min, other.schedule.t_max)
    if not same or any(
        not torch.allclose(a, b, rtol=1e-5) for a, b in zip(one.schedule(times), other.schedule(times), strict=True)
    ):
        raise ValueError(
            "ClassifierFree: both priors need the same noise schedule, got "
            f"{type(one.schedule).__name__} and {type(other.schedule).__name__}."
        )
    if one.event_shape != other.event_shape:
        raise ValueError(f"ClassifierFree: the priors are for items of shape {one.event_shape} and {other.event_shape}.")
