"""The figures by name: how they are called in options, tables and files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["COLUMNS", "METRICS", "OF_PAIRS", "OF_SETS", "POSTERIOR", "SCORES", "Column", "listing"]


@dataclass(frozen=True)
class Column:
    """A figure.

    Attributes:
        header: Its name in tables, in one or two lines, with the unit; lengths are on the 0..1 scale.
        digits: Decimals in tables.
        table: Whether it is in the tables for people; files have all.
    """

    header: str
    digits: int
    table: bool = True


OF_PAIRS = ("psnr", "ssim", "lpips", "ms-ssim", "dists")  # of an image and its reference
OF_SETS = ("fid", "kid")  # of all images and their references
POSTERIOR = "posterior"  # the scores of samples
METRICS = (*OF_PAIRS, *OF_SETS, POSTERIOR)

COLUMNS = {
    "psnr": Column("PSNR [dB]", 2),
    "ssim": Column("SSIM", 4),
    "lpips": Column("LPIPS", 4),
    "ms-ssim": Column("MS-SSIM", 4),
    "dists": Column("DISTS", 4),
    "fid": Column("FID", 2),
    "kid": Column("KID", 5),
    "samples": Column("samples", 0),
    "crps": Column("CRPS", 4),
    "energy_score": Column("energy", 4),
    "coverage_50": Column("in\n50 %", 3),
    "coverage_90": Column("in\n90 %", 3),
    "open": Column("open", 3, table=False),
    "spread": Column("spread", 4, table=False),
    "error": Column("error", 4, table=False),
    "spread_error": Column("spread/\nerror", 2),
    "diversity": Column("diver-\nsity", 4),
    "psnr_samples": Column("PSNR of\nsamples", 2),
    "psnr_mean": Column("PSNR of\nmean", 2),
    "chi_square": Column("chi-square\nratio", 2),
}
SCORES = tuple(name for name in COLUMNS if name not in METRICS)


def listing(names: Iterable[object], *, shown: int = 10) -> str:
    """Return the first names of a list, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + rest
