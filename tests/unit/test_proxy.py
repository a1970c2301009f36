"""Through a proxy goes everything, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpfs import config, errors
from ftpfs.config import Tls
from ftpfs.credentials import Surroundings
from tests.conftest import StartServer
from tests.support import odd_server, proxy, servers
from tests.support.odd_server import Script
from tests.support.servers import Kind
from tests.unit import test_tls
from tests.unit.test_odd_servers import connected, everything_works

pytest.importorskip("python_socks")


@pytest.mark.parametrize("scheme", ["socks5", "http"])
@pytest.mark.parametrize("unknown", [set(), {"EPSV"}], ids=["EPSV", "PASV"])
def test_everything_works_through_a_proxy_and_nothing_goes_beside_it(
    scheme: str, unknown: set[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with proxy.running() as through, odd_server.start(root, Script(unknown=unknown)) as odd:
        odd.host = proxy.SECRET_HOST  # whoever goes beside the proxy finds no such host
        with connected(odd, {"proxy": f"{scheme}://127.0.0.1:{through.port}"}) as remote:
            everything_works(remote, root)
        assert {host for host, _ in through.asked} == {proxy.SECRET_HOST}
        assert len(through.asked) > 5  # data connections, too


def test_tls_is_spoken_with_the_server_and_not_with_the_proxy(start_server: StartServer) -> None:
    if reason := servers.why_unavailable("vsftpd"):
        pytest.skip(reason)
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
        # The name is looked up by the proxy, and is what the certificate is checked against.
        assert {host for host, _ in through.asked} == {"localhost"}


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_proxy_that_refuses_or_is_not_there_is_named(scheme: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("text", ["host:1080", "socks5://me:pw@host:1080", "ftp://host:21", "x"])
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="option proxy") as caught:
        config.OPTIONS["proxy"].read(text)
    assert "pw@" not in str(caught.value)


def test_active_mode_through_a_proxy_is_refused() -> None:
    around = Surroundings({}, None, None, lambda _line: None)
    values = config.parse_options("proxy=socks5://host:1080,active")
    with pytest.raises(errors.InvalidArgument, match="active"):
        config.build(config.parse_source("host"), values, around)


@pytest.mark.parametrize("newest", ["1.2", "1.3"])
@pytest.mark.parametrize("way", test_tls.WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_a_listing_that_ends_without_close_notify_is_not_believed(
    start_server: StartServer, way: tuple[Kind, servers.Tls], newest: str
) -> None:
    """Whoever is on the way can cut a connection between two records, and the server says 226."""
    kind, tls = way
    server = test_tls.start(start_server, kind, tls=tls, require_tls=True)
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
        # A server of which nothing better is known.
        assert [entry.name for entry in remote.list("/")] == ["file"]
        through.cuts_before_close_notify = False
        remote.list("/")
        through.cuts_before_close_notify = True
        with pytest.raises(errors.DataConnectionFailed, match="TLS"):
            remote.list("/")
        # A file is known by its size.
        with remote.open_read("/file") as download:
            assert download.read(50_000) == bytes(50_000)
            download.finish()
        through.cuts_before_close_notify = False
        assert [entry.name for entry in remote.list("/")] == ["file"]
