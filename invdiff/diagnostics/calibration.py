"""Calibration: simulate measurements of known items, sample, and see whether the truth is one sample among the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from scipy import stats
from torch import Tensor

from invdiff.diagnostics.quantities import HasLogProb, log_posterior, misfit, projections
from invdiff.diagnostics.ranks import Coverage, RankTest, coverage, merge_repeats, rank_test, ranks
from invdiff.diagnostics.residual import ResidualTest, residual_test
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.priors import ScoreModel
from invdiff.random import generator

__all__ = ["Calibration", "SupportsRun", "calibrate"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TESTED_LEVELS = (0.5, 0.9)
PROJECTIONS = 3
NUMBERS = 2**19  # of x handed to the prior at a time
POWER = 0.84  # standard errors beyond the threshold at which four runs of five find a deviation


class SupportsRun(Protocol):
    """What is calibrated: a :class:`~invdiff.PosteriorSampler`, or anything that answers like one."""

    @property
    def score(self) -> ScoreModel: ...
    @property
    def op(self) -> Operator: ...
    def run(self, y: Tensor, *, num_samples: int, seed: int, progress: bool) -> Posterior: ...


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the known items say about a sampler and its prior.

    Attributes:
        ranks: For each test quantity the ranks of the truths, ``(n,)`` in [0, 1]: uniform for exact samples.
        rank_tests: Their tests.
        coverage: Of central intervals at ten levels, over every value of the items.
        residual: Misfit of one sample of each case against the noise.
        ignored: Mean squared misfit of the samples over that of the samples of another case: near 1 for samples that do not
            look at the data.
        cases: Number of items.
        num_samples: Samples drawn for each.
        significance: Chance that exact samples fail any of the tests; Bonferroni's share of it goes to each.
        method: Of the sampler.
        seed: Of measurements, samples and tosses.
    """

    ranks: Mapping[str, Tensor]
    rank_tests: Mapping[str, RankTest]
    coverage: tuple[Coverage, ...]
    residual: ResidualTest
    ignored: float
    cases: int
    num_samples: int
    significance: float
    method: str
    seed: int

    @cached_property
    def p_values(self) -> dict[str, float]:
        """The p-value of every test that counts, not corrected."""
        tests = {f"rank of the {name}": test.p_value for name, test in self.rank_tests.items()}
        tests |= {f"{c.level:.0%} intervals": c.p_value for c in self.coverage if c.level in TESTED_LEVELS}
        return tests | {"misfit against the noise": self.residual.p_value}

    @property
    def threshold(self) -> float:
        """A p-value below it rejects: ``significance`` over the number of tests."""
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
        """What was found, in sentences: what is wrong, the gravest first, or what can be said where nothing is."""
        if self.passed:
            return self._nothing_found()
        found = (*self._data_findings(), *self._spread_findings(), *self._other_findings())
        return (*found, f"{self.cases} cases, {len(self.p_values)} tests, each at p < {self.threshold:.1g}")

    def _rejected(self, name: str) -> bool:
        return self.p_values[name] < self.threshold

    def _data_findings(self) -> list[str]:
        found, ratio, shift = [], self.residual.ratio, self.rank_tests["misfit"].shift
        if not (self._rejected("misfit against the noise") or self._rejected("rank of the misfit")):
            return []
        if ratio > 1 and self.ignored > 0.5:
            found.append("the data are being ignored: the samples fit their own measurement little better than another one")
        elif self._rejected("misfit against the noise"):
            how = "the data are not fitted" if ratio > 1 else "the noise is being fitted"
            found.append(f"{how}: the squared misfit is {ratio:.2f} of what the noise explains (1 is right)")
        if not found:
            how = "further from" if shift < 0 else "closer to"
            found.append(
                f"the samples are {how} the data than the truth: its misfit ranks at {(1 + shift) / 2:.2f} (0.5 is right)"
            )
        return found

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
                found.append(f"{means}: that of the truth ranks at {(1 + test.shift) / 2:.2f} on average (0.5 is right)")
            else:
                how = "little" if test.spread > 1 else "much"
                means = f"the {name} of the samples varies too {how}"
                found.append(f"{means}: the ranks of the truth have {test.spread:.2f} times the variance they should")
        return found

    def _nothing_found(self) -> tuple[str, ...]:
        # What would have been seen four times of five: the threshold of the test plus the power, in standard errors.
        errors = float(stats.norm.isf(self.threshold / 2)) + POWER
        wide = next(c for c in self.coverage if c.level == TESTED_LEVELS[-1])
        rank = errors / (12 * self.cases) ** 0.5
        return (
            f"consistent with a calibrated sampler: the smallest of {len(self.p_values)} p-values is "
            f"{min(self.p_values.values()):.2g}, and {self.threshold:.1g} would reject",
            f"{self.cases} cases reveal {wide.level:.0%} intervals that are off by {errors * wide.error:.0%} of coverage, mean "
            f"ranks that are off by {min(rank, 0.5):.2f}, and misfits that are off by {errors * self.residual.error:.1%}; "
            "smaller deviations would not be seen",
        )


