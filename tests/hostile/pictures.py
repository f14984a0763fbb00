"""Picture files of every format, of any content, made on the fly."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FORMATS", "picture", "saved"]

EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(rng: Generator, size: tuple[int, int] = (16, 24)) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a valid file that holds a picture of ``size`` ``(H, W)``."""
    name = str(rng.choice(list(FORMATS)))
    return FORMATS[name](rng, size)


def _levels(rng: Generator, size: tuple[int, ...], top: int = 256) -> NDArray[np.int64]:
    """Return a gradient, noise, one value, or the two extreme values."""
    content = rng.choice(["gradient", "noise", "constant", "extremes"])
    if content == "gradient":
        return np.add.outer(np.arange(size[0]), np.arange(int(np.prod(size[1:])))).reshape(size) * (top // 64) % top
    if content == "noise":
        return rng.integers(0, top, size)
    if content == "constant":
        return np.full(size, rng.choice([0, 1, top // 2, top - 1]))
    return rng.choice([0, top - 1], size)


def _png(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    mode = str(rng.choice(["1", "L", "P", "RGB", "LA", "RGBA", "I;16", "P transparent", "L transparent", "RGB transparent"]))
    if mode == "I;16":
        return ".png", saved(Image.fromarray(_levels(rng, size, 65536).astype(np.uint16)), "PNG")
    kind, _, transparent = mode.partition(" ")
    bands = len(Image.new(kind, (1, 1)).getbands())
    values = _levels(rng, (*size, bands) if bands > 1 else size).astype(np.uint8)
    image = Image.fromarray(values).convert(kind) if bands != 2 else Image.fromarray(values, "LA")
    options: dict[str, Any] = {"transparency": (0, 0, 0) if kind == "RGB" else 0} if transparent else {}
    if rng.random() < 0.2:
        options |= {"exif": EXIF} if rng.random() < 0.5 else {"icc_profile": rng.bytes(200)}
    return ".png", saved(image, "PNG", **options)


def _jpeg(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    mode = str(rng.choice(["L", "RGB", "CMYK"]))
    bands = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    values = _levels(rng, (*size, bands)).astype(np.uint8)
    image = Image.frombytes(mode, (size[1], size[0]), values.tobytes())
    options: dict[str, Any] = {"quality": int(rng.choice([1, 50, 95, 100])), "progressive": bool(rng.random() < 0.3)}
    if rng.random() < 0.3:
        options["exif"] = EXIF
    return ".jpg", saved(image, "JPEG", **options)


def _tiff(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    kind = str(rng.choice(["uint8", "uint16", "float16", "float32", "float64", "int8", "int16", "uint32", "int32", "bool"]))
    samples = int(rng.choice([1, 3, 3, 4, 2, 5]))
    planar = str(rng.choice(["contig", "separate"]))
    shape = size if samples == 1 else (*size, samples) if planar == "contig" else (samples, *size)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        values = rng.uniform(0, 1, shape).astype(dtype)
    elif dtype.kind == "b":
        values, planar = rng.random(size) < 0.5, "contig"
    else:
        values = _levels(rng, shape, 2 ** min(8 * dtype.itemsize, 31)).astype(dtype)
    options: dict[str, Any] = {"photometric": "rgb" if values.ndim == 3 and samples in (3, 4) else "minisblack"}
    if values.ndim == 2:
        options["photometric"] = str(rng.choice(["minisblack", "miniswhite"]))
    else:
        options["planarconfig"] = planar
    options["compression"] = "zlib" if rng.random() < 0.5 else None
    options["byteorder"] = str(rng.choice(["<", ">"]))
    if rng.random() < 0.2 and dtype.kind != "b":
        options["tile"] = (16, 16)
    if rng.random() < 0.3 and values.ndim == 3 and samples in (2, 4):
        options["extrasamples"] = [str(rng.choice(["assocalpha", "unassalpha"]))]
    buffer = io.BytesIO()
    try:
        tifffile.imwrite(buffer, values, **options)
    except (ValueError, TypeError):  # a combination that the format does not have
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="minisblack")
    return ".tif", buffer.getvalue()


def _pillow_tiff(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    compression = str(rng.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]))
    mode = "L" if compression == "jpeg" else str(rng.choice(["L", "RGB", "RGBA", "CMYK", "P", "1"]))
    bands = len(Image.new(mode, (1, 1)).getbands())
    grey = mode in ("L", "P", "1")
    values = _levels(rng, size if grey else (*size, bands)).astype(np.uint8)
    image = Image.fromarray(values).convert(mode) if grey else Image.frombytes(mode, (size[1], size[0]), values.tobytes())
    return ".tif", saved(image, "TIFF", compression=compression)


def _pages(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    values = _levels(rng, (int(rng.integers(2, 5)), *size)).astype(np.uint8)
    tifffile.imwrite(buffer, values, photometric="minisblack", metadata={"axes": str(rng.choice(["CYX", "ZYX", "TYX", "QYX"]))})
    return ".tif", buffer.getvalue()


def _webp(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    mode = str(rng.choice(["RGB", "RGBA"]))
    image = Image.frombytes(mode, (size[1], size[0]), _levels(rng, (*size, len(mode))).astype(np.uint8).tobytes())
    more: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(180)]} if rng.random() < 0.2 else {}
    return ".webp", saved(image, "WEBP", lossless=bool(rng.random() < 0.5), **more)


def _bmp(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    mode = str(rng.choice(["1", "L", "P", "RGB"]))
    values = _levels(rng, (*size, 3) if mode == "RGB" else size).astype(np.uint8)
    return ".bmp", saved(Image.fromarray(values).convert(mode), "BMP")


def _numpy(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    """Return an ``.npy`` file of a number type, byte order, memory order and rank, and of values that may be extreme."""
    kinds = ["u1", "<u2", ">u2", "<f2", ">f4", "<f4", "<f8", ">f8", "?", "i1", "<i4", "<u4", "<c8", "<f8", "<f4"]
    dtype = np.dtype(str(rng.choice(kinds)))
    shapes = [size, (3, *size), (1, *size), (1, 3, *size), (*size, 3), (5, *size), size[:1], (), (0, *size), (2, 2, 2, 2, 2)]
    shape = shapes[int(rng.choice(len(shapes), p=[0.2, 0.3, 0.1, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05]))]
    if dtype.kind in "fc":
        values = rng.uniform(0, 1, shape).astype(dtype)
        if values.size and rng.random() < 0.4:
            extremes = [np.nan, np.inf, -np.inf, 1e300, 1e-310, -3.0, 255.0, 17.0, -0.0]
            with np.errstate(over="ignore"):
                values.flat[int(rng.integers(values.size))] = np.asarray(rng.choice(extremes)).astype(dtype)
    else:
        values = rng.integers(0, 128, shape).astype(dtype)
    values = np.asfortranarray(values) if rng.random() < 0.3 else values
    buffer = io.BytesIO()
    np.save(buffer, values)
    return ".npy", buffer.getvalue()


def _foreign(rng: Generator, size: tuple[int, int]) -> tuple[str, bytes]:
    """Return a file of a format that is not read."""
    image = Image.fromarray(_levels(rng, size).astype(np.uint8))
    kind, suffix = [("GIF", ".gif"), ("PPM", ".ppm"), ("TGA", ".tga"), ("ICO", ".ico"), ("PCX", ".pcx"), ("JPEG2000", ".jp2")][
        int(rng.integers(6))
    ]
    return suffix, saved(image, kind)


FORMATS: dict[str, Callable[[Generator, tuple[int, int]], tuple[str, bytes]]] = {
    "png": _png,
    "jpeg": _jpeg,
    "tiff": _tiff,
    "tiff of Pillow": _pillow_tiff,
    "tiff of several pages": _pages,
    "webp": _webp,
    "bmp": _bmp,
    "numpy": _numpy,
    "foreign": _foreign,
}
