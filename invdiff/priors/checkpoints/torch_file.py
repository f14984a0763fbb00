"""Files of ``torch.save``, zip archives and the older format, read by the stack machine: any pickle protocol, no code.

``torch.load(..., weights_only=True)`` takes pickles of protocol 2 alone, inflates archives of any size, and returns tensors
that claim more numbers than they have. Here a file gets as much memory as it holds.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import torch
from torch import Tensor

from invdiff.priors.checkpoints.pickles import (
    LEGACY_STORAGE,
    NAMES,
    STORAGES,
    Storage,
    StorageKind,
    failures_of,
    fill,
    plain,
    strided,
)
from invdiff.priors.checkpoints.stack_machine import Name, Other, ProgramFile, Refused, StackMachine, exactly

__all__ = ["fill_from", "is_legacy", "read_torch"]

UNPACKED = 4  # how many times as large as the file the entries of a compressed archive may be in all
SMALL = 2**16  # bytes that may be unpacked from any archive
LOCAL = struct.Struct("<4s22xHH")  # the header of an entry: its mark, and the lengths of its name and of what follows it
ENCRYPTED = 1  # the bit of an entry's flags
MAGIC = LEGACY_STORAGE[0]
LEGACY = (  # the first pickle of the older format, by protocol: 1, then 2 and 3, then 4 and 5
    b"L%dL\n." % MAGIC,
    b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b".",
)


def is_legacy(start: bytes) -> bool:
    """Return whether a file that begins with these bytes was written by ``torch.save`` before version 1.6, or in its format."""
    return any(magic in start[:32] for magic in LEGACY)


def read_torch(path: Path, *, zipped: bool) -> Any:
    """Return what ``torch.save`` wrote: tensors, numbers and text in plain containers.

    Raises:
        ValueError: If the file is damaged, is another kind of archive, names anything that could run code, or asks for more
            memory than it holds.
    """
    if zipped:
        with path.open("rb") as archive, failures_of(path):
            return _read_zip(archive)
    with ProgramFile(path) as program, failures_of(path):
        return _read_legacy(program)


def _read_zip(file: IO[bytes]) -> Any:
    size = os.fstat(file.fileno()).st_size
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"its list of entries at the end is missing: {error}") from error
    with archive:
        entries = {name: entry for entry in archive.infolist() for name in [entry.filename.partition("/")[2]] if name}
        total = sum(entry.file_size for entry in archive.infolist())
        if total > UNPACKED * size + SMALL:
            raise Other(f"unpacks to {total / 2**10:,.0f} KiB from {size / 2**10:,.0f} KiB, more than weights do: not read")
        if "data.pkl" not in entries:
            raise Other(_other_archive([entry.filename for entry in archive.infolist()]))
        if "constants.pkl" in entries or any(name.startswith("code/") for name in entries):
            raise Other(
                "is a TorchScript program, which holds code besides its weights. Expected a state dict: "
                "torch.save(model.state_dict(), ...)"
            )
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise Other("was written on a big-endian machine, which is not supported. Save it again on another")
        storages: dict[str, Tensor] = {}

        def load(key: str, length: int) -> Tensor:
            if key not in storages:
                storages[key] = _entry(archive, file, entries[f"data/{key}"])
            return storages[key]

        program = archive.read(entries["data.pkl"])
        return plain(_machine(io.BytesIO(program), len(program), load).run())


def _other_archive(names: list[str]) -> str:
    found = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in found:
        return "is a model of Keras, not of PyTorch. Expected a checkpoint of PyTorch"
    if names and all(name.endswith(".npy") for name in names):
        return "holds arrays of NumPy (.npz). Expected a checkpoint"
    wanted = (".pt", ".pth", ".pkl", ".ckpt", ".safetensors", "model_index.json")
    inner = sorted(name for name in names if name.endswith(wanted))
    advice = f"Unpack it, and give {inner[0]:.100}" if inner else "Expected a checkpoint"
    return f"is a zip archive that torch.save did not write. {advice}"


def _read_legacy(file: ProgramFile) -> Any:
    storages, left = dict[str, Tensor](), file.size

    def load(key: str, length: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= length
            if left < 0:
                raise ValueError("its storages are larger than the file")
            storages[key] = torch.empty(length, dtype=torch.uint8)
        return storages[key]

    def read() -> Any:
        return _machine(file, file.size, load).run()

    if (read(), read()) != LEGACY_STORAGE or exactly(read(), dict).get("little_endian") is not True:
        raise ValueError("it is in an unknown version of the format")
    result = plain(read())
    for key in exactly(read(), list):
        values = storages.get(exactly(key, str))
        if values is None:
            raise ValueError("it holds a storage that nothing describes")
        (count,) = struct.unpack("<q", file.read(8))
        if len(values) % count if count else len(values):
            raise ValueError("it holds a storage that contradicts its description")
        fill_from(file, values)
    return result


def fill_from(stream: Any, values: Tensor) -> None:
    """Read the bytes of ``values``, of type uint8, from a stream.

    Raises:
        EOFError: If the stream ends before.
    """
    target = memoryview(cast(Any, values.numpy()))
    done = stream.readinto(target)
    if done < len(target):
        raise EOFError(f"it ends after {done:,} of {len(target):,} bytes of a tensor")


def _entry(archive: zipfile.ZipFile, file: IO[bytes], entry: zipfile.ZipInfo) -> Tensor:
    """Return the bytes of an entry, uint8.

    Those that are not compressed are read directly: copies and checksums of ``zipfile`` take six times as long.
    """
    values = torch.empty(entry.file_size, dtype=torch.uint8)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
        with archive.open(entry) as member:
            fill_from(member, values)
        return values
    file.seek(entry.header_offset)
    header = file.read(LOCAL.size)
    magic, name, extra = LOCAL.unpack(header)
    if magic != b"PK\x03\x04":
        raise ValueError("an entry is not where the list of entries says")
    file.seek(name + extra, os.SEEK_CUR)
    fill_from(file, values)
    return values


def _machine(stream: IO[bytes], size: int, load: Callable[[str, int], Tensor]) -> StackMachine:
    def stored(identity: Any) -> Storage:
        word, kind, key, _device, count, *view = exactly(identity, tuple)
        if word != "storage" or view not in ([], [None]):
            raise Refused("a persistent identity that is not a storage")
        length = exactly(count, int) * exactly(kind, StorageKind).dtype.itemsize
        values = load(exactly(key, str), length)
        if not 0 <= length <= len(values):
            raise ValueError(f"a storage of {len(values)} bytes, expected {length}")
        return Storage(values[:length].view(kind.dtype))

    return StackMachine(stream, size, find=TORCH_NAMES.get, fill=fill, stored=stored)


def _typed(storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_metadata: Any) -> Tensor:
    """Return a tensor of a type that is younger than typed storages."""
    values = exactly(storage, Storage).values.view(exactly(dtype, torch.dtype))
    return strided(Storage(values), offset, size, stride)


def _parameter(data: Any, *_rest: Any) -> Tensor:
    return cast(Tensor, exactly(data, Tensor))


def _with_attributes(build: Any, kind: Any, arguments: Any, _attributes: Any) -> Tensor:
    if exactly(kind, Name).text not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        raise Refused(f"a tensor of class {kind.text}")
    return cast(Tensor, exactly(exactly(build, Name).build(*exactly(arguments, tuple)), Tensor))


def _not_plain(what: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any) -> NoReturn:
        raise Other(f"holds {what} tensors, which are not supported. Save the weights as plain tensors in float32")

    return refuse


KINDS = {
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "empty (meta)",
    "_rebuild_wrapper_subclass": "wrapped",
}
TYPES = ("float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "uint16", "uint32", "uint64")
# Everything a file of torch.save may name.
TORCH_NAMES: Mapping[str, Any] = {
    **NAMES,
    **STORAGES,
    **{f"torch.{name}": getattr(torch, name) for name in TYPES if hasattr(torch, name)},
    "torch.storage.UntypedStorage": StorageKind(torch.uint8),
    "torch.serialization._get_layout": Name("torch.serialization._get_layout", build=lambda *_: None),
    **{f"torch.{name}Storage": StorageKind(torch.int8) for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")},
    "torch.ComplexFloatStorage": StorageKind(torch.complex64),
    "torch.ComplexDoubleStorage": StorageKind(torch.complex128),
    "torch._utils._rebuild_tensor": Name("torch._utils._rebuild_tensor", build=strided),
    "torch._utils._rebuild_tensor_v3": Name("torch._utils._rebuild_tensor_v3", build=_typed),
    "torch._utils._rebuild_parameter_with_state": Name("torch._utils._rebuild_parameter_with_state", build=_parameter),
    "torch._tensor._rebuild_from_type_v2": Name("torch._tensor._rebuild_from_type_v2", build=_with_attributes),
    "torch.Tensor": Name("torch.Tensor"),
    "torch.nn.parameter.Parameter": Name("torch.nn.parameter.Parameter"),
    "collections.Counter": Name("collections.Counter", build=lambda items=(): dict(items) if type(items) is dict else {}),
    **{f"torch._utils.{name}": Name(f"torch._utils.{name}", build=_not_plain(what)) for name, what in KINDS.items()},
}
