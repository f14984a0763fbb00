"""The shape of the package: what is in it, who may import whom, and which names are public."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import invdiff

ROOT = Path(__file__).parents[1]
FOLDERS = {"invdiff": ROOT / "invdiff", "invdiff.operators": ROOT / "operators", "invdiff.problems": ROOT / "problems"}

# The longest prefix of a module's name decides. Each may import from its own floor and from lower numbers.
FLOORS = {
    "invdiff.cosine_transform": 0,
    "invdiff.linalg": 0,
    "invdiff.movable": 0,
    "invdiff.noise_covariance": 0,
    "invdiff.processor": 0,
    "invdiff.random": 0,
    "invdiff.registry": 0,
    "invdiff.trial": 0,
    "invdiff.schedules": 1,
    "invdiff.priors": 2,
    "invdiff.operators": 2,
    "invdiff.methods": 3,
    "invdiff.presets": 4,
    "invdiff.posterior": 5,
    "invdiff.blind": 6,
    "invdiff.diagnostics": 6,
    "invdiff.metrics": 6,
    "invdiff.damage": 6,
    "invdiff.problems": 7,
    "invdiff.report": 8,
    "invdiff.io": 0,
    "invdiff.formats": 0,
    "invdiff.evaluation": 8,
    "invdiff.restoration": 8,
    "invdiff.study": 8,
    "invdiff.training": 8,
    "invdiff.cli": 9,
    "invdiff.__main__": 9,
}
# The rooms of a package have floors too: each may import from itself and from rooms with lower numbers. The longest prefix of a
# module's name within the package decides; "" is the package's own __init__, and whatever else has no number.
ROOMS: dict[str, dict[str, int]] = {
    "invdiff.operators": {
        "core": 0,
        "generic": 1,
        "noise": 1,
        "sampling": 1,
        "blur": 2,
        "nonlinear": 2,
        "transforms": 2,
        "resampling": 3,
        "algebra": 4,
        "adapters": 5,
        "": 6,
    },
    "invdiff.priors": {
        "compiled": 0,
        "digest": 0,
        "noise_maps": 0,
        "score_model": 0,
        "adapters": 1,
        "analytic": 1,
        "networks": 1,
        "network": 2,
        "conditional": 3,
        "latent": 3,
        "trial": 3,
        "classifier_free": 4,
        "labels": 4,
        "spec": 5,
        "checkpoints": 6,
        "save": 7,
        "errors": 8,
        "place": 8,
        "guided": 8,
        "pipelines": 9,
        "hub": 10,
        "load": 10,
        "": 11,
    },
    "invdiff.methods": {
        "ddpm_kernel": 0,
        "denoised": 0,
        "dense_gain": 0,
        "divergence": 0,
        "flow_time": 0,
        "hybrid": 0,
        "likelihood_steps": 0,
        "log_normal": 0,
        "on_step": 0,
        "operator_norm": 0,
        "options": 0,
        "requirements": 0,
        "spectral": 0,
        "algorithm": 1,
        "moments": 1,
        "step_limit": 1,
        "toward_data": 1,
        "method": 2,
        "statistical_linearization": 2,
        "guidance": 3,
        "local_gaussian": 3,
        "probability_flow": 3,
        "published": 3,
        "particles": 4,
        "steps": 4,
        "resolve": 5,
        "samplers": 5,
        "": 6,
    },
}
# Files and pictures know nothing of the engine.
WITHOUT_ENGINE = ("invdiff.io", "invdiff.formats")
# The command line is public through its options, not through its modules.
NOT_PUBLIC = ("invdiff.__main__", "invdiff.cli.")
# What users import from. Names in other modules may change without notice.
PUBLIC = (
    "invdiff",
    "invdiff.blind",
    "invdiff.damage",
    "invdiff.diagnostics",
    "invdiff.evaluation",
    "invdiff.formats",
    "invdiff.io.images",
    "invdiff.methods",
    "invdiff.metrics",
    "invdiff.operators",
    "invdiff.posterior",
    "invdiff.priors",
    "invdiff.problems",
    "invdiff.restoration",
    "invdiff.schedules",
    "invdiff.training",
)


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of the package by name, through the real folders and not the links."""
    found = {}
    for name, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if name == "invdiff" and parts[0] in ("operators", "problems"):
                continue
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, *, typing: bool = True) -> Iterator[str]:
    """Return what a module imports from invdiff, wherever in it; with or without what it does for type checkers alone."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    left_out = set() if typing else {inner for node in guarded for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "invdiff")
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            if source.split(".")[0] == "invdiff":
                # ``from invdiff import priors`` imports invdiff.priors.
                inner = (f"{source}.{alias.name}" for alias in node.names)
                yield from (module if module in modules() or source == "invdiff" else source for module in inner)


def floor(module: str) -> int | None:
    """Return the floor of a module; None for names of the package itself, such as its version."""
    prefixes = (module.rsplit(".", cut)[0] for cut in range(module.count(".")))
    return next((FLOORS[prefix] for prefix in prefixes if prefix in FLOORS), None)


def room(package: str, module: str) -> str:
    """Return the room of a module of ``package``: a key of its floors."""
    parts = module.removeprefix(package).strip(".").split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ROOMS[package]), "")


def test_packages_are_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(listed["packages"]) == found
    assert listed["package-dir"] == {name: str(folder.relative_to(ROOT)) for name, folder in FOLDERS.items()}


def test_data_files_are_there() -> None:
    assert (ROOT / "invdiff" / "py.typed").is_file()
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in listed["invdiff"]
    assert {"natural.safetensors", "natural.errors.safetensors"} <= set(listed["invdiff.priors"])
    page = {path.name for path in (ROOT / "invdiff" / "report").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert page == set(listed["invdiff.report"])
    assert (ROOT / "invdiff" / "priors" / "natural.safetensors").stat().st_size <= 16 * 2**20


def test_versions_agree() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == invdiff.__version__


@pytest.mark.parametrize("name", [name for name in modules() if name != "invdiff"])
def test_imports_come_from_the_floors_below(name: str) -> None:
    own = floor(name)
    assert own is not None, f"{name} has no floor: give it one"
    for target in imports(name, modules()[name]):
        assert (floor(target) or 0) <= own, f"{name} (floor {own}) imports {target} (floor {floor(target)})"
        if name in WITHOUT_ENGINE:
            assert target.startswith(WITHOUT_ENGINE), f"{name} imports {target}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_from_the_rooms_below(package: str) -> None:
    floors = ROOMS[package]
    inside = {name: path for name, path in modules().items() if name == package or name.startswith(f"{package}.")}
    assert set(floors) == {room(package, name) for name in inside}, "a room without modules, or without a floor"
    for name, path in inside.items():
        own = room(package, name)
        for target in set(imports(name, path, typing=False)) & set(inside):
            other = room(package, target)
            assert own == other or floors[other] < floors[own], f"{name} ({own}) imports {target} ({other})"


def test_no_module_imports_itself_through_others() -> None:
    arrows = {name: set(imports(name, path, typing=False)) & set(modules()) for name, path in modules().items()}
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_walk_sees_imports() -> None:
    assert set(imports("invdiff.methods.guidance.mmps", modules()["invdiff.methods.guidance.mmps"])) >= {
        "invdiff.methods.guidance.guidance",
        "invdiff.priors",
        "invdiff.operators",
    }
    assert "invdiff.operators.core.operator" in set(
        imports("invdiff.operators.sampling.mask", modules()["invdiff.operators.sampling.mask"])
    )


@pytest.mark.parametrize("folder", ["operators", "problems"])
def test_the_folders_refuse_to_be_imported_by_their_own_names(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"ImportError: Import this package as invdiff.{folder}" in done.stderr
    assert importlib.import_module(f"invdiff.{folder}") is getattr(invdiff, folder)


@pytest.mark.parametrize(
    "statement", ["import invdiff", "import invdiff.cli", "import invdiff; invdiff.__version__; dir(invdiff)"]
)
def test_torch_is_not_imported_before_it_is_needed(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({{'torch', 'numpy', 'scipy', 'matplotlib'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lazy_names() -> None:
    for name in invdiff.__all__:
        assert getattr(invdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        invdiff.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith(NOT_PUBLIC)])
def test_every_module_lists_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name} has no {public}"
        assert not public.startswith("_")


def public_names() -> list[str]:
    return [f"{name}: {', '.join(sorted(importlib.import_module(name).__all__))}" for name in PUBLIC]


def test_the_public_names_are_those_on_record() -> None:
    """Whoever changes the public surface on purpose changes the record with it, and CHANGELOG.md."""
    record = (ROOT / "tests" / "public_names.txt").read_text().splitlines()
    assert public_names() == record, "run: python tests/test_packaging.py > tests/public_names.txt"


if __name__ == "__main__":
    print("\n".join(public_names()))
