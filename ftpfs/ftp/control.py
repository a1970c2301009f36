"""The control connection's wire: ftplib with deadlines; raw failures become ftpfs.errors here.

Owns: connecting, TLS on it, sending lines, reading whole replies. Knows no commands beyond what
ftplib brings (login, AUTH, PROT); `session` says what to send.

ftplib is the base: greeting, login, AUTH and PROT are its own. What it lacks is added here: a
deadline for a reply as a whole, bounds on its size, and TLS session reuse on data connections.

Threading: one thread at a time, like the session it belongs to.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.config import Network, Server, Tls
from ftpfs.ftp import proxy

log = logging.getLogger(__name__)

# A line longer than this is no FTP; ftplib's own limit is 8 KiB, too short for a path in a reply
# that quotes a name of 255 four-byte characters twice.
MAX_LINE = 64 << 10
# Lines of one reply: banners of 100 lines exist, HELP is shorter; without a bound a server could
# feed us for ever inside one deadline.
MAX_REPLY_LINES = 20_000
# struct tcp_info (linux/tcp.h): tcpi_rtt comes after 8 bytes and 15 words.
_RTT = struct.Struct("=68xI")
_ONE_LINE_REPLY = re.compile(rb"([1-6]\d\d [^\r\n]*)\r?\n")


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

    @property
    def all_text(self) -> str:
        """All lines without their codes: pure-ftpd gives the reason first, and then figures."""
        code = str(self.code)
        return "; ".join(line[4:] if line.startswith(code) else line for line in self.lines)

    def check(self) -> Reply:
        """Itself, or the error that a refusal means."""
        if not self.ok:
            raise errors.from_reply(self.code, self.all_text)
        return self


class Control(ftplib.FTP_TLS):
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
        self.protected = False  # data connections are to be wrapped, too
        self._resumable: ssl.SSLSession | None = None  # of a control connection gone clear by CCC
        self._server = server
        self._network = network
        self._buffer = bytearray()
        self.deadline = 0.0
        # Whether the server reads the control connection as Telnet (RFC 854), where byte 255 is
        # doubled. RFC 959 has it so, but of the four servers measured only proftpd does; to the
        # others the second byte is a part of the name. None of them doubles it in a listing.
        self.telnet = False
        self.handshake = float("inf")  # seconds
        self.peer = ""
        self.own_address = ""
        self.family = socket.AF_INET

    def open(self) -> None:
        """Connect and read the greeting (421: ServerBusy)."""
        self.host = self._server.host
        self.port = self._server.port
        self.timeout = self._network.reply_timeout
        sock = self.dial(self.host, self.port, self._network.connect_timeout)
        # Small commands go out at once; with Nagle the second of two writes waits for an ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A server that vanished without a word is noticed while the session is idle, too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Through a proxy it is the way to the proxy only.
        self.handshake = float("inf") if self._network.proxy else handshake_time(sock)
        self.sock = sock
        self.family = sock.family
        self.af = sock.family
        # Through a proxy only it knows the address: data connections go to the name then.
        self.peer = self.host if self._network.proxy else sock.getpeername()[0]
        self.own_address = sock.getsockname()[0]
        if self._server.tls is Tls.IMPLICIT:
            self.sock = self.context.wrap_socket(sock, server_hostname=self.host)
            self._secured()
        greeting = self.reply(self._network.reply_timeout)
        if greeting.code == 421:
            raise errors.ServerBusy(f"server replied 421: {errors.printable(greeting.text)}")
        greeting.check()
        self.welcome = "\n".join(greeting.lines)
        self.telnet = "proftpd" in self.welcome.lower()

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection to `port` of `host`, through the proxy if there is one. Raises OSError."""
        if not self._network.proxy:
            return socket.create_connection((host, port), timeout=timeout)
        user, password = self._network.proxy_login or ("", None)
        login = (user, password.reveal()) if password else None
        return proxy.dial(self._network.proxy, login, host, port, timeout)

    def dial_ahead(self, port: int) -> socket.socket:
        """A connection to `port` of the server that may still be under way. Raises OSError.

        `has_connected` tells when it is there. Through a proxy it is waited for.
        """
        if self._network.proxy:
            return self.dial(self.peer, port, self._network.connect_timeout)
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.peer, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        channel = socket.socket(family, kind, protocol)
        channel.setblocking(False)
        try:
            channel.connect(address)
        except BlockingIOError:
            pass
        except BaseException:
            channel.close()
            raise
        return channel

    def secure(self) -> None:
        """AUTH TLS. What a man in the middle sent ahead of the handshake is thrown away.

        With `Tls.OPTIONAL` a server that does not know it is gone on with in clear, and a warning.
        What fails after the server agreed is an error in any case.
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
        """PROT P; then, where that was asked for, CCC: the control connection goes on in clear.

        A server that has no CCC is gone on with under TLS.
        """
        self.deadline = time.monotonic() + self._network.reply_timeout
        self.prot_p()
        control = self.sock
        if not self._server.tls_ccc or not isinstance(control, ssl.SSLSocket):
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
        """Checks the pin of the control connection, and says once more if nothing is verified."""
        self.protected = True
        if isinstance(self.sock, ssl.SSLSocket):
            self._check_pin(self.sock)
        if self._server.tls_insecure:
            log.warning("TLS certificate of %s is NOT verified (tls_insecure)", self.host)

    def _check_pin(self, channel: ssl.SSLSocket) -> None:
        wanted = self._server.tls_fingerprint
        if not wanted:
            return
        shown = hashlib.sha256(channel.getpeercert(binary_form=True) or b"").hexdigest()
        if shown != wanted:
            channel.close()
            raise errors.TlsError(
                f"the server's certificate is another than the pinned one: its SHA-256 is {shown}"
            )

    def tls_version(self) -> str | None:
        return self.sock.version() if isinstance(self.sock, ssl.SSLSocket) else None

    def wrap_data(self, channel: socket.socket) -> socket.socket:
        """TLS on a data connection, resuming the control connection's session.

        vsftpd (require_ssl_reuse), ProFTPD and FileZilla Server refuse anything else. The newest
        session is taken each time: TLS 1.3 tickets are for one use. An end without close_notify is
        an error on it, so that it can be told from a proper one.
        """
        control = self.sock
        session = control.session if isinstance(control, ssl.SSLSocket) else None
        session = session or self._resumable  # gone clear, it is an SSLSocket still, without one
        wrapped = self.context.wrap_socket(
            channel, server_hostname=self.host, session=session, suppress_ragged_eofs=False
        )
        self._check_pin(wrapped)
        return wrapped

    def send(self, wire: bytes) -> None:
        sock = self._socket()
        sock.settimeout(self._network.reply_timeout)
        sock.sendall(wire)

    def reply(self, timeout: float) -> Reply:
        """Read one reply, within `timeout` seconds for all of it."""
        self.deadline = time.monotonic() + timeout
        lines = self.getmultiline().split("\n")
        code = lines[-1][:3]
        if not (len(code) == 3 and code.isascii() and code.isdigit() and "1" <= code[0] <= "6"):
            raise errors.ProtocolError(f"not an FTP reply: {errors.printable(lines[-1][:80])}")
        return Reply(int(code), tuple(lines))

    def final_lines(self, most: int, timeout: float) -> list[str]:
        """The last lines of the next replies: of those that have come, `most` at most, and at least
        one, which is waited for within `timeout` seconds.
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
        """How many bytes this side's kernel takes and holds while the server reads nothing."""
        return self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def getmultiline(self) -> str:
        """ftplib's, with a bound on the number of lines (it has none), and the last one known by
        more than its digits."""
        line = self.getline()
        if line[3:4] != "-":
            return line
        lines = [line]
        code = line[:3]
        while True:
            line = self.getline()
            lines.append(line)
            # "2200 users" in a 220 reply is no end of it, a bare "220" is (RFC 959, 4.2).
            if line[:3] == code and line[3:4] in ("", " "):
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


