"""What ``auto`` takes: particles where their weights matter and the budget pays for them, a chain everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import build
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.methods import METHODS
from invdiff.methods.particles import MMTSMC
from invdiff.operators import Function, Identity, Mask, Matrix
from invdiff.posterior.choice import GROUP, LARGE_GROUP, LEAST_STEPS, Choice, Pilot, choose_method
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel, from_network
from invdiff.schedules import VP

pytestmark = pytest.mark.slow

MEASURED, SIZE = 9, 10


def late() -> GaussianMixture:
    """Two Gaussians alike in the mean of what is measured, the first nine numbers: their covariances tell them apart, late."""
    means = torch.zeros(2, SIZE, dtype=torch.float64)
    means[:, -1] = torch.tensor([-4.0, 4.0])
    variances = torch.tensor([[0.4], [1.6]]).double().repeat(1, SIZE)
    return GaussianMixture(torch.ones(2, dtype=torch.float64), means, variances)


OP = Matrix(torch.eye(SIZE, dtype=torch.float64)[:MEASURED], sigma_y=0.1)
Y = torch.cat([torch.full((1, MEASURED), 0.75), torch.full((1, MEASURED), 1.1)]).double()
ALIKE = Gaussian(randn(SIZE), torch.ones(SIZE, dtype=torch.float64))


def draw(
    score: ScoreModel | None = None, y: Tensor = Y, *, num_samples: int = 64, chunk: int | None = None, **settings: Any
) -> Posterior:
    settings = {"steps": 20} | settings
    return PosteriorSampler(score or late(), OP, **settings).run(y, num_samples=num_samples, chunk=chunk)


def second(samples: Tensor) -> Tensor:
    """Return the share of the second component of each item, ``(B,)``."""
    return (samples[..., -1] > 0).double().mean(0)


class TestWhatTheParticlesShow:
    def test_particles_where_their_weights_matter_and_a_chain_where_they_do_not(self) -> None:
        post = draw(y=Y[:1])
        assert (post.method, post.options["particles"] in (GROUP, LARGE_GROUP)) == ("mm-tsmc", True)
        assert "weights matter" in post.options["auto"]
        chain = draw(ALIKE, Y[:1])
        assert chain.method == "mmps"
        assert "weights hardly matter" in chain.options["auto"]

    def test_the_weights_of_modes_told_apart_late_are_exact_and_a_chain_has_those_of_the_prior(self) -> None:
        exact = late().posterior(OP, Y).weights[:, 1]
        assert (exact - 0.5).abs().min() > 0.3

        def check(method: str) -> None:
            post = draw(num_samples=512, steps=30, method=method)
            # Particles of a group are relatives: twice the error of as many independent draws.
            error = 2 * (exact * (1 - exact) / 512).sqrt()
            assert ((second(post.samples) - exact).abs() < 4.5 * error).all(), (second(post.samples), exact)

        check("auto")
        with pytest.raises(AssertionError):
            check("mmps")

    def test_samples_do_not_depend_on_batch_mates_chunks_or_what_ran_before(self) -> None:
        together = draw()
        for alone in (draw(y=Y[:1]), draw(y=Y[:1], chunk=1)):
            assert alone.options["auto"] == together.options["auto"]
            assert_close(alone.samples[:, 0], together.samples[:, 0])
        sampler = PosteriorSampler(late(), OP, steps=20)
        first, again = (sampler.run(Y, num_samples=64) for _ in range(2))
        assert torch.equal(first.samples, again.samples)
        assert (first.nvjp, first.nfe) == (again.nvjp, again.nfe)

    def test_groups_grow_until_they_agree(self) -> None:
        def particles(disagreement: float, **settings: Any) -> int:
            pilot = Pilot(kept=0.2, disagreement=disagreement, evaluations=0, products=0)
            choice = choose_method("auto", OP, pilot=lambda: pilot, **{"num_samples": 1000, **settings})
            return int(choice.method.options["particles"])

        assert [particles(d) for d in (0.1, 0.6, 1.0, 50.0)] == [GROUP, GROUP, LARGE_GROUP, LARGE_GROUP]
        assert particles(50.0, num_samples=20) == GROUP

    @pytest.mark.filterwarnings("ignore:from_network")
    def test_a_pilot_that_diverges_leaves_a_chain(self) -> None:
        choice = choose_method("auto", OP, num_samples=16, pilot=lambda: None)
        assert (choice.method.name, "diverged" in choice.why) == ("mmps", True)
        exploding = from_network(
            lambda x, t: torch.where(t[:, None] > 0.9, torch.nan, 0 * x), VP(), predicts="x0", event_shape=(SIZE,)
        )
        assert PosteriorSampler(exploding, OP).plan(16).method.name == "mmps"


class TestBudget:
    @pytest.mark.parametrize("budget", [450, 700, 4000])
    def test_is_kept_the_pilot_included(self, budget: float) -> None:
        post = draw(y=Y[:1], steps=None, budget=budget)
        assert post.method == "mm-tsmc"
        assert 0.8 * min(budget, 1100) < post.nvjp <= budget
        assert post.options["steps"] >= LEAST_STEPS

    def test_chains_beyond_it(self) -> None:
        beyond: list[dict[str, Any]] = [{"budget": 0}, {"budget": 250}, {"budget": 4000, "steps": 400}]
        for settings in beyond:
            assert PosteriorSampler(late(), OP, **settings).plan(64).method.name == "mmps"
        post = draw(y=Y[:1], budget=0)
        assert (post.method, "budget" in post.options["auto"]) == ("mmps", True)

    def test_no_pilot_where_it_cannot_matter(self) -> None:
        """Images, few samples, rules and options of a chain."""

        def flown() -> Pilot:
            raise AssertionError

        image = Mask(torch.ones(1, 64, 64), sigma_y=0.1)
        assert choose_method("auto", image, num_samples=1000, pilot=flown).method.name == "mmps"
        assert choose_method("auto", OP, num_samples=15, pilot=flown).method.name == "mmps"
        assert choose_method("auto", OP, num_samples=64, only_chain="no", pilot=flown) == Choice(METHODS["mmps"], "no")
        squares = Function(lambda x: x**2, (3,), sigma_y=0.1)
        assert choose_method("auto", squares, pilot=flown).method.name == "mm-tsmc"

    def test_resampling_costs_no_products(self) -> None:
        for size, iterations in ((SIZE, 6), (40, 2)):  # By eigenvectors and by Krylov spaces.
            means = torch.zeros(2, size).double()
            means[:, 0] = torch.tensor([-4.0, 4.0])
            prior = GaussianMixture(torch.ones(2).double(), means, torch.tensor([[0.4], [1.6]]).double().repeat(1, size))
            op = Matrix(torch.eye(size)[1:4], sigma_y=0.1)
            sampler = PosteriorSampler(prior, op, method="mm-tsmc", steps=10, iterations=iterations)
            post = sampler.run(torch.full((1, 3), 2.0), num_samples=16)
            assert post.particles is not None
            assert post.particles.ancestors < 14
            assert post.nvjp == 10 * MMTSMC.products(size, 3, iterations=iterations)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="budget must not be negative, got -1"):
            PosteriorSampler(late(), OP, budget=-1)


class Ending(VP):
    """It has no time beyond its latest."""

    def inverse(self, ratio: Tensor) -> Tensor:
        return super().inverse(ratio).clamp(max=self.t_max)


class TestStart:
    @pytest.mark.parametrize("cls", [Gaussian, GaussianMixture])
    def test_scale_bounds_the_root_mean_square_along_every_direction(self, cls: type[Gaussian | GaussianMixture]) -> None:
        for prior in build(cls):
            if isinstance(prior, Gaussian):
                mean = prior.mean.flatten()
                moments = prior.covariance() + mean[:, None] * mean
            else:
                covs = prior.covs if prior.covs.ndim == 3 else prior.covs.diag_embed()
                moments = torch.einsum("k,kij->ij", prior.weights, covs + prior.means[:, :, None] * prior.means[:, None])
            largest = float(torch.linalg.eigvalsh(moments).max()) ** 0.5
            assert (1 - 1e-6) * largest < prior.scale < 1.5 * largest

    def test_noise_starts_where_it_hides_the_prior(self) -> None:
        op = Identity((2,), sigma_y=0.1)
        for spread, schedule, expected in (
            (1.0, VP(), float(VP().ratio(1.0))),
            (100.0, VP(), 1000.0),
            (100.0, Ending(), float(VP().ratio(1.0))),
        ):
            prior = Gaussian(torch.zeros(2).double(), torch.tensor([spread**2, 1.0]).double(), schedule=schedule)
            assert prior.largest_ratio() == pytest.approx(expected)
            starts: list[tuple[dict[str, Any], float]] = [({}, expected), ({"ratio_max": 5.0}, 5.0)]
            for settings, start in starts:
                plan = PosteriorSampler(prior, op, **settings).plan(1)
                assert float(schedule.ratio(plan.times[0])) == pytest.approx(start, rel=1e-6)
