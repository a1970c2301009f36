"""Closed files on their way to the server."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.names.doubts import Doubts
from ftpfs.model.entry import Entry, FolderAttributes
from ftpfs.settings.config import Write
from tests.support.filesystem_bench import (
    Bench,
    append,
    made,
    open_directory,
    reborn,
    settled,
    until_failed,
)
from tests.support.memory_remote import Gate
from tests.support.waiting import until


def test_refused_file_is_reported_and_stays_in_the_spool_until_it_is_dropped(
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


def test_file_is_saved_when_its_last_two_handles_close_at_once(bench: Bench) -> None:
    handles = [bench.new("/new", b"x"), bench.fs.open("/new", os.O_RDWR)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(bench.fs.release, handles))
    bench.fs.sync()
    assert bench.remote.content("/new") == b"x"


def test_file_opened_while_it_is_uploaded_after_its_last_close_is_the_same_file(
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


def test_file_written_closed_and_renamed_is_uploaded_once_under_its_last_name(
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


def test_file_deleted_before_its_upload_is_never_sent(bench: Bench) -> None:
    open_directory(bench)
    bench.write("/secret", b"x")
    bench.fs.unlink("/secret")
    settled(bench)
    assert bench.remote.calls["store"] == 0
    assert not bench.spool.exists() or not list(bench.spool.glob("*.spool"))


def test_written_bytes_are_read_back_without_asking_the_server(bench: Bench) -> None:
    bench.write("/a", b"written here")
    settled(bench)
    assert bench.read("/a") == b"written here"
    assert bench.remote.calls["open_read"] == 0


def test_directory_that_others_removed_is_made_again(bench: Bench) -> None:
    bench.write("/d/one", b"1")
    bench.fs.unlink("/d/one")
    bench.remote.outside_remove("/d")
    handle = bench.new("/d/two", b"2")
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.files()["/d/two"] == b"2"


def test_long_sequential_write_is_sent_while_it_goes_on(bench: Bench) -> None:
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


def test_streamed_upload_begins_anew_when_the_header_is_written_last(bench: Bench) -> None:
    open_directory(bench)
    chunk = bytes(range(256)) * 4096
    handle = bench.fs.create("/big", 0o644, os.O_WRONLY)
    for number in range(6):
        bench.fs.write(handle, number * len(chunk), chunk)
    bench.fs.write(handle, 0, b"HEADER")
    bench.fs.release(handle)
    settled(bench)
    assert bench.remote.content("/big") == b"HEADER" + (chunk * 6)[6:]


def test_patch_and_append_send_only_the_changed_bytes(bench: Bench) -> None:
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


def test_upload_that_ends_by_an_unexpected_error_is_reported_and_its_content_kept(
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


def test_file_written_again_before_its_upload_is_sent_after_the_second_close(
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
    bench.fs.fsync(handle)  # uploads although the writer has the file open
    assert bench.remote.content("/a") == b"Half of the second"
    bench.fs.release(handle)


def test_file_replaced_before_its_upload_is_never_sent_as_a_mixture(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr(bench.remote, "store", slow_store)
    bench.write("/new", b"long" * 1000)
    assert ready.wait(5)
    handle = bench.fs.open("/new", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"short")
    bench.fs.flush(handle)
    bench.fs.release(handle)
    bench.fs.sync("/", 20)
    assert seen == [b"short"]


def test_file_written_all_the_time_arrives_and_never_as_a_mixture(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    size = 3 << 20
    handle = bench.new("/busy", bytes(size))
    versions = itertools.count(1)

    class Writes:
        """Writes to the file at the gate that each chunk of an upload passes."""

        def pass_through(self) -> None:
            bench.fs.write(handle, 0, bytes([next(versions) % 256]) * size)

    monkeypatch.setattr(bench.remote, "stall_uploads", Writes())
    bench.fs.fsync(handle)
    bench.remote.stall_uploads = None
    assert next(versions) > 6, "it was not overtaken"
    arrived = bench.remote.content("/busy")
    assert len(arrived) == size
    assert len(set(arrived)) == 1
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/busy")[: 1 << 20] == bench.read("/busy")


def test_upload_that_waits_while_its_file_is_deleted_leaves_no_spool_file(bench: Bench) -> None:
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
    """An upload that fetches 16 MiB for 13 s, to send them with the rest."""
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


def test_hydrating_upload_can_be_left_to_the_next_mount(hydrating: Bench, tmp_path: Path) -> None:
    began = time.monotonic()
    assert hydrating.fs.close(grace=0) == 1
    assert time.monotonic() - began < 4
    hydrating.remote.pace = lambda _size: None
    next_one = reborn(hydrating, tmp_path / "next")
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    content = hydrating.remote.content("/big")
    assert content == bytes(5 << 20) + b"changed" + bytes((11 << 20) - 7)


def test_file_is_deleted_while_its_upload_still_hydrates_it(
    hydrating: Bench,
) -> None:
    began = time.monotonic()
    hydrating.fs.unlink("/big")
    assert time.monotonic() - began < 4
    assert "/big" not in hydrating.remote.files()
    hydrating.fs.close()


def test_unexpected_error_of_one_file_stops_no_other_upload(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the upload, in its report, or in the folder's mode and time that follow."""
    bench.fs.mkdir("/made", 0o755)
    bench.linger()
    store = bench.remote.store

    def odd(path: str, content: Any, *, base: Entry | None) -> Entry:
        if "odd" in path:
            raise ValueError("a time that FTP cannot say")
        return store(path, content, base=base)

    monkeypatch.setattr(bench.remote, "store", odd)
    for number in range(2 * Write().uploads):
        bench.write(f"/made/odd{number}", b"odd")
    bench.write("/made/plain", b"plain")
    bench.fs.set_mtime("/made", 4242)
    with monkeypatch.context() as broken:
        broken.setattr(OpenFile, "give_up", fails_with(errno.EIO))
        with pytest.raises(errors.FtpfsError, match="ValueError"):
            bench.fs.sync("/", 10)
    assert bench.remote.content("/made/plain") == b"plain"
    assert bench.remote.node("/made").mtime == 4242
    bench.write("/made/later", b"later")
    with pytest.raises(errors.FtpfsError, match="ValueError"):
        bench.fs.sync("/", 10)
    assert bench.remote.content("/made/later") == b"later"
    monkeypatch.undo()
    bench.fs.retry()
    bench.fs.sync("/", 10)
    assert bench.remote.content("/made/odd0") == b"odd"


