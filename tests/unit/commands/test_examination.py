"""The doctor: right about each server, harmless, and its table in docs/servers.md is true."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs import cli
from ftpfs.commands.examination import Report, examine, text
from ftpfs.errors import InvalidArgument
from ftpfs.ftp.profile import Passive, Profile, Restart, SetTime
from ftpfs.settings.config import Config, Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer, skip_unless_available
from tests.support import odd_server, servers
from tests.support.odd_server import OddServer, Script
from tests.support.servers import Kind

PAGE = Path(__file__).resolve().parents[3] / "docs" / "servers.md"
BEGIN, END = "<!-- doctor: begin -->\n", "<!-- doctor: end -->\n"


def config_for(place: RemoteDir | OddServer, **settings: object) -> Config:
    server = place.server if isinstance(place, RemoteDir) else place
    path = place.path if isinstance(place, RemoteDir) else ""
    return Config(
        Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            path=path,
            **settings,  # type: ignore[arg-type]
        ),
        Network(reply_timeout=5, connect_timeout=5, max_connections=4),
    )


def diagnose(config: Config, *, write: bool = True) -> Report:
    return examine(config, write=write, progress=lambda _line: None)


def works(report: Report) -> dict[str, bool | None]:
    return {finding.name: finding.works for finding in report.findings}


def test_doctor_examines_each_server_and_leaves_it_unchanged(remote_dir: RemoteDir) -> None:
    remote_dir.write("small", b"x" * 100)
    remote_dir.write("big", b"x" * 3_000_000)
    before = {p.name: p.stat().st_mtime_ns for p in remote_dir.disk.iterdir()}
    report = diagnose(config_for(remote_dir))
    assert {p.name: p.stat().st_mtime_ns for p in remote_dir.disk.iterdir()} == before
    found = works(report)
    able = {name for name, works in found.items() if works}
    assert able >= {
        *("pipelining", "listings", "exact times", "data connections", "uploads"),
        *("reading from the middle", "partial uploads", "replacing by renaming"),
        *("setting times", "setting modes", "connections at once"),
    }, text(report)
    assert found["free space"] is False
    assert found["protected by TLS"] is False
    assert found["passthrough"] is not None, "this machine can do it, or the reason is told"
    assert 0 < report.round_trip < report.login
    assert report.download is not None
    assert report.download > 1e6
    assert report.upload is not None
    assert remote_dir.server.password not in text(report)


def test_table_of_servers_agrees_with_the_doctor(start_server: StartServer) -> None:
    found: dict[Kind, Report] = {}
    for kind in servers.KINDS:
        skip_unless_available(kind)
        server = start_server(kind)
        RemoteDir(server, server.root, "").write("big", b"x" * 3_000_000)
        found[kind] = diagnose(config_for(RemoteDir(server, server.root, "")))
    # Passthrough is a matter of this machine.
    names = [f.name for f in found["vsftpd"].findings if f.name != "passthrough"]
    lines = ["| | " + " | ".join(servers.KINDS) + " |", "|---" * 5 + "|"]
    for name in names:
        cells = []
        for kind in servers.KINDS:
            finding = next((f for f in found[kind].findings if f.name == name), None)
            cells.append(_cell(finding.works, finding.how) if finding else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    table = "\n".join(lines) + "\n"
    page = PAGE.read_text()
    old = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page.replace(BEGIN + old + END, BEGIN + table + END))
        return
    assert old == table, "run with UPDATE_DOCS=1"


def _cell(works: bool | None, how: str) -> str:
    """One answer without what differs from run to run."""
    mark = {True: "yes", False: "no", None: "?"}[works]
    how = re.sub(r", \d+ times as fast|: \d+ names in \d+ ms", "", how)
    return f"{mark}: {how}"


def test_doctor_uploads_nothing_without_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with odd_server.start(tmp_path) as odd:
        report = diagnose(config_for(odd), write=False)
        assert not {"STOR", "APPE", "DELE", "RNFR", "MKD", "MFMT"} & set(odd.verbs())
    assert works(report)["uploads"] is None
    assert report.upload is None


def test_doctor_tells_what_does_not_work_why_and_what_follows(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    script = Script(
        unknown={"EPSV", "MLSD", "MLST", "MDTM", "MFMT", "SITE CHMOD"},
        replies={"REST 500": "502 no REST", "STOR": "553 not you", "SITE": "502 no SITE"},
        max_clients=2,
    )
    with odd_server.start(tmp_path, script) as odd:
        report = diagnose(config_for(odd))
    found = works(report)
    assert found["exact times"] is False
    assert found["reading from the middle"] is False
    assert found["uploads"] is False
    assert found["connections at once"] is False
    assert found["data connections"] is True
    page = text(report)
    assert "not you" in page
    assert "-o ro" in page
    assert "PASV" in page
    assert os.listdir(tmp_path) == ["file"]


def test_doctor_finds_checksums_by_trying(tmp_path: Path) -> None:
    tells = {"XCRC": lambda path: f"250 {zlib.crc32(path.read_bytes()):08X}"}
    script = Script(unknown={"FEAT", "HASH", "XSHA256"}, tells=tells)
    with odd_server.start(tmp_path, script) as odd:
        report = diagnose(config_for(odd))
    (found,) = (each for each in report.findings if each.name == "checksums")
    assert (found.works, found.how) == (True, "XCRC: crc32")


def test_doctor_measures_no_speed_with_a_few_bytes(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)
    with odd_server.start(tmp_path) as odd:
        report = diagnose(config_for(odd), write=False)
    assert report.download is None
    assert "download     not measured" in text(report)


def test_doctor_accepts_an_empty_folder(tmp_path: Path) -> None:
    with odd_server.start(tmp_path) as odd:
        report = diagnose(config_for(odd), write=False)
    assert works(report)["listings"] is True
    assert works(report)["exact times"] is None
    assert report.download is None


# The command.


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[OddServer]:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with odd_server.start(tmp_path, Script(banner="odd \x1b[31m server")) as running:
        yield running


def test_doctor_prints_text_and_json(
    odd: OddServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"ftp://{odd.user}@{odd.host}:{odd.port}/"
    monkeypatch.setenv("FTPFS_PASSWORD", odd.password)
    assert cli.main(["doctor", source]) == 0
    page = capsys.readouterr().out
    assert "yes  listings: MLSD" in page
    assert "\x1b" not in page
    monkeypatch.setenv("FTPFS_PASSWORD", odd.password)
    assert cli.main(["doctor", source, "--json", "--quirk", "mlsd=no"]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert said.err == ""
    (listings,) = (f for f in report["findings"] if f["name"] == "listings")
    assert listings["how"].startswith("LIST")
    assert odd.password not in said.out


def test_doctor_tells_learned_and_given_quirks_as_options(
    odd: OddServer,
) -> None:
    report = diagnose(config_for(odd, quirks=(("mlsd", "no"), ("times", "+0530"))))
    assert report.quirks == {"mlsd": "no", "times": "+0530"}
    assert report.learned["passive"] == "EPSV"
    assert report.learned["restart"] == "ALL"
    assert not set(report.learned) & set(report.quirks)
    # They can be said as they are told.
    again = diagnose(config_for(odd, quirks=tuple(report.learned.items())))
    assert again.quirks == report.learned
    page = text(report)
    assert "passive=EPSV" in page
    assert "as you say:\n    mlsd=no, times=+0530" in page


def test_doctor_finds_a_server_with_local_times(start_server: StartServer) -> None:
    server = start_server("vsftpd", options=servers.Options(use_localtime=True, tz="Asia/Kolkata"))
    report = diagnose(config_for(RemoteDir(server, server.root, "/")))
    assert works(report)["times in UTC"] is False
    assert "told in +0530" in text(report)
    assert report.learned["times"] == "+0530"


def test_report_shows_the_first_line_of_a_long_welcome(tmp_path: Path) -> None:
    with odd_server.start(tmp_path, Script(banner=f"hello\r\n{'there ' * 20}")) as odd:
        page = text(diagnose(config_for(odd), write=False))
    assert "  server       220-hello\n" in page


# Quirks.


def test_quirk_beats_what_is_learned() -> None:
    quirks = [("mlsd", "no"), ("passive", "pasv"), ("set_time", "SITE_UTIME"), ("restart", "HEAD")]
    profile = Profile(quirks)
    profile.listings.mlsd = True
    profile.wire.passive = Passive.EPSV
    profile.contents.restart = Restart.ALL
    assert not profile.setting.saw_set_time(SetTime.SITE_UTIME, 500)
    assert (
        profile.listings.mlsd,
        profile.wire.passive,
        profile.setting.set_time,
        profile.contents.restart,
    ) == (*(False, Passive.PASV, SetTime.SITE_UTIME, Restart.HEAD),)
    profile.contents.rest = False
    assert profile.contents.rest is False


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mlsdd", "no", "mlsd, mlst"),
        ("rest", "maybe", "yes, no"),
        ("round_trip", "long", "milliseconds"),
    ],
)
def test_unknown_quirk_is_refused_with_the_choices(name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Profile([(name, value)])
