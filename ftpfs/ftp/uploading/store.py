"""Store: sends one file, whole under a temporary name, and checks and renames it.

Round trips of a small file, on a session with an open data connection: one for STOR together with
the content, and one for everything that follows the 226. The last exchange also asks for the port
for the next file. A file of more than `SMALL_BYTES` costs one round trip more, because it is
verified *before* it gets its name; a small one is verified in the exchange that renames it. With
`verify=content` every file is verified before, and by its checksum, too: a broken file never gets a
name.

A connection may break at any byte and at any command, and the server may have done more than this
side knows. So each attempt begins from the `Stage` that the last one had reached, and looks what
the server has.

Threading: the thread of the upload only.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp import digest
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.profile import Restart
from ftpfs.ftp.uploading.aside import OldFile
from ftpfs.ftp.uploading.checks import (
    Seen,
    check_not_busy,
    check_size,
    is_gone,
    questions,
    seen_in,
    size_in,
    surely_not_renamed,
)
from ftpfs.ftp.uploading.context import Context
from ftpfs.ftp.uploading.expectation import AlreadyThere, Expectation
from ftpfs.ftp.uploading.in_place import InPlace
from ftpfs.ftp.uploading.private import private_mode, upload_privately
from ftpfs.ftp.uploading.probes import learn_times
from ftpfs.ftp.uploading.remains import Remains
from ftpfs.ftp.uploading.sender import SMALL_BYTES, Sender
from ftpfs.ftp.uploading.target import Target
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Content

log = logging.getLogger(__name__)

# A broken upload with fewer bytes is sent again rather than resumed: to find out how many arrived
# costs a round trip, and the probe for REST (once per server) some ten.
MIN_RESUMED_BYTES = 1 << 20

_UNKNOWN_COMMAND = (500, 502, 504)  # 501 is about the argument


# How far the temporary file has come. A mismatch leads from any stage back to NEW, under another
# name: an old session may still write to the old one.
#
#     NEW ──> PARTIAL ──> SENT ──────────────────────> CHECKED ──> RENAMING ──> (done)
#      │         ^         │ └──> DOUBTED ──> ARRIVED ──^             │
#      │         └─────────┘ broken, and less has arrived             │
#      └───────────────────> IN_PLACE <───────────────────────────────┘ refused
#
# SENT leads to ARRIVED, too: when the size is asked for before the rename, or after a break.
class Stage(enum.IntEnum):
    NEW = enum.auto()  # there is no temporary file
    PARTIAL = enum.auto()  # it may exist: empty, or with a part of the content
    SENT = enum.auto()  # all bytes were handed over; the 226 may have come
    DOUBTED = enum.auto()  # the server said 226, but the data connection was reset
    ARRIVED = enum.auto()  # the server told the right size
    CHECKED = enum.auto()  # all checks before the rename have passed
    RENAMING = enum.auto()  # the server may have renamed it
    IN_PLACE = enum.auto()  # no temporary file: the content goes to the final name


class Store:
    """One upload of a whole file, in attempts. Each `run` is one of them.

    `temporary`: the current hidden name.
    """

    def __init__(self, context: Context, path: str, content: Content, aside: str) -> None:
        # Dependencies and constants:
        self._context = context
        self._profile = context.profile
        self._content = content
        self._target = Target(context, path, content)
        self._expectation = Expectation(self._target)
        self._sender = Sender(content)
        self._old = OldFile(self._target, self._expectation, aside)
        self._in_place = InPlace(self._target, self._expectation, self._sender)
        # Progress, kept from attempt to attempt:
        self.temporary = context.temporaries.new(path)
        self._stage = Stage.NEW
        self._size = 0  # the content's size; known from SENT on
        self._saw_false_226 = False
        self._looked_after_silence = False  # see `goes_on_after`
        self._arrived = 0  # bytes, when the upload was last resumed
        self._remains: Remains | None = None  # of an upload before this one

    @property
    def aside(self) -> str:
        """See `OldFile.aside`."""
        return self._old.aside

    @property
    def handed(self) -> int:
        """The number of bytes that the temporary file can have at most."""
        return self._sender.handed

    def expect(self, base: Entry | None, *, check: bool) -> None:
        """Expect `base` under the final name; without `check`, anything."""
        self._expectation.expect(base, check=check)

    @property
    def remains(self) -> Remains | None:
        """The file that may have the final name although the reply was lost. None: there is none.

        If the server was not reached since `follow`, that is still the file before this one.
        """
        placed = self._expectation.placed
        if self._stage is Stage.RENAMING and placed:
            return Remains(self.temporary, placed)
        return self._remains

    def follow(self, remains: Remains) -> None:
        """Look first what an upload of other content has left, which was given up."""
        self._remains = remains

    @property
    def progress(self) -> int:
        """Bytes handed over, plus those that the server has: each may grow alone. Megabytes wait in
        the buffers of sockets, and are lost, and handed over again, after a break."""
        return self.handed + self._arrived

    def goes_on_after(self, error: errors.NetworkError, progress: int) -> bool:
        """Whether to resume after the pool has given up.

        An upload resumes if the last round made progress (`progress`: before that round). It
        resumes once more, to look, if all bytes were sent and the server does not answer.
        """
        if isinstance(error, errors.DeadlineExceeded):
            all_sent = Stage.SENT <= self._stage <= Stage.RENAMING
            looks = all_sent and not self._looked_after_silence
            self._looked_after_silence |= looks
            return looks
        lost = isinstance(error, (errors.ConnectionLost, errors.DataConnectionFailed))
        return lost and self.progress - progress >= MIN_RESUMED_BYTES

    def is_worth_keeping(self) -> bool:
        """Whether a later call with the same content saves anything by resuming."""
        return self.handed >= MIN_RESUMED_BYTES or self.remains is not None or bool(self.aside)

    def run(self, session: Session) -> Entry:
        """One attempt, from where the last one broke off."""
        if self._remains is not None:
            self._remains.look(session, self._target)
            self._remains = None
        self._context.temporaries.delete_left(session)
        try:
            try:
                entry = self._attempt(session)
            except errors.DataMismatch as error:
                log.warning("sending it again: %s", error)
                self._start_over(session)
                self._saw_false_226 = True
                entry = self._attempt(session)
            self._old.delete(session)
        except (errors.NetworkError, errors.Busy):
            raise
        except errors.DataMismatch:
            self._delete_temporary(session)
            # torn, and no work of another client
            if self._expectation.ours and self._stage is not Stage.IN_PLACE:
                session.command(f"DELE {self._target.path}")
            raise
        except AlreadyThere as found:
            log.info("%s is there already", self._target.path)
            self._delete_temporary(session)
            return self._target.finish(session, found.size)
        except BaseException:
            self._old.put_back(session)
            self._delete_temporary(session)
            raise
        else:
            return entry

    def _attempt(self, session: Session) -> Entry:
        in_place = self._context.folders.writes_in_place(self._target.folder)
        if in_place or self._stage is Stage.IN_PLACE:
            return self._write_in_place(session)
        begin = 0
        if self._stage >= Stage.SENT or self.handed >= MIN_RESUMED_BYTES:
            begin, entry = self._look_back(session)
            if entry:
                return entry
        elif self._stage is Stage.PARTIAL:
            self._start_over(session)
        if self._stage < Stage.SENT:
            try:
                upload = self._begin(session, begin)
            except _TakesNoTemporary as refused:
                log.info("no temporary file beside %s: %s", self._target.path, refused)
                entry = self._write_in_place(session)
                if not refused.passes:
                    self._context.folders.must_write_in_place(self._target.folder)
                return entry
            with upload:
                # Compare bytes that were sent earlier: a program may have overwritten them.
                position = self._sender.handed if upload.complete else begin
                self._size = self._sender.pump(upload, position, new=self._expectation.is_new)
                self._stage = Stage.SENT
                upload.finish()
            if upload.was_reset:
                self._stage = Stage.DOUBTED
            tries = self._profile.setting.time_grain is None and self._target.sets_time
            if tries or not self._profile.times.zone_seen:
                self._learn_times(session, tries)
        return self._place(session)

    def _delete_temporary(self, session: Session) -> bool:
        return self._context.temporaries.delete(session, self.temporary)

    def _start_over(self, session: Session) -> None:
        """Begin again at the first byte, under a new name."""
        self._sender.handed = 0
        if self._stage is Stage.IN_PLACE:
            return
        self._delete_temporary(session)
        self._take_new_name()

    def _take_new_name(self) -> None:
        self.temporary = self._context.temporaries.new(self._target.path)
        self._stage = Stage.NEW

    # Sending.

    def _look_back(self, session: Session) -> tuple[int, Entry | None]:
        """The position to resume from after a broken attempt, by the size of the temporary file.

        Returns an entry instead if all was done and only the reply to the rename was lost.
        """
        lines = [f"SIZE {self.temporary}", *self._target.questions()]
        reply, *rest = session.exchange(lines)
        there, seen = size_in(reply), seen_in(session, rest)
        all_sent = self._stage >= Stage.SENT
        if self._stage is Stage.RENAMING and is_gone(reply):
            self._expectation.ours = True  # the temporary name is gone: it was renamed
            if seen.size == self._size:
                return 0, self._target.finish(session, self._size)
        self._expectation.check(session, seen)
        if there is not None and all_sent and there == self._size:
            self._stage = max(self._stage, Stage.ARRIVED)
        elif there and there <= self.handed and self._keeps_head(session):
            log.info("%s: going on at byte %d", self._target.path, there)
            self._stage, self._arrived = Stage.PARTIAL, there
            return there, None
        else:
            self._start_over(session)
        return 0, None

    def _keeps_head(self, session: Session) -> bool:
        restart = self._context.probes.restart(session, self._target.path)
        return restart is not Restart.NOTHING

    def _begin(self, session: Session, begin: int) -> Upload:
        """Begin to send to the temporary file, from that byte on. A small content may be sent."""
        before = [] if self._expectation.is_fresh else self._target.questions()
        mode = None if begin else private_mode(self._target)
        if mode is not None:
            self._make_empty(session, before)
            before = []
        ahead = None if begin else self._sender.small_content()
        if ahead:
            self._stage = Stage.PARTIAL
        try:
            if mode is None:
                upload = session.upload(self.temporary, begin, before=before, ahead=ahead)
            else:
                upload = upload_privately(session, self._target, self.temporary, mode, ahead)
        except (errors.Refused, errors.NotSupported) as refusal:
            if begin:
                self._profile.contents.cannot_restart()
                session.drop()  # the REST may wait for the next transfer (pyftpdlib)
                raise errors.ConnectionLost(f"the server does not go on: {refusal}") from refusal
            self._sender.handed = 0  # nor do the bytes count that were sent before the refusal
            if mode is not None:
                return self._begin_openly(session, refusal)
            self._stage = Stage.NEW
            raise _TakesNoTemporary(refusal) from refusal
        if before:
            self._expectation.check_ahead(session, upload)
        self._stage = Stage.PARTIAL
        return upload

    def _make_empty(self, session: Session, before: Sequence[str]) -> None:
        """Make the temporary file without content (see `private`)."""
        self._stage = Stage.PARTIAL
        try:
            upload = session.upload(self.temporary, before=before, ahead=b"")
        except (errors.Refused, errors.NotSupported) as refusal:
            self._stage = Stage.NEW
            raise _TakesNoTemporary(refusal) from refusal
        with upload:
            if before:
                self._expectation.check_ahead(session, upload)
            upload.finish()

    def _begin_openly(self, session: Session, refusal: Exception) -> Upload:
        """Begin without the private step: the server does not let a file be written over."""
        self._context.folders.cannot_keep_private(self._target.folder, refusal)
        if not self._delete_temporary(session):
            self._stage = Stage.NEW
            self._context.folders.takes_each_name_once(self._target.folder)
            raise _TakesNoTemporary(refusal) from refusal
        self._take_new_name()
        return self._begin(session, 0)

    def _learn_times(self, session: Session, tries: bool) -> None:
        """Look how the server shows a file that was just written.

        A round trip, once per mount. `tries` also what the server keeps of a time that is set.
        """
        profile, temporaries = self._profile, self._context.temporaries
        if not tries:
            seen = seen_in(session, session.exchange(questions(profile, self.temporary)))
            shown = None if seen.mtime is None else profile.times.shown_at(seen.mtime)
            profile.times.saw_clock(shown, time.time())
            return
        renamed = temporaries.new(self._target.path)
        try:
            there = learn_times(session, self.temporary, renamed)
        except BaseException:
            temporaries.delete_later(renamed)
            raise
        if there:
            temporaries.forget(self.temporary)
            self.temporary = renamed
        else:
            temporaries.forget(renamed)

    # Into place.

    def _place(self, session: Session) -> Entry:
        """Check the temporary file, set its attributes, and rename it."""
        size, path = self._size, self._target.path
        if self._stage < Stage.CHECKED:
            self._check(session)
        # sendfile(2) hands on the kernel's pages. If a program overwrote bytes that were waiting in
        # a socket, a mixture arrived. By now the server has them all, so this check is final.
        self._content.ready(size)
        attributes = self._target.attributes()
        self._expectation.placed = Seen(True, size, attributes.mtime)
        self._stage = Stage.RENAMING
        lines = attributes.lines(self.temporary)
        replies = session.exchange(
            [
                *lines,
                f"RNFR {self.temporary}",
                f"RNTO {path}",
                f"SIZE {path}",
                f"SIZE {self.temporary}",
                *attributes.questions(path),
            ],
            arm=True,
        )
        set_, (first, second, final, left, *answers) = replies[: len(lines)], replies[len(lines) :]
        why = surely_not_renamed(session, first, second, left)
        if why:
            check_not_busy(first, second)
            placed = self._old.make_way(session, self.temporary, why)
            if placed is None:
                return self._give_up_renaming(session)
            final, answers = placed, []
        self._expectation.ours = True
        if (torn := size_in(final)) not in (None, size):
            self._context.torn.note(path, Seen(True, torn, attributes.mtime))
        self._target.check(session, final, size)
        self._context.temporaries.forget(self.temporary)
        return self._target.entry(size, *attributes.learn(session, set_, answers, path, ours=True))

    def _check(self, session: Session) -> None:
        """Verify the temporary file now, if the check after the rename is not enough."""
        doubts = (
            self._stage is Stage.DOUBTED or self._saw_false_226 or not self._expectation.is_fresh
        )
        # A server refuses the checksum of an empty file, and the size is enough.
        compares = self._size > 0 and self._context.checksums.are_compared
        known = self._stage is Stage.ARRIVED
        if compares or (not known and (doubts or self._size > SMALL_BYTES)):
            self._verify(session, self._profile.contents.digest_command() if compares else "")
        self._stage = Stage.CHECKED

    def _verify(self, session: Session, command: str) -> None:
        """Compare the size, and the checksum that `command` asks for.

        The same exchange looks at the final name once more.
        """
        size, checksums = self._size, self._context.checksums
        lines = [f"SIZE {self.temporary}", *self._target.questions()]
        if command:
            lines.append(digest.line(command, self.temporary))
        extra = size / digest.SLOWEST_BYTES_A_SECOND if command else 0.0
        reply, *rest = session.exchange(lines, extra)
        if self._stage is Stage.DOUBTED and size_in(reply) not in (None, size):
            raise errors.DataConnectionFailed("226, but the data connection was reset")
        check_size(reply, size, self._target.path)
        self._stage = Stage.ARRIVED
        told = rest.pop() if command else None
        self._expectation.check(session, seen_in(session, rest))
        if told is None:
            return
        if self._profile.contents.saw_digest(command, told.code):
            theirs = checksums.ask(session, self.temporary, size)
        else:
            theirs = digest.told_in(command, self.temporary, told)
        checksums.compare(self._target.path, self._content, size, theirs)

    # In place.

    def _give_up_renaming(self, session: Session) -> Entry:
        """Write in place after a refused rename.

        Unless the refusal concerns this name alone, the other files of the folder are written in
        place, too.
        """
        self._stage = Stage.CHECKED
        about_this_name = self._renames_here(session)
        entry = self._write_in_place(session)
        if not about_this_name:
            self._context.folders.must_write_in_place(self._target.folder)
        return entry

    def _renames_here(self, session: Session) -> bool:
        """Whether the server renames the temporary file to another hidden name.

        If so, the refusal was about the final name alone. If not, it is about the folder, or about
        a server without these commands.
        """
        temporaries = self._context.temporaries
        other = temporaries.new(self._target.path)
        try:
            first, second, left = session.exchange(
                [f"RNFR {self.temporary}", f"RNTO {other}", f"SIZE {self.temporary}"]
            )
        except BaseException:
            temporaries.delete_later(other)
            raise
        if not surely_not_renamed(session, first, second, left):
            temporaries.forget(self.temporary)
            self.temporary = other
            return True
        temporaries.forget(other)
        if first.code in _UNKNOWN_COMMAND or second.code in _UNKNOWN_COMMAND:
            self._profile.names.renames = False
            log.warning("this server does not rename: files are written in place")
        return False

    def _write_in_place(self, session: Session) -> Entry:
        """Write under the final name, if the folder refuses new names or renames.

        Other clients may see a part of the file.
        """
        if not self._expectation.ours and not self._expectation.is_fresh:
            self._expectation.check(session, self._target.look(session))
        may_be_there = Stage.NEW < self._stage < Stage.IN_PLACE
        if may_be_there and not self._delete_temporary(session):
            # In a drop folder, each refused upload must not leave another file.
            log.warning(
                "%s cannot be deleted again; the folder is written to directly from now on",
                self.temporary,
            )
            self._context.folders.takes_each_name_once(self._target.folder)
        self._stage, self._expectation.placed = Stage.IN_PLACE, None
        return self._in_place.run(session)


class _TakesNoTemporary(Exception):
    """The folder refused a new name. `passes`: only for now (4xx), so the next file tries again."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__(refusal)
        self.passes = isinstance(refusal, errors.Refused) and refusal.code < 500
