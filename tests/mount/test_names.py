"""Long names and paths, and home folders that servers report in odd ways."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, MountServer
from tests.support import odd_server
from tests.support.odd_server import Script

pytestmark = [pytest.mark.mount, pytest.mark.far]

# Bytes of one command, including its verb and line end.
LINE = {"vsftpd": 4000, "proftpd": 4000, "pure-ftpd": 4000, "pyftpdlib": 2048}


@contextlib.contextmanager
def deep(start: Path, parts: list[str], *, make: bool) -> Iterator[int]:
    """A descriptor of the folder `parts` below `start`; its whole path is too long for open()."""
    here = os.open(start, os.O_RDONLY)
    try:
        for part in parts:
            if make:
                os.mkdir(part, dir_fd=here)
            there = os.open(part, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def put(folder: int, name: str, content: bytes) -> None:
    with open(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(content)


def read(folder: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def error_of(folder: int, name: str, flags: int) -> int | None:
    try:
        os.close(os.open(name, flags, dir_fd=folder))
    except OSError as error:
        return error.errno
    return None


def test_path_longer_than_the_servers_commands_is_enametoolong_and_affects_nothing_else(
    mounted: Mounted,
) -> None:
    # "MDTM " and the line's end take seven bytes, of a line that the server still reads.
    top = len(os.fsencode(mounted.disk)) - len(os.fsencode(mounted.server.root))
    room = LINE[mounted.server.kind] - 7 - top - 60
    parts = ["d" * 200] * (room // 201)
    parts.append("e" * (room % 201 + 40))
    long = "f" * 40
    with deep(mounted.disk, parts, make=True) as folder:
        for name in ("short", long):
            put(folder, name, b"content")
            os.utime(name, (1_000_000_007, 1_000_000_007), dir_fd=folder)
    with deep(mounted.path, parts, make=False) as folder:
        assert sorted(os.listdir(folder)) == [long, "short"]
        assert os.stat("short", dir_fd=folder).st_mtime == 1_000_000_007
        assert os.stat(long, dir_fd=folder).st_size == 7
        with pytest.raises(OSError, match="File name too long"):
            read(folder, long)
        for flags in (os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            assert error_of(folder, "g" * 41, flags) == errno.ENAMETOOLONG
        assert error_of(folder, long, os.O_WRONLY) == errno.ENAMETOOLONG
        assert read(folder, "short") == b"content"
    assert os.listdir(mounted.path) == [parts[0]]


def test_name_of_more_than_255_bytes_is_too_long_and_not_missing(mounted: Mounted) -> None:
    name = "é" * 128
    (mounted.path / ("é" * 127)).write_bytes(b"fits")
    for attempt in (
        lambda: os.stat(mounted.path / name),
        lambda: (mounted.path / name).read_bytes(),
        lambda: (mounted.path / name).write_bytes(b""),
        lambda: os.mkdir(mounted.path / name),
        lambda: os.unlink(mounted.path / name),
        lambda: os.rename(mounted.path / ("é" * 127), mounted.path / name),
        lambda: os.rename(mounted.path / name, mounted.path / "x"),
    ):
        with pytest.raises(OSError, match="File name too long"):
            attempt()
    assert os.listdir(mounted.disk) == ["é" * 127]


@pytest.mark.parametrize("said", ["/home/My Files", "/home/My Files is the current directory."])
def test_home_folder_reported_without_quotes_is_mounted(
    tmp_path: Path, mount_server: MountServer, fuse_binding: str, said: str
) -> None:
    root = tmp_path / "root"
    (root / "home" / "My Files").mkdir(parents=True)
    (root / "home" / "My Files" / "mine").write_bytes(b"content")
    with odd_server.start(root, Script(replies={"PWD": f"257 {said}"})) as odd:
        here = mount_server(odd, odd.root, path="", binding=fuse_binding).path
        assert os.listdir(here) == ["mine"]
        assert (here / "mine").read_bytes() == b"content"
