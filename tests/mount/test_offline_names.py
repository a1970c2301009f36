"""Names that are changed while the server is away: shown at once, and there when it is back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, daemons_of, ftpfs
from tests.mount.town import FILES_THERE, OLD, Town, fails_at_once, leave
from tests.support.waiting import until

pytestmark = pytest.mark.mount


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders (None) below a folder, by path."""
    return {
        str((Path(at) / name).relative_to(folder)): (
            (Path(at) / name).read_bytes() if name in files else None
        )
        for at, folders, files in os.walk(folder)
        for name in [*folders, *files]
    }


def arrives(town: Town, mounted: Mounted, expected: dict[str, bytes | None]) -> None:
    """The server is back, and has `expected` soon."""

    def has_all() -> bool:
        try:
            return tree(town.root) == expected
        except FileNotFoundError:  # a temporary name
            return False

    until(has_all, 60)
    until(lambda: os.getxattr(mounted.path, "user.ftpfs.state") == b"clean", 60)
    assert tree(town.root) == expected
    assert tree(mounted.path) == expected


def changed(mounted: Mounted) -> None:
    """Changes of FILES_THERE of every kind, each seen at once."""
    here = mounted.path
    (here / "new").mkdir()
    (here / "new/inside").write_bytes(b"inside")
    (here / "new").rename(here / "made")
    assert (here / "made/inside").read_bytes() == b"inside"
    (here / "made/inside").unlink()
    (here / "made/again").write_bytes(b"again")
    (here / "a").rename(here / "sub/moved")
    assert (here / "sub/moved").read_bytes() == FILES_THERE["a"]
    (here / "sub/deep").rename(here / "made/deep")
    assert (here / "made/deep/c").read_bytes() == FILES_THERE["sub/deep/c"]
    (here / "empty").unlink()
    assert not (here / "empty").exists()
    (here / "short").mkdir()
    (here / "short").rmdir()
    (here / "sub/moved").rename(here / "sub/b")  # over a file
    assert (here / "sub/b").read_bytes() == FILES_THERE["a"]
    assert sorted(os.listdir(here)) == ["made", "sub"]
    assert os.listdir(here / "sub") == ["b"]


AFTERWARDS = {
    "made": None,
    "made/again": b"again",
    "made/deep": None,
    "made/deep/c": FILES_THERE["sub/deep/c"],
    "sub": None,
    "sub/b": FILES_THERE["a"],
}


def test_names_changed_offline_show_at_once_and_arrive(town: Town, fuse_binding: str) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount(binding=fuse_binding)
    changed(mounted)
    town.back()
    arrives(town, mounted, AFTERWARDS)


def test_times_of_folders_that_the_server_does_not_set_are_no_failure(town: Town) -> None:
    """vsftpd sets no times of folders."""
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    (mounted.path / "new").mkdir()
    os.utime(mounted.path / "new", (OLD, OLD))
    os.utime(mounted.path / "sub", (OLD, OLD))
    (mounted.path / "new/inner").mkdir()
    os.utime(mounted.path / "new", (OLD + 9, OLD + 9))
    (mounted.path / "sub").rename(mounted.path / "new/sub")
    town.back()
    until(lambda: (town.root / "new/sub/b").exists(), 60)
    until(lambda: os.getxattr(mounted.path, "user.ftpfs.state") == b"clean", 60)
    state = {"XDG_STATE_HOME": str(mounted.state)}
    assert ftpfs("sync", str(mounted.path), env=state).returncode == 0
    assert (town.root / "new/inner").is_dir()


