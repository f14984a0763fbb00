"""Files that would fill the memory, take minutes, hang, or are something else: one clear line each, at once."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.io import numpy_headers
from invdiff.io.images import image_size, read_arrays, read_image, read_kernel, read_mask
from invdiff.io.limits import LARGEST_IMAGE
from invdiff.io.masks import MaskRules
from invdiff.io.source import Source
from invdiff.problems import Dejpeg

ROOT = Path(__file__).parents[2]
SIDE = 11_000
assert SIDE**2 > LARGEST_IMAGE


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, *, depth=8, colour_type=2, data=b"", extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(kind, **options):
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(file, kind, **options)
    return bytearray(file.getvalue())


def large_jpeg(**options):
    content = saved("JPEG", **options)
    place = content.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", SIDE, SIDE)
    return bytes(content)


def large_bmp():
    content = saved("BMP")
    content[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(content)


def large_webp():
    content = saved("WEBP", lossless=True)
    place = content.index(b"VP8L") + 9
    size = int.from_bytes(content[place : place + 4], "little") >> 28 << 28 | (SIDE - 1) | (SIDE - 1) << 14
    content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content)


def large_tiff(**options):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16, 3), dtype=np.uint16), photometric="rgb", metadata=None, **options)
    file.seek(0)
    with tifffile.TiffFile(file, mode="r+") as written:
        for tag in (256, 257):
            written.pages.first.tags[tag].overwrite(SIDE)
    return file.getvalue()


def large_tiles():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((32, 32), dtype=np.uint16), tile=(16, 16), metadata=None, compression="zlib")
    file.seek(0)
    with tifffile.TiffFile(file, mode="r+") as written:
        for tag in (322, 323):
            written.pages.first.tags[tag].overwrite(2**20)
    return file.getvalue()


def npy(shape, data=b"", descr="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def npz(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


LARGE = {
    "a.png": lambda: png(SIDE, SIDE),
    "huge.png": lambda: png(2**20, 2**20),
    "gray.png": lambda: png(SIDE, SIDE, colour_type=0),
    "deep.png": lambda: png(SIDE, SIDE, depth=16, colour_type=6),
    "a.jpg": large_jpeg,
    "progressive.jpg": lambda: large_jpeg(progressive=True),
    "a.bmp": large_bmp,
    "a.webp": large_webp,
    "a.tif": large_tiff,
    "deflated.tif": lambda: large_tiff(compression="zlib"),
    "tiles.tif": large_tiles,
    "a.npy": lambda: npy((SIDE, SIDE)),
    "a.npz": lambda: npz({"a.npy": npy((SIDE, SIDE))}),
    "channels.npy": lambda: npy((10**6, 2000, 2000), descr="|u1"),
}
MEASURE = """
import re, resource, sys, time
from invdiff.io.images import image_size, read_image, read_kernel, read_mask
import PIL.Image, tifffile
PIL.Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    readers = read_image, read_mask, read_kernel, lambda path: read_mask(path, size=(16, 16))
    for read in (read_kernel,) if name.endswith(".npz") else readers:
        start = time.process_time()
        try:
            read(name)
            print(name, "was read")
        except ValueError as error:
            named = name in str(error) and re.search("declares|mask is 32 x 32", str(error))
            if not named or time.process_time() - start > 0.5:
                print(time.process_time() - start, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_headers_that_declare_too_much_cost_nothing(tmp_path):
    """A process that reads them all, as image, mask and kernel, needs no memory of note."""
    for name, content in LARGE.items():
        (tmp_path / name).write_bytes(content())
    paths = [str(tmp_path / name) for name in LARGE]
    result = subprocess.run([sys.executable, "-c", MEASURE, *paths], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr == ""
    *wrong, grown = result.stdout.split("\n")[:-1]
    assert wrong == []
    assert int(grown) < 64  # MB


def test_the_largest_image_that_is_read(tmp_path):
    side = 2**13
    assert side**2 == LARGEST_IMAGE
    for name, size, content in (("a.png", (side, side), png(side, side)), ("a.npy", (side, side), npy((side, side)))):
        (tmp_path / name).write_bytes(content)
        assert image_size(tmp_path / name) == size
    (tmp_path / "a.npy").write_bytes(npy((side, side + 1)))
    with pytest.raises(ValueError, match=r"a\.npy.*at most 67108864 pixels"):
        image_size(tmp_path / "a.npy")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".npy"])
