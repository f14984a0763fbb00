"""Files of measured arrays, such as k-space and sinograms: valid ones, and ones with something wrong in them."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["calibration", "kernel", "measurement", "packed", "single", "wrong"]

Arrays = dict[str, NDArray[Any]]
SIDE = 16


def measurement(rng: Generator, problem: str) -> Arrays:
    """Return the arrays of a valid measurement for a problem that reads arrays."""
    image = np.zeros((SIDE, SIDE))
    image[4:12, 5:11] = rng.uniform(0.3, 1, (8, 6))
    if problem == "mri":
        coils = int(rng.choice([1, 1, 3]))
        maps = np.exp(2j * np.pi * rng.random((coils, 1, 1))) * np.ones((coils, SIDE, SIDE)) / np.sqrt(coils)
        kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[:, ::2] = mask[:, 5:11] = True
        arrays = {"kspace": (kspace * mask).astype(np.complex64), "mask": mask, "coil_maps": maps.astype(np.complex64)}
        return arrays if rng.random() < 0.5 else {"kspace": arrays["kspace"]}
    if problem == "ct":
        count = int(rng.choice([1, 7, 12]))
        rows = [image.sum(0) if k % 2 else image.sum(1) for k in range(count)]
        arrays = {"sinogram": np.stack(rows), "angles": np.arange(count) * 180 / count, "size": np.array([SIDE, SIDE])}
        return arrays if rng.random() < 0.7 else {"sinogram": arrays["sinogram"]}
    if problem == "compressed-sensing":
        sensing = str(rng.choice(["hadamard", "convolution"]))
        y = rng.standard_normal(40)
        return {"y": y, "sensing": np.array(sensing), "seed": np.array(3), "size": np.array([SIDE, SIDE])}
    if rng.random() < 0.5:
        masks = np.exp(2j * np.pi * rng.random((2, SIDE, SIDE)))
        return {"magnitudes": rng.random((1, 2, SIDE, SIDE)), "masks": masks, "size": np.array([SIDE, SIDE])}
    return {"magnitudes": rng.random((1, 2 * SIDE, 2 * SIDE)), "oversampling": np.array(1.0), "size": np.array([SIDE, SIDE])}


def kernel(rng: Generator) -> NDArray[Any]:
    """Return an array that is a blur kernel, or almost."""
    shape = [(5, 5), (3, 7), (1, 1), (4, 4), (16, 24), (17, 25), (40, 40), (5,), (), (3, 3, 3), (0, 3)][int(rng.integers(11))]
    values = rng.uniform(0, 1, shape)
    kind = str(
        rng.choice(["plain", "plain", "zero", "negative", "nan", "inf", "huge", "tiny", "denormal", "delta", "zero sum"])
    )
    values = {
        "zero": 0 * values,
        "negative": -values,
        "huge": 1e307 * (1 + values),
        "tiny": 1e-300 * values,
        "denormal": 5e-324 * np.ones(shape),
        "zero sum": values - values.mean() if values.size else values,
    }.get(kind, values)
    if kind in ("nan", "inf", "delta") and values.size:
        values = np.zeros(shape) if kind == "delta" else values.copy()
        values.flat[int(rng.integers(values.size))] = {"nan": np.nan, "inf": np.inf, "delta": 1.0}[kind]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values.astype(str(rng.choice(["<f8", "<f8", ">f8", "<f4", "<f2", "u1", "<i4", ">u2", "?", "<c16"])))


def wrong(rng: Generator, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the arrays with one of them missing, renamed, or of other values, type, shape or order."""
    changed = dict(arrays)
    name = str(rng.choice(list(changed)))
    values = changed[name]
    how = str(rng.choice(["missing", "renamed", "more", "type", "shape", "order", "value", "empty", "text", "huge", "swapped"]))
    if how == "missing":
        del changed[name]
    elif how == "renamed":
        changed[str(rng.choice(["theta", "sens_maps", "data", "../up", "x\x1b[2J", "arr_0"]))] = changed.pop(name)
    elif how == "more":
        changed[str(rng.choice(["other", "maks", "angle"]))] = rng.random(3)
    elif how == "type":
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of complex numbers that become real
            kind = str(rng.choice(["<f2", ">f8", "<i8", "?", "<c8", ">c16", "u1", "U9", "M8[s]", "V4", "S3"]))
            changed[name] = np.zeros(values.shape, kind) if kind[0] in "MV" or values.dtype.kind == "U" else values.astype(kind)
    elif how == "shape":
        turned: list[NDArray[Any]] = [
            values.T,
            values[None],
            values.reshape(-1),
            values[..., None],
            values[..., :1] if values.ndim else values,
            values[:0] if values.ndim else values,
        ]
        changed[name] = turned[int(rng.integers(6 if values.ndim else 4))]
    elif how == "order":
        changed[name] = np.asfortranarray(np.asarray(values).astype(values.dtype.newbyteorder(">")))
    elif how == "value" and values.dtype.kind in "fciub" and values.size:
        spot = values.astype("c16" if values.dtype.kind == "c" else "f8").copy()
        with np.errstate(all="ignore"):
            where = slice(None) if rng.random() < 0.4 else int(rng.integers(spot.size))
            spot.reshape(-1)[where] = rng.choice([np.nan, np.inf, -1.0, 1e300, 1e-310, 0.0, 2.0**31, 0.5])
        changed[name] = spot
    elif how == "empty":
        changed[name] = np.zeros((0,), values.dtype)
    elif how == "text":
        changed[name] = np.array("\x1b]0;text\x07")
    elif how == "huge":
        changed["size"] = np.array([int(rng.choice([2**31, 65536, 0, -1])), int(rng.choice([2**31, 3]))])
    else:
        other = str(rng.choice(list(changed)))
        changed[name], changed[other] = changed[other], changed[name]
    return changed


def packed(arrays: Mapping[str, NDArray[Any]], *, compressed: bool) -> bytes:
    """Return the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(buffer, **arrays)
    return buffer.getvalue()


def calibration(rng: Generator, text: str) -> str:
    """Return the text of a calibration file with one of its values replaced."""
    contents = json.loads(text)
    node: Any = contents
    while True:
        keys: Any = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            break
        node = node[key]
    others: list[Any] = [None, "", "\x1b[31m", [], {}, -1, 0, 1e308, True, 10**30, [[]], "nan"]
    node[key] = others[int(rng.integers(len(others)))]
    return json.dumps(contents)


def single(values: NDArray[Any]) -> bytes:
    """Return the bytes of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
