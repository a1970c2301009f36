"""Directories of a walk, listed before they are asked for.

Owns: the guess which directories come next, and the threads that have them listed into the tree.
Never raises anything to anyone: what it does not bring is listed when it is asked for, as usual.

`ls -lR`, `find`, `du`, `rsync`, `cp -r` and `git status` all go through a tree depth first, and
take a directory's children in some order: as listed, by name, as people sort, or by inode number.
When directories are read, or looked into, one after another in such an order, the next ones in it
are listed ahead by connections that nobody uses, more of them the longer it goes on.

What is listed ahead and never asked for is waste, and is paid from a credit that only listings that
were of use fill up again (and time, slowly): a guess that keeps being wrong ends by itself, as does
the listing ahead when the walk stops.

Threading: `visited` is called by any thread, with no lock held. `_lock` guards everything and is
taken before the tree's; nothing that waits is called under it. The threads are daemons, start when
there is something to list, and end when there has been nothing for a while, or after `close`.
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
from ftpfs.core.inode import inode

log = logging.getLogger(__name__)

# Steps along an order before it is believed: a directory read right after its parent, or two looked
# into one after the other. (A path that is looked up descends from parent to child, too.)
BELIEF = 2
MOST_BELIEF = 8
# Directories visited so long (seconds) apart do not belong to one walk: that is somebody browsing.
PAUSE = 3.0
# A step that leaves out a few directories (.git, what the kernel still knows) still follows.
SKIP = 4
# Directories listed ahead and not asked for yet, at most: enough for a long link.
MOST_AHEAD = 32
# What listing ahead may cost: each listing one, each that was asked for brings two; and the seconds
# in which one more comes back by itself, up to the first figure.
CREDIT, MOST_CREDIT, CREDIT_PAUSE = 16.0, 256.0, 5.0
# Listed ahead and not asked for within so long (seconds): wasted.
LIFE = 30.0
# Known directories, and steps of looking for one that is not listed yet.
WATCHED, LOOKED_AT = 1024, 512
# A thread without work ends after so long (seconds).
IDLE = 2.0


class Walks:
    """Watches which directories are visited, and has the next ones listed."""

    def __init__(
        self,
        directories: Callable[[str], Sequence[str] | None],
        list_ahead: Callable[[Callable[[], str | None]], None],
        *,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`directories(path)`: the names of its sub-directories, as listed; None where no listing
        counts (no I/O). `list_ahead(choose)` calls `choose` once it could list, and lists that
        path, or nothing for None. `workers`: threads, and connections; with none, nothing is done.
        """
        self._directories = directories
        self._list_ahead = list_ahead
        self._most_workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        # Guarded by _lock:
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._ahead: OrderedDict[str, float] = OrderedDict()  # not asked for yet: path -> when
        self._credit = CREDIT
        self._credit_at = clock()
        self._followed = dict.fromkeys(_ORDERS, 0)  # steps in a row along each order
        self._belief = 0
        self._at = ""  # where the walk is
        self._top = ""  # the directory that it does not leave
        self._visited_at = float("-inf")
        self._used = 0
        self._wasted = 0
        self._workers = 0
        self._closed = False

    def visited(self, path: str, *, read: bool) -> None:
        """A directory is asked for: `read` as a whole, or for a name in it.

        To be told before it is listed: what comes next is listed beside it then, not after it.
        """
        if not self._most_workers:
            return
        with self._lock:
            now = self._clock()
            self._settle_locked(path, now)
            self._follow_locked(path, read=read, now=now)
            self._visited_at = now
            starting = self._start_locked()
        self._start_workers(starting)

    def listed(self) -> None:
        """What was visited is listed by now: its own directories may be what comes next."""
        if not self._most_workers:
            return
        with self._lock:
            starting = self._start_locked()
        self._start_workers(starting)

    def close(self) -> None:
        """List nothing more. Does not wait for what is under way."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            if self._used or self._wasted:
                log.info("listed ahead: %d of use, %d in vain", self._used, self._wasted)

    # What visits tell.

    def _settle_locked(self, path: str, now: float) -> None:
        """The books: what was of use, what was not."""
        back = (now - self._credit_at) / CREDIT_PAUSE
        self._credit = max(self._credit, min(CREDIT, self._credit + back))
        self._credit_at = now
        if self._ahead.pop(path, None) is not None:
            self._used += 1
            self._credit = min(MOST_CREDIT, self._credit + 2)
        while self._ahead and now - next(iter(self._ahead.values())) > LIFE:
            self._ahead.popitem(last=False)
            self._wasted += 1

    def _follow_locked(self, path: str, *, read: bool, now: float) -> None:
        place = self._place_locked(path)
        parent, _, name = path.rpartition("/")
        parent = parent or "/"
        # It was visited before it was listed: its names are known by now.
        known = path != "/" and parent in self._places
        above = self._place_locked(parent) if known else None
        if now - self._visited_at > PAUSE:
            self._belief, self._at = 0, ""
        descends = read and above is not None and above.read
        again = path == self._at
        followed = above.step(name, descends=descends) if above is not None and not again else []
        if followed and self._at:
            if not self._belief or len(parent) < len(self._top):
                self._top = parent
            self._belief = min(MOST_BELIEF, self._belief + (2 if descends else 1))
            for order in _ORDERS:
                self._followed[order] = self._followed[order] + 1 if order in followed else 0
        elif not again:
            self._belief = max(0, self._belief - 2)
        if followed or not self._belief:
            self._at = path
        if read:
            place.begin()

    def _place_locked(self, path: str) -> _Place:
        """What is known of the directory, as it is listed now."""
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

    # What comes next.

    def _choose(self) -> str | None:
        """The directory to list now; None: none."""
        with self._lock:
            for path in self._candidates_locked():
                self._credit -= 1
                self._ahead[path] = self._clock()
                return path
            return None

    def _candidates_locked(self) -> Iterator[str]:
        """What is worth listing now, the most urgent first."""
        if self._closed or self._belief < BELIEF:
            return
        room = int(min(MOST_AHEAD - len(self._ahead), self._credit))
        order = max(_ORDERS, key=lambda o: self._followed[o])
        for path in itertools.islice(self._upcoming_locked(order), LOOKED_AT):
            if room <= 0:
                return
            if path not in self._ahead and self._directories(path) is None:
                room -= 1
                yield path

    def _upcoming_locked(self, order: str) -> Iterator[str]:
        """The directories that the walk visits after the one where it is, as far as known.

        While that is still being listed it may have more to bring: then its siblings only, or those
        below them would take the credit that its own need.
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

    # The threads.

    def _wake_locked(self) -> int:
        """Wake as many threads as there are directories to be listed; how many those are, up to
        the number of threads there may be. Waking all of them at each step took `ls -lR` of 25
        listed directories from 17 to 72 ms."""
        count = sum(1 for _ in itertools.islice(self._candidates_locked(), self._most_workers))
        self._work.notify(count)
        return count

    def _start_locked(self) -> int:
        """Wake threads for what is to be listed; how many more are to be started for it."""
        if self._closed or self._belief < BELIEF:
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
            log.info("no thread to list ahead with: %s", error)
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
            log.exception("listing ahead failed in a way nobody foresaw")
        finally:
            with self._lock:
                self._workers -= 1

    def _has_work(self) -> bool:
        with self._lock:
            self._work.wait_for(lambda: self._closed or any(self._candidates_locked()), IDLE)
            return any(self._candidates_locked())


