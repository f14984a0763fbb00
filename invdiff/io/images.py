"""Image, mask and kernel files: read without losing bits, and written in the mode of the input.

Pixels span [-1, 1], as everywhere below the command line: an 8-bit value ``v`` is ``v / 127.5 - 1``, a 16-bit value
``v / 32767.5 - 1``. Transparency is kept separate from the colors and restored on writing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from invdiff.io.codecs import Decoded, declared_size, decode, encode
from invdiff.io.limits import LARGEST_IMAGE
from invdiff.io.masks import FoundMask, MaskRules, gray, mask_of_array, mask_of_picture
from invdiff.io.numpy_files import declared_arrays, existing_file, load_numpy, read_arrays
from invdiff.io.picture import Array, Picture, picture_of_array, spanned, unit
from invdiff.io.scratch import Scratch, hidden, sweep

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "atomic_write",
    "image_size",
    "list_images",
    "normalized_kernel",
    "picture_of_array",
    "read_arrays",
    "read_image",
    "read_kernel",
    "read_mask",
    "read_mask_found",
    "write_image",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy"})


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files in ``folder`` with an image suffix, sorted by name; hidden files are left out."""
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def read_image(path: str | os.PathLike[str], *, page: int | None = None) -> Picture:
    """Read a PNG, JPEG, TIFF, WebP, BMP, AVIF or HEIC file (with pillow-heif installed), or a ``.npy`` array.

    The EXIF orientation is applied; palette, 1-bit and CMYK images are converted to gray or RGB. A ``.npy`` array, ``(H, W)``
    or ``(C, H, W)`` with any number of channels, holds floats (or booleans) on the 0..1 scale, which noise may exceed, or 8- or
    16-bit unsigned integers. TIFF files of floats use the same scale.

    A TIFF file may hold any number of channels: samples of one page, interleaved or in planes, or pages that the file declares
    as channels (the axes ``CYX`` of ImageJ, OME and tifffile). Of other stacks ``page`` names one. Only a sample declared as
    alpha is alpha: the second or fourth channel of a microscope or satellite image is an image channel. Samples of 9 to 15 bits
    are scaled to 16 bits; colors multiplied by alpha are divided by it.

    Args:
        path: The file.
        page: Page of a TIFF file of several pages, counted from 1.

    Raises:
        ValueError: If the file is empty, damaged, animated, a stack of pages of which none is named, or not an image, or
            contains NaN or infinity, or declares more pixels than :data:`invdiff.io.limits.LARGEST_IMAGE`, which is found
            before they are decoded.
        OSError: If the file does not exist or cannot be opened.
    """
    path = existing_file(path)
    if path.suffix.lower() == ".npy":
        if page is not None and page > 1:
            raise ValueError(f"{path}: is an array, which has no pages, and --page {page} is asked for.")
        return picture_of_array(load_numpy(path, image=True), str(path))
    decoded = decode(path, page=page)
    stored = decoded.values.transpose(2, 0, 1)
    colours, alpha = (stored[:-1], unit(stored[-1], path)) if decoded.alpha else (stored, None)
    bits, notes = 8 if decoded.values.dtype == np.uint8 else 16, tuple(f"{path}: {note}" for note in decoded.notes)
    return Picture(spanned(colours, path), alpha, bits, decoded.icc, decoded.exif, notes, decoded.chroma, decoded.format)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the size ``(H, W)`` that an image or a ``.npy`` file declares, upright, without decoding its pixels.

    Raises:
        ValueError: If the file is no image, or too large.
        OSError: If it does not exist or cannot be opened.
    """
    path = existing_file(path)
    if path.suffix.lower() != ".npy":
        return declared_size(path)
    shape = declared_arrays(path, image=True).get("")
    if shape is None:  # damaged, or of a version whose header is not read in advance
        return picture_of_array(load_numpy(path, image=True), str(path)).pixels.shape[1:]
    height, width = shape[-2:]
    return height, width


def write_image(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    *,
    bits: int = 8,
    alpha: ArrayLike | None = None,
    icc: bytes | None = None,
    exif: bytes | None = None,
    quality: int = 95,
) -> None:
    """Write an image atomically, in the format given by the file suffix. Unmodified images are reproduced bit for bit.

    ======================= ======= ===================================================
    suffix                  bits    channels
    ======================= ======= ===================================================
    ``.png .tif .tiff``     8, 16   gray, RGB, each with or without alpha
    ``.tif .tiff``          8, 16   any other number, without alpha: planes of one page
    ``.webp``               8       RGB (gray becomes RGB), alpha; lossless
    ``.jpg .jpeg .bmp``     8       gray, RGB; JPEG without chroma subsampling
    ``.npy``                float32 any number, on the 0..1 scale, not clipped
    ======================= ======= ===================================================

    Args:
        path: The file; its folder must exist.
        pixels: ``(C, H, W)``; values outside [-1, 1] are clipped, except in ``.npy`` files.
        bits: 8 or 16 bits per channel. A 16-bit gray PNG with alpha is written as RGBA.
        alpha: Opacity ``(H, W)`` in [0, 1], see ``Picture.alpha``.
        icc: Color profile to embed, see ``Picture.icc``; BMP and ``.npy`` files hold none.
        exif: EXIF data to embed, with the resolution, see ``Picture.exif``; BMP and ``.npy`` files hold none.
        quality: Quality of JPEG files, 1 to 100 in the scale of libjpeg.

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
        encode(temporary, Decoded(np.stack(values, axis=-1), opacity is not None, icc, exif), quality=quality)


