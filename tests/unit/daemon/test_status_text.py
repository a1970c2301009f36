"""The text that systemd shows of a mount."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs.daemon.status_text import MAX_CHARACTERS, StatusText, words_of
from ftpfs.model.status import MountStatus, PendingFile
from tests.unit.daemon.test_control_socket import REPORT

WAITS = PendingFile("/b", "dirty", 1000, 0, 0, None, 0.0)
FAILED = PendingFile("/a", "failed", 10, 0, 1, "552 quota", 0.0)


def status(*pending: PendingFile, offline_since: float | None = None) -> MountStatus:
    size = sum(each.size - each.sent for each in pending)
    uploads = replace(REPORT.status.uploads, pending=pending, files=len(pending), bytes=size)
    return replace(REPORT.status, uploads=uploads, offline_since=offline_since)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (status(), ""),
        (status(WAITS), "1 to go, 1.0 kB"),
        (status(FAILED), "1 failed for good (/a: 552 quota)"),
        (status(WAITS, FAILED), "1 failed for good (/a: 552 quota); 1 to go, 1.0 kB"),
        (status(offline_since=1.0), "the server is away"),
        (status(replace(WAITS, error="timed out")), "1 to go, 1.0 kB; last error: timed out"),
    ],
)
def test_words_say_what_a_person_should_know(told: MountStatus, words: str) -> None:
    assert words_of(told) == words


def test_systemd_is_told_while_something_waits_and_once_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        text = StatusText("ftp://nas/", "/mnt/nas")
        text.tell(status())
        with pytest.raises(BlockingIOError):
            listener.recv(1000)
        for _ in range(2):
            text.tell(status(WAITS))
            assert listener.recv(1000) == b"STATUS=ftp://nas/ on /mnt/nas: 1 to go, 1.0 kB"
        text.tell(status())
        assert listener.recv(1000) == b"STATUS=ftp://nas/ on /mnt/nas"
        text.tell(status())
        with pytest.raises(BlockingIOError):
            listener.recv(1000)


def test_name_or_error_cannot_send_systemd_a_second_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        evil = replace(FAILED, path="/a\nSTOPPING=1", error="x\nMAINPID=1" + "y" * 5000)
        StatusText("ftp://nas/", "/mnt/\nnas").tell(status(evil))
        told = listener.recv(100_000)
    assert b"\n" not in told
    assert len(told) < MAX_CHARACTERS + 20
