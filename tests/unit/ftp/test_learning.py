"""Refusals: one file of another user, or one folder, teaches nothing about the server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.manners import Manners
from ftpfs.ftp.profile import Restart, SetTime
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.support.relay import Relay

pytestmark = pytest.mark.far

WHEN = 1_234_567_891
MEG = 1 << 20
NETWORK = Network(connect_timeout=5, reply_timeout=5, max_connections=2)


@pytest.fixture
def network() -> Network:
    return NETWORK


@pytest.fixture
def remote(remote_dir: RemoteDir) -> Iterator[Remote]:
    made = remote_dir.remote(Network(max_connections=2))
    yield made
    made.close()


@pytest.fixture
def theirs(remote_dir: RemoteDir) -> Path:
    """A folder of another user with a file: this user may only read both."""
    folder = remote_dir.disk / "theirs"
    folder.mkdir()
    (folder / "file").write_bytes(bytes(2 * MEG))
    return folder


def nothing_is_missing(remote: Remote) -> None:
    learned = remote.profile.learned()
    assert learned["chmod"] is not False
    assert learned["folder_times"] is not False
    assert learned["mdtm"] is not False
    assert learned["set_time"] != SetTime.NONE.name
    assert learned["restart"] != Restart.NOTHING.name


def test_time_refused_on_file_of_other_user_can_still_be_set_on_own_file(
    remote: Remote, remote_dir: RemoteDir, theirs: Path
) -> None:
    remote_dir.write("ours", b"x")
    for _ in range(2):
        with pytest.raises(errors.PermissionDenied):
            remote.set_mtime("/theirs/file", WHEN)
        nothing_is_missing(remote)
    remote.set_mtime("/ours", WHEN)
    assert (remote_dir.disk / "ours").stat().st_mtime == WHEN
    assert os.listdir(theirs) == ["file"]


def test_time_refused_in_root_leaves_no_scratch_file_behind(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    (remote_dir.disk / "file").write_bytes(b"of others")
    with pytest.raises(errors.PermissionDenied):
        remote.set_mtime("/file", WHEN)
    nothing_is_missing(remote)
    assert os.listdir(remote_dir.disk) == ["file"]


def test_mode_refused_on_file_of_other_user_can_still_be_set_on_own_file(
    remote: Remote, remote_dir: RemoteDir, theirs: Path
) -> None:
    remote_dir.write("ours", b"x")
    with pytest.raises(errors.PermissionDenied):
        remote.chmod(f"/{theirs.name}/file", 0o600)
    nothing_is_missing(remote)
    remote.chmod("/ours", 0o640)
    assert (remote_dir.disk / "ours").stat().st_mode & 0o7777 == 0o640


def test_time_refused_on_folder_of_other_user_can_still_be_set_on_own_folder(
    remote: Remote, remote_dir: RemoteDir, theirs: Path
) -> None:
    remote_dir.write("ours/x", b"x")
    remote.set_mtime("/ours/x", WHEN)  # ftpfs now knows that the server sets times
    with pytest.raises((errors.PermissionDenied, errors.NotSupported)):
        remote.set_mtime(f"/{theirs.name}", WHEN, directory=True)
    can = remote_dir.server.kind in ("proftpd", "pure-ftpd")
    assert remote.profile.setting.folder_times is can
    assert sorted(os.listdir(remote_dir.disk)) == ["ours", "theirs"]
    if can:
        remote.set_mtime("/ours", WHEN, directory=True)
        assert (remote_dir.disk / "ours").stat().st_mtime == WHEN


def test_scratch_folder_is_deleted_later_if_the_session_breaks_before_that(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("folder/x", b"x")
    relayed.set_mtime("/folder/x", WHEN)  # ftpfs now knows that the server sets times
    relay.refuse("MFMT", "550 not this", where=lambda command: command.arg.endswith("/folder"))
    relay.refuse("SITE", "550 not this", where=lambda command: command.arg.endswith("/folder"))
    relay.refuse("MDTM", "550 not this", where=lambda command: command.arg.endswith("/folder"))
    broken = relay.cut_control("RMD")
    with contextlib.suppress(errors.FtpfsError):
        relayed.set_mtime("/folder", WHEN, directory=True)
    assert broken.hits == 1
    fd = os.memfd_create("content")
    relayed.store("/file", FileContent(fd, 0, None, None), base=None)
    os.close(fd)
    assert sorted(os.listdir(remote_dir.disk)) == ["file", "folder"]


def test_folder_that_refuses_scratch_file_teaches_nothing_about_rest(
    remote: Remote, remote_dir: RemoteDir, theirs: Path
) -> None:
    (theirs / "file").chmod(0o666)
    remote_dir.write("ours", bytes(8 * MEG))
    with open(theirs / "file", "rb") as local:
        content = FileContent(local.fileno(), 2 * MEG, None, None)
        base = remote.stat("/theirs/file")
        with pytest.raises((errors.NotSupported, errors.PermissionDenied)):
            remote.patch("/theirs/file", content, [(MEG, MEG + 1)], base=base)
    nothing_is_missing(remote)
    assert remote.restart_of_uploads() is not Restart.NOTHING


def test_unlistable_folder_teaches_nothing_about_other_folders(
    remote: Remote, remote_dir: RemoteDir, theirs: Path
) -> None:
    theirs.chmod(0o711)
    remote_dir.write("ours/.hidden", b"x")
    with contextlib.suppress(errors.PermissionDenied):
        remote.list("/theirs")
    assert remote.profile.learned()["list_all"] is not False
    assert [entry.name for entry in remote.list("/ours")] == [".hidden"]


@pytest.mark.parametrize("command", ["RNFR", "DELE"])
@pytest.mark.parametrize("elsewhere", [0, 3])
def test_breaking_link_does_not_mark_commands_as_unanswered(
    remote_dir: RemoteDir, relay: Relay, command: str, elsewhere: int
) -> None:
    """ftpfs took the server for one that hangs up on unknown commands, and told the next mount."""
    remote_dir.write("a", b"a")
    remote = remote_dir.remote(NETWORK, relay.port)
    remote.list("/")
    for _ in range(elsewhere):
        relay.cut_control("CWD")
        with contextlib.suppress(errors.NetworkError):
            remote.list("/")
    relay.cut_control(command, times=2 + elsewhere)
    for _ in range(5):
        with contextlib.suppress(errors.NetworkError):
            if command == "RNFR":
                remote.rename("/a", "/b", replace=False)
            else:
                remote.remove("/a")
            break
    assert os.listdir(remote_dir.disk) == (["b"] if command == "RNFR" else [])
    assert remote.profile.wire.manners.avoided == frozenset()
    remembered = Manners.recalled(remote.profile.wire.manners.learned())
    assert not remembered.may_be_unknown(command), "the next mount begins with that"
    remote.close()
