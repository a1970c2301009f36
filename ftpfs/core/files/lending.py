"""A spool file that is lent to the kernel, which writes and reads it without asking us.

The problem: each write of a program wakes the daemon, crosses the interpreter and is copied once
more. With FUSE passthrough the kernel writes into the spool file itself, several times as fast. But
the rest of this package learns from each write what changed, where, and when.

The obvious solution is to compare contents when the file is closed. That reads everything twice.

What we do: a lent spool file is *whole*: all of the content lies in it, and what was never written
is zeros. So nobody has to know which parts are there, but only whether something changed and how
long the file is, and its size and time tell that. Whoever asks for the file's size, closes it, or
sends it, *absorbs* before: look at the spool file, and if it changed, count one write of all of it.
What follows from that is what follows from any write. Three things are different:

- What was written where is not known, so an upload sends the whole file. An upload of a file that a
  program has open all the same (`fsync`) looks after each MiB and before its end whether something
  was written, and is superseded then.
- A long file is sent while it is written (`Watch`), as far as it has grown. Whether a program goes
  back and writes over what was sent does not show. So the upload computes a checksum of each part
  before it sends that, and once more of all of them at its end (`writing.sums`).
- A time has the precision of the kernel's clock tick (until Linux 6.13). Two changes within one
  tick may look like one. So a look is *certain* only if the file's time was older than a tick.
  After any other, the file counts as changed at its next close.
- A memory map outlives its descriptor, and with passthrough it does not hold the handle open. A map
  can be written through only if the file was opened for reading and writing. Such an open is never
  the first to be lent to. If it joins one that is, its end waits for the map: a lease on the spool
  file is refused while anybody else can write to it.

**All or none.** The kernel refuses an open of a file that is lent if that is not lent, too, or with
another backing file, and the other way round. A handle of the kernel ends there before we hear of
it. So while we count a handle as lent, every open may be lent to; and while we count one that is
not, no open may be.

            first open, lent to                     first open, not lent to
    LENT <──────────────────────── FREE ────────────────────────> ASKING
      └──────────────────────────────^──────────────────────────────┘
                     the last handle of the kernel is gone

Whole contents of the store are lent, too, to readers alone: see `loans`. All or none holds for
both.

Owns: which handles of one file are lent to, and what is known of changes made without us. Does not
know FUSE: the kernel is a `Lender`.

Threading: any. `spool_lock` of the file guards everything here. The calls to the kernel made under
it return at once.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from ftpfs import errors
from ftpfs.core.files.changes import STREAM_FROM
from ftpfs.core.files.content import SpooledContent
from ftpfs.core.files.loans import Ask, Lend, Loans, obstacle
from ftpfs.core.files.state import FileState
from ftpfs.core.store.lent import NotLent, Unlent
from ftpfs.core.writing.spool import Spool
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

T = TypeVar("T")

# The longest tick of a kernel's clock (s): its coarse time is so old at most.
TICK_SECONDS = 0.01
# A look at a file that is written all the time is taken so often, to find it at rest.
MOST_LOOKS = 3
# How often a file is looked at that the kernel writes, or that may be mapped (s).
# A file that stays open for long is looked at less often, down to once in the second figure.
WATCH_SECONDS, LAZY_WATCH_SECONDS = 0.1, 1.0
# After so many looks.
LAZY_AFTER = 50


class Lender(Protocol):
    """The kernel, which reads and writes local files itself."""

    @property
    def is_on(self) -> bool: ...

    def lend(self, fd: int) -> int:
        """Have the kernel take an open file. Returns its number; 0: it takes none."""

    def take_back(self, number: int) -> None:
        """The number is not used for further opens."""


class Use(NamedTuple):
    """An open of the kernel: which handle, what its program may do, and which process that is."""

    handle: int
    reads: bool
    writes: bool
    process: int = 0  # 0: unknown


class Answer(NamedTuple):
    """What an open is lent: its number, or 0: it has to ask; then perhaps why."""

    number: int
    why: Unlent | None = None


class Stored(NamedTuple):
    """The store, from which contents may be lent to readers."""

    lend: Lend
    is_read_only: bool  # the mount


class Mode(enum.Enum):
    FREE = "free"
    ASKING = "asking"
    LENT = "lent"


class _Look(NamedTuple):
    size: int
    time: int  # ns
    is_certain: bool


class Lending:
    """What of one open file is lent to the kernel."""

    def __init__(self, state: FileState, content: SpooledContent, spool: Spool) -> None:
        self._state = state
        self._content = content
        self._spool = spool
        self.loans = Loans(state)
        # Guarded by the state's `spool_lock`; `is_lent` may be read without.
        self.is_lent = False
        self._uses: dict[int, Use] = {}
        self._number = 0
        self._fd = -1  # the spool file, as long as it is lent
        self._seen = _Look(0, 0, is_certain=False)
        self._may_stream = False

    @property
    def mode(self) -> Mode:
        if not self._uses:
            return Mode.FREE
        return Mode.LENT if self.is_lent or self.loans.current is not None else Mode.ASKING

    # Opens and releases of the kernel.

    def begin(
        self, use: Use, lender: Lender, *, may_begin: bool, stored: Stored | None = None
    ) -> Answer:
        """The kernel opens the file. Returns what it is lent.

        `may_begin`: whether a spool file may be lent here at all, if this is the first open.
        `stored`: where a stored content may come from. Raises OtherNode if the inode has a stored
        content that does not fit; then nothing is noted.
        """
        state = self._state
        with state.spool_lock:
            self.loans.check_locked(writes=use.writes)
            why = None
            if self.mode is Mode.FREE and may_begin and self._fits(use):
                self._lend(lender)
            if stored is not None and self.mode is not Mode.LENT:
                why = self._lend_stored(use, lender, stored)
            self._uses[use.handle] = use
            if (loan := self.loans.current) is not None:
                loan.handles[use.handle] = use.process
                return Answer(loan.number)
            if not self.is_lent:
                return Answer(0, why)
            if use.writes:
                with state.changed:
                    # It holds the upload back: nobody knows when it writes.
                    state.progress.begin_writing(use.handle)
            return Answer(self._number)

    def _lend_stored(self, use: Use, lender: Lender, stored: Stored) -> Unlent | None:
        """Lend what the store has, if it may be lent to this open. Returns why not."""
        state = self._state
        with state.changed:
            version, follows = state.server.version, state.follows_locked()
        ask = Ask(
            writes=use.writes,
            is_read_only=stored.is_read_only,
            is_open=self.mode is Mode.ASKING,
            follows=follows,
            size=version.size,
            mtime=version.mtime,
            now=time.time(),
        )
        if (why := obstacle(ask)) is None:
            try:
                self.loans.begin_locked(stored.lend, lender.lend)
            except NotLent as refused:
                return refused.why
        return why

    def turn(self, old_inode: str) -> bool:
        """The name has another inode from now on, because a stored content does not fit any more.
        False: nothing is lent by now, so it keeps the one that it has.

        `old_inode`: the path by which the old one is known from now on."""
        with self._state.spool_lock:
            if not self.loans.turn_locked(old_inode):
                return False
            self._uses.clear()
            return True

    def _fits(self, use: Use) -> bool:
        """Whether the spool file has all of the content, and nothing can be mapped for writing."""
        state, changes = self._state, self._state.changes
        if self.loans.is_any:
            return False  # their handles would not see what the kernel writes elsewhere
        with state.changed:
            if state.is_fetched or state.is_hydrating or state.failures.refusal is not None:
                return False
            if state.capture is not None and not state.capture.captured:
                return False  # it is being sent while it is written
            if use.writes:
                is_new = state.progress.is_dirty and changes.size == 0
                return is_new and not use.reads and self._spool.has_plenty
            spooled = state.spooled
            is_whole = spooled is not None and spooled.present.covers(0, changes.size)
            return is_whole and changes.size > 0

    def _lend(self, lender: Lender) -> None:
        with contextlib.suppress(errors.FtpfsError, OSError):
            spooled = self._content.file()
            with spooled.in_use() as fd:
                with self._state.changed:
                    size = self._state.changes.size
                if os.fstat(fd).st_size != size:
                    os.ftruncate(fd, size)  # a hole at the end
                if number := lender.lend(fd):
                    self._number, self._fd = number, os.dup(fd)
                    self.is_lent = True
                    spooled.begin_lent()
                    self._seen = self._look()
                    self._may_stream = True

    def end(self, handle: int, lender: Lender) -> bool:
        """The kernel has released a handle. False: a memory map may still write; try again later.

        Nothing is absorbed after it, so what follows has to find all that was written.
        """
        with self._state.spool_lock:
            was_reading = self.loans.end_locked(handle, lender.take_back)
            use = self._uses.get(handle)
            if use is None:
                return True
            if was_reading or not self.is_lent:
                del self._uses[handle]
                return True
            may_be_mapped = use.reads and use.writes
            if len(self._uses) == 1 and self._number:
                lender.take_back(self._number)
                self._number = 0
            if may_be_mapped and self._is_open_elsewhere():
                if not self._number:
                    self._number = lender.lend(self._fd)
                return False
            self._absorb(at_close=may_be_mapped)
            del self._uses[handle]
            if not self._uses:
                self._take_back()
            return True

    def _take_back(self) -> None:
        os.close(self._fd)
        self._fd, self.is_lent = -1, False
        if self._state.spooled is not None:
            self._state.spooled.end_lent()

    def _is_open_elsewhere(self) -> bool:
        """Whether anybody but us can write to the spool file."""
        try:
            # A broken lease is told by a signal; that one does nothing.
            fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        except OSError:  # no leases on that disk
            return False
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

    # What was changed without us.

    def absorb(self, *, at_close: bool = False) -> bool:
        """Note what was written without us. Returns whether something was.

        `at_close`: in case of doubt, something was.
        """
        if not self.is_lent:
            return False
        with self._state.spool_lock:
            return self.absorb_locked(at_close=at_close)

    def absorb_locked(self, *, at_close: bool = False) -> bool:
        """As `absorb`, with `spool_lock` held."""
        return self.is_lent and self._absorb(at_close=at_close)

    def is_written(self) -> bool:
        """Whether a program has it open that may write it."""
        with self._state.spool_lock:
            return self.is_lent and any(use.writes for use in self._uses.values())

    def begins_stream(self) -> bool:
        """Absorb. Returns, once, whether sending should begin now, while the file is written."""
        self.absorb()
        state = self._state
        with state.spool_lock:
            if not (self.is_lent and self._may_stream and self._seen.size >= STREAM_FROM):
                return False
            self._may_stream = False
            try:
                has_hole = os.lseek(self._fd, 0, os.SEEK_HOLE) < self._seen.size
            except OSError:
                has_hole = True
            with state.changed:
                is_new = state.capture is None and state.progress.sent == 0
                if has_hole or not is_new or state.progress.is_deleted:
                    return False
                state.is_stream_wanted = True
            return True

    def settle(self) -> None:
        """Absorb, and leave no doubt that would make the file count as changed at its close."""
        for _ in range(MOST_LOOKS):
            self.absorb()
            if not self.is_lent or self._seen.is_certain:
                return
            time.sleep(TICK_SECONDS)

    def cut_locked(self, size: int) -> None:
        """The spool file was cut to `size`, or has to grow to it; with `spool_lock` held."""
        if self.is_lent:
            os.ftruncate(self._fd, size)
            self._mark(size)
            self._seen = self._look()

    def _absorb(self, *, at_close: bool) -> bool:
        if not any(use.writes for use in self._uses.values()):
            return False
        seen, self._seen = self._seen, self._look()
        now = self._seen
        is_same = (now.size, now.time) == (seen.size, seen.time)
        # A write through a map leaves no trace if its page was written to before.
        may_be_mapped = any(use.writes and use.reads for use in self._uses.values())
        is_sure = seen.is_certain and not may_be_mapped
        if is_same and (is_sure or not at_close or not now.size):
            return False
        state = self._state
        self._mark(now.size)
        with state.changed:
            changes, before = state.changes, state.changes.size
            if now.size or before:
                changes.write(0, now.size)
            changes.goes_whole, changes.is_only_appended = True, False
            changes.is_streamable = False
            if is_same:  # a program may have set time and mode since the write that was seen
                state.progress.write(None)
            else:
                state.write_locked(None)
                state.mtime = now.time // 10**9
            if state.capture is not None:
                # What is sent while it is written is compared at its end.
                start = 0 if state.capture.captured else before
                state.capture.written_locked(start, now.size)
        return True

    def _mark(self, size: int) -> None:
        spooled = self._state.spooled
        if spooled is not None:
            with self._state.changed:
                spooled.mark(0, size)

    def _look(self) -> _Look:
        """Look at the spool file. It never gets shorter by what the kernel writes."""
        found = os.fstat(self._fd)
        age = time.time_ns() - found.st_mtime_ns
        return _Look(found.st_size, found.st_mtime_ns, age > TICK_SECONDS * 10**9)


class Watch(Generic[T]):
    """Looks again and again at what changes without us, in a thread that ends with it."""

    def __init__(self, look: Callable[[T], bool]) -> None:
        """`look(one)` returns whether to look again."""
        self._look = look
        self._changed = ranked_condition(Rank.MAPPED)
        # Guarded by _changed:
        self._files: list[T] = []
        self._looks = 0  # since a file was added
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def add(self, file: T) -> None:
        with self._changed:
            if file not in self._files:
                self._files.append(file)
            self._looks = 0
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="ftpfs-watch", daemon=True)
                self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                pause = LAZY_WATCH_SECONDS if self._looks > LAZY_AFTER else WATCH_SECONDS
                self._changed.wait_for(lambda: self._is_closed, pause)
                self._looks += 1
                if self._is_closed or not self._files:
                    self._thread = None
                    return
                files, self._files = self._files, []
            again = [file for file in files if self._looks_again(file)]
            with self._changed:
                self._files += [file for file in again if file not in self._files]

    def _looks_again(self, file: T) -> bool:
        try:
            return self._look(file)
        except Exception:  # one file's error does not end the looks at the others
            log.exception("looking at a file failed: unexpected error")
            return False
