"""A server as path operations: what the core, and the commands without FUSE, call.

Owns: where the mount's root lies on the server; which commands an operation takes; the settling of
ambiguous refusals by looking (FTP has one 550 for six different errnos); what to do when a reply
was lost and the command may have been carried out. Sessions and retries are the pool's.

Paths are absolute inside the mount: "/", "/a/b"; odd bytes as surrogates (PEP 383).

Threading: any thread, any time; each call leases a session of its own.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ftpfs import errors
from ftpfs.config import Network, Server
from ftpfs.ftp import lister, listing
from ftpfs.ftp.control import Reply
from ftpfs.ftp.data import Download, Upload
from ftpfs.ftp.listing import Entry, Kind
from ftpfs.ftp.pool import Pool, PoolStatus, Use
from ftpfs.ftp.profile import Profile, SetTime
from ftpfs.ftp.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")

# One piece of a file on its way from the spool to the server: larger ones were not faster.
UPLOAD_CHUNK = 256 << 10


@dataclass(frozen=True)
class Space:
    """What is free on the server, in bytes."""

    free: int


class Remote:
    """One server (and one folder of it), through a pool of sessions."""

    def __init__(self, server: Server, network: Network) -> None:
        self.profile = Profile()
        self._server = server
        self._root = ""  # on the server; known after the first login
        self._pool = Pool(
            lambda: Session(server, network, self.profile),
            cap=network.max_connections,
            idle_timeout=network.idle_timeout,
        )

    def connect(self) -> str:
        """Log in once, so that a wrong address or password shows now; the welcome message."""
        with self._pool.leased(Use.METADATA):
            return self.profile.welcome

    def close(self) -> None:
        self._pool.close()

    def tidy(self) -> None:
        """Housekeeping, to be called every few seconds."""
        self._pool.close_idle()

    def round_trip(self) -> float:
        """The link's round trip in seconds; infinite before the first transfer."""
        return self.profile.round_trip

    def status(self) -> PoolStatus:
        return self._pool.status()

    # Looking.

    def list(self, path: str) -> list[Entry]:
        """The entries of a directory. NotFound, NotADirectory, PermissionDenied, NetworkError."""
        return self._settled(
            lambda s: lister.list_directory(s, self._on_server(path)),
            lambda: self._why_not_listed(path),
        )

    def stat(self, path: str) -> Entry:
        """One entry, looked at now. NotFound when it is not there."""
        if path == "/":
            return ROOT

        def look(session: Session) -> Entry | None:
            with contextlib.suppress(errors.Unavailable):
                return lister.look_at(session, self._on_server(path))
            return None

        found = self._pool.run(look)
        return found if found is not None else self._find_in_parent(path)

    def look_again(self, path: str, entry: Entry) -> Entry:
        """`entry` of a file, brought up to date as cheaply as this server allows.

        One round trip by MLST, or SIZE and MDTM together; else like `stat`.
        """
        if self.profile.mlst or self.profile.mdtm is False:
            return self.stat(path)
        where = self._on_server(path)
        size, time = self._pool.run(lambda s: s.exchange([f"SIZE {where}", f"MDTM {where}"]))
        mtime = lister.time_in(time)
        if size.code != 213 or not size.text.strip().isdigit() or mtime is None:
            return self.stat(path)
        return Entry(
            name=entry.name,
            kind=entry.kind,
            size=int(size.text),
            mtime=mtime,
            exact=True,
            mode=entry.mode,
            target=entry.target,
        )

    def read_link(self, path: str, target: str | None) -> str:
        """The target of the link at `path`, as a relative path that stays inside the mount.

        `target` is what the listing said (None: it did not, and LIST is asked). It is read as the
        server means it: absolute from the server's root, with `..` ending at the top. So no link
        leads out of the mount, into files of this machine.
        """
        folder = posixpath.dirname(path)
        if target is None:
            target = self._target_by_list(folder, posixpath.basename(path))
        inside = posixpath.normpath(posixpath.join(folder, self._absolute_inside(target)))
        return posixpath.relpath(inside.replace("//", "/"), folder)

    def _absolute_inside(self, target: str) -> str:
        """An absolute target as seen from the mount's root; a relative one as it is."""
        root = self._on_server("/").rstrip("/")
        if root and (target == root or target.startswith(root + "/")):
            return target[len(root) :] or "/"
        return target

    def _target_by_list(self, folder: str, name: str) -> str:
        entries = self._settled(
            lambda s: lister.list_links(s, self._on_server(folder)),
            lambda: self._why_not_listed(folder),
        )
        for entry in entries:
            if entry.name == name and entry.target:
                return entry.target
        raise errors.NotSupported(f"the server does not tell where {name} points")

    def space(self) -> Space | None:
        """Free space by AVBL (draft-peterson-streamlined-ftp), None where there is none."""
        if "AVBL" not in self.profile.features:
            return None
        reply = self._pool.run(lambda s: s.command(f"AVBL {self._on_server('/')}"))
        digits = reply.text.strip().split(" ")[0]
        return Space(int(digits)) if reply.code == 213 and digits.isdigit() else None

    def command(self, line: str) -> Reply:
        """One raw command and its reply, refusals included. Not repeated when its reply is lost."""
        with self._pool.leased(Use.METADATA) as session:
            return session.command(line)

    def pwd(self) -> str:
        """The folder on the server that the mount's root is."""
        return self._on_server("/")

    # Contents.

    def open_read(
        self,
        path: str,
        offset: int = 0,
        *,
        text: bool = False,
        give_way: Callable[[], None] | None = None,
    ) -> Download:
        """Start reading at `offset`. The lease goes back when the download is closed.

        `give_way` is called when others need the connection.
        """
        return self._settled_transfer(
            lambda s, done: s.download(self._on_server(path), offset, text=text, done=done),
            lambda: self._why_not_read(path),
            give_way,
        )

    def open_write(
        self, path: str, offset: int = 0, *, append: bool = False, text: bool = False
    ) -> Upload:
        """Start writing. A broken attempt is not repeated here: part of it may have arrived."""
        return self._settled_transfer(
            lambda s, done: s.upload(
                self._on_server(path), offset, append=append, text=text, done=done
            ),
            lambda: self._why_not_written(path),
            None,
        )

    def put(
        self,
        path: str,
        size: int,
        read_at: Callable[[int, memoryview], int],
        *,
        replace: bool,
        mtime: int | None,
        mode: int | None,
    ) -> Entry:
        """Make the file at `path` hold exactly `size` bytes of `read_at(offset, view) -> count`.

        With `replace` there is a file of that name: the new content goes to a temporary name and
        is renamed over it when the server holds all of it, so that others see the old content or
        the new, never a part. `mtime` (seconds) and `mode` are set where the server can.

        Returns the entry as the server has it now. Broken attempts are repeated from the start:
        nothing under the final name depends on them. Raises DataMismatch when the server, having
        said 226, has another size.
        """
        upload = _Put(self, path, size, read_at, replace=replace, mtime=mtime, mode=mode)
        try:
            return self._pool.run(upload.run, use=Use.TRANSFER)
        except errors.Refused as refusal:
            raise self._why_not_written(path) or _denied(refusal) from refusal

    # Changing.

    def mkdir(self, path: str) -> None:
        def again(session: Session) -> None:
            with contextlib.suppress(errors.Unavailable):
                mkdir(session)

        def mkdir(session: Session) -> None:
            session.require(f"MKD {self._on_server(path)}")
            self._check_name_kept(session, path)

        self._settled(mkdir, lambda: self._why_not_made(path), again)

    def rmdir(self, path: str) -> None:
        self._delete("RMD", path, lambda: self._why_not_rmdir(path))

    def remove(self, path: str) -> None:
        self._delete("DELE", path, lambda: self._why_not_removed(path))

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Rename; with `replace` there is a file at `new`, which is replaced (see rename_over)."""
        source, target = self._on_server(old), self._on_server(new)

        def rename(session: Session) -> None:
            rename_over(session, source, target, replace=replace)
            self._check_name_kept(session, new)

        def again(session: Session) -> None:
            try:
                rename(session)
            except errors.Unavailable:
                if not self._present(session, source) and self._present(session, target):
                    return  # the first attempt had been carried out
                raise

        self._settled(rename, lambda: self._why_not_renamed(old, new), again)

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode bits. NotSupported where the server cannot."""
        if self.profile.chmod is False:
            raise errors.NotSupported("the server has no command that sets a mode")

        def chmod(session: Session) -> None:
            try:
                session.require(_chmod_line(self.profile, self._on_server(path), mode))
            except (errors.NotSupported, errors.InvalidArgument):
                self.profile.chmod = False
                raise
            self.profile.chmod = True

        self._settled(chmod, lambda: self._why_not_changed(path))

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> None:
        """Set the modification time, by whichever command this server has. NotSupported if none.

        Nothing is learned from a refusal for a directory: vsftpd does it for files only.
        """

        def set_time(session: Session) -> None:
            where = self._on_server(path)
            while (way := self.profile.way_to_set_time()) is not SetTime.NONE:
                reply = session.command(_set_time_line(way, where, seconds))
                if directory and not reply.ok:
                    raise errors.NotSupported("the server sets no times on directories")
                if directory or not self.profile.saw_set_time(way, reply.code):
                    reply.check()
                    return
            raise errors.NotSupported("the server has no command that sets a time")

        self._settled(set_time, lambda: self._why_not_changed(path))

    # Inside.

    def _on_server(self, path: str) -> str:
        """The path as the server knows it."""
        if not self._root:
            if not self.profile.known:
                self.connect()
            self._root = posixpath.normpath(
                posixpath.join("/", self.profile.home, self._server.path)
            ).replace("//", "/")
        if path == "/":
            return self._root
        return path if self._root == "/" else self._root + path

    def _settled(
        self,
        work: Callable[[Session], T],
        why: Callable[[], errors.FtpfsError | None],
        again: Callable[[Session], T] | None = None,
    ) -> T:
        """`work` through the pool; a refusal is replaced by what a look shows.

        Any refusal: pure-ftpd says 451 where others say 550.
        """
        self._on_server("/")
        try:
            return self._pool.run(work, again=again)
        except errors.Refused as refusal:
            raise why() or _denied(refusal) from refusal

    def _settled_transfer(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        why: Callable[[], errors.FtpfsError | None],
        give_way: Callable[[], None] | None,
    ) -> T:
        self._on_server("/")
        try:
            return self._pool.begin(start, give_way=give_way)
        except errors.Refused as refusal:
            raise why() or _denied(refusal) from refusal

    def _delete(self, verb: str, path: str, why: Callable[[], errors.FtpfsError | None]) -> None:
        where = self._on_server(path)

        def delete(session: Session) -> None:
            session.require(f"{verb} {where}")

        def again(session: Session) -> None:
            try:
                delete(session)
            except errors.Unavailable:
                if self._present(session, where):
                    raise  # else: the first attempt had been carried out

        self._settled(delete, why, again)

    def _present(self, session: Session, where: str) -> bool:
        """Whether `where` (on the server) is there, asked on a session already leased."""
        parent, name = posixpath.split(where)
        try:
            entries = lister.list_directory(session, parent, hidden=True)
        except errors.Unavailable:
            return False
        return any(entry.name == name for entry in entries)

    def _check_name_kept(self, session: Session, path: str) -> None:
        """Look whether the server has what it said to have made, for names that some change.

        pure-ftpd makes underscores of control characters and of a space at the end, and says that
        all went well. Ordinary names are not looked at, and cost nothing.
        """
        name = posixpath.basename(path)
        if name.endswith(" ") or any(c < " " or c == "\x7f" for c in name):
            self._check_present(session, self._on_server(path))

    def _check_present(self, session: Session, where: str) -> None:
        """Raises InvalidName when the folder can be listed and `where` is not in it."""
        parent, name = posixpath.split(where)
        with contextlib.suppress(errors.Refused, errors.PermissionDenied):
            entries = lister.list_directory(session, parent, hidden=True)
            if all(entry.name != name for entry in entries):
                raise errors.InvalidName(
                    f"the server stored {errors.printable(where)} under another name"
                )

    def _find_in_parent(self, path: str) -> Entry:
        parent, name = posixpath.split(path)
        for entry in self.list(parent):
            if entry.name == name:
                return entry
        raise errors.NotFound(f"{path}: no such file or directory")

    # Why a refusal: each looks, and says what it found; None: nothing but the permission is left.

    def _look(self, path: str) -> Entry | None:
        try:
            return self.stat(path)
        except (errors.NotFound, errors.NotADirectory):
            return None

    def _why_not_listed(self, path: str) -> errors.FtpfsError | None:
        if path == "/":
            return errors.NotFound(f"{self._root}: no such folder on the server")
        entry = self._look(path)
        if entry is None:
            return errors.NotFound(f"{path}: no such directory")
        if entry.kind is Kind.FILE:
            return errors.NotADirectory(f"{path}: not a directory")
        return None

    def _why_not_read(self, path: str) -> errors.FtpfsError | None:
        entry = self._look(path)
        if entry is None:
            return errors.NotFound(f"{path}: no such file")
        if entry.kind is Kind.DIRECTORY:
            return errors.IsADirectory(f"{path}: is a directory")
        return None

    def _why_not_written(self, path: str) -> errors.FtpfsError | None:
        parent = self._look(posixpath.dirname(path))
        if parent is None:
            return errors.NotFound(f"{path}: its directory is not there")
        if parent.kind is Kind.FILE:
            return errors.NotADirectory(f"{path}: its parent is not a directory")
        entry = self._look(path)
        if entry is not None and entry.kind is Kind.DIRECTORY:
            return errors.IsADirectory(f"{path}: is a directory")
        return None

    def _why_not_made(self, path: str) -> errors.FtpfsError | None:
        if self._look(path) is not None:
            return errors.Exists(f"{path}: exists")
        return self._why_not_written(path)

    def _why_not_removed(self, path: str) -> errors.FtpfsError | None:
        return self._why_not_read(path)

    def _why_not_rmdir(self, path: str) -> errors.FtpfsError | None:
        refusal = self._why_not_listed(path)
        if refusal is None and self.list(path):
            return errors.NotEmpty(f"{path}: not empty")
        return refusal

    def _why_not_changed(self, path: str) -> errors.FtpfsError | None:
        return None if self._look(path) else errors.NotFound(f"{path}: no such file or directory")

    def _why_not_renamed(self, old: str, new: str) -> errors.FtpfsError | None:
        source = self._look(old)
        if source is None:
            return errors.NotFound(f"{old}: no such file or directory")
        target = self._look(new)
        if target is None:
            return self._why_not_written(new)
        if target.kind is Kind.DIRECTORY:
            if source.kind is not Kind.DIRECTORY:
                return errors.IsADirectory(f"{new}: is a directory")
            return errors.NotEmpty(f"{new}: not empty") if self.list(new) else None
        if source.kind is Kind.DIRECTORY:
            return errors.NotADirectory(f"{new}: not a directory")
        return None


ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


