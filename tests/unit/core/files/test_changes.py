"""What of a file differs from the server's, and which upload that allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftpfs.core.files.changes import STREAM_FROM, WORTH_PATCHING, Changes
from ftpfs.model.entry import Entry, Kind

LONG = 4 * WORTH_PATCHING

Change = Callable[[Changes], object]


def entry(size: int | None) -> Entry:
    return Entry(name="f", kind=Kind.FILE, size=size, mtime=1, exact=True, mode=None, target=None)


def sent_whole_and_unanswered(changes: Changes) -> None:
    changes.goes_whole = True


def appended_and_unanswered(changes: Changes) -> None:
    changes.take()
    changes.has_arrived = True


def placed_into(changes: Changes) -> None:
    changes.is_only_appended = False
    changes.write(0, 5)


@pytest.mark.parametrize(
    ("base", "changed", "appended"),
    [
        (10, [], None),
        (10, [lambda c: c.write(10, 15)], (10, 15)),
        (10, [lambda c: c.write(10, 15), lambda c: c.write(15, 20)], (10, 20)),
        (10, [lambda c: c.write(20, 25)], (10, 25)),  # what lies between is zeros
        (10, [lambda c: c.write(9, 15)], None),
        (10, [lambda c: c.write(0, 1), lambda c: c.write(10, 15)], None),
        (10, [lambda c: c.cut(15)], None),
        (10, [lambda c: c.cut(5), lambda c: c.write(5, 15)], None),
        (10, [lambda c: c.write(10, 15), sent_whole_and_unanswered], None),
        (10, [lambda c: c.write(10, 15), appended_and_unanswered], (10, 15)),
        (0, [lambda c: c.write(0, 5)], (0, 5)),
        (0, [placed_into], None),  # it may be meant to be all of it
    ],
)
def test_what_was_only_added_at_the_end_is_appended(
    base: int, changed: list[Change], appended: tuple[int, int] | None
) -> None:
    changes = Changes(base, is_new=False)
    for change in changed:
        change(changes)
    assert changes.appended_to(entry(base), is_placed=False) == appended
    assert changes.appended_to(entry(base), is_placed=True) is None
    assert changes.appended_to(entry(None), is_placed=False) is None
    assert changes.appended_to(None, is_placed=False) is None


@pytest.mark.parametrize(
    ("change", "is_patch"),
    [
        (lambda c: c.write(100, 200), True),
        (lambda c: c.write(LONG, LONG + 100), True),
        (lambda c: c.write(0, LONG - WORTH_PATCHING), True),
        (lambda c: c.write(0, LONG - WORTH_PATCHING + 1), False),
        (lambda c: c.cut(LONG - 1), False),  # FTP cannot cut a file short
        (lambda c: c.cut(LONG + 1), True),
    ],
)
def test_patch_has_to_save_enough(change: Change, is_patch: bool) -> None:
    changes = Changes(LONG, is_new=False)
    change(changes)
    assert changes.is_patch_of(entry(LONG)) is is_patch
    assert not changes.is_patch_of(None)


def test_range_that_did_not_arrive_is_unsent_again() -> None:
    changes = Changes(10, is_new=False)
    changes.write(10, 20)
    taken = changes.take()
    changes.write(30, 40)
    assert list(changes.unsent) == [(20, 40)]
    changes.give_back(taken)
    assert list(changes.unsent) == [(10, 40)]


def test_shorter_file_of_the_server_leaves_the_rest_unsent() -> None:
    changes = Changes(10, is_new=False)
    changes.limit_base(4)
    assert (changes.base_size, changes.size, list(changes.unsent)) == (4, 10, [(4, 10)])


def test_file_that_is_cut_and_grows_again_has_zeros_to_send() -> None:
    changes = Changes(10, is_new=False)
    changes.cut(4)
    changes.cut(10)
    assert (changes.base_size, changes.size, list(changes.unsent)) == (4, 10, [(4, 10)])


def test_sending_begins_once_enough_was_written_in_order() -> None:
    changes = Changes(0, is_new=True)
    assert not changes.write(0, STREAM_FROM - 1)
    assert changes.write(STREAM_FROM - 1, STREAM_FROM)


@pytest.mark.parametrize("is_new", [True, False])
def test_sending_does_not_begin_early_for_a_file_out_of_order(is_new: bool) -> None:
    changes = Changes(0, is_new=is_new)
    if is_new:
        changes.write(1, 2)
    assert not changes.write(changes.size, STREAM_FROM)


def test_sending_begins_early_for_a_file_that_was_emptied() -> None:
    changes = Changes(10, is_new=False)
    changes.cut(0)
    assert changes.write(0, STREAM_FROM)
