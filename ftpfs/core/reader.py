"""Reading one content of one file: streams, read-ahead, access patterns.

Owns: which RETRs run for a file, how far they run ahead, and the blocks' way into the cache. The
bytes come from an injected `fetch(offset, give_way) -> Download`; nothing here knows of FTP.

A *stream* is one RETR in a thread of its own. It fills blocks in order and *parks* when it is a
window ahead of its reader; the window starts small, so that the first bytes come early and a
look at the head of a file costs little, and doubles while the reading goes on. A parked stream, or
one that had its turn, gives its connection up when others need it, and is begun again when it is
missed. A reader far away from every stream fetches single blocks itself, in its own thread.

Threading: any number of readers. `_changed` guards the streams and their positions (first in the
lock order). Streams and readers do their I/O outside of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Version
from ftpfs.core.remote import Download

log = logging.getLogger(__name__)

Fetch = Callable[[int, Callable[[], None]], Download]

# The first window, in blocks. Two let the kernel's own read-ahead overlap with the next block.
FIRST_WINDOW = 2
# The kernel asks for up to 12 (with max_background=64: more) requests at once, in any order: a
# request so many blocks ahead of a stream still belongs to it.
NEAR = 64
# A stream keeps its connection for so long (s) at least while others wait: reopening costs three
# round trips, so a turn should carry many times that.
TURN = 0.25
# A parked stream that nobody reads from is closed after so long (s); reopening is cheap, and the
# server's own timeout for a stalled RETR is a minute or more.
PARK_TIME = 8.0
# Broken streams in a row without a byte of progress before the reader is told.
ATTEMPTS = 3


class StreamBudget:
    """How far streams may run ahead, so that all of them together fit into the block cache.

    Threading: its own lock, never held while calling out.
    """

    def __init__(self, cache_capacity: int, read_ahead: int) -> None:
        self._lock = threading.Lock()
        self._streams = 0
        self._capacity = cache_capacity
        self._read_ahead = read_ahead

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
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._streams: list[Stream] = []
        self._fetching: set[int] = set()  # single blocks on their way
        self._last = -1  # the block read last, to tell sequential from random
        self._closed = False

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Raises DataMismatch when the server's file is shorter than this content, and what the
        network raises. Ends within the deadlines of the network steps.
        """
        end = min(offset + size, self.version.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
        if first == last:
            block = self._block(first)
            start = offset - first * BLOCK_SIZE
            if start == 0 and end - offset == len(block):
                return block
            return block[start : start + end - offset]
        joined = b"".join(self._block(index) for index in range(first, last + 1))
        start = offset - first * BLOCK_SIZE
        return joined[start : start + end - offset]

    def close(self) -> None:
        """No more reads: streams end at their next block. Does not wait for them."""
        with self._changed:
            self._closed = True
            for stream in self._streams:
                stream.stop_locked()

    @property
    def streams(self) -> int:
        """How many streams run now."""
        with self._changed:
            return len(self._streams)

    # Inside.

    def _block(self, index: int) -> bytes:
        while True:
            block = self._cache.get(self.version, index)
            if block is not None:
                self._note(index)
                return block
            stream, mine = self._plan(index)
            if stream is not None:
                block = self._await(stream, index)
            elif mine:
                block = self._fetch_blocks(index)
            if block is not None:
                self._note(index)
                return block

    def _note(self, index: int) -> None:
        """Tell the stream behind `index` that its reader moved on."""
        with self._changed:
            self._last = index
            for stream in self._streams:
                stream.note_read_locked(index)

    def _plan(self, index: int) -> tuple[Stream | None, bool]:
        """Decide how block `index` shall come: a stream to wait for, or by ourselves.

        (None, False): another thread is fetching it; some time has been waited.
        """
        with self._changed:
            if self._closed:
                raise errors.BadHandle("read from a closed file")
            for stream in self._streams:
                if stream.will_bring_locked(index):
                    return stream, False
            if index in self._fetching:
                self._changed.wait(0.1)
                return None, False
            if self._is_sequential_locked(index):
                stream = Stream(self, index, self._blocks)
                self._streams.append(stream)
                start = stream
            else:
                self._fetching.add(index)
                return None, True
        self._budget.enter()
        threading.Thread(target=start.run, name="ftpfs-stream", daemon=True).start()
        return start, False

    def _is_sequential_locked(self, index: int) -> bool:
        """A big file read from its start, or on from where somebody just was."""
        if self._blocks <= FIRST_WINDOW:
            return False  # one fetch brings all of it, without a thread
        return index == 0 or 0 <= index - self._last <= FIRST_WINDOW

    def _await(self, stream: Stream, index: int) -> bytes | None:
        """Wait until `stream` has brought the block; None: it ended otherwise, look again."""
        with self._changed:
            stream.want_locked(index)
            while True:
                block = self._cache.get(self.version, index)
                if block is not None:
                    return block
                if stream.error is not None:
                    raise _again(stream.error)
                if stream.ended or stream.position > index:
                    return None
                self._changed.wait()

    def _fetch_blocks(self, index: int) -> bytes:
        """Fetch one block (all of a small file) in this thread."""
        count = self._blocks if self._blocks <= FIRST_WINDOW else 1
        first = 0 if self._blocks <= FIRST_WINDOW else index
        try:
            download = self._fetch(first * BLOCK_SIZE, _never)
            try:
                blocks = [self._fill(download, first + n) for n in range(count)]
                if first + count == self._blocks:
                    _expect_end(download)
            finally:
                download.close()
            for number, block in enumerate(blocks, first):
                self._cache.put(self.version, number, block)
            return blocks[index - first]
        finally:
            with self._changed:
                self._fetching.discard(index)
                self._changed.notify_all()

    def _fill(self, download: Download, index: int) -> bytes:
        """The whole of block `index` from a download that stands at its start."""
        wanted = min(BLOCK_SIZE, self.version.size - index * BLOCK_SIZE)
        buffer = bytearray(wanted)
        view = memoryview(buffer)
        filled = 0
        while filled < wanted:
            count = download.readinto(view[filled:])
            if not count:
                raise errors.DataMismatch(
                    f"{self.version.path}: ended at {index * BLOCK_SIZE + filled} of "
                    f"{self.version.size} bytes: cut short, or changed on the server"
                )
            filled += count
        return bytes(buffer)


class Stream:
    """One RETR that runs ahead of its reader. All state is guarded by the reader's `_changed`."""

    def __init__(self, reader: Reader, first: int, blocks: int) -> None:
        self.position = first  # the block that comes next
        self.ended = False
        self.error: errors.FtpfsError | None = None
        self._reader = reader
        self._blocks = blocks
        self._window = FIRST_WINDOW
        self._limit = first + FIRST_WINDOW  # blocks before this one may be fetched
        self._read = first - 1  # the furthest block that was read
        self._stop = False
        self._turn_ends: float | None = None  # None: has no connection yet to give up

    # Called by readers, with the lock held.

    def will_bring_locked(self, index: int) -> bool:
        if self.ended or self._stop:
            return False
        return self.position <= index < max(self._limit, self.position) + NEAR

    def want_locked(self, index: int) -> None:
        """Somebody waits for `index`: it is inside the window, whatever the window."""
        if index >= self._limit:
            self._limit = min(index + 1, self._blocks)
            self._reader._changed.notify_all()

    def note_read_locked(self, index: int) -> None:
        """A block was read: move the window on, and double it while the reading goes on."""
        if not self._read < index <= self.position + NEAR:
            return
        self._read = index
        if self._limit - index <= self._window // 2 + 1 and self._limit < self._blocks:
            self._window = min(self._window * 2, self._reader._budget.window())
            self._limit = min(max(self._limit, index + 1 + self._window), self._blocks)
            self._reader._changed.notify_all()

    def stop_locked(self) -> None:
        self._stop = True
        self._reader._changed.notify_all()

    # Called by the pool, from the thread of somebody who needs a connection.

    def give_way(self) -> None:
        """End soon: at once when parked, else when the turn is over."""
        with self._reader._changed:
            if self._turn_ends is None:
                return
            parked = self.position >= self._limit
            if parked or time.monotonic() > self._turn_ends:
                self.stop_locked()

    # The thread.

    def run(self) -> None:
        error: errors.FtpfsError | None = None
        try:
            self._run_with_retries()
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("a stream of %s failed unexpectedly", self._reader.version.path)
            error = errors.FtpfsError("internal error while reading; see the log")
        finally:
            self._reader._budget.leave()
            with self._reader._changed:
                self.error, self.ended = error, True
                self._reader._streams.remove(self)
                self._reader._changed.notify_all()

    def _run_with_retries(self) -> None:
        failures = 0
        while True:
            begun_at = self.position
            try:
                self._transfer()
            except (errors.ConnectionLost, errors.DataConnectionFailed) as failure:
                failures = 1 if self.position > begun_at else failures + 1
                if failures >= ATTEMPTS or self._stop:
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
        self._turn_ends = None
        download = self._reader._fetch(self.position * BLOCK_SIZE, self.give_way)
        try:
            while self._may_go_on():
                block = self._reader._fill(download, self.position)
                self._reader._cache.put(self._reader.version, self.position, block)
                with self._reader._changed:
                    self.position += 1
                    if self._turn_ends is None:
                        # Only now: a turn without a block would let two streams take the
                        # connection from each other for ever.
                        self._turn_ends = time.monotonic() + TURN
                    self._reader._changed.notify_all()
            if self.position == self._blocks:
                _expect_end(download)
        finally:
            download.close()

    def _may_go_on(self) -> bool:
        """Park while the window is full; False when there is nothing more to do."""
        with self._reader._changed:
            while True:
                if self._stop or self.position >= self._blocks:
                    return False
                if self.position < self._limit:
                    return True
                if not self._reader._changed.wait(PARK_TIME):
                    return False


def _expect_end(download: Download) -> None:
    """Read the end of a file, and with it the server's word that it was all.

    More than the end means that the file grew: what was read is still its old content.
    """
    download.readinto(memoryview(bytearray(1)))


def _again(error: errors.FtpfsError) -> errors.FtpfsError:
    """The same error for another thread: one exception object must not be raised in two."""
    return type(error)(str(error)) if not isinstance(error, errors.Refused) else error


def _never() -> None:
    """Give way: a single block is over before that would help."""
