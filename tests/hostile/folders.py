"""Commands on folders: pictures to compare, pictures to calibrate on, and results where something is in the way."""

from __future__ import annotations

from numpy.random import Generator

from hostile.case import Content, Link, Made
from hostile.files import given, good_picture, hostile_file
from hostile.options import QUICK
from hostile.pictures import picture

__all__ = ["evaluations_case", "folders_case", "outputs_case"]


def evaluations_case(rng: Generator) -> Made:
    suffix, content = picture(rng)
    name, files = hostile_file(rng, "a", suffix, content)
    other, others = hostile_file(rng, "b", *picture(rng))
    folders = bool(rng.random() < 0.5)
    if folders:
        files = {f"x/{name}": files.get(name, b""), "x/in.png": good_picture(), "y": None}
        files |= {f"y/{other}": others.get(other, b""), "y/in.png": good_picture(), f"y/{name}": good_picture()}
    else:
        files = {**files, **others}
    pair = ("x", "y") if folders else (given(name), given(other))
    writes = [
        [],
        ["--csv", "out.csv"],
        ["--json", "out.json"],
        ["--json", "-"],
        ["--csv", "nowhere/out.csv"],
        ["--json", "x/in.png"],
    ]
    metrics = str(rng.choice(["psnr", "psnr,ssim", "psnr,ssim", "psnr,x", ","]))
    arguments = ["evaluate", "--reference", pair[0], "--restored", pair[1], "--metrics", metrics]
    chosen = writes[int(rng.integers(len(writes)))]
    return files, [*arguments, *chosen], [name, other, "--metrics", "--csv", "--json", "out.csv", "in.png"]


def folders_case(rng: Generator) -> Made:
    """Return a folder of pictures, some hostile, for `invdiff calibrate`."""
    files: dict[str, Content] = {}
    for k in range(int(rng.choice([0, 1, 3, 4]))):
        suffix, content = picture(rng)
        _, made = hostile_file(rng, f"photo{k}", suffix, content)
        files |= {f"photos/{file}": what for file, what in made.items()}
    files = {"photos": None, **files}
    problem = [["sr", "--factor", "2"], ["denoise"], ["inpaint", "--mask", "mask.png"], ["deblur", "--kernel", "gaussian:0.5"]]
    chosen = problem[int(rng.integers(4))]
    sizes = [["--size", "8"], ["--size", "8", "--cases", "3"], ["--size", "16"], [], ["--size", "7"], ["--size", "9"]]
    more = [[], [], ["--save", "widths.json"], ["--noise", "0"], ["--noise", "auto"], ["--samples", "1"], ["--save", "in.png"]]
    arguments = ["calibrate", "photos", "--noise", "0.1", *QUICK, "--problem", *chosen]
    arguments += [*sizes[int(rng.integers(6))], *more[int(rng.integers(7))]]
    return files, arguments, ["photos", "--size", "--noise", "--mask", "--factor", "--save", "--samples", "--cases", "mask"]


def outputs_case(rng: Generator) -> Made:
    """Return results that are to be written where something is in the way."""
    files: dict[str, Content] = {
        "out/notes.txt": b"mine",
        "out/sample-1.png": good_picture(),
        "full/sample-of-my-holiday.png": good_picture(),
        "full/mean.png": b"mine",
        "full/run.json": bytes(rng.choice([b"{}", b"", b"[]", b'{"files": ["../in.png", "notes.txt"]}'])),
        "full/in.png": good_picture(),
        "loop": Link("loop"),
        "empty": None,
        "gone": Link("nowhere"),
        "linked": Link("out"),
    }
    names = [
        "out",
        "full",
        "in.png",
        "loop",
        "empty",
        "gone",
        "linked",
        ".",
        "..",
        "",
        "new/deep/er",
        "a\x1b[31mb",
        "in.png/x",
        "x" * 300,
    ]
    target = str(rng.choice(names))
    arguments = [
        "solve",
        str(rng.choice(["in.png", "full/in.png", "out/sample-1.png"])),
        "--problem",
        "sr",
        "--factor",
        "2",
        *QUICK,
    ]
    arguments += ["-o", target, *(["--overwrite"] if rng.random() < 0.5 else [])]
    return files, arguments, [target, "-o", "--overwrite"]
