"""Samples that do not explain the data, or explain more of it than the noise allows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import scipy
import torch
from torch import Tensor

from invdiff.operators import Operator, RoundingNoise

__all__ = ["MisfitWarning", "misfit_notes", "unwarned"]

RARE = 1e-6  # probability of a smaller or larger misfit of exact samples
TOLERANCE = 4.0  # methods are approximate: factor beyond the quantiles of chi-square at which samples are reported
LISTED = 5  # items named in a note

CAUSES = "an operator that does not describe y (kernel, mask, scale, orientation, range of the values)"
TOO_LARGE = "Likely causes: {}, a noise level that is too low, or a method that has not converged (more steps, or 'auto')."
TOO_LARGE_EXACT = (
    "Likely causes: {}, noise in y that counts as exact, or a method that has not converged (more steps, or 'auto')."
)
TOO_SMALL = "Likely causes: a noise level that is too high, or a method that fits the noise."


class MisfitWarning(UserWarning):
    """The squared misfit of posterior samples is far from its expected value: they do not explain the data, or overfit it."""


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Run a sampler whose misfit is not of interest, or reported otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisfitWarning)
        yield


def misfit_notes(
    residual: Tensor,
    dof: int | Tensor,
    weights: Tensor,
    *,
    op: Operator,
    y: Tensor,
    ratio_min: float,
    causes: str = CAUSES,
    rounded: bool = False,
) -> tuple[str, ...]:
    r"""Return notes on items whose samples do not explain the data, or explain more of it than the noise allows.

    If the truth is a draw of the prior, the squared misfit of an exact posterior sample over the noise variance follows
    :math:`\chi^2` with ``dof`` degrees of freedom. Reported is a mean over the samples of one item beyond the quantile of
    :math:`10^{-6}` on either side by a factor of 4; the factor allows for approximations of the method, and for noise that is
    not Gaussian. A small misfit is not reported for rounding. For exact data, the misfit relative to ``y`` is reported above
    ten times the noise-to-signal ratio at which the sampler stops, but not below 0.02, and always above 0.1.

    Args:
        residual: Squared misfits, ``(N, B)``, as in :class:`~invdiff.posterior.Posterior`.
        dof: Degrees of freedom: one number, or ``(B,)``.
        weights: Weights of the samples, ``(N, B)``, summing to 1 over the samples.
        op: The measurement.
        y: The measured values, ``(B, *op.out_shape)``.
        ratio_min: Noise-to-signal ratio of the last step.
        causes: What is likely to be wrong with the operator if samples do not explain the data.
        rounded: Whether the noise stands for rounding, as :class:`~invdiff.operators.RoundingNoise` is.
    """
    mean = (residual.double() * weights.double()).sum(0).cpu()
    count = torch.as_tensor(dof).double().cpu().expand_as(mean).clamp(min=1)
    if op.sigma_y == 0:
        size = y.double().flatten(1).square().sum(1).cpu().clamp(min=torch.finfo(torch.float64).tiny)
        relative, limit = (mean / size).sqrt(), min(max(10 * ratio_min, 0.02), 0.1)
        fact = "the samples differ from the exact data by {} of their size (root mean square)"
        return _note(relative > limit, relative, fact, TOO_LARGE_EXACT.format(causes))
    high, low = (quantile * factor for quantile, factor in zip(_rare(count), (TOLERANCE, 1 / TOLERANCE), strict=True))
    ratio = mean / count
    fact = "the squared misfit of the samples is {} times its expected value under the noise"
    below = fact.replace("is {}", "is only {}")
    # Values far smaller than the step of their rounding are rounded to 0 with an error far smaller than its usual one.
    small = torch.zeros_like(mean) if rounded or isinstance(op.noise, RoundingNoise) else low
    return *_note(mean > high, ratio, fact, TOO_LARGE.format(causes)), *_note(mean < small, ratio, below, TOO_SMALL)


def _rare(count: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return what :math:`\chi^2` with ``count`` degrees of freedom is above, and below, with the probability :data:`RARE`."""
    halves, quantiles = count.numpy() / 2, (scipy.special.gammainccinv, scipy.special.gammaincinv)
    high, low = (torch.from_numpy(2 * quantile(halves, RARE)) for quantile in quantiles)
    return high, low


def _note(there: Tensor, values: Tensor, fact: str, causes: str) -> tuple[str, ...]:
    items = there.nonzero().flatten().tolist()
    if not items:
        return ()
    numbers = ", ".join(f"{float(values[b]):.3g}" for b in items[:LISTED])
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    where = "" if len(there) == 1 else f" (item {', '.join(map(str, items[:LISTED]))}{more} of {len(there)})"
    return (f"misfit: {fact.format(numbers)}{where}. {causes}",)
