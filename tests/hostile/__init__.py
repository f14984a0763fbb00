"""Hostile inputs of the command line, each made from its number alone, and the laws that every answer to one obeys.

``python -m hostile 300 2000`` in this folder's parent runs more of them than the test does, and prints the laws they break.
"""

from __future__ import annotations

from hostile.case import Case
from hostile.commands import KINDS, case, name_of
from hostile.laws import broken_laws

__all__ = ["KINDS", "Case", "broken_laws", "case", "name_of"]
