"""Names that are asked for by themselves, where their directory's listing does not tell soon.

Owns when one name is asked for in place of a listing: the first name of a directory on a far
server; a name in a directory whose listing is under way and takes long; and a name that an old
listing lacks which took too long to be made again soon. `tree`
decides when to come here, and caches the listings.

Threading: any thread. The tree's lock guards what is cached. No I/O is done under it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.names.belief import Belief
from ftpfs.core.names.listings import Listings, named
from ftpfs.model.entry import Entry
from ftpfs.model.names import split

# A look-up waits for so long (s) for a listing, its own or another program's. Then the name is
# asked for by itself. At 100 ms from the server, an ordinary listing takes half of that.
BESIDE_SECONDS = 1.0


class Singles:
    """The questions for single names in one tree."""

    def __init__(
        self,
        peek: Callable[[str], Entry | None],
        *,
        listings: Listings,
        lock: threading.Lock,
        belief: Belief,
        clock: Callable[[], float],
    ) -> None:
        """`peek(path)` asks for one name (None: the server does not tell, or has no such name).

        `lock` guards `listings`."""
        self._peek = peek
        self._listings = listings
        self._lock = lock
        self._belief = belief
        self._clock = clock

    def first(self, path: str) -> Entry | None:
        """Look up the first name in a directory. None: the directory has to be listed.

        So a path costs one round trip for each of its names, however large the directories are.
        When a program looks up a second name in the directory, it is likely to look up more: then
        the directory is listed.
        """
        parent, name = split(path)
        with self._lock:
            known = self._listings.singles.get(parent)
            if known is not None and self._belief.counts_from(known.since):
                return known.entry if known.name == name else None
            if parent in self._listings.fetches or parent in self._listings.directories:
                return None
            if not self._belief.is_far():  # a listing costs hardly more, and tells all names
                return None
            single = self._listings.begin_single(parent, name)
        entry = self._peek(path)
        if entry is None:
            return None
        entry = named(entry, name)
        with self._lock:
            if self._listings.singles.get(parent) is single:  # else this mount changed it meanwhile
                single.entry = entry
        return entry

    def beside(self, path: str) -> Entry | None:
        """Look up a name while its directory is being listed, which takes long.

        None: the server has no such name, or nothing tells; the listing does. Nothing is cached:
        the listing may be older or newer.
        """
        parent, name = split(path)
        with self._lock:
            fetch = self._listings.fetches.get(parent)
            if fetch is None or (name in fetch.changed and fetch.changed[name] is None):
                return None
            if known := fetch.changed.get(name):  # this mount has changed it
                return known
        entry = None
        with contextlib.suppress(errors.NetworkError):
            entry = self._peek(path)
        with self._lock:
            # After the listing's end, `fetch` is not told any more what this mount changes.
            if entry is None or fetch.done or fetch.spoiled or name in fetch.changed:
                return None
        return named(entry, name)

    def made_since(self, path: str) -> Entry | None:
        """Look up a name that a listing lacks which took too long to be made again soon.

        None: the server has no such name, or nothing tells.
        """
        parent, name = split(path)
        with self._lock:
            directory = self._listings.directories.get(parent)
            if directory is None or not self._belief.may_lack(directory):
                return None
            since = directory.asked_names[name] = self._clock()
            directory.asks_from = float("inf")  # only one is asked for at a time
        entry = None
        try:
            with contextlib.suppress(errors.NetworkError):
                entry = self._peek(path)
        finally:
            with self._lock:
                self._belief.asked_for(directory, self._clock() - since)
                if entry is not None:
                    entry = named(entry, name)
                    self._listings.note_found(path, directory, entry, since)
                directory.asked_names.pop(name, None)
        return entry
