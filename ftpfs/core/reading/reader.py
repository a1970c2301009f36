"""Reads one content of one file: streams, read-ahead, fetches.

Owns which RETRs run for a file, how far they run ahead, and how blocks get into the cache. The
bytes come from an injected `fetch(offset, give_way) -> Download`; nothing here knows FTP.

**Streams.** A *stream* is one RETR in a thread of its own. It fills blocks in order and *parks*
when it is a window ahead of its reader. The window starts small, so that the first bytes come early
and reading only the head of a file costs little. It doubles while the reading goes on. A stream
that is parked, or has run for its minimum time, gives its connection up when others need it. It
starts again when its reader misses a block.

**Fetches and pieces.** A reader that is far away from every stream fetches the bytes itself, in its
own thread: a *fetch*. Other threads that want the same bytes wait for that fetch. A small read
at a random offset fetches a *piece* of a block. The third small read in a block fetches all of it,
and so does a small read that goes on where another one ended. If the reading goes on from there, a
stream begins.

**Helpers.** On a long link one TCP connection is bounded by its window. A stream that keeps its
reader waiting gets a *helper* far ahead. The helper fills as much of the cache as it may until the
stream reaches its beginning. The stream ends there, and the reader goes on with the helper. Helpers
cost a few round trips and a window of bytes sent in vain, so only long files get them. If two
streams are not faster than one (a full link), there are no helpers for a while.

**No REST.** A server that cannot start in the middle of a file sends it from the start each time,
and the reader throws the bytes before the wanted offset away. That serves a sequential reader, and
any access to a file that fits into half the cache. A jump in a larger file is refused.

**Waiting.** The cache cannot hand blocks over: with many streams and little memory, a block may be
evicted before the reader that waits for it wakes up. So the stream gives the block itself to each
waiting reader, and every fetched block that a reader waited for is progress.

Threading: any number of readers. `_lock` (Rank.READER) guards the streams and their positions.
Streams and readers do their I/O outside of it. Each waiting thread is woken alone, when its block
or its error has arrived.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.reading.access import Access
from ftpfs.core.reading.blocks import BLOCK_SIZE, PIECE_SIZE, BlockCache, Version
from ftpfs.core.reading.overrun import Overrun
from ftpfs.model import link
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Download

log = logging.getLogger(__name__)

OpenDownload = Callable[[int, Callable[[], None]], Download]

# The first window, in blocks. Two let the kernel's own read-ahead overlap with the next block.
FIRST_WINDOW = 2
# The kernel sends up to 12 requests at once (with max_background=64: more), in any order. A request
# up to this many blocks ahead of a stream still belongs to the stream.
NEAR_BLOCKS = 64
# If the cache has lost a block up to this many blocks behind a stream, the block is fetched alone.
JUST_PASSED_BLOCKS = 8
# While others wait, a stream keeps its connection for at least this time (s). Reopening costs three
# round trips, so a stream should run for many times that.
MIN_RUN_SECONDS = 0.25
# A parked stream that nobody reads from is closed after this time (s). Reopening is cheap, and the
# server's own timeout for a stalled RETR is a minute or more.
PARK_SECONDS = 8.0
# Broken transfers in a row without a byte of progress before the reader gets an error.
ATTEMPTS = 3
# After a timeout, reads of the same file fail at once for this time (s). The kernel retries a block
# that failed page by page, and each page would wait for a timeout of its own.
STALLED_SECONDS = 1.0
# A program that reads a file from its start wants the head alone as often as all of it. So the
# first bytes of each transfer are handed out before their block is complete. The kernel asks for
# 16 KiB when a program wants the first byte, and a block takes three more round trips while TCP
# starts slowly.
HEAD_BYTES = 16 << 10
# A read up to this size (bytes) at a random offset fetches no more than its pieces.
SMALL_READ_BYTES = 32 << 10
# Limit of streams that one large read began, and from which no reader has read on yet.
MOST_GUESSES = 4
# A stream's pace is measured over PACE_BLOCKS. If readers waited for fewer than STARVED_BLOCKS of
# these, there is no helper: a program that thinks between its reads needs no more streams.
PACE_BLOCKS, STARVED_BLOCKS = 32, 24
# If the pace grew by no more than this factor, TCP's slow start is over.
STEADY_GROWTH = 1.25
# What a helper costs before it runs at full pace, in round trips: opening, and TCP's slow start.
RAMP_ROUND_TRIPS = 10
# A helper is worth its price if it brings at least this many blocks before the stream arrives.
LEAST_HELP_BLOCKS = 96
# Two streams must be this many times as fast as one. If they are not, no helper starts for
# NO_HELP_SECONDS.
MIN_SPEEDUP, NO_HELP_SECONDS = 1.15, 300.0


class StreamBudget:
    """Limits the streams and their windows, so that all of them together fit into the block cache.

    Threading: has its own lock, and makes no call-back while it is held.
    """

    def __init__(
        self,
        cache_capacity: int,
        read_ahead: int,
        *,
        helped: int = 0,
        round_trip: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`cache_capacity`, `read_ahead`: bytes.

        A helper begins only while fewer than `helped` streams run, and on a long link.
        `round_trip()` returns seconds.
        """
        self._lock = ranked_lock(Rank.STREAM_BUDGET)
        self._streams = 0
        self._unhelped_until = 0.0
        self._capacity = cache_capacity
        self._read_ahead = read_ahead
        self._helped = helped
        self._round_trip = round_trip

    def enter(self) -> None:
        with self._lock:
            self._streams += 1

    def leave(self) -> None:
        with self._lock:
            self._streams -= 1

    def window(self) -> int:
        """Blocks that one stream may be ahead now: half the cache, divided among the streams."""
        with self._lock:
            share = self._capacity // (2 * max(1, self._streams))
        return max(FIRST_WINDOW, min(self._read_ahead, share) // BLOCK_SIZE)

    def whole(self, size: int) -> bool:
        """Whether the cache may hold all of a content of `size` bytes."""
        return size <= self._capacity // 2

    def help(self) -> tuple[int, float]:
        """The cache share of one more stream (blocks), and the round trip (s).

        The share is 0 if no helper may start now. The helpers may fill half the cache. The first
        stream keeps its reader waiting and holds next to nothing, but its blocks pass through the
        cache, too. With three quarters, blocks were evicted before they were read.
        """
        round_trip = self._round_trip()
        with self._lock:
            if (
                # Only a long link can be too long for one TCP window.
                not link.is_known_long(round_trip)
                or self._streams >= self._helped
                or time.monotonic() < self._unhelped_until
            ):
                return 0, round_trip
            return self._capacity // 2 // max(1, self._streams) // BLOCK_SIZE, round_trip

    def no_help(self) -> None:
        """A helper was of no use: refuse helpers for NO_HELP_SECONDS seconds."""
        with self._lock:
            self._unhelped_until = time.monotonic() + NO_HELP_SECONDS


class Reader:
    """Reads one content (version) of one file, for all handles."""

    def __init__(
        self,
        version: Version,
        open_download: OpenDownload,
        cache: BlockCache,
        budget: StreamBudget,
        overrun: Overrun | None = None,
    ) -> None:
        self.version = version
        self._overrun = overrun or Overrun()
        self._open_download = open_download
        self._cache = cache
        self._budget = budget
        self._blocks = -(-version.size // BLOCK_SIZE)
        self._overflows = version.size > cache.capacity
        self._lock = ranked_lock(Rank.READER)
        # Guarded by _lock:
        self._streams: list[Stream] = []
        self._fetches: list[_Fetch] = []
        self._access = Access()
        self._closed = False
        self._stalled: tuple[float, errors.FtpfsError] | None = None  # until when, and why
        # Set once, and read without the lock:
        self._rest = True  # False: the server cannot start in the middle of a file
        self._other: errors.Changed | None = None  # set when the server has another content

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Ends within the deadlines of the network steps. Raises:
            DataMismatch: the server's file is shorter than this content.
            Changed: the server has shown that it has another content.
            NotSupported: a jump needs REST, and the server has none.
            BadHandle: after `close`.
            FtpfsError: what the network raises.
        """
        if self._other is not None:
            raise errors.again(self._other) from self._other
        end = min(offset + size, self.version.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
        if first == last:
            return self._within(first, offset, end)
        if end - offset <= SMALL_READ_BYTES and not any(
            self._cache.holds(self.version, (first, last))
        ):
            small = self._small(first, offset, end)
            if small is not None:
                return small
        joined = b"".join(self._block(index) for index in range(first, last + 1))
        start = offset - first * BLOCK_SIZE
        return joined[start : start + end - offset]

    def close(self) -> None:
        """Refuse further reads. Streams end at their next block; `close` does not wait for them."""
        with self._lock:
            self._closed = True
            for stream in self._streams:
                stream.stop_locked()

    @property
    def streams(self) -> int:
        """How many streams run now."""
        with self._lock:
            return len(self._streams)

    # How a read is put together.

    def _within(self, index: int, offset: int, end: int) -> bytes:
        """The bytes [offset, end) of one block."""
        start = index * BLOCK_SIZE
        block = self._cache.get(self.version, index)
        if block is None and end - offset <= SMALL_READ_BYTES:
            small = self._small(index, offset, end)
            if small is not None:
                return small
        if block is None:
            block = self._fetched(index, end - start, large=end - offset == BLOCK_SIZE)
        self._note(index, end)
        if end - offset == len(block):
            return block
        return block[offset - start : end - start]

    def _small(self, index: int, offset: int, end: int) -> bytes | None:
        """The bytes [offset, end) from pieces; None if the whole block should be fetched."""
        span = range(offset // PIECE_SIZE, (end - 1) // PIECE_SIZE + 1)
        found = self._cache.get_pieces(self.version, span)
        if found is None:
            fetch, mine = self._plan_small(index, span, offset)
            if fetch is None:
                return None
            if mine:
                self._run(fetch)
            found = self._await_fetch(fetch)
            if found is None:
                return None
        self._note(index, end)
        start = offset - span.start * PIECE_SIZE
        return found[start : start + end - offset]

    def _plan_small(self, index: int, span: range, offset: int) -> tuple[_Fetch | None, bool]:
        """The fetch that brings these pieces for a read at `offset`; whether the caller runs it.

        None if their block is on its way already, or should be fetched whole.
        """
        with self._lock:
            self._check_open_locked()
            for fetch in self._fetches:
                if fetch.unit == PIECE_SIZE and fetch.span == span:
                    return fetch, False
            if (
                index == 0
                or not self._rest
                or self._blocks <= FIRST_WINDOW
                or self._access.is_piecemeal(index)
                or self._access.goes_on(index, offset)
                or any(s.will_bring_locked(index) for s in self._streams)
                or any(s.just_passed_locked(index) for s in self._streams)
                or any(e.unit == BLOCK_SIZE and index in e.span for e in self._fetches)
            ):
                return None, False
            self._access.note_piece(index)
            fetch = _Fetch(PIECE_SIZE, span)
            self._fetches.append(fetch)
            return fetch, True

    def _block(self, index: int) -> bytes:
        """All of block `index`."""
        block = self._cache.get(self.version, index)
        if block is None:
            block = self._fetched(index, BLOCK_SIZE, large=True)
        self._note(index, (index + 1) * BLOCK_SIZE)
        return block

    def _fetched(self, index: int, need: int, *, large: bool) -> bytes:
        """Block `index`, which is not in the cache, or at least its first `need` bytes.

        `large`: the caller wants the whole block.
        """
        missed = False
        while True:
            block: bytes | None = None
            waiter = _Waiter(index, need, large)
            source, mine = self._plan(waiter, missed=missed)
            if source is not None and mine:
                self._set_off(source)
            if isinstance(source, _Fetch):
                content = self._await_fetch(source)
                if content is not None:
                    start = (index - source.span.start) * BLOCK_SIZE
                    block = content[start : start + BLOCK_SIZE]
            elif source is not None:
                block = waiter.wait()
            if block is None:
                block = self._cache.get(self.version, index)
                missed = True
            if block is not None:
                return block

    def _note(self, index: int, end: int) -> None:
        """Note a read of `index` that ended at `end` (bytes), and tell the streams."""
        if self._overflows and self._access.read(index - 1):
            self._cache.scanned(self.version, index)
        with self._lock:
            self._access.note(index, end)
            for stream in self._streams:
                stream.note_read_locked(index)

    # Where a block comes from.

    def _plan(self, waiter: _Waiter, *, missed: bool) -> tuple[Stream | _Fetch | None, bool]:
        """Decide which stream or fetch brings a block, and whether the caller has to start it.

        A stream adds the waiter to its list. None: a stream has just passed, so the block should be
        in the cache by now. If it was `missed` there, fetch it alone.
        """
        index = waiter.index
        with self._lock:
            self._check_open_locked()
            for stream in self._streams:
                if stream.will_bring_locked(index):
                    stream.add_waiter_locked(waiter)
                    return stream, False
            for fetch in self._fetches:
                if fetch.unit == BLOCK_SIZE and index in fetch.span:
                    return fetch, False
            passed = any(stream.just_passed_locked(index) for stream in self._streams)
            if passed and not missed:
                return None, False
            if not self._rest:
                stream = self._stream_without_rest_locked(index)
                stream.add_waiter_locked(waiter)
                self._streams.append(stream)
                return stream, True
            if self._deserves_stream_locked(index, large=waiter.large):
                stream = Stream(self, index, self._blocks)
                stream.add_waiter_locked(waiter)
                self._streams.append(stream)
                return stream, True
            small = self._blocks <= FIRST_WINDOW
            fetch = _Fetch(BLOCK_SIZE, range(self._blocks) if small else range(index, index + 1))
            self._fetches.append(fetch)
            return fetch, True

    def _deserves_stream_locked(self, index: int, *, large: bool) -> bool:
        """Whether to begin a stream at block `index`.

        A stream begins if a large file is read from its start, sequentially, or in large reads.
        """
        if self._blocks <= FIRST_WINDOW:
            return False  # one fetch brings all of it, without a thread
        if any(stream.just_passed_locked(index) for stream in self._streams):
            return False  # the cache evicted it too early, and the stream is still of use
        if index == 0 or self._access.reads_on(index):
            return True
        return large and sum(stream.is_guess_locked() for stream in self._streams) < MOST_GUESSES

    def _check_open_locked(self) -> None:
        if self._closed:
            raise errors.BadHandle("read from a closed file")
        if self._stalled is not None and time.monotonic() < self._stalled[0]:
            raise errors.again(self._stalled[1]) from self._stalled[1]

    def _note_error_locked(self, error: errors.FtpfsError | None) -> None:
        if isinstance(error, errors.DeadlineExceeded):
            self._stalled = time.monotonic() + STALLED_SECONDS, error

    def _stream_without_rest_locked(self, index: int) -> Stream:
        """A stream from the start of the file, or one that throws the bytes before `index` away.

        Raises NotSupported for a jump in a file that the cache cannot hold.
        """
        if self._budget.whole(self.version.size):
            return Stream(self, 0, self._blocks, window=self._blocks)
        if index == 0 or self._access.reads_on(index):
            return Stream(self, index, self._blocks)
        raise errors.NotSupported(
            f"{self.version.path}: the server cannot start in the middle of a file (no REST), and "
            f"this one, of {self.version.size} bytes, is too big to be fetched as a whole: it can "
            "only be read from its start on"
        )

    def _set_off(self, source: Stream | _Fetch) -> None:
        if isinstance(source, _Fetch):
            self._run(source)
            return
        self._budget.enter()
        try:
            threading.Thread(target=source.run, name="ftpfs-stream", daemon=True).start()
        except RuntimeError as error:
            self._end(source, errors.FtpfsError(f"no thread to read with: {error}"))

    def _end(self, stream: Stream, error: errors.FtpfsError | None) -> None:
        """Remove a stream that has ended, and wake the readers that wait for its blocks."""
        self._budget.leave()
        with self._lock:
            stream.ended = True
            self._streams.remove(stream)
            for other in self._streams:
                other.ended_locked(stream)
            waiters, stream.waiters = stream.waiters, []
            self._note_error_locked(error)
        for waiter in waiters:
            waiter.end(error)

    # Fetching.

    def open_at(self, offset: int, give_way: Callable[[], None]) -> Download:
        """A download that begins at `offset`.

        Raises _NoRest when the server turns out to have no REST; the caller then plans anew.
        """
        if offset and not self._rest:
            return self._open_by_reading(offset, give_way)
        try:
            return self._open_download(offset, give_way)
        except errors.Changed as changed:
            self._other = changed
            raise
        except errors.NotSupported as error:
            if not offset:
                raise
            log.warning(
                "%s: the server cannot start in the middle of a file (no REST)", self.version.path
            )
            self._rest = False
            raise _NoRest from error

    def _open_by_reading(self, offset: int, give_way: Callable[[], None]) -> Download:
        download = self._open_download(0, give_way)
        try:
            for start in range(0, offset, BLOCK_SIZE):
                self.fill(download, start, min(BLOCK_SIZE, offset - start))
        except BaseException:
            download.close()
            raise
        return download

    def fill(self, download: Download, offset: int, size: int) -> bytes:
        """The next `size` bytes (less at the end of the file) of a download that is at `offset`.

        Raises DataMismatch if the download ends early, and Changed if it goes on behind the end of
        a small file that it did not confirm.
        """
        wanted = min(size, self.version.size - offset)
        data = download.read(wanted)
        if len(data) < wanted:
            raise errors.DataMismatch(
                f"{self.version.path}: ended at {offset + len(data)} of {self.version.size} bytes: "
                "cut short, or changed on the server"
            )
        if offset + wanted == self.version.size <= BLOCK_SIZE and not download.confirmed:
            self._overrun.check(self.version.path, download, offset, data)
        return data

    def _run(self, fetch: _Fetch) -> None:
        """Run a fetch in this thread, and wake the threads that wait for it."""
        error: errors.FtpfsError | None = errors.FtpfsError("reading was interrupted")
        try:
            self._carry_out(fetch)
            error = None
        except _NoRest:
            error = None
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("reading %s failed: unexpected error", self.version.path)
            error = errors.FtpfsError("internal error while reading; see the log")
        finally:
            with self._lock:
                self._fetches.remove(fetch)
                self._note_error_locked(error)
            fetch.error = error
            fetch.ended.set()

    def _await_fetch(self, fetch: _Fetch) -> bytes | None:
        """What the fetch brought; None if the caller has to plan anew. Raises its error."""
        fetch.ended.wait()
        if fetch.error is not None:
            raise errors.again(fetch.error) from fetch.error
        return fetch.content

    def _carry_out(self, fetch: _Fetch) -> None:
        failures = 0
        while True:
            try:
                download = self.open_at(fetch.span.start * fetch.unit, _never)
                try:
                    parts = [self._bring(download, fetch.unit, n) for n in fetch.span]
                    if fetch.span.stop * fetch.unit >= self.version.size:
                        _expect_end(download)
                finally:
                    download.close()
            except (errors.ConnectionLost, errors.DataConnectionFailed) as failure:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.info("reading %s broke off, trying again: %s", self.version.path, failure)
            else:
                fetch.content = parts[0] if len(parts) == 1 else b"".join(parts)
                return

    def _bring(self, download: Download, unit: int, number: int) -> bytes:
        part = self.fill(download, number * unit, unit)
        if unit == BLOCK_SIZE:
            self._cache.put(self.version, number, part)
        else:
            self._cache.put_piece(self.version, number, part)
        return part

    # Helpers.

    def help_locked(self, stream: Stream, pace: float) -> Stream | None:
        """A helper for a stream that brings `pace` blocks a second, or None if it would not pay.

        The caller starts it.
        """
        share, round_trip = self._budget.help()
        ahead = any(other.position > stream.position for other in self._streams)
        awaited = any(other.helper is stream for other in self._streams)
        if not share or not self._rest or ahead or awaited:
            return None
        ramp = int(pace * round_trip * RAMP_ROUND_TRIPS)
        left = self._blocks - stream.position
        # Not so far that the helper parks before the stream arrives: TCP would start slowly again.
        reach = min(share * 7 // 8 + ramp, (left + ramp) // 2)
        if reach - ramp < LEAST_HELP_BLOCKS:
            return None
        helper = Stream(self, stream.position + reach, self._blocks, window=share)
        helper.trial = _Trial(stream, round_trip)
        stream.helper = helper
        self._streams.append(helper)
        return helper


class _NoRest(errors.FtpfsError):
    """The server cannot start in the middle of a file: the reader has to plan anew."""


class _Fetch:
    """A fetch of a few blocks or pieces (`unit` bytes each) in the thread that wants them.

    `span` numbers them. `content` and `error` are set before `ended` is.
    """

    __slots__ = ("content", "ended", "error", "span", "unit")

    def __init__(self, unit: int, span: range) -> None:
        self.unit = unit
        self.span = span
        self.content: bytes | None = None
        self.error: errors.FtpfsError | None = None
        self.ended = threading.Event()


class _Waiter:
    """A thread that waits for a block of a stream.

    Another thread takes it off the stream's list, and calls `fulfil` or `end`, once.
    """

    __slots__ = ("_block", "_error", "_gate", "index", "large", "need")

    def __init__(self, index: int, need: int, large: bool) -> None:
        self.index = index
        self.need = need  # bytes from the start of the block
        self.large = large  # the thread wants the whole block
        self._block: bytes | None = None
        self._error: errors.FtpfsError | None = None
        # A bare lock: a Condition or an Event would create one for each wait, and more objects.
        self._gate = threading.Lock()
        self._gate.acquire()

    def fulfil(self, block: bytes) -> None:
        self._block = block
        self._gate.release()

    def end(self, error: errors.FtpfsError | None) -> None:
        self._error = error
        self._gate.release()

    def wait(self) -> bytes | None:
        """Wait for the block, or at least `need` bytes of it, and return that.

        None: the stream has ended without it, and the caller has to plan anew. Raises the error
        that ended the stream.
        """
        self._gate.acquire()
        if self._error is not None:
            raise errors.again(self._error) from self._error
        return self._block


class _Trial:
    """Measures whether a stream with a helper is faster than the stream was alone."""

    def __init__(self, stream: Stream, round_trip: float) -> None:
        self._stream = stream
        self._round_trip = round_trip
        self._since = float("inf")  # when the helper runs at full pace, too
        self._alone = 0.0  # the stream's pace before the helper (blocks a second)
        self._began: tuple[float, int] | None = None

    def failed_locked(self, helper: Stream) -> bool | None:
        """Whether the helper was of no use; None if it is too early to tell.

        Called with each block of the helper.
        """
        now, brought = time.monotonic(), self._stream.position + helper.position
        if not self._alone:
            self._alone = self._stream.pace
            self._since = now + RAMP_ROUND_TRIPS * self._round_trip
        elif self._began is None:
            if now >= self._since:
                self._began = now, brought
        elif (
            now >= self._began[0] + RAMP_ROUND_TRIPS * self._round_trip
            and brought >= self._began[1] + PACE_BLOCKS
        ):
            return (brought - self._began[1]) / (now - self._began[0]) < MIN_SPEEDUP * self._alone
        return None


class Stream:
    """One RETR that runs ahead of its reader. The reader's `_lock` guards all attributes."""

    def __init__(
        self, reader: Reader, first: int, blocks: int, *, window: int = FIRST_WINDOW
    ) -> None:
        self.position = first  # the block that comes next
        self.ended = False
        self.waiters: list[_Waiter] = []
        self.helper: Stream | None = None  # this stream ends where its helper begins
        self.trial: _Trial | None = None
        self._reader = reader
        self._first = first
        self._blocks = blocks
        self._window = window
        self._limit = min(first + window, blocks)  # the stream may fetch the blocks before this one
        self._read = first - 1  # the furthest block that was read
        self._stop = False
        self._room = threading.Condition(reader._lock)
        self._parked = False
        self._began_at: float | None = None  # None: no block has come on this connection yet
        # When the pace was measured last, and at which block; how many blocks since then a reader
        # waited for.
        self._paced_at = (0.0, first)
        self.pace = 0.0  # blocks a second
        self._awaited = 0

    # Readers call these with the lock held.

    def will_bring_locked(self, index: int) -> bool:
        if self.ended or self._stop or not self.position <= index < self._end_locked():
            return False
        if not self._reader._rest and self._reader._budget.whole(self._reader.version.size):
            return True  # the stream reads the whole file
        return index < max(self._limit, self.position) + NEAR_BLOCKS

    def just_passed_locked(self, index: int) -> bool:
        """Whether the stream brought that block so lately that the cache should still have it.

        If the cache lost a block further behind, a stream has to bring it again: fetching one block
        at a time would take some round trips for each.
        """
        return not self._stop and 0 < self.position - index <= min(self._window, JUST_PASSED_BLOCKS)

    def is_guess_locked(self) -> bool:
        """Whether no reader has read on from where the stream began."""
        return self._read <= self._first

    def add_waiter_locked(self, waiter: _Waiter) -> None:
        """A reader waits for a block: extend the limit to that block, whatever the window."""
        self.waiters.append(waiter)
        self._limit = max(self._limit, min(waiter.index + 1, self._blocks))
        self._wake_locked()

    def note_read_locked(self, index: int) -> None:
        """A block was read: move the limit on, and double the window while the reading goes on."""
        if not self._read < index <= self.position + NEAR_BLOCKS:
            return
        self._read = index
        if self._limit - index <= self._window // 2 + 1 and self._limit < self._blocks:
            self._window = max(self._window, min(self._window * 2, self._reader._budget.window()))
            self._limit = min(max(self._limit, index + 1 + self._window), self._blocks)
            self._wake_locked()

    def stop_locked(self) -> None:
        self._stop = True
        self._wake_locked()

    def ended_locked(self, other: Stream) -> None:
        """Another stream has ended: if it was this one's helper, go on alone."""
        if other is self.helper:
            self.helper = None

    def _end_locked(self) -> int:
        return self._blocks if self.helper is None else self.helper._first

    def _wake_locked(self) -> None:
        if self._parked:
            self._room.notify()

    # The pool calls this in the thread that needs a connection.

    def give_way(self) -> None:
        """End soon: at once if the stream is parked, else after its minimum time.

        A stream that has brought nothing yet goes on. If it ended now, it would have to queue
        again, and with many readers on few connections none would ever get a block. The pool asks
        again. A stream does not give way to its own helper either.
        """
        with self._reader._lock:
            if self._began_at is None:
                return
            if self.helper is not None and self.helper._began_at is None:
                return
            if self._parked or time.monotonic() - self._began_at > MIN_RUN_SECONDS:
                self.stop_locked()

    # The stream's thread runs these.

    def run(self) -> None:
        error: errors.FtpfsError | None = None
        try:
            self._run_with_retries()
        except _NoRest:
            pass  # the waiting readers plan anew
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("a stream of %s failed: unexpected error", self._reader.version.path)
            error = errors.FtpfsError("internal error while reading; see the log")
        finally:
            self._reader._end(self, error)

    def _run_with_retries(self) -> None:
        failures = 0
        while True:
            begun_at = self.position
            try:
                self._transfer()
            except (errors.ConnectionLost, errors.DataConnectionFailed) as failure:
                failures = 1 if self.position > begun_at else failures + 1
                if self._stop:
                    return  # the stream was to end anyway; the waiting readers plan anew
                if failures >= ATTEMPTS:
                    raise
                log.info(
                    "reading %s broke off at block %d, going on from there: %s",
                    self._reader.version.path,
                    self.position,
                    failure,
                )
            else:
                return

    def _transfer(self) -> None:
        reader = self._reader
        with reader._lock:
            self._began_at = None
        download = reader.open_at(self.position * BLOCK_SIZE, self.give_way)
        try:
            if self._may_go_on() and (block := self._headed(download)) is not None:
                self._publish(block)
                while self._may_go_on():
                    offset = self.position * BLOCK_SIZE
                    self._publish(reader.fill(download, offset, BLOCK_SIZE))
            if self.position == self._blocks:
                _expect_end(download)
        finally:
            download.close()

    def _headed(self, download: Download) -> bytes | None:
        """The first block of a transfer. Its head is handed out as soon as it has arrived.

        None if readers wanted the head and nothing else: a program that reads the first bytes of
        many files keeps no connection busy with the rest.
        """
        reader, offset = self._reader, self.position * BLOCK_SIZE
        head = reader.fill(download, offset, HEAD_BYTES)
        with reader._lock:
            served = self._take_locked(HEAD_BYTES)
        if offset + len(head) == reader.version.size:
            for waiter in served:
                waiter.fulfil(head)
            return head
        if served:
            for start in range(0, HEAD_BYTES, PIECE_SIZE):
                piece = head[start : start + PIECE_SIZE]
                reader._cache.put_piece(reader.version, (offset + start) // PIECE_SIZE, piece)
            for waiter in served:
                waiter.fulfil(head)
            with reader._lock:
                self._began_at = time.monotonic()
                if not self._wanted_locked():
                    return None
                self._began_at = None
        return head + reader.fill(download, offset + HEAD_BYTES, BLOCK_SIZE - HEAD_BYTES)

    def _wanted_locked(self) -> bool:
        """Park until a reader waits for more; False if none does."""
        while not self.waiters and not self._stop:
            if not self._park_locked():
                break
        return bool(self.waiters) and not self._stop

    def _park_locked(self) -> bool:
        """Park; False when PARK_SECONDS has passed and the connection should be given back."""
        self._parked = True
        try:
            return self._room.wait(PARK_SECONDS)
        finally:
            self._parked = False

    def _take_locked(self, most: int) -> list[_Waiter]:
        """Take the waiters off the list that the first `most` bytes of this block satisfy."""
        served = [w for w in self.waiters if w.index == self.position and w.need <= most]
        for waiter in served:
            self.waiters.remove(waiter)
        return served

    def _publish(self, block: bytes) -> None:
        reader, helper = self._reader, None
        reader._cache.put(reader.version, self.position, block)
        with reader._lock:
            served = self._take_locked(BLOCK_SIZE) if self.waiters else ()
            self.position += 1
            if self._began_at is None:
                self._began_at = time.monotonic()
                self._paced_at = self._began_at, self.position
            if served:
                self._awaited += 1
            if self.trial is not None:
                self._judge_locked(self.trial)
            if self.position - self._paced_at[1] >= PACE_BLOCKS:
                helper = self._look_at_pace_locked()
        for waiter in served:
            waiter.fulfil(block)
        if helper is not None:
            self._reader._set_off(helper)

    def _judge_locked(self, trial: _Trial) -> None:
        """End this helper if it is of no use. The blocks that it brought stay in the cache."""
        failed = trial.failed_locked(self)
        if failed is not None:
            self.trial = None
        if failed:
            log.debug("%s: a second stream is no faster", self._reader.version.path)
            self._reader._budget.no_help()
            self.stop_locked()

    def _look_at_pace_locked(self) -> Stream | None:
        """A helper, if readers waited for nearly every block and a helper would pay, or None."""
        now = time.monotonic()
        (then, position), awaited = self._paced_at, self._awaited
        self._paced_at, self._awaited = (now, self.position), 0
        before, self.pace = self.pace, (self.position - position) / max(now - then, 1e-6)
        if self.helper is not None or self._stop or awaited < STARVED_BLOCKS:
            return None
        growing = self.pace > before * STEADY_GROWTH  # TCP's slow start is not over yet
        return self._reader.help_locked(self, self.pace * 2 if growing else self.pace)

    def _may_go_on(self) -> bool:
        """Park while the window is full; False when the stream should end."""
        with self._reader._lock:
            while True:
                if self._stop or self.position >= self._end_locked():
                    return False
                if self.position < self._limit:
                    return True
                if not self._park_locked() and self.position >= self._limit:
                    return False


def _expect_end(download: Download) -> None:
    """After the last byte of a file: on a short link, read the server's final reply.

    If more bytes follow, the file grew, and what was read is still its old content. An error of the
    server comes too late to matter: every promised byte has arrived.
    """
    try:
        download.finish()
    except errors.FtpfsError as error:
        log.debug("after the last byte of a file: %s", error)


def _never() -> None:
    """Ignore a request to give way: a single block ends before that would help."""
