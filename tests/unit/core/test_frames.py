"""How many functions an upload crosses between the queue and the socket."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

import pytest

from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing.spool import Spool
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Cache, Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import StartServer


def test_small_file_crosses_nine_functions_from_queue_to_socket(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The design page names them (docs/design.md, "From the queue to the socket")."""
    crossed: list[str] = []
    send = os.sendfile

    def sendfile(*arguments: int) -> int:
        frame: FrameType | None = sys._getframe(1)
        names = []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        crossed[:] = names[: names.index("_work") + 1][::-1]
        return send(*arguments)

    server = start_server("pyftpdlib")
    address = Server(server.host, server.port, user=server.user, password=Secret(server.password))
    remote = Remote(address, Network())
    fs = Filesystem(remote, Spool(tmp_path), Cache())
    monkeypatch.setattr(os, "sendfile", sendfile)
    handle = fs.create("/small", 0o644, os.O_WRONLY)
    fs.write(handle, 0, b"content")
    fs.release(handle)
    fs.sync(timeout=20)
    fs.close()
    remote.close()
    assert crossed == [
        *("_work", "send", "upload", "store", "store", "run", "_attempt", "pump", "send_file")
    ]
