"""General-purpose operators: matrices, functions, the identity, affine maps."""

__all__: list[str] = []
