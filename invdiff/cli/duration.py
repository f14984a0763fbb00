"""Durations in words."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Format a duration to two significant digits: ``8 seconds``, ``3.5 minutes``, ``2 hours``."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'s' if whole != 1 else ''}"
