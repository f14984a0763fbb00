"""Make the relative links of a README absolute, so that they also work on a package index.

python .github/scripts/absolute_links.py README.md

The address is that of the repository and commit that the workflow runs for (GITHUB_REPOSITORY, GITHUB_SHA). Images become links
to raw files, all others links to the page of the file. The file is changed in place: run it on a checkout that is built from.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, *, server: str, repository: str, commit: str) -> str:
    """Return Markdown with its relative links replaced."""

    def replace(match: re.Match[str]) -> str:
        image, title, target = match.groups()
        kind = "raw" if image else "blob"
        return f"{image}[{title}]({server}/{repository}/{kind}/{commit}/{target})"

    return LINK.sub(replace, text)


def main() -> None:
    environment = os.environ
    try:
        place = {"repository": environment["GITHUB_REPOSITORY"], "commit": environment["GITHUB_SHA"]}
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set: this script runs in a workflow.")
    server = environment.get("GITHUB_SERVER_URL", "https://github.com")
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(absolute(path.read_text(encoding="utf-8"), server=server, **place), encoding="utf-8")


if __name__ == "__main__":
    main()
