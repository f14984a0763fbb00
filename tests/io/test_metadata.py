"""EXIF data and resolution go from INPUT to every picture made from it, and say nothing about the results that is not true."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import invdiff
from invdiff.io.images import read_image, write_image
from invdiff.io.source import Source
from invdiff.restoration import read

EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
TAKEN = "2024:01:02 03:04:05"
LATITUDE = (47.0, 22.0, 30.5)
HEIGHT, WIDTH = 12, 20


def photo_exif(orientation=6, endian="<"):
    exif = Image.Exif()
    exif.endian = endian
    exif[271], exif[272], exif[305], exif[306], exif[274] = "Maker", "Camera 5", "Editor 1.0", TAKEN, orientation
    exif[282], exif[283], exif[296] = 300.0, 300.0, 2
    exif[315], exif[33432], exif[270] = "Anna", "all rights reserved", "A cat, asleep"
    nested = {36867: TAKEN, 33434: 0.004, 33437: 2.8, 34855: 200, 36864: b"0232", 40961: 65535, 42036: "50 mm"}
    # The thumbnail is told by a directory of its own, notes of the maker hold offsets and previews.
    exif[EXIF] = {**nested, 37500: b"preview" * 50, 40962: 4000, 40963: 3000, INTEROPERABILITY: {1: "R03", 2: b"0100"}}
    exif[GPS] = {0: b"\2\3\0\0", 1: "N", 2: LATITUDE, 3: "E", 4: (8.0, 32.0, 11.25), 5: b"\0", 6: 408.25, 29: "2024:01:02"}
    return exif.tobytes()


def pixels(channels=3, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 256, (channels, height, width)) / 127.5 - 1


def save_photo(path, *, bits=8, exif=None, dpi=(300, 300)):
    """Write a photograph with EXIF data, as cameras and editors do; ``bits`` 16 is gray."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(values if bits == 8 else values[..., 0].astype(np.uint16) * 257)
    exif = photo_exif() if exif is None else exif
    if path.suffix == ".tif":
        loaded = Image.Exif()
        loaded.load(exif)
        loaded.get_ifd(EXIF).pop(INTEROPERABILITY, None)  # which Pillow writes damaged
        image.save(path, exif=loaded, dpi=dpi)
    else:
        image.save(path, exif=exif, dpi=dpi)


def exif_in(path):
    """What any other reader finds: the main directory and the nested ones."""
    with Image.open(path) as image:
        exif = image.getexif()
        return dict(exif), dict(exif.get_ifd(EXIF)), dict(exif.get_ifd(GPS)), image.info.get("dpi")


def check(path, *, dpi=300, size=None):
    first, nested, gps, resolution = exif_in(path)
    told = {tag: first.get(tag) for tag in (271, 272, 305, 306, 315, 33432, 270)}
    expected = {271: "Maker", 272: "Camera 5", 305: "Editor 1.0", 306: TAKEN, 315: "Anna", 33432: "all rights reserved"}
    assert told == {**expected, 270: "A cat, asleep"}
    assert first[274] == 1
    assert (nested[36867], nested[33437], nested[34855], nested[42036]) == (TAKEN, 2.8, 200, "50 mm")
    assert gps[2] == LATITUDE
    assert gps[6] == 408.25
    assert 37500 not in nested
    assert (float(first[282]), float(first[283]), first[296]) == (dpi, dpi, 2)
    if path.suffix != ".webp":
        assert resolution == pytest.approx((dpi, dpi), abs=0.02)
    with Image.open(path) as image:
        width, height = image.size
        assert image.getexif().get_ifd(0x8769).get(40962) == width
        assert image.getexif().get_ifd(0x8769).get(40963) == height
        assert size in (None, (height, width))
        if path.suffix != ".tif":  # where the main directory is that of the pixels
            assert not set(first) & {256, 257, 258, 513, 514}
            assert not image.getexif().get_ifd(-1)  # the thumbnail
    np.testing.assert_array_equal(read_image(path).pixels.shape[1:], (height, width))


