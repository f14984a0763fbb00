"""Commands that train and measure priors on hostile pictures, archives and checkpoints to continue from."""

from __future__ import annotations

import gzip
import io
import tarfile

from numpy.random import Generator

from hostile import checkpoints
from hostile.case import Content, Link, Made
from hostile.damage import damaged
from hostile.files import good_mask, good_picture, hostile_file
from hostile.names import odd_name
from hostile.pictures import picture

__all__ = ["trainings_case"]

SMALL = (
    "--steps",
    "2",
    "--batch",
    "2",
    "--crop",
    "8",
    "--widths",
    "4,8",
    "--blocks",
    "1,1",
    "--no-noise-maps",
    "--validation",
    "1",
)
MORE = (
    *([], [], ["--crop", "16"], ["--crop", "100"], ["--crop", "99999999999999999999"], ["--steps", "0"], ["--rate", "nan"]),
    *(["--rate", "1e300"], ["--widths", "4"], ["--widths", "4,x"], ["--widths", "1000000,1000000"], ["--blocks", "1,0"]),
    *(["--init", "prior.safetensors"], ["--init", "in.png"], ["--init", "missing"], ["--late-crop", "9"], ["--side", "8"]),
    *(
        ["--channels", "1"],
        ["--validation", "1000"],
        ["--report-every", "1"],
        ["--license", "\x1b[31m"],
        ["--precision", "bfloat16"],
    ),
    *(
        ["--batch", "1"],
        ["--overwrite"],
        ["--device", "tpu"],
        ["--out", "out.pt"],
        ["--out", "."],
        ["--out", "no/where/x.safetensors"],
    ),
)


def _tar(rng: Generator) -> bytes:
    """Return an archive of pictures, of links, of names that lead elsewhere, and of one that is damaged."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for k in range(int(rng.integers(0, 4))):
            suffix, content = picture(rng)
            names = [f"{k}{suffix}", odd_name(rng, suffix), f"../../{k}{suffix}", f"/{k}{suffix}"]
            member = tarfile.TarInfo(names[int(rng.integers(4))].encode(errors="replace").decode())
            member.size = len(content)
            if rng.random() < 0.15:
                member.type, member.linkname, content, member.size = tarfile.SYMTYPE, "/etc/hostname", b"", 0
            archive.addfile(member, io.BytesIO(content))
    content = buffer.getvalue() if rng.random() < 0.5 else gzip.compress(buffer.getvalue(), mtime=0)
    return damaged(rng, content) if rng.random() < 0.4 else content


def trainings_case(rng: Generator) -> Made:
    """Return a training, or a measurement of a prior."""
    files: dict[str, Content] = {"photos": None, "photos/good.png": good_picture(), "photos/fine.png": good_mask()}
    for k in range(int(rng.choice([0, 1, 3]))):
        _, made = hostile_file(rng, f"photo{k}", *picture(rng))
        files |= {f"photos/{file}": what for file, what in made.items()}
    files["data.tar"] = _tar(rng)
    sources = [["photos"], ["photos"], ["data.tar"], ["photos", "data.tar"], ["missing"], ["in.png"], ["loop"]][
        int(rng.integers(7))
    ]
    files["loop"] = Link("loop")
    suspects = [*sources, "photos", "--crop"]
    if rng.random() < 0.2:
        size = ["--size", str(rng.choice([8, 16, 24, 9, 100000]))]
        return files, ["priors", "measure", "prior.safetensors", *sources, "--crops", "2", *size], [*suspects, "--size"]
    more = list(MORE[int(rng.integers(len(MORE)))])
    if rng.random() < 0.25:
        _, content = checkpoints.checkpoint(rng)
        files["out.ckpt"] = damaged(rng, content) if rng.random() < 0.5 else content
    arguments = ["train", *sources, "--out", "out.safetensors", *SMALL, *more]
    return files, arguments, [*suspects, *more, "--out", "validation", "out.ckpt", "out.safetensors"]
