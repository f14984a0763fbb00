"""The posterior sampler: ``PosteriorSampler(score, op).run(y)``."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.methods import METHODS
from invdiff.methods.algorithm import Algorithm
from invdiff.methods.divergence import DivergenceError
from invdiff.methods.guidance import ConditionalDenoiser
from invdiff.methods.method import Method
from invdiff.methods.options import check_whole
from invdiff.methods.particles.loop import Cloud
from invdiff.methods.resolve import ResolvedMethod, resolve
from invdiff.methods.steps.rule import StepRule
from invdiff.operators import Operator, whiten
from invdiff.posterior.checks import check_measurement, check_operator, check_prior, check_range
from invdiff.posterior.chi_square import chi_square_of_rows
from invdiff.posterior.choice import BUDGET, Choice, Pilot, choose_method, fly, single_chain
from invdiff.posterior.counted import Counted
from invdiff.posterior.draw import CHUNK_NUMBERS, Drawing, chunk_size, progress_bar
from invdiff.posterior.misfit import MisfitWarning, misfit_notes
from invdiff.posterior.result import Particles, Posterior
from invdiff.posterior.step import Step
from invdiff.posterior.windowed import Layout, draw_in_windows
from invdiff.posterior.wiring import doubts_about
from invdiff.priors import ScoreModel, adapt
from invdiff.trial import in_own_modes

__all__ = ["PosteriorSampler"]

WINDOWS = ("auto", "off")  # whether samples are computed only around what is missing, where that is possible


class PosteriorSampler:
    r"""Draws samples of :math:`p(x | y)` for :math:`y = A(x) + n`.

    Args:
        score: The prior. If its size or channels differ from those of the images, it is adapted by
            :func:`invdiff.priors.adapt.adapt`; ``sampler.notes`` lists the changes.
        op: The measurement operator, with its noise model.
        method: A name (``invdiff methods`` lists them), a name in a file (``"mymethod.py:MyGuidance"``), a
            :class:`~invdiff.methods.Method`, the class of an algorithm, or ``"auto"``. The choice of ``"auto"`` depends on the
            measurement, the number of samples, and a pilot run of particles on simulated measurements: see
            :func:`invdiff.posterior.choice.choose_method`. ``post.options["auto"]`` gives the reason.
        steps: Steps of the reverse diffusion. Default: the method's own.
        rule: Step rule, a name (``ddpm``, ``ddim``, ``heun``, ``matched``) or an object. Default: the method's own.
        spacing: One of :data:`invdiff.schedules.SPACINGS`. Default: the method's own.
        ratio_max: Noise-to-signal ratio to start from. Default: the method's own, or the schedule's largest, or ten times the
            scale of the prior, if the prior has one and that is more.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: the method's own, or a tenth of the noise level of
            the measurement in the units of ``x``, :math:`0.1\, \sigma_y / \lVert A \rVert`, but not below the schedule's
            smallest.
        preset: ``"paper"`` uses the settings published for this method and this kind of measurement
            (:data:`invdiff.presets.PRESETS`). Other arguments take precedence over it.
        budget: Maximum number of vector-Jacobian products of the network per sample for which ``"auto"`` may choose
            particles. 0: always a single chain.
        windows: ``"auto"``: where the measurement gives some pixels exactly and tells nothing about the others, as a noise-free
            :class:`~invdiff.operators.Mask` does, samples are computed in windows around the missing pixels, and are equal to
            the measurement elsewhere. This needs a prior that is known to look no further than a number of pixels
            (:attr:`ScoreModel.reach <invdiff.priors.ScoreModel.reach>`), such as ``natural``, and a method that relates distant
            places by nothing but the prior (:attr:`Algorithm.in_windows <invdiff.methods.Algorithm>`); otherwise, and with
            ``"off"``, whole images are computed. See :meth:`run`.
        options: Options of the algorithm, such as ``zeta=0.5`` for ``dps``.

    A network of :func:`~invdiff.priors.from_network`, and a prior or an operator of a class that is not the library's own, are
    tried once on two random items: six evaluations of one item, and the gradient of a third of them if the method needs it.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a setting does not fit, or if the trial shows that the prior or the operator mixes the items of a batch,
            is random, returns values that are not finite, or has no gradient or a wrong one.
    """

    @in_own_modes()
    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        *,
        method: str | Method | type[Algorithm] = "auto",
        steps: int | None = None,
        rule: str | StepRule | None = None,
        spacing: str | None = None,
        ratio_max: float | None = None,
        ratio_min: float | None = None,
        preset: str | None = None,
        budget: float = BUDGET,
        windows: str = "auto",
        **options: Any,
    ) -> None:
        if score.batched:
            raise ValueError(
                "A batched prior, such as prior.posterior(...), has a different distribution for every item and cannot be used "
                "here. Use a prior with a single distribution."
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
        if windows not in WINDOWS:
            raise ValueError(f"windows must be one of {', '.join(WINDOWS)}, got {windows!r}.")
        self.windows, self._layout = windows, Layout.of(op, self.score)
        op.noise.check(type(op).__name__, op.out_shape)
        check_operator(op)
        self.white = whiten(op)  # The operator passed to the methods: Gaussian noise is whitened.
        if method == "auto" and preset is not None:
            raise ValueError(f"preset={preset!r} needs an explicit method, got method='auto'.")
        self._plans: dict[tuple[str, int, object], ResolvedMethod] = {}
        self._pilots: list[Pilot | None] = []  # Empty, or the result of the only pilot run.
        # Built once here so that a wrong setting fails now, and not after the first image of a folder. Methods that run item by
        # item may fail for a single operator, so all are checked.
        plan = self.plan(1)
        layout = self._divided(plan)
        if layout is not None:
            self.notes = (*self.notes, layout.summary)
        example = self.white if layout is None else layout.example
        zeros = torch.zeros(1, *example.out_shape, device=op.device, dtype=op.dtype)
        for one in example.distinct if plan.method.one_operator else [example.take([0])]:
            algorithm = plan.algorithm(self.score, one, zeros)
            check_prior(score, example, algorithm, plan.method.name)
            if isinstance(algorithm, ConditionalDenoiser) and plan.rule is not None and plan.rule.follows_draws:
                algorithm.check_draws()
        if doubt := doubts_about(score, example.in_shape):
            self.notes = (*self.notes, doubt)
            warnings.warn(doubt, stacklevel=3)

    def plan(self, num_samples: int) -> ResolvedMethod:
        """Return the method and settings that :meth:`run` will use for ``num_samples`` samples per measurement."""
        return self._plan(self._choose(num_samples, self.op.device or "cpu"))

    def __repr__(self) -> str:
        method = self.method if isinstance(self.method, str) else self.plan(1).method.name
        settings = {**self.given, **({} if self.preset is None else {"preset": self.preset}), **self.options}
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        return f"PosteriorSampler({_short(self.score)}, {_short(self.op)}, method={method!r}{given})"

    def shortened(self, steps: int) -> PosteriorSampler:
        """Return the same sampler with another number of steps, for example to time it."""
        short = copy.copy(self)
        short.given, short._plans, short._pilots = {**self.given, "steps": steps}, {}, []
        return short

    def _choose(self, num_samples: int, device: torch.device | str) -> Choice:
        def pilot() -> Pilot | None:
            if not self._pilots:
                self._pilots.append(fly(self.score, self.op, self._fly, device=device))
            return self._pilots[0]

        # A given rule or options apply to mmps, which accepts all of them and every measurement.
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
        return PosteriorSampler(self.score, op, method=method, windows="off", **given)._run(
            y, num_samples=method.options["particles"]
        )

    def _divided(self, plan: ResolvedMethod) -> Layout | None:
        """Return the windows in which samples are computed by this method, or ``None`` for whole images."""
        layout = self._layout if self.windows == "auto" and plan.method.algorithm.in_windows else None
        return layout if layout is not None and layout.divided else None

    def _plan(self, choice: Choice) -> ResolvedMethod:
        method = choice.method
        key = method.name, method.steps, tuple(sorted(method.options.items()))
        if key not in self._plans:
            self._plans[key] = resolve(self.score, self.white, method, self.given, self.options, self.preset)
        return self._plans[key]

    def run(
        self,
        y: Tensor,
        *,
        num_samples: int = 1,
        seed: int = 0,
        chunk: int | None = None,
        progress: bool = False,
        callback: Callable[[Step], object] | None = None,
    ) -> Posterior:
        """Return ``num_samples`` posterior samples for every item of ``y``.

        Sample ``k`` of item ``b`` depends on ``(seed, b, k)`` only, and not on the rest of the batch. With a particle method it
        also depends on the other samples of its group, which starts at ``k // particles * particles`` and is always drawn
        whole. The state is float32, or float64 if ``y`` is.

        Args:
            y: Measurements, ``(B, *op.out_shape)``.
            num_samples: Samples per item, at least 1.
            seed: Random seed, a non-negative integer.
            chunk: Samples per chunk. With particles it is rounded down to whole groups, at least one. Default: half a million
                entries of ``x`` on a CPU, eight million on a GPU.
            progress: Whether to show a progress bar.
            callback: Called after each step of each chunk with a :class:`~invdiff.posterior.Step`: its number and times, the
                states, the estimates, and the sample and item of each row, all of them copies. In a run it receives every
                sample once per step; in windows, every window of every sample.

        **Windows.** Where samples are computed in windows around missing pixels (argument ``windows`` of the class), all other
        pixels of a sample equal ``y`` bit by bit. Random numbers belong to the pixels of the image: every window has the noise
        that the whole image has there. A window is large enough for the prior to work as in the whole image:
        ``docs/methods.md`` gives the measured difference. Statistics over an image, such as the variance of the error of the
        denoiser, are those of the window. ``post.options["windows"]`` has the number of windows and their share of the area;
        ``nfe`` and ``nvjp`` count a window as its share of the area of the image.

        A chunk that does not fit in memory is halved and drawn again, with the same result. The callback then receives the
        first steps of its samples again.

        A ``y`` far larger than the measurements of images in [-1, 1] gives a warning. Autocast and inference mode of the caller
        have no effect.

        Raises:
            TypeError: If ``callback`` cannot be called, or ``y`` is no tensor of floating-point numbers.
            ValueError: If ``y`` is complex or its shape is wrong, a measured value is not finite, or a number is out of range.
            DivergenceError: If a sample diverges even with weakened guidance.
            MemoryError: If a single sample, or group, does not fit in memory.

        Warns:
            MisfitWarning: If samples do not explain the data, or explain more of it than the noise allows; ``post.notes`` has
                the same text.
        """
        post = self._run(y, num_samples=num_samples, seed=seed, chunk=chunk, progress=progress, callback=callback)
        for note in post.notes:
            warnings.warn(note, MisfitWarning, stacklevel=2)
        return post

    @in_own_modes()  # Gradients of the network are needed even if the caller is in inference mode; the state is float32.
    def _run(
        self,
        y: Tensor,
        *,
        num_samples: int,
        seed: int = 0,
        chunk: int | None = None,
        progress: bool = False,
        callback: Callable[[Step], object] | None = None,
    ) -> Posterior:
        y = self._check(y, num_samples, chunk)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function of a Step, got {type(callback).__name__}.")
        started = time.monotonic()
        choice = self._choose(num_samples, y.device)
        plan, items, pilot = self._plan(choice), len(y), choice.pilot or Pilot(1.0, 0.0, evaluations=0, products=0)
        ratio_min = float(self.score.schedule.ratio(plan.times[-2]))
        settings = {
            "steps": plan.steps,
            "rule": plan.rule_name,
            "spacing": plan.spacing,
            "ratio_max": float(self.score.schedule.ratio(plan.times[0])),
            "ratio_min": ratio_min,
            **plan.options,
            **({"auto": choice.why} if choice.why else {}),
        }
        layout = self._divided(plan)
        if layout is not None:
            settings |= {"chunk": chunk, "windows": {"count": layout.count, "share": round(layout.share, 4)}}
            drawn = draw_in_windows(
                plan,
                self.score.to(y.device),
                layout,
                y,
                num_samples=num_samples,
                seed=seed,
                chunk=chunk,
                progress=progress,
                callback=callback,
            )
            weights, size = y.new_full((num_samples, items), 1 / num_samples), drawn.size.sqrt()[:, None]
            return Posterior(
                samples=drawn.samples,
                weights=weights,
                residual=torch.zeros_like(weights),  # The data were put in.
                dof=self.op.dof,
                nfe=(drawn.evaluations + pilot.evaluations) / (num_samples * items),
                nvjp=(drawn.products + pilot.products) / (num_samples * items),
                seconds=time.monotonic() - started,
                method=plan.method.name,
                seed=seed,
                options=settings,
                notes=misfit_notes(drawn.misfit, self.op.dof, weights, op=self.op, y=size, ratio_min=ratio_min),
            )
        chunk = chunk or chunk_size(self.op, y.device)
        op, score = self.white.to(y.device, y.dtype), Counted(self.score.to(y.device))
        # The same noise as in windows, wherever there may be windows.
        placed = self._layout is not None and plan.method.algorithm.in_windows
        places = [(b, None) for b in range(items)] if placed else None
        drawing = Drawing(plan, score, op, y, num_samples, seed, callback, places)
        with progress_bar(drawing.total, plan.method.name, shown=progress) as bar:
            parts = drawing.run(chunk=chunk, bar=bar)

        x = _by_sample(torch.cat([part.x for part in parts]), items, num_samples)
        rows = max(1, CHUNK_NUMBERS["cpu"] // x[0, 0].numel())  # One row at a time for large images, for memory.
        residual = chi_square_of_rows(op, x.flatten(0, 1), y.repeat(num_samples, *(1,) * (y.ndim - 1)), items, rows=rows)
        if not residual.isfinite().all():
            k, b = divmod(int((~residual.isfinite()).nonzero()[0]), items)
            raise DivergenceError(
                f"{plan.method.name}: the misfit of sample {k} of item {b} is not finite: the operator returned no "
                "finite value for it.",
                step=plan.steps,
                row=k * items + b,
            )
        weights, particles = _weigh(parts, items, drawing.group)
        weights = _by_sample(weights, items, num_samples)
        weights, residual = (weights / weights.sum(0)).to(y.dtype), residual.reshape(num_samples, items)
        return Posterior(
            samples=x,
            weights=weights,
            residual=residual,
            dof=op.dof,
            nfe=(score.evaluations + pilot.evaluations) / (num_samples * items),
            nvjp=(score.products + pilot.products) / (num_samples * items),
            seconds=time.monotonic() - started,
            method=plan.method.name,
            seed=seed,
            options=settings | {"chunk": chunk},
            particles=particles,
            notes=misfit_notes(residual, op.dof, weights, op=op, y=y, ratio_min=ratio_min),
        )

    def _check(self, y: Tensor, num_samples: int, chunk: int | None) -> Tensor:
        y = check_measurement(self.op, y)
        check_whole(num_samples=num_samples, chunk=1 if chunk is None else chunk)
        if num_samples < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"run: num_samples and chunk must be at least 1, got {num_samples} and {chunk}.")
        if self._layout is None or self.windows == "off" or not self._layout.divided:
            check_range(self.op, y, self.score)
        else:  # An image in windows may be so large that measuring a few would take longer than the rest.
            check_range(*self._layout.part(y), self.score)
        y = y.detach().to(torch.float64 if y.dtype == torch.float64 else torch.float32)
        if self.op.sigma_y and self.op.sigma_y**2 < torch.finfo(y.dtype).tiny:
            raise ValueError(
                f"run: the noise level {self.op.sigma_y:g} is too small for {y.dtype}: its square underflows. Use 0 for exact "
                "data, or other units of y."
            )
        return y if self.op.noise.white or not self.op.noise.gaussian else self.op.noise.whiten(y)


def _by_sample(values: Tensor, items: int, num_samples: int) -> Tensor:
    """Reorder rows from ``(items, samples)`` to ``(samples, items)``, without the surplus samples of whole groups."""
    return values.reshape(items, -1, *values.shape[1:]).transpose(0, 1)[:num_samples].contiguous()


def _short(thing: object) -> str:
    """Return the ``repr`` of a prior or an operator, or its class name if it does not define one."""
    return type(thing).__name__ if type(thing).__repr__ is object.__repr__ else repr(thing)


def _weigh(parts: Sequence[Cloud], items: int, group: int) -> tuple[Tensor, Particles | None]:
    """Return the weight of every row, and the particle diagnostics of every item."""
    log_evidence, ess, ancestors = (
        torch.cat([getattr(part, name) for part in parts]).reshape(items, -1) for name in ("log_evidence", "ess", "ancestors")
    )
    weights = torch.cat([part.weights for part in parts])
    if group == 1:
        return weights, None
    if not parts[0].equal:  # A group is weighted by its evidence.
        weights = weights * log_evidence.softmax(1).flatten().repeat_interleave(group)
    together = log_evidence.logsumexp(1) - math.log(log_evidence.shape[1])
    return weights, Particles(ess.sum(1), ancestors.sum(1), together)
