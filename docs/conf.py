"""The documentation site. One command builds it: sphinx-build -W --keep-going docs docs/_build/html"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]


def _reference() -> dict[str, dict[str, Any]]:
    """Return what the pages of packages are made from, besides the packages.

    ``homes`` has the package that documents a name, for names that several packages export: the innermost. ``data`` has the
    names of each package that are neither classes nor functions.
    """
    index = (Path(__file__).parent / "api" / "index.rst").read_text(encoding="utf-8")
    exports: dict[tuple[str, str], list[tuple[str, str]]] = {}
    data: dict[str, list[str]] = {}
    for package in re.findall(r"^   (invdiff\.[\w.]+)$", index, re.MULTILINE):
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if hasattr(thing, "__qualname__"):
                exports.setdefault((thing.__module__, thing.__qualname__), []).append((package, name))
            else:
                data.setdefault(package, []).append(name)
    homes = {
        f"{package}.{name}": max(places, key=lambda place: (place[0].count("."), place[0]))[0]
        for places in exports.values()
        for package, name in places
        if len(places) > 1
    }
    return {"homes": homes, "data": data}


project = "invdiff"
author = "The invdiff developers"
project_copyright = f"2026, {author}"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
if find_spec("sphinx_copybutton"):
    extensions.append("sphinx_copybutton")
exclude_patterns = ["_build", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

# The API reference: one page for each public name, rendered from its docstring.
shutil.rmtree(Path(__file__).parent / "api" / "generated", ignore_errors=True)  # pages of names that are gone
autosummary_generate = True
autosummary_imported_members = True  # packages re-export what their files define; __all__ says which names are public
autosummary_ignore_module_all = False
autosummary_context = _reference()
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are listed with their class, not once more as entries of their own
napoleon_use_rtype = False
add_module_names = False

# Pages in Markdown; notebooks are Markdown too, and are executed by every build.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernels of the notebooks

# A name such as ``x`` may be an attribute of several classes, and a link to it is then ambiguous. That is no fault of a page.
suppress_warnings = ["ref.python", "mystnb.unknown_mime_type"]

html_theme = "furo" if find_spec("furo") else "alabaster"
html_title = f"invdiff {release}"
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

# In a continuous-integration run the repository is known, and pages can link to it; elsewhere there is no address to invent.
repository = os.environ.get("GITHUB_REPOSITORY")
if repository and html_theme == "furo":
    html_theme_options = {
        "source_repository": f"https://github.com/{repository}/",
        "source_branch": os.environ.get("GITHUB_REF_NAME", "main"),
        "source_directory": "docs/",
    }

# Files outside docs/ that pages link to, so that the links also work in the repository, and the pages that show them here.
PAGES = {
    "benchmarks/RESULTS.md": "results.md",
    "invdiff/priors/natural.md": "natural.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "examples/": "examples.md",
    "examples/own_operator.py": "examples.md#your-own-operator",
    "examples/photograph.py": "examples.md#a-photograph",
    "examples/uncertainty.py": "examples.md#reading-the-uncertainty",
}


def _link_to_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links to files of the repository at the pages that show them, and name other files without a link."""
    here = (Path(app.srcdir) / docname).parent
    # A page that includes a file of the repository has the links of that file.
    included = re.search(r"^```\{include\} (\S+)", source[0], re.MULTILINE)
    base = here if included is None else (here / included[1]).resolve().parent
    if included is not None:
        text = (here / included[1]).resolve().read_text(encoding="utf-8")
        source[0] = source[0][: included.start()] + text + source[0][source[0].index("```", included.end()) + 3 :]

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        path = (base / target).resolve()
        if re.match(r"[a-z]+:", target) or not path.is_relative_to(ROOT):
            return match[0]
        place = path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        if place in PAGES:
            page = Path(app.srcdir) / PAGES[place]
        elif path.is_relative_to(app.srcdir):
            page = path
        else:
            return text if match["image"] is None else match[0]
        return f"{match['image'] or ''}[{text}]({os.path.relpath(page, here)}{anchor})"

    link = r"(?P<image>!)?\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
    source[0] = re.sub(link, replace, source[0])


def _describe_data(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Say what a table, a tuple or a number holds, in the place of the docstring of its type."""
    if what != "data" or inspect.getdoc(thing) != inspect.getdoc(type(thing)):
        return
    if isinstance(thing, Mapping | Set | tuple):
        kind = "Mapping with the keys" if isinstance(thing, Mapping) else "Values:"
        entries = sorted(thing) if isinstance(thing, Set) else thing
        lines[:] = [f"{kind} {', '.join(f'``{entry}``' for entry in entries)}."]
    else:
        lines[:] = [f"``{thing!r}``"]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _describe_data)
    app.connect("source-read", _link_to_pages)
