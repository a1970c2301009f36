"""A server's claims are compared with the facts: sizes, times, renames, and checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.checks import Seen, size_in, why_not_renamed
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import StartServer
from tests.support import odd_server, servers
from tests.support.odd_server import Script
from tests.support.servers import FtpServer
from tests.support.uploading import Local, blob

MEG = 1 << 20
SIZES = [1, 5000, 300_000]


def told(code: int, text: str) -> Reply:
    return Reply(code, (f"{code} {text}",))


KNOWN = Entry("file", Kind.FILE, size=5, mtime=1000, exact=True)
ROUGH = Entry("file", Kind.FILE, size=5, mtime=1000, exact=False)
NO_SIZE = Entry("file", Kind.FILE, size=None, mtime=None, exact=False)


@pytest.mark.parametrize(
    ("base", "seen", "is_other"),
    [
        (None, Seen(False), False),
        (None, Seen(None), False),  # the server does not say
        (None, Seen(True, 5, 1000), True),
        (None, Seen(True, directory=True), True),
        (KNOWN, Seen(False), False),  # gone: no work of anybody is lost
        (KNOWN, Seen(True, 5, 1000), False),
        (KNOWN, Seen(True, 6, 1000), True),
        (KNOWN, Seen(True, 5, 1007), True),
        (KNOWN, Seen(True, 5, None), False),
        (KNOWN, Seen(True, None, 1000), False),
        (KNOWN, Seen(True, None, 1007), True),
        (ROUGH, Seen(True, 5, 1007), False),  # a time that is not exact proves nothing
        (ROUGH, Seen(True, 6, 1000), True),
        (NO_SIZE, Seen(True, 6, 1007), False),
    ],
)
def test_seen_file_is_other_than_the_known_one(
    base: Entry | None, seen: Seen, is_other: bool
) -> None:
    assert seen.is_other_than(base, Profile()) is is_other


@pytest.mark.parametrize(
    ("first", "second", "left", "why"),
    [
        (told(350, "go on"), told(250, "renamed"), told(550, "not there"), ""),
        (told(350, "go on"), told(250, "renamed"), told(500, "what?"), ""),
        (
            told(350, "go on"),
            told(250, "renamed"),
            told(213, "5"),
            "250, but it was not renamed",
        ),
        (told(350, "go on"), told(553, "no"), told(213, "5"), "553 no"),
        (told(550, "not there"), told(503, "RNFR first"), told(550, "no"), "550 not there"),
    ],
)
def test_rename_is_believed_when_the_old_name_is_gone(
    first: Reply, second: Reply, left: Reply, why: str
) -> None:
    assert why_not_renamed(first, second, left) == why


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        (told(213, "5"), 5),
        (told(213, " 5 "), 5),
        (told(213, "5 bytes"), None),
        (told(213, "-1"), None),
        (told(550, "5"), None),
    ],
)
def test_size_is_read_from_a_213_alone(reply: Reply, size: int | None) -> None:
    assert size_in(reply) == size


@contextmanager
def verifying(
    server: odd_server.OddServer | FtpServer, quirks: tuple[tuple[str, str], ...] = ()
) -> Iterator[Remote]:
    place = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        quirks=quirks,
    )
    remote = Remote(place, Network(reply_timeout=5, finish_timeout=5), verify_content=True)
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


def sha256(path: Path) -> str:
    return f"250 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def crc(path: Path) -> str:
    return f"250 {zlib.crc32(path.read_bytes()):X}"


class Spoils:
    """Flips a bit of this many files as they arrive."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, path: Path) -> None:
        if self.left and path.stat().st_size:
            self.left -= 1
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)


def on_disk(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


@pytest.mark.parametrize("size", SIZES)
def test_content_that_arrived_with_another_bit_is_sent_again(tmp_path: Path, size: int) -> None:
    script = Script(tells={"XSHA256": sha256}, received=Spoils(1))
    with odd_server.start(tmp_path, script) as odd, verifying(odd) as remote:
        remote.store("/file", Local(blob(size)), base=None)
        assert on_disk(tmp_path) == {"file": blob(size)}
        assert odd.verbs().count("STOR") == 2


@pytest.mark.parametrize("size", SIZES)
def test_content_that_never_arrives_as_sent_gets_no_name(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"what was there")
    script = Script(tells={"XCRC": crc}, received=Spoils(9))
    with odd_server.start(tmp_path, script) as odd, verifying(odd) as remote:
        with pytest.raises(errors.DataMismatch, match="crc32"):
            remote.store("/file", Local(blob(size)), base=remote.stat("/file"))
        assert on_disk(tmp_path) == {"file": b"what was there"}


def test_server_whose_checksums_are_wrong_destroys_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what was there")
    script = Script(tells={"HASH": lambda _path: "213 MD5 0-5000 " + "ab" * 16 + " file"})
    with odd_server.start(tmp_path, script) as odd, verifying(odd) as remote:
        with pytest.raises(errors.DataMismatch, match="instead of"):
            remote.store("/file", Local(blob(5000)), base=remote.stat("/file"))
        assert on_disk(tmp_path) == {"file": b"what was there"}


def test_checksum_is_asked_for_together_with_the_size(tmp_path: Path) -> None:
    with odd_server.start(tmp_path, Script(tells={"XSHA256": sha256})) as odd:
        with verifying(odd) as remote:
            remote.store("/first", Local(blob(300_000)), base=None)
            before = len(odd.commands)
            remote.store("/second", Local(blob(300_000)), base=None)
            asked = [line.partition(" ")[0] for line in odd.commands[before:]]
        place = Server(odd.host, odd.port, user=odd.user, password=Secret(odd.password))
        plain = Remote(place, Network())
        plain.store("/first", Local(blob(300_000)), base=None, check=False)
        before = len(odd.commands)
        plain.store("/third", Local(blob(300_000)), base=None)
        without = [line.partition(" ")[0] for line in odd.commands[before:]]
        plain.close()
    assert [verb for verb in asked if verb != "XSHA256"] == without
    # Behind SIZE and the question about the final name, before the rename.
    where = asked.index("XSHA256")
    assert asked[where - 2 : where] == ["SIZE", "MLST"]
    assert "RNFR" in asked[where:]


def test_append_is_read_back_where_only_its_size_was_compared(tmp_path: Path) -> None:
    data = blob(4 * MEG)

    def spoil(path: Path) -> None:
        if path.name == "log" and not spoilt:
            spoilt.append(path)
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([data[-1] ^ 1]))

    spoilt: list[Path] = []
    (tmp_path / "log").write_bytes(data[:-100])
    with odd_server.start(tmp_path, Script(received=spoil)) as odd, verifying(odd) as remote:
        base = remote.stat("/log")
        remote.patch("/log", Local(data), [(len(data) - 100, len(data))], base=base)
    assert spoilt
    assert (tmp_path / "log").read_bytes() == data


