"""`ftpfs mount`: the configuration that its arguments make."""

from __future__ import annotations

import sys
import types

import click
import pytest

from ftpfs import cli, daemon
from ftpfs.commands import mount
from ftpfs.errors import UnknownHost
from ftpfs.settings import credentials
from ftpfs.settings.config import Config
from ftpfs.settings.options import OPTIONS
from tests.unit.commands.processes import NOWHERE


class TestMount:
    """The configuration that reaches ftpfs.daemon.mount."""

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, str]]:
        calls: list[tuple[Config, str]] = []

        def run(built: Config, mountpoint: str) -> int:
            calls.append((built, mountpoint))
            if built.server.host == "unknown":
                raise UnknownHost("no such\x1b host")
            return 7

        double = types.ModuleType("ftpfs.daemon.mount")
        double.__dict__.update(run=run)
        monkeypatch.setitem(sys.modules, "ftpfs.daemon.mount", double)
        monkeypatch.setattr(daemon, "mount", double, raising=False)
        monkeypatch.setenv("HOME", NOWHERE)
        monkeypatch.delenv(credentials.PASSWORD_VARIABLE, raising=False)
        return calls

    def test_flags_and_words_give_the_same_configuration(
        self, seen: list[tuple[Config, str]]
    ) -> None:
        flags = ["--ro", "--list-ttl", "5", "--active", "--user", "ftp"]
        assert cli.main(["mount", "nas/pub", "/mnt", *flags]) == 7
        words = ["-o", "rw,ro,list_ttl=9,active", "-o", "list_ttl=5,user=ftp,_netdev"]
        assert cli.main(["mount", *words, "nas/pub", "/mnt"]) == 7
        assert seen[0] == seen[1]
        built, mountpoint = seen[0]
        assert mountpoint == "/mnt"
        assert (built.server.path, built.server.user) == ("pub", "ftp")
        assert (built.cache.list_ttl, built.mount.ro) == (5.0, True)

    def test_flags_beat_words(self, seen: list[tuple[Config, str]]) -> None:
        cli.main(["mount", "nas", "/mnt", "--port", "22", "-o", "port=23,log_level=debug"])
        assert seen[0][0].server.port == 22
        assert seen[0][0].mount.log_level == "debug"

    def test_failure_is_one_printable_line(
        self, seen: list[tuple[Config, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["mount", "unknown", "/mnt"]) == 1
        assert capsys.readouterr().err == "ftpfs: no such\\x1b host\n"

    def test_missing_password_is_a_failure(
        self, seen: list[tuple[Config, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["mount", "bob@nas", "/mnt"]) == 1
        assert "no password for bob@nas" in capsys.readouterr().err
        assert not seen

    def test_every_option_has_its_flag(self) -> None:
        command = mount.mount
        flags = {p.name: p.opts for p in command.params if isinstance(p, click.Option)}
        del flags["strings"], flags["config"]
        assert flags == {name: [option.flag] for name, option in OPTIONS.items()}
