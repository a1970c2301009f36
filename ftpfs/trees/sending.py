"""Sending a large file so that another run can go on with it: see `resuming`.

Owns: the appends to the part on the server, and how it becomes the file.

Threading: any thread; each file belongs to one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import CHUNK_BYTES, finish_unless_reset
from ftpfs.trees import resuming

log = logging.getLogger(__name__)

# Attempts in a row that bring nothing, until a file counts as failed.
_ATTEMPTS = 3
# A mode without one of these bits is set while the part is empty.
_PUBLIC = 0o044


class NotSentError(Exception):
    """The file cannot be sent in parts: send it as any other."""


class Sending:
    """One file on its way. `is_replacing`: there is a file at the target."""

    def __init__(
        self,
        remote: Remote,
        descriptor: int,
        target: str,
        mode: int | None,
        progress: Callable[[int], None],
        *,
        is_replacing: bool,
    ) -> None:
        self._remote = remote
        self._descriptor = descriptor
        self._status = os.fstat(descriptor)
        self._target = target
        self._part = resuming.part_there(target, self._status)
        self._mode = mode
        self._progress = progress
        self._is_replacing = is_replacing

    def run(self) -> int:
        """Send it, and return its size. After a failure of the network the part stays.

        Raises NotSentError, what the server answers, and what `progress` raises.
        """
        try:
            # The lock ends with the descriptor.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotSentError from None
        try:
            begin = resuming.begin_there(
                self._remote, self._part, self._descriptor, self._status.st_size
            )
            self._send(begin)
            self._finish(resumed=begin > 0)
        except errors.NetworkError:
            raise
        except (errors.FtpfsError, OSError) as error:
            with contextlib.suppress(errors.FtpfsError):
                self._remote.remove(self._part)
            log.info("%s: not sent in parts: %s", self._target, error)
            raise NotSentError from error
        return self._status.st_size

    def _send(self, position: int) -> None:
        """Append what the server lacks, also after breaks."""
        if not position and self._mode is not None and self._mode & _PUBLIC != _PUBLIC:
            with self._remote.open_write(self._part) as upload:
                upload.finish()
            self._remote.chmod(self._part, self._mode)
        failures, is_new = 0, not position
        while True:
            before = position
            try:
                with self._remote.open_write(self._part, append=not is_new) as upload:
                    is_new = False
                    while position < self._status.st_size:
                        self._progress(position)
                        count = min(CHUNK_BYTES, self._status.st_size - position)
                        count = upload.share(count)
                        upload.send_file(self._descriptor, position, count)
                        position += count
                    self._progress(position)
                    finish_unless_reset(upload)
                    return
            except (errors.ConnectionLost, errors.DataConnectionFailed):
                # An earlier session may still write to it. Then the file gets too long, which the
                # check of the size finds.
                position = self._size_there()
                failures = 1 if position > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise

    def _size_there(self) -> int:
        try:
            return self._remote.stat(self._part).size or 0
        except errors.NotFound:
            return 0

    def _finish(self, *, resumed: bool) -> None:
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (
            self._status.st_size,
            self._status.st_mtime_ns,
        ):
            raise errors.Superseded("the file changes while it is sent")
        if (size := self._size_there()) != status.st_size:
            raise errors.DataMismatch(f"the server has {size} of {status.st_size} bytes")
        if resumed:
            resuming.check_whole(self._remote, self._part, self._descriptor, status.st_size)
        for attribute in (self._set_mode, self._set_time):
            try:
                attribute()
            except errors.NetworkError:
                raise
            except errors.FtpfsError as error:
                log.info("%s: %s", self._target, error)
        self._remote.rename(self._part, self._target, replace=self._is_replacing)

    def _set_mode(self) -> None:
        if self._mode is not None:
            self._remote.chmod(self._part, self._mode)

    def _set_time(self) -> None:
        self._remote.set_mtime(self._part, self._status.st_mtime_ns // 1_000_000_000)
