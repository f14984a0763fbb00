"""Posterior samples of a measurement: ``PosteriorSampler(score, op).run(y)``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from invdiff.guidance.base import StepRule
from invdiff.linalg import largest_singular_value, norm
from invdiff.methods import RULES, Method, choose_method
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams, generator
from invdiff.samplers import DivergenceError, reverse_diffusion
from invdiff.schedules import time_grid

__all__ = ["Posterior", "PosteriorSampler"]

CHUNK_NUMBERS = {"cpu": 2**19, "cuda": 2**23}  # numbers of x worked on at a time unless told otherwise
SMALLEST_EVENT = 64  # Smaller ones count as this large: every row draws thousands of random numbers ahead.


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of p(x | y) and how they were made.

    Attributes:
        samples: ``(N, B, *event)``: sample ``k`` of item ``b`` is ``samples[k, b]``.
        weights: ``(N, B)``, summing to 1 over the samples; all equal except for particle methods.
        residual: ``(N, B)``: squared misfit over the noise variance, to hold against chi-square with ``dof`` degrees of
            freedom. Where the noise is 0, the squared misfit itself.
        dof: Number of measured values per item.
        nfe: Network evaluations per sample.
        nvjp: Vector-Jacobian products of the network per sample.
        seconds: Wall time.
        method: Name of the method that ran.
        seed: Seed of the run.
        options: Every other setting of the run.
    """

    samples: Tensor
    weights: Tensor
    residual: Tensor
    dof: int
    nfe: float
    nvjp: float
    seconds: float
    method: str
    seed: int
    options: Mapping[str, Any]

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean of the samples, ``(B, *event)``."""
        return (self._weights * self.samples).sum(0)

    @cached_property
    def std(self) -> Tensor:
        r"""Standard deviation of the samples, ``(B, *event)``.

        The unbiased variance for equal weights, and :math:`\sum w (x - m)^2 / (1 - \sum w^2)` in general. NaN for one sample.
        """
        spread = (self._weights * (self.samples - self.mean) ** 2).sum(0)
        return (spread / (1 - (self._weights**2).sum(0))).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the weighted ``q``-quantile of every number, ``(B, *event)``, linear between the samples for equal weights."""
        if not 0 <= q <= 1:
            raise ValueError(f"quantile: q must lie in [0, 1], got {q}.")
        if bool((self.weights == self.weights[:1]).all()):
            # torch.quantile refuses large inputs; a sort does not.
            ordered, position = self.samples.sort(0).values, q * (len(self.samples) - 1)
            below = int(position)
            return torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], position - below)
        ordered, order = self.samples.sort(0)
        cumulative = self._weights.expand_as(self.samples).gather(0, order).cumsum(0)
        index = (cumulative < q).sum(0, keepdim=True).clamp(max=len(ordered) - 1)
        return ordered.gather(0, index).squeeze(0)

    @cached_property
    def ess(self) -> Tensor:
        r"""Effective sample size :math:`(\sum w)^2 / \sum w^2` of every item, ``(B,)``."""
        return 1 / (self.weights**2).sum(0)

    @property
    def _weights(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *(1,) * (self.samples.ndim - 2)).to(self.samples)


