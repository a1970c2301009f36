"""Demands: what close, fsync, sync and the end of a mount ask of the uploads.

Owns: whether a close has to wait for the server, and how callers wait for one file or for all files
below a path. Does not send anything (`delivery`), nor decide when it is sent (`queue`).

A close waits in one case only: ftpfs does not know yet whether the server takes files in this
folder. Then the program hears of a refusal from its own close().

Threading: any; no lock of its own. Callers wait with no lock held.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import Handle, OpenFiles
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.backoff import NO_ROOM
from ftpfs.core.writing.delivery import Delivery
from ftpfs.core.writing.folders import Folders, Job
from ftpfs.core.writing.queue import UploadQueue
from ftpfs.model.names import folder_of, is_within
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# How long the mount waits for uploads that it has cancelled (seconds). An upload that is waiting
# for the network notices the cancellation only after its next megabyte, or at a deadline.
PARTING_SECONDS = 3.0


class Demands:
    """What callers ask of the uploads of one mount."""

    def __init__(
        self,
        remote: Remote,
        files: OpenFiles,
        folders: Folders,
        known: KnownNames,
        queue: UploadQueue[Job],
        delivery: Delivery,
        *,
        waits_at_close: bool,
    ) -> None:
        """`waits_at_close`: every close waits until the server has the file."""
        # Dependencies and constants:
        self._remote = remote
        self._files = files
        self._folders = folders
        self._known = known
        self._queue = queue
        self._delivery = delivery
        self._waits_at_close = waits_at_close

    # One file.

    def close(self, handle: int, known: Handle, *, by_opener: bool) -> None:
        """Handle the close of one descriptor of a handle (a handle may have several).

        When this returns, the journal has what was written. If a refusal of the server has to be
        reported, the server has accepted the file, too. `by_opener`: the process that opened the
        file closes it; no other process looks at the result of its close().
        """
        if self._waits_at_close or (by_opener and self._has_to_hear(handle, known)):
            self.close_changed(known.file)
        else:
            known.file.commit()

    def close_changed(self, file: OpenFile) -> None:
        """Return when the server has the file, or has accepted it."""
        try:
            self.save(file, or_accepted=not self._waits_at_close)
        except errors.FtpfsError as error:
            if not isinstance(error, (errors.NetworkError, *NO_ROOM)):
                file.refuse(error)
            raise

    def end_writing(self, handle: int, file: OpenFile) -> None:
        """The kernel has released the handle: send the file if this was its last writer."""
        if file.end_writing_if_clean(handle):
            return
        # A memory map may have written after the last close.
        with logged(file):
            try:
                file.commit()
            finally:
                self._enqueue(file, is_due=file.end_writing(handle))

    def save(self, file: OpenFile, *, or_accepted: bool = False) -> None:
        """Journal and upload what was written. Return when the server has it.

        With `or_accepted`, return as soon as the server has accepted the file.
        """
        self.demand(file)
        if file.waits:
            self._queue.hurry(file)
            file.wait_until_sent(or_accepted=or_accepted)

    def demand(self, file: OpenFile) -> None:
        """Journal what was written and have it uploaded, even if programs have the file open."""
        try:
            file.commit()
        finally:
            self._enqueue(file, is_due=file.demand())

    def _enqueue(self, file: OpenFile, *, is_due: bool) -> None:
        """Queue the file if it became due now, or if it waits and is not in the queue.

        The queue drops a file whose upload has to wait for its writer. So a file that was demanded
        may have to be queued again.
        """
        if is_due or (file.waits and self._queue.state_of(file) is None):
            self._queue.add(file)

    def _has_to_hear(self, handle: int, known: Handle) -> bool:
        """Whether this close has to report whether the server takes the file."""
        file = known.file
        if self._known.takes_files(folder_of(file.path)):
            return False
        if file.has_other_writer(handle):
            return False
        if self._remote.is_offline():  # the file waits in the journal
            return False
        return known.changed or (file.is_untouched and not self._is_taken_beside(file.path))

    def _is_taken_beside(self, path: str) -> bool:
        """Test whether the server takes a new file in the folder of `path`.

        A refusal proves nothing: the server may refuse the test's name only. Then the file itself
        has to be uploaded.
        """
        self._delivery.set_folder_of(path)
        try:
            taken = self._remote.takes_files(path)
        except errors.NetworkError:
            raise
        except errors.FtpfsError as error:
            log.debug("the server refused a test file beside %s: %s", path, error)
            return False
        if taken:
            self._known.accepted(path)
        return taken

    # All below a path.

    def state(self, path: str) -> str:
        """The worst state of the files at and below `path`.

        One of "clean", "dirty", "uploading" and "failed".
        """
        concerned = below(path)
        states = {
            self._queue.state_of(file) or "dirty"
            for file in self._files.all()
            if file.dirty and concerned(file)
        }
        if self._folders.waiting(path):
            states.add("dirty")
        return next((s for s in ("failed", "uploading", "dirty") if s in states), "clean")

    def sync(self, path: str, timeout: float | None) -> None:
        """Return when the server has everything that was written at and below `path`.

        Raises the first permanent failure, or DeadlineExceeded after `timeout` seconds.
        """
        refused = self.demand_all(path)
        if not self.drain(path, timeout):
            raise errors.DeadlineExceeded(f"not everything was uploaded within {timeout:g} s")
        for _, error in self._queue.failures(below(path)):
            raise errors.again(error) from error
        if refused is not None:
            raise refused

    def demand_all(self, path: str) -> errors.FtpfsError | None:
        """Like `demand`, for all files at and below `path`.

        Returns the error if a file could not be journalled. The other files are sent all the same.
        """
        inside = below(path)
        refused: errors.FtpfsError | None = None
        for file in self._files.all():
            if inside(file):
                try:
                    self.demand(file)
                except errors.FtpfsError as failure:
                    refused = failure
        return refused

    def drain(self, path: str, timeout: float | None) -> bool:
        """Wait until all uploads at and below `path` are done or have failed.

        Returns False if that takes longer than `timeout` seconds.
        """
        inside = below(path)
        if not self._queue.drain(timeout, inside):
            return False
        self._folders.release(path)  # folders that wait for a failed file need not wait
        return self._queue.drain(timeout, inside)

    def retry(self, path: str) -> None:
        """Retry now what failed at and below `path`, or waits for an unreachable server."""
        self._queue.retry(below(path))

    def commit_all(self) -> None:
        """Journal what was written to all files, whether or not programs have them open."""
        for file in self._files.all():
            with logged(file):
                file.commit()

    def finish(self, grace: float | None) -> list[Job]:
        """Upload what is left, for at most `grace` seconds (None: without a limit).

        Returns the jobs whose threads are still busy with the network then.
        """
        for file in self._files.all():
            with logged(file):
                self.demand(file)
        self.retry("/")
        if self._queue.drain(grace, lambda _: True):
            self._folders.release("/")
            self._queue.drain(grace, lambda _: True)
        return self._queue.stop(_cancel, PARTING_SECONDS)


@contextlib.contextmanager
def logged(file: OpenFile) -> Iterator[None]:
    """Log errors instead of raising them: no program is left to hear of them."""
    try:
        yield
    except errors.FtpfsError as error:
        log.error("%s: %s", file.path, error)
    except Exception:  # one file's error does not end the loop over the others
        log.exception("%s: unexpected error", file.path)


def below(path: str) -> Callable[[Job], bool]:
    """A function that tells whether a job is at or below `path`."""
    return lambda job: is_within(job.path, path)


def _cancel(job: Job) -> None:
    job.cancel()
