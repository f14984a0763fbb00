"""Other sizes: downsampling and resizing."""

__all__: list[str] = []
