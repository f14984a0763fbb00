"""Color scales of the maps, as the page draws them."""

from __future__ import annotations

import numpy as np

__all__ = ["tables"]

SCALES = {"heat": "magma", "diverging": "RdBu_r"}  # heat: as in std.png


def tables() -> dict[str, str]:
    """Return 256 colors of each scale, as hexadecimal digits of red, green and blue."""
    from matplotlib import colormaps

    return {name: colormaps[scale](np.arange(256), bytes=True)[:, :3].tobytes().hex() for name, scale in SCALES.items()}
