"""Durations in words."""

from __future__ import annotations

import pytest

from invdiff.cli.duration import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (8.4, "8 seconds"),
        (75, "75 seconds"),
        (100, "1.7 minutes"),
        (1234, "21 minutes"),
        (5000, "83 minutes"),
        (36000, "10 hours"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