def test_names_changed_offline_wait_for_the_next_mount(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount("offline=always")
    changed(mounted)
    leave(mounted)
    mounted = town.mount("offline=always")
    assert tree(mounted.path) == AFTERWARDS
    leave(mounted)
    town.back()
    arrives(town, town.mount(), AFTERWARDS)


def test_names_changed_offline_survive_kill(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    changed(mounted)
    kill(mounted)
    mounted = town.mount()
    assert tree(mounted.path) == AFTERWARDS
    kill(mounted)
    town.back()
    arrives(town, town.mount("cache_size=0"), AFTERWARDS)


def kill(mounted: Mounted) -> None:
    for daemon in daemons_of(mounted):
        os.kill(daemon, signal.SIGKILL)
    until(lambda: not daemons_of(mounted))
    subprocess.run(["umount", "-l", str(mounted.path)], check=True)


def test_names_changed_offline_are_brought_by_recover(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount("offline=always")
    changed(mounted)
    leave(mounted)
    town.back()
    done = town.command(mounted, "recover")
    assert (done.returncode, done.stdout) == (0, "")
    assert tree(town.root) == AFTERWARDS


def test_running_mount_changes_names_when_its_server_leaves(town: Town) -> None:
    town.look(FILES_THERE)
    mounted = town.mount()
    assert tree(mounted.path) == {**dict.fromkeys(["sub", "sub/deep"]), **FILES_THERE}
    town.stop()
    changed(mounted)
    town.back()
    arrives(town, mounted, AFTERWARDS)


def test_name_that_is_not_known_is_not_changed_offline(town: Town) -> None:
    town.write("unseen/x", b"x")
    town.write("seen/y", b"y")
    mounted = town.mount()
    os.listdir(mounted.path)
    os.listdir(mounted.path / "seen")
    leave(mounted)
    town.stop()
    here = town.mount().path
    fails_at_once((here / "unseen/x").unlink)
    fails_at_once((here / "unseen/new").mkdir)
    fails_at_once((here / "unseen").rmdir)
    fails_at_once(lambda: (here / "seen/y").rename(here / "unseen/y"))
    with pytest.raises(FileNotFoundError):
        (here / "seen/none").unlink()
    with pytest.raises(FileExistsError):
        (here / "seen").mkdir()
    with pytest.raises(OSError, match="not empty"):
        (here / "seen").rmdir()
    (here / "unseen").rename(here / "moved")  # one command, whatever is in it
    fails_at_once(lambda: os.listdir(here / "moved"))
    town.back()
    until(lambda: tree(town.root) == {"seen": None, "seen/y": b"y", "moved": None, "moved/x": b"x"})


def test_open_files_are_deleted_and_replaced_offline(town: Town, fuse_binding: str) -> None:
    files = {name: name.encode() * 100_000 for name in ("gone", "old", "new", "sub/moved")}
    town.look(files)
    town.stop()
    mounted = town.mount(binding=fuse_binding)
    here = mounted.path
    readers = {name: (here / name).open("rb") for name in ("gone", "old", "sub/moved")}
    (here / "gone").unlink()
    (here / "new").rename(here / "old")
    (here / "sub").rename(here / "folder")
    for name, reader in readers.items():
        assert reader.read(1000) == files[name][:1000]
    assert sorted(os.listdir(here)) == ["folder", "old"]
    for name, reader in readers.items():
        assert reader.read() == files[name][1000:]
        reader.close()
    town.back()
    arrives(
        town,
        mounted,
        {"old": files["new"], "folder": None, "folder/moved": files["sub/moved"]},
    )


def test_day_of_work_offline_arrives(town: Town) -> None:
    """200 files written, 20 renamed, 10 deleted, and a tree made, while the server is away."""
    there = {f"old/f{number}": f"{number}".encode() * 50 for number in range(60)}
    town.look(there)
    town.stop()
    mounted = town.mount()
    here = mounted.path
    expected: dict[str, bytes | None] = {"old": None, **there}
    for number in range(200):
        name = f"old/new{number}"
        expected[name] = data = f"new {number}".encode() * 100
        (here / name).write_bytes(data)
    for number in range(20):
        (here / f"old/f{number}").rename(here / f"renamed{number}")
        expected[f"renamed{number}"] = expected.pop(f"old/f{number}")
    for number in range(20, 30):
        (here / f"old/f{number}").unlink()
        del expected[f"old/f{number}"]
    for folder in ("tree", "tree/one", "tree/one/deep", "tree/two"):
        (here / folder).mkdir()
        (here / folder / "leaf").write_bytes(folder.encode())
        expected |= {folder: None, f"{folder}/leaf": folder.encode()}
    assert tree(here) == expected
    town.back()
    arrives(town, mounted, expected)


def test_repository_is_worked_in_offline(town: Town, tmp_path: Path) -> None:
    """git makes lock files, renames them over what is on the server, and makes folders."""
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "--quiet", "-b", "main")
    for number in range(5):
        (origin / f"f{number}").write_text(f"{number}\n" * 50)
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "-m", "first")
    files = {
        f"repo/{path.relative_to(origin)}": path.read_bytes()
        for path in origin.rglob("*")
        if path.is_file()
    }
    for folder in (path for path in origin.rglob("*") if path.is_dir()):
        (town.root / "repo" / folder.relative_to(origin)).mkdir(parents=True, exist_ok=True)
    town.look(files)
    town.own()
    town.stop()
    mounted = town.mount()
    repo = mounted.path / "repo"
    for path in repo.rglob("*"):
        path.lstat()
    git(repo, "mv", "f0", "moved")
    git(repo, "rm", "--quiet", "f1")
    (repo / "folder").mkdir()
    (repo / "folder/new").write_text("new")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "-m", "second")
    git(repo, "checkout", "--quiet", "-b", "branch")
    git(repo, "branch", "-m", "branch", "other")
    (mounted.path / "fresh").mkdir()
    git(mounted.path / "fresh", "init", "--quiet", "-b", "main")
    (mounted.path / "fresh/file").write_text("fresh")
    git(mounted.path / "fresh", "add", "--all")
    git(mounted.path / "fresh", "commit", "--quiet", "-m", "fresh")
    assert git(repo, "status", "--porcelain") == ""
    shown = tree(mounted.path)
    town.back()
    arrives(town, mounted, shown)
    assert git(town.root / "repo", "log", "--format=%s").split() == ["second", "first"]
    assert git(town.root / "repo", "fsck") == ""
    assert git(town.root / "fresh", "log", "--format=%s").split() == ["fresh"]
    assert not list(town.root.rglob("*.lock"))


