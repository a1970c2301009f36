"""Power loss with `spool_sync`: whatever the disk kept of what was not synced, none of it is torn.

At every write, truncation and sync of a spool file the power could go. What the disk has then: what
was synced; of each page written since, the old or the new; the journal as committed (SQLite syncs
it). Each such disk is recovered from, and its uploads are compared with what had been closed.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpfs.config import Cache
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writer import SUFFIX, Spool
from tests.support.memory_remote import Gate, MemoryRemote

PAGE = 4096
OPERATIONS = 20


class Disk:
    """What is sure of a spool folder's files, learned from the calls of the process."""

    def __init__(self, spool: Path, crash: Callable[[], None]) -> None:
        self.spool = spool
        self.crash = crash
        self.safe: dict[str, bytes] = {}  # content at the last sync
        self.lock = threading.RLock()

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("pwrite", "ftruncate", "fdatasync"):
            patch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(fd: int, *arguments: Any) -> Any:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if path.suffix != SUFFIX or path.parent != self.spool:
                return call(fd, *arguments)
            with self.lock:
                answer = call(fd, *arguments)
                self.crash()  # before the sync is believed
                if name == "fdatasync":
                    self.safe[path.name] = path.read_bytes()
                    self.crash()
                return answer

        return watched

    def left(self, folder: Path, dice: random.Random) -> None:
        """Make `folder` what the power loss leaves."""
        folder.mkdir()
        for path in self.spool.glob("journal.sqlite*"):
            shutil.copy(path, folder)
        for path in self.spool.glob(f"*{SUFFIX}"):
            old, new = self.safe.get(path.name), path.read_bytes()
            if old is None:
                if dice.random() < 0.5:
                    continue  # nobody synced the folder since it was made
                old = b""
            size = dice.choice([len(old), len(new)])
            pages = [
                dice.choice([old, new])[start : start + PAGE].ljust(PAGE, b"\0")
                for start in range(0, max(len(old), len(new)), PAGE)
            ]
            (folder / path.name).write_bytes(b"".join(pages)[:size].ljust(size, b"\0"))


@pytest.mark.parametrize("seed", range(2))
def test_power_loss_at_any_moment_uploads_what_was_closed_and_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    remote = MemoryRemote()
    before = {f"/f{number}": dice.randbytes(3 * PAGE) for number in range(3)}
    for path, content in before.items():
        remote.outside_write(path, content)
    may_be = {path: {content} for path, content in before.items()}
    crashes: list[tuple[Path, dict[str, set[bytes]]]] = []

    def crash() -> None:
        folder = tmp_path / f"crash{len(crashes)}"
        disk.left(folder, dice)
        crashes.append((folder, {path: set(contents) for path, contents in may_be.items()}))

    fs = Filesystem(remote, Spool(tmp_path / "spool", sync=True), Cache(open_ttl=0))
    fs._takes_files("/")
    remote.stall_uploads = gate = Gate()
    remote.patches_nothing = True
    disk = Disk(tmp_path / "spool", crash)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        for _ in range(OPERATIONS):
            path = f"/f{dice.randrange(4)}"
            content = dice.randbytes(dice.choice([1, PAGE, 5 * PAGE + 7, 20 * PAGE]))
            # Truncated on the way; a name that is new may have no file yet.
            may_be.setdefault(path, set()).update((content, b""))
            handle = (
                fs.open(path, os.O_WRONLY | os.O_TRUNC)
                if path in before
                else fs.create(path, 0o644, os.O_WRONLY)
            )
            before[path] = content
            for start in range(0, len(content), 3 * PAGE):
                fs.write(handle, start, content[start : start + 3 * PAGE])
            fs.flush(handle)
            may_be[path] = {content}
            fs.release(handle)
            crash()
    untouched = {path: remote.content(path) for path in remote.files()}
    for folder, allowed in crashes:
        server = MemoryRemote()
        for path, content in untouched.items():
            server.outside_write(path, content)
        survivor = Filesystem(server, Spool(folder, sync=True), Cache())
        survivor.recover()
        assert survivor.close(20) == 0
        for path, contents in allowed.items():
            found = server.files().get(path)
            described = {len(content) for content in contents}
            is_new = found is None and path not in untouched and len(contents) > 1
            size = None if found is None else len(found)
            assert found in contents or is_new, f"{folder}: {path}, {size} of {described}"
        assert server.files().keys() <= allowed.keys()
    assert len(crashes) > 2 * OPERATIONS
    gate.open()
    fs.close()
