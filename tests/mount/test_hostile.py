"""Servers that flood, drip, or fall silent: memory, disk, time and the log stay bounded."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.mount.conftest import Mounted, MountServer, ftpfs
from tests.support import hostile_server, servers
from tests.support.hostile_server import HostileServer
from tests.support.waiting import comes_true

pytestmark = pytest.mark.mount

MiB = 1 << 20
# Files of ten bytes. The first of them fill a cache of 1 MiB, and the tables of the allocator.
SMALL_FILES, FILLING = 25_000, 5000
QUICK = "data_timeout=2,reply_timeout=2,connect_timeout=2"


class Trapped:
    """A mount of a hostile server."""

    def __init__(self, mounted: Mounted) -> None:
        self.path = mounted.path
        self.log = mounted.log
        state = str(mounted.path.parent / "state")
        told = ftpfs("status", "--json", str(self.path), env={"XDG_STATE_HOME": state})
        self.pid: int = json.loads(told.stdout)[0]["pid"]

    def memory(self, name: str = "VmRSS") -> int:
        """Memory of the daemon in bytes; VmHWM is its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) << 10

    def processor_seconds(self) -> float:
        """What the daemon has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def errno_of_ls(self, name: str = "trap") -> int:
        try:
            os.listdir(self.path / name)
        except OSError as error:
            return error.errno or -1
        return 0

    def has_ended(self, within: float) -> bool:
        return comes_true(lambda: not servers.running(self.pid), within)


Mount = Callable[..., Trapped]


@pytest.fixture
def mount(mount_server: MountServer, tmp_path: Path) -> Iterator[Mount]:
    """`mount(mode, number, options=..., binding=...)`: such a server, mounted."""
    started: list[HostileServer] = []

    def made(mode: str, number: float = 0, options: str = "", binding: str = "auto") -> Trapped:
        hostile = hostile_server.start(mode, number)
        started.append(hostile)
        server = hostile_server.as_server(hostile)
        return Trapped(mount_server(server, tmp_path, options=options, binding=binding))

    yield made
    for hostile in started:
        hostile.stop()


@pytest.mark.parametrize("mode", ["endless-listing", "endless-line", "junk-listing"])
def test_endless_listing_is_refused_and_leaves_no_memory_behind(mount: Mount, mode: str) -> None:
    trapped = mount(mode)
    for _ in range(3):
        assert trapped.errno_of_ls() in (errno.EFBIG, errno.EIO)
    assert trapped.memory() < 200 * MiB
    assert trapped.memory("VmHWM") < 700 * MiB
    assert trapped.errno_of_ls("quiet") == 0
    text = trapped.log.read_text()
    assert "a listing of more than" in text
    assert len(text) < MiB


def test_cut_listing_leaves_no_memory_behind(mount: Mount) -> None:
    trapped = mount("cut-listing", 300_000)
    before = trapped.memory()
    for _ in range(4):
        assert trapped.errno_of_ls() == errno.EIO
    assert trapped.memory() < before + 100 * MiB


def test_five_million_entries_are_refused_within_bounded_memory(mount: Mount) -> None:
    trapped = mount("counted-listing", 5_000_000)
    assert trapped.errno_of_ls() == errno.EFBIG
    assert trapped.memory("VmHWM") < 700 * MiB


def test_unreadable_lines_fill_no_log(mount: Mount) -> None:
    trapped = mount("junk-lines", 100_000)
    trapped.errno_of_ls()
    assert trapped.log.stat().st_size < 100_000


@pytest.mark.long
def test_small_files_take_no_more_memory_than_the_cache_may_hold(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of ten bytes takes sixty times as much with its key and its places in tables.

    After the first files, a cache that counts only contents grows by 8 MiB and more. This one grows
    by 0.5, and on a busy machine by 4: behind a listing's back another one is fetched, and both are
    in memory. So the files are in several folders.
    """
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # the heap of one thread serves the others too
    trapped = mount("small-files", SMALL_FILES, options="log_level=info,block_cache=1M")
    files = sorted((trapped.path / "trap").glob("*/*"))
    assert len(files) == SMALL_FILES
    for path in files:  # libfuse keeps 200 bytes for each name that was looked up
        path.stat()
    listed = trapped.memory()

    def read_all(files: list[Path]) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as readers:
            for content in readers.map(Path.read_bytes, files):
                assert content == hostile_server.SMALL

    read_all(files[:FILLING])
    filled = trapped.memory()
    read_all(files[FILLING:])
    assert trapped.memory() < filled + 6 * MiB
    assert trapped.memory("VmHWM") < listed + 20 * MiB


def test_first_bytes_of_an_endless_file_are_read_at_once(mount: Mount) -> None:
    trapped = mount("endless-file", 0.01)
    with (trapped.path / "trap" / "endless").open("rb", buffering=0) as file:
        assert file.read(100) == b"z" * 100