def rename_over(session: Session, source: str, target: str, *, replace: bool) -> None:
    """RNFR and RNTO in one round trip.

    With `replace` there is a file at `target`, and where the server refuses to rename over it, the
    old file is moved aside first, and back if the second try fails: at no time is there neither.
    """
    try:
        _rename(session, source, target)
    except errors.Refused as refusal:
        aside = f"{posixpath.dirname(target).rstrip('/')}/{temporary_name()}"
        if not replace:
            raise
        try:
            _rename(session, target, aside)
        except errors.Refused:
            raise refusal from None
        try:
            _rename(session, source, target)
        except errors.Refused:
            _rename(session, aside, target)
            raise
        log.info("this server does not rename over a file: %s was moved aside", target)
        gone = session.command(f"DELE {aside}")
        if not gone.ok:
            # The new file is in its place: what the caller asked for is done.
            log.warning("the old content is left on the server as %s: %s", aside, gone.code)


def _rename(session: Session, source: str, target: str) -> None:
    first, second = session.exchange([f"RNFR {source}", f"RNTO {target}"])
    first.check()
    second.check()


def temporary_name() -> str:
    """A name that listings hide and that nobody else uses."""
    return f"{lister.HIDDEN_PREFIX}{secrets.token_hex(6)}.tmp"


