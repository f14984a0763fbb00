"""Orthonormal cosine transforms: along an axis, with two boundary conditions, and of images."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from invdiff.movable import Movable

__all__ = ["CosineTransform", "cosine_inverse", "cosine_matrix", "cosine_transform"]

# Up to this many entries the matrix was at least as fast as Fourier transforms, on one CPU core. Key: whether the signal ends
# instead of being mirrored, which makes its period twice as long.
DENSE = {False: 512, True: 1024}


class CosineTransform(Movable):
    r"""Orthonormal transform to the cosines :math:`q_k(i) \propto \cos((i + \tfrac12)\, \theta_k)` of :math:`n` entries.

    Before its first entry the signal is mirrored, with that entry repeated: :math:`x_{-1-i} = x_i`. Beyond the last entry it is
    either mirrored in the same way, :math:`\theta_k = \pi k / n`, which is the usual cosine transform (DCT-II); or it ends,
    :math:`x_n = 0` and :math:`x_{n+i} = -x_{n-i}`, :math:`\theta_k = \pi (2 k + 1) / (2 n + 1)`. In both cases second
    differences of the extended signal multiply :math:`q_k` by :math:`-4 \sin^2(\theta_k / 2)`. Long signals are transformed in
    :math:`O(n \log n)`, by the Fourier transform of the signal extended to a whole period; short ones by a matrix. On a CPU,
    where no derivative is wanted, SciPy computes the DCT-II.

    Args:
        side: :math:`n`, the number of entries.
        ends: Whether the signal ends instead of being mirrored.

    Attributes:
        eigenvalues: :math:`4 \sin^2(\theta_k / 2)`, ascending, ``(n,)``.

    References:
        Strang, The Discrete Cosine Transform, 1999, https://doi.org/10.1137/S0036144598336745
    """

    def __init__(self, side: int, *, ends: bool) -> None:
        self.side, self.ends, self.period = side, ends, 4 * side + 2 if ends else 2 * side
        self.frequencies = slice(1, 2 * side, 2) if ends else slice(0, side)
        half_angles = torch.pi / self.period * torch.arange(2 * side, dtype=torch.float64)[self.frequencies]
        self.eigenvalues = 4 * half_angles.sin() ** 2
        norms = torch.full_like(half_angles, (8 / self.period) ** 0.5 if ends else (4 / self.period) ** 0.5)
        if not ends:
            norms[0] = side**-0.5
        phases = torch.polar(norms, half_angles)
        # A period contains the signal four times, or twice; the spectrum contains every frequency but 0 twice.
        self.analysis = phases.conj().resolve_conj() / (4 if ends else 2)
        self.synthesis = phases * self.period / torch.where(half_angles == 0, 1, 2)
        self.matrix: Tensor | None = None
        if side <= DENSE[ends]:
            # The rows of the matrix are the cosines.
            self.matrix = self.synthesize(torch.eye(side, dtype=torch.float64), -1) if ends else cosine_matrix(side)

    def analyze(self, x: Tensor, axis: int) -> Tensor:
        """Return the coefficients of ``x`` along ``axis``."""
        if not self.ends and _by_scipy(x):
            return _scipy("dctn", x, axis)
        if self.matrix is not None:
            return _along(axis, self.matrix.to(x), x)
        x = x.movedim(axis, -1)
        parts = [x, x.flip(-1)]
        if self.ends:
            nothing = torch.zeros_like(x[..., :1])
            parts = [x, nothing, -parts[1], -x, nothing, parts[1]]
        spectrum = torch.fft.rfft(torch.cat(parts, -1))[..., self.frequencies]
        coefficients: Tensor = (self.analysis.to(spectrum) * spectrum).real
        return coefficients.movedim(-1, axis)

    def synthesize(self, coefficients: Tensor, axis: int) -> Tensor:
        """Return the signal with these coefficients along ``axis``: the inverse of :meth:`analyze`."""
        if not self.ends and _by_scipy(coefficients):
            return _scipy("idctn", coefficients, axis)
        if self.matrix is not None:
            return _along(axis, self.matrix.to(coefficients).mT, coefficients)
        c = coefficients.movedim(axis, -1)
        weights = self.synthesis.to(c.device, c.dtype.to_complex())
        spectrum = torch.zeros(*c.shape[:-1], self.period // 2 + 1, dtype=weights.dtype, device=c.device)
        spectrum[..., self.frequencies] = weights * c
        signal: Tensor = torch.fft.irfft(spectrum, n=self.period)
        return signal[..., : self.side].movedim(-1, axis)


def cosine_matrix(side: int) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) of ``side`` entries as a float64 matrix."""
    from scipy.fft import dct

    return torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho"))


def cosine_transform(x: Tensor) -> Tensor:
    """Return the orthonormal cosine coefficients (DCT-II) of images, over the last two axes."""
    if _by_scipy(x):
        return _scipy("dctn", x, -2, -1)
    coefficients: Tensor = _cosines(x.shape[-2], x.dtype, x.device) @ x @ _cosines(x.shape[-1], x.dtype, x.device).mT
    return coefficients


def cosine_inverse(coefficients: Tensor) -> Tensor:
    """Return the images with these cosine coefficients: the inverse and adjoint of :func:`cosine_transform`."""
    if _by_scipy(coefficients):
        return _scipy("idctn", coefficients, -2, -1)
    rows, columns = (_cosines(side, coefficients.dtype, coefficients.device) for side in coefficients.shape[-2:])
    x: Tensor = rows.mT @ coefficients @ columns
    return x


def _by_scipy(x: Tensor) -> bool:
    """Return whether SciPy transforms ``x``: on a CPU, where no derivative is wanted. Torch does everywhere else."""
    followed = torch.is_grad_enabled() and x.requires_grad
    followed = followed or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    return type(x) is Tensor and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not followed


def _scipy(name: str, x: Tensor, *axes: int) -> Tensor:
    import scipy.fft

    transform = getattr(scipy.fft, name)
    done = transform(x.detach().numpy(), axes=axes, norm="ortho", workers=torch.get_num_threads())
    return torch.from_numpy(done)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # Cached tensors must be usable in later gradients.
def _cosines(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return cosine_matrix(side).to(device, dtype)


def _along(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
    """Return the product of ``matrix`` with ``x`` along ``axis``, from the left unless it is the last, to move less memory."""
    return x @ matrix.mT if axis == -1 else (matrix @ x.movedim(axis, -2)).movedim(-2, axis)
