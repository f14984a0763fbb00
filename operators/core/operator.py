r"""The interface of a measurement :math:`y = A(x) + n`.

Subclasses implement the mathematics; shapes are checked once, here. A subclass that has a closed form of
:math:`(A A^\top + \lambda I)^{-1}` overrides ``solve``: the pseudo-inverse, the proximal map and exact Gaussian draws are
all derived from that one primitive.
"""

from __future__ import annotations

import copy
import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, SupportsFloat, cast, overload

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from invdiff.linalg import conjugate_gradients, dense_matrix, least_squares, linear_adjoint
from invdiff.movable import Movable
from invdiff.noise_covariance import NoiseCovariance
from invdiff.random import Streams, generator
from invdiff.trial import in_own_modes

from .algebra import algebra
from .autograd import is_followed, with_adjoint
from .completed import Completed
from .noise import GaussianNoise, Noise
from .pivot import pivot_of
from .svd import SVD, DenseSVD
from .torus import TorusConvolution
from .trial import checked_call
from .values import check_real, warn_of_pixels

__all__ = ["Jacobian", "LinearOperator", "Operator", "pseudo_divide"]

DENSE_SOLVE = 512  # Largest measurement dimension for which solve uses the eigenvectors of A A^T.
DENSE_NUMBERS = 2**24  # Largest number of matrix entries for the same: 128 MiB in float64.
DENSE_SVD = 4096  # Largest dimension of x and of y for which an operator without known structure is decomposed as a matrix.


