"""The rooms of one mount's file system, and which room calls which.

Owns: the order in which the rooms are built, from the lower to the upper ones. Nothing happens here
after that.

    Filesystem -> Renames, Demands, ModesAndTimes, LookAhead
               -> Delivery -> Doubts, Conflicts -> Aftermath, Endings
               -> Looks -> KnownNames, OpenFiles, Folders

Three rooms call one that is built later: the tree reports visited and outdated folders, the hidden
names of libfuse are deleted, and the queue sends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from ftpfs.core.files.endings import Endings
from ftpfs.core.files.looks import Looks, peek
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.keeping.keeper import Keeper
from ftpfs.core.lent import LentFiles
from ftpfs.core.names.aftermath import Aftermath
from ftpfs.core.names.behind import Behind, Changes
from ftpfs.core.names.doubts import Doubts
from ftpfs.core.names.hiding import Hiding
from ftpfs.core.names.intents import Intents
from ftpfs.core.names.known import KnownNames
from ftpfs.core.names.renames import Renames
from ftpfs.core.names.tree import Tree
from ftpfs.core.reading.ahead import LookAhead
from ftpfs.core.reading.blocks import BlockCache
from ftpfs.core.reading.reader import StreamBudget
from ftpfs.core.store.store import Store
from ftpfs.core.writing.attributes import ModesAndTimes
from ftpfs.core.writing.conflicts import Conflicts
from ftpfs.core.writing.delivery import Delivery
from ftpfs.core.writing.demands import Demands
from ftpfs.core.writing.folders import Folders, Job
from ftpfs.core.writing.queue import UploadQueue
from ftpfs.core.writing.spool import Spool
from ftpfs.model import link
from ftpfs.model.remote import Remote
from ftpfs.settings.config import Cache, Write

# Uploads at a time over a short link, where the interpreter is the bottleneck and not the link.
# With 8 instead of 4, `cp -r` of small files onto the mount ran at half the speed (800 files a
# second), because the threads took the interpreter from the one that answered `cp`.
NEAR_UPLOADS = 4

# How long the absence of a name from a listing counts (seconds). After that, `ls` and look-ups show
# names that others made. Without this, each look-up of a missing name would cost a listing.
NAMES_BELIEVED_SECONDS = 5.0


@dataclass(frozen=True)
class Rooms:
    """The rooms that the POSIX face calls."""

    files: OpenFiles
    known: KnownNames
    blocks: BlockCache
    folders: Folders
    looks: Looks
    lent: LentFiles
    ahead: LookAhead
    behind: Behind
    intents: Intents
    hiding: Hiding
    endings: Endings
    doubts: Doubts
    renames: Renames
    attributes: ModesAndTimes
    demands: Demands
    queue: UploadQueue[Job]
    keeper: Keeper | None
    new_file: Callable[..., OpenFile]


def build(
    remote: Remote,
    spool: Spool,
    cache: Cache,
    write: Write,
    *,
    prefetchers: int,
    store: Store | None,
    read_only: bool,
    report: Callable[[Changes], None],
    release: Callable[[int], None],
    clock: Callable[[], float],
) -> Rooms:
    """The rooms of a new mount. See `Filesystem` for the arguments. `report` hears of changes by
    others that a look behind an answer has found. `release` closes a handle for good.

    One idea: a list of what is built, in order.
    """
    ahead: LookAhead
    behind: Behind
    renames: Renames
    files = OpenFiles()
    tree = Tree(
        remote.list,
        remote.stat,
        ttl=cache.list_ttl,
        names_ttl=max(NAMES_BELIEVED_SECONDS, cache.open_ttl),
        ahead=remote.ahead,
        behind=remote.behind,
        peek=functools.partial(peek, remote),
        visited=lambda folder: ahead.visited(folder, read=False),
        due=lambda folder: behind.wanted(folder),
        is_far=lambda: link.is_long(remote.round_trip()),
        clock=clock,
    )
    behind = Behind(tree.list_behind, report=report, clock=clock)
    known = KnownNames(tree)
    blocks = BlockCache(cache.block_cache, store)
    if store is not None:
        store.follow(known.generations)
    round_trip = remote.round_trip
    budget = StreamBudget(
        cache.block_cache, cache.read_ahead, helped=prefetchers, round_trip=round_trip
    )
    queue: UploadQueue[Job] = UploadQueue(
        workers=write.uploads if link.is_long(round_trip()) else min(write.uploads, NEAR_UPLOADS),
        holds_bursts=lambda: not link.is_long(round_trip()),
    )
    folders = Folders(remote, spool.journal, known, add=queue.add)
    looks = Looks(remote, known, files, folders, cache.open_ttl, cache.list_ttl, clock)
    ahead = LookAhead(
        remote,
        known,
        looks,
        blocks,
        budget,
        workers=prefetchers,
        most_bytes=cache.block_cache // 4,
        open_ttl=cache.open_ttl,
        clock=clock,
    )
    intents = Intents(remote, spool)
    hiding = Hiding(lambda path: renames.delete_hidden(path))
    endings = Endings(files, queue, folders, intents)
    aftermath = Aftermath(files, known, folders, spool.journal, endings, queue)
    conflicts = Conflicts(remote, files, known, intents)
    doubts = Doubts(intents, hiding, files, folders, known, aftermath, endings, conflicts)
    delivery = Delivery(remote, folders, known, doubts, conflicts, endings)
    queue.deliver = delivery.send
    renames = Renames(
        remote,
        files,
        folders,
        known,
        looks,
        intents,
        hiding,
        doubts,
        aftermath,
        endings,
        delivery,
    )
    keeper = None
    if store is not None:
        workers, refresh = max(1, prefetchers), cache.keep_refresh
        keeper = Keeper(remote, known, store, cache.keep, refresh=refresh, workers=workers)
    return Rooms(
        files=files,
        known=known,
        blocks=blocks,
        folders=folders,
        looks=looks,
        lent=LentFiles(
            *(files, known, looks, store),
            is_read_only=read_only,
            stream=queue.stream,
            release=release,
        ),
        ahead=ahead,
        behind=behind,
        intents=intents,
        hiding=hiding,
        endings=endings,
        doubts=doubts,
        renames=renames,
        attributes=ModesAndTimes(remote, files, folders, known, queue),
        demands=Demands(remote, files, folders, known, queue, delivery, waits_at_close=write.sync),
        queue=queue,
        keeper=keeper,
        new_file=functools.partial(
            OpenFile,
            remote=remote,
            cache=blocks,
            budget=budget,
            spool=spool,
            known=known,
        ),
    )
