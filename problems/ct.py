"""Computed tomography: an image from its projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Noise, Operator, ParallelBeamCT

from .arrays import ArrayProblem, Arrays, grey, image_size, real_numbers, white_of
from .options import SCALE, Option
from .problem import photographs

__all__ = ["ReconstructCT"]


class ReconstructCT(ArrayProblem):
    r"""Reconstruct an image from line integrals along parallel rays, from few angles or noisy data.

    Lengths are in pixels: the integral over ten white pixels is 10 ``scale``. The detector spacing is one pixel.

    Args:
        angles: Projection angles in degrees, in the convention of ``skimage.transform.radon``.
        size: Image size, ``(H, W)``.
        detectors: Number of detectors. Default: enough to cover the diagonal.
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
        SCALE,
    )
    needs = "an .npy or .npz file of a sinogram as INPUT or, to simulate, --angles, their number"
    measures = "ParallelBeamCT"
    bundled = "shepp_logan_phantom"
    recommended = photographs(max_iterations=16, products=2)
    measured = "sinogram"
    looks = "filtered backprojection"

    def __init__(
        self, angles: Sequence[float], size: tuple[int, int], *, detectors: int | None = None, scale: float = 1.0
    ) -> None:
        self.angles, self.size, self.scale = [float(angle) for angle in angles], size, scale
        self.single = ParallelBeamCT((1, *size), self.angles, detectors=detectors)
        self.detectors = self.single.out_shape[-1]

    @classmethod
    def evenly(cls, count: int, size: tuple[int, int]) -> Self:
        """Return the problem with ``count`` angles evenly spaced over 180 degrees."""
        return cls(half_turn(count), size)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls.evenly(options["angles"], size)

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        sinogram = real_numbers(arrays, "sinogram")
        if sinogram.ndim != 2:
            raise ValueError(f"ct: expected a sinogram (angles, detectors), got shape {tuple(sinogram.shape)}.")
        count, detectors = sinogram.shape
        angles = real_numbers(arrays, "angles").tolist() if "angles" in arrays else half_turn(count)
        if np.shape(angles) != (count,):
            raise ValueError(f"ct: a sinogram of {count} rows needs {count} angles, got an array of shape {np.shape(angles)}.")
        size = image_size(arrays) if "size" in arrays else (detectors, detectors)
        problem, y = cls(angles, size, detectors=detectors), sinogram[None, None].float()
        problem.scale = white_of(problem._backprojected(y)) if scale is None else scale
        return problem, problem.in_range(y)

    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        sinogram = self.in_units(y)[0]
        if len(sinogram) > 1:
            raise ValueError(f"ct: cannot write a sinogram of {len(sinogram)} channels, expected one channel.")
        return {"sinogram": sinogram[0].numpy(), "angles": np.array(self.angles), "size": np.array(self.size)}

    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> Operator:
        return ParallelBeamCT(shape, self.angles, detectors=self.detectors, noise=noise)

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


def half_turn(count: int) -> list[float]:
    """Return ``count`` angles evenly spaced over [0, 180) degrees."""
    if count < 1:
        raise ValueError(f"ct: expected at least one angle, got {count}.")
    return [180 * k / count for k in range(count)]
