"""Cases: the files of a folder and a command that reads them, each made from its number alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from hostile import arrays, bombs, checkpoints, options, places
from hostile.damage import damaged
from hostile.names import odd_name
from hostile.pictures import picture, saved

__all__ = ["KINDS", "Case", "Link", "case", "name_of"]

HEIGHT, WIDTH = 16, 24
QUICK = ("--prior", "prior.safetensors", "--precision", "float32", "--steps", "2", "--samples", "2")
OWN = """
from invdiff.operators import Operator


class Mirrored(Operator):
    def __init__(self, in_shape):
        self.in_shape = self.out_shape = in_shape

    def forward(self, x):
        return x.flip(-1)


number = 3
"""


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    to: str


Content = bytes | Link | None  # None: a folder


@dataclass(frozen=True)
class Case:
    """A command with the files that it is run beside.

    Attributes:
        number: Number from which the case is made.
        kind: What is hostile.
        files: Content of the files by name.
        arguments: The command line after ``invdiff``.
        suspects: File names and options one of which an error must name.
    """

    number: int
    kind: str
    files: Mapping[str, Content]
    arguments: tuple[str, ...]
    suspects: tuple[str, ...]

    def __str__(self) -> str:
        return name_of(self.number)

    @property
    def command(self) -> str:
        """The command as typed."""
        return f"invdiff {shlex.join(self.arguments)}"

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            elif isinstance(content, Link):
                path.symlink_to(content.to)
            else:
                path.write_bytes(content)


def name_of(number: int) -> str:
    """Return the name of a case: its kind and its number."""
    return f"{ORDER[number % len(ORDER)]}-{number:03d}"


def case(number: int) -> Case:
    """Return the case of a number."""
    kind = ORDER[number % len(ORDER)]
    files, arguments, suspects = KINDS[kind](np.random.default_rng([17, number]))
    common = {
        "in.png": good_picture(),
        "mask.png": good_mask(),
        "prior.safetensors": checkpoints.tiny(),
        "own.py": OWN.encode(),
    }
    return Case(number, kind, {**common, **files}, tuple(arguments), tuple(suspects))


Made = tuple[dict[str, Content], list[str], list[str]]


def good_picture() -> bytes:
    """Return a PNG of 16 x 24 pixels in color."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return saved(Image.fromarray(values), "PNG")


