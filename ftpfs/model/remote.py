"""The protocol of a server, as the core needs it, so that the core runs without sockets.

`ftp.remote.Remote` is the real implementation, and documents what each method promises and raises.
Tests have one in memory. Paths are absolute inside the mount.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ftpfs.model.entry import Entry, FolderAttributes, Trace

ListPath = Callable[[str], list[Entry]]


class Download(Protocol):
    """The bytes of a file from the server, from the offset at which it was opened."""

    confirmed: bool  # the server said at the start that the file is the expected one

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end, after the server confirmed it."""

    def goes_on(self) -> bool:
        """Whether more bytes follow; False at the end. Waits for the one or the other."""

    def finish(self) -> None:
        """All bytes of the file are read: wait for the final reply, unless the link is long."""

    def close(self) -> None:
        """End the download, early if need be. Never raises."""


class Content(Protocol):
    """What an upload sends: bytes of a local file, perhaps while a program is still writing them.

    One thread at a time calls it. An upload that is repeated begins again with `ready(0)`, or with
    as much as the server is known to have. After a network failure, the caller may pass the same
    object to `store` again, and the upload may resume where the connection broke. Bytes beyond the
    end of the file that `fileno` names are zeros, like its holes.
    """

    def fileno(self) -> int:
        """The file that holds the bytes, at the same offsets: for sendfile(2) and pread(2)."""

    def ready(self, offset: int) -> int:
        """The end of the range that may be sent from `offset` on; `offset` at the content's end.

        Waits while a program is still writing. A returned range counts as sent: if the program
        overwrites it afterwards, the next call raises Superseded. It also raises Superseded if the
        program is silent for so long that the connection is better used otherwise. The upload then
        removes what it began on the server, and lets the exception through.
        """

    def whole(self) -> int | None:
        """The size in bytes if all bytes are there; None while the content still grows."""

    def accepted(self) -> None:
        """Called at most once: the server accepts the upload, as far as that shows before its end.

        A caller that waits only to hear of an unwritable folder need not wait any longer.
        """

    def mode(self) -> int | None:
        """The mode bits that will be set, as far as known before all is sent."""

    def attributes(self) -> tuple[int | None, int | None]:
        """The modification time (s) and the mode bits to set, asked for when all is sent."""


class Space(Protocol):
    @property
    def free(self) -> int:
        """Free bytes."""


class Remote(Protocol):
    def round_trip(self) -> float: ...

    def warm(self, sessions: int) -> None: ...

    def is_offline(self) -> bool: ...

    def list(self, path: str) -> list[Entry]: ...

    def ahead(self) -> AbstractContextManager[ListPath]: ...

    def behind(self) -> AbstractContextManager[ListPath]: ...

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

    def takes_files(self, path: str) -> bool: ...

    def patch(
        self,
        path: str,
        content: Content,
        ranges: Sequence[tuple[int, int]],
        *,
        base: Entry,
    ) -> Entry: ...

    def append(
        self, path: str, content: Content, start: int, end: int, *, base: Entry
    ) -> Entry: ...

    def check_name(self, path: str) -> None: ...

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def remove(self, path: str, *, traces: Collection[Trace] = ()) -> None: ...

    def aside(self, path: str) -> str: ...

    def replaces(self) -> bool | None: ...

    def rename(
        self,
        old: str,
        new: str,
        *,
        replace: bool,
        aside: str = "",
        keep: bool = False,
        traces: Collection[Trace] = (),
    ) -> None: ...

    def check_removable(self, path: str, aside: str) -> None: ...

    def chmod(self, path: str, mode: int) -> None: ...

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int: ...

    def doubts_size(self, entry: Entry) -> bool: ...

    def is_same_time(self, first: int, second: int) -> bool: ...

    def sets_on_folders(self) -> tuple[bool | None, bool | None]: ...

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]: ...
