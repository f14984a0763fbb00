r"""Diagnostics that test whether samples follow the posterior.

======================== =================================== ====================================================
available data           what is tested or computed          functions
======================== =================================== ====================================================
samples for one y        whether they follow the density     :func:`kernel_stein` with :func:`posterior_score`
misfits for many y       whether they match the noise        :func:`residual_test`
items with known truth   spread, bias, use of the data       :func:`calibrate`; :func:`ranks`, :func:`coverage`
the same, plus new items intervals with a guarantee          :func:`deviations`, :func:`marginal_width`
weights, chains          effective sample sizes              :func:`ess`, :func:`chain_ess`
======================== =================================== ====================================================
"""

from invdiff.diagnostics.calibration import Calibration, calibrate
from invdiff.diagnostics.conformal import deviations, exact_width, images_needed, marginal_width, width_per_image
from invdiff.diagnostics.ess import chain_ess, ess
from invdiff.diagnostics.ranks import Coverage, RankTest, coverage, rank_test, ranks
from invdiff.diagnostics.residual import ResidualTest, residual_test
from invdiff.diagnostics.stein import KernelStein, kernel_stein, posterior_score
from invdiff.diagnostics.tarp import distance, reference_points, scales
from invdiff.diagnostics.test_quantities import log_posterior, log_prior, misfit, projections

__all__ = [
    "Calibration",
    "Coverage",
    "KernelStein",
    "RankTest",
    "ResidualTest",
    "calibrate",
    "chain_ess",
    "coverage",
    "deviations",
    "distance",
    "ess",
    "exact_width",
    "images_needed",
    "kernel_stein",
    "log_posterior",
    "log_prior",
    "marginal_width",
    "misfit",
    "posterior_score",
    "projections",
    "rank_test",
    "ranks",
    "reference_points",
    "residual_test",
    "scales",
    "width_per_image",
]
