"""A look at one kept path: lists it, fetches what is not here, deletes what the server lacks.

Owns the threads of the look, what is left to do, and what was found. Does not know when to look
(`keeper`), nor how one content comes (`download`).

**What a look costs.** A listing for each folder, as `ls` costs it, and no question for a file that
is here. A file is here if the store has all blocks of the content that the listing shows. If the
listing tells minutes only, the kept content of that path is compared with it (`listings.is_same`),
and the exact time is asked for only if they differ.

**Contents that change while they come.** The server is asked for size and time at the beginning of
each transfer. When all is fetched, the folders with long new files are listed once more. What has
changed meanwhile is fetched again. The mixed content is deleted: no listing shows it any more.

**What is deleted.** At the end, kept contents below the path that no listing shows. Not those below
a folder that could not be listed, nor those of a file that could not be fetched. If the look was
stopped, nothing is deleted.

Threading: `run` is called once, and waits for the threads of the look. `_changed` (Rank.LOOK)
guards all that changes; no I/O is done under it.
"""

from __future__ import annotations

import functools
import logging
import posixpath
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.files.server_file import version_of
from ftpfs.core.keeping.download import Fetching, Stopped
from ftpfs.core.names.known import KnownNames
from ftpfs.core.reading.blocks import BLOCK_SIZE, Version
from ftpfs.core.store.contents import Facts, name_of
from ftpfs.core.store.listings import is_same
from ftpfs.core.store.store import Store
from ftpfs.model import link
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.names import folder_of
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# Threads over a short link, where the processor is the limit.
NEAR_WORKERS = 4
# While so many files wait for each thread, no further folder is listed.
FILES_WAITING = 4
# Attempts at a file that changes while it is fetched, and rounds of fetching what is missing.
MOST_CHANGES, ROUNDS = 3, 3
# How often a look asks whether its path is still kept (s). Each block asks.
WANTED_SECONDS = 0.5
# How long the disk may take for what waits in the end (s).
SETTLE_SECONDS = 60.0
# Limit of failures that are told one by one.
MOST_TOLD = 1000
# This part of the disk stays free, this much at most (bytes): a full disk hurts all programs.
FREE_PART, FREE_MOST_BYTES = 20, 1 << 30


class Progress(NamedTuple):
    """How far a look is."""

    files: int = 0  # found so far
    done: int = 0  # of these
    bytes: int = 0  # of all files found so far
    come: int = 0  # of these


@dataclass(frozen=True)
class Outcome:
    """What a look has found."""

    files: int = 0  # that are here
    bytes: int = 0  # of these
    fetched: int = 0  # files that this look has fetched
    lacking: int = 0  # files and folders that could not be fetched
    failures: tuple[tuple[str, str], ...] = ()  # paths and reasons, of the first of them
    unsettled: int = 0  # files that were changed a moment ago, so they cannot be fetched yet
    settles_in: float = 0.0  # seconds until all of them can
    missing: bool = False  # the server has nothing at the path
    complete: bool = False  # all of it is here


