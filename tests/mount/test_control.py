"""A mount is asked and told things, from outside and while it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs
from tests.support import servers
from tests.support.servers import FtpServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `mount_server` gives to its daemons, for the commands that look for them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def sockets(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "state" / "ftpfs" / "control")


def status_of(mounted: Mounted, code: int = 0) -> dict[str, Any]:
    done = ftpfs("status", "--json", str(mounted.path))
    assert done.returncode == code, done.stderr
    (only,) = json.loads(done.stdout)
    assert isinstance(only, dict)
    return only


def test_status_tells_what_a_mount_did(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.disk / "big").write_bytes(os.urandom(1_000_000))
    assert (mounted.path / "big").read_bytes() == (mounted.disk / "big").read_bytes()
    told = status_of(mounted)
    assert told["mountpoint"] == str(mounted.path)
    assert told["source"].startswith(f"ftp://{mounted.server.user}@127.0.0.1")
    assert (told["state"], told["trouble"]) == ("mounted", None)
    assert told["cache"]["used"] == told["cache"]["downloaded"] == 1_000_000
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


def test_a_daemon_that_was_killed_is_told_of_and_its_socket_taken_away(
    mounted: Mounted, tmp_path: Path
) -> None:
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


def test_what_others_changed_shows_after_forget(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="attr_timeout=0")
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


def test_a_path_outside_every_mount_is_refused(tmp_path: Path) -> None:
    for command in ("sync", "forget"):
        done = ftpfs(command, str(tmp_path))
        assert done.returncode == 1
        assert "not in anything that ftpfs has mounted" in done.stderr


def test_a_mountpoint_may_be_named_by_a_link_and_have_blanks_in_it(
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


def test_a_lazy_unmount_lets_who_uses_it_finish(mounted: Mounted, tmp_path: Path) -> None:
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
