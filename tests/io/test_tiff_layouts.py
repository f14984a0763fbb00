"""TIFF files of every layout are read right, or refused by name: never scrambled."""

from __future__ import annotations

import contextlib
import io
import itertools
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_writer import CODECS, DIFFERENCES, FLOAT_DIFFERENCES, NO_PREDICTOR, write_tiff

from invdiff.io.images import read_image

HEIGHT, WIDTH = 23, 37


def sampled(kind, count):
    rng = np.random.default_rng(0)
    if kind[0] == "f":
        values = rng.random((HEIGHT, WIDTH, count)).astype(kind)
        return values, 2 * values.astype(np.float64) - 1
    values = rng.integers(0, 256 ** int(kind[1]), (HEIGHT, WIDTH, count), dtype=kind)
    return values, values / ((256 ** int(kind[1]) - 1) / 2) - 1


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_layout(tmp_path, codec, kind, count):
    values, pixels = sampled(kind, count)
    predictors = [NO_PREDICTOR, DIFFERENCES] + [FLOAT_DIFFERENCES] * (kind[0] == "f")
    for planar, tile, order, predictor in itertools.product((False, True), (None, 16), "<>", predictors):
        options: dict[str, Any] = {"planar": planar, "tile": tile, "order": order, "predictor": predictor}
        write_tiff(tmp_path / "image.tif", values, codec=codec, extra=(0,) * (count % 3 and count - 1), **options)
        found = read_image(tmp_path / "image.tif").pixels
        np.testing.assert_allclose(found, pixels.transpose(2, 0, 1), rtol=0, atol=1e-12, err_msg=str(options))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("codec", ["lzw", "deflate", "lzma", "zstd"])
def test_the_writer_of_these_tests_agrees_with_libtiff(tmp_path, codec, kind):
    values, _ = sampled(kind, 1)
    predictor = FLOAT_DIFFERENCES if kind == "f4" else DIFFERENCES
    write_tiff(tmp_path / "image.tif", values, codec=codec, predictor=predictor)
    with Image.open(tmp_path / "image.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), values[..., 0])


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize(("count", "planar"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("codec", ["none", "lzw"])
def test_samples_between_8_and_16_bits(tmp_path, codec, count, planar, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, count), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    write_tiff(tmp_path / "image.tif", values, codec=codec, planar=planar, bits=bits)
    picture = read_image(tmp_path / "image.tif")
    expected = 2 * (values.transpose(2, 0, 1) / (2**bits - 1)) - 1
    np.testing.assert_allclose(picture.pixels, expected, rtol=0, atol=1 / 65535)
    assert (picture.pixels.min(), picture.pixels.max(), picture.bits) == (-1, 1, 16)


def test_12_bits_as_pillow_reads_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH, 1), dtype=np.uint16)
    write_tiff(tmp_path / "image.tif", values, bits=12)
    with Image.open(tmp_path / "image.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), values[..., 0])
    levels = (read_image(tmp_path / "image.tif").pixels[0] + 1) / 2 * 4095
    np.testing.assert_allclose(levels, values[..., 0], atol=0.04)


@pytest.mark.parametrize("codec", ["none", "lzw"])
def test_pages_as_channels(tmp_path, codec):
    values = np.random.default_rng(0).integers(0, 65536, (2, HEIGHT, WIDTH), dtype=np.uint16)
    options: dict[str, Any] = {} if codec == "none" else {"compression": "zlib"}
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, values / 32767.5 - 1)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_both_sizes_of_offsets(tmp_path, byteorder, bigtiff):
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    options: dict[str, Any] = {"bigtiff": bigtiff, "byteorder": byteorder, "compression": "zlib"}
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, values.transpose(2, 0, 1) / 32767.5 - 1)


@pytest.mark.parametrize("codec", ["none", "lzw", "deflate"])
def test_bits_in_reverse_order(tmp_path, codec):
    values, pixels = sampled("u2", 3)
    write_tiff(tmp_path / "image.tif", values, codec=codec, reverse=True)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, pixels.transpose(2, 0, 1))


class TestAlpha:
    straight = np.array([[[128, 64, 0, 128], [0, 0, 0, 0], [200, 100, 50, 255], [255, 0, 0, 100]]])

    @pytest.mark.parametrize("planar", [False, True])
    @pytest.mark.parametrize("codec", ["none", "lzw", "deflate"])
    @pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_colors_multiplied_by_alpha_are_divided(self, tmp_path, channels, kind, codec, planar):
        white = {"u1": 255, "u2": 65535, "f4": 1}[kind]
        straight = self.straight[..., [*range(channels), 3]] / 255
        exact = np.concatenate([straight[..., :-1] * straight[..., -1:], straight[..., -1:]], axis=-1) * white
        stored = exact.astype(kind) if kind == "f4" else np.rint(exact).astype(kind)
        write_tiff(
            tmp_path / "image.tif", stored, codec=codec, planar=planar, photometric=2 if channels == 3 else 1, extra=(1,)
        )
        picture = read_image(tmp_path / "image.tif")
        assert picture.alpha is not None
        np.testing.assert_allclose(picture.alpha, straight[..., -1], atol=1e-6)
        tolerance = {"u1": 2.6, "u2": 0.02, "f4": 1e-4}[kind] / 255  # rounding of the product, at the smallest alpha
        unit = (picture.pixels.transpose(1, 2, 0) + 1) / 2
        np.testing.assert_allclose(unit, straight[..., :-1], atol=tolerance)

    def test_other_alpha_is_left_alone(self, tmp_path):
        stored = self.straight.astype(np.uint8)
        write_tiff(tmp_path / "image.tif", stored, photometric=2, extra=(2,))
        picture = read_image(tmp_path / "image.tif")
        np.testing.assert_array_equal(picture.pixels.transpose(1, 2, 0), stored[..., :3] / 127.5 - 1)


