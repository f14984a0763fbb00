"""The networks of ``latent.py``, trained in minutes: an autoencoder, a prior of its codes and a prior of pixels."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from speed_networks import clock
from torch import Tensor, nn
from tqdm import tqdm

from invdiff.priors import LatentPrior, ScoreModel, load_prior
from invdiff.priors.network import frozen_view
from invdiff.priors.save import write_safetensors
from invdiff.training import Images, Settings, load_images, train
from invdiff.training.optimiser import MuonAdamW

__all__ = ["FACTOR", "Autoencoder", "latent_prior", "trained"]

FACTOR = 4  # pixels of an image per code, along each axis
CODES = 12  # numbers in a code: a quarter of those of its 4 x 4 pixels of three channels
SCALE = 0.5  # standard deviation of the codes, that of photographs in [-1, 1]: the settings of a training suit both
NOISE = 0.05  # standard deviation of the noise on the codes that the decoder is trained with, relative to theirs
CROP = 64  # pixels
AUTOENCODER_SHARE = 0.5  # of the time of the latent prior
KEPT = ("steps", "images_seen", "photographs", "parameters")  # facts of a training
WARM_UP = 50  # steps of the autoencoder
TRIAL = 10  # steps by which the speed of a training is measured
NETWORK: dict[str, Any] = {"widths": (32, 64, 128, 192), "blocks": (1, 1, 1, 3), "validation": 1, "flips": "none"}


class Autoencoder(nn.Module):
    r"""Convolutional autoencoder of images whose sides are multiples of four.

    A code has the standard deviation 1/2 in every channel over the photographs, by a normalization without parameters whose
    statistics are fixed after the training. In the training the decoder sees :math:`z + \tfrac12 \nu \varepsilon` with
    :math:`\nu = 0.05`: codes of bounded power under noise, so that near codes have near images, and no channel can carry much
    information in small differences.

    Args:
        channels: Numbers in a code.
        width: Features at the resolution of the codes; half as many at twice the resolution.
    """

    def __init__(self, channels: int = CODES, width: int = 64) -> None:
        super().__init__()
        half = width // 2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            Residual(half),
            nn.Conv2d(half, width, 2, stride=2),
            Residual(width),
            Residual(width),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.normal = nn.BatchNorm2d(channels, affine=False, momentum=None)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            Residual(width),
            Residual(width),
            nn.Conv2d(width, 4 * half, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(half),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` in [-1, 1] to codes ``(B, channels, H / 4, W / 4)``."""
        z: Tensor = SCALE * self.normal(self.encoder(x))
        return z

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(z / SCALE)
        return x


