"""Posterior samples of a measurement: ``PosteriorSampler(score, op).run(y)``."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from invdiff.linalg import norm
from invdiff.methods import METHODS, Method
from invdiff.methods.guidance import Guidance
from invdiff.methods.guidance.base import StepRule
from invdiff.methods.particles import ParticleMethod
from invdiff.methods.particles.loop import Cloud, run_particles
from invdiff.methods.resolve import Plan, make_plan, whole
from invdiff.methods.samplers import DivergenceError, Sampler
from invdiff.methods.steps import reverse_diffusion
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators import Operator, whiten
from invdiff.posterior.choice import BUDGET, Choice, Pilot, choose_method, fly, single_chain
from invdiff.posterior.memory import halve_when_full, out_of_memory
from invdiff.priors import ScoreModel, adapt
from invdiff.random import Streams, generator

__all__ = ["Particles", "Posterior", "PosteriorSampler", "misfit"]

CHUNK_NUMBERS = {"cpu": 2**19, "cuda": 2**23}  # numbers of x worked on at a time unless told otherwise
SMALLEST_EVENT = 64  # Smaller ones count as this large: every row draws thousands of random numbers ahead.


@dataclass(frozen=True, eq=False)
class Particles:
    r"""How well a particle method did.

    Attributes:
        ess: Effective sample size of every item before the last resampling, summed over its groups, ``(B,)``.
        ancestors: How many of the first particles have descendants among the samples, ``(B,)``. Few: the samples are relatives.
        log_evidence: Estimate of :math:`\log p(y)`, ``(B,)``. Its exponential is unbiased.
    """

    ess: Tensor
    ancestors: Tensor
    log_evidence: Tensor


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of p(x | y) and how they were made.

    Attributes:
        samples: ``(N, B, *event)``: sample ``k`` of item ``b`` is ``samples[k, b]``.
        weights: ``(N, B)``, summing to 1 over the samples; all equal except for particle methods.
        residual: ``(N, B)``: squared misfit over the noise variance, to hold against chi-square with ``dof`` degrees of
            freedom. Where the noise is 0, the squared misfit itself.
        dof: Number of measured values per item: one number, or ``(B,)`` where the operators of the items differ in it.
        nfe: Network evaluations per sample handed out, those of all its group's particles included, and its share of the pilot
            by which ``"auto"`` decided: of every run, though one pilot serves all runs of a sampler.
        nvjp: Vector-Jacobian products of the network, likewise.
        seconds: Wall time.
        method: Name of the method that ran.
        seed: Seed of the run.
        options: Every other setting of the run; under ``"auto"`` why ``"auto"`` chose the method.
        particles: What the particles tell, for particle methods.
    """

    samples: Tensor
    weights: Tensor
    residual: Tensor
    dof: int | Tensor
    nfe: float
    nvjp: float
    seconds: float
    method: str
    seed: int
    options: Mapping[str, Any]
    particles: Particles | None = None

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
        r"""Effective sample size :math:`(\sum w)^2 / \sum w^2` of every item, ``(B,)``; of particles before resampling."""
        return 1 / (self.weights**2).sum(0) if self.particles is None else self.particles.ess

    @property
    def _weights(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *(1,) * (self.samples.ndim - 2)).to(self.samples)


