"""The contents on the disk: each is a plain file and, beside it, a side file about it.

Owns the folder of these files, and what the side file says. Does not know the index, nor who reads.

- `NAME` is the content, offset for offset the server's file, and as long as that. A block that is
  absent is a hole. So once the content is whole, any program can read it, and the kernel, too.
- `NAME.side` has a header (size, time, path, flags) and a table of checksums, 8 bytes a block,
  zeros if the block is absent. A checksum is written after its block, and covers the content's name
  and the block's number, too. So a block that a crash tore, that rotted, or that landed elsewhere
  is never served.

`NAME` begins with the file's own name, for a person who looks for one to delete. Any of these files
may be deleted at any time: without both, there is no content.

**Whole.** A content is marked as whole after all its blocks were there, they were synced to the
disk, and their checksums after them. After a power loss the mark is still true: a block that counts
is on the disk. From a whole content no block is taken away, because the kernel may have it open,
and would read zeros.

Threading: any thread may read. What creates, changes and deletes is the store's thread; those of
several mounts do it inside transactions of the index, except for the writing of blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import fcntl
import functools
import hashlib
import os
import posixpath
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ftpfs.core.reading.blocks import BLOCK_SIZE, Version

SIDE = ".side"
# A file on its way from the spool into the folder. It has no row in the index.
INCOMING = ".new"
PAGE_BYTES = 4096
# Blocks that are read and summed up at a time.
_AT_ONCE = 16
# Characters of the file's own name that NAME begins with. ASCII, so that each disk takes it.
OWN_NAME = 60

# An entry of the checksum table: the CRC, and a mark that tells an entry from a hole. For one
# block, CRC-32 takes 30 us, blake2b 170 us, and the read itself 16 us. Both find accidental damage
# equally well.
ENTRY = struct.Struct("<II")
MARK = 0x4654_5031
# The header: magic, size, time, flags, length of the path; then the path; then the CRC of all that.
HEADER = struct.Struct("<8sqqII")
MAGIC = b"ftpfs 2\n"
MOST_PATH_BYTES = 64 << 10

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)
_C = ctypes.CDLL(None, use_errno=True)


class Damaged(Exception):
    """Something on the disk is not what was written. The message says what."""


class Flag(enum.IntFlag):
    """What a side file says of its content."""

    NONE = 0
    WHOLE = 1
    KEPT = 2  # never evicted
    UNSUMMED = 4  # came from the spool, and its checksums are being computed


class Facts(NamedTuple):
    """Which content it is: the side file's header tells this."""

    path: str
    size: int  # bytes
    mtime: int  # seconds since the epoch

    @classmethod
    def of(cls, version: Version) -> Facts:
        return cls(version.path, version.size, version.mtime or 0)

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_SIZE)

    def length(self, index: int) -> int:
        """Bytes of block `index`."""
        return min(BLOCK_SIZE, self.size - index * BLOCK_SIZE)


@functools.lru_cache(1024)
def name_of(facts: Facts, owner: str = "") -> str:
    """The name of a content: its file's own name, and a hash of all that tells it from others.

    `owner`: the one mount that may serve it; "": all may.
    """
    key = f"{facts.size} {facts.mtime} {owner} {facts.path}".encode("utf-8", "surrogateescape")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in _own(facts))
    return f"{plain}~{hashlib.blake2b(key, digest_size=16).hexdigest()}"


def _own(facts: Facts) -> str:
    return posixpath.basename(facts.path)[-OWN_NAME:].lstrip(".") or "_"


def pages(size: int) -> int:
    """Bytes that a file of `size` bytes takes on the disk."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def side_bytes(facts: Facts) -> int:
    """Bytes that a content's side file takes on the disk."""
    return pages(_table_offset(facts) + facts.blocks * ENTRY.size)


