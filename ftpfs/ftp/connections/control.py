"""The control connection: ftplib with deadlines; raw failures become ftpfs.errors here.

Owns connecting, TLS on the connection, sending lines, and reading whole replies. Knows no commands
except those of ftplib (login, AUTH, PROT): `conversation` sends all others.

ftplib is the base: greeting, login, AUTH and PROT are its own. This module adds what ftplib lacks:
a deadline for a whole reply, limits on its size, and TLS session reuse on data connections.

Threading: one thread at a time, like the session that owns the connection.
"""

from __future__ import annotations

import contextlib
import errno
import ftplib
import functools
import hashlib
import logging
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ftpfs import errors
from ftpfs.ftp.connections import addresses, proxy
from ftpfs.settings.config import Network, Server, Tls

log = logging.getLogger(__name__)

# Maximum length of a line; anything longer is not FTP. ftplib's own limit is 8 KiB: too short for a
# path in a reply that quotes a name of 255 four-byte characters twice.
MAX_LINE = 64 << 10
# Maximum size of one reply. Banners of 100 lines exist, and a HELP is shorter. Without a limit, a
# server could fill the memory within one deadline.
MAX_REPLY_LINES = 5_000
MAX_REPLY = 1 << 20  # bytes
# Maximum number of blank lines and lines without a code before a reply.
MAX_STRAY_LINES = 100
# How long (s) after the first of them the greeting may take.
STRAY_SECONDS = 10.0
# What servers of other protocols say first: SSH, HTTP, IMAP, POP3, VNC.
_STRANGERS = ("SSH-", "HTTP/", "* OK", "* PREAUTH", "* BYE", "+OK", "RFB ")
# struct tcp_info (linux/tcp.h): tcpi_rtt follows 8 bytes and 15 words.
_RTT = struct.Struct("=68xI")
_CODE = re.compile(r"\d{3}(?:[ -]|$)")
_ONE_LINE = re.compile(r"[1-6]\d\d(?: |$)")
_ONE_LINE_REPLY = re.compile(rb"([1-6]\d\d [^\r\n]*)\r?\n")


@dataclass(frozen=True)
class Reply:
    """One reply: its code, and its lines as received (latin-1 text, so every byte is preserved)."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The last line without its code."""
        return self.lines[-1][4:]

    @property
    def ok(self) -> bool:
        return self.code < 400

    @property
    def all_text(self) -> str:
        """All lines without their codes: pure-ftpd tells the reason first, and then figures."""
        code = str(self.code)
        return "; ".join(line[4:] if line.startswith(code) else line for line in self.lines)

    def check(self) -> Reply:
        """Return the reply itself, or raise the error that a refusal means."""
        if not self.ok:
            raise errors.from_reply(self.code, self.all_text)
        return self


