"""How programs read a content, as far as their last reads tell."""

from __future__ import annotations

import pytest

from ftpfs.core.reading.access import GOES_ON_BYTES, MOST_PIECEMEAL, Access

BLOCK = 1 << 20


@pytest.mark.parametrize(
    ("block", "reads_on"), [(4, False), (5, False), (6, True), (7, True), (8, False)]
)
def test_read_goes_on_if_it_is_just_behind_a_recent_block(block: int, reads_on: bool) -> None:
    access = Access()
    access.note(5, 6 * BLOCK)
    access.note(90, 91 * BLOCK)
    assert access.reads_on(block) is reads_on


def test_small_read_goes_on_if_it_begins_close_behind_any_recent_end() -> None:
    access = Access()
    access.note(5, 6 * BLOCK)
    access.note(90, 90 * BLOCK + 100)
    assert access.goes_on(6, 6 * BLOCK)
    assert access.goes_on(6, 6 * BLOCK + GOES_ON_BYTES)
    assert not access.goes_on(6, 6 * BLOCK + GOES_ON_BYTES + 1)
    assert not access.goes_on(5, 6 * BLOCK - 1)


def test_small_read_goes_on_if_it_skips_from_the_last_one() -> None:
    access = Access()
    assert not access.goes_on(1, BLOCK)
    access.note(5, 5 * BLOCK + 10)
    assert access.goes_on(7, 7 * BLOCK + 500_000)
    access.note(90, 91 * BLOCK)
    assert not access.goes_on(7, 7 * BLOCK + 500_000)


def test_block_is_fetched_whole_after_a_few_pieces() -> None:
    access = Access()
    for _ in range(MOST_PIECEMEAL):
        assert not access.is_piecemeal(3)
        access.note_piece(3)
    assert access.is_piecemeal(3)
    assert not access.is_piecemeal(4)
