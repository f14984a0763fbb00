"""The command ``invdiff``, also as ``python -m invdiff``."""

from invdiff.cli import main
from invdiff.processor import prepare_processor

__all__ = ["run"]


def run() -> None:
    """Run the command in a process of its own."""
    prepare_processor()
    main(prog_name="invdiff")


if __name__ == "__main__":
    run()