class Residual(nn.Module):
    """Two convolutions around the identity, which it is at initialization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(h))))
        return h + change


def trained(
    sources: Sequence[Path], folder: Path, *, minutes: float, count: int
) -> tuple[Autoencoder, ScoreModel, ScoreModel, dict[str, Any]]:
    """Return the autoencoder, the priors of its codes and of pixels, and facts about their training.

    What is in ``folder`` already is read and not trained again.

    Args:
        sources: Folders and tar archives of photographs.
        folder: Where the weights are kept.
        minutes: Time of each prior, of the processor with one thread; of the latent one, for autoencoder, codes and denoiser.
        count: Photographs to train with, taken from ``sources`` at equal intervals.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.safetensors" for name in ("autoencoder", "codes", "pixels")}
    if not all(file.exists() for file in files.values()):
        every, _ = load_images(sources, smallest=CROP, channels=3, progress=True)
        count = min(count, len(every))
        images = chosen(every, torch.arange(count) * len(every) // count)
        started, budget = clock(), 60 * minutes
        if not files["autoencoder"].exists():
            train_autoencoder(images, files["autoencoder"], seconds=AUTOENCODER_SHARE * budget)
        if not files["codes"].exists():
            codes = encoded(read_autoencoder(files["autoencoder"]), images)
            left = max(budget - (clock() - started), 0.1 * budget)
            train_prior(codes, files["codes"], seconds=left, crop=CROP // FACTOR, batch=32)
        if not files["pixels"].exists():
            train_prior(images, files["pixels"], seconds=budget, crop=CROP, batch=8)
    priors = {name: load_prior(files[name]) for name in ("codes", "pixels")}
    facts = {name: {key: prior.describe()[key] for key in KEPT} for name, prior in priors.items()}
    net, weights = read_autoencoder(files["autoencoder"]), load_file(files["autoencoder"])
    facts["autoencoder"] = {"steps": int(weights["steps"]), "parameters": sum(w.numel() for w in net.parameters())}
    return net, priors["codes"], priors["pixels"], facts


def chosen(images: Images, index: Tensor) -> Images:
    offsets, heights, widths = images.offsets[index], images.heights[index], images.widths[index]
    return replace(images, offsets=offsets, heights=heights, widths=widths)


def train_autoencoder(images: Images, out: Path, *, seconds: float) -> None:
    """Minimize the squared error of the decoded codes for some seconds; the learning rate follows the time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Autoencoder()
    net.to(memory_format=torch.channels_last)
    optimiser, generator = MuonAdamW(net, rate=3e-3), torch.Generator().manual_seed(0)
    started, step = clock(), 0
    with tqdm(desc="autoencoder", unit=" steps") as bar:
        while (passed := (clock() - started) / seconds) < 1:
            x = images.crops(8, CROP, generator)
            z = net.encode(x)
            noise = torch.randn(z.shape, generator=generator)
            loss = (net.decode(z + NOISE * SCALE * noise) - x).square().mean()
            net.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step(3e-3 * min(1.0, (step + 1) / WARM_UP, (1 - passed) / 0.7))
            step += 1
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(psnr=f"{10 * math.log10(4 / float(loss)):.2f}")
    net.normal.reset_running_stats()
    with torch.no_grad():  # The statistics of the last weights, over the batches of one more pass.
        for _ in range(50):
            net.encode(images.crops(8, CROP, generator))
    facts = {"steps": torch.tensor(step), "seconds": torch.tensor(clock() - started)}
    weights = {name: weight.contiguous() for name, weight in net.state_dict().items()}
    write_safetensors(weights | facts, out, {})


def read_autoencoder(path: Path) -> Autoencoder:
    net = Autoencoder()
    weights = {name: weight for name, weight in load_file(path).items() if name not in ("steps", "seconds")}
    net.load_state_dict(weights)
    frozen = frozen_view(net)
    assert isinstance(frozen, Autoencoder)
    return frozen


@torch.no_grad()
def encoded(net: Autoencoder, images: Images) -> Images:
    """Return the codes of whole images as images of twelve channels, without rows and columns beyond multiples of four."""
    codes = []
    for n in tqdm(range(len(images)), desc="encode", unit=" images"):
        one, height, width = chosen(images, torch.tensor([n])), int(images.heights[n]), int(images.widths[n])
        pixels = one.pixels[one.offsets[0] :][: height * width * 3].reshape(1, height, width, 3).permute(0, 3, 1, 2)
        pixels = pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
        z = net.encode(pixels[..., : height // FACTOR * FACTOR, : width // FACTOR * FACTOR])
        codes.append(np.ascontiguousarray(z[0].permute(1, 2, 0).numpy()))
    return Images.of(codes)


def train_prior(images: Images, out: Path, *, seconds: float, crop: int, batch: int) -> None:
    """Train a prior for some seconds, as ``invdiff train`` does; the speed of the first steps tells how many there are."""
    started, stamps = clock(), list[float]()
    first = Settings(2 * TRIAL, crop=crop, batch=batch, **NETWORK)
    options: dict[str, Any] = {"save_seconds": math.inf, "samples": False, "progress": True}
    train(images, out, first, report_every=TRIAL, on_report=lambda report: stamps.append(clock()), **options)
    left = seconds - (clock() - started)
    steps = 2 * TRIAL + max(1, int(TRIAL * left / (stamps[1] - stamps[0])))
    train(images, out, replace(first, steps=steps), report_every=steps, **options)  # Continues from the checkpoint.
    out.with_suffix(".ckpt").unlink()


def latent_prior(codes: ScoreModel, net: Autoencoder, size: int) -> LatentPrior:
    """Return the prior of images of side ``size``, a multiple of four, with a decoder of its own to be counted."""
    shape = CODES, size // FACTOR, size // FACTOR
    net = copy.copy(net)
    return LatentPrior(codes, lambda z: net.decode(z), encode=lambda x: net.encode(x), latent_shape=shape)
