"""Files in and out: what is read and not changed is written back bit for bit, and what cannot be read is named."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from invdiff.io.figures import comparison_panel
from invdiff.io.images import (
    IMAGE_SUFFIXES,
    Picture,
    atomic_write,
    list_images,
    read_image,
    read_kernel,
    read_mask,
    write_image,
)
from invdiff.io.masks import mask_of_alpha
from invdiff.priors import UNet, save_prior

HEIGHT, WIDTH = 7, 10


def integers(*shape, bits=8, seed=0):
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=dtype)


def spanned(values):
    """The documented scale, from integers ``(..., H, W)``."""
    return values / (127.5 if values.dtype == np.uint8 else 32767.5) - 1


def write_back(path, picture):
    write_image(path, picture.pixels, bits=picture.bits, alpha=picture.alpha, icc=picture.icc)
    return read_image(path)


class TestRoundTrip:
    @pytest.mark.parametrize("opaque", [True, False])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
    def test_every_mode_comes_back_exactly(self, tmp_path, suffix, bits, channels, opaque):
        values, alpha = integers(channels, HEIGHT, WIDTH, bits=bits), integers(HEIGHT, WIDTH, bits=bits, seed=1)
        opacity = None if opaque else alpha / (2**bits - 1)
        path = tmp_path / f"image{suffix}"
        write_image(path, spanned(values), bits=bits, alpha=opacity)
        picture = read_image(path)
        # PNG has 16-bit grey with alpha, but neither library writes it: documented as RGBA.
        widened = suffix == ".png" and bits == 16 and channels == 1 and not opaque
        np.testing.assert_array_equal(picture.pixels, spanned(values).repeat(3, 0) if widened else spanned(values))
        assert picture.bits == bits
        assert (picture.alpha is None) if opaque else (picture.alpha == opacity).all()
        again = write_back(tmp_path / f"again{suffix}", picture)
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert path.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()

    @pytest.mark.parametrize("bits", [8, 16])
    def test_every_value_survives_even_in_float32(self, tmp_path, bits):
        values = np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16).reshape(1, 16, -1)
        write_image(tmp_path / "ramp.png", spanned(values).astype(np.float32), bits=bits)
        np.testing.assert_array_equal(read_image(tmp_path / "ramp.png").pixels, spanned(values))

    def test_webp_is_lossless_under_transparency_too(self, tmp_path):
        values, alpha = integers(3, HEIGHT, WIDTH), integers(HEIGHT, WIDTH, seed=1) / 255
        write_image(tmp_path / "image.webp", spanned(values), alpha=alpha)
        picture = read_image(tmp_path / "image.webp")
        np.testing.assert_array_equal(picture.pixels, spanned(values))
        np.testing.assert_array_equal(picture.alpha, alpha)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_bmp(self, tmp_path, channels):
        values = integers(channels, HEIGHT, WIDTH)
        write_image(tmp_path / "image.bmp", spanned(values))
        np.testing.assert_array_equal(read_image(tmp_path / "image.bmp").pixels, spanned(values))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg_is_close(self, tmp_path, channels):
        pixels = spanned(data.chelsea()[:64, :96].transpose(2, 0, 1))[:channels]
        write_image(tmp_path / "image.jpg", pixels)
        picture = read_image(tmp_path / "image.jpg")
        assert picture.pixels.shape == pixels.shape
        assert np.abs(picture.pixels - pixels).mean() < 0.02

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_npy_holds_any_number_of_channels_beyond_the_scale(self, tmp_path, channels):
        pixels = np.random.default_rng(0).normal(size=(channels, HEIGHT, WIDTH)).astype(np.float32)
        write_image(tmp_path / "image.npy", pixels)
        picture = read_image(tmp_path / "image.npy")
        assert picture.bits == 16
        assert picture.alpha is None
        np.testing.assert_allclose(picture.pixels, pixels, atol=1e-6)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_colour_profile(self, tmp_path, suffix, bits):
        if bits == 16 and suffix in (".jpg", ".webp"):
            bits = 8
        # The bytes of a profile: its length and the mark "acsp" are what readers look at.
        profile = struct.pack(">I", 132) + bytes(12) + b"RGB XYZ " + bytes(12) + b"acsp" + bytes(92)
        path = tmp_path / f"image{suffix}"
        write_image(path, np.zeros((3, 16, 16)), bits=bits, icc=profile)
        assert read_image(path).icc == profile


class TestReadImage:
    def test_16_bit_colours_keep_their_low_bits(self, tmp_path):
        values = integers(HEIGHT, WIDTH, 3, bits=16)
        (tmp_path / "image.png").write_bytes(png(values, colour_type=2))
        np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, spanned(values).transpose(2, 0, 1))

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", [".png 8", ".png 16", ".tif 8", ".tif 16", ".jpg 8", ".webp 8"])
    def test_orientation(self, tmp_path, kind, orientation):
        suffix, bits = kind.split()[0], int(kind.split()[1])
        upright = np.zeros((16, 24), dtype=np.uint8)
        upright[:8, :8] = 255
        upright[:8, 8:16] = 120
        # How EXIF defines the eight: where the first row and the first column of the stored array lie.
        stored = {
            1: lambda a: a,
            2: np.fliplr,
            3: lambda a: np.rot90(a, 2),
            4: np.flipud,
            5: lambda a: a.T,
            6: lambda a: np.rot90(a),  # to be turned clockwise, so stored turned the other way
            7: lambda a: np.rot90(a, 2).T,
            8: lambda a: np.rot90(a, -1),
        }[orientation](upright)
        path = tmp_path / f"image{suffix}"
        save_with_orientation(path, np.ascontiguousarray(stored), bits, orientation)
        picture = read_image(path)
        assert picture.bits == bits
        np.testing.assert_allclose(picture.pixels[0], spanned(upright), atol=0.05)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    def test_modes(self, tmp_path, mode):
        Image.fromarray(data.chelsea()[:32, :48]).convert(mode).save(tmp_path / "image.tif")
        picture = read_image(tmp_path / "image.tif")
        assert picture.pixels.shape == (1 if mode in ("1", "L", "LA") else 3, 32, 48)
        assert (picture.alpha is not None) == mode.endswith("A")
        assert picture.bits == 8
        colours = Image.fromarray(data.chelsea()[:32, :48]).convert(mode).convert("RGB")
        np.testing.assert_array_equal(picture.pixels[0], spanned(np.asarray(colours))[..., 0])

    def test_transparent_palette(self, tmp_path):
        image = Image.new("P", (2, 2))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata([0, 1, 1, 2])
        image.save(tmp_path / "image.png", transparency=1)
        picture = read_image(tmp_path / "image.png")
        np.testing.assert_array_equal(picture.alpha, [[1, 0], [0, 1]])
        np.testing.assert_array_equal(picture.pixels[:, 1, 1], [-1, -1, 1])

    def test_grey_values_of_an_inverted_16_bit_tiff(self, tmp_path):
        values = integers(HEIGHT, WIDTH, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", 65535 - values, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels[0], spanned(values))

    def test_planes_of_a_16_bit_tiff(self, tmp_path):
        values = integers(3, HEIGHT, WIDTH, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb", planarconfig="separate")
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_16_bit_tiff_with_a_codec_that_tifffile_lacks(self, tmp_path, channels):
        values = integers(HEIGHT, WIDTH, channels, bits=16)
        if channels == 1:
            Image.fromarray(values[..., 0]).save(tmp_path / "image.tif", compression="tiff_lzw")
        else:  # written as 8-bit samples, twice as many, and then declared to be 16-bit ones
            halves = values.astype("<u2").view(np.uint8).reshape(HEIGHT, 2 * WIDTH, 3)
            Image.fromarray(halves).save(tmp_path / "image.tif", compression="tiff_lzw")
            with tifffile.TiffFile(tmp_path / "image.tif", mode="r+") as file:
                file.pages.first.tags[256].overwrite(WIDTH)
                file.pages.first.tags[258].overwrite((16, 16, 16))
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values).transpose(2, 0, 1))

    def test_tiff_of_floats_is_on_the_0_1_scale(self, tmp_path):
        tifffile.imwrite(tmp_path / "image.tif", np.full((HEIGHT, WIDTH), 0.25, dtype=np.float32))
        picture = read_image(tmp_path / "image.tif")
        assert picture.bits == 16
        np.testing.assert_array_equal(picture.pixels, np.full((1, HEIGHT, WIDTH), -0.5))

    def test_the_previews_inside_a_camera_file_are_no_pages(self, tmp_path):
        frames = [Image.new("RGB", (16, 8), colour) for colour in ("white", "black")]
        frames[0].save(tmp_path / "image.jpg", format="MPO", save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(read_image(tmp_path / "image.jpg").pixels, np.ones((3, 8, 16)))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float16, np.float32, np.float64])
    def test_npy_kinds(self, tmp_path, dtype):
        one = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
        np.save(tmp_path / "image.npy", np.array([[0, one, 0]], dtype=dtype))
        np.testing.assert_array_equal(read_image(tmp_path / "image.npy").pixels, [[[-1, 1, -1]]])

    def test_the_ending_does_not_matter(self, tmp_path):
        write_image(tmp_path / "image.png", np.ones((3, 4, 4)), bits=16)
        (tmp_path / "image.png").rename(tmp_path / "image.jpeg")
        assert read_image(tmp_path / "image.jpeg").bits == 16


COUNTS = [2, 3, 4, 5]
DEPTHS = ["uint8", "uint16", "float32"]


def channels_of(count, kind):
    """Values ``(C, H, W)`` of a kind, and the same on the documented scale."""
    if kind == "float32":
        values = np.random.default_rng(0).random((count, HEIGHT, WIDTH), dtype=np.float32)
        return values, 2 * values.astype(np.float64) - 1
    values = integers(count, HEIGHT, WIDTH, bits=8 if kind == "uint8" else 16)
    return values, spanned(values)


def save_truncated_imagej(path, values):
    """ImageJ's own way with large stacks: one page, the others behind its values without a page that says so."""
    count = len(values)
    description = f"ImageJ=1.54f\nimages={count}\nchannels={count}\nhyperstack=true\nmode=grayscale\n"
    tifffile.imwrite(path, values[0], byteorder=">", photometric="minisblack", description=description, metadata=None)
    with path.open("ab") as file:
        file.write(values[1:].astype(values.dtype.newbyteorder(">")).tobytes())


