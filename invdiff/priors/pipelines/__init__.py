"""Pipelines of diffusers: priors of images given a text or a class, many of them of latent codes."""

__all__: list[str] = []