class Look:
    """One look at the kept path `root`."""

    def __init__(
        self,
        root: str,
        remote: Remote,
        known: KnownNames,
        store: Store,
        *,
        workers: int,
        is_wanted: Callable[[], bool],
    ) -> None:
        """`workers`: threads over a long link. `is_wanted()`: False ends the look."""
        self.root = root
        self._remote = remote
        self._known = known
        self._store = store
        is_far = link.is_long(remote.round_trip())
        self._workers = max(1, workers if is_far else min(NEAR_WORKERS, workers))
        self._is_wanted = is_wanted
        self._in_line: set[int] = set()  # see `Fetching`
        self._asks_at = 0.0  # when to call that again (time.monotonic()); set by any thread
        self._changed = ranked_condition(Rank.LOOK)
        # Guarded by _changed:
        self._folders: deque[Callable[[], None]] = deque()
        self._files: deque[Callable[[], None]] = deque()
        self._running = 0
        self._is_stopped = False
        self._found: dict[str, int] = {}  # files, with their sizes
        self._here: set[str] = set()  # of these, in this look
        self._come = 0  # bytes
        self._promised = 0  # bytes that running transfers will write
        self._current: set[str] = set()  # names of contents that the server has now
        self._fetched: dict[str, Version] = {}  # in this round
        self._count = 0  # files fetched in all rounds
        self._failures: dict[str, str] = {}
        self._unsettled: dict[str, float] = {}  # for how many seconds more
        self._missing = False

    # For any thread.

    def progress(self) -> Progress:
        with self._changed:
            return Progress(
                len(self._found), len(self._here), sum(self._found.values()), self._come
            )

    def stop(self) -> None:
        """End soon. What is here stays, and the next look goes on from there."""
        with self._changed:
            self._is_stopped = True
            self._folders.clear()
            self._files.clear()
            self._changed.notify_all()

    # In the keeper's thread.

    def run(self) -> Outcome:
        """Look. Raises what the store raises if it cannot be used."""
        self._begin()
        for _ in range(ROUNDS):
            self._work()
            if self._stops():
                break
            self._store.settle(SETTLE_SECONDS)
            if not self._begin_again():
                break
        else:
            for path in self._fetched:
                self._fail(path, errors.FtpfsError("it changes all the time, or the disk is slow"))
        if not self._stops() and not self._remote.is_offline():
            self._prune()
        return self._outcome()

    def _begin(self) -> None:
        try:
            entry = self._known.tree.lookup(self.root)
            if entry.kind is Kind.FILE:
                look = functools.partial(self._remote.look_again, self.root, entry)
                entry = self._known.tree.look_again(self.root, look)
        except errors.NotFound:
            self._missing = True
            return
        except errors.FtpfsError as error:
            self._fail(self.root, error)
            return
        if entry.kind is Kind.DIRECTORY:
            self._folders.append(functools.partial(self._list, self.root))
        elif entry.kind is Kind.FILE:
            self._add_file(self.root, entry)

    def _work(self) -> None:
        """Do what is left to do, in all threads."""
        threads = [
            threading.Thread(target=self._do_all, name=f"ftpfs-keep-{n}", daemon=True)
            for n in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _begin_again(self) -> bool:
        """Have fetched again what changed meanwhile, or what the store did not take. False: it is
        all here."""
        with self._changed:
            fetched, self._fetched = self._fetched, {}
        long = {folder_of(path) for path, v in fetched.items() if v.size > BLOCK_SIZE}
        for folder in long:
            below = {path: v for path, v in fetched.items() if folder_of(path) == folder}
            self._folders.append(functools.partial(self._check, folder, below))
        for path, version in fetched.items():
            if folder_of(path) not in long and self._store.absent(version)[0]:
                entry = self._known.tree.seen(path)[0]
                if entry is not None:
                    self._add_file(path, entry)
        return bool(self._folders or self._files)

    def _prune(self) -> None:
        with self._changed:
            current, spared = set(self._current), [*self._failures, *self._unsettled]
        with self._store.index() as index:
            gone = index.prune(self.root, current, spared)
        if gone:
            log.info("%s is kept: %d contents that the server lacks are deleted", self.root, gone)

    def _outcome(self) -> Outcome:
        with self._changed:
            return Outcome(
                files=len(self._here),
                bytes=sum(self._found[path] for path in self._here),
                fetched=self._count,
                lacking=len(self._failures),
                failures=tuple(self._failures.items())[:MOST_TOLD],
                unsettled=len(self._unsettled),
                settles_in=max(self._unsettled.values(), default=0.0),
                missing=self._missing,
                complete=not (
                    self._failures or self._unsettled or self._is_stopped or self._missing
                ),
            )

    # In the threads of the look.

    def _do_all(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:
                log.exception("%s cannot be kept: unexpected error", self.root)
                self._fail(self.root, errors.FtpfsError(f"{type(error).__name__}: {error}"))
                self.stop()
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                lists = len(self._files) < FILES_WAITING * self._workers
                waiting = self._folders if self._folders and lists else self._files
                if waiting:
                    self._running += 1
                    return waiting.popleft()
                if not self._running:
                    return None
                self._changed.wait()

    def _stops(self) -> bool:
        now = time.monotonic()
        if now >= self._asks_at:
            self._asks_at = now + WANTED_SECONDS
            if not self._is_wanted():
                self.stop()
        return self._is_stopped

    def _fail(self, path: str, error: Exception) -> None:
        """Note why a file or folder is not here. If the others will fail, too, end the look."""
        why = str(error)
        try:
            self._store.check_on()
        except errors.FtpfsError as off:
            path, why = self.root, str(off)
            self.stop()
        if isinstance(error, errors.NetworkError) and self._remote.is_offline():
            path = self.root
            self.stop()
        with self._changed:
            if isinstance(error, errors.Unsettled):
                self._unsettled[path] = error.seconds
            else:
                self._failures.setdefault(path, why)
            self._here.discard(path)

    def _list(self, folder: str) -> None:
        """List a folder, and have its files fetched."""
        if self._stops():
            return
        try:
            entries = self._as_kept(folder, self._listed(folder))
        except (errors.NotFound, errors.NotADirectory):
            with self._changed:
                self._missing |= folder == self.root
            return
        except errors.FtpfsError as error:
            self._fail(folder, error)
            return
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            if entry.kind is Kind.DIRECTORY:
                with self._changed:
                    self._folders.append(functools.partial(self._list, path))
                    self._changed.notify()
            elif entry.kind is Kind.FILE:
                self._add_file(path, entry)
        with self._changed:
            waiting = len(self._files)
        self._remote.warm(min(waiting, self._workers))

    def _listed(self, folder: str) -> list[Entry]:
        self._known.tree.list_since(folder, time.monotonic())
        return self._known.tree.known(folder)

    def _as_kept(self, folder: str, entries: list[Entry]) -> list[Entry]:
        """These entries; one without an exact time gets that of the kept content it may be."""
        if all(entry.exact or entry.kind is not Kind.FILE for entry in entries):
            return entries
        found = []
        with self._store.index() as index:
            for entry in entries:
                if not entry.exact and entry.kind is Kind.FILE:
                    for facts in index.kept_at(posixpath.join(folder, entry.name)):
                        kept = replace(entry, size=facts.size, mtime=facts.mtime, exact=True)
                        entry = kept if is_same(kept, entry, time.time()) else entry
                found.append(entry)
        return found

    def _check(self, folder: str, fetched: dict[str, Version]) -> None:
        """List a folder again: has anything changed while it was fetched?"""
        try:
            now = {posixpath.join(folder, entry.name): entry for entry in self._listed(folder)}
        except (errors.NotFound, errors.NotADirectory):
            now = {}
        except errors.FtpfsError as error:
            self._fail(folder, error)
            return
        for path, version in fetched.items():
            entry = now.get(path)
            if entry is None:
                with self._changed:
                    self._current.discard(name_of(Facts.of(version)))
                    self._found.pop(path, None)
                    self._here.discard(path)
            elif not _shows(entry, version) or self._store.absent(version)[0]:
                with self._changed:
                    self._current.discard(name_of(Facts.of(version)))
                self._add_file(path, entry)

    def _add_file(self, path: str, entry: Entry) -> None:
        with self._changed:
            self._found[path] = entry.size or 0
            self._files.append(functools.partial(self._keep, path, entry))
            self._changed.notify()

    # One file.

    def _keep(self, path: str, entry: Entry) -> None:
        """Have the content of a file here, and keep it."""
        try:
            if self._stops():
                return
            self._bring(path, entry)
        except Stopped:
            return
        except errors.NotFound:  # it was deleted since it was listed
            with self._changed:
                self._found.pop(path, None)
            return
        except (errors.FtpfsError, OSError) as error:
            self._fail(path, error)
            return
        with self._changed:
            self._here.add(path)

    def _bring(self, path: str, entry: Entry) -> None:
        for left in reversed(range(MOST_CHANGES)):
            generation = self._known.generations.of(path)
            entry = self._exact(path, entry)
            with self._changed:
                self._found[path] = entry.size or 0
            if not entry.size:
                return
            version = version_of(path, entry, generation)
            try:
                self._store_all(version, entry)
            except errors.DataMismatch:  # it has changed
                if not left:
                    raise
                look = functools.partial(self._remote.look_again, path, entry)
                entry = self._known.tree.look_again(path, look)
            else:
                return

    def _store_all(self, version: Version, entry: Entry) -> None:
        absent, is_kept = self._store.absent(version)
        if absent:
            self._store.check_storable(version)
        name = name_of(Facts.of(version))
        with self._changed:
            self._current.add(name)
        try:
            if absent:
                self._fetch(version, entry, absent, is_kept=is_kept)
            elif not is_kept:
                self._store.keep(version)
        except errors.DataMismatch:
            with self._changed:
                self._current.discard(name)
            raise
        if not absent:
            self._advance(version.size)

    def _fetch(self, version: Version, entry: Entry, absent: list[int], *, is_kept: bool) -> None:
        facts = Facts.of(version)
        size = sum(map(facts.length, absent))
        self._advance(version.size - size)
        with self._changed:
            self._promised += size
            promised = self._promised
        try:
            self._check_room(promised)
            if not is_kept:
                self._store.keep(version)
            Fetching(
                self._remote,
                self._store,
                version,
                entry,
                in_line=self._in_line,
                stops=self._stops,
                advance=self._advance,
            ).run(absent)
        finally:
            with self._changed:
                self._promised -= size
        with self._changed:
            self._fetched[version.path] = version
            self._count += 1

    def _check_room(self, size: int) -> None:
        """Raises NoSpace if the disk would be full after `size` more bytes."""
        disk = shutil.disk_usage(self._store.folder)
        spare = min(disk.total // FREE_PART, FREE_MOST_BYTES)
        if disk.free < size + spare:
            raise errors.NoSpace(
                f"not fetched: only {disk.free >> 20} MiB are free on the disk of "
                f"{self._store.folder}, and {spare >> 20} MiB of it are left alone"
            )

    def _exact(self, path: str, entry: Entry) -> Entry:
        """The entry with size and exact time. An empty file needs no time."""
        if entry.size == 0 or (entry.exact and entry.size is not None):
            return entry
        look = functools.partial(self._remote.look_again, path, entry)
        return self._known.tree.look_again(path, look)

    def _advance(self, size: int) -> None:
        with self._changed:
            self._come += size


def _shows(entry: Entry, version: Version) -> bool:
    """Whether a listed entry may be the one of that content."""
    known = replace(entry, size=version.size, mtime=version.mtime, exact=True)
    return entry == known if entry.exact else is_same(known, entry, time.time())
