"""Open files that are lent to the kernel, which reads and writes them without asking.

Owns: the lender, which of the kernel's opens may be lent to, and the looks at files that are lent.
How a spool file is lent is decided in `files.lending`, how a stored content is in `files.loans`.

Threading: any. `_changed` (Rank.MAPPED) of each watch guards its files. The counts are only shown.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.files.lending import Lender, Stored, Use, Watch
from ftpfs.core.files.looks import Looks
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.known import KnownNames
from ftpfs.core.store.lent import Unlent
from ftpfs.core.store.store import Store
from ftpfs.model.names import folder_of

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
# Flags of an open that is not lent to first: the local disk would ask for aligned buffers, and a
# write would wait for that disk, and not for the server.
_UNLENT = os.O_DIRECT | os.O_DSYNC | os.O_SYNC


class LentFiles:
    """The open files of one mount that are lent to the kernel."""

    def __init__(
        self,
        files: OpenFiles,
        known: KnownNames,
        looks: Looks,
        store: Store | None,
        *,
        is_read_only: bool,
        stream: Callable[[OpenFile], object],
        release: Callable[[int], None],
    ) -> None:
        """`is_read_only`: the mount. `stream` sends a file while it is written; `release` closes a
        handle for good."""
        self.lender: Lender | None = None  # the kernel
        self._files = files
        self._known = known
        self._looks = looks
        self._store = store
        self._is_read_only = is_read_only
        self._stream = stream
        self._release = release
        # Files that the kernel writes, files of which it reads stored contents, and handles whose
        # files may be written through memory maps.
        self._written, self._read = Watch(self._watch_written), Watch(self._watch_read)
        self._mapped = Watch(self._try_to_release)
        self._unlent: Counter[str] = Counter()

    def lend_to(self, lender: Lender) -> None:
        """Lend files to the kernel. Before the first open."""
        self.lender = lender
        if self._store is not None:
            self._store.begin_lending()

    def close(self) -> None:
        for watch in (self._written, self._mapped, self._read):
            watch.close()

    def unlent(self) -> dict[str, int]:
        """How often a stored content was not lent to a reader, by the reason."""
        return dict(self._unlent)

    # Opens and releases of the kernel.

    def lend(
        self,
        handle: int,
        flags: int,
        *,
        is_unsized: bool = False,
        caller: Callable[[], int] = lambda: 0,
    ) -> int:
        """The kernel has opened a file as this handle. Returns the number of the local file that it
        is to use for it; 0: it has to ask for each read and write.

        `is_unsized`: the file's size is not to be believed. `caller()`: the process that opened it;
        0: unknown. Raises OtherNode if the inode has a content that does not fit: see
        `check_inode`.
        """
        if self.lender is None:
            return 0
        file, access = self._files.handle(handle).file, flags & os.O_ACCMODE
        reads, writes = access != os.O_WRONLY, access != os.O_RDONLY
        use = Use(handle, reads, writes, 0 if self._store is None or writes else caller())
        # A refusal of the folder is to be told by a write, and such a write is not seen here.
        may_begin = not use.writes or self._known.takes_files(folder_of(file.path))
        may_begin = may_begin and not flags & _UNLENT
        stored = None
        if self._store is not None and not flags & _UNLENT and not is_unsized:
            stored = Stored(self._store.lend, self._is_read_only)
        answer = file.lending.begin(use, self.lender, may_begin=may_begin, stored=stored)
        if answer.why is not None and answer.why is not Unlent.UNSUITABLE:
            self._unlent[answer.why.value] += 1
        if answer.number and use.writes:
            self._written.add(file)
        elif answer.number and file.lending.loans.is_any:
            self._read.add(file)
        return answer.number

    def end(self, handle: int) -> bool:
        """The kernel has released a handle. False: it is released later, as its file may be written
        through a memory map."""
        if self.lender is None:
            return True
        if self._files.handle(handle).file.lending.end(handle, self.lender):
            return True
        self._mapped.add(handle)
        return False

    # Inodes.

    def check_inode(self, path: str, flags: int) -> None:
        """Before an open. Raises OtherNode if the kernel has the file open in a way that does not
        fit: then the name needs another inode (`fuse.turning`, `turn`)."""
        if self.lender is None or not flags & _WRITING:
            return
        if (file := self._files.at(self._files.known_as(path))) is not None:
            file.lending.loans.check(writes=True)

    def turn(self, path: str, old_inode: str) -> bool:
        """The name `path` gets another inode, and libfuse calls the present one `old_inode` from
        now on. False: there is no reason to by now."""
        file = self._files.at(self._files.known_as(path))
        if file is None or not file.lending.turn(old_inode):
            return False
        self._files.stand_for(old_inode, path)
        return True

    # Looks.

    def _watch_written(self, file: OpenFile) -> bool:
        with contextlib.suppress(errors.FtpfsError):
            if file.lending.begins_stream():
                self._stream(file)
        return file.lending.is_written()

    def _watch_read(self, file: OpenFile) -> bool:
        """Follow the server for programs that read on and do not ask for the size."""
        if self._store is not None and (names := file.lending.loans.due()):
            for name in names:
                self._store.note_lent(name)
            with contextlib.suppress(errors.FtpfsError):
                self._looks.follow(file)
        return file.lending.loans.is_any

    def _try_to_release(self, handle: int) -> bool:
        """Release a handle whose file was mapped. Returns whether it still is."""
        with contextlib.suppress(errors.FtpfsError):
            self._release(handle)  # adds it again, if it has to wait on
        return False
