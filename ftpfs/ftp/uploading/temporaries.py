"""Temporary names: made, remembered, and cleaned up.

A file is sent under a hidden name and then renamed. If the connection breaks, the hidden file stays
on the server. Three things delete it: the next upload deletes what this mount remembers; a listing
shows what earlier runs of this mount have left; and a listing shows what other mounts left more
than a day ago.

Threading: any thread; one lock guards the state, and no I/O is done under it.
"""

from __future__ import annotations

import logging
import posixpath
import re
import secrets
import time
from collections.abc import Collection

from ftpfs import errors
from ftpfs.ftp import replacing
from ftpfs.ftp.connections.session import Session
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import HIDDEN_PREFIX

log = logging.getLogger(__name__)

# A temporary file is litter if it was not written to for this time. In listings without MLSD, times
# may be wrong by a time zone, which is less.
LITTER_AGE_SECONDS = 86400.0
# Limit of remembered files that one exchange deletes.
MOST_DELETED_AT_ONCE = 32
# Maximum bytes of a slash and a temporary name, and of what a command adds to the path of a file
# ("SITE UTIME 20240131120000 ", a line end, a byte 255 or two that is doubled).
NAME_BYTES, COMMAND_BYTES = 48, 32

# A scratch folder that is not empty is not ours, and RMD leaves it alone.
_DELETES = {Kind.FILE: "DELE", Kind.DIRECTORY: "RMD"}
_TEMPORARY = re.compile(r"\.ftpfs-(?:probe-)?([0-9a-f]{8})-([0-9a-f]{8,})-[0-9a-f]+\.tmp")


class Temporaries:
    """The hidden names of one mount, and the hidden files of all mounts that listings show."""

    def __init__(self, owner: str | None) -> None:
        """`owner`: 8 hex digits that no other process uses at the same time. None: random ones.

        Listings delete the temporary files with these digits that are not in use.
        """
        # Dependencies and constants:
        self._owner = owner or secrets.token_hex(4)
        self._began = int(time.time())
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock:
        self._in_use: set[str] = set()  # names of uploads that run, or that may be resumed
        self._left: dict[str, str] = {}  # to be deleted with the next upload: path -> command
        self._reported: set[str] = set()  # files moved aside that the log has named

    def new(self, target: str, kind: str = "") -> str:
        """A new hidden name beside `target`. It tells its owner and its time."""
        name = f"{HIDDEN_PREFIX}{kind}{self._owner}-{int(time.time()):08x}"
        path = beside(target, f"{name}-{secrets.token_hex(4)}.tmp")
        with self._lock:
            self._in_use.add(path)
        return path

    def aside_name(self, name: str) -> str:
        """A hidden name for the file `name` while another file takes its place."""
        return replacing.aside_name(self._owner, name)

    def forget(self, path: str) -> None:
        """Forget a name: the file was renamed or deleted."""
        with self._lock:
            self._in_use.discard(path)

    def delete_later(self, path: str, command: str = "DELE") -> None:
        """Have the next upload delete the file, which may exist; by RMD: the folder."""
        with self._lock:
            if path in self._in_use:
                self._in_use.remove(path)
                self._left[path] = command

    def delete(self, session: Session, path: str) -> bool:
        """Delete the file now, or later if the session is broken. Returns whether it is gone."""
        try:
            if session.alive:
                reply = session.command(f"DELE {path}")
                self.forget(path)
                return reply.ok
        except errors.FtpfsError as error:
            log.info("%s could not be deleted: %s", path, error)
        self.delete_later(path)
        return False

    def delete_left(self, session: Session) -> None:
        """Delete what broken uploads have left. A refusal means that the file does not exist."""
        with self._lock:
            batch = list(self._left.items())[:MOST_DELETED_AT_ONCE]
        if batch:
            session.exchange([f"{command} {path}" for path, command in batch])
            with self._lock:
                for path, _ in batch:
                    self._left.pop(path, None)

    # Cleaning up.

    def sweep(self, session: Session, folder: str, entries: Collection[Entry]) -> bool:
        """Delete what crashed mounts left in a listing of `folder`, and put files back.

        A file that a crashed mount had moved aside gets its name again. If another file has that
        name, the log tells once where the old one is; it is never deleted. Temporary files of this
        owner are deleted at once, those of others a day after the last write. Both the server's
        clock and the clock of their maker (in the name) have to confirm the day, because either may
        be wrong. Returns whether a file has its name again.
        """
        now = time.time()
        litter = [
            line
            for entry in entries
            if self._is_litter(path := f"{folder.rstrip('/')}/{entry.name}", entry, now)
            and session.takes(line := f"{_DELETES[entry.kind]} {path}")
        ]
        for line, reply in zip(litter, session.exchange(litter), strict=True):
            log.info("left over from a broken upload: %s (%s)", line, reply.code)
        restored = False
        for entry in entries:
            if self._was_moved_aside(folder, entry.name, now):
                restored |= replacing.restore(session, folder, entry.name)
        return restored

    def delete_of(
        self, session: Session, folder: str, entries: Collection[Entry], owner: str
    ) -> None:
        """Delete the temporary files of this owner in a listing of `folder`."""
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found and found.group(1) == owner:
                session.require(f"DELE {folder.rstrip('/')}/{entry.name}")
                log.info("left over from a broken upload: %s", entry.name)

    def _was_moved_aside(self, folder: str, name: str, now: float) -> bool:
        """Whether an earlier mount moved this file aside. True once for each file."""
        told = replacing.told_by(name)
        if told is None:
            return False
        owner, since, _ = told
        path = f"{folder}/{name}"
        with self._lock:
            known = path in self._reported
            self._reported.add(path)
        if owner == self._owner:
            return since < self._began and not known
        return now - since > LITTER_AGE_SECONDS and not known

    def _is_litter(self, path: str, entry: Entry, now: float) -> bool:
        found = _TEMPORARY.fullmatch(entry.name)
        if not found or entry.kind not in _DELETES:
            return False
        with self._lock:
            if path in self._in_use or path in self._left:
                return False
        if found.group(1) == self._owner:
            return True
        began, written = int(found.group(2), 16), entry.mtime
        return written is not None and now - max(began, written) > LITTER_AGE_SECONDS


def beside(path: str, name: str) -> str:
    """The path of `name` in the folder of `path`."""
    return f"{posixpath.dirname(path).rstrip('/')}/{name}"
