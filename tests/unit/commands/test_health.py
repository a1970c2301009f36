"""The line and the exit code for monitors: each kind of trouble has its verdict."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from ftpfs.commands import health
from ftpfs.commands.health import Verdict
from ftpfs.commands.mounts import Mount
from tests.unit.commands.test_show import EVIL, mount, pending

FAILED = pending("/a", "failed", error="552 quota")
RETRIED = pending("/b", attempts=2, error="connection refused")


AN_HOUR_AFTER_1970 = 3600.0


def offline(since: float) -> Mount:
    calm = mount(pending("/c"))
    assert calm.report
    status = replace(calm.report.status, offline_since=since)
    return replace(calm, report=replace(calm.report, status=status))


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (mount(), Verdict.OK, "/mnt/nas: nothing waits"),
        (mount(pending("/c")), Verdict.OK, "/mnt/nas: 1 file, 1.0 kB to go"),
        (mount(RETRIED), Verdict.WARNING, "1 file, 1.0 kB to go, last error: connection refused"),
        (mount(note="not sent by this read-only mount"), Verdict.WARNING, "read-only mount"),
        (offline(AN_HOUR_AFTER_1970), Verdict.WARNING, " s, 1 file, 1.0 kB to go"),
        (mount(FAILED, RETRIED), Verdict.CRITICAL, "/mnt/nas: /a: not uploaded: 552 quota"),
        (mount(FAILED, FAILED), Verdict.CRITICAL, "552 quota, and 1 more"),
        (mount(lost=("x: lost",)), Verdict.CRITICAL, "x: lost"),
        (mount(held=("x: held",)), Verdict.CRITICAL, "x: held"),
        (Mount("/m", "ftp://nas/", None, "its daemon died"), Verdict.CRITICAL, "/m: its daemon"),
        (Mount("/m", "ftp://nas/", None, "other version", unseen=True), Verdict.UNKNOWN, "version"),
    ],
)
def test_verdict_fits_the_trouble(found: Mount, verdict: Verdict, words: str) -> None:
    told, line = health.check([found])
    assert told is verdict
    assert line.startswith(f"FTPFS {verdict.name}: ")
    assert words in line


def test_time_without_the_server_is_told_in_seconds() -> None:
    before = time.time()
    _, line = health.check([offline(before - 50)])
    told = int(line.partition("the server is away for ")[2].partition(" s")[0])
    assert 49 <= told <= time.time() - before + 50


def test_the_worst_mount_gives_the_verdict_and_is_told_first() -> None:
    unseen = Mount("/m", "ftp://nas/", None, "no socket", unseen=True)
    verdict, line = health.check([mount(), unseen, mount(RETRIED), mount(FAILED)])
    assert verdict is Verdict.CRITICAL
    assert line.index("552 quota") < line.index("connection refused") < line.index("no socket")
    assert "nothing waits" not in line


def test_nothing_mounted_is_unknown() -> None:
    assert health.check([]) == (Verdict.UNKNOWN, "FTPFS UNKNOWN: nothing is mounted")


def test_numbers_are_sums_over_all_mounts() -> None:
    old = pending("/old", since=time.time() - 100)
    _, line = health.check([mount(old), mount(FAILED, replace(RETRIED, since=time.time()))])
    assert re.search(r" \| files=3 failed=1 bytes=3000B oldest=\d+s$", line)
    _, line = health.check([mount(old)])
    assert 100 <= int(line.split("oldest=")[1].rstrip("s")) < 200


def test_server_text_stays_in_its_line_and_out_of_the_numbers() -> None:
    _, line = health.check([mount(pending(EVIL + "| files=0", "failed", error="500 a|b\x07\nc"))])
    assert line.isprintable()
    assert line.count("|") == 1
    _, line = health.check([mount(pending("/" + "x" * 5000, "failed"))])
    assert len(line) < 500
