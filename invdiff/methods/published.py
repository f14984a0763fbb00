"""Which of the published settings of a method belong to a measurement."""

from __future__ import annotations

from invdiff.methods.method import Method, Preset
from invdiff.operators import Blur, Downsample, LinearOperator, Mask, Operator

__all__ = ["kind_of", "preset_for"]


def kind_of(op: Operator) -> str:
    """Return the kind of measurement as papers tabulate it: mask, blur, downsample, nonlinear, or other."""
    if op.items is not None:
        found = sorted({kind_of(one) for one in op.distinct})
        return found[0] if len(found) == 1 else "other"
    kinds = {"mask": Mask, "blur": Blur, "downsample": Downsample}
    found = [name for name, cls in kinds.items() if isinstance(op, cls)]
    return found[0] if found else "other" if isinstance(op, LinearOperator) else "nonlinear"


def preset_for(preset: str, method: Method, op: Operator) -> Preset:
    """Return the published settings of ``method`` for the kind of measurement of ``op``.

    Raises:
        ValueError: If there are none. The message lists the kinds with published settings.
    """
    if preset != "paper":
        raise ValueError(f"Unknown preset {preset!r}, expected 'paper'.")
    known, kind = method.presets, kind_of(op)
    if kind in known or "any" in known:
        return known.get(kind, known.get("any", Preset({}, "")))
    if not known:
        raise ValueError(
            f"preset='paper': no published settings are available for method {method.name!r}. Leave the preset out."
        )
    raise ValueError(
        f"preset='paper': the published settings of {method.name!r} are for {', '.join(known)} only, not for {kind} "
        f"({type(op).__name__}). Leave the preset out."
    )
