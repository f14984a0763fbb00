"""Operators based on transforms: Fourier, Radon, Hadamard, differences, the cosine transform of JPEG."""

__all__: list[str] = []
