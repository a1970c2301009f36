"""Checks: a server's reply is a claim, and this module compares it with the facts.

Servers have said 226 for truncated uploads, and 250 for renames that were not done. So each upload
asks for the size, and with `verify=content` for the checksum; a rename is believed when the old
name is gone.

Owns: the questions about one file and the meaning of the answers; sizes, checksums and renames; the
memory of torn files and of looks without an answer. Does not own which file is under a name
(`expectation`).

Threading: any thread; `Checksums`, `Looks` and `TornFiles` have a lock each.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ftpfs import errors
from ftpfs.ftp import digest, lister
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.uploading.content import CHUNK_BYTES, local_bytes
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Content

log = logging.getLogger(__name__)

# Replies of a server that does not know a command, or not its argument.
UNKNOWN = (500, 501, 502, 504)

# Looks in a row that a busy server may leave without an answer before ftpfs stops waiting for one.
MOST_BUSY_LOOKS = 5


@dataclass(frozen=True)
class Seen:
    """What the server tells about a file. A field that it does not tell is None.

    `busy`: the server was not able to tell now (4xx), so another look may show more. `maybe_link`:
    size and time may be those of a link, and not of the file that it leads to.
    """

    there: bool | None
    size: int | None = None
    mtime: int | None = None
    directory: bool = False
    busy: bool = False
    maybe_link: bool = False

    def is_other_than(self, base: Entry | None, profile: Profile) -> bool:
        """Whether another client has changed the file `base`.

        A file that is gone is no conflict, because no content of another client would be lost.
        Times are compared only if both are exact. `base` may be from before the server's zone was
        known.
        """
        if not self.there:
            return False
        if base is None:
            return True
        if None not in (base.size, self.size) and base.size != self.size:
            return True
        if not base.exact or base.mtime is None or self.mtime is None:
            return False
        shown = self.mtime, profile.times.shown_at(self.mtime)
        return not any(profile.setting.is_same_time(base.mtime, time) for time in shown)


def questions(profile: Profile, path: str) -> list[str]:
    """The commands that ask about a file, as exactly as this server's listings."""
    if "MLST" in profile.identity.features and profile.listings.mlst is not False:
        return [f"MLST {path}"]
    return [f"SIZE {path}", f"MDTM {path}"]


def seen_in(session: Session, replies: Sequence[Reply]) -> Seen:
    """The answers to `questions`."""
    if len(replies) == 1:
        return _seen_in_mlst(session, replies[0])
    size, when = size_in(replies[0]), lister.time_in(replies[1], session.profile)
    if size is not None:
        return Seen(True, size, when)
    if replies[0].code in UNKNOWN:
        return Seen(True, None, when) if when is not None else Seen(None)
    return _not_seen(replies[0])


def _seen_in_mlst(session: Session, reply: Reply) -> Seen:
    entry = lister.entry_in(session, reply)
    if entry is None:
        return _not_seen(reply)
    mtime = int(entry.mtime) if entry.mtime is not None else None
    # proftpd mixes the facts of a link and of its target; a link's mode is always 0777.
    maybe_link = entry.kind is Kind.LINK or entry.mode == 0o777
    return Seen(
        True, entry.size, mtime, directory=entry.kind is Kind.DIRECTORY, maybe_link=maybe_link
    )


def _not_seen(reply: Reply) -> Seen:
    # 550: nothing there, a directory, or a folder that shows nothing.
    return Seen(False if reply.code == 550 else None, busy=400 <= reply.code < 500)


def size_in(reply: Reply) -> int | None:
    """The size in a reply to SIZE (RFC 3659, 4: `213 size`), None if there is none."""
    text = reply.text.strip()
    return int(text) if reply.code == 213 and text.isdigit() else None


def is_gone(reply: Reply) -> bool:
    """Whether there is no such file, by the reply to SIZE. 4xx is busy: the file may be there."""
    return size_in(reply) is None and not 400 <= reply.code < 500


def check_size(reply: Reply, size: int, path: str) -> None:
    """Raises DataMismatch if the reply to SIZE tells another size."""
    found = size_in(reply)
    if found not in (None, size):
        raise errors.DataMismatch(f"the server says it has {found} of {size} bytes of {path}")


