r"""Diagnostics: whether samples follow the posterior.

====================== =================================== ====================================================
what is at hand        what it tells                       name
====================== =================================== ====================================================
samples of one y       whether they follow the density     :func:`kernel_stein` with :func:`posterior_score`
misfits of many y      whether the noise is understood     :func:`residual_test`
items with known truth spread, bias, use of the data       :func:`calibrate`; :func:`ranks`, :func:`coverage`
weights, chains        how many samples they are worth     :func:`ess`, :func:`chain_ess`
====================== =================================== ====================================================
"""

from invdiff.diagnostics.calibration import Calibration, calibrate
from invdiff.diagnostics.effective import chain_ess, ess
from invdiff.diagnostics.quantities import log_posterior, log_prior, misfit, projections
from invdiff.diagnostics.ranks import Coverage, RankTest, coverage, rank_test, ranks
from invdiff.diagnostics.residual import ResidualTest, residual_test
from invdiff.diagnostics.stein import KernelStein, kernel_stein, posterior_score

__all__ = [
    "Calibration",
    "Coverage",
    "KernelStein",
    "RankTest",
    "ResidualTest",
    "calibrate",
    "chain_ess",
    "coverage",
    "ess",
    "kernel_stein",
    "log_posterior",
    "log_prior",
    "misfit",
    "posterior_score",
    "projections",
    "rank_test",
    "ranks",
    "residual_test",
]
