"""Blind deblurring by classical methods: ``python benchmarks/blind_classical.py FOLDER --levin KERNELS.npz --json FILE``.

The cases and figures are those of ``blind.py``. The kernel is found by ``blind_sparse_gradients.py`` (Pan et al., 2014), the
picture by deconvolution with a hyper-Laplacian prior (Krishnan & Fergus, 2009) or by scikit-image's unsupervised Wiener filter;
the latter also under a guessed Gaussian of 2 px, as someone without a kernel would try. Error ratios are against the same
deconvolution under the true kernel. ``blind.py --methods classical`` samples the posterior under the same kernels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from blind import FREE_SIZE, SUCCESS, judged, kernel_error, kernels, psnr, scene
from blind_sparse_gradients import Array, estimate_kernel, extended, hyper_laplacian
from skimage.restoration import unsupervised_wiener
from tabulate import tabulate
from torch import Tensor

from invdiff.io.images import atomic_write, list_images
from invdiff.operators.blur.kernels import gaussian_kernel

__all__ = ["classical"]

GUESS = gaussian_kernel(2.0)


def classical(y: Tensor, size: int) -> Array:
    """Return the kernel ``(size, size)`` of a blurred picture ``(1, C, H, W)`` in [-1, 1], from its mean over channels."""
    gray = y[0].double().mean(0, keepdim=True).numpy(force=True) / 2 + 0.5
    return estimate_kernel(extended(gray, size // 2)[0], size)


def by_hyper_laplacian(y: Tensor, kernel: Tensor) -> Tensor:
    return _deconvolved(hyper_laplacian, y, kernel)


def by_wiener(y: Tensor, kernel: Tensor) -> Tensor:
    def wiener(pixels: Array, kernel: Array) -> Array:
        seed, filtered = np.random.default_rng(0), cast(Any, unsupervised_wiener)
        return np.stack([filtered(part, kernel, clip=False, rng=seed)[0] for part in pixels])

    return _deconvolved(wiener, y, kernel)


def _deconvolved(method: Callable[[Array, Array], Array], y: Tensor, kernel: Tensor) -> Tensor:
    """Apply a method for periodic pictures on the 0..1 scale to ``(1, C, H, W)`` in [-1, 1] with a frame."""
    margin = max(kernel.shape)
    framed = method(extended(y[0].double().numpy() / 2 + 0.5, margin), kernel.double().numpy())
    found = framed[:, margin:-margin, margin:-margin] * 2 - 1
    return torch.from_numpy(found)[None].float()


METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"hyper-Laplacian": by_hyper_laplacian, "Wiener": by_wiener}


def run_case(path: Path, label: str, kernel: Tensor, size: int) -> dict[str, Any]:
    """Return the figures of one photograph under one kernel."""
    boundary = "circular" if size <= 128 else "valid"
    x, y = scene(path, kernel, size, boundary)
    started = time.process_time()
    found = torch.from_numpy(classical(y, FREE_SIZE))
    row: dict[str, Any] = {"photograph": path.stem.split("_")[0], "kernel": label, "size": size}
    row |= {"seconds": time.process_time() - started, "error": kernel_error(found, kernel), "blurred": psnr(judged(y, x))}
    for name, method in METHODS.items():
        known, blind = (judged(method(y, k), x) for k in (kernel, found))
        row[name] = {"known": psnr(known), "psnr": psnr(blind), "ratio": blind / known}
    row["guessed"] = psnr(judged(by_wiener(y, GUESS), x))
    return row


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of the finished cases in Markdown."""
    heads = ["", "blurred", "kernel known", "hyper-Laplacian, ratio", "Wiener, ratio", "Wiener, Gaussian 2", "kernel error"]
    text = []
    for size in sorted({row["size"] for row in rows}):
        chosen = [row for row in rows if row["size"] == size]
        lines = [
            [
                f"{row['photograph']}, {row['kernel']}",
                f"{row['blurred']:.1f}",
                f"{row['hyper-Laplacian']['known']:.1f}",
                *(f"{row[name]['psnr']:.1f}, {row[name]['ratio']:.1f}" for name in METHODS),
                f"{row['guessed']:.1f}",
                f"{row['error']:.2f}",
            ]
            for row in chosen
        ]
        text.append(f"{size} pixels:\n\n" + tabulate(lines, heads, tablefmt="github", disable_numparse=True))
        for name in METHODS:
            for group, shaken in (("families", False), ("camera shake", True)):
                ratios = [row[name]["ratio"] for row in chosen if ("levin" in row["kernel"]) == shaken]
                if ratios:
                    good = sum(ratio <= SUCCESS for ratio in ratios)
                    text.append(
                        f"{name}, {group}: {good} of {len(ratios)} at {SUCCESS:g}, median ratio {np.median(ratios):.2f}"
                    )
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--levin", type=Path, required=True, help="kernels of Levin et al., 2009: .npz with levin1 to levin8")
    parser.add_argument("--json", type=Path, required=True, help="file of the finished cases")
    parser.add_argument("--photographs", nargs="+", default=["kingfisher", "lighthouse", "parrots", "traffic"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    done = {(row["photograph"], row["kernel"], row["size"]) for row in rows}
    for size in options.sizes:
        for path in list_images(options.folder):
            name = path.stem.split("_")[0]
            for label, kernel in kernels(options.levin).items() if name in options.photographs else ():
                if (name, label, size) not in done:
                    rows.append(run_case(path, label, kernel, size))
                    with atomic_write(options.json) as part:
                        part.write_text(json.dumps(rows, indent=1))
    print(tables(rows))


if __name__ == "__main__":
    main()
