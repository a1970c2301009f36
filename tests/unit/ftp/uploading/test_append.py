"""Two clients append to one file at once, on servers whose APPE seeks to the end when it opens."""

from __future__ import annotations

import ftplib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.append import lines_missing
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.uploading import Local, found
from tests.support.waiting import until

BEGIN = b"begin\n"


@pytest.fixture(params=["proftpd", "pure-ftpd"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def network() -> Network:
    return Network(reply_timeout=10, max_connections=2)


@contextmanager
def rival(
    remote_dir: RemoteDir, data: bytes, when: Callable[[bytes], bool]
) -> Iterator[threading.Thread]:
    """Another client with an open APPE. Its bytes come as soon as the file looks like `when`."""
    server = remote_dir.server
    log = remote_dir.disk / "log"
    with ftplib.FTP() as ftp:
        ftp.connect(server.host, server.port, 10)
        ftp.login(server.user, server.password)
        ftp.voidcmd("TYPE I")
        channel = ftp.transfercmd(f"APPE {remote_dir.path}/log")

        def send() -> None:
            until(lambda: when(log.read_bytes()))
            channel.sendall(data)
            channel.close()
            ftp.voidresp()

        thread = threading.Thread(target=send)
        thread.start()
        yield thread
        thread.join()


def append(remote: Remote, ours: bytes) -> int:
    """Append, and return the size of the server's file then."""
    base = found(remote, "/log")
    size = base.size or 0
    content = Local(bytes(size) + ours)
    return remote.append("/log", content, size, size + len(ours), base=base).size or 0


@pytest.mark.parametrize(
    ("ours", "theirs", "lines"),
    [
        (b"one 1\n", b"two 1\n", [b"two 1", b"one 1"]),
        (b"one 1\n", b"two 1 and more\n", [b"two 1 and more", b"one 1"]),
        (b"one 1 and more\n", b"two 1\n", [b"two 1", b"and more", b"one 1 and more"]),
        (b"one 1\none 2\none 3\n", b"two 1\n", [b"two 1", b"one 2", b"one 3", b"one 1"]),
        (b"one 1\none 2\none 3\n", b"two 11\n", [b"two 11", b"ne 2", b"one 3", b"one 1", b"one 2"]),
        (b"\0\1\2\3", b"\4\5\6\7\n", [b"\4\5\6\7", b"\0\1\2\3"]),
    ],
    ids=["as long", "longer", "shorter", "over one line of three", "over part of one", "no line"],
)
def test_append_that_another_has_written_over_is_appended_again(
    relayed: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    ours: bytes,
    theirs: bytes,
    lines: list[bytes],
) -> None:
    remote_dir.write("log", BEGIN)
    relay.latency = 0.05  # ours is looked for a round trip after it came
    with rival(remote_dir, theirs, lambda content: content == BEGIN + ours):
        size = append(relayed, ours)
    content = (remote_dir.disk / "log").read_bytes()
    assert content.splitlines() == [b"begin", *lines]
    assert size == len(content)


def test_append_at_the_right_place_is_sent_once(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("log", BEGIN)
    for number in range(3):
        append(relayed, b"one %d\n" % number)
        (remote_dir.disk / "log").open("ab").write(b"two %d\n" % number)
    assert relay.count("APPE") == 3
    together = b"".join(b"one %d\ntwo %d\n" % (number, number) for number in range(3))
    assert (remote_dir.disk / "log").read_bytes() == BEGIN + together


def test_append_to_a_file_that_others_append_to_is_looked_for_after_their_bytes_came(
    relayed: Remote, remote_dir: RemoteDir
) -> None:
    """The rival's link is slower than ours."""
    remote_dir.write("log", BEGIN)
    append(relayed, b"one 1\n")
    (remote_dir.disk / "log").open("ab").write(b"two 1\n")
    after = BEGIN + b"one 1\ntwo 1\none 2\n"

    def is_late(there: bytes) -> bool:
        if there != after:
            return False
        time.sleep(0.25)
        return True

    with rival(remote_dir, b"two 2\n", is_late):
        append(relayed, b"one 2\n")
    lines = (remote_dir.disk / "log").read_bytes().splitlines()
    assert lines == [b"begin", b"one 1", b"two 1", b"two 2", b"one 2"]


def test_bytes_truncated_with_an_append_are_not_appended_again(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """Another program truncates the file right after the append."""
    remote_dir.write("log", BEGIN)
    log = remote_dir.disk / "log"
    relay.latency = 0.05

    def rotate() -> None:
        until(lambda: log.read_bytes() != BEGIN)
        log.write_bytes(b"")

    thread = threading.Thread(target=rotate)
    thread.start()
    with pytest.raises(errors.DataMismatch):
        append(relayed, b"one 1\n")
    thread.join()
    assert log.read_bytes() == b""
    assert relay.count("APPE") == 1


def test_second_append_of_one_written_over_that_broke_off_is_looked_for(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("log", BEGIN)
    ours = b"one 1\none 2\n"
    relay.latency = 0.05
    relay.cut_control("APPE", skip=1, when="final")
    with rival(remote_dir, b"two 1\n", lambda content: content == BEGIN + ours):
        append(relayed, ours)
    lines = (remote_dir.disk / "log").read_bytes().splitlines()
    assert lines == [b"begin", b"two 1", b"one 2", b"one 1"]
    assert relay.count("APPE") == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "missing"),
    [
        (b"a\nb\n", b"a\nb\n", b""),
        (b"a\nb\n", b"x\na\nb\ny\n", b""),
        (b"a\nb\n", b"x\nb\n", b"a\n"),
        (b"a\na\n", b"x\na\n", b"a\n"),
        (b"a\nb", b"a\nx", b"b"),
        (b"\0\1", b"\2\0\1\3", b""),
        (b"", b"x", b""),
    ],
)
def test_lines_that_are_missing_are_told(ours: bytes, theirs: bytes, missing: bytes) -> None:
    assert lines_missing(ours, theirs) == missing


def test_append_that_is_refused_at_its_end_is_no_append_that_server_cannot_do(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """Else the file would be sent whole, and what was appended be taken for others' work."""
    remote_dir.write("file", b"one\n")
    relayed.profile.contents.appends = True
    base = found(relayed, "/file")
    relay.replace_reply("APPE", "504 not now")
    with pytest.raises(errors.DataMismatch, match="broke off"):
        relayed.append("/file", Local(b"one\ntwo\n"), 4, 8, base=base)
