"""Files of every trade: measurements and images with their units and headers, by formats told by content.

>>> from invdiff import formats
>>> kind, stack = formats.opened("scan.nii.gz")  # doctest: +SKIP
>>> kind.name, stack.shape, stack.unit, stack.picture(0)  # doctest: +SKIP
"""

from __future__ import annotations

from invdiff.formats.format import Format, Grid, Scan, Stack, Written
from invdiff.formats.registry import FORMATS, format_of, opened

__all__ = ["FORMATS", "Format", "Grid", "Scan", "Stack", "Written", "format_of", "opened"]
