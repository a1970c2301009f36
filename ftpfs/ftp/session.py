"""One control connection, on ftplib; its data connections; raw failures become ftpfs.errors here.

Owns: connecting, logging in, TLS, sending commands and reading replies (one by one or pipelined),
opening data connections, and the deadline of each of these steps. Owns no policy: it never retries
and does not know about other sessions; what to send is up to `lister` and `remote`.

ftplib is the base: greeting, multi-line replies, login, AUTH and PROT are its own. What it lacks is
added here: a deadline for a reply as a whole, EPSV before PASV on IPv4, TLS session reuse on data
connections, pipelining, and a way back after a download was left early.

Threading: a session belongs to one thread at a time (the pool's lease says whose).
"""

from __future__ import annotations

import contextlib
import ftplib
import logging
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from ftpfs import errors
from ftpfs.config import DataMode, Network, Server, Tls
from ftpfs.ftp.profile import Passive, Profile

log = logging.getLogger(__name__)

# A line longer than this is no FTP; ftplib's own limit is 8 KiB, too short for a path in a reply
# that quotes a name of 255 four-byte characters twice.
MAX_LINE = 64 << 10
# Lines of one reply: banners of 100 lines exist, HELP is shorter; without a bound a server could
# feed us for ever inside one deadline.
MAX_REPLY_LINES = 20_000
# Replies in flight while pipelining. 500 were answered by all four servers measured; at some 30
# bytes a command and 60 a reply neither side's socket buffer (>= 16 KiB, in practice 128) fills.
PIPELINE_WINDOW = 128
# How long a session that left a download early may take to say so before it is given up.
ABORT_TIMEOUT = 5.0
# For the rest of a line that an idle session began unasked.
STRAY_TIMEOUT = 1.0
# One read of a data connection while listing.
LIST_CHUNK = 256 << 10
# A directory of a million entries is some 100 MB; what is bigger is an attack or a fault.
MAX_LISTING = 1 << 30


@dataclass(frozen=True)
class Reply:
    """One reply: its code, and its lines as sent (latin-1 text: byte for byte)."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The last line without its code."""
        return self.lines[-1][4:]

    @property
    def ok(self) -> bool:
        return self.code < 400

    def check(self) -> Reply:
        """Itself, or the error that a refusal means."""
        if not self.ok:
            raise errors.from_reply(self.code, self.text)
        return self


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
        self._control = _Control(server, network)
        try:
            with _mapped(f"connecting to {server.host}:{server.port}"):
                self._control.open()
            with _mapped("logging in"):
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
        channel = self._start(f"RETR {path}", offset)
        return Download(self, channel, done)

    def upload(
        self,
        path: str,
        offset: int = 0,
        *,
        append: bool = False,
        text: bool = False,
        done: Callable[[], None] | None = None,
    ) -> Upload:
        """Start a STOR (with REST when `offset`), or an APPE."""
        self._set_type(text=text)
        channel = self._start(f"{'APPE' if append else 'STOR'} {path}", offset)
        return Upload(self, channel, done)

    def listing(self, command: str) -> tuple[bytes, str]:
        """All that a listing command sends over its data connection, and the final reply's text.

        Raises what the transfer raises; a listing cut short is never returned as if it were whole,
        as far as anyone can tell: pyftpdlib says 226 when the connection was closed under it, and
        then only a last line without its end shows it.
        """
        with Download(self, self._start(command, 0), None) as download:
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

    def _encode(self, line: str) -> bytes:
        if any(c in line for c in "\r\n\0"):
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
            with _mapped("waiting for a reply"):
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
        self._control.deadline = time.monotonic() + self._network.reply_timeout
        try:
            self._control.login(
                user.encode(self._codec).decode("latin-1"),
                password.encode(self._codec).decode("latin-1"),
                secure=False,
            )
        except ftplib.Error as error:
            # A server may quote what we sent; `from None`, or a traceback would quote it too.
            reply = str(error).replace(password, "***") if password else str(error)
            if self._server.tls is Tls.OFF and _DEMANDS_TLS.search(reply):
                raise errors.TlsError(
                    f"the server demands TLS (use ftpes:// or ftps://): {errors.printable(reply)}"
                ) from None
            raise _login_error(reply) from None
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

    def _start(self, command: str, offset: int) -> socket.socket:
        """Open a data connection, send REST and `command` in one write; the connection, ready."""
        self._encode(command)  # a bad name is found out before a connection is made for it
        listening = self._server.data_mode is DataMode.ACTIVE
        channel = self._listen() if listening else self._connect_passive()
        try:
            lines = [f"REST {offset}", command] if offset else [command]
            with self._conversation():
                self._control.send(b"".join(self._encode(line) for line in lines))
                restart = self._reply() if offset else None
                reply = self._reply()
                if 200 <= reply.code < 300:  # some send a 2xx of their own before the 1xx
                    reply = self._reply()
            reply.check()
            if listening:
                channel = self._accept(channel)
            if restart is not None and not restart.ok:
                self._leave(channel)
                self.profile.rest = False
                raise errors.NotSupported("the server cannot start in the middle of a file")
            return self._protect(channel)
        except BaseException:
            channel.close()
            raise

    def _connect_passive(self) -> socket.socket:
        way = self.profile.passive
        if way is not None:
            return self._dial(self._ask_port(way))
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
        reply = self.require(way.value)
        pattern = _EPSV if way is Passive.EPSV else _PASV
        found = pattern.search(reply.lines[-1])
        if not found:
            raise errors.DataConnectionFailed(
                f"no port in the reply to {way.value}: {errors.printable(reply.lines[-1])}"
            )
        if way is Passive.EPSV:
            return int(found.group(2))
        return int(found.group(1)) * 256 + int(found.group(2))

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
                f"no data connection to port {port}: {_reason(error)}"
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
                    f"the server made no data connection to us: {_reason(error)}"
                ) from error
        if peer[0] != self._control.peer:
            channel.close()
            raise errors.DataConnectionFailed(f"a stranger connected from {peer[0]}")
        return channel

    def _protect(self, channel: socket.socket) -> socket.socket:
        channel.settimeout(self._network.data_timeout)
        if self._server.tls is Tls.OFF:
            return channel
        with self._conversation(), _mapped("the TLS handshake of a data connection"):
            wrapped = self._control.wrap_data(channel)
            # pure-ftpd sends a listing in pieces with Nagle on, and so waits for our delayed ACK:
            # 45 ms a directory under TLS, 12 without the delay.
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return wrapped

    def _leave(self, channel: socket.socket) -> None:
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


