"""Interface of problems whose measurement is a blur, with a known kernel or one that is estimated."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Blur, Noise, Operator

from .problem import Problem
from .unknown_kernels import unknown_kernels

if TYPE_CHECKING:
    from invdiff.blind import FreeFamily
    from invdiff.blind.families import ParametricFamily

__all__ = ["BlurProblem"]


class BlurProblem(Problem):
    """A problem whose measurement is a blur, with a known kernel or one that is estimated.

    With the boundary ``valid``, the scene continues beyond the border of the measured picture: the image that is sampled is
    larger by the size of the kernel minus one, and :meth:`framed` returns the part that the measured picture shows. The other
    boundaries say what lies beyond the border, and the image has the size of the measurement.

    Attributes:
        boundary: Boundary condition of the blur, one of :data:`invdiff.operators.blur.blur.BOUNDARIES`.
        unknown: Family of the kernel if it is estimated, one of :data:`.unknown_kernels.FAMILIES`; otherwise ``None``.
        kernel_size: Side of the kernel, if it is estimated and of no family. Default: set by the size of the picture.
        found: The kernel that was estimated, or ``None``.
    """

    default_noise = "file"
    boundary: str = "reflect"
    unknown: str | None = None
    kernel_size: int | None = None
    found: Tensor | None = None

    def kernels(self, size: tuple[int, int]) -> FreeFamily | ParametricFamily | None:
        return None if self.unknown is None else unknown_kernels(self.unknown, size, side=self.kernel_size)

    def with_kernel(self, kernel: Tensor) -> Problem:
        known = copy.copy(self)
        known.unknown, known.found = None, kernel
        return known

    def _kernel(self, size: tuple[int, int]) -> Tensor:
        if self.unknown is not None:
            return torch.ones(1, 1, dtype=torch.float64)
        return self.kernel_for(size) if self.found is None else self.found

    @abstractmethod
    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        """Return the known kernel for images of ``size`` ``(H, W)``.

        Raises:
            ValueError: If it is larger than the images. This is checked before a large kernel is built, for memory.
        """

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Blur(shape, self._kernel((shape[1], shape[2])), boundary=self.boundary, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if self.boundary != "valid":
            return channels, height, width
        rows, columns = self._kernel((height, width)).shape
        return channels, height + rows - 1, width + columns - 1

    def framed(self, x: Tensor) -> Tensor:
        if self.boundary != "valid":
            return x
        height, width = x.shape[-2:]
        rows, columns = self._kernel((height, width)).shape
        top, left = (rows - 1) // 2, (columns - 1) // 2
        return x[..., top : top + height - rows + 1, left : left + width - columns + 1]

    def alpha_of(self, alpha: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        return alpha
