"""Small files of a directory, fetched before they are asked for.

Owns: the guess which files come next, and the threads that fetch them into the block cache. Does
not open files, and never raises anything to anyone: what it does not bring is fetched as usual.

A program that reads a directory's files opens them in some order: as listed (`tar`, `find`), by
name (the shell's `*`, `rsync`) or by inode number (`cp -r`, which sorts for the sake of disks).
When the last few opens of a directory follow one of these orders, the next small files in it are
fetched whole, more of them the longer it goes on. Files that were fetched and not opened are
counted; when they outnumber the opened ones, the directory is left alone, and when they do so over
many directories, the next ones have to show an order for longer.

Threading: `opened` is called by any thread, with no lock held. `_lock` guards the state; nothing is
called under it that waits. The fetching threads lease connections like any reader, fewer than there
may be, so somebody who reads or lists never waits for all of them.
"""

from __future__ import annotations

import itertools
import logging
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ftpfs import errors
from ftpfs.core.blocks import BLOCK_SIZE
from ftpfs.core.inode import inode
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

# A file up to this size (bytes) comes in one fetch anyway, without a stream.
SMALL = 2 * BLOCK_SIZE
# Opens in a row that follow an order before it is believed.
BELIEF = 2
# And where prefetching was in vain more often than not, over so many files.
DOUBT, DOUBTED = 8, 64
# How far ahead, in files: enough for the connections at first, then enough for a long link.
FIRST_AHEAD, MOST_AHEAD = 16, 64
# And in bytes, until the first of them was opened.
FIRST_BYTES = 8 * SMALL
# The first of so many small files is opened first: it looks as if more came.
MANY = 8
# An open that skips a few files (already in the kernel's cache, or too big) still follows.
SKIP = 4
# Directories watched at a time; a walk goes through them one after another.
WATCHED = 32


class Prefetcher:
    """Watches which files are opened, and has the next ones fetched."""

    def __init__(
        self,
        siblings: Callable[[str], Sequence[Entry]],
        fetch: Callable[[str], None],
        *,
        workers: int,
        budget: int,
        expect: Callable[[], None] = lambda: None,
    ) -> None:
        """`siblings(directory)`: its entries, if they are known (no I/O); `fetch(path)` brings a
        file into the block cache; `expect()` is called where it looks as if there will soon be much
        to fetch, and must not wait. At most `budget` bytes are fetched and not opened yet. With no
        `workers` (threads) nothing is ever prefetched."""
        self._siblings = siblings
        self._fetch = fetch
        self._expect = expect
        self._budget = budget
        self._lock = threading.Lock()
        self._executor = (
            ThreadPoolExecutor(workers, thread_name_prefix="ftpfs-prefetch") if workers else None
        )
        # Guarded by _lock:
        self._walks: OrderedDict[str, _Walk] = OrderedDict()
        self._under_way: dict[str, Future[None]] = {}
        self._bytes_ahead = 0
        self._used = self._wasted = 0  # files of finished walks, the older ones counting less
        self._closed = False

    def opened(self, path: str) -> None:
        """`path` is being opened for reading: have fetched what may come next.

        When `path` itself is being fetched, return when it has come, or failed.
        """
        if self._executor is None:
            return
        directory, name = posixpath.split(path)
        walk = self._walk(directory, name)
        with self._lock:
            self._bytes_ahead -= walk.opened(name)
            budget = 0 if self._closed else self._budget - self._bytes_ahead
            for entry in walk.choose(budget, self._belief_locked()):
                self._bytes_ahead += entry.size or 0
                ahead = _join(directory, entry.name)
                self._under_way[ahead] = self._executor.submit(self._bring, ahead)
            begins = walk.begins_with(name)
            mine = self._under_way.get(path)
            # One that has not begun would wait behind others: then the caller is faster.
            if mine is not None and mine.cancel():
                mine = self._under_way.pop(path)
        if begins:
            self._expect()
        if mine is not None:
            wait([mine])

    def close(self) -> None:
        """Fetch nothing more. Does not wait for what is under way."""
        with self._lock:
            self._closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _walk(self, directory: str, name: str) -> _Walk:
        """The directory's walk; a new one with the first open in it, and when `name` comes round
        again: the directory is gone through once more, and may have changed."""
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
        """Learn from a walk that is over."""
        used, wasted, size = walk.account()
        self._bytes_ahead -= size
        self._used += used
        self._wasted += wasted
        if self._used + self._wasted > 8 * DOUBTED:
            self._used, self._wasted = self._used // 2, self._wasted // 2

    def _belief_locked(self) -> int:
        return DOUBT if self._wasted > self._used + DOUBTED else BELIEF

    def _bring(self, path: str) -> None:
        try:
            self._fetch(path)
        except errors.FtpfsError as error:
            log.debug("not prefetched: %s: %s", path, error)
        except Exception:
            log.exception("prefetching %s failed in a way nobody foresaw", path)
        finally:
            with self._lock:
                self._under_way.pop(path, None)


class _Walk:
    """The small files of one directory, in the orders in which programs open them."""

    def __init__(self, directory: str, entries: Sequence[Entry]) -> None:
        small = [e for e in entries if e.kind is Kind.FILE and e.size and e.size <= SMALL]
        by_inode = sorted(small, key=lambda e: inode(_join(directory, e.name)))
        by_name = sorted(small, key=lambda e: e.name)
        self._directory = directory
        self._orders = [_Order(small), _Order(by_inode), _Order(by_name)]
        self._ahead: dict[str, int] = {}  # fetched and not opened yet: name -> bytes
        self._asked: set[str] = set()  # all that were opened or fetched
        self._opened: set[str] = set()
        self._last = ""
        self._window = FIRST_AHEAD
        self._used = 0

    def opened(self, name: str) -> int:
        """A file was opened; how many of the bytes fetched ahead it stands for."""
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
        """Whether `name` was opened before, and not just now."""
        return name in self._opened and name != self._last

    def begins_with(self, name: str) -> bool:
        """Whether `name` is all that was opened of many, and the first of them in some order."""
        return len(self._opened) == 1 and any(order.begins_with(name) for order in self._orders)

    def choose(self, budget: int, belief: int) -> list[Entry]:
        """The files to fetch now: at most `budget` bytes, none twice, none without belief."""
        order = max(self._orders, key=lambda o: o.followed, default=None)
        if order is None or order.followed < belief:
            return []
        if len(self._ahead) > self._window * 3 // 4:
            return []  # in quarters, so that not every open pays for a choice
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
        """At the end: files fetched and opened, files fetched in vain, and the bytes of these."""
        if self._ahead:
            log.debug("%s: %d files were prefetched in vain", self._directory, len(self._ahead))
        return self._used, len(self._ahead), sum(self._ahead.values())


class _Order:
    """One order of a directory's files, and how well the opens follow it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.followed = 0  # opens in a row
        self._entries = entries
        self._positions = {entry.name: n for n, entry in enumerate(entries)}
        self._last = -1

    def opened(self, name: str) -> None:
        position = self._positions.get(name)
        if position is None or position == self._last:
            return
        self.followed = self.followed + 1 if 0 < position - self._last <= SKIP else 0
        self._last = position

    def begins_with(self, name: str) -> bool:
        return len(self._entries) >= MANY and self._entries[0].name == name

    def after(self, count: int) -> list[Entry]:
        return list(itertools.islice(self._entries, self._last + 1, self._last + 1 + 2 * count))


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
