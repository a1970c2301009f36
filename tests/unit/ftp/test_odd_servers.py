"""Odd servers: each does one thing wrong, and everything still works, or fails with a clear reason.

Through `Remote`, as a mount uses it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import DataMode, Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import odd_server
from tests.support.odd_server import OddServer, Script

NETWORK: dict[str, Any] = {
    "reply_timeout": 3,
    "connect_timeout": 3,
    "data_timeout": 3,
    "finish_timeout": 3,
}


@contextlib.contextmanager
def connected(
    odd: OddServer, network: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Remote]:
    server = Server(odd.host, odd.port, user=odd.user, password=Secret(odd.password), **settings)
    remote = Remote(server, Network(**{**NETWORK, **(network or {})}))
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


def names(remote: Remote, path: str = "/") -> list[str]:
    return sorted(entry.name for entry in remote.list(path))


def read(remote: Remote, path: str, offset: int = 0) -> bytes:
    with remote.open_read(path, offset) as download:
        return download.read(10_000_000)


def write(remote: Remote, path: str, data: bytes, base: Entry | None = None) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        content = FileContent(file.fileno(), len(data), None, None)
        remote.store(path, content, base=base, check=base is not None)


def everything_works(remote: Remote, root: Path) -> None:
    """A typical sequence of operations on a file and a folder."""
    remote.mkdir("/folder")
    assert names(remote, "/folder") == []
    write(remote, "/folder/one", b"first" * 1000)
    assert (root / "folder" / "one").read_bytes() == b"first" * 1000
    assert names(remote, "/folder") == ["one"]
    assert read(remote, "/folder/one") == b"first" * 1000
    assert remote.stat("/folder/one").size == 5000
    write(remote, "/folder/one", b"second")
    assert read(remote, "/folder/one") == b"second"
    remote.rename("/folder/one", "/folder/two", replace=False)
    with pytest.raises(errors.NotFound):
        remote.stat("/folder/one")
    with pytest.raises(errors.NotFound):
        read(remote, "/folder/one")
    remote.remove("/folder/two")
    remote.rmdir("/folder")
    with pytest.raises(errors.NotFound):
        remote.list("/folder")
    assert os.listdir(root) == []


EVERYDAY: dict[str, Script] = {
    "ordinary": Script(),
    "no EPSV": Script(unknown={"EPSV"}),
    "EPSV refused with 550": Script(replies={"EPSV": "550 not here"}),
    "EPSV swallowed by a firewall": Script(replies={"EPSV": ""}),
    "no MLSD": Script(unknown={"MLSD", "MLST"}),
    "MLSD advertised and refused": Script(replies={"MLSD": "502 no", "MLST": "502 no"}),
    "MLSD advertised and 500": Script(replies={"MLSD": "500 what?"}),
    "MLSD makes no sense": Script(machine_listing=lambda _path: b"not a fact in sight\r\n"),
    "no MDTM, no MFMT": Script(unknown={"MDTM", "MFMT"}),
    "no SIZE": Script(unknown={"SIZE"}),
    "no SIZE, no MLSD, no MDTM": Script(unknown={"SIZE", "MLSD", "MLST", "MDTM", "MFMT"}),
    "nothing but RFC 959": Script(
        unknown={
            *("SIZE", "MLSD", "MLST", "MDTM", "MFMT", "EPSV", "EPRT", "FEAT", "OPTS", "SITE"),
            *("SITE CHMOD", "REST"),
        }
    ),
    "LIST -a refused": Script(
        unknown={"MLSD", "MLST"}, replies={"LIST -a": "550 -a: no such file or directory"}
    ),
    "LIST -a unknown": Script(unknown={"MLSD", "MLST"}, replies={"LIST -a": "501 what?"}),
    "no REST": Script(unknown={"REST"}),
    "250 for transfers": Script(recode={"226": "250"}),
    "a banner of 100 lines": Script(banner="\r\n".join(f"220-line {n}" for n in range(100))),
    "many lines in every reply": Script(wordy=True),
    "many lines in every reply, no MLSD": Script(wordy=True, unknown={"MLSD", "MLST"}),
    "a banner with a line that begins like its end": Script(
        banner="\r\n".join(["welcome", "2200 users were here before you" * 3, "come in"])
    ),
    "two replies before a transfer": Script(twice={"150", "125"}),
    "two replies, no MLSD": Script(twice={"150", "125"}, unknown={"MLSD", "MLST"}),
    "PASV says 0.0.0.0": Script(unknown={"EPSV"}, pasv_address="0.0.0.0"),
    "PASV says a private address": Script(unknown={"EPSV"}, pasv_address="10.254.254.254"),
    "one connection": Script(max_clients=1),
    "no FEAT": Script(unknown={"FEAT"}),
    "no SYST": Script(unknown={"SYST"}),
    "no PWD": Script(unknown={"PWD"}),
    "no OPTS": Script(unknown={"OPTS"}),
    "no NOOP": Script(unknown={"NOOP"}),
}


@pytest.mark.parametrize("oddity", EVERYDAY)
def test_all_operations_work_on_server_with(oddity: str, tmp_path: Path) -> None:
    with odd_server.start(tmp_path, EVERYDAY[oddity]) as odd, connected(odd) as remote:
        everything_works(remote, tmp_path)


def test_all_operations_work_over_ipv6(tmp_path: Path) -> None:
    with (
        odd_server.start(tmp_path, Script(host="::1", unknown={"PASV"})) as odd,
        connected(odd) as remote,
    ):
        everything_works(remote, tmp_path)


# Folders.


@pytest.mark.parametrize(
    "reply", ["450 No files found", "550 No files found.", "450 No such file or directory"]
)
@pytest.mark.parametrize("command", ["MLSD", "LIST"])
def test_refused_listing_of_empty_folder_is_empty(reply: str, command: str, tmp_path: Path) -> None:
    unknown = {"MLSD", "MLST"} if command == "LIST" else set()
    script = Script(unknown=unknown, replies={"LIST": reply, "LIST -a": reply, "MLSD": reply})
    (tmp_path / "empty").mkdir()
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        assert names(remote, "/empty") == []


def test_refused_listing_of_unreadable_folder_is_an_error(tmp_path: Path) -> None:
    for reply in ("550 Permission denied", "450 Access is denied"):
        script = Script(replies={"LIST": reply, "LIST -a": reply, "MLSD": reply})
        with (
            odd_server.start(tmp_path, script) as odd,
            connected(odd) as remote,
            pytest.raises(errors.PermissionDenied),
        ):
            remote.list("/")


def test_missing_folder_is_missing_when_its_listing_is_answered_with_226(tmp_path: Path) -> None:
    """LIST of vsftpd and pure-ftpd answers 226; the CWD is refused."""
    script = Script(unknown={"MLSD", "MLST"}, listing=lambda _path: b"")
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        with pytest.raises(errors.NotFound):
            remote.list("/missing")
        assert names(remote) == []


LISTINGS: dict[str, tuple[bytes, ...]] = {
    "no group": (b"drwxr-xr-x 2 bob 0 Jan 31 12:00 dir", b"-rw-r--r-- 1 bob 5 Jan 31 12:00 file"),
    "numeric": (b"drwxr-xr-x 2 0 0 0 Jan 31 12:00 dir", b"-rw-r--r-- 1 0 0 5 Jan 31 12:00 file"),
    "domain users": (
        b"drwxr-xr-x 2 CORP\\bob domain users 0 Jan 31 12:00 dir",
        b"-rw-r--r-- 1 CORP\\bob domain users 5 Jan 31 12:00 file",
    ),
    "German": (
        b"drwxr-xr-x 2 a b 0 31. Mai 12:00 dir",
        "-rw-r--r-- 1 a b 5 31. Mär 12:00 file".encode(),
    ),
    "ISO dates": (
        b"drwxr-xr-x 2 a b 0 2024-01-31 12:00 dir",
        b"-rw-r--r-- 1 a b 5 2024-01-31 12:00 file",
    ),
    "no time of day": (
        b"drwxr-xr-x 2 a b 0 Jan 31 2019 dir",
        b"-rw-r--r-- 1 a b 5 Jan 31 2019 file",
    ),
    "DOS": (
        b"01-31-24  12:00PM       <DIR>          dir",
        b"01-31-24  12:00PM                    5 file",
    ),
    "DOS, long years": (
        b"01-31-2024  12:00PM       <DIR>          dir",
        b"01-31-2024  12:00PM                    5 file",
    ),
    "EPLF": (b"+i1.1,m825718503,/,\tdir", b"+i1.2,m825718503,r,s5,\tfile"),
    "NetWare": (
        b"d [R----F--] admin        512       Jan 16 18:53    dir",
        b"- [R----F--] admin          5       Oct 20 15:27    file",
    ),
    "OS/2": (
        b"                 0           DIR   04-11-95   16:26  dir",
        b"                 5      A          07-28-95   16:45  file",
    ),
    "AS/400": (
        b"QSYS            77824 02/23/00 15:09:55 *DIR       dir/",
        b"QSYS                5 02/23/00 15:09:55 *STMF      file",
    ),
}


@pytest.mark.parametrize("form", LISTINGS)
def test_listing_has_names_kinds_and_sizes_in_each_format(form: str, tmp_path: Path) -> None:
    lines = b"".join(line + b"\r\n" for line in LISTINGS[form])
    script = Script(unknown={"MLSD", "MLST", "MDTM"}, listing=lambda _path: lines)
    (tmp_path / "file").write_bytes(b"12345")
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        found = {entry.name: entry for entry in remote.list("/")}
        assert {name: entry.kind for name, entry in found.items()} == {
            "dir": Kind.DIRECTORY,
            "file": Kind.FILE,
        }
        assert found["file"].size == 5
        assert read(remote, "/file") == b"12345"


@pytest.mark.parametrize("unknown", [set(), {"MDTM"}], ids=["MDTM", "no MDTM"])
def test_size_in_kilobytes_is_replaced_by_size_command(unknown: set[str], tmp_path: Path) -> None:
    """LIST like `ls -lh`: SIZE tells the true size."""
    line = b"-rw-r--r-- 1 a b 4.9K Jan 31 12:00 file\r\n"
    script = Script(unknown={"MLSD", "MLST", *unknown}, listing=lambda _path: line)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        (entry,) = remote.list("/")
        assert (entry.name, entry.kind, entry.size) == ("file", Kind.FILE, None)
        assert remote.look_again("/file", entry).size == 5000


# Replies.


def test_unasked_for_reply_on_idle_session_costs_only_that_session(tmp_path: Path) -> None:
    """A late 226, or the 421 of an idle session, never counts as the answer to the next command."""
    (tmp_path / "file").write_bytes(b"content")
    for stray in ("226 Transfer complete", "421 Idle for too long"):
        script = Script(after={"NOOP": stray})
        with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
            for _ in range(3):
                remote.command("NOOP")
                time.sleep(0.05)
                assert names(remote) == ["file"]
                assert read(remote, "/file") == b"content"


@pytest.mark.parametrize("reply", ["2", "20", "ok", "", "099 what", "220", "²²² squared"])
def test_line_that_is_no_reply_ends_session(reply: str, tmp_path: Path) -> None:
    script = Script(replies={"NOOP": reply})
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        if reply == "220":  # a code without text is a reply
            assert remote.command("NOOP").code == 220
            return
        with pytest.raises(errors.FtpfsError, match=r"not an FTP reply|no answer"):
            remote.command("NOOP")
        assert names(remote) == []


def test_size_is_asked_in_binary_mode_after_text_transfer(tmp_path: Path) -> None:
    """Like many servers, pyftpdlib answers SIZE with 550 after TYPE A."""
    (tmp_path / "file").write_bytes(b"one\ntwo\n")
    with (
        odd_server.start(tmp_path, Script(unknown={"MLSD", "MLST"}, max_clients=1)) as odd,
        connected(odd) as remote,
    ):
        (entry,) = remote.list("/")
        with remote.open_read("/file", text=True) as download:
            assert download.read(100) == b"one\r\ntwo\r\n"
        assert "TYPE A" in odd.commands
        odd.commands.clear()
        assert remote.look_again("/file", entry).size == 8
        assert odd.verbs() == ["TYPE", "SIZE", "MDTM"]
        write(remote, "/file", b"changed", base=remote.stat("/file"))
        assert (tmp_path / "file").read_bytes() == b"changed"


def test_server_idle_timeout_of_one_second_causes_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (
        odd_server.start(tmp_path, Script(idle_timeout=1)) as odd,
        connected(odd) as remote,
    ):
        for _ in range(3):
            assert read(remote, "/file") == b"content"
            time.sleep(1.3)
            assert names(remote) == ["file"]


# Data connections.


def test_error_for_dead_passive_ports_names_active_mode_which_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with odd_server.start(tmp_path, Script(dead_passive=True)) as odd:
        with (
            connected(odd) as remote,
            pytest.raises(errors.DataConnectionFailed, match="active"),
        ):
            remote.list("/")
        with connected(odd, data_mode=DataMode.ACTIVE) as remote:
            assert names(remote) == ["file"]
            assert read(remote, "/file") == b"content"


# Names.


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("latin-1", "café"), ("cp1251", "файл"), ("shift-jis", "日本語表")],
)
def test_names_are_sent_in_encoding_of_server(encoding: str, name: str, tmp_path: Path) -> None:
    """On the server's disk names are bytes; the odd server uses UTF-8 and so passes them on."""
    raw = name.encode(encoding)
    (tmp_path / os.fsdecode(raw)).write_bytes(b"content")
    with odd_server.start(tmp_path) as odd:
        with connected(odd, encoding=encoding) as remote:
            assert names(remote) == [name]
            assert read(remote, f"/{name}") == b"content"
            write(remote, f"/{name}2", b"new")
        # Even with the wrong encoding, the bytes arrive unchanged both ways.
        with connected(odd) as remote:
            assert names(remote) == sorted([os.fsdecode(raw), os.fsdecode(raw) + "2"])
            assert read(remote, "/" + os.fsdecode(raw)) == b"content"
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [raw, raw + b"2"]


