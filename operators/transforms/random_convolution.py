"""Compressed sensing by a convolution with random phases, of which some pixels are kept."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.seeds import seeded
from ..core.validation import image_shape
from .orthonormal import OrthonormalRows, SelectionSVD

__all__ = ["RandomConvolution", "RandomConvolutionSVD"]


class RandomConvolution(OrthonormalRows):
    r"""Circular convolution of every channel with a random filter that is all phase, then a random subset of the pixels.

    .. math:: y_c = R\, F^{-1} \operatorname{diag}(e^{i \varphi}) F\, x_c + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    The phases are independent and uniform, but for :math:`\varphi_{-\omega} = -\varphi_\omega`, which keeps ``y`` real:
    frequencies that are their own mirror image get a random sign. A filter of magnitude one is orthogonal, so the rows of
    :math:`A` are orthonormal, :math:`A A^\top = I` and :math:`A^+ = A^\top`. Of any size, at the cost of two Fourier
    transforms. The filter and the pixels are the same for every channel.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        count: Pixels kept of every channel, :math:`m` from 1 to ``H * W``; measurements are ``(B, C, m)``.
        seed: Of the phases and the pixels: any non-negative integer below 2^63.
        sigma_y: Noise standard deviation, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        pixels: Which are kept: ascending indices ``i * W + j``, shape ``(m,)``.

    Raises:
        TypeError: If ``count`` or ``seed`` is not an integer.
        ValueError: If one of them is out of range.

    References:
        Romberg, Compressive Sensing by Random Convolution, 2009, https://doi.org/10.1137/08072975X
    """

    def __init__(
        self, in_shape: Sequence[int], count: int, *, seed: int, sigma_y: float = 0.0, noise: Noise | None = None
    ) -> None:
        channels, height, width = image_shape("RandomConvolution", in_shape)
        count, generator = operator.index(count), seeded("RandomConvolution", seed)
        if not 1 <= count <= height * width:
            raise ValueError(
                f"RandomConvolution: count must lie between 1 and {height * width}, the pixels of a channel, got {count}."
            )
        # The phases of white noise are uniform, independent and those of a real image.
        spectrum = torch.fft.rfft2(torch.randn(height, width, generator=generator, dtype=torch.float64))
        self.pixels = torch.randperm(height * width, generator=generator)[:count].sort().values
        self.in_shape, self.out_shape = (channels, height, width), (channels, count)
        self.basis = RandomConvolutionSVD(self.in_shape, spectrum / spectrum.abs(), self.pixels)
        self.noise = noise_of(sigma_y, noise)


class RandomConvolutionSVD(SelectionSVD):
    r"""Of some pixels of a convolution with a filter of magnitude one: :math:`V^\top` is the convolution itself.

    Args:
        in_shape: Image shape ``(C, H, W)``.
        spectrum: The filter, of magnitude one, ``(H, W // 2 + 1)``.
        pixels: Which pixels are kept.
    """

    def __init__(self, in_shape: tuple[int, int, int], spectrum: Tensor, pixels: Tensor) -> None:
        channels, height, width = in_shape
        super().__init__((channels, height * width), pixels)
        self.in_shape, self.spectrum = in_shape, spectrum

    def analyze(self, x: Tensor) -> Tensor:
        return self._convolve(x, self._spectrum_like(x)).flatten(2)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self._convolve(x_bar.reshape(-1, *self.in_shape), self._spectrum_like(x_bar).conj())

    def _convolve(self, x: Tensor, spectrum: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfft2(spectrum * torch.fft.rfft2(x), s=self.in_shape[-2:])
        return image

    def _spectrum_like(self, x: Tensor) -> Tensor:
        spectrum: Tensor = self.spectrum.to(x.device, x.dtype.to_complex())
        return spectrum
