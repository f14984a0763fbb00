"""The sample that stands for all others."""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["medoid"]


def medoid(samples: Tensor) -> int:
    r"""Return the index of the sample with the smallest sum of squared distances to the others, the first of several.

    .. math:: \sum_j |x_i - x_j|^2 = N\, |x_i - \bar x|^2 + \text{const}

    so it is the sample nearest to the mean :math:`\bar x`.

    Args:
        samples: ``(N, ...)``.
    """
    mean = samples.double().mean(0)
    return int(np.argmin([float((sample.double() - mean).square().sum()) for sample in samples]))
