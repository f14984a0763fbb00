"""``invdiff evaluate`` on result folders, studies and several restorations."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import piq
import pytest
import torch
from skimage import data, io
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from invdiff.evaluation import posterior_scores
from invdiff.evaluation.columns import COLUMNS, SCORES
from invdiff.io.images import read_image, write_image

pytestmark = pytest.mark.slow

SIZE = 24


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))


def photograph(shift=0, size=SIZE):
    return data.chelsea()[shift : shift + size, 40 : 40 + size].transpose(2, 0, 1) / 127.5 - 1


def write_result(folder, clean, *, samples=4, noise=0.1, seed=0, source="a.png", **record):
    """Write a result folder as ``invdiff solve`` does, of samples about a noisy image."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    center = clean + noise * rng.normal(size=clean.shape)
    drawn = center + noise * rng.normal(size=(samples, *clean.shape))
    for k, sample in enumerate(drawn):
        write_image(folder / f"sample-{k + 1}.png", sample)
    write_image(folder / "best.png", drawn[0])
    write_image(folder / "mean.png", drawn.mean(0))
    for name in ("std.png", "comparison.png", "mask.png"):
        write_image(folder / name, np.zeros((1, 8, 8)))
    contents = {"command": "solve", "arguments": {"input": f"somewhere/{source}"}, "outputs": {}}
    contents |= {"residual": [90.0, 110.0], "residual_expected": 50}
    (folder / "run.json").write_text(json.dumps({**contents, **record}))


