"""No class, function or test file is too large to be read in one go (scripts/house.py)."""

from __future__ import annotations

from scripts import house


def test_nothing_is_larger_than_its_limit() -> None:
    assert [str(each) for each in house.too_large()] == []
