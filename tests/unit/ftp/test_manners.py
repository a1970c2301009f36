"""Optional commands with wrong answers: each command, each misbehaviour.

Through `Remote`, on a scripted server. This test makes the table in docs/servers.md; run it with
FTPFS_WRITE_TABLES=1 in the environment to write the table.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import conversation, hearing
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.manners import Manners as Learned
from ftpfs.ftp.manners import can_answer
from ftpfs.ftp.profile import Profile, Restart
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry
from ftpfs.settings.config import DataMode, Network, Server, Tls
from ftpfs.settings.credentials import Secret
from tests.support import scripted_server as scripted
from tests.support.certificates import Certificates
from tests.support.scripted_server import Manners, ScriptedServer

TABLE = Path(__file__).parents[3] / "docs" / "servers.md"
BEGIN, END = "<!-- manners: begin -->\n", "<!-- manners: end -->"

NETWORK = Network(connect_timeout=3, reply_timeout=2, data_timeout=3, finish_timeout=3)
WHEN = 1_700_000_000

COLUMNS = {
    "silence": scripted.SILENCE,
    "mute": scripted.STUCK,
    "hang-up": scripted.FIN,
    "reset": scripted.RST,
    "500": "500 what?",
    "502": "502 no",
    "550": "550 not here",
    "twice": scripted.TWICE,
    "blank line first": scripted.BLANK_FIRST,
    "words first": scripted.WORDS_FIRST,
    "blank line only": scripted.BLANK_ONLY,
    "words only": scripted.WORDS_ONLY,
}
_ASKS = ("MLST type*;size*;modify;UNIX.mode;", *scripted.MODERN[1:])
CHECKSUMS = ("XSHA256", "XMD5", "MD5", "XCRC")
OPTIONAL = {
    **dict.fromkeys(("FEAT", "SYST", "PWD", "CWD", "EPSV", "MLSD", "MLST"), scripted.MODERN),
    "OPTS UTF8": scripted.MODERN,
    "OPTS MLST": _ASKS,
    **dict.fromkeys(("SIZE", "MDTM", "LIST -a", "REST", "NOOP"), scripted.OLD),
    **dict.fromkeys(("MFMT", "SITE CHMOD", "AVBL", "RNFR", "RNTO", "DELE"), scripted.MODERN),
    **dict.fromkeys(("APPE", "MKD", "RMD", "EPRT", "CCC"), scripted.MODERN),
    **dict.fromkeys(("MDTM time", "SITE UTIME"), scripted.OLD),
    "MFF": (*scripted.MODERN, "MFF modify;UNIX.mode;"),
    "HASH": (*scripted.MODERN, "HASH SHA-256*"),
    **{command: (*scripted.MODERN, command) for command in CHECKSUMS},
}
NEEDED = {
    **dict.fromkeys(("USER", "PASS", "TYPE", "RETR", "STOR"), scripted.MODERN),
    **dict.fromkeys(("PASV", "LIST"), ("SIZE",)),
    **dict.fromkeys(("PORT", "AUTH", "PBSZ", "PROT"), scripted.MODERN),
}
# What else the server lacks, and how it is used, so that the command is needed.
WITHOUT = {
    "PASV": {"EPSV": "502 no"},
    "PORT": {"EPRT": "502 no"},
    "SITE UTIME": {"MDTM time": "501 no"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{command: {"data_mode": DataMode.ACTIVE} for command in ("EPRT", "PORT")},
    **{
        command: {"tls": Tls.EXPLICIT, "tls_insecure": True} for command in ("AUTH", "PBSZ", "PROT")
    },
    "CCC": {"tls": Tls.EXPLICIT, "tls_insecure": True, "tls_ccc": True},
    **{command: {"verify_content": True} for command in ("HASH", *CHECKSUMS)},
}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "OPTIONAL_TIMEOUT", 0.3)
    monkeypatch.setattr(hearing, "SECOND_REPLY_SECONDS", 0.25)
    monkeypatch.setattr(conversation, "GROOM_TIMEOUT", 1.0)


@contextlib.contextmanager
def connected(
    server: ScriptedServer,
    profile: Profile | None = None,
    *,
    verify_content: bool = False,
    **settings: Any,
) -> Iterator[Remote]:
    login = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        **settings,
    )
    remote = Remote(login, NETWORK, verify_content=verify_content)
    if profile is not None:
        remote.profile.recall(profile.learned())
    try:
        yield remote
    finally:
        remote.close()


def write(remote: Remote, path: str, data: bytes, base: Entry | None) -> Entry:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        content = FileContent(file.fileno(), len(data), WHEN, 0o644)
        return remote.store(path, content, base=base)


def read(remote: Remote, path: str, offset: int = 0) -> bytes:
    with remote.open_read(path, offset) as download:
        return download.read(1 << 20)


def a_day_with(remote: Remote, root: Path) -> None:
    """Mount, list, read, write, write again."""
    remote.connect()
    assert sorted(entry.name for entry in remote.list("/")) == ["d", "hello"]
    assert read(remote, "/hello") == b"hello, world\n"
    with contextlib.suppress(errors.NotSupported):
        assert read(remote, "/hello", 7) == b"world\n"
    with remote.open_read("/hello") as left_early:
        left_early.read(2)
    remote.space()
    with contextlib.suppress(errors.NotSupported, errors.PermissionDenied):
        remote.chmod("/hello", 0o644)
    entry = write(remote, "/d/new", b"first", None)
    assert (root / "d" / "new").read_bytes() == b"first"
    write(remote, "/d/new", b"the second", entry)
    assert (root / "d" / "new").read_bytes() == b"the second"
    assert [entry.name for entry in remote.list("/d")] == ["new"]
    assert remote.stat("/d/new").size == 10
    assert read(remote, "/d/new") == b"the second"
    with contextlib.suppress(errors.NotSupported, errors.PermissionDenied):
        remote.mkdir("/made")
        assert (root / "made").is_dir()
        remote.rmdir("/made")
        assert not (root / "made").exists()
    append_or_store(remote, "/d/new", b"the second", b", and more")
    assert (root / "d" / "new").read_bytes() == b"the second, and more"


def append_or_store(remote: Remote, path: str, data: bytes, more: bytes) -> None:
    """Append, or write the whole content if the server cannot append."""
    base = remote.stat(path)
    with tempfile.TemporaryFile() as file:
        file.write(data + more)
        file.flush()
        content = FileContent(file.fileno(), len(data + more), WHEN, 0o644)
        with contextlib.suppress(errors.NotSupported):
            remote.append(path, content, len(data), len(data + more), base=base)
            return
        remote.store(path, content, base=base)


def outcome(
    folder: Path, command: str, how: str, features: tuple[str, ...], certificate: Path | None
) -> str:
    """The outcome of a day with a server that answers this command so.

    "works" twice, as the next mount knows from the first one.
    """
    unknown = WITHOUT.get(command, {})
    settings = SETTINGS.get(command, {})
    profile: Profile | None = None
    for turn in range(2):
        root = folder / str(turn)
        (root / "d").mkdir(parents=True)
        (root / "hello").write_bytes(b"hello, world\n")
        manners = Manners(
            answers={**unknown, command: how}, features=features, certificate=certificate
        )
        with (
            scripted.start(root, manners) as server,
            connected(server, profile, **settings) as remote,
        ):
            try:
                a_day_with(remote, root)
            except errors.FtpfsError as error:
                return "refused" if how[:1].isdigit() else f"fails: {error}"
            profile = remote.profile
            if turn == 0 and not server.was_sent(command):
                return f"fails: {command} was not sent"
    return "works"


def row(
    tmp_path: Path, command: str, features: tuple[str, ...], certificate: Path | None = None
) -> dict[str, str]:
    """The outcomes of all misbehaviours, which wait at the same time."""
    with ThreadPoolExecutor(len(COLUMNS)) as pool:
        under_way = {
            name: pool.submit(outcome, tmp_path / str(n), command, how, features, certificate)
            for n, (name, how) in enumerate(COLUMNS.items())
        }
        return {name: each.result() for name, each in under_way.items()}


def line_of(command: str, cells: dict[str, str]) -> str:
    shown = [cell.partition(":")[0] for cell in cells.values()]
    return f"| {command} | {' | '.join(shown)} |\n"


def check_line(command: str, line: str) -> None:
    """The documentation has this line; it is written on demand."""
    text = TABLE.read_text()
    table = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    if os.environ.get("FTPFS_WRITE_TABLES"):
        head = f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}\n"
        old = {each.split(" | ")[0]: f"{each}\n" for each in table.split("\n")[2:] if each}
        old[f"| {command}"] = line
        rows = [old[f"| {name}"] for name in (*OPTIONAL, *NEEDED) if f"| {name}" in old]
        new = head + "".join(rows)
        TABLE.write_text(text.replace(BEGIN + table, BEGIN + new))
        return
    assert line in table


@pytest.mark.parametrize("command", OPTIONAL)
def test_mount_works_with_every_misbehaviour_of_optional_command(
    command: str, tmp_path: Path, certificates: Certificates
) -> None:
    cells = row(tmp_path, command, OPTIONAL[command], certificates.self_signed)
    assert set(cells.values()) == {"works"}, cells
    check_line(command, line_of(command, cells))


@pytest.mark.parametrize("command", NEEDED)
def test_error_names_indispensable_command_that_is_not_answered(
    command: str, tmp_path: Path, certificates: Certificates
) -> None:
    cells = row(tmp_path, command, NEEDED[command], certificates.self_signed)
    for name, cell in cells.items():
        # A second reply counts as the next command's reply, and the error names that command.
        named = command in cell or name == "twice"
        assert cell in ("works", "refused") or named, (name, cell)
        if name in ("blank line first", "words first"):
            assert cell == "works"
    check_line(command, line_of(command, cells))


@pytest.mark.parametrize("features", [scripted.MODERN, scripted.OLD, ()], ids=["MLSD", "LIST", "-"])
def test_server_that_reads_one_command_per_packet_gets_commands_one_by_one(
    features: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "hello").write_bytes(b"hello, world\n")
    manners = Manners(one_command_a_packet=True, features=features)
    with scripted.start(tmp_path, manners) as server, connected(server) as remote:
        a_day_with(remote, tmp_path)
        assert not remote.profile.wire.pipelining
        assert not remote.profile.wire.manners.avoided
        with connected(server, remote.profile) as again:
            began = time.monotonic()
            again.list("/")
            assert time.monotonic() - began < 1


def test_answered_question_is_waited_for_with_the_whole_deadline_from_then_on(
    tmp_path: Path,
) -> None:
    """A busy server is no mute one."""
    (tmp_path / "hello").write_bytes(b"hello, world\n")
    slow: dict[str, float] = {}
    manners = Manners(features=scripted.OLD, slow=slow)
    with scripted.start(tmp_path, manners) as server, connected(server) as remote:
        with remote._pool.leased(Use.METADATA) as session:
            first = session.ask(["MDTM /hello"] * 2)
            slow["MDTM"] = 1.0
            assert session.ask(["MDTM /hello"] * 2) == first
        assert remote.profile.wire.pipelining


# Folders and servers that take a file in one way only.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    return tmp_path


def test_hot_folder_gets_each_file_once_under_its_final_name(root: Path) -> None:
    with scripted.start(root, Manners(hot_folder=True)) as server:
        login = Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            quirks=(("upload", "in-place"),),
        )
        remote = Remote(login, NETWORK)
        for number in range(3):
            write(remote, f"/d/job{number}", b"print me", None)
        remote.close()
        assert server.taken == [(f"job{number}", b"print me") for number in range(3)]
        asked = [line for line in server.commands if "job" in line]
        assert asked == [f"STOR /d/job{number}" for number in range(3)]


def test_nothing_is_tried_on_scratch_files_where_files_are_handed_over(root: Path) -> None:
    (root / "file").write_bytes(b"new")
    (root / "old").write_bytes(b"old")
    manners = Manners(hot_folder=True, answers={"MFMT": "550 no", "MDTM": "550 no"})
    with scripted.start(root, manners) as server:
        login = Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            quirks=(("upload", "in-place"),),
        )
        remote = Remote(login, NETWORK)
        assert remote.takes_files("/d/job")
        assert remote.restart_of_uploads() is Restart.NOTHING
        remote.rename("/file", "/old", replace=True)
        for path, directory in (("/old", False), ("/d", True)):
            with pytest.raises(errors.FtpfsError):
                remote.set_mtime(path, 1_600_000_000, directory=directory)
        remote.close()
        assert not server.taken
        assert not {"STOR", "MKD"} & set(server.verbs())


def test_broken_upload_to_hot_folder_is_not_repeated(root: Path) -> None:
    with scripted.start(root, Manners(answers={"STOR": scripted.FIN})) as server:
        login = Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            quirks=(("upload", "in-place"),),
        )
        remote = Remote(login, NETWORK)
        with pytest.raises(errors.NotSentAgain, match="may have taken it"):
            write(remote, "/d/job", b"print me", None)
        remote.close()
        assert server.verbs().count("STOR") == 1


@pytest.mark.parametrize("reply", ["502 no renaming here", "550 renaming is not allowed"])
def test_server_without_renames_gets_only_first_file_twice(root: Path, reply: str) -> None:
    with (
        scripted.start(root, Manners(never_renames=reply)) as server,
        connected(server) as remote,
    ):
        for number in range(4):
            write(remote, f"/d/file{number}", b"content", None)
            assert (root / "d" / f"file{number}").read_bytes() == b"content"
        assert server.verbs().count("STOR") == 5
        assert sorted(os.listdir(root / "d")) == [f"file{number}" for number in range(4)]
        assert remote.profile.names.renames is (False if reply.startswith("502") else None)


def test_rename_is_not_begun_on_server_without_rnto() -> None:
    """ProFTPD answers 501 to every command after an RNFR, until an RNTO comes."""
    assert Learned.recalled({"avoided": ["RNTO"]}).avoided == {"RNFR", "RNTO"}


# Servers whose APPE differs from RFC 959.


def append(remote: Remote, path: str, data: bytes) -> Entry:
    base = remote.stat(path)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(base.size or 0) + data)
        file.flush()
        end = (base.size or 0) + len(data)
        content = FileContent(file.fileno(), end, None, None)
        return remote.append(path, content, base.size or 0, end, base=base)


def appended(root: Path, manners: Manners) -> tuple[Profile, list[str]]:
    """Append twice to a log that others write; return the profile, and the commands about APPE."""
    (root / "d" / "log").write_bytes(b"months of lines\n")
    with scripted.start(root, manners) as server, connected(server) as remote:
        for _ in range(2):
            with contextlib.suppress(errors.NotSupported):
                append(remote, "/d/log", b"a line\n")
        return remote.profile, [line for line in server.commands if line.startswith("APPE")]


@pytest.mark.parametrize("features", [scripted.MODERN, ()], ids=["modern", "-"])
def test_probe_on_scratch_file_detects_append_that_replaces(
    root: Path, features: tuple[str, ...]
) -> None:
    profile, tried = appended(root, Manners(append_replaces=True, features=features))
    assert (root / "d" / "log").read_bytes() == b"months of lines\n"
    assert os.listdir(root / "d") == ["log"]
    assert len(tried) == 1
    assert ".ftpfs-probe-" in tried[0]
    assert profile.learned()["appends"] is False


def test_server_that_appends_is_probed_once_for_all_mounts(root: Path) -> None:
    profile, tried = appended(root, Manners())
    assert (root / "d" / "log").read_bytes() == b"months of lines\n" + b"a line\n" * 2
    assert os.listdir(root / "d") == ["log"]
    assert len(tried) == 3
    with scripted.start(root) as server, connected(server, profile) as remote:
        append(remote, "/d/log", b"a line\n")
        assert server.verbs().count("APPE") == 1
        assert "STOR" not in server.verbs()


@pytest.mark.parametrize("reply", ["502 no such command", "550 not here"])
def test_append_that_cannot_be_probed_is_not_used_on_file(root: Path, reply: str) -> None:
    profile, tried = appended(root, Manners(answers={"APPE": reply}))
    assert (root / "d" / "log").read_bytes() == b"months of lines\n"
    assert os.listdir(root / "d") == ["log"]
    assert all(".ftpfs-probe-" in line for line in tried)
    assert profile.contents.appends is (False if reply.startswith("502") else None)


def test_folder_that_refuses_scratch_file_gets_no_append_and_teaches_nothing(
    root: Path,
) -> None:
    profile, tried = appended(root, Manners(answers={"STOR": "553 not here"}))
    assert not tried
    assert profile.learned()["appends"] is None


@pytest.mark.parametrize("name", ["vsFTPd 3.0.3", "ProFTPD Server", "Pure-FTPd"])
def test_measured_server_is_not_probed_for_append(root: Path, name: str) -> None:
    _, tried = appended(root, Manners(greeting=f"220 {name}"))
    assert tried == ["APPE /d/log"] * 2


@pytest.mark.parametrize("command", ["CWD", "DELE", "MKD", "STOR", "TYPE"])
def test_size_does_not_answer_another_command(command: str) -> None:
    """So replies that are out of step with their commands are noticed."""
    assert not can_answer(command, 213)
    assert can_answer("SIZE", 213)
