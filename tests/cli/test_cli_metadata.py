"""What results keep of the file they were made from: EXIF, color profile, resolution, depth, and the page of a TIFF file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

import invdiff as package
from invdiff.io.images import read_image
from invdiff.io.metadata import pixels_per_inch
from invdiff.problems import OptionError

HEIGHT, WIDTH = 16, 24
MAKER, DATE, ORIENTATION, GPS = 271, 306, 274, 34853
GIVEN = ("--problem", "denoise", "--noise", 0.1, "--steps", 1)


@pytest.fixture
def photo(tmp_path):
    """A photograph that lies on its side, with place, camera, color profile and resolution."""
    exif = Image.Exif()
    exif[MAKER], exif[DATE], exif[ORIENTATION] = "a camera", "2024:01:02 03:04:05", 6
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(GPS)[2] = (47.0, 3.0, 1.0)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>someone</x:xmpmeta>"
    pixels = np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif, icc_profile=icc, dpi=(240, 240), xmp=xmp)
    return tmp_path / "photo.jpg"


@pytest.mark.slow
class TestMetadata:
    @pytest.mark.parametrize("wanted", ["png", "jpg", "tiff", "webp"])
    @pytest.mark.parametrize("strip", [False, True])
    def test_what_is_kept(self, solve, photo, wanted, strip):
        solve("photo.jpg", *GIVEN, "--format", wanted, "-o", "out", *(["--strip"] if strip else []))
        suffix = {"tiff": "tif"}.get(wanted, wanted)
        with Image.open(photo.parent / "out" / f"mean.{suffix}") as image:
            exif, size, icc = image.getexif(), image.size, image.info.get("icc_profile")
            assert image.getexif().get(ORIENTATION, 1) == 1
            place = exif.get_ifd(GPS)
        assert size == (WIDTH, HEIGHT)  # upright
        assert icc is not None
        assert (exif.get(MAKER), exif.get(DATE), bool(place)) == (
            (None, None, False) if strip else ("a camera", "2024:01:02 03:04:05", True)
        )
        written = read_image(photo.parent / "out" / f"mean.{suffix}")
        assert written.exif is not None
        assert pixels_per_inch(written.exif) == pytest.approx((240, 240))
        content = (photo.parent / "out" / f"mean.{suffix}").read_bytes()
        assert b"someone" not in content
        assert (b"a camera" in content) is not strip
        assert json.loads(Path("out", "run.json").read_text())["arguments"]["strip"] is strip

    def test_the_measurement_and_in_python(self, solve, photo, tiny_prior):
        few = {"prior": str(tiny_prior), "precision": "float32", "steps": 1, "samples": 1}
        result = package.restore("photo.jpg", problem="denoise", noise=0.1, simulate=True, **few)
        result.save("out", strip=True)
        files = [*Path("out").glob("*.png")]
        assert Path("out", "measurement.png") in files
        assert not [path for path in files if b"a camera" in path.read_bytes()]

    def test_folders(self, solve, photo):
        (photo.parent / "album").mkdir()
        photo.rename(photo.parent / "album" / "photo.jpg")
        solve("album", *GIVEN, "--strip", "--keep", "mean", "-o", "out")
        assert b"a camera" not in (photo.parent / "out" / "photo" / "mean.png").read_bytes()


class TestPages:
    @pytest.fixture
    def stack(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        values = [
            rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
            rng.integers(0, 256, (HEIGHT - 4, WIDTH, 3), dtype=np.uint8),
            rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16),
        ]
        for big in (False, True):
            with tifffile.TiffWriter(tmp_path / ("big.tif" if big else "stack.tif"), bigtiff=big) as file:
                for number, (page, resolution) in enumerate(zip(values, (72, 300, 600), strict=True)):
                    kind = "rgb" if page.ndim == 3 else "minisblack"
                    file.write(
                        page,
                        photometric=kind,
                        resolution=(resolution, resolution),
                        resolutionunit="INCH",
                        description=f"{number}",
                    )
        monkeypatch.chdir(tmp_path)
        return values

    @pytest.mark.parametrize("name", ["stack.tif", "big.tif"])
    def test_every_page(self, stack, name):
        for number, (values, resolution) in enumerate(zip(stack, (72, 300, 600), strict=True), 1):
            picture = read_image(name, page=number)
            white = np.iinfo(values.dtype).max
            found = np.rint((picture.pixels + 1) / 2 * white).transpose(1, 2, 0)
            np.testing.assert_array_equal(found, values.reshape(*values.shape[:2], -1))
            assert picture.notes == (f"{name}: page {number} of 3 is taken",)
            assert picture.exif is not None
            assert pixels_per_inch(picture.exif) == pytest.approx((resolution, resolution))

    def test_by_pillow(self, stack):
        images = [Image.fromarray(stack[0][..., k]).convert("1") for k in range(3)]
        images[0].save("bits.tif", save_all=True, append_images=images[1:])
        for number, image in enumerate(images, 1):
            picture = read_image("bits.tif", page=number)
            np.testing.assert_array_equal(picture.pixels[0] > 0, np.asarray(image))
            assert picture.notes == (f"bits.tif: page {number} of 3 is taken",)

    def test_none_is_named_or_missing(self, stack):
        with pytest.raises(ValueError, match=r"stack\.tif.* it holds 3 pages .* take one by --page N"):
            read_image("stack.tif")
        with pytest.raises(ValueError, match=r"stack\.tif.* it has 3 pages, and --page 4 is asked for"):
            read_image("stack.tif", page=4)
        Image.fromarray(stack[0]).save("one.png")
        np.save("one.npy", stack[0][..., 0])
        for name in ("one.png", "one.npy"):
            assert read_image(name, page=1).pixels.shape[1:] == (HEIGHT, WIDTH)
            with pytest.raises(ValueError, match=r"one\.(png|npy).* and --page 2 is asked for"):
                read_image(name, page=2)

    @pytest.mark.slow
    def test_solve(self, solve, stack, tiny_prior):
        said = solve("stack.tif", *GIVEN, "--page", 3, "--format", "input", "-o", "out").stderr
        assert "stack.tif: page 3 of 3 is taken" in said
        with tifffile.TiffFile(Path("out", "mean.tif")) as file:
            assert (len(file.pages), file.pages.first.dtype, file.pages.first.shape) == (1, np.uint16, (HEIGHT, WIDTH))
        solve("--config", "out/run.json", "--steps", 1, "-o", "again")
        assert Path("again", "mean.tif").read_bytes() == Path("out", "mean.tif").read_bytes()
        error = solve("stack.tif", *GIVEN, "-o", "b", code=1).stderr
        assert "--page N" in error
        few = {"prior": str(tiny_prior), "precision": "float32", "steps": 1, "samples": 1}
        few |= {"problem": "denoise", "noise": 0.1}
        assert package.restore("stack.tif", page=2, **few).samples.shape[1:] == (3, HEIGHT - 4, WIDTH)
        with pytest.raises(OptionError, match="expected a whole number from 1"):
            package.restore("stack.tif", page=0, **few)
        levels = package.restore("stack.tif", page=3, white=65535, **few)
        assert levels.measured.measurement.shape[1:] == (1, HEIGHT, WIDTH)
