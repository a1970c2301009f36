"""Opens of the kernel that may get a backing file: what each reply says about it.

Owns: the joining of what is lent (`core.lent`), the calls on the device (`passthrough`) and names
that get another inode (`turning`). Decides nothing about contents.

Threading: libfuse's threads, any number at once; no lock of its own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ftpfs import errors
from ftpfs.core.files.loans import OtherNode
from ftpfs.core.filesystem import Filesystem
from ftpfs.fuse.kernel import KernelView, Shape
from ftpfs.fuse.passthrough import Passthrough, name_backing_file
from ftpfs.fuse.turning import Turning


class Backing:
    """The backing files of one mount's opens."""

    def __init__(self, filesystem: Filesystem, kernel: KernelView, passthrough: Passthrough):
        self._fs = filesystem
        self._kernel = kernel
        self._passthrough = passthrough
        self._turning = Turning(kernel.mountpoint, kernel.give_files_up)
        # The calling process (or thread), 0 if unknown; set before the first call.
        self.caller: Callable[[], int] = lambda: 0

    def begin(self) -> None:
        """The mount is made."""
        if self._passthrough.is_on:
            self._fs.lent.lend_to(self._passthrough)

    @contextmanager
    def opening(self, path: str, flags: int) -> Iterator[None]:
        """Around an open. Raises StaleName if the name has to get another inode first."""
        if self._turning.is_hidden(path):
            # The caller had looked the name up before it got another inode.
            raise errors.StaleName(f"{path}: has another inode by now")
        try:
            self._fs.lent.check_inode(path, flags)
            yield
        except OtherNode:
            if self._turning.begin(path, self.caller()):
                raise errors.StaleName(f"{path}: gets another inode") from None
            raise errors.Changed(
                f"{path}: the kernel reads its stored content for other programs and took no other "
                "one: close them, or mount with passthrough=no"
            ) from None

    def lend(self, path: str, info: Any, shape: Callable[[], Shape] | None) -> None:
        """Have the kernel use a local file for this handle, if there is one; else decide whether it
        keeps its pages. Inside of `opening`.

        `shape()`: size and time that the kernel was told; None: the file is new.
        """
        unsized = bool(info.direct_io)
        try:
            number = self._fs.lent.lend(info.fh, info.flags, is_unsized=unsized, caller=self.caller)
        except OtherNode:
            self._fs.release(info.fh)
            raise
        if number:
            name_backing_file(info, number)
            self._kernel.forget_pages(path)
        elif self._fs.lent.lender and not unsized and shape is not None:
            # libfuse would do the same by `auto_cache`, but also for handles with a backing file,
            # and the kernel refuses that.
            info.keep_cache = self._kernel.keeps_pages(path, shape())

    def renames(self, old: str, new: str) -> bool:
        """Whether this rename is our own, and is done: the name gets another inode."""
        if not self._turning.is_ours(old, new):
            return False
        self._fs.begin_request()
        if not self._fs.lent.turn(old, new):
            self._turning.is_needless(old)
            raise OSError(errno.EINTR, f"{old}: can keep its inode")
        return True

    def wait_for_inode(self, path: str) -> None:
        """Before a look at a path: return when the name has the inode that it is to have.

        Raises NotFound for a name that is about to be made.
        """
        self._turning.wait(path, self.caller)
        if self._turning.is_to_be_made(path):
            raise errors.NotFound(f"{path}: a name that is about to be made")