LAYOUTS = {
    "planes": lambda path, v: tifffile.imwrite(path, v, photometric="minisblack", planarconfig="separate", metadata=None),
    "samples": lambda path, v: tifffile.imwrite(path, np.moveaxis(v, 0, -1), photometric="minisblack", planarconfig="contig"),
    "tiles": lambda path, v: tifffile.imwrite(
        path,
        v,
        photometric="minisblack",
        planarconfig="separate",
        tile=(16, 16),
        compression="zlib",
        predictor=v.dtype.kind == "u",
    ),
    "pages": lambda path, v: tifffile.imwrite(path, v, photometric="minisblack", metadata={"axes": "CYX"}),
    "ImageJ": lambda path, v: tifffile.imwrite(path, v, imagej=True, metadata={"axes": "CYX"}),
    "ImageJ, truncated": save_truncated_imagej,
    "OME": lambda path, v: tifffile.imwrite(path, v, ome=True, photometric="minisblack", metadata={"axes": "CYX"}),
    "OME, planes": lambda path, v: tifffile.imwrite(path, v, ome=True, photometric="minisblack", planarconfig="separate"),
    "OME, one slice": lambda path, v: tifffile.imwrite(path, v[None, :, None], ome=True, metadata={"axes": "TCZYX"}),
}


