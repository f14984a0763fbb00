"""Read the tensors of a checkpoint file, in plain containers, without executing code from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from invdiff.priors.checkpoints.kinds import foreign_kind
from invdiff.priors.checkpoints.pickles import read_pickle
from invdiff.priors.checkpoints.torch_file import fill_from, is_legacy, read_torch

__all__ = ["Contents", "open_contents", "state_dicts"]

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
EMPTY_ZIP = b"PK\x05\x06"
LARGEST_HEADER = 2**23  # bytes; 70,000 tensors take as many
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and by torch.compile


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file.

    Attributes:
        path: The file.
        kind: ``safetensors``, ``torch`` (written by ``torch.save``) or ``pickle``.
        data: Tensors in dictionaries, lists and :class:`~invdiff.priors.checkpoints.pickles.Record`.
        metadata: Text metadata of a safetensors file; empty for other kinds.
    """

    path: Path
    kind: str
    data: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_contents(path: Path) -> Contents:
    """Read a file by its content, whatever its name.

    Raises:
        ValueError: If the file is damaged, of an unknown kind, or cannot be read without running code.
        OSError: If the file cannot be opened.
    """
    if not path.is_file():  # A pipe or a device may have no end.
        raise ValueError(f"{path}: is not a regular file. Expected a checkpoint; copy it to a file first.")
    before = path.stat()
    contents = _open(path)
    if _written(path.stat()) != _written(before):
        raise ValueError(f"{path}: has changed while it was read. Try again when it is complete.")
    return contents


def _written(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _open(path: Path) -> Contents:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path}: is empty. The download may have failed.")
    # Safetensors: eight bytes of length, then JSON. Checked first, since the length may begin like a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return _load_safetensors(path)
    if start.startswith((ZIP, EMPTY_ZIP)):
        return Contents(path, "torch", read_torch(path, zipped=True))
    if is_legacy(start):
        return Contents(path, "torch", read_torch(path, zipped=False))
    if start.startswith(PICKLE):
        return Contents(path, "pickle", read_pickle(path))
    known = foreign_kind(path)
    if known is None and path.suffix == ".safetensors":
        return _load_safetensors(path)
    what = known or f"of an unknown kind (it begins with {start[:8]!r})"
    raise ValueError(f"{path}: is {what}. Expected a checkpoint: safetensors, a torch.save file, or an EDM pickle.")


def state_dicts(data: Any, *, depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the path and tensors of every dictionary of tensors in ``data``, averaged weights (``ema``) first."""
    found = list(_nested(data, "", depth))
    yield from sorted(found, key=lambda item: "ema" not in item[0].lower())


def _nested(data: Any, where: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(data, Mapping):
        return
    tensors = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
    average = _flat_average(tensors)
    if average:
        yield f"{where}.model_ema".lstrip("."), average
    if tensors:
        yield where, _without_prefix(tensors)
    if depth > 1:
        for name, value in data.items():
            yield from _nested(value, f"{where}.{name}".lstrip("."), depth - 1)


def _flat_average(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the averages kept by latent-diffusion's ``LitEma``, which drops the dots, by the names of the weights."""
    names = {f"model_ema.{name[6:].replace('.', '')}": name[6:] for name in tensors if name.startswith("model.")}
    return {name: tensors[flat] for flat, name in names.items() if flat in tensors and "." in name}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors


def _load_safetensors(path: Path) -> Contents:
    """Read a safetensors file. The values are copied, since rewriting a mapped file would change them, or kill the process."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the name is not in UTF-8, which safetensors files need. Rename it.") from None
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > LARGEST_HEADER:
                raise ValueError(f"its header of {size:,} bytes is too large, expected at most {LARGEST_HEADER:,}")
            header = file.read(size)
            with safe_open(path, framework="pt") as checked:  # checks the header, and that every tensor has its own place
                metadata = checked.metadata() or {}
            entries: dict[str, Any] = json.loads(header, object_pairs_hook=_once)
            entries.pop("__metadata__", None)
            data: dict[str, Tensor] = {}
            for name, entry in entries.items():
                if entry["dtype"] not in TYPES:
                    raise ValueError(f"{name:.100} is of type {entry['dtype']:.20}, expected one of {', '.join(TYPES)}")
                data[name] = torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
                file.seek(8 + size + entry["data_offsets"][0])
                fill_from(file, data[name].view(-1).view(torch.uint8))
        return Contents(path, "safetensors", data, metadata)
    except OSError:
        raise
    except Exception as error:  # safetensors and torch have errors of their own
        raise ValueError(f"{path}: not a safetensors file, or damaged ({_line(error)}).") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the entries of a JSON object, whose names must differ."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has two entries named {next(name for name in names if names.count(name) > 1)!r:.100}")
    return entries


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
