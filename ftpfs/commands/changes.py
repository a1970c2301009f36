"""The work of `ftpfs mkdir`, `rm`, `mv`, `touch` and `chmod`.

Each path is tried, and each failure is told. Each function returns the exit code.

Threading: the main thread.
"""

from __future__ import annotations

import posixpath
import tempfile
import time
from collections.abc import Callable, Sequence

from ftpfs import errors
from ftpfs.commands import runs
from ftpfs.commands.trees import expand
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import check_name
from ftpfs.trees.copying import make_parents
from ftpfs.trees.outcome import Tally
from ftpfs.trees.removing import Removing
from ftpfs.trees.server import Server

_JOBS = 4


def mkdir(remote: Remote, paths: Sequence[str], *, parents: bool) -> int:
    side = Server(remote)

    def make(path: str) -> None:
        if parents:
            make_parents(side, path)
        else:
            side.make_folder(path, None)

    return _each(paths, make)


def rm(
    remote: Remote, paths: Sequence[str], *, recursive: bool, force: bool, jobs: int | None
) -> int:
    side = Server(remote)
    removing = Removing(side, jobs=jobs or _JOBS)
    wanted: list[tuple[str, Entry]] = []

    for path, known in expand(remote, paths):
        try:
            entry = known or remote.stat(path)
        except errors.FtpfsError as error:
            if not (force and isinstance(error, errors.NotFound)):
                removing.tally.fail(path, error)
            continue
        if recursive or entry.kind is not Kind.DIRECTORY or _is_link(side, path):
            wanted.append((path, entry))
        else:
            removing.tally.fail(path, "a folder; -r deletes folders")
    removing.start(wanted, "/")
    runs.follow(removing, remote)
    return runs.report(removing.outcome(), "deleted")


def _is_link(side: Server, path: str) -> bool:
    """Whether what the server calls a folder is a link to one."""
    folder, name = posixpath.split(path)
    return name in side.links_in(folder)


def mv(remote: Remote, sources: Sequence[str], target: str) -> int:
    there = Server(remote).stat(target)
    into = there is not None and there.kind is Kind.DIRECTORY
    if len(sources) > 1 and not into:
        raise errors.NotADirectory(f"{target} is not a folder")

    def move(source: str) -> None:
        new = posixpath.join(target, posixpath.basename(source)) if into else target
        if new == source:
            raise errors.Exists(f"{source}: the old name and the new one are the same")
        check_name(new)
        remote.check_name(new)
        try:
            replaced = remote.stat(new).kind is not Kind.DIRECTORY
        except errors.NotFound:
            replaced = False
        remote.rename(source, new, replace=replaced)

    return _each(sources, move)


def touch(remote: Remote, paths: Sequence[str]) -> int:
    now = int(time.time())

    def touch_one(path: str) -> None:
        try:
            entry = remote.stat(path)
        except errors.NotFound:
            _make_empty(remote, path, now)
            return
        remote.set_mtime(path, now, directory=entry.kind is Kind.DIRECTORY)

    return _each(paths, touch_one)


def _make_empty(remote: Remote, path: str, now: int) -> None:
    """Make an empty file. Raises Conflict if another client makes one in this moment."""
    check_name(path)
    remote.check_name(path)
    with tempfile.TemporaryFile() as nothing:
        remote.store(path, FileContent(nothing.fileno(), 0, now, None), base=None)


def chmod(remote: Remote, paths: Sequence[str], bits: int) -> int:
    return _each(paths, lambda path: remote.chmod(path, bits))


def _each(paths: Sequence[str], work: Callable[[str], None]) -> int:
    tally = Tally()
    for path in paths:
        try:
            work(path)
        except (errors.NetworkError, errors.LoginFailed):
            raise
        except errors.FtpfsError as error:
            tally.fail(path, error)
    return runs.report(tally.now())
