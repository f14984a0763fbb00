"""MATLAB files: up to version 7.2 by scipy, of version 7.3, which are HDF5, by h5py. Arrays by name; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from invdiff.formats.format import Format, Scan, Stack
from invdiff.formats.hdf5 import HDF5_MAGIC, dataset, names, opened, values
from invdiff.io.limits import check_array

__all__ = ["Matlab", "Matlab73"]

FIVE, SEVEN = b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"
NUMBERS = frozenset({"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})


class Matlab(Format):
    """Arrays of numbers of files up to version 7.2."""

    name = "MATLAB"
    suffixes = (".mat",)
    reads = "arrays of numbers by name: pictures, k-space, sinograms"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return head.startswith(FIVE)

    def open(self, path: Path) -> Stack | Scan:
        import scipy.io

        try:
            held = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(str(path))}
        except Exception as error:
            raise ValueError(f"it is damaged ({(str(error) or type(error).__name__).splitlines()[0]:.120})") from error
        wanted = [name for name, (_, kind) in held.items() if kind in NUMBERS]
        if not wanted:
            raise ValueError(
                f"it holds no arrays of numbers, but {', '.join(f'{n} ({k})' for n, (_, k) in held.items()) or 'nothing'}"
            )
        for name in wanted:
            check_array(held[name][0])

        def arrays(k: int) -> Mapping[str, NDArray[Any]]:
            try:
                found = scipy.io.loadmat(str(path), variable_names=wanted)
            except Exception as error:
                raise ValueError(f"it is damaged ({(str(error) or type(error).__name__).splitlines()[0]:.120})") from error
            return {name: _plain(found[name]) for name in wanted if name in found}

        return Scan(1, arrays)


class Matlab73(Format):
    """Arrays of numbers of files of version 7.3."""

    name = "MATLAB 7.3"
    extra = "matlab"
    modules = ("h5py",)
    suffixes = (".mat",)
    reads = "arrays of numbers by name"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return head.startswith(SEVEN) and head[512:520] == HDF5_MAGIC

    def open(self, path: Path) -> Stack | Scan:
        with opened(path) as file:
            wanted = sorted(name for name in names(file) if name != "#refs#" and _is_numeric(file, name))
        if not wanted:
            raise ValueError("it holds no arrays of numbers")

        def arrays(k: int) -> Mapping[str, NDArray[Any]]:
            with opened(path) as file:
                found = {name: values(dataset(file, name)) for name in wanted}
            # Axes are stored in the order of Fortran, and complex numbers as pairs.
            return {name: _plain(_complex(array).transpose()) for name, array in found.items()}

        return Scan(1, arrays)


def _is_numeric(file: Any, name: str) -> bool:
    import h5py

    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
        return False
    kind = file.get(name, getclass=True)
    return kind is h5py.Dataset and file[name].attrs.get("MATLAB_class", b"").decode() in NUMBERS


def _complex(array: NDArray[Any]) -> NDArray[Any]:
    return array["real"] + 1j * array["imag"] if array.dtype.names == ("real", "imag") else array


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array without the axis of length 1 that MATLAB gives to numbers and vectors."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array
