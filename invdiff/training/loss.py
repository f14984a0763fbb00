"""Training losses: the squared error of the denoiser, weighted so that all noise levels contribute equally."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invdiff.linalg import over_items
from invdiff.priors.network import edm_denoise
from invdiff.priors.noise_maps import NoiseMaps, edm_input, edm_target
from invdiff.training.noise_law import Drawn

__all__ = ["pivot_loss", "white_loss"]


def white_loss(network: nn.Module, x: Tensor, noise: Tensor, sigma: Tensor, *, sigma_data: float, bf16: bool) -> Tensor:
    """Return the mean weighted squared error for images with white noise.

    Args:
        network: A raw EDM network.
        x: Clean images, ``(B, C, H, W)``.
        noise: Standard normal noise, shaped like ``x``.
        sigma: Noise level of each image, ``(B,)``.
        sigma_data: Data standard deviation of the preconditioning.
        bf16: Whether to compute the network in bfloat16.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        x0_hat = edm_denoise(network, x + over_items(sigma, x) * noise, sigma, sigma_data=sigma_data)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return (over_items(weight, x) * (x0_hat - x) ** 2).mean()


def pivot_loss(
    network: nn.Module, x: Tensor, noise: Tensor, drawn: Sequence[Drawn], *, sigma_data: float, bf16: bool
) -> Tensor:
    r"""Return the mean weighted squared error for images with Gaussian noise of any covariance, in one network call.

    .. math:: \operatorname{mean} w \odot \big(F - c_\text{out}(S)^{-1} (x - c_\text{skip}(S)\, \mu)\big)^2, \qquad
        \mu = x + S \varepsilon

    :math:`F` is the output of the network, :math:`S` the square root of the noise covariance and :math:`w` the weight. For
    white noise this is :func:`white_loss`.

    Args:
        network: A raw EDM network that takes noise maps.
        x: Clean images, ``(B, C, H, W)``.
        noise: Standard normal noise, shaped like ``x``.
        drawn: Covariances and weights of all images, in order.
        sigma_data: Data standard deviation of the preconditioning.
        bf16: Whether to compute the network in bfloat16.
    """
    sizes = [len(part) for part in drawn]
    inputs, targets = [], []
    for part, clean, n in zip(drawn, torch.split(x, sizes), torch.split(noise, sizes), strict=True):
        mu = clean + part.cov.apply(lambda s: s, n)
        inputs.append(edm_input(mu, part.cov, sigma_data=sigma_data))
        targets.append(edm_target(clean, mu, part.cov, sigma_data=sigma_data))
    images, times, maps = zip(*inputs, strict=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        output = network(torch.cat(images), torch.cat(times), NoiseMaps.cat(maps))
    weight = torch.cat([part.weight.expand_as(target) for part, target in zip(drawn, targets, strict=True)])
    error: Tensor = output.to(x.dtype) - torch.cat(targets)
    return (weight * error**2).mean()
