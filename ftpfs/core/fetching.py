"""Brings all of a file's content into the store, for `ftpfs fetch`.

**The problem.** A reader never waits for the store: if blocks arrive faster than the disk takes
them, the store drops some. That is right for a program that reads, and wrong for somebody who wants
all of the file here.

**What we do.** The file is read as a program reads it, so streams and read-ahead bring it. Reading
pauses while the store's queue is long. Then what the store still lacks is read again, most of it
from memory, and handed to the store once more.

Threading: any thread; one file a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE, Version
from ftpfs.core.store.store import Store

# Rounds of reading what the store lacks.
ROUNDS = 4
# Reading pauses while so many bytes wait for the disk, and looks again after a pause (s).
MOST_QUEUED_BYTES, PAUSE_SECONDS = 16 << 20, 0.02
# How long (s) the store may take to write all that waits for the disk.
SETTLE_SECONDS = 60.0


def fetch(read: Callable[[int, int], bytes], version: Version, store: Store) -> Iterator[int]:
    """Store all blocks of that content. Yields the bytes that were read or found so far.

    `read(offset, size)` reads the file. What is stored already is not read. Raises what reading
    raises, and FtpfsError if the content cannot be stored.
    """
    store.check_storable(version)
    blocks = range(-(-version.size // BLOCK_SIZE))
    done = 0
    for attempt in range(ROUNDS):
        lacking = [index for index in blocks if not store.has(version, index)]
        if not lacking:
            yield version.size
            return
        for index in lacking:
            block = read(index * BLOCK_SIZE, BLOCK_SIZE)
            if attempt:  # what the first round dropped is in memory, and memory tells no store
                store.put(version, index, block)
            _wait(store, MOST_QUEUED_BYTES)
            if not attempt:
                done += len(block)
                yield min(done, version.size)
        _wait(store, 0)
    raise errors.FtpfsError(
        f"{version.path}: the store did not take all of it (is cache_size too small?)"
    )


def _wait(store: Store, most_bytes: int) -> None:
    """Wait until at most `most_bytes` bytes wait for the disk."""
    give_up = time.monotonic() + SETTLE_SECONDS
    while store.queued > most_bytes and time.monotonic() < give_up:
        time.sleep(PAUSE_SECONDS)
