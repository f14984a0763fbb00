"""Operators that select values: masks, crops, mosaics, mixtures of channels."""

__all__: list[str] = []
