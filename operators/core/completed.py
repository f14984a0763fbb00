"""Partially recorded measurements that would have a fast singular basis if they were recorded completely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invdiff.movable import Movable

if TYPE_CHECKING:
    from .operator import LinearOperator

__all__ = ["Completed"]


class Completed(Movable):
    r"""A linear measurement :math:`A = C B`: :math:`B` has a fast singular basis, and :math:`C` keeps some of its outputs.

    One example is a camera that records a blurred scene within its sensor (:class:`~invdiff.operators.Blur` with the boundary
    ``valid``): with the pixels beyond the sensor it would be a circular convolution. Another is a blurred picture with
    missing pixels.

    Args:
        whole: :math:`B`, with the noise of :math:`A`.
        recorded: :math:`C`, a mask or a crop, whose rows are orthonormal.
    """

    def __init__(self, whole: LinearOperator, recorded: LinearOperator) -> None:
        self.whole, self.recorded = whole, recorded
