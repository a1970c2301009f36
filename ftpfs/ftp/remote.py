"""Remote: a server as operations on paths, for the core and for the commands without FUSE.

Owns: the contract of each operation, and the parts that carry it out: `looking` (listings and
single entries), `changing` (folders and names), `setting` (modes and times), `uploading` (contents
to the server), and `attempts`, through which each of them goes. Sessions and retries are the
pool's.

Paths are absolute inside the mount: "/", "/a/b"; undecodable bytes are surrogates (PEP 383).

Threading: any thread, any time; each call leases a session of its own.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ftpfs import errors
from ftpfs.ftp import clock, digest, lister
from ftpfs.ftp.attempts import Attempts
from ftpfs.ftp.changing import Changing
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.neighbours import Neighbours
from ftpfs.ftp.connections.pool import Pool, PoolStatus
from ftpfs.ftp.connections.rates import Rates
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Download, Upload
from ftpfs.ftp.looking import Looking
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.profile import Profile, Restart
from ftpfs.ftp.reasons import Reasons
from ftpfs.ftp.root import Root
from ftpfs.ftp.setting import Setting
from ftpfs.ftp.uploading.checks import Seen, questions, seen_in
from ftpfs.ftp.uploading.uploads import Uploads
from ftpfs.model.entry import Entry, FolderAttributes, Trace
from ftpfs.model.remote import Content, ListPath
from ftpfs.settings.config import Network, Server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """What is free on the server, in bytes."""

    free: int


# How servers refuse a connection too many: by 421, by 530, by hanging up, or not at all.
_MAY_BE_FULL = (
    *(errors.ServerBusy, errors.LoginFailed, errors.ConnectionLost, errors.DeadlineExceeded),
)


class Remote:
    """One server (and one folder of it), through a pool of sessions.

    One idea: the contract of every operation on a path, each carried out by another class. Most
    lines are those contracts.
    """

    def __init__(
        self,
        server: Server,
        network: Network,
        *,
        owner: str | None = None,
        memory: Memory | None = None,
        neighbours: Neighbours | None = None,
        verify_content: bool = False,
    ) -> None:
        """`owner`: 8 hex digits for the names of temporary files.

        With `owner`, listings also delete what crashed mounts left (see `uploading.temporaries`).
        `memory`: where this server's profile is kept for the next mount. `neighbours`: the other
        processes with connections to this server, which share its limit. `verify_content`: compare
        the checksum of each upload, if the server has checksums.
        """
        self.profile = Profile(server.quirks)
        self.login = f"{server.user}@{server.host}:{server.port}"
        self.rates = Rates(network.limit_down, network.limit_up)
        self._neighbours = neighbours
        self._memory = memory
        if memory is not None:
            memory.load(self.profile)
        self._pool = Pool(
            lambda: Session(server, network, self.profile, self.rates),
            cap=network.max_connections,
            idle_timeout=network.idle_timeout,
            profile=self.profile,
        )
        self._root = Root(server, self.profile, self.connect)
        self._attempts = Attempts(self._pool, self.profile)
        self._uploads = Uploads(self._pool, self.profile, owner, verify_content=verify_content)
        self._looking = Looking(
            self._pool,
            self.profile,
            self._root,
            self._attempts,
            self._uploads.temporaries if owner is not None else None,
        )
        self._reasons = Reasons(self._looking)
        self._setting = Setting(
            self._pool,
            self.profile,
            self._root,
            self._attempts,
            self._reasons,
            self._uploads.probes,
        )
        self._changing = Changing(
            self._root,
            self._attempts,
            self._reasons,
            self._setting,
            self._uploads.probes.replaces,
        )

    def connect(self) -> str:
        """Log in once, so that a wrong address or password is reported now.

        Returns the welcome message. If the server lets nobody else in, the error names the other
        processes of this user that hold connections to it.
        """
        self._meet_others()
        try:
            with self._pool.leased(Use.METADATA):
                return self.profile.identity.welcome
        except _MAY_BE_FULL as error:
            others = [other for other in self._pool.status().others if other.connections]
            if not others:
                raise
            holders = ", ".join(other.line() for other in others)
            raise type(error)(f"{error}; at this server {holders}") from error
        finally:
            self._meet_others()

    def _meet_others(self) -> None:
        if self._neighbours is not None:
            now = self._pool.status()
            self._pool.know_others(self._neighbours.look(now.idle + now.leased))

    def close(self) -> None:
        self._pool.close()
        if self._neighbours is not None:
            self._neighbours.close()
        self._remember()

    def tidy(self) -> None:
        """Housekeeping, to be called every few seconds."""
        self._pool.close_idle()
        self._meet_others()
        self._remember()

    def _remember(self) -> None:
        if self._memory is not None:
            self._memory.save(self.profile)

    def round_trip(self) -> float:
        """The link's round trip in seconds.

        Infinite before the first connection, and through a proxy before the first transfer.
        """
        return self.profile.wire.round_trip

    def warm(self, sessions: int) -> None:
        """Keep this many sessions logged in, beside those in use: see `Pool.warm`."""
        self._pool.warm(sessions)

    def cut_off_calls(self, older_than: float) -> None:
        """See `Pool.cut_off_calls`."""
        self._pool.cut_off_calls(older_than)

    def is_away(self) -> bool:
        """Whether no session is left, and the last login did not reach the server at all."""
        return self._pool.is_away()

    def is_offline(self) -> bool:
        """Whether the mount goes on without its server. It never does without a store."""
        return False

    def status(self) -> PoolStatus:
        return self._pool.status()

    # Looking.

    def list(self, path: str) -> list[Entry]:
        """The entries of a directory.

        Also deletes the temporary files that crashed mounts left there, and gives files that they
        had moved aside their names again. Raises NotFound, NotADirectory, PermissionDenied,
        NetworkError.
        """
        return self._looking.entries(path)

    def ahead(self) -> contextlib.AbstractContextManager[ListPath]:
        """Wait for a connection that nobody else needs, and yield a way to `list` with it.

        Nothing is tried twice, and no refusal is explained.
        """
        return self._looking.unasked(Use.AHEAD)

    def behind(self) -> contextlib.AbstractContextManager[ListPath]:
        """Like `ahead`, but no connection is made for it."""
        return self._looking.unasked(Use.BEHIND)

    def stat(self, path: str) -> Entry:
        """One entry, asked for now. Raises NotFound."""
        return self._looking.stat(path)

    def peek(self, path: str) -> Entry | None:
        """What a listing would say about one name, in one round trip; None: only the listing tells.

        The listing is needed after a refusal, and for links of proftpd: its MLST mixes facts about
        a link's target with the link's own size and mode, which is always 0777.
        """
        return self._looking.peek(path)

    def look_again(self, path: str, entry: Entry) -> Entry:
        """The `entry` of a file, brought up to date as cheaply as this server allows.

        One round trip by MLST, or by SIZE and MDTM together; else like `stat`. If listings tell no
        size in bytes (OpenVMS, `ls -h`), one more for SIZE.
        """
        return self._looking.look_again(path, entry)

    def read_link(self, path: str, target: str | None) -> str:
        """The target of the link at `path`, as a relative path that stays inside the mount.

        `target` is what the listing said (None: it told no target, and LIST is asked). An absolute
        target begins at the server's root, and `..` ends there. So no link leads out of the mount,
        into files of this machine.
        """
        return self._looking.read_link(path, target)

    def is_another(self, known: Entry, now: Entry) -> bool:
        """Whether a file has changed from `known` to `now`, as far as the server tells."""
        return _is_another(
            known, Seen(True, now.size, now.mtime if now.exact else None), self.profile
        )

    def links(self, path: str) -> Sequence[Entry]:
        """The links in a directory, by LIST: MLSD of some servers shows what they lead to."""
        return self._looking.links(path)

    def space(self) -> Space | None:
        """Free space by AVBL (draft-peterson-streamlined-ftp); None without that command."""
        if "AVBL" not in self.profile.identity.features:
            return None
        reply = self._pool.run(lambda s: s.command(f"AVBL {self._root.on_server('/')}"))
        digits = reply.text.strip().split(" ")[0]
        return Space(int(digits)) if reply.code == 213 and digits.isdigit() else None

    def restart_of_uploads(self) -> Restart:
        """What REST and STOR leave of a file here. Tries it once, on a scratch file in the root."""
        probe = self._root.on_server("/probe")
        return self._pool.run(lambda session: self._uploads.probes.restart(session, probe))

    def digest_of(self, path: str, size: int) -> digest.Told | None:
        """The server's checksum of this file; None: the server has no command for that."""
        where = self._root.on_server(path)
        return self._pool.run(lambda session: self._uploads.checksums.ask(session, where, size))

    def command(self, line: str) -> Reply:
        """Send one raw command. Returns its reply, also a refusal.

        Not repeated if the reply is lost.
        """
        return self.commands([line])[0]

    def commands(self, lines: Sequence[str]) -> Sequence[Reply]:
        """`command` for several, in as few round trips as this server takes."""
        with self._pool.leased(Use.METADATA) as session:
            return session.exchange(lines)

    def pwd(self) -> str:
        """The folder on the server that is the mount's root."""
        return self._root.on_server("/")

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
        """Start reading at `offset`. Closing the download returns the lease.

        `ahead`: no caller waits for it yet. `give_way` is called when others need the connection.
        With `expect`, the file must still be that one, by size and time, or errors.Changed is
        raised: the same round trip asks the server. What the server does not tell is not compared.
        If it tells both, the download is `confirmed`. An expected entry without size and time is
        any file: then the download's `entry` has what the server told.
        """

        where = self._root.on_server(path)

        def start(session: Session, done: Callable[[], None]) -> Download:
            before = questions(self.profile, where) if expect else []
            download = session.download(where, offset, text=text, before=before, done=done)
            if expect:
                seen = seen_in(session, download.replies)
                if _is_another(expect, seen, self.profile):
                    self.profile.listings.saw_size(expect.size, seen.size)
                    download.close()
                    raise errors.Changed(f"{path}: it was changed on the server")
                told = None not in (expect.size, seen.size, expect.mtime, seen.mtime)
                download.confirmed = told and expect.exact
                download.entry = _brought_up_to_date(expect, seen)
            return download

        use = Use.PREFETCH if ahead else Use.TRANSFER
        return self._attempts.begin(start, lambda: self._reasons.not_read(path), give_way, use)

    def open_write(
        self, path: str, offset: int = 0, *, append: bool = False, text: bool = False
    ) -> Upload:
        """Start writing. A broken attempt is not repeated: a part of it may have arrived."""
        where = self._root.on_server(path)
        return self._attempts.begin(
            lambda s, done: s.upload(where, offset, append=append, text=text, done=done),
            lambda: self._reasons.not_written(path),
        )

    def store(
        self, path: str, content: Content, *, base: Entry | None, check: bool = True
    ) -> Entry:
        """Make the file at `path` hold the content. Returns its new entry.

        The content goes to a temporary name and is renamed when the server has all of it. So other
        clients see the old file or the new one, never a part, also after a crash. If the folder
        refuses new names or renames, the file is written in place. After a broken connection the
        upload resumes, if the server can; so does a later call with the same `content`.

        `base` is what the server is known to have at `path`, None: no file. If it has something
        else (another size, or another time if both are exact), this raises Conflict and changes
        nothing. There is one exception: the server has this very content, because a mount was
        killed between the rename and noting it. Without `check` any file is replaced.

        Raises Conflict; DataMismatch if the server has another size after it said 226 twice;
        NoSpace, QuotaExceeded, NotFound (the folder), IsADirectory, PermissionDenied...; what the
        content raises, Superseded above all; NetworkError if the server cannot be reached.
        """
        where = self._root.on_server(path)
        explained = self._attempts.explained(lambda: self._reasons.not_written(path))
        with self._forgetting_time(path):
            while True:
                with explained:
                    return self._uploads.store(where, content, base, check=check)

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], *, base: Entry
    ) -> Entry:
        """Send only these ranges (sorted, disjoint: start, end) of `content`, in place.

        Uses APPE if they are one append at the end of `base`; else REST and STOR, if a probe (once
        per server, on a scratch file) has shown that the server keeps the rest.

        Raises, with nothing changed: NotSupported if the server cannot do it, if the first range
        begins at 0 or behind the end (FTP has no command for these), if the file is gone, or if
        sending the whole file costs less; Conflict as `store`. After any other error the file may
        have a part of the ranges, and a size and time that no client expects. Before the ranges are
        sent again, look, and pass the entry that is found as `base`.
        """
        where = self._root.on_server(path)
        explained = self._attempts.explained(lambda: self._reasons.not_written(path))
        with self._forgetting_time(path):
            while True:
                with explained:
                    return self._uploads.patch(where, content, ranges, base)

    def append(self, path: str, content: Content, start: int, end: int, *, base: Entry) -> Entry:
        """Send the bytes [start, end) of `content` to the end of the server's file at `path`.

        Other clients may have appended to it meanwhile. Returns its new entry. If `end` equals
        `start`, only the attributes are set.

        Raises, with nothing changed: NotSupported if the server does not append to the file, or if
        it is gone; Conflict if it is shorter than `base`, and so another file. An append is never
        repeated here. After any other error it may have arrived in part or in full: the caller has
        to look.
        """
        where = self._root.on_server(path)
        explained = self._attempts.explained(lambda: self._reasons.not_written(path))
        with self._forgetting_time(path):
            while True:
                with explained:
                    return self._uploads.append(where, content, start, end, base)

    def takes_files(self, path: str) -> bool:
        """Whether the folder above `path` takes new files.

        Makes one under a temporary name, and deletes it. False: the folder takes no temporary
        files, so only the file itself shows it. If files are handed over (`Placing.IN_PLACE`),
        nothing may be sent before the file is complete, and the folder is assumed to take it.
        Raises the server's refusal.
        """
        where = self._root.on_server(path)
        explained = self._attempts.explained(lambda: None)
        while True:
            with explained:
                return self._uploads.takes_files(where)

    # Changing.

    def check_name(self, path: str) -> None:
        """Raises InvalidName or NameTooLong for a path that cannot be sent. No I/O.

        InvalidName: the encoding cannot write it. NameTooLong: it does not fit into every command
        of an upload.
        """
        self._root.check_name(path)

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        """Make a folder. `before`: the mode of a folder above it, set in the same round trip.

        If the server refuses that mode, the log says so. If the reply to the first attempt was
        lost, an empty folder counts as made by it. A folder with something in it, or a file, does
        not.
        """
        self._changing.mkdir(path, before=before)

    def rmdir(self, path: str) -> None:
        self._changing.rmdir(path)

    def remove(self, path: str, *, traces: Collection[Trace] = ()) -> None:  # noqa: ARG002 - the server is here
        self._changing.remove(path)

    def aside(self, path: str) -> str:
        """A new hidden name for the file at `path` while another file takes its place.

        The name tells its owner and the file's own name. Call this once for each operation.
        """
        return posixpath.join(
            posixpath.dirname(path), self._uploads.temporaries.aside_name(posixpath.basename(path))
        )

    def replaces(self) -> bool | None:
        """Whether the server's own rename replaces a file; None: not known yet."""
        return self.profile.names.replaces

    def rename(
        self,
        old: str,
        new: str,
        *,
        replace: bool,
        aside: str = "",
        keep: bool = False,
        traces: Collection[Trace] = (),  # noqa: ARG002 - the server is here
    ) -> None:
        """Rename. With `replace` there is a file at `new`, which is replaced.

        If the server's rename does not replace files, the old one is moved to `aside` (a name that
        `aside` gave) meanwhile. With `keep` it is moved there on every server, in the same
        exchange, and stays. If the server refuses the rename, the old file has its name again when
        this returns. If the connection breaks for good, the old file may be under either name (see
        `replacing`).
        """
        with self._forgetting_time(new):
            self._changing.rename(
                old, new, replace=replace, aside=aside or self.aside(new), keep=keep
            )

    def temporary(self, path: str) -> str:
        """A new hidden name beside `path`, for a file that will be renamed to it."""
        return self._uploads.temporaries.new(path)

    def copy(self, old: str, new: str, size: int) -> bool:
        """Have the server copy a file of `size` bytes, over any file at `new`.

        False: it has no command for that (SITE CPFR, CPTO), or refuses it. Then there may be a part
        at `new`.
        """
        return self._changing.copy(old, new, size)

    def check_removable(self, path: str, aside: str) -> None:
        """Raises what deleting the file at `path` would raise.

        Renames the file to `aside` and back, in one round trip. If the connection breaks for good,
        it may be under either name.
        """
        self._changing.check_removable(path, aside)

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode bits. Raises NotSupported if the server cannot do that."""
        self._setting.chmod(path, mode)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        """Set the modification time, by the command that this server has.

        Returns the time that the server shows then. Raises NotSupported if it has no such command.
        A refusal for a directory proves nothing about files: vsftpd sets times of files only.
        """
        with self._forgetting_time(path):
            return self._setting.set_mtime(path, seconds, directory=directory)

    def doubts_size(self, entry: Entry) -> bool:
        """Whether the size of a file, by a listing, may be wrong: then `look_again`."""
        return self.profile.listings.may_be_wrapped(entry.size)

    def is_same_time(self, first: int, second: int) -> bool:
        """Whether the server may show one of these times for the other.

        Some disks keep times in steps of two seconds, or of a minute.
        """
        return self.profile.setting.is_same_time(first, second)

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        """Whether this server sets modes, and times, on folders; None: not tried yet."""
        return self.profile.setting.chmod, self.profile.setting.folder_times

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        """Set all of these, in as few round trips as this server allows.

        Returns the paths for which the server refused something, and why. Raises NetworkError.
        """
        return self._setting.set_on_folders(wanted)

    # Inside.

    def on_server(self, path: str) -> str:
        """The path on the server, for other processes: their root may be another."""
        return self._root.on_server(path)

    def delete_temporaries(self, where: str, owner: str) -> None:
        """Delete the temporary files of this `owner`, whose process has ended.

        `where`: their folder, as a path on the server.
        """

        def delete(session: Session) -> None:
            entries = lister.list_directory(session, where, hidden=True)
            self._uploads.temporaries.delete_of(session, where, entries, owner)

        self._attempts.run(delete, lambda: None, use=Use.LISTING)

    @contextlib.contextmanager
    def _forgetting_time(self, path: str) -> Iterator[None]:
        """Forget the time that the server told of this file (see `dated`), even after an error."""
        where = self._root.on_server(path)
        try:
            yield
        finally:
            self.profile.times.dated.forget(where)


def _brought_up_to_date(known: Entry, seen: Seen) -> Entry:
    """`known` with the size and the time that were `seen`, unless they may be those of a link."""
    if seen.maybe_link:
        return known
    if seen.mtime is not None:
        known = replace(known, mtime=seen.mtime, exact=True)
    return known if seen.size is None else replace(known, size=seen.size)


def _is_another(known: Entry, seen: Seen, profile: Profile) -> bool:
    """Whether what was `seen` now is another content than the `known` one.

    Times that differ by a multiple of a quarter of an hour count as equal: MDTM, MLST and listings
    of one server may use different time zones.
    """
    if known.size is not None and seen.size is not None and known.size != seen.size:
        return True
    if not known.exact or known.mtime is None or seen.mtime is None:
        return False
    off = (known.mtime - seen.mtime) % clock.STEP_SECONDS
    return not profile.setting.is_same_time(min(off, clock.STEP_SECONDS - off), 0)
