"""The journal: which spool files hold content that was closed and that the server has not got yet.

Owns: one SQLite file in the spool folder, and what a row says. Does not know what a spool file
holds, nor who sends it.

What `close()` returned for is in here, so it outlives the daemon. One row per file, by the name of
its spool file; a row goes when the server has the content. Writes are not synced to the disk: the
kernel keeps what a killed process wrote. With `sync` they are, and power loss is outlived, too.

What was set on a folder, and is not on the server yet, is a row of its own.

A rename or a deletion on the server is announced before it is asked for (`intent`): killed in
between, the next mount looks whether the old name is still there, and the rows follow.

Threading: any. `_lock` guards the connection. It is a leaf: taken under a file's `_spool_lock`,
never under a lock of the state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftpfs import errors
from ftpfs.ftp.listing import Entry, Kind

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
    tried text not null
) without rowid;
create index if not exists unsent_by_path on unsent (path);
create table if not exists intent (old blob primary key, new blob not null) without rowid;
create table if not exists folder (path blob primary key, mode integer, mtime integer)
    without rowid;
"""


Sample = tuple[int, bytes]  # an offset, and the bytes from there on


@dataclass(frozen=True)
class Record:
    """A row: content that is to become the file at `path`."""

    spool: str  # the spool file's name
    path: str
    size: int
    present: tuple[tuple[int, int], ...]  # the ranges of it that lie in the spool file
    base: Entry | None  # what the server is known to have at `path`
    base_size: int  # before it, what is not present is the base's; the rest is zeros
    mode: int | None  # to be set
    mtime: int
    since: float  # when it was closed; seconds since the epoch
    error: str | None = None  # why it failed for good
    # The file on the server was being changed in place, and this was to be in it.
    patching: tuple[Sample, ...] = ()
    # Size and time of uploads that may have been carried out, of this content or an older one.
    tried: tuple[tuple[int, int | None], ...] = ()


