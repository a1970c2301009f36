"""Reading one content of one file: streams, read-ahead, access patterns.

Owns: which RETRs run for a file, how far they run ahead, and the blocks' way into the cache. The
bytes come from an injected `fetch(offset, give_way) -> Download`; nothing here knows of FTP.

A *stream* is one RETR in a thread of its own. It fills blocks in order and *parks* when it is a
window ahead of its reader; the window starts small, so that the first bytes come early and a
look at the head of a file costs little, and doubles while the reading goes on. A parked stream, or
one that had its turn, gives its connection up when others need it, and is begun again when it is
missed. A reader far away from every stream fetches single blocks itself, in its own thread (an
*errand*; others who want the same block wait for it).

The cache is no way of handing blocks over: with many streams and little memory a block can be gone
before the reader that waits for it wakes up. Whoever waits is given the block itself, so every
fetched block that somebody waited for is progress.

Threading: any number of readers. `_changed` guards the streams and their positions (first in the
lock order). Streams and readers do their I/O outside of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
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
# Blocks read lately that are remembered to tell who reads on: some for each of a few readers.
RECENT = 64


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
        self._errands: list[_Errand] = []
        # Blocks read lately, by any of the readers: what tells sequential from random.
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._closed = False

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Raises DataMismatch when the server's file is shorter than this content, BadHandle after
        `close`, and what the network raises. Ends within the deadlines of the network steps.
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
            if block is None:
                source, mine = self._plan(index)
                if mine:
                    self._set_off(source)
                block = self._await(source, index)
            if block is not None:
                self._note(index)
                return block

    def _note(self, index: int) -> None:
        """Tell the stream behind `index` that its reader moved on."""
        with self._changed:
            self._recent.append(index)
            for stream in self._streams:
                stream.note_read_locked(index)

    def _plan(self, index: int) -> tuple[Stream | _Errand, bool]:
        """Decide how block `index` shall come; True when the caller has to set that off."""
        with self._changed:
            if self._closed:
                raise errors.BadHandle("read from a closed file")
            for stream in self._streams:
                if stream.will_bring_locked(index):
                    return stream, False
            for errand in self._errands:
                if index in errand.span:
                    return errand, False
            if self._deserves_stream_locked(index):
                stream = Stream(self, index, self._blocks)
                self._streams.append(stream)
                return stream, True
            small = self._blocks <= FIRST_WINDOW
            errand = _Errand(range(self._blocks) if small else range(index, index + 1))
            self._errands.append(errand)
            return errand, True

    def _deserves_stream_locked(self, index: int) -> bool:
        """A big file read from its start, or on from where somebody just was."""
        if self._blocks <= FIRST_WINDOW:
            return False  # one fetch brings all of it, without a thread
        if any(stream.just_passed_locked(index) for stream in self._streams):
            return False  # it fell out of the cache too early; the stream goes on being useful
        return index == 0 or any(0 < index - read <= FIRST_WINDOW for read in self._recent)

    def _set_off(self, source: Stream | _Errand) -> None:
        if isinstance(source, _Errand):
            self._run(source)
            return
        self._budget.enter()
        try:
            threading.Thread(target=source.run, name="ftpfs-stream", daemon=True).start()
        except RuntimeError as error:
            self._end(source, errors.FtpfsError(f"no thread to read with: {error}"))

    def _await(self, source: Stream | _Errand, index: int) -> bytes | None:
        """Wait until `source` has brought the block; None: it ended otherwise, look again."""
        if isinstance(source, _Errand):
            return self._await_errand(source, index)
        wish = _Wish(index)
        with self._changed:
            source.wishes.append(wish)
            source.want_locked(index)
            try:
                while wish.block is None:
                    if source.error is not None:
                        raise errors.again(source.error) from source.error
                    if source.ended or source.position > index:
                        return None
                    self._changed.wait()
            finally:
                source.wishes.remove(wish)
            return wish.block

    def _await_errand(self, errand: _Errand, index: int) -> bytes:
        with self._changed:
            while not errand.ended:
                self._changed.wait()
            if errand.error is not None:
                raise errors.again(errand.error) from errand.error
            return errand.blocks[index - errand.span.start]

    def _run(self, errand: _Errand) -> None:
        """Fetch a block or two in this thread, for all that wait for them."""
        error: errors.FtpfsError | None = errors.FtpfsError("reading was interrupted")
        try:
            errand.blocks = self._fetch_blocks(errand.span)
            error = None
        except errors.FtpfsError as failure:
            error = failure
        except Exception:
            log.exception("reading %s failed unexpectedly", self.version.path)
            error = errors.FtpfsError("internal error while reading; see the log")
        finally:
            with self._changed:
                errand.error, errand.ended = error, True
                self._errands.remove(errand)
                self._changed.notify_all()

    def _fetch_blocks(self, span: range) -> list[bytes]:
        blocks: list[bytes] = []
        failures = 0
        while len(blocks) < len(span):
            try:
                download = self._fetch((span.start + len(blocks)) * BLOCK_SIZE, _never)
                try:
                    for index in span[len(blocks) :]:
                        block = self._fill(download, index)
                        self._cache.put(self.version, index, block)
                        blocks.append(block)
                    if span.stop == self._blocks:
                        _expect_end(download)
                finally:
                    download.close()
            except (errors.ConnectionLost, errors.DataConnectionFailed) as failure:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.info("reading %s broke off, trying again: %s", self.version.path, failure)
        return blocks

    def _fill(self, download: Download, index: int) -> bytes:
        """The whole of block `index` from a download that stands at its start."""
        wanted = min(BLOCK_SIZE, self.version.size - index * BLOCK_SIZE)
        block = download.read(wanted)
        if len(block) < wanted:
            raise errors.DataMismatch(
                f"{self.version.path}: ended at {index * BLOCK_SIZE + len(block)} of "
                f"{self.version.size} bytes: cut short, or changed on the server"
            )
        return block

    def _end(self, stream: Stream, error: errors.FtpfsError | None) -> None:
        """Strike a stream off; whoever waits for it is told."""
        self._budget.leave()
        with self._changed:
            stream.error, stream.ended = error, True
            self._streams.remove(stream)
            self._changed.notify_all()


class _Errand:
    """A fetch of a block or two by the thread that wants them. Guarded by the reader's lock."""

    __slots__ = ("blocks", "ended", "error", "span")

    def __init__(self, span: range) -> None:
        self.span = span
        self.blocks: list[bytes] = []
        self.ended = False
        self.error: errors.FtpfsError | None = None


