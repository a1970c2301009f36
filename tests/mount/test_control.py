"""Commands that talk to a running mount, also while it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs, wait_until_sent
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import FtpServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state folder of the daemons of `mount_server`, for commands that look for them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def sockets(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "state" / "ftpfs" / "control")


def status_of(mounted: Mounted, code: int = 0) -> dict[str, Any]:
    done = ftpfs("status", "--json", str(mounted.path))
    assert done.returncode == code, done.stderr
    (only,) = json.loads(done.stdout)
    assert isinstance(only, dict)
    return only


def test_status_shows_what_a_mount_did(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.disk / "big").write_bytes(os.urandom(1_000_000))
    assert (mounted.path / "big").read_bytes() == (mounted.disk / "big").read_bytes()
    told = status_of(mounted)
    assert told["mountpoint"] == str(mounted.path)
    assert told["source"].startswith(f"ftp://{mounted.server.user}@127.0.0.1")
    assert (told["state"], told["trouble"]) == ("mounted", None)
    assert told["cache"]["downloaded"] == 1_000_000
    assert 1_000_000 <= told["cache"]["used"] < 1_001_000  # what blocks take, too
    assert told["connections"]["idle"] + told["connections"]["busy"] >= 1
    before = told["cache"]["hits"]
    with open(mounted.path / "big", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read()
    assert status_of(mounted)["cache"]["hits"] > before
    shown = ftpfs("status", str(mounted.path))
    assert shown.returncode == 0
    assert "1.0 MB" in shown.stdout
    assert mounted.server.password not in shown.stdout
    mounted.unmount()
    assert sockets(tmp_path) == []
    assert str(mounted.path) not in ftpfs("status").stdout


def test_killed_daemon_is_reported_and_its_socket_removed(mounted: Mounted, tmp_path: Path) -> None:
    pid = status_of(mounted)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not servers.running(pid))
    assert len(sockets(tmp_path)) == 1
    told = status_of(mounted, code=1)
    assert "died" in told["trouble"]
    assert sockets(tmp_path) == []
    shown = ftpfs("status").stdout
    assert "its daemon died" in shown[shown.index(str(mounted.path)) :]
    refused = ftpfs("sync", str(mounted.path))
    assert refused.returncode == 1
    assert "its daemon died" in refused.stderr
    mounted.unmount()
    assert str(mounted.path) not in ftpfs("status").stdout


@pytest.mark.parametrize("elsewhere", [False, True], ids=["spool", "spool_dir"])
def test_umount_and_status_report_files_that_a_killed_daemon_left(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path, elsewhere: bool
) -> None:
    (tmp_path / "else where").mkdir()
    options = f"spool_dir={tmp_path / 'else where'}" if elsewhere else ""
    mounted = mount_dir(through=relay, options=options)
    (mounted.path / "first").write_bytes(b"the folder takes files")
    wait_until_sent(mounted.path)
    relay.stall_data("up", after=0, times=None)
    for number in range(6):
        (mounted.path / f"f{number}").write_bytes(b"closed")
    pid = status_of(mounted)["pid"]
    os.kill(pid, signal.SIGKILL)

    until(lambda: not servers.running(pid))
    shown = ftpfs("status")
    assert shown.returncode == 1
    assert "6 files wait in" in shown.stdout
    left = ftpfs("umount", str(mounted.path))
    assert left.returncode == 1
    assert "6 files wait in" in left.stderr
    assert not os.path.ismount(mounted.path)

    told = [each for each in json.loads(ftpfs("status", "--json").stdout) if each["waiting"]]
    assert [(each["mountpoint"], each["trouble"]) for each in told] == [(None, "not mounted")]
    (waiting,) = told[0]["waiting"]
    assert waiting["files"] == 6
    assert Path(waiting["folder"]).is_relative_to(tmp_path)
    relay.clear()
    command = shlex.split(waiting["cure"])
    assert command[0] == "ftpfs"
    sent = ftpfs(*command[1:], env={"FTPFS_PASSWORD": remote_dir.server.password})
    assert sent.returncode == 0, sent.stderr
    assert len(list(remote_dir.disk.glob("f?"))) == 6
    assert waiting["folder"] not in ftpfs("status").stdout


def test_changes_by_others_show_after_forget(mount_dir: MountDir) -> None:
    mounted = mount_dir()
    (mounted.disk / "sub").mkdir()
    (mounted.disk / "sub" / "file").write_text("old")
    assert os.listdir(mounted.path / "sub") == ["file"]
    assert (mounted.path / "sub" / "file").read_text() == "old"
    (mounted.disk / "sub" / "file").write_text("newer")
    (mounted.disk / "sub" / "more").touch()
    assert os.listdir(mounted.path / "sub") == ["file"]
    for path in (mounted.path / "sub", mounted.path):
        done = ftpfs("forget", str(path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert sorted(os.listdir(mounted.path / "sub")) == ["file", "more"]
        assert (mounted.path / "sub" / "file").read_text() == "newer"


def test_path_outside_every_mount_is_refused(tmp_path: Path) -> None:
    for command in ("sync", "forget"):
        done = ftpfs(command, str(tmp_path))
        assert done.returncode == 1
        assert "not in a mount of ftpfs" in done.stderr


def test_mountpoint_is_found_through_a_link_and_with_blanks_in_it(
    remote_dir: RemoteDir, tmp_path: Path
) -> None:
    server: FtpServer = remote_dir.server
    here = tmp_path / "with blank\\and more"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    source = f"ftp://{server.user}@127.0.0.1:{server.port}/{remote_dir.path}"
    done = ftpfs(
        *("mount", source, str(tmp_path / "link")), env={"FTPFS_PASSWORD": server.password}
    )
    assert done.returncode == 0, done.stderr
    try:
        assert ftpfs("sync", str(tmp_path / "link" / "x")).returncode == 0
        (told,) = json.loads(ftpfs("status", "--json", str(tmp_path / "link")).stdout)
        assert told["mountpoint"] == str(here)
    finally:
        done = ftpfs("umount", str(tmp_path / "link"))
        if done.returncode:
            subprocess.run(["umount", "-l", str(here)], check=False)
    assert done.returncode == 0, done.stderr


def test_lazy_unmount_lets_programs_finish(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.disk / "file").write_text("content")
    pid = status_of(mounted)["pid"]
    with open(mounted.path / "file") as file:
        refused = ftpfs("umount", str(mounted.path))
        assert refused.returncode == 1
        assert "--lazy" in refused.stderr
        assert ftpfs("umount", "--lazy", str(mounted.path)).returncode == 0
        assert not os.path.ismount(mounted.path)
        assert file.read() == "content"
    until(lambda: not servers.running(pid))
    assert sockets(tmp_path) == []


def test_check_gives_monitors_a_line_and_an_exit_code(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path
) -> None:
    mounted = mount_dir(through=relay)
    (mounted.path / "first").write_bytes(b"the folder takes files")
    wait_until_sent(mounted.path)
    done = ftpfs("status", "--check", str(mounted.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"FTPFS OK: {mounted.path}: nothing waits | files=0 failed=0 ")
    assert done.stdout.count("\n") == 1
    for place in (str(tmp_path), str(tmp_path / "none")):
        done = ftpfs("status", "--check", place)
        assert done.returncode == 2, done.stdout
        assert done.stdout.startswith(f"FTPFS CRITICAL: {place}: ")

    relay.stall_data("up", after=0, times=None)
    (mounted.path / "second").write_bytes(b"closed")
    pid = status_of(mounted)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not servers.running(pid))
    done = ftpfs("status", "--check", str(mounted.path))
    assert done.returncode == 2
    assert "its daemon died" in done.stdout
    assert ftpfs("umount", str(mounted.path)).returncode == 1  # what waits is told
    done = ftpfs("status", "--check")
    assert done.returncode == 2
    assert "1 file" in done.stdout
    assert " | files=1 " in done.stdout


def test_queue_lists_a_refused_file_and_sends_it_after_retry(mounted: Mounted) -> None:
    (mounted.path / "in").mkdir()
    (mounted.path / "in" / "first").write_bytes(b"the folder takes files")
    wait_until_sent(mounted.path)
    assert ftpfs("queue", "list", str(mounted.path)).stdout == "nothing waits\n"
    (mounted.disk / "in").chmod(0o555)
    (mounted.path / "in" / "second").write_bytes(b"refused")

    def listed() -> str:
        return ftpfs("queue", "list", str(mounted.path / "in")).stdout

    until(lambda: "failed" in listed())
    assert f"{mounted.path}/in/second" in listed()
    (mounted.disk / "in").chmod(0o755)
    done = ftpfs("queue", "retry", str(mounted.path / "in"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until(lambda: listed() == "nothing waits\n")
    assert (mounted.disk / "in" / "second").read_bytes() == b"refused"
