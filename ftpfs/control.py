"""How a mount is asked and told things: a unix socket per daemon, and the finding of it.

Owns: where the sockets are, who may use them, and what goes over them. Owns neither what is
answered (`running` brings that) nor how it is shown (`show`).

The folder is 0700 below the user's state folder, not the runtime one: that is deleted when the user
logs out, and the daemon goes on. A socket is named after its mountpoint and its daemon's process:
while one daemon still uploads what it was given, another may have been mounted in its place. The
socket of a daemon that died refuses connections; whoever meets it takes it away.

The conversation: one line of JSON asks, `{"v": 1, "ask": "status", ...}`; lines of JSON answer,
`{"v": 1, "reply": {...}}` each, and the last is `{"v": 1, "end": true}` or
`{"v": 1, "error": "..."}`, so that a daemon that dies is told from one that has no more to say.
Names that are not UTF-8 are lone surrogates, as in Python.

Threading: a thread accepts; each client has one of its own, CLIENTS of them at most. A client can
hold no lock of the mount: answers are made before they are sent, and sending has a deadline.
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
from ftpfs.core.status import (
    CacheStatus,
    ConnectionStatus,
    MountStatus,
    PendingFile,
    UploadStatus,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1
# At once. Who waits for a sync has a place for minutes, and `ftpfs status` must not wait for one.
CLIENTS = 32
BACKLOG = 64  # so many more wait for a place
# A path has 4096 bytes at most, and JSON needs six for one of them at worst ("\udcff").
REQUEST_LIMIT = 64 << 10
# A thousand pending files with the longest of names and errors are about half of it.
REPLY_LIMIT = 8 << 20
BACKLOG_PAUSE = 0.05  # seconds before a client that found it full tries again
# Seconds for a client to ask, and to take a line of the answer.
CLIENT_DEADLINE = 5.0
# Seconds of silence after which a daemon is believed to be stuck. Answers that take longer are
# sent in pieces (`status` every quarter of a second).
SILENCE = 10.0
# Seconds until a client is taken up again that could not be: descriptors or threads were short.
SHORTAGE_PAUSE = 0.5
# Seconds that the last lines have, when the daemon ends.
FAREWELL = 2.0

Request = Mapping[str, Any]
Reply = dict[str, Any]
Answer = Callable[[Request], Iterator[Reply]]


@dataclass(frozen=True)
class Report:
    """What a daemon says of itself: the mount, and the process around it."""

    mountpoint: str
    pid: int
    state: str  # "mounted"; "leaving": unmounted, uploads go on; "left": this is its last word
    since: float  # when it was mounted; seconds since the epoch
    binding: str
    spool: str  # the folder for what is not uploaded yet
    upload_rate: float  # bytes a second, over the last few
    download_rate: float
    status: MountStatus
    note: str = ""  # what somebody should know besides, a line

    def to_reply(self) -> Reply:
        return asdict(self)

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Report:
        """Raises FtpfsError for what cannot be such a report; what is unknown in it is ignored."""
        try:
            status = reply["status"]
            uploads = status["uploads"]
            pending = tuple(_build(PendingFile, each) for each in uploads["pending"])
            built = _build(
                MountStatus,
                status,
                connections=_build(ConnectionStatus, status["connections"]),
                uploads=_build(UploadStatus, uploads, pending=pending),
                cache=_build(CacheStatus, status["cache"]),
            )
            return _build(cls, reply, status=built)
        except (KeyError, TypeError, AttributeError) as error:
            raise errors.FtpfsError("the daemon is of another version of ftpfs") from error


def _build(kind: type[T], values: Mapping[str, Any], **built: object) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
    return kind(**{name: value for name, value in {**values, **built}.items() if name in names})


# The folder.


def default_folder() -> Path:
    import platformdirs

    return platformdirs.user_state_path("ftpfs") / "control"


class Daemon(NamedTuple):
    """A socket, by which a daemon may be asked."""

    socket: Path
    pid: int

    def serves(self, mountpoint: str) -> bool:
        """Whether that is where it is mounted, or was."""
        return self.socket.name.startswith(f"{_hash(mountpoint)}-")


def daemons(mountpoint: str | None = None, folder: Path | None = None) -> list[Daemon]:
    """The daemons of this user that accept connections, or those of one mountpoint; the newest
    last. Sockets that nobody listens on any more are deleted."""
    folder = folder or default_folder()
    wanted = f"{_hash(mountpoint)}-*.sock" if mountpoint else "*.sock"
    found = []
    for path in sorted(folder.glob(wanted), key=_age):
        try:
            with _connected(path, CLIENT_DEADLINE):
                pass
        except (ConnectionRefusedError, FileNotFoundError):
            log.info("%s is the socket of a daemon that died; deleted", path)
            path.unlink(missing_ok=True)
        except OSError as error:  # full, slow, or not ours
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
    """A name for a socket that fits into the 108 bytes that the kernel has for it."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


