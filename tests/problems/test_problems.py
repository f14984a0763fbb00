"""Laws of every ready-made task: what the command line relies on, whatever the task measures."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import build, selected
from helpers import all_subclasses, randn
from PIL import Image
from torch.testing import assert_close

import invdiff
from invdiff.operators import ChannelMix, GaussianNoise, LinearOperator, Operator, RoundingNoise
from invdiff.problems import (
    PROBLEMS,
    ArrayProblem,
    Colorize,
    Declip,
    Defocus,
    Dejpeg,
    Demosaic,
    Dequantize,
    Inpaint,
    MotionDeblur,
    Outpaint,
    OwnOperator,
    Problem,
    ReconstructCT,
    ReconstructMRI,
    RetrievePhase,
    SuperResolution,
)

HEIGHT, WIDTH = 16, 24
COLOURED = (Colorize, Demosaic)  # whose images have three channels, and whose measurements one
ROUNDED = (Dequantize, Dejpeg)  # whose noise is rounding, never something else
GREY = (ReconstructMRI, ReconstructCT)  # which see no colours
EXACT = (Inpaint, Outpaint, Colorize, Demosaic, Declip)  # whose samples meet exact data exactly
CASES = [
    pytest.param(case, channels, id=f"{case.cls.name}-{case.index}-{channels}")
    for case in selected(Problem)
    for channels in ((3,) if case.cls in COLOURED else (1, 3))
]


def test_every_problem_is_in_the_table():
    assert set(PROBLEMS.values()) == set(all_subclasses(Problem))
    assert all(name == cls.name for name, cls in PROBLEMS.items())


def test_nothing_outside_depends_on_which_problem_it_is():
    """What differs from problem to problem is asked of the problem: no class of one is named, nor any name compared."""
    classes = {place.rpartition(":")[2] for place, _ in PROBLEMS.lines.values()}
    folder = Path(invdiff.__file__).parent
    paths = [path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] not in ("operators", "problems")]
    assert len(paths) > 50
    for path in paths:
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & classes, path
        compared = {
            constant.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant)
        }
        assert not compared & set(PROBLEMS), path


@pytest.mark.parametrize("cls", PROBLEMS.values(), ids=lambda cls: cls.name)
def test_facts(cls):
    assert PROBLEMS.summary(cls.name)
    assert not PROBLEMS.summary(cls.name).endswith(".")
    assert cls.needs
    assert not cls.recommended  # The prior and the operator tell.
    operators = {type(problem.operator(shape_of(problem, 3))).__name__ for problem in build(cls)}
    assert cls in (ReconstructMRI, RetrievePhase, OwnOperator) or operators <= set(cls.measures.split(", "))


def shape_of(problem, channels):
    """The shape of an image for it: its own, where it has one."""
    return channels, *(problem.size or (HEIGHT, WIDTH))


def noisy(problem, channels):
    """The operator in noise: of its own, where a problem takes no other."""
    return problem.operator(shape_of(problem, channels), noise=None if isinstance(problem, ROUNDED) else GaussianNoise(0.1))


@pytest.mark.parametrize(("problem", "channels"), CASES)
class TestProblem:
    def test_operator(self, problem, channels):
        op = noisy(problem, channels)
        assert isinstance(op, Operator)
        assert op.in_shape == shape_of(problem, channels)
        if not isinstance(problem, Dejpeg):  # which measures coefficients, to steps of their own
            assert op.sigma_y == (problem.step / 12**0.5 if isinstance(problem, Dequantize) else 0.1)
            assert op.out_shape[0] == (1 if isinstance(problem, COLOURED) else channels)

    def test_a_measurement_tells_the_shape_of_the_image(self, problem, channels):
        op = problem.operator(shape_of(problem, channels))
        assert problem.image_shape(op.out_shape) == op.in_shape

    def test_fit_gives_what_can_be_measured(self, problem, channels):
        x = randn(2, *shape_of(problem, channels))
        grey = ChannelMix.gray(x.shape[1:])(x) if channels == 3 and isinstance(problem, GREY) else x
        assert_close(problem.fit(x), grey, rtol=0, atol=0)
        if not isinstance(problem, Inpaint | ArrayProblem):  # whose mask or measurement has a size
            fitted = problem.fit(randn(2, channels, HEIGHT + 3, WIDTH + 1))
            op = problem.operator(tuple(fitted.shape[1:]))
            assert op(fitted).shape[1:] == op.out_shape

    def test_preview_is_a_picture_of_the_image_size(self, problem, channels):
        op = problem.operator(shape_of(problem, channels))
        x = randn(2, *op.in_shape)
        assert problem.preview(op(x)).shape == x.shape

    def test_finish_keeps_what_is_known_exactly(self, problem, channels):
        x, sample = randn(2, *shape_of(problem, channels), seed=1), randn(2, *shape_of(problem, channels), seed=2)
        before = sample.clone()
        exact = problem.operator(shape_of(problem, channels))
        y = exact.measure(x, seed=0)
        finished = problem.finish(sample, y, exact)
        if isinstance(problem, EXACT):
            # Values that are handed over come back bit by bit, sums of them up to rounding, ends of a range up to half a step.
            tolerance = {Colorize: 1e-12, Declip: 1 / 255}.get(type(problem), 0.0)
            assert_close(exact(finished), y, rtol=0, atol=tolerance)
        elif isinstance(problem, Dequantize):
            assert ((finished - y).abs() <= problem.step / 2 + 1e-12).all()
        elif isinstance(problem, Dejpeg):
            assert isinstance(exact, LinearOperator)
            if exact.closed_form:  # else blocks reach beyond the image, and their intervals are met nearly
                assert isinstance(exact.noise, RoundingNoise)
                assert ((exact(finished) - y).abs() <= exact.noise.step / 2 + 1e-12).all()
        else:
            assert_close(finished, sample, rtol=0, atol=0)
        if not isinstance(problem, ROUNDED):
            op = noisy(problem, channels)
            assert_close(problem.finish(sample, op(x), op), before, rtol=0, atol=0)
        assert_close(sample, before, rtol=0, atol=0)

    def test_finish_leaves_alone_what_fits_already(self, problem, channels):
        x = randn(2, *shape_of(problem, channels), seed=1)
        exact = problem.operator(shape_of(problem, channels))
        assert_close(problem.finish(x, exact.measure(x, seed=0), exact), x, rtol=0, atol=1e-12)


class TestFinish:
    """What is not known stays as it was sampled."""

    @pytest.mark.parametrize("problem", [*selected(Inpaint), *selected(Outpaint), *selected(Demosaic)], ids=str)
    def test_values_not_measured(self, problem):
        x, sample = randn(2, 3, HEIGHT, WIDTH, seed=1), randn(2, 3, HEIGHT, WIDTH, seed=2)
        op = problem.operator((3, HEIGHT, WIDTH))
        finished = problem.finish(sample, op(x), op)
        assert isinstance(op, LinearOperator)
        measured = op.adjoint(torch.ones_like(op(x))).bool()
        assert measured.any()
        assert_close(torch.where(measured, sample, finished), sample, rtol=0, atol=0)

    def test_colours_keep_their_differences(self):
        problem = Colorize()
        op = problem.operator((3, HEIGHT, WIDTH))
        sample = randn(2, 3, HEIGHT, WIDTH, seed=2)
        change = problem.finish(sample, op(randn(2, 3, HEIGHT, WIDTH, seed=1)), op) - sample
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=change.dtype).reshape(3, 1, 1)
        assert_close(change * weights.square().sum(), weights * (weights * change).sum(1, keepdim=True))  # along the weights

    def test_saturated_values_stay_beyond(self):
        problem = Declip(-0.5, 0.5)
        op = problem.operator((1, 1, 5))
        y = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.2]).reshape(1, 1, 1, 5)
        sample = torch.tensor([0.9, 0.1, -0.7, 0.3, 0.8]).reshape(1, 1, 1, 5)
        expected = torch.tensor([0.9, 0.5, -0.7, -0.5, 0.2]).reshape(1, 1, 1, 5)
        assert_close(problem.finish(sample, y, op), expected, rtol=0, atol=0)

    def test_an_end_between_two_values_of_a_file(self):
        # 0.79 of 255 is 201.45: a file holds 201 there, and that is saturated all the same.
        problem = Declip(-1.0, 2 * 0.79 - 1)
        op = problem.operator((1, 1, 2))
        y = torch.tensor([201 / 127.5 - 1, 200 / 127.5 - 1]).reshape(1, 1, 1, 2)
        sample = torch.full((1, 1, 1, 2), 0.95)
        assert_close(problem.finish(sample, y, op).flatten(), torch.stack([torch.tensor(0.95), y[0, 0, 0, 1]]))


def test_previews():
    y = torch.full((1, 1, 2, 2), 0.5)
    shown = Demosaic("GRBG").preview(y)[0]
    assert shown.argmax(0).tolist() == [[1, 0], [2, 1]]  # each in its own colour
    assert sorted(shown.unique().tolist()) == [-1, 0.5]
    assert_close(Outpaint(1).preview(y)[0, 0], torch.nn.functional.pad(y[0, 0], (1, 1, 1, 1)))
    assert Colorize().preview(y).shape == (1, 3, 2, 2)


def test_levels_are_those_of_files():
    op = Dequantize(4).operator((1, 1, 5))
    x = torch.tensor([-1.0, -0.7, 0.2, 0.6, 1.0]).reshape(1, 1, 1, 5)
    assert_close(255 * (op.measure(x, seed=0).flatten() + 1) / 2, torch.tensor([0.0, 0.0, 170.0, 170.0, 255.0]))


@pytest.mark.parametrize("mask", [torch.ones(4, 6), torch.zeros(4, 6)], ids=["all known", "all missing"])
def test_a_mask_must_leave_something_to_do(mask):
    with pytest.raises(ValueError, match="to fill"):
        Inpaint(mask)


class TestFractionalFactors:
    """Super-resolution by a factor that is no whole number."""

    @pytest.mark.parametrize("kernel", ["bicubic", "area"])
    @pytest.mark.parametrize("factor", [1.5, 2.5, 1.01, 3.3, 8 / 3])
    @pytest.mark.parametrize("side", [1, 7, 16, 101])
    def test_sizes(self, factor, kernel, side):
        problem = SuperResolution(factor, kernel=kernel)
        shape = problem.image_shape((3, side, 9))
        assert shape[1] == math.floor(factor * side + 0.5)
        op = problem.operator(shape)
        assert op.out_shape == (3, side, 9)
        assert_close(op(torch.ones(1, *shape)), torch.ones(1, *op.out_shape))
        assert problem.preview(torch.zeros(1, *op.out_shape)).shape == (1, *shape)
        assert problem.alpha_of(np.zeros((side, 9)), shape[1:]).shape == shape[1:]

    def test_it_is_what_pillow_makes(self):
        small, large = (40, 30), (60, 45)
        x = randn(1, 1, large[1], large[0]).float()
        expected = Image.fromarray(x[0, 0].numpy()).resize(small, Image.Resampling.BICUBIC)
        y = SuperResolution(1.5).operator((1, large[1], large[0]))(x)
        assert_close(y[0, 0], torch.from_numpy(np.array(expected)), atol=1e-5, rtol=0)

    def test_clean_pictures_are_cropped_to_a_size_that_can_be_measured(self):
        problem = SuperResolution(1.5)
        cropped = problem.fit(randn(1, 3, 47, 64))
        assert cropped.shape == (1, 3, 47, 63)  # 31 and 42 pixels: 46.5 rounds up
        assert problem.operator((3, 47, 63)).out_shape == (3, 31, 42)
        with pytest.raises(ValueError, match=r"cannot be downsampled by 1\.5"):
            problem.fit(randn(1, 3, 1, 9))

    def test_whole_numbers_keep_their_operator(self):
        assert type(SuperResolution(2.0).operator((3, 8, 8))) is type(SuperResolution(2).operator((3, 8, 8)))
        y = randn(1, 3, 4, 5)
        assert_close(SuperResolution(3).preview(y), y.repeat_interleave(3, -1).repeat_interleave(3, -2))

    def test_sizes_between_are_refused(self):
        with pytest.raises(ValueError, match=r"no picture of whole pixels becomes 9 x 10 when enlarged by 1\.5"):
            SuperResolution(1.5).operator((3, 10, 9))


def test_wrong_sizes():
    (inpaint,) = build(Inpaint)
    with pytest.raises(ValueError, match="mask is 24 x 16 pixels and the image 24 x 17"):
        inpaint.operator((3, HEIGHT + 1, WIDTH))
    with pytest.raises(ValueError, match="factor must be a positive divisor"):
        SuperResolution(5).operator((3, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="cannot be downsampled by 17"):
        SuperResolution(17).fit(randn(1, 3, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="above 1 and at most 1000000, got 1"):
        SuperResolution(1)
    with pytest.raises(ValueError, match="larger than the image"):
        build(PROBLEMS["deblur"])[0].operator((3, 4, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Demosaic("RGBG"), "unknown pattern 'RGBG', expected one of RGGB"),
        (lambda: Demosaic("RGGB").fit(randn(1, 1, 4, 4)), "clean picture has 1 channels"),
        (lambda: Demosaic("RGGB").image_shape((3, 4, 4)), "mosaic has 3 channels, expected one"),
        (lambda: Colorize().fit(randn(1, 1, 4, 4)), "clean picture has 1 channels"),
        (lambda: Colorize().image_shape((3, 4, 4)), "has 3 channels, expected a grayscale one"),
        (lambda: Defocus(0.0), "radius must be positive"),
        (lambda: Defocus(float("nan")), "radius must be positive"),
        (lambda: Defocus(1e9).operator((3, 16, 24)), "larger than the image, 24 x 16"),
        (lambda: MotionDeblur(4, 0.0), "length must be odd"),
        (lambda: MotionDeblur(10**9 + 1, 0.0).operator((3, 16, 24)), "larger than the image, 24 x 16"),
        (lambda: Outpaint(0), "margin must be at least 1"),
        (lambda: Outpaint(8).operator((3, 16, 24)), "leave nothing of an image of 24 x 16"),
        (lambda: Declip(0.5, 0.5), "low must be below high"),
        (lambda: Declip(-math.inf, math.inf), "one of them finite"),
        (lambda: Dequantize(1), "at least 2, got 1"),
        (lambda: Dequantize(8).operator((3, 16, 24), noise=GaussianNoise(0.1)), "rounding is the only noise"),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