def test_endless_file_fills_no_more_of_the_spool_than_its_limit(
    mount: Mount, tmp_path: Path
) -> None:
    trapped = mount("endless-file", options="spool_size=20M")
    copy = tmp_path / "copy"
    copied = subprocess.run(
        ["dd", f"if={trapped.path / 'trap' / 'endless'}", f"of={copy}", "bs=128K"],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert copied.returncode == 1
    assert "File too large" in copied.stderr
    assert 19 * MiB < copy.stat().st_size <= 20 * MiB
    told = [line for line in trapped.log.read_text().splitlines() if "no room for more" in line]
    assert len(told) == 1
    assert trapped.errno_of_ls("quiet") == 0


def test_dripped_listing_ends(mount: Mount) -> None:
    trapped = mount("dripped-listing", 0.1, options=QUICK)
    began = time.monotonic()
    assert trapped.errno_of_ls() == errno.ETIMEDOUT
    assert time.monotonic() - began < 15
    assert "the listing comes too slowly" in trapped.log.read_text()


def test_server_that_replies_without_end_and_unasked_gets_a_session_dropped(mount: Mount) -> None:
    trapped = mount("endless-replies")
    for _ in range(3):
        ls = ["ls", str(trapped.path / "trap")]
        told = subprocess.run(ls, capture_output=True, text=True, timeout=40, check=False)
        assert "Input/output error" in told.stderr
    text = trapped.log.read_text()
    assert "does not stop sending replies" in text
    assert len(text) < 30_000
    before = time.monotonic(), trapped.processor_seconds()
    time.sleep(2)
    share = (trapped.processor_seconds() - before[1]) / (time.monotonic() - before[0])
    assert share < 0.5, "the daemon is busy though nobody asks for anything"


@pytest.mark.parametrize("binding", ["fusepy", "mfusepy"])
def test_daemon_ends_in_its_grace_time_while_a_listing_drips(mount: Mount, binding: str) -> None:
    trapped = mount("dripped-listing", 0.001, options="grace=2", binding=binding)
    with subprocess.Popen(["ls", trapped.path / "trap"], stderr=subprocess.DEVNULL) as ls:
        time.sleep(1)
        assert ls.poll() is None
        os.kill(trapped.pid, signal.SIGTERM)
        time.sleep(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.kill(trapped.pid, signal.SIGTERM)
        assert trapped.has_ended(within=12)
        assert not os.path.ismount(trapped.path)
        ls.wait(5)


@pytest.mark.parametrize("binding", ["fusepy", "mfusepy"])
def test_readers_stuck_in_a_dead_server_delay_no_answer_that_is_here(
    mount: Mount, binding: str
) -> None:
    """Groups of readers as large as the earlier limits of libfuse's threads and kernel reads."""
    # The daemon must answer, not the kernel from its cache.
    trapped = mount("plain", options="attr_timeout=0", binding=binding)
    quiet = trapped.path / "quiet" / "a.txt"
    assert quiet.read_bytes() == hostile_server.CONTENT
    script = (
        "import os, sys, threading\n"
        "def read(n):\n"
        "    with open(f'{sys.argv[1]}/big{n}', 'rb') as file: file.read(100)\n"
        "for n in range(150): threading.Thread(target=read, args=(n,), daemon=True).start()\n"
        "print(flush=True); sys.stdin.read(); os._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, trapped.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as readers:
        assert readers.stdout
        readers.stdout.readline()
        time.sleep(2)
        began = time.monotonic()
        quiet.stat()
        with quiet.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == hostile_server.CONTENT
        took = time.monotonic() - began
        os.kill(trapped.pid, signal.SIGTERM)
        assert trapped.has_ended(within=40)
        readers.kill()
    assert took < 2


@pytest.mark.parametrize(
    "mode", ["endless-reply", "endless-short-reply", "endless-reply-line", "dripped-reply"]
)
def test_endless_reply_costs_little_memory_and_time(mode: str) -> None:
    """ftpfs may refuse the server, or use it without that command."""
    network = Network(reply_timeout=2, connect_timeout=2)
    with hostile_server.start(mode, 0.1) as hostile:
        login = Server(
            hostile.host, hostile.port, user=hostile.user, password=Secret(hostile.password)
        )
        began = time.monotonic()
        tracemalloc.start()
        try:
            with contextlib.suppress(errors.ProtocolError, errors.NetworkError):
                Remote(login, network).connect()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 * MiB
    assert time.monotonic() - began < 30


def test_fat_features_are_not_written_to_the_disk(mount: Mount) -> None:
    trapped = mount("fat-features", 900)
    assert trapped.errno_of_ls() == 0
    state = trapped.path.parent / "state"
    assert sum(each.stat().st_size for each in state.rglob("servers/*.json")) < 400_000
