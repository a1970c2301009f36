"""Renames and deletions: what the server is asked for, and in which order.

Owns: the checks that POSIX demands, the hidden name that keeps the content of a file which is
deleted or replaced while a handle reads it, and the journal's intents meanwhile. Does not own what
follows here from a success (`aftermath`) or from a lost reply (`doubts`).

If the file that is replaced or deleted is open, its handles go on reading the old content. Either
all of that content is here already, or it is fetched now, or the file is moved to a hidden name on
the server, and deleted there with the last handle.

The journal gets the intent before the server gets the command. If the mount is killed in between,
the next one finds the intent and looks whether the server did it.

Threading: any; no lock of its own. Each method takes exclusive use of the open files concerned
(`OpenFiles.exclusive`); the kernel orders the changes of paths that are not open.
"""

from __future__ import annotations

import logging

from ftpfs import errors
from ftpfs.core.files.endings import Endings
from ftpfs.core.files.looks import Looks
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.aftermath import Aftermath
from ftpfs.core.names.doubts import Doubts
from ftpfs.core.names.hiding import Hiding
from ftpfs.core.names.intents import Intents
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.delivery import Delivery
from ftpfs.core.writing.folders import Folders
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import check_name, folder_of, is_within
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # renameat2(2)

# Limit of what is fetched of an open file before it is replaced (bytes). If more is missing here,
# the file is moved to a hidden name instead, in the exchange that replaces it.
MOST_BROUGHT_BYTES = 16 << 20


