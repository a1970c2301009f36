"""What a mount reports about itself, for people and scripts: plain data, a snapshot.

The daemon's control socket sends it as JSON (`dataclasses.asdict`), and the commands show it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PendingFile:
    """A file whose content is not on the server yet, or a change of a name that waits."""

    path: str
    state: str  # "dirty": waits to be sent; "uploading"; "failed": not retried until changed
    size: int  # bytes to send
    sent: int  # of these, bytes handed to the connection
    attempts: int  # failed attempts
    error: str | None  # error of the last failed attempt, one line, printable
    since: float  # when it was closed; seconds since the epoch
    change: str = ""  # of a change of a name: what is to be done; "" for a file's content


@dataclass(frozen=True)
class UploadStatus:
    """Uploads of a mount: what waits, and what is done."""

    pending: tuple[PendingFile, ...]  # those uploading first, then in sending order
    files: int  # how many wait, are uploading, or failed
    bytes: int  # of these files, bytes not sent yet
    uploaded_files: int  # since the mount
    uploaded_bytes: int
    spool_used: int  # bytes on the local disk
    spool_limit: int | None
    changes: int = 0  # of `files`, how many are changes of names


@dataclass(frozen=True)
class CacheStatus:
    """The block cache, since the mount."""

    used: int  # bytes
    capacity: int
    hits: int  # reads answered at once, in blocks
    misses: int
    downloaded: int  # bytes of file contents received from the server


@dataclass(frozen=True)
class StoreStatus:
    """The store of one server's contents on this machine's disk, of all mounts that share it."""

    used: int  # bytes of disk, without those of kept contents
    kept: int  # bytes of kept contents
    capacity: int  # bound of `used`
    files: int
    hits: int  # blocks asked for that were here, since the store was made
    misses: int


@dataclass(frozen=True)
class PassthroughStatus:
    """Whether the kernel reads and writes files on this machine's disk itself."""

    on: bool
    why: str = ""  # why not
    files: int = 0  # that were lent to the kernel, since the mount
    # How often the store had no content for a reader that could be lent, by the reason.
    unlent: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A path of the server that is kept on this machine, and how it was found last."""

    path: str
    looked: float = 0.0  # when the last look began (seconds since the epoch); 0: none so far
    complete: bool = False  # after that look, everything was here
    files: int = 0  # that are here
    bytes: int = 0  # of these
    lacking: int = 0  # files and folders that could not be fetched
    missing: bool = False  # the server has nothing at that path


@dataclass(frozen=True)
class ConnectionStatus:
    idle: int
    busy: int
    limit: int  # what the server is known to allow, or the option
    waiting: int  # threads waiting for a connection now
    others: tuple[str, ...] = ()  # other processes of this user at the server, a line each
    allowed: int | None = None  # connections that the server allows this user; None: not known


@dataclass(frozen=True)
class LimitStatus:
    """Limits of the rate, as the user wrote them, and those of this moment.

    Bytes a second; None: no limit at this time of the day.
    """

    down: str
    up: str
    down_now: int | None
    up_now: int | None


@dataclass(frozen=True)
class MountStatus:
    source: str
    connections: ConnectionStatus
    uploads: UploadStatus
    cache: CacheStatus
    store: StoreStatus | None = None
    limits: LimitStatus | None = None
    passthrough: PassthroughStatus | None = None
    offline_since: float | None = None  # seconds since the epoch; None: the server is here
