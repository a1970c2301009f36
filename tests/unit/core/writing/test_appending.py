"""Appending where others append, too."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.writing.samples import SAMPLE_BYTES
from tests.support.filesystem_bench import (
    Bench,
    append,
    open_directory,
    reborn,
    sent_by_the_next,
)
from tests.support.memory_remote import Gate, MemoryRemote
from tests.support.waiting import until


def close_and_send(bench: Bench, handle: int, next_mount: Path | None) -> None:
    """Have a file sent whose upload failed: by this mount, or after a kill by the next one."""
    if next_mount is None:
        bench.fs.release(handle)
        bench.fs.retry()
        bench.fs.sync()
        return
    bench.fs.flush(handle)
    bench.fs.stop_waiting()  # the killed one does nothing more
    sent_by_the_next(bench, next_mount)


def append_without_a_reply(bench: Bench, *, arrived: bool) -> int:
    """Append b"mine" to /a, which is lost or only its reply. Returns a handle that appends."""
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b"mine")
    bench.remote.fail("append", errors.ConnectionLost("cut"), too_late=arrived)
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    return handle


def conflicts(bench: Bench) -> list[str]:
    return [path for path in bench.remote.files() if "conflict" in path]


def test_append_follows_what_others_have_appended_meanwhile(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b"mine")
    bench.remote.outside_write("/a", b"aaaa" + b"theirs", mtime=bench.remote.now + 5)
    bench.fs.sync()
    assert bench.remote.content("/a") == b"aaaatheirsmine"
    assert bench.read("/a") == b"aaaatheirsmine"
    assert bench.fs.attributes("/a").size == 14
    append(bench, "/a", b"more")
    bench.fs.sync()
    assert bench.remote.content("/a") == bench.read("/a") == b"aaaatheirsminemore"
    assert not conflicts(bench)
    assert not bench.remote.calls["store"]


def test_append_is_a_conflict_when_others_replaced_the_file_by_a_shorter_one(
    bench: Bench,
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b"mine")
    bench.remote.outside_write("/a", b"new", mtime=bench.remote.now + 5)
    bench.fs.sync()
    assert bench.remote.content("/a") == b"new"
    assert len(conflicts(bench)) == 1


@pytest.mark.parametrize("grows", [0, 3, 100_000], ids=["alone", "little", "much"])
def test_append_during_an_upload_is_sent_after_it(bench: Bench, grows: int) -> None:
    """Also if the two overlap while the first is moved."""
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR | os.O_APPEND)
    bench.fs.write(handle, 0, b"first")
    gate = bench.remote.hold("append")
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(bench.fs.fsync, handle)
        assert gate.reached.wait(5)
        late = os.urandom(50_000)
        bench.fs.write(handle, 0, late)
        theirs = b"x" * grows
        bench.remote.outside_write("/a", b"aaaa" + theirs, mtime=bench.remote.now + 5)
        gate.open()
        syncing.result(10)
    wanted = b"aaaa" + theirs + b"first"
    assert bench.remote.content("/a") == wanted
    assert bench.fs.read(handle, 0, 1 << 20) == wanted + late
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/a") == wanted + late
    assert not conflicts(bench)


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@pytest.mark.parametrize("came", [0, 5, 16, 17, 4000, 5000])
def test_of_an_append_that_arrived_in_part_the_rest_is_sent(
    bench: Bench, tmp_path: Path, came: int, killed: bool
) -> None:
    open_directory(bench)
    bench.linger()
    mine = os.urandom(5000)
    append(bench, "/a", mine)
    bench.remote.fail("append", errors.ConnectionLost("cut"))
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    left = b"aaaa" + b"theirs" + mine[:came]
    bench.remote.outside_write("/a", left, mtime=bench.remote.now + 5)
    bench.fs.release(handle)
    if killed:
        bench.fs.stop_waiting()  # the killed one does nothing more
        bench = reborn(bench, tmp_path / "next")
        assert bench.fs.recover() == 1
    bench.fs.retry()
    bench.fs.sync()
    rest = mine if came < SAMPLE_BYTES else mine[came:]  # less than that is no part, but theirs
    assert bench.remote.content("/a") == left + rest
    assert bench.read("/a") == left + rest
    if killed:
        assert bench.fs.close() == 0


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@pytest.mark.parametrize("arrived", [False, True])
def test_file_sent_whole_with_its_reply_lost_is_not_appended_to_itself(
    bench: Bench, tmp_path: Path, arrived: bool, killed: bool
) -> None:
    """While a program writes at offsets of its own, nothing is appended. After its close it is."""
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(handle, 4, b"mine")
    bench.remote.fail("store", errors.ConnectionLost("cut"), too_late=arrived)
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    assert bench.remote.content("/a") == (b"aaaamine" if arrived else b"aaaa")
    close_and_send(bench, handle, tmp_path / "next" if killed else None)
    assert bench.remote.content("/a") == b"aaaamine"
    assert not conflicts(bench)


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@pytest.mark.parametrize("theirs", [b"", b"theirs"], ids=["alone", "others"])
@pytest.mark.parametrize("arrived", [False, True])
def test_append_arrives_once_when_its_reply_is_lost(
    bench: Bench, tmp_path: Path, arrived: bool, theirs: bytes, killed: bool
) -> None:
    handle = append_without_a_reply(bench, arrived=arrived)
    left = bench.remote.content("/a")
    assert left == (b"aaaamine" if arrived else b"aaaa")
    bench.remote.outside_write("/a", left + theirs, mtime=bench.remote.now + 5)
    bench.fs.write(handle, 0, b"more")
    close_and_send(bench, handle, tmp_path / "next" if killed else None)
    assert bench.remote.content("/a") == (
        b"aaaamine" + theirs + b"more" if arrived else b"aaaa" + theirs + b"minemore"
    )
    assert not conflicts(bench)


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC], ids=["appended", "replaced"])
def test_empty_file_that_others_write_is_appended_to_with_o_append(
    bench: Bench, flags: int
) -> None:
    open_directory(bench)
    bench.linger()
    bench.remote.outside_write("/empty", b"")
    handle = bench.fs.open("/empty", os.O_WRONLY | flags)
    bench.fs.write(handle, 0, b"mine")
    bench.fs.release(handle)
    bench.remote.outside_write("/empty", b"theirs", mtime=bench.remote.now + 5)
    bench.fs.sync()
    appends = flags == os.O_APPEND
    assert bench.remote.content("/empty") == (b"theirsmine" if appends else b"theirs")
    assert bool(conflicts(bench)) is not appends


def test_where_the_server_does_not_append_the_file_is_sent_whole(bench: Bench) -> None:
    open_directory(bench)
    bench.remote.patches_nothing = True
    append(bench, "/a", b"mine")
    bench.fs.sync()
    assert bench.remote.content("/a") == b"aaaamine"


def test_file_made_longer_by_truncate_is_no_append(bench: Bench) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.truncate_handle(handle, 6)
    bench.fs.release(handle)
    bench.remote.outside_write("/a", b"aaaatheirs", mtime=bench.remote.now + 5)
    bench.fs.sync()
    assert bench.remote.content("/a") == b"aaaatheirs"
    assert len(conflicts(bench)) == 1


@pytest.mark.parametrize("grows", [3, 100_000], ids=["over each other", "apart"])
def test_each_appended_line_arrives_once_when_the_mount_is_killed_while_moving_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grows: int
) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR | os.O_APPEND)
    bench.fs.write(handle, 0, b"first line of mine\n")
    gate = bench.remote.hold("append")
    moments: list[Bench] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        count = real(fd, data, offset)
        with monkeypatch.context() as undone:
            undone.setattr(os, "pwrite", real)
            moments.append(reborn(bench, tmp_path / f"next{len(moments)}"))
        return count

    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(bench.fs.fsync, handle)
        assert gate.reached.wait(5)
        late = os.urandom(3_000_000)
        bench.fs.write(handle, 0, late)
        bench.fs.flush(handle)
        theirs = b"x" * grows
        bench.remote.outside_write("/a", b"aaaa" + theirs, mtime=bench.remote.now + 5)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", pwrite)
            gate.open()
            syncing.result(10)
    sent = b"aaaa" + theirs + b"first line of mine\n"
    assert bench.remote.content("/a") == sent
    (row,) = bench.fs._spool.journal.records()
    assert row.proof is not None, "what was safe from power loss still is"
    assert moments
    for moment in moments:
        bench.remote.outside_write("/a", sent, mtime=bench.remote.now + 5)
        assert moment.fs.recover() == 1
        assert moment.fs.close() == 0
        assert bench.remote.content("/a") == sent + late
    assert not conflicts(bench)
    bench.remote.outside_write("/a", sent, mtime=bench.fs.attributes("/a").mtime)
    bench.fs.release(handle)


def append_in_part(bench: Bench, error: errors.FtpfsError, came: int) -> bytes:
    """Append 5,000 bytes to `/a`, of which the first `came` arrive before the error; the bytes."""
    open_directory(bench)
    bench.linger()
    mine = os.urandom(5000)
    append(bench, "/a", mine)
    bench.remote.fail("append", error)
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    with pytest.raises(type(error)):
        bench.fs.fsync(handle)
    bench.remote.outside_write("/a", b"aaaa" + mine[:came], mtime=bench.remote.now + 5)
    bench.fs.release(handle)
    return mine


@pytest.mark.parametrize("came", [0, 100, 5000])
def test_new_file_replaces_one_whose_append_broke_off_without_a_conflict(
    bench: Bench, came: int
) -> None:
    append_in_part(bench, errors.ConnectionLost("cut"), came)
    bench.write("/new", b"new")
    bench.fs.rename("/new", "/a")
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.files() == {"/a": b"new", "/b": b"bbbb"}


def append_held(bench: Bench) -> Gate:
    """Append 5,000 bytes to `/a`. The upload waits before it reads them, and then breaks off."""
    open_directory(bench)
    gate = bench.remote.hold("append begins")
    bench.remote.fail("append", errors.ConnectionLost("cut"), too_late=True)
    append(bench, "/a", os.urandom(5000))
    bench.fs.retry()
    until(lambda: bench.remote.calls["append begins"] == 1)
    return gate


def test_file_cut_while_something_is_appended_to_it_is_sent_as_it_is_now(bench: Bench) -> None:
    gate = append_held(bench)
    handle = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.truncate_handle(handle, 0)
    bench.fs.write(handle, 0, b"new")
    bench.fs.flush(handle)
    bench.fs.release(handle)
    gate.open()
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.files() == {"/a": b"new", "/b": b"bbbb"}
    assert not bench.remote.calls["append"], "zeros were appended"


def test_appended_bytes_that_are_overwritten_on_their_way_make_no_conflict(bench: Bench) -> None:
    gate = append_held(bench)
    new = os.urandom(5000)
    handle = bench.fs.open("/a", os.O_WRONLY)
    bench.fs.write(handle, 4, new)
    bench.fs.flush(handle)
    bench.fs.release(handle)
    gate.open()
    until(lambda: bench.remote.calls["append"] == 1)
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.files() == {"/a": b"aaaa" + new, "/b": b"bbbb"}


@pytest.mark.parametrize("came", [0, 6, 17, 4000, 5000])
def test_of_an_append_that_the_server_refused_on_the_way_the_rest_is_sent(
    bench: Bench, came: int
) -> None:
    """Its disk was full: what had arrived by then is there."""
    mine = append_in_part(bench, errors.NoSpace("452"), came)
    until(lambda: bench.fs.state("/a") == "failed")
    bench.fs.retry()
    bench.fs.sync()
    rest = mine if came < SAMPLE_BYTES else mine[came:]
    assert bench.remote.content("/a") == b"aaaa" + mine[:came] + rest
    assert not conflicts(bench)


@pytest.mark.parametrize("arrived", [False, True])
def test_append_arrives_once_when_its_reply_is_lost_by_a_server_without_rest(
    bench: Bench, arrived: bool
) -> None:
    """The server may have lost REST meanwhile, on a link that breaks often."""
    handle = append_without_a_reply(bench, arrived=arrived)
    bench.remote.rest = False
    left = bench.remote.content("/a") + b"theirs"
    bench.remote.outside_write("/a", left, mtime=bench.remote.now + 5)
    bench.fs.release(handle)
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.content("/a") == (b"aaaaminetheirs" if arrived else b"aaaatheirsmine")
    assert not conflicts(bench)


@pytest.mark.parametrize("rest", [True, False], ids=["", "no REST by then"])
def test_patch_refused_midway_is_no_conflict(bench: Bench, rest: bool) -> None:
    open_directory(bench)
    bench.linger()
    content = bytearray(os.urandom(3 << 20))
    bench.remote.outside_write("/d/big", bytes(content))
    handle = bench.fs.open("/d/big", os.O_RDWR)
    for offset in (100_000, 2_000_000):
        bench.fs.write(handle, offset, b"changed")
        content[offset : offset + 7] = b"changed"
    bench.remote.now += 5
    bench.remote.fail("patch piece", errors.NoSpace("452"), after=1)
    with pytest.raises(errors.NoSpace):
        bench.fs.fsync(handle)
    bench.remote.rest = rest
    bench.fs.release(handle)
    until(lambda: bench.fs.state("/d/big") == "failed")
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.content("/d/big") == bytes(content)
    assert not conflicts(bench)


def test_writer_at_its_own_offset_destroys_nothing_that_others_appended(
    bench: Bench,
) -> None:
    """Without O_APPEND a program goes on where it believes the end to be."""
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(handle, 4, b"mine")
    bench.remote.outside_write("/a", b"aaaatheirs", mtime=bench.remote.now + 5)
    bench.fs.fsync(handle)
    bench.fs.write(handle, 8, b"more")
    bench.fs.release(handle)
    bench.fs.sync()
    assert b"theirs" in bench.remote.content("/a")
    assert any(b"minemore" in content for content in bench.remote.files().values())


@pytest.mark.parametrize("how", ["written over", "truncated", "truncated and written"])
def test_change_before_the_end_during_an_append_is_sent(bench: Bench, how: str) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR | os.O_APPEND)
    other = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(handle, 0, b"first line")
    gate = bench.remote.hold("append")
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(bench.fs.fsync, handle)
        assert gate.reached.wait(5)
        if how == "written over":
            bench.fs.write(other, 6, b"CHANGED")
        else:
            bench.fs.truncate_handle(other, 0)
        if how == "truncated and written":
            bench.fs.write(other, 0, b"CHANGED")
        bench.remote.outside_write("/a", b"aaaatheirs", mtime=bench.remote.now + 5)
        gate.open()
        with contextlib.suppress(errors.FtpfsError):
            syncing.result(10)
    bench.fs.release(handle)
    bench.fs.release(other)
    bench.fs.sync()
    contents = list(bench.remote.files().values())
    assert any(b"theirs" in content for content in contents)
    wanted = {
        "written over": b"aaaafiCHANGEDe",
        "truncated": b"",
        "truncated and written": b"CHANGED",
    }
    assert wanted[how] in contents


def test_append_reads_its_own_file_when_descriptors_are_given_up_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/a", b"mine")
    pull = MemoryRemote._pull

    def meanwhile(content: Any, start: int, end: int) -> bytes:
        fd = content.fileno()
        assert bench.fs._spool.descriptors.close_idle() == 0
        os.fstat(fd)
        return pull(content, start, end)

    monkeypatch.setattr(MemoryRemote, "_pull", staticmethod(meanwhile))
    bench.fs.sync()
    assert bench.remote.content("/a") == b"aaaamine"
