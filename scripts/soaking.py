"""What `scripts/soak` runs: work on a real mount while everything breaks, against a model.

    python -m scripts.soaking --minutes 10
    python -m scripts.soaking --seed 7 --server vsftpd     one round, as it was

Programs (cp, mv, rm, dd, truncate, rsync, tar...) change files through a mount. Between it and a
real server a relay cuts, delays and swallows; the daemon gets SIGKILL at random moments and is
mounted anew; somebody else changes files on the server's disk. A model says what each file may be:
what a call has returned for is so, what was under way is as before or as it was to become.

It is compared with the model
- after each call that failed, through the mount;
- after each kill, before the next mount: what was closed is whole on the server's disk or in the
  journal, and no file there has content that nobody wrote;
- after each `ftpfs sync`: the server's disk, byte for byte.

A seed fixes what is done, in which order and on which files, and the faults; not the moment at
which a thread runs. A seed that failed is likely to fail again within some repetitions.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import FtpServer, Kind

KINDS: tuple[Kind, ...] = ("vsftpd", "proftpd", "pure-ftpd")
ROUND = 60.0  # seconds with one server and one seed
WORKERS = 3
SIZES = (0, 1, 100, 4096, 70_000, 300_000, 1_500_000)
FOLDERS = ("", "d/", "d/e/", "g/")
PATIENCE = 40.0  # seconds until a mount must be readable in spite of the faults
MOST_FOUND = 60  # files that one worker keeps, about
SMALL = 64 << 10  # bytes; larger uploads are measured before they are renamed
OPTIONS = (
    "connect_timeout=2,reply_timeout=2,data_timeout=2,finish_timeout=2,idle_timeout=5,"
    "log_level=debug"
)
# What programs say when the network broke under them. Anything else is a finding.
# The last is what tar says of a file that it could not delete, whatever the reason was.
EXCUSES = ("Input/output error", "Connection timed out", "vanished", "Cannot open: File exists")
# rsync's temporary files: what a killed one leaves behind, nobody finished.
_LITTER = re.compile(r"^\.[^/]+\.[A-Za-z0-9]{6}$")
_CONFLICT = re.compile(r" \(conflict copy [-0-9 ]+\)")

Tree = dict[str, bytes | None]  # by the path below a worker's folder; None: a directory
Outcome = Literal["done", "failed", "killed"]


class Finding(AssertionError):
    """What must not be."""


@dataclass
class Counts:
    """What was done, and what was compared."""

    operations: int = 0
    failed: int = 0
    killed: int = 0
    faults: int = 0
    kills: int = 0
    settled: int = 0
    files: int = 0
    bytes: int = 0
    waiting: int = 0
    conflicts: int = 0
    foreign: int = 0
    verbs: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.operations} operations ({self.failed} failed by the network, {self.killed} cut "
            f"off by a kill), {self.foreign} foreign changes, {self.faults} faults, "
            f"{self.kills} kills that left {self.waiting} files in journals, "
            f"{self.conflicts} conflict copies, {self.settled} times settled, {self.files} files "
            f"with {self.bytes / 1e6:.0f} MB compared: nothing lost, nothing torn"
        )

    def add(self, other: Counts) -> None:
        for name in vars(self):
            if name == "verbs":
                self.verbs.update(other.verbs)
            else:
                setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Doubt:
    """A call failed: the tree is `before` or `after`; `mixed`, file by file.

    Files that are written over from the start (`torn`) may have as much of the new content as was
    written, as on any disk: they were not closed. A program that replaces by unlinking first leaves
    none (`mixed`).

    When the answer to a rename was lost (`moved`), what waited to be uploaded to the old name still
    goes there, and what the server had is at the new one: the contents are all there, though not
    together (docs/SEMANTICS.md).
    """

    before: Tree
    after: Tree
    mixed: bool
    torn: frozenset[str]
    moved: bool = False

    def allows(self, found: Tree) -> str:
        """What is wrong with it; "": nothing."""
        if self.moved:
            return self._wrong_after_move(found)
        if self.mixed:
            paths = found.keys() | self.before.keys() | self.after.keys()
            wrong = [path for path in sorted(paths) if not self._may_be(found, path)]
            return f"neither old nor new: {_described(wrong, found)}" if wrong else ""
        wrongs = []
        for state in (self.before, self.after):
            paths = (found.keys() | state.keys()) - self.torn
            wrong = [path for path in paths if not _same(found, state, path)]
            wrong += [path for path in self.torn if not self._may_be(found, path)]
            if not wrong:
                return ""
            wrongs.append(_described(sorted(wrong), found))
        return f"not as before: {wrongs[0]}; and not as it was to be: {wrongs[1]}"

    def _wrong_after_move(self, found: Tree) -> str:
        strange = found.keys() - self.before.keys() - self.after.keys()
        kept = set(self.before.values()) & set(self.after.values())
        lost = [content for content in kept - set(found.values()) if content is not None]
        wrong = [f"never was there: {_described(sorted(strange), found)}"] if strange else []
        wrong += [f"gone: {len(content)} bytes" for content in lost]
        return "; ".join(wrong)

    def _may_be(self, found: Tree, path: str) -> bool:
        if _same(found, self.before, path) or _same(found, self.after, path):
            return True
        if path not in found:
            return self.mixed
        content, new = found[path], self.after.get(path)
        if path not in self.torn or content is None or new is None:
            return False
        return new.startswith(content)


def _same(one: Tree, other: Tree, path: str) -> bool:
    return (path in one) == (path in other) and one.get(path) == other.get(path)


def _described(paths: Iterable[str], found: Tree) -> str:
    def what(path: str) -> str:
        if path not in found:
            return "not there"
        content = found[path]
        return "a directory" if content is None else f"{len(content)} bytes"

    return ", ".join(f"{path} ({what(path)})" for path in paths)


def read_tree(folder: Path) -> Tree:
    """All that others see below a folder; raises OSError."""

    def refuse(error: OSError) -> None:
        raise error

    tree: Tree = {}
    for here, folders, files in os.walk(folder, onerror=refuse):
        inside = "" if Path(here) == folder else f"{Path(here).relative_to(folder)}/"
        for name in folders:
            tree[inside + name] = None
        for name in files:
            if not name.startswith(".ftpfs-") and not _LITTER.match(name):
                tree[inside + name] = Path(here, name).read_bytes()
    return tree


@dataclass(frozen=True)
class Row:
    """What a journal says of a path."""

    patching: bool  # the file on the server was being changed in place
    small: bytes = b""  # the content, up to SMALL

    def explains(self, content: bytes) -> bool:
        """Whether an upload that did not end may have left this under the final name. Small files
        are renamed and measured in one exchange: cut short by a server that says 226 to it, they
        have their name until they are sent again (docs/design.md)."""
        return self.patching or self.small.startswith(content)


class Worker:
    """One program after the other, in a folder of its own."""

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        self.name = name
        self.soak = soak
        self.random = random.Random(seed)
        self.here = soak.mountpoint / name
        self.disk = soak.server.root / name
        self.local = soak.folder / f"local-{name}"
        self.local.mkdir()
        self.disk.mkdir()
        os.chown(self.disk, soak.server.uid, soak.server.gid)
        self.lock = threading.Lock()
        # Guarded by lock:
        self.tree: Tree = {}
        self.doubt: Doubt | None = None
        self.log: list[str] = []

    # What it does.

    def step(self) -> None:
        if self.doubt is not None and not self.settle_doubt():
            return
        files = [path for path, content in self.tree.items() if content is not None]
        if len(self.tree) > MOST_FOUND:
            self.remove_folder()
        elif not files or self.random.random() < 0.2:
            self.write()
        else:
            self.random.choice(self.deeds())(self.random.choice(sorted(files)))

    def deeds(self) -> list[Callable[[str], None]]:
        return [
            self.append,
            self.overwrite,
            self.truncate,
            self.remove,
            self.move,
            self.move,
            self.copy,
            self.read,
            self.touch,
            lambda _: self.make_folder(),
            lambda _: self.move_folder(),
            lambda _: self.unpack("tar"),
            lambda _: self.unpack("rsync"),
        ]

    def blob(self, size: int | None = None) -> bytes:
        return self.soak.remember(
            self.random.randbytes(self.random.choice(SIZES) if size is None else size)
        )

    def source(self, content: bytes) -> str:
        path = self.local / "source"
        path.write_bytes(content)
        return str(path)

    def place(self) -> str:
        """A name in a folder that is there."""
        folders = [f for f in FOLDERS if not f or f[:-1] in self.tree]
        return self.random.choice(folders) + f"f{self.random.randrange(6)}"

    def write(self) -> None:
        path, content = self.place(), self.blob()
        self.do(
            ["cp", self.source(content), path],
            {**self.tree, path: content},
            torn=path in self.tree,
        )

    def append(self, path: str) -> None:
        more = self.blob()
        content = self.soak.remember((self.tree[path] or b"") + more)
        script = 'cat "$1" >>"$2"'
        self.do(["sh", "-c", script, "sh", self.source(more), path], {**self.tree, path: content})

    def overwrite(self, path: str) -> None:
        old, piece = self.tree[path] or b"", self.blob(self.random.choice([1, 5000, 200_000]))
        start = self.random.randrange(len(old) + 1)
        content = self.soak.remember(old[:start] + piece + old[start + len(piece) :])
        source = self.source(piece)
        how = ["bs=1M", "conv=notrunc", "oflag=seek_bytes", f"seek={start}", "status=none"]
        self.do(["dd", *how, f"if={source}", "of=", path], {**self.tree, path: content})

    def truncate(self, path: str) -> None:
        old = self.tree[path] or b""
        size = self.random.choice([0, len(old) // 2, len(old) + 5000])
        content = self.soak.remember(old[:size].ljust(size, b"\0"))
        self.do(["truncate", "-s", str(size), path], {**self.tree, path: content})

    def remove(self, path: str) -> None:
        self.do(["rm", path], {p: c for p, c in self.tree.items() if p != path})

    def move(self, path: str) -> None:
        new = self.place()
        if new != path:
            after = {p: c for p, c in self.tree.items() if p != path}
            self.do(["mv", path, new], {**after, new: self.tree[path]})

    def copy(self, path: str) -> None:
        new = self.place()
        if new != path:
            after = {**self.tree, new: self.tree[path]}
            # When reading fails, cp closes what it has copied so far.
            self.do(["cp", path, new], after, torn=True)

    def read(self, path: str) -> None:
        self.soak.count("read")
        kills = self.soak.counts.kills
        try:
            content = (self.here / path).read_bytes()
        except OSError as error:
            self.excuse(str(error), kills)
            return
        if content != self.tree[path]:
            raise Finding(f"{self.name}/{path}: {len(content)} bytes read are not what is in it")

    def touch(self, path: str) -> None:
        when = f"@{self.random.randrange(1_600_000_000, 1_700_000_000)}"
        self.do(["touch", "-d", when, path], dict(self.tree))

    def make_folder(self) -> None:
        for folder in ("d", "d/e", "g"):
            if folder not in self.tree and (folder != "d/e" or "d" in self.tree):
                self.do(["mkdir", folder], {**self.tree, folder: None})
                return

    def move_folder(self) -> None:
        """d to g, or back, with all that is in it."""
        old, new = ("d", "g") if "d" in self.tree else ("g", "d")
        if old in self.tree and new not in self.tree:
            after = {
                new + path[1:] if path == old or path.startswith(old + "/") else path: content
                for path, content in self.tree.items()
            }
            self.do(["mv", "-T", old, new], after)

    def remove_folder(self) -> None:
        roots = sorted({path.split("/")[0] for path, c in self.tree.items()})
        chosen = [root for root in roots if self.random.random() < 0.7] or roots
        after = {p: c for p, c in self.tree.items() if p.split("/")[0] not in chosen}
        self.do(["rm", "-r", *chosen], after, mixed=True)

    def unpack(self, how: str) -> None:
        """A small tree, over what is there of an earlier one."""
        source = self.local / how
        shutil.rmtree(source, ignore_errors=True)
        inside: Tree = {how: None, f"{how}/sub": None}
        for number in range(self.random.randrange(1, 8)):
            folder = how if number % 2 else f"{how}/sub"
            inside[f"{folder}/{number}"] = self.blob(self.random.randrange(50_000))
        for path, content in inside.items():
            target = source / path
            target.mkdir(parents=True) if content is None else target.write_bytes(content)
        if how == "rsync":
            command = ["rsync", "-rt", f"{source}/{how}", ""]
        else:
            archive = self.local / "archive.tar"
            subprocess.run(["tar", "-C", source, "-cf", archive, how], check=True)
            command = ["tar", "-xf", str(archive), "-C", ""]
        self.do(command, {**self.tree, **inside}, mixed=True)

    # How it is done.

    def do(
        self, command: list[str], after: Tree, *, mixed: bool = False, torn: bool = False
    ) -> None:
        """Run a program; paths are below this worker's folder, in which it does not run: a killed
        mount could not be left."""
        argv = self.in_the_mount(command)
        kills = self.soak.counts.kills
        before = self.tree
        torn_paths = frozenset([command[-1]]) if torn else frozenset[str]()
        self.soak.count(command[0])
        done = subprocess.run(
            argv,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
        self.log.append(f"{time.strftime('%X')} {done.returncode} {' '.join(command)[-150:]}")
        if done.returncode == 0:
            self.tree = after
            return
        self.doubt = Doubt(before, after, mixed, torn_paths, moved=command[0] == "mv")
        self.excuse(done.stderr, kills)

    def in_the_mount(self, command: list[str]) -> list[str]:
        argv = list(command)
        if argv[0] == "dd":
            path = argv.pop()
            argv[-1] += str(self.here / path)
            return argv
        last = 2 if argv[0] in ("mv", "cp") and argv[-2][0] != "/" and argv[-2] != "-T" else 1
        last = len(argv) - 2 if argv[:2] == ["rm", "-r"] else 2 if argv[1] == "-T" else last
        return argv[:-last] + [str(self.here / path) for path in argv[-last:]]

    def excuse(self, why: str, kills: int) -> None:
        """A call failed: of what is all right, or this is a finding."""
        if self.soak.dead or self.soak.counts.kills != kills:
            self.soak.counts.killed += 1
            return
        self.soak.counts.failed += 1
        # mv copies what it cannot rename: but the rename was done, and only its answer was lost.
        why = "" if self.doubt and self.doubt.moved and "cannot stat" in why else why
        lines = [line for line in why.splitlines() if line and not line.startswith("rsync error")]
        strange = [line for line in lines if not any(word in line for word in EXCUSES)]
        if strange and len(strange) == len(lines):
            raise Finding(f"{self.name}: {why.strip()}")

    # What came of it.

    def settle_doubt(self) -> bool:
        """Look what came of a call that failed; False: nobody can look now."""
        assert self.doubt is not None
        deadline = time.monotonic() + PATIENCE
        while not self.soak.dead:
            try:
                found = read_tree(self.here)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Finding(f"{self.name} cannot be read: {error}") from error
                time.sleep(0.1)
                continue
            wrong = self.doubt.allows(found)
            if wrong:
                raise Finding(f"{self.name}, in the mount: {wrong}")
            for path, content in found.items():
                if content is not None:
                    if self.doubt.moved and not self.soak.knows(content):
                        raise Finding(f"{self.name}/{path} is torn: {len(content)} bytes")
                    self.soak.remember(content)
            self.tree, self.doubt = found, None
            return True
        return False

    def check_after_kill(self, rows: dict[str, Row]) -> None:
        """Before the next mount: `rows` are those of the journal, by path."""
        disk = read_tree(self.disk)
        for path, content in disk.items():
            if content is not None:
                self.soak.compared(content)
                row = rows.get(f"{self.name}/{path}")
                if not self.soak.knows(content) and not (row and row.explains(content)):
                    raise Finding(f"{self.name}/{path} is torn: {len(content)} bytes on the disk")
        if self.doubt is None:
            for path in self.tree:
                if not _same(self.tree, disk, path) and f"{self.name}/{path}" not in rows:
                    what = _described([path], disk)
                    raise Finding(f"{self.name}/{what} on the disk, and not in the journal")

    def check_settled(self) -> None:
        disk = read_tree(self.disk)
        wrong = [p for p in sorted(disk.keys() | self.tree.keys()) if not _same(disk, self.tree, p)]
        if wrong:
            raise Finding(
                f"{self.name}, on the disk: {_described(wrong, disk)}; and should be:"
                f" {_described(wrong, self.tree)}"
            )
        for content in disk.values():
            if content is not None:
                self.soak.compared(content)


class Foreigner(Worker):
    """Writes files here and, behind the mount's back, on the server's disk.

    Which of two contents has the name in the end depends on what the mount knew when; that both are
    still there does not. Foreign changes are made when the file is at rest, or while the server is
    out of reach: FTP has no conditional rename, and a change within the second of an upload may be
    replaced (docs/design.md).
    """

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        super().__init__(soak, name, seed)
        self.size = 1000
        self.must_be: dict[str, set[bytes]] = {}  # contents by the name that has or had them

    def step(self) -> None:
        path = f"f{self.random.randrange(5)}"
        with contextlib.suppress(OSError):
            self.random.choice([self.locally, self.from_outside, self.both])(path)

    def locally(self, path: str) -> None:
        content = self.unlike()
        self.must_be[path] = set()  # what happens to it if this fails, nobody knows
        self.write_here(path, content)
        self.must_be[path] = {content}

    def write_here(self, path: str, content: bytes) -> None:
        self.soak.count("write")
        (self.here / path).write_bytes(content)

    def from_outside(self, path: str) -> None:
        if self.is_at_rest():
            self.change_outside(path)

    def both(self, path: str) -> None:
        """Here, with the server out of reach, then there."""
        content = self.unlike()
        (self.here / path).exists()
        if not self.is_at_rest():
            return
        with self.soak.chaos.away():
            self.must_be[path] = set()
            self.write_here(path, content)
            self.must_be[path] = {content}
            self.change_outside(path)
            self.must_be[path].add(content)

    def change_outside(self, path: str) -> None:
        target = self.disk / path
        self.must_be[path] = set()
        self.soak.counts.foreign += 1
        if target.exists() and self.random.random() < 0.3:
            target.unlink()
            return
        content = self.unlike()
        fresh = self.soak.server.root / "coming"
        fresh.write_bytes(content)
        os.chown(fresh, self.soak.server.uid, self.soak.server.gid)
        fresh.rename(target)
        self.must_be[path] = {content}

    def unlike(self) -> bytes:
        """Content of a size that no other has: FTP tells by size and whole seconds."""
        self.size += 1
        return self.blob(self.size)

    def is_at_rest(self) -> bool:
        """Nothing is on its way (now, and nobody else writes here)."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not self.soak.dead:
            with contextlib.suppress(FileNotFoundError):
                if os.getxattr(self.here, "user.ftpfs.state") != b"clean":
                    time.sleep(0.05)
                    continue
            return True
        return False

    def settle_doubt(self) -> bool:
        return True

    def check_after_kill(self, rows: dict[str, Row]) -> None:
        self.tree = {}
        super().check_after_kill(rows)

    def check_settled(self) -> None:
        disk = read_tree(self.disk)
        there: dict[str, set[bytes]] = {}
        for name, content in disk.items():
            assert content is not None
            self.soak.compared(content)
            if not self.soak.knows(content):
                raise Finding(f"{self.name}/{name} is torn: {len(content)} bytes on the disk")
            there.setdefault(_CONFLICT.sub("", name), set()).add(content)
        for path, contents in self.must_be.items():
            lost = [len(content) for content in contents if content not in there.get(path, ())]
            if lost:
                raise Finding(f"{self.name}/{path}: contents of {lost} bytes are gone")
        copies = [name for name in disk if _CONFLICT.search(name)]
        self.soak.counts.conflicts += len(copies)
        for name in copies:
            (self.disk / name).unlink()
            self.must_be[_CONFLICT.sub("", name)] = set()


