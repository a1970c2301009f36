"""Probes: what this server's commands do, found out once on scratch files.

FTP does not say what is left of a file after REST and STOR, whether APPE adds, whether a rename
replaces, or what becomes of a time that is set. ftpfs tries an unknown server once, on small hidden
files beside the file in question, and the profile remembers the result. A folder that refuses
scratch files shows nothing about the server. If files are handed over (`Placing.IN_PLACE`), nothing
is tried: the folder would take the scratch files, too.

Threading: any thread. One lock (Rank.PROBES) is held while a probe runs, so that no two threads
probe the same at once. It is the only lock here that is held during network I/O, and only probes
wait for it.
"""

from __future__ import annotations

import logging
import posixpath
import time

from ftpfs import errors
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import PROBE_TIME, Placing, Profile, Restart, SetTime
from ftpfs.ftp.uploading.checks import questions, seen_in, size_in, surely_not_renamed
from ftpfs.ftp.uploading.folders import Folders
from ftpfs.ftp.uploading.sender import store_at_once
from ftpfs.ftp.uploading.temporaries import Temporaries
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

# The content of a scratch file.
_TEN_BYTES = b"0123456789"
# A scratch file with one of these contents was cut off by a second upload: it proves nothing.
_CUT_SHORT = (_TEN_BYTES, b"0123", b"0123x")
# Refusals of a scratch file.
_CANNOT_TRY = (errors.Refused, errors.NotSupported, errors.InvalidArgument)


class Probes:
    """The probes of one server."""

    def __init__(self, profile: Profile, temporaries: Temporaries, folders: Folders) -> None:
        self._profile = profile
        self._temporaries = temporaries
        self._folders = folders
        self._probing = ranked_lock(Rank.PROBES)

    @property
    def may_try(self) -> bool:
        """Whether scratch files may be sent."""
        return self._profile.contents.placing is not Placing.IN_PLACE

    def restart(self, session: Session, target: str) -> Restart:
        """What REST n and STOR leave of a file."""
        with self._probing:
            if self._profile.contents.restart is None:
                found = self._probe_restart(session, target)
                if found is None:
                    return Restart.NOTHING
                self._profile.contents.restart = found
                log.info("REST before STOR: %s", found.value)
            return self._profile.contents.restart

    def replaces(self, session: Session, target: str) -> bool | None:
        """Whether a rename replaces a file; None: the folder of `target` refuses scratch files."""
        with self._probing:
            if self._profile.names.replaces is None:
                self._profile.names.replaces = self._probe_rename(session, target)
                log.info("a rename replaces a file: %s", self._profile.names.replaces)
            return self._profile.names.replaces

    def appends(self, session: Session, target: str) -> bool:
        """Whether APPE adds to a file. The measured servers are known to do so.

        Also False if the folder refuses scratch files: no file with content is risked.
        """
        if self._profile.identity.is_measured:
            return True
        with self._probing:
            if self._profile.contents.appends is None:
                self._profile.contents.appends = self._probe_append(session, target)
                log.info("APPE adds to a file: %s", self._profile.contents.appends)
            return bool(self._profile.contents.appends)

    def try_new_file(self, session: Session, target: str) -> None:
        """Make an empty file under a temporary name beside `target`, and delete it.

        Raises the server's refusal.
        """
        self._temporaries.delete_left(session)
        scratch = self._temporaries.new(target)
        try:
            store_at_once(session, scratch, b"")
        except (errors.Refused, errors.NotSupported):
            self._temporaries.forget(scratch)
            raise
        except BaseException:
            self._temporaries.delete_later(scratch)
            raise
        if not self._temporaries.delete(session, scratch) and session.alive:
            log.warning(
                "%s cannot be deleted again; the folder is written to directly from now on",
                scratch,
            )
            self._folders.takes_each_name_once(posixpath.dirname(target))

    def learn_times(self, session: Session, path: str) -> None:
        """Find out which command sets times, on a scratch file in the folder of `path`."""
        if not self.may_try:
            return
        scratch, renamed = (self._temporaries.new(path, "probe-") for _ in range(2))
        try:
            store_at_once(session, scratch, _TEN_BYTES)
            if learn_times(session, scratch, renamed):
                scratch, renamed = renamed, scratch
        except _CANNOT_TRY as refusal:
            log.info("what sets times cannot be tried: %s", refusal)
            self._temporaries.forget(renamed)
            self._temporaries.delete_later(scratch)
        except BaseException:
            self._temporaries.delete_later(renamed)
            self._temporaries.delete_later(scratch)
            raise
        else:
            self._temporaries.forget(renamed)
            self._temporaries.delete(session, scratch)

    def folder_times(self, session: Session, target: str) -> bool | None:
        """Whether the server sets times on folders, tried on a scratch folder beside `target`.

        None if there can be no scratch folder.
        """
        if not self.may_try:
            return None
        scratch, way = self._temporaries.new(target), self._profile.setting.way_to_set_time()
        line = self._profile.setting.set_time_line(way, scratch, PROBE_TIME)
        try:
            made, set_, _ = session.exchange([f"MKD {scratch}", line, f"RMD {scratch}"])
        except BaseException:
            self._temporaries.delete_later(scratch, "RMD")
            raise
        self._temporaries.forget(scratch)
        return set_.ok if made.ok else None

    def _probe_restart(self, session: Session, target: str) -> Restart | None:
        """Put two bytes at the fifth place of ten, and see what is left.

        None if there can be no scratch file. Ten bytes are left only if REST keeps everything. So
        the size is enough, and the file need not be fetched.
        """
        if not self.may_try:
            return None
        scratch = self._temporaries.new(target, "probe-")
        try:
            store_at_once(session, scratch, _TEN_BYTES)
        except _CANNOT_TRY as refusal:
            log.info("REST before STOR cannot be tried here: %s", refusal)
            self._temporaries.delete_later(scratch)
            return None
        except BaseException:
            self._temporaries.delete_later(scratch)
            raise
        try:
            (told,) = store_at_once(session, scratch, b"xy", 4, [f"SIZE {scratch}"])
            whole = size_in(told)
            left = size_in(session.command(f"SIZE {scratch}"))
            kept = whole == left == len(_TEN_BYTES)
            if not kept:
                with session.download(scratch) as download:
                    found = download.read(100)
        except _CANNOT_TRY as refusal:
            log.info("REST before STOR cannot be tried: %s", refusal)
            session.drop()  # the REST may take effect in the next transfer (pyftpdlib)
            self._temporaries.delete_later(scratch)
            return Restart.NOTHING
        except BaseException:
            self._temporaries.delete_later(scratch)
            raise
        self._temporaries.delete(session, scratch)
        if kept:
            return Restart.ALL
        if whole not in (None, len(_TEN_BYTES)) or found in _CUT_SHORT:
            raise errors.DataConnectionFailed("226, but not all of a few bytes arrived")
        return {b"0123xy6789": Restart.ALL, b"0123xy": Restart.HEAD}.get(found, Restart.NOTHING)

    def _probe_append(self, session: Session, target: str) -> bool | None:
        """Whether ten bytes and two appended bytes are twelve.

        None if there can be no scratch file, or if not all bytes arrived.
        """
        in_place = self._folders.writes_in_place(posixpath.dirname(target))
        if in_place or not self.may_try:
            return None
        scratch = self._temporaries.new(target, "probe-")
        try:
            store_at_once(session, scratch, _TEN_BYTES)
            if not _append(session, scratch, b"xy"):
                return False
            size = size_in(session.command(f"SIZE {scratch}"))
            if size is None:
                with session.download(scratch) as download:
                    size = len(download.read(100))
        except _CANNOT_TRY as refusal:
            log.info("whether APPE adds to a file cannot be tried: %s", refusal)
            return None
        finally:
            self._delete_soon(session, scratch)
        if size == len(_TEN_BYTES) + 2:
            return True
        return False if size < len(_TEN_BYTES) else None

    def _probe_rename(self, session: Session, target: str) -> bool | None:
        if not self.may_try:
            return None
        one, other = (self._temporaries.new(target, "probe-") for _ in range(2))
        try:
            store_at_once(session, one, b"1")
            store_at_once(session, other, b"22")
            first, second, left = session.exchange([f"RNFR {one}", f"RNTO {other}", f"SIZE {one}"])
            return not surely_not_renamed(session, first, second, left)
        except _CANNOT_TRY as refusal:
            log.info("whether a rename replaces a file cannot be tried: %s", refusal)
            return None
        finally:
            self._delete_soon(session, one, other)

    def _delete_soon(self, session: Session, *scratches: str) -> None:
        """Delete scratch files in one exchange; if the session is broken, with the next upload."""
        for scratch in scratches:
            self._temporaries.delete_later(scratch)
        if session.alive:
            self._temporaries.delete_left(session)


