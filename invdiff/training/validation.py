"""Validation of a prior during training: PSNR of denoising and of posterior means, and a grid of samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.io.figures import tile_grid
from invdiff.methods.steps.prior_samples import sample_prior
from invdiff.operators import Blur, LinearOperator, Mask, Mosaic, Resize, box_mask, random_mask
from invdiff.priors.network import edm_denoise, from_network
from invdiff.priors.networks.unet import UNet
from invdiff.priors.noise_maps import edm_denoise_pivot
from invdiff.schedules import EDM
from invdiff.training.levels import LEVELS
from invdiff.training.noise_law import kernel_side
from invdiff.training.random_kernels import shaken
from invdiff.training.random_masks import letters

__all__ = ["VALIDATION_SIGMAS", "conditional_psnr", "denoising_psnr", "validation_operators", "write_samples"]

VALIDATION_SIGMAS = (5, 15, 25, 50, 100)  # on the 0..255 scale
RATIO = 10.0  # noise level of the state, so high that nearly all information comes from the measurement
MOST, LARGEST = 8, 96  # largest number of images for posterior means, and their largest side in pixels


@torch.no_grad()
def denoising_psnr(net: nn.Module, clean: Tensor, *, sigma_data: float) -> dict[int, float]:
    """Return the PSNR in dB of the denoised images at each of ``VALIDATION_SIGMAS``, with the same noise at every call.

    Args:
        net: A raw EDM network.
        clean: Images ``(N, C, H, W)`` in [-1, 1].
        sigma_data: Data standard deviation of the preconditioning.
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


@torch.no_grad()
def conditional_psnr(net: nn.Module, clean: Tensor, *, sigma_data: float) -> dict[str, float]:
    """Return the PSNR in dB of :math:`E[x_0 | y]` from one network call, for each of :func:`validation_operators`.

    Unlike the loss, it distinguishes the tasks. The noise is the same at every call.

    Args:
        net: A raw EDM network with noise maps.
        clean: Images ``(N, C, H, W)`` in [-1, 1]; centers of up to 96 x 96 pixels of the first eight are used.
        sigma_data: Data standard deviation of the preconditioning.
    """
    height, width = (min(LARGEST, side) for side in clean.shape[-2:])
    top, left = (clean.shape[-2] - height) // 2, (clean.shape[-1] - width) // 2
    clean = clean[:MOST, :, top : top + height, left : left + width]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    psnr = {}
    for name, op in validation_operators(tuple(clean.shape[1:])).items():
        errors = []
        for index, (x, n) in enumerate(zip(torch.split(clean, 1), torch.split(noise, 1), strict=True)):
            pivot = op.pivot(x + RATIO * n, RATIO, op.measure(x, seed=index))
            assert pivot is not None
            mean = edm_denoise_pivot(net, *pivot, sigma_data=sigma_data, trained=LEVELS)
            errors.append(float((mean.clamp(-1, 1) - x).square().mean()))
        psnr[name] = float(np.mean([10 * math.log10(4 / max(error, 1e-12)) for error in errors]))
    return psnr


def validation_operators(shape: tuple[int, ...]) -> dict[str, LinearOperator]:
    """Return the operators of the posterior-mean validation by name.

    They are masks with letters, 70 % of the pixels, or the center missing; a Bayer mosaic for three channels; camera shake with
    noise 0.04; and downsampling by 2 and by 4. All but the blur are noise-free.

    Args:
        shape: Image shape ``(C, H, W)``, with sides of at least 8 pixels.
    """
    _, height, width = shape
    side = min(height, width)
    texts = (letters(np.random.default_rng(seed), 1, max(height, width))[:height, :width] for seed in range(12))
    thin = min(texts, key=lambda mask: abs(mask.mean() - 0.87))
    hole = box_mask(height, width, top=height // 3, left=width // 3, box_height=height // 3, box_width=width // 3)
    operators: dict[str, LinearOperator] = {
        "letters": Mask(thin, shape),
        "random": Mask(random_mask(height, width, missing=0.7, seed=0), shape),
        "hole": Mask(hole, shape),
    }
    if shape[0] == 3:
        operators["Bayer"] = Mosaic(shape, "RGGB")
    kernel = torch.from_numpy(shaken(np.random.default_rng(5), kernel_side(side)))
    operators["blur"] = Blur(shape, kernel, boundary="circular", sigma_y=0.04)
    smaller = {f"x{factor}": (height // factor, width // factor) for factor in (2, 4)}
    return operators | {name: Resize(shape, size, kernel="bicubic") for name, size in smaller.items()}


def write_samples(path: Path, net: UNet, *, size: int, sigma_data: float, seed: int) -> None:
    """Write a PNG of eight unconditional samples, always from the same noise.

    Args:
        path: The PNG file.
        net: A raw EDM network.
        size: Side of the samples in pixels.
        sigma_data: Data standard deviation of the preconditioning.
        seed: Random seed of the noise.
    """
    prior = from_network(net, EDM(), predicts="edm", sigma_data=sigma_data)
    device = next(net.parameters()).device
    samples = sample_prior(prior, (net.config["channels"], size, size), 8, seed=seed, steps=18, device=device)
    # Samples of an untrained network may be NaN or infinite; such values are shown gray.
    tile_grid(path, np.asarray(samples.nan_to_num(0, 0, 0).cpu()), columns=4)
