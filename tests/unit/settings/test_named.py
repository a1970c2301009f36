"""Named servers: what the file says, in which order it counts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpfs.errors import InvalidArgument
from ftpfs.settings import named
from ftpfs.settings.build import build_config
from ftpfs.settings.config import Tls
from ftpfs.settings.credentials import Surroundings
from ftpfs.settings.source import Source, parse_source

FILE = """
[defaults]
list_ttl = 30
ro = true
uid = "0"

[servers.nas]
url = "ftpes://bob@nas.local:2121/photos"
max-connections = 3
block_cache = "8M"
ro = false
noexec = true

[servers.plain]
url = "plain.example"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def test_name_stands_for_an_address_with_options(file: Path) -> None:
    source = named.resolve("nas", file)
    assert (source.host, source.port, source.user, source.path) == (
        *("nas.local", 2121, "bob", "photos"),
    )
    assert source.tls is Tls.EXPLICIT
    assert source.options == {
        "list_ttl": 30.0,
        "uid": 0,
        "max_connections": 3,
        "block_cache": 8 << 20,
        "kernel_flags": ("noexec",),
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nas/2024", "photos/2024"),
        ("nas/", "photos/"),
        ("plain/pub/a%20b", "pub/a b"),
        ("plain", ""),
        ("nas/../x", "photos/../x"),
    ],
)
def test_path_after_the_name_goes_below_the_path_of_its_url(
    file: Path, text: str, path: str
) -> None:
    assert named.resolve(text, file).path == path


def test_file_with_a_password_is_refused_when_others_can_read_it(file: Path) -> None:
    """As ~/.netrc is. Servers without one are nobody's secret."""
    with file.open("a") as more:
        more.write("[servers.open]\nurl = 'ftp://bob:hunter2@nas'\n")
    file.chmod(0o644)
    with pytest.raises(InvalidArgument, match="chmod 600") as caught:
        named.resolve("open", file)
    assert "hunter2" not in str(caught.value)
    assert named.resolve("plain", file).host == "plain.example"
    file.chmod(0o600)
    source = named.resolve("open", file)
    assert source.password is not None
    assert source.password.reveal() == "hunter2"


@pytest.mark.parametrize("text", ["elsewhere", "ftp://nas/", "bob@nas", "nas:21"])
def test_address_gets_the_defaults_only(file: Path, text: str) -> None:
    source = named.resolve(text, file)
    assert source.options == {"list_ttl": 30.0, "ro": True, "uid": 0}
    assert source.host == parse_source(text).host


def test_command_line_beats_the_file(file: Path) -> None:
    around = Surroundings({"FTPFS_PASSWORD": "x"}, None, None, lambda _line: None)
    built = build_config(named.resolve("nas", file), {"max_connections": 5, "ro": True}, around)
    assert built.network.max_connections == 5
    assert built.mount.ro
    assert built.cache.list_ttl == 30
    assert built.mount.kernel_flags == ("noexec",)


def test_names_are_unknown_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert named.resolve("nas", None) == Source("nas")
    with pytest.raises(InvalidArgument, match="no such file"):
        named.resolve("nas", tmp_path / "missing")
    (tmp_path / "ftpfs").mkdir()
    (tmp_path / "ftpfs" / "config.toml").write_text(FILE)
    assert named.resolve("nas", None).host == "nas.local"
    assert named.names(None) == ["nas", "plain"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[servers.nas]\nro = true", "url is missing"),
        ("[servers.nas]\nurl = 3", "url is missing"),
        ("[servers.nas]\nurl = 'nas'\npassword = 'hunter2'", "use password_file"),
        ("[servers.nas]\nurl = 'nas'\nlist_tll = 3", "did you mean list_ttl"),
        ("[servers.nas]\nurl = 'nas'\nlist_ttl = 'soon'", "expected a time"),
        ("[servers.nas]\nurl = 'nas'\nlist_ttl = [1]", "list_ttl"),
        ("[servers.nas]\nurl = 'nas'\nlist_ttl = true", "needs a value"),
        ("[servers.nas]\nurl = 'nas'\nro = 3", "takes no value"),
        ("[servers.nas]\nurl = 'nas'\nlist_ttl = false", "list_ttl"),
        ("[servers.nas]\nurl = 'bob:hunter2/@@ x@nas'", "the port must"),
        ("[server.nas]\nurl = 'nas'", "neither"),
        ("servers = 3", "neither"),
        ("[servers]\nnas = 3", "not a table"),
        ("[servers.nas\nurl = hunter2", "config.toml"),
    ],
)
def test_mistake_in_the_file_is_named_and_no_password_repeated(
    file: Path, text: str, words: str
) -> None:
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=words) as caught:
        named.resolve("nas", file)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
