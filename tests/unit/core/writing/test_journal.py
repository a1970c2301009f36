"""The journal and its folder: what outlives a crash, and which mount may take it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.writing.journal import NAME, Journal, Proof, Record
from ftpfs.core.writing.spool import KEPT, Spool
from ftpfs.model.entry import Entry, Kind

BASE = Entry("f", Kind.FILE, size=10, mtime=1_700_000_000, exact=True, mode=0o640)


def record(spool: str, path: str = "/f", since: float = 1.0) -> Record:
    return Record(
        spool=spool,
        path=path,
        size=100,
        present=((0, 4), (10, 100)),
        base=BASE,
        base_size=10,
        mode=0o755,
        mtime=12345,
        since=since,
        error="552 quota",
        patching=((4, b"\0\xff"), (10, b"")),
        uncertain=((100, 12345), (7, None)),
        writes=3,
        boot="",
        proof=Proof(50, ((0, 4), (10, 50)), None, 10, 12344, 2, (1, 2**32 - 1)),
    )


def test_row_comes_back_as_it_was_also_from_a_copy_made_at_any_moment(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    names = ("/plain", "/d/ü", "/d/\udcff odd", "/d/with 'quotes'")
    wanted = []
    for number, path in enumerate(names):
        wanted.append(record(f"{number}.spool", path, since=number))
        wanted[-1] = replace(wanted[-1], base=replace(BASE, name=path.rpartition("/")[2]))
        journal.put(wanted[-1])
        # As after kill -9: nothing was closed.
        copy = tmp_path / f"copy{number}"
        copy.mkdir()
        for file in tmp_path.glob(f"{NAME}*"):
            shutil.copy(file, copy)
        again = Journal(copy)
        assert again.records() == wanted
        again.close()
    journal.remove("1.spool")
    assert [row.spool for row in journal.records()] == ["0.spool", "2.spool", "3.spool"]
    journal.close()


def test_rename_takes_rows_below_along_and_drops_replaced_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, path in enumerate(("/a", "/a/x", "/a/y/z", "/a.txt", "/a0", "/b", "/b/old")):
        journal.put(record(str(number), path))
    journal.intend("/a", "/b")
    assert journal.intents() == [("/a", "/b")]
    journal.intend("/a/.hidden", "", always=True)
    journal.rename("/a", "/b")
    assert {row.path for row in journal.records()} == {"/b", "/b/x", "/b/y/z", "/a.txt", "/a0"}
    assert {row.spool for row in journal.records()} == {"0", "1", "2", "3", "4"}
    assert journal.intents() == [("/b/.hidden", "")]
    journal.close()


def test_rename_of_a_file_without_rows_leaves_no_trace(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(record("1", "/elsewhere"))
    journal.intend("/a", "/b")
    assert journal.intents() == []
    journal.close()


def test_close_costs_one_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it waits for the disk."""
    journal = Journal(tmp_path)
    statements: list[str] = []
    journal._connection.set_trace_callback(statements.append)
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, pytest.fail)
    journal.put(record("1", "/d/f1"))
    assert [each.split()[0].lower() for each in statements] == ["insert"]
    journal._connection.set_trace_callback(None)
    monkeypatch.undo()
    journal.close()


def test_unreadable_journal_is_set_aside_and_the_mount_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(b"SQLite format 3\0" + b"nonsense" * 1000)
    journal = Journal(tmp_path)
    assert journal.records() == []
    assert list(tmp_path.glob(f"{NAME}.unreadable-*"))
    assert "cannot be read" in caplog.text
    journal.close()


