"""Samples in windows around what is missing: where the windows lie, and that samples are those of whole images."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from numpy.typing import NDArray
from torch import Tensor

from invdiff import PosteriorSampler, load_prior
from invdiff.methods import METHODS
from invdiff.operators import Crop, Mask, Mosaic, per_item
from invdiff.posterior import Step, Window
from invdiff.posterior.windows import LARGEST, find_windows
from invdiff.priors import Gray, PerChannel, Reach, Rescaled, ScoreModel, Tiled
from invdiff.schedules import EDM

SHAPE = (3, 96, 112)
TOLERANCE = -40.0  # dB: difference from whole images, relative to the spread of the samples
LOCAL = sorted(name for name, method in METHODS.items() if method.algorithm.in_windows)


class Smoothing(ScoreModel):
    """A prior of images of any size that looks exactly three pixels far: smoothing that is stronger at more noise."""

    def __init__(self, reach: Reach | None = None) -> None:
        self.schedule, self.event_shape, self.reach = EDM(), (3, None, None), reach

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.levels(t, x_t)
        ratio = (sigma / alpha).reshape(-1)[0]
        distance = torch.arange(-3, 4).to(x_t).square()
        kernel = torch.exp(-distance / (2 * (0.3 + ratio.clamp(max=2)) ** 2))
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
        x = F.pad(x_t / alpha, (3, 3, 3, 3), mode="replicate")
        x = F.conv2d(F.conv2d(x, kernel, groups=3), kernel.mT, groups=3)
        return x / (1 + ratio**2 / 4)


def known() -> Tensor:
    """Return a mask ``(H, W)`` with a small hole, a scratch at the border, and a speck."""
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    mask[20:27, 24:30] = False
    mask[80:82, 90:] = False
    mask[75, 95] = False
    return mask


def picture() -> Tensor:
    return F.avg_pool2d(randn(2, 3, SHAPE[1] + 4, SHAPE[2] + 4, seed=4, dtype=torch.float32), 5, stride=1)


def gap(a: Tensor, b: Tensor, missing: Tensor) -> float:
    """Return the difference of samples ``(N, B, C, H, W)`` at missing pixels in dB relative to the spread of ``b``."""
    difference = (a - b)[..., missing].square().mean().sqrt()
    spread = b[..., missing].std(0).square().mean().sqrt()
    return 20 * math.log10(float(difference / spread) + 1e-9)


MASKS: dict[str, NDArray[np.bool_]] = {}


def add(name: str, size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> None:
    MASKS[name] = np.zeros(size, dtype=np.bool_)
    for top, left, bottom, right in boxes:
        MASKS[name][top:bottom, left:right] = True


add("two holes", (300, 400), (20, 30, 40, 44), (250, 350, 255, 390))
add("corner", (300, 400), (0, 395, 3, 400))
add("thick", (700, 900), (100, 100, 500, 520))
add("long scratch", (900, 1000), (450, 10, 452, 990), (20, 500, 880, 501))
add("odd size", (301, 403), (299, 10, 301, 20), (0, 400, 5, 403))
add("everything", (64, 64), (0, 0, 64, 64))
MASKS["scattered"] = np.random.default_rng(0).random((700, 800)) < 0.01
MASKS["cross"] = np.eye(500, dtype=np.bool_) | np.eye(500, dtype=np.bool_)[::-1]


@pytest.mark.parametrize("reach", [Reach(32, 16), Reach(20), Reach(5, 2, 64)], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_every_missing_pixel_is_filled_in_once_with_its_context_around_it(name: str, reach: Reach) -> None:
    missing = MASKS[name]
    height, width = missing.shape
    filled = np.zeros(missing.shape, dtype=int)
    for window in find_windows(missing, reach):
        assert window.fills.shape == window.sides
        assert 0 <= window.top <= window.top + window.height <= height
        assert 0 <= window.left <= window.left + window.width <= width
        assert min(window.height, height) >= min(reach.least, height)
        assert min(window.width, width) >= min(reach.least, width)
        filled[window.box] += window.fills
        rows, columns = np.nonzero(window.fills)
        for start, stop, ends, places in (
            (window.top, window.top + window.height, height, rows + window.top),
            (window.left, window.left + window.width, width, columns + window.left),
        ):
            assert start == 0 or (start % reach.stride == 0 and places.min() - start >= reach.context)
            assert stop == ends or (stop % reach.stride == 0 and stop - places.max() - 1 >= reach.context)
    assert (filled == missing).all()


def test_windows_are_no_larger_than_they_must_be() -> None:
    def areas(name: str) -> list[int]:
        return [window.area for window in find_windows(MASKS[name], Reach(32, 16))]

    assert sum(areas("two holes")) < 0.2 * MASKS["two holes"].size
    assert max(areas("long scratch")) <= LARGEST**2
    assert sum(areas("long scratch")) < 0.5 * MASKS["long scratch"].size
    assert areas("everything") == [64 * 64]
    assert find_windows(np.zeros((40, 50), dtype=np.bool_), Reach(8)) == []
    (thick,) = find_windows(MASKS["thick"], Reach(32, 16))
    assert thick.area < MASKS["thick"].size


@pytest.mark.parametrize("name", ["nothing to gain", "scattered"])
def test_small_images_are_computed_once_and_not_several_times_over(name: str) -> None:
    missing = np.random.default_rng(1).random((200, 300)) < 0.1
    (window,) = find_windows(missing, Reach(64, 16))
    assert window.sides == missing.shape
    assert (window.fills == missing).all()


@pytest.mark.parametrize("method", [name for name in LOCAL if name not in ("handover", "exact-score", "mmps")])
def test_samples_are_those_of_whole_images(method: str) -> None:
    """By the methods without solves, to the last bits: nothing else relates places to distant ones."""
    prior, op = Smoothing(Reach(20, 2)), Mask(known(), SHAPE)
    y = op(picture())
    parts, whole = (
        PosteriorSampler(prior, op, method=method, steps=4, windows=windows).run(y, num_samples=3, seed=5)
        for windows in ("auto", "off")
    )
    assert parts.options["windows"]["count"] == 2
    assert parts.options["windows"]["share"] < 0.7
    assert not isinstance(whole.options["windows"], dict)
    assert gap(parts.samples, whole.samples, ~known()) < TOLERANCE
    if method == "ddnm":  # With too little context they are not.
        near = PosteriorSampler(Smoothing(Reach(1, 2)), op, method=method, steps=4).run(y, num_samples=3, seed=5)
        assert gap(near.samples, whole.samples, ~known()) > TOLERANCE


class TestRun:
    op = Mask(known(), SHAPE)
    prior = Smoothing(Reach(20, 2))
    y = op(picture())

    def sampler(self, **settings: Any) -> PosteriorSampler:
        return PosteriorSampler(self.prior, self.op, **{"method": "ddnm", "steps": 4, **settings})

    def test_what_is_measured_stays_bit_by_bit(self) -> None:
        post = self.sampler().run(self.y, num_samples=3)
        assert torch.equal(post.samples[..., known()], self.y.expand(3, *self.y.shape)[..., known()])
        assert (post.residual == 0).all()
        assert post.std[..., ~known()].min() > 0
        assert post.samples.dtype == self.y.dtype

    def test_seeds_samples_items_and_chunks(self) -> None:
        post = self.sampler().run(self.y, num_samples=3, seed=1)
        missing = post.samples[..., ~known()]
        assert all(not torch.equal(missing[a], missing[b]) for a, b in itertools.combinations(range(3), 2))
        assert not torch.equal(missing, self.sampler().run(self.y, num_samples=3, seed=2).samples[..., ~known()])
        assert torch.equal(self.sampler().run(self.y, num_samples=2, seed=1, chunk=1).samples, post.samples[:2])
        first = self.sampler().run(self.y[:1], num_samples=3, seed=1)
        torch.testing.assert_close(first.samples, post.samples[:, :1])

    def test_the_measurement_decides(self) -> None:
        post, other = (self.sampler().run(y, num_samples=1, seed=1).samples[..., ~known()] for y in (self.y, -self.y))
        assert not torch.allclose(post, other, atol=0.05)

    def test_what_is_counted(self) -> None:
        post = self.sampler().run(self.y, num_samples=3)
        assert post.nfe == pytest.approx(4 * post.options["windows"]["share"], rel=1e-3)
        assert "computing in 2 windows" in self.sampler().notes[-1]
        assert all("window" not in note for note in self.sampler(windows="off").notes)

    def test_a_mask_for_every_item(self) -> None:
        other = known().flip(1)
        op = per_item([self.op, Mask(other, SHAPE)])
        y = op(picture())
        post = PosteriorSampler(self.prior, op, method="ddnm", steps=4).run(y, num_samples=2, seed=1)
        one = self.sampler().run(y[:1], num_samples=2, seed=1)
        torch.testing.assert_close(post.samples[:, :1], one.samples)
        assert torch.equal(post.samples[:, 1][..., other], y[1].expand(2, *SHAPE)[..., other])
        assert post.samples[:, 1][..., ~other].std(0).min() > 0

    def test_a_crop_is_continued(self) -> None:
        op = Crop((3, 96, 200), top=0, left=0, height=96, width=192)
        y = op(picture()[:1].repeat(1, 1, 1, 2)[..., :200])
        post = PosteriorSampler(self.prior, op, method="ddnm", steps=4).run(y, num_samples=2)
        assert post.options["windows"]["share"] < 0.2
        assert torch.equal(post.samples[..., :192], y.expand(2, *y.shape))
        assert post.std[..., 192:].min() > 0

    def test_callbacks_see_every_window_of_every_sample(self) -> None:
        seen: list[Step] = []
        post = self.sampler().run(self.y, num_samples=3, chunk=2, callback=seen.append)
        last = [step for step in seen if step.number == 4]
        assert Counter(row for step in last for row in step.rows) == Counter(2 * [*itertools.product(range(3), range(2))])
        for step in last:
            assert step.windows is not None
            for x, (k, b), window in zip(step.x_s, step.rows, step.windows, strict=True):
                assert isinstance(window, Window)
                fills = torch.from_numpy(window.fills)
                assert torch.equal(x[:, fills], post.samples[(k, b, ..., *window.box)][:, fills])

    def test_refuses_other_words(self) -> None:
        with pytest.raises(ValueError, match="windows must be one of auto, off"):
            self.sampler(windows="always")


@pytest.mark.parametrize(
    "why",
    ["noise", "prior without reach", "method", "mosaic", "nothing to gain"],
)
def test_otherwise_whole_images_are_computed(why: str) -> None:
    prior, op, method = Smoothing(Reach(20, 2)), Mask(known(), SHAPE), "ddnm"
    if why == "noise":
        op, method = Mask(known(), SHAPE, sigma_y=0.1), "ddrm"
    elif why == "prior without reach":
        prior = Smoothing()
    elif why == "method":
        method = "dps"
    elif why == "mosaic":
        op = Mosaic(SHAPE, "RGGB")  # type: ignore[assignment]
    else:
        op = Mask(torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5, SHAPE)
    post = PosteriorSampler(prior, op, method=method, steps=2)._run(op(picture()), num_samples=1)
    assert not isinstance(post.options["windows"], dict)


def test_adapters_look_as_far_as_their_prior() -> None:
    reach = Reach(20, 2)
    gray = Smoothing(reach)
    gray.event_shape = (1, None, None)
    assert Gray(Smoothing(reach)).reach == PerChannel(gray).reach == Rescaled(Smoothing(reach), (0, 1)).reach == reach
    assert Tiled(Smoothing(), tile=32).reach == Reach(16, least=32)
    assert Smoothing().reach is None
    with pytest.raises(ValueError, match="expected a context"):
        Reach(-1)


def test_the_bundled_prior_looks_a_few_of_its_coarsest_pixels_far() -> None:
    """By the method of fast quality, which has no statistics of the image besides: a hole in a corner of a small image."""
    prior, mask = load_prior("natural", precision="float32"), torch.ones(96, 96, dtype=torch.bool)
    assert prior.reach is not None
    assert prior.reach.stride == 16
    mask[:4, :4] = False
    ramp = torch.linspace(-0.5, 0.7, 96)
    x = 0.5 * (ramp + ramp[:, None]).expand(1, 3, 96, 96) + 0.05 * randn(1, 3, 96, 96, dtype=torch.float32)
    op = Mask(mask, (3, 96, 96))
    y = op(x)
    settings: dict[str, Any] = {"method": "exact-score", "rule": "ddpm", "steps": 5, "ratio_max": 80.0, "ratio_min": 0.01}
    parts, whole = (
        PosteriorSampler(prior, op, windows=windows, **settings).run(y, num_samples=2) for windows in ("auto", "off")
    )
    assert parts.options["windows"]["share"] < 0.5
    assert gap(parts.samples, whole.samples, ~mask) < TOLERANCE
