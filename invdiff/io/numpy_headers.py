"""Shapes of the arrays in NumPy files, read from their headers: what a file declares is bounded before its values are read."""

from __future__ import annotations

import zipfile
from typing import IO, Any

from numpy.lib import format as npy

from invdiff.io.limits import LARGEST_ARRAY, check_array

__all__ = ["declared_shapes"]

LARGEST = 2**31  # bytes that the members of an .npz file may have in all
UNPACKED = 100  # how many times as large as the file they may be if they are not small
SMALL = 2**26  # bytes that may be unpacked from any archive: a mask of the largest image
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def declared_shapes(file: IO[bytes], largest: int = LARGEST_ARRAY) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays in an open ``.npy`` or ``.npz`` file by name, and go back to its beginning.

    The name of the array of an ``.npy`` file is empty. Members that are no array, and unknown versions, are left out.

    Args:
        file: The file.
        largest: Most values that an array may have.

    Raises:
        ValueError: If an array, or all of them together, is too large to be read, or much larger than the file.
    """
    if not zipfile.is_zipfile(file):
        file.seek(0)
        shapes = {"": _shape(file)}
    else:
        size = file.seek(0, 2)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > LARGEST:
                raise ValueError(f"its arrays have {total} bytes in all, expected at most {LARGEST}")
            if total > max(SMALL, UNPACKED * size):
                raise ValueError(
                    f"its arrays unpack to {total / 2**20:,.0f} MiB from {size / 2**20:,.2f} MiB, more than measured "
                    "numbers do: save it with np.savez, without compression"
                )
            shapes = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    shapes[name.removesuffix(".npy")] = _shape(member)
    file.seek(0)
    found = {name: shape for name, shape in shapes.items() if shape is not None}
    for shape in found.values():
        check_array(shape, largest)
    return found


def _shape(file: IO[bytes]) -> tuple[int, ...] | None:
    try:
        read: Any = HEADERS[npy.read_magic(file)]
        shape: tuple[int, ...] = read(file)[0]
    except Exception:  # of many kinds; numpy says what is wrong when it reads the file
        return None
    return shape
