"""The journal: which spool files are closed and not on the server yet.

Owns one SQLite database in the spool folder, and the meaning of its rows. Does not know what a
spool file holds, nor how it is uploaded.

Everything for which a `close()` has returned is in the journal, so it outlives the daemon. There is
one row for each file, under the name of its spool file; the row goes when the server has the
content.

Writes are not synced to the disk, because the kernel keeps what a killed process wrote. With `sync`
they are. Otherwise `proofs` says a moment later what is safe from power loss, and has that synced
(`prove`, `sync`). The order keeps the database whole: pages are copied from SQLite's log to the
database after the log was synced, by `sync` alone and never by a close.

The mode and time to be set on a folder have a row of their own.

A rename or a deletion on the server is announced before it is asked for (`intent`). If the daemon
is killed in between, the next mount looks whether the old name still exists, and the rows follow.

Threading: any thread. `_lock` (Rank.JOURNAL) guards the connection. A file's state lock is never
held here. Under `_sync_lock` (Rank.JOURNAL_SYNC) one thread at a time syncs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftpfs import errors
from ftpfs.core.writing.samples import Sample
from ftpfs.local import private
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

NAME = "journal.sqlite"
_SIDE_FILES = "-wal", "-shm"  # SQLite's

_SCHEMA = """
create table if not exists unsent (
    spool text primary key,
    path blob not null,
    size integer not null,
    present text not null,
    base text,
    base_size integer not null,
    mode integer,
    mtime integer not null,
    since real not null,
    error text,
    patching text not null,
    tried text not null,
    writes integer,
    boot text,
    proof text
) without rowid;
create index if not exists unsent_by_path on unsent (path);
create table if not exists intent (old blob primary key, new blob not null, done integer)
    without rowid;
create table if not exists folder (path blob primary key, mode integer, mtime integer)
    without rowid;