class Journal:
    """The rows of one spool folder. Methods raise NoSpace, or FtpfsError when SQLite fails."""

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        """A journal that is none any more (a disk gone bad) is set aside, and a new one begun; one
        that only cannot be had now (a full disk) is left alone, and raises."""
        self._path = folder / NAME
        self._lock = threading.Lock()
        # Rows and intents that could not be taken out yet; guarded by _lock.
        self._removed: set[str] = set()
        self._settled: set[str] = set()
        try:
            self._connection = self._open(sync)
        except sqlite3.DatabaseError as error:
            # SQLite's "corrupt" and "not a database" have no class of their own, the others have.
            if type(error) is not sqlite3.DatabaseError:
                raise _as_ours(error) from error
            aside = f"{NAME}.unreadable-{time.time_ns()}"
            log.error("the journal cannot be read (%s); it is left in %s", error, folder / aside)
            # What was written last is in the side files, under names by which SQLite finds it.
            for suffix in ("", *_SIDE_FILES):
                with contextlib.suppress(FileNotFoundError):
                    (folder / f"{NAME}{suffix}").rename(folder / f"{aside}{suffix}")
            self._connection = self._open(sync)

    def _open(self, sync: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {'full' if sync else 'off'}")
            connection.executescript(_SCHEMA)
            # All of it is looked at: the rows are read once, and in use from then on.
            (state,) = connection.execute("pragma quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
        except BaseException:
            connection.close()
            raise
        return connection

    def put(self, record: Record) -> None:
        """Write a row, or write it anew. 25 us without `sync`."""
        with self._working() as connection:
            connection.execute(
                "insert or replace into unsent values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.spool,
                    os.fsencode(record.path),
                    record.size,
                    json.dumps(record.present),
                    _pack(record.base),
                    record.base_size,
                    record.mode,
                    record.mtime,
                    record.since,
                    record.error,
                    json.dumps([(start, content.hex()) for start, content in record.patching]),
                    json.dumps(record.tried),
                ),
            )

    def remove(self, spool: str | None, *, settled: str | None = None) -> None:
        """Take a row out, and in the same moment the intent for the path `settled`; or see to it
        later: a full disk does not even take a deletion, and what they speak of is done in any
        case."""
        with self._lock:
            if spool is not None:
                self._removed.add(spool)
            if settled is not None:
                self._settled.add(settled)
            try:
                self._take_out_locked()
            except sqlite3.Error as error:
                log.warning("the journal of unsent files failed, for now: %s", error)

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
        """A rename on the server is about to be asked for, or a deletion (`new` is empty). Unless
        `always`, nothing is noted when no row is at or below one of the names: the row of what is
        replaced must not come back either."""
        with self._working() as connection:
            query = f"select 1 from unsent where {_BELOW} or {_BELOW}"  # noqa: S608 (constants)
            if always or connection.execute(query, (*_below(old), *_below(new))).fetchone():
                connection.execute(
                    "insert or replace into intent values (?, ?)",
                    (os.fsencode(old), os.fsencode(new)),
                )

    def rename(self, old: str, new: str) -> list[str]:
        """A file or directory has another name; what was at the new one is gone. The spool files
        of that, which no row speaks of any more.

        What was intended of both names is settled by it: what was at the new one may have been
        moved out of the way first. What is intended below a directory moves along.
        """
        with self._working() as connection, _transaction(connection):
            gone = _delete_below(connection, new)
            move = f"{_MOVE} where {_BELOW}"
            connection.execute(move, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
            settled = os.fsencode(old), os.fsencode(new)
            connection.execute("delete from intent where old in (?, ?)", settled)
            connection.execute(f"delete from folder where {_BELOW}", _below(new))  # noqa: S608
            move = f"{_MOVE_FOLDER} where {_BELOW}"
            connection.execute(move, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
            below = f"{_MOVE_INTENT} where {_BELOW.replace('path', 'old')}"
            connection.execute(below, (os.fsencode(new), len(os.fsencode(old)) + 1, *_below(old)))
        return gone

    def note_folder(self, path: str, mode: int | None, mtime: int | None) -> None:
        """What is to be set on a folder."""
        with self._working() as connection:
            connection.execute(
                "insert or replace into folder values (?, ?, ?)", (os.fsencode(path), mode, mtime)
            )

    def drop_folder(self, path: str, mode: int | None, mtime: int | None) -> None:
        """That was done; unless something else was noted meanwhile. A full disk does not take it:
        it is done again after a crash."""
        with contextlib.suppress(errors.FtpfsError), self._working() as connection:
            connection.execute(
                "delete from folder where path = ? and mode is ? and mtime is ?",
                (os.fsencode(path), mode, mtime),
            )

    def folders(self) -> list[tuple[str, int | None, int | None]]:
        """Path, mode and time of folders of which these are to be set."""
        with self._working() as connection:
            rows = connection.execute("select path, mode, mtime from folder").fetchall()
        return [(os.fsdecode(path), mode, mtime) for path, mode, mtime in rows]

    def drop(self, path: str) -> list[str]:
        """The file at `path` was deleted, as was intended; as `rename`."""
        with self._working() as connection, _transaction(connection):
            gone = _delete_below(connection, path)
            connection.execute("delete from intent where old = ?", (os.fsencode(path),))
        return gone

    def withdraw(self, old: str) -> None:
        """What was intended of `old` was not done, or is done and concerns no row. As `remove`."""
        self.remove(None, settled=old)

    def intents(self) -> list[tuple[str, str]]:
        """Old and new name (empty: deleted) of changes of which nobody knows whether they were
        done."""
        with self._working() as connection:
            rows = connection.execute("select old, new from intent").fetchall()
        return [(os.fsdecode(old), os.fsdecode(new)) for old, new in rows]

    def records(self) -> list[Record]:
        """All rows, the oldest first."""
        with self._working() as connection:
            rows = connection.execute(
                "select spool, path, size, present, base, base_size, mode, mtime, since, error,"
                " patching, tried from unsent order by since, spool"
            ).fetchall()
        return [
            Record(
                spool=row[0],
                path=os.fsdecode(row[1]),
                size=row[2],
                present=tuple((start, end) for start, end in json.loads(row[3])),
                base=_unpack(os.fsdecode(row[1]), row[4]),
                base_size=row[5],
                mode=row[6],
                mtime=row[7],
                since=row[8],
                error=row[9],
                patching=tuple(
                    (start, bytes.fromhex(content)) for start, content in json.loads(row[10])
                ),
                tried=tuple((size, mtime) for size, mtime in json.loads(row[11])),
            )
            for row in rows
        ]

    def close(self) -> None:
        """End it; with no rows left the file goes, too."""
        with self._lock:
            left = 1
            try:
                self._take_out_locked()
                (left,) = self._connection.execute(
                    "select (select count(*) from unsent) + (select count(*) from intent)"
                    " + (select count(*) from folder)"
                ).fetchone()
            except sqlite3.Error as error:
                log.error("the journal of unsent files failed, and stays as it is: %s", error)
            finally:
                self._connection.close()
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


def unsent(folder: Path) -> int:
    """How many rows the journal in `folder` has; 0 without one. Only looks, and mends nothing."""
    if not (folder / NAME).exists():
        return 0
    connection = sqlite3.connect(folder / NAME, isolation_level=None)
    try:
        (count,) = connection.execute("select count(*) from unsent").fetchone()
    except sqlite3.Error as error:
        raise _as_ours(error) from error
    finally:
        connection.close()
    return int(count)


def _as_ours(error: sqlite3.Error) -> errors.FtpfsError:
    if "full" in str(error):
        return errors.NoSpace("the disk that holds the spool is full")
    return errors.FtpfsError(f"the journal of unsent files failed: {error}")


# A path, and what lies below it: all that sorts between "path/" and "path0" ("0" follows "/").
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
    """Take out the rows at and below `path`; the names of their spool files."""
    query = f"select spool from unsent where {_BELOW}"  # noqa: S608 (a constant)
    spools = [spool for (spool,) in connection.execute(query, _below(path)).fetchall()]
    connection.executemany("delete from unsent where spool = ?", [(each,) for each in spools])
    return spools


def _below(path: str) -> tuple[bytes, bytes, bytes]:
    name = os.fsencode(path)
    return name, name + b"/", name + b"0"


def _pack(base: Entry | None) -> str | None:
    if base is None:
        return None
    return json.dumps([base.size, base.mtime, base.exact, base.mode])


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
