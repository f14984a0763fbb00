"""Methods for flows against the defaults, on one prior: ``python benchmarks/flows.py FOLDER``.

The bundled prior is a flow as well as any other denoiser: its velocity is (x_t - E[x_0 given x_t]) / t along the straight path
between data and noise. Crops of the photographs of FOLDER are damaged, with noise of 0.02 on the 0..1 scale, and restored by
every method with its own settings and those of its paper. The table has the PSNR of one sample and of the mean of all, the
spread of the samples over the error of their mean (that of exact samples stands beside it), the misfit of the samples to the
data (1 is that of the noise), and the evaluations and gradients of the network per sample. Finished cases are kept in the JSON
file and not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

import invdiff
from invdiff import PosteriorSampler
from invdiff.io.images import atomic_write, list_images, read_image
from invdiff.operators import Blur, Downsample, LinearOperator, Mask, gaussian_kernel, random_mask
from invdiff.posterior.recommended import recommended
from invdiff.priors import ScoreModel, load_prior
from invdiff.schedules import RectifiedFlow

HERE = Path(__file__).parent
NOISE = 0.02  # on the 0..1 scale
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "mmps": {"method": "mmps", "steps": 16, "ratio_max": 10.0},
    "ot-ode": {"method": "ot-ode", "preset": "paper"},
    "flow-dps": {"method": "flow-dps", "preset": "paper"},
    "flower": {"method": "flower", "preset": "paper"},
    "flower, draws": {"method": "flower", "preset": "paper", "draws": True},
    "pnp-flow": {"method": "pnp-flow", "preset": "paper"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--size", type=int, default=96, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--count", type=int, default=3, help="photographs (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="per photograph (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=[*ROWS], choices=[*ROWS], metavar="METHOD", help=", ".join(ROWS))
    parser.add_argument("--out", type=Path, default=HERE / "flows.json", help="(default: %(default)s)")
    options = parser.parse_args()
    done: dict[str, dict[str, float]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    paths = [path for path in list_images(options.folder) if read_image(path).pixels.shape[0] == 3][: options.count]
    score = as_flow(load_prior("natural"))
    warnings.simplefilter("ignore")
    for row in options.methods:
        for name, op in operators(options.size).items():
            for path in paths:
                key = f"{row}: {name}, {path.stem}, {options.size} px, {options.samples} samples"
                if key not in done:
                    done[key] = measure(score, op, crop(path, options.size), ROWS[row], options.samples)
                    print(key, done[key], flush=True)
                    with atomic_write(options.out) as part:
                        part.write_text(json.dumps(done, indent=1))
    print(table(done, options))


def as_flow(score: ScoreModel) -> ScoreModel:
    """Return a prior along the straight path."""
    flow = copy.copy(score)
    flow.schedule = RectifiedFlow()
    return flow


def operators(size: int) -> dict[str, LinearOperator]:
    shape, sigma_y = (3, size, size), 2 * NOISE
    return {
        "70 % missing": Mask(random_mask(size, size, missing=0.7, seed=0), shape, sigma_y=sigma_y),
        "blur 2 px": Blur(shape, gaussian_kernel(2.0), sigma_y=sigma_y),
        "x4": Downsample(shape, 4, sigma_y=sigma_y),
    }


def crop(path: Path, size: int) -> Tensor:
    """Return the middle of a photograph, ``(1, 3, size, size)``, spanning [-1, 1]."""
    pixels = torch.from_numpy(read_image(path).pixels).float()
    top, left = ((side - size) // 2 for side in pixels.shape[-2:])
    return pixels[None, :, top : top + size, left : left + size]


def measure(score: ScoreModel, op: LinearOperator, x: Tensor, settings: dict[str, Any], samples: int) -> dict[str, float]:
    y = op.measure(x, seed=0)
    sampler = PosteriorSampler(score, op, **(settings or recommended(score, op)))
    started = time.perf_counter()
    post = sampler.run(y, num_samples=samples, seed=0)
    seconds = time.perf_counter() - started
    mean, error = post.samples.mean(0), (post.samples.mean(0) - x).square().mean().sqrt()
    return {
        "one": psnr(post.samples[0], x),
        "mean": psnr(mean, x),
        "spread": float(post.samples.var(0).mean().sqrt() / error),
        "misfit": float((post.residual.mean() / torch.as_tensor(op.dof)).sqrt()),
        "nfe": post.nfe,
        "nvjp": post.nvjp,
        "seconds": seconds / samples,
    }


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4 / float((a - b).square().mean()))


def table(done: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    names, lines = operators(options.size), []
    for row in options.methods:
        found = {name: [case for key, case in done.items() if key.startswith(f"{row}: {name},")] for name in names}

        def average(name: str, entry: str, found: dict[str, list[dict[str, float]]] = found) -> float:
            return sum(case[entry] for case in found[name]) / len(found[name])

        cells = []
        for name in names:
            one, mean, spread, misfit = (average(name, entry) for entry in ("one", "mean", "spread", "misfit"))
            cells.append(f"{one:.1f} / {mean:.1f}, {spread:.2f}, {misfit:.2f}")
        cost, seconds = (f"{average('x4', 'nfe'):.0f} + {average('x4', 'nvjp'):.0f}", f"{average('x4', 'seconds'):.1f}")
        lines.append([row, *cells, cost, seconds])
    exact = math.sqrt(options.samples / (options.samples + 1))
    title = f"spread of exact samples {exact:.2f}; invdiff {invdiff.__version__}"
    return f"{title}\n{tabulate(lines, ['method', *names, 'network', 'seconds'], tablefmt='github')}"


if __name__ == "__main__":
    main()
