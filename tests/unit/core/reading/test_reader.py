"""Reading a file: every access pattern gets the right bytes, and ends, whatever breaks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftpfs import errors
from ftpfs.core.reading import reader as reader_module
from ftpfs.core.reading.blocks import BLOCK_SIZE, PIECE_SIZE, BlockCache, Version
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.model.remote import Download
from tests.support.memory_remote import PIECE, Gate, MemoryRemote
from tests.support.waiting import until

BLOCKS = 24
CONTENT = random.Random(1).randbytes(BLOCKS * BLOCK_SIZE - 77)
KERNEL = 128 << 10  # bytes that the kernel asks for at once


class Bench:
    """A remote with files, a cache, and readers of the files."""

    def __init__(
        self,
        *,
        cache: int = 64 << 20,
        read_ahead: int = 16 << 20,
        helped: int = 0,
        round_trip: float = 0.0,
    ) -> None:
        self.remote = MemoryRemote()
        self.cache = BlockCache(cache)
        self.budget = StreamBudget(cache, read_ahead, helped=helped, round_trip=lambda: round_trip)
        self.offsets: list[int] = []  # where each transfer began
        self.give_ways: list[Callable[[], None]] = []
        self.readers: list[Reader] = []

    def reader(self, content: bytes = CONTENT, path: str = "/f") -> Reader:
        self.remote.outside_write(path, content)

        def fetch(offset: int, give_way: Callable[[], None]) -> Download:
            self.give_ways.append(give_way)
            self.offsets.append(offset)
            return self.remote.open_read(path, offset)

        made = Reader(Version(path, len(content), 1, 0), fetch, self.cache, self.budget)
        self.readers.append(made)
        return made


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from benched(Bench())


@pytest.fixture
def tiny() -> Iterator[Bench]:
    """A cache of three blocks."""
    yield from benched(Bench(cache=3 * BLOCK_SIZE))


def benched(bench: Bench) -> Iterator[Bench]:
    yield bench
    for reader in bench.readers:
        reader.close()
    until(lambda: not any(t.name == "ftpfs-stream" for t in threading.enumerate()))
    assert bench.remote.open_downloads == 0


def read_all(reader: Reader, size: int = KERNEL) -> bytes:
    parts = []
    offset = 0
    while part := reader.read(offset, size):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


# Patterns.


@pytest.mark.parametrize("size", [4096, 100_000, KERNEL, 1 << 20])
def test_sequential_reading_takes_one_transfer(bench: Bench, size: int) -> None:
    assert read_all(bench.reader(), size) == CONTENT
    assert bench.remote.calls["open_read"] == 1


def test_second_reading_takes_no_transfer(bench: Bench) -> None:
    reader = bench.reader()
    read_all(reader)
    assert read_all(reader) == CONTENT
    assert bench.remote.calls["open_read"] == 1


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE])
def test_small_file_takes_one_transfer_and_no_thread(bench: Bench, size: int) -> None:
    reader = bench.reader(CONTENT[:size])
    assert read_all(reader) == CONTENT[:size]
    assert reader.streams == 0
    assert bench.remote.calls["open_read"] == (1 if size else 0)


def test_random_reads_return_the_right_bytes_and_fetch_little(bench: Bench) -> None:
    reader = bench.reader()
    rng = random.Random(2)
    for _ in range(100):
        offset = rng.randrange(len(CONTENT) + 10)
        size = rng.choice([1, 4096, BLOCK_SIZE, 3 * BLOCK_SIZE])
        assert reader.read(offset, size) == CONTENT[offset : offset + size]
    assert bench.remote.calls["open_read"] <= BLOCKS


def test_backward_reads_return_the_right_bytes(bench: Bench) -> None:
    reader = bench.reader()
    for index in reversed(range(BLOCKS)):
        start = index * BLOCK_SIZE
        assert reader.read(start, BLOCK_SIZE) == CONTENT[start : start + BLOCK_SIZE]


def test_read_past_end_is_short_and_costs_nothing(bench: Bench) -> None:
    reader = bench.reader()
    assert reader.read(len(CONTENT), 10) == b""
    assert reader.read(len(CONTENT) + 5000, 10) == b""
    assert bench.remote.calls["open_read"] == 0


def test_one_stream_serves_requests_out_of_order(bench: Bench) -> None:
    reader = bench.reader()
    offsets = [index * BLOCK_SIZE for index in range(BLOCKS)]
    order = [n for start in range(0, BLOCKS, 4) for n in (start + 2, start, start + 3, start + 1)]
    reader.read(0, 1)
    with ThreadPoolExecutor(8) as pool:
        asked = {n: pool.submit(reader.read, offsets[n], BLOCK_SIZE) for n in order}
        parts = {n: future.result(10) for n, future in asked.items()}
    assert b"".join(parts[n] for n in range(BLOCKS)) == CONTENT
    assert bench.remote.calls["open_read"] == 1


def test_eight_readers_of_one_file_share_one_transfer(bench: Bench) -> None:
    reader = bench.reader()
    with ThreadPoolExecutor(8) as pool:
        assert all(part == CONTENT for part in pool.map(lambda _: read_all(reader), range(8)))
    assert bench.remote.calls["open_read"] == 1


def test_two_threads_that_want_one_block_fetch_it_once(bench: Bench) -> None:
    reader = bench.reader()
    gate = bench.remote.hold("open_read")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(reader.read, 9 * BLOCK_SIZE, 10) for _ in range(4)]
        assert gate.reached.wait(5)
        gate.open()
        wanted = CONTENT[9 * BLOCK_SIZE :][:10]
        assert [f.result(5) for f in asked] == [wanted] * 4
    assert bench.remote.calls["open_read"] == 1


# Pieces.


def test_small_read_at_random_offset_fetches_only_its_piece(bench: Bench) -> None:
    reader = bench.reader()
    offset = 9 * BLOCK_SIZE + 3 * PIECE_SIZE + 5
    assert reader.read(offset, 100) == CONTENT[offset : offset + 100]
    assert bench.cache.held == PIECE_SIZE
    assert reader.read(offset - 5, PIECE_SIZE) == CONTENT[offset - 5 :][:PIECE_SIZE]
    assert bench.remote.calls["open_read"] == 1, "the piece is kept"


def test_small_read_across_two_blocks_fetches_only_its_pieces(bench: Bench) -> None:
    reader = bench.reader()
    offset = 9 * BLOCK_SIZE - 10
    assert reader.read(offset, 20) == CONTENT[offset : offset + 20]
    assert bench.remote.calls["open_read"] == 1
    assert bench.cache.held == 2 * PIECE_SIZE


def test_third_small_read_in_a_block_fetches_whole_block(bench: Bench) -> None:
    reader = bench.reader()
    for place in (15, 1, 9, 3):
        offset = 9 * BLOCK_SIZE + place * 2 * PIECE_SIZE
        assert reader.read(offset, 10) == CONTENT[offset : offset + 10]
    assert bench.remote.calls["open_read"] == 3
    assert bench.cache.held == 2 * PIECE_SIZE + BLOCK_SIZE


def test_small_random_reads_begin_no_stream(bench: Bench) -> None:
    reader = bench.reader()
    for index in (9, 12, 10, 13, 8):
        offset = index * BLOCK_SIZE + index * PIECE_SIZE
        assert reader.read(offset, 10) == CONTENT[offset : offset + 10]
    assert bench.cache.held == 5 * PIECE_SIZE


def test_small_sequential_reads_become_a_stream(bench: Bench) -> None:
    reader = bench.reader()
    start = 9 * BLOCK_SIZE
    got = b"".join(reader.read(n, 4096) for n in range(start, len(CONTENT), 4096))
    assert got == CONTENT[start:]
    assert bench.remote.calls["open_read"] == 3, "a piece, its block, and a stream"


@pytest.mark.parametrize("back", [1, 4096, PIECE_SIZE + 1])
def test_last_bytes_of_a_file_are_fetched_alone(bench: Bench, back: int) -> None:
    assert bench.reader().read(len(CONTENT) - back, back) == CONTENT[-back:]
    assert bench.remote.calls["open_read"] == 1
    assert bench.cache.held < 3 * PIECE_SIZE


def test_two_threads_that_want_one_piece_fetch_it_once(bench: Bench) -> None:
    reader = bench.reader()
    gate = bench.remote.hold("open_read")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(reader.read, 9 * BLOCK_SIZE, 10) for _ in range(4)]
        assert gate.reached.wait(5)
        time.sleep(0.05)
        gate.open()
        assert {f.result(5) for f in asked} == {CONTENT[9 * BLOCK_SIZE :][:10]}
    assert bench.remote.calls["open_read"] == 1


def test_piece_is_fetched_again_after_its_transfer_breaks_off(bench: Bench) -> None:
    bench.remote.cut_downloads(1000, 0)
    offset = 9 * BLOCK_SIZE + 5
    assert bench.reader().read(offset, 100) == CONTENT[offset : offset + 100]


def test_head_of_a_file_is_served_before_its_first_block_is_whole(bench: Bench) -> None:
    reader = bench.reader()
    gate = Gate()
    delivered = 0

    def pace(size: int) -> None:
        nonlocal delivered
        if delivered >= reader_module.HEAD_BYTES:
            gate.pass_through()
        delivered += size

    bench.remote.pace = pace
    with ThreadPoolExecutor(2) as pool:
        head = pool.submit(reader.read, 0, reader_module.HEAD_BYTES)
        assert head.result(5) == CONTENT[: reader_module.HEAD_BYTES]
        rest = pool.submit(reader.read, reader_module.HEAD_BYTES, 4096)
        assert gate.reached.wait(5)
        assert not rest.done()
        gate.open()
        assert rest.result(5) == CONTENT[reader_module.HEAD_BYTES :][:4096]


def test_reading_only_the_head_keeps_no_connection_busy(bench: Bench) -> None:
    reader = bench.reader()
    assert reader.read(0, 1) == CONTENT[:1]
    assert reader.read(5, 4000) == CONTENT[5:4005], "the head is kept"
    assert bench.remote.calls["open_read"] == 1
    assert bench.cache.held == reader_module.HEAD_BYTES
    reader.close()
    until(lambda: bench.remote.open_downloads == 0)
    assert bench.cache.held == reader_module.HEAD_BYTES, "no more was fetched"


def test_reading_on_after_the_head_uses_the_same_transfer(bench: Bench) -> None:
    reader = bench.reader()
    assert reader.read(0, 1) == CONTENT[:1]
    time.sleep(0.05)
    assert read_all(reader) == CONTENT
    assert bench.remote.calls["open_read"] == 1


def test_stream_gives_way_after_it_brought_the_head(bench: Bench) -> None:
    reader = bench.reader()
    reader.read(0, 1)
    until(lambda: reader._streams[0]._parked)
    bench.give_ways[0]()
    until(lambda: reader.streams == 0)
    assert read_all(reader) == CONTENT


# Large reads at random offsets.


def test_large_read_begins_a_stream_at_any_offset(bench: Bench) -> None:
    """Four programs copy a quarter each: none pays for a block before its stream."""
    reader = bench.reader()
    for quarter in range(4):
        start = quarter * BLOCKS // 4
        for index in range(start, start + BLOCKS // 4):
            wanted = CONTENT[index * BLOCK_SIZE :][:BLOCK_SIZE]
            assert reader.read(index * BLOCK_SIZE, BLOCK_SIZE) == wanted
    assert bench.remote.calls["open_read"] <= 4


def test_large_random_reads_do_not_take_all_connections(bench: Bench) -> None:
    reader = bench.reader(bytes(200 * BLOCK_SIZE))
    for index in range(199, 10, -20):
        assert reader.read(index * BLOCK_SIZE, BLOCK_SIZE) == bytes(BLOCK_SIZE)
    assert reader.streams <= reader_module.MOST_GUESSES


# Helpers.

LONG = 400  # blocks


@pytest.fixture
def long_link() -> Iterator[Bench]:
    """A link on which helpers pay, with a cache of 240 blocks."""
    yield from benched(Bench(cache=240 * BLOCK_SIZE, helped=2, round_trip=0.003))


def paced(bench: Bench, *, shared: bool) -> None:
    """Limit each download (`shared`: all of them together) to about 1000 blocks a second.

    A reader takes more than that.
    """
    lock = threading.Lock()

    def pace(size: int) -> None:
        seconds = min(size, PIECE) / BLOCK_SIZE / 1000
        if shared:
            with lock:
                time.sleep(seconds)
        else:
            time.sleep(seconds)

    bench.remote.pace = pace


def test_second_stream_helps_a_reader_that_waits_on_a_long_link(long_link: Bench) -> None:
    content = random.Random(3).randbytes(LONG * BLOCK_SIZE)
    paced(long_link, shared=False)
    reader = long_link.reader(content)
    assert read_all(reader) == content
    assert long_link.remote.most_downloads == 2
    assert len(long_link.offsets) <= 3
    assert long_link.offsets == sorted(long_link.offsets)
    assert long_link.cache.held <= long_link.cache.capacity


def test_helper_ends_when_two_streams_are_no_faster(
    long_link: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MIN_SPEEDUP", 5.0)  # a busy machine measures roughly
    content = random.Random(3).randbytes(LONG * BLOCK_SIZE)
    paced(long_link, shared=True)
    assert read_all(long_link.reader(content)) == content
    begun = len(long_link.offsets)
    assert read_all(long_link.reader(content, "/other")) == content
    assert len(long_link.offsets) == begun + 1, "that was learned for the next file, too"


def test_stream_goes_on_after_its_helper_fails(long_link: Bench) -> None:
    content = random.Random(3).randbytes(LONG * BLOCK_SIZE)
    paced(long_link, shared=False)
    long_link.remote.fail("open_read", errors.Refused(451, "one is enough"), after=1)
    assert read_all(long_link.reader(content)) == content


def test_short_link_gets_no_helpers() -> None:
    for bench in benched(Bench(helped=4, round_trip=0.001)):
        paced(bench, shared=False)
        read_all(bench.reader(bytes(LONG * BLOCK_SIZE)))
        assert bench.remote.calls["open_read"] == 1


# Without REST, and with another content.


def test_small_file_without_rest_is_read_anywhere_by_one_whole_transfer(
    bench: Bench,
) -> None:
    bench.remote.rest = False
    reader = bench.reader()
    rng = random.Random(4)
    for _ in range(50):
        offset = rng.randrange(len(CONTENT))
        assert reader.read(offset, 5000) == CONTENT[offset : offset + 5000]
    assert bench.remote.calls["open_read"] <= 3


def test_file_without_rest_is_read_in_order_whatever_its_size(tiny: Bench) -> None:
    tiny.remote.rest = False
    tiny.remote.cut_downloads(5 * BLOCK_SIZE + 1, 9 * BLOCK_SIZE)
    assert read_all(tiny.reader()) == CONTENT


def test_jump_in_large_file_without_rest_is_refused_and_logged(
    tiny: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.remote.rest = False
    reader = tiny.reader()
    for _ in range(2):
        with pytest.raises(errors.NotSupported, match="too big"):
            reader.read(9 * BLOCK_SIZE, 100)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert reader.read(0, 100) == CONTENT[:100]


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE])
def test_reading_stops_when_the_server_has_another_content(bench: Bench, offset: int) -> None:
    """Not even cached blocks are served: a program would mix them with the new content."""
    reader = bench.reader()
    reader.read(20 * BLOCK_SIZE, 100)
    bench.remote.fail("open_read", errors.Changed("another one by now"))
    for place in (offset, 20 * BLOCK_SIZE):
        with pytest.raises(errors.Changed):
            reader.read(place, 100)


# Memory.


def test_stream_runs_ahead_no_further_than_its_window(bench: Bench) -> None:
    reader = bench.reader()
    reader.read(0, BLOCK_SIZE)
    until(
        lambda: (
            bench.cache.held == reader_module.FIRST_WINDOW * 2 * BLOCK_SIZE
            or bench.cache.held == (1 + 2 * reader_module.FIRST_WINDOW) * BLOCK_SIZE
        )
    )
    time.sleep(0.05)
    assert bench.cache.held <= (1 + 2 * reader_module.FIRST_WINDOW) * BLOCK_SIZE


def test_windows_of_all_streams_fit_into_half_the_cache() -> None:
    budget = StreamBudget(64 << 20, 16 << 20)
    for streams in range(1, 40):
        budget.enter()
        assert budget.window() * streams * BLOCK_SIZE <= 32 << 20


def test_twenty_streams_all_finish_in_a_cache_of_three_blocks(tiny: Bench) -> None:
    """Blocks are evicted before the readers that wait for them wake up."""
    readers = [tiny.reader(CONTENT[n:], f"/f{n}") for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(read_all, readers, timeout=60))
    assert [len(r) for r in results] == [len(CONTENT) - n for n in range(20)]
    assert all(result == CONTENT[n:] for n, result in enumerate(results))
    assert tiny.cache.held <= 3 * BLOCK_SIZE


def test_stream_fetches_blocks_again_that_were_evicted_unread(bench: Bench) -> None:
    content = random.Random(5).randbytes(LONG * BLOCK_SIZE)
    reader = bench.reader(content)
    half = LONG // 2 * BLOCK_SIZE
    got = b"".join(reader.read(n, BLOCK_SIZE) for n in range(0, half, BLOCK_SIZE))
    until(lambda: parked(reader))
    bench.cache._blocks.clear()
    got += b"".join(reader.read(n, BLOCK_SIZE) for n in range(half, len(content), BLOCK_SIZE))
    assert got == content
    # Blocks close behind the stream are fetched one by one: they are not worth another stream.
    assert bench.remote.calls["open_read"] <= 2 + reader_module.JUST_PASSED_BLOCKS


def test_cache_smaller_than_a_block_costs_only_transfers() -> None:
    for bench in benched(Bench(cache=10)):
        assert read_all(bench.reader()) == CONTENT


# Faults.


def test_reading_goes_on_without_a_wrong_byte_after_a_transfer_breaks_off(bench: Bench) -> None:
    bench.remote.cut_downloads(BLOCK_SIZE + 1, 5 * BLOCK_SIZE, 0, 3 * BLOCK_SIZE - 1)
    assert read_all(bench.reader()) == CONTENT


def test_single_block_is_fetched_again_after_its_transfer_breaks_off(bench: Bench) -> None:
    bench.remote.cut_downloads(1000, 0)
    offset = 9 * BLOCK_SIZE + 5
    assert bench.reader().read(offset, 100) == CONTENT[offset : offset + 100]


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE])
def test_read_fails_when_no_transfer_makes_progress(bench: Bench, offset: int) -> None:
    bench.remote.cut_downloads(*[0] * reader_module.ATTEMPTS)
    reader = bench.reader()
    with pytest.raises(errors.ConnectionLost):
        reader.read(offset, 100)
    assert reader.read(offset, 100) == CONTENT[offset : offset + 100], "and it recovers"


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE])
def test_reads_fail_at_once_for_a_moment_after_a_timeout(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """The kernel retries a refused block page by page."""
    monkeypatch.setattr(reader_module, "STALLED_SECONDS", 0.3)
    bench.remote.fail("open_read", errors.DeadlineExceeded("nothing moved"))
    reader = bench.reader()
    for _ in range(5):
        with pytest.raises(errors.DeadlineExceeded):
            reader.read(offset, 4096)
    assert bench.remote.calls["open_read"] == 1
    time.sleep(0.35)
    assert reader.read(offset, 4096) == CONTENT[offset : offset + 4096]


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE])
def test_error_reaches_each_waiting_thread_as_its_own_exception(bench: Bench, offset: int) -> None:
    gate = bench.remote.hold("open_read")
    bench.remote.fail("open_read", errors.Refused(451, "disk on fire"))
    reader = bench.reader()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(reader.read, offset, 10) for _ in range(3)]
        assert gate.reached.wait(5)
        until(lambda: pool._work_queue.empty())
        time.sleep(0.05)
        gate.open()
        raised = [future.exception(5) for future in asked]
    assert [type(e) for e in raised] == [errors.Refused] * 3
    assert len({id(e) for e in raised}) == 3


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE, len(CONTENT) - 10])
def test_file_shorter_than_listed_is_an_error_and_no_short_read(bench: Bench, offset: int) -> None:
    reader = bench.reader()
    bench.remote.shorten("/f", offset + 5)
    with pytest.raises(errors.DataMismatch):
        reader.read(offset, len(CONTENT))


def test_grown_file_reads_as_its_old_content(bench: Bench) -> None:
    reader = bench.reader()
    bench.remote.outside_write("/f", CONTENT + b"more")
    assert read_all(reader) == CONTENT


# Giving way, and the end.


def test_parked_stream_gives_way_at_once_and_begins_again(bench: Bench) -> None:
    reader = bench.reader()
    reader.read(0, BLOCK_SIZE)
    until(lambda: parked(reader))
    bench.give_ways[0]()
    until(lambda: reader.streams == 0)
    assert read_all(reader) == CONTENT
    assert bench.remote.calls["open_read"] == 2


def parked(reader: Reader) -> bool:
    with reader._lock:
        return bool(reader._streams) and all(s.position >= s._limit for s in reader._streams)


def test_stream_does_not_give_way_before_it_brought_a_block(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, with more readers than connections, none would ever get a block: each new stream is
    asked for its connection while it is still being set up."""
    monkeypatch.setattr(reader_module, "MIN_RUN_SECONDS", 0.0)
    reader = bench.reader()
    gate = bench.remote.hold("open_read", answered=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reader.read, 0, 10)
        assert gate.reached.wait(5)
        bench.give_ways[0]()
        gate.open()
        assert asked.result(5) == CONTENT[:10]
    assert bench.remote.calls["open_read"] == 1


