"""The disk cache: blocks that outlive the mount, the least recently used evicted first.

Owns one folder for each server, which all mounts of that server share. Does not know where blocks
come from, nor whether a reader waits for them. If the cache lacks a block, the caller fetches it;
if the cache cannot take a block, the block is dropped.

The folder holds:

- `data/`: a sparse file for each content, named by a hash of path, size and time. Block n is at its
  own offset. Behind the content is a table of checksums, 8 bytes a block, zeros if the block is
  absent. A checksum is written after its block, and covers the file's name and the block's number,
  too. So a block that a crash tore, that rotted, or that landed elsewhere is never served.
- `index.db`: which contents there are, their paths, their sizes on disk, and when they were last
  used. It is SQLite, because two mounts change it at once and a crash must not damage it. A row is
  written before its file, and deleted before it. At the start, files without a row are deleted.
  Reading needs no index: the name of the file follows from the version.

Only contents that cannot be confused with others are stored: their time is exact and long past
(`SETTLED_SECONDS`). A content that this mount changes is dropped, because a program may set size
and time back to what they were.

If the disk is full or broken, or the folder is gone, the cache switches itself off and logs why.
Reading goes on without it.

Threading: any number of threads call `get`, `put` and `forget`. `get` reads the disk in its
caller's thread. Nothing else waits for the disk: one thread, started with the first use, writes
everything and alone uses the index. `_changed` (Rank.DISK_CACHE) guards the state; no I/O is done
under it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sqlite3
import struct
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ftpfs import errors, private
from ftpfs.core.reading.blocks import BLOCK_SIZE, Generations, Version
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

# A file that was changed within this time (s) is not stored. It may change again within the same
# second, with the same size, after a part of it was read. One second would be enough if the
# server's clock agreed with ours and no byte waited in a buffer; a minute covers both.
SETTLED_SECONDS = 60.0
# Limit of bytes that wait for the disk. When the queue is full, further blocks are dropped. Most of
# them are the same objects that the block cache holds in memory: both hold the newest blocks. With
# 16 MiB, one block in 60 was dropped at 400 MB/s.
QUEUE_BYTES = 48 << 20
# Blocks taken from the queue and written at once: few enough to make room in it soon.
MOST_AT_ONCE = 64
# Limit of open files of contents being read, and of contents known to be absent.
OPEN_FILES = 64
# After a content was absent, the cache looks for it again after this time (s): another mount may
# have stored it.
ABSENT_SECONDS = 1.0
# Interval (s) at which the times of uses are written to the index; a crash loses no more than that.
NOTE_USES_SECONDS = 5.0
# How long `close` waits for queued blocks to be written (s).
CLOSE_SECONDS = 5.0
# What a content takes beside its blocks and checksums (bytes): a row of the index, and the rest of
# its last page. The index has a log of at most LOG_PAGES, and of twice that during a transaction.
PAGE, ROW, LOG_PAGES = 4096, 1024, 128
INDEX_FILES = "index.db", "index.db-wal", "index.db-shm"
INDEX = 2 * LOG_PAGES * PAGE + (64 << 10)

# An entry of the checksum table: the CRC, and a mark that tells an entry from a hole. For one
# block, CRC-32 takes 30 us, blake2b 170 us, and the read itself 16 us. Both find accidental damage
# equally well.
ENTRY = struct.Struct("<II")
MARK = 0x4654_5031
# Part of the folder's name, so that another layout gets another folder.
LAYOUT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS contents (
    name TEXT PRIMARY KEY, path BLOB NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_path ON contents (path);
CREATE INDEX IF NOT EXISTS by_use ON contents (used);
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON contents
    BEGIN UPDATE total SET bytes = bytes + new.bytes; END;
CREATE TRIGGER IF NOT EXISTS grown AFTER UPDATE OF bytes ON contents
    BEGIN UPDATE total SET bytes = bytes + new.bytes - old.bytes; END;
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON contents
    BEGIN UPDATE total SET bytes = bytes - old.bytes; END;
"""


