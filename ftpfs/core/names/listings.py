"""Cached listings, and the changes that this mount lays over them.

Owns what is known of each directory: its listing or a single name of it, the listings under way,
and the bound of all. Decides nothing about age: `tree` does, and it fetches.

Threading: the tree's lock guards everything here. No I/O.
"""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ftpfs import errors
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import split

# Limit of cached entries (about 200 bytes each). The oldest listings are evicted first.
MAX_ENTRIES = 500_000

# Limit of directories of which a single name is cached.
MAX_SINGLES = 1024

ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


class Directory:
    """A listing: the entries by name, and the times that tell its age.

    Attributes:
        since: when the server was asked for the listing.
        took: how long the listing took (seconds).
        checked: the later of `since` and the last failed attempt to list the directory again.
        asked: when a look behind an answer was asked for.
        looked_at: when single entries were asked for, or changed here, after `since`, by name.
        asked_names: missing names that are asked for by themselves now, with the time of asking.
        asks_from: no missing name is asked for by itself before this time.
        ahead: no program has asked for the listing yet.
    """

    __slots__ = (
        "_subdirectories",
        "ahead",
        "asked",
        "asked_names",
        "asks_from",
        "checked",
        "entries",
        "looked_at",
        "since",
        "took",
    )

    def __init__(self, entries: Iterable[Entry], since: float) -> None:
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries.setdefault(entry.name, entry)
        self.since = since
        self.took = 0.0
        self.checked = since
        self.asked = float("-inf")
        self.looked_at: dict[str, float] = {}
        self.asked_names: dict[str, float] = {}
        self.asks_from = float("-inf")
        self.ahead = False
        self._subdirectories: list[str] | None = None

    def subdirectories(self) -> list[str]:
        if self._subdirectories is None:
            self._subdirectories = [
                e.name for e in self.entries.values() if e.kind is Kind.DIRECTORY
            ]
        return self._subdirectories

    def follows(self, before: Directory) -> None:
        """This listing replaces that one: names of sub-directories that stayed are one object.

        So a walk through them goes on (`walks`).
        """
        names = before._subdirectories
        if names is not None and names == self.subdirectories():
            self._subdirectories = names

    def set(self, name: str, entry: Entry | None) -> None:
        """Apply a change made by this mount; None: the name is gone."""
        known = self.entries.get(name)
        if Kind.DIRECTORY in (known and known.kind, entry and entry.kind):
            self._subdirectories = None
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry


class Single:
    """The one name that was looked up in a directory that is not listed."""

    __slots__ = ("entry", "name", "since")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.since = since
        self.entry: Entry | None = None  # None: not known (yet), only the listing tells


class For(enum.Enum):
    """For whom a listing is made."""

    PROGRAM = "a program that waits for it"
    WALK = "a program that will ask for it next, as it seems"
    REFRESH = "nobody: a program has been answered from the listing before"


class Fetch:
    """A listing under way, which other threads may wait for.

    Attributes:
        purpose: for whom it was begun.
        spoiled: the listing must not be cached, whatever it shows.
        begun: the `time.monotonic()` of its beginning.
        since: when the server was asked for it.
        changed: entries that this mount changed, or looked at singly, since then. None: gone.
        directory: the result; set unless the listing fails.
        before: the listing that the result replaced in the cache.
    """

    __slots__ = (
        *("before", "begun", "changed", "directory", "done", "error", "purpose", "since"),
        "spoiled",
    )

    def __init__(self, purpose: For = For.PROGRAM) -> None:
        self.purpose = purpose
        self.begun = time.monotonic()
        self.done = False
        self.spoiled = False
        self.since = 0.0
        self.changed: dict[str, Entry | None] = {}
        self.directory: Directory
        self.before: Directory | None = None
        self.error: errors.FtpfsError | None = None

    def until(self, patience: float | None) -> float | None:
        """When it will have been under way for `patience` seconds. None: no limit."""
        return None if patience is None else self.begun + patience

    def entries(self) -> dict[str, Entry]:
        """The result, which a program has asked for. Raises the error, if the listing failed."""
        if self.error is not None:
            raise errors.again(self.error) from self.error
        self.directory.ahead = False
        return self.directory.entries


