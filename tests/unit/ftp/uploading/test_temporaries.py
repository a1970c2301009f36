"""Listings delete what crashed mounts have left, and nothing that is in use."""

from __future__ import annotations

import os
import threading
import time

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir
from tests.support.uploading import (
    MEG,
    NETWORK,
    Local,
    blob,
    on_disk,
)


def test_listing_cleans_up_after_crashed_mounts_and_leaves_others_uploads_alone(
    remote_dir: RemoteDir,
) -> None:
    ours, theirs, now = "0123abcd", "89abcdef", int(time.time())
    old = now - 2 * 86400
    names = {
        f".ftpfs-{ours}-{now:08x}-01.tmp": (now, False),  # of the last run of this mount
        f".ftpfs-probe-{ours}-{now:08x}-01.tmp": (now, False),
        f".ftpfs-{theirs}-{old:08x}-02.tmp": (old, False),
        f".ftpfs-{theirs}-{now:08x}-03.tmp": (now, True),  # under way
        f".ftpfs-{theirs}-{old:08x}-04.tmp": (now, True),  # under way for long
        f".ftpfs-{theirs}-{now:08x}-05.tmp": (old, True),  # the server's clock is wrong
        ".ftpfs-deleted-0123": (old, True),  # open somewhere
        ".ftpfs-0123456789abcdef.old": (old, True),  # the only copy, perhaps
        "file": (old, True),
    }
    for name, (when, _) in names.items():
        path = remote_dir.write(name, b"x")
        os.utime(path, (when, when))
    kept = {name for name, (_, stays) in names.items() if stays}
    server = remote_dir.server
    place = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        path=remote_dir.path,
    )
    for owner in (None, ours):
        remote = Remote(place, NETWORK, owner=owner)
        assert [entry.name for entry in remote.list("/")] == ["file"]
        assert set(on_disk(remote_dir.disk)) == (set(names) if owner is None else kept)
        remote.close()


def test_listing_during_an_upload_leaves_it_alone(remote_dir: RemoteDir) -> None:
    server = remote_dir.server
    place = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        path=remote_dir.path,
    )
    remote = Remote(place, NETWORK, owner="0123abcd")
    seen: list[int] = []

    def look(offset: int) -> None:
        if offset:
            listing = threading.Thread(target=remote.list, args=["/"])
            listing.start()
            listing.join()
            seen.append(len(on_disk(remote_dir.disk)))

    remote.store("/file", Local(blob(MEG), each=look), base=None)
    assert seen == [1, 1]  # after its only piece, and before its rename
    assert on_disk(remote_dir.disk) == {"file": blob(MEG)}
    remote.close()
