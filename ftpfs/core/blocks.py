"""The block cache: file contents in memory, least recently used out, bounded in bytes.

Owns: the blocks and their bound. Does not know where blocks come from. What memory does not hold
may be in a `Tier` below it (the disk).

A content larger than the cache that is read from end to end would, by that rule, push out each
block before it is read again. So where the least recently used block is one of such a *scan*, it is
one that was read lately, further on, that goes: the beginning stays, and reading it all again costs
only the rest. What was not read yet stays in any case.

A block is immutable `bytes`: it is handed to the kernel as it is, without another copy. It is
filed under the *version* of its file (path, size, mtime, generation), so a changed file finds none
of its old blocks; they age out.

Threading: a lock each in BlockCache and Generations; third in the lock order.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import cachetools

from ftpfs.core.status import CacheStatus

# The kernel reads 128 KiB at a time, aligned, so one request is one block and one object: nothing
# is sliced or joined on the way out.
BLOCK_SIZE = 128 << 10
# What a small read at an odd place fetches, by the kernel's pages. A read of 4 KiB touches two of
# them; with pieces of 8 KiB it would often touch two of these, and 16 KiB are more than a server
# sends before it has heard of us: at 20 ms, half of the reads took a second round trip.
PIECE_SIZE = 4 << 10


# So many blocks of a scan that were read last stay: the kernel reads one in several requests, and
# several at once. In a small cache less, a part of it.
LINGER, LINGER_PART = 64, 8

# Paths whose changes are remembered one by one. Beyond it all blocks are given up together.
MAX_CHANGES = 50_000


class Version(NamedTuple):
    """Which content: the same path with another size, time or generation is another content."""

    path: str
    size: int
    mtime: int | None
    generation: int
    exact: bool = False  # the time is right to the second


class Generations:
    """How often each path was changed from here.

    FTP's times have whole seconds: `git` writes a ref twice in one second, with the same size, and
    nothing that the server tells would say that it is another content.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._floor = 0
        self._changes: dict[str, int] = {}
        # Told of each change before anybody can see its generation. Set once, before the first; it
        # must not wait.
        self.changed: Callable[[str], None] | None = None

    def bump(self, path: str) -> None:
        """What was at `path`, and below it, is not what is there from now on."""
        with self._lock:
            self._count += 1
            if path == "/" or len(self._changes) >= MAX_CHANGES:
                self._changes.clear()
                self._floor = self._count
            self._changes[path] = self._count
            if self.changed is not None:
                self.changed(path)

    def of(self, path: str) -> int:
        """The generation of the content at `path`: that of its last change or its folders'."""
        with self._lock:
            newest = self._floor
            while path and path != "/":
                newest = max(newest, self._changes.get(path, 0))
                path = path.rpartition("/")[0]
            return newest


class Tier(Protocol):
    """A slower and larger store of blocks below memory. It may lose any block at any time."""

    def get(self, version: Version, index: int) -> bytes | None:
        """A block, whole and unharmed. May read the disk; called with no lock held."""

    def put(self, version: Version, index: int, block: bytes) -> None:
        """Take a block if that can be done without waiting. Called with no lock held."""