class Content:
    """One content, open. It is closed with the last reference to it, because one thread may read
    from it while another drops it."""

    def __init__(self, name: str, fd: int, side: int, facts: Facts, flags: Flag) -> None:
        """`fd` and `side`: the open files, which belong to it from now on."""
        self.name = name
        self.facts = facts
        self.flags = flags
        self._fd = fd
        self._side = side
        self._seed = zlib.crc32(name.encode())
        self._table = _table_offset(facts)

    def __del__(self) -> None:
        os.close(self._fd)
        os.close(self._side)

    @property
    def is_unlinked(self) -> bool:
        return not (os.fstat(self._fd).st_nlink and os.fstat(self._side).st_nlink)

    @property
    def descriptor(self) -> int:
        """The open file of its bytes, as long as this object lives."""
        return self._fd

    def lock(self) -> bool:
        """Lock it for lending, or for cutting. False: somebody has it. The lock goes with the open
        file, wherever that is open by then."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def has(self, index: int) -> bool:
        return self._entry(index) is not None

    def is_complete(self) -> bool:
        """Whether all blocks are there."""
        return self._marks().count(MARK) == self.facts.blocks

    def absent(self) -> list[int]:
        """The numbers of the blocks that are not there."""
        marks = self._marks()
        gone = [index for index, mark in enumerate(marks) if mark != MARK]
        return gone + list(range(len(marks), self.facts.blocks))

    def read(self, index: int) -> bytes | None:
        """The block, or None if it is absent. Raises Damaged and OSError."""
        checksum = self._entry(index)
        if checksum is None:
            return None
        block = os.pread(self._fd, self.facts.length(index), index * BLOCK_SIZE)
        if self._checksum(index, block) == checksum:
            return block
        if self._entry(index) != checksum or self.is_unlinked:  # it was taken away meanwhile
            return None
        raise Damaged(f"block {index}")

    def write(self, first: int, blocks: list[bytes]) -> None:
        """Write consecutive blocks, and their checksums, in two system calls.

        While other threads read, each system call of this thread costs a wait for the interpreter.
        Raises OSError, also if only a part could be written.
        """
        _write_all(self._fd, blocks, first * BLOCK_SIZE)
        self._write_entries(first, blocks)

    def sum_up(self, first: int, count: int) -> int:
        """Compute the checksums of `count` blocks that are in the file already. Returns how many
        blocks there were."""
        blocks = range(first, min(first + count, self.facts.blocks))
        for start in range(blocks.start, blocks.stop, _AT_ONCE):
            found = [
                os.pread(self._fd, self.facts.length(index), index * BLOCK_SIZE)
                for index in blocks[start - first : start - first + _AT_ONCE]
            ]
            self._write_entries(start, found)
        return len(blocks)

    def seal(self) -> None:
        """Mark a complete content as whole: see the module. It waits for the disk."""
        os.fdatasync(self._fd)
        os.fdatasync(self._side)
        self.mark(Flag.WHOLE)

    def mark(self, flags: Flag = Flag.NONE, *, without: Flag = Flag.NONE) -> None:
        """Write the header with these flags, too, and without those.

        The present ones are read first: another mount may have changed them since the open.
        """
        fcntl.flock(self._side, fcntl.LOCK_EX)
        try:
            self.flags = (self._flags_now() | flags) & ~without
            _write_all(self._side, [_header(self.facts, self.flags, self.name)], 0)
        finally:
            fcntl.flock(self._side, fcntl.LOCK_UN)

    def is_kept(self) -> bool:
        """Whether it is kept by now, whoever decided that."""
        return bool(self._flags_now() & Flag.KEPT)

    def _flags_now(self) -> Flag:
        try:
            return _read_header(self._side, self.name)[1]
        except Damaged:
            return self.flags

    def cut(self, least: int) -> int:
        """Take the last blocks away, until at least `least` bytes are free. Returns how many are.

        Raises OSError, if the disk's file system has no holes.
        """
        marks = self._marks()
        first, freed = len(marks), 0
        while first and freed < least:
            first -= 1
            if marks[first] == MARK:
                freed += pages(self.facts.length(first))
        # The checksums first: a reader in between finds the block absent.
        gone = len(marks) - first
        _write_all(self._side, [bytes(gone * ENTRY.size)], self._table + first * ENTRY.size)
        _punch(self._fd, first * BLOCK_SIZE, self.facts.size - first * BLOCK_SIZE)
        return freed

    def _marks(self) -> array[int]:
        """The second half of each entry of the table, as far as it was ever written."""
        table = os.pread(self._side, self.facts.blocks * ENTRY.size, self._table)
        halves = array("I", table[: len(table) // ENTRY.size * ENTRY.size])
        if sys.byteorder == "big":
            halves.byteswap()
        return halves[1::2]

    def _entry(self, index: int) -> int | None:
        entry = os.pread(self._side, ENTRY.size, self._table + ENTRY.size * index)
        if len(entry) < ENTRY.size:
            return None
        checksum, mark = ENTRY.unpack(entry)
        return int(checksum) if mark == MARK else None

    def _write_entries(self, first: int, blocks: list[bytes]) -> None:
        entries = [
            ENTRY.pack(self._checksum(index, block), MARK)
            for index, block in enumerate(blocks, first)
        ]
        _write_all(self._side, entries, self._table + ENTRY.size * first)

    def _checksum(self, index: int, block: bytes) -> int:
        return zlib.crc32(block, zlib.crc32(index.to_bytes(8, "little"), self._seed))


class ContentFolder:
    """The folder of a store's contents. Methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = f"{path}/"  # a path object for each file takes as long as opening it

    def open(self, name: str, *, writable: bool = False) -> Content:
        """The content of that name.

        Raises FileNotFoundError if one of the two files is missing, Damaged, and OSError.
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        side = os.open(f"{self._prefix}{name}{SIDE}", flags)  # first: see `create`
        try:
            fd = os.open(f"{self._prefix}{name}", flags)
        except BaseException:
            os.close(side)
            raise
        try:
            facts, flag = _read_header(side, name)
            if os.fstat(fd).st_size != facts.size:
                raise Damaged("its length")
        except BaseException:
            os.close(fd)
            os.close(side)
            raise
        return Content(name, fd, side, facts, flag)

    def create(
        self, facts: Facts, name: str, *, source: Path | None = None, kept: bool = False
    ) -> Content:
        """A new content under that name, in the place of what is left of an old one.

        It has no block yet. `source`: a file that becomes the content, by a rename. A reader finds
        no content before its side file is there, with all of the header.
        """
        self.remove([name])
        flag = Flag.UNSUMMED if source else Flag.KEPT if kept else Flag.NONE
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        aside = f"{self._prefix}{os.urandom(8).hex()}{INCOMING}"
        side = os.open(aside, flags | os.O_EXCL, 0o600)
        try:
            _write_all(side, [_header(facts, flag, name)], 0)
            if source is not None:
                source.rename(self.path / name)
            fd = os.open(f"{self._prefix}{name}", flags, 0o600)
        except BaseException:
            os.close(side)
            _unlink(aside)
            raise
        content = Content(name, fd, side, facts, flag)
        os.ftruncate(fd, facts.size)
        if source is not None:
            os.fchmod(fd, 0o600)
        os.rename(aside, f"{self._prefix}{name}{SIDE}")
        return content

    def take_in(self, source: Path) -> Path:
        """Move a file from the spool here, by a rename. Returns its path."""
        incoming = self.path / f"{os.urandom(8).hex()}{INCOMING}"
        source.rename(incoming)
        return incoming

    def remove(self, names: Iterable[str]) -> None:
        """Delete contents, as far as they are there."""
        for name in names:
            _unlink(f"{self._prefix}{name}{SIDE}")
            _unlink(f"{self._prefix}{name}")

    def cut(self, name: str, least: int) -> int:
        """Free `least` bytes at the end of a content. Returns how many are free now; 0: it has to
        be removed.

        That holds for whole ones, and while checksums are computed: holes would count as blocks.
        And it holds for those that are lent to the kernel (`lent.py`).
        """
        with contextlib.suppress(OSError, Damaged):
            content = self.open(name, writable=True)
            if not content.flags & (Flag.WHOLE | Flag.UNSUMMED) and content.lock():
                return content.cut(least)
        return 0

    def has(self, name: str) -> bool:
        """Whether both files of a content are there."""
        prefix = self._prefix
        return os.path.exists(f"{prefix}{name}") and os.path.exists(f"{prefix}{name}{SIDE}")

    def names(self) -> set[str]:
        """The names of all contents, also of halves of them and of incoming files."""
        return {found.removesuffix(SIDE) for found in os.listdir(self.path)}

    def measured(self, name: str) -> tuple[Content, int] | None:
        """A content and the bytes that it takes; None if it is none, or was put there by hand."""
        try:
            content = self.open(name)
            taken = (self.path / name).stat().st_blocks * 512
        except (OSError, Damaged):
            return None
        if name_of(content.facts) != name:
            return None
        return content, taken + side_bytes(content.facts)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _read_header(side: int, name: str) -> tuple[Facts, Flag]:
    """What a side file says. Raises Damaged."""
    start = os.pread(side, PAGE_BYTES, 0)
    try:
        magic, size, mtime, flags, length = HEADER.unpack_from(start)
    except struct.error:
        raise Damaged("its side file") from None
    if magic != MAGIC or length > MOST_PATH_BYTES:
        raise Damaged("its side file")
    end = HEADER.size + length
    if end + 4 > len(start):
        start = os.pread(side, end + 4, 0)
    summed = zlib.crc32(start[:end], zlib.crc32(name.encode()))
    if summed != int.from_bytes(start[end : end + 4], "little"):
        raise Damaged("its side file")
    path = start[HEADER.size : end].decode("utf-8", "surrogateescape")
    return Facts(path, size, mtime), Flag(flags)


def _header(facts: Facts, flags: Flag, name: str) -> bytes:
    path = facts.path.encode("utf-8", "surrogateescape")
    header = HEADER.pack(MAGIC, facts.size, facts.mtime, flags, len(path)) + path
    return header + zlib.crc32(header, zlib.crc32(name.encode())).to_bytes(4, "little")


def _table_offset(facts: Facts) -> int:
    """Where the checksums begin: right behind the header, so that a small content has one page."""
    end = HEADER.size + len(facts.path.encode("utf-8", "surrogateescape")) + 4
    return -(-end // ENTRY.size) * ENTRY.size


def _punch(fd: int, offset: int, length: int) -> None:
    """Make [offset, offset + length) of a file a hole. Raises OSError."""
    mode = ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE)
    call = getattr(_C, "fallocate64", _C.fallocate)
    if call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write_all(fd: int, pieces: list[bytes], offset: int) -> None:
    if os.pwritev(fd, pieces, offset) == sum(map(len, pieces)):
        return
    # The disk has become full. If each piece is written alone, the one that does not fit raises.
    for piece in pieces:
        view = memoryview(piece)
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