def folder_of(server: str) -> str:
    """The name of a server's folder. `server` has all that tells this server from others."""
    text = f"{LAYOUT} {server}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


class DiskCache:
    """Blocks of one server's files in `folder`, which takes at most `capacity` bytes."""

    def __init__(
        self, folder: Path, capacity: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock()` returns seconds since the epoch. A folder that cannot be used is logged."""
        self._folder = folder
        self._data = folder / "data"
        self._capacity = capacity
        self._clock = clock
        self._generations = Generations()
        self._changed = ranked_condition(Rank.DISK_CACHE)
        # Guarded by _changed:
        self._contents: OrderedDict[Version, _Content | float] = OrderedDict()
        self._queue: deque[_Put | _Forget | _Drop] = deque()
        self._queued = 0  # bytes, including those that are being written
        self._forgetting: list[str] = []
        self._used: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._off = False
        self._hits = self._stored = self._dropped = 0
        try:
            self._make_folder()
        except OSError as error:
            self._switch_off(error)

    def follow(self, generations: Generations) -> None:
        """Learn from `generations` which contents this mount changes. Called before any use."""
        self._generations = generations
        generations.changed = self.forget

    def get(self, version: Version, index: int) -> bytes | None:
        """Block `index` of that content, verified, or None."""
        if not self._is_current(version):
            return None
        try:
            content = self._content(version)
            return None if content is None else self._read(content, index)
        except OSError as error:
            self._switch_off(error)
            return None

    def put(self, version: Version, index: int, block: bytes) -> None:
        """Queue a block to be written. Never waits; if the queue is full, the block is dropped."""
        if not version.exact or version.mtime is None or len(block) != _length(version, index):
            return
        if self._clock() - version.mtime < SETTLED_SECONDS:
            return
        with self._changed:
            if self._off or self._closing:
                return
            if self._queued + len(block) > QUEUE_BYTES:
                self._dropped += 1
                return
            self._queued += len(block)
            self._enqueue_locked(_Put(version, index, block))

    def forget(self, path: str) -> None:
        """This mount changed `path` or something below it: delete the contents stored there."""
        with self._changed:
            if not (self._off or self._closing):
                self._forgetting.append(path)
                self._enqueue_locked(_Forget(path))

    def close(self) -> None:
        """Write the queued blocks, within CLOSE_SECONDS. After it, nothing is stored or served."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        with self._changed:
            left = len(self._queue)
            self._off = True
            self._queue.clear()
            self._contents.clear()
            if thread is not None or self._hits:
                log.info(
                    "disk cache: %d blocks served, %d stored, %d dropped",
                    self._hits,
                    self._stored,
                    self._dropped + left,
                )

    # Reading.

    def _is_current(self, version: Version) -> bool:
        """Whether no other content can be meant, and this mount has not changed this one."""
        if not version.exact or self._generations.of(version.path) != version.generation:
            return False
        with self._changed:
            return not (self._off or any(_covers(p, version.path) for p in self._forgetting))

    def _content(self, version: Version) -> _Content | None:
        """The content's file, opened when it is first needed; None if it is absent."""
        with self._changed:
            known = self._contents.get(version)
            if isinstance(known, _Content):
                self._contents.move_to_end(version)
                return known
        if known is not None and time.monotonic() < known:
            return None
        found: _Content | float
        try:
            found = _Content(version, self._path(name_of(version)), os.O_RDONLY)
        except FileNotFoundError:
            found = time.monotonic() + ABSENT_SECONDS
        with self._changed:
            self._contents[version] = found
            while len(self._contents) > OPEN_FILES:
                self._contents.popitem(last=False)
        return found if isinstance(found, _Content) else None

    def _read(self, content: _Content, index: int) -> bytes | None:
        try:
            block = content.read(index)
        except _Damaged as damage:
            log.warning("disk cache: %s of %s is fetched again", damage, content.version.path)
            with self._changed:
                if not (self._off or self._closing):
                    self._enqueue_locked(_Drop(content.name))
            self._let_go([content.name])
            return None
        if block is None:
            if content.unlinked:  # another mount deleted it, and may have stored it again
                self._let_go([content.name])
            return None
        with self._changed:
            self._hits += 1
            self._used[content.name] = self._clock()
            if self._thread is None and not self._closing:
                self._start_locked()
        return block

    def _let_go(self, names: Iterable[str]) -> None:
        """Drop the open files of these contents; the next read opens them again."""
        gone = set(names)
        with self._changed:
            for version in [v for v in self._contents if name_of(v) in gone]:
                del self._contents[version]

    # The thread.

    def _enqueue_locked(self, item: _Put | _Forget | _Drop) -> None:
        self._queue.append(item)
        if self._thread is None:
            self._start_locked()
        self._changed.notify_all()

    def _start_locked(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ftpfs-disk", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        index = None
        try:
            index = self._open_index()
            while items := self._next():
                for _, run in groupby(items, _run_of):
                    self._do(index, list(run))
                self._note_uses(index)
            self._note_uses(index)
        except (OSError, sqlite3.Error) as error:
            self._switch_off(error)
        except Exception as error:
            log.exception("the disk cache failed: unexpected error")
            self._switch_off(error)
        finally:
            if index is not None:
                index.close()

    def _next(self) -> list[_Put | _Forget | _Drop | None]:
        """The items to work on now; [None]: only times of uses to write; []: the end."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(NOTE_USES_SECONDS)
            if self._off or (self._closing and not self._queue):
                return []
            items: list[_Put | _Forget | _Drop | None] = []
            while self._queue and len(items) < MOST_AT_ONCE:
                items.append(self._queue.popleft())
            return items or [None]

    def _do(self, index: _Index, run: list[_Put | _Forget | _Drop | None]) -> None:
        """Work on items of one kind; puts of one content."""
        first = run[0]
        if isinstance(first, _Put):
            puts = [item for item in run if isinstance(item, _Put)]
            self._store(index, first.version, puts)
            with self._changed:
                self._queued -= sum(len(put.block) for put in puts)
        elif isinstance(first, _Forget):
            for item in run:
                if isinstance(item, _Forget):
                    self._unlink(index.remove_path(item.path))
                    with self._changed:
                        self._forgetting.remove(item.path)
        elif isinstance(first, _Drop):
            self._unlink(index.remove([i.name for i in run if isinstance(i, _Drop)]))

    def _store(self, index: _Index, version: Version, puts: list[_Put]) -> None:
        if self._generations.of(version.path) != version.generation:
            return  # this mount changed it: the blocks are old, or a _Forget is still queued
        name = name_of(version)
        try:
            content: _Content | None = _Content(version, self._path(name), os.O_RDWR)
        except FileNotFoundError:
            content = None
        puts = list({put.number: put for put in puts}.values())
        if content is not None:
            puts = [put for put in puts if not content.has(put.number)]
            if not puts:
                return
        cost = sum(_pages(len(p.block)) for p in puts)
        room = self._capacity - INDEX
        if not index.reserve(name, version, cost, self._clock(), room, self._unlink):
            with self._changed:
                self._dropped += len(puts)
            return
        if content is None:
            content = _Content(version, self._path(name), os.O_RDWR | os.O_CREAT)
            self._let_go([name])
        for run in _runs(puts):
            content.write(run[0].number, [put.block for put in run])
        with self._changed:
            self._stored += len(puts)

    def _note_uses(self, index: _Index) -> None:
        with self._changed:
            used, self._used = self._used, {}
        if used:
            index.note(used)

    def _unlink(self, names: list[str]) -> None:
        for name in names:
            self._path(name).unlink(missing_ok=True)
        if names:
            self._let_go(names)

    # The folder.

    def _path(self, name: str) -> Path:
        return self._data / name

    def _make_folder(self) -> None:
        try:
            private.make_folder(self._folder)
            private.make_folder(self._data)
            for name in ("lock", *INDEX_FILES):  # SQLite follows symbolic links
                private.check_file(self._folder / name)
        except errors.PermissionDenied as error:
            raise PermissionError(str(error)) from error
        if not os.access(self._data, os.W_OK | os.X_OK):
            raise PermissionError(f"{self._data} is not writable")

    def _open_index(self) -> _Index:
        """The index, reconciled with the files: rows without file and files without row go."""
        with self._locked():
            try:
                index = _Index(self._folder / "index.db")
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                log.warning("disk cache: its index is damaged (%s), a new one is begun", error)
                for path in self._folder.glob("index.db*"):
                    path.unlink(missing_ok=True)
                index = _Index(self._folder / "index.db")
            # The files first: while another mount makes a file, its row exists before it.
            files = set(os.listdir(self._data))
            rows = set(index.names())
            self._unlink(list(files - rows))
            self._unlink(index.remove(list(rows - files)))
            self._unlink(index.shrink(self._capacity - INDEX))
            return index

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one mount at a time reconciles the folder with its index."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._folder / "lock", flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _switch_off(self, error: Exception) -> None:
        with self._changed:
            if not self._off:
                log.error("the disk cache in %s is switched off: %s", self._folder, error)
            self._off = True
            self._queue.clear()
            self._contents.clear()
            self._forgetting.clear()


class _Put(NamedTuple):
    version: Version
    number: int
    block: bytes


class _Forget(NamedTuple):
    path: str


class _Drop(NamedTuple):
    name: str


def _run_of(item: _Put | _Forget | _Drop | None) -> object:
    """The key by which items are grouped: equal keys are done together."""
    return item.version if isinstance(item, _Put) else type(item)


class _Damaged(Exception):
    """A block on the disk is not what was written. The message says which block."""


class _Content:
    """A content's file.

    It is closed with the last reference to it, because one thread may read from it while another
    drops it.
    """

    def __init__(self, version: Version, path: Path, flags: int) -> None:
        self.version = version
        self.name = path.name
        self._table = _table(version)
        self._seed = zlib.crc32(self.name.encode())
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    @property
    def unlinked(self) -> bool:
        return os.fstat(self._fd).st_nlink == 0

    def has(self, index: int) -> bool:
        return self._entry(index) is not None

    def read(self, index: int) -> bytes | None:
        """The block, or None if it is absent. Raises _Damaged and OSError."""
        checksum = self._entry(index)
        if checksum is None:
            return None
        block = os.pread(self._fd, _length(self.version, index), index * BLOCK_SIZE)
        if self._checksum(index, block) != checksum:
            raise _Damaged(f"block {index}, damaged on the disk,")
        return block

    def write(self, first: int, blocks: list[bytes]) -> None:
        """Write consecutive blocks, and their checksums, in two system calls.

        While other threads read, each system call of this thread costs a wait for the interpreter.
        Raises OSError, also if only a part could be written.
        """
        entries = [
            ENTRY.pack(self._checksum(index, block), MARK)
            for index, block in enumerate(blocks, first)
        ]
        _write_all(self._fd, blocks, first * BLOCK_SIZE)
        _write_all(self._fd, entries, self._table + ENTRY.size * first)

    def _entry(self, index: int) -> int | None:
        entry = os.pread(self._fd, ENTRY.size, self._table + ENTRY.size * index)
        if len(entry) < ENTRY.size:
            return None
        checksum, mark = ENTRY.unpack(entry)
        return int(checksum) if mark == MARK else None

    def _checksum(self, index: int, block: bytes) -> int:
        return zlib.crc32(block, zlib.crc32(index.to_bytes(8, "little"), self._seed))


class _Index:
    """The contents in the folder. Only the cache's thread uses it. Methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        # Other mounts lock it for milliseconds.
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            # A power loss may lose the last rows, but cannot damage the index. Rows and files are
            # reconciled at the start anyway.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * PAGE}")
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def names(self) -> list[str]:
        return [name for (name,) in self._db.execute("SELECT name FROM contents")]

    def reserve(
        self,
        name: str,
        version: Version,
        cost: int,
        now: float,
        capacity: int,
        unlink: Callable[[list[str]], None],
    ) -> bool:
        """Count `cost` more bytes for a content, and evict others for it.

        Returns False, and changes nothing, if the content does not fit even alone. `unlink(names)`
        deletes the evicted files before other mounts see the room that this makes. Otherwise
        another mount would fill that room first, and the folder would exceed its bound. If the
        mount is killed in between, the next one finds rows without files, and deletes them.
        """
        with self._transaction():
            known = self._db.execute("SELECT 1 FROM contents WHERE name = ?", (name,)).fetchone()
            if known is None:
                cost += _pages(_blocks(version) * ENTRY.size) + ROW
            evicted = self._evict(capacity - cost, sparing=name)
            if evicted is None:
                self._db.execute("ROLLBACK")
                return False
            unlink(evicted)
            self._db.execute(
                "INSERT INTO contents VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
                " SET bytes = bytes + excluded.bytes, used = excluded.used",
                (name, os.fsencode(version.path), cost, now),
            )
        return True

    def shrink(self, capacity: int) -> list[str]:
        with self._transaction():
            return self._evict(capacity) or []

    def note(self, used: dict[str, float]) -> None:
        with self._transaction():
            self._db.executemany(
                "UPDATE contents SET used = ? WHERE name = ?", [(t, n) for n, t in used.items()]
            )

    def remove(self, names: list[str]) -> list[str]:
        with self._transaction():
            self._db.executemany("DELETE FROM contents WHERE name = ?", [(n,) for n in names])
        return names

    def remove_path(self, path: str) -> list[str]:
        """Delete the rows of the contents at `path` and below it. Returns their names."""
        raw = os.fsencode(path)
        below = raw.rstrip(b"/") + b"/", raw.rstrip(b"/") + b"0"  # "0" comes after "/"
        where = "path = ? OR (path >= ? AND path < ?)"
        query = f"SELECT name FROM contents WHERE {where}"  # noqa: S608 - two constants
        rows = self._db.execute(query, (raw, *below))
        names = [str(name) for (name,) in rows.fetchall()]
        return self.remove(names) if names else []

    def _evict(self, capacity: int, sparing: str = "") -> list[str] | None:
        """Evict the least recently used rows until the rest takes at most `capacity` bytes.

        Returns their names; None if `sparing` alone takes more.
        """
        ((total,),) = self._db.execute("SELECT bytes FROM total").fetchall()
        evicted = []
        rows = self._db.execute(
            "SELECT name, bytes FROM contents WHERE name != ? ORDER BY used", (sparing,)
        )
        while total > capacity:
            row = rows.fetchone()
            if row is None:
                return None
            evicted.append(str(row[0]))
            total -= row[1]
        rows.close()
        self._db.executemany("DELETE FROM contents WHERE name = ?", [(n,) for n in evicted])
        return evicted

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if self._db.in_transaction:
            self._db.execute("COMMIT")


def name_of(version: Version) -> str:
    """The name of a content's file: a hash of everything that tells it from others."""
    key = f"{version.size} {version.mtime} {version.path}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _covers(path: str, other: str) -> bool:
    """Whether `other` is `path` or below it."""
    return other == path or other.startswith(path.rstrip("/") + "/")


def _blocks(version: Version) -> int:
    return -(-version.size // BLOCK_SIZE)


def _length(version: Version, index: int) -> int:
    return min(BLOCK_SIZE, version.size - index * BLOCK_SIZE)


def _table(version: Version) -> int:
    """Offset of a content's checksums: right behind it, so that a small content takes one page."""
    return -(-version.size // ENTRY.size) * ENTRY.size


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _runs(puts: list[_Put]) -> Iterator[list[_Put]]:
    """Split blocks into runs of consecutive ones."""
    run: list[_Put] = []
    for put in sorted(puts, key=lambda put: put.number):
        if run and put.number != run[-1].number + 1:
            yield run
            run = []
        run.append(put)
    yield run


def _write_all(fd: int, pieces: list[bytes], offset: int) -> None:
    if os.pwritev(fd, pieces, offset) == sum(map(len, pieces)):
        return
    # The disk has become full. If each piece is written alone, the one that does not fit raises.
    for piece in pieces:
        view = memoryview(piece)
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
