"""Damage of pictures: a proposal of where scratches, cracks, dust, date stamps and thin overlays are."""

from invdiff.damage.proposal import KINDS, SENSITIVITY, THICKNESS, Damage, find_damage

__all__ = ["KINDS", "SENSITIVITY", "THICKNESS", "Damage", "find_damage"]
