"""How listing grows: time and memory per entry, up to 1,000,000 in a tree.

    python -m scripts.scale              takes a minute or two

Uses a generated server (no disk), LIST and MDTM, loopback. The CPU time is that of this process,
which is the client. The memory is what the tree still holds afterwards (tracemalloc); it is
measured in a separate run, because tracemalloc slows everything down.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ftpfs.core.names import listings
from ftpfs.core.names.tree import Tree
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import generated_server

REPO = Path(__file__).resolve().parents[1]
SHAPES = ((1_000, 1), (10_000, 1), (100_000, 1), (1_000, 100), (1_000, 1_000))


@dataclass(frozen=True)
class Figure:
    """Per entry of one shape: CPU and wall-clock time in microseconds, memory in bytes."""

    cpu: float
    wall: float
    memory: float


def measure(port: int, entries: int, folders: int) -> Figure:
    cpu, wall = _list(port, entries, folders)
    tracemalloc.start()
    try:
        # Memory needs fewer folders to be measured.
        few = min(folders, 20)
        before = _traced()
        tree = _tree(port)
        for number in range(few):
            tree.children(f"/{number}/d{entries}")
        memory = (_traced() - before) / (entries * few)
    finally:
        tracemalloc.stop()
    total = entries * folders
    return Figure(cpu / total * 1e6, wall / total * 1e6, memory)


def _list(port: int, entries: int, folders: int) -> tuple[float, float]:
    tree = _tree(port)
    tree.children("/d1")  # logs in and learns the server's profile
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(folders):
        tree.children(f"/{number}/d{entries}")
    return time.process_time() - cpu, time.perf_counter() - wall


def _tree(port: int) -> Tree:
    server = Server("127.0.0.1", port, user="u", password=Secret("p"))
    remote = Remote(server, Network())
    return Tree(remote.list, remote.stat, ahead=remote.ahead, ttl=float("inf"))


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        with generated_server.running() as port:
            print(port, flush=True)
            sys.stdin.read()
        return
    command = [sys.executable, "-m", "scripts.scale", "serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        print("| entries | in one folder | CPU us an entry | wall us an entry | bytes an entry |")
        print("|---|---|---|---|---|")
        with mock.patch.object(listings, "MAX_ENTRIES", 2_000_000):
            for entries, folders in SHAPES:
                figure = measure(port, entries, folders)
                print(
                    f"| {entries * folders:,} | {entries:,} | {figure.cpu:.1f} |"
                    f" {figure.wall:.1f} | {figure.memory:.0f} |",
                    flush=True,
                )
        process.communicate("")


if __name__ == "__main__":
    main()
