"""FTPS on real mounts: explicit and implicit TLS, verification, and nothing in clear on failure.

vsftpd runs with require_ssl_reuse=YES and proftpd with its default TLS options: both refuse a data
connection that does not resume the control connection's TLS session.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.mount.conftest import Mounted, MountServer, ftpfs
from tests.mount.test_everyday import make_tree, run, snapshot
from tests.support import servers
from tests.support.certificates import Certificates
from tests.support.servers import FtpServer, Kind, Tls

pytestmark = pytest.mark.mount

WAYS: list[tuple[Kind, Tls]] = [
    (kind, tls)
    for kind in servers.KINDS
    for tls in ("explicit", "implicit")
    if servers.can_tls(kind, tls)
]
SCHEMES: dict[Tls, str] = {"explicit": "ftpes", "implicit": "ftps"}


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def secured(
    request: pytest.FixtureRequest, start_server: StartServer, mount_server: MountServer
) -> Mounted:
    """A mount of each server that supports TLS. The server requires TLS."""
    kind, tls = request.param
    server = start_server(kind, tls=tls, require_tls=True)
    return mount_server(server, server.root, scheme=SCHEMES[tls], options=f"tls_ca={server.ca}")


# What works.


def test_tree_is_copied_in_and_out_byte_for_byte_over_tls(secured: Mounted, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    run(f"cp -a {source}/. {secured.path}/", tmp_path)
    assert snapshot(secured.disk) == snapshot(source)
    run(f"cp -a {secured.path}/. {tmp_path}/out/", tmp_path)
    assert snapshot(tmp_path / "out") == snapshot(source)
    assert run("ls", secured.path) == run("ls", source)
    run("echo one > log; echo two >> log; mv log log2; rm -r dir0", secured.path)
    assert (secured.disk / "log2").read_bytes() == b"one\ntwo\n"
    assert not (secured.disk / "dir0").exists()


def test_many_files_are_written_at_once_over_tls(secured: Mounted) -> None:
    rng = random.Random(3)
    contents = {f"file{n}": rng.randbytes(3_000_000 + n) for n in range(6)}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda item: (secured.path / item[0]).write_bytes(item[1]), contents.items()))
    assert {n: (secured.disk / n).read_bytes() for n in contents} == contents


def test_many_files_are_read_at_once_over_tls(secured: Mounted) -> None:
    rng = random.Random(4)
    contents = {f"file{n}": rng.randbytes(3_000_000 + n) for n in range(6)}
    for name, data in contents.items():
        (secured.disk / name).write_bytes(data)
        os.chown(secured.disk / name, secured.server.uid, secured.server.gid)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = pool.map(lambda name: (secured.path / name).read_bytes(), contents)
    assert list(got) == list(contents.values())


# What is refused.


class Tap:
    """Forwards everything to a server and records what the client sends."""

    def __init__(self, server: FtpServer) -> None:
        self._server = (server.host, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = bytearray()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, sink, keep in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._copy, args=[source, sink, keep], daemon=True
                    ).start()

    def _copy(self, source: socket.socket, sink: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    self.heard += data
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def tap() -> Iterator[Callable[[FtpServer], Tap]]:
    taps: list[Tap] = []

    def start(server: FtpServer) -> Tap:
        taps.append(Tap(server))
        return taps[-1]

    yield start
    for each in taps:
        each.close()


def refused(tapped: Tap, scheme: str, mountpoint: Path, options: str = "") -> str:
    """Check that mounting fails with one line on stderr, and return that line.

    No password and no name was sent in clear.
    """
    mountpoint.mkdir()
    done = ftpfs(
        "mount",
        f"{scheme}://{servers.USER}@127.0.0.1:{tapped.port}/",
        str(mountpoint),
        "-o",
        f"log_file={mountpoint.parent}/log{options}",
        env={"FTPFS_PASSWORD": servers.PASSWORD},
    )
    assert done.returncode != 0
    assert not os.path.ismount(mountpoint)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert servers.PASSWORD.encode() not in tapped.heard
    assert b"PASS" not in tapped.heard
    return lines[0]


@pytest.mark.parametrize("scheme", ["ftpes", "ftps"])
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("wrong_host", "mismatch"),
        ("self_signed", "self"),
        ("expired", "expired"),
        ("unknown authority", "certificate"),
    ],
)
def test_bad_certificate_is_refused_and_its_fault_named(
    start_server: StartServer,
    certificates: Certificates,
    tap: Callable[[FtpServer], Tap],
    tmp_path: Path,
    scheme: str,
    bad: str,
    cause: str,
) -> None:
    certificate = getattr(certificates, bad, certificates.server)
    tls: Tls = "explicit" if scheme == "ftpes" else "implicit"
    server = start_server("pyftpdlib", tls=tls, certificate=certificate)
    trusted = "" if bad == "unknown authority" else f",tls_ca={certificates.ca}"
    line = refused(tap(server), scheme, tmp_path / "mnt", trusted)
    assert "certificate" in line
    assert cause in line


@pytest.mark.parametrize("kind", ["vsftpd", "proftpd", "pyftpdlib"])
def test_server_without_tls_gets_no_login_in_clear(
    start_server: StartServer, tap: Callable[[FtpServer], Tap], tmp_path: Path, kind: Kind
) -> None:
    """(Every pure-ftpd has TLS compiled in and asks for a certificate only at AUTH.)"""
    tapped = tap(start_server(kind))
    assert "TLS" in refused(tapped, "ftpes", tmp_path / "mnt")
    assert b"USER" not in tapped.heard
    assert "TLS" in refused(tapped, "ftps", tmp_path / "mnt2")


@pytest.mark.parametrize("kind", servers.KINDS)
def test_error_says_that_the_server_demands_tls(
    start_server: StartServer, tap: Callable[[FtpServer], Tap], tmp_path: Path, kind: Kind
) -> None:
    server = start_server(kind, tls="explicit", require_tls=True)
    assert "demands TLS" in refused(tap(server), "ftp", tmp_path / "mnt")


def test_bad_certificate_is_accepted_with_tls_insecure(
    start_server: StartServer, certificates: Certificates, mount_server: MountServer
) -> None:
    server = start_server("pyftpdlib", tls="explicit", certificate=certificates.self_signed)
    (server.root / "file").write_bytes(b"content")
    mounted = mount_server(server, server.root, scheme="ftpes", options="tls_insecure")
    assert (mounted.path / "file").read_bytes() == b"content"
    assert "NOT verified" in mounted.log_text()


def test_pinned_certificate_keeps_a_mount_from_going_in_clear(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("pyftpdlib")
    here = tmp_path / "mnt"
    here.mkdir()
    address = f"ftp://{server.user}@{server.host}:{server.port}/"
    for option in (f"tls_fingerprint={'ab' * 32}", f"tls_ca={tmp_path}/missing.pem"):
        done = ftpfs(
            "mount", address, str(here), "-o", option, env={"FTPFS_PASSWORD": server.password}
        )
        assert done.returncode != 0
        assert "TLS" in done.stderr or "tls_ca" in done.stderr
        assert not os.path.ismount(here)
    assert "logged in" not in server.log_text()
