"""Helpers for tests of arming: transfers on real servers, and the round trips that they took."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby

from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.waiting import until_gone

NETWORK = Network(
    connect_timeout=3.0, reply_timeout=5.0, data_timeout=5.0, finish_timeout=5.0, max_connections=4
)

LATENCY = 0.04

MakeRemote = Callable[..., Remote]


def quiet(remote: Remote) -> None:
    """Wait until no session is being groomed."""
    pool = remote._pool
    until_gone(lambda: pool._grooming or pool._spares)


def armed(remote: Remote) -> int:
    return sum(session.armed for session in remote._pool._idle)


def fetch(remote: Remote, path: str, offset: int = 0, size: int = 1 << 24) -> bytes:
    """Up to `size` bytes of a file; then leave the download, wherever it is."""
    download = remote.open_read(path, offset)
    try:
        return download.read(size)
    finally:
        download.close()


def round_trips(relay: Relay) -> list[list[str]]:
    """The commands, grouped by the replies that their client had received before."""
    together = groupby(relay.commands, lambda command: (command.conn, command.heard))
    return [[command.verb for command in trip] for _, trip in together]


def then_a_port(remote: Remote, verbs: list[str]) -> list[list[str]]:
    """The round trips of a transfer: the next port is asked for together with it, or after it."""
    return [[*verbs, "EPSV"]] if remote.profile.identity.in_order else [verbs, ["EPSV"]]


def arm(remote: Remote, remote_dir: RemoteDir, content: bytes = b"content") -> str:
    """Arm a session, and perhaps log in a spare one, by reading a new file; return its path."""
    remote_dir.write("file", content)
    path = f"{remote_dir.path}/file"
    fetch(remote, path)
    quiet(remote)
    assert armed(remote)
    return path


def store(
    remote: Remote, remote_dir: RemoteDir, name: str, data: bytes, *, check: bool = True
) -> Entry:
    fd = os.memfd_create("content")
    os.write(fd, data)
    content = FileContent(fd, len(data), 1_600_000_000, None)
    return remote.store(f"{remote_dir.path}/{name}", content, base=None, check=check)


def arm_by_storing(remote: Remote, remote_dir: RemoteDir, content: bytes = b"first") -> None:
    """Arm a session by storing the file `first`."""
    store(remote, remote_dir, "first", content)
    quiet(remote)
    assert armed(remote) == 1
