"""One logged-in session: its conversation, and the opening of its data connections.

Owns: logging in, sending commands and reading their replies (one by one or pipelined), opening data
connections (EPSV, PASV, active mode), and the way back after a download was left early; each step
with its deadline. Owns no policy: it never retries and does not know about other sessions; what to
send is up to `lister` and `remote`. The bytes of a transfer are moved by `data`.

Threading: a session belongs to one thread at a time (the pool's lease says whose).
"""

from __future__ import annotations

import contextlib
import ftplib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from ftpfs import errors
from ftpfs.config import DataMode, Network, Server, Tls
from ftpfs.ftp.control import Control, Reply, login_error, mapped, reason_of
from ftpfs.ftp.data import Download, Upload
from ftpfs.ftp.profile import Passive, Profile

log = logging.getLogger(__name__)

# Replies in flight while pipelining. 500 were answered by all four servers measured; at some 30
# bytes a command and 60 a reply neither side's socket buffer (>= 16 KiB, in practice 128) fills.
PIPELINE_WINDOW = 128
# Bytes of commands in flight in `ask`. 10,000 MDTMs to vsftpd at 20 ms: 1.75 s with 128 commands in
# flight, 0.84 s with 16 KiB of them, 0.45 s with 32 KiB and with more.
ASK_WINDOW = 32 << 10
# Questions between two NOOPs.
GUARD_DISTANCE = 100
_GUARD = b"NOOP\r\n"
# How long a session that left a download early may take to say so before it is given up.
ABORT_TIMEOUT = 5.0
# For the rest of a line that an idle session began unasked.
STRAY_TIMEOUT = 1.0
# One read of a data connection while listing.
LIST_CHUNK = 256 << 10
# A directory of a million entries is some 100 MB; what is bigger is an attack or a fault.
MAX_LISTING = 1 << 30


