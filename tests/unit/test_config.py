"""SOURCE, options, users and passwords: what is read, what is refused, and what never shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs import config
from ftpfs.config import DataMode, Server, Source, Tls
from ftpfs.credentials import Secret, Surroundings
from ftpfs.errors import InvalidArgument


class TestSource:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("host", Source("host")),
            ("host:2121", Source("host", 2121)),
            ("host:", Source("host")),
            ("host/pub/x", Source("host", path="pub/x")),
            ("host//srv", Source("host", path="/srv")),
            ("bob@host", Source("host", user="bob")),
            ("bob:pw@host", Source("host", user="bob", password=Secret("pw"))),
            ("10.0.0.1", Source("10.0.0.1")),
            ("[::1]", Source("::1")),
            ("[2001:db8::1]:2121/x", Source("2001:db8::1", 2121, path="x")),
            ("ftp://[fe80::1%25eth0]/", Source("fe80::1%eth0")),
            ("ftp://host", Source("host")),
            ("FTP://host/", Source("host")),
            ("ftps://host", Source("host", tls=Tls.IMPLICIT)),
            ("ftpes://host:2121/a", Source("host", 2121, Tls.EXPLICIT, path="a")),
            ("ftp://host//abs/x", Source("host", path="/abs/x")),
            ("ftp://host/%2Fabs/x", Source("host", path="/abs/x")),
            ("ftp://host/in/", Source("host", path="in/")),
            ("ftp://host/a%20b%C3%A9", Source("host", path="a bé")),
            ("ftp://host/%FF", Source("host", path="\udcff")),
            ("ftp://host/100%", Source("host", path="100%")),
            ("ftp://me%40site.example:p%2F%3A%40@host", Source("host", user="me@site.example")),
            ("ftp://me@site.example@host", Source("host", user="me@site.example")),
            ("ftp://bob:@host", Source("host", user="bob", password=Secret(""))),
            ("ftp://@host", Source("host")),
            ("bücher.example", Source("bücher.example")),
        ],
    )
    def test_reads(self, text: str, expected: Source) -> None:
        source = config.parse_source(text)
        if "%2F%3A%40@" in text:
            assert source.password == Secret("p/:@")
            source = dataclasses.replace(source, password=None)
        assert source == expected

    @pytest.mark.parametrize(
        "text",
        [
            *["", "/", "ftp://", "ftp:///x", "@", ":21", "::1", "[::1", "[]", "[host]", "[::1]x"],
            *["host:0", "host:65536", "host:ftp", "host:-1", "[::1]:x", "-host", ".host", "ho st"],
            *["a\nb", "a/\0", "ftp://host/%0d%0aDELE%20x", "ftp://a%00@host", "ftp://u:p%0a@host"],
            *["http://host", "sftp://host", "file:///x", "ftp://\udcff/", "host/\ud800", "h" * 254],
        ],
    )
    def test_refuses(self, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            config.parse_source(text)
        assert len(str(caught.value).splitlines()) == 1

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            source = config.parse_source(text)
        except InvalidArgument:
            return
        assert source.host
        assert not any(c in f"{source.host}{source.user}{source.path}" for c in "\r\n\0")

    @given(
        scheme=st.sampled_from(["", "ftp://", "ftps://", "http://", "s3cr3t"]),
        inside=st.text(st.sampled_from("aZ09@:/%[]?#;~ \n\0\\é\udcff"), max_size=12),
        rest=st.text(st.sampled_from("h@:/[]%.-1 "), max_size=8),
    )
    def test_password_is_never_shown(self, scheme: str, inside: str, rest: str) -> None:
        """Whatever is wrong with the rest, and whatever the password itself breaks."""
        try:
            shown = repr(config.parse_source(f"{scheme}bob:QxQ{inside}WyW@{rest}").password)
        except InvalidArgument as error:
            shown = f"{error} {error.__cause__}"
        assert "QxQ" not in shown
        assert "WyW" not in shown

    @given(
        user=st.text(min_size=1),
        path=st.text(),
        port=st.integers(1, 65535),
        tls=st.sampled_from([Tls.OFF, Tls.EXPLICIT, Tls.IMPLICIT]),
        host=st.sampled_from(["host", "::1", "fe80::1%eth0", "bücher.example"]),
    )
    def test_server_as_text_reads_back(
        self, user: str, path: str, port: int, tls: Tls, host: str
    ) -> None:
        if any(c in user + path for c in "\r\n\0"):
            return
        server = Server(host=host, port=port, tls=tls, user=user, path=path)
        source = config.parse_source(str(server))
        assert source == Source(host, source.port, tls, user, None, path)
        assert (source.port or config.default_port(tls)) == port
        assert " " not in str(server)
        assert "," not in str(server)


class TestOptions:
    def test_values(self) -> None:
        given = (
            "ro,port=2121,user=bob,list_ttl=2m,open-ttl=1.5,block_cache=1G,read_ahead=64k,"
            "umask=027,uid=0,gid=root,active,max_connections=2,log_level=debug,encoding=latin-1"
        )
        assert config.parse_options(given) == {
            "ro": True,
            "port": 2121,
            "user": "bob",
            "list_ttl": 120.0,
            "open_ttl": 1.5,
            "block_cache": 1 << 30,
            "read_ahead": 64 << 10,
            "umask": 0o027,
            "uid": 0,
            "gid": 0,
            "active": DataMode.ACTIVE,
            "max_connections": 2,
            "log_level": "debug",
            "encoding": "latin-1",
        }

    def test_what_fstab_carries_is_ignored(self) -> None:
        line = (
            "defaults,_netdev,nofail,auto,noauto,user,users,owner,group,relatime,x-gvfs-name=a b,"
            "x-systemd.automount,x-systemd.idle-timeout=60,comment=x-gvfs-show,noatime,,"
        )
        assert config.parse_options(line) == {}

    def test_what_the_kernel_shall_know_is_kept_and_of_two_the_last_counts(self) -> None:
        values = config.parse_options("noexec,nosuid,nodev,exec,user,ro")
        assert values == {"ro": True, "kernel_flags": ("exec", "nosuid", "nodev")}
        around = Surroundings({}, None, None, lambda _line: None)
        built = config.build(config.parse_source("host"), values, around)
        assert built.mount.kernel_flags == ("exec", "nosuid", "nodev")

    def test_rw_undoes_ro(self) -> None:
        assert config.parse_options("ro,rw") == {"ro": False}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("list_tll=3", ["list_tll", "list_ttl"]),
            ("password=hunter2", ["password_file"]),
            ("nonsense=hunter2", ["nonsense"]),
            ("port", ["port", "value"]),
            ("port=0", ["port", "65535"]),
            ("ro=yes", ["ro", "no value"]),
            ("connect_timeout=0", ["connect_timeout", "more than zero"]),
            ("connect_timeout=nan", ["connect_timeout"]),
            ("block_cache=-1", ["block_cache", "64M"]),
            ("umask=9", ["umask", "octal"]),
            ("uid=no-such-user", ["uid", "no such user"]),
            ("log_level=loud", ["log_level", "debug"]),
            ("encoding=utf-16", ["encoding"]),
            ("user=a\rb", ["user"]),
        ],
    )
    def test_refusals_name_the_option_and_the_way_out(self, text: str, words: list[str]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            config.parse_options(text)
        assert all(word in str(caught.value) for word in words)
        assert "hunter2" not in str(caught.value)

    @given(
        st.lists(
            st.one_of(
                st.text(max_size=20),
                st.tuples(st.sampled_from(sorted(config.OPTIONS)), st.text(max_size=12)).map(
                    "=".join
                ),
                st.tuples(
                    st.sampled_from(sorted(config.OPTIONS)),
                    st.from_regex(r"[0-9]{0,400}[.]?[0-9]{0,30}[KMGTsmhd]?", fullmatch=True),
                ).map("=".join),
            )
        ).map(",".join)
    )
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            values = config.parse_options(text)
        except InvalidArgument:
            return
        assert set(values) <= set(config.OPTIONS)

    @pytest.mark.parametrize("option", config.OPTIONS.values(), ids=lambda o: o.name)
    def test_defaults_shown_are_defaults(self, option: config.Option) -> None:
        """The help's default, given as a value, is what stands in the dataclass."""
        if not option.default:
            return
        fields = {field.name: field.default for field in dataclasses.fields(option.part)}
        assert option.read(option.default) == fields[option.field]


