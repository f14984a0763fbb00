"""Operators made of operators. Importing it gives every operator ``@``, ``+``, ``*`` and ``.T``."""

from ..core.algebra import Algebra, install
from .add import add
from .compose import compose
from .scale import scale
from .transpose import Adjoint

__all__: list[str] = []

install(Algebra(compose=compose, add=add, scale=scale, transpose=Adjoint))
