"""Commands and replies on the control connection of one session.

Owns sending commands one by one or pipelined, how a command is written on the wire, which reply
belongs to which command, and the late replies of a transfer that was left early. Does not own what
is sent, and knows no data connections: `channels` opens those, and asks for their ports here.

**Unsettled.** A conversation is *unsettled* while the server has not yet answered about a transfer
that was left early. Nothing may be sent before that answer, so `channels` calls `drain_replies`
before each command.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from ftpfs import errors
from ftpfs.ftp.connections.control import ENDING, Control, Mapped, Reply
from ftpfs.ftp.connections.current_folder import CurrentFolder
from ftpfs.ftp.connections.hearing import NOT_LOGGED_IN, Hearing, logged_out
from ftpfs.ftp.manners import kind_of
from ftpfs.ftp.profile import Passive, Profile
from ftpfs.settings.config import Network

# Maximum replies in flight while pipelining. All four servers measured answered 500. At some 30
# bytes a command and 60 a reply, neither side's socket buffer (>= 16 KiB, in practice 128) fills.
PIPELINED_COMMANDS = 128
# Deadline (s) for the server's late replies about a transfer that was left early, and for each step
# of making a data connection ahead. After it the session is closed.
GROOM_TIMEOUT = 5.0

# Stands for the reply to a command that is not sent, because this server leaves it unanswered.
AVOIDED = Reply(502, ("502 not sent, as this server leaves it without an answer",))


class Conversation:
    """The conversation with the server on one control connection.

    - `alive`: False as soon as the conversation is broken; then it can only be closed.
    - `used_at`: `time.monotonic()` of the last byte in either direction.
    - `unsettled`: a transfer was left early, and its final reply is not read yet.
    - `folder`: the folder that the session is in.
    - `hearing`: reads the replies.
    - `line_limit`: bytes that the server reads as one line.
    """

    def __init__(self, control: Control, codec: str, network: Network, profile: Profile) -> None:
        """`codec`: the encoding of names on the server."""
        self.alive = False
        self.used_at = time.monotonic()
        self.unsettled = False
        self.profile = profile
        self.control = control
        self.folder = CurrentFolder(profile)
        self.hearing = Hearing(control, profile, network.reply_timeout)
        self.line_limit = profile.identity.longest_line
        self._codec = codec
        self._reply_timeout = network.reply_timeout

    # Commands. Each needs a settled conversation.

    def exchange(self, lines: Sequence[str], extra: float = 0.0) -> list[Reply]:
        """Send several commands in as few round trips as this server allows; return their replies.

        Each reply has the reply deadline plus `extra` seconds. The reply to an avoided command is
        `AVOIDED`.
        """
        timeout = self._reply_timeout + extra
        avoided = self.profile.wire.manners.avoided
        if not avoided:
            return self._exchange_all(lines, timeout)
        taken = [line for line in lines if kind_of(line) not in avoided]
        replies = iter(self._exchange_all(taken, timeout))
        return [AVOIDED if kind_of(line) in avoided else next(replies) for line in lines]

    def _exchange_all(self, lines: Sequence[str], timeout: float) -> list[Reply]:
        wire = [self.encode(line) for line in lines]
        self.wake_if_quiet()
        with self.talking():
            replies = self._converse(lines, wire, timeout)
            if self.hearing.doubts_login:
                self.hearing.check_login()
            return replies

    def send(self, line: str) -> None:
        """Send one command without waiting; `receive` reads its reply."""
        wire = self.encode(line)
        self.wake_if_quiet()
        with self.talking():
            self.hearing.expect_silence()
            self.hearing.asked = _verb(wire)
            self.control.send(wire)

    def receive(self, timeout: float | None = None, *, ends: bool = False) -> Reply:
        """The next reply, within `timeout` seconds (default: the reply deadline).

        `ends`: it ends a transfer whose data has moved.
        """
        with Talking(self, ends=ends):
            return self.hearing.reply(timeout)

    def begin_transfer(
        self,
        lines: Sequence[str],
        following: Passive | None,
        timeout: float | None,
        once_sent: Callable[[], None],
    ) -> list[Reply]:
        """Send the commands up to that of a transfer, the last one; return the replies to them.

        If this server takes several commands in one write, the question `following` for a port
        leaves with them (`drain_replies` reads its answer), and `once_sent` is called when all is
        sent, before the first reply. The last reply returned begins the transfer, or refuses it.
        """
        with self.talking():
            if not self.profile.wire.pipelining:
                wire = [self.encode(line) for line in lines]
                replies = self._converse(lines[:-1], wire[:-1], self._reply_timeout)
                replies += self._converse(lines[-1:], wire[-1:], self._reply_timeout)
            else:
                replies = self._begin_at_once(lines, following, timeout, once_sent)
            if 200 <= replies[-1].code < 300:  # some servers send a 2xx before the 1xx
                replies[-1] = self.hearing.reply(timeout)
            if following and 200 <= replies[-1].code < 400:
                raise errors.ProtocolError(f"{replies[-1].code} is no beginning of a transfer")
        return replies

    def _begin_at_once(
        self,
        lines: Sequence[str],
        following: Passive | None,
        timeout: float | None,
        once_sent: Callable[[], None],
    ) -> list[Reply]:
        together = [*lines, following.value] if following else lines
        wire = [self.encode(line) for line in together]
        self.hearing.expect_silence()
        self.control.send(b"".join(wire))
        once_sent()
        kinds = [kind_of(line) for line in together]
        others = kinds if len(kinds) > 1 else ()
        replies = [self.hearing.heed(kind, timeout, others) for kind in kinds[: len(lines)]]
        self.folder.note(wire, lines, replies)
        return replies

    def _converse(self, lines: Sequence[str], wire: Sequence[bytes], timeout: float) -> list[Reply]:
        """Send commands and read their replies. Call it inside `talking`.

        `wire` holds the commands `lines` as `encode` makes them.
        """
        if len(lines) == 1:
            self.hearing.listen_twice()
            self.hearing.expect_silence()
            self.control.send(wire[0])
            replies = [self.hearing.heed(kind_of(lines[0]), timeout)]
        else:
            replies = self._converse_together([kind_of(line) for line in lines], wire, timeout)
        self.folder.note(wire, lines, replies)
        return replies

    def _converse_together(
        self, kinds: Sequence[str], wire: Sequence[bytes], timeout: float
    ) -> list[Reply]:
        manners = self.profile.wire.manners
        window = PIPELINED_COMMANDS if self.profile.wire.pipelining else 1
        others = kinds if window > 1 else ()
        unsure = manners.is_unsure(kinds) if others else None
        replies: list[Reply] = []
        sent = 0
        while len(replies) < len(wire):
            # Refill the window in halves: one segment then carries many commands.
            if sent < len(wire) and sent - len(replies) <= window // 2:
                batch = wire[sent : len(replies) + window]
                self.hearing.listen_twice()
                if sent == len(replies):
                    self.hearing.expect_silence()
                self.control.send(b"".join(batch))
                sent += len(batch)
            replies.append(self.hearing.heed(kinds[len(replies)], timeout, others, unsure=unsure))
        if others:
            self.hearing.expect_silence()
            manners.pipelines = True
        return replies

    # Whether the session still works.

    def wake_if_quiet(self) -> None:
        """If the session was quiet, send a TYPE ahead to see that it still works."""
        if self.hearing.is_quiet(self.used_at):
            with self.talking():
                self.hearing.expect_silence()
                self.hearing.wake()

    def is_fresh(self) -> bool:
        """Whether the idle, settled session still looks usable, without a round trip.

        A server that dropped the session has sent 421 or closed the connection; both make the
        socket readable. Any other unasked-for reply would be taken for the answer to the next
        command, so it ends the session too.
        """
        try:
            if self.alive and self.profile.wire.manners.wary:
                with self.talking():
                    self.hearing.listen_twice()
            if self.alive and self.hearing.hears_stray():
                self.profile.wire.manners.saw_stray()
                self.alive = False
        except (OSError, EOFError, errors.FtpfsError):
            self.alive = False
        return self.alive

    def check_login(self) -> None:
        """After a 530, on a settled session: raise ConnectionLost if it is logged out."""
        if self.hearing.doubts_login:
            with self.talking():
                self.hearing.check_login()

    def check_in_step(self) -> None:
        """Listen once for a reply too many. Raises Retreat if it comes."""
        with self.talking():
            self.hearing.expect_no_second()

    def has_spoken(self) -> bool:
        """Whether bytes from the server can be read. Never waits."""
        with self.talking():
            return self.control.readable()

    # Late replies.

    def drain_replies(self, ask: Passive | None = None, *, asked: bool = False) -> Reply | None:
        """Read the late replies of a transfer that was left early.

        Returns the reply to the question for a port, if that is among them: `ask` is the question
        to send now, if one has to be sent; `asked` says that the question left behind the transfer.

        The server sends one late reply (426, 226, or 150 again from pure-ftpd) or two. Therefore
        the session sends another command as a mark: all replies before its answer belong to the
        past. It sends the mark only after the first late reply: while the transfer ends, pure-ftpd
        answers the mark with 500, and pyftpdlib answers the mark first.

        On a settled session, send nothing and return None. Raises ConnectionLost if the session
        cannot be recovered.
        """
        try:
            if asked:
                return self._drain_to_port()
            return self._drain_to_mark(ask) if self.unsettled else None
        except errors.FtpfsError as error:
            raise errors.ConnectionLost(
                f"no recovery after a transfer left early: {error}"
            ) from error

    def _drain_to_port(self) -> Reply:
        with self.talking():
            if self.unsettled:
                self.hearing.reply(GROOM_TIMEOUT)
            port = self.hearing.reply(GROOM_TIMEOUT)
            _check_logged_in(port)
            if port.code not in (227, 229):
                # A second reply about the transfer? Then all later replies would be off by one.
                self.profile.wire.saw_armed_failure(f"server replied {port.code}")
                raise errors.ProtocolError(f"{port.code} is no answer to EPSV or PASV")
        self.unsettled = False
        return port

    def _drain_to_mark(self, ask: Passive | None) -> Reply | None:
        if ask:
            mark = ask.value
        elif "NOOP" in self.profile.wire.manners.avoided:
            mark, self.hearing.text_mode = "TYPE I", False
        else:
            mark = "NOOP"
        answers = (229, 227) if ask else (200,)
        with self.talking():
            self.hearing.reply(GROOM_TIMEOUT)
            self.control.send(f"{mark}\r\n".encode("ascii"))
            for _ in range(4):
                reply = self.hearing.reply(GROOM_TIMEOUT)
                _check_logged_in(reply)
                if reply.code in answers:
                    self.unsettled = False
                    return reply if ask else None
            raise errors.ProtocolError(f"no answer to {mark}")

    def fetch_port(self, way: Passive) -> Reply:
        """The reply to the question for a port, asked while nobody waits. Settles the session."""
        reply = self.drain_replies(way)
        if reply is None:
            self.send(way.value)
            reply = self.receive(GROOM_TIMEOUT)
            with self.talking():
                _check_logged_in(reply)
        return reply

    # Names and lines.

    def encode(self, line: str) -> bytes:
        """The command as it is sent.

        Raises InvalidName (CR, LF or NUL in it, or a name that the encoding cannot write) and
        NameTooLong (longer than the server reads as one line).
        """
        if self.profile.names.foreign:
            line = self.profile.names.foreign.line(line)
        elif self.profile.names.are_bare:
            line = self.folder.shortened(line)
        if "\r" in line or "\n" in line or "\0" in line:
            raise errors.InvalidName("a name with CR, LF or NUL in it cannot be sent over FTP")
        try:
            wire = line.encode(self._codec, "surrogateescape")
        except UnicodeEncodeError as error:
            raise errors.InvalidName(
                f"a name that {self._codec} cannot write: {errors.printable(line)}"
            ) from error
        if self.control.telnet:
            wire = wire.replace(b"\xff", b"\xff\xff")
        wire += b"\r\n"
        if len(wire) > self.line_limit:
            raise errors.NameTooLong(
                f"a command of {len(wire)} bytes, and this server reads {self.line_limit} in one "
                f"line: {errors.printable(line[:60])}..."
            )
        return wire

    def decode(self, raw: bytes) -> str:
        """A name from the server, decoded to the form that the rest of ftpfs uses."""
        return raw.decode(self._codec, "surrogateescape")

    # The end.

    def talking(self) -> Talking:
        """Drop the session on any failure inside: later replies could no longer be matched."""
        return Talking(self)

    def close(self) -> None:
        """Send QUIT and close the connection. Never raises, never waits long."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(OSError, EOFError, errors.FtpfsError):
                self.control.send(b"QUIT\r\n")
        self.drop()

    def drop(self) -> None:
        """Close the connection without QUIT, because the conversation is broken."""
        self.alive = False
        self.control.drop()


class Talking(Mapped):
    """One use of the control connection, in a `with` block: see `Conversation.talking`."""

    __slots__ = ("_conversation", "_ends")

    def __init__(self, conversation: Conversation, *, ends: bool = False) -> None:
        super().__init__(self._asking)
        self._conversation = conversation
        self._ends = ends
        conversation.used_at = self.began

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._conversation.drop()
            super().__exit__(kind, error, trace)

    def _asking(self) -> str:
        words = ENDING if self._ends else "waiting for the reply to"
        return f"{words} {self._conversation.hearing.asked}"


def _check_logged_in(reply: Reply) -> None:
    """Raise ConnectionLost if a reply to what a server refuses to no user says: not logged in."""
    if reply.code == NOT_LOGGED_IN:
        raise logged_out(reply.text)


def _verb(wire: bytes) -> str:
    return wire.partition(b" ")[0].strip().decode("latin-1")