class _Place:
    """A directory and its sub-directories, in the orders in which programs visit them."""

    __slots__ = ("_orders", "_path", "_positions", "_reached", "names", "read")

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.names = names
        self.read = False  # as a whole
        self._path = path
        self._orders: dict[str, Sequence[str]] = {}
        self._positions: dict[str, dict[str, int]] = {}
        self._reached = dict.fromkeys(_ORDERS, -1)  # the position visited last

    def begin(self) -> None:
        """The directory was read as a whole: its children may be visited next, from the first."""
        self.read = True
        self._reached = dict.fromkeys(_ORDERS, -1)

    def step(self, name: str, *, descends: bool) -> list[str]:
        """A child was visited; the orders that this follows.

        Unless it `descends` from a directory that was read, the first child follows nothing: any
        path that is looked up goes that way.
        """
        followed = []
        for order in _ORDERS:
            self._sorted(order)
            position = self._positions[order].get(name)
            if position is not None:
                reached = self._reached[order]
                if 0 < position - reached <= SKIP and (descends or reached >= 0):
                    followed.append(order)
                self._reached[order] = position
        return followed

    def after(self, name: str, order: str) -> Iterator[str]:
        """The children behind `name` ("": all of them)."""
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
    """About what a locale other than C makes of it: `ls` sorts so."""
    return sorted(names, key=lambda name: (re.sub(r"\W", "", name).casefold(), name))


# Of equals the first is followed: by name is what most programs do.
_ORDERS: dict[str, Callable[[str, Sequence[str]], Sequence[str]]] = {
    "by name": lambda _path, names: sorted(names),
    "as people sort": _as_people_sort,
    "as listed": lambda _path, names: names,
    "by inode": _by_inode,
}
