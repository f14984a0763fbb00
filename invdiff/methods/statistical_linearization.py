r"""Affine approximation of a measurement under a Gaussian: the tangent, or the best linear fit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.methods.moments import TweedieGaussian
from invdiff.operators import LinearOperator, Operator

__all__ = ["AffineMeasurement", "linearize", "noise_of", "ratio", "residual_of"]


class AffineMeasurement(NamedTuple):
    r"""A measurement :math:`y \approx y - r + A (x - \hat x_0) + n`, :math:`n \sim \mathcal{N}(0, R)`, at every particle.

    Attributes:
        residual: :math:`r`, ``y`` minus its expected value, ``(B, d)``.
        rows: Rows of :math:`A`, ``(B, d, n)``.
        noise: Noise covariance :math:`R`, ``(B, d, d)``.
    """

    residual: Tensor
    rows: Tensor
    noise: Tensor

    def take(self, rows: Tensor) -> AffineMeasurement:
        """Return the measurement at the selected particles."""
        return AffineMeasurement(*(part[rows] for part in self))


def linearize(op: Operator, y: Tensor, measured: Tensor, moments: TweedieGaussian) -> AffineMeasurement:
    r"""Return an affine approximation of ``op`` under :math:`\mathcal{N}(\hat x_0, V_t)`.

    A linear operator is returned as it is. A nonlinear one is replaced by its best linear fit if the eigenvectors of
    :math:`V_t` are known, and by its tangent at :math:`\hat x_0` otherwise.

    Args:
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``.
        measured: Indices of the measured entries of ``y``, ``(d,)``.
        moments: :math:`\mathcal{N}(\hat x_0, V_t)`.
    """
    tangent = isinstance(op, LinearOperator) or not moments.dense
    return _tangent(op, y, measured, moments.mean) if tangent else _regression(op, y, measured, moments)


def residual_of(op: Operator, y: Tensor, measured: Tensor, x: Tensor) -> Tensor:
    r"""Return :math:`y - A(x)`, ``(B, d)``."""
    return (y - op(x)).flatten(1)[:, measured]


def noise_of(op: Operator, y: Tensor, measured: Tensor, x: Tensor) -> Tensor:
    """Return the covariance of the noise at ``x``, ``(B, d, d)``. Noise that is not Gaussian is matched by a Gaussian."""
    variance = op.noise.variance(y, op(x)).expand_as(y)
    return torch.diag_embed(variance.flatten(1)[:, measured])


def _tangent(op: Operator, y: Tensor, measured: Tensor, mean: Tensor) -> AffineMeasurement:
    linear, numel = op.jacobian(mean), torch.Size(op.out_shape).numel()
    units = torch.nn.functional.one_hot(measured, numel).to(y)
    rows = [linear.adjoint(e.expand(len(y), -1).reshape(y.shape)).flatten(1) for e in units]
    return AffineMeasurement(residual_of(op, y, measured, mean), torch.stack(rows, 1), noise_of(op, y, measured, mean))


def _regression(op: Operator, y: Tensor, measured: Tensor, moments: TweedieGaussian) -> AffineMeasurement:
    r"""Return the best linear fit over :math:`\mathcal{N}(\hat x_0, V_t)`.

    Statistical linear regression by cubature: over :math:`x = \hat x_0 \pm \sqrt{n \lambda_i}\, u_i`, with
    :math:`\lambda, u` the eigenvalues and eigenvectors of :math:`V_t`, :math:`H = \mathrm{Cov}[A(x), x]\, V_t^{-1}`; the
    covariance of the error of the fit is added to the noise. A tangent uses a single point: the tangent of :math:`|x|` far from
    the truth can have the wrong sign.

    References:
        Garcia-Fernandez et al., Posterior Linearization Filter, 2015, https://doi.org/10.1109/TSP.2015.2454485
    """
    values, vectors = moments.eigen
    size = values.shape[1]
    offsets = (size * values).sqrt()[:, None] * vectors  # (B, n, n): columns
    points = [sign * offsets[..., i].reshape(moments.mean.shape) for i in range(size) for sign in (1, -1)]
    residuals = torch.stack([residual_of(op, y, measured, moments.mean + point) for point in points])
    expected = residuals.mean(0)
    deviation = expected - residuals
    along = (deviation[0::2] - deviation[1::2]).permute(1, 2, 0) / 2  # (B, d, n): slope along u_i, times its offset
    slopes = along * ratio(torch.ones_like(values), (size * values).sqrt())[:, None]
    explained = (slopes * values[:, None]) @ slopes.mT
    unexplained = torch.einsum("kbi,kbj->bij", deviation, deviation) / len(points) - explained
    return AffineMeasurement(expected, slopes @ vectors.mT, noise_of(op, y, measured, moments.mean) + unexplained)


def ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """Return ``a / b``, and 0 where ``b`` is 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
