"""The index of a store: which contents there are, their bytes, when they were used. SQLite.

Owns the rows, the bound, and which content is evicted. Two mounts change it at once, and a crash
must not damage it. Reading needs no index: the name of a content follows from its version.

Contents are created and deleted inside a transaction of the index. So two mounts never do that at
the same time, and the bytes on the disk never exceed what the rows say. After a kill there may be
files without a row and rows without files; `reconcile` finds both. The side files say enough to
make the rows again, if the index is damaged or deleted.

**Eviction.** The least recently used content goes first. If it is large, and not whole, only as
much is cut off its end as is needed. Kept contents are never evicted, and do not count.

Threading: one thread. Methods raise sqlite3.Error, and OSError.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ftpfs.core.store.contents import ContentFolder, Damaged, Facts, Flag, side_bytes
from ftpfs.model.names import is_within
from ftpfs.model.status import StoreStatus

# What a content takes beside its two files: a row of the index, and two names in the folder
# (bytes). The index has a log of at most LOG_PAGES, and of twice that during a transaction.
PAGE, ROW, LOG_PAGES = 4096, 1536, 128
FILES = "index.db", "index.db-wal", "index.db-shm"
INDEX_BYTES = 2 * LOG_PAGES * PAGE + (64 << 10)
# At least so many bytes are cut off a content at a time. A content of less than twice that goes as
# a whole.
CUT_BYTES = 8 << 20

SCHEMA = """
CREATE TABLE IF NOT EXISTS contents (
    name TEXT PRIMARY KEY, path BLOB NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT '', kept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_path ON contents (path);
CREATE INDEX IF NOT EXISTS by_use ON contents (kept, used);
CREATE TABLE IF NOT EXISTS total (
    bytes INTEGER NOT NULL, kept INTEGER NOT NULL, files INTEGER NOT NULL,
    hits INTEGER NOT NULL, misses INTEGER NOT NULL
);
INSERT INTO total SELECT 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON contents BEGIN
    UPDATE total SET files = files + 1, bytes = bytes + new.bytes * (1 - new.kept),
        kept = kept + new.bytes * new.kept; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF bytes, kept ON contents BEGIN
    UPDATE total SET
        bytes = bytes + new.bytes * (1 - new.kept) - old.bytes * (1 - old.kept),
        kept = kept + new.bytes * new.kept - old.bytes * old.kept; END;
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON contents BEGIN
    UPDATE total SET files = files - 1, bytes = bytes - old.bytes * (1 - old.kept),
        kept = kept - old.bytes * old.kept; END;
"""


class Index:
    """The rows of the contents in one folder."""

    def __init__(self, path: Path, files: ContentFolder) -> None:
        self._files = files
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

    # Changes.

    def reconcile(self, now: float) -> None:
        """Delete rows without files, and make rows for contents without one."""
        with self._transaction():
            rows = {name for (name,) in self._db.execute("SELECT name FROM contents")}
            there = self._files.names()
            self._delete(rows - there)
            owned = self._db.execute("SELECT name, owner FROM contents WHERE owner != ''")
            self._remove([name for name, owner in owned.fetchall() if not is_alive(owner)])
            for name in there - rows:
                found = self._files.measured(name)
                if found is None:
                    self._files.remove([name])
                    continue
                content, taken = found
                kept = bool(content.flags & Flag.KEPT)
                self._insert(name, content.facts, taken + ROW, now, kept=kept)

    @contextmanager
    def room_for(
        self,
        name: str,
        facts: Facts,
        cost: int,
        now: float,
        capacity: int,
        *,
        owner: str = "",
    ) -> Iterator[bool]:
        """Count `cost` more bytes for a content, and evict others for it.

        False, and nothing is changed, if the content does not fit even alone. The caller makes the
        files, if there are none, before the transaction ends with the context.
        """
        with self._transaction():
            rows = self._db.execute("SELECT bytes, kept FROM contents WHERE name = ?", (name,))
            taken, kept = rows.fetchone() or (0, 0)
            if taken and not self._files.has(name):  # somebody deleted it
                self._delete([name])
                taken = kept = 0
            if not taken:
                cost += side_bytes(facts) + ROW
            if not kept and taken + cost > capacity:
                yield False
                return
            self._evict(capacity if kept else capacity - cost, sparing=name)
            if taken:
                self._db.execute(
                    "UPDATE contents SET bytes = bytes + ?, used = ? WHERE name = ?",
                    (cost, now, name),
                )
            else:
                self._insert(name, facts, cost, now, owner=owner)
            yield True

    def shrink(self, capacity: int) -> None:
        """Evict until the contents take at most `capacity` bytes."""
        with self._transaction():
            self._evict(capacity)

    def note(self, used: dict[str, float], hits: int, misses: int) -> None:
        """Note the times of uses, and count reads of blocks that were found, or not."""
        with self._transaction():
            self._db.executemany(
                "UPDATE contents SET used = ? WHERE name = ?", [(t, n) for n, t in used.items()]
            )
            self._db.execute(
                "UPDATE total SET hits = hits + ?, misses = misses + ?", (hits, misses)
            )

    def keep(self, name: str, facts: Facts, now: float) -> None:
        """Exempt a content from eviction; make an empty one if there is none."""
        with self._transaction():
            try:
                content = self._files.open(name, writable=True)
            except (FileNotFoundError, Damaged):
                self._remove([name])
                self._files.create(facts, name, kept=True)
                self._insert(name, facts, side_bytes(facts) + ROW, now, kept=True)
                return
            content.mark(Flag.KEPT)
            known = self._db.execute("UPDATE contents SET kept = 1 WHERE name = ?", (name,))
            if not known.rowcount and (found := self._files.measured(name)) is not None:
                self._insert(name, facts, found[1] + ROW, now, kept=True)

    def release(self, paths: Sequence[str], capacity: int) -> int:
        """Keep nothing any more but what is at or below `paths`. The rest counts for the bound.

        Returns how many contents are not kept any more.
        """
        with self._transaction():
            names = [name for name, path in self._kept() if not _is_in(path, paths)]
            self._db.executemany(
                "UPDATE contents SET kept = 0 WHERE name = ?", [(name,) for name in names]
            )
            for name in names:
                with contextlib.suppress(FileNotFoundError, Damaged):
                    self._files.open(name, writable=True).mark(without=Flag.KEPT)
            if names:
                self._evict(capacity)
        return len(names)

    def prune(self, path: str, current: Container[str], sparing: Sequence[str]) -> int:
        """Delete kept contents at and below `path` that are not `current`, by their names.

        Nothing is deleted at and below the paths `sparing`. Returns how many are deleted.
        """
        with self._transaction():
            gone = [
                name
                for name, at in self._kept()
                if is_within(at, path) and name not in current and not _is_in(at, sparing)
            ]
            self._remove(gone)
        return len(gone)

    def kept_at(self, path: str) -> list[Facts]:
        """The kept contents of one file."""
        rows = self._db.execute(
            "SELECT name FROM contents WHERE path = ? AND kept", (os.fsencode(path),)
        )
        found = []
        for (name,) in rows.fetchall():
            with contextlib.suppress(OSError, Damaged):
                found.append(self._files.open(name).facts)
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Delete contents, the rows and the files."""
        with self._transaction():
            self._remove(names)

    def remove_path(self, path: str) -> list[str]:
        """Delete the contents at `path` and below it. Returns their names."""
        raw = os.fsencode(path)
        below = raw.rstrip(b"/") + b"/", raw.rstrip(b"/") + b"0"  # "0" comes after "/"
        where = "path = ? OR (path >= ? AND path < ?)"
        query = f"SELECT name FROM contents WHERE {where}"  # noqa: S608 - two constants
        if self._db.execute(query, (raw, *below)).fetchone() is None:
            return []  # most paths: no transaction for them
        with self._transaction():
            names = [str(name) for (name,) in self._db.execute(query, (raw, *below)).fetchall()]
            self._remove(names)
        return names

    def remove_owned(self, owner: str) -> None:
        """Delete the contents that only this mount may serve."""
        with self._transaction():
            rows = self._db.execute("SELECT name FROM contents WHERE owner = ?", (owner,))
            self._remove([name for (name,) in rows.fetchall()])

    def clear(self, *, kept: bool = False) -> int:
        """Delete all contents that are not kept, or those too. Returns how many bytes are freed."""
        with self._transaction():
            query = "SELECT name, bytes FROM contents WHERE kept <= ?"
            rows = self._db.execute(query, (kept,)).fetchall()
            self._remove([name for name, _ in rows])
        return sum(taken for _, taken in rows)

    # Questions.

    def status(self, capacity: int) -> StoreStatus:
        """What the contents take, of all mounts; `capacity`: their bound."""
        rows = self._db.execute("SELECT bytes, kept, files, hits, misses FROM total")
        ((used, kept, files, hits, misses),) = rows.fetchall()
        return StoreStatus(
            used=used, kept=kept, capacity=capacity, files=files, hits=hits, misses=misses
        )

    # Inside a transaction.

    def _kept(self) -> list[tuple[str, str]]:
        """Name and path of each kept content."""
        rows = self._db.execute("SELECT name, path FROM contents WHERE kept")
        return [(name, os.fsdecode(path)) for name, path in rows]

    def _insert(
        self,
        name: str,
        facts: Facts,
        taken: int,
        now: float,
        *,
        owner: str = "",
        kept: bool = False,
    ) -> None:
        self._db.execute(
            "INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?)",
            (name, os.fsencode(facts.path), taken, now, owner, kept),
        )

    def _remove(self, names: Iterable[str]) -> None:
        names = list(names)
        self._files.remove(names)
        self._delete(names)

    def _delete(self, names: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM contents WHERE name = ?", [(n,) for n in names])

    def _evict(self, capacity: int, sparing: str = "") -> None:
        """Evict until the contents that are not kept take at most `capacity` bytes."""
        ((total,),) = self._db.execute("SELECT bytes FROM total").fetchall()
        if total <= capacity:
            return
        rows = self._db.execute(
            "SELECT name, bytes FROM contents WHERE NOT kept AND name != ? ORDER BY used",
            (sparing,),
        )
        removed, cut = [], []
        while total > capacity and (row := rows.fetchone()) is not None:
            name, taken = row
            least = max(total - capacity, CUT_BYTES)
            freed = self._files.cut(name, least) if taken > least + CUT_BYTES else 0
            if freed:
                cut.append((freed, name))
            else:
                self._files.remove([name])
                removed.append(name)
            total -= freed or taken
        rows.close()
        self._db.executemany("UPDATE contents SET bytes = bytes - ? WHERE name = ?", cut)
        self._delete(removed)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _is_in(path: str, paths: Sequence[str]) -> bool:
    """Whether `path` is one of `paths`, or below one."""
    return any(is_within(path, each) for each in paths)


def is_alive(owner: str) -> bool:
    """Whether the process of a mount may be running. `owner`: its process id and a random part."""
    try:
        os.kill(int(owner.partition("-")[0]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True
