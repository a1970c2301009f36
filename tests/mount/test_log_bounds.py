"""The log of a mount stays small while a server is away, or answers nonsense, and programs poll."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.daemon import logs
from tests.mount.conftest import MountServer, as_server
from tests.support import scripted_server
from tests.support.relay import Relay
from tests.support.scripted_server import Manners, ScriptedServer

pytestmark = pytest.mark.mount

POLL_SECONDS = 12.0
# What four programs do in a loop, with the folder of the mount as their argument. Each prints how
# often the mount has answered with an error.
PROGRAMS = {
    "stat": "os.stat(f'{here}/folder/file{n % 7}')",
    "ls": "os.listdir(f'{here}/folder')",
    "open": "open(f'{here}/folder/file{n % 7}', 'rb').read()",
    "new names": "os.mkdir(f'{here}/new{n}')",
}
LOOP = """
import os, sys, time
here, ends, failed, n = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0, 0
while time.monotonic() < ends:
    n += 1
    try:
        {}
    except OSError:
        failed += 1
print(failed)
"""


def poll(here: Path, seconds: float = POLL_SECONDS) -> dict[str, int]:
    """Run the programs at once. Returns the number of errors that each of them got."""
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", LOOP.format(call), here, str(seconds)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name, call in PROGRAMS.items()
        }
        return {name: int(each.communicate()[0]) for name, each in running.items()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedServer]:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    for number in range(7):
        (root / "folder" / f"file{number}").write_bytes(b"content")
    with scripted_server.start(root, Manners()) as server:
        yield server


@pytest.mark.parametrize("away", ["refuses", "hangs up"])
def test_log_is_bounded_while_the_server_is_away_and_four_programs_poll(
    server: ScriptedServer, mount_server: MountServer, away: str
) -> None:
    with Relay(server.host, server.port) as relay:
        # The level is the default one, which `mount_server` raises.
        through = {"port": relay.port, "options": "log_level=info"}
        mounted = mount_server(as_server(server), server.root, **through)
        assert len(os.listdir(mounted.path / "folder")) == 7
        if away == "refuses":
            relay.vanish()
        else:
            relay.refuse_connections()
            relay.cut_all()
        failures = poll(mounted.path)
        text = mounted.log_text()
    assert min(failures.values()) > 100  # else nobody polled
    lines = text.count("\n")
    # Twice, as a minute may begin in between; and some lines of other places.
    assert lines <= 2 * logs.MAX_ALIKE + 50
    assert len(text) < 100_000
    for operation in ("getattr", "open", "mkdir"):
        assert f"WARNING {operation} /" in text


# An answer that is no FTP, or a refusal, to the command of each call.
ANSWERS = {
    "RETR": "777 what",
    "MLSD": "\x1b[2J",
    "STOR": "550 \x1b[31mno",
    "MLST": scripted_server.RST,
    "CWD": scripted_server.TWICE,
}


@pytest.mark.parametrize("verb", ANSWERS)
def test_hostile_answer_repeated_200_times_is_a_few_lines_and_hides_no_other(
    server: ScriptedServer, mount_server: MountServer, verb: str
) -> None:
    mounted = mount_server(as_server(server), server.root, options="log_level=info")
    folder = mounted.path / "folder"
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.listdir(folder),
        (folder / "file1").read_bytes,
        lambda: (folder / "new").write_bytes(b"new"),
    )
    server.manners.answers = {verb: ANSWERS[verb], "DELE": "550 no"}
    for _ in range(200):
        mounted.forget()
        for call in calls:
            with contextlib.suppress(OSError):
                call()
    with pytest.raises(OSError, match=r"file2"):
        os.unlink(folder / "file2")
    text = mounted.log_text()
    assert "WARNING unlink /folder/file2: server replied 550: no" in text
    assert text.count("\n") <= 20
    assert len(text) < 5000
    assert all(line.isprintable() for line in text.splitlines())
