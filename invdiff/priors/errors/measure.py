r"""Measure the error covariance of a denoiser on clean images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from invdiff.cosine_transform import cosine_inverse, cosine_transform
from invdiff.priors.adapters.adapt import adapt
from invdiff.priors.errors.covariance import ErrorModel, local_energies, rotate
from invdiff.priors.errors.frequencies import hats, nodes, octaves
from invdiff.priors.score_model import ScoreModel
from invdiff.random import generator

__all__ = ["measure_error"]

LEVELS = (0.002, 10.0, 20)  # First, last and number of levels, limited to the range of the schedule.
COLORS_EVERY = 4  # The principal colors are computed from every fourth level.
LARGEST_SHARE = 0.99  # Largest ratio of error to noise variance; above it S cannot be distinguished from infinity.
STRIDE = 3  # Distance in pixels between the places used in the regression.
FLOOR = 0.02  # Fraction of the error's mean square below which local energies carry no information.


@torch.no_grad()
def measure_error(
    prior: ScoreModel,
    crops: Tensor,
    *,
    seed: int = 0,
    batch: int = 8,
    facts: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> ErrorModel:
    r"""Measure the covariance of the error of an image prior on clean images.

    At each of 20 levels, noise is added to the images and they are denoised. The spectrum is the mean of the squared cosine
    coefficients of the errors, over the images and around the frequencies of a table. The local variance of the errors
    relative to that spectrum is regressed on local energies of the estimates (gamma regression with a logarithmic link), and
    scaled so that its mean over the images equals the measured one.

    Args:
        prior: The prior.
        crops: Clean images in [-1, 1], ``(N, C, n, n)``: dozens of images from the domain of the prior.
        seed: Random seed of the noise.
        batch: Images denoised at a time.
        facts: Entries for reports, such as the source of the images.
        progress: Whether to show a progress bar.

    Returns:
        The error model. Its ``facts`` also contain, for each level, the root mean square of the error (``error_rms``) and of
        the error predicted by the model (``claimed_rms``).

    Raises:
        ValueError: If the images are not square, or do not have the shape that the prior is for.

    Cost: 25 evaluations of the network for each image.
    """
    event = prior.event_shape
    if crops.ndim != 4 or crops.shape[-1] != crops.shape[-2] or crops.shape[-1] < 8 or not len(crops):
        raise ValueError(f"measure_error: expected images (N, C, n, n) with n of at least 8 pixels, got {tuple(crops.shape)}.")
    if event is not None and (len(event) != 3 or event[0] not in (None, crops.shape[1])):
        raise ValueError(
            f"measure_error: the prior is for items of shape {event}, got images of shape {tuple(crops.shape[1:])}."
        )
    if not crops.isfinite().all():
        raise ValueError("measure_error: the images must be finite.")
    score, _ = adapt(prior, crops.shape[1:])
    schedule = score.schedule
    smallest, largest = (float(schedule.ratio(t)) for t in (schedule.t_min, schedule.t_max))
    ends = max(LEVELS[0], smallest), min(LEVELS[1], largest)
    levels = torch.linspace(math.log(ends[0]), math.log(ends[1]), LEVELS[2], dtype=torch.float64).exp()

    passes = len(levels[::COLORS_EVERY]) + len(levels)
    with tqdm(total=passes * len(crops), desc="measure", unit=" images", disable=not progress) as bar:

        def estimate(index: int) -> Tensor:
            streams = [generator(seed, "diagnose", item, index) for item in range(len(crops))]
            noise = torch.stack([torch.randn(crops.shape[1:], generator=stream) for stream in streams]).to(crops)
            t = schedule.time(levels[index])
            alpha, _ = score.levels(t, crops)
            found = []
            for x in torch.split(alpha * (crops + float(levels[index]) * noise), batch):
                found.append(score.denoise(x, t))
                bar.update(len(x))
            return torch.cat(found)

        colors = _principal_colors(torch.stack([crops - estimate(index) for index in range(0, len(levels), COLORS_EVERY)]))
        models, figures = [], []
        for index, level in enumerate(levels):
            x0_hat = estimate(index)
            models.append(_at_level(crops - x0_hat, x0_hat, level, colors))
            claimed = float(models[-1].at(x0_hat, float(level)).level.mean().sqrt())
            figures.append((float((crops - x0_hat).square().mean().sqrt()), claimed))
    tables = {name: torch.cat([getattr(model, name) for model in models]).cpu() for name in ("log_signal", "weights", "floors")}
    return ErrorModel(
        levels=levels,
        frequencies=models[0].frequencies.cpu(),
        colors=colors.cpu(),
        **tables,
        facts={
            **(facts or {}),
            "crops": len(crops),
            "size": crops.shape[-1],
            "seed": seed,
            "error_rms": [error for error, _ in figures],
            "claimed_rms": [claimed for _, claimed in figures],
        },
    )


def _principal_colors(errors: Tensor) -> Tensor:
    """Return the principal directions of errors ``(L, N, C, n, n)`` over the channels, with equal weights for all levels."""
    unit = errors / errors.square().mean((1, 2, 3, 4), keepdim=True).sqrt().clamp(min=torch.finfo(errors.dtype).tiny)
    covariance = torch.einsum("lnchw,lndhw->cd", unit, unit)
    colors: Tensor = torch.linalg.eigh(covariance).eigenvectors.mT.flip(0)
    return colors.contiguous()


def _at_level(error: Tensor, x0_hat: Tensor, level: Tensor, colors: Tensor) -> ErrorModel:
    """Fit the error model of a single level to the errors at that level."""
    side, ratio2 = error.shape[-1], float(level) ** 2
    at = nodes(side)
    cell = hats(side, at).to(error)
    coefficients = cosine_transform(rotate(colors, error))
    power = (cell.mT @ coefficients.square().mean(0) @ cell) / torch.outer(cell.sum(0), cell.sum(0))
    share = (power / ratio2).clamp(1e-9, LARGEST_SHARE)
    log_signal = (ratio2 * share / (1 - share)).log().half().to(error)  # Rounded as in a file.
    bands, floor = octaves(side, side, error), FLOOR * error.square().mean().clamp(min=1e-12)

    signal = (cell @ log_signal @ cell.mT).exp()
    white = coefficients * (1 / signal + 1 / ratio2).sqrt()
    local = cosine_inverse(bands[:, None] * white[:, None]) / bands.square().mean((-2, -1)).sqrt()[:, None, None, None]
    squares, logs = local.square().flatten(1, 2), (local_energies(x0_hat, colors) + floor).log()
    targets, logs = (part[..., 1::STRIDE, 1::STRIDE].transpose(0, 1).flatten(1).mT for part in (squares, logs))
    weights = _gamma_regression(torch.cat([torch.ones_like(logs[:, :1]), logs], 1), targets)
    model = ErrorModel(level[None], at, colors, log_signal[None], weights[None], floor[None])
    # V contains a mean of exponentials; it is rescaled so that its mean over the images equals the measured one.
    claimed = model.hardness(x0_hat, float(level)).mean(0).flatten()
    weights[0] += (squares.mean((0, 2, 3)).clamp(min=1e-6) / claimed).log()
    return dataclasses.replace(model, weights=weights[None])


def _gamma_regression(features: Tensor, targets: Tensor) -> Tensor:
    r"""Return weights ``(F, O)`` such that the targets have mean :math:`\exp(f^\top w)`, by Fisher scoring.

    The likelihood is a gamma distribution, which suits squares of Gaussian variables of varying variance: its gradient
    :math:`f (t\, e^{-f^\top w} - 1)` weighs relative errors. These errors are clipped at 20, so that a few places with very
    large targets do not dominate.

    Args:
        features: :math:`f`, ``(N, F)``, the first one constant.
        targets: :math:`t`, ``(N, O)``, nonnegative.
    """
    count, ridge = len(features), 1e-3 * torch.eye(features.shape[1]).to(features)
    information = features.mT @ features / count + ridge
    slopes = ridge.clone()
    slopes[0, 0] = 0  # The constant is not regularized.
    weights = features.new_zeros(features.shape[1], targets.shape[1])
    for _ in range(40):
        errors = (targets * (-(features @ weights).clamp(-8, 8)).exp() - 1).clamp(-1, 20)
        step = features.mT @ errors / count - slopes @ weights
        weights = weights + 0.7 * torch.linalg.solve(information, step)
    return weights
