"""Animated pictures, GIF, PNG and WebP, by Pillow; results are lossless animated WebP files of the same durations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invdiff.formats.format import Array, Format, Scan, Stack, Written
from invdiff.io.limits import check_image

__all__ = ["Animation"]

GIF, PNG, ANIMATED_PNG = b"GIF8", b"\x89PNG\r\n\x1a\n", b"acTL"
ANIMATED_WEBP = 0x02  # flag at byte 20 of a file with the chunk VP8X
FORMATS = ("GIF", "PNG", "WEBP")
DURATION = 100  # milliseconds of a frame that states none


@dataclass(frozen=True)
class Header:
    """What results carry through: milliseconds of each frame, and how often the clip is shown, 0 for ever."""

    durations: tuple[int, ...]
    loop: int


class Animation(Format):
    """Frames of a clip, in color."""

    name = "animated GIF, PNG, WebP"
    suffixes = (".gif", ".png", ".webp")
    suffix = ".webp"
    reads = "frames, 8 bits"
    writes = "lossless animated WebP"

    def recognizes(self, head: bytes, path: Path) -> bool:
        if head.startswith(GIF):
            return True
        if head.startswith(PNG):
            return ANIMATED_PNG in head.partition(b"IDAT")[0]
        return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & ANIMATED_WEBP)

    def open(self, path: Path) -> Stack | Scan:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                check_image(image.height, image.width, 3)
                count, durations = int(getattr(image, "n_frames", 1)), list[int]()
                for k in range(count):
                    image.seek(k)
                    image.load()  # WebP tells the duration then
                    durations.append(round(image.info.get("duration") or DURATION))
                height, width, loop = image.height, image.width, int(image.info.get("loop", 0))

        def picture(k: int) -> Array:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=FORMATS) as image:
                    image.seek(k)
                    values = np.asarray(image.convert("RGB"), dtype=np.float64)
            return np.moveaxis(values, -1, 0).copy()

        return Stack(
            (count, 3, height, width),
            picture,
            axis="frame",
            window=(0.0, 255.0),
            limits=(0.0, 255.0),
            header=Header(tuple(durations), loop),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        header: Header = of.header
        frames = [Image.fromarray(np.rint(np.moveaxis(each, 0, -1)).clip(0, 255).astype(np.uint8)) for each in pictures]
        durations = [header.durations[k] for k in written.numbers]
        options = {"lossless": True, "duration": durations, "loop": header.loop}
        frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], **options)
