"""Servers that take names but no paths: ftpfs enters the folder first, and learns that it must."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp import bare
from ftpfs.ftp.connections import current_folder
from ftpfs.ftp.remote import Remote
from tests.support import scripted_server as scripted
from tests.support.scripted_server import Manners, ScriptedServer
from tests.unit.ftp.test_manners import connected, read, write

NAMES_ONLY = Manners(names_only=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "inner").write_bytes(b"inner")
    (tmp_path / "e").mkdir()
    (tmp_path / "hello").write_bytes(b"hello, world\n")
    return tmp_path


@contextlib.contextmanager
def served(root: Path, manners: Manners = NAMES_ONLY) -> Iterator[tuple[ScriptedServer, Remote]]:
    with scripted.start(root, manners) as server, connected(server) as remote:
        yield server, remote


@pytest.mark.parametrize("features", [scripted.MODERN, scripted.OLD, ()], ids=["MLSD", "LIST", "-"])
def test_all_operations_work_on_server_without_paths(features: Sequence[str], root: Path) -> None:
    with served(root, Manners(names_only=True, features=features)) as (_, remote):
        assert read(remote, "/hello") == b"hello, world\n"
        assert remote.profile.names.paths is False
        assert read(remote, "/d/inner", 2) == b"ner"
        entry = write(remote, "/d/new", b"first", None)
        write(remote, "/d/new", b"the second", entry)
        assert (root / "d" / "new").read_bytes() == b"the second"
        assert remote.stat("/d/new").size == 10
        remote.mkdir("/d/sub")
        write(remote, "/d/sub/deep", b"deep", None)
        remote.rename("/d/new", "/d/newer", replace=False)
        remote.rename("/d/newer", "/d/inner", replace=True)
        assert (root / "d" / "inner").read_bytes() == b"the second"
        remote.remove("/d/sub/deep")
        remote.rmdir("/d/sub")
        remote.chmod("/d/inner", 0o600)
        assert (root / "d" / "inner").stat().st_mode & 0o777 == 0o600
        assert os.listdir(root / "d") == ["inner"]


@pytest.mark.parametrize("first", ["write", "mkdir", "remove", "rename", "cross", "chmod", "takes"])
def test_each_first_operation_learns_that_server_takes_no_paths(first: str, root: Path) -> None:
    with served(root) as (_, remote):
        if first == "write":
            write(remote, "/d/new", b"new", None)
            assert (root / "d" / "new").read_bytes() == b"new"
        elif first == "mkdir":
            remote.mkdir("/d/new")
            assert (root / "d" / "new").is_dir()
        elif first == "remove":
            remote.remove("/d/inner")
            assert not (root / "d" / "inner").exists()
        elif first == "rename":
            remote.rename("/d/inner", "/d/other", replace=False)
            assert (root / "d" / "other").exists()
        elif first == "cross":
            with pytest.raises(errors.CrossesFolders):
                remote.rename("/d/inner", "/e/inner", replace=False)
        elif first == "chmod":
            remote.chmod("/d/inner", 0o600)
        else:
            assert remote.takes_files("/d/new")
        assert remote.profile.names.paths is False


def test_rename_between_folders_is_exdev_and_changes_nothing_on_server_without_paths(
    root: Path,
) -> None:
    with served(root) as (server, remote):
        read(remote, "/hello")
        (root / "e" / "inner").write_bytes(b"old")
        for replace in (False, True):
            with pytest.raises(errors.CrossesFolders):
                remote.rename("/d/inner", "/e/inner", replace=replace)
        assert "RNFR inner" not in server.commands
        assert (root / "d" / "inner").read_bytes() == b"inner"
        assert (root / "e" / "inner").read_bytes() == b"old"


def test_refusal_that_passes_at_once_does_not_look_like_names_only(root: Path) -> None:
    """Another client has made the folder after the refusal, before the look for its reason."""
    with served(root, Manners(passing={"RETR": ["550 denied"]})) as (_, remote):
        assert read(remote, "/d/inner") == b"inner"
        assert remote.profile.names.paths is not False


def test_refusal_that_passes_is_not_learned_as_names_only(root: Path) -> None:
    """The first two RETR are refused, and nothing explains it; the third one, by name, is not."""
    manners = Manners(passing={"RETR": ["550 denied"] * 2})
    with served(root, manners) as (_, remote):
        assert read(remote, "/d/inner") == b"inner"
        assert remote.profile.names.paths is False
        assert "paths" not in remote.profile.learned()
        remote.rename("/d/inner", "/e/inner", replace=False)
        assert (root / "e" / "inner").read_bytes() == b"inner"
        assert remote.profile.learned()["paths"] is True


@pytest.mark.parametrize("names_only", [False, True])
def test_file_of_ours_shows_whether_server_takes_paths(names_only: bool, root: Path) -> None:
    manners = Manners(names_only=names_only, passing={"RETR": ["550 denied"] * 2})
    with served(root, manners) as (server, remote):
        read(remote, "/d/inner")
        assert "paths" not in remote.profile.learned()
        write(remote, "/d/new", b"new", None)
        assert (root / "d" / "new").read_bytes() == b"new"
        assert remote.profile.learned()["paths"] is not names_only
        before = server.verbs().count("RNFR")
        write(remote, "/d/newer", b"newer", None)
        assert server.verbs().count("RNFR") == before + 1  # the upload's own
        assert read(remote, "/d/newer") == b"newer"
        assert sorted(os.listdir(root / "d")) == ["inner", "new", "newer"]


def test_session_goes_on_after_first_rename_that_crosses_folders(root: Path) -> None:
    """After RNFR, this server takes nothing but RNTO."""
    with served(root) as (_, remote):
        with pytest.raises(errors.CrossesFolders):
            remote.rename("/d/inner", "/e/inner", replace=False)
        assert read(remote, "/d/inner") == b"inner"


def test_recalled_names_only_is_doubted_when_file_crosses_folders(root: Path) -> None:
    """Another mount, or an earlier version, may have learned it from a refusal that passed."""
    with served(root, Manners()) as (_, remote):
        remote.connect()
        remote.profile.names.paths = False
        remote.rename("/d/inner", "/e/inner", replace=False)
        assert (root / "e" / "inner").read_bytes() == b"inner"


def test_folder_is_entered_once_for_following_commands_in_it(root: Path) -> None:
    with served(root) as (server, remote):
        read(remote, "/d/inner")
        before = len(server.commands)
        for number in range(5):
            write(remote, f"/d/file{number}", b"new", None)
            read(remote, f"/d/file{number}")
        remote.remove("/d/file0")
        assert not [line for line in server.commands[before:] if line.startswith("CWD")]
        before = len(server.commands)
        read(remote, "/hello")
        remote.chmod("/hello", 0o644)
        entered = [line for line in server.commands[before:] if line.startswith("CWD")]
        assert entered == ["CWD /"]


def test_folder_is_entered_again_after_possible_rename(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(root) as (server, remote):
        read(remote, "/d/inner")
        remote.rename("/d", "/moved", replace=False)
        remote.rename("/e", "/d", replace=False)
        write(remote, "/d/new", b"new", None)
        assert sorted(os.listdir(root / "d")) == ["new"]
        before = server.verbs().count("CWD")
        monkeypatch.setattr(current_folder, "FOLDER_AGE_SECONDS", 0.0)
        remote.remove("/d/new")
        assert server.verbs().count("CWD") == before + 1


def test_no_command_with_bare_name_is_sent_when_its_folder_cannot_be_entered(root: Path) -> None:
    with served(root) as (server, remote):
        read(remote, "/hello")
        (root / "gone").mkdir()
        (root / "hello").rename(root / "gone" / "hello")
        (root / "gone" / "hello").write_bytes(b"precious")
        with pytest.raises(errors.NotFound):
            remote.remove("/elsewhere/hello")
        assert "DELE hello" not in server.commands
        assert (root / "gone" / "hello").exists()


def test_next_mount_remembers_that_server_takes_no_paths(root: Path) -> None:
    with served(root) as (server, remote):
        read(remote, "/d/inner")
        write(remote, "/d/new", b"new", None)
        with connected(server, remote.profile) as again:
            again.connect()
            before = len(server.commands)
            assert read(again, "/d/inner") == b"inner"
            assert [c for c in server.commands[before:] if "/d/" in c] == []


def test_refusal_by_server_with_paths_teaches_nothing(root: Path) -> None:
    manners = Manners(answers={"STOR": "550 denied", "DELE": "550 denied"})
    with served(root, manners) as (server, remote):
        with pytest.raises(errors.PermissionDenied):
            remote.remove("/d/inner")
        assert remote.profile.names.paths is None
        read(remote, "/hello")
        assert remote.profile.names.paths is True
        before = len(server.commands)
        with pytest.raises(errors.PermissionDenied):
            remote.remove("/d/inner")
        assert "DELE inner" not in server.commands[before:]
        with pytest.raises(errors.PermissionDenied):
            write(remote, "/d/new", b"new", None)
        assert not [line for line in server.commands[before:] if line == "STOR new"]


@pytest.mark.parametrize(
    ("line", "folder", "sent"),
    [
        ("RETR /a/b c", "/a", "RETR b c"),
        ("DELE /hello", "/", "DELE hello"),
        ("MDTM /a/b", "/a", "MDTM b"),
        ("MDTM 20240131120000 /a/b", "/a", "MDTM 20240131120000 b"),
        ("SITE CHMOD 644 /a/b/c", "/a/b", "SITE CHMOD 644 c"),
        ("SITE UTIME 20240131120000 /a/b", "/a", "SITE UTIME 20240131120000 b"),
        ("MFF UNIX.mode=0644; /a/b", "/a", "MFF UNIX.mode=0644; b"),
        ('XMD5 "/a/b"', "/a", 'XMD5 "b"'),
        ("HASH /a/ /x", "/a/ ", "HASH x"),
        ("TYPE I", "", "TYPE I"),
        ("CWD /a/b", "", "CWD /a/b"),
        ("MLST /", "", "MLST /"),
        ("SITE HELP /a/b", "", "SITE HELP /a/b"),
    ],
)
def test_path_of_command_is_split_into_folder_and_name(line: str, folder: str, sent: str) -> None:
    assert bare.folder_of(line) == folder
    assert bare.in_folder(line, folder) == sent
    assert bare.in_folder(line, "/other") == line
