"""What each operation costs: the commands that reach the server, counted by a relay.

`COSTS` is the one table; docs/round-trips.md is made from it (UPDATE_DOCS=1 writes it anew).
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import Kind

DOCS = Path(__file__).resolve().parents[2] / "docs" / "round-trips.md"
FILES = 20

MLSD = "CWD EPSV MLSD"
COSTS: dict[str, dict[Kind, str]] = {
    "stat of a listed name": dict.fromkeys(servers.KINDS, ""),
    "ls of a directory listed before": dict.fromkeys(servers.KINDS, ""),
    f"ls -l of a new directory of {FILES} files": {
        "vsftpd": f"CWD EPSV LIST {FILES}*MDTM NOOP",
        "proftpd": MLSD,
        "pure-ftpd": MLSD,
        "pyftpdlib": MLSD,
    },
    "cat of a 4 KiB file just listed": dict.fromkeys(servers.KINDS, "EPSV RETR"),
    # What is there already is asked for in the same write as EPSV or STOR: no round trip.
    "making a 4 KiB file": {
        "vsftpd": "SIZE MDTM EPSV STOR MDTM RNFR RNTO 2*SIZE",
        "proftpd": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
        "pure-ftpd": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
        "pyftpdlib": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
    },
    "writing over it": {
        "vsftpd": "SIZE MDTM EPSV STOR MDTM RNFR RNTO 2*SIZE",
        "proftpd": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
        "pure-ftpd": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
        "pyftpdlib": "MLST EPSV STOR MFMT RNFR RNTO 2*SIZE",
    },
    # A line is read back (REST RETR) if APPE seeks to the end only when it opens the file.
    "appending a line to it": {
        "vsftpd": "SIZE MDTM EPSV APPE MDTM SIZE",
        "proftpd": "MLST EPSV APPE MFMT SIZE EPSV REST RETR",
        "pure-ftpd": "MLST EPSV APPE MFMT SIZE EPSV REST RETR",
        "pyftpdlib": "MLST EPSV APPE MFMT SIZE",
    },
    # Nobody else may read it: it has its mode before its first byte.
    "making a 4 KiB file of mode 0600": {
        "vsftpd": "SIZE MDTM EPSV STOR SITE EPSV STOR SITE MDTM RNFR RNTO 2*SIZE",
        "proftpd": "MLST EPSV STOR MFF EPSV STOR MFF MFMT RNFR RNTO 2*SIZE",
        "pure-ftpd": "MLST EPSV STOR SITE EPSV STOR SITE MFMT RNFR RNTO 2*SIZE",
        "pyftpdlib": "MLST EPSV STOR SITE EPSV STOR SITE MFMT RNFR RNTO 2*SIZE",
    },
    "mv": dict.fromkeys(servers.KINDS, "RNFR RNTO"),
    "rm": dict.fromkeys(servers.KINDS, "DELE"),
    "mkdir": dict.fromkeys(servers.KINDS, "MKD"),
    "mkdir -p of 5 folders": dict.fromkeys(servers.KINDS, "5*MKD"),
    "mv of 3 files into a folder just made": dict.fromkeys(
        servers.KINDS, "RNFR RNTO RNFR RNTO RNFR RNTO"
    ),
    "rm -rf of that folder": dict.fromkeys(servers.KINDS, "3*DELE RMD"),
    "ls of all that again": dict.fromkeys(servers.KINDS, ""),
}


# Over a long link, on one connection that is used all the time: the round trips, with `|` between
# them. vsftpd reads a command that is sent behind a transfer when that is over.
LATENCY = 0.04  # seconds: commands that arrive within half of it were sent together
NAMED = "RNFR RNTO 2*SIZE"
FAR: dict[str, dict[Kind, str]] = {
    f"ls -l of a new directory of {FILES} files": {
        "vsftpd": f"CWD LIST EPSV | {FILES}*MDTM NOOP",
        **dict.fromkeys(("proftpd", "pure-ftpd", "pyftpdlib"), "CWD MLSD | EPSV"),
    },
    "cat of a 4 KiB file just listed": {
        # The store wants to know of which version the content is; the look costs no round trip.
        "vsftpd": "SIZE MDTM RETR EPSV",
        **dict.fromkeys(("proftpd", "pure-ftpd", "pyftpdlib"), "MLST RETR | EPSV"),
    },
    "making a 4 KiB file": {
        "vsftpd": f"SIZE MDTM STOR EPSV | MDTM {NAMED}",
        **dict.fromkeys(("proftpd", "pure-ftpd", "pyftpdlib"), f"MLST STOR | MFMT {NAMED} EPSV"),
    },
    "writing over it": {
        "vsftpd": f"SIZE MDTM STOR EPSV | MDTM {NAMED}",
        **dict.fromkeys(("proftpd", "pure-ftpd", "pyftpdlib"), f"MLST STOR | MFMT {NAMED} EPSV"),
    },
    "appending a line to it": {
        "vsftpd": "SIZE MDTM APPE | MDTM SIZE EPSV",
        **dict.fromkeys(("proftpd", "pure-ftpd"), "MLST APPE | MFMT SIZE EPSV | REST RETR | EPSV"),
        "pyftpdlib": "MLST APPE | MFMT SIZE EPSV",
    },
    "making a 4 KiB file of mode 0600": {
        "vsftpd": f"SIZE MDTM STOR EPSV | SITE STOR EPSV | SITE MDTM {NAMED}",
        "proftpd": f"MLST STOR | MFF EPSV | STOR | MFF MFMT {NAMED} EPSV",
        **dict.fromkeys(
            ("pure-ftpd", "pyftpdlib"), f"MLST STOR | SITE EPSV | STOR | SITE MFMT {NAMED} EPSV"
        ),
    },
}


def summary(verbs: list[str]) -> str:
    """`MDTM MDTM MDTM NOOP` as `3*MDTM NOOP`."""
    runs = [(verb, len(list(run))) for verb, run in itertools.groupby(verbs)]
    return " ".join(f"{count}*{verb}" if count > 1 else verb for verb, count in runs)


def number(commands: str) -> int:
    return sum(int(word.split("*")[0]) if "*" in word else 1 for word in commands.split())


def with_files(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, options: str = ""
) -> Mounted:
    """A mount that has learned its server, and has not looked into `folder` yet."""
    for count in range(FILES):
        remote_dir.write(f"folder/file{count}", bytes(4096))
    mounted = mount_dir(
        through=relay,
        # On a slow machine nothing is to expire between two steps, and be counted.
        options=f"list_ttl=3600,open_ttl=3600{options}",
    )
    os.listdir(mounted.path)
    # The first upload to a server also asks what its clock shows.
    (mounted.path / "first").write_bytes(b"")
    wait_until_sent(mounted.path)
    # The first append to a server that is not known tries whether APPE adds to a file.
    append_line(mounted.path / "first")
    wait_until_sent(mounted.path)
    return mounted


@pytest.mark.mount
def test_each_operation_costs_the_commands_in_the_table(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    mounted = with_files(remote_dir, relay, mount_dir)
    folder = mounted.path / "folder"
    steps: list[tuple[str, Callable[[], object]]] = [
        (f"ls -l of a new directory of {FILES} files", lambda: list_with_attributes(folder)),
        ("ls of a directory listed before", lambda: list_with_attributes(folder)),
        ("stat of a listed name", lambda: (folder / "file1").stat()),
        ("cat of a 4 KiB file just listed", lambda: (folder / "file2").read_bytes()),
        ("making a 4 KiB file", lambda: (folder / "new").write_bytes(bytes(4096))),
        ("writing over it", lambda: (folder / "new").write_bytes(b"x" * 4096)),
        ("appending a line to it", lambda: append_line(folder / "new")),
        ("making a 4 KiB file of mode 0600", lambda: make_private(folder / "private")),
        ("mv", lambda: (folder / "new").rename(folder / "newer")),
        ("rm", lambda: (folder / "newer").unlink()),
        ("mkdir", lambda: (folder / "made").mkdir()),
        ("mkdir -p of 5 folders", lambda: (folder / "a/b/c/d/e").mkdir(parents=True)),
        ("mv of 3 files into a folder just made", lambda: move(folder, range(3, 6))),
        ("rm -rf of that folder", lambda: shutil.rmtree(folder / "made")),
        ("ls of all that again", lambda: list_with_attributes(folder)),
    ]
    measured = {}
    for name, step in steps:
        time.sleep(0.1)  # whatever the step before left to do in the background
        relay.reset()
        step()
        wait_until_sent(mounted.path)
        measured[name] = summary(relay.verbs)
    assert measured == {name: costs[remote_dir.server.kind] for name, costs in COSTS.items()}


@pytest.mark.mount
def test_small_files_take_the_round_trips_in_the_table_over_a_long_link(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    mounted = with_files(remote_dir, relay, mount_dir, ",max_connections=1,quirk=round_trip=20")
    folder = mounted.path / "folder"
    steps: dict[str, Callable[[], object]] = {
        f"ls -l of a new directory of {FILES} files": lambda: list_with_attributes(folder),
        "cat of a 4 KiB file just listed": lambda: (folder / "file2").read_bytes(),
        "making a 4 KiB file": lambda: (folder / "new").write_bytes(bytes(4096)),
        "writing over it": lambda: (folder / "new").write_bytes(b"x" * 4096),
        "appending a line to it": lambda: append_line(folder / "new"),
        "making a 4 KiB file of mode 0600": lambda: make_private(folder / "private"),
    }
    measured = {}
    relay.latency = LATENCY
    for name, step in steps.items():
        time.sleep(5 * LATENCY)  # whatever the step before left to do in the background
        relay.reset()
        step()
        wait_until_sent(mounted.path)
        time.sleep(5 * LATENCY)
        measured[name] = " | ".join(map(summary, trips(relay)))
    assert measured == {name: costs[remote_dir.server.kind] for name, costs in FAR.items()}


def trips(relay: Relay) -> list[list[str]]:
    """The commands, by the times at which they arrived."""
    found: list[list[str]] = []
    last = 0.0
    for command in relay.commands:
        if command.t - last > LATENCY / 2:
            found.append([])
        found[-1].append(command.verb)
        last = command.t
    return found


def append_line(path: Path) -> None:
    with path.open("a") as file:
        file.write("one more line\n")


def make_private(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(bytes(4096))


def move(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        (folder / f"file{number}").rename(folder / "made" / f"file{number}")


def list_with_attributes(folder: Path) -> list[os.stat_result]:
    return [entry.stat() for entry in os.scandir(folder)]


def document() -> str:
    lines = [
        "# What each operation costs",
        "",
        "The commands that reach the server for each operation, on a session that is logged in.",
        "A cell shows the number of commands and, in brackets, which. Some commands share a round",
        "trip because they leave together (pipelining): MDTM for all names of a directory, RNFR",
        "and RNTO, and what follows an upload.",
        "",
        "ProFTPD and Pure-FTPd seek to the end of a file once, when APPE opens it. Two clients",
        "that append at the same time may overwrite each other there. So ftpfs reads back what it",
        "has appended (REST, RETR).",
        "",
        "`tests/mount/test_round_trips.py` counts the commands on real mounts and fails when this",
        "page is out of date. `UPDATE_DOCS=1` before the same test writes the page again.",
        "",
        *table({name: {k: cell(c) for k, c in costs.items()} for name, costs in COSTS.items()}),
        "",
        "A listing that is older than five seconds is made again behind the answer that it gives",
        "to `ls`, or to `stat` of a file: one listing of that folder, at most every five seconds.",
        "Over a long link no program waits for it, unless the listing is older than ten seconds.",
        "`tests/mount/test_behind_answers.py` counts that.",
        "",
        "The next table counts round trips over a long link (more than 2 ms), on one connection",
        "that is always in use. Commands of one round trip stand together. The content of a file",
        "of up to 64 KiB leaves with STOR (not to pyftpdlib). The connection for the next transfer",
        "is made while nobody waits for it.",
        "",
        *table({name: {k: code(c) for k, c in costs.items()} for name, costs in FAR.items()}),
    ]
    return "\n".join(lines) + "\n"


def table(rows: dict[str, dict[Kind, str]]) -> list[str]:
    return [
        "| | " + " | ".join(servers.KINDS) + " |",
        "|---|" + "---|" * len(servers.KINDS),
        *(
            f"| {name} | {' | '.join(c[kind] for kind in servers.KINDS)} |"
            for name, c in rows.items()
        ),
    ]


def code(round_trips: str) -> str:
    trips = round_trips.replace("*", " ").split(" | ")
    return f"{len(trips)} ({'; '.join(trips)})"


def cell(commands: str) -> str:
    return f"{number(commands)} ({commands.replace('*', ' ')})" if commands else "0"


def test_table_in_docs_agrees_with_the_measurement() -> None:
    if os.environ.get("UPDATE_DOCS") == "1":
        DOCS.write_text(document())
    assert DOCS.read_text() == document()
