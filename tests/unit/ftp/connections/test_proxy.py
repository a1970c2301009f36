"""All connections go through the proxy, and none beside it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.commands import files
from ftpfs.settings import credentials
from ftpfs.settings.build import build_config
from ftpfs.settings.config import Tls
from ftpfs.settings.credentials import Surroundings
from ftpfs.settings.options import OPTIONS, parse_options
from ftpfs.settings.source import parse_source
from tests.conftest import StartServer
from tests.support import odd_server, proxy, servers
from tests.support.odd_server import Script
from tests.support.servers import Kind
from tests.unit.ftp.connections import test_tls
from tests.unit.ftp.test_odd_servers import connected, everything_works

pytest.importorskip("python_socks")


@pytest.mark.parametrize("scheme", ["socks5", "http"])
@pytest.mark.parametrize("unknown", [set(), {"EPSV"}], ids=["EPSV", "PASV"])
def test_all_connections_go_through_proxy(scheme: str, unknown: set[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with proxy.running() as through, odd_server.start(root, Script(unknown=unknown)) as odd:
        odd.host = proxy.SECRET_HOST  # a connection beside the proxy would find no such host
        with connected(odd, {"proxy": f"{scheme}://127.0.0.1:{through.port}"}) as remote:
            everything_works(remote, root)
        assert {host for host, _ in through.asked} == {proxy.SECRET_HOST}
        assert len(through.asked) > 5  # including data connections


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_greeting_that_comes_with_reply_of_proxy_is_not_lost(scheme: str, tmp_path: Path) -> None:
    with proxy.running() as through, odd_server.start(tmp_path) as odd:
        through.greets_at_once = True
        with connected(odd, {"proxy": f"{scheme}://127.0.0.1:{through.port}"}) as remote:
            assert remote.pwd() == "/"


def test_tls_is_made_with_server_and_not_with_proxy(start_server: StartServer) -> None:
    server = start_server("vsftpd", tls="explicit", require_tls=True)
    with proxy.running() as through:
        remote = test_tls.connected(
            server,
            Tls.EXPLICIT,
            network={"proxy": f"socks5://127.0.0.1:{through.port}"},
            tls_ca=server.ca,
        )
        with remote as connection:
            test_tls.use(connection, 2)
        # The proxy looks the name up, and the certificate is checked against that name.
        assert {host for host, _ in through.asked} == {"localhost"}


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_error_names_proxy_that_refuses_or_is_unreachable(scheme: str, tmp_path: Path) -> None:
    with odd_server.start(tmp_path) as odd:
        with (
            proxy.running(refuse=True) as through,
            pytest.raises(errors.NetworkError, match="proxy"),
            connected(odd, {"proxy": f"{scheme}://127.0.0.1:{through.port}"}),
        ):
            pass
        with (
            pytest.raises(errors.NetworkError, match="proxy"),
            connected(odd, {"proxy": f"{scheme}://127.0.0.1:1"}),
        ):
            pass
        assert odd.commands == []


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_proxy_password_comes_from_hidden_sources(scheme: str, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password from-netrc")
    (tmp_path / ".netrc").chmod(0o600)
    (tmp_path / credentials.PROXY_CREDENTIAL).write_text("from-systemd\n")
    root = tmp_path / "root"
    root.mkdir()
    environ = {credentials.PROXY_PASSWORD_VARIABLE: "from-environ"}
    systemd = {**environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for given in ({}, environ, systemd):
        right = {0: "from-netrc", 1: "from-environ", 2: "from-systemd"}[len(given)]
        around = Surroundings(given, tmp_path, None, lambda _line: None)
        for password in (right, "another"):
            with proxy.running(password=password) as through, odd_server.start(root) as odd:
                text = f"proxy={scheme}://user@127.0.0.1:{through.port}"
                settings = parse_options(text)
                built = build_config(parse_source("anonymous@host"), settings, around)
                assert right not in repr(built)
                network = {"proxy": built.network.proxy, "proxy_login": built.network.proxy_login}
                if password == right:
                    with connected(odd, network) as remote:
                        assert remote.list("/") == []
                else:
                    with (
                        pytest.raises(errors.NetworkError, match="proxy") as caught,
                        connected(odd, network),
                    ):
                        pass
                    shown = "".join(traceback.format_exception(caught.value))
                    sent = base64.b64encode(f"user:{right}".encode()).decode()
                    assert not [secret for secret in (right, sent) if secret in shown]


def test_proxy_user_without_password_is_refused() -> None:
    around = Surroundings({}, None, None, lambda _line: None)
    values = parse_options("proxy=socks5://user@host:1080")
    with pytest.raises(errors.InvalidArgument, match="FTPFS_PROXY_PASSWORD"):
        build_config(parse_source("host"), values, around)


@pytest.mark.parametrize("text", ["host:1080", "socks5://me:pw@host:1080", "ftp://host:21", "x"])
def test_invalid_proxy_url_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="option proxy") as caught:
        OPTIONS["proxy"].read(text)
    assert "pw@" not in str(caught.value)


def test_active_mode_through_proxy_is_refused() -> None:
    around = Surroundings({}, None, None, lambda _line: None)
    values = parse_options("proxy=socks5://host:1080,active")
    with pytest.raises(errors.InvalidArgument, match="active"):
        build_config(parse_source("host"), values, around)


@pytest.mark.parametrize("newest", ["1.2", "1.3"])
@pytest.mark.parametrize("way", test_tls.WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_listing_without_close_notify_is_discarded(
    start_server: StartServer, way: tuple[Kind, servers.Tls], newest: str
) -> None:
    """Anybody on the way can cut a connection between two records, and the server says 226."""
    kind, tls = way
    server = start_server(kind, tls=tls, require_tls=True)
    mode = Tls.EXPLICIT if tls == "explicit" else Tls.IMPLICIT
    with (
        proxy.running() as through,
        test_tls.connected(
            server,
            mode,
            network={"proxy": f"socks5://127.0.0.1:{through.port}"},
            tls_ca=server.ca,
            tls_max=newest,
        ) as remote,
    ):
        (server.root / "file").write_bytes(bytes(50_000))
        (server.root / "file").chmod(0o644)
        through.cuts_before_close_notify = True
        # A server that was not yet seen to send close_notify.
        assert [entry.name for entry in remote.list("/")] == ["file"]
        through.cuts_before_close_notify = False
        remote.list("/")
        through.cuts_before_close_notify = True
        with pytest.raises(errors.DataConnectionFailed, match="TLS"):
            remote.list("/")
        # A file's size shows its end.
        with remote.open_read("/file") as download:
            assert download.read(50_000) == bytes(50_000)
            download.finish()
        through.cuts_before_close_notify = False
        assert [entry.name for entry in remote.list("/")] == ["file"]


@pytest.mark.parametrize("kind", servers.KINDS)
def test_file_cut_without_close_notify_does_not_become_shorter(
    start_server: StartServer, kind: Kind, tmp_path: Path
) -> None:
    """Cut between two records, while the server says 226: only the size shows it."""
    server = start_server(kind, tls="explicit", require_tls=True)
    with (
        proxy.running() as through,
        test_tls.connected(
            server,
            Tls.EXPLICIT,
            network={"proxy": f"socks5://127.0.0.1:{through.port}"},
            tls_ca=server.ca,
        ) as remote,
    ):
        (server.root / "file").write_bytes(bytes(600_000))
        (server.root / "file").chmod(0o644)
        through.cuts_before_close_notify = True
        through.passes_records = 12
        with pytest.raises((errors.DataMismatch, errors.NetworkError)):
            files.get(remote, "/file", str(tmp_path / "file"), text=False)
        assert os.listdir(tmp_path) == []
        through.passes_records = 1 << 30
        files.get(remote, "/file", str(tmp_path / "file"), text=False)
    assert (tmp_path / "file").read_bytes() == bytes(600_000)


def test_proxy_password_is_blanked_in_proc_environ() -> None:
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ftpfs.settings import secrecy; secrecy.hide_passwords();"
            "print(open('/proc/self/environ').read())",
        ],
        env={credentials.PROXY_PASSWORD_VARIABLE: "hunter2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{credentials.PROXY_PASSWORD_VARIABLE}=*******" in shown