class Operator(Movable, ABC):
    r"""A differentiable measurement :math:`y = A(x) + n`, linear or not.

    A subclass sets ``in_shape`` and writes ``forward``; everything else has a default.

    Attributes:
        in_shape: Shape of one ``x``, without the batch axis.
        out_shape: Shape of one ``y``, without the batch axis. Default: found by a trial call of ``forward`` on zeros.
        noise: The distribution of :math:`n`. Default: no noise, the data are exact.
        device: Device for trial calls made before a measurement is given. ``None``: any device works.
        dtype: Dtype for these trial calls. ``None``: any floating-point dtype works.
        surrogate: True if autograd returns a surrogate (straight-through) gradient, because the true derivative carries no
            information (it is zero almost everywhere).
    """

    in_shape: tuple[int, ...]
    noise: Noise = GaussianNoise(0.0)
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    surrogate: bool = False
    _out_shape: tuple[int, ...] | None = None
    __array_ufunc__ = None  # Makes numpy defer number * op to __rmul__.

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the noiseless measurement of ``x`` of shape ``(B, *in_shape)``, in the dtype and on the device of ``x``."""

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one ``y``, without the batch axis."""
        if self._out_shape is None:
            # Try it in the dtype and on the device of the tensors it holds.
            held = next((v for v in vars(self).values() if isinstance(v, Tensor) and v.is_floating_point()), torch.empty(0))
            zeros = torch.zeros(1, *self.in_shape, dtype=self.dtype or held.dtype, device=self.device or held.device)
            self._out_shape = tuple(checked_call(type(self).__name__, self.forward, zeros).shape[1:])
        return self._out_shape

    @out_shape.setter
    def out_shape(self, shape: tuple[int, ...]) -> None:
        self._out_shape = shape

    @property
    def sigma_y(self) -> float:
        """Standard deviation of the noise, in the units of ``y``; the smallest one where it differs between entries."""
        return self.noise.sigma

    @property
    def dof(self) -> int | Tensor:
        r"""Number of measured values: the degrees of freedom of :math:`\|y - A(x)\|^2 / \sigma_y^2`.

        A tensor of shape ``(B,)`` where it differs between items.
        """
        return torch.Size(self.out_shape).numel()

    @property
    def complete(self) -> bool:
        """True if every entry of ``y`` is measured."""
        dof, numel = self.dof, torch.Size(self.out_shape).numel()
        return bool((dof == numel).all()) if isinstance(dof, Tensor) else dof == numel

    @property
    def known(self) -> Tensor | None:
        r"""The entries of ``x`` that ``y`` gives exactly, boolean of shape ``in_shape``.

        For such an operator ``adjoint(op(x))`` equals ``x`` bit by bit in these entries, and tells nothing about the others:
        it measures as a noise-free :class:`~invdiff.operators.Mask` of them does. Samples then differ from each other only in
        the other entries, and are computed around these (``PosteriorSampler(..., windows="auto")``).

        ``None``, the default: no such entries are known. Operators with noise have none, because every entry remains to be
        denoised. So do operators with a separate operator for each item; see :attr:`distinct`.
        """
        return None

    @property
    def items(self) -> int | None:
        """Batch size, if every item of the batch has its own operator; ``None``: one operator for batches of any size.

        An operator built from other operators takes the value of the first one that has it, among its attributes and the
        entries of its tuple attributes.
        """
        values = (value if isinstance(value, tuple) else (value,) for value in vars(self).values())
        counts = (part.items for parts in values for part in parts if isinstance(part, Operator))
        return next((count for count in counts if count is not None), None)

    @property
    def distinct(self) -> Sequence[Operator]:
        """The operators of the single items, each at least once; only this operator if all items share it."""
        return [self] if self.items is None else [self.take([b]) for b in range(self.items)]

    def take(self, rows: Sequence[int]) -> Operator:
        """Return the operator for these rows of the batch, which may repeat. Returns itself if all items share it."""
        if self.items is None:
            return self
        taken = copy.copy(self)
        for name, value in vars(self).items():
            if name in ("_svd", "_gram"):  # Cached for other rows.
                delattr(taken, name)
            elif isinstance(value, Operator):
                setattr(taken, name, value.take(rows))
            elif isinstance(value, tuple):
                setattr(taken, name, tuple(part.take(rows) if isinstance(part, Operator) else part for part in value))
        return taken

    def __call__(self, x: Tensor) -> Tensor:
        """Return the noiseless measurement ``A(x)``."""
        if not x.is_floating_point():
            check_real(f"{type(self).__name__}: x", x)
        if tuple(x.shape[1:]) != self.in_shape or x.ndim != len(self.in_shape) + 1:
            hint = " Add the batch axis: x[None]." if tuple(x.shape) == self.in_shape else ""
            wanted = f"(B, {', '.join(map(str, self.in_shape))})"
            raise ValueError(f"{type(self).__name__}: expected x of shape {wanted}, got {tuple(x.shape)}.{hint}")
        return self.forward(x)

    def __repr__(self) -> str:
        out = "..." if self._out_shape is None else self._out_shape  # No trial call just for a repr.
        shapes = f"{tuple(self.in_shape)} -> {out}"
        exact = isinstance(self.noise, GaussianNoise) and self.noise.sigma == 0
        return f"{type(self).__name__}({', '.join([shapes, *self._summary(), *([] if exact else [repr(self.noise)])])})"

    def _summary(self) -> Sequence[str]:
        """Return the parts of ``repr`` other than the shapes and the noise."""
        return ()

    def keep_measured(self, y: Tensor) -> Tensor:
        """Return ``y`` with its unmeasured entries set to 0; ``y`` itself if every entry is measured."""
        return y

    def measure(self, x: Tensor, *, seed: int) -> Tensor:
        """Return ``op(x)`` plus noise. The noise of item ``b`` depends on ``seed`` and ``b`` only.

        Values of ``x`` that look like pixels from 0 to 255 give a warning, because images span [-1, 1].

        Raises:
            TypeError: If ``x`` is no tensor of floating-point numbers.
            ValueError: If ``x`` is complex, or its shape or that of the noise is wrong.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{type(self).__name__}: x must be a tensor, got {type(x).__name__}. Convert it: torch.as_tensor(x)."
            )
        self.noise.check(type(self).__name__, self.out_shape)
        with in_own_modes():
            y = self(x)
            streams = Streams([generator(seed, "measure", b, 0, device=y.device) for b in range(len(y))])
            y = self.keep_measured(self.noise.add(y, streams))
        warn_of_pixels(f"{type(self).__name__}.measure: x", x)
        return y

    def jacobian(self, x: Tensor) -> LinearOperator:
        r"""Return :math:`\partial A / \partial x` at ``x`` of shape ``(B, *in_shape)``: one linear map per item."""
        return Jacobian(self, x)

    def linearized(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        r"""Return :math:`A(x)` and :meth:`jacobian` at ``x``, evaluating the operator only once where that is possible."""
        linear = self.jacobian(x)
        return (linear.value, linear) if isinstance(linear, Jacobian) else (self(x), linear)

    def __matmul__(self, other: Operator) -> Operator:
        """Return the composition ``x -> self(other(x))``, with the noise of ``self``."""
        return algebra().compose(self, other) if isinstance(other, Operator) else NotImplemented

    def __add__(self, other: Operator) -> Operator:
        """Return the sum ``x -> self(x) + other(x)``; the noise variances add."""
        return algebra().add(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        """Return the difference ``x -> self(x) - other(x)``; the noise variances add."""
        return self + -other if isinstance(other, Operator) else NotImplemented

    def __mul__(self, factor: SupportsFloat) -> Operator:
        """Return ``x -> factor * self(x)``; the noise is scaled too."""
        return algebra().scale(self, float(factor)) if isinstance(factor, SupportsFloat) else NotImplemented

    def __rmul__(self, factor: SupportsFloat) -> Operator:
        return self * factor

    def __neg__(self) -> Operator:
        return self * -1.0


class LinearOperator(Operator):
    r"""A linear measurement :math:`y = A x + n`.

    An overridden ``adjoint`` must be the exact adjoint of ``forward``. Override ``solve`` wherever it has a closed form.

    Attributes:
        closed_form: True if ``solve`` costs about as much as ``forward``.
        gram_scale: The number :math:`c > 0` for which :math:`A A^\top y = c\, y` on the measured entries of ``y`` and 0 on
            the others, so that :math:`A A^\top` is :math:`c` times ``keep_measured``: the rows of measured entries are
            orthogonal with squared norm :math:`c`. ``None``: no such number is known.
    """

    closed_form: bool = False
    gram_scale: float | None = None
    _svd: SVD | None

    # Linear operators combine to linear operators: the signatures are repeated for type checkers.

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Operator) -> Operator: ...
    def __matmul__(self, other: Operator) -> Operator:
        return super().__matmul__(other)

    @overload
    def __add__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __add__(self, other: Operator) -> Operator: ...
    def __add__(self, other: Operator) -> Operator:
        return super().__add__(other)

    @overload
    def __sub__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __sub__(self, other: Operator) -> Operator: ...
    def __sub__(self, other: Operator) -> Operator:
        return super().__sub__(other)

    def __mul__(self, factor: SupportsFloat) -> LinearOperator:
        return cast(LinearOperator, super().__mul__(factor))

    def __rmul__(self, factor: SupportsFloat) -> LinearOperator:
        return self * factor

    def __neg__(self) -> LinearOperator:
        return self * -1.0

    def take(self, rows: Sequence[int]) -> LinearOperator:
        return cast(LinearOperator, super().take(rows))

    @property
    def per_item(self) -> bool:
        """True if every item of the batch has its own matrix."""
        return self.items is not None

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Return :math:`A^\top y` for ``y`` of shape ``(B, *out_shape)``. Default: by automatic differentiation."""
        # The result of automatic differentiation is not differentiable itself; with_adjoint supplies ``forward`` for that.
        return with_adjoint(y, lambda v: linear_adjoint(self.forward, v, self.in_shape), self.forward)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return :math:`(A A^\top + \lambda I)^{-1} v`; for :math:`\lambda = 0` the pseudo-inverse :math:`(A A^\top)^+ v`.

        For a measurement dimension of at most 512, and a matrix of at most 16 million entries, the eigenvectors of
        :math:`A A^\top` are used. Larger systems are solved by conjugate gradients with ``precondition``, to a relative
        residual of 1e-6 in float32 and 1e-12 in float64.

        Args:
            v: Right-hand side, ``(B, *out_shape)``.
            lam: :math:`\lambda \ge 0`, a number, or one number per item as a tensor of shape ``(B, 1, ..., 1)``.
        """
        if not self._small:
            return self._solve_iteratively(v, lam)
        values, vectors = (part.to(v) for part in self._gram_eigen(v.device))
        lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device)
        lam = lam.reshape(*lam.shape[:1], 1) if lam.ndim else lam
        return (pseudo_divide(v.flatten(1) @ vectors, values, lam) @ vectors.mT).reshape(v.shape)

    def pinv(self, y: Tensor) -> Tensor:
        r"""Return :math:`A^+ y = A^\top (A A^\top)^+ y`, the least-squares solution of minimum norm."""
        if self.closed_form or self._small:
            return self.adjoint(self.solve(y, 0.0))
        # One system instead of two in solve, and better conditioned.
        return least_squares(self.forward, self.adjoint, y, rtol=_rtol(y))

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        r"""Return :math:`\arg\min_x \|y - A x\|^2 + \rho \|x - z\|^2 = z + A^\top (A A^\top + \rho I)^{-1} (y - A z)`."""
        residual = y - self(z)
        if self.closed_form or self._small:
            return z + self.adjoint(self.solve(residual, rho))
        # Iterations in measurement space can stop far from the solution if rho is small; in image space every one improves it.
        known = type(self).precondition is not LinearOperator.precondition
        start = self.adjoint(self.solve(residual, rho)) if known else None
        damping = rho.flatten() if isinstance(rho, Tensor) else rho
        return z + least_squares(self.forward, self.adjoint, residual, damping=damping, start=start, rtol=_rtol(residual))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return a cheap linear approximation of :math:`(A A^\top + \lambda I)^{-1} v`, for iterative solvers.

        The default is ``solve`` if that has a closed form or the measurement is small, else ``v`` itself (no preconditioner).
        """
        return self.solve(v, lam) if self.closed_form or self._small else v

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        r"""The transpose :math:`A^\top`, from measurements to images, without noise."""
        return algebra().transpose(self)

    @property
    def svd(self) -> SVD | None:
        r"""The singular value decomposition :math:`A = U \operatorname{diag}(s) V^\top`; ``None`` if it would be too expensive.

        It is computed on first use. Masks, circular and separable blur, downsampling and matrices have one at any size
        (matrices up to 4096 columns). Any other operator has one only if ``x`` and ``y`` have at most 4096 entries each: its
        matrix is then decomposed on the CPU in float64, which takes seconds to minutes for the largest.
        """
        if not hasattr(self, "_svd"):
            with torch.inference_mode(False), torch.no_grad():  # Cached tensors must not be inference tensors.
                self._svd = self._decompose()
        return self._svd

    def pivot(self, x: Tensor, ratio: Tensor | float, y: Tensor) -> tuple[Tensor, NoiseCovariance] | None:
        r"""Return the pivot of a noisy ``x`` and a measurement, and the covariance of the noise of the pivot.

        .. math:: \mu = \Sigma\, (x / \varsigma^2 + A^\top y / \sigma_y^2), \qquad
            \Sigma = (I / \varsigma^2 + A^\top A / \sigma_y^2)^{-1}

        Given :math:`x_0`, ``x`` and ``y`` are independent Gaussian observations, and :math:`\mu` is a sufficient statistic
        of the two: :math:`\mu = x_0 + n` with :math:`n \sim \mathcal{N}(0, \Sigma)`. So
        :math:`E[x_0 | x, y] = E[x_0 | \mu]` for every prior. Exact data, :math:`\sigma_y = 0`, are the limit.

        Args:
            x: :math:`x_0` plus noise of standard deviation :math:`\varsigma`, ``(B, *in_shape)``.
            ratio: :math:`\varsigma > 0`, a number or one per item, ``(B,)``.
            y: The measurement, with the white noise of the operator, ``(B, *out_shape)``.

        Returns:
            :math:`\mu`, shaped like ``x``, and :math:`\Sigma` in the singular basis; ``None`` if the operator has no ``svd``
            or its noise is not white Gaussian.

        References:
            Mammadov et al., 2026, https://arxiv.org/abs/2606.17048
        """
        return pivot_of(self, x, ratio, y)

    @property
    def completed(self) -> Completed | None:
        """The same measurement with its unrecorded entries, if that has a fast singular basis and this one does not."""
        return None

    def as_torus_convolution(self) -> TorusConvolution | None:
        """Describe the operator as a convolution on a torus, so that two of them can be merged; ``None`` if it is not one."""
        return None

    def jacobian(self, x: Tensor) -> LinearOperator:
        return self

    def linearized(self, x: Tensor) -> tuple[Tensor, LinearOperator]:
        return self(x), self

    @property
    def _small(self) -> bool:
        """True if all items share one matrix, small enough for its eigenvectors."""
        outputs, inputs = (torch.Size(shape).numel() for shape in (self.out_shape, self.in_shape))
        return not self.per_item and outputs <= DENSE_SOLVE and outputs * inputs <= DENSE_NUMBERS

    def _decompose(self) -> SVD | None:
        if self.per_item or max(torch.Size(self.in_shape).numel(), torch.Size(self.out_shape).numel()) > DENSE_SVD:
            return None
        adjoint = self._dense_adjoint()
        # Returned in its own dtype, so that singular values are truncated at the rounding error of the matrix.
        return DenseSVD(adjoint.to("cpu", torch.float64), self.in_shape).to(dtype=adjoint.dtype)

    def _solve_iteratively(self, v: Tensor, lam: Tensor | float) -> Tensor:
        some, every = torch.stack([lam.any(), lam.all()]).tolist() if isinstance(lam, Tensor) else [lam != 0] * 2
        lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device)
        if some and not every:
            shifted = self._solve_iteratively(v, torch.where(lam > 0, lam, 1))
            return torch.where(lam > 0, shifted, self._solve_iteratively(v, 0.0))
        if not some:
            # (A A^T)^+ = (A^T)^+ A^+. If v has a part outside the range of A, as with more measurements than unknowns,
            # A A^T w = v has no solution.
            x = least_squares(self.forward, self.adjoint, v, rtol=_rtol(v))
            return least_squares(self.adjoint, self.forward, x, rtol=_rtol(v))
        softened = self._soften(lam)
        return conjugate_gradients(
            lambda w: self.forward(self.adjoint(w)) + lam * w,
            v,
            precondition=lambda r: self.precondition(r, softened),
            rtol=_rtol(v),
        )

    def _soften(self, lam: Tensor) -> Tensor:
        r"""Return the :math:`\lambda` at which ``precondition`` is the best preconditioner for conjugate gradients."""
        return lam

    def _gram_eigen(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Cached in float64 on the device that last needed them; the caller casts. They must not be inference tensors.
        if not hasattr(self, "_gram"):
            with torch.inference_mode(False), torch.no_grad():
                adjoint = self._dense_adjoint()
                rounding, adjoint = torch.finfo(adjoint.dtype).eps, adjoint.to("cpu", torch.float64)
                # From the singular values of A: the eigenvalues of A A^T would lose half the digits of the small ones.
                outputs, inputs = adjoint.shape[1], adjoint.shape[0]
                _, singular, left = torch.linalg.svd(adjoint, full_matrices=inputs < outputs)
                values = torch.zeros(outputs, dtype=torch.float64)
                values[: len(singular)] = torch.where(singular > 10 * rounding * singular.amax(), singular, 0) ** 2
                self._gram = values, left.mT.contiguous()
        if self._gram[0].device != device:
            with torch.inference_mode(False):
                self._gram = self._gram[0].to(device), self._gram[1].to(device)
        return self._gram

    def _dense_adjoint(self) -> Tensor:
        """Return the matrix of the adjoint, in float64 where the operator can be computed in it."""
        device = torch.device(self.device or "cpu")

        def columns(dtype: torch.dtype) -> Tensor:
            return dense_matrix(self.to(device, dtype).adjoint, self.out_shape, dtype=dtype, device=device)

        try:
            return columns(self.dtype or torch.float64)
        except RuntimeError:  # A callable may hold tensors of another dtype, the default one.
            return columns(torch.get_default_dtype())


class Jacobian(LinearOperator):
    """The Jacobian of a nonlinear operator at one point per item, by forward- and reverse-mode automatic differentiation.

    The graph of the operator's first evaluation is kept for further adjoints.
    """

    def __init__(self, op: Operator, x: Tensor) -> None:
        self.op, self.x = op, x.detach()
        self.in_shape, self.out_shape, self.noise = op.in_shape, op.out_shape, op.noise
        self.device, self.dtype = op.device, op.dtype

    def _summary(self) -> Sequence[str]:
        return (f"of {type(self.op).__name__} at {len(self.x)} points",)

    @property
    def items(self) -> int:
        return len(self.x)

    def take(self, rows: Sequence[int]) -> LinearOperator:
        return Jacobian(self.op.take(rows), self.x[list(rows)])

    def forward(self, x: Tensor) -> Tensor:
        # The fast kernels of attention have no forward mode.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            # torch 2.15 compiles its forward-mode formulas with torch.jit, which it has deprecated.
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            product: Tensor = torch.func.jvp(self.op, (self.x,), (x,))[1]
        return product

    @property
    def value(self) -> Tensor:
        """The measurement of the point, ``(B, *out_shape)``."""
        return self.op(self.x) if self._transformed(self.x) else self._traced[1].detach()

    def adjoint(self, y: Tensor) -> Tensor:
        if self._transformed(y):
            product: Tensor = torch.func.vjp(self.op, self.x)[1](y)[0]
            return product
        x, value = self._traced
        if not value.requires_grad:  # It is constant.
            return torch.zeros_like(x)
        # Unlike torch.func.vjp, this allows networks that recompute their activations.
        return torch.autograd.grad(value, x, y, retain_graph=True, materialize_grads=True)[0]

    @functools.cached_property
    def _traced(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            return x, self.op(x)

    def _transformed(self, v: Tensor) -> bool:
        """Return whether a derivative of the product itself may be wanted, or no graph can be kept."""
        return is_followed(v) or torch.is_inference_mode_enabled() or self.x.is_inference()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        moved = super().to(device, dtype)
        vars(moved).pop("_traced", None)
        return moved


def _rtol(v: Tensor) -> float:
    return 1e-12 if v.dtype == torch.float64 else 1e-6


def pseudo_divide(v: Tensor, gram: Tensor, lam: Tensor | float) -> Tensor:
    r"""Return ``v / (gram + lam)`` in a basis where :math:`A A^\top` is diagonal, and 0 where ``gram + lam`` is numerically 0.

    Args:
        v: Coefficients, broadcastable with ``gram``.
        gram: Eigenvalues of :math:`A A^\top`: the squared singular values of :math:`A`.
        lam: :math:`\lambda \ge 0`.
    """
    total = gram + (lam.to(gram) if isinstance(lam, Tensor) else lam)  # The result keeps the dtype of v.
    cut = (10 * torch.finfo(gram.dtype).eps) ** 2 * gram.amax()
    if v.device.type == "cpu" and bool((total > cut).all()):  # Always where there is noise, and several times faster.
        return v * total.reciprocal()
    return torch.where(total > cut, v * (1 / torch.where(total > cut, total, 1)), 0)  # Divides the smaller tensor.
