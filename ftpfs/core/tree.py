"""The attribute and directory cache: what is known of the server's tree, and how long it counts.

Owns: listings with their age, single-flight fetching, and local changes to what is cached. Does not
know about open files: `filesystem` lays those over it.

The *generation guard*: what was asked before a change made from here is never believed after it. A
listing that was under way meanwhile may show the state before or after; so the names changed from
here are laid over it as they are known to be (asking again would never end in a directory that is
being filled while somebody lists it), and where no name can say it (a whole listing was given up,
or its directory moved), it is fetched again. A single look (`look_again`) is not filed then.

A name that is not in a fresh listing does not exist: that is the negative cache.

Threading: any. `_lock` guards everything; after a file's in the lock order; no I/O under it.
"""

from __future__ import annotations

import contextlib
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.remote import ListPath
from ftpfs.ftp.listing import Entry, Kind

# A directory that is given up all the time while it is being listed would never settle.
FETCHES = 4

# Entries kept at most (about 200 bytes each); the listings fetched first go first.
MAX_ENTRIES = 500_000

# Directories of which a single name is remembered.
MOST_SINGLES = 1024

ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


class _Directory:
    """A listing: entries by name, and when it was asked for."""

    __slots__ = ("_subdirectories", "ahead", "changes", "entries", "looked_at", "since")

    def __init__(self, entries: Iterable[Entry], since: float) -> None:
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries.setdefault(entry.name, entry)
        self.since = since
        # Entries that were looked at on their own after that, by name.
        self.looked_at: dict[str, float] = {}
        # How many changes were made to it from here.
        self.changes = 0
        self.ahead = False  # nobody has asked for it yet
        self._subdirectories: list[str] | None = None

    def subdirectories(self) -> list[str]:
        if self._subdirectories is None:
            self._subdirectories = [
                e.name for e in self.entries.values() if e.kind is Kind.DIRECTORY
            ]
        return self._subdirectories

    def set(self, name: str, entry: Entry | None) -> None:
        """A change made from here; None: the name is gone."""
        self.changes += 1
        known = self.entries.get(name)
        if Kind.DIRECTORY in (known and known.kind, entry and entry.kind):
            self._subdirectories = None
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry


class _Single:
    """The one name that was asked for in a directory that is not listed."""

    __slots__ = ("entry", "name", "since")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.since = since
        self.entry: Entry | None = None  # None: not known (yet), the listing has to tell


class _Fetch:
    """A listing under way, that others may wait for."""

    __slots__ = ("ahead", "changed", "directory", "done", "error", "spoiled")

    def __init__(self, *, ahead: bool = False) -> None:
        self.ahead = ahead  # nobody had asked for it when it began
        self.done = False
        self.spoiled = False  # it cannot be believed, whatever it shows
        self.changed: dict[str, Entry | None] = {}  # from here, since it began
        self.directory: _Directory  # once it is done without an error
        self.error: errors.FtpfsError | None = None


