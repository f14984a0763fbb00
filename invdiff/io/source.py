"""An input: a file, or a picture or arrays in memory that stand for one."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from invdiff.io.images import Picture, picture_of_array, read_arrays, read_image

__all__ = ["Source"]

FAR_BELOW_BLACK = -0.5  # on the 0..1 scale: noise alone rarely goes there
UNKNOWN_TO_PNG = ("CMYK", "YCbCr", "HSV", "LAB")  # modes of Pillow


@dataclass(frozen=True, eq=False)
class Source:
    """What a measurement or a clean picture is read from.

    Attributes:
        value: The path of a file; or a Pillow image; or an array or tensor, as an ``.npy`` file would hold it: ``(H, W)`` or
            ``(C, H, W)``, floats on the 0..1 scale or unsigned integers of 8 or 16 bits (a batch axis of one may come first);
            or several arrays by name, as an ``.npz`` file would hold them.
    """

    value: Any

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return Path(self.value) if isinstance(self.value, str | os.PathLike) else None

    @property
    def name(self) -> str:
        """Short name, for folders."""
        return "image" if self.path is None else self.path.stem.lstrip(".") or "image"  # a folder of results is never hidden

    def __str__(self) -> str:
        return f"a {type(self.value).__name__}" if self.path is None else str(self.path)

    def picture(self) -> Picture:
        """Return the picture that it is.

        Raises:
            ValueError: If it is none.
            OSError: If it is a file that cannot be opened.
        """
        if self.path is not None:
            return read_image(self.path)
        if isinstance(self.value, Image.Image):
            if self.value.mode == "F":
                return picture_of_array(np.asarray(self.value), str(self))
            with tempfile.TemporaryDirectory() as folder:  # read as from a file: palettes, opacity, depth and color profile
                path = Path(folder, "picture.png")
                image = self.value.convert("RGB") if self.value.mode in UNKNOWN_TO_PNG else self.value
                profile = None if image is not self.value else image.info.get("icc_profile")
                ImageOps.exif_transpose(image).save(path, icc_profile=profile)
                return read_image(path)
        if isinstance(self.value, Mapping):
            raise ValueError("expected a picture, got several arrays by name.")
        values = _array(self.value)
        if values.dtype.kind == "f" and values.size and np.quantile(values, 0.05) < FAR_BELOW_BLACK:
            warnings.warn(
                f"{self}: one value in twenty is below {FAR_BELOW_BLACK}, and arrays are read on the 0..1 scale. Pass "
                "(x + 1) / 2 of an image that spans [-1, 1].",
                stacklevel=2,
            )
        return picture_of_array(values[0] if values.ndim == 4 and len(values) == 1 else values, str(self))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return arrays by name; one alone by the name that is given."""
        if self.path is not None:
            return read_arrays(self.path, name)
        if not isinstance(self.value, Mapping):
            return {name: _array(self.value)}
        if name not in self.value:
            raise ValueError(f"no array {name!r} is given, got {', '.join(self.value) or 'none'}.")
        return {key: _array(value) for key, value in self.value.items()}

    def file(self) -> Path:
        """Return the path, where a picture in memory would not do."""
        if self.path is None:
            raise ValueError(f"expected the path of a file, got {self}.")
        return self.path


def _array(values: Any) -> NDArray[Any]:
    # Tensors, without importing torch: files and pictures know nothing of the engine.
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
