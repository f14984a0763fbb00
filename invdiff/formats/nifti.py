"""NIfTI-1 and NIfTI-2 volumes, plain or compressed by gzip, by nibabel.

A slice is shown with the first axis of the array to the right and the second upward if that points to anterior or superior,
as radiologists see it; results lie in the array as INPUT does. Of more than three axes (time, diffusion directions) all but the
first two are counted as slices, volume after volume.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Array, Format, Grid, Scan, Stack, Written
from invdiff.io.kinds import HEAD
from invdiff.io.limits import LARGEST_ARRAY, check_image

__all__ = ["NIfTI"]

logging.getLogger("nibabel").addHandler(logging.NullHandler())

SINGLE, PAIR = b"n+1\0", b"ni1\0"
SECOND = (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
GZIP = b"\x1f\x8b"
UPWARD = ("A", "S")  # directions of the second axis that are up
LONGEST = 79  # characters of a description


@dataclass(frozen=True)
class Header:
    """What results carry through.

    Attributes:
        image: The image of nibabel, whose data are not in memory.
        further: Sides beyond the first two.
        rows: Length of the second axis.
        flipped: Whether pictures show that axis upward.
    """

    image: Any
    further: tuple[int, ...]
    rows: int
    flipped: bool


class _Whole:
    """The values of a compressed file, read once."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy

    @cached_property
    def values(self) -> NDArray[Any]:
        return np.asarray(self.proxy)


