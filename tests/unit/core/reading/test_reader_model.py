"""Random work of several readers, over random faults, against plain bytes.

Each example: a few files, a cache of a few blocks, fewer connections than there are streams,
threads that read here and there, and transfers that break off, stall, end early or are asked to
give way. Every byte delivered is right. A read fails only after a fault that it has to report. In
the end no thread, no transfer and no connection is left.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache, Version
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.model.remote import Download
from tests.support.waiting import until_gone

SIZES = st.one_of(
    st.sampled_from([0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 1]),
    st.integers(0, 20 * BLOCK_SIZE),
)

SOURCE = random.Random(5).randbytes(21 * BLOCK_SIZE)
LONGEST = 60.0  # seconds for all the reads of an example, on a busy machine


@dataclass(frozen=True)
class Faults:
    """How often, of all transfers, which fault happens at some point of a transfer."""

    cut: float
    refused: float  # before the first byte
    stalled: float  # it goes on after a moment
    dead: float  # it does not, and a deadline passes
    short: float  # the server says that this was all

    @property
    def harmless(self) -> bool:
        """Whether no read may fail. Three cuts in a row without a byte between them end a read."""
        return not (self.cut or self.refused or self.dead or self.short)


SHARE = st.sampled_from([0.0, 0.0, 0.1, 0.4])
FAULTS = st.builds(Faults, SHARE, SHARE, SHARE, SHARE, st.sampled_from([0.0, 0.0, 0.2]))


class Server:
    """Transfers over a few connections. A transfer that finds none asks the others to give way."""

    def __init__(self, connections: int, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._rng = random.Random(seed)
        self._changed = threading.Condition()
        self._connections = connections
        self.transfers: dict[Transfer, Callable[[], None]] = {}

    def open(self, content: bytes, offset: int, give_way: Callable[[], None]) -> Download:
        deadline = time.monotonic() + LONGEST
        while True:
            with self._changed:
                assert offset <= len(content)
                if len(self.transfers) < self._connections:
                    if self._rng.random() < self._faults.refused:
                        raise errors.DataConnectionFailed("refused by the test")
                    transfer = Transfer(self, content, offset, self._plan(len(content) - offset))
                    self.transfers[transfer] = give_way
                    return transfer
                others = list(self.transfers.values())
            for other in others:
                other()
            with self._changed:
                self._changed.wait(0.01)
            assert time.monotonic() < deadline, "nobody gives way"

    def close(self, transfer: Transfer) -> None:
        with self._changed:
            self.transfers.pop(transfer, None)
            self._changed.notify_all()

    def _plan(self, length: int) -> dict[str, int]:
        """The faults of one transfer: after how many bytes which fault happens."""
        shares = {name: getattr(self._faults, name) for name in ("cut", "stalled", "dead", "short")}
        return {
            what: self._rng.randrange(length + 1)
            for what, share in shares.items()
            if self._rng.random() < share
        }


class Transfer:
    """A download; see `model.remote.Download`."""

    confirmed = False

    def __init__(self, server: Server, content: bytes, offset: int, plan: dict[str, int]) -> None:
        self._server = server
        self._content = content
        self._position = self._begin = offset
        self._plan = plan

    def read(self, size: int) -> bytes:
        assert self in self._server.transfers, "read after close"
        end = min(self._position + size, len(self._content))
        reached = end - self._begin
        for what, after in sorted(self._plan.items(), key=lambda item: item[1]):
            if after > reached or (after == reached and self._position < end):
                break
            if what == "stalled":
                del self._plan[what]
                time.sleep(0.02)
            elif what == "cut":
                raise errors.ConnectionLost("cut by the test")
            elif what == "dead":
                time.sleep(0.02)
                raise errors.DeadlineExceeded("stalled by the test")
            else:
                end = self._begin + after
                break
        data = self._content[self._position : end]
        self._position = max(end, self._position)
        return data

    def goes_on(self) -> bool:
        return self._position < len(self._content)

    def finish(self) -> None:
        self.read(1)

    def close(self) -> None:
        self._server.close(self)


def walk(rng: random.Random, size: int) -> list[tuple[int, int]]:
    """Reads as programs make them: sequential, backwards, strided, random."""
    step = rng.choice([1, 4096, 65536, BLOCK_SIZE, 3 * BLOCK_SIZE + 5])
    if size // step > 40:
        step = BLOCK_SIZE
    begin = rng.choice([0, 0, rng.randrange(size + 1)])
    way = rng.randrange(4)
    if way == 0:
        return [(offset, step) for offset in range(begin, size + step, step)]
    if way == 1:
        return [(offset, step) for offset in range(size, -1, -step)]
    if way == 2:
        stride = step + rng.randrange(4 * BLOCK_SIZE)
        return [(offset, step) for offset in range(begin, size, stride)]
    return [(rng.randrange(size + 1), rng.randrange(2 * BLOCK_SIZE)) for _ in range(12)]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=3),
    cache=st.integers(2, 12),
    connections=st.integers(1, 4),
    threads=st.integers(1, 6),
    faults=FAULTS,
    seed=st.integers(0, 1 << 30),
)
def test_readers_deliver_the_bytes_of_the_files_or_an_error(
    sizes: list[int], cache: int, connections: int, threads: int, faults: Faults, seed: int
) -> None:
    server = Server(connections, faults, seed)
    memory = BlockCache(cache * BLOCK_SIZE)
    budget = StreamBudget(cache * BLOCK_SIZE, 4 * BLOCK_SIZE)
    contents = [SOURCE[number : number + size] for number, size in enumerate(sizes)]
    readers = [
        Reader(
            Version(f"/{number}", len(content), 1, 0), partial(server.open, content), memory, budget
        )
        for number, content in enumerate(contents)
    ]

    def work(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        for _ in range(2):
            which = rng.randrange(len(contents))
            for offset, size in walk(rng, len(contents[which])):
                try:
                    got = readers[which].read(offset, size)
                except errors.FtpfsError:
                    assert not faults.harmless
                else:
                    assert got == contents[which][offset : offset + size]

    begun = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert time.monotonic() - begun < LONGEST
    assert memory.held <= cache * BLOCK_SIZE
    for reader in readers:
        reader.close()
    until_gone(lambda: server.transfers)
    until_gone(lambda: [t for t in threading.enumerate() if t.name == "ftpfs-stream"])
