"""The interface of algorithms that have a loop of their own: annealing, split Gibbs, variational, Langevin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from invdiff.methods.requirements import check_needs
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["EXPLOSION", "DivergenceError", "Sampler", "check_bounds", "lost"]

# A state this many times larger than noise plus data of order one is on its way to infinity.
EXPLOSION = 1e4


class DivergenceError(RuntimeError):
    """A sample left all bounds, and weaker guidance did not bring it back.

    Attributes:
        step: Step at which it happened, counted from 1.
        row: Row of the batch.
    """

    def __init__(self, message: str, *, step: int, row: int) -> None:
        super().__init__(message)
        self.step, self.row = step, row


class Sampler(ABC):
    r"""An algorithm that draws samples of :math:`p(x_0 | y)` by a loop of its own.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: What was measured, ``(B, *op.out_shape)``, one row per sample.

    Attributes:
        needs: What the algorithm requires of a measurement, keys of :data:`invdiff.methods.requirements.NEEDS`.
        any_noise: Whether it takes other laws than white Gaussian noise.
        one_operator: Whether all rows have to share one operator. Where items have operators of their own
            (:func:`invdiff.operators.algebra.per_item`), they are then run one after the other.

    Raises:
        ValueError: If the measurement lacks what the algorithm needs.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    any_noise: ClassVar[bool] = False
    one_operator: ClassVar[bool] = False

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor) -> None:
        check_needs(type(self).__name__, op, self.needs, any_noise=self.any_noise, one_operator=self.one_operator)
        self.score, self.op, self.y = score, op, y

    @abstractmethod
    def run(self, times: Tensor, *, streams: Streams, on_step: Callable[[], object]) -> Tensor:
        """Return samples ``(B, *event)``.

        Args:
            times: Decreasing, ``(steps + 1,)``, the last one noise-free.
            streams: One random stream per row.
            on_step: Called once for each of the ``steps``.

        Raises:
            DivergenceError: If an item diverges.
        """


def check_bounds(x: Tensor, *, bound: float, step: int) -> None:
    """Raise a :class:`DivergenceError` for the first row of ``x`` that is not finite, or larger than ``bound``."""
    gone = lost(x, bound)
    if gone.any():
        row = int(gone.nonzero()[0])
        raise DivergenceError(f"diverged at step {step}, row {row}", step=step, row=row)


def lost(x: Tensor, bound: float) -> Tensor:
    """Return which items are not finite, or whose root mean square is not below ``bound``, ``(B,)``."""
    size = x.flatten(1).square().mean(1).sqrt()
    return ~(size < bound)
