"""The settings of an earlier run, from its record, with the files that it read found again by their digests.

A record may come from anybody: nothing in it is trusted. Code that it names is run only if the digest of its file is in the
record and matches, as for the other files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invdiff.io.paths import sha256_of
from invdiff.problems import OptionError

if TYPE_CHECKING:
    from invdiff.restoration.job import Job

__all__ = ["Recorded", "read_recorded"]

LARGEST = 2**26  # bytes of a record
SHA256 = re.compile(r"[0-9a-f]{64}")
CODE = ("problem", "method", "prior", "operator")  # arguments that may name code
CIRCUMSTANCES = ("versions", "device", "processor")  # what changes rounding
APART = ("name", "file")  # of the description of a prior: where it is


@dataclass(frozen=True)
class Recorded:
    """A record of settings.

    Attributes:
        path: The file.
        contents: Its contents.
        arguments: Values of settings by name.
        files: Path and digest of each file that they name, by the name of the setting.
        flag: How the record was given, for errors: ``--config run.json``.
        folders: Folders in which files are looked for, in this order.
        shown: Names in the record of the files that were found, by where they are.
    """

    path: Path
    contents: Mapping[str, Any]
    arguments: Mapping[str, Any]
    files: Mapping[str, tuple[str, str]]
    flag: str
    folders: tuple[Path, ...]
    shown: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return the value of a setting; of one that names a file, with the place where the file is now.

        Raises:
            OptionError: If the file is missing or differs, or the value names code without a digest.
        """
        value = self.arguments[name]
        if name in self.files:
            recorded, digest = self.files[name]
            rest = str(value).removeprefix(recorded)
            if not isinstance(value, str) or not value.startswith(recorded) or rest[:1] not in ("", ":"):  # mine.py:MyProblem
                raise OptionError(
                    f"{self.flag}: {name} is {recorded!r:.200} in its `files` and {value!r:.200} in its `arguments`, expected "
                    "one path in both."
                )
            found = self._find(name, recorded, digest)
            self.shown.update({str(found): recorded, f"{found}{rest}": value})
            return f"{found}{rest}" if rest else found  # a path is a path even if its name is a word, such as "auto"
        if name in CODE and isinstance(value, str) and ":" in value and (name != "prior" or ".py:" in value):
            raise OptionError(
                f"{self.flag}: its {name} {value!r:.200} is Python code without a digest in the record, and is not run. Give "
                f"it with {self._option(name)} if you trust it."
            )
        if name == "prior" and isinstance(value, str):
            return self._prior(value)
        if name == "input" and value is not None:
            raise OptionError(f"{self.flag}: INPUT was {value!r:.200}, which is no file of the record. Give INPUT.")
        return value

    def compare(self, job: Job, given: Collection[str]) -> tuple[str, ...]:
        """Return in which respects a run differs from the record, for the user, before sampling.

        Args:
            job: The run.
            given: Names of settings that the user has given, whose files may differ.

        Raises:
            OptionError: If the prior differs and was not given.
        """
        notes = []
        for name, file in job.files.digests.items():
            if name in given and name in self.files and file["sha256"] != self.files[name][1]:
                notes.append(f"{self._option(name)} {file['path']} differs from {self.files[name][0]} of {self.path.name}")
        there, here = self.contents.get("prior"), job.sampler.score.describe()
        if isinstance(there, Mapping):
            names = sorted(key for key in {*there, *here} - {*APART} if there.get(key) != _plain(here.get(key)))
            if "sha256" in names and "prior" not in given:
                raise OptionError(
                    f"{self.flag}: the prior {self.arguments.get('prior')!r:.200} has the SHA-256 "
                    f"{there.get('sha256')!s:.64}, here {here.get('sha256')}. Give its place with --prior."
                )
            if names:
                notes.append(f"prior: not as in {self.path.name} ({', '.join(names)})")
        if not given:
            notes += self._circumstances(job)
        return tuple(notes)

    def _circumstances(self, job: Job) -> Iterator[str]:
        from invdiff.restoration.record import circumstances

        here = circumstances(job.device)
        for name in CIRCUMSTANCES:
            there, now = (_flat(record.get(name)) for record in (self.contents, here))
            differ = [key for key in sorted({*there, *now}) if there.get(key) != now.get(key)]
            found = [f"{key} {there.get(key)} (here {now.get(key)})" for key in differ]
            if found:
                yield f"{self.path.name} was made with {', '.join(found)}: the results may differ in their last bits"

    def _prior(self, text: str) -> Any:
        """Return where a checkpoint is; text that is no file here, such as ``natural``, stays as it is."""
        from invdiff.priors.digest import digest

        about = self.contents.get("prior")
        wanted = about.get("sha256") if isinstance(about, Mapping) else None
        for place in self._places(text):
            if wanted is not None and place.exists() and digest(place) == wanted:
                self.shown[str(place)] = text
                return str(place)
        if wanted is not None and Path(text).exists():
            raise OptionError(self._differs("prior", text, str(wanted)))
        return text

    def _find(self, name: str, recorded: str, digest: str) -> Path:
        for place in self._places(recorded):
            if place.is_file() and sha256_of(place) == digest:
                return place
        raise OptionError(self._differs(name, recorded, digest))

    def _places(self, text: str) -> Iterator[Path]:
        """Return where a file may be: its path from each folder, then its name there."""
        for folder in self.folders:
            yield folder / text
            if Path(text).name not in ("", text):
                yield folder / Path(text).name

    def _differs(self, name: str, recorded: str, digest: str) -> str:
        what, first = self._option(name), self.folders[0] / recorded
        missing = "is not found here, beside the record, or in the folders above it"
        state = f"differs from {first}" if first.exists() else missing
        give = "Give INPUT." if name == "input" else f"Give its place with {what}."
        return f"{self.flag}: {what} {recorded!r:.200} with the SHA-256 {digest} {state}. {give}"

    def _option(self, name: str) -> str:
        return "INPUT" if name == "input" else f"--{name.replace('_', '-')}"


