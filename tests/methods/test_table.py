"""The table of methods: instant, open to packages and files, and clear about what is no method."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from helpers import all_subclasses

import invdiff.registry
from invdiff.methods import METHODS, ConditionalDenoiser, Correction, Method, Preset, Transition
from invdiff.methods.algorithm import Algorithm
from invdiff.methods.guidance import DDNM, DDRM, DPS, MMPS, Guidance, Handover
from invdiff.methods.method import adopt_method
from invdiff.methods.options import options_of
from invdiff.methods.samplers import DAPS
from invdiff.presets import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "statement",
    [
        "import invdiff.methods",
        "from invdiff.methods import METHODS; list(METHODS); 'dps' in METHODS; METHODS.summary('dps')",
    ],
)
def test_the_table_is_read_without_torch(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({{'torch', 'numpy', 'scipy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_and_summaries_come_from_the_table() -> None:
    for name, method in METHODS.items():
        assert (method.name, method.summary) == (name, METHODS.summary(name))
    assert METHODS["dps"].algorithm is DPS
    assert METHODS.find("dps") is METHODS["dps"]


def test_every_algorithm_has_a_line() -> None:
    mine = {cls for cls in all_subclasses(Algorithm) if cls.__module__.startswith("invdiff.")} - {Guidance}
    assert mine == {method.algorithm for method in METHODS.values()}


def test_a_method_file_holds_one_method() -> None:
    places = [place.partition(":")[0] for place in METHODS.places.values()]
    assert len(set(places)) == len(places)
    for name, method in METHODS.items():
        assert METHODS.places[name] == f"{method.algorithm.__module__}:METHOD"


def test_presets_are_those_of_the_methods() -> None:
    assert set(PRESETS) == {name for name, method in METHODS.items() if method.presets}
    assert len(PRESETS) == len(set(PRESETS))
    assert all(isinstance(preset, Preset) for presets in PRESETS.values() for preset in presets.values())
    assert "mmps" not in PRESETS
    with pytest.raises(KeyError):
        PRESETS["mmps"]


class TestAdopt:
    @pytest.mark.parametrize(("cls", "rule"), [(DPS, "ddpm"), (MMPS, "ddpm"), (DDRM, None), (DDNM, None), (DAPS, None)])
    def test_bare_classes(self, cls: type[Algorithm], rule: str | None) -> None:
        method = adopt_method("mine", cls)
        assert (method.name, method.algorithm, method.rule) == ("mine", cls, rule)
        assert method.summary == (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def test_methods_keep_their_settings(self) -> None:
        method = adopt_method("mine", Method(DPS, rule="ddim", steps=7, summary="as I like it"))
        assert (method.name, method.rule, method.steps, method.summary) == ("mine", "ddim", 7, "as I like it")
        assert adopt_method("mine", method, summary="of the table").summary == "of the table"

    @pytest.mark.parametrize("thing", [3, "dps", float, DPS.__init__, None])
    def test_refuses_what_is_no_method(self, thing: Any) -> None:
        with pytest.raises(TypeError, match="mine: expected a Method, or a class derived from"):
            adopt_method("mine", thing)

    def test_the_algorithm_comes_first(self) -> None:
        with pytest.raises(TypeError, match=r"algorithm must be a class .* got 'mine'\. A name is given by name="):
            Method("mine", DPS)  # type: ignore[arg-type]
        assert Method(DPS).name == "DPS"


class TestPackages:
    def test_entry_points_join_and_cannot_replace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = [
            EntryPoint("theirs", "invdiff.methods.guidance.dps:DPS", "invdiff.methods"),
            EntryPoint("dps", "invdiff.methods.guidance.mmps:MMPS", "invdiff.methods"),
            EntryPoint("broken", "json:dumps", "invdiff.methods"),
        ]
        monkeypatch.setattr(invdiff.registry, "entry_points", lambda *, group: points if group == "invdiff.methods" else [])
        table = invdiff.registry.Registry("method", METHODS.lines, METHODS.adopt, group="invdiff.methods")
        assert [*table][-2:] == ["theirs", "broken"]
        assert (table["theirs"].algorithm, table["theirs"].name, table["theirs"].rule) == (DPS, "theirs", "ddpm")
        assert table.summary("theirs") == "Diffusion posterior sampling. ``op`` may be nonlinear"
        assert table["dps"].algorithm is DPS
        with pytest.raises(TypeError, match="broken: expected a Method"):
            table["broken"]


class TestOptions:
    def test_of_another_algorithm_are_looked_through_to(self) -> None:
        own = options_of(Handover)
        assert list(own) == ["ratio", "rounds", *options_of(MMPS)]
        assert own["rtol"].default == options_of(MMPS)["rtol"].default

    @pytest.mark.parametrize("name", METHODS)
    def test_are_keyword_only_and_have_defaults(self, name: str) -> None:
        for option in options_of(METHODS[name].algorithm).values():
            assert option.kind is option.KEYWORD_ONLY
            assert option.default is not option.empty


def test_the_three_kinds_of_guidance() -> None:
    facts = {kind: (kind.follows_rules, kind.own_step, kind.corrects) for kind in (ConditionalDenoiser, Correction, Transition)}
    assert facts == {
        ConditionalDenoiser: (True, False, False),
        Correction: (True, False, True),
        Transition: (False, True, False),
    }
    assert (DDNM.follows_rules, DDNM.own_step) == (True, True)