def test_waiting_caller_hears_of_an_unexpected_error_while_resolving_a_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = bench.new("/new", b"x")
    monkeypatch.setattr(Doubts, "resolve_about", fails_with(errno.EIO))
    with ThreadPoolExecutor(1) as pool, pytest.raises(errors.FtpfsError, match="OSError"):
        pool.submit(bench.fs.fsync, handle).result(10)
    until_failed(bench, "/new")  # one more try may be under way for the fsync that came during it
    monkeypatch.undo()
    bench.fs.release(handle)
    bench.fs.retry()
    bench.fs.sync("/", 10)


def test_folder_that_raises_does_not_stop_other_folders(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_on_folders = bench.remote.set_on_folders

    def odd(wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        if any(each.path == "/odd" for each in wanted):
            raise ValueError("a time that FTP cannot say")
        return set_on_folders(wanted)

    monkeypatch.setattr(bench.remote, "set_on_folders", odd)
    bench.linger()
    for name in ("odd", "plain"):
        bench.fs.mkdir(f"/{name}", 0o755)
        bench.fs.set_mtime(f"/{name}", 4242)
    bench.fs.sync("/", 10)
    assert bench.remote.node("/plain").mtime == 4242


@pytest.mark.parametrize("new", [True, False])
def test_failed_file_is_sent_when_it_gets_another_name(bench: Bench, new: bool) -> None:
    """The refusal was about the name that it had."""
    open_directory(bench)
    open_directory(bench, "/d")
    path = "/new" if new else "/a"
    bench.remote.fail("store", errors.PermissionDenied("no"))
    if new:
        bench.write(path, b"content")
    else:
        handle = bench.fs.open(path, os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(handle, 0, b"content")
        bench.fs.release(handle)
    until_failed(bench, path)
    bench.fs.rename(path, "/d/moved")
    settled(bench)
    assert bench.remote.content("/d/moved") == b"content"


def test_failed_file_is_sent_when_its_mode_changes(bench: Bench) -> None:
    open_directory(bench)
    bench.remote.fail("store", errors.PermissionDenied("no"))
    bench.write("/new", b"content")
    until_failed(bench, "/new")
    bench.fs.chmod("/new", 0o600)
    settled(bench)
    assert bench.remote.content("/new") == b"content"
