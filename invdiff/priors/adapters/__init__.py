"""A prior of one size or number of channels for images of another."""

__all__: list[str] = []
