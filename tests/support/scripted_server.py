"""A plain FTP server whose manners are a parameter: one behaviour for each command.

Owns: a small server of real files, on loopback, and the record of the received commands. It reads
one command after the other, as small devices do. Knows nothing of ftpfs.

    with scripted_server.start(root, Manners(answers={"FEAT": SILENCE})) as server: ...

Threads: one accepts connections, one serves each of them. `_lock` guards the record.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import os
import re
import shutil
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.stoppable import Stoppable

USER, PASSWORD = "me", "Scripted-secret.9"

# Possible answers to a command, besides a reply of the test's own ("502 no").
SILENCE = "silence"
STUCK = "stuck"  # no answer to this command and to all that follow on this connection
FIN = "hang-up"
RST = "reset"
TWICE = "twice"  # the command is carried out, its last reply comes twice
BLANK_FIRST = "blank line first"  # the command is carried out
WORDS_FIRST = "line without a code first"
BLANK_ONLY = "only a blank line"
WORDS_ONLY = "only a line without a code"
# Among the pieces of a reply (`Manners.pieces`): the connection ends here.
HANG_UP = b"hang-up"

# What may happen to data connections.
DEAD_PORT = "the port answers nothing, as behind a firewall; in active mode, nobody connects"
CLOSED_PORT = "nobody listens at the port"
TLS_SILENCE = "no TLS handshake"
TLS_JUNK = "words in place of a TLS handshake"

MODERN = (
    "MLST type*;size*;modify*;",
    "MDTM",
    "SIZE",
    "MFMT",
    "REST STREAM",
    "EPSV",
    "UTF8",
    "AVBL",
)
OLD = ("MDTM", "SIZE", "REST STREAM")
_SETS_TIME = re.compile(r"MDTM \d{14} (?=.)")


@dataclass
class Manners:
    """How the server behaves. The defaults make it an ordinary one."""

    # By the beginning of a command line ("SITE CHMOD", "LIST -a"); the longest match counts. "MDTM
    # time" is an MDTM that sets a time.
    answers: Mapping[str, str] = field(default_factory=dict)
    # Replies to the first commands of a kind, by its verb; each is taken out when it is sent.
    passing: Mapping[str, list[str]] = field(default_factory=dict)
    features: Sequence[str] = MODERN
    greeting: str = "220 ready"
    # Commands behind the first one of a packet are dropped.
    one_command_a_packet: bool = False
    # Further connections get no greeting; with `refusal` they get that, and are closed.
    most_clients: int | None = None
    refusal: str = ""
    # Serves one client after the other. The next client waits in the backlog, connected and without
    # a greeting; the SYNs of further clients are dropped.
    one_after_another: bool = False
    # RETR, STOR, SIZE and the rest do not know a path with a slash in it: CWD first.
    names_only: bool = False
    # APPE replaces the file, as STOR does.
    append_replaces: bool = False
    # The reply to every RNTO.
    never_renames: str = ""
    # Moves each file away as soon as it has arrived, into `taken`.
    hot_folder: bool = False
    # Whether a file is in use on the server: then STOR, DELE and RNFR get 550.
    is_busy: Callable[[Path], bool] = lambda _path: False
    # Seconds that a command takes, by the beginning of its line.
    slow: Mapping[str, float] = field(default_factory=dict)
    # What happens to each data connection: DEAD_PORT, ...
    data: str = ""
    # What happens to the next passive ports instead: DEAD_PORT, CLOSED_PORT, or "" (nothing).
    ports: Iterator[str] = field(default_factory=lambda: iter(()))
    # For AUTH TLS; None: the server has no AUTH TLS.
    certificate: Path | None = None
    # Commands that a session that was logged out (`ScriptedServer.log_out`) may still send.
    for_anyone: Sequence[str] = ("USER", "PASS", "QUIT")
    # Bytes a second of each download.
    rate: float = float("inf")
    # The packets in which a reply leaves, from its bytes.
    pieces: Callable[[bytes], Sequence[bytes]] = lambda reply: (reply,)


class ScriptedServer(Stoppable):
    """A running server. Leaving the `with` block, or `stop()`, ends it."""

    def __init__(self, root: Path, manners: Manners) -> None:
        self.root = root
        self.manners = manners
        self.user, self.password = USER, PASSWORD
        self.commands: list[str] = []  # all commands that were read, over all connections
        self.times: list[float] = []  # the time of each of them
        self.taken: list[tuple[str, bytes]] = []  # by the hot folder
        self.connections = 0
        self.times_logged_out = 0
        self._lock = threading.Lock()
        self._live: list[socket.socket] = []
        self._ignored: list[socket.socket] = []
        backlog = 0 if manners.one_after_another else 64
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.host, self.port = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept, name="scripted-server", daemon=True)
        self._thread.start()

    def verbs(self) -> list[str]:
        return [line.partition(" ")[0] for line in self.commands]

    def was_sent(self, beginning: str) -> bool:
        """Whether a command came that begins so, as in `Manners.answers`."""
        return any(_is_of(beginning, line) for line in self.commands)

    @property
    def clients(self) -> int:
        """How many clients are being served now."""
        with self._lock:
            return len(self._live)

    def log_out(self) -> None:
        """Log all present sessions out without closing them: each command gets a 530."""
        self.times_logged_out += 1

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = [*self._live, *self._ignored]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def fill(self, listener: socket.socket) -> None:
        """Make connections to it until its queue is full: the kernel drops further SYNs."""
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        with self._lock:
            self._ignored += fillers

    def note(self, line: str) -> None:
        with self._lock:
            self.commands.append(line)
            self.times.append(time.monotonic())

    def _accept(self) -> None:
        while True:
            try:
                control, _ = self._listener.accept()
            except OSError:
                return
            control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                most = self.manners.most_clients
                full = most is not None and len(self._live) >= most
                (self._ignored if full else self._live).append(control)
            if full:
                if self.manners.refusal:
                    with contextlib.suppress(OSError):
                        control.sendall(f"{self.manners.refusal}\r\n".encode())
                    control.close()
                continue
            if self.manners.one_after_another:
                self._serve(control)
            else:
                threading.Thread(target=self._serve, args=(control,), daemon=True).start()

    def _serve(self, control: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, _HungUp):
                _Client(self, control).run()
        finally:
            # The place is free before the client can see that it is.
            with self._lock:
                self._live.remove(control)
            with contextlib.suppress(OSError):
                control.close()


def start(root: Path, manners: Manners | None = None) -> ScriptedServer:
    """Serve `root` to the user `me`, who may do everything."""
    return ScriptedServer(root, manners or Manners())


class _HungUp(Exception):
    """The server ends this connection."""


class _Client:
    """One control connection."""

    def __init__(self, server: ScriptedServer, control: socket.socket) -> None:
        self._server = server
        self._manners = server.manners
        self._control = control
        self._buffer = b""
        self._folder = "/"
        self._offset = 0
        self._old: Path | None = None
        self._passive: socket.socket | None = None
        self._active: tuple[str, int] | None = None  # address on which the client listens
        self._tls: ssl.SSLContext | None = None
        self._protects = False  # data connections use TLS
        self._ways: dict[str, Callable[[str], None]] = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }
        self._last = ""
        self._login = server.times_logged_out  # it counts until the server logs out once more

    def run(self) -> None:
        try:
            self._say(self._manners.greeting)
            while (line := self._line()) is not None:
                self._server.note(line)
                slow = self._manners.slow.items()
                time.sleep(max((took for key, took in slow if _is_of(key, line)), default=0.0))
                self._answer(line)
        finally:
            if self._passive:
                self._passive.close()
            self._control.close()

    def _line(self) -> str | None:
        while b"\n" not in self._buffer:
            data = self._control.recv(4096)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if self._manners.one_command_a_packet:
            self._buffer = b""
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _answer(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        forgotten = self._login != self._server.times_logged_out
        if forgotten and verb.upper() not in self._manners.for_anyone:
            self._say("530 Please login with USER and PASS.")
            return
        fitting = [key for key in self._manners.answers if _is_of(key, line)]
        how = self._manners.answers[max(fitting, key=len)] if fitting else ""
        if passing := self._manners.passing.get(verb.upper()):
            how = passing.pop(0)
        if how == SILENCE:
            return
        if how == STUCK:
            while self._control.recv(4096):
                pass
            raise _HungUp
        if self._old is not None and verb.upper() != "RNTO":  # like ProFTPD
            self._say("501 Bad sequence of commands")
            return
        if how in (FIN, RST):
            self._hang_up(reset=how == RST)
        if how in (BLANK_FIRST, BLANK_ONLY):
            self._say("")
        if how in (WORDS_FIRST, WORDS_ONLY):
            self._say("well then")
        if how in (BLANK_ONLY, WORDS_ONLY):
            return
        if how[:3].isdigit():
            self._old = None
            self._say(how)
            return
        do = self._ways.get(verb.upper())
        if do is None:
            self._say(f"502 {verb} not implemented")
        else:
            do(argument)
        if how == TWICE:
            self._say(self._last)

    def _say(self, text: str) -> None:
        self._last = text
        wire = text.replace("\n", "\r\n") + "\r\n"
        for number, piece in enumerate(
            self._manners.pieces(wire.encode("utf-8", "surrogateescape"))
        ):
            if piece is HANG_UP:
                self._hang_up(reset=False)
            time.sleep(min(number, 1) * 0.001)
            self._control.sendall(piece)

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._control.close()
        raise _HungUp

    # Names.

    def _absolute(self, name: str) -> str:
        return os.path.normpath(os.path.join("/", self._folder, name)).replace("//", "/")

    def _path(self, name: str) -> Path | None:
        """The file's path on the disk; None: the client was told that it does not exist."""
        if self._manners.names_only and "/" in name:
            self._say("550 no paths here")
            return None
        return Path(f"{self._server.root}{self._absolute(name)}")

    def _file(self, name: str) -> Path | None:
        path = self._path(name)
        if path is not None and not path.is_file():
            self._say(f"550 {name}: no such file")
            return None
        return path

    def _is_busy(self, path: Path) -> bool:
        busy = self._manners.is_busy(path)
        if busy:
            self._say(
                "550 The process cannot access the file: it is being used by another process."
            )
        return busy

    # Commands.

    def _do_USER(self, _name: str) -> None:
        self._say("331 password?")

    def _do_PASS(self, word: str) -> None:
        self._say("230 come in" if word == PASSWORD else "530 no")

    def _do_AUTH(self, _: str) -> None:
        if self._manners.certificate is None:
            self._say("502 no TLS here")
            return
        self._say("234 go on")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self._manners.certificate)
        self._control = self._tls.wrap_socket(self._control, server_side=True)

    def _do_PBSZ(self, _: str) -> None:
        self._say("200 PBSZ=0")

    def _do_PROT(self, level: str) -> None:
        self._protects = level == "P"
        self._say("200 so be it")

    def _do_CCC(self, _: str) -> None:
        if isinstance(self._control, ssl.SSLSocket):
            self._say("200 in clear from now on")
            self._control = self._control.unwrap()
        else:
            self._say("533 it is in clear")

    def _do_SYST(self, _: str) -> None:
        self._say("215 UNIX Type: L8")

    def _do_NOOP(self, _: str) -> None:
        self._say("200 yes")

    def _do_QUIT(self, _: str) -> None:
        self._say("221 bye")
        raise _HungUp

    def _do_TYPE(self, kind: str) -> None:
        self._say(f"200 type {kind}")

    def _do_OPTS(self, _: str) -> None:
        self._say("200 so be it")

    def _do_FEAT(self, _: str) -> None:
        lines = "".join(f" {line}\n" for line in self._manners.features)
        self._say(f"211-Features:\n{lines}211 End")

    def _do_PWD(self, _: str) -> None:
        self._say(f'257 "{self._folder}" is where you are')

    def _do_CWD(self, name: str) -> None:
        absolute = self._absolute(name)
        if Path(f"{self._server.root}{absolute}").is_dir():
            self._folder = absolute
            self._say("250 there")
        else:
            self._say("550 no such folder")

    def _do_AVBL(self, _: str) -> None:
        self._say("213 123456789")

    def _do_SITE(self, words: str) -> None:
        what, _, rest = words.partition(" ")
        value, _, name = rest.partition(" ")
        if what not in ("CHMOD", "UTIME"):
            self._say(f"504 no SITE {what}")
        elif what == "UTIME":
            if path := self._file(name):
                _set_time(path, value)
                self._say("200 changed")
        elif folder_or_file := self._path(name):
            self._attempt(lambda: folder_or_file.chmod(int(value, 8)), "200 changed")

    def _do_SIZE(self, name: str) -> None:
        if path := self._file(name):
            self._say(f"213 {path.stat().st_size}")

    def _do_MDTM(self, words: str) -> None:
        sets = _SETS_TIME.match(f"MDTM {words}")
        if sets:
            self._do_MFMT(words)
        elif path := self._file(words):
            self._say(f"213 {_stamp(path)}")

    def _do_MFMT(self, words: str) -> None:
        when, _, name = words.partition(" ")
        if path := self._file(name):
            _set_time(path, when)
            self._say(f"213 Modify={when}; {name}")

    def _do_MFF(self, words: str) -> None:
        fact, _, name = words.partition(" ")
        if path := self._file(name):
            path.chmod(int(fact.removeprefix("UNIX.mode=").rstrip(";"), 8))
            self._say(f"213 {fact} {name}")

    def _do_HASH(self, name: str) -> None:
        if path := self._file(name):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._say(f"213 SHA-256 0-{path.stat().st_size} {digest} {name}")

    def _do_XSHA256(self, name: str) -> None:
        self._sum(name, lambda data: hashlib.sha256(data).hexdigest())

    def _do_XMD5(self, name: str) -> None:
        self._sum(name, lambda data: hashlib.md5(data).hexdigest())

    _do_MD5 = _do_XMD5

    def _do_XCRC(self, name: str) -> None:
        self._sum(name, lambda data: f"{zlib.crc32(data):08X}")

    def _sum(self, name: str, of: Callable[[bytes], str]) -> None:
        if path := self._file(name.strip('"')):
            self._say(f"250 {of(path.read_bytes())}")

    def _do_MLST(self, name: str) -> None:
        path = self._path(name)
        if path is not None and path.exists():
            self._say(f"250-Look:\n {_facts(path)}\n250 End")
        elif path is not None:
            self._say("550 no such file")

    def _do_DELE(self, name: str) -> None:
        path = self._file(name)
        if path is not None and not self._is_busy(path):
            path.unlink()
            self._say("250 gone")

    def _do_MKD(self, name: str) -> None:
        if path := self._path(name):
            self._attempt(path.mkdir, f'257 "{self._absolute(name)}" made')

    def _do_RMD(self, name: str) -> None:
        if path := self._path(name):
            self._attempt(path.rmdir, "250 gone")

    def _do_RNFR(self, name: str) -> None:
        path = self._path(name)
        if path is not None and not path.exists():
            self._say("550 no such file")
        elif path is not None and not self._is_busy(path):
            self._old = path
            self._say("350 to what?")

    def _do_RNTO(self, name: str) -> None:
        old, self._old = self._old, None
        path = self._path(name)
        if path is None:
            return
        if self._manners.never_renames:
            self._say(self._manners.never_renames)
        elif old is None:
            self._say("503 RNFR first")
        elif not self._is_busy(path):
            self._attempt(lambda: old.replace(path), "250 renamed")

    def _attempt(self, do: Callable[[], object], done: str) -> None:
        try:
            do()
        except OSError as error:
            self._say(f"550 {error.strerror}")
        else:
            self._say(done)

    # Data.

    def _do_REST(self, offset: str) -> None:
        self._offset = int(offset)
        self._say("350 go on")

    def _do_EPSV(self, _: str) -> None:
        self._say(f"229 Here (|||{self._listen()}|)")

    def _do_PASV(self, _: str) -> None:
        port = self._listen()
        self._say(f"227 Here (127,0,0,1,{port >> 8},{port & 255})")

    def _do_EPRT(self, words: str) -> None:
        _, _, host, port, _ = words.split(words[0])
        self._active = host, int(port)
        self._say("200 there")

    def _do_PORT(self, words: str) -> None:
        *host, high, low = words.split(",")
        self._active = ".".join(host), int(high) * 256 + int(low)
        self._say("200 there")

    def _listen(self) -> int:
        if self._passive:
            self._passive.close()
        self._passive = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._passive.settimeout(10)
        port: int = self._passive.getsockname()[1]
        fate = next(self._manners.ports, self._manners.data)
        if fate == CLOSED_PORT:
            self._passive.close()
        elif fate == DEAD_PORT:
            self._server.fill(self._passive)
        return port

    def _channel(self) -> socket.socket | None:
        channel = self._plain_channel()
        if channel is None or self._tls is None or not self._protects:
            return channel
        if self._manners.data == TLS_JUNK:
            channel.sendall(b"this is no TLS\r\n")
        if self._manners.data in (TLS_JUNK, TLS_SILENCE):
            while channel.recv(4096):  # until the client hangs up
                pass
            return channel
        return self._tls.wrap_socket(channel, server_side=True)

    def _plain_channel(self) -> socket.socket | None:
        if self._active is not None:
            active, self._active = self._active, None
            if self._manners.data == DEAD_PORT:
                return None
            return socket.create_connection(active, 10)
        listener, self._passive = self._passive, None
        if listener is None:
            self._say("425 PASV first")
            return None
        with listener:
            try:
                channel, _ = listener.accept()
            except OSError:
                self._say("425 nobody came")
                return None
        channel.settimeout(10)
        return channel

    def _send(self, pieces: Iterable[bytes]) -> None:
        self._say("150 here it comes")
        channel = self._channel()
        if channel is None:
            return
        try:
            with channel:
                for piece in pieces:
                    channel.sendall(piece)
                    time.sleep(len(piece) / self._manners.rate)
                _say_end(channel)
        except OSError:
            self._say("426 broken")
        else:
            self._say("226 that was it")

    def _do_RETR(self, name: str) -> None:
        path = self._file(name)
        offset, self._offset = self._offset, 0
        if path is not None:
            with path.open("rb") as file:
                file.seek(offset)
                self._send(iter(lambda: file.read(64 << 10), b""))

    def _do_MLSD(self, name: str) -> None:
        here = self._inside(name)
        self._send(f"{_facts(path)}\r\n".encode("utf-8", "surrogateescape") for path in here)

    def _do_LIST(self, words: str) -> None:
        inside = self._inside(words.removeprefix("-a").lstrip())
        self._send(f"{_long(path)}\r\n".encode("utf-8", "surrogateescape") for path in inside)

    def _inside(self, name: str) -> list[Path]:
        """What is in the folder of that name ("": the current one); nothing if it is missing."""
        folder = Path(f"{self._server.root}{self._absolute(name)}")
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _do_STOR(self, name: str) -> None:
        self._store(name, "r+b" if self._offset else "wb")

    def _do_APPE(self, name: str) -> None:
        self._store(name, "wb" if self._manners.append_replaces else "ab")

    def _store(self, name: str, mode: str) -> None:
        path = self._path(name)
        offset, self._offset = self._offset, 0
        if path is None or self._is_busy(path):
            return
        try:
            with path.open(mode) as file:
                if offset:
                    file.seek(offset)
                self._say("150 send it")
                if (channel := self._channel()) is None:
                    return
                with channel:
                    shutil.copyfileobj(channel.makefile("rb"), file)
        except OSError as error:
            self._say(f"553 {error.strerror}")
            return
        if self._manners.hot_folder:
            self._server.taken.append((path.name, path.read_bytes()))
            path.unlink()
        self._say("226 stored")


