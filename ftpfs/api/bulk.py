"""Many files at once: which goes where, and their progress.

Owns: the pairs of a bulk call, as fsspec's own rules make them, and how they are handed to threads.
Everything that copies trees here goes through `transfer`.

Threading: `Progress` may be used by any thread; `transfer` is called by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fsspec.callbacks import Callback, NoOpCallback

from ftpfs.api import parallel
from ftpfs.model.locks import Rank, ranked_lock

Pair = tuple[str, str]
# One lock for the call-backs of all transfers: a program's progress bar expects one thread. The
# call-backs run under it, so its rank is the first.
_telling = ranked_lock(Rank.TELLING)


def _begin_anew() -> None:
    """In a child of `fork`: another thread of the parent may have held the lock."""
    global _telling
    _telling = ranked_lock(Rank.TELLING)


os.register_at_fork(after_in_child=_begin_anew)


class Pairs:
    """Stands in for a file system in fsspec's `get`, `put` and `copy`: notes what they would copy.

    So the rules of fsspec about trailing slashes, patterns and folders that exist are fsspec's own.
    """

    def __init__(self, filesystem: Any) -> None:
        self.found: list[Pair] = []
        self._filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def get_file(self, source: str, target: str, **_: Any) -> None:
        self.found.append((source, target))

    put_file = cp_file = get_file


class Progress:
    """The call-back of one file, called by one thread at a time for the whole process."""

    def __init__(self, callback: Callback) -> None:
        self._callback = None if isinstance(callback, NoOpCallback) else callback
        self._done = 0

    def set_size(self, size: int | None) -> None:
        if self._callback is not None:
            with _telling:
                self._callback.set_size(size)

    def advance(self, count: int) -> None:
        self._done += count
        if self._callback is not None:
            with _telling:
                self._callback.relative_update(count)

    def reached(self, total: int) -> None:
        """`total` bytes are done. A transfer that begins again says less than before."""
        if total != self._done:
            self.advance(total - self._done)


def transfer(
    copy: Callable[..., object],
    pairs: Sequence[Pair],
    callback: Callback,
    threads: int,
    options: Mapping[str, Any],
) -> None:
    """`copy(source, target, callback=...)` for all pairs. The first error stops what waits."""
    progress = Progress(callback)
    progress.set_size(len(pairs))

    def one(pair: Pair) -> None:
        with _telling:
            child = callback.branched(*pair)
            child.__enter__()
        try:
            copy(*pair, callback=child, **options)
        finally:
            with _telling:
                child.__exit__(None, None, None)
        progress.advance(1)

    parallel.results(one, pairs, threads=threads)
