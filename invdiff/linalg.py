r"""Linear algebra per item: inner products, Krylov solvers, small systems, adjoints.

Data are ``(B, *event)`` and nothing here mixes the items of a batch: every reduction runs over ``flatten(1)``, and every solver
stops item by item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Spectrum",
    "conjugate_gradients",
    "dense_matrix",
    "dense_matrix_per_item",
    "dot",
    "gmres",
    "krylov_spectrum",
    "largest_singular_value",
    "largest_singular_values",
    "least_squares",
    "linear_adjoint",
    "norm",
    "over_items",
    "positive_eigen",
    "positive_solve",
]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each item of ``a`` with the same item of ``b``, shape ``(B,)``."""
    return (a * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each item, shape ``(B,)``."""
    lengths: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return lengths


def over_items(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``values`` of shape ``(B,)`` so that it broadcasts against ``like`` of shape ``(B, *event)``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-6,
    max_iterations: int = 1000,
) -> Tensor:
    r"""Solve :math:`M v = b` for a symmetric positive semi-definite :math:`M`, independently for each item.

    An item stops at :math:`\|b - M v\| \le \text{rtol}\, \|b\|`, or when a direction has no positive curvature (a learned
    Jacobian need not be positive). It is then left unchanged while the others continue. The iteration starts at zero, so for a
    singular but consistent system the result is the solution of least norm (without a preconditioner). An item that is not
    finite stays so: NaN never becomes zero.

    Args:
        product: :math:`v \mapsto M v` on ``(B, *event)``.
        b: Right-hand sides, ``(B, *event)``.
        precondition: :math:`r \mapsto P r`, symmetric and positive, an approximation of :math:`M^{-1}`: the closer, the fewer
            products are needed. An item on which it is not positive stops. Default: the identity.
        rtol: Norm of the residual to reach, relative to the norm of each item of ``b``.
        max_iterations: Maximum number of products.

    References:
        Saad, Iterative Methods for Sparse Linear Systems, 2003, algorithm 9.1, https://doi.org/10.1137/1.9780898718003
    """
    v, r = torch.zeros_like(b), b.clone()
    z = r if precondition is None else precondition(r)
    p, rr, rz = z.clone(), dot(r, r), dot(r, z)  # a copy: r is updated in place, and z may be r
    target = rtol**2 * rr
    going = (rr > target) | ~rr.isfinite()
    for _ in range(max_iterations):
        if not going.any():
            break
        m_p = product(p)
        curvature = dot(p, m_p)
        going = going & ~(curvature <= 0) & ~(rz <= 0)
        # Where an item has stopped, its step is zero: it does not depend on how long its neighbors run.
        step = over_items(torch.where(going, rz / torch.where(going, curvature, 1), 0), b)
        v.addcmul_(step, p)
        r.addcmul_(step, m_p, value=-1)
        z = r if precondition is None else precondition(r)
        rz_new = dot(r, z)
        turn = torch.where(going, rz_new / torch.where(rz > 0, rz, 1), 0)
        p = torch.addcmul(z, over_items(turn, b), p)
        rz, rr = torch.where(going, rz_new, rz), torch.where(going, dot(r, r), rr)
        going = going & (rr > target)
    return v


def least_squares(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    damping: Tensor | float = 0.0,
    start: Tensor | None = None,
    rtol: float = 1e-6,
    max_iterations: int = 1000,
) -> Tensor:
    r"""Return :math:`\arg\min_x \|b - A x\|^2 + \rho \|x\|^2` by conjugate gradients, independently for each item.

    Without damping and start this is :math:`A^+ b`, the least-squares solution of least norm. The objective decreases with
    every iteration, so stopping early is safe.

    In exact arithmetic these are the iterates of :func:`conjugate_gradients` for the normal equations,
    :math:`(A^\top A + \rho I) x = A^\top b`. Here the residual :math:`b - A x` is updated, and :math:`A^\top` is applied to it
    in every iteration. Rounding errors in the null space of :math:`A` are therefore new in every iteration; in
    :func:`conjugate_gradients` they are kept, and grow without bound once nothing else is left.

    An item stops at :math:`\|A^\top (b - A x) - \rho x\| \le \text{rtol}\, \|A^\top b\|`, or when the left-hand side reaches
    the rounding error of the product. An item that is not finite stays so.

    Args:
        forward: :math:`x \mapsto A x`.
        adjoint: :math:`y \mapsto A^\top y`.
        b: Right-hand sides, ``(B, *event)``.
        damping: :math:`\rho \ge 0`, a scalar, or one value per item, ``(B,)``.
        start: Starting point, used for the items for which its objective is smaller than that of 0. Default: 0.
        rtol: Norm of :math:`A^\top (b - A x) - \rho x` to reach, relative to that of :math:`A^\top b`.
        max_iterations: Maximum number of products with :math:`A`, and with :math:`A^\top`.

    References:
        Bjorck, Elfving & Strakos, Stability of Conjugate Gradient and Lanczos Methods for Linear Least Squares Problems, 1998,
        https://doi.org/10.1137/S089547989631202X
    """
    r, s = b, adjoint(b)
    x, ss = torch.zeros_like(s), dot(s, s)
    rho = torch.as_tensor(damping, dtype=ss.dtype, device=ss.device).expand_as(ss)
    target, rounding, gain = rtol**2 * ss, (4 * torch.finfo(b.dtype).eps) ** 2, torch.zeros_like(ss)
    if start is not None:
        left = b - forward(start)
        better = over_items(dot(left, left) + rho * dot(start, start) < dot(b, b), start)
        x, r = torch.where(better, start, 0), torch.where(over_items(better.flatten(), b), left, b)
        s = adjoint(r) - over_items(rho, x) * x
        ss = dot(s, s)
    p = s
    going = (ss > target) | ~ss.isfinite()
    for _ in range(max_iterations):
        if not going.any():
            break
        a_p = forward(p)
        pp = dot(p, p)
        curvature = dot(a_p, a_p) + rho * pp
        going = going & ~(curvature <= 0)
        gain = torch.maximum(gain, curvature / torch.where(pp > 0, pp, 1))  # Lower bound of the norm of A^T A.
        step = torch.where(going, ss / torch.where(going, curvature, 1), 0)
        x, r = x + over_items(step, x) * p, r - over_items(step, r) * a_p
        s = adjoint(r) - over_items(rho, x) * x
        ss_new = dot(s, s)
        p = torch.where(over_items(going, p), s + over_items(ss_new / torch.where(ss > 0, ss, 1), p) * p, p)
        ss = torch.where(going, ss_new, ss)
        going = going & (ss > torch.maximum(target, rounding * gain * dot(r, r)))
    return x


def gmres(
    product: Callable[[Tensor], tuple[Tensor, Tensor]], b: Tensor, *, rtol: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`M v = b` for any square :math:`M` by minimal residuals over Krylov spaces, independently for each item.

    After :math:`k` products, :math:`v` is the element of :math:`\mathrm{span}(b, M b, \dots, M^{k-1} b)` with the smallest
    :math:`\|b - M v\|`. The residual cannot grow: stopping early is safe if :math:`M` is ill-conditioned, not quite symmetric
    or not quite positive. An item stops at ``rtol``, or when its Krylov space is exhausted; an item that is not finite stays
    so.

    Args:
        product: Maps ``q`` of shape ``(B, *event)`` to :math:`M q` and a by-product :math:`L q`, linear in ``q``.
        b: Right-hand sides, ``(B, *event)``.
        rtol: Norm of the residual to reach, relative to the norm of each item of ``b``.
        max_iterations: Maximum number of products; as many vectors and by-products are kept.

    Returns:
        :math:`v` and :math:`L v`, the latter summed from the by-products without another product.

    References:
        Saad & Schultz, GMRES, 1986, https://doi.org/10.1137/0907058
    """
    length = norm(b)
    directions, by_products = [b / over_items(torch.where(length > 0, length, 1), b)], []
    triangle = b.new_zeros(len(b), max_iterations, max_iterations)
    rhs = b.new_zeros(len(b), max_iterations + 1)
    rhs[:, 0] = length
    rotations: list[tuple[Tensor, Tensor]] = []
    used = torch.zeros(len(b), dtype=torch.long, device=b.device)
    going = ~(length == 0)
    for k in range(max_iterations):
        if k and not going.any():  # One product is needed in any case: for the by-product.
            break
        w, by_product = product(directions[k])
        by_products.append(by_product)
        scale, column = norm(w), []
        for q in directions:
            column.append(dot(q, w))
            w = w - over_items(column[-1], w) * q
        below = norm(w)
        for i, (cos, sin) in enumerate(rotations):
            column[i], column[i + 1] = cos * column[i] + sin * column[i + 1], cos * column[i + 1] - sin * column[i]
        radius = torch.hypot(column[k], below)
        # If the product lies in the span of the directions, up to rounding, the Krylov space is exhausted.
        going = going & ~(radius <= 10 * torch.finfo(b.dtype).eps * scale)
        safe = torch.where(radius > 0, radius, 1)
        cos, sin = column[k] / safe, below / safe
        rotations.append((cos, sin))
        triangle[:, : k + 1, k] = torch.stack([*column[:k], radius], 1)
        rhs[:, k], rhs[:, k + 1] = cos * rhs[:, k], -sin * rhs[:, k]
        used = torch.where(going, k + 1, used)
        going = going & ~(rhs[:, k + 1].abs() <= rtol * length)
        directions.append(w / over_items(torch.where(below > 0, below, 1), w))
    # For items that stopped early, later directions do not count, however long their neighbors ran.
    counts = torch.arange(max_iterations, device=b.device) < used[:, None]
    identity = torch.eye(max_iterations, dtype=b.dtype, device=b.device)
    triangle = torch.where(counts[:, :, None] & counts[:, None, :], triangle, identity)
    weights = torch.linalg.solve_triangular(triangle, torch.where(counts, rhs[:, :-1], 0).unsqueeze(-1), upper=True).squeeze(-1)
    if not by_products:
        by_products.append(product(directions[0])[1])
    v = sum((over_items(weights[:, i], q) * q for i, q in enumerate(directions[:-1])), torch.zeros_like(b))
    by = sum((over_items(weights[:, i], q) * q for i, q in enumerate(by_products)), torch.zeros_like(by_products[0]))
    return v, by


def positive_solve(matrix: Tensor, b: Tensor, *, floor: Tensor | float) -> Tensor:
    r"""Solve small systems :math:`M v = b` after raising the eigenvalues of :math:`M` to at least ``floor`` :math:`> 0`.

    Args:
        matrix: Matrices ``(B, d, d)``; the symmetric part is used. Where a matrix is not finite, neither is the solution.
        b: Right-hand sides, ``(B, d)``.
        floor: Smallest allowed eigenvalue, to one part in a thousand; a scalar, or one value per item, ``(B,)``.
    """
    matrix = (matrix + matrix.mT) / 2
    floor = torch.as_tensor(floor, dtype=b.dtype, device=b.device).expand(len(b))
    identity = torch.eye(b.shape[1], dtype=b.dtype, device=b.device)
    # Eigenvectors cost ten times a Cholesky factor, and most matrices need no change: the shifted matrix has a factor.
    _, failed = torch.linalg.cholesky_ex(matrix - 0.999 * floor[:, None, None] * identity)
    finite = matrix.isfinite().flatten(1).all(1)
    high, low = finite & (failed == 0), finite & (failed != 0)
    if high.all():
        return torch.cholesky_solve(b.unsqueeze(-1), torch.linalg.cholesky_ex(matrix)[0]).squeeze(-1)
    v = torch.full_like(b, torch.nan)
    v[high] = torch.cholesky_solve(b[high].unsqueeze(-1), torch.linalg.cholesky_ex(matrix[high])[0]).squeeze(-1)
    values, vectors = torch.linalg.eigh(matrix[low])
    coefficients = (vectors.mT @ b[low].unsqueeze(-1)).squeeze(-1) / torch.maximum(values, floor[low, None])
    v[low] = (vectors @ coefficients.unsqueeze(-1)).squeeze(-1)
    return v


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Expansion of a vector in an eigenbasis of a symmetric positive map :math:`M`, item by item.

    Attributes:
        basis: Orthonormal rows, ``(B, k, n)``.
        values: Non-negative eigenvalues, ``(B, k)``.
        coefficients: Coefficients of the vector in the basis, ``(B, k)``.
        shape: Shape of the vector, ``(B, *event)``.
    """

    basis: Tensor
    values: Tensor
    coefficients: Tensor
    shape: torch.Size

    def apply(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return :math:`f(M) v`; ``function`` is applied to the eigenvalues."""
        weights = function(self.values) * self.coefficients
        return torch.einsum("bk,bkn->bn", weights, self.basis).reshape(self.shape)

    def take(self, rows: Tensor) -> Spectrum:
        """Return the expansions of the items ``rows``, which may repeat."""
        shape = torch.Size([len(rows), *self.shape[1:]])
        return Spectrum(self.basis[rows], self.values[rows], self.coefficients[rows], shape)


def krylov_spectrum(product: Callable[[Tensor], Tensor], v: Tensor, *, iterations: int) -> Spectrum:
    r"""Return the Ritz values and vectors of :math:`M` in :math:`\mathrm{span}(v, M v, \dots, M^{k-1} v)`, for each item.

    The Lanczos method with every direction orthogonalized against all earlier ones. The projected matrix is symmetrized and its
    negative eigenvalues are raised to zero, for maps that are only nearly symmetric and positive.

    Args:
        product: :math:`v \mapsto M v` on ``(B, *event)``.
        v: Starting vectors, ``(B, *event)``.
        iterations: Maximum number of products, :math:`k`.

    References:
        Saad, Iterative Methods for Sparse Linear Systems, 2003, chapter 6, https://doi.org/10.1137/1.9780898718003
    """
    iterations = min(iterations, v[0].numel())
    length = norm(v)
    q = v / over_items(torch.where(length > 0, length, 1), v)
    directions, projected = [q], v.new_zeros(len(v), iterations, iterations)
    for k in range(iterations):
        w = product(directions[k])
        scale = norm(w)
        for _ in range(2):  # Twice is enough for orthogonality up to rounding.
            for i, q in enumerate(directions):
                overlap = dot(q, w)
                projected[:, i, k] += overlap
                w = w - over_items(overlap, w) * q
        if k + 1 < iterations:
            below = norm(w)
            # If the space is exhausted, a zero direction leaves it unchanged.
            below = torch.where(below > 100 * torch.finfo(v.dtype).eps * scale, below, 0)
            projected[:, k + 1, k] = below
            directions.append(torch.where(over_items(below > 0, w), w / over_items(torch.where(below > 0, below, 1), w), 0))
    values, vectors = positive_eigen(projected)
    basis = torch.einsum("bki,bkn->bin", vectors, torch.stack([q.flatten(1) for q in directions], 1))
    return Spectrum(basis, values, length[:, None] * vectors[:, 0], v.shape)


def positive_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues ``(B, k)``, negative ones raised to zero, and eigenvectors of the symmetric parts of ``(B, k, k)``.

    Where a matrix is not finite, its eigenvalues are NaN.
    """
    finite = matrix.isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], (matrix + matrix.mT) / 2, 0))
    return torch.where(finite[:, None], values.clamp(min=0), torch.nan), vectors


def dense_matrix_per_item(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return the matrices ``(B, n, n)`` of a linear map that differs from item to item, with one product per unit vector.

    Args:
        product: Maps ``(B, *event)`` to ``(B, *event)``.
        like: A tensor ``(B, *event)`` with the shape, dtype and device of the data.
    """
    basis = torch.eye(like[0].numel(), dtype=like.dtype, device=like.device)
    columns = [product(e.reshape(like.shape[1:]).expand(like.shape)).flatten(1) for e in basis]
    return torch.stack(columns, -1)


def dense_matrix(
    product: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device, chunk: int = 256
) -> Tensor:
    """Return the matrix of a linear map by applying it to every unit vector of ``shape``: ``(outputs, inputs)``."""
    count = torch.Size(shape).numel()
    columns = []
    for start in range(0, count, chunk):
        rows = torch.arange(start, min(start + chunk, count), device=device)
        basis = torch.zeros(len(rows), count, dtype=dtype, device=device)
        basis[torch.arange(len(rows), device=device), rows] = 1
        columns.append(product(basis.reshape(-1, *shape)).flatten(1))
    return torch.cat(columns).mT.contiguous()


def linear_adjoint(function: Callable[[Tensor], Tensor], y: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    """Apply the adjoint of a linear ``function`` to ``y`` of shape ``(B, *out)`` by automatic differentiation."""
    with torch.inference_mode(False), torch.enable_grad():  # Also inside a caller's inference mode.
        x = torch.zeros(y.shape[0], *in_shape, dtype=y.dtype, device=y.device, requires_grad=True)
        (gradient,) = torch.autograd.grad(function(x), x, y)
    return gradient


def largest_singular_value(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    in_shape: tuple[int, ...],
    *,
    iterations: int = 30,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> float:
    """Return a lower bound of the norm of a linear map, by power iteration from a fixed start."""
    found = largest_singular_values(forward, adjoint, in_shape, items=1, iterations=iterations, device=device, dtype=dtype)
    return float(found)


def largest_singular_values(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    in_shape: tuple[int, ...],
    *,
    items: int,
    iterations: int = 30,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return lower bounds of the norms of a linear map that differs from item to item, ``(items,)`` in float64."""
    start = torch.randn(1, *in_shape, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)
    x = start.expand(items, *in_shape)
    values = norm(x)
    for _ in range(iterations):
        x = adjoint(forward(x / over_items(norm(x), x)))
        values = norm(x)
        if (values == 0).any():
            raise ValueError("The operator maps everything to zero: there is nothing to learn from the measurement.")
    return values.double().sqrt()
