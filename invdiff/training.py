r"""Train a prior of photographs: ``python -m invdiff.training FOLDER_OR_TAR ... --out prior.safetensors``.

The network learns the denoiser :math:`D(x + \sigma \varepsilon, \sigma) \approx E[x \mid x + \sigma \varepsilon]` with the
preconditioning, loss weight and log-normal noise levels of Karras et al., 2022 (https://arxiv.org/abs/2206.00364,
table 1). Step ``n`` draws its crops and its noise from a generator seeded by ``(seed, n)``: a run that was killed and
resumed sees what an uninterrupted one sees.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from invdiff.priors.files import save_prior
from invdiff.priors.network import edm_denoise
from invdiff.priors.unet import UNet

__all__ = ["load_photographs", "main", "train"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
VALIDATION_SIGMAS = (5, 15, 25, 50, 100)  # on the 0..255 scale


def load_photographs(sources: Sequence[Path], *, smallest: int) -> list[Tensor]:
    """Decode every image of folders and tars once, as uint8 ``(3, H, W)``.

    Files that cannot be read, and images with a side below ``smallest``, are named on stderr and skipped.

    Raises:
        ValueError: If a source is neither a folder nor a tar, or no image is left.
    """
    photographs: list[Tensor] = []
    for name, data in tqdm(_files(sources), desc="decode", unit=" images", disable=None):
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        # Pillow raises each of these for broken files, depending on the format.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"skipped {name}: {error}", file=sys.stderr)
            continue
        if min(pixels.shape[1:]) < smallest:
            print(f"skipped {name}: {tuple(pixels.shape[1:])} is smaller than the crop, {smallest}", file=sys.stderr)
            continue
        photographs.append(pixels)
    if not photographs:
        raise ValueError(f"No image of at least {smallest} x {smallest} pixels in {', '.join(map(str, sources))}.")
    return photographs


def _files(sources: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if source.is_dir():
            tars = sorted(source.glob("*.tar"))
            for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
                yield str(path), path.read_bytes()
        elif source.suffix == ".tar" and source.is_file():
            tars = [source]
        else:
            raise ValueError(f"{source}: expected a folder of images or a .tar of images.")
        for tar in tars:
            try:
                yield from _members(tar)
            except (tarfile.TarError, EOFError) as error:
                print(f"skipped the rest of {tar}: {error}", file=sys.stderr)


def _members(tar: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(tar) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and Path(member.name).suffix.lower() in SUFFIXES:
                yield f"{tar}:{member.name}", file.read()


def random_crops(photographs: Sequence[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` crops in [-1, 1], each from its own random photograph, half of them mirrored."""
    crops = []
    for _ in range(count):
        photograph = photographs[int(torch.randint(len(photographs), (), generator=generator))]
        top = int(torch.randint(photograph.shape[1] - size + 1, (), generator=generator))
        left = int(torch.randint(photograph.shape[2] - size + 1, (), generator=generator))
        crop = photograph[:, top : top + size, left : left + size]
        crops.append(crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop)
    return torch.stack(crops).float() / 127.5 - 1


