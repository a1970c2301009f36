"""The daemon is killed in the middle of writing, again and again: nothing that was closed is lost.

A program writes, overwrites, appends, renames and deletes. At a random moment the daemon gets
SIGKILL, the server is mounted anew, and the work goes on. What a call had returned for is there
after each remount, and on the server's disk at the end, byte for byte; what was under way is there
as it was before or as it was to become. Nothing is ever torn under its final name.

FTPFS_KILLS sets the number of times (20).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, _daemons, wait_until_sent
from tests.support.relay import Relay
from tests.support.waiting import until_gone

pytestmark = pytest.mark.mount

KILLS = int(os.environ.get("FTPFS_KILLS", "8"))
SIZES = [0, 1, 4096, 100_000, 1_500_000]


class Work:
    """Operations on files, and the contents that each name may have by now."""

    def __init__(self, here: Path, seed: int) -> None:
        self.here = here
        self.random = random.Random(seed)
        self.names: dict[str, list[bytes | None]] = {}
        self.done = 0

    def known(self) -> list[str]:
        return [name for name, may in self.names.items() if may[0] is not None]

    def run(self) -> None:
        """Work until the daemon dies."""
        with contextlib.suppress(OSError):
            while True:
                self.step()
                self.done += 1

    def step(self) -> None:
        choice = self.random.random()
        known = self.known()
        if choice < 0.4 or not known:
            name = f"f{self.random.randrange(30)}"
            data = self.random.randbytes(self.random.choice(SIZES))
            # Opening truncates the file: what is not closed may be lost, as on any disk.
            self.will(name, data, torn=bool(self.names.get(name, [None])[0]))
            (self.here / name).write_bytes(data)
        elif choice < 0.6:
            name = self.random.choice(known)
            more = self.random.randbytes(50_000)
            self.will(name, (self.names[name][0] or b"") + more)
            with open(self.here / name, "ab") as file:
                file.write(more)
        elif choice < 0.8:
            name = f"f{self.random.randrange(30)}"
            data = self.random.randbytes(self.random.choice(SIZES))
            self.will("temporary", data, torn=True)
            (self.here / "temporary").write_bytes(data)
            self.is_so("temporary")
            self.will(name, data)
            self.will("temporary", None)
            (self.here / "temporary").rename(self.here / name)
            self.is_so("temporary")
        else:
            name = self.random.choice(known)
            self.will(name, None)
            (self.here / name).unlink()
        self.is_so(name)

    def will(self, name: str, content: bytes | None, *, torn: bool = False) -> None:
        may = [*self.names.get(name, [None])[:1], content]
        self.names[name] = [*may, b"(torn)"] if torn else may

    def is_so(self, name: str) -> None:
        self.names[name] = [self.names[name][1]]

    def check(self, folder: Path, mounted: Mounted | None = None) -> None:
        """Check that each name has a possible content. From now on only this one is possible."""
        seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
        found = {path.name: _content(path, mounted) for path in seen}
        assert not [name for name in found if "conflict" in name]
        assert found.keys() <= self.names.keys()
        for name, may in self.names.items():
            content = found.get(name)
            if b"(torn)" not in may or content is None:
                described = [None if each is None else len(each) for each in may]
                size = None if content is None else len(content)
                assert content in may, f"{name} has {size} bytes, and may have {described}"
            else:
                whole = may[1] or b""
                assert content in may or whole.startswith(content.rstrip(b"\0")), name
            self.names[name] = [content]


def _content(path: Path, mounted: Mounted | None) -> bytes:
    """The content of a file, read again while it changes on the server.

    The server may carry out the last commands of the killed daemon after the next one has listed
    the file. To the next one, that is a change by others, and reading fails (docs/SEMANTICS.md).
    """
    deadline = time.monotonic() + 5
    while True:
        try:
            return path.read_bytes()
        except OSError as error:
            said = mounted.log_text() if mounted is not None else ""
            has_changed = re.search(f"/{path.name}: .*changed on the server", said)
            if error.errno != errno.EIO or not has_changed or time.monotonic() > deadline:
                raise


def kill(mounted: Mounted, worker: threading.Thread | None = None) -> None:
    """Kill the daemon by SIGKILL, and wait until `worker` has noticed.

    Only then is the mountpoint unmounted: the worker would go on in the plain folder below.
    """
    (daemon,) = _daemons(str(mounted.path))
    os.kill(daemon, signal.SIGKILL)
    until_gone(lambda: _daemons(str(mounted.path)))
    if worker is not None:
        worker.join(20)
        assert not worker.is_alive()
    subprocess.run(["umount", "-l", str(mounted.path)], check=True)


@pytest.mark.long
def test_closed_files_survive_kills_at_random_moments(
    remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    moments = random.Random(11)
    work = Work(Path(), 12)
    for _ in range(KILLS):
        mounted = mount_dir()
        work.here = mounted.path
        work.check(mounted.path, mounted)
        worker = threading.Thread(target=work.run)
        worker.start()
        time.sleep(moments.uniform(0.02, 0.7))
        kill(mounted, worker)
    mounted = mount_dir()
    work.check(mounted.path, mounted)
    wait_until_sent(mounted.path)
    work.check(remote_dir.disk)
    assert work.done > KILLS


def test_first_long_file_of_a_folder_is_closed_while_it_is_sent_and_survives_a_kill(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    def mount() -> Mounted:
        return mount_dir(
            through=relay,
        )

    mounted = mount()
    data = random.Random(13).randbytes(24 << 20)
    relay.stall_data("up", after=2 << 20, times=None)
    (mounted.path / "long").write_bytes(data)
    assert relay.data_bytes("up") <= 3 << 20
    kill(mounted)
    relay.clear()
    mounted = mount()
    assert (mounted.path / "long").read_bytes() == data
    wait_until_sent(mounted.path)
    assert (remote_dir.disk / "long").read_bytes() == data


def test_next_mount_deletes_temporary_files_of_the_killed_one_and_no_others(
    remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    another = remote_dir.disk / f".ftpfs-0123abcd-{int(time.time()):08x}-01.tmp"
    another.write_bytes(b"of a mount elsewhere, under way")
    os.chmod(another, 0o666)
    mounted = mount_dir()
    (mounted.path / "first").write_bytes(b"1")
    with open(mounted.path / "big", "wb") as file:
        # The file is sent under a temporary name while it is written.
        deadline = time.monotonic() + 20
        while len(list(remote_dir.disk.glob(".ftpfs-*.tmp"))) < 2:
            assert time.monotonic() < deadline
            file.write(bytes(1 << 20))
            time.sleep(0.05)
        kill(mounted)
        with contextlib.suppress(OSError):
            file.close()
    mounted = mount_dir()
    assert "first" in os.listdir(mounted.path)
    assert list(remote_dir.disk.glob(".ftpfs-*")) == [another]
