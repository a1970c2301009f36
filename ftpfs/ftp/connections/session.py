"""One logged-in session: what the pool, the transfers and the operations use of it.

Owns the order in which the parts of a session act on one command:

- `login` connects and logs in;
- `exchanges` sends what has to go ahead of a command (TYPE, CWD);
- `channels` settles the session first, and makes the next data connection ahead;
- `conversation` sends commands and reads their replies, with `hearing`;
- `questions` does that for any number of questions;
- `starting` begins a transfer, `transfers` carries it out.

Each step has a deadline. Owns no policy: a session does not know other sessions, and retries
nothing except a transfer on a data connection that was made ahead. `lister` and `remote` decide
what to send.

Threading: a session belongs to one thread at a time: the thread that holds the pool's lease, or the
groomer.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence

from ftpfs import errors
from ftpfs.ftp.connections.channels import Channels
from ftpfs.ftp.connections.control import Control, Reply
from ftpfs.ftp.connections.conversation import Conversation
from ftpfs.ftp.connections.exchanges import Exchanges
from ftpfs.ftp.connections.login import Login
from ftpfs.ftp.connections.questions import PACED_ANSWERS, Asking, Questions
from ftpfs.ftp.connections.rates import Rates
from ftpfs.ftp.connections.starting import Ahead, Starter
from ftpfs.ftp.connections.transfers import Download, Upload, receive_listing
from ftpfs.ftp.manners import kind_of
from ftpfs.ftp.profile import Profile
from ftpfs.settings.config import DataMode, Network, Server


class Session:
    """A logged-in control connection, and its data connections.

    - `moving`: the data connection of the transfer in flight.
    - `rates`: the limits that all sessions of this server share.
    - `is_cut_off`: `cut_off` was called.
    """

    def __init__(
        self, server: Server, network: Network, profile: Profile, rates: Rates | None = None
    ) -> None:
        """Connect and log in. `rates`: None: no limits.

        Raises UnknownHost, ConnectionRefused, DeadlineExceeded, ConnectionLost, TlsError,
        ServerBusy (421: too many connections), LoginFailed.
        """
        self.profile = profile
        self.moving: socket.socket | None = None
        self.rates = rates or Rates()
        self.is_cut_off = False
        self._network = network
        self._control = Control(server, network)
        self._conversation = Conversation(self._control, server.encoding, network, profile)
        self._channels = Channels(
            self._conversation, network, listens=server.data_mode is DataMode.ACTIVE
        )
        self._exchanges = Exchanges(self._conversation, self._channels)
        self._asking = Asking(self._conversation)
        self._starter = Starter(self._conversation, self._channels, self._exchanges)
        try:
            Login(server, network, self._conversation, self._channels, self._exchanges).run()
        except BaseException:
            self.drop()
            raise

    @property
    def alive(self) -> bool:
        """Whether the conversation goes on. If not, the session can only be closed."""
        return self._conversation.alive

    @property
    def used_at(self) -> float:
        """The `time.monotonic()` of the last byte in either direction."""
        return self._conversation.used_at

    @used_at.setter
    def used_at(self, when: float) -> None:
        self._conversation.used_at = when

    # Commands.

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
        return self._exchanges.exchange(lines, extra, arm=arm)

    def ask(self, lines: Sequence[str]) -> list[str]:
        """`exchange` for any number of questions: the last line of each reply, including its code.

        Only for commands that no server answers with 200: see `questions`, also for what happens
        when a reply is missing.
        """
        if lines and (refusal := self._exchanges.enter_for(lines[0])):
            return [refusal.lines[-1]] * len(lines)
        avoided = self.profile.wire.manners.avoided
        one_by_one = not self.profile.wire.pipelining or "NOOP" in avoided
        if one_by_one or any(kind_of(line) in avoided for line in lines[:1]):
            began = time.monotonic()
            answers = [self.command(line).lines[-1] for line in lines]
            if len(lines) >= PACED_ANSWERS:
                self.profile.times.saw_pace(time.monotonic() - began, len(lines))
            return answers
        questions = self._asking.prepare(lines)
        self._channels.settle()
        self._conversation.wake_if_quiet()
        return self._asking.answers(questions)

    def require(self, line: str) -> Reply:
        """Like `command`, but raise a refusal as the error it means."""
        return self.command(line).check()

    def check_in_step(self) -> None:
        """Raise Retreat if another reply is on its way: the last one was not about its command."""
        self._conversation.check_in_step()

    def takes(self, line: str) -> bool:
        """Whether a command can be sent at all. Sends nothing."""
        try:
            self._conversation.encode(line)
        except (errors.InvalidName, errors.NameTooLong):
            return False
        return True

    def decode(self, wire: str) -> str:
        """A name or path from a reply, decoded to the form the rest of ftpfs uses."""
        return self.decode_bytes(wire.encode("latin-1"))

    def decode_bytes(self, raw: bytes) -> str:
        """A name from a data connection, decoded."""
        return self._conversation.decode(raw)

    def tls_version(self) -> str | None:
        """TLS version like `TLSv1.3`; None without TLS."""
        return self._control.tls_version()

    # Between two uses: what the pool asks and does while nobody waits for the session.

    def fresh(self) -> bool:
        """Whether the idle session still looks usable, without a round trip.

        (An unsettled session is settled first, which takes one.) See `Conversation.is_fresh`.
        """
        if self.alive:
            try:
                self._channels.settle()
            except (OSError, EOFError, errors.FtpfsError):
                self._conversation.alive = False
        return self._conversation.is_fresh()

    @property
    def settled(self) -> bool:
        """Whether a command could be sent at once."""
        return self._channels.settled

    @property
    def armed(self) -> bool:
        """Whether the next data connection exists, or is being made."""
        return self._channels.armed

    @property
    def ready(self) -> bool:
        """Whether the next data connection should be established by now."""
        return self._channels.ready

    @property
    def on_long_link(self) -> bool:
        """Whether saving a round trip is worth waking a thread."""
        return self._channels.on_long_link

    def wants_grooming(self) -> bool:
        """See `Channels.wants_grooming`."""
        return self._channels.wants_grooming()

    def groom(self, *, arm: bool = True) -> None:
        """See `Channels.groom`."""
        self._channels.groom(arm=arm)

    def groom_for_transfer(self) -> None:
        """`groom` as after a transfer, because the next use will be one."""
        self._channels.used_data = True
        if self.wants_grooming():
            self.groom()

    def disarm(self) -> None:
        """Close a data connection that was made ahead; the session stays usable."""
        self._channels.disarm()

    def take_armed(self, older_than: float | None = None) -> socket.socket | None:
        """See `Channels.take_armed`. Touches no network."""
        return self._channels.take_armed(older_than)

    # The end.

    def close(self) -> None:
        """Send QUIT and close the connection. Never raises, never waits long."""
        self._conversation.close()
        self._channels.disarm()

    def drop(self) -> None:
        """Close the connection without QUIT, because the conversation is broken."""
        self._channels.disarm()
        self._conversation.drop()

    def cut_off(self) -> None:
        """Cut the connections while another thread holds the lease; that thread sees them end.

        Callable from any thread. Never raises, never waits.
        """
        self.is_cut_off = True
        for channel in (self._control.sock, self.moving):
            if channel is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: it removes the TLS layer from under the reading
                    # thread.
                    socket.socket.shutdown(channel, socket.SHUT_RDWR)

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
        self._exchanges.set_type(text=text)
        try:
            channel, replies = self._starter.start(f"RETR {path}", offset, before)
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
        self._exchanges.set_type(text=text)
        command = f"{'APPE' if append else 'STOR'} {path}"
        may = self.profile.identity.takes_content_ahead and not self._control.protected
        may = may and not self.rates.up.limited
        waiting = Ahead(ahead) if may and ahead is not None else None
        channel, replies = self._starter.start(command, offset, before, ahead=waiting)
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
        channel, _ = self._starter.start(command, 0, before, required=True)
        chunks: list[bytearray] = []
        asked: Questions | None = None

        def ask_ahead() -> None:
            nonlocal asked
            if questions and self.profile.identity.in_order and self.profile.wire.pipelining:
                with self._conversation.talking():
                    asked = self._asking.prepare(questions(b"".join(chunks)))
                self._asking.send_first(asked)

        try:
            with Download(self, channel, None, at_end=ask_ahead, waits=False) as download:
                receive_listing(download, chunks, self.data_timeout)
            data = b"".join(chunks)
            if self.rates.down.limited:
                self.rates.down.charge(len(data))
            chunks.clear()
            if data and not data.endswith(b"\n"):
                raise errors.DataConnectionFailed("the listing ends in the middle of a line")
            if self._channels.port_due and (asked or self.has_spoken()):
                self._channels.settle()  # the port came together with the final reply
            if asked is None:
                return data, download.final_text, self.ask(questions(data)) if questions else []
            return data, download.final_text, self._asking.answers(asked)
        except BaseException:
            if asked is not None and not asked.done:
                self.drop()  # else the next command would get these answers
            raise

    # What a transfer needs of its session: see `transfers.Carrier`.

    @property
    def data_timeout(self) -> float:
        """Seconds within which at least one byte has to move on a data connection."""
        return self._network.data_timeout

    def has_spoken(self) -> bool:
        """Whether bytes from the server can be read. Never waits."""
        return self._conversation.has_spoken()

    def receive(self, timeout: float | None = None) -> Reply:
        """The next reply, within `timeout` seconds (default: the reply deadline)."""
        return self._conversation.receive(timeout)

    def finish_transfer(self) -> Reply:
        """Read the reply that ends a transfer. Raises if it is a refusal."""
        timeout = self._network.finish_timeout
        reply = self._conversation.receive(timeout, ends=True)
        if reply.code < 200:  # a second 1xx is harmless: the final reply follows
            reply = self._conversation.receive(timeout, ends=True)
        reply.check()
        self._conversation.hearing.resumed = self._control.protected
        return reply

    def leave(self, channel: socket.socket) -> None:
        """Close a data connection on which the server still sends. Waits for nothing."""
        self._channels.leave(channel)
