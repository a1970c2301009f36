"""Copies on one server: by the server's own command where it has one, else through this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from ftpfs.trees.copying import Copying, Root
from ftpfs.trees.duplicating import Duplicate
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.plan import Rules
from tests.conftest import RemoteDir, StartServer
from tests.support.relay import Relay
from tests.support.servers import Options

NETWORK = Network(connect_timeout=3, reply_timeout=5, data_timeout=5, finish_timeout=5)


@pytest.fixture
def copying_server(
    start_server: StartServer, start_relay: Callable[..., Relay]
) -> Iterator[tuple[Remote, Relay, Path]]:
    """proftpd with mod_copy, behind a relay."""
    server = start_server("proftpd", options=Options(extra=("LoadModule mod_copy.c",)))
    relay = start_relay(server)
    remote = RemoteDir(server, server.root, "/").remote(NETWORK, relay.port)
    yield remote, relay, server.root
    remote.close()


def duplicate(remote: Remote, source: str, target: str) -> Outcome:
    way = Duplicate(remote, lambda _path: contextlib.nullcontext())
    copying = Copying(way, way.rules(Rules()), jobs=1)
    copying.start([Root(source, target)])
    assert copying.wait(30)
    copying.finish()
    return copying.outcome()


def plant(folder: Path) -> dict[str, bytes]:
    contents = {name: os.urandom(50_000) for name in ("a", "sub/b", "sub/with  blanks ")}
    for name, data in contents.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    for path in (folder, *folder.rglob("*")):
        os.chmod(path, 0o777 if path.is_dir() else 0o640)
        os.chown(path, folder.stat().st_uid, folder.stat().st_gid)
    return contents


def check(folder: Path, contents: dict[str, bytes]) -> None:
    for name, data in contents.items():
        assert (folder / "copy" / name).read_bytes() == data
        assert (folder / "copy" / name).stat().st_mtime == 1_600_000_000
    assert not list(folder.rglob(".ftpfs-*"))


def test_server_copies_files_that_never_come_here(
    copying_server: tuple[Remote, Relay, Path],
) -> None:
    remote, relay, folder = copying_server
    contents = plant(folder)
    del contents["sub/with  blanks "]  # the server's command splits words
    (folder / "tree/sub/with  blanks ").unlink()
    assert duplicate(remote, "/tree", "/copy").failures == []
    check(folder, contents)
    assert relay.count("RETR", "STOR") == 0
    assert relay.count("SITE CPTO") + relay.count("SITE") > 0


def test_name_that_the_command_splits_comes_here_and_goes_back(
    copying_server: tuple[Remote, Relay, Path],
) -> None:
    remote, _, folder = copying_server
    contents = plant(folder)
    assert duplicate(remote, "/tree", "/copy").failures == []
    check(folder, contents)


@pytest.mark.parametrize("fault", ["refused", "short", "cut"])
def test_copy_of_the_server_that_fails_leaves_the_old_file_or_the_new_one(
    copying_server: tuple[Remote, Relay, Path], fault: str
) -> None:
    remote, relay, folder = copying_server
    contents = {"a": plant(folder)["a"]}
    (folder / "copy").mkdir()
    (folder / "copy").chmod(0o777)
    if fault == "refused":
        relay.refuse("SITE", "550 not today", times=None)
    elif fault == "short":
        relay.replace_reply("SITE", "250 copied", times=None)
    else:
        relay.cut_control("SITE")
    outcome = duplicate(remote, "/tree/a", "/copy/a")
    assert outcome.failures == []
    check(folder, contents)


def test_server_without_the_command_is_asked_once(remote: Remote, remote_dir: RemoteDir) -> None:
    for number in range(5):
        remote_dir.write(f"tree/{number}", b"%d" % number)
    assert duplicate(remote, "/tree", "/copy").copied == 5
    for number in range(5):
        assert (remote_dir.disk / f"copy/{number}").read_bytes() == b"%d" % number


@pytest.fixture
def network() -> Network:
    return NETWORK
