"""The block cache: file contents in memory, least recently used out, bounded in bytes.

Owns: the blocks and their bound. Does not know where blocks come from.

A block is immutable `bytes`: it is handed to the kernel as it is, without another copy. It is
filed under the *version* of its file (path, size, mtime), so a changed file finds none of its old
blocks; they age out.

Threading: `_lock` guards the LRU (cachetools does no locking); third in the lock order.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from cachetools import LRUCache

# The kernel reads 128 KiB at a time, aligned, so one request is one block and one object: nothing
# is sliced or joined on the way out.
BLOCK_SIZE = 128 << 10


class Version(NamedTuple):
    """Which content: the same path with another size or time is another content."""

    path: str
    size: int
    mtime: int | None


class BlockCache:
    """Blocks of all files, at most `capacity` bytes of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._blocks: LRUCache[tuple[Version, int], bytes] = LRUCache(capacity, getsizeof=len)

    def get(self, version: Version, index: int) -> bytes | None:
        """Block `index` of that content; its use is noted."""
        with self._lock:
            return self._blocks.get((version, index))

    def put(self, version: Version, index: int, block: bytes) -> None:
        """File a block: BLOCK_SIZE bytes, or less at the end of a file."""
        with self._lock:
            if len(block) <= self.capacity:
                self._blocks[(version, index)] = block

    @property
    def used(self) -> int:
        """Bytes held now."""
        with self._lock:
            return int(self._blocks.currsize)
