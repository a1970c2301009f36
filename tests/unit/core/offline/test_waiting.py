"""Which changes of names wait for a server that is away, and what is shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.offline.steps import Act, Step, StepRows
from ftpfs.core.store.remembering import RememberingRemote
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until
from tests.unit.core.offline.conftest import Away


@pytest.fixture
def here(away: Away, server: MemoryRemote) -> Away:
    """/seen was listed, /unseen was not; the server is away."""
    for folder in ("/seen", "/unseen", "/empty"):
        server.outside_mkdir(folder)
    server.outside_write("/seen/x", b"x")
    server.outside_write("/unseen/y", b"y")
    for folder in ("/", "/seen", "/empty"):
        away.remote.list(folder)
    away.leave()
    server.calls.clear()
    return away


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (errors.Offline, lambda remote: remote.mkdir("/unseen/new")),
        (errors.Offline, lambda remote: remote.rmdir("/unseen")),
        (errors.Offline, lambda remote: remote.remove("/unseen/y")),
        (errors.Offline, lambda remote: remote.rename("/unseen/y", "/y", replace=False)),
        (errors.Offline, lambda remote: remote.rename("/seen/x", "/unseen/x", replace=False)),
        (errors.Offline, lambda remote: remote.rename("/empty", "/unseen", replace=False)),
        (errors.Offline, lambda remote: remote.set_mtime("/seen/x", 5)),
        (errors.Exists, lambda remote: remote.mkdir("/seen")),
        (errors.NotFound, lambda remote: remote.mkdir("/none/new")),
        (errors.NotFound, lambda remote: remote.rmdir("/none")),
        (errors.NotFound, lambda remote: remote.remove("/seen/none")),
        (errors.NotFound, lambda remote: remote.rename("/none", "/new", replace=False)),
        (errors.NotFound, lambda remote: remote.chmod("/none", 0o600)),
        (errors.NotADirectory, lambda remote: remote.rmdir("/seen/x")),
        (errors.NotADirectory, lambda remote: remote.mkdir("/seen/x/new")),
        (errors.IsADirectory, lambda remote: remote.remove("/seen")),
        (errors.NotEmpty, lambda remote: remote.rmdir("/seen")),
        (errors.NotEmpty, lambda remote: remote.rename("/empty", "/seen", replace=False)),
    ],
)
def test_impossible_change_is_refused_and_leaves_no_step(
    here: Away,
    server: MemoryRemote,
    error: type[errors.FtpfsError],
    call: Callable[[RememberingRemote], object],
) -> None:
    with pytest.raises(error):
        call(here.remote)
    assert here.rows.all() == []
    assert not server.calls


def test_folder_is_renamed_whatever_is_in_it(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/unseen", "/moved", replace=False)
    with pytest.raises(errors.Offline):
        here.remote.list("/moved")
    with pytest.raises(errors.Offline):
        here.remote.stat("/moved/y")
    with pytest.raises(errors.NotFound):
        here.remote.stat("/unseen")
    assert here.replay.run()
    assert server.files() == {"/seen/x": b"x", "/moved/y": b"y"}


def test_content_is_stored_under_the_name_that_the_server_told(here: Away) -> None:
    here.remote.rename("/seen", "/moved", replace=False)
    here.remote.rename("/moved/x", "/z", replace=False)
    here.remote.mkdir("/seen")
    assert here.waiting.origin("/z") == "/seen/x"
    assert here.waiting.origin("/moved/other") == "/seen/other"
    assert here.waiting.origin("/unseen/y") == "/unseen/y"
    assert here.waiting.origin("/seen/x") == "/seen/x"  # nowhere: nothing is stored of it


def test_mode_and_time_of_a_folder_show_and_are_set(here: Away, server: MemoryRemote) -> None:
    here.remote.chmod("/seen/x", 0o600)
    assert here.remote.set_mtime("/seen", 5, directory=True) == 5
    here.remote.mkdir("/seen/d", before=FolderAttributes("/seen", 0o700, None))
    here.remote.rename("/seen", "/moved", replace=False)
    assert here.remote.stat("/moved").mtime == 5
    assert here.remote.stat("/moved").mode == 0o700
    assert here.remote.stat("/moved/x").mode == 0o600
    assert here.replay.run()
    assert server.node("/moved/x").mode == 0o600
    assert (server.node("/moved").mode, server.set[0].mtime) == (0o700, 5)


def test_file_that_is_kept_for_its_readers_gets_the_hidden_name(
    here: Away, server: MemoryRemote
) -> None:
    server.outside_write("/other", b"other")
    here.listings.told("/other", Entry("other", Kind.FILE, 5, server.now, True))
    here.remote.rename("/other", "/seen/x", replace=True, aside="/seen/.ftpfs-kept", keep=True)
    assert [entry.name for entry in here.remote.list("/seen")] == ["x"]
    assert here.remote.stat("/seen/.ftpfs-kept").size == 1
    here.remote.remove("/seen/.ftpfs-kept")
    assert [step.act for step in here.rows.all()] == [Act.RENAME, Act.RENAME, Act.REMOVE]
    assert here.replay.run()
    assert server.files() == {"/seen/x": b"other", "/unseen/y": b"y"}


def test_steps_and_their_states_survive_kill(here: Away) -> None:
    here.remote.mkdir("/odd\udcff name")
    here.remote.rename("/seen/x", "/odd\udcff name/x", replace=False)
    here.remote.chmod("/odd\udcff name/x", 0o600)
    here.waiting.settle(here.waiting.waiting()[0], "refused by a test")
    before = here.rows.all()
    here.kill()
    assert here.rows.all() == before
    assert [step.path for step in here.waiting.waiting()] == ["/seen/x", "/odd\udcff name/x"]
    assert here.waiting.refused == ["/odd\udcff name"]


def test_status_tells_what_waits_and_what_was_refused(here: Away, server: MemoryRemote) -> None:
    here.remote.remove("/seen/x")
    here.remote.rename("/empty", "/moved", replace=False)
    (first, second) = here.waiting.status()
    assert (first.path, first.state, first.change) == ("/seen/x", "dirty", "delete")
    assert (second.path, second.change) == ("/empty", "rename to /moved")
    assert first.error == "the server is away"
    assert here.waiting.waits("/moved")
    assert here.waiting.waits("/")
    assert not here.waiting.waits("/unseen")
    assert not here.waiting.drain("/seen", 0.01)
    server.outside_write("/seen/x", b"changed")
    assert here.replay.run()
    assert here.waiting.drain("/", 0)
    (refused,) = here.waiting.status()
    assert (refused.state, refused.error) == (
        "failed",
        "somebody else has changed it meanwhile",
    )
    here.waiting.forget("/unseen")
    assert here.waiting.status()
    here.waiting.forget("/seen")
    assert here.waiting.status() == ()


def test_change_goes_to_the_server_when_it_is_back(here: Away, server: MemoryRemote) -> None:
    assert here.replay.run()
    here.remote.mkdir("/new")
    here.remote.remove("/seen/x")
    assert here.rows.all() == []
    assert server.calls["mkdir"] == server.calls["remove"] == 1


def test_change_that_finds_the_server_gone_becomes_a_step(away: Away, server: MemoryRemote) -> None:
    away.learn()
    error = errors.ConnectionRefused("refused")
    error.asked = False
    server.fail("mkdir", error)
    away.remote.mkdir("/new")
    assert [step.path for step in away.rows.all()] == ["/new"]


def test_change_whose_answer_was_lost_becomes_no_step(away: Away, server: MemoryRemote) -> None:
    away.learn()
    server.fail("mkdir", errors.ConnectionLost("cut"), too_late=True)
    with pytest.raises(errors.ConnectionLost):
        away.remote.mkdir("/new")
    assert away.rows.all() == []


def test_step_is_synced_within_a_second_or_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    StepRows(spool.journal).add([Step(Act.MKDIR, "/d", 5.0)])
    assert spool.journal.is_unsynced
    until(lambda: not spool.journal.is_unsynced)
    StepRows(spool.journal).clear()
    spool.remove()