@torch.no_grad()
def calibrate(
    sampler: SupportsRun,
    clean: Tensor,
    *,
    num_samples: int = 16,
    seed: int = 0,
    significance: float = 0.01,
    progress: bool = False,
) -> Calibration:
    r"""Measure every clean item with ``sampler.op``, sample its posterior, and rank the truth among the samples.

    If the clean items are draws of the prior and the samples exact, the truth is exchangeable with them: its rank is uniform
    for every quantity, also for those that depend on the data. The quantities are the misfit, the log posterior density (an
    estimate where the prior's is not known, see :func:`~invdiff.diagnostics.log_prior`), the mean over the item, and three
    random projections. The last four are blind to a sampler that ignores ``y``; the first two are not.

    For clean items that are *not* draws of the prior, such as photographs under a learned one, a rejection says that prior and
    sampler together do not describe them, and cannot tell which of the two is at fault.

    Args:
        sampler: With its prior and its operator, whose noise must not be 0.
        clean: Independent items, ``(n, *op.in_shape)``, 10 or more. Values differ little for fewer than 50.
        num_samples: Samples for each.
        seed: A non-negative integer.
        significance: Chance that exact samples are rejected.
        progress: Whether to show a bar.

    Raises:
        ValueError: If the data are exact: there is then nothing that intervals of measured values could cover.

    Cost: ``n`` times ``num_samples`` posterior samples, all in memory.
    """
    op = sampler.op
    if op.sigma_y == 0:
        raise ValueError(
            "calibrate: the noise of the operator is 0; coverage of what is known exactly means nothing: give it one."
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
    post = sampler.run(y, num_samples=num_samples, seed=seed, progress=progress)
    samples = post.samples.to(clean)
    weights = merge_repeats(samples, post.weights.to(clean))

    truth = _quantities(sampler.score, op, clean, y, seed)
    each = [_quantities(sampler.score, op, x, y, seed) for x in samples]
    drawn = {name: torch.stack([part[name] for part in each]) for name in truth}
    found = {name: ranks(truth[name], drawn[name], seed=seed + 1 + place, weights=weights) for place, name in enumerate(truth)}
    one = _one_of_each(drawn["misfit"], weights, seed)
    other = misfit(op, samples[0], y.roll(1, 0)).mean()
    return Calibration(
        ranks=found,
        rank_tests={name: rank_test(values) for name, values in found.items()},
        coverage=tuple(coverage(clean, samples, level=level, weights=weights) for level in LEVELS),
        residual=residual_test(one / op.sigma_y**2, op.dof),
        ignored=float(one.mean() / other),
        cases=len(clean),
        num_samples=num_samples,
        significance=significance,
        method=post.method,
        seed=seed,
    )


def _quantities(score: ScoreModel, op: Operator, x: Tensor, y: Tensor, seed: int) -> dict[str, Tensor]:
    """Return every test quantity of ``x``, one item a row: ``(n,)`` each."""
    density = "log posterior" if isinstance(score, HasLogProb) else "log posterior (estimated)"
    rows = max(1, NUMBERS // x[0].numel())
    chunks = [range(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]
    parts = [
        log_posterior(score, op.take(some), x[some.start : some.stop], y[some.start : some.stop], seed=seed) for some in chunks
    ]
    along = projections(x, count=PROJECTIONS, seed=seed)
    return {
        "misfit": misfit(op, x, y),
        density: torch.cat(parts),
        "mean": x.flatten(1).mean(1),
        **{f"projection {k + 1}": along[:, k] for k in range(PROJECTIONS)},
    }


def _one_of_each(values: Tensor, weights: Tensor, seed: int) -> Tensor:
    """Return the value of one sample of each case, ``(M, n)`` to ``(n,)``, drawn by the weights."""
    chosen = [
        torch.multinomial(w.double().cpu(), 1, generator=generator(seed, "diagnose", b, 4)) for b, w in enumerate(weights.mT)
    ]
    return values.gather(0, torch.cat(chosen)[None].to(values.device))[0]