def test_many_readers_all_finish_though_always_asked_to_give_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MIN_RUN_SECONDS", 0.0)
    readers = [bench.reader(CONTENT[n:], f"/f{n}") for n in range(10)]
    done = threading.Event()

    def nag() -> None:
        while not done.wait(0.001):
            for give_way in list(bench.give_ways):
                give_way()

    nagging = threading.Thread(target=nag)
    nagging.start()
    try:
        with ThreadPoolExecutor(10) as pool:
            results = list(pool.map(read_all, readers, timeout=60))
    finally:
        done.set()
        nagging.join()
    assert all(result == CONTENT[n:] for n, result in enumerate(results))


def test_parked_stream_ends_when_nobody_reads_from_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "PARK_SECONDS", 0.01)
    reader = bench.reader()
    reader.read(0, 1)
    until(lambda: reader.streams == 0)


@pytest.mark.parametrize("offset", [0, 9 * BLOCK_SIZE])
def test_close_ends_a_read_under_way(bench: Bench, offset: int) -> None:
    bench.remote.stall = stall = Gate()
    reader = bench.reader()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reader.read, offset, 3 * BLOCK_SIZE)
        assert stall.reached.wait(5)
        reader.close()
        stall.open()
        with pytest.raises(errors.BadHandle):
            asked.result(5)


def test_read_fails_when_no_thread_can_be_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader = bench.reader()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(errors.FtpfsError, match="no thread"):
            reader.read(0, 10)
    assert reader.read(0, 10) == CONTENT[:10]
