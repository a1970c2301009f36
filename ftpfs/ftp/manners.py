"""Which commands a server leaves unanswered, answers by hanging up, or answers twice.

The problem: some devices do not answer an unknown command, hang up on it, or read only the first
command of a packet. Waiting for the whole reply deadline each time makes them unusable, and a
broken network looks the same.

What we do: a command that this server never answered gets a short deadline. After that a TYPE
follows, which every server answers. Its answer proves that the server is alive and has swallowed
the command. If the TYPE stays unanswered too, or if the server hangs up, the second failure in a
row counts; on a link that breaks on other commands too, more failures are needed. A command that is
found guilty is *avoided*: the rest of ftpfs sees a 502, and falls back. If several commands were in
flight, the pipelining is blamed first, and commands are sent one by one. Exception: a session falls
silent for good, and the server has answered pipelined commands before. Then the first command
without an answer is at fault.

A reply that cannot be the answer to its command shows that replies and commands are out of step:
from then on commands are sent one by one. If that is not enough, the session becomes *wary*: after
each kind of command it listens once for a second reply.

Owns which commands ftpfs can do without, which reply cannot answer which command, and what follows
from an unanswered command. Sends nothing: `hearing` does, and reports.

Threading: as the profile, whose part this is.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

# Number of failures (hang-ups, or silence of the whole connection) after which a command is blamed.
MOST_SUSPICIONS = 2
# Connections that broke within this time (seconds) on a command that the server does answer. Each
# one raises the number of failures needed, up to a maximum. Without this, a link that drops 12 % of
# all commands took RNFR away for good, and with it all renames, once in 200 runs.
BREAKS_LAST, MOST_BREAKS = 60.0, 4
# Number of unasked-for replies in this mount after which the server counts as one that answers
# twice.
MOST_STRAYS = 3
# Number of replies that answered nothing after which ftpfs takes the server as it is.
MOST_LOSSES = 8
PIPELINING = "several commands in one packet"

# Kinds of more than one word: a server may know one such command and not another.
_LONG = re.compile(
    r"(?:SITE|OPTS) [A-Z0-9]+|LIST -a|MDTM (?=\d{14} .)", re.IGNORECASE
)  # MDTM with a time sets the time
_LONG_VERBS = frozenset(("SITE", "OPTS", "LIST", "MDTM"))
# The minimal conversation. A failure here is reported to the user and names the command.
_NEEDED = frozenset(
    (
        *("USER", "PASS", "ACCT", "AUTH", "PBSZ", "PROT", "TYPE", "QUIT"),
        *("PASV", "PORT", "LIST", "RETR", "STOR"),
    )
)
# Commands that have no substitute, or a poor one. If a server has answered one of these once, ftpfs
# trusts that it always will, also in the next mount; no firewall swallows them.
_WITHOUT_RETREAT = frozenset(("RNFR", "RNTO", "DELE", "MKD", "RMD", "CWD", "REST"))
# Commands that an earlier command begins. After an RNFR, ProFTPD answers 501 to everything until an
# RNTO comes.
_BEGUN_BY = {"RNTO": ("RNFR",)}
TRANSFERS = frozenset(("LIST", "LIST -a", "MLSD", "NLST", "RETR", "STOR", "APPE"))
# Codes that answer only these commands.
_ANSWERS: dict[int, frozenset[str]] = {
    211: frozenset(("FEAT",)),
    213: frozenset(("SIZE", "MDTM", "MDTM ", "MFMT", "MFF", "AVBL")),
    215: frozenset(("SYST",)),
    227: frozenset(("PASV", "EPSV")),
    229: frozenset(("EPSV",)),
    257: frozenset(("PWD", "MKD")),
    350: frozenset(("REST", "RNFR")),
    **dict.fromkeys((125, 150, 226), TRANSFERS),
}
# Commands that a server answers with a code of their own, and never with "done".
_NEVER_DONE = frozenset(("EPSV", "PASV", "SIZE", "MDTM", "RNFR"))
# Other commands (HASH, STAT, what a user types) may be answered by any code.
_KNOWN = frozenset().union(
    *_ANSWERS.values(), _NEEDED, ("CWD", "DELE", "RMD", "RNTO", "MLST", "OPTS UTF8", "OPTS MLST")
)


def kind_of(line: str) -> str:
    """The kind of a command line; what ftpfs learns about one line counts for all of its kind."""
    verb = line.partition(" ")[0].upper()
    if verb not in _LONG_VERBS:
        return verb
    found = _LONG.match(line)
    return found[0].upper().replace(" -A", " -a") if found else verb


def can_answer(kind: str, code: int) -> bool:
    """Whether a reply of this code can be the answer to a command of this kind."""
    if kind in _NEVER_DONE and code in (200, 250):
        return False
    owners = _ANSWERS.get(code)
    return owners is None or kind in owners or kind not in _KNOWN


class Manners:
    """What was seen of one server. Every attribute is replaced as a whole, never changed in place.

    - `avoided`: kinds of commands that are not sent, as if the server had said 502.
    - `pipelines`: the server has answered several commands of one packet.
    - `wary`: some replies come twice.
    - `once`: kinds of commands whose reply was seen to come only once.
    """

    def __init__(self) -> None:
        self.avoided: frozenset[str] = frozenset()
        self.pipelines = False
        self.wary = False
        self.once: frozenset[str] = frozenset()
        self._answered: frozenset[str] = frozenset()
        self._suspicions: dict[str, int] = {}
        self._breaks: tuple[float, ...] = ()  # time.monotonic() of each
        self._strays = 0
        self._losses = 0

    def learned(self) -> dict[str, object]:
        """What the next mount should know, as JSON values."""
        return {
            "avoided": sorted(self.avoided),
            "pipelines": self.pipelines,
            "wary": self.wary,
            "once": sorted(self.once),
            "answered": sorted(self._answered & _WITHOUT_RETREAT),
        }

    @classmethod
    def recalled(cls, value: object) -> Manners:
        """The reverse of `learned`. Raises ValueError for anything else."""
        made = cls()
        if not isinstance(value, dict):
            raise ValueError(f"no manners: {value!r}")  # noqa: TRY004 (as all of the file's)
        for name, attribute in (("avoided",) * 2, ("once",) * 2, ("answered", "_answered")):
            kinds = value.get(name, [])
            if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
                raise ValueError(f"no kinds of commands: {kinds!r}")
            setattr(made, attribute, frozenset(kinds))
        for kind in made.avoided & _BEGUN_BY.keys():
            made.avoided |= {*_BEGUN_BY[kind]}
        if made.avoided & _NEEDED:
            raise ValueError(f"nothing goes without {made.avoided & _NEEDED}")
        made.pipelines, made.wary = value.get("pipelines") is True, value.get("wary") is True
        return made

    def is_unsure(self, kinds: Sequence[str]) -> bool:
        """Whether the server may leave one of these commands, in flight together, unanswered."""
        return (len(kinds) > 1 and not self.pipelines) or any(map(self.may_be_unknown, kinds))

    def may_be_unknown(self, kind: str) -> bool:
        """Whether the server never answered such a command, and ftpfs can do without it."""
        return kind not in self._answered and kind not in _NEEDED

    def saw_answer(self, kind: str) -> None:
        if kind not in self._answered:
            self._answered |= {kind}
            # the command was answered, so the link was at fault
            for _ in range(self._suspicions.pop(kind, 0)):
                self.saw_break()

    def saw_break(self) -> None:
        """A connection broke on a command that the server is known to answer."""
        self._breaks = (*self._breaks[1 - MOST_BREAKS :], time.monotonic())

    def suspect(self, what: str) -> bool:
        """Count a hang-up, or silence of a possibly dead connection, against `what`.

        Returns whether the count is high enough to blame it.
        """
        count = self._suspicions.get(what, 0) + 1
        self._suspicions[what] = count
        lately = time.monotonic() - BREAKS_LAST
        innocent = sum(when > lately for when in self._breaks)
        # Firewalls that do not know EPSV swallow its packet, and so all packets behind it.
        most = 1 if what == "EPSV" else MOST_SUSPICIONS + (what in _WITHOUT_RETREAT)
        return count >= most + innocent

    def is_suspected(self, kind: str) -> bool:
        """Whether a failure counts against this kind, and it was never answered since."""
        return kind in self._suspicions

    def avoid(self, kind: str) -> None:
        self.avoided |= {kind, *_BEGUN_BY.get(kind, ())}
        log.warning("this server does not answer %s; ftpfs stops sending it", kind)

    def lose_count(self) -> bool | None:
        """Count a reply that cannot answer its command. Returns whether to change behaviour.

        At first, a server that answered well before gets another chance (False). None: the server
        does this all the time, and ftpfs takes it as it is.
        """
        self._losses += 1
        learns = self._losses > 1 or not self.pipelines
        if learns:
            self.forget_answers()
        return None if self._losses > MOST_LOSSES else learns

    def forget_answers(self) -> None:
        """Forget which kinds were answered: those replies may have belonged to other commands."""
        self._answered = self.once = frozenset()
        self.pipelines = False

    def saw_stray(self) -> bool:
        """A reply came that belongs to no command.

        Returns whether the server does this all the time, and ftpfs takes it as it is.
        """
        self._strays += 1
        if self._strays >= MOST_STRAYS:
            self.wary = True
        return self._strays > MOST_LOSSES