class Chaos:
    """The faults of the network, from a thread of its own."""

    def __init__(self, relay: Relay, seed: str, counts: Counts) -> None:
        self.relay = relay
        self.random = random.Random(seed)
        self.counts = counts
        self.lock = threading.RLock()
        self.calm = False  # guarded by lock

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self.random.uniform(0.02, 0.4)):
            with self.lock:
                if not self.calm:
                    self.random.choice(self.faults())()
                    self.counts.faults += 1

    def faults(self) -> list[Callable[[], object]]:
        dice, relay = self.random, self.relay
        after = dice.choice([0, dice.randrange(2000), dice.randrange(1_000_000)])
        skip = dice.randrange(10)
        return [
            lambda: relay.cut_control(skip=skip, when="before"),
            lambda: relay.cut_control(skip=skip, when="after"),
            lambda: relay.cut_control(skip=skip, when="final"),
            lambda: relay.cut_control("RNTO", when="final"),
            lambda: relay.cut_control("RNTO", when="before"),
            lambda: relay.cut_data("up", after=after, how="fin"),
            lambda: relay.cut_data("up", after=after, control=True),
            lambda: relay.cut_data("down", after=after),
            lambda: relay.drop_reply("STOR"),
            lambda: relay.cut_all(),
            lambda: self.flicker(),
            lambda: setattr(relay, "latency", dice.choice([0, 0, 0.002, 0.02])),
            lambda: relay.clear(),
            lambda: relay.clear(),
        ]

    def flicker(self) -> None:
        with self.away():
            time.sleep(self.random.uniform(0.05, 1))

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The server is out of reach."""
        with self.lock:
            # Not `vanish`, which gives its port away: others on this machine take it.
            self.relay.refuse_connections()
            self.relay.cut_all()
            time.sleep(0.05)  # for one that was being taken
            self.relay.cut_all()
            self.counts.faults += 1
            try:
                yield
            finally:
                self.relay.refuse_connections(None)

    @contextlib.contextmanager
    def no_faults(self) -> Iterator[None]:
        with self.lock:
            self.calm = True
            self.relay.clear()
            self.relay.reset()
        try:
            yield
        finally:
            with self.lock:
                self.calm = False


class Soak:
    """One server, one mount, one seed."""

    def __init__(self, server: FtpServer, relay: Relay, folder: Path, seed: int) -> None:
        self.server = server
        self.folder = folder
        self.seed = seed
        self.mountpoint = folder / "mnt"
        self.mountpoint.mkdir()
        self.state = folder / "state"
        self.log = folder / "mount.log"
        self.port = relay.port
        self.counts = Counts()
        self.random = random.Random(f"{seed} kills")
        self.chaos = Chaos(relay, f"{seed} chaos", self.counts)
        self.dead = False  # the daemon is, and not mounted again yet
        self._known = {_digest(b"")}
        self.workers: list[Worker] = [
            Worker(self, f"w{number}", f"{seed} {number}") for number in range(WORKERS)
        ]
        self.workers.append(Foreigner(self, "foreign", f"{seed} foreign"))
        self._stop = threading.Event()
        self._found: list[BaseException] = []

    # What was ever written.

    def remember(self, content: bytes) -> bytes:
        self._known.add(_digest(content))
        return content

    def knows(self, content: bytes) -> bool:
        return _digest(content) in self._known

    def compared(self, content: bytes) -> None:
        self.counts.files += 1
        self.counts.bytes += len(content)

    def count(self, verb: str) -> None:
        self.counts.operations += 1
        self.counts.verbs[verb] += 1

    # The round.

    def run(self, seconds: float, kill_every: float = 2.0, settle_every: float = 12.0) -> Counts:
        """Raises Finding."""
        deadline = time.monotonic() + seconds
        self.mount()
        threads = [threading.Thread(target=self._work, args=[each]) for each in self.workers]
        threads.append(threading.Thread(target=self.chaos.run, args=[self._stop]))
        for thread in threads:
            thread.start()
        try:
            settle_at = time.monotonic() + settle_every
            while not self._stop.is_set() and time.monotonic() < deadline:
                self._stop.wait(self.random.uniform(0.02, 2 * kill_every))
                with self.chaos.no_faults() if time.monotonic() > settle_at else _nothing():
                    if time.monotonic() > settle_at:
                        self.settle()
                        settle_at = time.monotonic() + settle_every
                    else:
                        self.kill()
        except BaseException as error:  # noqa: BLE001 (told in the end)
            self._found.insert(0, error)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(150)
        try:
            if not self._found:
                with self.chaos.no_faults():
                    self.settle()
        except BaseException as error:  # noqa: BLE001 (told in the end)
            self._found.append(error)
        finally:
            self.unmount()
        if self._found:
            raise self._found[0]
        return self.counts

    def _work(self, worker: Worker) -> None:
        while not self._stop.is_set():
            try:
                with worker.lock:
                    worker.step()
            except BaseException as error:  # noqa: BLE001 (told in the end)
                self._found.append(error)
                self._stop.set()
            time.sleep(0.005 if not self.dead else 0.05)

    def settle(self) -> None:
        """Everything is on the server's disk, and is what it should be."""
        with self._all_at_rest():
            for worker in self.workers:
                if worker.doubt is not None and not worker.settle_doubt():
                    raise Finding("the daemon died by itself")
            done = ftpfs(self.state, "sync", str(self.mountpoint))
            if done.returncode:
                raise Finding(f"ftpfs sync: {done.stderr.strip()}")
            for worker in self.workers:
                worker.check_settled()
            self.counts.settled += 1

    @contextlib.contextmanager
    def _all_at_rest(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for worker in self.workers:
                stack.enter_context(worker.lock)
            yield

    def kill(self) -> None:
        """SIGKILL, a look at what is left, and another mount."""
        self.dead = True
        self.counts.kills += 1
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)
        with self._all_at_rest():
            subprocess.run(["umount", "-l", self.mountpoint], check=True)
            deadline = time.monotonic() + 10
            while self.daemons():
                if time.monotonic() > deadline:
                    raise Finding("a daemon that was killed is still there")
                time.sleep(0.005)
            time.sleep(0.05)  # what the server was told last
            rows = self.rows()
            self.counts.waiting += len(rows)
            for worker in self.workers:
                worker.check_after_kill(rows)
            with self.chaos.no_faults():
                self.mount()
            self.dead = False

    def rows(self) -> dict[str, Row]:
        """What the journals of this mount speak of. Read from copies: nothing is changed."""
        rows: dict[str, Row] = {}
        for journal in self.state.rglob("journal.sqlite"):
            with tempfile.TemporaryDirectory() as folder:
                for path in journal.parent.glob("journal.sqlite*"):
                    shutil.copy(path, folder)
                connection = sqlite3.connect(Path(folder, "journal.sqlite"))
                moved = connection.execute("select old, new from intent").fetchall()
                for path, spool, patching in connection.execute(
                    "select path, spool, patching from unsent"
                ).fetchall():
                    if not (journal.parent / spool).exists():
                        raise Finding(f"the journal speaks of {spool}, which is not there")
                    names = [path, *(_moved(path, old, new) for old, new in moved)]
                    content = (journal.parent / spool).read_bytes()
                    row = Row(patching != "[]", content if len(content) <= SMALL else b"")
                    rows.update((os.fsdecode(name).lstrip("/"), row) for name in names)
                connection.close()
        return rows

    # The mount.

    def mount(self) -> None:
        done = ftpfs(
            self.state,
            "mount",
            f"ftp://{self.server.user}@{self.server.host}:{self.port}/",
            str(self.mountpoint),
            "-o",
            f"{OPTIONS},log_file={self.log}",
            password=self.server.password,
        )
        if done.returncode:
            raise Finding(f"ftpfs mount: {done.stderr.strip()}")

    def unmount(self) -> None:
        ftpfs(self.state, "umount", "--now", str(self.mountpoint))
        subprocess.run(["umount", "-l", self.mountpoint], check=False, stderr=subprocess.DEVNULL)
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)

    def daemons(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"mount" in line and os.fsencode(self.mountpoint) in line:
                        found.append(int(entry.name))
        return found


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def _moved(path: bytes, old: bytes, new: bytes) -> bytes:
    return new + path[len(old) :] if path == old or path.startswith(old + b"/") else path


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def ftpfs(state: Path, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftpfs", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(state), "FTPFS_PASSWORD": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def run_round(kind: Kind, seed: int, seconds: float, **pace: float) -> Counts:
    """A server, a relay, a mount, `seconds` of work. What is left of one that failed stays."""
    folder = Path(tempfile.mkdtemp(prefix="ftpfs-soak-"))
    folder.chmod(0o755)
    with (
        servers.start(kind, folder / "root", folder / "work") as server,
        Relay(server.host, server.port) as relay,
    ):
        soak = Soak(server, relay, folder, seed)
        try:
            counts = soak.run(seconds, **pace)
        except BaseException:
            for worker in soak.workers:
                (folder / f"{worker.name}.log").write_text("\n".join(worker.log) + "\n")
            print(f"What is left of it is in {folder}", file=sys.stderr)
            raise
    shutil.rmtree(folder, ignore_errors=True)
    return counts


def soak_core(seed: int, deadline: float) -> int:
    """The state machines of tests/unit/test_filesystem_model.py, with one seed after the other."""
    while time.monotonic() < deadline:
        model = ["tests/unit/test_filesystem_model.py", f"--hypothesis-seed={seed}"]
        print(f"--core --seed {seed}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-o", "timeout=0", *model],
            env={**os.environ, "FTPFS_MODEL_EXAMPLES": "200"},
            check=False,
        )
        if done.returncode:
            return done.returncode
        seed += 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--kills", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--core", action="store_true", help="the core alone, against its model")
    parser.add_argument(
        "--seed", type=int, help="repeat the round with this seed; with --kills, begin with it"
    )
    parser.add_argument("--server", choices=KINDS, help="with this server (all in turn)")
    options = parser.parse_args()
    total = Counts()
    deadline = time.monotonic() + options.minutes * 60
    seed = options.seed if options.seed is not None else int(time.time())
    if options.core:
        return soak_core(seed, deadline)
    while True:
        kind = options.server or KINDS[seed % len(KINDS)]
        began = time.monotonic()
        left = ROUND if options.kills else min(ROUND, max(5.0, deadline - began))
        try:
            counts = run_round(kind, seed, left, kill_every=0.7 if options.kills else 2.0)
        except Finding as finding:
            print(f"FOUND by --seed {seed} --server {kind}: {finding}")
            return 1
        total.add(counts)
        print(f"--seed {seed} --server {kind}: {counts}", flush=True)
        enough = time.monotonic() > deadline if not options.kills else total.kills >= options.kills
        if enough or (options.seed is not None and not options.kills):
            break
        seed += 1
    print(f"in all: {total}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
