"""Real mounts: `ftpfs mount` as a user runs it, for each server and each binding."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftpfs.daemon import control_socket
from tests.conftest import RemoteDir, skip_unless_available
from tests.mount.town import Town
from tests.support.relay import Relay
from tests.support.scripted_server import ScriptedServer
from tests.support.servers import FtpServer
from tests.support.waiting import until_gone

BINDINGS = ("fusepy", "mfusepy")


@dataclass(frozen=True)
class Mounted:
    """A folder of a server, mounted."""

    path: Path  # here
    disk_now: Path  # on the server's own disk, possibly not up to date yet
    log: Path
    server: FtpServer
    state: Path  # XDG_STATE_HOME of its daemon

    @property
    def disk(self) -> Path:
        """The same folder on the server's disk, once all that was closed is there (or failed)."""
        wait_until_sent(self.path)
        return self.disk_now

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def forget(self) -> None:
        """Send what `ftpfs forget` sends, without the second that a new process takes."""
        daemons = control_socket.daemons(str(self.path), self.state / "ftpfs" / "control")
        assert daemons
        for daemon in daemons:
            list(control_socket.ask(daemon, "forget", path="/"))

    def unmount(self) -> None:
        unmount(self.path)


def wait_until_sent(path: Path, timeout: float = 30) -> None:
    """Return when nothing at or below `path` (in a mount, or where one was) is on its way."""
    deadline = time.monotonic() + timeout
    while (state := _state(path)) not in (b"clean", b"failed"):
        assert time.monotonic() < deadline, f"{path} is still {state!r}"
        time.sleep(0.01)


def _state(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return os.getxattr(path, "user.ftpfs.state")
    # Unmounted: the daemon ends when it has sent everything.
    return b"left" if _daemons(str(path)) else b"clean"


def unmount(path: Path) -> None:
    done = ftpfs("umount", str(path))
    assert done.returncode == 0, done.stderr
    assert not os.path.ismount(path)


def ftpfs(
    *arguments: str,
    env: dict[str, str] | None = None,
    timeout: float = 60,
    under: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, `under` another command if told."""
    return subprocess.run(
        [*under, sys.executable, "-m", "ftpfs", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(params=BINDINGS, scope="session")
def fuse_binding(request: pytest.FixtureRequest) -> str:
    """Runs the test once with each FUSE binding."""
    return str(request.param)


LOG_LINES = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show in the report of a failed test how the log of each of its daemons ends."""
    report = yield
    if report.failed:
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        for log in sorted(folder.glob("mount*.log")) if folder else ():
            last = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((f"the end of {log.name}", "\n".join(last)))
    return report


MountServer = Callable[..., Mounted]


def as_server(server: ScriptedServer | Relay) -> FtpServer:
    """For `MountServer`: of a server it reads the address and the login, which these have, too."""
    return server  # type: ignore[return-value]  # the rest of FtpServer is not asked for


@pytest.fixture
def mount_server(tmp_path: Path, far: bool) -> Iterator[MountServer]:
    """`mount_server(server, disk, path="/", scheme="ftp", port=None, binding=..., options=...)`.

    What is mounted is unmounted after the test, and the daemon has to end within seconds.
    """
    mounted: list[Path] = []
    state = tmp_path / "state"

    def mount(
        server: FtpServer,
        disk: Path,
        *,
        path: str = "/",
        scheme: str = "ftp",
        host: str = "",
        port: int | None = None,
        binding: str = "auto",
        options: str = "",
        under: tuple[str, ...] = (),
    ) -> Mounted:
        here = tmp_path / f"mnt{len(mounted)}"
        here.mkdir()
        log = tmp_path / f"mount{len(mounted)}.log"
        words = f"binding={binding},log_file={log},log_level=debug"
        if far:
            words += ",quirk=round_trip=20"
        done = ftpfs(
            "mount",
            f"{scheme}://{server.user}@{host or server.host}:{port or server.port}/{path}",
            str(here),
            "-o",
            f"{words},{options}" if options else words,
            env={
                "FTPFS_PASSWORD": server.password,
                "XDG_STATE_HOME": str(state),
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
            },
            under=under,
        )
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
        mounted.append(here)
        return Mounted(here, disk, log, server, state)

    yield mount
    for here in mounted:
        # Unmount without a Python process: `ftpfs umount` has tests of its own.
        for command in (["umount"], ["umount", "-l"]):
            if os.path.ismount(here):
                subprocess.run([*command, str(here)], check=False, capture_output=True)
    _wait_for_daemons(tmp_path)
    for log in tmp_path.glob("mount*.log"):
        assert "lock order: " not in log.read_text(errors="replace")


@pytest.fixture
def town(mount_server: MountServer, tmp_path: Path) -> Iterator[Town]:
    """A server that goes away and comes back. Its mounts have their store in tmp_path/store."""
    skip_unless_available("vsftpd")
    # Not in pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root, work = Path(place) / "root", Path(place) / "work"
        with Town(root, work, tmp_path / "store", mount_server) as town:
            yield town


def _wait_for_daemons(tmp_path: Path) -> None:
    """Check that no process of a mount is left: one that does not end leaks a thread or a wait."""
    until_gone(lambda: _daemons(str(tmp_path)))


def daemons_of(mounted: Mounted) -> list[int]:
    """The processes that serve this mount, also after it was unmounted."""
    return _daemons(str(mounted.path))


def _daemons(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"ftpfs" in line and word.encode() in line:
                    found.append(int(entry.name))
    return found


MountDir = Callable[..., Mounted]


@pytest.fixture
def mount_dir(remote_dir: RemoteDir, mount_server: MountServer) -> MountDir:
    """`mount_dir(through=relay, binding=..., options=...)`: mount each server's fresh folder."""

    def mount(*, through: Relay | None = None, **words: str) -> Mounted:
        port = through.port if through else None
        return mount_server(
            remote_dir.server, remote_dir.disk, path=remote_dir.path, port=port, **words
        )

    return mount


@pytest.fixture
def mounted(fuse_binding: str, mount_dir: MountDir) -> Mounted:
    """A fresh, empty folder of each server, mounted with each binding."""
    return mount_dir(binding=fuse_binding)
