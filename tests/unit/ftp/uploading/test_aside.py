"""Servers that do not rename over a file: the old file is moved aside."""

from __future__ import annotations

import pytest

from ftpfs.ftp.remote import Remote
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.uploading import (
    WHEN,
    Local,
    blob,
    found,
    on_disk,
)


@pytest.mark.parametrize("answer", ["250 Renamed.", "553 File exists", "550 no"])
@pytest.mark.parametrize("size", [5, 200_000])
def test_where_a_rename_over_a_file_is_not_done_the_old_one_is_moved_aside(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, answer: str, size: int
) -> None:
    remote_dir.write("file", bytes(size))  # of the same size: only the temporary name tells
    base = found(relayed, "/file")
    relay.do_instead("RNTO", "RNTO /missing/x", answer, times=1)
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(size)}
    assert relay.count("STOR") == 1
    assert int((remote_dir.disk / "file").stat().st_mtime) == WHEN
