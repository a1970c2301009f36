"""Walking: the folders of a tree, each with its entries, in the order in which people read them.

The next folders are listed ahead, several at a time: those beside the one at hand, and those in it.

Threading: one thread walks; others list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.sides import Side

# See `copying`.
_MOST_LEVELS = 100


@dataclass(frozen=True)
class Folder:
    """A folder of the tree, with its entries by name; or `why` it could not be listed.

    `level`: 0 for the root of the tree.
    """

    path: str
    level: int
    entries: list[Entry]
    why: errors.FtpfsError | OSError | None = None


def walk(
    side: Side,
    root: str,
    jobs: int,
    *,
    enters: Callable[[Entry], bool] = lambda _entry: True,
    levels: int | None = None,
) -> Iterator[Folder]:
    """The folders below `root`, itself included, each before those in it.

    A folder that cannot be listed is yielded with the reason. `enters`: which of the folders in it
    are looked into. `levels`: how many levels of folders are listed;
    None: all.
    """
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="ftpfs-walk")
    try:
        ahead: list[tuple[str, int, Future[list[Entry]]]] = []
        ahead.append((root, 0, executor.submit(side.list, root)))
        while ahead:
            path, level, listing = ahead.pop()
            try:
                entries = sorted(listing.result(), key=lambda entry: entry.name)
                if level > _MOST_LEVELS:
                    raise errors.LinkLoop(f"more than {_MOST_LEVELS} levels deep: a loop of links?")
            except (errors.FtpfsError, OSError) as error:
                yield Folder(path, level, [], error)
                continue
            for entry in reversed(entries):
                is_near = levels is None or level + 1 < levels
                if entry.kind is Kind.DIRECTORY and is_near and enters(entry):
                    below = side.join(path, entry.name)
                    ahead.append((below, level + 1, executor.submit(side.list, below)))
            yield Folder(path, level, entries)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
