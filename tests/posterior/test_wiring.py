"""A network wrapped with a wrong output, time, schedule or range is doubted; a right one is not, whatever the prior."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import over, selected
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import Identity
from invdiff.posterior.wiring import doubts_about
from invdiff.priors import Gaussian, GaussianMixture, Gray, Rescaled, ScoreModel, Tiled, from_network, load_prior
from invdiff.schedules import EDM, VE, VP, Cosine, DiscreteBetas, RectifiedFlow, Schedule

SHAPE = (3, 32, 32)
NATURAL = load_prior("natural")
STATIONARY = Gaussian.stationary(
    torch.zeros(1, 32, 32), (0.05 / (0.02 + torch.fft.fftfreq(32)[:, None] ** 2 + torch.fft.rfftfreq(32) ** 2))[None]
)
TABLE = DiscreteBetas.linear()


class Learned:
    """A network that was trained to return ``predicts`` for a prior, along a schedule, told ``scale`` times its time.

    Like a network, it answers out of its range as at the end of it.
    """

    def __init__(
        self, prior: ScoreModel, schedule: Schedule, predicts: str, scale: float = 1.0, span: tuple[float, float] = (-1, 1)
    ) -> None:
        self.prior, self.schedule, self.predicts, self.scale = prior, schedule, predicts, scale
        self.factor, self.offset = (span[1] - span[0]) / 2, (span[1] + span[0]) / 2

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        least = 0.0 if isinstance(self.schedule, DiscreteBetas) else self.schedule.t_min
        alpha, sigma = (float(v) for v in self.schedule((time[0].double() / self.scale).clamp(least, self.schedule.t_max)))
        clean = (x / alpha - self.offset) / self.factor
        own = self.prior.schedule
        ratio = torch.tensor(sigma / alpha / self.factor).clamp(float(own.ratio(own.t_min)), float(own.ratio(own.t_max)))
        t = own.time(ratio)
        x0 = self.factor * self.prior.denoise((float(own(t)[0]) * clean).float(), t) + self.offset
        eps = (x - alpha * x0) / sigma
        outputs = {
            "eps": eps,
            "x0": x0,
            "v": alpha * eps - sigma * x0,
            "velocity": eps - x0,
            "score": -eps / sigma,
            "-eps": -eps,
        }
        return outputs[self.predicts]


def wrapped(network: Learned, schedule: Schedule, predicts: str, time: Callable[[Tensor], Tensor]) -> ScoreModel:
    return from_network(
        network, schedule, predicts=predicts, time=time, event_shape=(*(network.prior.event_shape or ())[:1], 32, 32)
    )


@pytest.mark.parametrize(
    "prior", [pytest.param(NATURAL, marks=pytest.mark.slow, id="natural"), pytest.param(STATIONARY, id="gaussian")]
)
@pytest.mark.parametrize("predicts", ["eps", "-eps", "x0", "v", "velocity", "score"])
@pytest.mark.parametrize(
    ("schedule", "scale"),
    [
        (VP(), 999.0),
        (VP(), 1.0),
        (TABLE, 1.0),
        (TABLE, 0.001),
        (Cosine(), 1000.0),
        (RectifiedFlow(), 1000.0),
        (VE(), 1.0),
        (EDM(), 0.25),
    ],
    ids=["vp", "vp01", "table", "table01", "cosine", "flow", "ve", "edm"],
)
def test_a_right_wiring_is_not_doubted(prior: ScoreModel, predicts: str, schedule: Schedule, scale: float) -> None:
    score = wrapped(Learned(prior, schedule, predicts, scale), schedule, predicts, lambda t: scale * t)
    assert doubts_about(score, SHAPE) == ""


WRONG: dict[str, tuple[Schedule, str, float, Schedule, str, Callable[[Tensor], Tensor]]] = {
    # trained with; wrapped as
    "table told 999 t": (TABLE, "eps", 1.0, TABLE, "eps", lambda t: 999 * t),
    "table told 999 t, x0": (TABLE, "x0", 1.0, TABLE, "x0", lambda t: 999 * t),
    "table told 999 t, v": (TABLE, "v", 1.0, TABLE, "v", lambda t: 999 * t),
    "table told t / 1000": (TABLE, "eps", 1.0, TABLE, "eps", lambda t: t / 1000),
    "vp not told 999 t": (VP(), "eps", 999.0, VP(), "eps", lambda t: t),
    "whole times in [0, 1]": (VP(), "eps", 999.0, VP(), "eps", lambda t: t.round().long()),
    "time reversed": (VP(), "eps", 999.0, VP(), "eps", lambda t: 999 * (1 - t)),
    "eps as x0": (VP(), "eps", 999.0, VP(), "x0", lambda t: 999 * t),
    "eps as v": (VP(), "eps", 999.0, VP(), "v", lambda t: 999 * t),
    "eps as -eps": (VP(), "eps", 999.0, VP(), "-eps", lambda t: 999 * t),
    "eps as score": (VP(), "eps", 999.0, VP(), "score", lambda t: 999 * t),
    "eps as velocity": (VP(), "eps", 999.0, VP(), "velocity", lambda t: 999 * t),
    "x0 as eps": (VP(), "x0", 999.0, VP(), "eps", lambda t: 999 * t),
    "v as eps": (VP(), "v", 999.0, VP(), "eps", lambda t: 999 * t),
    "v as x0": (VP(), "v", 999.0, VP(), "x0", lambda t: 999 * t),
    "score as eps": (VP(), "score", 999.0, VP(), "eps", lambda t: 999 * t),
    "velocity as eps": (RectifiedFlow(), "velocity", 1.0, RectifiedFlow(), "eps", lambda t: t),
    "-velocity": (RectifiedFlow(), "velocity", 1.0, RectifiedFlow(), "v", lambda t: 1 - t),
    "cosine as linear": (Cosine(), "eps", 1.0, VP(), "eps", lambda t: t),
    "linear as cosine": (VP(), "eps", 1.0, Cosine(), "eps", lambda t: t),
}


# The denoiser of a Gaussian is linear: told another time, it can be that of another Gaussian.
SAME_KIND = {
    "table told 999 t, v",
    "vp not told 999 t",
    "whole times in [0, 1]",
    "eps as velocity",
    "linear as cosine",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_wiring_is_doubted(name: str) -> None:
    trained, gives, scale, schedule, predicts, time = WRONG[name]
    for prior in (NATURAL, STATIONARY)[: 1 if name in SAME_KIND else 2]:
        doubt = doubts_about(wrapped(Learned(prior, trained, gives, scale), schedule, predicts, time), SHAPE)
        assert "seems to be wired wrongly" in doubt
        assert "Check predicts, the schedule" in doubt


class TestRange:
    def trained_on(self, *span: float, predicts: str = "eps") -> ScoreModel:
        return wrapped(Learned(NATURAL, VP(), predicts, 999.0, (span[0], span[1])), VP(), predicts, lambda t: 999 * t)

    @pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
    def test_images_in_0_to_1_are_recognized(self, predicts: str) -> None:
        doubt = doubts_about(self.trained_on(0, 1, predicts=predicts), SHAPE)
        assert "trained on images in [0, 1]" in doubt
        assert "priors.Rescaled(prior, (0, 1))" in doubt

    @pytest.mark.parametrize("span", [(0, 255), (-128, 127), (0, 65535)])
    def test_pixels_are_doubted(self, span: tuple[float, float]) -> None:
        assert doubts_about(self.trained_on(*span), SHAPE)

    @pytest.mark.parametrize("span", [(0, 1), (-1, 1), (0, 2), (-0.5, 0.5)])
    @pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
    def test_rescaled_it_is_the_prior_again(self, span: tuple[float, float], predicts: str) -> None:
        score = Rescaled(self.trained_on(*span, predicts=predicts), span)
        x, noise = 0.3 * randn(2, *SHAPE, dtype=torch.float32), randn(2, *SHAPE, seed=1, dtype=torch.float32)
        for ratio in (0.05, 1.0, 10.0):
            ours, own = score.schedule.time(ratio), NATURAL.schedule.time(ratio)
            alpha_t, sigma_t = score.levels(ours, x)
            expected = NATURAL.denoise(x + ratio * noise, own)
            assert_close(score.denoise(alpha_t * x + sigma_t * noise, ours), expected, rtol=0, atol=2e-3)
        assert doubts_about(score, SHAPE) == ""

    def test_rescaled_serves_the_sampler_and_the_adapters(self) -> None:
        prior = Gaussian(torch.full((1, 8, 8), 0.6), torch.full((1, 8, 8), 0.04))
        score = Rescaled(prior, (0, 1))  # Mean 0.2 and variance 0.16 of images in [-1, 1].
        op = Identity((1, 8, 8), sigma_y=0.2)
        post = PosteriorSampler(score, op, method="mmps", steps=20).run(torch.full((1, 1, 8, 8), 0.7), num_samples=200)
        assert_close(post.mean.mean(), torch.tensor((0.2 * 0.04 + 0.7 * 0.16) / 0.2), rtol=0, atol=0.02)
        assert_close(post.std.mean(), torch.tensor((0.16 * 0.04 / 0.2) ** 0.5), rtol=0.05, atol=0)
        assert score.describe()["data_range"] == [0.0, 1.0]
        assert "0 to 1" in repr(score)
        colors = Rescaled(from_network(lambda x, t: x, VP(), predicts="x0", event_shape=(3, 16, 16)), (0, 1))
        assert Tiled(Gray(colors)).denoise(torch.zeros(1, 1, 20, 24), torch.tensor(0.5)).shape == (1, 1, 20, 24)

    @pytest.mark.parametrize("span", [(1, 0), (0, 0), (0, float("inf")), (0,), "01", None, 1])
    def test_bad_ranges(self, span: Any) -> None:
        with pytest.raises(ValueError, match="Rescaled: data_range must be two"):
            Rescaled(NATURAL, span)


@over("prior", selected(ScoreModel), rest="quick")
def test_no_exact_prior_is_doubted(prior: ScoreModel) -> None:
    network = from_network(
        lambda x, time: prior.denoise(x, time[0]), prior.schedule, predicts="x0", event_shape=prior.event_shape
    )
    assert doubts_about(network, [side or 1 for side in prior.event_shape or ()]) == ""


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("schedule", [VP(), EDM(), TABLE], ids=["vp", "edm", "table"])
def test_no_scale_of_the_data_is_doubted(scale: float, schedule: Schedule) -> None:
    for shape in ((1, 16, 16), (40,)) if scale >= 0.1 else ((40,),):  # Images span [-1, 1].
        exact = Gaussian(torch.zeros(shape), torch.full(shape, scale**2), schedule=schedule)
        network = from_network(lambda x, t, exact=exact: exact.denoise(x, t[0]), schedule, predicts="x0", event_shape=shape)
        assert doubts_about(network, shape) == ""


def test_modes_are_not_doubted() -> None:
    means = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.full((2, 3), 1e-4))
    assert doubts_about(from_network(lambda x, t: mixture.denoise(x, t[0]), mixture.schedule, predicts="x0"), (3,)) == ""


class TestWarning:
    def test_is_given_once_with_a_note(self) -> None:
        score = from_network(lambda x, t: 3 * x, VP(), event_shape=(1, 8, 8))
        with pytest.warns(UserWarning, match="seems to be wired wrongly.*An untrained network does the same") as caught:
            sampler = PosteriorSampler(score, Identity((1, 8, 8), sigma_y=0.1), method="daps", steps=2)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert sum("wired wrongly" in note for note in sampler.notes) == 1

    def test_of_what_is_not_finite(self) -> None:
        score = from_network(lambda x, t: torch.where(t[:, None] > 3, torch.nan, x), EDM(), predicts="x0", event_shape=(4,))
        assert "wired wrongly: samples of its own are not finite." in doubts_about(score, (4,))

    def test_none_for_what_the_library_reads(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert PosteriorSampler(NATURAL, Identity(SHAPE, sigma_y=0.1), steps=2).notes == NATURAL.notes
        assert doubts_about(NATURAL, SHAPE) == ""
        NATURAL.of_user = True
        try:
            assert doubts_about(NATURAL, SHAPE) == ""
        finally:
            del NATURAL.of_user
