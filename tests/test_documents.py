"""README and docs: code blocks run, command lines exist, links lead somewhere.

Python blocks of a page run one after another in one namespace. A block that cannot run says why on its fence,
``python no-run: needs a checkpoint``, and is only compiled. Notebooks are compiled here and executed by the build of the site.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import invdiff
from invdiff.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md"))
    if not {"_build", "generated", ".ipynb_checkpoints"} & set(path.parts)
)
PAGES += ["benchmarks/RESULTS.md", "invdiff/priors/natural.md"]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=ticks)$", re.MULTILINE | re.DOTALL
)
NO_RUN = re.compile(r"python no-run: \S+ .+")
OWN_PIECE = re.compile(r"(\w+\.py):(\w+)")  # a class in a file of the reader's own


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: what the fence says, its text, and its first line in the file."""

    info: str
    code: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.MULTILINE)
        code = re.sub(r"\A(:[\w-]+:.*\n)+", lambda options: "\n" * options[0].count("\n"), code)
        yield Block(fence["info"].strip(), code, text.count("\n", 0, fence.start()) + 2)


def python_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.info.split(" ")[0] in ("python", "{code-cell}")]


def runs(block: Block) -> bool:
    return block.info == "python"


def command_lines(page: str) -> Iterator[tuple[str, list[str]]]:
    """Return what a page calls ``invdiff`` with: the line, and its words."""
    for block in blocks(page):
        if block.info.split(" ")[0] in ("sh", "bash"):
            for line in block.code.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;", line):
                    words = shlex.split(part, comments=True)
                    if "invdiff" in words:
                        yield part.strip(), words[words.index("invdiff") + 1 :]


def parse(words: list[str], command: click.Command = main, name: str = "invdiff", parent: click.Context | None = None) -> None:
    """Parse a command line as click does, and run nothing.

    Raises:
        click.UsageError: If there is no such command or option, or an option cannot have such a value.
    """
    with command.make_context(name, list(words), parent=parent) as context:
        rest = [*context.protected_args, *context.args] if hasattr(context, "protected_args") else context.args
        if isinstance(command, click.Group) and rest:
            child = command.get_command(context, rest[0])
            if child is None:
                raise click.UsageError(f"there is no command {rest[0]!r}")
            parse(rest[1:], child, rest[0], context)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_python_blocks_compile(page: str) -> None:
    for block in python_blocks(page):
        compile(block.code, f"{page}, line {block.line}", "exec")
        assert block.info in ("python", "{code-cell}") or NO_RUN.fullmatch(block.info), (
            f"{page}, line {block.line}: a block that does not run says why, as in ```python no-run: needs a checkpoint"
        )


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, python_blocks(page)))])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in filter(runs, python_blocks(page)):
        # Blank lines before it: a traceback then has the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, page, "exec")
        exec(code, names)


# Files of settings that a command line may name.
RECORDS = {
    "run.json": {"command": "solve", "arguments": {"problem": "denoise"}},
    "operator.json": {"command": "simulate", "arguments": {"problem": "denoise"}},
}


@pytest.mark.parametrize("page", [page for page in PAGES if any(command_lines(page))])
def test_command_lines_exist(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(block.code for block in filter(runs, python_blocks(page)))
    for line, words in command_lines(page):
        own = OWN_PIECE.search(line)
        if own is not None and f"class {own[2]}(" not in code:
            continue  # a name that only stands for one of the reader's
        for word in words:  # some arguments must be there, as any file or folder
            if word.endswith("/"):
                Path(word).mkdir(exist_ok=True)
            elif Path(word).name in RECORDS:
                Path(word).parent.mkdir(exist_ok=True)
                Path(word).write_text(json.dumps(RECORDS[Path(word).name]))
            elif re.fullmatch(r"[\w-]+\.[a-z]+", word):
                Path(word).touch()
        if own is not None:
            Path(own[1]).write_text(code, encoding="utf-8")
        try:
            parse(words)
        except click.UsageError as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


def known_options() -> set[str]:
    """Return every option of every command and of every problem."""
    found = {problem_option.flag for problem in invdiff.problems.PROBLEMS.values() for problem_option in problem.options}

    def collect(command: click.Command) -> None:
        for parameter in command.params:
            found.update(parameter.opts, parameter.secondary_opts)
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                child = command.get_command(click.Context(command), name)
                assert child is not None
                collect(child)

    collect(main)
    return found | {"--help", "--version"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("README", "docs/")) and page.count("/") < 2])
def test_options_in_the_text_exist(page: str) -> None:
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    named = {
        option for code in re.findall(r"`([^`\n]+)`", text) for option in re.findall(r"^(?:invdiff .*)?(--[a-z][\w-]*)", code)
    }
    assert named <= known_options(), f"{page}: there is no option {', '.join(sorted(named - known_options()))}"


@pytest.mark.parametrize("words", ["nothing", "solve --problem sr --factr 2", "solve --problem nothing", "priors inspect"])
def test_a_wrong_command_line_is_found(words: str) -> None:
    with pytest.raises(click.UsageError):
        parse(words.split())


def test_setup_commands_are_two() -> None:
    (setup,) = [block.code.splitlines() for block in blocks("README.md") if block.info == "sh setup"]
    assert len(setup) == 2
    assert "pip install -e ." in setup[0]
    assert "invdiff solve --problem inpaint --mask examples/mask.png" in setup[0]


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    include = re.search(r"^```\{include\} (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if include:
        return anchors(path.parent / include[1])
    count: Counter[str] = Counter()
    found = set()
    for title in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-")
        found.add(f"{slug}-{count[slug]}" if count[slug] else slug)
        count[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        place = path.parent / target if target else path
        assert place.exists(), f"{page} links to {target}, which is not there"
        assert place.resolve().is_relative_to(ROOT), f"{page} links to {target}, outside of the repository"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page} links to {target}#{anchor}, and there is no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page: str) -> None:
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    assert not re.search(r"\b[A-Z]{3,}_[A-Z]{3,}\b|\bTODO\b|\bFIXME\b|example\.(com|org)", re.sub(r"`[^`]*`", "", text))


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {f"docs/{name}.md" for name in re.findall(r"^([\w/-]+)$", index, re.MULTILINE)}
    assert {page for page in PAGES if page.startswith("docs/")} - listed == {"docs/index.md"}


def test_the_api_reference_has_every_public_package() -> None:
    listed = re.findall(
        r"^   (invdiff\.[\w.]+)$", (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8"), re.MULTILINE
    )
    for name in listed:
        importlib.import_module(name)
    packages = {f"invdiff.{name}" for name in invdiff.__all__ if isinstance(getattr(invdiff, name), ModuleType)}
    assert packages <= set(listed)


def test_links_are_made_absolute_for_the_package_index() -> None:
    absolute = runpy.run_path(str(ROOT / ".github" / "scripts" / "absolute_links.py"))["absolute"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = absolute(text, server="https://host", repository="owner/name", commit="abc")
    assert "![A photograph" in changed
    assert "](https://host/owner/name/raw/abc/docs/images/inpaint.png)" in changed
    assert "](https://host/owner/name/blob/abc/docs/how-to/operator.md)" in changed
    assert not re.search(r"\]\((?!https?:)[^)]*\)", FENCE.sub("", changed))
