"""The expectation: which file is under the final name: the expected one, this upload's, or another.

The upload looks at the final name together with STOR, which costs no round trip. A change by
another client between this look and the rename goes unnoticed. So an upload that takes longer than
`RECHECK_SECONDS` looks again before the rename, together with the verification. FTP has no
conditional rename, so a gap of that time and a round trip remains.

A file that is not the expected one may still come from this upload. If a mount is killed after its
rename, the journal does not know of the rename; then the file has the time of this content, and all
its bytes. If a server said 226 to a part of an upload and renamed it, the file is torn, and no work
of another client.

Threading: the thread of the upload only.
"""

from __future__ import annotations

import time

from ftpfs import errors
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.profile import SetTime
from ftpfs.ftp.uploading.checks import Seen, seen_in
from ftpfs.ftp.uploading.content import CHUNK_BYTES, local_bytes
from ftpfs.ftp.uploading.target import Target
from ftpfs.model.entry import Entry

# An upload that takes longer looks again, right before its rename, for changes by others.
RECHECK_SECONDS = 1.0


class AlreadyThere(Exception):
    """The whole content is under its final name already."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Expectation:
    """The file that one upload expects under its final name, and the file that was seen there.

    `ours`: the upload may have written or renamed to the final name, so a later look is compared
    with `placed` and not with the expected file.
    `placed`: the file that the rename puts there. None: it was not asked for, or the upload writes
    in place.
    """

    def __init__(self, target: Target) -> None:
        self.ours = False
        self.placed: Seen | None = None
        self.seen = Seen(None)
        self._seen_at = float("-inf")  # time.monotonic()
        self._target = target
        self._base: Entry | None = None
        self._is_checked = True

    def expect(self, base: Entry | None, *, check: bool) -> None:
        """Expect the file `base`; None: no file. Without `check`, expect anything."""
        self._base = base
        self._is_checked = check

    @property
    def is_new(self) -> bool:
        """Whether no file is expected."""
        return self._base is None

    @property
    def is_fresh(self) -> bool:
        """Whether no further look is needed now."""
        return not self._is_checked or time.monotonic() - self._seen_at < RECHECK_SECONDS

    def check(self, session: Session, seen: Seen, upload: Upload | None = None) -> None:
        """Compare the file that was `seen` with the expected one.

        Raises Conflict if it is another client's, AlreadyThere if it has all of this content, and
        DataMismatch if it has a part: it was torn, and has to be sent again. Closes `upload` first,
        because the comparison needs the session. Raises Busy if a busy server does not tell.
        """
        self.seen = seen
        context = self._target.context
        may_tell_later = context.looks.note(self._target.path, seen)
        may_be_ours = self.ours and self._may_be_placed(seen)
        if may_tell_later and self._is_checked and not may_be_ours:
            if upload is None:  # else another look follows before the rename
                raise errors.Busy(
                    450, f"{self._target.path}: the server does not tell what is there"
                )
            return
        unchanged = not seen.is_other_than(self._base, context.profile)
        self.ours = may_be_ours or (not unchanged and context.torn.has(self._target.path, seen))
        if self.ours or not self._is_checked or unchanged:
            # Only such a look saves the next attempt one: the session may break below.
            self._seen_at = time.monotonic()
            return
        if upload:
            upload.close()
        ours = self._count_ours(session, seen) if session.alive else None
        if ours is None:
            raise self._target.conflict(seen)
        if self._target.content.ready(ours) == ours:
            raise AlreadyThere(ours)
        self.ours = True
        raise errors.DataMismatch(f"an earlier upload left {ours} bytes of {self._target.path}")

    def check_ahead(self, session: Session, upload: Upload) -> None:
        """`check` the answers to the questions that left ahead of `upload`."""
        try:
            self.check(session, seen_in(session, upload.before), upload)
        except BaseException:
            upload.close()
            raise

    def _may_be_placed(self, seen: Seen) -> bool:
        """Whether `seen` may be the renamed file, or the part of it that a server took for all.

        The time tells only where the server is known to store the one that was set.
        """
        ours = self.placed
        if not seen.there or ours is None or seen.size is None or ours.size is None:
            return True
        if seen.size > ours.size:
            return False
        setting = self._target.context.profile.setting
        if seen.mtime is None or ours.mtime is None or not setting.is_kept(ours.mtime):
            return True
        shown = seen.mtime, self._target.context.profile.times.shown_at(seen.mtime)
        return not setting.set_time_works or any(
            setting.is_same_time(ours.mtime, time) for time in shown
        )

    def _count_ours(self, session: Session, seen: Seen) -> int | None:
        """How many bytes the file has, if they are the beginning of this content; else None.

        Compares the time first, and then every byte.
        """
        setting = self._target.context.profile.setting
        mtime, _ = self._target.content.attributes()
        if seen.size is None or seen.mtime is None or mtime is None:
            return None
        sets = setting.set_time is not SetTime.NONE  # else the file has the time of its upload
        if sets and not setting.is_same_time(seen.mtime, mtime):
            return None
        try:
            with session.download(self._target.path) as download:
                position = 0
                while theirs := download.read(CHUNK_BYTES):
                    if self._local(position, len(theirs)) != theirs:
                        return None
                    position += len(theirs)
        except (errors.Refused, errors.NotSupported):
            return None
        return position

    def _local(self, offset: int, count: int) -> bytes:
        """The content's bytes; fewer if it ends before."""
        content, known = self._target.content, offset
        while known < offset + count and (end := content.ready(known)) > known:
            known = end
        return local_bytes(content, offset, min(known - offset, count))
