"""The order in which threads take locks, for the whole package.

**The problem.** Two threads that each hold a lock and wait for the other's stop for good. Reading
the code for that means to know every call under every lock.

**What we do.** Each lock has a rank. A thread takes only locks of a higher rank than those that it
holds, so no circle of waits can arise. The ranks stand in one enum, and the tests check each
acquisition: `ranked_lock` and `ranked_condition` make checking locks while `checking()` is on, or
with FTPFS_CHECK_LOCKS=1 in the environment (that is for mounts, which are processes of their own).
Otherwise they return plain locks of `threading`, which cost nothing more.

An attempt that does not block needs no rank: it cannot wait in a circle.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
from typing import cast

log = logging.getLogger(__name__)


class Rank(enum.IntEnum):
    """All locks of core, trees and ftp, in the order in which they may be taken.

    Most are *leaves*: nothing is taken under them. They have ranks of their own all the same, so
    that a call that somebody adds under one of them shows.
    """

    TELLING = enum.auto()  # api/bulk: held while a program's call-back runs

    # Held while the server is asked: one thread does it, the others wait for its result.
    CONNECTING = enum.auto()  # api/connections: the first login of a server
    PROBES = enum.auto()  # ftp/uploading/probes: what the server can do, tried out

    # Python programs.
    CONNECTIONS = enum.auto()  # api/connections: the servers of this process
    LISTINGS = enum.auto()  # api/listings
    AT_ONCE = enum.auto()  # api/parallel: what is left to do

    # Keeping.
    KEEPER = enum.auto()  # keeping/keeper: what is asked for
    LOOK = enum.auto()  # keeping/look: what is left to do, and what was found

    # Names and files.
    HIDING = enum.auto()  # names/hiding
    INTENTS = enum.auto()  # names/intents
    TABLE = enum.auto()  # files/table: open files and handles
    QUEUE = enum.auto()  # writing/queue
    FOLDERS = enum.auto()  # writing/folders
    WALKS = enum.auto()  # names/walks
    BEHIND = enum.auto()  # names/behind
    LOOKS = enum.auto()  # files/looks
    SPOOL_FILE = enum.auto()  # files/state: the order of writes; held over disk I/O
    OPEN_FILE = enum.auto()  # files/state: all else of an open file
    MAPPED = enum.auto()  # files/lending: released handles that may be mapped
    KNOWN = enum.auto()  # names/known
    TREE = enum.auto()  # names/tree

    REQUEST = enum.auto()  # names/killable: the result of one request's work

    # Reading.
    GENERATED_CONTENT = enum.auto()  # reading/generated: one content; held over disk I/O
    GENERATED = enum.auto()  # reading/generated: the table
    PREFETCHER = enum.auto()
    PREFETCH_WORKERS = enum.auto()
    READER = enum.auto()
    STREAM_BUDGET = enum.auto()
    BLOCKS = enum.auto()  # reading/blocks: the cache
    GENERATIONS = enum.auto()  # reading/blocks
    STORE = enum.auto()  # store/store: contents that are open
    STORE_WRITER = enum.auto()  # store/writer: what waits for the disk
    STORE_CHECKS = enum.auto()  # store/lent: contents to be checked
    WAITING = enum.auto()  # offline/waiting; held over disk I/O
    STORED_LISTINGS = enum.auto()  # store/listings: the connection; held over disk I/O
    EXCLUDED = enum.auto()  # names/excluded: what is under excluded names
    PRESENCE = enum.auto()  # store/presence
    LISTING_NOTES = enum.auto()  # store/listings: what waits for the disk

    # Writing, on the disk.
    SPOOL = enum.auto()  # writing/spool: room
    SPOOL_SUMS = enum.auto()  # writing/spool: the checksums of one file
    DESCRIPTORS = enum.auto()  # writing/descriptors
    PROOFS = enum.auto()  # writing/proofs
    JOURNAL_SYNC = enum.auto()  # writing/journal: one sync at a time
    JOURNAL = enum.auto()  # writing/journal: the connection

    # Trees without a mount.
    CREW = enum.auto()  # trees/crew
    TREE_FOLDERS = enum.auto()  # trees/copying, trees/removing: what is left of each folder
    STREAMS = enum.auto()  # trees/streams: which streams of a file run
    PIECES = enum.auto()  # trees/pieces: what is left of one file
    FETCHES = enum.auto()  # trees/ways: how many files are on their way
    TALLY = enum.auto()  # trees/outcome

    # The server.
    POOL = enum.auto()  # ftp/connections/pool
    GROOMERS = enum.auto()  # ftp/connections/groomers
    UPLOADS = enum.auto()  # ftp/uploading: each small table of its own
    RATE = enum.auto()  # ftp/connections/rates
    DATED = enum.auto()  # ftp/dated
    NEIGHBOURS = enum.auto()  # ftp/connections/neighbours: this process's file; held over disk I/O


_checks = os.environ.get("FTPFS_CHECK_LOCKS") == "1"
_held = threading.local()

# What went wrong, for a test to fail although the thread is not its own.
violations: list[str] = []


def checking(on: bool) -> None:
    """Whether locks that are made from now on check their ranks."""
    global _checks
    _checks = on


def ranked_lock(rank: Rank) -> threading.Lock:
    if not _checks:
        return threading.Lock()
    return cast("threading.Lock", RankedLock(rank, threading.Lock()))


def ranked_condition(rank: Rank) -> threading.Condition:
    """A condition with a lock of its own. Like that of `threading`, a thread may take it twice."""
    if not _checks:
        return _Condition(threading.RLock())
    return threading.Condition(cast("threading.RLock", RankedLock(rank, threading.RLock())))


class _Condition(threading.Condition):
    """A condition whose `with` is that of its lock, in C.

    That of `threading` calls a function of Python at each end: 0.3 us more a `with`, and each file
    that a program reads passes thirty. The two names are slots, so `with` finds the lock's own.
    """

    __slots__ = ("__enter__", "__exit__")

    def __init__(self, lock: threading.RLock) -> None:
        super().__init__(lock)
        # mypy knows the methods of the base class, and not that these are slots.
        self.__enter__ = lock.__enter__  # type: ignore[method-assign]
        self.__exit__ = lock.__exit__  # type: ignore[method-assign]


class RankedLock:
    """A lock that raises AssertionError if a thread takes it out of order."""

    def __init__(self, rank: Rank, lock: threading.Lock | threading.RLock) -> None:
        self.rank = rank
        self._lock = lock
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._owner == threading.get_ident() and isinstance(self._lock, type(threading.RLock())):
            self._depth += 1
            return True
        if blocking:
            self._check()
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._owner = threading.get_ident()
            self._depth = 1
            _stack().append(self)
        return taken

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            _stack().remove(self)
            self._lock.release()

    def locked(self) -> bool:
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()

    # What threading.Condition asks of its lock.

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def _release_save(self) -> int:
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        self.acquire()
        self._depth = depth

    def _check(self) -> None:
        held = [lock for lock in _stack() if lock.rank >= self.rank]
        if held:
            ranks = ", ".join(lock.rank.name for lock in held)
            message = f"lock order: {self.rank.name} taken while holding {ranks}"
            violations.append(message)
            log.critical("%s", message, stack_info=True)
            raise AssertionError(message)


def _stack() -> list[RankedLock]:
    """The locks that this thread holds."""
    stack: list[RankedLock] | None = getattr(_held, "stack", None)
    if stack is None:
        stack = _held.stack = []
    return stack
