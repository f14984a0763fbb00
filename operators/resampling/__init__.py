"""Downsampling and resizing."""

__all__: list[str] = []
