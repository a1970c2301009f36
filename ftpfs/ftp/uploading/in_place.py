"""Writing in place: a file is sent under its final name, and others may see a part of it.

This is for folders that refuse temporary names or renames, and for folders whose files are taken
away as they arrive (a queue of a printer or of a mainframe).
"""

from __future__ import annotations

from ftpfs import errors
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.uploading.expectation import Expectation
from ftpfs.ftp.uploading.private import private_mode, upload_privately
from ftpfs.ftp.uploading.sender import Sender, store_at_once
from ftpfs.ftp.uploading.target import Target
from ftpfs.model.entry import Entry, Kind


class InPlace:
    """One upload that writes under the final name. Each `run` is an attempt from the first byte."""

    def __init__(self, target: Target, expectation: Expectation, sender: Sender) -> None:
        self._target = target
        self._expectation = expectation
        self._sender = sender
        self._is_new = False  # no file was there before the first attempt

    def run(self, session: Session) -> Entry:
        with self._begin(session) as upload:
            self._expectation.ours = True
            size = self._sender.pump(upload, 0, new=True)
            upload.finish()
        path, checksums = self._target.path, self._target.context.checksums
        if size and checksums.are_compared:
            theirs = checksums.ask(session, path, size)
            checksums.compare(path, self._target.content, size, theirs)
        return self._target.finish(session, size)

    def _begin(self, session: Session) -> Upload:
        path, folders = self._target.path, self._target.context.folders
        # If the server has not set a mode yet, the folder may be one that takes files away as they
        # arrive, even empty ones.
        mode = private_mode(self._target) if self._target.context.profile.setting.chmod else None
        if mode is not None and not self._expectation.ours:
            seen = self._expectation.seen
            if seen.there is None:
                seen = self._target.look(session)
            self._is_new = seen.there is False
        if mode is None or not self._is_new:  # an existing file keeps its mode
            return session.upload(path)
        self._expectation.ours = True
        store_at_once(session, path, b"")
        try:
            return upload_privately(session, self._target, path, mode)
        except (errors.Refused, errors.NotSupported) as refusal:
            folders.cannot_keep_private(self._target.folder, refusal)
            session.command(f"DELE {path}")
            return session.upload(path)


def hand_over(session: Session, target: Target) -> Entry:
    """Send the file to a folder that takes each file away, and ask nothing about it.

    An upload that breaks off is not repeated: the bytes that arrived may be in use already.
    """
    begun = False
    try:
        with session.upload(target.path) as upload:
            begun = True
            size = Sender(target.content).pump(upload, 0, new=True)
            upload.finish()
    except errors.NetworkError as error:
        if not begun and not error.asked:
            raise
        raise errors.NotSentAgain(
            f"{target.path}: {error}; not sent again, as the server may have taken it"
        ) from error
    mtime, mode = target.content.attributes()
    return Entry(target.name, Kind.FILE, size, mtime, False, mode)
