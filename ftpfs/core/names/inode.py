"""Inode numbers: a hash of the path, so that every mount gives a file the same number."""

from __future__ import annotations

import functools
import hashlib


@functools.lru_cache(maxsize=65536)
def inode(path: str) -> int:
    """The inode number of `path`: 63 bits of a hash, so in practice no two paths share one."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1
