"""RAW files: a DNG file of a known scene is read, developed and written, and read back by tifffile and LittleCMS."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torch import Tensor

import invdiff
from invdiff import formats
from invdiff.formats.camera_raw import Camera
from invdiff.formats.color_spaces import COLOR_SPACES, SRGB, rgb_to_rgb, rgb_to_xyz
from invdiff.operators import GaussianNoise
from invdiff.problems.photon_transfer import photon_transfer

pytest.importorskip("rawpy")
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")

Array = NDArray[np.float64]

TO_CAMERA = np.array([[0.4716, 0.0603, -0.0830], [-0.7798, 1.5474, 0.2480], [-0.1496, 0.1937, 0.6651]])
GAINS = (2.0, 1.0, 1.6)
BLACK, WHITE = 512, 16383
NOISE = (1e-4, 1e-6)
HEIGHT, WIDTH = 24, 32
FAST: dict[str, Any] = {"problem": "demosaic", "method": "exact-score", "rule": "ddpm", "steps": 4, "samples": 3}


def scene(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Return smooth linear sRGB ``(H, W, 3)``, brighter at the top left than at the bottom right."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([0.5 - 0.3 * y, 0.4 - 0.25 * x, 0.2 + 0.1 * np.sin(6 * x)], -1)


def mosaic_of(light: Array, pattern: str, noise: tuple[float, float] = NOISE, seed: int = 0) -> Array:
    """Return the mosaic of linear sRGB in the units of the sensor."""
    forward = TO_CAMERA @ rgb_to_xyz(COLOR_SPACES["srgb"].primaries or ())
    sensor = light @ (forward / forward.sum(1, keepdims=True)).T / GAINS
    clean = np.zeros(light.shape[:2])
    for k, color in enumerate(pattern):
        clean[k // 2 :: 2, k % 2 :: 2] = sensor[k // 2 :: 2, k % 2 :: 2, "RGB".index(color)]
    slope, offset = noise
    noisy = clean + np.sqrt(slope * clean.clip(0) + offset) * np.random.default_rng(seed).standard_normal(clean.shape)
    return np.rint(BLACK + noisy * (WHITE - BLACK)).clip(0, WHITE)


def dng(
    path: Path,
    mosaic: Array,
    *,
    pattern: str = "RGGB",
    profile: tuple[float, float] | None = NOISE,
    orientation: int = 1,
    cfa: bytes | None = None,
    side: int = 2,
) -> Path:
    """Write a DNG file."""
    matrix = [part for entry in TO_CAMERA.ravel() for part in (round(entry * 10000), 10000)]
    neutral = [part for gain in GAINS for part in (10000, round(gain * 10000))]
    tags = [
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Model", True),
        (315, 2, 0, "Jane Doe", True),
        (50708, 2, 0, "Model", True),
        (274, 3, 1, orientation, True),
        (33421, 3, 2, (side, side), True),
        (33422, 1, side**2, bytes("RGB".index(color) for color in pattern) if cfa is None else cfa, True),
        (50714, 3, 1, BLACK, True),
        (50717, 3, 1, WHITE, True),
        (50721, 10, 9, matrix, True),
        (50778, 3, 1, 21, True),
        (50728, 5, 3, neutral, True),
        *([] if profile is None else [(51041, 12, 2, profile, True)]),
    ]
    tifffile.imwrite(path, mosaic.astype(np.uint16), photometric=32803, extratags=tags, metadata=None, software=False)
    return path


def camera_of(path: Path) -> tuple[formats.Stack, Camera]:
    kind, stack = formats.opened(path)
    assert kind.name == "camera RAW"
    assert isinstance(stack, formats.Stack)
    assert isinstance(stack.header, Camera)
    return stack, stack.header


def deviations_of(measured: invdiff.restoration.Measured) -> Tensor:
    noise = measured.op.noise
    assert isinstance(noise, GaussianNoise)
    assert noise.deviations is not None
    return noise.deviations


def says(error: BaseException) -> str:
    """One clear line."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 400
    return text


