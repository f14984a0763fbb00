"""Read the tensors of a checkpoint file, in plain containers, without executing code from it."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Contents", "open_contents", "state_dicts"]

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of a torch.save file before version 1.6
OTHERS = {  # other files, often downloaded by mistake
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"<": "a web page, not the file itself: the download needs a login or a confirmation",
    b"\x89HDF\r\n\x1a\n": "HDF5 (Keras or MATLAB)",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"7z\xbc\xaf": "compressed by 7-Zip: unpack it first",
    b"GGUF": "GGUF, a format for quantized language models",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
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
    """Read a file by its content, whatever its name. The tensors of a safetensors file are read from disk when they are used.

    Raises:
        ValueError: If the file is damaged, of an unknown kind, or cannot be read without running code.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path}: is empty. The download may have failed.")
    # Safetensors: eight bytes of length, then JSON. Checked first, since the length may begin like a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return _load_safetensors(path)
    if start.startswith((ZIP, LEGACY_TORCH)):
        return Contents(path, "torch", _load_torch(path, zipped=start.startswith(ZIP)))
    if start.startswith(PICKLE):
        from invdiff.priors.checkpoints.pickles import read_pickle

        return Contents(path, "pickle", read_pickle(path))
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    unknown = f"of an unknown kind (it begins with {start[:8]!r})"
    known = next((what for magic, what in OTHERS.items() if start.lstrip().startswith(magic)), unknown)
    raise ValueError(f"{path}: is {known}. Expected a checkpoint: safetensors, a torch.save file, or an EDM pickle.")


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


def _load_torch(path: Path, *, zipped: bool) -> Any:
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path}: is damaged or cut off ({_line(error)}). Download it again.") from error
        if "data.pkl" not in names:
            raise ValueError(f"{path}: is a zip archive that torch.save did not write. Expected a checkpoint.")
        if "constants.pkl" in names:
            raise ValueError(
                f"{path}: is a TorchScript program, which holds code besides its weights. Expected a state dict: "
                "torch.save(model.state_dict(), ...)."
            )
    try:
        # Not memory-mapped: rewriting a mapped file, as training does with its own, would kill the process. Opened here,
        # because torch would otherwise interpret the file name.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds {refused.group(1)}" if refused else "is damaged, or holds more than tensors in plain containers"
        raise ValueError(
            f"{path}: {what}, which could run code when read, so the file was not read. "
            "If you trust the file, save the weights alone: torch.save(model.state_dict(), ...)."
        ) from error
    except Exception as error:  # A damaged pickle may fail in any way, but runs no code.
        raise ValueError(f"{path}: is damaged or cut off ({_line(error)}). Download it again.") from error


def _load_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return Contents(path, "safetensors", load_file(path), metadata)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({_line(error)}).") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
