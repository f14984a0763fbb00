"""Files of images and arrays, and figures."""

__all__: list[str] = []
