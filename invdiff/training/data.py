"""Training images, decoded once and cut into random crops."""

from __future__ import annotations

import hashlib
import math
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from invdiff.io.figures import is_figure
from invdiff.io.images import IMAGE_SUFFIXES, read_image

__all__ = ["FLIPS", "Images", "load_images"]

Pixels = NDArray[np.uint8] | NDArray[np.float32]  # (H, W, C): uint8 for 8-bit files, otherwise float32 in [-1, 1]

BLOCK = 512  # bytes, the unit of tar archives
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
FLIPS = ("none", "horizontal", "all")
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601 luma, which Pillow uses to convert color to gray


@dataclass(frozen=True, eq=False)
class Images:
    """Images of any sizes in one flat tensor, so that cutting a batch of crops is a single gather.

    Attributes:
        pixels: The values of all images, concatenated, each image in ``(H, W, C)`` order: uint8, or float32 in [-1, 1].
        offsets: Index in ``pixels`` at which each image begins, int64 ``(N,)``.
        heights: Rows of each image, int64 ``(N,)``.
        widths: Columns of each image, int64 ``(N,)``.
        channels: Number of channels, the same for all images.
    """

    pixels: Tensor
    offsets: Tensor
    heights: Tensor
    widths: Tensor
    channels: int

    @classmethod
    def of(cls, images: Sequence[Pixels]) -> Images:
        """Pack arrays ``(H, W, C)``, all uint8 or all float32 in [-1, 1]."""
        heights, widths, channels = torch.tensor([image.shape for image in images]).unbind(1)
        sizes = heights * widths * channels
        pixels = torch.cat([torch.from_numpy(image).reshape(-1) for image in images])
        return cls(pixels, sizes.cumsum(0) - sizes, heights, widths, int(channels[0]))

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, held_out: int) -> tuple[Images, Images]:
        """Return training images and ``held_out`` validation images, taken at equal intervals; both share ``pixels``."""
        chosen = torch.arange(1, held_out + 1) * len(self) // (held_out + 1)
        rest = torch.ones(len(self), dtype=torch.bool)
        rest[chosen] = False
        return self._select(rest.nonzero().flatten()), self._select(chosen)

    def to(self, device: torch.device | str) -> Images:
        """Return the images with their pixels on ``device``."""
        return replace(self, pixels=self.pixels.to(device))

    def crops(
        self, count: int, size: int, generator: torch.Generator, *, flips: str = "horizontal", part: slice = slice(None)
    ) -> Tensor:
        """Return crops ``(count, C, size, size)`` in [-1, 1], each at a random position of a random image.

        Args:
            count: Number of crops to draw.
            size: Side of the crops in pixels.
            generator: Random generator on the CPU, wherever the pixels are.
            flips: ``none``; ``horizontal``: half of the crops are mirrored; ``all``: one of the eight symmetries of the square.
            part: Which of the crops to return; the random numbers of all ``count`` crops are drawn in any case.
        """
        index = torch.randint(len(self), (count,), generator=generator)
        place, turns = torch.rand(2, count, generator=generator), torch.rand(3, count, generator=generator) < 0.5
        if flips != "all":
            turns[1:] = False
        if flips == "none":
            turns[0] = False
        tops = (place[0].double() * (self.heights[index] - size + 1)).long()
        lefts = (place[1].double() * (self.widths[index] - size + 1)).long()
        return self._cut(index[part], tops[part], lefts[part], size, turns[:, part])

    def centres(self, size: int) -> Tensor:
        """Return the center of every image, ``(N, C, size, size)`` in [-1, 1]."""
        index = torch.arange(len(self))
        tops, lefts = (self.heights - size) // 2, (self.widths - size) // 2
        return self._cut(index, tops, lefts, size, torch.zeros(3, len(self), dtype=torch.bool))

    def digest(self) -> str:
        """Return the SHA-256 hash of the image sizes and decoded pixels."""
        digest = hashlib.sha256(torch.stack([self.heights, self.widths]).numpy().tobytes())
        digest.update(self.pixels.cpu().numpy().data)
        return digest.hexdigest()

    def moments(self) -> tuple[float, float]:
        """Return the mean and standard deviation of all values on the [-1, 1] scale."""
        total = squares = 0.0
        for part in torch.split(self.pixels, 2**24):  # in parts, since all values as float64 may not fit in memory
            values = part.double() / 127.5 - 1 if part.dtype == torch.uint8 else part.double()
            total, squares = total + float(values.sum()), squares + float(values.square().sum())
        mean = total / len(self.pixels)
        return mean, math.sqrt(max(squares / len(self.pixels) - mean**2, 0.0))

    def _cut(self, index: Tensor, tops: Tensor, lefts: Tensor, size: int, turns: Tensor) -> Tensor:
        where = self.pixels.device
        offsets, widths, tops, lefts = (
            t.to(where)[:, None, None] for t in (self.offsets[index], self.widths[index], tops, lefts)
        )
        mirror, upend, transpose = (turn.to(where)[:, None, None] for turn in turns)
        rows, columns = torch.meshgrid(torch.arange(size, device=where), torch.arange(size, device=where), indexing="ij")
        rows, columns = torch.where(transpose, columns, rows), torch.where(transpose, rows, columns)
        rows, columns = torch.where(upend, size - 1 - rows, rows), torch.where(mirror, size - 1 - columns, columns)
        first = offsets + ((tops + rows) * widths + lefts + columns) * self.channels
        crops = self.pixels[first[:, None] + torch.arange(self.channels, device=where)[:, None, None]]
        return crops.float() / 127.5 - 1 if crops.dtype == torch.uint8 else crops

    def _select(self, index: Tensor) -> Images:
        return replace(self, offsets=self.offsets[index], heights=self.heights[index], widths=self.widths[index])


