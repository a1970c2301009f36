"""Passive data connections: asks for ports until one of them answers.

The problem: some firewalls let only a part of a server's passive ports through, and some routers
rewrite PASV only, so that EPSV's ports lead nowhere. A dead port looks like a network that is gone.

The obvious solution is to wait for each port for the whole deadline. Then one dead port costs the
caller all the time that it has, although the next port would answer.

What we do: a port gets a share of the deadline, and after it the server is asked for another one.
All ports together get one deadline. A saturated link answers late, so a share is at least several
times as long as the question for the port has just taken.

Owns: the choice between EPSV and PASV, and what a port that answers teaches. One dead port teaches
nothing. Does not own the commands ahead of a transfer: `channels` sends those.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp.connections.control import Control, Reply, reason_of
from ftpfs.ftp.connections.hearing import patience
from ftpfs.ftp.connections.replies import port_in
from ftpfs.ftp.profile import Passive, Profile
from ftpfs.settings.config import Network

log = logging.getLogger(__name__)

# Maximum number of ports that a transfer asks for: the deadline has as many shares.
MOST_PORTS = 8
# Maximum number of ports if all of them refuse. That costs no time; the pool tries again.
MOST_REFUSALS = 4
# A share lasts at least that many of the link's shortest round trips, and that many times the last
# question for a port.
SHARE_ROUND_TRIPS, SHARE_QUESTIONS = 6, 3
# Less of the deadline than this is no time to wait for a port.
_MOMENT_SECONDS = 0.01
# Shares of the deadline through a proxy: it makes a connection of its own, and may be slow.
PROXY_SHARES = 2
# Refusals of EPSV after which PASV is asked for, and the other way round.
_REFUSALS = (
    *(errors.NotSupported, errors.Refused, errors.InvalidArgument),
    errors.DataConnectionFailed,
)
# What helps when no data connection can be made.
_ADVICE = (
    "where a firewall closes the server's passive ports, the option active lets the server connect "
    "to us"
)


class PassivePorts:
    """Connects one session to the passive ports of its server."""

    def __init__(
        self, control: Control, profile: Profile, network: Network, ask: Callable[[str], Reply]
    ) -> None:
        """`ask` sends a command on the settled session and returns its reply."""
        self._control = control
        self._profile = profile
        self._wire = profile.wire
        self._network = network
        self._ask = ask

    def connect(self, reply: Reply | None) -> socket.socket:
        """A data connection. `reply`: to the way that the profile knows, if it was asked already.

        Raises DataConnectionFailed if all ports refuse; DeadlineExceeded if no port answers; the
        error of a refusal.
        """
        search = _Search(self._network.connect_timeout)
        ways = [Passive.PASV] if self._wire.passive is Passive.PASV else list(Passive)
        while True:
            way = ways[search.asked % len(ways)]
            try:
                port = self._port(way, reply, search)
            except _REFUSALS as error:
                if len(ways) == 1 or (way is self._wire.passive and not search.dead):
                    raise
                log.info("no data connection by %s: %s", way.value, error)
                ways.remove(way)
                continue
            finally:
                reply = None
            channel = self._dial(port, search)
            if channel is not None:
                self._learn(way, is_alone=len(ways) == 1)
                return channel
            if search.is_over:
                raise search.failure()

    def _port(self, way: Passive, reply: Reply | None, search: _Search) -> int:
        if reply is not None:
            return port_in(way, reply)
        began = time.monotonic()
        reply = self._ask(way.value)
        search.question = time.monotonic() - began
        return port_in(way, reply)

    def _dial(self, port: int, search: _Search) -> socket.socket | None:
        """Connect to `port` of the control connection's peer; None: it is dead.

        Never connect to the address in a PASV reply: behind NAT it is private or 0.0.0.0, and a
        hostile server could point it at a third party.
        """
        search.asked += 1
        if not 0 < port < 65536:
            search.note(port, None, f"the server offered port {port}")
            return None
        began = time.monotonic()
        try:
            channel = self._control.dial_data(port, self._share(search))
        except OSError as error:
            search.note(port, error, reason_of(error))
            return None
        self._wire.saw_handshake(time.monotonic() - began)
        channel.settimeout(self._network.connect_timeout)
        return channel

    def _share(self, search: _Search) -> float:
        """How long (s) the next port is waited for: a share of the deadline, or the rest of it."""
        shares = PROXY_SHARES if self._network.proxy else MOST_PORTS
        least = self._network.connect_timeout / shares
        share = max(
            patience(self._profile, SHARE_ROUND_TRIPS, least), SHARE_QUESTIONS * search.question
        )
        is_last = search.left < 2 * share or search.asked == MOST_PORTS
        return max(search.left, _MOMENT_SECONDS) if is_last else share

    def _learn(self, way: Passive, *, is_alone: bool) -> None:
        """A port answered. `is_alone`: the server refused the other way."""
        if way is Passive.EPSV:
            self._wire.saw_extended()
        elif not is_alone:
            self._wire.saw_extended_dead()
        elif self._wire.passive is None:
            self._wire.passive = way


class _Search:
    """The ports that one transfer has asked for.

    - `asked`: how many of them were dialled, or were no ports.
    - `dead`: those that did not answer.
    - `question`: how long (s) the last question for a port took.
    """

    def __init__(self, seconds: float) -> None:
        self.asked = 0
        self.dead: list[int] = []
        self.question = 0.0
        self._seconds = seconds
        self._began = time.monotonic()
        self._is_silent = False  # one of them answered nothing
        self._reason = ""

    @property
    def left(self) -> float:
        """The rest of the deadline in seconds."""
        return self._began + self._seconds - time.monotonic()

    @property
    def is_over(self) -> bool:
        most = MOST_PORTS if self._is_silent else MOST_REFUSALS
        return len(self.dead) >= most or self.left < _MOMENT_SECONDS

    def note(self, port: int, error: OSError | None, reason: str) -> None:
        log.info("port %d is dead: %s", port, reason)
        self.dead.append(port)
        self._reason = reason
        self._is_silent = self._is_silent or isinstance(error, TimeoutError)

    def failure(self) -> errors.FtpfsError:
        """The error if no port answered.

        A deadline that passed is final, because the caller has waited long enough. Otherwise the
        pool may try again.
        """
        step = f"no data connection to port {', '.join(map(str, dict.fromkeys(self.dead)))}"
        if self._is_silent:
            seconds = round(min(time.monotonic() - self._began, self._seconds), 1)
            return errors.DeadlineExceeded(
                f"{step}: no answer after {seconds:g} s (connect_timeout; {_ADVICE})"
            )
        return errors.DataConnectionFailed(f"{step}: {self._reason} ({_ADVICE})")
