"""What every operator shares: the interface, noise, decompositions, checks."""

__all__: list[str] = []
