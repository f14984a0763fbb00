"""Any differentiable log-likelihood as a measurement: classifiers, similarities to a text, rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.noise import GaussianNoise
from ..core.operator import Operator
from ..core.trial import checked_call, try_function
from ..core.validation import event_shape

__all__ = ["LogLikelihood"]


class LogLikelihood(Operator):
    r"""Any differentiable log-likelihood :math:`\ell(x)` as a measurement: :math:`p(x | y) \propto p(x)\, e^{w\, \ell(x)}`.

    With an upper bound :math:`M \ge \ell(x)` it is the likelihood of a nonlinear Gaussian measurement, exactly:

    .. math:: A(x) = \sqrt{2 w\, (M - \ell(x))}, \qquad y = 0, \qquad n \sim \mathcal{N}(0, 1), \qquad
        \log \mathcal{N}(0; A(x), 1) = w\, (\ell(x) - M) + \text{const}

    So every method for nonlinear operators takes it, and :func:`~invdiff.operators.stack` joins it with measurements in
    Gaussian noise. Methods that linearize the measurement linearize :math:`A`, which is a Gauss-Newton approximation of
    :math:`\ell`. The measurement is :math:`y = 0`: ``op.observed()``.

    Where :math:`\ell` exceeds the bound, :math:`A` is not a number, and a run ends with a ``DivergenceError``.

    Args:
        function: :math:`\ell`: takes ``(B, *in_shape)`` and returns ``(B,)``, in the dtype and on the device of ``x``. Each
            item must depend only on its own ``x``. Images span [-1, 1]. Tried on random items, two at a time.
        in_shape: Shape of one ``x``, without the batch axis.
        bound: :math:`M`. The default 0 is for the logarithm of a probability, such as ``log_softmax`` of a classifier. For
            another function, such as a similarity, its largest value; a bound far above it makes the measurement less linear.
        weight: :math:`w > 0`, the inverse temperature: 1 is Bayes' rule, more follows the likelihood more closely.
        device: Device of the trial. Default: the CPU.
        dtype: Dtype of the trial. Default: torch's default dtype.

    Raises:
        TypeError: If the function cannot be called, or does not return a real tensor.
        ValueError: If ``weight`` is not positive, ``bound`` not finite, the shape wrong, a value on random items NaN or above
            the bound, or if the function mixes the items of a batch, is random, or has no gradient.

    References:
        Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233, where the
        function is a classifier of noisy images (:class:`invdiff.priors.ClassifierGuided`); here it sees clean ones.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        in_shape: Sequence[int],
        *,
        bound: float = 0.0,
        weight: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not (math.isfinite(weight) and weight > 0 and math.isfinite(bound)):
            raise ValueError(f"LogLikelihood: expected a positive weight and a finite bound, got {weight} and {bound}.")
        if not callable(function):
            raise TypeError(f"LogLikelihood: expected a function of x, got {type(function).__name__}.")
        self.function, self.in_shape = function, event_shape("LogLikelihood", in_shape)
        self.bound, self.weight = float(bound), float(weight)
        self.device, self.dtype, self.out_shape, self.noise = device, dtype, (1,), GaussianNoise(1.0)
        g = torch.Generator().manual_seed(0)
        items = 2 * torch.rand(2, *self.in_shape, generator=g, dtype=torch.float64, device="cpu") - 1
        items = items.to(device or "cpu", dtype or torch.get_default_dtype())
        values = checked_call("LogLikelihood", function, items)
        if values.shape != (2,):
            raise ValueError(
                f"LogLikelihood: the function must return one number for each item, shape (B,), got {tuple(values.shape)} for "
                "B = 2. Choose the entry of your class: log_softmax(...)[:, label]."
            )
        if values.isnan().any():
            raise ValueError("LogLikelihood: the function returned NaN for random items in [-1, 1].")
        if (values > self.bound + self._rounding(values)).any():
            raise ValueError(
                f"LogLikelihood: the function returned {float(values.max()):g}, which exceeds the bound {self.bound:g}. Give "
                "the largest possible value as bound=..."
            )
        try_function("LogLikelihood", function, self.in_shape, device=device, dtype=dtype, linear=False)

    def _summary(self) -> Sequence[str]:
        name = getattr(self.function, "__qualname__", type(self.function).__name__).rpartition(".")[2]
        return name, f"bound {self.bound:g}", *([f"weight {self.weight:g}"] if self.weight != 1 else [])

    def observed(self, items: int = 1) -> Tensor:
        """Return the measurement to pass to ``run``: zeros, ``(items, 1)``."""
        return torch.zeros(items, 1, device=self.device, dtype=self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        gap = self.bound - value
        gap = torch.where(gap < -self._rounding(value), math.nan, gap)
        # At the bound the root has no derivative, and the likelihood has derivative 0.
        inside = ~(gap <= 0)
        return torch.where(inside, (2 * self.weight * torch.where(inside, gap, 1)).sqrt(), 0).unsqueeze(1)

    def _rounding(self, value: Tensor) -> Tensor:
        return 100 * torch.finfo(value.dtype).eps * (1 + value.detach().abs())
