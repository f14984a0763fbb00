"""Latent priors: with a linear decoder the posterior of the codes is known, and that of the images with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import randn
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import invdiff
from invdiff import Posterior, PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import Decoder, Mask, Matrix
from invdiff.priors import Gaussian, LatentPrior, UNet, adapt, from_network
from invdiff.schedules import EDM

COUNT = 500
D = randn(6, 3) / 3
COV = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.8]], dtype=torch.float64)
CODES = Gaussian(randn(3, seed=1), COV)
OP = Matrix(randn(4, 6, seed=2) / 3, sigma_y=0.2)


def decode(z: Tensor) -> Tensor:
    return z @ D.to(z).mT


def encode(x: Tensor) -> Tensor:
    return x @ torch.linalg.pinv(D).to(x).mT


PRIOR = LatentPrior(CODES, decode, encode=encode)
Y = torch.cat([OP.measure(decode(CODES.sample(1, seed=3)), seed=4), OP.measure(2 * decode(CODES.sample(1, seed=5)), seed=6)])


def exact(b: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the covariance of the code given the measurement of item ``b``, by Bayes' rule."""
    a = OP.matrix @ D
    gain = COV @ a.mT @ torch.linalg.inv(a @ COV @ a.mT + OP.sigma_y**2 * torch.eye(4, dtype=torch.float64))
    return CODES.mean + gain @ (Y[b] - a @ CODES.mean), COV - gain @ a @ COV


@pytest.mark.parametrize("method", ["mmps", "mm-tsmc"])
def test_the_exact_methods_are_exact(method: str) -> None:
    post = PosteriorSampler(PRIOR, OP, method=method).run(Y, num_samples=COUNT, seed=0)
    assert post.latents is not None
    assert post.samples.shape == (COUNT, 2, 6)
    assert_close(post.samples, decode(post.latents))
    for b in range(2):
        mean, cov = exact(b)
        spread, codes = cov.diagonal().sqrt(), post.latents[:, b]
        assert ((codes.mean(0) - mean).abs() < 5 * spread * math.sqrt(2 / COUNT)).all()  # particles share ancestors
        gap = (codes.mT.cov() - cov).abs() / (spread[:, None] * spread)
        assert gap.max() < 5 * math.sqrt(4 / COUNT)


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("method", METHODS)
def test_methods_follow_the_measurement_or_refuse(method: str) -> None:
    options: dict[str, Any] = {"langevin_steps": 5} if method in ("daps", "pnp-dm") else {}
    if {"linear", "svd", "mask", "exact", "inpainting"} & set(METHODS[method].needs):
        with pytest.raises(ValueError, match=r"needs a.*, got NonlinearComposed|needs exact data"):
            PosteriorSampler(PRIOR, OP, method=method)
        return
    post = PosteriorSampler(PRIOR, OP, method=method, steps=12, **options).run(Y, num_samples=8)
    assert post.samples.shape == (8, 2, 6)
    assert post.latents is not None
    means = post.latents.mean(0)
    assert method == "unconditional" or (means[0] - means[1]).norm() > 0.1 * means.norm()


def test_what_a_posterior_does_keeps_the_codes(tmp_path: Path) -> None:
    sampler = PosteriorSampler(PRIOR, OP, method="mmps", steps=3)
    whole = sampler.run(Y, num_samples=4)
    parts = sampler.run(Y, num_samples=2), sampler.run(Y, num_samples=2, first_sample=2)
    joined = Posterior.join(*parts)
    assert whole.latents is not None
    assert joined.latents is not None
    assert_close(joined.latents, whole.latents)
    one = whole.item(1)
    assert one.latents is not None
    assert torch.equal(one.latents, whole.latents[:, 1:])
    whole.save(tmp_path / "post.safetensors")
    read = Posterior.load(tmp_path / "post.safetensors")
    assert read.latents is not None
    assert torch.equal(read.latents, whole.latents)
    assert PosteriorSampler(CODES, Matrix(OP.matrix @ D, sigma_y=0.4)).run(Y, num_samples=1).latents is None