class PosteriorSampler:
    r"""Draws samples of :math:`p(x | y)` for :math:`y = A(x) + n`.

    Args:
        score: The prior. One of another size or other channels than the images is made to fit by
            :func:`invdiff.priors.adapters.adapt`; ``sampler.notes`` says how.
        op: The measurement and its noise.
        method: A name (``invdiff methods`` lists them), ``"auto"``, or a :class:`~invdiff.methods.Method`. ``"auto"`` is
            decided by the measurement, the number of samples and what particles show on simulated measurements: see
            :func:`invdiff.posterior.choice.choose_method`. ``post.options["auto"]`` says why.
        steps: Steps of the reverse diffusion. Default: the method's own.
        rule: Step rule, a name (``ddpm``, ``ddim``, ``heun``, ``matched``) or an object. Default: the method's own.
        spacing: One of :data:`invdiff.schedules.SPACINGS`. Default: the method's own.
        ratio_max: Noise-to-signal ratio to start from. Default: the method's own, or the schedule's largest, or ten times the
            scale of a prior that knows it, if that is more.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: the method's own, or a tenth of the noise of the
            measurement seen from ``x``, :math:`0.1\, \sigma_y / \lVert A \rVert`, but not below the schedule's smallest.
        preset: ``"paper"`` takes the settings published for this method and this kind of measurement
            (:data:`invdiff.presets.PRESETS`); what is given beside it wins.
        budget: Vector-Jacobian products of the network for a sample, up to which ``"auto"`` may take particles. 0: always
            a chain.
        options: Options of the algorithm, such as ``zeta=0.5`` for ``dps``.
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
        preset: str | None = None,
        budget: float = BUDGET,
        **options: Any,
    ) -> None:
        if getattr(score, "batched", False):
            raise ValueError(
                "The prior has another law for every item, as exact posteriors do: it cannot serve as a prior here."
            )
        self.op, self.preset, self.options = op, preset, options
        self.score, self.notes = adapt(score, op.in_shape)
        given: dict[str, Any] = {
            "steps": steps,
            "rule": rule,
            "spacing": spacing,
            "ratio_max": ratio_max,
            "ratio_min": ratio_min,
        }
        self.given = {name: value for name, value in given.items() if value is not None}
        self.method, self.budget = method, budget
        if not budget >= 0:
            raise ValueError(f"budget must not be negative, got {budget!r}.")
        op.noise.check(type(op).__name__, op.out_shape)
        self.white = whiten(op)  # What the methods see: independent noise of equal variance, if it is Gaussian at all.
        if method == "auto" and preset is not None:
            raise ValueError(f"preset={preset!r} is that of a method: 'auto' has none. Name one.")
        self._plans: dict[tuple[str, int, object], Plan] = {}
        self._pilots: list[Pilot | None] = []  # One, once it was needed.
        # Built once here so that a wrong setting fails now and not after the first picture of a folder. What is run item by
        # item may fail for a single one.
        plan, zeros = self.plan(1), torch.zeros(1, *op.out_shape, device=op.device, dtype=op.dtype)
        for one in self.white.distinct if plan.method.one_operator else [self.white.take([0])]:
            algorithm = plan.algorithm(self.score, one, zeros)
            if isinstance(algorithm, Guidance) and getattr(plan.rule, "follows_draws", False):
                algorithm.check_draws()

    def plan(self, num_samples: int) -> Plan:
        """Return what :meth:`run` will do for so many samples of each measurement."""
        return self._plan(self._choose(num_samples, self.op.device or "cpu"))

    def shortened(self, steps: int) -> PosteriorSampler:
        """Return the same sampler with fewer steps, such as to time it."""
        short = copy.copy(self)
        short.given, short._plans, short._pilots = {**self.given, "steps": steps}, {}, []
        return short

    def _choose(self, num_samples: int, device: torch.device | str) -> Choice:
        def pilot() -> Pilot | None:
            if not self._pilots:
                self._pilots.append(fly(self.score, self.op, self._fly, device=device))
            return self._pilots[0]

        # A rule, or options, are meant for mmps, which takes all of them and every measurement.
        plain = bool(self.options) or "rule" in self.given
        steps = self.given.get("steps")
        return choose_method(
            self.method,
            self.white,
            num_samples=num_samples,
            steps=steps,
            budget=self.budget,
            particles=not plain,
            chain=METHODS["mmps"] if plain else single_chain(self.score, self.white),
            pilot=pilot,
        )

    def _fly(self, op: Operator, y: Tensor, method: Method) -> Posterior:
        given = {name: value for name, value in self.given.items() if name != "steps"}
        return PosteriorSampler(self.score, op, method=method, **given).run(y, num_samples=method.options["particles"])

    def _plan(self, choice: Choice) -> Plan:
        method = choice.method
        key = method.name, method.steps, tuple(sorted(method.options.items()))
        if key not in self._plans:
            self._plans[key] = make_plan(self.score, self.white, method, self.given, self.options, self.preset)
        return self._plans[key]

    @torch.inference_mode(False)  # Gradients of the network are needed, also inside somebody's inference mode.
    def run(
        self, y: Tensor, *, num_samples: int = 1, seed: int = 0, chunk: int | None = None, progress: bool = False
    ) -> Posterior:
        """Return ``num_samples`` posterior samples for every item of ``y``.

        Sample ``k`` of item ``b`` depends on ``(seed, b, k)`` alone; that of a particle method also on the other samples of
        its group, which are ``k // particles * particles`` and so on, and drawn whole. The state of the solver is float32, or
        float64 if ``y`` is.

        Args:
            y: Measurements, ``(B, *op.out_shape)``.
            num_samples: Samples per item, at least 1.
            seed: A non-negative integer.
            chunk: Samples worked on at a time; of particles as many whole groups as that is, but at least one. Default: what
                fits half a million numbers of ``x`` on a CPU, eight million on a GPU.
            progress: Whether to show a bar.

        Where the memory does not hold a chunk, it is halved and drawn again, with the same result.

        Raises:
            DivergenceError: If a sample diverges even with weakened guidance.
            MemoryError: If the memory does not hold one sample.
        """
        y = self._check(y, num_samples, chunk)
        started = time.monotonic()
        choice = self._choose(num_samples, y.device)
        plan, items, numel = self._plan(choice), y.shape[0], torch.Size(self.op.in_shape).numel()
        op, score = self.white.to(y.device, y.dtype), Counted(self.score.to(y.device))
        chunk = chunk or max(1, CHUNK_NUMBERS.get(y.device.type, 2**19) // max(numel, SMALLEST_EVENT))
        group = plan.group(score, op, y)
        rows = [[(first, b) for first in range(0, num_samples, group)] for b in range(items)]
        if op.items is None or not plan.method.one_operator:
            rows = [list(itertools.chain(*rows))]
        together = max(1, chunk // group)
        chunks = [some[start : start + together] for some in rows for start in range(0, len(some), together)]
        with tqdm(
            total=num_samples * items * plan.steps, desc=plan.method.name, unit=" steps", disable=not progress, leave=False
        ) as bar:

            def draw(part: Sequence[tuple[int, int]]) -> Cloud:
                every = [(first + k, b) for first, b in part for k in range(group)]
                streams = Streams([generator(seed, "sample", b, k, device=y.device) for k, b in every])
                resampling = [generator(seed, "resample", b, first, device=y.device) for first, b in part]
                whose, before = [b for _, b in every], (bar.n, score.evaluations, score.products)
                algorithm = plan.algorithm(score, op.take(whose), y[whose])
                try:
                    return _run(algorithm, plan, streams, resampling, lambda: bar.update(len(every)))
                except DivergenceError as error:
                    (k, b), weakened = every[error.row], isinstance(algorithm, Guidance)
                    raise DivergenceError(
                        f"{plan.method.name}: sample {k} of item {b} diverged at step {error.step} of {plan.steps}"
                        f"{', and again with an eighth of the guidance' if weakened else ''}. Use more steps, a smaller step "
                        "size, or a noise level that fits the measurement.",
                        step=error.step,
                        row=error.row,
                    ) from error
                except (RuntimeError, MemoryError):
                    bar.n, score.evaluations, score.products = before  # of a chunk that is perhaps drawn again
                    raise

            try:
                parts = list(halve_when_full(chunks, draw, device=y.device))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise MemoryError(
                    f"{plan.method.name}: the memory of {y.device} does not hold {'a group' if group > 1 else 'one sample'} of "
                    f"{group * numel:,} numbers. Load the prior with checkpointing=True or precision='bfloat16', or see the "
                    "image through smaller windows: priors.Tiled(score, tile=...)."
                ) from error

        def by_sample(values: Tensor) -> Tensor:
            """Bring rows ``(items, samples)``, of the groups in full, into the order ``(samples, items)``."""
            return values.reshape(items, -1, *values.shape[1:]).transpose(0, 1)[:num_samples].contiguous()

        x = by_sample(torch.cat([part.x for part in parts]))
        residual = self._residual(op, x.flatten(0, 1), y.repeat(num_samples, *(1,) * (y.ndim - 1)), items)
        if not residual.isfinite().all():
            k, b = divmod(int((~residual.isfinite()).nonzero()[0]), items)
            raise DivergenceError(
                f"{plan.method.name}: the misfit of sample {k} of item {b} is not finite. The operator has no value there.",
                step=plan.steps,
                row=k * items + b,
            )
        weights, particles = _weigh(parts, items, group)
        return Posterior(
            samples=x,
            weights=(by_sample(weights) / by_sample(weights).sum(0)).to(y.dtype),
            residual=residual.reshape(num_samples, items),
            dof=op.dof,
            nfe=(score.evaluations + (choice.pilot.evaluations if choice.pilot else 0)) / (num_samples * items),
            nvjp=(score.products + (choice.pilot.products if choice.pilot else 0)) / (num_samples * items),
            seconds=time.monotonic() - started,
            method=plan.method.name,
            seed=seed,
            options={
                "steps": plan.steps,
                "rule": plan.rule_name,
                "spacing": plan.spacing,
                "ratio_max": float(self.score.schedule.ratio(plan.times[0])),
                "ratio_min": float(self.score.schedule.ratio(plan.times[-2])),
                "chunk": chunk,
                **plan.options,
                **({"auto": choice.why} if choice.why else {}),
            },
            particles=particles,
        )

    def _check(self, y: Tensor, num_samples: int, chunk: int | None) -> Tensor:
        if not isinstance(y, Tensor):
            raise TypeError(f"run: y must be a tensor, got {type(y).__name__}.")
        if tuple(y.shape[1:]) != self.op.out_shape or y.ndim != len(self.op.out_shape) + 1 or not len(y):
            wanted = ", ".join(map(str, self.op.out_shape))
            hint = " Add the batch axis: y[None]." if tuple(y.shape) == self.op.out_shape else ""
            raise ValueError(f"run: y must have shape (B, {wanted}), got {tuple(y.shape)}.{hint}")
        if self.op.items not in (None, len(y)):
            raise ValueError(
                f"run: the operator is one for each of {self.op.items} items, got {len(y)} measurements. Give as many, or make "
                "the sampler with op.take(rows)."
            )
        y = self.op.keep_measured(y)
        if y.is_complex() or not y.isfinite().all():
            raise ValueError("run: y must be real and finite.")
        whole(num_samples=num_samples, chunk=1 if chunk is None else chunk)
        if num_samples < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"run: num_samples and chunk must be at least 1, got {num_samples} and {chunk}.")
        y = y.detach().to(torch.float64 if y.dtype == torch.float64 else torch.float32)
        return y if self.op.noise.white or not self.op.noise.gaussian else self.op.noise.whiten(y)

    @staticmethod
    def _residual(op: Operator, x: Tensor, y: Tensor, items: int) -> Tensor:
        # Row by row for images, which would not fit at once.
        rows = max(1, CHUNK_NUMBERS["cpu"] // x[0].numel())
        starts, whose = range(0, len(x), rows), [row % items for row in range(len(x))]
        return torch.cat([misfit(op.take(whose[k : k + rows]), x[k : k + rows], y[k : k + rows]) for k in starts])


def misfit(op: Operator, x: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`\sum_i (y_i - z_i)^2 / v_i`, ``(B,)``: for any noise 1 is expected of an entry at :math:`z = A(x)`."""
    clean = op(x)
    if op.noise.white:
        return norm(y - clean) ** 2 / (op.sigma_y**2 or 1)
    return norm(op.keep_measured((y - clean) / op.noise.variance(y, clean).expand_as(y).sqrt())) ** 2


