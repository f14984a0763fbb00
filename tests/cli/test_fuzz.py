"""Three hundred hostile inputs of pictures, masks, kernels, arrays, options, checkpoints and more, each made from its number.

``pytest -k pictures-137`` runs one of them again, and ``PYTHONPATH=tests python -m hostile 300 2000`` others.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from hostile import KINDS, Case, broken_laws, case, name_of
from hostile.laws import peak_mebibytes, shown
from hostile.options import QUICK

from invdiff.cli import main

pytestmark = pytest.mark.slow

COUNT = 300


@pytest.mark.parametrize("number", range(COUNT), ids=name_of)
def test_hostile_inputs(number, tmp_path):
    made = case(number)
    laws = broken_laws(made, tmp_path)
    assert not laws, shown(made, laws)


def test_every_kind_is_among_them():
    names = [name_of(number) for number in range(COUNT)]
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in KINDS}
    assert min(counts.values()) >= 10, counts


@pytest.mark.parametrize("number", range(0, COUNT, 7))
def test_a_case_is_its_number(number):
    first, again = case(number), case(number)
    assert first == again
    assert str(first) == name_of(number)


def fails(text, code=1):
    click.echo(text, err=True)
    raise SystemExit(code)


FAULTS = {  # what a command may do, and the law that it breaks
    "an exception escapes": lambda: 1 / 0,
    "the exit code is 3": lambda: fails("Error: in.png: three", 3),
    "MiB of memory": lambda: np.zeros(round(peak_mebibytes() + 400) * 2**20, np.uint8)[::4096].fill(1),  # a byte of each page
    "log of somebody": lambda: logging.getLogger("somebody").warning("hear me"),
    "UserWarning: hear me": lambda: warnings.warn("hear me", stacklevel=1),
    "written by a library": lambda: os.write(2, b"hear me\n"),
    "a traceback is shown": lambda: fails("Traceback (most recent call last):\nError: in.png: wrong"),
    "control characters reach the terminal": lambda: fails("Error: in.png: \x1b[31mred"),
    "0 lines of errors, expected one": lambda: fails("wrong"),
    "2 lines of errors, expected one": lambda: fails("Error: in.png: wrong\nError: in.png: wrong"),
    "the error goes on for several lines": lambda: fails("Error: in.png: wrong\nand more"),
    "the error names none of": lambda: fails("Error: something is wrong"),
    "an error of a library is shown": lambda: fails("Error: in.png: KeyError: 3 (INVDIFF_DEBUG=1 shows the traceback)"),
    "files that were there are changed or gone: 'here/in.png'": lambda: Path("in.png").write_bytes(b"other"),
    "changed or gone: 'here/mask.png'": lambda: Path("mask.png").unlink(),
    "hidden files are left behind": lambda: Path(".part").mkdir(),
    "a command that failed leaves here/out": lambda: (Path("out").mkdir(), fails("Error: in.png: wrong")),
    "there are 0 records of the run": lambda: None,
}


@pytest.mark.parametrize("law", FAULTS)
def test_laws_find_planted_faults(law, tmp_path, monkeypatch):
    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def faulty(rest):
        FAULTS[law]()

    made = Case(0, "planted", {"in.png": b"picture", "mask.png": b"mask"}, ("solve", "in.png"), ("in.png",))
    monkeypatch.setattr("hostile.laws.main", faulty)
    found = broken_laws(made, tmp_path)
    assert any(law in line for line in found), found


def test_an_incomplete_result_is_found(tmp_path, monkeypatch):
    made = case(0)
    good = Case(
        0, "planted", made.files, ("solve", "in.png", "--problem", "sr", "--factor", "2", *QUICK, "--npz", "-o", "out"), ()
    )
    (tmp_path / "whole").mkdir()
    assert not broken_laws(good, tmp_path / "whole")

    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def faulty(rest):
        main(list(rest), standalone_mode=False)
        Path("out/std.png").unlink()
        np.savez("out/posterior.npz", samples=np.full(3, np.nan))
        text = (
            Path("out/run.json").read_text().replace('"sha256": "', '"sha256": "0').replace('"notes": [', '"notes": ["more",')
        )
        Path("out/run.json").write_text(text)

    monkeypatch.setattr("hostile.laws.main", faulty)
    found = " ".join(broken_laws(good, tmp_path))
    for law in ("results are missing: std", "samples are not finite", "another digest of the input", "the notes of the record"):
        assert law in found
