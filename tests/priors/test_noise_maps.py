"""Laws of networks that are told maps of the noise: what white noise leaves unchanged, and what a measurement changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import randn
from skimage import data
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators import Blur, ChannelMix, Downsample, LinearOperator, Mask, Mosaic
from invdiff.priors import UNet, load_prior, save_prior
from invdiff.priors.network import NetworkPrior, from_network
from invdiff.priors.noise_maps import BANDS, MAP_KINDS, band_levels, edm_target, noise_maps
from invdiff.schedules import EDM

SIDES = 20, 23  # no multiples of anything
SHAPE = 3, *SIDES


def operators(sigma_y: float) -> dict[str, LinearOperator]:
    kernel = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.5, 0.1], [0.1, 0.0, 0.0]])
    return {
        "mask": Mask(torch.rand(SIDES, generator=torch.Generator().manual_seed(0)) < 0.4, SHAPE, sigma_y=sigma_y),
        "mosaic": Mosaic(SHAPE, "GRBG", sigma_y=sigma_y),
        "blur": Blur(SHAPE, kernel, boundary="circular", sigma_y=sigma_y),
        "mirrored blur": Blur(SHAPE, torch.outer(kernel[1], kernel[1]), boundary="reflect", sigma_y=sigma_y),
        "decimation": Downsample((3, 20, 24), 4, kernel="bicubic", sigma_y=sigma_y),
        "blur and decimation": Downsample((3, 20, 24), 2, kernel=kernel, sigma_y=sigma_y),
    }


KNOWN = [name for name, op in operators(0.1).items() if op.svd is not None and op.svd.kind in MAP_KINDS]


@pytest.fixture(scope="module")
def net() -> UNet:
    """A network whose weights, those of the maps too, are random."""
    net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8, maps=5)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=g))
    return net


@pytest.fixture(scope="module")
def prior(net: UNet, tmp_path_factory: pytest.TempPathFactory) -> NetworkPrior:
    path = tmp_path_factory.mktemp("maps") / "maps.safetensors"
    save_prior(net, path, sigma_data=0.5, facts={})
    return load_prior(path, precision="float32")


def pivot(op: LinearOperator, x: Tensor, ratio: Tensor | float) -> tuple[Tensor, NoiseCovariance]:
    noisy = x + torch.as_tensor(ratio).reshape(-1, 1, 1, 1) * randn(*x.shape, seed=8, dtype=torch.float32)
    return cast(Any, op.pivot(noisy, torch.as_tensor(ratio), op.measure(x, seed=9)))


def test_all_are_known() -> None:
    assert list(operators(0.1)) == KNOWN


def test_a_network_with_new_maps_does_what_it_did_without() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8, maps=5)
    for weight in (net.last.weight, cast(Any, net.down[0]).blocks[0].conv2.weight):
        torch.nn.init.normal_(cast(Tensor, weight), generator=torch.Generator().manual_seed(1))
    x, time = randn(2, *SHAPE, dtype=torch.float32), torch.tensor([0.1, -0.3])
    mu, cov = pivot(operators(0.1)["blur"], x, torch.tensor([0.3, 2.0]))
    maps = noise_maps(mu, cov, sigma_data=0.5)
    assert maps.shift.abs().max() > 0.01  # not for want of maps
    assert_close(net(x, time, maps), net(x, time), rtol=0, atol=0)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_images_of_one_coarsest_pixel(side: int) -> None:
    net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8, maps=5)
    op = Mask(torch.ones(1, side, side, dtype=torch.bool), (3, side, side), sigma_y=0.1)
    mu, cov = pivot(op, torch.zeros(1, 3, side, side), torch.tensor([1.0]))
    maps = noise_maps(mu, cov, sigma_data=0.5)
    assert net(mu, torch.zeros(1), maps).shape == mu.shape


def test_white_noise_is_told_by_its_level_alone(prior: NetworkPrior) -> None:
    x, ratio = randn(2, *SHAPE, dtype=torch.float32), torch.tensor([0.3, 2.0])
    everything = Mask(torch.ones(SIDES), SHAPE, sigma_y=1e6)
    mu, cov = pivot(everything, x, ratio)
    maps = noise_maps(mu, cov, sigma_data=0.5)
    assert max(float(part.abs().max()) for part in (maps.shift, maps.levels)) < 1e-6
    assert_close(prior.denoise_pivot(mu, cov), prior.denoise(mu, prior.schedule.time(ratio)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma_y", [0.1, 0.0])
@pytest.mark.parametrize("name", KNOWN)
class TestEveryKind:
    def test_items_are_independent(self, prior: NetworkPrior, name: str, sigma_y: float) -> None:
        op, ratio = operators(sigma_y)[name], torch.tensor([0.05, 0.7, 9.0])
        x = randn(3, *op.in_shape, seed=1, dtype=torch.float32)
        mu, cov = pivot(op, x, ratio)
        together = prior.denoise_pivot(mu, cov)
        assert together.shape == x.shape
        assert together.isfinite().all()
        for b in range(3):
            alone = prior.denoise_pivot(mu[b : b + 1], NoiseCovariance(cov.basis, cov.levels[b : b + 1]))
            assert_close(alone[0], together[b], rtol=1e-4, atol=1e-5)

    def test_a_level_for_all_items_is_that_of_each(self, prior: NetworkPrior, name: str, sigma_y: float) -> None:
        op = operators(sigma_y)[name]
        mu, cov = pivot(op, randn(2, *op.in_shape, seed=1, dtype=torch.float32), 0.7)
        assert len(cov.levels) == 1
        each = NoiseCovariance(cov.basis, cov.levels.expand(2, *cov.levels.shape[1:]))
        assert_close(prior.denoise_pivot(mu, cov), prior.denoise_pivot(mu, each), rtol=1e-5, atol=1e-6)

    def test_the_answer_that_hits_the_target_hits_the_image(self, name: str, sigma_y: float) -> None:
        """What training aims at and what sampling makes of it are inverse to each other."""
        op = operators(sigma_y)[name]
        x = randn(2, *op.in_shape, seed=1, dtype=torch.float32)
        mu, cov = pivot(op, x, torch.tensor([0.3, 2.0]))
        cov = cov.clamp(0.002, 80.0)
        target = edm_target(x, mu, cov, sigma_data=0.5)
        told = from_network(lambda *_: target, EDM(), predicts="edm")
        told.noise_kinds = frozenset(MAP_KINDS)
        assert_close(told.denoise_pivot(mu, cov), x, rtol=1e-3, atol=1e-3)


def test_bands_say_which_frequencies_are_known() -> None:
    gaussian = torch.exp(-(torch.arange(-4, 5.0) ** 2) / 4)
    op = Blur((3, 48, 40), torch.outer(gaussian, gaussian) / gaussian.sum() ** 2, boundary="circular", sigma_y=0.02)
    _, cov = pivot(op, randn(1, *op.in_shape, dtype=torch.float32), 5.0)
    levels = band_levels(cov, (48, 40))[0]
    assert levels.shape == (BANDS,)
    assert levels[0] == pytest.approx(0.02, rel=0.05)  # what the blur lets through, with the noise of y
    assert levels[-1] == pytest.approx(5.0, rel=0.05)  # what it takes away, with that of the state
    assert (levels.diff() > -1e-4).all()


def test_a_prior_without_maps_refuses(tiny_prior: Path) -> None:
    plain = load_prior(tiny_prior)
    assert plain.noise_kinds == frozenset()
    op = operators(0.1)["mask"]
    with pytest.raises(ValueError, match=r"Mask leaves pixel noise, and the prior accepts white noise alone. Use 'mmps'"):
        PosteriorSampler(plain, op, method="exact-score")


def test_a_kind_that_was_not_learned_is_refused() -> None:
    natural = load_prior("natural")
    gray = ChannelMix((3, 24, 24), torch.tensor([[0.3, 0.6, 0.1]]), sigma_y=0.1)
    with pytest.raises(ValueError, match="exact-score: ChannelMix leaves dense noise, and the prior accepts decimation, freq"):
        PosteriorSampler(natural, gray, method="exact-score")


@pytest.mark.parametrize(("name", "gain"), [("mask", 3.0), ("mosaic", 6.0), ("blur", 3.0), ("decimation", 0.25)])
def test_natural_uses_what_was_measured(name: str, gain: float) -> None:
    """One evaluation from next to nothing but the measurement: far better than least squares, which has no prior."""
    pixels = torch.from_numpy(data.astronaut()[60:160, 170:270]).permute(2, 0, 1)[None].float() / 127.5 - 1
    x = pixels[..., :96, :96]
    kernel = torch.exp(-(torch.arange(-6, 7.0) ** 2) / 4)
    op: LinearOperator = {
        "mask": Mask(torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.3, (3, 96, 96)),
        "mosaic": Mosaic((3, 96, 96), "RGGB"),
        "blur": Blur((3, 96, 96), torch.outer(kernel, kernel) / kernel.sum() ** 2, boundary="circular", sigma_y=0.04),
        "decimation": Downsample((3, 96, 96), 2, kernel="bicubic"),
    }[name]
    natural = load_prior("natural")
    mu, cov = pivot(op, x, 10.0)
    with torch.no_grad():
        found = natural.denoise_pivot(mu, cov)
    errors = [float(10 * (4 / (guess - x).square().mean()).log10()) for guess in (found, op.pinv(op.measure(x, seed=9)))]
    assert errors[0] > errors[1] + gain, errors
