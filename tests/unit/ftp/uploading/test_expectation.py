"""Files that somebody else made, changed or deleted are not overwritten by an upload."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.checks import MOST_BUSY_LOOKS
from ftpfs.ftp.uploading.expectation import RECHECK_SECONDS
from ftpfs.model.entry import Entry, Kind
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.relay.record import Command
from tests.support.uploading import (
    MEG,
    WHEN,
    Local,
    blob,
    conflicts,
    found,
    on_disk,
)


def test_file_that_somebody_else_made_is_not_replaced(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"theirs")
    conflicts(remote, remote_dir, None, b"theirs")


def test_file_that_somebody_else_changed_is_not_replaced(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    os.utime(path, (WHEN, WHEN))
    base = found(remote, "/file")
    path.write_bytes(b"another size")
    os.utime(path, (WHEN, WHEN))
    conflicts(remote, remote_dir, base, b"another size")
    path.write_bytes(b"another time!!")
    os.utime(path, (WHEN + 1, WHEN + 1))
    conflicts(remote, remote_dir, base, b"another time!!")


def test_time_that_was_not_exact_is_not_compared(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"what was there")
    base = Entry("file", Kind.FILE, size=14, mtime=WHEN, exact=False)
    remote.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_file_that_somebody_else_deleted_is_made_again(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    base = found(remote, "/file")
    path.unlink()
    remote.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_change_during_a_long_upload_is_seen_before_the_rename(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    base = found(remote, "/file")

    def meanwhile(offset: int) -> None:
        if offset:
            path.write_bytes(b"theirs")
            time.sleep(RECHECK_SECONDS)

    with pytest.raises(errors.Conflict):
        remote.store("/file", Local(b"mine", each=meanwhile), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"theirs"}


def test_upload_makes_no_conflict_copy_when_a_folder_has_its_name(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file/inside", b"x")
    with pytest.raises((errors.IsADirectory, errors.Conflict)):
        remote.store("/file", Local(b"mine"), base=None)
    assert os.listdir(remote_dir.disk) == ["file"]
    assert os.listdir(remote_dir.disk / "file") == ["inside"]


@pytest.mark.parametrize("theirs", [False, True])
def test_file_renamed_before_the_kill_is_no_conflict(
    remote: Remote, remote_dir: RemoteDir, theirs: bool
) -> None:
    data = blob(2 * MEG)
    there = data[:-1] + b"?" if theirs else data
    path = remote_dir.write("file", there)
    os.utime(path, (WHEN, WHEN))
    for base in (None, Entry("file", Kind.FILE, size=7, mtime=5, exact=True)):
        if theirs:
            with pytest.raises(errors.Conflict):
                remote.store("/file", Local(data), base=base)
        else:
            entry = remote.store("/file", Local(data), base=base)
            assert (entry.size, entry.mtime) == (len(data), WHEN)
        assert on_disk(remote_dir.disk) == {"file": there}


@pytest.mark.parametrize("size", [0, 4])
def test_truncated_file_renamed_before_the_kill_is_completed(
    remote: Remote, remote_dir: RemoteDir, size: int
) -> None:
    os.utime(remote_dir.write("file", b"small content"[:size]), (WHEN, WHEN))
    entry = remote.store("/file", Local(b"small content"), base=None)
    assert entry.size == 13
    assert on_disk(remote_dir.disk) == {"file": b"small content"}


def _refuse_looks(relay: Relay, reply: str, times: int | None) -> None:
    for verb in ("SIZE", "MDTM", "MLST"):
        relay.refuse(verb, reply, times=times, where=lambda asked: asked.arg.endswith("/file"))


@pytest.mark.parametrize("reply", ["450 busy", "451 local error"])
def test_change_by_others_is_seen_although_the_server_was_busy_at_the_first_look(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, reply: str
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(relayed, "/file")
    relayed.store("/other", Local(b"warm"), base=None)
    remote_dir.write("file", b"of somebody else, and longer")
    _refuse_looks(relay, reply, times=1)
    with pytest.raises(errors.Conflict):
        relayed.store("/file", Local(b"new"), base=base)
    assert (remote_dir.disk / "file").read_bytes() == b"of somebody else, and longer"


@pytest.mark.parametrize("size", [4, 1 * MEG])
def test_change_by_others_is_seen_again_when_the_connection_breaks_after_the_look(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int
) -> None:
    """The upload that finds the change has to end its STOR first, and that may break off."""
    remote_dir.write("file", b"theirs")
    relayed.store("/other", Local(b"warm"), base=None)
    relay.cut_control("STOR", when="final", times=1)
    with pytest.raises(errors.Conflict):
        relayed.store("/file", Local(blob(size)), base=None)
    relayed.store("/last", Local(b"this upload deletes what that one left"), base=None)
    assert set(os.listdir(remote_dir.disk)) == {"file", "other", "last"}
    assert (remote_dir.disk / "file").read_bytes() == b"theirs"


@pytest.mark.parametrize("theirs", [b"of others, and longer", b"short"])
def test_file_that_others_put_over_a_rename_without_a_reply_is_not_replaced(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, theirs: bytes
) -> None:
    lost = relay.cut_control("RNTO", when="after", where=lambda asked: asked.arg.endswith("/file"))

    def others_are_first(_asked: Command) -> bool:
        if lost.hits and (remote_dir.disk / "file").exists():
            remote_dir.write("file", theirs)
        return False

    relay.refuse("SIZE", where=others_are_first)
    with pytest.raises(errors.Conflict):
        relayed.store("/file", Local(b"fourteen bytes"), base=None)
    assert on_disk(remote_dir.disk) == {"file": theirs}


def test_server_that_never_tells_what_is_there_gets_the_file_in_the_end(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(relayed, "/file")
    _refuse_looks(relay, "451 local error", times=MOST_BUSY_LOOKS + 20)
    content = Local(b"new")
    for _ in range(MOST_BUSY_LOOKS):
        with contextlib.suppress(errors.Refused):
            relayed.store("/file", content, base=base)
            break
        assert (remote_dir.disk / "file").read_bytes() == b"what was there"
    assert (remote_dir.disk / "file").read_bytes() == b"new"
