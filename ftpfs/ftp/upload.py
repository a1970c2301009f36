"""A file's way to the server: whole under a temporary name, or in place where only parts changed.

Owns: temporary names and the cleaning up after them; the rename into place and what to do where a
server does not do it; going on where a connection broke; the check that the server has what was
sent, and that it had what was expected before. Sessions, leases and retries are the pool's; what a
refusal means for a path is `remote`'s.

Round trips of a small file, on a session whose data connection is open: STOR, which its content
leaves together with, and one exchange for all that follows the 226; the port for the next file is
asked for at its end. A file of more than `SMALL` bytes costs one more, in which it is verified
*before* it gets its name; a small one is verified in the exchange that renames it. With
`verify_content` every file is verified before, and by its checksum, too: what is broken never gets
a name.

What is on the server already (`base`) is asked for in the same write as STOR, which costs no round
trip. That leaves a window from there to the rename in which somebody else's change is not seen; so
what takes longer than `RECHECK_AFTER` is asked again before the rename, together with the
verification. FTP has no conditional rename: a window of that, and a round trip, is the best there
is.

Time and mode are set under the temporary name, before the rename: nobody sees the file with wrong
ones, and where a rename is refused, the file that it was to replace keeps its own.

Threading: any thread; `Uploads` keeps its books under a lock, each upload belongs to one thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
import re
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ftpfs import errors
from ftpfs.ftp import digest, lister
from ftpfs.ftp.control import Reply
from ftpfs.ftp.data import Upload
from ftpfs.ftp.listing import Entry, Kind
from ftpfs.ftp.pool import Pool, Use
from ftpfs.ftp.profile import Profile, Restart, SetTime
from ftpfs.ftp.session import Session

log = logging.getLogger(__name__)

# Up to here (bytes) a file is verified after its rename: a truncated one, of which the server says
# 226, has its name for a round trip before it is sent again. Above, the round trip of looking
# first is small beside the transfer.
SMALL = 64 << 10
# An upload that took longer (s) looks again, right before its rename, for changes by others.
RECHECK_AFTER = 1.0
# Less than this (bytes) is sent again rather than gone on with: finding out how far it came is a
# round trip, and the probe for REST (once per server) some ten.
WORTH_RESUMING = 1 << 20
# What is asked of the content, and given to sendfile(2), at a time (bytes): a content that was
# overwritten meanwhile is noticed that soon.
PIECE = 1 << 20
# An upload is taken when the server has told to begin (1xx), so much of it has left (bytes), and
# nothing was said against it by then. The 1xx alone would do for the four servers that were tried:
# they open the file first. But those that open it when data comes, or ask a store behind them, say
# 150 and then 550 or 553; a connection that was made takes several round trips for a MiB, and the
# refusal has come by then.
TAKEN = 1 << 20
# A piece of a patch costs as much as so many bytes: EPSV, REST and STOR and the 226 are two round
# trips or three, and at 20 ms a link of 100 Mbit/s carries 250 KB in each.
PIECE_COST = 512 << 10
# Finding out what REST does, once per server: two transfers, a question and a deletion.
PROBE_PIECES = 3
# Temporary files nobody has written to for so long (s) are litter. Listings without MLSD may be off
# by a time zone, which is less.
LITTER_AGE = 86400.0
# A folder that takes no temporary files, or no renames, is believed to be so for so long (s).
IN_PLACE_MEMORY = 600.0
# Leftovers of broken uploads that are deleted with one exchange.
TIDY_BATCH = 32

# What the probe for REST stores first.
_PROBE = b"0123456789"
# What it finds when its second upload was cut off: nothing is learned from that.
_PROBE_CUT_SHORT = (_PROBE, b"0123", b"0123x")

_UNKNOWN = (500, 501, 502, 504)
_TEMPORARY = re.compile(r"\.ftpfs-(?:probe-)?([0-9a-f]{8})-([0-9a-f]{8,})-[0-9a-f]+\.tmp")


class Content(Protocol):
    """What is sent; promises and errors are documented in `core.remote.Content`."""

    def fileno(self) -> int: ...

    def ready(self, offset: int) -> int: ...

    def whole(self) -> int | None: ...

    def accepted(self) -> None: ...

    def attributes(self) -> tuple[int | None, int | None]: ...


class FileContent:
    """Content that is complete in a local file: its first `size` bytes."""

    def __init__(self, fd: int, size: int, mtime: int | None, mode: int | None) -> None:
        self._fd = fd
        self._size = size
        self._attributes = mtime, mode

    def fileno(self) -> int:
        return self._fd

    def ready(self, offset: int) -> int:
        return max(offset, self._size)

    def whole(self) -> int | None:
        return self._size

    def accepted(self) -> None:
        """Who sends it waits for the end anyway."""

    def attributes(self) -> tuple[int | None, int | None]:
        return self._attributes


class Uploads:
    """The uploads of one server: what they have in common, and what broken ones have left."""

    def __init__(
        self,
        pool: Pool,
        profile: Profile,
        owner: str | None = None,
        *,
        verify_content: bool = False,
    ) -> None:
        """`owner`: 8 hex digits that no other process uses at the same time.

        Temporary files with these in their name that are not of an upload under way are deleted
        when a listing shows them. Without it, a random one is taken. `verify_content`: compare
        checksums, too, where the server has any.
        """
        self._pool = pool
        self.profile = profile
        self.verify_content = verify_content
        self._owner = owner or secrets.token_hex(4)
        self._probing = threading.Lock()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._live: set[str] = set()  # temporaries of uploads that go on, or may be gone on with
        self._left: list[str] = []  # to be deleted, as soon as the server can be talked to
        self._broken: dict[str, tuple[weakref.ref[Content], _Store]] = {}  # by target
        self._in_place: dict[str, float] = {}  # folders without temporaries, until when
        self._told_no_digest = False

    def store(self, target: str, content: Content, base: Entry | None, *, check: bool) -> Entry:
        """See `Remote.store`; `target` is a path on the server. Raises Refused as it comes."""
        upload = self._take_up(target, content)
        if upload is None:
            upload = _Store(self, target, content)
        upload.expect(base, check=check)
        while True:
            moved = upload.handed
            try:
                entry = self._pool.run(upload.run, use=Use.UPLOAD)
            except errors.NetworkError as error:
                if not upload.goes_on_after(error, moved):
                    self._break_off(target, content, upload)
                    raise
                log.info("%s: going on after %s", target, error)
            except BaseException:
                self.leave(upload.temporary)
                raise
            else:
                self.end(upload.temporary)
                return entry

    def patch(
        self, target: str, content: Content, ranges: Sequence[tuple[int, int]], base: Entry
    ) -> Entry:
        """See `Remote.patch`."""
        patch = _Patch(self, target, content, ranges, base)
        return self._pool.run(patch.run, use=Use.UPLOAD)

    # Temporary names.

    def temporary(self, target: str, kind: str = "") -> str:
        """A new name beside `target` that listings hide, that nobody else uses, and that tells
        whose it is and from when."""
        name = f"{lister.HIDDEN_PREFIX}{kind}{self._owner}-{int(time.time()):08x}"
        path = beside(target, f"{name}-{secrets.token_hex(4)}.tmp")
        with self._lock:
            self._live.add(path)
        return path

    def end(self, temporary: str) -> None:
        """It has been renamed or deleted."""
        with self._lock:
            self._live.discard(temporary)

    def leave(self, temporary: str) -> None:
        """It may be there still, and is to be deleted when the server can be talked to."""
        with self._lock:
            if temporary in self._live:
                self._live.remove(temporary)
                self._left.append(temporary)

    def discard(self, session: Session, temporary: str) -> bool:
        """Delete it now, if the server can be talked to; whether it is gone."""
        try:
            if session.alive:
                reply = session.command(f"DELE {temporary}")
                self.end(temporary)
                return reply.ok
        except errors.FtpfsError as error:
            log.info("%s could not be deleted: %s", temporary, error)
        self.leave(temporary)
        return False

    def tidy(self, session: Session) -> None:
        """Delete what broken uploads have left behind; what is refused is gone already."""
        with self._lock:
            batch = self._left[:TIDY_BATCH]
        if batch:
            session.exchange([f"DELE {path}" for path in batch])
            with self._lock:
                self._left = [path for path in self._left if path not in batch]

    def clean(self, session: Session, folder: str, entries: Iterable[Entry]) -> None:
        """Delete the litter of crashed mounts that a listing of `folder` has shown.

        Ours (by its name) at once, others' after a day without a write. Both the server's clock and
        that of its maker (in the name) have to say so: one of them may be wrong.
        """
        now = time.time()
        litter = [
            path
            for entry in entries
            if self._is_litter(path := f"{folder.rstrip('/')}/{entry.name}", entry, now)
        ]
        for path, reply in zip(
            litter, session.exchange([f"DELE {path}" for path in litter]), strict=True
        ):
            log.info("left over from a broken upload: %s (%s)", path, reply.code)

    def _is_litter(self, path: str, entry: Entry, now: float) -> bool:
        found = _TEMPORARY.fullmatch(entry.name)
        if not found or entry.kind is not Kind.FILE:
            return False
        with self._lock:
            if path in self._live or path in self._left:
                return False
        if found.group(1) == self._owner:
            return True
        began, written = int(found.group(2), 16), entry.mtime
        return written is not None and now - max(began, written) > LITTER_AGE

    # Folders in which files are written in place.

    def writes_in_place(self, folder: str) -> bool:
        with self._lock:
            return self._in_place.get(folder, 0.0) > time.monotonic()

    def must_write_in_place(self, folder: str) -> None:
        with self._lock:
            self._in_place[folder] = time.monotonic() + IN_PLACE_MEMORY

    # Uploads that broke off, for the same content to be gone on with.

    def _break_off(self, target: str, content: Content, upload: _Store) -> None:
        if not upload.is_worth_keeping():
            self.leave(upload.temporary)
            return
        with self._lock:
            self._broken[target] = (weakref.ref(content), upload)

    def _take_up(self, target: str, content: Content) -> _Store | None:
        with self._lock:
            broken = self._broken.pop(target, None)
            forgotten = [key for key, (of, _) in self._broken.items() if of() is None]
            gone = [self._broken.pop(key)[1] for key in forgotten]
        if broken and broken[0]() is not content:
            gone.append(broken[1])
        for upload in gone:
            self.leave(upload.temporary)
        return broken[1] if broken and broken[0]() is content else None

    # Checksums.

    @property
    def compares_content(self) -> bool:
        """Whether it is asked for and can be done; that it cannot is said once."""
        if not self.verify_content:
            return False
        if self.profile.digest_command():
            return True
        with self._lock:
            tell, self._told_no_digest = not self._told_no_digest, True
        if tell:
            log.warning("verify=content: this server tells no checksums; only sizes are compared")
        return False

    def ask_digest(self, session: Session, path: str, size: int) -> digest.Told | None:
        """The server's checksum of a file, by the first command that it knows."""
        while command := self.profile.digest_command():
            line = digest.line(command, path)
            (reply,) = session.exchange([line], extra=size / digest.SLOWEST)
            if not self.profile.saw_digest(command, reply.code):
                return digest.told_in(command, path, reply)
        return None

    # What REST and STOR do on this server.

    def restart(self, session: Session, target: str) -> Restart:
        """What of a file survives REST n + STOR. Found out once per server, on a scratch file."""
        with self._probing:
            if self.profile.restart is None:
                self.profile.restart = self._probe(session, target)
                log.info("REST before STOR: %s", self.profile.restart.value)
            return self.profile.restart

    def _probe(self, session: Session, target: str) -> Restart:
        """What is left of ten bytes when two are sent to the fifth place. Ten are only left where
        all is kept: their number says so, and the file need not be fetched."""
        scratch = self.temporary(target, "probe-")
        try:
            _store_at_once(session, scratch, _PROBE)
            (told,) = _store_at_once(session, scratch, b"xy", 4, [f"SIZE {scratch}"])
            whole = size_in(told)
            left = size_in(session.command(f"SIZE {scratch}"))
            kept = whole == left == len(_PROBE)
            if not kept:
                with session.download(scratch) as download:
                    found = download.read(100)
        except (errors.Refused, errors.NotSupported, errors.InvalidArgument) as refusal:
            log.info("REST before STOR cannot be tried: %s", refusal)
            session.drop()  # a REST that was taken may wait for the next transfer (pyftpdlib)
            self.leave(scratch)
            return Restart.NOTHING
        except BaseException:
            self.leave(scratch)
            raise
        self.discard(session, scratch)
        if kept:
            return Restart.ALL
        if whole not in (None, len(_PROBE)) or found in _PROBE_CUT_SHORT:
            raise errors.DataConnectionFailed("226, but not all of a few bytes arrived")
        return {b"0123xy6789": Restart.ALL, b"0123xy": Restart.HEAD}.get(found, Restart.NOTHING)


