"""The file system's meaning: names, handles, flags, and open files laid over the server's tree."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.config import Cache, Write
from ftpfs.core import intents
from ftpfs.core.blocks import BLOCK_SIZE
from ftpfs.core.filesystem import FAR_LINK, FEW, RENAME_EXCHANGE, RENAME_NOREPLACE, Filesystem
from ftpfs.core.journal import Record
from ftpfs.core.writer import Spool
from ftpfs.ftp.listing import Entry, Kind
from tests.support.memory_remote import Gate, MemoryRemote
from tests.support.waiting import until


@dataclass
class Bench:
    remote: MemoryRemote
    fs: Filesystem
    spool: Path

    def read(self, path: str) -> bytes:
        handle = self.fs.open(path, os.O_RDONLY)
        try:
            return self.fs.read(handle, 0, 1 << 20)
        finally:
            self.fs.release(handle)

    def write(self, path: str, content: bytes) -> None:
        handle = self.fs.create(path, 0o644, os.O_WRONLY)
        self.fs.write(handle, 0, content)
        self.fs.flush(handle)
        self.fs.release(handle)

    def new(self, path: str, content: bytes) -> int:
        """A new file that is open and only here so far."""
        handle = self.fs.create(path, 0o644, os.O_RDWR)
        self.fs.write(handle, 0, content)
        return handle

    def names(self, path: str) -> set[str]:
        return {entry.name for entry in self.fs.children(path)}

    def linger(self) -> None:
        linger(self.fs)

    def exists(self, path: str) -> bool:
        try:
            self.fs.attributes(path)
        except errors.NotFound:
            return False
        return True


def linger(fs: Filesystem) -> None:
    """From now on what is closed is sent when somebody waits for it, and not before."""
    fs._uploads._linger = fs._uploads._short_linger = 1000.0


def made(
    folder: Path, *, list_ttl: float = 1e6, read_only: bool = False, write: Write | None = None
) -> Bench:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    remote.outside_write("/a", b"aaaa")
    remote.outside_write("/b", b"bbbb")
    spool = folder / "spool"
    cache = Cache(list_ttl=list_ttl, open_ttl=0)
    return Bench(
        remote, Filesystem(remote, Spool(spool), cache, read_only=read_only, write=write), spool
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = made(tmp_path)
    yield bench
    bench.fs.close()
    assert not [path for path in bench.remote.files() if "/.ftpfs-" in path]


# Opening.


def test_what_was_uploaded_is_read_again_without_a_download_and_counts_as_none(
    bench: Bench,
) -> None:
    bench.write("/new", b"x" * 300_000)
    bench.fs.sync()
    assert bench.read("/new") == b"x" * 300_000
    assert bench.remote.calls["open_read"] == 0
    assert bench.fs.cache_status().downloaded == 0


def test_who_looks_around_on_a_long_link_finds_a_few_sessions_logged_in(bench: Bench) -> None:
    bench.fs.children("/d")
    assert bench.remote.warmed == FEW


def test_while_files_are_made_as_many_sessions_are_logged_in_as_will_send_them(
    bench: Bench,
) -> None:
    """They linger for 100 ms before they are sent, which is five round trips of 20."""
    bench.write("/d/first", b"x")  # that one is waited for
    assert bench.remote.warmed == FEW
    for n in range(3):
        bench.write(f"/d/{n}", b"x")
    assert FEW < bench.remote.warmed < Write().uploads
    for n in range(30):
        bench.write(f"/d/more{n}", b"x")
    assert bench.remote.warmed == Write().uploads


def test_where_a_login_takes_very_long_there_are_twice_as_many(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryRemote, "round_trip", lambda _: FAR_LINK)
    bench.fs.children("/d")
    assert bench.remote.warmed == 2 * FEW


@pytest.mark.parametrize("round_trip", [0.0005, 0.002])
def test_on_a_short_link_no_session_is_logged_in_ahead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, round_trip: float
) -> None:
    monkeypatch.setattr(MemoryRemote, "round_trip", lambda _: round_trip)
    bench.fs.children("/d")
    bench.write("/d/f", b"x")
    assert bench.remote.warmed == 0


def test_a_missing_file_a_directory_and_what_is_no_file_cannot_be_opened(bench: Bench) -> None:
    with pytest.raises(errors.NotFound):
        bench.fs.open("/missing", os.O_RDONLY)
    with pytest.raises(errors.IsADirectory):
        bench.fs.open("/d", os.O_RDONLY)
    for kind, error in ((Kind.LINK, errors.LinkLoop), (Kind.OTHER, errors.NotSupported)):
        bench.fs._tree.put("/odd", Entry("odd", kind))
        with pytest.raises(error):
            bench.fs.open("/odd", os.O_RDONLY)


def test_truncating_on_open_empties_the_file(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    assert bench.fs.attributes("/a").size == 0
    bench.fs.flush(handle)
    assert bench.remote.content("/a") == b""
    bench.fs.release(handle)


def test_an_appender_writes_at_the_end_whatever_offset_the_kernel_believes_in(
    bench: Bench,
) -> None:
    bench.fs.attributes("/a")
    bench.remote.outside_write("/a", b"grown meanwhile")
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 4, b"!")
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/a") == b"grown meanwhile!"


def test_creating_what_exists_opens_it_or_fails_if_exclusive(bench: Bench) -> None:
    with pytest.raises(errors.Exists):
        bench.fs.create("/a", 0o644, os.O_RDWR | os.O_EXCL)
    handle = bench.fs.create("/a", 0o644, os.O_RDWR)
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.release(handle)


@pytest.mark.parametrize("name", ["/a\nb", "/a\rb", "/a\0b"])
def test_a_name_that_ftp_cannot_carry_is_refused_before_anything_is_sent(
    bench: Bench, name: str
) -> None:
    for attempt in (
        lambda: bench.fs.create(name, 0o644, os.O_RDWR),
        lambda: bench.fs.mkdir(name, 0o755),
        lambda: bench.fs.rename("/a", name),
    ):
        with pytest.raises(errors.InvalidName):
            attempt()
    assert not bench.remote.calls


def test_a_name_too_long_or_of_our_own_kind_is_refused(bench: Bench) -> None:
    with pytest.raises(errors.NameTooLong):
        bench.fs.create("/" + "é" * 128, 0o644, os.O_RDWR)
    with pytest.raises(errors.NotPermitted):
        bench.fs.create("/.ftpfs-x", 0o644, os.O_RDWR)


def test_an_unknown_handle_is_refused(bench: Bench) -> None:
    for attempt in (bench.fs.flush, bench.fs.release, bench.fs.path_of):
        with pytest.raises(errors.BadHandle):
            attempt(99)
    with pytest.raises(errors.BadHandle):
        bench.fs.write(99, 0, b"")


def test_a_file_without_a_size_in_the_listing_is_readable(bench: Bench) -> None:
    bench.remote.tells_size = False
    assert bench.read("/a") == b"aaaa"


def test_a_read_only_mount_changes_nothing(tmp_path: Path) -> None:
    bench = made(tmp_path, read_only=True)
    for attempt in (
        lambda: bench.fs.open("/a", os.O_RDWR),
        lambda: bench.fs.open("/a", os.O_RDONLY | os.O_TRUNC),
        lambda: bench.fs.create("/x", 0o644, os.O_RDWR),
        lambda: bench.fs.mkdir("/x", 0o755),
        lambda: bench.fs.rmdir("/d"),
        lambda: bench.fs.unlink("/a"),
        lambda: bench.fs.rename("/a", "/x"),
        lambda: bench.fs.truncate("/a", 0),
        lambda: bench.fs.chmod("/a", 0o600),
        lambda: bench.fs.set_mtime("/a", 1),
    ):
        with pytest.raises(errors.ReadOnly):
            attempt()
    assert bench.read("/a") == b"aaaa"
    bench.fs.close()


# Seeing.


def test_a_new_file_shows_in_its_directory_before_the_server_has_it(bench: Bench) -> None:
    handle = bench.new("/d/new", b"12345")
    assert bench.names("/d") == {"new"}
    assert bench.fs.attributes("/d/new").size == 5
    assert "/d/new" not in bench.remote.files()
    bench.fs.release(handle)
    assert bench.names("/d") == {"new"}
    bench.fs.sync()
    assert bench.remote.content("/d/new") == b"12345"


def test_handles_of_one_file_see_each_others_writes(bench: Bench) -> None:
    writer = bench.fs.open("/a", os.O_WRONLY)
    reader = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.write(writer, 2, b"XX")
    assert bench.fs.read(reader, 0, 10) == b"aaXX"
    bench.fs.release(writer)
    bench.fs.release(reader)
    bench.fs.sync()
    assert bench.remote.calls["store"] == 1


def test_what_others_wrote_is_seen_at_every_open(bench: Bench) -> None:
    first = bench.fs.open("/a", os.O_RDONLY)
    assert bench.fs.read(first, 0, 10) == b"aaaa"
    bench.remote.outside_write("/a", b"longer by others")
    assert bench.read("/a") == b"longer by others"
    assert bench.fs.read(first, 0, 100) == b"longer by others", "as with any shared file"
    bench.fs.release(first)


def test_what_others_wrote_is_seen_at_an_open_where_no_more_than_the_name_was_asked_for(
    bench: Bench,
) -> None:
    bench.remote.tells_singles = True
    bench.remote.outside_write("/d/f", b"old")
    assert bench.fs.attributes("/d/f").size == 3
    bench.remote.now += 10
    bench.remote.outside_write("/d/f", b"new and longer")
    handle = bench.fs.open("/d/f", os.O_RDONLY)
    assert bench.fs.handle_attributes(handle).size == 14
    assert bench.fs.read(handle, 0, 100) == b"new and longer"
    bench.fs.release(handle)
    assert bench.fs.attributes("/d/f").size == 14
    assert bench.remote.calls["list"] == 0


def test_an_open_file_that_is_only_read_shows_what_others_append(tmp_path: Path) -> None:
    """tail -f: a handle, and its size asked for again and again."""
    bench = made(tmp_path, list_ttl=0)
    handle = bench.fs.open("/a", os.O_RDONLY)
    bench.remote.outside_write("/a", b"aaaa and more")
    assert bench.fs.handle_attributes(handle).size == 13
    assert bench.fs.read(handle, 4, 100) == b" and more"
    bench.remote.fail("list", errors.ConnectionLost("gone"))
    assert bench.fs.handle_attributes(handle).size == 13, "it is open, network or not"
    bench.fs.release(handle)
    bench.fs.close()


def test_a_file_found_changed_while_it_is_read_fails_and_opens_anew_as_it_is(
    tmp_path: Path,
) -> None:
    remote = MemoryRemote()
    remote.outside_write("/a", b"old " * 200_000)
    cache = Cache(list_ttl=1e6, open_ttl=1e6)
    fs = Filesystem(remote, Spool(tmp_path / "spool"), cache)
    handle = fs.open("/a", os.O_RDONLY)
    assert fs.read(handle, 400_000, 4) == b"old "
    remote.outside_write("/a", b"new " * 300_000)
    remote.fail("open_read", errors.Changed("/a: was changed"))
    for offset in (600_000, 400_000):
        with pytest.raises(errors.Changed):
            fs.read(handle, offset, 4)
    again = fs.open("/a", os.O_RDONLY)
    assert fs.read(again, 1_100_000, 4) == b"new "
    fs.release(handle)
    fs.release(again)
    fs.close()


def test_the_same_size_in_the_same_second_is_not_the_same_content(bench: Bench) -> None:
    for content in (b"one1", b"two2"):
        handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(handle, 0, content)
        bench.fs.set_mtime("/a", 1000)
        bench.fs.release(handle)
        assert bench.read("/a") == content


def test_opening_while_the_name_changes_hands_looks_again(bench: Bench) -> None:
    """An entry looked at before a change from here is not what is opened after it."""
    gate = bench.remote.hold("look_again", answered=True)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(bench.fs.open, "/a", os.O_RDONLY)
        assert gate.reached.wait(5)
        bench.remote.outside_write("/d/long", b"a longer content")
        bench.fs.rename("/d/long", "/a")
        gate.open()
        handle = opening.result(5)
    assert bench.fs.read(handle, 0, 100) == b"a longer content"
    bench.fs.release(handle)


# Deleting.


def test_an_open_file_outlives_its_name(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.unlink("/a")
    assert not bench.exists("/a")
    assert "a" not in bench.names("/")
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.write(handle, 1, b"X")
    assert bench.fs.read(handle, 0, 10) == b"aXaa"
    bench.write("/a", b"a new one")
    bench.fs.release(handle)
    assert bench.remote.files() == {"/a": b"a new one", "/b": b"bbbb"}


def test_a_new_file_deleted_before_its_upload_never_reaches_the_server(bench: Bench) -> None:
    handle = bench.new("/new", b"secret")
    bench.fs.unlink("/new")
    bench.fs.flush(handle)
    bench.fs.release(handle)
    assert bench.remote.calls["store"] == 0


def test_what_a_failed_upload_left_is_deleted_with_the_name(bench: Bench) -> None:
    handle = bench.new("/new", b"x")
    bench.remote.fail("store", errors.ConnectionLost("answer lost"), too_late=True)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.flush(handle)
    bench.fs.unlink("/new")
    bench.fs.release(handle)
    assert "/new" not in bench.remote.files()


def test_deleting_during_an_upload_leaves_nothing(bench: Bench) -> None:
    handle = bench.new("/new", b"x")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(2) as pool:
        flushing = pool.submit(bench.fs.flush, handle)
        assert gate.reached.wait(5)
        deleting = pool.submit(bench.fs.unlink, "/new")
        time.sleep(0.02)
        gate.open()
        flushing.result(5)
        deleting.result(5)
    bench.fs.release(handle)
    assert not bench.exists("/new")
    assert "/new" not in bench.remote.files()


def test_libfuses_hidden_name_stands_for_a_deleted_file_while_it_is_open(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.hide("/a", "/.fuse_hidden1")
    assert not bench.exists("/a")
    assert bench.fs.attributes("/.fuse_hidden1").size == 4
    assert ".fuse_hidden1" not in bench.names("/")
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.unlink("/.fuse_hidden1")
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.release(handle)


def test_hiding_what_is_not_open_any_more_deletes_it(bench: Bench) -> None:
    bench.fs.hide("/a", "/.fuse_hidden1")
    assert not bench.exists("/a")
    assert not bench.exists("/.fuse_hidden1")


def test_a_directory_with_files_that_are_open_here_is_not_empty(bench: Bench) -> None:
    bench.remote.outside_write("/d/x", b"x")
    new = bench.new("/d/new", b"")
    with pytest.raises(errors.NotEmpty):
        bench.fs.rmdir("/d")
    bench.fs.unlink("/d/new")
    bench.fs.release(new)
    old = bench.fs.open("/d/x", os.O_RDONLY)
    bench.fs.unlink("/d/x")
    with pytest.raises(errors.NotEmpty):
        bench.fs.rmdir("/d")
    bench.fs.release(old)
    bench.fs.rmdir("/d")
    assert not bench.exists("/d")


def test_a_directory_is_not_unlinked_and_a_file_not_rmdired(bench: Bench) -> None:
    with pytest.raises(errors.IsADirectory):
        bench.fs.unlink("/d")
    with pytest.raises(errors.NotADirectory):
        bench.fs.rmdir("/a")


# Renaming.


def test_renaming_over_an_open_file_leaves_it_to_its_handles(bench: Bench) -> None:
    victim = bench.fs.open("/b", os.O_RDONLY)
    bench.fs.rename("/a", "/b")
    assert bench.fs.read(victim, 0, 10) == b"bbbb"
    assert bench.read("/b") == b"aaaa"
    bench.fs.release(victim)
    assert bench.remote.files() == {"/b": b"aaaa"}


@pytest.mark.parametrize("victim_is_written", [False, True])
def test_renaming_an_open_written_file_over_an_open_one(
    bench: Bench, victim_is_written: bool
) -> None:
    moving = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(moving, 0, b"MOVED")
    victim = bench.fs.open("/b", os.O_RDWR)
    if victim_is_written:
        bench.fs.write(victim, 0, b"B")
    seen = bench.fs.read(victim, 0, 10)
    bench.fs.rename("/a", "/b")
    assert bench.fs.read(victim, 0, 10) == seen
    assert bench.fs.attributes("/b").size == 5
    bench.fs.release(victim)
    bench.fs.release(moving)
    bench.fs.sync()
    assert bench.remote.files() == {"/b": b"MOVED"}


def test_renaming_a_new_open_file_over_another_replaces_it_for_good(bench: Bench) -> None:
    handle = bench.new("/new", b"newest")
    bench.fs.rename("/new", "/b")
    assert bench.read("/b") == b"newest"
    bench.fs.unlink("/b")
    bench.fs.release(handle)
    assert bench.remote.files() == {"/a": b"aaaa"}, "neither of them comes back"


def test_a_rename_that_fails_gives_the_open_victim_its_name_back(bench: Bench) -> None:
    victim = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.PermissionDenied("no"), after=1)
    with pytest.raises(errors.PermissionDenied):
        bench.fs.rename("/a", "/b")
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}
    assert bench.read("/b") == b"bbbb"
    bench.fs.release(victim)


def renames_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most servers do, asked or not."""
    rename = bench.remote.rename

    def overwriting(old: str, new: str, *, replace: bool) -> None:
        rename(old, new, replace=True)

    monkeypatch.setattr(bench.remote, "rename", overwriting)