def load_images(
    sources: Sequence[Path], *, smallest: int, channels: int | None = None, side: int | None = None, progress: bool = False
) -> tuple[Images, list[str]]:
    """Decode all images in folders and tar archives.

    Args:
        sources: Tar archives, and folders, which are searched recursively for images and tar archives. Hidden files and
            folders, and figures that invdiff has drawn, such as the sample grids of a training, are left out.
        smallest: Smallest allowed side in pixels. Smaller images are skipped.
        channels: 1 or 3: color images are converted to gray, or gray images to color; images with any other number of
            channels are skipped. Default: unchanged, and all images must have the same number. Transparency is dropped.
        side: Scale larger images down to this shorter side, in pixels. Default: no scaling.
        progress: Whether to show a progress bar.

    Returns:
        The images, and one line per skipped file with the reason.

    Raises:
        ValueError: If a source is neither a folder nor a tar archive, the images differ in their number of channels, or no
            image is left.
    """
    decoded: list[Pixels] = []
    names: list[str] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in tqdm(_files(sources, Path(scratch), skipped), desc="decode", unit=" images", disable=not progress):
            try:
                if is_figure(path):  # such as the samples of an earlier training beside the images
                    continue
                pixels = _decode(path, channels, side)
            except (ValueError, OSError) as error:
                skipped.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
                continue
            if min(pixels.shape[:2]) < smallest:
                skipped.append(f"{name}: {pixels.shape[1]} x {pixels.shape[0]} pixels, smaller than the crop of {smallest}")
                continue
            decoded.append(pixels)
            names.append(name)
    where = ", ".join(map(str, sources))
    if not decoded:
        reasons = f" None of {len(skipped)} files could be used, for example {skipped[-1].rstrip('.')}." if skipped else ""
        raise ValueError(f"No image of at least {smallest} x {smallest} pixels in {where}.{reasons}")
    counts = Counter(image.shape[2] for image in decoded)
    if len(counts) > 1:
        first = {image.shape[2]: name for image, name in zip(reversed(decoded), reversed(names), strict=True)}
        found = ", ".join(f"{count} with {c} (such as {first[c]})" for c, count in counts.most_common())
        raise ValueError(
            f"The images of {where} differ in their number of channels: {found}. "
            "Convert them with --channels 3 (gray to color) or --channels 1 (color to gray)."
        )
    if len({image.dtype for image in decoded}) > 1:
        decoded = [(image / 127.5 - 1).astype(np.float32) if image.dtype == np.uint8 else image for image in decoded]
    return Images.of(decoded), skipped


def _decode(path: Path, channels: int | None, side: int | None) -> Pixels:
    """Return pixels ``(H, W, C)``: uint8 for 8-bit files, otherwise float32 in [-1, 1]."""
    picture = read_image(path)
    pixels, found = picture.pixels, len(picture.pixels)
    if channels == 1 and found == 3:
        pixels = np.tensordot(LUMA, pixels, 1)[None]
    elif channels == 3 and found == 1:
        pixels = pixels.repeat(3, 0)
    elif channels not in (None, found):
        raise ValueError(f"{found} channels, expected {channels}")
    height, width = pixels.shape[1:]
    if side is not None and min(height, width) > side:
        scale = side / min(height, width)
        size = [round(height * scale), round(width * scale)]
        pixels = F.interpolate(torch.from_numpy(pixels)[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1).numpy()
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return np.rint((pixels + 1) * 127.5).astype(np.uint8) if picture.bits == 8 else pixels.astype(np.float32)


def _files(sources: Sequence[Path], scratch: Path, skipped: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of every file with an image suffix, in a fixed order."""
    for source in sources:
        if source.is_dir():
            paths = sorted(path for path in source.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(source)))
            yield from ((str(path), path) for path in paths if _is_image(path.name))
            tars = [path for path in paths if path.name.lower().endswith(TAR_SUFFIXES)]
        elif source.name.lower().endswith(TAR_SUFFIXES) and source.is_file():
            tars = [source]
        else:
            raise ValueError(f"{source}: expected a folder or a tar archive of images.")
        for tar in tars:
            yield from _members(tar, scratch, skipped)


def _members(tar: Path, scratch: Path, skipped: list[str]) -> Iterator[tuple[str, Path]]:
    for name, content in _contents(tar, skipped):
        # A fixed file name: member names may contain paths that point outside the folder.
        place = scratch / f"member{PurePosixPath(name).suffix.lower()}"
        place.write_bytes(content)
        yield f"{tar}:{name}", place


def _contents(tar: Path, skipped: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the images of an archive. Damaged parts are listed in ``skipped``; the members after them are still read."""
    try:
        # Without ignore_zeros, tarfile treats the first damaged header as the end of the archive.
        with tarfile.open(tar, ignore_zeros=True) as archive:
            end = 0
            for member in archive:
                if member.offset > end:
                    skipped.append(f"{tar}: {member.offset - end} damaged bytes before {member.name}")
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK * member.isreg()
                file = archive.extractfile(member) if member.isreg() and _is_image(PurePosixPath(member.name).name) else None
                if file is not None:
                    yield member.name, file.read()
            if archive.fileobj is not None:
                archive.fileobj.seek(end)
                if not end or len(archive.fileobj.read(BLOCK)) < BLOCK:
                    skipped.append(f"{tar}: {'it is cut short, images may be missing' if end else 'not a tar archive'}")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        skipped.append(f"{tar}: the rest could not be read, {error}")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