def why_not_renamed(first: Reply, second: Reply, left: Reply) -> str:
    """Why a file still has its old name, by the replies to RNFR, RNTO and SIZE of the old name.

    Empty if it was renamed.
    """
    for reply in (first, second):
        if not reply.ok:
            return f"{reply.code} {errors.printable(reply.text)}"
    if size_in(left) is not None:
        return f"{second.code}, but it was not renamed"
    return ""


def surely_not_renamed(session: Session, first: Reply, second: Reply, left: Reply) -> str:
    """`why_not_renamed` for replies that have just come.

    Raises Retreat if they contradict each other because they are out of step.
    """
    why = why_not_renamed(first, second, left)
    if why and first.ok and second.ok:
        session.check_in_step()
    return why


def check_not_busy(*replies: Reply) -> None:
    """Raises Busy if a program on the server has the file open.

    Then the file is not written in place: its readers would read a part of it, and a later attempt
    may succeed.
    """
    for reply in replies:
        if not reply.ok and isinstance(errors.from_reply(reply.code, reply.text), errors.Busy):
            reply.check()


class Checksums:
    """The checksums of one server, and the option `verify=content`."""

    def __init__(self, profile: Profile, *, verify_content: bool) -> None:
        # Dependencies and constants:
        self.verify_content = verify_content  # the user's option
        self._profile = profile
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock:
        self._warned = False  # the log has said that the server has no checksums

    @property
    def are_compared(self) -> bool:
        """Whether the user wants checksums compared, and the server has them.

        The log warns once about a server without checksums.
        """
        if not self.verify_content:
            return False
        if self._profile.contents.digest_command():
            return True
        with self._lock:
            warn, self._warned = not self._warned, True
        if warn:
            log.warning("verify=content: this server tells no checksums; only sizes are compared")
        return False

    def ask(self, session: Session, path: str, size: int) -> digest.Told | None:
        """The server's checksum of a file, by the first command that the server knows."""
        while command := self._profile.contents.digest_command():
            line = digest.line(command, path)
            (reply,) = session.exchange([line], extra=size / digest.SLOWEST_BYTES_A_SECOND)
            if not self._profile.contents.saw_digest(command, reply.code):
                return digest.told_in(command, path, reply)
        return None

    def compare(self, path: str, content: Content, size: int, theirs: digest.Told | None) -> None:
        """Raises DataMismatch if the server has another content at `path`.

        Raises Superseded (from `ready`) if a program has overwritten the content here.
        """
        if theirs is None:
            if self.are_compared:  # else the log has said so already, for all files
                log.warning("%s: the server told no checksum of it", path)
            return
        ours = digest.of(theirs.algorithm, size, partial(local_bytes, content), CHUNK_BYTES)
        content.ready(size)
        if theirs != ours:
            raise errors.DataMismatch(
                f"the server has {theirs.algorithm} {theirs.digits} of {path} "
                f"instead of {ours.digits}"
            )


class Looks:
    """Looks at the final names of uploads: whether this server answers them.

    A busy server (4xx) will answer later. One that has left MOST_BUSY_LOOKS in a row without an
    answer is taken for one that never tells, until it does.
    """

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.UPLOADS)
        self._busy = 0  # looks in a row without an answer. Guarded by _lock.

    def note(self, path: str, seen: Seen) -> bool:
        """Note a look. Returns whether another look may show what this one did not."""
        with self._lock:
            self._busy = self._busy + 1 if seen.busy else 0
            count = self._busy
        if count == MOST_BUSY_LOOKS:
            log.warning("%s: the server does not tell which file is there", path)
        return 0 < count < MOST_BUSY_LOOKS


class TornFiles:
    """Files that have their final names, but only a part of their content.

    The server had said 226 to that part. An upload of other content may replace such a file,
    because it is no work of another client.
    """

    def __init__(self, profile: Profile) -> None:
        # Dependencies and constants:
        self._profile = profile
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock:
        self._seen: dict[str, Seen] = {}  # by path

    def note(self, path: str, seen: Seen) -> None:
        with self._lock:
            self._seen[path] = seen

    def forget(self, path: str) -> None:
        with self._lock:
            self._seen.pop(path, None)

    def has(self, path: str, seen: Seen) -> bool:
        """Whether `seen` is the torn file, and not a later file of another client."""
        with self._lock:
            torn = self._seen.get(path)
        if torn is None or torn.size != seen.size:
            return False
        times = torn.mtime, seen.mtime
        return None in times or self._profile.setting.is_same_time(torn.mtime or 0, seen.mtime or 0)
