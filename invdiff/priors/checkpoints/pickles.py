"""Safe reading of pickles: every allowed name builds a tensor, a plain container or an inert record, and nothing else."""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invdiff.priors.checkpoints.records import DEEPEST, Record
from invdiff.priors.checkpoints.stack_machine import Name, Other, ProgramFile, Refused, StackMachine, exactly, hashable

__all__ = [
    "LEGACY_STORAGE",
    "NAMES",
    "STORAGES",
    "Storage",
    "StorageKind",
    "failures_of",
    "fill",
    "plain",
    "read_pickle",
    "strided",
]

LEGACY_STORAGE = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version of torch.save before version 1.6


def read_pickle(path: Path) -> Any:
    """Read a pickle: tensors, arrays, numbers, text and records in plain containers.

    Raises:
        ValueError: If the file is damaged, or uses a name that is not in the table of this module.
    """

    with ProgramFile(path) as file, failures_of(path):
        return plain(StackMachine(file, file.size, find=_find, fill=fill).run())


@contextlib.contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Turn every failure to read a file into one line with its name.

    Raises:
        ValueError: If reading fails.
    """
    try:
        yield
    except (Refused, Other) as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # A damaged file may fail in any way, but runs no code.
        reason = ascii(" ".join(str(error).split())[:200])[1:-1] or type(error).__name__
        raise ValueError(f"{path}: is damaged or cut off ({reason}). Download it again.") from error


def plain(result: Any) -> Any:
    """Return ``result`` after checking that it is plain data and not nested too deeply."""
    level, seen = [result], set[int]()
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Name):
                raise Refused(value.text)
            if isinstance(value, Storage):
                raise ValueError("a storage without a shape")
            children = value.state if isinstance(value, Record) else value
            if isinstance(children, dict | list | tuple) and id(children) not in seen:
                seen.add(id(children))
                inner += children.values() if isinstance(children, dict) else children
        if not inner:
            return result
        level = inner
    raise ValueError(f"containers are nested deeper than {DEEPEST}")


def _find(text: str) -> Any:
    if re.fullmatch(r"torch\.nn\.modules(\.[a-z_]+)+\.[A-Z][A-Za-z0-9]*", text):
        return Name(text, new=lambda: Record(text))
    return NAMES.get(text)


def fill(target: Any, state: Any) -> None:
    """Set the state of a record or an array (BUILD).

    Raises:
        Refused: If the target is anything else.
    """
    if type(target) is Record:
        target.state.update(exactly(state, dict))
    elif type(target) is np.ndarray:
        shape, dtype, fortran, data = exactly(state, tuple)[-4:]
        order = "F" if exactly(fortran, bool) else "C"
        checked = _array(exactly(data, bytes), dtype, shape, order)
        target.__setstate__((1, checked.shape, checked.dtype, fortran, data))  # in place: there may be other references
    elif isinstance(target, np.dtype):
        if state[1] not in ("<", "|", "=") or state[2:5] != (None, None, None):
            raise ValueError("an array whose entries are not plain little-endian numbers")
    elif type(target) is not dict:  # Attributes of an ordered dictionary, such as the versions in a state dict, are dropped.
        raise Refused(f"a state for {target.text if isinstance(target, Name) else type(target).__name__}")


@dataclass(frozen=True, eq=False)
class StorageKind:
    """The type of the numbers in a storage."""

    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers of a storage, a tensor with one axis."""

    values: Tensor


def _load_storage(data: bytes) -> Storage:
    """Read a storage as ``torch.save`` writes it without a zip archive: five pickles, a count, and the values."""
    stream = io.BytesIO(exactly(data, bytes))

    def read() -> Any:
        return StackMachine(stream, len(data), find=STORAGES.get, fill=fill, stored=_stored).run()

    if (read(), read()) != LEGACY_STORAGE or exactly(read(), dict).get("little_endian") is not True:
        raise ValueError("a storage in an unknown format")
    dtype, key, count = read()
    if read() != [key] or struct.unpack("<q", stream.read(8)) != (count,):
        raise ValueError("a storage that contradicts its description")
    start, length = stream.tell(), count * exactly(dtype, torch.dtype).itemsize
    if not 0 <= length <= len(data) - start:
        raise ValueError(f"a storage of {len(data) - start} bytes, expected {length}")
    if not length:
        return Storage(torch.empty(0, dtype=dtype))
    # Copied, since the values in the file need not be aligned.
    return Storage(torch.frombuffer(bytearray(memoryview(data)[start : start + length]), dtype=dtype))


