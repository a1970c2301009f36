"""What is known of the server's names changes in step."""

from __future__ import annotations

import pytest

from ftpfs import errors
from ftpfs.core.names.known import KnownNames
from ftpfs.core.names.tree import Tree
from tests.support.memory_remote import MemoryRemote


@pytest.fixture
def remote() -> MemoryRemote:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    remote.outside_write("/d/a", b"aaaa")
    return remote


@pytest.fixture
def known(remote: MemoryRemote) -> KnownNames:
    return KnownNames(Tree(remote.list, remote.stat, ttl=60.0, ahead=remote.ahead))


def names(known: KnownNames, folder: str) -> set[str]:
    return {entry.name for entry in known.tree.children(folder)}


def test_folder_is_listed_again_after_a_change_in_it_failed(
    remote: MemoryRemote, known: KnownNames
) -> None:
    assert names(known, "/d") == {"a"}
    generation = known.generations.of("/d/a")
    remote.outside_remove("/d/a")
    assert names(known, "/d") == {"a"}
    with pytest.raises(errors.ConnectionLost), known.changing("/d/a"):
        raise errors.ConnectionLost("answer lost")
    assert names(known, "/d") == set()
    assert known.generations.of("/d/a") != generation


def test_upload_shows_at_once_with_a_new_generation_and_its_folder_takes_files(
    remote: MemoryRemote, known: KnownNames
) -> None:
    assert not known.takes_files("/d")
    before = known.generations.of("/d/b")
    remote.outside_write("/d/b", b"")
    assert known.uploaded("/d/b", remote.stat("/d/b")) == known.generations.of("/d/b") != before
    assert known.tree.lookup("/d/b").size == 0
    assert known.was_emptied("/d/b")
    assert known.takes_files("/d")


def test_renamed_folder_has_to_show_again_what_it_takes(
    remote: MemoryRemote, known: KnownNames
) -> None:
    known.note_takes("/d")
    known.note_lost("/d")
    assert known.lets_go("/d")
    remote.rename("/d", "/e", replace=False)
    known.renamed("/d", "/e")
    assert not known.lets_go("/d")
    assert not known.takes_files("/e")
    known.note_takes("/e")
    known.note_refused("/e")
    assert not known.takes_files("/e")
