"""Transforms: Fourier, Radon, Hadamard, differences, the cosine transform of JPEG."""

__all__: list[str] = []
