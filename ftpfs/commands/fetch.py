"""`ftpfs fetch`: brings files of a mount into its store.

Owns the walk through the folders and the progress bar. The daemon fetches each file
(`core.fetching`); a file that is stored already is found by its attribute.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from stat import S_ISDIR, S_ISREG
from threading import Lock

import click

from ftpfs.commands import arguments
from ftpfs.errors import FtpfsError, printable

# Files that are fetched at a time.
PARALLEL = 8
# A daemon may wait for its server for so long (s) before it tells more.
SILENCE_SECONDS = 300.0

# Called with the bytes that came, and the bytes that were found to be fetched.
Advance = Callable[[int, int], None]


@click.command()
@click.argument("paths", type=arguments.PlaceType(), required=True, nargs=-1)
def fetch(paths: tuple[str, ...]) -> int:
    """Bring PATHs in a mount, with all that is below them, onto this machine.

    The mount needs a store (cache_size). What was fetched can be read without
    the server until other files take its place. What is here already is not
    fetched again. Exits with 1 when something could not be fetched, and prints
    a line for each such file.
    """
    with _bar() as advance:
        complaints = _fetch_all(paths, advance)
    for line in complaints:
        click.echo(f"ftpfs: {printable(line)}", err=True)
    return 1 if complaints else 0


def _fetch_all(paths: tuple[str, ...], advance: Advance) -> list[str]:
    """Fetch everything. Returns a line for each failure."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    complaints: list[str] = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        running = []
        for path in paths:
            for file, size in _files(os.path.realpath(path), complaints):
                advance(0, size)
                running.append(pool.submit(_fetch_file, file, size, advance))
        for each in as_completed(running):
            if (complaint := each.result()) is not None:
                complaints.append(complaint)
    return complaints


def _files(path: str, complaints: list[str]) -> Iterator[tuple[str, int]]:
    """The files at and below `path`, with their sizes. Links are not followed."""
    try:
        found = os.lstat(path)
        if S_ISREG(found.st_mode):
            yield path, found.st_size
        elif S_ISDIR(found.st_mode):
            for name in sorted(os.listdir(path)):
                yield from _files(os.path.join(path, name), complaints)
    except OSError as error:
        complaints.append(f"{path}: {error.strerror or error}")


def _fetch_file(path: str, size: int, advance: Advance) -> str | None:
    """Fetch one file. Returns what went wrong, if something did."""
    from ftpfs.daemon import control_socket, mountpoints

    done = 0
    try:
        with contextlib.suppress(OSError):
            if os.getxattr(path, "user.ftpfs.stored") != b"remote":
                return None
        mountpoint, inside = mountpoints.holding(path)
        daemons = control_socket.daemons(mountpoint)
        if not daemons:
            return f"{path}: the daemon of this mount does not answer"
        replies = control_socket.ask(daemons[-1], "fetch", path=inside, silence=SILENCE_SECONDS)
        for reply in replies:
            come = int(reply["bytes"])
            advance(come - done, 0)
            done = come
    except (FtpfsError, OSError) as error:
        return f"{path}: {error}"
    finally:
        advance(size - done, 0)
    return None


@contextlib.contextmanager
def _bar() -> Iterator[Advance]:
    """A progress bar, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _come, _found: None
        return
    from ftpfs.commands import bars

    lock = Lock()
    with bars.bar() as bar:
        task = bar.add_task("fetching", total=0)
        total = 0

        def advance(come: int, found: int) -> None:
            nonlocal total
            with lock:
                total += found
                bar.update(task, advance=come, total=total)

        yield advance
