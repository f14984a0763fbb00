"""Files of measured error covariances: safetensors beside the prior's file, with the digest of that prior."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.checkpoints.container import open_contents
from invdiff.priors.digest import digest, stamp
from invdiff.priors.errors.covariance import ErrorModel
from invdiff.priors.save import write_safetensors

__all__ = ["KEY", "errors_beside", "read_error_model", "save_error_model"]

KEY = "invdiff-errors"  # the metadata entry
TENSORS = {  # attribute: name and dtype in the file
    "levels": ("levels", torch.float64),
    "frequencies": ("frequencies", torch.float64),
    "colors": ("colours", torch.float32),
    "log_signal": ("log_signal", torch.float16),
    "weights": ("weights", torch.float32),
    "floors": ("floors", torch.float32),
}


def errors_beside(prior: Path) -> Path:
    """Return the path of the measured errors of a prior: ``NAME.errors.safetensors`` beside its file or folder."""
    return prior.with_name(f"{prior.name if prior.is_dir() else prior.stem}.errors.safetensors")


def save_error_model(model: ErrorModel, path: Path, *, prior: Path, given: Mapping[str, Any] | None = None) -> None:
    """Write the measured error covariance of a prior, atomically.

    Args:
        model: The measured covariance.
        path: The file to write.
        prior: The file or folder of the prior, whose digest is stored.
        given: Options with which the prior was loaded, such as a class label. With other options it counts as another prior.
    """
    tensors = {key: getattr(model, name).cpu().to(dtype).contiguous() for name, (key, dtype) in TENSORS.items()}
    about = {"prior": _identity(prior, given), "facts": dict(model.facts)}
    write_safetensors(tensors, path, {KEY: json.dumps(about)})


def read_error_model(path: Path, *, prior: Path, given: Mapping[str, Any] | None = None) -> ErrorModel | str:
    """Read the measured error covariance of a prior, or return a message if the file belongs to another prior.

    Raises:
        ValueError: If the file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    try:
        before = stamp(path)
        contents = open_contents(path)
        about = json.loads(contents.metadata[KEY])
        for name, (key, dtype) in TENSORS.items():
            tensors[name] = contents.data[key]
            if tensors[name].dtype != dtype:
                raise ValueError(f"{name} has the dtype {tensors[name].dtype}, expected {dtype}")
        belongs, facts = about["prior"], dict(about["facts"])
        if belongs != _identity(prior, given):
            return (
                f"{path.name}: measured on another prior than the present {prior.name}, and therefore ignored. Measure again: "
                "invdiff priors measure"
            )
        tensors["log_signal"] = tensors["log_signal"].float()
        return ErrorModel(**tensors, facts=facts | {"sha256": digest(path, before)})
    except Exception as error:  # A damaged file may fail in any way.
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise ValueError(
            f"{path}: no file of measured errors, damaged, or of a later version ({reason:.200}). Measure again with invdiff "
            "priors measure, or move the file away."
        ) from error


def _identity(prior: Path, given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"sha256": digest(prior), "given": {name: str(value) for name, value in (given or {}).items()}}