def test_declared_sizes_are_upright(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[274] = orientation
    if suffix == ".npy":
        np.save(path, np.zeros((4, 6)))
    else:
        Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert image_size(path) == read_image(path).pixels.shape[1:]


def test_masks_of_another_size_are_not_decoded(tmp_path, solve):
    Image.new("RGB", (16, 12)).save(tmp_path / "in.png")
    (tmp_path / "mask.png").write_bytes(png(6000, 6000, data=b"what would be damaged if it were decoded"))
    result = solve("in.png", "--problem", "inpaint", "--mask", "mask.png", code=1)
    assert "mask.png: the mask is 6000 x 6000 pixels and the image 16 x 12" in result.stderr


@pytest.mark.parametrize("array", [np.float32(0), np.uint8(0), np.zeros((), dtype=bool)])
def test_arrays_of_strides_0(array):
    for values in (np.broadcast_to(array, (100_000, 100_000)), torch.as_tensor(array).expand(100_000, 100_000)):
        for read in (lambda values: Source(values).picture(), lambda values: Source(values).mask(MaskRules(), size=None)):
            with pytest.raises(ValueError, match="at most 67108864 pixels"):
                read(values)


class TestArchives:
    def test_members_that_inflate_to_too_much(self, tmp_path, monkeypatch):
        monkeypatch.setattr(numpy_headers, "LARGEST", 2_000_000)
        part = npy((1000, 100)) + bytes(800_000)
        (tmp_path / "a.npz").write_bytes(npz({f"{k}.npy": part for k in range(3)}))
        assert (tmp_path / "a.npz").stat().st_size < 10_000
        for read in (read_kernel, lambda path: read_kernel(f"{path}:0"), lambda path: read_arrays(path, "0")):
            with pytest.raises(ValueError, match=r"a\.npz.*2400384 bytes in all, expected at most 2000000"):
                read(tmp_path / "a.npz")

    def test_headers_that_declare_too_much(self, tmp_path):
        for name, content in (("a.npy", npy((30_000, 30_000))), ("a.npz", npz({"y.npy": npy((30_000, 30_000))}))):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}.*\(30000, 30000\), expected at most 268435456 values"):
                read_arrays(tmp_path / name, "y")


class TestJPEG:
    def error(self, path, read):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert path.name in str(caught.value)
        return str(caught.value)

    def huffman(self, counts):
        return b"\xff\xc4" + struct.pack(">H", 19 + sum(counts)) + b"\0" + bytes(counts) + bytes(sum(counts))

    def write(self, path, inserted):
        content = bytes(saved("JPEG"))
        place = content.index(b"\xff\xc4")
        path.write_bytes(content[:place] + inserted + content[place:])
        return path

    @pytest.mark.parametrize("read", [read_image, Dejpeg.from_file])
    @pytest.mark.parametrize("counts", [[255] + [0] * 15, [0] * 15 + [255]])
    def test_800_huffman_tables(self, tmp_path, counts, read):
        path = self.write(tmp_path / "a.jpg", 800 * self.huffman(counts))
        assert "Huffman tables" in self.error(path, read)

    def test_one_table_with_more_codes_than_there_can_be(self, tmp_path):
        """It took 0.2 seconds and 65 MB to fill in."""
        path = self.write(tmp_path / "a.jpg", self.huffman([255] + [0] * 15))
        assert "more Huffman codes than there can be" in self.error(path, Dejpeg.from_file)

    @pytest.mark.parametrize("read", [read_image, Dejpeg.from_file])
    def test_thousands_of_scans(self, tmp_path, read):
        content = bytes(saved("JPEG", progressive=True))
        place = content.rindex(b"\xff\xda")
        (tmp_path / "a.jpg").write_bytes(content[:-2] + 2000 * content[place:-2] + content[-2:])
        assert "more than 100 scans" in self.error(tmp_path / "a.jpg", read)

    def test_progressive_files_of_encoders_pass(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "a.jpg", progressive=True, optimize=True)
        assert read_image(tmp_path / "a.jpg").pixels.shape == (3, 64, 48)
        Dejpeg.from_file(tmp_path / "a.jpg")

    def test_a_large_one_for_its_coefficients(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(large_jpeg())
        assert "declares 11000 x 11000 pixels" in self.error(tmp_path / "a.jpg", Dejpeg.from_file)

    def test_blocks_that_the_file_cannot_hold(self, tmp_path):
        content = bytearray(saved("JPEG"))
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 8000, 8000)
        (tmp_path / "a.jpg").write_bytes(content)
        assert "ends early" in self.error(tmp_path / "a.jpg", Dejpeg.from_file)

    def test_strips_of_a_tiff_file(self, tmp_path):
        content = bytes(saved("JPEG", progressive=True))
        place = content.rindex(b"\xff\xda")
        strip = content[:-2] + 2000 * content[place:-2] + content[-2:]
        Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.tif", compression="jpeg")
        size = (tmp_path / "a.tif").stat().st_size
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
            file.pages.first.tags[273].overwrite(size)
            file.pages.first.tags[279].overwrite(len(strip))
        with (tmp_path / "a.tif").open("ab") as file:
            file.write(strip)
        assert "more than 100 scans" in self.error(tmp_path / "a.tif", read_image)


