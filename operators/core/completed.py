"""Measurements of which a part was not recorded, and that have a fast basis with that part in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invdiff.movable import Movable

if TYPE_CHECKING:
    from .operator import LinearOperator

__all__ = ["Completed"]


class Completed(Movable):
    r"""A linear measurement :math:`A = C B`: :math:`B` has a fast singular basis, and :math:`C` keeps some of its entries.

    A camera records the blur of a scene as far as its sensor reaches (:class:`~invdiff.operators.Blur` with the boundary
    ``valid``): with what lies beyond, it would be a circular convolution. Or pixels of a blurred picture are missing.

    Args:
        whole: :math:`B`, in the noise of :math:`A`.
        recorded: :math:`C`, whose rows are orthonormal: a mask or a crop.
    """

    def __init__(self, whole: LinearOperator, recorded: LinearOperator) -> None:
        self.whole, self.recorded = whole, recorded
