"""Servers with slow MDTM: a listing waits for one second of times, and not for all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftpfs.ftp import dated
from ftpfs.ftp.profile import Profile, SetTime
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from tests.support import scripted_server as scripted
from tests.support.scripted_server import Manners
from tests.support.waiting import until
from tests.unit.ftp.test_manners import connected

WHEN = int(time.time()) // 60 * 60 - 7200
COUNT = 300
SLOW = Manners(features=scripted.OLD, slow={"MDTM": 0.01})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(COUNT):
        path = tmp_path / f"file{number:03}"
        path.touch()
        os.utime(path, (WHEN + number % 50, WHEN + number % 50))
    return tmp_path


def times(remote: Remote) -> tuple[dict[str, int | None], float]:
    began = time.monotonic()
    listed = remote.list("/")
    return {e.name: e.mtime for e in listed}, time.monotonic() - began


def true_times(root: Path) -> dict[str, int]:
    return {path.name: int(path.stat().st_mtime) for path in root.iterdir()}


def test_listing_of_slow_server_shows_minutes_until_exact_times_arrive(
    root: Path,
) -> None:
    with scripted.start(root, SLOW) as server, connected(server) as remote:
        shown, took = times(remote)
        assert took < 2, "the listing waited for all times"
        assert all(0 <= true - (shown[name] or 0) < 60 for name, true in true_times(root).items())
        assert shown != true_times(root)
        until(lambda: not remote.profile.times.dated.is_waiting(), 20)
        until(lambda: times(remote)[0] == true_times(root), 5)
        asked = server.verbs().count("MDTM")
        assert COUNT <= asked < COUNT + 100
        _, took = times(remote)
        assert took < 1
        assert server.verbs().count("MDTM") == asked, "what is known was asked for again"


@pytest.mark.parametrize("is_known", [False, True])
def test_listing_waits_for_few_times_although_each_takes_less_than_a_millisecond(
    tmp_path: Path, is_known: bool
) -> None:
    """With `is_known`, a small folder was listed before, whose times came soon."""
    files = [Entry(f"file{number:05}", Kind.FILE, 1, WHEN) for number in range(8000)]
    for entry in files:
        (tmp_path / entry.name).touch()
        os.utime(tmp_path / entry.name, (WHEN + 1, WHEN + 1))
    (tmp_path / "small").mkdir()
    for number in range(dated.PROBE_COUNT):
        (tmp_path / "small" / str(number)).touch()
    manners = Manners(features=scripted.OLD, slow={"MDTM": 0.0006})
    with scripted.start(tmp_path, manners) as server, connected(server) as remote:
        if is_known:
            remote.list("/small")
            assert remote.profile.times.are_slow is not None
        before = server.verbs().count("MDTM")
        times(remote)
        assert server.verbs().count("MDTM") - before < 3000, "the listing waited for all times"
        until(lambda: not remote.profile.times.dated.is_waiting(), 60)
        exact = {e.name: WHEN + 1 for e in files}
        until(lambda: exact.items() <= times(remote)[0].items(), 60)


def test_slow_server_is_asked_again_for_time_of_changed_file(root: Path) -> None:
    with scripted.start(root, SLOW) as server, connected(server) as remote:
        times(remote)
        until(lambda: times(remote)[0] == true_times(root), 20)
        (root / "file007").write_bytes(b"longer")
        os.utime(root / "file008", (WHEN + 125, WHEN + 125))
        assert times(remote)[0] == true_times(root)


def test_time_asked_within_its_own_minute_is_not_stored() -> None:
    books, now = dated.Dated(), int(time.time())
    files = [
        Entry(name, Kind.FILE, 1, (now - age) // 60 * 60)
        for name, age in (("old", 300), ("new", 30), ("set", 400))
    ]
    told = {"old": now - 300, "new": now - 30, "set": now - 400}
    books.keep("/", files, told, books.changes)
    assert books.known("/", files) == {"old": now - 300, "set": now - 400}
    before = books.changes
    books.forget("/set")
    books.keep("/", files, told, before)
    assert books.known("/", files) == {"old": now - 300}
    for number in range(dated.MAX_LATELY + 1):
        books.forget(f"/elsewhere/{number}")
    books.forget("/old")
    books.keep("/", files, told, before)
    assert books.known("/", files) == {}


def test_time_set_within_same_minute_is_shown(root: Path) -> None:
    with scripted.start(root, SLOW) as server, connected(server) as remote:
        until(lambda: times(remote)[0] == true_times(root), 20)
        remote.profile.setting.set_time, remote.profile.setting.set_time_works = SetTime.MFMT, True
        remote.set_mtime("/file007", WHEN + 55)
        assert times(remote)[0]["file007"] == WHEN + 55


def test_first_listing_of_fast_server_has_all_exact_times(root: Path) -> None:
    with (
        scripted.start(root, Manners(features=scripted.OLD)) as server,
        connected(server) as remote,
    ):
        assert times(remote)[0] == true_times(root)
        assert remote.profile.times.are_slow is False
        before = len(server.commands)
        assert times(remote)[0] == true_times(root)
        assert server.verbs()[before:].count("MDTM") == COUNT


def test_next_mount_remembers_that_server_is_slow_with_times(root: Path) -> None:
    with scripted.start(root, SLOW) as server, connected(server) as remote:
        times(remote)
        assert remote.profile.learned()["slow_times"] is True
        with connected(server, remote.profile) as again:
            assert times(again)[1] < 2


def test_single_pause_does_not_mark_server_as_slow() -> None:
    profile = Profile()
    profile.times.saw_pace(0.15, 50)
    assert profile.times.are_slow is False
    profile.times.saw_pace(1.0, 100)
    assert profile.times.are_slow is True
    profile.times.saw_pace(0.1, 100)
    assert profile.times.are_slow is False
