"""The control socket: status and commands for a running mount, and how to find its daemon.

Owns where the sockets are, who may use them, and what is sent over them. `running` makes the
answers, and the commands show them.

The folder is 0700 below the user's state folder. The runtime folder would be deleted when the user
logs out, while the daemon goes on. A socket is named after its mountpoint and its daemon's process,
because another mount may take the place of one whose daemon still uploads. The socket of a dead
daemon refuses connections; a program that finds such a socket deletes it.

The conversation: one line of JSON asks, `{"v": 1, "ask": "status", ...}`. Lines of JSON answer,
`{"v": 1, "reply": {...}}` each. The last line is `{"v": 1, "end": true}` or `{"v": 1, "error":
"..."}`. So a client can tell a daemon that died from one that has answered in full. Names that are
not UTF-8 are lone surrogates, as in Python.

Threading: one thread accepts. Each client has a thread of its own, at most MOST_CLIENTS of them. No
client can make the daemon hold a lock of the mount: answers are made before they are sent, and
sending has a deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ftpfs import errors
from ftpfs.local import private
from ftpfs.model.status import (
    CacheStatus,
    ConnectionStatus,
    LimitStatus,
    MountStatus,
    PassthroughStatus,
    PendingFile,
    StoreStatus,
    UploadStatus,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1
# Limit of clients at a time. A client that waits for a sync occupies a place for minutes, and
# `ftpfs status` must not wait for that.
MOST_CLIENTS = 32
BACKLOG = 64  # further clients that wait in the kernel's queue
# Limit of a request. A path has at most 4096 bytes, and each takes up to six characters of JSON
# ("\udcff").
REQUEST_BYTES = 64 << 10
# Limit of a line of an answer: twice what a thousand pending files with the longest names and
# errors take.
REPLY_BYTES = 8 << 20
BACKLOG_SECONDS = 0.05  # how long a client waits before it tries a full queue again
# How long a client may take to ask, and to receive a line of the answer.
CLIENT_SECONDS = 5.0
# A daemon that is silent for this time is considered stuck. Answers that take longer are sent in
# pieces (`status` every quarter of a second).
SILENCE_SECONDS = 10.0
# How long the daemon waits if it has no descriptor or no thread for a client.
SHORTAGE_SECONDS = 0.5
# How long answers may go on when the daemon ends.
FAREWELL_SECONDS = 2.0

Request = Mapping[str, Any]
Reply = dict[str, Any]
Answer = Callable[[Request], Iterator[Reply]]


@dataclass(frozen=True)
class Report:
    """What a daemon reports about its mount and its process."""

    mountpoint: str
    pid: int
    state: str  # "mounted"; "leaving": unmounted, uploads go on; "left": all is done
    since: float  # when it was mounted; seconds since the epoch
    binding: str
    spool: str  # the folder for what is not uploaded yet
    upload_rate: float  # bytes a second, averaged over some seconds
    download_rate: float
    status: MountStatus
    note: str = ""  # a line with anything else that the user should know
    # Files that were closed before the power was lost, and were not on the disk: a line for each.
    lost: tuple[str, ...] = ()
    held: tuple[str, ...] = ()  # files that are left to the next mount: a line for each

    def to_reply(self) -> Reply:
        return asdict(self)

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Report:
        """The report in a reply, without unknown fields. Raises FtpfsError if it is none."""
        try:
            status = reply["status"]
            uploads = status["uploads"]
            pending = tuple(_build(PendingFile, each) for each in uploads["pending"])
            built = _build(
                MountStatus,
                status,
                connections=_build(
                    ConnectionStatus,
                    status["connections"],
                    others=tuple(map(str, status["connections"].get("others", ()))),
                ),
                uploads=_build(UploadStatus, uploads, pending=pending),
                cache=_build(CacheStatus, status["cache"]),
                limits=_build(LimitStatus, limits) if (limits := status.get("limits")) else None,
                store=_build(StoreStatus, store) if (store := status.get("store")) else None,
                passthrough=_build(PassthroughStatus, told)
                if (told := status.get("passthrough"))
                else None,
            )
            lines = {name: tuple(map(str, reply.get(name, ()))) for name in ("lost", "held")}
            return _build(cls, reply, status=built, **lines)
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.FtpfsError("the daemon is of another version of ftpfs") from error


def _build(kind: type[T], values: Mapping[str, Any], **built: object) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    return kind(**{name: value for name, value in {**values, **built}.items() if name in names})


# The folder.


def default_folder() -> Path:
    from ftpfs.daemon import places

    return places.state() / "control"


class Daemon(NamedTuple):
    """The socket of a daemon."""

    socket: Path
    pid: int

    def serves(self, mountpoint: str) -> bool:
        """Whether the daemon is, or was, mounted there."""
        return self.socket.name.startswith(f"{_hash(mountpoint)}-")


def daemons(mountpoint: str | None = None, folder: Path | None = None) -> list[Daemon]:
    """This user's daemons that accept connections, or those of one mountpoint; the newest last.

    Deletes sockets on which no daemon listens any more.
    """
    folder = folder or default_folder()
    wanted = f"{_hash(mountpoint)}-*.sock" if mountpoint else "*.sock"
    found = []
    for path in sorted(folder.glob(wanted), key=_age):
        try:
            with _connected(path, CLIENT_SECONDS):
                pass
        except (ConnectionRefusedError, FileNotFoundError):
            log.info("%s is the socket of a daemon that died; deleted", path)
            path.unlink(missing_ok=True)
        # its queue is full, it is slow, or the socket belongs to another user
        except OSError as error:
            log.info("%s: %s", path, error)
        else:
            found.append(Daemon(path, int(path.stem.partition("-")[2] or 0)))
    return found


def _hash(mountpoint: str) -> str:
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name of a socket that fits into the kernel's limit of 108 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


# Asking.


def ask(
    daemon: Daemon, what: str, *, silence: float = SILENCE_SECONDS, **words: object
) -> Generator[Reply, None, None]:
    """Ask a daemon, and yield its replies as they come. Close the generator early to hang up.

    Raises FtpfsError with the daemon's error, ConnectionLost if the daemon is gone or dies
    meanwhile, and DeadlineExceeded if it is silent for `silence` seconds.
    """
    try:
        with _connected(daemon.socket, silence) as connection:
            connection.sendall(_line({"ask": what, **words}))
            yield from _replies(_Lines(connection, REPLY_BYTES), silence)
    except TimeoutError as error:
        raise errors.DeadlineExceeded(
            f"the daemon (process {daemon.pid}) did not answer for {silence:g} s"
        ) from error
    except OSError as error:
        raise errors.ConnectionLost(f"the daemon (process {daemon.pid}) is gone") from error


def _replies(lines: _Lines, silence: float) -> Iterator[Reply]:
    while True:
        message = lines.next(time.monotonic() + silence)
        if "error" in message:
            raise errors.FtpfsError(str(message["error"]))
        if "reply" not in message:
            return
        yield message["reply"]


@contextlib.contextmanager
def _connected(path: Path, deadline: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(deadline)
        with _address(path) as address:
            _connect(connection, address, time.monotonic() + deadline)
        yield connection


def _connect(connection: socket.socket, address: str, deadline: float) -> None:
    """Connect.

    A full queue is EAGAIN for a socket with a timeout, and poll(2) does not tell when it has room
    again (unix(7)). Hence the pauses.
    """
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(BACKLOG_SECONDS)


# The wire.


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps({"v": VERSION, **message}).encode("ascii") + b"\n"


class _Lines:
    """Messages from a socket, one a line."""

    def __init__(self, connection: socket.socket, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._held = b""

    def next(self, deadline: float) -> dict[str, Any]:
        """The next message, complete before `deadline` (of the monotonic clock).

        Raises FtpfsError if it is not a message, and OSError.
        """
        pieces = [self._held]
        size = len(self._held)
        while b"\n" not in pieces[-1]:
            if size > self._limit:
                raise errors.ProtocolError(f"a line of more than {self._limit} bytes")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            piece = self._connection.recv(1 << 16)
            if not piece:
                raise ConnectionResetError("hung up")
            pieces.append(piece)
            size += len(piece)
        line, _, self._held = b"".join(pieces).partition(b"\n")
        return _message(line)


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: UnicodeDecodeError, too
        raise errors.ProtocolError("not JSON") from None
    if not isinstance(message, dict):
        raise errors.ProtocolError("no JSON object")
    if message.get("v") != VERSION:
        raise errors.ProtocolError("the daemon is of another version of ftpfs")
    return message


# Answering.


class Control:
    """The socket of this daemon. `answers`: the generator of replies for each question."""

    def __init__(self, folder: Path, mountpoint: str, answers: Mapping[str, Answer]) -> None:
        """Raises OSError if the socket cannot be made."""
        self._answers = answers
        self._path = folder / f"{_hash(mountpoint)}-{os.getpid()}.sock"
        self._free = threading.Semaphore(MOST_CLIENTS)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        _make_private(folder)
        daemons(mountpoint, folder)  # deletes the sockets of dead daemons
        # The socket gets its real name only when it accepts connections. Earlier, other programs
        # would take it for the socket of a dead daemon.
        unheard = self._path.with_suffix(".new")
        unheard.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            with _address(unheard) as address:
                self._listener.bind(address)
            unheard.chmod(0o600)
            self._listener.listen(BACKLOG)
            unheard.replace(self._path)
        except OSError:
            self._listener.close()
            unheard.unlink(missing_ok=True)
            raise

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._accept, name="ftpfs-control", daemon=True).start()

    def close(self) -> None:
        """Accept no more questions. Answers under way may go on for FAREWELL_SECONDS."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        deadline = time.monotonic() + FAREWELL_SECONDS
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()

    def _accept(self) -> None:
        told = False
        while True:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
                self._begin_to_serve(client)
                told = False
            except (OSError, RuntimeError) as error:  # no descriptor, no thread
                self._free.release()
                if not (told or self._closing.is_set()):
                    told = True
                    log.warning("the control socket does not answer for now: %s", error)
                if self._closing.wait(SHORTAGE_SECONDS):
                    return

    def _begin_to_serve(self, client: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(client,), name="ftpfs-control-client", daemon=True
        )
        with self._lock:
            try:
                thread.start()
            except RuntimeError:
                client.close()
                raise
            self._threads.add(thread)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                if _may_ask(client):
                    self._converse(client)
        except OSError as error:
            log.debug("a client of the control socket: %s", error or type(error).__name__)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._free.release()

    def _converse(self, client: socket.socket) -> None:
        try:
            request = _Lines(client, REQUEST_BYTES).next(time.monotonic() + CLIENT_SECONDS)
            client.settimeout(CLIENT_SECONDS)
            answer = self._answers.get(str(request.get("ask")))
            if answer is None:
                raise errors.NotSupported(
                    "the daemon does not know this request (another version of ftpfs?)"
                )
            for reply in answer(request):
                client.sendall(_line({"reply": reply}))
            last: dict[str, object] = {"end": True}
        except errors.FtpfsError as error:
            last = {"error": str(error)}
        except OSError:
            raise
        except Exception as error:
            log.exception("a question on the control socket failed: unexpected error")
            last = {"error": f"{type(error).__name__}: {error}"}
        client.sendall(_line(last))


def path_in(request: Request) -> str:
    """The path that a question is about. Raises InvalidArgument."""
    path = request.get("path", "/")
    if not isinstance(path, str) or not path.startswith("/"):
        raise errors.InvalidArgument("the question has no path in it")
    return path


def _make_private(folder: Path) -> None:
    try:
        private.make_folder(folder)
    except errors.PermissionDenied as error:
        raise PermissionError(str(error)) from error


def _may_ask(client: socket.socket) -> bool:
    """Whether the client is this user or root (unix(7): SO_PEERCRED gives pid, uid and gid)."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    if uid in (os.geteuid(), 0):
        return True
    log.warning("user %d may not use the control socket; refused", uid)
    return False
