"""The folder that a session is in, as its replies tell: no server, no socket."""

from __future__ import annotations

import pytest

from ftpfs.ftp.connections import current_folder
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.current_folder import CurrentFolder
from ftpfs.ftp.profile import Profile

OK, REFUSED = Reply(250, ("250 done",)), Reply(550, ("550 no",))


def folder_after(*lines: str, reply: Reply = OK, profile: Profile | None = None) -> CurrentFolder:
    """The folder of a session after these commands, all with the same reply."""
    folder = CurrentFolder(profile or Profile())
    folder.note([line.encode() for line in lines], lines, [reply] * len(lines))
    return folder


def test_session_is_in_folder_that_it_entered() -> None:
    folder = folder_after("CWD /a", "TYPE I", "CWD /a/b", "SIZE /a/b/file")
    assert folder.is_known_to_be("/a/b")
    assert not folder.is_known_to_be("/a")
    assert folder.shortened("RETR /a/b/file") == "RETR file"
    assert folder.shortened("RETR /a/file") == "RETR /a/file"


@pytest.mark.parametrize("line", ["CDUP", "XCUP", "XCWD /c", "CWD /c"])
def test_folder_is_unknown_after_command_that_leads_elsewhere(line: str) -> None:
    folder = folder_after("CWD /a")
    folder.note([line.encode()], [line], [REFUSED])
    assert not folder.is_known_to_be("/a")
    assert not folder.is_known_to_be("/c")


@pytest.mark.parametrize(
    ("lines", "reply", "known"),
    [
        (("RNFR /x", "RNTO /y"), OK, False),
        (("RNFR /x", "RNTO /y"), REFUSED, True),
        (("RMD /x",), OK, False),
        (("RNFR /d/.ftpfs-1.tmp", "RNTO /d/name"), OK, True),
        (("RNFR /d/.ftpfs-1.tmp", "SIZE /d/z", "RNTO /d/name"), OK, True),
        (("DELE /x",), OK, True),
    ],
)
def test_folder_is_in_doubt_after_any_session_may_have_renamed_it(
    lines: tuple[str, ...], reply: Reply, known: bool
) -> None:
    profile = Profile()
    folder = folder_after("CWD /a", profile=profile)
    folder_after(*lines, reply=reply, profile=profile)
    assert folder.is_known_to_be("/a") is known


def test_folder_is_in_doubt_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_after("CWD /a")
    monkeypatch.setattr(current_folder, "FOLDER_AGE_SECONDS", 0.0)
    assert not folder.is_known_to_be("/a")


@pytest.mark.parametrize(
    ("lines", "reply", "paths"),
    [
        (("RETR /a/file",), OK, True),
        (("SIZE /a/file", "RETR /a/file"), OK, True),
        (("STOR /a/file",), REFUSED, None),
        (("RETR file",), OK, None),
        (("SIZE /a/file",), OK, None),
        (("CWD /a",), OK, None),
    ],
)
def test_server_that_carries_out_command_with_path_takes_paths(
    lines: tuple[str, ...], reply: Reply, paths: bool | None
) -> None:
    profile = Profile()
    folder_after(*lines, reply=reply, profile=profile)
    assert profile.names.paths is paths
