"""A hostile FTP server in a process of its own: it floods, sends byte by byte, or falls silent.

    python -m tests.support.hostile_server MODE [NUMBER]      prints its port

Its root is an ordinary folder with `a.txt`, `quiet` and `trap`. The mode takes effect when a client
lists `/trap`, reads `/trap/endless`, or, for modes of replies, sends FEAT. In modes of unasked-for
replies, it stays in effect on all connections from then on. The server knows nothing of ftpfs.

Threading: one thread per connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import CHECKOUT, FtpServer
from tests.support.stoppable import Stoppable

USER, PASSWORD = "hostile", "Hostile-secret.3"
FACTS = b"type=file;size=6;modify=20240101000000;UNIX.mode=0644; "
FOLDER = b"type=dir;modify=20240101000000;UNIX.mode=0755; "
ITSELF = b"type=cdir;modify=20240101000000; .\r\n"
CONTENT = b"hello\n"
SMALL = b"ten bytes\n"  # of every file called `small-*`
SMALL_FOLDER = 500  # of these files in each folder `/trap/folder-*`
BIG_SIZE = 1 << 30  # of every file called `big*`: it never arrives


@dataclass
class HostileServer(Stoppable):
    """A running hostile server; `host`, `port`, `user`, `password` as those of FtpServer."""

    process: subprocess.Popen[str]
    port: int
    host: str = "127.0.0.1"
    user: str = USER
    password: str = PASSWORD

    def pause(self) -> None:
        """Stop answering; the kernel still accepts connections."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()


def start(mode: str, number: float = 0) -> HostileServer:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.hostile_server", mode, str(number)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    return HostileServer(process, int(process.stdout.readline()))


def as_server(hostile: HostileServer) -> FtpServer:
    """For fixtures that mount servers: they need only an address and a login."""
    return hostile  # type: ignore[return-value]


# The server's own process.


def _endless(channel: socket.socket, piece: bytes) -> None:
    while True:
        channel.sendall(piece)


def _entries(first: int, count: int) -> bytes:
    return b"".join(FACTS + b"file-number-%09d\r\n" % n for n in range(first, first + count))


def _endless_listing(channel: socket.socket, _: float) -> None:
    for first in range(0, 10**9, 20_000):
        channel.sendall(_entries(first, 20_000))


def _counted_listing(channel: socket.socket, number: float) -> None:
    for first in range(0, int(number), 20_000):
        channel.sendall(_entries(first, 20_000))


def _small_folders(channel: socket.socket, number: float) -> None:
    count = int(number) // SMALL_FOLDER
    channel.sendall(b"".join(FOLDER + b"folder-%04d\r\n" % n for n in range(count)))


def _small_files(channel: socket.socket) -> None:
    line = b"type=file;size=%d;modify=20240101000000;UNIX.mode=0644; small-%09d\r\n"
    channel.sendall(b"".join(line % (len(SMALL), n) for n in range(SMALL_FOLDER)))


def _cut_listing(channel: socket.socket, number: float) -> None:
    _counted_listing(channel, number)
    channel.sendall(b"type=file;si")


def _dripped_listing(channel: socket.socket, number: float) -> None:
    while True:
        channel.sendall(b"t")
        time.sleep(number)


# Facts of `/trap/endless`, a file sent without end; NUMBER is the pause (s) after each piece.
ENDLESS = {
    "endless-file": b"type=file;size=0;modify=20240101000000; ",
    "endless-unsized-file": b"type=file;modify=20240101000000; ",
}

# The data after the listing's first line when a client lists `/trap`.
LISTINGS: dict[str, Callable[[socket.socket, float], None]] = {
    "endless-listing": _endless_listing,
    "endless-line": lambda channel, _: _endless(channel, b"n" * (1 << 20)),
    "junk-listing": lambda channel, _: _endless(channel, b"x\n" * (1 << 19)),
    "long-junk-listing": lambda channel, _: _endless(channel, (b"x" * 60_000 + b"\n") * 16),
    "dripped-listing": _dripped_listing,
    "counted-listing": _counted_listing,
    "cut-listing": _cut_listing,
    "small-files": _small_folders,
    "junk-lines": lambda channel, number: channel.sendall(b"x\n" * int(number)),
}


def _fat_features(client: socket.socket, number: float) -> None:
    client.sendall(b"211-features\r\n MLST type*;size*;modify*;UNIX.mode*;\r\n")
    for each in range(int(number)):
        client.sendall(b" X%d " % each + b"y" * 1000 + b"\r\n")
    client.sendall(b"211 end\r\n")


def _dripped_reply(client: socket.socket, number: float) -> None:
    client.sendall(b"211-features\r\n")
    while True:
        client.sendall(b" ")
        time.sleep(number)


# The replies to FEAT.
REPLIES: dict[str, Callable[[socket.socket, float], None]] = {
    "endless-reply": lambda client, _: _endless(client, (b" X" + b"y" * 60_000 + b"\r\n") * 16),
    "endless-short-reply": lambda client, _: _endless(client, b" X\r\n" * (1 << 18)),
    "endless-reply-line": lambda client, _: _endless(client, b"211-" + b"z" * (1 << 20)),
    "fat-features": _fat_features,
    "dripped-reply": _dripped_reply,
}


def _endless_replies(client: socket.socket, _: float) -> None:
    for number in range(10**9):
        client.sendall(b"200 hi %d\r\n" % number * 200)


