"""The store: contents of one server's files on the local disk, for this mount and later ones.

Owns one folder for each server, which all mounts of that server share, and what may be stored and
served. Does not know where blocks come from, nor whether a reader waits for them. If the store
lacks a block, the caller fetches it; if the store cannot take a block, the block is dropped.

    contents.py   the files of the contents         data/
    index.py      rows, bound, eviction             index.db
    writer.py     the thread that changes both
    listings.py   what the server told of its names    listings.db
    remembering.py  notes there what the server tells
    kept.py       which paths are kept              kept
    lent.py       contents that the kernel reads

**Which contents can be confused.** A content is known by path, size and time, and FTP's times have
whole seconds. A content on the disk may be served a year later, so no other content may ever have
the same three.

- *Fetched* contents: a file that was changed a second ago may change again within the same second,
  after a part of it was read. So only contents are stored whose time is exact and long past
  (`SETTLED_SECONDS`).
- *Uploaded* contents are known here to the byte, and their time is the one that this mount gave
  them, or was confirmed by the server. But another client may write the file right after the
  upload. If that gives it the same time and the same size, nobody can tell: there is no later
  moment at which a look at the server would prove anything. The time of such a change is the
  server's clock at that moment. So if the content's time is long past when the upload is confirmed
  (`cp -p`, `rsync -t`, `tar`), no ordinary change can have the same, and the content is stored for
  everybody. If not, the content is stored for this mount alone: under a name that no other mount
  looks for, and until the end of this mount. That promises just what memory promises: at each open
  the server is asked after `open_ttl`, and a change that keeps size and time is not noticed.
- A content that this mount changes is dropped, because a program may set size and time back to
  what they were.

If the disk is full or broken, or the folder is gone, the store switches itself off and logs why.
Reading goes on without it.

Threading: any number of threads call the methods. `get` reads the disk in its caller's thread.
Nothing else waits for the disk. `_lock` (Rank.STORE) guards the open contents; no I/O is done under
it.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import logging
import math
import os
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from ftpfs import errors
from ftpfs.core.reading.blocks import Generations, Version
from ftpfs.core.store.contents import Content, Damaged, Facts, name_of
from ftpfs.core.store.index import FILES, Index
from ftpfs.core.store.kept import KeptPaths
from ftpfs.core.store.lent import (
    CHECKED_AT_ONCE,
    CheckedFolder,
    LentContent,
    NotLent,
    Unlent,
    can_be_lent,
)
from ftpfs.core.store.writer import Adopt, Drop, Forget, Keep, Put, Writer
from ftpfs.local import private
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.status import StoreStatus

log = logging.getLogger(__name__)

# A file that was changed within this time (s) is not stored for other mounts: see the module. One
# second would be enough if the server's clock agreed with ours and no byte waited in a buffer; a
# minute covers both.
SETTLED_SECONDS = 60.0
# Limit of contents that are open for reading, with two descriptors each, and of contents known to
# be absent.
OPEN_CONTENTS, ABSENT_CONTENTS = 32, 64
# After a content was absent, the store looks for it again after this time (s): another mount may
# have stored it.
ABSENT_SECONDS = 1.0
# Part of the folder's name, so that another layout gets another folder.
LAYOUT = 2


def folder_of(host: str, server: str) -> str:
    """The name of a server's folder. `server` has all that tells this server from others."""
    text = f"{LAYOUT} {server}".encode("utf-8", "surrogateescape")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in host)
    return f"{plain[-60:].lstrip('.')}~{hashlib.sha256(text).hexdigest()[:16]}"


class Holding(enum.Enum):
    """What this machine has of a file's content."""

    KEPT = "kept"  # all of it, and it is never evicted
    CACHED = "cached"  # all of it
    REMOTE = "remote"  # not all of it: a read asks the server


