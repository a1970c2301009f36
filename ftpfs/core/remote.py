"""What the core needs of a server: a protocol, so that the core runs without sockets.

`ftp.remote.Remote` is the real one; tests bring one of plain bytes. What each method promises and
raises is documented there. Paths are absolute inside the mount.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ftpfs.ftp.listing import Entry, FolderAttributes

ListPath = Callable[[str], list[Entry]]


class Download(Protocol):
    """Bytes of a file on their way here, from the offset it was opened at."""

    confirmed: bool  # the server said, as it began, that the file is the expected one

    def read(self, size: int) -> bytes:
        """The next `size` bytes; less only at the end, when the server confirmed it."""

    def finish(self) -> None:
        """Every byte that the file has was read: hear the server's word for it, if that is near."""

    def close(self) -> None:
        """End it, early if need be. Never raises."""


class Content(Protocol):
    """What an upload sends: bytes of a local file, perhaps while they are still being written.

    One thread at a time calls it. An upload that is repeated begins again with `ready(0)`, or with
    as much as the server is known to have; the same object, given to `store` again after a network
    failure, may go on where the connection broke. What lies beyond the end of the file that
    `fileno` names is zeros, as its holes are.
    """

    def fileno(self) -> int:
        """The file they lie in, at the same offsets: for sendfile(2) and pread(2)."""

    def ready(self, offset: int) -> int:
        """The end of what may be sent from `offset` on; `offset` itself: the content ends here.

        Waits while an application is still writing. What this returned is promised to be sent: when
        it is written over afterwards, the next call raises Superseded, and so it does when the
        application is silent for so long that the connection is better used otherwise. The upload
        then takes away what it began, and lets the exception through.
        """

    def whole(self) -> int | None:
        """How many bytes it has, where all of them are there already; None: it still grows."""

    def accepted(self) -> None:
        """The server takes it, as far as one can know before the end: who waits only to hear of a
        folder that may not be written need not wait any longer. Called once, or never."""

    def attributes(self) -> tuple[int | None, int | None]:
        """The modification time and the mode bits to be set, asked for when all has been sent."""


class Space(Protocol):
    @property
    def free(self) -> int:
        """Bytes."""


class Remote(Protocol):
    def round_trip(self) -> float: ...

    def warm(self, sessions: int) -> None: ...

    def list(self, path: str) -> list[Entry]: ...

    def ahead(self) -> AbstractContextManager[ListPath]: ...

    def peek(self, path: str) -> Entry | None: ...

    def stat(self, path: str) -> Entry: ...

    def look_again(self, path: str, entry: Entry) -> Entry: ...

    def read_link(self, path: str, target: str | None) -> str: ...

    def space(self) -> Space | None: ...

    def open_read(
        self,
        path: str,
        offset: int = 0,
        *,
        give_way: Callable[[], None] | None = None,
        expect: Entry | None = None,
        ahead: bool = False,
    ) -> Download: ...

    def store(self, path: str, content: Content, *, base: Entry | None) -> Entry: ...

    def patch(
        self,
        path: str,
        content: Content,
        ranges: Sequence[tuple[int, int]],
        *,
        base: Entry,
    ) -> Entry: ...

    def check_name(self, path: str) -> None: ...

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def rename(self, old: str, new: str, *, replace: bool) -> None: ...

    def chmod(self, path: str, mode: int) -> None: ...

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> None: ...

    def sets_on_folders(self) -> tuple[bool | None, bool | None]: ...

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]: ...
