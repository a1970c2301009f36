"""Good conversations with a few spoiled replies, and what holds for each of them.

Owns: the ways in which replies are spoiled on their way from a good server (`Spoiler`), a day's
work on that server (`spend_a_day`), and its checks. Knows ftpfs through `Remote` only. The unit
tests and `scripts/fuzz` use it.

A reply that *lies*, or seems to, may say anything, also that a file does not exist or that a
command is done before it is. Other spoiled replies are lost, doubled or torn: those are faults of
the connection, and never an answer.

Threading: the server's threads spoil, the caller's works.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ftpfs import errors
from ftpfs.ftp.connections import conversation, hearing, starting
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import scripted_server as scripted
from tests.support.scripted_server import Manners

# Deadlines (s), and how long one operation may take with them: logins and attempts are repeated.
NETWORK = Network(
    connect_timeout=0.5,
    reply_timeout=0.4,
    data_timeout=0.4,
    finish_timeout=0.4,
    max_connections=3,
)
MOST_SECONDS = 8.0
# A day that takes longer (s) ends early.
DAY_SECONDS = 6.0

WHEN = 1_700_000_000
OLD, NEW, LONGER = b"hello, world\n", b"something new", b"this replaces something new"
BIG = bytes(range(256)) * 4096

FEATURES = (scripted.MODERN, scripted.OLD, ())
CODES = (
    *(120, 125, 150, 200, 202, 213, 220, 226, 227, 229, 230, 250, 257, 331, 350, 421, 425, 426),
    *(450, 451, 452, 500, 501, 502, 503, 504, 530, 550, 552, 553, 631, 999),
)
STRANGE = (
    b"\r\n",
    b"well then\r\n",
    b"200 yes\r\n",
    b"226 done\r\n",
    b"150 begun\r\n",
    b"213 7\r\n",
    b"213 20011231235959\r\n",
    b"350 go on\r\n",
    b"550 not this one\r\n",
    b"421 bye\r\n",
    b"220-\r\n",
    b"250-Look:\r\n type=file;size=7;modify=20011231235959; strange\r\n250 End\r\n",
    b"\xff\xf4\xff\xf2",
    b"x" * 70_000 + b"\r\n",
    b"214-help\r\n" + b" more\r\n" * 6000,
)


@dataclass(frozen=True)
class Spoiling:
    """What happens to one reply: `how` names a method of `Spoiler`, `a` and `b` steer it."""

    number: int  # of the reply, over all connections
    how: str
    a: int = 0
    b: int = 0


class Spoiler:
    """Spoils some of a server's replies. `pieces` are the packets in which a reply leaves."""

    def __init__(self, spoilings: Sequence[Spoiling]) -> None:
        self.spoilings = {each.number: each for each in spoilings}
        self.done: list[str] = []  # what was spoiled, for messages
        self._lock = threading.Lock()
        self._count = 0
        self._held = b""

    def pieces(self, reply: bytes) -> Sequence[bytes]:
        with self._lock:
            number, held = self._count, self._held
            self._count, self._held = number + 1, b""
        spoiling = self.spoilings.get(number)
        if spoiling is None:
            return [reply, held] if held else [reply]
        self.done.append(f"{spoiling} of {reply[:80]!r}")
        spoil: Callable[[bytes, int, int], Sequence[bytes]] = getattr(self, f"_{spoiling.how}")
        return [*spoil(reply, spoiling.a, spoiling.b), held]

    # Faults of the connection.

    def _drop(self, _reply: bytes, _a: int, _b: int) -> Sequence[bytes]:
        return []

    def _double(self, reply: bytes, _a: int, _b: int) -> Sequence[bytes]:
        return [reply + reply]

    def _split(self, reply: bytes, a: int, b: int) -> Sequence[bytes]:
        at = a % len(reply)
        if b & 1:
            return [reply[i : i + 1] for i in range(len(reply))]
        return [reply[:at], reply[at:]]

    def _tear(self, reply: bytes, a: int, _b: int) -> Sequence[bytes]:
        """The reply's end is lost."""
        return [reply[: a % len(reply)]]

    def _cut(self, reply: bytes, a: int, _b: int) -> Sequence[bytes]:
        """The connection ends within the reply."""
        return [reply[: a % (len(reply) + 1)], scripted.HANG_UP]

    # Lies, or what may look like one.

    def _echo(self, reply: bytes, _a: int, _b: int) -> Sequence[bytes]:
        """The reply comes again, perhaps behind the next command."""
        return [reply, reply]

    def _hold(self, reply: bytes, _a: int, _b: int) -> Sequence[bytes]:
        """The next reply comes first."""
        self._held = reply
        return []

    def _byte(self, reply: bytes, a: int, b: int) -> Sequence[bytes]:
        at = a % len(reply)
        return [reply[:at] + bytes([b]) + reply[at + 1 :]]

    def _code(self, reply: bytes, a: int, _b: int) -> Sequence[bytes]:
        old, new = reply[:3], b"%d" % CODES[a % len(CODES)]
        lines = reply.split(b"\r\n")
        return [b"\r\n".join(new + x[3:] if x.startswith(old) else x for x in lines)]

    def _open(self, reply: bytes, a: int, _b: int) -> Sequence[bytes]:
        """A reply of several lines that does not end, or ends wrongly."""
        lines = reply.splitlines(keepends=True)
        if len(lines) == 1:
            return [reply[:3] + b"-" + reply[4:]]
        return [b"".join(lines[:-1]) + (lines[-1][:3] + b"-\r\n" if a & 1 else b"")]

    def _line(self, reply: bytes, a: int, b: int) -> Sequence[bytes]:
        """One line is lost, doubled, or swapped with the next."""
        lines = reply.splitlines(keepends=True)
        at = a % len(lines)
        if b % 3 == 0:
            del lines[at]
        elif b % 3 == 1:
            lines.insert(at, lines[at])
        else:
            lines[at : at + 2] = reversed(lines[at : at + 2])
        return [b"".join(lines)]

    def _ends(self, reply: bytes, a: int, _b: int) -> Sequence[bytes]:
        return [reply.replace(b"\r\n", (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0\n", b"")[a % 6])]

    def _strange(self, reply: bytes, a: int, b: int) -> Sequence[bytes]:
        other = STRANGE[a % len(STRANGE)]
        return [other + reply, reply + other, other][b % 3 :][:1]


# What a fault of the connection may be told as: never as an answer about a name.
FAILURES = (errors.NetworkError, errors.ProtocolError, errors.NotSupported)
FAULTS = ("drop", "double", "split", "tear", "cut")
LIES = ("echo", "hold", "byte", "code", "open", "line", "ends", "strange")


@dataclass(frozen=True)
class Day:
    """A kind of server, and what happens to its replies."""

    features: Sequence[str]
    spoilings: Sequence[Spoiling]

    @property
    def lies(self) -> bool:
        return any(each.how in LIES for each in self.spoilings)


def day_of(data: bytes) -> Day:
    """A day from any bytes: one for the server, then four for each spoiling, at most four."""
    first, rest = (data[0] if data else 0), data[1:17]
    hows = FAULTS if first & 4 else (*FAULTS, *LIES)
    spoilings = [
        Spoiling(rest[i], hows[rest[i + 1] % len(hows)], rest[i + 2], rest[i + 3])
        for i in range(0, len(rest) - 3, 4)
    ]
    return Day(FEATURES[first % 4 % 3], spoilings)


def hurry(set_value: Callable[[object, str, object], None]) -> None:
    """Set ftpfs's own deadlines below those of NETWORK, by `set_value(module, name, value)`."""
    set_value(conversation, "GROOM_TIMEOUT", 0.4)
    set_value(hearing, "OPTIONAL_TIMEOUT", 0.2)
    set_value(hearing, "SECOND_REPLY_SECONDS", 0.05)
    set_value(hearing, "STRAY_TIMEOUT", 0.2)
    set_value(starting, "ARMED_TIMEOUT", 0.3)


class _Work:
    """One operation after the other, each with its checks."""

    def __init__(self, root: Path, day: Day, spoiler: Spoiler) -> None:
        self.root = root
        self.day = day
        self._spoiler = spoiler
        self._began = time.monotonic()

    @property
    def told(self) -> str:
        return f"{self.day}: {self._spoiler.done}"

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """An operation on a name that exists, or that can be made.

        It ends in time. A fault is no answer about a name. What it did is checked inside.
        """
        began = time.monotonic()
        try:
            yield
        except errors.FtpfsError as error:
            self._judge(what, error)
        finally:
            took = time.monotonic() - began
            assert took < MOST_SECONDS, f"{what} took {took:.1f} s: {self.told}"

    def _judge(self, what: str, error: errors.FtpfsError) -> None:
        told = f"{what}: {error!r} after {self.told}"
        assert not isinstance(error, (errors.NotPrepared, errors.Superseded)), told
        assert self.day.lies or isinstance(error, FAILURES), told

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._began > DAY_SECONDS

    def check(self, what: str, found: object, wanted: object) -> None:
        assert found == wanted, f"{what}: {found!r}, not {wanted!r}, after {self.told}"

    def check_done(self, what: str, holds: Callable[[], bool]) -> None:
        """What was reported as done is done, or is being done."""
        until = time.monotonic() + 1
        while not holds() and self.day.lies and time.monotonic() < until:
            time.sleep(0.005)
        assert holds(), f"{what} was not done, after {self.told}"

    def check_entry(self, path: str, entry: Entry, size: int) -> None:
        self.check(f"name of {path}", entry.name, os.path.basename(path))
        if not self.day.lies:
            self.check(f"size of {path}", entry.size, size)
            if entry.exact:
                when = int((self.root / path.lstrip("/")).stat().st_mtime)
                self.check(f"time of {path}", entry.mtime, when)


def spend_a_day(folder: Path, day: Day) -> str:
    """Work on a server in `folder` (empty) whose replies are spoiled, and check all of it.

    Returns what was spoiled. Raises AssertionError.
    """
    for name, data in (("hello", OLD), ("d/inner", NEW), ("d/other", OLD), ("big", BIG)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (WHEN + len(data),) * 2)
    spoiler = Spoiler(day.spoilings)
    failed: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failed.append(repr(args))
    try:
        manners = Manners(features=day.features, pieces=spoiler.pieces)
        with scripted.start(folder, manners) as server:
            login = Server(server.host, server.port, user=server.user)
            login = replace(login, password=Secret(server.password))
            remote = Remote(login, NETWORK)
            try:
                _work(remote, _Work(folder, day, spoiler))
            finally:
                began = time.monotonic()
                remote.close()
                assert time.monotonic() - began < MOST_SECONDS, f"close: {day}: {spoiler.done}"
    finally:
        threading.excepthook = hook
    assert not failed, f"{failed} after {day}: {spoiler.done}"
    return "; ".join(spoiler.done)


def _work(remote: Remote, work: _Work) -> None:
    for step in (_look, _read, _write, _change, _look, _read):
        if work.is_over:
            return
        step(remote, work)


def _look(remote: Remote, work: _Work) -> None:
    for path in ("/", "/d"):
        with work.doing(f"list {path}"):
            there = sorted(os.listdir(work.root / path.lstrip("/")))
            shown = [name for name in there if not name.startswith(".ftpfs-")]
            work.check(f"list {path}", sorted(e.name for e in remote.list(path)), shown)
    for path, size in (("/hello", len(OLD)), ("/d/inner", len(NEW)), ("/d/other", len(OLD))):
        with work.doing(f"stat {path}"):
            work.check_entry(path, remote.stat(path), size)


def _read(remote: Remote, work: _Work) -> None:
    with work.doing("read /hello"), remote.open_read("/hello") as download:
        work.check("read /hello", download.read(1 << 20), OLD)
    with work.doing("read /hello from 7 on"), remote.open_read("/hello", 7) as download:
        work.check("read /hello from 7 on", download.read(1 << 20), OLD[7:])
    for begin, meanwhile in ((0, _stat_meanwhile), (1000, _read_meanwhile)):
        with work.doing("read /big"):
            _read_beside(remote, work, begin, meanwhile)


def _read_beside(
    remote: Remote, work: _Work, begin: int, meanwhile: Callable[[Remote, _Work], None]
) -> None:
    """Begin to read, do something in another thread, on another session, and read the rest."""
    wanted = threading.Event()
    with remote.open_read("/big", begin, give_way=wanted.set) as download:
        work.check("begin of /big", download.read(5000), BIG[begin : begin + 5000])
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(meanwhile, remote, work)
            while not other.done():
                if wanted.wait(0.01):
                    download.close()
            other.result()
        if not wanted.is_set():
            work.check("rest of /big", download.read(1 << 21), BIG[begin + 5000 :])


def _stat_meanwhile(remote: Remote, work: _Work) -> None:
    with work.doing("stat meanwhile"):
        work.check_entry("/d/inner", remote.stat("/d/inner"), len(NEW))


def _read_meanwhile(remote: Remote, work: _Work) -> None:
    with work.doing("read meanwhile"), remote.open_read("/d/other") as download:
        work.check("read /d/other", download.read(1 << 20), OLD)


def _store(remote: Remote, path: str, data: bytes, base: Entry | None) -> Entry:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return remote.store(path, FileContent(file.fileno(), len(data), WHEN, 0o644), base=base)


def _write(remote: Remote, work: _Work) -> None:
    entry, path = None, work.root / "d" / "new"
    with work.doing("store"):
        entry = _store(remote, "/d/new", NEW, None)
        work.check_done("store", lambda: path.read_bytes() == NEW)
        work.check_entry("/d/new", entry, len(NEW))
    if entry is not None:
        with work.doing("store again"):
            _store(remote, "/d/new", LONGER, entry)
            work.check_done("store again", lambda: path.read_bytes() == LONGER)


def _change(remote: Remote, work: _Work) -> None:
    old, new, made = (work.root / name for name in ("old", "new", "made"))
    with work.doing("mkdir"):
        remote.mkdir("/made")
        work.check_done("mkdir", made.is_dir)
    with work.doing("rename"):
        old.write_bytes(NEW)
        remote.rename("/old", "/new", replace=False)
        work.check_done("rename", lambda: new.exists() and not old.exists())
    with work.doing("set_mtime"):
        shown = remote.set_mtime("/hello", WHEN)
        if not work.day.lies:
            work.check("set_mtime", int((work.root / "hello").stat().st_mtime), shown)
    with work.doing("chmod"):
        remote.chmod("/hello", 0o640)
    with work.doing("remove"):
        old.write_bytes(OLD)
        remote.remove("/old")
        work.check_done("remove", lambda: not old.exists())
