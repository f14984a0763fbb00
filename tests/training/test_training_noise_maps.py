"""Training for noise that differs from place to place: what is drawn, what is minimised, and that it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators import Mask
from invdiff.operators.core.svd import CoordinateSVD
from invdiff.priors import UNet, load_prior
from invdiff.priors.network import edm_denoise
from invdiff.priors.noise_maps import edm_denoise_pivot
from invdiff.training import Images, Report, Settings, noise_law, random_masks, train
from invdiff.training.expand import grow
from invdiff.training.levels import LEVELS, state_levels
from invdiff.training.loss import pivot_loss, white_loss
from invdiff.training.noise_law import SHARES, NoiseLaw, share_of
from invdiff.training.random_kernels import random_kernels
from invdiff.training.validation import conditional_psnr, validation_operators

pytestmark = pytest.mark.slow

NET: dict[str, Any] = {"widths": (8, 16), "blocks": (1, 1), "maps": 4}


@pytest.fixture(autouse=True)
def small_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_law, "MASKS", 60)
    monkeypatch.setattr(noise_law, "KERNELS", 30)


def random_net(*, seed: int = 0, **shape: Any) -> UNet:
    """A network in which every weight counts, those of the maps too."""
    torch.manual_seed(seed)
    net = UNet(**{"channels": 2, **NET, **shape})
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestMasks:
    @pytest.mark.parametrize(("channels", "side"), [(1, 8), (2, 33), (3, 64), (5, 16)])
    def test_none_measures_everything_or_nothing(self, channels: int, side: int) -> None:
        masks = random_masks.random_masks(200, channels, side, np.random.default_rng(0))
        assert masks.shape == (200, channels, side, side)
        share = masks.double().mean((1, 2, 3))
        assert float(share.min()) > 0
        assert float(share.max()) < 1
        assert float(share.std()) > 0.1
        again = random_masks.random_masks(200, channels, side, np.random.default_rng(0))
        assert torch.equal(masks, again)
        assert not torch.equal(masks, random_masks.random_masks(200, channels, side, np.random.default_rng(1)))
        assert bool((masks != masks[:, :1]).any()) == (channels > 1)

    def test_a_bayer_pattern_measures_one_colour_of_every_pixel(self) -> None:
        masks = random_masks.random_masks(400, 3, 16, np.random.default_rng(0))
        tiles = masks.unfold(2, 2, 2).unfold(3, 2, 2)
        periodic = (tiles == tiles[:, :, :1, :1]).flatten(1).all(1)
        bayer = (masks.sum(1) == 1).flatten(1).all(1) & periodic & (masks.double().mean((2, 3)) > 0.2).all(1)
        assert float(bayer.double().mean()) == pytest.approx(0.24, abs=4 * (0.24 * 0.76 / 400) ** 0.5)
        assert len(masks[bayer].unique(dim=0)) == 4
        assert_close(masks[bayer].double().mean((2, 3)), torch.tensor([0.25, 0.5, 0.25]).double().expand(int(bayer.sum()), 3))

    @pytest.mark.parametrize("draw", random_masks.SHARES, ids=lambda draw: draw.__name__)
    def test_every_kind(self, draw: Any) -> None:
        drawn = [draw(np.random.default_rng(seed), 3, 48) for seed in range(40)]
        assert all(mask.shape in ((48, 48), (3, 48, 48)) and mask.dtype == np.bool_ for mask in drawn)
        assert np.mean([0 < mask.mean() < 1 for mask in drawn]) > 0.5
        assert len({mask.tobytes() for mask in drawn}) >= 4

    def test_shares(self) -> None:
        assert sum(random_masks.SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("side", [3, 7, 31])
def test_kernels(side: int) -> None:
    kernels = random_kernels(60, side, np.random.default_rng(0))
    assert kernels.shape == (60, side, side)
    assert float(kernels.min()) >= 0
    assert_close(kernels.sum((1, 2)), torch.ones(60))
    assert torch.equal(kernels, random_kernels(60, side, np.random.default_rng(0)))
    assert len(kernels.unique(dim=0)) == 60
    assert bool((kernels.amax((1, 2)) < 0.5).any())


class TestLaw:
    @pytest.mark.parametrize("channels", [1, 2, 3])
    @pytest.mark.parametrize(("count", "side"), [(1, 8), (5, 17), (40, 16)])
    def test_covers_the_batch_within_the_range_of_levels(self, channels: int, count: int, side: int) -> None:
        law = NoiseLaw(Settings(steps=1), channels)
        x = randn(count, channels, side, side, dtype=torch.float32)
        for seed in range(5):
            drawn = law.draw(count, side, generator(seed), late=seed % 2 == 1)
            assert sum(map(len, drawn)) == count
            for part, own in zip(drawn, x.split([len(part) for part in drawn]), strict=True):
                levels = part.cov.levels
                assert LEVELS[0] * (1 - 1e-5) <= float(levels.min()) <= float(levels.max()) <= LEVELS[1] * (1 + 1e-5)
                noise = part.cov.apply(lambda s: s, own)
                assert noise.shape == own.shape
                assert noise.isfinite().all()
                assert part.cov.pixel_levels().expand_as(own).isfinite().all()
                assert_close(part.cov.apply(torch.ones_like, own), own, rtol=0, atol=1e-4)
                assert 0.1 <= float(part.weight.expand_as(own).min()) <= float(part.weight.max()) <= 1

    def test_shares_hold_for_any_batch(self) -> None:
        law = NoiseLaw(Settings(steps=1), 1)
        seen = dict.fromkeys(SHARES, 0)
        for step in range(600):
            for part in law.draw(3, 8, generator(step)):
                kind = "white" if part.cov.levels.shape[-1] == 1 else {"pixel": "mask", "frequency": "blur"}.get(part.cov.kind)
                seen[kind or "decimation"] += len(part)
        assert sum(seen.values()) == 1800
        for kind, share in SHARES.items():
            assert seen[kind] / 1800 == pytest.approx(share, abs=4 * (share / 1800) ** 0.5), kind

    def test_a_step_depends_on_its_generator_alone(self) -> None:
        first, second = (NoiseLaw(Settings(steps=1, seed=7), 3) for _ in range(2))
        first.draw(9, 16, generator(5))  # What was drawn before is of no account.
        drawn = [law.draw(9, 16, generator(1)) for law in (first, second, NoiseLaw(Settings(steps=1, seed=8), 3))]
        same, other = ([torch.equal(a.cov.levels, b.cov.levels) for a, b in zip(drawn[0], d, strict=True)] for d in drawn[1:])
        assert all(same)
        assert not all(other)  # Masks of another seed.

    @pytest.mark.parametrize("count", [2, 4])
    def test_processes_share_a_batch(self, count: int) -> None:
        law, own = NoiseLaw(Settings(steps=1), 2), 12 // count
        whole = law.draw(12, 16, generator())
        parts = [share_of(whole, slice(k * own, (k + 1) * own), torch.device("cpu")) for k in range(count)]
        assert [sum(map(len, part)) for part in parts] == [own] * count
        x = randn(12, 2, 16, 16, dtype=torch.float32)
        net, options = random_net(), {"sigma_data": 0.5, "bf16": False}
        noise = randn(12, 2, 16, 16, seed=1, dtype=torch.float32)
        losses = [
            pivot_loss(net, x[k * own : (k + 1) * own], noise[k * own : (k + 1) * own], part, **options)
            for k, part in enumerate(parts)
        ]
        assert_close(torch.stack(losses).mean(), pivot_loss(net, x, noise, whole, **options))

    def test_measured_pixels_are_known_and_exact_ones_to_the_lowest_level(self) -> None:
        law = NoiseLaw(Settings(steps=1), 3)
        levels = law._mask(400, 16, generator(), False).cov.levels
        lowest, highest = levels.amin((1, 2, 3)), levels.amax((1, 2, 3))
        assert (lowest < highest).all()
        exact = (lowest <= LEVELS[0] * (1 + 1e-5)).double().mean()
        assert float(exact) == pytest.approx(0.3, abs=4 * (0.21 / 400) ** 0.5)
        smooth = torch.tensor([len(item.unique()) > 2 for item in levels]).double().mean()
        assert float(smooth) == pytest.approx(0.1, abs=4 * (0.09 / 400) ** 0.5)

    def test_late_crops_see_more_high_noise(self) -> None:
        early, late = (state_levels(4000, generator(), late=late) for late in (False, True))
        assert float((late > 1).double().mean() - 0.8 * (early > 1).double().mean()) == pytest.approx(0.2, abs=0.04)


def test_late_stage() -> None:
    settings = Settings(steps=9, batch=16, crop=64, late_crop=128)
    assert [settings.stage(step)[:2] for step in (0, 5, 6, 8)] == [(16, 64), (16, 64), (4, 128), (4, 128)]
    assert settings.largest_crop == 128
    assert len(set(Settings(steps=9).stages)) == 1


def white(sigma: Tensor, x: Tensor) -> NoiseCovariance:
    return NoiseCovariance(CoordinateSVD(torch.ones(()), x.shape[1:]), over_items(sigma, x))


def test_the_loss_of_white_noise_is_that_of_the_denoiser() -> None:
    net, x, noise = random_net(), randn(4, 2, 16, 16, dtype=torch.float32), randn(4, 2, 16, 16, seed=1, dtype=torch.float32)
    sigma, options = torch.tensor([0.002, 0.1, 1.0, 80.0]), {"sigma_data": 0.5, "bf16": False}
    told = pivot_loss(net, x, noise, [noise_law.Drawn(white(sigma, x), torch.ones(4, 1, 1, 1))], **options)
    # At a level of 0.002 a rounding of x weighs 500 times as much.
    assert_close(told, white_loss(net, x, noise, sigma, **options), rtol=1e-3, atol=0)


class TestGrow:
    x, c_noise = randn(2, 2, 16, 16, dtype=torch.float32), torch.tensor([-1.0, 0.5])

    def drawn(self) -> list[NoiseCovariance]:
        law = NoiseLaw(Settings(steps=1), 2)
        return [draw(2, 16, generator(), False).cov for draw in (law._mask, law._blur, law._decimated)]

    @pytest.mark.parametrize(("widths", "blocks"), [((8, 16), (1, 1)), ((8, 16, 24), (2, 1, 1))], ids=str)
    def test_adds_maps_that_change_nothing_at_first(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        plain = random_net(maps=0)
        told = grow(plain, widths=widths, blocks=blocks, maps=4, seed=0)
        assert told.config["maps"] == 4
        assert torch.equal(told(self.x, self.c_noise), plain(self.x, self.c_noise))
        with torch.no_grad():
            assert torch.equal(
                edm_denoise_pivot(told, self.x, white(torch.tensor([0.3]), self.x), sigma_data=0.5, trained=LEVELS),
                edm_denoise_pivot(told, self.x, white(torch.tensor([0.3, 0.3]), self.x), sigma_data=0.5, trained=LEVELS),
            )
        means = [edm_denoise_pivot(told, self.x, cov, sigma_data=0.5, trained=LEVELS) for cov in self.drawn()]
        torch.cat(means).square().sum().backward()
        new = {n: p for n, p in told.named_parameters() if n.startswith(("map_first", "map_bands")) or "map_film" in n}
        # Not those below what begins as zero, nor in new blocks, which do.
        assert all(
            p.grad is not None and bool(p.grad.any())
            for n, p in new.items()
            if n.startswith(("map_", "down.0.blocks.0", "up.0.blocks.0"))
        )

    @pytest.mark.parametrize(("widths", "blocks"), [((8, 16), (1, 1)), ((8, 16), (2, 3)), ((8, 16, 24), (1, 1, 1))], ids=str)
    def test_keeps_maps(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        net = random_net()
        large = grow(net, widths=widths, blocks=blocks, seed=0)
        for cov in self.drawn():
            a, b = (edm_denoise_pivot(n, self.x, cov, sigma_data=0.5, trained=LEVELS) for n in (net, large))
            assert torch.equal(a, b)
            assert not torch.allclose(a, edm_denoise(net, self.x, cov.largest, sigma_data=0.5))

    def test_leaves_maps_out(self) -> None:
        net = random_net()
        plain = grow(net, widths=(8, 16), blocks=(1, 1), maps=0, seed=0)
        assert not [name for name in plain.state_dict() if "map_" in name]
        assert torch.equal(plain(self.x, self.c_noise), net(self.x, self.c_noise))

    def test_refuses_another_number(self) -> None:
        with pytest.raises(ValueError, match="has 4 noise-map features, expected 0 or 8"):
            grow(random_net(), widths=(8, 16), blocks=(1, 1), maps=8, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterior_means_are_reported_of_what_was_measured(channels: int) -> None:
    clean = randn(3, channels, 24, 30, dtype=torch.float32).clamp(-1, 1)
    net = random_net(channels=channels)
    psnr = conditional_psnr(net, clean, sigma_data=0.5)
    expected = ["letters", "random", "hole", *(["Bayer"] if channels == 3 else []), "blur", "x2", "x4"]
    assert list(psnr) == list(validation_operators(tuple(clean.shape[1:]))) == expected
    assert psnr == conditional_psnr(net, clean, sigma_data=0.5)
    # An untrained network adds nothing to c_skip: measured pixels stay, and missing ones become grey.
    untrained = conditional_psnr(UNet(**{**NET, "channels": channels}), clean, sigma_data=0.5)
    masks = {n: op.mask for n, op in validation_operators(tuple(clean.shape[1:])).items() if isinstance(op, Mask)}
    assert 0.05 < 1 - float(masks["letters"].double().mean()) < 0.25
    for name, mask in masks.items():
        errors = torch.where(mask, 0, clean).square().mean((1, 2, 3))
        assert untrained[name] == pytest.approx(float((10 * (4 / errors).log10()).mean()), abs=0.3)


def flat_images(count: int, side: int = 16) -> list[Any]:
    """Images of one grey each: one measured pixel tells all the others."""
    random = np.random.default_rng(0)
    greys = random.uniform(-0.9, 0.9, (count, 1, 1, 1))
    return list((greys + random.normal(0, 0.02, (count, side, side, 1))).astype(np.float32))


def test_learns_to_use_what_is_measured(tmp_path: Path) -> None:
    reports: list[Report] = []
    settings = Settings(steps=150, batch=16, crop=16, rate=1e-2, validation=8, widths=(8,), blocks=(1,), maps=4)
    options: dict[str, Any] = {"report_every": 150, "samples": False, "on_report": reports.append}
    train(Images.of(flat_images(300)), tmp_path / "flat.safetensors", settings, **options)
    prior = load_prior(tmp_path / "flat.safetensors")
    x = torch.from_numpy(np.stack(flat_images(340)[300:])).permute(0, 3, 1, 2)
    mask = torch.rand(1, 16, 16, generator=generator(3)) < 0.4
    levels = torch.where(mask, LEVELS[0], 10.0).expand_as(x)
    mu = x + levels * randn(*x.shape, dtype=torch.float32)
    told = prior.denoise_pivot(mu, NoiseCovariance(CoordinateSVD(torch.ones(()), x.shape[1:]), levels))
    untold = prior.denoise_pivot(mu, white(torch.tensor([10.0]), x))
    errors = [float((mean - x)[:, ~mask].square().mean() ** 0.5) for mean in (told, untold, torch.zeros_like(x))]
    assert errors[0] < 0.6 * min(errors[1:])
    assert set(reports[-1].conditional) == {"letters", "random", "hole", "blur", "x2", "x4"}


class TestCommand:
    small = ("--widths", "8,16", "--blocks", "1,1", "--crop", "16", "--batch", "4", "--precision", "float32", "--device", "cpu")

    def test_noise_maps(self, tmp_path: Path, invdiff: Any) -> None:
        folder = tmp_path / "photographs"
        folder.mkdir()
        random = np.random.default_rng(0)
        for i in range(6):
            Image.fromarray(random.integers(0, 256, (24, 24 + i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        arguments = ("train", folder, *self.small, "--steps", "3", "--out")
        told = invdiff(*arguments, tmp_path / "told.safetensors", "--noise-maps", "--late-crop", "20", "--report-every", "2")
        heading, *lines = told.stdout.splitlines()[1:4]
        columns = "sigma 5 sigma 15 sigma 25 sigma 50 sigma 100 letters random hole Bayer blur x2 x4"
        assert " ".join(heading.split()[3:]) == f"{columns} (PSNR in dB of denoising, and of E[x0 | y] from one evaluation)"
        assert [len(line) for line in lines] == [heading.index("   (")] * 2
        card = " ".join((tmp_path / "told.md").read_text().split())
        for text in (
            "frequencies (circular blur)",
            "in the last third 3 crops of 20 pixels",
            "| Bayer |",
            "then the PSNR of E[x0 | y]",
            "| 11 crops |",
        ):
            assert text in card, text
        prior = load_prior(tmp_path / "told.safetensors")
        assert prior.noise_kinds == {"pixel", "frequency", "decimation"}
        solving = ("solve", folder / "0.png", "--problem", "sr", "--factor", "2", "--samples", "1", "--steps", "2", "-o", "out")
        invdiff(*solving, "--method", "exact-score", "--prior", tmp_path / "told.safetensors")
        for flags, kinds in (((), 3), (("--no-noise-maps",), 0)):
            out = tmp_path / f"again{''.join(flags)}.safetensors"
            invdiff(*arguments, out, "--init", tmp_path / "told.safetensors", *flags)
            assert len(load_prior(out).noise_kinds) == kinds
        again = invdiff(*arguments, tmp_path / "bad.safetensors", "--late-crop", "12", code=1)
        assert "late_crop must be at least the crop of 16 pixels" in again.stderr
