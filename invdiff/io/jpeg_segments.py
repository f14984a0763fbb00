"""Bounds on the segments of JPEG files: every scan of a progressive file passes over the whole image."""

from __future__ import annotations

import mmap
import re

__all__ = ["MARKER", "check_segments"]

MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # ends the data of a scan
MOST_SCANS = 100  # encoders write about ten; libjpeg's limit for hostile files is of this order
MOST_TABLES = 4 * MOST_SCANS


def check_segments(data: bytes | mmap.mmap) -> None:
    """Raise a ``ValueError``, which does not name the file, if a JPEG file has absurdly many scans or Huffman tables."""
    scans = tables = 0
    at = 2
    while (found := MARKER.search(data, at)) is not None:
        marker, at = found.group()[-1], found.end()
        if marker == 0xD9:  # end of the image
            return
        if marker in (0x01, 0xD8):  # without content
            continue
        scans += marker == 0xDA
        tables += marker == 0xC4
        if scans > MOST_SCANS or tables > MOST_TABLES:
            raise ValueError(
                f"it has more than {MOST_SCANS} scans or {MOST_TABLES} segments of Huffman tables, made to decode slowly: "
                "no camera or program writes so many"
            )
        at += int.from_bytes(data[at : at + 2], "big")
