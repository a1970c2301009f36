"""Data connections of one session: opened on demand (passive or active), or made ahead.

Owns listening in active mode, TLS on a data connection, and the connection that
is made ahead of the next transfer. Each step has a deadline. Does not own the transfers: `starting`
begins them, `transfers` moves the bytes. `passive` finds a port that answers.

**Armed.** A session is *armed* when its next data connection exists, or is being made. A transfer
then costs one round trip instead of three. The session asks for the port at the end of an exchange
that is made anyway (`exchange` with `arm`), or behind a transfer if the server reads one command
after the other, or in `groom`, while nobody waits for the session.

Threading: the thread that uses the session. `take_armed` touches no network, and the pool calls it
on idle sessions under its lock.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp.connections import addresses
from ftpfs.ftp.connections.control import (
    DATA_HANDSHAKE,
    Mapped,
    Reply,
    has_connected,
    reason_of,
)
from ftpfs.ftp.connections.conversation import Conversation
from ftpfs.ftp.connections.hearing import patience
from ftpfs.ftp.connections.passive import PassivePorts
from ftpfs.ftp.connections.replies import port_in
from ftpfs.ftp.profile import Passive
from ftpfs.model import link
from ftpfs.settings.config import Network

log = logging.getLogger(__name__)

# From this round trip (s) on, making a data connection ahead is worth waking a thread. On loopback
# waking the thread costs more than the two round trips that it saves.
ARMING_PAYS_SECONDS = link.LONG_SECONDS
# Maximum age (s) of a connection made ahead that is still used. Servers close a passive port that
# nobody uses: pyftpdlib after 30 s, vsftpd after 60 by default. An expired one is not replaced
# while nobody needs it.
ARMED_AGE_SECONDS = 25.0
# How long (s, and round trips) a transfer waits for a connection made ahead to be established. The
# kernel repeats a lost SYN after one second only: by then, asking for another port is quicker.
DIAL_SECONDS, DIAL_ROUND_TRIPS = 0.1, 4
# What helps when the server makes no connection to us.
_ACTIVE = "active needs a port open on this side; without it, we connect to the server"


class Channels:
    """The data connections of one session.

    - `used_data`: a transfer was begun since the last grooming.
    - `port_due`: the question for a port left behind a transfer, and its answer is not read yet.
    - `listens`: the server connects to us (active mode).
    """

    def __init__(self, conversation: Conversation, network: Network, *, listens: bool) -> None:
        self.used_data = False
        self.port_due = False
        self.listens = listens
        self._conversation = conversation
        self._control = conversation.control
        self._profile = conversation.profile
        self._network = network
        self._ports = PassivePorts(
            self._control, self._profile, network, lambda line: self.exchange([line])[0]
        )
        self._armed: socket.socket | None = None  # the next data connection
        self._armed_at = 0.0  # time.monotonic()

    # Commands on a settled session.

    @property
    def settled(self) -> bool:
        """Whether a command could be sent at once."""
        return not (self._conversation.unsettled or self.port_due)

    def settle(self) -> None:
        """Read the late replies of a transfer, and dial the port among them, if there is one.

        On a settled session, send nothing. Raises ConnectionLost.
        """
        port = self._conversation.drain_replies(asked=self.port_due)
        self.port_due = False
        if port and self._profile.wire.passive:
            self.dial_ahead(self._profile.wire.passive, port)

    def exchange(
        self, lines: Sequence[str], extra: float = 0.0, *, arm: bool = False
    ) -> list[Reply]:
        """`Conversation.exchange`; with `arm`, the same exchange arms the session, if that pays."""
        self.settle()
        way = self.way_to_arm() if arm else None
        if way is None:
            return self._conversation.exchange(lines, extra)
        *replies, port = self._conversation.exchange([*lines, way.value], extra)
        self.dial_ahead(way, port)
        return replies

    # Connections on demand.

    def open(self, port: Reply | None) -> socket.socket:
        """A data connection to a port that is asked for now, or was: `port` is the reply then.

        In active mode it is a listener, for `accept`. Raises what `PassivePorts.connect` raises.
        """
        if self.listens:
            return self._listen()
        return self._ports.connect(port)

    def accept(self, listener: socket.socket) -> socket.socket:
        """The server's connection to us, in active mode. Closes the listener.

        Raises DataConnectionFailed, and DeadlineExceeded if the server makes none.
        """
        with listener:
            try:
                channel, peer = listener.accept()
            except OSError as error:
                raise self._unmade(error) from error
        if peer[0] != self._control.peer:
            channel.close()
            raise errors.DataConnectionFailed(f"a stranger connected from {peer[0]}")
        return channel

    def protect(self, channel: socket.socket, timeout: float | None = None) -> socket.socket:
        """Wrap a data connection in TLS, if the session uses TLS, within `timeout` seconds.

        Default: the data deadline.
        """
        channel.settimeout(self._network.data_timeout)
        if not self._control.protected:
            return channel
        channel.settimeout(timeout or self._network.data_timeout)
        with self._conversation.talking(), Mapped(lambda: DATA_HANDSHAKE):
            wrapped = self._control.wrap_data(channel)
            wrapped.settimeout(self._network.data_timeout)
            # pure-ftpd sends a listing in pieces with Nagle on, and so waits for our delayed ACK:
            # 45 ms a directory under TLS, 12 ms without the delay.
            wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return wrapped

    def leave(self, channel: socket.socket) -> None:
        """Close a data connection on which the server still sends. Waits for nothing.

        `settle` reads the server's replies about it later.
        """
        channel.close()
        self._conversation.unsettled = True

    def _unmade(self, error: OSError) -> errors.FtpfsError:
        """The error if the server makes no connection to us in active mode."""
        step = "the server made no data connection to us"
        if isinstance(error, TimeoutError):
            seconds = self._network.connect_timeout
            return errors.DeadlineExceeded(
                f"{step}: no answer after {seconds:g} s (connect_timeout; {_ACTIVE})"
            )
        return errors.DataConnectionFailed(f"{step}: {reason_of(error)} ({_ACTIVE})")

    def _listen(self) -> socket.socket:
        """Active mode: listen on the address the server knows, and tell it the port."""
        family = self._control.family
        host = self._control.own_address
        listener = addresses.listen(self._network, host, family)
        listener.settimeout(self._network.connect_timeout)
        port = listener.getsockname()[1]
        number = 2 if family == socket.AF_INET6 else 1  # RFC 2428, 2
        try:
            (reply,) = self.exchange([f"EPRT |{number}|{host}|{port}|"])
            if not reply.ok and family == socket.AF_INET:
                address = host.replace(".", ",")
                (reply,) = self.exchange([f"PORT {address},{port >> 8},{port & 255}"])
            reply.check()
        except BaseException:
            listener.close()
            raise
        return listener

    # Connections made ahead.

    @property
    def armed(self) -> bool:
        """Whether the next data connection exists, or is being made."""
        return self._armed is not None

    @property
    def ready(self) -> bool:
        """Whether the next data connection should be established by now."""
        return self.armed and time.monotonic() - self._armed_at >= self._profile.wire.round_trip

    @property
    def on_long_link(self) -> bool:
        """Whether saving a round trip is worth waking a thread."""
        return self._profile.wire.round_trip >= ARMING_PAYS_SECONDS

    def wants_grooming(self) -> bool:
        """Whether `groom` would make the next use of this session faster or spare it a wait.

        False on a short link: there the next caller is done sooner than a groomer wakes up.
        """
        if not self._conversation.alive or not self.on_long_link:
            return False
        return not self.settled or (self.used_data and not self._armed and self._may_arm())

    def groom(self, *, arm: bool) -> None:
        """Read the late replies of the last transfer, and make the next data connection ahead.

        Raises no network error: a session that breaks here is simply not `alive` afterwards.
        """
        try:
            if arm and self.used_data and self._may_arm():
                self._arm()
            else:
                self.settle()
        except errors.FtpfsError as error:
            log.info("grooming a session failed: %s", error)
        self.used_data = False

    def way_to_arm(self) -> Passive | None:
        """The command that asks for a port ahead, together with others; None: not now."""
        wanted = self.on_long_link and self._profile.wire.pipelining and not self._armed
        return self._profile.wire.passive if wanted and self._may_arm() else None

    def dial_ahead(self, way: Passive, reply: Reply) -> None:
        """Begin to connect to the port in `reply`. Waits for nothing."""
        self.disarm()
        try:
            self._armed = self._control.dial_ahead(port_in(way, reply))
            self._armed_at = time.monotonic()
        except ConnectionRefusedError as error:
            # A dead port says nothing about connections made ahead: later it would be as dead.
            log.info("the port for a data connection made ahead is dead: %s", error)
        except (OSError, errors.FtpfsError) as error:
            self._profile.wire.saw_armed_failure(str(error))

    def take_usable(self) -> socket.socket | None:
        """Detach the connection made ahead, unless it is too old or the server closed it."""
        if (
            time.monotonic() - self._armed_at > ARMED_AGE_SECONDS
            or not self._profile.wire.pipelining
        ):
            self.disarm()
        channel = self.take_armed()
        if channel is None:
            return None
        there = has_connected(channel, patience(self._profile, DIAL_ROUND_TRIPS, DIAL_SECONDS))
        if there and not has_ended(channel):
            return channel
        channel.close()
        if there is not None:  # a lost SYN or a dead port says nothing about the server
            self._profile.wire.saw_armed_failure("the server closed it, or its port")
        return None

    def take_armed(self, older_than: float | None = None) -> socket.socket | None:
        """Detach the data connection that was made ahead, to use it or to close it.

        With `older_than` (seconds), return it only if it is older, else None. Touches no network.
        """
        if older_than is not None and time.monotonic() - self._armed_at <= older_than:
            return None
        channel, self._armed = self._armed, None
        return channel

    def disarm(self) -> None:
        """Close a data connection that was made ahead; the session stays usable."""
        channel = self.take_armed()
        if channel is not None:
            channel.close()

    def _may_arm(self) -> bool:
        return (
            not self.listens
            and self._profile.wire.passive is not None
            and self._profile.wire.arming
        )

    def _arm(self) -> None:
        """Make the next data connection. The question for its port also settles the session."""
        way = self._profile.wire.passive
        if way is None or self._armed or self.port_due:
            self.settle()
        else:
            self.dial_ahead(way, self._conversation.fetch_port(way))


def has_ended(channel: socket.socket) -> bool:
    """Whether an unused data connection is useless: closed, or with unexpected bytes in it."""
    channel.settimeout(0)
    try:
        channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