INPUTS = [".jpg 8", ".png 8", ".png 16", ".webp 8", ".tif 8", ".tif 16"]
OUTPUTS = [("out.png", 8), ("out.png", 16), ("out.tif", 8), ("out.tif", 16), ("out.jpg", 8), ("out.webp", 8)]


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize(("name", "bits"), OUTPUTS)
def test_from_every_format_to_every_other(tmp_path, given, name, bits):
    suffix, depth = given.split()
    save_photo(tmp_path / f"in{suffix}", bits=int(depth))
    picture = read_image(tmp_path / f"in{suffix}")
    write_image(tmp_path / name, picture.pixels, bits=bits, exif=picture.exif)
    check(tmp_path / name)
    again = read_image(tmp_path / name)
    write_image(tmp_path / f"again-{name}", again.pixels, bits=bits, exif=again.exif)
    check(tmp_path / f"again-{name}")


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_with_any_channels(tmp_path, bits, opaque, channels):
    save_photo(tmp_path / "in.jpg")
    alpha = None if opaque or channels not in (1, 3) else np.full((HEIGHT, WIDTH), 0.2)
    exif = read_image(tmp_path / "in.jpg").exif
    write_image(tmp_path / "out.tif", pixels(channels), bits=bits, alpha=alpha, exif=exif)
    picture = read_image(tmp_path / "out.tif")
    np.testing.assert_allclose(picture.pixels, pixels(channels), atol=1e-12)
    assert (picture.alpha is None) == (alpha is None)
    if channels in (1, 3) and bits == 8:
        check(tmp_path / "out.tif", size=(HEIGHT, WIDTH))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        tags = file.pages.first.tags
        assert tags.valueof(271) == "Maker"
        assert tags.valueof(EXIF)["DateTimeOriginal"] == TAKEN
        assert tags.valueof(GPS)["GPSLatitudeRef"] == "N"