class Counted(ScoreModel):
    """A prior that counts what is asked of it, per row."""

    def __init__(self, score: ScoreModel) -> None:
        self.inner, self.schedule, self.event_shape = score, score.schedule, score.event_shape
        self.noise_kinds = score.noise_kinds
        self.error_model = score.error_model
        self.evaluations = self.products = 0

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._counted(self.inner.denoise(x_t, t))

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        return self._counted(self.inner.denoise_pivot(mu, cov))

    def _counted(self, x0_hat: Tensor) -> Tensor:
        self.evaluations += len(x0_hat)
        if x0_hat.requires_grad:
            x0_hat.register_hook(self._count_product)  # type: ignore[no-untyped-call]
        return x0_hat

    def _count_product(self, gradient: Tensor) -> None:
        self.products += len(gradient)


def _run(
    algorithm: Guidance | Sampler | ParticleMethod,
    plan: Plan,
    streams: Streams,
    resampling: Sequence[torch.Generator],
    on_step: Callable[[], object],
) -> Cloud:
    if isinstance(algorithm, ParticleMethod):
        return run_particles(algorithm, plan.times, streams=streams, resampling=resampling, on_step=on_step)
    if isinstance(algorithm, Guidance):
        x = reverse_diffusion(algorithm, plan.times, rule=plan.rule, streams=streams, on_step=on_step)
    else:
        x = algorithm.run(plan.times, streams=streams, on_step=on_step)
    one = torch.ones(len(x), dtype=torch.float64, device=x.device)
    return Cloud(x, one, log_evidence=0 * one, ess=one, ancestors=one)  # A chain is a group of one.


def _weigh(parts: Sequence[Cloud], items: int, group: int) -> tuple[Tensor, Particles | None]:
    """Return the weight of every row, and what the particles of an item tell together."""
    log_evidence, ess, ancestors = (
        torch.cat([getattr(part, name) for part in parts]).reshape(items, -1) for name in ("log_evidence", "ess", "ancestors")
    )
    weights = torch.cat([part.weights for part in parts])
    if group == 1:
        return weights, None
    if not parts[0].equal:  # A group counts by its evidence.
        weights = weights * log_evidence.softmax(1).flatten().repeat_interleave(group)
    together = log_evidence.logsumexp(1) - math.log(log_evidence.shape[1])
    return weights, Particles(ess.sum(1), ancestors.sum(1), together)