class _Wish:
    """Somebody waits for a block of a stream: it is put in here."""

    __slots__ = ("block", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.block: bytes | None = None


class Stream:
    """One RETR that runs ahead of its reader. All state is guarded by the reader's `_changed`."""

    def __init__(self, reader: Reader, first: int, blocks: int) -> None:
        self.position = first  # the block that comes next
        self.ended = False
        self.error: errors.FtpfsError | None = None
        self.wishes: list[_Wish] = []
        self._reader = reader
        self._blocks = blocks
        self._window = FIRST_WINDOW
        self._limit = first + FIRST_WINDOW  # blocks before this one may be fetched
        self._read = first - 1  # the furthest block that was read
        self._stop = False
        self._turn_began: float | None = None  # None: no block has come on this connection yet

    # Called by readers, with the lock held.

    def will_bring_locked(self, index: int) -> bool:
        if self.ended or self._stop:
            return False
        return self.position <= index < max(self._limit, self.position) + NEAR

    def just_passed_locked(self, index: int) -> bool:
        """Whether it brought that block so lately that it should be in the cache still."""
        return not self._stop and self.position - self._window <= index < self.position

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
        """End soon: at once when parked, else when the turn is over.

        A stream that has brought nothing yet goes on, whoever asks: ended now it would have to
        queue again, and with many readers on few connections no one would ever get a block. The
        pool asks again.
        """
        with self._reader._changed:
            if self._turn_began is None:
                return
            parked = self.position >= self._limit
            if parked or time.monotonic() - self._turn_began > TURN:
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
        with reader._changed:
            self._turn_began = None
        download = reader._fetch(self.position * BLOCK_SIZE, self.give_way)
        try:
            while self._may_go_on():
                block = reader._fill(download, self.position)
                reader._cache.put(reader.version, self.position, block)
                self._publish(block)
            if self.position == self._blocks:
                _expect_end(download)
        finally:
            download.close()

    def _publish(self, block: bytes) -> None:
        with self._reader._changed:
            for wish in self.wishes:
                if wish.index == self.position:
                    wish.block = block
            self.position += 1
            if self._turn_began is None:
                self._turn_began = time.monotonic()
            self._reader._changed.notify_all()

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

    More than the end means that the file grew: what was read is still its old content. A complaint
    of the server comes too late to matter: every byte that was promised is here.
    """
    try:
        download.read(1)
    except errors.FtpfsError as error:
        log.debug("after the last byte of a file: %s", error)


def _never() -> None:
    """Give way: a single block is over before that would help."""
