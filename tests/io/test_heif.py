"""HEIC photographs are read by pillow-heif if it is installed, and AVIF files by Pillow."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from invdiff.io.images import image_size, read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


@pytest.mark.parametrize("content", [HEIC, b"\0\0\0\x18ftypmif1" + bytes(40), b"\0\0\0\x18ftypheix" + bytes(40)])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_missing_is_named(tmp_path, monkeypatch, content, read):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for name in ("a.heic", "a.jpg"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{name}: is a HEIC image, which needs pillow-heif: pip install 'invdiff\[heif\]'"
        ):
            read(tmp_path / name)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    def opened(file, name):
        image = Image.fromarray(PICTURE)
        image.format, image.info = "HEIF", {"bit_depth": 10}
        return image

    def register():
        factory: Any = opened
        Image.register_open("HEIF", factory, lambda prefix: prefix[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    (tmp_path / "a.heic").write_bytes(HEIC)
    found = read_image(tmp_path / "a.heic")
    np.testing.assert_allclose(found.pixels, PICTURE.transpose(2, 0, 1) / 127.5 - 1)
    assert (found.format, found.bits) == ("HEIF", 8)
    assert any("8 of its 10 bits" in note for note in found.notes)


def test_avif(tmp_path):
    if not features.check("avif"):  # an older Pillow, or one that was built without it
        (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(40))
        with pytest.raises(ValueError, match=r"is an AVIF image, which Pillow reads from version 11\.3"):
            read_image(tmp_path / "a.avif")
        return
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(PICTURE).save(tmp_path / "a.png", format="AVIF", quality=100, subsampling="4:4:4", exif=exif)
    found = read_image(tmp_path / "a.png")  # by content
    assert found.format == "AVIF"
    assert np.abs(found.pixels - np.rot90(PICTURE, -1).transpose(2, 0, 1) / 127.5 + 1).mean() < 0.03
    (tmp_path / "b.avif").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cannot be read as an image|is damaged"):
        read_image(tmp_path / "b.avif")
