"""Operators made of anything: matrices, functions, the identity."""

__all__: list[str] = []