class PosteriorSampler:
    r"""Draws samples of :math:`p(x | y)` for :math:`y = A(x) + n`.

    Args:
        score: The prior.
        op: The measurement and its noise.
        method: A name (``invdiff methods`` lists them), ``"auto"``, or a :class:`~invdiff.methods.Method`.
        steps: Steps of the reverse diffusion. Default: the method's own.
        rule: Step rule, a name (``ddpm``, ``ddim``, ``heun``) or an object. Default: the method's own.
        spacing: One of :data:`invdiff.schedules.SPACINGS`. Default: the method's own.
        ratio_max: Noise-to-signal ratio to start from. Default: the schedule's largest.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: a tenth of the noise of the measurement seen from
            ``x``, :math:`0.1\, \sigma_y / \lVert A \rVert`, but not below the schedule's smallest.
        options: Options of the method's guidance, such as ``zeta=0.5`` for ``dps``.
    """

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        *,
        method: str | Method = "auto",
        steps: int | None = None,
        rule: str | StepRule | None = None,
        spacing: str | None = None,
        ratio_max: float | None = None,
        ratio_min: float | None = None,
        **options: Any,
    ) -> None:
        self.score, self.op, self.method = score, op, choose_method(method)
        self.steps = self.method.steps if steps is None else steps
        self.rule_name, self.rule = _step_rule(self.method.rule if rule is None else rule)
        _whole(steps=self.steps)
        self.spacing = spacing or self.method.spacing
        self.ratio_max, self.ratio_min = ratio_max, ratio_min
        self.options = {**dict(self.method.options), **options}
        _check_event(score, op)
        # Built once here so that a wrong setting fails now and not after the first picture of a folder.
        self.times = self._times()
        self._guidance(score, op, torch.zeros(1, *op.out_shape, device=op.device, dtype=op.dtype))

    def run(
        self, y: Tensor, *, num_samples: int = 1, seed: int = 0, chunk: int | None = None, progress: bool = False
    ) -> Posterior:
        """Return ``num_samples`` posterior samples for every item of ``y``.

        Sample ``k`` of item ``b`` depends on ``(seed, b, k)`` alone. The state of the solver is float32, or float64 if
        ``y`` is.

        Args:
            y: Measurements, ``(B, *op.out_shape)``.
            num_samples: Samples per item, at least 1.
            seed: A non-negative integer.
            chunk: Samples worked on at a time. Default: what fits half a million numbers of ``x`` on a CPU, eight million on
                a GPU.
            progress: Whether to show a bar.

        Raises:
            DivergenceError: If a sample diverges even with weakened guidance.
        """
        y = self._check(y, num_samples, chunk)
        started = time.monotonic()
        items, numel = y.shape[0], torch.Size(self.op.in_shape).numel()
        op, score = self.op.to(y.device, y.dtype), Counted(self.score.to(y.device))
        chunk = chunk or max(1, CHUNK_NUMBERS.get(y.device.type, 2**19) // max(numel, SMALLEST_EVENT))
        rows = [(k, b) for k in range(num_samples) for b in range(items)]
        chunks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
        samples = []
        total, name = len(chunks) * self.steps, self.method.name
        with tqdm(total=total, desc=name, unit=" steps", disable=not progress, leave=False) as bar:

            def on_step() -> None:
                bar.update()

            for part in chunks:
                streams = Streams([generator(seed, "sample", b, k, device=y.device) for k, b in part])
                guidance = self._guidance(score, op, y[[b for _, b in part]])
                try:
                    x = reverse_diffusion(guidance, self.times, rule=self.rule, streams=streams, on_step=on_step)
                except DivergenceError as error:
                    k, b = part[error.row]
                    raise DivergenceError(
                        f"{name}: sample {k} of item {b} diverged at step {error.step} of {self.steps}, and again with "
                        "an eighth of the guidance. Use more steps, a smaller step size, or a noise level that fits the "
                        "measurement.",
                        step=error.step,
                        row=error.row,
                    ) from error
                samples.append(x)
        x = torch.cat(samples)
        residual = self._residual(op, x, y.repeat(num_samples, *(1,) * (y.ndim - 1)))
        return Posterior(
            samples=x.reshape(num_samples, items, *x.shape[1:]),
            weights=torch.full((num_samples, items), 1 / num_samples, dtype=y.dtype, device=y.device),
            residual=residual.reshape(num_samples, items),
            dof=op.dof,
            nfe=score.evaluations / len(rows),
            nvjp=score.products / len(rows),
            seconds=time.monotonic() - started,
            method=name,
            seed=seed,
            options={
                "steps": self.steps,
                "rule": self.rule_name,
                "spacing": self.spacing,
                "ratio_max": float(self.score.schedule.ratio(self.times[0])),
                "ratio_min": float(self.score.schedule.ratio(self.times[-2])),
                "chunk": chunk,
                **self.options,
            },
        )

    def _guidance(self, score: ScoreModel, op: Operator, y: Tensor) -> Any:
        try:
            return self.method.guidance(score, op, y, **self.options)
        except TypeError as error:
            raise TypeError(f"method {self.method.name!r}: {error}. See its page for the options it takes.") from error

    def _times(self) -> Tensor:
        schedule = self.score.schedule
        smallest = float(schedule.ratio(schedule.t_min))
        largest = float(schedule.ratio(schedule.t_max)) if self.ratio_max is None else self.ratio_max
        ratio_min = self.ratio_min
        if ratio_min is None:
            ratio_min = min(max(smallest, 0.1 * self.op.sigma_y / self._gain()), largest / 10)
        return time_grid(schedule, self.steps, spacing=self.spacing, ratio_min=ratio_min, ratio_max=largest)

    def _gain(self) -> float:
        """Return the largest singular value of the operator, 1 for a nonlinear one."""
        if not isinstance(self.op, LinearOperator):
            return 1.0
        op = self.op
        return largest_singular_value(op.forward, op.adjoint, op.in_shape, device=op.device, dtype=op.dtype)

    def _check(self, y: Tensor, num_samples: int, chunk: int | None) -> Tensor:
        if not isinstance(y, Tensor):
            raise TypeError(f"run: y must be a tensor, got {type(y).__name__}.")
        if tuple(y.shape[1:]) != self.op.out_shape or y.ndim != len(self.op.out_shape) + 1 or not len(y):
            wanted = ", ".join(map(str, self.op.out_shape))
            hint = " Add the batch axis: y[None]." if tuple(y.shape) == self.op.out_shape else ""
            raise ValueError(f"run: y must have shape (B, {wanted}), got {tuple(y.shape)}.{hint}")
        y = self.op.keep_measured(y)
        if y.is_complex() or not y.isfinite().all():
            raise ValueError("run: y must be real and finite.")
        _whole(num_samples=num_samples, chunk=1 if chunk is None else chunk)
        if num_samples < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"run: num_samples and chunk must be at least 1, got {num_samples} and {chunk}.")
        return y.detach().to(torch.float64 if y.dtype == torch.float64 else torch.float32)

    @staticmethod
    def _residual(op: Operator, x: Tensor, y: Tensor) -> Tensor:
        # Row by row for images, which would not fit at once.
        rows = max(1, CHUNK_NUMBERS["cpu"] // x[0].numel())
        parts = zip(torch.split(x, rows), torch.split(y, rows), strict=True)
        return torch.cat([norm(y_k - op(x_k)) ** 2 for x_k, y_k in parts]) / (op.sigma_y**2 or 1)


class Counted(ScoreModel):
    """A prior that counts what is asked of it, per row."""

    def __init__(self, score: ScoreModel) -> None:
        self.inner, self.schedule, self.event_shape = score, score.schedule, score.event_shape
        self.evaluations = self.products = 0

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.evaluations += len(x_t)
        x0_hat = self.inner.denoise(x_t, t)
        if x0_hat.requires_grad:
            x0_hat.register_hook(self._count_product)  # type: ignore[no-untyped-call]
        return x0_hat

    def _count_product(self, gradient: Tensor) -> None:
        self.products += len(gradient)


def _whole(**numbers: Any) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"{name} must be a whole number, got {number!r}.")


def _step_rule(rule: str | StepRule) -> tuple[str, StepRule]:
    if not isinstance(rule, str):
        if not callable(rule):
            raise TypeError(f"rule must be a name or a step rule, got {type(rule).__name__}.")
        return repr(rule), rule
    if rule not in RULES:
        raise ValueError(f"Unknown step rule {rule!r}, expected one of {', '.join(RULES)}, or a step rule.")
    return rule, RULES[rule]


def _check_event(score: ScoreModel, op: Operator) -> None:
    if getattr(score, "batched", False):
        raise ValueError("The prior has another law for every item, as exact posteriors do: it cannot serve as a prior here.")
    event = score.event_shape
    if event is None:
        return
    if len(event) != len(op.in_shape) or any(e not in (None, n) for e, n in zip(event, op.in_shape, strict=True)):
        wanted = tuple("any" if e is None else e for e in event)
        raise ValueError(f"The prior is for items of shape {wanted}, the operator measures items of shape {op.in_shape}.")
