"""Integration with the system: fstab, mount(8), systemd, recovery from a crash, named servers."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import MountServer, _daemons, ftpfs, unmount
from tests.support import servers
from tests.support.servers import FtpServer
from tests.support.waiting import until, until_gone

pytestmark = pytest.mark.mount

# Words in fstab that are meant for other programs.
FOREIGN = "defaults,_netdev,nofail,noauto,user,x-systemd.automount,comment=a,x-gvfs-show,relatime"
SCRIPTS = sysconfig.get_path("scripts")


@pytest.fixture(scope="module")
def server(open_folder: Path) -> Iterator[FtpServer]:
    folder = open_folder / "system"
    with servers.start("pyftpdlib", folder / "root", folder / "work") as running:
        script = running.root / "script"
        script.write_text("#!/bin/sh\necho ran\n")
        script.chmod(0o755)
        yield running


@pytest.fixture
def boot(server: FtpServer, tmp_path: Path) -> Callable[[str, str], str]:
    """`boot(fstab, script)`: run `script` where /etc/fstab and /sbin are as after an installation.

    In a mount namespace, by a shell with an empty environment: no HOME, no PATH. `{source}`,
    `{here}` and `{words}` (options that log in) are filled in. The helpers are those that
    `ftpfs install-helper` makes.
    """
    here, sbin, real = tmp_path / "here", tmp_path / "sbin", tmp_path / "real-sbin"
    for folder in (here, sbin, real):
        folder.mkdir()
    for name in os.listdir("/sbin"):
        (sbin / name).symlink_to(real / name)
    assert ftpfs("install-helper", "--folder", str(sbin)).returncode == 0
    password = tmp_path / "password"
    password.write_text(server.password)
    password.chmod(0o600)
    facts = {
        "source": f"{server.user}@127.0.0.1:{server.port}",
        "here": str(here),
        "words": f"password_file={password},log_file={tmp_path}/log,spool_dir={tmp_path}/spool",
    }

    def run(fstab: str, script: str) -> str:
        (tmp_path / "fstab").write_text(fstab.format(**facts))
        outer = f"""
            mount --bind {tmp_path}/fstab /etc/fstab
            mount --bind /sbin {real}
            mount --bind {sbin} /sbin
            exec /usr/bin/env -i /bin/sh -ec '{script.format(**facts)}'
        """
        done = subprocess.run(
            ["unshare", "-m", "/bin/sh", "-ec", outer],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        until_gone(lambda: _daemons(str(here)))
        return done.stdout

    return run


@pytest.mark.parametrize("kind", ["ftpfs", "fuse.ftpfs"])
def test_line_of_fstab_mounts_with_an_empty_environment(
    boot: Callable[[str, str], str], server: FtpServer, kind: str
) -> None:
    said = boot(
        f"{{source}} {{here}} {kind} {FOREIGN},{{words}},list_ttl=5 0 0\n",
        """
        /bin/mount {here}
        /bin/cat {here}/script
        echo new > {here}/written
        /bin/grep " {here} " /proc/self/mounts
        /bin/umount {here}
        """,
    )
    assert "echo ran" in said
    assert f"{server.user}@127.0.0.1" in said
    assert " fuse.ftpfs " in said
    # mount(8) adds them for `user`.
    assert "nosuid,nodev,noexec" in said
    assert (server.root / "written").read_text() == "new\n"


def test_mount_a_mounts_the_line_of_fstab(boot: Callable[[str, str], str]) -> None:
    line = "{source} {here} ftpfs _netdev,{words} 0 0\n"
    said = boot(line, "/bin/mount -a -t ftpfs; /bin/cat {here}/script; /bin/umount {here}")
    assert "echo ran" in said


def test_kernel_gets_exec_dev_and_suid(boot: Callable[[str, str], str]) -> None:
    # mount(8) keeps `suid` and `dev` to itself: only `ftpfs mount` can ask for them.
    script = f"""
        /bin/mount -t ftpfs {{source}} {{here}} -o {{words}}
        {{here}}/script
        /bin/grep " {{here}} " /proc/self/mounts; /bin/umount {{here}}
        /bin/mount -t ftpfs {{source}} {{here}} -o {{words}},noexec,ro
        {{here}}/script 2>&1 || echo refused
        /bin/grep " {{here}} " /proc/self/mounts; /bin/umount {{here}}
        {SCRIPTS}/ftpfs mount {{source}} {{here}} -o {{words}},suid,dev
        /bin/grep " {{here}} " /proc/self/mounts; /bin/umount {{here}}
    """
    lines = boot("", script).splitlines()
    assert lines[0] == "ran"
    plain, closed, open_ = (line for line in lines if " fuse.ftpfs " in line)
    assert "rw,nosuid,nodev" in plain
    assert "noexec" not in plain
    assert "refused" in lines
    assert "ro,nosuid,nodev,noexec" in closed
    assert "nosuid" not in open_
    assert "nodev" not in open_


def test_mount_fuse_finds_ftpfs_without_a_helper_and_adds_no_suid(
    boot: Callable[[str, str], str],
) -> None:
    script = f"""
        /bin/rm /sbin/mount.fuse.ftpfs
        /bin/mount -t tmpfs none /usr/local/bin
        /bin/ln -s {SCRIPTS}/ftpfs /usr/local/bin/ftpfs
        /bin/mount -t fuse.ftpfs {{source}} {{here}} -o {{words}}
        /bin/grep " {{here}} " /proc/self/mounts
        /bin/umount {{here}}
    """
    assert "nosuid,nodev" in boot("", script)


def test_failed_mount_says_why_and_exits_as_mount_expects(
    boot: Callable[[str, str], str],
) -> None:
    script = """
        /bin/mount -t ftpfs {source} {here} -o {words},no_such=1 2>&1 || echo "code $?"
        /bin/mount -t ftpfs 127.0.0.1:1 {here} 2>&1 || echo "code $?"
        /bin/mount -f -t ftpfs {source} {here} && echo fake
    """
    lines = boot("", script).splitlines()
    assert "no option no_such" in lines[0]
    assert lines[1] == "code 1"
    assert "refused" in lines[2]
    assert lines[3:] == ["code 32", "fake"]


# systemd.


def test_systemd_is_notified_when_the_mount_answers_and_when_it_stops(
    server: FtpServer, tmp_path: Path, fuse_binding: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "ftpfs-password").write_text(server.password)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "ftpfs", "mount", "--foreground"),
                *("--binding", fuse_binding),
                *(f"{server.user}@127.0.0.1:{server.port}", str(here)),
            ],
            env={
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
                "XDG_STATE_HOME": str(tmp_path / "state"),
            },
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            ready = systemd.recv(1000).decode()
            assert (here / "script").exists()
            process.send_signal(signal.SIGTERM)
            stopping = systemd.recv(1000).decode()
            said = process.communicate(timeout=20)[1]
    assert process.returncode == 0, said
    assert ready.startswith("READY=1\nSTATUS=")
    assert stopping.startswith("STOPPING=1\n")
    assert server.password not in ready + said


def test_systemd_shows_what_waits_until_it_is_sent(
    server: FtpServer, mount_server: MountServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        mounted = mount_server(server, server.root, options="limit_up=50K")
        quiet = systemd.recv(1000).decode().removeprefix("READY=1\n")
        # Ten seconds of sending: longer than the housekeeper's interval.
        (mounted.path / "slow").write_bytes(bytes(500_000))
        shown = systemd.recv(1000).decode()
        assert shown.startswith(f"{quiet}: 1 to go, ")
        while shown != quiet:
            shown = systemd.recv(1000).decode()
    assert (server.root / "slow").stat().st_size == 500_000


def error_of(path: Path) -> int | None:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno
    return None


def test_mount_whose_daemon_was_killed_is_replaced(
    server: FtpServer, mount_server: MountServer, tmp_path: Path, fuse_binding: str
) -> None:
    mounted = mount_server(server, server.root, binding=fuse_binding)
    (pid,) = _daemons(str(mounted.path))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not servers.running(pid))
    # The first call may get ECONNABORTED.
    until(lambda: error_of(mounted.path) == errno.ENOTCONN)
    done = ftpfs(
        "mount",
        f"{server.user}@127.0.0.1:{server.port}",
        str(mounted.path),
        env={"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    assert done.returncode == 0, done.stderr
    assert (mounted.path / "script").exists()
    lines = Path("/proc/self/mounts").read_text().splitlines()
    assert sum(f" {mounted.path} " in line for line in lines) == 1


# Named servers.


def test_named_server_is_mounted_and_listed_by_its_name(server: FtpServer, tmp_path: Path) -> None:
    (server.root / "sub").mkdir(exist_ok=True)
    (server.root / "sub" / "inner").write_text("x")
    (tmp_path / "password").write_text(server.password)
    (tmp_path / "password").chmod(0o600)
    file = tmp_path / "my.toml"
    file.write_text(
        f"[servers.nas]\nurl = 'ftp://{server.user}@127.0.0.1:{server.port}'\n"
        f"password_file = '{tmp_path}/password'\nlog_file = '{tmp_path}/log'\nro = true\n"
    )
    done = ftpfs("ls", "--config", str(file), "nas/sub")
    assert (done.stdout, done.stderr) == ("inner\n", "")
    here = tmp_path / "here"
    here.mkdir()
    done = ftpfs("mount", "--config", str(file), "nas/sub", str(here))
    assert done.returncode == 0, done.stderr
    try:
        assert os.listdir(here) == ["inner"]
        with pytest.raises(OSError, match="Read-only"):
            (here / "new").touch()
    finally:
        unmount(here)
