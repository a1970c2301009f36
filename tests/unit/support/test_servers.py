"""Every kind of test server, in every TLS mode it has, does what FTP needs it for.

Plain ftplib: what fails here is the test bed, not ftpfs.
"""

from __future__ import annotations

import contextlib
import ftplib
import io
import os
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RemoteDir, StartServer, skip_if_cannot
from tests.support import servers
from tests.support.certificates import Certificates
from tests.support.servers import FtpServer, Kind

BLOB = os.urandom(300_000)


class Tls(ftplib.FTP_TLS):
    """ftplib's TLS, which neither resumes sessions on data connections nor knows implicit TLS."""

    implicit = False
    reuse = True
    _sock: socket.socket | None = None

    @property
    def sock(self) -> Any:
        return self._sock

    @sock.setter
    def sock(self, value: Any) -> None:
        if self.implicit and value is not None and not isinstance(value, ssl.SSLSocket):
            value = self.context.wrap_socket(value, server_hostname=self.host)
        self._sock = value

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> Any:
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:  # type: ignore[attr-defined]
            session = self.sock.session if self.reuse else None
            conn = self.context.wrap_socket(conn, server_hostname=self.host, session=session)
        return conn, size


def login(server: FtpServer, *, reuse: bool = True) -> ftplib.FTP:
    ftp: ftplib.FTP
    if server.tls:
        # TLS 1.2: a 1.3 ticket serves once, and ftplib has no way to wait for the next.
        context = ssl.create_default_context(cafile=str(server.ca))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        ftp = Tls(timeout=10, context=context)
        ftp.implicit = server.tls == "implicit"
        ftp.reuse = reuse
    else:
        ftp = ftplib.FTP(timeout=10)
    ftp.encoding = "latin-1"
    ftp.connect(server.host, server.port)
    ftp.login(server.user, server.password)
    if isinstance(ftp, Tls):
        ftp.prot_p()
    ftp.voidcmd("TYPE I")
    return ftp


def fetch(ftp: ftplib.FTP, command: str) -> bytes:
    sink = io.BytesIO()
    ftp.retrbinary(command, sink.write)
    return sink.getvalue()


def exercise(server: FtpServer) -> None:
    ftp = login(server)
    ftp.storbinary("STOR file", io.BytesIO(BLOB))
    assert (server.root / "file").read_bytes() == BLOB
    assert (server.root / "file").stat().st_uid == server.uid
    assert fetch(ftp, "RETR file") == BLOB
    assert b"file" in fetch(ftp, "LIST")
    set_mtime = "MDTM" if server.kind == "vsftpd" else "MFMT"
    ftp.sendcmd(f"{set_mtime} 20200102030405 file")
    assert (server.root / "file").stat().st_mtime == 1577934245
    ftp.sendcmd("SITE CHMOD 640 file")
    assert (server.root / "file").stat().st_mode & 0o777 == 0o640
    ftp.quit()


@pytest.mark.parametrize("tls", [None, "explicit", "implicit"])
@pytest.mark.parametrize("kind", servers.KINDS)
def test_login_and_transfers(kind: Kind, tls: Any, start_server: StartServer) -> None:
    if tls and not servers.can_tls(kind, tls):
        skip_if_cannot(kind, f"{tls} tls")
    exercise(start_server(kind, tls=tls))


@pytest.mark.parametrize("kind", ["vsftpd", "proftpd"])
def test_session_reuse_is_demanded_unless_told(kind: Kind, start_server: StartServer) -> None:
    strict = start_server(kind, tls="explicit", require_tls=True)
    with pytest.raises((ftplib.Error, OSError, EOFError)):
        login(strict, reuse=False).storbinary("STOR f", io.BytesIO(b"x"))
    lax = start_server(kind, tls="explicit", require_ssl_reuse=False)
    login(lax, reuse=False).storbinary("STOR f", io.BytesIO(b"x"))


@pytest.mark.parametrize("kind", servers.KINDS)
def test_required_tls(kind: Kind, start_server: StartServer) -> None:
    server = start_server(kind, tls="explicit", require_tls=True)
    with ftplib.FTP(timeout=10) as ftp:
        ftp.connect(server.host, server.port)
        with pytest.raises(ftplib.Error):
            ftp.login(server.user, server.password)


def test_bad_certificates(start_server: StartServer, certificates: Certificates) -> None:
    for name in ("wrong_host", "expired", "self_signed"):
        server = start_server("pyftpdlib", tls="explicit", certificate=getattr(certificates, name))
        with pytest.raises(ssl.SSLCertVerificationError):
            login(server)