# Asking.


def ask(
    daemon: Daemon, what: str, *, silence: float = SILENCE, **words: object
) -> Generator[Reply, None, None]:
    """Ask a daemon; its replies as they come. Close the generator early to hang up.

    Raises FtpfsError: what the daemon could not do; ConnectionLost when it is gone or went in the
    middle; DeadlineExceeded when it says nothing for `silence` seconds.
    """
    try:
        with _connected(daemon.socket, silence) as connection:
            connection.sendall(_line({"ask": what, **words}))
            yield from _replies(_Lines(connection, REPLY_LIMIT), silence)
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
    """Connect. A full backlog is EAGAIN for a socket with a timeout, and poll does not tell when
    it has room again (unix(7)); hence the pauses."""
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(BACKLOG_PAUSE)


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
        """The next message, all of it by `deadline` (of the monotonic clock), however slowly it
        trickles in. Raises FtpfsError for what is none; OSError."""
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
    """The socket of this daemon. `answers`: what may be asked, and who answers it."""

    def __init__(self, folder: Path, mountpoint: str, answers: Mapping[str, Answer]) -> None:
        """Raises OSError where there can be no such socket."""
        self._answers = answers
        self._path = folder / f"{_hash(mountpoint)}-{os.getpid()}.sock"
        self._free = threading.Semaphore(CLIENTS)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        _make_private(folder)
        daemons(mountpoint, folder)  # for the deletion of sockets left by daemons that died
        # It is found when it accepts connections, and not before: others would take it for the
        # socket of a daemon that died.
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
        """Answer from now on."""
        threading.Thread(target=self._accept, name="ftpfs-control", daemon=True).start()

    def close(self) -> None:
        """No more questions. Who is being answered gets the rest, within FAREWELL seconds."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        deadline = time.monotonic() + FAREWELL
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
                    log.warning("this mount cannot be asked anything for now: %s", error)
                if self._closing.wait(SHORTAGE_PAUSE):
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
            request = _Lines(client, REQUEST_LIMIT).next(time.monotonic() + CLIENT_DEADLINE)
            client.settimeout(CLIENT_DEADLINE)
            answer = self._answers.get(str(request.get("ask")))
            if answer is None:
                raise errors.NotSupported("the daemon does not know this question")
            for reply in answer(request):
                client.sendall(_line({"reply": reply}))
            last: dict[str, object] = {"end": True}
        except errors.FtpfsError as error:
            last = {"error": str(error)}
        except OSError:
            raise
        except Exception as error:
            log.exception("a question was answered in a way nobody foresaw")
            last = {"error": f"{type(error).__name__}: {error}"}
        client.sendall(_line(last))


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)


def _may_ask(client: socket.socket) -> bool:
    """Whether it is this user, or root, who asks (unix(7): pid, uid and gid of the peer)."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    if uid in (os.geteuid(), 0):
        return True
    log.warning("user %d asked, and was not answered", uid)
    return False