@pytest.fixture
def study(tmp_path):
    """Three references in two folders, and a study with a result for each."""
    names = ["a.png", "sub/b.png", "sub/deep/c.png"]
    for k, name in enumerate(names):
        for root in ("clean", "out"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "clean" / name, photograph(20 * k))
        write_result(tmp_path / "out" / name.removesuffix(".png"), photograph(20 * k), seed=k, source=name)
    lines = [{"name": name, "folder": name.removesuffix(".png"), "state": "done"} for name in names]
    (tmp_path / "out" / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"name": "to')
    return tmp_path


def evaluated(invdiff, *arguments, code=0, metrics="psnr,posterior"):
    return json.loads(invdiff("evaluate", *arguments, "--metrics", metrics, "--json", "-", code=code).stdout)


class TestResults:
    def test_figures_of_a_study(self, invdiff, study):
        report = evaluated(invdiff, "--reference", "clean", "--restored", "out")
        assert [row["name"] for row in report["images"]] == ["a", "sub/b", "sub/deep/c"]
        assert report["unpaired"] == []
        row, folder = report["images"][1], study / "out" / "sub" / "b"
        files = [(read_image(folder / f"sample-{k}.png").pixels + 1) / 2 for k in range(1, 5)]
        truth = (read_image(study / "clean" / "sub" / "b.png").pixels + 1) / 2
        scores = posterior_scores(torch.from_numpy(np.stack(files)), torch.from_numpy(truth))
        assert {name: row[name] for name in scores.as_dict()} == pytest.approx(scores.as_dict(), rel=1e-5)
        assert row["chi_square"] == 2.0
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(*self.floats(study, "sub/b", "mean.png"), data_range=1))
        assert set(report["interval"]) == {"psnr", *SCORES}
        low, high = report["interval"]["psnr"]
        assert low < report["mean"]["psnr"] < high

    @staticmethod
    def floats(study, name, file):
        return tuple(io.imread(study / path) / 255 for path in (f"clean/{name}.png", f"out/{name}/{file}"))

    def test_metrics_are_those_of_direct_calls_on_the_files(self, invdiff, tmp_path):
        (tmp_path / "clean").mkdir()
        write_image(tmp_path / "clean" / "x.png", photograph(size=164))
        write_result(tmp_path / "out" / "x", photograph(size=164), samples=1)
        row = evaluated(invdiff, "--reference", "clean", "--restored", "out", metrics="psnr,ssim,ms-ssim")["images"][0]
        clean, x = self.floats(tmp_path, "x", "mean.png")
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2, "data_range": 1}
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(clean, x, data_range=1), rel=1e-6)
        assert row["ssim"] == pytest.approx(structural_similarity(clean, x, **options), rel=1e-5)
        one, two = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (x, clean))
        assert row["ms-ssim"] == pytest.approx(float(piq.multi_scale_ssim(one, two, data_range=1.0)), rel=1e-5)

    @pytest.mark.parametrize(("estimate", "file"), [("mean", "mean.png"), ("best", "best.png"), ("sample-1", "sample-1.png")])
    def test_estimate(self, invdiff, study, estimate, file):
        report = evaluated(invdiff, "--reference", "clean", "--restored", "out", "--estimate", estimate, metrics="psnr")
        assert report["estimate"] == estimate
        expected = peak_signal_noise_ratio(*self.floats(study, "a", file), data_range=1)
        assert report["images"][0]["psnr"] == pytest.approx(expected)

    def test_a_result_folder_and_an_image(self, invdiff, study):
        (study / "out" / "a").rename(study / "a-denoised")
        for reference in ("clean/a.png", "clean"):
            report = evaluated(invdiff, "--reference", reference, "--restored", "a-denoised")
            assert len(report["images"]) == 1
            assert report["images"][0]["samples"] == 4

    def test_tables_and_files(self, invdiff, study):
        files = ("--csv", "f.csv", "--json", "f.json")
        invdiff("evaluate", "--reference", "clean", "--restored", "out", *files)
        result = invdiff("evaluate", "--reference", "clean", "--restored", "out", *files)  # over its own
        first, second = result.stdout.split("\n\n")
        assert first.splitlines()[0].split() == ["image", "PSNR", "[dB]", "SSIM"]
        assert "CRPS" in second
        assert max(map(len, second.splitlines())) < 120
        for table in (first, second):
            assert [line.split()[0] for line in table.splitlines()[-3:]] == ["mean", "95", "95"]
        rows = list(csv.DictReader((study / "f.csv").read_text().splitlines()))
        assert list(rows[0]) == ["name", "psnr", "ssim", *SCORES]
        images = json.loads((study / "f.json").read_text())["images"]
        assert [float(row["crps"]) for row in rows] == [row["crps"] for row in images]
        assert list(COLUMNS)[-len(SCORES) :] == list(SCORES)

    def test_a_single_sample_has_no_scores(self, invdiff, tmp_path):
        (tmp_path / "clean").mkdir()
        write_image(tmp_path / "clean" / "x.png", photograph())
        write_result(tmp_path / "out" / "x", photograph(), samples=1, residual_expected=0)
        (row,) = evaluated(invdiff, "--reference", "clean", "--restored", "out")["images"]
        assert row == {"name": "x", "psnr": row["psnr"], "chi_square": None}

    def test_of_solve_itself(self, invdiff, solve, tmp_path):
        for name in ("photos/a.png", "photos/sub/b.png", "photos/sub/b.tif"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / name, photograph())
        (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
        few = ("--problem", "denoise", "--noise", 0.1, "--samples", 3)
        solve("photos", *few, "-o", "out", code=1)
        report = evaluated(invdiff, "--reference", "photos", "--restored", "out", code=1)
        assert [row["name"] for row in report["images"]] == ["a", "sub/b.png", "sub/b.tif"]
        assert "bad.png" in report["failed"]["bad"]
        for row in report["images"]:
            assert row["samples"] == 3
            assert row["chi_square"] > 0
            assert all(math.isfinite(row[name]) for name in SCORES)
        solve("photos/a.png", *few, "--keep", "samples", "-o", "samples")
        arguments = ("--reference", "photos/a.png", "--restored", "samples")
        assert "expected one image mean" in evaluated(invdiff, *arguments, code=1)["incomplete"]["samples"]["estimate"]
        (row,) = evaluated(invdiff, *arguments, metrics="posterior")["images"]
        assert (row["samples"], row["spread"] > 0) == (3, True)


class TestPairing:
    def test_two_images_of_one_stem(self, invdiff, study):
        write_image(study / "clean" / "a.jpg", photograph(100))
        write_result(study / "out" / "a.jpg", photograph(100), source="a.jpg", seed=9)
        report = evaluated(invdiff, "--reference", "clean", "--restored", "out", metrics="psnr")
        assert [row["name"] for row in report["images"]] == ["a.jpg", "a.png", "sub/b", "sub/deep/c"]
        assert report["unpaired"] == []
        assert min(row["psnr"] for row in report["images"]) > 20

    def test_flat_images_of_a_tree(self, invdiff, study):
        for name in ("b", "c"):
            write_image(study / f"{name}.webp", photograph())
        (study / "flat").mkdir()
        for name in ("b", "c"):
            (study / f"{name}.webp").rename(study / "flat" / f"{name}.webp")
        report = evaluated(invdiff, "--reference", "clean", "--restored", "flat", metrics="psnr")
        assert [row["name"] for row in report["images"]] == ["sub/b", "sub/deep/c"]
        write_image(study / "clean" / "b.png", photograph())  # now b is two
        report = evaluated(invdiff, "--reference", "clean", "--restored", "flat", metrics="psnr")
        assert [row["name"] for row in report["images"]] == ["b", "sub/deep/c"]

    def test_folders_in_each_other(self, invdiff, study):
        (study / "out").rename(study / "clean" / "out")
        report = evaluated(invdiff, "--reference", "clean", "--restored", "clean/out", metrics="psnr")
        assert len(report["images"]) == 3
        assert report["unpaired"] == []

    def test_hidden_files_do_not_count(self, invdiff, study):
        write_result(study / "out" / ".a.invdiff-part", photograph())
        write_image(study / "clean" / ".a.png", photograph())
        assert evaluated(invdiff, "--reference", "clean", "--restored", "out", metrics="psnr")["unpaired"] == []

    def test_a_study_and_one_image(self, invdiff, study):
        result = invdiff("evaluate", "--reference", "clean/a.png", "--restored", "out", code=2)
        assert "two folders or two files" in result.stderr


class TestFailures:
    def test_are_named_and_the_rest_computed(self, invdiff, study):
        for name in ("d", "e"):
            write_image(study / "clean" / f"{name}.png", photograph())
        with (study / "out" / "manifest.jsonl").open("a") as file:
            file.write('\n{"name": "d.png", "folder": "d", "state": "failed", "error": "the file is damaged"}\n')
            file.write('{"name": "e.png", "folder": "e", "state": "done"}\n')
        (study / "out" / "a" / "sample-2.png").write_bytes(b"no image")
        (study / "out" / "sub" / "b" / "mean.png").unlink()
        arguments = ("--reference", "clean", "--restored", "out")
        result = invdiff("evaluate", *arguments, "--metrics", "psnr,posterior", "--json", "f.json", code=1)
        report = json.loads((study / "f.json").read_text())
        assert [row["name"] for row in report["images"]] == ["a", "sub/b", "sub/deep/c"]
        assert set(report["failed"]) == {"d", "e"}
        assert "the file is damaged" in report["failed"]["d"]
        assert "is missing" in report["failed"]["e"]
        assert "sample-2.png" in report["incomplete"]["a"]["posterior"]
        assert "expected one image mean" in report["incomplete"]["sub/b"]["estimate"]
        assert report["images"][1]["psnr"] is None
        assert report["images"][1]["samples"] == 4
        assert "2 of 5 pairs could not be compared." in result.stderr
        assert "2 of 5 pairs could be compared in part only." in result.stderr
        assert result.stdout.splitlines()[3].split() == ["sub/b", "-"]

    def test_a_later_line_of_the_manifest_counts(self, invdiff, study):
        with (study / "out" / "manifest.jsonl").open("a") as file:
            file.write('\n{"name": "a.png", "folder": "a", "state": "failed", "error": "x"}\n')
            file.write('{"name": "a.png", "folder": "a", "state": "done"}\n')
        assert len(evaluated(invdiff, "--reference", "clean", "--restored", "out", metrics="psnr")["images"]) == 3

    def test_images_too_small_for_one_metric(self, invdiff, study):
        result = invdiff("evaluate", "--reference", "clean", "--restored", "out", "--metrics", "psnr,ms-ssim", code=1)
        (line,) = [line for line in result.stderr.splitlines() if "161 x 161" in line]
        assert line.startswith("a, sub/b, sub/deep/c: ")
        assert "3 of 3 pairs could be compared in part only." in result.stderr
        assert "mean of 3" in result.stdout

    def test_missing_weights(self, invdiff, study):
        metrics = ("--metrics", "psnr,dists,fid,kid")
        result = invdiff("evaluate", "--reference", "clean", "--restored", "out", *metrics)
        for name in ("vgg16", "pt_inception"):
            assert any(name in line and "save it as" in line for line in result.stderr.splitlines())
        assert "DISTS" not in result.stdout

    def test_posterior_scores_of_pictures(self, invdiff, study):
        arguments = ("--reference", "clean", "--restored", "clean", "--metrics", "posterior")
        assert "a result folder with samples" in invdiff("evaluate", *arguments, code=1).stderr


class TestSets:
    def test_distances(self, invdiff, study, monkeypatch):
        monkeypatch.setattr("invdiff.evaluation.run.NEEDS", {})
        monkeypatch.setattr("invdiff.evaluation.run.features", lambda image: image[:, :, 0, :2].flatten(1))
        result = invdiff(
            "evaluate", "--reference", "clean", "--restored", "out", "--metrics", "psnr,fid,kid", "--json", "f.json"
        )
        assert "FID and KID of 3 images: with fewer than" in result.stderr
        found = json.loads((study / "f.json").read_text())["set"]
        sides = [
            torch.cat(
                [torch.from_numpy(read_image(study / path.format(name)).pixels)[None, :, 0, :2].flatten(1) for name in NAMES]
            )
            for path in ("out/{}/mean.png", "clean/{}.png")
        ]
        assert found["fid"] == pytest.approx(float(piq.FID()(*sides)), rel=1e-3)
        assert found["kid"] == pytest.approx(float(piq.KID()(*sides)), rel=1e-5)
        assert f"FID {found['fid']:.2f}, KID {found['kid']:.5f} (3 images)" in result.stdout


NAMES = ("a", "sub/b", "sub/deep/c")


class TestCompare:
    @pytest.fixture
    def two(self, study):
        for k, name in enumerate(NAMES[:2]):
            write_result(study / "worse" / name, photograph(20 * k), noise=0.3, seed=9 + k)
        (study / "flat").mkdir()
        for k, name in enumerate("abc"):
            write_image(study / "flat" / f"{name}.png", photograph(20 * k) + 0.01)
        return study

    def test_side_by_side(self, invdiff, two):
        arguments = ("--reference", "clean", "--restored", "out", "--compare", "worse", "--compare", "flat", "--csv", "f.csv")
        result = invdiff("evaluate", *arguments, "--metrics", "psnr,posterior", "--json", "f.json")
        report = json.loads((two / "f.json").read_text())
        comparison, first = report["comparison"], report["images"]
        assert comparison["images"] == ["a", "sub/b"]
        assert comparison["left_out"] == ["sub/deep/c"]
        assert "1 not in all restorations, left out: sub/deep/c" in result.stderr
        assert [side["restored"] for side in comparison["restored"]] == ["out", "worse", "flat"]
        second = report["compared"][0]["images"]
        gaps = [second[k]["psnr"] - first[k]["psnr"] for k in range(2)]
        ours, worse, flat = comparison["restored"]
        assert ours["difference"]["mean"] == {}
        assert ours["mean"]["psnr"] == pytest.approx((first[0]["psnr"] + first[1]["psnr"]) / 2)
        assert worse["difference"]["mean"]["psnr"] == pytest.approx(sum(gaps) / 2)
        assert worse["difference"]["interval"]["psnr"] == pytest.approx([min(gaps), max(gaps)])
        assert "crps" not in flat["mean"]  # pictures have no samples
        lines = result.stdout.splitlines()
        assert lines[0].split()[:4] == ["restored", "mean", "of", "2"]
        assert lines[2].split()[:3] == ["PSNR", "[dB]", "out"]
        assert lines[3].split()[0] == "worse"
        assert f"{sum(gaps) / 2:+.2f}" in lines[3]
        rows = list(csv.DictReader((two / "f.csv").read_text().splitlines()))
        assert [(row["name"], row["restored"]) for row in rows[2:5]] == [
            ("sub/deep/c", "out"),
            ("a", "worse"),
            ("sub/b", "worse"),
        ]
        invdiff("evaluate", *arguments, "--metrics", "psnr")  # over its own

    def test_with_itself(self, invdiff, study):
        report = evaluated(invdiff, "--reference", "clean", "--restored", "out", "--compare", "out")
        difference = report["comparison"]["restored"][1]["difference"]
        assert set(difference["mean"].values()) == {0.0}
        assert difference["interval"]["crps"] == [0.0, 0.0]

    def test_scores_that_one_lacks_do_not_count_for_the_other(self, invdiff, study):
        write_result(study / "more" / "a", photograph(), samples=1)
        write_result(study / "more" / "b", photograph(20), seed=5)
        report = evaluated(invdiff, "--reference", "clean", "--restored", "out", "--compare", "more")
        ours, more = report["comparison"]["restored"]
        assert ours["mean"]["crps"] == report["images"][1]["crps"]
        assert more["mean"]["psnr"] != more["mean"]["psnr_mean"]
