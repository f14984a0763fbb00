"""``invdiff priors``: the bundled priors, or what a checkpoint says of itself."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

__all__ = ["priors"]

WIDTH = 100  # characters of the last column


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def priors(file: str | None, as_json: bool) -> None:
    """List the bundled diffusion priors, or describe FILE: what `invdiff solve --prior` takes.

    FILE is a .safetensors file written by `invdiff train`. Reading one runs no code; other formats are refused.

    \b
    Examples:
      invdiff priors
      invdiff priors my-prior.safetensors
      invdiff priors --json
    """
    from tabulate import tabulate

    from invdiff.priors.files import BUNDLED

    found = [_describe(name) for name in ([file] if file else BUNDLED)]
    if as_json:
        click.echo(json.dumps(found[0] if file else found, indent=2))
        return
    for number, prior in enumerate(found):
        rows = [(name.replace("_", " "), _readable(value)) for name, value in prior.items() if value not in (None, "", {})]
        wrapped = [(name, textwrap.fill(text, WIDTH)) for name, text in rows]
        click.echo(("\n" if number else "") + tabulate(wrapped, tablefmt="plain", disable_numparse=True))


def _describe(source: str) -> dict[str, Any]:
    from invdiff.priors.files import BUNDLED, load_network, load_prior, read_facts

    # The course of the training is for the card.
    facts = {name: value for name, value in read_facts(source).items() if name not in ("history", "settings")}
    prior = load_prior(source, precision="float32")
    path = BUNDLED.get(source, Path(source))
    card = path.with_suffix(".md")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    lines = [line.strip(" #*-") for line in text.splitlines()]
    licence = next((line for line in lines if line.lower().startswith(("licence:", "license:"))), "")
    described = {
        "name": source,
        "what": facts.pop("summary", None) or next(filter(None, lines), "a trained U-Net"),
        "channels": (prior.event_shape or (None,))[0],
        "parameters": sum(p.numel() for p in load_network(source)[0].parameters()),
        "licence": facts.pop("licence", None) or licence.partition(":")[2].strip(" *"),
        "card": str(card) if text else None,
        "file": str(path),
        "sha256": prior.facts["sha256"],
    }
    return described | {name: value for name, value in facts.items() if name not in described}


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_readable(item)}" for name, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
