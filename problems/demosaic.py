"""Demosaicing of raw images taken through a Bayer filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.formats.camera_raw import Camera, CameraRAW, Developed
from invdiff.formats.color_spaces import COLOR_SPACES
from invdiff.formats.exr import EXR, Attributes
from invdiff.formats.format import Stack
from invdiff.formats.origin import Origin
from invdiff.formats.window import Window
from invdiff.io.images import Picture
from invdiff.operators import Mosaic, Noise, Operator
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS

from .gray import in_gray
from .options import Option, OptionError
from .problem import Given, Problem
from .raw_mosaic import RawMosaic

__all__ = ["Demosaic"]


class Demosaic(Problem):
    """Reconstruct the two missing color values at every pixel behind a Bayer filter.

    Of a RAW file of a camera, pattern, levels, white balance, color matrix, orientation and noise are taken from the file: see
    :class:`~invdiff.problems.raw_mosaic.RawMosaic`. Results are 16-bit TIFF files in a color space, or OpenEXR files of linear
    light.

    Args:
        pattern: Colors of the top left 2 x 2 pixels, row by row: ``RGGB``, ``BGGR``, ``GRBG`` or ``GBRG``.
        raw: The mosaic of a RAW file, as it is measured.

    Raises:
        ValueError: If the pattern is not one of these.
    """

    name = "demosaic"
    options = (
        Option(
            name="pattern",
            kind=("RGGB", "BGGR", "GRBG", "GBRG"),
            needed="yes",
            input_tells=True,
            help="Colors of the top left 2 x 2 pixels, row by row. RAW files of cameras state them.",
        ),
        Option(
            name="color_space",
            kind=tuple(COLOR_SPACES),
            changes_spread=False,
            help="Color space of the results of a RAW file: 16-bit TIFF, or OpenEXR of linear light (linear-..., and camera, "
            "without its color matrix). Default: srgb.",
        ),
    )
    needs = "--pattern, the colors of the top left 2 x 2 pixels"
    default_noise = "file"
    measures = "Mosaic"
    misfit_causes = "a wrong --pattern"

    def __init__(self, pattern: str, *, raw: RawMosaic | None = None) -> None:
        if pattern not in BAYER_PATTERNS:
            raise ValueError(f"Demosaic: unknown pattern {pattern!r}, expected one of {', '.join(BAYER_PATTERNS)}.")
        self.pattern, self.raw = pattern, raw

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Demosaic:
        if options["pattern"] is None:
            raise OptionError(f"--problem demosaic needs {cls.needs}; RAW files of cameras state them.")
        if options["color_space"] is not None:
            raise OptionError("--color-space is for RAW files of cameras, which state their colors. Leave it out.")
        return cls(options["pattern"])

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        origin = picture.origin
        if origin is None or not isinstance(camera := getattr(origin.contents, "header", None), Camera):
            return super().of_picture(picture, options, source=source)
        if options["pattern"] not in (None, camera.pattern):
            raise OptionError(f"--pattern {options['pattern']}: the file says {camera.pattern}. Leave it out.")
        if origin.window.told_by == "given":
            camera = replace(camera, black=(origin.window.low,) * 4, white=origin.window.high)
        space = COLOR_SPACES[options["color_space"] or "srgb"]
        raw = RawMosaic(camera, origin.window.values(picture.pixels[0]), space)
        written = replace(picture, origin=_written(raw, origin), icc=space.icc(), exif=camera.exif)
        share = float(raw.saturated.mean())
        balance = ", ".join(f"{gain:.3g}" for gain in camera.gains)
        notes = [f"{camera.pattern} mosaic, white balance {balance}, results in {space.name}"]
        notes += [f"{share:.2%} of the pixels are saturated: they are taken as at least white"] if share else []
        return Given(cls(camera.pattern, raw=raw), raw.encoded(), written, tuple(notes))

    def noise_of_input(self, y: Tensor, *, estimated: bool) -> tuple[Noise, str] | None:
        return None if self.raw is None else self.raw.noise_of_input(estimated=estimated)

    @classmethod
    def as_measured(cls, picture: Picture) -> Picture:
        return in_gray(picture)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Mosaic(shape, self.pattern, noise=noise if self.raw is None else self.raw.as_noise(noise))

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(f"Demosaic: the mosaic has {channels} channels, expected one, with a raw value for every pixel.")
        return 3, height, width

    def fit(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"Demosaic: the clean picture has {x.shape[1]} channels, expected 3 (RGB).")
        return x

    def noise_pixels(self, y: Tensor) -> Tensor:
        """Return the 2 x 2 positions of the mosaic as four channels, since neighbors of one color are two pixels apart."""
        height, width = (side // 2 * 2 for side in y.shape[2:])
        return F.pixel_unshuffle(y[..., :height, :width], 2)

    def preview(self, y: Tensor) -> Tensor:
        """Return an RGB picture in which each pixel has its measured color and zero in the two others (black).

        Of a RAW file, each tile of 2 x 2 pixels has the colors that it measured: the color matrix mixes them.
        """
        mosaic = Mosaic((3, y.shape[-2], y.shape[-1]), self.pattern)
        if self.raw is None:
            return mosaic.adjoint(y + 1) - 1
        counts, sums = (
            F.avg_pool2d(each, 2, ceil_mode=True) for each in (mosaic.adjoint(torch.ones_like(y)), mosaic.adjoint(y))
        )
        known = F.interpolate(sums / counts.clamp(min=1e-6), scale_factor=2.0)
        return known[..., : y.shape[-2], : y.shape[-1]]

    def upright(self, x: Tensor) -> Tensor:
        return x if self.raw is None else self.raw.developed(x)

    def shown(self, x: Tensor) -> Tensor:
        return x if self.raw is None else self.raw.shown(x)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if self.raw is not None:
            return self.raw.raised(x)
        if op.sigma_y > 0:
            return x
        mosaic = Mosaic((3, x.shape[-2], x.shape[-1]), self.pattern)
        return torch.where(mosaic.mask.to(x.device).bool(), y, x)


def _written(raw: RawMosaic, origin: Origin) -> Origin:
    """Return what results of a RAW file are written as: values of the color space, 0..1 in TIFF files."""
    camera, space, contents = raw.camera, raw.space, origin.contents
    assert isinstance(contents, Stack)
    if space.curve is None:
        header: Any = Attributes.of_color_space(space)
        held = replace(contents, unit="linear light, white at 1", header=header, window=(0.0, 1.0))
        return Origin(EXR(), held, 0, Window(0.0, 1.0, "reconstruction"))
    held = replace(contents, unit=space.name, header=Developed(space, camera.exif), window=(0.0, 1.0), limits=(0.0, 1.0))
    return Origin(CameraRAW(), held, 0, Window(0.0, 1.0, "reconstruction"))
