"""The covariance of a denoiser's error, measured."""

__all__: list[str] = []
