"""Commands that are given small files that ask for much, and good files of the wrong kind."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from hostile import arrays, bombs, checkpoints
from hostile.case import Content, Made
from hostile.files import HEIGHT, WIDTH, good_picture
from hostile.options import QUICK, picture_problem

__all__ = ["bombs_case", "roles_case"]


def bombs_case(rng: Generator) -> Made:
    """Return a small file that asks for much memory or time, in a role that reads it."""
    suffix, content = bombs.bomb(rng)
    name = f"small{suffix}"
    command = {
        ".npz": ["solve", name, "--problem", str(rng.choice(["mri", "ct"])), "--noise", "0.1"],
        ".json": ["solve", "in.png", "--problem", "sr", "--factor", "2", "--calibration", name],
        ".safetensors": ["solve", "in.png", "--problem", "sr", "--factor", "2"],
        ".pt": ["solve", "in.png", "--problem", "sr", "--factor", "2"],
    }.get(suffix) or [
        ["solve", name, "--problem", str(rng.choice(["denoise", "dejpeg", "inpaint"])), "--noise", "0.1"],
        ["solve", "in.png", "--problem", "inpaint", "--mask", name],
        ["solve", "in.png", "--problem", "deblur", "--kernel", name],
    ][int(rng.integers(3))]
    if "dejpeg" in command:
        command = command[:-2]
    prior = ["--prior", name] if suffix in (".safetensors", ".pt") else []
    return {name: content}, [*command, *QUICK, *prior], [name]


def roles_case(rng: Generator) -> Made:
    """Return a good file of one kind where another kind is expected."""
    files: dict[str, Content] = {
        "scan.npz": arrays.packed(arrays.measurement(rng, str(rng.choice(["mri", "ct", "phase-retrieval"]))), compressed=True),
        "array.npy": arrays.single(rng.random((HEIGHT, WIDTH))),
        "kernels.npz": arrays.packed({"a": np.ones((3, 3)), "b": np.eye(5)}, compressed=True),
        "notes.txt": b"1 2 1\n",
        "folder/in.png": good_picture(),
        "run.json": b'{"arguments": {}}',
        "net.pt": checkpoints.checkpoint(np.random.default_rng(5))[1],
    }
    name = str(
        rng.choice(
            [*(file for file in files if "/" not in file), "folder", "own.py", "prior.safetensors", "mask.png", "/dev/null"]
        )
    )
    sr = ["solve", "in.png", "--problem", "sr", "--factor", "2", *QUICK]
    roles = [
        ["solve", name, *picture_problem(rng), *QUICK],
        ["solve", name, "--problem", str(rng.choice(["mri", "ct", "compressed-sensing"])), "--noise", "0.1", *QUICK],
        ["solve", "in.png", "--problem", "inpaint", "--mask", name, *QUICK],
        ["solve", "in.png", "--problem", "deblur", "--kernel", name, *QUICK],
        [*sr, "--prior", name],
        [*sr, "--calibration", name],
        [*sr, "-o", name],
        [*sr, "--method", f"{name}:Mine"],
        ["solve", "in.png", "--problem", f"{name}:Mine", *QUICK],
        ["priors", "inspect", name],
        ["priors", "convert", "prior.safetensors", "--out", name],
        ["calibrate", name, "--problem", "sr", "--factor", "2", "--noise", "0.1", "--size", "8", *QUICK],
        ["evaluate", "--reference", "in.png", "--restored", name, "--metrics", "psnr"],
    ]
    chosen = roles[int(rng.integers(len(roles)))]
    flags = [argument for argument in chosen if argument.startswith("-") and argument not in QUICK]
    return files, chosen, [name, *flags]
