"""The files of results: their format, and which picture is which."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import invdiff
from invdiff.cli.solve import FORMATS as COMMAND_FORMATS
from invdiff.cli.solve import QUALITY as COMMAND_QUALITY
from invdiff.cli.summary import summary
from invdiff.io.images import read_image, write_image
from invdiff.io.picture import Picture
from invdiff.problems import OptionError
from invdiff.restoration.formats import FORMATS, QUALITY, file_format
from invdiff.restoration.medoid import medoid

pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
HEIGHT, WIDTH = 16, 24
PIXELS = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH)) / 127.5 - 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few(tiny_prior):
    return {"problem": "denoise", "noise": 0.1, "prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 3}


def of(kind="PNG", *, bits=8, alpha=False):
    return Picture(PIXELS, alpha=np.ones((HEIGHT, WIDTH)) if alpha else None, bits=bits, format=kind)


class TestMedoid:
    def test_it_has_the_smallest_sum_of_squared_distances(self):
        x = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(3))
        sums = (x.unsqueeze(0) - x.unsqueeze(1)).square().flatten(2).sum((1, 2))
        assert medoid(x) == int(sums.argmin()) != 0

    def test_the_first_of_two(self):
        for seed in range(20):
            assert medoid(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))) == 0


class TestFormat:
    def test_the_command_has_the_same(self):
        assert (COMMAND_FORMATS, COMMAND_QUALITY) == (FORMATS, QUALITY)

    @pytest.mark.parametrize(
        ("wanted", "kind", "suffix", "notes"),
        [
            ("png", "JPEG", ".png", 0),
            ("jpg", "PNG", ".jpg", 0),
            ("tiff", "PNG", ".tif", 0),
            ("webp", "PNG", ".webp", 0),
            ("input", "JPEG", ".jpg", 0),
            ("input", "TIFF", ".tif", 0),
            ("input", "WEBP", ".webp", 0),
            ("input", "BMP", ".png", 1),
            ("input", "", ".png", 1),
        ],
    )
    def test_suffixes(self, wanted, kind, suffix, notes):
        found = file_format(of(kind), 3, wanted)
        assert (found.suffix, len(found.notes), found.bits) == (suffix, notes, 8)

    def test_what_a_format_does_not_hold_is_said(self):
        jpg = file_format(of(bits=16, alpha=True), 3, "jpg")
        assert (jpg.bits, jpg.alpha, jpg.quality) == (8, False, 95)
        assert ["8 of the 16 bits" in jpg.notes[0], "no transparency" in jpg.notes[1]] == [True, True]
        webp = file_format(of(bits=16, alpha=True), 3, "webp")
        assert (webp.bits, webp.alpha, len(webp.notes)) == (8, True, 1)
        for lossless in ("png", "tiff"):
            found = file_format(of(bits=16, alpha=True), 1, lossless)
            assert (found.bits, found.alpha, found.quality, found.notes) == (16, True, None, ())

    def test_many_channels_are_tiff(self):
        for wanted in ("png", "tiff", "input"):
            assert file_format(of("TIFF"), 5, wanted).suffix == ".tif"
        for wanted in ("jpg", "webp"):
            with pytest.raises(OptionError, match=f"--format {wanted}: only TIFF files hold results of 5 channels"):
                file_format(of(), 5, wanted)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("gif",), "'gif' is not one of png, jpg, tiff, webp, input"),
            (("jpg", 0), "whole number from 1 to 100, got 0"),
            (("jpg", 95.5), "whole number from 1 to 100"),
            (("png", 90), "--format-quality is for JPEG files"),
            (("input", 90), "--format-quality is for JPEG files"),
        ],
    )
    def test_wrong_ones(self, arguments, message):
        wanted, *quality = arguments
        with pytest.raises(OptionError, match=message):
            file_format(of("PNG"), 3, wanted, quality=quality[0] if quality else None)


class TestSaved:
    def test_best_is_a_copy_of_a_sample(self, folder, few):
        result = invdiff.restore(PIXELS / 2 + 0.5, **few)
        record = json.loads((result.save("out") / "run.json").read_text())
        assert record["best"] == f"sample-{medoid(result.samples) + 1}.png"
        assert (folder / "out" / "best.png").read_bytes() == (folder / "out" / record["best"]).read_bytes()
        assert torch.equal(result.best, result.pictures[medoid(result.samples)])
        text = summary({**result.record, **record, "output": "out"})
        assert f"the closest to all others ({record['best']})" in text
        assert "\nmean.png keep this for the least error on average" in text
        assert "\nstd.png  bright where the samples differ and the program is guessing" in text

    def test_a_single_sample_is_the_best_and_the_mean(self, folder, few):
        result = invdiff.restore(PIXELS / 2 + 0.5, **{**few, "samples": 1})
        result.save("out")
        names = {path.name for path in (folder / "out").iterdir()}
        assert names == {"sample-1.png", "best.png", "mean.png", "comparison.png", "run.json"}
        assert "best.png the only sample, and so is mean.png; no std.png" in summary(
            {**result.record, "best": "sample-1.png", "output": ""}
        )

    def test_overwrite_without_a_folder_replaces_the_default_one(self, folder, few):
        write_image("b.png", PIXELS)
        first = invdiff.restore("b.png", **few)
        assert [str(first.save()), str(first.save())] == ["invdiff-out/b-denoise", "invdiff-out/b-denoise-2"]
        second = invdiff.restore("b.png", **{**few, "samples": 2})
        assert str(second.save(overwrite=True)) == "invdiff-out/b-denoise"
        assert not (folder / "invdiff-out" / "b-denoise" / "sample-3.png").exists()
        assert sorted(path.name for path in (folder / "invdiff-out").iterdir()) == ["b-denoise", "b-denoise-2"]
        (folder / "invdiff-out" / "b-denoise" / "best.png").write_bytes(b"retouched")
        with pytest.raises(ValueError, match=r"best\.png was changed after the run that wrote it"):
            second.save(overwrite=True)
        assert (folder / "invdiff-out" / "b-denoise" / "best.png").read_bytes() == b"retouched"

    @pytest.mark.parametrize(("wanted", "kind"), [("jpg", "JPEG"), ("tiff", "TIFF"), ("webp", "WEBP"), ("input", "JPEG")])
    def test_files_are_of_the_format_and_keep_what_describes_them(self, folder, few, wanted, kind):
        exif = Image.Exif()
        exif[271] = "a camera"
        Image.fromarray(np.uint8(np.rint((PIXELS.transpose(1, 2, 0) + 1) * 127.5))).save(
            "in.jpg", exif=exif, icc_profile=b"a profile", dpi=(300, 300), quality=95
        )
        result = invdiff.restore("in.jpg", **few)
        record = json.loads((result.save("out", format=wanted) / "run.json").read_text())
        assert record["arguments"]["format"] == wanted
        suffix = {"JPEG": "jpg", "TIFF": "tif", "WEBP": "webp"}[kind]
        names = {f"{name}.{suffix}" for name in ("sample-1", "sample-2", "sample-3", "best", "mean")}
        assert record["outputs"].keys() == {*names, "std.png", "comparison.png"}
        for name in names:
            with Image.open(folder / "out" / name) as image:
                assert image.format == kind
                assert image.info["icc_profile"] == b"a profile"
                assert image.getexif()[271] == "a camera"
            written = read_image(folder / "out" / name).pixels
            given = 2 * result.mean.numpy() - 1 if name.startswith("mean") else None
            if given is not None:
                assert np.abs(written - given.clip(-1, 1)).max() < (0.3 if kind == "JPEG" else 0.51 / 127.5)

    def test_quality(self, folder, few):
        result = invdiff.restore(PIXELS / 2 + 0.5, **few)
        sizes = []
        for quality in (30, 95):
            result.save(f"out{quality}", format="jpg", format_quality=quality)
            sizes.append((folder / f"out{quality}" / "best.jpg").stat().st_size)
            record = json.loads((folder / f"out{quality}" / "run.json").read_text())
            assert record["arguments"]["format_quality"] == quality
        assert sizes[0] < sizes[1]

    def test_transparency_and_depth_are_named(self, folder, few):
        write_image("in.png", PIXELS, bits=16, alpha=np.full((HEIGHT, WIDTH), 0.5))
        result = invdiff.restore("in.png", **few)
        record = json.loads((result.save("out", format="jpg") / "run.json").read_text())
        assert sum(note.startswith("--format jpg: ") for note in record["notes"]) == 2
        assert read_image(folder / "out" / "best.jpg").alpha is None
        result.save("kept")
        kept = read_image(folder / "kept" / "best.png")
        assert (kept.bits, kept.alpha is None) == (16, False)