class TestChannels:
    @pytest.mark.parametrize("suffix", [".tif", ".tiff"])
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize(
        "shape", [(count, HEIGHT, WIDTH) for count in (2, 4, 5, 13)] + [(4, 1, WIDTH), (2, HEIGHT, 1), (4, 1, 1)]
    )
    def test_round_trip(self, tmp_path, shape, bits, suffix):
        values = integers(*shape, bits=bits)
        path = tmp_path / f"image{suffix}"
        write_image(path, spanned(values), bits=bits)
        picture = read_image(path)
        np.testing.assert_array_equal(picture.pixels, spanned(values))
        assert (picture.bits, picture.alpha) == (bits, None)
        write_back(tmp_path / f"again{suffix}", picture)
        assert path.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("count", [2, 4, 5])
    def test_other_readers_see_planes_of_one_page(self, tmp_path, count, bits):
        values = integers(count, HEIGHT, WIDTH, bits=bits)
        write_image(tmp_path / "image.tif", spanned(values), bits=bits)
        with tifffile.TiffFile(tmp_path / "image.tif") as file:
            assert (len(file.pages), file.series[0].axes) == (1, "SYX")
            page = file.pages.first
            assert (page.photometric, page.planarconfig, page.extrasamples) == (1, 2, (0,) * (count - 1))
            np.testing.assert_array_equal(page.asarray(), values)

    @pytest.mark.parametrize("kind", DEPTHS)
    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_is_read(self, tmp_path, layout, count, kind):
        values, pixels = channels_of(count, kind)
        LAYOUTS[layout](tmp_path / "image.tif", values)
        picture = read_image(tmp_path / "image.tif")
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert (picture.bits, picture.alpha) == (8 if kind == "uint8" else 16, None)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("planarconfig", ["separate", "contig"])
    def test_orientation(self, tmp_path, planarconfig, orientation):
        values = integers(5, HEIGHT, WIDTH)
        stored = values if planarconfig == "separate" else np.moveaxis(values, 0, -1)
        options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": planarconfig, "metadata": None}
        tifffile.imwrite(tmp_path / "image.tif", stored, extratags=[(274, "H", 1, orientation, True)], **options)
        for k, channel in enumerate(values):  # each is what it would be alone
            save_with_orientation(tmp_path / "one.tif", channel, 8, orientation)
            expected = read_image(tmp_path / "one.tif").pixels[0]
            np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels[k], expected)

    def test_inverted(self, tmp_path):
        values = integers(5, HEIGHT, WIDTH, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", 65535 - values, photometric="miniswhite", planarconfig="separate")
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values))

    def test_colour_tables_of_channels_are_for_display(self, tmp_path):
        values, table = integers(2, HEIGHT, WIDTH), integers(3, 256, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", values, photometric="palette", colormap=table, metadata={"axes": "CYX"})
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values))

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("planarconfig", ["separate", "contig"])
    @pytest.mark.parametrize(
        ("photometric", "extra", "alpha"),
        [
            ("minisblack", [0], None),
            ("minisblack", [2], 1),
            ("minisblack", [0, 0], None),
            ("minisblack", [0, 2], 2),
            ("minisblack", [0, 0, 0], None),
            ("minisblack", [0, 0, 0, 1], 4),
            ("rgb", [0], None),  # such as infrared
            ("rgb", [2], 3),
            ("rgb", [0, 2], 4),
            ("rgb", [2, 0], 3),
            ("rgb", [0, 0], None),
        ],
    )
    def test_alpha_is_what_the_file_says(self, tmp_path, photometric, extra, alpha, planarconfig, bits):
        values = integers((3 if photometric == "rgb" else 1) + len(extra), HEIGHT, WIDTH, bits=bits)
        stored = values if planarconfig == "separate" else np.moveaxis(values, 0, -1)
        options = {"photometric": photometric, "planarconfig": planarconfig, "extrasamples": extra, "metadata": None}
        tifffile.imwrite(tmp_path / "image.tif", stored, **options)
        picture = read_image(tmp_path / "image.tif")
        expected = values if alpha is None else np.delete(values, alpha, axis=0)
        if alpha is not None and 1 in extra:  # colors multiplied by alpha
            opacity, white = values[alpha].astype(float), 2**bits - 1
            divided = np.rint(expected.astype(float) * white / opacity.clip(1)).clip(0, white) * (opacity > 0)
            expected = divided.astype(values.dtype)
        np.testing.assert_array_equal(picture.pixels, spanned(expected))
        if alpha is None:
            assert picture.alpha is None
        else:
            np.testing.assert_array_equal(picture.alpha, values[alpha] / (2**bits - 1))

    @pytest.mark.parametrize(
        ("shape", "options", "words"),
        [
            ((5, 6, 7), {"photometric": "minisblack"}, "5 pages (QYX 5 x 6 x 7)"),
            ((5, 6, 7), {"photometric": "minisblack", "metadata": None}, "5 pages"),
            ((6, 7, 5), {}, "6 pages"),
            ((5, 6, 7), {"imagej": True, "metadata": {"axes": "ZYX"}}, "5 pages (ZYX 5 x 6 x 7)"),
            ((5, 6, 7), {"imagej": True, "metadata": {"axes": "TYX"}}, "TYX"),
            ((5, 2, 6, 7), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "10 pages (ZCYX 5 x 2 x 6 x 7)"),
            ((2, 6, 7, 3), {"imagej": True, "metadata": {"axes": "CYXS"}}, "CYXS"),
            ((5, 6, 7), {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}}, "ZYX"),
            ((16, 16, 16), {"photometric": "minisblack", "volumetric": True, "tile": (16, 16, 16)}, "1 page (ZYX"),
        ],
    )
    def test_stacks_are_refused(self, tmp_path, shape, options, words):
        tifffile.imwrite(tmp_path / "image.tif", integers(*shape), **options)
        message = TestBadFiles().error(tmp_path / "image.tif")
        assert words in message
        assert "axes='CYX'" in message

    @pytest.mark.parametrize("shapes", [[(6, 7), (6, 8)], [(64, 64), (32, 32)], [(5, 6, 7), (5, 6, 7)]])
    @pytest.mark.parametrize("ome", [False, True])
    def test_several_images_are_refused(self, tmp_path, shapes, ome):
        with tifffile.TiffWriter(tmp_path / "image.tif", ome=ome) as file:
            for shape in shapes:
                axes = {"axes": "CYX"[-len(shape) :]} if ome else None
                file.write(integers(*shape), photometric="minisblack", metadata=axes)
        assert "pages" in TestBadFiles().error(tmp_path / "image.tif")

    def test_channels_in_other_files_are_not_made_up(self, tmp_path):
        ome = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
            f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1">'
            '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><Channel ID="Channel:0:1" SamplesPerPixel="1"/>'
            '<Channel ID="Channel:0:2" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / "image.tif", integers(HEIGHT, WIDTH), description=ome, metadata=None)
        assert "not in this file" in TestBadFiles().error(tmp_path / "image.tif")

    @pytest.mark.parametrize("bits", [8, 16])
    def test_truncated(self, tmp_path, bits):
        write_image(tmp_path / "image.tif", spanned(integers(5, 64, 64)), bits=bits)
        content = (tmp_path / "image.tif").read_bytes()
        for share in (0.01, 0.05, 0.5, 0.9):
            (tmp_path / "image.tif").write_bytes(content[: int(share * len(content))])
            TestBadFiles().error(tmp_path / "image.tif")

    @pytest.mark.parametrize("count", [2, 5])
    @pytest.mark.parametrize("kind", DEPTHS)
    @pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs knows it")
    def test_a_codec_that_is_not_installed(self, tmp_path, kind, count):
        LAYOUTS["planes"](tmp_path / "image.tif", channels_of(count, kind)[0])
        with tifffile.TiffFile(tmp_path / "image.tif", mode="r+") as file:
            file.pages.first.tags[259].overwrite(34887)
        message = TestBadFiles().error(tmp_path / "image.tif")
        assert "LERC compression is not supported here" in message
        assert "install imagecodecs" in message

    def test_an_overlarge_float_is_named(self, tmp_path):
        LAYOUTS["planes"](tmp_path / "image.tif", np.full((5, 4, 4), 300, dtype=np.float32))
        assert "0..1 scale" in TestBadFiles().error(tmp_path / "image.tif")


