"""The content of an upload: a local file, read in chunks.

Owns: content that is complete in a local file, and reading any content chunk by chunk.
`model.remote.Content` describes content that a program is still writing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from ftpfs import errors
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.model.remote import Content

# Size of a chunk, which is read from a content or given to sendfile(2) at once. After each chunk an
# upload checks whether a program has overwritten the content.
CHUNK_BYTES = 1 << 20


class FileContent:
    """Content that is complete in a local file: its first `size` bytes."""

    def __init__(self, fd: int, size: int, mtime: int | None, mode: int | None) -> None:
        self._fd = fd
        self._size = size
        self._attributes = mtime, mode

    def fileno(self) -> int:
        return self._fd

    def ready(self, offset: int) -> int:
        return max(offset, self._size)

    def whole(self) -> int | None:
        return self._size

    def accepted(self) -> None:
        """Do nothing: the caller waits for the end of the upload."""

    def mode(self) -> int | None:
        return self._attributes[1]

    def attributes(self) -> tuple[int | None, int | None]:
        return self._attributes


def local_bytes(content: Content, offset: int, count: int) -> bytes:
    """`count` bytes at `offset`; zeros if the local file ends before."""
    return os.pread(content.fileno(), count, offset).ljust(count, b"\0")


def chunks(content: Content, start: int, end: int) -> Iterator[bytes]:
    """The bytes [start, end). Raises DataMismatch if the content ends before.

    Raises Superseded (from `ready`) if the content was cut, also while a chunk was read.
    """
    while start < end:
        count = min(CHUNK_BYTES, end - start, content.ready(start) - start)
        if count <= 0:
            raise errors.DataMismatch("the content is shorter than what is to be sent of it")
        chunk = local_bytes(content, start, count)
        content.ready(start)
        yield chunk
        start += count


def send_range(content: Content, upload: Upload, start: int, end: int) -> bytes:
    """Send the bytes [start, end). Returns their digest.

    Does not use sendfile(2): the digest must be of the very bytes that are sent, and the file may
    change meanwhile.
    """
    digest = hashlib.blake2b()
    for chunk in chunks(content, start, end):
        digest.update(chunk)
        upload.write(chunk)
    return digest.digest()


def finish_unless_reset(upload: Upload) -> None:
    """End an upload. Raises DataConnectionFailed if the data connection was reset.

    After a reset, a 226 proves nothing.
    """
    upload.finish()
    if upload.was_reset:
        raise errors.DataConnectionFailed("226, but the data connection was reset")
