"""Image, mask and kernel files: read without losing bits, and written in the mode of the input.

Pixels span [-1, 1], as everywhere below the command line: an 8-bit value ``v`` is ``v / 127.5 - 1``, a 16-bit value
``v / 32767.5 - 1``. Transparency is kept separate from the colors and restored on writing.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from invdiff.io.codecs import READABLE, Decoded, declared_size, decode, encode, first_line
from invdiff.io.limits import check_image
from invdiff.io.numpy_headers import declared_shapes

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "atomic_write",
    "existing_file",
    "image_size",
    "list_images",
    "mask_from_alpha",
    "mask_of_array",
    "mask_of_picture",
    "native",
    "picture_of_array",
    "read_arrays",
    "read_image",
    "read_kernel",
    "read_mask",
    "read_mask_and_notes",
    "write_image",
]

Array = NDArray[np.float64]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy"})
SOFT_MASK_SHARE = 0.01
ZERO_AND_ONE = "the mask holds 0 and 1 alone: 1 is taken as white"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image read from a file, with the metadata needed to write a result in the same mode.

    Attributes:
        pixels: ``(C, H, W)``, float64, spanning [-1, 1]. ``C`` is 1 (gray) or 3 (RGB), or any number for TIFF files and arrays.
        alpha: Opacity ``(H, W)`` in [0, 1]; ``None`` if the file has none.
        bits: Bits per channel of the file, 8 or 16; 16 for arrays of floats.
        icc: The color profile embedded in the file.
        exif: The EXIF data of the file as results carry them: orientation 1, without thumbnail; see :mod:`invdiff.io.metadata`.
        notes: What was taken for granted when the file was read, for the user.
    """

    pixels: Array
    alpha: Array | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


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
    alpha is alpha: the second or fourth channel of a microscope or satellite image is an image channel. Samples of 9 to 15 bits
    are scaled to 16 bits; colors multiplied by alpha are divided by it.

    Raises:
        ValueError: If the file is empty, damaged, animated, a stack of pages, or not an image, or contains NaN or infinity, or
            declares more pixels than :data:`invdiff.io.limits.LARGEST_IMAGE`, which is found before they are decoded.
        OSError: If the file does not exist or cannot be opened.
    """
    path = existing_file(path)
    if path.suffix.lower() == ".npy":
        return picture_of_array(_load_numpy(path, image=True), str(path))
    decoded = decode(path)
    unit = np.ascontiguousarray(_unit(decoded.values, path).transpose(2, 0, 1))
    colours, alpha = (unit[:-1], unit[-1]) if decoded.alpha else (unit, None)
    bits, notes = 8 if decoded.values.dtype == np.uint8 else 16, tuple(f"{path}: {note}" for note in decoded.notes)
    return Picture(2 * colours - 1, alpha, bits, decoded.icc, decoded.exif, notes)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the size ``(H, W)`` that an image or a ``.npy`` file declares, upright, without decoding its pixels.

    Raises:
        ValueError: If the file is no image, or too large.
        OSError: If it does not exist or cannot be opened.
    """
    path = existing_file(path)
    if path.suffix.lower() != ".npy":
        return declared_size(path)
    height, width = _declared_arrays(path, image=True).get("", ())[-2:]
    return height, width


def picture_of_array(values: NDArray[Any], source: str) -> Picture:
    """Return the picture of an array, as of an ``.npy`` file that holds it; ``source`` names it in errors."""
    _check_picture(values.shape, source)
    channels = native(values[None] if values.ndim == 2 else values)
    return Picture(2 * _unit(channels, source) - 1, bits=8 if values.dtype.itemsize == 1 else 16)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the byte order of this machine: torch takes no other, and comparisons of types fail on others."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _check_picture(shape: tuple[int, ...], source: str | os.PathLike[str]) -> None:
    """Raise an error if an array of a shape is no picture."""
    if len(shape) not in (2, 3) or not math.prod(shape):
        raise ValueError(f"{source}: expected an array of shape (H, W) or (C, H, W), got {shape}.")
    if len(shape) == 3 and shape[-1] <= 4 < shape[0]:
        raise ValueError(f"{source}: expected the channels first, (C, H, W), got {shape}: transpose the array.")
    try:
        check_image(*shape[-2:], *shape[:-2])
    except ValueError as error:
        raise ValueError(f"{source}: cannot be read as an image: {error}.") from error


