"""Measurements that are not linear."""

__all__: list[str] = []
