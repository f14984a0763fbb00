"""Strided convolution in one to three dimensions, for sensors with larger pixels and for strided projections."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from types import EllipsisType

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.svd import SVD
from ..core.torus import TorusConvolution
from ..core.validation import event_shape, real_matrix
from .decimated_convolution import DecimatedConvolution
from .reflections import BOUNDARIES, extend, fold

__all__ = ["SubsampledConvolution"]

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# Multiplications per entry of x up to which a direct sum is used. Above that, or without a stride, Fourier transforms are
# faster: measured with the gradient, on one core of a CPU, for signals, images and volumes.
DIRECT = 8
# Each channel of each item is a group of the convolution, several times faster on a CPU than an item. Groups are padded to 16
# and copied: more at a time, or in ``forward`` channels of more entries than these, are slower.
GROUPS, GROUPED = 16, 2**19


class SubsampledConvolution(LinearOperator):
    r"""Strided convolution of every channel with one known kernel: keeps every :math:`s`-th value.

    .. math:: y_i = \sum_a k_a\, x_{s i + o - a + \lfloor n / 2 \rfloor} + n_i, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    for signals ``(C, L)``, and likewise along every axis of images ``(C, H, W)`` and volumes ``(C, D, H, W)``. This is a true
    convolution (the kernel is flipped), centered at ``size // 2`` along each axis. The first value kept is at index
    ``offset``, and ``ceil((side - offset) / stride)`` values are kept. The kernel is not normalized: if it does not sum to
    one, the brightness changes.

    ======== ============================================== ==========================
    boundary beyond the border                              ``solve``
    ======== ============================================== ==========================
    circular periodic; strides must divide the sides        closed form (Fourier)
    reflect  mirrored, the border entry not repeated        iterative, preconditioned
    zero     0                                              iterative, preconditioned
    ======== ============================================== ==========================

    The closed form: subsampling folds (aliases) the spectrum, so :math:`A A^\top` is a convolution on the coarse grid whose
    spectrum is the mean of :math:`|\hat k|^2` over the frequencies that fold into one. ``svd`` is available too, at any size.
    On a CPU, kernels that are small compared to their stride are summed directly, which is then faster; all others are applied
    by Fourier transforms.

    Args:
        in_shape: Shape of one ``x``, without the batch axis: ``(C, L)``, ``(C, H, W)`` or ``(C, D, H, W)``.
        kernel: :math:`k`, with one axis for each axis of ``x`` except the channels, not larger than ``x``.
        stride: :math:`s`, a positive integer, or one for each axis.
        boundary: One of ``circular``, ``reflect``, ``zero``.
        offset: :math:`o`, the index of the first value kept, less than the stride: an integer, or one for each axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If a stride or an offset is not an integer, or the kernel is complex.
        ValueError: If the kernel does not fit ``in_shape``, is not finite or is 0 everywhere, if the boundary is unknown, if
            a stride is not positive, or does not divide its side for the boundary ``circular``, or if an offset is not between
            0 and ``stride - 1`` and within its side.

    References:
        Zhao et al., Fast Single Image Super-Resolution Using a New Analytical Solution, 2016,
        https://arxiv.org/abs/1510.00143 (the closed form)
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        kernel: Tensor | np.ndarray,
        *,
        stride: int | Sequence[int],
        boundary: str,
        offset: int | Sequence[int] = 0,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape = event_shape("SubsampledConvolution", in_shape)
        sides = self.in_shape[1:]
        if not 1 <= len(sides) <= 3:
            raise ValueError(
                f"SubsampledConvolution: in_shape must be (C, L), (C, H, W) or (C, D, H, W), without the batch axis, "
                f"got {self.in_shape}."
            )
        if boundary not in BOUNDARIES:
            raise ValueError(f"SubsampledConvolution: unknown boundary {boundary!r}, expected one of {', '.join(BOUNDARIES)}.")
        self.boundary, self.kernel = boundary, _checked_kernel(kernel, sides)
        self.stride = _checked_stride(stride, sides, boundary)
        self.offset = _checked_offset(offset, sides, self.stride)
        sizes = tuple(self.kernel.shape)
        coarse = [-(-(n - first) // step) for n, first, step in zip(sides, self.offset, self.stride, strict=True)]
        self.out_shape = self.in_shape[0], *coarse
        self.axes = tuple(range(2, 2 + len(sides)))
        self.closed_form, self.noise = boundary == "circular", noise_of(sigma_y, noise)
        # The kernel reaches size - 1 - c entries before the first one and c beyond the last.
        self.margins = [((size - 1) // 2, size // 2) for size in sizes]
        self.direct = math.prod(sizes) <= DIRECT * math.prod(self.stride) and math.prod(self.stride) > 1
        # On a torus whose sides are multiples of the strides: equal to the signal, or nearly so if it is not circular.
        fine = self.in_shape[0], *(side * step for side, step in zip(coarse, self.stride, strict=True))
        self.folded = DecimatedConvolution(fine, self.kernel, stride=self.stride, offset=self.offset)
        # Fourier transforms of padded signals need a torus without wrap-around.
        self.torus = tuple(scipy.fft.next_fast_len(side + size - 1, real=True) for side, size in zip(sides, sizes, strict=True))
        self.spectrum = None if boundary == "circular" else torch.fft.rfftn(self.kernel, s=self.torus)
        self.kept: tuple[EllipsisType | slice, ...] = (
            ...,
            *(
                slice(size - 1 + first, size - 1 + side, step)
                for size, first, side, step in zip(sizes, self.offset, sides, self.stride, strict=True)
            ),
        )

    def _summary(self) -> Sequence[str]:
        return (
            f"stride {self.stride}",
            self.boundary,
        )

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.folded.solve(v, lam) if self.closed_form else super().solve(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.folded.pinv(y) if self.closed_form else super().pinv(y)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # As if the signal were periodic on the torus, which is wrong only along the border.
        return super().precondition(v, lam) if self._small and not self.closed_form else self.folded.solve(v, lam)

    def as_torus_convolution(self) -> TorusConvolution | None:
        return self.folded.as_torus_convolution() if self.boundary == "circular" else None

    def _soften(self, lam: Tensor) -> Tensor:
        # At lam itself the error at the border can reach a factor of |k|^2 / lam, as for PaddedConvolution.
        gain = self.folded.gram.to(lam).amax()
        return torch.maximum(lam, (gain * lam.clamp(min=torch.finfo(lam.dtype).eps * gain)).sqrt())

    def _decompose(self) -> SVD | None:
        return self.folded.svd if self.closed_form else super()._decompose()

    def _forward(self, x: Tensor) -> Tensor:
        if self._is_direct(x):
            padded = extend(x, self.margins, self.boundary)
            for axis, first in zip(self.axes, self.offset, strict=True):
                padded = padded.narrow(axis, first, padded.shape[axis] - first)
            many = padded[0, 0].numel() > GROUPED
            y = _by_channel(CONVOLVE[len(self.axes)], padded, self._taps(x), 1 if many else GROUPS, stride=self.stride)
            return y.reshape(-1, *self.out_shape)
        if self.spectrum is None:
            return self.folded.forward(x)
        padded = extend(x, self.margins, self.boundary)
        return self._convolve(padded, self.spectrum)[self.kept].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        sides = self.in_shape[1:]
        if self._is_direct(y):
            left = [(side - first - 1) % step for side, first, step in zip(sides, self.offset, self.stride, strict=True)]
            spread = SPREAD[len(sides)]
            padded = _by_channel(spread, y, self._taps(y), GROUPS, stride=self.stride, output_padding=left)
            padded = F.pad(padded, [n for first in self.offset[::-1] for n in (first, 0)])
        elif self.spectrum is None:
            return self.folded.adjoint(y)
        else:
            grid = y.new_zeros(*y.shape[:2], *self.torus)
            grid[self.kept] = y
            padded = self._convolve(grid, self.spectrum.conj())
            for axis, side, margin in zip(self.axes, sides, self.margins, strict=True):
                padded = padded.narrow(axis, 0, side + sum(margin))
        return fold(padded, self.margins, self.boundary).contiguous()

    def _is_direct(self, x: Tensor) -> bool:
        return self.direct and not x.is_cuda  # A GPU may round a convolution to a ten-bit mantissa (TF32).

    def _taps(self, x: Tensor) -> Tensor:
        return self.kernel.flip(tuple(range(self.kernel.ndim)))[None, None].to(x)

    def _convolve(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Pad ``x`` with zeros to the torus and convolve it there."""
        product = spectrum.to(x.device, x.dtype.to_complex()) * torch.fft.rfftn(x, s=self.torus, dim=self.axes)
        signal: Tensor = torch.fft.irfftn(product, s=self.torus, dim=self.axes)
        return signal


def _by_channel(
    convolve: Callable[..., Tensor], x: Tensor, taps: Tensor, groups: int, **options: int | Sequence[int]
) -> Tensor:
    """Return the convolution of every channel of ``(B, C, ...)`` with ``taps``, ``(1, 1, ...)``, so many at a time."""
    parts = [
        convolve(part.unsqueeze(0), taps.expand(len(part), *taps.shape[1:]), groups=len(part), **options)
        for part in torch.split(x.flatten(0, 1), groups)
    ]
    y = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _checked_kernel(kernel: Tensor | np.ndarray, sides: tuple[int, ...]) -> Tensor:
    given = torch.as_tensor(kernel)
    if given.ndim != len(sides) or any(size > side or size < 1 for size, side in zip(given.shape, sides, strict=True)):
        raise ValueError(
            f"SubsampledConvolution: the kernel must have {len(sides)} axes, as x has without its channels, and must not "
            f"be larger than x, got shape {tuple(given.shape)} for {sides}. Crop the zeros around a larger kernel."
        )
    taps = real_matrix("SubsampledConvolution", "kernel", given.reshape(1, -1)).reshape(given.shape)
    if not taps.any():
        raise ValueError("SubsampledConvolution: the kernel is 0 everywhere, so nothing is measured.")
    return taps


def _checked_stride(stride: int | Sequence[int], sides: tuple[int, ...], boundary: str) -> tuple[int, ...]:
    given = stride if isinstance(stride, Sequence) else [stride] * len(sides)
    try:
        steps = tuple(operator.index(step) for step in given)
    except TypeError:
        raise TypeError(f"SubsampledConvolution: stride must be an integer or one for each axis, got {stride!r}.") from None
    if len(steps) != len(sides) or min(steps) < 1:
        raise ValueError(
            f"SubsampledConvolution: stride must be a positive integer or {len(sides)} of them for sides {sides}, "
            f"got {stride!r}."
        )
    if boundary == "circular" and any(side % step for side, step in zip(sides, steps, strict=True)):
        raise ValueError(
            f"SubsampledConvolution: for the boundary 'circular' each stride must divide its side, got stride {steps} "
            f"for {sides}. Crop x, or use the boundary 'reflect' or 'zero'."
        )
    return steps


def _checked_offset(offset: int | Sequence[int], sides: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    given = offset if isinstance(offset, Sequence) else [offset] * len(sides)
    try:
        first = tuple(operator.index(place) for place in given)
    except TypeError:
        raise TypeError(f"SubsampledConvolution: offset must be an integer or one for each axis, got {offset!r}.") from None
    if len(first) != len(sides) or not all(0 <= o < min(n, s) for o, n, s in zip(first, sides, stride, strict=True)):
        raise ValueError(
            f"SubsampledConvolution: offset must be from 0 to stride - 1 and within the side along each axis, for stride "
            f"{stride} and sides {sides}, got {offset!r}."
        )
    return first
