"""``invdiff solve --problem inpaint`` with the masks that people have, and ``invdiff.restore`` with the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import invdiff
from invdiff.io.images import read_image, write_image

pytestmark = pytest.mark.slow

SIDE = 32
SAMPLES = ("sample-1.png", "sample-2.png", "mean.png")


def photograph():
    noise = np.random.default_rng(0).standard_normal((SIDE, SIDE, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    return np.uint8(60 + 110 * (smooth - smooth.min()) / np.ptp(smooth))


def stroke(width=3):
    """Coverage of an anti-aliased stroke."""
    drawn = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(drawn).line([(20, 24), (100, 90)], fill=255, width=4 * width)
    return drawn.resize((SIDE, SIDE), Image.Resampling.BOX)


def over(color, share=None):
    share = stroke() if share is None else share
    return Image.composite(Image.new("RGB", (SIDE, SIDE), color), Image.fromarray(photograph()), share)


@pytest.fixture
def files(tmp_path):
    """A photograph, and all that marks the same stroke on it."""
    clean, share = Image.fromarray(photograph()), stroke()
    clean.save(tmp_path / "in.png")
    share.save(tmp_path / "soft.png")
    share.save(tmp_path / "soft.jpg", quality=90)
    Image.eval(share, lambda level: 255 - level).save(tmp_path / "keep.png")
    over("red").save(tmp_path / "red.png")
    over("red").save(tmp_path / "red.jpg", quality=90)
    layer = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))
    layer.putalpha(share)
    layer.save(tmp_path / "layer.png")
    erased = clean.convert("RGBA")
    erased.putalpha(Image.eval(share, lambda level: 255 - level))
    erased.save(tmp_path / "erased.png")
    Image.fromarray(np.asarray(share) >= 13).save(tmp_path / "bits.png")
    share.convert("P").save(tmp_path / "palette.png")
    np.save(tmp_path / "floats.npy", np.asarray(share) / 255)
    np.save(tmp_path / "levels.npy", np.asarray(share).astype(np.int64))
    return tmp_path


def fill(solve, *arguments, out="out", **options):
    return solve(*arguments, "--problem", "inpaint", "-o", out, **options)


def mask_in(folder):
    return read_image(folder / "mask.png").pixels[0] > 0


class TestKinds:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("in.png", "--mask", "soft.png"), "gray: filled above 0.05"),
            (("in.png", "--mask", "soft.png", "--mask-threshold", 0.4), "gray: filled above 0.4"),
            (("in.png", "--mask", "soft.jpg"), "gray: filled above 0.15"),
            (("in.png", "--mask", "keep.png", "--mask-keep", "white"), "gray: filled above 0.05"),
            (("in.png", "--mask", "bits.png"), ""),
            (("in.png", "--mask", "palette.png"), "gray: filled above 0.05"),
            (("in.png", "--mask", "floats.npy"), "gray: filled above 0.05"),
            (("in.png", "--mask", "levels.npy"), "levels from 0 to 255"),
            (("in.png", "--mask", "layer.png"), "paint of one color on a transparent ground"),
            (("in.png", "--mask", "erased.png"), "a copy of INPUT with transparent pixels"),
            (("in.png", "--mask", "red.png"), "a copy of INPUT that differs from it in"),
            (("in.png", "--mask", "red.png", "--mask-color", "red"), "painted in #ff0000"),
            (("in.png", "--mask", "red.jpg", "--mask-color", "#f00"), "painted in #ff0000"),
            (("red.png", "--mask-color", "RED"), "painted in #ff0000"),
            (("red.jpg", "--mask-color", "rgb(255, 0, 0)"), "painted in #ff0000"),
            (("red.png", "--mask", "soft.png"), "gray: filled above 0.05"),
            (("erased.png",), "partly transparent: filled above 0.5"),
            (("erased.png", "--mask-threshold", 0.1), "partly transparent: filled above 0.1"),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
    )
    def test_the_stroke_is_filled_and_the_rest_is_kept(self, solve, files, arguments, said):
        result = fill(solve, *arguments)
        share, hole = np.asarray(stroke()) / 255, mask_in(files / "out")
        assert said in result.stderr
        assert f"filling {hole.mean():.1%} of the pixels" in result.stderr
        assert hole[share > 0.6].all()
        assert not hole[ndimage.distance_transform_edt(share == 0) > 3].any()
        given = read_image(files / arguments[0])
        for name in SAMPLES:
            pixels = read_image(files / "out" / name).pixels
            np.testing.assert_array_equal(pixels[:, ~hole], given.pixels[:, ~hole])
            assert (pixels[:, hole] != given.pixels[:, hole]).any()
        assert "mask.png" in json.loads((files / "out" / "run.json").read_text())["outputs"]

    def test_what_a_soft_mask_fills(self, solve, files):
        fill(solve, "in.png", "--mask", "soft.png")
        np.testing.assert_array_equal(mask_in(files / "out"), np.asarray(stroke()) > 0.05 * 255)

    def test_most_of_the_picture(self, solve, files):
        assert "--mask-keep white" in fill(solve, "in.png", "--mask", "keep.png").stderr
        assert "--mask-keep white" not in fill(solve, "in.png", "--mask", "soft.png", out="b").stderr


class TestGrowth:
    @pytest.mark.parametrize(
        ("arguments", "pixels"),
        [
            (("in.png", "--mask", "bits.png"), 0),
            (("in.png", "--mask", "bits.png", "--grow-mask", 3), 3),
            (("shared.jpg", "--mask", "bits.png"), 1),
            (("full.jpg", "--mask", "bits.png"), 0),
            (("shared.jpg", "--mask", "bits.png", "--grow-mask", 0), 0),
            (("shared.jpg", "--mask", "bits.png", "--grow-mask", 4), 4),
            (("named.png", "--mask", "bits.png"), 1),
            (("named.jpg", "--mask", "bits.png"), 0),
            (("shared.jpg", "--mask", "bits.png", "--simulate"), 0),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
    )
    def test_by_pixels_and_around_strokes_on_jpeg_files(self, solve, files, arguments, pixels):
        for name, kind, options in (
            ("shared.jpg", "JPEG", {"subsampling": 2}),
            ("full.jpg", "JPEG", {"subsampling": 0}),
            ("named.png", "JPEG", {}),
            ("named.jpg", "PNG", {}),
        ):
            over("red").save(files / name, kind, **options)
        result = fill(solve, *arguments)
        far = ndimage.distance_transform_edt(np.asarray(stroke()) < 13)
        np.testing.assert_array_equal(mask_in(files / "out"), far <= pixels)
        assert ("grown by" in result.stderr) == (pixels > 0)
        assert ("INPUT is a JPEG file" in result.stderr) == (pixels > 0 and "--grow-mask" not in arguments)

    def test_what_is_painted_on_a_jpeg_file_is_grown_by_one(self, solve, files):
        assert "grown by 1 pixel: INPUT is a JPEG file" in fill(solve, "red.jpg", "--mask-color", "red").stderr
        fill(solve, "red.jpg", "--mask-color", "red", "--grow-mask", 0, out="b")
        far = ndimage.distance_transform_edt(~mask_in(files / "b"))
        np.testing.assert_array_equal(mask_in(files / "out"), far <= 1)


class TestAgain:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("in.png", "--mask", "soft.png", "--mask-threshold", 0.3),
            ("in.png", "--mask", "keep.png", "--mask-keep", "white", "--grow-mask", 2),
            ("red.jpg", "--mask", "soft.png"),
            ("red.jpg", "--mask", "soft.png", "--grow-mask", 5),
            ("red.jpg", "--mask", "soft.png", "--grow-mask", 0),
            ("red.jpg", "--mask-color", "red"),
            ("in.png", "--mask", "layer.png"),
            ("erased.png", "--mask", "soft.png"),
        ],
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_the_mask_that_was_used_gives_the_same_result(self, solve, files, arguments):
        fill(solve, *arguments)
        said = fill(solve, arguments[0], "--mask", "out/mask.png", out="again").stderr
        for name in ("mask.png", *SAMPLES):
            assert (files / "out" / name).read_bytes() == (files / "again" / name).read_bytes()
        assert ("which has grown it already" in said) == (arguments[0] == "red.jpg")

    def test_it_is_listed_and_replaced(self, solve, files):
        fill(solve, "in.png", "--mask", "soft.png")
        (files / "mine.txt").touch()
        fill(solve, "in.png", "--mask", "bits.png", "--grow-mask", 1, "--overwrite")
        far = ndimage.distance_transform_edt(np.asarray(stroke()) < 13)
        np.testing.assert_array_equal(mask_in(files / "out"), far <= 1)
        said = fill(solve, "in.png", "--mask", "out/mask.png", "--overwrite", code=1).stderr
        assert "mask.png" in said  # it is read, and would be replaced

    def test_other_problems_have_none(self, solve, files):
        solve("in.png", "--problem", "outpaint", "--margin", 2, "-o", "out")
        assert not (files / "out" / "mask.png").exists()


class TestPython:
    @pytest.mark.parametrize(
        ("source", "options"),
        [
            ("in.png", {"mask": "soft.png", "mask_threshold": 0.3, "grow_mask": 1}),
            ("red.jpg", {"mask_color": "red"}),
            ("in.png", {"mask": "red.png"}),
            ("red.jpg", {"mask": "layer.png"}),
        ],
    )
    def test_equals_the_command_line(self, solve, files, tiny_prior, monkeypatch, source, options):
        monkeypatch.chdir(files)
        arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        fill(solve, source, *arguments)
        settings = {"problem": "inpaint", "prior": str(tiny_prior), "steps": 2, "samples": 2, "precision": "float32"}
        for given in (source, Image.open(source)):
            chosen = {**options, **({} if given is source or "mask" not in options else {"mask": Image.open(options["mask"])})}
            invdiff.restore(given, **settings, **chosen).save("python", overwrite=True)
            for name in ("mask.png", *SAMPLES):
                assert (files / "out" / name).read_bytes() == (files / "python" / name).read_bytes()

    def test_arrays(self, files, tiny_prior):
        share = np.asarray(stroke()) / 255
        settings = {"problem": "inpaint", "prior": str(tiny_prior), "steps": 2, "samples": 1, "precision": "float32"}
        result = invdiff.restore(str(files / "in.png"), mask=share, mask_threshold=0.5, grow_mask=2, **settings)
        far = ndimage.distance_transform_edt(share <= 0.5)
        np.testing.assert_array_equal(result.measured.problem.extras()["mask"].pixels[0] > 0, far <= 2)
        painted = np.asarray(over("red")).transpose(2, 0, 1)
        result = invdiff.restore(str(files / "in.png"), mask=painted, mask_color="red", **settings)
        assert (result.measured.problem.extras()["mask"].pixels[0] > 0)[share > 0.2].all()


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "said", "code"),
        [
            (("in.png", "--mask", "black.png"), "black.png: the mask leaves nothing to fill", 1),
            (("in.png", "--mask", "white.png"), "white.png: the mask leaves everything to fill", 1),
            (("in.png", "--mask", "soft.png", "--grow-mask", 100), "grown by 100 pixels", 1),
            (("in.png", "--mask", "faint.png", "--mask-threshold", 0.9), "nothing to fill at the threshold 0.9", 1),
            (("in.png", "--mask", "soft.png", "--mask-threshold", 0), "--mask-threshold", 2),
            (("in.png", "--mask", "soft.png", "--mask-threshold", 1), "--mask-threshold", 2),
            (("in.png", "--mask", "soft.png", "--mask-threshold", "nan"), "--mask-threshold", 2),
            (("in.png", "--mask", "soft.png", "--grow-mask", -1), "--grow-mask", 2),
            (("in.png", "--mask", "soft.png", "--grow-mask", 1.5), "--grow-mask", 2),
            (("in.png", "--mask", "red.png", "--mask-color", "redd"), "Did you mean 'red'?", 2),
            (("in.png", "--mask", "red.png", "--mask-color", "rgb(999, 0, 0)"), "expected a name such as red", 2),
            (("in.png", "--mask", "red.png", "--mask-color", ""), "--mask-color", 2),
            (("in.png", "--mask", "red.png", "--mask-color", "blue"), "no pixel has the color #0000ff", 1),
            (("in.png", "--mask-color", "red"), "no pixel has the color #ff0000", 1),
            (("in.png", "--mask", "red.png", "--mask-color", "red", "--mask-keep", "white"), "exclude each other", 2),
            (("--mask-color", "red"), "needs --mask", 2),
            (("in.png",), "--mask-color if they are painted over", 1),
            (("in.png", "--mask", "in.png"), "nothing is painted over", 1),
            (("in.png", "--mask", "other.png"), "colored", 1),
            (("in.png", "--mask", "double.png"), "scale the mask to 32 x 32", 1),
            (("turned.png", "--mask", "turned-mask.png"), "turn the mask by 90 degrees", 1),
            (("in.png", "--mask", "wide.png"), "paint it on the image itself", 1),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
    )
    def test_with_what_to_do(self, solve, files, arguments, said, code):
        for name, level in (("black", 0), ("white", 255), ("faint", 100)):
            Image.new("L", (SIDE, SIDE), level).save(files / f"{name}.png")
        Image.fromarray(np.flipud(photograph())).save(files / "other.png")
        Image.new("L", (64, 64)).save(files / "double.png")
        Image.new("L", (50, 20)).save(files / "wide.png")
        Image.fromarray(np.resize(photograph(), (20, SIDE, 3))).save(files / "turned.png")
        Image.new("L", (20, SIDE)).save(files / "turned-mask.png")
        result = fill(solve, *arguments, code=code)
        assert said in " ".join(result.stderr.split())
        assert not (files / "out").exists()


def test_a_mask_of_paint_without_a_photograph(invdiff, files, tiny_prior):
    """As calibration takes one: every picture is degraded with it."""
    (files / "photos").mkdir()
    for k in range(2):
        write_image(files / "photos" / f"{k}.png", np.zeros((3, SIDE, SIDE)))
    few = ("--prior", tiny_prior, "--steps", 2, "--samples", 3, "--size", SIDE, "--noise", 0.1)
    invdiff("calibrate", "photos", "--problem", "inpaint", "--mask", "red.png", "--mask-color", "red", *few, "-o", "report")
