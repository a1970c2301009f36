"""The attribute and directory cache: what is known of the server's tree, and how long it counts.

Owns: listings with their age, single-flight fetching, and local changes to what is cached. Does not
know about open files: `filesystem` lays those over it.

A listing that was under way while the directory was changed from here is not installed: it may
show the state before the change. It is fetched again (the *generation guard*). A name that is not
in a fresh listing does not exist: that is the negative cache.

Threading: any. `_changed` guards everything; second in the lock order; no I/O under it.
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from ftpfs import errors
from ftpfs.ftp.listing import Entry, Kind

# A directory that is changed from here all the time while it is being listed would never settle.
FETCHES = 4

ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


class _Directory:
    """A listing: entries by name, and when it was asked for."""

    __slots__ = ("entries", "looked_at", "since")

    def __init__(self, entries: Iterable[Entry], since: float) -> None:
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries.setdefault(entry.name, entry)
        self.since = since
        # Entries that were looked at on their own after that, by name.
        self.looked_at: dict[str, float] = {}


class _Fetch:
    """A listing under way, that others may wait for."""

    __slots__ = ("done", "entries", "error", "spoiled")

    def __init__(self) -> None:
        self.done = False
        self.spoiled = False  # the directory was changed from here since it began
        self.entries: dict[str, Entry] = {}
        self.error: errors.FtpfsError | None = None


class Tree:
    """Directories of one server, listed by `fetch_list` when they are needed."""

    def __init__(
        self,
        fetch_list: Callable[[str], list[Entry]],
        fetch_entry: Callable[[str], Entry],
        *,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch_list = fetch_list
        self._fetch_entry = fetch_entry
        self._ttl = ttl
        self._clock = clock
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._directories: dict[str, _Directory] = {}
        self._fetches: dict[str, _Fetch] = {}

    def lookup(self, path: str) -> Entry:
        """The entry at `path`: no round trip when its directory's listing is fresh.

        Raises NotFound, NotADirectory, and what fetching raises; never NotFound for a network
        that failed.
        """
        if path == "/":
            return ROOT
        parent, name = posixpath.split(path)
        try:
            entries = self._entries(parent)
        except errors.PermissionDenied:
            # A directory that may be entered but not listed (mode 711): ask for the name itself.
            return self._fetch_entry(path)
        entry = entries.get(name)
        if entry is None:
            raise errors.NotFound(f"{path}: no such file or directory")
        return entry

    def children(self, path: str) -> list[Entry]:
        """All entries of a directory, as listed."""
        return list(self._entries(path).values())

    def age(self, path: str) -> float:
        """Seconds since the server was asked about this very entry; infinite if it never was."""
        parent, name = posixpath.split(path)
        with self._changed:
            directory = self._directories.get(parent)
            if directory is None:
                return float("inf")
            return self._clock() - directory.looked_at.get(name, directory.since)

    # Changes made from here, in place.

    def put(self, path: str, entry: Entry) -> None:
        """An entry that exists now, as the server just confirmed."""
        parent, name = posixpath.split(path)
        with self._changed:
            self._spoil_locked(parent)
            directory = self._directories.get(parent)
            if directory is not None:
                directory.entries[name] = entry if entry.name == name else replace(entry, name=name)
                directory.looked_at[name] = self._clock()

    def remove(self, path: str) -> None:
        """An entry that is gone, with everything below it."""
        parent, name = posixpath.split(path)
        with self._changed:
            self._spoil_locked(parent)
            directory = self._directories.get(parent)
            if directory is not None:
                directory.entries.pop(name, None)
                directory.looked_at.pop(name, None)
            self._forget_below_locked(path)

    def made_directory(self, path: str, entry: Entry) -> None:
        """A directory that was just made: it is known to be empty."""
        self.put(path, entry)
        with self._changed:
            self._directories[path] = _Directory([], self._clock())

    def rename(self, old: str, new: str) -> None:
        """An entry that moved; what it replaced is gone. Listings below it move along."""
        old_parent, old_name = posixpath.split(old)
        with self._changed:
            source = self._directories.get(old_parent)
            entry = source.entries.get(old_name) if source else None
            self._forget_below_locked(new)
            moved = {
                new + path[len(old) :]: directory
                for path, directory in self._directories.items()
                if path == old or path.startswith(old + "/")
            }
        self.remove(old)
        if entry is not None:
            self.put(new, entry)
        else:
            self.forget(posixpath.dirname(new))
        with self._changed:
            self._directories.update(moved)

    def forget(self, path: str) -> None:
        """Do not believe the listing of `path` any more."""
        with self._changed:
            self._spoil_locked(path)
            self._directories.pop(path, None)

    # Inside.

    def _entries(self, path: str) -> dict[str, Entry]:
        """The fresh listing of `path`; fetched by one thread however many ask."""
        with self._changed:
            directory = self._directories.get(path)
            if directory is not None and self._clock() - directory.since < self._ttl:
                return directory.entries
            fetch = self._fetches.get(path)
            if fetch is not None:
                while not fetch.done:
                    self._changed.wait()
                if fetch.error is not None:
                    raise type(fetch.error)(str(fetch.error))
                return fetch.entries
            fetch = self._fetches[path] = _Fetch()
        try:
            fetch.entries = self._list(path, fetch)
        except errors.FtpfsError as error:
            fetch.error = error
            raise
        except BaseException:
            fetch.error = errors.FtpfsError(f"{path}: listing failed")
            raise
        finally:
            with self._changed:
                fetch.done = True
                del self._fetches[path]
                self._changed.notify_all()
        return fetch.entries

    def _list(self, path: str, fetch: _Fetch) -> dict[str, Entry]:
        for _ in range(FETCHES):
            with self._changed:
                fetch.spoiled = False
            since = self._clock()
            directory = _Directory(self._fetch_list(path), since)
            with self._changed:
                if not fetch.spoiled:
                    self._directories[path] = directory
                    break
        return directory.entries

    def _spoil_locked(self, path: str) -> None:
        fetch = self._fetches.get(path)
        if fetch is not None:
            fetch.spoiled = True

    def _forget_below_locked(self, path: str) -> None:
        below = path + "/"
        for known in [p for p in self._directories if p == path or p.startswith(below)]:
            del self._directories[known]
        for fetched, fetch in self._fetches.items():
            if fetched == path or fetched.startswith(below):
                fetch.spoiled = True
