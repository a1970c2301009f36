"""Kept paths, and how they show in the index and in the stored listings."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs.core.store import writer
from ftpfs.core.store.contents import ContentFolder, Facts, Flag, name_of
from ftpfs.core.store.kept import DAMAGED, FILE, KeptPaths, outermost
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.store import Holding
from ftpfs.core.store.writer import Forget, Keep, Put
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.status import Kept
from tests.support.waiting import until
from tests.unit.core.store.conftest import FILE as CONTENT
from tests.unit.core.store.conftest import MIB, MakeStore, fill, indices, served

ODD = '/caf\udce9 "x"\\ \n'


def test_kept_paths_are_found_by_the_next_mount(tmp_path: Path) -> None:
    first = KeptPaths(tmp_path)
    for path in ("/a", "/a/b", ODD):
        first.add(path)
    first.note(Kept("/a", looked=5.0, complete=True, files=3, bytes=7))
    first.note(Kept("/dropped"))
    second = KeptPaths(tmp_path)
    assert second.all() == {
        "/a": Kept("/a", looked=5.0, complete=True, files=3, bytes=7),
        "/a/b": Kept("/a/b"),
        ODD: Kept(ODD),
    }
    assert second.covers("/a/x/y")
    assert second.covers(ODD)
    assert not second.covers("/ab")
    assert outermost(second.paths()) == ["/a", ODD]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_changes_of_several_mounts_are_all_kept(tmp_path: Path) -> None:
    def change(number: int) -> None:
        mine = KeptPaths(tmp_path)
        mine.add(f"/{number}")
        mine.add(f"/gone{number}")
        assert mine.drop(f"/gone{number}")

    seen = KeptPaths(tmp_path)
    assert not seen.paths()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert sorted(seen.paths()) == sorted(f"/{number}" for number in range(40))
    assert not seen.drop("/gone1")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"paths": [{}]}', b'{"paths": 5}', b"\xff"])
def test_damaged_file_is_set_aside(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    kept = KeptPaths(tmp_path)
    assert kept.paths() == []
    assert (tmp_path / DAMAGED).read_bytes() == data
    kept.add("/a")
    assert KeptPaths(tmp_path).paths() == ["/a"]


def test_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text('{"paths": [{"path": "/theirs"}]}')
    (tmp_path / FILE).symlink_to(other)
    assert KeptPaths(tmp_path).paths() == []


def test_one_mount_looks_at_a_time(tmp_path: Path) -> None:
    with KeptPaths(tmp_path).looking() as first:
        assert first
        with KeptPaths(tmp_path).looking() as second:
            assert not second
    with KeptPaths(tmp_path).looking() as third:
        assert third


# Contents.


def test_content_larger_than_the_store_is_kept(make_store: MakeStore) -> None:
    store = make_store(8 * MIB)
    large = CONTENT._replace(path="/large", size=20 * MIB + 1)
    store.keep(large)
    fill(store, large)
    assert store.settle(20)
    assert store.absent(large) == ([], True)
    assert store.holding(large) is Holding.KEPT
    fill(store, *(CONTENT._replace(path=f"/{n}") for n in range(20)))
    assert store.settle(20)
    assert served(store, large) == list(indices(large))


def test_content_that_is_here_already_is_kept_and_released(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store()
    fill(store, CONTENT)
    assert store.settle(20)
    assert store.holding(CONTENT) is Holding.CACHED
    other = make_store()
    assert other.holding(CONTENT) is Holding.CACHED
    other.kept.add("/folder")
    other.keep(CONTENT)
    assert other.settle(20)
    assert store.holding(CONTENT) is Holding.KEPT  # although it has the content open
    assert store.release() == 0
    store.kept.drop("/folder")
    assert store.release() == 1
    assert other.holding(CONTENT) is Holding.CACHED
    with store.index() as index:
        assert index.status(0).kept == 0
        assert index.status(0).used > CONTENT.size


def test_sealing_keeps_the_mark_of_another_mount(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAUSE_SECONDS", 0.05)
    store = make_store()
    large = CONTENT._replace(size=2 * MIB)
    fill(store, large)
    files = ContentFolder(tmp_path / "store/data")
    opened = files.open(name_of(Facts.of(large)), writable=True) if store.settle(20) else None
    assert opened is not None
    make_store().keep(large)
    until(opened.is_kept)
    opened.mark(Flag.WHOLE)
    assert files.open(opened.name).flags == Flag.WHOLE | Flag.KEPT


def test_prune_deletes_what_no_listing_shows(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    paths = ["/k/a", "/k/b", "/k/sub/c", "/kk/d", "/k/failed/e"]
    for path in paths:
        store.keep(CONTENT._replace(path=path))
    assert store.settle(20)
    current = {name_of(Facts.of(CONTENT._replace(path="/k/a")))}
    with store.index() as index:
        assert index.prune("/k", current, ["/k/failed"]) == 2
        assert [path for path in paths if index.kept_at(path)] == ["/k/a", "/kk/d", "/k/failed/e"]


def test_kept_mark_survives_a_kill_of_its_writer(make_store: MakeStore, tmp_path: Path) -> None:
    """The side file tells it, if the row was lost."""
    store = make_store()
    store.keep(CONTENT)
    fill(store, CONTENT)
    assert store.settle(20)
    store.close()
    for path in (tmp_path / "store").glob("index.db*"):
        path.unlink()
    again = make_store()
    fill(again, CONTENT._replace(path="/other"))
    assert again.settle(20)
    assert again.absent(CONTENT) == ([], True)
    with again.index() as index:
        assert index.kept_at(CONTENT.path) == [Facts.of(CONTENT)]


def test_blocks_of_one_content_are_written_together_and_in_order() -> None:
    one, two = CONTENT._replace(path="/1"), CONTENT._replace(path="/2")
    a, b, c, d = (Put(v, n, b"") for n in (0, 1) for v in (one, two))
    keep, forget = Keep(two), Forget("/1")
    assert list(writer._runs_of([keep, a, b, c, d])) == [[keep], [a, c], [b, d]]
    assert list(writer._runs_of([a, keep, b])) == [[keep], [a], [b]]
    assert list(writer._runs_of([b, keep, d])) == [[b], [keep], [d]]
    assert list(writer._runs_of([a, forget, c])) == [[a], [forget], [c]]


# Listings.


def listing(count: int) -> list[Entry]:
    return [Entry(os.urandom(40).hex(), Kind.FILE, 1, 1, True) for _ in range(count)]


def test_listings_of_kept_folders_are_not_evicted_nor_cleared(tmp_path: Path) -> None:
    stored = StoredListings(tmp_path, MIB, kept=lambda: ["/up/k"])
    names = ["/", "/up", "/up/k", "/up/k/deep", "/up/k2"]
    for name in names:
        stored.listed(name, listing(100))
    stored.listed("/up/k/large", listing(5000))  # too large for the bound alone
    for number in range(200):
        stored.listed(f"/{number}", listing(200))
        assert stored.entries(f"/{number}") is not None
    assert stored.entries("/0") is None
    assert [name for name in names if stored.entries(name) is None] == ["/up/k2"]
    assert len(stored.entries("/up/k/large") or []) == 5000
    stored.clear()
    assert stored.entries("/199") is None
    assert [name for name in names if stored.entries(name) is None] == ["/up/k2"]
    stored.close()