def _store_at_once(
    session: Session, path: str, data: bytes, offset: int = 0, before: Sequence[str] = ()
) -> Sequence[Reply]:
    """Store a few bytes, together with the command where that can be; the replies to `before`."""
    with session.upload(path, offset, before=before, ahead=data) as upload:
        if not upload.complete:
            upload.write(data)
        upload.finish()
    return upload.before


@dataclass(frozen=True)
class Seen:
    """What the server says of a file. `there` is None where it does not say."""

    there: bool | None
    size: int | None = None
    mtime: int | None = None
    directory: bool = False

    def is_other_than(self, base: Entry | None, profile: Profile) -> bool:
        """Whether somebody changed what was there. A file that is gone is no conflict: nothing of
        anybody's would be lost. Times count only where they are exact on both sides, and `base` may
        be from before the server's zone was known."""
        if not self.there:
            return False
        if base is None:
            return True
        if None not in (base.size, self.size) and base.size != self.size:
            return True
        if not base.exact or base.mtime is None or self.mtime is None:
            return False
        return base.mtime not in (self.mtime, profile.shown_at(self.mtime))


def questions(profile: Profile, path: str) -> list[str]:
    """What to ask about a file, the same way as listings of this server tell it."""
    if "MLST" in profile.features and profile.mlst is not False:
        return [f"MLST {path}"]
    return [f"SIZE {path}", f"MDTM {path}"]