def _append(session: Session, path: str, data: bytes) -> bool:
    """Append a few bytes. False: the server does not know the command."""
    try:
        upload = session.upload(path, append=True)
    except errors.NotSupported:
        return False
    with upload:
        upload.write(data)
        upload.finish()
    return True


def learn_times(session: Session, path: str, renamed: str) -> bool:
    """Learn about times from the file at `path`, which was just written and is not in use yet.

    Learns the zone of times, the command that sets them, and what a rename and the server's disk
    leave of a time. That takes one exchange if the first command works. The reply to the command
    (`213 Modify=`) proves nothing, because some servers repeat what they were told. Returns whether
    the file has the name `renamed` now.
    """
    profile, way = session.profile, session.profile.setting.way_to_set_time()
    replies = session.exchange(
        [
            *questions(profile, path),
            profile.setting.set_time_line(way, path, PROBE_TIME)
            if way is not SetTime.NONE
            else "NOOP",
            f"RNFR {path}",
            f"RNTO {renamed}",
            *questions(profile, renamed),
        ]
    )
    asked = (len(replies) - 3) // 2
    now, (set_, _, moved), shown = replies[:asked], replies[asked : asked + 3], replies[asked + 3 :]
    written = seen_in(session, now).mtime
    profile.times.saw_clock(
        None if written is None else profile.times.shown_at(written), time.time()
    )
    there = seen_in(session, shown).there
    is_renamed = moved.ok if there is None else there  # 250 proves nothing
    where = renamed if is_renamed else path
    if not is_renamed:
        shown = session.exchange(questions(profile, where))
    while profile.setting.saw_set_time(way, set_.code, ours=True):
        way = profile.setting.way_to_set_time()
        if way is SetTime.NONE:
            break
        set_, *shown = session.exchange(
            [profile.setting.set_time_line(way, where, PROBE_TIME), *questions(profile, where)]
        )
    kept = seen_in(session, shown).mtime
    if way is not SetTime.NONE and set_.ok and kept is not None:
        profile.setting.saw_time_kept(PROBE_TIME, kept)
    else:
        profile.setting.saw_no_time_kept()
    return is_renamed
