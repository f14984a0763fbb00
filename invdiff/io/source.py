"""An input: a file, or a picture or arrays in memory that stand for one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invdiff.formats import Format, Scan, Stack, format_of, opened
from invdiff.formats.origin import Origin
from invdiff.formats.tiff_stack import TIFFStack
from invdiff.formats.window import Window, window_of
from invdiff.io.codecs import chroma_of
from invdiff.io.codecs import format_of as pillow_format_of
from invdiff.io.images import normalized_kernel, read_image, read_kernel, read_mask_found
from invdiff.io.masks import FoundMask, MaskRules, mask_of_array, mask_of_picture
from invdiff.io.metadata import exif_of, orientation_of
from invdiff.io.numpy_files import read_arrays
from invdiff.io.picture import Array, Picture, check_picture, native, picture_of_array

__all__ = ["Source"]

DOUBLE = (".nii.gz", ".fits.gz")  # endings of files of two parts
UNKNOWN_TO_PNG = ("CMYK", "YCbCr", "HSV", "LAB")  # modes of Pillow
TURNS = dict(  # by EXIF orientation: what turns a Pillow image upright
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)


@dataclass(frozen=True, eq=False)
class Source:
    """What a measurement or a clean picture is read from.

    Attributes:
        value: The path of a file; or a Pillow image; or an array or tensor, as an ``.npy`` file would hold it: ``(H, W)`` or
            ``(C, H, W)``, floats on the 0..1 scale or unsigned integers of 8 or 16 bits (a batch axis of one may come first);
            or several arrays by name, as an ``.npz`` file would hold them.
        page: Page of a TIFF file of several pages, or slice of a volume, counted from 1.
        window: Black and white of a file with units; ``None``: :func:`invdiff.formats.window.window_of`.
        stack: Whether pages of one size in a TIFF file are slices of a stack, rather than images by themselves.
    """

    value: Any
    page: int | None = None
    window: Window | None = None
    stack: bool = True

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return Path(self.value) if isinstance(self.value, str | os.PathLike) else None

    @property
    def name(self) -> str:
        """Short name, for folders."""
        if self.path is None:
            return "image"
        ending = next((end for end in DOUBLE if self.path.name.lower().endswith(end)), self.path.suffix)
        return self.path.name[: len(self.path.name) - len(ending)].lstrip(".") or "image"  # a folder of results is never hidden

    def __str__(self) -> str:
        return f"a {type(self.value).__name__}" if self.path is None else str(self.path)

    def picture(self) -> Picture:
        """Return the picture that it is.

        Raises:
            ValueError: If it is none.
            OSError: If it is a file that cannot be opened.
        """
        if self.contents is not None:
            return self._of_contents(*self.contents)
        if self.path is not None:
            return read_image(self.path, page=self.page)
        if self.page is not None and self.page > 1:
            raise ValueError(f"{self} has no pages, and --page {self.page} is asked for.")
        if isinstance(self.value, Image.Image):
            return _of_pillow(self.value, str(self))
        if isinstance(self.value, Mapping):
            raise ValueError("expected a picture, got several arrays by name.")
        values = _array(self.value)
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        check_picture(values.shape, str(self))
        return picture_of_array(values, str(self))

    @cached_property
    def contents(self) -> tuple[Format, Stack | Scan] | None:
        """The format and the contents of a file with units or of measured arrays; ``None`` for images and NumPy files.

        Raises:
            ValueError: If it is damaged, or what its format needs is not installed.
            OSError: If it cannot be opened.
        """
        kind = None if self.path is None else format_of(self.path)
        if self.path is None or kind is None or (isinstance(kind, TIFFStack) and not self.stack):
            return None
        return opened(self.path, kind)

    @property
    def number(self) -> int:
        """Which of several pictures or slices it is, counted from 0.

        Raises:
            ValueError: If there are several and none is chosen, or there are fewer.
        """
        if self.contents is None:
            return 0 if self.page is None else self.page - 1
        held = self.contents[1]
        if self.page is None and held.count > 1:
            raise ValueError(
                f"{self}: holds {held.count} {held.axis}s: choose one by --slice N, or several by --slice 1:{held.count}."
            )
        if self.page is not None and self.page > held.count:
            raise ValueError(
                f"{self}: holds {held.count} {held.axis}{'s' * (held.count > 1)}, and number {self.page} is asked for."
            )
        return 0 if self.page is None else self.page - 1

    def origin(self, window: Window) -> Origin | None:
        """Return what results are written with, given black and white in the units of the file; ``None`` without a format."""
        return None if self.contents is None else Origin(*self.contents, self.number, window)

    def _of_contents(self, kind: Format, held: Stack | Scan) -> Picture:
        """Return a picture of a file with units."""
        if isinstance(held, Scan):
            arrays = held.arrays(self.number)
            if len(arrays) != 1:
                raise ValueError(f"{self}: expected a picture, got {kind.name} with {', '.join(arrays) or 'nothing'}.")
            (values,) = arrays.values()
            if self.window is None:
                return picture_of_array(np.asarray(values), str(self))
            unit = (np.asarray(values, dtype=np.float64) - self.window.low) / (self.window.high - self.window.low)
            return picture_of_array(unit, str(self))
        values = held.picture(self.number)
        try:
            window = window_of(held) if self.window is None else self.window
        except ValueError as error:
            raise ValueError(str(error) if str(self) in str(error) else f"{self}: {kind.name}: {error}.") from error
        unknown = np.isnan(values).any(0)
        if not np.isfinite(np.where(unknown, 0, values)).all():
            raise ValueError(f"{self}: {kind.name}: it holds infinite values.")
        pixels = window.pixels(np.where(unknown, window.low, values))
        alpha = np.where(unknown, 0.0, 1.0) if unknown.any() else None
        plain = held.calibrated and held.window == (0.0, 1.0) == (window.low, window.high)  # the window changes nothing
        said = () if plain else _of_window(window, held.unit, values)
        notes = tuple(f"{self}: {note}" for note in (*held.notes, *said))
        return Picture(pixels, alpha, 16, notes=notes, format=kind.name, origin=self.origin(window))

    def mask(self, rules: MaskRules, *, size: tuple[int, ...] | None) -> FoundMask:
        """Return the mask that it is.

        Args:
            rules: How it is read.
            size: Size ``(H, W)`` of the image, which a file must have; ``None``: any.

        Raises:
            ValueError: If it is none, or a file of another size.
            OSError: If it is a file that cannot be opened.
        """
        if self.contents is not None:
            return self._mask_of_contents(self.contents[1], rules, size)
        if self.path is not None:
            return read_mask_found(self.path, rules, size=size)
        if self.page is not None and self.page > 1:
            raise ValueError(f"{self} has no pages, and --page {self.page} is asked for.")
        if isinstance(self.value, Image.Image):
            return mask_of_picture(self.picture(), str(self), rules)
        return mask_of_array(_array(self.value), str(self), rules)

    def _mask_of_contents(self, held: Stack | Scan, rules: MaskRules, size: tuple[int, ...] | None) -> FoundMask:
        """Return the mask in a file with units: what is not 0 is filled, or kept if white is."""
        if isinstance(held, Scan):
            raise ValueError(f"{self}: expected a mask, got measured arrays.")
        values = held.picture(self.number)
        if size is not None and values.shape[1:] != tuple(size):
            height, width = values.shape[1:]
            raise ValueError(
                f"{self}: the mask is {width} x {height} pixels and the image {size[1]} x {size[0]}. Make them equal."
            )
        marked = (np.nan_to_num(values, nan=1.0) != 0).any(0)
        return FoundMask(marked if rules.keep == "white" else ~marked, (f"{self}: values other than 0 mark the mask",))

    def kernel(self) -> Array:
        """Return the blur kernel ``(h, w)`` that it is, with sum 1: as :func:`invdiff.io.images.read_kernel`, or in a file with
        units, such as a point spread function of FITS, or the only array of a MATLAB file.

        Raises:
            ValueError: If it is none.
            OSError: If it is a file that cannot be opened.
        """
        if self.contents is None:
            return read_kernel(self.value)
        held = self.contents[1]
        planes = list(held.picture(self.number)) if isinstance(held, Stack) else list(held.arrays(self.number).values())
        if len(planes) != 1:
            raise ValueError(f"{self}: a blur kernel is one gray picture, got {len(planes)} channels or arrays.")
        return normalized_kernel(planes[0], str(self))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return arrays by name; one alone by the name that is given."""
        if self.contents is not None:
            return self._arrays_of_contents(*self.contents, name)
        if self.path is not None:
            return read_arrays(self.path, name)
        if not isinstance(self.value, Mapping):
            return {name: _array(self.value)}
        if name not in self.value:
            raise ValueError(f"no array {name!r} is given, got {', '.join(self.value) or 'none'}.")
        return {key: _array(value) for key, value in self.value.items()}

    def _arrays_of_contents(self, kind: Format, held: Stack | Scan, name: str) -> dict[str, NDArray[Any]]:
        if isinstance(held, Stack):
            raise ValueError(f"{self}: is {kind.name} with a picture, expected measured values, the array {name!r}.")
        arrays = dict(held.arrays(self.number))
        if len(arrays) == 1 and name not in arrays:
            return {name: next(iter(arrays.values()))}
        if name not in arrays:
            raise ValueError(f"{self}: has no array {name!r}, got {', '.join(arrays) or 'none'}.")
        return arrays

    def file(self) -> Path:
        """Return the path, where a picture in memory would not do."""
        if self.path is None:
            raise ValueError(f"expected the path of a file, got {self}.")
        return self.path


