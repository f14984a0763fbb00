"""The measured covariance of a denoiser's error."""

__all__: list[str] = []
