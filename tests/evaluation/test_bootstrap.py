"""Means over images and their bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from invdiff.evaluation import bootstrap
from invdiff.evaluation.bootstrap import Summary, difference, summarize


def rows(values):
    return [{"name": str(k), "psnr": None if value is None else float(value)} for k, value in enumerate(values)]


def ends(summary):
    assert summary.interval is not None
    return summary.interval


def test_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000).confidence_interval
    found = summarize(rows(values), ["psnr"])["psnr"]
    assert found.value == pytest.approx(values.mean())
    assert found.images == 60
    assert found.interval == pytest.approx(tuple(expected), abs=0.03)


def test_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [ends(summarize(rows(rng.normal(size=60)), ["psnr"], seed=k)["psnr"]) for k in range(300)]
    inside = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.90 <= inside <= 0.98


def test_in_parts(monkeypatch):
    values = rows(np.random.default_rng(0).normal(size=50))
    whole = summarize(values, ["psnr"])
    monkeypatch.setattr(bootstrap, "PART", 50 * 300)  # 2,000 draws are no multiple of it
    assert summarize(values, ["psnr"])["psnr"].interval == pytest.approx(whole["psnr"].interval, abs=0.05)
    assert summarize(values, ["psnr"]) == summarize(values, ["psnr"])


def test_missing_and_infinite_values():
    assert summarize(rows([1.0]), ["psnr"]) == {"psnr": Summary(1.0, None, 1)}
    assert summarize(rows([None, None]), ["psnr"]) == {}
    assert summarize([], ["psnr"]) == {}
    found = summarize(rows([1.0, None, 3.0]), ["psnr"])["psnr"]
    assert (found.value, found.images) == (2.0, 2)
    assert found.interval == (1.0, 3.0)
    assert summarize(rows([1.0, math.inf, 2.0]), ["psnr"]) == {"psnr": Summary(math.inf, None, 3)}


def test_spread_over_error_is_a_ratio_of_root_mean_squares():
    table = [{"samples": 2, "spread": 0.1, "error": 0.2}, {"samples": 4, "spread": 0.3, "error": 0.1}]
    found = summarize(table, ["spread", "error", "spread_error"])
    assert found["spread"].value == pytest.approx(math.sqrt(0.05))
    assert found["error"].value == pytest.approx(math.sqrt(0.025))
    assert found["spread_error"].value == pytest.approx(math.sqrt((1.5 * 0.01 + 1.25 * 0.09) / 0.05))
    low, high = ends(found["spread_error"])
    assert low == pytest.approx(math.sqrt(1.5) * 0.5)
    assert high == pytest.approx(math.sqrt(1.25) * 3)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard, noise = 10 * rng.normal(size=40), 0.1 * rng.normal(size=40)
    found = difference(rows(hard), rows(hard + 0.5 + noise), ["psnr"])["psnr"]
    assert found.value == pytest.approx(0.5 + noise.mean())
    low, high = ends(found)
    assert 0.4 < low < found.value < high < 0.6  # the images themselves differ a hundred times as much
    expected = stats.bootstrap((noise,), np.mean, method="percentile", n_resamples=5000).confidence_interval
    assert (low, high) == pytest.approx((0.5 + expected.low, 0.5 + expected.high), abs=0.005)


def test_differences_count_images_that_both_have():
    found = difference(rows([1.0, None, 3.0, 4.0]), rows([2.0, 5.0, None, 6.0]), ["psnr"])["psnr"]
    assert (found.value, found.images) == (1.5, 2)
    assert difference(rows([1.0, None]), rows([None, 1.0]), ["psnr"]) == {}
    assert difference(rows([1.0, 2.0]), rows([1.0, math.inf]), ["psnr"])["psnr"] == Summary(math.inf, None, 2)
    assert math.isnan(difference(rows([math.inf, 2.0]), rows([math.inf, 9.0]), ["psnr"])["psnr"].value)