class Renames:
    """Renames and deletes files and folders in one mount."""

    def __init__(
        self,
        remote: Remote,
        files: OpenFiles,
        folders: Folders,
        known: KnownNames,
        looks: Looks,
        intents: Intents,
        hiding: Hiding,
        doubts: Doubts,
        aftermath: Aftermath,
        endings: Endings,
        delivery: Delivery,
    ) -> None:
        self._remote = remote
        self._files = files
        self._folders = folders
        self._known = known
        self._looks = looks
        self._intents = intents
        self._hiding = hiding
        self._doubts = doubts
        self._aftermath = aftermath
        self._endings = endings
        self._delivery = delivery

    # Deleting.

    def unlink(self, path: str) -> None:
        """Delete a file's name. After a lost reply, look whether the server did it."""
        try:
            self._unlink(path)
        except errors.NetworkError as error:
            if not self._doubts.turns_out_done(error, path):
                raise

    def _unlink(self, path: str) -> None:
        self._doubts.resolve(lambda doubt: doubt.covers(path))
        if (waiting := self._files.at(path)) is not None:
            waiting.cancel()
        with self._files.exclusive(path) as (file,):
            if file is None:
                self._remove(path)
                if opened := self._files.unname(path):  # meanwhile
                    self._endings.lost_name(opened, None)
            elif file.is_deleted:
                # `path` is a name that libfuse made; its file is deleted already
                self._files.unname(path)
            else:
                hidden = self._hide_base(file, path)
                if hidden is None and file.may_be_on_server:
                    self._remove_open(file, path)
                self._aftermath.unlinked(file, path, hidden)

    def _remove(self, path: str) -> None:
        """Delete a file that is not open here."""
        if self._known.tree.lookup(path).kind is Kind.DIRECTORY:
            raise errors.IsADirectory(f"{path}: is a directory")
        with self._known.changing(path):
            self._remote.remove(path)
        self._known.note_lost(folder_of(path))
        self._aftermath.removed(path)

    def _remove_open(self, file: OpenFile, path: str) -> None:
        """Delete an open file on the server. A file that was never uploaded need not be there.

        The journal gets the intent first, because content that waits for its upload must not come
        back after a crash.
        """
        dirty = file.dirty
        if dirty:
            self._announce(path, "")
        try:
            with self._known.changing(path):
                self._remote.remove(path, traces=file.uncertain)
        except errors.FtpfsError as error:
            if dirty and isinstance(error, errors.NotFound):
                return
            if _may_be_done(error):
                self._intents.doubt(path, "", file)
            else:
                self._intents.withdraw(path)
            raise

    def _hide_base(self, file: OpenFile, path: str) -> str | None:
        """Move an open file to a hidden name, if its handles need the server's content.

        Returns the hidden name, which is deleted with the last handle, or None if that was not
        needed.
        """
        if not self._files.is_used(file) or not file.on_server or not file.needs_base:
            return None
        if self._remote.is_offline() and self._reads_on(file):
            return None
        hidden = self._intents.hidden_name(path)
        # These two intents tell the next mount, after a crash, to give the file its name back if
        # the deletion was not done, and else to delete the hidden file.
        self._announce(hidden, "")
        self._announce(path, hidden)
        try:
            with self._known.changing(path):
                self._remote.rename(path, hidden, replace=False)
        except errors.FtpfsError as error:
            if _may_be_done(error):
                self._intents.doubt(path, hidden, None)
            else:
                self._intents.withdraw(path, hidden)
            raise
        self._aftermath.removed(path)
        return hidden

    def rmdir(self, path: str) -> None:
        self._hiding.wait_for(lambda name: is_within(name, path))
        if self._looks.attributes(self._doubts.located(path)).kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{path}: not a directory")
        self._check_empty_here(path)
        with self._folders.still(path), self._known.changing(path):
            self._remote.rmdir(path)
        self._aftermath.removed(path)

    def _check_empty_here(self, folder: str) -> None:
        """Raises NotEmpty if a folder holds files that its listing does not show.

        Such files exist only here, or were deleted while open: the server keeps their content in
        the folder under a hidden name.
        """
        unsent = any(
            not file.on_server and not file.is_deleted for file in self._files.below(folder)
        )
        inside = folder + "/"
        if unsent or any((file.hidden_as or "").startswith(inside) for file in self._files.all()):
            raise errors.NotEmpty(f"{folder}: has files that are open here")

    # Names that libfuse hides.

    def hide(self, path: str, hidden: str) -> None:
        """Delete `path`, and let the name `hidden` stand for the file while handles have it open.

        If this thread asks next for a rename over `path`, the rename replaces the file instead.

        libfuse asks for this when a file that it believes to be open is deleted or replaced. The
        name `hidden` exists only here. The deletion follows within milliseconds (`hiding`), too
        late to report a refusal. So if the folder has not let go of a name before, ask the server
        now whether it would refuse. If it refuses nevertheless, the file keeps its name, and the
        log says so.
        """
        self._doubts.resolve_about(path)
        file = self._files.at(path)
        if file is None:
            self._known.tree.lookup(path)
        known = self._known.lets_go(folder_of(path))
        if not known and (file is None or file.may_be_on_server):
            self._check_removable(path)
        self._files.stand_for(hidden, path)
        self._hiding.note(path)

    def _check_removable(self, path: str) -> None:
        """Raises what deleting the file would raise, by renaming it away and back.

        If the mount is killed in between, or the reply is lost, the file gets its name back later.
        """
        if (waiting := self._files.at(path)) is not None:
            waiting.cancel()
        with self._files.exclusive(path) as (file,):
            aside = self._intents.hidden_name(path)
            self._intents.announce(path, aside, always=True)
            try:
                self._remote.check_removable(path, aside)
            except errors.FtpfsError as error:
                self._known.outdated(path)
                if isinstance(error, errors.NotFound) and file is not None and file.dirty:
                    self._intents.withdraw(path)
                    return  # what may have been there is not: the file exists here alone
                if _may_be_done(error):
                    self._intents.doubt(path, aside, None)
                else:
                    self._intents.withdraw(path)
                raise
            self._intents.withdraw(path)
        self._known.note_lost(folder_of(path))

    def delete_hidden(self, path: str) -> None:
        """Carry out a deletion that libfuse asked for by `hide`.

        Raises NetworkError: the caller tries again.
        """
        try:
            self.unlink(path)
        except errors.NetworkError:
            raise
        except errors.NotFound:
            log.debug("%s was deleted by somebody else before", path)
        except errors.FtpfsError as error:
            log.error(
                "%s was deleted while it was open, but the server refuses; it stays: %s",
                path,
                error,
            )

    # Renaming.

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """As renameat2(2). FTP has no exchange of two names; NOREPLACE is checked here.

        If all replies are lost, look whether the server did it.
        """
        self._hiding.wait_for(lambda name: is_within(name, old) or is_within(name, new))
        try:
            self._rename(old, new, flags)
        except errors.NetworkError as error:
            if not self._doubts.turns_out_done(error, old, new):
                raise

    def _rename(self, old: str, new: str, flags: int) -> None:
        check_name(new)
        self._remote.check_name(new)
        if flags & ~RENAME_NOREPLACE:
            raise errors.InvalidArgument("FTP cannot exchange two names")
        if old != new and is_within(new, old):
            raise errors.InvalidArgument(f"{new}: is below the folder to be moved")
        self._doubts.resolve(lambda doubt: doubt.concerns(old) or doubt.concerns(new))
        self._cancel_uploads(old, new)
        with (
            self._files.exclusive(old, new, below=True) as (moving, victim),
            self._folders.still(old, new),
        ):
            source = self._looks.attributes(old)
            target = self._looks.existing(new)
            if target is not None:
                if flags & RENAME_NOREPLACE:
                    raise errors.Exists(f"{new}: exists")
                _check_replaceable(source, target, new)
                if target.kind is Kind.DIRECTORY:
                    self._check_empty_here(new)
            if old == new:
                return
            keep = victim is not None and not self._reads_on(victim)
            try:
                if victim:
                    victim.content.keep()
                self._rename_exclusively(old, new, moving, victim, target, keep=keep)
            except BaseException:
                # In doubt the handles need it until it is known what the server has.
                if victim and not self._doubts.covers(new):
                    victim.content.send_back()
                raise

    def _cancel_uploads(self, old: str, new: str) -> None:
        """End the uploads that would make the rename wait.

        These are streamed uploads of what is moved, and all uploads of what is replaced.
        """
        for path in (old, new):
            if (waiting := self._files.at(path)) is not None:
                waiting.cancel(only_streams=path == old)
        for waiting in self._files.below(old):
            waiting.cancel(only_streams=True)

    def _reads_on(self, victim: OpenFile) -> bool:
        """Whether a file's handles can do without the server's content once it is replaced.

        Fetches what is missing here, unless it is more than MOST_BROUGHT_BYTES. While the server is
        away, copies all of it from the store, which finds a content by its name.
        """
        if not self._files.is_used(victim) or not victim.needs_base:
            return True
        if not self._remote.is_offline():
            return victim.content.bring_here(MOST_BROUGHT_BYTES)
        try:
            return victim.content.bring_here(victim.attributes().size or 0)
        except errors.Offline as error:  # it can be read when the server is back
            log.info("%s, which is open, is not stored: %s", victim.path, error)
            return False

    def _go_on_reading(self, new: str) -> None:
        """Have the files at and below `new`, which were renamed while the server is away, read what
        is stored under their new names."""
        for file in (self._files.at(new), *self._files.below(new)):
            if file is not None:
                file.basis.read_as_renamed(self._known.generations.of(file.path))

    def _rename_exclusively(
        self,
        old: str,
        new: str,
        moving: OpenFile | None,
        victim: OpenFile | None,
        target: Entry | None,
        *,
        keep: bool,
    ) -> None:
        """Rename, with exclusive use of the files.

        `keep`: the replaced file has to stay on the server, under a hidden name.
        """
        if moving is not None and not moving.on_server:
            if not keep and self._can_move_here(moving, new, victim, target):
                self._rename_unsent(moving, old, new, victim, target)
                return
            self._delivery.upload_now(moving)
        self._delivery.set_folder_of(new)
        replaced = target is not None and target.kind is not Kind.DIRECTORY
        if victim and not victim.may_be_on_server:
            replaced = False
        aside = self._prepare_aside(new, keep=keep) if replaced else ""
        self._announce(old, new)
        try:
            with self._known.changing(old, new):
                self._remote.rename(
                    *(old, new),
                    replace=replaced,
                    aside=aside,
                    keep=keep,
                    traces=victim.uncertain if victim else (),
                )
        except errors.FtpfsError as error:
            if _may_be_done(error):
                self._intents.doubt(old, new, victim, aside or None)
            else:
                self._intents.withdraw(old, new, *([aside] if aside else []))
            raise
        if replaced:
            self._known.note_lost(folder_of(new))
        self._aftermath.renamed(old, new, victim)
        if self._remote.is_offline():
            self._go_on_reading(new)
        if aside and not keep:
            self._intents.withdraw(aside)
        if victim:
            self._endings.lost_name(victim, aside if keep else None)

    def _prepare_aside(self, path: str, *, keep: bool) -> str:
        """Choose the name that the file at `path` gets while another one takes its place.

        Empty if the server never needs that. The name is in the journal: after a crash the next
        mount gives the file its old name back, or deletes it if it was replaced.
        """
        if not keep and self._remote.replaces():
            return ""
        aside = self._intents.hidden_name(path) if keep else self._remote.aside(path)
        self._intents.announce(aside, "", always=True)
        self._intents.announce(path, aside, always=True)
        return aside

    def _can_move_here(
        self, moving: OpenFile, new: str, victim: OpenFile | None, target: Entry | None
    ) -> bool:
        """Whether a file that exists only here can be renamed without asking the server.

        It is uploaded under its new name later. If the new folder may refuse it, ask the server
        now; also if a change in place of the replaced file broke off: nobody knows what is there.
        """
        takes = self._known.takes_files(folder_of(new)) or self._remote.is_offline()
        plain = target is None or target.kind is Kind.FILE
        unknown = victim is not None and (
            victim.is_between_contents or (victim.may_be_on_server and not victim.on_server)
        )
        return takes and plain and not moving.may_be_on_server and not unknown

    def _rename_unsent(
        self,
        moving: OpenFile,
        old: str,
        new: str,
        victim: OpenFile | None,
        target: Entry | None,
    ) -> None:
        """Rename a file that was not uploaded yet.

        The upload will replace what the server has under the new name.
        """
        if victim is not None:
            target = victim.entry
        moving.basis.replace_target(target, victim.uncertain if victim else ())
        self._aftermath.renamed_here(old, new, victim)
        self._known.renamed_here(old, new)
        if victim:
            self._endings.lost_name(victim, None)

    def _announce(self, old: str, new: str) -> None:
        self._intents.announce(old, new, always=bool(self._files.all()))


def _may_be_done(error: errors.FtpfsError) -> bool:
    """Whether the server may have done the change that failed here."""
    return isinstance(error, errors.NetworkError) and error.asked


def _check_replaceable(source: Entry, target: Entry, new: str) -> None:
    if target.kind is Kind.DIRECTORY and source.kind is not Kind.DIRECTORY:
        raise errors.IsADirectory(f"{new}: is a directory")
    if source.kind is Kind.DIRECTORY and target.kind is not Kind.DIRECTORY:
        raise errors.NotADirectory(f"{new}: not a directory")
