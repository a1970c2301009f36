"""The relay does what the fault tests believe it does. pyftpdlib behind it, ftplib before it."""

from __future__ import annotations

import contextlib
import ftplib
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import Kind

LOST = (ConnectionResetError, BrokenPipeError, EOFError)
BLOB = bytes(range(256)) * 4096 * 4  # 4 MiB


@pytest.fixture(scope="module")
def backend(open_folder: Path) -> Iterator[servers.FtpServer]:
    folder = open_folder / "relay"
    with servers.start("pyftpdlib", folder / "root", folder / "work") as server:
        (server.root / "blob").write_bytes(BLOB)
        yield server


@pytest.fixture
def relay(backend: servers.FtpServer) -> Iterator[Relay]:
    with Relay(backend.host, backend.port) as relay:
        yield relay


def client(relay: Relay, timeout: float = 5) -> ftplib.FTP:
    ftp = ftplib.FTP(timeout=timeout)
    ftp.connect(relay.host, relay.port)
    ftp.login(servers.USER, servers.PASSWORD)
    return ftp


def fetch(ftp: ftplib.FTP, name: str = "blob") -> bytes:
    sink = io.BytesIO()
    ftp.retrbinary(f"RETR {name}", sink.write, 1 << 18)
    return sink.getvalue()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_passes_and_records(relay: Relay, family: int) -> None:
    ftp = client(relay)
    ftp.af = family  # INET6 makes ftplib use EPSV
    assert fetch(ftp) == BLOB
    ftp.storbinary("STOR up", io.BytesIO(BLOB))
    assert "blob" in ftp.nlst()
    ftp.quit()
    passive = "PASV" if family == socket.AF_INET else "EPSV"
    assert relay.count("RETR") == 1
    assert relay.count(passive) == 3
    assert [c.arg for c in relay.commands if c.verb == "STOR"] == ["up"]
    assert relay.wait_for(lambda: relay.open_connections == 0)
    assert relay.data_bytes("up") == len(BLOB)
    assert relay.data_bytes("down") > len(BLOB)
    assert len(relay.connections) == 1
    assert relay.wait_for(lambda: all(link.closed for link in relay.data))
    relay.reset()
    assert not relay.commands
    assert not relay.data


def test_pipelined_commands_keep_their_order(relay: Relay) -> None:
    relay.refuse("MDTM", "502 no")
    relay.latency = 0.2
    ftp = client(relay)
    ftp.voidcmd("TYPE I")
    assert ftp.sock is not None
    began = time.monotonic()
    ftp.sock.sendall(b"SIZE blob\r\nMDTM blob\r\nNOOP\r\n" * 200)
    replies = [ftp.getmultiline()[:3] for _ in range(600)]
    assert replies == ["213", "502", "200"] * 200
    assert time.monotonic() - began < 20, "the delays must overlap"


def test_cut_control_before_after_final(relay: Relay, backend: servers.FtpServer) -> None:
    for when, done in (("before", False), ("after", True)):
        ftp = client(relay)
        relay.cut_control("MKD", when=when)  # type: ignore[arg-type]
        with pytest.raises(LOST):
            ftp.mkd(f"dir-{when}")
        time.sleep(0.05)
        assert (backend.root / f"dir-{when}").exists() is done
    ftp = client(relay)
    relay.cut_control("STOR", when="final", how="fin")
    with pytest.raises(LOST):
        ftp.storbinary("STOR whole", io.BytesIO(BLOB))
    assert (backend.root / "whole").read_bytes() == BLOB
    ftp = client(relay)
    relay.cut_control(skip=2)
    ftp.voidcmd("NOOP")
    ftp.voidcmd("NOOP")
    with pytest.raises(LOST):
        ftp.voidcmd("NOOP")
    client(relay).quit()


def test_replace_and_drop_replies(relay: Relay, backend: servers.FtpServer) -> None:
    ftp = client(relay, timeout=0.5)
    relay.replace_reply("STOR", "552 quota", times=1)
    with pytest.raises(ftplib.error_perm, match="552"):
        ftp.storbinary("STOR a", io.BytesIO(b"a"))
    ftp.storbinary("STOR a", io.BytesIO(b"a"))
    relay.drop_reply("STOR")
    with pytest.raises(TimeoutError):
        ftp.storbinary("STOR b", io.BytesIO(b"b"))
    assert (backend.root / "b").read_bytes() == b"b"


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_data(relay: Relay, backend: servers.FtpServer, how: str) -> None:
    ftp = client(relay)
    relay.cut_data("down", after=1_000_000, how=how)  # type: ignore[arg-type]
    got = bytearray()
    broken = (ConnectionResetError, BrokenPipeError, ftplib.error_temp)
    # With "fin" the server's 226 may reach a client that noticed nothing: the cruellest case.
    with pytest.raises(broken) if how == "rst" else contextlib.suppress(*broken):
        ftp.retrbinary("RETR blob", got.extend)
    assert bytes(got) == BLOB[:1_000_000]
    ftp = client(relay)
    relay.cut_data("up", after=1_000_000, how=how)  # type: ignore[arg-type]
    # pyftpdlib says 226 even to an upload that was reset.
    with contextlib.suppress(*broken):
        ftp.storbinary("STOR cut", io.BytesIO(BLOB))
    assert (backend.root / "cut").stat().st_size <= 1_000_000
    assert fetch(client(relay)) == BLOB


