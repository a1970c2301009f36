"""Sessions are logged in before a program needs them."""

from __future__ import annotations

import pytest

from ftpfs.core.reading.ahead import FEW_SESSIONS
from ftpfs.model import link
from ftpfs.settings.config import Write
from tests.support.filesystem_bench import (
    Bench,
)
from tests.support.memory_remote import MemoryRemote


def test_lookup_on_long_link_logs_a_few_sessions_in(bench: Bench) -> None:
    bench.fs.children("/d")
    assert bench.remote.warmed == FEW_SESSIONS


def test_new_files_log_in_as_many_sessions_as_will_send_them(
    bench: Bench,
) -> None:
    """The files linger for 100 ms before they are sent: five round trips of 20 ms."""
    bench.write("/d/first", b"x")  # the close of this first file waits for its upload
    assert bench.remote.warmed == FEW_SESSIONS
    for n in range(3):
        bench.write(f"/d/{n}", b"x")
    assert FEW_SESSIONS < bench.remote.warmed < Write().uploads
    for n in range(30):
        bench.write(f"/d/more{n}", b"x")
    assert bench.remote.warmed == Write().uploads


def test_far_link_gets_twice_as_many_sessions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryRemote, "round_trip", lambda _: link.FAR_SECONDS)
    bench.fs.children("/d")
    assert bench.remote.warmed == 2 * FEW_SESSIONS


@pytest.mark.parametrize("round_trip", [0.0005, 0.002])
def test_short_link_gets_no_session_ahead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, round_trip: float
) -> None:
    monkeypatch.setattr(MemoryRemote, "round_trip", lambda _: round_trip)
    bench.fs.children("/d")
    bench.write("/d/f", b"x")
    assert bench.remote.warmed == 0