class TestReading:
    @pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
    def test_the_mosaic_and_what_the_camera_says(self, pattern, tmp_path):
        mosaic = mosaic_of(scene(), pattern)
        stack, camera = camera_of(dng(tmp_path / "a.dng", mosaic, pattern=pattern))
        np.testing.assert_array_equal(stack.picture(0)[0], mosaic)
        assert stack.window == (BLACK, WHITE)
        assert (camera.pattern, camera.white, set(camera.black)) == (pattern, WHITE, {BLACK})
        np.testing.assert_allclose(camera.gains, GAINS, rtol=1e-5)
        forward = TO_CAMERA @ rgb_to_xyz(COLOR_SPACES["srgb"].primaries or ())
        np.testing.assert_allclose(camera.to_srgb, np.linalg.inv(forward / forward.sum(1, keepdims=True)), atol=1e-3)
        np.testing.assert_allclose(np.array(camera.noise), (NOISE,) * 3)

    def test_it_is_told_by_its_content(self, tmp_path):
        path = dng(tmp_path / "without.ending", mosaic_of(scene(), "RGGB"))
        kind = formats.format_of(path)
        assert kind is not None
        assert kind.name == "camera RAW"
        tifffile.imwrite(tmp_path / "plain.dng", np.zeros((8, 8), np.uint16))
        assert formats.format_of(tmp_path / "plain.dng") is not kind

    def test_truncated_files_have_one_clear_line(self, tmp_path, capfd):
        content = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB")).read_bytes()
        for part in (0.02, 0.1, 0.3, 0.6, 0.99):
            cut = tmp_path / "cut.dng"
            cut.write_bytes(content[: math.ceil(part * len(content))])
            if formats.format_of(cut) is None:
                assert part < 0.3
                continue
            with pytest.raises(ValueError, match=r"damaged or truncated|not supported") as raised:
                formats.opened(cut)
            says(raised.value)
        assert capfd.readouterr().err == ""  # LibRaw prints on its own

    def test_flipped_bits_raise_nothing_but_errors_of_values(self, tmp_path):
        content, generator = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB")).read_bytes(), np.random.default_rng(0)
        for _ in range(25):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[generator.integers(0, 700, 4)] = generator.integers(0, 256, 4)
            (tmp_path / "bad.dng").write_bytes(damaged.tobytes())
            try:
                if formats.format_of(tmp_path / "bad.dng") is not None:
                    formats.opened(tmp_path / "bad.dng")
            except (ValueError, OSError) as error:
                says(error)

    def test_other_filters_are_refused(self, tmp_path):
        xtrans = bytes(
            [1, 2, 1, 1, 0, 1, 0, 1, 0, 2, 1, 2, 1, 2, 1, 1, 0, 1, 1, 0, 1, 1, 2, 1, 2, 1, 2, 0, 1, 0, 1, 0, 1, 1, 2, 1]
        )
        files = {
            "linear.dng": lambda path: tifffile.imwrite(
                path,
                np.zeros((16, 16, 3), np.uint16),
                photometric=34892,
                extratags=[(50706, 1, 4, bytes([1, 4, 0, 0]), True), (50708, 2, 0, "Model", True)],
                metadata=None,
            ),
            "xtrans.dng": lambda path: dng(path, mosaic_of(scene(), "RGGB"), cfa=xtrans, side=6),
        }
        for name, write in files.items():
            write(tmp_path / name)
            with pytest.raises(ValueError, match=r"Bayer|not supported by LibRaw") as raised:
                formats.opened(tmp_path / name)
            says(raised.value)


class TestDeveloping:
    @pytest.mark.parametrize("space", [name for name, each in COLOR_SPACES.items() if each.curve is not None])
    def test_the_scene_comes_back_in_the_color_space(self, space, tmp_path):
        path = dng(tmp_path / "a.dng", mosaic_of(scene(), "GBRG"), pattern="GBRG")
        folder = invdiff.restore(path, color_space=space, **FAST).save(tmp_path / "out")
        own = COLOR_SPACES[space]
        matrix = rgb_to_rgb(COLOR_SPACES["srgb"].primaries or (), own.primaries or ())
        truth = own.curve.encode(scene() @ matrix.T)  # type: ignore[union-attr]
        for name, limit in (("mean", 0.02), ("sample-1", 0.03)):
            found = tifffile.imread(folder / f"{name}.tif")
            assert found.dtype == np.uint16
            # A result that ignored the mosaic would be off by the contrast of the scene, 0.2.
            assert np.sqrt(((found / 65535 - truth) ** 2).mean()) < limit
        with tifffile.TiffFile(folder / "mean.tif") as file:
            assert file.pages.first.tags.valueof(271) == "Maker"  # EXIF data are carried through
            profile = ImageCms.ImageCmsProfile(io.BytesIO(file.pages.first.tags.valueof(34675)))
        if space != "srgb":
            return
        patch = Image.fromarray(np.full((2, 2, 3), (200, 100, 50), np.uint8))
        turned = ImageCms.profileToProfile(patch, profile, ImageCms.createProfile("sRGB"))
        np.testing.assert_allclose(np.asarray(turned)[0, 0], (200, 100, 50), atol=1)

    def test_linear_light_and_spread_are_open_exr(self, tmp_path):
        openexr = pytest.importorskip("OpenEXR")
        result = invdiff.restore(dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB")), color_space="linear-rec2020", **FAST)
        folder = result.save(tmp_path / "out")
        matrix = rgb_to_rgb(COLOR_SPACES["srgb"].primaries or (), COLOR_SPACES["linear-rec2020"].primaries or ())
        with openexr.File(str(folder / "mean.exr")) as file:
            found, header = np.array(file.channels()["RGB"].pixels), dict(file.header())  # closing empties it
        assert np.sqrt(((found - scene() @ matrix.T) ** 2).mean()) < 0.02
        np.testing.assert_allclose(header["chromaticities"][:2], (0.708, 0.292), rtol=1e-6)
        with openexr.File(str(folder / "std.exr")) as file:
            spread = np.array(file.channels()["RGB"].pixels)
        np.testing.assert_allclose(spread, result.std.numpy().transpose(1, 2, 0), atol=1e-6)

    def test_it_is_turned_upright(self, tmp_path):
        shapes = {}
        for orientation in (1, 3, 6, 8):
            path = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB"), orientation=orientation)
            shapes[orientation] = invdiff.restore(path, **FAST).mean.numpy()
        np.testing.assert_allclose(shapes[3], np.rot90(shapes[1], 2, (1, 2)), atol=1e-6)
        np.testing.assert_allclose(shapes[6], np.rot90(shapes[1], -1, (1, 2)), atol=1e-6)
        np.testing.assert_allclose(shapes[8], np.rot90(shapes[1], 1, (1, 2)), atol=1e-6)

    def test_saturated_pixels_are_at_least_white(self, tmp_path):
        light = scene()
        light[:12, :16] = 1.5
        result = invdiff.restore(dng(tmp_path / "a.dng", mosaic_of(light, "RGGB")), color_space="camera", **FAST)
        green = result.pictures[:, 1, 2:10, 2:14].numpy()
        assert (green[:, ::2, 1::2] > 0.999).all()
        assert green[:, 1::2, 1::2].min() > 0.9
        assert any("saturated" in note for note in result.notes)

    def test_what_it_is_not_for(self, tmp_path):
        path = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB"))
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            ({"problem": "denoise"}, "--problem demosaic"),
            ({"problem": "demosaic", "pattern": "BGGR"}, "the file says RGGB"),
            ({"problem": "demosaic", "noise": "laplace:0.1"}, "RAW mosaic"),
            ({"problem": "demosaic", "pattern": "RGGB", "simulate": True}, "demosaic"),
        )
        for settings, words in wrong:
            with pytest.raises(ValueError, match=words) as raised:
                invdiff.restore(path, steps=2, **settings)
            says(raised.value)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
        wrong = (({}, "--pattern"), ({"pattern": "RGGB", "color_space": "srgb"}, "--color-space"))
        for settings, words in wrong:
            with pytest.raises(ValueError, match=words):
                invdiff.restore(tmp_path / "a.png", problem="demosaic", **settings)

    def test_anonymized_results_have_no_names(self, tmp_path):
        path = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB"))
        result = invdiff.restore(path, **FAST)
        assert b"Jane Doe" in (result.save(tmp_path / "with") / "mean.tif").read_bytes()
        assert b"Jane Doe" not in (result.save(tmp_path / "without", anonymize=True) / "mean.tif").read_bytes()