def git(place: Path, *words: str) -> str:
    safe = ("-c", "safe.directory=*", "-c", "user.name=me", "-c", "user.email=me@example.org")
    done = subprocess.run(
        ["git", *safe, "-C", str(place), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_that_others_changed_meanwhile_stay_theirs(town: Town) -> None:
    files = {name: name.encode() * 5 for name in ("a", "b", "c", "d", "full/x")}
    town.look(files)
    town.stop()
    mounted = town.mount()
    here = mounted.path
    (here / "a").unlink()
    (here / "b").rename(here / "c")
    (here / "d").rename(here / "new")
    (here / "full/x").unlink()
    (here / "full").rmdir()
    (here / "fine").mkdir()
    town.write("a", b"their a", mtime=OLD + 9)
    town.write("c", b"their c", mtime=OLD + 9)
    town.write("new", b"their new")
    town.write("full/theirs", b"theirs")
    town.back()
    expected: dict[str, bytes | None] = {
        "a": b"their a",
        "b": files["b"],
        "c": b"their c",
        "d": files["d"],
        "new": b"their new",
        "full": None,
        "full/theirs": b"theirs",
        "fine": None,
    }
    arrives(town, mounted, expected)
    state = {"XDG_STATE_HOME": str(mounted.state)}
    told = ftpfs("status", str(here), env=state).stdout
    assert "4 changes of names, see below" in told
    for words in ("delete", "rename to /c", "rename to /new", "delete the folder"):
        assert words in told
        assert f": {words}: not done: " in mounted.log_text()
    done = ftpfs("sync", str(here), env=state)
    assert done.returncode == 1
    assert "/a: delete: not done: somebody else has changed it meanwhile" in done.stderr
    assert ftpfs("forget", str(here), env=state).returncode == 0
    assert ftpfs("sync", str(here), env=state).returncode == 0


def test_waiting_changes_are_told_and_counted(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    (mounted.path / "a").rename(mounted.path / "b")
    (mounted.path / "new").mkdir()
    (mounted.path / "new/file").write_bytes(b"file")
    state = {"XDG_STATE_HOME": str(mounted.state)}
    told = ftpfs("status", str(mounted.path), env=state).stdout
    assert "1 file, 4 bytes, 2 changes of names to go" in told
    assert "rename to /b" in told
    assert os.getxattr(mounted.path / "b", "user.ftpfs.state") == b"dirty"
    done = ftpfs("umount", "--now", str(mounted.path), env=state)
    assert "not on the server yet: 1 file, 4 bytes, 2 changes of names" in done.stderr
    until(lambda: not daemons_of(mounted))
    left = ftpfs("status", env=state).stdout
    assert "3 files wait in" in left  # a change of a name counts as one
    town.back()
    town.mount()
    until(lambda: (town.root / "new/file").exists() and (town.root / "b").exists())


@pytest.mark.parametrize("seed", range(3))
def test_kills_during_the_replay_end_in_the_same_tree(town: Town, seed: int) -> None:
    chance = random.Random(seed)
    there = {f"d{n % 4}/f{n}": f"{n}".encode() * (n + 1) for n in range(40)}
    town.look(there)
    town.stop()
    mounted = town.mount()
    here = mounted.path
    for number in range(10):
        (here / f"made{number}").mkdir()
        (here / f"d{number % 4}/f{number}").rename(here / f"made{number}/moved")
        (here / f"made{number}/written").write_bytes(b"w" * number)
    for number in range(10, 20):
        (here / f"d{number % 4}/f{number}").unlink()
    for number in range(20, 30):  # over one another
        (here / f"d{number % 4}/f{number}").rename(here / f"d{(number + 10) % 4}/f{number + 10}")
    (here / "made3").rename(here / "d0/made")
    (here / "d1").rename(here / "e")
    expected = tree(here)
    written = {path for path in expected if path.endswith("/written")}
    assert (len(expected), len(written)) == (44, 10)
    kill(mounted)
    town.back()
    for _ in range(6):
        mounted = town.mount()
        time.sleep(chance.uniform(0, 0.25))
        kill(mounted)
        if chance.random() < 0.3:
            town.stop()
            mounted = town.mount()
            shown = {str(path.relative_to(mounted.path)) for path in mounted.path.rglob("*")}
            assert shown - written == expected.keys() - written  # these are told later
            kill(mounted)
            town.back()
    mounted = town.mount()
    arrives(town, mounted, expected)
    assert "not done" not in mounted.log_text()
