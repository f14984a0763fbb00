"""Samples that do not explain the data, or overfit it, are reported in words."""

from __future__ import annotations

import warnings

import pytest
import torch

from invdiff import PosteriorSampler, operators
from invdiff.operators import GaussianNoise, Identity, LaplaceNoise, RoundingNoise
from invdiff.posterior import MisfitWarning
from invdiff.posterior.misfit import misfit_notes
from invdiff.priors import Gaussian

SIDE, DOF = 8, 64
DISTANCE = (torch.arange(SIDE)[:, None] - torch.arange(SIDE)).abs()
LINE = torch.exp(-((DISTANCE / 3.0) ** 2) / 2) + 1e-3 * torch.eye(SIDE)
COVARIANCE = 0.25 * torch.kron(LINE, LINE)
PRIOR = Gaussian(torch.zeros(1, SIDE, SIDE), COVARIANCE)
NORMAL = torch.randn(DOF, generator=torch.Generator().manual_seed(0))
TRUTH = (torch.linalg.cholesky(COVARIANCE) @ NORMAL).reshape(1, 1, SIDE, SIDE)
KNOWN = torch.arange(SIDE) % 2 == 0
OPS = {
    "denoise": lambda sigma: Identity((1, SIDE, SIDE), sigma_y=sigma),
    "mask": lambda sigma: operators.Mask(KNOWN, (1, SIDE, SIDE), sigma_y=sigma),
    "downsample": lambda sigma: operators.Downsample((1, SIDE, SIDE), 2, sigma_y=sigma),
    "blur": lambda sigma: operators.Blur((1, SIDE, SIDE), torch.ones(3, 3) / 9, boundary="valid", sigma_y=sigma),
}
EXACT = [name for name in OPS if name != "denoise"]


def samples(op, y, **options):
    return PosteriorSampler(PRIOR, op, **options).run(y, num_samples=2, seed=0)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("sigma", [0.02, 0.1])
class TestNoisyData:
    def test_a_right_model_is_silent(self, name, sigma):
        op = OPS[name](sigma)
        assert samples(op, op.measure(TRUTH, seed=0)).notes == ()

    @pytest.mark.filterwarnings("ignore:run. y is")  # Noise of 50 is far out of the range of images, which is said, too.
    def test_a_level_that_is_too_low(self, name, sigma):
        y = OPS[name](500 * sigma).measure(TRUTH, seed=0)
        with pytest.warns(MisfitWarning, match=r"times its expected value under the noise.*a noise level that is too low"):
            post = samples(OPS[name](sigma), y)
        assert len(post.notes) == 1

    def test_a_level_that_is_too_high(self, name, sigma):
        narrow = Gaussian(torch.zeros(1, SIDE, SIDE), 1e-8 * torch.eye(DOF))
        y = OPS[name](sigma / 100).measure(0 * TRUTH, seed=0)
        with pytest.warns(MisfitWarning, match=r"is only [\d.e-]+ times its expected value.*a noise level that is too high"):
            PosteriorSampler(narrow, OPS[name](sigma)).run(y)


@pytest.mark.parametrize("name", EXACT)
class TestExactData:
    def test_a_right_model_is_silent(self, name):
        op = OPS[name](0.0)
        assert samples(op, op(TRUTH)).notes == ()

    def test_a_method_that_ignores_the_data(self, name):
        op = OPS[name](0.0)
        with pytest.warns(MisfitWarning, match="differ from the exact data by .* of their size.*has not converged"):
            samples(op, op(TRUTH), method="unconditional")


def test_data_that_no_image_explains():
    op = operators.Matrix(torch.ones(4, 4))
    prior = Gaussian(torch.zeros(4), torch.eye(4))
    with pytest.warns(MisfitWarning, match="an operator that does not describe y"):
        PosteriorSampler(prior, op, method="mmps").run(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))


def test_sda_at_its_defaults():
    op = operators.Downsample((1, SIDE, SIDE), 2, sigma_y=0.001)
    with pytest.warns(MisfitWarning, match="a method that has not converged"):
        samples(op, op.measure(TRUTH, seed=0), method="sda")


def test_items_of_a_batch_are_named():
    op = OPS["denoise"](0.05)
    y = op.measure(TRUTH.expand(4, -1, -1, -1), seed=0)
    y[2] += 3 * torch.randn(y[2].shape, generator=torch.Generator().manual_seed(1))
    with pytest.warns(MisfitWarning, match=r"\(item 2 of 4\)"):
        post = PosteriorSampler(PRIOR, op).run(y, num_samples=2)
    assert post.residual.shape == (2, 4)


class TestThresholds:
    @staticmethod
    def notes(ratio, dof=1000, *, noise=None, size=1.0):
        op = Identity((dof,), noise=noise or GaussianNoise(0.1))
        weights, y = torch.full((2, 1), 0.5), torch.full((1, dof), size)
        return misfit_notes(torch.full((2, 1), float(ratio * dof)), dof, weights, op=op, y=y, ratio_min=0.001)

    @pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2, 4])
    def test_approximate_methods_pass(self, ratio):
        assert self.notes(ratio) == ()

    @pytest.mark.parametrize("ratio", [0, 0.1, 6, 1e6])
    def test_larger_differences_do_not(self, ratio):
        assert len(self.notes(ratio)) == 1

    @pytest.mark.parametrize("ratio", [0.01, 8, 20])
    def test_few_values_say_less(self, ratio):
        assert self.notes(ratio, dof=2) == ()

    def test_other_noise(self):
        assert self.notes(1.0, noise=LaplaceNoise(0.1)) == ()
        assert len(self.notes(10.0, noise=LaplaceNoise(0.1))) == 1

    def test_rounding_may_fit_better(self):
        assert self.notes(0.01, noise=RoundingNoise(0.1, offset=0.0)) == ()
        assert len(self.notes(10.0, noise=RoundingNoise(0.1, offset=0.0))) == 1

    @pytest.mark.parametrize(("relative", "count"), [(0.019, 0), (0.021, 1)])
    def test_exact_data(self, relative, count):
        assert len(self.notes(relative**2, noise=GaussianNoise(0.0))) == count

    def test_weights_count(self):
        residual, weights = torch.tensor([[1000.0], [1e6]]), torch.tensor([[1.0], [0.0]])
        op = Identity((1000,), sigma_y=0.1)
        assert misfit_notes(residual, 1000, weights, op=op, y=torch.ones(1, 1000), ratio_min=0.001) == ()


def test_the_caller_may_turn_warnings_off():
    op = OPS["mask"](0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisfitWarning)
        assert samples(op, op(TRUTH), method="unconditional").notes