class TestBombs:
    """What inflates to much more than the header asks for is not inflated."""

    bomb = zlib.compress(bytes(10**8))

    @pytest.mark.parametrize("depth", [8, 16])
    @pytest.mark.parametrize("colour_type", [0, 2])
    def test_pixels_of_png(self, tmp_path, colour_type, depth):
        content = png(4, 3, depth=depth, colour_type=colour_type)
        place = content.index(b"IDAT") - 4
        (tmp_path / "a.png").write_bytes(content[:place] + chunk(b"IDAT", self.bomb) + chunk(b"IEND", b""))
        grown = memory_of(read_image, tmp_path / "a.png")
        assert grown < 10_000_000

    @pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
    def test_metadata_of_png(self, tmp_path, name):
        content = png(4, 3, data=3 * bytes(13), extra=chunk(name, b"x\0\0" + self.bomb))
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.png"):
            read_image(tmp_path / "a.png")

    def test_pages(self, tmp_path):
        numbers = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1))
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers)
        size, count = 6 + len(entries), 5000
        pages = [struct.pack("<H", len(numbers)) + entries + struct.pack("<I", 8 + k * size) for k in range(1, count)]
        last = struct.pack("<H", len(numbers)) + entries + bytes(4)
        (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + b"".join(pages) + last)
        with pytest.raises(ValueError, match=r"a\.tif.*5000 pages"):
            read_image(tmp_path / "a.tif")

    def test_tiles_of_a_palette(self, tmp_path):
        options = {"photometric": "palette", "colormap": np.zeros((3, 256), dtype=np.uint16)}
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), dtype=np.uint8), tile=(16, 16), metadata=None, **options)
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
            for tag in (322, 323):
                file.pages.first.tags[tag].overwrite(2**20)
        with pytest.raises(ValueError, match=r"a\.tif.*declares"):
            read_image(tmp_path / "a.tif")

    def test_pillow_images_that_were_only_opened(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(SIDE, SIDE))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(tmp_path / "a.png")
        with image, pytest.raises(ValueError, match="at most 67108864 pixels"):
            Source(image).picture()


