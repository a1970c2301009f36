"""A remote that goes on while its server is away: what it answers, and what it refuses."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.offline.steps import StepRows
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.core.store.remembering import RememberingRemote
from ftpfs.core.writing.journal import Journal
from ftpfs.model.entry import Entry, FolderAttributes, Kind

OLD = 1_000_000_000


class Strict:
    """A server that may not be asked for anything."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def asked(*_arguments: object, **_words: object) -> object:
            raise AssertionError(f"the server was asked: {name}")

        return asked


@pytest.fixture
def listings(tmp_path: Path) -> Iterator[StoredListings]:
    stored = StoredListings(tmp_path / "store", 1 << 20)
    yield stored
    stored.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def remote(listings: StoredListings, journal: Journal) -> RememberingRemote:
    """The server is away, and its root was listed, and one name of /unlisted."""
    listings.listed("/", [file("a"), file("empty", 0), Entry("unlisted", Kind.DIRECTORY)])
    listings.told("/unlisted/x", file("x"))
    presence = Presence(lambda: None, lambda: True, seeks=False)
    presence.leave("a test")
    waiting = Waiting(StepRows(journal), listings, presence)
    return RememberingRemote(Strict(), listings, presence, waiting)  # type: ignore[arg-type]


def file(name: str, size: int = 7) -> Entry:
    return Entry(name, Kind.FILE, size, OLD, True, 0o644)


def test_looks_are_answered_as_the_server_told_last(remote: RememberingRemote) -> None:
    assert [entry.name for entry in remote.list("/")] == ["a", "empty", "unlisted"]
    for lease in (remote.ahead, remote.behind):
        with lease() as fetch:
            assert len(fetch("/")) == 3
    assert remote.stat("/a") == file("a")
    assert remote.look_again("/a", Entry("a", Kind.FILE, 7)) == file("a")
    assert remote.peek("/unlisted/x") == file("x")
    assert remote.peek("/unlisted/y") is None
    assert remote.open_read("/empty").read(10) == b""
    assert remote.read_link("/d/link", "../../../a") == "../a"
    assert remote.space() is None
    assert remote.is_offline()
    remote.warm(3)
    remote.check_name("/any")


def test_name_that_a_stored_listing_lacks_does_not_exist(remote: RememberingRemote) -> None:
    with pytest.raises(errors.NotFound):
        remote.stat("/b")


@pytest.mark.parametrize(
    "call",
    [
        lambda remote: remote.list("/unlisted"),
        lambda remote: remote.stat("/unlisted/y"),
        lambda remote: remote.open_read("/a"),
        lambda remote: remote.store("/a", None, base=None),
        lambda remote: remote.patch("/a", None, [(1, 2)], base=file("a")),
        lambda remote: remote.append("/a", None, 7, 8, base=file("a")),
        lambda remote: remote.takes_files("/a"),
        lambda remote: remote.mkdir("/unlisted/d"),
        lambda remote: remote.rmdir("/unlisted"),
        lambda remote: remote.remove("/unlisted/y"),
        lambda remote: remote.rename("/unlisted/y", "/b", replace=False),
        lambda remote: remote.rename("/a", "/unlisted/b", replace=False),
        lambda remote: remote.chmod("/unlisted/y", 0o600),
        lambda remote: remote.set_mtime("/a", 5),
        lambda remote: remote.set_on_folders([FolderAttributes("/unlisted/y", 0o700, None)]),
        lambda remote: remote.read_link("/link", "/absolute"),
        lambda remote: remote.read_link("/link", None),
    ],
)
def test_what_needs_the_server_is_unreachable_and_nothing_is_asked(
    remote: RememberingRemote, call: Callable[[RememberingRemote], object]
) -> None:
    with pytest.raises(errors.Offline) as caught:
        call(remote)
    assert errors.errno_of(caught.value) == errno.ENETUNREACH
    assert not caught.value.asked


def test_hidden_name_of_a_killed_mount_is_not_shown(
    remote: RememberingRemote, listings: StoredListings
) -> None:
    listings.moved("/a", "/.ftpfs-deleted-12345678")
    assert [entry.name for entry in remote.list("/")] == ["empty", "unlisted"]
    listings.moved("/.ftpfs-deleted-12345678", "/a")
    assert remote.stat("/a") == file("a")
