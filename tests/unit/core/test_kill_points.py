"""A mount that is killed at any command of a rename or a deletion: the next mount resolves it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names import renames
from ftpfs.core.writing.spool import Spool
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Cache, Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Command, Relay, When

OLD, NEW = b"old content", b"the new content"
OWNER = "0123abcd"
NETWORK = Network(connect_timeout=5, reply_timeout=5, max_connections=2)


@pytest.fixture(params=["replaces", "does not"])
def place(request: pytest.FixtureRequest, start_server: StartServer) -> RemoteDir:
    """A folder of a server whose rename replaces files, and of one whose rename does not."""
    extra = () if request.param == "replaces" else ("AllowOverwrite off",)
    server = start_server("proftpd", options=servers.Options(extra=extra))
    return RemoteDir(server, server.root, "/")


def mounted(place: RemoteDir, spool: Path, port: int = 0) -> tuple[Remote, Filesystem]:
    server = place.server
    address = Server(
        server.host, port or server.port, user=server.user, password=Secret(server.password)
    )
    remote = Remote(address, NETWORK, owner=OWNER)
    return remote, Filesystem(remote, Spool(spool), Cache())


def rename(fs: Filesystem) -> None:
    fs.rename("/a", "/b")


def rename_over_open(fs: Filesystem) -> None:
    fs.open("/b", os.O_RDONLY)
    fs.rename("/a", "/b")


def write_and_rename_over_open(fs: Filesystem) -> None:
    fs.open("/b", os.O_RDONLY)
    handle = fs.create("/c", 0o644, os.O_WRONLY)
    fs.write(handle, 0, NEW)
    fs.release(handle)
    fs.rename("/c", "/b")
    fs.sync(timeout=20)


def delete(fs: Filesystem) -> None:
    fs.open("/b", os.O_RDONLY)
    fs.unlink("/b")


def delete_as_libfuse_does(fs: Filesystem) -> None:
    fs.open("/b", os.O_RDONLY)
    fs.hide("/b", "/.fuse_hidden1")
    fs.children("/")


A = {"a": NEW}
DEEDS: dict[str, tuple[Callable[[Filesystem], None], list[dict[str, bytes]]]] = {
    "rename": (rename, [A | {"b": OLD}, {"b": NEW}]),
    "over an open file": (rename_over_open, [A | {"b": OLD}, {"b": NEW}]),
    "written": (
        write_and_rename_over_open,
        [A | {"b": OLD}, A | {"b": OLD, "c": NEW}, A | {"b": NEW}],
    ),
    "delete": (delete, [A | {"b": OLD}, A]),
    "delete as libfuse does": (delete_as_libfuse_does, [A | {"b": OLD}, A]),
}


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("deed", "brought"),
    [*((deed, 1 << 20) for deed in DEEDS), ("over an open file", 0), ("written", 0)],
)
def test_next_mount_finds_old_or_new_whatever_command_was_the_last(
    place: RemoteDir,
    start_relay: Callable[..., Relay],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deed: str,
    when: When,
    brought: int,
) -> None:
    """`brought`: so many bytes of a replaced file are fetched for its readers."""
    monkeypatch.setattr(renames, "MOST_BROUGHT_BYTES", brought)
    do, outcomes = DEEDS[deed]
    for last in itertools.count():
        place.write("a", NEW)
        place.write("b", OLD)
        relay = start_relay(place.server)
        folder = tmp_path / str(last)
        remote, fs = mounted(place, folder / "spool", relay.port)
        fs.children("/")
        killed = cut_off(relay, fs, folder, last, when)
        try:
            do(fs)
        except errors.FtpfsError:
            assert killed
        relay.refuse_connections()
        relay.stop()
        fs.close(0)
        remote.close()
        if not killed:
            assert last > 1
            return
        after_recovery(place, folder / "copy")
        left = {path.name: path.read_bytes() for path in place.disk.iterdir()}
        assert left in outcomes, f"killed {when} {killed[0]}"
        for path in place.disk.iterdir():
            path.unlink()


def cut_off(relay: Relay, fs: Filesystem, folder: Path, last: int, when: When) -> list[Command]:
    """Let command number `last` be the last one that the server gets.

    The list ends with that command, and the spool is copied as it was then.
    """
    count = itertools.count()
    killed: list[Command] = []

    def is_last(command: Command) -> bool:
        if command.verb in ("USER", "PASS", "FEAT", "SYST", "PWD", "TYPE", "OPTS", "CLNT", "NOOP"):
            return False
        if next(count) != last or killed:
            return False
        killed.append(command)
        with fs._spool.journal._lock:
            shutil.copytree(folder / "spool", folder / "copy")
        relay.refuse_connections()
        return True

    relay.cut_control(when=when, times=None, where=is_last)
    return killed


def after_recovery(place: RemoteDir, spool: Path) -> None:
    remote, fs = mounted(place, spool)
    fs.recover()
    fs.children("/")
    fs.sync(timeout=20)
    assert fs.close() == 0
    remote.list("/")
    remote.close()
