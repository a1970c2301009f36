"""The store's thread: all that changes the disk is done here, in order, and nobody waits for it.

Owns what waits for the disk, the thread, and the index, which the thread alone uses. The thread
starts with the first item. If the disk is full or broken, or the folder is gone, the writer
switches itself off and logs why.

Threading: any thread adds items. `_changed` (Rank.STORE_WRITER) guards what waits; no I/O is done
under it. The methods of the items are called in the writer's thread only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ftpfs.core.reading.blocks import Generations, Version
from ftpfs.core.store.contents import Content, Damaged, Facts, Flag, name_of, pages
from ftpfs.core.store.index import FILES, INDEX_BYTES, Index
from ftpfs.core.store.lent import CheckedFolder
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.status import StoreStatus

log = logging.getLogger(__name__)

# Limit of bytes that wait for the disk. When the queue is full, further blocks are dropped. Most of
# them are the same objects that the block cache holds in memory: both hold the newest blocks. With
# 16 MiB, one block in 60 was dropped at 400 MB/s.
QUEUE_BYTES = 48 << 20
# The writer waits until nothing came for this time (s), but no longer than `MOST_WAIT_SECONDS`, and
# not when so many bytes wait. Each of its system calls takes the interpreter from readers, and a
# program that reads many small files does so in a burst (docs/performance.md, "The store").
CALM_SECONDS, MOST_WAIT_SECONDS, LAZY_BYTES = 1.0, 15.0, 8 << 20
# Blocks taken from the queue and written at once: few enough to make room in it soon.
MOST_AT_ONCE = 64
# Blocks of a content from the spool whose checksums are computed at a time (64 MiB). Then it is the
# turn of what came meanwhile.
SUMS_AT_ONCE = 512
# When the writer had nothing to do for this time (s), it notes the times of uses in the index, and
# seals contents. A crash loses no more than that.
PAUSE_SECONDS = 5.0
# Smaller contents are not marked as whole. To sync one takes longer than to check it whenever it
# is read.
SEAL_FROM_BYTES = 1 << 20
# How long `close` waits for queued items (s).
CLOSE_SECONDS = 5.0


class Put(NamedTuple):
    """A block from the server."""

    version: Version
    number: int
    block: bytes


class Adopt(NamedTuple):
    """A file of the spool that holds all of a content. It belongs to the writer from now on."""

    version: Version
    source: Path
    owner: str  # the mount that may serve it; "": all may


class SumUp(NamedTuple):
    """Compute the checksums of an adopted content, from block `first` on."""

    content: Content
    first: int


class Forget(NamedTuple):
    """The contents at this path and below it were changed."""

    path: str


class Drop(NamedTuple):
    """This content is damaged."""

    name: str


class Keep(NamedTuple):
    """Exempt this content from eviction. It need not be here yet: its blocks follow."""

    version: Version


Item = Put | Adopt | SumUp | Forget | Drop | Keep


class Counts(NamedTuple):
    """What was done since the mount, in blocks."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    dropped: int = 0
    adopted: int = 0  # contents