@pytest.mark.parametrize(
    ("greeting", "quirk", "sent"),
    [
        ("ready", "", b"a\xffb"),
        ("ProFTPD Server", "", b"a\xff\xffb"),
        ("ready", "yes", b"a\xff\xffb"),
        ("ProFTPD Server", "no", b"a\xffb"),
    ],
)
def test_byte_255_is_doubled_for_server_that_reads_telnet(
    greeting: str, quirk: str, sent: bytes, tmp_path: Path
) -> None:
    """By its greeting, or as the user says (RFC 854: the byte begins a Telnet command)."""
    quirks = (("telnet", quirk),) if quirk else ()
    with (
        odd_server.start(tmp_path, Script(banner=greeting)) as odd,
        connected(odd, quirks=quirks) as remote,
    ):
        remote.command("SIZE " + os.fsdecode(b"a\xffb"))
        assert os.fsencode(odd.commands[-1]) == b"SIZE " + sent


def test_server_that_ignores_case_has_one_file_under_two_names(tmp_path: Path) -> None:
    with odd_server.start(tmp_path, Script(ignores_case=True)) as odd, connected(odd) as remote:
        write(remote, "/File", b"one")
        assert read(remote, "/file") == b"one"
        write(remote, "/FILE", b"two")
        assert os.listdir(tmp_path) in (["File"], ["FILE"])
        (entry,) = remote.list("/")
        assert read(remote, f"/{entry.name}") == b"two"


