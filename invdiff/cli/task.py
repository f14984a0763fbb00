"""From arguments and files to what is to be solved: a measurement and its operator."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from invdiff.images import Picture, mask_from_alpha, read_image, read_kernel, read_mask
from invdiff.operators import Operator
from invdiff.operators.kernels import gaussian_kernel, motion_kernel
from invdiff.problems import PROBLEMS, Deblur, Inpaint, Problem, SuperResolution

__all__ = ["Task", "make_task"]

PHOTOGRAPH = "chelsea"  # scikit-image's cat: CC0, inside its wheel
PHOTOGRAPH_SIZE = (256, 256)


@dataclass(frozen=True)
class Task:
    """What is to be solved.

    Attributes:
        problem: The task.
        op: Its operator for three channels, whatever the picture has.
        y: The measurement, ``(1, *op.out_shape)``.
        clean: The true image, where it is known: ``(1, C, H, W)``.
        picture: The picture that came in: how results are written.
        grey: Whether the picture is grey and goes through a prior of colours.
        alpha: Opacity of the result ``(H, W)``, or nothing.
        name: Short name for the output folder.
        notes: Lines for the person who runs this.
    """

    problem: Problem
    op: Operator
    y: Tensor
    clean: Tensor | None
    picture: Picture
    grey: bool
    alpha: np.ndarray[Any, np.dtype[np.float64]] | None
    name: str
    notes: tuple[str, ...]


def make_task(
    problem: str,
    source: Path | None,
    *,
    simulate: bool,
    mask: Path | None,
    mask_keep: str,
    kernel: str | None,
    boundary: str,
    factor: int | None,
    downsampling: str,
    noise: float,
    seed: int,
) -> Task:
    """Read the files and build the task; the arguments are those of ``invdiff solve``.

    A grey picture is measured as three equal channels. They share one noise, so each is taken as having
    :math:`\\sqrt 3` times its standard deviation: together they then weigh as much as the one channel that came in.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"Unknown problem {problem!r}, expected one of {', '.join(PROBLEMS)}.")
    missing = mask is None and kernel is None if problem == "deblur" else False
    if (problem == "deblur" and kernel is None) or missing:
        raise ValueError("deblur needs --kernel: a file (image, .npy, .npz:name), or gaussian:SIGMA, or motion:SIZE,ANGLE.")
    if problem == "sr" and factor is None:
        raise ValueError("sr needs --factor: how many times smaller the input is than the image, such as 2.")
    for option, given, owner in (("--mask", mask, "inpaint"), ("--kernel", kernel, "deblur"), ("--factor", factor, "sr")):
        if given is not None and problem != owner:
            raise ValueError(f"{option} belongs to --problem {owner}, not to {problem}.")

    known = None if mask is None else read_mask(mask, keep="white" if mask_keep == "white" else "black")
    notes: list[str] = []
    if source is None:
        picture = _bundled_photograph(PHOTOGRAPH_SIZE if known is None else known.shape)
        notes.append(f"no input given: degrading a bundled photograph ({PHOTOGRAPH}, {picture.pixels.shape[2]} x {picture.pixels.shape[1]})")
        simulate = True
    else:
        picture = read_image(source)
    alpha = picture.alpha

    task: Problem
    if problem == "inpaint":
        if known is None:
            if alpha is None:
                raise ValueError("inpaint needs --mask: an image as large as the input, white where pixels are to be filled; or an input with an alpha channel.")
            known, alpha = mask_from_alpha(picture), None
        task = Inpaint(known)
        notes.append(f"filling {1 - known.mean():.1%} of the pixels")
    elif problem == "deblur":
        task = Deblur(_kernel(str(kernel)), boundary=boundary)
    else:
        task = SuperResolution(int(factor or 0), kernel=downsampling)

    pixels = torch.from_numpy(picture.pixels).float()[None]
    grey = pixels.shape[1] == 1
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"{source}: {pixels.shape[1]} channels; the bundled prior knows grey and RGB images.")
    sigma_y = 2 * noise  # images span [-1, 1] below the command line
    clean = None
    if simulate:
        clean = task.fit(pixels)
        if clean.shape != pixels.shape:
            notes.append(f"cropped to {clean.shape[-1]} x {clean.shape[-2]}, a multiple of the factor")
        y = task.operator(_shape(clean), sigma_y=sigma_y).measure(clean, seed=seed)
    else:
        y = pixels
    channels, height, width = task.image_shape(_shape(y))
    op = task.operator((3, height, width), sigma_y=sigma_y * (math.sqrt(3) if grey else 1))
    y = y.expand(-1, 3, -1, -1) if channels == 1 else y
    if not simulate and problem == "inpaint":
        y = op(y)  # what lies under the mask is not looked at
    if alpha is not None and alpha.shape != (height, width):
        repeat = factor or 1
        alpha = alpha[:height, :width] if simulate else alpha.repeat(repeat, 0).repeat(repeat, 1)
    if noise == 0 and problem != "inpaint":
        notes.append("noise 0: the input is taken as exact. A file of 8 bits has rounding noise of 0.001; a photograph more (--noise 0.01)")
    name = f"{PHOTOGRAPH if source is None else source.stem}-{problem}"
    return Task(task, op, y, clean, picture, grey, alpha, name, tuple(notes))


def _shape(x: Tensor) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2], x.shape[3]


def _bundled_photograph(size: tuple[int, ...]) -> Picture:
    from skimage import data

    image = ImageOps.fit(Image.fromarray(getattr(data, PHOTOGRAPH)()), (size[1], size[0]), Image.Resampling.LANCZOS)
    return Picture(np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 127.5 - 1)


def _kernel(text: str) -> Tensor:
    """Return the kernel of a file, or of ``gaussian:SIGMA`` or ``motion:SIZE,ANGLE``."""
    number = r"(-?\d+(?:\.\d*)?)"
    if match := re.fullmatch(f"gaussian:{number}", text):
        return gaussian_kernel(float(match[1]))
    if match := re.fullmatch(rf"motion:(\d+),{number}", text):
        return motion_kernel(int(match[1]), float(match[2]))
    return torch.from_numpy(read_kernel(text))
