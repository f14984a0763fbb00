"""Test samplers on truths drawn from the prior itself: ``python benchmarks/prior_truths.py --kernel KERNEL``.

If the truths are draws of the prior and the samples are exact, the truth is one more sample: the rank of its misfit among those
of the samples is uniform, intervals have their nominal coverage, and the misfit is that of the noise. A failure here is due to
the sampler; with photographs it may also be due to the prior. The prior is the bundled one at 64 x 64 pixels; truths are drawn
with many Heun steps and degraded as in ``images_cases.py``: with noise for all tests, and without noise for the coverage of
unknown values. The table is printed; finished lines are kept in the JSON file and not computed again with the same settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from images_cases import NEW, OLD, Case, cases, in_full, settings_of
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

import invdiff
from invdiff.diagnostics import coverage, misfit, rank_test, ranks, residual_test
from invdiff.io.images import atomic_write, read_kernel, read_mask
from invdiff.methods.steps import sample_prior
from invdiff.operators import GaussianNoise
from invdiff.priors import ScoreModel, load_prior

HERE = Path(__file__).parent
SIZE = 64  # pixels
ROWS = ("random", "text", "levin", "x4")
EXACT = ("random", "text", "x4")  # Without noise a blur is nearly undone: there is little to cover.
NOISE = 0.02  # on the 0..1 scale
SIGNIFICANCE = 0.01
LEVELS = (0.5, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", required=True, help="camera-shake kernel: image, .npy, or .npz:name")
    parser.add_argument(
        "--mask", type=Path, default=HERE.parent / "examples" / "mask.png", help="text, white = fill (default: the example's)"
    )
    parser.add_argument("--count", type=int, default=40, help="number of truths, at least 10 (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=6, help="samples per truth (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="Heun steps per truth (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=(NEW, OLD), metavar="METHOD", default=[NEW], help=f"{NEW}, {OLD}")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=f"{', '.join(ROWS)}")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "prior_truths.json", help="(default: benchmarks/prior_truths.json)")
    options = parser.parse_args()
    if options.count < 10 or options.samples < 2:
        parser.error("--count must be at least 10, for the p-values, and --samples at least 2")

    score = load_prior(options.prior)
    available = cases((3, SIZE, SIZE), mask=read_mask(options.mask), kernel=read_kernel(options.kernel))
    drawn = {"count": options.count, "steps": options.steps, "samples": options.samples}
    prior = {"prior": score.describe()["sha256"], "precision": str(score.autocast or torch.float32)}
    done: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    jobs = [
        (row, noise, method)
        for method in options.methods
        for row in options.only
        for noise in (NOISE, 0.0)
        if noise or row in EXACT
    ]
    truths, lines = None, []
    for row, noise, method in tqdm(jobs, unit=" lines", disable=None):
        case = available[row]
        sampler = settings_of(method, case, score, case.problem.operator((3, SIZE, SIZE), noise=GaussianNoise(2 * noise)))
        assert sampler is not None
        record = {**drawn, **prior, "measurement": {**case.about, "noise": noise}, "sampler": in_full(sampler)}
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
        key = f"{row}/{noise:g}/{method}/{digest}"
        if key not in done:
            if truths is None:
                truths = sample_prior(score, (3, SIZE, SIZE), options.count, seed=0, steps=options.steps)
            done[key] = {"settings": record, "figures": figures(score, case, noise, truths, sampler, options.samples)}
            with atomic_write(options.out) as part:
                part.write_text(json.dumps(done, indent=1) + "\n")
        lines.append(line(row, noise, method, done[key]["figures"]))

    arguments = (
        f"--count {options.count} --samples {options.samples} --steps {options.steps} --methods {' '.join(options.methods)}"
    )
    what = f"prior {prior['prior'][:12]} in {prior['precision']}"
    machine = f"{platform.machine()}, torch {torch.__version__}"
    print(f"`python benchmarks/prior_truths.py --kernel KERNEL {arguments}`; {what}; {machine}.\n")
    headers = ["truths of the prior", "noise", "method", "rank of the misfit: mean, p", "misfit: over the noise, p"]
    headers += [
        *(f"{level:.0%} intervals cover, p" for level in LEVELS),
        "spread / error",
        "forwards + VJPs",
        "seconds",
        "at p > 0.01",
    ]
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True))


@torch.no_grad()
def figures(
    score: ScoreModel, case: Case, noise: float, truths: Tensor, sampler: dict[str, Any], samples: int
) -> dict[str, Any]:
    """Degrade, sample, and test; ranks and misfits where there is noise."""
    started, (count, *shape) = time.perf_counter(), truths.shape
    op = case.problem.operator((shape[0], shape[1], shape[2]), noise=GaussianNoise(2 * noise))
    y = op.measure(truths, seed=0)
    post = invdiff.PosteriorSampler(score, op, **sampler).run(y, num_samples=samples, seed=0, progress=sys.stderr.isatty())
    found: dict[str, Any] = {"forwards": post.nfe, "VJPs": post.nvjp}
    results = torch.stack([case.problem.finish(x, y, op) for x in post.samples])
    if noise:
        drawn = torch.stack([misfit(op, x, y) for x in post.samples])
        test = rank_test(ranks(misfit(op, truths, y), drawn, seed=0))
        of_one = residual_test(post.residual[0], post.dof)
        found |= {"rank": (1 + test.shift) / 2, "rank p": test.p_value, "misfit": of_one.ratio, "misfit p": of_one.p_value}
    unknown = torch.ones(shape, dtype=torch.bool) if noise or case.known is None else ~case.known.expand(shape)
    for level in LEVELS:
        covered = coverage(truths[:, unknown], results[:, :, unknown], level=level)
        found |= {f"{level:.0%}": covered.observed, f"{level:.0%} p": covered.p_value}
    error = (results.mean(0) - truths).square().mean()
    found["spread / error"] = float((results.var(0).mean() / error).sqrt())
    return {**found, "cases": count, "seconds": round(time.perf_counter() - started, 1)}


def line(row: str, noise: float, method: str, found: dict[str, Any]) -> list[str]:
    tests = ["rank", *(f"{level:.0%}" for level in LEVELS)]
    p_values = [found[f"{name} p"] for name in tests if f"{name} p" in found]
    shown = [
        f"{found['rank']:.2f}, {p_text(found['rank p'])}" if noise else "-",
        f"{found['misfit']:.3f}, {p_text(found['misfit p'])}" if noise else "-",
        *(f"{found[name]:.1%}, {p_text(found[f'{name} p'])}" for name in tests[1:]),
        f"{found['spread / error']:.2f}",
        f"{found['forwards']:.0f} + {found['VJPs']:.0f}",
        f"{found['seconds']:.0f}",
    ]
    return [row, f"{noise:g}", method, *shown, "passes" if min(p_values) > SIGNIFICANCE else "rejected"]


def p_text(p: float) -> str:
    return f"{p:.2f}" if p >= 0.005 else f"{p:.0e}"


if __name__ == "__main__":
    main()
