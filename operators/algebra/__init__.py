"""Operators made of other operators. Importing this package enables ``@``, ``+``, ``*`` and ``.T`` for all operators."""

from ..core.algebra import Algebra, install
from .add import add
from .compose import compose
from .scale import scale
from .transpose import Adjoint

__all__: list[str] = []

install(Algebra(compose=compose, add=add, scale=scale, transpose=Adjoint))
