"""Solve a volume, a stack or a clip at the command line, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from invdiff.cli.messages import note, shows_bars
from invdiff.cli.method_options import method_options
from invdiff.cli.prior_options import given_options

__all__ = ["solve_volume", "volume_of"]


def volume_of(source: Path | None, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the numbers of the slices to restore, counted from 0; ``None`` if INPUT is one picture."""
    from invdiff.restoration.slices import of_volume

    return of_volume(source, settings)


def solve_volume(
    source: Path | None,
    settings: Mapping[str, Any],
    numbers: tuple[int, ...],
    output: Path | None,
    *,
    overwrite: bool,
    npz: bool,
    format: str | None,  # noqa: A002 - the name of the option
    format_quality: int | None,
    keep: str | None,
    strip: bool,
    anonymize: bool,
) -> dict[str, Any]:
    """Solve slices of INPUT, write each kind of result as one volume, and return the record.

    The arguments are those of :func:`invdiff.cli.solve_file.solve_file`.
    """
    from invdiff.posterior.misfit import unwarned
    from invdiff.restoration import restore_volume
    from invdiff.restoration.keep import kept_parts

    assert source is not None
    for flag, given in {"--npz": npz, "--format-quality": format_quality is not None}.items():
        if given:
            raise click.UsageError(f"{flag} is for single pictures, and INPUT holds several. Choose one --slice N.")
    with (
        unwarned(),
        tqdm(
            total=len(numbers), disable=not shows_bars() or settings["coupling"] is not None, unit="slice", leave=False
        ) as bar,
    ):
        return restore_volume(
            source,
            settings,
            numbers,
            output,
            overwrite=overwrite,
            format=format,
            strip=strip,
            anonymize=anonymize,
            keep=kept_parts(keep),
            option=method_options(settings["option"], settings["method"]),
            prior_option=given_options(settings["prior_option"]),
            progress=shows_bars() and settings["coupling"] is not None,
            say=note,
            step=lambda done: bar.update(done - bar.n) and None,
        )
