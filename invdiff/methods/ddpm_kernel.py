"""The kernel of DDPM: the distribution of the next state given the current state and the clean image."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DDPMKernel", "ddpm_kernel"]


class DDPMKernel(NamedTuple):
    r"""The coefficients of :math:`q(x_s | x_t, x_0) = \mathcal{N}(a x_t + b x_0,\, v I)`."""

    a: float
    b: float
    variance: float


def ddpm_kernel(here: tuple[float, float], there: tuple[float, float]) -> DDPMKernel:
    r"""Return the kernel from one noise level to a lower one.

    .. math:: a = \frac{\alpha_t \sigma_s^2}{\alpha_s \sigma_t^2}, \qquad b = \alpha_s (1 - \kappa), \qquad
        v = \sigma_s^2 (1 - \kappa), \qquad \kappa = \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}

    Args:
        here: :math:`(\alpha_t, \sigma_t)`. For states divided by :math:`\alpha`: :math:`(1, \varsigma_t)`.
        there: :math:`(\alpha_s, \sigma_s)`.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239, eq. 6 and 7
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = here, there
    kappa = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    return DDPMKernel(alpha_t * sigma_s**2 / (alpha_s * sigma_t**2), alpha_s * (1 - kappa), sigma_s**2 * (1 - kappa))
