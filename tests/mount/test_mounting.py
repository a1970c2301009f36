"""Mounting and unmounting: messages of failures, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import RemoteDir, StartServer
from tests.mount.conftest import MountDir, Mounted, MountServer, ftpfs, unmount
from tests.support.servers import FtpServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MountAttempt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def demo_server(open_folder: Path) -> Iterator[FtpServer]:
    """One pyftpdlib server: these tests are about the client side."""
    from tests.support import servers

    folder = open_folder / "mounting"
    with servers.start("pyftpdlib", folder / "root", folder / "work") as running:
        yield running


@pytest.fixture
def attempt(tmp_path: Path) -> MountAttempt:
    """`attempt(source, mountpoint=None, password=..., *options)`: run `ftpfs mount`."""

    def run(
        source: str, *options: str, mountpoint: Path | None = None, password: str = "wrong"
    ) -> subprocess.CompletedProcess[str]:
        if mountpoint is None:
            mountpoint = tmp_path / "here"
            mountpoint.mkdir(exist_ok=True)
        return ftpfs(
            "mount",
            source,
            str(mountpoint),
            *options,
            env={"FTPFS_PASSWORD": password, "XDG_STATE_HOME": str(tmp_path / "state")},
        )

    return run


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that it failed with one line that contains all of `words` and no password."""
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ftpfs: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.stderr


# Why it failed.


def test_unknown_host_is_named(attempt: MountAttempt) -> None:
    refused(attempt("no-such-host.invalid"), "no-such-host.invalid")


def test_refused_connection_is_reported(attempt: MountAttempt) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    refused(attempt(f"127.0.0.1:{port}"), f"127.0.0.1:{port}", "refused")


def test_mounting_fails_at_the_deadline_when_the_host_never_answers(attempt: MountAttempt) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        done = attempt(
            f"127.0.0.1:{silent.getsockname()[1]}", "-o", "connect_timeout=1,reply_timeout=1"
        )
        assert time.monotonic() - began < 20  # of 10 and 30 seconds without the options
    refused(done, "waiting for the greeting of 127.0.0.1:", "no answer after 1 s", "reply_timeout")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_mount_command_does_not_mount_later(
    tmp_path: Path, stop: signal.Signals
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        source = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "ftpfs", "mount", source, str(here)],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            stderr=subprocess.PIPE,
        ) as process:
            daemon, _ = silent.accept()
            with daemon:
                process.send_signal(stop)
                assert process.wait(10) == 128 + stop
                daemon.settimeout(10)
                assert daemon.recv(1) == b""  # the command does not wait for the greeting any more