class Store:
    """Contents of one server's files in `folder`, which takes at most `capacity` bytes."""

    def __init__(
        self,
        folder: Path,
        capacity: int,
        *,
        reserved: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reserved`: bytes of the capacity that the stored listings may take.

        `clock()` returns seconds since the epoch. A folder that cannot be used is logged.
        """
        self.folder = folder
        self.kept = KeptPaths(folder)
        self._files = CheckedFolder(folder / "data", self._drop_damaged)
        self._clock = clock
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._writer = Writer(
            folder,
            self._files,
            capacity,
            self._owner,
            reserved=reserved,
            clock=clock,
            changed=self._let_go,
            resting=self._rest,
        )
        self._lock = ranked_lock(Rank.STORE)
        # Guarded by _lock:
        self._open: OrderedDict[str, Content] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()  # until then (time.monotonic())
        self._has_own = False  # contents for this mount alone
        self._held: list[str] = []  # changed while the server was away
        # Set once, before any use: see `follow_names`.
        self._origin: Callable[[str], str] | None = None
        self._is_away: Callable[[], bool] = lambda: False
        self._may_lend = False
        try:
            self._make_folder()
        except OSError as error:
            self._writer.switch_off(error)

    def follow(self, generations: Generations) -> None:
        """Learn from `generations` which contents this mount changes. Called before any use."""
        self._writer.generations = generations
        generations.changed = self.forget

    def follow_names(self, origin: Callable[[str], str], is_away: Callable[[], bool]) -> None:
        """Go on with contents whose names change while the server is away. Before any use.

        `origin(path)`: the name under which the content at `path` was stored. While `is_away()`,
        nothing is forgotten, because it could not be fetched again.
        """
        self._origin = origin
        self._is_away = is_away

    def server_returned(self) -> None:
        """Forget what was changed while the server was away."""
        with self._lock:
            held, self._held = self._held, []
        for path in held:
            self._writer.add(Forget(path))

    def get(self, version: Version, index: int) -> bytes | None:
        """Block `index` of that content, verified, or None."""
        if not self._is_current(version):
            return None
        facts = self._facts(version)
        with self._lock:
            owners = ["", self._owner] if self._has_own else [""]
        try:
            for owner in owners:
                content = self._content(name_of(facts, owner))
                if content is not None and (block := self._read(content, index)) is not None:
                    return block
        except OSError as error:
            self._writer.switch_off(error)
        self._writer.note_miss()
        return None

    def put(self, version: Version, index: int, block: bytes) -> None:
        """Queue a block to be written. Never waits; if the queue is full, the block is dropped."""
        if not version.exact or not self._is_settled(version):
            return
        if len(block) == Facts.of(version).length(index):
            self._writer.add(Put(version, index, block))

    def adopt(self, version: Version, source: Path) -> bool:
        """Make the file at `source` the stored content. Never waits.

        It holds all of the content, and nobody writes to it any more. True: it belongs to the store
        from now on, and is gone from its place soon, in any case.
        """
        if not version.exact or version.mtime is None or not version.size:
            return False
        owner = "" if self._is_settled(version) else self._owner
        if not self._writer.add(Adopt(version, source, owner)):
            return False
        with self._lock:
            self._has_own |= bool(owner)
        return True

    def forget(self, path: str) -> None:
        """This mount changed `path` or something below it: delete the contents stored there."""
        if self._is_away():
            with self._lock:
                self._held.append(path)
            return
        self._writer.add(Forget(path))

    def holding(self, version: Version) -> Holding:
        """How much of a content is on this machine. Waits for the disk."""
        if not version.size:
            return Holding.CACHED
        if not self._is_current(version):
            return Holding.REMOTE
        facts = self._facts(version)
        with self._lock:
            owners = ["", self._owner] if self._has_own else [""]
        try:
            for owner in owners:
                content = self._content(name_of(facts, owner))
                if content is not None and content.is_complete():
                    return Holding.KEPT if content.is_kept() else Holding.CACHED
        except OSError as error:
            self._writer.switch_off(error)
        return Holding.REMOTE

    def has(self, version: Version, index: int) -> bool:
        """Whether block `index` of that content is stored. Waits for the disk."""
        if not self._is_current(version):
            return False
        try:
            content = self._content(name_of(self._facts(version)))
            return content is not None and content.has(index)
        except OSError as error:
            self._writer.switch_off(error)
            return False

    # Lending.

    def begin_lending(self) -> None:
        """The kernel takes contents: check each one soon after it became whole. Before any use."""
        self._may_lend = True

    def lend(self, version: Version) -> LentContent:
        """Lend a whole content to the kernel, locked and checked. Raises NotLent.

        A small content that was not checked in this boot is checked now, a larger one soon.
        """
        if not self._is_current(version):
            raise NotLent(Unlent.INCOMPLETE)
        facts = self._facts(version)
        with self._lock:
            owners = ["", self._owner] if self._has_own else [""]
        for name in [name_of(facts, owner) for owner in owners]:
            try:
                return self._lend(self._files.open(name, writable=True))
            except FileNotFoundError:
                continue
            except Damaged as damage:
                self._drop(name, version.path, damage)
            except OSError as error:
                log.info("%s is not lent to the kernel: %s", version.path, error)
        raise NotLent(Unlent.INCOMPLETE)

    def _lend(self, content: Content) -> LentContent:
        if not content.lock():
            raise NotLent(Unlent.LENT_ELSEWHERE)
        try:
            self._check_to_lend(content)
        except BaseException:
            content.unlock()
            raise
        self._writer.note_use(content.name)
        return LentContent(content, self._files)

    def _check_to_lend(self, content: Content) -> None:
        """Raises NotLent. It is locked, so nobody cuts it meanwhile."""
        if content.is_unlinked or not can_be_lent(content):
            raise NotLent(Unlent.INCOMPLETE)
        if not self._files.checker.has_checked(content):
            if content.facts.size > CHECKED_AT_ONCE:
                self._files.checker.add(content.name)
                raise NotLent(Unlent.UNCHECKED)
            if not self._files.checker.check(content):
                raise NotLent(Unlent.INCOMPLETE)

    def note_lent(self, name: str) -> None:
        """A content is still lent: it counts as used."""
        self._writer.note_use(name, hits=0)

    def _drop_damaged(self, content: Content, damage: Damaged) -> None:
        self._drop(content.name, content.facts.path, damage)

    # Kept contents.

    def keep(self, version: Version) -> None:
        """Exempt a content from eviction. Blocks that are put afterwards may exceed the bound."""
        self._writer.add(Keep(version))

    def absent(self, version: Version) -> tuple[list[int], bool]:
        """The blocks of a content that are not stored, and whether it is kept. Waits for the disk.

        Raises FtpfsError if the store is switched off.
        """
        facts = Facts.of(version)
        if self._is_current(version):
            try:
                content = self._files.open(name_of(facts))
                return content.absent(), content.is_kept()
            except FileNotFoundError:
                pass
            except Damaged as damage:
                self._drop(name_of(facts), version.path, damage)
            except OSError as error:
                self._writer.switch_off(error)
        self.check_on()
        return list(range(facts.blocks)), False

    def wait_for_room(self, most: int, seconds: float) -> None:
        """Wait until at most `most` bytes wait for the disk, for that time at most."""
        self._writer.wait_for_room(most, seconds)

    def settle(self, seconds: float) -> bool:
        """Write all that waits for the disk. False: it takes longer, or the store is off."""
        return self._writer.settle(seconds)

    @contextlib.contextmanager
    def index(self) -> Iterator[Index]:
        """The rows of the contents, for the calling thread. Raises FtpfsError."""
        try:
            self.check_on()
            index = Index(self.folder / FILES[0], self._files)
            try:
                yield index
            finally:
                index.close()
        except (OSError, sqlite3.Error) as error:
            raise errors.FtpfsError(f"the store in {self.folder}: {error}") from error

    def release(self) -> int:
        """Keep no content any more that is not at or below a kept path. Raises FtpfsError.

        Returns how many contents that concerns.
        """
        with self.index() as index:
            return index.release(self.kept.paths(), self._writer.room)

    def check_on(self) -> None:
        """Raises FtpfsError if the store is switched off."""
        if self._writer.is_off:
            raise errors.FtpfsError(f"the store in {self.folder} is switched off; see the log")

    def check_storable(self, version: Version) -> None:
        """Raises FtpfsError if the content cannot be stored for later mounts, with the reason.

        Unsettled: it can be, some seconds later.
        """
        self.check_on()
        if not version.exact:
            raise errors.FtpfsError("its exact time is not known, so it cannot be stored")
        if (seconds := self._settles_in(version)) > 0:
            raise errors.Unsettled("changed within the last minute: fetch it again later", seconds)

    @property
    def queued(self) -> int:
        """Bytes that wait for the disk."""
        return 0 if self._writer.is_off else self._writer.queued

    def status(self) -> StoreStatus | None:
        """What is in the store; None: it was not used so far, or is switched off."""
        return None if self._writer.is_off else self._writer.status

    def close(self) -> None:
        """Do what is queued, for some seconds. After it, nothing is stored or served."""
        self._files.checker.close()
        self._writer.close()
        with self._lock:
            self._open.clear()
            self._absent.clear()
        counts = self._writer.counts
        if any(counts):
            log.info(
                "store: %d blocks served, %d stored, %d dropped, %d files adopted",
                counts.hits,
                counts.stored,
                counts.dropped,
                counts.adopted,
            )

    # Inside.

    def _facts(self, version: Version) -> Facts:
        """What identifies the stored content of a version."""
        facts = Facts.of(version)
        return facts._replace(path=self._origin(facts.path)) if self._origin is not None else facts

    def _is_current(self, version: Version) -> bool:
        """Whether no other content can be meant, and this mount has not changed this one."""
        if not version.exact or version.mtime is None or self._writer.is_off:
            return False
        if self._writer.generations.of(version.path) != version.generation:
            return False
        return not self._writer.is_forgetting(version.path)

    def _is_settled(self, version: Version) -> bool:
        return self._settles_in(version) <= 0

    def _settles_in(self, version: Version) -> float:
        """Seconds until the content may be stored for later mounts; not positive: now."""
        if version.mtime is None:
            return math.inf
        return version.mtime + SETTLED_SECONDS - self._clock()

    def _content(self, name: str) -> Content | None:
        """The content of that name, opened when it is first needed; None if it is absent."""
        with self._lock:
            known = self._open.get(name)
            if known is not None:
                self._open.move_to_end(name)
                return known
            if time.monotonic() < self._absent.get(name, 0.0):
                return None
        try:
            found = self._files.open(name)
        except FileNotFoundError:
            with self._lock:
                self._absent[name] = time.monotonic() + ABSENT_SECONDS
                while len(self._absent) > ABSENT_CONTENTS:
                    self._absent.popitem(last=False)
            return None
        except Damaged as damage:
            self._drop(name, name, damage)
            return None
        with self._lock:
            self._absent.pop(name, None)
            self._open[name] = found
            while len(self._open) > OPEN_CONTENTS:
                self._open.popitem(last=False)
        return found

    def _read(self, content: Content, index: int) -> bytes | None:
        try:
            block = content.read(index)
        except Damaged as damage:
            self._drop(content.name, content.facts.path, damage)
            return None
        if block is None:
            if content.is_unlinked:  # another mount deleted it, and may have stored it again
                self._let_go([content.name])
            return None
        self._writer.note_use(content.name)
        return block

    def _drop(self, name: str, what: str, damage: Damaged) -> None:
        log.warning("store: %s of %s is damaged on the disk: it is fetched again", damage, what)
        self._writer.add(Drop(name))
        self._let_go([name])

    def _let_go(self, names: list[str]) -> None:
        """Drop the open files of these contents; the next read opens them again."""
        with self._lock:
            for name in names:
                self._open.pop(name, None)
                self._absent.pop(name, None)

    def _rest(self, whole: str) -> None:
        """The writer has a pause. `whole`: a content that became whole.

        Drop the contents that others deleted: only then does the disk get their space back.
        """
        if whole and self._may_lend:
            self._files.checker.add(whole)
        with self._lock:
            known = list(self._open.items())
        self._let_go([name for name, content in known if content.is_unlinked])

    def _make_folder(self) -> None:
        try:
            private.make_folder(self.folder)
            private.make_folder(self._files.path)
            for name in ("lock", *FILES):  # SQLite follows symbolic links
                private.check_file(self.folder / name)
        except errors.PermissionDenied as error:
            raise PermissionError(str(error)) from error
        if not os.access(self._files.path, os.W_OK | os.X_OK):
            raise PermissionError(f"{self._files.path} is not writable")
