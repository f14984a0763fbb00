r"""Strided circular convolution, computed in the Fourier domain, where decimation folds (aliases) the spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.linalg import over_items

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.torus import TorusConvolution

__all__ = ["DecimatedConvolution", "DecimatedSVD"]


class DecimatedConvolution(LinearOperator):
    r"""Strided circular convolution in any number of dimensions: keeps every :math:`s`-th value of each channel.

    .. math:: y_i = \sum_a k_a\, x_{s i + o - a + \lfloor n / 2 \rfloor} + n_i, \qquad
        \hat y(\omega) = \frac1{s^d} \sum_j \hat k(\omega_j)\, \hat x(\omega_j)

    summed over the :math:`s^d` frequencies :math:`\omega_j` of the fine grid that decimation folds into one frequency of the
    coarse grid. So :math:`A A^\top` is a convolution on the coarse grid, with the mean of :math:`|\hat k(\omega_j)|^2` as its
    spectrum.

    ``forward`` folds all axes but the last in the spectrum. It decimates the last axis after the inverse transform, because
    half a complex spectrum cannot be folded along it.

    Args:
        in_shape: Shape of one ``x``: channels, then the sides.
        kernel: :math:`k`, float64, with one axis for each side.
        stride: :math:`s` along each axis, divisors of the sides.
        offset: :math:`o`, index of the first value that is kept along each axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    References:
        Zhao et al., Fast Single Image Super-Resolution Using a New Analytical Solution, 2016,
        https://arxiv.org/abs/1510.00143
    """

    closed_form = True

    def __init__(
        self,
        in_shape: tuple[int, ...],
        kernel: Tensor,
        *,
        stride: tuple[int, ...],
        offset: tuple[int, ...],
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape, self.stride = in_shape, stride
        self.coarse = tuple(side // step for side, step in zip(in_shape[1:], stride, strict=True))
        self.out_shape = in_shape[0], *self.coarse
        self.axes = tuple(range(2, 2 + len(stride)))
        centered = _on_torus(kernel, in_shape[1:], offset)
        self.spectrum, self.gram = torch.fft.rfftn(centered), torch.fft.fftn(centered).abs() ** 2
        for axis, (side, step) in enumerate(zip(self.coarse, stride, strict=True)):
            self.gram = self.gram.unflatten(axis, (step, side)).mean(axis)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        gram = self.gram[..., : self.coarse[-1] // 2 + 1].to(v)
        lam = over_items(lam, v) if isinstance(lam, Tensor) else lam
        return self._back(pseudo_divide(torch.fft.rfftn(v, dim=self.axes), gram, lam), self.coarse)

    def pinv(self, y: Tensor) -> Tensor:
        # Divides by the spectrum once. Going through solve would square the condition number.
        folded = pseudo_divide(torch.fft.fftn(y, dim=self.axes), self.gram.to(y), 0.0)
        tiled = folded.repeat(1, 1, *self.stride)[..., : self.spectrum.shape[-1]]
        return self._back(_like(self.spectrum, y).conj() * tiled, self.in_shape[1:])

    def as_torus_convolution(self) -> TorusConvolution:
        return TorusConvolution(self.stride, self.spectrum.device)

    def _forward(self, x: Tensor) -> Tensor:
        folded = _like(self.spectrum, x) * torch.fft.rfftn(x, dim=self.axes)
        for axis, side, step in zip(self.axes[:-1], self.coarse, self.stride, strict=False):
            folded = folded.unflatten(axis, (step, side)).mean(axis)
        return self._back(folded, (*self.coarse[:-1], self.in_shape[-1]))[..., :: self.stride[-1]].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        wide = y.new_zeros(*y.shape[:-1], self.in_shape[-1])
        wide[..., :: self.stride[-1]] = y
        tiled = torch.fft.rfftn(wide, dim=self.axes).repeat(1, 1, *self.stride[:-1], 1)
        return self._back(_like(self.spectrum, y).conj() * tiled, self.in_shape[1:])

    def _back(self, spectrum: Tensor, sides: Sequence[int]) -> Tensor:
        signal: Tensor = torch.fft.irfftn(spectrum, s=tuple(sides), dim=self.axes)
        return signal

    def _decompose(self) -> SVD:
        impulse = torch.zeros(1, 1, *self.coarse, dtype=torch.float64)
        impulse.view(-1)[0] = 1
        row = self.to("cpu", torch.float64)._adjoint(impulse)
        return DecimatedSVD(self.in_shape, row[0, 0], self.stride).to(self.spectrum.device, self.spectrum.real.dtype)


class DecimatedSVD(SVD):
    r"""SVD of a strided circular convolution: one singular vector per frequency of the coarse grid, and the null space.

    The image is split into its :math:`s^d` polyphase components, or phases. At each frequency of the coarse grid the row of
    :math:`A` is a vector :math:`a` with one entry per phase. :math:`|a|` is the singular value, and the Householder reflection
    that maps :math:`a` onto the first phase maps the null space onto the other phases. The Hartley transform makes the first
    phase diagonal in real coordinates, as for :class:`HartleySVD`. Coordinates are ``(C, phases, *coarse sides)``.

    Args:
        in_shape: Shape of one ``x``: channels, then the sides.
        row: The row of :math:`A` for the first entry of ``y``, shaped like one channel of ``x``, float64.
        stride: :math:`s` along each axis.
    """

    kind = "decimation"

    def __init__(self, in_shape: tuple[int, ...], row: Tensor, stride: tuple[int, ...]) -> None:
        self.in_shape, self.stride = in_shape, stride
        self.coarse = tuple(side // step for side, step in zip(in_shape[1:], stride, strict=True))
        self.axes = tuple(range(-len(stride), 0))
        rows = torch.fft.fftn(self._split(row[None, None])[0, 0], dim=self.axes)
        # Exactly the spectrum of real phases: a phase that consists of rounding errors would break the conjugate symmetry.
        rows = (rows + rows.flip(self.axes).roll([1] * len(self.axes), self.axes).conj()) / 2
        length = torch.linalg.vector_norm(rows, dim=0)
        self._values = torch.zeros_like(rows.real)
        self._values[0] = length
        self.shape = in_shape[0], *self._values.shape
        unit = rows / torch.where(length > 0, length, 1)
        unit[0] = torch.where(length > 0, unit[0], 1)
        # The share of each phase in a coarse frequency, and the share of each fine frequency folded into it.
        self.by_phase = unit.abs() ** 2
        folded = (len(rows) * length**2).repeat(*stride)
        self.by_wave = torch.where(folded > 0, torch.fft.fftn(row).abs() ** 2 / torch.where(folded > 0, folded, 1), 0)
        size = unit[0].abs()
        sign = torch.where(size > 0, unit[0] / torch.where(size > 0, size, 1), 1)
        unit[0] += sign
        # I - m m^* maps the unit vector to minus the sign on the first phase. Phases are real, so half a spectrum is enough.
        half = self.coarse[-1] // 2 + 1
        self.mirror, self.turn = (unit / (1 + size).sqrt())[..., :half], -sign[..., :half]

    def analyze(self, x: Tensor) -> Tensor:
        return self._first_by_frequency(self._reflect(self._split(x)))

    def synthesize(self, x_bar: Tensor) -> Tensor:
        # Hartley transform and reflection are their own inverses.
        return self._join(self._reflect(self._first_by_frequency(x_bar)))

    def _rotate(self, y: Tensor) -> Tensor:
        turned = _like(self.turn, y) * torch.fft.rfftn(y, dim=self.axes)
        first = self._hartley(self._back(turned)).unsqueeze(2)
        return torch.cat([first, y.new_zeros(*y.shape[:2], self.shape[1] - 1, *self.coarse)], 2)

    def diagonal(self, values: Tensor) -> Tensor:
        null, extra = self._apart(values)
        variances = null + (extra.unsqueeze(2) * self.by_phase.to(values)).mean(self.axes, keepdim=True)
        return self._join(variances.expand(values.shape))

    def power(self, values: Tensor) -> Tensor:
        null, extra = self._apart(values)
        whole = null.squeeze(2) + extra.repeat(1, 1, *self.stride) * self.by_wave.to(values)
        return whole[..., : self.in_shape[-1] // 2 + 1]

    def _apart(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value on the null space, which is constant there, and the excess of the first phase over it."""
        if values.shape[2] == 1:
            return torch.zeros_like(values[:, :, :1]), values[:, :, 0]
        null = values[:, :, 1:].flatten(2).mean(2).reshape(*values.shape[:2], *(1,) * (values.ndim - 2))
        return null, values[:, :, 0] - null.squeeze(2)

    def _reflect(self, phases: Tensor) -> Tensor:
        mirror, spectrum = _like(self.mirror, phases), torch.fft.rfftn(phases, dim=self.axes)
        return self._back(spectrum - mirror * (mirror.conj() * spectrum).sum(2, keepdim=True))

    def _first_by_frequency(self, phases: Tensor) -> Tensor:
        return torch.cat([self._hartley(phases[:, :, :1]), phases[:, :, 1:]], 2)

    def _hartley(self, image: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.fftn(image, dim=self.axes, norm="ortho")
        return spectrum.real - spectrum.imag

    def _back(self, spectrum: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfftn(spectrum, s=self.coarse, dim=self.axes)
        return image

    def _split(self, x: Tensor) -> Tensor:
        pairs = [n for pair in zip(self.coarse, self.stride, strict=True) for n in pair]
        places, phases = range(2, 2 + len(pairs), 2), range(3, 3 + len(pairs), 2)
        return x.reshape(*x.shape[:2], *pairs).permute(0, 1, *phases, *places).flatten(2, 1 + len(self.stride))

    def _join(self, phases: Tensor) -> Tensor:
        d = len(self.stride)
        order = [n for axis in range(d) for n in (2 + d + axis, 2 + axis)]
        split = phases.reshape(*phases.shape[:2], *self.stride, *self.coarse)
        return split.permute(0, 1, *order).reshape(-1, *self.in_shape)


def _on_torus(kernel: Tensor, sides: Sequence[int], offset: Sequence[int]) -> Tensor:
    """Return ``kernel`` wrapped around a torus of ``sides``, with its center ``offset`` before the origin."""
    for axis, (side, first) in enumerate(zip(sides, offset, strict=True)):
        size = kernel.shape[axis]
        places = (torch.arange(size, device=kernel.device) - size // 2 - first) % side
        shape = *kernel.shape[:axis], side, *kernel.shape[axis + 1 :]
        kernel = kernel.new_zeros(shape).index_add(axis, places, kernel)
    return kernel


def _like(spectrum: Tensor, x: Tensor) -> Tensor:
    return spectrum.to(x.device, x.dtype.to_complex())