@pytest.mark.parametrize("bits", [8, 16])
def test_profile_and_exif_together(tmp_path, bits):
    profile = b"\0\0\0\x84" + bytes(12) + b"RGB XYZ " + bytes(12) + b"acsp" + bytes(92)
    save_photo(tmp_path / "in.jpg")
    write_image(tmp_path / "out.png", pixels(), bits=bits, icc=profile, exif=read_image(tmp_path / "in.jpg").exif)
    assert read_image(tmp_path / "out.png").icc == profile
    check(tmp_path / "out.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_results_are_upright_and_say_so(tmp_path, suffix, orientation):
    save_photo(tmp_path / f"in{suffix}", exif=photo_exif(orientation))
    picture = read_image(tmp_path / f"in{suffix}")
    write_image(tmp_path / "out.png", picture.pixels, exif=picture.exif)
    check(tmp_path / "out.png", size=(HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, picture.pixels)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_both_byte_orders(tmp_path, endian):
    save_photo(tmp_path / "in.jpg", exif=photo_exif(endian=endian))
    write_image(tmp_path / "out.png", pixels(), exif=read_image(tmp_path / "in.jpg").exif)
    check(tmp_path / "out.png")


def test_the_thumbnail_shows_the_old_picture(tmp_path):
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    size = len(small.getvalue())
    # A directory with the maker, and a second one, of the thumbnail.
    main = struct.pack("<HHHIII", 1, 271, 2, 6, 26, 32) + b"Maker\0"
    second = struct.pack("<H HHII HHII I", 2, 513, 4, 1, 62, 514, 4, 1, size, 0)
    save_photo(tmp_path / "in.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + main + second + small.getvalue())
    with Image.open(tmp_path / "in.jpg") as image:
        assert image.getexif().get_ifd(-1)[514] == size
    written = read_image(tmp_path / "in.jpg").exif
    assert written is not None
    assert b"Maker" in written
    assert b"JFIF" not in written


@pytest.mark.parametrize("text", ["© Anna", "Ännä", "写真"])
def test_text_keeps_its_bytes(tmp_path, text):
    exif = Image.Exif()
    exif[315] = "X" * len(text.encode())
    exif.endian = "<"
    save_photo(tmp_path / "in.jpg", exif=exif.tobytes().replace(b"X" * len(text.encode()), text.encode()))
    write_image(tmp_path / "out.png", pixels(), exif=read_image(tmp_path / "in.jpg").exif)
    assert exif_in(tmp_path / "out.png")[0][315].encode("latin-1").decode() == text


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_damaged_exif_never_fails(tmp_path, suffix, seed, capfd):
    rng = np.random.default_rng(seed)
    content = bytearray(photo_exif())
    for _ in range(int(rng.integers(1, 20))):
        content[int(rng.integers(6, len(content)))] = int(rng.integers(0, 256))
    exif = bytes(content) if seed % 4 else bytes(content[: int(rng.integers(6, len(content)))])
    plain = tmp_path / f"plain{suffix}"
    save_photo(plain, exif=b"Exif\0\0", dpi=(72, 72))
    save_photo(tmp_path / f"in{suffix}", exif=exif, dpi=(72, 72))
    picture = read_image(tmp_path / f"in{suffix}")
    assert sorted(picture.pixels.shape) == sorted(read_image(plain).pixels.shape)
    for name in ("out.png", "out.tif"):
        write_image(tmp_path / name, picture.pixels, exif=picture.exif)
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, picture.pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("resolution", [None, 0.0, 1.0, 1e7])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_no_resolution_is_made_up(tmp_path, suffix, resolution):
    exif = Image.Exif()
    exif[271] = "Maker"
    if resolution is not None:
        exif[282] = exif[283] = resolution
    Image.new("RGB", (8, 8)).save(tmp_path / f"in{suffix}", exif=exif)
    assert read_image(tmp_path / f"in{suffix}").exif is not None
    for bits in (8, 16):
        write_image(tmp_path / "out.png", pixels(), bits=bits, exif=read_image(tmp_path / f"in{suffix}").exif)
        first, *_, found = exif_in(tmp_path / "out.png")
        assert found is None
        assert not set(first) & {282, 283, 296}


def test_pixels_per_centimeter(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "in.tif", resolution_unit="cm", x_resolution=100.0, y_resolution=50.0)
    for bits in (8, 16):
        write_image(tmp_path / "out.png", pixels(), bits=bits, exif=read_image(tmp_path / "in.tif").exif)
        assert exif_in(tmp_path / "out.png")[-1] == pytest.approx((254, 127), abs=0.02)


def test_layouts_in_the_words_of_a_program_are_no_description(tmp_path):
    kinds: list[dict[str, Any]] = [{"imagej": True}, {"ome": True}, {"metadata": {"axes": "YX"}}]
    for options in kinds:
        tifffile.imwrite(tmp_path / "in.tif", np.zeros((8, 8), dtype=np.uint16), **options)
        exif = read_image(tmp_path / "in.tif").exif
        assert exif is None or not any(mark in exif for mark in (b"ImageJ=", b"<OME", b"shape"))


def test_no_exif_is_no_exif(tmp_path):
    write_image(tmp_path / "in.png", pixels())
    assert read_image(tmp_path / "in.png").exif is None


class TestPillowImages:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    def test_they_keep_their_exif(self, tmp_path, mode, orientation):
        exif = Image.Exif()
        exif.load(photo_exif(orientation))
        image = Image.fromarray(np.uint8((pixels().transpose(1, 2, 0) + 1) * 127.5))
        image.save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300), quality=100)
        with Image.open(tmp_path / "in.jpg") as opened:
            image = opened.convert(mode)
        picture = Source(image).picture()
        assert picture.pixels.shape[1:] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
        write_image(tmp_path / "out.png", picture.pixels, exif=picture.exif)
        check(tmp_path / "out.png")
        if mode == "RGB":
            np.testing.assert_array_equal(picture.pixels, read_image(tmp_path / "in.jpg").pixels)

    def test_integers_beyond_16_bits_are_refused(self):
        values = np.arange(12, dtype=np.int32).reshape(3, 4)
        np.testing.assert_array_equal(Source(Image.fromarray(values)).picture().pixels[0], values / 32767.5 - 1)
        with pytest.raises(ValueError, match="int32"):
            Source(Image.fromarray(values + 65530)).picture()

    @pytest.mark.parametrize("mode", ["I", "F", "I;16"])
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_in_more_than_8_bits(self, tmp_path, mode, orientation):
        values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        stored = {"I": values.astype(np.int32), "F": (values / 1000).astype(np.float32), "I;16": values.astype(np.uint16)}[mode]
        image = Image.fromarray(stored)
        assert image.mode == mode
        image.getexif().load(photo_exif(orientation))
        picture = Source(image).picture()
        plain = Source(stored.astype(np.uint16) if mode == "I" else stored).picture().pixels
        turned = {1: plain, 3: np.rot90(plain, 2, (1, 2)), 6: np.rot90(plain, -1, (1, 2))}[orientation]
        np.testing.assert_array_equal(picture.pixels, turned)
        write_image(tmp_path / "out.png", picture.pixels, bits=16, exif=picture.exif)
        check(tmp_path / "out.png")

    def test_resolution_without_exif(self):
        image = Image.new("RGB", (8, 8))
        image.info["dpi"] = (240, 240)
        assert Source(image).picture().exif is not None


class TestResults:
    """What ``solve`` writes."""

    def test_every_picture_of_a_photograph(self, solve, tmp_path):
        save_photo(tmp_path / "in.jpg")
        solve("in.jpg", "--problem", "denoise", "--noise", "0.1", "--intervals", "90", "-o", "out")
        for name in ("sample-1", "sample-2", "mean", "low", "high"):
            check(tmp_path / "out" / f"{name}.png", size=(WIDTH, HEIGHT))

    def test_16_bits(self, solve, tmp_path):
        save_photo(tmp_path / "in.png", bits=16)
        solve("in.png", "--problem", "denoise", "--noise", "0.1", "-o", "out")
        check(tmp_path / "out" / "mean.png")

    def test_jpeg_coefficients(self, solve, tmp_path):
        exif = Image.Exif()
        exif.load(photo_exif())
        Image.fromarray(np.zeros((32, 48, 3), dtype=np.uint8)).save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300))
        solve("in.jpg", "--problem", "dejpeg", "-o", "out")
        check(tmp_path / "out" / "mean.png", size=(48, 32))

    def test_enlarged_pictures_keep_their_size_on_paper(self, solve, tmp_path):
        save_photo(tmp_path / "in.jpg")
        solve("in.jpg", "--problem", "sr", "--factor", "2", "-o", "out")
        check(tmp_path / "out" / "mean.png", dpi=600, size=(2 * WIDTH, 2 * HEIGHT))
        solve("in.jpg", "--problem", "sr", "--factor", "2", "--simulate", "-o", "simulated")
        check(tmp_path / "simulated" / "mean.png", dpi=300, size=(WIDTH, HEIGHT))

    def test_extended_pictures_keep_the_size_of_a_pixel(self, solve, tmp_path):
        save_photo(tmp_path / "in.jpg")
        solve("in.jpg", "--problem", "outpaint", "--margin", "2", "-o", "out")
        check(tmp_path / "out" / "mean.png", dpi=300, size=(WIDTH + 4, HEIGHT + 4))

    def test_notes_of_the_reader_are_recorded(self, solve, tmp_path):
        tifffile.imwrite(tmp_path / "in.tif", np.full((8, 8), 0.5, dtype=np.float32), photometric="miniswhite")
        result = solve("in.tif", "--problem", "denoise", "--noise", "0.1", "-o", "out")
        assert "WhiteIsZero" in result.output
        notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
        assert any("WhiteIsZero" in note for note in notes)

    def test_pictures_in_memory(self, tmp_path, tiny_prior):
        exif = Image.Exif()
        exif.load(photo_exif())
        image = Image.new("RGB", (16, 12), "gray")
        image.save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300))
        with Image.open(tmp_path / "in.jpg") as image:
            result = invdiff.restore(image, problem="denoise", noise=0.1, samples=2, steps=2, prior=str(tiny_prior))
        result.save(tmp_path / "out")
        check(tmp_path / "out" / "sample-1.png", size=(16, 12))

    def test_problems_that_are_not_of_pictures(self, tmp_path):
        assert read(None, "mri", acceleration=2, noise=0.01).picture.exif is None
