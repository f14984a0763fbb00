"""Three hundred hostile inputs of pictures, masks, kernels, arrays, options, checkpoints and more, each made from its number.

``pytest -k pictures-137`` runs one of them again, and ``PYTHONPATH=tests python -m hostile 300 2000`` others.
"""

from __future__ import annotations

import pytest
from hostile import KINDS, broken_laws, case, name_of
from hostile.laws import shown

pytestmark = pytest.mark.slow

COUNT = 300


@pytest.mark.parametrize("number", range(COUNT), ids=name_of)
def test_hostile_inputs(number, tmp_path):
    made = case(number)
    laws = broken_laws(made, tmp_path)
    assert not laws, shown(made, laws)


def test_every_kind_is_among_them():
    names = [name_of(number) for number in range(COUNT)]
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in KINDS}
    assert min(counts.values()) >= 10, counts


@pytest.mark.parametrize("number", range(0, COUNT, 7))
def test_a_case_is_its_number(number):
    first, again = case(number), case(number)
    assert first == again
    assert str(first) == name_of(number)
