"""Listings on the disk: what the server told of its names, for a mount that finds it away.

Owns one database in a store's folder, and what changes do to the listings in it. Does not know the
server, nor when a listing may be shown.

**What lies there.** A row for each folder: the entries that the server told, with a checksum. A row
is *whole* if it came from a listing. Otherwise it has single names that were asked for by
themselves: they can be looked up, but the folder cannot be listed.

**Exact times.** Many servers list times to the minute or the day, and tell the exact time of one
file when it is opened. A content in the store is found by the exact time only. So a new listing
keeps an exact time that is known, unless it contradicts it (`_keeping_exact`).

**Bound.** The listings take at most `capacity` bytes; those that were told longest ago go first.
Listings of kept folders, and of the folders above them, stay and do not count.

A row that is damaged is no row. A damaged database is deleted and made anew. If the disk fails,
nothing is noted any more.

Threading: any thread notes changes, which costs no I/O: a thread of this class writes them, some
seconds later. After a kill, what was told in the last seconds is missing. `_writing`
(Rank.STORED_LISTINGS) guards the connection and is held over disk I/O; `_changed`
(Rank.LISTING_NOTES) guards the notes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from ftpfs import errors
from ftpfs.core.store.contents import PAGE_BYTES, pages
from ftpfs.local import private
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock
from ftpfs.model.names import is_within, split

log = logging.getLogger(__name__)

T = TypeVar("T")

FILES = "listings.db", "listings.db-wal", "listings.db-shm"
# The layout of the database. Another one is deleted.
VERSION = 1
# Notes wait for others of the same folders for so long (s), and at least this multiple of the time
# that writing the last ones took.
PAUSE_SECONDS, PAUSE_FACTOR = 1.0, 20
# Limit of listings that stay in memory after a question. An offline `grep -r` asks for each file of
# a folder, and to unpack a listing of 10,000 names takes 15 ms.
MOST_RECENT = 8
# Limit of notes that wait.
MOST_NOTES = 50_000
# A listing of more than this part of the bound is not stored. Neither are any listings, if the
# bound is less than the second figure (bytes).
LARGEST_PART, LEAST_BYTES = 8, 256 << 10
# The log of the database has at most so many pages of 4 KiB between two transactions.
LOG_PAGES = 16
# What a row takes beside its data and path (bytes).
ROW_BYTES = 64
# Times that are told to the minute, or to the day, may be in another time zone, too (s).
MINUTE_SECONDS, ZONE_SECONDS, DAY_SECONDS = 60, 900, 86_400
# `ls -l`, and so LIST, tells no time of day for older files (s).
DATED_BY_DAY_SECONDS = 150 * DAY_SECONDS

SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS listings (
    path BLOB PRIMARY KEY, whole INTEGER NOT NULL, told REAL NOT NULL, bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON listings (told, bytes);
"""


class _Listed(NamedTuple):
    """The server told all names of a folder."""

    path: str
    entries: Sequence[Entry]


class _Told(NamedTuple):
    """The server told, or was made to have, one name; None: the name is gone."""

    path: str
    entry: Entry | None


class _Moved(NamedTuple):
    """A name, with all that is below it, got another one."""

    old: str
    new: str


class _Set(NamedTuple):
    """A mode (bits) or a time (seconds since the epoch) was set."""

    path: str
    mode: int | None
    mtime: int | None


class _Forgotten(NamedTuple):
    """The server has no such folder any more, or nobody knows what is in it."""

    path: str


_Note = _Listed | _Told | _Moved | _Set | _Forgotten


class _Damaged(Exception):
    """The database was damaged, and is deleted."""


@dataclass
class _Row:
    """The listing of one folder."""

    whole: bool
    told: float  # seconds since the epoch
    entries: dict[str, Entry]