def seen_in(session: Session, replies: Sequence[Reply]) -> Seen:
    """The answers to `questions`."""
    if len(replies) == 1:
        return _seen_in_mlst(session, replies[0])
    size, when = size_in(replies[0]), lister.time_in(replies[1], session.profile)
    if size is not None:
        return Seen(True, size, when)
    if replies[0].code in _UNKNOWN:
        return Seen(True, None, when) if when is not None else Seen(None)
    # 550: nothing there, a directory, or a folder that shows nothing.
    return Seen(False if replies[0].code == 550 else None)


def _seen_in_mlst(session: Session, reply: Reply) -> Seen:
    entry = lister.entry_in(session, reply)
    if entry is None:
        return Seen(False if reply.code == 550 else None)
    mtime = int(entry.mtime) if entry.mtime is not None else None
    return Seen(True, entry.size, mtime, entry.kind is Kind.DIRECTORY)


def size_in(reply: Reply) -> int | None:
    """The size in a reply to SIZE (RFC 3659, 4: `213 size`), None if there is none."""
    text = reply.text.strip()
    return int(text) if reply.code == 213 and text.isdigit() else None


class _Attributes:
    """Time and mode of one file: the commands that set them, and what came of them."""

    def __init__(self, profile: Profile, content: Content) -> None:
        self._profile = profile
        self._mtime, self._mode = content.attributes()
        # Asked once: another thread may learn something between the commands and their replies.
        self._way = profile.way_to_set_time() if self._mtime is not None else SetTime.NONE
        self._sets_mode = self._mode is not None and profile.chmod is not False

    def lines(self, path: str) -> list[str]:
        lines = []
        if self._sets_mode and self._mode is not None:
            lines.append(chmod_line(self._profile, path, self._mode))
        if self._way is not SetTime.NONE and self._mtime is not None:
            lines.append(self._profile.set_time_line(self._way, path, self._mtime))
        return lines

    def learn(
        self, session: Session, replies: Sequence[Reply], path: str
    ) -> tuple[int | None, int | None]:
        """The time and the mode that are set now, by the replies to `lines`.

        Where the server turns out not to know the command for times, the next one is tried at once.
        """
        waiting = iter(replies)
        mode = self._mode if self._sets_mode and self._mode_is_set(next(waiting)) else None
        way = self._way
        if way is SetTime.NONE or self._mtime is None:
            return None, mode
        reply = next(waiting)
        while self._profile.saw_set_time(way, reply.code):
            way = self._profile.way_to_set_time()
            if way is SetTime.NONE:
                return None, mode
            reply = session.command(self._profile.set_time_line(way, path, self._mtime))
        return (self._mtime if reply.ok else None), mode

    def _mode_is_set(self, reply: Reply) -> bool:
        if reply.ok or reply.code in _UNKNOWN:
            self._profile.chmod = reply.ok or self._profile.chmod or False
        return reply.ok