def _of_window(window: Window, unit: str, values: NDArray[np.float64]) -> tuple[str, ...]:
    """Return a note on the window that was taken."""
    told = {"given": "as given", "header": "as its header says", "values": "by its values (change it with --window LOW HIGH)"}
    outside = window.outside(values)
    beyond = f"; {outside:.1%} of the values are beyond" if outside > 0.001 else ""
    ends = " ".join(filter(None, (f"{window.low:g} to {window.high:g}", unit)))
    return (f"the window is {ends}, {told[window.told_by]}{beyond}",)


def _array(values: Any) -> NDArray[Any]:
    # Tensors, without importing torch: files and pictures know nothing of the engine.
    return native(np.asarray(values.detach().cpu() if hasattr(values, "detach") else values))


def _of_pillow(image: Image.Image, source: str) -> Picture:
    """Return the picture of a Pillow image, read as from a file: palettes, opacity, depth, color profile and EXIF data."""
    check_picture((image.height, image.width), source)  # before the pixels of a file that was opened are decoded
    orientation, exif, kind, chroma = orientation_of(image), exif_of(image), pillow_format_of(image), chroma_of(image)
    profile = None if image.mode in UNKNOWN_TO_PNG else image.info.get("icc_profile")
    if orientation != 1:
        image = image.transpose(TURNS[orientation])
    if image.mode in ("F", "I"):  # floats, and integers that 16-bit files may not hold
        values = np.asarray(image)
        fits = image.mode == "I" and values.min() >= 0 and values.max() < 2**16
        picture = picture_of_array(values.astype(np.uint16) if fits else values, source)
        return replace(picture, exif=exif, format=kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        plain = image.convert("RGB") if image.mode in UNKNOWN_TO_PNG else image
        plain.save(path, icc_profile=profile, exif=b"")
        return replace(read_image(path), exif=exif, format=kind, chroma=chroma)
