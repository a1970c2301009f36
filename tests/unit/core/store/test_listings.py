"""Listings on the disk: what they tell after a restart, a kill, damage, and changes."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.core.store import listings as module
from ftpfs.core.store.listings import FILES, StoredListings
from ftpfs.model.entry import Entry, Kind

MIB = 1 << 20
OLD = 1_000_000_000
Make = Callable[..., StoredListings]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store" / "server"


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[StoredListings] = []

    def make(capacity: int = 4 * MIB) -> StoredListings:
        made.append(StoredListings(folder, capacity))
        return made[-1]

    yield make
    for each in made:
        each.close()


def file(name: str, size: int = 1, mtime: int | None = OLD, exact: bool = True) -> Entry:
    return Entry(name, Kind.FILE, size, mtime, exact, 0o644)


def directory(name: str) -> Entry:
    return Entry(name, Kind.DIRECTORY)


def names(entries: list[Entry] | None) -> list[str] | None:
    return None if entries is None else sorted(entry.name for entry in entries)


def test_listing_is_there_for_the_next_mount(make: Make) -> None:
    link = Entry("l", Kind.LINK, 4, OLD, False, 0o777, "/a/b")
    odd = Entry("odd \udcff name", Kind.OTHER)
    first = make()
    first.listed("/a", [file("x"), directory("d"), link, odd])
    assert first.entries("/a") == [file("x"), directory("d"), link, odd]  # not written yet
    first.close()
    second = make()
    assert second.entries("/a") == [file("x"), directory("d"), link, odd]
    assert second.entry("/a/x") == file("x")
    assert second.entry("/a/y") is None
    assert second.entries("/b") is None
    assert second.told_at("/a") is not None


def test_only_the_user_may_look_into_stored_listings(make: Make, folder: Path) -> None:
    stored = make()
    stored.listed("/", [])
    assert stored.entries("/") == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES}
    assert modes == {0o600}


def test_name_that_was_asked_for_by_itself_does_not_make_a_listing(make: Make) -> None:
    stored = make()
    stored.told("/a/x", file("other name"))
    assert stored.entry("/a/x") == file("x")
    assert stored.entries("/a") is None


def test_changes_by_the_mount_show_in_stored_listings(make: Make) -> None:
    stored = make()
    stored.listed("/", [file("x"), file("y"), directory("d")])
    stored.listed("/d", [file("in"), directory("e")])
    stored.listed("/d/e", [file("deep")])
    stored.listed("/dd", [file("beside")])
    stored.told("/y", None)
    stored.told("/z", file("z"))
    stored.was_set("/x", mode=0o600)
    stored.was_set("/x", mtime=5)
    stored.moved("/d", "/n")
    assert names(stored.entries("/")) == ["n", "x", "z"]
    assert stored.entry("/x") == Entry("x", Kind.FILE, 1, 5, True, 0o600)
    assert names(stored.entries("/n")) == ["e", "in"]
    assert names(stored.entries("/n/e")) == ["deep"]
    assert stored.entries("/d") is None
    assert stored.entries("/d/e") is None
    assert names(stored.entries("/dd")) == ["beside"]
    stored.told("/n", None)
    assert stored.entries("/n/e") is None
    assert names(stored.entries("/dd")) == ["beside"]


def test_file_renamed_over_another_takes_its_place(make: Make) -> None:
    stored = make()
    stored.listed("/", [file("x", 1), file("y", 2)])
    stored.close()
    again = make()
    again.moved("/x", "/y")
    assert again.entries("/") == [file("y", 1)]


@pytest.mark.parametrize(
    ("told", "is_kept"),
    [
        (file("x", 1, OLD - OLD % 86_400, exact=False), True),  # the day
        (file("x", 1, OLD + 9 * 86_400, exact=False), False),
        (file("x", 2, OLD - OLD % 86_400, exact=False), False),
        (file("x", 1, None, exact=False), True),
        (file("x", 1, OLD + 7, exact=True), False),
    ],
)
def test_exact_time_is_kept_unless_a_later_listing_contradicts_it(
    make: Make, told: Entry, is_kept: bool
) -> None:
    stored = make()
    stored.listed("/", [file("x")])
    stored.listed("/", [told])
    assert stored.entries("/") == [file("x") if is_kept else told]


def test_minute_of_a_recent_file_contradicts_an_exact_time(folder: Path) -> None:
    stored = StoredListings(folder, MIB, clock=lambda: OLD + 86_400.0)
    stored.listed("/", [file("same"), file("zone"), file("other")])
    minute = OLD - OLD % 60
    stored.listed(
        "/",
        [
            file("same", mtime=minute, exact=False),
            file("zone", mtime=minute + 7200, exact=False),
            file("other", mtime=minute + 60, exact=False),
        ],
    )
    assert {e.name: e.exact for e in stored.entries("/") or []} == {
        "same": True,
        "zone": True,
        "other": False,
    }
    stored.close()


def test_listings_told_longest_ago_are_evicted(make: Make, folder: Path) -> None:
    stored = make(MIB)
    for number in range(200):
        entries = [file(os.urandom(40).hex()) for _ in range(200)]
        stored.listed(f"/{number}", entries)
        assert names(stored.entries(f"/{number}")) == names(entries)
    assert stored.entries("/0") is None
    assert stored.entries("/199") is not None
    stored.close()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MIB


def test_listing_that_is_too_large_is_not_stored_and_no_older_one_is_shown(make: Make) -> None:
    stored = make(MIB)
    stored.listed("/", [file("x")])
    assert stored.entries("/") is not None
    stored.listed("/", [file(os.urandom(40).hex()) for _ in range(5000)])
    assert stored.entries("/") is None


def test_flipped_bit_makes_no_wrong_listing(make: Make, folder: Path) -> None:
    first = make()
    first.listed("/", [file(f"name{n}") for n in range(100)])
    first.listed("/b", [file("b")])
    first.close()
    db = sqlite3.connect(folder / FILES[0])
    ((data,),) = db.execute("SELECT data FROM listings WHERE path = ?", (b"/",)).fetchall()
    flipped = data[:50] + bytes([data[50] ^ 4]) + data[51:]
    db.execute("UPDATE listings SET data = ? WHERE path = ?", (flipped, b"/"))
    db.commit()
    db.close()
    second = make()
    assert second.entries("/") is None
    assert second.entries("/b") == [file("b")]
    second.listed("/", [file("new")])
    assert second.entries("/") == [file("new")]


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_damaged_database_is_made_anew(make: Make, folder: Path, content: bytes) -> None:
    first = make()
    first.listed("/", [file("x")])
    first.close()
    (folder / FILES[0]).write_bytes(content)
    second = make()
    assert second.entries("/") is None
    second.listed("/", [file("y")])
    second.close()
    assert make().entries("/") == [file("y")]


def test_database_of_another_version_is_made_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    first.listed("/", [file("x")])
    first.close()
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    monkeypatch.setattr(module, "SCHEMA", module.SCHEMA.replace("version = 1", "version = 2"))
    second = make()
    assert second.entries("/") is None
    second.listed("/", [file("y")])
    assert second.entries("/") == [file("y")]


def test_folder_that_cannot_be_used_is_logged_and_nothing_fails(
    make: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(mode=0o700)
    folder.symlink_to(folder.parent)
    stored = make()
    stored.listed("/", [file("x")])
    assert stored.entries("/") is None
    assert caplog.text.count("listings are not stored") == 1


def test_listings_survive_kill_at_any_moment(make: Make, folder: Path) -> None:
    """A killed writer leaves each listing as it was before or after a change."""
    program = f"""
