"""HDF5 files, opened so that nothing outside the file is read and no code of a filter is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.limits import LARGEST_ARRAY, check_array

__all__ = ["HDF5_MAGIC", "created", "dataset", "has", "is_hdf5", "names", "opened", "values"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_LINKS = 16  # links within a file that are followed one after another
SEARCHED = 2**16  # bytes of a file in which names of members are looked for without h5py
# Filters that HDF5 and h5py hold themselves: deflate, shuffle, checksum, szip, n bits, scale and offset, LZF. Others are loaded
# from libraries on disk.
BUILT_IN = frozenset({1, 2, 3, 4, 5, 6, 32000})


def is_hdf5(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of HDF5; MATLAB 7.3 has 512 of its own before them."""
    return head.startswith(HDF5_MAGIC) or head[512:520] == HDF5_MAGIC


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield an open ``h5py.File``.

    Raises:
        ValueError: If it is damaged: the reason, which does not name the file.
    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError("it is damaged or truncated: HDF5 cannot open it") from error
    with file:
        yield file


@contextmanager
def created(path: Path) -> Iterator[Any]:
    """Yield a new ``h5py.File``, without the time of writing, so that equal results are equal files."""
    import h5py

    with h5py.File(path, "w", locking=False, track_order=False) as file:
        yield file


def has(path: Path, *wanted: str) -> bool:
    """Return whether a file has these members, with slashes; if it cannot be opened, whether its first bytes name them."""
    try:
        import h5py

        with h5py.File(path, "r", locking=False) as file:
            return all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in wanted)
    except (ImportError, OSError, RuntimeError, KeyError):  # not installed, or truncated
        with path.open("rb") as start:
            head = start.read(SEARCHED)
        return all(part.encode() + b"\0" in head for name in wanted for part in name.split("/"))


def names(file: Any) -> frozenset[str]:
    """Return the names of the members at the top of a file or in a group."""
    return frozenset(str(name) for name in file)


def dataset(file: Any, name: str, *, largest: int | None = LARGEST_ARRAY) -> Any:
    """Return a dataset of an open file, whose values are not read yet.

    Args:
        file: An ``h5py.File`` or a group of one.
        name: Its name, with slashes.
        largest: Most values that it may have; ``None``: any number, of which a part is read at a time.

    Raises:
        ValueError: If there is none, if its values are in another file, or if a filter from outside would be needed.
    """
    import h5py

    place: Any = file
    parts, followed = [part for part in name.split("/") if part], 0
    while parts:
        part = parts.pop(0)
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            raise ValueError(f"it has no dataset {name!r}, but {', '.join(sorted(names(file))[:12]) or 'nothing'}")
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{name!r} is a link to another file, {link.filename}, which is not followed")
        if isinstance(link, h5py.SoftLink):  # followed here, because HDF5 would follow links to other files on its way
            followed += 1
            if followed > MOST_LINKS:
                raise ValueError(f"{name!r} is a link to itself")
            place = place.file if link.path.startswith("/") else place
            parts = [*(step for step in link.path.split("/") if step not in ("", ".")), *parts]
            continue
        try:
            place = place[part]
        except (KeyError, OSError, RuntimeError) as error:
            raise ValueError(f"{name!r} is damaged") from error
    if not isinstance(place, h5py.Dataset):
        raise ValueError(f"{name!r} is a group, expected a dataset")
    found: Any = place
    if found.is_virtual or found.external:
        raise ValueError(f"the values of {name!r} are in other files, which are not read")
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    foreign = [number for number in filters if number not in BUILT_IN]
    if foreign:
        raise ValueError(
            f"{name!r} is compressed by the HDF5 filter {foreign[0]}, which is not part of HDF5; repack it with gzip"
        )
    if found.chunks is not None:  # they are unpacked whole, and may be larger than the dataset
        check_array(found.chunks)
    if largest is not None and found.shape is not None:
        check_array(found.shape, largest)
    return found


def values(found: Any, where: Any = ()) -> NDArray[Any]:
    """Return the values of a dataset, or a part of it, as an array.

    Raises:
        ValueError: If they are damaged.
    """
    try:
        return np.asarray(found[where])
    except (OSError, RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"the values of {found.name!r} are damaged or truncated") from error
