"""Replies read from a socket, and sockets sent to, cut and closed while other threads use them."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from typing import Literal

How = Literal["rst", "fin"]


def replies(sock: socket.socket, raw: Callable[[], bool]) -> Iterator[bytes]:
    """Whole replies, of one line or many (RFC 959, 4.2); at the end the remaining bytes.

    Once `raw()`, all bytes unchanged as they come.
    """
    pending = b""
    lines: list[bytes] = []
    while True:
        data = sock.recv(65536)
        if not data:
            break
        if raw():
            yield data
            continue
        *complete, pending = (pending + data).split(b"\n")
        for line in complete:
            lines.append(line + b"\n")
            first = lines[0]
            opened = len(first) > 3 and first[:3].isdigit() and first[3:4] == b"-"
            if not opened or (len(lines) > 1 and line.startswith(first[:3] + b" ")):
                yield b"".join(lines)
                lines = []
    rest = b"".join(lines) + pending
    if rest:
        yield rest


def line(reply: str) -> bytes:
    """A reply or command as it goes over the wire."""
    return reply.encode("utf-8", "surrogateescape").rstrip(b"\r\n") + b"\r\n"


def send(
    sock: socket.socket, data: bytes | bytearray | memoryview, given_up: Callable[[], bool]
) -> bool:
    """Send it all, unless `given_up()`. A plain sendall could wait endlessly on a full buffer."""
    view = memoryview(data)
    while view:
        if given_up():
            return False
        try:
            sent = sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            poller = select.poll()
            poller.register(sock, select.POLLOUT)
            poller.poll(50)
            continue
        view = view[sent:]
    return True


def drain(sock: socket.socket, timeout: float = 2.0) -> None:
    """Wait until the other side has received everything: a reset discards the rest.

    Limited in time, because a peer that does not read never takes it.
    """
    left = bytearray(4)
    deadline = time.monotonic() + timeout
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            fcntl.ioctl(sock, termios.TIOCOUTQ, left)
            if not any(left):
                return
            time.sleep(0.001)


_LINGER_OFF = struct.pack("ii", 1, 0)  # close() then resets the connection


def cut(sock: socket.socket, how: How) -> None:
    """End `sock` while other threads are in recv() on it: they wake up, and the last closes it.

    close() itself would wake no thread. A FIN must not precede a reset, so only the reading side is
    shut for it, which sends nothing; closing sends the RST.
    """
    with contextlib.suppress(OSError):
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            sock.shutdown(socket.SHUT_RD)
        else:
            sock.shutdown(socket.SHUT_RDWR)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address that it may share, as long as only one of them listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def wake(listener: socket.socket) -> None:
    """Make accept() in another thread fail; that thread closes the socket."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def half_close(sock: socket.socket) -> None:
    """Send a FIN; the other direction stays open."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def close(sock: socket.socket, how: How) -> None:
    """Close a socket that no thread uses any more."""
    with contextlib.suppress(OSError):
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        sock.close()
