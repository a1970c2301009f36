"""Looking: listings and single entries, each by the cheapest question that this server answers.

Owns: which commands tell about a path, and what to ask if the first ones tell too little. Does not
own how a listing is read (`lister`). Each method's contract is in `remote.Remote`.

Threading: any thread; each call leases a session of its own.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from dataclasses import replace

from ftpfs import errors
from ftpfs.ftp import lister
from ftpfs.ftp.attempts import Attempts
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Pool
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.refiner import Refiner
from ftpfs.ftp.root import Root
from ftpfs.ftp.uploading.temporaries import Temporaries
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import HIDDEN_PREFIX
from ftpfs.model.remote import ListPath

ROOT = Entry(name="", kind=Kind.DIRECTORY, size=0, mtime=None, exact=False, mode=None, target=None)


class Looking:
    """Answers questions about the paths of one mount."""

    def __init__(
        self,
        pool: Pool,
        profile: Profile,
        root: Root,
        attempts: Attempts,
        sweeper: Temporaries | None,
    ) -> None:
        """`sweeper` deletes what crashed mounts left, when a listing shows it."""
        self._pool = pool
        self._profile = profile
        self._root = root
        self._attempts = attempts
        self._sweeper = sweeper
        self._refiner = Refiner(pool, profile)

    # Listings.

    def entries(self, path: str) -> list[Entry]:
        where = self._root.on_server(path)
        return self._attempts.run(
            lambda session: self._listed(session, where),
            lambda: self.why_not_listed(path),
            use=Use.LISTING,
        )

    @contextlib.contextmanager
    def unasked(self, use: Use) -> Iterator[ListPath]:
        self._root.on_server("/")
        with self._pool.leased(use) as session:
            yield lambda path: self._listed(session, self._root.on_server(path))

    def all_entries(self, path: str) -> list[Entry]:
        """All entries of a folder, with the files that ftpfs hides."""
        where = self._root.on_server(path)
        return self._pool.run(lambda s: lister.list_directory(s, where, hidden=True))

    def _listed(self, session: Session, where: str) -> list[Entry]:
        entries = lister.list_directory(session, where, hidden=True)
        self._refiner.start_if_needed()
        hidden = [entry for entry in entries if entry.name.startswith(HIDDEN_PREFIX)]
        if hidden and self._sweeper and self._sweeper.sweep(session, where, hidden):
            return lister.list_directory(session, where)
        return [entry for entry in entries if entry not in hidden] if hidden else entries

    # Single entries.

    def stat(self, path: str) -> Entry:
        if path == "/":
            return ROOT

        def look(session: Session) -> Entry | None:
            with contextlib.suppress(errors.Unavailable):
                return lister.look_at(session, self._root.on_server(path))
            return None

        found = self._pool.run(look)
        return found if found is not None else self._find_in_parent(path)

    def find(self, path: str) -> Entry | None:
        """Like `stat`; None if nothing exists there."""
        try:
            return self.stat(path)
        except (errors.NotFound, errors.NotADirectory):
            return None

    def peek(self, path: str) -> Entry | None:
        if self._profile.listings.mlst is False:
            return None

        def look(session: Session) -> Entry | None:
            with contextlib.suppress(errors.Refused):
                return lister.look_at(session, self._root.on_server(path))
            return None

        entry = self._pool.run(look)
        return None if entry is None or entry.mode == 0o777 else entry

    def look_again(self, path: str, entry: Entry) -> Entry:
        if self._profile.listings.mlst:
            return self.stat(path)
        if self._profile.times.mdtm is False:
            return self._sized(path, self.stat(path))
        where = self._root.on_server(path)
        size, time = self._pool.run(lambda s: s.exchange([f"SIZE {where}", f"MDTM {where}"]))
        mtime = lister.time_in(time, self._profile)
        if size.code != 213 or not size.text.strip().isdigit() or mtime is None:
            return self._sized(path, self.stat(path))
        self._profile.listings.saw_size(entry.size, int(size.text))
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
        """`entry` with its size by SIZE, if the entry has none, or one that may be wrong."""
        doubtful = entry.size is None or self._profile.listings.may_be_wrapped(entry.size)
        if entry.kind is not Kind.FILE or not doubtful:
            return entry
        where = self._root.on_server(path)
        with self._pool.leased(Use.METADATA) as session:
            reply = session.command(f"SIZE {where}")
        digits = reply.text.strip()
        told = int(digits) if reply.code == 213 and digits.isdigit() else None
        if entry.size is None:
            return replace(entry, size=told)
        self._profile.listings.saw_size(entry.size, told)
        return replace(entry, size=told) if self._profile.listings.sizes_wrap else entry

    def _find_in_parent(self, path: str) -> Entry:
        parent, name = posixpath.split(path)
        if name.startswith(HIDDEN_PREFIX):  # ftpfs's own files are in no listing
            where = self._root.on_server(path)
            found = self._attempts.run(
                lambda s: lister.find(s, where),
                lambda: self.why_not_listed(parent),
                use=Use.LISTING,
            )
            if found is None:
                raise errors.NotFound(f"{path}: no such file or directory")
            return found
        try:
            entries = self.entries(parent)
        except errors.PermissionDenied as refusal:
            return self._find_alone(path, refusal)
        for entry in entries:
            if entry.name == name:
                return entry
        raise errors.NotFound(f"{path}: no such file or directory")

    def _find_alone(self, path: str, refusal: errors.PermissionDenied) -> Entry:
        """A name in a folder that may be entered, but not listed.

        Raises the refusal if the folder may not be entered.
        """
        where, above = self._root.on_server(path), self._root.on_server(posixpath.dirname(path))
        lines = [f"CWD {above}", f"SIZE {where}", f"MDTM {where}", f"CWD {where}"]
        entered, size, time, folder = self._pool.run(lambda session: session.exchange(lines))
        if not entered.ok:
            raise refusal
        name = posixpath.basename(path)
        if folder.ok:
            return Entry(name, Kind.DIRECTORY)
        if size.code == 213 and size.text.strip().isdigit():
            mtime = lister.time_in(time, self._profile)
            return Entry(name, Kind.FILE, int(size.text), mtime, mtime is not None)
        raise errors.NotFound(f"{path}: no such file or directory")

    def why_not_listed(self, path: str) -> errors.FtpfsError | None:
        """Why a folder was not listed; None: only a missing permission is left."""
        if path == "/":
            where = self._root.on_server("/")
            return errors.NotFound(f"{where}: no such folder on the server")
        entry = self.find(path)
        if entry is None:
            return errors.NotFound(f"{path}: no such directory")
        if entry.kind is Kind.FILE:
            return errors.NotADirectory(f"{path}: not a directory")
        return None

    # Links.

    def read_link(self, path: str, target: str | None) -> str:
        folder = posixpath.dirname(path)
        if target is None:
            target = self._target_by_list(folder, posixpath.basename(path))
        inside = posixpath.normpath(posixpath.join(folder, self._root.in_mount(target)))
        return posixpath.relpath(inside.replace("//", "/"), folder)

    def links(self, path: str) -> list[Entry]:
        where = self._root.on_server(path)
        return self._attempts.run(
            lambda s: lister.list_links(s, where),
            lambda: self.why_not_listed(path),
            use=Use.LISTING,
        )

    def _target_by_list(self, folder: str, name: str) -> str:
        for entry in self.links(folder):
            if entry.name == name and entry.target:
                return entry.target
        raise errors.NotSupported(f"the server does not tell where {name} points")
