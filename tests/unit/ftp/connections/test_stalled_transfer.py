"""The deadline of a transfer is for progress, and is told once it is over."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.rates import Rates
from ftpfs.ftp.connections.transfers import Download, Upload
from tests.support.certificates import Certificates

DEADLINE_SECONDS = 0.4


class Session:
    """What a transfer asks of its session, whose server says nothing."""

    alive = True
    used_at = 0.0
    moving = None
    is_cut_off = False
    rates = Rates()

    def __init__(self, data_timeout: float = DEADLINE_SECONDS) -> None:
        self.data_timeout = data_timeout

    def has_spoken(self) -> bool:
        return False

    def drop(self) -> None:
        self.alive = False


@pytest.fixture
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the client's, and the server's with a small buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                yield client, server


@pytest.fixture
def tls_peers(
    peers: tuple[socket.socket, socket.socket], certificates: Certificates
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The same under TLS, after the handshake, with the client's deadline."""
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(certificates.server)
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here.check_hostname, here.verify_mode = False, ssl.CERT_NONE
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(there.wrap_socket, peers[1], server_side=True)
        with here.wrap_socket(peers[0]) as client, accepted.result(10) as server:
            client.settimeout(DEADLINE_SECONDS)
            yield client, server


def send(client: socket.socket, size: int) -> float:
    """Send a local file of `size` zeros. Returns how long (s) that took."""
    upload = Upload(cast(Any, Session()), client, None)
    began = time.monotonic()
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        upload.send_file(file.fileno(), 0, size)
    return time.monotonic() - began


@pytest.mark.parametrize("ends", ["peers", "tls_peers"])
def test_file_that_the_server_does_not_read_fails_after_one_deadline(
    request: pytest.FixtureRequest, ends: str
) -> None:
    client, _ = request.getfixturevalue(ends)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match=r"for 0.4 s \(data_timeout\)"):
        send(client, 30_000_000)
    assert DEADLINE_SECONDS <= time.monotonic() - began < 3 * DEADLINE_SECONDS


def test_file_goes_on_though_the_server_reads_slowly(
    peers: tuple[socket.socket, socket.socket],
) -> None:
    """Slowly: the server takes what the kernel has buffered in a multiple of the deadline."""
    client, server = peers
    ends = threading.Event()

    def read() -> None:
        while not ends.wait(0.02) and server.recv(10 << 10):
            pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        took = send(client, 5_000_000)
    finally:
        ends.set()
        thread.join()
    assert took > 2 * DEADLINE_SECONDS


# What a program may ask of a download whose server has sent 1000 bytes and no more.
ASKED: dict[str, Callable[[Download], object]] = {
    "the rest of a block": lambda download: download.read(128 << 10),
    "more": lambda download: [download.readinto(memoryview(bytearray(1000))) for _ in range(2)],
    "whether it goes on": lambda download: (download.read(1000), download.goes_on()),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("ends", ["peers", "tls_peers"])
def test_download_that_stalls_in_the_middle_fails_after_one_deadline(
    request: pytest.FixtureRequest, ends: str, asked: str
) -> None:
    client, server = request.getfixturevalue(ends)
    deadline = 2.0
    client.settimeout(deadline)
    server.sendall(bytes(1000))
    session = Session(deadline)
    download = Download(cast(Any, session), client, None)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match=r"for 2 s \(data_timeout\)"):
        ASKED[asked](download)
    assert deadline <= time.monotonic() - began < 1.8 * deadline
    assert not session.alive


def test_download_goes_on_though_the_server_sends_slowly(
    peers: tuple[socket.socket, socket.socket],
) -> None:
    """Slowly: each byte comes within the deadline, and all of them in a multiple of it."""
    client, server = peers

    def send() -> None:
        for _ in range(15):
            server.sendall(b"x")
            time.sleep(DEADLINE_SECONDS / 5)

    thread = threading.Thread(target=send)
    thread.start()
    began = time.monotonic()
    assert Download(cast(Any, Session()), client, None).read(15) == b"x" * 15
    assert time.monotonic() - began > 2 * DEADLINE_SECONDS
    thread.join()
