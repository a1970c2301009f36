"""Two machines that append lines to one file at the same time, with the options people use."""

from __future__ import annotations

import functools
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.support.relay import Relay, Rule, When
from tests.support.servers import Kind

pytestmark = [pytest.mark.mount, pytest.mark.far]

LINES = 25
WHO = ("one", "two")
# Their APPE looks for the end when it opens the file, and writes there whatever came since.
SEEKING: tuple[Kind, ...] = ("proftpd", "pure-ftpd")


def loop(mounted: Mounted, who: str, pause: str) -> subprocess.Popen[bytes]:
    """Run a shell that appends lines. Lines closed while the server is away are sent later."""
    script = (
        f"for n in $(seq {LINES}); do "
        f'until echo "{who} $n" >> log; do sleep 0.1; done 2> /dev/null; sleep {pause}; done'
    )
    return subprocess.Popen(["bash", "-c", script], cwd=mounted.path)


def take_turns(mounts: list[Mounted]) -> list[str]:
    """Append in turns, so that each mount learns of the other. Returns the expected lines."""
    for who in ("one", "two") * 2:
        mounted = mounts[who == "two"]
        with (mounted.path / "log").open("a") as log:
            log.write(f"{who} in turn\n")
        wait_until_sent(mounted.path, 60)
    return ["begin", *("one in turn", "two in turn") * 2]


def was_hit(rule: Rule) -> bool:
    return rule.hits > 0


def check(mounts: list[Mounted], head: list[str], kind: Kind, *, cut: bool = False) -> None:
    """Check that each server's file has every line once.

    If one append may overwrite another, the end of a line may appear twice, and one of a few lines
    of one append may follow the others. If the reply to such an append is lost as well, the rest of
    it appears twice.
    """
    for each in mounts:
        wait_until_sent(each.path, 60)
    disk: Path = mounts[0].disk_now
    assert [path.name for path in disk.iterdir() if "conflict" in path.name] == []
    lines = (disk / "log").read_text().splitlines()
    assert lines[: len(head)] == head
    del lines[: len(head)]
    expected = {who: [f"{who} {number}" for number in range(1, LINES + 1)] for who in WHO}
    found = {who: [line for line in lines if line in expected[who]] for who in WHO}
    if kind in SEEKING:
        assert {who: set(found[who]) for who in WHO} == {who: set(expected[who]) for who in WHO}
        assert cut or all(len(found[who]) == LINES for who in WHO)
    else:
        assert found == expected
        assert len(lines) == 2 * LINES


@pytest.mark.parametrize("pause", ["0", "0.15"])
def test_two_machines_that_append_lines_have_each_line_once(
    remote_dir: RemoteDir, mount_dir: MountDir, pause: str
) -> None:
    remote_dir.write("log", b"begin\n")
    mounts = [mount_dir(), mount_dir()]
    head = take_turns(mounts)
    running = [loop(mounts[0], "one", pause), loop(mounts[1], "two", pause)]
    assert [each.wait(60) for each in running] == [0, 0]
    check(mounts, head, remote_dir.server.kind)
    time.sleep(2.1)  # the kernel believes attributes for a second, the mount for two
    for each in mounts:
        assert (each.path / "log").read_bytes() == (remote_dir.disk / "log").read_bytes()


def test_lines_appended_over_a_link_that_is_cut_are_there_once(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    """The append itself, or the reply to it, is lost again and again."""
    remote_dir.write("log", b"begin\n")
    mounts = [mount_dir(through=relay), mount_dir()]
    head = take_turns(mounts)
    running = [loop(mounts[0], "one", "0.2"), loop(mounts[1], "two", "0.2")]
    cuts: dict[When, int] = {"final": 0, "after": 0, "before": 0}
    while any(each.poll() is None for each in running):
        for when in cuts:
            rule = relay.cut_control("APPE", when=when)
            relay.wait_for(functools.partial(was_hit, rule), 3)
            rule.remove()
            cuts[when] += rule.hits
    check(mounts, head, remote_dir.server.kind, cut=True)
    assert all(cuts.values()), cuts