class TestCredentials:
    """Who logs in, and with which password."""

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
        server = config.build(config.parse_source(source), values, around).server
        return server.user, server.password.reveal()

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine nas login bob password inrc\ndefault login who password rest\n")
        netrc.chmod(0o600)
        return tmp_path

    def test_anonymous_without_anything(self, tmp_path: Path) -> None:
        assert self.build("host") == ("anonymous", "anonymous@")
        assert self.build("host", home=tmp_path) == ("anonymous", "anonymous@")

    def test_password_file_beats_all(self, home: Path, tmp_path: Path) -> None:
        file = tmp_path / "pw"
        file.write_bytes(b"  first \r\nsecond\n")
        environ = {"FTPFS_PASSWORD": "env"}
        given = self.build("bob:url@nas", home, environ, password_file=file)
        assert given == ("bob", "  first ")

    def test_environment_beats_address_and_netrc(self, home: Path) -> None:
        environ = {"FTPFS_PASSWORD": "env"}
        assert self.build("bob:url@nas", home, environ) == ("bob", "env")
        assert self.build("nas", home, environ) == ("bob", "env")

    def test_environment_is_not_sent_to_anonymous_servers(self) -> None:
        assert self.build("host", environ={"FTPFS_PASSWORD": "env"})[1] == "anonymous@"

    def test_address_beats_netrc_and_is_warned_about(self, home: Path) -> None:
        warnings: list[str] = []
        assert self.build("bob:hunter2@nas", home, warnings=warnings) == ("bob", "hunter2")
        assert len(warnings) == 1
        assert "hunter2" not in warnings[0]

    def test_netrc_gives_user_and_password(self, home: Path) -> None:
        assert self.build("nas", home) == ("bob", "inrc")
        assert self.build("bob@nas", home) == ("bob", "inrc")
        assert self.build("elsewhere", home) == ("who", "rest")

    def test_user_option_beats_address(self, home: Path) -> None:
        assert self.build("ann:pw@nas", home, user="bob") == ("bob", "inrc")

    def test_passwords_stay_with_their_user(self, home: Path) -> None:
        with pytest.raises(InvalidArgument, match="no password for carol@nas"):
            self.build("ann:pw@nas", home, user="carol")

    def test_systemds_credential_beats_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "ftpfs-password").write_text("from systemd\n")
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "FTPFS_PASSWORD": "env"}
        assert self.build("bob@nas", environ=environ) == ("bob", "from systemd")
        assert self.build("nas", environ=environ) == ("anonymous", "anonymous@")
        (tmp_path / "ftpfs-password").unlink()
        assert self.build("bob@nas", environ=environ) == ("bob", "env")

    def test_the_keyring_is_asked_before_the_terminal(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_a_password_file_that_others_can_read_is_warned_about(self, tmp_path: Path) -> None:
        file = tmp_path / "pw"
        file.write_text("secret")
        for mode, expected in ((0o644, 1), (0o640, 1), (0o600, 0), (0o400, 0)):
            file.chmod(mode)
            warnings: list[str] = []
            self.build("bob@nas", password_file=file, warnings=warnings)
            assert len(warnings) == expected
            assert "secret" not in "".join(warnings)

    def test_prompt_is_last(self, home: Path) -> None:
        asked: list[str] = []

        def prompt(question: str) -> str:
            asked.append(question)
            return "typed"

        assert self.build("nas", home, prompt=prompt) == ("bob", "inrc")
        assert not asked
        assert self.build("carol@nas", home, prompt=prompt) == ("carol", "typed")
        assert asked == ["Password for carol@nas: "]

    def test_no_home_no_terminal(self) -> None:
        with pytest.raises(InvalidArgument, match="--password-file"):
            self.build("bob@nas", home=None)

    def test_readable_netrc_is_refused_when_its_password_is_needed(self, home: Path) -> None:
        (home / ".netrc").chmod(0o644)
        with pytest.raises(InvalidArgument, match="chmod 600"):
            self.build("nas", home)
        assert self.build("nas", home, {"FTPFS_PASSWORD": "env"}) == ("bob", "env")

    def test_readable_netrc_with_nothing_to_hide_is_fine(self, home: Path) -> None:
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

    def test_password_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="No such file"):
            self.build("bob@nas", password_file=tmp_path / "none")

    @pytest.mark.parametrize("password", ["a\nb", "a\0b"])
    def test_passwords_that_ftp_cannot_carry(self, password: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            self.build("bob@nas", environ={"FTPFS_PASSWORD": password})
        assert password not in str(caught.value)


class TestBuild:
    @staticmethod
    def build(source: str, **values: object) -> config.Config:
        around = Surroundings({"FTPFS_PASSWORD": "hunter2"}, None, None, lambda _line: None)
        return config.build(config.parse_source(source), values, around)

    def test_port_follows_the_scheme_unless_given(self) -> None:
        assert self.build("host").server.port == 21
        assert self.build("ftpes://host").server.port == 21
        assert self.build("ftps://host").server.port == 990
        assert self.build("ftps://host:2121").server.port == 2121
        assert self.build("ftps://host:2121", port=4711).server.port == 4711

    @pytest.mark.parametrize(
        ("source", "option", "expected"),
        [
            ("ftp://h", {}, Tls.OFF),
            ("ftp://h", {"tls": "required"}, Tls.EXPLICIT),
            ("ftp://h", {"tls": "optional"}, Tls.OPTIONAL),
            ("ftp://h", {"tls": "off"}, Tls.OFF),
            ("ftpes://h", {"tls": "optional"}, Tls.EXPLICIT),
            ("ftps://h", {"tls": "required"}, Tls.IMPLICIT),
        ],
    )
    def test_an_option_never_weakens_what_the_address_asks_for(
        self, source: str, option: dict[str, object], expected: Tls
    ) -> None:
        assert self.build(source, **option).server.tls is expected

    @pytest.mark.parametrize("source", ["ftpes://h", "ftps://h"])
    def test_tls_by_the_address_and_off_by_the_option_contradict(self, source: str) -> None:
        with pytest.raises(InvalidArgument, match="forbids"):
            self.build(source, tls="off")

    def test_a_fingerprint_is_read_as_openssl_prints_it(self) -> None:
        read = config.OPTIONS["tls_fingerprint"].read
        assert read(":".join(["AB"] * 32)) == "ab" * 32
        with pytest.raises(InvalidArgument, match="64 hex digits"):
            read("ab" * 20)

    @pytest.mark.parametrize(
        ("source", "path"),
        [("h", ""), ("h/", ""), ("h/a/", "a"), ("h//", "/"), ("h//a/", "/a"), ("h/%2F", "/")],
    )
    def test_root_folder(self, source: str, path: str) -> None:
        assert self.build(source).server.path == path

    def test_each_part_gets_its_values(self) -> None:
        values = config.parse_options("ro,list_ttl=5,connect_timeout=3,active,tls_insecure")
        built = self.build("host", **values)
        assert built.mount.ro
        assert built.cache.list_ttl == 5
        assert built.network.connect_timeout == 3
        assert built.server.data_mode is DataMode.ACTIVE
        assert built.server.tls_insecure

    def test_password_is_not_in_the_repr(self) -> None:
        built = self.build("bob@host")
        assert built.server.password.reveal() == "hunter2"
        assert "hunter2" not in f"{built!r}{built}{built.server}"
