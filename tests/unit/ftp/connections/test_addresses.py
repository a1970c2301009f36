"""Which address of this machine connections come from, and on which ports it listens."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.settings.build import build_config
from ftpfs.settings.config import DataMode, Network, Server
from ftpfs.settings.credentials import Secret, Surroundings
from ftpfs.settings.options import parse_options
from ftpfs.settings.source import parse_source
from tests.conftest import RemoteDir
from tests.support.relay import Relay


@contextlib.contextmanager
def connected(
    remote_dir: RemoteDir, host: str = "", port: int = 0, active: bool = False, **network: Any
) -> Iterator[Remote]:
    server = remote_dir.server
    remote = Remote(
        Server(
            host or server.host,
            port or server.port,
            user=server.user,
            password=Secret(server.password),
            path=remote_dir.path,
            data_mode=DataMode.ACTIVE if active else DataMode.PASSIVE,
        ),
        Network(connect_timeout=3, reply_timeout=5, data_timeout=5, max_connections=2, **network),
    )
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


ESTABLISHED = 1  # TCP_ESTABLISHED of the kernel


def peers(port: int) -> set[str]:
    """The addresses from which connections to a local port come, by the kernel's table.

    Not those that have ended: an earlier test may have had the port.
    """
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if int(remote.split(":")[1], 16) == port and int(state, 16) == ESTABLISHED:
            digits = local.split(":")[0]
            found.add(socket.inet_ntoa(bytes.fromhex(digits)[::-1]))
    return found


def test_connections_come_from_the_bound_address(remote_dir: RemoteDir, relay: Relay) -> None:
    remote_dir.write("file", b"content")
    with connected(remote_dir, port=relay.port, bind_address="127.0.0.2") as remote:
        assert peers(relay.port) == {"127.0.0.2"}
        with remote.open_read("/file") as download:
            assert download.read(7) == b"content"
        assert [entry.name for entry in remote.list("/")] == ["file"]


@pytest.mark.parametrize(
    ("family", "host", "works"),
    [("4", "localhost", True), ("4", "127.0.0.1", True), ("6", "127.0.0.1", False)],
)
def test_address_family_chooses_the_address(
    remote_dir: RemoteDir, family: str, host: str, works: bool
) -> None:
    if works:
        with connected(remote_dir, host, address_family=family) as remote:
            assert remote.list("/") == []
        return
    with (
        pytest.raises(errors.NetworkError),
        connected(remote_dir, host, address_family=family),
    ):
        pass


def test_active_mode_listens_on_the_allowed_ports(remote_dir: RemoteDir) -> None:
    low = _free_range(3)
    remote_dir.write("file", os.urandom(1000))
    with connected(remote_dir, active=True, active_ports=(low, low + 2)) as remote:
        for _ in range(5):
            assert len(remote.list("/")) == 1
            with remote.open_read("/file") as download:
                assert len(download.read(1000)) == 1000


def test_active_mode_without_a_free_port_says_so(remote_dir: RemoteDir) -> None:
    with (
        socket.create_server((remote_dir.server.host, 0)) as taken,
        connected(remote_dir, active=True, active_ports=(taken.getsockname()[1],) * 2) as remote,
        pytest.raises(errors.DataConnectionFailed, match="no free port among active_ports"),
    ):
        remote.list("/")


def _free_range(count: int) -> int:
    """The first of so many ports in a row that are free now."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return int(first)


def built(words: str, told: list[str]) -> Network:
    around = Surroundings(environ={}, home=None, prompt=None, warn=told.append)
    return build_config(parse_source("ftp://host/"), parse_options(words), around).network


def test_options_about_addresses_are_checked() -> None:
    told: list[str] = []
    network = built("active,active_ports=40000-40010,bind_address=::1,address_family=6", told)
    assert network.active_ports == (40000, 40010)
    assert not told
    built("active_ports=40000", told)
    built("proxy=socks5://host:1080,bind_address=127.0.0.1", told)
    assert ["active_ports has no effect" in told[0], "the proxy makes" in told[1]] == [True, True]
    for words in (
        *("active_ports=5-4", "active_ports=0-9", "bind_address=eth0", "address_family=5"),
        "bind_address=127.0.0.1,address_family=6",
    ):
        with pytest.raises(errors.InvalidArgument):
            built(words, told)
