"""The good files beside every command, and files with something wrong in a way that files of every kind can have it."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image

from hostile.case import Content, Link
from hostile.damage import damaged
from hostile.names import odd_name
from hostile.pictures import saved

__all__ = ["HEIGHT", "OWN", "WIDTH", "given", "good_mask", "good_picture", "hostile_file"]

HEIGHT, WIDTH = 16, 24
OWN = """
from invdiff.operators import Operator


class Mirrored(Operator):
    def __init__(self, in_shape):
        self.in_shape = self.out_shape = in_shape

    def forward(self, x):
        return x.flip(-1)


number = 3
"""


def good_picture() -> bytes:
    """Return a PNG of 16 x 24 pixels in color."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return saved(Image.fromarray(values), "PNG")


def good_mask() -> bytes:
    """Return a mask for it."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[4:9, 6:12] = 255
    return saved(Image.fromarray(values), "PNG")


def hostile_file(rng: Generator, stem: str, suffix: str, content: bytes) -> tuple[str, dict[str, Content]]:
    """Return the name of a file, and the file: damaged, misnamed, empty, a folder, a link, missing, or as it is."""
    what = str(rng.choice(["whole", "damaged", "named", "suffix", "other"], p=[0.35, 0.35, 0.15, 0.08, 0.07]))
    name = f"{stem}{suffix}"
    if what == "damaged":
        content = damaged(rng, content)
    elif what == "named":
        name = odd_name(rng, suffix)
    elif what == "suffix":
        name = stem + str(
            rng.choice([".png", ".jpg", ".tif", ".npy", ".npz", ".webp", ".txt", "", ".PNG", ".safetensors", ".pt"])
        )
    elif what == "other":
        made: list[dict[str, Content]] = [
            {name: None},
            {name: b""},
            {name: Link(name)},
            {name: Link("nowhere")},
            {},
            {name: b"\0" * 5000},
            {name: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"},
            {name: b"<!DOCTYPE html><html>404</html>"},
        ]
        return name, made[int(rng.integers(len(made)))]
    return name, {name: content}


def given(name: str) -> str:
    """Return a file name as an argument that is no option."""
    return f"./{name}" if name.startswith("-") else name
