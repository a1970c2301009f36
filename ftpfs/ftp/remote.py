"""A server as path operations: what the core, and the commands without FUSE, call.

Owns: where the mount's root lies on the server; which commands an operation takes; the settling of
ambiguous refusals by looking (FTP has one 550 for six different errnos); what to do when a reply
was lost and the command may have been carried out. Sessions and retries are the pool's.

Paths are absolute inside the mount: "/", "/a/b"; odd bytes as surrogates (PEP 383).

Threading: any thread, any time; each call leases a session of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ftpfs import errors
from ftpfs.config import Network, Server
from ftpfs.ftp import clock, digest, lister, upload
from ftpfs.ftp.control import Reply
from ftpfs.ftp.data import Download, Upload
from ftpfs.ftp.listing import Entry, FolderAttributes, Kind
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.pool import Pool, PoolStatus, Use
from ftpfs.ftp.profile import Profile, Restart, SetTime
from ftpfs.ftp.session import Session
from ftpfs.ftp.upload import Content, Uploads

log = logging.getLogger(__name__)

T = TypeVar("T")
_Entries = list[Entry]
_ListPath = Callable[[str], _Entries]


@dataclass(frozen=True)
class Space:
    """What is free on the server, in bytes."""

    free: int


class Remote:
    """One server (and one folder of it), through a pool of sessions."""

    def __init__(
        self,
        server: Server,
        network: Network,
        *,
        owner: str | None = None,
        memory: Memory | None = None,
        verify_content: bool = False,
    ) -> None:
        """`owner`: 8 hex digits for the names of temporary files. With it, listings also clean up
        what broken uploads have left (see `upload.Uploads`). `memory`: of this server, where what
        is learned is kept for the next mount. `verify_content`: compare what the server has of an
        upload with what was sent, not only how much; where the server can tell."""
        self.profile = Profile(server.quirks)
        self._memory = memory
        if memory is not None:
            memory.load(self.profile)
        self._server = server
        self._root = ""  # on the server; known after the first login
        self._pool = Pool(
            lambda: Session(server, network, self.profile),
            cap=network.max_connections,
            idle_timeout=network.idle_timeout,
        )
        self._cleans = owner is not None
        self._uploads = Uploads(self._pool, self.profile, owner, verify_content=verify_content)

    def connect(self) -> str:
        """Log in once, so that a wrong address or password shows now; the welcome message."""
        with self._pool.leased(Use.METADATA):
            return self.profile.welcome

    def close(self) -> None:
        self._pool.close()
        self._remember()

    def tidy(self) -> None:
        """Housekeeping, to be called every few seconds."""
        self._pool.close_idle()
        self._remember()

    def _remember(self) -> None:
        if self._memory is not None:
            self._memory.save(self.profile)

    def round_trip(self) -> float:
        """The link's round trip in seconds; infinite before the first connection,
        and through a proxy before the first transfer."""
        return self.profile.round_trip

    def warm(self, sessions: int) -> None:
        """Have so many sessions logged in, beside whatever goes on: see `Pool.warm`."""
        self._pool.warm(sessions)

    def status(self) -> PoolStatus:
        return self._pool.status()

    # Looking.

    def list(self, path: str) -> list[Entry]:
        """The entries of a directory. NotFound, NotADirectory, PermissionDenied, NetworkError.

        What crashed mounts have left of their uploads there is deleted on the occasion.
        """
        return self._settled(
            lambda s: self._listed(s, path), lambda: self._why_not_listed(path), use=Use.LISTING
        )

    @contextlib.contextmanager
    def ahead(self) -> Iterator[_ListPath]:
        """A way to `list` on a connection that nobody else needs, as soon as there is one. Nothing
        is tried twice, and no refusal settled."""
        self._on_server("/")
        with self._pool.leased(Use.AHEAD) as session:
            yield lambda path: self._listed(session, path)

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

    def peek(self, path: str) -> Entry | None:
        """What a listing would say of one name, in one round trip and without one; None: only the
        listing can tell.

        That is so for what is refused, and for links of proftpd: its MLST mixes what it finds at
        their end with their own size and mode, which is always 0777.
        """

        def look(session: Session) -> Entry | None:
            with contextlib.suppress(errors.Refused):
                return lister.look_at(session, self._on_server(path))
            return None

        if self.profile.mlst is False:
            return None
        entry = self._pool.run(look)
        return None if entry is None or entry.mode == 0o777 else entry

    def look_again(self, path: str, entry: Entry) -> Entry:
        """`entry` of a file, brought up to date as cheaply as this server allows.

        One round trip by MLST, or SIZE and MDTM together; else like `stat`, and where listings tell
        no size in bytes (OpenVMS, `ls -h`), by SIZE besides.
        """
        if self.profile.mlst:
            return self.stat(path)
        if self.profile.mdtm is False:
            return self._sized(path, self.stat(path))
        where = self._on_server(path)
        size, time = self._pool.run(lambda s: s.exchange([f"SIZE {where}", f"MDTM {where}"]))
        mtime = lister.time_in(time, self.profile)
        if size.code != 213 or not size.text.strip().isdigit() or mtime is None:
            return self._sized(path, self.stat(path))
        return Entry(
            name=entry.name,
            kind=entry.kind,
            size=int(size.text),
            mtime=mtime,
            exact=True,
            mode=entry.mode,
            target=entry.target,
        )

    def _sized(self, path: str, entry: Entry) -> Entry:
        """`entry` with the size that SIZE tells, where it has none of its own."""
        if entry.kind is not Kind.FILE or entry.size is not None:
            return entry
        reply = self.command(f"SIZE {self._on_server(path)}")
        digits = reply.text.strip()
        known = reply.code == 213 and digits.isdigit()
        return replace(entry, size=int(digits) if known else None)

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
            use=Use.LISTING,
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

    def restart_of_uploads(self) -> Restart:
        """What REST and STOR leave of a file here; tried once, on a scratch file in the root."""
        probe = self._on_server("/probe")
        return self._pool.run(lambda session: self._uploads.restart(session, probe))

    def digest_of(self, path: str, size: int) -> digest.Told | None:
        """The server's checksum of this file; None: it has no command for that."""
        where = self._on_server(path)
        return self._pool.run(lambda session: self._uploads.ask_digest(session, where, size))

    def command(self, line: str) -> Reply:
        """One raw command and its reply, refusals included. Not repeated when its reply is lost."""
        return self.commands([line])[0]

    def commands(self, lines: Sequence[str]) -> Sequence[Reply]:
        """`command` for several, in as few round trips as this server takes."""
        with self._pool.leased(Use.METADATA) as session:
            return session.exchange(lines)

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
        expect: Entry | None = None,
        ahead: bool = False,
    ) -> Download:
        """Start reading at `offset`, maybe `ahead` of anybody who waits for it. The lease goes back
        when the download is closed.

        `give_way` is called when others need the connection. With `expect` the file has to be that
        one still, by size and time, or errors.Changed is raised: the server is asked in the same
        round trip. What it does not tell is not compared; where it tells both, the download is
        `confirmed`.
        """

        def start(session: Session, done: Callable[[], None]) -> Download:
            where = self._on_server(path)
            before = upload.questions(self.profile, where) if expect else []
            download = session.download(where, offset, text=text, before=before, done=done)
            if expect:
                seen = upload.seen_in(session, download.replies)
                if _is_another(expect, seen):
                    download.close()
                    raise errors.Changed(f"{path}: it was changed on the server")
                told = None not in (expect.size, seen.size, expect.mtime, seen.mtime)
                download.confirmed = told and expect.exact
            return download

        use = Use.PREFETCH if ahead else Use.TRANSFER
        return self._settled_transfer(start, lambda: self._why_not_read(path), give_way, use)

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

    def store(
        self, path: str, content: Content, *, base: Entry | None, check: bool = True
    ) -> Entry:
        """Make the file at `path` hold the content; the entry as the server has it then.

        It goes to a temporary name and is renamed when the server holds all of it, so that others
        see the old file or the new, never a part, also after a crash. Where the folder takes no
        new names, or refuses renames, the file is written in place. A broken connection is gone on
        with where it broke, where the server can; a later call with the same `content` does, too.

        `base` is what the server is known to have at `path`, None: nothing. When it has something
        else (another size; another time, where both are exact), Conflict is raised and nothing is
        changed; unless what it has is this very content (a mount was killed between the rename and
        noting it). Without `check` it is replaced whatever it is.

        Raises DataMismatch when the server, having said 226 twice, has another size; Conflict;
        NoSpace, QuotaExceeded, NotFound (the folder), IsADirectory, PermissionDenied...; what the
        content raises, Superseded above all; NetworkError when the server cannot be reached.
        """
        where = self._on_server(path)
        try:
            return self._uploads.store(where, content, base, check=check)
        except errors.Refused as refusal:
            raise self._why_not_written(path) or _denied(refusal) from refusal

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], *, base: Entry
    ) -> Entry:
        """Send only these ranges (sorted, disjoint: start, end) of `content`, in place.

        By APPE when they are one append at the end of `base`; else by REST and STOR, where a probe
        (once per server, on a scratch file) showed that the server keeps the rest.

        Raises, with nothing changed: NotSupported when the server cannot, the first range begins at
        0 or behind the end (FTP has no command for these), the file is gone, or sending all of it
        costs less; Conflict as `store`. After any other error the file may hold a part of the
        ranges, and its size and time are nobody's: before the ranges are sent again, look, and
        pass what is found as `base`.
        """
        where = self._on_server(path)
        try:
            return self._uploads.patch(where, content, ranges, base)
        except errors.Refused as refusal:
            raise self._why_not_written(path) or _denied(refusal) from refusal

    # Changing.

    def check_name(self, path: str) -> None:
        """Raises InvalidName for a name that the server's encoding cannot write; sends nothing."""
        encoding = self._server.encoding
        try:
            path.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise errors.InvalidName(f"a name that {encoding} cannot write: {path!a}") from None

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        """Make a folder. `before`: the mode of a folder above it, set in the same round trip; that
        it is refused is a line in the log."""

        def again(session: Session) -> None:
            with contextlib.suppress(errors.Unavailable):
                mkdir(session)

        def mkdir(session: Session) -> None:
            lines = self._lines_to_set(before) if before else []
            *first, made = session.exchange([*lines, f"MKD {self._on_server(path)}"])
            if before and (why := self._why_not_set(before, first)):
                log.warning("the mode of %s was not set: %s", before.path, why)
            made.check()
            lister.check_name_kept(session, self._on_server(path))

        self._settled(mkdir, lambda: self._why_not_made(path), again)

    def rmdir(self, path: str) -> None:
        self._delete("RMD", path, lambda: self._why_not_rmdir(path))

    def remove(self, path: str) -> None:
        self._delete("DELE", path, lambda: self._why_not_removed(path))

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Rename; with `replace` there is a file at `new`, which is replaced (see rename_over)."""
        source, target = self._on_server(old), self._on_server(new)

        def rename(session: Session) -> None:
            upload.rename_over(session, source, target, replace=replace)
            lister.check_name_kept(session, target)

        def again(session: Session) -> None:
            try:
                rename(session)
            except errors.Unavailable:
                if not lister.is_present(session, source) and lister.is_present(session, target):
                    return  # the first attempt had been carried out
                raise

        self._settled(rename, lambda: self._why_not_renamed(old, new), again)

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode bits. NotSupported where the server cannot."""
        if self.profile.chmod is False:
            raise errors.NotSupported("the server has no command that sets a mode")

        def chmod(session: Session) -> None:
            reply = session.command(upload.chmod_line(self.profile, self._on_server(path), mode))
            self.profile.saw_chmod(reply.code)
            reply.check()

        self._settled(chmod, lambda: self._why_not_changed(path))

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> None:
        """Set the modification time, by whichever command this server has. NotSupported if none.

        A refusal for a directory says nothing of files: vsftpd does it for those only.
        """

        def set_time(session: Session) -> None:
            where = self._on_server(path)
            while (way := self.profile.way_to_set_time()) is not SetTime.NONE:
                reply = session.command(self.profile.set_time_line(way, where, seconds))
                if not self.profile.saw_set_time(way, reply.code):
                    reply.check()
                    return
            raise errors.NotSupported("the server has no command that sets a time")

        work = set_time if not directory else lambda s: self._set_folder_time(s, path, seconds)
        self._settled(work, lambda: self._why_not_changed(path))

    def _set_folder_time(self, session: Session, path: str, seconds: int) -> None:
        profile, where = self.profile, self._on_server(path)
        way = profile.way_to_set_time()
        if profile.folder_times is False or way is SetTime.NONE:
            raise errors.NotSupported("the server sets no times on directories")
        reply, there = session.exchange(
            [profile.set_time_line(way, where, seconds), f"CWD {where}"]
        )
        if reply.ok:
            profile.folder_times = True
            return
        if there.ok and profile.set_time_works:
            profile.folder_times = profile.folder_times or False
        raise errors.NotSupported("the server sets no times on directories")

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        """Whether this server sets modes, and times, on folders; None: it was not tried yet."""
        return self.profile.chmod, self.profile.folder_times

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        """Set all of it, in as few round trips as this server can take; the paths where not all was
        set, and why. Raises NetworkError."""
        self._on_server("/")

        lines = [self._lines_to_set(each) for each in wanted]
        replies = iter(
            self._pool.run(lambda session: session.exchange(list(itertools.chain(*lines))))
        )
        refused = []
        for each, its in zip(wanted, lines, strict=True):
            if why := self._why_not_set(each, list(itertools.islice(replies, len(its)))):
                refused.append((each.path, why))
        return refused

    def _lines_to_set(self, wanted: FolderAttributes) -> Sequence[str]:
        where, lines = self._on_server(wanted.path), []
        if wanted.mode is not None:
            lines.append(upload.chmod_line(self.profile, where, wanted.mode))
        way = self.profile.way_to_set_time()
        if wanted.mtime is not None and way is not SetTime.NONE:
            lines.append(self.profile.set_time_line(way, where, wanted.mtime))
        return lines

    def _why_not_set(self, wanted: FolderAttributes, replies: Sequence[Reply]) -> str:
        """By the replies to `_lines_to_set`; empty: all was set."""
        if wanted.mode is not None:
            self.profile.saw_chmod(replies[0].code)
        for reply in replies:
            if not reply.ok:
                return f"{reply.code} {errors.printable(reply.text)}"
        return ""

    # Inside.

    def _listed(self, session: Session, path: str) -> _Entries:
        where = self._on_server(path)
        entries = lister.list_directory(session, where, hidden=True)
        hidden = [entry for entry in entries if entry.name.startswith(lister.HIDDEN_PREFIX)]
        if hidden and self._cleans:
            self._uploads.clean(session, where, hidden)
        return [entry for entry in entries if entry not in hidden] if hidden else entries

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
        use: Use = Use.METADATA,
    ) -> T:
        """`work` through the pool; a refusal is replaced by what a look shows.

        Any refusal: pure-ftpd says 451 where others say 550. A NetworkError says whether any
        session was there to do it on.
        """
        self._on_server("/")
        asked = False

        def noted(do: Callable[[Session], T]) -> Callable[[Session], T]:
            def doing(session: Session) -> T:
                nonlocal asked
                asked = True
                return do(session)

            return doing

        try:
            return self._pool.run(noted(work), again=noted(again or work), use=use)
        except errors.NetworkError as error:
            error.asked = asked
            raise
        except errors.Refused as refusal:
            raise why() or _denied(refusal) from refusal

    def _settled_transfer(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        why: Callable[[], errors.FtpfsError | None],
        give_way: Callable[[], None] | None,
        use: Use = Use.TRANSFER,
    ) -> T:
        self._on_server("/")
        try:
            return self._pool.begin(start, use=use, give_way=give_way)
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
                if lister.is_present(session, where):
                    raise  # else: the first attempt had been carried out

        self._settled(delete, why, again)

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
        if refusal is not None:
            return refusal
        if self.list(path):
            return errors.NotEmpty(f"{path}: not empty")
        where = self._on_server(path)
        # What listings hide is in the way, too: what is deleted and open, or was moved aside.
        hidden = self._pool.run(lambda s: lister.list_directory(s, where, hidden=True))
        names = ", ".join(errors.printable(entry.name) for entry in hidden)
        return errors.NotEmpty(f"{path}: not empty, {names} is in it") if hidden else None

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


def _is_another(known: Entry, seen: upload.Seen) -> bool:
    """Whether what was `seen` now is another content than the `known` one.

    Times that differ by a multiple of a quarter of an hour are taken for one time told in two
    zones: MDTM, MLST and listings of one server need not agree about that.
    """
    if known.size is not None and seen.size is not None and known.size != seen.size:
        return True
    if not known.exact or known.mtime is None or seen.mtime is None:
        return False
    return (known.mtime - seen.mtime) % clock.STEP != 0


ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


def _denied(refusal: errors.Refused) -> errors.FtpfsError:
    """What is left of a refusal when a look has found nothing that explains it.

    With 550 that is the permission. Other codes stay what they are, unless they name it themselves
    (pure-ftpd: "451 Rename/move failure: Permission denied").
    """
    if isinstance(refusal, errors.Unavailable) or "permission denied" in refusal.text.lower():
        return errors.PermissionDenied(str(refusal))
    return refusal
