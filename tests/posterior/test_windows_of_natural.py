"""The default method for photographs in a window, against the same with a network that sees the whole picture."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from skimage import data
from skimage.draw import line
from torch import Tensor

from invdiff import PosteriorSampler, load_prior
from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance import ConditionalDenoiser
from invdiff.methods.resolve import ResolvedMethod
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators import Mask
from invdiff.operators.core.svd import CoordinateSVD
from invdiff.posterior import Step, Window
from invdiff.priors import ScoreModel
from invdiff.random import Draws, PlacedNoise, Streams

pytestmark = pytest.mark.slow

SIZE = (3, 160, 160)
# dB: difference at the missing pixels, relative to the spread of the samples. It is -40 on average, -37 to -42 in eight runs.
TOLERANCE = -35.0


class InPicture(ScoreModel):
    """A prior of a window that evaluates the network on the whole picture, of which the rest is given."""

    def __init__(self, score: ScoreModel, y: Tensor, window: Window) -> None:
        self.inner, self.y, self.window = score, y, window
        self.schedule, self.event_shape, self.noise_kinds = score.schedule, score.event_shape, score.noise_kinds
        self.error_model, self.state = score.error_model, y

    def placed(self, part: Tensor, rest: Tensor) -> Tensor:
        """Return ``rest`` with the window ``part`` in its place."""
        (top, left), (height, width) = self.window.corner, self.window.sides
        margins = (left, SIZE[2] - left - width, top, SIZE[1] - top - height)
        return torch.where(F.pad(torch.ones(height, width, dtype=torch.bool), margins), F.pad(part, margins), rest)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner.denoise(self.placed(x_t, self.state), t)[(..., *self.window.box)]

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        levels = self.placed(cov.levels, torch.zeros(1, *SIZE))
        whole = NoiseCovariance(CoordinateSVD(levels[0], SIZE), levels)
        return self.inner.denoise_pivot(self.placed(mu, self.y), whole)[(..., *self.window.box)]


@torch.no_grad()
def with_the_whole_picture(score: ScoreModel, plan: ResolvedMethod, op: Mask, y: Tensor, window: Window, count: int) -> Tensor:
    """Return samples in a window: the network sees the whole picture, and the estimate is ``y`` outside of the window."""
    prior, rows = InPicture(score, y, window), range(count)
    inside = y[(..., *window.box)].expand(count, -1, -1, -1)
    guidance = plan.algorithm(prior, Mask(op.mask[(..., *window.box)]), inside)
    assert isinstance(guidance, ConditionalDenoiser)
    assert plan.rule is not None
    places = [PlacedNoise(0, 0, k, corner=window.corner, sides=window.sides) for k in rows]
    streams = Streams(places)
    whole = [PlacedNoise(0, 0, k, sides=SIZE[1:]) for k in rows]  # type: ignore[arg-type]

    def noise() -> Tensor:  # of the picture, which the window has as well
        streams.normal((3, *window.sides))
        return torch.stack([source.normal(SIZE) for source in whole])

    x_t = float(score.schedule(plan.times[0])[1]) * noise()
    for t, s in itertools.pairwise(plan.times):
        fresh, draw = noise(), Draws(streams, y.dtype)
        prior.state = x_t
        at = guidance.at(x_t[(..., *window.box)], t)
        before = places[0].draws
        x_0 = prior.placed(guidance.posterior_draw(at, draw), y)
        for source in whole:
            source.draws += places[0].draws - before
        x_t = plan.rule(lambda _, x_0=x_0: x_0, Denoised(score, x_t, t), s, fresh)  # type: ignore[misc]
    return x_t[(..., *window.box)]


def test_a_window_is_as_good_as_the_whole_picture() -> None:
    """For a scratch of three pixels across a photograph."""
    prior, mask = load_prior("natural", precision="float32"), torch.ones(SIZE[1:], dtype=torch.bool)
    rows, columns = line(68, 66, 92, 94)
    for shift in range(3):
        mask[rows + shift, columns] = False
    photograph = torch.from_numpy(data.chelsea()[40:200, 120:280] / 127.5 - 1).permute(2, 0, 1).float()[None]
    y = (op := Mask(mask, SIZE))(photograph)
    sampler = PosteriorSampler(prior, op, method="handover", rule="matched", steps=8, ratio_max=80.0, ratio_min=0.01)
    seen: list[Step] = []
    post = sampler.run(y, num_samples=2, callback=seen.append)
    assert seen[-1].windows is not None
    window = seen[-1].windows[0]
    assert window.area < 0.7 * mask.numel()
    whole = with_the_whole_picture(prior, sampler.plan(2), op, y, window, 2)[..., torch.from_numpy(window.fills)]
    parts = post.samples[:, 0, :, ~mask]
    difference, spread = (parts - whole).square().mean().sqrt(), whole.std(0).square().mean().sqrt()
    assert 20 * math.log10(float(difference / spread)) < TOLERANCE
