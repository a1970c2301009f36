"""A remote that remembers what the server told of its names, and goes on while the server is away.

Owns which answers, and which changes by this mount, the stored listings learn of; and what is
answered from them. `presence` knows whether the server is away. Noting costs no I/O (`listings`).

**While the server is away**, looks are answered as the server told last: a folder by its stored
listing, a file by its stored entry. A name that a stored listing lacks does not exist, because
programs need that answer all the time (a lock file, a journal). A folder that was never listed and
a content that is not stored raise Offline. Uploads do, too: the queue keeps them. Changes of names
become steps that wait (`offline.waiting`), and show at once.

When a call finds out that the server has gone, it is answered from the store at once.

Threading: any thread, as the remote below.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence

from ftpfs import errors
from ftpfs.core.offline.waiting import IsHere, Waiting
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.model.entry import Entry, FolderAttributes, Kind, Trace
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

    def __init__(
        self, remote: Remote, listings: StoredListings, presence: Presence, waiting: Waiting
    ) -> None:
        self._remote = remote
        self._listings = listings
        self._presence = presence
        self._waiting = waiting
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
        return self._waiting.entries(path)

    def peek(self, path: str) -> Entry | None:
        try:
            with self._asking():
                entry = self._remote.peek(path)
        except errors.NetworkError:
            if self._presence.is_away:
                return self._waiting.known(path)
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
                return self._waiting.entry(path)
            raise
        self._listings.told(path, entry)
        return entry

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
            stored = self._waiting.known(path)
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

    def _is_noted(self, note: Callable[[], None], now: Callable[[], object]) -> bool:
        """Change something on the server (`now`), or if it is away, later (`note`).

        Returns whether it was noted. If the network fails after the server was asked, nobody knows
        whether it did it: then nothing is noted.
        """
        with contextlib.suppress(IsHere):
            note()
            return True
        try:
            with self._asking():
                now()
        except errors.NetworkError as error:
            if error.asked or not self._presence.is_away:
                raise
            with contextlib.suppress(IsHere):
                note()
                return True
            raise
        return False

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        if not self._is_noted(
            lambda: self._waiting.mkdir(path, before),
            lambda: self._remote.mkdir(path, before=before),
        ):
            self._listings.told(path, Entry(posixpath.basename(path), Kind.DIRECTORY))
            self._listings.listed(path, [])

    def rmdir(self, path: str) -> None:
        if not self._is_noted(lambda: self._waiting.rmdir(path), lambda: self._remote.rmdir(path)):
            self._listings.told(path, None)

    def remove(self, path: str, *, traces: Collection[Trace] = ()) -> None:
        if not self._is_noted(
            lambda: self._waiting.remove(path, traces), lambda: self._remote.remove(path)
        ):
            self._listings.told(path, None)

    def aside(self, path: str) -> str:
        return self._remote.aside(path)

    def replaces(self) -> bool | None:
        # A step moves nothing aside: the replay deletes what is replaced.
        return True if self._presence.is_away else self._remote.replaces()

    def rename(
        self,
        old: str,
        new: str,
        *,
        replace: bool,
        aside: str = "",
        keep: bool = False,
        traces: Collection[Trace] = (),
    ) -> None:
        if not self._is_noted(
            lambda: self._waiting.rename(old, new, aside=aside if keep else "", traces=traces),
            lambda: self._remote.rename(old, new, replace=replace, aside=aside, keep=keep),
        ):
            self._listings.moved(old, new)

    def check_removable(self, path: str, aside: str) -> None:
        if self._presence.is_away:
            return  # a refusal shows when the server is back
        with self._asking():
            self._remote.check_removable(path, aside)

    def chmod(self, path: str, mode: int) -> None:
        if not self._is_noted(
            lambda: self._waiting.set(FolderAttributes(path, mode, None)),
            lambda: self._remote.chmod(path, mode),
        ):
            self._listings.was_set(path, mode=mode)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        if directory:
            shown = seconds

            def set_it() -> None:
                nonlocal shown
                shown = self._remote.set_mtime(path, seconds, directory=True)

            if self._is_noted(
                lambda: self._waiting.set(FolderAttributes(path, None, seconds)), set_it
            ):
                return seconds
        else:
            # Offline, no: a file is known by its time, and the server may round the new one.
            with self._asking():
                shown = self._remote.set_mtime(path, seconds)
        self._listings.was_set(path, mtime=shown)
        return shown

    def doubts_size(self, entry: Entry) -> bool:
        return self._remote.doubts_size(entry)

    def is_same_time(self, first: int, second: int) -> bool:
        return self._remote.is_same_time(first, second)

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        return self._remote.sets_on_folders()

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        refused: Sequence[tuple[str, str]] = ()

        def set_them() -> None:
            nonlocal refused
            refused = self._remote.set_on_folders(wanted)

        self._is_noted(lambda: self._waiting.set(*wanted), set_them)
        return refused
