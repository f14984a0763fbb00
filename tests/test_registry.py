"""Objects at a place: in files of a person's own, and in installed packages, also where these are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import invdiff
from invdiff import methods, problems, registry
from invdiff.methods import METHODS
from invdiff.registry import Registry, load_object


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "mine.py cannot be imported, SyntaxError"),
        ("1 / 0", "mine.py cannot be imported, ZeroDivisionError"),
        ("import nothing_there", "mine.py cannot be imported, ModuleNotFoundError"),
        ("raise SystemExit(0)", "mine.py cannot be imported, SystemExit"),
        ("", "has no 'Mine', only nothing"),
        ("class Mien: ...", "has no 'Mine', only Mien. Did you mean 'Mien'?"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        load_object(f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize("place", ["mine.py", ":Mine", "mine.py:"])
def test_a_place_has_a_file_and_a_name(place: str) -> None:
    with pytest.raises(ValueError, match=r"expected FILE.py:NAME, such as mine.py:Name"):
        load_object(place)


def test_a_file_may_import_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "neighbor_of_mine.py").write_text("number = 7\n")
    (tmp_path / "mine.py").write_text("from neighbor_of_mine import number\n")
    assert load_object(f"{tmp_path / 'mine.py'}:number") == 7


def test_a_broken_package_is_named_and_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "not_installed_at_all:METHOD", "invdiff.methods")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point] if group == "invdiff.methods" else [])
    table: Registry[Any] = Registry("method", METHODS.lines, METHODS.adopt, group="invdiff.methods")
    assert table["dps"] is not None
    with pytest.raises(ValueError, match=r"method 'theirs' comes from the entry point .* cannot be loaded"):
        table["theirs"]
    assert list(table.broken()) == ["theirs"]


@pytest.mark.parametrize("module", [invdiff, methods, problems])
def test_tab_completion_finds_lazy_names(module: Any) -> None:
    assert set(dir(module)) == set(module.__all__)
