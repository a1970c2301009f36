"""One logged-in session: its conversation with the server, and how its data connections are opened.

Owns logging in; sending commands and reading their replies, one by one or pipelined; opening data
connections (EPSV, PASV, active mode), on demand or ahead; and recovering after a transfer was left
early. Each step has a deadline. Owns no policy: a session does not know other sessions, and retries
nothing except a transfer on a data connection that was made ahead. `lister` and `remote` decide
what to send; `transfers` moves the bytes.

**Armed.** A session is *armed* when its next data connection exists, or is being made. A transfer
then costs one round trip instead of three. The session asks for the port at the end of an exchange
that is made anyway (`arm`), or behind a transfer if the server reads one command after the other,
or in `groom`, while nobody waits for the session.

**Unsettled.** A session is *unsettled* while the server has not yet answered about a transfer that
was left early, or about the port. The session sends nothing before that answer.

**Quiet.** A NAT, a VPN or a machine that slept may have forgotten a quiet session. Therefore the
session sends a TYPE ahead of the next command, which costs no round trip of its own. If no answer
comes within a short deadline, the session is over (ConnectionLost). The pool then drops the other
idle sessions too, and repeats on a new one what may be repeated.

Threading: a session belongs to one thread at a time: the thread that holds the pool's lease, or the
groomer.
"""

from __future__ import annotations

import contextlib
import ftplib
import itertools
import logging
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NoReturn

from ftpfs import errors
from ftpfs.ftp import bare, foreign
from ftpfs.ftp.connections.control import (
    Control,
    Reply,
    has_connected,
    login_error,
    mapped,
    reason_of,
    shown_fingerprint,
)
from ftpfs.ftp.connections.questions import Questions
from ftpfs.ftp.connections.replies import features_of, home_in, port_in
from ftpfs.ftp.connections.transfers import Download, Upload
from ftpfs.ftp.manners import PIPELINING, TRANSFERS, can_answer, kind_of
from ftpfs.ftp.profile import MAX_WELCOME, Passive, Profile, features_in
from ftpfs.model import link
from ftpfs.settings.config import DataMode, Network, Server, Tls
from ftpfs.settings.credentials import ANONYMOUS

log = logging.getLogger(__name__)

# Maximum replies in flight while pipelining. All four servers measured answered 500. At some 30
# bytes a command and 60 a reply, neither side's socket buffer (>= 16 KiB, in practice 128) fills.
PIPELINE_WINDOW = 128
# Maximum bytes of commands in flight in `ask`. 10,000 MDTMs to vsftpd at 20 ms took 1.75 s with 128
# commands in flight, 0.84 s with 16 KiB of them, 0.45 s with 32 KiB and with more.
ASK_WINDOW = 32 << 10
# Number of questions between two NOOPs.
GUARD_DISTANCE = 100
_GUARD = b"NOOP\r\n"
# Minimum number of answers that shows how long a server takes for each.
PACED = 50
# Deadline (s) for the server's late replies about a transfer that was left early, and for each step
# of making a data connection ahead. After it the session is closed.
GROOM_TIMEOUT = 5.0
# From this round trip (s) on, making a data connection ahead is worth waking a thread. On loopback
# waking the thread costs more than the two round trips that it saves.
ARMING_PAYS = link.LONG_SECONDS
# Maximum age (s) of a connection made ahead that is still used. Servers close a passive port that
# nobody uses: pyftpdlib after 30 s, vsftpd after 60 by default. An expired one is not replaced
# while nobody needs it.
ARMED_AGE = 25.0
# How long (s, and round trips) a transfer waits for a connection made ahead to be established. The
# kernel repeats a lost SYN after one second only: by then, asking for another port is quicker.
DIAL_PATIENCE, DIAL_ROUND_TRIPS = 0.1, 4
# How long (round trips, and at least seconds) a server may be silent about a transfer on a
# connection made ahead. Then the session is closed, and the transfer repeated without one: proftpd
# has been seen to hang.
ARMED_ROUND_TRIPS, ARMED_TIMEOUT = 10, 3.0
# After this much silence (s), or a sleep of this machine, the session must first answer within a
# short deadline (s, and round trips). Only then do commands get the full reply deadline.
QUIET = 1.0
WAKE_TIMEOUT, WAKE_ROUND_TRIPS = 3.0, 10
# Deadline (s, and round trips) for a command that this server never answered: servers answer an
# optional command in milliseconds, or never. After it, ftpfs checks whether the server is alive.
OPTIONAL_TIMEOUT, OPTIONAL_ROUND_TRIPS = 4.0, 20
# Wait (s) for a second reply: a server's Nagle holds it back until our delayed acknowledgement.
SECOND_REPLY = 0.25
# Deadline (s) for the rest of a line that the server began on an idle session, unasked.
STRAY_TIMEOUT = 1.0
# For this long (s) ftpfs trusts that a session is in the folder that it entered: other clients may
# rename that folder.
FOLDER_AGE = 5.0
# Bytes of one read from a data connection while listing.
LIST_CHUNK = 256 << 10
# Maximum size of one listing. A folder of a million entries is some 90 MB on the wire, and takes
# 400 MB of memory here while it is parsed. A larger listing is an attack, a fault, or no folder to
# work in.
MAX_LISTING = 128 << 20  # bytes
MAX_LISTING_LINES = 2_000_000
# A listing may take this multiple of the data deadline (s), plus its bytes divided by this rate
# (bytes a second; 200 are about two entries). Without this limit, a server that sends a byte every
# few seconds would keep `ls` waiting without end, because each byte comes within the data deadline.
LISTING_PATIENCE, LISTING_RATE = 2, 200


