"""The sample that stands for all others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["medoid"]

PART = 2**20  # pixels of a sample


def medoid(samples: Tensor) -> int:
    r"""Return the index of the sample with the smallest sum of squared distances to the others, the first of several.

    .. math:: \sum_j |x_i - x_j|^2 = N\, |x_i - \bar x|^2 + \text{const}

    so it is the sample nearest to the mean :math:`\bar x`.

    Args:
        samples: ``(N, ...)``.
    """
    distances = torch.zeros(len(samples), dtype=torch.float64)
    for part in torch.split(samples.flatten(1), PART, dim=1):  # double precision part by part, for the memory of large pictures
        values = part.double()
        distances += (values - values.mean(0)).square().sum(1).cpu()
    return int(distances.argmin())
