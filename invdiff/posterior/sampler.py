"""The posterior sampler: ``PosteriorSampler(score, op).run(y)``."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.methods.algorithm import Algorithm
from invdiff.methods.divergence import DivergenceError
from invdiff.methods.guidance import ConditionalDenoiser
from invdiff.methods.method import Method
from invdiff.methods.options import check_whole
from invdiff.methods.particles import ParticleMethod
from invdiff.methods.particles.loop import Cloud
from invdiff.methods.resolve import ResolvedMethod, resolve
from invdiff.methods.steps.rule import StepRule
from invdiff.operators import Operator, whiten
from invdiff.posterior.checks import check_measurement, check_operator, check_prior, check_range
from invdiff.posterior.chi_square import chi_square_of_rows
from invdiff.posterior.choice import BUDGET, Choice, Pilot, choose_method, fly
from invdiff.posterior.counted import Counted
from invdiff.posterior.draw import CHUNK_NUMBERS, Drawing, chunk_size, progress_bar
from invdiff.posterior.join import normalized
from invdiff.posterior.latent import decoded, decoder_of, put_back
from invdiff.posterior.misfit import MisfitWarning, misfit_notes
from invdiff.posterior.particles import Particles
from invdiff.posterior.recommended import is_photographic, method_of, recommended, recommended_chain, starting_ratio
from invdiff.posterior.result import Posterior
from invdiff.posterior.settings import plain, resolved_options, run_origin, short_name
from invdiff.posterior.step import Step
from invdiff.posterior.windowed import Layout, draw_in_windows
from invdiff.posterior.windows import Window
from invdiff.posterior.wiring import doubts_about
from invdiff.priors import ScoreModel, Slices, adapt
from invdiff.trial import in_own_modes

__all__ = ["PosteriorSampler"]

WINDOWS = ("auto", "off")  # whether samples are computed only around what is missing, where that is possible


class PosteriorSampler:
    r"""Draws samples of :math:`p(x | y)` for :math:`y = A(x) + n`.

    Args:
        score: The prior. If its size or channels differ from those of the images, it is adapted by
            :func:`invdiff.priors.adapt.adapt`; ``sampler.notes`` lists the changes.
        op: The measurement operator, with its noise model. Under a :class:`~invdiff.priors.LatentPrior` it acts on images, and
            ``sampler.op`` on their codes.
        method: A name (``invdiff methods`` lists them), a name in a file (``"mymethod.py:MyGuidance"``), a
            :class:`~invdiff.methods.Method`, the class of an algorithm, or ``"auto"``: for images under a learned prior what
            :func:`invdiff.posterior.recommended` returns, as in ``invdiff solve``. For other priors its choice depends on the
            measurement, the number of samples, and a pilot run of particles on simulated measurements: see
            :func:`invdiff.posterior.choice.choose_method`. ``post.options["auto"]`` gives the reason.
        quality: One of :data:`invdiff.posterior.QUALITIES`, for the method ``"auto"`` and its own settings: trade-off between
            run time and quality. Default: ``"balanced"``.
        steps: Steps of the reverse diffusion. Default: recommended, or the method's own.
        rule: Step rule, a name (``ddpm``, ``ddim``, ``heun``, ``matched``) or an object. Default: likewise.
        spacing: One of :data:`invdiff.schedules.SPACINGS`. Default: the method's own.
        ratio_max: Noise-to-signal ratio to start from. Default: recommended, or the method's own, or the schedule's largest, or
            ten times the scale of the prior, if the prior has one and that is more. For images under a learned prior, methods
            without a level of their own start from 10, unless they denoise pivots.
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
        quality: str | None = None,
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
        score, self.decoder = decoder_of(score, op)
        self._image_op = op
        op = op if self.decoder is None else op @ self.decoder
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
        self.method, self.quality, self.budget = method, quality, budget
        others = [*self.given, *options, *(["preset"] if preset is not None else []), *(["method"] if method != "auto" else [])]
        if quality is not None and others:
            raise ValueError(f"quality={quality!r} determines the method and its settings: leave out {others[0]}, or quality.")
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
        self._recommended = recommended(self.score, self.white, quality or "balanced")
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

    def with_prior(self, score: ScoreModel) -> PosteriorSampler:
        """Return the sampler with the same prior evaluated in another way, such as ``prior.in_parts(1024)``.

        Nothing is tried or resolved again.
        """
        other = copy.copy(self)
        other.score, _ = adapt(score, self.op.in_shape)
        return other

    def plan(self, num_samples: int) -> ResolvedMethod:
        """Return the method and settings that :meth:`run` will use for ``num_samples`` samples per measurement."""
        return self._plan(self._choose(num_samples, self.op.device or "cpu"))

    def parts(self, num_samples: int) -> list[tuple[int, ...]]:
        """Return the sizes ``(H, W)`` of the windows in which a sample of the first item is computed, or that of the image."""
        layout = self._divided(self.plan(num_samples))
        if layout is None:
            return [tuple(self.op.in_shape[-2:])]
        return [window.sides for window in layout.windows[0]]

    def __repr__(self) -> str:
        method = self.method if isinstance(self.method, str) else self.plan(1).method.name
        named = {name: value for name, value in {"quality": self.quality, "preset": self.preset}.items() if value is not None}
        settings = {**self.given, **named, **self.options}
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        return f"PosteriorSampler({short_name(self.score)}, {short_name(self.op)}, method={method!r}{given})"

    def _choose(self, num_samples: int, device: torch.device | str) -> Choice:
        def pilot() -> Pilot | None:
            if not self._pilots:
                self._pilots.append(fly(self.score, self.op, self._fly, device=device))
            return self._pilots[0]

        # Given options are those of mmps, which takes every measurement.
        chain = recommended_chain(self.score, self.white) if self.options else self._recommended
        only_chain = "recommended for images under a learned prior" if is_photographic(self.score, self.op) else ""
        if self.options or "rule" in self.given:
            only_chain = "the given rule or options apply to a chain"
        return choose_method(
            self.method,
            self.white,
            num_samples=num_samples,
            steps=self.given.get("steps"),
            budget=self.budget,
            only_chain=only_chain,
            chain=method_of(chain),
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
            given, start = self.given, starting_ratio(self.score, self.op, method)
            if start is not None and self.preset is None:
                given = {"ratio_max": start, **given}
            self._plans[key] = resolve(self.score, self.white, method, given, self.options, self.preset)
        return self._plans[key]

    def run(
        self,
        y: Tensor,
        *,
        num_samples: int = 1,
        first_sample: int = 0,
        seed: int | Sequence[int] = 0,
        chunk: int | None = None,
        shared_noise: bool = False,
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
            first_sample: Number of the first sample. ``num_samples=4, first_sample=4`` continues a run of four samples, and
                :meth:`Posterior.join` makes one run of the two. With a particle method, a multiple of the size of the groups.
            seed: Random seed, a non-negative integer; or one for each item of ``y``, which has then the samples of a run of its
                own with that seed.
            chunk: Samples per chunk. With particles it is rounded down to whole groups, at least one. Default: half a million
                entries of ``x`` on a CPU, eight million on a GPU.
            shared_noise: Whether all slices of a volume or a clip (:class:`~invdiff.priors.Slices`) have the same noise, so
                that what is invented in them is more alike. If slices are measured one by one, each is as good a sample as
                with noise of its own; but the differences between them vary less than under the posterior.
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

        A chunk that does not fit in memory is halved and drawn again, with the same result. On a GPU, the first chunk in which
        a state diverges is drawn again too, with weakened guidance there. The callback then receives the first steps of its
        samples again.

        **Latent priors.** ``post.samples`` are the decoded images and ``post.latents`` their codes. Where the measurement gives
        pixels exactly, as a noise-free mask, crop or mosaic does, these pixels of the images are then set to ``y``, and
        ``post.residual`` is 0; notes and warnings on the misfit are about the decoded codes.

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
        post = self._run(
            y,
            num_samples=num_samples,
            first_sample=first_sample,
            seed=seed,
            chunk=chunk,
            shared_noise=shared_noise,
            progress=progress,
            callback=callback,
        )
        for note in post.notes:
            warnings.warn(note, MisfitWarning, stacklevel=2)
        return post

    @in_own_modes()  # Gradients of the network are needed even if the caller is in inference mode; the state is float32.
    def _run(
        self,
        y: Tensor,
        *,
        num_samples: int,
        first_sample: int = 0,
        seed: int | Sequence[int] = 0,
        chunk: int | None = None,
        shared_noise: bool = False,
        progress: bool = False,
        callback: Callable[[Step], object] | None = None,
    ) -> Posterior:
        given, y = y, self._check(y, num_samples, first_sample, chunk)
        seed = _checked_seed(seed, len(y))
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
            "quality": self.quality,
            "windows": self.windows,
            "preset": self.preset,
            "budget": plain(self.budget),
            **resolved_options(plan),
            **({"auto": choice.why} if choice.why else {}),
        }
        shared = self._shared_axis(plan) if shared_noise else None
        settings |= {"shared_noise": shared_noise}
        origin = run_origin(self.score, self.op, given.to(y.dtype))
        layout = self._divided(plan)
        if layout is not None:
            settings |= {"chunk": chunk, "windows": {"count": layout.count, "share": round(layout.share, 4)}}
            drawn = draw_in_windows(
                plan,
                self.score.to(y.device),
                layout,
                y,
                num_samples=num_samples,
                first_sample=first_sample,
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
                first_sample=int(first_sample),
                options=settings,
                origin=origin,
                notes=misfit_notes(drawn.misfit, self.op.dof, weights, op=self.op, y=size, ratio_min=ratio_min),
            )
        chunk = chunk or chunk_size(self.op.in_shape if self.decoder is None else self.decoder.out_shape, y.device)
        op, score = self.white.to(y.device, y.dtype), Counted(self.score.to(y.device))
        # The same noise as in windows, wherever there may be windows.
        placed = self._layout is not None and plan.method.algorithm.in_windows
        places: list[tuple[int, Window | None]] | None = [(b, None) for b in range(items)] if placed else None
        drawing = Drawing(plan, score, op, y, num_samples, first_sample, seed, callback, places, shared)
        with progress_bar(drawing.total, plan.method.name, shown=progress) as bar:
            parts = drawing.run(chunk=chunk, bar=bar)

        x = _by_sample(torch.cat([part.x for part in parts]), items, num_samples)
        rows = max(1, CHUNK_NUMBERS["cpu"] // x[0, 0].numel())  # One row at a time for large images, for memory.
        residual = chi_square_of_rows(op, x.flatten(0, 1), y.repeat(num_samples, *(1,) * (y.ndim - 1)), items, rows=rows)
        if not residual.isfinite().all():
            k, b = divmod(int((~residual.isfinite()).nonzero()[0]), items)
            raise DivergenceError(
                f"{plan.method.name}: the misfit of sample {first_sample + k} of item {b} is not finite: the operator returned "
                "no finite value for it.",
                step=plan.steps,
                row=k * items + b,
            )
        weights, particles = _weigh(parts, drawing)
        weights, residual = normalized(weights, y.dtype), residual.reshape(num_samples, items)
        notes = misfit_notes(residual, op.dof, weights, op=op, y=y, ratio_min=ratio_min)  # Of the codes, under a latent prior.
        latents = None if self.decoder is None else x
        if self.decoder is not None:
            x, exact = put_back(self._image_op.to(y.device, y.dtype), decoded(self.decoder.to(y.device, y.dtype), x), y)
            residual = residual.masked_fill(exact, 0)
        return Posterior(
            samples=x,
            latents=latents,
            weights=weights,
            residual=residual,
            dof=op.dof,
            nfe=(score.evaluations + pilot.evaluations) / (num_samples * items),
            nvjp=(score.products + pilot.products) / (num_samples * items),
            seconds=time.monotonic() - started,
            method=plan.method.name,
            seed=seed,
            first_sample=int(first_sample),
            options=settings | {"chunk": int(chunk)},
            origin=origin,
            particles=particles,
            notes=notes,
        )

    def _shared_axis(self, plan: ResolvedMethod) -> int:
        """Return the axis of the slices that may have the same noise."""
        if not isinstance(self.score, Slices):
            raise ValueError(
                f"run: shared_noise is for the slices of volumes and clips (priors.Slices), got the prior {self.score!r}."
            )
        if issubclass(plan.method.algorithm, ParticleMethod):
            raise ValueError(
                f"run: {plan.method.name} weighs particles by noise of their own, without shared_noise. Use 'mmps'."
            )
        return self.score.axis

    def _check(self, y: Tensor, num_samples: int, first_sample: int, chunk: int | None) -> Tensor:
        y = check_measurement(self.op, y)
        check_whole(num_samples=num_samples, first_sample=first_sample, chunk=1 if chunk is None else chunk)
        if num_samples < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"run: num_samples and chunk must be at least 1, got {num_samples} and {chunk}.")
        if first_sample < 0:
            raise ValueError(f"run: first_sample must not be negative, got {first_sample}.")
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


def _checked_seed(seed: int | Sequence[int], items: int) -> int | tuple[int, ...]:
    if not isinstance(seed, Sequence):
        return seed if isinstance(seed, bool) else int(seed)  # the generator refuses a boolean, and says so
    if len(seed) != items:
        raise ValueError(f"run: expected one seed, or one for each of the {items} items of y, got {len(seed)}.")
    return tuple(int(one) for one in seed)


def _by_sample(values: Tensor, items: int, num_samples: int) -> Tensor:
    """Reorder rows from ``(items, samples)`` to ``(samples, items)``, without the surplus samples of whole groups."""
    return values.reshape(items, -1, *values.shape[1:]).transpose(0, 1)[:num_samples].contiguous()


def _weigh(parts: Sequence[Cloud], drawing: Drawing) -> tuple[Tensor, Particles | None]:
    """Return the weights of the samples, ``(N, B)``, not normalized, and the diagnostics of the particles."""
    items, group = len(drawing.y), drawing.group
    weights = _by_sample(torch.cat([part.weights for part in parts]), items, drawing.num_samples)
    if group == 1:
        return weights, None
    ess, ancestors, log_evidence = (
        torch.cat([getattr(part, name) for part in parts]).reshape(items, -1).mT.contiguous()
        for name in ("ess", "ancestors", "log_evidence")
    )
    particles = Particles(group, not parts[0].equal, weights, ess, ancestors, log_evidence)
    return particles.weights(), particles
