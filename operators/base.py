r"""The interface of a measurement :math:`y = A(x) + n`.

Subclasses write the maths; the shapes are checked once, here. Structure that an algorithm can use (a closed form of
:math:`(A A^\top + \lambda I)^{-1}`) is declared by overriding ``solve``: pseudo-inverse, proximal map and exact Gaussian
draws all derive from that one primitive.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.random import Streams, generator

from .movable import Movable
from .noise import GaussianNoise
from .svd import SVD, DenseSVD

__all__ = ["Jacobian", "LinearOperator", "Operator", "pseudo_divide"]

DENSE_SOLVE = 512  # Measurements up to this size are solved with the eigenvectors of A A^T.
DENSE_SVD = 4096  # Both x and y up to this size: a matrix is decomposed where no structure is known.


class Operator(Movable, ABC):
    r"""A differentiable measurement :math:`y = A(x) + n`, linear or not.

    Attributes:
        in_shape: Shape of one ``x``, without the batch axis.
        out_shape: Shape of one ``y``.
        noise: The law of :math:`n`.
        device: Where the operator can be tried before there is a measurement. ``None``: anywhere.
        dtype: Dtype it can be tried in, likewise.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    noise: GaussianNoise
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the noiseless measurement of ``x`` of shape ``(B, *in_shape)``, in its dtype and on its device."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Self]:
        """Return small instances, one per distinct code path: what the shared tests run over."""

    @property
    def sigma_y(self) -> float:
        """Standard deviation of the noise, in the units of ``y``."""
        return self.noise.sigma

    @property
    def dof(self) -> int:
        r"""Number of values measured: the degrees of freedom of :math:`\|y - A(x)\|^2 / \sigma_y^2`."""
        return torch.Size(self.out_shape).numel()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the noiseless measurement ``A(x)``."""
        if tuple(x.shape[1:]) != self.in_shape or x.ndim != len(self.in_shape) + 1:
            raise ValueError(
                f"{type(self).__name__}: expected x of shape (B, {', '.join(map(str, self.in_shape))}), got {tuple(x.shape)}."
            )
        return self.forward(x)

    def keep_measured(self, y: Tensor) -> Tensor:
        """Return ``y`` with zeros where it holds no measurement; the same ``y`` where all of it is one."""
        return y

    def measure(self, x: Tensor, *, seed: int) -> Tensor:
        """Return ``op(x)`` plus noise. The noise of item ``b`` depends on ``seed`` and ``b`` alone."""
        y = self(x)
        return self.noise.add(y, Streams([generator(seed, "measure", b, 0, device=y.device) for b in range(len(y))]))

    def jacobian(self, x: Tensor) -> LinearOperator:
        r"""Return :math:`\partial A / \partial x` at ``x`` of shape ``(B, *in_shape)``: one linear map per item."""
        return Jacobian(self, x)


class LinearOperator(Operator):
    r"""A measurement that is linear: :math:`y = A x + n`.

    ``adjoint`` must be the exact adjoint of ``forward``; ``solve`` is worth overriding wherever it has a closed form.

    Attributes:
        closed_form: Whether ``solve`` costs about as much as ``forward``.
    """

    closed_form: bool = False
    _svd: SVD | None

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        r"""Return :math:`A^\top y` for ``y`` of shape ``(B, *out_shape)``."""

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return :math:`(A A^\top + \lambda I)^{-1} v`; for :math:`\lambda = 0` the pseudo-inverse :math:`(A A^\top)^+ v`.

        Measurements of up to 512 numbers are solved by the eigenvectors of :math:`A A^\top`, larger ones by conjugate
        gradients with ``precondition``, to a relative residual of 1e-6 in float32 and 1e-12 in float64.

        Args:
            v: ``(B, *out_shape)``.
            lam: :math:`\lambda \ge 0`, a number, or one number per item as a tensor of shape ``(B, 1, ..., 1)``.
        """
        if torch.Size(self.out_shape).numel() > DENSE_SOLVE:
            return self._solve_iteratively(v, lam)
        values, vectors = (part.to(v) for part in self._gram_eigen())
        lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device)
        lam = lam.reshape(*lam.shape[:1], 1) if lam.ndim else lam
        return (pseudo_divide(v.flatten(1) @ vectors, values, lam) @ vectors.mT).reshape(v.shape)

    def pinv(self, y: Tensor) -> Tensor:
        r"""Return :math:`A^+ y = A^\top (A A^\top)^+ y`, the least-squares solution of least norm."""
        return self.adjoint(self.solve(y, 0.0))

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        r"""Return :math:`\arg\min_x \|y - A x\|^2 + \rho \|x - z\|^2 = z + A^\top (A A^\top + \rho I)^{-1} (y - A z)`."""
        return z + self.adjoint(self.solve(y - self(z), rho))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return a cheap linear approximation of :math:`(A A^\top + \lambda I)^{-1} v`, for iterative solvers.

        It is ``solve`` where that has a closed form or the measurement is small, and ``v`` itself where nothing is known.
        """
        return self.solve(v, lam) if self.closed_form or torch.Size(self.out_shape).numel() <= DENSE_SOLVE else v

    @property
    def svd(self) -> SVD | None:
        r"""The decomposition :math:`A = U \operatorname{diag}(s) V^\top`, made on first use; ``None`` if none is affordable.

        Masks, circular and separable blur, downsampling and matrices have one at any size (matrices up to 4096 columns);
        any other operator only where ``x`` and ``y`` have at most 4096 numbers each: then its matrix is decomposed, on the
        CPU in float64, which takes seconds to minutes for the largest.
        """
        if not hasattr(self, "_svd"):
            with torch.inference_mode(False), torch.no_grad():  # Kept, so fit for differentiation later on.
                self._svd = self._decompose()
        return self._svd

    def jacobian(self, x: Tensor) -> LinearOperator:
        return self

    def _decompose(self) -> SVD | None:
        if max(torch.Size(self.in_shape).numel(), torch.Size(self.out_shape).numel()) > DENSE_SVD:
            return None
        return DenseSVD(self._dense_adjoint().to("cpu", torch.float64), self.in_shape)

    def _solve_iteratively(self, v: Tensor, lam: Tensor | float) -> Tensor:
        rtol = 1e-12 if v.dtype == torch.float64 else 1e-6
        lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device)
        if not lam.any():
            # (A A^T)^+ = A (A^T A)^+2 A^T, two consistent systems. Where v has a part outside the range of A, as it has
            # for more measurements than unknowns, A A^T w = v has no solution and the iteration would run away.
            x = self.adjoint(v)
            for _ in range(2):
                x = conjugate_gradients(lambda w: self.adjoint(self.forward(w)), x, rtol=rtol)
            return self.forward(x)
        softened = self._soften(lam)
        return conjugate_gradients(
            lambda w: self.forward(self.adjoint(w)) + lam * w,
            v,
            precondition=lambda r: self.precondition(r, softened),
            rtol=rtol,
        )

    def _soften(self, lam: Tensor) -> Tensor:
        r"""Return the :math:`\lambda` at which ``precondition`` serves conjugate gradients best."""
        return lam

    def _gram_eigen(self) -> tuple[Tensor, Tensor]:
        # Kept in float64 on the CPU, where it is computed once; the caller casts. Fit for differentiation later on.
        if not hasattr(self, "_gram"):
            with torch.inference_mode(False), torch.no_grad():
                adjoint = self._dense_adjoint().to("cpu", torch.float64)
                # From the singular values of A: those of A A^T would lose half the digits of the small ones.
                outputs, inputs = adjoint.shape[1], adjoint.shape[0]
                _, singular, left = torch.linalg.svd(adjoint, full_matrices=inputs < outputs)
                values = torch.zeros(outputs, dtype=torch.float64)
                values[: len(singular)] = singular**2
                self._gram = values, left.mT.contiguous()
        return self._gram

    def _dense_adjoint(self) -> Tensor:
        """Return the matrix of the adjoint."""
        reference = self.to("cpu", torch.float64)
        return dense_matrix(reference.adjoint, self.out_shape, dtype=torch.float64, device=torch.device("cpu"))


class Jacobian(LinearOperator):
    """The derivative of a nonlinear operator at one point per item, by forward and reverse differentiation."""

    def __init__(self, op: Operator, x: Tensor) -> None:
        self.op, self.x = op, x.detach()
        self.in_shape, self.out_shape, self.noise = op.in_shape, op.out_shape, op.noise

    @classmethod
    def examples(cls) -> list[Self]:
        return []  # Tested through the nonlinear operators it derives from.

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # torch 2.15 compiles its own forward-mode formulas by what it has deprecated itself.
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            product: Tensor = torch.func.jvp(self.op, (self.x,), (x,))[1]
        return product

    def adjoint(self, y: Tensor) -> Tensor:
        product: Tensor = torch.func.vjp(self.op, self.x)[1](y)[0]
        return product

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return v

    def _decompose(self) -> None:
        return None  # One decomposition per item would be needed.

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # The map differs from item to item: no matrix to share, so always conjugate gradients.
        return self._solve_iteratively(v, lam)


def pseudo_divide(v: Tensor, gram: Tensor, lam: Tensor | float) -> Tensor:
    r"""Return ``v / (gram + lam)`` in a basis where :math:`A A^\top` is diagonal, and 0 where that is no longer invertible.

    Args:
        v: Coefficients, broadcastable with ``gram``.
        gram: Eigenvalues of :math:`A A^\top`, squares of the singular values of :math:`A`.
        lam: :math:`\lambda \ge 0`.
    """
    total = gram + (lam.to(gram) if isinstance(lam, Tensor) else lam)  # The result keeps the dtype of v.
    cut = (10 * torch.finfo(gram.dtype).eps) ** 2 * gram.amax()
    return torch.where(total > cut, v * (1 / torch.where(total > cut, total, 1)), 0)  # gram is smaller than v: divide there.
