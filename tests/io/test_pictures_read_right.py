"""Pictures whose values, transparency or byte order were read wrongly; masks of 0 and 1; gray photographs saved as RGB."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.io.images import read_image, read_kernel, read_mask, read_mask_found
from invdiff.io.masks import MaskRules
from invdiff.io.source import Source
from invdiff.problems import PROBLEMS
from invdiff.restoration import read

HEIGHT, WIDTH = 9, 11
GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, GRAY_ALPHA: 2, RGB_ALPHA: 4}


def png(values, colour_type, *, bits=16, transparent=None, interlaced=False):
    """Encode values ``(H, W, C)`` by the letter of the format: independent of what the package reads and writes."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def rows(part):
        if bits == 16:
            return b"".join(b"\0" + row.astype(">u2").tobytes() for row in part)
        digits = part.reshape(len(part), -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1
        return b"".join(b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits)

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [values[y::down, x::across] for y, x, down, across in passes] if interlaced else [values]
    height, width = values.shape[:2]
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced))
    if transparent is not None:
        body += chunk(b"tRNS", np.asarray(transparent, dtype=">u2").tobytes())
    data = b"".join(rows(part) for part in parts if part.size)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def deep(count):
    return np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, count), dtype=np.uint16)


class TestPNG:
    @pytest.mark.parametrize("interlaced", [False, True])
    @pytest.mark.parametrize("colour_type", CHANNELS)
    def test_16_bits(self, tmp_path, colour_type, interlaced):
        values = deep(CHANNELS[colour_type])
        (tmp_path / "a.png").write_bytes(png(values, colour_type, interlaced=interlaced))
        picture = read_image(tmp_path / "a.png")
        colours, alpha = (values[..., :-1], values[..., -1]) if colour_type & 4 else (values, None)
        np.testing.assert_array_equal(picture.pixels, colours.transpose(2, 0, 1) / 32767.5 - 1)
        assert picture.bits == 16
        assert (picture.alpha is None) if alpha is None else (picture.alpha == alpha / 65535).all()

    @pytest.mark.parametrize("interlaced", [False, True])
    @pytest.mark.parametrize("colour_type", [GRAY, RGB])
    def test_the_transparent_color_of_16_bits(self, tmp_path, colour_type, interlaced):
        values = deep(CHANNELS[colour_type])
        values[2, 3] = values[4, 5]
        values[0, 0] = values[4, 5] ^ 1  # another color in the lowest bit alone
        (tmp_path / "a.png").write_bytes(png(values, colour_type, transparent=values[4, 5], interlaced=interlaced))
        picture = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(picture.pixels, values.transpose(2, 0, 1) / 32767.5 - 1)
        transparent = np.zeros((HEIGHT, WIDTH), dtype=bool)
        transparent[2, 3] = transparent[4, 5] = True
        np.testing.assert_array_equal(picture.alpha, ~transparent)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_the_transparent_gray_of_fewer_bits(self, tmp_path, bits):
        values = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, 1))
        values[0, 0] = 1
        (tmp_path / "a.png").write_bytes(png(values, GRAY, bits=bits, transparent=[1]))
        picture = read_image(tmp_path / "a.png")
        np.testing.assert_allclose(picture.pixels[0], 2 * values[..., 0] / (2**bits - 1) - 1, atol=1e-12)
        np.testing.assert_array_equal(picture.alpha, values[..., 0] != 1)

    def test_transparency_serves_as_mask(self, tmp_path, tiny_prior):
        values = deep(3)
        values[2:5, 3:6] = 7
        (tmp_path / "a.png").write_bytes(png(values, RGB, transparent=[7, 7, 7]))
        measured = read(tmp_path / "a.png", "inpaint")
        assert "filling 9.1% of the pixels" in measured.notes

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("colour_type", CHANNELS)
    def test_truncated(self, tmp_path, colour_type, bits):
        values = deep(CHANNELS[colour_type]) >> (16 - bits)
        content = png(values, colour_type, bits=bits)
        for share in (0.2, 0.5, 0.8):
            (tmp_path / "a.png").write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match=r"a\.png"):
                read_image(tmp_path / "a.png")

    def test_panics_of_decoders_are_errors(self, tmp_path, monkeypatch):
        """A panic of Rust is no Exception."""
        from kornia_rs import io

        class PanicException(BaseException):
            pass

        def panic(*arguments):
            raise PanicException("index out of bounds")

        (tmp_path / "a.png").write_bytes(png(deep(3), RGB))
        monkeypatch.setattr(io, "decode_image_png_u16", panic)
        with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image: it is damaged"):
            read_image(tmp_path / "a.png")


