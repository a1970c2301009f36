"""When an unmounted file system is not waited for any more; how a sync is answered."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftpfs import errors, running
from ftpfs.config import Cache
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.status import CacheStatus, ConnectionStatus, MountStatus, PendingFile, UploadStatus
from ftpfs.core.writer import Spool
from ftpfs.running import Progress, Running
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


def test_what_moves_at_all_is_progress() -> None:
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


def test_what_is_sent_again_and_again_is_none() -> None:
    progress = Progress()
    progress.stands_still_for(status(0), 0.0)
    progress.stands_still_for(status(500), 1.0)
    for number, sent in enumerate((0, 300, 500, 0, 499), 2):
        assert progress.stands_still_for(status(sent), float(number)) == number - 1
    assert progress.stands_still_for(status(501), 9.0) == 0


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryRemote, Running]:
    """A mount with two files that the server refused for good."""
    monkeypatch.setattr(running, "SYNC_PAUSE", 0.05)
    remote = MemoryRemote()
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache())
    for name in ("/one", "/two"):
        filesystem.mkdir(f"{name}-folder", 0o755)  # by which the root is known to take files
        remote.fail("store", errors.PermissionDenied("no"))
        handle = filesystem.create(name, 0o644, 1)
        filesystem.write(handle, 0, name.encode())
        with pytest.raises(errors.PermissionDenied):
            filesystem.fsync(handle)
        filesystem.release(handle)
    pool = cast(
        Any, SimpleNamespace(status=lambda: SimpleNamespace(idle=0, leased=0, cap=1, waiting=0))
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


def test_sync_tries_again_what_was_refused(refused: tuple[MemoryRemote, Running]) -> None:
    remote, mount = refused
    *_, last = mount._tell_sync({"path": "/two"})
    assert last["failures"] == []
    assert remote.files() == {"/two": b"/two"}


def test_sync_tries_once_what_is_refused_again_out_of_step(
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