import os, sys
from pathlib import Path
from ftpfs.core.store.listings import StoredListings
from ftpfs.model.entry import Entry, Kind
stored = StoredListings(Path({str(folder)!r}), 1 << 24)
round = 0
while True:
    round += 1
    for folder in "abc":
        stored.listed("/" + folder, [Entry(f"{{round}} {{n}}", Kind.FILE, n) for n in range(100)])
        stored.entries("/" + folder)
    if round == 3:
        print("goes", flush=True)
"""
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ
        )
        assert child.stdout is not None
        assert child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
        stored = make()
        for each in "abc":
            entries = stored.entries(f"/{each}")
            assert entries is not None
            assert len(entries) == 100
            assert len({entry.name.split()[0] for entry in entries}) == 1
        stored.close()


def test_listing_is_unpacked_once_for_questions_in_a_row(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = make()
    stored.listed("/", [file(f"{number}") for number in range(50)])
    assert stored.entries("/")
    unpacked: list[bytes] = []
    real = module._unpacked

    def unpack(data: bytes) -> Iterator[Entry]:
        unpacked.append(data)
        return real(data)

    monkeypatch.setattr(module, "_unpacked", unpack)
    assert [stored.entry(f"/{number}") for number in range(50)] == stored.entries("/")
    assert not unpacked
    stored.told("/0", file("0", 2))
    assert stored.entry("/0") == file("0", 2)
    assert stored.entry("/1") == file("1")


def test_changes_by_another_mount_show_at_once(make: Make) -> None:
    one, other = make(), make()
    one.listed("/", [file("a")])
    assert names(one.entries("/")) == names(other.entries("/")) == ["a"]
    other.told("/b", file("b"))
    assert names(other.entries("/")) == names(one.entries("/")) == ["a", "b"]
    one.clear()
    assert other.entries("/") is None
