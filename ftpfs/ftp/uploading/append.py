"""Appends: bytes that are added to the end of a file, and the proof that they arrived there.

An append is not repeated once it has begun. If its reply was lost, the server may have carried it
out, and other clients may have appended since. The caller, which has the content, compares.

Many servers seek to the end of the file once, when APPE opens it. If two clients open it at the
same time, one overwrites the bytes of the other, and no size shows it. So the bytes that were sent
are read back (`Append.look`), and lines that are missing are appended again. If the file has become
shorter, nothing is appended again: another client has truncated it.

Threading: an append belongs to one thread; `SharedFiles` has a lock.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import Counter

from ftpfs import errors
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.uploading.checks import UNKNOWN, seen_in, size_in
from ftpfs.ftp.uploading.content import CHUNK_BYTES, chunks, finish_unless_reset, send_range
from ftpfs.ftp.uploading.context import Context
from ftpfs.ftp.uploading.target import Target
from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Content

log = logging.getLogger(__name__)

# Limits of what is read back if two appends may have overwritten each other: bytes of this append,
# and bytes that other clients have appended.
MAX_READ_BACK_BYTES, MAX_OTHERS_BYTES = 1 << 20, 4 << 20
# How long a file counts as shared after another client has appended to it.
SHARED_SECONDS = 600.0
# Pause before an append to a shared file is read back. The other client may have opened the file
# before these bytes arrived, and its own bytes may still be on their way over a slower link.
SHARED_PAUSE_SECONDS = 0.5
# Limit of attempts of one append.
MAX_ATTEMPTS = 10

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class SharedFiles:
    """The files of one server to which others append, and the sizes that our appends left."""

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock; times of time.monotonic():
        self._shared: dict[str, float] = {}  # path -> until when it counts as shared
        # path -> the size after our last append, and until when it counts
        self._ends: dict[str, tuple[int, float]] = {}

    def has(self, path: str) -> bool:
        with self._lock:
            return self._shared.get(path, 0.0) > time.monotonic()

    def note(self, path: str) -> None:
        """Note that other clients append to the file."""
        with self._lock:
            self._shared[path] = time.monotonic() + SHARED_SECONDS

    def saw_size_before(self, path: str, size: int) -> None:
        """Note the size before an append of this mount.

        If it is larger than the size that the last append left, other clients have appended since.
        """
        with self._lock:
            left, _ = self._ends.get(path, (size, 0.0))
        if size > left:
            self.note(path)

    def saw_size_after(self, path: str, size: int) -> None:
        """Note the size after an append of this mount."""
        now = time.monotonic()
        with self._lock:
            self._shared = {path: until for path, until in self._shared.items() if until > now}
            self._ends = {path: end for path, end in self._ends.items() if end[1] > now}
            self._ends[path] = size, now + SHARED_SECONDS


class Append:
    """The bytes [start, end) of one content, appended in one or more attempts.

    Each call of `run` is one attempt.
    """

    def __init__(
        self,
        context: Context,
        shared: SharedFiles,
        path: str,
        content: Content,
        start: int,
        end: int,
        base: Entry,
    ) -> None:
        # Dependencies and constants:
        self._context = context
        self._shared = shared
        self._content = content
        self._target = Target(context, path, content)
        self._start, self._end = start, end
        # Progress, kept from attempt to attempt:
        self._begun = False  # bytes may have arrived that the server has not confirmed
        self._done = start == end
        self._min_size = base.size or 0  # the smallest size that the server's file may have
        self._attempts = 0  # that were confirmed
        # For the proof:
        self._offset = base.size or 0  # the size of the server's file before the append
        self._to_prove: bytes | None = None  # the bytes that `look` reads back
        self._missing = b""  # the lines among these that have to be sent again

    @property
    def may_be_overwritten(self) -> bool:
        """Whether `look` has to find out if the bytes are there."""
        return self._to_prove is not None and self._attempts < MAX_ATTEMPTS

    @property
    def pause(self) -> float:
        """Seconds to wait before `look`."""
        return SHARED_PAUSE_SECONDS if self._shared.has(self._target.path) else 0.0

    def run(self, session: Session) -> Entry:
        """Append what is missing, and set the attributes."""
        path = self._target.path
        self._context.temporaries.delete_left(session)
        if self._begun and not self._done:
            if not self._attempts:
                raise errors.ConnectionLost(f"an append to {path} broke off")
            self.look(session)  # an earlier attempt broke off
        if not self._done:
            try:
                self._append(session)
            except errors.NotSupported as error:
                if self._begun:
                    raise self._broken_off(error) from error
                raise
        attributes = self._target.attributes()
        count = len(attributes.lines(path))
        replies = session.exchange(self._target.last_lines(attributes), arm=True)
        set_, final, answers = replies[:count], replies[count], replies[count + 1 :]
        size = size_in(final)
        if size is None:
            size = self._min_size
        if size < self._min_size:
            raise errors.DataMismatch(
                f"the server says it has {size} of at least {self._min_size} bytes of {path}"
            )
        told = attributes.learn(session, set_, answers, path, ours=False)
        self._shared.saw_size_after(path, size)
        return self._target.entry(size, *told)

    def look(self, session: Session) -> bool:
        """Whether another client has overwritten some of the bytes; `run` appends those again."""
        ours, theirs = self._to_prove, self._behind(session)
        self._done, self._missing = True, b""
        if ours is not None and theirs is not None and len(theirs) >= len(ours):
            self._missing = lines_missing(ours, theirs)
        if not self._missing:
            self._to_prove = None
            return False
        log.warning(
            "%s: what others have appended to it in the same moment lies over %d bytes from here; "
            "they are appended again",
            self._target.path,
            len(self._missing),
        )
        self._shared.note(self._target.path)
        self._begun = self._done = False
        return True

    def _behind(self, session: Session) -> bytes | None:
        """The server's bytes behind the file's former end.

        None if the server shows none of them, or if others have appended too much to search.
        """
        most = len(self._to_prove or b"") + MAX_OTHERS_BYTES
        try:
            with session.download(self._target.path, self._offset) as download:
                found = download.read(most + 1)
        except (errors.Refused, errors.NotSupported, errors.InvalidArgument) as refusal:
            self._log_unread(refusal)
            return None
        return found if len(found) <= most else None

    def _append(self, session: Session) -> None:
        path = self._target.path
        if not self._context.probes.appends(session, path):
            raise errors.NotSupported("the server is not known to append to a file")
        small = self._end - self._start <= MAX_READ_BACK_BYTES
        data = self._missing
        if not data and small and self._context.profile.identity.appends_by_seeking:
            data = b"".join(chunks(self._content, self._start, self._end))
        try:
            upload = session.upload(path, 0, append=True, before=self._target.questions())
        except errors.NotSupported as refusal:
            if self._attempts:
                raise self._broken_off(refusal) from refusal
            raise
        except errors.Refused as refusal:
            self._delete_if_made(session)
            if self._attempts:
                raise self._broken_off(refusal) from refusal
            if refusal.code in (*UNKNOWN, 550, 553):
                raise errors.NotSupported(f"the server does not append: {refusal}") from refusal
            raise
        with upload:
            offset = self._check_size_before(session, upload)
            self._begun = True
            if data:
                upload.write(data)
            else:
                sent = send_range(self._content, upload, self._start, self._end)
            finish_unless_reset(upload)
        self._min_size = offset + (len(data) or self._end - self._start)
        if data and not self._attempts:
            self._to_prove, self._offset = data, offset
        elif not data and self._context.checksums.verify_content:
            self._read_back(session, offset, sent)
        self._attempts += 1
        self._done = True

    def _check_size_before(self, session: Session, upload: Upload) -> int:
        """The size of the file before the append.

        Raises Conflict if the file is shorter than known, and NotSupported if it is gone.
        """
        seen = seen_in(session, upload.before)
        gone = seen.there is False
        if gone or seen.directory or (seen.size is not None and seen.size < self._min_size):
            upload.close()
            if not gone:
                raise self._target.conflict(seen)
            if session.alive:
                self._delete_if_made(session)
            raise errors.NotSupported("the file is not there any more")
        if seen.size is None:
            return self._min_size
        if seen.size > self._min_size:
            self._shared.note(self._target.path)
        self._shared.saw_size_before(self._target.path, seen.size)
        return seen.size

    def _read_back(self, session: Session, offset: int, sent: bytes) -> None:
        """Raises DataMismatch if the server has other bytes than those that were sent.

        If the server shows none of them (no REST; a folder that lets nobody read), or if others may
        have appended first, only the size is checked. The bytes are there, and are not sent again.
        """
        count, digest = self._end - self._start, hashlib.blake2b()
        path = self._target.path
        try:
            with session.download(path, offset) as download:
                while count and (chunk := download.read(min(CHUNK_BYTES, count))):
                    digest.update(chunk)
                    count -= len(chunk)
        except (errors.Refused, errors.NotSupported) as refusal:
            self._log_unread(refusal)
            return
        size = size_in(session.command(f"SIZE {path}"))
        if digest.digest() != sent and size in (None, self._min_size):
            raise errors.DataMismatch(f"{path} has not what was appended to it")

    def _broken_off(self, error: errors.FtpfsError) -> errors.DataMismatch:
        """The error if the server cannot go on with an append whose bytes it has in part."""
        return errors.DataMismatch(f"an append to {self._target.path} broke off: {error}")

    def _log_unread(self, refusal: errors.FtpfsError) -> None:
        path = self._target.path
        log.info("what was appended to %s cannot be read back: %s", path, refusal)

    def _delete_if_made(self, session: Session) -> None:
        """Delete the empty file that APPE has made if there was no file."""
        if self._min_size and self._target.look(session).size == 0:
            session.command(f"DELE {self._target.path}")


def lines_missing(ours: bytes, theirs: bytes) -> bytes:
    """The lines of `ours` that are not in `theirs`.

    `theirs`: the bytes that the server has where `ours` should be. An equal line of another client
    counts as ours.
    """
    if ours in theirs:
        return b""
    there = Counter(_LINE.findall(theirs))
    missing = []
    for line in _LINE.findall(ours):
        if there[line]:
            there[line] -= 1
        else:
            missing.append(line)
    return b"".join(missing)