def good_mask() -> bytes:
    """Return a mask for it."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[4:9, 6:12] = 255
    return saved(Image.fromarray(values), "PNG")


def hostile_file(rng: Generator, stem: str, suffix: str, content: bytes) -> tuple[str, dict[str, Content]]:
    """Return the name of a file, and the file: damaged, misnamed, empty, a folder, a link, missing, or as it is."""
    what = str(rng.choice(["whole", "damaged", "named", "suffix", "other"], p=[0.35, 0.35, 0.15, 0.08, 0.07]))
    name = f"{stem}{suffix}"
    if what == "damaged":
        content = damaged(rng, content)
    elif what == "named":
        name = odd_name(rng, suffix)
    elif what == "suffix":
        name = stem + str(
            rng.choice([".png", ".jpg", ".tif", ".npy", ".npz", ".webp", ".txt", "", ".PNG", ".safetensors", ".pt"])
        )
    elif what == "other":
        made: list[dict[str, Content]] = [
            {name: None},
            {name: b""},
            {name: Link(name)},
            {name: Link("nowhere")},
            {},
            {name: b"\0" * 5000},
            {name: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"},
            {name: b"<!DOCTYPE html><html>404</html>"},
        ]
        return name, made[int(rng.integers(len(made)))]
    return name, {name: content}


def given(name: str) -> str:
    """Return a file name as an argument that is no option."""
    return f"./{name}" if name.startswith("-") else name


def picture_problem(rng: Generator) -> list[str]:
    """Return a problem on pictures with what it needs, sometimes to be simulated."""
    names = [name for name in options.NEEDED if name != "operator"]
    chosen = str(rng.choice(names))
    arguments = ["--problem", chosen, *options.fitting(chosen)]
    if chosen == "dejpeg" and rng.random() < 0.5:
        arguments = ["--problem", "dejpeg"]
    if chosen in ("denoise", "deblur", "sr", "inpaint") and rng.random() < 0.2:
        arguments += ["--noise", "auto"]
    if "--simulate" not in arguments and rng.random() < 0.2:
        arguments += ["--simulate"]
    return arguments


def _pictures(rng: Generator) -> Made:
    sides = [(HEIGHT, WIDTH)] * 8 + [(1, 1), (1, 24), (16, 1), (3, 5)]
    suffix, content = picture(rng, sides[int(rng.integers(len(sides)))])
    name, files = hostile_file(rng, "photo", suffix, content)
    problem = picture_problem(rng)
    suspects = [name, "INPUT", *(argument for argument in problem[2:] if argument.startswith("--"))]
    return files, ["solve", given(name), *problem, *QUICK], suspects


def _masks(rng: Generator) -> Made:
    suffix, content = picture(rng, (HEIGHT, WIDTH) if rng.random() < 0.8 else (3, 5))
    if rng.random() < 0.4:
        suffix, content = ".png", good_mask()
    name, files = hostile_file(rng, "hole", suffix, content)
    keep = ["--mask-keep", "white"] if rng.random() < 0.3 else []
    return files, ["solve", "in.png", "--problem", "inpaint", "--mask", name, *keep, *QUICK], [name, "mask"]


def _kernels(rng: Generator) -> Made:
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


def _arrays(rng: Generator) -> Made:
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


def _options(rng: Generator) -> Made:
    arguments = options.wild(rng)
    source = [["in.png"], ["in.png"], [], ["."]][int(rng.choice(4, p=[0.5, 0.4, 0.05, 0.05]))]
    flags = [argument for argument in arguments if argument.startswith("--")]
    names = [text.partition("=")[0] for text in arguments if "=" in text]  # of --option zeta=0.5
    suspects = [*arguments, *(flag[2:] for flag in flags), *names, *source, "INPUT", "prior.safetensors"]
    return {}, ["solve", *source, *QUICK, *arguments], [text for text in suspects if text]


def _checkpoints(rng: Generator) -> Made:
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


def _evaluations(rng: Generator) -> Made:
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


def _calibrations(rng: Generator) -> Made:
    text = (Path(checkpoints.__file__).parents[2] / "invdiff/priors/natural.calibration.json").read_text(encoding="utf-8")
    changed = arrays.calibration(rng, text).encode()
    name, files = hostile_file(rng, "widths", ".json", changed)
    command = ["solve", "in.png", "--problem", str(rng.choice(["sr", "inpaint", "denoise"]))]
    return (
        files,
        [*command, *options.fitting(command[3]), *QUICK, "--calibration", name],
        [name, "--calibration", "calibration"],
    )


def _folders(rng: Generator) -> Made:
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


def _outputs(rng: Generator) -> Made:
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


def _places(rng: Generator) -> Made:
    """Return a piece of a person's own that is not what it should be."""
    code, arguments, suspects = places.piece(rng)
    return {"mine.py": code.encode()}, ["solve", "in.png", *QUICK, *arguments], [*suspects, "mine.py"]


def _bombs(rng: Generator) -> Made:
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


def _roles(rng: Generator) -> Made:
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


KINDS: dict[str, Callable[[Generator], Made]] = {
    "pictures": _pictures,
    "masks": _masks,
    "kernels": _kernels,
    "arrays": _arrays,
    "options": _options,
    "checkpoints": _checkpoints,
    "evaluations": _evaluations,
    "calibrations": _calibrations,
    "folders": _folders,
    "outputs": _outputs,
    "places": _places,
    "bombs": _bombs,
    "roles": _roles,
}
# Half of the cases read pictures, arrays, options and checkpoints, where most of the code is.
ORDER = (*KINDS, "pictures", "arrays", "options", "checkpoints", "kernels", "masks", "pictures", "arrays", "options", "roles")
