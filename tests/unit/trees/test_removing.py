"""Trees deleted on the four real servers."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.removing import Removing
from ftpfs.trees.server import Server
from tests.conftest import RemoteDir
from tests.unit.trees.test_copying import NETWORK, give_all, plant

pytestmark = pytest.mark.far


@pytest.fixture
def network() -> Network:
    return NETWORK


def remove(
    remote: Remote, *paths: str, takes: Callable[[str, bool], bool] = lambda _path, _folder: True
) -> Outcome:
    side = Server(remote)
    removing = Removing(side, jobs=3, takes=takes)
    removing.start([(path, remote.stat(path)) for path in paths], "/")
    assert removing.wait(60)
    return removing.outcome()


def test_tree_is_deleted_with_all_in_it(remote: Remote, remote_dir: RemoteDir) -> None:
    (remote_dir.disk / "tree").mkdir()
    plant(remote_dir.disk / "tree")
    give_all(remote_dir)
    remote_dir.write("other", b"stays")
    outcome = remove(remote, "/tree")
    assert (outcome.failures, outcome.deleted) == ([], 9)
    assert [path.name for path in remote_dir.disk.iterdir()] == ["other"]


def test_link_to_a_folder_is_deleted_and_the_folder_stays(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    """Some servers list such a link as a folder."""
    remote_dir.write("outside/precious", b"precious")
    remote_dir.write("tree/sub/file", b"x")
    (remote_dir.disk / "tree/link").symlink_to("../outside")
    (remote_dir.disk / "tree/sub/link").symlink_to("../../outside")
    (remote_dir.disk / "direct").symlink_to("outside")
    outcome = remove(remote, "/tree", "/direct")
    assert outcome.failures == []
    assert [path.name for path in remote_dir.disk.iterdir()] == ["outside"]
    assert (remote_dir.disk / "outside/precious").read_bytes() == b"precious"


def test_what_a_filter_leaves_out_stays_with_the_folders_above(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("tree/deep/keep", b"")
    remote_dir.write("tree/deep/a", b"")
    remote_dir.write("tree/gone/b", b"")
    outcome = remove(remote, "/tree", takes=lambda path, _: not path.endswith("keep"))
    assert (outcome.failures, outcome.deleted) == ([], 3)
    left = [str(path.relative_to(remote_dir.disk)) for path in remote_dir.disk.rglob("*")]
    assert sorted(left) == ["tree", "tree/deep", "tree/deep/keep"]


def test_what_cannot_be_deleted_does_not_keep_the_rest(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("tree/locked/file", b"x")
    remote_dir.write("tree/open/file", b"x")
    os.chown(remote_dir.disk / "tree/locked", 0, 0)
    outcome = remove(remote, "/tree")
    assert [each.path for each in outcome.failures] == ["/tree/locked/file"]
    assert not (remote_dir.disk / "tree/open").exists()
    assert stat.S_ISDIR((remote_dir.disk / "tree/locked").stat().st_mode)