@pytest.mark.usefixtures("at_once")
def test_a_rename_that_was_done_though_it_failed_is_not_overwritten_by_the_victim(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    reader = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.DeadlineExceeded("no answer"), after=1, too_late=True)
    with pytest.raises(errors.DeadlineExceeded):
        bench.fs.rename("/a", "/b")
    assert bench.remote.content("/b") == b"aaaa"
    bench.fs.release(reader)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.close()
    assert bench.remote.files() == {"/b": b"aaaa"}


def test_a_file_that_is_written_while_it_moves_to_an_unknown_folder_moves(bench: Bench) -> None:
    handle = bench.new("/log", b"x" * 10)
    gate = bench.remote.stall_uploads = Gate()
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(bench.fs.rename, "/log", "/d/log")
        assert gate.reached.wait(5)
        bench.fs.write(handle, 0, b"y")
        gate.open()
        moved.result(20)
    bench.fs.release(handle)
    bench.fs.sync("/", 20)
    assert bench.remote.content("/d/log") == b"y" + b"x" * 9


def test_a_full_disk_does_not_keep_files_from_being_renamed_and_deleted(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    bench.write("/new", b"new")
    reader = bench.fs.open("/b", os.O_RDONLY)
    journal = bench.fs._spool.journal._connection
    journal.execute("pragma query_only = 1")  # what a full disk does to it
    bench.fs.rename("/new", "/b")
    bench.remote.fail("remove", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.unlink("/a")
    append_only_here = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.write(append_only_here, 0, b"A")
    bench.fs.unlink("/a")
    bench.fs.release(append_only_here)
    bench.fs.release(reader)
    journal.execute("pragma query_only = 0")
    bench.fs.sync("/", 20)
    assert bench.remote.files() == {"/b": b"new"}


@pytest.mark.parametrize("deed", ["rename", "unlink"])
def test_a_file_is_read_while_its_name_changes(bench: Bench, deed: str) -> None:
    content = os.urandom(40 * BLOCK_SIZE)
    bench.remote.outside_write("/d/big", content)
    handle = bench.fs.open("/d/big", os.O_RDONLY)
    gate = bench.remote.hold("rename", answered=True)
    arguments = ["/d/big"] if deed == "unlink" else ["/d/big", "/d/bigger"]
    with ThreadPoolExecutor(2) as pool:
        changed = pool.submit(getattr(bench.fs, deed), *arguments)
        assert gate.reached.wait(5)
        reads = bench.remote.calls["open_read"]
        read = pool.submit(bench.fs.read, handle, 20 * BLOCK_SIZE, 4096)
        while bench.remote.calls["open_read"] == reads:
            time.sleep(0.001)
        gate.open()
        assert read.result(20) == content[20 * BLOCK_SIZE : 20 * BLOCK_SIZE + 4096]
        changed.result(20)
    bench.fs.release(handle)


def test_a_directory_takes_its_open_files_along(bench: Bench) -> None:
    bench.remote.outside_write("/d/x", b"old")
    written = bench.fs.open("/d/x", os.O_RDWR)
    bench.fs.write(written, 0, b"OLD")
    new = bench.new("/d/new", b"new")
    bench.fs.rename("/d", "/moved")
    assert bench.fs.path_of(new) == "/moved/new"
    assert bench.names("/moved") == {"x", "new"}
    bench.fs.release(written)
    bench.fs.release(new)
    bench.fs.sync()
    assert bench.remote.content("/moved/x") == b"OLD"
    assert bench.remote.content("/moved/new") == b"new"


@pytest.mark.parametrize("hidden", [False, True])
def test_a_directory_takes_along_what_was_deleted_in_it_while_open(
    bench: Bench, hidden: bool
) -> None:
    bench.remote.outside_write("/d/x", b"still read")
    handle = bench.fs.open("/d/x", os.O_RDONLY)
    if hidden:
        bench.fs.hide("/d/x", "/d/.fuse_hidden1")
    else:
        bench.fs.unlink("/d/x")
    bench.fs.rename("/d", "/moved")
    assert bench.fs.read(handle, 0, 100) == b"still read"
    bench.fs.release(handle)
    bench.fs.rmdir("/moved")


def test_a_directory_waits_for_an_upload_into_it_before_it_moves(bench: Bench) -> None:
    handle = bench.new("/d/new", b"new")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(2) as pool:
        flushing = pool.submit(bench.fs.flush, handle)
        assert gate.reached.wait(5)
        renaming = pool.submit(bench.fs.rename, "/d", "/moved")
        time.sleep(0.02)
        assert not renaming.done()
        gate.open()
        flushing.result(5)
        renaming.result(5)
    bench.fs.release(handle)
    assert bench.remote.files()["/moved/new"] == b"new"


def test_renames_that_are_refused(bench: Bench) -> None:
    bench.remote.outside_write("/d/x", b"")
    bench.remote.outside_mkdir("/e")
    for old, new, flags, error in (
        ("/a", "/b", RENAME_NOREPLACE, errors.Exists),
        ("/a", "/b", RENAME_EXCHANGE, errors.InvalidArgument),
        ("/a", "/d", 0, errors.IsADirectory),
        ("/d", "/a", 0, errors.NotADirectory),
        ("/e", "/d", 0, errors.NotEmpty),
        ("/missing", "/x", 0, errors.NotFound),
    ):
        with pytest.raises(error):
            bench.fs.rename(old, new, flags)
    bench.fs.rename("/a", "/new", RENAME_NOREPLACE)
    bench.fs.rename("/b", "/b")
    assert bench.remote.files() == {"/new": b"aaaa", "/b": b"bbbb", "/d/x": b""}


@pytest.mark.parametrize("method", ["remove", "rename", "mkdir", "rmdir"])
def test_a_change_whose_answer_was_lost_is_looked_for(bench: Bench, method: str) -> None:
    """Nobody knows whether it was done: the cache must not say that it was not."""
    bench.names("/")
    bench.remote.fail(method, errors.DeadlineExceeded("answer lost"), too_late=True)
    change: Callable[[], object] = {
        "remove": lambda: bench.fs.unlink("/a"),
        "rename": lambda: bench.fs.rename("/a", "/new"),
        "mkdir": lambda: bench.fs.mkdir("/new", 0o755),
        "rmdir": lambda: bench.fs.rmdir("/d"),
    }[method]
    with pytest.raises(errors.DeadlineExceeded):
        change()
    there = {p.strip("/") for p in (*bench.remote.files(), *bench.remote.directories())}
    assert bench.names("/") == there


# Attributes.


def test_attributes_change_here_when_the_server_agreed_and_not_before(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_RDONLY)
    before = bench.fs.attributes("/a")
    bench.remote.fail("chmod", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.chmod("/a", 0o600)
    bench.remote.fail("set_mtime", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.set_mtime("/a", 12345)
    assert bench.fs.attributes("/a") == before
    bench.fs.chmod("/a", 0o600)
    bench.fs.set_mtime("/a", 12345)
    while_open = bench.fs.attributes("/a")
    bench.fs.release(handle)
    for seen in (while_open, bench.fs.attributes("/a")):
        assert (seen.mode, seen.mtime) == (0o600, 12345)
    assert (bench.remote.node("/a").mode, bench.remote.node("/a").mtime) == (0o600, 12345)


def test_the_time_of_a_file_being_written_costs_no_command_of_its_own(bench: Bench) -> None:
    """cp -p: write, set the time, close."""
    handle = bench.new("/new", b"x")
    bench.fs.set_mtime("/new", 12345)
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.node("/new").mtime == 12345
    assert bench.fs.attributes("/new").mtime == 12345
    assert bench.remote.calls["set_mtime"] == 0


def test_a_new_directory_gets_an_odd_mode_where_the_server_can(bench: Bench) -> None:
    bench.remote.fixed.add("/p")
    bench.fs.mkdir("/p", 0o700)
    bench.fs.mkdir("/q", 0o700)
    bench.fs.sync()
    assert bench.remote.node("/q").mode == 0o700
    assert bench.names("/p") == set()


# The end.


def test_closing_uploads_what_is_dirty_and_deletes_what_was_hidden(tmp_path: Path) -> None:
    bench = made(tmp_path)
    bench.new("/new", b"saved")
    bench.fs.open("/a", os.O_RDONLY)
    bench.fs.unlink("/a")
    bench.fs.close()
    assert bench.remote.files() == {"/b": b"bbbb", "/new": b"saved"}
    assert not bench.spool.exists()


def test_a_late_call_after_closing_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    bench = made(tmp_path)
    handle = bench.new("/new", b"saved")
    bench.fs.close()
    for attempt in (bench.fs.flush, bench.fs.release):
        with pytest.raises(errors.BadHandle):
            attempt(handle)


def until_failed(bench: Bench, path: str) -> None:
    until(lambda: bench.fs.state(path) == "failed")


def test_what_the_server_refuses_is_told_and_stays_in_the_spool_until_it_is_dropped(
    bench: Bench,
) -> None:
    handle = bench.new("/new", b"precious")
    bench.remote.fail("store", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.flush(handle)
    bench.fs.release(handle)
    until_failed(bench, "/new")
    assert bench.read("/new") == b"precious"
    (pending,) = bench.fs.upload_status().pending
    assert (pending.path, pending.state, pending.error) == ("/new", "failed", "no")
    bench.fs.unlink("/new")
    assert not bench.exists("/new")
    assert bench.fs.upload_status().files == 0
    assert not list(bench.spool.glob("*.spool"))


def test_the_last_two_handles_going_at_once_still_save_the_file(bench: Bench) -> None:
    handles = [bench.new("/new", b"x"), bench.fs.open("/new", os.O_RDWR)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(bench.fs.release, handles))
    bench.fs.sync()
    assert bench.remote.content("/new") == b"x"


def test_a_file_opened_while_it_is_uploaded_after_its_last_close_is_the_same_file(
    bench: Bench,
) -> None:
    first = bench.new("/new", b"x")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        releasing = pool.submit(bench.fs.release, first)
        assert gate.reached.wait(5)
        second = bench.fs.open("/new", os.O_RDWR)
        bench.fs.write(second, 1, b"y")
        gate.open()
        releasing.result(5)
    assert bench.fs.read(second, 0, 10) == b"xy"
    bench.fs.release(second)
    bench.fs.sync()
    assert bench.remote.content("/new") == b"xy"


# Uploads in the background.


LONG = bytes(3 << 20)  # the server takes it before it has all of it


def settled(bench: Bench) -> None:
    bench.fs.sync("/", 20)


def open_directory(bench: Bench, path: str = "/") -> None:
    """Have the mount know that files may be made there."""
    bench.fs.mkdir(f"{path.rstrip('/')}/made", 0o755)


def test_the_first_write_into_a_directory_waits_and_the_next_ones_do_not(bench: Bench) -> None:
    bench.write("/d/one", b"1")
    assert bench.remote.content("/d/one") == b"1"
    gate = bench.remote.hold("store")
    bench.write("/d/two", b"2")
    assert "/d/two" not in bench.remote.files()
    gate.open()
    settled(bench)
    assert bench.remote.content("/d/two") == b"2"


def test_the_first_close_in_a_directory_returns_when_the_server_takes_the_file(
    bench: Bench,
) -> None:
    accepting, ending = bench.remote.hold("accept"), bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(bench.write, "/d/one", LONG)
        assert accepting.reached.wait(5)
        assert not wait([writing], 0.2).done
        accepting.open()
        writing.result(5)
    assert "/d/one" not in bench.remote.files()
    bench.write("/d/two", b"2")  # what the server takes one of, it takes more of
    ending.open()
    settled(bench)
    assert bench.remote.content("/d/one") == LONG


def test_a_first_file_that_the_server_refuses_before_it_takes_it_is_told_at_its_close(
    bench: Bench,
) -> None:
    for number in range(9):  # also when it is refused before the close, and tried again for that
        bench.remote.fail("accept", errors.PermissionDenied("no"), after=number)
    with pytest.raises(errors.PermissionDenied):
        bench.write("/d/one", LONG)
    bench.fs.unlink("/d/one")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(bench.write, "/d/two", b"2")
        assert gate.reached.wait(5)
        assert not wait([writing], 0.2).done
        gate.open()
        writing.result(5)


def test_a_first_file_that_the_server_refuses_after_it_took_it_is_told_at_the_next_close(
    bench: Bench,
) -> None:
    handle = bench.new("/d/one", LONG)
    gate = bench.remote.hold("store")
    for number in range(2):  # who closes it while it is sent has it tried again
        bench.remote.fail("store", errors.QuotaExceeded("full"), after=number)
    bench.fs.flush(handle)
    gate.open()
    until_failed(bench, "/d/one")
    with pytest.raises(errors.QuotaExceeded):
        bench.fs.flush(handle)
    bench.fs.release(handle)


def test_fsync_waits_for_the_server_to_have_what_it_takes(bench: Bench) -> None:
    handle = bench.new("/d/one", LONG)
    gate = bench.remote.hold("store")
    bench.fs.flush(handle)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(bench.fs.fsync, handle)
        assert not wait([saving], 0.2).done
        gate.open()
        saving.result(5)
    assert bench.remote.content("/d/one") == LONG
    bench.fs.release(handle)


def test_a_synchronous_mount_waits_at_every_close(tmp_path: Path) -> None:
    bench = made(tmp_path, write=Write(sync=True))
    for name, content in (("/one", b"x"), ("/two", b"x"), ("/d/long", LONG)):
        bench.write(name, content)
        assert bench.remote.content(name) == content
    bench.fs.close()


def test_what_is_written_closed_and_renamed_is_uploaded_once_under_its_last_name(
    bench: Bench,
) -> None:
    open_directory(bench)
    bench.write("/a.tmp", b"the new content")
    bench.fs.chmod("/a.tmp", 0o600)
    bench.fs.set_mtime("/a.tmp", 12345)
    bench.fs.rename("/a.tmp", "/a")
    assert bench.read("/a") == b"the new content"
    assert not bench.exists("/a.tmp")
    settled(bench)
    assert bench.remote.files() == {"/a": b"the new content", "/b": b"bbbb"}
    assert (bench.remote.node("/a").mode, bench.remote.node("/a").mtime) == (0o600, 12345)
    for method in ("rename", "chmod", "set_mtime"):
        assert not bench.remote.calls[method]
    assert bench.remote.calls["store"] == 1


def test_what_is_deleted_before_its_turn_is_never_sent(bench: Bench) -> None:
    open_directory(bench)
    bench.write("/secret", b"x")
    bench.fs.unlink("/secret")
    settled(bench)
    assert bench.remote.calls["store"] == 0
    assert not bench.spool.exists() or not list(bench.spool.glob("*.spool"))


def test_what_was_just_written_is_read_back_without_asking_the_server(bench: Bench) -> None:
    bench.write("/a", b"written here")
    settled(bench)
    assert bench.read("/a") == b"written here"
    assert bench.remote.calls["open_read"] == 0


def test_a_change_by_others_under_an_unsent_file_keeps_both(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"mine")
    bench.remote.outside_write("/a", b"theirs, longer")
    bench.fs.release(handle)
    settled(bench)
    files = bench.remote.files()
    assert files["/a"] == b"theirs, longer"
    (copy,) = [path for path in files if path.startswith("/a (conflict copy ")]
    assert files[copy] == b"mine"
    assert "changed on the server and here" in caplog.text
    assert bench.read("/a") == b"theirs, longer"
    assert bench.read(copy) == b"mine"


def changed_on_both_sides(bench: Bench) -> tuple[int, bytes]:
    """A file of several blocks, written to here in one place, and replaced on the server; a handle
    on it, and what others made of it."""
    open_directory(bench, "/d")
    bench.remote.outside_write("/d/big", b"a" * (3 * BLOCK_SIZE))
    handle = bench.fs.open("/d/big", os.O_RDWR)
    bench.fs.write(handle, BLOCK_SIZE, b"mine")
    theirs = b"b" * (3 * BLOCK_SIZE)
    bench.remote.outside_write("/d/big", theirs, mtime=bench.remote.now + 5)
    return handle, theirs


def kept_both(bench: Bench, theirs: bytes) -> bool:
    files = bench.remote.files()
    copies = [content for path, content in files.items() if "conflict" in path]
    mine = theirs[:BLOCK_SIZE] + b"mine" + theirs[BLOCK_SIZE + 4 :]
    return files["/d/big"] == theirs and copies == [mine]


def test_a_conflict_whose_settling_was_interrupted_still_keeps_both(bench: Bench) -> None:
    handle, theirs = changed_on_both_sides(bench)
    for call in range(8):
        bench.remote.fail("open_read", errors.ConnectionLost("cut"), after=call)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.remote.calm()
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert kept_both(bench, theirs)


def test_a_conflict_that_was_being_settled_when_the_mount_was_killed_keeps_both(
    bench: Bench, tmp_path: Path
) -> None:
    handle, theirs = changed_on_both_sides(bench)
    gate = bench.remote.hold("open_read")
    bench.fs.flush(handle)
    assert gate.reached.wait(5)
    # Its row is written once more in the meantime.
    bench.fs.set_mtime("/d/big", 4242)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.close()
    assert kept_both(bench, theirs)
    gate.open()
    bench.fs.release(handle)


def test_a_file_that_appeared_under_a_new_files_name_is_kept(bench: Bench) -> None:
    open_directory(bench)
    handle = bench.new("/new.txt", b"mine")
    bench.remote.outside_write("/new.txt", b"theirs")
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.content("/new.txt") == b"theirs"
    (copy,) = [path for path in bench.remote.files() if "conflict" in path]
    assert copy.endswith(").txt")


def test_conflicts_of_one_file_in_one_second_keep_all_contents(bench: Bench) -> None:
    open_directory(bench)
    for number in range(3):
        handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(handle, 0, b"mine %d" % number)
        bench.remote.outside_write("/a", b"theirs", mtime=bench.remote.now + 5 + number)
        bench.fs.release(handle)
        bench.fs.sync("/", 20)
        bench.fs.forget("/")
    assert {b"mine 0", b"mine 1", b"mine 2", b"theirs"} <= set(bench.remote.files().values())


def test_a_directory_that_others_removed_is_made_again(bench: Bench) -> None:
    bench.write("/d/one", b"1")
    bench.fs.unlink("/d/one")
    bench.remote.outside_remove("/d")
    handle = bench.new("/d/two", b"2")
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.files()["/d/two"] == b"2"


def test_fsync_says_what_an_earlier_upload_failed_with(bench: Bench) -> None:
    bench.write("/one", b"1")  # the directory takes files
    bench.remote.fail("store", errors.QuotaExceeded("full"))
    handle = bench.new("/two", b"2")
    bench.fs.flush(handle)
    until_failed(bench, "/two")
    for _ in range(2):
        with pytest.raises(errors.QuotaExceeded):
            bench.fs.fsync(handle)
    bench.fs.write(handle, 0, b"3")  # touched: it is tried again
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/two") == b"3"


def test_an_empty_file_that_was_refused_does_not_stay(bench: Bench) -> None:
    handle = bench.new("/d/new", b"")
    bench.remote.fail("store", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.flush(handle)
    bench.fs.release(handle)
    assert bench.names("/d") == set()


def test_a_long_sequential_write_is_sent_while_it_goes_on(bench: Bench) -> None:
    open_directory(bench)
    chunk = bytes(range(256)) * 512
    gate = bench.remote.stall_uploads = Gate()
    handle = bench.fs.create("/big", 0o644, os.O_WRONLY)
    for number in range(24):
        bench.fs.write(handle, number * len(chunk), chunk)
    assert gate.reached.wait(10), "nothing was sent before the close"
    gate.open()
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.content("/big") == chunk * 24
    assert bench.remote.calls["store"] == 1


def test_a_header_written_last_sends_the_file_anew(bench: Bench) -> None:
    open_directory(bench)
    chunk = bytes(range(256)) * 4096
    handle = bench.fs.create("/big", 0o644, os.O_WRONLY)
    for number in range(6):
        bench.fs.write(handle, number * len(chunk), chunk)
    bench.fs.write(handle, 0, b"HEADER")
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.content("/big") == b"HEADER" + (chunk * 6)[6:]


def test_a_patch_and_an_append_send_no_more_than_they_are(bench: Bench) -> None:
    content = bytearray(os.urandom(3 << 20))
    bench.remote.outside_write("/d/big", bytes(content))
    handle = bench.fs.open("/d/big", os.O_RDWR)
    bench.fs.write(handle, 1 << 20, b"patched")
    bench.fs.write(handle, len(content), b"appended")
    content[1 << 20 : (1 << 20) + 7] = b"patched"
    bench.fs.fsync(handle)
    bench.fs.write(handle, 5, b"again")
    content[5:10] = b"again"
    assert bench.fs.read(handle, 0, 1 << 30) == bytes(content) + b"appended"
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.content("/d/big") == bytes(content) + b"appended"
    assert bench.remote.calls["store"] == 0
    assert bench.remote.calls["patch"] == 2


def test_a_patch_that_broke_off_is_finished_and_no_conflict(bench: Bench) -> None:
    bench.linger()  # it is tried when somebody waits to be told
    content = bytearray(os.urandom(3 << 20))
    bench.remote.outside_write("/d/big", bytes(content))
    bench.remote.now += 100  # the server's clock goes on: a torn file has another time
    handle = bench.fs.open("/d/big", os.O_RDWR)
    for offset in (1 << 20, 2 << 20):
        bench.fs.write(handle, offset, b"patched")
        content[offset : offset + 7] = b"patched"
    bench.remote.fail("patch piece", errors.ConnectionLost("cut"), after=1)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == bytes(content)
    assert not [path for path in bench.remote.files() if "conflict" in path]


def test_an_append_of_which_only_the_time_arrived_is_no_conflict(bench: Bench) -> None:
    open_directory(bench, "/d")
    content = os.urandom(3 << 20)
    bench.remote.outside_write("/d/big", content)
    handle = bench.fs.open("/d/big", os.O_RDWR)
    bench.fs.write(handle, 3 << 20, b"appended")
    bench.remote.fail("patch piece", errors.ConnectionLost("cut"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.remote.set_mtime("/d/big", bench.fs.attributes("/d/big").mtime or 0)
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == content + b"appended"
    assert not [path for path in bench.remote.files() if "conflict" in path]


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_what_others_put_in_the_place_of_a_file_whose_patch_broke_off_is_kept(
    bench: Bench, tmp_path: Path, killed: bool
) -> None:
    open_directory(bench, "/d")
    bench.linger()
    bench.remote.outside_write("/d/big", os.urandom(3 << 20))
    bench.remote.now += 100
    handle = bench.fs.open("/d/big", os.O_RDWR)
    for offset in (1 << 20, 2 << 20, 3 << 20):
        bench.fs.write(handle, offset, b"patched")
    bench.remote.fail("patch piece", errors.ConnectionLost("cut"), after=2)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    theirs = os.urandom((3 << 20) + 1)  # as large as a patch that was not finished can make it
    bench.remote.now += 100
    bench.remote.outside_write("/d/big", theirs)
    if killed:
        next_one = reborn(bench, tmp_path / "next")
        assert next_one.fs.recover() == 1
        assert next_one.fs.close() == 0
        bench.fs.unlink("/d/big")  # the killed one does nothing more
        bench.remote.outside_write("/d/big", theirs)
    else:
        bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == theirs
    (copy,) = [path for path in bench.remote.files() if "conflict" in path]
    assert bench.remote.content(copy)[3 << 20 :] == b"patched"


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_a_file_that_is_written_anew_after_a_patch_broke_off_is_no_conflict(
    bench: Bench, tmp_path: Path, killed: bool
) -> None:
    open_directory(bench, "/d")
    bench.linger()
    bench.remote.outside_write("/d/big", os.urandom(3 << 20))
    bench.remote.now += 100  # the server's clock goes on: a torn file has another time
    handle = bench.fs.open("/d/big", os.O_RDWR)
    for offset in (1 << 20, 2 << 20, 3 << 20):
        bench.fs.write(handle, offset, b"patched")
    bench.remote.fail("patch piece", errors.ConnectionLost("cut"), after=2)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.fs.truncate_handle(handle, 0)
    bench.fs.write(handle, 0, b"short")
    bench.fs.flush(handle)
    if killed:
        next_one = reborn(bench, tmp_path / "next")
        assert next_one.fs.recover() == 1
        assert next_one.fs.close() == 0
    else:
        bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == b"short"
    assert not [path for path in bench.remote.files() if "conflict" in path]


def test_an_upload_that_ends_in_a_way_nobody_foresaw_is_told_and_nothing_of_it_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk of the spool fails (EIO)."""
    content = bytearray(os.urandom(3 << 20))
    bench.remote.outside_write("/d/big", bytes(content))
    handle = bench.fs.open("/d/big", os.O_RDWR)

    def patched(offset: int) -> None:
        bench.fs.write(handle, offset, b"patched")
        content[offset : offset + 7] = b"patched"

    patched(1 << 20)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", fails_with(errno.EIO))
        with ThreadPoolExecutor(1) as pool, pytest.raises(errors.FtpfsError, match="OSError"):
            pool.submit(bench.fs.fsync, handle).result(20)
    patched(2 << 20)
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == bytes(content)


def fails_with(number: int) -> Callable[..., bytes]:
    def pread(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    return pread


def test_a_file_that_is_written_again_before_its_turn_is_sent_when_that_is_closed(
    bench: Bench,
) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(handle, 0, b"first")
    bench.fs.flush(handle)  # closed, as by a program before
    bench.fs.write(handle, 0, b"half of th")
    time.sleep(0.5)
    assert bench.remote.content("/a") == b"aaaa"
    bench.fs.write(handle, 10, b"e second")
    bench.fs.flush(handle)
    bench.fs.sync("/", 20)
    assert bench.remote.content("/a") == b"half of the second"
    bench.fs.write(handle, 0, b"H")
    bench.fs.fsync(handle)  # who waits is not kept waiting
    assert bench.remote.content("/a") == b"Half of the second"
    bench.fs.release(handle)


def test_a_file_that_is_replaced_before_its_upload_has_begun_is_never_sent_as_a_mixture(
    bench: Bench,
) -> None:
    open_directory(bench)
    seen: list[bytes] = []
    store, ready = bench.remote.store, threading.Event()

    def slow_store(path: str, content: Any, *, base: Entry | None) -> Entry:
        ready.set()
        time.sleep(0.2)  # as connecting and asking take
        entry = store(path, content, base=base)
        seen.append(bench.remote.content(path))
        return entry

    bench.remote.store = slow_store  # type: ignore[method-assign]
    bench.write("/new", b"long" * 1000)
    assert ready.wait(5)
    handle = bench.fs.open("/new", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"short")
    bench.fs.flush(handle)
    bench.fs.release(handle)
    bench.fs.sync("/", 20)
    assert seen == [b"short"]


# After a crash.


def reborn(bench: Bench, folder: Path, **arguments: Any) -> Bench:
    """What a next mount finds when this one is killed now."""
    folder.mkdir()
    copy = folder / "spool"
    with bench.fs._spool.journal._lock:
        shutil.copytree(bench.spool, copy)
    fs = Filesystem(bench.remote, Spool(copy), Cache(open_ttl=0), **arguments)
    return Bench(bench.remote, fs, copy)


def test_what_was_closed_is_uploaded_by_the_next_mount(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench, "/d")
    bench.remote.outside_write("/d/patched", b"0123456789")
    bench.remote.stall_uploads = gate = Gate()
    handle = bench.fs.open("/d/patched", os.O_RDWR)
    bench.fs.write(handle, 3, b"XXX")
    bench.fs.set_mtime("/d/patched", 4242)
    bench.fs.flush(handle)
    bench.write("/d/new", b"new")
    bench.fs.chmod("/d/new", 0o700)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.stall_uploads = None
    assert next_one.fs.recover() == 2
    assert next_one.read("/d/patched") == b"012XXX6789"
    assert next_one.names("/d") == {"made", "patched", "new"}
    assert next_one.fs.close() == 0
    assert bench.remote.content("/d/patched") == b"012XXX6789"
    assert bench.remote.content("/d/new") == b"new"
    assert (bench.remote.node("/d/patched").mtime, bench.remote.node("/d/new").mode) == (
        4242,
        0o700,
    )
    assert not next_one.spool.exists()
    gate.open()
    bench.fs.release(handle)


def test_an_upload_done_before_the_crash_is_no_conflict(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    bench.write("/new", b"content")
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.sync("/", 20)
    assert [path for path in bench.remote.files() if "new" in path] == ["/new"]
    next_one.fs.close()
    gate.open()


def test_a_shorter_file_whose_upload_was_done_before_the_crash_is_read_and_no_conflict(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    bench.fs.truncate("/a", 2)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.sync("/", 20)
    assert next_one.read("/a") == b"aa"
    assert bench.remote.files() == {"/a": b"aa", "/b": b"bbbb"}
    next_one.fs.close()
    gate.open()


def test_what_was_fetched_for_an_upload_is_there_after_the_crash_and_the_file_with_it(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR)
    gate = bench.remote.hold("store")
    bench.fs.write(handle, 1, b"X")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.outside_remove("/a")  # as a server does that was moving it out of the way
    assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0
    assert bench.remote.content("/a") == b"aXaa"
    gate.open()


def test_a_change_by_others_after_the_crash_keeps_both(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store")
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"mine")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.outside_write("/a", b"theirs, later")
    next_one.fs.recover()
    next_one.fs.close()
    files = bench.remote.files()
    assert files["/a"] == b"theirs, later"
    assert [content for path, content in files.items() if "conflict" in path] == [b"mine"]
    gate.open()


@contextlib.contextmanager
def killed_in(
    bench: Bench, method: str, deed: Callable[[], None], folder: Path, *, after: int = 0
) -> Iterator[Bench]:
    """The next mount, when this one is killed in `deed`: the server has carried out its call of
    `method`, the one after `after` others, and nobody has heard of it."""
    gate = bench.remote.hold(method, after=after, answered=True)

    def killed() -> None:
        with contextlib.suppress(errors.FtpfsError):  # the next mount is in its way
            deed()

    thread = threading.Thread(target=killed)
    thread.start()
    assert gate.reached.wait(5)
    next_one = reborn(bench, folder)
    next_one.fs.recover()
    try:
        yield next_one
        assert next_one.fs.close() == 0
        assert not next_one.spool.exists()
    finally:
        gate.open()
        thread.join(20)


def append(bench: Bench, path: str, content: bytes) -> None:
    """Closed, and not sent."""
    handle = bench.fs.open(path, os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, content)
    bench.fs.flush(handle)
    bench.fs.release(handle)


def test_what_waited_under_a_name_that_was_replaced_right_before_the_kill_does_not_come_back(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    with killed_in(
        bench, "rename", lambda: bench.fs.rename("/a", "/b"), tmp_path / "next"
    ) as next_one:
        assert next_one.read("/b") == b"aaaa"
    assert bench.remote.files() == {"/b": b"aaaa"}


def test_what_waited_of_a_file_that_was_deleted_right_before_the_kill_does_not_come_back(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    with killed_in(bench, "remove", lambda: bench.fs.unlink("/b"), tmp_path / "next") as next_one:
        assert next_one.names("/") == {"a", "d", "made"}
    assert bench.remote.files() == {"/a": b"aaaa"}


def rename_in_doubt(bench: Bench, old: str, new: str, *, done: bool) -> None:
    """The answer is lost, and when the names are looked at first, the server is away."""
    bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=done)
    bench.remote.fail("stat", errors.ConnectionLost("away"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.rename(old, new)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory remote carries nothing out later."""
    monkeypatch.setattr(intents, "LATE", 0)


def test_a_rename_whose_answer_was_lost_is_looked_for_and_succeeds_if_it_was_done(
    bench: Bench,
) -> None:
    reader = bench.fs.open("/a", os.O_RDONLY)
    bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=True)
    bench.fs.rename("/a", "/new")
    assert bench.names("/") == {"new", "b", "d"}
    assert bench.fs.path_of(reader) == "/new"
    bench.fs.release(reader)


def test_a_rename_that_a_server_carries_out_after_its_connection_broke_is_seen(
    bench: Bench,
) -> None:
    open_directory(bench)
    bench.remote.fail("rename", errors.ConnectionLost("broke"))
    late = threading.Timer(0.1, bench.remote.rename, ["/a", "/new"], {"replace": False})
    rename = partial(bench.fs.rename, "/a", "/new")
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit(rename)
        while not bench.remote.calls["rename"]:
            time.sleep(0.001)
        late.start()
        renamed.result()
    assert bench.names("/") == {"new", "b", "d", "made"}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_nothing_is_shown_of_a_rename_in_doubt_before_the_server_was_asked(
    bench: Bench, done: bool
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b" and more")
    rename_in_doubt(bench, "/a", "/d/new", done=done)
    looks: list[Callable[[], object]] = [
        partial(bench.fs.attributes, "/a"),
        partial(bench.fs.attributes, "/d/new"),
        partial(bench.fs.open, "/a", os.O_RDONLY),
        partial(bench.fs.children, "/"),
        partial(bench.fs.children, "/d"),
        partial(bench.fs.unlink, "/a"),
        partial(bench.fs.mkdir, "/d/new", 0o755),
        partial(bench.fs.create, "/d/new", 0o644, os.O_WRONLY),
    ]
    for look in looks:
        bench.remote.fail("stat", errors.ConnectionLost("away"))
        with pytest.raises(errors.ConnectionLost):
            look()
    assert bench.fs.attributes("/b").size == 4  # nobody doubts it
    assert bench.exists("/a") is not done
    assert bench.exists("/d/new") is done
    bench.fs.sync()
    assert bench.remote.content("/d/new" if done else "/a") == b"aaaa and more"


@pytest.mark.parametrize("deed", ["rename", "unlink", "replace"])
def test_what_the_server_was_never_asked_for_is_in_no_doubt(bench: Bench, deed: str) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b" and more")
    away = errors.ConnectionRefused("nobody there")
    away.asked = False
    bench.remote.fail("remove" if deed == "unlink" else "rename", away)
    bench.remote.fail("stat", errors.ConnectionRefused("nobody there"))
    attempt = {
        "unlink": partial(bench.fs.unlink, "/a"),
        "rename": partial(bench.fs.rename, "/a", "/new"),
        "replace": partial(bench.fs.rename, "/a", "/b"),
    }[deed]
    with pytest.raises(errors.ConnectionRefused):
        attempt()
    size = bench.fs.attributes("/a").size  # though the server is away
    assert size == len(b"aaaa and more")
    assert bench.fs._spool.journal.intents() == []
    bench.remote.calm()
    bench.fs.sync()
    assert bench.remote.files() == {"/a": b"aaaa and more", "/b": b"bbbb"}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_what_is_sent_after_a_rename_whose_answer_was_lost_goes_where_the_file_is(
    bench: Bench, done: bool
) -> None:
    open_directory(bench)
    bench.linger()
    bench.write("/d/inside", b"all of it")
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, b" and more")
    rename_in_doubt(bench, "/a", "/new", done=done)
    rename_in_doubt(bench, "/d", "/moved", done=done)
    bench.fs.write(handle, 0, b", and later")
    bench.fs.release(handle)
    bench.fs.sync()
    file, folder = ("/new", "/moved") if done else ("/a", "/d")
    assert bench.remote.files() == {
        file: b"aaaa and more, and later",
        f"{folder}/inside": b"all of it",
        "/b": b"bbbb",
    }
    assert bench.read(file) == b"aaaa and more, and later"
    assert bench.names("/") == {file[1:], folder[1:], "b", "made"}
    assert bench.fs._spool.journal.intents() == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_what_waited_under_the_new_name_of_a_rename_in_doubt_goes_if_it_was_replaced(
    bench: Bench, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    rename_in_doubt(bench, "/a", "/b", done=done)
    bench.fs.sync()
    left = {"/b": b"aaaa"} if done else {"/a": b"aaaa", "/b": b"bbbb and more"}
    assert bench.remote.files() == left


@pytest.mark.usefixtures("at_once")
def test_what_was_written_under_the_new_name_of_a_rename_in_doubt_since_is_kept_beside(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/b", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"first")
    rename_in_doubt(bench, "/a", "/b", done=True)
    bench.fs.write(handle, 0, b"then this")
    bench.fs.release(handle)
    bench.fs.sync()
    assert sorted(bench.remote.files().values()) == [b"aaaa", b"then this"]
    assert bench.remote.content("/b") == b"aaaa"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_who_reads_what_a_rename_in_doubt_replaces_reads_on(
    bench: Bench, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    open_directory(bench)
    reader = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.ConnectionLost("lost"), after=1, too_late=done)
    bench.remote.fail("stat", errors.ConnectionLost("away"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.rename("/a", "/b")
    assert bench.exists("/a") is not done
    assert bench.fs.read(reader, 0, 10) == b"bbbb"
    bench.fs.release(reader)
    assert bench.remote.files() == {"/b": b"aaaa"} if done else {"/a": b"aaaa", "/b": b"bbbb"}
    assert bench.fs._spool.journal.intents() == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed"])
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_what_waited_of_a_file_whose_deletion_may_have_been_done_is_sent_if_it_was_not(
    bench: Bench, tmp_path: Path, done: bool, killed: bool
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b" and more")
    bench.remote.fail("remove", errors.ConnectionLost("answer lost"), too_late=done)
    bench.remote.fail("stat", errors.ConnectionLost("away"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.unlink("/a")
    bench.remote.fail("stat", errors.ConnectionLost("away"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.attributes("/a")
    left = {"/b": b"bbbb"} if done else {"/a": b"aaaa and more", "/b": b"bbbb"}
    if killed:
        next_one = reborn(bench, tmp_path / "next")
        next_one.fs.recover()
        assert next_one.fs.close() == 0
        assert bench.remote.files() == left
    assert bench.exists("/a") is not done
    bench.fs.sync()
    assert bench.remote.files() == left
    assert bench.fs._spool.journal.intents() == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_what_may_have_been_hidden_before_its_deletion_has_its_name_at_the_next_look(
    bench: Bench, done: bool
) -> None:
    reader = bench.fs.open("/a", os.O_RDONLY)
    bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=done)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.unlink("/a")
    assert bench.names("/") == {"a", "b", "d"}
    assert bench.fs.read(reader, 0, 10) == b"aaaa"
    bench.fs.release(reader)
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}
    assert bench.fs._spool.journal.intents() == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("away", [True, False], ids=["away", "back"])
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_killed_before_it_is_known_what_became_of_a_rename_the_next_mount_looks(
    bench: Bench, tmp_path: Path, done: bool, away: bool
) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, b" and more")
    rename_in_doubt(bench, "/a", "/new", done=done)
    bench.fs.flush(handle)  # the first that the journal hears of it
    bench.remote.calm()
    next_one = reborn(bench, tmp_path / "next")
    if away:
        bench.remote.fail("stat", errors.ConnectionLost("away"))
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    name = "/new" if done else "/a"
    assert bench.remote.files() == {name: b"aaaa and more", "/b": b"bbbb"}


@pytest.mark.usefixtures("at_once")
def test_a_rename_that_is_tried_again_finds_what_became_of_the_first(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b" and more")
    rename_in_doubt(bench, "/a", "/new", done=True)
    for away in (0, 1):
        bench.remote.fail("stat", errors.ConnectionLost("away"), after=away)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.rename("/a", "/new")
    with pytest.raises(errors.NotFound):
        bench.fs.rename("/a", "/new")
    bench.fs.sync()
    assert bench.remote.files() == {"/new": b"aaaa and more", "/b": b"bbbb"}


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_file_that_was_hidden_for_its_handles_right_before_the_kill_has_its_name_again(
    bench: Bench, tmp_path: Path, replaced: bool
) -> None:
    open_directory(bench)
    bench.linger()
    reader = bench.fs.open("/b", os.O_RDONLY)
    append(bench, "/b", b" and more")
    deed = partial(bench.fs.rename, "/a", "/b") if replaced else partial(bench.fs.unlink, "/b")
    with killed_in(bench, "rename", deed, tmp_path / "next") as next_one:
        assert next_one.read("/b") == b"bbbb and more"
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"bbbb and more"}
    bench.fs.release(reader)


def test_a_file_that_was_hidden_and_then_replaced_goes_when_the_mount_is_killed(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    reader = bench.fs.open("/b", os.O_RDONLY)
    append(bench, "/b", b" and more")
    with killed_in(
        bench, "rename", lambda: bench.fs.rename("/a", "/b"), tmp_path / "next", after=1
    ) as next_one:
        assert next_one.read("/b") == b"aaaa"
        assert bench.remote.files() == {"/b": b"aaaa"}
    bench.fs.release(reader)


@pytest.mark.parametrize("how", ["deleted", "replaced", "replaced by a new one", "moved along"])
def test_what_was_deleted_while_it_was_open_goes_when_the_mount_is_killed(
    bench: Bench, tmp_path: Path, how: str
) -> None:
    open_directory(bench)
    bench.linger()
    bench.remote.outside_write("/d/b", b"bbbb")
    bench.write("/new", b"new")
    reader = bench.fs.open("/d/b", os.O_RDONLY)
    if how == "replaced":
        bench.fs.rename("/a", "/d/b")
    elif how == "replaced by a new one":
        open_directory(bench, "/d")
        bench.fs.rename("/new", "/d/b")
    else:
        bench.fs.unlink("/d/b")
    if how == "moved along":
        bench.fs.rename("/d", "/e")
    assert [path for path in bench.remote.files() if "deleted" in path]
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    assert not [path for path in bench.remote.files() if "deleted" in path]
    assert not next_one.spool.exists()
    bench.fs.release(reader)


def test_what_was_hidden_stays_as_long_as_nobody_can_tell_whether_it_is_replaced(
    bench: Bench, tmp_path: Path
) -> None:
    reader = bench.fs.open("/b", os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        gate = bench.remote.hold("rename", answered=True)
        thread = threading.Thread(target=partial(bench.fs.unlink, "/b"))
        thread.start()
        stack.callback(thread.join)
        stack.callback(gate.open)
        assert gate.reached.wait(5)
        for number in range(2):
            next_one = reborn(bench, tmp_path / f"next{number}")
            if not number:
                bench.remote.fail("stat", errors.ConnectionLost("away for a moment"))
            next_one.fs.recover()
            next_one.fs.close()
            assert b"bbbb" in bench.remote.files().values()
    bench.fs.release(reader)


def test_what_is_closed_while_its_name_changes_right_before_the_kill_has_the_new_name(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/b", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, b" and more")
    gate = bench.remote.hold("rename", answered=True)
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit(bench.fs.rename, "/b", "/c")
        assert gate.reached.wait(5)
        bench.fs.flush(handle)
        next_one = reborn(bench, tmp_path / "next")
        next_one.fs.recover()
        assert next_one.fs.close() == 0
        assert bench.remote.files() == {"/a": b"aaaa", "/c": b"bbbb and more"}
        gate.open()
        renamed.result(20)
    bench.fs.release(handle)


def test_killed_right_after_a_new_file_was_renamed_over_an_old_one_it_is_no_conflict(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    bench.linger()
    bench.write("/new", b"new")
    journal, moments = bench.fs._spool.journal, []
    rename = journal.rename

    def killed_after(old: str, new: str) -> list[str]:
        gone = rename(old, new)
        moments.append(reborn(bench, tmp_path / "next"))
        return gone

    monkeypatch.setattr(journal, "rename", killed_after)
    bench.fs.rename("/new", "/b")
    (next_one,) = moments
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"new"}


def test_what_was_written_after_the_last_close_does_not_come_back_as_a_hole(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store")
    handle = bench.new("/new", b"abc")
    bench.fs.flush(handle)
    assert gate.reached.wait(5)
    bench.fs.write(handle, 3, b"not closed")
    next_one = reborn(bench, tmp_path / "next")
    next_one.linger()
    next_one.fs.recover()
    next_one.fs.truncate("/new", 9)
    next_one.fs.close()
    assert bench.remote.content("/new") == b"abc" + bytes(6)
    gate.open()
    bench.fs.release(handle)


def test_what_was_written_into_a_hole_and_not_closed_is_not_there_after_the_crash(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.new("/new", b"abc")
    bench.fs.truncate_handle(handle, 3 << 20)
    bench.fs.flush(handle)
    for offset in (50, 2 << 20):
        bench.fs.write(handle, offset, b"not closed")
    next_one = reborn(bench, tmp_path / "next")
    assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0
    assert bench.remote.content("/new") == b"abc".ljust(3 << 20, b"\0")
    bench.fs.release(handle)


def test_what_cannot_be_opened_after_a_crash_stays_for_the_mount_after_the_next(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    bench.linger()
    for name in ("/one", "/two"):
        bench.write(name, name.encode())
    next_one = reborn(bench, tmp_path / "next")
    real, opened = os.open, 0

    def few_files(path: Any, *arguments: Any, **more: Any) -> int:
        nonlocal opened
        opened += str(path).endswith(".spool")
        if opened > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **more)

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", few_files)
        assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0
    last = Filesystem(bench.remote, Spool(next_one.spool), Cache())
    assert last.recover() == 1
    assert last.close() == 0
    assert bench.remote.content("/one") == b"/one"
    assert bench.remote.content("/two") == b"/two"


def test_one_name_that_several_killed_mounts_wrote_keeps_all_contents(tmp_path: Path) -> None:
    bench = made(tmp_path)
    contents = [b"first", b"second", b"third"]
    for number, content in enumerate(contents):
        file = bench.fs._spool.open()
        file.write(0, content)
        present = ((0, len(content)),)
        bench.fs._spool.journal.put(
            Record(file.name, "/f", len(content), present, None, 0, None, 1000 + number, number)
        )
        file.close(delete=False)
    assert bench.fs.recover() == 3
    assert bench.fs.close() == 0
    files = bench.remote.files()
    assert sorted(c for path, c in files.items() if path.startswith("/f")) == contents
    assert files["/f"] == b"first"


@pytest.mark.parametrize("size", [4, 1_000_000])  # more is sent while it is written
def test_two_that_write_as_much_within_one_second_keep_both_contents(
    bench: Bench, size: int
) -> None:
    open_directory(bench)
    bench.linger()
    bench.write("/both", b"m" * size)
    when = bench.fs.attributes("/both").mtime
    bench.remote.outside_write("/both", b"t" * size, mtime=when)
    bench.fs.sync()
    files = bench.remote.files()
    assert files["/both"] == b"t" * size
    assert [data for path, data in files.items() if "conflict" in path] == [b"m" * size]


def test_two_conflicts_within_one_second_have_copies_of_their_own(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    theirs = []
    for number in range(6):
        bench.write("/both", b"mine %d" % number)
        theirs.append(b"n" * (number + 1))
        bench.remote.outside_write("/both", theirs[-1])
        bench.fs.sync()
    files = bench.remote.files()
    copies = sorted(data for path, data in files.items() if "conflict" in path)
    assert copies == [b"mine %d" % number for number in range(6)]
    assert files["/both"] == theirs[-1]
    assert not [path for path in files if path.count("conflict") > 1]


def test_what_is_written_all_the_time_arrives_and_never_as_a_mixture(bench: Bench) -> None:
    open_directory(bench)
    size = 3 << 20
    handle = bench.new("/busy", bytes(size))
    versions = itertools.count(1)

    class Writes:
        """In place of a gate that each piece passes on its way."""

        def pass_through(self) -> None:
            bench.fs.write(handle, 0, bytes([next(versions) % 256]) * size)

    bench.remote.stall_uploads = Writes()  # type: ignore[assignment]
    bench.fs.fsync(handle)
    bench.remote.stall_uploads = None
    assert next(versions) > 6, "it was not overtaken"
    arrived = bench.remote.content("/busy")
    assert len(arrived) == size
    assert len(set(arrived)) == 1
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/busy")[: 1 << 20] == bench.read("/busy")


def test_an_upload_that_waits_while_its_file_is_deleted_leaves_no_spool_file(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    gate = bench.remote.hold("remove")
    with ThreadPoolExecutor(2) as pool:
        deleted = pool.submit(bench.fs.unlink, "/b")
        assert gate.reached.wait(5)
        synced = pool.submit(bench.fs.sync)
        until(lambda: bench.fs.state("/b") == "uploading")
        gate.open()
        deleted.result(20)
        synced.result(20)
    assert not list(bench.spool.rglob("*.spool"))


@pytest.fixture
def hydrating(tmp_path: Path) -> Bench:
    """An upload that fetches 16 MiB at a pace that takes 13 s, to send them with the rest."""
    bench = made(tmp_path)
    bench.remote.patches_nothing = True
    bench.remote.outside_write("/big", bytes(16 << 20))
    open_directory(bench)
    fetching = threading.Event()

    def slowly(_size: int) -> None:
        fetching.set()
        time.sleep(0.1)

    bench.remote.pace = slowly
    handle = bench.fs.open("/big", os.O_WRONLY)
    bench.fs.write(handle, 5 << 20, b"changed")
    bench.fs.release(handle)
    assert fetching.wait(10)
    return bench


def test_an_upload_that_still_fetches_what_it_has_to_send_can_be_left_to_the_next_mount(
    hydrating: Bench, tmp_path: Path
) -> None:
    began = time.monotonic()
    assert hydrating.fs.close(grace=0) == 1
    assert time.monotonic() - began < 4
    hydrating.remote.pace = lambda _size: None
    next_one = reborn(hydrating, tmp_path / "next")
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    content = hydrating.remote.content("/big")
    assert content == bytes(5 << 20) + b"changed" + bytes((11 << 20) - 7)


def test_a_file_is_deleted_while_its_upload_still_fetches_what_it_has_to_send(
    hydrating: Bench,
) -> None:
    began = time.monotonic()
    hydrating.fs.unlink("/big")
    assert time.monotonic() - began < 4
    assert "/big" not in hydrating.remote.files()
    hydrating.fs.close()


def test_changes_of_two_killed_mounts_to_one_file_are_both_kept(
    bench: Bench, tmp_path: Path
) -> None:
    base = b"a" * (2 * BLOCK_SIZE)
    bench.remote.outside_write("/d/big", base)
    spool = tmp_path / "shared"
    with contextlib.ExitStack() as stack:
        for number in range(2):
            fs = Filesystem(bench.remote, Spool(spool), Cache())
            stack.callback(fs.close, 0)
            fs.mkdir(f"/d/{number}", 0o755)  # the folder takes files
            linger(fs)
            handle = fs.open("/d/big", os.O_RDWR)
            fs.write(handle, number * BLOCK_SIZE, b"mine")
            fs.set_mtime("/d/big", 1000 + number)
            fs.flush(handle)
        shutil.copytree(tmp_path, tmp_path.with_suffix(".killed"))
        for _ in range(2):
            left = Spool(tmp_path.with_suffix(".killed") / "shared")
            fs = Filesystem(bench.remote, left, Cache())
            assert fs.recover() == 1
            assert fs.close() == 0
        first, second = (c for path, c in bench.remote.files().items() if "big" in path)
        assert first == b"mine" + base[4:]
        assert second == first[:BLOCK_SIZE] + b"mine" + base[BLOCK_SIZE + 4 :]


def test_what_is_left_when_the_grace_is_over_stays_for_the_next_mount(tmp_path: Path) -> None:
    bench = made(tmp_path)
    bench.write("/one", b"1")
    bench.remote.fail("store", errors.ConnectionRefused("away"))
    bench.remote.fail("store", errors.ConnectionRefused("away"), after=1)
    bench.write("/two", b"2")
    begun = time.monotonic()
    assert bench.fs.close(grace=0.3) == 1
    assert time.monotonic() - begun < 5
    bench.remote.calm()
    fs = Filesystem(bench.remote, Spool(bench.spool), Cache())
    assert fs.recover() == 1
    assert fs.close() == 0
    assert bench.remote.content("/two") == b"2"


def test_a_recovered_file_whose_upload_was_done_is_replaced_without_a_conflict(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"second")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.linger()
    next_one.fs.recover()
    open_directory(next_one, "/d")
    next_one.fs.mkdir("/more", 0o755)
    next_one.write("/temporary", b"the third")
    next_one.fs.rename("/temporary", "/a")
    next_one.fs.sync("/", 20)
    assert bench.remote.files() == {"/a": b"the third", "/b": b"bbbb"}
    next_one.fs.close()
    gate.open()
