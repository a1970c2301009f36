"""Delivery: a worker of the queue brings one closed file, or a folder's mode and time, to a server.

Owns: what happens before an upload (doubts about the name, the mode of its folder), and how each
outcome is handled: a conflict is resolved and the file sent again, folders that others deleted are
made again, and a failure is reported to the program that waits for the file. Does not own when a
file is sent or tried again (`queue`), nor how its bytes travel (`openfile`).

    closed file -> queue -> send -> exclusive use of the file -> upload
                     ^                                             |
                     |   done: the file retires                    |
                     |   Conflict, Changed: resolve, upload again  |
                     |   NotFound: make its folders, upload again  |
                     +-- any other error: the queue tries later, or gives the file up

Threading: any; no lock of its own. A file is uploaded by one thread at a time
(`OpenFile.exclusive`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ftpfs import errors
from ftpfs.core.files.endings import Endings
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.outgoing import OVERTAKEN
from ftpfs.core.names.doubts import Doubts
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.conflicts import Conflicts
from ftpfs.core.writing.folders import Folder, Folders, Job
from ftpfs.model.names import folder_of
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# How often the cause of a failure is removed before an upload fails.
MOST_REPAIRS = 3


class Delivery:
    """Sends the files and folders of one mount."""

    def __init__(
        self,
        remote: Remote,
        folders: Folders,
        known: KnownNames,
        doubts: Doubts,
        conflicts: Conflicts,
        endings: Endings,
    ) -> None:
        self._remote = remote
        self._folders = folders
        self._known = known
        self._doubts = doubts
        self._conflicts = conflicts
        self._endings = endings

    def send(self, job: Job) -> None:
        """Bring `job` to the server. A thread of the queue calls this.

        The exception that this raises tells the queue whether to try again.
        """
        if isinstance(job, Folder):
            self._doubts.resolve_about(job.path)
            self._folders.send(job)
            return
        try:
            with self._exclusive(job):
                repaired = _Repaired(self, job)
                while True:
                    with repaired:
                        self.set_folder_of(job.path)
                        job.outgoing.upload(streamed=True)
                        break
        except errors.NetworkError:
            raise  # the queue tries again; the folder's mode and time wait for it
        except Exception:
            self._folders.file_ended(job)
            raise
        self._folders.file_ended(job)

    def upload_now(self, file: OpenFile) -> None:
        """Upload the file for a caller that cannot go on before. Needs exclusive use of the file.

        The upload ends even if a program writes to the file all the time.
        """
        file.demand()
        repaired = _Repaired(self, file, most_overtaken=OVERTAKEN)
        while True:
            with repaired:
                self.set_folder_of(file.path)
                file.outgoing.upload()
                return

    def set_folder_of(self, path: str) -> None:
        """Set the mode that the folder of `path` needs before an entry is put into it."""
        with self._folders.filling(folder_of(path)) as before:
            if before:
                self._remote.set_on_folders([before])

    @contextlib.contextmanager
    def _exclusive(self, file: OpenFile) -> Iterator[None]:
        """Have exclusive use of a file whose name is not in doubt. Retire the file afterwards."""
        try:
            while True:
                try:
                    self._doubts.resolve_about(file.path)
                except Exception as error:
                    file.failed(_as_foreseen(error))
                    raise
                with file.exclusive():
                    if not self._doubts.covers(file.path):  # else a new doubt arose meanwhile
                        yield
                        return
        finally:
            self._endings.retire(file)

    def note_failure(self, file: OpenFile, error: Exception) -> None:
        """Tell the callers that wait for the file why it is not on the server."""
        if isinstance(error, errors.FtpfsError) and not isinstance(error, errors.NetworkError):
            self._known.note_refused(folder_of(file.path))
        # An error of ftpfs itself is logged by the queue. A waiting caller must hear of it, too.
        file.failed(_as_foreseen(error))

    def repairs(self, file: OpenFile, error: errors.FtpfsError) -> bool:
        """Remove the cause of a failed upload. Returns False if that is impossible."""
        if isinstance(error, (errors.Conflict, errors.Changed)):
            self._conflicts.resolve(file, error)
            return True
        if isinstance(error, errors.DataMismatch):
            # The server's file has another size. That is expected if the upload was done before a
            # crash.
            if not file.needs_base or not file.basis.is_other_on_server():
                return False
            self._conflicts.resolve(file, error)
            return True
        return isinstance(error, errors.NotFound) and self._make_folders(file.path)

    def _make_folders(self, path: str) -> bool:
        """Make the folders above `path` that others deleted. Returns whether one was made."""
        made = False
        parent = folder_of(path)
        parts = parent.strip("/").split("/") if parent != "/" else []
        for count in range(1, len(parts) + 1):
            folder = "/" + "/".join(parts[:count])
            with contextlib.suppress(errors.Exists):
                self._remote.mkdir(folder)
                log.warning("%s was deleted on the server; made again for %s", folder, path)
                self._known.outdated(folder)
                made = True
        return made


class _Repaired:
    """One file's upload. Its attempts are `with` blocks in an endless loop, left when it is done.

    If the cause of a failure can be removed, the block ends without an error, and the next attempt
    follows. So it does if a program wrote to the file meanwhile, `most_overtaken` times. Any other
    failure is told to the callers that wait for the file. Needs exclusive use of the file.
    """

    def __init__(self, delivery: Delivery, file: OpenFile, *, most_overtaken: int = 0) -> None:
        self._delivery = delivery
        self._file = file
        self._repairs_left = MOST_REPAIRS
        self._overtaken_left = most_overtaken

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, errors.Superseded):
            self._overtaken_left -= 1
            return self._overtaken_left >= 0
        try:
            if isinstance(error, errors.FtpfsError) and self._repairs_left:
                self._repairs_left -= 1
                if self._delivery.repairs(self._file, error):
                    return True
        except Exception as failure:
            self._delivery.note_failure(self._file, failure)
            raise
        if isinstance(error, Exception):
            self._delivery.note_failure(self._file, error)
        return False


def _as_foreseen(error: Exception) -> errors.FtpfsError:
    if isinstance(error, errors.FtpfsError):
        return error
    return errors.FtpfsError(f"{type(error).__name__}: {error}")
