"""Commands with hostile settings: options, checkpoints, calibration files, and pieces of a person's own."""

from __future__ import annotations

from pathlib import Path

from numpy.random import Generator

from hostile import arrays, checkpoints, options, places
from hostile.case import Content, Made
from hostile.files import given, hostile_file
from hostile.options import QUICK

__all__ = ["calibrations_case", "checkpoints_case", "options_case", "places_case"]


def options_case(rng: Generator) -> Made:
    arguments = options.wild(rng)
    source = [["in.png"], ["in.png"], [], ["."]][int(rng.choice(4, p=[0.5, 0.4, 0.05, 0.05]))]
    flags = [argument for argument in arguments if argument.startswith("--")]
    names = [text.partition("=")[0] for text in arguments if "=" in text]  # of --option zeta=0.5
    suspects = [*arguments, *(flag[2:] for flag in flags), *names, *source, "INPUT", "prior.safetensors"]
    return {}, ["solve", *source, *QUICK, *arguments], [text for text in suspects if text]


def checkpoints_case(rng: Generator) -> Made:
    if rng.random() < 0.15:
        name = "net"
        files: dict[str, Content] = {f"net/{file}": content for file, content in checkpoints.folder(rng).items()}
        files = files or {"net": None}
    else:
        suffix, content = checkpoints.checkpoint(rng)
        name, files = hostile_file(rng, "net", suffix, content)
    more = [[], [], ["--prior-option", "label=0"], ["--prior-option", "heads=0"], ["--prior-option", "steps=99999999999999"]]
    how = more[int(rng.integers(len(more)))]
    action = str(rng.choice(["inspect", "solve", "convert"]))
    arguments = {
        "inspect": ["priors", "inspect", given(name)],
        "solve": ["solve", "in.png", "--problem", "denoise", "--noise", "0.1", *QUICK, "--prior", given(name)],
        "convert": ["priors", "convert", given(name), "--out", "out.safetensors"],
    }[action]
    return files, [*arguments, *how], [name, "--prior-option"]


def calibrations_case(rng: Generator) -> Made:
    text = (Path(checkpoints.__file__).parents[2] / "invdiff/priors/natural.calibration.json").read_text(encoding="utf-8")
    changed = arrays.calibration(rng, text).encode()
    name, files = hostile_file(rng, "widths", ".json", changed)
    command = ["solve", "in.png", "--problem", str(rng.choice(["sr", "inpaint", "denoise"]))]
    return (
        files,
        [*command, *options.fitting(command[3]), *QUICK, "--calibration", name],
        [name, "--calibration", "calibration"],
    )


def places_case(rng: Generator) -> Made:
    """Return a piece of a person's own that is not what it should be."""
    code, arguments, suspects = places.piece(rng)
    return {"mine.py": code.encode()}, ["solve", "in.png", *QUICK, *arguments], [*suspects, "mine.py"]
