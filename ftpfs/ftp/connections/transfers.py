"""A transfer on its data connection: a download or an upload, and how it ends.

Owns moving the bytes, the deadline for each move, the limits of a listing, and the end: either the
final reply is read, or the transfer is left early and the session reads the late replies
afterwards. `starting` begins the transfer and gives it its data connection.

Threading: the thread that holds the session's lease.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ftpfs import errors
from ftpfs.ftp.connections.control import Reply, reason_of
from ftpfs.ftp.connections.rates import Rate, Rates
from ftpfs.ftp.profile import Profile
from ftpfs.model.entry import Entry

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

_TIMEVAL = struct.Struct("@ll")  # struct timeval; Python has no other way to set SO_RCVTIMEO

# Bytes of one write to a TLS connection: larger ones were not faster.
CHUNK_BYTES = 256 << 10
# How often a plain transfer that stalls checks its data deadline.
DEADLINE_SLICES = 8
# Bytes of one read from a data connection while listing.
LIST_CHUNK_BYTES = 256 << 10
# Maximum size of one listing. A folder of a million entries is some 90 MB on the wire, and takes
# 400 MB of memory here while it is parsed. A larger listing is an attack, a fault, or no folder to
# work in.
MAX_LISTING_BYTES = 128 << 20
MAX_LISTING_LINES = 2_000_000
# A listing may take this multiple of the data deadline, plus its bytes divided by this rate (200
# bytes are about two entries). Without this limit, a server that sends a byte every few seconds
# would keep `ls` waiting without end, because each byte comes within the data deadline.
LISTING_DEADLINES, LISTING_BYTES_PER_SECOND = 2, 200
# The rate of transfers that wait for no limit.
_NO_RATE = Rate()


class Carrier(Protocol):
    """What a transfer needs of the session that carries it out."""

    moving: socket.socket | None  # the data connection in use, so another thread can cut it
    used_at: float  # time.monotonic() of the last byte either way
    rates: Rates  # the limits of all transfers of this server
    is_cut_off: bool  # another thread has ended the connections

    @property
    def alive(self) -> bool: ...

    @property
    def profile(self) -> Profile: ...

    @property
    def data_timeout(self) -> float:
        """Seconds within which at least one byte has to move."""

    @property
    def on_long_link(self) -> bool: ...

    def has_spoken(self) -> bool:
        """Whether a reply can be read without waiting."""

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply, within `timeout` seconds."""

    def finish_transfer(self) -> Reply:
        """Read the final reply. Raises the error of a refusal."""

    def leave(self, channel: socket.socket) -> None:
        """Leave a transfer before its end; the session recovers later."""

    def drop(self) -> None:
        """Close the session, because its conversation is broken."""