def test_offset_of_refused_download_does_not_apply_to_next_download(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "locked").write_bytes(b"not for you")
    refused = "550 Not enough privileges."
    script = Script(replies={"RETR /locked": refused, "RETR locked": refused})
    with (
        odd_server.start(tmp_path, script) as odd,
        connected(odd, {"max_connections": 1}) as remote,
    ):
        with pytest.raises(errors.PermissionDenied):
            read(remote, "/locked", 4)
        assert "REST 4" in odd.commands
        assert read(remote, "/file") == b"0123456789"


def test_refusal_of_one_name_does_not_unlearn_command(
    tmp_path: Path,
) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).write_bytes(b"content")
    script = Script(replies={"MLST /bad": "501 what?", "SITE CHMOD 600 /bad": "501 what?"})
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        assert remote.stat("/good") == remote.peek("/good")
        assert remote.stat("/bad").size == 7
        assert remote.peek("/good") is not None
        remote.chmod("/good", 0o600)
        with pytest.raises(errors.InvalidArgument):
            remote.chmod("/bad", 0o600)
        remote.chmod("/good", 0o640)
        assert (tmp_path / "good").stat().st_mode & 0o777 == 0o640


# Changing.


@pytest.mark.parametrize("reply", ["521 Directory already exists", "550 Directory exists"])
def test_mkdir_of_existing_folder_fails_with_exists(reply: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        odd_server.start(tmp_path, Script(replies={"MKD": reply})) as odd,
        connected(odd) as remote,
        pytest.raises(errors.Exists),
    ):
        remote.mkdir("/folder")


@pytest.mark.parametrize("reply", ["550 File exists", "553 File exists", "521 exists"])
def test_rename_replaces_file_on_server_that_refuses_to_replace(reply: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")

    script = Script(refuses_to_replace=reply)
    with odd_server.start(tmp_path, script) as odd, connected(odd) as remote:
        write(remote, "/old", b"new content")
        assert read(remote, "/old") == b"new content"
        write(remote, "/other", b"other")
        remote.rename("/other", "/old", replace=True)
        assert names(remote) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"other"


def test_log_says_where_old_file_is_when_it_cannot_get_its_name_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    script = Script(refuses_to_replace="553 exists", replies={"RNTO /old": "553 no"})
    with (
        odd_server.start(tmp_path, script) as odd,
        connected(odd) as remote,
        pytest.raises(errors.FtpfsError),
    ):
        remote.rename("/new", "/old", replace=True)
    (aside,) = tmp_path.glob(".ftpfs-*.old-old")
    assert aside.read_bytes() == b"old"
    assert f"the old content of /old is on the server as /{aside.name}" in caplog.text
