"""What a user may say where a checkpoint is silent: converted and checked, or assumed and said so."""

from collections.abc import Callable
from typing import Any

import pytest

from invdiff.priors.checkpoints.assumptions import Choices, one_of, positive, whole, yes_no

SIDE = whole(1, 64, multiple=4)


@pytest.mark.parametrize(
    ("convert", "values", "expected"),
    [
        (one_of(("eps", "x0")), ("eps", " EPS "), "eps"),
        (yes_no, ("yes", "True", True, 1, "1"), True),
        (yes_no, ("no", "False", False, 0, "0"), False),
        (positive, (0.5, "0.5", "5e-1"), 0.5),
        (SIDE, (64, "64", 64.0, " 64 "), 64),
        (whole(0, 9), (0, "0"), 0),
    ],
)
def test_values_of_python_and_of_the_command_line(convert: Callable[[str, Any], Any], values: Any, expected: Any) -> None:
    for value in values:
        choices = Choices({"name": value})
        assert choices.choose("name", convert, None, "never") == expected
        assert choices.certain("name", convert, expected, "never") == expected
        assert not choices.assumed


@pytest.mark.parametrize(
    ("convert", "values", "expected"),
    [
        (one_of(("eps", "x0")), ("noise", "", None, ["eps"]), "one of eps, x0"),
        (yes_no, ("maybe", 2, None), "yes or no"),
        (positive, (0, -1, "nan", float("inf"), 10**400, "small", None), "a positive number"),
        (SIDE, (0, 62, 68, -4, 4.5, "4e0", True, "x" * 999, 10**30, None), "a multiple of 4 from 1 to 64"),
        (whole(2, 5), (1, 6, "2.5"), "a whole number from 2 to 5"),
    ],
)
def test_nonsense(convert: Callable[[str, Any], Any], values: Any, expected: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=r"^name=") as error:
            Choices({"name": value}).choose("name", convert, None, None)
        assert str(error.value) == f"name={repr(value)[:80]}: expected {expected}."


def test_what_is_not_given_is_assumed_where_no_file_says_it() -> None:
    choices = Choices({})
    assert choices.choose("rescale", yes_no, "yes", "usual") is True
    assert choices.choose("fir", yes_no, False, "usual") is False
    assert choices.choose("steps", whole(1, 9000), 1000, None) == 1000
    assert choices.certain("centered", yes_no, True, "so it is") is True
    assert choices.assumed == {"rescale": "yes (usual)", "fir": "no (usual)"}


def test_what_cannot_be_chosen() -> None:
    choices = Choices({"fir": "no", "label": 3})
    with pytest.raises(ValueError, match=r"^fir='no': expected yes, as its names tell\. Leave it out\.$"):
        choices.certain("fir", yes_no, True, "its names tell")
    with pytest.raises(ValueError, match=r"^label=3: expected none, as it has no use\. Leave it out\.$"):
        choices.refuse("steps", "label", reason="it has no use")


def test_labels() -> None:
    assert Choices({"label": "4"}).label(5) == 4
    assert Choices({"label": "none"}).label(5, or_none=True) is None
    for classes in (0, None):
        assert Choices({}).label(classes) is None
        with pytest.raises(ValueError, match=r"^label=0: expected none, as the network is not class-conditional"):
            Choices({"label": 0}).label(classes)
    for label in (5, -1, "cat", "none", True):
        with pytest.raises(ValueError, match=r"^label=.*: expected a whole number from 0 to 4\.$"):
            Choices({"label": label}).label(5)
    with pytest.raises(
        ValueError, match=r"conditioned on 1000 classes .* give label=207 in Python, --prior-option label=207 at the com"
    ):
        Choices({}).label(1000)
