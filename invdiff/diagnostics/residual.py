"""Test of the squared misfit of samples against the noise level."""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

__all__ = ["ResidualTest", "residual_test"]


@dataclass(frozen=True)
class ResidualTest:
    r"""Test of the squared misfits of independent cases against :math:`\chi^2`.

    Attributes:
        p_value: Combined p-value for :math:`\chi^2_\text{dof}`: twice the smaller of the next two, at most 1.
        p_shape: p-value of the exact Kolmogorov-Smirnov test, which detects any departure.
        p_mean: Exact two-sided p-value of the sum over ``n`` cases, which follows :math:`\chi^2_{n\, \text{dof}}`.
        ratio: Mean squared misfit over ``dof``. Far below 1 the samples fit the noise, far above 1 they ignore the data.
        error: Standard error of ``ratio`` under this distribution, :math:`\sqrt{2 / (n\, \text{dof})}`.
        cases: Number of cases.
    """

    p_value: float
    p_shape: float
    p_mean: float
    ratio: float
    error: float
    cases: int


def residual_test(residual: Tensor, dof: int | Tensor) -> ResidualTest:
    r"""Test squared misfits :math:`\|y - A(x)\|^2 / \sigma_y^2`, one posterior sample for each of ``n`` independent cases.

    If :math:`x_0` is a draw of the prior, :math:`y` its measurement and :math:`x` an exact posterior draw, then :math:`(x, y)`
    has the distribution of :math:`(x_0, y)`, and the squared misfit follows :math:`\chi^2` with as many degrees of freedom as
    there are measured values, for nonlinear operators too. The test does not apply to several samples of one ``y``, which share
    its noise: use one sample per case.

    Args:
        residual: Squared misfits ``(n,)``, such as ``Posterior.residual[0]`` if the samples have equal weights.
        dof: Number of measured values per item, ``Posterior.dof``: one integer, or one per case, ``(n,)``.
    """
    if residual.ndim != 1 or not len(residual) or not (residual.isfinite() & (residual >= 0)).all():
        raise ValueError(
            f"residual_test: expected finite misfits (n,), one sample for each case, got shape {tuple(residual.shape)}."
        )
    each = torch.as_tensor(dof).cpu().expand(len(residual)).numpy()
    if each.min() < 1:
        raise ValueError(f"residual_test: dof must be at least 1, got {each.min()}.")
    values = residual.double().cpu().numpy()
    total, law = float(values.sum()), scipy.stats.chi2(each.sum())
    p_mean = min(1.0, 2 * float(min(law.cdf(total), law.sf(total))))
    p_shape = float(scipy.stats.kstest(scipy.stats.chi2(each).cdf(values), "uniform").pvalue)
    return ResidualTest(
        p_value=min(1.0, 2 * min(p_shape, p_mean)),
        p_shape=p_shape,
        p_mean=p_mean,
        ratio=total / float(each.sum()),
        error=(2 / float(each.sum())) ** 0.5,
        cases=len(values),
    )
