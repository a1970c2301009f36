"""An FTP server without a disk: `/d1000` lists a thousand files.

For sizes that would take minutes to create on a disk. It knows LIST and MDTM and no MLSD, which
costs more. Threading: one thread per connection.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import socket
import threading
import time
from collections.abc import Iterator

# 2020-09-13 12:26:40 UTC, and a second more for each file.
FIRST_TIME = 1_600_000_000


def name_of(number: int) -> str:
    return f"file number {number:07}.dat"


def listing(count: int) -> bytes:
    line = "-rw-r--r--    1 999      995      {:8} Sep 13  2020 {}\r\n"
    return "".join(line.format(number % 5000, name_of(number)) for number in range(count)).encode()


@contextlib.contextmanager
def running() -> Iterator[int]:
    """The port on loopback."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=_serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(client: socket.socket) -> None:
    with contextlib.suppress(OSError), client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(client)
        client.sendall(b"220 generated\r\n")
        rest = b""
        while data := client.recv(256 << 10):
            *lines, rest = (rest + data).split(b"\r\n")
            client.sendall(b"".join(conversation.answer(line.decode()) for line in lines))


class _Conversation:
    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._folder = "/"
        self._passive: socket.socket | None = None

    def answer(self, line: str) -> bytes:
        verb, _, argument = line.partition(" ")
        if verb == "MDTM":
            number = re.search(r"(\d{7})\.dat$", argument)
            if number is None:
                return b"550 no\r\n"
            when = time.gmtime(FIRST_TIME + int(number[1]))
            return time.strftime("213 %Y%m%d%H%M%S\r\n", when).encode()
        if verb == "CWD":
            self._folder = argument
            return b"250 ok\r\n"
        if verb == "EPSV":
            if self._passive is not None:
                self._passive.close()
            self._passive = socket.create_server(("127.0.0.1", 0))
            return b"229 ok (|||%d|)\r\n" % self._passive.getsockname()[1]
        if verb == "LIST":
            return self._list()
        return {
            "USER": b"331 go on\r\n",
            "PASS": b"230 ok\r\n",
            "PWD": b'257 "/"\r\n',
            "TYPE": b"200 ok\r\n",
            "NOOP": b"200 ok\r\n",
        }.get(verb, b"502 no\r\n")

    def _list(self) -> bytes:
        if self._passive is None:
            return b"425 no\r\n"
        self._client.sendall(b"150 here it comes\r\n")
        with self._passive as passive:
            channel, _ = passive.accept()
        self._passive = None
        count = re.match(r"d(\d+)", posixpath.basename(self._folder))
        with channel:
            channel.sendall(listing(int(count[1]) if count else 0))
        return b"226 done\r\n"
