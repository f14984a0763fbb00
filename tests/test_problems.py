"""Laws of every ready-made task: what the command line relies on, whatever the task measures."""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers import all_subclasses, randn
from torch.testing import assert_close

from invdiff.cli.methods import options_of
from invdiff.methods import METHODS
from invdiff.operators import Operator
from invdiff.posterior import PosteriorSampler
from invdiff.problems import PROBLEMS, Inpaint, Problem, SuperResolution

HEIGHT, WIDTH = 16, 24
EXAMPLES = [
    pytest.param(problem, id=f"{cls.name}-{k}") for cls in PROBLEMS.values() for k, problem in enumerate(cls.examples())
]


def test_every_problem_is_in_the_table():
    assert set(PROBLEMS.values()) == set(all_subclasses(Problem))
    assert all(name == cls.name for name, cls in PROBLEMS.items())


@pytest.mark.parametrize("cls", PROBLEMS.values(), ids=lambda cls: cls.name)
def test_facts(cls):
    assert cls.summary
    assert not cls.summary.endswith(".")
    assert all(option.startswith("--") for option in cls.needs)
    arguments = set(inspect.signature(PosteriorSampler).parameters) - {"score", "op"}
    assert set(cls.recommended) <= arguments | set(options_of(METHODS["mmps"]))
    assert cls.examples()


@pytest.mark.parametrize("problem", EXAMPLES)
@pytest.mark.parametrize("channels", [1, 3])
class TestProblem:
    def test_operator(self, problem, channels):
        op = problem.operator((channels, HEIGHT, WIDTH), sigma_y=0.1)
        assert isinstance(op, Operator)
        assert (op.in_shape, op.sigma_y) == ((channels, HEIGHT, WIDTH), 0.1)

    def test_a_measurement_tells_the_shape_of_the_image(self, problem, channels):
        op = problem.operator((channels, HEIGHT, WIDTH), sigma_y=0.0)
        assert problem.image_shape(op.out_shape) == op.in_shape

    def test_fit_gives_what_can_be_measured(self, problem, channels):
        x = randn(2, channels, HEIGHT, WIDTH)
        assert_close(problem.fit(x), x, rtol=0, atol=0)
        if not isinstance(problem, Inpaint):  # whose mask has a size
            fitted = problem.fit(randn(2, channels, HEIGHT + 3, WIDTH + 1))
            op = problem.operator(tuple(fitted.shape[1:]), sigma_y=0.0)
            assert op(fitted).shape[1:] == op.out_shape

    def test_preview_is_a_picture_of_the_image_size(self, problem, channels):
        op = problem.operator((channels, HEIGHT, WIDTH), sigma_y=0.0)
        x = randn(2, *op.in_shape)
        assert problem.preview(op(x)).shape == x.shape

    def test_finish_keeps_what_is_known_exactly(self, problem, channels):
        x, sample = randn(2, channels, HEIGHT, WIDTH, seed=1), randn(2, channels, HEIGHT, WIDTH, seed=2)
        before = sample.clone()
        exact = problem.operator((channels, HEIGHT, WIDTH), sigma_y=0.0)
        finished = problem.finish(sample, exact(x), exact)
        if isinstance(problem, Inpaint):
            assert_close(exact(finished), exact(x), rtol=0, atol=0)
            assert_close(finished - exact(finished), sample - exact(sample), rtol=0, atol=0)  # the rest stays as it was
        else:
            assert_close(finished, sample, rtol=0, atol=0)
        noisy = problem.operator((channels, HEIGHT, WIDTH), sigma_y=0.1)
        assert_close(problem.finish(sample, noisy(x), noisy), before, rtol=0, atol=0)
        assert_close(sample, before, rtol=0, atol=0)


@pytest.mark.parametrize("mask", [torch.ones(4, 6), torch.zeros(4, 6)], ids=["all known", "all missing"])
def test_a_mask_must_leave_something_to_do(mask):
    with pytest.raises(ValueError, match="to fill"):
        Inpaint(mask)


def test_wrong_sizes():
    (inpaint,) = Inpaint.examples()
    with pytest.raises(ValueError, match="mask is 24 x 16 pixels and the image 24 x 17"):
        inpaint.operator((3, HEIGHT + 1, WIDTH), sigma_y=0.0)
    with pytest.raises(ValueError, match="factor must be a positive divisor"):
        SuperResolution(5).operator((3, HEIGHT, WIDTH), sigma_y=0.0)
    with pytest.raises(ValueError, match="cannot be scaled down by 17"):
        SuperResolution(17).fit(randn(1, 3, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        SuperResolution(1)
    with pytest.raises(ValueError, match="larger than the image"):
        PROBLEMS["deblur"].examples()[0].operator((3, 4, 4), sigma_y=0.0)
