"""Mounts of users whose home cannot be used: there is none, it is read-only, its disk is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import ftpfs, unmount, wait_until_sent
from tests.support import scripted_server
from tests.support.scripted_server import ScriptedServer

pytestmark = pytest.mark.mount


@pytest.fixture(params=["missing", "read-only", "full"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "missing":
        yield Path("/proc/nonexistent")
        return
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", home], check=True)
    try:
        if request.param == "full":
            with contextlib.suppress(OSError), (home / "all").open("wb", 0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", home], check=True)
        yield home
    finally:
        subprocess.run(["umount", home], check=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedServer]:
    root = tmp_path / "root"
    root.mkdir()
    (root / "hello").write_bytes(b"hello, world\n")
    with scripted_server.start(root) as server:
        yield server


class Mounting:
    """One attempt to mount, as a user with that home."""

    def __init__(self, server: ScriptedServer, home: Path, here: Path, options: str = "") -> None:
        here.mkdir(exist_ok=True)
        self.log = here.with_suffix(".log")
        env = {"HOME": str(home), "FTPFS_PASSWORD": server.password}
        env |= {name: "" for name in os.environ if name.startswith("XDG_")}
        self.env = env
        self.done = ftpfs(
            "mount",
            f"ftp://{server.user}@{server.host}:{server.port}/",
            str(here),
            *("-o", f"log_file={self.log}{options}"),
            env=env,
        )


def test_mount_says_in_one_line_that_there_is_no_place_for_what_is_written(
    home: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    mounting = Mounting(server, home, tmp_path / "mnt")
    assert mounting.done.returncode == 1
    (line,) = mounting.done.stderr.splitlines()
    assert str(home) in line
    assert "spool_dir=" in line
    assert "Traceback" not in mounting.log.read_text()


def test_read_only_mount_needs_no_home(
    home: Path, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    mounting = Mounting(server, home, tmp_path / "mnt", ",ro")
    assert mounting.done.returncode == 0, mounting.done.stderr
    assert (tmp_path / "mnt" / "hello").read_bytes() == b"hello, world\n"
    assert mounting.log.read_text().count("cannot be used") == 1
    unmount(tmp_path / "mnt")
    wait_until_sent(tmp_path / "mnt")
    assert os.listdir(temporary) == []


def test_mount_with_a_place_for_what_is_written_needs_no_home(
    home: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    here = tmp_path / "mnt"
    mounting = Mounting(server, home, here, f",spool_dir={tmp_path}/spool,cache_size=16M")
    assert mounting.done.returncode == 0, mounting.done.stderr
    (here / "new").write_bytes(b"new")
    assert (here / "hello").read_bytes() == b"hello, world\n"
    wait_until_sent(here)
    assert (server.root / "new").read_bytes() == b"new"
    told = mounting.log.read_text()
    assert told.count("the store in") == 1
    assert told.count("ftpfs status will not find") == 1
    unmount(here)


def test_mount_says_that_its_store_cannot_be_there_and_goes_on(
    home: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    here, no_folder = tmp_path / "mnt", tmp_path / "a file"
    no_folder.write_bytes(b"")
    words = f",spool_dir={tmp_path}/spool,cache_size=16M,cache_dir={no_folder}"
    mounting = Mounting(server, home, here, words)
    assert mounting.done.returncode == 0, mounting.done.stderr
    (line,) = [line for line in mounting.done.stderr.splitlines() if "stored" in line]
    assert str(no_folder) in line
    assert "cache_dir=FOLDER" in line
    assert (here / "hello").read_bytes() == b"hello, world\n"
    unmount(here)
