"""A configuration from an address and options: precedence, TLS, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpfs.errors import InvalidArgument
from ftpfs.settings.build import build_config
from ftpfs.settings.config import Config, DataMode, Tls
from ftpfs.settings.credentials import Surroundings
from ftpfs.settings.options import OPTIONS, parse_options
from ftpfs.settings.source import parse_source


class TestBuild:
    @staticmethod
    def build(source: str, **values: object) -> Config:
        around = Surroundings({"FTPFS_PASSWORD": "hunter2"}, None, None, lambda _line: None)
        return build_config(parse_source(source), values, around)

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
    def test_tls_option_never_weakens_the_address(
        self, source: str, option: dict[str, object], expected: Tls
    ) -> None:
        assert self.build(source, **option).server.tls is expected

    @pytest.mark.parametrize("source", ["ftpes://h", "ftps://h"])
    def test_tls_off_contradicts_an_address_with_tls(self, source: str) -> None:
        with pytest.raises(InvalidArgument, match="forbids"):
            self.build(source, tls="off")

    @pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_fingerprint"])
    def test_certificate_options_demand_tls(self, name: str, tmp_path: Path) -> None:
        value = tmp_path / "file.pem" if name != "tls_fingerprint" else "ab" * 32
        (tmp_path / "file.pem").touch()
        assert self.build("ftp://h", **{name: value}).server.tls is Tls.EXPLICIT
        assert self.build("h", **{name: value}, tls="required").server.tls is Tls.EXPLICIT
        assert self.build("ftps://h", **{name: value}).server.tls is Tls.IMPLICIT
        for wanted in ("off", "optional"):
            with pytest.raises(InvalidArgument, match=f"{name} demands TLS"):
                self.build("ftp://h", **{name: value}, tls=wanted)

    @pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key"])
    @pytest.mark.parametrize("source", ["ftp://h", "ftpes://h", "ftps://h"])
    def test_missing_certificate_file_is_an_error(
        self, name: str, source: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InvalidArgument, match=f"{name} .*No such file"):
            self.build(source, **{name: tmp_path / "missing.pem"})

    def test_key_without_certificate_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "key.pem").touch()
        with pytest.raises(InvalidArgument, match="tls_cert is missing"):
            self.build("ftpes://h", tls_key=tmp_path / "key.pem")

    @pytest.mark.parametrize(
        ("source", "values", "useless"),
        [
            ("h", {"tls_insecure": True}, ["tls_insecure"]),
            ("h", {"tls_ccc": True, "tls_max": "1.2"}, ["tls_ccc", "tls_max"]),
            ("ftpes://h", {"tls_ccc": True, "tls_max": "1.2", "tls_insecure": True}, []),
            ("ftpes://h", {"tls_insecure": True, "tls_ca": Path("/etc/passwd")}, ["tls_ca"]),
            (
                "h",
                {"tls_fingerprint": "ab" * 32, "tls_ca": Path("/etc/passwd")},
                ["tls_ca"],
            ),
            ("h", {"cache_dir": Path("/var/cache/x"), "cache_size": 0}, ["cache_dir"]),
            ("h", {"cache_dir": Path("/var/cache/x")}, []),
            ("h", {"disk_cache": 1 << 30}, ["disk_cache"]),
        ],
    )
    def test_option_without_effect_is_warned_about(
        self, source: str, values: dict[str, object], useless: list[str]
    ) -> None:
        heard: list[str] = []
        around = Surroundings({}, None, None, heard.append)
        build_config(parse_source(source), values, around)
        assert [line.split()[0] for line in heard] == useless

    def test_fingerprint_is_read_as_openssl_prints_it(self) -> None:
        read = OPTIONS["tls_fingerprint"].read
        assert read(":".join(["AB"] * 32)) == "ab" * 32
        with pytest.raises(InvalidArgument, match="64 hex digits"):
            read("ab" * 20)

    @pytest.mark.parametrize(
        ("source", "path"),
        [("h", ""), ("h/", ""), ("h/a/", "a"), ("h//", "/"), ("h//a/", "/a"), ("h/%2F", "/")],
    )
    def test_path_has_no_trailing_slash_unless_it_is_the_root(self, source: str, path: str) -> None:
        assert self.build(source).server.path == path

    def test_each_part_gets_its_values(self) -> None:
        values = parse_options("ro,list_ttl=5,connect_timeout=3,active,tls_insecure")
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
