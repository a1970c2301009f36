"""Servers of systems without slashes: the syntax of paths, and a mount that works with them.

The servers are pyftpdlib, changed to accept only OpenVMS's and MVS's paths, and to list as they do.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp import foreign
from ftpfs.model.entry import Kind
from tests.support import odd_server
from tests.support.odd_server import Script
from tests.unit.ftp.test_odd_servers import connected, read, write

VMS_HOME, MVS_HOME = "DISK$USER:[SMITH]", "'SMITH.'"


@pytest.mark.parametrize(
    ("home", "ours", "theirs"),
    [
        (VMS_HOME, "CWD /", "CWD DISK$USER:[SMITH]"),
        (VMS_HOME, "CWD /SUB/DEEP", "CWD DISK$USER:[SMITH.SUB.DEEP]"),
        (VMS_HOME, "RETR /A.TXT", "RETR DISK$USER:[SMITH]A.TXT"),
        (VMS_HOME, "SIZE /SUB/A.TXT", "SIZE DISK$USER:[SMITH.SUB]A.TXT"),
        (MVS_HOME, "CWD /", "CWD 'SMITH.'"),
        (MVS_HOME, "CWD /A.LIB", "CWD 'SMITH.A.LIB'"),
        (MVS_HOME, "RETR /A.DATA", "RETR 'SMITH.A.DATA'"),
        (MVS_HOME, "RETR /A.LIB/MEMBER", "RETR 'SMITH.A.LIB(MEMBER)'"),
        ("'SMITH.A.LIB'", "CWD /", "CWD 'SMITH.A.LIB'"),
        ("'SMITH.A.LIB'", "RETR /MEMBER", "RETR 'SMITH.A.LIB(MEMBER)'"),
        (MVS_HOME, "LIST", "LIST"),
        (MVS_HOME, "OPTS UTF8 ON", "OPTS UTF8 ON"),
    ],
)
def test_path_is_written_in_syntax_of_foreign_system(home: str, ours: str, theirs: str) -> None:
    system = foreign.told_by(home)
    assert system is not None
    assert system.line(ours) == theirs


@pytest.mark.parametrize(
    "home", ["/", "/home/smith", "", "/[a]", "C:/x", "a b:[c]", "d:[\r]", "d\0:[a]", "''"]
)
def test_path_with_slashes_means_no_foreign_system(home: str) -> None:
    assert foreign.told_by(home) is None


def vms(root: Path) -> Script:
    """Names have one dot, and none at the start; dots join a folder's names."""

    def meant(path: str) -> str | None:
        found = re.fullmatch(r"DISK\$USER:\[SMITH((?:\.\w+)*)\]((?:\w+\.\w*)?)", path)
        return found and f"{found[1].replace('.', '/')}/{found[2]}"

    def listing(folder: Path) -> bytes:
        lines = ["", "Directory DISK$USER:[SMITH]", ""]
        for path in sorted(folder.iterdir()):
            name = f"{path.name}.DIR" if path.is_dir() else path.name
            blocks = 1 if path.is_dir() else -(-path.stat().st_size // 512)
            facts = f"{blocks}/3   8-SEP-1999 22:08:01  [SMITH]  (RWED,RWED,RE,)"
            lines += [f"{name};1", f"   {facts}"] if len(name) > 18 else [f"{name};1  {facts}"]
        lines += ["", f"Total of {len(lines)} files, 9/27 blocks."]
        return "".join(line + "\r\n" for line in lines).encode()

    return Script(
        unknown={"MLSD", "MLST", "MDTM", "MFMT", "FEAT"},
        replies={"PWD": f'257 "{VMS_HOME}" is current directory.'},
        listing=listing,
        reads_path=meant,
    )


def mvs(root: Path) -> Script:
    """Libraries are folders here; names are upper case, and there is no SIZE."""

    def meant(path: str) -> str | None:
        found = re.fullmatch(r"'SMITH\.((?:[A-Z@#$][A-Z0-9.@#$]*)?)(?:\(([A-Z0-9]{1,8})\))?'", path)
        return found and "/" + "/".join(filter(None, found.groups()))

    def listing(folder: Path) -> bytes:
        names = sorted(folder.iterdir())
        if folder == root:
            lines = ["Volume Unit    Referred Ext Used Recfm Lrecl BlkSz Dsorg Dsname"]
            for path in names:
                kind = "PO" if path.is_dir() else "PS"
                lines.append(
                    f"WRK101 3390   2006/03/20  1   15  FB      80 27920  {kind}  {path.name}"
                )
        else:
            lines = [" Name     VV.MM   Created       Changed      Size  Init   Mod   Id"]
            for path in names:
                facts = "01.01 2006/03/20 2006/03/20 14:25    11    11     0 SMITH"
                lines.append(f" {path.name:<8}  {facts}")
        return "".join(line + "\r\n" for line in lines).encode()

    return Script(
        unknown={"MLSD", "MLST", "MDTM", "MFMT", "FEAT", "SIZE"},
        replies={
            "PWD": f'257 "{MVS_HOME}" is working directory.',
            "LIST -a": "550 No data sets found.",
        },
        listing=listing,
        reads_path=meant,
    )


def test_vms_server_is_listed_entered_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "SUB" / "DEEP").mkdir(parents=True)
    (tmp_path / "A.TXT").write_bytes(b"a" * 1000)
    (tmp_path / "SUB" / "A_NAME_THAT_IS_LONG.TXT").write_bytes(b"b" * 700)
    with odd_server.start(tmp_path, vms(tmp_path)) as odd, connected(odd) as remote:
        root = {entry.name: entry for entry in remote.list("/")}
        assert {name: entry.kind for name, entry in root.items()} == {
            "A.TXT": Kind.FILE,
            "SUB": Kind.DIRECTORY,
        }
        # Blocks are no bytes: SIZE tells the size.
        assert root["A.TXT"].size is None
        assert remote.look_again("/A.TXT", root["A.TXT"]).size == 1000
        assert sorted(entry.name for entry in remote.list("/SUB")) == [
            "A_NAME_THAT_IS_LONG.TXT",
            "DEEP",
        ]
        assert read(remote, "/SUB/A_NAME_THAT_IS_LONG.TXT") == b"b" * 700
        assert remote.list("/SUB/DEEP") == []
        with pytest.raises(errors.NotFound):
            remote.list("/MISSING")
        write(remote, "/SUB/NEW.TXT", b"new")
        assert read(remote, "/SUB/NEW.TXT") == b"new"
        remote.mkdir("/OTHER")
        remote.rename("/SUB/NEW.TXT", "/OTHER/NEW.TXT", replace=False)
        assert (tmp_path / "OTHER" / "NEW.TXT").read_bytes() == b"new"
        remote.remove("/OTHER/NEW.TXT")
        remote.rmdir("/OTHER")
    assert not (tmp_path / "OTHER").exists()


def test_mvs_server_is_listed_entered_and_read(tmp_path: Path) -> None:
    (tmp_path / "A.LIB").mkdir()
    (tmp_path / "A.LIB" / "MEMBER").write_bytes(b"member")
    (tmp_path / "A.DATA").write_bytes(b"data")
    with odd_server.start(tmp_path, mvs(tmp_path)) as odd, connected(odd) as remote:
        assert {entry.name: entry.kind for entry in remote.list("/")} == {
            "A.DATA": Kind.FILE,
            "A.LIB": Kind.DIRECTORY,
        }
        (member,) = remote.list("/A.LIB")
        assert (member.name, member.kind, member.size) == ("MEMBER", Kind.FILE, None)
        assert read(remote, "/A.LIB/MEMBER") == b"member"
        assert read(remote, "/A.DATA") == b"data"
        with pytest.raises(errors.NotFound):
            remote.list("/B.LIB")