def test_stall_data_and_release(relay: Relay) -> None:
    rule = relay.stall_data("down", after=70_000)
    ftp = client(relay)
    ftp.voidcmd("TYPE I")
    sock = ftp.transfercmd("RETR blob")
    sock.settimeout(0.3)
    got = bytearray()
    with contextlib.suppress(TimeoutError):
        while data := sock.recv(65536):
            got += data
    assert bytes(got) == BLOB[:70_000]
    assert rule.hits == 1
    relay.release()
    while data := sock.recv(65536):
        got += data
    assert bytes(got) == BLOB


def test_stall_replies_and_release(relay: Relay) -> None:
    ftp = client(relay, timeout=0.3)
    relay.stall_replies()
    with pytest.raises(TimeoutError):
        ftp.voidcmd("NOOP")
    ftp = ftplib.FTP(timeout=3)
    threading.Timer(0.2, relay.release).start()
    ftp.connect(relay.host, relay.port)
    relay.hold_reply("NOOP")
    threading.Timer(0.2, relay.release).start()
    began = time.monotonic()
    ftp.voidcmd("NOOP")
    assert time.monotonic() - began > 0.15


def test_limits_and_vanishing(relay: Relay) -> None:
    relay.limit_connections(1)
    first = client(relay)
    with pytest.raises(ftplib.error_temp, match="421"):
        client(relay)
    relay.limit_connections(1, "530 Too many users", at="login")
    with pytest.raises(ftplib.error_perm, match="530"):
        client(relay)
    relay.limit_connections(None)
    assert relay.peak_connections == 2
    port = relay.port
    relay.vanish()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((relay.host, relay.port))
    with pytest.raises(LOST):
        first.voidcmd("NOOP")
    with pytest.raises(ConnectionRefusedError):
        client(relay)
    relay.come_back()
    assert relay.port == port
    assert fetch(client(relay)) == BLOB
    relay.refuse_connections()
    with pytest.raises(LOST):
        client(relay)
    relay.clear()
    client(relay).quit()


def test_tls_passes_unread(start_server: StartServer) -> None:
    server = start_server("pyftpdlib", tls="explicit")
    with Relay(server.host, server.port) as relay:
        context = ssl.create_default_context(cafile=str(server.ca))
        ftp = ftplib.FTP_TLS(timeout=5, context=context)
        ftp.connect(relay.host, relay.port)
        ftp.login(server.user, server.password)
        ftp.prot_p()
        ftp.storbinary("STOR secret", io.BytesIO(BLOB))
        assert (server.root / "secret").read_bytes() == BLOB
        assert relay.verbs == ["AUTH"]
        relay.vanish()
        with pytest.raises((*LOST, ssl.SSLError)):
            ftp.voidcmd("NOOP")


@pytest.mark.parametrize("kind", ["vsftpd", "proftpd", "pure-ftpd"])
def test_before_other_servers(kind: Kind, start_server: StartServer) -> None:
    """The relay tells replies apart: of many lines, early ones, ABOR's two answers."""
    server = start_server(kind)
    server.root.joinpath("blob").write_bytes(BLOB * 4)
    with Relay(server.host, server.port) as relay:
        relay.refuse("MDTM", "502 no")
        ftp = client(relay)
        ftp.sendcmd("FEAT")
        ftp.sendcmd("STAT")
        ftp.voidcmd("TYPE I")
        for early in (True, False):
            data = ftp.transfercmd("RETR blob")
            data.recv(1000)
            if early:
                data.close()
                # pure-ftpd says 150 once more.
                assert ftp.getmultiline()[:3] == ("150" if kind == "pure-ftpd" else "426")
            else:
                assert ftp.sock is not None
                ftp.sock.sendall(b"ABOR\r\n", socket.MSG_OOB)  # as ftplib does it
                data.close()
                assert ftp.getmultiline()[:3] in ("426", "150")
                assert ftp.getmultiline()[:3] in ("225", "226")
            assert ftp.size("blob") == len(BLOB) * 4
            with pytest.raises(ftplib.error_perm, match="502 no"):
                ftp.sendcmd("MDTM blob")
            ftp.voidcmd("NOOP")


def test_many_at_once(relay: Relay) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(client(relay, 30)))) for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [BLOB] * 64
    assert relay.count("RETR") == 64