class TestChannelsSolved:
    @pytest.fixture
    def prior(self, tmp_path):
        def write(count):
            net = UNet(channels=count, widths=(4, 8), blocks=(1, 1), embedding=8)
            save_prior(net, tmp_path / "prior.safetensors", sigma_data=0.5, facts={})
            return tmp_path / "prior.safetensors"

        return write

    few = ("--precision", "float32", "--steps", 2, "--samples", 2, "--problem", "inpaint", "--mask", "mask.png", "-o", "out")

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("count", [2, 4, 5])
    def test_measured_pixels_come_back_exactly(self, invdiff, tmp_path, prior, count, bits):
        values = integers(count, HEIGHT, WIDTH, bits=bits)
        write_image(tmp_path / "in.tif", spanned(values), bits=bits)
        fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
        fill[2:5, 3:6] = True
        Image.fromarray(np.uint8(255 * fill)).save(tmp_path / "mask.png")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mean.png").touch()
        earlier = {"command": "solve", "outputs": {"mean.png": hashlib.sha256(b"").hexdigest()}}
        (tmp_path / "out" / "run.json").write_text(json.dumps(earlier))
        invdiff("solve", "in.tif", "--simulate", "--prior", prior(count), *self.few, "--overwrite")
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        images = ["best.tif", "mean.tif", "measurement.tif", "sample-1.tif", "sample-2.tif"]
        assert names == sorted([*images, "comparison.png", "mask.png", "run.json", "std.png"])
        for name in images:
            result = read_image(tmp_path / "out" / name)
            assert result.bits == bits
            np.testing.assert_array_equal(result.pixels[:, ~fill], spanned(values)[:, ~fill])

    def test_alpha_serves_as_mask_and_is_not_written(self, invdiff, tmp_path, prior):
        values = integers(5, HEIGHT, WIDTH)
        options = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": [0, 0, 0, 2]}
        values[4] = 255
        values[4, 2:5, 3:6] = 0
        tifffile.imwrite(tmp_path / "in.tif", values, **options)
        Image.fromarray(255 - values[4]).save(tmp_path / "mask.png")
        for choice in (self.few, (*self.few[:-4], "-o", "from-alpha")):
            invdiff("solve", "in.tif", "--prior", prior(4), *choice)
        for folder in ("out", "from-alpha"):
            result = read_image(tmp_path / folder / "mean.tif")
            assert result.alpha is None
            np.testing.assert_array_equal(result.pixels[:, values[4] == 255], spanned(values[:4])[:, values[4] == 255])

    def test_the_prior_says_which_channels_it_knows(self, invdiff, tmp_path, prior):
        write_image(tmp_path / "in.tif", spanned(integers(5, HEIGHT, WIDTH)))
        Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "mask.png")
        result = invdiff("solve", "in.tif", "--prior", prior(3), *self.few, code=1)
        assert "has 5 channels, but this prior takes images of 3" in result.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("count", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2]), (7, [0, 1, 2])]
    )
    def test_panels_show_the_first_channels(self, tmp_path, count, shown):
        values = np.broadcast_to(integers(count, 1, 1), (count, 100, 100))
        comparison_panel(tmp_path / "panel.png", {"": spanned(values)})
        panel = np.asarray(Image.open(tmp_path / "panel.png").convert("RGB"))
        colour = panel[panel.shape[0] // 2, panel.shape[1] // 2]
        np.testing.assert_array_equal(colour, values[shown, 0, 0])


class TestBadFiles:
    def error(self, path, kind: type[Exception] = ValueError):
        with pytest.raises(kind) as caught:
            read_image(path)
        message = str(caught.value)
        assert path.name in message
        assert "\n" not in message
        return message

    def test_missing(self, tmp_path):
        assert "no such file" in self.error(tmp_path / "image.png", FileNotFoundError)

    def test_folder(self, tmp_path):
        assert "folder" in self.error(tmp_path, IsADirectoryError)

    @pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
    def test_empty(self, tmp_path, suffix):
        (tmp_path / f"image{suffix}").touch()
        assert "empty" in self.error(tmp_path / f"image{suffix}")

    @pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
    def test_no_image(self, tmp_path, suffix):
        (tmp_path / f"image{suffix}").write_text("A photograph, honestly.\n" * 20)
        assert "expected" in self.error(tmp_path / f"image{suffix}") or suffix == ".npy"

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
    def test_truncated(self, tmp_path, suffix, bits):
        path = tmp_path / f"image{suffix}"
        write_image(path, spanned(integers(3, 64, 64)), bits=bits if suffix in (".png", ".tif", ".tiff") else 8)
        content = path.read_bytes()
        for share in (0.05, 0.5, 0.9):
            path.write_bytes(content[: int(share * len(content))])
            self.error(path)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_several_frames(self, tmp_path, suffix):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
        frames[0].save(tmp_path / f"image{suffix}", save_all=True, append_images=frames[1:])
        assert ("3 pages" if suffix == ".tif" else "3 frames") in self.error(tmp_path / f"image{suffix}")

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((2, 3, 4, 5)), "(H, W)"),
            (np.zeros(5), "(H, W)"),
            (np.zeros((0, 5)), "(H, W)"),
            (np.zeros((20, 30, 3)), "transpose"),
            (np.array([[0.0, np.nan]]), "nan"),
            (np.array([[0.0, np.inf]]), "nan or inf"),
            (np.array([[0.0, 255.0]]), "0..1 scale"),
            (np.zeros((4, 4), dtype=np.int32), "int32"),
            (np.zeros((4, 4), dtype=complex), "complex"),
            (np.array([["a", "b"]]), "unsigned"),
            (np.array([[object()]]), "numbers"),
        ],
    )
    def test_arrays_that_are_no_image(self, tmp_path, array, words):
        np.save(tmp_path / "image.npy", array)
        assert words in self.error(tmp_path / "image.npy")

    def test_bad_arrays_in_tiff(self, tmp_path):
        for values, words in (
            (np.full((4, 4), np.nan, dtype=np.float32), "nan"),
            (np.full((4, 4), 300, dtype=np.float32), "0..1 scale"),
            (np.zeros((4, 4), dtype=np.int16), "int16"),
            (np.zeros((4, 5, 7), dtype=np.uint16), "pages"),
        ):
            tifffile.imwrite(tmp_path / "image.tif", values, photometric="minisblack")
            assert words in self.error(tmp_path / "image.tif")