# What Python calls in the parent after a fork: there it ignores exceptions.
INTERRUPTED_FORK = """
import os, signal, sys
stop = int(sys.argv.pop())
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), stop))
from ftpfs.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_mount_command_that_is_interrupted_at_its_fork_ends(
    tmp_path: Path, stop: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED_FORK, "mount", source, tmp_path, str(int(stop))],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path.with_name("state"))},
            timeout=15,
        )
    assert done.returncode in (128 + stop, -stop)


def test_wrong_password_is_reported_without_showing_it(
    attempt: MountAttempt, demo_server: FtpServer
) -> None:
    done = attempt(f"{demo_server.user}@127.0.0.1:{demo_server.port}", password="very-secret-word")
    refused(done, "530")
    assert "very-secret-word" not in done.stderr


def test_missing_folder_of_the_server_is_named(
    attempt: MountAttempt, demo_server: FtpServer
) -> None:
    source = f"ftp://{demo_server.user}@127.0.0.1:{demo_server.port}/not/there"
    refused(attempt(source, password=demo_server.password), "/not/there", "no such folder")


def test_server_without_tls_is_not_used_in_clear(
    attempt: MountAttempt, demo_server: FtpServer
) -> None:
    before = len(demo_server.log_text())
    source = f"ftpes://{demo_server.user}@127.0.0.1:{demo_server.port}"
    refused(attempt(source, password=demo_server.password), "TLS")
    assert "logged in" not in demo_server.log_text()[before:]


def test_mountpoint_that_is_missing_full_or_no_folder_is_refused(
    attempt: MountAttempt, demo_server: FtpServer, tmp_path: Path
) -> None:
    source = f"{demo_server.user}@127.0.0.1:{demo_server.port}"
    refused(attempt(source, mountpoint=tmp_path / "missing"), "missing", "no such directory")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused(attempt(source, mountpoint=tmp_path / "full"), "not empty")
    refused(attempt(source, mountpoint=tmp_path / "full" / "file"), "not a directory")


def test_second_mount_at_the_same_place_is_refused(
    mount_server: MountServer, demo_server: FtpServer
) -> None:
    mounted = mount_server(demo_server, demo_server.root)
    done = ftpfs(
        "mount",
        f"{demo_server.user}@127.0.0.1:{demo_server.port}",
        str(mounted.path),
        env={"FTPFS_PASSWORD": demo_server.password},
    )
    refused(done, "mounted there already")


def test_missing_fuse_device_is_named_with_the_cure(
    attempt: MountAttempt, demo_server: FtpServer, tmp_path: Path
) -> None:
    # A separate mount namespace without /dev/fuse.
    here = tmp_path / "here"
    here.mkdir()
    script = (
        f"mount --bind {tmp_path} /dev/shm && mount -t tmpfs none /dev && "
        f"exec {sys.executable} -m ftpfs mount 127.0.0.1:{demo_server.port} {here}"
    )
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    refused(done, "/dev/fuse", "modprobe fuse")


def test_umount_of_another_file_system_is_refused(tmp_path: Path) -> None:
    refused(ftpfs("umount", str(tmp_path)), "nothing of ftpfs")


def test_umount_of_a_busy_mount_says_how_to_find_the_program(
    mount_server: MountServer, demo_server: FtpServer
) -> None:
    (demo_server.root / "file").write_text("x")
    mounted = mount_server(demo_server, demo_server.root)
    with open(mounted.path / "file"):
        refused(ftpfs("umount", str(mounted.path)), "busy", "fuser")
    mounted.unmount()


# Leaving.


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_foreground_mount_logs_to_stderr_and_ends_cleanly_on_a_signal(
    demo_server: FtpServer, tmp_path: Path, fuse_binding: str, stop: signal.Signals
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = [
        *(sys.executable, "-m", "ftpfs", "mount", "--foreground", "--binding", fuse_binding),
        *(f"{demo_server.user}@127.0.0.1:{demo_server.port}", str(here)),
    ]
    with subprocess.Popen(
        command,
        env={
            **os.environ,
            "FTPFS_PASSWORD": demo_server.password,
            "XDG_STATE_HOME": str(tmp_path / "state"),
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: os.path.ismount(here))
        (here / f"written-{fuse_binding}").write_text("x")
        process.send_signal(stop)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 0, said
    assert not os.path.ismount(here)
    assert f"mounted ftp://{demo_server.user}@127.0.0.1" in said
    assert "unmounted" in said
    assert demo_server.password not in said
    assert (demo_server.root / f"written-{fuse_binding}").read_text() == "x"


def test_nothing_is_left_behind_after_unmounting(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.path / "a").write_bytes(b"x" * 300_000)
    with open(mounted.path / "a", "r+b") as file:
        file.seek(1000)
        file.write(b"y")
    os.unlink(mounted.path / "a")
    mounted.unmount()
    assert os.listdir(mounted.disk) == []
    spools = list((tmp_path / "state").rglob("*.spool"))
    assert spools == []


@dataclass(frozen=True)
class Unprivileged:
    """The test servers' user: no privileges, no HOME; a folder of its own, and `run`."""

    folder: Path
    user: str  # a command that runs another one as this user
    program: str  # ftpfs, as he can run it
    environment: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script as that user, in a mount namespace where all may open /dev/fuse.

        udev opens the device to all users; in a container it may be closed.
        """
        outer = f"""
            mknod {self.folder}/fuse c 10 229; chmod 666 {self.folder}/fuse
            mount --bind {self.folder}/fuse /dev/fuse
            {script}
        """
        return subprocess.run(
            ["unshare", "-m", "/bin/sh", "-ec", outer],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def unprivileged(demo_server: FtpServer) -> Iterator[Unprivileged]:
    from tests.support import servers

    (demo_server.root / "for all").write_text("readable")
    folder = Path(tempfile.mkdtemp(prefix="ftpfs-user-"))
    (folder / "here").mkdir()
    for path in (folder, folder / "here"):
        shutil.chown(path, servers.USER)
    environment = {
        "PATH": os.environ["PATH"],
        "FTPFS_PASSWORD": demo_server.password,
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    user = f"setpriv --reuid={servers.USER} --regid=nogroup --clear-groups"
    program = f"{sys.executable} -m ftpfs"
    if subprocess.run([*user.split(), *program.split(), "--version"], check=False).returncode:
        # The interpreter lies in a folder that only root may enter: take the system's own.
        program = _system_python(environment)
    yield Unprivileged(folder, user, program, environment)
    shutil.rmtree(folder, ignore_errors=True)


def test_user_without_root_mounts_with_fusermount(
    demo_server: FtpServer, unprivileged: Unprivileged, fuse_binding: str
) -> None:
    folder, user, program = unprivileged.folder, unprivileged.user, unprivileged.program
    source = f"{demo_server.user}@127.0.0.1:{demo_server.port}"
    done = unprivileged.run(f"""
        {user} {program} mount --binding {fuse_binding} {source} {folder}/here
        {user} cat "{folder}/here/for all"
        ! ls {folder}/here  # without allow_other not even root may look in
        {user} {program} umount {folder}/here
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "readable"
    assert "Permission denied" in done.stderr


