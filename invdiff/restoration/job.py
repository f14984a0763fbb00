"""Complete restoration in one call: ``invdiff.restore``, the Python counterpart of ``invdiff solve``."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.blind import BlindSampler
from invdiff.formats.window import Window
from invdiff.methods import Method
from invdiff.methods.algorithm import Algorithm
from invdiff.operators import Noise
from invdiff.posterior import MisfitWarning, Posterior, PosteriorSampler
from invdiff.posterior.misfit import unwarned
from invdiff.priors import ScoreModel
from invdiff.problems import OptionError, Problem
from invdiff.restoration.calibration_file import INTERVAL, LEVELS, Spread, read_spread, settings_of
from invdiff.restoration.checks import check_limits, check_mapping, check_options, complete, find_problem
from invdiff.restoration.device import pick_device
from invdiff.restoration.earlier import Results
from invdiff.restoration.estimate import ShareWatch, Stopwatch
from invdiff.restoration.files import FilesRead, code_files, prior_files
from invdiff.restoration.fit import fit
from invdiff.restoration.formats import FileFormat, file_format
from invdiff.restoration.inputs import Measured, read
from invdiff.restoration.keep import KEPT
from invdiff.restoration.noise import noise_choice
from invdiff.restoration.pictures import COMMAND, RECORD, file_names
from invdiff.restoration.priors import find_prior
from invdiff.restoration.record import blind_residual, make_record, misfits_of
from invdiff.restoration.result import Restoration
from invdiff.restoration.sampling import sampler_arguments
from invdiff.restoration.slices import one_slice

__all__ = ["SETTINGS", "TAKEN", "Job", "prepare", "restore"]

# Settings common to all problems with their defaults, as in `invdiff solve`.
SETTINGS: Mapping[str, Any] = {
    "problem": None,
    "noise": None,
    "simulate": False,
    "page": None,
    "slice": None,
    "coupling": None,
    "black": None,
    "white": None,
    "samples": 4,
    "method": "auto",
    "steps": None,
    "rule": None,
    "quality": None,
    "preset": None,
    "option": (),
    "windows": "auto",
    "prior": "natural",
    "prior_option": (),
    "precision": "auto",
    "checkpointing": False,
    "compiled": False,
    "tile": None,
    "overlap": None,
    "device": "auto",
    "seed": 0,
    "first_sample": 0,
    "chunk": None,
    "calibration": None,
    "intervals": None,
}
# Names that options of a problem cannot have: the settings, and other options of commands that take a problem.
TAKEN = (
    *SETTINGS,
    *(
        "source",
        "config",  # and --operator, which --problem operator takes for itself
        "output",
        "overwrite",
        "json",
        "npz",
        "format",
        "format_quality",
        "strip",
        "anonymize",
        "window",
        "log_file",
        "quiet",
        "verbose",
        "keep",
        "shard",
        "batch",
        "tar",
        "progress",
        "folder",
        "size",
        "cases",
        "save",
    ),
)


@dataclass(frozen=True, eq=False)
class Job:
    """A restoration that is ready to run.

    Attributes:
        source: INPUT.
        settings: All settings including the options of the problem: the arguments in the record.
        measured: Measurement and operator.
        sampler: Posterior sampler; the one of image and kernel if the kernel is unknown.
        device: Device to compute on.
        spread: Scaling of standard deviation and intervals; ``None``: no calibration and no intervals.
        files: The files that were read, with their digests.
        notes: Messages for the user: on the measurement, the prior, and the limits of both; without repetitions.
        chunk: Samples per chunk; ``None``: the default.
        memory: Memory that the run needs, in bytes, if it is known and not little.
        memory_notes: Messages on memory that is lacking, which are in no record.
        seconds: Time that it took to prepare.
    """

    source: Any
    settings: Mapping[str, Any]
    measured: Measured
    sampler: PosteriorSampler | BlindSampler
    device: torch.device
    spread: Spread | None
    files: FilesRead
    notes: tuple[str, ...]
    chunk: int | None
    memory: int | None
    memory_notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def y(self) -> Tensor:
        """The measurement, on the device."""
        return self.measured.y.to(self.device)

    def file_format(
        self, wanted: str | None = None, *, quality: int | None = None, strip: bool = False, anonymize: bool = False
    ) -> FileFormat:
        """Return the format of the files of results: :func:`invdiff.restoration.formats.file_format`."""
        channels = self.measured.problem.pictured(torch.zeros(1, *self.measured.observed.in_shape)).shape[1]
        return file_format(self.measured.picture, channels, wanted, quality=quality, strip=strip, anonymize=anonymize)

    def results(self, *, npz: bool, files: FileFormat, keep: tuple[str, ...] = KEPT) -> Results:
        """Return the names of the files that will be written, and the files that are read, to find out what is in the way."""
        settings = self.settings
        numbers = range(settings["first_sample"], settings["first_sample"] + settings["samples"])
        names = file_names(self.measured, numbers=numbers, spread=self.spread, npz=npz, files=files, keep=keep)
        return Results(COMMAND, RECORD, names, (*self.files.paths, *prior_files(self.settings["prior"])))

    def run(self, *, progress: bool = False, report: Callable[[float, float], object] | None = None) -> Restoration:
        """Draw the samples and return the restoration.

        Args:
            progress: Whether to show a progress bar.
            report: Called once, after the first steps, with an estimate of the time of the run and of the time that is left,
                in seconds.
        """
        settings = self.settings
        if isinstance(self.sampler, BlindSampler):
            return self._run_blind(self.sampler, progress=progress, report=report)
        costs = self.sampler.plan(settings["samples"]).costs(self.sampler.score)
        area = sum(math.prod(sides) for sides in self.sampler.parts(settings["samples"]))
        watch = Stopwatch(costs, settings["samples"], self.device, report, area)
        with unwarned():  # the misfit that counts is that of the results
            post = self.sampler.run(
                self.y,
                num_samples=settings["samples"],
                first_sample=settings["first_sample"],
                seed=settings["seed"],
                chunk=self.chunk,
                progress=progress,
                callback=watch,
            )
        return self.restored(post, estimate=watch.seconds)

    def restored(self, post: Posterior, *, estimate: float | None = None) -> Restoration:
        """Return the restoration made of the samples of its sampler; ``estimate``: the seconds that were expected."""
        settings, measured = self.settings, self.measured
        results = measured.finish(post.samples[:, 0].cpu())
        residual = measured.residual(results)
        misfits = misfits_of(measured, post, residual)
        for note in misfits:
            warnings.warn(note, MisfitWarning, stacklevel=4)
        notes = (*self.notes, *misfits)
        memory = None if self.memory is None else round(self.memory / 2**20, 1)
        record = make_record(
            self.source,
            settings,
            self.files.digests,
            measured,
            self.sampler,
            post,
            results,
            residual,
            notes=notes,
            seconds={"load": self.seconds, "sample": post.seconds},
            estimate={"seconds": None if estimate is None else round(estimate, 2), "memory_mib": memory},
        )
        if self.spread is not None:
            record |= {"spread": self.spread.record}
        pictures = measured.problem.upright(measured.problem.pictured(results))
        inputs = (*self.files.paths, *prior_files(settings["prior"]))
        return Restoration(pictures, post, measured, record, self.spread, inputs)

    def _run_blind(
        self, sampler: BlindSampler, *, progress: bool, report: Callable[[float, float], object] | None
    ) -> Restoration:
        settings, measured = self.settings, self.measured
        started, watch = time.monotonic(), ShareWatch(report)
        with unwarned():
            found = sampler.run(
                self.y, num_samples=settings["samples"], seed=settings["seed"], progress=progress, callback=watch
            )
        results = measured.in_own_channels(found.framed(found.posterior.samples[:, 0]).cpu())
        post, residual = found.posterior, blind_residual(measured, found)
        misfits = misfits_of(measured, post, residual)
        for note in misfits:
            warnings.warn(note, MisfitWarning, stacklevel=4)
        # Misfits of the channels of the prior are those of the results only for pictures in color.
        of_kernel = (note for note in found.notes[0] if note not in post.notes)
        record = make_record(
            self.source,
            settings,
            self.files.digests,
            measured,
            sampler,
            post,
            results,
            residual,
            notes=(*self.notes, *of_kernel, *misfits),
            seconds={"load": self.seconds, "sample": time.monotonic() - started},  # with the search for the kernel
            estimate={"seconds": None if watch.seconds is None else round(watch.seconds, 2), "memory_mib": None},
            found=found,
        )
        if self.spread is not None:
            record |= {"spread": self.spread.record}
        inputs = (*self.files.paths, *prior_files(settings["prior"]))
        return Restoration(results, post, measured, record, self.spread, inputs, found)


def prepare(
    source: Any,
    settings: Mapping[str, Any],
    *,
    option: Mapping[str, Any] | None = None,
    prior_option: Mapping[str, Any] | None = None,
    score: ScoreModel | None = None,
    window: Window | None = None,
    progress: bool = False,
) -> Job:
    """Read the files and build prior, measurement and sampler, so that errors appear before sampling.

    Args:
        source: INPUT, as in :func:`read`.
        settings: Values of :data:`SETTINGS` and of the options of the problem.
        option: Options of the method by name, as numbers or strings; ``settings["option"]`` is their text for the record.
        prior_option: Options of a checkpoint that its file does not specify, likewise.
        score: The prior that the settings describe, if it is loaded already.
        window: Black and white of a file with units, if they are known already.
        progress: Whether to show progress bars while an option is proposed from INPUT.

    Raises:
        OptionError: If an option is unknown, missing or out of range, or conflicts with another.
        ValueError: If INPUT, prior and problem do not fit together.
        OSError: If a file cannot be opened.
    """
    started = time.monotonic()
    source = Path(source) if isinstance(source, str | os.PathLike) else source
    files = FilesRead()
    files.add(code_files(settings))
    kind = find_problem(settings["problem"], taken=TAKEN)
    check_limits(settings)
    own = {name: value for name, value in settings.items() if name not in SETTINGS}
    settings = {**SETTINGS, **settings}
    simulated = source is None or bool(settings["simulate"])
    noise = noise_choice(settings["noise"], kind, simulated=simulated)
    values = complete(kind, own, simulated=simulated, others=[*SETTINGS])
    settings = {**settings, **values, "noise": noise}
    check_options(kind, values, noise, has_input=source is not None, simulated=simulated)
    for name in ("calibration", "intervals"):
        if settings[name] is not None and settings["samples"] < 2:
            raise OptionError(f"--{name} needs --samples 2 or more: a single sample has no standard deviation.")
    device = pick_device(settings["device"])
    files.add({"input": source, **kind.files(values)})
    if settings["calibration"] is not None:
        if not isinstance(settings["calibration"], str | os.PathLike):
            raise OptionError(f"calibration: expected the path of a file, or 'natural', got {settings['calibration']!r:.80}.")
        files.add({"calibration": Path(settings["calibration"])})
    if score is None:
        names = ("precision", "checkpointing", "compiled", "tile", "overlap")
        score = find_prior(settings["prior"], device=device, given=prior_option, **{name: settings[name] for name in names})
    (channels, *_) = score.image_shape or (3,)
    measured = read(
        source,
        kind,
        noise=noise,
        simulate=settings["simulate"],
        page=settings["page"],
        slice=one_slice(settings["slice"], settings["page"]),
        seed=settings["seed"],
        channels=channels or 3,
        black=settings["black"],
        white=settings["white"],
        window=window,
        score=score,
        progress=progress,
        **values,
    )
    sampler = _sampler(measured.problem.prior(score), measured, settings, option or {})
    spread = _spread(measured, sampler, settings, files)
    files.check()
    fitted = None
    if isinstance(sampler, PosteriorSampler):
        fitted = fit(sampler, score, num_samples=settings["samples"], chunk=settings["chunk"], device=device)
        sampler = fitted.sampler
    said = () if fitted is None else (*fitted.sampler.notes, *fitted.chosen)
    doubts, calibrated = measured.problem.doubts(score), spread.notes if spread else ()
    notes = tuple(dict.fromkeys((*measured.notes, *said, *doubts, *calibrated)))
    how = (None, None, ()) if fitted is None else (fitted.chunk, fitted.needed, fitted.advice)
    seconds = time.monotonic() - started
    return Job(source, settings, measured, sampler, device, spread, files, notes, *how, seconds)


def restore(
    source: Any = None,
    *,
    problem: str | type[Problem],
    noise: float | str | Noise | None = None,
    simulate: bool = False,
    page: int | None = None,
    slice: int | str | None = None,  # noqa: A002 - the name of the option
    black: float | None = None,
    white: float | None = None,
    samples: int = 4,
    method: str | Method | type[Algorithm] = "auto",
    steps: int | None = None,
    rule: str | None = None,
    quality: str | None = None,
    preset: str | None = None,
    option: Mapping[str, Any] | None = None,
    windows: str = "auto",
    prior: str | ScoreModel = "natural",
    prior_option: Mapping[str, Any] | None = None,
    precision: str = "auto",
    checkpointing: bool = False,
    compiled: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    device: str = "auto",
    seed: int = 0,
    first_sample: int = 0,
    chunk: int | None = None,
    calibration: Any = None,
    intervals: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Restoration:
    """Sample the posterior of a measured image, as ``invdiff solve`` does, and return the results without writing files.

    >>> result = invdiff.restore("photo.png", problem="inpaint", mask="m.png")  # doctest: +SKIP
    >>> result.mean.shape, result.std.max(), result.record["method"]  # doctest: +SKIP
    >>> result.save("filled")  # doctest: +SKIP

    Args:
        source: INPUT: a path, a Pillow image, or an array or tensor on the 0..1 scale, ``(H, W)`` or ``(C, H, W)``; for
            problems that read arrays, also a mapping of arrays by name. ``None``: a bundled picture is degraded and restored.
        problem: Measurement model: a name in :data:`invdiff.problems.PROBLEMS`, a place such as ``mine.py:MyProblem``, or a
            class.
        noise: Noise in INPUT, pixels spanning 0..1: a standard deviation, 0 for exact data; ``"auto"``: estimated from the
            pixels; ``"file"``: for JPEG files found in their tables, else as ``"auto"``, else the rounding to 8 or 16 bits;
            text such as ``"poisson:40"``; or a noise model in the units of images that span [-1, 1]. Default: set by the
            problem (:attr:`Problem.default_noise`); 0 in a simulation.
        simulate: Whether INPUT is clean: it is degraded first, and the results are compared with it.
        page: Page of a TIFF file of several pages, counted from 1.
        slice: Slice of a volume, page of a stack or frame of a clip, counted from 1. Several are restored by
            :func:`invdiff.restoration.restore_volume`.
        black: Value of black in the units of INPUT, such as 512 of a raw file. Default: 0; for files with units, such as DICOM,
            that of the window of the header or the values.
        white: Value of white, such as 4095 for 12-bit data. Default: 255 or 65535 for integers of 8 or 16 bits, 1 for floats.
        samples: Number of posterior samples.
        method: A name in :data:`invdiff.methods.METHODS`, a place such as ``mine.py:MyGuidance``, or a method.
        steps: Steps of the reverse diffusion. Default: set by the problem or the method.
        rule: Step rule. Default: set by the problem or the method.
        quality: One of :data:`invdiff.posterior.QUALITIES`: trade-off between run time and quality.
        preset: ``"paper"``: published settings of the method.
        option: Options of the method, such as ``{"zeta": 0.5}``.
        windows: ``"auto"``: with exact data, compute only around what is missing, where method and prior allow it; ``"off"``:
            compute the whole picture.
        prior: A bundled name, a checkpoint file, folder or hub id, a place such as ``mine.py:my_prior``, or a prior.
        prior_option: Options of a checkpoint that its file does not specify, such as ``{"heads": 8}``.
        precision: Precision of the network: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``.
        checkpointing: Whether to recompute activations for gradients: less memory, a third more time.
        compiled: Whether to compile the network, which takes a minute or more; for long runs on a GPU.
        tile: Side of the windows in which the prior processes the image, in pixels.
        overlap: Overlap of neighboring windows, in pixels.
        device: ``"cpu"``, ``"cuda"``, ...; ``"auto"`` selects a GPU if there is one.
        seed: Random seed of the samples and of simulated noise.
        first_sample: Number of samples drawn earlier: 4 continues a run of four samples. ``Posterior.join(a.posterior,
            b.posterior)`` makes one posterior of both.
        chunk: Number of samples processed at a time. Default: as many as fit in memory.
        calibration: File of ``invdiff calibrate --save``, or ``"natural"``: scales standard deviation and intervals to the
            coverage learned there.
        intervals: Level of intervals in percent, one of 50, 68, 80, 90, 95: :meth:`Restoration.save` writes their ends.
        progress: Whether to show a progress bar.
        options: Options of the problem, such as ``mask="m.png"``: ``invdiff solve --problem NAME --help`` lists them.

    Raises:
        OptionError: If an option is unknown (the error lists the valid ones), missing or out of range, or conflicts with
            another.
        ValueError: If INPUT, prior and problem do not fit together.
        OSError: If a file cannot be opened.
        DivergenceError: If the sampler diverges.

    Warns:
        MisfitWarning: If the samples do not explain the data, or explain more of it than the noise allows.
    """
    given = dict(locals())
    option = check_mapping("option", option, like={"zeta": 0.5})
    prior_option = check_mapping("prior_option", prior_option, like={"heads": 8})
    settings = {name: given[name] for name in SETTINGS if name != "coupling"}  # of volumes
    settings |= {name: tuple(f"{k}={v}" for k, v in (given[name] or {}).items()) for name in ("option", "prior_option")}
    settings["intervals"] = None if intervals is None else str(intervals)
    job = prepare(source, {**settings, **options}, option=option, prior_option=prior_option, progress=progress)
    return job.run(progress=progress)


def _sampler(
    score: ScoreModel, measured: Measured, settings: Mapping[str, Any], option: Mapping[str, Any]
) -> PosteriorSampler | BlindSampler:
    problem, (*_, height, width) = measured.problem, measured.measurement.shape
    kernels = problem.kernels((height, width))
    if kernels is None:
        arguments = sampler_arguments(problem, settings, option)
        return PosteriorSampler(score, measured.op, windows=settings["windows"], **arguments)
    reasons = {
        "calibration": "it was made for a known kernel",
        "chunk": "every sample has a kernel of its own",
        "first_sample": "the kernels of earlier samples are not known",
    }
    for name, reason in reasons.items():
        if settings[name]:
            flag = name.replace("_", "-")
            raise OptionError(f"--{flag} cannot be used where the kernel is estimated: {reason}. Leave it out.")
    arguments = sampler_arguments(problem, settings, option)
    return BlindSampler(
        score,
        kernels,
        sigma_y=measured.op.sigma_y,
        boundary=problem.boundary,
        factor=measured.observed.in_shape[1] // height,
        **arguments,
    )


def _spread(
    measured: Measured, sampler: PosteriorSampler | BlindSampler, settings: Mapping[str, Any], files: FilesRead
) -> Spread | None:
    if settings["calibration"] is None and settings["intervals"] is None:
        return None
    shown = {f"{level:.0%}": level for level in LEVELS}
    wanted = f"{settings['intervals']}%"
    if settings["intervals"] is not None and wanted not in shown:
        raise OptionError(f"--intervals {settings['intervals']}: expected one of {', '.join(shown)}.")
    level = INTERVAL if settings["intervals"] is None else shown[wanted]
    if settings["calibration"] is None or isinstance(sampler, BlindSampler):
        return Spread.plain(level, settings["samples"])
    return read_spread(
        settings["calibration"],
        type(measured.problem),
        level=level,
        settings=settings_of(measured.problem, sampler, settings, files.digests),
        prior=sampler.score.describe(),
    )
