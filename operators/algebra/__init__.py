"""Operators made of operators."""

__all__: list[str] = []
