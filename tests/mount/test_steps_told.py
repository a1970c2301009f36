"""A step that fails around a transfer: the log names it, the seconds, and what helps."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, MountServer, as_server, wait_until_sent
from tests.support import scripted_server
from tests.support.certificates import Certificates
from tests.support.relay import Relay
from tests.support.scripted_server import Manners, ScriptedServer

pytestmark = pytest.mark.mount

# Each deadline has another number, so that a message shows which one it was.
QUICK = "connect_timeout=1,reply_timeout=5,data_timeout=2,finish_timeout=3"
# More than the sockets' buffers hold on both sides of a relay.
CONTENT = bytes(30_000_000)


@pytest.fixture
def server(tmp_path: Path, certificates: Certificates) -> Iterator[ScriptedServer]:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(CONTENT)
    with scripted_server.start(root, Manners(certificate=certificates.server)) as server:
        yield server


def told(mounted: Mounted, error: int, call: Callable[[], object], within: float = 8) -> str:
    """The line in the log about a call that fails with that errno, and in that time (s).

    If the kernel asks again before it gives up, it is the line about the last question.
    """
    mounted.forget()
    before = len(mounted.log_text())
    began = time.monotonic()
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        call()
    assert time.monotonic() - began < within
    text = mounted.log_text()[before:]
    assert caught.value.errno == error, text
    lines = [each for each in text.splitlines() if f"({errno.errorcode[error]})" in each]
    assert lines, text
    return lines[-1]


ACTIVE = (
    "where a firewall closes the server's passive ports, the option active lets the server connect "
    "to us)"
)
DATA = {
    scripted_server.DEAD_PORT: (
        errno.ETIMEDOUT,
        f"no answer after 1 s (connect_timeout; {ACTIVE}",
    ),
    scripted_server.CLOSED_PORT: (errno.EIO, f"Connection refused ({ACTIVE}"),
}


@pytest.mark.parametrize("data", DATA)
def test_port_that_cannot_be_reached_is_told_with_the_option_for_it(
    server: ScriptedServer, mount_server: MountServer, data: str
) -> None:
    """A port that answers nothing costs one deadline, and not one for each attempt."""
    mounted = mount_server(as_server(server), server.root, options=f"log_level=info,{QUICK}")
    assert os.listdir(mounted.path) == ["file"]
    server.manners.data = data
    error, words = DATA[data]
    line = told(mounted, error, (mounted.path / "file").read_bytes)
    assert error != errno.ETIMEDOUT or "trying again" not in mounted.log_text()
    assert "no data connection to port " in line
    assert words in line


def test_server_that_makes_no_active_connection_is_told(
    server: ScriptedServer, mount_server: MountServer
) -> None:
    options = f"log_level=info,active,{QUICK}"
    mounted = mount_server(as_server(server), server.root, options=options)
    server.manners.data = scripted_server.DEAD_PORT
    line = told(mounted, errno.ETIMEDOUT, lambda: os.listdir(mounted.path))
    words = "the server made no data connection to us: no answer after 1 s (connect_timeout; active"
    assert words in line


HANDSHAKES = {
    scripted_server.TLS_SILENCE: (
        errno.ETIMEDOUT,
        "no answer after 2 s (data_timeout; the option tls_max=1.2",
    ),
    scripted_server.TLS_JUNK: (errno.EIO, "(not TLS: the server sends data in clear"),
}


@pytest.mark.parametrize("data", HANDSHAKES)
def test_failed_handshake_of_a_data_connection_is_told(
    server: ScriptedServer, mount_server: MountServer, data: str
) -> None:
    options = f"log_level=info,tls_insecure,{QUICK}"
    mounted = mount_server(as_server(server), server.root, scheme="ftpes", options=options)
    server.manners.data = data
    error, words = HANDSHAKES[data]
    line = told(mounted, error, lambda: os.listdir(mounted.path))
    assert "the TLS handshake of a data connection: " in line
    assert words in line


@pytest.fixture
def relay(server: ScriptedServer) -> Iterator[Relay]:
    with Relay(server.host, server.port) as relay:
        yield relay


@pytest.fixture
def mounted(server: ScriptedServer, relay: Relay, mount_server: MountServer) -> Mounted:
    options = f"log_level=info,{QUICK}"
    return mount_server(as_server(server), server.root, port=relay.port, options=options)


def write(mounted: Mounted) -> None:
    """Write a file and wait until the server has it."""
    with (mounted.path / "new").open("wb", buffering=0) as file:
        file.write(CONTENT)
        os.fsync(file.fileno())


UNENDED = "no answer after 3 s (finish_timeout; all data has moved, so does the server check"


def test_listing_without_an_end_is_told(mounted: Mounted, relay: Relay) -> None:
    relay.drop_reply("MLSD", times=None)
    line = told(mounted, errno.ETIMEDOUT, lambda: os.listdir(mounted.path))
    assert f"waiting for the reply that ends MLSD: {UNENDED}" in line


def test_download_without_an_end_is_whole_and_upload_is_looked_at(
    server: ScriptedServer, mounted: Mounted, relay: Relay
) -> None:
    """A file whose size is known needs no reply at its end: all of it is here, or there."""
    relay.drop_reply("RETR", times=None)
    assert (mounted.path / "file").read_bytes() == CONTENT
    relay.drop_reply("STOR", times=None)
    write(mounted)
    assert (server.root / "new").read_bytes() == CONTENT
    assert f"going on after waiting for the reply that ends STOR: {UNENDED}" in mounted.log_text()


def test_upload_that_the_server_does_not_read_is_told(mounted: Mounted, relay: Relay) -> None:
    relay.stall_data("up", after=100_000, times=None)
    line = told(mounted, errno.ETIMEDOUT, lambda: write(mounted), within=6)
    assert "fsync /new: nothing moved on the data connection for 2 s (data_timeout)" in line
    relay.clear()
    wait_until_sent(mounted.path)


def test_download_that_stalls_in_the_middle_is_told(mounted: Mounted, relay: Relay) -> None:
    relay.stall_data("down", after=10_000_000, times=None)
    line = told(mounted, errno.ETIMEDOUT, (mounted.path / "file").read_bytes, within=6)
    assert "read /file: nothing moved on the data connection for 2 s (data_timeout)" in line