def write_image(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    *,
    bits: int = 8,
    alpha: ArrayLike | None = None,
    icc: bytes | None = None,
    exif: bytes | None = None,
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
        exif: EXIF data to embed, with the resolution, see ``Picture.exif``; BMP and ``.npy`` files hold none.

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
        encode(temporary, Decoded(np.stack(values, axis=-1), opacity is not None, icc, exif))


def read_mask(
    path: str | os.PathLike[str], *, keep: Literal["black", "white"] = "black", size: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Read a mask as booleans ``(H, W)``: True where the pixel is measured, False where it is to be filled.

    In the file white means fill and black means keep, unless ``keep="white"`` reverses this. Gray levels are thresholded at one
    half: the blurred edges of a hand-drawn mask do no harm. ``.npy`` masks follow the same rule, with True for white. In masks
    that hold the integers 0 and 1 alone, 1 is white.

    Args:
        path: The file.
        keep: Color of the pixels to keep.
        size: Size ``(H, W)`` that the mask must have, compared before its pixels are decoded.

    Raises:
        ValueError: If more than 1 % of the pixels lie between 0.1 and 0.9: the mask is soft, and a threshold would be a guess.
            Or if the mask has another size.
    """
    return read_mask_and_notes(path, keep=keep, size=size)[0]


def read_mask_and_notes(
    path: str | os.PathLike[str], *, keep: Literal["black", "white"] = "black", size: tuple[int, ...] | None = None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return what :func:`read_mask` returns, and what was taken for granted."""
    if keep not in ("black", "white"):
        raise ValueError(f"read_mask: keep must be 'black' or 'white', got {keep!r}.")
    path = existing_file(path)
    if size is not None:
        height, width = image_size(path)
        if (height, width) != tuple(size):
            raise ValueError(
                f"{path}: the mask is {width} x {height} pixels and the image {size[1]} x {size[0]}. They must be the same size."
            )
    if path.suffix.lower() == ".npy":
        return mask_of_array(_load_numpy(path, image=True), str(path), keep=keep)
    return mask_of_picture(read_image(path), str(path), keep=keep)


def mask_of_array(values: NDArray[Any], source: str, *, keep: str) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the mask in an array, see :func:`read_mask`, and what was taken for granted; ``source`` names it in errors."""
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() == 1:
        known, notes = mask_of_picture(picture_of_array(values == 1, source), source, keep=keep)
        return known, (f"{source}: {ZERO_AND_ONE}", *notes)
    return mask_of_picture(picture_of_array(values, source), source, keep=keep)


def mask_of_picture(picture: Picture, source: str, *, keep: str) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the mask in a picture, see :func:`read_mask`, and what was taken for granted; ``source`` names it in errors."""
    grey, notes = _grey(picture, source, "a mask"), picture.notes
    levels = (picture.pixels + 1) / 2 * (2**picture.bits - 1)
    if 0.999 < levels.max() < 1.001 and (np.abs(levels - levels.round()) < 0.001).all() and levels.min() > -0.001:
        grey, notes = levels.mean(0), (*notes, f"{source}: {ZERO_AND_ONE}")
    soft = float(((grey > 0.1) & (grey < 0.9)).mean())
    if soft > SOFT_MASK_SHARE:
        raise ValueError(
            f"{source}: expected a mask of black and white pixels, but {soft:.1%} are gray or colored (at most "
            f"{SOFT_MASK_SHARE:.0%} may be, at edges): make every pixel black (keep) or white (fill)."
        )
    return grey >= 0.5 if keep == "white" else grey < 0.5, notes


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
    path = existing_file(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected an .npy or .npz file with the array {name!r}, as written by --simulate.")
    _declared_arrays(path)
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
        values = _load_numpy(existing_file(stem), key)
    elif name.lower().endswith((".npy", ".npz")):
        values = _load_numpy(existing_file(name))
    else:
        values = _grey(read_image(name), name, "a kernel")
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
    """Yield a temporary path beside ``path``, with the same suffix, and move it to ``path`` after the block has written it.

    Whatever happens, ``path`` has either its previous content or the complete new content.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist.")
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be read; raise if there is none, or if it is empty, a folder, a pipe or a device."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; expected {READABLE}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected {READABLE}.")
    if path.stat().st_size == 0 and path.is_file():
        raise ValueError(f"{path}: the file is empty; expected {READABLE}.")
    if not path.is_file():  # reading would wait for a writer, or never end
        raise ValueError(f"{path}: is a pipe or a device; expected {READABLE}: save its content to a file first.")
    return path


def _load_numpy(path: Path, key: str = "", *, image: bool = False) -> NDArray[Any]:
    _declared_arrays(path, image=image)
    arrays = _arrays(path)
    if key in arrays or (not key and len(arrays) == 1):
        return arrays[key] if key else next(iter(arrays.values()))
    wanted = f"no array {key!r}" if key else "several arrays and none was named"
    raise ValueError(f"{path}: {wanted}; append one of its names after a colon: {', '.join(arrays)}.")


def _declared_arrays(path: Path, *, image: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a NumPy file declares, by name; raise if they are too large or, for an image, the shape of none."""
    with path.open("rb") as file:
        try:
            shapes = declared_shapes(file)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError):
            return {}  # damaged, or encrypted: named when it is read
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read: {error}.") from error
    if image and "" in shapes:
        _check_picture(shapes[""], path)
    return shapes


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a NumPy file by name; the name of the array of an ``.npy`` file is empty."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # numpy warns before it fails on a damaged header.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": native(loaded)}
            with loaded:
                return {name: native(loaded[name]) for name in loaded}
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


def _grey(picture: Picture, source: str, what: str) -> Array:
    if picture.alpha is not None and (picture.alpha < 1).any():
        raise ValueError(f"{source}: {what} must not be transparent, because its meaning would be a guess. Flatten the image.")
    return np.asarray((picture.pixels.mean(0) + 1) / 2, dtype=np.float64)


def _quantised(values: Array, bits: int) -> NDArray[np.unsignedinteger[Any]]:
    return np.rint(values).clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
