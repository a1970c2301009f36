"""The work of `ftpfs demo`: real commands on a sample server show what a mount does.

Owns the sample folder, the story, and the clean-up of mount, processes and files. It runs the
commands that it shows, as a user types them.

Threading: one thread. The server, the mount and the commands are processes of their own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from ftpfs.commands.embedded_server import running, this_program
from ftpfs.errors import FtpfsError

# A command of the demo that takes longer has hung.
_COMMAND_DEADLINE_SECONDS = 30.0

_README = """\
This folder lives on an FTP server.
Through the mount it is a folder like any other.
"""

# The server is mounted at `mnt` already. `server` is the folder that it serves, on its own disk.
_STORY = (
    ("The server's folder, mounted: any program can look around in it.", "ls -l mnt"),
    ("Read a file.", "cat mnt/README"),
    ("Copy a file out of the mount, and compare it with the server's own.",
     "cp mnt/photos/harbour.raw . && cmp harbour.raw server/photos/harbour.raw && ls -l *.raw"),
    ("Copy a file in. 'sync' returns when the server has it: here it is on the server's disk.",
     "echo 'milk, tea' > list && cp list mnt/ && sync mnt/list && cat server/list"),
    ("Edit it in place, and add a line at its end.",
     "sed -i 's/tea/coffee/' mnt/list && echo bread >> mnt/list && "
     "sync mnt/list && cat server/list"),
    ("Rename it into a new folder, and remove another file.",
     "mkdir mnt/notes && mv mnt/list mnt/notes/shopping && rm mnt/old.log && "
     "ls -l server server/notes"),
    ("The mount is a file system like others.", "df -h mnt"),
)  # fmt: skip


def run() -> None:
    """Show everything, and clean up. Raises FtpfsError if a part fails."""
    signal.signal(signal.SIGTERM, _terminate)
    with _workplace() as place, running(str(place / "server"), "--write") as url:
        stage = _Stage(place)
        stage.say(f"A server with a few files listens at {url} (its own process, this machine).")
        try:
            stage.show("Mount it.", f"ftpfs mount {url} mnt")
            for narration, command in _STORY:
                stage.show(narration, command)
            stage.show("Unmount: everything written is on the server now.", "ftpfs umount mnt")
        finally:
            _take_down(place / "mnt")
    stage.say("The server is stopped, the folders are gone: nothing is left behind.")


def _terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


class _Stage:
    """Runs commands and shows them."""

    def __init__(self, place: Path) -> None:
        program, environ = this_program()
        self._place = place
        # Spool, log and socket of the mount go into the workplace, which is deleted.
        private = {f"XDG_{kind}_HOME": str(place / "home") for kind in ("CACHE", "STATE", "DATA")}
        runtime = {"XDG_RUNTIME_DIR": str(place / "home")}
        self._environ = {**environ, **private, **runtime, "LC_ALL": "C.UTF-8"}
        # The `ftpfs` in the commands is this one, installed or not.
        self._prelude = f'ftpfs() {{ {shlex.join(program)} "$@"; }}\n'
        self._console = Console(soft_wrap=True, highlight=False, emoji=False)

    def say(self, words: str) -> None:
        self._console.print()
        self._console.print(Text(f"# {words}", style="cyan"))

    def show(self, narration: str, command: str) -> None:
        """Run a shell command in the workplace; print it and its output."""
        self.say(narration)
        self._console.print(Text(f"$ {command}", style="bold"))
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", self._prelude + command],
                cwd=self._place,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_COMMAND_DEADLINE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FtpfsError(f"the demo's {command!r} hangs") from None
        lines = done.stdout.splitlines()
        if done.returncode:
            reason = lines[-1].removeprefix("ftpfs: ") if lines else f"exit {done.returncode}"
            raise FtpfsError(f"the demo ends here: {reason}")
        for line in lines:
            self._console.print(Text(line))


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder with the server's files, an empty folder to mount at, and one for state."""
    place = Path(tempfile.mkdtemp(prefix="ftpfs-demo-"))
    try:
        for name in ("server/photos", "mnt", "home"):
            (place / name).mkdir(parents=True)
        (place / "server/README").write_text(_README)
        (place / "server/old.log").write_text("nothing of interest\n")
        (place / "server/photos/harbour.raw").write_bytes(os.urandom(3 << 20))
        yield place
    finally:
        # Never delete through a mount: that would delete the files on the server.
        if not _mounted(place / "mnt"):
            shutil.rmtree(place, ignore_errors=True)


def _take_down(mountpoint: Path) -> None:
    """Unmount, whatever state the demo is in."""
    for command in (["fusermount", "-u"], ["fusermount3", "-u"], ["umount"], ["umount", "-l"]):
        if not _mounted(mountpoint):
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*command, str(mountpoint)],
                capture_output=True,
                timeout=_COMMAND_DEADLINE_SECONDS,
                check=False,
            )
    if _mounted(mountpoint):
        raise FtpfsError(f"cannot unmount {mountpoint}: umount -l {mountpoint}, then remove it")


def _mounted(mountpoint: Path) -> bool:
    """Whether a file system is mounted there. Unlike os.path.ismount it knows dead mounts, too."""
    try:
        return os.stat(mountpoint).st_dev != os.stat(mountpoint.parent).st_dev
    except FileNotFoundError:
        return False
    except OSError:
        return True
