"""Distributions of the noise other than white Gaussian."""

__all__: list[str] = []
