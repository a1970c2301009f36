"""The calls of libfuse, in the order in which its versions make them, without libfuse."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names import hiding, intents
from ftpfs.core.names.renames import RENAME_NOREPLACE
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.writing.spool import Spool
from ftpfs.fuse.kernel import KernelView
from ftpfs.fuse.operations import Look, Operations
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import Cache
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until


@pytest.fixture
def remote() -> MemoryRemote:
    remote = MemoryRemote()
    remote.outside_write("/a", b"aaaa")
    remote.outside_write("/b", b"bbbb")
    return remote


@pytest.fixture
def calls(remote: MemoryRemote, tmp_path: Path) -> Iterator[Operations]:
    fs = Filesystem(remote, Spool(tmp_path / "spool"), Cache())
    look = Look(uid=os.getuid(), gid=os.getgid(), umask=0o022, ignore_attribute_errors=True)
    kernel = KernelView(str(tmp_path), 1.0)
    yield Operations(fs, look, kernel, started=lambda: None, stopped=lambda: None)
    fs.close()


def opened(calls: Operations, path: str, flags: int = os.O_RDONLY) -> SimpleNamespace:
    info = SimpleNamespace(flags=flags, fh=0, direct_io=False)
    calls.open(path, info)
    return info


def test_second_deletion_of_hidden_name_raises_no_error(
    calls: Operations, remote: MemoryRemote
) -> None:
    """libfuse 3.17: the last close and a simultaneous unlink both delete it."""
    info = opened(calls, "/b")
    with pytest.raises(FileNotFoundError):
        calls.getattr("/.fuse_hidden0000000300000001")
    calls.rename("/b", "/.fuse_hidden0000000300000001")
    calls.release(None, info)
    assert calls.unlink("/.fuse_hidden0000000300000001") == 0
    assert calls.unlink("/.fuse_hidden0000000300000001") == 0
    assert set(remote.files()) == {"/a"}


def test_name_that_libfuse_hides_after_last_close_is_deleted(
    calls: Operations, remote: MemoryRemote
) -> None:
    """libfuse 3.17 counts the file as open until its release has returned."""
    info = opened(calls, "/b")
    calls.release(None, info)
    calls.rename("/b", "/.fuse_hidden0000000300000001")
    assert calls.unlink("/.fuse_hidden0000000300000001") == 0
    assert set(remote.files()) == {"/a"}


def test_deletion_of_missing_ordinary_name_raises_an_error(calls: Operations) -> None:
    with pytest.raises(FileNotFoundError):
        calls.unlink("/missing")


@pytest.mark.parametrize("size", [-1, 0, 1 << 62, 1 << 63, 1 << 64, 10**30])
@pytest.mark.parametrize("mode", [0, 0o7777, 0o100644, 0o120777, 1 << 40])
def test_impossible_size_and_mode_are_limited_for_kernel(
    calls: Operations, size: int, mode: int
) -> None:
    entry = Entry("a", Kind.FILE, size, 253_402_300_799, True, mode)
    told = calls._stat("/a", entry)
    assert 0 <= told.st_size < 1 << 63
    assert (stat.S_IFMT(told.st_mode), told.st_mode < 1 << 16) == (stat.S_IFREG, True)
    struct.pack("=IQQq", told.st_mode, told.st_size, told.st_blocks, told.st_mtimespec)


def test_open_of_missing_name_is_stale_once_and_then_missing(
    calls: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first error the kernel opens again; a second would reach the program."""

    def gone(path: str, *_: object) -> int:
        raise errors.NotFound(f"{path} is gone")

    monkeypatch.setattr(calls._fs, "open", gone)
    told = []
    for caller in (1, 2, 1, 1):
        monkeypatch.setattr(calls, "caller", lambda caller=caller: caller)
        with pytest.raises(OSError) as failure:
            opened(calls, "/b")
        told.append(failure.value.errno)
    assert told == [errno.ESTALE, errno.ESTALE, errno.ENOENT, errno.ESTALE]


HIDDEN = "/.fuse_hidden0000000300000001"


