"""Blind deconvolution as a whole, with the bundled prior at small sizes and with a Gaussian one."""

import math
from typing import Any

import pytest
import torch

from invdiff import BlindSampler, load_prior
from invdiff.blind import DiscFamily, FreeFamily, GaussianFamily, LineFamily, free, sampler
from invdiff.blind.measurement import blur_operator, center_of
from invdiff.operators import Blur, defocus_kernel
from invdiff.priors import Gaussian

SIDE, SIGMA = 48, 0.02


@pytest.fixture(scope="module")
def natural():
    return load_prior("natural")


def scene(side=SIDE):
    """Return rectangles and discs with sharp edges, ``(1, 3, side, side)``."""
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x = torch.full((3, side, side), -0.4)
    for place, size, color in (
        ((12, 12), 7, (0.7, 0.1, -0.5)),
        ((30, 33), 9, (-0.6, 0.5, 0.6)),
        ((36, 12), 5, (0.9, 0.9, 0.8)),
    ):
        inside = (down - place[0]) ** 2 + (right - place[1]) ** 2 < size**2
        x = torch.where(inside, torch.tensor(color)[:, None, None], x)
    return torch.where((down > 20) & (down < 24), -0.9, x)[None]


def measured(kernel, seed=0, side=SIDE, boundary="circular"):
    blurred = Blur((3, side, side), kernel, boundary=boundary)(scene(side))
    return blurred + SIGMA * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))


def fast(score, family, **settings):
    given = {"sigma_y": SIGMA, "boundary": "circular", "method": "exact-score", "steps": 4, **settings}
    return BlindSampler(score, family, **given)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
def test_a_disc_is_found_and_the_image_is_better_than_the_measurement(natural):
    y = measured(defocus_kernel(2.0))
    post = fast(natural, DiscFamily(0.7, 4.0), steps=8).run(y, num_samples=2)
    assert float(post.estimate["radius"]) == pytest.approx(2.0, abs=0.25)
    low, high = post.interval(0.9)["radius"]
    assert low < post.estimate["radius"] < high
    assert post.posterior.samples.shape == (2, 1, 3, SIDE, SIDE)
    assert post.kernels.shape[:2] == (2, 1)
    torch.testing.assert_close(post.kernels.sum((-2, -1)), torch.ones(2, 1))
    x = scene()
    assert float((post.posterior.mean - x).square().mean()) < 0.5 * float((y - x).square().mean())
    other = fast(natural, DiscFamily(0.7, 4.0)).find(measured(defocus_kernel(3.0)))
    assert float(other.parameters["radius"].median()) == pytest.approx(3.0, abs=0.35)  # It is y that tells.


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
def test_the_same_seed_gives_the_same_result_and_items_do_not_depend_on_each_other(natural):
    sampler = fast(natural, GaussianFamily(0.5, 2.0))
    y = torch.cat([measured(defocus_kernel(radius), seed=seed, side=24) for seed, radius in enumerate((1.0, 2.0))])
    both, alone = sampler.run(y, num_samples=1, seed=3), sampler.run(y[1:], num_samples=1, seed=3)
    torch.testing.assert_close(both.parameters["sigma"][:, 1:], alone.parameters["sigma"])
    assert not torch.isclose(*both.parameters["sigma"].median(0).values, rtol=0.05)
    torch.testing.assert_close(both.posterior.samples[:, 1:], alone.posterior.samples)
    assert both.posterior.samples.shape[:2] == (1, 2)
    assert both.kernel.shape[0] == len(both.notes) == 2


def test_a_free_kernel_is_on_the_simplex_and_nearer_to_the_true_one_than_the_start(natural):
    line = torch.zeros(9, 9)
    line[4, 1:8] = 1 / 7
    found = fast(natural, FreeFamily(9)).find(measured(line), num_kernels=2)
    assert len(found.kernels) == 2
    assert (found.kernels >= 0).all()
    torch.testing.assert_close(found.kernels.sum((1, 2)), torch.ones(2))
    kernel = found.kernels[0]
    across, along = (kernel.sum(axis).double() for axis in (1, 0))
    places = torch.arange(len(along)).double() - len(along) // 2
    spread = [math.sqrt(float((part * (places - (part * places).sum()) ** 2).sum())) for part in (across, along)]
    assert spread[1] > 1.5  # 2 for the line; 1.5 in both directions at the start
    assert spread[0] < 0.8


