"""Largest values of settings: above them, memory or time would run out before anything is said."""

from __future__ import annotations

__all__ = ["LIMITS"]

LIMITS = {"samples": 1_000_000, "first_sample": 1_000_000_000, "steps": 1_000_000, "tile": 65_536, "overlap": 65_536}
