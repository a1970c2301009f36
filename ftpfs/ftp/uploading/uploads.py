"""The uploads of one server: whole files, ranges of files, and appends.

Owns: which of the ways a file takes, and the retries that go beyond those of the pool. Each way has
a module: `store` (whole, under a temporary name), `in_place` (under its own name), `patch` and
`append`. Sessions, leases and retries are the pool's. The meaning of a refusal for a path is
`remote`'s.

Threading: any thread; each upload belongs to one thread.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Sequence
from functools import partial

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Pool
from ftpfs.ftp.profile import Placing, Profile
from ftpfs.ftp.uploading.append import Append, SharedFiles
from ftpfs.ftp.uploading.checks import Checksums, Looks, TornFiles
from ftpfs.ftp.uploading.context import Context
from ftpfs.ftp.uploading.folders import Folders
from ftpfs.ftp.uploading.in_place import hand_over
from ftpfs.ftp.uploading.patch import Patch
from ftpfs.ftp.uploading.probes import Probes
from ftpfs.ftp.uploading.restart import BrokenUploads
from ftpfs.ftp.uploading.store import Store
from ftpfs.ftp.uploading.target import Target
from ftpfs.ftp.uploading.temporaries import Temporaries
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Content

log = logging.getLogger(__name__)


class Uploads:
    """All uploads to one server. Paths are paths on the server; refusals are raised unchanged.

    `temporaries`, `probes`, `checksums`: for operations of `remote` that are no uploads.
    """

    def __init__(
        self,
        pool: Pool,
        profile: Profile,
        owner: str | None = None,
        *,
        verify_content: bool = False,
    ) -> None:
        """`owner`: see `Temporaries`.

        `verify_content`: compare checksums, too, if the server has them.
        """
        self.temporaries = Temporaries(owner)
        self.checksums = Checksums(profile, verify_content=verify_content)
        folders = Folders(profile)
        self.probes = Probes(profile, self.temporaries, folders)
        self._pool = pool
        self._context = Context(
            profile,
            self.temporaries,
            folders,
            self.probes,
            self.checksums,
            TornFiles(profile),
            Looks(),
        )
        self._broken = BrokenUploads(self.temporaries)
        self._shared = SharedFiles()

    def store(self, path: str, content: Content, base: Entry | None, *, check: bool) -> Entry:
        """See `Remote.store`."""
        if self._context.profile.contents.placing is Placing.IN_PLACE:
            return self._hand_over(path, content)
        upload, aside, remains = self._broken.take_up(path, content)
        if upload is None:
            upload = Store(self._context, path, content, aside)
        if remains is not None:
            upload.follow(remains)
        upload.expect(base, check=check)
        repeated, progress = self._pool.repeated(Use.UPLOAD), upload.progress
        while True:
            try:
                with repeated as session:
                    entry = upload.run(session)
                    self.temporaries.forget(upload.temporary)
                    self._context.torn.forget(path)
                    return entry
            except errors.NetworkError as error:
                if not upload.goes_on_after(error, progress):
                    self._broken.keep(path, content, upload)
                    raise
                log.info("%s: going on after %s", path, error)
                repeated, progress = self._pool.repeated(Use.UPLOAD), upload.progress
            except errors.Busy:
                self._broken.keep(path, content, upload)
                raise
            except BaseException:
                self._broken.give_up(path, upload)
                raise

    def _hand_over(self, path: str, content: Content) -> Entry:
        """Send the file once, to a folder that takes each file away.

        It is not repeated, because what arrived may be in use already.
        """
        # make sure that the session works
        self._pool.run(lambda session: session.require("TYPE I"))
        with self._pool.leased(Use.UPLOAD) as session:
            return hand_over(session, Target(self._context, path, content))

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], base: Entry
    ) -> Entry:
        """See `Remote.patch`."""
        patch = Patch(self._context, path, content, ranges, base)
        return self._pool.run(patch.run, use=Use.UPLOAD)

    def append(self, path: str, content: Content, start: int, end: int, base: Entry) -> Entry:
        """See `Remote.append`."""
        append = Append(self._context, self._shared, path, content, start, end, base)
        entry = self._pool.run(append.run, use=Use.UPLOAD)
        while append.may_be_overwritten:
            time.sleep(append.pause)
            if self._pool.run(append.look, use=Use.UPLOAD):
                entry = self._pool.run(append.run, use=Use.UPLOAD)
        return entry

    def takes_files(self, path: str) -> bool:
        """See `Remote.takes_files`."""
        if not self.probes.may_try:
            return True
        if self._context.folders.writes_in_place(posixpath.dirname(path)):
            return False
        self._pool.run(partial(self.probes.try_new_file, target=path), use=Use.UPLOAD)
        return True
