"""Blur operators, other convolutions, and blur kernels."""

__all__: list[str] = []