class StoredListings:
    """The listings of one server in `folder`, which take at most `capacity` bytes."""

    def __init__(
        self,
        folder: Path,
        capacity: int,
        *,
        kept: Callable[[], Sequence[str]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`kept()`: the kept paths. `clock()` returns seconds since the epoch.

        A folder that cannot be used is logged.
        """
        self._place = folder / FILES[0]
        self._folder = folder
        self._capacity = capacity // 2  # the other half is for the database's log and its pages
        self._kept = kept
        self._clock = clock
        self._writing = ranked_lock(Rank.STORED_LISTINGS)
        # Guarded by _writing:
        self._db: sqlite3.Connection | None = None
        self._recent: dict[str, _Row | None] = {}  # rows that were read, for the next question
        self._data_version = 0  # of the database when they were read
        self._changed = ranked_condition(Rank.LISTING_NOTES)
        # Guarded by _changed:
        self._notes: deque[_Note] = deque()
        self._thread: threading.Thread | None = None
        self._is_off = capacity < LEAST_BYTES
        self._is_closing = False

    # What the server told.

    def listed(self, path: str, entries: Sequence[Entry]) -> None:
        """The server told all names of a folder."""
        self._add(_Listed(path, entries))

    def told(self, path: str, entry: Entry | None) -> None:
        """The server told one name, or has it since a change by this mount; None: it is gone."""
        self._add(_Told(path, entry))

    def was_set(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None:
        """A mode (bits) or a time (seconds since the epoch) was set."""
        self._add(_Set(path, mode, mtime))

    def moved(self, old: str, new: str) -> None:
        """A name, with all that is below it, got another one."""
        self._add(_Moved(old, new))

    def forget(self, path: str) -> None:
        """The folder is gone, or nobody knows what is in it."""
        self._add(_Forgotten(path))

    # Questions. They wait for the disk.

    def entries(self, path: str) -> list[Entry] | None:
        """The entries of a folder as they were told last; None if it was never listed."""
        row = self._read(path)
        return list(row.entries.values()) if row is not None and row.whole else None

    def entry(self, path: str) -> Entry | None:
        """One entry as it was told last; None if nothing is known, or its folder lacks it."""
        parent, name = split(path)
        row = self._read(parent)
        return row.entries.get(name) if row is not None else None

    def told_at(self, path: str) -> float | None:
        """When the folder was listed last (seconds since the epoch); None: never."""
        row = self._read(path)
        return row.told if row is not None and row.whole else None

    def flush(self) -> None:
        """Write what is noted, now."""
        self._flush()

    def clear(self) -> None:
        """Delete all listings, but for those of kept folders."""
        self._with_database(self._delete_all)

    def close(self) -> None:
        """Write what is noted. Nothing is noted or told afterwards."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._writing:
            if self._db is not None:
                self._db.close()
                self._db = None
        with self._changed:
            self._is_off = True

    # The thread.

    def _add(self, note: _Note) -> None:
        with self._changed:
            if self._is_off or self._is_closing or len(self._notes) >= MOST_NOTES:
                return
            self._notes.append(note)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ftpfs-listings", daemon=True
                )
                self._thread.start()
            elif len(self._notes) == 1:
                self._changed.notify_all()

    def _run(self) -> None:
        pause = PAUSE_SECONDS
        while self._wait(pause):
            begun = time.monotonic()
            self._flush()
            pause = max(PAUSE_SECONDS, PAUSE_FACTOR * (time.monotonic() - begun))

    def _wait(self, pause: float) -> bool:
        """Wait for notes, and for more of them; False: all is done."""
        with self._changed:
            while not self._notes and not self._is_closing:
                self._changed.wait()
            if not self._is_closing:
                self._changed.wait_for(lambda: self._is_closing, pause)
            return bool(self._notes) and not self._is_off

    def _flush(self) -> None:
        """Write what is noted."""
        self._with_database(self._write)

    def _delete_all(self, db: sqlite3.Connection) -> None:
        self._recent.clear()
        spared = _Spared(self._kept())
        rows = db.execute("SELECT path FROM listings").fetchall()
        gone = [(raw,) for (raw,) in rows if not spared.has(os.fsdecode(raw))]
        db.executemany("DELETE FROM listings WHERE path = ?", gone)

    def _write(self, db: sqlite3.Connection) -> None:
        with self._changed:
            notes, self._notes = self._notes, deque()
        if notes:
            self._recent.clear()
            _Changes(db, self._clock(), self._capacity, _Spared(self._kept())).apply(notes)

    def _read(self, path: str) -> _Row | None:
        def read(db: sqlite3.Connection) -> _Row | None:
            self._write(db)
            # It changes when another mount has written.
            ((now,),) = db.execute("PRAGMA data_version").fetchall()
            if now != self._data_version or len(self._recent) >= MOST_RECENT:
                self._recent.clear()
                self._data_version = now
            if path not in self._recent:
                self._recent[path] = _row_at(db, path)
            return self._recent[path]

        return self._with_database(read)

    # The database.

    def _with_database(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `work` with the database, which no other thread uses meanwhile.

        None if the database cannot be used; then nothing is stored any more.
        """
        try:
            with self._writing:
                with contextlib.suppress(_Damaged):
                    return self._attempt(work)
                return self._attempt(work)
        except (OSError, sqlite3.Error, errors.FtpfsError, _Damaged) as error:
            self._switch_off(error)
            return None

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`. If the database is damaged, delete it, and raise _Damaged."""
        try:
            if self._db is None:
                self._db = self._opened()
            return work(self._db)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s), a new one is made", self._place, error)
            self._recent.clear()
            if self._db is not None:
                self._db.close()
                self._db = None
            for name in FILES:
                (self._folder / name).unlink(missing_ok=True)
            raise _Damaged(str(error)) from error

    def _switch_off(self, error: Exception) -> None:
        with self._changed:
            if not self._is_off:
                log.warning("listings are not stored in %s any more: %s", self._folder, error)
            self._is_off = True
            self._notes.clear()

    def _opened(self) -> sqlite3.Connection:
        with self._changed:
            if self._is_off:
                raise errors.FtpfsError("nothing is stored")
        private.make_folder(self._folder)
        for name in FILES:  # SQLite follows symbolic links
            private.check_file(self._folder / name)
        os.close(os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._place, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # A power loss may lose the last listings, but cannot damage the database.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            db.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * PAGE_BYTES}")
            if db.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
                raise sqlite3.DatabaseError("another version of ftpfs made it")
            db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except BaseException:
            db.close()
            raise
        return db


class _Spared:
    """Folders whose listings stay: the kept ones, and those that lead to them."""

    def __init__(self, kept: Sequence[str]) -> None:
        self._kept = kept

    def has(self, path: str) -> bool:
        return any(is_within(path, kept) or is_within(kept, path) for kept in self._kept)


class _Changes:
    """Notes on their way into the database: each listing is read and written once for all."""

    def __init__(self, db: sqlite3.Connection, now: float, capacity: int, spared: _Spared) -> None:
        """`now`: seconds since the epoch. `capacity`: bytes that the rows may take.

        `spared`: the folders whose rows stay and do not count.
        """
        self._spared = spared
        self._db = db
        self._now = now
        self._capacity = capacity
        self._rows: dict[str, _Row | None] = {}  # as they will be; None: no row

    def apply(self, notes: Iterable[_Note]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for note in notes:
                self._apply(note)
            for path, row in self._rows.items():
                self._write(path, row)
            self._evict()
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _apply(self, note: _Note) -> None:
        if isinstance(note, _Listed):
            known = self._row(note.path)
            entries = {entry.name: entry for entry in note.entries}
            if known is not None:
                entries = _keeping_exact(known.entries, entries, self._now)
            self._rows[note.path] = _Row(True, self._now, entries)
        elif isinstance(note, _Told):
            self._put(note.path, note.entry)
        elif isinstance(note, _Moved):
            self._move(note.old, note.new)
        elif isinstance(note, _Set):
            self._set(note)
        else:
            self._forget(note.path)

    def _row(self, path: str) -> _Row | None:
        if path not in self._rows:
            self._rows[path] = _row_at(self._db, path)
        return self._rows[path]

    def _put(self, path: str, entry: Entry | None) -> None:
        parent, name = split(path)
        row = self._row(parent)
        if entry is None:
            if row is not None and row.entries.pop(name, None) is not None:
                self._forget(path)
            return
        if row is None:
            row = self._rows[parent] = _Row(False, self._now, {})
        row.entries[name] = entry if entry.name == name else replace(entry, name=name)

    def _set(self, note: _Set) -> None:
        parent, name = split(note.path)
        row = self._row(parent)
        entry = row.entries.get(name) if row is not None else None
        if row is None or entry is None:
            return
        if note.mode is not None:
            entry = replace(entry, mode=note.mode)
        if note.mtime is not None:
            entry = replace(entry, mtime=note.mtime, exact=True)
        row.entries[name] = entry

    def _move(self, old: str, new: str) -> None:
        parent, name = split(old)
        row = self._row(parent)
        entry = row.entries.pop(name, None) if row is not None else None
        moved = {path: self._row(path) for path in self._at_and_below(old)}
        self._forget(old)
        self._forget(new)
        self._put(new, entry)
        for path, below in moved.items():
            self._rows[new + path[len(old) :]] = below

    def _forget(self, path: str) -> None:
        for known in self._at_and_below(path):
            self._rows[known] = None

    def _at_and_below(self, path: str) -> list[str]:
        """The folders at and below `path` that have a row."""
        raw = os.fsencode(path)
        below = raw.rstrip(b"/") + b"/", raw.rstrip(b"/") + b"0"  # "0" comes after "/"
        query = "SELECT path FROM listings WHERE path = ? OR (path >= ? AND path < ?)"
        stored = {os.fsdecode(found) for (found,) in self._db.execute(query, (raw, *below))}
        return [p for p in stored | self._rows.keys() if is_within(p, path)]

    def _write(self, path: str, row: _Row | None) -> None:
        raw = os.fsencode(path)
        data = _packed(row.entries.values()) if row is not None else b""
        is_large = len(data) > self._capacity // LARGEST_PART and not self._spared.has(path)
        if row is None or is_large:
            self._db.execute("DELETE FROM listings WHERE path = ?", (raw,))
            return
        taken = pages(len(data) + len(raw) + ROW_BYTES)
        self._db.execute(
            "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?, ?)",
            (raw, row.whole, row.told, taken, _checksum(raw, data), data),
        )

    def _evict(self) -> None:
        """Delete the rows that were told longest ago, until the others fit."""
        ((total,),) = self._db.execute("SELECT sum(bytes) FROM listings").fetchall()
        if (total or 0) <= self._capacity:
            return
        rows = self._db.execute("SELECT path, bytes FROM listings ORDER BY told").fetchall()
        rows = [(raw, taken) for raw, taken in rows if not self._spared.has(os.fsdecode(raw))]
        excess = sum(taken for _, taken in rows) - self._capacity
        gone = []
        for raw, taken in rows:
            if excess <= 0:
                break
            gone.append((raw,))
            excess -= taken
        self._db.executemany("DELETE FROM listings WHERE path = ?", gone)


def _row_at(db: sqlite3.Connection, path: str) -> _Row | None:
    """The row of a folder; None if there is none, or if it is damaged."""
    raw = os.fsencode(path)
    query = "SELECT whole, told, checksum, data FROM listings WHERE path = ?"
    found = db.execute(query, (raw,)).fetchone()
    if found is None:
        return None
    whole, told, checksum, data = found
    if checksum != _checksum(raw, data):
        log.warning("the stored listing of %s is damaged: it is not used", path)
        return None
    return _Row(bool(whole), told, {entry.name: entry for entry in _unpacked(data)})


def _checksum(path: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(path))


def _packed(entries: Iterable[Entry]) -> bytes:
    rows = [(e.name, e.kind.value, e.size, e.mtime, e.exact, e.mode, e.target) for e in entries]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def _unpacked(data: bytes) -> Iterator[Entry]:
    for name, kind, *rest in json.loads(zlib.decompress(data)):
        yield Entry(name, Kind(kind), *rest)


def _keeping_exact(
    known: Mapping[str, Entry], now: Mapping[str, Entry], clock: float
) -> dict[str, Entry]:
    """The entries `now`, with exact times that are `known` and may be meant. See the module."""
    kept = dict(now)
    for name, entry in now.items():
        before = known.get(name)
        if (
            before is not None
            and before.exact
            and not entry.exact
            and is_same(before, entry, clock)
        ):
            kept[name] = replace(entry, mtime=before.mtime, exact=True)
    return kept


def is_same(before: Entry, now: Entry, clock: float) -> bool:
    """Whether an entry whose time is not exact may be the one `before`, which has an exact time.

    `clock`: seconds since the epoch, now.
    """
    if (before.kind, before.size) != (now.kind, now.size):
        return False
    if before.mtime is None or now.mtime is None:
        return now.mtime is None
    off = before.mtime - now.mtime
    if clock - now.mtime > DATED_BY_DAY_SECONDS:
        return abs(off) < 2 * DAY_SECONDS  # the day, in another zone
    return abs(off) < DAY_SECONDS and off % ZONE_SECONDS < MINUTE_SECONDS
