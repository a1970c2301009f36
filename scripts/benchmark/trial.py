"""One peer doing one case: the clock, the costs, and the deadline.

A case gets a `Trial`, calls `timed` for each thing it measures, and compares the result right after
it. The clock stops before the comparison; a failed comparison invalidates the figure. When the
deadline passes, the peer is killed: every program that waits for its mount then gets an error, so
that nothing hangs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmark.data import Buffer, Store, Wrong
from scripts.benchmark.parameters import Parameters
from scripts.benchmark.peers import Failed, Mount, Peer, Usage
from scripts.benchmark.servers import Endpoint
from scripts.benchmark.wire import Seen, Tap


@dataclass
class Figure:
    """One measurement. A row without `error` has been verified."""

    row: str
    amount: float = 0.0  # amount of work; the row knows the unit
    seconds: float | None = None  # until the command returned
    settled: float | None = None  # until the server had all of it; None for a read
    cpu: float | None = None  # seconds of the daemon, for all of the row
    peak: int | None = None  # bytes
    commands: int | None = None
    verbs: dict[str, int] = field(default_factory=dict)
    controls: int | None = None  # control connections since the mount began
    data: int | None = None  # data connections requested
    early: dict[str, int] = field(default_factory=dict)  # verbs before the clock, with mounting
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Clock:
    """The running clock of one figure."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._start = time.perf_counter()

    def returned(self) -> None:
        """The command has returned; from now on the trial waits for the server."""
        self._figure.seconds = time.perf_counter() - self._start

    def settled(self, moment: float) -> None:
        self._figure.settled = moment - self._start

    def stop(self) -> None:
        if self._figure.seconds is None:
            self.returned()


def drop_caches() -> None:
    """Make the kernel forget all file content and names that it can read again. Root only."""
    os.sync()  # dirty pages cannot be dropped
    Path("/proc/sys/vm/drop_caches").write_text("3")


@dataclass
class Bench:
    """What all trials of a run share."""

    parameters: Parameters
    server: Endpoint
    store: Store
    buffer: Buffer
    tap: Tap | None  # None: not counted
    drop_caches: Callable[[], None] = drop_caches


# A check of the whole result may take long: asking takes at most this share of the time.
_ASKING = 0.2
_ASK_AGAIN = 0.002  # minimum seconds


class Trial:
    """What a case gets to work with."""

    def __init__(
        self,
        bench: Bench,
        mount: Mount | None,
        folder: str,
        scratch: Path,
        before: Seen | None,
        peer: Peer | None = None,
    ) -> None:
        self.peer = peer  # the program that does the case
        self.bench = bench
        self.sizes = bench.parameters.sizes
        self.buffer = bench.buffer
        self.disk = bench.server.root / folder  # the same files on the server's own disk
        self.scratch = scratch  # an empty local folder
        self.figures: list[Figure] = []
        self.after: Callable[[], None] | None = None  # a check after the unmount
        self._mount = mount
        self.folder = folder  # its name on the server
        self._before = before
        self._child: subprocess.Popen[bytes] | None = None
        self._expired = False

    @property
    def here(self) -> Path:
        """The folder of the case on the mount."""
        assert self._mount is not None
        return self._mount.here / self.folder

    @property
    def url(self) -> str:
        """The same folder for a program that speaks FTP; ends with a slash."""
        server = self.bench.server
        return f"ftp://{server.host}:{server.port}/{self.folder}/"

    def master(self, name: str) -> Path:
        return self.bench.store.folder(name)

    # Measuring.

    @contextlib.contextmanager
    def timed(self, row: str, amount: float) -> Iterator[Clock]:
        """Measure the body as `row`, which is `amount` of work."""
        figure = Figure(row, amount)
        self.figures.append(figure)
        seen = self._seen()
        if self._mount is not None:
            self._mount.forget_peak()
        used = self._usage()
        clock = Clock(figure)
        yield clock
        clock.stop()
        if used is not None and (now := self._usage()) is not None:
            figure.cpu, figure.peak = now.cpu - used.cpu, now.peak
        self._count(figure, seen)

    def settle(self, clock: Clock, check: Callable[[], None]) -> None:
        """Stop the clock for the command, then wait until `check` finds everything on the server.

        The same check is repeated after the unmount.
        """
        clock.returned()
        clock.settled(self.wait_for(check))

    def wait_for(self, check: Callable[[], None]) -> float:
        """When `check` found everything on the server, by `time.perf_counter`."""
        self.after = check
        while True:
            asked = time.perf_counter()
            try:
                check()
            # A file that is being replaced may be missing when it is opened.
            except (Wrong, FileNotFoundError) as error:
                if self._expired:
                    raise Failed(f"{self._timeout()}; {error}") from error
                time.sleep(max(_ASK_AGAIN, (time.perf_counter() - asked) / _ASKING))
            else:
                return asked

    def _seen(self) -> Seen | None:
        return self.bench.tap.seen() if self.bench.tap else None

    def _usage(self) -> Usage | None:
        return self._mount.usage() if self._mount else None

    def _count(self, figure: Figure, before: Seen | None) -> None:
        now = self._seen()
        if now is None or before is None or self._before is None:
            return
        row = now - before
        figure.commands, figure.verbs = row.commands, dict(row.verbs)
        figure.data = row.data
        figure.early = dict((before - self._before).verbs)
        figure.controls = (now - self._before).controls

    # Working.

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        text: str = "",
        stdout: int | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program; return its output, unless that goes to the descriptor `stdout`.

        Raises Failed with the first line of its messages: the last lines are often a summary.
        """
        with tempfile.TemporaryFile(dir=self.scratch.parent) as complaints:
            self._child = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=complaints,
                cwd=cwd,
                env={**(os.environ if env is None else env), "LC_ALL": "C"},
            )
            try:
                output, _ = self._child.communicate(text.encode())
            finally:
                child, self._child = self._child, None
                if child.poll() is None:
                    child.kill()
                    child.wait()
            name = Path(argv[0]).name
            if child.returncode:
                complaints.seek(0)
                lines = complaints.read().decode(errors="replace").strip().splitlines()
                said = lines[0][:200] if lines else f"ended with {child.returncode}"
                raise Failed(said if said.startswith(name) else f"{name}: {said}")
        return (output or b"").decode(errors="surrogateescape")

    def drop_caches(self) -> None:
        self.bench.drop_caches()

    # The deadline.

    @contextlib.contextmanager
    def deadline(self) -> Iterator[None]:
        """Fail everything in the body that happens after the deadline."""
        timer = threading.Timer(self.bench.parameters.timeout, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            # An error that results from the kill says nothing; a wait that timed out does.
            if self._expired and not str(error).startswith("timeout"):
                raise Failed(self._timeout()) from error
            raise
        finally:
            timer.cancel()
        if self._expired:
            raise Failed(self._timeout())

    def _timeout(self) -> str:
        return f"timeout: not done after {self.bench.parameters.timeout:g} s"

    def _expire(self) -> None:
        self._expired = True
        if self._mount is not None:
            self._mount.kill()
        child = self._child
        if child is not None:
            child.kill()
