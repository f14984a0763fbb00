"""Videos frame by frame, by PyAV (FFmpeg); results are lossless videos: Matroska with the codec FFV1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Array, Format, Scan, Stack, Written
from invdiff.io.limits import check_image

__all__ = ["Video"]

MATROSKA = b"\x1a\x45\xdf\xa3"
BRANDS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ", b"dash")
KINDS = ("mov", "mp4", "matroska", "webm", "avi")  # containers that are opened: none that names other files


@dataclass(frozen=True)
class Header:
    """What results carry through: frames per second."""

    rate: Fraction


class Video(Format):
    """Frames of a video, in color."""

    name = "video"
    extra = "video"
    modules = ("av",)
    suffixes = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
    suffix = ".mkv"
    reads = "frames of MP4, QuickTime, Matroska, WebM and AVI, 8 bits"
    writes = "lossless Matroska (FFV1) of the same rate"

    def recognizes(self, head: bytes, path: Path) -> bool:
        if head[4:8] == b"ftyp":
            return head[8:12] in BRANDS
        return head.startswith(MATROSKA) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")

    def open(self, path: Path) -> Stack | Scan:
        with _opened(path) as container:
            stream = container.streams.video[0]
            height, width, rate = stream.height, stream.width, Fraction(stream.average_rate or 25)
            check_image(height, width, 3)
            count = stream.frames or sum(1 for _ in container.decode(stream))
        if not count:
            raise ValueError("it holds no frames")
        frames = _Frames(path)
        return Stack(
            (count, 3, height, width),
            frames.picture,
            axis="frame",
            window=(0.0, 255.0),
            limits=(0.0, 255.0),
            header=Header(rate),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        import av

        header: Header = of.header
        with av.open(str(path), "w", format="matroska") as container:
            stream: Any = None
            for each in pictures:
                values = np.rint(np.moveaxis(each, 0, -1)).clip(0, 255).astype(np.uint8)
                if stream is None:
                    stream = container.add_stream("ffv1", rate=header.rate)
                    stream.height, stream.width, stream.pix_fmt = *values.shape[:2], "bgr0"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


class _Frames:
    """Frames of a file, decoded from where the last one was if they are asked for in order."""

    def __init__(self, path: Path) -> None:
        self.path, self.next = path, 0
        self.frames: Iterator[NDArray[np.uint8]] = iter(())

    def picture(self, k: int) -> Array:
        if k < self.next or self.next == 0:
            self.next, self.frames = 0, _decoded(self.path)
        for frame in self.frames:
            self.next += 1
            if self.next > k:
                return np.moveaxis(frame.astype(np.float64), -1, 0).copy()
        raise ValueError(f"it is truncated: frame {k + 1} is missing")


def _decoded(path: Path) -> Iterator[NDArray[np.uint8]]:
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _opened(path: Path) -> Any:
    """Return the open container of a file with a video."""
    import av
    from av.error import FFmpegError

    try:
        container: Any = av.open(str(path), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except FFmpegError as error:
        raise ValueError(
            f"it is damaged or of a kind that FFmpeg does not read ({error.strerror or type(error).__name__})"
        ) from error
    names = container.format.name.split(",")
    if not container.streams.video or not {*names} & {*KINDS}:
        container.close()
        raise ValueError(f"it holds no video ({container.format.long_name})")
    return container
