"""``invdiff methods``: the sampling methods."""

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
    """List the sampling methods: what `invdiff solve --method` takes, what each costs, and its options.

    \b
    Examples:
      invdiff methods
      invdiff methods --json
    """
    from tabulate import tabulate

    from invdiff.methods import METHODS

    rows = [_describe(method) for method in METHODS.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = [["auto", "any", "", "", f"{next(iter(METHODS))}, with the steps and rule that suit the problem (the default)"]]
    table += [[row["name"], "linear" if row["needs_linear"] else "any", row["steps"], row["rule"], _text(row)] for row in rows]
    click.echo(tabulate(table, headers=["method", "operator", "steps", "rule", "what it is"]))


def options_of(method: Method) -> dict[str, Any]:
    """Return the options of a method that are numbers, with their defaults: what ``--option`` takes."""
    parameters = inspect.signature(method.guidance).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and isinstance(p.default, int | float)}
    return options | {name: value for name, value in method.options.items() if name in options}


def _describe(method: Method) -> dict[str, Any]:
    # The page of a guidance states its cost in a paragraph of its own.
    _, _, rest = (inspect.getdoc(method.guidance) or "").partition("\nCost: ")
    return {
        "name": method.name,
        "summary": method.summary,
        "needs_linear": method.needs_linear,
        "steps": method.steps,
        "rule": method.rule if isinstance(method.rule, str) else repr(method.rule),
        "options": options_of(method),
        "cost": " ".join(rest.partition("\n\n")[0].split()),
        "paper": method.paper,
    }


def _text(row: dict[str, Any]) -> str:
    options = " ".join(f"{name}={value}" for name, value in row["options"].items())
    lines = [row["summary"], f"cost: {row['cost']}", f"options: {options}", f"paper: {row['paper']}"]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))
