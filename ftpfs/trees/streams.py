"""Streams: one large file from the server by several connections at once, where that is faster.

*Problem.* Some servers limit the rate of each connection, and on a long link one connection is slow
to begin with. Several connections to one file, each from another byte on (REST), are faster there.
Elsewhere they are not: on loopback the processor is the limit.

*The obvious solution* is one number of streams for all files, like `pget -n4`.

*Why that fails.* The number is wrong nearly everywhere: too small for a server that gives each
connection 200 KB/s, and a waste where one stream fills the link.

*What we do.* A file begins with one stream. When its rate is steady, and seconds of work are left,
their number is doubled, and that is measured: if the rate does not rise, there are no more of them.
Other files go first: see `room`. To begin with four streams on a long link was measured, too: 64
MiB at 100 ms took 4.1 s in place of 4.8, but over a link of 100 Mbit/s 9.8 s in place of 8.0. Each
transfer that ends in the middle of a file wastes what is on its way, and four streams fill the
queue of a router until it drops packets.

What arrives is proven as with one stream: the file's size is right, something that follows is an
error, and size and time on the server are the same before and after. A stream that breaks goes on
at its byte; one that cannot begin leaves its piece to the others. If the server has no REST, this
raises NotSupported, and the caller receives the file by one transfer.

Sending has one stream: what several STOR with REST leave of a file differs from server to server,
and no server promises it.

Owns: the threads of one file. `pieces` has the book-keeping, `resuming` what a break leaves.

Threading: one thread calls `run`; each stream is a thread. The lock of `_changed` (Rank.STREAMS)
guards how many there are and why they ended.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp.connections.transfers import Download
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.trees import resuming
from ftpfs.trees.pieces import LEAST_BYTES, Gaps, Piece, Pieces

log = logging.getLogger(__name__)

# Smaller files (bytes) have one stream, unless the user gives a number.
_WORTH_BYTES = 8 << 20
_MOST_STREAMS = 16
# How long the rate is measured at most (s), and at least if so many bytes move meanwhile.
_MEASURE_SECONDS, _SOONEST_SECONDS, _MEASURE_ROUND_TRIPS, _MEASURE_BYTES = 1.0, 0.25, 10, 8 << 20
# What twice the streams have to bring, and up to which growth a rate is steady.
_GAIN, _STEADY = 1.2, 1.1
# More streams begin only if this much work is left (s, and round trips).
_WORTH_SECONDS, _WORTH_ROUND_TRIPS = 5.0, 50
# How often the progress is told, and the part saved (s).
_TICK_SECONDS, _SAVE_SECONDS = 0.1, 5.0
# Attempts of a stream in a row that bring nothing.
_ATTEMPTS = 3
_CHUNK_BYTES = 256 << 10

# A stream that fails so leaves its piece to the others.
_MILD = (errors.NetworkError, errors.NotSupported, errors.LoginFailed, errors.Refused)


def are_worth_it(remote: Remote, entry: Entry, streams: int | None) -> bool:
    """Whether several streams may be used. `streams`: the user's number; None: what is quickest."""
    least = _WORTH_BYTES if streams is None else 2 * LEAST_BYTES
    if streams == 1 or entry.size is None or entry.size < least:
        return False
    return remote.profile.contents.rest is not False