class TestWriteImage:
    def test_rounds_and_clips(self, tmp_path):
        pixels = np.array([[[-3, -1, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1, 1, 1.5]]])
        write_image(tmp_path / "image.png", pixels)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")), [[0, 0, 0, 1, 255, 255]])

    def test_leaves_the_argument_alone(self, tmp_path):
        pixels = np.linspace(-2, 2, 24).reshape(1, 4, 6)
        before = pixels.copy()
        write_image(tmp_path / "image.png", pixels)
        np.testing.assert_array_equal(pixels, before)

    @pytest.mark.parametrize(
        ("name", "pixels", "options", "words"),
        [
            ("image.gif", np.zeros((1, 4, 4)), {}, "must end in"),
            ("image.png", np.zeros((4, 4)), {}, "(C, H, W)"),
            *((f"image{suffix}", np.zeros((2, 4, 4)), {}, ".tif or .npy") for suffix in (".png", ".jpg", ".webp", ".bmp")),
            ("image.tif", np.zeros((2, 4, 4)), {"alpha": np.ones((4, 4))}, "alpha"),
            ("image.png", np.full((1, 4, 4), np.nan), {}, "nan"),
            ("image.png", np.zeros((1, 4, 4)), {"bits": 12}, "bits"),
            ("image.jpg", np.zeros((1, 4, 4)), {"bits": 16}, "8 bits"),
            ("image.webp", np.zeros((1, 4, 4)), {"bits": 16}, "8 bits"),
            ("image.jpg", np.zeros((1, 4, 4)), {"alpha": np.ones((4, 4))}, "transparency"),
            ("image.png", np.zeros((1, 4, 4)), {"alpha": np.ones((3, 4))}, "alpha"),
        ],
    )
    def test_refusals(self, tmp_path, name, pixels, options, words):
        with pytest.raises(ValueError) as caught:
            write_image(tmp_path / name, pixels, **options)
        assert words in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            write_image(tmp_path / "nowhere" / "image.png", np.zeros((1, 4, 4)))

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path):
        (tmp_path / "file.txt").write_text("old")

        def write(text):
            with atomic_write(tmp_path / "file.txt") as temporary:
                temporary.write_text(text[:4])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write("new text")
        assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
        assert (tmp_path / "file.txt").read_text() == "old"

    def test_replaces_and_leaves_nothing_behind(self, tmp_path):
        for value in (0, 1):
            write_image(tmp_path / "image.png", np.full((1, 4, 4), value))
        assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
        assert (read_image(tmp_path / "image.png").pixels == 1).all()


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "c.npy"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.npy"]


