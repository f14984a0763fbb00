"""Restoration of volumes, stacks and clips slice by slice, with flat memory: results lie on disk until they are written.

Neighbors are coupled if that is asked for: all slices are sampled together then, in memory (:mod:`.coupled`). Otherwise every
slice gets the noise of one picture, that of the seed: what is invented in a slice is then much like what is invented in
its neighbors, and a slice is the same whether it is restored alone, in a range or with all.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invdiff.formats import Scan, Stack
from invdiff.formats.origin import write
from invdiff.formats.window import Window, window_of
from invdiff.io.images import write_image
from invdiff.io.source import Source
from invdiff.priors import ScoreModel
from invdiff.problems import OptionError
from invdiff.restoration.coupled import coupled_results
from invdiff.restoration.device import pick_device
from invdiff.restoration.earlier import Results, write_record
from invdiff.restoration.folder import Output, output_folder
from invdiff.restoration.formats import FileFormat
from invdiff.restoration.job import SETTINGS, Job, prepare
from invdiff.restoration.keep import KEPT
from invdiff.restoration.levels import levels_of
from invdiff.restoration.native import grid_of, written_as
from invdiff.restoration.pictures import COMMAND, RECORD, pictures_of, sample_names, write_figures
from invdiff.restoration.priors import find_prior
from invdiff.restoration.record import plain
from invdiff.restoration.result import Restoration

__all__ = ["restore_volume"]

TRIED = 16  # slices that are tried before a volume is given up
PRIOR = ("precision", "checkpointing", "compiled", "tile", "overlap")


def restore_volume(
    source: Path,
    settings: Mapping[str, Any],
    numbers: Sequence[int],
    output: Path | None = None,
    *,
    overwrite: bool = False,
    format: str | None = None,  # noqa: A002 - the name of the option
    strip: bool = False,
    anonymize: bool = False,
    keep: tuple[str, ...] = KEPT,
    option: Mapping[str, Any] | None = None,
    prior_option: Mapping[str, Any] | None = None,
    score: ScoreModel | None = None,
    progress: bool = False,
    say: Callable[[str], object] = lambda text: None,
    step: Callable[[int], object] = lambda done: None,
) -> dict[str, Any]:
    """Restore slices of a file and write each kind of result as one volume.

    Args:
        source: INPUT, a file of one of the formats of :mod:`invdiff.formats`, or a folder with a DICOM series.
        settings: Values of :data:`~invdiff.restoration.job.SETTINGS` and of the options of the problem.
        numbers: Slices, counted from 0, in ascending order.
        output: Folder for the results. Default: ``invdiff-out/NAME-PROBLEM``.
        overwrite: Whether to replace the files that an earlier run recorded in the folder.
        format: ``None`` or ``"input"``: the only format that holds volumes.
        strip: Whether EXIF data are left out; such files have none.
        anonymize: Whether to leave out what tells who was measured.
        keep: What is written, as :func:`~invdiff.restoration.keep.kept_parts` returns it.
        option: Options of the method by name.
        prior_option: Options of a checkpoint that its file does not specify.
        score: The prior, if it is loaded already.
        progress: Whether to show a progress bar of slices that are sampled together.
        say: Called with messages for the user.
        step: Called with the number of slices that are done.

    Returns:
        The record, with the folder of the results as ``output``.

    Raises:
        OptionError: If an option is not for volumes.
        ValueError: If INPUT, prior and problem do not fit together.
        OSError: If a file cannot be read or written.
    """
    started = time.monotonic()
    if format not in (None, "input"):
        raise OptionError(
            f"--format {format}: volumes are written in the format of INPUT. Leave it out, or choose one --slice N."
        )
    settings = {**SETTINGS, **settings, "slice": None}
    device = pick_device(settings["device"])
    if score is None:
        score = find_prior(settings["prior"], device=device, given=prior_option, **{name: settings[name] for name in PRIOR})
    kind, held = Source(source).contents or (None, None)
    if kind is None or held is None or not kind.writes:
        raise OptionError(f"{source}: volumes of this format are not written. Choose one --slice N.")
    window = _common_window(held, source, settings) if isinstance(held, Stack) else None

    def prepared(number: int, **others: Any) -> Job:
        chosen = {**settings, **others, "slice": number + 1}
        return prepare(source, chosen, option=option, prior_option=prior_option, score=score, window=window)

    def job_of(number: int) -> Job:
        try:
            return prepared(number)
        except ValueError:
            if getattr(settings["noise"], "kind", settings["noise"]) != "auto":
                raise
            # An empty slice at the end of a volume, whose noise cannot be told: that of the middle one.
            return prepared(number, noise=middle.measured.observed.noise.sigma / 2)

    shown_number, middle = _nearest_middle(prepared, numbers)
    if not isinstance(held, Stack) and settings.get("scale") is None:  # one white for all
        settings = {**settings, "scale": getattr(middle.measured.problem, "scale", None)}
    files = middle.file_format(None, strip=strip, anonymize=anonymize)
    named = range(settings["first_sample"], settings["first_sample"] + settings["samples"])
    parts = [*(sample_names(named) if "samples" in keep else ()), *(part for part in ("best", "mean") if part in keep)]
    parts += ["low", "high"] if middle.spread is not None and len(named) > 1 else []
    parts += ["quantile-05", "quantile-50", "quantile-95"] if "quantiles" in keep else []
    parts += ["std"] if "std" in keep and len(named) > 1 else []
    names = [file for part in parts for file in files.names(part, len(numbers))]
    names += [f"{figure}.png" for figure in ("comparison", "std") if figure in (*parts, *keep)]
    derived = middle.measured.problem.derived(torch.zeros(1, *middle.measured.observed.in_shape))
    names += [_numbered(name, number) for name in derived for number in numbers]
    inputs = (*middle.files.paths, *([] if source.is_file() else [source]))
    for text in middle.notes:
        say(text)
    with output_folder(
        output, middle.measured.name, Results(COMMAND, RECORD, tuple(names), inputs), overwrite=overwrite
    ) as place:
        if settings["coupling"] is None:
            results: Iterator[Restoration | ValueError] = (_restored(job_of, number) for number in numbers)
        else:
            jobs = [job_of(number) for number in numbers]
            results = coupled_results(jobs, settings["coupling"], settings, option or {}, progress=progress)
        store, facts, shown = _Store(place, numbers), list[Mapping[str, Any]](), None
        for done, (number, result) in enumerate(zip(numbers, results, strict=True)):
            if isinstance(result, ValueError):
                say(f"{held.axis} {number + 1} is left as it is: {result}")
                store.left[done] = str(result)
                step(done + 1)
                continue
            pictures, heat = pictures_of(result, {*keep, "samples"} if "best" in keep else keep)
            store.keep(number, result)
            store.add(done, pictures, heat if "std" in parts else None, result, files)
            facts.append(result.record)
            if shown is None or number == shown_number:
                shown = result, heat
            step(done + 1)
            if done == 0 and len(numbers) > 1 and settings["coupling"] is None:
                say(f"estimate: about {(time.monotonic() - started) * len(numbers):.0f} s for {len(numbers)} {held.axis}s")
        if shown is None:
            raise ValueError(f"{source}: no {held.axis} could be restored: {next(iter(store.left.values()))}")
        store.fill_left(held, files)
        record = _record(facts, settings, numbers, held.axis, files, keep, started, store.left)

        def fill(folder: Path, target: Path) -> dict[str, Any]:
            return _write(folder, store, record, shown, files, keep, parts, inputs)

        return place.fill(fill)


def _numbered(name: str, number: int) -> str:
    return f"{name}-{number + 1:04d}.png"


def _nearest_middle(prepared: Callable[[int], Job], numbers: Sequence[int]) -> tuple[int, Job]:
    """Return the slice nearest to the middle that can be restored, and its job."""
    first: ValueError | None = None
    for number in sorted(numbers, key=lambda number: abs(number - numbers[len(numbers) // 2]))[:TRIED]:
        try:
            return number, prepared(number)
        except OptionError:
            raise
        except ValueError as error:  # an empty slice, for example
            first = error if first is None else first
    assert first is not None
    raise first


def _restored(job_of: Callable[[int], Job], number: int) -> Restoration | ValueError:
    """Return the restoration of a slice, or the error that says why there is none: other slices are restored all the same."""
    try:
        return job_of(number).run()
    except OptionError:
        raise
    except ValueError as error:
        return error


def _common_window(held: Stack, source: Path, settings: Mapping[str, Any]) -> Window:
    """Return one window for all slices: the one that is given, or the one of the volume."""
    limits = levels_of(settings["black"], settings["white"])
    if limits is None:
        try:
            return window_of(held)
        except ValueError as error:
            raise ValueError(f"{source}: {str(error).rstrip('.')}.") from error
    if limits[1] is None:
        raise OptionError(f"--black: {source} has no white of its own; give both ends, --window LOW HIGH.")
    return Window(limits[0], limits[1], "given")


class _Store:
    """Pictures of all slices by the names of their files, on disk."""

    def __init__(self, place: Output, numbers: Sequence[int]) -> None:
        self.folder, self.numbers = place.scratch.folder, tuple(numbers)
        self.arrays: dict[str, NDArray[np.float32]] = {}
        self.extras: list[Path] = []
        self.left: dict[int, str] = {}  # places of slices that could not be restored, and why
        self.distances: NDArray[np.float64] | None = None  # of the samples from their mean, over all slices

    def add(
        self, at: int, pictures: Mapping[str, Any], std: NDArray[Any] | None, result: Restoration, files: FileFormat
    ) -> None:
        """Add the pictures of a slice, in the units of INPUT."""
        origin = files.origin
        assert origin is not None
        low, high = getattr(origin.contents, "limits", (-math.inf, math.inf))
        window = origin.window
        values = {name: window.values(image.double().numpy()).clip(low, high) for name, image in pictures.items()}
        if std is not None:
            values["std"] = window.half * std
        samples = result.samples.double()
        away = (samples - samples.mean(0)).square().flatten(1).sum(1).numpy()
        self.distances = away if self.distances is None else self.distances + away
        for name, value in values.items():
            if name not in self.arrays:
                path = self.folder / f"{name}.raw"
                self.arrays[name] = np.memmap(path, np.float32, "w+", shape=(len(self.numbers), *value.shape))
            self.arrays[name][at] = value

    def keep(self, number: int, result: Restoration) -> None:
        """Write what the samples of a slice show besides pictures, such as a phase."""
        measured = result.measured
        for name, extra in measured.problem.derived(measured.in_own_channels(result.posterior.samples[:, 0].cpu())).items():
            self.extras.append(self.folder / _numbered(name, number))
            write_image(self.extras[-1], extra.pixels, bits=extra.bits)

    def fill_left(self, held: Stack | Scan, files: FileFormat) -> None:
        """Give slices that could not be restored the values of INPUT, or black where there are none, with no spread."""
        origin = files.origin
        assert origin is not None
        for at in self.left:
            values = held.picture(self.numbers[at]) if isinstance(held, Stack) else None
            for name, array in self.arrays.items():
                known = name != "std" and values is not None and values.shape == array.shape[1:]
                array[at] = np.nan_to_num(values, nan=origin.window.low) if known and values is not None else 0
                if name != "std" and not known:
                    array[at] = origin.window.low

    @property
    def best(self) -> int:
        """The sample nearest to the mean over all slices."""
        assert self.distances is not None
        return int(self.distances.argmin())


def _record(
    facts: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    numbers: Sequence[int],
    axis: str,
    files: FileFormat,
    keep: Sequence[str],
    started: float,
    left: Mapping[int, str],
) -> dict[str, Any]:
    """Return the record of a volume: that of a slice in its middle, with sums over all."""
    middle = facts[len(facts) // 2]
    arguments = {**middle["arguments"], "slice": f"{numbers[0] + 1}:{numbers[-1] + 1}", "page": None}
    arguments |= {"npz": False, "format": files.wanted, "format_quality": None, "keep": ",".join(keep), "strip": files.strip}
    expected = sum(each["residual_expected"] for each in facts)
    return {
        **middle,
        "arguments": {**arguments, **({"anonymize": True} if files.anonymize else {})},
        "residual": [sum(values) for values in zip(*(each["residual"] for each in facts), strict=True)],
        "residual_expected": expected,
        "nfe": sum(each["nfe"] for each in facts) / len(facts),
        "nvjp": sum(each["nvjp"] for each in facts) / len(facts),
        "slices": [
            {axis: number + 1, "residual": plain(each["residual"]), "residual_expected": each["residual_expected"]}
            for number, each in zip((n for k, n in enumerate(numbers) if k not in left), facts, strict=True)
        ],
        **({"left": [{axis: numbers[place] + 1, "reason": reason} for place, reason in left.items()]} if left else {}),
        "notes": list(dict.fromkeys(note for each in facts for note in each["notes"])),
        "timing": {**middle["timing"], "seconds": {"load": 0.0, "sample": round(time.monotonic() - started, 2)}},
    }


def _write(
    folder: Path,
    store: _Store,
    record: Mapping[str, Any],
    shown: tuple[Restoration, NDArray[Any] | None],
    files: FileFormat,
    keep: tuple[str, ...],
    parts: Sequence[str],
    inputs: tuple[Path, ...],
) -> dict[str, Any]:
    result, heat = shown
    origin, grid, numbers = files.origin, grid_of(result.measured), store.numbers
    assert origin is not None
    best = sample_names(result.numbers)[store.best]
    record = {**record, "best": files.names(best, len(numbers))[0]}
    for name in parts:
        values = store.arrays[best if name == "best" else name]  # one sample for all slices
        written = written_as(name, record, files, numbers=numbers, grid=grid)
        write(folder / f"{name}{files.suffix}", iter(values), origin, written)
    for extra in store.extras:
        shutil.copy(extra, folder / extra.name)
    write_figures(folder, replace(result, record=record), heat, files, keep)
    return write_record(folder, Results(COMMAND, RECORD, inputs=inputs), record)
