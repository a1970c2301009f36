"""What a server's commands name files by, and whether it renames them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ftpfs.ftp.foreign import Foreign
from ftpfs.ftp.profile.facts import SWITCH, Facts, fact, maybe_known

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Names(Facts):
    """Paths or bare names, where relative paths begin, and what RNFR and RNTO do."""

    # The folder after login; relative paths of the mount begin there.
    home: str = ""
    # Set if the server's system writes its paths without slashes; then `home` is "/".
    foreign: Foreign | None = None
    # RETR, STOR and the rest take paths. False: they take only names in the folder of the last CWD.
    paths: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # An operation is tried by bare names, to see whether that works.
    trying: bool = False
    moved: object = field(default_factory=object)  # replaced whenever a folder may have a new name
    # False: the server has no RNFR, or no RNTO.
    renames: bool | None = field(default=None, metadata=fact(kept=maybe_known))
    replaces: bool | None = None  # RNTO replaces a file; probed when first needed

    @property
    def are_bare(self) -> bool:
        """Whether commands name a file in the session's current folder, without a path.

        Servers that take paths take that too.
        """
        return self.paths is False or self.trying

    @property
    def may_be_bare_only(self) -> bool:
        """Whether the server may take bare names only: it has not taken a path yet."""
        return self.paths is None and self.foreign is None

    def saw_bare(self) -> None:
        """Note that the server did by a name what it had refused by a path.

        The refusal may have passed between the two, so only this mount believes it, until the
        server refuses the path of a file of ours, too (`saw_path`).
        """
        if self.paths is None:
            self.believe_briefly("paths", False)
            log.warning("this server takes names but no paths: ftpfs enters each folder first")

    @property
    def is_unsure(self) -> bool:
        """Whether a file of ours has to show that the server takes no paths."""
        return self.paths is False and self.is_brief("paths")

    @property
    def may_take_paths(self) -> bool:
        """Whether a rename that needs a path is worth a try: unless the user says it is not."""
        return not self.is_pinned("paths")

    def saw_path(self, *, known: bool) -> None:
        """Note whether the server knew a file, which is there for sure, by its path."""
        if known and self.paths is False:
            log.warning("this server takes paths after all")
        self.believe("paths", known)
