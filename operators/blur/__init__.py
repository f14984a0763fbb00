"""Convolutions, and their kernels."""

__all__: list[str] = []
