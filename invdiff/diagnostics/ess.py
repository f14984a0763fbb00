"""Effective sample sizes of weighted samples and of Markov chains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["chain_ess", "ess"]


def ess(weights: Tensor) -> Tensor:
    r"""Return :math:`(\sum w)^2 / \sum w^2` of weights ``(M, *batch)``, shape ``(*batch)``; they need not sum to 1.

    The value lies between 1 (one sample has all the weight) and :math:`M` (equal weights).
    """
    total = weights.sum(0)
    if not ((weights >= 0).all() and (total > 0).all() and total.isfinite().all()):
        raise ValueError("ess: weights must be finite, not negative, and not all zero.")
    share = weights / total  # Normalized before squaring: the squares of tiny weights would underflow.
    return 1 / (share**2).sum(0)


def chain_ess(chain: Tensor) -> Tensor:
    r"""Return the effective sample size of every quantity of a stationary Markov chain, such as the sweeps of split Gibbs.

    .. math:: N / \tau, \qquad \tau = -1 + 2 \sum_{k \ge 0} \Gamma_k, \qquad \Gamma_k = \rho_{2 k} + \rho_{2 k + 1}

    with the autocorrelations :math:`\rho`. The sum ends before the first :math:`\Gamma_k \le 0`, and every :math:`\Gamma_k` is
    replaced by the smallest value up to it. Antithetic chains can exceed :math:`N`; the result is limited to
    :math:`N \log_{10} N`. A chain that never moves counts as one sample.

    Args:
        chain: States in order of time without burn-in, ``(N, *batch)``, :math:`N \ge 4`; every entry of the batch is a chain.

    Returns:
        Effective sample sizes, ``(*batch)``.

    References:
        Geyer, Practical Markov Chain Monte Carlo, 1992, https://doi.org/10.1214/ss/1177011137, section 3.3 (the initial
        monotone sequence)
    """
    count = len(chain)
    if count < 4 or not chain.isfinite().all():
        raise ValueError(f"chain_ess: expected at least 4 finite states, got a chain of shape {tuple(chain.shape)}.")
    centred = (chain - chain.mean(0)).double().flatten(1) if chain.ndim > 1 else (chain - chain.mean()).double()[:, None]
    power = torch.fft.rfft(centred, n=2 * count, dim=0).abs() ** 2  # Zero-padded: the correlation must not be circular.
    covariance = torch.fft.irfft(power, n=2 * count, dim=0)[:count] / count
    moves = covariance[0] > 1e-24 * (chain.double().abs().amax(0) ** 2).flatten()
    rho = covariance / torch.where(moves, covariance[0], 1)
    pairs = rho[: count - count % 2].unflatten(0, (-1, 2)).sum(1)
    going = (pairs > 0).long().cumprod(0).bool()
    tau = -1 + 2 * torch.where(going, pairs.cummin(0).values, 0).sum(0)
    size = torch.where(moves, count / tau.clamp(min=1 / max(1.0, math.log10(count))), 1)
    return size.reshape(chain.shape[1:]).to(chain)