create table if not exists step (
    number integer primary key autoincrement,
    act text not null,
    path blob not null,
    new blob not null,
    since real not null,
    known text,
    replaced text,
    attributes text,
    state text not null,
    error text,
    traces text
);
"""
# Columns that journals of earlier versions lack.
_LATER_COLUMNS = {
    "unsent": {"writes": "integer", "boot": "text", "proof": "text"},
    "intent": {"done": "integer"},
    "step": {"traces": "text"},
}

# SQLite's log is copied to the database when it is longer than this (bytes).
LOG_BYTES = 8 << 20

Range = tuple[int, int]


@dataclass(frozen=True)
class Proof:
    """A content that is on the disk: what its row said when it was synced, and checksums."""

    size: int
    present: tuple[Range, ...]
    base: str | None  # in the form of `packed`
    base_size: int
    mtime: int
    writes: int
    sums: tuple[int, ...]  # of each block with present bytes (`proofs`)


_PROOF_FIELDS = tuple(field.name for field in dataclasses.fields(Proof))


@dataclass(frozen=True)
class Record:
    """A row: content that waits to become the file at `path`."""

    spool: str  # the spool file's name
    path: str
    size: int
    present: tuple[tuple[int, int], ...]  # the ranges of the content that are in the spool file
    base: Entry | None  # what the server is known to have at `path`
    base_size: int  # absent ranges before it are the base's, those after it are zeros
    mode: int | None  # to be set on the server
    mtime: int
    since: float  # when the file was closed; seconds since the epoch
    error: str | None = None  # why the upload failed for good
    # A patch was changing the server's file in place: samples of what it was to write.
    patching: tuple[Sample, ...] = ()
    # Size and time of uploads that may have succeeded, of this content or an older one.
    uncertain: tuple[tuple[int, int | None], ...] = ()
    writes: int = 1  # how often the file had been written to: another content has another count
    boot: str | None = None  # the boot in which it was written; None: by an earlier version
    proof: Proof | None = None  # of this content or an older one


class Journal:
    """The rows of one spool folder. Methods raise NoSpace, or FtpfsError if SQLite fails."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = False,
        boot: str = "",
        unsynced: Callable[[], None] = lambda: None,
    ) -> None:
        """A damaged journal is set aside, and a new one begun. A journal that only cannot be opened
        now (a full disk) is left alone, and its error is raised.

        `boot`: name of this boot, for the rows. `unsynced()` is called when rows on the disk have
        become stale. The caller may hold any lock then.
        """
        self._path = folder / NAME
        self._boot = boot
        self._tell_unsynced = unsynced
        self._lock = ranked_lock(Rank.JOURNAL)
        self._sync_lock = ranked_lock(Rank.JOURNAL_SYNC)
        self._log: int | None = None  # a descriptor of SQLite's log; guarded by _sync_lock
        self._was_copied = False  # whether the log was copied; guarded by _sync_lock
        # Rows and intents that could not be deleted yet; guarded by _lock.
        self._removed: set[str] = set()
        self._settled: set[str] = set()
        self._proven: set[str] = set()  # spool files whose rows the disk may hold; guarded by _lock
        self._unsynced = False  # whether rows on the disk are stale; guarded by _lock
        try:
            self._connection = self._open(sync)
        except sqlite3.DatabaseError as error:
            # SQLite's "corrupt" and "not a database" have no class of their own, other errors have.
            if type(error) is not sqlite3.DatabaseError:
                raise _as_ours(error) from error
            aside = f"{NAME}.unreadable-{time.time_ns()}"
            log.error("the journal cannot be read (%s); it is left in %s", error, folder / aside)
            # The latest writes are in the side files: rename these so that SQLite still finds them.
            for suffix in ("", *_SIDE_FILES):
                with contextlib.suppress(FileNotFoundError):
                    (folder / f"{NAME}{suffix}").rename(folder / f"{aside}{suffix}")
            self._connection = self._open(sync)
        proven = self._connection.execute("select spool from unsent where proof is not null")
        self._proven.update(spool for (spool,) in proven.fetchall())

    def _open(self, sync: bool) -> sqlite3.Connection:
        for suffix in ("", *_SIDE_FILES):  # SQLite follows symbolic links
            private.check_file(self._path.with_name(f"{NAME}{suffix}"))
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {'full' if sync else 'off'}")
            connection.executescript(_SCHEMA)
            for table, later in _LATER_COLUMNS.items():
                rows = connection.execute(f"pragma table_info({table})").fetchall()
                for name, kind in later.items():  # in the order of `_PUT`
                    if name not in {row[1] for row in rows}:
                        connection.execute(f"alter table {table} add column {name} {kind}")
            if not sync:
                # A log that begins anew is synced, once in LOG_BYTES. No commit is synced.
                connection.execute("pragma synchronous = normal")
                connection.execute("pragma wal_autocheckpoint = 0")
                connection.execute("pragma journal_size_limit = 0")
            # Check the whole file: the rows are read once, and used from then on.
            (state,) = connection.execute("pragma quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
        except BaseException:
            connection.close()
            raise
        return connection

    def put(self, record: Record) -> None:
        """Write or replace a row; without a new proof the old one stays. 25 us without `sync`."""
        with self._working() as connection:
            self._put(connection, record)

    def put_instead(self, spool: str, record: Record) -> None:
        """Write a row in the place of the row of another spool file."""
        with self._changing() as connection:
            connection.execute("delete from unsent where spool = ?", (spool,))
            self._put(connection, record)
            self._proven.discard(spool)

    def _put(self, connection: sqlite3.Connection, record: Record) -> None:
        connection.execute(
            _PUT,
            (
                record.spool,
                os.fsencode(record.path),
                record.size,
                json.dumps(record.present),
                packed(record.base),
                record.base_size,
                record.mode,
                record.mtime,
                record.since,
                record.error,
                json.dumps([(start, content.hex()) for start, content in record.patching]),
                json.dumps(record.uncertain),
                record.writes,
                self._boot,
                _proof_as_text(record.proof),
            ),
        )
        if record.proof is not None:
            self._proven.add(record.spool)

    def prove(self, proofs: Mapping[str, Proof]) -> None:
        """Note that the disk holds these contents. Keys: the names of their spool files."""
        with self._working() as connection, _transaction(connection):
            for spool, proof in proofs.items():
                connection.execute(
                    "update unsent set proof = ? where spool = ?", (_proof_as_text(proof), spool)
                )
            self._proven.update(proofs)
            self._unsynced = True

    @property
    def is_unsynced(self) -> bool:
        """Whether the disk may hold rows that are stale."""
        with self._lock:
            return self._unsynced

    def sync(self) -> None:
        """Return when everything written before is on the disk. No close waits for it."""
        with self._sync_lock:
            with self._lock:
                unsynced, self._unsynced = self._unsynced, False
            try:
                self._sync_log(needed=unsynced)
            except (OSError, sqlite3.Error) as error:
                with self._lock:
                    self._unsynced |= unsynced
                raise _as_ours(error) from error

    def _sync_log(self, *, needed: bool) -> None:
        if self._log is None:
            self._log = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(self._log).st_size > LOG_BYTES or (needed and not self._was_copied):
            # Syncs the log, copies it, and syncs the database. It has a connection of its own, so
            # that other threads write meanwhile.
            connection = sqlite3.connect(self._path, isolation_level=None)
            try:
                connection.execute("pragma synchronous = full")
                connection.execute("pragma wal_checkpoint(passive)")
            finally:
                connection.close()
            self._was_copied = True
        if needed:
            os.fdatasync(self._log)

    def remove(self, spool: str | None, *, settled: str | None = None) -> None:
        """Delete a row, and in the same transaction the intent for the path `settled`.

        If SQLite fails, they are deleted later: a full disk does not even take a deletion, and the
        changes themselves are done in any case.
        """
        with self._lock:
            if spool is not None:
                self._removed.add(spool)
            if settled is not None:
                self._settled.add(settled)
            try:
                self._take_out_locked()
            except sqlite3.Error as error:
                log.warning(
                    "the journal of unsent files failed, and is tried again later: %s", error
                )
            stale = spool in self._proven and self._note_change_locked()
            self._proven.discard(spool or "")
        if stale:
            self._tell_unsynced()

    def _note_change_locked(self) -> bool:
        """Note that rows were deleted or renamed. Returns whether `unsynced` has to be called.

        It has to be if rows on the disk may be stale now, and it was not called since the last
        sync.
        """
        tell = bool(self._proven) and not self._unsynced
        self._unsynced |= bool(self._proven)
        return tell

    def _take_out_locked(self) -> None:
        with _transaction(self._connection) if self._settled else contextlib.nullcontext():
            for spool in self._removed:
                self._connection.execute("delete from unsent where spool = ?", (spool,))
            for path in self._settled:
                self._connection.execute("delete from intent where old = ?", (os.fsencode(path),))
        self._removed.clear()
        self._settled.clear()

    def note_error(self, spool: str, error: str | None) -> None:
        with self._working() as connection:
            connection.execute("update unsent set error = ? where spool = ?", (error, spool))

    def intend(self, old: str, new: str, *, always: bool = False) -> None:
        """Note that the server is about to be asked for a rename, or a deletion (`new` is empty).

        Unless `always`, nothing is noted if no row is at or below one of the names. The new name
        counts, too: the row of a replaced file must not come back.
        """
        with self._working() as connection:
            query = f"select 1 from unsent where {_BELOW} or {_BELOW}"  # noqa: S608 (constants)
            if always or connection.execute(query, (*_below(old), *_below(new))).fetchone():
                connection.execute(
                    "insert or replace into intent values (?, ?, null)",
                    (os.fsencode(old), os.fsencode(new)),
                )

    def rename(self, old: str, new: str) -> list[str]:
        """Move the rows at and below `old` to `new`. Rows at and below `new` are deleted.

        Returns the spool files of the deleted rows. The intents of both names are done with this:
        what was at `new` may have been moved out of the way first. Intents below a directory move
        along.
        """
        with self._changing() as connection:
            gone = _delete_below(connection, new)
            move = f"{_MOVE} where {_BELOW}"
            connection.execute(move, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
            settled = os.fsencode(old), os.fsencode(new)
            connection.execute("delete from intent where old in (?, ?)", settled)
            connection.execute(f"delete from folder where {_BELOW}", _below(new))  # noqa: S608 - constant
            move = f"{_MOVE_FOLDER} where {_BELOW}"
            connection.execute(move, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
            below = f"{_MOVE_INTENT} where {_BELOW.replace('path', 'old')}"
            connection.execute(below, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
        return gone

    def note_folder(self, path: str, mode: int | None, mtime: int | None) -> None:
        """Note the mode and time (seconds) that are to be set on a folder; None: leave it alone."""
        with self._working() as connection:
            connection.execute(
                "insert or replace into folder values (?, ?, ?)", (os.fsencode(path), mode, mtime)
            )

    def drop_folder(self, path: str, mode: int | None, mtime: int | None) -> None:
        """Delete the row of a folder after its mode and time were set.

        If other values were noted meanwhile, the row stays. A full disk does not take the deletion:
        then they are set again after a crash.
        """
        with contextlib.suppress(errors.FtpfsError), self._working() as connection:
            connection.execute(
                "delete from folder where path = ? and mode is ? and mtime is ?",
                (os.fsencode(path), mode, mtime),
            )

    def folders(self) -> list[tuple[str, int | None, int | None]]:
        """Path, mode and time of the folders on which these are to be set."""
        with self._working() as connection:
            rows = connection.execute("select path, mode, mtime from folder").fetchall()
        return [(os.fsdecode(path), mode, mtime) for path, mode, mtime in rows]

    def drop(self, path: str) -> list[str]:
        """Delete the rows of `path`, which was deleted as intended. Returns what `rename` does."""
        with self._changing() as connection:
            gone = _delete_below(connection, path)
            connection.execute("delete from intent where old = ?", (os.fsencode(path),))
        return gone

    def withdraw(self, old: str) -> None:
        """Delete the intent for `old`: it was not carried out, or it concerns no row.

        Fails like `remove`.
        """
        self.remove(None, settled=old)

    def intents(self) -> list[tuple[str, str]]:
        """Old and new name (empty: deletion) of the changes whose outcome is unknown."""
        with self._working() as connection:
            rows = connection.execute("select old, new from intent").fetchall()
        return [(os.fsdecode(old), os.fsdecode(new)) for old, new in rows]

    def is_noted_as_done(self, old: str) -> bool:
        """Whether the change that the intent for `old` announced became a step (`core.offline`)."""
        with self._working() as connection:
            query = "select 1 from intent where old = ? and done"
            return connection.execute(query, (os.fsencode(old),)).fetchone() is not None

    @contextlib.contextmanager
    def noting(self, *, changes: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction whose `changes` are on the disk within a second, or at once with `sync`."""
        with self._working() as connection, _transaction(connection):
            yield connection
            stale = changes and not self._unsynced
            self._unsynced |= changes
        if stale:
            self._tell_unsynced()

    def records(self) -> list[Record]:
        """All rows, the oldest first. A row that cannot be read is logged and left out."""
        with self._working() as connection:
            rows = connection.execute(
                "select spool, path, size, present, base, base_size, mode, mtime, since, error,"
                " patching, tried, writes, boot, proof from unsent order by since, spool"
            ).fetchall()
        records = []
        for row in rows:
            try:
                records.append(_record_in(row))
            except (ValueError, TypeError) as error:  # the other rows are read in any case
                log.error("the row of %s in the journal cannot be read: %s", row[0], error)
        return records

    def close(self) -> None:
        """Close the database. If no row is left, delete the files, too."""
        with self._sync_lock, self._lock:
            left = 1
            try:
                self._take_out_locked()
                (left,) = self._connection.execute(
                    "select (select count(*) from unsent) + (select count(*) from intent)"
                    " + (select count(*) from folder) + (select count(*) from step)"
                ).fetchone()
                if not left:  # nothing in it is worth a sync
                    self._connection.execute("pragma synchronous = off")
            except sqlite3.Error as error:
                log.error("the journal of unsent files failed, and stays as it is: %s", error)
            finally:
                self._connection.close()
                if self._log is not None:
                    os.close(self._log)
                    self._log = None
            if not left:
                for suffix in ("", *_SIDE_FILES):
                    self._path.with_name(NAME + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._removed or self._settled:
                    self._take_out_locked()
                yield self._connection
            except sqlite3.Error as error:
                raise _as_ours(error) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Like `_working`, for a change of rows that the disk may hold."""
        with self._working() as connection, _transaction(connection):
            yield connection
            stale = self._note_change_locked()
        if stale:
            self._tell_unsynced()


def unsent(folder: Path) -> int:
    """How many files and steps wait in the journal in `folder`; 0 without one. Repairs nothing."""
    if not (folder / NAME).exists():
        return 0
    private.check_file(folder / NAME)
    connection = sqlite3.connect(folder / NAME, isolation_level=None)
    try:
        tables = connection.execute("select name from sqlite_master").fetchall()
        waiting = "select count(*) from step where state = 'waiting'"
        count = sum(
            connection.execute(query).fetchone()[0]
            for query, table in (("select count(*) from unsent", "unsent"), (waiting, "step"))
            if (table,) in tables
        )
    except sqlite3.Error as error:
        raise _as_ours(error) from error
    finally:
        connection.close()
    return int(count)


def _as_ours(error: sqlite3.Error | OSError) -> errors.FtpfsError:
    if "full" in str(error):
        return errors.NoSpace("the disk that holds the spool is full")
    return errors.FtpfsError(f"the journal of unsent files failed: {error}")


_PUT = (
    "insert into unsent values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (spool) do"
    " update set path = excluded.path, size = excluded.size, present = excluded.present,"
    " base = excluded.base, base_size = excluded.base_size, mode = excluded.mode,"
    " mtime = excluded.mtime, since = excluded.since, error = excluded.error,"
    " patching = excluded.patching, tried = excluded.tried, writes = excluded.writes,"
    " boot = excluded.boot, proof = coalesce(excluded.proof, proof)"
)
# A path and everything below it: all that sorts between "path/" and "path0" ("0" follows "/").
_MOVE = "update unsent set path = cast(? || substr(path, ?) as blob)"
_MOVE_FOLDER = "update folder set path = cast(? || substr(path, ?) as blob)"
_MOVE_INTENT = "update or replace intent set old = cast(? || substr(old, ?) as blob)"
_BELOW = "(path = ? or (path > ? and path < ?))"


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _delete_below(connection: sqlite3.Connection, path: str) -> list[str]:
    """Delete the rows at and below `path`. Returns the names of their spool files."""
    query = f"select spool from unsent where {_BELOW}"  # noqa: S608 (a constant)
    spools = [spool for (spool,) in connection.execute(query, _below(path)).fetchall()]
    connection.executemany("delete from unsent where spool = ?", [(each,) for each in spools])
    return spools


def _below(path: str) -> tuple[bytes, bytes, bytes]:
    name = os.fsencode(path)
    return name, name + b"/", name + b"0"


def _record_in(row: Sequence[Any]) -> Record:
    path = os.fsdecode(row[1])
    return Record(
        spool=row[0],
        path=path,
        size=row[2],
        present=tuple((start, end) for start, end in json.loads(row[3])),
        base=_unpack(path, row[4]),
        base_size=row[5],
        mode=row[6],
        mtime=row[7],
        since=row[8],
        error=row[9],
        patching=tuple((start, bytes.fromhex(content)) for start, content in json.loads(row[10])),
        uncertain=tuple((size, mtime) for size, mtime in json.loads(row[11])),
        writes=row[12] or 1,
        boot=row[13],
        proof=_proof_from_text(row[14]),
    )


def packed(base: Entry | None) -> str | None:
    """An entry as text. Equal entries give equal texts."""
    if base is None:
        return None
    return json.dumps([base.size, base.mtime, base.exact, base.mode])


def _proof_as_text(proof: Proof | None) -> str | None:
    if proof is None:
        return None
    # dataclasses.astuple copies deeply: it was half of the time that a row takes.
    return json.dumps([getattr(proof, name) for name in _PROOF_FIELDS])


def _proof_from_text(text: str | None) -> Proof | None:
    if text is None:
        return None
    size, present, base, base_size, mtime, writes, sums = json.loads(text)
    ranges = tuple((start, end) for start, end in present)
    return Proof(size, ranges, base, base_size, mtime, writes, tuple(sums))


def _unpack(path: str, text: str | None) -> Entry | None:
    if text is None:
        return None
    size, mtime, exact, mode = json.loads(text)
    return Entry(
        name=path.rpartition("/")[2],
        kind=Kind.FILE,
        size=size,
        mtime=mtime,
        exact=exact,
        mode=mode,
        target=None,
    )
