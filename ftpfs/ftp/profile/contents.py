"""What a server does with a part of a file, and how it proves a whole one."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ftpfs.ftp import digest
from ftpfs.ftp.profile.facts import (
    SWITCH,
    UNKNOWN,
    Facts,
    choice,
    fact,
    maybe_known,
    members,
    one_of,
)
from ftpfs.ftp.profile.identity import Identity


class Placing(enum.Enum):
    """How a file gets its name on the server."""

    TEMPORARY = "whole under a temporary name, then renamed"
    # For folders from which another program takes each file away: written once, under its own name,
    # and not looked at afterwards.
    IN_PLACE = "written under its own name, once"


class Restart(enum.Enum):
    """What REST n and STOR leave of an existing file."""

    ALL = "keeps what lies before and behind"  # vsftpd, proftpd, pyftpdlib
    HEAD = "keeps what lies before"  # pure-ftpd: STOR truncates the file at n
    NOTHING = "cannot be relied on"


def _digests(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(word in digest.COMMANDS for word in value):
        raise ValueError(f"no commands for checksums: {value!r}")
    return tuple(value)


@dataclass(eq=False)
class Contents(Facts):
    """REST, APPE, the commands for checksums, and how an upload gets its name."""

    identity: Identity
    # The server takes REST before a RETR.
    rest: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # What REST before a STOR does; probed when first needed.
    restart: Restart | None = field(
        default=None, metadata=fact(kept=one_of(Restart), quirk=members(Restart))
    )
    # APPE adds to a file; see `is_measured`.
    appends: bool | None = field(default=None, metadata=fact(kept=maybe_known))
    # Only ever set by the user.
    placing: Placing | None = field(
        default=None,
        metadata=fact(
            "upload", quirk=choice({each.name.replace("_", "-").lower(): each for each in Placing})
        ),
    )
    # Commands that may report a file's checksum, the one to use first; None: not chosen yet.
    digests: tuple[str, ...] | None = field(
        default=None,
        metadata=fact(
            kept=_digests,
            quirk=choice(
                {"no": (), **{command: (command,) for command in digest.COMMANDS}},
                tell=lambda commands: commands[0] if commands else "no",
            ),
        ),
    )

    def cannot_restart(self) -> None:
        """Note that the server refused a REST and STOR.

        That may have other reasons than a missing command (a full disk), so the next mount tries
        again.
        """
        if self.restart is not Restart.NOTHING:
            self.believe_briefly("restart", Restart.NOTHING)

    def digest_command(self) -> str:
        """The command for a checksum: one that works, or the most promising one left; "": none.

        A server's FEAT is trusted if there is one.
        """
        if self.digests is None:
            features = self.identity.features
            named = tuple(each for each in digest.COMMANDS if each in features)
            self.digests = named if features else tuple(digest.COMMANDS)
        return self.digests[0] if self.digests else ""

    def saw_digest(self, command: str, code: int) -> bool:
        """Learn from the reply to `command`; return whether to try another command."""
        if code < 400:
            self.digests = (command,)
            return False
        if code not in UNKNOWN:
            return False  # the refusal is about this file
        self.digests = tuple(each for each in self.digests or () if each != command)
        return bool(self.digests)
