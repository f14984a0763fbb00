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

from invdiff.cli.noise import NoiseChoice
from invdiff.io.images import Picture, mask_from_alpha, read_arrays, read_image, read_kernel, read_mask
from invdiff.operators import GaussianNoise, Noise, Operator, temper
from invdiff.operators.blur.kernels import gaussian_kernel, motion_kernel
from invdiff.posterior import chi_square
from invdiff.problems import (
    PROBLEMS,
    ArrayProblem,
    Colorize,
    CompressedSensing,
    Deblur,
    Declip,
    Defocus,
    Dejpeg,
    Demosaic,
    Denoise,
    Dequantize,
    Inpaint,
    MotionDeblur,
    Outpaint,
    Problem,
    ReconstructCT,
    ReconstructMRI,
    RetrievePhase,
    SuperResolution,
)

__all__ = ["Task", "make_problem", "make_task"]

PHOTOGRAPH = "chelsea"  # scikit-image's cat: CC0, inside its wheel
PHOTOGRAPH_SIZE = (256, 256)
CLIP_ENDS = {"clip_low": -math.inf, "clip_high": math.inf}
SPECIMENS = {"mri": "shepp_logan_phantom", "ct": "shepp_logan_phantom"}  # where a cat would be out of place
MOSTLY_KNOWN = 0.25  # share of missing pixels up to which the noise of the others can be told
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
        results = samples.mean(1, keepdim=True) if self.observed.in_shape[0] == 1 else samples
        return self.problem.finish(results, self.measurement.expand(len(results), *self.observed.out_shape), self.observed)

    def residual(self, results: Tensor) -> list[float]:
        """Return, per picture, the squared misfit over the noise variance; where the noise is 0, the squared misfit itself."""
        measured = self.measurement.expand(len(results), *self.observed.out_shape)
        return [float(f"{value:.6g}") for value in chi_square(self.observed, results, measured)]