class Session:
    """A logged-in control connection."""

    def __init__(self, server: Server, network: Network, profile: Profile) -> None:
        """Connects and logs in.

        Raises UnknownHost, ConnectionRefused, DeadlineExceeded, ConnectionLost, TlsError,
        ServerBusy (421: too many connections), LoginFailed.
        """
        self.alive = False
        self.profile = profile
        self.used_at = time.monotonic()  # when bytes last went either way
        self._server = server
        self._network = network
        self._text_mode: bool | None = None
        self._codec = server.encoding
        self._listens = server.data_mode is DataMode.ACTIVE
        self._control = Control(server, network)
        try:
            with mapped(f"connecting to {server.host}:{server.port}"):
                self._control.open()
            with mapped("logging in"):
                self._login()
            self._look_around()
        except BaseException:
            self._control.drop()
            raise
        self.alive = True

    # Conversation.

    def command(self, line: str) -> Reply:
        """Send one command and read its reply, whatever it is.

        Raises InvalidName (CR, LF or NUL in it; nothing was sent), DeadlineExceeded,
        ConnectionLost (421 too).
        """
        return self.exchange([line])[0]

    def exchange(self, lines: Sequence[str]) -> list[Reply]:
        """Send several commands, in as few round trips as this server can take; their replies.

        Never while a transfer is in flight (proftpd hangs, pyftpdlib runs ahead of the STOR).
        """
        wire = [self._encode(line) for line in lines]
        window = PIPELINE_WINDOW if self.profile.pipelining else 1
        replies: list[Reply] = []
        sent = 0
        with self._conversation():
            while len(replies) < len(wire):
                # Refill in halves: one segment carries many commands.
                if sent < len(wire) and sent - len(replies) <= window // 2:
                    batch = wire[sent : len(replies) + window]
                    self._control.send(b"".join(batch))
                    sent += len(batch)
                replies.append(self._reply())
        return replies

    def ask(self, lines: Sequence[str]) -> list[str]:
        """`exchange` for any number of questions: the last line of each reply, code and all.

        For commands that are never answered by 200, which is what the NOOPs between them bring: a
        reply missing or too many is noticed there. Then nothing of the batch is believed, this
        session is over (ConnectionLost), and on the next one the questions go out one by one.
        """
        if not self.profile.pipelining:
            return [self.command(line).lines[-1] for line in lines]
        wire = self._encode_guarded(lines)
        answers: list[str] = []
        got = sent = in_flight = 0  # replies; commands; bytes of those without a reply
        with self._conversation():
            # What fits into this side's own send buffer never waits for a server that itself waits
            # for us to read its replies.
            window = min(ASK_WINDOW, self._control.send_buffer() // 2)
            while got < len(wire):
                if in_flight <= window // 2:  # in halves: one segment carries many commands
                    start = sent
                    while sent < len(wire) and in_flight < window:
                        in_flight += len(wire[sent])
                        sent += 1
                    self._control.send(b"".join(wire[start:sent]))
                for line in self._control.final_lines(sent - got, self._network.reply_timeout):
                    if (wire[got] is _GUARD) is not line.startswith("200"):
                        self._mismatch(line)
                    if wire[got] is not _GUARD:
                        answers.append(line)
                    in_flight -= len(wire[got])
                    got += 1
        return answers

    def require(self, line: str) -> Reply:
        """`command`, but a refusal is raised as the error it means."""
        return self.command(line).check()

    def send(self, line: str) -> None:
        """Send one command without waiting; `receive` reads its reply."""
        wire = self._encode(line)
        with self._conversation():
            self._control.send(wire)

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply. `timeout` in seconds, else the reply deadline."""
        with self._conversation():
            return self._reply(timeout)

    def fresh(self) -> bool:
        """Whether the idle session still looks usable, without a round trip.

        A server that dropped us has sent 421 or closed: both make the socket readable. Whatever
        else came unasked could be taken for the answer to the next command, so it costs the
        session, too.
        """
        try:
            if self.alive and self._control.readable():
                stray = self._control.reply(STRAY_TIMEOUT)
                log.info("unasked-for reply: %s", errors.printable(stray.lines[-1]))
                self.alive = False
        except (OSError, EOFError, errors.FtpfsError):
            self.alive = False
        return self.alive

    @property
    def data_timeout(self) -> float:
        """Seconds within which something has to move on a data connection."""
        return self._network.data_timeout

    def has_spoken(self) -> bool:
        """Whether something of the server waits to be read. Never waits."""
        with self._conversation():
            return self._control.readable()

    def decode(self, wire: str) -> str:
        """A name or path out of a reply, as the rest of ftpfs writes it."""
        return self.decode_bytes(wire.encode("latin-1"))

    def decode_bytes(self, raw: bytes) -> str:
        """A name as it came over a data connection."""
        return raw.decode(self._codec, "surrogateescape")

    def close(self) -> None:
        """Say QUIT and hang up. Never raises, never waits long."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(OSError, EOFError, errors.FtpfsError):
                self._control.send(b"QUIT\r\n")
        self._control.drop()

    def drop(self) -> None:
        """Hang up without a word: the conversation is broken."""
        self.alive = False
        self._control.drop()

    # Transfers.

    def download(
        self,
        path: str,
        offset: int = 0,
        *,
        text: bool = False,
        done: Callable[[], None] | None = None,
    ) -> Download:
        """Start a RETR at `offset` bytes. `done` is called when the download is closed."""
        self._set_type(text=text)
        channel, _ = self._start(f"RETR {path}", offset)
        return Download(self, channel, done)

    def upload(
        self,
        path: str,
        offset: int = 0,
        *,
        append: bool = False,
        text: bool = False,
        before: Sequence[str] = (),
        done: Callable[[], None] | None = None,
    ) -> Upload:
        """Start a STOR (with REST when `offset`), or an APPE.

        The commands `before` it cost no round trip of their own; their replies are the upload's
        `before`, whatever they are.
        """
        self._set_type(text=text)
        command = f"{'APPE' if append else 'STOR'} {path}"
        channel, replies = self._start(command, offset, before)
        return Upload(self, channel, done, replies)

    def listing(self, command: str, before: Sequence[str] = ()) -> tuple[bytes, str]:
        """All that a listing command sends over its data connection, and the final reply's text.

        The commands `before` it (CWD) cost no round trip of their own; when one of them is refused,
        NotPrepared is raised, and nothing of the listing is believed.

        Raises what the transfer raises; a listing cut short is never returned as if it were whole,
        as far as anyone can tell: pyftpdlib says 226 when the connection was closed under it, and
        then only a last line without its end shows it.
        """
        channel, _ = self._start(command, 0, before, required=True)
        with Download(self, channel, None) as download:
            chunks = []
            total = 0
            while True:
                buffer = bytearray(LIST_CHUNK)
                count = download.readinto(memoryview(buffer))
                if not count:
                    break
                del buffer[count:]
                chunks.append(buffer)
                total += count
                if total > MAX_LISTING:
                    raise errors.ProtocolError(f"a listing of more than {MAX_LISTING} bytes")
        data = b"".join(chunks)
        if data and not data.endswith(b"\n"):
            raise errors.DataConnectionFailed("the listing ends in the middle of a line")
        return data, download.final_text

    # Inside.

    def _reply(self, timeout: float | None = None) -> Reply:
        """The next reply, inside a `_conversation`; 421 means that it was the last."""
        reply = self._control.reply(timeout or self._network.reply_timeout)
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)
        return reply

    def _encode_guarded(self, lines: Sequence[str]) -> list[bytes]:
        wire = []
        for number, line in enumerate(lines, 1):
            wire.append(self._encode(line))
            if not number % GUARD_DISTANCE:
                wire.append(_GUARD)
        if wire and wire[-1] is not _GUARD:
            wire.append(_GUARD)
        return wire

    def _mismatch(self, line: str) -> NoReturn:
        """A reply to pipelined commands that cannot be the one to the command in its place."""
        if line.startswith("421"):
            raise errors.from_reply(421, line[4:])
        self.profile.pipelining = False
        log.warning("this server loses count of pipelined commands; they go out one by one now")
        raise errors.ConnectionLost("replies to pipelined commands do not match; starting over")

    def _encode(self, line: str) -> bytes:
        if "\r" in line or "\n" in line or "\0" in line:
            raise errors.InvalidName("a name with CR, LF or NUL in it cannot be sent over FTP")
        try:
            wire = line.encode(self._codec, "surrogateescape")
        except UnicodeEncodeError as error:
            raise errors.InvalidName(
                f"a name that {self._codec} cannot write: {errors.printable(line)}"
            ) from error
        if self._control.telnet:
            wire = wire.replace(b"\xff", b"\xff\xff")
        return wire + b"\r\n"

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[None]:
        """Any failure inside leaves the session unusable: replies could no longer be matched."""
        self.used_at = time.monotonic()
        try:
            with mapped("waiting for a reply"):
                yield
        except BaseException:
            self.drop()
            raise

    def _login(self) -> None:
        if self._server.tls is Tls.EXPLICIT:
            self._control.secure()
        user, password = self._server.user, self._server.password.reveal()
        if any(c in user + password for c in "\r\n\0"):
            raise errors.InvalidArgument("a user name or password with CR, LF or NUL in it")
        # ftplib speaks latin-1 here: give it the bytes of the encoding in that form.
        try:
            name = user.encode(self._codec, "surrogateescape").decode("latin-1")
            wire = password.encode(self._codec, "surrogateescape").decode("latin-1")
        except UnicodeEncodeError:
            raise errors.InvalidArgument(
                f"a user name or password that {self._codec} cannot write"
            ) from None
        self._control.deadline = time.monotonic() + self._network.reply_timeout
        try:
            self._control.login(name, wire, secure=False)
        except ftplib.Error as error:
            # A server may quote what we sent; `from None`, or a traceback would quote it too.
            reply = str(error).replace(wire, "***") if wire else str(error)
            if self._server.tls is Tls.OFF and _DEMANDS_TLS.search(reply):
                raise errors.TlsError(
                    f"the server demands TLS (use ftpes:// or ftps://): {errors.printable(reply)}"
                ) from None
            raise login_error(reply) from None
        if self._server.tls is not Tls.OFF:
            self._control.deadline = time.monotonic() + self._network.reply_timeout
            self._control.prot_p()

    def _look_around(self) -> None:
        """Set the session up; the first one of a server also asks what the server can do."""
        profile = self.profile
        if not profile.known:
            profile.welcome = self.decode(self._control.welcome or "")
            feat = self.command("FEAT")
            profile.read_features(feat.lines[1:-1] if feat.ok else ())
            system = self.command("SYST")
            profile.system = system.text if system.ok else ""
        settings = ["TYPE I"]
        if profile.utf8 and self._codec == "utf-8":
            settings.append("OPTS UTF8 ON")
        if profile.mlst_options:
            settings.append(profile.mlst_options)
        if not profile.home:
            settings.append("PWD")
        replies = self.exchange(settings)
        self._text_mode = not replies[0].ok
        if not profile.home:
            profile.home = self._read_home(replies[-1])
        profile.known = True

    def _read_home(self, reply: Reply) -> str:
        if reply.code != 257:  # RFC 959: 257 "PATHNAME", with quotes doubled inside
            return "/"
        line = reply.lines[-1]
        if "vsftpd" in self.profile.welcome.lower():
            # It doubles byte 255 (Telnet's IAC) in this reply, and nowhere else, nor in commands.
            line = line.replace("\xff\xff", "\xff")
        quoted = re.match(r'257[ -]"((?:[^"]|"")*)"', line)
        home = self.decode(quoted.group(1).replace('""', '"')) if quoted else "/"
        return home or "/"

    def _set_type(self, *, text: bool) -> None:
        if self._text_mode is not text:
            self.require("TYPE A" if text else "TYPE I")
            self._text_mode = text

    # Data connections.

    def _start(
        self, command: str, offset: int, before: Sequence[str] = (), *, required: bool = False
    ) -> tuple[socket.socket, list[Reply]]:
        """Open a data connection and start a transfer on it, after the commands `before` it.

        The connection, and the replies to `before`; with `required` each of those has to go well.
        """
        self._encode(command)  # a bad name is found out before a connection is made for it
        channel, replies = self._open_channel(before, required=required)
        try:
            lines = [f"REST {offset}", command] if offset else [command]
            with self._conversation():
                self._control.send(b"".join(self._encode(line) for line in lines))
                restart = self._reply() if offset else None
                reply = self._reply()
                if 200 <= reply.code < 300:  # some send a 2xx of their own before the 1xx
                    reply = self._reply()
            reply.check()
            if self._listens:
                channel = self._accept(channel)
            if restart is not None and not restart.ok:
                self.leave(channel)
                self.profile.rest = False
                raise errors.NotSupported("the server cannot start in the middle of a file")
            return self._protect(channel), replies
        except BaseException:
            channel.close()
            raise

    def _open_channel(
        self, before: Sequence[str], *, required: bool
    ) -> tuple[socket.socket, list[Reply]]:
        """A new data connection (in active mode: where it will come in); the replies to `before`.

        Where it is known how to ask for the port, that goes out together with `before`.
        """
        way = None if self._listens else self.profile.passive
        replies = self.exchange([*before, way.value] if way else before)
        port_reply = replies.pop() if way else None
        if required:
            _check_prepared(replies)
        if self._listens:
            return self._listen(), replies
        if way and port_reply:
            return self._dial(_port_in(way, port_reply)), replies
        return self._find_passive(), replies

    def _find_passive(self) -> socket.socket:
        """The first passive data connection to a server: which command does it take?"""
        try:
            channel = self._dial(self._ask_port(Passive.EPSV))
            self.profile.passive = Passive.EPSV
        except (errors.NotSupported, errors.Refused, errors.InvalidArgument):
            pass
        except errors.DeadlineExceeded:
            # Firewalls that do not know EPSV swallow it. This session is lost; the next one knows.
            self.profile.passive = Passive.PASV
            raise
        except errors.DataConnectionFailed:
            # EPSV answered, but its port leads nowhere: routers that rewrite PASV only.
            log.info("no data connection by EPSV, trying PASV")
        else:
            return channel
        channel = self._dial(self._ask_port(Passive.PASV))
        self.profile.passive = Passive.PASV
        return channel

    def _ask_port(self, way: Passive) -> int:
        return _port_in(way, self.command(way.value))

    def _dial(self, port: int) -> socket.socket:
        """Connect to `port` of the host that the control connection goes to.

        Never to the address in a PASV reply: behind NAT it is private or 0.0.0.0, and a hostile
        server could point it at a third party.
        """
        if not 0 < port < 65536:
            raise errors.DataConnectionFailed(f"the server offered port {port}")
        began = time.monotonic()
        try:
            channel = socket.create_connection(
                (self._control.peer, port), timeout=self._network.connect_timeout
            )
        except OSError as error:
            raise errors.DataConnectionFailed(
                f"no data connection to port {port}: {reason_of(error)}"
            ) from error
        self.profile.saw_handshake(time.monotonic() - began)
        return channel

    def _listen(self) -> socket.socket:
        """Active mode: listen on the address that the server knows us by, and tell it the port."""
        family = self._control.family
        host = self._control.own_address
        listener = socket.create_server((host, 0), family=family, backlog=1)
        listener.settimeout(self._network.connect_timeout)
        port = listener.getsockname()[1]
        number = 2 if family == socket.AF_INET6 else 1  # RFC 2428, 2
        try:
            reply = self.command(f"EPRT |{number}|{host}|{port}|")
            if not reply.ok and family == socket.AF_INET:
                address = host.replace(".", ",")
                reply = self.command(f"PORT {address},{port >> 8},{port & 255}")
            reply.check()
        except BaseException:
            listener.close()
            raise
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        with listener:
            try:
                channel, peer = listener.accept()
            except OSError as error:
                raise errors.DataConnectionFailed(
                    f"the server made no data connection to us: {reason_of(error)}"
                ) from error
        if peer[0] != self._control.peer:
            channel.close()
            raise errors.DataConnectionFailed(f"a stranger connected from {peer[0]}")
        return channel

    def _protect(self, channel: socket.socket) -> socket.socket:
        channel.settimeout(self._network.data_timeout)
        if self._server.tls is Tls.OFF:
            return channel
        with self._conversation(), mapped("the TLS handshake of a data connection"):
            wrapped = self._control.wrap_data(channel)
            # pure-ftpd sends a listing in pieces with Nagle on, and so waits for our delayed ACK:
            # 45 ms a directory under TLS, 12 without the delay.
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return wrapped

    def leave(self, channel: socket.socket) -> None:
        """Close a data connection that the server still sends on, and find the way back.

        Servers answer with one reply (426, 226, or 150 again from pure-ftpd) or with two; so a
        NOOP is sent after the first, and all up to its 200 belongs to the past.
        """
        channel.close()
        try:
            with self._conversation():
                self._reply(ABORT_TIMEOUT)
                self._control.send(b"NOOP\r\n")
                for _ in range(4):
                    if self._reply(ABORT_TIMEOUT).code == 200:
                        return
                raise errors.ProtocolError("no way back after an aborted transfer")
        except errors.FtpfsError as error:
            self.drop()
            log.info("session given up after an aborted transfer: %s", error)

    def finish_transfer(self) -> Reply:
        """Read the reply that ends a transfer; raise if it is a refusal."""
        reply = self.receive(self._network.finish_timeout)
        if reply.code < 200:  # a second 1xx: harmless, the final one follows
            reply = self.receive(self._network.finish_timeout)
        return reply.check()


def _check_prepared(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if not reply.ok:
            raise errors.NotPrepared(errors.from_reply(reply.code, reply.text))


def _port_in(way: Passive, reply: Reply) -> int:
    reply.check()
    found = (_EPSV if way is Passive.EPSV else _PASV).search(reply.lines[-1])
    if not found:
        raise errors.DataConnectionFailed(
            f"no port in the reply to {way.value}: {errors.printable(reply.lines[-1])}"
        )
    if way is Passive.EPSV:
        return int(found.group(2))
    return int(found.group(1)) * 256 + int(found.group(2))


# There is no one code for it: 421 (pure-ftpd), 530 (vsftpd), 550 (proftpd, pyftpdlib).
_DEMANDS_TLS = re.compile(r"\b(?:TLS|SSL|encryption|cleartext)\b", re.IGNORECASE)
_EPSV = re.compile(r"\((.)\1\1(\d{1,5})\1\)")  # RFC 2428, 3: (|||port|), any delimiter
_PASV = re.compile(r"\d+,\d+,\d+,\d+,(\d{1,3}),(\d{1,3})")  # RFC 1123, 4.1.2.6: find the digits
