"""Where a prior is: a bundled name, a path, or an id on the Hugging Face hub, which is asked for nothing else."""

from __future__ import annotations

import difflib
import importlib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invdiff.priors.save import BUNDLED

__all__ = ["locate"]

HUB_ID = re.compile(r"(?!.*(\.\.|--))[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
# Suffixes of weights, of other data, and of what they come packed in. Names on the hub may have dots, as in "ddpm-v1.5".
FILE = re.compile(
    r"\.(pt|pth|pkl|pickle|ckpt|bin|safetensors|onnx|gguf|h5|hdf5|keras|msgpack|npy|npz|mat|json|ya?ml|toml|txt|md|csv|py|ipynb|"
    r"png|jpe?g|tiff?|webp|gif|bmp|avif|heic|jxl|dng|raw|dcm|fits?|nii|zip|tar|gz|tgz|bz2|xz|7z|rar)",
    re.IGNORECASE,
)
# Names of folders, which are no owners on the hub.
FOLDER = re.compile(
    r"\.*(archives?|build|cache|cases|checkpoints?|ckpts?|data|datasets?|dist|docs|downloads?|examples?|exp|experiments?|home|"
    r"images?|img|inputs?|logs?|models?|nets?|networks?|out|outputs?|photos?|pictures?|pretrained|priors?|results?|runs?|"
    r"samples?|saved?|saves|src|tests?|tmp|train|training|weights?|work)[-_.]?\d*",
    re.IGNORECASE,
)
NEAR = 0.75  # likeness of two names, from 0 to 1
MOST_NAMES = 2000  # names of a folder that are compared


def locate(source: str | Path, given: Mapping[str, Any] | None = None) -> Path:
    """Return the file or folder of a prior. A hub id is downloaded.

    The hub is asked only if ``source`` can be nothing else: text of the form ``owner/name`` whose owner is no folder here, is
    not named as folders are, and whose name has no suffix of a file.

    Args:
        source: A name, a path or a hub id.
        given: Options with which the prior will be loaded, if it will: those of a hub id are checked before its weights are
            downloaded.

    Raises:
        ValueError: If there is no such prior. The message names files of similar names.
        OSError: If a download fails.
    """
    text = str(source)
    path = BUNDLED.get(text, Path(source))
    if text and "\0" not in text and os.path.lexists(path):
        if not path.exists():
            raise ValueError(f"{text}: is a symbolic link to a missing file, or to itself. Expected a checkpoint.")
        return path
    if not isinstance(source, Path) and HUB_ID.fullmatch(text) and not _is_local(text):
        downloaded: Path = importlib.import_module("invdiff.priors.hub").download(text, given)
        return downloaded
    expected = f"expected one of {', '.join(BUNDLED)}, the path of a checkpoint, or a hub id such as google/ddpm-celebahq-256"
    if not re.search(r"[\\/.~]", text) or "\0" in text:
        near = difflib.get_close_matches(text.lower(), [*BUNDLED, *_names(Path(), text)], 1, NEAR)
        raise ValueError(f"Unknown prior {text!r:.200}: {f'did you mean {near[0]}? Otherwise ' if near else ''}{expected}.")
    raise ValueError(f"{text:.500}: no such file or folder{_reason(text, path)}. {expected[0].upper()}{expected[1:]}.")


def _is_local(text: str) -> bool:
    """Return whether text of the form of a hub id looks like a path."""
    owner, _, name = text.partition("/")
    if any(FILE.fullmatch(Path(part).suffix) for part in (owner, name)) or FOLDER.fullmatch(owner) or Path(owner).exists():
        return True
    folders = [each for each in _names(Path(), owner) if Path(each).is_dir()]
    return bool(difflib.get_close_matches(owner, folders, 1, NEAR))


def _reason(text: str, path: Path) -> str:
    """Return what of a path is missing, or names that are like it."""
    if text.startswith("~"):
        return " (~ is expanded by the shell only, without quotes)"
    if "\\" in text and os.sep != "\\":
        return r" (here the separator is /, not \)"
    parent = next((folder for folder in path.parents if os.path.isdir(folder)), Path())  # noqa: PTH112 - never raises
    wanted = path.relative_to(parent).parts[0] if parent != path else path.name
    near = difflib.get_close_matches(wanted, _names(parent, wanted), 3, 0.6)
    missing = f" (there is no folder {parent / wanted!s:.200})" if wanted != path.name else ""
    return f"{missing}; perhaps {' or '.join(str(parent / name) for name in near)}" if near else missing


def _names(folder: Path, wanted: str) -> list[str]:
    """Return names in a folder; those with the same stem first."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_NAMES)]
    except OSError:
        return []
    return sorted(names, key=lambda name: Path(name).stem != Path(wanted).stem)
