"""Noise models other than independent Gaussian noise."""

__all__: list[str] = []
