"""Simulation-based calibration: measure known items, sample their posteriors, and rank the truth among the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import scipy
import torch
from torch import Tensor

from invdiff.diagnostics.conformal import deviations
from invdiff.diagnostics.ranks import Coverage, RankTest, coverage, merge_repeats, rank_test, ranks
from invdiff.diagnostics.residual import ResidualTest, residual_test
from invdiff.diagnostics.tarp import distance, reference_points, scales
from invdiff.diagnostics.test_quantities import HasLogProb, log_posterior, log_prior, misfit, projections
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.posterior.misfit import unwarned
from invdiff.priors import ScoreModel
from invdiff.random import generator

__all__ = ["Calibration", "SupportsRun", "calibrate"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TESTED_LEVELS = (0.5, 0.9)
PROJECTIONS = 3
DISTANCE = "distance from a random point"
FAR = 100.0  # far outside the range of images
NUMBERS = 2**19  # entries of x passed to the prior at a time
POWER = 0.84  # standard errors beyond the threshold at which a deviation is found with a power of 80 %


class SupportsRun(Protocol):
    """A sampler that can be calibrated: :class:`~invdiff.PosteriorSampler`, or anything with this interface."""

    @property
    def score(self) -> ScoreModel: ...
    @property
    def op(self) -> Operator: ...
    def run(self, y: Tensor, *, num_samples: int, seed: int, progress: bool) -> Posterior: ...


@dataclass(frozen=True, eq=False)
class Calibration:
    """Result of calibrating a sampler and its prior on items with known truth.

    Attributes:
        ranks: The ranks of the truths by test quantity, ``(n,)`` in [0, 1]: uniform for exact samples.
        rank_tests: Tests of the ranks for uniformity, by test quantity.
        coverage: Coverage of central intervals at ten levels, over every value of the items that is not known exactly.
        residual: Test of the misfit of one sample per case against the noise. ``None`` unless the noise is white and Gaussian.
        deviations: For every case, how many standard deviations of its samples the truth lies from their mean, for every value
            that is not known exactly: the input of :func:`~invdiff.diagnostics.marginal_width`. Empty if ``num_samples`` is 1.
        ignored: Mean squared misfit of the samples over their mean squared misfit to the measurement of another case: near 1
            for samples that ignore the data.
        cases: Number of items.
        num_samples: Number of samples per item.
        significance: Probability that exact samples fail any of the tests; each test gets its Bonferroni share.
        method: Name of the sampling method.
        seed: Random seed of the measurements, the samples and the randomized ranks.
    """

    ranks: Mapping[str, Tensor]
    rank_tests: Mapping[str, RankTest]
    coverage: tuple[Coverage, ...]
    residual: ResidualTest | None
    deviations: tuple[Tensor, ...]
    ignored: float
    cases: int
    num_samples: int
    significance: float
    method: str
    seed: int

    @cached_property
    def p_values(self) -> dict[str, float]:
        """The uncorrected p-value of every test that enters the verdict."""
        tests = {f"rank of the {name}": test.p_value for name, test in self.rank_tests.items()}
        tests |= {f"{c.level:.0%} intervals": c.p_value for c in self.coverage if c.level in TESTED_LEVELS}
        return tests if self.residual is None else tests | {"misfit against the noise": self.residual.p_value}

    @cached_property
    def expected_coverage(self) -> tuple[Coverage, ...]:
        """TARP: how often the truth lies in the ball around the random point that holds ``level`` of the samples."""
        ranks = self.ranks[DISTANCE].cpu()
        found = []
        for level in LEVELS:
            inside, error = int((ranks < level).sum()), (level * (1 - level) / len(ranks)) ** 0.5
            p_value = float(scipy.stats.binomtest(inside, len(ranks), level).pvalue)
            found.append(Coverage(level, inside / len(ranks), error, p_value, len(ranks)))
        return tuple(found)

    @property
    def threshold(self) -> float:
        """Smallest p-value that does not reject: ``significance`` over the number of tests (Bonferroni)."""
        return self.significance / len(self.p_values)

    @property
    def p_value(self) -> float:
        """The smallest p-value, corrected for the number of tests, at most 1."""
        return min(1.0, len(self.p_values) * min(self.p_values.values()))

    @property
    def passed(self) -> bool:
        """Whether no test rejects."""
        return min(self.p_values.values()) >= self.threshold

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """The findings in sentences: what is wrong, most serious first; if nothing is, which deviations can be excluded."""
        if self.passed:
            return self._nothing_found()
        found = (*self._data_findings(), *self._spread_findings(), *self._other_findings())
        return (*found, f"{self.cases} cases, {len(self.p_values)} tests, each at p < {self.threshold:.1g}")

    def _rejected(self, name: str) -> bool:
        return self.p_values.get(name, 1.0) < self.threshold

    def _data_findings(self) -> list[str]:
        if not (self._rejected("misfit against the noise") or self._rejected("rank of the misfit")):
            return []
        if self.residual is not None and self.residual.ratio > 1 and self.ignored > 0.5:
            return ["the data are being ignored: the samples fit their own measurement little better than another one"]
        if self.residual is not None and self._rejected("misfit against the noise"):
            how = "the data are not fitted" if self.residual.ratio > 1 else "the noise is being fitted"
            return [f"{how}: the squared misfit is {self.residual.ratio:.2f} times its expected value (1 is right)"]
        shift = self.rank_tests["misfit"].shift
        how = "further from" if shift < 0 else "closer to"
        return [f"the samples are {how} the data than the truth: its misfit has mean rank {(1 + shift) / 2:.2f} (0.5 is right)"]

    def _spread_findings(self) -> list[str]:
        wrong = [c for c in self.coverage if c.level in TESTED_LEVELS and c.p_value < self.threshold]
        if not wrong:
            return []
        widest = wrong[-1]
        how = "narrow" if widest.observed < widest.level else "wide"
        return [f"the samples are too {how}, or biased: {widest.level:.0%} intervals cover {widest.observed:.0%}"]

    def _other_findings(self) -> list[str]:
        found = []
        for name, test in self.rank_tests.items():
            if name == "misfit" or not self._rejected(f"rank of the {name}"):
                continue
            if (3 * test.cases) ** 0.5 * abs(test.shift) > 3:  # standard errors of the mean rank
                more = "less" if test.shift > 0 else "more"
                means = f"the samples are {more} probable than the truth" if "log" in name else f"the {name} is biased"
                if name == DISTANCE:
                    how = "closer to" if test.shift > 0 else "further from"
                    why = "too narrow" if test.shift > 0 else "too wide, biased, or ignoring the data"
                    means = f"the samples lie {how} random points near the data than the truth (TARP: {why})"
                found.append(f"{means}: the mean rank of the truth is {(1 + test.shift) / 2:.2f} (0.5 is right)")
            else:
                how = "little" if test.spread > 1 else "much"
                means = f"the {name} of the samples varies too {how}"
                found.append(f"{means}: the ranks of the truth have {test.spread:.2f} times the right variance")
        return found

    def _nothing_found(self) -> tuple[str, ...]:
        # Deviations found with a power of 80 %, in standard errors: the threshold of the test plus the quantile of the power.
        errors = float(scipy.stats.norm.isf(self.threshold / 2)) + POWER
        wide = next(c for c in self.coverage if c.level == TESTED_LEVELS[-1])
        rank = errors / (12 * self.cases) ** 0.5
        misfits = f", and misfits that are off by {errors * self.residual.error:.1%}" if self.residual else ""
        return (
            f"consistent with a calibrated sampler: the smallest of {len(self.p_values)} p-values is "
            f"{min(self.p_values.values()):.2g}, and none is below {self.threshold:.1g}",
            f"{self.cases} cases reveal {wide.level:.0%} intervals whose coverage is off by {errors * wide.error:.0%}, mean "
            f"ranks that are off by {min(rank, 0.5):.2f}{misfits}; smaller deviations would go unnoticed",
        )


@torch.no_grad()
def calibrate(
    sampler: SupportsRun,
    clean: Tensor,
    *,
    num_samples: int = 16,
    seed: int = 0,
    significance: float = 0.01,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: bool = False,
) -> Calibration:
    r"""Measure every clean item with ``sampler.op``, sample its posterior, and rank the truth among the samples.

    If the clean items are draws of the prior and the samples exact, the truth is exchangeable with them: its rank is uniform
    for every quantity, even if the quantity depends on the data. The quantities are the misfit, the log posterior density (an
    estimate if the prior density is unknown, see :func:`~invdiff.diagnostics.log_prior`), the distance from a random point that
    depends on the data (TARP, :func:`~invdiff.diagnostics.reference_points`), the mean over the item, and three random
    projections. The last four cannot detect a sampler that ignores ``y``; the first three can.

    If the data are noise-free, the misfit of the truth is 0 and the posterior has no density: the misfit is left out, and the
    prior density is used.

    For clean items that are *not* draws of the prior, such as photographs with a learned prior, a rejection means that prior
    and sampler together do not describe them. It does not show which of the two is at fault.

    Args:
        sampler: The sampler, with its prior and its operator. If the noise of the operator is 0, ``finish`` is required.
        clean: Independent items, ``(n, *op.in_shape)``: at least 2, and at least 10 for valid p-values. Fewer than 50 give
            little power.
        num_samples: Number of samples per item, at least 1.
        seed: Random seed, a non-negative integer.
        significance: Probability that exact samples are rejected, in (0, 1).
        finish: Function ``finish(samples, y)`` applied to samples ``(n, *event)`` of measurements ``(n, *op.out_shape)``, row
            by row, before the samples are evaluated; for example :meth:`invdiff.problems.Problem.finish` with its operator,
            which inserts what is known exactly. Values that it sets regardless of the samples are known, and are left out of
            the coverage.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the noise of the operator is 0 and ``finish`` is not given: the coverage of exactly known values is
            meaningless. Also if ``clean``, ``num_samples`` or ``significance`` is invalid.

    Cost: ``n`` times ``num_samples`` posterior samples, all in memory.
    """
    op = sampler.op
    if op.sigma_y == 0 and finish is None:
        raise ValueError(
            "calibrate: the noise of the operator is 0, and the coverage of exactly known values is meaningless. Use an "
            "operator with noise, or pass finish= to mark the known values."
        )
    if clean.ndim != len(op.in_shape) + 1 or tuple(clean.shape[1:]) != tuple(op.in_shape) or len(clean) < 2 or num_samples < 1:
        raise ValueError(
            f"calibrate: expected at least two clean items of shape {op.in_shape} and num_samples >= 1, got a tensor of shape "
            f"{tuple(clean.shape)} and {num_samples}."
        )
    if not 0 < significance < 1:
        raise ValueError(f"calibrate: significance must lie in (0, 1), got {significance}.")
    op = op.to(clean.device, clean.dtype)
    y = op.measure(clean, seed=seed)
    with unwarned():  # the misfit is one of the tests
        post = sampler.run(y, num_samples=num_samples, seed=seed, progress=progress)
    samples, known = post.samples.to(clean), torch.zeros_like(clean, dtype=torch.bool)
    if finish is not None:
        samples = torch.stack([finish(x, y) for x in samples])
        known = _known(finish, y, clean, seed)
        clean = torch.where(known, samples[0], clean)  # With the same rounding as the samples.
    weights = merge_repeats(samples, post.weights.to(clean))

    start, scale = clean.roll(1, 0), scales(clean)
    point = torch.cat([reference_points(sampler.score, op.take(b), start[b], y[b]) for b in _chunks(clean)])

    def quantities(x: Tensor) -> dict[str, Tensor]:
        return _quantities(sampler.score, op, x, y, seed) | {DISTANCE: distance(x, point, scale)}

    truth, each = quantities(clean), [quantities(x) for x in samples]
    drawn = {name: torch.stack([part[name] for part in each]) for name in truth}
    found = {name: ranks(truth[name], drawn[name], seed=seed + 1 + place, weights=weights) for place, name in enumerate(truth)}
    one = _one_of_each(torch.stack([misfit(op, x, y) for x in samples]), weights, seed)
    other = misfit(op, samples[0], y.roll(1, 0)).mean()
    return Calibration(
        ranks=found,
        rank_tests={name: rank_test(values) for name, values in found.items()},
        coverage=tuple(coverage(clean, samples, level=level, weights=weights, known=known) for level in LEVELS),
        residual=residual_test(one / op.sigma_y**2, op.dof) if op.noise.white and op.sigma_y > 0 else None,
        deviations=tuple(deviations(clean, samples, known=known)) if num_samples > 1 else (),
        ignored=float(one.mean() / other),
        cases=len(clean),
        num_samples=num_samples,
        significance=significance,
        method=post.method,
        seed=seed,
    )


def _known(finish: Callable[[Tensor, Tensor], Tensor], y: Tensor, like: Tensor, seed: int) -> Tensor:
    """Return a mask, shaped like ``like``, of the values that ``finish`` sets regardless of the samples."""
    g = generator(seed, "diagnose", 0, 6)
    texture = torch.randn(like.shape, generator=g, dtype=torch.float64).to(like)  # Constant ones are gray.
    ends = [finish(FAR * x, y) for x in (torch.ones_like(like), -torch.ones_like(like), texture)]
    return (ends[0] == ends[1]) & (ends[0] == ends[2])


def _quantities(score: ScoreModel, op: Operator, x: Tensor, y: Tensor, seed: int) -> dict[str, Tensor]:
    """Return every test quantity of the items of ``x``, ``(n,)`` each."""
    noisy = op.sigma_y > 0
    density = f"log {'posterior' if noisy else 'prior'}{'' if isinstance(score, HasLogProb) else ' (estimated)'}"

    def log_density(some: list[int]) -> Tensor:
        if noisy:
            return log_posterior(score, op.take(some), x[some], y[some], seed=seed)
        return log_prior(score, x[some], seed=seed)

    along = projections(x, count=PROJECTIONS, seed=seed)
    return {
        **({"misfit": misfit(op, x, y)} if noisy else {}),
        density: torch.cat([log_density(some) for some in _chunks(x)]),
        "mean": x.flatten(1).mean(1),
        **{f"projection {k + 1}": along[:, k] for k in range(PROJECTIONS)},
    }


def _chunks(x: Tensor) -> list[list[int]]:
    """Return the row indices of ``x`` in the chunks that are passed to the prior."""
    rows = max(1, NUMBERS // x[0].numel())
    return [list(range(start, min(start + rows, len(x)))) for start in range(0, len(x), rows)]


def _one_of_each(values: Tensor, weights: Tensor, seed: int) -> Tensor:
    """Return the value of one sample per case, ``(M, n)`` to ``(n,)``, drawn with the weights as probabilities."""
    chosen = [
        torch.multinomial(w.double().cpu(), 1, generator=generator(seed, "diagnose", b, 4)) for b, w in enumerate(weights.mT)
    ]
    return values.gather(0, torch.cat(chosen)[None].to(values.device))[0]
