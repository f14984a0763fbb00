"""Posterior samples and their statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invdiff.posterior.estimate import Estimate, expectation, probability
from invdiff.posterior.files import read_posterior, write_posterior
from invdiff.posterior.interval import central_interval
from invdiff.posterior.join import join_runs
from invdiff.posterior.notebook import posterior_html
from invdiff.posterior.particles import Particles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Posterior"]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of p(x | y), with diagnostics and the settings of the run.

    Attributes:
        samples: Samples, ``(N, B, *event)``: sample ``k`` of item ``b`` is ``samples[k, b]``.
        weights: Weights, ``(N, B)``, summing to 1 over the samples; equal except for particle methods.
        residual: Squared misfit over the noise variance, ``(N, B)``, to compare with chi-square of ``dof`` degrees of freedom
            (:func:`~invdiff.posterior.chi_square`). If the noise is 0, the squared misfit itself.
        dof: Number of measured values per item: a scalar, or ``(B,)`` if it differs between the operators of the items.
        nfe: Network evaluations per returned sample, including those of all particles of its group and its share of the pilot
            run by which ``"auto"`` chose the method. The pilot counts in every run, although a sampler runs it only once.
        nvjp: Vector-Jacobian products of the network per returned sample, counted like ``nfe``.
        seconds: Wall time, in seconds.
        method: Name of the method.
        seed: Random seed of the run, or those of the items.
        options: All other settings of the run, the options of the method with their defaults; under ``"auto"`` also the reason
            for the choice, in ``options["auto"]``.
        particles: Diagnostics of the particles, for particle methods; otherwise ``None``.
        notes: Messages about misfits far from their expected value, with likely causes.
        first_sample: Number of the first sample in the streams of the seed: ``samples[k, b]`` is sample ``first_sample + k``.
        origin: What the run was made of: the prior, the operator, the SHA-256 of the measurement, dtype, device, versions.
        latents: Codes of the samples, ``(N, B, *latent)``, under a :class:`~invdiff.priors.LatentPrior`; otherwise ``None``.
    """

    samples: Tensor
    weights: Tensor
    residual: Tensor
    dof: int | Tensor
    nfe: float
    nvjp: float
    seconds: float
    method: str
    seed: int | tuple[int, ...]
    options: Mapping[str, Any]
    particles: Particles | None = None
    notes: tuple[str, ...] = ()
    first_sample: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    latents: Tensor | None = None

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean of the samples, ``(B, *event)``."""
        return (self._weights * self.samples).sum(0)

    @cached_property
    def std(self) -> Tensor:
        r"""Standard deviation of the samples, ``(B, *event)``.

        The unbiased variance for equal weights, and :math:`\sum w (x - m)^2 / (1 - \sum w^2)` in general. NaN for one sample.
        """
        square = (self._weights * (self.samples - self.mean) ** 2).sum(0)
        return (square / (1 - (self._weights**2).sum(0))).sqrt()

    def item(self, number: int) -> Posterior:
        """Return the samples of one item, ``samples[:, number : number + 1]``, with the mean cost of the items of this run.

        Raises:
            IndexError: If there is no such item.
        """
        items = self.samples.shape[1]
        if not 0 <= number < items:
            raise IndexError(f"item: expected a number from 0 to {items - 1}, got {number}.")
        one = slice(number, number + 1)
        return replace(
            self,
            samples=self.samples[:, one],
            latents=None if self.latents is None else self.latents[:, one],
            weights=self.weights[:, one],
            residual=self.residual[:, one],
            dof=self.dof[one] if isinstance(self.dof, Tensor) else self.dof,
            seconds=self.seconds / items,
            seed=self.seed[number] if isinstance(self.seed, tuple) else self.seed,
            particles=None if self.particles is None else self.particles.item(number),
        )

    def quantile(self, q: float) -> Tensor:
        """Return the weighted ``q``-quantile of every entry, ``(B, *event)``; for equal weights linear between samples."""
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

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        r"""Return the ends of central credible intervals of every entry, ``low`` and ``high``, each ``(B, *event)``.

        The intervals are made so that a new draw of the posterior, such as the truth, lies in them with probability ``level``,
        and as often above as below them, if the samples are exact draws. With :math:`n` samples (for unequal weights, and for
        particles, the effective number ``ess``) and :math:`q = (1 - \text{level}) / 2`:

        ======================================== ======================================================================
        :math:`n \ge 1/q - 1` (19 for 90 %)      quantiles, sample :math:`i` of :math:`n` counted as the quantile
                                                 :math:`i / (n + 1)`: for any shape of the posterior. Linear between
                                                 samples for equal weights, otherwise at the next sample outwards
        fewer                                    too few for quantiles that far out: mean and standard deviation, taken as
                                                 those of a Gaussian, with Student's :math:`\sqrt{1 + 1/n}\; t_{n-1}`
        ======================================== ======================================================================

        ``quantile(q)`` estimates the quantile of the posterior itself; between two such quantiles of few samples, a new draw
        lies too rarely.

        Whether the samples describe the truth is another question: prior and method are approximate, and the intervals are not
        calibrated. ``invdiff calibrate --save`` learns on images with known truth how many standard deviations an interval
        must have, and ``invdiff solve --calibration`` applies it (:func:`invdiff.diagnostics.marginal_width` in Python).

        Raises:
            ValueError: If ``level`` is not in (0, 1), or there is only one sample.
        """
        return central_interval(self, level)

    def probability(self, event: Callable[[Tensor], Tensor]) -> Estimate:
        r"""Return the posterior probability of an event, with its Monte Carlo standard error, for every item.

        >>> post.probability(lambda x: x[..., 20:30, 20:30].mean((1, 2, 3)) < -0.5)  # doctest: +SKIP
        0.75 +- 0.16

        The probability is the weighted share :math:`p` of the samples for which the event happens. The standard error is that
        of :math:`n` independent samples, :math:`\sqrt{\tilde p (1 - \tilde p) / n}`, with :math:`n` the effective number of
        samples ``ess``, and :math:`\tilde p = (n p + 1) / (n + 2)` (rule of succession) in the place of the unknown
        probability: 0 of 8 samples is 0 +- 0.11, and not impossible. Samples of particle methods that share few ancestors are
        dependent, and the error is then larger.

        Args:
            event: Called for every item with its samples ``(N, *event)``, returns booleans ``(N,)``, or ``(N, *shape)`` for
                several events at once, such as ``lambda x: x > 0`` for every pixel.

        Raises:
            TypeError: If ``event`` is no function, or returns no booleans.
            ValueError: If it does not return one value per sample.

        References:
            Agresti & Coull, Approximate Is Better than "Exact" for Interval Estimation of Binomial Proportions, 1998,
            https://doi.org/10.1080/00031305.1998.10480550, for adding to the counts (two of each there, one of each here).
        """
        return probability(self, event)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        r"""Return the posterior expectation of a function, with its Monte Carlo standard error, for every item.

        The standard error is the standard deviation of the function over the samples divided by :math:`\sqrt n`. For unequal
        weights :math:`w` that sum to 1, it is :math:`\big(\sum w^2 (f - \bar f)^2 / (1 - \sum w^2)\big)^{1/2}` (delta method).
        Particles that were resampled count as ``ess`` samples. NaN for one sample.

        Args:
            function: Called for every item with its samples ``(N, *event)``, returns numbers ``(N,)`` or ``(N, *shape)``.

        Raises:
            TypeError: If ``function`` is no function, or returns complex numbers.
            ValueError: If it does not return one value per sample, or a value is not finite.
        """
        return expectation(self, function)

    @staticmethod
    def join(*runs: Posterior) -> Posterior:
        """Return the samples of several runs as those of one run.

        >>> four = sampler.run(y, num_samples=4)  # doctest: +SKIP
        >>> more = sampler.run(y, num_samples=4, first_sample=4)  # doctest: +SKIP
        >>> eight = Posterior.join(four, more)  # doctest: +SKIP

        Samples, weights, misfits and diagnostics are those of one run of all samples: up to rounding, and bit for bit if the
        chunks are the same (``chunk=4`` in all three runs above), since matrix products of other numbers of rows round
        differently. ``nfe`` and ``nvjp`` are means over all samples, ``seconds`` is the sum, and ``notes`` are those of all
        runs.

        Args:
            runs: Runs of one sampler on one measurement with one seed, in any order, whose sample numbers follow one another.

        Raises:
            ValueError: If the runs differ in anything that determines the samples, if their sample numbers overlap or leave a
                gap, or if one ends within a group of particles and is not the last.
        """
        return join_runs(runs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file, from which :meth:`load` returns it bit for bit.

        The file is in the safetensors format, with settings and versions as JSON in its metadata. It is written atomically,
        replaces an earlier one of this name, and holds no code. Tensors are saved from any device.

        Raises:
            OSError: If the file cannot be written. An existing file is then left unchanged.
            ValueError: If the name does not end in ``.safetensors``, or the shapes of the fields do not fit together.
        """
        write_posterior(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Posterior:
        """Read a file of :meth:`save`, to the CPU, without executing anything in it.

        Raises:
            OSError: If the file does not exist or cannot be opened.
            ValueError: If the file is no file of :meth:`save`, damaged, or of a later version.
        """
        return cls(**read_posterior(path))

    def plot(self, *, samples: int = 3, items: int = 4) -> Figure:
        """Return a figure of matplotlib: for every item the mean, the standard deviation with a color bar, and samples.

        Images ``(C, H, W)`` span [-1, 1]; of more than three channels the first three are shown, of two the first. Vectors
        ``(n,)`` are drawn as lines, with 90 % intervals (:meth:`interval`). Notebooks show the figure; no window is opened, and
        ``figure.savefig("post.png")`` writes it.

        Args:
            samples: Most samples to show.
            items: Most items to show, one row each.

        Raises:
            ValueError: If the samples are neither images nor vectors, or a number is negative or 0.
        """
        from invdiff.posterior.figure import posterior_figure  # matplotlib is loaded by what draws

        return posterior_figure(self, samples=samples, items=items)

    @cached_property
    def ess(self) -> Tensor:
        r"""Effective sample size :math:`(\sum w)^2 / \sum w^2` per item, ``(B,)``. For particles, before resampling."""
        return 1 / (self.weights**2).sum(0) if self.particles is None else self.particles.ess

    @property
    def _weights(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *(1,) * (self.samples.ndim - 2)).to(self.samples)

    def __repr__(self) -> str:
        count, items, *event = self.samples.shape
        shape = " x ".join(map(str, (items, *event)))
        steps = f", {self.options['steps']} steps" if "steps" in self.options else ""
        return (
            f"Posterior({count} samples of {shape} by {self.method!r}{steps}, {self.nfe:.4g} evaluations, "
            f"{self.nvjp:.4g} gradients, {self.seconds:.3g} s)"
        )

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the summary, and mean and standard deviation if the samples are images."""
        return posterior_html(self)
