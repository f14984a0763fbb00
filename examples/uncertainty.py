"""Check the spread of the samples against an exactly known posterior: python examples/uncertainty.py --items 400"""

import argparse

import torch
from scipy import stats

import invdiff
from invdiff import operators, priors


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check intervals and residuals against the truth.")
    parser.add_argument("--size", type=int, default=16, help="dimension of x")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--items", type=int, default=200)
    options = parser.parse_args(arguments)
    place = torch.arange(options.size, dtype=torch.float64)
    cov = torch.exp(-((place[:, None] - place) ** 2) / 8) + 1e-3 * torch.eye(options.size, dtype=torch.float64)
    prior = priors.Gaussian(torch.zeros_like(place), cov)
    op = operators.Mask(place % 3 == 0, sigma_y=0.2)  # every third entry is measured
    x = prior.sample(options.items, seed=1)
    y = op.measure(x, seed=2)
    sampler = invdiff.PosteriorSampler(prior, op, steps=options.steps, rule="heun")
    post = sampler.run(y, num_samples=options.samples, seed=0)

    inside = ((post.quantile(0.05) <= x) & (x <= post.quantile(0.95))).double().mean()
    nominal = 0.9 * (options.samples - 1) / (options.samples + 1)  # quantiles of a finite number of samples
    print(f"90 % intervals hold the truth in {inside:.1%} of cases, {nominal:.1%} is right")
    exact = prior.posterior(op, y).covariance().diagonal().sqrt()
    print(f"spread over that of the exact posterior: {(post.std / exact).mean():.3f}, 1 is right")
    # Over many measurements, the squared residual of one sample each follows a chi-square distribution.
    test = stats.kstest(post.residual[0].numpy(), stats.chi2(post.dof).cdf)
    print(f"misfit {post.residual.mean():.2f}, {post.dof} is right; chi-square with p = {test.pvalue:.2f}")


if __name__ == "__main__":
    main()
