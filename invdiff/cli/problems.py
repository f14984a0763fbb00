"""``invdiff problems``: list the measurement models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from invdiff.problems import Problem

__all__ = ["problems"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def problems(as_json: bool) -> None:
    """List the measurement models for `invdiff solve --problem`, with their required options.

    \b
    Examples:
      invdiff problems
      invdiff problems --json
    """
    from tabulate import tabulate

    from invdiff.problems import PROBLEMS

    rows = [
        {"name": name, "summary": PROBLEMS.summary(name), "needs": needed(problem), "operator": problem.measures}
        for name, problem in PROBLEMS.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = [{**row, "needs": ", ".join(row["needs"])} for row in rows]
        click.echo(tabulate(table, headers={name: name for name in rows[0]} | {"name": "problem", "summary": "description"}))


def needed(problem: type[Problem]) -> list[str]:
    """Return the required options of a problem; ``--a or --b`` if one of several is enough."""
    needs = [option.flag for option in problem.options if option.needed == "yes"]
    for group in ("any", "either"):
        members = [option.flag for option in problem.options if option.needed == group]
        needs += [" or ".join(members)] if members else []
    return [*needs, "--noise"] if problem.accepts_noise == "above 0" else needs
