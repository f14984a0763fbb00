"""Which values are measured: masks, windows, mosaics, channels."""

__all__: list[str] = []
