"""One logged-in session: its conversation, and the opening of its data connections.

Owns: logging in, sending commands and reading their replies (one by one or pipelined), opening data
connections (EPSV, PASV, active mode), when needed or ahead, and the way back after a transfer was
left early; each step with its deadline. Owns no policy: it does not know about other sessions, and
tries nothing twice but a transfer whose data connection had been made ahead; what to send is up to
`lister` and `remote`. The bytes of a transfer are moved by `data`.

A session is *armed* when its next data connection is there already, or on its way: a transfer then
costs one round trip instead of three. The port for it is asked for at the end of an exchange that
is made anyway (`arm`), behind a transfer where the server reads one command after the other, or by
`groom`, while nobody waits for it. A session is *unsettled* when the server has not been heard yet
about a transfer that was left, or about the port: nothing is sent before it was.

Threading: a session belongs to one thread at a time (the pool's lease, or its groomer, says whose).
"""

from __future__ import annotations

import contextlib
import ftplib
import logging
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NoReturn

from ftpfs import errors
from ftpfs.config import DataMode, Network, Server, Tls
from ftpfs.ftp import foreign
from ftpfs.ftp.control import Control, Reply, has_connected, login_error, mapped, reason_of
from ftpfs.ftp.data import Download, Upload
from ftpfs.ftp.profile import Passive, Profile, features_in

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
# How long a session that left a transfer early may take to say so before it is given up, and each
# step of making a data connection ahead.
GROOM_TIMEOUT = 5.0
# Making a data connection ahead is worth a thread's turn from this round trip (s) on; on loopback
# the turn costs more than the two round trips that it saves.
ARMING_PAYS = 0.002
# A connection made ahead is used for so long (s): servers give up a passive port that is not used,
# pyftpdlib after 30 s, vsftpd after 60 by default. It is not made anew while nobody wants it.
ARMED_AGE = 25.0
# Who needs a connection made ahead waits so long (s, and round trips) for it to be there. A SYN
# that was lost is sent again after a second: it is quicker to ask for another port then.
DIAL_PATIENCE, DIAL_ROUND_TRIPS = 0.1, 4
# How long a server may be silent about a transfer on a connection made ahead (round trips, and at
# least in seconds) before the session is given up for one without: proftpd has been seen to hang.
ARMED_ROUND_TRIPS, ARMED_TIMEOUT = 10, 3.0
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
        self._unsettled = False  # a transfer was left early, its final reply is still to come
        self._port_due = False  # and then the port for the next data connection
        self._armed: socket.socket | None = None  # the next data connection
        self._armed_at = 0.0
        self._used_data = False  # since it was groomed last
        self._codec = server.encoding
        self._listens = server.data_mode is DataMode.ACTIVE
        self._control = Control(server, network)
        try:
            with mapped(f"connecting to {server.host}:{server.port}"):
                self._control.open()
            profile.saw_handshake(self._control.handshake)
            if profile.telnet is not None:
                self._control.telnet = profile.telnet
            with mapped("logging in"):
                if server.tls in (Tls.EXPLICIT, Tls.OPTIONAL):
                    self._control.secure()
                at_once = self._may_log_in_at_once()
                if not at_once:
                    self._login()
            if at_once:
                self._log_in_at_once()
            else:
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

    def exchange(
        self, lines: Sequence[str], extra: float = 0.0, *, arm: bool = False
    ) -> list[Reply]:
        """Send several commands, in as few round trips as this server can take; their replies.

        Each has the reply deadline, and `extra` seconds. With `arm` the session is armed by the
        same exchange, where that pays. Never while a transfer is in flight (proftpd hangs,
        pyftpdlib runs ahead of the STOR).
        """
        if self._text_mode and any(line.startswith("SIZE ") for line in lines):
            self._set_type(text=False)  # many servers answer SIZE with 550 otherwise
        wire = [self._encode(line) for line in lines]
        self._settle()
        way = self._way_to_arm() if arm else None
        if way:
            wire.append(self._encode(way.value))
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
                replies.append(self._reply(self._network.reply_timeout + extra))
        if way:
            self._dial_ahead(way, replies.pop())
        return replies

    def ask(self, lines: Sequence[str]) -> list[str]:
        """`exchange` for any number of questions: the last line of each reply, code and all.

        For commands that are never answered by 200, which is what the NOOPs between them bring: a
        reply missing or too many is noticed there. Then nothing of the batch is believed, this
        session is over (ConnectionLost), and on the next one the questions go out one by one.
        """
        if not self.profile.pipelining:
            return [self.command(line).lines[-1] for line in lines]
        questions = self._questions(lines)
        self._settle()
        with self._conversation():
            return self._answers(questions)

    def require(self, line: str) -> Reply:
        """`command`, but a refusal is raised as the error it means."""
        return self.command(line).check()

    def send(self, line: str) -> None:
        """Send one command without waiting; `receive` reads its reply."""
        wire = self._encode(line)
        self._settle()
        with self._conversation():
            self._control.send(wire)

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply. `timeout` in seconds, else the reply deadline."""
        with self._conversation():
            return self._reply(timeout)

    def fresh(self) -> bool:
        """Whether the idle session still looks usable, without a round trip.

        (One that is not settled is settled first, which takes one.) A server that dropped us has
        sent 421 or closed: both make the socket readable. Whatever else came unasked could be taken
        for the answer to the next command, so it costs the session, too.
        """
        try:
            if self.alive:
                self._settle()
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

    def tls_version(self) -> str | None:
        """`TLSv1.3` and the like; None without TLS."""
        return self._control.tls_version()

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
        self.drop()

    def drop(self) -> None:
        """Hang up without a word: the conversation is broken."""
        self.alive = False
        self.disarm()
        self._control.drop()

    # While nobody waits for it.

    @property
    def settled(self) -> bool:
        """Whether a command could be sent at once."""
        return not (self._unsettled or self._port_due)

    @property
    def armed(self) -> bool:
        """Whether the next data connection is there, or on its way."""
        return self._armed is not None

    @property
    def ready(self) -> bool:
        """Whether the next data connection should be there by now."""
        return self.armed and time.monotonic() - self._armed_at >= self.profile.round_trip

    @property
    def on_long_link(self) -> bool:
        """Whether a round trip is worth a thread's turn."""
        return self.profile.round_trip >= ARMING_PAYS

    def wants_grooming(self) -> bool:
        """Whether `groom` would make the next use of this session faster, or free it from waiting.

        Not on a short link: there whoever uses it next is done sooner than a thread is woken up.
        """
        if not self.alive or not self.on_long_link:
            return False
        return not self.settled or (self._used_data and not self._armed and self._may_arm())

    def groom(self, *, arm: bool = True) -> None:
        """Settle what is left of the last transfer, and make the next data connection ahead.

        Never raises what a network does: a session that broke at it is not alive afterwards.
        """
        try:
            if arm and self._used_data and self._may_arm():
                self._arm()
            else:
                self._settle()
        except errors.FtpfsError as error:
            log.info("grooming a session: %s", error)
        self._used_data = False

    def groom_for_transfer(self) -> None:
        """`groom` as after a transfer: the next use is one, too."""
        self._used_data = True
        if self.wants_grooming():
            self.groom()

    def disarm(self) -> None:
        """Close a data connection that was made ahead; the session stays usable."""
        channel = self.take_armed()
        if channel is not None:
            channel.close()

    def take_armed(self, older_than: float | None = None) -> socket.socket | None:
        """The data connection that was made ahead, to use or to close; the session is unarmed then.

        With `older_than` (seconds) only one that is, else None. Touches no network.
        """
        if older_than is not None and time.monotonic() - self._armed_at <= older_than:
            return None
        channel, self._armed = self._armed, None
        return channel

    # Transfers.

    def download(
        self,
        path: str,
        offset: int = 0,
        *,
        text: bool = False,
        before: Sequence[str] = (),
        done: Callable[[], None] | None = None,
    ) -> Download:
        """Start a RETR at `offset` bytes. `done` is called when the download is closed.

        The commands `before` it cost no round trip; their replies, whatever they are, are the
        download's `replies`.
        """
        self._set_type(text=text)
        try:
            channel, replies = self._start(f"RETR {path}", offset, before)
        except errors.NotSupported:
            raise  # it is the REST that was refused
        except errors.FtpfsError:
            # pyftpdlib keeps the position for the next transfer where it may not even begin this.
            if offset and self.alive and not self.command("REST 0").ok:
                self.drop()
            raise
        return Download(self, channel, done, replies)

    def upload(
        self,
        path: str,
        offset: int = 0,
        *,
        append: bool = False,
        text: bool = False,
        before: Sequence[str] = (),
        ahead: bytes | None = None,
        done: Callable[[], None] | None = None,
    ) -> Upload:
        """Start a STOR (with REST when `offset`), or an APPE.

        The commands `before` it cost no round trip of their own; their replies are the upload's
        `before`, whatever they are. `ahead` is all that is to be sent: where the session is armed
        it leaves together with the command, and the upload is `complete` then.
        """
        self._set_type(text=text)
        command = f"{'APPE' if append else 'STOR'} {path}"
        may = self.profile.takes_content_ahead and not self._control.protected
        waiting = _Ahead(ahead) if may and ahead is not None else None
        channel, replies = self._start(command, offset, before, ahead=waiting)
        return Upload(self, channel, done, replies, complete=bool(waiting and waiting.sent))

    def listing(
        self,
        command: str,
        before: Sequence[str] = (),
        questions: Callable[[bytes], Sequence[str]] | None = None,
    ) -> tuple[bytes, str, list[str]]:
        """All that a listing command sends over its data connection; the final reply's text; and
        the answers to `questions` about what was listed, as `ask` brings them.

        The commands `before` it (CWD) cost no round trip of their own; when one of them is refused,
        NotPrepared is raised, and nothing of the listing is believed. The `questions` leave as soon
        as the data has ended where the server reads one command after the other: the final reply
        comes a round trip later then, when the server knows that its data arrived.

        Raises what the transfer raises; a listing cut short is never returned as if it were whole,
        as far as anyone can tell: pyftpdlib says 226 when the connection was closed under it, and
        then only a last line without its end shows it.
        """
        channel, _ = self._start(command, 0, before, required=True)
        chunks: list[bytearray] = []
        asked: _Questions | None = None

        def ask_ahead() -> None:
            nonlocal asked
            if questions and self.profile.in_order and self.profile.pipelining:
                with self._conversation():
                    asked = self._questions(questions(b"".join(chunks)))
                    self._send_more(asked)

        try:
            with Download(self, channel, None, at_end=ask_ahead) as download:
                self._receive_listing(download, chunks)
            data = b"".join(chunks)
            if data and not data.endswith(b"\n"):
                raise errors.DataConnectionFailed("the listing ends in the middle of a line")
            if self._port_due and (asked or self.has_spoken()):
                self._settle()  # the port has come with the final reply
            if asked is None:
                return data, download.final_text, self.ask(questions(data)) if questions else []
            with self._conversation():
                return data, download.final_text, self._answers(asked)
        except BaseException:
            if asked is not None and not asked.done:
                self.drop()  # its answers would be taken for those to what is asked next
            raise

    def _receive_listing(self, download: Download, chunks: list[bytearray]) -> None:
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
        download.check_end()

    # Inside.

    def _reply(self, timeout: float | None = None) -> Reply:
        """The next reply, inside a `_conversation`; 421 means that it was the last.

        So does "500 OOPS": the last words of a vsftpd session whose other half was killed. Read as
        "unknown command", it would reach an application as EOPNOTSUPP.
        """
        reply = self._control.reply(timeout or self._network.reply_timeout)
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)
        if reply.code == 500 and reply.text.startswith("OOPS:"):
            raise errors.ConnectionLost(f"the server gave up: {errors.printable(reply.text)}")
        return reply

    def _questions(self, lines: Sequence[str]) -> _Questions:
        # What fits into this side's own send buffer never waits for a server that itself waits for
        # us to read its replies.
        window = min(ASK_WINDOW, self._control.send_buffer() // 2)
        return _Questions(self._encode_guarded(lines), window)

    def _send_more(self, asked: _Questions) -> None:
        if batch := asked.next_batch():  # one segment carries many commands
            self._control.send(batch)

    def _answers(self, asked: _Questions) -> list[str]:
        """The answers to all questions, sending those that are still to be sent, too."""
        answers: list[str] = []
        while not asked.done:
            self._send_more(asked)
            for line in self._control.final_lines(asked.open, self._network.reply_timeout):
                question = asked.answered()
                if (question is _GUARD) is not line.startswith("200"):
                    self._mismatch(line)
                if question is not _GUARD:
                    answers.append(line)
        return answers

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
        if self.profile.foreign:
            line = self.profile.foreign.line(line)
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
        name, wire = self._credentials()
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
        if self._control.protected:
            self._control.protect_data()

    def _credentials(self) -> tuple[str, str]:
        """User and password as the bytes of the encoding, in latin-1's clothes: ftplib sends them,
        and replies that quote them come, in these."""
        user, password = self._server.user, self._server.password.reveal()
        if any(c in user + password for c in "\r\n\0"):
            raise errors.InvalidArgument("a user name or password with CR, LF or NUL in it")
        try:
            name = user.encode(self._codec, "surrogateescape").decode("latin-1")
            return name, password.encode(self._codec, "surrogateescape").decode("latin-1")
        except UnicodeEncodeError:
            raise errors.InvalidArgument(
                f"a user name or password that {self._codec} cannot write"
            ) from None

    def _may_log_in_at_once(self) -> bool:
        profile = self.profile
        tried = profile.known and profile.pipelining and profile.takes_login_at_once
        return tried and not self._server.tls_ccc

    def _log_in_at_once(self) -> None:
        """Log in where it went well before, and be armed, in one write: 1 round trip, not 3; under
        TLS not 5. Whether there is TLS is settled by then.

        Raises as `_login` does. What else goes wrong is counted: something on the way may take such
        a write for an attack.
        """
        name, password = self._credentials()
        login = [f"{line}\r\n".encode("latin-1") for line in (f"USER {name}", f"PASS {password}")]
        protection = ["PBSZ 0", "PROT P"] if self._control.protected else []
        way = self._way_to_arm()
        lines = [*protection, *self._settings(), *([way.value] if way else [])]
        wire = [*login, *map(self._encode, lines)]
        try:
            with self._conversation():
                self._control.send(b"".join(wire))
                replies = self._login_replies(len(wire), len(protection), password)
        except (errors.DeadlineExceeded, errors.ConnectionLost, errors.ProtocolError) as error:
            self.profile.saw_login_at_once_fail(str(error))
            raise errors.ConnectionLost(f"logging in at once: {error}") from error
        self.profile.failed_logins_at_once = 0
        self._text_mode = not replies[2 + len(protection)].ok
        if way:
            self._dial_ahead(way, replies[-1])

    def _login_replies(self, count: int, protection: int, password: str) -> list[Reply]:
        """The replies to USER, PASS, so many commands about TLS, and the rest."""
        replies: list[Reply] = []
        for number in range(count):
            reply = self._control.reply(self._network.reply_timeout)
            # Who is let in by USER alone is told all sorts of things about the PASS.
            wanted = number == 1 and not 200 <= replies[0].code < 300
            wanted = wanted or 2 <= number < 2 + protection
            if reply.code == 421 or (wanted and not 200 <= reply.code < 300):
                refused = next((r for r in replies if not r.ok), reply)
                quoted = f"{refused.code} {refused.text}"
                # A server may quote what we sent.
                raise login_error(quoted.replace(password, "***") if password else quoted)
            replies.append(reply)
        return replies

    def _look_around(self) -> None:
        """Set the session up; the first one of a server also asks what the server can do.

        Where an earlier mount has learned that, it is only asked whether it is so still, together
        with all the rest: two round trips less.
        """
        profile = self.profile
        welcome = self.decode(self._control.welcome or "")
        if profile.known:
            self._set_up()
        elif profile.is_recalled_for(welcome):
            feat, *_ = self._set_up("FEAT")
            if features_in(_features_of(feat)) != profile.features:
                log.info("the server can do other things than it could; looking around anew")
                profile.forget()
                self._look_around()
                return
        else:
            if profile.recalled:
                profile.forget()
            profile.welcome = welcome
            profile.read_features(_features_of(self.command("FEAT")))
            system = self.command("SYST")
            profile.system = system.text if system.ok else ""
            self._set_up()
        profile.known = True

    def _set_up(self, *first: str) -> list[Reply]:
        """What each session is told, and the first one asked, after the commands `first`: all
        replies. Whoever is one more of us was most likely logged in for a transfer."""
        replies = self.exchange([*first, *self._settings()], arm=self.profile.known)
        self._text_mode = not replies[len(first)].ok
        if not self.profile.home:
            home = self._read_home(replies[-1])
            self.profile.foreign = foreign.told_by(home)
            self.profile.home = "/" if self.profile.foreign else home
        return replies

    def _settings(self) -> list[str]:
        profile = self.profile
        settings = ["TYPE I"]
        if profile.utf8 and self._codec == "utf-8":
            settings.append("OPTS UTF8 ON")
        if profile.mlst_options:
            settings.append(profile.mlst_options)
        if not profile.home:
            settings.append("PWD")
        return settings

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
        self,
        command: str,
        offset: int,
        before: Sequence[str] = (),
        *,
        required: bool = False,
        ahead: _Ahead | None = None,
    ) -> tuple[socket.socket, list[Reply]]:
        """Start a transfer, after the commands `before` it: its connection; their replies.

        With `required` each of those has to go well, else NotPrepared.
        """
        for line in (*before, command):
            self._encode(line)  # a bad name is found out before a connection is made for it
        self._settle()
        self._used_data = True
        started = self._start_armed(command, offset, before, required=required, ahead=ahead)
        if started is not None:
            return started
        self._settle()
        self.disarm()  # the port that was asked for behind it: a new one is, with what goes before
        channel, replies = self._open_channel(before, required=required)
        try:
            _, restart, reply = self._begin(command, offset, ())
            reply.check()
            if self._listens:
                channel = self._accept(channel)
            self._check_restart(channel, restart)
            return self._protect(channel), replies
        except BaseException:
            channel.close()
            raise

    def _begin(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        timeout: float | None = None,
        ahead: _Ahead | None = None,
        channel: socket.socket | None = None,
    ) -> tuple[list[Reply], Reply | None, Reply]:
        """Send it all in one write: the replies to `before`, to REST (if sent), to `command`.

        `ahead` leaves by `channel`, which is there already.
        """
        lines = [*before, *([f"REST {offset}"] if offset else []), command]
        comes = not command.startswith(("STOR", "APPE"))
        way = self._way_to_arm() if self.profile.in_order and (comes or ahead) else None
        if way:
            lines.append(way.value)
        with self._conversation():
            self._control.send(b"".join(self._encode(line) for line in lines))
            self._port_due = way is not None
            if ahead and channel:
                ahead.leave_by(channel)
            replies = [self._reply(timeout) for _ in before]
            restart = self._reply(timeout) if offset else None
            reply = self._reply(timeout)
            if 200 <= reply.code < 300:  # some send a 2xx of their own before the 1xx
                reply = self._reply(timeout)
            if way and 200 <= reply.code < 400:
                raise errors.ProtocolError(f"{reply.code} is no beginning of a transfer")
        return replies, restart, reply

    def _check_restart(self, channel: socket.socket, restart: Reply | None) -> None:
        if restart is not None and not restart.ok:
            self.leave(channel)
            self.profile.rest = False
            raise errors.NotSupported("the server cannot start in the middle of a file")

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
            return self._dial(port_in(way, port_reply)), replies
        return self._find_passive(), replies

    def _find_passive(self) -> socket.socket:
        """The first passive data connection to a server: which command does it take?"""
        try:
            channel = self._dial(self._ask_port(Passive.EPSV))
            self.profile.passive = Passive.EPSV
        except (errors.NotSupported, errors.Refused, errors.InvalidArgument):
            pass
        except errors.DeadlineExceeded as error:
            # Firewalls that do not know EPSV swallow it. This session is lost; the next one, on
            # which the pool tries again, knows.
            self.profile.passive = Passive.PASV
            raise errors.ConnectionLost(f"no answer to EPSV: {error}") from error
        except errors.DataConnectionFailed:
            # EPSV answered, but its port leads nowhere: routers that rewrite PASV only.
            log.info("no data connection by EPSV, trying PASV")
        else:
            return channel
        channel = self._dial(self._ask_port(Passive.PASV))
        self.profile.passive = Passive.PASV
        return channel

    def _ask_port(self, way: Passive) -> int:
        return port_in(way, self.command(way.value))

    def _dial(self, port: int, timeout: float = float("inf")) -> socket.socket:
        """Connect to `port` of the host that the control connection goes to.

        Never to the address in a PASV reply: behind NAT it is private or 0.0.0.0, and a hostile
        server could point it at a third party.
        """
        if not 0 < port < 65536:
            raise errors.DataConnectionFailed(f"the server offered port {port}")
        began = time.monotonic()
        try:
            channel = self._control.dial(
                self._control.peer, port, min(timeout, self._network.connect_timeout)
            )
        except OSError as error:
            raise errors.DataConnectionFailed(
                f"no data connection to port {port}: {reason_of(error)} (where a firewall closes "
                "the server's passive ports, the option active lets the server connect to us)"
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

    def _protect(self, channel: socket.socket, timeout: float | None = None) -> socket.socket:
        """TLS on a data connection, where it is wanted, within `timeout` (s; else as for data)."""
        channel.settimeout(self._network.data_timeout)
        if not self._control.protected:
            return channel
        channel.settimeout(timeout or self._network.data_timeout)
        with self._conversation(), mapped("the TLS handshake of a data connection"):
            wrapped = self._control.wrap_data(channel)
            wrapped.settimeout(self._network.data_timeout)
            # pure-ftpd sends a listing in pieces with Nagle on, and so waits for our delayed ACK:
            # 45 ms a directory under TLS, 12 without the delay.
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return wrapped

    def leave(self, channel: socket.socket) -> None:
        """Close a data connection that the server still sends on. Waits for nothing.

        What the server says about it is read later, see `_settle`.
        """
        channel.close()
        self._unsettled = True

    def _settle_followed(self) -> None:
        """Read what the server says about a transfer, if that was left, and then about the port."""
        try:
            with self._conversation():
                if self._unsettled:
                    self._reply(GROOM_TIMEOUT)
                port = self._reply(GROOM_TIMEOUT)
                if port.code not in (227, 229):
                    # A second word about the transfer? Then the next answers would be shifted.
                    self.profile.saw_armed_failure(f"server replied {port.code}")
                    raise errors.ProtocolError(f"{port.code} is no answer to a question for a port")
        except errors.FtpfsError as error:
            raise errors.ConnectionLost(f"no way back after a transfer: {error}") from error
        self._unsettled = self._port_due = False
        if self.profile.passive:
            self._dial_ahead(self.profile.passive, port)

    def _settle(self, mark: bytes = b"NOOP", answers: Collection[int] = (200,)) -> Reply | None:
        """Read what the server says about a transfer that was left early; the answer to `mark`.

        That is one reply (426, 226, or 150 again from pure-ftpd) or two of them, so another command
        is sent as a mark, and all up to its answer belongs to the past. It is not sent before the
        first reply has come: while the transfer ends, pure-ftpd says 500 to it, and pyftpdlib
        answers it first.

        On a settled session nothing is sent. Raises ConnectionLost when there is no way back.
        """
        if self._port_due:
            self._settle_followed()
        if not self._unsettled:
            return None
        try:
            with self._conversation():
                self._reply(GROOM_TIMEOUT)
                self._control.send(mark + b"\r\n")
                for _ in range(4):
                    reply = self._reply(GROOM_TIMEOUT)
                    if reply.code in answers:
                        self._unsettled = False
                        return reply
                raise errors.ProtocolError(f"no answer to {mark.decode()}")
        except errors.FtpfsError as error:
            raise errors.ConnectionLost(
                f"no way back after a transfer left early: {error}"
            ) from error

    # A data connection made ahead.

    def _may_arm(self) -> bool:
        return not self._listens and self.profile.passive is not None and self.profile.arming

    def _way_to_arm(self) -> Passive | None:
        """How to ask for a port ahead together with other commands; None: not here, or not now."""
        wanted = self.on_long_link and self.profile.pipelining and not self._armed
        return self.profile.passive if wanted and self._may_arm() else None

    def _arm(self) -> None:
        """Make the next data connection. The question for the port is the mark to settle by."""
        way = self.profile.passive
        if way is None or self._armed or self._port_due:
            self._settle()
            return
        reply = self._settle(way.value.encode(), (229, 227))
        if reply is None:
            self.send(way.value)
            reply = self.receive(GROOM_TIMEOUT)
        self._dial_ahead(way, reply)

    def _dial_ahead(self, way: Passive, reply: Reply) -> None:
        """Begin to make the next data connection, to the port in `reply`. Waits for nothing."""
        self.disarm()
        try:
            self._armed = self._control.dial_ahead(port_in(way, reply))
            self._armed_at = time.monotonic()
        except (OSError, errors.FtpfsError) as error:
            self.profile.saw_armed_failure(str(error))

    def _start_armed(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        *,
        required: bool,
        ahead: _Ahead | None,
    ) -> tuple[socket.socket, list[Reply]] | None:
        """`_start` on the connection made ahead, in one write; None: there is none, or it failed.

        A server that is silent about it costs the session: DataConnectionFailed, fit to be repeated
        on another.
        """
        channel = self._usable_armed()
        if channel is None:
            return None
        timeout = self._round_trips(ARMED_ROUND_TRIPS, ARMED_TIMEOUT)
        try:
            with self._giving_up_armed():
                replies, restart, reply = self._begin(
                    command, offset, before, timeout, ahead, channel
                )
            if required and not all(each.ok for each in replies):
                if reply.ok:
                    self.leave(channel)  # it is of the wrong folder
                _check_prepared(replies)
            if reply.code in _NO_CONNECTION:
                channel.close()
                self.profile.saw_armed_failure(f"server replied {reply.code}")
                if ahead:
                    ahead.sent = False
                return None
            reply.check()
            if ahead and not ahead.sent:
                self.leave(channel)
                raise errors.DataConnectionFailed("not all of it left by a connection made ahead")
            self._check_restart(channel, restart)
            with self._giving_up_armed():
                channel = self._protect(channel, timeout)
        except BaseException:
            channel.close()
            raise
        self.profile.armed_failures = 0
        return channel, replies

    @contextlib.contextmanager
    def _giving_up_armed(self) -> Iterator[None]:
        try:
            yield
        except (errors.DeadlineExceeded, errors.TlsError, errors.ProtocolError) as error:
            self.drop()
            self.profile.saw_armed_failure(str(error))
            raise errors.DataConnectionFailed(f"a connection made ahead: {error}") from error

    def _round_trips(self, count: int, least: float) -> float:
        """So many round trips in seconds, and at least so many of these."""
        known = self.profile.round_trip < float("inf")
        return max(least, count * self.profile.round_trip) if known else least

    def _usable_armed(self) -> socket.socket | None:
        """The connection made ahead, unless it grew old or the server gave it up."""
        if time.monotonic() - self._armed_at > ARMED_AGE or not self.profile.pipelining:
            self.disarm()
        channel = self.take_armed()
        if channel is None:
            return None
        patience = self._round_trips(DIAL_ROUND_TRIPS, DIAL_PATIENCE)
        there = has_connected(channel, patience)
        if there and not _has_ended(channel):
            return channel
        channel.close()
        if there is not None:  # a lost SYN tells nothing about the server
            self.profile.saw_armed_failure("the server closed it, or its port")
        return None

    def finish_transfer(self) -> Reply:
        """Read the reply that ends a transfer; raise if it is a refusal."""
        reply = self.receive(self._network.finish_timeout)
        if reply.code < 200:  # a second 1xx: harmless, the final one follows
            reply = self.receive(self._network.finish_timeout)
        return reply.check()


class _Questions:
    """Questions on their way: how many were sent, and how many of those answered. Pure books."""

    def __init__(self, wire: Sequence[bytes], window: int) -> None:
        """`window`: bytes of questions without an answer, at most."""
        self._wire = wire
        self._window = window
        self._sent = self._got = 0
        self._in_flight = 0  # bytes

    @property
    def done(self) -> bool:
        return self._got == len(self._wire)

    @property
    def open(self) -> int:
        """How many were sent and not answered yet."""
        return self._sent - self._got

    def next_batch(self) -> bytes:
        """What may be sent now; nothing while more than half of what may be in flight is."""
        start = self._sent
        if self._in_flight <= self._window // 2:
            while self._sent < len(self._wire) and self._in_flight < self._window:
                self._in_flight += len(self._wire[self._sent])
                self._sent += 1
        return b"".join(self._wire[start : self._sent])

    def answered(self) -> bytes:
        """The question that the next answer is to."""
        question = self._wire[self._got]
        self._in_flight -= len(question)
        self._got += 1
        return question


class _Ahead:
    """All that an upload is to send, leaving by a connection made ahead right behind its command.

    FIN and all: vsftpd, proftpd and pure-ftpd take what is there before their 150. What comes of it
    is told on the control connection, so a failure to send is only noted: it is not `sent`, and
    what the server has got is torn.
    """

    def __init__(self, data: bytes) -> None:
        self.sent = False
        self._data = data

    def leave_by(self, channel: socket.socket) -> None:
        channel.settimeout(ARMED_TIMEOUT)
        with contextlib.suppress(OSError):
            channel.sendall(self._data)
            channel.shutdown(socket.SHUT_WR)
            self.sent = True


def _has_ended(channel: socket.socket) -> bool:
    """Whether an unused data connection is of no more use: closed, or with something in it."""
    channel.settimeout(0)
    try:
        channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _check_prepared(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if not reply.ok:
            raise errors.NotPrepared(errors.from_reply(reply.code, reply.text))


def port_in(way: Passive, reply: Reply) -> int:
    """The port in the reply to EPSV or PASV. Raises DataConnectionFailed where there is none."""
    reply.check()
    found = (_EPSV if way is Passive.EPSV else _PASV).search(reply.lines[-1])
    if not found:
        raise errors.DataConnectionFailed(
            f"no port in the reply to {way.value}: {errors.printable(reply.lines[-1])}"
        )
    if way is Passive.EPSV:
        return int(found.group(2))
    return int(found.group(1)) * 256 + int(found.group(2))


def _features_of(feat: Reply) -> Sequence[str]:
    return feat.lines[1:-1] if feat.ok else ()


# What servers say to a transfer that they have no data connection for: 425 all four measured.
_NO_CONNECTION = {425, 426, 503}
# There is no one code for it: 421 (pure-ftpd), 530 (vsftpd), 550 (proftpd, pyftpdlib).
_DEMANDS_TLS = re.compile(r"\b(?:TLS|SSL|encryption|cleartext)\b", re.IGNORECASE)
_EPSV = re.compile(r"\((.)\1\1(\d{1,5})\1\)")  # RFC 2428, 3: (|||port|), any delimiter
_PASV = re.compile(r"\d+,\d+,\d+,\d+,(\d{1,3}),(\d{1,3})")  # RFC 1123, 4.1.2.6: find the digits
