"""Which pictures of a restoration are written."""

from __future__ import annotations

from collections.abc import Iterable

from invdiff.problems import OptionError

__all__ = ["KEPT", "PARTS", "QUANTILES", "kept_parts"]

PARTS = ("samples", "best", "mean", "std", "comparison", "quantiles")
KEPT = PARTS[:-1]  # unless others are asked for
QUANTILES = {"quantile-05": 0.05, "quantile-50": 0.5, "quantile-95": 0.95}


def kept_parts(wanted: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the parts to be written, in the order of :data:`PARTS`.

    Args:
        wanted: Their names, or one text with commas; ``None``: those of :data:`KEPT`.

    Raises:
        OptionError: If one is unknown, or there is none.
    """
    if wanted is None:
        return KEPT
    names = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else [str(name) for name in wanted]
    unknown = sorted({name for name in names if name not in PARTS})
    if unknown or not names:
        what = ", ".join(map(repr, unknown)) if any(unknown) else "nothing"
        raise OptionError(f"--keep: got {what}; expected some of {','.join(PARTS)}, separated by commas.")
    return tuple(part for part in PARTS if part in names)
