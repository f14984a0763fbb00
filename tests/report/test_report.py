"""``invdiff report``: what is in the page, what is not, and what is in the way."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from report_pages import HEIGHT, HOSTILE, WIDTH, data_of, decoded, picture

from invdiff.io.images import read_image
from invdiff.report.contents import find
from invdiff.report.evaluations import read_evaluation
from invdiff.report.private import private

pytestmark = pytest.mark.slow

MISSING_SAMPLES = "The samples were not kept: it takes two or more to show their differences"


def unit(path):
    return (read_image(path).pixels + 1) / 2


def map_of(item, key):
    return next(one for one in item["maps"] if one["id"] == key)


class TestOneResult:
    @pytest.fixture
    def item(self, results):
        done = results.report("painted")
        assert re.fullmatch(r"painted/report.html: 1 picture of up to 800 pixels, 0\.\d MB\n", done.stdout)
        (item,) = data_of(results.place / "painted" / "report.html")["items"]
        return item

    def test_its_pictures_are_those_of_the_files(self, results, item):
        assert [one["id"] for one in item["pictures"]] == ["measurement", "mean", "sample-1", "sample-2", "sample-3", "mask"]
        assert (item["name"], item["size"], item["problem"], item["gray"]) == ("photo.png", [WIDTH, HEIGHT], "inpaint", False)
        for key, file in {"measurement": "photo.png", "mean": "painted/mean.png", "sample-2": "painted/sample-2.png"}.items():
            assert np.abs(picture(item, key) - unit(results.place / file).transpose(1, 2, 0)).mean() < 0.03

    def test_its_maps_hold_the_numbers_of_the_files(self, results, item):
        samples = np.stack([unit(results.place / "painted" / f"sample-{k}.png") for k in (1, 2, 3)])
        low, high = (unit(results.place / "painted" / f"{name}.png") for name in ("low", "high"))
        for key, values in {"std": samples.std(0, ddof=1).mean(0), "width": (high - low).mean(0)}.items():
            shown = map_of(item, key)
            again = shown["low"] + (shown["high"] - shown["low"]) * decoded(shown["source"])[..., 0] / 255
            assert np.abs(again - values.clip(max=shown["high"])).mean() < 0.02 * shown["high"]
            assert shown["numbers"]["mean"] == pytest.approx(values.mean(), rel=0.01)
        assert "90 % interval" in map_of(item, "width")["caption"]

    def test_its_directions_move_the_mean_towards_the_samples(self, item):
        shares = [one["share"] for one in item["directions"]]
        assert len(shares) == 2
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        steps = [one["low"] + (one["high"] - one["low"]) * decoded(one["source"]) / 255 for one in item["directions"]]
        samples = np.stack([picture(item, f"sample-{k}") for k in (1, 2, 3)])
        variance = samples.var(0, ddof=1).sum()
        for step, share in zip(steps, shares, strict=True):
            assert (step**2).sum() == pytest.approx(share * variance, rel=0.3)  # what lossy pictures leave of it

    def test_its_settings_and_notes_are_those_of_the_record(self, results, item):
        record = json.loads((results.place / "painted" / "run.json").read_text())
        assert item["notes"] == record["notes"]
        pairs = {name: value for group in item["facts"] for name, value in group["pairs"]}
        assert pairs["method"] == record["method"]
        assert pairs["samples"] == "3"
        assert pairs["problem"] == "inpaint: fill in masked pixels"
        assert json.loads(item["record"])["arguments"]["mask"] == "mask.png"

    def test_exact_data_leave_no_residual_and_the_page_says_so(self, item):
        assert item["missing"] == ["No residual is shown: the data are taken as exact, and the mean reproduces them."]


class TestSimulated:
    def test_truth_measurement_residual_and_error(self, results):
        results.report("gray", "--output", "page.html")
        (item,) = data_of(results.place / "page.html")["items"]
        assert item["gray"]
        truth, mean, measured = (
            unit(results.place / file)[0] for file in ("gray.png", "gray/mean.png", "gray/measurement.png")
        )
        assert np.abs(picture(item, "truth")[..., 0] - truth).mean() < 0.03
        for key, values in {"error": mean - truth, "residual": measured - mean}.items():
            shown = map_of(item, key)
            again = shown["low"] + (shown["high"] - shown["low"]) * decoded(shown["source"])[..., 0] / 255
            assert np.corrcoef(again.ravel(), values.ravel())[0, 1] > 0.97
            (said,) = re.findall(r"Root mean square ([\d.]+\d)", shown["caption"])
            assert float(said) == pytest.approx(np.sqrt((values**2).mean()), rel=0.01)
        assert "noise has 0.1" in map_of(item, "residual")["caption"]
        assert [table["title"] for table in item["tables"]] == ["Against the truth", "Misfit of the samples"]

    def test_a_moved_input_is_found_by_its_digest_alone(self, results):
        (results.place / "elsewhere").mkdir()
        (results.place / "photo.png").rename(results.place / "elsewhere" / "photo.png")
        results.report("painted")
        page = results.place / "painted" / "report.html"
        (item,) = data_of(page)["items"]
        assert any("INPUT was not found as the run read it (--inputs gives its folder)" in text for text in item["missing"])
        results.report("painted", "--inputs", "elsewhere")
        (item,) = data_of(page)["items"]
        assert item["pictures"][0]["id"] == "measurement"
        Image.new("RGB", (WIDTH, HEIGHT)).save(results.place / "elsewhere" / "photo.png")  # another picture of that name
        results.report("painted", "--inputs", "elsewhere")
        (item,) = data_of(page)["items"]
        assert item["pictures"][0]["id"] == "mean"


class TestWhatIsNotThere:
    def test_a_single_sample(self, results):
        results.report("one")
        (item,) = data_of(results.place / "one" / "report.html")["items"]
        assert item["maps"] == item["directions"] == []
        assert any(text.startswith("Only one sample was drawn: it takes two or more") for text in item["missing"])

    def test_samples_not_kept(self, results):
        results.keep("painted", "mean", "std", "low", "high", "mask")
        results.report("painted")
        (item,) = data_of(results.place / "painted" / "report.html")["items"]
        assert [one["id"] for one in item["pictures"]] == ["measurement", "mean", "mask"]
        assert [one["id"] for one in item["maps"]] == ["width"]
        assert "std.png, as the run drew it" in item["figures"][0]["caption"]
        assert any(text.startswith(MISSING_SAMPLES) for text in item["missing"])

    def test_samples_alone(self, results):
        results.keep("painted", "sample")
        results.report("painted")
        (item,) = data_of(results.place / "painted" / "report.html")["items"]
        assert [one["id"] for one in item["pictures"]] == ["measurement", "sample-1", "sample-2", "sample-3"]
        assert [one["id"] for one in item["maps"]] == ["std"]
        assert len(item["directions"]) == 2
        assert "The mean was not kept." in item["missing"]

    def test_nothing_to_show(self, results):
        results.keep("painted", "mask")
        done = results.report("painted", code=1)
        assert done.stderr == "Error: painted: holds neither samples nor a mean, so there is nothing to show.\n"

    def test_a_picture_that_was_changed_is_named(self, results):
        shutil.copy(results.place / "photo.png", results.place / "painted" / "sample-2.png")
        results.report("painted")
        (item,) = data_of(results.place / "painted" / "report.html")["items"]
        assert item["notes"][-1] == "Changed after the run that wrote it: sample-2.png."


class TestStudy:
    def test_items_in_the_order_of_the_manifest(self, results, study):
        done = results.report("study", code=1)
        data = data_of(study / "report.html")
        assert [item["name"] for item in data["items"]] == ["sub/photo.png", "gray.png", HOSTILE]
        assert done.stderr == (
            "1 without a result, named in the page.\n"
            "damaged.png: study/damaged/sample-2.png: cannot be read as an image: Truncated File Read.\n"
            "1 of 4 results could not be read and are left out.\n"
        )
        assert [one["name"] for one in data["leftOut"]] == ["photo.png", "damaged.png"]

    def test_without_a_manifest_results_are_found_by_their_folders(self, results, study):
        (study / "manifest.jsonl").unlink()
        shutil.rmtree(study / "damaged")
        results.report("study")
        assert [item["name"] for item in data_of(study / "report.html")["items"]] == ["gray", "hostile", "sub/photo"]

    def test_text_of_files_is_never_markup(self, results, study):
        figures = {"images": [{"name": "</script><script>alert(2)</script>", "psnr": 3}], "mean": {}}
        (results.place / "figures.json").write_text(json.dumps(figures))
        folder = study.rename(results.place / "a<b>&c")
        results.report("a<b>&c", "--evaluation", "figures.json", code=1)
        text = (folder / "report.html").read_text()
        assert "<img" not in text
        assert text.count("</script>") == text.count("<script") == 2
        assert "<title>a&lt;b&gt;&amp;c - invdiff report</title>" in text
        assert data_of(folder / "report.html")["items"][2]["name"] == HOSTILE

    def test_no_network_and_no_folder_of_this_machine(self, results, study):
        results.report(study, code=1)
        text = (study / "report.html").read_text()
        assert "default-src 'none'; img-src data:;" in text
        assert str(results.place) not in text
        assert str(results.place.parents[1]) not in text
        for address in re.findall(r"https?://[^\s\"']+", text):
            assert address == "http://www.w3.org/2000/svg"  # a name, not a place

    def test_the_same_results_give_the_same_bytes(self, results, study):
        results.report("study", "-o", "one.html", code=1)
        results.report("study", "-o", "two.html", code=1)
        assert (results.place / "one.html").read_bytes() == (results.place / "two.html").read_bytes()

    def test_pictures_are_reduced_until_the_page_is_small(self, results, study):
        results.report("study", "-o", "page.html", "--side", 32, code=1)
        small = (results.place / "page.html").stat().st_size
        assert results.report("study", "-o", "page.html", "--side", 16, code=2)  # too small to see
        done = results.report("study", "-o", "page.html", "--max-size", 0.1, code=1)
        assert f"pictures of up to 32 pixels, {small / 1e6:.1f} MB" not in done.output
        size = (results.place / "page.html").stat().st_size
        assert size <= 0.1e6 or "The page is larger than 0.1 MB even with pictures of 96 pixels" in done.stderr

    def test_a_manifest_cannot_lead_out_of_its_study(self, results, study):
        line = {"name": "x.png", "folder": "../painted", "state": "done"}
        (study / "manifest.jsonl").write_text(json.dumps(line) + "\n")
        done = results.report("study", code=1)
        assert "the manifest gives '../painted' as its folder, expected a path below that of the study" in done.stderr

    def test_results_in_tar_files_are_named(self, results, study):
        shutil.rmtree(study / "gray")
        (study / "results-000000.tar").write_bytes(b"")
        done = results.report("study", code=1)
        assert "gray.png: study/gray: the results are packed in a tar file, which a report does not read." in done.stderr


class TestEvaluation:
    def test_figures_are_tables_of_all_and_of_each(self, results, study):
        rows = [{"name": "sub/photo", "psnr": 31.25, "ssim": 0.5}, {"name": "x", "psnr": "inf", "ssim": None}]
        summary = {"mean": {"psnr": 31.25}, "interval": {"psnr": [30, 32.5]}, "set": {"fid": 7}}
        one = {"restored": "/home/ann/out", "images": rows, **summary}
        two = {"restored": "b", "images": rows[:1], "mean": {"psnr": 30}, "difference": {"mean": {"psnr": -1.25}}}
        comparison = {"images": ["sub/photo"], "restored": [one | {"difference": {}}, two]}
        figures = {"reference": "clean", **one, "compared": [two], "comparison": comparison}
        (results.place / "figures.json").write_text(json.dumps(figures))
        results.report("study", "--evaluation", "figures.json", code=1)
        data = data_of(study / "report.html")
        of_all, of_other, compared = data["tables"]
        assert of_all["title"] == "Evaluation of out"
        assert of_all["heads"] == ["image", "PSNR [dB]", "SSIM", "FID"]
        assert of_all["rows"] == [
            ["sub/photo", "31.25", "0.5", ""],
            ["x", "inf", "", ""],
            ["mean", "31.25 (30 to 32.5)", "", "7"],
        ]
        assert of_other["title"] == "Evaluation of b"
        assert compared["rows"] == [["out", "31.25 (30 to 32.5)", "7"], ["b", "30", ""], ["b minus out", "-1.25", ""]]
        assert data["items"][0]["name"] == "sub/photo.png"
        assert data["items"][0]["tables"][-2]["rows"] == [["PSNR [dB]", "31.25"], ["SSIM", "0.5"]]
        assert "Evaluation" not in str(data["items"][1]["tables"])

    def test_the_file_of_invdiff_evaluate_is_read(self, results, invdiff):
        clean = ("--reference", results.place / "photo.png", "--restored", results.place / "painted" / "mean.png")
        invdiff("evaluate", *clean, "--metrics", "psnr", "--json", results.place / "figures.json")
        (evaluation,) = read_evaluation(results.place / "figures.json")
        assert evaluation.names == ["psnr"]
        assert list(evaluation.rows) == ["mean.png"]

    @pytest.mark.parametrize("text", ["nonsense", "[]", '{"images": 3}', '{"images": [{"psnr": 3}]}'])
    def test_another_file_is_refused(self, results, text):
        (results.place / "figures.json").write_text(text)
        done = results.report("painted", "--evaluation", "figures.json", code=1)
        assert "figures.json: expected the JSON of `invdiff evaluate --json`" in done.stderr
        assert not (results.place / "painted" / "report.html").exists()


class TestWhatIsInTheWay:
    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ("nonsense", "painted/run.json is damaged: it is not JSON. Run `invdiff solve` again."),
            (
                '{"command": "calibrate"}',
                "painted/run.json is a record of `invdiff calibrate`, expected one of `invdiff solve`.",
            ),
            ("{}", "painted/run.json is no record of `invdiff solve` that lists the files of its run."),
            ("[1]", "painted/run.json is no record of `invdiff solve` that lists the files of its run."),
            (
                '{"command": "solve", "arguments": {}, "outputs": {"../x.png": ""}}',
                "painted/run.json is damaged: it lists the file '../x.png', expected names of files beside it.",
            ),
            (
                '{"command": "solve", "arguments": {}, "outputs": {}, "notes": 3}',
                "painted/run.json is damaged: notes is a int, expected a list.",
            ),
        ],
    )
    def test_wrong_records(self, results, record, message):
        (results.place / "painted" / "run.json").write_text(record)
        assert results.report("painted", code=1).stderr == f"Error: {message}\n"

    def test_a_damaged_picture(self, results):
        (results.place / "painted" / "mean.png").write_bytes(b"nonsense")
        done = results.report("painted", code=1)
        assert re.fullmatch(r"Error: painted/mean.png: .*\n", done.stderr)
        assert not (results.place / "painted" / "report.html").exists()

    def test_no_results(self, results):
        (results.place / "empty").mkdir()
        assert "empty holds no results: expected run.json of `invdiff solve`" in results.report("empty", code=1).stderr
        assert "nowhere does not exist: expected a folder of results" in results.report("nowhere", code=1).stderr
        assert "photo.png is a file: expected a folder of results" in results.report("photo.png", code=1).stderr

    def test_other_files_are_not_replaced(self, results):
        (results.place / "mine.html").write_text("<!DOCTYPE html><p>mine")
        done = results.report("painted", "-o", "mine.html", code=1)
        assert done.stderr.startswith("Error: mine.html exists and is not a page of `invdiff report`.")
        assert (results.place / "mine.html").read_text() == "<!DOCTYPE html><p>mine"
        assert "the name must end in .html" in results.report("painted", "-o", "photo.png", code=2).stderr
        assert "there is no folder nowhere" in results.report("painted", "-o", "nowhere/page.html", code=1).stderr

    def test_earlier_reports_are_replaced(self, results):
        results.report("painted", "-o", "page.html")
        results.report("one", "-o", "page.html")
        assert len(data_of(results.place / "page.html")["items"][0]["pictures"]) == 4
        assert sorted(path.name for path in results.place.iterdir() if path.name.startswith((".", "page"))) == ["page.html"]

    def test_code_of_a_record_is_not_run(self, results):
        record = json.loads((results.place / "painted" / "run.json").read_text())
        (results.place / "own.py").write_text("raise SystemExit(7)")
        record["arguments"]["problem"] = "own.py:Mine"
        (results.place / "painted" / "run.json").write_text(json.dumps(record))
        results.report("painted")
        (item,) = data_of(results.place / "painted" / "report.html")["items"]
        assert any("code of its own, which a report does not run" in text for text in item["missing"])


def test_find_names_a_result_by_its_input(results):
    contents = find(results.place / "painted")
    assert [item.name for item in contents.items] == ["photo.png"]
    assert contents.items[0].best in (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/x y/photo.png", "photo.png"),
        ("/home/ann/photo.png: it is empty", "photo.png: it is empty"),
        ("C:\\Users\\ann\\photo.png", "photo.png"),
        ("../above/photo.png", "photo.png"),
        ("see /home/ann/a.png, and b/c.png", "see a.png, and b/c.png"),
        ("album/photo.png", "album/photo.png"),
        ("1/2 of the pixels, 3 / 4", "1/2 of the pixels, 3 / 4"),
        ({"a": ["/x/y.png", 3]}, {"a": ["y.png", 3]}),
    ],
)
def test_text_is_without_folders(text, expected):
    assert private(text) == expected