_TIMEVAL = struct.Struct("@ll")  # struct timeval; Python has no other way to set SO_RCVTIMEO

# There is no one code for it: 421 (pure-ftpd), 530 (vsftpd), 550 (proftpd, pyftpdlib).
_DEMANDS_TLS = re.compile(r"\b(?:TLS|SSL|encryption|cleartext)\b", re.IGNORECASE)
_EPSV = re.compile(r"\((.)\1\1(\d{1,5})\1\)")  # RFC 2428, 3: (|||port|), any delimiter
_PASV = re.compile(r"\d+,\d+,\d+,\d+,(\d{1,3}),(\d{1,3})")  # RFC 1123, 4.1.2.6: find the digits


class Download:
    """A RETR (or listing) in flight. Close it, or leave its `with`: that ends the transfer."""

    def __init__(
        self, session: Session, channel: socket.socket, done: Callable[[], None] | None
    ) -> None:
        self._session = session
        self._channel = channel
        self._done = done
        self._ended = False
        self._closed = False
        self.final_text = ""  # all lines of the final reply, once all has come
        self._plain = not isinstance(channel, ssl.SSLSocket)
        if self._plain:
            # The kernel's own timeout: Python's would poll before each recv, and make it return
            # with what is there, where a block is wanted whole.
            seconds, fraction = divmod(session.data_timeout, 1)
            channel.settimeout(None)
            channel.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_RCVTIMEO,
                _TIMEVAL.pack(int(seconds), int(fraction * 1e6)),
            )

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
            self._break()
            raise _data_error(error) from error
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
                raise _data_error(error) from error
            self._session.used_at = time.monotonic()
            if not piece:
                self._end()
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_by_pieces(self, size: int) -> bytes:
        """TLS hands out a record at a time, of 16 KiB at most."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size and (count := self.readinto(view[filled:])):
            filled += count
        return bytes(view[:filled])

    def close(self) -> None:
        """End the transfer, wherever it is; early if need be. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._ended and self._session.alive:
                self._session._leave(self._channel)
            self._channel.close()
        finally:
            if self._done:
                self._done()

    def _end(self) -> None:
        self._ended = True
        _say_end(self._channel, 0)
        self._channel.close()
        self.final_text = "\n".join(self._session.finish_transfer().lines)

    def _break(self) -> None:
        """The data connection failed: the server may still tell why, but is not waited for."""
        self._ended = True
        self._channel.close()
        self._session.drop()

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Upload:
    """A STOR or APPE in flight. `finish` it; leaving the `with` without that aborts."""

    def __init__(
        self, session: Session, channel: socket.socket, done: Callable[[], None] | None
    ) -> None:
        self._session = session
        self._channel = channel
        self._done = done
        self._ended = False
        self._closed = False

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

    def finish(self) -> None:
        """Say that this was all, and wait until the server says that it has it.

        The connection is closed only after that: closing it with something unread in it (TLS 1.3
        session tickets) would reset it, and take the tail of the file along.
        """
        self._ended = True
        _say_end(self._channel, self._session.data_timeout)
        try:
            self._session.finish_transfer()
        finally:
            self._channel.close()

    def close(self) -> None:
        """End the transfer; without `finish`, what the server has is a torn file. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._ended and self._session.alive:
                self._session._leave(self._channel)
            self._channel.close()
        finally:
            if self._done:
                self._done()

    def _refusal(self, error: OSError) -> errors.FtpfsError:
        """What the server says about a data connection that broke off, else that it did."""
        self._ended = True
        self._channel.close()
        session = self._session
        try:
            # After a deadline the server may have spoken already, but is not waited for again.
            if not isinstance(error, TimeoutError) or session.has_spoken():
                session.receive().check()
        except errors.FtpfsError as refusal:
            return refusal
        session.drop()
        return _data_error(error)

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Control(ftplib.FTP_TLS):
    """ftplib's FTP_TLS with our own reading: deadlines for whole replies, no lines left in a file.

    Its text is latin-1 in both directions, so that every byte passes; `Session` does the encoding.
    """

    maxline = MAX_LINE

    def __init__(self, server: Server, network: Network) -> None:
        # ftplib makes its own unverified context when given none, so it always gets one; loading
        # the system's authorities costs 20 ms and is left out where there is no TLS.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if server.tls is not Tls.OFF:
            context = tls_context(server)
        super().__init__(context=context, encoding="latin-1")
        self._server = server
        self._network = network
        self._buffer = bytearray()
        self.deadline = 0.0
        # Whether the server reads the control connection as Telnet (RFC 854), where byte 255 is
        # doubled. RFC 959 has it so, but of the four servers measured only proftpd does; to the
        # others the second byte is a part of the name. None of them doubles it in a listing.
        self.telnet = False
        self.peer = ""
        self.own_address = ""
        self.family = socket.AF_INET

    def open(self) -> None:
        """Connect and read the greeting (421: ServerBusy)."""
        self.host = self._server.host
        self.port = self._server.port
        self.timeout = self._network.reply_timeout
        sock = socket.create_connection(
            (self.host, self.port), timeout=self._network.connect_timeout
        )
        # Small commands go out at once; with Nagle the second of two writes waits for an ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A server that vanished without a word is noticed while the session is idle, too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock = sock
        self.family = sock.family
        self.af = sock.family
        self.peer = sock.getpeername()[0]
        self.own_address = sock.getsockname()[0]
        if self._server.tls is Tls.IMPLICIT:
            self.sock = self.context.wrap_socket(sock, server_hostname=self.host)
        greeting = self.reply(self._network.reply_timeout)
        if greeting.code == 421:
            raise errors.ServerBusy(f"server replied 421: {errors.printable(greeting.text)}")
        greeting.check()
        self.welcome = "\n".join(greeting.lines)
        self.telnet = "proftpd" in self.welcome.lower()

    def secure(self) -> None:
        """AUTH TLS. What a man in the middle sent ahead of the handshake is thrown away."""
        self.deadline = time.monotonic() + self._network.reply_timeout
        try:
            self.auth()
        except ftplib.error_perm as error:
            raise errors.TlsError(
                f"the server offers no TLS: {errors.printable(str(error))}"
            ) from error
        self._buffer.clear()

    def wrap_data(self, channel: socket.socket) -> socket.socket:
        """TLS on a data connection, resuming the control connection's session.

        vsftpd (require_ssl_reuse), ProFTPD and FileZilla Server refuse anything else. The newest
        session is taken each time: TLS 1.3 tickets are for one use.
        """
        control = self.sock
        session = control.session if isinstance(control, ssl.SSLSocket) else None
        return self.context.wrap_socket(channel, server_hostname=self.host, session=session)

    def send(self, wire: bytes) -> None:
        sock = self._socket()
        sock.settimeout(self._network.reply_timeout)
        sock.sendall(wire)

    def reply(self, timeout: float) -> Reply:
        """Read one reply, within `timeout` seconds for all of it."""
        self.deadline = time.monotonic() + timeout
        lines = self.getmultiline().split("\n")
        code = lines[-1][:3]
        if not (code.isascii() and code.isdigit() and "1" <= code[0] <= "6"):
            raise errors.ProtocolError(f"not an FTP reply: {errors.printable(lines[-1][:80])}")
        return Reply(int(code), tuple(lines))

    def getmultiline(self) -> str:
        """ftplib's, with a bound on the number of lines (it has none)."""
        line = self.getline()
        if line[3:4] != "-":
            return line
        lines = [line]
        code = line[:3]
        while True:
            line = self.getline()
            lines.append(line)
            if line[:3] == code and line[3:4] != "-":
                return "\n".join(lines)
            if len(lines) > MAX_REPLY_LINES:
                raise errors.ProtocolError(f"a reply of more than {MAX_REPLY_LINES} lines")

    def getline(self) -> str:
        """One line without its end. Overrides ftplib's, which waits anew for every byte."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > MAX_LINE:
                raise errors.ProtocolError(f"a reply line of more than {MAX_LINE} bytes")
            sock = self._socket()
            if (left := self.deadline - time.monotonic()) <= 0:
                raise TimeoutError  # a server that drips its reply must not extend the deadline
            sock.settimeout(left)
            received = sock.recv(64 << 10)
            if not received:
                raise EOFError
            self._buffer += received
        line = self._buffer[:end]
        del self._buffer[: end + 1]
        return line.rstrip(b"\r").decode("latin-1")

    def readable(self) -> bool:
        """Whether something has come that nobody read. Raises EOFError if it is the end."""
        if self._buffer:
            return True
        sock = self._socket()
        sock.settimeout(0)
        try:
            # Not just a poll: under TLS what has come may be a session ticket and no reply.
            received = sock.recv(64 << 10)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not received:
            raise EOFError
        self._buffer += received
        return True

    def drop(self) -> None:
        sock, self.sock = self.sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
        file, self.file = self.file, None
        if file is not None:  # ftplib's auth() makes one; it holds the socket open
            with contextlib.suppress(OSError):
                file.close()

    def _socket(self) -> socket.socket:
        if self.sock is None:
            raise EOFError
        return self.sock


def tls_context(server: Server) -> ssl.SSLContext:
    """Verifying by default, against the system's authorities or `tls_ca`."""
    context = ssl.create_default_context(cafile=str(server.tls_ca) if server.tls_ca else None)
    if server.tls_insecure:
        log.warning("TLS certificate of %s is NOT verified (tls_insecure)", server.host)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if server.tls_max == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _say_end(channel: socket.socket, timeout: float) -> None:
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


