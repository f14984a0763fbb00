"""Image files to integers and back: which library reads which format without losing bits.

Pillow does all that has 8 bits per channel, and cuts colours that have more; those go through tifffile and kornia_rs.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["READABLE", "decode", "encode", "first_line"]

READABLE = "a PNG, JPEG, TIFF, WebP or BMP image or a .npy array"
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # TIFF's photometric interpretations

Decoded = tuple[NDArray[Any], bytes | None]


def decode(path: Path) -> Decoded:
    """Return the values ``(H, W, C)`` in the depth of the file, upright, with alpha last, and the colour profile.

    Raises:
        ValueError: If the file is damaged, no image, or an image of a kind that is not supported.
    """
    try:
        # An open file rather than its name: Pillow maps a named file into memory, and then scrambles uncompressed TIFF
        # images whose orientation swaps rows and columns.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Large images are welcome, and odd metadata is no matter.
            header = file.read(32)
            decoded = _decode_tiff(path) if header.startswith(TIFF_MAGIC) else None
            if decoded is not None:
                return decoded
            with Image.open(file, formats=FORMATS) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format != "MPO":  # A JPEG whose further images are a camera's previews.
                    raise ValueError(f"it holds {frames} frames or pages, expected one")
                if image.format == "PNG" and header[24] == 16:
                    return _decode_deep_png(path, image, colour_type=header[25])
                return _decode_with_pillow(image)
    except PermissionError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is damaged or no image; expected {READABLE}.") from error
    except Exception as error:  # every decoder has its own exceptions for damaged files
        raise ValueError(f"{path}: cannot be read as an image: {first_line(error)}.") from error


def encode(path: Path, values: NDArray[Any], icc: bytes | None) -> None:
    """Write 8- or 16-bit values ``(H, W, C)``, alpha last, in the format that the name of ``path`` ends in."""
    suffix, channels = path.suffix.lower(), values.shape[-1]
    if suffix in (".tif", ".tiff"):
        _encode_tiff(path, values, icc)
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
    """Return what an exception of another library says, as part of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _decode_with_pillow(image: Image.Image) -> Decoded:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image)[..., None], image.info.get("icc_profile")
    grey = image.mode in ("1", "L", "LA", "La")
    # The profile of a CMYK or Lab image says nothing about the RGB values made from it.
    icc = image.info.get("icc_profile") if grey or image.mode in ("RGB", "RGBA", "P", "PA") else None
    if image.has_transparency_data:
        converted = image.convert("LA" if grey else "RGBA")
    else:
        converted = image.convert("L" if grey else "RGB")
    values = np.asarray(converted)
    return values.reshape(*values.shape[:2], -1), icc


def _decode_deep_png(path: Path, image: Image.Image, *, colour_type: int) -> Decoded:
    from kornia_rs import io

    modes = {0: "mono", 2: "rgb", 6: "rgba"}
    if colour_type not in modes:
        raise ValueError("16-bit grey with alpha is not supported, save it as 16-bit RGBA")
    values = io.read_image_png_u16(str(path), modes[colour_type])
    orientation = image.getexif().get(0x0112, 1)
    return _upright(values.reshape(*values.shape[:2], -1), orientation), image.info.get("icc_profile")


def _decode_tiff(path: Path) -> Decoded | None:
    """Decode more than 8 bits per channel; ``None``: the file is better left to Pillow, which knows more codecs."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise ValueError(f"it holds {len(file.pages)} frames or pages, expected one")
        page: Any = file.pages.first
        kind, bits, orientation, icc = page.photometric, page.bitspersample, page.tags.valueof(274, 1), page.tags.valueof(34675)
        if bits <= 8:
            return None
        if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            raise ValueError(f"it holds {bits}-bit {kind.name} data, expected grey or RGB")
        colours, samples = (3 if kind == RGB else 1), page.samplesperpixel
        if samples not in (colours, colours + 1):
            raise ValueError(f"it holds {samples} channels, expected grey or RGB, with or without alpha")
        try:
            values = page.asarray()
        except (KeyError, ValueError) as error:
            if "imagecodecs" not in str(error) or page.dtype != np.uint16:
                raise
            # Codecs such as LZW are an extra of tifffile; Pillow keeps 16 bits of grey, kornia_rs of RGB.
            if samples == 1:
                return None
            if samples == 4 or kind != RGB:
                raise ValueError(f"{page.compression.name} compression is not supported here, save it without") from error
            from kornia_rs import io

            values = io.read_image_tiff_u16(str(path), "rgb")
        values = np.moveaxis(values, 0, -1) if samples > 1 and page.axes.startswith("S") else values
        values = values.reshape(*values.shape[:2], -1)
        if kind == WHITE_IS_ZERO:
            values[..., 0] = (np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1) - values[..., 0]
        return _upright(values, orientation), icc


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation of ``(H, W, C)``."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    for axis, mirrored in enumerate([(3, 4, 7, 8), (2, 3, 6, 7)]):
        values = np.flip(values, axis) if orientation in mirrored else values
    return values


def _encode_tiff(path: Path, values: NDArray[Any], icc: bytes | None) -> None:
    import tifffile

    channels = values.shape[-1]
    tifffile.imwrite(
        path,
        values[..., 0] if channels == 1 else values,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )


def _embed_profile(path: Path, icc: bytes) -> None:
    # kornia_rs writes no profile: the iCCP chunk goes right behind the header, which ends at byte 33 in every PNG file.
    content = path.read_bytes()
    chunk = b"iCCP" + b"icc\0\0" + zlib.compress(icc)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + framed + content[33:])