@functools.lru_cache(maxsize=4)
def tls_context(server: Server) -> ssl.SSLContext:
    """Verifying by default, against the system's authorities or `tls_ca`.

    One for all sessions of a server: reading the authorities costs 20 ms, and a TLS session can be
    resumed only in the context it was made in. Raises InvalidArgument for files that are no good.
    """
    try:
        context = ssl.create_default_context(cafile=str(server.tls_ca) if server.tls_ca else None)
    except OSError as error:  # SSLError is one
        raise errors.InvalidArgument(f"tls_ca {server.tls_ca}: {reason_of(error)}") from error
    # Debian 12's Python (3.11.2) sets it, later ones do not: an end without close_notify, as of a
    # connection that was cut on the way, would look like a proper one.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if server.tls_cert:
        try:
            # An empty passphrase: OpenSSL would ask the terminal for one, in a daemon's place.
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
    """Seconds that the TCP handshake of a connection just made took, as the kernel measured it:
    no name was looked up in it, and no busy machine made it longer."""
    info = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    microseconds: int = _RTT.unpack(info)[0]
    return microseconds / 1e6


def has_connected(channel: socket.socket, timeout: float) -> bool | None:
    """Whether a connection of `dial_ahead` was made; None: under way even after `timeout` s."""
    poller = select.poll()  # select() fails beyond 1024 descriptors
    poller.register(channel, select.POLLOUT)
    if not poller.poll(timeout * 1000):
        return None
    return channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def reason_of(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@contextlib.contextmanager
def mapped(step: str) -> Iterator[None]:
    """The socket edge: what the socket, ssl and ftplib raise becomes one of ftpfs.errors."""
    try:
        yield
    except socket.gaierror as error:
        raise errors.UnknownHost(f"{step}: {reason_of(error)}") from error
    except TimeoutError as error:
        raise errors.DeadlineExceeded(f"{step}: no answer within the deadline") from error
    except ConnectionRefusedError as error:
        raise errors.ConnectionRefused(f"{step}: connection refused") from error
    except ssl.SSLCertVerificationError as error:
        raise errors.TlsError(f"{step}: certificate not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise errors.TlsError(f"{step}: TLS failed: {error.reason or reason_of(error)}") from error
    except (EOFError, OSError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "the server hung up"
        raise errors.ConnectionLost(f"{step}: {reason}") from error
    except ftplib.Error as error:
        raise login_error(str(error)) from None


def login_error(line: str) -> errors.FtpfsError:
    """What a refusal means that ftplib raised while logging in; 421 is about the server there."""
    code = int(line[:3]) if line[:3].isdigit() else 0
    if code == 421:
        return errors.ServerBusy(f"server replied 421: {errors.printable(line[4:])}")
    if code < 400:
        return errors.ProtocolError(f"unexpected reply at login: {errors.printable(line)}")
    return errors.from_reply(code, line[4:])