def validate(net: nn.Module, photographs: Sequence[Tensor], size: int, *, sigma_data: float) -> dict[int, float]:
    """Return the denoising PSNR in dB at each of ``VALIDATION_SIGMAS``, over the centres of ``photographs``."""
    device = next(net.parameters()).device
    centres = [p[:, (p.shape[1] - size) // 2 :, (p.shape[2] - size) // 2 :][:, :size, :size] for p in photographs]
    clean = torch.stack(centres).float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    psnr = {}
    for level in VALIDATION_SIGMAS:
        sigma = torch.full((1,), level / 127.5, device=device)
        errors = []
        with torch.no_grad():
            for x, n in zip(torch.split(clean, 1), torch.split(noise, 1), strict=True):
                denoised = edm_denoise(net, (x + level / 127.5 * n).to(device), sigma, sigma_data=sigma_data)
                errors.append((denoised.clamp(-1, 1).cpu() - x).square().mean())
        psnr[level] = 10 * math.log10(4 / float(torch.stack(errors).mean()))
    return psnr


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 500 steps, stay, and fall linearly to nothing over the last third."""
    return peak * min(1.0, (step + 1) / 500, 3 * (steps - step) / steps)


def train(
    photographs: Sequence[Tensor],
    out: Path,
    *,
    steps: int,
    batch: int = 16,
    crop: int = 64,
    peak_rate: float = 1e-3,
    sigma_data: float = 0.5,
    log_sigma_mean: float = -1.2,
    log_sigma_std: float = 1.4,
    seed: int = 0,
    device: str = "cpu",
    bf16: bool = False,
    validation: int = 16,
    report_every: int = 1000,
    save_seconds: float = 120.0,
) -> dict[str, Any]:
    """Train for ``steps`` steps, continuing from ``out``'s checkpoint if there is one, and write the averaged weights.

    Args:
        photographs: uint8 images ``(3, H, W)``; the last ``validation`` of them are held out.
        out: The ``.safetensors`` file to write. The checkpoint lies beside it, with the suffix ``.ckpt``.
        steps: Number of optimiser steps in all.
        batch: Crops per step.
        crop: Side of the crops in pixels.
        peak_rate: Learning rate between warm-up and decay.
        sigma_data: Standard deviation of the data on [-1, 1], for the preconditioning.
        log_sigma_mean: Mean of the normal law of the logarithm of the training noise level.
        log_sigma_std: Its standard deviation.
        seed: Of weights, crops and noise.
        device: Where to train.
        bf16: Compute convolutions in bfloat16 (weights and loss stay float32).
        validation: Photographs held out for the denoising PSNR, at least 1.
        report_every: Steps between two reports.
        save_seconds: Seconds between two checkpoints.

    Returns:
        The facts a model card needs: steps, images seen, hours, hardware, PSNR.

    Raises:
        ValueError: If a number makes no sense, a photograph is smaller than the crop, or the checkpoint beside ``out`` is
            not of this run.
    """
    if min(steps, batch, crop, validation) < 1:
        raise ValueError(
            f"train: steps, batch, crop and validation must be at least 1, got {steps}, {batch}, {crop}, {validation}."
        )
    smallest = min((side for photograph in photographs for side in photograph.shape[1:]), default=crop)
    if smallest < crop:
        raise ValueError(f"train: a photograph has a side of {smallest} pixels, less than crop={crop}.")
    if len(photographs) <= validation:
        raise ValueError(f"train: {len(photographs)} photographs leave none to train on after {validation} for validation.")
    training, held_out = photographs[: len(photographs) - validation], photographs[len(photographs) - validation :]
    with torch.random.fork_rng(devices=[]):  # Initial weights come from the global generator, which is given back.
        torch.manual_seed(seed)
        net = UNet()
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    average = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=peak_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint, first, seconds, seen = out.with_suffix(".ckpt"), 0, 0.0, 0
    settings = {
        "batch": batch,
        "crop": crop,
        "peak_rate": peak_rate,
        "seed": seed,
        "sigma_data": sigma_data,
        "log_sigma": [log_sigma_mean, log_sigma_std],
        "photographs": len(photographs),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["settings"] != settings:
            raise ValueError(
                f"train: {checkpoint} is of a run with {state['settings']}, expected {settings}. "
                "Repeat those settings to continue it, or move it away to start anew."
            )
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds, seen = state["step"], state["seconds"], state["seen"]
        if first > steps:
            raise ValueError(f"train: {checkpoint} is at step {first} already, expected steps of at least that, got {steps}.")

    started = saved = time.monotonic()

    def save(step: int) -> None:
        state = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        part = checkpoint.with_suffix(".part")
        clock = seconds + time.monotonic() - started
        torch.save(state | {"step": step, "seconds": clock, "seen": seen, "settings": settings}, part)
        os.replace(part, checkpoint)

    losses: list[float] = []
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="train", disable=None)
    for step in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        x = random_crops(training, batch, crop, generator).to(device)
        log_sigma = log_sigma_mean + log_sigma_std * torch.randn(batch, generator=generator)
        noise = torch.randn(x.shape, generator=generator).to(device)
        sigma = log_sigma.exp().clamp(0.002, 80).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            x0_hat = edm_denoise(net, x + sigma[:, None, None, None] * noise, sigma, sigma_data=sigma_data)
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        loss = (weight[:, None, None, None] * (x0_hat - x) ** 2).mean()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak_rate)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(0.9995, (1 + step) / (10 + step))
            pair = list(average.parameters()), list(net.parameters())
            torch._foreach_lerp_(*pair, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        seen += batch
        losses.append(loss.item())
        if (step + 1) % report_every == 0 or step + 1 == steps:
            psnr = validate(average, held_out, min(128, *(min(p.shape[1:]) for p in held_out)), sigma_data=sigma_data)
            figures = " ".join(f"{level}:{value:.2f}" for level, value in psnr.items())
            tqdm.write(f"step {step + 1} loss {sum(losses) / len(losses):.4f} PSNR {figures}")
            losses.clear()
        if time.monotonic() - saved > save_seconds or step + 1 == steps:
            save(step + 1)
            saved = time.monotonic()

    hardware = torch.cuda.get_device_name() if device.startswith("cuda") else f"{os.cpu_count()} cores, {platform.machine()}"
    facts = {
        "steps": steps,
        "images_seen": seen,
        "hours": round((seconds + time.monotonic() - started) / 3600, 2),
        "hardware": hardware,
        "photographs": len(training),
        "parameters": sum(p.numel() for p in net.parameters()),
        "psnr": validate(average, held_out, min(128, *(min(p.shape[1:]) for p in held_out)), sigma_data=sigma_data),
    }
    save_prior(average, out, sigma_data=sigma_data, facts=facts)
    return facts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m invdiff.training", description="Train a prior of photographs.")
    parser.add_argument("sources", type=Path, nargs="+", help="folders of images, folders of tars, or tars")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write; resumes from its .ckpt")
    parser.add_argument("--steps", type=int, default=20000, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="crops per step (default: %(default)s)")
    parser.add_argument("--crop", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 convolutions, on hardware that has them")
    options = parser.parse_args(arguments)
    try:
        facts = train(
            load_photographs(options.sources, smallest=options.crop),
            options.out,
            steps=options.steps,
            batch=options.batch,
            crop=options.crop,
            peak_rate=options.rate,
            seed=options.seed,
            device=options.device,
            bf16=options.bf16,
        )
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
