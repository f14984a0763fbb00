"""What a prior in training can do: denoising PSNR on held-out images, and a grid of samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.priors.network import edm_denoise, from_network
from invdiff.priors.unet import UNet
from invdiff.report import tile_grid
from invdiff.samplers.unconditional import sample_prior
from invdiff.schedules import EDM

__all__ = ["VALIDATION_SIGMAS", "denoising_psnr", "write_samples"]

VALIDATION_SIGMAS = (5, 15, 25, 50, 100)  # on the 0..255 scale


@torch.no_grad()
def denoising_psnr(net: nn.Module, clean: Tensor, *, sigma_data: float) -> dict[int, float]:
    """Return the PSNR in dB of the denoised images at each of ``VALIDATION_SIGMAS``; the noise is the same at every call.

    Args:
        net: A raw EDM network.
        clean: Images ``(N, C, H, W)`` in [-1, 1].
        sigma_data: Of the preconditioning.
    """
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    psnr = {}
    for level in VALIDATION_SIGMAS:
        sigma = torch.tensor(level / 127.5).to(clean)
        errors = []
        for x, n in zip(torch.split(clean, 1), torch.split(noise, 1), strict=True):
            denoised = edm_denoise(net, x + sigma * n, sigma, sigma_data=sigma_data)
            errors.append((denoised.clamp(-1, 1) - x).square().mean())
        psnr[level] = 10 * math.log10(4 / max(float(torch.stack(errors).mean()), 1e-12))
    return psnr


def write_samples(path: Path, net: UNet, *, size: int, sigma_data: float, seed: int) -> None:
    """Write a PNG of eight unconditional samples, always from the same noise.

    Args:
        path: The file.
        net: A raw EDM network.
        size: Side of the samples in pixels.
        sigma_data: Of the preconditioning.
        seed: Of the noise.
    """
    prior = from_network(net, EDM(), predicts="edm", sigma_data=sigma_data)
    device = next(net.parameters()).device
    samples = sample_prior(prior, (net.config["channels"], size, size), 8, seed=seed, steps=18, device=device)
    # A network at its beginning may send samples anywhere; they are shown grey.
    tile_grid(path, np.asarray(samples.nan_to_num(0, 0, 0).cpu()), columns=4)
