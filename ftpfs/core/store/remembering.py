"""A remote that notes in the store what the server tells of its names.

Owns which answers, and which changes by this mount, the stored listings learn of. Every call goes
to the server as before; noting costs no I/O (`listings`).

Threading: any thread, as the remote below.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Sequence

from ftpfs import errors
from ftpfs.core.store.listings import StoredListings
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from ftpfs.model.remote import Content, Download, ListPath, Remote, Space

Entries = list[Entry]


class RememberingRemote:
    """The server `remote`, whose names are noted in `listings`.

    One idea: the protocol of a server, method by method.
    """

    def __init__(self, remote: Remote, listings: StoredListings) -> None:
        self._remote = remote
        self._listings = listings

    # Looking.

    def list(self, path: str) -> list[Entry]:
        return self._listed(self._remote.list, path)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[ListPath]:
        with self._remote.ahead() as fetch:
            yield lambda path: self._listed(fetch, path)

    @contextlib.contextmanager
    def behind(self) -> Iterator[ListPath]:
        with self._remote.behind() as fetch:
            yield lambda path: self._listed(fetch, path)

    def _listed(self, fetch: ListPath, path: str) -> Entries:
        try:
            entries = fetch(path)
        except (errors.NotFound, errors.NotADirectory):
            self._listings.forget(path)
            raise
        self._listings.listed(path, entries)
        return entries

    def peek(self, path: str) -> Entry | None:
        entry = self._remote.peek(path)
        if entry is not None:
            self._listings.told(path, entry)
        return entry

    def stat(self, path: str) -> Entry:
        with self._noting_loss(path):
            entry = self._remote.stat(path)
        self._listings.told(path, entry)
        return entry

    def look_again(self, path: str, entry: Entry) -> Entry:
        with self._noting_loss(path):
            seen = self._remote.look_again(path, entry)
        self._listings.told(path, seen)
        return seen

    @contextlib.contextmanager
    def _noting_loss(self, path: str) -> Iterator[None]:
        try:
            yield
        except errors.NotFound:
            self._listings.told(path, None)
            raise

    def read_link(self, path: str, target: str | None) -> str:
        return self._remote.read_link(path, target)

    def space(self) -> Space | None:
        return self._remote.space()

    def round_trip(self) -> float:
        return self._remote.round_trip()

    def warm(self, sessions: int) -> None:
        self._remote.warm(sessions)

    # Contents.

    def open_read(
        self,
        path: str,
        offset: int = 0,
        *,
        give_way: Callable[[], None] | None = None,
        expect: Entry | None = None,
        ahead: bool = False,
    ) -> Download:
        return self._remote.open_read(path, offset, give_way=give_way, expect=expect, ahead=ahead)

    def store(self, path: str, content: Content, *, base: Entry | None) -> Entry:
        return self._has(path, self._remote.store(path, content, base=base))

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], *, base: Entry
    ) -> Entry:
        return self._has(path, self._remote.patch(path, content, ranges, base=base))

    def append(self, path: str, content: Content, start: int, end: int, *, base: Entry) -> Entry:
        return self._has(path, self._remote.append(path, content, start, end, base=base))

    def _has(self, path: str, entry: Entry) -> Entry:
        self._listings.told(path, entry)
        return entry

    def takes_files(self, path: str) -> bool:
        return self._remote.takes_files(path)

    # Changing.

    def check_name(self, path: str) -> None:
        self._remote.check_name(path)

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        self._remote.mkdir(path, before=before)
        self._listings.told(path, Entry(posixpath.basename(path), Kind.DIRECTORY))
        self._listings.listed(path, [])

    def rmdir(self, path: str) -> None:
        self._remote.rmdir(path)
        self._listings.told(path, None)

    def remove(self, path: str) -> None:
        self._remote.remove(path)
        self._listings.told(path, None)

    def aside(self, path: str) -> str:
        return self._remote.aside(path)

    def replaces(self) -> bool | None:
        return self._remote.replaces()

    def rename(
        self, old: str, new: str, *, replace: bool, aside: str = "", keep: bool = False
    ) -> None:
        self._remote.rename(old, new, replace=replace, aside=aside, keep=keep)
        self._listings.moved(old, new)

    def check_removable(self, path: str, aside: str) -> None:
        self._remote.check_removable(path, aside)

    def chmod(self, path: str, mode: int) -> None:
        self._remote.chmod(path, mode)
        self._listings.was_set(path, mode=mode)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        shown = self._remote.set_mtime(path, seconds, directory=directory)
        self._listings.was_set(path, mtime=shown)
        return shown

    def doubts_size(self, entry: Entry) -> bool:
        return self._remote.doubts_size(entry)

    def is_same_time(self, first: int, second: int) -> bool:
        return self._remote.is_same_time(first, second)

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        return self._remote.sets_on_folders()

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        return self._remote.set_on_folders(wanted)
