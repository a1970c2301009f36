"""The state of one open file: what its rooms share.

    progress      how far it is on its way: counts of writes, writers     (`progress`)
    changes       how it differs from the server's file                   (`changes`)
    failures      what went wrong, and who has to hear of it              (`failures`)
    server        the server's file below it, and the reader of that      (`server_file`)
    spooled       its spool file                                          (`writing.spool`)
    capture       what the upload under way sends                         (`writing.capture`)

Owns the two locks, the file's name and attributes, and what follows from several groups at once.
Does no I/O.

Threading: two locks, `spool_lock` (Rank.SPOOL_FILE) before `changed` (Rank.OPEN_FILE).
- `spool_lock` orders what is written to the spool file and to the journal, as a kernel's inode
  lock does. It is the one lock under which local disk I/O is done: a truncate and a write must not
  interleave, and neither may a journal row and the bytes that it speaks of.
- `changed` guards everything here. No I/O is done under it. Methods with `_locked` expect it.
"""

from __future__ import annotations

import stat
import time
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.files.changes import Changes
from ftpfs.core.files.failures import Failures
from ftpfs.core.files.progress import Progress
from ftpfs.core.files.server_file import ServerFile
from ftpfs.core.reading.blocks import BlockCache
from ftpfs.core.reading.reader import StreamBudget
from ftpfs.core.writing.capture import Attributes, Capture
from ftpfs.core.writing.spool import SpoolFile
from ftpfs.model.entry import Entry, Kind, Trace
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock
from ftpfs.model.names import name_of
from ftpfs.model.remote import Remote

# Modes that servers give to a new file by themselves, give or take a umask. Any other mode
# (executable, private) has to be set.
ORDINARY_MODES = {0o644, 0o664, 0o666}