def test_folder_that_takes_no_temporary_files_is_compared_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what was there")

    class OnlyThisName(dict[str, str]):
        def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
            return "553 not here" if key.startswith("STOR /.ftpfs-") else default

    script = Script(tells={"XSHA256": sha256}, replies=OnlyThisName(), received=Spoils(1))
    with odd_server.start(tmp_path, script) as odd, verifying(odd) as remote:
        remote.store("/file", Local(blob(5000)), base=None, check=False)
    assert on_disk(tmp_path) == {"file": blob(5000)}
    assert odd.verbs().count("XSHA256") == 2


def test_commands_are_tried_and_remembered_on_a_server_without_feat(tmp_path: Path) -> None:
    script = Script(
        unknown={"FEAT", "HASH", "XSHA256", "XSHA1", "XSHA", "XSHA512", "XMD5", "MD5"},
        tells={"XCRC": crc},
    )
    with odd_server.start(tmp_path, script) as odd, verifying(odd) as remote:
        for name in ("one", "two"):
            remote.store(f"/{name}", Local(blob(5000)), base=None)
        assert remote.profile.learned()["digests"] == ["XCRC"]
    assert odd.verbs().count("XMD5") == 1
    assert odd.verbs().count("XCRC") == 2


def test_missing_checksums_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with odd_server.start(tmp_path) as odd, verifying(odd) as remote:
        for name in ("one", "two"):
            remote.store(f"/{name}", Local(blob(5000)), base=None)
    said = [each for each in caplog.messages if "verify=content" in each]
    assert said == ["verify=content: this server tells no checksums; only sizes are compared"]


def test_content_that_is_written_over_meanwhile_is_not_taken_for_broken(tmp_path: Path) -> None:
    def each(_offset: int) -> None:
        if local_is_asked:
            raise errors.Superseded("written over")

    local_is_asked: list[Path] = []

    def tell(path: Path) -> str:
        local_is_asked.append(path)
        return f"250 {'0' * 64}"

    with (
        odd_server.start(tmp_path, Script(tells={"XSHA256": tell})) as odd,
        verifying(odd) as remote,
        pytest.raises(errors.Superseded),
    ):
        remote.store("/file", Local(blob(5000), each=each), base=None)


# A real server.

DIGEST = servers.Options(extra=("LoadModule mod_digest.c", "DigestEngine on"))


@pytest.fixture
def proftpd(start_server: StartServer) -> FtpServer:
    return start_server("proftpd", options=DIGEST)


class NotWhatWasSent(Local):
    """Content that differs from what was sent, as if a bit had flipped on the way."""

    def __init__(self, data: bytes) -> None:
        self._is_sent = False
        self.kept = bytes([data[0] ^ 1]) + data[1:]
        self._kept = Local(self.kept)
        super().__init__(data, each=self._see)
        self._end = len(data)

    def _see(self, offset: int) -> None:
        self._is_sent = offset == self._end

    def fileno(self) -> int:
        return self._kept.fileno() if self._is_sent else super().fileno()


@pytest.mark.parametrize("command", ["HASH", "XSHA256", "XSHA1", "XSHA512", "XMD5", "MD5", "XCRC"])
def test_proftpd_with_mod_digest_is_believed_and_checked(proftpd: FtpServer, command: str) -> None:
    contents = {"plain": blob(5000), "with a space": blob(300_000), "empty": b"", "ü": b"x"}
    folder = proftpd.root / "a folder"
    folder.mkdir()
    os.chown(folder, proftpd.uid, proftpd.gid)
    with verifying(proftpd, (("digests", command),)) as remote:
        for name, data in contents.items():
            remote.store(f"/a folder/{name}", Local(data), base=None)
        # mod_digest would report the checksum of the earlier content of this name: both were
        # written within a second.
        for data in (b"one", b"two", b"six"):
            remote.store("/a folder/plain", Local(data), base=None, check=False)
        remote.store("/turned", turned := NotWhatWasSent(blob(3 * MEG)), base=None)
    assert on_disk(folder) == {**contents, "plain": b"six"}
    # The first upload was sent with a flipped bit. The checksum showed that, and the second one was
    # sent right.
    assert on_disk(proftpd.root)["turned"] == turned.kept != blob(3 * MEG)
