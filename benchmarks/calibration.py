"""Test ranks, coverage and misfits on exactly known distributions: ``python benchmarks/calibration.py``.

For every distribution, truths are drawn and measured, each measurement is sampled, and :func:`invdiff.diagnostics.calibrate`
ranks the truth among the samples by data-dependent quantities (misfit, log posterior) and others. Distributions: a dense
Gaussian, stationary Gaussian images under a mask, a blur and pooling, and a mixture whose modes the measurement distinguishes.
The table is printed.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from tabulate import tabulate
from tqdm import tqdm

from invdiff import DivergenceError, PosteriorSampler
from invdiff.diagnostics import calibrate
from invdiff.methods import METHODS
from invdiff.operators import Blur, Downsample, LinearOperator, Mask, Matrix, gaussian_kernel
from invdiff.priors import Gaussian, GaussianMixture

SHAPE = (1, 8, 8)


def laws() -> dict[str, tuple[Gaussian | GaussianMixture, LinearOperator]]:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=g, dtype=torch.float64) / 12**0.5
    vectors = Gaussian(torch.zeros(12, dtype=torch.float64), root @ root.mT + 0.05 * torch.eye(12))
    rows, columns = torch.fft.fftfreq(8, dtype=torch.float64), torch.fft.rfftfreq(8, dtype=torch.float64)
    spectrum = (0.02 / (0.02 + rows[:, None] ** 2 + columns**2)).expand(1, 8, 5)
    images = Gaussian.stationary(torch.zeros(SHAPE, dtype=torch.float64), spectrum)
    means = 4 * torch.randn(5, 8, generator=g, dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(5, dtype=torch.float64), means, torch.ones(5, 8, dtype=torch.float64))
    return {
        "vectors": (vectors, Matrix(torch.randn(5, 12, generator=g, dtype=torch.float64), sigma_y=0.2)),
        "mask": (images, Mask(torch.rand(SHAPE, generator=g) < 0.5, sigma_y=0.1)),
        "blur": (images, Blur(SHAPE, gaussian_kernel(0.7), sigma_y=0.1)),
        "pooling": (images, Downsample(SHAPE, 2, sigma_y=0.1)),
        "mixture": (mixture, Matrix(torch.randn(2, 8, generator=g, dtype=torch.float64), sigma_y=0.5)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", choices=["auto", *METHODS], metavar="METHOD", default=["auto", *METHODS], help="(default: all)"
    )
    parser.add_argument("--cases", type=int, default=400, help="truths per distribution (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=16, help="samples per truth (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="steps per run (default: %(default)s)")
    options = parser.parse_args()
    known, table, started = laws(), [], time.monotonic()
    with tqdm(total=len(options.methods) * len(known), unit=" runs", disable=None) as bar:
        for method in options.methods:
            for name, (prior, op) in known.items():
                table.append([method, name, *figures(prior, op, method, options.cases, options.samples, options.steps)])
                bar.update()
    arguments = f"--cases {options.cases} --samples {options.samples} --steps {options.steps}"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"`python benchmarks/calibration.py {arguments}`; {machine}; {(time.monotonic() - started) / 60:.0f} minutes.\n")
    headers = ["method", "law", "rank of the misfit, p", "of the log-posterior, p", "90 % cover", "misfit / noise", "verdict"]
    print(tabulate(table, headers, tablefmt="github", disable_numparse=True))


def figures(
    prior: Gaussian | GaussianMixture, op: LinearOperator, method: str, cases: int, samples: int, steps: int
) -> list[str]:
    try:
        sampler = PosteriorSampler(prior, op, method=method, steps=steps)
        report = calibrate(sampler, prior.sample(cases, seed=1).float(), num_samples=samples, seed=2)
    except DivergenceError:
        return ["-", "-", "-", "-", "diverged"]
    except ValueError:
        return ["-", "-", "-", "-", "does not apply"]
    p = [report.rank_tests[name].p_value for name in ("misfit", "log posterior")]
    cover = next(c for c in report.coverage if c.level == 0.9)
    return [
        *(f"{value:.2f}" if value >= 0.005 else f"{value:.0e}" for value in p),
        f"{cover.observed:.1%}",
        f"{report.residual.ratio:.2f}",
        "passes" if report.passed else report.verdict[0],
    ]


if __name__ == "__main__":
    main()
