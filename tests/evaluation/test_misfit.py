"""Misfits computed again from simulated measurements: those of the records, and 1 for the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from invdiff.io.images import read_image, write_image


@pytest.fixture
def simulated(tmp_path, invdiff, solve):
    for name in ("a.png", "sub/b.png"):
        path = tmp_path / "clean" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.random.default_rng(len(name)).uniform(-0.8, 0.8, (3, 32, 48)))
    invdiff("simulate", "clean", "--problem", "sr", "--factor", 2, "--noise", 0.05, "-o", "sim")
    return tmp_path


def rows(invdiff, *arguments, code=0):
    given = ("--reference", "clean", "--metrics", "psnr,posterior", "--json", "-")
    printed = invdiff("evaluate", *given, *arguments, code=code).stdout
    return {row["name"]: row for row in json.loads(printed)["images"]}


def test_of_samples_is_that_of_the_records(simulated, invdiff, solve):
    solve("sim/measurements", "--operator", "sim/operator.json", "-o", "out")
    recorded = rows(invdiff, "--restored", "out")
    again = rows(invdiff, "--restored", "out", "--measurements", "sim")
    for name in ("a", "sub/b"):
        assert again[name]["chi_square"] == pytest.approx(
            recorded[name]["chi_square"], rel=0.1
        )  # files hold 8 bits from 0 to 1
        assert {key: value for key, value in again[name].items() if key != "chi_square"} == {
            key: value for key, value in recorded[name].items() if key != "chi_square"
        }


def test_of_the_truth_is_one_and_of_another_picture_is_not(simulated, invdiff):
    count = 3 * 16 * 24
    for row in rows(invdiff, "--restored", "clean", "--measurements", "sim").values():
        assert row["chi_square"] == pytest.approx(1, abs=5 * (2 / count) ** 0.5 + 0.01)
    for name in ("a.png", "sub/b.png"):
        path = simulated / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, read_image(simulated / "clean" / name).pixels[:, ::-1])
    assert all(row["chi_square"] > 5 for row in rows(invdiff, "--restored", "other", "--measurements", "sim").values())


def test_what_is_missing_is_said(simulated, invdiff):
    listed = (simulated / "sim" / "images.jsonl").read_text().splitlines()
    (simulated / "sim" / "images.jsonl").write_text("\n".join(line for line in listed if "sub/b" not in line) + "\n{torn")
    ended = invdiff("evaluate", "--reference", "clean", "--restored", "clean", "--measurements", "sim", "--metrics",
                    "psnr,posterior", code=1)  # fmt: skip
    assert "no measurement of sub/b is listed" in ended.stderr
    (simulated / "sim" / "operator.json").write_text("{}")
    ended = invdiff("evaluate", "--reference", "clean", "--restored", "clean", "--measurements", "sim", code=2)
    assert "no record of `invdiff simulate`" in ended.stderr