class _Put:
    """One upload of a whole file, in attempts; `run` is one of them."""

    def __init__(
        self,
        remote: Remote,
        path: str,
        size: int,
        read_at: Callable[[int, memoryview], int],
        *,
        replace: bool,
        mtime: int | None,
        mode: int | None,
    ) -> None:
        self._remote = remote
        self._profile = remote.profile
        self._path = path
        self._target = remote._on_server(path)
        self._size = size
        self._read_at = read_at
        self._replace = replace
        self._mtime = mtime
        self._mode = mode
        self._left: list[str] = []  # temporary files of attempts whose connection broke

    def run(self, session: Session) -> Entry:
        for left in self._left:
            self._discard(session, left)
        if not self._replace:
            self._store(session, self._target)
            return self._settle_attributes(session)
        temporary = f"{posixpath.dirname(self._target).rstrip('/')}/{temporary_name()}"
        try:
            self._store(session, temporary)
        except errors.Unavailable:
            # The folder takes no new names, but the file itself may be writable.
            log.info("no temporary file beside %s, writing it in place", self._target)
            self._store(session, self._target)
            return self._settle_attributes(session)
        except errors.FtpfsError:
            self._discard(session, temporary)
            raise
        try:
            self._verify_size(session, temporary)
            rename_over(session, temporary, self._target, replace=True)
        except errors.FtpfsError:
            self._discard(session, temporary)
            raise
        return self._settle_attributes(session)

    def _store(self, session: Session, where: str) -> None:
        buffer = memoryview(bytearray(min(UPLOAD_CHUNK, max(1, self._size))))
        with session.upload(where) as upload:
            offset = 0
            while offset < self._size:
                count = self._read_at(offset, buffer[: self._size - offset])
                if not count:
                    raise errors.DataMismatch("the spool is shorter than the file")
                upload.write(buffer[:count])
                offset += count
            upload.finish()

    def _discard(self, session: Session, temporary: str) -> None:
        """Take a failed temporary file away; if the server cannot be talked to, with the next try.

        After a lost connection it may be gone already, or renamed: a refusal says nothing.
        """
        self._left = [name for name in self._left if name != temporary]
        try:
            if session.alive:
                session.command(f"DELE {temporary}")
                return
        except errors.FtpfsError as error:
            log.info("%s could not be deleted: %s", temporary, error)
        self._left.append(temporary)

    def _verify_size(self, session: Session, where: str) -> None:
        self._check_size(session.command(f"SIZE {where}"))

    def _check_size(self, reply: Reply) -> None:
        """A 226 proves nothing: servers have said it for truncated uploads."""
        text = reply.text.strip()
        if reply.code == 213 and text.isdigit() and int(text) != self._size:
            raise errors.DataMismatch(
                f"the server says it has {text} of {self._size} bytes of {self._target}"
            )

    def _settle_attributes(self, session: Session) -> Entry:
        """Mode, time and the check of the size, in one round trip."""
        way = self._profile.way_to_set_time() if self._mtime is not None else SetTime.NONE
        lines = []
        if self._mode is not None and self._profile.chmod is not False:
            lines.append(_chmod_line(self._profile, self._target, self._mode))
        if way is not SetTime.NONE and self._mtime is not None:
            lines.append(_set_time_line(way, self._target, self._mtime))
        replies = iter(session.exchange([*lines, f"SIZE {self._target}"]))
        sets_mode = len(lines) > (way is not SetTime.NONE)
        mode = self._take_chmod(next(replies)) if sets_mode else None
        mtime = self._take_time(next(replies), way) if way is not SetTime.NONE else None
        size = next(replies)
        self._check_size(size)
        if size.code == 550 and "SIZE" in self._profile.features:
            # It is not there, or may not be looked at (a drop folder).
            self._remote._check_present(session, self._target)
        else:
            self._remote._check_name_kept(session, self._path)
        if mtime is None:
            mtime = lister.time_in(session.command(f"MDTM {self._target}"))
        return Entry(
            name=posixpath.basename(self._target),
            kind=Kind.FILE,
            size=self._size,
            mtime=mtime,
            exact=mtime is not None,
            mode=mode,
            target=None,
        )

    def _take_chmod(self, reply: Reply) -> int | None:
        if reply.code in (500, 501, 502, 504):
            self._profile.chmod = False
        return self._mode if reply.ok else None

    def _take_time(self, reply: Reply, way: SetTime) -> int | None:
        self._profile.saw_set_time(way, reply.code)
        return self._mtime if reply.ok else None


def _chmod_line(profile: Profile, where: str, mode: int) -> str:
    """MFF where there is one: proftpd reads SITE CHMOD as words, and so takes "a" for "a "."""
    bits = mode & 0o7777
    if profile.mff_mode:
        return f"MFF UNIX.mode={bits:04o}; {where}"
    return f"SITE CHMOD {bits:03o} {where}"


def _set_time_line(way: SetTime, where: str, seconds: int) -> str:
    return way.value.format(time=listing.format_time_val(seconds), path=where)


def _denied(refusal: errors.Refused) -> errors.FtpfsError:
    """What is left of a refusal when a look has found nothing that explains it.

    With 550 that is the permission. Other codes stay what they are, unless they name it themselves
    (pure-ftpd: "451 Rename/move failure: Permission denied").
    """
    if isinstance(refusal, errors.Unavailable) or "permission denied" in refusal.text.lower():
        return errors.PermissionDenied(str(refusal))
    return refusal
