"""Files in and out: what is read and not changed is written back bit for bit, and what cannot be read is named."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from invdiff.images import (
    IMAGE_SUFFIXES,
    Picture,
    atomic_write,
    list_images,
    mask_from_alpha,
    read_image,
    read_kernel,
    read_mask,
    write_image,
)

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
        tifffile = pytest.importorskip("tifffile")
        values = integers(HEIGHT, WIDTH, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", 65535 - values, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels[0], spanned(values))

    def test_planes_of_a_16_bit_tiff(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        values = integers(3, HEIGHT, WIDTH, bits=16)
        tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb", planarconfig="separate")
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_16_bit_tiff_with_a_codec_that_tifffile_lacks(self, tmp_path, channels):
        tifffile = pytest.importorskip("tifffile")
        values = integers(HEIGHT, WIDTH, channels, bits=16)
        if channels == 1:
            Image.fromarray(values[..., 0]).save(tmp_path / "image.tif", compression="tiff_lzw")
        else:  # written as 8-bit samples, twice as many, and then declared to be 16-bit ones
            halves = values.astype("<u2").view(np.uint8).reshape(HEIGHT, 2 * WIDTH, 3)
            Image.fromarray(halves).save(tmp_path / "image.tif", compression="tiff_lzw")
            with tifffile.TiffFile(tmp_path / "image.tif", mode="r+b") as file:
                file.pages.first.tags[256].overwrite(WIDTH)
                file.pages.first.tags[258].overwrite((16, 16, 16))
        np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, spanned(values).transpose(2, 0, 1))

    def test_tiff_of_floats_is_on_the_0_1_scale(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
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
        assert "3 frames" in self.error(tmp_path / f"image{suffix}")

    def test_16_bit_grey_with_alpha(self, tmp_path):
        (tmp_path / "image.png").write_bytes(png(integers(4, 5, 2, bits=16), colour_type=4))
        assert "16-bit RGBA" in self.error(tmp_path / "image.png")

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
            (np.array([["a", "b"]]), "numbers"),
            (np.array([[object()]]), "numbers"),
        ],
    )
    def test_arrays_that_are_no_image(self, tmp_path, array, words):
        np.save(tmp_path / "image.npy", array)
        assert words in self.error(tmp_path / "image.npy")

    def test_bad_arrays_in_tiff(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
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
            ("image.png", np.zeros((2, 4, 4)), {}, ".npy"),
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

    def test_a_few_grey_pixels_are_cut_at_half(self, tmp_path):
        values = np.zeros((20, 20), dtype=np.uint8)
        values[:, 10:] = 255
        values[0, 0], values[0, 1], values[1, 0], values[1, 1] = 129, 126, 20, 10
        Image.fromarray(values).save(tmp_path / "mask.png")
        measured = read_mask(tmp_path / "mask.png")
        assert not measured[0, 0]
        assert measured[0, 1]
        assert measured.sum() == 199

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

    def test_transparent_masks_are_refused(self, tmp_path):
        Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match="transparent"):
            read_mask(tmp_path / "mask.png")

    def test_unknown_polarity(self, tmp_path):
        with pytest.raises(ValueError, match="keep"):
            read_mask(tmp_path / "mask.png", keep="grey")  # pyright: ignore[reportArgumentType]

    def test_from_alpha(self):
        alpha = np.array([[0.0, 0.49, 0.5, 1.0]])
        measured = mask_from_alpha(Picture(np.zeros((3, 1, 4)), alpha))
        np.testing.assert_array_equal(measured, [[False, False, True, True]])
        with pytest.raises(ValueError, match="no alpha"):
            mask_from_alpha(Picture(np.zeros((3, 1, 4))))


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
        tifffile = pytest.importorskip("tifffile")
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, grey.astype(np.uint16) * 257, photometric="minisblack", metadata=None, extratags=tags)
    else:
        Image.fromarray(grey.astype(np.uint16) * 257).save(path, exif=exif)
