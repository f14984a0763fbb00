"""The laws that the answer to any command obeys, whatever its input."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import logging
import os
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from click.testing import CliRunner
from PIL import Image

from hostile.case import Case
from invdiff.cli import main
from invdiff.io.printable import printable
from invdiff.priors.networks.unet2d import unet2d_model

__all__ = ["broken_laws", "peak_mebibytes", "shown"]

SECONDS = 5.0  # of the processor
HANGS = 60  # seconds by the clock
MEBIBYTES = 300  # more than before, at the peak

Tree = dict[str, str]


class Hang(BaseException):
    """The command took too long."""


@dataclass
class Answer:
    """What a command did: its exit code and output, what escaped it, and what it cost."""

    code: int = -1
    stdout: str = ""
    stderr: str = ""
    escaped: str = ""  # an exception other than SystemExit
    unheard: list[str] = field(default_factory=list)  # log records, warnings, and text that C libraries wrote
    seconds: float = 0.0
    mebibytes: float = 0.0


def broken_laws(case: Case, folder: Path) -> list[str]:
    """Write the files of a case into an empty folder, run its command there, and return the laws that the answer breaks."""
    here = folder / "here"  # so that files beside the working directory are seen as well
    here.mkdir()
    case.write(here)
    _warm()
    before = _tree(folder)
    answer = _run(case.arguments, here)
    after = _tree(folder)
    found = [*_of_the_process(answer), *_of_the_text(case, answer), *_of_the_files(case, answer, before, after)]
    if answer.code == 0 and case.arguments[0] == "train" and "--help" not in case.arguments:
        found += _of_the_weights(here)
    if answer.code == 0 and case.arguments[0] == "solve" and "--help" not in case.arguments:
        found += _of_the_results(case, answer, here, before, after)
    return found


@functools.cache
def _warm() -> None:
    """Import what is large, so that its time and memory are not those of the first case that needs it."""
    for name in ("invdiff.restoration.job", "invdiff.diagnostics", "tifffile", "skimage.data", "tabulate"):
        importlib.import_module(name)
    with contextlib.suppress(ImportError):  # an extra
        unet2d_model()


def _run(arguments: tuple[str, ...], folder: Path) -> Answer:
    answer = Answer()
    home, peak, start = Path.cwd(), peak_mebibytes(), time.process_time()
    with _listening(answer), _timed(), contextlib.chdir(folder):
        try:
            # In color: click would take control sequences out of the text, as it does for files, but not for terminals.
            result = CliRunner(env={"HF_HUB_OFFLINE": "1", "INVDIFF_DEBUG": None}).invoke(
                main, list(arguments), color=True, prog_name="invdiff"
            )
        except BaseException as error:  # a panic of Rust is no Exception
            answer.escaped = f"{type(error).__name__}: {error}"
        else:
            answer.code, answer.stdout, answer.stderr = result.exit_code, result.stdout, result.stderr
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                answer.escaped = f"{type(result.exception).__name__}: {result.exception}"
    os.chdir(home)
    answer.seconds, answer.mebibytes = time.process_time() - start, peak_mebibytes() - peak
    for name in [name for name in sys.modules if name.startswith("invdiff_own_")]:
        del sys.modules[name]
    return answer


def peak_mebibytes() -> float:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"still running after {HANGS} seconds")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@contextlib.contextmanager
def _listening(answer: Answer) -> Iterator[None]:
    """Collect what reaches a terminal by other ways than the command's own: log records, warnings, and C libraries."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            answer.unheard.append(f"log of {record.name}: {record.getMessage()}")

    # Python prints what no handler takes. Those of pytest are not there when a command is typed.
    resort, root = logging.lastResort, logging.getLogger()
    handlers, root.handlers, logging.lastResort = root.handlers, [], Ear(logging.WARNING)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", ImportWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        kept = {number: os.dup(number) for number in (1, 2)}
        for number in kept:
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, earlier in kept.items():
                os.dup2(earlier, number)
                os.close(earlier)
            root.handlers, logging.lastResort = handlers, resort
            file.seek(0)
            answer.unheard += [f"written by a library: {line}" for line in file.read().decode(errors="replace").splitlines()]
    answer.unheard += [f"{warning.category.__name__}: {warning.message}" for warning in caught]


def _of_the_process(answer: Answer) -> Iterator[str]:
    if answer.escaped:
        yield f"an exception escapes: {answer.escaped:.300}"
    if answer.code not in (0, 1, 2):
        yield f"the exit code is {answer.code}"
    if answer.seconds > SECONDS:
        yield f"it takes {answer.seconds:.1f} seconds"
    if answer.mebibytes > MEBIBYTES:
        yield f"it takes {answer.mebibytes:.0f} MiB of memory"
    yield from (f"something else is said: {text:.300}" for text in answer.unheard)


