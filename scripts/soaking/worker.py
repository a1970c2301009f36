"""Programs that work on a mount, one after the other, in a folder of their own."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from scripts.soaking.calls import program
from scripts.soaking.model import Doubt, Finding, Overwrite, Row, Tree, described, read_tree, same

if TYPE_CHECKING:
    from scripts.soaking.rounds import Soak

SIZES = (0, 1, 100, 4096, 70_000, 300_000, 1_500_000)
FOLDERS = ("", "d/", "d/e/", "g/")
PATIENCE = 40.0  # seconds until a mount must be readable in spite of the faults
MOST_FOUND = 60  # about how many files one worker keeps
SHELLS = ("bash", "dash")
# Messages of programs when the network broke during their work. Anything else is a finding. The
# last is tar's message for a file that it could not delete, for any reason.
EXCUSES = (
    "Input/output error",
    "Connection timed out",
    "Network is unreachable",
    "vanished",
    "Cannot open: File exists",
)


class Worker:
    """Runs one program after the other, in a folder of its own."""

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
            self.redirect,
            self.redirect_in_parts,
            self.write_beside_children,
            self.overwrite,
            self.truncate,
            self.remove,
            self.move,
            self.move,
            self.replace_under_reader,
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
        """A name in an existing folder."""
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

    def redirect(self, path: str) -> None:
        """A shell opens the file, and closes one of two descriptors before anything is written."""
        content = self.blob()
        script = 'cat "$1" >"$2"'
        argv = [self.random.choice(SHELLS), "-c", script, "sh", self.source(content), path]
        self.do(argv, {**self.tree, path: content}, torn=True)

    def redirect_in_parts(self, path: str) -> None:
        """Two programs write through one redirection: the exit of the first is no close."""
        first, second = self.blob(), self.blob()
        (self.local / "second").write_bytes(second)
        content = self.soak.remember(first + second)
        script = '{ cat "$1"; sleep 0.2; cat "$2"; } >"$3"'
        argv = [self.random.choice(SHELLS), "-c", script, "sh", self.source(first)]
        argv += [str(self.local / "second"), path]
        self.do(argv, {**self.tree, path: content}, torn=True)

    def write_beside_children(self, path: str) -> None:
        """A program that runs others while it writes: each child closes its copy of the file."""
        content = self.blob()
        script = (
            "import os, sys, time\n"
            "content = open(sys.argv[1], 'rb').read()\n"
            "file = open(sys.argv[2], 'wb', buffering=0)\n"
            "os.set_inheritable(file.fileno(), True)\n"
            "for part in range(3):\n"
            "    piece = content[part * len(content) // 3 : (part + 1) * len(content) // 3]\n"
            "    assert file.write(piece) == len(piece)\n"
            "    os.spawnlp(os.P_WAIT, 'sleep', 'sleep', '0.1')\n"
            "file.close()\n"
        )
        argv = [sys.executable, "-c", script, self.source(content), path]
        self.do(argv, {**self.tree, path: content}, torn=True)

    def overwrite(self, path: str) -> None:
        old, piece = self.tree[path] or b"", self.blob(self.random.choice([1, 5000, 200_000]))
        start = self.random.randrange(len(old) + 1)
        content = self.soak.remember(old[:start] + piece + old[start + len(piece) :])
        source = self.source(piece)
        how = ["bs=1M", "conv=notrunc", "oflag=seek_bytes", f"seek={start}", "status=none"]
        self.do(
            ["dd", *how, f"if={source}", "of=", path],
            {**self.tree, path: content},
            overwritten=Overwrite(path, start, piece),
        )

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
            self.move_over(path, new)

    def replace_under_reader(self, path: str) -> None:
        """A reader goes on reading the file that it opened, after another file took its name."""
        others = [p for p, content in self.tree.items() if content is not None and p != path]
        if not others:
            return
        old, kills = self.tree[path] or b"", self.soak.counts.kills
        read = b""
        try:
            with open(self.here / path, "rb", buffering=0) as file:
                read = file.read(len(old) // 3)
                self.move_over(self.random.choice(others), path)
                read += file.readall()
        except OSError as error:
            self.excuse(str(error), kills)
            return
        if read != old:
            raise Finding(f"{self.name}/{path}: its reader got {len(read)} bytes, not the old ones")

    def move_over(self, path: str, new: str) -> None:
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
        """Move d to g, or back, with its content."""
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
        """Unpack a small tree over the remains of an earlier one."""
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
        self,
        command: list[str],
        after: Tree,
        *,
        mixed: bool = False,
        torn: bool = False,
        overwritten: Overwrite | None = None,
    ) -> None:
        """Run a program with paths below this worker's folder.

        The program does not run in that folder: a process could not leave a killed mount.
        """
        argv = self.in_the_mount(command)
        kills = self.soak.counts.kills
        before = self.tree
        torn_paths = frozenset([command[-1]]) if torn else frozenset[str]()
        self.soak.count(command[0])
        done = program(argv)
        told = done.stderr.strip()[-200:]
        self.log.append(
            f"{time.strftime('%X')} {done.returncode} {' '.join(command)[-150:]} {told}"
        )
        if done.returncode == 0:
            self.tree = after
            return
        cut_off = self.soak.dead or self.soak.counts.kills != kills
        moved = command[0] == "mv"
        self.doubt = Doubt(
            before,
            after,
            mixed,
            torn_paths,
            moved=moved,
            cut_off=cut_off,
            overwritten=overwritten,
        )
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
        """Handle a failed call: the reason is an expected one, or this is a finding."""
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
        """Compare the result of a failed call; False if that is impossible now."""
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
        """Compare the server's disk with the model, before the next mount.

        `rows`: those of the journal, by path.
        """
        disk = read_tree(self.disk)
        for path, content in disk.items():
            if content is not None:
                self.soak.compared(content)
                row = rows.get(f"{self.name}/{path}")
                explained = bool(row and row.explains(content)) or bool(
                    self.doubt and self.doubt.explains(path, content)
                )
                if not self.soak.knows(content) and not explained:
                    raise Finding(f"{self.name}/{path} is torn: {len(content)} bytes on the disk")
        # What was changed while the server was away is compared when it is there.
        if self.doubt is None and self.name not in self.soak.waiting_names:
            for path in self.tree:
                if not same(self.tree, disk, path) and f"{self.name}/{path}" not in rows:
                    what = described([path], disk)
                    raise Finding(f"{self.name}/{what} on the disk, and not in the journal")
        if self.doubt is not None:
            # The next mount sends what the last close of any copy has left.
            self.doubt = replace(self.doubt, cut_off=False)

    def give_up(self, path: str) -> None:
        """Delete a file that cannot be sent; the network has just come back."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                (self.here / path).unlink()
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def before_settled(self) -> None:
        """Remove what `ftpfs sync` would report, and should."""

    def close(self) -> None:
        """The mount has ended."""

    def check_settled(self) -> None:
        disk = read_tree(self.disk)
        wrong = [p for p in sorted(disk.keys() | self.tree.keys()) if not same(disk, self.tree, p)]
        if wrong:
            raise Finding(
                f"{self.name}, on the disk: {described(wrong, disk)}; and should be:"
                f" {described(wrong, self.tree)}"
            )
        for content in disk.values():
            if content is not None:
                self.soak.compared(content)
