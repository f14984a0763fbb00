"""Conformal widths: the promised coverage on new images, whatever is wrong with the samples and however few the images."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import randn
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from invdiff.diagnostics import deviations, exact_width, images_needed, marginal_width, width_per_image

pytestmark = pytest.mark.slow


def images(count: int, *, seed: int, factor: float = 1.0, samples: int = 6) -> list[Tensor]:
    """Deviations of images of 40 correlated values, each as hard as it likes, of samples with ``factor`` times the spread."""
    hard = (0.5 * randn(count, 1, seed=seed)).exp()
    shared = randn(count, 1, seed=seed + 1)
    truth = hard * (0.7 * shared + 0.7 * randn(count, 40, seed=seed + 2))
    drawn = factor * randn(samples, count, 40, seed=seed + 3)
    return deviations(truth, drawn)


def beyond(scores: list[Tensor], width: float) -> float:
    return float(torch.stack([(part > width).double().mean() for part in scores]).mean())


class TestDeviations:
    def test_by_hand(self) -> None:
        truth = torch.tensor([[1.0, 5.0, 2.0]])
        samples = torch.tensor([[[0.0, 5.0, 1.0]], [[4.0, 5.0, 1.0]]])
        (found,) = deviations(truth, samples)
        assert_close(found, torch.tensor([1 / 8**0.5, 0.0, math.inf]).double())
        (found,) = deviations(truth, samples, known=torch.tensor([[False, False, True]]))
        assert found.tolist() == pytest.approx([1 / 8**0.5, 0.0])

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="two samples or more"):
            deviations(torch.zeros(2, 3), torch.zeros(1, 2, 3))
        with pytest.raises(ValueError, match="finite"):
            deviations(torch.full((2, 3), math.nan), torch.zeros(2, 2, 3))


class TestMarginal:
    @pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
    @pytest.mark.parametrize(("level", "count"), [(0.9, 9), (0.9, 40), (0.5, 5), (0.95, 19)])
    def test_new_images_are_covered_in_expectation(self, level: float, count: int, factor: float) -> None:
        """Over many sets of images: no more is missed than promised, and not far less where there are many images."""
        trials, every = 200, images(200 * (count + 1), seed=10, factor=factor)
        missed = []
        for k in range(trials):
            part = every[k * (count + 1) : (k + 1) * (count + 1)]
            missed.append(beyond(part[-1:], marginal_width(part[:-1], level=level)))
        error = float(torch.tensor(missed).double().std()) / trials**0.5
        mean = sum(missed) / trials
        assert mean < 1 - level + 3 * error
        assert mean > 1 - level - 2 / (count + 1) - 3 * error  # of the loss that is no step function

    def test_is_the_least_width_that_the_formula_allows(self) -> None:
        scores = [part[: 7 + 3 * k] for k, part in enumerate(images(11, seed=3))]
        for level in (0.5, 0.6827, 0.9):
            width = marginal_width(scores, level=level)
            bound = lambda w, level=level: (sum(beyond([part], w) for part in scores) + 1) / 12 <= 1 - level + 1e-9  # noqa: E731
            assert bound(width)
            assert not bound(width * (1 - 1e-9))

    def test_images_count_alike_whatever_their_size(self) -> None:
        easy, hard = torch.full((1000,), 1.0).double(), torch.full((2,), 9.0).double()
        assert marginal_width([easy] * 6 + [hard] * 4, level=0.5) == 1
        assert marginal_width([easy] * 4 + [hard] * 6, level=0.5) == 9

    def test_undoes_a_wrong_spread(self) -> None:
        truth, samples = randn(30, 40, seed=1), randn(6, 30, 40, seed=2)
        narrow = torch.lerp(samples.mean(0).expand_as(samples), samples, 0.5)
        one, half = (marginal_width(deviations(truth, part), level=0.9) for part in (samples, narrow))
        assert half == pytest.approx(2 * one)

    def test_ties(self) -> None:
        scores = [torch.tensor([1.0, 1.0, 1.0, 2.0]).double()] * 19
        assert marginal_width(scores, level=0.7) == 1
        assert marginal_width(scores, level=0.9) == 2

    def test_values_without_spread_leave_no_width(self) -> None:
        scores = [torch.tensor([1.0, 1.0, math.inf]).double()] * 20
        assert marginal_width(scores, level=0.5) == 1
        assert marginal_width(scores, level=0.9) == math.inf

    @pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.6827, 3), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
    def test_says_how_many_images_it_takes(self, level: float, needed: int) -> None:
        assert images_needed(level) == needed
        marginal_width(images(needed, seed=1), level=level)
        with pytest.raises(ValueError, match=f"at least {needed} are needed"):
            marginal_width(images(needed, seed=1)[1:], level=level)

    def test_refuses(self) -> None:
        for call in (lambda: marginal_width([], level=1.0), lambda: images_needed(0.0)):
            with pytest.raises(ValueError, match="level"):
                call()
        with pytest.raises(ValueError, match="none of them empty"):
            marginal_width([torch.zeros(0).double()] * 9, level=0.5)


class TestPerImage:
    @pytest.mark.parametrize("count", [9, 30])
    def test_nine_of_ten_new_images_are_covered(self, count: int) -> None:
        trials, every = 300, images(300 * (count + 1), seed=20, factor=0.7)
        held = 0
        for k in range(trials):
            part = every[k * (count + 1) : (k + 1) * (count + 1)]
            width = width_per_image(part[:-1], level=0.8, confidence=0.9)
            held += beyond(part[-1:], width) <= 0.2 + 1e-9
        assert stats.binomtest(held, trials, 0.9, alternative="less").pvalue > 1e-3
        most = math.ceil((count + 1) * 0.9) / (count + 1)
        assert stats.binomtest(held, trials, most, alternative="greater").pvalue > 1e-3

    def test_by_hand(self) -> None:
        scores = [torch.arange(1.0, 11.0).double() * k for k in range(1, 10)]
        assert width_per_image(scores, level=0.8, confidence=0.5) == 8 * 5
        assert width_per_image(scores, level=0.8, confidence=0.9) == 8 * 9
        with pytest.raises(ValueError, match="at least 9 are needed"):
            width_per_image(scores[1:], level=0.8, confidence=0.9)


class TestExactWidth:
    @pytest.mark.parametrize("count", [2, 4, 16])
    def test_exact_samples_of_a_gaussian_are_covered(self, count: int) -> None:
        (scores,) = deviations(randn(1, 20000, seed=1), randn(count, 1, 20000, seed=2))
        for level in (0.6827, 0.9):
            inside = int((scores <= exact_width(level, count)).sum())
            assert stats.binomtest(inside, 20000, level).pvalue > 1e-3

    def test_many_samples_need_the_normal_quantile(self) -> None:
        assert exact_width(0.6827, 10**6) == pytest.approx(1, abs=1e-3)
        with pytest.raises(ValueError, match="two samples or more"):
            exact_width(0.9, 1)
