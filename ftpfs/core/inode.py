"""Inode numbers: a hash of the path, so that they are the same in every mount."""

from __future__ import annotations

import functools
import hashlib


@functools.lru_cache(maxsize=65536)
def inode(path: str) -> int:
    """A number for `path`: 63 bits of a hash, so no two paths share one in practice."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1
