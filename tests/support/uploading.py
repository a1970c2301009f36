"""Helpers for tests of uploads: contents, deadlines, and checks of the server's disk."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.support.relay import Relay

NETWORK = Network(
    connect_timeout=2.0, reply_timeout=2.0, data_timeout=2.0, finish_timeout=1.5, max_connections=4
)
WHEN = 1_600_000_000
MEG = 1 << 20


class Local:
    """Content in a local file. `each` is called with the offset before a chunk is returned."""

    def __init__(
        self,
        data: bytes,
        *,
        mtime: int | None = WHEN,
        mode: int | None = None,
        each: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with this object)
        self._file.write(data)
        self._file.flush()
        self._size = len(data)
        self._attributes = mtime, mode
        self._each = each
        self.taken = threading.Event()

    def fileno(self) -> int:
        return self._file.fileno()

    def ready(self, offset: int) -> int:
        self._each(offset)
        return max(offset, self._size)

    def whole(self) -> int | None:
        return self._size

    def accepted(self) -> None:
        assert not self.taken.is_set()
        self.taken.set()

    def mode(self) -> int | None:
        return self._attributes[1]

    def attributes(self) -> tuple[int | None, int | None]:
        return self._attributes


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def found(remote: Remote, path: str) -> Entry:
    """What a mount would know about the file."""
    return next(entry for entry in remote.list("/") if entry.name == path[1:])


def mode_of(place: RemoteDir, name: str) -> int:
    return (place.disk / name).stat().st_mode & 0o777


def sent_up(relay: Relay) -> int:
    """Bytes of contents that have passed the relay to the server."""
    return relay.data_bytes("up")


def conflicts(remote: Remote, place: RemoteDir, base: Entry | None, then: bytes) -> None:
    """Check that an upload of other content is refused, and the server's file stays unchanged."""
    before = (place.disk / "file").stat()
    with pytest.raises(errors.Conflict):
        remote.store("/file", Local(b"mine", mtime=WHEN + 7), base=base)
    assert on_disk(place.disk) == {"file": then}
    assert (place.disk / "file").stat().st_mtime == before.st_mtime
