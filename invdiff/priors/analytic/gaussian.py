"""Gaussian priors, with closed-form score and posterior and exact samples of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, Self

import torch
from torch import Tensor

from invdiff.linalg import dense_matrix, dot
from invdiff.movable import moved_copy
from invdiff.noise_covariance import NOISE_KINDS, NoiseCovariance
from invdiff.priors.score_model import ScoreModel
from invdiff.random import generator
from invdiff.schedules import VP, Schedule

__all__ = ["Gaussian", "LinearMeasurement", "check_density", "kept_inverse", "linear_gaussian_posterior"]

LARGEST_DENSE = 4096


class LinearMeasurement(Protocol):
    """The attributes of a linear operator with Gaussian noise that an exact posterior uses."""

    in_shape: tuple[int, ...]

    @property
    def out_shape(self) -> tuple[int, ...]: ...
    @property
    def sigma_y(self) -> float: ...
    def adjoint(self, y: Tensor, /) -> Tensor: ...


class Gaussian(ScoreModel):
    r"""The normal distribution :math:`\mathcal{N}(m, S)` along any schedule.

    .. math:: E[x_0 | x_t] = m + \alpha_t S (\alpha_t^2 S + \sigma_t^2 I)^{-1} (x_t - \alpha_t m)

    Args:
        mean: :math:`m`, shape ``(*event)``, or ``(B, *event)`` if every item has its own mean.
        cov: :math:`S`: ``(n, n)`` with ``n`` the size of an event (dense), or the variances in the shape of one event
            (diagonal). For a stationary covariance use :meth:`stationary`.
        schedule: The noise schedule. Default: :class:`~invdiff.schedules.VP`.
        batched: Whether ``mean`` has a batch axis.

    Raises:
        ValueError: If the shapes do not match, or the covariance is not symmetric positive semi-definite.
    """

    noise_kinds = frozenset(NOISE_KINDS)

    def __init__(self, mean: Tensor, cov: Tensor, *, schedule: Schedule | None = None, batched: bool = False) -> None:
        event = tuple(mean.shape[1:] if batched else mean.shape)
        size = torch.Size(event).numel()
        if tuple(cov.shape) == (size, size) and cov.shape != event:
            if not torch.allclose(cov, cov.mT, rtol=1e-6, atol=1e-8 * float(cov.abs().max())):
                raise ValueError("Gaussian: cov must be symmetric.")
            values, self._vectors = torch.linalg.eigh(cov)
            self._basis = "dense"
        elif tuple(cov.shape) == event:
            values, self._basis = cov, "diagonal"
        else:
            raise ValueError(
                f"Gaussian: cov must be ({size}, {size}) or {event} for events of shape {event}, got {tuple(cov.shape)}."
            )
        self._set(mean, values, event, schedule)
        self.batched = batched

    def _set(self, mean: Tensor, values: Tensor, event: tuple[int, ...], schedule: Schedule | None) -> None:
        if not (mean.isfinite().all() and values.isfinite().all() and values.min() >= -1e-6 * values.abs().max()):
            raise ValueError("Gaussian: mean and cov must be finite, and cov positive semi-definite.")
        self.mean, self._values = mean, values.clamp(min=0)
        self.event_shape, self.schedule = event, schedule or VP()

    @classmethod
    def stationary(cls, mean: Tensor, spectrum: Tensor, *, schedule: Schedule | None = None) -> Self:
        r"""Return the stationary periodic Gaussian :math:`\mathcal{N}(m, F^* \Lambda F)` for images.

        Args:
            mean: ``(C, H, W)``.
            spectrum: :math:`\Lambda`, the variance of each Fourier coefficient of ``torch.fft.rfft2(x, norm="ortho")``,
                shape ``(C, H, W // 2 + 1)``, even in the vertical frequency in its first column, and in its last if ``W`` is
                even.
            schedule: The noise schedule.
        """
        prior = cls.__new__(cls)
        expected = (*mean.shape[:-1], mean.shape[-1] // 2 + 1)
        if tuple(spectrum.shape) != expected:
            raise ValueError(
                f"Gaussian: spectrum must have shape {expected} for mean {tuple(mean.shape)}, got {tuple(spectrum.shape)}."
            )
        # In columns that are their own mirror image, a real image has conjugate coefficients at frequencies r and -r.
        own = spectrum[..., [0, -1] if mean.shape[-1] % 2 == 0 else [0]]
        if not torch.allclose(own, own.flip(-2).roll(1, -2), rtol=1e-5, atol=0):
            raise ValueError("Gaussian: spectrum must be even in the vertical frequency in its first and last column.")
        prior._basis = "stationary"
        prior._set(mean, spectrum, tuple(mean.shape), schedule)
        prior.batched = False
        return prior

    @property
    def scale(self) -> float:  # type: ignore[override]
        r"""Upper bound on the root mean square along any direction: :math:`\sqrt{\lVert S \rVert + \lVert m \rVert^2}`."""
        mean = self.mean.flatten(1) if self.batched else self.mean.flatten()[None]
        return math.sqrt(float(self._values.max()) + float(mean.square().sum(1).max()))

    def to(self, device: torch.device | str | None = None) -> Self:
        return moved_copy(self, device)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self._basis == "stationary" or torch.as_tensor(t).ndim == 0:
            alpha_t, sigma_t = self.levels(t, x_t)
        else:  # One level per item, shaped to multiply the coefficients, which are flat if the covariance is dense.
            alpha_t, sigma_t = self.levels(t, x_t.flatten(1) if self._basis == "dense" else x_t)
        mean = self.mean.to(x_t)
        level = alpha_t if alpha_t.ndim == 0 else alpha_t.reshape(-1, *(1,) * (x_t.ndim - 1))
        return mean + self._apply(lambda s: alpha_t * s / (alpha_t**2 * s + sigma_t**2), x_t - level * mean)

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        r"""Return :math:`m + S (S + \Sigma)^{-1} (\mu - m)` by dense matrices, for events of at most 4,096 entries."""
        event, dtype = tuple(mu.shape[1:]), self.mean.dtype
        _check_dense(event)
        prior, mean = self.covariance().to(mu.device), self.mean.to(mu.device)
        centered = (mu.to(dtype) - mean).flatten(1)
        inverse, _, vectors = kept_inverse(prior + cov.matrix(event).to(dtype))
        coefficients = torch.einsum("bij,bi->bj", vectors.expand(len(mu), -1, -1), centered) * inverse
        shift = torch.einsum("bij,bj->bi", vectors.expand(len(mu), -1, -1), coefficients) @ prior
        return (mean + shift.reshape(mu.shape)).to(mu)

    def _apply(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        r"""Return :math:`f(S) x`."""
        factor = function(self._values.to(x))
        if self._basis == "dense":
            vectors = self._vectors.to(x)
            applied: Tensor = x.flatten(1) @ vectors * factor @ vectors.mT
            return applied.reshape(x.shape)
        if self._basis == "stationary":
            spectrum: Tensor = torch.fft.rfft2(x, norm="ortho")
            filtered: Tensor = torch.fft.irfft2(spectrum * factor, s=x.shape[-2:], norm="ortho")
            return filtered
        return x * factor

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the log density of every item of ``x``, shape ``(B, *event)``, as ``(B,)``.

        .. math:: -\tfrac12 \big((x - m)^\top S^{-1} (x - m) + \log\det S + n \log 2\pi\big)

        Raises:
            ValueError: If the covariance is singular, so that there is no density.
        """
        check_density("Gaussian", self._values)
        centered = x - self.mean.to(x)
        distance = dot(centered, self._apply(torch.reciprocal, centered))
        log_values = self._values.log()
        if self._basis == "stationary":  # Columns inside the half-plane also count for their mirror images.
            width = centered.shape[-1]
            log_values = torch.cat([log_values, log_values[..., 1 : (width + 1) // 2]], -1)
        return -0.5 * (distance + log_values.sum().to(x) + centered[0].numel() * math.log(2 * math.pi))

    def covariance(self) -> Tensor:
        r"""Return :math:`S` as a dense matrix ``(n, n)``, for events of at most 4,096 entries."""
        event = tuple(self.mean.shape[-len(self.event_shape or ()) :])
        _check_dense(event)
        return dense_matrix(lambda x: self._apply(lambda s: s, x), event, dtype=self.mean.dtype, device=self.mean.device)

    def sample(self, num_samples: int, *, seed: int) -> Tensor:
        """Return exact samples, ``(num_samples, *event)``, or ``(num_samples, B, *event)`` for a batched mean."""
        noise = _noise(num_samples, self.mean, seed)
        flat = noise.reshape(-1, *noise.shape[noise.ndim - len(self.event_shape or ()) :])
        return self.mean + self._apply(torch.sqrt, flat).reshape(noise.shape)

    def posterior(self, op: LinearMeasurement, y: Tensor) -> Gaussian:
        r"""Return the exact posterior :math:`p(x_0 | y)` for :math:`y = A x_0 + n`, one mean per item of ``y``.

        .. math:: \mathcal{N}\big(m + K (y - A m),\, S - K A S\big), \quad K = S A^\top (A S A^\top + \sigma_y^2 I)^{-1}

        Args:
            op: A linear operator with Gaussian noise, on events of at most 4,096 entries.
            y: Measurements, ``(B, *op.out_shape)``.
        """
        event = tuple(op.in_shape)
        _check_dense(event)
        y = y.to(self.mean.dtype)
        means, cov, _ = linear_gaussian_posterior(self.mean.reshape(-1, torch.Size(event).numel()), self.covariance(), op, y)
        return Gaussian(means.reshape(-1, *event), cov, schedule=self.schedule, batched=True)


def linear_gaussian_posterior(mean: Tensor, cov: Tensor, op: LinearMeasurement, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Condition :math:`\mathcal{N}(m, S)` on :math:`y = A x + n`.

    Args:
        mean: :math:`m`, ``(n,)`` or ``(B, n)``.
        cov: :math:`S`, ``(n, n)``.
        op: :math:`A` and :math:`\sigma_y`.
        y: Measurements, ``(B, *op.out_shape)``.

    Returns:
        Means ``(B, n)``, the covariance ``(n, n)``, and :math:`\log p(y)` up to a constant, ``(B,)``.
    """
    if getattr(op, "items", None) is not None:
        raise ValueError(
            "posterior: the operator differs from item to item. Condition each item separately: op.take([b]), y[b : b + 1]."
        )
    matrix = dense_matrix(op.adjoint, op.out_shape, dtype=cov.dtype, device=cov.device).mT
    cross = cov @ matrix.mT
    # Exact data and rows of zeros (missing pixels) leave this singular.
    noise = op.sigma_y**2 * torch.eye(len(matrix), dtype=cov.dtype, device=cov.device)
    inverse, log_values, vectors = kept_inverse(matrix @ cross + noise)
    gain = cross @ vectors * inverse @ vectors.mT
    residual = y.flatten(1) - mean @ matrix.mT
    # Joseph's form, with a separate term for the noise: a difference of covariances may lose positivity by rounding.
    left = torch.eye(len(cov), dtype=cov.dtype, device=cov.device) - gain @ matrix
    posterior_cov = left @ cov @ left.mT + op.sigma_y**2 * gain @ gain.mT
    log_p = -0.5 * ((residual @ vectors) ** 2 * inverse).sum(-1) - 0.5 * log_values.sum()
    return mean + residual @ gain.mT, (posterior_cov + posterior_cov.mT) / 2, log_p


def kept_inverse(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inverse eigenvalues, log eigenvalues and eigenvectors of symmetric matrices ``(..., n, n)``.

    If an eigenvalue is zero up to rounding (exact data, missing entries), its inverse and its logarithm are set to 0, as in a
    pseudo-inverse.
    """
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > torch.finfo(matrix.dtype).eps ** 0.75 * values.amax(-1, keepdim=True)
    safe = torch.where(kept, values, 1)
    return torch.where(kept, 1 / safe, 0), safe.log(), vectors


def check_density(name: str, values: Tensor) -> None:
    """Raise unless every eigenvalue of a covariance is positive beyond rounding."""
    if not (values > torch.finfo(values.dtype).eps * values.amax()).all():
        raise ValueError(f"{name}: log_prob needs a covariance of full rank, got an eigenvalue of 0: there is no density.")


def _check_dense(event: tuple[int, ...]) -> None:
    size = torch.Size(event).numel()
    if size > LARGEST_DENSE:
        raise ValueError(
            f"Gaussian: a dense covariance of {size} x {size} is too large, expected events of at most {LARGEST_DENSE} entries."
        )


def _noise(num_samples: int, like: Tensor, seed: int) -> Tensor:
    if num_samples < 1:
        raise ValueError(f"sample: num_samples must be at least 1, got {num_samples}.")
    streams = (generator(seed, "prior", 0, k, device=like.device) for k in range(num_samples))
    return torch.stack([torch.randn(like.shape, generator=g, dtype=like.dtype, device=like.device) for g in streams])
