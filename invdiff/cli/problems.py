"""``invdiff problems``: the measurement models."""

from __future__ import annotations

import json

import click

__all__ = ["problems"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def problems(as_json: bool) -> None:
    """List the measurement models: what `invdiff solve --problem` takes, and the options each cannot do without.

    \b
    Examples:
      invdiff problems
      invdiff problems --json
    """
    from tabulate import tabulate

    from invdiff.problems import PROBLEMS

    rows = []
    for name, problem in PROBLEMS.items():
        example = problem.examples()[0]
        height, width = example.size or (16, 24)
        op = type(example.operator((3, height, width), sigma_y=0.0)).__name__
        rows.append({"name": name, "summary": problem.summary, "needs": list(problem.needs), "operator": op})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = [{**row, "needs": ", ".join(row["needs"])} for row in rows]
        click.echo(tabulate(table, headers={name: name for name in rows[0]} | {"name": "problem", "summary": "what it does"}))
