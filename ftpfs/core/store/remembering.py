"""A remote that remembers what the server told of its names, and goes on while the server is away.

Owns which answers, and which changes by this mount, the stored listings learn of; and what is
answered from them. `presence` knows whether the server is away. Noting costs no I/O (`listings`).

**While the server is away**, looks are answered as the server told last: a folder by its stored
listing, a file by its stored entry. A name that a stored listing lacks does not exist, because
programs need that answer all the time (a lock file, a journal). A folder that was never listed, a
content that is not stored, and every change raise Offline. Uploads do, too: the queue keeps them.

When a call finds out that the server has gone, it is answered from the store at once.

Threading: any thread, as the remote below.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Sequence

from ftpfs import errors
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from ftpfs.model.names import is_hidden, split
from ftpfs.model.remote import Content, Download, ListPath, Remote, Space

Entries = list[Entry]


class _Empty:
    """The content of a file that the server called empty."""

    confirmed = False

    def read(self, _size: int) -> bytes:
        return b""

    def goes_on(self) -> bool:
        return False

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class RememberingRemote:
    """The server `remote`, whose names are noted in `listings`.

    One idea: the protocol of a server, method by method.
    """

    def __init__(self, remote: Remote, listings: StoredListings, presence: Presence) -> None:
        self._remote = remote
        self._listings = listings
        self._presence = presence
        self._was_here = False  # the server has answered since the mount; set by any thread

    def is_offline(self) -> bool:
        return self._presence.is_away

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Around a question to the server. Raises Offline while it is away."""
        if self._presence.is_away:
            raise errors.Offline("the server is away")
        try:
            yield
        except errors.NetworkError as error:
            self._presence.note_failure(error)
            raise
        self._was_here = True

    # Looking.

    def list(self, path: str) -> list[Entry]:
        return self._listed(self._remote.list, path)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[ListPath]:
        if self._presence.is_away:
            yield self._stored
            return
        with self._remote.ahead() as fetch:
            yield lambda path: self._listed(fetch, path)

    @contextlib.contextmanager
    def behind(self) -> Iterator[ListPath]:
        if self._presence.is_away:
            yield self._stored
            return
        with self._remote.behind() as fetch:
            yield lambda path: self._listed(fetch, path)

    def _listed(self, fetch: ListPath, path: str) -> Entries:
        try:
            with self._asking():
                entries = fetch(path)
        except (errors.NotFound, errors.NotADirectory):
            self._listings.forget(path)
            raise
        except errors.NetworkError:
            if self._presence.is_away:
                return self._stored(path)
            raise
        self._listings.listed(path, entries)
        return entries

    def _stored(self, path: str) -> Entries:
        entries = self._listings.entries(path)
        if entries is None:
            raise errors.Offline(f"{path}: the server is away, and this folder is not stored here")
        # This mount, or one that was killed, has renamed files to hidden names.
        return [entry for entry in entries if not is_hidden(entry.name)]

    def peek(self, path: str) -> Entry | None:
        try:
            with self._asking():
                entry = self._remote.peek(path)
        except errors.NetworkError:
            if self._presence.is_away:
                return self._listings.entry(path)
            raise
        if entry is not None:
            self._listings.told(path, entry)
        return entry

    def stat(self, path: str) -> Entry:
        return self._looked_at(path, lambda: self._remote.stat(path))

    def look_again(self, path: str, entry: Entry) -> Entry:
        return self._looked_at(path, lambda: self._remote.look_again(path, entry))

    def _looked_at(self, path: str, look: Callable[[], Entry]) -> Entry:
        try:
            with self._asking():
                entry = look()
        except errors.NotFound:
            self._listings.told(path, None)
            raise
        except errors.NetworkError:
            if self._presence.is_away:
                return self._remembered(path)
            raise
        self._listings.told(path, entry)
        return entry

    def _remembered(self, path: str) -> Entry:
        entry = self._listings.entry(path)
        if entry is not None:
            return entry
        if self._listings.entries(split(path)[0]) is not None:
            raise errors.NotFound(f"{path}: no such file or directory")
        raise errors.Offline(f"{path}: the server is away, and this name is not stored here")

    def read_link(self, path: str, target: str | None) -> str:
        if self._presence.is_away and target is not None and not target.startswith("/"):
            folder = posixpath.dirname(path)
            inside = posixpath.normpath(posixpath.join(folder, target))
            return posixpath.relpath(inside.replace("//", "/"), folder)
        with self._asking():
            return self._remote.read_link(path, target)

    def space(self) -> Space | None:
        if self._presence.is_away:
            return None
        with self._asking():
            return self._remote.space()

    def round_trip(self) -> float:
        return self._remote.round_trip()

    def warm(self, sessions: int) -> None:
        if not self._presence.is_away:
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
        if self._presence.is_away:
            stored = self._listings.entry(path)
            if stored is not None and stored.size == 0:
                return _Empty()
            raise errors.Offline(f"{path}: the server is away, and this content is not stored here")
        with self._asking():
            return self._remote.open_read(
                path, offset, give_way=give_way, expect=expect, ahead=ahead
            )

    def store(self, path: str, content: Content, *, base: Entry | None) -> Entry:
        with self._asking():
            return self._has(path, self._remote.store(path, content, base=base))

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], *, base: Entry
    ) -> Entry:
        with self._asking():
            return self._has(path, self._remote.patch(path, content, ranges, base=base))

    def append(self, path: str, content: Content, start: int, end: int, *, base: Entry) -> Entry:
        with self._asking():
            return self._has(path, self._remote.append(path, content, start, end, base=base))

    def _has(self, path: str, entry: Entry) -> Entry:
        self._listings.told(path, entry)
        return entry

    def takes_files(self, path: str) -> bool:
        with self._asking():
            return self._remote.takes_files(path)

    # Changing.

    def check_name(self, path: str) -> None:
        # Before the first login, the length of the server's paths is not known.
        if self._was_here or not self._presence.is_away:
            self._remote.check_name(path)

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        with self._asking():
            self._remote.mkdir(path, before=before)
        self._listings.told(path, Entry(posixpath.basename(path), Kind.DIRECTORY))
        self._listings.listed(path, [])

    def rmdir(self, path: str) -> None:
        with self._asking():
            self._remote.rmdir(path)
        self._listings.told(path, None)

    def remove(self, path: str) -> None:
        with self._asking():
            self._remote.remove(path)
        self._listings.told(path, None)

    def aside(self, path: str) -> str:
        return self._remote.aside(path)

    def replaces(self) -> bool | None:
        return self._remote.replaces()

    def rename(
        self, old: str, new: str, *, replace: bool, aside: str = "", keep: bool = False
    ) -> None:
        with self._asking():
            self._remote.rename(old, new, replace=replace, aside=aside, keep=keep)
        self._listings.moved(old, new)

    def check_removable(self, path: str, aside: str) -> None:
        with self._asking():
            self._remote.check_removable(path, aside)

    def chmod(self, path: str, mode: int) -> None:
        with self._asking():
            self._remote.chmod(path, mode)
        self._listings.was_set(path, mode=mode)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        with self._asking():
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
        with self._asking():
            return self._remote.set_on_folders(wanted)