@pytest.mark.parametrize(
    ("size", "side", "boundary", "sizes"),
    [
        (31, 104, "circular", [17, 31]),
        (31, 105, "circular", [31]),  # reduced, it would not be periodic
        (31, 105, "valid", [17, 31]),
        (61, 208, "valid", [17, 31, 61]),
        (31, 80, "valid", [31]),  # too small to be reduced
        (23, 64, "circular", [23]),
    ],
)
def test_a_large_free_kernel_is_looked_for_from_coarse_to_fine(natural, monkeypatch, size, side, boundary, sizes):
    seen = []

    def spy(resolutions, **_):
        seen.extend(resolutions)
        return free.SearchedKernels(torch.ones(1, size, size) / size**2, -1.0)

    monkeypatch.setattr(sampler, "search_kernel", spy)
    fast(natural, FreeFamily(size), boundary=boundary).find(torch.zeros(1, 3, side, side))
    assert [place.size for place in seen] == sizes
    scales = [2**k for k in range(len(sizes) - 1, -1, -1)]
    assert [place.sigma_y for place in seen] == [pytest.approx(SIGMA / scale) for scale in scales]
    for place, scale in zip(seen, scales, strict=True):
        recorded = place.windows[0].recorded.sum()
        assert recorded == (side // scale) ** 2


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
@pytest.mark.parametrize("family", [GaussianFamily(0.7, 2.0), FreeFamily(5)], ids=["gaussian", "free"])
def test_the_share_of_the_work_that_is_done_is_told(natural, family, monkeypatch):
    monkeypatch.setattr(free, "STEPS", 12)
    shares = []
    fast(natural, family).run(measured(defocus_kernel(1.2), side=32), num_samples=2, callback=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1  # The samples of the image are still to come.
    if isinstance(family, FreeFamily):
        pixels = 32 * 32
        assert shares[-1] == pytest.approx(3 * 18 * pixels / (3 * 18 * pixels + 2 * 2 * 4 * pixels))


def test_unrecorded_borders_give_a_larger_image_of_which_the_middle_is_shown(natural):
    y = measured(defocus_kernel(1.5), side=60, boundary="valid")
    post = fast(natural, DiscFamily(0.7, 3.0), boundary="valid", method="mmps").run(y, num_samples=1)
    reach = post.kernels.shape[-1] // 2
    assert post.posterior.samples.shape[-1] == y.shape[-1] + 2 * reach
    shown = post.framed(post.posterior.mean)
    assert shown.shape == y.shape
    torch.testing.assert_close(shown, post.posterior.mean[..., reach:-reach, reach:-reach])
    assert float(post.estimate["radius"]) == pytest.approx(1.5, abs=0.3)


def test_the_noise_level_is_estimated_if_it_is_not_given(natural):
    found = fast(natural, DiscFamily(0.7, 4.0), sigma_y=None).find(measured(defocus_kernel(2.0)))
    assert found.sigma_y == pytest.approx(SIGMA, rel=0.15)
    assert float(found.parameters["sigma_y"].median()) == pytest.approx(found.sigma_y, rel=0.05)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("family", "parameters"), [(GaussianFamily(), (1.3,)), (DiscFamily(), (2.2,)), (LineFamily(), (5.0, 30.0))], ids=repr
)
def test_reduced_pictures_show_the_middles_of_blocks(family, parameters, factor):
    kernel = family.kernel(parameters, shift=center_of(factor))
    op = blur_operator((2, 96, 96), kernel, boundary="reflect", factor=factor)
    down, right = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    ramps = torch.stack([down, right])[None]
    middles = torch.nn.functional.avg_pool2d(ramps, factor)
    inner = slice(40 // factor, 56 // factor)
    torch.testing.assert_close(op(ramps)[..., inner, inner], middles[..., inner, inner], atol=1e-3, rtol=0)


def test_decimation_needs_less_of_the_picture_but_tells_the_width(natural):
    family = GaussianFamily(0.6, 3.0)
    op = blur_operator((3, 64, 64), family.kernel((1.6,), shift=center_of(2)), boundary="circular", factor=2, sigma_y=SIGMA)
    y = op.measure(scene(64), seed=0)
    found = fast(natural, family, factor=2).find(y)
    assert float(found.parameters["sigma"].median()) == pytest.approx(1.6, rel=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_y": 0.0}, "sigma_y must be positive"),
        ({"sigma_y": math.nan}, "sigma_y must be positive"),
        ({"boundary": "zero"}, "boundary must be one of circular, valid, reflect"),
        ({"factor": 2, "boundary": "valid"}, "boundary must be one of circular, reflect"),
        ({"factor": 0}, "factor must be a positive integer"),
        ({"ratio": -1.0}, "ratio must be positive"),
        ({"highest": 0.01}, "highest must be above"),
    ],
)
def test_wrong_settings_are_refused(natural, settings, message):
    with pytest.raises(ValueError, match=message):
        BlindSampler(natural, GaussianFamily(), **{"sigma_y": SIGMA, **settings})


def test_wrong_measurements_and_priors_are_refused(natural):
    sampler = fast(natural, LineFamily())
    for y, error, message in (
        (torch.zeros(3, 48, 48), ValueError, "images"),
        (torch.zeros(1, 3, 48, 48, dtype=torch.int64), TypeError, "floating-point"),
        (torch.full((1, 3, 48, 48), math.nan), ValueError, "finite"),
        (torch.zeros(1, 3, 16, 16), ValueError, "wider than the picture"),
    ):
        with pytest.raises(error, match=message):
            sampler.find(y)
    with pytest.raises(ValueError, match="number of samples"):
        sampler.find(torch.zeros(1, 3, 48, 48), num_kernels=0)
    with pytest.raises(ValueError, match="seed"):
        sampler.run(torch.zeros(1, 3, 48, 48), seed=-1)
    family: Any = "gaussian"
    with pytest.raises(TypeError, match="family"):
        BlindSampler(natural, family, sigma_y=SIGMA)
    with pytest.raises(ValueError, match="not looked for under decimation"):
        BlindSampler(natural, FreeFamily(), sigma_y=SIGMA, factor=2)
    plain = Gaussian(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    plain.noise_kinds = frozenset()
    with pytest.raises(ValueError, match="must accept frequency noise"):
        BlindSampler(plain, GaussianFamily(), sigma_y=SIGMA)
