"""Commands that read a hostile measurement: a picture, a mask, a kernel, an array."""

from __future__ import annotations

from numpy.random import Generator

from hostile import arrays, options
from hostile.case import Content, Made
from hostile.files import HEIGHT, WIDTH, given, good_mask, hostile_file
from hostile.options import QUICK, picture_problem
from hostile.pictures import picture

__all__ = ["arrays_case", "kernels_case", "masks_case", "pictures_case"]


def pictures_case(rng: Generator) -> Made:
    sides = [(HEIGHT, WIDTH)] * 8 + [(1, 1), (1, 24), (16, 1), (3, 5)]
    suffix, content = picture(rng, sides[int(rng.integers(len(sides)))])
    name, files = hostile_file(rng, "photo", suffix, content)
    problem = picture_problem(rng)
    suspects = [name, "INPUT", *(argument for argument in problem[2:] if argument.startswith("--"))]
    return files, ["solve", given(name), *problem, *QUICK], suspects


def masks_case(rng: Generator) -> Made:
    suffix, content = picture(rng, (HEIGHT, WIDTH) if rng.random() < 0.8 else (3, 5))
    if rng.random() < 0.4:
        suffix, content = ".png", good_mask()
    name, files = hostile_file(rng, "hole", suffix, content)
    how = ["--mask-keep", "white"] if rng.random() < 0.3 else []
    if rng.random() < 0.3:
        how += ["--mask-color", str(rng.choice(["red", "white", "black", "#808080"]))]
    if rng.random() < 0.3:
        how += ["--mask-threshold", str(rng.choice(["0.001", "0.5", "0.999"]))]
    if rng.random() < 0.3:
        how += ["--grow-mask", str(rng.choice(["0", "1", "7"]))]
    return files, ["solve", "in.png", "--problem", "inpaint", "--mask", name, *how, *QUICK], [name, "mask"]


def kernels_case(rng: Generator) -> Made:
    form = str(rng.choice(["picture", "npy", "npy", "npz", "npz", "text"]))
    files: dict[str, Content] = {}
    if form == "text":
        name = str(rng.choice(options.TEXTS))
    elif form == "picture":
        suffix, content = picture(rng, [(5, 5), (4, 7), (1, 1), (HEIGHT, WIDTH), (30, 30)][int(rng.integers(5))])
        name, files = hostile_file(rng, "psf", suffix, content)
    else:
        values, one = arrays.kernel(rng), form == "npy"
        content = arrays.packed({"a": values, "b": values}, compressed=True) if form == "npz" else arrays.single(values)
        name, files = hostile_file(rng, "psf", ".npy" if one else ".npz", content)
        name += "" if one else str(rng.choice([":a", ":b", ":", ":zz", ""]))
    boundary = ["--boundary", str(rng.choice(["zero", "circular"]))] if rng.random() < 0.4 else []
    noise = ["--noise", "0.02"] if rng.random() < 0.6 else []
    return (
        files,
        ["solve", "in.png", "--problem", "deblur", "--kernel", name, *boundary, *noise, *QUICK],
        [name.rpartition(":")[0] or name, "kernel"],
    )


def arrays_case(rng: Generator) -> Made:
    problem = str(rng.choice(["mri", "mri", "ct", "ct", "compressed-sensing", "phase-retrieval"]))
    made = arrays.measurement(rng, problem)
    if rng.random() < 0.6:
        made = arrays.wrong(rng, made)
    if len(made) == 1 and rng.random() < 0.5:
        name, files = hostile_file(rng, "scan", ".npy", arrays.single(next(iter(made.values()))))
    else:
        name, files = hostile_file(rng, "scan", ".npz", arrays.packed(made, compressed=bool(rng.random() < 0.5)))
    more = [["--scale", "1"], ["--scale", "1e-300"], ["--scale", "1e300"], []][int(rng.choice(4, p=[0.2, 0.05, 0.05, 0.7]))]
    return files, ["solve", given(name), "--problem", problem, "--noise", "0.05", *more, *QUICK], [name, "--scale"]
