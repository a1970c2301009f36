"""Sums: whether a file here and one on the server have the same content, by the server's checksum.

Owns: the comparison, and the one warning that the server tells no checksums. `ftp.digest` has the
commands.

Threading: any thread. `_has_warned` is set without a lock: at worst two threads warn.
"""

from __future__ import annotations

import logging
import os

from ftpfs.ftp import digest
from ftpfs.ftp.remote import Remote

log = logging.getLogger(__name__)

# Bytes of one read of a local file.
_PIECE_BYTES = 1 << 20


class Sums:
    """Compares files with those of one server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._has_warned = False

    def are_same(self, here: str, there: str, size: int | None) -> bool | None:
        """Whether two files of `size` bytes have the same content; None: the server does not tell.

        Raises OSError for the local file, and NetworkError.
        """
        if size is None:
            return None
        if not size:
            return True
        told = self._remote.digest_of(there, size)
        if told is None:
            if not self._has_warned:
                self._has_warned = True
                log.warning("%s: the server tells no checksum; size and time are compared", there)
            return None
        descriptor = os.open(here, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            ours = digest.of(
                told.algorithm,
                size,
                lambda offset, count: os.pread(descriptor, count, offset),
                _PIECE_BYTES,
            )
            return ours == told and os.fstat(descriptor).st_size == size
        finally:
            os.close(descriptor)