class NIfTI(Format):
    """Volumes, slice by slice along the third axis."""

    name = "NIfTI"
    extra = "medical"
    modules = ("nibabel",)
    suffixes = (".nii", ".nii.gz")
    suffix = ".nii.gz"
    reads = "volumes and series of volumes, also .nii.gz"
    writes = "float32 volumes with affine and header"

    def recognizes(self, head: bytes, path: Path) -> bool:
        head = _plain(head)
        return head[344:348] in (SINGLE, PAIR) or head[4:12] in SECOND

    def open(self, path: Path) -> Stack | Scan:
        import nibabel

        with path.open("rb") as file:
            head = file.read(HEAD)
        compressed, head = head.startswith(GZIP), _plain(head)
        if head[344:348] == PAIR or head[4:12] == SECOND[1]:
            raise ValueError("it is the header of a pair, .hdr and .img, which are not read: join them to one .nii file")
        with _plain_errors():
            # By class, not by nibabel.load, which takes other formats by their names, and the second file of a pair.
            kind_of_image: Any = nibabel.Nifti2Image if head[4:12] in SECOND else nibabel.Nifti1Image
            image: Any = kind_of_image.from_file_map({"image": _holder(path, compressed)})
            shape, proxy = image.shape, image.dataobj
        kind = image.get_data_dtype()
        colors = kind.names is not None and set(kind.names) >= {"R", "G", "B"}
        if kind.kind not in "iufb" and not colors:
            raise ValueError(f"it holds {kind} values, expected real numbers or RGB")
        if len(shape) < 2 or not math.prod(shape):
            raise ValueError(f"it holds an array of shape {shape}, expected a volume (X, Y, Z)")
        width, height, *further = shape
        check_image(height, width, 3 if colors else 1)
        count = math.prod(further)
        whole = _Whole(proxy)
        if compressed and math.prod(shape) > LARGEST_ARRAY:  # there is no jumping in it
            raise ValueError(f"it holds {math.prod(shape)} values in a compressed file, which is read at once: unpack it first")
        codes: Any = nibabel.orientations.aff2axcodes(image.affine) if image.affine is not None else ()  # type: ignore[no-untyped-call]
        flipped = len(codes) > 1 and codes[1] in UPWARD

        def picture(k: int) -> Array:
            with _plain_errors():
                source: Any = whole.values if compressed else proxy
                where: Any = (..., *np.unravel_index(k, further, order="F"))
                found = np.asarray(source[where] if further else source)
            planes: NDArray[Any] = np.stack([found[name] for name in "RGB"]) if colors else found[None]
            upright = planes.swapaxes(-1, -2).astype(np.float64)
            return upright[:, ::-1].copy() if flipped else upright

        low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
        stated = (0.0, 255.0) if colors else (low, high) if low < high else None
        return Stack(
            (count, 3 if colors else 1, height, width),
            picture,
            window=stated,
            header=Header(image, tuple(further), height, flipped),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        header: Header = of.header
        planes = []
        for each in pictures:
            plane = each[:, ::-1] if header.flipped else each
            planes.append(plane.swapaxes(-1, -2))
        volume = np.stack(planes, -1)  # (C, X, Y, N)
        if len(volume) == 1:
            values = volume[0]
            whole = values.shape[-1] == math.prod(header.further)
            values = values.reshape(*values.shape[:2], *header.further, order="F") if whole else values
        else:  # RGB, as a fifth axis: integers of 8 bits hold no means
            values = np.moveaxis(volume, 0, -1)[:, :, :, None, :]
        image = _image(header, values, written)
        image.to_filename(path)


def _plain(head: bytes) -> bytes:
    """Return the first bytes of a file, unpacked."""
    if head.startswith(GZIP):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(31).decompress(head, 1024)
    return head


def _holder(path: Path, compressed: bool) -> Any:
    """Return what nibabel reads a file from, whatever its name: it takes the endings for the compression."""
    from nibabel.fileholders import FileHolder

    if compressed:
        return FileHolder(fileobj=gzip.open(path))
    if path.name.lower().endswith((".gz", ".bz2", ".zst")):
        raise ValueError(f"it is named {path.suffix}, and is not compressed: rename it")
    return FileHolder(filename=str(path))


def _image(header: Header, values: NDArray[np.float32], written: Written) -> Any:
    """Return the image of nibabel with the header of INPUT, its geometry that of the result."""
    old = header.image
    fields = old.header.copy()
    fields.set_data_dtype(np.float32)
    fields["descrip"] = f"{written.command}: {written.what}"[:LONGEST].encode("ascii", "replace")
    fields["cal_min"] = fields["cal_max"] = 0
    if written.what != "standard deviation":
        fields["cal_min"], fields["cal_max"] = old.header["cal_min"], old.header["cal_max"]
    if written.anonymize:
        for name in ("intent_name", "aux_file", "db_name"):
            if name in fields:
                fields[name] = b""
        fields.extensions.clear()
    change = _change(header, written, values.shape[1])
    image = type(old)(values, None, header=fields)
    for getter, setter in (("get_sform", "set_sform"), ("get_qform", "set_qform")):
        matrix, code = getattr(old, getter)(coded=True)
        if matrix is not None:
            getattr(image, setter)(matrix @ change, int(code))
    zooms = list(old.header.get_zooms()[: values.ndim]) + [1.0] * (values.ndim - len(old.header.get_zooms()))
    image.header.set_zooms([zooms[0] / written.grid.scale, zooms[1] / written.grid.scale, *zooms[2:]])
    return image


def _change(header: Header, written: Written, height: int) -> NDArray[np.float64]:
    """Return the map from voxels of the result to voxels of INPUT, ``(4, 4)``."""
    grid: Grid = written.grid
    change = np.diag([1 / grid.scale, 1 / grid.scale, 1.0, 1.0])
    change[0, 3] = 0.5 / grid.scale - 0.5 - grid.left
    top = 0.5 / grid.scale - 0.5 - grid.top
    # Of flipped rows the last one of the result is the first of the array.
    change[1, 3] = header.rows - 1 - top - (height - 1) / grid.scale if header.flipped else top
    change[2, 3] = written.numbers[0] % header.further[0] if header.further else 0
    return change


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise all that a damaged file brings about as ``ValueError``."""
    from nibabel.filebasedimages import ImageFileError

    try:
        yield
    except (
        ImageFileError,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"it is damaged or truncated ({reason:.120})") from error
