"""Guidance: at scale 1 the conditional prior, beyond it the tilted density where that is known; from files and options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import CLASSES, MIXTURE, log_class, log_class_of_noisy, of_class
from helpers import filled, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler, load_prior
from invdiff.operators import Identity, Mask
from invdiff.priors import ClassifierFree, ClassifierGuided, Gaussian, GaussianMixture, ScoreModel, Thresholded
from invdiff.priors.labels import ConditionedNetwork
from invdiff.priors.networks.adm import ADM
from invdiff.priors.networks.song import SongUNet
from invdiff.priors.save import save_checkpoint
from invdiff.priors.spec import Checkpoint, NetworkSpec
from invdiff.schedules import EDM, VP

COUNT = 2000
IGNORED = Identity((2,), sigma_y=1.0)  # Samples are those of the prior.
SONG: dict[str, Any] = {"size": 16, "widths": [32, 32], "blocks": 1, "attention": [8], "first": 32, "frequencies": 8, "taps": 2}
DIFFUSION: dict[str, Any] = {
    "channels": 3,
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [2],
    "head_channels": 32,
}


def guided_by(label: int, **options: Any) -> ClassifierGuided:
    return ClassifierGuided(MIXTURE, lambda x_t, t: log_class_of_noisy(x_t, t, label), **options)


def free(label: int, scale: float, **options: Any) -> ClassifierFree:
    return ClassifierFree(of_class(label), MIXTURE, scale=scale, **options)


@pytest.mark.parametrize("label", range(CLASSES))
@pytest.mark.parametrize("make", [guided_by, lambda label: free(label, 1.0)], ids=["classifier", "classifier-free"])
class TestOneIsTheConditionalPrior:
    def test_denoised(self, make: Any, label: int) -> None:
        x_t, exact = 3 * randn(20, 2), of_class(label)
        for t in (torch.tensor(0.1), torch.tensor(2.0), torch.linspace(0.1, 9, 20, dtype=torch.float64)):
            assert_close(make(label).denoise(x_t, t), exact.denoise(x_t, t))

    def test_gradient(self, make: Any, label: int) -> None:
        x_t, v = randn(20, 2).requires_grad_(), randn(20, 2, seed=1)
        found, expected = (
            torch.autograd.grad(prior.denoise(x_t, torch.tensor(0.7)), x_t, v)[0] for prior in (make(label), of_class(label))
        )
        assert_close(found, expected)

    @pytest.mark.filterwarnings("ignore:misfit")
    def test_samples_are_those_of_the_class(self, make: Any, label: int) -> None:
        y = torch.zeros(1, 2, dtype=torch.float64)
        sampler = PosteriorSampler(make(label), IGNORED, method="unconditional", rule="ddpm", steps=200)
        samples, truth = sampler.run(y, num_samples=COUNT, seed=0).samples[:, 0], of_class(label).sample(COUNT, seed=1)
        for moment in (lambda x: x, lambda x: x**2, lambda x: x.prod(1, keepdim=True)):
            error = moment(truth).std(0) * math.sqrt(2 / COUNT)
            assert ((moment(samples).mean(0) - moment(truth).mean(0)).abs() < 4 * error).all()


class TestLargerScales:
    def test_of_gaussians_of_equal_covariance_are_the_tilted_density(self) -> None:
        r""":math:`p_c^w p_\emptyset^{1-w}` is the Gaussian with the mean extrapolated, at every noise level."""
        variance, means = torch.tensor([0.5, 2.0], dtype=torch.float64), randn(2, 2)
        one, other = (Gaussian(mean, variance) for mean in means)
        tilted = Gaussian(means[1] + 3 * (means[0] - means[1]), variance)
        x_t, prior = randn(20, 2), ClassifierFree(one, other, scale=3.0)
        for t in (0.05, 0.3, 0.9):
            assert_close(prior.denoise(x_t, torch.tensor(t)), tilted.denoise(x_t, torch.tensor(t)))

    def test_scores_are_those_of_the_tilted_density_at_a_level(self) -> None:
        x_t, t = (2 * randn(20, 2)).requires_grad_(), torch.tensor(0.8, dtype=torch.float64)

        def log_p(prior: GaussianMixture) -> Tensor:
            return GaussianMixture(prior.weights, prior.means, prior.covs + 0.8**2).log_prob(x_t).sum()

        (tilted,) = torch.autograd.grad(2.5 * log_p(of_class(0)) - 1.5 * log_p(MIXTURE), x_t)
        assert_close(free(0, 2.5).score(x_t.detach(), t), tilted)
        # The class posterior is p(x | c) / p(x), up to a constant: both kinds of guidance are one.
        assert_close(guided_by(0, weight=2.5).score(x_t.detach(), t), tilted)

    @pytest.mark.filterwarnings("ignore:misfit")
    def test_follow_the_class_more_closely(self) -> None:
        y, shares = torch.zeros(1, 2, dtype=torch.float64), []
        for scale in (0.0, 0.5, 1.0, 3.0):
            sampler = PosteriorSampler(free(0, scale), IGNORED, method="unconditional", rule="ddpm", steps=50)
            shares.append(float(log_class(sampler.run(y, num_samples=256, seed=0).samples[:, 0], 0).mean()))
        assert shares == sorted(shares)


class TestOptions:
    def test_interval(self) -> None:
        prior, x_t = free(0, 3.0, interval=(0.5, 2.0)), randn(3, 2)
        t = torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64)
        found, plain, guided = (p.denoise(x_t, t) for p in (prior, of_class(0), free(0, 3.0)))
        assert_close(found[[0, 2]], plain[[0, 2]])
        assert_close(found[1], guided[1])
        assert_close(prior.denoise(x_t, torch.tensor(0.4)), of_class(0).denoise(x_t, torch.tensor(0.4)))

    def test_rescale(self) -> None:
        x_t, t = randn(5, 2), torch.tensor(1.0)
        conditional, guided = of_class(0).denoise(x_t, t), free(0, 4.0).denoise(x_t, t)
        whole, half = (free(0, 4.0, rescale=share).denoise(x_t, t) for share in (1.0, 0.5))
        assert_close(whole.std(1), conditional.std(1))
        assert_close(half, (whole + guided) / 2)

    def test_static_threshold(self) -> None:
        x_t, t = 3 * randn(5, 2), torch.tensor(0.5)
        assert_close(Thresholded(MIXTURE).denoise(x_t, t), MIXTURE.denoise(x_t, t).clamp(-1, 1))

    def test_dynamic_threshold(self) -> None:
        """Per item: one far outside changes nothing for its neighbors."""
        prior = Gaussian(torch.zeros(1, 10, 10), torch.ones(1, 10, 10))
        x_t = randn(3, 1, 10, 10) * torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)[:, None, None, None]
        found, plain = (p.denoise(x_t, torch.tensor(0.01)) for p in (Thresholded(prior, 0.9), prior))
        assert_close(found[0], plain[0])  # nothing beyond 1
        for k in (1, 2):
            s = plain[k].abs().flatten().sort().values[89]  # the 90th of 100
            assert s > 1
            assert_close(found[k], plain[k].clamp(-s, s) / s)
        assert found.abs().max() <= 1

    def test_on_the_estimate(self) -> None:
        """The gradient passes through the denoiser: for a Gaussian prior and a linear log_p it is known."""
        prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64), schedule=EDM())
        slope, x_t, t = torch.tensor([1.0, -2.0], dtype=torch.float64), randn(4, 2), torch.tensor(0.7, dtype=torch.float64)
        found = ClassifierGuided(prior, lambda x0: x0 @ slope, on_estimate=True, weight=2.0).denoise(x_t, t)
        gain = torch.tensor([0.5 / (0.5 + 0.49), 2 / (2 + 0.49)], dtype=torch.float64)
        assert_close(found, gain * x_t + 2 * 0.49 * gain * slope)
        assert not found.requires_grad

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: free(0, math.nan), "scale must be a finite number"),
            (lambda: free(0, 2.0, rescale=1.5), "rescale must be from 0 to 1"),
            (lambda: free(0, 2.0, interval=(2.0, 1.0)), "two increasing noise-to-signal ratios"),
            (lambda: guided_by(0, weight=0.0), "weight must be a positive number"),
            (lambda: Thresholded(MIXTURE, 1.5), "quantile must be between 0 and 1"),
            (
                lambda: ClassifierFree(
                    Gaussian(torch.zeros(2), torch.ones(2)), Gaussian(torch.zeros(2), torch.ones(2), schedule=EDM()), scale=2.0
                ),
                "the same noise schedule, got VP and EDM",
            ),
            (
                lambda: ClassifierFree(
                    Gaussian(torch.zeros(2), torch.ones(2)), Gaussian(torch.zeros(3), torch.ones(3)), scale=2.0
                ),
                r"items of shape \(2,\) and \(3,\)",
            ),
            (
                lambda: ClassifierGuided(MIXTURE, lambda x, t: x).denoise(randn(3, 2), torch.tensor(0.5)),
                r"one number for each item, shape \(3,\), got \(3, 2\)",
            ),
        ],
    )
    def test_wrong_ones_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()


def written(path: Path, net: torch.nn.Module, architecture: str, config: dict[str, Any], **entries: Any) -> Path:
    weights = filled({name: tuple(value.shape) for name, value in net.state_dict().items()})
    spec = NetworkSpec(architecture, config, (3, 16, 16), schedule={"name": "vp"}, **entries)
    save_checkpoint(Checkpoint(spec, weights), path)
    return path


@pytest.fixture
def song(tmp_path: Path) -> Path:
    config: dict[str, Any] = SONG | {"classes": 3}
    return written(tmp_path / "song.safetensors", SongUNet(**config), "SongUNet", config, predicts="eps", label=2)


@pytest.fixture
def adm(tmp_path: Path) -> Path:
    config: dict[str, Any] = DIFFUSION | {"classes": 4}
    return written(tmp_path / "adm.safetensors", ADM(**config), "ADM", config, predicts="eps", label=1)


class TestFiles:
    X = randn(2, 3, 16, 16, dtype=torch.float32)

    def net_output(self, prior: Any, label: int | None) -> Tensor:
        """Denoise by the network itself with a label."""
        net, t = prior.net, torch.full((2,), 0.5)
        labels = () if label is None else (torch.full((2,), label),)
        alpha, sigma = prior.levels(torch.tensor(0.5), self.X)
        with torch.no_grad():
            return (self.X - sigma * net.net(self.X, t, *labels)[:, :3]) / alpha

    @pytest.mark.parametrize(("file", "null"), [("song", "none"), ("song", 0), ("adm", "3"), ("adm", 3)])
    def test_two_labels_of_one_network(self, file: str, null: Any, request: pytest.FixtureRequest) -> None:
        path = request.getfixturevalue(file)
        prior = load_prior(path, guidance_scale="2.5", null_label=null)
        assert isinstance(prior, ClassifierFree)
        calls = []
        assert prior.pair is not None
        assert isinstance(prior.pair.net, ConditionedNetwork)
        prior.pair.net.net.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            found = prior.denoise(self.X, torch.tensor(0.5))
        assert len(calls) == 1
        plain = load_prior(path)
        one = self.net_output(plain, 2 if file == "song" else 1)
        other = self.net_output(plain, None if null == "none" else int(null))
        assert (one - other).abs().max() > 1e-3
        assert_close(found, other + 2.5 * (one - other), rtol=1e-3, atol=1e-4)
        per_item = prior.denoise(self.X, torch.tensor([0.5, 0.5]))
        assert_close(per_item, found, rtol=1e-3, atol=1e-4)

    def test_another_file(self, song: Path, tmp_path: Path) -> None:
        weights = SongUNet(**SONG)
        other = written(tmp_path / "plain.safetensors", weights, "SongUNet", SONG, predicts="eps")
        prior = load_prior(song, guidance_scale=2, unconditional=other, guidance_rescale="0.5", guidance_interval="0.1,5")
        assert isinstance(prior, ClassifierFree)
        assert (prior.pair, prior.rescale, prior.interval) == (None, 0.5, (0.1, 5.0))
        about = prior.describe()
        assert (about["guidance_scale"], about["guidance_interval"], about["guidance_rescale"]) == (2.0, [0.1, 5.0], 0.5)
        assert about["unconditional"]["file"] == "plain.safetensors"

    def test_errors_of_another_file_bear_its_name(self, song: Path, tmp_path: Path) -> None:
        (tmp_path / "other.pt").write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"^\S*other\.pt: ") as error:
            load_prior(song, guidance_scale=2, unconditional=tmp_path / "other.pt")
        assert "song" not in str(error.value)

    def test_moving_keeps_one_network(self, song: Path) -> None:
        prior = load_prior(song, guidance_scale=2, null_label="none")
        assert isinstance(prior, ClassifierFree)
        moved = prior.to("meta")
        assert moved.pair is not None
        parts: list[Any] = [moved.conditional, moved.unconditional, moved.pair]
        nets = [part.net for part in parts]
        assert all(net.net is nets[0].net for net in nets)
        assert [net.labels for net in nets] == [(2,), (None,), (2, None)]
        assert moved.describe() == prior.describe()
        assert prior.describe()["unconditional"]["label"] is None

    @pytest.mark.filterwarnings("ignore:misfit", "ignore:the prior")
    def test_solves(self, song: Path) -> None:
        prior = load_prior(song, guidance_scale=2, null_label="none", threshold=0.995)
        assert isinstance(prior, Thresholded)
        op = Mask(torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5, (3, 16, 16), sigma_y=0.1)
        for method in ("dps", "diffpir"):
            post = PosteriorSampler(prior, op, method=method, steps=3).run(op.measure(self.X, seed=0), num_samples=1)
            assert post.samples.isfinite().all()

    @pytest.mark.parametrize(
        ("file", "given", "message"),
        [
            ("song", {"guidance_scale": 2}, "null_label=1000 or null_label=none, or another checkpoint"),
            ("song", {"guidance_scale": 2, "null_label": "none", "unconditional": "natural"}, "either the label"),
            ("song", {"null_label": "none"}, "null_label is an option of guidance: give a guidance_scale"),
            (
                "song",
                {"guidance_scale": "much", "null_label": "none"},
                r"safetensors: guidance_scale='much': expected a number",
            ),
            ("song", {"guidance_scale": 2, "null_label": 3}, "its label is 3, and the network has 3 classes, from 0"),
            ("song", {"guidance_scale": 2, "null_label": "1.5"}, "null_label='1.5': expected a whole number or 'none'"),
            ("adm", {"guidance_scale": 2, "null_label": "none"}, "networks of the kind ADM need a label"),
            ("song", {"guidance_scale": 2, "null_label": 0, "guidance_interval": "3"}, "expected two numbers, such as 0.2,3"),
            ("song", {"threshold": "dynamic"}, "threshold='dynamic': expected a number or 'static'"),
            ("song", {"threshold": 2}, "quantile must be between 0 and 1"),
        ],
    )
    def test_wrong_options_are_refused(
        self, file: str, given: dict[str, Any], message: str, request: pytest.FixtureRequest
    ) -> None:
        with pytest.raises(ValueError, match=message):
            load_prior(request.getfixturevalue(file), **given)

    def test_networks_without_classes_have_nothing_to_guide(self) -> None:
        with pytest.raises(ValueError, match="the network has no classes"):
            load_prior("natural", guidance_scale=2, null_label="none")


@pytest.mark.parametrize(
    "prior", [free(0, 2.0), guided_by(1), Thresholded(MIXTURE, 0.9)], ids=lambda prior: type(prior).__name__
)
def test_an_adapter_is_described_in_a_line(prior: ScoreModel) -> None:
    assert repr(prior).startswith(f"{type(prior).__name__}(GaussianMixture(")
    assert len(repr(prior)) < 200
    assert prior.describe()["prior"] == "GaussianMixture"


def test_the_schedule_may_be_any() -> None:
    """At levels that do not preserve the variance, the gradient of a classifier is scaled by sigma^2 / alpha."""
    prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), schedule=VP())
    slope, x_t, t = torch.tensor([1.0, -2.0], dtype=torch.float64), randn(4, 2), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = prior.schedule.levels(t)
    found = ClassifierGuided(prior, lambda x_t, t: x_t @ slope).score(x_t, t)
    assert_close(found, prior.score(x_t, t) + slope)
    assert alpha < 1
    assert sigma < 1
