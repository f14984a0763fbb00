"""Image, mask and kernel files: read without losing bits, and written in the mode of the input.

Pixels span [-1, 1], as everywhere below the command line: an 8-bit value ``v`` is ``v / 127.5 - 1``, a 16-bit value
``v / 32767.5 - 1``. Transparency is kept separate from the colors and restored on writing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from invdiff.io.codecs import READABLE, Decoded, decode, encode, first_line
from invdiff.io.scratch import Scratch, hidden, sweep

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "atomic_write",
    "list_images",
    "mask_from_alpha",
    "picture_of_array",
    "read_arrays",
    "read_image",
    "read_kernel",
    "read_mask",
    "write_image",
]

Array = NDArray[np.float64]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy"})
SOFT_MASK_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Picture:
    """An image read from a file, with the metadata needed to write a result in the same mode.

    Attributes:
        pixels: ``(C, H, W)``, float64, spanning [-1, 1]. ``C`` is 1 (gray) or 3 (RGB), or any number for TIFF files and arrays.
        alpha: Opacity ``(H, W)`` in [0, 1]; ``None`` if the file has none.
        bits: Bits per channel of the file, 8 or 16; 16 for arrays of floats.
        icc: The color profile embedded in the file.
    """

    pixels: Array
    alpha: Array | None = None
    bits: int = 8
    icc: bytes | None = None


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files in ``folder`` with an image suffix, sorted by name; hidden files are left out."""
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, JPEG, TIFF, WebP or BMP file, or a ``.npy`` array.

    The EXIF orientation is applied; palette, 1-bit and CMYK images are converted to gray or RGB. A ``.npy`` array, ``(H, W)``
    or ``(C, H, W)`` with any number of channels, holds floats (or booleans) on the 0..1 scale, which noise may exceed, or 8- or
    16-bit unsigned integers. TIFF files of floats use the same scale.

    A TIFF file may hold any number of channels: samples of one page, interleaved or in planes, or pages that the file declares
    as channels (the axes ``CYX`` of ImageJ, OME and tifffile). Other stacks of pages are refused. Only a sample declared as
    alpha is alpha: the second or fourth channel of a microscope or satellite image is an image channel.

    Raises:
        ValueError: If the file is empty, damaged, animated, a stack of pages, or not an image, or contains NaN or infinity.
        OSError: If the file does not exist or cannot be opened.
    """
    path = _existing(path)
    if path.suffix.lower() == ".npy":
        return picture_of_array(_load_numpy(path), str(path))
    values, has_alpha, icc = decode(path)
    unit = np.ascontiguousarray(_unit(values, path).transpose(2, 0, 1))
    colours, alpha = (unit[:-1], unit[-1]) if has_alpha else (unit, None)
    return Picture(2 * colours - 1, alpha, 8 if values.dtype == np.uint8 else 16, icc)


def picture_of_array(values: NDArray[Any], source: str) -> Picture:
    """Return the picture of an array, as of an ``.npy`` file that holds it; ``source`` names it in errors."""
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(f"{source}: expected an array of shape (H, W) or (C, H, W), got {values.shape}.")
    if values.ndim == 3 and values.shape[-1] <= 4 < values.shape[0]:
        raise ValueError(f"{source}: expected the channels first, (C, H, W), got {values.shape}: transpose the array.")
    channels = values[None] if values.ndim == 2 else values
    return Picture(2 * _unit(channels, source) - 1, bits=8 if values.dtype.itemsize == 1 else 16)


def write_image(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    *,
    bits: int = 8,
    alpha: ArrayLike | None = None,
    icc: bytes | None = None,
) -> None:
    """Write an image atomically, in the format given by the file suffix. Unmodified images are reproduced bit for bit.

    ======================= ======= ===================================================
    suffix                  bits    channels
    ======================= ======= ===================================================
    ``.png .tif .tiff``     8, 16   gray, RGB, each with or without alpha
    ``.tif .tiff``          8, 16   any other number, without alpha: planes of one page
    ``.webp``               8       RGB (gray becomes RGB), alpha; lossless
    ``.jpg .jpeg .bmp``     8       gray, RGB; JPEG at quality 95 without subsampling
    ``.npy``                float32 any number, on the 0..1 scale, not clipped
    ======================= ======= ===================================================

    Args:
        path: The file; its folder must exist.
        pixels: ``(C, H, W)``; values outside [-1, 1] are clipped, except in ``.npy`` files.
        bits: 8 or 16 bits per channel. A 16-bit gray PNG with alpha is written as RGBA.
        alpha: Opacity ``(H, W)`` in [0, 1], see ``Picture.alpha``.
        icc: Color profile to embed, see ``Picture.icc``; BMP and ``.npy`` files hold none.

    Raises:
        ValueError: If the pixels are not finite, or the format cannot hold them.
    """
    path, pixels = Path(path), np.asarray(pixels)
    suffix = path.suffix.lower()
    opacity = None if alpha is None else np.asarray(alpha)
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: the name must end in one of {', '.join(sorted(IMAGE_SUFFIXES))}.")
    if pixels.ndim != 3 or not pixels.size:
        raise ValueError(f"{path}: expected pixels of shape (C, H, W), got {pixels.shape}.")
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path}: the pixels hold nan or inf and cannot be written.")
    if bits not in (8, 16):
        raise ValueError(f"{path}: bits must be 8 or 16, got {bits}.")
    if opacity is not None and opacity.shape != pixels.shape[1:]:
        raise ValueError(f"{path}: alpha must have the shape (H, W) of the pixels, {pixels.shape[1:]}, got {opacity.shape}.")
    if opacity is not None and suffix not in (".png", ".tif", ".tiff", ".webp"):
        raise ValueError(f"{path}: {suffix} files hold no transparency; write a .png, .tif or .webp file.")
    if suffix == ".npy":
        unit = ((pixels[0] if len(pixels) == 1 else pixels) + 1.0) / 2
        with atomic_write(path) as temporary:
            np.save(temporary, unit.astype(np.float32))
        return
    if len(pixels) not in (1, 3) and suffix not in (".tif", ".tiff"):
        raise ValueError(f"{path}: {suffix} files hold 1 or 3 channels, got {len(pixels)}; write a .tif or .npy file.")
    if len(pixels) not in (1, 3) and opacity is not None:
        raise ValueError(f"{path}: alpha goes with 1 or 3 channels, got {len(pixels)}; write it to a file of its own.")
    if bits == 16 and suffix not in (".png", ".tif", ".tiff"):
        raise ValueError(f"{path}: {suffix} files hold 8 bits per channel only; write a .png or .tif file.")
    half = (2**bits - 1) / 2
    values = [_quantised((channel.astype(np.float64) + 1) * half, bits) for channel in pixels]
    if opacity is not None:
        values.append(_quantised(opacity.astype(np.float64) * 2 * half, bits))
    with atomic_write(path) as temporary:
        encode(temporary, Decoded(np.stack(values, axis=-1), opacity is not None, icc))


def read_mask(path: str | os.PathLike[str], *, keep: Literal["black", "white"] = "black") -> NDArray[np.bool_]:
    """Read a mask as booleans ``(H, W)``: True where the pixel is measured, False where it is to be filled.

    In the file white means fill and black means keep, unless ``keep="white"`` reverses this. Gray levels are thresholded at one
    half: the blurred edges of a hand-drawn mask do no harm. ``.npy`` masks follow the same rule, with True for white.

    Raises:
        ValueError: If more than 1 % of the pixels lie between 0.1 and 0.9: the mask is soft, and a threshold would be a guess.
    """
    if keep not in ("black", "white"):
        raise ValueError(f"read_mask: keep must be 'black' or 'white', got {keep!r}.")
    grey = _grey(path, "a mask")
    soft = float(((grey > 0.1) & (grey < 0.9)).mean())
    if soft > SOFT_MASK_SHARE:
        raise ValueError(
            f"{path}: expected a mask of black and white pixels, but {soft:.1%} are gray or colored (at most "
            f"{SOFT_MASK_SHARE:.0%} may be, at edges): make every pixel black (keep) or white (fill)."
        )
    return grey >= 0.5 if keep == "white" else grey < 0.5


def mask_from_alpha(picture: Picture) -> NDArray[np.bool_]:
    """Return booleans ``(H, W)``: True (measured) where the picture is opaque, False (to be filled) where alpha < 0.5."""
    if picture.alpha is None:
        raise ValueError("mask_from_alpha: the picture has no alpha channel; give a mask image instead.")
    return picture.alpha >= 0.5


def read_arrays(path: str | os.PathLike[str], name: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file by name, or the array of an ``.npy`` file under the name ``name``.

    Raises:
        ValueError: If the file is neither ``.npy`` nor ``.npz``, is damaged, or has no array of this name.
        OSError: If the file does not exist or cannot be opened.
    """
    path = _existing(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected an .npy or .npz file with the array {name!r}, as written by --simulate.")
    arrays = _arrays(path)
    if list(arrays) == [""]:
        return {name: arrays[""]}
    if name not in arrays:
        raise ValueError(f"{path}: has no array {name!r}, got {', '.join(arrays) or 'none'}.")
    return arrays


def read_kernel(path: str | os.PathLike[str]) -> Array:
    """Read a blur kernel ``(h, w)`` and normalize it to sum 1.

    Args:
        path: An image (colors are averaged to gray), a two-dimensional ``.npy`` array, or an ``.npz`` file. If an ``.npz`` file
            has several arrays, the name of one follows after a colon: ``kernels.npz:levin1``.

    Raises:
        ValueError: If the array is not a kernel: not two-dimensional, not finite, with negative values, or zero everywhere.
    """
    name = os.fspath(path)
    stem, colon, key = name.rpartition(":")
    if colon and stem.lower().endswith(".npz"):
        values = _load_numpy(_existing(stem), key)
    elif name.lower().endswith((".npy", ".npz")):
        values = _load_numpy(_existing(name))
    else:
        values = _grey(name, "a kernel")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{path}: a blur kernel holds real numbers, got {values.dtype}.")
    kernel = values.astype(np.float64)
    if kernel.ndim != 2 or not kernel.size:
        raise ValueError(f"{path}: a blur kernel has two dimensions (h, w), got shape {kernel.shape}.")
    if not np.isfinite(kernel).all() or (kernel < 0).any() or not kernel.any():
        raise ValueError(f"{path}: a blur kernel holds finite values that are not negative and not all zero.")
    kernel = kernel / kernel.max()  # First: the sum of huge values would overflow, the sum of tiny values lose precision.
    return np.asarray(kernel / kernel.sum(), dtype=np.float64)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path near ``path``, with the same name, and move it to ``path`` after the block has written it.

    Whatever happens, ``path`` has either its previous content or the complete new content. Its permissions follow the umask.
    What a killed process left beside ``path`` is removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
    sweep(path.parent)
    scratch = Scratch(hidden(path.with_name(secrets.token_hex(8))))
    try:
        scratch.take()
        temporary = scratch.folder / path.name
        yield temporary
        temporary.chmod(scratch.mode)  # Some libraries make files unreadable to others, whatever the umask.
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and str(error.filename).startswith(str(scratch.folder)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        scratch.release()


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; expected {READABLE}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected {READABLE}.")
    if path.stat().st_size == 0 and path.is_file():
        raise ValueError(f"{path}: the file is empty; expected {READABLE}.")
    return path


def _load_numpy(path: Path, key: str = "") -> NDArray[Any]:
    arrays = _arrays(path)
    if key in arrays or (not key and len(arrays) == 1):
        return arrays[key] if key else next(iter(arrays.values()))
    wanted = f"no array {key!r}" if key else "several arrays and none was named"
    raise ValueError(f"{path}: {wanted}; append one of its names after a colon: {', '.join(arrays)}.")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a NumPy file by name; the name of the array of an ``.npy`` file is empty."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # numpy warns before it fails on a damaged header.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded}
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise exceptions of their own
        if "pickle" in str(error):
            raise ValueError(f"{path}: holds pickled objects, which can run code when read; expected numbers.") from error
        raise ValueError(f"{path}: is damaged or holds no numpy array of numbers ({first_line(error)}).") from error


def _unit(values: NDArray[Any], path: Path | str) -> Array:
    """Convert image values of any supported type to float64 on the 0..1 scale."""
    if values.dtype in (np.uint8, np.uint16):
        return values / float(np.iinfo(values.dtype).max)
    if values.dtype.kind not in "bf":
        raise ValueError(
            f"{path}: holds {values.dtype} values; expected unsigned 8- or 16-bit integers, or floats on the 0..1 scale."
        )
    unit = values.astype(np.float64)
    if not np.isfinite(unit).all():
        raise ValueError(f"{path}: holds nan or inf; expected finite values on the 0..1 scale.")
    if np.abs(unit).max() > 16:  # Noise may exceed the 0..1 scale, but never by this much.
        raise ValueError(f"{path}: values reach {np.abs(unit).max():g}; expected the 0..1 scale: divide by the largest value.")
    return unit


def _grey(path: str | os.PathLike[str], what: str) -> Array:
    picture = read_image(path)
    if picture.alpha is not None and (picture.alpha < 1).any():
        raise ValueError(f"{path}: {what} must not be transparent, because its meaning would be a guess. Flatten the image.")
    return np.asarray((picture.pixels.mean(0) + 1) / 2, dtype=np.float64)


def _quantised(values: Array, bits: int) -> NDArray[np.unsignedinteger[Any]]:
    return np.rint(values).clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
