"""Blind deconvolution: ``BlindSampler(score, family).run(y)``."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from invdiff.blind.evidence import evidence_terms, levels_between, noise_for
from invdiff.blind.families import FreeFamily, ParametricFamily
from invdiff.blind.free import FURTHER, Resolution, halvings, search_kernel, steps_at
from invdiff.blind.measurement import BOUNDARIES, DECIMATED_BOUNDARIES, blur_operator, center_of
from invdiff.blind.notes import notes_on_free, notes_on_parameters
from invdiff.blind.parametric import LEVELS, ROUGH, search
from invdiff.blind.result import BlindPosterior, middle_of
from invdiff.blind.simplex import trimmed
from invdiff.blind.windows import Window, windows_of
from invdiff.blind.work import GRADIENT, Work, typical_evaluations
from invdiff.operators import per_item
from invdiff.operators.core.noise_level import noise_level
from invdiff.posterior import MisfitWarning, Posterior, PosteriorSampler
from invdiff.priors import ScoreModel, adapt
from invdiff.trial import in_own_modes

__all__ = ["BlindSampler", "FoundKernels"]

# Ratio of the state on the first grid and for free kernels, which compare kernels that differ widely, and no blur. Networks are
# more accurate for noise that is nearly white than for the noise of pivots, which would favor smooth kernels and no blur; the
# lower the ratio, the less the two differ.
ROUGH_RATIO = 1.0
DRAWS = 500  # Draws of the parameters
# Side and number of the windows of a large picture. A free kernel has as many unknowns as pixels and needs a larger part of it.
WINDOW, WINDOWS = 128, 2
FREE_WINDOW, FREE_WINDOWS = 192, 1
SMALLEST = 3  # Smallest side of a reduced picture in which a free kernel is looked for, in sides of the kernel
HIGHEST = 0.16  # Largest level of the evidence, on [-1, 1]: above it, networks favor narrow kernels
GRID = (0.12, 0.2)  # Levels of the first grid


@dataclass(frozen=True, eq=False)
class FoundKernels:
    """Kernels of one measurement.

    Attributes:
        kernels: ``(N, kh, kw)``, with sum 1.
        estimate: The kernel of the estimated parameters, or of the search, ``(kh, kw)``.
        parameters: Draws of each parameter, ``(M,)``; also of ``sigma_y`` if it was estimated.
        sigma_y: The noise level that was used.
        notes: Sentences, for example that no kernel explains the picture.
    """

    kernels: Tensor
    estimate: Tensor
    parameters: dict[str, Tensor]
    sigma_y: float
    notes: tuple[str, ...]


class BlindSampler:
    r"""Draws samples of an image and of the blur kernel that made the measurement: :math:`p(x, \theta | y)`.

    .. math:: y = D\,(k_\theta * x) + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    with :math:`D` the decimation by ``factor``. First the kernel, from :math:`p(\theta | y)`, in which the image is integrated
    out by the denoiser (:mod:`invdiff.blind.evidence`): a family of one or two parameters by a grid that becomes finer
    (:mod:`invdiff.blind.parametric`), any other kernel by stochastic gradients (:mod:`invdiff.blind.free`). Then each image
    sample by :class:`~invdiff.PosteriorSampler` under a kernel of its own. In large pictures the kernel is looked for in two
    windows of 128 pixels, or one of 192 for a free kernel, so that the first part costs the same at every size.

    Args:
        score: The prior. It must denoise the noise of pivots: of kind ``frequency``, and ``decimation`` if ``factor`` is above
            1 (:attr:`ScoreModel.noise_kinds <invdiff.priors.ScoreModel.noise_kinds>`).
        family: The kernels to consider.
        sigma_y: Noise standard deviation of the measurement, positive, in its units (images span [-1, 1]); ``None``: it is
            estimated from the finest details (:func:`invdiff.operators.core.noise_level.noise_level`).
        boundary: What lies beyond the border of the picture: ``circular``, ``reflect`` or ``valid`` (see
            :class:`~invdiff.operators.Blur`). Real pictures are ``valid``; with a ``factor`` above 1, ``circular`` or
            ``reflect``.
        factor: Factor of decimation: ``x`` has ``factor`` times as many pixels along each side as ``y``.
        ratio: Noise-to-signal ratio of a state that says nothing about the image, see :mod:`invdiff.blind.evidence`. The
            larger, the less it says, and the less accurate networks are.
        highest: Largest noise level :math:`s_1` of the evidence. Default: 0.16, or four times ``sigma_y`` if that is more.
        method: Method of the image samples, as for :class:`~invdiff.PosteriorSampler`.
        options: Other arguments of :class:`~invdiff.PosteriorSampler`.

    Raises:
        ValueError: If the prior, the boundary and the factor do not fit together, or a number is out of range.
    """

    def __init__(
        self,
        score: ScoreModel,
        family: ParametricFamily | FreeFamily,
        *,
        sigma_y: float | None,
        boundary: str = "reflect",
        factor: int = 1,
        ratio: float = 5.0,
        highest: float | None = None,
        method: str = "auto",
        **options: Any,
    ) -> None:
        if not isinstance(family, ParametricFamily | FreeFamily):
            raise TypeError(f"BlindSampler: family must be one of invdiff.blind, got {type(family).__name__}.")
        if sigma_y is not None and not (math.isfinite(sigma_y) and sigma_y > 0):
            raise ValueError(f"BlindSampler: sigma_y must be positive, or None to estimate it, got {sigma_y!r}.")
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise ValueError(f"BlindSampler: factor must be a positive integer, got {factor!r}.")
        known = BOUNDARIES if factor == 1 else DECIMATED_BOUNDARIES
        if boundary not in known:
            raise ValueError(f"BlindSampler: boundary must be one of {', '.join(known)} for factor {factor}, got {boundary!r}.")
        if factor > 1 and isinstance(family, FreeFamily):
            raise ValueError(
                "BlindSampler: a free kernel is not looked for under decimation. Use GaussianFamily, DiscFamily or LineFamily."
            )
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"BlindSampler: ratio must be positive, got {ratio!r}.")
        if highest is not None and not (math.isfinite(highest) and highest > 4 * (sigma_y or 0.0)):
            raise ValueError(f"BlindSampler: highest must be above four times sigma_y, got {highest!r} for {sigma_y!r}.")
        kind = "frequency" if factor == 1 else "decimation"
        if kind not in score.noise_kinds:
            raise ValueError(
                f"BlindSampler: the prior must accept {kind} noise, not only {', '.join(sorted(score.noise_kinds)) or 'white'} "
                "noise. Use a prior that was trained with `invdiff train --noise-maps`, such as 'natural'."
            )
        self.score, self.family, self.sigma_y, self.boundary, self.factor = score, family, sigma_y, boundary, factor
        self.ratio, self.highest, self.method, self.options = ratio, highest, method, options

    def __repr__(self) -> str:
        return (
            f"BlindSampler({type(self.score).__name__}, {self.family!r}, sigma_y={self.sigma_y}, boundary={self.boundary!r}, "
            f"factor={self.factor})"
        )

    def run(
        self,
        y: Tensor,
        *,
        num_samples: int = 4,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[float], object] | None = None,
    ) -> BlindPosterior:
        """Return ``num_samples`` samples of image and kernel for every item of ``y``.

        Every item has a kernel of its own, and its result does not depend on the other items.

        Args:
            y: Measurements, ``(B, C, h, w)``.
            num_samples: Samples per item, at least 1.
            seed: Random seed, a non-negative integer.
            progress: Whether to show progress bars.
            callback: Called after every kernel that was tried, with the estimated share of the work on this item that is done,
                from 0 to 1, of which the samples of the image are the last part.

        Raises:
            TypeError: If ``y`` is no real floating-point tensor.
            ValueError: If the shape of ``y`` is wrong, it is not finite, or too small for the kernels of the family.

        Warns:
            MisfitWarning: If samples do not explain the data; ``post.notes`` has the same text.
        """
        self._check(y, num_samples, seed)
        items = [self._item(y[b : b + 1], num_samples, seed, progress, callback) for b in range(len(y))]
        for item in items:
            for note in item.posterior.notes:
                warnings.warn(note, MisfitWarning, stacklevel=2)
        return items[0] if len(items) == 1 else _joined(items)

    @in_own_modes()
    def find(
        self,
        y: Tensor,
        *,
        num_kernels: int = 1,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[float], object] | None = None,
    ) -> FoundKernels:
        """Return kernels of one measurement ``(1, C, h, w)`` without samples of the image, as :meth:`run` finds them.

        Args:
            y: The measurement.
            num_kernels: Number of kernels: the first of a free family is the estimate, those of a parametric one are draws.
            seed: Random seed, a non-negative integer.
            progress: Whether to show a progress bar.
            callback: As for :meth:`run`: the samples of the image, one for each kernel, are a part of the work.
        """
        self._check(y, num_kernels, seed)
        if len(y) != 1:
            raise ValueError(f"BlindSampler: find takes one measurement, got {len(y)}. Call it for each.")
        y = y if y.dtype == torch.float64 else y.float()
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0xB11D,)))
        sigma_y, noise = self._noise(y, generator)
        images = 0.0 if callback is None else self._image_work(y, sigma_y) * num_kernels
        if isinstance(self.family, FreeFamily):
            kernels, notes = self._free(y, self.family, sigma_y, num_kernels, generator, progress, Work(images, callback))
            estimate, parameters = kernels[0], noise
        else:
            found = self._parametric(y, self.family, sigma_y, num_kernels, generator, progress, Work(images, callback))
            kernels, estimate, drawn, notes = found
            parameters = drawn | noise
        return FoundKernels(trimmed(kernels), trimmed(estimate), parameters, sigma_y, notes)

    def _item(
        self, y: Tensor, num_samples: int, seed: int, progress: bool, callback: Callable[[float], object] | None
    ) -> BlindPosterior:
        found = self.find(y, num_kernels=num_samples, seed=seed, progress=progress, callback=callback)
        y = y if y.dtype == torch.float64 else y.float()
        posterior = self._images(y, found.kernels, found.sigma_y, seed, progress)
        draws = {name: values.to(y)[:, None] for name, values in found.parameters.items()}
        notes, size = ((*found.notes, *posterior.notes),), (self.factor * y.shape[-2], self.factor * y.shape[-1])
        return BlindPosterior(posterior, found.kernels.to(y)[:, None], draws, notes, size)

    def _check(self, y: Tensor, count: int, seed: int) -> None:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise TypeError(f"BlindSampler: y must be a tensor of real floating-point numbers, got {_kind(y)}.")
        if y.ndim != 4 or not len(y):
            raise ValueError(f"BlindSampler: y must be images (B, C, h, w), got shape {tuple(y.shape)}.")
        if not y.isfinite().all():
            raise ValueError("BlindSampler: y must be finite. Cut out the part of the picture that was measured.")
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= DRAWS:
            raise ValueError(f"BlindSampler: the number of samples must be from 1 to {DRAWS}, got {count!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"BlindSampler: seed must be a non-negative integer, got {seed!r}.")

    def _noise(self, y: Tensor, generator: np.random.Generator) -> tuple[float, dict[str, Tensor]]:
        """Return the noise level, and draws of it if it is estimated."""
        if self.sigma_y is not None:
            return self.sigma_y, {}
        try:
            found = noise_level(y[0].double().numpy(force=True))
        except ValueError as error:
            raise ValueError(f"BlindSampler: sigma_y=None: {error}. Give the level, sigma_y=...") from None
        if not found.sigma > 0:
            raise ValueError("BlindSampler: sigma_y=None: no noise is found in y. Give the level, sigma_y=...")
        draws = found.sigma * np.exp(found.error / found.sigma * generator.standard_normal(DRAWS))
        return found.sigma, {"sigma_y": torch.from_numpy(draws)}

    def _windows(self, y: Tensor, size: int, side: int, count: int) -> list[Window]:
        """Return the parts of a measurement in which a kernel of side ``size`` is looked for."""
        smallest = self.factor * min(y.shape[-2:])
        if size > smallest:
            raise ValueError(
                f"BlindSampler: the kernels of {self.family!r} are {size} pixels wide, wider than the picture of {smallest}. "
                "Use a family of smaller kernels."
            )
        reach = -(-(size // 2) // self.factor)
        return windows_of(y, reach=reach, boundary=self.boundary, factor=self.factor, side=side, count=count)

    def _resolutions(self, y: Tensor, family: FreeFamily, sigma_y: float) -> list[Resolution]:
        """Return the measurement from coarse to fine, for a free kernel."""
        found = []
        for times in range(halvings(family.size), -1, -1):
            scale = 2**times
            if self.boundary == "circular" and any(n % scale for n in y.shape[-2:]):
                continue  # Reduced, it would not be periodic.
            small = torch.nn.functional.avg_pool2d(y, scale)
            size = 2 * -(-(family.size // 2) // scale) + 1
            if times and min(small.shape[-2:]) < SMALLEST * size:
                continue
            windows = self._windows(small, size, FREE_WINDOW, FREE_WINDOWS)
            score = self._adapted(small, (y.shape[1], *windows[0].y.shape[-2:]))
            found.append(Resolution(score, windows, size, sigma_y / scale, steps_at(times)))
        return found

    def _adapted(self, y: Tensor, shape: Sequence[int]) -> ScoreModel:
        return adapt(self.score, shape)[0].to(y.device)

    def _parametric(
        self,
        y: Tensor,
        family: ParametricFamily,
        sigma_y: float,
        count: int,
        generator: np.random.Generator,
        progress: bool,
        work: Work,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], tuple[str, ...]]:
        shift, windows = center_of(self.factor), self._windows(y, family.size, WINDOW, WINDOWS)
        pixels = sum(self.factor**2 * window.y[0, 0].numel() for window in windows)
        work.kernel = typical_evaluations(len(family.names)) * pixels
        highest = self.highest or max(HIGHEST, 4 * sigma_y)
        step, levels = math.log(highest / sigma_y) / LEVELS, levels_between(sigma_y, highest, LEVELS)
        grid = [max(level, (1.5 + k) * sigma_y) for k, level in enumerate(GRID)]
        noise = [[noise_for(window, self.factor, [*grid, *levels], generator) for window in windows] for _ in range(2)]
        with tqdm(desc="kernel", unit=" kernels", disable=not progress, leave=False) as bar:

            def evidence_under(kernel: Tensor, stream: int, count: int) -> Tensor:
                places = []
                for window, random in zip(windows, noise[stream], strict=True):
                    shape = (y.shape[1], *(self.factor * n for n in window.y.shape[-2:]))
                    op = blur_operator(shape, kernel.to(y.device), boundary="circular", factor=self.factor)
                    score = self._adapted(y, shape)
                    some = random[: len(GRID)] if count == ROUGH else random[-count:]
                    ratio = min(self.ratio, ROUGH_RATIO) if count == ROUGH else self.ratio
                    terms = evidence_terms(score, op, window, some, sigma_y=sigma_y, ratio=ratio)
                    places.append(step * terms.double().sum(0).cpu())
                    work.add(len(some) * math.prod(shape[1:]))
                bar.update()
                return torch.cat([torch.nn.functional.pad(p, (0, _widest(places) - p.shape[1])) for p in places])

            def evidence(theta: tuple[float, ...], stream: int, count: int) -> Tensor:
                return evidence_under(trimmed(family.kernel(theta, shift=shift)), stream, count)

            estimate = search(family, evidence)
            point = torch.ones(1, 1, dtype=torch.float64)
            unblurred = evidence_under(point, 0, ROUGH) if self.factor == 1 else None
        drawn = estimate.draws(DRAWS, family, generator)
        kernels = torch.stack([family.kernel(theta, shift=shift) for theta in drawn[:count]])
        draws = {name: torch.tensor(values) for name, values in zip(family.names, zip(*drawn, strict=True), strict=True)}
        if "angle" in draws:  # Around the estimate, so that an interval does not wrap.
            middle = estimate.parameters[family.names.index("angle")]
            draws["angle"] = middle + (draws["angle"] - middle + 90) % 180 - 90
        best = family.kernel(estimate.parameters, shift=shift)
        return kernels, best, draws, notes_on_parameters(estimate, family, unblurred)

    def _free(
        self,
        y: Tensor,
        family: FreeFamily,
        sigma_y: float,
        count: int,
        generator: np.random.Generator,
        progress: bool,
        work: Work,
    ) -> tuple[Tensor, tuple[str, ...]]:
        resolutions = self._resolutions(y, family, sigma_y)
        steps = [place.steps for place in resolutions]
        steps[-1] += FURTHER * (count - 1)
        areas = [place.windows[0].y[0, 0].numel() for place in resolutions]
        work.kernel = GRADIENT * sum(n * area for n, area in zip(steps, areas, strict=True))
        with tqdm(total=sum(steps), desc="kernel", unit=" steps", disable=not progress, leave=False) as bar:

            def report(window: Window) -> None:
                work.add(GRADIENT * window.y[0, 0].numel())
                bar.update()

            ratio = min(self.ratio, ROUGH_RATIO)
            found = search_kernel(resolutions, ratio=ratio, count=count, generator=generator, report=report)
        return found.kernels, notes_on_free(found)

    def _image_work(self, y: Tensor, sigma_y: float) -> float:
        """Return the number of steps of a sample of the image, weighted by their cost, times its pixels."""
        channels, height, width = y.shape[1], *(self.factor * n for n in y.shape[-2:])
        some = torch.full((3, 3), 1 / 9, dtype=torch.float64, device=y.device)
        settings: dict[str, Any] = {"boundary": self.boundary, "factor": self.factor, "sigma_y": sigma_y}
        op = blur_operator((channels, height, width), some, **settings)
        sampler = PosteriorSampler(self.score, op, method=self.method, **self.options)
        return sum(sampler.plan(1).costs(self.score)) * height * width

    def _images(self, y: Tensor, kernels: Tensor, sigma_y: float, seed: int, progress: bool) -> Posterior:
        """Return one image sample under each kernel, as the samples of one item."""
        (channels, height, width), (rows, columns) = y.shape[1:], kernels.shape[-2:]
        shape = (channels, self.factor * height, self.factor * width)
        if self.boundary == "valid":
            shape = (channels, height + rows - 1, width + columns - 1)
        settings: dict[str, Any] = {"boundary": self.boundary, "factor": self.factor, "sigma_y": sigma_y}
        ops = [blur_operator(shape, kernel.to(y.device), **settings) for kernel in kernels]
        op = ops[0] if len(ops) == 1 else per_item(ops)
        sampler = PosteriorSampler(self.score, op, method=self.method, **self.options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MisfitWarning)  # `run` warns, from the place of its caller.
            post = sampler.run(y.expand(len(kernels), *y.shape[1:]), num_samples=1, seed=seed, progress=progress)
        return dataclasses.replace(
            post,
            samples=post.samples.transpose(0, 1),
            weights=post.weights.transpose(0, 1) / len(kernels),
            residual=post.residual.transpose(0, 1),
            dof=y[0].numel(),
            options={**post.options, **settings},
        )


def _widest(places: Sequence[Tensor]) -> int:
    return max(place.shape[1] for place in places)


def _joined(items: Sequence[BlindPosterior]) -> BlindPosterior:
    """Return the results of several items as one."""
    posts = [item.posterior for item in items]
    sizes = [item.kernels.shape[-1] for item in items]
    sides = tuple(min(post.samples.shape[axis] for post in posts) for axis in (-2, -1))
    posterior = dataclasses.replace(
        posts[0],
        samples=torch.cat([middle_of(post.samples, sides) for post in posts], 1),
        weights=torch.cat([post.weights for post in posts], 1),
        residual=torch.cat([post.residual for post in posts], 1),
        nfe=sum(post.nfe for post in posts) / len(posts),
        nvjp=sum(post.nvjp for post in posts) / len(posts),
        seconds=sum(post.seconds for post in posts),
        notes=tuple(f"item {b}: {note}" for b, post in enumerate(posts) for note in post.notes),
    )
    margins = [(max(sizes) - size) // 2 for size in sizes]
    kernels = [torch.nn.functional.pad(item.kernels, (margin,) * 4) for item, margin in zip(items, margins, strict=True)]
    names = items[0].parameters
    return BlindPosterior(
        posterior,
        torch.cat(kernels, 1),
        {name: torch.cat([item.parameters[name] for item in items], 1) for name in names},
        tuple(item.notes[0] for item in items),
        items[0].size,
    )


def _kind(y: object) -> str:
    return str(y.dtype) if isinstance(y, Tensor) else type(y).__name__
