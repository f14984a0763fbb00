"""``invdiff methods``: list the sampling methods."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from invdiff.methods import Method

__all__ = ["methods", "options_of"]

WIDTH = 84  # characters of the last column


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def methods(as_json: bool) -> None:
    """List the sampling methods for `invdiff solve --method`, with their requirements, cost and options.

    \b
    Examples:
      invdiff methods
      invdiff methods --json
    """
    from tabulate import tabulate

    from invdiff.methods import METHODS

    broken = METHODS.broken()
    rows = [_describe(METHODS[name]) for name in METHODS if name not in broken]
    for reason in broken.values():
        click.echo(reason, err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    auto = "mmps, or mm-tsmc if a pilot run shows that weights matter, within a budget (the default)"
    table = [["auto", "any", "", "", auto]]
    table += [[row["name"], ", ".join(row["needs"]) or "any", row["steps"], row["rule"], _text(row)] for row in rows]
    click.echo(tabulate(table, headers=["method", "needs", "steps", "rule", "description"]))


def options_of(method: Method) -> dict[str, Any]:
    """Return the options that ``--option`` accepts: those with numbers or strings as defaults, with these defaults."""
    from invdiff.methods.options import options_of as parameters_of

    parameters = parameters_of(method.algorithm).values()
    options = {p.name: p.default for p in parameters if isinstance(p.default, int | float | str)}
    options.pop("weighted", None)  # The files of a run have no weights.
    return options | {name: value for name, value in method.options.items() if name in options}


def _describe(method: Method) -> dict[str, Any]:
    # The docstring of an algorithm states its cost in a separate paragraph.
    _, _, rest = (inspect.getdoc(method.algorithm) or "").partition("\nCost: ")
    return {
        "name": method.name,
        "summary": method.summary,
        "needs": list(method.needs),
        "steps": method.steps,
        "rule": "own" if method.rule is None else method.rule if isinstance(method.rule, str) else repr(method.rule),
        "options": options_of(method),
        "paper settings for": list(method.presets),
        "cost": " ".join(rest.partition("\n\n")[0].split()),
        "paper": method.paper,
    }


def _text(row: dict[str, Any]) -> str:
    options = " ".join(f"{name}={value}" for name, value in row["options"].items())
    lines = [row["summary"], f"cost: {row['cost']}", f"options: {options}", f"paper: {row['paper']}"]
    if row["paper settings for"]:
        lines.append(f"--preset paper: {', '.join(row['paper settings for'])}")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))
