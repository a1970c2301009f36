"""Files that were changed here and on the server."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.writing import backoff
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Content
from tests.support.filesystem_bench import (
    Bench,
    open_directory,
    reborn,
    sent_by_the_next,
    settled,
)


def test_change_by_others_under_an_unsent_file_keeps_both(
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


def test_conflict_copy_of_a_private_file_is_private(bench: Bench) -> None:
    bench.remote.outside_write("/a", b"secret")
    bench.remote.chmod("/a", 0o600)
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"mine")
    bench.remote.outside_write("/a", b"theirs, longer")
    bench.fs.release(handle)
    settled(bench)
    (copy,) = [path for path in bench.remote.files() if path.startswith("/a (conflict copy ")]
    assert bench.remote.node(copy).mode == 0o600


def changed_on_both_sides(bench: Bench) -> tuple[int, bytes]:
    """A file of several blocks, changed here in one place and replaced on the server.

    Returns a handle on it, and the server's content.
    """
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


def test_conflict_keeps_both_files_when_resolving_it_is_interrupted(bench: Bench) -> None:
    handle, theirs = changed_on_both_sides(bench)
    for call in range(8):
        bench.remote.fail("open_read", errors.ConnectionLost("cut"), after=call)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.remote.calm()
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert kept_both(bench, theirs)


def test_conflict_keeps_both_files_when_the_mount_is_killed_while_resolving_it(
    bench: Bench, tmp_path: Path
) -> None:
    handle, theirs = changed_on_both_sides(bench)
    gate = bench.remote.hold("open_read")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    # Its row is written once more in the meantime.
    bench.fs.set_mtime("/d/big", 4242)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.close()
    assert kept_both(bench, theirs)
    gate.open()


def test_file_that_appeared_under_a_new_files_name_is_kept(bench: Bench) -> None:
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


@pytest.mark.parametrize("is_open", [False, True])
def test_time_that_the_server_may_have_set_is_no_work_of_others(
    bench: Bench, *, is_open: bool
) -> None:
    """The reply is lost, and then the file is rewritten."""
    bench.write("/d/file", b"what was there")
    settled(bench)
    handle = bench.fs.open("/d/file", os.O_RDONLY) if is_open else None
    bench.remote.fail("set_mtime", errors.ConnectionLost("answer lost"), too_late=True)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.set_mtime("/d/file", 1_675_203_356)
    bench.write("/d/file", b"what is new ->")
    settled(bench)
    if handle is not None:
        bench.fs.release(handle)
    assert bench.remote.content("/d/file") == b"what is new ->"
    assert [path for path in bench.remote.files() if "conflict" in path] == []


def test_broken_patch_is_finished_without_a_conflict(bench: Bench) -> None:
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


@pytest.mark.parametrize(("flags", "how"), [(os.O_APPEND, "append"), (0, "patch piece")])
def test_append_is_no_conflict_when_only_its_time_arrived(
    bench: Bench, flags: int, how: str
) -> None:
    open_directory(bench, "/d")
    content = os.urandom(3 << 20)
    bench.remote.outside_write("/d/big", content)
    handle = bench.fs.open("/d/big", os.O_RDWR | flags)
    bench.fs.write(handle, 3 << 20, b"appended")
    bench.remote.fail(how, errors.ConnectionLost("cut"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    bench.remote.set_mtime("/d/big", bench.fs.attributes("/d/big").mtime or 0)
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == content + b"appended"
    assert not [path for path in bench.remote.files() if "conflict" in path]


def patch_broken_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """A handle of /d/big, of 3 MiB, whose patch in three places broke off after the second."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 60.0)  # the queue alone does not try again
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
    return handle


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_other_file_in_the_place_of_a_broken_patch_is_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    handle = patch_broken_off(bench, monkeypatch)
    theirs = os.urandom((3 << 20) + 1)  # as large as a patch that was not finished can make it
    bench.remote.now += 100
    bench.remote.outside_write("/d/big", theirs)
    if killed:
        bench.fs.stop_waiting()  # or it would settle the conflict, too
        sent_by_the_next(bench, tmp_path / "next")
        bench.fs.unlink("/d/big")  # the killed one does nothing more
        bench.remote.outside_write("/d/big", theirs)
    else:
        bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == theirs
    (copy,) = [path for path in bench.remote.files() if "conflict" in path]
    assert bench.remote.content(copy)[3 << 20 :] == b"patched"


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_file_rewritten_after_a_broken_patch_is_no_conflict(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    handle = patch_broken_off(bench, monkeypatch)
    bench.fs.truncate_handle(handle, 0)
    bench.fs.write(handle, 0, b"short")
    bench.fs.flush(handle)
    if killed:
        sent_by_the_next(bench, tmp_path / "next")
    else:
        bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/d/big") == b"short"
    assert not [path for path in bench.remote.files() if "conflict" in path]


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


@pytest.mark.parametrize("came", [0, 17, 4999])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_torn_file_that_was_renamed_and_written_anew_is_no_conflict(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    came: int,
    killed: bool,
    moved: bool,
) -> None:
    """The server has called a part of the upload complete, and the rename moved that part."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 60.0)  # the queue alone does not try again
    open_directory(bench)
    bench.linger()
    content = os.urandom(5000)
    handle = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.write(handle, 0, content)
    bench.remote.fail("store", errors.ConnectionLost("cut"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    mtime = bench.fs.attributes("/a").mtime
    bench.remote.outside_write("/a", content[:came], mtime=mtime)
    bench.fs.release(handle)
    name = "/a"
    if moved:
        bench.fs.rename("/a", "/new")
        name = "/new"
    bench.remote.now += 100
    handle = bench.fs.open(name, os.O_WRONLY)
    bench.fs.truncate_handle(handle, 0)
    bench.fs.write(handle, 0, b"anew")
    bench.fs.flush(handle)
    if killed:
        bench.fs.stop_waiting()
        sent_by_the_next(bench, tmp_path / "next")
    bench.fs.release(handle)
    for _ in range(0 if killed else 50):
        bench.fs.retry()  # fsync hears of the failure before the queue does
        with contextlib.suppress(errors.DeadlineExceeded):
            bench.fs.sync("/", 0.3)
            break
    assert bench.remote.files() == {name: b"anew", "/b": b"bbbb"}


@pytest.mark.parametrize(
    ("error", "killed"),
    [
        (errors.Superseded("written over"), False),
        (errors.Superseded("written over"), True),
        (errors.NoSpace("452"), False),
        (errors.Busy(550, "used by another process"), False),
        (errors.Busy(550, "used by another process"), True),
    ],
    ids=["overtaken", "overtaken, killed", "full", "busy", "busy, killed"],
)
def test_torn_file_is_no_conflict_however_its_second_attempt_ends(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: errors.FtpfsError,
    killed: bool,
) -> None:
    """A server has called a part complete, and the rename moved it. The remote sends the file once
    more at once, and that attempt ends otherwise than by a broken connection."""
    monkeypatch.setattr(backoff, "FULL_PAUSE_SECONDS", 0.5)
    open_directory(bench)
    bench.linger()
    content = os.urandom(5000)
    whole, seen = bench.remote.store, threading.Event()

    def tears_once(path: str, sent: Content, *, base: Entry | None) -> Entry:
        if seen.is_set():
            if killed:
                raise errors.ConnectionLost("the network is gone")
            return whole(path, sent, base=base)
        assert sent.ready(0) == len(content)
        mtime, _ = sent.attributes()
        bench.remote.outside_write(path, content[:17], mtime=mtime)
        seen.set()
        raise error

    monkeypatch.setattr(bench.remote, "store", tears_once)
    handle = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.truncate_handle(handle, 0)
    bench.fs.write(handle, 0, content)
    bench.fs.release(handle)
    with contextlib.suppress(errors.FtpfsError):
        bench.fs.sync("/", 2)
    assert seen.is_set()
    if killed:
        handle = bench.fs.open("/a", os.O_WRONLY)
        bench.fs.truncate_handle(handle, 0)
        bench.fs.write(handle, 0, b"anew")
        bench.fs.release(handle)
        content = b"anew"
        bench.fs.stop_waiting()
        monkeypatch.setattr(bench.remote, "store", whole)
        sent_by_the_next(bench, tmp_path / "next")
    for _ in range(0 if killed else 50):
        bench.fs.retry()
        with contextlib.suppress(errors.FtpfsError):
            bench.fs.sync("/", 0.3)
            break
    assert bench.remote.files() == {"/a": content, "/b": b"bbbb"}