def _data_error(error: OSError) -> errors.FtpfsError:
    if isinstance(error, (TimeoutError, BlockingIOError)):  # Python's deadline, the kernel's
        return errors.DeadlineExceeded("nothing moved on the data connection within its deadline")
    return errors.DataConnectionFailed(f"the data connection broke: {_reason(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@contextlib.contextmanager
def _mapped(step: str) -> Iterator[None]:
    """The socket edge: what the socket, ssl and ftplib raise becomes one of ftpfs.errors."""
    try:
        yield
    except socket.gaierror as error:
        raise errors.UnknownHost(f"{step}: {_reason(error)}") from error
    except TimeoutError as error:
        raise errors.DeadlineExceeded(f"{step}: no answer within the deadline") from error
    except ConnectionRefusedError as error:
        raise errors.ConnectionRefused(f"{step}: connection refused") from error
    except ssl.SSLCertVerificationError as error:
        raise errors.TlsError(f"{step}: certificate not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise errors.TlsError(f"{step}: TLS failed: {error.reason or _reason(error)}") from error
    except (EOFError, OSError) as error:
        reason = _reason(error) if isinstance(error, OSError) else "the server hung up"
        raise errors.ConnectionLost(f"{step}: {reason}") from error
    except ftplib.Error as error:
        raise _login_error(str(error)) from None


def _login_error(line: str) -> errors.FtpfsError:
    """What a refusal means that ftplib raised while logging in; 421 is about the server there."""
    code = int(line[:3]) if line[:3].isdigit() else 0
    if code == 421:
        return errors.ServerBusy(f"server replied 421: {errors.printable(line[4:])}")
    if code < 400:
        return errors.ProtocolError(f"unexpected reply at login: {errors.printable(line)}")
    return errors.from_reply(code, line[4:])
