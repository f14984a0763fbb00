"""Noise that differs between the entries of y: a map of fewer axes is that map repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import (
    Blur,
    Function,
    GaussianNoise,
    Identity,
    Mask,
    Noise,
    Operator,
    RoundingNoise,
    gaussian_kernel,
    per_item,
    random_mask,
    stack,
    whiten,
)
from invdiff.operators.noise.tempered import TemperedNoise, temper
from invdiff.priors import Gaussian

SHAPE = (3, 16, 16)  # Over 512 entries, so that systems are solved iteratively.
FEWER = {"one": (1,), "row": (16,), "column": (16, 1), "image": (16, 16), "channels": (3, 1, 1), "one of each": (1, 1, 1)}
PRIOR = Gaussian(torch.zeros(SHAPE), torch.full(SHAPE, 0.5))


def build(kind: str, noise: Noise) -> Operator:
    mask = random_mask(16, 16, missing=0.5, seed=0)
    match kind:
        case "mask":
            return Mask(mask, SHAPE, noise=noise)
        case "blur":
            return Blur(SHAPE, gaussian_kernel(1.0), noise=noise)
        case "iterative":
            return Identity(SHAPE, noise=noise) @ Function(torch.tanh, SHAPE)
        case "masked blur":
            return Mask(mask, SHAPE, noise=noise) @ Blur(SHAPE, gaussian_kernel(1.0))
        case _:
            return per_item([Mask(mask, SHAPE, noise=noise), Mask(~torch.as_tensor(mask).bool(), SHAPE, noise=noise)])


KINDS = ("mask", "blur", "iterative", "masked blur", "per item")


def drawn(op: Operator, method: str) -> Tensor:
    y = op.measure(PRIOR.sample(2, seed=0), seed=1)
    return PosteriorSampler(PRIOR, op, method=method, steps=2).run(y.double()).samples


def refused(op: Operator, method: str) -> str:
    try:
        PosteriorSampler(PRIOR, op, method=method, steps=2)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", FEWER.values(), ids=FEWER)
def test_a_map_of_fewer_axes_is_the_map_repeated(shape: tuple[int, ...], kind: str) -> None:
    levels = 0.05 + 0.1 * randn(*shape, dtype=torch.float32).abs()
    few, full = (build(kind, GaussianNoise(map_)) for map_ in (levels, levels.expand(SHAPE)))
    for method in ("mmps", "daps"):
        assert_close(drawn(few, method), drawn(full, method), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # few steps
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("repaint", "snips")])
def test_every_method_takes_a_map_of_the_image(method: str) -> None:
    op = build("mask", GaussianNoise(torch.full((16, 16), 0.05)))
    if reason := refused(op, method):
        assert "needs" in reason or "dimension must be at most" in reason
    else:
        assert drawn(op, method).isfinite().all()


@pytest.mark.parametrize("shape", FEWER.values(), ids=FEWER)
def test_steps_of_rounding_of_fewer_axes(shape: tuple[int, ...]) -> None:
    steps = 0.05 + 0.1 * randn(*shape, dtype=torch.float32).abs()
    few, full = (build("mask", RoundingNoise(map_, offset=-1.0)) for map_ in (steps, steps.expand(SHAPE)))
    assert_close(drawn(few, "mmps"), drawn(full, "mmps"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", FEWER.values(), ids=FEWER)
def test_a_map_is_white_after_whitening(shape: tuple[int, ...]) -> None:
    levels, x = 0.05 + randn(*shape).abs(), randn(1, *SHAPE)
    for kind in KINDS[:-1]:
        op = build(kind, GaussianNoise(levels))
        assert torch.allclose(whiten(op)(x), op(x) / levels)


@pytest.mark.parametrize("shape", FEWER.values(), ids=FEWER)
def test_maps_are_joined_scaled_added_and_tempered(shape: tuple[int, ...]) -> None:
    levels = 0.05 + randn(*shape).abs()
    one, full = Identity(SHAPE, noise=GaussianNoise(levels)), levels.expand(SHAPE)

    def deviations(noise: Noise) -> Tensor:
        assert isinstance(noise, GaussianNoise)
        assert noise.deviations is not None
        return noise.deviations

    assert torch.equal(deviations(stack([one, one]).noise), torch.cat([full.flatten()] * 2))
    assert torch.equal(deviations((2 * one).noise).expand(SHAPE), 2 * full)
    assert torch.allclose(deviations((one + one).noise).expand(SHAPE), 2**0.5 * full)
    assert torch.allclose(deviations(temper(one.noise, 4)).expand(SHAPE), 2 * full)


@pytest.mark.parametrize("noise", [GaussianNoise, lambda value: RoundingNoise(value, offset=0.0)], ids=["gaussian", "rounding"])
class TestRefused:
    @pytest.mark.parametrize("value", [-0.1, 0.0, float("nan"), float("inf")])
    def test_values(self, noise: Any, value: float) -> None:
        with pytest.raises(ValueError, match=r"positive and finite|finite step > 0"):
            noise(torch.tensor([[0.1, value]]))

    @pytest.mark.parametrize(
        "value",
        ["0.1", None, [0.1, 0.2], True, 1j, torch.ones(2, dtype=torch.complex64), torch.ones(2).bool(), np.array(["a"])],
    )
    def test_kinds(self, noise: Any, value: Any) -> None:
        with pytest.raises(TypeError, match="must be a real number, or a tensor of real numbers"):
            noise(value)

    def test_nothing(self, noise: Any) -> None:
        with pytest.raises(ValueError, match="must not be empty"):
            noise(torch.ones(0, 3))

    @pytest.mark.parametrize("shape", [(15, 16), (16, 1, 1), (1, 3, 16, 16), (2, 3, 16, 16)])
    def test_shapes(self, noise: Any, shape: tuple[int, ...]) -> None:
        op, batched = Identity(SHAPE, noise=noise(torch.ones(shape))), " Leave out the batch axis." * (shape[1:] == SHAPE)
        for use in (lambda: op.measure(torch.zeros(1, *SHAPE), seed=0), lambda: PosteriorSampler(PRIOR, op)):
            with pytest.raises(ValueError, match=rf"does not broadcast to measurements of shape \(3, 16, 16\).*{batched}$"):
                use()


def test_arrays_integers_and_graphs_are_taken_as_numbers() -> None:
    steps = np.array([[0.25, 0.5]])
    assert RoundingNoise(steps[:, ::-1], offset=steps).shape == (1, 2)
    levels = torch.ones(3, requires_grad=True)
    for noise in (
        GaussianNoise(np.ones(3, dtype=">f8")),
        GaussianNoise(torch.ones(3, dtype=torch.int64)),
        GaussianNoise(levels),
    ):
        assert noise.deviations is not None
        assert (noise.deviations.is_floating_point(), noise.deviations.requires_grad, noise.sigma) == (True, False, 1.0)
    assert GaussianNoise(torch.tensor(0.5)).white


def test_a_tempered_map_is_held_to_its_shape() -> None:
    op = Identity(SHAPE, noise=TemperedNoise(RoundingNoise(torch.ones(5), offset=0.0), 3))
    with pytest.raises(ValueError, match="does not broadcast"):
        op.measure(torch.zeros(1, *SHAPE), seed=0)