class Listings:
    """The cached directories of one server.

    Attributes:
        directories: the listings, oldest first.
        fetches: the listings under way, by directory.
        singles: the single names, by directory.
        root: the entry of "/". It is replaced as a whole, so it may be read without the lock.
    """

    def __init__(self, clock: Callable[[], float], now: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._now = now
        self.directories: dict[str, Directory] = {}
        self.fetches: dict[str, Fetch] = {}
        self.singles: dict[str, Single] = {}
        self.root = ROOT
        self._held = 0  # entries in all listings
        self._at_or_below: Counter[str] = Counter()  # how many listings, for each path above one

    def entry(self, path: str) -> Entry | None:
        """The entry in the listing of its directory, however old."""
        parent, name = split(path)
        directory = self.directories.get(parent)
        return directory.entries.get(name) if directory else None

    def seen(self, path: str) -> tuple[Entry | None, float]:
        """The entry, however old, and when the server was asked for it (-inf: never)."""
        parent, name = split(path)
        directory = self.directories.get(parent)
        single = self.singles.get(parent)
        if single is not None and single.name == name and single.entry is not None:
            return single.entry, single.since
        if directory is None:
            return None, float("-inf")
        return directory.entries.get(name), directory.looked_at.get(name, directory.since)

    # What the server told.

    def begin_single(self, parent: str, name: str) -> Single:
        """A name is looked up by itself, the first one of its directory."""
        single = self.singles[parent] = Single(name, self._clock())
        while len(self.singles) > MAX_SINGLES:
            del self.singles[next(iter(self.singles))]
        return single

    def add(self, path: str, directory: Directory) -> None:
        """Cache a listing. The oldest ones are evicted if there are too many entries."""
        if before := self._drop(path):
            directory.follows(before)
        self.singles.pop(path, None)
        self.directories[path] = directory
        self._at_or_below.update(_upwards(path))
        self._held += len(directory.entries)
        while self._held > MAX_ENTRIES and len(self.directories) > 1:
            self._drop(next(iter(self.directories)))

    def note_look(self, path: str, entry: Entry, known: Entry | None, since: float) -> None:
        """Cache what a look at one entry since `since` saw; `known` was its entry then.

        If this mount changed the entry meanwhile, or a later listing shows it, nothing is cached. A
        listing under way gets the result, too: it may show the entry as it was before.
        """
        parent, name = split(path)
        fetch = self.fetches.get(parent)
        if fetch is not None and fetch.since <= since and name not in fetch.changed:
            fetch.changed[name] = named(entry, name)
        directory = self.directories.get(parent)
        now = self.entry(path)
        if directory is None or now is None:
            return
        listed_before = directory.since <= since and name not in directory.looked_at
        if now is known or listed_before:
            directory.entries[name] = named(entry, name)
            directory.looked_at[name] = since

    def note_found(self, path: str, directory: Directory, entry: Entry, since: float) -> None:
        """Cache an entry that its listing lacks, and that was asked for at `since`.

        If this mount changed the name meanwhile, or the directory was listed, nothing is cached.
        """
        parent, name = split(path)
        if (
            directory.asked_names.get(name) != since
            or self.directories.get(parent) is not directory
        ):
            return
        fetch = self.fetches.get(parent)
        if fetch is not None and fetch.since <= since and name not in fetch.changed:
            fetch.changed[name] = entry
        self._held += name not in directory.entries
        directory.set(name, entry)
        directory.looked_at[name] = since

    # What this mount changed.

    def put(self, path: str, entry: Entry | None) -> None:
        """Cache an entry that exists now; None: it is gone."""
        parent, name = split(path)
        if entry is not None:
            entry = named(entry, name)
        self.singles.pop(parent, None)
        fetch = self.fetches.get(parent)
        if fetch is not None:
            fetch.changed[name] = entry
        directory = self.directories.get(parent)
        if entry is None or directory is None or name not in directory.entries:
            self.names_changed(parent)
        if directory is not None:
            self._held -= len(directory.entries)
            directory.asked_names.pop(name, None)
            directory.set(name, entry)
            directory.looked_at[name] = self._clock()
            self._held += len(directory.entries)

    def names_changed(self, folder: str) -> None:
        """Show a new time for a directory that a name has come to, or has left."""
        now = int(self._now())
        if folder == "/":
            self.root = replace(ROOT, mtime=now)
            return
        above, name = split(folder)
        directory, single = self.directories.get(above), self.singles.get(above)
        known = directory.entries.get(name) if directory is not None else None
        if directory is not None and known is not None and (known.mtime != now or known.exact):
            directory.entries[name] = replace(known, mtime=now, exact=False)
        if single is not None and single.name == name and single.entry is not None:
            single.entry = replace(single.entry, mtime=now, exact=False)

    def update(self, path: str, mode: int | None, mtime: int | None) -> None:
        """The mode or the time (seconds) of an entry was set."""
        entry = self.entry(path)
        if entry is None:
            self.forget(split(path)[0])
            return
        if mode is not None:
            entry = replace(entry, mode=mode)
        if mtime is not None:
            entry = replace(entry, mtime=mtime, exact=True)
        self.put(path, entry)

    def made_directory(self, path: str, entry: Entry) -> None:
        self.forget_below(path)
        self.put(path, entry)
        self.add(path, Directory([], self._clock()))

    def remove(self, path: str) -> None:
        """Drop an entry that is gone, with everything below it."""
        parent, name = split(path)
        directory = self.directories.get(parent)
        known = directory.entries.get(name) if directory else None
        self.put(path, None)
        if directory is not None:
            directory.looked_at.pop(name, None)
        if known is None or known.kind is not Kind.FILE:  # a file has nothing below it
            self.forget_below(path)

    def rename(self, old: str, new: str) -> None:
        """Move an entry, with the listings below it. The entry that it replaced is gone."""
        entry = self.entry(old)
        moved = {new + path[len(old) :]: self.directories[path] for path in self._known_below(old)}
        self.remove(new)
        self.remove(old)
        if entry is None:
            self.forget(split(new)[0])
            return
        self.put(new, entry)
        for path, directory in moved.items():
            self.add(path, directory)

    def forget(self, path: str) -> None:
        """Drop the listing of `path`. One that is under way will not be cached."""
        fetch = self.fetches.get(path)
        if fetch is not None:
            fetch.spoiled = True
        self.singles.pop(path, None)
        self._drop(path)

    def forget_below(self, path: str) -> None:
        """Drop the listings of `path` and of everything below it."""
        below = path.rstrip("/") + "/"
        for known in self._known_below(path):
            self._drop(known)
        for asked in [p for p in self.singles if p == path or p.startswith(below)]:
            del self.singles[asked]
        for fetched, fetch in self.fetches.items():
            if fetched == path or fetched.startswith(below):
                fetch.spoiled = True

    def _known_below(self, path: str) -> list[str]:
        """The directories at and below `path` whose listings are cached.

        All are searched only if there is more than the one of `path` itself.
        """
        count = self._at_or_below.get(path, 0)
        if count == (path in self.directories):
            return [path] if count else []
        below = path.rstrip("/") + "/"
        return [p for p in self.directories if p == path or p.startswith(below)]

    def _drop(self, path: str) -> Directory | None:
        directory = self.directories.pop(path, None)
        if directory is not None:
            self._held -= len(directory.entries)
            for above in _upwards(path):
                self._at_or_below[above] -= 1
                if not self._at_or_below[above]:
                    del self._at_or_below[above]
        return directory


def differences(before: Mapping[str, Entry], now: Mapping[str, Entry]) -> frozenset[str]:
    """The names that came, went, or have other attributes.

    A time that one of the listings tells only to the minute or the day is no other time: the exact
    time of an old file often comes after its listing.
    """
    changed = before.keys() ^ now.keys()
    for name, entry in now.items():
        known = before.get(name)
        if known is not None and known != entry:
            if known.exact is not entry.exact:
                known = replace(known, mtime=entry.mtime, exact=entry.exact)
            if known != entry:
                changed.add(name)
    return frozenset(changed)


def _upwards(path: str) -> Iterator[str]:
    """A path, and each directory above it up to "/"."""
    while path != "/":
        yield path
        path = split(path)[0]
    yield path


def named(entry: Entry, name: str) -> Entry:
    """The entry under the name that it was asked for."""
    return entry if entry.name == name else replace(entry, name=name)