def make_task(
    *,
    source: Path | None,
    problem: str,
    channels: int,
    simulate: bool,
    mask: Path | None,
    mask_keep: Literal["black", "white"],
    noise: NoiseChoice,
    seed: int,
    options: Mapping[str, Any],
) -> Task:
    r"""Read the files and build the task; the arguments are those of ``invdiff solve``.

    ``channels`` are those of the prior, ``options`` what :func:`make_problem` takes. A prior of one channel takes any number.

    A grey picture meets a prior of colours as equal channels, which share one noise: see :func:`invdiff.operators.temper`.
    """
    if source is not None and source.is_dir():
        raise IsADirectoryError(
            f"{source} is a folder, expected one image: folders come later, run the command for each image."
        )
    kind = PROBLEMS[problem]
    if source is not None and not simulate and issubclass(kind, ArrayProblem):
        given = _given_arrays(kind, source, scale=options["scale"])
    elif source is not None and not simulate and kind is Dejpeg:
        given = _given_jpeg(source)
    else:
        known = None if mask is None else read_mask(mask, keep=mask_keep)
        given = _given_picture(problem, source, known, channels=channels, simulate=simulate, options=options)
    own, height, width = given.shape
    if height * width > LARGEST:
        raise ValueError(
            f"{source}: an image of {width} x {height} pixels is too large to sample, crop it or choose a smaller --factor "
            "or --margin."
        )
    channels = own if channels == 1 else channels
    if own not in (1, channels):
        raise ValueError(f"--problem {problem} makes images of {own} channels, and this prior knows images of {channels}.")
    notes, task, clean, picture = list(given.notes), given.problem, given.clean, given.picture
    law = _law(noise, given, notes)
    observed = task.operator((own, height, width), sigma_y=0.0)
    if not noise.none:
        observed.noise = law
    measurement = given.measured if clean is None else observed.measure(clean, seed=seed)
    measurement = observed.keep_measured(measurement)
    y = measurement
    if isinstance(task, Dejpeg) and own < channels:  # whose channels are not measured one by one
        coloured, y = task.in_colour(measurement)
        op = coloured.operator((channels, height, width), sigma_y=0.0)
    else:
        op = task.operator((channels, height, width), sigma_y=0.0)
        op.noise = temper(observed.noise, channels // own)
    alpha = given.alpha
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
    if noise.none and problem not in ("inpaint", "outpaint", "dequantize", "dejpeg"):
        notes.append(
            "noise 0: INPUT is taken as exact; an 8-bit file has rounding noise of 0.001, a photograph more (--noise 0.01)"
        )
    if noise.level is not None and noise.level > 1 and not issubclass(kind, ArrayProblem):
        notes.append(
            f"noise {noise.level:g}: pixels span 0..1, is that meant? {noise.level:g} of 255 is --noise {noise.level / 255:.3g}"
        )
    return Task(
        problem=task,
        op=op,
        y=y.expand(-1, *op.out_shape),
        observed=observed,
        measurement=measurement,
        clean=clean,
        picture=picture,
        alpha=alpha,
        name=f"{given.name}-{problem}",
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Given:
    """What came in.

    Attributes:
        problem: The task.
        measured: What was measured, ``(1, C, ...)``, or what is to be.
        clean: The true image, where it is known: ``(1, C, H, W)``.
        shape: Of the image, ``(C, H, W)``.
        picture: How results are written.
        alpha: Opacity of the result ``(H, W)``, or nothing.
        name: Of the file.
        notes: Lines for the person who runs this.
    """

    problem: Problem
    measured: Tensor
    clean: Tensor | None
    shape: tuple[int, int, int]
    picture: Picture
    alpha: np.ndarray[Any, np.dtype[np.float64]] | None
    name: str
    notes: tuple[str, ...]


def _given_arrays(kind: type[ArrayProblem], source: Path, *, scale: float | None) -> Given:
    try:
        task, y = kind.from_arrays(read_arrays(source, kind.measured), scale=scale)
    except ValueError as error:
        raise ValueError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    notes = (f"white is {task.scale:.4g} in the units of INPUT{'' if scale else ' (--scale changes it)'}",)
    empty = Picture(np.zeros((1, 1, 1)), bits=16)
    return Given(task, y, None, task.image_shape(y.shape[1:]), empty, None, source.stem, notes)


def _given_jpeg(source: Path) -> Given:
    task, y = Dejpeg.from_file(source)
    notes = (f"tables of {source.name}: luma steps from {int(task.tables[0].min())} to {int(task.tables[0].max())}",)
    shape = task.image_shape(y.shape[1:])
    return Given(task, y, None, shape, replace(read_image(source), alpha=None), None, source.stem, notes)


def _given_picture(
    problem: str,
    source: Path | None,
    known: np.ndarray[Any, np.dtype[np.bool_]] | None,
    *,
    channels: int,
    simulate: bool,
    options: Mapping[str, Any],
) -> Given:
    notes, name = [], SPECIMENS.get(problem, PHOTOGRAPH) if source is None else source.stem
    if source is None:
        picture, simulate = _bundled_picture(name, PHOTOGRAPH_SIZE if known is None else known.shape), True
        notes.append(f"no INPUT given: degrading a bundled picture ({name}, {_size(picture.pixels.shape)})")
    else:
        picture = read_image(source)
    pixels, alpha = torch.from_numpy(picture.pixels).float()[None], picture.alpha
    if channels > 1 and pixels.shape[1] not in (1, channels):
        raise ValueError(
            f"{source or 'the bundled picture'}: has {pixels.shape[1]} channels, and this prior knows images of {channels}, "
            "or grey ones."
        )
    if problem == "inpaint":
        if known is None:
            known, alpha = _mask_from_alpha(source, picture), None
        notes.append(f"filling {1 - known.mean():.1%} of the pixels")
    task = make_problem(problem, size=pixels.shape[-2:], known=known, options=options)
    clean = task.fit(pixels) if simulate else None
    shape = task.image_shape(_shape(pixels)) if clean is None else _shape(clean)
    if clean is not None and clean.shape[2:] != pixels.shape[2:]:
        notes.append(f"cropped to {_size(clean.shape)}{', a multiple of the factor' if problem == 'sr' else ''}")
    return Given(task, pixels, clean, shape, picture, alpha, name, tuple(notes))


def _law(noise: NoiseChoice, given: Given, notes: list[str]) -> Noise:
    """Return the law of the noise, in the units of images that span [-1, 1]; estimated from the picture if it is not known."""
    if noise.law != "auto":
        return noise.model()
    pixels = given.measured
    if isinstance(given.problem, Inpaint):
        pixels = _filled(pixels, given.problem.mask)
    elif isinstance(given.problem, Demosaic):  # Neighbours of one colour are two pixels apart.
        pixels = torch.nn.functional.pixel_unshuffle(pixels[..., : pixels.shape[2] // 2 * 2, : pixels.shape[3] // 2 * 2], 2)
    law = GaussianNoise.estimate(pixels)
    notes.append(f"noise: estimated {law.sigma / 2:.4f} from INPUT, pixels spanning 0..1 (fine texture counts as noise)")
    return law


def _filled(pixels: Tensor, known: Tensor) -> Tensor:
    """Return the picture with each missing pixel like the nearest known one."""
    from scipy import ndimage

    missing = 1 - float(known.double().mean())
    if missing > MOSTLY_KNOWN:
        raise ValueError(
            f"--noise auto: {missing:.0%} of the pixels are missing, at most {MOSTLY_KNOWN:.0%} may be to estimate the noise "
            "of the others. Give its standard deviation."
        )
    nearest = ndimage.distance_transform_edt(
        ~known.broadcast_to(pixels.shape[-2:]).numpy(), return_distances=False, return_indices=True
    )
    return pixels[:, :, torch.from_numpy(nearest[0]), torch.from_numpy(nearest[1])]


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
    height, width = size
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
        "dejpeg": lambda: Dejpeg(quality=options["jpeg_quality"]),
        "compressed-sensing": lambda: CompressedSensing.share(
            options["ratio"], (height, width), sensing=options["sensing"] or "hadamard", seed=options["pattern_seed"]
        ),
        "phase-retrieval": lambda: (
            RetrievePhase.coded(options["codes"], (height, width), seed=options["pattern_seed"])
            if options["codes"]
            else RetrievePhase((height, width), oversampling=options["oversampling"])
        ),
        "mri": lambda: ReconstructMRI.simulated(
            (height, width),
            acceleration=options["acceleration"],
            center_fraction=_centre_fraction(options["center_fraction"], options["acceleration"]),
            coils=options["coils"] or 1,
            seed=options["pattern_seed"],
        ),
        "ct": lambda: ReconstructCT.evenly(options["angles"], (height, width)),
    }
    if problem not in build:
        raise ValueError(f"Problem {problem!r} is unknown, or lacks what it needs: see `invdiff problems`.")
    return build[problem]()


def _shape(x: Tensor) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2], x.shape[3]


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]} x {shape[-2]}"


def _bundled_picture(name: str, size: tuple[int, ...]) -> Picture:
    from skimage import data

    pixels = getattr(data, name)()
    pixels = pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    image = ImageOps.fit(Image.fromarray(pixels), (size[1], size[0]), Image.Resampling.LANCZOS)
    values = np.asarray(image, dtype=np.float64)
    return Picture(np.atleast_3d(values).transpose(2, 0, 1) / 127.5 - 1)


def _centre_fraction(given: float | None, acceleration: float) -> float:
    return 0.32 / acceleration if given is None else given  # fastMRI's: 0.08 at 4, 0.04 at 8


def _mask_from_alpha(source: Path | None, picture: Picture) -> np.ndarray[Any, np.dtype[np.bool_]]:
    advice = "give --mask, an image of the same size, white where pixels are to be filled."
    if picture.alpha is None:
        raise ValueError(f"{source or 'the bundled picture'}: no pixel is transparent, and inpaint fills those: {advice}")
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
