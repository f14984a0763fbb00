"""Scores of posterior samples against the truth: how well the samples predict it, and whether their spread is the error's."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from invdiff.posterior import Posterior

__all__ = ["PosteriorScores", "crps", "energy_score", "posterior_scores"]

PART = 2**22  # values of samples that are taken at a time, for the memory of large pictures
ROUNDING = 1e-6  # of the largest value: of pixels with few levels, ends of intervals and truths often coincide


@dataclass(frozen=True)
class PosteriorScores:
    r"""Scores of :math:`n` samples :math:`x_k` of an image with :math:`D` values, of which :math:`y` are the true ones.

    Lengths are on the scale of the arguments, 0..1 for ``invdiff evaluate``. With :math:`m` the mean of the samples and
    :math:`s^2` their unbiased variance, value by value, and :math:`\langle \cdot \rangle` the mean over the values:

    Attributes:
        samples: :math:`n`.
        crps: The continuous ranked probability score, :func:`crps`, averaged over the values. Lower is better.
        energy_score: :func:`energy_score` divided by :math:`\sqrt D`, so that images of any size compare. Lower is better.
        coverage_50: Share of the open values within :meth:`Posterior.interval <invdiff.posterior.Posterior.interval>` at 50 %.
            Samples from the posterior give 0.5 on average over many images.
        coverage_90: The same at 90 %.
        open: Share of open values: all but those on which samples and truth agree exactly, such as known pixels.
        spread: :math:`\langle s^2 \rangle^{1/2}`.
        error: :math:`\langle (y - m)^2 \rangle^{1/2}`, the error of the mean.
        spread_error: :math:`\sqrt{(n + 1) / n}` ``spread / error``. The truth and the mean of :math:`n` samples differ by
            :math:`(1 + 1/n)\, s^2` in expectation: the ratio is 1 for samples from the posterior, less if they differ too
            little (overconfident), more if too much. NaN if both are 0.
        diversity: Mean over all pairs of samples of their root mean square difference,
            :math:`\langle (x_j - x_k)^2 \rangle^{1/2}`.
        psnr_samples: Mean over the samples of :math:`-10 \log_{10} \langle (x_k - y)^2 \rangle`, in dB.
        psnr_mean: The same of the mean :math:`m`. For samples from the posterior it is :math:`10 \log_{10} \tfrac{2n}{n+1}` dB
            higher than ``psnr_samples``, up to 3 dB.

    References:
        Fortin et al., Why Should Ensemble Spread Match the RMSE of the Ensemble Mean?, 2014,
        https://doi.org/10.1175/JHM-D-14-0008.1, for ``spread_error``.
    """

    samples: int
    crps: float
    energy_score: float
    coverage_50: float
    coverage_90: float
    open: float
    spread: float
    error: float
    spread_error: float
    diversity: float
    psnr_samples: float
    psnr_mean: float

    def as_dict(self) -> dict[str, float]:
        """Return the scores by name."""
        return asdict(self)


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Return the fair continuous ranked probability score of every value, ``(*event)``.

    .. math:: \frac{1}{n} \sum_k |x_k - y| - \frac{1}{2 n (n - 1)} \sum_{j, k} |x_j - x_k|

    Its expectation over the samples is the score :math:`E|X - y| - \tfrac12 E|X - X'|` of the distribution that they are drawn
    from, for any :math:`n \ge 2`: runs of different numbers of samples compare, and no number rewards samples that are too
    alike. The score of a distribution is least in expectation for the distribution of the truth itself. It has the unit of the
    values; that of a single number is the absolute error. An estimate may be negative.

    Args:
        samples: Samples, ``(n, *event)``, :math:`n \ge 2`.
        truth: True values, ``(*event)``.

    References:
        Gneiting & Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007,
        https://doi.org/10.1198/016214506000001437, eq. 21; Ferro, Fair Scores for Ensemble Forecasts, 2014,
        https://doi.org/10.1002/qj.2270, for the factor :math:`n - 1`.
    """
    _check("crps", samples, truth)
    n = len(samples)
    # Of the sorted samples, the i-th of n is added i - 1 times and subtracted n - i times in the sum over pairs.
    factors = (2 * torch.arange(1, n + 1, device=samples.device) - n - 1).to(samples)
    pairs = (samples.sort(0).values * factors.reshape(n, *(1,) * truth.ndim)).sum(0)
    return (samples - truth).abs().mean(0) - pairs / (n * (n - 1))


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Return the fair energy score of the samples as a whole, a scalar.

    .. math:: \frac{1}{n} \sum_k \|x_k - y\| - \frac{1}{2 n (n - 1)} \sum_{j, k} \|x_j - x_k\|

    The multivariate :func:`crps`, with Euclidean norms over all values, and equal to it for a single value. It is sensitive to
    how values depend on each other, which scores of single values are not, though less than to the mean.

    Args:
        samples: Samples, ``(n, *event)``, :math:`n \ge 2`.
        truth: True values, ``(*event)``.

    References:
        Gneiting & Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007,
        https://doi.org/10.1198/016214506000001437, eq. 22, there with the opposite sign.
    """
    _check("energy_score", samples, truth)
    to_truth = torch.linalg.vector_norm((samples - truth).reshape(len(samples), -1), dim=1)
    return _energy(to_truth, torch.pdist(samples.reshape(len(samples), -1)))


def posterior_scores(samples: Tensor, truth: Tensor) -> PosteriorScores:
    """Return all scores of the samples of one image. They are computed in double precision, part by part.

    Args:
        samples: Samples, ``(n, *event)``, two or more.
        truth: True values, ``(*event)``.

    Raises:
        ValueError: If the shapes do not fit, there is one sample alone, or a value is not finite.
    """
    _check("posterior_scores", samples, truth)
    n, size = len(samples), truth.numel()
    sums: dict[str, float] = dict.fromkeys(("crps", "open", "variance", "error", "hits_50", "hits_90"), 0.0)
    to_truth, between = torch.zeros(n, dtype=torch.float64), torch.zeros(n * (n - 1) // 2, dtype=torch.float64)
    rows, values, count = samples.reshape(n, -1), truth.flatten(), max(1, PART // n)
    for start in range(0, size, count):
        x, y = (part[..., start : start + count].double().cpu() for part in (rows, values))
        to_truth += (x - y).square().sum(1)
        between += torch.pdist(x).square()
        undecided = (x != y).any(0)
        sums["crps"] += float(crps(x, y).sum())
        sums["open"] += int(undecided.sum())
        sums["variance"] += float(x.var(0).sum())
        sums["error"] += float((x.mean(0) - y).square().sum())
        x, y = x[:, undecided], y[undecided]
        slack = ROUNDING * float(torch.maximum(x.abs().max(), y.abs().max())) if len(y) else 0.0
        for level, name in ((0.5, "hits_50"), (0.9, "hits_90")) if len(y) else ():
            low, high = _as_posterior(x).interval(level)
            sums[name] += int(((low[0] - slack <= y) & (y <= high[0] + slack)).sum())
    spread, error = math.sqrt(sums["variance"] / size), math.sqrt(sums["error"] / size)
    return PosteriorScores(
        samples=n,
        crps=sums["crps"] / size,
        energy_score=float(_energy(to_truth.sqrt(), between.sqrt())) / math.sqrt(size),
        coverage_50=sums["hits_50"] / sums["open"] if sums["open"] else math.nan,
        coverage_90=sums["hits_90"] / sums["open"] if sums["open"] else math.nan,
        open=sums["open"] / size,
        spread=spread,
        error=error,
        spread_error=math.sqrt((n + 1) / n) * spread / error if error else (math.inf if spread else math.nan),
        diversity=float((between / size).sqrt().mean()),
        psnr_samples=float((-10 * (to_truth / size).log10()).mean()),
        psnr_mean=-20 * math.log10(error) if error else math.inf,
    )


def _check(name: str, samples: Tensor, truth: Tensor) -> None:
    if len(samples) < 2 or samples.shape[1:] != truth.shape or not truth.numel():
        raise ValueError(
            f"{name}: expected two samples or more (n, *event) and the truth (*event), got {tuple(samples.shape)} and "
            f"{tuple(truth.shape)}."
        )
    if not (samples.isfinite().all() and truth.isfinite().all()):
        raise ValueError(f"{name}: samples and truth must be finite, got NaN or infinite values.")


def _energy(to_truth: Tensor, between: Tensor) -> Tensor:
    """Return the energy score from the distances of the samples to the truth, ``(n,)``, and those of all pairs."""
    return to_truth.mean() - between.mean() / 2


def _as_posterior(samples: Tensor) -> Posterior:
    """Return samples ``(n, D)`` as the posterior of one item, for its intervals."""
    weights = torch.full((len(samples), 1), 1 / len(samples), dtype=samples.dtype)
    return Posterior(samples[:, None], weights, torch.zeros_like(weights), 1, 0.0, 0.0, 0.0, method="", seed=0, options={})
