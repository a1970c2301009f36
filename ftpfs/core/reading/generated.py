"""Files that the server calls empty although it sends content: /proc, generated files.

A program that reads such a file gets everything that the server sends. The first read of a handle
begins to fetch the file, once. The content stays in an unnamed local file until the handle is
closed: if the server generates the content for each transfer, it cannot be fetched in pieces. A
read waits only until its bytes are there. The size stays 0, as in /proc.

The server may send without end. So all contents together take no more space on the disk than they
leave free, nor more than the spool may hold; and the download ends when the handle is closed.

Owns those local files. Does not know names, nor what was written here.

Threading: any thread. `_lock` (Rank.GENERATED) guards the table. Each content has a condition of
its own (Rank.GENERATED_CONTENT), and is fetched by a thread of its own, so that a killed reader
need not wait for the network.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ftpfs import errors
from ftpfs.core.names import killable
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock
from ftpfs.model.remote import Download

log = logging.getLogger(__name__)

# Content up to this size (bytes) stays in memory.
SMALL_BYTES = 256 << 10


class _Content:
    """What was fetched so far of one handle's file."""

    def __init__(self, folder: Path) -> None:
        self.changed = ranked_condition(Rank.GENERATED_CONTENT)
        # Guarded by changed:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (until close)
            SMALL_BYTES, dir=os.fspath(folder)
        )
        self.size = 0
        self.ended = False
        self.error: errors.FtpfsError | None = None  # why it ended
        self.closed = False

    def end(self, error: errors.FtpfsError | None) -> None:
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()


class GeneratedFiles:
    """The content that is fetched for each handle of such a file."""

    def __init__(self, folder: Path, limit: int | None, requests: killable.Requests) -> None:
        """`folder`: where content larger than SMALL_BYTES is stored.

        `limit`: limit of all contents (bytes); None: as the disk allows. `requests`: the programs
        that wait, and may be killed.
        """
        self._folder = folder
        self._limit = limit
        self._requests = requests
        self._lock = ranked_lock(Rank.GENERATED)
        # Guarded by _lock:
        self._contents: dict[int, _Content] = {}  # by handle
        self._held = 0  # bytes of all contents

    def read(self, handle: int, offset: int, size: int, fetch: Callable[[], Download]) -> bytes:
        """Like read(2) at `offset`. Raises what `fetch` and the download raise, and TooLong.

        After an error, what came before it can be read. If the server denies permission, the file
        is empty, as the server calls it. Raises InterruptedError if the program was killed.
        """
        with self._lock:
            content = self._contents.get(handle)
            is_new = content is None
            if content is None:
                content = self._contents[handle] = _Content(self._folder)
        if is_new:
            killable.begin(lambda: self._fetch(content, fetch))
        end = offset + size
        with content.changed:
            self._requests.wait_until(content.changed, lambda: content.ended or content.size >= end)
            error = content.error
            if error is None or offset < content.size:
                content.file.seek(offset)
                return content.file.read(size)
            is_nothing = not content.size
        if is_nothing:
            self.close(handle)  # the next read begins again
        raise errors.again(error)

    def close(self, handle: int) -> None:
        """Forget the content. If it is still being fetched, that ends with its next block."""
        with self._lock:
            content = self._contents.pop(handle, None)
        if content is not None:
            with content.changed:
                content.closed = True
                content.file.close()
                with self._lock:
                    self._held -= content.size

    def _fetch(self, content: _Content, fetch: Callable[[], Download]) -> None:
        error: errors.FtpfsError | None = None
        try:
            with contextlib.suppress(errors.PermissionDenied):
                download = fetch()
                try:
                    while (block := download.read(BLOCK_SIZE)) and self._keep(content, block):
                        pass
                finally:
                    download.close()
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("unexpected error while a file of unknown size was fetched")
            error = errors.FtpfsError("unexpected error; see the log")
        content.end(error)

    def _keep(self, content: _Content, block: bytes) -> bool:
        """Add `block` to the content. False if nobody reads it any more."""
        try:
            there = os.statvfs(self._folder)
            free = there.f_bavail * there.f_frsize
            with content.changed:
                if content.closed:
                    return False
                self._take(content, len(block), free)
                content.file.seek(content.size)
                content.file.write(block)
                content.size += len(block)
                content.changed.notify_all()
        except OSError as error:
            raise errors.NoSpace(f"no room for what the server sends: {error}") from error
        return True

    def _take(self, content: _Content, count: int, free: int) -> None:
        room = free if self._limit is None else min(free, self._limit)
        with self._lock:
            if content.size + count > SMALL_BYTES and self._held + count > room:
                raise errors.TooLong(
                    f"the server tells no size and sent {content.size} bytes: no room for more here"
                )
            self._held += count