class Transfer:
    """A transfer in flight. `close`, or the end of the `with`, ends it, early if need be."""

    def __init__(
        self, session: Carrier, channel: socket.socket, done: Callable[[], None] | None
    ) -> None:
        """`done` is called at the end, when the session is free for other use."""
        self._session = session
        self._channel = channel
        session.moving = channel
        self._done = done
        self._ended = False  # nothing more is sent or received, and the session knows it
        self._closed = False

    def close(self) -> None:
        """End the transfer in any state. A STOR left early leaves a torn file. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._ended and self._session.alive:
                self._session.leave(self._channel)
            self._channel.close()
            self._session.moving = None
        finally:
            if self._done:
                self._done()

    def _may_go_on(self, error: OSError, since: float) -> bool:
        """Whether only a slice of the deadline is over, and not all of it since something moved.

        `since`: when something moved last; time.monotonic().
        """
        stalled = time.monotonic() - since
        return isinstance(error, BlockingIOError) and stalled < self._session.data_timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Download(Transfer):
    """A RETR or a listing in flight.

    - `replies`: to the commands that were sent together with the transfer.
    - `confirmed`: the server said that the file is the expected one.
    - `entry`: the expected file, with what the server said of it at the start; None: not asked.
    - `final_text`: all lines of the final reply, after the end.
    """

    def __init__(
        self,
        session: Carrier,
        channel: socket.socket,
        done: Callable[[], None] | None,
        replies: Sequence[Reply] = (),
        *,
        at_end: Callable[[], None] = lambda: None,
        waits: bool = True,
    ) -> None:
        """`at_end` is called when all data has come, before the final reply is read.

        `waits`: for the limit of the rate.
        """
        super().__init__(session, channel, done)
        self._rate = session.rates.down if waits else _NO_RATE
        self._at_end = at_end
        self.replies = replies
        self.confirmed = False
        self.entry: Entry | None = None
        self.final_text = ""
        self._unsaid = False  # the data ended without TLS's close_notify
        self._came_to_end = False  # seen by `goes_on`; the final reply is not read yet
        self._plain = not isinstance(channel, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: with Python's, each recv polls first, and returns what has
            # come even when a whole block is wanted. At a stall recv(2) returns what has come of
            # the block, and the next one would wait for a whole deadline more. Hence the slices:
            # see `_may_go_on`.
            timeout = session.data_timeout / DEADLINE_SLICES
            _set_kernel_timeout(channel, socket.SO_RCVTIMEO, timeout)

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from its start with what has come; return the byte count, 0 at the end.

        At the end, the final reply is read, so 0 means that the server confirms that it sent
        everything. Otherwise raises ConnectionLost, DataConnectionFailed or DeadlineExceeded.
        """
        if self._ended:
            return 0
        if self._rate.limited:
            view = view[: self._rate.share(len(view))]
        count, since = 0, time.monotonic()
        while not self._came_to_end:
            try:
                count = self._channel.recv_into(view)
            except OSError as error:
                if self._may_go_on(error, since):
                    continue
                self._end_unsaid(error)
            break
        self._session.used_at = time.monotonic()
        if count == 0:
            self._end()
        elif self._rate.limited:
            self._rate.pay(count, is_over=lambda: self._session.is_cut_off)
        return count

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the file, confirmed as by `readinto`.

        On a plain connection they come in one system call, straight into the returned object,
        unless there is a limit of the rate.
        """
        if not self._plain or self._rate.limited:
            return self._read_by_pieces(size)
        pieces: list[bytes] = []
        since = time.monotonic()
        while size and not self._ended:
            try:
                piece = self._channel.recv(size, socket.MSG_WAITALL)
            except OSError as error:
                if self._may_go_on(error, since):
                    continue
                raise self._broken(error) from error
            since = self._session.used_at = time.monotonic()
            if not piece:
                self._end()
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def goes_on(self) -> bool:
        """Whether more bytes follow; False at the end.

        Waits for the one or the other, not for the final reply: the end of the data comes right
        behind its last byte. Under TLS a byte that follows is lost. Raises what `read` raises.
        """
        if self._ended or self._came_to_end:
            return False
        since = time.monotonic()
        while True:
            try:
                self._came_to_end = not self._channel.recv(1, socket.MSG_PEEK if self._plain else 0)
            except OSError as error:
                if self._may_go_on(error, since):
                    continue
                self._end_unsaid(error)
                self._came_to_end = True
            return not self._came_to_end

    def finish(self) -> None:
        """All bytes of the file have come: read the server's final reply, unless the link is long.

        Over a long link nothing waits for it: vsftpd and proftpd send it one round trip after the
        last byte, when they know that the byte arrived, and it would change nothing. The session
        reads it later, after `close`. Raises what `read` raises.
        """
        if not self._session.on_long_link:
            self.read(1)

    def check_end(self) -> None:
        """After the end of data of unknown size: raise DataConnectionFailed if it may be cut short.

        Under TLS that is an end without close_notify, from a server that was seen to send it. The
        226 does not help: the server sends it for what it has sent.
        """
        if self._unsaid and self._session.profile.wire.close_notify:
            raise errors.DataConnectionFailed(
                "the data ended without the close_notify of TLS: cut on the way?"
            )

    def _read_by_pieces(self, size: int) -> bytes:
        """Read `size` bytes in several calls.

        TLS delivers a record at a time, of 16 KiB at most; a limited stream gets small shares.
        """
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size and (count := self.readinto(view[filled:])):
            filled += count
        return bytes(view[:filled])

    def _end(self) -> None:
        self._ended = True
        if not self._plain and not self._unsaid:
            self._session.profile.wire.close_notify = True
        say_end(self._channel, 0)
        self._channel.close()
        self._at_end()
        self.final_text = "\n".join(self._session.finish_transfer().lines)
        if self._unsaid and self._session.profile.wire.close_notify:
            # The connection was cut on the way, and the server's OpenSSL may have forgotten the TLS
            # session because of that: it would refuse all further data connections of this login
            # (proftpd, TLS 1.2).
            self._session.drop()

    def _end_unsaid(self, error: OSError) -> None:
        """The end of the data, if this error is one. Raises what any other error means."""
        if not _ended_unsaid(error):
            raise self._broken(error) from error
        self._unsaid = True

    def _broken(self, error: OSError) -> errors.FtpfsError:
        """Close the session without waiting for the server's reason; return the error to raise."""
        self._ended = True
        self._channel.close()
        self._session.drop()
        return data_error(error, self._session.data_timeout)