def test_refused_rename_over_hidden_target_leaves_file(
    calls: Operations, remote: MemoryRemote
) -> None:
    """libfuse hides an open target and then asks for the rename, on one thread."""
    info = opened(calls, "/b")
    remote.fail("rename", errors.PermissionDenied("no"))
    calls.rename("/b", HIDDEN)
    with pytest.raises(PermissionError):
        calls.rename("/a", "/b")
    assert remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}
    assert calls.getattr(HIDDEN).st_size == 4
    assert calls.getattr("/b").st_size == 4
    assert calls.read(None, 10, 0, info) == b"bbbb"
    calls.release(None, info)
    assert calls.unlink(HIDDEN) == 0
    assert calls.getattr(HIDDEN).st_size == 4, "as long as the kernel knows the file by that name"
    time.sleep(2 * hiding.LONGEST_SECONDS)
    assert remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}


def test_rename_that_must_not_replace_leaves_open_file(
    calls: Operations, remote: MemoryRemote
) -> None:
    opened(calls, "/b")
    calls.rename("/b", HIDDEN)
    with pytest.raises(FileExistsError):
        calls.rename("/a", "/b", RENAME_NOREPLACE)
    assert remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}


def test_rename_over_hidden_target_replaces_file(calls: Operations, remote: MemoryRemote) -> None:
    info = opened(calls, "/b")
    calls.rename("/b", HIDDEN)
    calls.rename("/a", "/b")
    assert remote.files() == {"/b": b"aaaa"}
    assert calls.getattr(HIDDEN).st_size == 4
    assert calls.read(None, 10, 0, info) == b"bbbb"
    calls.unlink(HIDDEN)
    calls.release(None, info)
    assert remote.files() == {"/b": b"aaaa"}


@pytest.mark.parametrize("file", ["open", "closed"])
def test_hidden_name_without_following_rename_is_deleted(
    calls: Operations, remote: MemoryRemote, file: str
) -> None:
    """The file is closed: its release was faster than the unlink."""
    if file == "open":
        opened(calls, "/b")
    calls.rename("/b", HIDDEN)
    until(lambda: "/b" not in remote.files())


def test_hidden_name_is_deleted_before_other_thread_sees_it(
    calls: Operations, remote: MemoryRemote
) -> None:
    opened(calls, "/b")
    hides = threading.Thread(target=calls.rename, args=("/b", HIDDEN))
    hides.start()
    hides.join()
    with pytest.raises(FileNotFoundError):
        calls.getattr("/b")
    assert "/b" not in remote.files()


def test_delayed_rename_finds_its_hidden_target(calls: Operations, remote: MemoryRemote) -> None:
    """The interpreter's lock is not available for a while, or the daemon is stopped."""
    opened(calls, "/b")
    remote.fail("rename", errors.PermissionDenied("no"))
    calls.rename("/b", HIDDEN)
    threading.Event().wait(2 * hiding.LONGEST_SECONDS)
    with pytest.raises(PermissionError):
        calls.rename("/a", "/b")
    assert remote.files() == {"/a": b"aaaa", "/b": b"bbbb"}


def test_hidden_name_is_deleted_when_its_thread_makes_other_request(
    calls: Operations, remote: MemoryRemote
) -> None:
    remote.outside_write("/large", bytes(3 * BLOCK_SIZE))  # a small file is read by its open
    opened(calls, "/b")
    read = opened(calls, "/large")
    gate = remote.hold("open_read")

    def hide_and_read() -> None:
        calls.rename("/b", HIDDEN)
        calls.read(None, 4, 0, read)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(hide_and_read)
        assert gate.reached.wait(5)
        begun = time.monotonic()
        with pytest.raises(FileNotFoundError):
            calls.getattr("/b")
        assert time.monotonic() - begun < hiding.LONGEST_SECONDS
        gate.open()
        reading.result(5)


