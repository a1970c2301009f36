"""Reading one content of one file: streams, read-ahead, access patterns.

Owns: which RETRs run for a file, how far they run ahead, and the blocks' way into the cache. The
bytes come from an injected `fetch(offset, give_way) -> Download`; nothing here knows of FTP.

A *stream* is one RETR in a thread of its own. It fills blocks in order and *parks* when it is a
window ahead of its reader; the window starts small, so that the first bytes come early and a
look at the head of a file costs little, and doubles while the reading goes on. A parked stream, or
one that had its turn, gives its connection up when others need it, and is begun again when it is
missed. A reader far away from every stream is on an *errand*: it fetches what it wants itself, in
its own thread (others who want the same wait for it). A small read at an odd place fetches a
*piece* of a block; one that goes on where another ended, and the third in a block, all of it; one
that goes on from there begins a stream.

On a long link one TCP connection is bounded by its window. A stream that keeps its reader waiting
gets a *helper* far ahead: it fills as much of the cache as it may until the stream comes to where
it began; the stream ends there, the reader goes on with the helper. Helpers cost a few round trips
and a window of bytes sent in vain, so they are for long files; where two streams are not faster
than one (a full link) there are none for a while.

A server that cannot start in the middle of a file (no REST) is read from the start each time, and
what comes before is thrown away. To read a file on is fine so, and so is any access to one that
fits into half the cache; jumping about in a larger one is refused.

The cache is no way of handing blocks over: with many streams and little memory a block can be gone
before the reader that waits for it wakes up. Whoever waits is given the block itself, so every
fetched block that somebody waited for is progress.

Threading: any number of readers. `_lock` guards the streams and their positions (first in the
lock order). Streams and readers do their I/O outside of it. Each who waits is woken alone, when
there is something for him.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.blocks import BLOCK_SIZE, PIECE_SIZE, BlockCache, Version
from ftpfs.core.remote import Download

log = logging.getLogger(__name__)

Fetch = Callable[[int, Callable[[], None]], Download]

# The first window, in blocks. Two let the kernel's own read-ahead overlap with the next block.
FIRST_WINDOW = 2
# The kernel asks for up to 12 (with max_background=64: more) requests at once, in any order: a
# request so many blocks ahead of a stream still belongs to it.
NEAR = 64
# A block so close behind a stream is fetched alone where the cache has lost it already.
JUST_PASSED = 8
# A stream keeps its connection for so long (s) at least while others wait: reopening costs three
# round trips, so a turn should carry many times that.
TURN = 0.25
# A parked stream that nobody reads from is closed after so long (s); reopening is cheap, and the
# server's own timeout for a stalled RETR is a minute or more.
PARK_TIME = 8.0
# Broken streams in a row without a byte of progress before the reader is told.
ATTEMPTS = 3
# After a deadline has passed, reads of the same file fail at once for so long (s): the kernel asks
# for a block that it was refused once more, page by page, and each page would wait out a deadline.
STALLED = 1.0
# Blocks read lately that are remembered to tell who reads on: some for each of a few readers.
RECENT = 64
# A file is read from its start for its head as often as for all of it. So the first bytes of each
# transfer are handed out before their block is whole: the kernel asks for 16 KiB when a program
# wants the first byte, and a block takes three round trips more while TCP finds its pace.
HEAD = 16 << 10
# A read up to this size (bytes) at an odd place fetches no more than its pieces.
SMALL_READ = 32 << 10
# A small read that begins so close (bytes) behind the end of any read lately goes on with it. In
# the next two blocks was too far: of 100 random reads in 128 MiB a tenth began a stream, and took
# 95 ms instead of 22 on a link of 20 ms.
GOES_ON = 32 << 10
# So many small reads in one block, and the next fetches all of it.
PIECEMEAL = 2
# Streams at a time that were begun on the strength of one large read, and not read on yet.
GUESSES = 4
# A link with a longer round trip (s) can be too long for one TCP window.
LONG_LINK = 0.002
# Blocks after which a stream's pace is looked at, and how many of them somebody must have waited
# for: a program that thinks between its reads needs no more streams.
PACE, STARVED = 32, 24
# A pace that grew by no more than this is the connection's own.
STEADY = 1.25
# What a helper loses against a stream at full pace, in round trips: opening, and TCP's slow start.
RAMP = 10
# The least (blocks) that a helper has to bring before the stream arrives, to be worth its price.
LEAST_HELP = 96
# Two streams must bring so many times as much as one did, or helpers are given up for so long (s).
FASTER, NO_HELP = 1.15, 300.0


class StreamBudget:
    """How many streams there are, and how far they may run ahead, so that all of them together fit
    into the block cache.

    Threading: its own lock, never held while calling out.
    """

    def __init__(
        self,
        cache_capacity: int,
        read_ahead: int,
        *,
        helped: int = 0,
        round_trip: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Helpers are begun while fewer than `helped` streams run, on a link whose `round_trip` (s)
        makes them worth while."""
        self._lock = threading.Lock()
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
        """Blocks that one stream may be ahead now: half the cache, shared fairly."""
        with self._lock:
            share = self._capacity // (2 * max(1, self._streams))
        return max(FIRST_WINDOW, min(self._read_ahead, share) // BLOCK_SIZE)

    def whole(self, size: int) -> bool:
        """Whether a content of so many bytes may be kept as a whole."""
        return size <= self._capacity // 2

    def help(self) -> tuple[int, float]:
        """Blocks that one more stream may bring ahead of its reader (0: there shall be none), and
        the round trip (s).

        Half the cache: the stream that it helps keeps its reader waiting and holds next to nothing,
        but some of what that brings passes through the cache, too. With three quarters, blocks were
        gone before they were read.
        """
        round_trip = self._round_trip()
        with self._lock:
            if (
                not LONG_LINK < round_trip < float("inf")
                or self._streams >= self._helped
                or time.monotonic() < self._unhelped_until
            ):
                return 0, round_trip
            return self._capacity // 2 // max(1, self._streams) // BLOCK_SIZE, round_trip

    def no_help(self) -> None:
        """A helper was of no use: none for a while."""
        with self._lock:
            self._unhelped_until = time.monotonic() + NO_HELP


class Reader:
    """One content (version) of one file, for all handles that read it."""

    def __init__(
        self, version: Version, fetch: Fetch, cache: BlockCache, budget: StreamBudget
    ) -> None:
        self.version = version
        self._fetch = fetch
        self._cache = cache
        self._budget = budget
        self._blocks = -(-version.size // BLOCK_SIZE)
        self._overflows = version.size > cache.capacity
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._streams: list[Stream] = []
        self._errands: list[_Errand] = []
        # Blocks read lately, by any of the readers: what tells sequential from random.
        self._recent: deque[int] = deque(maxlen=RECENT)
        # Blocks of which a piece was fetched lately, and where reads have ended (bytes).
        self._pieced: deque[int] = deque(maxlen=RECENT)
        self._ends: deque[int] = deque(maxlen=RECENT)
        self._closed = False
        self._stalled: tuple[float, errors.FtpfsError] | None = None  # until when, and why
        # Set once, and read without the lock:
        self._rest = True  # False: the server cannot start in the middle of a file
        self._other: errors.Changed | None = None  # the server has another content by now

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Raises DataMismatch when the server's file is shorter than this content, Changed once the
        server has shown that it has another one, NotSupported for a jump that takes REST where
        there is none, BadHandle after `close`, and what the network raises. Ends within the
        deadlines of the network steps.
        """
        if self._other is not None:
            raise errors.again(self._other) from self._other
        end = min(offset + size, self.version.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
        if first == last:
            return self._within(first, offset, end)
        if end - offset <= SMALL_READ and not any(self._cache.holds(self.version, (first, last))):
            small = self._small(first, offset, end)
            if small is not None:
                return small
        joined = b"".join(self._block(index) for index in range(first, last + 1))
        start = offset - first * BLOCK_SIZE
        return joined[start : start + end - offset]

    def close(self) -> None:
        """No more reads: streams end at their next block. Does not wait for them."""
        with self._lock:
            self._closed = True
            for stream in self._streams:
                stream.stop_locked()

    @property
    def streams(self) -> int:
        """How many streams run now."""
        with self._lock:
            return len(self._streams)

    # Inside: what a read is made of.

    def _within(self, index: int, offset: int, end: int) -> bytes:
        """The bytes [offset, end) of one block."""
        start = index * BLOCK_SIZE
        block = self._cache.get(self.version, index)
        if block is None and end - offset <= SMALL_READ:
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
        """The bytes [offset, end) by way of pieces; None: they shall come with their block."""
        span = range(offset // PIECE_SIZE, (end - 1) // PIECE_SIZE + 1)
        found = self._cache.get_pieces(self.version, span)
        if found is None:
            errand, mine = self._plan_small(index, span, offset)
            if errand is None:
                return None
            if mine:
                self._run(errand)
            found = self._await_errand(errand)
            if found is None:
                return None
        self._note(index, end)
        start = offset - span.start * PIECE_SIZE
        return found[start : start + end - offset]

    def _plan_small(self, index: int, span: range, offset: int) -> tuple[_Errand | None, bool]:
        """The errand that brings these pieces, for a read at `offset`, and whether it is the
        caller's own; None: their block is on its way already, or worth to be fetched whole."""
        with self._lock:
            self._check_open_locked()
            for errand in self._errands:
                if errand.unit == PIECE_SIZE and errand.span == span:
                    return errand, False
            if (
                index == 0
                or not self._rest
                or self._blocks <= FIRST_WINDOW
                or self._pieced.count(index) >= PIECEMEAL
                or self._goes_on_locked(index, offset)
                or any(s.will_bring_locked(index) for s in self._streams)
                or any(s.just_passed_locked(index) for s in self._streams)
                or any(e.unit == BLOCK_SIZE and index in e.span for e in self._errands)
            ):
                return None, False
            self._pieced.append(index)
            errand = _Errand(PIECE_SIZE, span)
            self._errands.append(errand)
            return errand, True

    def _block(self, index: int) -> bytes:
        """All of block `index`."""
        block = self._cache.get(self.version, index)
        if block is None:
            block = self._fetched(index, BLOCK_SIZE, large=True)
        self._note(index, (index + 1) * BLOCK_SIZE)
        return block

    def _fetched(self, index: int, need: int, *, large: bool) -> bytes:
        """Block `index`, which is not in the cache, or its first `need` bytes at least. `large`: it
        is wanted as a whole."""
        missed = False
        while True:
            block: bytes | None = None
            wish = _Wish(index, need, large)
            source, mine = self._plan(wish, missed=missed)
            if source is not None and mine:
                self._set_off(source)
            if isinstance(source, _Errand):
                content = self._await_errand(source)
                if content is not None:
                    start = (index - source.span.start) * BLOCK_SIZE
                    block = content[start : start + BLOCK_SIZE]
            elif source is not None:
                block = wish.wait()
            if block is None:
                block = self._cache.get(self.version, index)
                missed = True
            if block is not None:
                return block

    def _note(self, index: int, end: int) -> None:
        """Tell the stream behind `index` that its reader moved on, up to `end` (bytes)."""
        if self._overflows and index - 1 in self._recent:
            self._cache.scanned(self.version, index)
        with self._lock:
            self._recent.append(index)
            self._ends.append(end)
            for stream in self._streams:
                stream.note_read_locked(index)

    # Inside: where a block comes from.

    def _plan(self, wish: _Wish, *, missed: bool) -> tuple[Stream | _Errand | None, bool]:
        """Decide how a block shall come; True when the caller has to set that off. A stream that
        brings it has the wish then.

        None: it should be in the cache by now, unless it was `missed` there again.
        """
        index = wish.index
        with self._lock:
            self._check_open_locked()
            for stream in self._streams:
                if stream.will_bring_locked(index):
                    stream.wish_locked(wish)
                    return stream, False
            for errand in self._errands:
                if errand.unit == BLOCK_SIZE and index in errand.span:
                    return errand, False
            passed = any(stream.just_passed_locked(index) for stream in self._streams)
            if passed and not missed:
                return None, False
            if not self._rest:
                stream = self._stream_without_rest_locked(index)
                stream.wish_locked(wish)
                self._streams.append(stream)
                return stream, True
            if self._deserves_stream_locked(index, large=wish.large):
                stream = Stream(self, index, self._blocks)
                stream.wish_locked(wish)
                self._streams.append(stream)
                return stream, True
            small = self._blocks <= FIRST_WINDOW
            errand = _Errand(BLOCK_SIZE, range(self._blocks) if small else range(index, index + 1))
            self._errands.append(errand)
            return errand, True

    def _deserves_stream_locked(self, index: int, *, large: bool) -> bool:
        """A big file read from its start, or on from where somebody just was, or much at once."""
        if self._blocks <= FIRST_WINDOW:
            return False  # one fetch brings all of it, without a thread
        if any(stream.just_passed_locked(index) for stream in self._streams):
            return False  # it fell out of the cache too early; the stream goes on being useful
        if index == 0 or self._reads_on_locked(index):
            return True
        return large and sum(stream.is_guess_locked() for stream in self._streams) < GUESSES

    def _goes_on_locked(self, index: int, offset: int) -> bool:
        """Whether a small read goes on: with any of the readers, or not far from the last read. A
        program that skips through a file is better served by a stream, too."""
        if any(0 <= offset - end <= GOES_ON for end in self._ends):
            return True
        return bool(self._recent) and 0 < index - self._recent[-1] <= FIRST_WINDOW

    def _reads_on_locked(self, index: int) -> bool:
        return any(0 < index - read <= FIRST_WINDOW for read in self._recent)

    def _check_open_locked(self) -> None:
        if self._closed:
            raise errors.BadHandle("read from a closed file")
        if self._stalled is not None and time.monotonic() < self._stalled[0]:
            raise errors.again(self._stalled[1]) from self._stalled[1]

    def _note_error_locked(self, error: errors.FtpfsError | None) -> None:
        if isinstance(error, errors.DeadlineExceeded):
            self._stalled = time.monotonic() + STALLED, error

    def _stream_without_rest_locked(self, index: int) -> Stream:
        """A stream that begins at the start, or throws away what comes before.

        Raises NotSupported for a jump in a file that is too big to be kept.
        """
        if self._budget.whole(self.version.size):
            return Stream(self, 0, self._blocks, window=self._blocks)
        if index == 0 or self._reads_on_locked(index):
            return Stream(self, index, self._blocks)
        raise errors.NotSupported(
            f"{self.version.path}: the server cannot start in the middle of a file (no REST), and "
            f"this one, of {self.version.size} bytes, is too big to be fetched as a whole: it can "
            "only be read from its start on"
        )

    def _set_off(self, source: Stream | _Errand) -> None:
        if isinstance(source, _Errand):
            self._run(source)
            return
        self._budget.enter()
        try:
            threading.Thread(target=source.run, name="ftpfs-stream", daemon=True).start()
        except RuntimeError as error:
            self._end(source, errors.FtpfsError(f"no thread to read with: {error}"))

    def _end(self, stream: Stream, error: errors.FtpfsError | None) -> None:
        """Strike a stream off; whoever waits for it is told."""
        self._budget.leave()
        with self._lock:
            stream.ended = True
            self._streams.remove(stream)
            for other in self._streams:
                other.ended_locked(stream)
            wishes, stream.wishes = stream.wishes, []
            self._note_error_locked(error)
        for wish in wishes:
            wish.end(error)

    # Inside: fetching.

    def open_at(self, offset: int, give_way: Callable[[], None]) -> Download:
        """A download that stands at `offset`. Raises _NoRest when it first turns out that there
        is none such."""
        if offset and not self._rest:
            return self._open_by_reading(offset, give_way)
        try:
            return self._fetch(offset, give_way)
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
        download = self._fetch(0, give_way)
        try:
            for start in range(0, offset, BLOCK_SIZE):
                self.fill(download, start, min(BLOCK_SIZE, offset - start))
        except BaseException:
            download.close()
            raise
        return download

    def fill(self, download: Download, offset: int, size: int) -> bytes:
        """The `size` bytes (less at the end of the file) of a download that stands at `offset`."""
        wanted = min(size, self.version.size - offset)
        data = download.read(wanted)
        if len(data) < wanted:
            raise errors.DataMismatch(
                f"{self.version.path}: ended at {offset + len(data)} of {self.version.size} bytes: "
                "cut short, or changed on the server"
            )
        return data

    def _run(self, errand: _Errand) -> None:
        """Fetch a little in this thread, for all that wait for it."""
        error: errors.FtpfsError | None = errors.FtpfsError("reading was interrupted")
        try:
            self._fetch_errand(errand)
            error = None
        except _NoRest:
            error = None
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("reading %s failed unexpectedly", self.version.path)
            error = errors.FtpfsError("internal error while reading; see the log")
        finally:
            with self._lock:
                self._errands.remove(errand)
                self._note_error_locked(error)
            errand.error = error
            errand.ended.set()

    def _await_errand(self, errand: _Errand) -> bytes | None:
        """What it brought; None: that takes another way, look again."""
        errand.ended.wait()
        if errand.error is not None:
            raise errors.again(errand.error) from errand.error
        return errand.content

    def _fetch_errand(self, errand: _Errand) -> None:
        failures = 0
        while True:
            try:
                download = self.open_at(errand.span.start * errand.unit, _never)
                try:
                    parts = [self._bring(download, errand.unit, n) for n in errand.span]
                    if errand.span.stop * errand.unit >= self.version.size:
                        _expect_end(download)
                finally:
                    download.close()
            except (errors.ConnectionLost, errors.DataConnectionFailed) as failure:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.info("reading %s broke off, trying again: %s", self.version.path, failure)
            else:
                errand.content = parts[0] if len(parts) == 1 else b"".join(parts)
                return

    def _bring(self, download: Download, unit: int, number: int) -> bytes:
        part = self.fill(download, number * unit, unit)
        if unit == BLOCK_SIZE:
            self._cache.put(self.version, number, part)
        else:
            self._cache.put_piece(self.version, number, part)
        return part

    # Inside: helpers.

    def help_locked(self, stream: Stream, pace: float) -> Stream | None:
        """A helper for a stream that brings `pace` blocks a second, if one is worth it; the caller
        sets it off."""
        share, round_trip = self._budget.help()
        ahead = any(other.position > stream.position for other in self._streams)
        awaited = any(other.helper is stream for other in self._streams)
        if not share or not self._rest or ahead or awaited:
            return None
        ramp = int(pace * round_trip * RAMP)
        left = self._blocks - stream.position
        # Not so far that it would park before the stream arrives: TCP then begins slowly again.
        reach = min(share * 7 // 8 + ramp, (left + ramp) // 2)
        if reach - ramp < LEAST_HELP:
            return None
        helper = Stream(self, stream.position + reach, self._blocks, window=share)
        helper.proof = _Proof(stream, round_trip)
        stream.helper = helper
        self._streams.append(helper)
        return helper


class _NoRest(errors.FtpfsError):
    """The server cannot start in the middle of a file: plan anew."""


class _Errand:
    """A fetch of a few blocks or pieces (`unit` bytes each) by the thread that wants them."""

    __slots__ = ("content", "ended", "error", "span", "unit")

    def __init__(self, unit: int, span: range) -> None:
        self.unit = unit
        self.span = span
        self.content: bytes | None = None
        self.error: errors.FtpfsError | None = None
        self.ended = threading.Event()


class _Wish:
    """Somebody waits for a block of a stream. Fulfilled or ended once, by whoever takes it off the
    stream's list."""

    __slots__ = ("_block", "_error", "_gate", "index", "large", "need")

    def __init__(self, index: int, need: int, large: bool) -> None:
        self.index = index
        self.need = need  # bytes of the block
        self.large = large  # all of it is wanted at once
        self._block: bytes | None = None
        self._error: errors.FtpfsError | None = None
        # A bare lock: a Condition or an Event makes one for each waiting, and more.
        self._gate = threading.Lock()
        self._gate.acquire()

    def fulfil(self, block: bytes) -> None:
        self._block = block
        self._gate.release()

    def end(self, error: errors.FtpfsError | None) -> None:
        self._error = error
        self._gate.release()

    def wait(self) -> bytes | None:
        """The block, or as much of its beginning as is needed; None: look again for it."""
        self._gate.acquire()
        if self._error is not None:
            raise errors.again(self._error) from self._error
        return self._block


class _Proof:
    """Whether a helper makes reading faster than the stream alone was."""

    def __init__(self, stream: Stream, round_trip: float) -> None:
        self._stream = stream
        self._round_trip = round_trip
        self._since = float("inf")  # when the helper is at full pace, too
        self._alone = 0.0  # the stream's pace before
        self._began: tuple[float, int] | None = None

    def failed_locked(self, helper: Stream) -> bool | None:
        """The verdict, asked for with each block of the helper; None: not yet."""
        now, brought = time.monotonic(), self._stream.position + helper.position
        if not self._alone:
            self._alone = self._stream.pace
            self._since = now + RAMP * self._round_trip
        elif self._began is None:
            if now >= self._since:
                self._began = now, brought
        elif now >= self._began[0] + RAMP * self._round_trip and brought >= self._began[1] + PACE:
            return (brought - self._began[1]) / (now - self._began[0]) < FASTER * self._alone
        return None


class Stream:
    """One RETR that runs ahead of its reader. All state is guarded by the reader's `_lock`."""

    def __init__(
        self, reader: Reader, first: int, blocks: int, *, window: int = FIRST_WINDOW
    ) -> None:
        self.position = first  # the block that comes next
        self.ended = False
        self.wishes: list[_Wish] = []
        self.helper: Stream | None = None  # where it begins, this one ends
        self.proof: _Proof | None = None
        self._reader = reader
        self._first = first
        self._blocks = blocks
        self._window = window
        self._limit = min(first + window, blocks)  # blocks before this one may be fetched
        self._read = first - 1  # the furthest block that was read
        self._stop = False
        self._room = threading.Condition(reader._lock)
        self._parked = False
        self._turn_began: float | None = None  # None: no block has come on this connection yet
        # The pace of the last blocks, and how many of them somebody waited for.
        self._paced_at = (0.0, first)
        self.pace = 0.0  # blocks a second
        self._awaited = 0

    # Called by readers, with the lock held.

    def will_bring_locked(self, index: int) -> bool:
        if self.ended or self._stop or not self.position <= index < self._end_locked():
            return False
        if not self._reader._rest and self._reader._budget.whole(self._reader.version.size):
            return True  # it comes by there
        return index < max(self._limit, self.position) + NEAR

    def just_passed_locked(self, index: int) -> bool:
        """Whether it brought that block so lately that it should be in the cache still.

        What was lost further behind is a stream's work again: one block at a time would take some
        round trips each.
        """
        return not self._stop and 0 < self.position - index <= min(self._window, JUST_PASSED)

    def is_guess_locked(self) -> bool:
        """Whether nobody has read on from where it began."""
        return self._read <= self._first

    def wish_locked(self, wish: _Wish) -> None:
        """Somebody waits for a block: it is inside the window, whatever the window."""
        self.wishes.append(wish)
        self._limit = max(self._limit, min(wish.index + 1, self._blocks))
        self._wake_locked()

    def note_read_locked(self, index: int) -> None:
        """A block was read: move the window on, and double it while the reading goes on."""
        if not self._read < index <= self.position + NEAR:
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
        """Another stream has ended: if it was the helper, go on alone."""
        if other is self.helper:
            self.helper = None

    def _end_locked(self) -> int:
        return self._blocks if self.helper is None else self.helper._first

    def _wake_locked(self) -> None:
        if self._parked:
            self._room.notify()

    # Called by the pool, from the thread of somebody who needs a connection.

    def give_way(self) -> None:
        """End soon: at once when parked, else when the turn is over.

        A stream that has brought nothing yet goes on, whoever asks: ended now it would have to
        queue again, and with many readers on few connections no one would ever get a block. The
        pool asks again. Nor does a stream make way for its own helper.
        """
        with self._reader._lock:
            if self._turn_began is None:
                return
            if self.helper is not None and self.helper._turn_began is None:
                return
            if self._parked or time.monotonic() - self._turn_began > TURN:
                self.stop_locked()

    # The thread.

    def run(self) -> None:
        error: errors.FtpfsError | None = None
        try:
            self._run_with_retries()
        except _NoRest:
            pass  # who waits looks again
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("a stream of %s failed unexpectedly", self._reader.version.path)
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
                    return  # it would have ended anyway; who waits looks again
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
            self._turn_began = None
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
        """The first block of a transfer; its head is handed out as soon as it is there.

        None when somebody wanted the head, and nobody more: a program that looks at the first bytes
        of many files keeps no connection busy with the rest.
        """
        reader, offset = self._reader, self.position * BLOCK_SIZE
        head = reader.fill(download, offset, HEAD)
        with reader._lock:
            served = self._take_locked(HEAD)
        if offset + len(head) == reader.version.size:
            for wish in served:
                wish.fulfil(head)
            return head
        if served:
            for start in range(0, HEAD, PIECE_SIZE):
                piece = head[start : start + PIECE_SIZE]
                reader._cache.put_piece(reader.version, (offset + start) // PIECE_SIZE, piece)
            for wish in served:
                wish.fulfil(head)
            with reader._lock:
                self._turn_began = time.monotonic()
                if not self._wanted_locked():
                    return None
                self._turn_began = None
        return head + reader.fill(download, offset + HEAD, BLOCK_SIZE - HEAD)

    def _wanted_locked(self) -> bool:
        """Park until somebody waits for more; False when nobody does."""
        while not self.wishes and not self._stop:
            if not self._park_locked():
                break
        return bool(self.wishes) and not self._stop

    def _park_locked(self) -> bool:
        """False: nothing has happened for so long that the connection is better given back."""
        self._parked = True
        try:
            return self._room.wait(PARK_TIME)
        finally:
            self._parked = False

    def _take_locked(self, most: int) -> list[_Wish]:
        """Take the wishes off the list that the first `most` bytes of this block fulfil."""
        served = [w for w in self.wishes if w.index == self.position and w.need <= most]
        for wish in served:
            self.wishes.remove(wish)
        return served

    def _publish(self, block: bytes) -> None:
        reader, helper = self._reader, None
        reader._cache.put(reader.version, self.position, block)
        with reader._lock:
            served = self._take_locked(BLOCK_SIZE) if self.wishes else ()
            self.position += 1
            if self._turn_began is None:
                self._turn_began = time.monotonic()
                self._paced_at = self._turn_began, self.position
            if served:
                self._awaited += 1
            if self.proof is not None:
                self._prove_locked(self.proof)
            if self.position - self._paced_at[1] >= PACE:
                helper = self._look_at_pace_locked()
        for wish in served:
            wish.fulfil(block)
        if helper is not None:
            self._reader._set_off(helper)

    def _prove_locked(self, proof: _Proof) -> None:
        """End this helper if it is of no use; what it brought is in the cache."""
        failed = proof.failed_locked(self)
        if failed is not None:
            self.proof = None
        if failed:
            log.debug("%s: a second stream is no faster", self._reader.version.path)
            self._reader._budget.no_help()
            self.stop_locked()

    def _look_at_pace_locked(self) -> Stream | None:
        """A helper, when the reader waits for nearly every block, and it would pay."""
        now = time.monotonic()
        (then, position), awaited = self._paced_at, self._awaited
        self._paced_at, self._awaited = (now, self.position), 0
        before, self.pace = self.pace, (self.position - position) / max(now - then, 1e-6)
        if self.helper is not None or self._stop or awaited < STARVED:
            return None
        growing = self.pace > before * STEADY  # TCP has not found its pace yet
        return self._reader.help_locked(self, self.pace * 2 if growing else self.pace)

    def _may_go_on(self) -> bool:
        """Park while the window is full; False when there is nothing more to do."""
        with self._reader._lock:
            while True:
                if self._stop or self.position >= self._end_locked():
                    return False
                if self.position < self._limit:
                    return True
                if not self._park_locked() and self.position >= self._limit:
                    return False


def _expect_end(download: Download) -> None:
    """The last byte of a file was read: hear the server's word that it was all, where that is near.

    More than the end means that the file grew: what was read is still its old content. A complaint
    of the server comes too late to matter: every byte that was promised is here.
    """
    try:
        download.finish()
    except errors.FtpfsError as error:
        log.debug("after the last byte of a file: %s", error)


def _never() -> None:
    """Give way: a single block is over before that would help."""