class TestMask:
    white = np.array([[False, True, True], [False, False, True]])

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
    def test_white_is_filled_unless_turned_round(self, tmp_path, mode):
        Image.fromarray(np.uint8(255) * self.white).convert(mode).save(tmp_path / "mask.png")
        measured = read_mask(tmp_path / "mask.png")
        assert measured.dtype == np.bool_
        np.testing.assert_array_equal(measured, ~self.white)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", keep="white"), self.white)

    def test_npy(self, tmp_path):
        np.save(tmp_path / "mask.npy", self.white)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy"), ~self.white)

    def test_a_trace_of_gray_is_filled_unless_a_threshold_is_given(self, tmp_path):
        values = np.zeros((20, 20), dtype=np.uint8)
        values[:, 10:] = 255
        values[0, 0], values[0, 1], values[1, 0], values[1, 1] = 129, 126, 20, 10
        Image.fromarray(values).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), values < 0.05 * 255)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", threshold=0.5), values < 128)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", keep="white"), values > 0.95 * 255)

    def test_jpeg_ringing_does_no_harm(self, tmp_path):
        white = np.zeros((64, 64), dtype=bool)
        white[20:40, 10:50] = True
        Image.fromarray(np.uint8(255) * white).save(tmp_path / "mask.jpg", quality=85)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg"), ~white)

    @pytest.mark.parametrize("kind", ["ramp", "red"])
    def test_soft_masks_are_refused(self, tmp_path, kind):
        ramp = np.linspace(0, 255, 400).reshape(20, 20).astype(np.uint8)
        values = ramp if kind == "ramp" else np.full((20, 20, 3), [255, 0, 0], dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match="black and white") as caught:
            read_mask(tmp_path / "mask.png")
        assert "mask.png" in str(caught.value)

    def test_masks_without_paint_are_refused(self, tmp_path):
        Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match="transparent"):
            read_mask(tmp_path / "mask.png")

    def test_unknown_polarity(self, tmp_path):
        with pytest.raises(ValueError, match="keep"):
            read_mask(tmp_path / "mask.png", keep="grey")  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, math.nan])
    def test_thresholds_out_of_range(self, tmp_path, threshold):
        with pytest.raises(ValueError, match="between 0 and 1"):
            read_mask(tmp_path / "mask.png", threshold=threshold)

    def test_from_alpha(self):
        alpha = np.array([[0.0, 0.49, 0.5, 1.0]])
        picture = Picture(np.zeros((3, 1, 4)), alpha)
        np.testing.assert_array_equal(mask_of_alpha(picture, "a", threshold=None).known, [[False, False, True, True]])
        np.testing.assert_array_equal(mask_of_alpha(picture, "a", threshold=0.7).known, [[False, True, True, True]])
        with pytest.raises(ValueError, match="no alpha"):
            mask_of_alpha(Picture(np.zeros((3, 1, 4))), "a", threshold=None)


