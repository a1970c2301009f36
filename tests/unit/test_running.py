"""When an unmounted file system is not waited for any more."""

from __future__ import annotations

from ftpfs.core.status import CacheStatus, ConnectionStatus, MountStatus, PendingFile, UploadStatus
from ftpfs.running import Progress


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
