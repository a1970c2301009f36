"""`ftpfs keep`: files and folders of a mount that stay on this machine, and are kept up to date.

Owns the requests to the daemon, which does the work (`core.keeping`), and the progress bar.
"""

from __future__ import annotations

import contextlib
import posixpath
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from ftpfs.commands import arguments
from ftpfs.errors import FtpfsError, InvalidArgument, printable

if TYPE_CHECKING:
    from ftpfs.daemon.control_socket import Daemon, Reply

# A daemon may wait for its server, or for another mount that fetches, for so long (s).
SILENCE_SECONDS = 300.0
# Limit of lines about files that could not be fetched.
MOST_TOLD = 20

# Called with a reply that tells the progress.
Advance = Callable[["Reply"], None]


@click.command()
@click.argument("paths", type=arguments.PlaceType(), nargs=-1)
@click.option("--list", "lists", is_flag=True, help="Show what is kept.")
@click.option("--drop", is_flag=True, help="Keep PATHs no longer.")
def keep(paths: tuple[str, ...], lists: bool, drop: bool) -> int:
    """Keep PATHs in a mount, with all that is below them, on this machine.

    Everything is fetched now, and looked at every keep_refresh (15 minutes):
    what is new or has changed on the server is fetched, what was deleted there
    is deleted here. What is kept is never evicted, does not count for
    cache_size, and can be read without the server. Later mounts go on with it.

    After Ctrl-C the mount goes on fetching. Exits with 1 when something could
    not be fetched, and prints a line for each such file.
    """
    if lists == bool(paths) or (lists and drop):
        raise arguments.Misuse("either PATHs, or --list")
    if lists:
        _list()
        return 0
    complaints = _drop(paths) if drop else _keep(paths)
    for line in complaints:
        click.echo(f"ftpfs: {printable(line)}", err=True)
    return 1 if complaints else 0


def _keep(paths: tuple[str, ...]) -> list[str]:
    """Keep all of them. Returns a line for each failure."""
    complaints: list[str] = []
    waiting = []
    for path in paths:
        try:
            place = _place_of(path)
            _tell(place[0], "keep", place[2], later=True)
            waiting.append((path, place))
        except FtpfsError as error:
            complaints.append(f"{path}: {error}")
    with _bar() as advance:
        for path, (daemon, mountpoint, inside) in waiting:
            try:
                last = _watch(daemon, inside, advance)
            except FtpfsError as error:
                complaints.append(f"{path}: {error}")
            else:
                complaints += _failures(mountpoint, inside, last)
    return complaints


def _watch(daemon: Daemon, inside: str, advance: Advance) -> Reply:
    """Have a path looked at, and wait for the end. Returns the outcome."""
    from ftpfs.daemon import control_socket

    last: Reply = {}
    for last in control_socket.ask(daemon, "keep", path=inside, silence=SILENCE_SECONDS):
        if "complete" not in last:
            advance(last)
    return last


def _failures(mountpoint: str, inside: str, last: Reply) -> Iterator[str]:
    told = last.get("failures", ())
    for path, why in told[:MOST_TOLD]:
        yield f"{posixpath.join(mountpoint, path.lstrip('/'))}: {why}"
    more = int(last.get("lacking", 0)) - len(told[:MOST_TOLD])
    if more > 0:
        yield f"{more:,} more could not be fetched; they are tried again at the next look"
    if unsettled := int(last.get("unsettled", 0)):
        names = "1 file was" if unsettled == 1 else f"{unsettled:,} files were"
        yield (
            f"{posixpath.join(mountpoint, inside.lstrip('/'))}: {names} changed within the last "
            "minute: fetched within the next one"
        )
    if last.get("missing"):
        yield f"{posixpath.join(mountpoint, inside.lstrip('/'))}: not on the server"


def _drop(paths: tuple[str, ...]) -> list[str]:
    complaints = []
    for path in paths:
        try:
            daemon, _, inside = _place_of(path)
            _tell(daemon, "drop", inside)
        except FtpfsError as error:
            complaints.append(f"{path}: {error}")
    return complaints


def _list() -> None:
    from ftpfs.commands import show
    from ftpfs.daemon import control_socket, mountpoints
    from ftpfs.model.status import Kept

    found = []
    for mounted in mountpoints.table():
        for daemon in control_socket.daemons(mounted.path)[-1:]:
            with contextlib.suppress(FtpfsError):  # a mount without a store
                for reply in control_socket.ask(daemon, "kept"):
                    kept = Kept(**reply["kept"])
                    found.append((posixpath.join(mounted.path, kept.path.lstrip("/")), kept))
    show.kept(found, sys.stdout)


def _place_of(path: str) -> tuple[Daemon, str, str]:
    """The daemon of the mount that `path` is in, the mountpoint, and the path inside."""
    from ftpfs.daemon import control_socket, mountpoints

    mountpoint, inside = mountpoints.holding(path)
    daemons = control_socket.daemons(mountpoint)
    if not daemons:
        raise InvalidArgument("the daemon of this mount does not answer")
    return daemons[-1], mountpoint, inside


def _tell(daemon: Daemon, what: str, inside: str, **words: object) -> None:
    from ftpfs.daemon import control_socket

    for _ in control_socket.ask(daemon, what, path=inside, silence=SILENCE_SECONDS, **words):
        pass


@contextlib.contextmanager
def _bar() -> Iterator[Advance]:
    """A progress bar, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _reply: None
        return
    from ftpfs.commands import bars

    with bars.bar() as bar:
        task = bar.add_task("looking", total=None)

        def advance(reply: Reply) -> None:
            if reply["files"]:
                text = f"{reply['done']:,} of {reply['files']:,} files"
                bar.update(
                    task, description=text, completed=reply["come"], total=reply["bytes"] or None
                )

        yield advance
