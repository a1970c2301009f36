"""TLS against the real servers, each demanding that data connections resume the session."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import transfers
from ftpfs.ftp.connections.control import Control, tls_context
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.settings import config
from ftpfs.settings.config import Network
from ftpfs.settings.credentials import Secret
from tests.conftest import StartServer
from tests.support import odd_server, servers
from tests.support.certificates import Certificates
from tests.support.odd_server import Script
from tests.support.servers import Kind, Options, Tls

WAYS: list[tuple[Kind, Tls]] = [
    (kind, tls)
    for kind in servers.KINDS
    for tls in ("explicit", "implicit")
    if servers.can_tls(kind, tls)
]


@contextlib.contextmanager
def connected(
    server: Any, tls: config.Tls, network: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Remote]:
    remote = Remote(
        config.Server(
            "localhost" if server.host == "127.0.0.1" else server.host,
            server.port,
            tls=tls,
            user=server.user,
            password=Secret(server.password),
            **settings,
        ),
        Network(
            reply_timeout=5,
            data_timeout=5,
            connect_timeout=5,
            max_connections=3,
            **(network or {}),
        ),
    )
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


def use(remote: Remote, times: int = 4) -> None:
    """Make data connections in a row: uploads, listings, downloads, one of them left early."""
    for number in range(times):
        transfers = b"%d" % number * 50_000
        with tempfile.TemporaryFile() as file:
            file.write(transfers)
            file.flush()
            content = FileContent(file.fileno(), len(transfers), None, None)
            remote.store(f"/f{number}", content, base=None, check=False)
        assert f"f{number}" in [entry.name for entry in remote.list("/")]
        with remote.open_read(f"/f{number}") as download:
            assert download.read(10) == transfers[:10]
        with remote.open_read(f"/f{number}", 7) as download:
            assert download.read(1 << 20) == transfers[7:]


def fingerprint(pem: Path) -> str:
    text = pem.read_text()
    start = text.index("-----BEGIN CERTIFICATE")
    end = text.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[start:end])).hexdigest()


@pytest.mark.parametrize("newest", ["1.2", "1.3"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_further_session_is_logged_in_and_protected_by_one_write(
    start_server: StartServer, way: tuple[Kind, Tls], newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, tls = way
    server = start_server(kind, tls=tls)
    where = config.Tls(tls)
    with connected(server, where, tls_ca=server.ca, tls_max=newest) as remote:
        use(remote, 1)
        sent: list[tuple[list[bytes], bool]] = []
        send = Control.send

        def note(self: Control, wire: bytes) -> None:
            verbs = [line.split()[0] for line in wire.splitlines()]
            sent.append((verbs, isinstance(self.sock, ssl.SSLSocket)))
            send(self, wire)

        monkeypatch.setattr(Control, "send", note)
        for _ in range(2):
            session = remote._pool._connect()
            verbs, protected = sent.pop()
            assert not sent, "nothing but what ftplib sends: AUTH, or all of the login"
            if remote.profile.wire.takes_login_at_once:
                assert verbs[:5] == [b"USER", b"PASS", b"PBSZ", b"PROT", b"TYPE"]
            else:
                assert verbs[0] == b"TYPE"
            assert protected
            with session.download("/f0") as download:
                assert download.read(100) == b"0" * 100
            session.close()
            sent.clear()


def refuse(monkeypatch: pytest.MonkeyPatch, verb: bytes) -> None:
    """Have the server get another word in place of this command."""
    send = Control.send
    monkeypatch.setattr(Control, "send", lambda self, wire: send(self, wire.replace(verb, b"XYZW")))


@pytest.mark.parametrize("tls", ["explicit", "optional"])
def test_login_fails_when_session_cannot_be_protected(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    server = start_server("vsftpd", tls="explicit")
    with connected(server, config.Tls(tls), tls_ca=server.ca) as remote:
        use(remote, 1)
        refuse(monkeypatch, b"PROT")
        with pytest.raises(errors.FtpfsError):
            remote._pool._connect()


def test_server_that_refuses_pbsz_still_gets_data_over_tls(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server("vsftpd", tls="explicit", require_tls=True)
    with connected(server, config.Tls.EXPLICIT, tls_ca=server.ca) as remote:
        use(remote, 1)
        refuse(monkeypatch, b"PBSZ")
        session = remote._pool._connect()  # in one write
        assert session.listing("LIST")[1]
        session.close()


@pytest.mark.parametrize("newest", ["1.2", "1.3"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_many_successive_data_connections_resume_tls_session(
    start_server: StartServer, way: tuple[Kind, Tls], newest: str
) -> None:
    kind, tls = way
    server = start_server(kind, tls=tls, require_tls=True, require_ssl_reuse=True)
    mode = config.Tls.EXPLICIT if tls == "explicit" else config.Tls.IMPLICIT
    with connected(server, mode, tls_ca=server.ca, tls_max=newest) as remote:
        use(remote)


# Trust.


def test_only_certificate_with_given_fingerprint_is_trusted(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = start_server("proftpd", tls="explicit", certificate=certificates.self_signed)
    right = fingerprint(certificates.self_signed)
    with connected(server, config.Tls.EXPLICIT, tls_fingerprint=right) as remote:
        use(remote, 2)
    before = server.log_text()
    wrong = fingerprint(certificates.server)
    with (
        pytest.raises(errors.TlsError, match=right),
        connected(server, config.Tls.EXPLICIT, tls_fingerprint=wrong, tls_ca=server.ca),
    ):
        pass
    assert "Login successful" not in server.log_text()[len(before) :]


def test_log_warns_at_each_unverified_connection(
    start_server: StartServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("pyftpdlib", tls="explicit", certificate=certificates.expired)
    for _ in range(2):
        with connected(server, config.Tls.EXPLICIT, tls_insecure=True) as remote:
            use(remote, 1)
    warnings = [r for r in caplog.records if "NOT verified" in r.getMessage()]
    assert len(warnings) >= 2


# Proftpd reads its authorities at its start, vsftpd at each session.
_ASKS_FOR_CLIENTS: dict[Kind, str] = {
    "vsftpd": "require_cert=YES\nvalidate_cert=YES\nca_certs_file={ca}",
    "proftpd": "TLSVerifyClient on\nTLSCACertificateFile {ca}",
}


def key_apart(both: Path, folder: Path) -> dict[str, Any]:
    """A certificate and its private key as separate files."""
    pem = both.read_text()
    start = pem.index("-----BEGIN CERTIFICATE")
    (folder / "key.pem").write_text(pem[:start])
    (folder / "certificate.pem").write_text(pem[start:])
    return {"tls_cert": folder / "certificate.pem", "tls_key": folder / "key.pem"}


@pytest.mark.parametrize("apart", [False, True], ids=["one file", "key apart"])
@pytest.mark.parametrize("kind", _ASKS_FOR_CLIENTS)
def test_client_certificate_is_sent_when_server_asks_for_one(
    start_server: StartServer, certificates: Certificates, kind: Kind, apart: bool, tmp_path: Path
) -> None:
    lines = _ASKS_FOR_CLIENTS[kind].format(ca=certificates.ca).split("\n")
    options = Options(extra=tuple(lines))
    server = start_server(kind, tls="explicit", require_tls=True, options=options)
    ours = key_apart(certificates.client, tmp_path) if apart else {"tls_cert": certificates.client}
    with connected(server, config.Tls.EXPLICIT, tls_ca=server.ca, **ours) as remote:
        use(remote, 2)
    with (
        pytest.raises((errors.TlsError, errors.ConnectionLost, errors.LoginFailed)),
        connected(server, config.Tls.EXPLICIT, tls_ca=server.ca),
    ):
        pass


def test_end_without_close_notify_is_an_error_in_every_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = ssl.create_default_context

    def as_debian_12(*arguments: Any, **words: Any) -> ssl.SSLContext:
        context = make(*arguments, **words)
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_debian_12)
    context = tls_context(config.Server("as-debian-12.example"))
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    as_told_there = ssl.SSLError(1, "unexpected eof while reading")
    as_told_there.reason = "UNEXPECTED_EOF_WHILE_READING"
    assert transfers._ended_unsaid(as_told_there)


def test_error_names_invalid_certificate_file_without_prompt(
    certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "junk").write_text("junk")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tls_ca": tmp_path / "junk"}, "tls_ca .*junk"),
        ({"tls_ca": tmp_path / "missing"}, "tls_ca .*missing"),
        ({"tls_cert": tmp_path / "junk"}, "tls_cert .*junk"),
        ({"tls_cert": certificates.ca}, "tls_cert .*private key"),
        ({"tls_cert": certificates.client_locked}, "in clear"),
    ]
    for settings, words in cases:
        with pytest.raises(errors.InvalidArgument, match=words):
            tls_context(config.Server("host", **settings))


# Optional TLS, and clear text on request.


def test_optional_tls_is_used_when_server_has_tls(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("vsftpd", tls="explicit", require_tls=True)
    with connected(server, config.Tls.OPTIONAL, tls_ca=server.ca) as remote:
        use(remote, 1)
    assert "in clear" not in caplog.text


def test_optional_tls_warns_when_server_has_no_tls(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    server = start_server("vsftpd")
    with connected(server, config.Tls.OPTIONAL) as remote:
        use(remote, 1)
    assert "all else go in clear" in caplog.text


def test_optional_tls_does_not_fall_back_when_agreed_tls_fails(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = start_server("vsftpd", tls="explicit", certificate=certificates.self_signed)
    with (
        pytest.raises(errors.TlsError, match="certificate"),
        connected(server, config.Tls.OPTIONAL, tls_ca=server.ca),
    ):
        pass
    assert "LOGIN" not in server.log_text()


@pytest.mark.parametrize("reply", ["431 try later", "421 busy", "234 go on"])
def test_optional_tls_falls_back_only_when_server_has_no_tls(tmp_path: Path, reply: str) -> None:
    """A server that is busy, or breaks off in the handshake, is not a server without TLS."""
    script = Script(replies={"AUTH": reply}, idle_timeout=1)
    with odd_server.start(tmp_path, script) as odd:
        with pytest.raises(errors.FtpfsError), connected(odd, config.Tls.OPTIONAL):
            pass
        assert "PASS" not in odd.verbs()


@pytest.mark.parametrize("kind", ["proftpd", "pure-ftpd"])
def test_commands_are_clear_and_data_is_protected_after_ccc(
    start_server: StartServer, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(kind, tls="explicit", require_tls=True)
    resumed = []
    wrap_data = Control.wrap_data

    def noting(control: Control, channel: socket.socket) -> socket.socket:
        wrapped = wrap_data(control, channel)
        assert isinstance(wrapped, ssl.SSLSocket)
        resumed.append(wrapped.session_reused)
        return wrapped

    monkeypatch.setattr(Control, "wrap_data", noting)
    with connected(
        server, config.Tls.EXPLICIT, tls_ca=server.ca, tls_ccc=True, tls_max="1.2"
    ) as remote:
        use(remote, 2)
    assert resumed
    assert all(resumed)


def test_session_stays_protected_on_server_without_ccc(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("vsftpd", tls="explicit", require_tls=True)
    with connected(server, config.Tls.EXPLICIT, tls_ca=server.ca, tls_ccc=True) as remote:
        use(remote, 1)
    assert "no CCC" in caplog.text
