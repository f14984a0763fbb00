"""Interface of problems whose measurement is a blur with a known kernel."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Blur, Noise, Operator

from .problem import Problem

__all__ = ["BlurProblem"]


class BlurProblem(Problem):
    """A problem whose measurement is a blur with a known kernel.

    With the boundary ``valid``, the scene continues beyond the border of the measured picture: the image that is sampled is
    larger by the size of the kernel minus one, and :meth:`framed` returns the part that the measured picture shows. The other
    boundaries say what lies beyond the border, and the image has the size of the measurement.

    Attributes:
        boundary: Boundary condition of the blur, one of :data:`invdiff.operators.blur.blur.BOUNDARIES`.
    """

    default_noise = "file"
    boundary: str

    @abstractmethod
    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        """Return the kernel for images of ``size`` ``(H, W)``.

        Raises:
            ValueError: If it is larger than the images. This is checked before a large kernel is built, for memory.
        """

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Blur(shape, self.kernel_for((shape[1], shape[2])), boundary=self.boundary, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if self.boundary != "valid":
            return channels, height, width
        rows, columns = self.kernel_for((height, width)).shape
        return channels, height + rows - 1, width + columns - 1

    def framed(self, x: Tensor) -> Tensor:
        if self.boundary != "valid":
            return x
        height, width = x.shape[-2:]
        rows, columns = self.kernel_for((height, width)).shape
        top, left = (rows - 1) // 2, (columns - 1) // 2
        return x[..., top : top + height - rows + 1, left : left + width - columns + 1]

    def alpha_of(self, alpha: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        return alpha
