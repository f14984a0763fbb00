"""The files that a training writes, and how each is told from a file of somebody else that has its name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from invdiff.io.figures import is_figure
from invdiff.io.paths import check_output
from invdiff.priors.save import KEY, read_metadata

__all__ = ["SKIPPED", "Outputs", "signed"]

SKIPPED = "# Files that invdiff train has skipped"  # first line of the list
SIGNATURE = re.compile(rb"\n<!-- invdiff train, sha256 ([0-9a-f]{64}) -->\n\Z")
STATE = {"net", "average", "optimiser", "step", "settings", "images"}  # in a checkpoint


@dataclass(frozen=True)
class Outputs:
    """The files of a training by the name of its weights, ``NAME.safetensors``.

    Attributes:
        weights: The averaged weights.
    """

    weights: Path

    @property
    def checkpoint(self) -> Path:
        """The state to continue from, ``NAME.ckpt``."""
        return self.weights.with_suffix(".ckpt")

    @property
    def card(self) -> Path:
        """The model card, ``NAME.md``."""
        return self.weights.with_suffix(".md")

    @property
    def skipped(self) -> Path:
        """The list of unreadable images, if there are many, ``NAME-skipped.txt``."""
        return self.weights.with_name(f"{self.weights.stem}-skipped.txt")

    @property
    def samples(self) -> Path:
        """The folder of sample grids, ``NAME-samples``."""
        return self.weights.with_name(f"{self.weights.stem}-samples")

    def grid(self, step: int) -> Path:
        """Return the file of the sample grid of a step."""
        return self.samples / f"step-{step:07d}.png"

    def check(self, inputs: Iterable[Path] = (), *, resume: bool) -> None:
        """Raise an error, before the training, if one of the files exists and was not written by a training.

        Args:
            inputs: Files that the training reads.
            resume: Whether the checkpoint will be read, and refused then if it is none.

        Raises:
            ValueError: If a file is in the way.
            OSError: If the folder cannot be written.
        """
        mine = {
            self.weights: (_is_trained, "a prior of `invdiff train`"),
            self.checkpoint: (lambda path: resume or _is_state(path), "a checkpoint of `invdiff train`"),
            self.card: (_is_signed, "an unchanged card of `invdiff train`"),
            self.skipped: (_is_list, "a list of `invdiff train`"),
        }
        if self.samples.exists() and not self.samples.is_dir():
            raise ValueError(f"{self.samples} is a file, expected a folder for samples. Choose another name with --out.")
        if self.samples.is_dir():
            mine |= dict.fromkeys(self.samples.glob("step-*.png"), (is_figure, "a grid of samples of `invdiff train`"))
        inputs = list(inputs)
        for path, (ours, what) in mine.items():
            check_output(path, option="--out", inputs=inputs, ours=ours, what=what)


def signed(text: str) -> str:
    """Return a card with its digest in the last line, by which an edited card is recognized and not replaced."""
    text = text.encode(errors="backslashreplace").decode()  # names of files that are not text
    return f"{text}\n<!-- invdiff train, sha256 {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def _is_signed(path: Path) -> bool:
    content = path.read_bytes()
    found = SIGNATURE.search(content)
    return found is not None and hashlib.sha256(content[: found.start()]).hexdigest() == found[1].decode()


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SKIPPED)) == SKIPPED.encode()


def _is_trained(path: Path) -> bool:
    facts = read_metadata(path).get(KEY, {}).get("facts", {})
    return {"settings", "history"} <= facts.keys() and "converted_from" not in facts


def _is_state(path: Path) -> bool:
    try:
        with path.open("rb") as file:  # torch cannot open names that are not UTF-8
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch raises for other files
        return False
    return isinstance(state, dict) and state.keys() >= STATE