def test_journal_damaged_in_the_middle_is_set_aside_with_its_latest_writes(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    for number in range(200):
        journal.put(record(str(number)))
    journal._connection.execute("pragma wal_checkpoint(truncate)")
    journal.put(record("last", "/written last"))
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in tmp_path.glob(f"{NAME}*"):
        shutil.copy(file, killed)
    journal.close()
    whole = (killed / NAME).read_bytes()
    (killed / NAME).write_bytes(whole[:8192] + b"\xff" * 8192 + whole[16384:])
    again = Journal(killed)
    assert again.records() == []
    again.close()
    aside = b"".join(path.read_bytes() for path in killed.glob(f"{NAME}.unreadable-*"))
    assert b"written last" in aside


def test_journal_that_cannot_be_opened_now_does_not_count_as_damaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(record("1"))
    journal._connection.execute("pragma locking_mode = exclusive")
    journal.put(record("2"))  # SQLite takes such a lock with the next write
    code = f"""
import sys
from pathlib import Path
from ftpfs import errors
from ftpfs.core.writing import journal
real = journal.sqlite3.connect
journal.sqlite3.connect = lambda *a, **k: real(*a, timeout=0.1, **k)
try:
    journal.Journal(Path({str(tmp_path)!r}))
except errors.FtpfsError as error:
    sys.exit(f"told: {{error}}")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "told: the journal of unsent files failed: database is locked" in run.stderr
    assert len(journal.records()) == 2
    assert not list(tmp_path.glob("*unreadable*"))
    journal.close()


def test_row_that_cannot_be_deleted_now_is_deleted_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    journal.put(record("1"))
    journal._connection.execute("pragma query_only = 1")  # what a full disk does to a deletion
    journal.remove("1")
    assert "is tried again later" in caplog.text
    journal._connection.execute("pragma query_only = 0")
    assert journal.records() == []
    journal.close()
    assert not list(tmp_path.iterdir())


# Folders.


def test_two_mounts_of_one_server_have_separate_folders(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / "s"), Spool(tmp_path / "s")
    assert {first.folder.name, second.folder.name} == {"s", "s-2"}
    first.remove()
    third = Spool(tmp_path / "s")
    assert third.folder.name == "s"
    second.remove()
    third.remove()
    assert list(tmp_path.iterdir()) == []


def abandoned(folder: Path, path: str, content: bytes) -> None:
    """A folder whose mount was killed with one file unsent, and another not closed."""
    spool = Spool(folder)
    file = spool.open()
    file.write(0, content)
    spool.journal.put(replace(record(file.name, path), size=len(content), present=((0, 4),)))
    spool.open().write(0, b"never closed")
    spool.open()
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    spool.journal.remove(file.name)
    shutil.rmtree(folder)
    spool.journal._connection.close()
    copy.rename(folder)
    (folder / "lock").unlink()


def test_next_mount_gathers_what_killed_mounts_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    abandoned(tmp_path / "s-2", "/second", b"2222")
    abandoned(tmp_path / "s", "/first", b"1111")
    spool = Spool(tmp_path / "s")
    spool.recover()
    rows = {row.path: row for row in spool.journal.records()}
    assert rows.keys() == {"/first", "/second"}
    for path, content in (("/first", b"1111"), ("/second", b"2222")):
        assert spool.reopen(rows[path]).read(0, 4) == content
    kept = [p.read_bytes() for p in tmp_path.glob(f"*/{KEPT}/*")]
    assert kept == [b"never closed"] * 2
    assert caplog.text.count("never closed") == 2
    assert not list((tmp_path / "s-2").glob("*.spool"))


def test_row_without_its_spool_file_raises_not_found(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    with pytest.raises(errors.NotFound, match="is gone"):
        spool.reopen(replace(record("gone.spool"), boot=None))
    spool.remove()


# Room.


def test_writer_waits_for_a_full_spool_and_then_fails(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", limit=100, patience=0.2)
    file = spool.open()
    file.mark(0, 80)
    spool.make_room(20)
    begun = time.monotonic()
    with pytest.raises(errors.NoSpace):
        spool.make_room(21)
    assert time.monotonic() - begun >= 0.2
    file.close()
    spool.make_room(100)
    assert spool.used == 0
    spool.remove()
