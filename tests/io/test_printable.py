"""Text of files as it may be printed: what could control a terminal is escaped, everything else is left as it is."""

from __future__ import annotations

import pytest

from invdiff.io.printable import printable

WORDS = ("caf\u00e9", "\u4e2d\u6587", "\u0440\u0443\u0441", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600")


@pytest.mark.parametrize("text", ["", "plain", *WORDS, "a\\x1b", "50 %"])
def test_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # the same as ESC [
        ("a\rb", r"a\rb"),
        ("a\x08b\x7f\0", r"a\x08b\x7f\x00"),
        ("a\tb", r"a\tb"),
        ("a.pt\nResults: fine", r"a.pt\nResults: fine"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066a\u2069\u200f\u200e", r"\u2066a\u2069\u200f\u200e"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("m\udcfcll", r"m\udcfcll"),
        ("\U000e0041", r"\U000e0041"),
        ("a\u00a0b\u3000c", "a b c"),
    ],
)
def test_controls_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    printable(text).encode()  # so that it can be printed at all


def test_every_character() -> None:
    shown = printable("".join(map(chr, range(0x30000))))
    assert shown.isprintable()


def test_several_lines() -> None:
    assert printable("one\n\ntwo\r\n\x1b", lines=True) == "one\n\ntwo\\r\n\\x1b"
