"""What a change in place that broke off has left on the server.

Owns: the look at the server's file after an append or a patch whose result nobody knows. It says
how much of the append arrived, and whether the file is still ours to finish.

A change in place that breaks off leaves the server's file between two contents. Whether one of its
`samples` is there tells our half-changed file from another one.

Threading: the thread of the upload, with exclusive use of the file. The server is asked with no
lock held.
"""

from __future__ import annotations

from collections.abc import Collection

from ftpfs import errors
from ftpfs.core.files.content import SpooledContent
from ftpfs.core.files.row import Row
from ftpfs.core.files.server_file import is_other_content
from ftpfs.core.files.state import FileState
from ftpfs.core.reading.reader import Reader
from ftpfs.core.writing.samples import SAMPLE_BYTES, Sample
from ftpfs.core.writing.spool import SpoolFile
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Remote

# How far behind the known end of a file an append that broke off is looked for (bytes).
MOST_SEARCHED = 64 << 20
# Bytes that are read at once on the way to an offset, from a server without REST.
SKIPPED_BYTES = 1 << 20


def arrived_of(
    spooled: SpoolFile, span: tuple[int, int], ends: Collection[int], theirs: bytes
) -> int:
    """How many bytes of what was appended are in what the server has since.

    `span`: what is to be appended now. `ends`: the sizes up to which it was sent before. `theirs`:
    what follows the start of the span on the server, of whoever appended it.
    """
    start, end = span
    for sent_to in sorted((each for each in ends if start < each <= end), reverse=True):
        ours = spooled.read(start, sent_to - start)
        if ours in theirs:
            return len(ours)
        # A part of it, behind all else. What is shorter than a sample does not come in parts.
        found = theirs.find(ours[:SAMPLE_BYTES]) if len(ours) > SAMPLE_BYTES else -1
        while 0 <= found <= len(theirs) - SAMPLE_BYTES:
            if ours.startswith(theirs[found:]):
                return len(theirs) - found
            found = theirs.find(ours[:SAMPLE_BYTES], found + 1)
    return 0


class Leftovers:
    """Looks after broken changes of one file."""

    def __init__(self, state: FileState, row: Row, content: SpooledContent, remote: Remote) -> None:
        self._state = state
        self._row = row
        self._content = content
        self._remote = remote

    def resolve(self, spooled: SpoolFile) -> None:
        """A change in place broke off: let the state follow what the server has of it.

        Raises Conflict if another file is there, Superseded if the program wrote meanwhile what
        makes the answer useless, and what the network raises.
        """
        if not self._follow_append(spooled):
            self._follow_patch()

    # An append.

    def _follow_append(self, spooled: SpoolFile) -> bool:
        """Count what arrived as sent. Others may have appended before and behind it. False: it was
        no append, or another file is there."""
        state = self._state
        with state.changed:
            span, known, path = state.appended_locked(), state.server.entry, state.path
            ends = {size for size, _ in state.changes.uncertain}
            is_rewritten = state.changes.is_rewritten
        if span is None or known is None or known.size is None or is_rewritten:
            return False
        entry = self._remote.stat(path)
        grown = (entry.size or 0) - known.size
        if grown < 0 or grown > MOST_SEARCHED:
            return False
        arrived = arrived_of(spooled, span, ends, self._bytes_of(path, known.size, grown))
        with state.spool_lock:
            with state.changed:
                now = state.appended_locked()
                if now is None or now[0] != span[0] or state.changes.is_rewritten:
                    raise errors.Superseded(f"{path}: written over while it was looked for")
                uncertain = tuple(state.changes.uncertain)
            self._content.move_behind(spooled, span[0] + arrived, entry, uncertain)
            with state.changed:
                reader = self._becomes_locked(entry)
                state.server.patching = ()
                state.changes.has_arrived = not state.changes.unsent
                is_recorded = self._row.is_there_locked()
            if is_recorded:
                self._row.write()
        if reader:
            reader.close()
        return True

    def _bytes_of(self, path: str, offset: int, count: int) -> bytes:
        """Up to `count` bytes of the server's file from `offset` on.

        A server that cannot start there (no REST) sends what is before them, too.
        """
        if not count:
            return b""
        try:
            download = self._remote.open_read(path, offset)
            before = 0
        except errors.NotSupported:
            download = self._remote.open_read(path)
            before = offset
        try:
            while before and (skipped := len(download.read(min(before, SKIPPED_BYTES)))):
                before -= skipped
            return b"" if before else download.read(count)
        finally:
            download.close()

    # A patch.

    def _follow_patch(self) -> None:
        """Take the server's half-patched file for the base. Raises Conflict if it is another file.

        A file of a size that no patch could make is another one. So is a changed file that has none
        of the samples; unless only its time was set, by an append that never arrived.
        """
        state = self._state
        with state.changed:
            path, known, samples = state.path, state.server.entry, state.server.patching
            uncertain = set(state.changes.uncertain)
            # It may have been cut shorter here since the patch began.
            most = max([state.changes.size, *(size for size, _ in uncertain)])
        entry = self._remote.stat(path)
        if known is None or not (known.size or 0) <= (entry.size or 0) <= most:
            raise _changed_there(path)
        dated = entry.exact and any(
            is_same_time(self._remote, entry.mtime, mtime) for _, mtime in uncertain
        )
        only_dated = entry.size == known.size and dated
        same = only_dated or not is_other_content(known, entry)
        if not same and not self._has_one_of(path, samples):
            raise _changed_there(path)
        with state.changed:
            reader = self._becomes_locked(entry)
        if reader:
            reader.close()

    def _has_one_of(self, path: str, samples: tuple[Sample, ...]) -> bool:
        """Whether the server's file has one of the samples in its place. Each that it has not costs
        a round trip."""
        for offset, content in reversed(samples):
            there = self._bytes_of(path, offset, len(content))
            if there and content.startswith(there):  # shorter, if the file ends within it
                return True
        return False

    def _becomes_locked(self, entry: Entry) -> Reader | None:
        """The base is `entry` now, and the same file as before. Returns the reader of the old
        content; the caller closes it."""
        server = self._state.server
        version = server.version._replace(size=entry.size or 0, mtime=entry.mtime)
        return server.become_locked(entry, version)


def is_same_time(remote: Remote, shown: int | None, set_to: int | None) -> bool:
    """Whether the server may show a time as `shown` that was set to `set_to`."""
    if shown is None or set_to is None:
        return shown is set_to
    return remote.is_same_time(shown, set_to)


def _changed_there(path: str) -> errors.Conflict:
    return errors.Conflict(f"{path}: changed on the server while it was being written")
