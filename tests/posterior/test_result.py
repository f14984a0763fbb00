"""What a result and its sampler say of themselves, in a terminal and in a notebook; and chi-square."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import pytest
import torch
from cases import build
from helpers import norm, randn
from latent_problem import decoded_for
from PIL import Image
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.methods import METHODS, RULES
from invdiff.methods.guidance import DPS, Handover
from invdiff.methods.options import options_of
from invdiff.methods.particles import TDS
from invdiff.methods.samplers import DAPS
from invdiff.operators import GaussianNoise, Mask, Matrix
from invdiff.posterior import chi_square
from invdiff.priors import Gaussian


def posterior(*shape: int, **facts: Any) -> Posterior:
    weights = torch.full(shape[:2], 1 / shape[0], dtype=torch.float64)
    defaults: dict[str, Any] = {"nfe": 32.0, "nvjp": 12.5, "seconds": 15.63, "method": "handover"} | facts
    return Posterior(randn(*shape), weights, weights, 3, seed=0, options={"steps": 20}, **defaults)


def test_summary() -> None:
    expected = "Posterior(8 samples of 1 x 3 x 16 x 16 by 'handover', 20 steps, 32 evaluations, 12.5 gradients, 15.6 s)"
    assert repr(posterior(8, 1, 3, 16, 16)) == expected
    assert len(repr(posterior(8, 1, 3, 256, 256))) < 120  # No tensors are printed.


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_notebooks_show_mean_and_standard_deviation(channels: int, mode: str) -> None:
    post = posterior(5, 2, channels, 200, 150)
    html = post._repr_html_()
    assert repr(post).replace("'", "&#x27;") in html
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 2
    for b, text in enumerate(pictures):
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
        assert (picture.mode, picture.size) == (mode, (2 * 150 + 4, 200))
        pixels = torch.tensor(list(picture.tobytes()), dtype=torch.float64).reshape(200, 304, channels).permute(2, 0, 1) / 255
        assert_close(pixels[..., :150], ((post.mean[b] + 1) / 2).clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)
        assert_close(pixels[..., -150:], post.std[b] / post.std[b].max(), rtol=0, atol=0.5 / 255 + 1e-6)
    assert "standard deviation, white is" in html


def test_notebooks_show_small_images_enlarged_and_one_sample_without_a_deviation() -> None:
    (text,) = re.findall(r'base64,([^"]+)"', posterior(1, 1, 3, 16, 16)._repr_html_())
    assert Image.open(io.BytesIO(base64.b64decode(text))).size == (128, 128)


@pytest.mark.parametrize("shape", [(5, 2, 4), (5, 2, 2, 8, 8), (5, 2, 8, 8)])
def test_what_is_no_picture_is_not_shown(shape: tuple[int, ...]) -> None:
    post = posterior(*shape)
    assert "<img" not in post._repr_html_()
    assert "5 samples" in post._repr_html_()


PRIOR, OP = build(Gaussian)[0], Matrix(randn(3, 6, seed=9), sigma_y=0.2)
Y = torch.zeros(1, 3, dtype=torch.float64)


def test_samplers_say_what_they_are_made_of() -> None:
    text = repr(PosteriorSampler(PRIOR, OP, method="dps", steps=7, zeta=0.3))
    assert re.fullmatch(r"PosteriorSampler\(Gaussian.*, Matrix.*, method='dps', steps=7, zeta=0\.3\)", text), text
    assert "method='auto'" in repr(PosteriorSampler(PRIOR, OP))
    assert "method='mine'" in repr(PosteriorSampler(PRIOR, OP, method=METHODS.adopt("mine", DPS)))
    assert "method='DPS'" in repr(PosteriorSampler(PRIOR, OP, method=DPS))


def test_algorithms_and_rules_say_their_options() -> None:
    assert repr(DPS(PRIOR, OP, Y, zeta=0.5)) == "DPS(zeta=0.5)"
    assert repr(DAPS(PRIOR, OP, Y, ode_steps=3)) == "DAPS(ode_steps=3, langevin_steps=100, tau=0.0)"
    assert repr(TDS(PRIOR, OP, Y, particles=4)) == "TDS(particles=4, weighted=False, widening=1.0)"
    assert [repr(rule) for rule in RULES.values()] == ["DDIM(eta=1)", "DDIM(eta=0)", "Heun()", "Matched()"]
    assert repr(Handover(PRIOR, OP, Y, ratio=2.0)).startswith("Handover(ratio=2.0, rounds=1")


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_an_algorithm_is_in_its_repr(name: str) -> None:
    method = METHODS[name]
    op: Any = OP
    if "exact" in method.needs:
        op = Matrix(OP.matrix)
    if {"mask", "inpainting"} & set(method.needs):
        op = Mask(torch.tensor([1, 0, 1, 0, 1, 0]))
    op = decoded_for(name, op)
    algorithm = method.algorithm(PRIOR, op, torch.zeros(1, *op.out_shape, dtype=torch.float64), **method.options)
    passed_on = options_of(method.algorithm.passes_options_to) if method.algorithm.passes_options_to else {}
    for option, parameter in options_of(method.algorithm).items() - passed_on.items():
        assert f"{option}={parameter.default!r}" in repr(algorithm)


def test_chi_square_weighs_every_number_by_its_noise() -> None:
    x, y = randn(4, 6, seed=1), randn(4, 3, seed=2)
    assert_close(chi_square(OP, x, y), norm(y - OP(x)) ** 2 / 0.04)
    assert_close(chi_square(Matrix(OP.matrix), x, y), norm(y - OP(x)) ** 2)
    levels = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    uneven = Matrix(OP.matrix, noise=GaussianNoise(levels))
    assert_close(chi_square(uneven, x, y), (((y - OP(x)) / levels) ** 2).sum(1))
