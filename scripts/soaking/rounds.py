"""One round: a server, a relay, a mount, its workers, and the moments of comparison."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.soaking.calls import ftpfs
from scripts.soaking.model import Counts, Finding, Row, digest
from scripts.soaking.network import Chaos
from scripts.soaking.others import Foreigner, Full, Refused, Watcher
from scripts.soaking.worker import PATIENCE, Worker
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import FtpServer, Kind

WORKERS = 3
SMALL = 64 << 10  # bytes; larger uploads are measured before they are renamed
OPTIONS = (
    "connect_timeout=2,reply_timeout=2,data_timeout=2,finish_timeout=2,idle_timeout=5,"
    "log_level=debug"
)


class Soak:
    """One server, one mount, one seed."""

    def __init__(
        self,
        server: FtpServer,
        relay: Relay,
        folder: Path,
        seed: int,
        binding: str,
        *,
        stores: bool,
        absences: bool,
    ) -> None:
        """`stores`: the mount has a store on the disk, whose files rot.

        `absences`: the server goes away for seconds.
        """
        self.server = server
        self.binding = binding
        self.folder = folder
        self.seed = seed
        self.mountpoint = folder / "mnt"
        self.mountpoint.mkdir()
        self.state = folder / "state"
        self.store = folder / "store" if stores else None
        self.log = folder / "mount.log"
        self.port = relay.port
        self.counts = Counts()
        self.random = random.Random(f"{seed} kills")
        self.chaos = Chaos(relay, f"{seed} chaos", self.counts, absences=absences)
        self.waiting_names: set[str] = set()  # workers whose changes of names wait in a journal
        self.dead = False  # the daemon is dead, and not mounted again yet
        self._known = {digest(b"")}
        self.workers: list[Worker] = [
            Worker(self, f"w{number}", f"{seed} {number}") for number in range(WORKERS)
        ]
        # What the server refuses, it refuses after the call, if it was away then.
        others = (Foreigner, Watcher, Full) if absences else (Foreigner, Watcher, Refused, Full)
        for kind in others:
            name = kind.__name__.lower()
            self.workers.append(kind(self, name, f"{seed} {name}"))
        self._stop = threading.Event()
        self._found: list[BaseException] = []

    # All contents ever written.

    def remember(self, content: bytes) -> bytes:
        self._known.add(digest(content))
        return content

    def knows(self, content: bytes) -> bool:
        return digest(content) in self._known

    def compared(self, content: bytes) -> None:
        self.counts.files += 1
        self.counts.bytes += len(content)

    def count(self, verb: str) -> None:
        self.counts.operations += 1
        self.counts.verbs[verb] += 1

    # The round.

    def run(
        self,
        seconds: float,
        enough: Callable[[Counts], bool],
        kill_every: float = 2.0,
        settle_every: float = 12.0,
    ) -> Counts:
        """Run for `seconds`, and until it was `enough`. Raises Finding."""
        deadline = time.monotonic() + seconds
        self.mount()
        threads = [threading.Thread(target=self._work, args=[each]) for each in self.workers]
        threads.append(threading.Thread(target=self.chaos.run, args=[self._stop]))
        for thread in threads:
            thread.start()
        try:
            settle_at = time.monotonic() + settle_every
            while not self._stop.is_set() and (
                time.monotonic() < deadline or not enough(self.counts)
            ):
                self._stop.wait(self.random.uniform(0.02, 2 * kill_every))
                with self.chaos.no_faults() if time.monotonic() > settle_at else nothing():
                    if time.monotonic() > settle_at:
                        self.settle()
                        settle_at = time.monotonic() + settle_every
                    else:
                        self.kill()
        except BaseException as error:  # noqa: BLE001 (told in the end)
            self._found.insert(0, error)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(150)
        try:
            if not self._found:
                with self.chaos.no_faults():
                    self.settle()
        except BaseException as error:  # noqa: BLE001 (told in the end)
            self._found.append(error)
        finally:
            self.unmount()
            for worker in self.workers:
                worker.close()
        if self._found:
            raise self._found[0]
        return self.counts

    def _work(self, worker: Worker) -> None:
        while not self._stop.is_set():
            try:
                with worker.lock:
                    worker.step()
            except BaseException as error:  # noqa: BLE001 (told in the end)
                self._found.append(error)
                self._stop.set()
            time.sleep(0.005 if not self.dead else 0.05)

    def settle(self) -> None:
        """Wait until everything is on the server's disk, and compare it."""
        with self._all_at_rest():
            for worker in self.workers:
                if worker.doubt is not None and not worker.settle_doubt():
                    raise Finding("the daemon died by itself")
            self.wait_for_return()
            for worker in self.workers:
                worker.before_settled()
            done = ftpfs(self.state, "sync", str(self.mountpoint))
            if done.returncode:
                raise Finding(f"ftpfs sync: {done.stderr.strip()}")
            for worker in self.workers:
                worker.check_settled()
            self.counts.settled += 1

    def wait_for_return(self) -> None:
        """Wait until the mount knows that its server is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            told = ftpfs(self.state, "status", "--json", str(self.mountpoint)).stdout
            if not any(each.get("offline_since") for each in json.loads(told)):
                return
            if time.monotonic() > deadline:
                raise Finding("the mount does not notice that its server is there")
            time.sleep(0.2)

    @contextlib.contextmanager
    def _all_at_rest(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for worker in self.workers:
                stack.enter_context(worker.lock)
            yield

    def kill(self) -> None:
        """SIGKILL the daemon, compare what is left, and mount again."""
        self.dead = True
        self.counts.kills += 1
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)
        with self._all_at_rest():
            subprocess.run(["umount", "-l", self.mountpoint], check=True)
            deadline = time.monotonic() + 10
            while self.daemons():
                if time.monotonic() > deadline:
                    raise Finding("a daemon that was killed is still there")
                time.sleep(0.005)
            time.sleep(0.05)  # for the server to finish its last commands
            rows = self.rows()
            self.counts.waiting += len(rows)
            for worker in self.workers:
                worker.check_after_kill(rows)
            self.damage_store()
            with self.chaos.no_faults():
                self.mount()
            self.dead = False

    def damage_store(self) -> None:
        """Turn one bit of a file of the store (a content, its checksums, the index), or delete
        the file."""
        if self.store is None or self.random.random() < 0.5:
            return
        stored = sorted(p for p in self.store.rglob("*") if p.is_file() and p.stat().st_size)
        if not stored:
            return
        self.counts.damages += 1
        victim = self.random.choice(stored)
        if self.random.random() < 0.2:
            victim.unlink()
            return
        with victim.open("r+b") as file:
            place = self.random.randrange(victim.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0] ^ 1 << self.random.randrange(8)
            file.seek(place)
            file.write(bytes([byte]))

    def rows(self) -> dict[str, Row]:
        """The rows of this mount's journals, read from copies: nothing is changed."""
        rows: dict[str, Row] = {}
        self.waiting_names.clear()
        for journal in self.state.rglob("journal.sqlite"):
            with tempfile.TemporaryDirectory() as folder:
                for path in journal.parent.glob("journal.sqlite*"):
                    shutil.copy(path, folder)
                connection = sqlite3.connect(Path(folder, "journal.sqlite"))
                for (path,) in connection.execute("select path from step").fetchall():
                    self.waiting_names.add(os.fsdecode(path).strip("/").split("/")[0])
                moved = connection.execute("select old, new from intent").fetchall()
                for path, spool, patching in connection.execute(
                    "select path, spool, patching from unsent"
                ).fetchall():
                    if not (journal.parent / spool).exists():
                        raise Finding(f"the journal speaks of {spool}, which is not there")
                    names = [path, *(after_move(path, old, new) for old, new in moved)]
                    content = (journal.parent / spool).read_bytes()
                    row = Row(patching != "[]", content if len(content) <= SMALL else b"")
                    rows.update((os.fsdecode(name).lstrip("/"), row) for name in names)
                connection.close()
        return rows

    # The mount.

    def mount(self) -> None:
        done = ftpfs(
            self.state,
            "mount",
            f"ftp://{self.server.user}@{self.server.host}:{self.port}/",
            str(self.mountpoint),
            "-o",
            f"{OPTIONS},binding={self.binding},log_file={self.log}{self._store_options()}",
            password=self.server.password,
        )
        if done.returncode:
            raise Finding(f"ftpfs mount: {done.stderr.strip()}")

    def _store_options(self) -> str:
        # Little memory: else hardly anything would be read from the disk.
        return f",cache_size=32M,cache_dir={self.store},block_cache=1M" if self.store else ""

    def unmount(self) -> None:
        ftpfs(self.state, "umount", "--now", str(self.mountpoint))
        subprocess.run(["umount", "-l", self.mountpoint], check=False, stderr=subprocess.DEVNULL)
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)

    def daemons(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"mount" in line and os.fsencode(self.mountpoint) in line:
                        found.append(int(entry.name))
        return found


def nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def after_move(path: bytes, old: bytes, new: bytes) -> bytes:
    return new + path[len(old) :] if path == old or path.startswith(old + b"/") else path


def run_round(
    kind: Kind,
    seed: int,
    seconds: float,
    binding: str = "auto",
    enough: Callable[[Counts], bool] = lambda _: True,
    *,
    stores: bool = False,
    absences: bool = False,
    **pace: float,
) -> Counts:
    """A server, a relay, a mount, and work for as long as `Soak.run` says.

    After a failure, the files of the round stay.
    """
    folder = Path(tempfile.mkdtemp(prefix="ftpfs-soak-"))
    folder.chmod(0o755)
    with (
        servers.start(kind, folder / "root", folder / "work") as server,
        Relay(server.host, server.port) as relay,
    ):
        soak = Soak(server, relay, folder, seed, binding, stores=stores, absences=absences)
        try:
            counts = soak.run(seconds, enough, **pace)
        except BaseException:
            for worker in soak.workers:
                (folder / f"{worker.name}.log").write_text("\n".join(worker.log) + "\n")
            print(f"What is left of it is in {folder}", file=sys.stderr)
            raise
    shutil.rmtree(folder, ignore_errors=True)
    return counts
