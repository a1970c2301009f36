"""Presence: when a server counts as away, and when it is back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ftpfs import errors
from ftpfs.core.store import presence as module
from ftpfs.core.store.presence import Presence
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.02)


class Server:
    """Fails logins with `error`; None: lets in."""

    def __init__(self) -> None:
        self.error: errors.FtpfsError | None = errors.ConnectionRefused("refused")
        self.tries = 0
        self.has_gone = True

    def reach(self) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., Presence]]:
    made: list[Presence] = []

    def make(*, seeks: bool = True) -> Presence:
        made.append(Presence(server.reach, lambda: server.has_gone, seeks=seeks))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_server_that_is_away_is_sought_until_it_is_back(
    server: Server, make: Callable[..., Presence]
) -> None:
    presence, returned = make(), threading.Event()
    presence.returned = returned.set
    presence.note_failure(errors.ConnectionLost("cut"))
    assert presence.is_away
    until(lambda: server.tries > 3)
    assert presence.is_away
    server.error = None
    assert returned.wait(10)
    assert not presence.is_away
    tries = server.tries
    presence.note_failure(errors.ConnectionLost("cut"))
    assert presence.is_away
    until(lambda: not presence.is_away)
    assert server.tries == tries + 1


@pytest.mark.parametrize(
    "error", [errors.LoginFailed("530"), errors.TlsError("no"), errors.ServerBusy("421")]
)
def test_server_that_refuses_is_not_away(
    server: Server, make: Callable[..., Presence], error: errors.FtpfsError
) -> None:
    presence = make()
    presence.leave("away")
    server.error = error
    until(lambda: not presence.is_away)


def test_failure_of_a_call_alone_is_no_absence(
    server: Server, make: Callable[..., Presence]
) -> None:
    presence = make()
    server.has_gone = False
    presence.note_failure(errors.DeadlineExceeded("slow"))
    assert not presence.is_away
    assert not server.tries


def test_mount_that_shall_ask_nothing_seeks_nobody(
    server: Server, make: Callable[..., Presence]
) -> None:
    threads = threading.active_count()
    presence = make(seeks=False)
    presence.leave("offline=always")
    assert threading.active_count() == threads
    assert presence.is_away
    assert not server.tries


def test_server_counts_as_away_until_what_waits_is_done(
    server: Server, make: Callable[..., Presence]
) -> None:
    presence, returned = make(), threading.Event()
    presence.returned = returned.set
    told: list[bool] = []

    def catch_up(lets_in: bool) -> bool:
        told.append(lets_in)
        assert presence.is_away
        if len(told) == 2:
            raise ValueError("a fault")
        return len(told) == 4 and presence.arrive()

    presence.catch_up = catch_up
    server.error = errors.LoginFailed("530")
    presence.note_failure(errors.ConnectionLost("cut"))
    until(lambda: told)
    server.error = None
    assert returned.wait(10)
    assert not presence.is_away
    assert told[0] is False
    assert told[-1] is True
    assert len(told) == 4


def test_mount_that_begins_behind_tries_at_once(
    server: Server, make: Callable[..., Presence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 60.0)
    presence, returned = make(), threading.Event()
    presence.returned, server.error = returned.set, None
    presence.begin_behind()
    assert returned.wait(10)
    assert not presence.is_away
