"""Fetches the small files of a directory before a program opens them.

A program that reads the files of a directory opens them in some order: as listed (`tar`, `find`),
by name (the shell's `*`, `rsync`) or by inode number (`cp -r`, which sorts for the sake of disks).
When the last few opens of a directory follow one of these orders, the next small files in it are
fetched whole. The longer the program follows the order, the more files are fetched ahead.

Files that were fetched and not opened are counted. When they outnumber the opened ones, prefetching
stops in that directory. When that happens in many directories, later directories have to show an
order for longer.

Owns the guess which files come next, and the threads that fetch them into the block cache. Does not
open files. Raises nothing to a caller: a file that is not fetched ahead is fetched on demand.

Threading: any thread calls `opened`, with no lock held. `_lock` (Rank.PREFETCHER) guards the state;
no call under it waits. The threads lease connections like any reader, but fewer than the pool has,
so a reader or a lister never waits for all of them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

from ftpfs import errors
from ftpfs.core.names.inode import inode
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock
from ftpfs.model.names import split

log = logging.getLogger(__name__)

# A file up to this size (bytes) is read in one fetch anyway, without a stream.
SMALL_BYTES = 2 * BLOCK_SIZE
# Opens in a row that follow an order before prefetching begins.
CONFIDENCE = 2
# The same once more files were fetched in vain than were used, by more than MAX_WASTED.
MORE_CONFIDENCE, MAX_WASTED = 8, 64
# How far ahead, in files: at first enough for the connections, later enough for a long link.
FIRST_AHEAD, MOST_AHEAD = 16, 64
# How far ahead, in bytes, until the first prefetched file is opened.
FIRST_BYTES = 8 * SMALL_BYTES
# If the first of at least this many small files is opened first, more opens are likely.
MANY = 8
# An open still follows an order if it skips a few files (in the kernel's cache, or too large).
MOST_SKIPPED = 4
# Directories watched at a time. A program that walks a tree opens files in one after another.
WATCHED = 32


class Prefetcher:
    """Watches which files are opened, and fetches the next ones in its threads."""

    def __init__(
        self,
        siblings: Callable[[str], Sequence[Entry]],
        fetch: Callable[[str], None],
        *,
        workers: int,
        budget: int,
        expect: Callable[[], None] = lambda: None,
    ) -> None:
        """`workers`: threads; with 0, no file is prefetched.

        `siblings(directory)` returns its entries as far as they are known (no I/O). `fetch(path)`
        brings a file into the block cache. `expect()` is called when many fetches are likely soon;
        it must not wait. `budget`: limit of bytes that were fetched and not opened yet.
        """
        self._siblings = siblings
        self._fetch = fetch
        self._expect = expect
        self._budget = budget
        self._lock = ranked_lock(Rank.PREFETCHER)
        self._executor = _Workers(workers, self._bring) if workers else None
        # Guarded by _lock:
        self._walks: OrderedDict[str, _Walk] = OrderedDict()
        self._under_way: dict[str, Future[None]] = {}
        self._bytes_ahead = 0
        self._used = self._wasted = 0  # files of finished walks; older walks count less
        self._closed = False

    def opened(self, path: str) -> None:
        """Before `path` is opened for reading: start fetching the files that may be opened next.

        If `path` itself is being fetched, return when that fetch has succeeded or failed.
        """
        if self._executor is None:
            return
        directory, name = split(path)
        walk = self._walk(directory, name)
        with self._lock:
            self._bytes_ahead -= walk.opened(name)
            budget = 0 if self._closed else self._budget - self._bytes_ahead
            for entry in walk.choose(budget, self._confidence_locked()):
                self._bytes_ahead += entry.size or 0
                ahead = _join(directory, entry.name)
                self._under_way[ahead] = self._executor.submit(ahead)
            begins = walk.begins_with(name)
            mine = self._under_way.get(path)
            # A fetch that has not begun would wait behind others: the caller fetches faster.
            if mine is not None and mine.cancel():
                mine = self._under_way.pop(path)
        if begins:
            self._expect()
        if mine is not None:
            wait([mine])

    def close(self) -> None:
        """Start no more fetches. Does not wait for fetches under way."""
        with self._lock:
            self._closed = True
        if self._executor is not None:
            self._executor.close()

    def _walk(self, directory: str, name: str) -> _Walk:
        """The directory's walk.

        The first open in a directory begins a walk. If `name` is opened again, a new walk begins,
        because the program goes through the directory once more, and the directory may have
        changed.
        """
        with self._lock:
            walk = self._walks.get(directory)
            if walk is not None and not walk.comes_round(name):
                self._walks.move_to_end(directory)
                return walk
        new = _Walk(directory, self._siblings(directory))
        with self._lock:
            if self._walks.get(directory) is walk:
                if walk is not None:
                    self._end_locked(walk)
                self._walks[directory] = new
                self._walks.move_to_end(directory)
            while len(self._walks) > WATCHED:
                self._end_locked(self._walks.popitem(last=False)[1])
            return self._walks[directory]

    def _end_locked(self, walk: _Walk) -> None:
        """Count the files of a walk that is over."""
        used, wasted, size = walk.account()
        self._bytes_ahead -= size
        self._used += used
        self._wasted += wasted
        if self._used + self._wasted > 8 * MAX_WASTED:
            self._used, self._wasted = self._used // 2, self._wasted // 2

    def _confidence_locked(self) -> int:
        """How many opens in a row have to follow an order."""
        return MORE_CONFIDENCE if self._wasted > self._used + MAX_WASTED else CONFIDENCE

    def _bring(self, path: str) -> None:
        try:
            self._fetch(path)
        except errors.FtpfsError as error:
            log.debug("not prefetched: %s: %s", path, error)
        except Exception:
            log.exception("prefetching %s failed: unexpected error", path)
        finally:
            with self._lock:
                self._under_way.pop(path, None)


class _Workers:
    """Threads that fetch files, started when they are needed.

    They are daemon threads. A process that ends waits for the threads of a ThreadPoolExecutor, and
    these could wait for a server that never answers.
    """

    def __init__(self, most: int, bring: Callable[[str], None]) -> None:
        self._most = most
        self._bring = bring
        self._changed = ranked_condition(Rank.PREFETCH_WORKERS)
        # Guarded by _changed:
        self._waiting: deque[tuple[Future[None], str]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, path: str) -> Future[None]:
        """A future that is done after the fetch of `path`, failed or not.

        It can be cancelled before the fetch begins.
        """
        future: Future[None] = Future()
        with self._changed:
            if self._closed:
                _cancel(future)
                return future
            self._waiting.append((future, path))
            starts = len(self._waiting) > self._idle and self._threads < self._most
            self._threads += starts
            self._changed.notify()
        if starts:
            self._start()
        return future

    def close(self) -> None:
        """Start no more fetches. Does not wait for fetches under way."""
        with self._changed:
            self._closed = True
            self._cancel_all_locked()
            self._changed.notify_all()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="ftpfs-prefetch", daemon=True).start()
        except RuntimeError:  # no more threads
            with self._changed:
                self._threads -= 1
                if not self._threads:
                    self._cancel_all_locked()

    def _cancel_all_locked(self) -> None:
        for future, _ in self._waiting:
            _cancel(future)
        self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if not self._waiting:
                    return
                future, path = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                self._bring(path)
                future.set_result(None)


def _cancel(future: Future[None]) -> None:
    """Cancel a future, and wake the threads that wait for it already."""
    future.cancel()
    future.set_running_or_notify_cancel()


class _Walk:
    """The small files of one directory, in the orders in which programs open them."""

    def __init__(self, directory: str, entries: Sequence[Entry]) -> None:
        small = [e for e in entries if e.kind is Kind.FILE and e.size and e.size <= SMALL_BYTES]
        by_inode = sorted(small, key=lambda e: inode(_join(directory, e.name)))
        by_name = sorted(small, key=lambda e: e.name)
        self._directory = directory
        self._orders = [_Order(small), _Order(by_inode), _Order(by_name)]
        self._ahead: dict[str, int] = {}  # fetched and not opened yet: name -> bytes
        self._asked: set[str] = set()  # all names that were opened or fetched
        self._opened: set[str] = set()
        self._last = ""
        self._window = FIRST_AHEAD
        self._used = 0

    def opened(self, name: str) -> int:
        """Note that a file was opened. Returns its bytes if it was fetched ahead, else 0."""
        self._asked.add(name)
        self._opened.add(name)
        self._last = name
        for order in self._orders:
            order.opened(name)
        size = self._ahead.pop(name, None)
        if size is None:
            return 0
        self._used += 1
        return size

    def comes_round(self, name: str) -> bool:
        """Whether `name` was opened before, but not as the last one."""
        return name in self._opened and name != self._last

    def begins_with(self, name: str) -> bool:
        """Whether `name` is the only file opened so far, of many, and the first in some order."""
        return len(self._opened) == 1 and any(order.begins_with(name) for order in self._orders)

    def choose(self, budget: int, confidence: int) -> list[Entry]:
        """The files to fetch now: at most `budget` bytes, no file twice.

        Empty if no order was followed for `confidence` opens in a row.
        """
        order = max(self._orders, key=lambda o: o.followed, default=None)
        if order is None or order.followed < confidence:
            return []
        if len(self._ahead) > self._window * 3 // 4:
            return []  # choose by quarters of the window: not every open pays for a choice
        if len(self._ahead) > 2 * (self._used + FIRST_AHEAD):
            return []
        if self._used > self._window // 2:
            self._window = min(MOST_AHEAD, self._window * 2)
        if not self._used:
            budget = min(budget, FIRST_BYTES)
        chosen: list[Entry] = []
        for entry in order.after(self._window):
            size = entry.size or 0
            if entry.name in self._asked:
                continue
            if size > budget or len(self._ahead) >= self._window:
                break
            budget -= size
            self._asked.add(entry.name)
            self._ahead[entry.name] = size
            chosen.append(entry)
        return chosen

    def account(self) -> tuple[int, int, int]:
        """At the end: files fetched and opened, files fetched in vain, and the latter's bytes."""
        if self._ahead:
            log.debug("%s: %d files were prefetched in vain", self._directory, len(self._ahead))
        return self._used, len(self._ahead), sum(self._ahead.values())


class _Order:
    """One order of a directory's files, and how well the opens follow it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.followed = 0  # opens in a row that followed this order
        self._entries = entries
        self._positions = {entry.name: n for n, entry in enumerate(entries)}
        self._last = -1

    def opened(self, name: str) -> None:
        position = self._positions.get(name)
        if position is None or position == self._last:
            return
        self.followed = self.followed + 1 if 0 < position - self._last <= MOST_SKIPPED else 0
        self._last = position

    def begins_with(self, name: str) -> bool:
        return len(self._entries) >= MANY and self._entries[0].name == name

    def after(self, count: int) -> list[Entry]:
        return list(itertools.islice(self._entries, self._last + 1, self._last + 1 + 2 * count))


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
