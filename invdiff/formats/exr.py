"""OpenEXR and Radiance images: linear light, whose values may be above white; results are OpenEXR files of 32-bit floats."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.color_spaces import ColorSpace
from invdiff.formats.format import Format, Scan, Stack, Written
from invdiff.io.limits import check_image
from invdiff.io.quiet import without_stderr

__all__ = ["EXR", "LINEAR", "Attributes", "RadianceHDR"]

MAGIC = b"\x76\x2f\x31\x01"
LINEAR = "linear light"
UNWRITABLE = re.compile(r"type of attribute '([^']+)'")
D65 = 0.3127, 0.3290
RGB, GRAY = ("R", "G", "B"), ("Y",)
# What describes the storage of the old file.
STORAGE = (
    *("channels", "compression", "lineOrder", "type", "tiles", "chunkCount", "version", "name", "view", "multiView", "preview"),
    *("maxSamplesPerPixel", "deepImageState", "dwaCompressionLevel"),
)
WHO = ("owner", "comments", "capDate", "latitude", "longitude", "altitude", "cameraSerialNumber", "cameraUuid", "cameraOwner")


@dataclass(frozen=True, eq=False)
class Attributes:
    """What results carry through: the attributes of the header that do not describe the storage of the pixels."""

    values: Mapping[str, Any]

    @classmethod
    def of_color_space(cls, space: ColorSpace) -> Attributes:
        """Return the attributes of images in a linear color space: its chromaticities, if it has any."""
        if space.primaries is None:
            return cls({})
        return cls({"chromaticities": tuple(float(c) for pair in (*space.primaries, D65) for c in pair)})


class EXR(Format):
    """The first image of red, green and blue, or of luminance, of a file."""

    name = "OpenEXR"
    extra = "hdr"
    modules: ClassVar[tuple[str, ...]] = ("OpenEXR",)
    suffixes: ClassVar[tuple[str, ...]] = (".exr",)
    suffix = ".exr"
    reads = "RGB or luminance in linear light, scan lines or tiles, the first part: --problem declip"
    writes = "32-bit floats with chromaticities and all other attributes that the library writes"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return head.startswith(MAGIC)

    def open(self, path: Path) -> Stack | Scan:
        with _file(path, header_only=True) as file:
            parts = [dict(part.header) for part in file.parts]
        place, names, notes = _part(parts)
        header = parts[place]
        (left, top), (right, bottom) = (tuple(int(side) for side in corner) for corner in header["dataWindow"])
        height, width = bottom - top + 1, right - left + 1
        check_image(height, width)

        def picture(k: int) -> NDArray[np.float64]:
            with _file(path, separate_channels=True) as opened:
                if len(opened.parts) != len(parts):
                    raise ValueError("it is damaged or truncated: its pixels cannot be read")
                channels = [opened.parts[place].channels[name].pixels for name in names]
                found = np.stack([np.asarray(each, dtype=np.float64) for each in channels])
            if found.shape != (len(names), height, width):
                raise ValueError(f"its channels have the shape {found.shape[1:]}, expected {(height, width)}")
            return found

        attributes = {name: value for name, value in header.items() if name not in STORAGE}
        return Stack(
            (1, len(names), height, width),
            picture,
            axis="picture",
            unit=LINEAR,
            window=(0.0, 1.0),
            calibrated=True,
            header=Attributes(attributes),
            notes=notes,
            problems=("declip",),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        import OpenEXR

        header: Attributes = of.header
        (picture,) = pictures
        left_out = WHO if written.anonymize else ()
        kept = {name: value for name, value in header.values.items() if name not in left_out}
        kept |= {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        kept["software"] = f"{written.command}: {written.what} of samples of the posterior distribution"
        names = RGB if len(picture) == len(RGB) else GRAY
        channels = {name: np.ascontiguousarray(each, np.float32) for name, each in zip(names, picture, strict=True)}
        while True:
            try:
                with OpenEXR.File(kept, channels) as file:
                    file.write(str(path))
                return
            except RuntimeError as error:  # there are types of attributes that it reads and does not write
                named = UNWRITABLE.search(str(error))
                if named is None or kept.pop(named[1], None) is None:
                    raise


class RadianceHDR(EXR):
    """Radiance images of shared exponents (RGBE), by OpenCV."""

    name = "Radiance HDR"
    modules = ("cv2", "OpenEXR")
    suffixes = (".hdr", ".pic")
    reads = "RGB in linear light: --problem declip"
    writes = "OpenEXR files of 32-bit floats"

    def recognizes(self, head: bytes, path: Path) -> bool:
        return head.startswith((b"#?RADIANCE", b"#?RGBE"))

    def open(self, path: Path) -> Stack | Scan:
        import cv2  # pyright: ignore[reportMissingImports] - an extra

        height, width = _declared(path)
        check_image(height, width)
        with without_stderr():
            found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if found is None or found.shape != (height, width, 3):
            raise ValueError("it is damaged or truncated: OpenCV cannot read it")
        values = found[..., ::-1].transpose(2, 0, 1).astype(np.float64)
        return Stack(
            (1, 3, height, width),
            lambda k: values,
            axis="picture",
            unit=LINEAR,
            window=(0.0, 1.0),
            calibrated=True,
            header=Attributes({}),
            problems=("declip",),
        )


def _declared(path: Path) -> tuple[int, int]:
    """Return the size ``(H, W)`` that the head of a Radiance file declares, before its pixels are read."""
    with path.open("rb") as file:
        lines = file.read(2**16).split(b"\n\n", 1)
    words = lines[-1].split(b"\n", 1)[0].split()
    if len(lines) != 2 or len(words) != 4 or words[0] != b"-Y" or words[2] != b"+X":
        raise ValueError("its size is not declared as -Y HEIGHT +X WIDTH: it is damaged, or turned, which is not supported")
    try:
        return int(words[1]), int(words[3])
    except ValueError as error:
        raise ValueError("the size in its head is damaged") from error


def _part(parts: list[dict[str, Any]]) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Return which part of a file is taken, the names of its channels, and notes.

    Raises:
        ValueError: If none holds a picture.
    """
    import OpenEXR

    shown = []
    for place, header in enumerate(parts):
        channels = {channel.name: channel for channel in header["channels"]}
        shown.append(", ".join(sorted(channels)) or "nothing")
        names = next((wanted for wanted in (RGB, GRAY) if set(wanted) <= set(channels)), None)
        if names is None or {"RY", "BY"} & set(channels):
            continue
        if header.get("type") in (OpenEXR.deepscanline, OpenEXR.deeptile):
            raise ValueError("it holds deep data, several samples a pixel, expected one: flatten it")
        if any((channels[name].xSampling, channels[name].ySampling) != (1, 1) for name in names):
            raise ValueError("its channels are subsampled, expected a value for each pixel")
        notes = [f"it holds {len(parts)} parts, of which number {place + 1} is taken"] if len(parts) > 1 else []
        others = sorted(set(channels) - set(names))
        notes += [f"its channels {', '.join(others)} are not taken"] if others else []
        return place, names, tuple(notes)
    raise ValueError(f"it holds no channels R, G and B, or Y, but {' and '.join(shown[:3]) or 'nothing'}")


@contextlib.contextmanager
def _file(path: Path, **options: bool) -> Iterator[Any]:
    """Yield an open ``OpenEXR.File``; the library prints what is wrong with a damaged one."""
    import OpenEXR

    try:
        with without_stderr():
            file = OpenEXR.File(str(path), num_threads=0, **options)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError("it is damaged or truncated: OpenEXR cannot read it") from error
    with file:
        if not file.parts:
            raise ValueError("it is damaged or truncated: its pixels cannot be read")
        yield file
