"""How a transfer starts: its command, the commands ahead of it, and its data connection.

Owns the choice between the data connection made ahead and a new one, the one write in which a
transfer on an armed session leaves, and what follows from each refusal. `channels` makes the data
connections, `transfers` moves the bytes.

A transfer is repeated here in one case only: on a new data connection, when the server refuses the
one made ahead.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

from ftpfs import errors
from ftpfs.ftp.connections.channels import Channels, has_ended
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.conversation import AVOIDED, Conversation
from ftpfs.ftp.connections.exchanges import Exchanges
from ftpfs.ftp.connections.hearing import patience
from ftpfs.ftp.manners import kind_of

# How long (round trips, and at least seconds) a server may be silent about a transfer on a
# connection made ahead. Then the session is closed, and the transfer repeated without one: proftpd
# has been seen to hang.
ARMED_ROUND_TRIPS, ARMED_TIMEOUT = 10, 3.0
# Codes for a transfer without a data connection. All four servers measured say 425.
_NO_CONNECTION = {425, 426, 503}


class Ahead:
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


class Starter:
    """Starts the transfers of one session."""

    def __init__(
        self, conversation: Conversation, channels: Channels, exchanges: Exchanges
    ) -> None:
        self._conversation = conversation
        self._channels = channels
        self._exchanges = exchanges
        self._profile = conversation.profile

    def start(
        self,
        command: str,
        offset: int,
        before: Sequence[str] = (),
        *,
        required: bool = False,
        ahead: Ahead | None = None,
    ) -> tuple[socket.socket, list[Reply]]:
        """Start a transfer after the commands `before` it; return its connection and their replies.

        With `required`, each of those commands has to succeed, else NotPrepared is raised. `ahead`
        is sent only if the session is armed.
        """
        try:
            return self._start(command, offset, before, required=required, ahead=ahead)
        except (errors.LoginFailed, errors.NotPrepared):
            if self._conversation.alive:
                self._channels.settle()
                self._conversation.check_login()
            raise

    def _start(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        *,
        required: bool,
        ahead: Ahead | None,
    ) -> tuple[socket.socket, list[Reply]]:
        for line in (*before, command):
            self._conversation.encode(line)  # raises for a bad name before a connection is made
        if refusal := self._exchanges.enter_for(command):
            refusal.check()
        self._channels.settle()
        self._conversation.wake_if_quiet()
        self._channels.used_data = True
        started = self._start_armed(command, offset, before, required=required, ahead=ahead)
        if started is not None:
            return started
        self._check_not_avoided(command, offset)
        self._channels.settle()
        self._channels.disarm()  # it belongs to an earlier port; a new one is asked for
        channel, replies = self._open_channel(before, required=required)
        try:
            _, restart, reply = self._begin(command, offset, ())
            reply.check()
            if self._channels.listens:
                channel = self._channels.accept(channel)
            self._check_restart(channel, restart)
            return self._channels.protect(channel), replies
        except BaseException:
            channel.close()
            raise

    def _check_not_avoided(self, command: str, offset: int) -> None:
        avoided = self._profile.wire.manners.avoided
        if kind_of(command) in avoided:
            AVOIDED.check()
        if offset and "REST" in avoided:
            self._profile.contents.rest = False
            raise errors.NotSupported("the server cannot start in the middle of a file")

    def _open_channel(
        self, before: Sequence[str], *, required: bool
    ) -> tuple[socket.socket, list[Reply]]:
        """Open a data connection (active mode: a listener); also return the replies to `before`.

        If the profile knows how to ask for the port, that command leaves together with `before`.
        """
        way = None if self._channels.listens else self._profile.wire.passive
        replies = self._exchanges.exchange([*before, way.value] if way else before)
        port = replies.pop() if way else None
        if required:
            _check_prepared(replies)
        return self._channels.open(port), replies

    def _begin(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        timeout: float | None = None,
        ahead: Ahead | None = None,
        channel: socket.socket | None = None,
    ) -> tuple[list[Reply], Reply | None, Reply]:
        """Send all in one write; return the replies to `before`, REST (or None), and `command`.

        `ahead` leaves on `channel`, which exists already. A STOR leaves only after the server has
        taken its REST: without it, the STOR would cut the file off.
        """
        comes = not _is_upload(command)
        ready: list[Reply] = []
        if offset and not comes:
            ready = self._conversation.exchange([*before, f"REST {offset}"])
            if not ready[-1].ok:
                raise self._no_restart(ready[-1])
            before, offset = (), 0
        may_follow = self._profile.identity.in_order and (comes or ahead)
        way = self._channels.way_to_arm() if may_follow else None

        def once_sent() -> None:
            self._channels.port_due = way is not None
            if ahead and channel:
                ahead.leave_by(channel)

        lines = [*before, *([f"REST {offset}"] if offset else []), command]
        replies = self._conversation.begin_transfer(lines, way, timeout, once_sent)
        restart = replies[-2] if offset else None
        return ready[:-1] or replies[: len(before)], restart, replies[-1]

    def _check_restart(self, channel: socket.socket, restart: Reply | None) -> None:
        if restart is not None and not restart.ok:
            self._channels.leave(channel)
            raise self._no_restart(restart)

    def _no_restart(self, refusal: Reply) -> errors.NotSupported:
        """The error for a REST that was refused."""
        if refusal.code in (500, 502, 504):  # other codes concern this offset in this file
            self._profile.contents.rest = False
        return errors.NotSupported("the server cannot start in the middle of a file")

    # On a connection made ahead.

    def _start_armed(
        self,
        command: str,
        offset: int,
        before: Sequence[str],
        *,
        required: bool,
        ahead: Ahead | None,
    ) -> tuple[socket.socket, list[Reply]] | None:
        """Like `start`, on the connection made ahead, in one write; None: none, or it failed.

        If the server is silent about the transfer, the session is closed: DataConnectionFailed,
        which the caller may repeat on another session.
        """
        channel = self._channels.take_usable()
        if channel is None:
            return None
        timeout = patience(self._profile, ARMED_ROUND_TRIPS, ARMED_TIMEOUT)
        try:
            with self._giving_up_armed():
                replies, restart, reply = self._begin(
                    command, offset, before, timeout, ahead, channel
                )
            if required and not all(each.ok for each in replies):
                if reply.ok:
                    self._channels.leave(channel)  # it lists or reads the wrong folder
                _check_prepared(replies)
            if reply.code in _NO_CONNECTION:
                channel.close()
                self._profile.wire.saw_armed_failure(f"server replied {reply.code}")
                if ahead:
                    ahead.sent = False
                return None
            reply.check()
            if ahead and not ahead.sent:
                self._channels.leave(channel)
                raise errors.DataConnectionFailed("sending on a connection made ahead failed")
            self._check_restart(channel, restart)
            with self._giving_up_armed():
                if ahead is None and _is_upload(command) and has_ended(channel):
                    raise errors.ProtocolError("the server has closed it, and waits for another")
                channel = self._channels.protect(channel, timeout)
        except BaseException:
            channel.close()
            raise
        self._profile.wire.saw_armed_work()
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
            self._conversation.drop()
            self._profile.wire.saw_armed_failure(str(error))
            raise errors.DataConnectionFailed(f"a connection made ahead: {error}") from error


def _is_upload(command: str) -> bool:
    return command.startswith(("STOR", "APPE"))


def _check_prepared(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if not reply.ok:
            raise errors.NotPrepared(errors.from_reply(reply.code, reply.text))
