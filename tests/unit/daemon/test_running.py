"""When an unmounted file system stops waiting for uploads; how a sync is answered."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing.spool import Spool
from ftpfs.daemon import running
from ftpfs.daemon.running import Progress, Running
from ftpfs.ftp.connections.rates import Rates
from ftpfs.model.entry import Entry
from ftpfs.model.status import CacheStatus, ConnectionStatus, MountStatus, PendingFile, UploadStatus
from ftpfs.settings.config import Cache
from tests.support.memory_remote import MemoryRemote


def status(*sent: int, files: int = 0, uploaded: int = 0, downloaded: int = 0) -> MountStatus:
    pending = tuple(
        PendingFile(f"/{number}", "uploading", 1000, each, 0, None, 0.0)
        for number, each in enumerate(sent)
    )
    return MountStatus(
        source="",
        connections=ConnectionStatus(0, 0, 0, 0),
        uploads=UploadStatus(pending, len(pending), 0, files, uploaded, 0, None),
        cache=CacheStatus(0, 0, 0, 0, downloaded),
    )


def test_anything_that_moves_is_progress() -> None:
    progress = Progress()
    moving = [
        status(0, 0),
        status(500, 0),
        status(500, 400),
        status(0, files=1, uploaded=1000),
        status(0, files=2, uploaded=1000),  # an empty file
        status(0, files=2, uploaded=1000, downloaded=10),  # to be sent with what was changed
    ]
    for number, each in enumerate(moving):
        assert progress.stands_still_for(each, 10.0 * number) == 0


def test_repeated_sending_is_no_progress() -> None:
    progress = Progress()
    progress.stands_still_for(status(0), 0.0)
    progress.stands_still_for(status(500), 1.0)
    for number, sent in enumerate((0, 300, 500, 0, 499), 2):
        assert progress.stands_still_for(status(sent), float(number)) == number - 1
    assert progress.stands_still_for(status(501), 9.0) == 0


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryRemote, Running]:
    """A mount with two files that the server refused for good."""
    monkeypatch.setattr(running, "SYNC_SECONDS", 0.05)
    remote = MemoryRemote()
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache())
    for name in ("/one", "/two"):
        filesystem.mkdir(f"{name}-folder", 0o755)  # by which the root is known to take files
        remote.fail("store", errors.PermissionDenied("no"))
        handle = filesystem.create(name, 0o644, os.O_WRONLY)
        filesystem.write(handle, 0, name.encode())
        with pytest.raises(errors.PermissionDenied):
            filesystem.fsync(handle)
        filesystem.release(handle)
    pool = cast(
        Any,
        SimpleNamespace(
            rates=Rates(),
            status=lambda: SimpleNamespace(
                idle=0, leased=0, cap=1, waiting=0, others=(), allowed=None
            ),
        ),
    )
    return remote, Running(
        filesystem,
        pool,
        source="",
        mountpoint="/mnt",
        binding="",
        spool=tmp_path,
        grace=0,
        leave_after=0,
    )


def test_sync_retries_refused_files(refused: tuple[MemoryRemote, Running]) -> None:
    remote, mount = refused
    *_, last = mount._tell_sync({"path": "/two"})
    assert last["failures"] == []
    assert remote.files() == {"/two": b"/two"}


def test_sync_retries_a_file_once_if_it_is_refused_again(
    refused: tuple[MemoryRemote, Running],
) -> None:
    remote, mount = refused
    tried: list[float] = []

    class Refusal:
        """In place of a gate: each upload is refused at another time."""

        def pass_through(self) -> None:
            tried.append(time.monotonic())
            time.sleep(0.3 * len(tried))
            raise errors.PermissionDenied("still no")

    remote.stall_uploads = Refusal()  # type: ignore[assignment]
    *_, last = mount._tell_sync({})
    assert sorted(path for path, _ in last["failures"]) == ["/one", "/two"]
    assert len(tried) == 2


def test_sync_ends_while_a_program_goes_on_writing(
    refused: tuple[MemoryRemote, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each upload takes longer than the pause in which a sync looks."""
    remote, mount = refused
    filesystem = mount._filesystem
    list(mount._tell_sync({}))
    filesystem.mkdir("/d", 0o755)
    handle = filesystem.create("/d/log", 0o644, os.O_WRONLY | os.O_APPEND)
    filesystem.write(handle, 0, b"first")
    over = threading.Event()

    def slowed(send: Callable[..., Entry]) -> Callable[..., Entry]:
        def slow(*arguments: Any, **words: Any) -> Entry:
            time.sleep(0.3)
            return send(*arguments, **words)

        return slow

    def write() -> None:
        while not over.wait(0.01):
            filesystem.write(handle, 0, b"more")

    monkeypatch.setattr(remote, "store", slowed(remote.store))
    monkeypatch.setattr(remote, "append", slowed(remote.append))
    with ThreadPoolExecutor(2) as pool:
        pool.submit(write)
        synced = pool.submit(lambda: list(mount._tell_sync({})))
        try:
            synced.result(4)
        finally:
            over.set()
    assert remote.content("/d/log").startswith(b"first")
    filesystem.release(handle)
    filesystem.sync()
