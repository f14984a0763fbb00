"""Image files, array files and figures."""

__all__: list[str] = []
