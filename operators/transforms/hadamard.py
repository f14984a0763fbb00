"""Compressed sensing with rows of the Walsh-Hadamard transform: single-pixel cameras, structured random projections."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.seeds import seeded
from ..core.validation import event_shape
from .orthonormal import OrthonormalRows, SelectionSVD, selected_indices

__all__ = ["Hadamard", "HadamardSVD", "walsh_order"]

RADIX_BITS = 6  # Matrices of up to 64 x 64 per step: fewer passes over the data than 2 x 2, and as fast as any other size.


class Hadamard(OrthonormalRows):
    r"""Selected rows of an orthonormal Walsh-Hadamard transform of each channel, or of the whole item.

    .. math:: y = R\, H D\, x + n, \qquad H_{kj} = \frac{(-1)^{\langle k, j \rangle}}{\sqrt N},
        \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    where :math:`\langle k, j \rangle` is the number of binary digits 1 that the indices have in common, :math:`R` selects the
    rows and :math:`D` is a diagonal of random signs, or :math:`I` without ``sign_seed``. The rows are orthonormal, so
    :math:`A A^\top = I` and :math:`A^+ = A^\top`: all methods have closed forms, at a cost of :math:`O(N \log N)`. With random
    signs every row is equally sensitive to all structures of the image; without them the first rows measure coarse structure.

    :math:`N` must be a power of two. Padding with zeros to the next one would destroy the orthonormality of the rows.

    Rows are numbered as in ``scipy.linalg.hadamard``. For a channel of ``H x W`` pixels row ``i * W + j`` is the product of
    row ``i`` along the columns and row ``j`` along the rows of the image: with ``walsh_order``, the ``k x k`` coarsest
    patterns of a single-pixel camera are ``walsh_order(H)[:k, None] * W + walsh_order(W)[:k]``, flattened.

    Args:
        in_shape: Shape of one ``x``, without the batch axis: ``(C, ...)``, or ``(n,)``.
        keep: Indices of the rows that are measured, distinct, from 0 to :math:`N - 1`: a sequence of ``m`` integers. The same
            for every channel.
        per_channel: If true, each channel is transformed separately, :math:`N` is its number of pixels, and ``y`` is
            ``(B, C, m)``. Else :math:`N` is the number of entries of the whole item, and ``y`` is ``(B, m)``. An ``in_shape``
            with one axis always gives ``(B, m)``.
        sign_seed: Seed of the signs, which are the same for every channel. ``None``: no signs.
        sigma_y: Noise standard deviation, in the units of ``y``, which are those of ``x``, as the rows have norm 1. Zero: no
            noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        keep: Indices of the measured rows, ``(m,)``.

    Raises:
        TypeError: If ``keep`` is not a sequence of integers or ``sign_seed`` is not an integer.
        ValueError: If :math:`N` is not a power of two, or ``keep`` is empty, out of range or contains a row twice.

    References:
        Duarte et al., Single-Pixel Imaging via Compressive Sampling, 2008, https://doi.org/10.1109/MSP.2007.914730
        Kawar et al., Denoising Diffusion Restoration Models, 2022, https://arxiv.org/abs/2201.11793 (random rows per channel)
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        keep: Sequence[int] | Tensor,
        *,
        per_channel: bool = True,
        sign_seed: int | None = None,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape = event_shape("Hadamard", in_shape)
        groups, size = _split(self.in_shape, per_channel)
        if size & (size - 1):
            lower = 1 << (size.bit_length() - 1)
            raise ValueError(
                f"Hadamard: the number of entries must be a power of two, got {size} per "
                f"{'channel' if per_channel and len(self.in_shape) > 1 else 'item'} for in_shape {self.in_shape}. "
                f"Crop or resize to {lower} or {2 * lower}."
            )
        self.keep = selected_indices("Hadamard", "keep", keep, size)
        signs = None
        if sign_seed is not None:
            signs = 1.0 - 2.0 * torch.randint(2, (size,), generator=seeded("Hadamard", sign_seed), dtype=torch.float64)
        self.basis = HadamardSVD(self.in_shape, (groups, size), self.keep, signs)
        separate = per_channel and len(self.in_shape) > 1
        self.out_shape = (groups, len(self.keep)) if separate else (len(self.keep),)
        self.noise = noise_of(sigma_y, noise)

    @classmethod
    def random(
        cls,
        in_shape: Sequence[int],
        count: int,
        *,
        seed: int,
        per_channel: bool = True,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> Self:
        """Return the operator with ``count`` uniformly random rows, in ascending order, and random signs.

        Args:
            in_shape: Shape of one ``x``, without the batch axis.
            count: Number of measurements, per channel or per item.
            seed: Seed of rows and signs, any non-negative integer below 2^63.
            per_channel: As for the class.
            sigma_y: Noise standard deviation. Zero: no noise.
            noise: A noise model, instead of ``sigma_y``.

        Raises:
            TypeError: If ``count`` or ``seed`` is not an integer.
            ValueError: If ``count`` is not between 1 and the number of rows.
        """
        _, size = _split(event_shape("Hadamard", in_shape), per_channel)
        if not 1 <= operator.index(count) <= size:
            raise ValueError(f"Hadamard: count must lie between 1 and {size}, the number of rows, got {count}.")
        generator = seeded("Hadamard", seed)
        rows = torch.randperm(size, generator=generator)[:count].sort().values
        signs = int(torch.randint(2**31, (), generator=generator))
        return cls(in_shape, rows, per_channel=per_channel, sign_seed=signs, sigma_y=sigma_y, noise=noise)


class HadamardSVD(SelectionSVD):
    r"""SVD for rows of a Walsh-Hadamard transform: :math:`V^\top` is the full transform :math:`H D`.

    Args:
        in_shape: Shape of one ``x``.
        shape: Shape of the coordinates, ``(groups, N)``.
        keep: The rows that are measured.
        signs: :math:`D`, shape ``(N,)``. ``None``: the identity.
    """

    def __init__(self, in_shape: tuple[int, ...], shape: tuple[int, int], keep: Tensor, signs: Tensor | None) -> None:
        super().__init__(shape, keep)
        self.in_shape, self.signs = in_shape, signs
        bits = shape[1].bit_length() - 1
        steps = max(1, math.ceil(bits / RADIX_BITS))
        self.radices = [1 << ((bits + step) // steps) for step in range(steps)]  # As equal as possible.
        # Up to scale, the transform of a smaller size is the upper left corner of a larger one.
        self.butterfly = torch.ones(1, 1, dtype=torch.float64)
        for _ in range(min(bits, RADIX_BITS)):
            self.butterfly = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), self.butterfly)

    def analyze(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), *self.shape)
        return self._transform(x if self.signs is None else x * self.signs.to(x))

    def synthesize(self, x_bar: Tensor) -> Tensor:
        x = self._transform(x_bar)
        return (x if self.signs is None else x * self.signs.to(x)).reshape(len(x), *self.in_shape)

    def _transform(self, x: Tensor) -> Tensor:
        # H for a product of sizes is the Kronecker product of the smaller ones: the index is split into one digit per matrix.
        shape, stride, butterfly = x.shape, 1, self.butterfly.to(x)
        for radix in self.radices:
            matrix = butterfly[:radix, :radix] * radix**-0.5
            x = x.reshape(-1, radix) @ matrix if stride == 1 else matrix @ x.reshape(-1, radix, stride)
            stride *= radix
        return x.reshape(shape)


def walsh_order(size: int) -> Tensor:
    """Return the rows of the Hadamard matrix ordered by their number of sign changes: 0, 1, 2 and so on, from coarse to fine.

    Args:
        size: Size of the matrix, a power of two.

    Returns:
        Indices of the rows, ``(size,)``.

    Raises:
        ValueError: If ``size`` is not a power of two.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"walsh_order: size must be a power of two, got {size}.")
    changes = torch.arange(size)
    gray = changes ^ (changes >> 1)
    rows = torch.zeros_like(gray)
    for _ in range(size.bit_length() - 1):  # The Gray code of the number of changes, with its bits reversed.
        rows, gray = rows << 1 | gray & 1, gray >> 1
    return rows


def _split(shape: tuple[int, ...], per_channel: bool) -> tuple[int, int]:
    """Return the number of transforms and the size of each."""
    groups = shape[0] if per_channel and len(shape) > 1 else 1
    return groups, math.prod(shape) // groups