class Writer:
    """Changes the contents in `folder`, which take at most `capacity` bytes."""

    def __init__(
        self,
        folder: Path,
        files: CheckedFolder,
        capacity: int,
        owner: str,
        *,
        reserved: int,
        clock: Callable[[], float],
        changed: Callable[[list[str]], None],
        resting: Callable[[str], None],
    ) -> None:
        """`reserved`: bytes of the capacity that others take.

        `changed(names)` is called after these contents were made or deleted; `resting(name)` in
        pauses, with the name of a content that became whole, or "".
        """
        self.generations = Generations()  # replaced before the first use
        self._folder = folder
        self._files = files
        self._capacity = capacity
        self.room = capacity - reserved - INDEX_BYTES  # for contents
        self._owner = owner
        self._clock = clock
        self._report = changed
        self._rest = resting
        # Of the thread:
        self._unsealed: dict[str, None] = {}
        self._is_resting = False
        self._changed = ranked_condition(Rank.STORE_WRITER)
        # Guarded by _changed:
        self._queue: deque[Item] = deque()
        self._queued = 0  # bytes, including those that are being written
        self._calm_at = self._begins_by = 0.0  # time.monotonic(): when to begin with the queue
        self._is_busy = False  # works on items that are not in the queue any more
        self._forgetting: list[str] = []
        self._used: dict[str, float] = {}
        self._counts = self._noted = Counts()
        self._status: StoreStatus | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_off = False

    # For any thread.

    @property
    def is_off(self) -> bool:
        with self._changed:
            return self._is_off

    @property
    def queued(self) -> int:
        """Bytes that wait for the disk."""
        with self._changed:
            return self._queued

    @property
    def _is_ending(self) -> bool:
        with self._changed:
            return self._is_closing

    @property
    def counts(self) -> Counts:
        with self._changed:
            return self._counts

    @property
    def status(self) -> StoreStatus | None:
        """What the index said last; None: nothing so far."""
        with self._changed:
            return self._status

    def add(self, item: Item) -> bool:
        """Queue an item. Never waits. False: it is not done, because of a queue that is full, or
        the end."""
        with self._changed:
            if self._is_off or self._is_closing:
                return False
            if isinstance(item, Put):
                if self._queued + len(item.block) > QUEUE_BYTES:
                    self._count_locked(dropped=1)
                    return False
                self._queued += len(item.block)
            elif isinstance(item, Forget):
                self._forgetting.append(item.path)
            now = time.monotonic()
            if not self._queue:
                self._begins_by = now + MOST_WAIT_SECONDS
            self._calm_at = min(now + CALM_SECONDS, self._begins_by)
            if isinstance(item, Forget):
                # It need not wait for blocks of the old content: their generation is over.
                self._queue.appendleft(item)
            else:
                self._queue.append(item)
            self._start_locked()
            if len(self._queue) == 1 or self._queued >= LAZY_BYTES:
                self._changed.notify_all()
            return True

    def wait_for_room(self, most: int, seconds: float) -> None:
        """Wait until at most `most` bytes wait for the disk, for that time at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_off or self._queued <= most, seconds)

    def settle(self, seconds: float) -> bool:
        """Do what is queued now, at once. False: it takes longer than that, or nothing is done."""
        with self._changed:
            self._calm_at = self._begins_by = 0.0
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._is_off or not (self._queue or self._is_busy), seconds
            )
            return not (self._is_off or self._queue or self._is_busy)

    def is_forgetting(self, path: str) -> bool:
        """Whether the contents at `path` are about to be deleted."""
        with self._changed:
            return any(_covers(forgotten, path) for forgotten in self._forgetting)

    def note_use(self, name: str, *, hits: int = 1) -> None:
        """That content was used, and so many blocks of it were found."""
        with self._changed:
            self._count_locked(hits=hits)
            self._used[name] = self._clock()
            if not (self._is_off or self._is_closing):
                self._start_locked()

    def note_miss(self) -> None:
        with self._changed:
            self._count_locked(misses=1)

    def switch_off(self, error: Exception) -> None:
        with self._changed:
            if not self._is_off:
                cure = "cache_dir=FOLDER names another place"
                log.error("the store in %s is switched off: %s (%s)", self._folder, error, cure)
            left = self._end_locked()
        _delete_sources(left)

    def close(self) -> None:
        """Do what is queued, within CLOSE_SECONDS. Nothing is done afterwards."""
        with self._changed:
            self._is_closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        with self._changed:
            left = self._end_locked()
        _delete_sources(left)

    def _count_locked(self, **more: int) -> None:
        counts = self._counts
        self._counts = counts._replace(**{k: getattr(counts, k) + n for k, n in more.items()})

    def _start_locked(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ftpfs-store", daemon=True)
            self._thread.start()

    def _end_locked(self) -> list[Item]:
        """Nothing is done from now on. Returns what is left."""
        left = list(self._queue)
        self._is_off = True
        self._is_busy = False
        self._changed.notify_all()
        self._queue.clear()
        self._forgetting.clear()
        self._count_locked(dropped=sum(isinstance(item, Put) for item in left))
        return left

    # The thread.

    def _run(self) -> None:
        index = None
        try:
            index = self._open_index()
            while (items := self._next()) is not None:
                for run in _runs_of(items):
                    self._do(index, run)
                if not items:
                    self._rest(self._seal_one())
                self._note(index)
            index.remove_owned(self._owner)
        except (OSError, sqlite3.Error) as error:
            self.switch_off(error)
        except Exception as error:
            log.exception("the store failed: unexpected error")
            self.switch_off(error)
        finally:
            if index is not None:
                index.close()

    def _next(self) -> list[Item] | None:
        """The items to work on now; none after a pause, and for as long as it lasts; None: the
        end."""
        with self._changed:
            self._is_busy = False
            if not self._queue and not self._is_closing:
                self._changed.notify_all()
                goes_on = self._is_resting and self._unsealed
                self._changed.wait(0 if goes_on else PAUSE_SECONDS)
            self._is_resting = not self._queue
            while self._queue and (left := self._seconds_to_calm_locked()) > 0:
                self._changed.wait(left)
            if self._is_off or (self._is_closing and not self._queue):
                return None
            items: list[Item] = []
            while self._queue and len(items) < MOST_AT_ONCE:
                items.append(self._queue.popleft())
            self._is_busy = bool(items)
            return items

    def _seconds_to_calm_locked(self) -> float:
        if self._is_closing or self._queued >= LAZY_BYTES:
            return 0.0
        return self._calm_at - time.monotonic()

    def _do(self, index: Index, run: list[Item]) -> None:
        """Work on items of one kind; puts of one content."""
        first = run[0]
        if isinstance(first, Put):
            puts = [item for item in run if isinstance(item, Put)]
            self._store(index, first.version, puts)
            with self._changed:
                self._queued -= sum(len(put.block) for put in puts)
                if self._queued <= LAZY_BYTES:
                    self._changed.notify_all()  # those who wait for room, several at once
            return
        for item in run:
            if isinstance(item, Forget):
                self._report(index.remove_path(item.path))
                with self._changed, contextlib.suppress(ValueError):
                    self._forgetting.remove(item.path)
            elif isinstance(item, Adopt):
                self._adopt(index, item)
            elif isinstance(item, SumUp):
                self._sum_up(item)
            elif isinstance(item, Drop):
                index.remove([item.name])
                self._report([item.name])
            elif isinstance(item, Keep):
                self._keep(index, item.version)

    def _store(self, index: Index, version: Version, puts: list[Put]) -> None:
        if self.generations.of(version.path) != version.generation:
            return  # this mount changed it: the blocks are old, or a Forget is still queued
        facts = Facts.of(version)
        name = name_of(facts)
        content = self._open(name)
        puts = list({put.number: put for put in puts}.values())
        if content is not None:
            puts = [put for put in puts if not content.has(put.number)]
            if not puts:
                return
        cost = sum(pages(len(put.block)) for put in puts)
        with self._room_for(index, name, facts, cost) as is_there:
            if not is_there:
                with self._changed:
                    self._count_locked(dropped=len(puts))
                return
            if content is None:
                content = self._open(name) or self._files.create(facts, name)
                self._report([name])
        with self._files.checker.writing(content, len(puts)):
            for run in _runs(puts):
                content.write(run[0].number, [put.block for put in run])
        with self._changed:
            self._count_locked(stored=len(puts))
        self._note_unsealed(content)

    def _keep(self, index: Index, version: Version) -> None:
        if self.generations.of(version.path) == version.generation:
            facts = Facts.of(version)
            index.keep(name_of(facts), facts, self._clock())
            self._report([name_of(facts)])

    def _open(self, name: str) -> Content | None:
        try:
            return self._files.open(name, writable=True)
        except FileNotFoundError:
            return None
        except Damaged:
            self._files.remove([name])
            return None

    def _adopt(self, index: Index, item: Adopt) -> None:
        version = item.version
        is_current = self.generations.of(version.path) == version.generation
        if not is_current or (item.owner and self._is_ending):
            item.source.unlink(missing_ok=True)
            return
        try:
            incoming = self._files.take_in(item.source)
        except OSError as error:
            # The spool is on another disk, or somebody deleted the file.
            log.info("%s is not kept on the disk: %s", version.path, error)
            item.source.unlink(missing_ok=True)
            return
        try:
            content = self._made_of(index, incoming, Facts.of(version), item.owner)
        finally:
            incoming.unlink(missing_ok=True)
        if content is not None:
            self._report([content.name])
            with self._changed:
                self._count_locked(adopted=1)
            self._sum_up(SumUp(content, 0))

    def _made_of(self, index: Index, incoming: Path, facts: Facts, owner: str) -> Content | None:
        """The content that the file `incoming` becomes; None if there is no room for it."""
        name = name_of(facts, owner)
        with self._room_for(index, name, facts, pages(facts.size), owner) as is_there:
            if not is_there:
                return None
            try:
                return self._files.create(facts, name, source=incoming)
            except FileNotFoundError:  # another mount took it for a leftover
                return None

    def _sum_up(self, item: SumUp) -> None:
        """Compute a part of the checksums, and queue the rest."""
        content, first = item
        with self._files.checker.summing(content, first, SUMS_AT_ONCE):
            first += content.sum_up(first, SUMS_AT_ONCE)
        if first >= content.facts.blocks:
            content.mark(without=Flag.UNSUMMED)
            self._note_unsealed(content)
        elif not (content.is_unlinked or self._is_ending):
            with self._changed:
                self._queue.append(SumUp(content, first))

    def _room_for(
        self, index: Index, name: str, facts: Facts, cost: int, owner: str = ""
    ) -> contextlib.AbstractContextManager[bool]:
        return index.room_for(name, facts, cost, self._clock(), self.room, owner=owner)

    # In pauses.

    def _note_unsealed(self, content: Content) -> None:
        if content.facts.size >= SEAL_FROM_BYTES:
            self._unsealed[content.name] = None

    def _seal_one(self) -> str:
        """Mark one of the contents that became complete as whole. Returns its name; "": none."""
        while self._unsealed:
            name = next(iter(self._unsealed))
            del self._unsealed[name]
            with contextlib.suppress(FileNotFoundError, Damaged):
                content = self._files.open(name, writable=True)
                if not content.flags & Flag.WHOLE and content.is_complete():
                    content.seal()
                    return name
        return ""

    def _note(self, index: Index) -> None:
        with self._changed:
            used, self._used = self._used, {}
            counts, noted, self._noted = self._counts, self._noted, self._counts
        if used or counts != noted:
            index.note(used, counts.hits - noted.hits, counts.misses - noted.misses)
        status = index.status(self._capacity)
        with self._changed:
            self._status = status

    # The folder.

    def _open_index(self) -> Index:
        """The index, reconciled with the files."""
        path = self._folder / FILES[0]
        with self._locked():
            try:
                index = Index(path, self._files)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                log.warning("the store's index is damaged (%s), a new one is made", error)
                for name in FILES:
                    (self._folder / name).unlink(missing_ok=True)
                index = Index(path, self._files)
        index.reconcile(self._clock())
        index.shrink(self.room)
        return index

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one mount at a time opens the index, and perhaps replaces it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._folder / "lock", flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _runs_of(items: list[Item]) -> Iterator[list[Item]]:
    """Split items into those that are done together, in order: blocks of one content.

    Blocks of several contents that come at the same time alternate. They are sorted by content, but
    overtake no other item that is about the same content.
    """
    puts: dict[Version, list[Item]] = {}
    for item in items:
        if isinstance(item, Put):
            puts.setdefault(item.version, []).append(item)
        elif isinstance(item, Keep) and item.version not in puts:
            yield [item]
        else:
            yield from puts.values()
            puts.clear()
            yield [item]
    yield from puts.values()


def _covers(path: str, other: str) -> bool:
    """Whether `other` is `path` or below it."""
    return other == path or other.startswith(path.rstrip("/") + "/")


def _runs(puts: list[Put]) -> Iterator[list[Put]]:
    """Split blocks into runs of consecutive ones."""
    run: list[Put] = []
    for put in sorted(puts, key=lambda put: put.number):
        if run and put.number != run[-1].number + 1:
            yield run
            run = []
        run.append(put)
    yield run


def _delete_sources(items: list[Item]) -> None:
    """Delete the files of contents that were not adopted."""
    for item in items:
        if isinstance(item, Adopt):
            with contextlib.suppress(OSError):
                item.source.unlink(missing_ok=True)