class TestNoise:
    def test_it_is_that_of_the_profile_through_the_curve(self, tmp_path):
        """Standardized differences from the noiseless mosaic have mean 0 and variance 1."""
        slope, offset = 2e-3, 3e-5
        light = scene(96, 96) * np.linspace(0.05, 1, 96)[:, None, None]
        exact = mosaic_of(light, "RGGB", (0.0, 0.0))
        sums, count = np.zeros(2), 8
        for seed in range(count):
            noisy = mosaic_of(light, "RGGB", (slope, offset), seed)
            measured = invdiff.restoration.read(dng(tmp_path / "a.dng", noisy, profile=(slope, offset)), "demosaic")
            gains = np.array(GAINS)[np.tile([[0, 1], [1, 2]], (48, 48))]
            clean = SRGB.encode(gains * (exact - BLACK) / (WHITE - BLACK))
            deviations = deviations_of(measured)[0].double().numpy() / 2
            away = ((measured.y[0, 0].double().numpy() + 1) / 2 - clean) / deviations
            sums += away.mean() / count, (away**2).mean() / count
        assert abs(sums[0]) < 0.05
        assert abs(sums[1] - 1) < 0.12

    def test_the_estimate_is_that_of_a_smooth_scene(self):
        slope, offset = 2e-3, 3e-5
        light = (mosaic_of(scene(512, 512), "RGGB", (slope, offset)) - BLACK) / (WHITE - BLACK)
        found = photon_transfer(light, step=1 / (WHITE - BLACK))
        for level in (0.1, 0.3):
            assert math.sqrt((found[0] * level + found[1]) / (slope * level + offset)) == pytest.approx(1, abs=0.1)

    def test_it_is_said_and_recorded(self, tmp_path):
        light = scene(160, 160)
        for profile, words in ((NOISE, "as the noise profile of the file says"), (None, "estimated from the mosaic")):
            path = dng(tmp_path / "a.dng", mosaic_of(light, "RGGB"), profile=profile)
            measured = invdiff.restoration.read(path, "demosaic")
            assert any(words in note for note in measured.notes)
        result = invdiff.restore(dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB")), **FAST)
        record = json.loads((result.save(tmp_path / "out") / "run.json").read_text())
        assert any("variance 0.0001 v + 1e-06" in note for note in record["notes"])
        assert record["origin"]["format"] == "camera RAW"

    def test_a_given_one_takes_its_place(self, tmp_path):
        path = dng(tmp_path / "a.dng", mosaic_of(scene(), "RGGB"))
        ratio = [deviations_of(invdiff.restoration.read(path, "demosaic", noise=noise)) for noise in ("poisson:100", "file")]
        assert float((ratio[0] / ratio[1]).median()) == pytest.approx(10, rel=0.1)