class Upload(Transfer):
    """A STOR or APPE in flight. Call `finish`; `close` without it aborts the upload.

    - `before`: the replies to the commands sent ahead of the transfer.
    - `complete`: the whole content is sent already (see `Session.upload`), and only `finish` is
      left.
    - `was_reset`: set by `finish` if the data connection was reset; pyftpdlib says 226 even so.
    """

    def __init__(
        self,
        session: Carrier,
        channel: socket.socket,
        done: Callable[[], None] | None,
        before: Sequence[Reply] = (),
        *,
        complete: bool = False,
    ) -> None:
        """For `before` and `complete`, see the class."""
        super().__init__(session, channel, done)
        self.before = before
        self.complete = complete
        self.was_reset = False
        self._rate = session.rates.up
        self._plain = not isinstance(channel, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: with Python's, sendfile(2) returns with every piece that
            # fits into the socket's buffer. At a stall sendfile(2) waits for it up to three times,
            # and then returns what has moved. Hence the slices: see `_may_go_on`.
            timeout = session.data_timeout / DEADLINE_SLICES
            _set_kernel_timeout(channel, socket.SO_SNDTIMEO, timeout)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit of the rate."""
        return self._rate.limited

    def share(self, wanted: int) -> int:
        """How many of `wanted` bytes to send at once: all, unless there is a limit of the rate."""
        return self._rate.share(wanted) if self._rate.limited else wanted

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of a local file from `offset` on; zeros beyond its end.

        Uses sendfile(2) on a plain connection: 0.13 s of CPU time a GiB, where pread and send took
        0.33. Raises what `write` raises, and OSError for the local disk.
        """
        end, since = offset + count, time.monotonic()
        while offset < end:
            if self._plain:
                count = end - offset
                if self._rate.limited:
                    count, since = self._wait_for_share(count)
                try:
                    sent = os.sendfile(self._channel.fileno(), fd, offset, count)
                except OSError as error:
                    if self._may_go_on(error, since):
                        continue
                    raise self._refusal(error) from error
                since = self._session.used_at = time.monotonic()
            else:
                piece = os.pread(fd, min(CHUNK_BYTES, end - offset), offset)
                self.write(piece)
                sent = len(piece)
            if not sent:
                sent = min(CHUNK_BYTES, end - offset)
                self.write(bytes(sent))
            offset += sent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. The deadline is for progress, not for the whole.

        If the server hangs up, its reply on the control connection is the error raised (NoSpace for
        452, QuotaExceeded for 552...).
        """
        view, since = memoryview(data), time.monotonic()
        while view:
            piece = view
            if self._rate.limited:
                count, since = self._wait_for_share(len(view))
                piece = view[:count]
            try:
                view = view[self._channel.send(piece) :]
            except OSError as error:
                if self._may_go_on(error, since):
                    continue
                raise self._refusal(error) from error
            since = self._session.used_at = time.monotonic()

    def _wait_for_share(self, wanted: int) -> tuple[int, float]:
        """How many of `wanted` bytes the limit allows now; the deadline begins at this time.

        The time is of time.monotonic().
        """
        count = self._rate.share(wanted)
        self._rate.pay(count, is_over=lambda: self._session.is_cut_off)
        self._session.used_at = time.monotonic()
        return count, self._session.used_at

    def is_unopposed(self) -> bool:
        """Whether the server has sent no reply since the transfer began. Never waits."""
        return not self._session.has_spoken()

    def finish(self) -> None:
        """Send the end of the content, and wait for the server's confirmation.

        The data connection is closed only after that: closing it with unread bytes in it (TLS 1.3
        session tickets) would reset it, and lose the tail of the file.
        """
        self._ended = True
        say_end(self._channel, self._session.data_timeout)
        try:
            with _local_error_told():
                self._session.finish_transfer()
            self.was_reset = self._channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        finally:
            self._channel.close()

    def _refusal(self, error: OSError) -> errors.FtpfsError:
        """The server's reason for a broken data connection; without one, the error itself."""
        self._ended = True
        self._channel.close()
        session = self._session
        try:
            # After a timeout, read a reply only if it has arrived already.
            if not isinstance(error, _TIMEOUTS) or session.has_spoken():
                with _local_error_told():
                    session.receive().check()
        except errors.FtpfsError as refusal:
            return refusal
        session.drop()
        return data_error(error, session.data_timeout)


def receive_listing(download: Download, chunks: list[bytearray], data_timeout: float) -> None:
    """Append all data of a listing to `chunks`.

    Raises TooLong, DeadlineExceeded, and what the download raises. After an error `chunks` is
    empty: the error's traceback refers to it, and an error may live long.
    """
    try:
        _receive_bounded(download, chunks, data_timeout)
        download.check_end()
    except BaseException:
        chunks.clear()
        raise


def _receive_bounded(download: Download, chunks: list[bytearray], data_timeout: float) -> None:
    total = lines = 0
    began = time.monotonic()
    buffer = bytearray(LIST_CHUNK_BYTES)
    while count := download.readinto(memoryview(buffer)):
        chunks.append(buffer[:count])
        total += count
        lines += chunks[-1].count(b"\n")
        if total > MAX_LISTING_BYTES or lines > MAX_LISTING_LINES:
            raise errors.TooLong(
                f"a listing of more than {MAX_LISTING_BYTES >> 20} MiB or {MAX_LISTING_LINES} lines"
            )
        seconds = time.monotonic() - began
        if seconds > LISTING_DEADLINES * data_timeout + total / LISTING_BYTES_PER_SECOND:
            raise errors.DeadlineExceeded(
                f"the listing comes too slowly: {total} bytes in {seconds:.0f} s"
            )


def _set_kernel_timeout(channel: socket.socket, option: int, seconds: float) -> None:
    """Make `channel` blocking, with a deadline (s) that the kernel applies to each call."""
    whole, fraction = divmod(seconds, 1)
    channel.settimeout(None)
    channel.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(fraction * 1e6)))


