"""OpenEXR and Radiance images: read, declipped in linear light, written, and read back by OpenEXR."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import invdiff
from invdiff import formats

OpenEXR = pytest.importorskip("OpenEXR")
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")

HEIGHT, WIDTH, CLIP = 24, 32, 0.8
FAST: dict[str, Any] = {"problem": "declip", "clip_high": CLIP, "steps": 20, "samples": 2}
PRIMARIES = (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329)
HEADER = {
    "chromaticities": PRIMARIES,
    "pixelAspectRatio": 2.0,
    "owner": "Jane Doe",
    "expTime": 0.5,
    "dataWindow": (np.array([3, 4], np.int32), np.array([WIDTH + 2, HEIGHT + 3], np.int32)),
    "displayWindow": (np.array([0, 0], np.int32), np.array([99, 99], np.int32)),
}


def light():
    """Linear light ``(H, W, 3)`` with a highlight of 1.6 that is clipped."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bump = np.exp(-((y - 10) ** 2 + (x - 16) ** 2) / 60)
    return np.stack([0.1 + 1.5 * bump, 0.1 + 1.3 * bump, 0.1 + 1.2 * bump], -1).astype(np.float32)


def exr(path: Path, values, header=HEADER, **options) -> Path:
    base = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = values if isinstance(values, dict) else {"RGB": values}
    with OpenEXR.File({**base, **header, **options}, channels) as file:
        file.write(str(path))
    return path


def held(path: Path) -> tuple[formats.Format, formats.Stack]:
    kind, stack = formats.opened(path)
    assert isinstance(stack, formats.Stack)
    return kind, stack


def read(path: Path):
    with OpenEXR.File(str(path)) as file:
        (pixels,) = (channel.pixels for channel in file.channels().values())
        return np.array(pixels), dict(file.header())  # closing empties it


class TestReading:
    def test_values_are_those_of_the_library(self, tmp_path):
        for values in (light(), light().astype(np.float16)):
            kind, stack = held(exr(tmp_path / "a.exr", values))
            assert (kind.name, stack.shape, stack.unit) == ("OpenEXR", (1, 3, HEIGHT, WIDTH), "linear light")
            np.testing.assert_array_equal(stack.picture(0), values.transpose(2, 0, 1))

    def test_luminance_and_parts(self, tmp_path):
        gray = light()[..., 0].copy()
        _, stack = held(exr(tmp_path / "a.exr", {"Y": gray}))
        np.testing.assert_array_equal(stack.picture(0)[0], gray)
        parts = [OpenEXR.Part({}, {"Z": gray}, "depth"), OpenEXR.Part({}, {"RGBA": np.dstack([light(), gray])}, "beauty")]
        with OpenEXR.File(parts) as file:
            file.write(str(tmp_path / "b.exr"))
        _, stack = held(tmp_path / "b.exr")
        np.testing.assert_array_equal(stack.picture(0), light().transpose(2, 0, 1))
        assert any("number 2" in note for note in stack.notes)
        assert any("A are not taken" in note for note in stack.notes)

    def test_other_channels_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="no channels R, G and B"):
            held(exr(tmp_path / "a.exr", {"Z": light()[..., 0].copy()}))

    def test_damaged_files_have_one_clear_line(self, tmp_path, capfd):
        content, generator = exr(tmp_path / "a.exr", light()).read_bytes(), np.random.default_rng(0)
        for part in (0.01, 0.1, 0.2, 0.5, 0.95):
            (tmp_path / "cut.exr").write_bytes(content[: math.ceil(part * len(content))])
            with pytest.raises(ValueError, match="damaged or truncated"):
                held(tmp_path / "cut.exr")[1].picture(0)
        for _ in range(25):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[generator.integers(4, len(damaged), 4)] = generator.integers(0, 256, 4)
            (tmp_path / "bad.exr").write_bytes(damaged.tobytes())
            try:
                held(tmp_path / "bad.exr")[1].picture(0)
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some damage is none
        assert "EXR_ERR" not in capfd.readouterr().err

    def test_radiance_files(self, tmp_path):
        cv2 = pytest.importorskip("cv2")
        cv2.imwrite(str(tmp_path / "a.hdr"), light()[..., ::-1])
        kind, stack = held(tmp_path / "a.hdr")
        assert kind.name == "Radiance HDR"
        np.testing.assert_allclose(stack.picture(0), light().transpose(2, 0, 1), atol=0.01)
        content = (tmp_path / "a.hdr").read_bytes()
        for part in (0.01, 0.02, 0.3, 0.9):
            (tmp_path / "cut.hdr").write_bytes(content[: math.ceil(part * len(content))])
            if formats.format_of(tmp_path / "cut.hdr") is not None:
                with pytest.raises(ValueError, match="damaged"):
                    held(tmp_path / "cut.hdr")


class TestDeclip:
    def test_values_exceed_the_clipping_level_and_others_stay(self, tmp_path):
        clipped = np.minimum(light(), np.float32(CLIP))
        folder = invdiff.restore(exr(tmp_path / "a.exr", clipped), **FAST).save(tmp_path / "out")
        found, header = read(folder / "mean.exr")
        inside = clipped < 0.97 * CLIP
        np.testing.assert_allclose(found[inside], clipped[inside], rtol=1e-4)
        assert (found[~inside] > 0.95 * CLIP).all()
        assert found.max() > 1.05 * CLIP
        assert found.max() < 4 * CLIP
        np.testing.assert_allclose(header["chromaticities"], PRIMARIES, rtol=1e-6)
        assert (header["pixelAspectRatio"], header["expTime"], header["owner"]) == (2.0, 0.5, "Jane Doe")
        for name in ("dataWindow", "displayWindow"):
            np.testing.assert_array_equal(header[name], HEADER[name])

    def test_anonymized_results_have_no_owner(self, tmp_path):
        result = invdiff.restore(exr(tmp_path / "a.exr", np.minimum(light(), np.float32(CLIP))), **{**FAST, "steps": 2})
        _, header = read(result.save(tmp_path / "out", anonymize=True) / "mean.exr")
        assert "owner" not in header
        assert header["expTime"] == 0.5

    def test_linear_tiff_files_become_open_exr(self, tmp_path):
        values = np.rint(65535 * np.minimum(light(), CLIP)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
        folder = invdiff.restore(tmp_path / "a.tif", transfer="linear", **{**FAST, "steps": 2}).save(tmp_path / "out")
        found, _ = read(folder / "sample-1.exr")
        inside = values < 0.97 * CLIP * 65535
        np.testing.assert_allclose(found[inside], values[inside] / 65535, rtol=1e-4)

    def test_what_it_is_not_for(self, tmp_path):
        path = exr(tmp_path / "a.exr", light())
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            ({"problem": "denoise"}, "--problem declip"),
            ({"problem": "declip", "clip_high": 0.5}, "reach 1.6"),
            ({"problem": "declip", "clip_high": 2.0, "transfer": "display"}, "linear light"),
            ({"problem": "declip", "clip_high": -1.0}, "above 0"),
        )
        for settings, words in wrong:
            with pytest.raises(ValueError, match=words):
                invdiff.restore(path, steps=2, **settings)
