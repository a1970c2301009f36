"""Renames and deletions whose answer was lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.reading.blocks import _Blocks
from tests.support.filesystem_bench import (
    Bench,
    append,
    open_directory,
    reborn,
    renames_over,
)
from tests.support.waiting import until


def rename_in_doubt(bench: Bench, old: str, new: str, *, done: bool) -> None:
    """A rename whose reply was lost, on a server that cannot be asked about the names."""
    bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=done)
    bench.remote.fail("stat", errors.ConnectionLost("away"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.rename(old, new)


def test_rename_succeeds_if_it_was_done_though_its_answer_was_lost(
    bench: Bench,
) -> None:
    reader = bench.fs.open("/a", os.O_RDONLY)
    bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=True)
    bench.fs.rename("/a", "/new")
    assert bench.names("/") == {"new", "b", "d"}
    assert bench.fs.path_of(reader) == "/new"
    bench.fs.release(reader)


def test_rename_carried_out_after_its_connection_broke_is_seen(
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
def test_names_of_a_rename_in_doubt_are_hidden_until_the_server_answers(
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
def test_change_is_in_no_doubt_if_the_server_was_never_asked(bench: Bench, deed: str) -> None:
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
def test_upload_goes_where_the_file_is_after_the_answer_of_a_rename_was_lost(
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
def test_waiting_upload_is_dropped_if_a_rename_in_doubt_replaced_its_file(
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
def test_later_write_to_the_new_name_of_a_rename_in_doubt_becomes_a_copy(
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
def test_reader_reads_on_in_a_file_that_a_rename_in_doubt_replaces(
    bench: Bench, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames_over(bench, monkeypatch)
    open_directory(bench)
    reader = bench.fs.open("/b", os.O_RDONLY)
    bench.remote.fail("rename", errors.ConnectionLost("lost"), too_late=done)
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
def test_waiting_upload_is_sent_if_a_deletion_in_doubt_was_not_done(
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
        bench.fs.stop_waiting()  # the killed file system uploads nothing more
        return
    assert bench.exists("/a") is not done
    bench.fs.sync()
    assert bench.remote.files() == left
    assert bench.fs._spool.journal.intents() == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_file_has_its_name_again_when_hiding_it_was_in_doubt(bench: Bench, done: bool) -> None:
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
def test_next_mount_resolves_a_rename_in_doubt_after_a_kill(
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
def test_repeated_rename_resolves_the_first_one(bench: Bench) -> None:
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


@pytest.mark.parametrize("asked", [False, True], ids=["in doubt", "known at once"])
def test_reader_of_a_file_that_was_replaced_after_all_reads_old_content_to_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """The block cache has lost it, and the new content has the same length."""
    renames_over(bench, monkeypatch)
    monkeypatch.setattr(bench.fs._looks, "_followed_after", 0.0)
    handle = bench.fs.open("/a", os.O_RDONLY)
    if asked:
        bench.remote.fail("rename", errors.ConnectionLost("answer lost"), too_late=True)
        bench.fs.rename("/b", "/a")
    else:
        rename_in_doubt(bench, "/b", "/a", done=True)
    bench.fs._blocks._blocks = _Blocks(1 << 20)
    assert bench.fs.handle_attributes(handle).size == 4
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    assert bench.read("/a") == b"bbbb"
    assert bench.fs.handle_attributes(handle).size == 4
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.release(handle)


def test_reader_of_a_file_that_was_not_replaced_goes_on_following_the_server(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.fs._looks, "_followed_after", 0.0)
    handle = bench.fs.open("/a", os.O_RDONLY)
    rename_in_doubt(bench, "/b", "/a", done=False)
    bench.remote.outside_write("/a", b"aaaa and more")
    assert bench.fs.attributes("/b").size == 4
    until(lambda: bench.fs.handle_attributes(handle).size == 13)
    assert bench.fs.read(handle, 4, 20) == b" and more"
    bench.fs.release(handle)


def test_reader_of_a_deleted_file_gets_an_error_instead_of_the_next_file_of_that_name(
    bench: Bench,
) -> None:
    """It was opened while the server deleted the file, and the block cache has lost its content."""
    gate = bench.remote.hold("remove")
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(bench.fs.unlink, "/a")
        assert gate.reached.wait(5)
        handle = bench.fs.open("/a", os.O_RDONLY)
        gate.open()
        deleting.result(5)
    bench.fs._blocks._blocks = _Blocks(1 << 20)
    bench.remote.outside_write("/a", b"next")
    with pytest.raises(errors.Changed):
        bench.fs.read(handle, 0, 10)
    bench.fs.release(handle)
    assert bench.read("/a") == b"next"
