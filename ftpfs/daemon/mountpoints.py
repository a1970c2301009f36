"""Mountpoints: where ftpfs is mounted on this system, and how to unmount it.

Owns the reading of the mount table, and the programs that unmount. Asks no daemon: `control_socket`
does.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
from typing import NamedTuple

from ftpfs import errors

# How long to wait for an answer of a mount (seconds). A live daemon answers from its cache, and the
# kernel answers for a dead one at once. Only a daemon that is stuck takes longer.
LOOK_SECONDS = 3.0


class Mountpoint(NamedTuple):
    path: str
    source: str  # as `mount` shows it
    uid: int  # the user whose daemon it is


def table() -> list[Mountpoint]:
    """Every mount of ftpfs in this system's mount table; the newest last."""
    found = []
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            source, where, kind, options, *_ = line.split(" ")
            if kind == "fuse.ftpfs":
                owner = re.search(r"(?:^|,)user_id=(\d+)", options)
                found.append(
                    Mountpoint(_unescaped(where), _unescaped(source), int(owner[1]) if owner else 0)
                )
    return found


def is_mounted(path: str) -> bool:
    """Whether ftpfs is mounted at exactly this absolute path."""
    return any(known.path == path for known in table())


def _unescaped(field: str) -> str:
    """A field of the mount table, where blanks and backslashes are octal numbers (fstab(5))."""
    raw = re.sub(
        rb"\\([0-7]{3})",
        lambda match: bytes([int(match[1], 8)]),
        field.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def absolute(path: str) -> str:
    """A mountpoint as the mount table writes it.

    Looks at nothing inside the mount, whose server may be unreachable.
    """
    path = os.path.abspath(path)
    if not is_mounted(path):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if not is_mounted(path):
        path = os.path.realpath(path)
    return path


def holding(path: str) -> tuple[str, str]:
    """The mountpoint that `path` is below, and the path within it. Raises InvalidArgument.

    Looks at nothing inside the mount, whose server may be unreachable.
    """
    path = os.path.abspath(path)
    found = _split(path) or _split(os.path.realpath(path))
    if found is None:
        raise errors.InvalidArgument(f"{path}: not in a mount of ftpfs")
    return found


def _split(path: str) -> tuple[str, str] | None:
    inside = [
        known.path for known in table() if (path + "/").startswith(known.path.rstrip("/") + "/")
    ]
    if not inside:
        return None
    mountpoint = max(inside, key=len)
    return mountpoint, "/" + path[len(mountpoint) :].strip("/")


def crashed(path: str) -> bool:
    """Whether the daemon of this mount is dead, so that the kernel answers ENOTCONN for it."""
    found: list[int] = []

    def look() -> None:
        try:
            # Not stat(2), which the kernel may answer from its cache for a second; and no question
            # for which a live daemon has to ask its server.
            os.getxattr(path, "user.ftpfs.state")
        except OSError as error:
            found.append(error.errno or 0)

    thread = threading.Thread(target=look, name="ftpfs-look", daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    # ECONNABORTED: the daemon died while it was asked.
    return bool({errno.ENOTCONN, errno.ECONNABORTED} & set(found))


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount. `lazy`: remove it from the tree at once, and for good after its last use.

    Raises FtpfsError.
    """
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if tool and os.getuid():
        command = [tool, "-u", *(["-z"] if lazy else []), path]
    else:
        command = ["umount", *(["-l"] if lazy else []), path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        hint = ""
        if "busy" in reason[0]:
            hint = f" (fuser -vm {path} tells who uses it; --lazy lets them finish)"
        raise errors.FtpfsError(f"{path}: not unmounted: {reason[0]}{hint}")
