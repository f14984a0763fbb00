"""Published settings by method and kind of measurement, collected from the files of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invdiff.methods import METHODS
from invdiff.methods.method import Method, Preset
from invdiff.operators import Blur, Downsample, LinearOperator, Mask, Operator

__all__ = ["PRESETS", "Preset", "kind_of", "preset_for"]


class _Presets(Mapping[str, Mapping[str, Preset]]):
    """The methods with published settings. The file of a method is imported on first access."""

    def __getitem__(self, name: str) -> Mapping[str, Preset]:
        presets = METHODS[name].presets
        if not presets:
            raise KeyError(name)
        return presets

    def __iter__(self) -> Iterator[str]:
        return (name for name, method in METHODS.items() if method.presets)

    def __len__(self) -> int:
        return sum(1 for _ in self)


# method: {kind of measurement, or "any": preset}
PRESETS: Mapping[str, Mapping[str, Preset]] = _Presets()


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
