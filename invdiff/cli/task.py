"""From arguments and files to what is to be solved: a measurement and its operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from invdiff.images import Picture, mask_from_alpha, read_image, read_kernel, read_mask
from invdiff.operators import GaussianNoise, Operator
from invdiff.operators.kernels import gaussian_kernel, motion_kernel
from invdiff.problems import (
    Colorize,
    Deblur,
    Declip,
    Defocus,
    Demosaic,
    Denoise,
    Dequantize,
    Inpaint,
    MotionDeblur,
    Outpaint,
    Problem,
    SuperResolution,
)

__all__ = ["Task", "make_problem", "make_task"]

PHOTOGRAPH = "chelsea"  # scikit-image's cat: CC0, inside its wheel
PHOTOGRAPH_SIZE = (256, 256)
CLIP_ENDS = {"clip_low": -math.inf, "clip_high": math.inf}
LARGEST = 2**26  # pixels; one feature map of the network already takes 8 GB there


@dataclass(frozen=True)
class Task:
    """What is to be solved.

    Attributes:
        problem: The task.
        op: Its operator in the channels of the prior.
        y: The measurement of an image in the channels of the prior, ``(1, *op.out_shape)``.
        observed: The operator in the channels of the picture.
        measurement: The measurement of an image in the channels of the picture, ``(1, *observed.out_shape)``.
        clean: The true image, where it is known: ``(1, C, H, W)``.
        picture: The picture that came in: how results are written. Without its colour profile where it does not fit them.
        alpha: Opacity of the result ``(H, W)``, or nothing.
        name: Short name for the output folder.
        notes: Lines for the person who runs this.
    """

    problem: Problem
    op: Operator
    y: Tensor
    observed: Operator
    measurement: Tensor
    clean: Tensor | None
    picture: Picture
    alpha: np.ndarray[Any, np.dtype[np.float64]] | None
    name: str
    notes: tuple[str, ...]

    def finish(self, samples: Tensor) -> Tensor:
        """Return samples of the prior as pictures: what is known exactly is put in, and grey stays grey."""
        results = self.problem.finish(samples, self.y.expand(len(samples), -1, -1, -1), self.op)
        return results.mean(1, keepdim=True) if self.observed.in_shape[0] == 1 else results

    def residual(self, results: Tensor) -> list[float]:
        """Return, per picture, the squared misfit over the noise variance; where the noise is 0, the squared misfit itself."""
        misfit = (self.measurement - self.observed(results)).flatten(1).square().sum(1)
        return [float(f"{value:.6g}") for value in misfit / (self.observed.sigma_y**2 or 1)]


def make_task(
    *,
    source: Path | None,
    problem: str,
    channels: int,
    simulate: bool,
    mask: Path | None,
    mask_keep: Literal["black", "white"],
    noise: float,
    seed: int,
    options: Mapping[str, Any],
) -> Task:
    r"""Read the files and build the task; the arguments are those of ``invdiff solve``.

    ``channels`` are those of the prior, ``options`` what :func:`make_problem` takes.

    A grey picture meets a prior of colours as equal channels. They share one noise, so each is taken as having
    :math:`\sqrt C` times its standard deviation: together they then weigh as much as the one channel that came in.
    """
    notes: list[str] = []
    known = None if mask is None else read_mask(mask, keep=mask_keep)
    if source is None:
        picture, simulate = _bundled_photograph(PHOTOGRAPH_SIZE if known is None else known.shape), True
        notes.append(f"no INPUT given: degrading a bundled photograph ({PHOTOGRAPH}, {_size(picture.pixels.shape)})")
    elif source.is_dir():
        raise IsADirectoryError(
            f"{source} is a folder, expected one image: folders come later, run the command for each image."
        )
    else:
        picture = read_image(source)
    pixels, alpha = torch.from_numpy(picture.pixels).float()[None], picture.alpha
    if pixels.shape[1] not in (1, channels):
        raise ValueError(
            f"{source or 'the bundled photograph'}: has {pixels.shape[1]} channels, and this prior knows images of {channels}, "
            "or grey ones."
        )

    if problem == "inpaint":
        if known is None:
            known, alpha = _mask_from_alpha(source, picture), None
        notes.append(f"filling {1 - known.mean():.1%} of the pixels")
    task = make_problem(problem, size=pixels.shape[-2:], known=known, options=options)
    clean = task.fit(pixels) if simulate else None
    own, height, width = task.image_shape(_shape(pixels)) if clean is None else _shape(clean)
    if height * width > LARGEST:
        raise ValueError(
            f"{source}: an image of {width} x {height} pixels is too large to sample, crop it or choose a smaller --factor "
            "or --margin."
        )
    if own not in (1, channels):
        raise ValueError(f"--problem {problem} makes images of {own} channels, and this prior knows images of {channels}.")
    if clean is not None and clean.shape != pixels.shape:
        notes.append(f"cropped to {_size(clean.shape)}, a multiple of the factor")
    sigma_y = 2 * noise  # images span [-1, 1] below the command line
    observed = task.operator((own, height, width), sigma_y=sigma_y)
    op = task.operator((channels, height, width), sigma_y=sigma_y * math.sqrt(channels / own))
    if own != channels and not observed.noise.gaussian:
        op.noise = GaussianNoise(observed.sigma_y * math.sqrt(channels / own))  # the same for the variance of rounding
    measurement = pixels if clean is None else observed.measure(clean, seed=seed)
    measurement = observed.keep_measured(measurement)
    if alpha is not None and own not in (1, 3):
        alpha = None
        notes.append(f"the alpha of INPUT is left out of the results: files of {own} channels are written without")
    if alpha is not None and isinstance(task, Outpaint) and not simulate:
        alpha = np.pad(alpha, task.margin, constant_values=1.0)
    if alpha is not None and alpha.shape != (height, width):
        alpha = alpha[:height, :width] if simulate else alpha.repeat(height // len(alpha), 0).repeat(width // alpha.shape[1], 1)
    if picture.icc is not None and op.out_shape[0] != op.in_shape[0]:
        picture = replace(picture, icc=None)
        notes.append("the colour profile of INPUT is left out of the results: it does not fit both grey and colours")
    if noise == 0 and problem not in ("inpaint", "outpaint", "dequantize"):
        notes.append(
            "noise 0: INPUT is taken as exact; an 8-bit file has rounding noise of 0.001, a photograph more (--noise 0.01)"
        )
    if noise > 1:
        notes.append(f"noise {noise:g}: pixels span 0..1, is that meant? {noise:g} of 255 is --noise {noise / 255:.3g}")
    return Task(
        problem=task,
        op=op,
        y=measurement.expand(-1, op.out_shape[0], -1, -1),
        observed=observed,
        measurement=measurement,
        clean=clean,
        picture=picture,
        alpha=alpha,
        name=f"{PHOTOGRAPH if source is None else source.stem}-{problem}",
        notes=tuple(notes),
    )


def make_problem(
    problem: str, *, size: Sequence[int], known: np.ndarray[Any, np.dtype[np.bool_]] | None, options: Mapping[str, Any]
) -> Problem:
    """Return the problem that arguments of ``invdiff solve`` name.

    Args:
        problem: Its name.
        size: Of the picture that came in, ``(H, W)``.
        known: The mask, true where pixels are known.
        options: Arguments by the names of ``invdiff.cli.solve.OPTIONS``: those that the problem needs, and perhaps others.
    """
    if problem == "inpaint" and known is not None:
        return Inpaint(known)
    if problem == "declip":
        ends = [beyond if options[name] is None else 2 * options[name] - 1 for name, beyond in CLIP_ENDS.items()]
        return Declip(*ends)
    build: dict[str, Callable[[], Problem]] = {
        "outpaint": lambda: Outpaint(options["margin"]),
        "denoise": Denoise,
        "deblur": lambda: Deblur(_kernel(options["kernel"], size), boundary=options["boundary"]),
        "defocus": lambda: Defocus(options["radius"], boundary=options["boundary"]),
        "motion-deblur": lambda: MotionDeblur(options["length"], options["angle"], boundary=options["boundary"]),
        "sr": lambda: SuperResolution(options["factor"], kernel=options["downsampling"]),
        "colorize": Colorize,
        "demosaic": lambda: Demosaic(options["pattern"]),
        "dequantize": lambda: Dequantize(options["levels"]),
    }
    if problem not in build:
        raise ValueError(f"Problem {problem!r} is unknown, or lacks what it needs: see `invdiff problems`.")
    return build[problem]()


def _shape(x: Tensor) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2], x.shape[3]


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]} x {shape[-2]}"


def _bundled_photograph(size: tuple[int, ...]) -> Picture:
    from skimage import data

    image = ImageOps.fit(Image.fromarray(getattr(data, PHOTOGRAPH)()), (size[1], size[0]), Image.Resampling.LANCZOS)
    return Picture(np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 127.5 - 1)


def _mask_from_alpha(source: Path | None, picture: Picture) -> np.ndarray[Any, np.dtype[np.bool_]]:
    advice = "give --mask, an image of the same size, white where pixels are to be filled."
    if picture.alpha is None:
        raise ValueError(f"{source or 'the bundled photograph'}: no pixel is transparent, and inpaint fills those: {advice}")
    known = mask_from_alpha(picture)
    if known.all() or not known.any():
        raise ValueError(
            f"{source}: {'no' if known.all() else 'every'} pixel is transparent, and inpaint fills those: {advice}"
        )
    return known


def _kernel(text: str, size: Sequence[int]) -> Tensor:
    """Return the kernel of a file, or of ``gaussian:SIGMA`` or ``motion:SIZE,ANGLE``."""
    kind, _, arguments = text.partition(":")
    if kind not in ("gaussian", "motion"):
        return torch.from_numpy(read_kernel(text))
    try:
        numbers = [float(number) for number in arguments.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != (1 if kind == "gaussian" else 2) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"--kernel {text}: expected gaussian:SIGMA or motion:SIZE,ANGLE, such as gaussian:2 or motion:15,45.")
    # Checked before it is built: a kernel far larger than the image would not fit the memory.
    side = 2 * math.ceil(4 * numbers[0]) + 1 if kind == "gaussian" else int(numbers[0])
    if side > min(size):
        raise ValueError(f"--kernel {text}: a kernel of {side} x {side} pixels is larger than the image, {_size(size)}.")
    if kind == "gaussian":
        return gaussian_kernel(numbers[0])
    return motion_kernel(int(numbers[0]) if numbers[0].is_integer() else 0, numbers[1])