def read_recorded(path: Path, *, command: str, option: str, folders: Collection[Path] = ()) -> Recorded:
    """Read the record of a command.

    Args:
        path: The file.
        command: The command that wrote it: ``solve`` or ``simulate``.
        option: The option that names it, for errors.
        folders: Folders in which files are looked for, before the folder of the record and those above it.

    Raises:
        OptionError: If it is no such record.
        OSError: If it cannot be read.
    """
    flag = f"{option} {path}"
    if path.is_dir():
        raise IsADirectoryError(f"{flag}: is a folder, expected the record of `invdiff {command}` in it.")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError("it is too large")
        contents = json.loads(content)
        if not isinstance(contents, dict) or "arguments" not in contents:
            raise ValueError("it has no `arguments`")
        if contents.get("command") != command:
            raise ValueError(f"its `command` is {contents.get('command')!r:.80}")
        arguments, files = contents["arguments"], contents.get("files", {})
        if not isinstance(arguments, dict) or not isinstance(files, dict):
            raise ValueError("its `arguments` or `files` are no mapping from names")
        for name, value in arguments.items():
            _check_value(name, value)
        digests = {name: _file(name, file) for name, file in files.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = "it is no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError) else error
        raise OptionError(f"{flag}: no record of `invdiff {command}`: {reason}.") from None
    above = path.absolute().parent
    beside = [path.parent, *above.parents]
    return Recorded(path, contents, arguments, digests, flag, (*folders, *beside))


def _check_value(name: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, str | int | float) for item in values):
        raise ValueError(f"{name} is {value!r:.80}")
    if any(isinstance(item, str) and "\0" in item for item in values):
        raise ValueError(f"{name} has a null character")


def _file(name: str, file: Any) -> tuple[str, str]:
    path, digest = file["path"], file["sha256"]
    if not (isinstance(path, str) and path and "\0" not in path and isinstance(digest, str) and SHA256.fullmatch(digest)):
        raise ValueError(f"`files` have no path and digest for {name}")
    return path, digest


def _plain(value: Any) -> Any:
    from invdiff.restoration.record import plain

    return plain(value)


def _flat(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {} if value is None else {"device": value}
