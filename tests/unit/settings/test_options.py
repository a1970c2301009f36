"""The table of options and `-o`: values, words of fstab, refusals, defaults."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.errors import InvalidArgument
from ftpfs.settings.build import build_config
from ftpfs.settings.config import DataMode
from ftpfs.settings.credentials import Surroundings
from ftpfs.settings.options import OPTIONS, Option, parse_options
from ftpfs.settings.source import parse_source


class TestOptions:
    def test_words_become_values(self) -> None:
        given = (
            "ro,port=2121,user=bob,list_ttl=2m,open-ttl=1.5,block_cache=1G,read_ahead=64k,"
            "umask=027,uid=0,gid=root,active,max_connections=2,log_level=debug,encoding=latin-1"
        )
        assert parse_options(given) == {
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

    def test_fstab_words_are_ignored(self) -> None:
        line = (
            "defaults,_netdev,nofail,auto,noauto,user,users,owner,group,relatime,x-gvfs-name=a b,"
            "x-systemd.automount,x-systemd.idle-timeout=60,comment=x-gvfs-show,noatime,,"
        )
        assert parse_options(line) == {}

    def test_kernel_flags_are_kept_and_the_last_of_two_wins(self) -> None:
        values = parse_options("noexec,nosuid,nodev,exec,user,ro")
        assert values == {"ro": True, "kernel_flags": ("exec", "nosuid", "nodev")}
        around = Surroundings({}, None, None, lambda _line: None)
        built = build_config(parse_source("host"), values, around)
        assert built.mount.kernel_flags == ("exec", "nosuid", "nodev")

    def test_rw_undoes_ro(self) -> None:
        assert parse_options("ro,rw") == {"ro": False}

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
    def test_refusal_names_the_option_and_what_to_write(self, text: str, words: list[str]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            parse_options(text)
        assert all(word in str(caught.value) for word in words)
        assert "hunter2" not in str(caught.value)

    @given(
        st.lists(
            st.one_of(
                st.text(max_size=20),
                st.tuples(st.sampled_from(sorted(OPTIONS)), st.text(max_size=12)).map("=".join),
                st.tuples(
                    st.sampled_from(sorted(OPTIONS)),
                    st.from_regex(r"[0-9]{0,400}[.]?[0-9]{0,30}[KMGTsmhd]?", fullmatch=True),
                ).map("=".join),
            )
        ).map(",".join)
    )
    def test_any_text_is_parsed_or_refused(self, text: str) -> None:
        try:
            values = parse_options(text)
        except InvalidArgument:
            return
        assert set(values) <= set(OPTIONS)

    @pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda o: o.name)
    def test_default_in_the_help_is_the_default(self, option: Option) -> None:
        """The help's default, parsed as a value, equals the default of the field."""
        if not option.default:
            return
        fields = {field.name: field.default for field in dataclasses.fields(option.part)}
        assert option.read(option.default) == fields[option.field]
