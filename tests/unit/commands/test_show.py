"""How reports look: what a person needs is there, what a server says cannot harm the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from ftpfs.commands import mounts, show
from ftpfs.commands.mounts import Mount
from ftpfs.model.status import PendingFile, UploadStatus
from tests.unit.daemon.test_control_socket import REPORT

EVIL = "/a\x1b]0;owned\x07[bold]b[/bold]\udcff\nc"


def pending(path: str, state: str = "dirty", **words: object) -> PendingFile:
    values = {"size": 1000, "sent": 0, "attempts": 0, "error": None, "since": 0.0, **words}
    return PendingFile(path=path, state=state, **values)  # type: ignore[arg-type]


def uploads(*files: PendingFile) -> UploadStatus:
    return UploadStatus(
        pending=files,
        files=len(files),
        bytes=sum(each.size - each.sent for each in files),
        uploaded_files=3,
        uploaded_bytes=2_000_000,
        spool_used=5000,
        spool_limit=10_000,
    )


def mount(*files: PendingFile, **words: object) -> Mount:
    status = replace(REPORT.status, uploads=uploads(*files))
    report = replace(REPORT, status=status, **words)  # type: ignore[arg-type]
    return Mount("/mnt/nas", "ftp://me@nas/", report)


def text_of(*mounts: Mount) -> str:
    out = io.StringIO()
    show.status(list(mounts), out)
    return out.getvalue()


def test_status_of_a_quiet_mount_is_a_few_lines() -> None:
    shown = text_of(mount())
    assert shown.startswith("/mnt/nas\n  server       ftp://me@nas/\n")
    for words in (
        "2 busy, 1 idle, 8 at most",
        "3 files, 2.0 MB done",
        "5.0 kB of 10.0 kB in /spool",
        "43% of 7 reads",
        "process 7",
    ):
        assert words in shown
    assert "pending" not in shown
    assert "failed" not in shown


def test_status_says_what_the_server_allows() -> None:
    report = mount().report
    assert report
    assert "the server allows" not in text_of(mount())
    connections = replace(report.status.connections, limit=5, allowed=6)
    report = replace(report, status=replace(report.status, connections=connections))
    shown = text_of(Mount("/mnt/nas", "ftp://me@nas/", report))
    assert "5 at most\n               the server allows 6 for now\n" in shown


def test_status_shows_rate_and_time_left_of_uploads() -> None:
    files = [pending("/a", "uploading", sent=500), pending("/b")]
    shown = text_of(mount(*files, upload_rate=100.0))
    assert "2 files, 1.5 kB to go, 100 bytes/s; 15 s left; 3 files" in shown
    assert "50% of 1.0 kB" in shown


def test_status_shows_files_that_only_the_next_mount_can_send() -> None:
    held = mount(held=("/a: a second version waits for the next mount",))
    assert "held         /a: a second version waits for the next mount" in text_of(held)
    assert not held.is_well
    assert mount().is_well


def test_failed_files_come_first_and_do_not_count_as_to_go() -> None:
    files = [pending(f"/f{n}") for n in range(20)]
    lost = pending("/lost", "failed", attempts=4, error="552 quota exceeded")
    shown = text_of(mount(*files, lost))
    assert "20 files, 20.0 kB to go" in shown
    lines = shown.splitlines()
    first = lines[next(n for n, line in enumerate(lines) if "pending" in line) + 1]
    assert first.split() == [
        "failed",
        "0%",
        "of",
        "1.0",
        "kB",
        "4",
        "/lost",
        "552",
        "quota",
        "exceeded",
    ]
    assert "and 11 more" in shown


def test_status_escapes_server_text() -> None:
    shown = text_of(
        mount(pending(EVIL, "failed", error=EVIL), spool=EVIL, binding=EVIL),
        Mount(EVIL, EVIL, None, EVIL),
    )
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.count(r"/a\x1b]0;owned\x07[bold]b[/bold]\udcff\nc") == 7


def test_status_tells_of_a_dead_daemon() -> None:
    assert "its daemon died" in text_of(Mount("/mnt/x", "ftp://x/", None, "its daemon died"))


def test_status_tells_when_nothing_is_mounted() -> None:
    assert text_of() == "nothing is mounted\n"
    assert json.loads(show.as_json([])) == []


def test_json_has_every_field() -> None:
    (live, dead) = json.loads(
        show.as_json(
            [mount(pending(EVIL, "failed", error="x")), Mount("/m", "ftp://x/", None, "y")]
        )
    )
    assert live["mountpoint"] == "/mnt/nas"
    assert live["trouble"] is None
    assert live["connections"] == {
        "idle": 1,
        "busy": 2,
        "limit": 8,
        "waiting": 0,
        "others": [],
        "allowed": None,
    }
    assert live["uploads"]["pending"][0]["path"] == EVIL
    assert live["cache"]["hits"] == 3
    assert (live["pid"], live["state"], live["upload_rate"]) == (7, "mounted", 10.0)
    assert dead == {"mountpoint": "/m", "source": "ftp://x/", "trouble": "y", "waiting": []}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 d 1 h")],
)
def test_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert show._duration(seconds) == words


def test_mount_is_well_unless_its_daemon_is_silent_or_an_upload_failed() -> None:
    assert mount(pending("/a")).is_well
    assert not mount(pending("/a", "failed")).is_well
    assert not Mount("/m", "", None, "silent").is_well
    assert mounts.to_go(uploads(pending("/a", "failed"), pending("/b"))) == (1, 1000)
