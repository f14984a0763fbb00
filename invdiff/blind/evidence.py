r"""The likelihood of a kernel, from how well a denoiser that knows it removes noise that was added to the measurement.

For :math:`y = A x + n`, :math:`n \sim \mathcal{N}(0, \sigma_y^2 I)` of :math:`D` entries, and the same measurement with more
noise, :math:`z_s = y + \sqrt{s^2 - \sigma_y^2}\, \varepsilon`, the marginal likelihood of the operator is

.. math:: -\log p(y | A) = \frac D2 \log 2 \pi \sigma_y^2 + \int_{\sigma_y}^\infty E_\varepsilon\Big[ \lVert r_s \rVert^2
    - \frac{2 \sigma_y^2}{\sqrt{s^2 - \sigma_y^2}} \langle \varepsilon, r_s \rangle \Big] \frac{d \log s}{s^2}, \qquad
    r_s = y - A\, E[x | z_s]

This is the pointwise relation of Kong et al. (2023) between a density and its denoisers, for the density of :math:`y`, whose
denoiser follows from that of :math:`x`: :math:`E[y | z_s] = A\, E[x | z_s] + (\sigma_y / s)^2 (z_s - A\, E[x | z_s])`. With an
exact denoiser it holds for every prior. The integral over a part of the levels, from :math:`\sigma_y` to :math:`s_1`, is the
log ratio of :math:`p(y)` and :math:`p(z_{s_1})`: what is known of :math:`A` from the part of :math:`y` that :math:`z_{s_1}`
does not show.

:math:`E[x | z_s]` takes one evaluation of a prior that accepts the noise of pivots, because a measurement and a state without
information make a pivot too (:meth:`invdiff.operators.LinearOperator.pivot`).

References:
    Kong, Brekelmans & Ver Steeg, Information-Theoretic Diffusion, 2023, https://arxiv.org/abs/2302.03792; Guo, Shamai & Verdu,
    2005, https://arxiv.org/abs/cs/0412108. Its use for blind deconvolution is new.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdiff.blind.windows import Window
from invdiff.operators import GaussianNoise, LinearOperator
from invdiff.priors import ScoreModel

__all__ = ["Noise", "evidence_terms", "levels_between", "noise_for"]


@dataclass(frozen=True, eq=False)
class Noise:
    r"""The random numbers of one evaluation, the same for all kernels so that their differences are accurate.

    Attributes:
        level: :math:`s`.
        epsilon: :math:`\varepsilon`, shaped like the measurement.
        state: Standard normal, shaped like ``x``.
    """

    level: float
    epsilon: Tensor
    state: Tensor


def levels_between(sigma_y: float, highest: float, count: int) -> list[float]:
    r"""Return the midpoints of ``count`` equal intervals of :math:`\log s` from ``sigma_y`` to ``highest``."""
    step = math.log(highest / sigma_y) / count
    return [sigma_y * math.exp((k + 0.5) * step) for k in range(count)]


def noise_for(window: Window, factor: int, levels: Sequence[float], generator: np.random.Generator) -> list[Noise]:
    """Return random numbers for each level, drawn on the CPU."""
    shape = tuple(window.y.shape)
    wide = (*shape[:-2], factor * shape[-2], factor * shape[-1])
    seeds = generator.integers(2**62, size=len(levels))
    found = []
    for level, seed in zip(levels, seeds, strict=True):
        stream = torch.Generator().manual_seed(int(seed))
        epsilon, state = (torch.randn(s, generator=stream, dtype=window.y.dtype).to(window.y.device) for s in (shape, wide))
        found.append(Noise(level, epsilon, state))
    return found


@torch.no_grad()
def evidence_terms(
    score: ScoreModel, op: LinearOperator, window: Window, noise: Sequence[Noise], *, sigma_y: float, ratio: float
) -> Tensor:
    r"""Return the integrand at every level, summed over channels, for every place of ``y``, ``(levels, h, w)``.

    Args:
        score: The prior.
        op: :math:`A` for images of the size of the window; its noise level is replaced by :math:`s`.
        window: :math:`y`.
        noise: The levels with their random numbers.
        sigma_y: :math:`\sigma_y`.
        ratio: Noise-to-signal ratio of the state without information.
    """
    found = []
    for one in noise:
        added = math.sqrt(max(one.level**2 - sigma_y**2, 0.0))
        noisier = copy.copy(op)
        noisier.noise = GaussianNoise(one.level)
        pivot = noisier.pivot(ratio * one.state, ratio, window.y + added * one.epsilon)
        assert pivot is not None
        residual = window.y - op(score.denoise_pivot(*pivot))
        term = residual.square() - 2 * sigma_y**2 / added * one.epsilon * residual
        found.append((term / one.level**2 * window.counted).sum(1)[0])
    return torch.stack(found)
