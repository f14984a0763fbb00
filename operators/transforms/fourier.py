r"""Selected frequencies of real images, and the centered Fourier transform that all Fourier operators share.

.. math:: (F x)_k = \frac{1}{\sqrt{HW}} \sum_n x_n
    \exp\Big(-2 \pi i \Big[ \frac{(k_1 - c_1)(n_1 - c_1)}{H} + \frac{(k_2 - c_2)(n_2 - c_2)}{W} \Big]\Big),
    \qquad c = (\lfloor H / 2 \rfloor, \lfloor W / 2 \rfloor)

The transform is unitary, with frequency 0 and the origin of the image both in the middle, at index :math:`c`:
``fftshift(fft2(ifftshift(x), norm="ortho"))`` over the last two axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.movable import Movable

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.validation import image_shape
from ..sampling.mask import Mask

__all__ = ["CenteredFourier", "FourierMask", "FourierMaskSVD", "as_complex"]


class CenteredFourier(Movable):
    r"""The weighted centered unitary Fourier transform :math:`\operatorname{diag}(w) F \operatorname{diag}(m)`.

    Both shifts are computed as phase factors, which are :math:`\pm 1` for even sides. Merged with the weights they cost
    nothing, while moving the data would cost as much as the transform.

    Args:
        height: Image height :math:`H`.
        width: Image width :math:`W`.
        image_weights: :math:`m`, broadcastable to ``(..., H, W)``. Default: 1.
        frequency_weights: :math:`w`, broadcastable to ``(..., H, W)``. Default: 1.
    """

    def __init__(
        self, height: int, width: int, *, image_weights: Tensor | None = None, frequency_weights: Tensor | None = None
    ) -> None:
        rows, columns = _phases(height), _phases(width)
        before = rows.unsqueeze(1) * columns
        # F has the same phases on both sides up to a constant: the phase at the center.
        after = before * (rows[height // 2] * columns[width // 2]).conj()
        self.before = before if image_weights is None else before * image_weights
        self.after = after if frequency_weights is None else after * frequency_weights

    def forward(self, x: Tensor) -> Tensor:
        """Return the complex transform of a real or complex ``x`` of shape ``(..., H, W)``."""
        spectrum: Tensor = _like(self.after, x) * torch.fft.fft2(_like(self.before, x) * x, norm="ortho")
        return spectrum

    def adjoint(self, spectrum: Tensor) -> Tensor:
        """Return the complex adjoint of ``forward``, which is its inverse if there are no weights."""
        image = torch.fft.ifft2(_like(self.after, spectrum).conj() * spectrum, norm="ortho")
        weighted: Tensor = _like(self.before, spectrum).conj() * image
        return weighted


class FourierMask(LinearOperator):
    r"""Selected frequencies of every channel of a real image, in the centered unitary Fourier transform.

    .. math:: y_c = M\, F x_c + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ``y`` is ``(B, C, H, W, 2)``, with the real and the imaginary part along the last axis, as in ``torch.view_as_real``. The
    adjoint refers to these real numbers, and each of them has noise of standard deviation :math:`\sigma_y`. Frequency 0 is in
    the middle, at ``(H // 2, W // 2)``, in ``y`` and in the mask. Frequencies that are not measured are exactly 0 in ``y`` and
    have no noise. Input values in their place are ignored, even NaN. For complex images see :class:`MRI`.

    **Mirrored pairs.** The spectrum of a real image is conjugate symmetric: :math:`(F x)_{-k} = \overline{(F x)_k}`. If the
    mask contains both :math:`k` and :math:`-k`, they are two measurements of the same values with independent noise. The
    imaginary part of a frequency that is its own mirror image (such as 0) is measured too, and is pure noise. So ``dof`` is
    twice the number of selected frequencies, times the channels. The rows are then not orthogonal, but closed forms are exact
    for any mask: with :math:`v' = \overline{v_{-k}}`, on a measured pair

    .. math:: A A^\top v = \tfrac12 (v + v'), \qquad
        (A A^\top + \lambda I)^{-1} v = \frac{(v + v') / 2}{1 + \lambda} + \frac{(v - v') / 2}{\lambda},

    and :math:`v / (\tfrac12 + \lambda)` where the mirror image is missing. Terms over :math:`\lambda` are omitted for
    :math:`\lambda = 0`. The singular values are :math:`1`, :math:`1 / \sqrt 2` (if only one of a pair is measured) and 0.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        mask: 1 (or True) for measured frequencies, 0 for the others, shape ``(H, W)`` or broadcastable to it, with frequency 0
            in the middle: apply ``torch.fft.fftshift`` to a mask in the order of ``torch.fft.fft2``.
        sigma_y: Noise standard deviation of the real and of the imaginary part, in the units of ``x``, because the transform
            is unitary. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        mask: Boolean, ``(H, W)``.

    Raises:
        ValueError: If the mask holds anything but 0 and 1, measures nothing, or does not broadcast to ``(H, W)``.

    References:
        Lustig, Donoho & Pauly, Sparse MRI, 2007, https://doi.org/10.1002/mrm.21391
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        mask: Tensor | np.ndarray,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = image_shape("FourierMask", in_shape)
        self.mask = Mask(mask, (height, width)).mask
        mirrored = _mirror(self.mask)
        self.paired = self.mask & mirrored
        self.gram = self.mask * (0.5 + 0.5 * mirrored.double())
        self.fourier = CenteredFourier(height, width, frequency_weights=self.mask.double())
        self.in_shape, self.out_shape = (channels, height, width), (channels, height, width, 2)
        self.noise = noise_of(sigma_y, noise)

    @property
    def dof(self) -> int:
        return 2 * self.in_shape[0] * int(self.mask.sum())

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.fourier.forward(x))

    def keep_measured(self, y: Tensor) -> Tensor:
        return torch.view_as_real(self._measured(y))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.fourier.adjoint(self._measured(y)).real.contiguous()

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        spectrum = as_complex(v)
        lam = over_items(lam, spectrum) if isinstance(lam, Tensor) else lam
        paired, gram, mirrored = self.paired.to(v.device), self.gram.to(v), _mirror(spectrum).conj()
        seen = pseudo_divide(torch.where(paired, 0.5 * (spectrum + mirrored), spectrum), gram, lam)
        # Exactly antisymmetric, rounding errors included: a small lam would amplify any component in the range of A.
        unseen = pseudo_divide(torch.where(paired, 0.5 * (spectrum - mirrored), 0), gram.new_zeros(()), lam)
        return torch.view_as_real(seen + unseen)

    def pinv(self, y: Tensor) -> Tensor:
        return self._divide(y, 0.0)

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        # Avoids the component of solve outside the range of A (differences within pairs), which is large for a small rho.
        return z + self._divide(y - self.forward(z), rho)

    def _divide(self, y: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return :math:`(A^\top A + \lambda I)^{-1} A^\top y`, or the pseudo-inverse."""
        spectrum = self._measured(y)
        lam = over_items(lam, spectrum) if isinstance(lam, Tensor) else lam
        # The component that is not conjugate symmetric vanishes with the imaginary part of x.
        return self.fourier.adjoint(pseudo_divide(spectrum, self.gram.to(y), lam)).real.contiguous()

    def _measured(self, y: Tensor) -> Tensor:
        return torch.where(self.mask.to(y.device), as_complex(y), 0)  # A product would keep a NaN in a missing entry.

    def _decompose(self) -> SVD:
        return FourierMaskSVD(self.in_shape[0], self.mask).to(self.mask.device, self.gram.dtype)


class FourierMaskSVD(SVD):
    r"""SVD for selected frequencies of a real image: :math:`V^\top = \operatorname{Re} F - \operatorname{Im} F`.

    :math:`V` is real, symmetric and orthogonal: the centered Hartley transform. A pair of frequencies spans a plane of
    coordinates, and both coordinates have the same singular value: :math:`s_k^2 = (m_k + m_{-k}) / 2`.

    Args:
        channels: Number of channels of the image. The coordinates are ``(C, H, W)`` like the image, frequency 0 in the middle.
        mask: Mask of the measured frequencies, boolean, ``(H, W)``.

    References:
        Bracewell, Discrete Hartley transform, 1983, https://doi.org/10.1364/JOSA.73.001832
    """

    def __init__(self, channels: int, mask: Tensor) -> None:
        self.shape, self.mask = (channels, *mask.shape), mask
        self._values = (0.5 * (mask.double() + _mirror(mask).double())).sqrt()
        self.fourier = CenteredFourier(*mask.shape)

    def analyze(self, x: Tensor) -> Tensor:
        spectrum = self.fourier.forward(x)
        return spectrum.real - spectrum.imag

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self.analyze(x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        spectrum = torch.where(self.mask.to(y.device), as_complex(y), 0)
        both = 0.5 * (spectrum + _mirror(spectrum).conj())
        return pseudo_divide((both.real - both.imag) * self._values.to(y), self._values.to(y) ** 2, 0.0)


def as_complex(y: Tensor) -> Tensor:
    """Return ``y`` of shape ``(..., 2)``, real and imaginary part, as a complex tensor of shape ``(...)``."""
    return torch.view_as_complex(y.contiguous())


def _phases(side: int) -> Tensor:
    r"""Return :math:`e^{2 \pi i c n / N}` for every index; a real tensor if all of them are :math:`\pm 1`."""
    n = torch.arange(side)
    if side % 2 == 0 or side == 1:
        return 1.0 - 2.0 * (n % 2).double()
    angles = 2 * torch.pi / side * (side // 2 * n % side).double()
    return torch.polar(torch.ones_like(angles), angles)


def _mirror(spectrum: Tensor) -> Tensor:
    """Return the values at the opposite frequencies, with frequency 0 in the middle of the last two axes."""
    height, width = spectrum.shape[-2:]
    return spectrum.flip((-2, -1)).roll((1 - height % 2, 1 - width % 2), (-2, -1))


def _like(weights: Tensor, x: Tensor) -> Tensor:
    """Return ``weights``, real or complex, in the precision and on the device of ``x``."""
    return weights.to(x.device, x.dtype.to_complex() if weights.is_complex() else x.dtype.to_real())
