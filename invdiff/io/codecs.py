"""Read and write the integers in image files, with the library that keeps all bits of a format.

Pillow handles files with 8 bits per channel, but truncates color images with more bits; those go through tifffile and
kornia_rs. So do TIFF files with channels other than gray or RGB, whatever their bit depth.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["READABLE", "Decoded", "decode", "encode", "first_line"]

READABLE = "a PNG, JPEG, TIFF, WebP or BMP image or a .npy array"
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)  # TIFF's photometric interpretations
UNSPECIFIED, PREMULTIPLIED_ALPHA, ALPHA = range(3)  # TIFF's types of extra samples


class Decoded(NamedTuple):
    """Content of an image file.

    Attributes:
        values: Pixels ``(H, W, C)`` in the bit depth of the file, upright; alpha, if any, is the last channel.
        alpha: Whether the last channel is alpha: two channels may be gray and alpha, or two image channels.
        icc: The embedded color profile.
    """

    values: NDArray[Any]
    alpha: bool
    icc: bytes | None


def decode(path: Path) -> Decoded:
    """Decode an image file: TIFF with any number of channels, other formats with gray or RGB.

    Raises:
        ValueError: If the file is damaged, not an image, or of an unsupported kind.
    """
    try:
        # An open file instead of its name: Pillow maps a named file into memory, and then scrambles uncompressed TIFF
        # images whose orientation swaps rows and columns.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Large images and unusual metadata are accepted.
            header = file.read(32)
            decoded = _decode_tiff(path) if header.startswith(TIFF_MAGIC) else None
            if decoded is not None:
                return decoded
            with Image.open(file, formats=FORMATS) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format != "MPO":  # MPO: a JPEG whose further frames are camera previews.
                    raise ValueError(f"it holds {frames} frames or pages, expected one")
                if image.format == "PNG" and header[24] == 16:
                    return _decode_deep_png(path, image, colour_type=header[25])
                return _decode_with_pillow(image)
    except PermissionError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is damaged or not an image; expected {READABLE}.") from error
    except Exception as error:  # every decoder raises its own exceptions for damaged files
        raise ValueError(f"{path}: cannot be read as an image: {first_line(error)}.") from error


def encode(path: Path, decoded: Decoded) -> None:
    """Write 8- or 16-bit values in the format given by the suffix of ``path``; all but TIFF hold gray or RGB only."""
    values, _, icc = decoded
    suffix, channels = path.suffix.lower(), values.shape[-1]
    if suffix in (".tif", ".tiff"):
        _encode_tiff(path, decoded)
    elif values.dtype == np.uint16:
        from kornia_rs import io

        if channels == 2:
            values = values[..., [0, 0, 0, 1]]
        io.write_image_png_u16(str(path), np.ascontiguousarray(values), {1: "mono", 3: "rgb"}.get(channels, "rgba"))
        if icc is not None:
            _embed_profile(path, icc)
    else:
        options: dict[str, Any] = {} if icc is None or suffix == ".bmp" else {"icc_profile": icc}
        if suffix in (".jpg", ".jpeg"):
            options |= {"quality": 95, "subsampling": 0}
        elif suffix == ".webp":
            options |= {"lossless": True, "exact": True}
        Image.fromarray(values[..., 0] if channels == 1 else values).save(path, **options)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, for use inside another message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _decode_with_pillow(image: Image.Image) -> Decoded:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Decoded(np.asarray(image)[..., None], alpha=False, icc=image.info.get("icc_profile"))
    grey = image.mode in ("1", "L", "LA", "La")
    # The profile of a CMYK or Lab image does not describe the RGB values converted from it.
    icc = image.info.get("icc_profile") if grey or image.mode in ("RGB", "RGBA", "P", "PA") else None
    alpha = image.has_transparency_data
    values = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if alpha else "")))
    return Decoded(values.reshape(*values.shape[:2], -1), alpha, icc)


def _decode_deep_png(path: Path, image: Image.Image, *, colour_type: int) -> Decoded:
    from kornia_rs import io

    modes = {0: "mono", 2: "rgb", 6: "rgba"}
    if colour_type not in modes:
        raise ValueError("16-bit gray with alpha is not supported; save it as 16-bit RGBA")
    values = io.read_image_png_u16(str(path), modes[colour_type])
    orientation = image.getexif().get(0x0112, 1)
    upright = _upright(values.reshape(*values.shape[:2], -1), orientation)
    return Decoded(upright, alpha=colour_type == 6, icc=image.info.get("icc_profile"))


def _decode_tiff(path: Path) -> Decoded | None:
    """Decode TIFF files that Pillow cannot; return ``None`` to leave a file to Pillow, which supports more codecs."""
    import tifffile

    # OME files may refer to other files for some channels: those are not opened, and zeros are not put in their place.
    with tifffile.TiffFile(path, _multifile=False) as file:
        page: Any = file.pages.first
        image = _one_image(file)
        kind, bits, orientation, icc = page.photometric, page.bitspersample, page.tags.valueof(274, 1), page.tags.valueof(34675)
        samples, extra = page.samplesperpixel, page.extrasamples
        # Only samples declared as alpha are alpha: the fourth band of a satellite image is infrared.
        alphas = [k for k, meaning in enumerate(extra, samples - len(extra)) if meaning in (PREMULTIPLIED_ALPHA, ALPHA)]
        grey_or_rgb = kind in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
        plain = image is page and (not grey_or_rgb or samples - len(alphas) == (3 if kind == RGB else 1))
        if plain and bits <= 8:
            return None
        # Channels stored as pages may each have a color table for display; their values are intensities nevertheless.
        if not grey_or_rgb and (plain or kind != PALETTE):
            raise ValueError(f"it holds {bits}-bit {kind.name} data, expected gray or RGB")
        if len(alphas) > 1:
            raise ValueError(f"it holds {len(alphas)} alpha channels, expected one at most")
        if not plain and (page.dtype is None or 8 * page.dtype.itemsize != bits):
            raise ValueError(f"it holds channels of {bits} bits, expected 8 or 16 bits, or floats")
        axes = image.axes
        try:
            values = image.asarray()
        except (ImportError, KeyError, ValueError) as error:
            if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
                raise
            # tifffile needs an extra for codecs such as LZW; Pillow keeps all 16 bits of gray, kornia_rs of RGB.
            by_others = plain and page.dtype == np.uint16
            if by_others and samples == 1:
                return None
            if not by_others or samples != 3:
                raise ValueError(f"{page.compression.name} compression is not supported here; save it uncompressed") from error
            from kornia_rs import io

            values, axes = io.read_image_tiff_u16(str(path), "rgb"), "YXS"
        values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
        values = values.reshape(*values.shape[:2], -1)
        colours = [k for k in range(values.shape[-1]) if k not in alphas]
        if kind == WHITE_IS_ZERO:
            values[..., colours] = (np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1) - values[..., colours]
        return Decoded(_upright(values[..., colours + alphas], orientation), bool(alphas), icc)


def _one_image(file: Any) -> Any:
    """Return the page that is the image, or the series of pages that are its channels; raise if it is neither."""
    pages, series = len(file.pages), file.series
    if pages == 1 and not series:
        return file.pages.first
    image = series[0]
    channels = dict(zip(image.axes, image.shape, strict=True)).get("C", 1)
    several = pages > 1 and (len(series) > 1 or pages != channels)
    if several or set(image.axes) not in (set("YX"), set("YXS"), set("CYX")):
        found = " and ".join(f"{part.axes} {' x '.join(map(str, part.shape))}" for part in series[:2])
        raise ValueError(
            f"it holds {pages} page{'s' * (pages > 1)} ({found}), expected one image; save its channels with axes='CYX', "
            "or as a (C, H, W) .npy array"
        )
    if any(part is None for part in image):
        raise ValueError(f"some of its {channels} channels are not in this file")
    return image if "C" in image.axes else file.pages.first


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation of ``(H, W, C)``."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    for axis, mirrored in enumerate([(3, 4, 7, 8), (2, 3, 6, 7)]):
        values = np.flip(values, axis) if orientation in mirrored else values
    return values


def _encode_tiff(path: Path, decoded: Decoded) -> None:
    import tifffile

    values, alpha, icc = decoded
    samples = values.shape[-1]
    colours = samples - alpha
    if colours in (1, 3):
        extra = [ALPHA] * alpha
    else:  # in planes: ImageJ refuses interleaved samples unless gray or RGB
        values, extra = np.moveaxis(values, -1, 0), [UNSPECIFIED] * (colours - 1) + [ALPHA] * alpha
    tifffile.imwrite(
        path,
        values[..., 0] if samples == 1 else values,
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig=None if samples == 1 else "contig" if colours in (1, 3) else "separate",
        extrasamples=extra or None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )


def _embed_profile(path: Path, icc: bytes) -> None:
    # kornia_rs writes no profile: the iCCP chunk goes right after the header, which ends at byte 33 in every PNG file.
    content = path.read_bytes()
    chunk = b"iCCP" + b"icc\0\0" + zlib.compress(icc)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + framed + content[33:])
