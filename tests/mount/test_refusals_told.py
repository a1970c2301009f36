"""Each call that a server refuses has one line in the log of a mount, with its errno."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.mount.conftest import MountServer
from tests.support import servers

pytestmark = pytest.mark.mount

CALLS: dict[str, Callable[[Path], object]] = {
    "mkdir /new": lambda here: os.mkdir(here / "new"),
    "unlink /file": lambda here: os.unlink(here / "file"),
    "rename /file": lambda here: os.rename(here / "file", here / "other"),
    "readdir /closed": lambda here: os.listdir(here / "closed"),
    "open /secret": lambda here: (here / "secret").read_bytes(),
    "rmdir /folder": lambda here: os.rmdir(here / "folder"),
}


def test_each_refused_call_is_one_line_in_the_log(
    start_server: StartServer, mount_server: MountServer, fuse_binding: str
) -> None:
    server = start_server("pyftpdlib", options=servers.Options(read_only=True))
    (server.root / "file").write_bytes(b"content")
    (server.root / "folder").mkdir()
    (server.root / "closed").mkdir(mode=0)
    (server.root / "secret").write_bytes(b"content")
    (server.root / "secret").chmod(0)
    mounted = mount_server(server, server.root, binding=fuse_binding)
    for call, make in CALLS.items():
        before = len(mounted.log_text())
        with pytest.raises(OSError, match="") as caught:
            make(mounted.path)
        told = mounted.log_text()[before:].splitlines()
        lines = [line for line in told if "WARNING" in line]
        name = errno.errorcode[caught.value.errno or 0]
        assert len(lines) == 1, (call, told)
        assert call in lines[0]
        assert lines[0].endswith(f"({name})")
