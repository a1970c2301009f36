"""Replacing: a rename over a file that never loses both, whatever is refused or cut off.

Owns: the steps by which a file takes another one's name, on servers whose rename replaces and on
those whose rename does not; what a retry does about the state that it finds; the names of files
that are moved aside. Sessions and retries are the pool's; `remote` explains a refusal.

RNTO replaces a file on most servers, in one step. If it does not, or if a handle still reads the
old content, the old file is moved *aside*: to a hidden name beside it. For a moment the server has
no file under the final name, and each step may be refused, or its reply be lost. So:

- Nothing is moved aside after a mere refusal, which may concern the source or a permission. First
  two scratch files show whether this server's rename replaces. That is learned once.
- The caller chooses the hidden name, once for the whole operation, and notes it in the journal. A
  retry looks which of the three names exist, and goes on from that state:

    source  target  aside
    yes     yes     -       nothing was done: begin
    yes     -       yes     the old file is aside: rename; if that is refused, give its name back
    -       yes     -       done
    -       -       yes     a rename carried out late was moved aside as if it were the old file, or
                            the source is gone: give the name back
    -       -       -       both are gone

- The hidden name tells its owner, its time, and the file's own name. If a listing shows one from
  before this mount, and no file under its own name, the file gets that name again
  (`Temporaries.sweep`). Of a name of more than 217 bytes only the beginning fits, so such a file
  keeps its hidden name, and the log says where it is.

Threading: any thread; a session belongs to one.
"""

from __future__ import annotations

import logging
import posixpath
import re
import secrets
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp import lister
from ftpfs.ftp.connections.session import Session
from ftpfs.model.names import HIDDEN_PREFIX

log = logging.getLogger(__name__)

_NAME_MAX = 255  # bytes; what servers' disks allow
_ASIDE = re.compile(
    rf"{re.escape(HIDDEN_PREFIX)}([0-9a-f]{{8}})-([0-9a-f]{{8,}})-[0-9a-f]+\.old(?:-(.+)|~.*)?"
)


def aside_name(owner: str, name: str) -> str:
    """A hidden name for the file `name`. It contains as much of `name` as fits."""
    hidden = f"{HIDDEN_PREFIX}{owner}-{int(time.time()):08x}-{secrets.token_hex(4)}.old"
    full = f"{hidden}-{name}"
    while len(full.encode("utf-8", "surrogateescape")) > _NAME_MAX:
        name = name[:-1]
        full = f"{hidden}~{name}"
    return full


def told_by(hidden: str) -> tuple[str, int, str] | None:
    """Owner, time and original name in a name of `aside_name`; None for any other name.

    The original name is empty if it was too long.
    """
    found = _ASIDE.fullmatch(hidden)
    return (found.group(1), int(found.group(2), 16), found.group(3) or "") if found else None


class Replacement:
    """One operation: `source` takes the name of `target`, in one or more attempts."""

    def __init__(
        self,
        source: str,
        target: str,
        aside: str,
        *,
        keep: bool,
        replaces: Callable[[Session, str], bool | None],
    ) -> None:
        """Paths on the server. `aside`: where the old file goes if necessary.

        `keep`: the old file goes there in any case, and stays, because a handle reads it.
        `replaces`: see `Probes.replaces`.
        """
        self._source = source
        self._target = target
        self._aside = aside
        self._keep = keep
        self._replaces = replaces

    def begin(self, session: Session) -> None:
        """The first attempt. Raises Refused with both files as they were."""
        if not self._keep:
            try:
                rename(session, self._source, self._target)
            except errors.Refused:
                if self._replaces(session, self._target) is not False:
                    raise
            else:
                return
        first, moved, *others = session.exchange(
            [
                f"RNFR {self._target}",
                f"RNTO {self._aside}",
                f"RNFR {self._source}",
                f"RNTO {self._target}",
            ]
        )
        refusals = [reply for reply in (first, moved, *others) if not reply.ok]
        if not refusals:
            self._done(session)
            return
        if moved.ok and not others[1].ok:
            self._give_back(session)
        refusals[0].check()

    def go_on(self, session: Session) -> None:
        """A later attempt. Looks first what the earlier ones have done."""
        source = lister.find(session, self._source) is not None
        target = lister.find(session, self._target) is not None
        aside = lister.find(session, self._aside) is not None
        if source and target and not aside:
            try:
                self.begin(session)
            except errors.Refused:
                if lister.find(session, self._source) or not lister.find(session, self._target):
                    raise  # else: the server carried out an earlier attempt late
            return
        if source:
            try:
                rename(session, self._source, self._target)
            except errors.Refused:
                if aside and not target:
                    self._give_back(session)
                raise
        elif not target:
            if not aside:
                rename(session, self._source, self._target)  # raises what is wrong
            log.warning("%s was moved aside, and has its name again", self._target)
            rename(session, self._aside, self._target)
            return
        if aside:
            self._done(session)

    def _done(self, session: Session) -> None:
        if self._keep:
            return
        reply = session.command(f"DELE {self._aside}")
        if not reply.ok:
            # The new file is in its place, so the operation has succeeded.
            log.warning("the old content is left on the server as %s: %s", self._aside, reply.code)

    def _give_back(self, session: Session) -> None:
        give_back(session, self._aside, self._target)


def give_back(session: Session, aside: str, target: str) -> None:
    """Give the old file its name again. If the server refuses, the log tells where it is."""
    try:
        rename(session, aside, target)
    except errors.Refused as refusal:
        log.error("the old content of %s is on the server as %s: %s", target, aside, refusal)


def rename(session: Session, source: str, target: str) -> None:
    """RNFR and RNTO in one round trip."""
    first, second = session.exchange([f"RNFR {source}", f"RNTO {target}"])
    first.check()
    second.check()


def can_be_moved(session: Session, path: str, aside: str) -> None:
    """Rename a file there and back, in one round trip. Raises Refused if it stays in place."""
    first, second, *back = session.exchange(
        [f"RNFR {path}", f"RNTO {aside}", f"RNFR {aside}", f"RNTO {path}"]
    )
    first.check()
    second.check()
    if not all(reply.ok for reply in back):
        give_back(session, aside, path)


def restore(session: Session, folder: str, hidden: str) -> bool:
    """Give a file its name again that an earlier mount has moved aside.

    Only if no file has that name now. Returns whether it was done.
    """
    told = told_by(hidden)
    aside = f"{folder.rstrip('/')}/{hidden}"
    if told is None:
        return False
    if not told[2]:
        log.warning(
            "%s holds a file that an earlier mount was replacing; its name was too long to be"
            " noted, and nothing renames or deletes it",
            aside,
        )
        return False
    target = posixpath.join(folder, told[2])
    if lister.find(session, target) is not None:
        log.warning(
            "%s holds what was %s before an earlier mount replaced it; nothing deletes it",
            aside,
            target,
        )
        return False
    try:
        rename(session, aside, target)
    except errors.Refused as refusal:
        log.error("what was %s is on the server as %s: %s", target, aside, refusal)
        return False
    log.warning("%s had been moved aside by an earlier mount, and has its name again", target)
    return True
