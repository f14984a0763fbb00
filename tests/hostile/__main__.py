"""Run the cases from one number to another, and print the laws that they break: ``python -m hostile 300 2000 [KIND]``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from hostile import broken_laws, case
from hostile.laws import shown


def run(first: int, end: int, kind: str = "") -> int:
    """Run the cases and return the number of those that break a law."""
    failed, start = 0, time.monotonic()
    for number in range(first, end):
        made = case(number)
        if kind and made.kind != kind:
            continue
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            laws = broken_laws(made, Path(folder))
        if laws:
            failed += 1
            print(shown(made, laws), flush=True)
    print(f"{failed} of the cases {first} to {end - 1} break a law, in {time.monotonic() - start:.0f} s")
    return failed


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(bool(run(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])))