def memory_of(read, path):
    """Return the largest number of bytes that reading allocates in Python and numpy, in a process that did so before."""
    read(path)
    tracemalloc.start()
    try:
        read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestNoFiles:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    @pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".jpg"])
    def test_named_pipes_do_not_hang(self, tmp_path, suffix):
        os.mkfifo(tmp_path / f"a{suffix}")
        for read in (read_image, read_mask, read_kernel, lambda path: read_arrays(path, "y"), Dejpeg.from_file):
            with pytest.raises(ValueError, match=r"is a pipe or a device|expected an \.npy"):
                read(tmp_path / f"a{suffix}")

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_devices(self, device):
        with pytest.raises(ValueError, match="is a pipe or a device"):
            read_image(device)

    def test_links(self, tmp_path):
        Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
        (tmp_path / "good.png").symlink_to("a.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        (tmp_path / "broken.png").symlink_to("nothing.png")
        assert read_image(tmp_path / "good.png").pixels.shape == (3, 2, 3)
        for name in ("loop.png", "broken.png"):
            with pytest.raises(FileNotFoundError, match=name):
                read_image(tmp_path / name)


KINDS = {
    "a GIF image": lambda: bytes(saved("GIF")),
    "an MPEG-4 or QuickTime file": lambda: b"\0\0\0\x18ftypisom" + bytes(20),
    "a FITS file": lambda: b"SIMPLE  =                    T" + b" " * 2850,
    "a NIfTI file": lambda: b"\x5c\x01\0\0" + bytes(340) + b"n+1\0" + bytes(100),
    "a gzip archive": lambda: b"\x1f\x8b\x08" + bytes(50),
    "a DICOM file": lambda: bytes(128) + b"DICM" + bytes(100),
    "a JPEG 2000 image": lambda: bytes(saved("JPEG2000")),
    "a JPEG XL codestream": lambda: b"\xff\x0a" + bytes(20),
    "a JPEG XL image": lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20),
    "an OpenEXR image": lambda: b"\x76\x2f\x31\x01\2\0\0\0",
    "a Radiance HDR image": lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "a Photoshop file": lambda: b"8BPS\0\1" + bytes(20),
    "a PDF document": lambda: b"%PDF-1.4\n",
    "a PostScript file": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "an SVG drawing": lambda: b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "a web page": lambda: b"<!DOCTYPE html>\n<html><head>",
    "an HDF5 file": lambda: b"\x89HDF\r\n\x1a\n" + bytes(20),
    "a MATLAB file": lambda: b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(100),
    "a PBM, PGM, PPM or PFM image": lambda: bytes(saved("PPM")),
    "a RAW camera file": lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(50),
    "a QOI image": lambda: b"qoif" + bytes(20),
    "a ZIP archive": lambda: npz({"y.npy": npy((1,), bytes(8))}),
    "a pointer of Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


class TestKinds:
    @pytest.mark.parametrize("read", [read_image, read_mask, read_kernel, image_size])
    @pytest.mark.parametrize("kind", KINDS)
    def test_named_by_content(self, tmp_path, kind, read):
        for name in ("a.png", "a.tif"):  # as downloads are
            (tmp_path / name).write_bytes(KINDS[kind]())
            with pytest.raises(ValueError) as caught:
                read(tmp_path / name)
            assert f"{name}: is {kind}" in str(caught.value)
            assert "not supported: " in str(caught.value)  # and what to do
            assert "damaged" not in str(caught.value)

    def test_dicom_whose_preamble_is_a_tiff_header(self, tmp_path):
        (tmp_path / "a.dcm").write_bytes(b"II*\0\x08\0\0\0" + bytes(120) + b"DICM" + bytes(100))
        with pytest.raises(ValueError, match=r"a\.dcm: is a DICOM file"):
            read_image(tmp_path / "a.dcm")

    def test_at_the_command_line(self, tmp_path, solve):
        (tmp_path / "in.psd").write_bytes(KINDS["a Photoshop file"]())
        result = solve("in.psd", "--problem", "denoise", "--noise", "0.1", code=1)
        assert result.stderr.startswith("Error: in.psd: is a Photoshop file, which is not supported: convert it to PNG")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (bytes(saved("PNG")), "is an image"),
            (bytes(saved("TIFF")), "is an image"),
            (b"1,2,3", "does not begin as one; expected a NumPy file"),
            (KINDS["a FITS file"](), "is a FITS file"),
            (b"\x80\x04K\x01.", "pickled"),
        ],
    )
    def test_arrays_that_are_none(self, tmp_path, content, words):
        for name, read in (("a.npy", read_image), ("a.npy", read_kernel), ("a.npz", lambda path: read_arrays(path, "y"))):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}: .*{words}"):
                read(tmp_path / name)

    @pytest.mark.parametrize("text", [b"P6 is a text", b"A photograph", b"GI", b"8B", b"\xff", b"II"])
    def test_others_are_no_image(self, tmp_path, text):
        (tmp_path / "a.png").write_bytes(text + b".")
        with pytest.raises(ValueError, match=r"a\.png: (is|cannot)"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_end_in_one_line(tmp_path, seed, capfd):
    """Of every format: bytes changed at random, half of them in the header. Neither a raw error nor a word of a library."""
    rng = np.random.default_rng(seed)
    files = {
        "a.png": saved("PNG"),
        "deep.png": png(4, 3, depth=16, data=3 * (b"\1" + bytes(range(24)))),
        "pairs.png": png(4, 3, depth=16, colour_type=4, data=3 * (b"\2" + bytes(range(16)))),
        "a.jpg": saved("JPEG"),
        "progressive.jpg": saved("JPEG", progressive=True),
        "a.bmp": saved("BMP"),
        "a.webp": saved("WEBP"),
        "lzw.tif": saved("TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved("TIFF", compression="jpeg"),
        "a.tif": saved("TIFF"),
        "a.npy": npy((4, 4), bytes(128)),
    }
    for name, content in files.items():
        for k in range(25):
            damaged = bytearray(content)
            for _ in range(int(rng.integers(1, 6))):
                damaged[int(rng.integers(0, len(damaged) if k % 2 else min(len(damaged), 300)))] = int(rng.integers(0, 256))
            (tmp_path / name).write_bytes(damaged if k % 5 else damaged[: int(rng.integers(1, len(damaged)))])
            for read in (read_image, image_size):
                try:
                    read(tmp_path / name)
                except ValueError as error:
                    message = str(error)
                    assert name in message
                    assert "\n" not in message
                    assert len(message) < 500
    assert capfd.readouterr() == ("", "")
