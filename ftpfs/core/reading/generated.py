"""Files that the server calls empty although it sends content: /proc, generated files.

A program that reads such a file gets everything that the server sends. The first read of a handle
fetches the file once. The content stays in an unnamed local file until the handle is closed: if the
server generates the content for each transfer, it cannot be fetched in pieces. The size stays 0, as
in /proc.

Owns those local files. Does not know names, nor what was written here.

Threading: any thread. `_lock` (Rank.GENERATED) guards the table. Each content has a lock of its own
(Rank.GENERATED_CONTENT), under which it is fetched, so that two reads of one handle fetch it once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Download

# Content up to this size (bytes) stays in memory.
SMALL_BYTES = 256 << 10


class _Content:
    def __init__(self) -> None:
        self.lock = ranked_lock(Rank.GENERATED_CONTENT)
        self.file: IO[bytes] | None = None  # guarded by lock


class GeneratedFiles:
    """The content that was fetched for each handle of such a file."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where content larger than SMALL_BYTES is stored."""
        self._folder = folder
        self._lock = ranked_lock(Rank.GENERATED)
        self._contents: dict[int, _Content] = {}  # by handle; guarded by _lock

    def read(self, handle: int, offset: int, size: int, fetch: Callable[[], Download]) -> bytes:
        """Like read(2) at `offset`. Raises what `fetch` raises.

        If the server denies permission, the file is empty, as the server calls it.
        """
        with self._lock:
            content = self._contents.setdefault(handle, _Content())
        with content.lock:
            if content.file is None:
                content.file = self._fetched(fetch)
            content.file.seek(offset)
            return content.file.read(size)

    def close(self, handle: int) -> None:
        with self._lock:
            content = self._contents.pop(handle, None)
        if content is not None:
            with content.lock:
                if content.file is not None:
                    content.file.close()

    def _fetched(self, fetch: Callable[[], Download]) -> IO[bytes]:
        file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (it outlives the call)
            SMALL_BYTES, dir=os.fspath(self._folder)
        )
        try:
            with contextlib.suppress(errors.PermissionDenied):
                download = fetch()
                try:
                    while block := download.read(BLOCK_SIZE):
                        file.write(block)
                finally:
                    download.close()
        except OSError as error:
            file.close()
            raise errors.NoSpace(f"no room for what the server sends: {error}") from error
        except BaseException:
            file.close()
            raise
        return file
