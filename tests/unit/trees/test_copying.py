"""Trees to and from the four real servers."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from ftpfs.trees.copying import Copying, Root
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.plan import Action, Rules
from ftpfs.trees.ways import Fetch, Send, Way
from tests.conftest import RemoteDir
from tests.support import servers
from tests.support.relay import Relay

pytestmark = pytest.mark.far

NETWORK = Network(
    connect_timeout=2.0, reply_timeout=5.0, data_timeout=5.0, finish_timeout=5.0, max_connections=6
)
MIRROR = Rules(changed_only=True)
WHEN = 1_600_000_001


@pytest.fixture
def network() -> Network:
    return NETWORK


def copy(
    way: Way, pairs: Iterable[tuple[str, str]], rules: Rules = MIRROR, jobs: int = 4
) -> Outcome:
    copying = Copying(way, way.rules(rules), jobs=jobs)
    copying.start([Root(*pair) for pair in pairs])
    assert copying.wait(60)
    copying.finish()
    return copying.outcome()


def send(remote: Remote, source: Path, target: str = "/copy", rules: Rules = MIRROR) -> Outcome:
    return copy(Send(remote), [(str(source), target)], rules)


def fetch(remote: Remote, target: Path, source: str = "/tree", rules: Rules = MIRROR) -> Outcome:
    return copy(Fetch(remote), [(source, str(target))], rules)


def plant(folder: Path) -> None:
    """A tree with files of all sizes that take another path in the code, and empty folders."""
    for name, size in (
        ("a", 5),
        ("empty", 0),
        ("sub/b", 300_000),
        ("sub/deeper/c", 3_000_000),
        ("sub/deeper/d", 70_000),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        os.utime(path, (WHEN, WHEN))
    (folder / "bare").mkdir()
    (folder / "sub" / "b").chmod(0o640)
    os.utime(folder / "sub", (WHEN, WHEN))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Each path with its content; folders have None."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".ftpfs-*")]


def give_all(remote_dir: RemoteDir) -> None:
    for path in remote_dir.disk.rglob("*"):
        remote_dir.give(path)


def test_tree_arrives_at_the_server_with_times_and_modes(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    plant(tmp_path)
    outcome = send(remote, tmp_path)
    assert outcome.failures == []
    assert (outcome.copied, outcome.folders) == (5, 4)
    there = remote_dir.disk / "copy"
    assert contents(there) == contents(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            copied = (there / path.relative_to(tmp_path)).stat()
            assert copied.st_mtime == WHEN
            assert stat.S_IMODE(copied.st_mode) == stat.S_IMODE(path.stat().st_mode)
    if remote.sets_on_folders()[1]:
        assert (there / "sub").stat().st_mtime == WHEN
    assert hidden(remote_dir.disk) == []


def test_tree_arrives_here_with_times_and_modes(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    (remote_dir.disk / "tree").mkdir()
    plant(remote_dir.disk / "tree")
    give_all(remote_dir)
    outcome = fetch(remote, tmp_path / "copy")
    assert outcome.failures == []
    assert (outcome.copied, outcome.bytes) == (5, 3_370_005)
    assert contents(tmp_path / "copy") == contents(remote_dir.disk / "tree")
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file():
            assert path.stat().st_mtime == WHEN
    assert stat.S_IMODE((tmp_path / "copy/sub/b").stat().st_mode) == 0o640
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_second_copy_moves_only_what_was_changed(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path, way: str
) -> None:
    source = tmp_path / "source" if way == "send" else remote_dir.disk / "tree"
    source.mkdir()
    plant(source)
    give_all(remote_dir)

    def again() -> Outcome:
        if way == "send":
            return send(remote, source)
        return fetch(remote, tmp_path / "copy")

    assert again().copied == 5
    outcome = again()
    assert (outcome.copied, outcome.same, outcome.bytes, outcome.failures) == (0, 5, 0, [])
    (source / "a").write_bytes(b"later")
    os.utime(source / "a", (WHEN + 5, WHEN + 5))
    (source / "empty").write_bytes(b"longer")
    os.utime(source / "empty", (WHEN - 5, WHEN - 5))
    os.utime(source / "sub" / "b", (WHEN - 5, WHEN - 5))
    outcome = again()
    assert (outcome.copied, outcome.same, outcome.failures) == (2, 3, [])
    copied = (remote_dir.disk if way == "send" else tmp_path) / "copy"
    assert contents(copied) == contents(source)


def test_odd_names_go_there_and_back(remote: Remote, remote_dir: RemoteDir, tmp_path: Path) -> None:
    kind = remote_dir.server.kind
    (tmp_path / "tree").mkdir()
    for label, raw in servers.NAMES.items():
        if not (label in servers.CANNOT[kind] or raw.decode("latin-1") in servers.CANNOT[kind]):
            (tmp_path / "tree" / os.fsdecode(raw)).write_bytes(raw)
    outcome = send(remote, tmp_path / "tree")
    failed = {failure.path for failure in outcome.failures}
    there = contents(remote_dir.disk / "copy")
    for path, data in contents(tmp_path / "tree").items():
        assert there.get(path) == data or str(tmp_path / "tree" / path) in failed
    assert len(failed) <= 3
    outcome = fetch(remote, tmp_path / "back", "/copy")
    assert outcome.failures == []
    assert contents(tmp_path / "back") == there


def test_files_that_cannot_be_copied_do_not_stop_the_others(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    plant(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-folder").symlink_to("sub")
    (tmp_path / "to-nothing").symlink_to("nothing")
    (tmp_path / "to-file").symlink_to("a")
    (tmp_path / "line\nbreak").touch()
    remote_dir.write("copy/sub", b"a file where a folder should be")
    remote_dir.write("copy/a/inside", b"a folder where a file should be")
    outcome = send(remote, tmp_path)
    reasons = {os.path.basename(each.path): each.why for each in outcome.failures}
    assert set(reasons) == {"fifo", "to-folder", "to-nothing", "line\nbreak", "sub", "a"}
    assert "neither a file nor a folder" in reasons["fifo"]
    assert "FTP makes no links" in reasons["to-folder"]
    assert "CR, LF" in reasons["line\nbreak"]
    assert "a file is in the way of a folder" in reasons["sub"]
    assert "a folder is in the way of a file" in reasons["a"]
    assert (outcome.copied, outcome.failed) == (2, 6)
    assert (remote_dir.disk / "copy/to-file").read_bytes() == (tmp_path / "a").read_bytes()
    assert (remote_dir.disk / "copy/bare").is_dir()


def test_unreadable_file_on_the_server_does_not_stop_the_others(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    remote_dir.write("tree/good", b"good")
    remote_dir.write("tree/secret", b"secret").chmod(0)
    remote_dir.write("tree/closed/inside", b"inside")
    (remote_dir.disk / "tree/closed").chmod(0)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/secret").write_text("an old copy")
    outcome = fetch(remote, tmp_path / "copy")
    assert sorted(each.path for each in outcome.failures) == ["/tree/closed", "/tree/secret"]
    assert outcome.unlisted == 1
    assert (tmp_path / "copy/good").read_text() == "good"
    assert (tmp_path / "copy/secret").read_text() == "an old copy"
    assert hidden(tmp_path) == []


def test_links_within_the_tree_are_links_here_and_others_fail(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    if remote_dir.server.kind == "pyftpdlib":
        pytest.skip("server cannot: pyftpdlib: its listings show what links point to")
    remote_dir.write("tree/sub/file", b"content")
    remote_dir.write("outside", b"outside")
    (remote_dir.disk / "tree/link").symlink_to("sub/file")
    (remote_dir.disk / "tree/out").symlink_to("../outside")
    outcome = fetch(remote, tmp_path / "copy")
    assert [each.path for each in outcome.failures] == ["/tree/out"]
    assert "leads out of the tree" in outcome.failures[0].why
    assert os.readlink(tmp_path / "copy/link") == "sub/file"
    again = fetch(remote, tmp_path / "copy")
    assert (again.copied, again.same) == (0, 2)


def test_server_cannot_write_through_a_link_that_it_placed_before(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    """A server that shows a link first, and a folder of that name later, writes nowhere else."""
    (tmp_path / "home").mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/x").symlink_to(tmp_path / "home")
    (tmp_path / "copy/y").symlink_to(tmp_path / "home/y")
    remote_dir.write("tree/x/authorized_keys", b"evil")
    remote_dir.write("tree/y", b"a file")
    outcome = fetch(remote, tmp_path / "copy")
    assert [each.why for each in outcome.failures] == ["a link is in the way of a folder"]
    assert list((tmp_path / "home").iterdir()) == []
    assert not (tmp_path / "copy/y").is_symlink()


def test_folder_that_nobody_may_write_to_is_filled_first(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("content")
    (tmp_path / "tree/sub").chmod(0o500)
    (tmp_path / "tree").chmod(0o555)
    assert send(remote, tmp_path / "tree").failures == []
    assert (remote_dir.disk / "copy/sub/file").read_text() == "content"
    assert stat.S_IMODE((remote_dir.disk / "copy/sub").stat().st_mode) == 0o500
    assert stat.S_IMODE((remote_dir.disk / "copy").stat().st_mode) == 0o555
    (remote_dir.disk / "copy").chmod(0o755)


def test_files_that_are_replaced_keep_their_modes_unless_trees_are_mirrored(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    remote_dir.write("copy/a", b"old").chmod(0o604)
    (tmp_path / "a").write_text("newer")
    (tmp_path / "a").chmod(0o664)
    send(remote, tmp_path, rules=Rules())
    assert stat.S_IMODE((remote_dir.disk / "copy/a").stat().st_mode) == 0o604
    (tmp_path / "a").write_text("newest")
    send(remote, tmp_path)
    assert stat.S_IMODE((remote_dir.disk / "copy/a").stat().st_mode) == 0o664
    assert (remote_dir.disk / "copy/a").read_text() == "newest"


def test_dry_run_tells_the_steps_and_changes_nothing(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    plant(tmp_path)
    remote_dir.write("copy/extra", b"x")
    told: list[tuple[Action, str]] = []
    way = Send(remote)
    copying = Copying(
        way,
        way.rules(Rules(changed_only=True, delete=True)),
        jobs=2,
        dry=True,
        tell=lambda action, path, _: told.append((action, path)),
    )
    copying.start([Root(str(tmp_path), "/copy")])
    assert copying.wait(30)
    copying.finish()
    assert sorted(told, key=str) == sorted(
        [
            (Action.COPY, "/copy/a"),
            (Action.COPY, "/copy/empty"),
            (Action.MAKE, "/copy/bare"),
            (Action.MAKE, "/copy/sub"),
            (Action.COPY, "/copy/sub/b"),
            (Action.MAKE, "/copy/sub/deeper"),
            (Action.COPY, "/copy/sub/deeper/c"),
            (Action.COPY, "/copy/sub/deeper/d"),
        ],
        key=str,
    )
    assert [path for path, _ in copying.deletions()] == ["/copy/extra"]
    assert contents(remote_dir.disk) == {"copy": None, "copy/extra": b"x"}


def test_file_that_is_written_to_while_it_is_sent_never_arrives_as_a_mixture(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old" * 1_000_000)
    way = Send(remote)
    copying = Copying(way, way.rules(MIRROR), jobs=1)
    changed = threading.Event()
    original = copying._progress

    def progress(key: int, name: str, total: int | None) -> Callable[[int], None]:
        inner = original(key, name, total)

        def advance(done: int) -> None:
            if done and not changed.is_set():
                changed.set()
                path.write_bytes(b"new" * 1_000_000)
            inner(done)

        return advance

    copying._progress = progress  # type: ignore[method-assign,assignment]
    copying.start([Root(str(tmp_path), "/copy")])
    assert copying.wait(60)
    assert changed.is_set()
    assert copying.outcome().failures == []
    assert (remote_dir.disk / "copy/log").read_bytes() == b"new" * 1_000_000
    assert hidden(remote_dir.disk) == []


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_connection_that_is_cut_again_and_again_costs_no_file(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, tmp_path: Path, way: str
) -> None:
    source = tmp_path / "source" if way == "send" else remote_dir.disk / "tree"
    source.mkdir()
    plant(source)
    give_all(remote_dir)
    relay.cut_data("up" if way == "send" else "down", after=1_500_000)
    relay.cut_data("up" if way == "send" else "down", after=100)
    if way == "send":
        assert send(relayed, source).failures == []
    else:
        assert fetch(relayed, tmp_path / "copy").failures == []
    copied = (remote_dir.disk if way == "send" else tmp_path) / "copy"
    assert contents(copied) == contents(source)
    assert hidden(copied) == []


def test_run_gives_up_when_the_server_is_gone_and_goes_on_later(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, tmp_path: Path
) -> None:
    for number in range(60):
        (tmp_path / f"{number}").write_text(f"content {number}")
    relay.stop()
    outcome = send(relayed, tmp_path)
    assert outcome.copied == 0
    assert 0 < outcome.failed < 60
    here = remote_dir.remote(NETWORK)
    try:
        assert send(here, tmp_path).copied == 60
    finally:
        here.close()


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("way", ["send", "fetch"])
def test_stopped_run_leaves_whole_files_and_no_temporary_ones(
    relayed: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    tmp_path: Path,
    way: str,
    now: bool,
) -> None:
    """`now`: the transfers in progress end, too."""
    source = tmp_path / "source" if way == "send" else remote_dir.disk / "tree"
    source.mkdir()
    for number in range(30):
        (source / f"{number}").write_bytes(os.urandom(1_200_000))
    give_all(remote_dir)
    going: Way = Send(relayed) if way == "send" else Fetch(relayed)

    def stop(action: Action, path: str, size: int | None) -> None:
        if action is Action.COPY and copying.outcome().copied == 2:
            if now:
                copying.halt()
                relayed.cut_off_calls(0)
            else:
                copying.stop()

    copying = Copying(going, going.rules(MIRROR), jobs=3, tell=stop)
    where = (remote_dir.disk if way == "send" else tmp_path) / "copy"
    root = Root(str(source), "/copy") if way == "send" else Root("/tree", str(where))
    copying.start([root])
    assert copying.wait(30)
    outcome = copying.outcome()
    assert outcome.interrupted
    arrived = contents(where)
    assert 0 < len(arrived) < 30
    assert len(arrived) >= outcome.copied
    for name, data in arrived.items():
        assert data == (source / name).read_bytes()
    assert hidden(where) == []
    outcome = send(relayed, source) if way == "send" else fetch(relayed, where)
    assert outcome.failures == []
    assert outcome.same == len(arrived)
    assert contents(where) == contents(source)