_TIMEOUTS = (TimeoutError, BlockingIOError)  # Python's deadline, the kernel's


@contextlib.contextmanager
def _local_error_told() -> Iterator[None]:
    """Interpret 451 (RFC 959: local error in processing) at the end of an upload.

    Either the disk is full: "Failure writing to local file" (vsftpd), "Input/output error"
    (proftpd), "Error during write to file" (pure-ftpd); 452 comes only if not a byte was written.
    Or the data connection broke, for which other servers say 426: "Error during read", "Transfer
    aborted" (pure-ftpd).
    """
    try:
        yield
    except errors.Refused as refusal:
        if refusal.code != 451:
            raise
        if _WRITING.search(refusal.text):
            raise errors.NoSpace(f"the server could not write the file: {refusal}") from refusal
        raise errors.DataConnectionFailed(str(refusal)) from refusal


_WRITING = re.compile(r"writ|space|disk|input/output", re.IGNORECASE)


def _ended_unsaid(error: OSError) -> bool:
    """Whether TLS ended without close_notify. Debian 12's Python (3.11.2) has no class for that."""
    unexpected = "UNEXPECTED_EOF_WHILE_READING"
    return isinstance(error, ssl.SSLError) and (
        isinstance(error, ssl.SSLEOFError) or error.reason == unexpected
    )


def say_end(channel: socket.socket, timeout: float) -> None:
    """Send the end of data to the peer: close_notify under TLS, and FIN.

    Does not wait for the peer's close_notify: many servers send none, and the final reply and the
    size tell whether all bytes came. `timeout`: seconds for earlier bytes to leave.
    """
    if isinstance(channel, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            channel.settimeout(0)
            try:
                channel.unwrap()  # WANT_READ: ours is sent, the peer's has not come
            except ssl.SSLWantWriteError:
                poller = select.poll()  # select() fails beyond 1024 descriptors
                poller.register(channel, select.POLLOUT)
                poller.poll(timeout * 1000)
                channel.unwrap()
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_WR)


def data_error(error: OSError, timeout: float) -> errors.FtpfsError:
    """The error for a failed send or recv on a data connection with that deadline (s)."""
    if isinstance(error, _TIMEOUTS):
        return errors.DeadlineExceeded(
            f"nothing moved on the data connection for {timeout:g} s (data_timeout)"
        )
    return errors.DataConnectionFailed(f"the data connection broke: {reason_of(error)}")
