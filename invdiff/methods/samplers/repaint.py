"""RePaint: inpainting by replacement, with jumps back to more noise."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.steps.ddim import DDIM
from invdiff.operators import Mask, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["RePaint", "jump_path"]


class RePaint(Sampler):
    r"""Inpainting of exact data: at every level known entries are noised data, and unknown entries a DDPM step.

    .. math:: x_s = m \odot (\alpha_s y + \sigma_s z) + (1 - m) \odot \mathrm{Step}(\hat x_0)

    with :math:`m` the mask of the known entries. The two parts are drawn independently. To make them consistent, the state
    jumps back ``jump_length`` levels by forward diffusion and is denoised again:

    .. math:: x_t = \frac{\alpha_t}{\alpha_s} x_s + \sqrt{\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2}\; z

    The conditional distribution is reached only as ``passes`` grows: with few, the mode is chosen before the data take effect.

    Args:
        score: The prior.
        op: A :class:`~invdiff.operators.Mask` without noise.
        y: Measurement, ``(B, *op.out_shape)``.
        jump_length: Levels per jump, at least 1. A grid with at most this many levels has no jumps.
        passes: Number of passes through the levels of a jump, at least 1; 1: no jumps.

    Cost: one denoiser evaluation per step and per repeated step: 2410 for 250 steps with the default jumps. No gradients.

    References:
        Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models, 2022,
        https://arxiv.org/abs/2201.09865, algorithm 1. Departure: a jump is a single draw, with the same distribution as
        ``jump_length`` draws level by level.
    """

    needs = ("mask", "exact")
    one_operator = True
    in_windows = True
    op: Mask

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, jump_length: int = 10, passes: int = 10) -> None:
        super().__init__(score, op, y)
        if jump_length < 1 or passes < 1:
            raise ValueError(f"RePaint: jump_length and passes must be at least 1, got {jump_length} and {passes}.")
        self.jump_length, self.passes = jump_length, passes

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        schedule, step, draw = self.score.schedule, DDIM(eta=1.0), partial(streams.normal, dtype=self.y.dtype)
        event, mask = self.op.in_shape, self.op.mask.to(self.y.device)
        x_t, reached = float(schedule(times[0])[1]) * draw(event), 0
        for here, there in itertools.pairwise(jump_path(len(times) - 1, self.jump_length, self.passes)):
            t, s = times[here], times[there]
            (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(time)) for time in (t, s))
            if there < here:
                shrink = alpha_s / alpha_t
                x_t = shrink * x_t + (sigma_s**2 - (shrink * sigma_t) ** 2) ** 0.5 * draw(event)
                continue
            at = Denoised(self.score, x_t, t)
            unknown = step(prior_mean, at, s, draw(event))
            known = alpha_s * self.y + sigma_s * draw(event)
            x_t = torch.where(mask, known, unknown)
            check(x_t, bound=EXPLOSION * (1 + sigma_s), step=there)
            if there > reached:
                reached = there
                on_step(x_t, at.x0_hat)
        check.finish()
        return x_t


METHOD = Method(
    RePaint,
    steps=250,
    spacing="vp",
    paper="Lugmayr et al., 2022, arXiv 2201.09865",
    presets={
        "mask": Preset(
            {"steps": 250, "spacing": "vp", "jump_length": 10, "passes": 10},
            "Lugmayr et al., 2022: the released configurations (confs/face_example.yml)",
        ),
    },
)


def jump_path(steps: int, length: int, passes: int) -> list[int]:
    """Return the indices of the levels to visit, from 0 to ``steps``, which is noise-free.

    At every ``length``-th level, counted from the last noisy one, the path jumps back ``length`` levels, ``passes - 1``
    times.
    """
    jumps = dict.fromkeys(range(steps - 1, length - 1, -length), passes - 1)
    path = [0]
    while path[-1] < steps:
        level = path[-1] + 1
        path.append(level)
        if jumps.get(level, 0) > 0:
            jumps[level] -= 1
            path.append(level - length)
    return path
