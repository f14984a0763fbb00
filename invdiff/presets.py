"""Published settings by method and kind of measurement, collected from the files of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invdiff.methods import METHODS
from invdiff.methods.method import Preset
from invdiff.methods.published import kind_of, preset_for

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
