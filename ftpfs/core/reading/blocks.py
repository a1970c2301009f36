"""The block cache: contents in memory, bounded in bytes, the least recently used evicted first.

Owns the blocks and their limit. Does not know where blocks come from. A block that memory does not
hold may be in a `LowerCache` below it (the disk).

A content that is larger than the cache and is read from end to end would evict each block before
the next reading of it. So if the least recently used block belongs to such a *scan*, the cache
evicts a block further on that was read lately instead. The beginning of the file stays, and a
second reading fetches only the rest. Blocks that were not read yet are never evicted in its place.

A block is immutable `bytes`: the kernel gets it as it is, without another copy. It is filed under
the *version* of its file (path, size, mtime, generation). A changed file finds none of its old
blocks, and they become the least recently used.

Threading: any thread. BlockCache (Rank.BLOCKS) and Generations (Rank.GENERATIONS) have a lock each.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import cachetools

from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.status import CacheStatus

# The kernel reads 128 KiB at a time, aligned. So one request is one block and one object, and no
# bytes are sliced or joined on the way out.
BLOCK_SIZE = 128 << 10
# The unit that a small read at a random offset fetches: a page of the kernel. A read of 4 KiB
# touches two pages. With pieces of 8 KiB it would often touch two pieces, and 16 KiB are more than
# a server sends before its first acknowledgement: at 20 ms, half of the reads took a second round
# trip.
PIECE_SIZE = 4 << 10


# The last blocks of a scan, this many, are not evicted: the kernel reads one block in several
# requests, and several blocks at once. In a small cache, at most 1/SCAN_TAIL_PART of its blocks.
SCAN_TAIL_BLOCKS, SCAN_TAIL_PART = 64, 8

# Paths whose changes are remembered one by one. Beyond that, all cached blocks go stale.
MAX_CHANGES = 50_000


class Version(NamedTuple):
    """One content of a file. The same path with another size, time or generation is another one."""

    path: str
    size: int
    mtime: int | None
    generation: int
    exact: bool = False  # the time is right to the second


class Generations:
    """How often each path was changed by this mount.

    FTP's times have whole seconds. `git` writes a ref twice in one second, with the same size: no
    answer of the server would tell the two contents apart.

    Attributes:
        changed: called with the path of each change, under the lock, before any thread can see the
            new generation. Set once, before the first change. It must not wait.
    """

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.GENERATIONS)
        self._count = 0
        self._floor = 0
        self._changes: dict[str, int] = {}
        self.changed: Callable[[str], None] | None = None

    def bump(self, path: str) -> None:
        """Count a change of the content at `path`, and of everything below it."""
        with self._lock:
            self._count += 1
            if path == "/" or len(self._changes) >= MAX_CHANGES:
                self._changes.clear()
                self._floor = self._count
            self._changes[path] = self._count
            if self.changed is not None:
                self.changed(path)

    def of(self, path: str) -> int:
        """The generation of the content at `path`: the last change of it or of a folder above."""
        with self._lock:
            newest = self._floor
            while path and path != "/":
                newest = max(newest, self._changes.get(path, 0))
                path = path.rpartition("/")[0]
            return newest


class LowerCache(Protocol):
    """A slower and larger cache of blocks below memory. It may drop any block at any time."""

    def get(self, version: Version, index: int) -> bytes | None:
        """A block, verified, or None. May read the disk; called with no lock held."""

    def put(self, version: Version, index: int, block: bytes) -> None:
        """Store a block if that is possible without waiting. Called with no lock held."""

    def adopt(self, version: Version, source: Path) -> bool:
        """Make a file the stored content, without waiting. False: the caller keeps the file."""


# Bytes that a block takes beside its content: the object, its key, and its places in the tables
# here. 100 MB of files of 100 bytes each took 612 MB.
OVERHEAD = 600


def cost(block: bytes) -> int:
    """Bytes of memory that a block takes.

    A full block counts by its content alone (the overhead is half a per cent), so that a cache with
    the capacity of n blocks holds n blocks.
    """
    return len(block) if len(block) >= BLOCK_SIZE else len(block) + OVERHEAD


class _Blocks(cachetools.Cache[tuple[Version, int], bytes]):
    """Bounded in bytes by cachetools; `_victim` chooses what to evict. Guarded by its owner."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, getsizeof=cost)
        self._order: OrderedDict[tuple[Version, int], None] = OrderedDict()  # oldest use first
        # For each content that is scanned: its cached blocks in the order they were read.
        self._scanned: dict[Version, OrderedDict[int, None]] = {}

    def scanned(self, version: Version, index: int) -> None:
        """Note that a block of a scan was read."""
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
        """Evict the next block, and return it."""
        key = self._victim()
        return key, self.pop(key)

    def _victim(self) -> tuple[Version, int]:
        oldest = next(iter(self._order))
        read = self._scanned.get(oldest[0], ())
        tail = min(SCAN_TAIL_BLOCKS, int(self.maxsize) // BLOCK_SIZE // SCAN_TAIL_PART)
        if len(read) <= tail:
            return oldest
        return oldest[0], next(itertools.islice(reversed(read), tail, None))


class BlockCache:
    """Blocks of all files: at most `capacity` bytes of them in memory, more in `lower`."""

    def __init__(self, capacity: int, lower: LowerCache | None = None) -> None:
        self.capacity = capacity
        self._lower = lower
        self._lock = ranked_lock(Rank.BLOCKS)
        # Guarded by _lock:
        self._hits = self._misses = (
            0  # blocks found in memory or in the lower cache, and blocks not found
        )
        self._downloaded = 0  # bytes
        self._blocks = _Blocks(capacity)

    def get(self, version: Version, index: int) -> bytes | None:
        """Block `index` of that content, or None. Counts as a use of the block."""
        with self._lock:
            block = self._used_locked(version, index)
            if block is not None:
                self._hits += 1
                return block
        block = self._lower.get(version, index) if self._lower is not None else None
        with self._lock:
            if block is None:
                self._misses += 1
            else:
                self._hits += 1
                self._keep_locked(version, index, block)
        return block

    def put(self, version: Version, index: int, block: bytes, *, downloaded: bool = True) -> None:
        """File a block that the server has: BLOCK_SIZE bytes, or less at the end of a file.

        Without `downloaded`, the block is known because it was uploaded: memory alone files it.
        """
        with self._lock:
            if downloaded:
                self._downloaded += len(block)
            self._keep_locked(version, index, block)
        if self._lower is not None and downloaded:
            self._lower.put(version, index, block)

    def adopt(self, version: Version, source: Path) -> bool:
        """Have the lower cache take over a file that holds all of a content that was uploaded.

        True: the file belongs to that cache from now on, and nobody may write to it.
        """
        return self._lower is not None and self._lower.adopt(version, source)

    def holds(self, version: Version, indexes: Iterable[int]) -> list[bool]:
        """Which of these blocks are in memory. Does not count as a use of them."""
        with self._lock:
            return [(version, index) in self._blocks for index in indexes]

    def get_pieces(self, version: Version, span: range) -> bytes | None:
        """The pieces of that content, joined; None unless all of them are in memory."""
        with self._lock:
            found = [self._used_locked(version, ~piece) for piece in span]
        pieces = [piece for piece in found if piece is not None]
        return b"".join(pieces) if len(pieces) == len(found) else None

    def put_piece(self, version: Version, piece: int, data: bytes) -> None:
        """Keep PIECE_SIZE bytes, or less at the end of a file, beside the blocks, in memory only.

        A piece is never stored in the lower cache: further reads nearby fetch its whole block.
        """
        with self._lock:
            self._downloaded += len(data)
            self._keep_locked(version, ~piece, data)

    def scanned(self, version: Version, index: int) -> None:
        """Note that a block was read right after its predecessor: a scan.

        Called only for contents that are larger than this cache.
        """
        with self._lock:
            self._blocks.scanned(version, index)

    def _used_locked(self, version: Version, index: int) -> bytes | None:
        return self._blocks.get((version, index))

    def _keep_locked(self, version: Version, index: int, block: bytes) -> None:
        if cost(block) <= self.capacity:
            self._blocks[(version, index)] = block

    def status(self) -> CacheStatus:
        """How full the cache is, and how often it was of use."""
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
        """Whether a later mount may serve the blocks that are filed here."""
        return self._lower is not None

    @property
    def held(self) -> int:
        """Bytes of content in memory now."""
        with self._lock:
            return sum(map(len, self._blocks.values()))
