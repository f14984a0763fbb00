"""``python -m invdiff`` is the command ``invdiff``."""

from invdiff.cli import main

if __name__ == "__main__":
    main(prog_name="invdiff")
