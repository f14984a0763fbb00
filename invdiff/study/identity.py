"""What a result was made from: digests of files, the seed of an item, and the key that changes when any of it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invdiff.io.paths import sha256_of
from invdiff.restoration.files import prior_files
from invdiff.restoration.record import plain

__all__ = ["file_facts", "item_seed", "prior_digest", "result_key"]

SEED_BYTES = 6  # integers that every reader of JSON holds exactly
ELSEWHERE = ("device", "seed")  # settings that do not change the result, or that the key has already


def item_seed(seed: int, name: str) -> int:
    """Return the seed of an item: items have different noise, and each keeps its own whatever else is in the folder."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()[:SEED_BYTES], "big")


def file_facts(path: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return digest, size and time of change of a file; the digest that is known, if neither size nor time has changed.

    Raises:
        OSError: If the file cannot be read.
    """
    found = path.stat()
    stamp = {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
    if known is not None and "sha256" in known and all(known.get(name) == value for name, value in stamp.items()):
        return dict(known)
    return {"sha256": sha256_of(path), **stamp}


def prior_digest(prior: Any) -> str:
    """Return a digest of the files of a prior given by name or path, or of its name if it has none."""
    digests = [sha256_of(path) for path in sorted(prior_files(prior)) if path.is_file()]
    text = json.dumps(digests or str(prior))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def result_key(settings: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], *, seed: int, prior: str) -> str:
    """Return a digest of all that determines the files of a result.

    Args:
        settings: Settings and options, with those of the output.
        files: Facts of the files that are read, by name; they count by their content.
        seed: Seed of the item.
        prior: Digest of the prior.
    """
    kept = {name: plain(value) for name, value in settings.items() if name not in (*files, *ELSEWHERE, "prior")}
    digests = {name: facts["sha256"] for name, facts in files.items()}
    text = json.dumps({"settings": kept, "files": digests, "seed": seed, "prior": prior}, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
