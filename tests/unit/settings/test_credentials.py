"""Which user logs in, with which password, and in which order the places are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ftpfs.errors import InvalidArgument
from ftpfs.settings.build import build_config
from ftpfs.settings.credentials import Surroundings
from ftpfs.settings.source import parse_source


class TestCredentials:
    @staticmethod
    def build(
        source: str,
        home: Path | None = None,
        environ: Mapping[str, str] | None = None,
        prompt: Callable[[str], str] | None = None,
        warnings: list[str] | None = None,
        **values: object,
    ) -> tuple[str, str]:
        heard: list[str] = [] if warnings is None else warnings
        around = Surroundings(environ or {}, home, prompt, heard.append)
        server = build_config(parse_source(source), values, around).server
        return server.user, server.password.reveal()

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine nas login bob password inrc\ndefault login who password rest\n")
        netrc.chmod(0o600)
        return tmp_path

    def test_login_is_anonymous_without_user_and_password(self, tmp_path: Path) -> None:
        assert self.build("host") == ("anonymous", "anonymous@")
        assert self.build("host", home=tmp_path) == ("anonymous", "anonymous@")

    def test_password_file_beats_all_other_places(self, home: Path, tmp_path: Path) -> None:
        file = tmp_path / "pw"
        file.write_bytes(b"  first \r\nsecond\n")
        environ = {"FTPFS_PASSWORD": "env"}
        given = self.build("bob:url@nas", home, environ, password_file=file)
        assert given == ("bob", "  first ")

    def test_environment_beats_address_and_netrc(self, home: Path) -> None:
        environ = {"FTPFS_PASSWORD": "env"}
        assert self.build("bob:url@nas", home, environ) == ("bob", "env")
        assert self.build("nas", home, environ) == ("bob", "env")

    def test_password_from_environment_is_not_sent_with_an_anonymous_login(self) -> None:
        assert self.build("host", environ={"FTPFS_PASSWORD": "env"})[1] == "anonymous@"

    def test_password_in_address_beats_netrc_with_a_warning(self, home: Path) -> None:
        warnings: list[str] = []
        assert self.build("bob:hunter2@nas", home, warnings=warnings) == ("bob", "hunter2")
        assert len(warnings) == 1
        assert "hunter2" not in warnings[0]

    def test_netrc_gives_user_and_password(self, home: Path) -> None:
        assert self.build("nas", home) == ("bob", "inrc")
        assert self.build("bob@nas", home) == ("bob", "inrc")
        assert self.build("elsewhere", home) == ("who", "rest")

    def test_user_option_beats_user_in_address(self, home: Path) -> None:
        assert self.build("ann:pw@nas", home, user="bob") == ("bob", "inrc")

    def test_password_is_not_used_for_another_user(self, home: Path) -> None:
        with pytest.raises(InvalidArgument, match="no password for carol@nas"):
            self.build("ann:pw@nas", home, user="carol")

    def test_systemd_credential_beats_environment(self, tmp_path: Path) -> None:
        (tmp_path / "ftpfs-password").write_text("from systemd\n")
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "FTPFS_PASSWORD": "env"}
        assert self.build("bob@nas", environ=environ) == ("bob", "from systemd")
        assert self.build("nas", environ=environ) == ("anonymous", "anonymous@")
        (tmp_path / "ftpfs-password").unlink()
        assert self.build("bob@nas", environ=environ) == ("bob", "env")

    def test_keyring_is_asked_before_the_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keyring = pytest.importorskip("keyring")
        backend = pytest.importorskip("keyring.backend")
        # Where backends enter themselves: the one below must not be found by later tests.
        monkeypatch.setattr(backend.KeyringBackend, "_classes", set())

        class Memory(backend.KeyringBackend):  # type: ignore[misc,name-defined]
            priority = 9

            def get_password(self, service: str, username: str) -> str | None:
                if username == "broken":
                    raise RuntimeError("quotes s3cret")
                return {("ftp://nas", "bob"): "kept"}.get((service, username))

            def set_password(self, service: str, username: str, password: str) -> None:
                raise NotImplementedError

        monkeypatch.setattr(keyring.core, "_keyring_backend", Memory())
        assert self.build("bob@nas", prompt=lambda _q: "typed") == ("bob", "kept")
        assert self.build("ann@nas", prompt=lambda _q: "typed") == ("ann", "typed")
        assert self.build("nas") == ("anonymous", "anonymous@")
        warnings: list[str] = []
        with pytest.raises(InvalidArgument, match="keyring"):
            self.build("broken@nas", warnings=warnings)
        assert warnings == ["the keyring cannot be read (RuntimeError)"]

    def test_password_file_that_others_can_read_is_warned_about(self, tmp_path: Path) -> None:
        file = tmp_path / "pw"
        file.write_text("secret")
        for mode, expected in ((0o644, 1), (0o640, 1), (0o600, 0), (0o400, 0)):
            file.chmod(mode)
            warnings: list[str] = []
            self.build("bob@nas", password_file=file, warnings=warnings)
            assert len(warnings) == expected
            assert "secret" not in "".join(warnings)

    def test_terminal_is_asked_last(self, home: Path) -> None:
        asked: list[str] = []

        def prompt(question: str) -> str:
            asked.append(question)
            return "typed"

        assert self.build("nas", home, prompt=prompt) == ("bob", "inrc")
        assert not asked
        assert self.build("carol@nas", home, prompt=prompt) == ("carol", "typed")
        assert asked == ["Password for carol@nas: "]

    def test_missing_password_names_the_places_without_a_terminal(self) -> None:
        with pytest.raises(InvalidArgument, match="--password-file"):
            self.build("bob@nas", home=None)

    def test_netrc_that_others_can_read_is_refused_when_its_password_is_needed(
        self, home: Path
    ) -> None:
        (home / ".netrc").chmod(0o644)
        with pytest.raises(InvalidArgument, match="chmod 600"):
            self.build("nas", home)
        assert self.build("nas", home, {"FTPFS_PASSWORD": "env"}) == ("bob", "env")

    def test_netrc_that_others_can_read_is_accepted_for_an_anonymous_login(
        self, home: Path
    ) -> None:
        (home / ".netrc").write_text("machine nas login anonymous password me@here\n")
        (home / ".netrc").chmod(0o644)
        assert self.build("nas", home) == ("anonymous", "me@here")

    @pytest.mark.parametrize(
        "content",
        [b"machine nas login bob password half secret", b"\xff\xfe", b"machine nas login bob\nx"],
    )
    def test_broken_netrc_is_named_but_not_quoted(self, home: Path, content: bytes) -> None:
        (home / ".netrc").write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"\.netrc") as caught:
            self.build("nas", home)
        assert "secret" not in str(caught.value)

    def test_missing_password_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="No such file"):
            self.build("bob@nas", password_file=tmp_path / "none")

    @pytest.mark.parametrize("password", ["a\nb", "a\0b"])
    def test_password_with_line_break_or_nul_is_refused_and_not_quoted(self, password: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            self.build("bob@nas", environ={"FTPFS_PASSWORD": password})
        assert password not in str(caught.value)
