"""A server that logs sessions out without closing them: each command gets a 530."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Kind
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import scripted_server
from tests.support.scripted_server import Manners, ScriptedServer
from tests.support.uploading import Local
from tests.support.waiting import until

CONTENT = os.urandom(300_000)
NETWORK = Network(connect_timeout=5, reply_timeout=5, data_timeout=5, max_connections=3)
SECRET = "530 this is not for you"

Quirks = tuple[tuple[str, str], ...]


@contextlib.contextmanager
def started(root: Path) -> Iterator[ScriptedServer]:
    (root / "folder").mkdir(parents=True)
    for number in range(60):
        (root / "folder" / f"f{number}").write_bytes(b"x" * number)
    (root / "file").write_bytes(CONTENT)
    with scripted_server.start(root) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedServer]:
    with started(tmp_path / "root") as server:
        yield server


@contextlib.contextmanager
def connected(server: ScriptedServer, quirks: Quirks = ()) -> Iterator[Remote]:
    where = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        quirks=quirks,
    )
    remote = Remote(where, NETWORK)
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


def read(remote: Remote, path: str = "/file", offset: int = 0) -> bytes:
    with remote.open_read(path, offset) as download:
        return download.read(len(CONTENT))


def store(remote: Remote, size: int) -> bool:
    remote.store("/new", Local(CONTENT[:size]), base=None)
    return remote.stat("/new").size == size


def make(remote: Remote) -> bool:
    remote.mkdir("/made")
    return remote.stat("/made").kind is Kind.DIRECTORY


def rename(remote: Remote) -> bool:
    remote.rename("/file", "/renamed", replace=False)
    return read(remote, "/renamed") == CONTENT


def misses(remote: Remote, path: str) -> bool:
    with pytest.raises(errors.NotFound):
        remote.stat(path)
    return True


def remove(remote: Remote) -> bool:
    remote.remove("/file")
    return misses(remote, "/file")


WORKS: dict[str, Callable[[Remote], bool]] = {
    "listing": lambda remote: len(remote.list("/folder")) == 60,
    "one name": lambda remote: remote.stat("/file").size == len(CONTENT),
    "name that is missing": lambda remote: misses(remote, "/folder/gone"),
    "download": lambda remote: read(remote) == CONTENT,
    "download from the middle": lambda remote: read(remote, offset=1000) == CONTENT[1000:],
    "small upload": lambda remote: store(remote, 1000),
    "upload": lambda remote: store(remote, len(CONTENT)),
    "folder made": make,
    "rename": rename,
    "removal": remove,
}
# As on vsftpd over a long link: data connections are made ahead, several commands leave at once.
FAR: Quirks = (("round_trip", "20"),)
GREETING = "220 (vsFTPd 3.0.5)"
LISTS_ONLY = Manners(features=scripted_server.OLD)
SERVERS = {
    "on loopback": (Manners(), ()),
    "far away": (Manners(greeting=GREETING), FAR),
    "with LIST only": (LISTS_ONLY, ()),
    "with LIST only, far away": (Manners(features=scripted_server.OLD, greeting=GREETING), FAR),
    "with a NOOP for anyone": (
        Manners(for_anyone=("NOOP", "SYST", "FEAT", "USER", "PASS", "QUIT")),
        FAR,
    ),
    "with one command a packet": (Manners(one_command_a_packet=True), (("pipelining", "no"),)),
}


def learned_by(remote: Remote) -> dict[str, object]:
    """What a mount learned, but for times, and the commands that the server has answered."""
    learned = remote.profile.learned()
    del learned["list_zones"]
    del cast(dict[str, object], learned["manners"])["answered"]
    return learned


def day(server: ScriptedServer, quirks: Quirks, work: str, *, logs_out: bool) -> dict[str, object]:
    """Use a server, which may log all out before the last work; returns what a mount learned."""
    with connected(server, quirks) as remote:
        remote.list("/folder")
        assert read(remote) == CONTENT
        remote.list("/folder")
        if logs_out:
            server.log_out()
            server.commands.clear()
        assert WORKS[work](remote)
        return learned_by(remote)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("work", WORKS)
def test_session_that_was_logged_out_is_replaced_and_teaches_nothing(
    server: ScriptedServer, tmp_path: Path, work: str, kind: str
) -> None:
    server.manners, quirks = SERVERS[kind]
    learned = day(server, quirks, work, logs_out=True)
    assert server.verbs().count("USER") <= NETWORK.max_connections
    with started(tmp_path / "other") as other:
        other.manners = server.manners
        assert learned == day(other, quirks, work, logs_out=False)


@pytest.mark.parametrize("pause", [0.0, 1.2], ids=["in use", "quiet"])
def test_all_idle_sessions_are_replaced_at_once(server: ScriptedServer, pause: float) -> None:
    """A quiet session shows by the TYPE that goes ahead that it is logged out."""
    with connected(server) as remote:
        remote._pool.warm(3)
        until(lambda: remote._pool.status().idle == 3)
        for session in remote._pool._idle:
            session.used_at -= pause
        server.log_out()
        server.commands.clear()
        assert remote.stat("/file").size == len(CONTENT)
        assert server.verbs().count("USER") == 1
        assert remote._pool.status().idle == 1


def test_wrong_password_is_told_though_sessions_were_logged_in(server: ScriptedServer) -> None:
    with connected(server) as remote:
        server.manners.answers = {"PASS": "530 wrong"}
        server.log_out()
        server.commands.clear()
        with pytest.raises(errors.LoginFailed, match="is the password right"):
            remote.list("/")
        assert server.verbs().count("PASS") == 1


# Refusals of one path that say 530, too: nothing is wrong with the login.
REFUSED: dict[str, tuple[str, Callable[[Remote], object]]] = {
    "listing": ("MLSD", lambda remote: remote.list("/folder")),
    "folder entered": ("CWD /folder", lambda remote: remote.list("/folder")),
    "one name": ("MLST /file", lambda remote: remote.stat("/file")),
    "download": ("RETR /file", read),
    "upload": ("STOR", lambda remote: store(remote, 1000)),
    "folder made": ("MKD /made", make),
    "removal": ("DELE /file", remove),
    "rename": ("RNFR /file", rename),
}


@pytest.mark.parametrize("quirks", [(), FAR], ids=["on loopback", "far away"])
@pytest.mark.parametrize("work", REFUSED)
def test_530_for_one_path_is_no_end_of_the_login_and_teaches_nothing(
    server: ScriptedServer, work: str, quirks: Quirks
) -> None:
    command, do = REFUSED[work]
    server.manners.greeting = GREETING
    with connected(server, quirks) as remote:
        for _ in range(2):
            assert len(remote.list("/")) == 2
            assert read(remote, "/folder/f9") == b"x" * 9
        remote.stat("/file")
        learned = learned_by(remote)
        server.manners.answers = {command: SECRET}
        for _ in range(3):
            with contextlib.suppress(errors.LoginFailed, errors.PermissionDenied):
                do(remote)
        assert server.was_sent(command)
        server.manners.answers = {}
        assert server.connections <= NETWORK.max_connections
        assert learned_by(remote) == learned
        assert len(remote.list("/folder")) == 60
        assert read(remote) == CONTENT


def test_server_that_logs_each_session_out_at_once_gets_few_logins(
    server: ScriptedServer,
) -> None:
    with connected(server) as remote:
        server.manners.answers = dict.fromkeys(("MLSD", "LIST", "TYPE", "CWD"), "530 log in first")
        server.commands.clear()
        with pytest.raises((errors.LoginFailed, errors.ConnectionLost), match=r"530|logged this"):
            remote.list("/folder")
        assert server.verbs().count("USER") <= 3
