"""Compressed sensing by random convolution: a filter with random phases, then a random subset of the pixels."""

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
    r"""Circular convolution of every channel with a random all-pass filter, then a random subset of the pixels.

    .. math:: y_c = R\, F^{-1} \operatorname{diag}(e^{i \varphi}) F\, x_c + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    The phases are independent and uniform, except that :math:`\varphi_{-\omega} = -\varphi_\omega`, which keeps ``y`` real:
    frequencies that are their own mirror image have a random sign. A filter of magnitude one is orthogonal, so the rows of
    :math:`A` are orthonormal, :math:`A A^\top = I` and :math:`A^+ = A^\top`. The image may have any size, and the cost is two
    Fourier transforms. The filter and the pixels are the same for every channel.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        count: Number :math:`m` of pixels kept per channel, from 1 to ``H * W``; measurements are ``(B, C, m)``.
        seed: Seed of the phases and the pixels, any non-negative integer below 2^63.
        sigma_y: Noise standard deviation, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        pixels: Ascending indices ``i * W + j`` of the pixels kept, shape ``(m,)``.

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
        # The spectrum of real white noise has independent uniform phases with the symmetry of a real image.
        spectrum = torch.fft.rfft2(torch.randn(height, width, generator=generator, dtype=torch.float64))
        self.pixels = torch.randperm(height * width, generator=generator)[:count].sort().values
        self.in_shape, self.out_shape = (channels, height, width), (channels, count)
        self.basis = RandomConvolutionSVD(self.in_shape, spectrum / spectrum.abs(), self.pixels)
        self.noise = noise_of(sigma_y, noise)


class RandomConvolutionSVD(SelectionSVD):
    r"""SVD for selected pixels of a convolution with an all-pass filter: :math:`V^\top` is the convolution.

    Args:
        in_shape: Image shape ``(C, H, W)``.
        spectrum: Spectrum of the filter, with magnitude one, ``(H, W // 2 + 1)``.
        pixels: Indices of the pixels kept.
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
