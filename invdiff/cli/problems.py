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

    broken = PROBLEMS.broken()
    for reason in broken.values():
        click.echo(reason, err=True)
    rows = [
        {
            "name": name,
            "summary": PROBLEMS.summary(name),
            "needs": needed(PROBLEMS[name], simulation=False, mark="" if as_json else "*"),
            "to simulate": needed(PROBLEMS[name], simulation=True),
            "operator": PROBLEMS[name].measures,
        }
        for name in PROBLEMS
        if name not in broken
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = [{**row, **{column: ", ".join(row[column]) for column in ("needs", "to simulate")}} for row in rows]
        click.echo(tabulate(table, headers={name: name for name in rows[0]} | {"name": "problem", "summary": "description"}))
        click.echo("* unless INPUT provides it: transparent pixels serve as the mask")


def needed(problem: type[Problem], *, simulation: bool, mark: str = "") -> list[str]:
    """Return the required options of a problem; ``--a or --b`` if one of several is enough.

    Args:
        problem: The problem.
        simulation: Whether to return the options that are needed only to simulate a measurement, or all others.
        mark: Appended to options that can be left out if INPUT provides them.
    """
    options = [option for option in problem.options if option.simulation == simulation]
    flag = {option.name: f"{option.flag}{mark if option.input_tells else ''}" for option in options}
    needs = [flag[option.name] for option in options if option.needed == "yes"]
    if simulation:
        needs += [option.flag for option in problem.options if option.needed == "simulated"]
    for group in ("any", "either"):
        members = [flag[option.name] for option in options if option.needed == group]
        needs += [" or ".join(members)] if members else []
    return [*needs, "--noise"] if problem.accepts_noise == "above 0" and simulation else needs
