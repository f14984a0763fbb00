"""Network architectures of published checkpoints, with the parameter names and shapes of the original code."""

__all__: list[str] = []