class TestArrays:
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8", "?"])
    @pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (3, HEIGHT, WIDTH), (5, HEIGHT, WIDTH)])
    def test_every_byte_order(self, tmp_path, shape, kind, order):
        values = np.random.default_rng(0).random(shape)
        if kind[0] == "u":
            values = (values * 256 ** int(kind[1])).astype(kind)
        values = values > 0.5 if kind == "?" else values.astype(np.dtype(kind).newbyteorder(order))
        white = 256 ** int(kind[1]) - 1 if kind[0] == "u" else 1
        expected = np.broadcast_to(2 * (values.astype(np.float64) / white) - 1, (1, *shape) if len(shape) == 2 else shape)
        np.save(tmp_path / "a.npy", values)
        np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
        for picture in (read_image(tmp_path / "a.npy"), read_image(tmp_path / "fortran.npy"), Source(values).picture()):
            np.testing.assert_array_equal(picture.pixels, expected)
            assert picture.pixels.dtype == np.float64

    @pytest.mark.parametrize("kind", [">f4", ">f8", ">u2", ">i4", "<i8"])
    def test_kernels(self, tmp_path, kind):
        values = np.array([[0, 1, 0], [1, 4, 2]])
        np.save(tmp_path / "a.npy", values.astype(kind))
        np.savez(tmp_path / "a.npz", values.astype(kind))
        for name in ("a.npy", "a.npz"):
            np.testing.assert_allclose(read_kernel(tmp_path / name), values / 8)

    @pytest.mark.parametrize("kind", [">c8", ">c16", ">f4", ">i2"])
    def test_measurements_can_be_taken_by_torch(self, tmp_path, kind):
        values = np.arange(6).reshape(2, 3).astype(kind)
        np.save(tmp_path / "a.npy", values)
        np.savez(tmp_path / "a.npz", y=values)
        for arrays in (
            Source(tmp_path / "a.npy").arrays("y"),
            Source(tmp_path / "a.npz").arrays("y"),
            Source(values).arrays("y"),
        ):
            assert torch.from_numpy(arrays["y"]).tolist() == [[0, 1, 2], [3, 4, 5]]


INTEGERS = [
    *((".npy", kind) for kind in ("u1", "u2", ">u2", "i1", "i2", "i4", ">i4", "i8", "u8")),
    *((suffix, kind) for suffix in (".png", ".tif") for kind in ("u1", "u2")),
]


class TestMasks:
    white = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.6

    def save(self, path, kind):
        if path.suffix == ".npy":
            np.save(path, self.white.astype(kind))
        elif path.suffix == ".tif":
            tifffile.imwrite(path, self.white.astype(kind))
        else:
            Image.fromarray(self.white.astype(kind)).save(path)
        return path

    @pytest.mark.parametrize(("suffix", "kind"), INTEGERS)
    def test_0_and_1_are_black_and_white(self, tmp_path, suffix, kind):
        path = self.save(tmp_path / f"a{suffix}", kind)
        np.testing.assert_array_equal(read_mask(path), ~self.white)
        np.testing.assert_array_equal(read_mask(path, keep="white"), self.white)
        notes = read_mask_found(path, MaskRules()).notes
        assert notes == (f"{path}: the mask holds 0 and 1 alone: 1 is taken as white",)

    @pytest.mark.parametrize("mode", ["RGB", "P"])
    def test_in_color(self, tmp_path, mode):
        image = Image.fromarray(self.white.astype(np.uint8)).convert(mode)
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ~self.white)

    @pytest.mark.parametrize(("suffix", "kind"), [(".npy", "?"), (".npy", "f4"), (".png", "?"), (".npy", ">f8")])
    def test_the_usual_scale_needs_no_note(self, tmp_path, suffix, kind):
        path = self.save(tmp_path / f"a{suffix}", kind)
        found = read_mask_found(path, MaskRules())
        np.testing.assert_array_equal(found.known, ~self.white)
        assert found.notes == ()

    @pytest.mark.parametrize("levels", [(0, 2), (1, 2), (0, 1, 2), (1, 255), (0, 0)])
    def test_other_levels_are_no_0_and_1(self, tmp_path, levels):
        values = np.resize(np.array(levels, dtype=np.uint8), (HEIGHT, WIDTH))
        Image.fromarray(values).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values < 128)

    @pytest.mark.parametrize("kind", ["u1", ">u2", "i8", "?", "f4"])
    def test_in_python(self, kind):
        for mask in (self.white.astype(kind), self.white[None].astype(kind)):
            np.testing.assert_array_equal(Source(mask).mask(MaskRules(), size=None).known, ~self.white)
        if ">" not in kind:
            found = Source(torch.from_numpy(self.white.astype(kind))).mask(MaskRules(), size=None)
            np.testing.assert_array_equal(found.known, ~self.white)

    def test_the_note_is_shown(self, tmp_path, solve):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "in.png")
        self.save(tmp_path / "mask.png", "u1")
        result = solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
        assert "mask.png: the mask holds 0 and 1 alone: 1 is taken as white" in result.output


