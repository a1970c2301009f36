"""Sizes, offsets, modes and owners that no server can have: an errno, or what they mean there."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.support.relay import Relay
from tests.support.servers import Kind

pytestmark = pytest.mark.mount

TOO_BIG = (errno.EFBIG, errno.EINVAL, errno.EOVERFLOW, errno.ENOSPC)


@pytest.fixture(params=["vsftpd", "pyftpdlib"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """One server with MLSD and one without."""
    kind: Kind = request.param
    return kind


def fails(call: Callable[[], object]) -> int:
    """The errno with which a call fails."""
    with pytest.raises(OSError) as raised:
        call()
    return raised.value.errno or 0


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1], ids=["4E", "8E"])
def test_size_that_no_disk_has_is_refused_and_the_file_is_sent(mounted: Mounted, size: int) -> None:
    here = mounted.path / "file"
    with open(here, "wb") as file:
        file.write(b"content")
        file.flush()
        assert fails(lambda: os.truncate(here, size)) in TOO_BIG
        assert fails(lambda: os.ftruncate(file.fileno(), size)) in TOO_BIG
        assert fails(lambda: os.pwrite(file.fileno(), b"x", size)) in TOO_BIG
    with open(here, "rb") as reading:
        assert os.pread(reading.fileno(), 10, size - 4096) == b""
    assert (mounted.disk / "file").read_bytes() == b"content"
    assert os.stat(here).st_size == 7
    assert "Traceback" not in mounted.log_text()


def test_odd_modes_lose_no_file_and_no_right(mounted: Mounted) -> None:
    folder = mounted.path / "folder"
    folder.mkdir()
    for number, mode in enumerate((0o7777, 0o2755, 0o4644, 0o1600, 0o000)):
        path = folder / f"file{number}"
        path.write_bytes(b"content")
        subprocess.run(["chmod", f"{mode:04o}", str(path)], check=False, capture_output=True)
    subprocess.run(["chmod", "2775", str(folder)], check=False, capture_output=True)
    (folder / "later").write_bytes(b"content")
    disk = mounted.disk / "folder"
    assert {path.read_bytes() for path in disk.iterdir()} == {b"content"}
    assert len(list(disk.iterdir())) == 6
    modes = [(disk / f"file{number}").stat().st_mode & 0o777 for number in range(5)]
    assert modes == [0o777, 0o755, 0o644, 0o600, 0o000]
    assert disk.stat().st_mode & 0o777 == 0o775
    assert "Traceback" not in mounted.log_text()


def test_owner_that_ftp_cannot_set_keeps_nothing_from_being_sent(mounted: Mounted) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"content")
    for uid, gid in ((os.getuid(), os.getgid()), (0xFFFFFFFE, 0xFFFFFFFE), (12345, -1), (-1, -1)):
        with contextlib.suppress(PermissionError):
            os.chown(path, uid, gid)
    assert (mounted.disk / "file").read_bytes() == b"content"
    assert "Traceback" not in mounted.log_text()


def test_database_is_made_closed_and_deleted_forty_times(mounted: Mounted) -> None:
    """libfuse 3.17 deletes a file twice that was closed right before."""
    path = mounted.path / "data.db"
    for number in range(40):
        database = sqlite3.connect(path)
        database.execute("create table t(x)")
        database.execute("insert into t values (?)", (number,))
        database.commit()
        assert database.execute("select x from t").fetchone() == (number,)
        database.close()
        path.unlink()
        assert not path.exists()
    assert os.listdir(mounted.path) == []
    wait_until_sent(mounted.path)
    assert os.listdir(mounted.disk_now) == []
    mounted.unmount()


def test_tail_that_is_idle_asks_the_server_once_a_second_at_most(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay, tmp_path: Path
) -> None:
    remote_dir.write("log", b"line\n")
    mounted = mount_dir(binding=fuse_binding, through=relay)
    shown = tmp_path / "shown"
    # `tail` looks eight times as often as it is allowed to be answered by the server.
    command = ["tail", "-s", "0.125", "-f", str(mounted.path / "log")]
    with shown.open("wb") as out, subprocess.Popen(command, stdout=out) as tail:
        time.sleep(1.5)
        assert shown.read_bytes() == b"line\n"
        relay.reset()
        began = time.monotonic()
        time.sleep(5)
        asked = relay.count("MLST", "SIZE", "LIST", "MLSD", "RETR")
        times = relay.count("MDTM")
        most = time.monotonic() - began + 1
        tail.terminate()
    assert 1 <= asked <= most
    assert times <= most
