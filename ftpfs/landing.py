"""Landing: local files that appear under their names when they are complete.

A leaf: it imports nothing of ftpfs. Threading: any thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(target: str, mtime: int | None) -> Iterator[BinaryIO]:
    """A file that replaces `target` when the block ends without an error.

    Its time becomes `mtime` (seconds). After an error nothing is left. After a kill nothing is left
    either, if the file system supports files without names.
    """
    target = os.path.realpath(target)  # the file behind a link is replaced, the link stays
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as out:  # devices and FIFOs are not replaced
            yield out
        return
    # In the same folder, because rename cannot cross file systems. open() applies the umask.
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".ftpfs-{secrets.token_hex(6)}.part")
    try:
        with _open_nameless(folder) or open(temporary, "xb") as out:
            yield out
            out.flush()
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(out.fileno(), stat.S_IMODE(os.stat(target).st_mode))
            if mtime is not None:
                with contextlib.suppress(OSError, OverflowError):  # a time that this disk lacks
                    os.utime(out.fileno(), (mtime, mtime))
            if not os.path.exists(temporary):
                # With a descriptor Python calls linkat(2), which follows the link in /proc.
                source = f"/proc/self/fd/{out.fileno()}"
                os.link(source, temporary, src_dir_fd=out.fileno(), follow_symlinks=True)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _open_nameless(folder: str) -> BinaryIO | None:
    """A file without a name in that folder; None if the file system does not support it."""
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except OSError:
        return None