@pytest.mark.parametrize("told", ["0", "", "another_function", "fuse_dev_do_read.constprop.0"])
def test_hidden_name_is_deleted_when_system_hides_state_of_threads(
    calls: Operations, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Another kernel, a hidden /proc, or requests by another way than the device."""
    monkeypatch.setattr(hiding, "_waits_in", lambda _thread: told or "0")
    monkeypatch.setattr(hiding, "_system_tells", lambda: False)
    opened(calls, "/b")
    done = threading.Event()
    hides = threading.Thread(target=lambda: (calls.rename("/b", HIDDEN), done.wait(20)))
    hides.start()
    begun = time.monotonic()
    until(lambda: "/b" not in remote.files())
    assert time.monotonic() - begun < 4 * hiding.LONGEST_SECONDS
    with pytest.raises(FileNotFoundError):
        calls.getattr("/b")
    done.set()
    hides.join()


def test_unmount_waits_once_for_unreachable_server(
    calls: Operations, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def delete(path: str) -> None:
        tried.append(path)
        raise errors.ConnectionLost("away")

    names = hiding.Hiding(delete)
    monkeypatch.setattr(hiding, "_waits_in", lambda _thread: "futex_do_wait")
    for number in range(9):
        names.note(f"/{number}")
    names.close()
    assert len(tried) == 1


def test_refused_deletion_of_open_file_raises_an_error(
    calls: Operations, remote: MemoryRemote
) -> None:
    opened(calls, "/b")
    remote.closed.add("/")
    with pytest.raises(PermissionError):
        calls.rename("/b", HIDDEN)
    assert calls.getattr("/b").st_size == 4


def test_deletion_refused_later_restores_name_and_is_logged(
    calls: Operations, remote: MemoryRemote, caplog: pytest.LogCaptureFixture
) -> None:
    calls.mkdir("/made", 0o755)  # so ftpfs knows that this mount may change names here
    info = opened(calls, "/b")
    remote.closed.add("/")
    calls.rename("/b", HIDDEN)
    until(lambda: "/b was deleted while it was open, but the server refuses" in caplog.text)
    assert calls.getattr("/b").st_size == 4
    calls.release(None, info)
    calls.unlink(HIDDEN)
    assert remote.content("/b") == b"bbbb"


def test_deletion_is_carried_out_when_unreachable_server_returns(
    calls: Operations, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hiding, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(intents, "LATE_SECONDS", 0)
    calls.mkdir("/made", 0o755)
    opened(calls, "/b")
    for call in range(3):
        remote.fail("rename", errors.ConnectionLost("away"), after=call)
    calls.rename("/b", HIDDEN)
    until(lambda: "/b" not in remote.files())
    with pytest.raises(FileNotFoundError):
        calls.getattr("/b")


def test_wait_for_deletion_is_bounded_while_server_does_not_answer(
    calls: Operations, remote: MemoryRemote
) -> None:
    fs = calls._fs
    calls.mkdir("/made", 0o755)
    opened(calls, "/b")
    gate = remote.hold("rename")  # to the hidden name
    calls.rename("/b", HIDDEN)
    calls.getattr("/a")  # another request of this thread
    assert gate.reached.wait(5)
    begun = time.monotonic()
    assert not fs.drain("/", 0.1)
    with pytest.raises(errors.DeadlineExceeded):
        fs.sync("/", 0.1)
    assert fs.state("/") == "dirty"
    assert time.monotonic() - begun < 2
    gate.open()
    assert fs.drain("/", 10)
    assert "/b" not in remote.files()


def test_status_tells_of_deletions_that_wait_for_unreachable_server(
    calls: Operations, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "LATE_SECONDS", 0)
    monkeypatch.setattr(hiding, "RETRY_SECONDS", 0.1)
    fs = calls._fs
    calls.mkdir("/made", 0o755)
    opened(calls, "/b")
    for call in range(1000):
        remote.fail("rename", errors.ConnectionLost("away"), after=call)
    calls.rename("/b", HIDDEN)
    assert not fs.drain("/", 0.3)
    status = fs.upload_status()
    assert [(each.path, each.state, each.error) for each in status.pending] == [
        ("/b", "dirty", "not deleted yet: away")
    ]
    assert status.files == 1
    remote.calm()
    assert fs.drain("/", 10)
    assert fs.upload_status().files == 0


def test_open_file_is_journalled_at_end_before_any_wait_for_server(
    remote: MemoryRemote, tmp_path: Path
) -> None:
    """If the process is killed while it waits for the server, the next mount has the content."""
    spool = Spool(tmp_path / "spool")
    fs = Filesystem(remote, spool, Cache())
    handle = fs.open("/a", os.O_WRONLY)
    fs.write(handle, 0, b"new")
    gate = remote.hold("remove")
    fs.mkdir("/made", 0o755)
    fs.hide("/b", HIDDEN)
    fs.begin_request()
    assert gate.reached.wait(5)
    ends = threading.Thread(target=fs.close)
    ends.start()
    until(lambda: [row.path for row in spool.journal.records()] == ["/a"])
    gate.open()
    ends.join(10)
    assert remote.content("/a") == b"newa"
