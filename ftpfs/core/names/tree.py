"""The cache of attributes and directories: what is known of the server's tree, and for how long.

Owns how long a listing counts, and fetching by one thread at a time. `listings` holds the cached
entries, and the changes that this mount lays over them. Open files are not known here:
`files.looks` shows those on top.

**The generation guard.** The cache never uses a result that was asked for before a change made by
this mount. A listing that is under way during a change may show the state before or after it. So
the changed names are laid over the listing as this mount knows them. (Fetching again would never
end in a directory that is filled while a program lists it.) If no name can tell the change (the
whole listing was given up, or its directory moved), the listing is fetched again. The result of a
`look_again` is not stored then.

**Missing names.** A name that is not in a recent listing does not exist. *Recent* is stricter than
*fresh*: the names in a listing count for longer (`ttl`) than the absence of other names
(`names_ttl`). `belief` tells what counts.

Threading: any thread. `_lock` (Rank.TREE) guards everything. No I/O is done under it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from ftpfs import errors
from ftpfs.core.names.behind import Changes
from ftpfs.core.names.belief import Belief
from ftpfs.core.names.killable import Requests, StillListed
from ftpfs.core.names.listings import (
    Directory,
    Fetch,
    For,
    Listings,
    differences,
    named,
)
from ftpfs.core.names.singles import BESIDE_SECONDS, Singles
from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import check_length, split
from ftpfs.model.remote import ListPath

# Attempts to list a directory that other threads keep giving up. Then the last listing counts.
FETCHES = 4

# These tell of the folder, not of the network or of this machine: its listing is wrong.
_TELLS_OF_FOLDER = (errors.NotFound, errors.NotADirectory, errors.PermissionDenied)


class Tree:
    """The directories of one server, listed when they are needed."""

    def __init__(
        self,
        fetch_list: ListPath,
        fetch_entry: Callable[[str], Entry],
        *,
        ttl: float,
        names_ttl: float = float("inf"),
        ahead: Callable[[], AbstractContextManager[ListPath]],
        behind: Callable[[], AbstractContextManager[ListPath]] | None = None,
        peek: Callable[[str], Entry | None] = lambda _path: None,
        visited: Callable[[str], None] = lambda _path: None,
        due: Callable[[str], None] = lambda _path: None,
        is_far: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`ttl`: how long an entry counts (seconds). `names_ttl`: how long the absence of a name
        counts, if that is shorter.

        `ahead()` leases a connection that nobody else needs now, and lists with it; `behind()`
        leases one that is there already. `peek(path)` asks for one name (`Singles`). `visited` is
        called before a directory's names are looked up for the first time. `due` is called after an
        answer from an old listing: `list_behind` may list that directory now.
        `is_far()`: whether a program notices the round trips to the server."""
        self._fetch_list = fetch_list
        self._leases = {For.WALK: ahead, For.REFRESH: behind or ahead}
        self._visited = visited
        self._due = due
        self._fetch_entry = fetch_entry
        self._belief = Belief(ttl, names_ttl, is_far, clock)
        self._clock = clock
        self._lock = ranked_lock(Rank.TREE)
        self._changed = threading.Condition(self._lock)
        self._listings = Listings(clock, now)  # guarded by _lock
        self._singles = Singles(
            peek, listings=self._listings, lock=self._lock, belief=self._belief, clock=clock
        )
        self.requests = Requests()

    def lookup(self, path: str) -> Entry:
        """The entry at `path`: no round trip while the listing of its directory is fresh.

        Raises NotFound, NotADirectory, and what fetching raises. A network failure is never
        NotFound.
        """
        if path == "/":
            return self._listings.root
        parent, name = split(path)
        with self._lock:
            directory = self._listings.directories.get(parent)
            entries, due = None, False
            # `visited` hears of a listing that no program has asked for before.
            if directory is not None and not directory.ahead and self._belief.is_fresh(directory):
                entries = directory.entries
                due = self._belief.becomes_due(directory, entries.get(name))
        try:
            if entries is None:
                single = self._singles.first(path)
                self._visited(parent)
                if single is not None:
                    return single
                try:
                    entries = self._entries(parent, self._belief.is_fresh, BESIDE_SECONDS)
                except StillListed:
                    if (single := self._singles.beside(path)) is not None:
                        return single
                    entries = self._entries(parent, self._belief.is_fresh)
            if name not in entries:
                entries = self._entries_by_now(parent)
        except errors.PermissionDenied:
            # The server refuses to list the directory (mode 711): ask for the name itself.
            check_length(name)
            return self._fetch_entry(path)
        entry = entries.get(name) or self._singles.made_since(path)
        if entry is None:
            check_length(name)
            raise errors.NotFound(f"{path}: no such file or directory")
        if due:
            self._due(parent)
        return entry

    def children(self, path: str) -> list[Entry]:
        """All entries of a directory, from a listing that `Belief.shows`."""
        entries = self._entries(path, self._belief.shows)
        with self._lock:
            shown = list(entries.values())
            directory = self._listings.directories.get(path)
            due = directory is not None and self._belief.becomes_due(directory)
        if due:
            self._due(path)
        return shown

    def shows(self, path: str) -> bool:
        """Whether `children` answers from the cache. No I/O."""
        with self._lock:
            directory = self._listings.directories.get(path)
            return directory is not None and self._belief.shows(directory)

    def fresh(self, path: str) -> Mapping[str, Entry] | None:
        """The entries of a directory by name; None if it is not listed, or its listing is stale.

        The mapping changes with the directory. No I/O.
        """
        with self._lock:
            directory = self._listings.directories.get(path)
            return directory.entries if directory and self._belief.is_fresh(directory) else None

    def took(self, path: str) -> float:
        """How long the listing of `path` took (seconds); infinite if it is not cached. No I/O."""
        with self._lock:
            directory = self._listings.directories.get(path)
            return directory.took if directory else float("inf")

    def list_since(self, path: str, since: float) -> None:
        """List `path` again, unless its listing was asked for at `since` or later."""
        self._fetched_entries(path, lambda listed: listed.since >= since)

    def known(self, path: str) -> list[Entry]:
        """The cached entries of a directory, however old. No I/O."""
        with self._lock:
            directory = self._listings.directories.get(path)
            return list(directory.entries.values()) if directory else []

    def age(self, path: str) -> float:
        """Seconds since the server was asked about this entry; infinite if it never was."""
        return self._clock() - self.seen(path)[1]

    def seen(self, path: str) -> tuple[Entry | None, float]:
        """The cached entry, however old, and when the server was asked for it. No I/O."""
        with self._lock:
            return self._listings.seen(path)

    def look_again(self, path: str, look: Callable[[], Entry]) -> Entry:
        """Call `look` for a known entry, and cache its result.

        If this mount changed the directory meanwhile, the result is not cached. If `look` raises
        NotFound, the entry is gone: the listing of its directory is dropped.
        """
        parent, name = split(path)
        with self._lock:
            known = self._listings.entry(path)
            single = self._listings.singles.get(parent)
        since = self._clock()
        try:
            entry = look()
        except errors.NotFound:
            self.forget(parent)
            raise
        with self._lock:
            self._listings.note_look(path, entry, known, since)
            if (
                single is not None
                and single is self._listings.singles.get(parent)
                and single.name == name
            ):
                single.entry, single.since = named(entry, name), since
        return entry

    # Listings ahead: no program has asked for them yet.

    def list_ahead(self, choose: Callable[[], str | None]) -> None:
        """List the directory that `choose` names, before a program asks for it.

        `choose` is called when a connection is free. A program that asks for the directory
        meanwhile waits for this listing; if it fails, the program's own request lists it. Raises
        what listing raises.
        """
        self._list_for_later(choose, For.WALK)

    def list_behind(self, choose: Callable[[], str | None]) -> Changes | None:
        """List a directory again from whose listing a program was answered.

        Like `list_ahead`. Returns what has changed by others; None if nothing was listed. If the
        server no longer has the directory, or no longer lists it, its listing is dropped.
        """
        listed = self._list_for_later(choose, For.REFRESH)
        if listed is None:
            return None
        path, fetch = listed
        before = fetch.before
        with self._lock:
            now = dict(fetch.directory.entries)
        return Changes(path, differences(before.entries, now) if before else frozenset())

    def _list_for_later(
        self, choose: Callable[[], str | None], purpose: For
    ) -> tuple[str, Fetch] | None:
        with self._leases[purpose]() as fetch_list:
            begun = self._begin_for_later(choose, purpose)
            if begun is None:
                return None
            path, fetch = begun
            try:
                with self._ending(path, fetch):
                    fetch.directory, settled = self._list_once(path, fetch, fetch_list)
                    if not settled:
                        raise errors.FtpfsError(f"{path}: changed while it was being listed")
            except _TELLS_OF_FOLDER:
                with self._lock:
                    if not fetch.spoiled:  # else this mount has made or changed it meanwhile
                        self._listings.forget(path)
                raise
        return begun

    def subdirectories(self, path: str) -> Sequence[str] | None:
        """The names of the sub-directories in listed order; None if the listing is stale or absent.

        Returns the same object as long as the names are the same. No I/O.
        """
        with self._lock:
            directory = self._listings.directories.get(path)
            if directory is None or not self._belief.is_fresh(directory):
                return None
            return directory.subdirectories()

    # Changes made by this mount, after the server confirmed them.

    def put(self, path: str, entry: Entry) -> None:
        """Cache an entry that exists now."""
        with self._lock:
            self._listings.put(path, entry)

    def names_changed(self, folder: str) -> None:
        """Show a new time for a directory that a name has come to, or has left.

        The server need not know the name yet. Every file system changes the time then. The time is
        shown and not set: the next listing tells the server's own.
        """
        with self._lock:
            self._listings.names_changed(folder)

    def update(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None:
        """Note that the mode or the time (seconds) of an entry was set."""
        with self._lock:
            self._listings.update(path, mode, mtime)

    def remove(self, path: str) -> None:
        """Drop an entry that is gone, with everything below it."""
        with self._lock:
            self._listings.remove(path)

    def made_directory(self, path: str, entry: Entry) -> None:
        """Cache a directory that was just made, and its empty listing."""
        with self._lock:
            self._listings.made_directory(path, entry)

    def rename(self, old: str, new: str) -> None:
        """Move an entry, with the listings below it. The entry that it replaced is gone."""
        with self._lock:
            self._listings.rename(old, new)

    def forget(self, path: str) -> None:
        """Drop the listing of `path`."""
        with self._lock:
            self._listings.forget(path)

    def forget_below(self, path: str) -> None:
        """Drop the listings of `path` and of everything below it."""
        with self._lock:
            self._listings.forget_below(path)

    # Cached listings, and how they are fetched.

    def _entries_by_now(self, path: str) -> dict[str, Entry]:
        """The entries of a directory whose cached listing lacks a name.

        An old listing does not tell whether the name was made since: the directory is listed again.
        When a program makes names here one after another, each of them is missing at first. So the
        directory is listed again for one of them every few seconds, and not for each.
        """
        with self._lock:
            directory = self._listings.directories.get(path)
            if directory is not None and self._belief.is_recent(directory):
                directory.ahead = False
                return directory.entries
        self._visited(path)
        return self._entries(path, self._belief.is_recent)

    def _entries(
        self,
        path: str,
        counts: Callable[[Directory], bool],
        patience: float | None = None,
    ) -> dict[str, Entry]:
        """The entries of `path` from a listing that `counts`.

        If the network fails, a fresh listing serves for a recent one. After a failure that took
        long, the directory is not listed again soon. With `patience`, raises StillListed if the
        listing has been under way for that time (seconds).
        """
        begun = self._clock()
        try:
            return self._fetched_entries(path, counts, patience)
        except errors.NetworkError:
            with self._lock:
                directory = self._listings.directories.get(path)
                if directory is None or not self._belief.is_fresh(directory):
                    raise
                directory.checked = self._clock()
                directory.took = max(directory.took, directory.checked - begun)
                self._belief.asked_for(directory, directory.took)
                return directory.entries

    def _fetched_entries(
        self,
        path: str,
        counts: Callable[[Directory], bool],
        patience: float | None = None,
    ) -> dict[str, Entry]:
        """The entries of a listing that `counts`. One thread fetches it; the others wait for it."""
        with self._lock:
            while True:
                directory = self._listings.directories.get(path)
                if directory is not None and counts(directory):
                    directory.ahead = False
                    return directory.entries
                fetch = self._listings.fetches.get(path)
                if fetch is None:
                    fetch = self._listings.fetches[path] = Fetch()
                    break
                self.requests.wait(self._changed, fetch, fetch.until(patience))
                if fetch.error is None or fetch.purpose is For.PROGRAM:
                    return fetch.entries()
                # What was only listed ahead, this thread lists by itself.
        self.requests.run(lambda: self._fetch(path, fetch))
        with self._lock:
            self.requests.wait(self._changed, fetch, fetch.until(patience))
            return fetch.entries()

    def _fetch(self, path: str, fetch: Fetch) -> None:
        """List `path`. The result, or the error, is in `fetch`."""
        with contextlib.suppress(errors.FtpfsError), self._ending(path, fetch):
            fetch.directory = self._list(path, fetch)

    def _begin_for_later(
        self, choose: Callable[[], str | None], purpose: For
    ) -> tuple[str, Fetch] | None:
        while (path := choose()) is not None:
            with self._lock:
                directory = self._listings.directories.get(path)
                known = directory is not None and self._belief.is_recent(directory)
                forgotten = directory is None and purpose is For.REFRESH
                if not known and not forgotten and path not in self._listings.fetches:
                    fetch = self._listings.fetches[path] = Fetch(purpose)
                    return path, fetch
        return None

    @contextlib.contextmanager
    def _ending(self, path: str, fetch: Fetch) -> Iterator[None]:
        """End a fetch however its listing ends, and wake the threads that wait for it."""
        try:
            yield
        except errors.FtpfsError as error:
            # A copy: the error's traceback refers to frames that refer to `fetch`. Such a cycle
            # would keep all that the frames hold in memory, most of all a refused listing.
            fetch.error = errors.again(error)
            raise
        except BaseException:
            fetch.error = errors.FtpfsError(f"{path}: listing failed")
            raise
        finally:
            with self._lock:
                fetch.done = True
                del self._listings.fetches[path]
                self._changed.notify_all()

    def _list(self, path: str, fetch: Fetch) -> Directory:
        for _ in range(FETCHES):
            directory, settled = self._list_once(path, fetch, self._fetch_list)
            if settled:
                break
        return directory

    def _list_once(self, path: str, fetch: Fetch, fetch_list: ListPath) -> tuple[Directory, bool]:
        """List a directory once. Returns the listing, and whether it was cached.

        It is not cached if it was given up meanwhile.
        """
        with self._lock:
            fetch.spoiled = False
            fetch.changed.clear()
            fetch.since = since = self._clock()
        directory = Directory(fetch_list(path), since)
        directory.took = self._clock() - since
        directory.ahead = fetch.purpose is For.WALK
        with self._lock:
            for name, entry in fetch.changed.items():
                directory.set(name, entry)
                directory.looked_at[name] = self._clock()
            if not fetch.spoiled:
                fetch.before = self._listings.directories.get(path)
                self._listings.add(path, directory)
            return directory, not fetch.spoiled