# What follows each reply with 200 or 250, after a client has entered `/trap` once.
UNASKED: dict[str, Callable[[socket.socket, float], None]] = {"endless-replies": _endless_replies}
FEATURES = (
    b"211-features\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n EPSV\r\n UTF8\r\n MFMT\r\n"
    b" MLST type*;size*;modify*;UNIX.mode*;\r\n211 end\r\n"
)
_ANSWERS = {
    "USER": b"331 go on\r\n",
    "PASS": b"230 ok\r\n",
    "SYST": b"215 UNIX Type: L8\r\n",
    "PWD": b'257 "/"\r\n',
    "TYPE": b"200 ok\r\n",
    "OPTS": b"200 ok\r\n",
    "NOOP": b"200 ok\r\n",
    "REST": b"350 ok\r\n",
    "MDTM": b"213 20240101000000\r\n",
}


_sprung = threading.Event()  # a client has entered `/trap` in a mode of unasked-for replies


class _Conversation:
    def __init__(self, client: socket.socket, mode: str, number: float) -> None:
        self._client = client
        self._mode = mode
        self._number = number
        self._folder = "/"
        self._passive: socket.socket | None = None
        self._is_promised = False  # a reply named the port, and no transfer has used it yet

    def run(self) -> None:
        self._client.sendall(b"220 hostile\r\n")
        with self._client.makefile("rb") as lines:
            for line in lines:
                verb, _, argument = line.decode("latin-1").strip().partition(" ")
                method = getattr(self, "do_" + verb.lower(), None)
                if method is not None:
                    method(argument)
                else:
                    self._say(_ANSWERS.get(verb, b"502 no\r\n"))

    def _say(self, reply: bytes) -> None:
        self._client.sendall(reply)
        if _sprung.is_set() and reply.startswith((b"200", b"250")):
            UNASKED[self._mode](self._client, self._number)

    def do_feat(self, _: str) -> None:
        reply = REPLIES.get(self._mode)
        if reply is not None:
            reply(self._client, self._number)
        else:
            self._client.sendall(FEATURES)

    def do_epsv(self, _: str) -> None:
        # A port whose transfer is over serves the next one. A closed port stays taken for a minute
        # (TIME-WAIT, RFC 9293 section 3.6), and thousands of files would take all ports there are.
        if self._passive is not None and self._is_promised:
            self._passive.close()
            self._passive = None
        if self._passive is None:
            self._passive = socket.create_server(("127.0.0.1", 0))
        self._is_promised = True
        self._client.sendall(b"229 ok (|||%d|)\r\n" % self._passive.getsockname()[1])

    def do_cwd(self, argument: str) -> None:
        self._folder = argument
        if argument.rstrip("/") == "/trap" and self._mode in UNASKED:
            _sprung.set()
        self._say(b"250 ok\r\n")

    def do_size(self, argument: str) -> None:
        if argument == "/trap/endless":
            unsized = self._mode == "endless-unsized-file"
            self._client.sendall(b"550 no size\r\n" if unsized else b"213 0\r\n")
            return
        self._client.sendall(b"213 %d\r\n" % _size_of(argument))

    def do_mlst(self, argument: str) -> None:
        name = argument.rpartition("/")[2].encode()
        if name in (b"trap", b"quiet", b"") or name.startswith(b"folder-"):
            line = FOLDER + argument.encode()
        elif name in (b"a.txt",) or name.startswith(b"big"):
            line = b"type=file;size=%d;modify=20240101000000; " % _size_of(argument)
            line += argument.encode()
        elif argument == "/trap/endless" and self._mode in ENDLESS:
            line = ENDLESS[self._mode] + argument.encode()
        else:
            self._client.sendall(b"550 no such file\r\n")
            return
        self._client.sendall(b"250-it is\r\n " + line + b"\r\n250 end\r\n")

    def do_mlsd(self, _: str) -> None:
        with self._channel() as channel:
            channel.sendall(ITSELF)
            folder = self._folder.rstrip("/")
            if folder == "/trap" and self._mode in ENDLESS:
                channel.sendall(ENDLESS[self._mode] + b"endless\r\n")
            elif folder == "/trap" and self._mode in LISTINGS:
                LISTINGS[self._mode](channel, self._number)
            elif folder.startswith("/trap/folder-"):
                _small_files(channel)
            elif folder == "":
                channel.sendall(FOLDER + b"trap\r\n" + FOLDER + b"quiet\r\n" + FACTS + b"a.txt\r\n")
                for number in range(200):
                    big = b"type=file;size=%d;modify=20240101000000; big%d\r\n"
                    channel.sendall(big % (BIG_SIZE, number))
            else:
                channel.sendall(FACTS + b"a.txt\r\n")
        cut = self._mode == "cut-listing" and self._folder == "/trap"
        self._client.sendall(b"426 cut\r\n" if cut else b"226 done\r\n")

    def do_retr(self, argument: str) -> None:
        with self._channel() as channel:
            while argument == "/trap/endless":
                channel.sendall(b"z" * (128 << 10))
                time.sleep(self._number)
            if argument.startswith("/big"):
                channel.sendall(b"x" * 1000)
                time.sleep(3600)
            channel.sendall(SMALL if "/small-" in argument else CONTENT)
        self._client.sendall(b"226 done\r\n")

    @contextlib.contextmanager
    def _channel(self) -> Iterator[socket.socket]:
        assert self._passive
        self._client.sendall(b"150 here it comes\r\n")
        channel, _ = self._passive.accept()
        self._is_promised = False
        with channel:
            yield channel


def _size_of(path: str) -> int:
    if "/small-" in path:
        return len(SMALL)
    return BIG_SIZE if "/big" in path else len(CONTENT)


def _serve(client: socket.socket, mode: str, number: float) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AssertionError), client:
        _Conversation(client, mode, number).run()


def _main(mode: str, number: float) -> None:
    assert mode in {*LISTINGS, *UNASKED, *REPLIES, *ENDLESS, "plain"}, mode
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, mode, number), daemon=True).start()


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent and Path(f"/proc/{parent}").exists():
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
