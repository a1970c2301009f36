"""Workers beside the programs: changes by other clients, and refusals by the server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from scripts.soaking.calls import ftpfs, program
from scripts.soaking.model import CONFLICT, Finding, Row, Tree, described, read_tree, same
from scripts.soaking.worker import EXCUSES, PATIENCE, SHELLS, Worker

if TYPE_CHECKING:
    from scripts.soaking.rounds import Soak


class Foreigner(Worker):
    """Writes files here and, behind the mount's back, on the server's disk.

    Which of two contents has the name in the end depends on what the mount knew when; but both must
    still exist. This worker makes foreign changes only while the file is at rest, or while the
    server is unreachable: FTP has no conditional rename, and a change within the second of an
    upload may be replaced (docs/design.md).
    """

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        super().__init__(soak, name, seed)
        self.size = 1000
        self.away_at = 0.0  # not before this time: other workers need the server in between
        self.must_be: dict[str, set[bytes]] = {}  # contents by the name that has or had them

    def step(self) -> None:
        path = f"f{self.random.randrange(5)}"
        with contextlib.suppress(OSError):
            self.random.choice([self.locally, self.from_outside, self.both])(path)

    def locally(self, path: str) -> None:
        content = self.unlike()
        self.must_be[path] = set()  # if the write fails, its content may be anything
        self.write_here(path, content)
        self.must_be[path] = {content}

    def write_here(self, path: str, content: bytes) -> None:
        self.soak.count("write")
        (self.here / path).write_bytes(content)

    def from_outside(self, path: str) -> None:
        if self.is_at_rest():
            self.change_outside(path)

    def both(self, path: str) -> None:
        """Write here while the server is unreachable, then there."""
        if time.monotonic() < self.away_at:
            return
        content = self.unlike()
        (self.here / path).exists()
        if not self.is_at_rest():
            return
        self.away_at = time.monotonic() + self.random.uniform(0.5, 3)
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
        """Content of a unique size: FTP tells contents apart by size and whole seconds."""
        self.size += 1
        return self.blob(self.size)

    def is_at_rest(self) -> bool:
        """Wait until nothing is on its way (now; no other worker writes here)."""
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
            there.setdefault(CONFLICT.sub("", name), set()).add(content)
        for path, contents in self.must_be.items():
            lost = [len(content) for content in contents if content not in there.get(path, ())]
            if lost:
                raise Finding(f"{self.name}/{path}: contents of {lost} bytes are gone")
        copies = [name for name in disk if CONFLICT.search(name)]
        self.soak.counts.conflicts += len(copies)
        for name in copies:
            (self.disk / name).unlink()
            self.must_be[CONFLICT.sub("", name)] = set()


class Watcher(Worker):
    """Reads, in each possible way, files that others replace, lengthen and shorten.

    The result has to be a whole content that the file had when it was opened or later. The mount
    may trust what it saw of a file within `open_ttl`, but nothing older.
    """

    OPEN_TTL = 2.0  # seconds; the default of the option
    NEW_NAME = 10.0  # seconds; docs/SEMANTICS.md
    SLACK = 0.5  # seconds between a request of the mount and its note of the time
    # Seconds after an absence of the server until the mount has noticed its return: the pause
    # between two attempts to reach it is as long as the absence, and longer if logins fail.
    RETURN = 30.0

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        super().__init__(soak, name, seed)
        self.size = 1000
        # Contents by name, the oldest first, each with its start (monotonic).
        self.history: dict[str, list[tuple[float, bytes]]] = {}
        self.there_since: dict[str, float] = {}
        self.next_at = 0.0

    def step(self) -> None:
        if time.monotonic() < self.next_at:
            return
        self.next_at = time.monotonic() + self.random.choice([0, 0.1, 0.5, 1.5, 4])
        path = f"f{self.random.randrange(4)}"
        if path not in self.history:
            self.replace(path)
        kills = self.soak.counts.kills
        try:
            self.random.choice(self.deeds())(path)
        except OSError as error:
            if "No such file" in str(error):
                self.check_missing(path, kills)
            else:
                self.excuse(str(error), kills)

    def check_missing(self, path: str, kills: int) -> None:
        """A name that others have made shows within NEW_NAME.

        While the server cannot be asked, an older listing counts.
        """
        since = time.monotonic() - self.there_since[path]
        if since < self.NEW_NAME or self.soak.chaos.was_absent(self.RETURN + self.NEW_NAME):
            return
        missing_since = time.monotonic()
        while time.monotonic() - missing_since < 2 * self.NEW_NAME:
            time.sleep(1.1)  # the kernel believes for a second that the name is missing
            try:
                (self.here / path).stat()
            except OSError as error:
                if "No such file" not in str(error):
                    self.excuse(str(error), kills)
                    return
            else:
                return
        raise Finding(f"{self.name}/{path}: others made it, and it does not show")

    def deeds(self) -> list[Callable[[str], None]]:
        changes: list[Callable[[str], None]] = [self.replace, self.lengthen, self.shorten]
        # If the server is away, what `mv` deletes is deleted later, or refused.
        takes = [] if self.soak.chaos.absences else [self.take]
        return [*changes, self.look, self.look, *[self.read] * 5, *takes]

    # What others do.

    def put(self, path: str, content: bytes) -> None:
        self.soak.counts.foreign += 1
        self.history.setdefault(path, []).append((time.monotonic(), self.soak.remember(content)))
        del self.history[path][:-8]

    def replace(self, path: str) -> None:
        self.size += 1
        content = self.random.randbytes(self.size * self.random.choice([1, 1, 50]))
        if not (self.disk / path).exists():
            self.there_since[path] = time.monotonic()
        coming = self.soak.server.root / "watched"
        coming.write_bytes(content)
        os.chown(coming, self.soak.server.uid, self.soak.server.gid)
        coming.rename(self.disk / path)
        self.put(path, content)

    def lengthen(self, path: str) -> None:
        if (self.disk / path).exists():
            more = self.random.randbytes(self.random.choice([17, 5000, 300_000]))
            with open(self.disk / path, "ab") as file:
                file.write(more)
            self.put(path, self.history[path][-1][1] + more)

    def shorten(self, path: str) -> None:
        if (self.disk / path).exists():
            content = self.history[path][-1][1]
            size = self.random.randrange(len(content) + 1)
            os.truncate(self.disk / path, size)
            self.put(path, content[:size])

    # What is read.

    def look(self, _path: str) -> None:
        """As `ls -l`: afterwards the mount and the kernel know the files' present attributes."""
        for entry in os.scandir(self.here):
            entry.stat()

    def read(self, path: str) -> None:
        ways = (self.by_read, self.by_cp, self.by_map, self.by_seek, self.by_cat)
        self.check(path, self.random.choice(ways))

    def check(self, path: str, way: Callable[[str], bytes]) -> None:
        self.soak.count(way.__name__)
        opened = time.monotonic()
        if not (self.disk / path).exists():
            return
        content = way(path)
        since = opened - self.OPEN_TTL - self.SLACK
        known = self.history[path]
        ended = [*(begun for begun, _ in known[1:]), time.monotonic()]
        if self.soak.chaos.was_absent(self.RETURN):
            since = float("-inf")  # what is stored is shown
        if content not in [
            each for (_, each), end in zip(known, ended, strict=True) if end >= since
        ]:
            was = next(
                (f"one of {n} before" for n, (_, c) in enumerate(known) if c == content), "no"
            )
            raise Finding(
                f"{self.name}/{path} by {way.__name__}: {len(content)} bytes, {was} content of it"
                f" since it was opened ({[len(each) for _, each in known]})"
            )

    def by_read(self, path: str) -> bytes:
        return (self.here / path).read_bytes()

    def by_map(self, path: str) -> bytes:
        """In a process of its own: an unreadable page of a map kills it by SIGBUS."""
        script = (
            "import mmap, os, sys\n"
            "file = open(sys.argv[1], 'rb')\n"
            "if os.fstat(file.fileno()).st_size:\n"
            "    sys.stdout.buffer.write(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:])\n"
        )
        return self.run([sys.executable, "-c", script, str(self.here / path)])

    def by_seek(self, path: str) -> bytes:
        with open(self.here / path, "rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            return os.pread(file.fileno(), size + 1, 0)

    def by_cp(self, path: str) -> bytes:
        copy = self.local / "copy"
        self.run(["cp", str(self.here / path), str(copy)])
        return copy.read_bytes()

    def by_cat(self, path: str) -> bytes:
        os.stat(self.here / path)
        return self.run(["cat", str(self.here / path)])

    def take(self, path: str) -> None:
        """mv out of the mount: the moved file has to be complete here."""
        taken = self.local / "taken"

        def by_mv(_path: str) -> bytes:
            self.run(["mv", str(self.here / path), str(taken)])
            return taken.read_bytes()

        self.check(path, by_mv)
        taken.unlink(missing_ok=True)

    def run(self, argv: list[str]) -> bytes:
        done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
        if done.returncode == -signal.SIGBUS:
            raise OSError("Input/output error")
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace"))
        return done.stdout

    # What came of it.

    def settle_doubt(self) -> bool:
        return True

    def check_after_kill(self, rows: dict[str, Row]) -> None:
        """This worker writes nothing here."""

    def check_settled(self) -> None:
        for path, content in read_tree(self.disk).items():
            if content != self.history[path][-1][1]:
                raise Finding(f"{self.name}/{path} is not what others have put there")


# Messages of a program that was refused something. The last is dash's, for any error.
TOLD = (*EXCUSES, "ermission denied", "echo: I/O error")


class Refused(Worker):
    """Tries what the server refuses: nothing may be lost, and each refusal is reported.

    `ro` belongs to root and has a file in it; `own` belongs to the worker. A refused change leaves
    the server as it was.
    """

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        super().__init__(soak, name, seed)
        self.kept = soak.remember(b"kept " * 1000)
        self.ours = soak.remember(b"ours " * 2000)
        self.is_untold = False  # "ro/new" was refused, no program was told, and then came a kill
        (self.disk / "ro").mkdir()
        (self.disk / "ro/kept").write_bytes(self.kept)
        (self.disk / "own").mkdir()
        (self.disk / "own/b").write_bytes(self.ours)
        for path in (self.disk / "own", self.disk / "own/b"):
            os.chown(path, soak.server.uid, soak.server.gid)

    def step(self) -> None:
        ro, own = self.here / "ro", self.here / "own"
        source = self.source(self.blob(self.random.choice([1, 5000, 300_000])))
        shell = self.random.choice(SHELLS)
        deeds = [
            [shell, "-c", 'cat "$1" >"$2"', "sh", source, f"{ro}/new"],
            [shell, "-c", 'echo text >"$1"', "sh", f"{ro}/new"],
            [shell, "-c", '{ cat "$1"; sleep 0.1; cat "$1"; } >>"$2"', "sh", source, f"{ro}/new"],
            ["cp", source, f"{ro}/new"],
            ["touch", f"{ro}/new"],
            ["mkdir", f"{ro}/folder"],
            ["rm", f"{ro}/kept"],
            ["mv", "-T", f"{ro}/kept", f"{own}/b"],
            ["mv", "-T", f"{own}/b", f"{ro}/kept"],
        ]
        reader = own / "b" if self.random.random() < 0.5 else ro / "kept"
        kills = self.soak.counts.kills
        try:
            with open(reader, "rb", buffering=0) as file:
                read = file.read(100)
                self.try_it(self.random.choice(deeds))
                read += file.readall()
        except OSError as error:
            self.excuse(str(error), kills)
        else:
            if read not in (self.kept, self.ours):
                raise Finding(f"{self.name}: a reader got {len(read)} bytes, not what it opened")
        self.check_settled()

    def try_it(self, argv: list[str]) -> None:
        self.soak.count(f"refused {argv[0]}")
        kills = self.soak.counts.kills
        done = program(argv)
        if self.soak.dead or self.soak.counts.kills != kills:
            return
        if done.returncode == 0:
            if not self.is_kept(kills):
                raise Finding(f"{self.name}: no error from {argv}, which the server refuses")
            return
        if not any(word in done.stderr for word in TOLD):
            raise Finding(f"{self.name}: {argv} says {done.stderr.strip()}")

    def is_kept(self, kills: int) -> bool:
        """Whether the content that no program was told about is kept, and the mount reports it.

        That happens when the network failed while the server was asked. If the daemon is killed
        before it answers, its journal has to have the content.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return os.getxattr(self.here / "ro/new", "user.ftpfs.state") != b"clean"
            except FileNotFoundError:
                return False
            except OSError:
                if self.soak.dead or self.soak.counts.kills != kills:
                    self.is_untold = True
                    return True
                time.sleep(0.1)
        return False

    def before_settled(self) -> None:
        """Discard what waits, so that `ftpfs sync` has nothing to report."""
        self.give_up("ro/new")

    def settle_doubt(self) -> bool:
        return True

    def check_after_kill(self, rows: dict[str, Row]) -> None:
        if self.is_untold and f"{self.name}/ro/new" not in rows:
            raise Finding(f"{self.name}/ro/new: no program was told, and the journal has nothing")
        self.is_untold = False
        self.check_settled()

    def check_settled(self) -> None:
        tree = read_tree(self.disk)
        should: Tree = {"ro": None, "own": None, "ro/kept": self.kept, "own/b": self.ours}
        if tree != should:
            wrong = [path for path in tree.keys() | should if not same(tree, should, path)]
            raise Finding(f"{self.name}, on the disk: {described(sorted(wrong), tree)}")


class Full(Worker):
    """Writes to a small disk on the server: a lack of room is reported, and nothing is torn."""

    ROOM = 2 << 20  # bytes

    def __init__(self, soak: Soak, name: str, seed: str) -> None:
        super().__init__(soak, name, seed)
        room = f"size={self.ROOM},uid={soak.server.uid},gid={soak.server.gid},mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", self.disk], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.disk], check=False)

    def step(self) -> None:
        path = self.here / f"f{self.random.randrange(3)}"
        source = self.source(self.blob(self.random.choice([100, 70_000, 900_000, 3_000_000])))
        self.soak.count("full")
        kills = self.soak.counts.kills
        argv = self.random.choice(
            [["cp", source, str(path)], ["bash", "-c", 'cat "$1" >"$2"', "sh", source, str(path)]]
        )
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode and "No space left" not in done.stderr:
            self.excuse(done.stderr, kills)
        time.sleep(0.2)

    def before_settled(self) -> None:
        """Discard the files that found no room."""
        for path in sorted(self.here.iterdir()):
            if ftpfs(self.soak.state, "sync", str(path)).returncode:
                self.give_up(path.name)

    def settle_doubt(self) -> bool:
        return True

    def check_after_kill(self, rows: dict[str, Row]) -> None:
        for path, content in read_tree(self.disk).items():
            row = rows.get(f"{self.name}/{path}")
            explained = content is None or (row and row.explains(content))
            if not explained and not self.soak.knows(content or b""):
                raise Finding(f"{self.name}/{path} is torn: {len(content or b'')} bytes there")

    def check_settled(self) -> None:
        self.check_after_kill({})
