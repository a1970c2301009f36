"""Arguments and URLs: what they mean, whose password is used, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.core import url_to_fs

from ftpfs import FTPESFileSystem, FTPFileSystem, FTPSFileSystem
from ftpfs.api import arguments
from ftpfs.settings.config import Config, Tls


def config(host: str = "host", **options: Any) -> Config:
    fs = FTPFileSystem(host, skip_instance_cache=True, **options)
    return arguments.config(fs._arguments)


@pytest.mark.parametrize(
    ("url", "kind", "tls", "port"),
    [
        ("ftp://host/a/b", FTPFileSystem, Tls.OFF, 21),
        ("ftpfs://host:2121/a/b", FTPFileSystem, Tls.OFF, 2121),
        ("ftpes://host/a/b", FTPESFileSystem, Tls.EXPLICIT, 21),
        ("ftps://host/a/b/", FTPSFileSystem, Tls.IMPLICIT, 990),
        ("ftp://[2001:db8:0:0:0:0:0:1]:2121//a/b", FTPFileSystem, Tls.OFF, 2121),
    ],
)
def test_url_names_class_server_and_path(url: str, kind: type, tls: Tls, port: int) -> None:
    fs, path = url_to_fs(url)
    assert path == "/a/b"
    assert isinstance(fs, FTPFileSystem)
    assert fs.__class__ is kind
    server = arguments.config(fs._arguments).server
    assert (server.tls, server.port, server.path) == (tls, port, "/")
    assert fsspec.get_filesystem_class(url.partition(":")[0]) is kind


def test_url_holds_user_and_password_and_its_path_is_not_decoded() -> None:
    fs, path = url_to_fs("ftp://me:p%40ss@host/a%20b/c?#d")
    server = arguments.config(fs._arguments).server
    assert (server.user, server.password.reveal()) == ("me", "p@ss")
    assert path == "/a%20b/c?#d"
    assert fs.unstrip_protocol(path) == "ftp://me@host/a%20b/c?#d"


@pytest.mark.parametrize(
    ("tls", "kind"),
    [
        (True, Tls.EXPLICIT),
        ("explicit", Tls.EXPLICIT),
        ("implicit", Tls.IMPLICIT),
        ("tls", Tls.IMPLICIT),
        ("tlsv1_2", Tls.IMPLICIT),
        ("optional", Tls.OPTIONAL),
        (False, Tls.OFF),
    ],
)
def test_words_for_tls_mean_what_they_mean_to_fsspec(tls: bool | str, kind: Tls) -> None:
    assert config(tls=tls).server.tls is kind


@pytest.mark.parametrize(
    "wrong", [{"tls": "tlsv1"}, {"tls": "none"}, {"acct": "a"}, {"port": 2121, "tls_max": "9"}]
)
def test_wrong_value_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        config(**wrong)


def test_unknown_argument_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="max_connexions"):
        config(max_connexions=3)


def test_options_of_a_mount_are_taken_and_timeout_sets_three_of_them() -> None:
    network = config(timeout=7, max_connections=3, finish_timeout="90s").network
    assert (network.connect_timeout, network.reply_timeout, network.data_timeout) == (7, 7, 7)
    assert (network.max_connections, network.finish_timeout) == (3, 90)
    assert config(timeout=7, reply_timeout=9).network.reply_timeout == 9
    assert config(encoding="latin-1").server.encoding in ("latin-1", "iso8859-1")


def test_without_a_user_the_login_is_that_of_netrc_or_anonymous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config().server.user == "anonymous"
    (tmp_path / ".netrc").write_text("machine host login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    server = config().server
    assert (server.user, server.password.reveal()) == ("me", "secret")
    monkeypatch.setenv("FTPFS_PASSWORD", "of the environment")
    assert config(username="you").server.password.reveal() == "of the environment"
    for given in ("of the program", ""):
        chosen = config(username="me", password=given).server
        assert chosen.password.reveal() == given


def test_missing_password_is_an_error_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fs = FTPFileSystem("host", username="me", skip_instance_cache=True)
    with pytest.raises(OSError, match="no password for me@host"):
        fs.ls("/")


def test_named_server_brings_its_address_options_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "ftpfs" / "config.toml"
    file.parent.mkdir()
    file.write_text(
        '[defaults]\nreply_timeout = "9s"\n'
        '[servers.nas]\nurl = "ftpes://me:secret@nas.local:2121/photos"\nmax_connections = 2\n'
    )
    file.chmod(0o600)
    built = config("nas")
    server = built.server
    assert (server.host, server.port, server.user) == ("nas.local", 2121, "me")
    assert (server.tls, server.path) == (Tls.EXPLICIT, "photos")
    assert (built.network.max_connections, built.network.reply_timeout) == (2, 9)
    assert config("nas", max_connections=7).network.max_connections == 7
    assert config("other").network.reply_timeout == 9


def test_default_is_few_connections_so_that_processes_live_beside_each_other() -> None:
    assert config().network.max_connections == arguments.CONNECTIONS