class TestRefusals:
    def error(self, path):
        with pytest.raises(ValueError) as caught:
            read_image(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "i8", "u8", "c8"])
    @pytest.mark.parametrize("codec", ["none", "lzw"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_types_without_a_scale_are_named(self, tmp_path, count, codec, kind):
        write_tiff(tmp_path / "image.tif", np.ones((4, 4, count), dtype=kind), codec=codec)
        assert f"holds {np.dtype(kind)} values" in self.error(tmp_path / "image.tif")

    def test_raw_camera_files(self, tmp_path):
        preview, raw = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((32, 32), dtype=np.uint16)
        with tifffile.TiffWriter(tmp_path / "image.tif") as file:  # as NEF and ARW files are
            file.write(preview, photometric="rgb", subifds=1, subfiletype=1, metadata=None)
            file.write(raw, metadata=None)
        assert "RAW camera file" in self.error(tmp_path / "image.tif")
        tags = [(50706, "B", 4, b"\1\4\0\0", True)]
        for photometric in (32803, 1):
            tifffile.imwrite(tmp_path / "image.dng", raw, photometric=photometric, extratags=tags, metadata=None)
            assert "RAW camera file" in self.error(tmp_path / "image.dng")

    def test_overviews_in_sub_directories_are_no_pages(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
        with tifffile.TiffWriter(tmp_path / "image.tif") as file:
            file.write(values, subifds=1, metadata=None)
            file.write(values[::2, ::2], subfiletype=1, metadata=None)
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels[0], values / 127.5 - 1)

    def test_segments_that_are_bombs(self, tmp_path):
        """A strip that inflates to more than the image has is cut at what the image has."""
        values = np.ones((10, 10, 1), dtype=np.uint16)
        write_tiff(tmp_path / "image.tif", values, rows=10)
        content = (tmp_path / "image.tif").read_bytes()
        bomb = zlib.compress(values.tobytes() + bytes(10**8))
        with tifffile.TiffFile(tmp_path / "image.tif", mode="r+") as file:
            for tag, value in ((259, 8), (273, len(content)), (279, len(bomb))):
                file.pages.first.tags[tag].overwrite(value)
        with (tmp_path / "image.tif").open("ab") as file:
            file.write(bomb)
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, np.full((1, 10, 10), 1 / 32767.5 - 1))

    @pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
    def test_damaged_segments(self, tmp_path, codec, capfd):
        values, _ = sampled("u2", 3)
        write_tiff(tmp_path / "image.tif", values, codec=codec, planar=True)
        content = bytearray((tmp_path / "image.tif").read_bytes())
        content[8:4000] = np.random.default_rng(0).bytes(3992)
        (tmp_path / "image.tif").write_bytes(content)
        if codec != "packbits":  # which decodes whatever bytes
            self.error(tmp_path / "image.tif")
        assert capfd.readouterr() == ("", "")

    def test_nothing_of_tifffile_reaches_the_terminal(self, tmp_path, capfd):
        tifffile.imwrite(tmp_path / "image.tif", np.zeros((8, 8), dtype=np.uint16), extratags=[(700, "B", 3, b"abc", True)])
        content = (tmp_path / "image.tif").read_bytes()
        for place in range(len(content) - 200, len(content)):
            (tmp_path / "image.tif").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
            with contextlib.suppress(ValueError):
                read_image(tmp_path / "image.tif")
        assert capfd.readouterr() == ("", "")


def test_floats_with_white_at_zero_are_taken_as_they_are(tmp_path):
    """libtiff, GDAL and Pillow do not invert them: the standard defines WhiteIsZero by the largest integer."""
    values = np.array([[[0.0], [0.25], [1.0]]], dtype=np.float32)
    write_tiff(tmp_path / "image.tif", values, photometric=0)
    picture = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(picture.pixels, 2 * values.transpose(2, 0, 1) - 1)
    assert "WhiteIsZero" in picture.notes[0]
    with Image.open(tmp_path / "image.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), values[..., 0])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_integers_with_white_at_zero_are_inverted(tmp_path, bits):
    values = np.array([[[0], [7], [2**bits - 1]]], dtype=np.uint8 if bits == 8 else np.uint16)
    write_tiff(tmp_path / "image.tif", values, photometric=0, bits=12 if bits == 12 else None)
    expected = 1 - 2 * (values.transpose(2, 0, 1) / (2**bits - 1))
    np.testing.assert_allclose(read_image(tmp_path / "image.tif").pixels, expected, atol=1 / 65535)


def test_palettes_keep_their_transparency(tmp_path):
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 51))
    image.save(tmp_path / "image.tif")
    picture = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(picture.pixels.transpose(1, 2, 0), [[[1, -1, -1], [-1, 1, -1]]])
    assert picture.alpha is not None
    np.testing.assert_allclose(picture.alpha, [[1, 0.2]])


def test_what_is_open_is_what_is_read(tmp_path):
    """The pixels come from the file that was opened, in one piece: nothing is looked up by name a second time."""
    from invdiff.io.tiff import decode_tiff

    values = np.ones((4, 4, 1), dtype=np.uint16)
    write_tiff(tmp_path / "image.tif", values, codec="lzw")
    decoded = decode_tiff(io.BytesIO((tmp_path / "image.tif").read_bytes()))
    assert decoded is not None
    np.testing.assert_array_equal(decoded.values, values)
