"""A transfer in flight: a download or an upload on its data connection, and how it ends.

Owns: moving the bytes, the deadline for each move, and the end: the final reply is read, or the
transfer is left early and the session finds its way back later. Opening the data connection is
`session`'s.

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
from typing import TYPE_CHECKING

from ftpfs import errors
from ftpfs.ftp.control import Reply, reason_of

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

    from ftpfs.ftp.session import Session

_TIMEVAL = struct.Struct("@ll")  # struct timeval; Python has no other way to set SO_RCVTIMEO

# One piece of a file on its way through TLS: larger ones were not faster.
PIECE = 256 << 10


class Transfer:
    """A transfer in flight. Close it, or leave its `with`: that ends it, early if need be."""

    def __init__(
        self, session: Session, channel: socket.socket, done: Callable[[], None] | None
    ) -> None:
        """`done` is called at the end, when the session can be used for something else."""
        self._session = session
        self._channel = channel
        self._done = done
        self._ended = False  # nothing more is sent or received, and the session knows it
        self._closed = False

    def close(self) -> None:
        """End the transfer, wherever it is; a STOR left early leaves a torn file. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._ended and self._session.alive:
                self._session.leave(self._channel)
            self._channel.close()
        finally:
            if self._done:
                self._done()

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
    """A RETR, or a listing, in flight."""

    def __init__(
        self,
        session: Session,
        channel: socket.socket,
        done: Callable[[], None] | None,
        replies: Sequence[Reply] = (),
        *,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`replies`: to the commands that were sent together with it. `at_end` is called when all
        has come but the final reply."""
        super().__init__(session, channel, done)
        self._at_end = at_end
        self.replies = replies
        self.confirmed = False  # the server said that the file is the one expected
        self.final_text = ""  # all lines of the final reply, once all has come
        self._unsaid = False  # the data ended without TLS's close_notify
        self._plain = not isinstance(channel, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: Python's would poll before each recv, and make it return
            # with what is there, where a block is wanted whole.
            _set_kernel_timeout(channel, socket.SO_RCVTIMEO, session.data_timeout)

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from its start with what has come; how many bytes. 0: the file ended.

        At the end the server's final reply is read, so 0 means that the server, too, says that it
        sent everything; otherwise ConnectionLost, DataConnectionFailed or DeadlineExceeded.
        """
        if self._ended:
            return 0
        try:
            count = self._channel.recv_into(view)
        except OSError as error:
            if not _ended_unsaid(error):
                self._break()
                raise data_error(error) from error
            count, self._unsaid = 0, True
        self._session.used_at = time.monotonic()
        if count == 0:
            self._end()
        return count

    def read(self, size: int) -> bytes:
        """The next `size` bytes; less only at the end of the file, confirmed as by `readinto`.

        On a plain connection they come in one system call, straight into the object returned.
        """
        if not self._plain:
            return self._read_by_pieces(size)
        pieces: list[bytes] = []
        while size and not self._ended:
            try:
                piece = self._channel.recv(size, socket.MSG_WAITALL)
            except OSError as error:
                self._break()
                raise data_error(error) from error
            self._session.used_at = time.monotonic()
            if not piece:
                self._end()
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """All bytes that the file has are here: have the server's word for it, where that is near.

        Over a long link it is not waited for: vsftpd and proftpd give it a round trip after the
        last byte, once they know that it arrived, and it could tell nothing that matters any more.
        `close` then has the session read it later. Raises what `read` does.
        """
        if not self._session.on_long_link:
            self.read(1)

    def check_end(self) -> None:
        """After the end of something whose size nobody knows: raises DataConnectionFailed when it
        may have been cut short on the way.

        Under TLS that is an end without close_notify, of a server that was seen to send it. The
        226 does not tell: the server says it for what it has sent.
        """
        if self._unsaid and self._session.profile.close_notify:
            raise errors.DataConnectionFailed("the data ended without TLS's word for it")

    def _read_by_pieces(self, size: int) -> bytes:
        """TLS hands out a record at a time, of 16 KiB at most."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size and (count := self.readinto(view[filled:])):
            filled += count
        return bytes(view[:filled])

    def _end(self) -> None:
        self._ended = True
        if not self._plain and not self._unsaid:
            self._session.profile.close_notify = True
        say_end(self._channel, 0)
        self._channel.close()
        self._at_end()
        self.final_text = "\n".join(self._session.finish_transfer().lines)

    def _break(self) -> None:
        """The data connection failed: the server may still tell why, but is not waited for."""
        self._ended = True
        self._channel.close()
        self._session.drop()


class Upload(Transfer):
    """A STOR or APPE in flight. `finish` it; closing it without that aborts."""

    def __init__(
        self,
        session: Session,
        channel: socket.socket,
        done: Callable[[], None] | None,
        before: Sequence[Reply] = (),
        *,
        complete: bool = False,
    ) -> None:
        """`before`: the replies to what was sent ahead of it; `complete`: so was all that it is to
        send (see `Session.upload`), and only `finish` is left."""
        super().__init__(session, channel, done)
        self.before = before
        self.complete = complete
        # Set by `finish`: the data connection was reset, which a 226 does not tell (pyftpdlib).
        self.was_reset = False
        self._plain = not isinstance(channel, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: Python's would make sendfile(2) return with every piece
            # that fits into the socket's buffer.
            _set_kernel_timeout(channel, socket.SO_SNDTIMEO, session.data_timeout)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of a local file from `offset` on; zeros where it has no more.

        By sendfile(2) on a plain connection: 0.13 s of CPU time a GiB, where pread and send took
        0.33. Raises as `write` does, and OSError for the local disk.
        """
        end = offset + count
        while offset < end:
            if self._plain:
                sent = self._send_from(fd, offset, end - offset)
            else:
                piece = os.pread(fd, min(PIECE, end - offset), offset)
                self.write(piece)
                sent = len(piece)
            if not sent:
                sent = min(PIECE, end - offset)
                self.write(bytes(sent))
            offset += sent

    def _send_from(self, fd: int, offset: int, count: int) -> int:
        try:
            sent = os.sendfile(self._channel.fileno(), fd, offset, count)
        except OSError as error:
            raise self._refusal(error) from error
        self._session.used_at = time.monotonic()
        return sent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. The deadline is for progress, not for the whole.

        When the server hangs up, what it says on the control connection is the error raised
        (NoSpace for 452, QuotaExceeded for 552...).
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._channel.send(view) :]
                self._session.used_at = time.monotonic()
        except OSError as error:
            raise self._refusal(error) from error

    def is_unopposed(self) -> bool:
        """Whether the server has said nothing since it told to begin. Never waits."""
        return not self._session.has_spoken()

    def finish(self) -> None:
        """Say that this was all, and wait until the server says that it has it.

        The connection is closed only after that: closing it with something unread in it (TLS 1.3
        session tickets) would reset it, and take the tail of the file along.
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
        """What the server says about a data connection that broke off, else that it did."""
        self._ended = True
        self._channel.close()
        session = self._session
        try:
            # After a deadline the server may have spoken already, but is not waited for again.
            if not isinstance(error, _TIMEOUTS) or session.has_spoken():
                with _local_error_told():
                    session.receive().check()
        except errors.FtpfsError as refusal:
            return refusal
        session.drop()
        return data_error(error)


def _set_kernel_timeout(channel: socket.socket, option: int, seconds: float) -> None:
    """Make `channel` blocking, with a deadline (s) that the kernel keeps for each call."""
    whole, fraction = divmod(seconds, 1)
    channel.settimeout(None)
    channel.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(fraction * 1e6)))


_TIMEOUTS = (TimeoutError, BlockingIOError)  # Python's deadline, the kernel's


@contextlib.contextmanager
def _local_error_told() -> Iterator[None]:
    """What 451 (RFC 959: local error in processing) means at the end of an upload.

    The disk is full: "Failure writing to local file" (vsftpd), "Input/output error" (proftpd),
    "Error during write to file" (pure-ftpd); 452 comes only when not a byte went in. Or the data
    connection broke, where others say 426: "Error during read", "Transfer aborted" (pure-ftpd).
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
    """Whether TLS ended without close_notify. Debian 12's Python (3.11.2) has no class for it."""
    unexpected = "UNEXPECTED_EOF_WHILE_READING"
    return isinstance(error, ssl.SSLError) and (
        isinstance(error, ssl.SSLEOFError) or error.reason == unexpected
    )


def say_end(channel: socket.socket, timeout: float) -> None:
    """Tell the peer that no more comes: close_notify under TLS, and FIN.

    The peer's close_notify is not waited for: many servers send none, and whether all bytes came
    is told by the final reply and the size. `timeout`: for what is written before it to leave.
    """
    if isinstance(channel, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            channel.settimeout(0)
            try:
                channel.unwrap()  # says WANT_READ when ours is out and theirs has not come
            except ssl.SSLWantWriteError:
                poller = select.poll()  # select() fails beyond 1024 descriptors
                poller.register(channel, select.POLLOUT)
                poller.poll(timeout * 1000)
                channel.unwrap()
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_WR)


def data_error(error: OSError) -> errors.FtpfsError:
    """What a failed send or recv on a data connection means."""
    if isinstance(error, _TIMEOUTS):
        return errors.DeadlineExceeded("nothing moved on the data connection within its deadline")
    return errors.DataConnectionFailed(f"the data connection broke: {reason_of(error)}")
