"""Addresses: what is read, what is refused, and what never shows."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.errors import InvalidArgument
from ftpfs.settings.config import Server, Tls
from ftpfs.settings.credentials import Secret
from ftpfs.settings.source import Source, parse_source


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
    def test_address_is_taken_apart(self, text: str, expected: Source) -> None:
        source = parse_source(text)
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
    def test_bad_address_is_refused_in_one_line(self, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            parse_source(text)
        assert len(str(caught.value).splitlines()) == 1

    @given(st.text())
    def test_any_text_is_parsed_or_refused(self, text: str) -> None:
        try:
            source = parse_source(text)
        except InvalidArgument:
            return
        assert source.host
        assert not any(c in f"{source.host}{source.user}{source.path}" for c in "\r\n\0")

    @given(
        scheme=st.sampled_from(["", "ftp://", "ftps://", "http://", "s3cr3t"]),
        inside=st.text(st.sampled_from("aZ09@:/%[]?#;~ \n\0\\é\udcff"), max_size=12),
        rest=st.text(st.sampled_from("h@:/[]%.-1 "), max_size=8),
    )
    def test_password_never_shows_whatever_is_wrong_with_the_address(
        self, scheme: str, inside: str, rest: str
    ) -> None:
        """The password may itself contain separators that break the address."""
        try:
            shown = repr(parse_source(f"{scheme}bob:QxQ{inside}WyW@{rest}").password)
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
    def test_url_of_server_parses_back_to_the_same_server(
        self, user: str, path: str, port: int, tls: Tls, host: str
    ) -> None:
        if any(c in user + path for c in "\r\n\0"):
            return
        server = Server(host=host, port=port, tls=tls, user=user, path=path)
        source = parse_source(str(server))
        assert source == Source(host, source.port, tls, user, None, path)
        assert (source.port or tls.default_port) == port
        assert " " not in str(server)
        assert "," not in str(server)
