"""Landing: local files that appear under their names when they are complete.

Owns their temporary names. A file that arrives has no name at all, if the disk supports that, so
nothing is left after a kill. A leaf: it imports nothing of ftpfs.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

# Our temporary names on this machine.
_TEMPORARY = re.compile(r"\.ftpfs-[0-9a-f]{12}(?:-[0-9a-f]{12})?\.part")


@contextlib.contextmanager
def replacing(target: str, mtime: int | None) -> Iterator[BinaryIO]:
    """A file that replaces `target` when the block ends without an error.

    Its time becomes `mtime` (seconds). An old file's mode stays. After an error nothing is left.
    """
    target = os.path.realpath(target)  # the file behind a link is replaced, the link stays
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as out:  # devices and FIFOs are not replaced
            yield out
        return
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(os.stat(target).st_mode)
    with (
        arriving(target, mtime, mode) as descriptor,
        open(descriptor, "wb", closefd=False) as out,
    ):
        yield out


@contextlib.contextmanager
def arriving(target: str, mtime: int | None, mode: int | None) -> Iterator[int]:
    """A descriptor of a new file that replaces `target` when the block ends without an error.

    Its time becomes `mtime` (s since the epoch), its mode `mode`; None: as for any new file. After
    an error nothing is left. A link at `target` is replaced itself. Raises OSError.
    """
    check_replaceable(target)
    # In the same folder, because rename cannot cross file systems. open() applies the umask.
    folder = os.path.dirname(target)
    temporary = ""
    descriptor = _open_nameless(folder)
    if descriptor is None:
        temporary = temporary_in(folder)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        yield descriptor
        if mode is not None:
            os.fchmod(descriptor, mode)
        if mtime is not None:
            with contextlib.suppress(OSError, OverflowError):  # a time that this disk lacks
                os.utime(descriptor, (mtime, mtime))
        if not temporary:
            try:
                _give_name(descriptor, target)
            except FileExistsError:
                temporary = temporary_in(folder)
                _give_name(descriptor, temporary)
        if temporary:
            os.replace(temporary, target)
    except BaseException:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def replace_by_link(target: str, points_to: str) -> None:
    """Make a link at `target`, in place of the file or link there."""
    check_replaceable(target)
    temporary = temporary_in(os.path.dirname(target))
    os.symlink(points_to, temporary)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def check_replaceable(target: str) -> None:
    """Raises FileExistsError if a device, a pipe or a socket has this name, or a link to one.

    A rename would put a file in its place, for all programs of this machine.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileExistsError(errno.EEXIST, "a device, a pipe or a socket is there", target)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one in arrival."""
    return bool(_TEMPORARY.fullmatch(name))


def part_name(name: str, version: str) -> str:
    """The name of the part that a run leaves of the file `name`, of this version."""
    return f".ftpfs-{_digits(name)}-{_digits(version)}.part"


def is_part_of(found: str, name: str) -> bool:
    """Whether `found` is the name of a part of the file `name`, of any version."""
    return is_temporary(found) and found.startswith(f".ftpfs-{_digits(name)}-")


def _digits(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def temporary_in(folder: str) -> str:
    """The path of a new temporary file in that folder."""
    return os.path.join(folder, f".ftpfs-{secrets.token_hex(6)}.part")


def _open_nameless(folder: str) -> int | None:
    """A file without a name in that folder; None if the file system does not support it."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:
        return None


def _give_name(descriptor: int, path: str) -> None:
    # With a descriptor Python calls linkat(2), which follows the link in /proc.
    source = f"/proc/self/fd/{descriptor}"
    os.link(source, path, src_dir_fd=descriptor, follow_symlinks=True)
