"""SNIPS: annealed Langevin dynamics in the SVD basis."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["SNIPS"]


class SNIPS(Sampler):
    r"""Solving noisy inverse problems stochastically: preconditioned annealed Langevin dynamics in the SVD basis.

    With :math:`A = U \operatorname{diag}(s) V^\top`, the state is :math:`\bar x = V^\top x_t / \alpha_t`, the data are
    :math:`\bar y_i = (U^\top y)_i / s_i` with noise :math:`\nu_i = \sigma_y / s_i`, and :math:`\bar x_0 = V^\top \hat x_0`.
    The noise of the state and the noise of the data are coupled: the smaller one is a part of the larger. With
    :math:`\varsigma = \sigma_t / \alpha_t`, each coordinate has the score

    .. math:: g_i = \begin{cases}
        (\bar y_i - \bar x_i) / (\varsigma^2 - \nu_i^2) & \varsigma > \nu_i \\
        (\bar x_{0,i} - \bar x_i) / \varsigma^2 + (\bar y_i - \bar x_i) / (\nu_i^2 - \varsigma^2) & \varsigma < \nu_i \\
        (\bar x_{0,i} - \bar x_i) / \varsigma^2 & s_i = 0 \end{cases}

    and the step :math:`\bar x_i \leftarrow \bar x_i + c\, a_i g_i + \sqrt{2 c\, a_i}\, z_i` with :math:`a_i` equal to
    :math:`\varsigma^2 - \nu_i^2`, :math:`\varsigma^2 (1 - \varsigma^2 / \nu_i^2)` and :math:`\varsigma^2`: in all cases a step
    toward a convex combination of :math:`\bar x_{0,i}` and :math:`\bar y_i`, stable for :math:`c < 1`. The last state is
    denoised.

    Once the level is below every :math:`\nu_i` the score is exact. So for a posterior with one mode, the samples converge to it
    as :math:`c` decreases and the number of corrections grows. The spread is too wide by up to a fraction :math:`c` at finite
    :math:`c`, and also if there are too few corrections to follow the levels. At higher levels, where the mode is chosen, the
    score is not exact.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` is :math:`\sigma_y`, which may be 0.
        y: Measurement, ``(B, *op.out_shape)``.
        corrections: Langevin steps per level, at least 1.
        step: Step size :math:`c` in (0, 1), relative to the squared level.

    Cost: ``corrections`` denoiser evaluations per level and one more at the end. No gradients.

    References:
        Kawar et al., SNIPS: Solving Noisy Inverse Problems Stochastically, 2021, https://arxiv.org/abs/2105.14951, and the
        released code. Departures: the measured coordinates start at the data plus noise up to the first level, instead of
        from a uniform distribution; the last state is denoised, and coordinates still noisier than their data are set to the
        data.
    """

    needs = ("linear", "svd")
    one_operator = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, corrections: int = 5, step: float = 0.033) -> None:
        super().__init__(score, op, y)
        if corrections < 1 or not 0 < step < 1:
            raise ValueError(f"SNIPS: expected corrections >= 1 and 0 < step < 1, got {corrections} and {step}.")
        self.corrections, self.step, self.data = corrections, step, SpectralData(op, y)

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        schedule, data, draw = self.score.schedule, self.data, partial(streams.normal, dtype=self.y.dtype)
        ratio = float(schedule.ratio(times[0]))
        rest = (ratio**2 - data.noise**2).clamp(min=0).sqrt()
        noise = draw(data.svd.shape)
        x_bar = torch.where(ratio > data.noise, data.y_bar + rest * noise, ratio * noise)
        for level, t in enumerate(times[:-1]):
            ratio = float(schedule.ratio(t))
            # Weight of the data in the target: 1 where the state is noisier than the data, 0 where nothing is measured.
            weight = (ratio / data.noise).square().clamp(max=1)
            kick = (2 * self.step * self._step_variance(ratio)).sqrt()
            for _ in range(self.corrections):
                target = torch.lerp(self._denoise(x_bar, t), data.y_bar, weight)
                x_bar = x_bar + self.step * (target - x_bar) + kick * draw(data.svd.shape)
            check(x_bar, bound=EXPLOSION * (1 + ratio), step=level + 1)
            if level + 2 < len(times):
                on_step(partial(self._state, x_bar, t), None)
        x_0 = data.svd.synthesize(torch.where(ratio > data.noise, data.y_bar, self._denoise(x_bar, times[-2])))
        on_step(x_0, None)
        check.finish()
        return x_0

    def _step_variance(self, ratio: float) -> Tensor:
        r"""Return the preconditioner :math:`a_i`, which is also the variance of the state around its target."""
        noise = self.data.noise
        return torch.where(ratio > noise, ratio**2 - noise**2, ratio**2 * (1 - (ratio / noise) ** 2))

    def _state(self, x_bar: Tensor, t: Tensor) -> Tensor:
        r"""Return :math:`x_t = \alpha_t V \bar x`."""
        return float(self.score.schedule(t)[0]) * self.data.svd.synthesize(x_bar)

    def _denoise(self, x_bar: Tensor, t: Tensor) -> Tensor:
        r"""Return :math:`V^\top \hat x_0`, also the mean given state and data where the data are noisier than the state."""
        return self.data.svd.analyze(self.score.denoise(self._state(x_bar, t), t))


METHOD = Method(
    SNIPS,
    steps=500,
    paper="Kawar et al., 2021, arXiv 2105.14951",
    presets={
        "any": Preset(
            {"steps": 500, "spacing": "log-snr", "ratio_min": 0.02, "corrections": 5, "step": 0.033},
            "Kawar et al., 2021: configs/celeba.yml of the released code, with step_lr / sigma_end^2 = 0.033; sigma_end = 0.01 "
            "is doubled for images in [-1, 1]; sigma_begin is left to the schedule",
        ),
    },
)
