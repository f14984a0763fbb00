"""Simulation of measurements of clean images, with a file that describes the operator: ``invdiff simulate``."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.io.errors import one_line
from invdiff.io.images import atomic_write, write_image
from invdiff.io.paths import sha256_of
from invdiff.io.portable import without_places
from invdiff.io.scratch import Scratch, hidden, sweep
from invdiff.posterior.settings import versions
from invdiff.problems import OptionError, Problem
from invdiff.restoration.checks import check_options, complete, find_problem
from invdiff.restoration.files import FilesRead, code_files
from invdiff.restoration.inputs import Measured, read
from invdiff.restoration.noise import NoiseChoice, noise_choice
from invdiff.restoration.record import plain, to_json
from invdiff.study.identity import item_seed
from invdiff.study.listing import Item

__all__ = ["COMMAND", "MEASUREMENTS", "OPERATOR", "REFERENCE", "Simulation"]

COMMAND, OPERATOR, IMAGES = "simulate", "operator.json", "images.jsonl"
MEASUREMENTS, REFERENCE, FILES = "measurements", "reference", "operator"  # folders beside it
BITS = {"png": 8, "png16": 16}
CLOSE = 1e-5  # relative difference of operators that are the same but for rounding
APART = ("problem", "noise", "seed", "format")  # settings that are no options of the problem


@dataclass(frozen=True, eq=False)
class Simulation:
    """Settings of simulated measurements, and the folder that they are written to.

    The folder gets a measurement of every image, ``measurements/NAME``; ``operator.json``, which describes the operator, with
    copies of the files that it needs in ``operator/``; ``images.jsonl``, a line for each image; and, for problems that crop or
    convert clean images, what was measured, ``reference/NAME``.

    Attributes:
        problem: Name or place of the problem.
        kind: The problem.
        values: Values of all its options.
        noise: The noise.
        seed: Random seed; every image has a seed of its own, made of this one and its name.
        format: Format of measured pictures: ``npy``, ``png`` or ``png16``.
        out: The folder.
        named: Files that the settings name, by the settings.
        files: The same files with their digests.
    """

    problem: str
    kind: type[Problem]
    values: Mapping[str, Any]
    noise: NoiseChoice
    seed: int
    format: str
    out: Path
    named: Mapping[str, Path]
    files: FilesRead

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], out: Path) -> Simulation:
        """Check settings, and return the simulation.

        Args:
            settings: ``problem``, ``noise``, ``seed``, ``format`` (``None``: the default), and options of the problem.
            out: The folder.

        Raises:
            OptionError: If a setting is missing, out of range, or not for simulations.
            FileNotFoundError: If a file that an option names does not exist.
        """
        files, named = FilesRead(), dict(code_files({"problem": settings["problem"]}))
        files.add(named)
        kind = find_problem(settings["problem"])
        noise = noise_choice(settings["noise"], kind, simulated=True)
        own = {name: value for name, value in settings.items() if name not in APART}
        values = complete(kind, own, simulated=True)
        check_options(kind, values, noise, has_input=False, simulated=True)
        if settings["format"] is not None and kind.reads != "picture":
            held = "JPEG files" if kind.reads == "JPEG file" else ".npz files of arrays"
            raise OptionError(f"--format is for measured pictures; measurements of --problem {kind.name} are {held}.")
        named |= kind.files(values)
        files.add(named)
        for name, path in named.items():
            if name not in files.digests:
                raise FileNotFoundError(f"--{name.replace('_', '-')} {path}: no such file.")
        return cls(settings["problem"], kind, values, noise, settings["seed"], settings["format"] or "npy", out, named, files)

    @cached_property
    def copies(self) -> dict[str, str]:
        """Names of the copies of the files, by the settings."""
        found: dict[str, str] = {}
        for name, path in self.named.items():
            clash = any(path.name.casefold() == copy.casefold() and path != self.named[other] for other, copy in found.items())
            found[name] = f"{name}-{path.name}" if clash else path.name
        return found

    @cached_property
    def told(self) -> dict[str, Any]:
        """Values of the options that `invdiff solve` needs to read the measurements with the same operator."""
        pictures = self.kind.reads == "picture"
        values = {option.name: self.values[option.name] for option in self.kind.options if pictures or not option.simulation}
        if "scale" in values and values["scale"] is None:
            values["scale"] = 1.0  # that of a simulation; without it the scale of a measured file is estimated
        return values

    @cached_property
    def record(self) -> dict[str, Any]:
        """The contents of ``operator.json``."""
        arguments = {"problem": self.problem, **self.told, "noise": self.noise}
        for name, copy in self.copies.items():
            arguments[name] = str(arguments[name]).replace(str(self.named[name]), f"{FILES}/{copy}", 1)
        others = {name: value for name, value in self.values.items() if name not in self.told}
        bits = BITS.get(self.format)
        record = {
            "command": COMMAND,
            "arguments": arguments,
            "files": {
                name: {"path": f"{FILES}/{copy}", "sha256": self.files.digests[name]["sha256"]}
                for name, copy in self.copies.items()
            },
            "simulated": others,
            "seed": self.seed,
            "format": self.format if self.kind.reads == "picture" else self.kind.reads,
            # What the format adds to the noise, as its standard deviation, pixels spanning 0..1.
            "rounding": 0.0 if bits is None else float(f"{1 / (2**bits - 1) / 12**0.5:.4g}"),
            "versions": versions(),
        }
        cleaned: dict[str, Any] = without_places(plain(record), self.files.paths)
        return cleaned

    def run(self, items: Sequence[Item], *, overwrite: bool, report: Callable[[dict[str, Any]], object]) -> None:
        """Measure images and write the folder. What an earlier run with the same settings wrote is kept and not repeated.

        Args:
            items: Clean images.
            overwrite: Whether the measurements of an earlier run with other settings may be replaced.
            report: Called with the line of each image in ``images.jsonl``, also of those that were measured earlier.

        Raises:
            ValueError: If the folder has other files, or measurements with other settings that may not be replaced.
            OSError: If the folder cannot be written.
        """
        earlier = self._claim(overwrite=overwrite)
        lines = dict(earlier)
        with (self.out / IMAGES).open("a", encoding="utf-8") as file:
            for item in items:
                line = self._kept(earlier.get(item.name), item)
                if line is None:
                    line = self._line(item)
                    file.write(json.dumps(plain(line)) + "\n")
                    file.flush()
                lines[item.name] = line
                report(line)
        with atomic_write(self.out / IMAGES) as part:
            part.write_text("".join(json.dumps(plain(lines[name])) + "\n" for name in sorted(lines)), encoding="utf-8")

    def measure(self, path: Path, name: str) -> Measured:
        """Return the simulated measurement of an image, with the seed of its name."""
        return read(
            path, self.kind, noise=self.noise, simulate=True, seed=item_seed(self.seed, name), channels=1, **self.values
        )

    def _line(self, item: Item) -> dict[str, Any]:
        path, name = item.path, item.name
        try:
            digest = sha256_of(path)
            measured = self.measure(path, name)
            target = self._write(measured, item.folder)
            reference = self._write_reference(measured, item.folder)
            self._check(target, measured)
        except OptionError:
            raise
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # such as those of somebody's operator
            reason = without_places(one_line(error), [path, self.out])
            return {"name": name, "state": "failed", "error": reason}
        return {
            "name": name,
            "state": "done",
            "input": {"sha256": digest},
            "seed": item_seed(self.seed, name),
            "measurement": target.relative_to(self.out).as_posix(),
            "sha256": sha256_of(target),
            **({} if reference is None else {"reference": reference.relative_to(self.out).as_posix()}),
            "notes": without_places(list(measured.notes), [path]),
        }

    def _write(self, measured: Measured, stem: str) -> Path:
        """Write a measurement; the problem decides about the format of what is no picture."""
        folder, picture = (self.out / MEASUREMENTS / stem).parent, measured.picture
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        scratch = Scratch(hidden(folder / secrets.token_hex(8)))
        try:
            if not scratch.take():
                raise OSError(f"{folder}: no temporary folder could be made in it.")
            suffix, bits = (".png", BITS[self.format]) if self.format in BITS else (".npy", 16)
            x, y = measured.clean, measured.measurement
            assert x is not None
            measured.problem.write_simulated(scratch.folder, x, y, suffix=suffix, bits=bits, icc=picture.icc, exif=picture.exif)
            (made,) = scratch.folder.glob("measurement.*")
            target = self.out / MEASUREMENTS / f"{stem}{made.suffix}"
            os.replace(made, target)
        finally:
            scratch.release()
        return target

    def _write_reference(self, measured: Measured, stem: str) -> Path | None:
        """Write the clean image that was measured, if the problem crops or converts images."""
        if self.kind.fit is Problem.fit or measured.clean is None:
            return None
        clean, picture = measured.clean[0].double().numpy(), measured.picture
        target = self.out / REFERENCE / f"{stem}{'.png' if len(clean) in (1, 3) else '.tif'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        levels = (clean + 1) * ((2**picture.bits - 1) / 2)
        bits = picture.bits if abs(levels - levels.round()).max() < 1e-2 else 16  # an average of colors is between the levels
        write_image(target, clean, bits=bits, icc=picture.icc, exif=picture.exif)
        return target

    def _check(self, target: Path, measured: Measured) -> None:
        """Raise an error if `invdiff solve` would read a measurement with another operator."""
        assert measured.clean is not None
        again = read(target, self.kind, noise=self.noise, channels=1, **self.told)
        same = _close(again.observed(measured.clean), measured.observed(measured.clean))
        exact = self.format not in BITS and self.kind.reads != "JPEG file"
        if not same or (exact and not _close(again.measurement, measured.measurement)):
            raise ValueError(
                f"the operator depends on INPUT or on chance: its measurement, read by `invdiff solve` with {OPERATOR}, would "
                "get another one. Give options that determine it, such as a mask drawn by itself."
            )

    def _kept(self, line: Mapping[str, Any] | None, item: Item) -> dict[str, Any] | None:
        """Return the line of an earlier run if its image and its measurement are what they were."""
        if line is None or line.get("state") != "done":
            return None
        try:
            target = self.out / line["measurement"]
            there = target.with_suffix("") == self.out / MEASUREMENTS / item.folder
            same = there and line["input"]["sha256"] == sha256_of(item.path) and line["sha256"] == sha256_of(target)
            reference = "reference" not in line or (self.out / line["reference"]).is_file()
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return dict(line) if same and reference else None

    def _claim(self, *, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Prepare the folder, and return the lines of an earlier run with the same settings, by name."""
        out, text = self.out, to_json(self.record) + "\n"
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file, expected a folder. Choose another with -o.")
        there = out / OPERATOR
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            known = there.is_file() and _is_ours(there)
            if known and there.read_text(encoding="utf-8") == text:
                self._copy()  # a copy may be gone
                return _lines(out / IMAGES)
            if not known:
                raise ValueError(f"{out} is not empty, and no folder of `invdiff {COMMAND}`: choose another with -o.")
            if not overwrite:
                raise ValueError(
                    f"{out} has measurements with other settings: choose another folder with -o, or add --overwrite to replace "
                    "them."
                )
            _remove(out)
        out.mkdir(parents=True, exist_ok=True)
        self._copy()
        with atomic_write(there) as part:
            part.write_text(text, encoding="utf-8")
        return {}

    def _copy(self) -> None:
        for name, copy in self.copies.items():
            target = self.out / FILES / copy
            target.parent.mkdir(exist_ok=True)
            with atomic_write(target) as part:
                shutil.copyfile(self.named[name], part)
        self.files.check()


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool(torch.linalg.vector_norm(a - b) <= CLOSE * (torch.linalg.vector_norm(b) + 1e-6))


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["command"] == COMMAND)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a file by name; later ones count, and a torn last one does not."""
    found: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            found[str(line["name"])] = line
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _remove(out: Path) -> None:
    """Remove what an earlier run wrote; killed meanwhile, it can be repeated.

    Raises:
        ValueError: If a measurement was changed after that run.
    """
    lines = [line for line in _lines(out / IMAGES).values() if line.get("state") == "done"]
    for line in lines:
        path = _inside(out, line.get("measurement"))
        if path.is_file() and sha256_of(path) != line.get("sha256"):
            raise ValueError(f"{path} was changed after the run that wrote it: move it away to keep it, or choose another -o.")
    copies = json.loads((out / OPERATOR).read_text(encoding="utf-8"))["files"].values()
    written = [name for line in lines for name in (line.get("measurement"), line.get("reference")) if name]
    for name in (*written, *(copy["path"] for copy in copies), IMAGES, OPERATOR):
        _inside(out, name).unlink(missing_ok=True)


def _inside(folder: Path, name: Any) -> Path:
    """Return the path of a file in a folder, by a name in a record."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"{folder}: its records name the file {name!r:.80}, which is not in it. Choose another folder with -o."
        )
    return folder / name