class _Sender:
    """What storing and patching have in common: the content, its way out, the checks."""

    def __init__(self, uploads: Uploads, target: str, content: Content) -> None:
        self._uploads = uploads
        self._profile = uploads.profile
        self._target = target
        self._content = content

    def _questions(self) -> list[str]:
        return questions(self._profile, self._target)

    def _look(self, session: Session) -> Seen:
        return seen_in(session, session.exchange(self._questions()))

    def _settle(self, session: Session, size: int) -> Entry:
        """Set time and mode of what has its final name, and check its size, in one exchange."""
        attributes = _Attributes(self._profile, self._content)
        replies = session.exchange(self._settling(attributes), arm=True)
        return self._settled(session, size, attributes, replies)

    def _settling(self, attributes: _Attributes) -> list[str]:
        return [*attributes.lines(self._target), f"SIZE {self._target}"]

    def _settled(
        self, session: Session, size: int, attributes: _Attributes, replies: Sequence[Reply]
    ) -> Entry:
        """By the replies to `_settling`."""
        *set_, final = replies
        self._check_final(session, final, size)
        return self._entry(session, size, *attributes.learn(session, set_, self._target))

    def _check_final(self, session: Session, reply: Reply, size: int) -> None:
        self._check_size(reply, size)
        if reply.code == 550 and "SIZE" in self._profile.features:
            # It is not there, or may not be looked at (a drop folder).
            lister.check_present(session, self._target)
        else:
            lister.check_name_kept(session, self._target)

    def _check_size(self, reply: Reply, size: int) -> None:
        """A 226 proves nothing: servers have said it for truncated uploads."""
        found = size_in(reply)
        if found not in (None, size):
            raise errors.DataMismatch(
                f"the server says it has {found} of {size} bytes of {self._target}"
            )

    def _compare(self, size: int, theirs: digest.Told | None) -> None:
        """Raises DataMismatch where the server has another content; and what `ready` does, where it
        was written over: then it is another one here."""
        if theirs is None:
            if self._uploads.compares_content:  # else that was said, for all files
                log.warning("%s: the server told no checksum of it", self._target)
            return
        ours = digest.of(theirs.algorithm, size, partial(local_bytes, self._content), PIECE)
        self._content.ready(size)
        if theirs != ours:
            raise errors.DataMismatch(
                f"the server has {theirs.algorithm} {theirs.digits} of {self._target} "
                f"instead of {ours.digits}"
            )

    def _entry(self, session: Session, size: int, mtime: int | None, mode: int | None) -> Entry:
        """The file as the server has it now. Its time is asked for where it was not set."""
        if mtime is None:
            mtime = self._look(session).mtime
        return Entry(
            name=posixpath.basename(self._target),
            kind=Kind.FILE,
            size=size,
            mtime=mtime,
            exact=mtime is not None,
            mode=mode,
            target=None,
        )

    def _conflict(self, seen: Seen) -> errors.Conflict:
        now = "a folder" if seen.directory else f"now {seen.size} bytes"
        return errors.Conflict(f"{self._target} was changed by somebody else ({now})")


