"""The misfit of samples against what the noise explains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

__all__ = ["ResidualTest", "residual_test"]


@dataclass(frozen=True)
class ResidualTest:
    r"""How the misfits of independent cases compare with :math:`\chi^2`.

    Attributes:
        p_value: Of the law :math:`\chi^2_\text{dof}`: twice the smaller of the two below, at most 1.
        p_shape: Exact Kolmogorov-Smirnov test: sees any departure.
        p_mean: Two-sided, exact: the sum over ``n`` cases follows :math:`\chi^2_{n\, \text{dof}}`.
        ratio: Mean misfit over ``dof``. Far below 1 the noise is being fitted, far above the data are being ignored.
        error: Standard error of ``ratio`` under that law, :math:`\sqrt{2 / (n\, \text{dof})}`.
        cases: Number of cases.
    """

    p_value: float
    p_shape: float
    p_mean: float
    ratio: float
    error: float
    cases: int


def residual_test(residual: Tensor, dof: int | Tensor) -> ResidualTest:
    r"""Test misfits :math:`\|y - A(x)\|^2 / \sigma_y^2`, one posterior sample for each of ``n`` independent cases.

    If :math:`x_0` is a draw of the prior, :math:`y` its measurement and :math:`x` an exact posterior draw, then :math:`(x, y)`
    has the law of :math:`(x_0, y)`, and the misfit is :math:`\chi^2` with as many degrees of freedom as values were measured,
    for nonlinear operators too. It says nothing about several samples of one ``y``, which share its noise: take one of each.

    Args:
        residual: ``(n,)``, such as ``Posterior.residual[0]`` where the samples have equal weights.
        dof: Measured values per item, ``Posterior.dof``: one number, or one for each case, ``(n,)``.
    """
    if residual.ndim != 1 or not len(residual) or not (residual.isfinite() & (residual >= 0)).all():
        raise ValueError(
            f"residual_test: expected finite misfits (n,), one sample for each case, got shape {tuple(residual.shape)}."
        )
    each = torch.as_tensor(dof).cpu().expand(len(residual)).numpy()
    if each.min() < 1:
        raise ValueError(f"residual_test: dof must be at least 1, got {each.min()}.")
    values = residual.double().cpu().numpy()
    total, law = float(values.sum()), stats.chi2(each.sum())
    p_mean = min(1.0, 2 * float(min(law.cdf(total), law.sf(total))))
    p_shape = float(stats.kstest(stats.chi2(each).cdf(values), "uniform").pvalue)
    return ResidualTest(
        p_value=min(1.0, 2 * min(p_shape, p_mean)),
        p_shape=p_shape,
        p_mean=p_mean,
        ratio=total / float(each.sum()),
        error=(2 / float(each.sum())) ** 0.5,
        cases=len(values),
    )
