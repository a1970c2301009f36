"""Stores: finds the stores of this user, and opens that of a mount.

Owns where stores are, and how large one may become if the user does not say. `core.store` owns what
is in a store.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.store.contents import ContentFolder
from ftpfs.core.store.index import FILES, Index
from ftpfs.core.store.kept import KeptPaths
from ftpfs.core.store.listings import FILES as LISTINGS
from ftpfs.core.store.listings import LEAST_BYTES, StoredListings
from ftpfs.core.store.store import Store, folder_of
from ftpfs.daemon import places
from ftpfs.local import private
from ftpfs.model import link
from ftpfs.model.status import StoreStatus
from ftpfs.settings.config import Config
from ftpfs.settings.values import AUTO, ON

log = logging.getLogger(__name__)

# If the user names no size: this part of the disk's free space, this much at most (bytes), and
# nothing on a disk that has less than that free.
AUTO_PART, AUTO_MOST_BYTES, AUTO_LEAST_FREE_BYTES = 10, 8 << 30, 2 << 30
# Where the option keep asks for a store, and cache_size for none, it is this small (bytes), beside
# what is kept.
LEAST_BYTES_OF_STORE = 16 << 20
# This part of a store is for listings, this much at most (bytes).
LISTINGS_PART, LISTINGS_MOST_BYTES = 16, 64 << 20
# The file in a store's folder that tells the server's address.
SERVER = "server"


class Place(NamedTuple):
    """Where the store of one server is, and what it may take (bytes).

    `wanted`: the user asked for it. If not, a mount stores only over a long link.
    """

    folder: Path
    size: int
    listings: int  # of these
    wanted: bool

    def pays(self, round_trip: float) -> bool:
        """Whether a mount should store, over a link with this round trip (seconds).

        Over a short link, a file comes from the server as fast as from the disk.
        """
        return self.wanted or link.is_known_long(round_trip)


def place_for(config: Config) -> Place | None:
    """The place of a mount's store, or None if there shall be none."""
    cache = config.cache
    where = cache.cache_dir or default_folder()
    size = auto_size(where) if cache.cache_size in (AUTO, ON) else cache.cache_size
    if not size and not cache.keep:
        return None
    size = max(size, LEAST_BYTES_OF_STORE)
    server = config.server
    # The same names in another encoding are other files.
    folder = where / folder_of(server.host, f"{server} {server.encoding}")
    listings = min(size // LISTINGS_PART, LISTINGS_MOST_BYTES)
    if listings < LEAST_BYTES:
        listings = 0
    asked = cache.cache_size != AUTO or cache.cache_dir is not None or cache.offline == "always"
    wanted = asked or bool(cache.keep) or bool(KeptPaths(folder).paths())
    return Place(folder, size, listings, wanted)


def trouble(place: Place | None) -> str:
    """A line for the user if there can be no store at its place, else "". The mount goes on."""
    if place is None:
        return ""
    try:
        private.make_folder(place.folder)
    except (OSError, errors.FtpfsError) as error:
        return f"nothing is stored on the disk: {error} (cache_dir=FOLDER names another place)"
    return ""


def open_store(config: Config, place: Place) -> Store:
    """The contents in the store at `place`."""
    store = Store(place.folder, place.size, reserved=place.listings)
    with contextlib.suppress(OSError, errors.FtpfsError):  # the store has told why
        _note(place.folder, str(config.server))
    return store


def open_listings(place: Place | None) -> StoredListings | None:
    """The listings in the store at `place`; None if the store is too small for any."""
    if place is None or not place.listings:
        return None
    return StoredListings(place.folder, place.listings, kept=KeptPaths(place.folder).paths)


def was_used(place: Place) -> bool:
    """Whether an earlier mount has stored listings at `place`."""
    return (place.folder / LISTINGS[0]).exists()


def default_folder() -> Path:
    """The folder of the stores of all servers."""
    return places.cache() / "store"


class Stored(NamedTuple):
    """The store of one server."""

    server: str  # its URL
    status: StoreStatus  # its capacity is 0: that is up to the mounts


def stored(where: Path | None = None) -> list[Stored]:
    """The stores in the folder `where` (None: the default one), by server."""
    found = []
    for server, folder in _servers(where):
        with _index_in(folder) as index:
            found.append(Stored(server, index.status(0)))
    return found


class Freed(NamedTuple):
    """What was freed of the store of one server (bytes), and what is left because it is kept."""

    server: str  # its URL
    bytes: int
    kept: int


def clear(where: Path | None, chosen: Callable[[str], bool], *, kept: bool = False) -> list[Freed]:
    """Delete what is stored of the servers whose URL is `chosen`, but for what is kept.

    With `kept`, that too, and nothing is kept any more. Mounts that use a store go on with it.
    """
    freed = []
    for server, folder in _servers(where):
        if chosen(server):
            wanted = KeptPaths(folder)
            if kept:
                wanted.clear()
            with _index_in(folder) as index:
                index.reconcile(time.time())
                freed.append(Freed(server, index.clear(kept=kept), index.status(0).kept))
            if (folder / LISTINGS[0]).exists():
                listings = StoredListings(folder, LISTINGS_MOST_BYTES, kept=wanted.paths)
                listings.clear()
                listings.close()
    return freed


def _servers(where: Path | None) -> list[tuple[str, Path]]:
    found = []
    for place in (where or default_folder()).glob(f"*/{SERVER}"):
        if (place.parent / FILES[0]).exists():
            private.check_file(place)
            found.append((place.read_text(errors="replace"), place.parent))
    return sorted(found)


@contextlib.contextmanager
def _index_in(folder: Path) -> Iterator[Index]:
    """The index of the store in `folder`. Raises FtpfsError if it is damaged or locked."""
    try:
        index = Index(folder / FILES[0], ContentFolder(folder / "data"))
        try:
            yield index
        finally:
            index.close()
    except sqlite3.Error as error:
        raise errors.FtpfsError(f"{folder}: {error} (it may be deleted)") from error


def _note(folder: Path, server: str) -> None:
    """Note in a store's folder whose it is."""
    place = folder / SERVER
    private.check_file(place)
    text = server.encode("utf-8", "surrogateescape")
    if not place.exists() or place.read_bytes() != text:  # it may be damaged
        place.write_bytes(text)
        place.chmod(0o600)


def auto_size(where: Path) -> int:
    """How large a store in the folder `where` may become, by the disk's free space (bytes)."""
    try:
        disk = next(path for path in (where, *where.parents) if path.exists())
        free = shutil.disk_usage(disk).free
    except (OSError, StopIteration) as error:
        log.warning("nothing is stored in %s: %s", where, error)
        return 0
    return 0 if free < AUTO_LEAST_FREE_BYTES else min(free // AUTO_PART, AUTO_MOST_BYTES)