class _Blocks(cachetools.Cache[tuple[Version, int], bytes]):
    """Bounded in bytes by cachetools; which block goes is decided here. Guarded by its owner."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, getsizeof=len)
        self._order: OrderedDict[tuple[Version, int], None] = OrderedDict()  # oldest use first
        # Of the contents being scanned: the blocks here that were read, in that order.
        self._scanned: dict[Version, OrderedDict[int, None]] = {}

    def scanned(self, version: Version, index: int) -> None:
        """A block of a scan was read."""
        if (version, index) in self:
            read = self._scanned.setdefault(version, OrderedDict())
            read[index] = None
            read.move_to_end(index)

    def __getitem__(self, key: tuple[Version, int]) -> bytes:
        block = super().__getitem__(key)
        self._order.move_to_end(key)
        return block

    def __setitem__(self, key: tuple[Version, int], block: bytes) -> None:
        super().__setitem__(key, block)  # calls popitem until there is room
        self._order[key] = None
        self._order.move_to_end(key)

    def __delitem__(self, key: tuple[Version, int]) -> None:
        super().__delitem__(key)
        del self._order[key]
        version, index = key
        read = self._scanned.get(version)
        if read is not None:
            read.pop(index, None)
            if not read:
                del self._scanned[version]

    def popitem(self) -> tuple[tuple[Version, int], bytes]:
        """Take out the block that goes next."""
        key = self._victim()
        return key, self.pop(key)

    def _victim(self) -> tuple[Version, int]:
        oldest = next(iter(self._order))
        read = self._scanned.get(oldest[0], ())
        linger = min(LINGER, int(self.maxsize) // BLOCK_SIZE // LINGER_PART)
        if len(read) <= linger:
            return oldest
        return oldest[0], next(itertools.islice(reversed(read), linger, None))


class BlockCache:
    """Blocks of all files, at most `capacity` bytes of them in memory, more in `tier`."""

    def __init__(self, capacity: int, tier: Tier | None = None) -> None:
        self.capacity = capacity
        self._tier = tier
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._hits = self._misses = 0  # blocks that were here or in the tier, and that were not
        self._downloaded = 0  # bytes
        self._blocks = _Blocks(capacity)

    def get(self, version: Version, index: int) -> bytes | None:
        """Block `index` of that content; its use is noted."""
        with self._lock:
            block = self._used_locked(version, index)
            if block is not None:
                self._hits += 1
                return block
        block = self._tier.get(version, index) if self._tier is not None else None
        with self._lock:
            if block is None:
                self._misses += 1
            else:
                self._hits += 1
                self._keep_locked(version, index, block)
        return block

    def put(self, version: Version, index: int, block: bytes, *, downloaded: bool = True) -> None:
        """File a block that the server has: BLOCK_SIZE bytes, or less at the end of a file. Not
        `downloaded`: it is known from having been uploaded."""
        with self._lock:
            if downloaded:
                self._downloaded += len(block)
            self._keep_locked(version, index, block)
        if self._tier is not None:
            self._tier.put(version, index, block)

    def holds(self, version: Version, indexes: Iterable[int]) -> list[bool]:
        """Which of these blocks memory has; that is no use of them."""
        with self._lock:
            return [(version, index) in self._blocks for index in indexes]

    def get_pieces(self, version: Version, span: range) -> bytes | None:
        """The pieces of that content, joined; None unless all are there."""
        with self._lock:
            found = [self._used_locked(version, ~piece) for piece in span]
        pieces = [piece for piece in found if piece is not None]
        return b"".join(pieces) if len(pieces) == len(found) else None

    def put_piece(self, version: Version, piece: int, data: bytes) -> None:
        """Keep PIECE_SIZE bytes, or less at the end of a file, beside the blocks, in memory only:
        a piece is the price of a look, and its block comes with the next one."""
        with self._lock:
            self._downloaded += len(data)
            self._keep_locked(version, ~piece, data)

    def scanned(self, version: Version, index: int) -> None:
        """A block of a content larger than this cache was read, after the one before it."""
        with self._lock:
            self._blocks.scanned(version, index)

    def _used_locked(self, version: Version, index: int) -> bytes | None:
        return self._blocks.get((version, index))

    def _keep_locked(self, version: Version, index: int, block: bytes) -> None:
        if len(block) <= self.capacity:
            self._blocks[(version, index)] = block

    def status(self) -> CacheStatus:
        """How full it is, and how much use."""
        with self._lock:
            return CacheStatus(
                used=int(self._blocks.currsize),
                capacity=self.capacity,
                hits=self._hits,
                misses=self._misses,
                downloaded=self._downloaded,
            )

    @property
    def outlives_mount(self) -> bool:
        """Whether what is filed here may be served by a later mount."""
        return self._tier is not None

    @property
    def used(self) -> int:
        """Bytes held now."""
        with self._lock:
            return int(self._blocks.currsize)
