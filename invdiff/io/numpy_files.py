"""Arrays in NumPy files, of bounded size and without code."""

from __future__ import annotations

import difflib
import os
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.codecs import READABLE, first_line, is_image
from invdiff.io.kinds import HEAD, kind_of
from invdiff.io.limits import LARGEST_ARRAY
from invdiff.io.numpy_headers import declared_shapes
from invdiff.io.picture import check_picture, native

__all__ = ["declared_arrays", "existing_file", "load_numpy", "read_arrays"]

PICKLE = b"\x80"
DAMAGED = "is damaged, or does not begin as one"


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be read; raise if there is none, or if it is empty, a folder, a pipe or a device."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; expected {READABLE}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected {READABLE}.")
    if path.stat().st_size == 0 and path.is_file():
        raise ValueError(f"{path}: the file is empty; expected {READABLE}.")
    if not path.is_file():  # reading would wait for a writer, or never end
        raise ValueError(f"{path}: is a pipe or a device; expected {READABLE}: save its content to a file first.")
    return path


def read_arrays(path: str | os.PathLike[str], name: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file by name, or the array of an ``.npy`` file under the name ``name``.

    Raises:
        ValueError: If the file is neither ``.npy`` nor ``.npz``, is damaged, or has no array of this name.
        OSError: If the file does not exist or cannot be opened.
    """
    path = existing_file(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected an .npy or .npz file with the array {name!r}, or one of `invdiff formats`.")
    declared_arrays(path)
    arrays = _arrays(path)
    if list(arrays) == [""]:
        return {name: arrays[""]}
    if name not in arrays:
        near = difflib.get_close_matches(name, [other.lower() for other in arrays], n=1)
        hint = next((f" Rename {other!r} to {name!r}?" for other in arrays if [other.lower()] == near), "")
        raise ValueError(f"{path}: has no array {name!r}, got {', '.join(arrays) or 'none'}.{hint}")
    return arrays


def load_numpy(path: Path, key: str = "", *, image: bool = False, largest: int = LARGEST_ARRAY) -> NDArray[Any]:
    declared_arrays(path, image=image, largest=largest)
    arrays = _arrays(path)
    if key in arrays or (not key and len(arrays) == 1):
        return arrays[key] if key else next(iter(arrays.values()))
    wanted = f"no array {key!r}" if key else "several arrays and none was named"
    raise ValueError(f"{path}: {wanted}; append one of its names after a colon: {', '.join(arrays)}.")


def declared_arrays(path: Path, *, image: bool = False, largest: int = LARGEST_ARRAY) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a NumPy file declares, by name; raise if they are too large, or no image where one is due."""
    with path.open("rb") as file:
        try:
            shapes = declared_shapes(file, largest)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError):
            return {}  # damaged, or encrypted: named when it is read
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read: {error}.") from error
    if image and "" in shapes:
        check_picture(shapes[""], path)
    return shapes


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a NumPy file by name; the name of the array of an ``.npy`` file is empty."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06", PICKLE)):
        reason = kind_of(head) or ("is an image: give its name the right ending" if is_image(head) else DAMAGED)
        raise ValueError(f"{path}: {reason}; expected a NumPy file.")
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # numpy warns before it fails on a damaged header.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": native(loaded)}
            with loaded:
                arrays = dict(loaded)
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise exceptions of their own
        if "pickle" in str(error):
            raise ValueError(f"{path}: holds pickled objects, which can run code when read; expected numbers.") from error
        raise ValueError(f"{path}: is damaged or holds no numpy array of numbers ({first_line(error)}).") from error
    other = [name for name, values in arrays.items() if not isinstance(values, np.ndarray)]
    if other:
        raise ValueError(f"{path}: the member {other[0]!r} is no NumPy array; expected arrays alone, as of np.savez.")
    return {name: native(values) for name, values in arrays.items()}
