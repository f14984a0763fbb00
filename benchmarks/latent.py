"""A latent prior trained in minutes, restoring photographs:

    python benchmarks/latent.py FOLDER_OR_TAR... --photographs FOLDER

A small autoencoder of photographs is trained, then a denoiser of its codes, and beside them a denoiser of pixels: the same
network in the same time. Crops of other photographs are damaged, with noise of 0.02 on the 0..1 scale, and restored under the
latent prior by the methods for nonlinear operators, under the prior of pixels, and under the bundled ``natural``, which was
trained for many hours. The table has the PSNR of one sample and of the mean of all, the spread of the samples over the error of
their mean (that of exact samples stands beside it), the misfit of the samples to the data (1 is that of the noise), and per
sample the evaluations and gradients of the network, the images decoded and the seconds of the processor. The PSNR of the
photographs after encoding and decoding is what the codes allow: only codes fitted to the measurement, and means of samples, can
be better.

A second table has the time and peak memory of a step beside the work of its parts. Weights and samples are kept in
``--folder``, finished cases in the JSON file; neither is computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latent_cost import cost
from latent_training import Autoencoder, latent_prior, trained
from speed_networks import clock
from tabulate import tabulate
from torch import Tensor

import invdiff
from invdiff import PosteriorSampler
from invdiff.io.figures import rgb_pixels
from invdiff.io.images import atomic_write, list_images, read_image
from invdiff.methods import METHODS
from invdiff.operators import Blur, Downsample, LinearOperator, Mask, box_mask, gaussian_kernel, random_mask
from invdiff.priors import LatentPrior, ScoreModel, load_prior

HERE = Path(__file__).parent
NOISE = 0.02  # on the 0..1 scale
# Settings of the methods under the latent prior; those that `METHODS` does not have are left out.
LATENT: dict[str, dict[str, Any]] = {
    "default": {},
    "dps": {"method": "dps", "steps": 100, "zeta": 1.0},  # 3 overshoots where pixels are missing.
    "dps-gaussian": {"method": "dps-gaussian", "steps": 50},
    "daps": {"method": "daps", "steps": 20, "langevin_steps": 20},
    "diffpir": {"method": "diffpir", "steps": 20, "iterations": 3},
    "flow-dps": {"method": "flow-dps", "preset": "paper"},
    "red-diff": {"method": "red-diff", "steps": 50},
    "psld": {"method": "psld", "steps": 100},
    "resample": {"method": "resample"},
    "latino": {"method": "latino"},
}
ROWS = {f"latent, {row}": settings for row, settings in LATENT.items() if settings.get("method", "mmps") in METHODS}
ROWS |= {"pixels, default": {}, "natural, default": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="folders and tar archives of photographs to train with")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs to restore")
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="of one core, to train each of both priors (default: %(default)s)"
    )
    parser.add_argument("--train-count", type=int, default=400, help="photographs to train with (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--count", type=int, default=3, help="photographs to restore (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="per photograph (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=[*ROWS], metavar="ROW", help="; ".join(ROWS))
    parser.add_argument(
        "--folder", type=Path, default=Path("latent"), help="of weights, samples and picture (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "latent.json", help="(default: %(default)s)")
    options = parser.parse_args()
    net, codes, pixels, facts = trained(options.sources, options.folder, minutes=options.minutes, count=options.train_count)
    paths = [path for path in list_images(options.photographs) if fits(path, options.size)][: options.count]
    priors = {"latent": latent_prior(codes, net, options.size), "pixels": pixels, "natural": load_prior("natural")}
    done: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    done |= {
        "training": {"minutes": options.minutes, **facts},
        "decoded": {path.stem: of_codes(net, crop(path, options.size)) for path in paths},
    }
    cases: dict[str, dict[str, float]] = done.setdefault("cases", {})
    warnings.simplefilter("ignore")
    for path in paths:
        for row in options.rows:
            for name, op in operators(options.size).items():
                key = f"{row}: {name}, {path.stem}, {options.size} px, {options.samples} samples"
                if key not in cases:
                    score, x = priors[row.partition(",")[0]], crop(path, options.size)
                    cases[key], samples = measure(score, op, x, ROWS[row], options.samples)
                    np.save(options.folder / f"{key.replace(': ', ', ')}.npy", samples[:, 0].half().numpy())
                    print(key, cases[key], flush=True)
                    keep(done, options.out)
    if "cost" not in done:
        done["cost"] = cost(codes, net)
        keep(done, options.out)
    picture(options.folder / "latent.png", paths[0], options)
    print(table(done, options))


def keep(done: dict[str, Any], out: Path) -> None:
    with atomic_write(out) as part:
        part.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def operators(size: int) -> dict[str, LinearOperator]:
    shape, sigma_y = (3, size, size), 2 * NOISE
    hole, edge = 3 * size // 8, 5 * size // 16
    box = box_mask(size, size, top=edge, left=edge, box_height=hole, box_width=hole)
    return {
        "70 % missing": Mask(random_mask(size, size, missing=0.7, seed=0), shape, sigma_y=sigma_y),
        "box": Mask(box, shape, sigma_y=sigma_y),
        "x4": Downsample(shape, 4, sigma_y=sigma_y),
        "blur 2 px": Blur(shape, gaussian_kernel(2.0), sigma_y=sigma_y),
    }


def fits(path: Path, size: int) -> bool:
    shape = read_image(path).pixels.shape
    return shape[0] == 3 and min(shape[1:]) >= size


def crop(path: Path, size: int) -> Tensor:
    """Return the middle of a photograph, ``(1, 3, size, size)``, spanning [-1, 1]."""
    pixels = torch.from_numpy(read_image(path).pixels).float()
    top, left = ((side - size) // 2 for side in pixels.shape[-2:])
    return pixels[None, :, top : top + size, left : left + size]


@torch.no_grad()
def of_codes(net: Autoencoder, x: Tensor) -> float:
    return psnr(net.decode(net.encode(x)), x)


def measure(
    score: ScoreModel, op: LinearOperator, x: Tensor, settings: dict[str, Any], count: int
) -> tuple[dict[str, float], Tensor]:
    """Return the figures of a case and its samples, ``(count, 1, 3, H, W)``."""
    decoded = 0

    def decode(z: Tensor) -> Tensor:
        nonlocal decoded
        decoded += len(z)
        image: Tensor = latent.decode(z)
        return image

    if isinstance(score, LatentPrior):
        latent = score
        score = LatentPrior(latent.score_model, decode, encode=latent.encode, latent_shape=latent.event_shape)
    y, sampler = op.measure(x, seed=0), PosteriorSampler(score, op, **settings)
    decoded, started = 0, clock()
    post = sampler.run(y, num_samples=count, seed=0)
    seconds = clock() - started
    mean, error = post.samples.mean(0), (post.samples.mean(0) - x).square().mean().sqrt()
    figures = {
        "one": psnr(post.samples[0], x),
        "mean": psnr(mean, x),
        "spread": float(post.samples.var(0).mean().sqrt() / error),
        "misfit": float((post.residual.mean() / torch.as_tensor(op.dof)).sqrt()),
        "nfe": post.nfe,
        "nvjp": post.nvjp,
        "decoder": decoded / count,
        "seconds": seconds / count,
    }
    return figures, post.samples


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4 / float((a - b).square().mean()))


def table(done: dict[str, Any], options: argparse.Namespace) -> str:
    names, cases, lines = operators(options.size), done["cases"], []
    for row in options.rows:
        found = {name: [case for key, case in cases.items() if key.startswith(f"{row}: {name},")] for name in names}

        def average(name: str, entry: str, found: dict[str, list[dict[str, float]]] = found) -> float:
            return sum(case[entry] for case in found[name]) / len(found[name])

        cells = []
        for name in names:
            one, mean, spread, misfit = (average(name, entry) for entry in ("one", "mean", "spread", "misfit"))
            cells.append(f"{one:.1f} / {mean:.1f}, {spread:.2f}, {misfit:.2f}")
        work = f"{average('x4', 'nfe'):.0f} + {average('x4', 'nvjp'):.0f}", f"{average('x4', 'decoder'):.0f}"
        lines.append([row, *cells, *work, f"{average('x4', 'seconds'):.2f}"])
    decoded = ", ".join(f"{name} {value:.1f}" for name, value in done["decoded"].items())
    exact = math.sqrt(options.samples / (options.samples + 1))
    heading = f"encoded and decoded: {decoded}; spread of exact samples {exact:.2f}; invdiff {invdiff.__version__}"
    samples = tabulate(lines, ["prior, method", *names, "network", "decoder", "seconds"], tablefmt="github")
    steps = [[name, *row.values()] for name, row in done["cost"].items()]
    columns = ["method, under the latent prior", *next(iter(done["cost"].values()))]
    return f"{done['training']}\n{heading}\n{samples}\n\n{tabulate(steps, columns, tablefmt='github', floatfmt='.3g')}"


def picture(path: Path, photograph: Path, options: argparse.Namespace) -> None:
    """Write one sample of every row and problem of a photograph, below the truth and the measurement."""
    from matplotlib.figure import Figure

    x, problems = crop(photograph, options.size), operators(options.size)
    shown: dict[str, list[Tensor]] = {"truth": [x[0]] * len(problems), "measured": []}
    for op in problems.values():
        y = op.measure(x, seed=0)
        shown["measured"].append((y if y.shape == x.shape else op.pinv(y))[0])
    for row in options.rows:
        files = [
            options.folder / f"{row}, {name}, {photograph.stem}, {options.size} px, {options.samples} samples.npy"
            for name in problems
        ]
        shown[row] = [torch.from_numpy(np.load(file)[0]).float() for file in files]
    figure = Figure(figsize=(1.4 * len(shown), 1.4 * len(problems)), dpi=100)
    axes = figure.subplots(len(problems), len(shown), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    for column, (title, images) in enumerate(shown.items()):
        for row_number, (problem, image) in enumerate(zip(problems, images, strict=True)):
            place = axes[row_number][column]
            place.imshow(rgb_pixels(title, image.numpy()), interpolation="nearest")
            place.set(xticks=[], yticks=[])
            if not row_number:
                place.set_title(title.replace(", ", ",\n"), fontsize=9)
            if not column:
                place.set_ylabel(problem, fontsize=9)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", bbox_inches="tight")


if __name__ == "__main__":
    main()
