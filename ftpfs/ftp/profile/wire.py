"""How commands and connections travel to a server."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field

from ftpfs.ftp.manners import Manners
from ftpfs.ftp.profile.facts import SWITCH, Facts, fact, known, members, number, one_of
from ftpfs.ftp.profile.identity import Identity

log = logging.getLogger(__name__)

# Number of failed connections made ahead, in a row, after which no more are made. One can fail
# because a firewall forgot it, or because the server is busy; two in a row show that the server or
# the network never takes them.
MOST_ARMED_FAILURES = 2
# Number of transfers in a row whose EPSV led to a dead port, and whose PASV did not. After these,
# EPSV is no longer sent: some routers rewrite PASV only. A single dead port shows nothing: a
# firewall may close some of them.
MOST_DEAD_EXTENDED = 3
# Number of failures in a row after which logins are no longer sent in one write. A failure: the
# login ended in silence, or the connection broke.
MOST_LOGIN_FAILURES = 2


class Passive(enum.Enum):
    """The command that opens a passive data connection."""

    EPSV = "EPSV"  # RFC 2428: a port only, so NAT and IPv6 cannot spoil it
    PASV = "PASV"  # RFC 959: an address and a port; the address is ignored, see passive.py


def _count(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"no number of connections: {value!r}")
    return value


@dataclass(eq=False)
class Wire(Facts):
    """Round trip, pipelining, and the connections that the server takes."""

    identity: Identity
    passive: Passive | None = field(
        default=None, metadata=fact(kept=one_of(Passive), quirk=members(Passive))
    )
    # The shortest TCP handshake seen, in seconds: the link's round trip, without the server's own
    # time. (Through a tunnel, it is the handshake with the tunnel's near end: then only the user
    # knows the round trip.)
    round_trip: float = field(
        default=float("inf"),
        metadata=fact(
            quirk=number(r"[0-9]+(\.[0-9]+)?", "milliseconds", lambda word: float(word) / 1000)
        ),
    )
    pipelining: bool = field(default=True, metadata=fact(kept=known, quirk=SWITCH))
    # Data connections made ahead work.
    arming: bool = field(default=True, metadata=fact(kept=known, quirk=SWITCH))
    armed_failures: int = 0  # of connections made ahead, in a row
    failed_logins_at_once: int = 0  # in a row
    dead_extended: int = 0  # transfers in a row, see MOST_DEAD_EXTENDED
    # Commands that the server does not answer, see `manners`.
    manners: Manners = field(default_factory=Manners, metadata=fact(kept=Manners.recalled))
    # How many connections the server allows at once; None: it was not seen to refuse one.
    connections: int | None = field(default=None, metadata=fact(kept=_count))
    # Its TLS data connections were seen to end with close_notify.
    close_notify: bool = field(default=False, metadata=fact(quirk=SWITCH))
    # Whether the server reads commands as Telnet. None: decided by its greeting, see control.py.
    telnet: bool | None = field(default=None, metadata=fact(quirk=SWITCH))

    def saw_handshake(self, seconds: float) -> None:
        """Note how long a TCP connect took."""
        self.round_trip = min(self.round_trip, seconds)

    def saw_extended(self) -> None:
        """A port that EPSV named has answered."""
        self.passive, self.dead_extended = Passive.EPSV, 0

    def saw_extended_dead(self) -> None:
        """A port that PASV named has answered, and before it one that EPSV named has not."""
        self.dead_extended += 1
        if self.dead_extended >= MOST_DEAD_EXTENDED:
            log.info("the ports that EPSV names lead nowhere; PASV's do")
            self.passive = Passive.PASV

    def saw_armed_work(self) -> None:
        """A transfer began on a data connection made ahead."""
        self.armed_failures = self.dead_extended = 0

    def saw_armed_failure(self, why: str) -> None:
        """A data connection made ahead was useless. After two in a row, no more are made."""
        self.armed_failures += 1
        log.info("a data connection made ahead failed: %s", why)
        if self.armed_failures >= MOST_ARMED_FAILURES and self.arming:
            self.arming = False
            log.warning(
                "data connections made ahead do not work with this server; transfers cost more"
            )

    def saw_login_at_once_fail(self, why: str) -> None:
        """A login in one write failed. After two in a row, no more are tried."""
        self.failed_logins_at_once += 1
        log.info("logging in by one write failed: %s", why)
        if self.failed_logins_at_once == MOST_LOGIN_FAILURES:
            log.warning(
                "logins in one write do not work with this server; further sessions cost more"
            )

    @property
    def takes_login_at_once(self) -> bool:
        """Whether a whole login may come in one write: tried with the measured servers only."""
        fails = self.failed_logins_at_once >= MOST_LOGIN_FAILURES
        return not fails and self.identity.is_measured
