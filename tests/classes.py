"""A mixture in two dimensions whose components belong to two classes: what classifiers and guidance ought to give is known."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.priors import GaussianMixture
from invdiff.schedules import EDM

__all__ = ["CLASSES", "MIXTURE", "log_class", "log_class_of_noisy", "of_class"]

CLASSES = 2
_g = torch.Generator().manual_seed(0)
_weights = torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=torch.float64)
_means = 2 * torch.randn(4, 2, generator=_g, dtype=torch.float64)
_variances = 0.2 + 0.3 * torch.rand(4, 2, generator=_g, dtype=torch.float64)
_labels = torch.tensor([0, 1, 0, 1])
MIXTURE = GaussianMixture(_weights, _means, _variances, schedule=EDM())


def of_class(label: int) -> GaussianMixture:
    """Return the distribution of a class."""
    which = _labels == label
    return GaussianMixture(_weights[which], _means[which], _variances[which], schedule=EDM())


def log_class(x: Tensor, label: int) -> Tensor:
    r"""Return :math:`\log p(c | x)` of clean items ``(B, 2)``."""
    return _log_class(x, torch.zeros(len(x), dtype=x.dtype), label)


def log_class_of_noisy(x_t: Tensor, t: Tensor, label: int) -> Tensor:
    r"""Return :math:`\log p(c | x_t)` of noisy items ``(B, 2)`` at times ``(B,)``."""
    return _log_class(x_t, MIXTURE.schedule(t)[1].to(x_t), label)


def _log_class(x: Tensor, sigma: Tensor, label: int) -> Tensor:
    variance = _variances.to(x) + sigma[:, None, None] ** 2
    each = _weights.to(x).log() - 0.5 * ((x[:, None] - _means.to(x)) ** 2 / variance + variance.log()).sum(-1)
    together = torch.stack([each[:, _labels == k].logsumexp(1) for k in range(CLASSES)], 1)
    return together.log_softmax(1)[:, label]
