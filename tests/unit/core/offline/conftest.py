"""A server in memory that goes away, and what a mount has of it: listings, a journal, steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs.core.offline.replay import Replay
from ftpfs.core.offline.steps import StepRows
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.core.store.remembering import RememberingRemote
from ftpfs.core.writing.journal import Journal
from ftpfs.model.entry import Kind
from tests.support.memory_remote import MemoryRemote

Tree = dict[str, bytes | None]  # by path; None: a folder


class Away:
    """What a mount has of `server`, which is away. `kill` makes a new one from the disk."""

    def __init__(self, place: Path, server: MemoryRemote) -> None:
        self._place = place
        self.server = server
        self._open()

    def _open(self) -> None:
        self.listings = StoredListings(self._place / "store", 64 << 20)
        self.journal = Journal(self._place)
        self.presence = Presence(lambda: None, lambda: True, seeks=False)
        self.rows = StepRows(self.journal)
        self.waiting = Waiting(self.rows, self.listings, self.presence)
        self.replay = Replay(self.server, self.waiting)
        self.remote = RememberingRemote(self.server, self.listings, self.presence, self.waiting)

    def leave(self) -> None:
        self.presence.leave("a test")

    def close(self) -> None:
        self.listings.close()
        self.journal.close()

    def kill(self) -> None:
        """The process ends without a word. The next one finds the server away, too."""
        self.close()
        self._open()
        self.leave()

    def learn(self, path: str = "/") -> None:
        """List everything below a folder."""
        for entry in self.remote.list(path):
            if entry.kind is Kind.DIRECTORY:
                self.learn(f"{path.rstrip('/')}/{entry.name}")

    def names(self, path: str = "/") -> set[tuple[str, int | None]]:
        """All that is shown: paths, and sizes of files (None: a folder)."""
        found: set[tuple[str, int | None]] = set()
        for entry in self.remote.list(path):
            inside = f"{path.rstrip('/')}/{entry.name}"
            assert self.remote.stat(inside) == entry
            if entry.kind is Kind.DIRECTORY:
                found |= {(inside, None)} | self.names(inside)
            else:
                found.add((inside, entry.size))
        return found


@pytest.fixture
def server() -> MemoryRemote:
    return MemoryRemote()


@pytest.fixture
def away(tmp_path: Path, server: MemoryRemote) -> Iterator[Away]:
    made = Away(tmp_path, server)
    yield made
    made.close()


def tree_of(server: MemoryRemote) -> Tree:
    """What the server has."""
    return {**dict.fromkeys(server.directories() - {"/"}), **server.files()}
