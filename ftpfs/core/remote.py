"""What the core needs of a server: a protocol, so that the core runs without sockets.

`ftp.remote.Remote` is the real one; tests bring one of plain bytes. What each method promises and
raises is documented there. Paths are absolute inside the mount.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ftpfs.ftp.listing import Entry


class Download(Protocol):
    """Bytes of a file on their way here, from the offset it was opened at."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes; less only at the end, when the server confirmed it."""

    def close(self) -> None:
        """End it, early if need be. Never raises."""


class Space(Protocol):
    @property
    def free(self) -> int:
        """Bytes."""


class Remote(Protocol):
    def round_trip(self) -> float: ...

    def list(self, path: str) -> list[Entry]: ...

    def stat(self, path: str) -> Entry: ...

    def look_again(self, path: str, entry: Entry) -> Entry: ...

    def read_link(self, path: str, target: str | None) -> str: ...

    def space(self) -> Space | None: ...

    def open_read(
        self, path: str, offset: int = 0, *, give_way: Callable[[], None] | None = None
    ) -> Download: ...

    def put(
        self,
        path: str,
        size: int,
        read_at: Callable[[int, memoryview], int],
        *,
        replace: bool,
        mtime: int | None,
        mode: int | None,
    ) -> Entry: ...

    def mkdir(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def rename(self, old: str, new: str, *, replace: bool) -> None: ...

    def chmod(self, path: str, mode: int) -> None: ...

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> None: ...
