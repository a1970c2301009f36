"""The line that `systemctl status` shows of a mount: what waits, failed, or keeps it from sending.

Owns the words and when they are sent; `systemd` sends them. Without systemd nothing is sent.

Threading: one, the housekeeper.
"""

from __future__ import annotations

from rich.filesize import decimal

from ftpfs.daemon import systemd
from ftpfs.errors import printable
from ftpfs.model.status import MountStatus

MAX_CHARACTERS = 500  # systemd shows one line


def words_of(status: MountStatus) -> str:
    """What a person should know of a mount, one printable line; "" if it is quiet.

    A failure comes first, because it needs a person.
    """
    uploads = status.uploads
    failed = [each for each in uploads.pending if each.state == "failed"]
    parts = []
    if failed:
        first = failed[0]
        parts.append(f"{len(failed):,} failed for good ({first.path}: {first.error})")
    if status.offline_since is not None:
        parts.append("the server is away")
    if waiting := uploads.files - len(failed):
        size = uploads.bytes - sum(each.size - each.sent for each in failed)
        parts.append(f"{waiting:,} to go, {decimal(size)}")
        errors = (each.error for each in uploads.pending if each.state != "failed")
        if error := next(filter(None, errors), ""):
            parts.append(f"last error: {error}")
    return printable("; ".join(parts))


class StatusText:
    """Tells systemd what a mount does, as long as there is something to tell.

    Attributes: `_quiet`, the text of a mount that has nothing to tell; `_told`, the last text sent.
    """

    def __init__(self, source: str, mountpoint: str) -> None:
        self._quiet = printable(f"{source} on {mountpoint}")
        self._told = self._quiet  # sent with READY=1

    def tell(self, status: MountStatus) -> None:
        words = words_of(status)
        text = f"{self._quiet}: {words}" if words else self._quiet
        # Text about work is repeated: the mount's start and end send texts of their own meanwhile.
        if words or text != self._told:
            systemd.notify(f"STATUS={text[:MAX_CHARACTERS]}")
        self._told = text