class Session:
    """A logged-in control connection.

    `alive` is False as soon as the conversation is broken; then the session can only be closed.
    `used_at` is the `time.monotonic()` of the last byte in either direction.
    """

    def __init__(self, server: Server, network: Network, profile: Profile) -> None:
        """Connect and log in.

        Raises UnknownHost, ConnectionRefused, DeadlineExceeded, ConnectionLost, TlsError,
        ServerBusy (421: too many connections), LoginFailed.
        """
        self.alive = False
        self.profile = profile
        self.used_at = time.monotonic()
        self._server = server
        self._network = network
        self._asked = "a command"  # verb of the command in flight, for error messages
        self._text_mode: bool | None = None
        self._resumed = False  # a data connection has resumed the control connection's TLS session
        self._slept = _time_asleep()  # seconds this machine had slept when the server last answered
        self._waking = False  # a TYPE went ahead of a command, its reply is not read yet
        self._unsettled = False  # a transfer was left early, its final reply is not read yet
        self._port_due = False  # ... and behind that, the port for the next data connection
        self._folder = ""  # the session's current folder, "" if unknown
        self._entered_at = 0.0
        self._entered_before: object = None  # the profile's `moved` at that time
        self._moves_other = True  # the RNFR in flight is about a file that is not ours
        self._armed: socket.socket | None = None  # the next data connection
        self._armed_at = 0.0
        self._used_data = False  # since the last grooming
        self.moving: socket.socket | None = None  # data connection of the transfer in flight
        self._codec = server.encoding
        self._line_limit = profile.identity.longest_line
        self._listens = server.data_mode is DataMode.ACTIVE
        self._control = Control(server, network)
        try:
            with mapped(lambda: self._control.step):
                self._control.open()
            profile.wire.saw_handshake(self._control.handshake)
            if profile.wire.telnet is not None:
                self._control.telnet = profile.wire.telnet
            with mapped(lambda: f"logging in at {server.host}:{server.port}{self._control.after}"):
                if server.tls in (Tls.EXPLICIT, Tls.OPTIONAL):
                    self._control.secure()
                at_once = self._may_log_in_at_once()
                if not at_once:
                    self._login()
            if at_once:
                self._log_in_at_once()
            else:
                self._look_around()
        except errors.Untrusted as error:
            self._control.drop()
            raise errors.Untrusted(f"{error}{self._told_of_certificate()}") from error
        except BaseException:
            self._control.drop()
            raise
        self._line_limit = profile.identity.longest_line  # the greeting tells the server's software
        self.alive = True

    # Conversation.

    def command(self, line: str) -> Reply:
        """Send one command and return its reply, whatever its code.

        Raises InvalidName (CR, LF or NUL in the line) and NameTooLong (longer than the server reads
        as one line) before anything is sent; DeadlineExceeded; ConnectionLost (also for 421).
        """
        return self.exchange([line])[0]

    def exchange(
        self, lines: Sequence[str], extra: float = 0.0, *, arm: bool = False
    ) -> list[Reply]:
        """Send several commands in as few round trips as this server allows; return their replies.

        Each reply has the reply deadline plus `extra` seconds. With `arm`, the same exchange also
        arms the session, if that pays. Do not call it while a transfer is in flight: proftpd hangs,
        and pyftpdlib overtakes the STOR.
        """
        if self._text_mode and any(line.startswith("SIZE ") for line in lines):
            self._set_type(text=False)  # otherwise many servers answer SIZE with 550
        for line in lines:
            self._encode(line)  # raises for a bad name before anything is sent
        if self.profile.names.are_bare:
            return self._exchange_by_name(lines, extra, arm=arm)
        return self._exchange(lines, extra, arm=arm)

    def _exchange(self, lines: Sequence[str], extra: float, *, arm: bool) -> list[Reply]:
        self._make_ready()
        way = self._way_to_arm() if arm else None
        avoided = self.profile.wire.manners.avoided
        taken = [line for line in lines if kind_of(line) not in avoided]
        asked = [*taken, way.value] if way else taken
        with self._conversation():
            replies = self._converse(asked, self._network.reply_timeout + extra)
        if way:
            self._dial_ahead(way, replies.pop())
        waiting = iter(replies)
        return [_AVOIDED if kind_of(line) in avoided else next(waiting) for line in lines]

    def _converse(self, lines: Sequence[str], timeout: float) -> list[Reply]:
        """Send commands and read their replies. Call it inside a `_conversation`."""
        wire = [self._encode(line) for line in lines]
        window = PIPELINE_WINDOW if self.profile.wire.pipelining else 1
        kinds = [kind_of(line) for line in lines]
        together = window > 1 and len(kinds) > 1
        unsure = self.profile.wire.manners.is_unsure(kinds) if together else None
        replies: list[Reply] = []
        sent = 0
        while len(replies) < len(wire):
            # Refill the window in halves: one segment then carries many commands.
            if sent < len(wire) and sent - len(replies) <= window // 2:
                batch = wire[sent : len(replies) + window]
                self._listen_twice()
                self._control.send(b"".join(batch))
                sent += len(batch)
            others = kinds if together else ()
            replies.append(self._heed(kinds[len(replies)], timeout, others, unsure=unsure))
        if together:
            self.profile.wire.manners.pipelines = True
        self._note_folders(wire, lines, replies)
        return replies

    def ask(self, lines: Sequence[str]) -> list[str]:
        """`exchange` for any number of questions: the last line of each reply, including its code.

        Only for commands that no server answers with 200: NOOPs between the questions bring 200,
        and so reveal a missing or surplus reply. In that case the whole batch is discarded, this
        session is over (ConnectionLost), and the next session sends the questions one by one.
        """
        if self.profile.names.are_bare and lines:
            refusal = self._enter(bare.folder_of(lines[0]))
            if refusal:
                return [refusal.lines[-1]] * len(lines)
        avoided = self.profile.wire.manners.avoided
        one_by_one = not self.profile.wire.pipelining or "NOOP" in avoided
        if one_by_one or any(kind_of(line) in avoided for line in lines[:1]):
            began = time.monotonic()
            answers = [self.command(line).lines[-1] for line in lines]
            if len(lines) >= PACED:
                self.profile.times.saw_pace(time.monotonic() - began, len(lines))
            return answers
        questions = self._questions(lines)
        self._make_ready()
        with self._conversation():
            return self._answers(questions)

    def require(self, line: str) -> Reply:
        """Like `command`, but raise a refusal as the error it means."""
        return self.command(line).check()

    def takes(self, line: str) -> bool:
        """Whether a command can be sent at all. Sends nothing."""
        try:
            self._encode(line)
        except (errors.InvalidName, errors.NameTooLong):
            return False
        return True

    def send(self, line: str) -> None:
        """Send one command without waiting; `receive` reads its reply."""
        wire = self._encode(line)
        self._make_ready()
        with self._conversation():
            self._asked = _verb(wire)
            self._control.send(wire)

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply, within `timeout` seconds (default: the reply deadline)."""
        with self._conversation():
            return self._reply(timeout)

    def fresh(self) -> bool:
        """Whether the idle session still looks usable, without a round trip.

        (An unsettled session is settled first, which takes one.) A server that dropped the session
        has sent 421 or closed the connection; both make the socket readable. Any other unasked-for
        reply would be taken for the answer to the next command, so it ends the session too.
        """
        try:
            if self.alive:
                self._settle()
            if self.alive and self.profile.wire.manners.wary:
                with self._conversation():
                    self._listen_twice()
            if self.alive and not self._waking and self._control.readable():
                stray = self._control.reply(STRAY_TIMEOUT)
                if stray.code != 421:
                    self.profile.wire.manners.saw_stray()
                log.info("unasked-for reply: %s", errors.printable(stray.lines[-1]))
                self.alive = False
        except (OSError, EOFError, errors.FtpfsError):
            self.alive = False
        return self.alive

    @property
    def data_timeout(self) -> float:
        """Seconds within which at least one byte has to move on a data connection."""
        return self._network.data_timeout

    def tls_version(self) -> str | None:
        """TLS version like `TLSv1.3`; None without TLS."""
        return self._control.tls_version()

    def has_spoken(self) -> bool:
        """Whether bytes from the server can be read. Never waits."""
        with self._conversation():
            return self._control.readable()

    def decode(self, wire: str) -> str:
        """A name or path from a reply, decoded to the form the rest of ftpfs uses."""
        return self.decode_bytes(wire.encode("latin-1"))

    def decode_bytes(self, raw: bytes) -> str:
        """A name from a data connection, decoded."""
        return raw.decode(self._codec, "surrogateescape")

    def close(self) -> None:
        """Send QUIT and close the connection. Never raises, never waits long."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(OSError, EOFError, errors.FtpfsError):
                self._control.send(b"QUIT\r\n")
        self.drop()

    def drop(self) -> None:
        """Close the connection without QUIT, because the conversation is broken."""
        self.alive = False
        self.disarm()
        self._control.drop()

    def cut_off(self) -> None:
        """Cut the connections while another thread holds the lease; that thread sees them end.

        Callable from any thread. Never raises, never waits.
        """
        for channel in (self._control.sock, self.moving):
            if channel is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: it removes the TLS layer from under the reading
                    # thread.
                    socket.socket.shutdown(channel, socket.SHUT_RDWR)

    # Servers that take names but no paths. The session enters the folder first. A command with a
    # bare name never leaves before the reply to its CWD: in another folder that name is another
    # file.

    def _exchange_by_name(self, lines: Sequence[str], extra: float, *, arm: bool) -> list[Reply]:
        if crossing := bare.crossing(lines):
            return self._cross(crossing, lines, extra, arm=arm)
        ours = [n for n, line in enumerate(lines) if line.startswith("RNFR ") and _HIDDEN in line]
        confirms = bool(ours) and self.profile.names.is_unsure
        if confirms:
            by_path = self._renamed_by_path(lines, extra, arm=arm)
            if by_path is not None:
                return by_path
        groups = bare.grouped(lines)
        replies: list[Reply] = []
        for number, (folder, together) in enumerate(groups, 1):
            if refusal := self._enter(folder):
                replies += [refusal] * len(together)
            else:
                replies += self._exchange(together, extra, arm=arm and number == len(groups))
        if confirms and any(replies[n].ok for n in ours):
            self.profile.names.saw_path(known=False)
        return replies

    def _enter(self, folder: str) -> Reply | None:
        """Enter this folder ("": any will do); return the refusal if the server denies it."""
        is_there = self._folder == folder and self._entered_before is self.profile.names.moved
        if not folder or (is_there and time.monotonic() - self._entered_at < FOLDER_AGE):
            return None
        (reply,) = self._exchange([f"CWD {folder}"], 0.0, arm=False)
        return None if reply.ok else reply

    def _renamed_by_path(
        self, lines: Sequence[str], extra: float, *, arm: bool
    ) -> list[Reply] | None:
        """Try renames by path after all. Returns the replies if the server carries one out; None:
        it takes no paths."""
        folder, self._folder = self._folder, ""  # so that no path is shortened
        replies = self._exchange(lines, extra, arm=arm)
        self._folder = self._folder or folder
        moves = zip(lines, itertools.pairwise(replies), strict=False)
        if any(line.startswith("RNFR ") and a.ok and b.ok for line, (a, b) in moves):
            self.profile.names.saw_path(known=True)
            return replies
        return None

    def _cross(self, source: str, lines: Sequence[str], extra: float, *, arm: bool) -> list[Reply]:
        """Rename between two folders, which needs paths. It is tried: that the server takes none
        may have been learned from a refusal that passed.

        Raises CrossesFolders. Exception: while nobody knows yet whether the server takes bare
        names, and it refuses this one too, return that refusal.
        """
        if self.profile.names.may_take_paths:
            replies = self._renamed_by_path(lines, extra, arm=arm)
            if replies is not None:
                return replies
        if self.profile.names.paths is not False:
            refusal = self._enter(bare.folder_of(source))
            (reply,) = [refusal] if refusal else self._exchange([source], 0.0, arm=False)
            if not reply.ok:
                return [reply] * len(lines)
            self.drop()  # proftpd and others take nothing but RNTO after RNFR
        raise errors.CrossesFolders("the server takes no paths, and so renames in one folder only")

    def _note_folders(
        self, wire: Sequence[bytes], lines: Sequence[str], replies: Sequence[Reply]
    ) -> None:
        """Learn from replies where the session is, and whether the server takes paths."""
        for sent, line, reply in zip(wire, lines, replies, strict=False):
            verb = line[:4]
            if verb not in _ABOUT_FOLDERS:
                continue
            if verb in _ENTERS:
                known = reply.ok and verb == "CWD "
                self._folder = line[4:] if known else ""
                self._entered_at = time.monotonic()
                self._entered_before = self.profile.names.moved
            elif verb in _MOVES and reply.ok and self._moves_other:
                self.profile.names.moved = object()
            elif reply.code < 400 and self.profile.names.paths is None and b" /" in sent:
                self.profile.names.paths = True
            self._moves_other = verb != "RNFR" or _HIDDEN not in line

    # Grooming: what the pool does while nobody waits for the session.

    @property
    def settled(self) -> bool:
        """Whether a command could be sent at once."""
        return not (self._unsettled or self._port_due)

    @property
    def armed(self) -> bool:
        """Whether the next data connection exists, or is being made."""
        return self._armed is not None

    @property
    def ready(self) -> bool:
        """Whether the next data connection should be established by now."""
        return self.armed and time.monotonic() - self._armed_at >= self.profile.wire.round_trip

    @property
    def on_long_link(self) -> bool:
        """Whether saving a round trip is worth waking a thread."""
        return self.profile.wire.round_trip >= ARMING_PAYS

    def wants_grooming(self) -> bool:
        """Whether `groom` would make the next use of this session faster or spare it a wait.

        False on a short link: there the next caller is done sooner than a groomer wakes up.
        """
        if not self.alive or not self.on_long_link:
            return False
        return not self.settled or (self._used_data and not self._armed and self._may_arm())

    def groom(self, *, arm: bool = True) -> None:
        """Read the late replies of the last transfer, and make the next data connection ahead.

        Raises no network error: a session that breaks here is simply not `alive` afterwards.
        """
        try:
            if arm and self._used_data and self._may_arm():
                self._arm()
            else:
                self._settle()
        except errors.FtpfsError as error:
            log.info("grooming a session failed: %s", error)
        self._used_data = False

    def groom_for_transfer(self) -> None:
        """`groom` as after a transfer, because the next use will be one."""
        self._used_data = True
        if self.wants_grooming():
            self.groom()

    def disarm(self) -> None:
        """Close a data connection that was made ahead; the session stays usable."""
        channel = self.take_armed()
        if channel is not None:
            channel.close()

    def take_armed(self, older_than: float | None = None) -> socket.socket | None:
        """Detach the data connection that was made ahead, to use it or to close it.

        With `older_than` (seconds), return it only if it is older, else None. Touches no network.
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

        The commands `before` it cost no round trip; `Download.replies` holds their replies,
        whatever their codes.
        """
        self._set_type(text=text)
        try:
            channel, replies = self._start(f"RETR {path}", offset, before)
        except errors.NotSupported:
            raise  # the server refused the REST
        except errors.FtpfsError:
            # pyftpdlib keeps the offset for the next transfer if it refuses this one.
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
        """Start a STOR (after a REST if `offset` is not 0), or an APPE.

        The commands `before` it cost no round trip of their own; `Upload.before` holds their
        replies, whatever their codes. `ahead` is the whole content. On an armed session it leaves
        together with the command; the upload is then `complete`.
        """
        self._set_type(text=text)
        command = f"{'APPE' if append else 'STOR'} {path}"
        may = self.profile.identity.takes_content_ahead and not self._control.protected
        waiting = _Ahead(ahead) if may and ahead is not None else None
        channel, replies = self._start(command, offset, before, ahead=waiting)
        return Upload(self, channel, done, replies, complete=bool(waiting and waiting.sent))

    def listing(
        self,
        command: str,
        before: Sequence[str] = (),
        questions: Callable[[bytes], Sequence[str]] | None = None,
    ) -> tuple[bytes, str, list[str]]:
        """All data of a listing, the text of its final reply, and the answers to `questions`.

        The commands `before` it (CWD) cost no round trip of their own. If the server refuses one of
        them, NotPrepared is raised and the listing is discarded.

        `questions` returns commands about the listed data, which `ask` sends. If the server reads
        one command after the other, they leave as soon as the data has ended: there the final reply
        comes one round trip later, when the server knows that its data arrived.

        Raises what the transfer raises. A listing that was cut short is never returned as a whole
        one, as far as that can be detected: pyftpdlib says 226 when the connection was closed under
        it, and then only a last line without a line end shows it.
        """
        channel, _ = self._start(command, 0, before, required=True)
        chunks: list[bytearray] = []
        asked: Questions | None = None

        def ask_ahead() -> None:
            nonlocal asked
            if questions and self.profile.identity.in_order and self.profile.wire.pipelining:
                with self._conversation():
                    asked = self._questions(questions(b"".join(chunks)))
                    self._send_more(asked)

        try:
            with Download(self, channel, None, at_end=ask_ahead) as download:
                self._receive_listing(download, chunks)
            data = b"".join(chunks)
            chunks.clear()
            if data and not data.endswith(b"\n"):
                raise errors.DataConnectionFailed("the listing ends in the middle of a line")
            if self._port_due and (asked or self.has_spoken()):
                self._settle()  # the port came together with the final reply
            if asked is None:
                return data, download.final_text, self.ask(questions(data)) if questions else []
            with self._conversation():
                return data, download.final_text, self._answers(asked)
        except BaseException:
            if asked is not None and not asked.done:
                self.drop()  # else the next command would get these answers
            raise

    def _receive_listing(self, download: Download, chunks: list[bytearray]) -> None:
        """Append all data of a listing to `chunks`.

        After an error `chunks` is empty: the error's traceback refers to it, and an error may live
        long.
        """
        try:
            self._receive_bounded(download, chunks)
            download.check_end()
        except BaseException:
            chunks.clear()
            raise

    def _receive_bounded(self, download: Download, chunks: list[bytearray]) -> None:
        total = lines = 0
        began = time.monotonic()
        buffer = bytearray(LIST_CHUNK)
        while count := download.readinto(memoryview(buffer)):
            chunks.append(buffer[:count])
            total += count
            lines += chunks[-1].count(b"\n")
            if total > MAX_LISTING or lines > MAX_LISTING_LINES:
                raise errors.TooLong(
                    f"a listing of more than {MAX_LISTING >> 20} MiB or {MAX_LISTING_LINES} lines"
                )
            seconds = time.monotonic() - began
            if seconds > LISTING_PATIENCE * self.data_timeout + total / LISTING_RATE:
                raise errors.DeadlineExceeded(
                    f"the listing comes too slowly: {total} bytes in {seconds:.0f} s"
                )

    # Replies.

    def _reply(self, timeout: float | None = None) -> Reply:
        """The next reply. Call it inside a `_conversation`.

        A 421 ends the session. So does "500 OOPS": the last words of a vsftpd session whose other
        half was killed. Read as "unknown command", it would reach a program as EOPNOTSUPP.
        """
        self._hear_it_wake()
        reply = self._control.reply(timeout or self._network.reply_timeout)
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)
        if reply.code == 500 and reply.text.startswith("OOPS:"):
            raise errors.ConnectionLost(f"the server gave up: {errors.printable(reply.text)}")
        if self._resumed and _REUSE_REFUSED.match(reply.lines[-1]):
            # With TLS 1.2 on Debian 13's servers, OpenSSL forgets a TLS session if one of its
            # connections ended without close_notify. No later data connection of this login can
            # resume it.
            raise errors.ConnectionLost(
                f"the server has forgotten the TLS session: {errors.printable(reply.text)}"
            )
        return reply

    # Commands that a server does not answer: see `manners`.

    def _optional_timeout(self) -> float:
        timeout = self._round_trips(OPTIONAL_ROUND_TRIPS, OPTIONAL_TIMEOUT)
        return min(timeout, self._network.reply_timeout)

    def _heed(
        self,
        kind: str,
        timeout: float | None = None,
        together: Sequence[str] = (),
        *,
        unsure: bool | None = None,
    ) -> Reply:
        """The reply to a command of this kind; report to `manners` what it shows.

        Call it inside a `_conversation`. `together`: the kinds of all commands in flight, if there
        are several. `unsure`: whether the server may leave one of them unanswered, if the caller
        found that out before the first reply. Raises Retreat when the profile has changed so that a
        repetition is worthwhile.
        """
        manners = self.profile.wire.manners
        self._asked = kind
        full = timeout or self._network.reply_timeout
        if unsure is None:
            unsure = manners.is_unsure(together or (kind,))
        limit = min(full, self._optional_timeout() * (2 if kind in TRANSFERS else 1))
        try:
            reply = self._reply(limit if unsure else full)
        except TimeoutError:
            if not unsure:
                raise
            if limit >= full:  # the caller's deadline is over
                self._blame(kind, together, TimeoutError(), surely=False)
                raise
            reply = self._after_silence(kind, full, together)
        except (EOFError, ConnectionError) as error:
            if unsure:
                self._blame(kind, together, error, surely=False)
            else:
                manners.saw_break()
            raise
        if not can_answer(kind, reply.code) and (learns := manners.lose_count()) is not None:
            if learns:
                self._plainer()
            raise errors.Retreat(f"{reply.code} is no answer to {kind}")
        manners.saw_answer(kind)
        return reply

    def _after_silence(self, kind: str, full: float, together: Sequence[str]) -> Reply:
        """Check with a TYPE whether the server is alive; return the reply if it was only late."""
        silence = TimeoutError(f"no answer to {kind}")
        if not TRANSFERS.isdisjoint(together or (kind,)):
            # While a transfer is about to begin, nothing may be sent.
            self._blame(kind, together, silence, surely=not together)
            raise silence
        try:
            self._control.send(b"TYPE A\r\n" if self._text_mode else b"TYPE I\r\n")
            reply = self._reply(self._optional_timeout())
            if together:
                self._blame(kind, together, silence, surely=True)
            if reply.code == 200:
                self._blame(kind, together, silence, surely=True)
            self._reply(full)
        except (TimeoutError, EOFError, ConnectionError) as error:
            self._blame(kind, together, error, surely=False)
            raise errors.ConnectionLost(f"no answer to {kind}") from error
        return reply

    def _blame(
        self, kind: str, together: Sequence[str], error: BaseException, *, surely: bool
    ) -> None:
        """Find the command that the server does not answer; raise Retreat if that is certain."""
        manners = self.profile.wire.manners
        # If the server swallowed one of several commands, the last one seems unanswered.
        this = manners.pipelines and manners.may_be_unknown(kind)
        if together and (isinstance(error, TimeoutError) or not this):
            if surely or manners.suspect(PIPELINING):
                self._send_one_by_one()
                raise errors.Retreat(f"no answer to {kind}, sent with others") from error
        elif manners.may_be_unknown(kind) and (surely or manners.suspect(kind)):
            manners.avoid(kind)
            if kind == Passive.EPSV.value:
                self.profile.wire.passive = Passive.PASV
            raise errors.Retreat(f"no answer to {kind}") from error

    def _send_one_by_one(self) -> None:
        if self.profile.wire.pipelining:
            self.profile.wire.pipelining = False
            self.profile.wire.manners.forget_answers()
            log.warning(
                "this server confuses pipelined commands; sending them one by one from now on"
            )

    def _plainer(self) -> None:
        """Replies come twice or not at all: stop pipelining, then listen for second replies."""
        if self.profile.wire.pipelining:
            self._send_one_by_one()
        else:
            self.profile.wire.manners.wary = True

    def _listen_twice(self) -> None:
        """Discard what follows the last reply, if this server may reply twice."""
        manners = self.profile.wire.manners
        if not manners.wary or self._asked in manners.once:
            return
        if not self._control.comes_within(SECOND_REPLY):
            manners.once |= {self._asked}
        while self._control.comes_within(0):
            self._control.reply(STRAY_TIMEOUT)

    def _questions(self, lines: Sequence[str]) -> Questions:
        # A batch that fits into our own send buffer never blocks while the server waits for us to
        # read its replies.
        window = min(ASK_WINDOW, self._control.send_buffer() // 2)
        return Questions(self._encode_guarded(lines), window)

    def _send_more(self, asked: Questions) -> None:
        if batch := asked.next_batch():  # one segment carries many commands
            self._control.send(batch)

    def _answers(self, asked: Questions) -> list[str]:
        """The answers to all questions; also sends the questions that are still to be sent."""
        answers: list[str] = []
        began, at_once = 0.0, 0  # when the first answers came, and how many
        while not asked.done:
            self._send_more(asked)
            self._hear_it_wake()
            there = self._answers_there(asked)
            if not began:
                began, at_once = time.monotonic(), len(there)
            for line in there:
                question = asked.answered()
                if (question is _GUARD) is not line.startswith("200"):
                    self._mismatch(line)
                if question is not _GUARD:
                    answers.append(line)
        if (paced := asked.count - at_once) >= PACED or asked.count > PACED:
            self.profile.times.saw_pace(time.monotonic() - began, max(paced, PACED))
        return answers

    def _answers_there(self, asked: Questions) -> list[str]:
        """The answers that have arrived; waits for at least one."""
        manners = self.profile.wire.manners
        kind = self._asked = asked.next_kind
        unsure, guard = manners.may_be_unknown(kind), kind == "NOOP"
        # If the server leaves a question unanswered, the reply to the NOOP behind it shows that.
        timeout = self._optional_timeout() if unsure and guard else self._network.reply_timeout
        try:
            lines = self._control.final_lines(asked.open, timeout)
        except (TimeoutError, EOFError, ConnectionError) as error:
            swallowed = isinstance(error, TimeoutError)
            if not unsure or (swallowed and not guard):
                raise
            if swallowed or manners.suspect(kind):
                if guard:
                    manners.avoid(kind)
                else:
                    self._send_one_by_one()
                raise errors.Retreat(f"no answer to {kind}") from error
            raise
        if unsure and guard:
            manners.saw_answer(kind)
        return lines

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
        """Handle a reply that cannot be the answer to the pipelined command in its place."""
        if line.startswith("421"):
            raise errors.from_reply(421, line[4:])
        self._send_one_by_one()
        raise errors.ConnectionLost("replies to pipelined commands do not match; starting over")

    def _encode(self, line: str) -> bytes:
        if self.profile.names.foreign:
            line = self.profile.names.foreign.line(line)
        elif self.profile.names.are_bare:
            line = bare.in_folder(line, self._folder)
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
        wire += b"\r\n"
        if len(wire) > self._line_limit:
            raise errors.NameTooLong(
                f"a command of {len(wire)} bytes, and this server reads {self._line_limit} in one "
                f"line: {errors.printable(line[:60])}..."
            )
        return wire

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[None]:
        """Drop the session on any failure inside: later replies could no longer be matched."""
        self.used_at = time.monotonic()
        try:
            with mapped(lambda: f"waiting for the reply to {self._asked}"):
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
            # A server may quote what we sent; hence `from None`, as a traceback would quote it too.
            reply = str(error).replace(wire, "***") if wire else str(error)
            if self._server.tls is Tls.OFF and _DEMANDS_TLS.search(reply):
                raise errors.TlsError(
                    f"the server demands TLS (use ftpes:// or ftps://): {errors.printable(reply)}"
                ) from None
            raise self._login_error(reply) from None
        if self._control.protected:
            self._control.protect_data()

    def _login_error(self, reply: str) -> errors.FtpfsError:
        """The error for a refused login, with a hint."""
        error = login_error(reply)
        if not isinstance(error, errors.LoginFailed):
            return error
        user, host = errors.printable(self._server.user), self._server.host
        if user in (ANONYMOUS, "ftp"):
            return errors.LoginFailed(
                f"{error} (no anonymous login there: name a user, ftp://NAME@{host})"
            )
        return errors.LoginFailed(f"{error} (logging in as {user}: is the password right?)")

    def _told_of_certificate(self) -> str:
        """The untrusted certificate's fingerprint and how to trust it; at first contact only."""
        if self.profile.known:
            return ""
        shown = shown_fingerprint(self._server, self._network)
        if not shown:
            return ""
        return f"; its SHA-256 is {shown}. If that is the server's own: --tls-fingerprint {shown}"

    def _credentials(self) -> tuple[str, str]:
        """User and password in the server's encoding, as latin-1 text, which ftplib sends as is.

        Replies that quote them come in the same form.
        """
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
        tried = profile.known and profile.wire.pipelining and profile.wire.takes_login_at_once
        return tried and not self._server.tls_ccc

    def _log_in_at_once(self) -> None:
        """Log in and arm in one write, if an ordinary login has worked: 1 round trip instead of 3.

        Under TLS it is 1 instead of 5; by then it is known whether the server has TLS.

        Raises as `_login` does. Other failures are counted: a firewall may take such a write for an
        attack.
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
            self.profile.wire.saw_login_at_once_fail(str(error))
            raise errors.ConnectionLost(f"logging in at once: {error}") from error
        self.profile.wire.failed_logins_at_once = 0
        self._text_mode = not replies[2 + len(protection)].ok
        if way:
            self._dial_ahead(way, replies[-1])

    def _login_replies(self, count: int, protection: int, password: str) -> list[Reply]:
        """The replies to USER, PASS, the `protection` commands about TLS, and the rest."""
        replies: list[Reply] = []
        for number in range(count):
            reply = self._control.reply(self._network.reply_timeout)
            # If USER alone logs in, servers answer the PASS with all sorts of codes.
            wanted = number == 1 and not 200 <= replies[0].code < 300
            wanted = wanted or 2 <= number < 2 + protection
            if reply.code == 421 or (wanted and not 200 <= reply.code < 300):
                refused = next((r for r in replies if not r.ok), reply)
                quoted = f"{refused.code} {refused.text}"
                # A server may quote what we sent.
                quoted = quoted.replace(password, "***") if password else quoted
                raise self._login_error(quoted)
            replies.append(reply)
        return replies

    def _look_around(self) -> None:
        """Set the session up; a server's first session also asks what the server can do.

        If an earlier mount has learned that, the session only asks FEAT again, together with the
        rest, and compares: two round trips less.
        """
        profile = self.profile
        welcome = self.decode(self._control.welcome or "")
        if profile.known:
            self._set_up()
        elif profile.is_recalled_for(welcome):
            feat, *_ = self._set_up("FEAT")
            if features_in(features_of(feat)) != profile.identity.features:
                log.info("the server's features have changed; asking for all of them again")
                profile.forget()
                self._look_around()
                return
        else:
            if profile.recalled:
                profile.forget()
            profile.identity.welcome = welcome[:MAX_WELCOME]
            profile.read_features(features_of(self.command("FEAT")))
            system = self.command("SYST")
            profile.identity.system = errors.shortened(system.text) if system.ok else ""
            self._set_up()
        profile.known = True

    def _set_up(self, *first: str) -> list[Reply]:
        """Send the settings of each session after the commands `first`; return all replies.

        The first session also asks for the login folder. A further session was most likely logged
        in for a transfer, so it is armed by the same exchange.
        """
        replies = self.exchange([*first, *self._settings()], arm=self.profile.known)
        self._text_mode = not replies[len(first)].ok
        if not self.profile.names.home:
            home = self._read_home(replies[-1])
            self.profile.names.foreign = foreign.told_by(home)
            self.profile.names.home = "/" if self.profile.names.foreign else home
        return replies

    def _settings(self) -> list[str]:
        profile = self.profile
        settings = ["TYPE I"]
        if profile.identity.utf8 and self._codec == "utf-8":
            settings.append("OPTS UTF8 ON")
        if profile.identity.mlst_options:
            settings.append(profile.identity.mlst_options)
        if not profile.names.home:
            settings.append("PWD")
        return settings

    def _read_home(self, reply: Reply) -> str:
        if not 200 <= reply.code < 300:
            log.info("no answer to PWD, so the mount begins at the server's root: %s", reply.code)
            return "/"
        text = "\n".join(line[4:] if line[:3].isdigit() else line for line in reply.lines)
        if "vsftpd" in self.profile.identity.welcome.lower():
            # vsftpd doubles byte 255 (Telnet's IAC) in this reply, but in no other reply or
            # command.
            text = text.replace("\xff\xff", "\xff")
        home = home_in(text)
        if not home:
            log.warning(
                "the reply to PWD has no folder, so the mount begins at the server's root: %s",
                errors.printable(text[:200]),
            )
        return self.decode(home) or "/"

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
        """Start a transfer after the commands `before` it; return its connection and their replies.

        With `required`, each of those commands has to succeed, else NotPrepared is raised.
        """
        for line in (*before, command):
            self._encode(line)  # raises for a bad name before a connection is made
        if self.profile.names.are_bare and (refusal := self._enter(bare.folder_of(command))):
            refusal.check()
        self._make_ready()
        self._used_data = True
        started = self._start_armed(command, offset, before, required=required, ahead=ahead)
        if started is not None:
            return started
        avoided = self.profile.wire.manners.avoided
        if kind_of(command) in avoided:
            _AVOIDED.check()
        if offset and "REST" in avoided:
            self.profile.contents.rest = False
            raise errors.NotSupported("the server cannot start in the middle of a file")
        self._settle()
        self.disarm()  # it belongs to an earlier port; the exchange below asks for a new one
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
        """Send all in one write; return the replies to `before`, REST (or None), and `command`.

        `ahead` leaves on `channel`, which exists already.
        """
        lines = [*before, *([f"REST {offset}"] if offset else []), command]
        comes = not command.startswith(("STOR", "APPE"))
        way = self._way_to_arm() if self.profile.identity.in_order and (comes or ahead) else None
        if way:
            lines.append(way.value)
        with self._conversation():
            if not self.profile.wire.pipelining:  # `before` is empty then: only the REST precedes
                restarts = self._converse(lines[:-1], self._network.reply_timeout)
                (reply,) = self._converse(lines[-1:], self._network.reply_timeout)
                return [], restarts[0] if restarts else None, self._after_2xx(reply, timeout)
            wire = [self._encode(line) for line in lines]
            self._control.send(b"".join(wire))
            self._port_due = way is not None
            if ahead and channel:
                ahead.leave_by(channel)
            kinds = [kind_of(line) for line in lines]
            others = kinds if len(kinds) > 1 else ()
            replies = [self._heed(kind, timeout, others) for kind in kinds[: len(before)]]
            restart = self._heed("REST", timeout, others) if offset else None
            reply = self._heed(kind_of(command), timeout, others)
            self._note_folders(wire, lines, replies)
            position = len(before) + bool(offset)
            self._note_folders([wire[position]], [command], [reply])
            reply = self._after_2xx(reply, timeout)
            if way and 200 <= reply.code < 400:
                raise errors.ProtocolError(f"{reply.code} is no beginning of a transfer")
        return replies, restart, reply

    def _after_2xx(self, reply: Reply, timeout: float | None) -> Reply:
        """The reply that begins a transfer: some servers send a 2xx before the 1xx."""
        return self._reply(timeout) if 200 <= reply.code < 300 else reply

    def _check_restart(self, channel: socket.socket, restart: Reply | None) -> None:
        if restart is not None and not restart.ok:
            self.leave(channel)
            if restart.code in (500, 502, 504):  # other codes concern this offset in this file
                self.profile.contents.rest = False
            raise errors.NotSupported("the server cannot start in the middle of a file")

    def _open_channel(
        self, before: Sequence[str], *, required: bool
    ) -> tuple[socket.socket, list[Reply]]:
        """Open a data connection (active mode: a listener); also return the replies to `before`.

        If the profile knows how to ask for the port, that command leaves together with `before`.
        """
        way = None if self._listens else self.profile.wire.passive
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
        """Open the first passive data connection to a server, and learn which command it takes."""
        try:
            channel = self._dial(self._ask_port(Passive.EPSV))
            self.profile.wire.passive = Passive.EPSV
        except (errors.NotSupported, errors.Refused, errors.InvalidArgument):
            pass
        except errors.DataConnectionFailed:
            # EPSV answered, but its port leads nowhere: some routers rewrite PASV only.
            log.info("no data connection by EPSV, trying PASV")
        else:
            return channel
        channel = self._dial(self._ask_port(Passive.PASV))
        self.profile.wire.passive = Passive.PASV
        return channel

    def _ask_port(self, way: Passive) -> int:
        return port_in(way, self.command(way.value))

    def _dial(self, port: int, timeout: float = float("inf")) -> socket.socket:
        """Connect to `port` of the control connection's peer, within `timeout` seconds.

        Never connect to the address in a PASV reply: behind NAT it is private or 0.0.0.0, and a
        hostile server could point it at a third party.
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
        self.profile.wire.saw_handshake(time.monotonic() - began)
        return channel

    def _listen(self) -> socket.socket:
        """Active mode: listen on the address the server knows, and tell it the port."""
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
        """Wrap a data connection in TLS, if the session uses TLS, within `timeout` seconds.

        Default: the data deadline.
        """
        channel.settimeout(self._network.data_timeout)
        if not self._control.protected:
            return channel
        channel.settimeout(timeout or self._network.data_timeout)
        with self._conversation(), mapped(lambda: "the TLS handshake of a data connection"):
            wrapped = self._control.wrap_data(channel)
            wrapped.settimeout(self._network.data_timeout)
            # pure-ftpd sends a listing in pieces with Nagle on, and so waits for our delayed ACK:
            # 45 ms a directory under TLS, 12 ms without the delay.
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return wrapped

    def leave(self, channel: socket.socket) -> None:
        """Close a data connection on which the server still sends. Waits for nothing.

        `_settle` reads the server's replies about it later.
        """
        channel.close()
        self._unsettled = True

    def _settle_followed(self) -> None:
        """Read the final reply of a transfer, if it was left early, and then the port behind it."""
        try:
            with self._conversation():
                if self._unsettled:
                    self._reply(GROOM_TIMEOUT)
                port = self._reply(GROOM_TIMEOUT)
                if port.code not in (227, 229):
                    # A second reply about the transfer? Then all later replies would be off by one.
                    self.profile.wire.saw_armed_failure(f"server replied {port.code}")
                    raise errors.ProtocolError(f"{port.code} is no answer to EPSV or PASV")
        except errors.FtpfsError as error:
            raise errors.ConnectionLost(f"no recovery after a transfer: {error}") from error
        self._unsettled = self._port_due = False
        if self.profile.wire.passive:
            self._dial_ahead(self.profile.wire.passive, port)

    def _settle(self, mark: bytes = b"", answers: Collection[int] = (200,)) -> Reply | None:
        """Read the late replies of a transfer that was left early; return the reply to `mark`.

        The server sends one late reply (426, 226, or 150 again from pure-ftpd) or two. Therefore
        the session sends another command as a mark: all replies before its answer belong to the
        past. It sends the mark only after the first late reply: while the transfer ends, pure-ftpd
        answers the mark with 500, and pyftpdlib answers the mark first.

        On a settled session, send nothing and return None. Raises ConnectionLost if the session
        cannot be recovered.
        """
        if self._port_due:
            self._settle_followed()
        if not self._unsettled:
            return None
        if not mark:
            mark = b"TYPE I" if "NOOP" in self.profile.wire.manners.avoided else b"NOOP"
            self._text_mode = self._text_mode and mark == b"NOOP"
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
                f"no recovery after a transfer left early: {error}"
            ) from error

    # Sessions that were quiet.

    def _make_ready(self) -> None:
        """Settle the session; if it was quiet, send a TYPE ahead to see that it still works."""
        self._settle()
        slept = _time_asleep()
        if time.monotonic() - self.used_at <= QUIET and slept - self._slept <= QUIET:
            return
        self._slept = slept
        with self._conversation():
            self._control.send(b"TYPE A\r\n" if self._text_mode else b"TYPE I\r\n")
            self._waking = True
            if not self.profile.wire.pipelining:
                self._hear_it_wake()

    def _hear_it_wake(self) -> None:
        """Read the reply to that TYPE. Call it inside a `_conversation`."""
        if not self._waking:
            return
        self._waking = False
        timeout = self._round_trips(WAKE_ROUND_TRIPS, WAKE_TIMEOUT)
        try:
            reply = self._control.reply(min(timeout, self._network.reply_timeout))
        except TimeoutError:
            raise errors.ConnectionLost(
                f"a session that was not used for a while is silent for {timeout:.0f} s: forgotten "
                "on the way, by a NAT, a VPN or a sleep"
            ) from None
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)

    # Data connections made ahead.

    def _may_arm(self) -> bool:
        wire = self.profile.wire
        return not self._listens and wire.passive is not None and wire.arming

    def _way_to_arm(self) -> Passive | None:
        """The command that asks for a port ahead, together with others; None: not now."""
        wanted = self.on_long_link and self.profile.wire.pipelining and not self._armed
        return self.profile.wire.passive if wanted and self._may_arm() else None

    def _arm(self) -> None:
        """Make the next data connection. The question for its port is the mark for `_settle`."""
        way = self.profile.wire.passive
        if way is None or self._armed or self._port_due:
            self._settle()
            return
        reply = self._settle(way.value.encode(), (229, 227))
        if reply is None:
            self.send(way.value)
            reply = self.receive(GROOM_TIMEOUT)
        self._dial_ahead(way, reply)

    def _dial_ahead(self, way: Passive, reply: Reply) -> None:
        """Begin to connect to the port in `reply`. Waits for nothing."""
        self.disarm()
        try:
            self._armed = self._control.dial_ahead(port_in(way, reply))
            self._armed_at = time.monotonic()
        except (OSError, errors.FtpfsError) as error:
            self.profile.wire.saw_armed_failure(str(error))

    def _start_armed(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        *,
        required: bool,
        ahead: _Ahead | None,
    ) -> tuple[socket.socket, list[Reply]] | None:
        """Like `_start`, on the connection made ahead, in one write; None: none, or it failed.

        If the server is silent about the transfer, the session is closed: DataConnectionFailed,
        which the caller may repeat on another session.
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
                    self.leave(channel)  # it lists or reads the wrong folder
                _check_prepared(replies)
            if reply.code in _NO_CONNECTION:
                channel.close()
                self.profile.wire.saw_armed_failure(f"server replied {reply.code}")
                if ahead:
                    ahead.sent = False
                return None
            reply.check()
            if ahead and not ahead.sent:
                self.leave(channel)
                raise errors.DataConnectionFailed("sending on a connection made ahead failed")
            self._check_restart(channel, restart)
            with self._giving_up_armed():
                if ahead is None and command.startswith(("STOR", "APPE")) and _has_ended(channel):
                    raise errors.ProtocolError("the server has closed it, and waits for another")
                channel = self._protect(channel, timeout)
        except BaseException:
            channel.close()
            raise
        self.profile.wire.armed_failures = 0
        return channel, replies

    @contextlib.contextmanager
    def _giving_up_armed(self) -> Iterator[None]:
        try:
            yield
        except (
            errors.DeadlineExceeded,
            errors.TlsError,
            errors.ProtocolError,
            errors.Retreat,
        ) as error:
            self.drop()
            self.profile.wire.saw_armed_failure(str(error))
            raise errors.DataConnectionFailed(f"a connection made ahead: {error}") from error

    def _round_trips(self, count: int, least: float) -> float:
        """`count` round trips in seconds, but at least `least` seconds."""
        known = self.profile.wire.round_trip < float("inf")
        return max(least, count * self.profile.wire.round_trip) if known else least

    def _usable_armed(self) -> socket.socket | None:
        """The connection made ahead, unless it is too old or the server closed it."""
        if time.monotonic() - self._armed_at > ARMED_AGE or not self.profile.wire.pipelining:
            self.disarm()
        channel = self.take_armed()
        if channel is None:
            return None
        patience = self._round_trips(DIAL_ROUND_TRIPS, DIAL_PATIENCE)
        there = has_connected(channel, patience)
        if there and not _has_ended(channel):
            return channel
        channel.close()
        if there is not None:  # a lost SYN says nothing about the server
            self.profile.wire.saw_armed_failure("the server closed it, or its port")
        return None

    def finish_transfer(self) -> Reply:
        """Read the reply that ends a transfer. Raises if it is a refusal."""
        reply = self.receive(self._network.finish_timeout)
        if reply.code < 200:  # a second 1xx is harmless: the final reply follows
            reply = self.receive(self._network.finish_timeout)
        reply.check()
        self._resumed = self._control.protected
        return reply


def _time_asleep() -> float:
    """Seconds for which this machine has been suspended since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class _Ahead:
    """The whole content of an upload, sent on a connection made ahead, right behind its command.

    The FIN is sent too: vsftpd, proftpd and pure-ftpd take what is there before their 150. The
    control connection tells the outcome, so a failure to send is only noted: `sent` stays False,
    and the server's copy is torn.
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


def _verb(wire: bytes) -> str:
    return wire.partition(b" ")[0].strip().decode("latin-1")


def _has_ended(channel: socket.socket) -> bool:
    """Whether an unused data connection is useless: closed, or with unexpected bytes in it."""
    channel.settimeout(0)
    try:
        channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# By their first four characters: commands that enter a folder, commands after which a folder may
# have another name (renames of our own hidden files do not count), and commands that show whether
# the server takes paths.
_ENTERS, _MOVES = ("CWD ", "CDUP", "XCWD", "XCUP"), ("RNTO", "RMD ")
_ABOUT_FOLDERS = frozenset((*_ENTERS, *_MOVES, "RETR", "STOR", "APPE", "RNFR"))
_HIDDEN = "/.ftpfs-"
# Stands for the reply to a command that is not sent, because this server leaves it unanswered.
_AVOIDED = Reply(502, ("502 not sent, as this server leaves it without an answer",))


def _check_prepared(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if not reply.ok:
            raise errors.NotPrepared(errors.from_reply(reply.code, reply.text))


# Replies that mean: the data connection does not resume the TLS session. 522 (vsftpd), or "425
# Unable to build data connection: Operation not permitted" (proftpd, which says it for other faults
# too).
_REUSE_REFUSED = re.compile(r"522|425.*not permitted")
# Codes for a transfer without a data connection. All four servers measured say 425.
_NO_CONNECTION = {425, 426, 503}
# Servers have no common code for it: 421 (pure-ftpd), 530 (vsftpd), 550 (proftpd, pyftpdlib).
_DEMANDS_TLS = re.compile(r"\b(?:TLS|SSL|encryption|cleartext)\b", re.IGNORECASE)
