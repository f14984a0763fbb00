"""``invdiff solve`` on files people have: what goes in comes back in the same mode, and can be repeated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.io.images import read_arrays, read_image, write_image
from invdiff.operators import Downsample
from invdiff.problems import Dejpeg
from invdiff.restoration import read, result
from invdiff.restoration.record import to_json

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 16, 24
HOLE = np.s_[5:9, 8:15]
EVERY = ["best.png", "comparison.png", "mean.png", "run.json", "sample-1.png", "sample-2.png", "std.png"]


def pixels(channels=3, height=HEIGHT, width=WIDTH, bits=8):
    """Integers of a given depth, on the scale of pictures."""
    values = np.random.default_rng(0).integers(0, 2**bits, (channels, height, width))
    return values / ((2**bits - 1) / 2) - 1


def hole(height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), dtype=bool)
    mask[HOLE] = True
    return mask


def save_mask(path, mask):
    Image.fromarray(np.uint8(255 * mask)).save(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


class TestInpaint:
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_measured_pixels_come_back_exactly(self, solve, tmp_path, suffix, channels, bits):
        write_image(tmp_path / f"in{suffix}", pixels(channels, bits=bits), bits=bits)
        save_mask(tmp_path / "mask.png", hole())
        solve(f"in{suffix}", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
        assert names(tmp_path / "out") == sorted([*EVERY, "mask.png"])
        given = read_image(tmp_path / f"in{suffix}")
        for name in ("sample-1.png", "sample-2.png", "mean.png"):
            result = read_image(tmp_path / "out" / name)
            assert result.bits == bits
            np.testing.assert_array_equal(result.pixels[:, ~hole()], given.pixels[:, ~hole()])
            assert (result.pixels[:, hole()] != given.pixels[:, hole()]).any()

    @pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".npy"])
    def test_other_formats(self, solve, tmp_path, suffix):
        write_image(tmp_path / f"in{suffix}", pixels())
        save_mask(tmp_path / "mask.png", hole())
        solve(f"in{suffix}", "--problem", "inpaint", "--mask", "mask.png", "--grow-mask", 0, "-o", "out")
        given, result = read_image(tmp_path / f"in{suffix}"), read_image(tmp_path / "out" / "sample-1.png")
        assert result.bits == given.bits
        tolerance = 2 / 65535 if suffix == ".npy" else 0
        np.testing.assert_allclose(result.pixels[:, ~hole()], given.pixels[:, ~hole()], rtol=0, atol=tolerance)

    @pytest.mark.parametrize("size", [(37, 51), (8, 8), (1, 9), (9, 1)])
    def test_odd_sizes(self, solve, tmp_path, size):
        write_image(tmp_path / "in.png", pixels(3, *size))
        mask = np.zeros(size, dtype=bool)
        mask[0, 0] = True
        save_mask(tmp_path / "mask.png", mask)
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
        assert read_image(tmp_path / "out" / "mean.png").pixels.shape == (3, *size)

    def test_what_lies_under_the_mask_is_not_looked_at(self, solve, tmp_path):
        save_mask(tmp_path / "mask.png", hole())
        for name, hidden in (("a", -1.0), ("b", 1.0)):
            image = pixels()
            image[:, hole()] = hidden
            write_image(tmp_path / f"{name}.png", image)
            solve(f"{name}.png", "--problem", "inpaint", "--mask", "mask.png", "-o", name)
        assert (tmp_path / "a" / "sample-2.png").read_bytes() == (tmp_path / "b" / "sample-2.png").read_bytes()

    def test_mask_keep_white_turns_the_mask_round(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels())
        save_mask(tmp_path / "fill.png", hole())
        save_mask(tmp_path / "keep.png", ~hole())
        share = f"filling {hole().mean():.1%} of the pixels"
        assert share in solve("in.png", "--problem", "inpaint", "--mask", "fill.png", "-o", "a").stderr
        turned = solve("in.png", "--problem", "inpaint", "--mask", "keep.png", "--mask-keep", "white", "-o", "b")
        assert share in turned.stderr
        assert (tmp_path / "a" / "mean.png").read_bytes() == (tmp_path / "b" / "mean.png").read_bytes()

    def test_alpha_serves_as_mask(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels(), alpha=1.0 - hole())
        solve("in.png", "--problem", "inpaint", "-o", "out")
        result = read_image(tmp_path / "out" / "sample-1.png")
        assert result.alpha is None  # what was transparent is filled
        np.testing.assert_array_equal(result.pixels[:, ~hole()], pixels()[:, ~hole()])

    def test_alpha_beside_a_mask_is_passed_through_where_nothing_is_filled(self, solve, tmp_path):
        alpha = np.random.default_rng(1).integers(1, 256, (HEIGHT, WIDTH)) / 255
        write_image(tmp_path / "in.png", pixels(), alpha=alpha)
        save_mask(tmp_path / "mask.png", hole())
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
        np.testing.assert_array_equal(read_image(tmp_path / "out" / "sample-2.png").alpha, np.where(hole(), 1, alpha))

    def test_orientation_is_applied(self, solve, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        values = np.uint8(np.rint((pixels().transpose(1, 2, 0) + 1) * 127.5))
        Image.fromarray(values).save(tmp_path / "in.png", exif=exif)
        save_mask(tmp_path / "mask.png", hole().T)
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
        result = read_image(tmp_path / "out" / "sample-1.png")
        np.testing.assert_array_equal(result.pixels[:, ~hole().T], np.rot90(pixels(), -1, (1, 2))[:, ~hole().T])

    def test_noise_is_taken_away(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels())
        save_mask(tmp_path / "mask.png", hole())
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "--noise", 0.1, "-o", "out")
        assert (read_image(tmp_path / "out" / "mean.png").pixels[:, ~hole()] != pixels()[:, ~hole()]).any()
        assert record_of(tmp_path / "out")["residual_expected"] == 3 * (~hole()).sum()


class TestOtherProblems:
    def test_enlarging_keeps_mode_and_alpha(self, solve, tmp_path):
        alpha = np.random.default_rng(1).integers(0, 256, (5, 7)) / 255
        write_image(tmp_path / "in.png", pixels(3, 5, 7), alpha=alpha)
        solve("in.png", "--problem", "sr", "--factor", 3, "--noise", 0.01, "-o", "out")
        result = read_image(tmp_path / "out" / "sample-1.png")
        assert result.pixels.shape == (3, 15, 21)
        np.testing.assert_array_equal(result.alpha, alpha.repeat(3, 0).repeat(3, 1))

    def test_simulating_crops_to_the_factor(self, solve, tmp_path):
        alpha = np.random.default_rng(1).integers(0, 256, (17, 26)) / 255
        write_image(tmp_path / "in.png", pixels(3, 17, 26), alpha=alpha)
        result = solve("in.png", "--problem", "sr", "--factor", 4, "--downsampling", "area", "--simulate", "-o", "out")
        assert "cropped to 24 x 16" in result.stderr
        assert "PSNR" in result.stdout
        assert names(tmp_path / "out") == sorted([*EVERY, "measurement.png"])
        np.testing.assert_array_equal(read_image(tmp_path / "out" / "mean.png").alpha, alpha[:16, :24])
        clean = torch.from_numpy(pixels(3, 17, 26)[None, :, :16, :24])
        expected = Downsample((3, 16, 24), 4, kernel="area")(clean)[0].numpy()
        measured = read_image(tmp_path / "out" / "measurement.png").pixels
        np.testing.assert_allclose(measured, expected, rtol=0, atol=1 / 255 + 1e-6)

    @pytest.mark.parametrize("kernel", ["gaussian:0.7", "gaussian:.5", "motion:5,45", "motion:3,-1e1", "psf.png", "psf.npz:b"])
    def test_kernels(self, solve, tmp_path, kernel):
        write_image(tmp_path / "in.png", pixels())
        write_image(tmp_path / "psf.png", pixels(1, 3, 5))
        np.savez(tmp_path / "psf.npz", a=np.zeros(3), b=np.ones((2, 3)))
        solve("in.png", "--problem", "deblur", "--kernel", kernel, "--noise", 0.02, "-o", "out")
        files = record_of(tmp_path / "out")["files"]
        assert set(files) == ({"input", "kernel"} if kernel.startswith("psf") else {"input"})

    def test_grey_is_judged_by_its_own_noise(self, solve, tmp_path):
        # The prior sees three equal channels whose noise is one: what fits must not look too good.
        write_image(tmp_path / "in.png", pixels(1), bits=16)
        solve("in.png", "--problem", "deblur", "--kernel", "gaussian:0.5", "--noise", 0.1, "-o", "out", "--simulate", "--npz")
        record = record_of(tmp_path / "out")
        assert record["residual_expected"] == HEIGHT * WIDTH
        assert read_image(tmp_path / "out" / "mean.png").pixels.shape == (1, HEIGHT, WIDTH)
        with np.load(tmp_path / "out" / "posterior.npz") as arrays:
            assert arrays["samples"].shape == (2, 1, HEIGHT, WIDTH)
            assert arrays["measurement"].shape == (1, HEIGHT, WIDTH)

    def test_without_input_a_photograph_is_degraded(self, solve, tmp_path):
        save_mask(tmp_path / "mask.png", hole())
        result = solve("--problem", "inpaint", "--mask", "mask.png")
        assert f"bundled picture (chelsea, {WIDTH} x {HEIGHT})" in result.stderr
        assert record_of(tmp_path / "invdiff-out" / "chelsea-inpaint")["metrics"]["psnr_mean"] > 0

    def test_arrays_may_leave_the_scale_of_files(self, solve, tmp_path):
        np.save(tmp_path / "in.npy", np.full((HEIGHT, WIDTH), 1.75, dtype=np.float32))
        save_mask(tmp_path / "mask.png", hole())
        solve("in.npy", "--problem", "inpaint", "--mask", "mask.png", "-o", "out", "--npz")
        with np.load(tmp_path / "out" / "posterior.npz") as arrays:
            np.testing.assert_allclose(arrays["samples"][:, :, ~hole()], 1.75, rtol=1e-6)
        assert (read_image(tmp_path / "out" / "mean.png").pixels[:, ~hole()] == 1).all()


class TestChannels:
    """Problems whose measurement is grey and whose image is coloured, and grey pictures of the others."""

    COLOURED = (("colorize",), ("demosaic", "--pattern", "gbrg"))

    @pytest.mark.parametrize("problem", COLOURED, ids=lambda problem: problem[0])
    def test_grey_goes_in_and_colours_come_out(self, solve, tmp_path, problem):
        write_image(tmp_path / "in.png", pixels(1), icc=b"of grey")
        result = solve("in.png", "--problem", *problem, "-o", "out")
        assert "color profile of INPUT is not written" in result.stderr
        samples = read_image(tmp_path / "out" / "sample-1.png")
        assert samples.pixels.shape == (3, HEIGHT, WIDTH)
        assert samples.icc is None

    @pytest.mark.parametrize("problem", COLOURED, ids=lambda problem: problem[0])
    def test_simulated(self, solve, tmp_path, problem):
        write_image(tmp_path / "in.png", pixels(3))
        result = solve("in.png", "--problem", *problem, "--noise", 0.05, "--simulate", "-o", "out")
        assert "PSNR" in result.stdout
        assert read_image(tmp_path / "out" / "measurement.png").pixels.shape == (1, HEIGHT, WIDTH)
        assert record_of(tmp_path / "out")["residual_expected"] == HEIGHT * WIDTH

    def test_a_mosaic_stays_in_its_place(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels(1))
        solve("in.png", "--problem", "demosaic", "--pattern", "GBRG", "--noise", 0, "-o", "out")
        result = read_image(tmp_path / "out" / "sample-2.png").pixels
        for channel, rows, columns in ((1, 0, 0), (2, 0, 1), (0, 1, 0), (1, 1, 1)):
            np.testing.assert_array_equal(result[channel, rows::2, columns::2], pixels(1)[0, rows::2, columns::2])

    @pytest.mark.parametrize(
        "problem",
        [
            ("denoise", "--noise", 0.1),
            ("defocus", "--radius", 1.5, "--noise", 0.1, "--boundary", "zero"),
            ("motion-deblur", "--length", 5, "--angle", -1e1, "--noise", 0.1),
            ("outpaint", "--margin", 2),
            ("declip", "--clip-high", 0.6, "--noise", 0.02),
            ("dequantize", "--levels", 5),
        ],
        ids=lambda problem: problem[0],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_all_others(self, solve, tmp_path, problem, channels):
        write_image(tmp_path / "in.png", pixels(channels))
        solve("in.png", "--problem", *problem, "--simulate", "-o", "out")
        assert names(tmp_path / "out") == sorted([*EVERY, "measurement.png"])
        assert read_image(tmp_path / "out" / "mean.png").pixels.shape == (channels, HEIGHT, WIDTH)


class TestKnownExactly:
    def test_outpainting_adds_a_margin(self, solve, tmp_path):
        alpha = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH)) / 255
        write_image(tmp_path / "in.png", pixels(), alpha=alpha)
        solve("in.png", "--problem", "outpaint", "--margin", 3, "-o", "out")
        result = read_image(tmp_path / "out" / "sample-1.png")
        assert result.pixels.shape == (3, HEIGHT + 6, WIDTH + 6)
        np.testing.assert_array_equal(result.pixels[:, 3:-3, 3:-3], pixels())
        np.testing.assert_array_equal(result.alpha, np.pad(alpha, 3, constant_values=1.0))

    def test_clipping_is_on_the_scale_of_files(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels().clip(-0.6, 0.2))
        solve("in.png", "--problem", "declip", "--clip-low", 0.2, "--clip-high", 0.6, "-o", "out")
        given, result = (read_image(tmp_path / name).pixels for name in ("in.png", "out/sample-1.png"))
        inside = (given > given.min()) & (given < given.max())
        assert 0.2 < inside.mean() < 0.8
        np.testing.assert_array_equal(result[inside], given[inside])
        assert (result[given == given.max()] >= given.max()).all()
        assert (result[given == given.min()] <= given.min()).all()

    def test_levels_are_kept_to_half_a_step(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels())
        solve("in.png", "--problem", "dequantize", "--levels", 6, "--simulate", "-o", "out")
        measured = read_image(tmp_path / "out" / "measurement.png").pixels
        assert len(np.unique(measured)) == 6
        for name in ("sample-1.png", "mean.png"):
            assert abs(read_image(tmp_path / "out" / name).pixels - measured).max() <= 1 / 5 + 1 / 255 + 1e-6

    def test_a_grey_quantised_picture_weighs_once(self, solve, tmp_path, monkeypatch):
        from invdiff import posterior

        seen = []
        run = posterior.PosteriorSampler.run
        monkeypatch.setattr(
            posterior.PosteriorSampler,
            "run",
            lambda self, *args, **options: seen.append(self.op) or run(self, *args, **options),
        )
        write_image(tmp_path / "in.png", pixels(1))
        solve("in.png", "--problem", "dequantize", "--levels", 5, "-o", "out")
        assert seen[0].sigma_y == pytest.approx(0.5 / 12**0.5 * 3**0.5)


class TestRecord:
    @pytest.fixture
    def picture(self, tmp_path):
        write_image(tmp_path / "in.png", pixels())
        save_mask(tmp_path / "mask.png", hole())
        return ("in.png", "--problem", "inpaint", "--mask", "mask.png")

    def test_json_is_the_record_with_time_and_place(self, solve, tmp_path, picture):
        said = json.loads(solve(*picture, "--json", "-o", "out").stdout)
        assert said.pop("output") == "out"
        timing = said.pop("timing")
        assert timing.keys() == {"seconds", "estimate", "peak_memory_mib"}
        assert timing["seconds"].keys() == {"start", "load", "sample", "write"}
        assert timing["seconds"]["sample"] > 0
        assert said == record_of(tmp_path / "out")

    def test_equal_runs_write_equal_folders(self, solve, tmp_path, picture):
        more = ("--npz", "--noise", 0.1, "--intervals", 80)
        for name in "ab":
            solve(*picture, *more, "-o", name)
        assert contents(tmp_path / "a") == contents(tmp_path / "b")

    def test_infinities_stay_json(self):
        assert json.loads(to_json({"psnr": math.inf, "file": Path("a"), "list": (1, -math.inf)})) == {
            "psnr": "inf",
            "file": "a",
            "list": [1, "-inf"],
        }
        with pytest.raises(ValueError, match="JSON"):
            to_json(math.nan)

    def test_a_run_can_be_repeated_from_its_record(self, solve, invdiff, tmp_path, picture, tiny_prior):
        more = ("--method", "dps", "--option", "zeta=0.25", "--rule", "ddim", "--noise", 0.1, "--seed", 3, "--npz")
        solve(*picture, *more, "-o", "first")
        record = record_of(tmp_path / "first")
        assert (record["method"], record["options"]["zeta"], record["options"]["rule"]) == ("dps", 0.25, "ddim")
        arguments = dict(record["arguments"])
        again = [arguments.pop("input")]
        for name, value in arguments.items():
            if isinstance(value, bool):
                again += [f"--{name}"] if value else []
            elif value is not None:
                for item in value if isinstance(value, list) else [value]:
                    again += [f"--{name.replace('_', '-')}", item]
        invdiff("solve", *again, "--prior", tiny_prior, "-o", "second")
        assert names(tmp_path / "first") == names(tmp_path / "second")
        assert contents(tmp_path / "first") == contents(tmp_path / "second")

    def test_the_seed_and_nothing_else_changes_the_samples(self, solve, tmp_path, picture):
        solve(*picture, "--samples", 3, "--chunk", 2, "-o", "a")
        solve(*picture, "--samples", 1, "-o", "b")
        solve(*picture, "--samples", 1, "--seed", 1, "-o", "c")
        a, b, c = ((tmp_path / name / "sample-1.png").read_bytes() for name in "abc")
        assert a == b != c

    def test_a_later_run_continues_with_the_next_samples(self, solve, tmp_path, picture):
        solve(*picture, "--samples", 10, "--chunk", 2, "-o", "whole")
        solve(*picture, "--samples", 2, "--first-sample", 8, "--chunk", 2, "-o", "later")
        assert [name for name in names(tmp_path / "later") if name.startswith("sample")] == ["sample-09.png", "sample-10.png"]
        for name in ("sample-09.png", "sample-10.png"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "later" / name).read_bytes()
        assert set(names(tmp_path / "later")) <= set(names(tmp_path / "whole"))
        assert record_of(tmp_path / "later")["arguments"]["first_sample"] == 8
        solve(*picture, "--samples", 2, "--first-sample", 2, "-o", "later", "--overwrite")
        assert [name for name in names(tmp_path / "later") if name.startswith("sample")] == ["sample-3.png", "sample-4.png"]

    def test_one_sample_has_no_spread_and_says_so(self, solve, tmp_path, picture):
        assert "no std.png" in solve(*picture, "--samples", 1, "-o", "out").stdout
        assert names(tmp_path / "out") == [
            "best.png",
            "comparison.png",
            "mask.png",
            "mean.png",
            "run.json",
            "sample-1.png",
        ]

    def test_summary_is_short_and_aligned(self, solve, picture):
        lines = solve(*picture, "--noise", 0.1, "-o", "out").stdout.splitlines()
        pictures = ("best.png", "mean.png", "std.png")
        assert [line.split()[0] for line in lines] == ["method", "samples", "misfit", *pictures, "results"]
        assert len({line.index(line.split(maxsplit=1)[1]) for line in lines}) == 1
        assert math.isfinite(float(lines[2].split()[1]))

    def test_samples_are_numbered_to_sort(self, solve, tmp_path, picture):
        solve(*picture, "--samples", 10, "--steps", 1, "-o", "out")
        assert [name for name in names(tmp_path / "out") if "sample" in name][::9] == ["sample-01.png", "sample-10.png"]


class TestFolder:
    @pytest.fixture
    def picture(self, tmp_path):
        write_image(tmp_path / "in.png", pixels(3, 4, 6))
        return ("in.png", "--problem", "sr", "--factor", 2)

    def test_default_is_numbered(self, solve, tmp_path, picture):
        for _ in range(3):
            solve(*picture)
        assert names(tmp_path / "invdiff-out") == ["in-sr", "in-sr-2", "in-sr-3"]
        assert json.loads(solve(*picture, "--json").stdout)["output"] == "invdiff-out/in-sr-4"

    def test_overwriting_replaces_results_and_nothing_else(self, solve, tmp_path, picture):
        solve(*picture, "--samples", 3, "--npz", "-o", "out")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        assert "--overwrite" in solve(*picture, "-o", "out", code=1).stderr
        solve(*picture, "-o", "out", "--overwrite")
        # No third sample of the earlier run among those of this one.
        assert names(tmp_path / "out") == sorted([*EVERY, "notes.txt"])

    def test_empty_and_nested_folders(self, solve, tmp_path, picture):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / ".hidden").touch()
        solve(*picture, "-o", "empty")
        solve(*picture, "-o", "a/b/c")
        assert names(tmp_path / "empty") == [".hidden", *EVERY]
        assert names(tmp_path / "a" / "b" / "c") == EVERY
        assert names(tmp_path / "a" / "b") == ["c"]
        assert (tmp_path / "a" / "b" / "c").stat().st_mode == (tmp_path / "empty").stat().st_mode

    def test_a_file_that_appears_meanwhile_does_no_harm(self, solve, tmp_path, picture, monkeypatch):
        write = result.write

        def meanwhile(*arguments, **options):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / ".viewer").touch()
            return write(*arguments, **options)

        monkeypatch.setattr(result, "write", meanwhile)
        solve(*picture, "-o", "out")
        assert names(tmp_path / "out") == [".viewer", *EVERY]


class TestArrays:
    """Measurements that are no pictures: what --simulate writes comes in again without another word."""

    @pytest.mark.parametrize(
        ("problem", "how"),
        [
            ("mri", ("--acceleration", 2, "--center-fraction", 0.3, "--coils", 2)),
            ("mri", ("--acceleration", 2)),
            ("ct", ("--angles", 5)),
            ("compressed-sensing", ("--ratio", 0.5)),
            ("compressed-sensing", ("--ratio", 0.5, "--sensing", "convolution")),
            ("phase-retrieval", ("--codes", 2)),
            ("phase-retrieval", ("--oversampling", 2)),
        ],
    )
    def test_there_and_back(self, solve, tmp_path, problem, how):
        write_image(tmp_path / "in.png", pixels(1, 16, 32))
        solve("in.png", "--simulate", "--problem", problem, *how, "--noise", 0.05, "-o", "a", "--npz")
        assert names(tmp_path / "a") == sorted([*EVERY, "measurement.npz", "posterior.npz"])
        said = solve("a/measurement.npz", "--problem", problem, "--scale", 1, "--noise", 0.05, "-o", "b", "--npz").stderr
        assert "white is 1 in the units of INPUT" in said
        one, two = (read_arrays(tmp_path / name / "posterior.npz", "samples")["samples"] for name in ("a", "b"))
        assert one.shape == (2, 1, 16, 32)
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-3)
        assert read_image(tmp_path / "b" / "mean.png").bits == 16
        record = record_of(tmp_path / "b")
        assert record["metrics"] is None
        assert record["residual"] == pytest.approx(record_of(tmp_path / "a")["residual"], rel=0.05)

    def test_bare_arrays(self, solve, tmp_path):
        np.save(tmp_path / "sinogram.npy", np.abs(np.random.default_rng(0).normal(5, 1, (6, 16))))
        said = solve("sinogram.npy", "--problem", "ct", "--noise", 1, "-o", "a").stderr
        assert "change it with --scale" in said
        assert read_image(tmp_path / "a" / "mean.png").pixels.shape == (1, 16, 16)
        k = np.random.default_rng(0).normal(size=(2, 16, 24, 2))
        np.save(tmp_path / "k.npy", k * (np.arange(24) % 3 == 0)[:, None])
        solve("k.npy", "--problem", "mri", "--noise", 0.1, "-o", "b")
        assert read_image(tmp_path / "b" / "mean.png").pixels.shape == (1, 16, 24)

    def test_without_input_a_phantom_is_measured(self, solve):
        assert "shepp_logan_phantom, 256 x 256" in solve("--problem", "ct", "--angles", 3, "--noise", 1, "--steps", 1).stderr


class TestNoise:
    """Laws other than Gaussian noise of a known level."""

    @pytest.mark.parametrize("law", ["poisson:40", "poisson:40,0.02", "laplace:0.05", "student:0.05,3"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_laws(self, solve, tmp_path, law, channels):
        write_image(tmp_path / "in.png", pixels(channels))
        solve("in.png", "--problem", "deblur", "--kernel", "gaussian:0.7", "--simulate", "--noise", law, "-o", "out")
        record = record_of(tmp_path / "out")
        assert record["arguments"]["noise"] == law
        assert record["method"] == "mmps"
        assert all(math.isfinite(value) for value in record["residual"])

    def test_grey_weighs_as_much_as_colours(self, tmp_path):
        """Three equal channels under a law shared among them: the likelihood of the one that came in."""
        write_image(tmp_path / "in.png", pixels(1))
        for noise in ("poisson:40", 0.1, "laplace:0.1"):
            task = read(tmp_path / "in.png", "denoise", noise=noise)
            x = torch.rand(1, 1, HEIGHT, WIDTH)
            one = task.observed.noise.log_likelihood(task.measurement, x) - task.observed.noise.log_likelihood(
                task.measurement, 0 * x
            )
            three = task.op.noise.log_likelihood(task.y, x.expand(-1, 3, -1, -1)) - task.op.noise.log_likelihood(
                task.y, 0 * x.expand(-1, 3, -1, -1)
            )
            assert float(three.sum()) == pytest.approx(float(one.sum()), rel=1e-4)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_estimated(self, solve, tmp_path, channels):
        image = np.clip(np.linspace(-0.5, 0.5, 96) + 0.1 * np.random.default_rng(0).normal(size=(channels, 64, 96)), -1, 1)
        write_image(tmp_path / "in.png", image, bits=16)
        said = solve("in.png", "--problem", "denoise", "--noise", "auto", "-o", "out").stderr
        estimated = float(said.split("estimated ")[1].split()[0])
        assert estimated == pytest.approx(0.05, rel=0.08)
        assert any("estimated" in note for note in record_of(tmp_path / "out")["notes"])
        assert record_of(tmp_path / "out")["arguments"]["noise"] == "auto"

    def test_estimated_beside_holes_and_in_a_mosaic(self, solve, tmp_path):
        noisy = np.clip(0.1 * np.random.default_rng(0).normal(size=(64, 96)), -1, 1)
        mask = np.zeros((64, 96), dtype=bool)
        mask[20:40, 30:50] = True
        write_image(tmp_path / "in.png", np.where(mask, 1.0, noisy)[None], bits=16)
        save_mask(tmp_path / "mask.png", mask)
        said = solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "--noise", "auto", "-o", "a").stderr
        assert float(said.split("estimated ")[1].split()[0]) == pytest.approx(0.05, rel=0.1)
        colours = np.where(np.indices((64, 96)).sum(0) % 2, 0.5, -0.5) + noisy
        write_image(tmp_path / "raw.png", colours[None], bits=16)
        said = solve("raw.png", "--problem", "demosaic", "--pattern", "RGGB", "--noise", "auto", "-o", "b").stderr
        assert float(said.split("estimated ")[1].split()[0]) == pytest.approx(0.05, rel=0.1)


class TestJPEG:
    """Files of JPEG, which are measured by their coefficients."""

    @pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
    def test_coefficients_stay_within_their_rounding(self, solve, tmp_path, mode, channels):
        image = Image.fromarray(np.uint8(np.rint((pixels(3, 32, 48).transpose(1, 2, 0) + 1) * 127.5)))
        image.convert(mode).save(tmp_path / "in.jpg", quality=20)
        said = solve("in.jpg", "--problem", "dejpeg", "-o", "out", "--npz").stderr
        assert "tables of in.jpg" in said
        samples = read_arrays(tmp_path / "out" / "posterior.npz", "samples")["samples"]
        assert samples.shape == (2, channels, 32, 48)
        problem, y = Dejpeg.from_file(tmp_path / "in.jpg")
        op = problem.operator((channels, 32, 48))
        gap = (op(2 * torch.from_numpy(samples).double() - 1) - y).abs()
        step = (12 * op.noise.variance(y, y)).sqrt()
        assert (gap <= step * 0.501).all()

    def test_a_turned_file(self, solve, tmp_path):
        image = Image.fromarray(np.uint8(np.rint((pixels(3, 16, 32).transpose(1, 2, 0) + 1) * 127.5)))
        exif = Image.Exif()
        image.save(tmp_path / "plain.jpg", quality=20)
        exif[0x0112] = 6  # a quarter turn
        image.save(tmp_path / "turned.jpg", quality=20, exif=exif)
        for name in ("plain", "turned"):
            solve(f"{name}.jpg", "--problem", "dejpeg", "-o", name)
        plain, turned = (read_image(tmp_path / name / "mean.png").pixels for name in ("plain", "turned"))
        np.testing.assert_array_equal(turned, np.rot90(plain, -1, axes=(1, 2)))

    def test_simulated(self, solve, tmp_path):
        write_image(tmp_path / "in.png", pixels(3, 20, 37))
        said = solve("in.png", "--problem", "dejpeg", "--simulate", "--jpeg-quality", 30, "-o", "out").stderr
        assert "cropped to 32 x 16" in said
        assert names(tmp_path / "out") == sorted([*EVERY, "measurement.png"])
