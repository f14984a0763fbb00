"""Readers of common checkpoint formats, detected from the file contents and read without executing code."""

__all__: list[str] = []