class FileState:
    """What is known of one open file. Everything but the locks is guarded by `changed`."""

    def __init__(
        self,
        path: str,
        entry: Entry | None,
        generation: int,
        mode: int | None,
        *,
        remote: Remote,
        cache: BlockCache,
        budget: StreamBudget,
    ) -> None:
        """`entry`: the server's; None for a new file. `mode`: of a new file."""
        self.spool_lock = ranked_lock(Rank.SPOOL_FILE)
        self.changed = ranked_condition(Rank.OPEN_FILE)
        # Guarded by changed:
        self.server = ServerFile(
            path, entry, generation, self.changed, remote=remote, cache=cache, budget=budget
        )
        self.progress = Progress(is_new=entry is None)
        self.changes = Changes(self.server.version.size, is_new=entry is None)
        self.failures = Failures()
        self.path = path
        self.hidden_as: str | None = None  # the server's name of the base, of a deleted file
        self.mtime = entry.mtime if entry else int(time.time())
        self.mode = mode
        self.mode_wanted = mode if mode is not None and mode not in ORDINARY_MODES else None
        self.replaces = False  # the server's file of this name was another file
        self.spooled: SpoolFile | None = None
        self.is_fetched = False  # the spool file holds nothing but what the server has, too
        self.is_kept = False  # another file is about to get its name: it follows the server no more
        self.is_hydrating = False  # parts of the base are fetched, to be sent with the rest
        self.capture: Capture | None = None
        self.is_stream_wanted = False  # the queue was asked to send it while it is written

    # What it is.

    def is_untouched_locked(self) -> bool:
        """Whether it is new, was never written to, and the server has nothing of it."""
        new = self.server.entry is None and not self.changes.uncertain
        return new and self.progress.writes == 1 and self.changes.size == 0

    def is_patch_locked(self) -> bool:
        """Whether the next upload may be a patch."""
        return not self.replaces and self.changes.is_patch_of(self.server.entry)

    def appended_locked(self) -> tuple[int, int] | None:
        """The range that the next upload may append; see `Changes.appended_to`."""
        if self.replaces:
            return None
        return self.changes.appended_to(self.server.entry, is_placed=self.progress.is_placed)

    def needs_base_locked(self) -> bool:
        """Whether reading, or the next upload, needs content that only the server has."""
        end = min(self.changes.base_size, self.changes.size)
        if self.server.entry is None or end == 0:
            return False
        return self.spooled is None or not self.spooled.present.covers(0, end)

    def follows_locked(self) -> bool:
        """Whether its content is the server's file and nothing but that."""
        progress, spooled = self.progress, self.spooled
        if progress.is_deleted or self.is_kept or self.server.entry is None:
            return False
        if progress.sent != progress.writes:
            return False
        return spooled is None or (self.is_fetched and not spooled.present.total())

    def shown_locked(self) -> Entry:
        """The entry as a program shall see it now."""
        base = self.server.entry
        return Entry(
            name=name_of(self.path),
            kind=Kind.FILE,
            size=self.changes.size,
            mtime=self.mtime,
            exact=self.progress.is_dirty or base is None or base.exact,
            mode=self.mode if self.mode is not None else base.mode if base else None,
            target=None,
        )

    def check_not_held_locked(self) -> None:
        """Raises Superseded while a program is in the middle of writing the file: others should not
        see what there is now."""
        if self.progress.is_held:
            raise errors.Superseded(f"{self.path}: is being written")

    # What changes it.

    def write_locked(self, writer: int | None) -> None:
        """The content was changed, by the handle `writer`."""
        self.progress.write(writer)
        self.failures.for_good = None
        self._drop_setid_locked()
        # Whole seconds, as FTP keeps them: the time must not change when the upload sets it.
        self.mtime = int(time.time())

    def _drop_setid_locked(self) -> None:
        """Have a changed file run with nobody's rights but its caller's, as Linux does.

        Linux leaves that to us, and spares root. We spare nobody.
        """
        base = self.server.entry
        mode = self.mode if self.mode is not None else base.mode if base else None
        if mode is not None and mode & (stat.S_ISUID | stat.S_ISGID):
            kept = 0 if mode & stat.S_IXGRP else stat.S_ISGID  # no execution, but locks
            self.mode = self.mode_wanted = mode & ~(stat.S_ISUID | stat.S_ISGID) | mode & kept

    def make_due_locked(self) -> bool:
        """Have what is committed sent. Returns whether something of it was not due before."""
        if not self.progress.make_due():
            return False
        self.is_stream_wanted = False
        if self.capture is not None and not self.capture.captured:
            self.fix_locked(self.capture)
        return True

    def keep_mode_locked(self) -> None:
        """Have a file that becomes a new one keep the mode of the server's file, which may be
        private."""
        base = self.server.entry
        mode = base.mode if base and not self.replaces else None
        if self.mode_wanted is None and mode is not None and mode not in ORDINARY_MODES:
            self.mode = self.mode_wanted = mode

    # The upload under way.

    def fix_locked(self, capture: Capture) -> None:
        """Have the upload send what there is now."""
        capture.capture_locked(self.changes.size, self.progress.writes, self.changes.take())

    def attributes_locked(self, capture: Capture) -> Attributes:
        """The attributes that the upload of `capture` has to set."""
        mode, base = self.mode_wanted, self.server.entry
        if mode is None and base is not None and not capture.is_in_place and not self.replaces:
            mode = base.mode  # what replaces a file is a new one to the server
        return self.mtime, mode

    def traces_locked(self) -> set[Trace]:
        """By what this mount's uploads, also the one under way, would be known on the server."""
        capture, uncertain = self.capture, self.changes.uncertain
        if capture is None or (capture.attributes_given is None and not capture.is_in_place):
            return uncertain
        return {*uncertain, capture.trace_locked(self.mtime)}

    def arrive_locked(self, entry: Entry, capture: Capture, base: Entry | None) -> Entry:
        """The server has what was captured, as `entry`. Returns the entry with its mode, as far as
        it is known. `base`: what the server had before."""
        if entry.mode is None:
            mode = base.mode if base and not self.replaces else self.mode
            entry = replace(entry, mode=mode)
        self.capture = None
        self.replaces, self.server.patching = False, ()
        self.changes.uncertain.clear()
        self.changes.has_arrived = False
        self.progress.arrive(capture.writes)
        if not self.progress.is_dirty:
            self.changes.begin_anew()
            self.failures.forget()
            self.mode_wanted = None
            if entry.mtime is not None:
                self.mtime = entry.mtime
        return entry
