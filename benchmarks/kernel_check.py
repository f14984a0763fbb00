"""Rates of false alarms and detections of the check of kernels: ``python benchmarks/kernel_check.py FOLDER --kernels NPZ``.

Every photograph, cropped to its centre, is blurred by every kernel without assumptions at the border; the check is given the
right kernel, and each of the wrong ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from invdiff.io.images import list_images, read_image
from invdiff.operators import Blur
from invdiff.operators.blur.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from invdiff.restoration.kernel_check import check_kernel

FAMILIES = {
    "Gaussian 1": gaussian_kernel(1.0),
    "Gaussian 1.6": gaussian_kernel(1.6),
    "Gaussian 2": gaussian_kernel(2.0),
    "Gaussian 3": gaussian_kernel(3.0),
    "disc 2": defocus_kernel(2.0),
    "disc 3": defocus_kernel(3.0),
    "disc 5": defocus_kernel(5.0),
    "line 9": motion_kernel(9, 30.0),
    "line 15": motion_kernel(15, 60.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--kernels", type=Path, required=True, help="camera shakes, an .npz file")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.01, help="pixels spanning 0..1")
    options = parser.parse_args()
    shakes = {name: torch.from_numpy(kernel).double() for name, kernel in np.load(options.kernels).items()}
    photographs = [x for path in list_images(options.folder) if (x := centre(path, options.size)) is not None]
    true, rows, right = {**FAMILIES, **shakes}, [], []
    for name, kernel in true.items():
        measured = [blurred(x, kernel, options.size, options.noise) for x in photographs]
        alarms = {}
        for other, given in {name: kernel, **FAMILIES}.items():
            verdicts = [check_kernel(y, given, 2 * options.noise) for y in measured]
            wrong = [verdict.wrong for verdict in verdicts if verdict is not None]
            alarms[other] = sum(wrong) / len(wrong)
        right.append(alarms[name])
        rows.append([name, alarms[name], *(None if other == name else alarms[other] for other in FAMILIES)])
        print(name, f"{alarms[name]:.2f}", flush=True)
    print(f"{len(photographs)} photographs of {options.size} px, noise {options.noise}; false alarms {np.mean(right):.3f}")
    print(tabulate(rows, ["true kernel", "the same", *FAMILIES], tablefmt="github", floatfmt=".2f"))


def centre(path: Path, size: int) -> Tensor | None:
    """Return the centre of a photograph with room for the blur, ``(C, H, W)``; ``None`` if it is too small."""
    pixels = read_image(path).pixels
    _, height, width = pixels.shape
    side = min(size + 32, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return torch.from_numpy(pixels[:, top : top + side, left : left + side]).float() if side >= size else None


def blurred(x: Tensor, kernel: Tensor, size: int, noise: float) -> Tensor:
    y = Blur(tuple(x.shape), kernel, boundary="valid", sigma_y=2 * noise).measure(x[None], seed=0)[0]
    return y[:, :size, :size]


if __name__ == "__main__":
    main()
