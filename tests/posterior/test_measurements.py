"""What is given as y, or to ``measure``: kinds, shapes and ranges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.operators import (
    MRI,
    Affine,
    Blur,
    CodedDiffraction,
    Crop,
    Downsample,
    FiniteDifferences,
    FourierMask,
    Function,
    Hadamard,
    Identity,
    LaplaceNoise,
    Mask,
    Operator,
    ParallelBeamCT,
    PoissonNoise,
    gaussian_kernel,
    per_item,
    random_mask,
    stack,
)
from invdiff.posterior import MisfitWarning
from invdiff.priors import Gaussian

SHAPE = (1, 16, 16)
PRIOR = Gaussian(torch.zeros(SHAPE), torch.full(SHAPE, 0.2))
OP = Identity(SHAPE, sigma_y=0.1)
Y = OP.measure(PRIOR.sample(2, seed=0), seed=1)
SAMPLER = PosteriorSampler(PRIOR, OP, method="mmps", steps=2)
RUN, MEASURE, CALL = SAMPLER.run, lambda x: OP.measure(x, seed=0), OP

PIXELS = (128 + 127 * randn(2, *SHAPE).clamp(-1, 1)).round()


@pytest.mark.parametrize("use", [RUN, MEASURE, CALL], ids=["run", "measure", "call"])
class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "advice"),
        [
            (torch.uint8, r"x / 127\.5 - 1 for pixels from 0 to 255"),
            (torch.int16, r"x / 16383\.5 - 1 for pixels from 0 to 32767"),
            (torch.uint16, r"x / 32767\.5 - 1 for pixels from 0 to 65535"),
            (torch.int64, r"x\.float\(\) for other numbers"),
            (torch.bool, r"2\.0 \* x - 1"),
        ],
    )
    def test_other_numbers(self, use: Callable[[Tensor], Any], kind: torch.dtype, advice: str) -> None:
        with pytest.raises(TypeError, match=rf"must hold floating-point numbers, got {kind}\. .*{advice}"):
            use(PIXELS.to(torch.int64).to(kind))

    def test_complex_numbers(self, use: Callable[[Tensor], Any]) -> None:
        with pytest.raises(ValueError, match=r"must be real, got torch\.complex64\. .*torch\.view_as_real"):
            use(PIXELS.to(torch.complex64))

    def test_the_batch_axis(self, use: Callable[[Tensor], Any]) -> None:
        with pytest.raises(ValueError, match=r"\(B, 1, 16, 16\), got \(1, 16, 16\)\. Add the batch axis: [xy]\[None\]"):
            use(Y[0])

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_every_float_is_taken(self, use: Callable[[Tensor], Any], kind: torch.dtype) -> None:
        use(Y.to(kind))

    def test_a_graph_is_left_behind(self, use: Callable[[Tensor], Any]) -> None:
        use(Y.clone().requires_grad_())


@pytest.mark.parametrize("use", [RUN, MEASURE], ids=["run", "measure"])
@pytest.mark.parametrize("value", [Y.numpy(), Y.tolist(), "y", None, 0.5, np.float32(1)], ids=lambda v: type(v).__name__)
def test_no_tensor(use: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(TypeError, match=rf"must be a tensor, got {type(value).__name__}\. Convert it: torch\.as_tensor"):
        use(value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    y = Y.clone()
    y[1, 0, 3, 4] = bad
    with pytest.raises(
        ValueError, match=r"run: y must be finite, got 1 NaN or infinite values of 512\. A Mask leaves them out"
    ):
        SAMPLER.run(y)
    mask = torch.ones(SHAPE)
    mask[0, 3, 4] = 0
    post = PosteriorSampler(PRIOR, Mask(mask, sigma_y=0.1), method="mmps", steps=2).run(y)
    assert post.samples.isfinite().all()


def test_results_have_no_graph() -> None:
    post = SAMPLER.run(Y.clone().requires_grad_())
    assert not any(value.requires_grad for value in (post.samples, post.residual, post.mean, post.weights))


def operators(shape: tuple[int, int, int]) -> dict[str, Operator]:
    mask = random_mask(shape[1], shape[2], missing=0.9, seed=0)
    return {
        "denoise": Identity(shape, sigma_y=0.05),
        "mask": Mask(mask, shape, sigma_y=0.05),
        "one pixel": Crop(shape, top=3, left=3, height=1, width=1, sigma_y=0.05),
        "blur": Blur(shape, gaussian_kernel(1.0), sigma_y=0.05),
        "downsample": Downsample(shape, 4, sigma_y=0.05),
        "differences": FiniteDifferences(shape, sigma_y=0.05),
        "frequencies": FourierMask(shape, mask, sigma_y=0.05),
        "hadamard": Hadamard(shape, torch.arange(0, 256, 5), sigma_y=0.05),
        "tomography": ParallelBeamCT(shape, torch.linspace(0, 3, 8), sigma_y=0.05),
        "per item": per_item([Mask(mask, shape, sigma_y=0.05), Blur(shape, gaussian_kernel(1.0), sigma_y=0.05)]),
        "two": stack([Identity(shape, sigma_y=0.05), Downsample(shape, 2, sigma_y=0.1)]),
        "gray levels": Identity(shape, sigma_y=2.0) @ Affine(shape, 127.5, 127.5),
        "function": Function(lambda x: torch.tanh(3 * x), shape, sigma_y=0.05),
        "photons": Identity(shape, noise=PoissonNoise(0.02, offset=-1.0)),
        "outliers": Identity(shape, noise=LaplaceNoise(2.0)),
        "loud": Identity(shape, sigma_y=30.0),
        "phase": CodedDiffraction(shape, torch.tensor([1.0, -1.0]).repeat(2, 128).reshape(2, 16, 16), sigma_y=0.05),
    }


IMAGE = torch.linspace(-1, 1, 16).outer(torch.linspace(0.2, 1, 16)).expand(2, 1, 16, 16)
LINEAR = (
    "denoise",
    "mask",
    "one pixel",
    "blur",
    "downsample",
    "differences",
    "frequencies",
    "hadamard",
    "tomography",
    "per item",
)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps, and data out of range
class TestRange:
    @pytest.mark.parametrize("name", operators(SHAPE))
    def test_measured_images_give_no_warning(self, name: str) -> None:
        op = operators(SHAPE)[name]
        for image in (IMAGE, -IMAGE, IMAGE.sign(), torch.ones_like(IMAGE), 1.3 * IMAGE, 0 * IMAGE):
            y = op.measure(image, seed=0)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", MisfitWarning)  # one step that ignores the data
                PosteriorSampler(PRIOR, op, method="unconditional", steps=1).run(y)

    @pytest.mark.parametrize("white", [255, 4095, 65535])
    @pytest.mark.parametrize("name", LINEAR)
    def test_pixels_give_one(self, name: str, white: int) -> None:
        op = operators(SHAPE)[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = op.measure((IMAGE + 1) / 2 * white, seed=0)
        with pytest.warns(UserWarning, match=r"run: y is [\d.e+]+ times as large as measurements of images in \[-1, 1\]"):
            PosteriorSampler(PRIOR, op, method="unconditional", steps=1).run(y)

    def test_the_range_of_the_prior_counts(self) -> None:
        wide = Gaussian(torch.full(SHAPE, 100.0), torch.full(SHAPE, 100.0))
        PosteriorSampler(wide, OP, method="unconditional", steps=1).run(OP(100 + 10 * randn(1, *SHAPE)))

    def test_items_that_are_no_images_may_have_any_size(self) -> None:
        op, prior = Identity((4,), sigma_y=0.1), Gaussian(torch.zeros(4), torch.eye(4))
        PosteriorSampler(prior, op, method="unconditional", steps=1).run(torch.full((1, 4), 1e4))

    def test_measure_warns_of_pixels(self) -> None:
        with pytest.warns(UserWarning, match=r"Identity\.measure: x has values from .* look like pixels.* x / 127\.5 - 1"):
            OP.measure(PIXELS, seed=0)
        for x in (PIXELS / 255, PIXELS / 127.5 - 1, 100 * randn(1, *SHAPE)):
            OP.measure(x, seed=0)

    def test_complex_images_are_no_pixels(self) -> None:
        op = MRI((2, 16, 16), torch.ones(16, 16), sigma_y=0.1)
        op.measure(randn(1, 2, 16, 16), seed=0)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
def test_the_warning_points_at_the_caller() -> None:
    for use in (lambda: SAMPLER.run(PIXELS), lambda: OP.measure(PIXELS, seed=0)):
        with pytest.warns(UserWarning, match="as large as|look like") as caught:
            use()
        assert caught[0].filename == __file__
