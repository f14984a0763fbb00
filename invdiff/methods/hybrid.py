r"""The Kalman gain from a few exact products with the denoiser's covariance and a measured covariance for the remainder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.linalg import conjugate_gradients, gmres, norm, over_items
from invdiff.operators import LinearOperator
from invdiff.priors import ErrorCovariance, ErrorModel, ScoreModel

__all__ = ["COVARIANCES", "NEARLY_EXACT", "error_model_for", "hybrid_gain", "measured_gain", "preconditioned_gmres"]

COVARIANCES = ("auto", "jacobian", "measured")
Product = Callable[[Tensor], Tensor]
NEARLY_EXACT = 1e-4  # relative to the operator norm: noise assumed for exact data, whose system would be singular


def error_model_for(score: ScoreModel, covariance: str, *, small: bool) -> ErrorModel | None:
    """Return the error model whose covariance is used, or ``None`` for the covariance from the network's Jacobian.

    Args:
        score: The prior.
        covariance: ``jacobian``, ``measured``, or ``auto`` (measured if the prior has an error model and ``small`` is false).
        small: Whether the measurement is small enough to be solved exactly.

    Raises:
        ValueError: If ``covariance`` is none of these, or is ``measured`` and the error of the prior was not measured.
    """
    if covariance not in COVARIANCES:
        raise ValueError(f"MMPS: covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}.")
    if covariance == "measured" and score.error_model is None:
        raise ValueError(
            "MMPS: covariance='measured' needs a prior whose error was measured, and this prior has no error model. Measure it "
            "with `invdiff priors measure` or priors.measure_error, or use covariance='jacobian'."
        )
    return score.error_model if covariance == "measured" or (covariance == "auto" and not small) else None


def preconditioned_gmres(
    product: Product,
    linear: LinearOperator,
    residual: Tensor,
    *,
    variance: float,
    lam: Tensor,
    rtol: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`(\sigma_y^2 I + A V A^\top) P u = r` by GMRES, where :math:`P` is the preconditioner of the operator.

    Args:
        product: :math:`v \mapsto V v`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        variance: :math:`\sigma_y^2`.
        lam: :math:`\lambda` of :math:`P \approx (A A^\top + \lambda I)^{-1}`, applied on the right: the first search direction
            is the solution for an isotropic covariance.
        rtol: Residual norm at which an item stops, relative to its initial one.
        max_iterations: Maximum number of products.

    Returns:
        The solution :math:`u`, and :math:`V A^\top P u`, which is accumulated from the products of the iterations.
    """

    def preconditioned(u: Tensor) -> tuple[Tensor, Tensor]:
        w = linear.precondition(u, lam)
        pulled = product(linear.adjoint(w))
        return variance * w + linear(pulled), pulled

    return gmres(preconditioned, residual, rtol=rtol, max_iterations=max_iterations)


def hybrid_gain(
    exact: Product,
    measured: ErrorCovariance,
    linear: LinearOperator,
    residual: Tensor,
    *,
    variance: float,
    floor: Tensor,
    lam: Tensor,
    softest: Tensor,
    rtol: float,
    products: int,
    inner_iterations: int,
) -> Tensor:
    r"""Return an approximation of :math:`V_J A^\top (\sigma_y^2 I + A V_J A^\top)^{-1} r` from few products with :math:`V_J`.

    .. math:: \text{shift} = V_J A^\top w + V A^\top (\sigma_y^2 I + A V A^\top)^{-1}
        \big[ r - \sigma_y^2 w - A V_J A^\top w \big]

    :math:`w` is the solution after ``products`` GMRES iterations, with one exact product with :math:`V_J` each. The system for
    the remaining residual is solved with the measured covariance :math:`V`, by conjugate gradients. The result is exact if the
    first solve converges, or if :math:`V = V_J`.

    Args:
        exact: :math:`v \mapsto V_J v`, a vector-Jacobian product of the network.
        measured: :math:`V`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        variance: :math:`\sigma_y^2`.
        floor: Lower bound on :math:`\sigma_y^2` in the second solve, which is singular or nearly so without noise.
        lam: :math:`\lambda` of the preconditioner of the first solve.
        softest: Smallest :math:`\lambda` of the preconditioner of the second solve.
        rtol: Relative residual norm at which an item stops, for both solves.
        products: Maximum number of exact products.
        inner_iterations: Maximum number of products with the measured covariance.
    """
    u, shift = preconditioned_gmres(exact, linear, residual, variance=variance, lam=lam, rtol=rtol, max_iterations=products)
    w = linear.precondition(u, lam)
    left = residual - variance * w - linear(shift)
    del u, w  # Large images: the second solve takes the most memory.
    noise = floor.clamp(min=variance)
    rest = measured_gain(measured, linear, left, noise=noise, softest=softest, rtol=rtol, max_iterations=inner_iterations)
    return shift + rest


def measured_gain(
    measured: ErrorCovariance,
    linear: LinearOperator,
    residual: Tensor,
    *,
    noise: Tensor,
    softest: Tensor,
    rtol: float,
    max_iterations: int,
) -> Tensor:
    r"""Return :math:`V A^\top (s I + A V A^\top)^{-1} r` by conjugate gradients, without evaluating the network.

    There are two preconditioners. One assumes that :math:`V` is isotropic. The other is :math:`A (V + s I)^{-1} A^\top`, which
    differs from the inverse only by the coupling through the unmeasured entries. It is used where :math:`A` has orthonormal
    rows, as masks have, and more than half as many rows as columns; there it reduces the number of products to between a third
    and a sixteenth.

    Args:
        measured: :math:`V`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        noise: :math:`s > 0`.
        softest: Smallest :math:`\lambda` of the first preconditioner.
        rtol: Residual norm at which an item stops, relative to its initial one.
        max_iterations: Maximum number of products with :math:`V`.
    """
    isotropic = torch.maximum(noise / over_items(measured.level, residual), softest)

    def product(u: Tensor) -> Tensor:
        return noise * u + linear(measured.product(linear.adjoint(u)))

    orthonormal, complete = _rows(linear, residual)
    which = over_items(complete, residual)
    a_factor, some, every = torch.stack([orthonormal.all(), complete.any(), complete.all()]).tolist()

    def precondition(u: Tensor) -> Tensor:
        if every:
            return linear(measured.solve(linear.adjoint(u), noise))
        # As if V were isotropic. For orthonormal rows this is a scalar factor, which conjugate gradients ignore.
        z = u if a_factor else linear.precondition(u, isotropic)
        return torch.where(which, linear(measured.solve(linear.adjoint(u), noise)), z) if some else z

    u = conjugate_gradients(product, residual, precondition=precondition, rtol=rtol, max_iterations=max_iterations)
    return measured.product(linear.adjoint(u))


def _rows(linear: LinearOperator, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return per item of ``v`` if the rows of ``linear`` are orthonormal, and if also more than half as many as its columns."""
    measured = linear.keep_measured(v)
    orthonormal = norm(linear(linear.adjoint(measured)) - measured) < 1e-3 * norm(measured)
    many = 2 * torch.as_tensor(linear.dof, device=v.device) > torch.Size(linear.in_shape).numel()
    return orthonormal, orthonormal & many
