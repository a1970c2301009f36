"""Walks: lists the directories of a walk before the program asks for them.

`ls -lR`, `find`, `du`, `rsync`, `cp -r` and `git status` go through a tree depth first. They take
the children of a directory in some order: as listed, by name, as people sort, or by inode number.
When a program reads or looks into one directory after another in such an order, idle connections
list the next ones ahead. The longer the walk goes on, the more are listed ahead.

A listing ahead that no program asks for is waste. Each listing ahead costs a unit of a budget,
which only used listings (and slowly, time) fill up again. So after a wrong guess, or when the walk
stops, listing ahead soon stops, too.

Owns the guess which directories come next, and the threads that list them into the tree. Raises
nothing to a caller: a directory that is not listed ahead is listed on demand.

Threading: any thread calls `visited`, with no lock held. `_lock` (Rank.WALKS) guards everything; no
call under it waits. The threads are daemons. They start when there is a directory to list, and end
after an idle while, or after `close`.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from ftpfs import errors
from ftpfs.core.names.inode import inode
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

# Confidence (steps along an order) from which on directories are listed ahead: one directory read
# right after its parent, or two looked into in a row. Looking up a path also descends from parent
# to child, so one step is not enough.
CONFIDENCE = 2
MOST_CONFIDENCE = 8
# A pause of this length (seconds) between two visits ends a walk: a person is browsing.
PAUSE_SECONDS = 3.0
# A step still follows an order if it skips a few directories (.git, or what the kernel cached).
MOST_SKIPPED = 4
# Limit of directories listed ahead and not asked for yet: enough for a long link.
MOST_AHEAD = 32
# The budget of listings ahead. Each listing costs one. Each listing that a program asks for adds
# two, up to MOST_BUDGET. Every REFILL_SECONDS one is added, up to BUDGET.
BUDGET, MOST_BUDGET, REFILL_SECONDS = 16.0, 256.0, 5.0
# A listing ahead that no program asks for within this time (seconds) counts as wasted.
LIFE_SECONDS = 30.0
# Limit of known directories, and of steps in the search for one that is not listed yet.
WATCHED, LOOKED_AT = 1024, 512
# A thread without work ends after this time (seconds).
IDLE_SECONDS = 2.0


class Walks:
    """Watches which directories are visited, and lists the next ones in its own threads."""

    def __init__(
        self,
        directories: Callable[[str], Sequence[str] | None],
        list_ahead: Callable[[Callable[[], str | None]], None],
        *,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`workers`: limit of threads, each with a connection; with 0, nothing is listed ahead.

        `directories(path)` returns the names of its sub-directories in listed order, or None if the
        directory is not listed or its listing is stale (no I/O). `list_ahead(choose)` calls
        `choose` when a connection is free, and lists the path that it returns, or nothing for None.
        """
        self._directories = directories
        self._list_ahead = list_ahead
        self._most_workers = workers
        self._clock = clock
        self._lock = ranked_lock(Rank.WALKS)
        self._work = threading.Condition(self._lock)
        # Guarded by _lock:
        self._places: OrderedDict[str, _Place] = OrderedDict()
        # path -> time of its listing, until a program asks for it
        self._ahead: OrderedDict[str, float] = OrderedDict()
        self._budget = BUDGET
        self._budget_at = clock()
        self._followed = dict.fromkeys(_ORDERS, 0)  # steps in a row along each order
        self._confidence = 0
        self._at = ""  # the directory where the walk is
        self._top = ""  # the directory that the walk does not leave
        self._visited_at = float("-inf")
        self._used = 0
        self._wasted = 0
        self._workers = 0
        self._closed = False

    def visited(self, path: str, *, read: bool) -> None:
        """Note that a program asks for a directory: for all of it (`read`), or for a name in it.

        To be called before the directory is listed: then the next ones are listed beside it, not
        after it.
        """
        if not self._most_workers:
            return
        with self._lock:
            now = self._clock()
            self._count_used_locked(path, now)
            self._follow_locked(path, read=read, now=now)
            self._visited_at = now
            starting = self._start_locked()
        self._start_workers(starting)

    def listed(self) -> None:
        """Note that the visited directory is listed now: its sub-directories may be next."""
        if not self._most_workers:
            return
        with self._lock:
            starting = self._start_locked()
        self._start_workers(starting)

    def close(self) -> None:
        """Start no more listings. Does not wait for listings under way."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            if self._used or self._wasted:
                log.info("listed ahead: %d directories used, %d wasted", self._used, self._wasted)

    # Following the visits.

    def _count_used_locked(self, path: str, now: float) -> None:
        """Count which listings ahead were used and which were wasted, and adjust the budget."""
        back = (now - self._budget_at) / REFILL_SECONDS
        self._budget = max(self._budget, min(BUDGET, self._budget + back))
        self._budget_at = now
        if self._ahead.pop(path, None) is not None:
            self._used += 1
            self._budget = min(MOST_BUDGET, self._budget + 2)
        while self._ahead and now - next(iter(self._ahead.values())) > LIFE_SECONDS:
            self._ahead.popitem(last=False)
            self._wasted += 1

    def _follow_locked(self, path: str, *, read: bool, now: float) -> None:
        place = self._place_locked(path)
        parent, _, name = path.rpartition("/")
        parent = parent or "/"
        # `path` was visited before it was listed: by now the names in its parent are known.
        known = path != "/" and parent in self._places
        above = self._place_locked(parent) if known else None
        if now - self._visited_at > PAUSE_SECONDS:
            self._confidence, self._at = 0, ""
        descends = read and above is not None and above.read
        again = path == self._at
        followed = above.step(name, descends=descends) if above is not None and not again else []
        if followed and self._at:
            if not self._confidence or len(parent) < len(self._top):
                self._top = parent
            self._confidence = min(MOST_CONFIDENCE, self._confidence + (2 if descends else 1))
            for order in _ORDERS:
                self._followed[order] = self._followed[order] + 1 if order in followed else 0
        elif not again:
            self._confidence = max(0, self._confidence - 2)
        if followed or not self._confidence:
            self._at = path
        if read:
            place.begin()

    def _place_locked(self, path: str) -> _Place:
        """What is known of a directory, by its current listing."""
        place = self._places.get(path)
        names = self._directories(path)
        if place is None or (names is not None and names is not place.names):
            read = place.read if place else False
            place = self._places[path] = _Place(path, names or [])
            place.read = read
        self._places.move_to_end(path)
        while len(self._places) > WATCHED:
            self._places.popitem(last=False)
        return place

    # Choosing the next directories.

    def _choose(self) -> str | None:
        """The directory to list now, or None."""
        with self._lock:
            for path in self._candidates_locked():
                self._budget -= 1
                self._ahead[path] = self._clock()
                return path
            return None

    def _candidates_locked(self) -> Iterator[str]:
        """The directories that are worth listing now, the most urgent first."""
        if self._closed or self._confidence < CONFIDENCE:
            return
        room = int(min(MOST_AHEAD - len(self._ahead), self._budget))
        order = max(_ORDERS, key=lambda o: self._followed[o])
        for path in itertools.islice(self._upcoming_locked(order), LOOKED_AT):
            if room <= 0:
                return
            if path not in self._ahead and self._directories(path) is None:
                room -= 1
                yield path

    def _upcoming_locked(self, order: str) -> Iterator[str]:
        """The directories that the walk visits after the current one, as far as they are known.

        While the current directory is still being listed, its own sub-directories are not known.
        Then only its siblings are named: those below them would take the budget that its own
        sub-directories need.
        """
        at = self._at
        deep = self._directories(at) is not None
        yield from self._below_locked(at, order)
        while at not in (self._top, "/"):
            parent, _, name = at.rpartition("/")
            parent = parent or "/"
            above = self._places.get(parent)
            for sibling in above.after(name, order) if above else ():
                path = _join(parent, sibling)
                yield path
                if deep:
                    yield from self._below_locked(path, order)
            at = parent

    def _below_locked(self, path: str, order: str) -> Iterator[str]:
        if self._directories(path) is None:
            return
        for name in self._place_locked(path).after("", order):
            below = _join(path, name)
            yield below
            yield from self._below_locked(below, order)

    # Threads.

    def _wake_locked(self) -> int:
        """Wake one thread for each directory to list, up to the limit of threads.

        Returns how many directories there are, up to that limit. Waking all threads at each step
        took `ls -lR` of 25 listed directories from 17 to 72 ms.
        """
        count = sum(1 for _ in itertools.islice(self._candidates_locked(), self._most_workers))
        self._work.notify(count)
        return count

    def _start_locked(self) -> int:
        """Wake threads for the directories to list. Returns how many more threads to start."""
        if self._closed or self._confidence < CONFIDENCE:
            return 0
        starting = min(self._wake_locked(), self._most_workers - self._workers)
        self._workers += starting
        return starting

    def _start_workers(self, count: int) -> None:
        for _ in range(count):
            self._start_worker()

    def _start_worker(self) -> None:
        try:
            threading.Thread(target=self._run, name="ftpfs-walk", daemon=True).start()
        except RuntimeError as error:  # no more threads
            log.info("no thread can be started to list ahead: %s", error)
            with self._lock:
                self._workers -= 1

    def _run(self) -> None:
        try:
            while self._has_work():
                try:
                    self._list_ahead(self._choose)
                except errors.NetworkError as error:
                    log.info("not listed ahead: %s", error)
                    return
                except errors.FtpfsError as error:
                    log.debug("not listed ahead: %s", error)
                with self._lock:
                    self._wake_locked()  # there may be directories below
        except Exception:
            log.exception("listing ahead failed: unexpected error")
        finally:
            with self._lock:
                self._workers -= 1

    def _has_work(self) -> bool:
        with self._lock:
            self._work.wait_for(
                lambda: self._closed or any(self._candidates_locked()), IDLE_SECONDS
            )
            return any(self._candidates_locked())


class _Place:
    """A directory and its sub-directories, in the orders in which programs visit them."""

    __slots__ = ("_orders", "_path", "_positions", "_reached", "names", "read")

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.names = names
        self.read = False  # a program read it as a whole
        self._path = path
        self._orders: dict[str, Sequence[str]] = {}
        self._positions: dict[str, dict[str, int]] = {}
        self._reached = dict.fromkeys(_ORDERS, -1)  # in each order, the position visited last

    def begin(self) -> None:
        """The directory was read as a whole: expect its children from the first one on."""
        self.read = True
        self._reached = dict.fromkeys(_ORDERS, -1)

    def step(self, name: str, *, descends: bool) -> list[str]:
        """Note that a child was visited. Returns the orders that this step follows.

        A first child follows an order only if the walk `descends` from a directory that was read as
        a whole. Otherwise every look-up of a path would count.
        """
        followed = []
        for order in _ORDERS:
            self._sorted(order)
            position = self._positions[order].get(name)
            if position is not None:
                reached = self._reached[order]
                if 0 < position - reached <= MOST_SKIPPED and (descends or reached >= 0):
                    followed.append(order)
                self._reached[order] = position
        return followed

    def after(self, name: str, order: str) -> Iterator[str]:
        """The children after `name` in that order (all of them after "")."""
        names = self._sorted(order)
        start = self._positions[order].get(name, -1) + 1
        return itertools.islice(names, start, None)

    def _sorted(self, order: str) -> Sequence[str]:
        names = self._orders.get(order)
        if names is None:
            names = self._orders[order] = _ORDERS[order](self._path, self.names)
            self._positions[order] = {name: n for n, name in enumerate(names)}
        return names


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


def _by_inode(path: str, names: Sequence[str]) -> Sequence[str]:
    return sorted(names, key=lambda name: inode(_join(path, name)))


def _as_people_sort(_path: str, names: Sequence[str]) -> Sequence[str]:
    """Roughly the order of a locale other than C: `ls` sorts so."""
    return sorted(names, key=lambda name: (re.sub(r"\W", "", name).casefold(), name))


# If several orders are followed equally often, the first counts: most programs go by name.
_ORDERS: dict[str, Callable[[str, Sequence[str]], Sequence[str]]] = {
    "by name": lambda _path, names: sorted(names),
    "as people sort": _as_people_sort,
    "as listed": lambda _path, names: names,
    "by inode": _by_inode,
}