class _Store(_Sender):
    """One upload of a whole file, in attempts; `run` is one of them."""

    def __init__(self, uploads: Uploads, target: str, content: Content) -> None:
        super().__init__(uploads, target, content)
        self._folder = posixpath.dirname(target)
        self.temporary = uploads.temporary(target)
        # Of the temporary file: so many bytes of it, and no more, can have arrived.
        self.handed = 0
        self._size: int | None = None  # how many there are in all, once all were handed over
        self._verified = False  # its size was seen to be right
        self._compared = False  # and its content, if that is asked for
        self._renaming = False  # a rename may have been carried out
        self._aside = ""  # where the old content was moved, on servers that do not rename over it
        self._was_reset = False  # its data connection, though the server said 226
        self._failed = False  # a 226 has been false before
        self._looked = False  # whether all had arrived was asked, after the 226 did not come
        self._told_accepted = False
        # Of the final name:
        self._touched = False  # what lies there may be ours
        self._in_place = False  # it is written to directly
        self._base: Entry | None = None
        self._check = True
        self._seen = Seen(None)  # at `_seen_at`
        self._seen_at = float("-inf")

    def expect(self, base: Entry | None, *, check: bool) -> None:
        """What is to be found under the final name; without `check`, whatever it is."""
        self._base = base
        self._check = check

    def goes_on_after(self, error: errors.NetworkError, moved: int) -> bool:
        """Whether another round is worth it, when the pool has given up.

        It is when this one brought the file a good piece on its way (`moved`: where it was before);
        and once, to look, when everything was sent and the server is slow to say that it has it.
        """
        if isinstance(error, errors.DeadlineExceeded):
            late = self._size is not None and not self._looked
            self._looked = self._looked or late
            return late
        lost = isinstance(error, (errors.ConnectionLost, errors.DataConnectionFailed))
        return lost and self.handed - moved >= WORTH_RESUMING

    def is_worth_keeping(self) -> bool:
        """Whether a later call with the same content can save anything by going on from here."""
        return self.handed >= WORTH_RESUMING or self._renaming

    def run(self, session: Session) -> Entry:
        """One attempt, on from where the last one broke off."""
        self._uploads.tidy(session)
        try:
            try:
                return self._attempt(session)
            except errors.DataMismatch as error:
                log.warning("sending it again: %s", error)
                self._begin_anew(session)
                self._failed = True
                return self._attempt(session)
        except errors.NetworkError:
            raise
        except errors.DataMismatch:
            self._uploads.discard(session, self.temporary)
            if self._touched and not self._in_place:  # torn, and nobody's
                session.command(f"DELE {self._target}")
            raise
        except _OursAlready as found:
            log.info("%s is there already", self._target)
            self._uploads.discard(session, self.temporary)
            return self._settle(session, found.size)
        except BaseException:
            self._put_back(session)
            self._uploads.discard(session, self.temporary)
            raise

    def _attempt(self, session: Session) -> Entry:
        if self._in_place or self._uploads.writes_in_place(self._folder):
            return self._write_in_place(session)
        begin = 0
        if self._size is not None or self.handed >= WORTH_RESUMING:
            begin, entry = self._look_back(session)
            if entry:
                return entry
        elif self.handed:
            self._begin_anew(session)
        if not self._verified:
            try:
                self._send(session, begin)
            except _TakesNoTemporary as refused:
                log.info("no temporary file beside %s: %s", self._target, refused)
                entry = self._write_in_place(session)
                self._uploads.must_write_in_place(self._folder)
                return entry
        return self._place(session)

    def _begin_anew(self, session: Session) -> None:
        """From the start, under a new name: an old session may still write to the old one."""
        self._uploads.discard(session, self.temporary)
        self.temporary = self._uploads.temporary(self._target)
        self.handed, self._size, self._renaming = 0, None, False
        self._verified = self._compared = False

    # Sending.

    def _look_back(self, session: Session) -> tuple[int, Entry | None]:
        """Where to go on after a broken attempt: how much of the temporary file is there.

        An entry instead when all was done, and only the reply to the rename was lost.
        """
        reply, *rest = session.exchange([f"SIZE {self.temporary}", *self._questions()])
        there, seen = size_in(reply), seen_in(session, rest)
        if self._renaming and there is None:
            self._touched = True  # the temporary name is gone: it was renamed
            if self._size is not None and seen.size == self._size:
                return 0, self._settle(session, self._size)
        self._expect_base(session, seen)
        if there is not None and there == self._size:
            self._verified = True
        elif there and there <= self.handed and self._keeps_head(session):
            log.info("%s: going on at byte %d", self._target, there)
            self._size = None
            return there, None
        else:
            self._begin_anew(session)
        return 0, None

    def _keeps_head(self, session: Session) -> bool:
        return self._uploads.restart(session, self._target) is not Restart.NOTHING

    def _send(self, session: Session, begin: int) -> None:
        before = [] if self._looked_lately() else self._questions()
        ahead = None if begin else self._small_content()
        try:
            upload = session.upload(self.temporary, begin, before=before, ahead=ahead)
        except (errors.Refused, errors.NotSupported) as refusal:
            if not begin:
                self.handed = 0  # also of what had left ahead of the refusal
                raise _TakesNoTemporary(refusal) from refusal
            self._profile.restart = Restart.NOTHING
            session.drop()  # the REST may wait for the next transfer (pyftpdlib)
            raise errors.ConnectionLost(f"the server does not go on: {refusal}") from refusal
        with upload:
            if before:
                self._expect_base(session, seen_in(session, upload.before), upload)
            # What was sent already is looked at once more: it may have been written over.
            self._size = self._pump(upload, len(ahead) if ahead and upload.complete else begin)
            upload.finish()
        self._was_reset = upload.was_reset
        if not self._profile.times_seen:
            self._learn_clock(session)

    def _small_content(self) -> bytes | None:
        """All of it, where it is that small, and nobody writes any more."""
        size = self._content.whole()
        if size is None or size > SMALL or self._content.ready(0) != size:
            return None
        self.handed = size
        return local_bytes(self._content, 0, size)

    def _pump(self, upload: Upload, position: int) -> int:
        """Send what there is from `position` on; where it ended."""
        fd, begin = self._content.fileno(), position
        while (end := self._content.ready(position)) > position:
            count = min(PIECE, end - position)
            self.handed = max(self.handed, position + count)
            upload.send_file(fd, position, count)
            position += count
            if position - begin >= TAKEN and not self._told_accepted:
                self._tell_accepted(upload)
        return position

    def _tell_accepted(self, upload: Upload) -> None:
        """That a folder takes a temporary file tells nothing of a file that is there already: in a
        folder with the sticky bit, only its owner may replace it."""
        new = self._in_place or self._base is None
        if new and upload.is_unopposed():
            self._told_accepted = True
            self._content.accepted()

    # What others did.

    def _looked_lately(self) -> bool:
        return not self._check or time.monotonic() - self._seen_at < RECHECK_AFTER

    def _expect_base(self, session: Session, seen: Seen, upload: Upload | None = None) -> None:
        """Raises Conflict when the file under the final name is not what it should be.

        `upload` is ended first, as the session is needed.
        """
        self._seen, self._seen_at = seen, time.monotonic()
        if self._touched or not self._check or not seen.is_other_than(self._base, self._profile):
            return
        if upload:
            upload.close()
        ours = self._count_ours(session, seen) if session.alive else None
        if ours is None:
            raise self._conflict(seen)
        if self._content.ready(ours) == ours:
            raise _OursAlready(ours)
        # A server that said 226 to a part of it: all that lies there is in what is sent now.
        self._touched = True
        raise errors.DataMismatch(f"an earlier upload left {ours} bytes of {self._target}")

    def _count_ours(self, session: Session, seen: Seen) -> int | None:
        """How many bytes lie there, if they are the beginning of this very content, renamed into
        place by a mount that was killed before it could note it, or measure it: told by its time,
        and then by comparing every byte. None: they are somebody else's."""
        mtime, _ = self._content.attributes()
        if seen.size is None or seen.mtime is None or seen.mtime != mtime:
            return None
        try:
            with session.download(self._target) as download:
                position = 0
                while theirs := download.read(PIECE):
                    if self._local(position, len(theirs)) != theirs:
                        return None
                    position += len(theirs)
        except (errors.Refused, errors.NotSupported):
            return None
        return position

    def _local(self, offset: int, count: int) -> bytes:
        """The content's bytes; fewer where it ends."""
        known = offset
        while known < offset + count and (end := self._content.ready(known)) > known:
            known = end
        count = min(known - offset, count)
        return local_bytes(self._content, offset, count)

    # Into place.

    def _place(self, session: Session) -> Entry:
        size = self._size
        if size is None:
            raise AssertionError("placed before all of it was sent")
        doubts = self._was_reset or self._failed or not self._looked_lately()
        # A server refuses to sum up nothing, and the size says it all.
        compares = bool(size) and not self._compared and self._uploads.compares_content
        if compares or (not self._verified and (doubts or size > SMALL)):
            self._verify(session, size, self._profile.digest_command() if compares else "")
        # sendfile(2) hands on the kernel's pages: what was written over while they waited in a
        # socket arrived as a mixture. The server has them all by now, so this is the last word.
        self._content.ready(size)
        attributes = _Attributes(self._profile, self._content)
        self._renaming = True
        *replies, first, second, final, left = session.exchange(
            [
                *attributes.lines(self.temporary),
                f"RNFR {self.temporary}",
                f"RNTO {self._target}",
                f"SIZE {self._target}",
                f"SIZE {self.temporary}",
            ],
            arm=True,
        )
        why = _why_not_renamed(first, second, left)
        if why:
            placed = self._place_around(session, why)
            if placed is None:
                return self._write_in_place(session)
            final = placed
        self._touched = True
        self._check_final(session, final, size)
        self._uploads.end(self.temporary)
        if self._aside:
            self._delete_aside(session)
        return self._entry(session, size, *attributes.learn(session, replies, self._target))

    def _verify(self, session: Session, size: int, command: str) -> None:
        """Before it gets its name: whether the server has all of it, and by `command` that it is
        the same; and once more what lies under the name."""
        lines = [f"SIZE {self.temporary}", *self._questions()]
        if command:
            lines.append(digest.line(command, self.temporary))
        extra = size / digest.SLOWEST if command else 0.0
        reply, *rest = session.exchange(lines, extra)
        if self._was_reset and size_in(reply) not in (None, size):
            raise errors.DataConnectionFailed("226, but the data connection was reset")
        self._check_size(reply, size)
        self._verified = True
        told = rest.pop() if command else None
        self._expect_base(session, seen_in(session, rest))
        if told is None:
            return
        if self._profile.saw_digest(command, told.code):
            theirs = self._uploads.ask_digest(session, self.temporary, size)
        else:
            theirs = digest.told_in(command, self.temporary, told)
        self._compare(size, theirs)
        self._compared = True

    def _learn_clock(self, session: Session) -> None:
        """What the server shows for a file that was written right now: a round trip, once per
        mount, for the zone of its times."""
        seen = seen_in(session, session.exchange(questions(self._profile, self.temporary)))
        self._profile.saw_clock(seen.mtime, time.time())

    def _place_around(self, session: Session, why: str) -> Reply | None:
        """For servers that do not rename over a file: it is moved aside first, and back if the new
        one is not taken then either. The reply to SIZE of the final name; None: not renamed."""
        if self._seen.there is None:
            self._seen = self._look(session)
        if not self._seen.there or self._seen.directory or self._seen.size is None:
            log.info("%s cannot be renamed into place: %s", self._target, why)
            return None
        self._aside = beside(self._target, f"{lister.HIDDEN_PREFIX}{secrets.token_hex(8)}.old")
        _, moved, first, second, final, left = session.exchange(
            [
                f"RNFR {self._target}",
                f"RNTO {self._aside}",
                f"RNFR {self.temporary}",
                f"RNTO {self._target}",
                f"SIZE {self._target}",
                f"SIZE {self.temporary}",
            ]
        )
        still = _why_not_renamed(first, second, left)
        if not still:
            log.info("this server does not rename over a file: %s was moved aside", self._target)
            return final
        log.info("%s cannot be renamed into place: %s; then: %s", self._target, why, still)
        if moved.ok:
            self._put_back(session)
        self._aside = ""
        return None

    def _put_back(self, session: Session) -> None:
        """Give the old content its name again, after a replacement that failed half-way."""
        if self._aside:
            _move_back(session, self._aside, self._target)

    def _delete_aside(self, session: Session) -> None:
        reply = session.command(f"DELE {self._aside}")
        if not reply.ok:
            # The new file is in its place: what the caller asked for is done.
            log.warning("the old content is left as %s: %s", self._aside, reply.code)

    def _write_in_place(self, session: Session) -> Entry:
        """Where the folder takes no new names, or no renames: others may see a part of the file."""
        if not self._touched and not self._looked_lately():
            self._expect_base(session, self._look(session))
        if (
            not self._in_place
            and self.handed
            and not self._uploads.discard(session, self.temporary)
        ):
            # A folder to drop files into: what went wrong once must not leave a file every time.
            log.warning(
                "%s cannot be deleted again; the folder is written to directly from now on",
                self.temporary,
            )
            self._uploads.must_write_in_place(self._folder)
        self._in_place = True
        with session.upload(self._target) as upload:
            self._touched = True
            size = self._pump(upload, 0)
            upload.finish()
        if size and self._uploads.compares_content:
            self._compare(size, self._uploads.ask_digest(session, self._target, size))
        return self._settle(session, size)


