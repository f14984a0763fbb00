r"""Metrics of posterior samples of one photograph whose truth is known.

If the truth and the :math:`N` samples are independent draws from one distribution, as they are for an exact sampler and truths
drawn from its prior, then:

- *spread / error*, the standard deviation of the samples over the error of their mean :math:`\bar x` (both root mean squares
  over the image), is :math:`\sqrt{N / (N + 1)}`: for a value of variance :math:`v`, the expected unbiased variance of the
  samples is :math:`v`, and :math:`E (\bar x - x)^2 = v + v / N`;
- *coverage*, the share of truths between the smallest and the largest sample, is :math:`(N - 1) / (N + 1)`: each of the
  :math:`N + 1` values is equally likely to be the smallest, or the largest;
- *misfit*, the squared misfit over its expectation under the noise, is 1.

*Limit* is the PSNR of the mean of infinitely many samples: the variance of the samples over :math:`N`, the contribution of the
finite number of samples, is subtracted from the squared error of :math:`\bar x`. It compares samplers with different spreads.

Values that are known exactly have neither spread nor error and are left out of both; coverage is that of the other values. PSNR
and SSIM are those of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from invdiff.metrics import psnr, ssim

__all__ = ["classical_figures", "judge", "right_values"]


def judge(samples: Tensor, truth: Tensor, *, known: Tensor | None = None) -> dict[str, float | None]:
    """Return the figures of ``samples``.

    Args:
        samples: ``(N, C, H, W)``, at least two, spanning [-1, 1].
        truth: ``(1, C, H, W)``.
        known: Boolean, broadcastable to ``(C, H, W)``: the values that are known exactly. Default: none.

    Returns:
        PSNR of the ``mean``, of the ``limit`` and, on average, of a ``sample``, in dB; ``SSIM`` of the mean; ``spread / error``
        and ``coverage``. ``None`` where there is no figure: a limit without error, or no error to hold the spread to.
    """
    count, mean = len(samples), samples.mean(0, keepdim=True)
    variance, error = float(samples.var(0).double().mean()), float((mean - truth).double().square().mean())
    of_mean = float(psnr(mean, truth))
    left = 1 - variance / (count * error) if error else 0.0
    inside = (truth[0] >= samples.amin(0)) & (truth[0] <= samples.amax(0))
    unknown = torch.ones_like(inside) if known is None else ~known.expand_as(inside)
    figures = {
        "mean": of_mean,
        "limit": of_mean - 10 * math.log10(left) if left > 0 else None,
        "sample": float(psnr(samples, truth.expand_as(samples)).mean()),
        "SSIM": float(ssim(mean, truth)),
        "spread / error": math.sqrt(variance / error) if error else None,
        "coverage": float(inside[unknown].double().mean()),
    }
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def classical_figures(restored: Tensor, truth: Tensor) -> dict[str, float]:
    """Return PSNR and SSIM of one restored picture, under the names that those of a mean have."""
    return {"mean": round(float(psnr(restored, truth)), 4), "SSIM": round(float(ssim(restored, truth)), 4)}


def right_values(count: int) -> Mapping[str, float]:
    """Return what exact samples have in expectation, ``count`` of them, of truths drawn from the prior."""
    return {"spread / error": math.sqrt(count / (count + 1)), "coverage": (count - 1) / (count + 1), "misfit": 1.0}