class TestGrayPhotographsSavedAsColor:
    gray = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".npy"])
    @pytest.mark.parametrize(("problem", "options"), [("colorize", {}), ("demosaic", {"pattern": "RGGB"})])
    def test_one_channel_is_measured(self, tmp_path, problem, options, suffix):
        path, values = tmp_path / f"a{suffix}", np.stack([self.gray] * 3, axis=-1)
        if suffix == ".npy":
            np.save(path, values.transpose(2, 0, 1))
        else:
            Image.fromarray(values).save(path)
        measured = read(path, problem, noise=0.01, **options)
        assert measured.measurement.shape == (1, 1, 16, 16)
        assert measured.observed.in_shape == (3, 16, 16)
        np.testing.assert_allclose(measured.measurement[0, 0], read_image(path).pixels.mean(0), atol=1e-6)
        assert "the channels of INPUT are equal: it is taken as a grayscale picture" in measured.notes

    @pytest.mark.parametrize("problem", ["colorize", "demosaic"])
    def test_colors_are_refused_with_what_to_do(self, tmp_path, problem):
        values = np.stack([self.gray] * 3, axis=-1)
        values[3:9, 4:10] = 200, 30, 10
        Image.fromarray(values).save(tmp_path / "a.png")
        options: dict[str, Any] = {"pattern": "RGGB"} if problem == "demosaic" else {}
        with pytest.raises(ValueError, match="has 3 channels"):
            read(tmp_path / "a.png", problem, noise=0.01, **options)

    @pytest.mark.parametrize("problem", ["colorize", "demosaic"])
    def test_a_simulation_still_takes_them_as_color(self, tmp_path, problem):
        Image.fromarray(np.stack([self.gray] * 3, axis=-1)).save(tmp_path / "a.png")
        options: dict[str, Any] = {"pattern": "RGGB"} if problem == "demosaic" else {}
        measured = read(tmp_path / "a.png", problem, noise=0.01, simulate=True, **options)
        assert measured.clean is not None
        assert measured.clean.shape == (1, 3, 16, 16)

    def test_other_problems_measure_all_channels(self, tmp_path):
        Image.fromarray(np.stack([self.gray] * 3, axis=-1)).save(tmp_path / "a.png")
        assert "colorize" in PROBLEMS
        assert read(tmp_path / "a.png", "denoise", noise=0.1).measurement.shape == (1, 3, 16, 16)


MODES = {".jpg": ["CMYK", "YCbCr", "RGBX", "L", "1"], ".png": ["L", "P", "1"], ".webp": ["RGBX", "L", "P"]}
MODES[".tif"] = ["CMYK", "YCbCr", "LAB", "RGBX", "L", "P", "1"]


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_color_spaces_are_those_of_pillow(tmp_path, mode, suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / f"a{suffix}"
    image.save(path)
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert("L" if saved.mode in "1L" else "RGB"))
    if mode == "RGBX" and suffix == ".tif":  # declared as four channels without a meaning for the last one
        assert len(read_image(path).pixels) == 4
        return
    found = read_image(path).pixels.transpose(1, 2, 0)
    np.testing.assert_array_equal(found, expected.reshape(*expected.shape[:2], -1) / 127.5 - 1)