def _is_of(beginning: str, line: str) -> bool:
    """Whether the command line begins with these words."""
    known_as = _SETS_TIME.sub("MDTM time ", line)
    return any(f"{each} ".startswith(f"{beginning} ") for each in (line, known_as))


def _stamp(path: Path) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(path.stat().st_mtime))


def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y%m%d%H%M%S"))


def _set_time(path: Path, stamp: str) -> None:
    os.utime(path, (_seconds(stamp),) * 2)


def _facts(path: Path) -> str:
    if path.is_dir():
        return f"type=dir;modify={_stamp(path)}; {path.name}"
    return f"type=file;size={path.stat().st_size};modify={_stamp(path)}; {path.name}"


def _say_end(channel: socket.socket) -> None:
    """Over TLS, tell that all was sent. curl 8.14 takes the end for a cut without it."""
    if isinstance(channel, ssl.SSLSocket):
        channel.setblocking(False)  # does not wait for the client to say the same
        with contextlib.suppress(ssl.SSLWantReadError):
            channel.unwrap()


def _long(path: Path) -> str:
    about = path.stat()
    when = time.strftime("%b %d %H:%M", time.gmtime(about.st_mtime))
    kind = "drwxr-xr-x" if path.is_dir() else "-rw-r--r--"
    return f"{kind} 1 me us {about.st_size} {when} {path.name}"