def _stored(identity: Any) -> tuple[torch.dtype, str, int]:
    word, kind, key, _device, count, *view = exactly(identity, tuple)
    if word != "storage" or view not in ([], [None]):
        raise Refused("a persistent identity that is not a storage")
    return exactly(kind, StorageKind).dtype, exactly(key, str), exactly(count, int)


def strided(storage: Any, offset: Any, size: Any, stride: Any, *_gradients: Any) -> Tensor:
    """Return a view of a storage. It has no more numbers than the storage: repeated ones (stride 0) are refused.

    Raises:
        TypeError: If an argument is not of its type.
        ValueError: If the view does not fit.
    """
    values: Tensor = exactly(storage, Storage).values
    size, stride, (offset,) = _sizes(size), _sizes(stride), _sizes((offset,))
    count = math.prod(size)  # Python integers do not overflow.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > len(values) or (count and last >= len(values)):
        shape = f"{size}"
        raise Other(
            f"holds a tensor of shape {shape:.80} in a storage of {len(values):,} values: it is expanded, or damaged. Save it "
            "as a whole: tensor.clone()"
        )
    return values.as_strided(size, stride, offset if count else 0)


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or len(numbers) > 16 or any(type(n) is not int or not 0 <= n < 2**40 for n in numbers):
        raise TypeError("sizes that are not natural numbers")
    return tuple(numbers)


def _parameter(data: Any, *_gradients: Any) -> Tensor:
    return cast(Tensor, exactly(data, Tensor))


def _persistent_object(meta: Any) -> Record:
    # "module_src" in the file is the source code of the class; it is dropped.
    state = exactly(meta, dict)["state"]
    return Record(exactly(meta["class_name"], str), {} if state is None else exactly(state, dict))


def _device(kind: Any, *index: Any) -> str:
    return ":".join([exactly(kind, str), *(str(exactly(number, int)) for number in index)])


def _dtype(code: Any, *_flags: Any) -> np.dtype[Any]:
    if not re.fullmatch(r"[<|=]?(b1|[iu][1248]|f[248]|c8|c16)", exactly(code, str)):
        raise Refused(f"an array of type {code}")
    little: np.dtype[Any] = np.dtype(code).newbyteorder("<")
    return little


def _scalar(dtype: Any, data: Any) -> complex:
    return cast(complex, _array(data, dtype, ()).item())


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    if not isinstance(dtype, np.dtype) or order not in ("C", "F") or not isinstance(data, bytes | bytearray):
        raise TypeError("an array without its type, order or values")
    return np.frombuffer(data, dtype).copy().reshape(_sizes(shape), order=cast(Any, order))


def _empty_array(*_arguments: Any) -> np.ndarray[Any, Any]:
    return np.empty(0, np.uint8)


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return cast(str, exactly(text, str)).encode("latin-1")


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return {hashable(key): value for key, value in items}


def _set(items: Any = ()) -> set[Any]:
    return set(map(hashable, items))


def _bytes(data: Any = b"") -> bytes:
    return cast(bytes, exactly(data, bytes))


CALLS: Mapping[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch._utils._rebuild_tensor_v2": strided,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _load_storage,
    "torch.Size": lambda sizes: torch.Size(_sizes(sizes)),
    "torch.device": _device,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": lambda items=(): frozenset(_set(items)) for module in ("builtins", "__builtin__")},
    **{f"{module}.{name}": _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
}
DICTIONARIES = ("collections.OrderedDict", "dnnlib.util.EasyDict", "dnnlib.EasyDict", "builtins.dict", "__builtin__.dict")
DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
# Everything a pickle may name, besides modules of torch.
NAMES: Mapping[str, Any] = {
    **{name: Name(name, build=build) for name, build in CALLS.items()},
    **{name: Name(name, build=_ordered, new=dict) for name in DICTIONARIES},
    **{str(dtype): dtype for dtype in DTYPES.values()},
    "numpy.ndarray": Name("numpy.ndarray"),
}
# Everything the pickles in a stored storage may name.
STORAGES: Mapping[str, Any] = {f"torch.{name}Storage": StorageKind(dtype) for name, dtype in DTYPES.items()}
