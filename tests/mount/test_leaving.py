"""Unmounting and ending while uploads are under way: what waits, what goes on, what is kept."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpfs.commands import mounts
from tests.conftest import RemoteDir
from tests.mount.conftest import MountServer, ftpfs
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import comes_true, until

pytestmark = pytest.mark.mount

SIZE = 1_000_000
SLOW = 1_000_000  # bytes a second, for each connection
# It is still being sent when the next command has started, even on a busy machine.
LARGE = 10 * SIZE


@pytest.fixture(params=["vsftpd"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """One server: these tests are about the client side."""
    kind: Kind = request.param
    return kind


class Leaving:
    """A mount over a slow network, with files in its queue."""

    def __init__(self, path: Path, disk: Path, relay: Relay, source: str, password: str) -> None:
        self.path = path
        self.disk = disk
        self.relay = relay
        self.source = source
        self.password = password
        self.files: dict[str, bytes] = {}
        self.pid = self.status()["pid"]

    def queue(self, count: int, size: int = SIZE) -> None:
        """Write so many files; all but the first are closed long before the server has them."""
        if not self.files:
            self.write("first", b"x")  # shows that the folder accepts files
        self.relay.data_rate = SLOW
        for number in range(count):
            self.write(f"f{number}", random.Random(number).randbytes(size))

    def write(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)
        self.files[name] = content

    def arrived(self) -> bool:
        """Whether every file is on the server's disk, byte for byte, and nothing else is."""
        return {each.name: each.read_bytes() for each in self.disk.iterdir()} == self.files

    def status(self) -> dict[str, Any]:
        (only,) = json.loads(ftpfs("status", "--json", str(self.path)).stdout)
        assert isinstance(only, dict)
        return only

    def has_ended(self, within: float = 30) -> bool:
        return comes_true(lambda: not servers.running(self.pid), within)

    def mount_again(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = ("mount", *options, self.source, str(self.path))
        return ftpfs(*command, env={"FTPFS_PASSWORD": self.password})

    def recover(self) -> subprocess.CompletedProcess[str]:
        return ftpfs("recover", self.source, env={"FTPFS_PASSWORD": self.password})

    def spooled(self) -> list[str]:
        state = Path(os.environ["XDG_STATE_HOME"])
        return [path.name for path in state.rglob("*.spool")]


Mount = Callable[..., Leaving]


@pytest.fixture
def mount(
    remote_dir: RemoteDir,
    relay: Relay,
    mount_server: MountServer,
    fuse_binding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Mount]:
    """`mount(options)`: a mount through the relay."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def made(options: str = "", **words: Any) -> Leaving:
        server = remote_dir.server
        mounted = mount_server(
            server,
            remote_dir.disk,
            path=remote_dir.path,
            port=relay.port,
            binding=fuse_binding,
            options=options,
            **words,
        )
        source = f"ftp://{server.user}@{server.host}:{relay.port}/{remote_dir.path}"
        return Leaving(mounted.path, remote_dir.disk, relay, source, server.password)

    yield made
    relay.data_rate = None


@pytest.fixture
def leaving(mount: Mount) -> Leaving:
    return mount()


def test_more_files_wait_than_a_process_may_usually_open(mount: Mount) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        leaving = mount()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    leaving.queue(0)
    leaving.relay.data_rate = 1000
    for number in range(150):
        leaving.write(f"f{number}", b"some content" * 100)
    assert leaving.status()["uploads"]["files"] > 128
    leaving.relay.data_rate = None
    assert ftpfs("umount", str(leaving.path)).returncode == 0
    assert leaving.arrived()


def test_more_files_than_descriptors_wait_for_a_stuck_server_and_arrive(
    mount: Mount,
) -> None:
    leaving = mount(under=("prlimit", "--nofile=256:256"))
    leaving.queue(0)
    leaving.relay.stall_data("up", after=0, times=None)
    for number in range(1000):
        leaving.write(f"f{number}", b"content of %d" % number)
    assert leaving.status()["uploads"]["files"] > 950
    assert len(os.listdir(f"/proc/{leaving.pid}/fd")) < 200
    for number in range(0, 1000, 100):
        assert (leaving.path / f"f{number}").read_bytes() == b"content of %d" % number
    leaving.relay.clear()
    leaving.relay.data_rate = None
    leaving.write("last", b"content")
    assert ftpfs("umount", str(leaving.path), timeout=150).returncode == 0
    assert leaving.arrived()


# ftpfs umount.


def test_umount_waits_until_the_server_has_everything(leaving: Leaving) -> None:
    leaving.queue(6)
    assert not leaving.arrived()
    done = ftpfs("umount", str(leaving.path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert leaving.arrived()
    assert leaving.has_ended()
    assert leaving.spooled() == []


def test_umount_shows_files_bytes_rate_and_time_left(leaving: Leaving) -> None:
    leaving.queue(6, 5 * SIZE)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ftpfs", "umount", str(leaving.path)],
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
    assert process.returncode == 0
    assert leaving.arrived()
    for word in ("uploading", "files", "MB", "MB/s", "0:00:0"):
        assert word in shown


def read_all(terminal: int) -> str:
    pieces = []
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(terminal, 1 << 16):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()


def test_ctrl_c_leaves_uploads_to_the_background(leaving: Leaving) -> None:
    leaving.queue(6, LARGE)
    with subprocess.Popen(
        [sys.executable, "-m", "ftpfs", "umount", str(leaving.path)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: not os.path.ismount(leaving.path))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert "left to the background" in said
    assert "Traceback" not in said
    told = leaving.status()
    assert (told["state"], told["pid"]) == ("leaving", leaving.pid)
    assert told["uploads"]["files"] > 0
    leaving.relay.data_rate = None
    assert leaving.has_ended()
    assert leaving.arrived()
    assert leaving.spooled() == []


def test_server_is_mounted_again_while_the_old_daemon_still_uploads(leaving: Leaving) -> None:
    leaving.queue(6, LARGE)
    assert ftpfs("umount", "--lazy", str(leaving.path)).returncode == 0
    again = leaving.mount_again()
    assert again.returncode == 0, again.stderr
    told = json.loads(ftpfs("status", "--json", str(leaving.path)).stdout)
    assert sorted(each["state"] for each in told) == ["leaving", "mounted"]
    leaving.write("second", b"y" * 100)
    leaving.relay.data_rate = None
    assert ftpfs("umount", str(leaving.path)).returncode == 0
    assert leaving.has_ended()
    assert leaving.arrived()


def test_umount_now_leaves_uploads_to_the_next_mount_or_recover(leaving: Leaving) -> None:
    leaving.queue(6, LARGE)
    done = ftpfs("umount", "--now", str(leaving.path))
    assert done.returncode == 1
    assert "for the next mount, or ftpfs recover" in done.stderr
    assert leaving.has_ended()
    assert leaving.spooled()
    leaving.relay.data_rate = None
    recovered = leaving.recover()
    assert (recovered.returncode, recovered.stdout) == (0, ""), recovered.stderr
    assert leaving.arrived()
    assert leaving.spooled() == []


def test_umount_stops_waiting_when_the_server_is_away(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving = mount("connect_timeout=1,reply_timeout=1,data_timeout=1")
    leaving.queue(3)
    leaving.relay.vanish()
    monkeypatch.setattr(mounts, "STUCK_SECONDS", 3.0)

    @contextlib.contextmanager
    def unseen() -> Iterator[mounts.Progress]:
        yield lambda _uploads: None

    (line,) = mounts.umount(str(leaving.path), unseen, now=False)
    assert "not on the server yet: 3 files" in line
    assert "daemon goes on trying" in line
    assert not os.path.ismount(leaving.path)
    leaving.relay.data_rate = None
    leaving.relay.come_back()
    assert leaving.has_ended(60)
    assert leaving.arrived()


def test_daemon_leaves_uploads_to_the_next_mount_when_its_server_stays_away(
    mount: Mount, tmp_path: Path
) -> None:
    leaving = mount("connect_timeout=1,reply_timeout=1,data_timeout=1,leave_after=2")
    leaving.queue(3)
    leaving.relay.vanish()
    time.sleep(4)  # counted from the unmount
    assert leaving.status()["uploads"]["files"] == 3
    subprocess.run(["umount", str(leaving.path)], check=True)
    assert leaving.has_ended(30)
    log = (tmp_path / "mount0.log").read_text()
    assert "3 files (3000000 bytes) are not on the server, and none moved for 2 s" in log
    assert len(leaving.spooled()) == 3
    leaving.relay.data_rate = None
    leaving.relay.come_back()
    assert leaving.recover().returncode == 0
    assert leaving.arrived()


def test_upload_waits_for_a_slow_server(mount: Mount) -> None:
    # What fits into socket buffers counts as sent: 4 MB and more.
    leaving = mount("leave_after=8")
    leaving.write("first", b"x")
    leaving.relay.data_rate = SLOW
    leaving.write("slow", random.Random(1).randbytes(20 * SIZE))
    subprocess.run(["umount", str(leaving.path)], check=True)
    assert not leaving.has_ended(9)
    assert leaving.has_ended(60)
    assert leaving.arrived()


# Other ways to go.


def test_daemon_finishes_uploads_after_a_plain_umount(leaving: Leaving) -> None:
    leaving.queue(6, LARGE)
    subprocess.run(["umount", str(leaving.path)], check=True)
    assert not leaving.arrived()
    leaving.relay.data_rate = None
    assert leaving.has_ended()
    assert leaving.arrived()
    assert leaving.spooled() == []


def test_daemon_uploads_during_the_grace_time_after_sigterm(mount: Mount) -> None:
    leaving = mount("grace=30")
    leaving.queue(4)
    os.kill(leaving.pid, signal.SIGTERM)
    assert leaving.has_ended(25)
    assert not os.path.ismount(leaving.path)
    assert leaving.arrived()


def test_uploads_are_left_to_the_next_mount_after_the_grace_time(mount: Mount) -> None:
    leaving = mount("grace=1")
    leaving.queue(4, LARGE)
    began = time.monotonic()
    os.kill(leaving.pid, signal.SIGTERM)
    assert leaving.has_ended(20)
    assert time.monotonic() - began > 0.9
    assert not leaving.arrived()
    leaving.relay.data_rate = None
    again = ftpfs(
        "mount", leaving.source, str(leaving.path), env={"FTPFS_PASSWORD": leaving.password}
    )
    assert again.returncode == 0, again.stderr
    assert ftpfs("sync", str(leaving.path)).returncode == 0
    assert ftpfs("umount", str(leaving.path)).returncode == 0
    assert leaving.arrived()
    assert leaving.spooled() == []


def test_daemon_in_the_background_ends_within_the_grace_time(mount: Mount) -> None:
    leaving = mount("grace=1")
    leaving.queue(4, LARGE)
    leaving.relay.data_rate = SLOW // 10
    subprocess.run(["umount", str(leaving.path)], check=True)
    until(lambda: leaving.status()["state"] == "leaving")
    os.kill(leaving.pid, signal.SIGTERM)
    assert leaving.has_ended(20)
    leaving.relay.data_rate = None
    assert leaving.recover().returncode == 0
    assert leaving.arrived()


def test_second_signal_ends_the_waiting(mount: Mount) -> None:
    leaving = mount("grace=60")
    leaving.queue(4, LARGE)
    leaving.relay.data_rate = SLOW // 10
    os.kill(leaving.pid, signal.SIGTERM)
    until(lambda: not os.path.ismount(leaving.path))
    assert not leaving.has_ended(1)
    os.kill(leaving.pid, signal.SIGTERM)
    assert leaving.has_ended(20)
    leaving.relay.data_rate = None
    assert leaving.recover().returncode == 0
    assert leaving.arrived()


def test_daemon_that_is_told_to_end_ends_though_an_upload_is_stuck(mount: Mount) -> None:
    leaving = mount("grace=1")
    leaving.queue(3, LARGE)
    leaving.relay.data_rate = SLOW // 100
    os.kill(leaving.pid, signal.SIGTERM)
    assert leaving.has_ended()
    leaving.relay.data_rate = None
    assert leaving.recover().returncode == 0
    assert leaving.arrived()
    assert leaving.spooled() == []


def test_recover_uploads_what_a_killed_daemon_left(leaving: Leaving) -> None:
    leaving.queue(4, LARGE)
    os.kill(leaving.pid, signal.SIGKILL)
    assert leaving.has_ended()
    assert not leaving.arrived()
    leaving.relay.data_rate = None
    assert leaving.recover().returncode == 0
    assert leaving.arrived()
    assert ftpfs("umount", str(leaving.path)).returncode == 0


def test_read_only_mount_sends_nothing_that_was_left_and_says_so(
    leaving: Leaving, tmp_path: Path
) -> None:
    leaving.queue(4, LARGE)
    os.kill(leaving.pid, signal.SIGKILL)
    assert leaving.has_ended()
    leaving.relay.data_rate = None
    waiting = len(leaving.spooled())
    log = tmp_path / "read-only.log"
    assert leaving.mount_again("-o", f"ro,log_file={log}").returncode == 0
    words = f"not sent by this read-only mount: {waiting} files"
    assert words in log.read_text()
    assert words in leaving.status()["note"]
    assert words in ftpfs("status", str(leaving.path)).stdout
    begun = len(leaving.relay.commands)
    assert len(os.listdir(leaving.path)) < len(leaving.files)
    assert not {"STOR", "APPE", "RNFR", "DELE"} & {c.verb for c in leaving.relay.commands[begun:]}
    assert len(leaving.spooled()) == waiting
    # It blocks nobody: a mount that may write sends the file, and the report ends.
    assert leaving.recover().returncode == 0
    assert leaving.arrived()
    assert leaving.status()["note"] == ""
    assert ftpfs("umount", str(leaving.path)).returncode == 0


# ftpfs sync.


def test_sync_waits_until_everything_is_sent(leaving: Leaving) -> None:
    leaving.queue(6)
    done = ftpfs("sync", str(leaving.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert leaving.arrived()
    uploads = leaving.status()["uploads"]
    assert (uploads["files"], uploads["uploaded_files"]) == (0, 7)
    assert uploads["uploaded_bytes"] == sum(map(len, leaving.files.values()))


def test_sync_of_a_folder_does_not_wait_for_others(leaving: Leaving) -> None:
    for name in ("big", "small"):
        (leaving.path / name).mkdir()
        (leaving.path / name / "first").write_bytes(b"x")
    leaving.relay.data_rate = SLOW
    (leaving.path / "big" / "file").write_bytes(b"x" * 2 * LARGE)
    (leaving.path / "small" / "file").write_bytes(b"x" * 1000)
    assert ftpfs("sync", str(leaving.path / "small")).returncode == 0
    assert (leaving.disk / "small" / "file").read_bytes() == b"x" * 1000
    assert leaving.status()["uploads"]["files"] == 1
    leaving.relay.data_rate = None


def test_failed_upload_is_reported_by_sync_status_and_the_exit_code(
    leaving: Leaving,
) -> None:
    leaving.write("first", b"x")
    rule = leaving.relay.refuse("STOR", "552 quota exceeded\x1b[31m")
    (leaving.path / "lost").write_bytes(b"x" * 1000)
    done = ftpfs("sync", str(leaving.path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ftpfs: {leaving.path}/lost: ")
    assert "quota exceeded" in line
    assert "\x1b" not in line
    told = leaving.status()
    assert [each["state"] for each in told["uploads"]["pending"]] == ["failed"]
    shown = ftpfs("status", str(leaving.path))
    assert shown.returncode == 1
    assert "quota exceeded" in shown.stdout
    umount = ftpfs("umount", str(leaving.path))
    assert umount.returncode == 1
    assert "lost: not uploaded" in umount.stderr
    assert leaving.spooled()
    rule.remove()
    assert leaving.recover().returncode == 0
    assert (leaving.disk / "lost").read_bytes() == b"x" * 1000


@pytest.mark.parametrize("command", ["sync", "umount"])
def test_sync_and_umount_retry_refused_uploads(leaving: Leaving, command: str) -> None:
    leaving.write("first", b"x")
    rule = leaving.relay.refuse("STOR", "552 quota exceeded")
    leaving.write("late", b"x" * 1000)
    assert ftpfs("sync", str(leaving.path)).returncode == 1
    rule.remove()
    done = ftpfs(command, str(leaving.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert leaving.arrived()
