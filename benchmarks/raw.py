"""RAW photographs: `invdiff solve photo.dng --problem demosaic` beside LibRaw, and beside LibRaw after denoising.

    python benchmarks/raw.py DATA [--size 128] [--samples 4] [--out FOLDER]

Photographs of DATA are taken as linear light of sRGB, turned into the RGB of a camera by its matrix (that of a Canon EOS 5D
Mark II), divided by a white balance, exposed at 0.95 of white, measured through an RGGB filter with the noise of a sensor at
three sensitivities, quantized to 14 bits and written as DNG files with their noise profile. All methods read the same file.
LibRaw develops it (AHD and DCB, white balance and matrix of the file, no automatic brightness), also from a mosaic whose four
planes were denoised after a variance-stabilizing transform by the wavelets of scikit-image (BayesShrink, cycle spinning) or by
non-local means. PSNR is that of linear sRGB and of sRGB clipped to 0..1, 4 pixels of the border left out. The coverage of
`invdiff` is the share of values of the truth between the smallest and the largest of N samples, expected (N - 1) / (N + 1).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import rawpy
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage.restoration import cycle_spin, denoise_nl_means, denoise_wavelet

import invdiff
from invdiff.formats.color_spaces import COLOR_SPACES, SRGB, rgb_to_xyz

Array = NDArray[np.float64]

# From XYZ to the camera: ColorMatrix of the Canon EOS 5D Mark II under D65, as in LibRaw and dcraw.
TO_CAMERA = np.array([[0.4716, 0.0603, -0.0830], [-0.7798, 1.5474, 0.2480], [-0.1496, 0.1937, 0.6651]])
GAINS = np.array([2.0, 1.0, 1.6])
BLACK, WHITE, EXPOSURE, BORDER = 512, 16383, 0.95, 4
SENSITIVITIES = {400: (1.3e-4, 1.6e-7), 1600: (5.3e-4, 1.7e-6), 6400: (2.1e-3, 2.8e-5)}  # S and O: variance S v + O
CROPS = {
    "kingfisher_768x512.png": (150, 250),
    "parrots_256.png": (60, 60),
    "market_451x300.png": (100, 150),
    "lighthouse_512x768.png": (330, 180),
}
PRIMARIES = COLOR_SPACES["srgb"].primaries or ()


def camera_of_srgb() -> Array:
    """Return the matrix from linear sRGB to white-balanced RGB of the camera."""
    matrix: Array = TO_CAMERA @ rgb_to_xyz(PRIMARIES)
    return matrix / matrix.sum(1, keepdims=True)


def mosaic_of(light: Array, slope: float, offset: float, seed: int) -> Array:
    """Return the mosaic ``(H, W)``, 0..1 from black to white, of linear sRGB ``(H, W, 3)``."""
    sensor = EXPOSURE * light @ camera_of_srgb().T / GAINS
    clean = sensor[..., 1].copy()
    clean[::2, ::2], clean[1::2, 1::2] = sensor[::2, ::2, 0], sensor[1::2, 1::2, 2]
    generator = np.random.default_rng(seed)
    noisy = slope * generator.poisson(np.maximum(clean, 0) / slope)
    noisy = noisy + np.sqrt(offset) * generator.standard_normal(clean.shape)
    return np.minimum(np.rint(BLACK + noisy * (WHITE - BLACK)), WHITE).clip(0) - BLACK


def write_dng(path: Path, mosaic: Array, noise: tuple[float, float]) -> None:
    """Write a mosaic above black, in units of the sensor, as a DNG file (RGGB)."""
    matrix = [part for entry in TO_CAMERA.ravel() for part in (round(entry * 10000), 10000)]
    neutral = [part for gain in GAINS for part in (10000, round(gain * 10000))]
    tags = [
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),  # version of DNG
        (50708, 2, 0, "Simulated", True),
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (50714, 3, 1, BLACK, True),
        (50717, 3, 1, WHITE, True),
        (50721, 10, 9, matrix, True),
        (50778, 3, 1, 21, True),  # D65
        (50728, 5, 3, neutral, True),
        (51041, 12, 2, noise, True),
    ]
    values = (mosaic + BLACK).round().clip(0, 65535).astype(np.uint16)
    tifffile.imwrite(path, values, photometric=32803, extratags=tags, metadata=None, software=False)


def by_libraw(path: Path, algorithm: rawpy.DemosaicAlgorithm) -> Array:
    """Return linear sRGB ``(H, W, 3)`` of LibRaw at the exposure of the photograph."""
    with rawpy.imread(str(path)) as raw:
        found = raw.postprocess(
            demosaic_algorithm=algorithm,
            use_camera_wb=True,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,
            gamma=(1, 1),
            output_bps=16,
            output_color=rawpy.ColorSpace.sRGB,
        )
    return found / 65535 / EXPOSURE


def denoised(mosaic: Array, noise: tuple[float, float], how: str) -> Array:
    """Return a mosaic whose planes were denoised after the generalized Anscombe transform."""
    slope, offset = noise
    planes = [mosaic[top::2, left::2] / (WHITE - BLACK) for top in (0, 1) for left in (0, 1)]
    result = np.empty_like(mosaic)
    for k, plane in enumerate(planes):
        stable = 2 / slope * np.sqrt(np.maximum(slope * plane + 3 / 8 * slope**2 + offset, 0))
        low, span = stable.min(), np.ptp(stable)
        scaled = (stable - low) / span
        if how == "wavelets":
            options = {"sigma": 1 / span, "method": "BayesShrink", "mode": "soft", "rescale_sigma": False}
            smooth = cycle_spin(scaled, denoise_wavelet, 4, func_kw=options, workers=1)
        else:
            smooth = denoise_nl_means(scaled, 5, 7, h=0.8 / span, sigma=1 / span, fast_mode=True)
        back = ((low + span * smooth) * slope / 2) ** 2  # algebraic inverse, and the asymptotic bias
        result[k // 2 :: 2, k % 2 :: 2] = ((back - offset) / slope - slope / 8) * (WHITE - BLACK)
    return result


def psnr(found: Array, truth: Array) -> float:
    inner = slice(BORDER, -BORDER)
    return float(-10 * np.log10(((found - truth)[inner, inner] ** 2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path, help="Folder for pictures: truth and results side by side.")
    arguments = parser.parse_args()
    size, rows = arguments.size, dict[tuple[int, str], list[tuple[float, float, float, float]]]()
    for sensitivity, noise in SENSITIVITIES.items():
        for seed, (name, (top, left)) in enumerate(CROPS.items()):
            pixels = np.asarray(Image.open(arguments.data / name).convert("RGB"), np.float64)[
                top : top + size, left : left + size
            ]
            truth = SRGB.decode(pixels / 255)
            mosaic = mosaic_of(truth, *noise, seed)
            shown = {"truth": truth}
            with tempfile.TemporaryDirectory() as folder:
                path, other = Path(folder, "photo.dng"), Path(folder, "denoised.dng")
                write_dng(path, mosaic, noise)
                shown["LibRaw AHD"] = by_libraw(path, rawpy.DemosaicAlgorithm.AHD)
                shown["LibRaw DCB"] = by_libraw(path, rawpy.DemosaicAlgorithm.DCB)
                for how in ("wavelets", "non-local means"):
                    write_dng(other, denoised(mosaic, noise, how), noise)
                    shown[f"{how}, LibRaw AHD"] = by_libraw(other, rawpy.DemosaicAlgorithm.AHD)
                cases = {"invdiff": "file", "invdiff, noise estimated": "auto"}
                for case, which in cases.items():
                    started = time.monotonic()
                    result = invdiff.restore(
                        path, problem="demosaic", color_space="linear-srgb", samples=arguments.samples, noise=which
                    )
                    seconds = time.monotonic() - started
                    light = (result.pictures.double().numpy() / EXPOSURE).transpose(0, 2, 3, 1)
                    shown[case] = light.mean(0)
                    shown[f"{case}, a sample"] = light[0]
                    covered = float(((light.min(0) <= truth) & (truth <= light.max(0))).mean())
                    rows.setdefault((sensitivity, case), []).append((0.0, 0.0, covered, seconds))
            for method, light in shown.items():
                if method == "truth":
                    continue
                linear = psnr(light.clip(0, 1), truth)
                encoded = psnr(SRGB.encode(light.clip(0, 1)), pixels / 255)
                entries = rows.setdefault((sensitivity, method), [])
                if method in cases:
                    entries[-1] = (linear, encoded, *entries[-1][2:])
                else:
                    entries.append((linear, encoded, np.nan, np.nan))
                print(sensitivity, name, f"{method:28} {linear:6.2f} {encoded:6.2f}", flush=True)
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                strip = np.concatenate([SRGB.encode(light.clip(0, 1)) for light in shown.values()], 1)
                image = Image.fromarray(np.rint(255 * strip).astype(np.uint8))
                image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(
                    arguments.out / f"{Path(name).stem}-{sensitivity}.png"
                )
    print("| ISO | method | dB, linear | dB, sRGB | coverage | seconds |\n|---:|---|---:|---:|---:|---:|")
    for (sensitivity, method), entries in sorted(rows.items(), key=lambda item: item[0][0]):
        linear, encoded, covered, seconds = np.mean(entries, 0)
        more = ["" if np.isnan(value) else f"{value:{form}}" for value, form in ((covered, ".2f"), (seconds, ".0f"))]
        print(f"| {sensitivity} | {method} | {linear:.2f} | {encoded:.2f} | {' | '.join(more)} |")


if __name__ == "__main__":
    main()