class _TakesNoTemporary(Exception):
    """The folder refused a new name."""


class _OursAlready(Exception):
    """The content is under its final name already, all of it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _why_not_renamed(first: Reply, second: Reply, left: Reply) -> str:
    """Why a file still has its old name, by the replies to RNFR, RNTO and SIZE of the old name."""
    for reply in (first, second):
        if not reply.ok:
            return f"{reply.code} {errors.printable(reply.text)}"
    if size_in(left) is not None:
        return f"{second.code}, but it was not renamed"
    return ""


class _Patch(_Sender):
    """Some ranges of a file, in place; `run` is one attempt."""

    def __init__(
        self,
        uploads: Uploads,
        target: str,
        content: Content,
        ranges: Sequence[tuple[int, int]],
        base: Entry,
    ) -> None:
        super().__init__(uploads, target, content)
        if base.size is None or not ranges or not 0 < ranges[0][0] <= base.size:
            # No command writes at the start of a file and keeps the rest; and a hole behind the end
            # is refused by proftpd and pyftpdlib.
            raise errors.NotSupported("not a change that FTP can carry")
        self._base = base
        self._base_size = base.size
        self._size = max(base.size, ranges[-1][1])
        self._left = list(ranges)  # what the server has not confirmed
        self._begun = False
        self._refuse_if_not_worth_it()

    def _refuse_if_not_worth_it(self) -> None:
        inside = [r for r in self._left if r[0] < self._base_size]
        pieces = len(inside)
        if inside and self._profile.restart is None:
            pieces += PROBE_PIECES
        changed = sum(end - start for start, end in self._left)
        changed += sum(end - start for start, end in inside)  # read back
        if changed + pieces * PIECE_COST >= self._size:
            raise errors.NotSupported("the whole file costs less")

    def run(self, session: Session) -> Entry:
        """One attempt: the pieces that are not confirmed yet."""
        self._uploads.tidy(session)
        attributes: _Attributes | None = None
        replies: Sequence[Reply] = ()
        while self._left:
            start, end = self._left[0]
            for last in (False, True):
                sent = self._send(session, start, end)
                # Of an append the size tells all but whether it is the same.
                if start == self._base_size and not self._uploads.verify_content:
                    break
                # What settles it all costs no round trip with the last thing that is asked.
                if len(self._left) == 1:
                    attributes = _Attributes(self._profile, self._content)
                before = self._settling(attributes) if attributes else []
                there, replies = self._read_back(session, start, end, before)
                if there == sent:
                    break
                if last:
                    raise errors.DataMismatch(f"{self._target} has not what was written into it")
                log.warning("sending bytes %d to %d of %s again", start, end, self._target)
            del self._left[0]
        if attributes is None:
            return self._settle(session, self._size)
        return self._settled(session, self._size, attributes, replies)

    def _read_back(
        self, session: Session, start: int, end: int, before: Sequence[str]
    ) -> tuple[bytes, Sequence[Reply]]:
        """The digest of what the server has, and the replies to what is asked `before`.

        Inside of a file, its size does not tell whether a 226 was true. Nor does the end of what
        was sent: a program that writes over a stretch of a file may leave its end as it was.
        """
        digest = hashlib.blake2b()
        with session.download(self._target, start, before=before) as download:
            while start < end and (piece := download.read(min(PIECE, end - start))):
                digest.update(piece)
                start += len(piece)
        return digest.digest(), download.replies

    def _send(self, session: Session, start: int, end: int) -> bytes:
        """Send one piece; its digest."""
        # An append that was not interrupted needs no REST, and no knowledge of it.
        append = start == self._base_size and not self._begun
        if not append:
            self._need_restart(session, end)
        before = [] if self._begun else self._questions()
        if before and not append and self._profile.restart is not Restart.ALL:
            # STOR itself cuts the file off here (pure-ftpd): nothing may be sent before the answer.
            self._expect_base(session, self._look(session))
            before = []
        try:
            upload = session.upload(
                self._target, 0 if append else start, append=append, before=before
            )
        except errors.Refused:
            if before:
                self._find_out(session)
            if not append:
                session.drop()  # the REST may wait for the next transfer (pyftpdlib)
            raise
        with upload:
            if before:
                self._expect_base(session, seen_in(session, upload.before), upload)
            self._begun = True
            sent = self._pump(upload, start, end)
            upload.finish()
        if upload.was_reset:
            raise errors.DataConnectionFailed("226, but the data connection was reset")
        return sent

    def _need_restart(self, session: Session, end: int) -> None:
        restart = self._uploads.restart(session, self._target)
        last = len(self._left) == 1 and end >= self._size
        if restart is Restart.ALL or (restart is Restart.HEAD and last):
            return
        if self._begun:
            raise errors.DataMismatch("an append broke off, and the server cannot go on with it")
        raise errors.NotSupported("the server does not keep what lies around a change")

    def _expect_base(self, session: Session, seen: Seen, upload: Upload | None = None) -> None:
        gone = seen.there is False
        if not gone and not seen.is_other_than(self._base, self._profile):
            return
        if upload:
            upload.close()
        if not gone:
            raise self._conflict(seen)
        if upload and session.alive:
            self._find_out(session)
        raise errors.NotSupported("the file is not there any more")

    def _find_out(self, session: Session) -> None:
        """Whether it is there. APPE, and on proftpd even a STOR that it refuses because of its
        REST, have made an empty file where there was none: that is taken away again."""
        seen = self._look(session)
        if seen.size == 0 and self._base_size:
            session.command(f"DELE {self._target}")
            seen = Seen(False)
        self._expect_base(session, seen)

    def _pump(self, upload: Upload, position: int, end: int) -> bytes:
        """Not by sendfile(2): what is sent has to be seen, as the file may change meanwhile."""
        digest = hashlib.blake2b()
        while position < end:
            count = min(PIECE, end - position, self._content.ready(position) - position)
            if count <= 0:
                raise errors.DataMismatch("the content is shorter than what is to be sent of it")
            piece = local_bytes(self._content, position, count)
            digest.update(piece)
            upload.write(piece)
            position += count
        return digest.digest()


def local_bytes(content: Content, offset: int, count: int) -> bytes:
    """Zeros where the local file has no more."""
    return os.pread(content.fileno(), count, offset).ljust(count, b"\0")


def rename_over(session: Session, source: str, target: str, *, replace: bool) -> None:
    """RNFR and RNTO in one round trip.

    With `replace` there is a file at `target`, and where the server refuses to rename over it, the
    old file is moved aside first, and back if the second try fails: at no time is there neither.
    """
    try:
        _rename(session, source, target)
    except errors.Refused as refusal:
        if not replace:
            raise
        aside = beside(target, f"{lister.HIDDEN_PREFIX}{secrets.token_hex(8)}.old")
        try:
            _rename(session, target, aside)
        except errors.Refused:
            raise refusal from None
        try:
            _rename(session, source, target)
        except errors.FtpfsError:
            _move_back(session, aside, target)
            raise
        log.info("this server does not rename over a file: %s was moved aside", target)
        gone = session.command(f"DELE {aside}")
        if not gone.ok:
            # The new file is in its place: what the caller asked for is done.
            log.warning("the old content is left on the server as %s: %s", aside, gone.code)


def _move_back(session: Session, aside: str, target: str) -> None:
    """Give the old content its name again; where that cannot be done, the log tells where it is."""
    with contextlib.suppress(errors.FtpfsError):
        if session.alive:
            _rename(session, aside, target)
            return
    log.error("the old content of %s is on the server as %s", target, aside)


def _rename(session: Session, source: str, target: str) -> None:
    first, second = session.exchange([f"RNFR {source}", f"RNTO {target}"])
    first.check()
    second.check()


def beside(path: str, name: str) -> str:
    """The path of `name` in the folder of `path`."""
    return f"{posixpath.dirname(path).rstrip('/')}/{name}"


def chmod_line(profile: Profile, where: str, mode: int) -> str:
    """MFF where there is one: proftpd reads SITE CHMOD as words, and so takes "a" for "a "."""
    bits = mode & 0o7777
    if profile.mff_mode:
        return f"MFF UNIX.mode={bits:04o}; {where}"
    return f"SITE CHMOD {bits:03o} {where}"