def read_mask(
    path: str | os.PathLike[str],
    *,
    keep: Literal["black", "white"] = "black",
    size: tuple[int, ...] | None = None,
    threshold: float | None = None,
) -> NDArray[np.bool_]:
    """Read a mask as booleans ``(H, W)``: True where the pixel is measured, False where it is to be filled.

    In the file white means fill and black means keep, unless ``keep="white"`` reverses this. Gray pixels at soft edges are
    filled, unless they are nearly those to keep. ``.npy`` masks follow the same rule, with True for white. In masks that hold
    the integers 0 and 1 alone, 1 is white. Paint on a transparent ground is filled.

    Args:
        path: The file.
        keep: Color of the pixels to keep.
        size: Size ``(H, W)`` that the mask must have, compared before its pixels are decoded.
        threshold: Share of white (of black, if white is kept), between 0 and 1, above which a pixel is filled. Default: 0.05,
            and 0.15 in a JPEG file.

    Raises:
        ValueError: If the pixels have colors, or most are gray and no threshold is given: the meaning would be a guess. Or if
            the mask has another size.
    """
    return read_mask_found(path, MaskRules(keep=keep, threshold=threshold), size=size).known


def read_mask_found(path: str | os.PathLike[str], rules: MaskRules, *, size: tuple[int, ...] | None = None) -> FoundMask:
    """Return a mask as :func:`read_mask` does, by any rules, and what was taken for granted."""
    path = existing_file(path)
    if size is not None:
        height, width = image_size(path)
        if (height, width) != tuple(size):
            raise ValueError(
                f"{path}: the mask is {width} x {height} pixels and the image {size[1]} x {size[0]}. They must be the same "
                f"size: {_same_size(height, width, *size)}."
            )
    if path.suffix.lower() == ".npy":
        return mask_of_array(load_numpy(path, image=True), str(path), rules)
    return mask_of_picture(read_image(path), str(path), rules)


def _same_size(height: int, width: int, rows: int, columns: int) -> str:
    """Return what to do with a mask of ``height`` x ``width`` for an image of ``rows`` x ``columns``."""
    if (height, width) == (columns, rows):
        return "turn the mask by 90 degrees (the image is shown as its EXIF orientation says)"
    if abs(width * rows - height * columns) <= max(width, height, rows, columns):
        return f"scale the mask to {columns} x {rows}, or paint it on the image itself"
    return "paint it on the image itself, in one color (--mask-color), or on a layer of its size"


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
        values = load_numpy(existing_file(stem), key, largest=LARGEST_IMAGE)
    elif name.lower().endswith((".npy", ".npz")):
        values = load_numpy(existing_file(name), largest=LARGEST_IMAGE)
    else:
        values = gray(read_image(name), name, "a kernel")
    return normalized_kernel(values, name)


def normalized_kernel(values: NDArray[Any], path: str) -> Array:
    """Return a kernel with sum 1; errors as those of :func:`read_kernel`, with the name ``path``."""
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
        if not scratch.take():
            raise OSError(f"{path}: no temporary folder could be made in {path.parent}.")
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


def _quantised(values: Array, bits: int) -> NDArray[np.unsignedinteger[Any]]:
    return np.rint(values).clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
