"""What a mount says of itself, for people and scripts: plain data, a snapshot.

`control` carries it as JSON (`dataclasses.asdict`), `cli` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PendingFile:
    """A file whose content is not on the server yet."""

    path: str
    state: str  # "dirty": waits for its turn; "uploading"; "failed": for good, until it is touched
    size: int  # bytes to send
    sent: int  # of them, those handed to the connection
    attempts: int  # that failed
    error: str | None  # what the last of them failed with, one line, printable
    since: float  # when it was closed; seconds since the epoch


@dataclass(frozen=True)
class UploadStatus:
    """The way of written files to the server."""

    pending: tuple[PendingFile, ...]  # those uploading first, then in the order of their turns
    files: int  # how many wait, are under way, or failed
    bytes: int  # theirs, that were not sent yet
    uploaded_files: int  # since the mount
    uploaded_bytes: int
    spool_used: int  # bytes on the local disk
    spool_limit: int | None


@dataclass(frozen=True)
class CacheStatus:
    """The block cache, since the mount."""

    used: int  # bytes
    capacity: int
    hits: int  # reads answered at once, in blocks
    misses: int
    downloaded: int  # bytes that came from the server as file contents


@dataclass(frozen=True)
class ConnectionStatus:
    idle: int
    busy: int
    limit: int  # what the server is known to allow, or the option
    waiting: int  # for a connection, now


@dataclass(frozen=True)
class MountStatus:
    source: str
    connections: ConnectionStatus
    uploads: UploadStatus
    cache: CacheStatus
