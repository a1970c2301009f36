"""Only a refusal of the login's own folder, with 5xx, teaches that a server has no CWD."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import conversation, hearing
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.remote import Remote
from tests.support import scripted_server as scripted
from tests.support.scripted_server import FIN, RST, STUCK, Manners, ScriptedServer
from tests.unit.ftp.test_manners import connected

NO = "550 not yours"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "OPTIONAL_TIMEOUT", 0.3)
    monkeypatch.setattr(conversation, "GROOM_TIMEOUT", 1.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_bytes(b"x")
    return tmp_path


@dataclass(frozen=True)
class Answers:
    """How the server answers CWD: the first ones in turn, and those of some folders always."""

    first: tuple[str, ...] = ()
    always: Mapping[str, str] = field(default_factory=dict)

    def manners(self, features: tuple[str, ...]) -> Manners:
        return Manners(answers=self.always, passing={"CWD": list(self.first)}, features=features)


# Nothing but a refusal of one folder, or a fault that passes. The second of two first answers is
# that to the CWD into the login's folder.
TEACHES_NOTHING = {
    "one folder refused": Answers(always={"CWD /theirs": NO}),
    "one folder refused as if CWD were unknown": Answers(always={"CWD /theirs": "502 no"}),
    "one folder refused for now": Answers(always={"CWD /theirs": "450 not now"}),
    "every folder refused for now": Answers(always={"CWD": "450 not now"}),
    "every folder refused by a server that is short of something": Answers(
        always={"CWD": "451 local error"}
    ),
    "login's folder refused for now": Answers((NO, "450 not now")),
    "server ends the session": Answers((NO, "421 too long")),
    "server forgot the login": Answers((NO, "530 log in first")),
    "server forgot the login, and says it of each folder": Answers(
        ("530 log in first", "530 log in first")
    ),
    "session needs TLS": Answers((NO, "534 policy demands TLS")),
    "connection cut at the first folder": Answers((FIN,)),
    "connection cut at the login's folder": Answers((NO, FIN)),
    "connection reset at the login's folder": Answers((NO, RST)),
    "session stuck at the first folder": Answers((STUCK,)),
    "session stuck at the login's folder": Answers((NO, STUCK)),
}
# Refusals of the login's own folder: what this mount believes, and what the next one is told.
TEACHES = {
    "500 unknown": (Answers(always={"CWD": "500 what?"}), False),
    "502 not implemented": (Answers(always={"CWD": "502 no"}), False),
    "504 not for that": (Answers(always={"CWD": "504 no"}), None),
    "550 each folder": (Answers(always={"CWD": "550 no"}), None),
    "553 each folder": (Answers(always={"CWD": "553 no"}), None),
}
FEATURES = pytest.mark.parametrize("features", [scripted.MODERN, ()], ids=["MLSD", "LIST"])


def names(remote: Remote, path: str) -> list[str]:
    return [entry.name for entry in remote.list(path)]


def next_mount(remote: Remote) -> Profile:
    profile = Profile()
    profile.recall(remote.profile.learned())
    return profile


def enters_first(server: ScriptedServer, remote: Remote, path: str) -> bool:
    """Whether a listing enters the folder and asks with a bare command."""
    before = len(server.commands)
    assert names(remote, path) == ["file"]
    sent = server.commands[before:]
    assert (f"CWD {path}" in sent) is not any(
        line.startswith(("LIST", "MLSD")) and line.endswith(f" {path}") for line in sent
    )
    return f"CWD {path}" in sent


@FEATURES
@pytest.mark.parametrize("case", TEACHES_NOTHING)
def test_refusal_that_may_pass_does_not_teach_that_server_has_no_cwd(
    case: str, features: tuple[str, ...], root: Path
) -> None:
    manners = TEACHES_NOTHING[case].manners(features)
    with scripted.start(root, manners) as server, connected(server) as remote:
        with contextlib.suppress(errors.FtpfsError):
            remote.list("/theirs")
        assert remote.profile.listings.enters is not False
        assert next_mount(remote).listings.enters is not False
        assert "CWD" not in next_mount(remote).wire.manners.avoided
        manners.answers, manners.passing = {}, {}
        assert enters_first(server, remote, "/ours")
        assert enters_first(server, remote, "/theirs")
        assert next_mount(remote).listings.enters is True


@FEATURES
@pytest.mark.parametrize("case", TEACHES)
def test_refusal_of_the_login_s_own_folder_teaches_that_server_has_no_cwd(
    case: str, features: tuple[str, ...], root: Path
) -> None:
    answers, kept = TEACHES[case]
    with scripted.start(root, answers.manners(features)) as server, connected(server) as remote:
        assert names(remote, "/theirs") == ["file"]
        assert not enters_first(server, remote, "/ours")
        assert server.commands.count("CWD /") == 1
        assert remote.profile.listings.enters is False
        assert next_mount(remote).listings.enters is kept


def test_once_a_folder_was_entered_no_refusal_teaches_that_server_has_no_cwd(root: Path) -> None:
    manners = Manners()
    with scripted.start(root, manners) as server, connected(server) as remote:
        assert enters_first(server, remote, "/ours")
        manners.answers = {"CWD": "502 no"}
        with contextlib.suppress(errors.FtpfsError):
            remote.list("/theirs")
        assert remote.profile.listings.enters is True
        assert next_mount(remote).listings.enters is True