class Control(ftplib.FTP_TLS):
    """ftplib's FTP_TLS with deadlines for whole replies, and without its buffered file.

    Text is latin-1 in both directions, so that every byte passes; `Conversation` does the encoding.

    - `protected`: data connections must use TLS too.
    - `step`: what the connection is doing, for error messages.
    - `after`: the last command of a login, for error messages.
    - `handshake`: seconds of the TCP handshake; infinite through a proxy.
    - `telnet`: whether the server reads commands as Telnet (RFC 854), where byte 255 is doubled.
      RFC 959 demands that, but of the four servers measured only proftpd does so; for the others
      the second byte is part of the name. None of them doubles it in a listing.
    """

    maxline = MAX_LINE

    def __init__(self, server: Server, network: Network, *, looks: bool = False) -> None:
        """`looks`: accept any certificate, because nothing is sent to the server."""
        # Without a context, ftplib makes an unverified one of its own, so it always gets one.
        # Loading the system's authorities costs 20 ms and is left out without TLS.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if server.tls is not Tls.OFF:
            context = tls_context(server)
        super().__init__(context=context, encoding="latin-1")
        self.protected = False
        self._resumable: ssl.SSLSession | None = None  # of a control connection before CCC
        self._server = server
        self._network = network
        self._looks = looks
        self.step = f"{CONNECTING} {server.host}:{server.port}"
        self._buffer = bytearray()
        self._polled: tuple[socket.socket, select.poll] | None = None
        self.deadline = 0.0
        self.after = ""
        self.telnet = False
        self.handshake = float("inf")
        self.peer = ""
        self._address: tuple[Any, ...] = "", 0  # of the server, as `getpeername` gives it
        self.own_address = ""
        self.family = socket.AF_INET

    def open(self) -> None:
        """Connect and read the greeting (421: ServerBusy)."""
        self.host = self._server.host
        self.port = self._server.port
        self.timeout = self._network.reply_timeout
        sock = self.dial(self.host, self.port, self._network.connect_timeout)
        # Small commands leave at once; with Nagle, the second of two writes waits for an ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Keepalive detects a server that vanished silently while the session is idle.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Through a proxy the handshake would measure the way to the proxy only.
        self.handshake = float("inf") if self._network.proxy else handshake_time(sock)
        self.sock = sock
        self.family = sock.family
        self.af = sock.family
        # Through a proxy, only the proxy knows the address: data connections then go to the name.
        self._address = sock.getpeername()
        self.peer = self.host if self._network.proxy else self._address[0]
        self.own_address = sock.getsockname()[0]
        if self._server.tls is Tls.IMPLICIT:
            self.step = f"TLS handshake with {self.host}:{self.port}"
            self.sock = self.context.wrap_socket(sock, server_hostname=self.host)
            self._secured()
        self.step = f"{GREETING} {self.host}:{self.port}"
        greeting = self._greeting()
        if greeting.code == 421:
            raise errors.ServerBusy(f"server replied 421: {errors.printable(greeting.text)}")
        greeting.check()
        self.welcome = "\n".join(greeting.lines)
        self.telnet = "proftpd" in self.welcome.lower()

    def _greeting(self) -> Reply:
        """The first reply. Raises ProtocolError if another protocol's server speaks.

        Some servers send lines without a code first, which curl ignores, too. If no reply follows
        soon, the error quotes the first of them.
        """
        self.deadline = time.monotonic() + self._network.reply_timeout
        line = self.getline()
        if _CODE.match(line):
            return self._reply_from(line)
        said = f"{self.step}: not an FTP reply: {errors.printable(line[:80])}"
        if line.startswith(_STRANGERS):
            raise errors.ProtocolError(said)
        self.deadline = min(self.deadline, time.monotonic() + STRAY_SECONDS)
        try:
            return self._reply_from(line)
        except TimeoutError as error:
            raise errors.DeadlineExceeded(f"{said}; and no reply came") from error
        except (EOFError, ConnectionError) as error:
            raise errors.ConnectionLost(f"{said}; then the server hung up") from error

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection to `port` of `host`, through the proxy if there is one. Raises OSError."""
        if not self._network.proxy:
            return addresses.connect(self._network, host, port, timeout)
        user, password = self._network.proxy_login or ("", None)
        login = (user, password.reveal()) if password else None
        return proxy.dial(self._network.proxy, login, host, port, timeout)

    def dial_data(self, port: int, timeout: float) -> socket.socket:
        """A connection to `port` of the server, within `timeout` seconds. Raises OSError.

        The address needs no look-up, which would cost 40 us a file.
        """
        if self._network.proxy:
            return self.dial(self.peer, port, timeout)
        channel = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            channel.settimeout(timeout)
            addresses.bind(self._network, channel)
            channel.connect(self._at(port))
        except BaseException:
            channel.close()
            raise
        return channel

    def _at(self, port: int) -> tuple[Any, ...]:
        """The server's address with another port. That of IPv6 has four parts."""
        return self._address[0], port, *self._address[2:]

    def dial_ahead(self, port: int) -> socket.socket:
        """A connection to `port` of the server that may still be under way. Raises OSError.

        `has_connected` tells when it is established. Through a proxy, this call waits for that.
        """
        if self._network.proxy:
            return self.dial(self.peer, port, self._network.connect_timeout)
        channel = socket.socket(self.family, socket.SOCK_STREAM)
        channel.setblocking(False)
        try:
            addresses.bind(self._network, channel)
            channel.connect(self._at(port))
        except BlockingIOError:
            pass
        except BaseException:
            channel.close()
            raise
        return channel

    def secure(self) -> None:
        """Send AUTH TLS and start TLS.

        Bytes that a man in the middle sent ahead of the handshake are discarded.

        With `Tls.OPTIONAL`, a server without AUTH TLS is used in clear text, with a warning. A
        failure after the server agreed is always an error.
        """
        self.deadline = time.monotonic() + self._network.reply_timeout
        try:
            self.auth()
        except ftplib.error_perm as error:
            reason = errors.printable(str(error))
            if self._server.tls is Tls.OPTIONAL:
                log.warning("%s has no TLS: the password and all else go in clear", self.host)
                return
            raise errors.TlsError(f"the server offers no TLS: {reason}") from error
        self._buffer.clear()
        self._secured()

    def protect_data(self) -> None:
        """Send PBSZ 0, which the server may refuse, and PROT P: data connections use TLS."""
        self.deadline = time.monotonic() + self._network.reply_timeout
        with contextlib.suppress(ftplib.error_perm):
            self.voidcmd("PBSZ 0")
        self.voidcmd("PROT P")

    def end_tls(self, timeout: float) -> None:
        """Send CCC, which ends TLS on this connection. If the server refuses it, TLS stays on.

        `timeout`: deadline (s) of its reply.

        After any other failure, nobody knows whether the connection is in clear: drop it.
        """
        self.deadline = time.monotonic() + timeout
        control = self.sock
        if not isinstance(control, ssl.SSLSocket):
            return
        self._resumable = control.session
        try:
            self.voidcmd("CCC")
        except ftplib.error_perm as error:
            log.warning("no CCC at %s: %s", self.host, errors.printable(str(error)))
            return
        self._resumable = control.session or self._resumable
        control.settimeout(self._network.reply_timeout)
        self.sock = control.unwrap()

    def _secured(self) -> None:
        """Check the fingerprint of the control connection; warn again if nothing is verified."""
        self.protected = True
        if self._looks:
            return
        if isinstance(self.sock, ssl.SSLSocket):
            self._check_pin(self.sock)
        if self._server.tls_insecure:
            log.warning("TLS certificate of %s is NOT verified (tls_insecure)", self.host)

    def _check_pin(self, channel: ssl.SSLSocket) -> None:
        wanted = self._server.tls_fingerprint
        if not wanted:
            return
        shown = _digest(channel)
        if shown != wanted:
            channel.close()
            raise errors.TlsError(
                f"the server's certificate is not the pinned one: its SHA-256 is {shown}"
            )

    def fingerprint(self) -> str:
        """The SHA-256 of the server's certificate in hex; "" without TLS."""
        return _digest(self.sock) if isinstance(self.sock, ssl.SSLSocket) else ""

    def tls_version(self) -> str | None:
        return self.sock.version() if isinstance(self.sock, ssl.SSLSocket) else None

    def wrap_data(self, channel: socket.socket) -> socket.socket:
        """Wrap a data connection in TLS, resuming the control connection's session.

        vsftpd (require_ssl_reuse), ProFTPD and FileZilla Server refuse anything else. Each call
        takes the newest session, because TLS 1.3 tickets are for one use. An end without
        close_notify raises an error on the wrapped socket, so it differs from a proper end.
        """
        control = self.sock
        session = control.session if isinstance(control, ssl.SSLSocket) else None
        session = session or self._resumable  # after CCC, the socket has no session
        wrapped = self.context.wrap_socket(
            channel, server_hostname=self.host, session=session, suppress_ragged_eofs=False
        )
        self._check_pin(wrapped)
        return wrapped

    def putline(self, line: str) -> None:
        """ftplib's own, which sends the commands of a login; notes them for messages."""
        self.after = f", after {line.partition(' ')[0]}"
        super().putline(line)

    def send(self, wire: bytes) -> None:
        sock = self._socket()
        sock.settimeout(self._network.reply_timeout)
        sock.sendall(wire)

    def reply(self, timeout: float) -> Reply:
        """Read one reply, within `timeout` seconds for the whole reply."""
        self.deadline = time.monotonic() + timeout
        return self._reply_from(self.getline())

    def _reply_from(self, line: str) -> Reply:
        """The reply that begins with `line`, or behind it."""
        if _ONE_LINE.match(line):  # nearly every reply
            return Reply(int(line[:3]), (line,))
        lines = self._rest_of(line).split("\n")
        code = lines[-1][:3]
        if not (len(code) == 3 and code.isascii() and code.isdigit() and "1" <= code[0] <= "6"):
            if lines[-1].startswith(_TLS_RECORDS):
                raise errors.TlsError(f"{self.step}: the server begins with TLS; {_TRY_IMPLICIT}")
            raise errors.ProtocolError(f"not an FTP reply: {errors.printable(lines[-1][:80])}")
        return Reply(int(code), tuple(lines))

    def final_lines(self, most: int, timeout: float) -> list[str]:
        """The last lines of the replies that have arrived, at most `most` and at least one.

        If none has arrived, wait up to `timeout` seconds for one.
        """
        lines: list[str] = []
        text = bytes(self._buffer[: self._buffer.rfind(b"\n") + 1])
        taken = 0
        for found in _ONE_LINE_REPLY.finditer(text):
            if found.start() != taken or len(lines) == most:
                break
            lines.append(found[1].decode("latin-1"))
            taken = found.end()
        del self._buffer[:taken]
        if not lines:
            lines.append(self.reply(timeout).lines[-1])
        return lines

    def send_buffer(self) -> int:
        """How many bytes this side's kernel buffers while the server reads nothing."""
        return self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def getmultiline(self) -> str:
        """ftplib's own with limits on lines and bytes, and a stricter test for the last line.

        Lines before the code of a reply are ignored, as curl does.
        """
        return self._rest_of(self.getline())

    def _rest_of(self, line: str) -> str:
        """The reply that begins with `line`, or behind it."""
        for _ in range(MAX_STRAY_LINES):
            if _CODE.match(line):
                break
            log.debug("no reply: %s", errors.printable(line[:80]))
            line = self.getline()
        if line[3:4] != "-":
            return line
        lines = [line]
        size = len(line)
        code = line[:3]
        while True:
            line = self.getline()
            lines.append(line)
            size += len(line)
            # "2200 users" in a 220 reply does not end it; a bare "220" does (RFC 959, 4.2).
            if line[:3] == code and line[3:4] in ("", " "):
                return "\n".join(lines)
            if len(lines) > MAX_REPLY_LINES:
                raise errors.ProtocolError(f"a reply of more than {MAX_REPLY_LINES} lines")
            if size > MAX_REPLY:
                raise errors.ProtocolError(f"a reply of more than {MAX_REPLY} bytes")

    def getline(self) -> str:
        """One line without its end. ftplib's own version restarts the deadline for every byte."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > MAX_LINE:
                raise errors.ProtocolError(f"a reply line of more than {MAX_LINE} bytes")
            sock = self._socket()
            if (left := self.deadline - time.monotonic()) <= 0:
                raise TimeoutError  # a reply that comes byte by byte must not extend it
            sock.settimeout(left)
            received = sock.recv(64 << 10)
            if not received:
                raise EOFError
            self._buffer += received
        line = self._buffer[:end]
        del self._buffer[: end + 1]
        return line.rstrip(b"\r").decode("latin-1")

    def comes_within(self, seconds: float) -> bool:
        """`readable`, now or within this many seconds."""
        if self.readable():
            return True
        return bool(self._poller().poll(seconds * 1000)) and self.readable()

    def readable(self) -> bool:
        """Whether unread bytes have arrived. Raises EOFError at the end of the connection."""
        if self._buffer:
            return True
        sock = self._socket()
        if not self._poller().poll(0) and not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return False
        sock.settimeout(0)
        try:
            # Under TLS the bytes may be a session ticket and no reply.
            received = sock.recv(64 << 10)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not received:
            raise EOFError
        self._buffer += received
        return True

    def _poller(self) -> select.poll:
        """What polls the connection for bytes; TLS may have wrapped it since the last call."""
        sock = self._socket()
        if self._polled is None or self._polled[0] is not sock:
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self._polled = sock, poller
        return self._polled[1]

    def drop(self) -> None:
        self._polled = None
        sock, self.sock = self.sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
        file, self.file = self.file, None
        if file is not None:  # ftplib's auth() makes one; it keeps the socket open
            with contextlib.suppress(OSError):
                file.close()

    def _socket(self) -> socket.socket:
        if self.sock is None:
            raise EOFError
        return self.sock


@functools.lru_cache(maxsize=4)
def tls_context(server: Server) -> ssl.SSLContext:
    """A TLS context that verifies by default, against the system's authorities or `tls_ca`.

    All sessions of a server share one: reading the authorities costs 20 ms, and a TLS session can
    be resumed only in the context that made it. Raises InvalidArgument for unusable files.
    """
    try:
        context = ssl.create_default_context(cafile=str(server.tls_ca) if server.tls_ca else None)
    except OSError as error:  # SSLError is a subclass
        raise errors.InvalidArgument(f"tls_ca {server.tls_ca}: {reason_of(error)}") from error
    # Debian 12's Python (3.11.2) sets this option, later ones do not. With it, an end without
    # close_notify, as of a connection cut on the way, would look like a proper end.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if server.tls_cert:
        try:
            # An empty passphrase: without one, OpenSSL would prompt on the daemon's terminal.
            context.load_cert_chain(server.tls_cert, server.tls_key, password="")
        except OSError as error:
            raise errors.InvalidArgument(
                f"tls_cert {server.tls_cert}: not a certificate with its private key, in clear: "
                f"{reason_of(error)}"
            ) from error
    if server.tls_insecure or server.tls_fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if server.tls_max == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def handshake_time(channel: socket.socket) -> float:
    """Seconds that the TCP handshake of a new connection took, as measured by the kernel.

    The value includes no name lookup, and a busy machine does not lengthen it.
    """
    info = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    microseconds: int = _RTT.unpack(info)[0]
    return microseconds / 1e6


def has_connected(channel: socket.socket, timeout: float) -> bool | None:
    """Whether a connection of `dial_ahead` was made.

    None: it is still under way after `timeout` s, or its port refused it.
    """
    poller = select.poll()  # select() fails beyond 1024 descriptors
    poller.register(channel, select.POLLOUT)
    if not poller.poll(timeout * 1000):
        return None
    failure = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return None if failure == errno.ECONNREFUSED else failure == 0


def reason_of(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def shown_fingerprint(server: Server, network: Network) -> str:
    """The SHA-256 of the certificate that the server shows now, in hex; "" if it shows none.

    Uses a connection of its own, and sends nothing else on it.
    """
    control = Control(replace(server, tls_insecure=True), network, looks=True)
    try:
        control.open()
        if server.tls is not Tls.IMPLICIT:
            control.secure()
        return control.fingerprint()
    except (errors.FtpfsError, ftplib.Error, OSError, EOFError):
        return ""
    finally:
        control.drop()


def _digest(channel: ssl.SSLSocket) -> str:
    return hashlib.sha256(channel.getpeercert(binary_form=True) or b"").hexdigest()


class Mapped:
    """Turns the exceptions of socket, ssl and ftplib in a `with` block into ones of ftpfs.errors.

    A class and no generator: every command enters two such blocks, and a generator costs 5 us more.

    - `began`: the `time.monotonic()` at which the block was made.
    """

    __slots__ = ("_step", "began")

    def __init__(self, step: Callable[[], str]) -> None:
        """`step` returns what was being done, for the message."""
        self._step = step
        self.began = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ftplib.Error):
            raise login_error(str(error)) from None
        if isinstance(error, (OSError, EOFError)):
            raise self._named(error) from error

    def _named(self, error: OSError | EOFError) -> errors.FtpfsError:
        step = self._step()
        match error:
            case EOFError():
                return _hung_up(step)(f"{step}: the server hung up")
            case socket.gaierror():
                hint = "is the name right? a path follows a slash: host/path"
                return errors.UnknownHost(f"{step}: {reason_of(error)} ({hint})")
            case TimeoutError():
                waited = f"no answer after {time.monotonic() - self.began:.0f} s"
                return errors.DeadlineExceeded(f"{step}: {waited}{_advice(step)}")
            case ConnectionRefusedError():
                hint = "no server listens there: is the port right?"
                return errors.ConnectionRefused(f"{step}: connection refused ({hint})")
            case ssl.SSLCertVerificationError():
                reason = error.verify_message
                return errors.Untrusted(f"{step}: certificate not trusted: {reason}")
            case ssl.SSLError():
                reason = error.reason or reason_of(error)
                way = _DATA_IN_CLEAR if step == DATA_HANDSHAKE else _TRY_EXPLICIT
                hint = f" (not TLS: {way})" if reason in _NO_TLS else ""
                return errors.TlsError(f"{step}: TLS failed: {reason}{hint}")
            case ConnectionError():
                return _hung_up(step)(f"{step}: the server hung up ({reason_of(error)})")
        kind = errors.NoRoute if error.errno in _NO_ROUTE else errors.ConnectionLost
        return kind(f"{step}: {reason_of(error)}")


def _hung_up(step: str) -> type[errors.ConnectionLost]:
    """The error for a connection that was closed in that step."""
    if step.startswith((CONNECTING, GREETING)):
        return errors.NoGreeting
    return errors.ConnectionLost


def _advice(step: str) -> str:
    """A hint for a step that got no answer."""
    if step.startswith(CONNECTING):
        return " (connect_timeout; is the address right, and does no firewall drop it?)"
    if step == DATA_HANDSHAKE:
        return " (data_timeout; the option tls_max=1.2 helps with some servers)"
    if step.startswith(ENDING):
        return " (finish_timeout; all data has moved, so does the server check or copy it?)"
    if step.startswith("TLS handshake"):
        return f" (connect_timeout; {_TRY_EXPLICIT})"
    if step.startswith(GREETING):
        return f" (reply_timeout; {_TRY_IMPLICIT})"
    return " (reply_timeout; `ftpfs doctor` tells what the server can do)"


# What connect(2) says if this machine has no network, or none that leads to the server.
_NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
}

# Steps that have a deadline of their own.
DATA_HANDSHAKE = "the TLS handshake of a data connection"
ENDING = "waiting for the reply that ends"
CONNECTING = "connecting to"
GREETING = "waiting for the greeting of"

_TRY_IMPLICIT = "ftps:// asks for implicit TLS, where a server wants that"
_DATA_IN_CLEAR = "the server sends data in clear, though it agreed to protect it"
_TRY_EXPLICIT = "ftpes:// asks for explicit TLS, ftp:// for none"
# OpenSSL's reasons when the peer does not speak TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
# Type (alert, handshake) and version of TLS's first record.
_TLS_RECORDS = ("\x15\x03", "\x16\x03")


def login_error(line: str) -> errors.FtpfsError:
    """The error for a refusal that ftplib raised at login; 421 is about the server there."""
    code = int(line[:3]) if line[:3].isdigit() else 0
    if code == 421:
        return errors.ServerBusy(f"server replied 421: {errors.printable(line[4:])}")
    if code < 400:
        return errors.ProtocolError(f"unexpected reply at login: {errors.printable(line)}")
    return errors.from_reply(code, line[4:])
