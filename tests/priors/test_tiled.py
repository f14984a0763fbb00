"""Any size and any channels from the prior one has: windows, gray images, independent channels, and who decides."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from helpers import randn
from latent_problem import decoded_for
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import Mask
from invdiff.priors import Gaussian, Gray, NetworkPrior, PerChannel, ScoreModel, Tiled, adapt, from_network, load_prior
from invdiff.schedules import EDM, VP, DiscreteBetas

IMAGE = (1, 7, 9)
SIGMA = torch.tensor(0.7, dtype=torch.float64)


def independent(*shape: int) -> Gaussian:
    """A law of independent pixels: what a window knows of it is what the image knows."""
    return Gaussian(torch.full(shape, 0.3, dtype=torch.float64), torch.full(shape, 0.5, dtype=torch.float64), schedule=EDM())


def identity(*event: int | None, calls: list[Any] | None = None) -> NetworkPrior:
    def net(x: Tensor, t: Tensor) -> Tensor:
        if calls is not None:
            calls.append(tuple(x.shape))
        return x

    return from_network(net, EDM(), predicts="x0", event_shape=event)


def with_reach(prior: Any) -> Any:
    prior.reach = Tiled(independent(1, 4, 4), overlap=2).reach
    return prior


class TestTiled:
    @pytest.mark.parametrize("size", [(8, 8), (9, 8), (17, 30), (8, 100), (5, 3), (1, 1), (3, 40)])
    @pytest.mark.parametrize("overlap", [0, 1, 2, 4, 7])
    def test_weights_sum_to_one(self, size: tuple[int, int], overlap: int) -> None:
        x = randn(2, 3, *size)
        tiled = Tiled(identity(3, 8, 8), overlap=overlap)
        assert_close(tiled.denoise(x, SIGMA), x)

    @pytest.mark.parametrize("batch", [1, 2, 5, 100])
    @pytest.mark.parametrize("t", [SIGMA, torch.tensor([0.2, 3.0], dtype=torch.float64)], ids=["one", "each"])
    def test_independent_pixels_are_denoised_as_a_whole(self, batch: int, t: Tensor) -> None:
        tiled, whole = Tiled(independent(1, 4, 4), overlap=2, batch=batch), independent(*IMAGE)
        x_t, v = randn(2, *IMAGE).requires_grad_(), randn(2, *IMAGE, seed=1)
        pulled = []
        for prior in (tiled, whole):
            x0_hat = prior.denoise(x_t, t)
            # Twice through one graph, as methods that solve with the Jacobian go.
            pulled.append([x0_hat.detach()] + [torch.autograd.grad(x0_hat, x_t, k * v, retain_graph=True)[0] for k in (1, 2)])
        for ours, expected in zip(*pulled, strict=True):
            assert_close(ours, expected)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # few steps
    @pytest.mark.parametrize("method", METHODS)
    def test_under_every_method(self, method: str) -> None:
        needs = METHODS[method].needs
        sigma_y = 0.0 if "exact" in needs else 0.2
        op = decoded_for(method, Mask(torch.arange(63).reshape(7, 9) % 3 != 0, in_shape=IMAGE, sigma_y=sigma_y))
        y = op.measure(randn(2, *IMAGE, seed=3), seed=0)
        if method in ("exact-score", "handover"):  # A window sees a part of the pivot alone.
            with pytest.raises(ValueError, match="leaves pixel noise, and the prior accepts white noise alone"):
                PosteriorSampler(Tiled(independent(1, 4, 4), overlap=2), op, method=method)
            return
        tiled, whole, other = (
            PosteriorSampler(prior, op, method=method, steps=3).run(data, num_samples=2).samples
            for prior, data in (
                (Tiled(independent(1, 4, 4), overlap=2), y),
                (with_reach(independent(*IMAGE)), y),  # The noise of images that may be divided belongs to the pixels.
                (Tiled(independent(1, 4, 4), overlap=2), y + 1),
            )
        )
        assert_close(tiled, whole, rtol=1e-6, atol=1e-6)
        assert method == "unconditional" or (tiled - other).abs().max() > 1e-3

    def test_no_more_windows_at_a_time_than_asked(self) -> None:
        calls: list[Any] = []
        tiled = Tiled(identity(3, 8, 8, calls=calls), overlap=2, batch=4)
        tiled.denoise(randn(2, 3, 20, 14).requires_grad_(), SIGMA)
        assert tiled.windows(20, 14) == 6
        assert calls == [(4, 3, 8, 8)] * 3

    def test_what_is_kept_for_gradients_does_not_grow_with_the_network(self) -> None:
        def bytes_kept(prior: ScoreModel) -> int:
            kept = []

            def pack(saved: Tensor) -> Tensor:
                kept.append(saved.numel() * saved.element_size())
                return saved

            x = randn(1, 3, 64, 64, dtype=torch.float32).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
                prior.denoise(x, torch.tensor(0.5))
            return sum(kept)

        natural = load_prior("natural", precision="float32")
        assert bytes_kept(Tiled(natural, tile=32, batch=1)) < 0.1 * bytes_kept(natural)

    def test_no_seams_where_a_network_sees_as_far_as_the_overlap(self) -> None:
        taps = torch.ones(1, 1, 5, 5, dtype=torch.float64) / 25

        def net(x: Tensor, t: Tensor) -> Tensor:
            return torch.nn.functional.conv2d(x, taps, padding=2)

        whole = from_network(net, EDM(), predicts="x0", event_shape=(1, None, None))
        x = randn(1, 1, 50, 70)
        assert_close(Tiled(whole, tile=20, overlap=6).denoise(x, SIGMA), whole.denoise(x, SIGMA))
        assert not torch.allclose(Tiled(whole, tile=20, overlap=3).denoise(x, SIGMA), whole.denoise(x, SIGMA))

    def test_small_images_are_continued_by_their_mirror_image(self) -> None:
        seen: list[Tensor] = []

        def net(x: Tensor, t: Tensor) -> Tensor:
            seen.append(x)
            return x

        x = torch.arange(6.0).reshape(1, 1, 2, 3)
        Tiled(from_network(net, EDM(), predicts="x0", event_shape=(1, 4, 8))).denoise(x, SIGMA)
        assert seen[0][0, 0].tolist() == [
            [0, 1, 2, 2, 1, 0, 0, 1],
            [3, 4, 5, 5, 4, 3, 3, 4],
            [3, 4, 5, 5, 4, 3, 3, 4],
            [0, 1, 2, 2, 1, 0, 0, 1],
        ]

    @pytest.mark.parametrize(
        ("event", "settings", "message"),
        [
            ((3, None, None), {}, "one or two whole numbers"),
            ((3, None, None), {"tile": 1}, "at least 2"),
            ((3, None, None), {"tile": (8, 8, 8)}, "one or two"),
            ((3, 8, 8), {"tile": 16}, "for images of 8 x 8, got tile=16"),
            ((3, 8, 8), {"overlap": 8}, "overlap must be a whole number of pixels from 0 to less than 8, .* got 8"),
            ((3, 8, 8), {"overlap": -1}, "overlap"),
            ((3, 8, 8), {"overlap": 0.5}, "whole number of pixels"),
            ((3, 8, 8), {"batch": 0}, "batch must be at least 1"),
            ((8,), {}, "needs a prior of images"),
        ],
    )
    def test_refuses(self, event: tuple[int | None, ...], settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Tiled(identity(*event), **settings)


class TestChannels:
    @pytest.mark.parametrize("t", [SIGMA, torch.tensor([0.2, 3.0], dtype=torch.float64)], ids=["one", "each"])
    @pytest.mark.parametrize("schedule", [EDM(), VP(), DiscreteBetas.linear()], ids=lambda s: type(s).__name__)
    def test_gray_images_of_a_gaussian_of_colors(self, t: Tensor, schedule: Any) -> None:
        """Where brightness and color are independent, the answer is exact: the law of the brightness, denoised."""
        covariance = torch.eye(3, dtype=torch.float64) * 0.1 + 0.3  # per pixel: the brightness has variance 1, colors 0.1
        colors = Gaussian(torch.full((3, 1, 1), 0.2, dtype=torch.float64), covariance, schedule=schedule)
        # Of a pixel's mean over the channels: variance (0.1 + 3 * 0.3) / 3.
        gray = Gaussian(
            torch.full((1, 1, 1), 0.2, dtype=torch.float64),
            torch.full((1, 1, 1), 1 / 3, dtype=torch.float64),
            schedule=schedule,
        )
        t = schedule.time(t)
        x_t = randn(2, 1, 1, 1)
        assert_close(Gray(colors).denoise(x_t, t), gray.denoise(x_t, t))

    def test_gray_beyond_the_largest_level(self) -> None:
        colors = Gaussian(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), schedule=EDM(0.01, 10.0))
        assert Gray(colors).denoise(torch.ones(1, 1, 1, 1), torch.tensor(10.0)).isfinite().all()

    @pytest.mark.parametrize("t", [SIGMA, torch.tensor([0.2, 3.0], dtype=torch.float64)], ids=["one", "each"])
    def test_each_channel_by_itself(self, t: Tensor) -> None:
        gray, x_t = independent(1, 4, 5), randn(2, 3, 4, 5)
        together = PerChannel(gray).denoise(x_t, t)
        for channel, item in itertools.product(range(3), range(2)):
            alone = gray.denoise(x_t[item : item + 1, channel : channel + 1], t if t.ndim == 0 else t[item])
            assert_close(together[item : item + 1, channel : channel + 1], alone)

    def test_refuse(self) -> None:
        with pytest.raises(ValueError, match="needs a prior of images"):
            Gray(identity(1, 8, 8))
        with pytest.raises(ValueError, match="needs a prior of images"):
            PerChannel(identity(3, 8, 8))


class TestFit:
    @pytest.mark.parametrize(
        ("event", "shape", "kinds", "note"),
        [
            ((3, 8, 8), (3, 8, 8), [], None),
            ((3, None, None), (3, 5, 7), [], None),
            (None, (5,), [], None),
            (
                (3, 8, 8),
                (3, 20, 14),
                [Tiled],
                "images of 8 x 8 pixels: 14 x 20 is denoised through 6 windows that overlap by 2",
            ),
            ((3, 8, 8), (3, 5, 14), [Tiled], "14 x 5, continued by its mirror image, is denoised through 2 windows"),
            ((3, 8, 8), (3, 5, 8), [Tiled], "through 1 window$"),
            ((3, None, None), (1, 5, 7), [Gray], "restricted to gray images"),
            ((1, None, None), (4, 5, 7), [PerChannel], "the 4 channels are taken as independent"),
            ((3, 8, 8), (1, 9, 9), [Gray, Tiled], "gray"),
        ],
    )
    def test_decides(self, event: Any, shape: tuple[int, ...], kinds: list[type], note: str | None) -> None:
        prior = identity(*event) if event is not None else from_network(lambda x, t: x, EDM(), predicts="x0")
        fitted, notes = adapt(prior, shape)
        found, inner = [], fitted
        while not isinstance(inner, NetworkPrior):
            found.append(type(inner))
            inner = inner.score_model  # type: ignore[attr-defined]
        assert found == kinds
        assert inner is prior
        assert len(notes) == len(kinds)
        if note is not None:
            assert re.search(note, notes[-1])
        x_t = randn(2, *shape)
        assert_close(fitted.denoise(x_t, SIGMA), x_t)

    @pytest.mark.parametrize(
        ("event", "shape"), [((3, 8, 8), (2, 8, 8)), ((3, 8, 8), (8,)), ((4,), (5,)), ((3, None, 8), (3, 8, 9))]
    )
    def test_refuses(self, event: Any, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="The prior is for"):
            adapt(identity(*event), shape)

    def test_the_sampler_says_so(self) -> None:
        op = Mask(torch.ones(9, 6, dtype=torch.bool), in_shape=(1, 9, 6), sigma_y=0.1)
        sampler = PosteriorSampler(independent(1, 4, 4), op, steps=2)
        assert "through" in sampler.notes[0]
        assert sampler.score.describe()["tile"] == [4, 4]
        assert sampler.run(torch.zeros(1, 1, 9, 6)).samples.shape == (1, 1, 1, 9, 6)
