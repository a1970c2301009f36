"""Work in several threads: order, failures, trees; and listings that are remembered."""

from __future__ import annotations

import threading
import time

import pytest

from ftpfs.api import parallel
from ftpfs.api.listings import Listings
from ftpfs.model.entry import Entry, Kind


def test_results_are_in_the_order_of_the_items() -> None:
    assert parallel.results(lambda n: n * n, range(100), threads=7) == [n * n for n in range(100)]
    assert parallel.results(str, [], threads=7) == []


def test_no_more_threads_work_than_allowed() -> None:
    meeting = threading.Barrier(3)
    assert len(parallel.results(lambda _: meeting.wait(10), range(3), threads=3)) == 3
    seen = set()

    def work(_: int) -> None:
        seen.add(threading.get_ident())
        time.sleep(0.001)

    parallel.results(work, range(50), threads=2)
    assert len(seen) <= 2
    seen.clear()
    parallel.results(work, [1], threads=2)
    assert seen == {threading.get_ident()}


def test_first_failure_is_raised_and_stops_what_has_not_begun() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise OSError("three")
        time.sleep(0.001)
        done.append(number)

    with pytest.raises(OSError, match="three"):
        parallel.results(work, range(10_000), threads=4)
    assert len(done) < 5_000


def test_outcomes_hold_results_and_failures() -> None:
    found = parallel.outcomes(lambda n: 6 // n, [1, 0, 2], threads=2)
    assert (found[0], type(found[1]), found[2]) == (6, ZeroDivisionError, 3)


def test_tree_is_spread_over_threads() -> None:
    seen: set[int] = set()

    def below(number: int) -> list[int]:
        seen.add(number)
        return [2 * number, 2 * number + 1] if number < 500 else []

    parallel.spread(below, [1], threads=6)
    assert seen == set(range(1, 1000))


def test_listing_from_before_a_change_is_not_remembered() -> None:
    listings, file = Listings(), Entry("file", Kind.FILE, 1)
    before = listings.changes
    listings.stored("/a/file", file)
    listings.put("/a", {}, before)
    assert listings.get("/a", 60) is None
    listings.put("/b", {}, before)  # another folder
    assert listings.get("/b", 60) == {}
    listings.put("/a", {"file": file}, listings.changes)
    listings.removed("/a/file")
    assert listings.get("/a", 60) == {}


def test_folder_that_others_filled_at_once_is_not_remembered_as_empty() -> None:
    listings = Listings()
    before = listings.changes
    listings.stored("/a/file", Entry("file", Kind.FILE))  # by another thread
    listings.made("/a", before)
    assert listings.get("/a", 60) is None


def test_renamed_folder_is_forgotten_with_all_below() -> None:
    listings = Listings()
    for folder in ("/", "/a", "/a/b", "/ab"):
        listings.put(folder, {}, listings.changes)
    before = listings.changes
    listings.forget("/a")
    assert [each for each in ("/", "/a", "/a/b", "/ab") if listings.get(each, 60) is not None] == [
        "/ab"
    ]
    listings.put("/a/b", {}, before)
    assert listings.get("/a/b", 60) is None