class Streams:
    """One file on its way."""

    def __init__(
        self,
        remote: Remote,
        source: str,
        entry: Entry,
        descriptor: int,
        progress: Callable[[int], None],
        *,
        streams: int | None = None,
        room: Callable[[], int] = lambda: _MOST_STREAMS,
        gaps: Gaps | None = None,
        saves: bool = False,
    ) -> None:
        """`descriptor`: the local file, which has all but the `gaps`; None: it has nothing.

        `streams`: how many; None: as many as are quickest. `room`: how many other files leave to
        this one now. `saves`: note in the file what is missing, for a later run (see `resuming`).
        """
        self._remote = remote
        self._source = source
        self._entry = entry
        self._size = entry.size or 0
        self._descriptor = descriptor
        self._progress = progress
        self._streams = streams
        self._room = room
        self._saves = saves
        self._pieces = Pieces(self._size, [(0, self._size)] if gaps is None else gaps)
        # Of the thread that calls `run`:
        self._measured = (0.0, 0)  # time.monotonic() and missing bytes at the last measurement
        self._rate = 0.0  # bytes/s before the last measurement
        self._rate_with_half = 0.0  # bytes/s before the last streams were added; 0: judged
        self._is_settled = False  # more streams were no faster, or were refused
        self._saved_at = time.monotonic()
        # Guarded by the lock of `_changed`:
        self._changed = ranked_condition(Rank.STREAMS)
        self._running = 0
        self._writing = 0  # streams that may write to the descriptor
        self._refused = False  # a stream failed while others went on
        self._error: BaseException | None = None

    def run(self) -> int:
        """Receive the file, and return its size.

        Raises Changed; NotSupported: the server has no REST; what the server answers, and what
        `progress` raises. Then no stream writes any more.
        """
        if not self._entry.exact:
            self._entry = self._remote.look_again(self._source, self._entry)
            if self._entry.size != self._size:
                raise errors.Changed(f"{self._source}: it was changed on the server")
        try:
            self._add(self._streams or 1)
            self._measured = time.monotonic(), self._pieces.missing
            while not self._wait():
                self._progress(self._size - self._pieces.missing)
                self._grow()
                if self._saves and time.monotonic() - self._saved_at > _SAVE_SECONDS:
                    self._save()
            if self._error is not None:
                raise self._error
            self._progress(self._size)
            self._check_unchanged()
            os.ftruncate(self._descriptor, self._size)
        except (KeyboardInterrupt, SystemExit):
            self._remote.cut_off_calls(0)  # a stream may wait for a server that says nothing
            raise
        else:
            return self._size
        finally:
            self._end()

    def _end(self) -> None:
        """Wait until no stream writes, and note what is missing."""
        self._pieces.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)
        if self._saves and self._pieces.missing:
            self._save(goes_on=False)

    def _save(self, *, goes_on: bool = True) -> None:
        gaps = self._pieces.gaps()
        resuming.save_gaps(self._descriptor, self._size, gaps, goes_on=goes_on)
        self._saved_at = time.monotonic()

    def _check_unchanged(self) -> None:
        now = self._remote.look_again(self._source, self._entry)
        if self._remote.is_another(self._entry, now):
            raise errors.Changed(f"{self._source}: it was changed on the server")

    # How many.

    def _grow(self) -> None:
        """After each measurement: begin more streams, if that made it faster before."""
        then, missing = self._measured
        now = time.monotonic()
        left = self._pieces.missing
        if self._streams is not None or not self._is_measured(now - then, missing - left):
            return
        rate = (missing - left) / (now - then)
        self._measured = now, left
        with self._changed:
            running, refused = self._running, self._refused
        before, self._rate = self._rate, rate
        if self._rate_with_half:
            self._is_settled |= rate < self._rate_with_half * _GAIN
            self._rate_with_half = 0.0
            log.info("%s: %d streams, %.0f bytes/s", self._source, running, rate)
        # While one stream still becomes faster, nothing can be said about two.
        rises = rate > before * _STEADY
        # A trial that fails costs what is on its way: so many round trips, whatever the rate is.
        worth = min(_WORTH_SECONDS, max(1.0, _WORTH_ROUND_TRIPS * self._remote.round_trip()))
        if rises or self._is_settled or refused or left < rate * worth:
            return
        more = min(2 * running, _MOST_STREAMS, self._room()) - running
        if more > 0:
            self._rate_with_half = rate
            self._add(more)

    def _is_measured(self, seconds: float, moved: int) -> bool:
        """Whether so many bytes in this time tell a rate."""
        soon = max(_SOONEST_SECONDS, _MEASURE_ROUND_TRIPS * self._remote.round_trip())
        is_soon = seconds >= soon and moved >= _MEASURE_BYTES
        return is_soon or seconds >= _MEASURE_SECONDS

    def _add(self, count: int) -> None:
        with self._changed:
            self._running += count
            several = self._running > 1
        if self._saves and several:
            self._save()  # before there are gaps that the length of the file does not show
        for _ in range(count):
            threading.Thread(target=self._stream, name="ftpfs-stream", daemon=True).start()

    def _wait(self) -> bool:
        """Wait a tick. Returns whether all is here, all streams have ended, or one failed."""
        with self._changed:
            return self._changed.wait_for(self._is_over_locked, _TICK_SECONDS)

    def _is_over_locked(self) -> bool:
        # The last stream still looks whether anything follows.
        is_complete = not (self._pieces.missing or self._writing)
        return self._error is not None or not self._running or is_complete

    # One stream.

    def _stream(self) -> None:
        error: BaseException | None = None
        try:
            while (piece := self._pieces.take()) is not None:
                try:
                    self._receive(piece)
                finally:
                    self._pieces.give_back(piece)
        except BaseException as found:  # noqa: BLE001 - the thread of `run` raises it
            error = found
        with self._changed:
            self._running -= 1
            if error is not None and self._pieces.missing:
                self._note_locked(error)
            self._changed.notify_all()

    def _note_locked(self, error: BaseException) -> None:
        if isinstance(error, _MILD) and self._running:
            log.info("%s: a stream less: %s", self._source, error)
            self._refused = True
        else:
            self._error = self._error or error

    def _receive(self, piece: Piece) -> None:
        """Receive a piece; after a break, go on at the same byte."""
        failures = 0
        while self._pieces.room(piece):
            before = piece.position
            try:
                self._receive_once(piece)
            except (errors.ConnectionLost, errors.DataConnectionFailed):
                failures = 1 if piece.position > before else failures + 1
                if failures == _ATTEMPTS:
                    raise
            else:
                return

    def _receive_once(self, piece: Piece) -> None:
        position = piece.position
        overlap = resuming.overlap_of(position - piece.begin) if piece.is_doubtful else 0
        with self._remote.open_read(
            self._source, position - overlap, expect=self._entry
        ) as download:
            with self._changed:
                self._writing += 1
            fatal: BaseException | None = None
            try:
                self._write(piece, download, overlap)
            except BaseException as error:
                fatal = None if isinstance(error, _MILD) else error
                raise
            finally:
                with self._changed:
                    self._error = self._error or fatal
                    self._writing -= 1
                    self._changed.notify_all()

    def _write(self, piece: Piece, download: Download, overlap: int) -> None:
        if overlap:
            resuming.check_overlap(download, self._descriptor, piece.position, overlap)
            self._pieces.is_compared(piece)
        view = memoryview(bytearray(_CHUNK_BYTES))
        while room := self._pieces.room(piece):
            count = download.readinto(view[:room])
            if not self._pieces.claim(piece):
                return
            if not count:
                # Cut on the way, or shorter now: the next attempt asks for its size.
                raise errors.DataConnectionFailed(
                    f"{self._source}: it ends after {piece.position} bytes"
                )
            write_all(self._descriptor, view[:count], piece.position)
            self._pieces.arrived(piece, count)
        if piece.position == self._size and piece.begun:
            if download.goes_on():
                raise errors.Changed(f"{self._source}: more follows than was listed")
            download.finish()


def write_all(descriptor: int, data: memoryview, position: int) -> None:
    """Write all of `data` at `position`. Raises OSError."""
    while data:
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count
