"""Computed tomography: an image from its projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Noise, Operator, ParallelBeamCT

from .arrays import ArrayProblem, Arrays, grey
from .options import SCALE, Option
from .sinogram import half_turn, sinogram_of

__all__ = ["ReconstructCT"]


class ReconstructCT(ArrayProblem):
    r"""Reconstruct an image from line integrals along parallel rays, from few angles or noisy data.

    Lengths are in pixels: the integral over ten white pixels is 10 ``scale``. The detector spacing is one pixel.
    :mod:`invdiff.problems.sinogram` has the conventions of files.

    Args:
        angles: Projection angles in degrees, in the convention of ``skimage.transform.radon``.
        size: Image size, ``(H, W)``.
        detectors: Number of detectors. Default: enough to cover the diagonal.
        center: Detector on which the rotation axis projects, counted from 0, which may be a fraction. Default: the middle.
        axis: Pixel ``(row, column)`` of the rotation axis, which may be fractions. Default: the center of the image.
        scale: Pixel value of white in the units of a file, per pixel length.

    Raises:
        ValueError: If there are no angles, or a number is out of range.
    """

    name = "ct"
    options = (
        Option(
            name="angles",
            kind="INTEGER",
            minimum=1,
            needed="yes",
            simulation=True,
            help="Number of angles, evenly spaced over 180 degrees (simulation).",
        ),
        Option(
            name="center",
            kind="NUMBER",
            minimum=0,
            changes_spread=False,
            help="Center of rotation: the detector on which the rotation axis projects, counted from 0; 319.5 is the middle of "
            "640. Default: that of the centers of mass of the projections if they tell, or the middle.",
        ),
        Option(
            name="flat",
            kind="NUMBER",
            minimum=0,
            above=True,
            changes_spread=False,
            help="INPUT holds counts, and this many without an object: -log(counts / flat) is taken. Default: INPUT holds line "
            "integrals.",
        ),
        SCALE,
    )
    needs = "an .npy or .npz file of a sinogram as INPUT or, to simulate, --angles, their number"
    measures = "ParallelBeamCT"
    misfit_causes = "wrong angles, a wrong --center of rotation, a wrong --scale"
    bundled = "shepp_logan_phantom"
    measured = "sinogram"
    others = ("angles", "size", "center", "axis", "flat", "dark")
    looks = "filtered backprojection"

    def __init__(
        self,
        angles: Sequence[float],
        size: tuple[int, int],
        *,
        detectors: int | None = None,
        center: float | None = None,
        axis: tuple[float, float] | None = None,
        scale: float = 1.0,
    ) -> None:
        self.angles, self.size, self.scale = [float(angle) for angle in angles], size, scale
        self.single = ParallelBeamCT((1, *size), self.angles, detectors=detectors, center=center, axis=axis)
        self.detectors = self.single.out_shape[-1]
        self.center = (self.detectors - 1) / 2 if center is None else center
        self.axis = ((size[0] - 1) / 2, (size[1] - 1) / 2) if axis is None else axis

    @classmethod
    def evenly(cls, count: int, size: tuple[int, int], *, center: float | None = None) -> Self:
        """Return the problem with ``count`` angles evenly spaced over 180 degrees, and a center of rotation."""
        return cls(half_turn(count), size, center=center)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        cls.refuse_measured(options, "flat")
        return cls.evenly(options["angles"], size, center=options.get("center"))

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        given = sinogram_of(arrays)
        detectors = given.values.shape[1]
        problem = cls(given.angles, given.size, detectors=detectors, center=given.center, axis=given.axis)
        problem.notes = given.notes
        y = given.values[None, None].float()
        problem.set_scale(scale, problem._backprojected(y))
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        sinogram = self.in_units(y)[0]
        if len(sinogram) > 1:
            raise ValueError(f"ct: cannot write a sinogram of {len(sinogram)} channels, expected one channel.")
        geometry = {"angles": self.angles, "size": self.size, "center": self.center, "axis": self.axis}
        return {"sinogram": sinogram[0].numpy(), **{name: np.array(value) for name, value in geometry.items()}}

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> Operator:
        return ParallelBeamCT(shape, self.angles, detectors=self.detectors, center=self.center, axis=self.axis, noise=noise)

    def fit(self, x: Tensor) -> Tensor:
        return grey(x)

    def preview(self, y: Tensor) -> Tensor:
        return 2 * self._backprojected(self.in_units(y)) / self.scale - 1

    def _backprojected(self, y: Tensor) -> Tensor:
        """Return the filtered backprojection (Ram-Lak) of a sinogram, in its units per pixel.

        Angles are assumed to be evenly spaced over 180 degrees.
        """
        detectors = y.shape[-1]
        offsets = torch.arange(-detectors, detectors + 1)
        kernel = torch.where(offsets % 2 == 1, -1 / (torch.pi * offsets) ** 2, 0.0)
        kernel[detectors] = 0.25
        length = 3 * detectors + 1
        spectrum = torch.fft.rfft(kernel.to(y), n=length)
        filtered = torch.fft.irfft(torch.fft.rfft(y, n=length) * spectrum, n=length)[..., detectors : 2 * detectors]
        rows = filtered.reshape(-1, 1, *filtered.shape[2:])
        return (torch.pi / len(self.angles)) * self.single.adjoint(rows).reshape(*y.shape[:2], *self.size)
