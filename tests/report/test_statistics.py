"""Statistics of the samples, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from report_pages import decoded

from invdiff.io.images import Picture
from invdiff.report.pictures import coded, fitted, reduced, shown
from invdiff.report.statistics import directions, numbers, standard_deviation


def test_standard_deviation_is_that_of_the_samples():
    x = np.random.default_rng(0).normal(size=(5, 3, 7, 4))
    assert np.allclose(standard_deviation(iter(x)), x.std(0, ddof=1).mean(0), atol=1e-6)


def test_one_sample_has_none():
    with pytest.raises(ValueError, match="needs two samples or more, got 1"):
        standard_deviation(iter(np.ones((1, 3, 2, 2))))


class TestDirections:
    def test_they_are_the_principal_components(self):
        x = np.random.default_rng(0).normal(size=(6, 3, 5, 4)) * np.linspace(0.1, 2, 4)
        found = directions(x, 5)
        covariance = np.cov(x.reshape(6, -1), rowvar=False)
        variances = np.sort(np.linalg.eigvalsh(covariance))[::-1][:5]
        assert np.allclose([(one.step**2).sum() for one in found], variances)
        assert np.allclose([one.share for one in found], variances / variances.sum())
        for one, variance in zip(found, variances, strict=True):
            assert np.allclose(covariance @ one.step.ravel(), variance * one.step.ravel())

    def test_all_of_them_give_the_samples_back(self):
        x = np.random.default_rng(1).normal(size=(4, 2, 3, 3))
        steps = np.stack([one.step.ravel() for one in directions(x, 3)])
        centered = (x - x.mean(0)).reshape(4, -1)
        t = centered @ steps.T / (steps**2).sum(1)
        assert np.allclose(t @ steps, centered)
        assert np.allclose(t.std(0, ddof=1), 1)  # in standard deviations

    def test_the_sign_is_that_of_the_farthest_sample(self):
        x = np.zeros((4, 1, 1, 2))
        x[:, 0, 0, 0] = (3, -1, -1, -1)
        assert directions(x, 1)[0].step[0, 0, 0] > 0
        assert directions(-x, 1)[0].step[0, 0, 0] < 0

    @pytest.mark.parametrize("count", [1, 4])
    def test_equal_samples_have_none(self, count):
        assert directions(np.ones((count, 3, 2, 2))) == []


def test_numbers_of_signed_maps_are_those_of_the_magnitude():
    values = np.array([[-4.0, 1.0], [1.0, 2.0]])
    assert numbers(values, signed=True)["mean magnitude"] == 2
    assert numbers(values, signed=True)["largest"] == 4
    assert numbers(values)["mean"] == 0


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((100, 50), 20, (20, 10)), ((3, 5), 8, (3, 5)), ((1, 4000), 96, (1, 96))]
)
def test_pictures_are_reduced_to_a_side(size, side, expected):
    height, width = size
    assert fitted(height, width, side) == expected
    assert reduced(np.ones(size), side).shape == expected


def test_coded_values_come_back():
    values = np.linspace(-0.3, 0.3, 40 * 60).reshape(40, 60)
    code = coded(values, -0.2, 0.2)
    again = code.low + (code.high - code.low) * decoded(code.source)[..., 0] / 255
    assert np.abs(again - values.clip(-0.2, 0.2)).max() < 0.01


def test_what_is_transparent_is_white():
    picture = Picture(-np.ones((1, 4, 4)), alpha=np.zeros((4, 4)))
    assert (shown(picture, 8) == 255).all()
    assert (shown(Picture(-np.ones((1, 4, 4))), 8) == 0).all()