def small() -> tuple[nn.Module, nn.Module, Any]:
    """Return a decoder and an encoder of images by convolutions, and a network prior of the codes."""
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=4), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()
    )
    encoder = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.SiLU(), nn.Conv2d(8, 4, 1))
    prior = UNet(channels=4, widths=(4, 8), blocks=(1, 1), embedding=8)
    for part in (net, encoder, prior):
        for number, parameter in enumerate(part.parameters()):
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))
    return (
        net.eval().requires_grad_(False),
        encoder.eval().requires_grad_(False),
        from_network(prior, EDM(), predicts="edm", event_shape=(4, None, None)),
    )


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("method", ["dps", "mmps", "daps", "flow-dps", "diffpir", "psld", "resample", "latino", "ding"])
def test_images_of_a_network(method: str) -> None:
    decoder, encoder, codes = small()
    prior = LatentPrior(codes, decoder, encode=encoder, latent_shape=(4, 6, 8), rows=2)
    mask = torch.rand(24, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:16] = True
    op = Mask(mask, (3, 24, 32), sigma_y=0.1)
    options: dict[str, Any] = {"langevin_steps": 3} if method == "daps" else {}
    post = PosteriorSampler(prior, op, method=method, steps=3, **options).run(torch.zeros(1, 3, 24, 32), num_samples=3)
    assert post.samples.shape == (3, 1, 3, 24, 32)
    assert post.latents is not None
    assert post.latents.shape == (3, 1, 4, 6, 8)
    assert_close(post.samples[:, 0], decoder(post.latents[:, 0]), rtol=1e-4, atol=1e-4)
    assert post.residual.isfinite().all()


class TestDecoder:
    def test_rows(self) -> None:
        seen = list[int]()

        def counted(z: Tensor) -> Tensor:
            seen.append(len(z))
            return decode(z)

        decoder, z = Decoder(counted, (3,), rows=2, dtype=torch.float64), randn(5, 3)
        seen.clear()
        assert_close(decoder(z), decode(z))
        assert seen == [2, 2, 1]
        seen.clear()
        decoder(z.requires_grad_())
        assert seen == [5]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Decoder(decode, (3,), encode=lambda x: x, dtype=torch.float64), r"encode must map images \(6,\) to lat"),
            (lambda: Decoder(decode, (3,), rows=0), "rows must be at least 1"),
            (lambda: Decoder(lambda z: decode(z).detach(), (3,), dtype=torch.float64), "no gradient"),
            (lambda: Decoder(lambda z: decode(z) - z.mean(), (3,), dtype=torch.float64), "depend"),
        ],
    )
    def test_wrong_ones_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()


def test_of_one_size_only() -> None:
    with pytest.raises(ValueError, match=r"makes images of shape \(6,\), and the operator measures images .* \(3, 8, 8\)"):
        invdiff.restore(torch.zeros(8, 8).numpy(), problem="denoise", noise=0.1, prior=PRIOR)
    with pytest.raises(ValueError, match=r"codes of shape \(3,\), and was asked for items of shape \(3, 8, 8\)"):
        adapt(PRIOR, (3, 8, 8))


def test_sizes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"makes images of shape \(6,\), and the operator measures images of shape \(5,\)"):
        PosteriorSampler(PRIOR, Matrix(randn(4, 5), sigma_y=0.4))
    with pytest.raises(TypeError, match="must be functions"):
        LatentPrior(CODES, "decoder")  # type: ignore[arg-type]
    *_, codes = small()
    with pytest.raises(ValueError, match=r"codes of shape \(4, None, None\): give the size of yours as latent_shape"):
        LatentPrior(codes, decode)


class TestDecodings:
    """How often a step decodes: an image at the point of linearization once, with its adjoint from the same graph."""

    # Decodings with a graph and without, of a step and of the end; mmps and diffpir have iterations.
    @pytest.mark.parametrize(
        ("method", "options", "each"),
        [("dps", {}, 1), ("dps-gaussian", {}, 2), ("sda", {}, 1), ("red-diff", {}, 1), ("flow-dps", {}, 6)],
    )
    def test_per_step(self, method: str, options: dict[str, Any], each: int) -> None:
        counts = []
        for steps in (4, 8):
            calls: list[int] = []

            def counted(z: Tensor, calls: list[int] = calls) -> Tensor:
                calls.append(len(z))
                return decode(z)

            prior = LatentPrior(CODES, counted, checked=True)
            PosteriorSampler(prior, OP, method=method, steps=steps, **options).run(Y)
            counts.append(len(calls))
        assert counts[1] - counts[0] == 4 * each

    @pytest.mark.parametrize("method", ["dps", "mmps"])
    def test_blocks_of_the_decoder_may_be_recomputed(self, method: str) -> None:
        """Also under the transforms of torch.func, which have no activation checkpointing."""

        def recomputed(z: Tensor) -> Tensor:
            return cast(Tensor, checkpoint(decode, z, use_reentrant=False)) if z.requires_grad else decode(z)

        found, expected = (
            PosteriorSampler(LatentPrior(CODES, f, checked=True), OP, method=method, steps=3).run(Y, seed=0).samples
            for f in (recomputed, decode)
        )
        assert_close(found, expected)
