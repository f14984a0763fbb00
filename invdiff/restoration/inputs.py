"""Construction of the operator and the measurement from a file and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from invdiff.formats import Stack
from invdiff.formats.window import Window
from invdiff.io.images import Picture
from invdiff.io.limits import LARGEST_IMAGE
from invdiff.io.metadata import enlarged
from invdiff.io.source import Source
from invdiff.operators import Blur, GaussianNoise, Noise, Operator
from invdiff.posterior import chi_square
from invdiff.priors import ScoreModel
from invdiff.problems import Given, OptionError, Problem
from invdiff.restoration.checks import check_options, complete, find_problem
from invdiff.restoration.file_noise import InputNoise, noise_of_file, noise_of_pixels
from invdiff.restoration.kernel_check import check_kernel
from invdiff.restoration.levels import Levels, check_range, dark_notes, fewer_bits, given_window, levels_of, read_levels
from invdiff.restoration.naming import naming_input
from invdiff.restoration.noise import FROM_INPUT, RESOLUTION, NoiseChoice, noise_choice
from invdiff.restoration.transparency import with_visible_colors
from invdiff.restoration.unmeasured import unmeasured, without

__all__ = ["Measured", "read"]


@dataclass(frozen=True)
class Measured:
    """A measurement with its operator, ready for sampling.

    Attributes:
        problem: The problem.
        op: Operator for images with the channels of the prior; without blur if the kernel is unknown.
        y: Measurement for ``op``, ``(1, *op.out_shape)``.
        observed: Operator for images with the channels of the picture.
        measurement: Measurement for ``observed``, ``(1, *observed.out_shape)``.
        clean: True image, ``(1, C, H, W)``, if it is known.
        picture: Format of the results: bit depth, alpha channel, EXIF data, and the color profile if it fits them. Its pixels
            are left out: ``measurement`` and ``clean`` have them.
        name: Short name for the output folder.
        notes: Messages for the user.
        levels: Black and white in the units of INPUT, if they were given.
        rounded: Whether the noise is the rounding in a JPEG file, so that a misfit far below its expected value is usual.
        hidden: Where pixels of INPUT were not measured, ``(H, W)``, if the problem does not know.
    """

    problem: Problem
    op: Operator
    y: Tensor
    observed: Operator
    measurement: Tensor
    clean: Tensor | None
    picture: Picture
    name: str
    notes: tuple[str, ...]
    levels: Levels | None = None
    rounded: bool = False
    hidden: Tensor | None = None

    def stored(self, x: Tensor) -> Tensor:
        """Return pictures in the levels of INPUT, to be written to files of its kind."""
        return x if self.levels is None else self.levels.stored(x)

    def finish(self, samples: Tensor) -> Tensor:
        """Convert samples to pictures: exact data are put in, and samples for a grayscale INPUT are averaged over channels."""
        results = self.in_own_channels(samples)
        y = self.measurement.expand(len(results), *self.observed.out_shape)
        finished = self.problem.finish(results, y, self.observed)
        return finished if self.hidden is None else torch.where(self.hidden, results, finished)

    def in_own_channels(self, samples: Tensor) -> Tensor:
        """Return samples ``(N, C, H, W)`` in the channels of INPUT: for a grayscale one, their mean over the channels."""
        return samples.mean(1, keepdim=True) if self.observed.in_shape[0] == 1 else samples

    def residual(self, results: Tensor) -> list[float]:
        """Return the squared misfit of each picture divided by the noise variance, or undivided if the noise is 0."""
        # One by one, for the memory of large pictures.
        each = [chi_square(self.observed, picture, self.measurement) for picture in torch.split(results, 1)]
        return [float(f"{float(value):.6g}") for value in each]


@naming_input
def read(
    source: Any,
    problem: str | type[Problem],
    *,
    noise: Any = None,
    simulate: bool = False,
    page: int | None = None,
    slice: int | None = None,  # noqa: A002 - the name of the option
    seed: int = 0,
    channels: int = 3,
    black: float | None = None,
    white: float | None = None,
    window: Window | None = None,
    score: ScoreModel | None = None,
    progress: bool = False,
    **options: Any,
) -> Measured:
    r"""Return the operator and the measurement described by a file and the options of a problem.

    >>> measured = read("photo.png", "inpaint", mask="m.png")  # doctest: +SKIP
    >>> PosteriorSampler(score, measured.op).run(measured.y)  # doctest: +SKIP

    Under a color prior, a grayscale picture is modeled as equal channels with tempered noise: see
    :func:`invdiff.operators.temper`.

    Args:
        source: INPUT: a path, a Pillow image, an array or tensor on the 0..1 scale or, for problems that read arrays, a mapping
            of arrays by name (see :class:`invdiff.io.source.Source`). ``None``: a bundled picture is degraded.
        problem: Name of a problem, a place such as ``mine.py:MyProblem``, or a class.
        noise: Noise in INPUT, pixels spanning 0..1: a standard deviation, ``"auto"``, ``"file"``, or text such as
            ``"poisson:40"``; or a noise model in the units of images that span [-1, 1]. Default: 0 in a simulation, and else
            set by the problem.
        simulate: Whether INPUT is clean and is degraded first.
        page: Page of a TIFF file of several pages, counted from 1.
        slice: Slice of a volume, page of a stack or frame of a clip, counted from 1.
        seed: Random seed of the simulated noise.
        channels: Number of channels of the prior; 1: images of any number of channels.
        black: Value of black in the units of INPUT. Default: 0.
        white: Value of white. Default: 255 or 65535 for integers of 8 or 16 bits, 1 for floats.
        window: Black and white of a file with units, instead of the two; ``None``: that of its header or its values.
        score: The prior, for options that are proposed by its help, such as ``mask="auto"``.
        progress: Whether to show progress bars while an option is proposed.
        options: Options of the problem.

    Raises:
        OptionError: If an option is unknown, missing or out of range.
        ValueError: If INPUT does not fit the problem or the prior.
        OSError: If a file cannot be opened.
    """
    kind, simulated = find_problem(problem), simulate or source is None
    said = noise_choice(noise, kind, simulated=simulated)
    values = complete(kind, options, simulated=simulated)
    check_options(kind, values, said, has_input=source is not None, simulated=simulated)
    number = page if slice is None else slice
    entry = Source(source, page=number, stack=page is None)
    notes, limits, levels = list[str](), levels_of(black, white), None
    if page is not None and page < 1:
        raise OptionError(f"--page: expected a whole number from 1, got {page}.")
    if entry.path is not None and entry.path.is_dir() and slice is None:
        raise IsADirectoryError(f"{entry} is a folder, expected a single image. Give the images in it.")
    if simulated or kind.reads == "picture":
        where = "the bundled picture" if source is None else str(entry)
        if source is None:
            picture = bundled_picture(kind.bundled, kind.bundled_size(values))
            size = _size(picture.pixels.shape)
            notes.append(f"no INPUT given: degrading a bundled picture ({kind.bundled}, {size})")
        elif entry.contents is not None:
            _check_taken(entry, kind, simulated=simulated)
            entry = replace(entry, window=given_window(limits, entry) if window is None else window)
            picture = entry.picture()
        elif limits is not None:
            picture, levels = read_levels(entry, *limits)
        else:
            picture = entry.picture()
            bits, deep, told = fewer_bits(picture), picture, None
            if bits is not None:
                deep, told = read_levels(entry, 0.0, 2.0**bits - 1)
            if told is not None and told.full > 1:  # of integers: floats such as 0.2 are whole multiples of 1 / 65535 too
                picture, levels = deep, told
                notes.append(
                    f"INPUT holds integers of {bits} bits in 16: {round(told.white)} is taken as white, and results have "
                    "its units; if it is a dark picture: --white 65535"
                )
            else:
                notes += dark_notes(picture)
        # What is degraded was not damaged before it was compressed.
        picture = replace(picture, chroma=None) if simulated else kind.as_measured(picture)
        if channels > 1 and len(picture.pixels) not in (1, channels):
            raise ValueError(
                f"{where} has {len(picture.pixels)} channels, but this prior takes images of {channels} channels or grayscale."
            )
        if simulated or not kind.reads_alpha:
            picture, hidden = with_visible_colors(picture, where)
            notes += hidden
        if any(option.is_proposed(values[option.name]) for option in kind.options):
            shown, _ = with_visible_colors(picture, where)
            values, said_of_options = kind.propose(values, shown, score, source=where, progress=progress)
            notes += said_of_options
        given = kind.of_picture(picture, values, source=where)
    elif limits is not None:
        raise OptionError(f"--black and --white are for pictures, and --problem {kind.name} reads {kind.reads}.")
    else:
        where, given = str(entry), kind.read(entry, values)
    if said.none and kind.is_blind(values):
        said = NoiseChoice("file")
        notes.append("noise 0: an unknown blur needs the level of the noise, which is estimated; --noise SIGMA gives it")
    name = kind.bundled if source is None else entry.name
    found = partial(noise_of_file, path=entry.path, scale=1.0 if levels is None else levels.scale)
    measured = _measured(
        given, said, found, name=name, where=where, notes=notes, simulated=simulated, seed=seed, channels=channels
    )
    if given.picture.origin is None and (simulated or (kind.reads == "picture" and kind.keeps_range)):
        check_range(given.y, measured.observed.noise if not simulated else None, where)
    return replace(measured, levels=levels)


def _check_taken(entry: Source, kind: type[Problem], *, simulated: bool) -> None:
    """Raise an error if the pictures of a format are for other problems."""
    assert entry.contents is not None
    what, held = entry.contents
    taken = held.problems if isinstance(held, Stack) else ()
    if taken and (simulated or kind.name not in taken):
        raise ValueError(f"{entry}: is {what.name}, which is for --problem {' or '.join(taken)}, as it was measured.")


def _measured(
    given: Given,
    said: NoiseChoice,
    of_file: Callable[[Given], InputNoise],
    *,
    name: str,
    where: str,
    notes: list[str],
    simulated: bool,
    seed: int,
    channels: int,
) -> Measured:
    problem, notes = given.problem, [*notes, *given.picture.notes, *given.notes]
    clean = problem.fit(given.y) if simulated else None
    if clean is not None and clean.shape[2:] != given.y.shape[2:]:
        notes.append(", ".join(filter(None, (f"cropped to {_size(clean.shape)}", problem.why_cropped))))
    own, height, width = problem.image_shape(given.y.shape[1:]) if clean is None else clean.shape[1:]
    if height * width > LARGEST_IMAGE:
        raise ValueError(
            f"{where}: an image of {width} x {height} pixels is too large to sample. Crop it, or choose a smaller --factor "
            "or --margin."
        )
    channels = own if channels == 1 or problem.own_channels else channels
    if own not in (1, channels):
        raise ValueError(f"{where}: its image has {own} channels, but this prior takes {channels} channels.")
    noise, rounded = _noise(said, given, of_file, notes, where)
    observed = problem.operator((own, height, width), noise=noise)
    if not isinstance(observed, Operator):
        raise TypeError(f"problem {problem.name}: operator() must return an Operator, got {type(observed).__name__}.")
    if noise is not None and noise.sigma > 0 and observed.noise.sigma == 0:
        raise ValueError(f"problem {problem.name}: operator(shape, noise=...) must give the operator the noise {noise!r}.")
    measurement = observed.keep_measured(given.y if clean is None else observed.measure(clean, seed=seed))
    op, y = (observed, measurement) if own == channels else problem.in_channels(observed, measurement, channels)
    hidden = unmeasured(given, observed, simulated=simulated)
    if hidden is not None:
        observed, op = without(observed, hidden), without(op, hidden)
        measurement, y = observed.keep_measured(measurement), op.keep_measured(y)
        notes.append(f"{hidden.float().mean():.1%} of the pixels are not measured (NaN or masked in INPUT)")
    picture = _written_as(given.picture, problem, (own, height, width), notes, simulated=simulated)
    if picture.icc is not None and picture.origin is None and op.out_shape[0] != op.in_shape[0]:
        picture = replace(picture, icc=None)
        notes.append("the color profile of INPUT is not written to the results: it does not fit both grayscale and color")
    notes += _doubts(said, problem, observed, simulated=simulated)
    if isinstance(observed, Blur) and not simulated and problem.kernels((height, width)) is None:
        notes += _doubt_of_kernel(observed, measurement[0], problem)
    y = y.expand(-1, *op.out_shape)
    return Measured(
        problem,
        op,
        y,
        observed,
        measurement,
        clean,
        picture,
        f"{name}-{problem.name}",
        tuple(notes),
        rounded=rounded,
        hidden=hidden if hidden is not None and op.in_shape[1:] == tuple(hidden.shape) else None,
    )


def _noise(
    said: NoiseChoice, given: Given, of_file: Callable[[Given], InputNoise], notes: list[str], where: str
) -> tuple[Noise | None, bool]:
    """Return the noise in the units of images that span [-1, 1], found in INPUT for ``auto`` and ``file``; and whether it is
    the rounding in a JPEG file."""
    if said.kind in FROM_INPUT:
        try:
            own = given.problem.noise_of_input(given.y, estimated=said.kind == "auto")
            if own is not None:
                notes.append(own[1])
                return own[0], False
            found = noise_of_pixels(given) if said.kind == "auto" else of_file(given)
        except ValueError as error:
            raise ValueError(
                f"{where}: --noise {said.kind}: {error}. Give the level, --noise SIGMA, pixels spanning 0..1."
            ) from None
        notes.append(found.note)
        return GaussianNoise(found.sigma), found.rounded
    if said.none and said.level:
        notes.append(f"noise {said.level:g}: taken as 0, since it is below the rounding of 32-bit pixels, {RESOLUTION:g}")
    return said.model(), False


def _written_as(
    picture: Picture, problem: Problem, shape: tuple[int, int, int], notes: list[str], *, simulated: bool
) -> Picture:
    """Return the format of the results, with an alpha channel for an image of shape ``(C, H, W)``, without pixels."""
    (own, height, width), alpha = shape, picture.alpha if picture.origin is None else None  # there it is what is not measured
    if alpha is not None and own not in (1, 3):
        alpha = None
        notes.append(f"the alpha channel of INPUT is not written to the results: files of {own} channels have none")
    if alpha is not None:
        shown = problem.framed(torch.from_numpy(alpha[:height, :width])).numpy()
        alpha = shown if simulated else problem.alpha_of(alpha, (height, width))
    factor = 1 if simulated else problem.enlarges
    exif = picture.exif if picture.exif is None or factor == 1 else enlarged(picture.exif, factor)
    return replace(picture, pixels=np.empty((own, 0, 0)), alpha=alpha, exif=exif)


def _doubts(said: NoiseChoice, problem: Problem, op: Operator, *, simulated: bool) -> list[str]:
    """Return notes on noise levels that are probably unintended."""
    if op.sigma_y == 0 and not problem.exact_is_usual and not simulated:
        if problem.reads == "arrays":
            return ["noise 0: INPUT is taken as exact, which no instrument is; give the level of its noise with --noise"]
        advice = "leave --noise out to have it found" if problem.default_noise == "file" else "--noise file finds it"
        return [f"noise 0: INPUT is taken as exact; an 8-bit file has rounding noise of 0.001, a photograph more ({advice})"]
    if said.level is not None and said.level > 1 and problem.reads != "arrays":
        level = said.level
        return [f"noise {level:g}: pixels span 0..1, is this intended? {level:g} of 255 is --noise {level / 255:.3g}"]
    return []


def _doubt_of_kernel(op: Blur, y: Tensor, problem: Problem) -> list[str]:
    """Return a note if the kernel does not explain the spectrum of the measured picture ``(C, H, W)``."""
    verdict = check_kernel(y, op.kernel, op.sigma_y)
    if verdict is None or not verdict.wrong:
        return []
    without = " or ".join(option.flag for option in type(problem).options if option.needed == "simulated")
    advice = f" Without {without} it is estimated from INPUT." if without else ""
    return [
        f"kernel: photographs blurred by it have another spectrum than INPUT, which fits {verdict.better} better: the kernel "
        f"or the noise is wrong, and stripes or rings in the results are artifacts.{advice}"
    ]


def bundled_picture(name: str, size: tuple[int, int]) -> Picture:
    """Return a picture of scikit-image, cropped to the aspect ratio of ``size`` ``(H, W)`` and resized to it."""
    from skimage import data

    pixels = getattr(data, name)()
    pixels = pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    image = ImageOps.fit(Image.fromarray(pixels), (size[1], size[0]), Image.Resampling.LANCZOS)
    values = np.asarray(image, dtype=np.float64)
    return Picture(np.atleast_3d(values).transpose(2, 0, 1) / 127.5 - 1)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]} x {shape[-2]}"
