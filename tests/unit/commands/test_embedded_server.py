"""The embedded server, in its own process, driven by ftplib."""

from __future__ import annotations

import ftplib
import io
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ftpfs.commands import embedded_server
from ftpfs.errors import FtpfsError
from ftpfs.settings.credentials import Secret
from tests.support.certificates import Certificates
from tests.unit.commands.processes import ftpfs_process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "served"
    place.mkdir()
    (place / "README").write_text("hello\n")
    return place


@contextmanager
def client(url: str, user: str = "", password: str = "") -> Iterator[ftplib.FTP]:
    parts = urlsplit(url)
    with ftplib.FTP(encoding="latin-1", timeout=10) as ftp:
        ftp.connect(parts.hostname or "", parts.port or 0)
        ftp.login(user, password)
        yield ftp


def test_server_is_read_only_without_write(folder: Path) -> None:
    with embedded_server.running(str(folder)) as url, client(url) as ftp:
        assert ftp.getwelcome() == "220 ftpfs"
        got = io.BytesIO()
        ftp.retrbinary("RETR README", got.write)
        assert got.getvalue() == b"hello\n"
        for refused in ("DELE README", "MKD x", "RNFR README", "SITE CHMOD 600 README"):
            with pytest.raises(ftplib.error_perm):
                ftp.voidcmd(refused)
        with pytest.raises(ftplib.error_perm):
            ftp.storbinary("STOR new", io.BytesIO(b"x"))
    assert [p.name for p in folder.iterdir()] == ["README"]


def test_server_takes_files_and_times_with_write(folder: Path) -> None:
    with embedded_server.running(str(folder), "--write") as url, client(url) as ftp:
        ftp.storbinary("STOR new", io.BytesIO(b"data"))
        ftp.voidcmd("MFMT 20200102030405 new")
        ftp.rename("new", "newer")
    assert (folder / "newer").read_bytes() == b"data"
    assert (folder / "newer").stat().st_mtime == 1577934245


def test_names_that_are_not_utf8_round_trip_through_the_server(folder: Path) -> None:
    (folder / os.fsdecode(b"odd\xff")).write_text("x")
    with embedded_server.running(str(folder), "--write") as url, client(url) as ftp:
        assert "odd\xff" in ftp.nlst()
        # The reply repeats the name: that must not end the session either.
        assert ftp.mkd("dir\xfe") == "/dir\xfe"
        assert ftp.voidcmd("NOOP").startswith("200")
    assert b"dir\xfe" in os.listdir(os.fsencode(folder))


def test_server_listens_on_this_machine_only(folder: Path) -> None:
    with embedded_server.running(str(folder)) as url:
        assert url.startswith("ftp://127.0.0.1:")


def test_server_requires_the_login_of_user(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    arguments = ["--user", "bob", "--password-file", str(tmp_path / "pw")]
    with embedded_server.running(str(folder), *arguments) as url:
        assert "//bob@" in url
        assert "hunter2" not in url
        with pytest.raises(ftplib.error_perm), client(url):
            pass
        with client(url, "bob", "hunter2") as ftp:
            assert ftp.nlst() == ["README"]


def test_server_requires_tls_with_a_certificate(folder: Path, certificates: Certificates) -> None:
    with embedded_server.running(str(folder), "--tls-cert", str(certificates.server)) as url:
        assert url.startswith("ftpes://")
        with pytest.raises(ftplib.error_perm), client(url.replace("ftpes", "ftp")):
            pass
        trust = ssl.create_default_context(cafile=str(certificates.ca))
        with ftplib.FTP_TLS(context=trust, timeout=10) as ftp:
            ftp.connect("127.0.0.1", urlsplit(url).port or 0)
            ftp.login()
            ftp.prot_p()
            assert ftp.nlst() == ["README"]


def served(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`ftpfs serve` of a folder, as a user starts it."""
    command, environ = embedded_server.this_program()
    return subprocess.Popen(
        [*command, "serve", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_ends_cleanly_on_a_signal(folder: Path, number: int) -> None:
    with served(folder) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("ftp://")
        process.send_signal(number)
        _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "")


# A server whose answer to NOOP swallows what is raised in it, as pyftpdlib and ssl do in places.
SWALLOWS = """
import sys, time
from ftpfs.commands import embedded_server
from pyftpdlib.handlers import FTPHandler

def noop(self, line):
    self.respond("200 so be it")
    try:
        time.sleep(1)
    except BaseException:
        pass

FTPHandler.ftp_NOOP = noop
embedded_server.run(embedded_server.Service(sys.argv[1]), lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_ends_on_a_signal_at_any_moment(folder: Path, number: int) -> None:
    _, environ = embedded_server.this_program()
    with subprocess.Popen(
        [sys.executable, "-c", SWALLOWS, str(folder)],
        stdout=subprocess.PIPE,
        env=environ,
        text=True,
    ) as process:
        try:
            assert process.stdout
            with client(process.stdout.readline().strip()) as ftp:
                ftp.putcmd("NOOP")
                ftp.getresp()
                process.send_signal(number)
                assert process.wait(10) == 0
        finally:
            process.kill()


def test_idle_server_logs_nothing_again_and_again(folder: Path) -> None:
    with served(folder, "--verbose") as process:
        assert process.stdout
        with client(process.stdout.readline().strip()):
            time.sleep(1)
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert "USER" in log
    assert log.count("starting") <= 1, log


def test_process_of_the_server_ends_with_its_block(folder: Path) -> None:
    with embedded_server.running(str(folder)) as url:
        pass
    with pytest.raises(ConnectionRefusedError), client(url):
        pass


def test_server_that_does_not_start_tells_why(tmp_path: Path) -> None:
    with (
        pytest.raises(FtpfsError, match="nowhere"),
        embedded_server.running(str(tmp_path / "nowhere")),
    ):
        pass


def test_bad_certificate_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    done = ftpfs_process("serve", str(folder), "--tls-cert", str(tmp_path / "bad.pem"))
    assert done.returncode == 1
    assert re.fullmatch(r"ftpfs: cannot use the certificate .*bad\.pem.*\n", done.stderr)


def test_password_is_not_in_the_repr_of_a_service(folder: Path) -> None:
    service = embedded_server.Service(str(folder), user="bob", password=Secret("hunter2"))
    assert "hunter2" not in repr(service)


def test_server_serves_several_clients_at_once(folder: Path) -> None:
    (folder / "big").write_bytes(b"x" * 5_000_000)
    sizes: list[int] = []

    def fetch(url: str) -> None:
        with client(url) as ftp:
            got = io.BytesIO()
            ftp.retrbinary("RETR big", got.write)
            sizes.append(len(got.getvalue()))

    with embedded_server.running(str(folder)) as url:
        threads = [threading.Thread(target=fetch, args=(url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sizes == [5_000_000] * 8