def _of_the_text(case: Case, answer: Answer) -> Iterator[str]:
    text = answer.stdout + answer.stderr
    if "Traceback" in text:
        yield "a traceback is shown"
    # Categories: control, format (such as right-to-left override), and surrogates (bytes that are no UTF-8).
    odd = sorted(
        {character for character in text if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs")}
    )
    if odd:
        yield f"control characters reach the terminal: {odd}"
    if answer.code in (1, 2) and case.arguments[0] != "evaluate":
        lines = answer.stderr.splitlines()
        errors = [line for line in lines if line.startswith("Error: ")]
        if len(errors) != 1:
            yield f"{len(errors)} lines of errors, expected one: {answer.stderr[-300:]!r}"
        elif not any(_names(errors[0], suspect) for suspect in case.suspects):
            yield f"the error names none of {', '.join(case.suspects)}: {errors[0]!r}"
        if re.search(r"INVDIFF_DEBUG=1 shows", "".join(errors)):
            yield f"an error of a library is shown: {errors[0]!r}"
        if errors and lines[-1] != errors[0]:
            yield f"the error goes on for several lines: {lines[lines.index(errors[0]) :]}"


def _names(line: str, suspect: str) -> bool:
    """Return whether a line names a file or an option, of which it may have escaped some characters."""
    plain, parts = _plain(line), re.findall(r"[\w.=-]{2,}", suspect, re.ASCII)
    return all(_plain(part) in plain for part in parts) and (bool(parts) or suspect in line)


def _plain(text: str) -> str:
    """Return text by which an option, a name in Python and the name of a class are the same: mcg-diff and MCGDiff."""
    return text.lower().replace("-", "").replace("_", "")


def _of_the_files(case: Case, answer: Answer, before: Tree, after: Tree) -> Iterator[str]:
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        yield f"files that were there are changed or gone: {', '.join(map(repr, changed))}"
    new = sorted(after.keys() - before.keys())
    hidden = [name for name in new if Path(name).name.startswith(".")]
    if hidden:
        yield f"hidden files are left behind: {', '.join(hidden)}"
    if answer.code != 0 and case.arguments[0] != "evaluate" and new:
        yield f"a command that failed leaves {', '.join(new)}"


def _of_the_weights(here: Path) -> Iterator[str]:
    path = here / "out.safetensors"
    if not path.is_file():
        yield "there is no prior"
    elif not all(weight.isfinite().all() for weight in safetensors.torch.load_file(path).values()):
        yield "the weights are not finite"


def _of_the_results(case: Case, answer: Answer, here: Path, before: Tree, after: Tree) -> Iterator[str]:
    records = [name for name in after if Path(name).name == "run.json" and after[name] != before.get(name)]
    if any(Path(name).name == "manifest.jsonl" and after[name] != before.get(name) for name in after):
        return  # a folder as INPUT
    if len(records) != 1:
        yield f"there are {len(records)} records of the run"
        return
    out = here.parent / Path(records[0]).parent
    record: Any = json.loads((out / "run.json").read_text(encoding="utf-8"))
    notes = [line for line in answer.stderr.splitlines() if not line.startswith("estimate: about ")]
    if notes != [printable(note) for note in record["notes"]]:
        yield f"the notes of the record are {record['notes']}, and those on the terminal {notes}"
    if not all(np.isfinite(float(value)) for value in record["residual"]):
        yield f"the misfit of the samples is {record['residual']}"
    for name, file in record["files"].items():
        if hashlib.sha256((here / file["path"]).read_bytes()).hexdigest() != file["sha256"]:
            yield f"the record has another digest of the {name}"
    if any(_is_input(argument, case) for argument in case.arguments[1:2]) and "input" not in record["files"]:
        yield "the record does not name the input"
    samples = int(record["arguments"]["samples"])
    found = {path.stem for path in out.iterdir()}
    wanted = {"best", "mean", "comparison", *(f"sample-{k + 1}" for k in range(samples)), *(["std"] if samples > 1 else [])}
    missing = wanted - {re.sub(r"^sample-0+", "sample-", stem) for stem in found}
    if missing:
        yield f"results are missing: {', '.join(sorted(missing))}"
    for path in out.iterdir():
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        if path.name == "posterior.npz":
            with np.load(path) as stored:
                if not all(np.isfinite(stored[name]).all() for name in stored if stored[name].dtype.kind == "f"):
                    yield "the samples are not finite"


def _is_input(argument: str, case: Case) -> bool:
    return not argument.startswith("--") and argument.removeprefix("./") in case.files


def _tree(folder: Path) -> Tree:
    """Return the digest of every file, and the kind of everything else, by path."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def shown(case: Case, laws: list[str]) -> str:
    """Return the laws that an answer breaks, with the command to type."""
    lines = "\n".join(f"  - {law}" for law in laws)
    return f"{case}\n  {case.command}\n{lines}\n  again: pytest -n 0 tests/cli/test_fuzz.py -k {shlex.quote(str(case))}"
