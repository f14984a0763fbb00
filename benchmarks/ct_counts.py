"""Tomography of counts: the Poisson likelihood against least squares of the logarithms.

    python benchmarks/ct_counts.py [--side 64] [--angles 60] [--samples 6]

The Shepp-Logan phantom and photographs of scikit-image (CC0), within a disc, attenuate rays to 2 % at most; so many photons
arrive without them as the first column says. The default method of ``PosteriorSampler`` reconstructs under three models of the
counts: ``poisson`` is :class:`~invdiff.operators.TransmissionNoise`, ``gaussian`` the weighted least squares of the
logarithms, and ``nonlinear`` the composition of the exponential and the rays with ``PoissonNoise``. The misfit is Pearson's
chi-square of the counts over their number, 1 for the truth; the coverage is that of 90 % intervals, mean +- t std
sqrt(1 + 1/n), over all pixels.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats
from skimage import data, transform
from torch import Tensor

from invdiff import PosteriorSampler, load_prior
from invdiff.methods.divergence import DivergenceError
from invdiff.operators import Function, Noise, Operator, PoissonNoise, temper
from invdiff.priors import ScoreModel
from invdiff.problems import ReconstructCT

COUNTS = (10, 100, 1_000, 10_000)
DARKEST = 0.02  # transmission of the ray that is attenuated most
MODELS = ("poisson", "gaussian", "nonlinear")


def truths(side: int) -> Iterator[tuple[str, Tensor]]:
    """Yield images ``(1, 1, side, side)`` on the 0..1 scale, black outside a disc."""
    disc = np.hypot(*np.meshgrid(*2 * [np.linspace(-1, 1, side)])) < 0.95
    for name in ("shepp_logan_phantom", "chelsea", "coffee", "astronaut", "camera"):
        picture = np.asarray(getattr(data, name)(), dtype=np.float64)
        picture = picture.mean(-1) if picture.ndim == 3 else picture
        cut = min(picture.shape)
        top, left = ((length - cut) // 2 for length in picture.shape)
        small = transform.resize(picture[top : top + cut, left : left + cut] / picture.max(), (side, side), anti_aliasing=True)
        yield name, torch.from_numpy(disc * small).float()[None, None]


def measured(x: Tensor, angles: int, flat: float, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Return the arrays of a file of counts, and the attenuation of white per pixel."""
    side = x.shape[-1]
    rays = ReconstructCT.evenly(angles, (side, side)).operator((1, side, side))
    integrals = rays(x)[0, 0].double().numpy()
    white = -math.log(DARKEST) / integrals.max()
    counts = np.random.default_rng(seed).poisson(flat * np.exp(-white * integrals))
    theta = np.arange(angles) * 180 / angles
    place = {
        "size": np.array([side, side]),
        "axis": np.array([(side - 1) / 2] * 2),
        "center": np.array(rays.out_shape[-1] / 2 - 0.5),
    }
    return {"sinogram": counts, "flat": np.array(flat), "angles": theta, **place}, white


def nonlinear(problem: ReconstructCT, flat: float, channels: int) -> Operator:
    """Return the measurement of the counts themselves."""
    rays, half = problem._rays((channels, *problem.size)), problem.scale / 2
    noise: Noise = temper(PoissonNoise(1.0, offset=0.0), channels)
    return Function(lambda x: flat * torch.exp(-half * rays.forward(x + 1)), rays.in_shape, noise=noise)


def judged(
    prior: ScoreModel, x: Tensor, model: str, flat: float, options: argparse.Namespace, seed: int
) -> tuple[float, ...] | None:
    """Return the figures of a row of the table for one truth, or ``None`` if the sampler diverged."""
    arrays, white = measured(x, options.angles, flat, seed)
    counts = torch.from_numpy(arrays["sinogram"])
    arrays["likelihood"] = np.asarray("gaussian" if model == "gaussian" else "poisson")
    problem, y = ReconstructCT.from_arrays(arrays, scale=white)
    op, repeated = problem.in_channels(problem.operator((1, *problem.size)), y, 3)
    if model == "nonlinear":
        op, repeated = nonlinear(problem, flat, 3), counts.float()
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the misfit of three tempered copies
            sampler = PosteriorSampler(prior, op)
            samples = sampler.run(repeated.expand(1, *op.out_shape), num_samples=options.samples, seed=0).samples
    except (DivergenceError, ValueError):
        return None
    seconds = time.perf_counter() - start
    truth, samples = 2 * x - 1, samples[:, 0].mean(1, keepdim=True)
    mean, std = samples.mean(0, keepdim=True), samples.std(0, keepdim=True)
    rays = problem._rays((1, *problem.size))

    def misfit(image: Tensor) -> float:
        expected = flat * torch.exp(-problem.scale / 2 * rays(image + 1)[:, 0]).double()
        return float(((counts - expected) ** 2 / expected).mean())

    def psnr(image: Tensor) -> float:
        return -10 * math.log10(float(((image - truth) / 2).square().mean()))

    width = float(stats.t.ppf(0.95, len(samples) - 1)) * math.sqrt(1 + 1 / len(samples))
    covered = float(((mean - truth).abs() <= width * std).float().mean())
    each = float(np.mean([psnr(sample) for sample in samples]))
    return misfit(truth), misfit(samples), psnr(problem.preview(y)), psnr(mean), each, covered, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="height and width of the image in pixels")
    parser.add_argument("--angles", type=int, default=60)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=MODELS, metavar="MODEL")
    options = parser.parse_args()
    prior, every = load_prior("natural"), list(truths(options.side))
    print(
        "| photons | model | misfit, truth | misfit, samples | of FBP, dB | PSNR of the mean, dB | of a sample | coverage | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for flat in COUNTS:
        for model in options.models:
            found = [judged(prior, x, model, flat, options, seed) for seed, (_, x) in enumerate(every)]
            rows = [row for row in found if row is not None]
            failed = len(found) - len(rows)
            tail = f", {failed} of {len(every)} diverged" if failed else ""
            if not rows:
                print(f"| {flat} | {model}{tail} | | | | | | | |", flush=True)
                continue
            truth, misfit, fbp, best, one, covered, seconds = np.mean(rows, 0)
            print(
                f"| {flat} | {model}{tail} | {truth:.3f} | {misfit:.3f} | {fbp:.2f} | {best:.2f} | {one:.2f} | {covered:.1%} | "
                f"{seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
