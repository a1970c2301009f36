"""Renames and deletions, also of open files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.names.renames import RENAME_EXCHANGE, RENAME_NOREPLACE
from ftpfs.core.reading.blocks import BLOCK_SIZE
from tests.support.filesystem_bench import (
    Bench,
    append,
    open_directory,
    reborn,
    renames_over,
)
from tests.support.memory_remote import Gate
from tests.support.waiting import until


def test_open_file_outlives_its_name(bench: Bench) -> None:
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


def test_file_that_is_closed_during_its_deletion_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, rename = bench.fs.open("/a", os.O_RDONLY), bench.remote.rename

    def slow(old: str, new: str, **words: Any) -> None:
        rename(old, new, **words)
        bench.fs.release(handle)

    monkeypatch.setattr(bench.remote, "rename", slow)
    bench.fs.unlink("/a")
    assert bench.remote.files() == {"/b": b"bbbb"}


def test_deletion_of_an_open_file_that_is_on_its_way_counts_as_dirty_and_sync_waits_for_it(
    bench: Bench,
) -> None:
    """A file that libfuse hides is deleted a moment later: until then other clients see it."""
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.hide("/a", "/.fuse_hidden1")
    assert "/a" in bench.remote.files()
    assert bench.fs.state("/") == "dirty"
    bench.fs.sync("/")
    assert "/a" not in bench.remote.files()
    assert bench.fs.state("/") == "clean"
    bench.fs.release(handle)


def test_new_file_never_reaches_the_server_if_deleted_before_its_upload(bench: Bench) -> None:
    handle = bench.new("/new", b"secret")
    bench.fs.unlink("/new")
    bench.fs.flush(handle)
    bench.fs.release(handle)
    assert bench.remote.calls["store"] == 0


def test_remains_of_a_failed_upload_are_deleted_with_the_file(bench: Bench) -> None:
    handle = bench.new("/new", b"x")
    bench.remote.fail("store", errors.ConnectionLost("answer lost"), too_late=True)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.flush(handle)
    bench.fs.unlink("/new")
    bench.fs.release(handle)
    assert "/new" not in bench.remote.files()


def test_deletion_during_an_upload_leaves_nothing(bench: Bench) -> None:
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


def test_libfuses_hidden_name_means_the_deleted_file_while_it_is_open(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.hide("/a", "/.fuse_hidden1")
    assert not bench.exists("/a")
    assert bench.fs.attributes("/.fuse_hidden1").size == 4
    assert ".fuse_hidden1" not in bench.names("/")
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.unlink("/.fuse_hidden1")
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.release(handle)


def test_file_whose_first_upload_never_arrived_is_hidden_and_replaced_while_it_is_read(
    bench: Bench,
) -> None:
    """The server may have the file. Asked whether it would delete it, it has none."""
    bench.remote.fail("store", errors.ConnectionLost("cut"))
    handle = bench.new("/d/new", b"first")
    with pytest.raises(errors.ConnectionLost):
        bench.fs.flush(handle)
    bench.fs.hide("/d/new", "/d/.fuse_hidden1")
    bench.fs.rename("/a", "/d/new")
    assert bench.fs.read(handle, 0, 10) == b"first"
    bench.fs.release(handle)
    assert bench.read("/d/new") == b"aaaa"
    assert bench.remote.files() == {"/d/new": b"aaaa", "/b": b"bbbb"}


def test_hiding_a_file_deletes_it_if_it_is_not_open_any_more(bench: Bench) -> None:
    bench.fs.hide("/a", "/.fuse_hidden1")
    assert not bench.exists("/a")
    assert not bench.exists("/.fuse_hidden1")


def test_directory_is_not_empty_while_it_has_files_open_here(bench: Bench) -> None:
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


def test_unlink_refuses_a_directory_and_rmdir_a_file(bench: Bench) -> None:
    with pytest.raises(errors.IsADirectory):
        bench.fs.unlink("/d")
    with pytest.raises(errors.NotADirectory):
        bench.fs.rmdir("/a")


def test_handles_keep_a_file_that_a_rename_replaced(bench: Bench) -> None:
    victim = bench.fs.open("/b", os.O_RDONLY)
    bench.fs.rename("/a", "/b")
    assert bench.fs.read(victim, 0, 10) == b"bbbb"
    assert bench.read("/b") == b"aaaa"
    bench.fs.release(victim)
    assert bench.remote.files() == {"/b": b"aaaa"}


@pytest.mark.parametrize("victim_is_written", [False, True])
def test_open_written_file_replaces_an_open_one(bench: Bench, victim_is_written: bool) -> None:
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


def test_new_open_file_replaces_another_for_good(bench: Bench) -> None:
    handle = bench.new("/new", b"newest")
    bench.fs.rename("/new", "/b")
    assert bench.read("/b") == b"newest"
    bench.fs.unlink("/b")
    bench.fs.release(handle)
    assert bench.remote.files() == {"/a": b"aaaa"}, "neither of them comes back"


def test_failed_rename_gives_the_open_victim_its_name_back(bench: Bench) -> None:
    victim = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.rename("/a", "/b")
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}
    assert bench.read("/b") == b"bbbb"
    bench.fs.release(victim)


@pytest.mark.usefixtures("at_once")
def test_victim_does_not_overwrite_a_rename_that_was_done_though_it_failed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    reader = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.DeadlineExceeded("no answer"), too_late=True)
    with pytest.raises(errors.DeadlineExceeded):
        bench.fs.rename("/a", "/b")
    assert bench.remote.content("/b") == b"aaaa"
    bench.fs.release(reader)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.close()
    assert bench.remote.files() == {"/b": b"aaaa"}


def test_file_moves_to_an_unknown_folder_while_it_is_written(bench: Bench) -> None:
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


def test_files_are_renamed_and_deleted_though_the_disk_is_full(bench: Bench) -> None:
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
def test_file_is_read_while_its_name_changes(bench: Bench, deed: str) -> None:
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


def test_renamed_directory_takes_its_open_files_along(bench: Bench) -> None:
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
def test_renamed_directory_takes_its_deleted_open_files_along(bench: Bench, hidden: bool) -> None:
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


def test_rename_of_directory_waits_for_an_upload_into_it(bench: Bench) -> None:
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


def test_impossible_renames_are_refused(bench: Bench) -> None:
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
def test_change_is_looked_for_after_its_answer_was_lost(bench: Bench, method: str) -> None:
    """It is unknown whether the change was done, so the cache must not say that it was not."""
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


def test_folder_is_renamed_during_a_streamed_upload_into_it(
    bench: Bench,
) -> None:
    open_directory(bench)
    handle = bench.fs.create("/d/long", 0o644, os.O_WRONLY)
    bench.fs.write(handle, 0, bytes(3 << 20))
    until(lambda: bench.fs.state("/d/long") == "uploading")
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit(bench.fs.rename, "/d", "/e")
        try:
            renamed.result(5)
        finally:
            bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/e/long") == bytes(3 << 20)