class TestKernel:
    values = np.array([[0.0, 1.0, 0.0], [1.0, 4.0, 2.0]])

    def test_npy(self, tmp_path):
        np.save(tmp_path / "kernel.npy", 3 * self.values)
        np.testing.assert_allclose(read_kernel(tmp_path / "kernel.npy"), self.values / 8, rtol=1e-15)

    @pytest.mark.parametrize("scale", [1e-320, 1e307])
    def test_the_scale_does_not_matter(self, tmp_path, scale):
        np.save(tmp_path / "kernel.npy", scale * np.ones((3, 3)))
        np.testing.assert_allclose(read_kernel(tmp_path / "kernel.npy"), np.full((3, 3), 1 / 9), rtol=1e-15)

    def test_image(self, tmp_path):
        Image.fromarray((50 * self.values).astype(np.uint8)).convert("RGB").save(tmp_path / "kernel.png")
        np.testing.assert_allclose(read_kernel(tmp_path / "kernel.png"), self.values / 8, atol=1e-15)

    def test_npz(self, tmp_path):
        np.savez(tmp_path / "one.npz", self.values)
        np.savez(tmp_path / "two.npz", first=self.values, second=self.values.T)
        np.testing.assert_allclose(read_kernel(tmp_path / "one.npz"), self.values / 8)
        np.testing.assert_allclose(read_kernel(f"{tmp_path / 'two.npz'}:second"), self.values.T / 8)
        for name, words in (("two.npz", "several arrays"), ("two.npz:third", "no array 'third'")):
            with pytest.raises(ValueError, match=words) as caught:
                read_kernel(tmp_path / name)
            assert "first, second" in str(caught.value)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((3, 3)),
            -np.ones((3, 3)),
            np.array([[1.0, -0.5]]),
            np.array([[1.0, np.nan]]),
            np.array([[1.0, np.inf]]),
            np.ones(3),
            np.ones((3, 3, 3)),
            np.ones((0, 3)),
            np.ones((3, 3), dtype=complex),
            np.array([["a"]]),
            np.array([[{}]]),
        ],
    )
    def test_no_kernel(self, tmp_path, array):
        np.save(tmp_path / "kernel.npy", array)
        with pytest.raises(ValueError, match=r"kernel\.npy"):
            read_kernel(tmp_path / "kernel.npy")

    def test_bad_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_kernel(tmp_path / "kernel.npz:first")
        (tmp_path / "kernel.npz").write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(ValueError, match="damaged"):
            read_kernel(tmp_path / "kernel.npz")
        write_image(tmp_path / "black.png", -np.ones((1, 3, 3)))
        with pytest.raises(ValueError, match="all zero"):
            read_kernel(tmp_path / "black.png")


def png(values, *, colour_type):
    """Encode 16-bit values ``(H, W, C)`` by the letter of the format: independent of what the package writes."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save_with_orientation(path, grey, bits, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if bits == 8:
        Image.fromarray(grey).save(path, exif=exif)
    elif path.suffix == ".tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, grey.astype(np.uint16) * 257, photometric="minisblack", metadata=None, extratags=tags)
    else:
        Image.fromarray(grey.astype(np.uint16) * 257).save(path, exif=exif)
