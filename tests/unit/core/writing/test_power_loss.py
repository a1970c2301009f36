"""Power loss: whatever the disk kept of unsynced writes, no upload is torn.

The power may fail at every write, truncation and sync of a spool file. The disk then has: what was
synced; of each page written since, the old or the new content; the journal as committed (the worst
case: rows of files that are not on the disk). Each such disk is recovered from, and the uploads are
compared with the closed contents. With `spool_sync` each upload is the content closed last.
Without, it is that or the content before, or the file is reported.

`tests/mount/test_power_cuts.py` does the same with a mount, and with what a disk really holds.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing import proofs
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import KEPT, SUFFIX, Spool
from ftpfs.settings.config import Cache
from tests.support.memory_remote import Gate, MemoryRemote
from tests.support.waiting import until

PAGE = 4096
OPERATIONS = 20


class Disk:
    """What is certainly on the disk, learned from the system calls about a spool folder."""

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
        """Make `folder` what a power loss leaves."""
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


def recovered(
    folder: Path, before: dict[str, bytes], *, mtime: int | None = None
) -> tuple[MemoryRemote, set[str]]:
    """Recover with the next mount on the next boot, of a server that had the files `before`.

    `mtime`: the time of these files, if it is not that of all others. Returns the server
    afterwards, and the paths that the mount reports as lost.
    """
    server = MemoryRemote()
    for path, content in before.items():
        server.outside_write(path, content, mtime=mtime)
    spool = Spool(folder, boot="the next")
    survivor = Filesystem(server, spool, Cache())
    survivor.recover()
    assert survivor.close(20) == 0
    return server, {each.path for each in spool.set_aside}


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_power_loss_at_any_moment_uploads_closed_content_and_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, sync: bool
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

    monkeypatch.setattr(proofs, "_syncfs", lambda _fd: False)  # one by one, as `Disk` sees it
    spool = Spool(tmp_path / "spool", sync=sync, proof_pause=0.001)
    fs = Filesystem(remote, spool, Cache())
    fs._known.note_takes("/")
    remote.stall_uploads = gate = Gate()
    remote.patches_nothing = True
    disk = Disk(tmp_path / "spool", crash)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        for _ in range(OPERATIONS):
            path = f"/f{dice.randrange(4)}"
            content = dice.randbytes(dice.choice([1, PAGE, 5 * PAGE + 7, 20 * PAGE]))
            # Truncated meanwhile; a new name may have no file yet.
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
            if sync:
                may_be[path] = {content}
            fs.release(handle)
            with disk.lock:
                crash()
    untouched = {path: remote.content(path) for path in remote.files()}
    reports = 0
    for folder, allowed in crashes:
        server, reported = recovered(folder, untouched)
        assert not (sync and reported), f"{folder}: {reported}"
        reports += len(reported)
        for path, contents in allowed.items():
            found = server.files().get(path)
            described = {len(content) for content in contents}
            is_new = found is None and path not in untouched and len(contents) > 1
            size = None if found is None else len(found)
            kept = path in reported and found == untouched.get(path)
            assert found in contents or is_new or kept, f"{folder}: {path}, {size} of {described}"
        assert server.files().keys() <= allowed.keys()
    assert len(crashes) > 2 * OPERATIONS
    assert sync or reports
    gate.open()
    fs.close()


class Left(NamedTuple):
    """A spool that a mount left whose server took no upload."""

    folder: Path
    spool: Spool
    files: Filesystem
    remote: MemoryRemote


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    remote = MemoryRemote()
    remote.outside_write("/f", b"old" * 10_000)
    spool = Spool(tmp_path / "spool", proof_pause=0.001)
    fs = Filesystem(remote, spool, Cache())
    fs._known.note_takes("/")
    remote.stall_uploads = gate = Gate()
    remote.patches_nothing = True
    yield Left(tmp_path / "spool", spool, fs, remote)
    gate.open()
    fs.close()


def write(fs: Filesystem, path: str, content: bytes, flags: int = os.O_TRUNC) -> None:
    handle = fs.open(path, os.O_WRONLY | flags)
    fs.write(handle, 0, content)
    fs.flush(handle)
    fs.release(handle)


def is_proven(left: Left) -> bool:
    """Whether the only row has a proof of its current content."""
    (row,) = left.spool.journal.records()
    return row.proof is not None and row.proof.writes == row.writes


def after_power_loss(left: Left, damage: Callable[[Path], None]) -> tuple[bytes, set[str], Path]:
    """Do `damage` to the spool file, and recover with a mount on the next boot."""
    copy = left.folder.with_name("copy")
    shutil.copytree(left.folder, copy)
    for path in copy.glob(f"*{SUFFIX}"):
        damage(path)
    server, reported = recovered(
        copy, {"/f": left.remote.content("/f")}, mtime=left.remote.stat("/f").mtime
    )
    assert server.files().keys() == {"/f"}
    return server.content("/f"), reported, copy


def test_proven_content_is_sent_on_the_next_boot(left: Left) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    assert after_power_loss(left, lambda _path: None)[:2] == (b"new" * 10_000, set())


def test_file_closed_too_late_for_a_proof_is_reported_and_not_sent(left: Left) -> None:
    left.spool._proofs._pause = 60
    write(left.files, "/f", b"new" * 10_000)
    content, reported, copy = after_power_loss(left, lambda _path: None)
    assert (content, reported) == (b"old" * 10_000, {"/f"})
    (kept,) = (copy / KEPT).iterdir()
    assert kept.read_bytes() == b"new" * 10_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(bytes(30_000)),
        lambda path: os.truncate(path, 29_999),
        lambda path: path.write_bytes(b"n3w" + path.read_bytes()[3:]),
    ],
    ids=["zeros", "short", "rotten"],
)
def test_spool_file_that_contradicts_its_proof_is_reported_and_not_sent(
    left: Left, damage: Callable[[Path], None]
) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    content, reported, _ = after_power_loss(left, damage)
    assert (content, reported) == (b"old" * 10_000, {"/f"})


def test_older_proven_content_is_sent_if_the_file_was_lengthened_last(
    left: Left, caplog: pytest.LogCaptureFixture
) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    left.spool._proofs._pause = 60
    handle = left.files.open("/f", os.O_WRONLY | os.O_APPEND)
    left.files.write(handle, 0, b"more")
    left.files.release(handle)
    assert not is_proven(left)
    content, reported, _ = after_power_loss(left, lambda path: os.truncate(path, 30_000))
    assert (content, reported) == (b"new" * 10_000, set())
    assert "what was closed last was not on the disk" in caplog.text


@pytest.mark.parametrize("came", [0, 20, 5000])
def test_append_that_arrived_before_the_power_was_lost_is_not_sent_again(
    left: Left, came: int
) -> None:
    """The row that says so was not on the disk. Nor had the server the time of the append."""
    mine = os.urandom(5000)
    handle = left.files.open("/f", os.O_WRONLY | os.O_APPEND)
    left.files.write(handle, 0, mine)
    left.files.flush(handle)
    until(lambda: is_proven(left))
    (row,) = left.spool.journal.records()
    assert not row.patching, "no append has begun"
    old = left.remote.content("/f")
    left.remote.outside_write("/f", old + mine[:came], mtime=left.remote.now + 5)
    assert after_power_loss(left, lambda _path: None)[:2] == (old + mine, set())
    left.files.release(handle)


def test_file_that_was_half_patched_before_the_power_was_lost_is_finished(left: Left) -> None:
    left.remote.outside_write("/f", big := os.urandom(3 << 20))
    handle = left.files.open("/f", os.O_RDWR)
    new = bytearray(big)
    for offset in (100_000, 2_000_000):
        left.files.write(handle, offset, b"changed by a program")
        new[offset : offset + 20] = b"changed by a program"
    left.files.flush(handle)
    until(lambda: is_proven(left))
    half = big[:100_000] + b"changed by a program" + big[100_020:]
    left.remote.outside_write("/f", half, mtime=left.remote.now + 5)
    assert after_power_loss(left, lambda _path: None)[:2] == (bytes(new), set())
    left.files.release(handle)


def test_content_overwritten_after_its_proof_is_reported_and_not_sent(
    left: Left,
) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    handle = left.files.open("/f", os.O_WRONLY)
    left.files.write(handle, 3000, b"under way")
    content, reported, _ = after_power_loss(left, lambda _path: None)
    assert (content, reported) == (b"old" * 10_000, {"/f"})
    left.files.release(handle)


def test_row_of_a_file_that_was_sent_and_deleted_is_no_loss(left: Left) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    assert after_power_loss(left, Path.unlink)[:2] == (b"old" * 10_000, set())


def test_proof_of_a_large_file_reads_only_appended_bytes(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    real = proofs._sum

    def counting(fd: int, start: int, end: int, checksum: int) -> int:
        nonlocal read
        read += end - start
        return real(fd, start, end, checksum)

    monkeypatch.setattr(proofs, "_sum", counting)
    write(left.files, "/f", bytes(3 * proofs.SUM_BYTES))
    until(lambda: is_proven(left))
    assert read == 3 * proofs.SUM_BYTES
    handle = left.files.open("/f", os.O_WRONLY | os.O_APPEND)
    left.files.write(handle, 0, b"more")
    left.files.release(handle)
    until(lambda: is_proven(left))
    assert read == 3 * proofs.SUM_BYTES + 4


def test_file_closed_before_the_daemon_was_killed_needs_no_proof(left: Left) -> None:
    left.spool._proofs._pause = 60
    write(left.files, "/f", b"new" * 10_000)
    copy = left.folder.with_name("copy")
    shutil.copytree(left.folder, copy)
    survivor = Filesystem(MemoryRemote(), Spool(copy), Cache())
    assert survivor.recover() == 1
    survivor.close(20)


def test_ending_mount_proves_what_it_leaves(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", proof_pause=60)
    remote = MemoryRemote()
    remote.outside_write("/f", b"old")
    fs = Filesystem(remote, spool, Cache())
    fs._known.note_takes("/")
    for number in range(10):
        remote.fail("store", errors.ConnectionLost("away"), after=number)
    write(fs, "/f", b"new")
    fs.close(0)
    server, reported = recovered(tmp_path / "s", {"/f": b"old"})
    assert (server.content("/f"), reported) == (b"new", set())


def test_file_that_cannot_be_compared_with_its_proof_waits_for_the_next_mount(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    copy = left.folder.with_name("copy")
    shutil.copytree(left.folder, copy)
    before = {"/f": left.remote.content("/f")}
    real = os.open

    def no_more_files(path: Any, flags: int, *more: Any, **words: Any) -> int:
        if str(path).endswith(SUFFIX) and flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *more, **words)

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", no_more_files)
        server, reported = recovered(copy, before)
    assert (server.content("/f"), reported) == (before["/f"], set())
    server, reported = recovered(copy, before)
    assert (server.content("/f"), reported) == (b"new" * 10_000, set())


def test_spool_files_are_proven_though_one_cannot_be(left: Left) -> None:
    left.spool._proofs._pause = 0.5
    for path in ("/g", "/h"):
        handle = left.files.create(path, 0o644, os.O_WRONLY)
        left.files.write(handle, 0, b"new" * 10_000)
        left.files.release(handle)
        if path == "/g":
            (spool,) = left.folder.glob(f"*{SUFFIX}")
            os.truncate(spool, 100)
    rows = left.spool.journal.records
    until(lambda: [row.path for row in rows() if row.proof is not None] == ["/h"])


def test_file_is_proven_while_the_rest_of_it_is_fetched_for_its_upload(left: Left) -> None:
    """For a long file, fetching takes minutes."""
    left.spool._proofs._pause = 0.3
    file = left.spool.open()
    file.write(5000, b"written")
    file.mark(5000, 5007)
    row = Record("", "/f", 5007, ((5000, 5007),), None, 5000, None, 0, 0.0)
    left.spool.record(file, replace(row, spool=file.name))
    file.write(0, b"fetched")
    file.mark(0, 7)
    try:
        until(lambda: left.spool.journal.records()[0].proof is not None)
    finally:
        left.spool.journal.remove(file.name)
        file.close()


def test_close_fails_without_a_descriptor_for_its_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "s", sync=True)
    file = spool.open()
    file.write(0, b"written")
    file.mark(0, 7)
    row = Record(file.name, "/f", 7, ((0, 7),), None, 0, None, 0, 0.0)
    real = os.open

    def no_more_files(path: Any, flags: int, *more: Any, **words: Any) -> int:
        if str(path).endswith(SUFFIX) and flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *more, **words)

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", no_more_files)
        with pytest.raises(errors.OutOfDescriptors):
            spool.record(file, row)
    file.close()
    spool.remove()


def test_file_that_was_cut_before_its_close_is_proven(left: Left) -> None:
    write(left.files, "/f", b"new" * 10_000)
    until(lambda: is_proven(left))
    left.files.truncate("/f", 100)
    until(lambda: is_proven(left))
    content, reported, _ = after_power_loss(left, lambda _path: None)
    assert (content, reported) == ((b"new" * 34)[:100], set())
