"""The interface of algorithms with their own loop: annealing, split Gibbs, variational, Langevin."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from invdiff.methods.algorithm import Algorithm
from invdiff.methods.on_step import OnStep
from invdiff.random import Streams

__all__ = ["Sampler"]


class Sampler(Algorithm):
    r"""An algorithm that draws samples of :math:`p(x_0 | y)` with its own loop."""

    own_step = True

    @abstractmethod
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        r"""Return samples ``(B, *event)``.

        Args:
            times: Decreasing, ``(steps + 1,)``, the last one noise-free.
            streams: One random stream per row.
            on_step: Called after each of the ``steps`` with the state and the estimate of :math:`x_0`.

        Raises:
            DivergenceError: If an item diverges.
        """
