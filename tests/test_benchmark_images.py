"""The figures by which samplers are judged on photographs, where the right ones are known, and what is made of them."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randn
from skimage import data
from torch.testing import assert_close

import invdiff
from invdiff.io.images import write_image
from invdiff.metrics import psnr
from invdiff.operators import GaussianNoise
from invdiff.priors import Gaussian

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SHAPE, COUNT, STD = (3, 64, 64), 6, 0.1
NUMBERS = math.prod(SHAPE)
SPREADS = ["coverage", "spread / error"]


@pytest.fixture
def benchmark(monkeypatch):
    """Import a file of benchmarks/, where they find one another."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def judge(benchmark):
    return benchmark("images_judge").judge


def drawn(spread=1.0):
    """Centres, a truth of the law N(centre, STD^2) and independent samples of it, ``spread`` times as wide."""
    centres = 0.5 * (2 * torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    return centres, centres + STD * randn(1, *SHAPE, seed=1), centres + spread * STD * randn(COUNT, *SHAPE, seed=2)


class TestJudge:
    def test_exact_samples_have_the_right_figures(self, benchmark, judge):
        _, truth, samples = drawn()
        found, right = judge(samples, truth), benchmark("images_judge").right_values(COUNT)
        share = right["coverage"]
        assert abs(found["coverage"] - share) < 4 * math.sqrt(share * (1 - share) / NUMBERS)
        # Relative errors of the variance of the samples and of that of their mean about the truth, halved by the root.
        error = math.sqrt(2 / NUMBERS * (1 + 1 / (COUNT - 1))) / 2
        assert abs(found["spread / error"] / right["spread / error"] - 1) < 4 * error

    @pytest.mark.parametrize(("spread", "sign"), [(0.8, -1), (1.25, 1)])
    def test_samples_that_are_too_narrow_or_too_wide_have_not(self, benchmark, judge, spread, sign):
        _, truth, samples = drawn(spread)
        found, right = judge(samples, truth), benchmark("images_judge").right_values(COUNT)
        assert all(sign * (found[name] - right[name]) > 0.04 for name in SPREADS)

    @pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
    def test_the_limit_is_the_psnr_of_infinitely_many_samples(self, judge, spread):
        centres, truth, samples = drawn(spread)
        found, infinite = judge(samples, truth), float(psnr(centres, truth))
        # What is left of the chance of the mean: 2 <centre - truth, mean - centre> and |mean - centre|^2, over the error.
        chance = math.hypot(2 * spread / math.sqrt(COUNT * NUMBERS), spread**2 / COUNT * math.sqrt(2 / NUMBERS))
        assert abs(found["limit"] - infinite) < 4 * 10 / math.log(10) * chance
        assert infinite - found["mean"] > 0.1  # which finitely many do not reach: a limit that is the mean would not pass
        assert found["sample"] < found["mean"]

    def test_what_is_known_exactly_counts_for_neither_spread_nor_coverage(self, judge):
        _, truth, samples = drawn()
        known = torch.arange(SHAPE[-1]) < SHAPE[-1] // 2
        filled = torch.where(known, truth, samples)
        found, unknown = judge(filled, truth, known=known), judge(samples[..., ~known], truth[..., ~known])
        assert_close({name: found[name] for name in SPREADS}, {name: unknown[name] for name in SPREADS}, rtol=0, atol=2e-4)
        assert judge(filled, truth)["coverage"] > found["coverage"] + 0.1  # Known values are always covered.
        assert found["mean"] > unknown["mean"] + 3  # PSNR is that of the whole image.

    def test_there_is_no_limit_where_the_spread_explains_more_than_the_error(self, judge):
        centres, _, samples = drawn()
        assert judge(samples, centres + (samples.mean(0) - centres) / 2)["limit"] is None


def crop(size):
    return torch.from_numpy(data.chelsea()[40 : 40 + size, 120 : 120 + size].copy()).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.fixture
def rows(benchmark):
    """The rows for pictures of 50 x 50 pixels, with an oblique kernel that has no symmetry."""
    mask = np.ones((16, 20), dtype=bool)
    mask[3:6, 4:15] = False
    kernel = np.diag([0.1, 0.2, 0.3, 0.25, 0.15])
    return benchmark("images_cases").cases((3, 50, 50), mask=mask, kernel=kernel[:, :4] / kernel[:, :4].sum())


class TestCases:
    def test_classical_restorers_restore_what_is_judged_and_where(self, rows, benchmark):
        assert set(rows) == set(benchmark("images_cases").ROWS)
        for name, case in rows.items():
            clean = case.problem.fit(crop(50))
            op = case.problem.operator(tuple(clean.shape[1:]), noise=GaussianNoise(2 * case.noise))
            truth = case.judged(clean)
            y = op.measure(clean, seed=0)
            restored = [restore(y) for restore in case.classical.values()]
            assert {x.shape for x in restored} == {truth.shape}, name
            best = max(restored, key=lambda x: float(psnr(x, truth)))
            beside = [float(psnr(best.roll(step, axis), truth)) for axis in (-1, -2) for step in (-1, 1)]
            assert float(psnr(best, truth)) > max(22, *beside), name

    def test_what_is_known_is_known(self, rows):
        for name in ("text", "random", "hole", "demosaic"):
            case, clean = rows[name], crop(50)
            op = case.problem.operator((3, 50, 50))
            filled = case.problem.finish(torch.zeros_like(clean), op.measure(clean, seed=0), op)
            assert torch.equal(filled == clean, case.known.expand_as(clean)), name

    def test_old_and_new_default_apply_to_every_row(self, rows, benchmark):
        columns = benchmark("images_cases")
        prior = Gaussian.stationary(torch.zeros(3, 50, 50), torch.ones(3, 50, 26))
        for case in rows.values():
            shape = tuple(case.problem.fit(crop(50)).shape[1:])
            op = case.problem.operator(shape, noise=GaussianNoise(2 * case.noise))
            if shape != (3, 50, 50):
                prior = Gaussian.stationary(torch.zeros(shape), torch.ones(3, shape[1], shape[2] // 2 + 1))
            for column in (columns.OLD, columns.NEW):
                plan = invdiff.PosteriorSampler(prior, op, **columns.settings_of(column, case, prior, op)).plan(6)
                assert plan.method.name == "mmps" or column == columns.NEW
            assert columns.settings_of("no such method", case, prior, op) is None


def cells(tables, *, new=None):
    """Cells in which every criterion holds, but for what ``new`` changes of the new default."""
    old = {"mean": 30.0, "limit": 30.3, "spread / error": 0.7, "coverage": 0.6, "forwards": 16.0, "VJPs": 95.0}
    fine = {"mean": 30.1, "limit": 30.6, "spread / error": 0.9, "coverage": 0.70, "forwards": 16.0, "VJPs": 16.0}
    cheap = {"mean": 29.0, "limit": 29.2, "spread / error": 0.5, "coverage": 0.5, "forwards": 20.0, "VJPs": 0.0}
    columns = {tables.OLD: old, tables.NEW: fine | (new or {}), "ddrm": cheap}
    return {("text", name): {"one": figures} for name, figures in columns.items()}


class TestCriteria:
    def passed(self, tables, new=None):
        table, passed = tables.check_table(cells(tables, new=new), ["text"], [tables.OLD, tables.NEW, "ddrm"], ["one"], [], 6)
        return table.count("FAILS"), passed

    def test_all_can_hold(self, benchmark):
        assert self.passed(benchmark("images_tables")) == (0, True)

    @pytest.mark.parametrize(
        "new",
        [
            {"VJPs": 25.0},
            {"mean": 29.98},
            {"limit": 30.28},
            {"coverage": 5 / 7 + 0.05},
            {"coverage": 5 / 7 - 0.05},
            {"spread / error": 0.84},
            {"spread / error": 1.06},
        ],
        ids=str,
    )
    def test_each_can_fail(self, benchmark, new):
        assert self.passed(benchmark("images_tables"), new) == (1, False)

    def test_a_cheaper_method_that_is_ahead_is_named(self, benchmark):
        tables = benchmark("images_tables")
        table, _ = tables.check_table(
            cells(tables, new={"limit": 29.1}), ["text"], [tables.OLD, tables.NEW, "ddrm"], ["one"], [], 6
        )
        assert "ddrm +0.10: FAILS" in table

    def test_what_is_missing_does_not_hold(self, benchmark):
        tables = benchmark("images_tables")
        table, passed = tables.check_table(cells(tables), ["text"], [tables.OLD, tables.NEW, "ddrm"], ["one", "another"], [], 6)
        assert not passed
        assert table.count("FAILS") == 6


class TestScripts:
    def run(self, benchmark, monkeypatch, capsys, name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        benchmark(name).main()
        return capsys.readouterr().out

    def test_images_are_computed_once(self, benchmark, monkeypatch, capsys, tmp_path, tiny_prior):
        np.save(tmp_path / "kernel.npy", np.diag([0.2, 0.5, 0.3]))
        write_image(tmp_path / "kingfisher.png", crop(24)[0].numpy())
        write_image(tmp_path / "other.png", crop(30)[0].numpy())
        store = tmp_path / "cells.json"
        given = [tmp_path, "--kernel", tmp_path / "kernel.npy", "--prior", tiny_prior, "--out", store, "--size", 24]
        given += ["--samples", 2, "--photographs", "kingfisher", "other", "--only", "text", "levin-cut"]
        given += ["--methods", "classical", "new-default", "ddnm"]
        first = self.run(benchmark, monkeypatch, capsys, "images", *given)
        assert "Never used for a choice, 1: other." in first
        assert "does not apply" in first  # ddnm takes exact data alone
        assert len(json.loads(store.read_text())["cells"]) == 2 * 2 * 3
        assert self.run(benchmark, monkeypatch, capsys, "images", *given) == first
        kept = store.stat().st_mtime_ns
        assert self.run(benchmark, monkeypatch, capsys, "images", *given, "--tables") == first
        assert store.stat().st_mtime_ns == kept
        assert "0 of 2 done" in self.run(benchmark, monkeypatch, capsys, "images", *given, "--tables", "--samples", 3)

    def test_prior_truths_are_computed_once(self, benchmark, monkeypatch, capsys, tmp_path, tiny_prior):
        np.save(tmp_path / "kernel.npy", np.diag([0.2, 0.5, 0.3]))
        monkeypatch.setattr(benchmark("prior_truths"), "SIZE", 24)
        store = tmp_path / "lines.json"
        given = ["--kernel", tmp_path / "kernel.npy", "--prior", tiny_prior, "--out", store, "--only", "text"]
        given += ["--count", 10, "--samples", 2, "--steps", 1]
        first = self.run(benchmark, monkeypatch, capsys, "prior_truths", *given)
        assert len(json.loads(store.read_text())) == first.count("| text ") == 2  # with noise and without
        kept = store.stat().st_mtime_ns
        assert self.run(benchmark, monkeypatch, capsys, "prior_truths", *given) == first
        assert store.stat().st_mtime_ns == kept

    def test_prior_truths_are_those_of_the_prior(self, benchmark):
        """Of a Gaussian prior, for which the sampler is exact: its own draws pass, wider ones are rejected."""
        scripts, columns, side = benchmark("prior_truths"), benchmark("images_cases"), 16
        down, across = torch.fft.fftfreq(side, dtype=torch.float64), torch.fft.rfftfreq(side, dtype=torch.float64)
        spectrum = (0.1 / (0.1 + down[:, None] ** 2 + across**2)).expand(3, side, -1)
        prior = Gaussian.stationary(torch.zeros(3, side, side, dtype=torch.float64), spectrum)
        case = columns.cases((3, side, side), mask=np.eye(side, dtype=bool), kernel=np.full((1, 3), 1 / 3))["random"]
        frozen = columns.settings_of(columns.OLD, case, prior, case.measurement(prior.sample(1, seed=0)))
        settings = {**frozen, "max_iterations": 8, "root_iterations": 8, "steps": 8}
        truths = prior.sample(16, seed=1).float()
        for noise in (0.1, 0.0):
            for factor, verdict in ((1.0, "passes"), (1.5, "rejected")):
                found = scripts.figures(prior, case, noise, factor * truths, settings, 4)
                assert scripts.line("random", noise, "mmps", found)[-1] == verdict, (noise, factor, found)