def test_two_users_mount_the_same_server_side_by_side(
    demo_server: FtpServer, unprivileged: Unprivileged
) -> None:
    """Each user sees, asks and unmounts only their own mount."""
    folder, user, program = unprivileged.folder, unprivileged.user, unprivileged.program
    source = f"{demo_server.user}@127.0.0.1:{demo_server.port}"
    done = unprivileged.run(f"""
        mkdir {folder}/roots
        root="env XDG_STATE_HOME={folder}/roots-state {program}"
        {user} {program} mount {source} {folder}/here
        $root mount {source} {folder}/roots
        {user} sh -c "echo his > {folder}/here/his"
        echo mine > {folder}/roots/mine
        echo "-- his"; {user} {program} status | grep /
        echo "-- root's"; $root status | grep /
        echo "-- not his"
        {user} {program} umount {folder}/roots 2>&1 || echo refused
        {user} cat {folder}/roots/mine 2>&1 || echo closed
        {user} {program} umount {folder}/here
        cat {folder}/roots/mine
        $root umount {folder}/roots
    """)
    assert done.returncode == 0, done.stdout + done.stderr
    _, his, roots, rest = re.split(r"^-- .*$", done.stdout, flags=re.MULTILINE)
    assert f"{folder}/here" in his
    assert f"{folder}/roots\n" not in his
    assert f"{folder}/roots\n" in roots
    assert f"{folder}/here" not in roots
    assert "refused" in rest
    assert "closed" in rest
    assert rest.endswith("mine\n")
    assert (demo_server.root / "his").read_text() == "his\n"
    assert (demo_server.root / "mine").read_text() == "mine\n"


def _system_python(environment: dict[str, str]) -> str:
    """A command line for ftpfs that any user may run, with the libraries installed here."""
    import click

    import ftpfs

    folder = Path(tempfile.mkdtemp(prefix="ftpfs-python-"))
    folder.chmod(0o755)
    site = Path(click.__file__).parents[1]
    shutil.copytree(site, folder / "site", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(Path(ftpfs.__file__).parent, folder / "site" / "ftpfs", dirs_exist_ok=True)
    environment["PYTHONPATH"] = str(folder / "site")
    return "/usr/bin/python3 -m ftpfs"


def test_several_mounts_side_by_side_do_not_mix(remote_dir: RemoteDir, mount_dir: MountDir) -> None:
    mounts = [mount_dir() for _ in range(3)]
    for number, mounted in enumerate(mounts):
        (mounted.path / f"f{number}").write_text(str(number))
    assert sorted(os.listdir(remote_dir.disk)) == ["f0", "f1", "f2"]
    unmount(mounts[0].path)
    assert (mounts[1].path / "f1").read_text() == "1"


# The demo, and an idle server.


def test_demo_runs_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftpfs", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("$ ls -l", "$ cat", "cp", "sed -i", "mv", "rm", "$ df"):
        assert shown in done.stdout
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_mount_reconnects_after_an_idle_server_hung_up(
    start_server: StartServer, mount_server: MountServer
) -> None:
    from tests.support.servers import Options

    server = start_server("vsftpd", options=Options(idle_timeout=1))
    (server.root / "f").write_text("content")
    mounted = mount_server(server, server.root)
    assert os.listdir(mounted.path) == ["f"]
    time.sleep(2.5)
    assert (mounted.path / "f").read_text() == "content"
    time.sleep(2.5)
    (mounted.path / "g").write_text("new")
    assert (server.root / "g").read_text() == "new"


def test_symbolic_link_in_the_place_of_the_spool_is_refused(
    remote_dir: RemoteDir, mount_server: MountServer, tmp_path: Path
) -> None:
    shared, target = tmp_path / "shared", tmp_path / "target"
    shared.mkdir()
    shared.chmod(0o1777)
    target.mkdir()
    target.chmod(0o755)

    def mount() -> Mounted:
        server = remote_dir.server
        return mount_server(
            server, remote_dir.disk, path=remote_dir.path, options=f"spool_dir={shared}"
        )

    mounted = mount()
    (name,) = os.listdir(shared)
    mounted.unmount()
    until(lambda: not os.listdir(shared))
    (shared / name).symlink_to(target)
    with pytest.raises(AssertionError, match="symbolic link"):
        mount()
    assert os.listdir(target) == []
    assert target.stat().st_mode & 0o777 == 0o755
