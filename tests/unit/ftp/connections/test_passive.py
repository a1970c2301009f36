"""Passive ports, some or all of which are dead: a firewall lets a part of them through."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.profile import Passive
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server, Tls
from ftpfs.settings.credentials import Secret
from tests.support import scripted_server
from tests.support.certificates import Certificates
from tests.support.scripted_server import CLOSED_PORT, DEAD_PORT, Manners, ScriptedServer
from tests.support.uploading import Local

CONTENT = os.urandom(300_000)
NETWORK = Network(connect_timeout=4, reply_timeout=5, data_timeout=5, max_connections=2)

Connect = Callable[..., Remote]


@pytest.fixture
def server(tmp_path: Path, certificates: Certificates) -> Iterator[ScriptedServer]:
    (tmp_path / "file").write_bytes(CONTENT)
    with scripted_server.start(tmp_path, Manners(certificate=certificates.server)) as server:
        yield server


@pytest.fixture
def connect(server: ScriptedServer) -> Iterator[Connect]:
    """`connect(tls=Tls.OFF, **settings)`: a connected remote with these network settings."""
    made: list[Remote] = []

    def connect(tls: Tls = Tls.OFF, **settings: float) -> Remote:
        where = Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            tls=tls,
            tls_insecure=True,
        )
        made.append(Remote(where, dataclasses.replace(NETWORK, **settings)))  # type: ignore[arg-type]
        made[-1].connect()
        return made[-1]

    yield connect
    for remote in made:
        remote.close()


def read(remote: Remote, offset: int = 0) -> bytes:
    with remote.open_read("/file", offset) as download:
        return download.read(len(CONTENT))


def store(remote: Remote, content: bytes) -> None:
    remote.store("/new", Local(content), base=None)


@pytest.mark.parametrize("fate", [DEAD_PORT, CLOSED_PORT])
@pytest.mark.parametrize("tls", [Tls.OFF, Tls.EXPLICIT])
def test_every_transfer_works_if_every_second_port_is_dead(
    server: ScriptedServer, connect: Connect, fate: str, tls: Tls
) -> None:
    """From the first transfer of a new server on, in all sessions."""
    server.manners.ports = itertools.cycle([fate, ""])
    remote = connect(tls)
    assert [entry.name for entry in remote.list("/")] == ["file"]
    for offset in (0, 1000):
        with remote.open_read("/file", offset) as download:  # keeps its session
            with concurrent.futures.ThreadPoolExecutor(1) as other:
                assert other.submit(remote.list, "/").result()
            assert download.read(len(CONTENT)) == CONTENT[offset:]
    store(remote, CONTENT)
    assert (server.root / "new").read_bytes() == CONTENT


@pytest.mark.parametrize("fate", [DEAD_PORT, CLOSED_PORT])
@pytest.mark.parametrize("known", [None, Passive.EPSV, Passive.PASV])
def test_port_that_answers_is_found_behind_three_dead_ones(
    server: ScriptedServer, connect: Connect, fate: str, known: Passive | None
) -> None:
    remote = connect()
    remote.profile.wire.passive = known
    server.manners.ports = iter([fate] * 3)
    assert read(remote) == CONTENT
    assert server.connections == 1  # no other login


def test_dead_port_teaches_nothing(server: ScriptedServer, connect: Connect) -> None:
    remote = connect()
    server.manners.ports = iter([CLOSED_PORT])
    assert read(remote) == CONTENT  # through PASV
    assert remote.profile.wire.passive is None
    assert read(remote) == CONTENT
    assert remote.profile.wire.passive is Passive.EPSV
    server.manners.ports = itertools.cycle([CLOSED_PORT, "", ""])
    for _ in range(6):  # every second transfer meets one
        assert read(remote) == CONTENT
        assert remote.profile.wire.passive is Passive.EPSV
    assert remote.profile.wire.arming


def test_ports_of_epsv_that_are_always_dead_are_not_asked_for_any_more(
    server: ScriptedServer, connect: Connect
) -> None:
    remote = connect()
    server.manners.ports = itertools.cycle([CLOSED_PORT, ""])
    for _ in range(3):
        assert read(remote) == CONTENT
    server.manners.ports = iter(())
    server.commands.clear()
    assert read(remote) == CONTENT
    assert "EPSV" not in server.verbs()


@pytest.mark.parametrize("known", [None, Passive.EPSV, Passive.PASV])
@pytest.mark.parametrize(
    "work",
    [lambda remote: remote.list("/"), read, lambda remote: store(remote, CONTENT)],
    ids=["listing", "download", "upload"],
)
def test_ports_that_are_all_silent_cost_one_deadline_together(
    server: ScriptedServer,
    connect: Connect,
    known: Passive | None,
    work: Callable[[Remote], object],
) -> None:
    remote = connect(connect_timeout=1.5)
    remote.profile.wire.passive = known
    server.manners.data = DEAD_PORT
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match=r"no answer after 1.5 s \(connect_timeout;"):
        work(remote)
    assert 1.4 < time.monotonic() - began < 2.8
    server.manners.data = ""
    assert read(remote) == CONTENT
    assert remote.profile.wire.passive is (known or Passive.EPSV)


def test_ports_that_all_refuse_are_asked_for_a_bounded_number_of_times(
    server: ScriptedServer, connect: Connect
) -> None:
    remote = connect()
    server.manners.data = CLOSED_PORT
    with pytest.raises(errors.DataConnectionFailed, match="Connection refused"):
        remote.list("/")
    assert len([verb for verb in server.verbs() if verb in ("EPSV", "PASV")]) <= 12


def test_server_without_pasv_is_asked_for_other_ports_by_epsv(
    server: ScriptedServer, connect: Connect
) -> None:
    server.manners.answers = {"PASV": "502 no"}
    server.manners.ports = itertools.cycle([CLOSED_PORT, CLOSED_PORT, ""])
    remote = connect()
    for _ in range(3):
        assert read(remote) == CONTENT
