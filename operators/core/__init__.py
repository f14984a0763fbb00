"""Base classes and helpers of all operators: the interface, noise, decompositions, checks."""

__all__: list[str] = []
