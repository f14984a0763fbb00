"""Priors whose denoiser is known exactly."""

__all__: list[str] = []
