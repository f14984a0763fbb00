"""Files of posteriors: safetensors, with everything that is no tensor as JSON in the metadata."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invdiff.io.codecs import first_line
from invdiff.posterior.particles import Particles
from invdiff.posterior.settings import plain
from invdiff.priors.checkpoints.container import open_contents
from invdiff.priors.save import write_safetensors

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["KEY", "VERSION", "read_posterior", "write_posterior"]

KEY = "invdiff-posterior"  # the metadata entry
VERSION = 1
NUMBERS = {"nfe": float, "nvjp": float, "seconds": float, "first_sample": int}
GROUPS = ("inner_weights", "group_ess", "group_ancestors", "group_log_evidence")
SUFFIX = ".safetensors"


def write_posterior(post: Posterior, path: str | os.PathLike[str]) -> None:
    """Write a posterior, as :meth:`Posterior.save <invdiff.posterior.Posterior.save>` documents."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: the name must end in {SUFFIX}, got {path.suffix or 'no ending'!r}.")
    tensors = {"samples": post.samples, "weights": post.weights, "residual": post.residual}
    about: dict[str, Any] = {"version": VERSION, "method": post.method, "notes": list(post.notes)}
    about |= {name: kind(getattr(post, name)) for name, kind in NUMBERS.items()}
    about["seed"] = list(post.seed) if isinstance(post.seed, tuple) else int(post.seed)
    about |= {"options": plain(post.options), "origin": plain(post.origin)}
    if post.latents is not None:
        tensors["latents"] = post.latents
    if isinstance(post.dof, Tensor):
        tensors["dof"] = post.dof
    else:
        about["dof"] = int(post.dof)
    if post.particles is not None:
        tensors |= {f"particles.{name}": getattr(post.particles, name) for name in GROUPS}
        about["particles"] = {"group": post.particles.group, "weighted": post.particles.weighted}
    # Copies: the format refuses tensors that share memory.
    copies = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    text = json.dumps(about)
    try:
        _fields(json.loads(text), dict(copies))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: this posterior cannot be saved: {first_line(error)}.") from error
    write_safetensors(copies, path, {KEY: text})


def read_posterior(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of the posterior in a file, as :meth:`Posterior.load <invdiff.posterior.Posterior.load>` documents."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected a file of Posterior.save.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, expected one of Posterior.save.")
    try:
        contents = open_contents(path) if _begins_right(path) else None
        if contents is None or KEY not in contents.metadata:
            raise ValueError("it has no posterior")
        about = json.loads(contents.metadata[KEY])
        if not isinstance(about, dict) or not isinstance(about.get("version"), int):
            raise ValueError("it has no version")
        if about["version"] != VERSION:
            raise ValueError(f"it is of version {about['version']}, and this invdiff reads version {VERSION}")
        return _fields(about, dict(contents.data))
    except OSError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        missing = "it lacks " if isinstance(error, KeyError) else ""
        reason = f"{missing}{first_line(error)}".removeprefix(f"{path}: ").rstrip(".")
        raise ValueError(f"{path}: no file of Posterior.save, damaged, or of another version ({reason:.300}).") from error


def _begins_right(path: Path) -> bool:
    """Return whether a file begins as safetensors do: eight bytes of length, then JSON."""
    if not path.is_file():  # A pipe has no end.
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _fields(about: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the fields of a posterior; raise if they do not fit together."""
    samples, weights, residual = (tensors.pop(name) for name in ("samples", "weights", "residual"))
    if samples.ndim < 2 or not samples.numel() or not samples.is_floating_point():
        raise ValueError(f"samples of shape {tuple(samples.shape)} and {samples.dtype}")
    rows = samples.shape[:2]
    for name, values in {"weights": weights, "residual": residual}.items():
        if values.shape != rows or not values.is_floating_point():
            raise ValueError(f"{name} of shape {tuple(values.shape)} for samples of shape {tuple(samples.shape)}")
    if not (weights >= 0).all() or not ((weights.double().sum(0) - 1).abs() < 1e-3).all():
        raise ValueError("weights that do not sum to 1")
    numbers = {name: _number(name, about[name], kind) for name, kind in NUMBERS.items()}
    method, notes, options, origin = about["method"], about["notes"], about["options"], about["origin"]
    texts = isinstance(method, str) and isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    if not (texts and isinstance(options, dict) and isinstance(origin, dict)):
        raise ValueError("method, notes, options or origin of a wrong kind")
    dof = tensors.pop("dof") if "dof" in tensors else _number("dof", about["dof"], int)
    if isinstance(dof, Tensor) and dof.shape != rows[1:]:
        raise ValueError(f"dof of shape {tuple(dof.shape)} for {rows[1]} items")
    particles = None
    if about.get("particles") is not None:
        particles = _particles(about["particles"], {name: tensors.pop(f"particles.{name}") for name in GROUPS}, rows)
    latents = tensors.pop("latents", None)
    if latents is not None and (latents.shape[:2] != rows or not latents.is_floating_point()):
        raise ValueError(f"latents of shape {tuple(latents.shape)} for samples of shape {tuple(samples.shape)}")
    if tensors:
        raise ValueError(f"unknown tensors: {', '.join(tensors)}")
    return {
        "samples": samples,
        "latents": latents,
        "weights": weights,
        "residual": residual,
        "dof": dof,
        **numbers,
        "seed": _seed(about["seed"], rows[1]),
        "method": method,
        "options": options,
        "origin": origin,
        "notes": tuple(notes),
        "particles": particles,
    }


def _particles(about: Any, tensors: Mapping[str, Tensor], rows: torch.Size) -> Particles:
    group, weighted = _number("group", about["group"], int), about["weighted"]
    if group < 1 or not isinstance(weighted, bool):
        raise ValueError("particles without the size of a group")
    groups = torch.Size((math.ceil(rows[0] / group), rows[1]))
    for name, values in tensors.items():
        if values.shape != (rows if name == "inner_weights" else groups):
            raise ValueError(f"{name} of shape {tuple(values.shape)} for {rows[0]} samples in groups of {group}")
    return Particles(group, weighted, **tensors)


def _seed(value: Any, items: int) -> int | tuple[int, ...]:
    if not isinstance(value, list):
        return int(_number("seed", value, int))
    if len(value) != items:
        raise ValueError(f"{len(value)} seeds for {items} items")
    return tuple(_number("seed", one, int) for one in value)


def _number(name: str, value: Any, kind: type) -> Any:
    wanted = isinstance(value, int | float) and not isinstance(value, bool) and (kind is float or isinstance(value, int))
    if not wanted or not value >= 0:
        raise ValueError(f"{name} is {value!r:.50}")
    return kind(value)