class Tree:
    """Directories of one server, listed by `fetch_list` when they are needed."""

    def __init__(
        self,
        fetch_list: ListPath,
        fetch_entry: Callable[[str], Entry],
        *,
        ttl: float,
        ahead: Callable[[], AbstractContextManager[ListPath]],
        peek: Callable[[str], Entry | None] = lambda _path: None,
        visited: Callable[[str], None] = lambda _path: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ahead()` is a connection that nobody else needs now, and lists with it; `peek(path)`
        asks for one name, where that is cheaper than its directory (None: it cannot tell);
        `visited` is told of each directory that is about to be looked into for the first time."""
        self._fetch_list = fetch_list
        self._ahead = ahead
        self._peek = peek
        self._visited = visited
        self._fetch_entry = fetch_entry
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Guarded by _lock:
        self._directories: dict[str, _Directory] = {}  # in the order they were fetched
        self._fetches: dict[str, _Fetch] = {}
        self._singles: dict[str, _Single] = {}  # by directory
        self._held = 0  # entries in all of them when they were fetched

    def lookup(self, path: str) -> Entry:
        """The entry at `path`: no round trip when its directory's listing is fresh.

        Raises NotFound, NotADirectory, and what fetching raises; never NotFound for a network
        that failed.
        """
        if path == "/":
            return ROOT
        parent, name = _split(path)
        with self._lock:
            directory = self._directories.get(parent)
            entries = directory.entries if directory and self._counts(directory) else None
        try:
            if entries is None:
                single = self._single(path, parent, name)
                if single is not None:
                    return single
                self._visited(parent)
                entries = self._entries(parent)
        except errors.PermissionDenied:
            # A directory that may be entered but not listed (mode 711): ask for the name itself.
            return self._fetch_entry(path)
        entry = entries.get(name)
        if entry is None:
            raise errors.NotFound(f"{path}: no such file or directory")
        return entry

    def _single(self, path: str, parent: str, name: str) -> Entry | None:
        """The first name that is asked for in a directory, asked for by itself: a path costs a
        round trip for each of its names then, however big the directories are. With the second name
        it looks as if more came, and the directory is listed (None)."""
        with self._lock:
            known = self._singles.get(parent)
            if known is not None and self._clock() - known.since < self._ttl:
                return known.entry if known.name == name else None
            if parent in self._fetches or parent in self._directories:
                return None
            single = self._singles[parent] = _Single(name, self._clock())
            while len(self._singles) > MOST_SINGLES:
                del self._singles[next(iter(self._singles))]
        entry = self._peek(path)
        if entry is None:
            return None
        self._visited(parent)
        with self._lock:
            if self._singles.get(parent) is single:  # else it was changed from here meanwhile
                single.entry = _named(entry, name)
        return _named(entry, name)

    def children(self, path: str) -> list[Entry]:
        """All entries of a directory, as listed."""
        entries = self._entries(path)
        with self._lock:
            return list(entries.values())

    def fresh(self, path: str) -> Mapping[str, Entry] | None:
        """The entries of a directory by name, while its listing counts; they go on changing with
        it. None: it would have to be fetched. No I/O."""
        with self._lock:
            directory = self._directories.get(path)
            return directory.entries if directory and self._is_fresh(directory) else None

    def known(self, path: str) -> list[Entry]:
        """The entries of a directory as far as they are known now, however old. No I/O."""
        with self._lock:
            directory = self._directories.get(path)
            return list(directory.entries.values()) if directory else []

    def age(self, path: str) -> float:
        """Seconds since the server was asked about this very entry; infinite if it never was."""
        parent, name = _split(path)
        with self._lock:
            directory = self._directories.get(parent)
            single = self._singles.get(parent)
            if single is not None and single.name == name and single.entry is not None:
                return self._clock() - single.since
            if directory is None:
                return float("inf")
            return self._clock() - directory.looked_at.get(name, directory.since)

    def look_again(self, path: str, look: Callable[[], Entry]) -> Entry:
        """What `look` finds out about a known entry, and files it unless the directory was changed
        from here meanwhile. NotFound from `look` means that the entry is gone."""
        parent, name = _split(path)
        with self._lock:
            directory = self._directories.get(parent)
            changes = directory.changes if directory else 0
            single = self._singles.get(parent)
        since = self._clock()
        try:
            entry = look()
        except errors.NotFound:
            self.forget(parent)
            raise
        with self._lock:
            if (
                directory is not None
                and directory is self._directories.get(parent)
                and changes == directory.changes
                and name in directory.entries
            ):
                directory.entries[name] = _named(entry, name)
                directory.looked_at[name] = since
            if single is not None and single is self._singles.get(parent) and single.name == name:
                single.entry, single.since = _named(entry, name), since
        return entry

    # Listings that nobody has asked for yet.

    def list_ahead(self, choose: Callable[[], str | None]) -> None:
        """List a directory before it is asked for: the one that `choose` names when there is a
        connection for it, if any. Who asks meanwhile waits for this listing. Raises what listing
        raises, to nobody else."""
        with self._ahead() as fetch_list:
            begun = self._begin_ahead(choose)
            if begun is None:
                return
            path, fetch = begun
            with self._ending(path, fetch):
                fetch.directory, settled = self._list_once(path, fetch, fetch_list)
                if not settled:
                    raise errors.FtpfsError(f"{path}: changed while it was being listed ahead")

    def subdirectories(self, path: str) -> Sequence[str] | None:
        """Their names as listed; the same object while they are the same. None: no listing counts.
        No I/O."""
        with self._lock:
            directory = self._directories.get(path)
            if directory is None or not self._is_fresh(directory):
                return None
            return directory.subdirectories()

    # Changes made from here, in place, as the server just confirmed them.

    def put(self, path: str, entry: Entry) -> None:
        """An entry that exists now."""
        with self._lock:
            self._set_locked(path, entry)

    def update(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None:
        """An entry whose mode or time (seconds) was set."""
        parent, name = _split(path)
        with self._lock:
            directory = self._directories.get(parent)
            entry = directory.entries.get(name) if directory else None
            if entry is None:
                self._forget_locked(parent)
                return
            if mode is not None:
                entry = replace(entry, mode=mode)
            if mtime is not None:
                entry = replace(entry, mtime=mtime, exact=True)
            self._set_locked(path, entry)

    def remove(self, path: str) -> None:
        """An entry that is gone, with everything below it."""
        with self._lock:
            self._remove_locked(path)

    def made_directory(self, path: str, entry: Entry) -> None:
        """A directory that was just made: it is known to be empty."""
        with self._lock:
            self._forget_below_locked(path)
            self._set_locked(path, entry)
            self._install_locked(path, _Directory([], self._clock()))

    def rename(self, old: str, new: str) -> None:
        """An entry that moved; what it replaced is gone. Listings below it move along."""
        old_parent, old_name = posixpath.split(old)
        with self._lock:
            source = self._directories.get(old_parent)
            entry = source.entries.get(old_name) if source else None
            moved = {
                new + path[len(old) :]: directory
                for path, directory in self._directories.items()
                if path == old or path.startswith(old + "/")
            }
            self._remove_locked(new)
            self._remove_locked(old)
            if entry is None:
                self._forget_locked(posixpath.dirname(new))
                return
            self._set_locked(new, entry)
            for path, directory in moved.items():
                self._install_locked(path, directory)

    def forget(self, path: str) -> None:
        """Do not believe the listing of `path` any more."""
        with self._lock:
            self._forget_locked(path)

    def forget_below(self, path: str) -> None:
        """Do not believe the listings of `path` and of what is below it any more."""
        with self._changed:
            self._forget_below_locked(path)

    # Inside.

    def _entries(self, path: str) -> dict[str, Entry]:
        """The fresh listing of `path`; fetched by one thread however many ask."""
        with self._lock:
            while True:
                directory = self._directories.get(path)
                if directory is not None and self._is_fresh(directory):
                    directory.ahead = False
                    return directory.entries
                fetch = self._fetches.get(path)
                if fetch is None:
                    fetch = self._fetches[path] = _Fetch()
                    break
                while not fetch.done:
                    self._changed.wait()
                if fetch.error is None:
                    fetch.directory.ahead = False
                    return fetch.directory.entries
                if not fetch.ahead:  # else nobody had asked for that one
                    raise errors.again(fetch.error) from fetch.error
        with self._ending(path, fetch):
            fetch.directory = self._list(path, fetch)
        return fetch.directory.entries

    def _begin_ahead(self, choose: Callable[[], str | None]) -> tuple[str, _Fetch] | None:
        while (path := choose()) is not None:
            with self._lock:
                directory = self._directories.get(path)
                known = directory is not None and self._is_fresh(directory)
                if not known and path not in self._fetches:
                    fetch = self._fetches[path] = _Fetch(ahead=True)
                    return path, fetch
        return None

    @contextlib.contextmanager
    def _ending(self, path: str, fetch: _Fetch) -> Iterator[None]:
        """Whatever comes of it, those who wait for the fetch are told."""
        try:
            yield
        except errors.FtpfsError as error:
            fetch.error = error
            raise
        except BaseException:
            fetch.error = errors.FtpfsError(f"{path}: listing failed")
            raise
        finally:
            with self._lock:
                fetch.done = True
                del self._fetches[path]
                self._changed.notify_all()

    def _counts(self, directory: _Directory) -> bool:
        """Whether nothing is to be done before it is used."""
        return self._is_fresh(directory) and not directory.ahead

    def _is_fresh(self, directory: _Directory) -> bool:
        return self._clock() - directory.since < self._ttl

    def _list(self, path: str, fetch: _Fetch) -> _Directory:
        for _ in range(FETCHES):
            directory, settled = self._list_once(path, fetch, self._fetch_list)
            if settled:
                break
        return directory

    def _list_once(self, path: str, fetch: _Fetch, fetch_list: ListPath) -> tuple[_Directory, bool]:
        """A listing, and whether it could be believed, and so was filed."""
        with self._lock:
            fetch.spoiled = False
            fetch.changed.clear()
        since = self._clock()
        directory = _Directory(fetch_list(path), since)
        directory.ahead = fetch.ahead
        with self._lock:
            for name, entry in fetch.changed.items():
                directory.set(name, entry)
            if not fetch.spoiled:
                self._install_locked(path, directory)
            return directory, not fetch.spoiled

    def _install_locked(self, path: str, directory: _Directory) -> None:
        self._drop_locked(path)
        self._singles.pop(path, None)
        self._directories[path] = directory
        self._held += len(directory.entries)
        while self._held > MAX_ENTRIES and len(self._directories) > 1:
            self._drop_locked(next(iter(self._directories)))

    def _drop_locked(self, path: str) -> None:
        directory = self._directories.pop(path, None)
        if directory is not None:
            self._held -= len(directory.entries)

    def _set_locked(self, path: str, entry: Entry | None) -> None:
        parent, name = _split(path)
        if entry is not None:
            entry = _named(entry, name)
        self._singles.pop(parent, None)
        fetch = self._fetches.get(parent)
        if fetch is not None:
            fetch.changed[name] = entry
        directory = self._directories.get(parent)
        if directory is not None:
            self._held -= len(directory.entries)
            directory.set(name, entry)
            directory.looked_at[name] = self._clock()
            self._held += len(directory.entries)

    def _remove_locked(self, path: str) -> None:
        parent, name = _split(path)
        directory = self._directories.get(parent)
        known = directory.entries.get(name) if directory else None
        self._set_locked(path, None)
        if directory is not None:
            directory.looked_at.pop(name, None)
        if known is None or known.kind is not Kind.FILE:  # below a file there is nothing
            self._forget_below_locked(path)

    def _forget_locked(self, path: str) -> None:
        fetch = self._fetches.get(path)
        if fetch is not None:
            fetch.spoiled = True
        self._singles.pop(path, None)
        self._drop_locked(path)

    def _forget_below_locked(self, path: str) -> None:
        below = path.rstrip("/") + "/"
        for known in [p for p in self._directories if p == path or p.startswith(below)]:
            self._drop_locked(known)
        for asked in [p for p in self._singles if p == path or p.startswith(below)]:
            del self._singles[asked]
        for fetched, fetch in self._fetches.items():
            if fetched == path or fetched.startswith(below):
                fetch.spoiled = True


def _split(path: str) -> tuple[str, str]:
    """posixpath.split of an absolute path; each `stat` comes by here, and it takes a third."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def _named(entry: Entry, name: str) -> Entry:
    return entry if entry.name == name else replace(entry, name=name)
