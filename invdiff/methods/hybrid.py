r"""A few exact products with the denoiser's covariance, and a measured one for what they leave."""

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
NEARLY_EXACT = 1e-4  # of the norm of the operator: noise that stands for none where exact data make a system singular


def error_model_for(score: ScoreModel, covariance: str, *, small: bool) -> ErrorModel | None:
    """Return the model of the denoiser's error whose covariance is to be used; ``None``: that of the network's Jacobian.

    Args:
        score: The prior.
        covariance: ``jacobian``, ``measured``, or ``auto``: measured where the prior has one and the measurement is not small.
        small: Whether the measurement is small enough to be solved exactly.

    Raises:
        ValueError: If there is no such choice, or the error of the prior was not measured.
    """
    if covariance not in COVARIANCES:
        raise ValueError(f"MMPS: covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}.")
    if covariance == "measured" and score.error_model is None:
        raise ValueError(
            "MMPS: covariance='measured' needs a prior whose error was measured (invdiff priors measure, or "
            "priors.measure_error), and this one's was not."
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
    r"""Solve :math:`(\sigma_y^2 I + A V A^\top) P u = r` by GMRES, :math:`P` the preconditioner of the operator.

    Args:
        product: :math:`v \mapsto V v`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        variance: :math:`\sigma_y^2`.
        lam: :math:`\lambda` of :math:`P \approx (A A^\top + \lambda I)^{-1}`, which is on the right: the first direction is the
            answer for an isotropic covariance.
        rtol: Residual at which an item stops, relative to its own.
        max_iterations: Products at most.

    Returns:
        :math:`u` and :math:`V A^\top P u`, the latter added up from the products of the iterations.
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
    r"""Return :math:`V A^\top (\sigma_y^2 I + A V A^\top)^{-1} r`, with :math:`V_J` for :math:`V` as far as it goes.

    .. math:: \text{shift} = V_J A^\top w + V A^\top (\sigma_y^2 I + A V A^\top)^{-1}
        \big[ r - \sigma_y^2 w - A V_J A^\top w \big]

    :math:`w` is what GMRES finds with ``products`` exact products with :math:`V_J`, the measured :math:`V` answers what they
    leave, by conjugate gradients. Where the first solve ends, or :math:`V = V_J`, that is the exact answer.

    Args:
        exact: :math:`v \mapsto V_J v`, a vector-Jacobian product of the network.
        measured: :math:`V`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        variance: :math:`\sigma_y^2`.
        floor: What stands for :math:`\sigma_y^2` in the second solve at least: without any noise it is singular, or nearly.
        lam: Of the preconditioner of the first solve.
        softest: Smallest :math:`\lambda` for that of the second.
        rtol: Residual at which an item stops, of either solve.
        products: Exact products at most.
        inner_iterations: Products with the measured covariance at most.
    """
    u, shift = preconditioned_gmres(exact, linear, residual, variance=variance, lam=lam, rtol=rtol, max_iterations=products)
    w = linear.precondition(u, lam)
    left = residual - variance * w - linear(shift)
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
    r"""Return :math:`V A^\top (s I + A V A^\top)^{-1} r` by conjugate gradients, which ask no network.

    Two preconditioners. One takes :math:`V` for isotropic. The other is :math:`A (V + s I)^{-1} A^\top`: the inverse, but for
    what leaks through the places that were not measured. Where ``A`` has orthonormal rows, as masks have, and more of them than
    half, it takes a third to a sixteenth of the products.

    Args:
        measured: :math:`V`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        noise: :math:`s > 0`.
        softest: Smallest :math:`\lambda` of the first preconditioner.
        rtol: Residual at which an item stops, relative to its own.
        max_iterations: Products with :math:`V` at most.
    """
    isotropic = torch.maximum(noise / over_items(measured.level, residual), softest)

    def product(u: Tensor) -> Tensor:
        return noise * u + linear(measured.product(linear.adjoint(u)))

    orthonormal, complete = _rows(linear, residual)
    which, a_factor, some = over_items(complete, residual), bool(orthonormal.all()), bool(complete.any())

    def precondition(u: Tensor) -> Tensor:
        # As if V were isotropic, which for orthonormal rows is a factor, and changes nothing.
        z = u if a_factor else linear.precondition(u, isotropic)
        return torch.where(which, linear(measured.solve(linear.adjoint(u), noise)), z) if some else z

    u = conjugate_gradients(product, residual, precondition=precondition, rtol=rtol, max_iterations=max_iterations)
    return measured.product(linear.adjoint(u))


def _rows(linear: LinearOperator, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return for which items of ``v`` the rows of ``linear`` are orthonormal, and are more than half as many as columns too."""
    measured = linear.keep_measured(v)
    orthonormal = norm(linear(linear.adjoint(measured)) - measured) < 1e-3 * norm(measured)
    many = 2 * torch.as_tensor(linear.dof, device=v.device) > torch.Size(linear.in_shape).numel()
    return orthonormal, orthonormal & many
