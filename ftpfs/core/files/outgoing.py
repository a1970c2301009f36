"""One open file's way out: how an upload of it runs.

Owns: which way an upload takes, what it captures, and what follows here when it arrived or broke
off. Does not own when a file is sent and what is done about a failure (`writing.delivery`,
`writing.queue`), nor how the bytes travel (`model.remote`).

    leftovers ──> append ──> patch ──> hydrate, whole file ──> arrived: tree, state, row
                     └──────────┴── the server cannot: the next way

An upload begins with what an earlier one has left, if that broke off in place. Then each way that
fits is tried, the cheapest first. Each captures what it sends, so that later writes belong to the
next upload. A streamed upload begins before its content is due, and captures when it is.

Threading: one thread at a time (`OpenFile.exclusive`); the methods of `capture.Sender` are called
from it. The server is called with no lock held.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.files.content import SpooledContent
from ftpfs.core.files.leftovers import Leftovers
from ftpfs.core.files.lending import Lending
from ftpfs.core.files.row import Row
from ftpfs.core.files.server_file import MOST_SAMPLES, version_of
from ftpfs.core.files.state import FileState
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.backoff import NO_ROOM
from ftpfs.core.writing.capture import Attributes, Capture, Way
from ftpfs.core.writing.samples import samples_of
from ftpfs.core.writing.spool import Spool, SpoolFile
from ftpfs.core.writing.sums import SentSums
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# Content that was written over so many times while it was sent is copied, and the copy is sent.
OVERTAKEN = 2


class _Attempt(NamedTuple):
    """One way to bring the content to the server."""

    spooled: SpoolFile
    path: str
    base: Entry | None  # what the server is known to have
    capture: Capture
    send: Callable[[], Entry]  # returns the entry that the server has afterwards


class Outgoing:
    """The uploads of one file."""

    def __init__(
        self,
        state: FileState,
        row: Row,
        content: SpooledContent,
        lending: Lending,
        *,
        remote: Remote,
        known: KnownNames,
        spool: Spool,
    ) -> None:
        """`known` hears of an upload while the file still counts as dirty: it is never neither here
        nor in the tree. It also hears when the server takes an upload that goes on. It is told with
        no lock held."""
        self._state = state
        self._row = row
        self._content = content
        self._lending = lending
        self._leftovers = Leftovers(state, row, content, remote)
        self._remote = remote
        self._known = known
        self._spool = spool
        # Guarded by the state's `changed`:
        self.uploaded_bytes = 0  # of the last upload that succeeded
        self._broken: Capture | None = None  # by the network. The server may have the head of it
        self._overtaken = 0  # uploads, one after the other, that were written over
        # Of the uploading thread:
        self._sums = SentSums()  # of what is sent while the kernel writes it

    def upload(self, *, streamed: bool = False) -> None:
        """Send what was written, with exclusive use of the file. `streamed`: perhaps while it is
        still being written. Raises Superseded, Conflict, and what the server makes of it."""
        with self._state.changed:
            if not (streamed and self._state.is_stream_wanted):
                self._state.check_not_held_locked()
        try:
            for attempt in self._attempts(streamed=streamed):
                try:
                    with attempt.spooled.in_use():
                        entry = attempt.send()
                except BaseException as error:
                    if not self._leaves_next_way(attempt, error):
                        raise
                else:
                    self._arrived(attempt, entry)
                    return
        except BaseException as error:
            with self._state.changed:
                self._note_broken_locked(error)
            raise

    def _attempts(self, *, streamed: bool) -> Iterator[_Attempt]:
        """The ways that fit the content. Each is begun when it is asked for."""
        spooled = self._file_to_send()
        if spooled is not None and self._is_between_contents():
            self._leftovers.resolve(spooled)
            spooled = self._file_to_send()
        if spooled is None:
            return
        if attempt := self._append(spooled):
            yield attempt
        if attempt := self._patch(spooled):
            yield attempt
        self._content.hydrate(spooled)
        yield self._whole(spooled, streamed=streamed)

    def _file_to_send(self) -> SpoolFile | None:
        """The spool file; None: nothing is to be sent."""
        state = self._state
        with state.spool_lock:
            with state.changed:
                # It may be closed by now, and must not get another spool file then.
                if state.progress.is_deleted or not state.progress.is_dirty:
                    return None
            return self._content.file()

    def _is_between_contents(self) -> bool:
        with self._state.changed:
            return bool(self._state.server.patching)

    def _leaves_next_way(self, attempt: _Attempt, error: BaseException) -> bool:
        """Note a failed attempt. Returns whether the server cannot do it, so that the next way is
        to be tried."""
        if not attempt.capture.is_in_place:
            return False
        with self._state.changed:
            # Else the server's file may be between two contents, and is still ours to finish.
            if not may_have_begun(error):
                self._state.server.patching = ()
            if not isinstance(error, errors.NotSupported):
                return False
            self._state.changes.give_back(attempt.capture.unsent_locked())
            self._state.capture = None
        return True

    def _note_broken_locked(self, error: BaseException) -> None:
        """An upload ended by `error`: what it was to send is unsent again."""
        state, capture = self._state, self._state.capture
        if capture is not None:
            state.changes.give_back(capture.unsent_locked())
            begun = capture.is_in_place and capture.captured
            may_be_torn = capture.attributes_given is not None and may_follow_a_part(error)
            if may_be_done(error) or may_be_torn or (begun and may_have_begun(error)):
                state.changes.uncertain.add(capture.trace_locked(state.mtime))
                state.changes.goes_whole |= not capture.is_in_place
        goes_on = isinstance(error, (errors.NetworkError, errors.Busy))
        self._broken = capture if goes_on else None
        state.capture = None
        self._overtaken += isinstance(error, errors.Superseded)

    # The ways.

    def _append(self, spooled: SpoolFile) -> _Attempt | None:
        """Send what was appended, behind what the server has by now. None: there is more to send
        than that."""
        state = self._state
        with state.spool_lock:
            with state.changed:
                span, base, path = state.appended_locked(), state.server.entry, state.path
                if span is None or base is None:
                    return None
                capture = self._begin_locked(spooled, Way.APPEND)
                is_recorded = self._row.is_there_locked()
            samples = samples_of(spooled.read, [span])
            with state.changed:
                state.server.patching, state.changes.is_rewritten = samples, False
            if is_recorded:
                self._row.write()  # after a kill, the next mount looks for what was appended
        send = functools.partial(self._remote.append, path, capture, *span, base=base)
        return _Attempt(spooled, path, base, capture, send)

    def _patch(self, spooled: SpoolFile) -> _Attempt | None:
        """Send only what changed. None: that is not possible, or not worth it."""
        state = self._state
        with state.spool_lock:
            with state.changed:
                path, base, ranges = state.path, state.server.entry, list(state.changes.unsent)
                if base is None or not state.is_patch_locked():
                    return None
                capture = self._begin_locked(spooled, Way.PATCH)
                is_recorded = self._row.is_there_locked()
            samples = samples_of(spooled.read, ranges)
            with state.changed:
                state.server.patching = (*state.server.patching, *samples)[-MOST_SAMPLES:]
                state.changes.is_rewritten = False
            if is_recorded:
                self._row.write()
        send = functools.partial(self._remote.patch, path, capture, ranges, base=base)
        return _Attempt(spooled, path, base, capture, send)

    def _whole(self, spooled: SpoolFile, *, streamed: bool) -> _Attempt:
        """Send all of it."""
        state = self._state
        with state.changed:
            streamed = streamed and state.is_stream_wanted
            is_overtaken = self._overtaken >= OVERTAKEN and not streamed
        capture = self._copied(spooled) if is_overtaken else None
        with state.changed:
            path, base = state.path, state.server.entry
            broken, self._broken = self._broken, None
            if capture is None:
                if broken is not None and not broken.is_whole_locked(
                    spooled, state.progress.writes
                ):
                    broken = None
                if broken is None:
                    self._sums = SentSums(spooled)
                is_fixed = not (streamed and state.is_stream_wanted)
                capture = self._begin_locked(spooled, again=broken, is_fixed=is_fixed)
            state.is_stream_wanted = False
        send = functools.partial(self._remote.store, path, capture, base=base)
        return _Attempt(spooled, path, base, capture, send)

    def _copied(self, spooled: SpoolFile) -> Capture | None:
        """A capture of what there is now, in a copy of its own. None: there is no room for it.
        Writers wait while the copy is made."""
        state = self._state
        with state.spool_lock:
            with state.changed:
                size = state.changes.size
            copy = self._content.copy(spooled, size)
            if copy is None:
                return None
            with state.changed:
                capture = Capture(state.path, spooled, size, state.changed, self, copy=copy)
                return self._begin_locked(spooled, again=capture)

    def _begin_locked(
        self,
        spooled: SpoolFile,
        way: Way = Way.WHOLE,
        *,
        again: Capture | None = None,
        is_fixed: bool = True,
    ) -> Capture:
        """Begin with a capture: with `again`, or a new one. `is_fixed`: it is what there is now,
        and not what there will be when the content is due."""
        state = self._state
        capture = again or Capture(
            state.path, spooled, state.changes.size, state.changed, self, way=way
        )
        state.capture = capture
        capture.is_insistent = self._overtaken >= OVERTAKEN
        if is_fixed:
            state.check_not_held_locked()  # a writer may have come since the upload began
            state.fix_locked(capture)
        if state.progress.is_deleted:
            capture.cancel_locked()
        return capture

    # What a capture asks (`capture.Sender`).

    def attributes_for(self, capture: Capture) -> Attributes:
        state = self._state
        if self._lending.absorb():
            capture.check()  # what was sent may be a mixture
        if not self._sums.still_hold():
            raise errors.Superseded(f"{state.path}: written over while it was sent")
        with state.spool_lock:
            with state.changed:
                given = capture.attributes_given = state.attributes_locked(capture)
                is_stale = self._row.says not in (None, (capture.end, state.mtime or 0))
            if is_stale:
                # After a crash the row has to tell this upload from somebody else's.
                self._row.write()
        return given

    def mode_for(self, capture: Capture) -> int | None:
        with self._state.changed:
            return self._state.attributes_locked(capture)[1]

    def note_accepted(self) -> None:
        with self._state.changed:
            path = self._state.path
        self._known.accepted(path)

    def note_progress(self) -> None:
        self._lending.absorb()
        self._spool.note_progress()

    def note_promised(self, start: int, end: int) -> None:
        if self._lending.is_lent:
            self._sums.add(start, end)

    # When it arrived.

    def _arrived(self, attempt: _Attempt, entry: Entry) -> None:
        """The server has it: note that in the tree, here, and in the journal."""
        while True:
            self._set_late_attributes(attempt)
            entry = attempt.capture.with_attributes(entry)
            generation = self._known.uploaded(attempt.path, entry)
            if self._take_as_sent(attempt, entry, generation):
                return

    def _take_as_sent(self, attempt: _Attempt, entry: Entry, generation: int) -> bool:
        """`entry` is what the server has now. False: attributes were set in the last moment."""
        state, capture = self._state, attempt.capture
        with state.spool_lock:
            with state.changed:
                if self._is_late_locked(capture):
                    return False
                spooled = state.spooled
                is_mixed = capture.way is Way.APPEND and (entry.size or 0) != capture.end
                if is_mixed and spooled is not None and self._is_changed_locked(capture):
                    raise errors.Conflict(
                        f"{attempt.path}: changed here and there while it was appended to"
                    )
            # Others have appended, too. What is behind our part here goes behind it there.
            if is_mixed and spooled is not None:
                spooled = self._content.move_behind(spooled, capture.end, entry)
            with state.changed:
                entry = state.arrive_locked(entry, capture, attempt.base)
                self.uploaded_bytes, self._overtaken = capture.sent, 0
                version = version_of(attempt.path, entry, generation)
                reader = state.server.become_locked(entry, version)
                state.server.path = attempt.path
                # After a whole upload the spool holds everything; after a patch, what was there.
                if not (is_mixed and spooled is not None):
                    state.changes.base_size = capture.lowest if capture.is_in_place else 0
                is_clean = not state.progress.is_dirty
                is_recorded = self._row.is_there_locked()
                if is_clean:
                    self._row.says = None
                state.changed.notify_all()
            if is_recorded and spooled is not None:
                if is_clean:
                    self._row.remove(spooled)
                else:
                    self._row.write()
        if reader:
            reader.close()
        return True

    def _is_changed_locked(self, capture: Capture) -> bool:
        """Whether what was captured was changed here since, and not only something appended."""
        is_rewritten = any(start < capture.end for start, _ in self._state.changes.unsent)
        return is_rewritten or capture.lowest < capture.end

    def _is_late_locked(self, capture: Capture) -> bool:
        """Whether the attributes were changed since the upload was given them, and nothing was
        written: what was written will be uploaded anyway."""
        state = self._state
        is_given = capture.attributes_given is not None
        is_last = capture.writes == state.progress.writes
        return is_given and is_last and capture.attributes_given != state.attributes_locked(capture)

    def _set_late_attributes(self, attempt: _Attempt) -> None:
        """Set the attributes that were changed since the upload was given them."""
        state, capture = self._state, attempt.capture
        with state.changed:
            given = capture.attributes_given
            if given is None or not self._is_late_locked(capture):
                return
            mtime, mode = capture.attributes_given = state.attributes_locked(capture)
        try:
            if mode is not None and mode != given[1]:
                self._remote.chmod(attempt.path, mode)
            if mtime is not None and mtime != given[0]:
                capture.mtime_shown = self._remote.set_mtime(attempt.path, mtime)
        except errors.FtpfsError as error:
            log.info("%s is on the server, but not its time or mode: %s", attempt.path, error)
        else:
            capture.is_corrected = True


def may_be_done(error: BaseException) -> bool:
    """Whether an upload that failed so may have left something on the server."""
    if isinstance(error, errors.Offline):
        return False
    is_foreseen = isinstance(error, errors.FtpfsError)
    is_odd = isinstance(error, (errors.NetworkError, errors.DataMismatch, errors.ProtocolError))
    return is_odd or not is_foreseen


def may_follow_a_part(error: BaseException) -> bool:
    """Whether an upload that failed so, after its attributes were set, may have left a part of the
    file. A server may call a part complete, and so it gets the name; the remote sends the file once
    more then, and that may be refused, or given up here."""
    return isinstance(error, (errors.Superseded, errors.Busy, *NO_ROOM))


def may_have_begun(error: BaseException) -> bool:
    """Whether a change in place that failed so may have left a part of it on the server. That holds
    also if it was refused at its end, for want of room, or given up here."""
    return not isinstance(error, _BEFORE_ANYTHING)


# These fail before anything is sent.
_BEFORE_ANYTHING = (
    errors.NotSupported,
    errors.Conflict,
    errors.OutOfDescriptors,
    errors.Offline,
)
