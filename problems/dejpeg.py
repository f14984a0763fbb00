"""Removal of JPEG compression artifacts."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from invdiff.io.codecs import declared_orientation
from invdiff.io.images import atomic_write
from invdiff.io.numpy_files import existing_file
from invdiff.io.source import Source
from invdiff.operators import JPEGCoefficients, Noise, Operator, RoundingNoise
from invdiff.operators.transforms.jpeg_coefficients import SUBSAMPLINGS

from .jpeg_file import read_jpeg
from .options import Option
from .problem import Given, Problem

__all__ = ["Dejpeg"]

HALF = 127.5  # 8-bit levels per unit of an image spanning [-1, 1]
DC_SHIFT = 4.0  # libjpeg subtracts 128 rather than 127.5: half a level, which is 4 in the DC coefficient of luma
LARGEST_STEP = 65535


class Dejpeg(Problem):
    r"""Remove JPEG compression artifacts.

    The measurement ``y`` consists of the quantized DCT coefficients in a JPEG file. They are linear in the image
    (:class:`~invdiff.operators.JPEGCoefficients`); the noise is the rounding to multiples of the quantization steps. The
    interval of every coefficient is known exactly, and ``finish`` projects samples onto it. :meth:`from_file` reads problem and
    measurement from a file.

    An encoder also rounds YCbCr values to 8 bits before the transform. This is not modeled: it adds an error of about a
    third of a quantization step of 1, visible only above quality 95.

    Args:
        quality: JPEG quality, 1 to 100, which selects the standard tables of libjpeg.
        tables: Quantization tables, instead of ``quality``: 64 integers each, row by row, for luma, :math:`C_b` and
            :math:`C_r`. Two tables are for luma and both chroma planes, one is for all planes.
        subsampling: Chroma subsampling: ``4:4:4``, ``4:2:2``, ``4:4:0`` or ``4:2:0``. Ignored for grayscale images.
        size: Image size, ``(H, W)``. Default: any size made of complete coding units, such as 16 x 16 pixels for 4:2:0; other
            images are cropped.
        orientation: EXIF orientation, 1 to 8, applied by :meth:`upright`. Everything else uses the orientation of the stored
            blocks.

    Raises:
        TypeError: If the quality is not an integer.
        ValueError: If not exactly one of ``quality`` and ``tables`` is given, or an argument is out of range.
    """

    name = "dejpeg"
    options = (
        Option(
            name="jpeg_quality",
            kind="INTEGER",
            minimum=1,
            maximum=100,
            needed="yes",
            simulation=True,
            help="JPEG quality of the simulated file, in the scale of libjpeg.",
        ),
    )
    needs = "a JPEG file as INPUT or, to simulate, --jpeg-quality from 1 to 100"
    reads = "JPEG file"
    accepts_noise = "rounding"
    measures = "JPEGCoefficients"
    misfit_causes = "a file that was edited without being compressed again"

    def __init__(
        self,
        *,
        quality: int | None = None,
        tables: Sequence[Sequence[int]] | None = None,
        subsampling: str = "4:2:0",
        size: tuple[int, int] | None = None,
        orientation: int = 1,
    ) -> None:
        if (quality is None) == (tables is None):
            raise ValueError(f"Dejpeg: give either quality or tables, got quality={quality} and tables={tables}.")
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(f"Dejpeg: unknown subsampling {subsampling!r}, expected one of {', '.join(SUBSAMPLINGS)}.")
        if orientation not in range(1, 9):
            raise ValueError(f"Dejpeg: the EXIF orientation must be between 1 and 8, got {orientation}.")
        self.tables = _checked(_standard_tables(quality) if quality is not None else tables or [])
        self.subsampling, self.size, self.orientation = subsampling, size, orientation

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls(quality=options["jpeg_quality"])

    @classmethod
    def read(cls, source: Source, options: Mapping[str, Any]) -> Given:
        path = source.file()
        problem, y = cls.from_file(path)
        luma = problem.tables[0]
        note = f"quantization tables of {path.name}: luma steps from {int(luma.min())} to {int(luma.max())}"
        return Given(problem, y, replace(source.picture(), alpha=None), (note,))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> tuple[Self, Tensor]:
        """Return the problem of a JPEG file and its measurement, ``(1, *out_shape)``.

        Both are in the orientation of the stored blocks: turn results with :meth:`upright`.

        Raises:
            ValueError: If the file is damaged, is not a JPEG file, or is of an unsupported kind: CMYK, RGB, 12 bits, arithmetic
                coding, another subsampling.
            OSError: If the file does not exist or cannot be opened.
        """
        file = read_jpeg(existing_file(path))
        orientation = declared_orientation(Path(path))
        factors = [component.factors for component in file.components]
        known = [name for name, cell in SUBSAMPLINGS.items() if factors in ([cell, (1, 1), (1, 1)], [(1, 1)])]
        if not known:
            raise ValueError(
                f"{os.fspath(path)}: the sampling factors are {factors} (rows, columns for each component), expected those of "
                f"{', '.join(SUBSAMPLINGS)}."
            )
        planes = []
        for component, (v, h) in zip(file.components, factors, strict=True):
            values = torch.from_numpy(component.coefficients).double() * torch.from_numpy(component.table)
            units = values.reshape(len(values) // v, v, values.shape[1] // h, h, 64).permute(1, 3, 4, 0, 2)
            planes.append(units.reshape(-1, *units.shape[-2:]))
        problem = cls(
            tables=[component.table.tolist() for component in file.components],
            subsampling=known[0],
            size=file.size,
            orientation=orientation,
        )
        y = torch.cat(planes).unsqueeze(0) / HALF
        shape = problem.image_shape(y.shape[1:])
        _, offset = problem._lattice(shape[0])
        return problem, problem._coefficients(shape).keep_measured(y + offset).to(torch.get_default_dtype())

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if noise is not None and noise.sigma:
            raise ValueError(f"Dejpeg: rounding is the only noise in this problem, got {noise!r}. Leave noise out.")
        if self.size is not None and tuple(shape[1:]) != self.size:
            raise ValueError(f"Dejpeg: the image is {shape[2]} x {shape[1]} pixels, expected {self.size[1]} x {self.size[0]}.")
        step, offset = self._lattice(shape[0])
        return JPEGCoefficients(shape, self.subsampling, noise=RoundingNoise(step, offset=offset))

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        v, h = SUBSAMPLINGS[self.subsampling]
        channels = {64: 1, 64 * (v * h + 2): 3}.get(measured[0])
        if channels is None:
            raise ValueError(
                f"Dejpeg: got {measured[0]} coefficients per unit, expected 64 (grayscale) or {64 * (v * h + 2)} "
                f"({self.subsampling})."
            )
        v, h = (v, h) if channels == 3 else (1, 1)
        height, width = self.size or (8 * v * measured[1], 8 * h * measured[2])
        shape = channels, height, width
        if self._coefficients(shape).out_shape != tuple(measured):
            raise ValueError(f"Dejpeg: an image of {width} x {height} pixels has no measurement of shape {tuple(measured)}.")
        return shape

    def fit(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        if channels not in (1, 3):
            raise ValueError(f"Dejpeg: the clean picture has {channels} channels, expected 3 (RGB) or 1 (grayscale).")
        v, h = SUBSAMPLINGS[self.subsampling] if channels == 3 else (1, 1)
        rows, columns = self.size or (height - height % (8 * v), width - width % (8 * h))
        if height < rows or width < columns or not rows or not columns:
            least = self.size or (8 * v, 8 * h)
            raise ValueError(f"Dejpeg: the image is {width} x {height} pixels, expected at least {least[1]} x {least[0]}.")
        return x[..., :rows, :columns]

    def preview(self, y: Tensor) -> Tensor:
        """Return the decoded picture."""
        return self._coefficients(self.image_shape(y.shape[1:])).decode(y)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        """Project the samples onto the intervals that were rounded to ``y``, by the smallest change.

        Blocks that reach beyond the image do not admit every value of their coefficients, so their intervals are only met
        approximately.
        """
        step, _ = self._lattice(op.in_shape[0])
        half = step.to(y) / 2
        coefficients = self._coefficients((op.in_shape[0], op.in_shape[1], op.in_shape[2]))
        clean = coefficients(x)
        return x + coefficients.pinv(coefficients.keep_measured(clean.clamp(y - half, y + half) - clean))

    def in_channels(self, op: Operator, y: Tensor, channels: int) -> tuple[Operator, Tensor]:
        # The measurement of a color image is not made channel by channel.
        problem, measured = self.in_color(y)
        return problem.operator((channels, op.in_shape[1], op.in_shape[2])), measured

    def picture_of(self, y: Tensor) -> Tensor:
        return self.upright(self.preview(y))[0]

    def write_simulated(
        self, folder: Path, x: Tensor, y: Tensor, *, suffix: str, bits: int, icc: bytes | None, exif: bytes | None = None
    ) -> None:
        """Compress the clean image ``x`` with these tables, as an encoder does, which rounds pixels too."""
        from PIL import Image

        values = ((x[0].double() + 1) * HALF).round().clamp(0, 255).byte().movedim(0, -1).squeeze(-1).numpy()
        tables = [[int(step) for step in table] for table in self.tables[:2]]
        more: dict[str, Any] = {"icc_profile": icc} | ({} if exif is None else {"exif": b"Exif\0\0" + exif})
        with atomic_write(folder / "measurement.jpg") as part:
            Image.fromarray(values).save(part, "JPEG", qtables=tables, subsampling=self.subsampling, **more)

    def in_color(self, y: Tensor) -> tuple[Dejpeg, Tensor]:
        """Return the measurement of a grayscale file as that of a color file with zero chroma, for a prior of color images."""
        if y.shape[1] != 64:
            raise ValueError(
                f"Dejpeg: got {y.shape[1]} coefficients per unit, expected 64: only grayscale measurements can be colored."
            )
        exact = [1] * 64
        tables = [self.tables[0].tolist(), exact, exact]
        problem = Dejpeg(tables=tables, subsampling="4:4:4", size=self.size, orientation=self.orientation)
        return problem, torch.cat([y, torch.zeros_like(y), torch.zeros_like(y)], 1)

    def upright(self, x: Tensor) -> Tensor:
        x = x.mT if self.orientation in (5, 6, 7, 8) else x
        return x.flip([axis for axis, mirrored in ((-2, (3, 4, 7, 8)), (-1, (2, 3, 6, 7))) if self.orientation in mirrored])

    def _coefficients(self, shape: tuple[int, int, int]) -> JPEGCoefficients:
        return JPEGCoefficients(shape, self.subsampling)

    def _lattice(self, channels: int) -> tuple[Tensor, Tensor]:
        """Return the step and the offset of the quantization lattice of every coefficient in a unit: ``(K, 1, 1)``, float64."""
        v, h = SUBSAMPLINGS[self.subsampling] if channels == 3 else (1, 1)
        luma, *chroma = self.tables
        step = torch.cat([luma.repeat(v * h), *chroma[: channels - 1]]).reshape(-1, 1, 1) / HALF
        offset = torch.zeros_like(step)
        offset[: 64 * v * h : 64] = DC_SHIFT / HALF
        return step, offset


def _standard_tables(quality: int) -> list[list[int]]:
    """Return the luma and chroma tables of libjpeg for a quality."""
    from PIL import Image, JpegImagePlugin

    if isinstance(quality, bool) or not hasattr(quality, "__index__"):
        raise TypeError(f"Dejpeg: quality must be an integer, got {quality!r}.")
    if not 1 <= quality <= 100:
        raise ValueError(f"Dejpeg: quality must be between 1 and 100, got {quality}.")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        return [list(table) for table in image.quantization.values()]


def _checked(tables: Sequence[Sequence[int]]) -> list[Tensor]:
    """Validate the tables and return three of them, float64."""
    given = [torch.tensor(list(table), dtype=torch.float64) for table in tables]
    if len(given) not in (1, 2, 3) or any(
        table.shape != (64,) or (table < 1).any() or (table > LARGEST_STEP).any() or (table != table.round()).any()
        for table in given
    ):
        raise ValueError(
            f"Dejpeg: tables must be one to three lists of 64 integers from 1 to {LARGEST_STEP}, got {len(given)} with "
            f"{', '.join(str(len(table)) for table in given)} values."
        )
    return [given[0], given[min(1, len(given) - 1)], given[-1]]
