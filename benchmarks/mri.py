"""Reconstruct a simulated complex phantom from k-space of several coils: real or complex images, and three kinds of coil maps.

    python benchmarks/mri.py [--side 96] [--coils 6] [--acceleration 4] [--samples 4] [--noise 0.01]

The magnitude is the Shepp-Logan phantom with a smooth texture, the phase is smooth and spans 4 radians, the sensitivities are
those of a birdcage, and one in four columns of k-space is measured, with noise. ``invdiff.restore`` gets what a file would
hold: k-space, and with ``given`` the maps that made it, without the phase of the image. The table has the PSNR of the mean
magnitude (white is 1) over all pixels and over those of the object, the share of the object's pixels whose magnitude is in
the 90 % interval of Student's t about the mean of the samples, the misfit over its expected value, and the time.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

import invdiff
from invdiff.operators import birdcage_maps, cartesian_mask

AXES, OBJECT = (-2, -1), 0.05
CASES: dict[str, dict[str, Any]] = {
    "real, maps from the center": {"image": "real", "maps_from": "center"},
    "complex, maps from the center": {"image": "complex", "maps_from": "center"},
    "complex, maps by ESPIRiT": {"image": "complex", "maps_from": "espirit"},
    "complex, given maps": {"image": "complex"},
}


def phantom(side: int) -> NDArray[np.complex128]:
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    magnitude = resize(shepp_logan_phantom(), (side, side), anti_aliasing=True) * (
        1 + 0.15 * np.sin(9 * x + 3) * np.sin(11 * y)
    )
    phase = 1.5 * (0.8 * y + 0.9 * x**2 - 1.2 * x * y + 0.5 * np.sin(3 * x + 1) * np.cos(2.5 * y))
    return np.asarray(0.8 * magnitude.clip(0, 1.2) * np.exp(1j * phase))


def psnr(image: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def covered(samples: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a 90 % interval made of ``(N, H, W)`` samples holds the truth."""
    count = len(samples)
    half = scipy.stats.t.ppf(0.95, count - 1) * np.sqrt(1 + 1 / count) * samples.std(0, ddof=1)
    return np.asarray(np.abs(samples.mean(0) - truth) <= half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="height and width in pixels")
    parser.add_argument("--coils", type=int, default=6)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--center-fractions", type=float, nargs="+", default=[0.08, 0.16], help="measured in the center")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of both parts, white being 1")
    options = parser.parse_args()
    size = (options.side, options.side)
    image, maps, generator = phantom(options.side), birdcage_maps(options.coils, *size).numpy(), np.random.default_rng(0)
    full = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * image, axes=AXES), norm="ortho"), axes=AXES)
    full = full + options.noise * (generator.normal(size=full.shape) + 1j * generator.normal(size=full.shape))
    truth, inside = np.abs(image), np.abs(image) > OBJECT
    print("| center | image and coil maps | dB | dB of the object | coverage of 90 % | misfit | seconds |")
    print("|---|---|---|---|---|---|---|")
    for fraction in options.center_fractions:
        mask = cartesian_mask(*size, acceleration=options.acceleration, center_fraction=fraction, seed=0).numpy()
        pictures = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(full * mask, axes=AXES), norm="ortho"), axes=AXES)
        filled = np.sqrt((np.abs(pictures) ** 2).sum(0))
        print(f"| {fraction:.0%} | zero-filled | {psnr(filled, truth):.1f} | {psnr(filled[inside], truth[inside]):.1f} | | | |")
        for name, settings in CASES.items():
            told = {"zero_frequency": np.array("center"), "origin": np.array("center")}
            arrays = {"kspace": full * mask, "mask": mask, **told} | ({"coil_maps": maps} if "given" in name else {})
            started = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = invdiff.restore(
                    arrays, problem="mri", noise=options.noise, scale=1.0, samples=options.samples, **settings
                )
            samples, seconds = found.pictures[:, 0].double().numpy(), time.monotonic() - started
            mean, misfit = samples.mean(0), np.mean(found.record["residual"]) / found.record["residual_expected"]
            print(
                f"| {fraction:.0%} | {name} | {psnr(mean, truth):.1f} | {psnr(mean[inside], truth[inside]):.1f} "
                f"| {covered(samples, truth)[inside].mean():.1%} | {misfit:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
