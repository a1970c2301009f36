"""Which listings a server has, and what they show."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ftpfs.ftp.profile.facts import SWITCH, Facts, fact, known, maybe_known
from ftpfs.ftp.profile.identity import Identity

log = logging.getLogger(__name__)

# Files from here on (bytes) are asked for their size where listings may show it wrong.
_LONG_FILE = 1 << 20


@dataclass(eq=False)
class Listings(Facts):
    """Which of MLSD, MLST and LIST the server has, and how far it can be believed."""

    identity: Identity
    mlsd: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # `type=cdir` is in its MLSD listings, so no listing is ever empty.
    mlsd_shows_itself: bool | None = field(default=None, metadata=fact(kept=maybe_known))
    mlst: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # MLST shows some names in another way than they were asked for. Found out by each mount.
    mlst_renames: bool = False
    # The server takes LIST -a as an option, not as a name.
    list_all: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # `.` is in the listings of LIST -a, so none is ever empty.
    list_shows_itself: bool = field(default=False, metadata=fact(kept=known))
    # The server has CWD. False: a folder is listed by its path, and cannot be entered.
    enters: bool | None = field(default=None, metadata=fact(kept=maybe_known))
    # ftpfs saw a file whose listed size falls short of its SIZE by a multiple of 4 GiB.
    sizes_wrap: bool = field(default=False, metadata=fact("list_sizes_wrap", kept=known))

    def saw_size(self, listed: int | None, told: int | None) -> None:
        """Learn from one file's two sizes whether listings show only the lower 32 bits of a size.

        If so, listed sizes of long files are wrong.
        """
        if listed is None or told is None or told <= listed or (told - listed) % (1 << 32):
            return
        if not self.sizes_wrap:
            log.warning(
                "listings of this server show wrong sizes of long files; asking SIZE instead"
            )
        self.sizes_wrap = True

    def may_be_wrapped(self, size: int | None) -> bool:
        """Whether a listed size may lack its upper bits. Nearly all sizes that do are long: a file
        of a MiB and more costs a round trip less than its transfer, others are not asked for."""
        if size is None or size < _LONG_FILE:
            return False
        return not (self.identity.is_measured or self.mlsd or self.sizes_wrap)