def test_wrong_password_and_chroot(server: FtpServer) -> None:
    ftp = ftplib.FTP(timeout=10)
    ftp.connect(server.host, server.port)
    with pytest.raises(ftplib.error_perm, match="530"):
        ftp.login(server.user, "wrong")
    ftp = login(server)
    assert ftp.pwd() == "/"
    with pytest.raises(ftplib.error_perm):
        ftp.cwd(str(server.root))


def test_remote_dir(remote_dir: RemoteDir) -> None:
    remote_dir.write("sub/file", BLOB)
    ftp = login(remote_dir.server)
    assert fetch(ftp, f"RETR {remote_dir.path}/sub/file") == BLOB
    ftp.delete(f"{remote_dir.path}/sub/file")
    ftp.rmd(f"{remote_dir.path}/sub")
    assert not list(remote_dir.disk.iterdir())


@pytest.mark.parametrize("kind", servers.KINDS)
@pytest.mark.parametrize("feature", sorted(servers.NAMES))
def test_table_of_names_agrees_with_the_rooms(
    kind: Kind, feature: str, shared: dict[Kind, tuple[FtpServer, ftplib.FTP]]
) -> None:
    """A name goes there and back byte for byte, except where CANNOT says so."""
    name = servers.NAMES[feature]
    server, ftp = shared[kind]
    path = f"/{feature.replace(' ', '-')}"
    ftp.mkd(path)
    wire = f"{path}/{name.decode('latin-1')}"
    disk = os.fsencode(server.root) + os.fsencode(path)
    try:
        ftp.storbinary(f"STOR {wire}", io.BytesIO(b"x"))
        stored = os.listdir(disk) == [name]
    except ftplib.error_perm:
        stored = False
    assert stored is (feature not in servers.CANNOT[kind])


@pytest.fixture(scope="module")
def shared(open_folder: Path) -> Any:
    """One server of each kind and a session with it: proftpd waits 0.2 s after each that ends."""
    running: dict[Kind, tuple[FtpServer, ftplib.FTP]] = {}
    with contextlib.ExitStack() as stack:
        for kind in servers.KINDS:
            folder = open_folder / f"names-{kind}"
            server = stack.enter_context(servers.start(kind, folder / "root", folder / "work"))
            running[kind] = server, login(server)
        yield running


def test_options(start_server: StartServer) -> None:
    limited = servers.Options(max_per_ip=1)
    for kind in servers.KINDS:
        server = start_server(kind, options=limited)
        # The probe that waited for the server may still be counted.
        deadline = time.monotonic() + 5
        while True:
            try:
                first = login(server)
                break
            except (ftplib.Error, EOFError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        with pytest.raises((ftplib.Error, EOFError, OSError)):
            login(server)
        first.quit()
    for kind in ("vsftpd", "proftpd", "pyftpdlib"):
        server = start_server(kind, options=servers.Options(read_only=True, anonymous=True))
        ftp = login(server)
        with pytest.raises(ftplib.error_perm):
            ftp.mkd("d")
    for kind in ("proftpd", "pyftpdlib"):
        server = start_server(kind, options=servers.Options(mlsd=False))
        ftp = login(server)
        with pytest.raises(ftplib.error_perm):
            fetch(ftp, "MLSD")


def test_anonymous(start_server: StartServer) -> None:
    for kind in ("vsftpd", "proftpd", "pyftpdlib"):
        server = start_server(kind, options=servers.Options(anonymous=True))
        (server.root / "public").write_bytes(b"x")
        ftp = ftplib.FTP(timeout=10)
        ftp.connect(server.host, server.port)
        ftp.login()
        ftp.voidcmd("TYPE I")
        assert fetch(ftp, "RETR public") == b"x"
        with pytest.raises(ftplib.error_perm):
            ftp.mkd("d")


@pytest.mark.parametrize("kind", servers.KINDS)
def test_pause_kill_stop(kind: Kind, start_server: StartServer) -> None:
    server = start_server(kind)
    ftp = login(server)
    assert ftp.sock is not None
    ftp.sock.settimeout(0.2)
    server.pause()
    with pytest.raises(TimeoutError):
        ftp.voidcmd("NOOP")
    server.resume()
    ftp = login(server)
    if kind == "pyftpdlib":
        with pytest.raises(servers.CannotDo):
            server.kill_sessions()
    else:
        assert server.sessions()
        server.kill_sessions()
        with pytest.raises((EOFError, OSError)):
            ftp.voidcmd("NOOP")
        login(server)
    family = [server.pid, *server.sessions()]
    server.stop()
    server.stop()
    assert not any(servers.running(pid) for pid in family)
    with pytest.raises(ConnectionRefusedError):
        login(server)
